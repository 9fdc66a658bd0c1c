//! Descriptors that are closed with their shard, whatever becomes of the tasks that hold them.
//!
//! A shard that a panic takes down leaves its tasks behind: each holds the timers that hold its waker, so none is ever
//! dropped, and neither is its socket. Its peer would wait for somebody who is gone, and the descriptor would be lost to
//! the process. So a task does not own its socket alone: the thread can take it away.

use std::cell::RefCell;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use slab::Slab;

thread_local! {
    /// All that are open on this thread.
    static OPEN: RefCell<Slab<Rc<Slot>>> = const { RefCell::new(Slab::new()) };
}

/// `None` once the thread has taken it away.
type Slot = RefCell<Option<OwnedFd>>;

/// A descriptor of this thread: closed when dropped, or by [`close_all`].
#[derive(Debug)]
pub(super) struct ShardFd {
    slot: Rc<Slot>,
    key: usize,
}

impl ShardFd {
    pub(super) fn new(fd: OwnedFd) -> Self {
        let slot = Rc::new(RefCell::new(Some(fd)));
        let key = OPEN.with_borrow_mut(|open| open.insert(Rc::clone(&slot)));
        Self { slot, key }
    }

    /// Does something with it; `EBADF` once it was taken away, which nobody on a shard that runs ever sees.
    pub(super) fn with<R>(&self, does: impl FnOnce(BorrowedFd<'_>) -> io::Result<R>) -> io::Result<R> {
        match &*self.slot.borrow() {
            Some(fd) => does(fd.as_fd()),
            None => Err(io::Error::from_raw_os_error(libc::EBADF)),
        }
    }
}

impl Drop for ShardFd {
    fn drop(&mut self) {
        // Taken away, or the thread itself is all but gone: the key may be another's, or nobody's.
        if let Some(fd) = self.slot.take() {
            let _thread_ends = OPEN.try_with(|open| open.borrow_mut().try_remove(self.key));
            drop(fd);
        }
    }
}

/// Closes all that are still open on this thread, and says how many there were. Whoever held one finds it gone.
///
/// Closing a number that somebody still has would be a way to close another's socket later. This is none: what is held
/// is a slot, and it is empty from now on.
pub fn close_all() -> usize {
    let open = OPEN.with_borrow_mut(std::mem::take);
    open.iter().filter(|(_, slot)| slot.take().is_some()).count()
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pair() -> (UnixStream, ShardFd) {
        let (far, near) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (far, ShardFd::new(near.into()))
    }

    fn is_closed(mut far: &UnixStream) -> bool {
        matches!(far.read(&mut [0]), Ok(0))
    }

    fn is_there(fd: &ShardFd) -> bool {
        fd.with(|_| Ok(())).is_ok()
    }

    #[test]
    fn closed_by_whoever_comes_first_and_only_once() {
        let (dropped_far, dropped) = pair();
        let (leaked_far, leaked) = pair();
        let (late_far, late) = pair();
        drop(dropped);
        assert!(is_closed(&dropped_far) && !is_closed(&leaked_far));
        std::mem::forget(leaked);
        assert_eq!(close_all(), 2);
        assert!(is_closed(&leaked_far) && is_closed(&late_far));
        assert!(!is_there(&late));

        // Its key, and perhaps its number, is another's now.
        let (next_far, next) = pair();
        drop(late);
        assert!(is_there(&next) && !is_closed(&next_far));
        assert_eq!(close_all(), 1);
        assert_eq!(close_all(), 0);
    }

    #[test]
    fn one_that_outlives_its_thread_does_no_harm() {
        thread_local! {
            static LATE: RefCell<Option<ShardFd>> = const { RefCell::new(None) };
        }
        let far = std::thread::spawn(|| {
            // Made first, so that it is dropped when the table of open ones is gone, or before: either way.
            LATE.with_borrow(Option::is_none);
            let (far, near) = pair();
            LATE.set(Some(near));
            close_all();
            far
        });
        assert!(is_closed(&far.join().unwrap()));
    }
}
