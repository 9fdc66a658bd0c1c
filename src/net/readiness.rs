//! The readiness set of one shard: which of its sockets can be read or written. One epoll instance, taken many events at
//! a time, in which the shard also sleeps until its next timer is due.
//!
//! Why not glommio's own sockets: each of their reads arms a poll in the ring and each drop cancels one, which for 23
//! calls an orchestration is more work than the calls themselves (`docs/decisions/0001`).

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use slab::Slab;

use super::shard_fd::ShardFd;
use crate::clock::{self, Instant};

/// Events taken from the kernel in one call: more only cost latency for the last of them.
const EVENTS_MAX: usize = 512;

/// In the token of a socket that a task waits for; see [`Readiness::join`].
const FOR_TASK: u64 = 1 << 63;

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
    /// It failed: there is nobody to answer any more.
    pub failed: bool,
}

/// See the module's description.
#[derive(Debug)]
pub struct Readiness {
    epoll: ShardFd,
    alarm: Cell<Instant>,
    events: RefCell<Vec<libc::epoll_event>>,
    /// How many of `events` [`Self::wait`] has found and [`Self::take`] not yet handed on.
    waiting: Cell<usize>,
    tasks: RefCell<Slab<Rc<Watched>>>,
}

impl Readiness {
    /// An empty set.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers; the returned descriptor is owned by nobody else.
        let epoll = unsafe { owned(libc::epoll_create1(libc::EPOLL_CLOEXEC))? };
        Ok(Self {
            epoll: ShardFd::new(epoll),
            alarm: Cell::new(Instant::FAR_FUTURE),
            events: RefCell::new(vec![empty_event(); EVENTS_MAX]),
            waiting: Cell::new(0),
            tasks: RefCell::default(),
        })
    }

    /// Watches `socket`; its events carry `token`, below 2^63. Closing the socket ends it.
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached.
    pub fn watch(&self, socket: BorrowedFd<'_>, token: u64, interest: Interest) -> io::Result<()> {
        debug_assert_eq!(token & FOR_TASK, 0);
        let Interest::ReadWrite = interest;
        self.add(socket.as_raw_fd(), token)
    }

    /// Watches `socket` on behalf of tasks, which wait with what is returned.
    ///
    /// # Errors
    /// As [`Self::watch`].
    pub fn join(self: &Rc<Self>, socket: BorrowedFd<'_>) -> io::Result<Watch> {
        let watched = Rc::new(Watched::default());
        let key = self.tasks.borrow_mut().insert(Rc::clone(&watched));
        let watch = Watch {
            readiness: Rc::clone(self),
            key,
            watched,
        };
        self.add(socket.as_raw_fd(), FOR_TASK | key as u64)?;
        Ok(watch)
    }

    /// Ends the watch of a socket that stays open, because somebody else has it as well.
    ///
    /// # Errors
    /// When it is not in the set.
    pub(super) fn leave(&self, socket: BorrowedFd<'_>) -> io::Result<()> {
        self.epoll.with(|epoll| {
            // SAFETY: for this operation the kernel looks at no event.
            let left = unsafe {
                libc::epoll_ctl(
                    epoll.as_raw_fd(),
                    libc::EPOLL_CTL_DEL,
                    socket.as_raw_fd(),
                    std::ptr::null_mut(),
                )
            };
            match left {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }

    /// Ends [`Self::wait`] at `at`; replaces the alarm set before. `FAR_FUTURE` takes it off.
    pub fn set_alarm(&self, at: Instant) {
        self.alarm.set(at);
    }

    /// Sleeps, and the whole shard with it, until there is something to take or the alarm's time has come; returns at once
    /// if there is.
    ///
    /// # Errors
    /// Never for a valid set; passed on so that a shard can end cleanly instead of spinning.
    pub fn wait(&self) -> io::Result<()> {
        let alarm = self.alarm.get();
        let time = (alarm != Instant::FAR_FUTURE).then(|| alarm.since(clock::now()));
        self.fill(time)
    }

    /// Hands what is ready now to `each`, at most `EVENTS_MAX` sockets, and wakes the tasks that wait for theirs. Never
    /// waits.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn take(&self, mut each: impl FnMut(u64, Ready)) -> io::Result<()> {
        if self.waiting.get() == 0 {
            self.fill(Some(Duration::ZERO))?;
        }
        let count = self.waiting.replace(0);
        for event in &self.events.borrow()[..count] {
            let (flags, token) = (event.events.cast_signed(), event.u64);
            let closing = flags & (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) != 0;
            let ready = Ready {
                readable: closing || flags & libc::EPOLLIN != 0,
                writable: closing || flags & libc::EPOLLOUT != 0,
                closing,
                failed: flags & libc::EPOLLERR != 0,
            };
            if token & FOR_TASK == 0 {
                each(token, ready);
            } else {
                self.wake((token & !FOR_TASK) as usize, ready);
            }
        }
        Ok(())
    }

    /// The event may be one for a socket that is gone, and its place another's: that one then tries in vain.
    fn wake(&self, key: usize, ready: Ready) {
        let watched = self.tasks.borrow().get(key).cloned();
        if let Some(watched) = watched {
            watched.on_ready(ready);
        }
    }

    fn fill(&self, time: Option<Duration>) -> io::Result<()> {
        if self.waiting.get() > 0 {
            return Ok(());
        }
        let mut events = self.events.borrow_mut();
        let room = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        let time = time.map(timespec);
        let time_pointer = time.as_ref().map_or(std::ptr::null(), std::ptr::from_ref);
        let count = self.epoll.with(|epoll| {
            // SAFETY: `events` is valid for writes of `room` entries, the time lives through the call, and no signal
            // mask is given. Not libc's function of that name: older glibc than the kernel have none.
            Ok(unsafe {
                libc::syscall(
                    libc::SYS_epoll_pwait2,
                    epoll.as_raw_fd(),
                    events.as_mut_ptr(),
                    room,
                    time_pointer,
                    std::ptr::null::<libc::sigset_t>(),
                    0_usize,
                )
            })
        })?;
        match usize::try_from(count) {
            Ok(count) => self.waiting.set(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let events = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        let mut event = libc::epoll_event {
            events: events.cast_unsigned(),
            u64: token,
        };
        self.epoll.with(|epoll| {
            // SAFETY: `event` lives through the call.
            match unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, fd, &raw mut event) } {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            }
        })
    }
}

/// A socket in the set that tasks wait for: one to read it and one to write. To be dropped with its socket.
#[derive(Debug)]
pub struct Watch {
    readiness: Rc<Readiness>,
    key: usize,
    watched: Rc<Watched>,
}

/// What is known of such a socket.
#[derive(Debug)]
struct Watched {
    readable: Cell<bool>,
    writable: Cell<bool>,
    closing: Cell<bool>,
    failed: Cell<bool>,
    reads: RefCell<Option<Waker>>,
    writes: RefCell<Option<Waker>>,
    hears_failure: RefCell<Option<Waker>>,
}

impl Default for Watched {
    /// Nothing has been tried yet, so all of it may succeed.
    fn default() -> Self {
        Self {
            readable: Cell::new(true),
            writable: Cell::new(true),
            closing: Cell::new(false),
            failed: Cell::new(false),
            reads: RefCell::default(),
            writes: RefCell::default(),
            hears_failure: RefCell::default(),
        }
    }
}

impl Watched {
    fn on_ready(&self, ready: Ready) {
        if ready.closing {
            self.closing.set(true);
        }
        if ready.failed {
            self.failed.set(true);
            wake(&self.hears_failure);
        }
        if ready.readable {
            self.readable.set(true);
            wake(&self.reads);
        }
        if ready.writable {
            self.writable.set(true);
            wake(&self.writes);
        }
    }
}

fn wake(waiting: &RefCell<Option<Waker>>) {
    if let Some(waker) = waiting.take() {
        waker.wake();
    }
}

impl Watch {
    /// Ready when there may be bytes to read, a connection to accept, or the end.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll(&self.watched.readable, &self.watched.reads, cx)
    }

    /// Ready when there may be room to write.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll(&self.watched.writable, &self.watched.writes, cx)
    }

    /// There was nothing more to read: be told when there is again.
    pub fn has_been_read(&self) {
        self.watched.readable.set(false);
    }

    /// There was no more room: be told when there is again.
    pub fn is_full(&self) {
        self.watched.writable.set(false);
    }

    /// The peer has closed its side or the connection failed. No more events will come, so read on until it shows.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.watched.closing.get()
    }

    /// For who has to know when the connection fails, whoever reads and writes it.
    #[must_use]
    pub fn failure(&self) -> Failure {
        Failure(Rc::clone(&self.watched))
    }
}

/// Whether a connection has failed: reset, or nobody there any more. Not its orderly end, after which it can still be
/// written.
#[derive(Debug)]
pub struct Failure(Rc<Watched>);

impl Failure {
    /// Ready once it has. For one task only.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        poll(&self.0.failed, &self.0.hears_failure, cx)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.readiness.tasks.borrow_mut().try_remove(self.key);
    }
}

fn poll(possible: &Cell<bool>, waits: &RefCell<Option<Waker>>, cx: &mut Context<'_>) -> Poll<()> {
    if possible.get() {
        return Poll::Ready(());
    }
    match &mut *waits.borrow_mut() {
        Some(waker) => waker.clone_from(cx.waker()),
        empty => *empty = Some(cx.waker().clone()),
    }
    Poll::Pending
}

/// Has this thread's sleeps end when they should: by default the kernel may add 50 us, a tenth of an epoch.
pub fn sleep_precisely() {
    // SAFETY: no pointers. It cannot fail for this thread.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1) };
}

fn timespec(time: Duration) -> libc::timespec {
    libc::timespec {
        tv_sec: libc::time_t::try_from(time.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_nsec: libc::c_long::from(time.subsec_nanos().cast_signed()),
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
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream as Pipe;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;
    use crate::clock::now;

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

    fn pipe() -> (Pipe, Pipe) {
        let (near, far) = Pipe::pair().unwrap();
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    #[test]
    fn waits_for_bytes_and_reports_each_change_once() {
        let readiness = Readiness::new().unwrap();
        let (mut near, mut far) = pipe();
        readiness.watch(near.as_fd(), 7, Interest::ReadWrite).unwrap();
        readiness.take(|_, _| ()).unwrap();
        assert_eq!(taken(&readiness), [] as [u64; 0]);

        let started = now();
        let writer = std::thread::spawn(move || {
            std::thread::park_timeout(Duration::from_millis(30));
            far.write_all(b"hello").unwrap();
            far
        });
        readiness.wait().unwrap();
        assert!(
            now().since(started) >= Duration::from_millis(25),
            "it waited for the bytes"
        );
        readiness.wait().unwrap();
        assert_eq!(
            taken(&readiness),
            [7],
            "what one wait found is not lost to another"
        );
        assert_eq!(taken(&readiness), [] as [u64; 0], "edge-triggered");
        let mut buffer = [0; 16];
        assert_eq!(near.read(&mut buffer).unwrap(), 5);

        drop(writer.join().unwrap());
        readiness.wait().unwrap();
        let mut closing = Vec::new();
        readiness
            .take(|token, ready| closing.push((token, ready.closing)))
            .unwrap();
        assert_eq!(closing, [(7, true)]);
    }

    #[test]
    fn the_alarm_ends_the_wait_at_its_time_and_not_before() {
        sleep_precisely();
        let readiness = Readiness::new().unwrap();
        let mut late = Vec::new();
        for _ in 0..20 {
            let due = now().after(Duration::from_micros(500));
            readiness.set_alarm(due);
            readiness.wait().unwrap();
            assert!(now() >= due);
            late.push(now().since(due));
            readiness.take(|_, _| unreachable!("no socket")).unwrap();
        }
        late.sort_unstable();
        // The median: others may have the machine for a while.
        assert!(late[10] < Duration::from_millis(5), "{:?}", late[10]);
        readiness.set_alarm(now());
        readiness.wait().unwrap();
    }

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_the_task_that_waits_and_leaves_nothing_behind() {
        let readiness = Rc::new(Readiness::new().unwrap());
        let (near, mut far) = pipe();
        let watch = readiness.join(near.as_fd()).unwrap();
        let woken = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);

        assert!(watch.poll_readable(&mut cx).is_ready(), "nothing was tried yet");
        watch.has_been_read();
        readiness.take(|_, _| unreachable!("no token")).unwrap();
        assert!(watch.poll_readable(&mut cx).is_pending());
        assert!(watch.poll_writable(&mut cx).is_ready());

        far.write_all(b"hello").unwrap();
        readiness.take(|_, _| unreachable!("no token")).unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(watch.poll_readable(&mut cx).is_ready());
        assert!(!watch.is_closing());

        watch.has_been_read();
        drop(far);
        readiness.take(|_, _| unreachable!("no token")).unwrap();
        assert!(watch.poll_readable(&mut cx).is_ready());
        assert!(watch.is_closing());

        drop(watch);
        assert!(readiness.tasks.borrow().is_empty());
        drop(near);
        readiness.take(|_, _| unreachable!("no token")).unwrap();
    }
}
