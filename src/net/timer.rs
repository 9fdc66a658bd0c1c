//! hyper's timer on a shard's wheel.
//!
//! hyper wants its sleeps `Send + Sync`, the wheel is neither. A sleep therefore keeps nothing but numbers and
//! finds the timers of the thread it is polled on; it never leaves its shard, and if it did it would find that
//! shard's timers and still be right.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant as StdInstant};

use crate::clock::{Instant, Key, Timers};

thread_local! {
    static TIMERS: RefCell<Option<Rc<Timers>>> = const { RefCell::new(None) };
}

/// The timer to give to hyper's builders.
#[derive(Debug, Clone, Copy)]
pub struct ShardTimer(());

impl ShardTimer {
    /// Makes `timers` those of this thread.
    #[must_use]
    pub fn install(timers: &Rc<Timers>) -> Self {
        TIMERS.with(|slot| *slot.borrow_mut() = Some(Rc::clone(timers)));
        Self(())
    }

    /// On the timers of this thread; for ever where there are none.
    pub(super) fn sleep_for(wait: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        let deadline = with_timers(|timers| timers.now().after(wait)).unwrap_or(Instant::FAR_FUTURE);
        Box::pin(ShardSleep { deadline, key: None })
    }
}

impl hyper::rt::Timer for ShardTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Self::sleep_for(duration)
    }

    fn sleep_until(&self, deadline: StdInstant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Self::sleep_for(deadline.saturating_duration_since(self.now()))
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn hyper::rt::Sleep>>, new_deadline: StdInstant) {
        *sleep = self.sleep_until(new_deadline);
    }
}

struct ShardSleep {
    deadline: Instant,
    key: Option<Key>,
}

impl hyper::rt::Sleep for ShardSleep {}

impl Future for ShardSleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let rings = with_timers(|timers| {
            if timers.now() >= this.deadline {
                return true;
            }
            let waiting = this.key.is_some_and(|key| timers.rewake(key, cx.waker()));
            if !waiting {
                timers.register(&mut this.key, this.deadline, cx.waker());
            }
            false
        });
        if rings == Some(true) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }
}

impl Drop for ShardSleep {
    fn drop(&mut self) {
        with_timers(|timers| timers.cancel(&mut self.key));
    }
}

fn with_timers<T>(act: impl FnOnce(&Timers) -> T) -> Option<T> {
    // `try_with`: connections may be dropped while the thread's locals are.
    TIMERS
        .try_with(|slot| slot.borrow().as_deref().map(act))
        .ok()
        .flatten()
}
