//! A passage between two processes of this host for short messages, each with a descriptor or none. Knows nothing of
//! what is said.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, Type};

/// A message's text: a line, or all that is wrong with a configuration. What is longer is cut off.
const TEXT_BYTES_MAX: usize = 16 << 10;

/// Of one descriptor's number, as C counts it.
const DESCRIPTOR_BYTES: libc::c_uint = 4;
const _: () = assert!(size_of::<RawFd>() == DESCRIPTOR_BYTES as usize);

/// A control message with one descriptor: its header and the number, with room to spare.
const CONTROL_BYTES: usize = 64;

/// Aligned as the kernel's headers in it are.
#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// One end of a passage: a unix socket that keeps messages apart (`SOCK_SEQPACKET`).
#[derive(Debug)]
pub struct Passage(Socket);

/// What has come through it.
#[derive(Debug)]
pub struct Message {
    /// What was said.
    pub text: String,
    /// What came with it.
    pub descriptor: Option<OwnedFd>,
}

impl Passage {
    /// A passage, and its other end: to be the standard input of a process that is started.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<(Self, OwnedFd)> {
        let (near, far) = Socket::pair(Domain::UNIX, Type::SEQPACKET.cloexec(), None)?;
        Ok((Self(near), far.into()))
    }

    /// The end that this process was started with as its standard input, which is `/dev/null` from then on.
    ///
    /// # Errors
    /// When standard input is no such thing.
    pub fn from_stdin() -> io::Result<Self> {
        let stdin = io::stdin();
        let socket = Socket::from(stdin.as_fd().try_clone_to_owned()?);
        if socket.r#type()? != Type::SEQPACKET {
            return Err(io::Error::other(
                "standard input is not a passage from another process",
            ));
        }
        let null = std::fs::File::open("/dev/null")?;
        // SAFETY: no pointers; both are open, and the standard library holds standard input by its number only.
        if unsafe { libc::dup2(null.as_raw_fd(), stdin.as_raw_fd()) } < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self(socket))
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the other end is closed.
    pub fn send(&self, text: &str, descriptor: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let cut = (0..=text.len().min(TEXT_BYTES_MAX))
            .rev()
            .find(|&at| text.is_char_boundary(at));
        let text = &text[..cut.unwrap_or(0)];
        let mut control = Control([0; CONTROL_BYTES]);
        let mut part = libc::iovec {
            iov_base: text.as_ptr().cast_mut().cast(),
            iov_len: text.len(),
        };
        let mut message = header(&mut part, &mut control);
        match descriptor {
            None => message.msg_controllen = 0,
            // SAFETY: there is room for one descriptor in what `message` points to, and it is aligned.
            Some(descriptor) => unsafe {
                message.msg_controllen = libc::CMSG_SPACE(DESCRIPTOR_BYTES) as _;
                let first = libc::CMSG_FIRSTHDR(&raw const message);
                (*first).cmsg_level = libc::SOL_SOCKET;
                (*first).cmsg_type = libc::SCM_RIGHTS;
                (*first).cmsg_len = libc::CMSG_LEN(DESCRIPTOR_BYTES) as _;
                libc::CMSG_DATA(first)
                    .cast::<RawFd>()
                    .write_unaligned(descriptor.as_raw_fd());
            },
        }
        // SAFETY: all that `message` points to lives through the call; the text is only read.
        uninterrupted(|| unsafe { libc::sendmsg(self.0.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) })
            .map(drop)
    }

    /// Waits for the next message; `None` when the other end is closed.
    ///
    /// # Errors
    /// `WouldBlock` when none has come within `patience`.
    pub fn receive(&self, patience: Duration) -> io::Result<Option<Message>> {
        // Zero would be for ever.
        self.0
            .set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        let mut text = vec![0; TEXT_BYTES_MAX];
        let mut control = Control([0; CONTROL_BYTES]);
        let mut part = libc::iovec {
            iov_base: text.as_mut_ptr().cast(),
            iov_len: text.len(),
        };
        let mut message = header(&mut part, &mut control);
        // SAFETY: all that `message` points to is ours to write and lives through the call.
        let received = uninterrupted(|| unsafe {
            libc::recvmsg(self.0.as_raw_fd(), &raw mut message, libc::MSG_CMSG_CLOEXEC)
        })?;
        // SAFETY: the kernel has written `message` and what it points to.
        let descriptor = unsafe { descriptor_of(&message) };
        text.truncate(received);
        if received == 0 && descriptor.is_none() {
            return Ok(None);
        }
        let text = String::from_utf8(text).map_err(|_| io::Error::other("a message that is not text"))?;
        Ok(Some(Message { text, descriptor }))
    }

    /// The same end once more: to close it while somebody waits at the other.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Closes it for all who have this end: whoever waits on either side goes on.
    pub fn close(&self) {
        // The other side may have done it.
        let _closed_already = SockRef::from(&self.0).shutdown(std::net::Shutdown::Both);
    }
}

fn header(part: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: a header of zeros is one without a name, parts or control messages.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = CONTROL_BYTES as _;
    message
}

/// # Safety
/// `message` must be as `recvmsg` has left it.
unsafe fn descriptor_of(message: &libc::msghdr) -> Option<OwnedFd> {
    // SAFETY: by this function's contract. Our own peer sends one descriptor in one message; the kernel closes those for
    // which there is no room.
    unsafe {
        let first = libc::CMSG_FIRSTHDR(message);
        if first.is_null()
            || ((*first).cmsg_level, (*first).cmsg_type) != (libc::SOL_SOCKET, libc::SCM_RIGHTS)
        {
            return None;
        }
        let descriptor = libc::CMSG_DATA(first).cast::<RawFd>().read_unaligned();
        Some(OwnedFd::from_raw_fd(descriptor))
    }
}

fn uninterrupted(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        match usize::try_from(call()) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);

    fn pair() -> (Passage, Passage) {
        let (near, far) = Passage::new().unwrap();
        (near, Passage(far.into()))
    }

    #[test]
    fn messages_stay_apart_and_descriptors_are_the_same_sockets() {
        let (near, far) = pair();
        let (mut outside, inside) = UnixStream::pair().unwrap();
        near.send("first", None).unwrap();
        near.send("second", Some(inside.as_fd())).unwrap();
        drop(inside);
        let first = far.receive(PATIENCE).unwrap().unwrap();
        assert_eq!((first.text.as_str(), first.descriptor.is_none()), ("first", true));
        let second = far.receive(PATIENCE).unwrap().unwrap();
        assert_eq!(second.text, "second");
        let mut inside = UnixStream::from(second.descriptor.unwrap());
        outside.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        inside.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        // What is not for a process that this one may start is not left to it.
        // SAFETY: no pointers.
        let flags = unsafe { libc::fcntl(inside.as_raw_fd(), libc::F_GETFD) };
        assert_ne!(flags & libc::FD_CLOEXEC, 0);
    }

    #[test]
    fn what_is_too_long_is_cut_off_between_characters() {
        let (near, far) = pair();
        let long = format!("x{}", "é".repeat(TEXT_BYTES_MAX / 2));
        near.send(&long, None).unwrap();
        let text = far.receive(PATIENCE).unwrap().unwrap().text;
        assert_eq!(text.len(), TEXT_BYTES_MAX - 1);
        assert!(long.starts_with(&text));
    }

    #[test]
    fn waits_for_so_long_and_hears_the_end() {
        let (near, far) = pair();
        let error = far.receive(Duration::ZERO).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
        let waits = far.try_clone().unwrap();
        let waiter = std::thread::spawn(move || waits.receive(PATIENCE));
        drop(near);
        assert!(waiter.join().unwrap().unwrap().is_none());
        assert!(far.send("anybody?", None).is_err());

        let (_near, far) = pair();
        let waits = far.try_clone().unwrap();
        let waiter = std::thread::spawn(move || waits.receive(PATIENCE));
        far.close();
        assert!(waiter.join().unwrap().unwrap().is_none());
    }
}
