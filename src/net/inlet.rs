//! What a connection's server cannot learn from the bytes: when they were received, and how many to take at once.

use std::cell::{Cell, RefCell};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::clock::Instant;

/// Of one connection; shared by the stream that reads and whoever serves what was read.
#[derive(Debug)]
pub struct Inlet {
    received_at: Cell<Instant>,
    /// When there was last certainly nothing unread.
    emptied_at: Cell<Instant>,
    reads_max: Cell<u32>,
    reads_left: Cell<u32>,
    /// Requests that were read and not begun.
    waiting: Cell<u32>,
    /// Who waits to read on.
    reader: RefCell<Option<Waker>>,
}

/// Of one connection: so many requests and what two reads more bring may wait in our memory, each with a few kB. More wait in the
/// socket, and then at their sender's.
const WAITING_MAX: u32 = 16;

impl Default for Inlet {
    fn default() -> Self {
        Self {
            received_at: Cell::new(Instant::from_nanos(0)),
            emptied_at: Cell::new(Instant::from_nanos(0)),
            reads_max: Cell::new(u32::MAX),
            reads_left: Cell::new(u32::MAX),
            waiting: Cell::new(0),
            reader: RefCell::default(),
        }
    }
}

impl Inlet {
    /// When the kernel received what was read last. Not before the connection was last seen without unread bytes: the
    /// kernel's stamps are of the wall clock, which somebody may set meanwhile.
    #[must_use]
    pub fn received_at(&self) -> Instant {
        self.received_at.get()
    }

    /// What is served from now on counts as received now at the earliest: over HTTP/1.1 a request that was sent before the
    /// one before it was answered waits for that, and not for the shard.
    pub fn not_before(&self, now: Instant) {
        self.received_at.set(self.received_at.get().max(now));
        self.is_empty(now);
    }

    /// Lets the stream be read so many times each time it is served; after that it says that nothing is there, and wakes its
    /// reader.
    pub fn allow_reads(&self, count: u32) {
        self.reads_max.set(count);
        self.is_served();
    }

    /// Whoever serves the connection begins anew.
    pub fn is_served(&self) {
        self.reads_left.set(self.reads_max.get());
    }

    /// A request waits to be begun until what is returned is dropped. While too many do, the stream is not read.
    pub fn one_waits(&self) -> Waits<'_> {
        self.waiting.set(self.waiting.get() + 1);
        Waits(self)
    }

    /// Ready unless the stream was read often enough, or too many requests wait; the reader is woken when it may go on.
    pub(super) fn poll_may_read(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.waiting.get() >= WAITING_MAX {
            self.reader.replace(Some(cx.waker().clone()));
            return Poll::Pending;
        }
        let left = self.reads_left.get();
        self.reads_left.set(left.saturating_sub(1));
        if left == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Bytes were read at `now`, which had been received so long before.
    pub(super) fn has_read(&self, now: Instant, waited: Duration) {
        let waited = u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX);
        let received = Instant::from_nanos(now.as_nanos().saturating_sub(waited));
        self.received_at.set(received.max(self.emptied_at.get()));
    }

    /// There was nothing unread at `now`.
    pub(super) fn is_empty(&self, now: Instant) {
        self.emptied_at.set(now);
    }
}

/// See [`Inlet::one_waits`].
#[derive(Debug)]
pub struct Waits<'a>(&'a Inlet);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let inlet = self.0;
        inlet.waiting.set(inlet.waiting.get() - 1);
        if let Some(reader) = inlet.reader.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_do_not_follow_a_clock_that_is_set() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let inlet = Inlet::default();
        inlet.has_read(at(1_000), Duration::from_millis(30));
        assert_eq!(inlet.received_at(), at(970));
        inlet.is_empty(at(1_000));
        inlet.has_read(at(1_010), Duration::from_secs(3_600));
        assert_eq!(inlet.received_at(), at(1_000), "an hour forward");
        inlet.has_read(at(1_020), Duration::ZERO);
        assert_eq!(inlet.received_at(), at(1_020), "or back");
    }

    #[test]
    fn a_request_does_not_wait_for_the_shard_while_it_waits_for_the_one_before_it() {
        let at = |ms: u64| Instant::from_nanos(ms * 1_000_000);
        let inlet = Inlet::default();
        // Two requests at once, and a third while the first is worked on.
        inlet.has_read(at(10), Duration::from_millis(5));
        assert_eq!(inlet.received_at(), at(5));
        inlet.not_before(at(50));
        assert_eq!(inlet.received_at(), at(50), "the second");
        inlet.not_before(at(90));
        inlet.has_read(at(91), Duration::from_millis(70));
        assert_eq!(inlet.received_at(), at(90), "the third");
    }

    fn may_read(inlet: &Inlet) -> bool {
        inlet
            .poll_may_read(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    }

    #[test]
    fn nothing_is_read_while_too_many_requests_wait() {
        let inlet = Inlet::default();
        let mut waiting: Vec<_> = (1..WAITING_MAX).map(|_| inlet.one_waits()).collect();
        assert!(may_read(&inlet));
        waiting.push(inlet.one_waits());
        assert!(!may_read(&inlet));
        waiting.pop();
        assert!(inlet.reader.take().is_none(), "it was woken");
        assert!(may_read(&inlet));
    }

    #[test]
    fn as_many_reads_as_are_allowed() {
        let inlet = Inlet::default();
        let reads = |count: usize| (0..count).all(|_| may_read(&inlet));
        assert!(reads(3), "at first, any number");
        inlet.allow_reads(2);
        assert!(reads(2) && !may_read(&inlet) && !may_read(&inlet));
        inlet.is_served();
        assert!(reads(2) && !may_read(&inlet));
    }
}
