//! Reads from a socket together with the time at which the kernel received the bytes. How long they lay there before
//! anybody read them is part of what their sender waits; the kernel alone knows.

use std::io;
use std::mem::{MaybeUninit, size_of};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

/// Room for one stamp: its header has 16 bytes, the time as many. Aligned as control messages are.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Has the kernel stamp what it receives for this socket. Costs it some 30 ns for each packet of the host.
pub(super) fn stamp_arrivals(socket: impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let length = libc::socklen_t::try_from(size_of::<libc::c_int>()).unwrap_or(0);
    // SAFETY: `on` lives through the call and has the length given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPNS,
            (&raw const on).cast(),
            length,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Reads at most as many bytes as there is room for. With it comes the wall clock's time at which the last of them were
/// received, as time since the Unix epoch; none at the stream's end, and for what came before [`stamp_arrivals`].
///
/// What lies unread the kernel puts together, up to 17 packets, and keeps the stamp of the last. Of a bid request each millisecond
/// the first then seems to have come 17 ms later than it did: stamps are good as far as sockets are read soon.
pub(super) fn receive(
    socket: impl AsFd,
    into: &mut [MaybeUninit<u8>],
) -> io::Result<(usize, Option<Duration>)> {
    let mut room = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let mut control = Control([0; 64]);
    // SAFETY: all of it is numbers and pointers, for which zero is a value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut room;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    // SAFETY: the message names `into` and `control` with their lengths; both live through the call.
    let count = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, 0) };
    match usize::try_from(count) {
        Ok(count) => Ok((count, stamp(&message))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

fn stamp(message: &libc::msghdr) -> Option<Duration> {
    // SAFETY: the kernel has filled the control buffer, which `message` names and the caller still has.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref()? };
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_SOCKET, libc::SO_TIMESTAMPNS) {
        return None;
    }
    // SAFETY: what follows a header of this type is a timespec, not necessarily aligned.
    let time = unsafe { libc::CMSG_DATA(header).cast::<libc::timespec>().read_unaligned() };
    Some(Duration::new(
        u64::try_from(time.tv_sec).ok()?,
        u32::try_from(time.tv_nsec).ok()?,
    ))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use socket2::Socket;

    use super::*;
    use crate::clock::since_unix_epoch;

    #[test]
    fn says_when_the_kernel_had_the_bytes_and_not_when_they_were_read() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = Socket::from(listener.accept().unwrap().0);
        near.set_nonblocking(true).unwrap();
        stamp_arrivals(&near).unwrap();
        let mut room = [MaybeUninit::uninit(); 4];
        // The kernel begins to stamp a moment after the first socket of the host wants it.
        loop {
            far.write_all(b"x").unwrap();
            if receive(&near, &mut room).unwrap().1.is_some() {
                break;
            }
            thread::park_timeout(Duration::from_millis(1));
        }

        let before = since_unix_epoch();
        far.write_all(b"123456").unwrap();
        let sent = since_unix_epoch();
        thread::park_timeout(Duration::from_millis(30));
        // Bytes of one packet, read at two times: both say when it came.
        for expected in [4, 2] {
            let (count, received) = receive(&near, &mut room).unwrap();
            let received = received.unwrap();
            assert_eq!(count, expected);
            assert!(
                received >= before && received <= sent,
                "{before:?} {received:?} {sent:?}"
            );
        }
        let nothing = receive(&near, &mut room).unwrap_err();
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        drop(far);
        assert_eq!(receive(&near, &mut room).unwrap(), (0, None));
    }
}
