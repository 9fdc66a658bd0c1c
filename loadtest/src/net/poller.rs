//! Readiness: epoll with timeouts of nanosecond resolution, and a way to wake it from another thread.
//! Level-triggered, so a loop may read once per event and come back. Needs Linux 5.11 for `epoll_pwait2`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::Duration;

/// A set of sockets and the events they last reported.
#[derive(Debug)]
pub struct Poller {
    epoll: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What to be told about a socket. Errors and hangups are always reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interest {
    /// Bytes, a connection or the peer's FIN can be read.
    pub read: bool,
    /// The send buffer has room.
    pub write: bool,
}

/// One event.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// The token the socket was added with.
    pub token: u64,
    /// A read will not block; also true on errors, which the read then reports.
    pub read: bool,
    /// A write will not block; also true on errors.
    pub write: bool,
    /// The peer reset the connection or both directions are shut.
    pub hangup: bool,
}

impl Interest {
    /// Only reading: what a connection wants unless its send buffer is full.
    pub const READ: Self = Self {
        read: true,
        write: false,
    };

    fn bits(self) -> u32 {
        let read = if self.read { libc::EPOLLIN } else { 0 };
        let write = if self.write { libc::EPOLLOUT } else { 0 };
        (read | write).cast_unsigned()
    }
}

impl Poller {
    /// A poller that takes up to `events_max` events per wait.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new(events_max: usize) -> io::Result<Self> {
        // SAFETY: takes a flag, returns a descriptor that nobody else owns, or -1.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: `fd` is the descriptor just created, owned by nobody yet.
        let epoll = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            epoll,
            events: Vec::with_capacity(events_max.max(1)),
        })
    }

    /// Starts watching a socket. Closing it ends that.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`: already added, or out of kernel memory.
    pub fn add(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, interest)
    }

    /// Replaces token and interest of a socket that was added.
    ///
    /// # Errors
    /// As `epoll_ctl(2)`: never added.
    pub fn change(&self, fd: &impl AsFd, token: u64, interest: Interest) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, interest)
    }

    /// Waits for events, no longer than `timeout`, and returns how many there are: 0 on timeout or on a
    /// signal.
    ///
    /// # Errors
    /// `ENOSYS` on kernels before 5.11.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        let timespec = timeout.map(|timeout| libc::timespec {
            tv_sec: libc::time_t::try_from(timeout.as_secs()).unwrap_or(libc::time_t::MAX),
            tv_nsec: timeout.subsec_nanos().into(),
        });
        self.events.clear();
        let room = libc::c_int::try_from(self.events.capacity()).unwrap_or(libc::c_int::MAX);
        // SAFETY: the kernel writes at most `room` events into the vector's buffer, which has that capacity;
        // the timeout points to a timespec that outlives the call, or is null; a null signal mask is not
        // read.
        let count = unsafe {
            libc::epoll_pwait2(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                room,
                timespec.as_ref().map_or(ptr::null(), ptr::from_ref),
                ptr::null(),
            )
        };
        let count = match checked(count) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
            count => usize::try_from(count?).unwrap_or(0),
        };
        // SAFETY: the kernel initialised the first `count` events, and `count` is at most the capacity.
        unsafe { self.events.set_len(count) };
        Ok(count)
    }

    /// Event `index` of the last wait.
    pub fn ready(&self, index: usize) -> Ready {
        let event = self.events[index];
        let has = |flags: libc::c_int| event.events & flags.cast_unsigned() != 0;
        Ready {
            token: event.u64,
            read: has(libc::EPOLLIN | libc::EPOLLERR | libc::EPOLLHUP),
            write: has(libc::EPOLLOUT | libc::EPOLLERR | libc::EPOLLHUP),
            hangup: has(libc::EPOLLERR | libc::EPOLLHUP),
        }
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: &impl AsFd,
        token: u64,
        interest: Interest,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event {
            events: interest.bits(),
            u64: token,
        };
        let fd: RawFd = fd.as_fd().as_raw_fd();
        // SAFETY: both descriptors are open, being borrowed; the event outlives the call, which only reads
        // it.
        checked(unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }
}

/// Wakes a poller from any thread: add it to the poller, keep a clone elsewhere.
#[derive(Debug)]
pub struct Waker(File);

impl Waker {
    /// A waker of its own eventfd.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: takes two integers, returns a descriptor that nobody else owns, or -1.
        let fd = checked(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) })?;
        // SAFETY: `fd` is the descriptor just created, owned by nobody yet.
        Ok(Self(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// A second handle to the same waker.
    ///
    /// # Errors
    /// When the process has no file descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.0.try_clone().map(Self)
    }

    /// Makes the poller's wait return. Waking twice before it looks is waking once.
    pub fn wake(&self) {
        // A full counter means that a wake-up is already waiting to be seen.
        let _ = (&self.0).write(&1_u64.to_ne_bytes());
    }

    /// Takes the wake-ups seen so far, so that the next wait can sleep.
    pub fn clear(&self) {
        let _ = (&self.0).read(&mut [0; 8]);
    }
}

impl AsFd for Waker {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn a_wait_times_out_within_microseconds_and_ends_at_once_when_woken() -> io::Result<()> {
        let mut poller = Poller::new(8)?;
        let waker = Waker::new()?;
        poller.add(&waker, 7, Interest::READ)?;

        let start = Instant::now();
        assert_eq!(poller.wait(Some(Duration::from_micros(300)))?, 0);
        let waited = start.elapsed();
        assert!(waited >= Duration::from_micros(300), "waited only {waited:?}");

        waker.try_clone()?.wake();
        assert_eq!(poller.wait(None)?, 1);
        assert_eq!(poller.ready(0).token, 7);
        assert!(poller.ready(0).read && !poller.ready(0).write);
        waker.clear();
        assert_eq!(poller.wait(Some(Duration::ZERO))?, 0);
        Ok(())
    }
}
