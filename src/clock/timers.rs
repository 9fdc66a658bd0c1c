//! The timers of one shard: a wheel of wakers, and futures that sleep on it.
//!
//! Arms its alarm only when the next deadline comes closer, so that a thousand orchestrations with the same
//! deadline cost one system call, not a thousand.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use super::{Instant, Key, Wheel};

/// Wakes tasks of one shard when their time has come.
pub struct Timers {
    wheel: RefCell<Wheel<Waker>>,
    clock: Box<dyn Fn() -> Instant>,
    alarm: Box<dyn Fn(Instant)>,
    armed: Cell<Instant>,
    fired: RefCell<Vec<Waker>>,
}

impl Timers {
    /// Timers that read `clock` and ask `alarm` to have [`Self::advance`] called at an instant (each call
    /// replaces the one before).
    pub fn new(clock: impl Fn() -> Instant + 'static, alarm: impl Fn(Instant) + 'static) -> Rc<Self> {
        let now = clock();
        Rc::new(Self {
            wheel: RefCell::new(Wheel::new(now)),
            clock: Box::new(clock),
            alarm: Box::new(alarm),
            armed: Cell::new(Instant::FAR_FUTURE),
            fired: RefCell::default(),
        })
    }

    /// The time these timers live in.
    #[must_use]
    pub fn now(&self) -> Instant {
        (self.clock)()
    }

    /// How many timers wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.wheel.borrow().len()
    }

    /// When [`Self::advance`] is to be called; [`Instant::FAR_FUTURE`] while nothing waits.
    #[must_use]
    pub fn due(&self) -> Instant {
        self.armed.get()
    }

    /// Wakes every task whose time has come, and sets the alarm for the next.
    pub fn advance(&self, now: Instant) {
        let mut fired = self.fired.take();
        let next = {
            let mut wheel = self.wheel.borrow_mut();
            wheel.advance(now, |waker| fired.push(waker));
            wheel.next_deadline().unwrap_or(Instant::FAR_FUTURE)
        };
        if next < self.armed.get() || self.armed.get() <= now {
            self.arm(next);
        }
        for waker in fired.drain(..) {
            waker.wake();
        }
        self.fired.replace(fired);
    }

    /// A future that is ready at `deadline`, rounded up to the wheel's tick.
    #[must_use]
    pub fn sleep_until(self: &Rc<Self>, deadline: Instant) -> Sleep {
        Sleep {
            timers: Rc::clone(self),
            deadline,
            key: None,
        }
    }

    /// Has `waker` woken at `deadline`; `key` is the caller's earlier registration, replaced by this one.
    pub fn register(&self, key: &mut Option<Key>, deadline: Instant, waker: &Waker) {
        let next = {
            let mut wheel = self.wheel.borrow_mut();
            if let Some(key) = key.take() {
                wheel.remove(key);
            }
            *key = Some(wheel.insert(deadline, waker.clone()));
            wheel.next_deadline().unwrap_or(Instant::FAR_FUTURE)
        };
        if next < self.armed.get() {
            self.arm(next);
        }
    }

    /// Changes whom a registration wakes; false when it has fired already.
    pub fn rewake(&self, key: Key, waker: &Waker) -> bool {
        match self.wheel.borrow_mut().get_mut(key) {
            Some(registered) => {
                registered.clone_from(waker);
                true
            }
            None => false,
        }
    }

    /// Forgets a registration.
    pub fn cancel(&self, key: &mut Option<Key>) {
        if let Some(key) = key.take() {
            self.wheel.borrow_mut().remove(key);
        }
    }

    fn arm(&self, at: Instant) {
        self.armed.set(at);
        (self.alarm)(at);
    }
}

impl fmt::Debug for Timers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timers")
            .field("waiting", &self.waiting())
            .field("armed", &self.armed)
            .finish()
    }
}

/// Ready at its deadline. Made by [`Timers::sleep_until`].
#[derive(Debug)]
pub struct Sleep {
    timers: Rc<Timers>,
    deadline: Instant,
    key: Option<Key>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if this.timers.now() >= this.deadline {
            return Poll::Ready(());
        }
        let waiting = this.key.is_some_and(|key| this.timers.rewake(key, cx.waker()));
        if !waiting {
            this.timers.register(&mut this.key, this.deadline, cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        self.timers.cancel(&mut self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;
    use std::time::Duration;

    use super::*;

    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct World {
        clock: Rc<Cell<Instant>>,
        alarms: Rc<RefCell<Vec<Instant>>>,
        timers: Rc<Timers>,
        woken: Arc<Count>,
    }

    fn world() -> World {
        let clock = Rc::new(Cell::new(Instant::from_nanos(0)));
        let alarms = Rc::new(RefCell::new(Vec::new()));
        let (c, a) = (Rc::clone(&clock), Rc::clone(&alarms));
        let timers = Timers::new(move || c.get(), move |at| a.borrow_mut().push(at));
        World {
            clock,
            alarms,
            timers,
            woken: Arc::new(Count(AtomicUsize::new(0))),
        }
    }

    fn ms(millis: u64) -> Instant {
        Instant::from_nanos(0).after(Duration::from_millis(millis))
    }

    #[test]
    fn a_sleep_wakes_its_task_once_and_is_then_ready() {
        let w = world();
        let waker = Waker::from(Arc::clone(&w.woken));
        let mut cx = Context::from_waker(&waker);
        let mut sleep = w.timers.sleep_until(ms(10));
        assert!(Pin::new(&mut sleep).poll(&mut cx).is_pending());
        assert!(Pin::new(&mut sleep).poll(&mut cx).is_pending());
        assert_eq!(w.timers.waiting(), 1, "polling again does not register again");
        w.clock.set(ms(9));
        w.timers.advance(ms(9));
        assert_eq!(w.woken.0.load(Ordering::Relaxed), 0);
        w.clock.set(ms(10));
        w.timers.advance(ms(10));
        assert_eq!(w.woken.0.load(Ordering::Relaxed), 1);
        assert!(Pin::new(&mut sleep).poll(&mut cx).is_ready());
    }

    #[test]
    fn the_alarm_is_set_only_when_the_next_deadline_comes_closer() {
        let w = world();
        let waker = Waker::from(Arc::clone(&w.woken));
        let mut cx = Context::from_waker(&waker);
        let mut sleeps: Vec<_> = [90, 91, 92, 40, 95].map(|at| w.timers.sleep_until(ms(at))).into();
        for sleep in &mut sleeps {
            assert!(Pin::new(sleep).poll(&mut cx).is_pending());
        }
        assert_eq!(*w.alarms.borrow(), [ms(90), ms(40)]);
        assert_eq!(w.timers.due(), ms(40));
        w.clock.set(ms(40));
        w.timers.advance(ms(40));
        assert_eq!(
            w.alarms.borrow().last(),
            Some(&ms(90)),
            "after it rang, it is set for the next"
        );
    }

    #[test]
    fn a_dropped_sleep_leaves_nothing_behind() {
        let w = world();
        let waker = Waker::from(Arc::clone(&w.woken));
        let mut sleep = w.timers.sleep_until(ms(10));
        assert!(
            Pin::new(&mut sleep)
                .poll(&mut Context::from_waker(&waker))
                .is_pending()
        );
        drop(sleep);
        assert_eq!(w.timers.waiting(), 0);
        w.timers.advance(ms(20));
        assert_eq!(w.woken.0.load(Ordering::Relaxed), 0);
    }
}
