//! The readiness set of one shard: which of its DSP sockets can be read or written, and when the next timer is
//! due. One epoll instance taken many events at a time, with a timerfd in it.
//!
//! Why not glommio's own sockets for DSPs: each of their reads arms a poll in the ring and each drop cancels one,
//! which for 23 calls an orchestration is more work than the calls themselves (`docs/decisions/0001`).

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::pin::Pin;

use futures_lite::AsyncRead;
use glommio::net::UnixStream;

use crate::clock::Instant;

/// Events taken from the kernel in one call: more only cost latency for the last of them.
const EVENTS_MAX: usize = 512;

/// The timerfd's own token; no socket has it.
const ALARM: u64 = u64::MAX;

/// What to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interest {
    /// Bytes to read, room to write, and the peer's end, each once per change (edge-triggered).
    ReadWrite,
}

/// What became possible on a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// There may be bytes, or the end of the stream.
    pub readable: bool,
    /// There may be room, or a connect has ended.
    pub writable: bool,
    /// The peer has closed its side, or the socket failed: read until that shows.
    pub closing: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Readiness {
    epoll: OwnedFd,
    alarm: OwnedFd,
    events: RefCell<Vec<libc::epoll_event>>,
}

impl Readiness {
    /// An empty set.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the returned descriptor is owned by nobody else.
        let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))? };
        let flags = libc::TFD_NONBLOCK | libc::TFD_CLOEXEC;
        // SAFETY: as above.
        let alarm = unsafe { owned(libc::timerfd_create(libc::CLOCK_MONOTONIC, flags))? };
        let this = Self {
            epoll,
            alarm,
            events: RefCell::new(vec![empty_event(); EVENTS_MAX]),
        };
        // Level-triggered, and never read: setting it anew clears it.
        this.control(
            libc::EPOLL_CTL_ADD,
            this.alarm.as_raw_fd(),
            libc::EPOLLIN as u32,
            ALARM,
        )?;
        Ok(this)
    }

    /// Watches `socket`; its events carry `token`. Closing the socket ends it.
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached.
    pub fn watch(&self, socket: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        let Interest::ReadWrite = interest;
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.control(
            libc::EPOLL_CTL_ADD,
            socket.as_raw_fd(),
            events.cast_unsigned(),
            token,
        )
    }

    /// Makes [`Self::wait`] return at `at`; replaces the alarm set before. `FAR_FUTURE` takes it off.
    pub fn set_alarm(&self, at: Instant) {
        let nanos = if at == Instant::FAR_FUTURE {
            0
        } else {
            at.as_nanos().max(1)
        };
        let value = libc::timespec {
            tv_sec: libc::time_t::try_from(nanos / 1_000_000_000).unwrap_or(libc::time_t::MAX),
            tv_nsec: libc::c_long::try_from(nanos % 1_000_000_000).unwrap_or(0),
        };
        let zero = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        let spec = libc::itimerspec {
            it_interval: zero,
            it_value: value,
        };
        let absolute = libc::TFD_TIMER_ABSTIME;
        // SAFETY: `spec` lives through the call and the old value is not asked for. It cannot fail: the
        // descriptor is a timerfd and the times are in range.
        unsafe {
            libc::timerfd_settime(
                self.alarm.as_raw_fd(),
                absolute,
                &raw const spec,
                std::ptr::null_mut(),
            )
        };
    }

    /// Hands what is ready now to `each`, at most `EVENTS_MAX` sockets. Returns how many events there were, the
    /// alarm among them; never waits.
    ///
    /// # Errors
    /// Never for a valid set; passed on so that a shard can end cleanly instead of spinning.
    pub fn take(&self, mut each: impl FnMut(u64, Ready)) -> io::Result<usize> {
        let mut events = self.events.borrow_mut();
        let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        // SAFETY: `events` is valid for writes of `room` entries.
        let count = unsafe { libc::epoll_wait(self.epoll.as_raw_fd(), events.as_mut_ptr(), room, 0) };
        let Ok(count) = usize::try_from(count) else {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::Interrupted {
                Ok(0)
            } else {
                Err(error)
            };
        };
        for event in &events[..count] {
            let (flags, token) = (event.events.cast_signed(), event.u64);
            if token != ALARM {
                let closing = flags & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
                let readable = closing || flags & libc::EPOLLIN != 0;
                each(
                    token,
                    Ready {
                        readable,
                        writable: flags & libc::EPOLLOUT != 0,
                        closing,
                    },
                );
            }
        }
        Ok(count)
    }

    /// Waits until [`Self::take`] has something, or the alarm rings.
    ///
    /// glommio 0.9 has no public way to poll a descriptor of one's own. A stream made from any descriptor arms a
    /// poll for reading when it is made and tries its first `recv` only after that poll has fired; on an epoll
    /// instance that `recv` fails with ENOTSOCK, which is then the sign that the set is ready. The test below
    /// notices should a later version of glommio do otherwise.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub async fn wait(&self) -> io::Result<()> {
        let duplicate = self.epoll.try_clone()?;
        // SAFETY: the stream becomes the only owner of the duplicate.
        let mut stream = unsafe { UnixStream::from_raw_fd(duplicate.into_raw_fd()) };
        let mut byte = [0];
        let _not_a_socket = poll_fn(|cx| Pin::new(&mut stream).poll_read(cx, &mut byte)).await;
        Ok(())
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, events: u32, token: u64) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives through the call.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

impl AsFd for Readiness {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }
}

/// # Safety
/// `fd` must be a descriptor that nobody else owns, or negative with `errno` set.
unsafe fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: by this function's contract.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const fn empty_event() -> libc::epoll_event {
    libc::epoll_event { events: 0, u64: 0 }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream as Pipe;
    use std::time::Duration;

    use super::*;
    use crate::clock::now;
    use crate::net::run_as_shard;

    fn taken(readiness: &Readiness) -> Vec<u64> {
        let mut tokens = Vec::new();
        readiness
            .take(|token, ready| {
                if ready.readable {
                    tokens.push(token);
                }
            })
            .unwrap();
        tokens
    }

    #[test]
    fn waits_for_bytes_and_reports_each_change_once() {
        run_as_shard(async {
            let readiness = Readiness::new().unwrap();
            let (mut near, mut far) = Pipe::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            readiness.watch(near.as_fd(), 7, Interest::ReadWrite).unwrap();
            readiness.take(|_, _| ()).unwrap();
            assert_eq!(taken(&readiness), [] as [u64; 0]);

            let started = now();
            let writer = std::thread::spawn(move || {
                std::thread::park_timeout(Duration::from_millis(30));
                far.write_all(b"hello").unwrap();
                far
            });
            readiness.wait().await.unwrap();
            assert!(
                now().since(started) >= Duration::from_millis(25),
                "it waited for the bytes"
            );
            assert_eq!(taken(&readiness), [7]);
            assert_eq!(taken(&readiness), [] as [u64; 0], "edge-triggered");
            let mut buffer = [0; 16];
            assert_eq!(near.read(&mut buffer).unwrap(), 5);

            drop(writer.join().unwrap());
            readiness.wait().await.unwrap();
            let mut closing = Vec::new();
            readiness
                .take(|token, ready| closing.push((token, ready.closing)))
                .unwrap();
            assert_eq!(closing, [(7, true)]);
        });
    }

    #[test]
    fn the_alarm_ends_the_wait_at_its_time_and_not_before() {
        run_as_shard(async {
            let readiness = Readiness::new().unwrap();
            for _ in 0..3 {
                let due = now().after(Duration::from_millis(20));
                readiness.set_alarm(due);
                readiness.wait().await.unwrap();
                let late = now().since(due);
                assert!(now() >= due);
                assert!(late < Duration::from_millis(200), "{late:?}");
                assert_eq!(readiness.take(|_, _| ()).unwrap(), 1);
                readiness.set_alarm(Instant::FAR_FUTURE);
                assert_eq!(readiness.take(|_, _| ()).unwrap(), 0, "taken off");
            }
        });
    }

    #[test]
    fn waiting_leaks_no_descriptor() {
        let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
        run_as_shard(async {
            let readiness = Readiness::new().unwrap();
            let before = open();
            for _ in 0..100 {
                readiness.set_alarm(now());
                readiness.wait().await.unwrap();
            }
            // Other tests open and close descriptors meanwhile; a leak would be a hundred.
            assert!(open() < before + 50);
        });
    }
}
