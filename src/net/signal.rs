//! A flag of one shard that tasks can wait for: raised once, never lowered.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use slab::Slab;

/// Raised once; everyone who waits for it, now or later, goes on.
#[derive(Debug, Default)]
pub struct Signal {
    raised: Cell<bool>,
    /// One for each task that waits now: a connection waits as long as it lives, and there are many of them.
    waiting: RefCell<Slab<Waker>>,
}

impl Signal {
    /// Raises the flag and wakes all who wait.
    pub fn raise(&self) {
        self.raised.set(true);
        // Each is taken out by its own task when that goes on, or goes away.
        let waiting: Vec<Waker> = self
            .waiting
            .borrow()
            .iter()
            .map(|(_, waker)| waker.clone())
            .collect();
        for waker in waiting {
            waker.wake();
        }
    }

    /// Whether it was raised.
    #[must_use]
    pub fn is_raised(&self) -> bool {
        self.raised.get()
    }

    /// Waits until it is raised.
    pub fn raised(&self) -> Raised<'_> {
        Raised {
            signal: self,
            place: None,
        }
    }
}

/// Ready when its signal is raised. Leaves nothing behind when dropped before that.
#[derive(Debug)]
pub struct Raised<'a> {
    signal: &'a Signal,
    place: Option<usize>,
}

impl Future for Raised<'_> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.signal.raised.get() {
            return Poll::Ready(());
        }
        let mut waiting = this.signal.waiting.borrow_mut();
        match this.place {
            Some(place) => waiting[place].clone_from(cx.waker()),
            None => this.place = Some(waiting.insert(cx.waker().clone())),
        }
        Poll::Pending
    }
}

impl Drop for Raised<'_> {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            self.signal.waiting.borrow_mut().remove(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn wakes_all_who_wait_and_is_ready_for_all_who_come_later() {
        let signal = Signal::default();
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let mut cx = Context::from_waker(&waker);
        let mut first = signal.raised();
        let mut second = signal.raised();
        for _ in 0..3 {
            assert!(Pin::new(&mut first).poll(&mut cx).is_pending());
            assert!(Pin::new(&mut second).poll(&mut cx).is_pending());
        }
        signal.raise();
        assert_eq!(
            count.0.load(Ordering::Relaxed),
            2,
            "once each, however often they were polled"
        );
        assert!(Pin::new(&mut first).poll(&mut cx).is_ready());
        assert!(Pin::new(&mut signal.raised()).poll(&mut cx).is_ready());
    }

    #[test]
    fn who_goes_away_leaves_nothing_behind() {
        let signal = Signal::default();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..1_000 {
            let mut connection = signal.raised();
            assert!(Pin::new(&mut connection).poll(&mut cx).is_pending());
        }
        assert!(signal.waiting.borrow().is_empty());
    }
}
