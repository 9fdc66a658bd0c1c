//! Who waits on this thread to begin what costs much, in the order of coming. Whoever drives the thread says until when there is
//! time for that; what was begun goes on meanwhile. Knows no bid request, and reads no clock.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use crate::clock::Instant;

thread_local! {
    static BEGINNINGS: RefCell<Beginnings> = const { RefCell::new(Beginnings::new()) };
}

/// So many are woken at first, and begin whatever the time: a thread that loses its core for longer than it had to begin would never
/// get to what waits, and all of that grow too old. Each that begins wakes one more. To begin a bid request takes 0.2 ms at most, so
/// these are within the driver's 2 ms.
const FIRST: usize = 8;

/// Lets those begin who wait, and whoever comes, until it is `end`. On a thread for which nobody says so, all may begin at any time.
pub fn begin_until(end: Instant) {
    BEGINNINGS.with_borrow_mut(|beginnings| {
        beginnings.end = end;
        beginnings.next = beginnings.first;
    });
    let mut left = FIRST;
    while left > 0 && wake_next() {
        left -= 1;
    }
    BEGINNINGS.with_borrow_mut(|beginnings| beginnings.certain = beginnings.next);
}

/// Lets nobody begin until [`begin_until`].
pub fn begin_nothing() {
    BEGINNINGS.with_borrow_mut(|beginnings| {
        beginnings.end = Instant::from_nanos(0);
        beginnings.certain = 0;
    });
}

/// Whether somebody waits.
#[must_use]
pub fn some_wait_to_begin() -> bool {
    BEGINNINGS.with_borrow(|beginnings| !beginnings.line.is_empty())
}

/// Ready when it may begin. Who is dropped before that leaves the line.
pub fn may_begin<C: Fn() -> Instant>(now: C) -> MayBegin<C> {
    MayBegin { now, ticket: None }
}

struct Beginnings {
    end: Instant,
    line: VecDeque<Place>,
    /// The ticket of the first of them, and of who is to be woken next. Who is awake and finds the time over is not woken
    /// again before the next time begins.
    first: u64,
    next: u64,
    /// Tickets before this one are good whatever the time.
    certain: u64,
}

#[derive(Debug)]
enum Place {
    Waits(Waker),
    IsAwake,
    Left,
}

/// See [`may_begin`].
#[derive(Debug)]
pub struct MayBegin<C> {
    now: C,
    ticket: Option<u64>,
}

impl Beginnings {
    const fn new() -> Self {
        Self {
            end: Instant::FAR_FUTURE,
            line: VecDeque::new(),
            first: 0,
            next: 0,
            certain: 0,
        }
    }

    fn place(&mut self, ticket: u64) -> Option<&mut Place> {
        let index = usize::try_from(ticket.checked_sub(self.first)?).ok()?;
        self.line.get_mut(index)
    }

    fn wait(&mut self, ticket: &mut Option<u64>, waker: &Waker) {
        let waits = Place::Waits(waker.clone());
        if let Some(ticket) = *ticket {
            if let Some(place) = self.place(ticket) {
                *place = waits;
            }
            return;
        }
        *ticket = Some(self.first + self.line.len() as u64);
        self.line.push_back(waits);
    }

    fn leave(&mut self, ticket: u64) {
        if let Some(place) = self.place(ticket) {
            *place = Place::Left;
        }
        while let Some(Place::Left) = self.line.front() {
            self.line.pop_front();
            self.first += 1;
        }
    }

    fn next(&mut self) -> Option<Waker> {
        self.next = self.next.max(self.first);
        loop {
            let place = self.place(self.next)?;
            if let Place::Waits(waker) = place {
                let waker = waker.clone();
                *place = Place::IsAwake;
                self.next += 1;
                return Some(waker);
            }
            self.next += 1;
        }
    }
}

/// False if nobody is left to be woken.
fn wake_next() -> bool {
    let next = BEGINNINGS.with_borrow_mut(Beginnings::next);
    next.map(Waker::wake).is_some()
}

impl<C: Fn() -> Instant + Unpin> Future for MayBegin<C> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        let now = (this.now)();
        let begins = BEGINNINGS.with_borrow_mut(|beginnings| {
            let has_time = now < beginnings.end;
            let begins = match this.ticket {
                Some(ticket) => has_time || ticket < beginnings.certain,
                // Who comes only now does not pass those who wait.
                None => has_time && beginnings.line.is_empty(),
            };
            if !begins {
                beginnings.wait(&mut this.ticket, cx.waker());
            }
            begins
        });
        if !begins {
            return Poll::Pending;
        }
        this.leave();
        Poll::Ready(())
    }
}

impl<C> MayBegin<C> {
    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            BEGINNINGS.with_borrow_mut(|beginnings| beginnings.leave(ticket));
            wake_next();
        }
    }
}

impl<C> Drop for MayBegin<C> {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    struct One {
        waits: Pin<Box<dyn Future<Output = ()>>>,
        woken: Arc<Woken>,
    }

    /// Some that come one behind the other, and a clock.
    struct Line {
        now: Rc<Cell<u64>>,
        all: Vec<One>,
    }

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    impl Line {
        fn of(count: usize) -> Self {
            let now = Rc::new(Cell::new(10));
            let one = |_| {
                let clock = Rc::clone(&now);
                One {
                    waits: Box::pin(may_begin(move || at(clock.get()))),
                    woken: Arc::default(),
                }
            };
            Self {
                all: (0..count).map(one).collect(),
                now,
            }
        }

        fn begins(&mut self, index: usize) -> bool {
            let One { waits, woken } = &mut self.all[index];
            woken.0.store(0, Ordering::Relaxed);
            let waker = Arc::clone(woken).into();
            waits.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()
        }

        fn awake(&self) -> Vec<usize> {
            let is_awake = |index: &usize| self.all[*index].woken.0.load(Ordering::Relaxed) > 0;
            (0..self.all.len()).filter(is_awake).collect()
        }
    }

    #[test]
    fn where_nobody_says_anything_all_begin() {
        let mut line = Line::of(3);
        assert!((0..3).all(|index| line.begins(index)));
        assert!(!some_wait_to_begin());
    }

    #[test]
    fn in_the_order_of_coming_and_a_few_at_a_time() {
        let count = FIRST + 4;
        let mut line = Line::of(count + 1);
        begin_nothing();
        assert!((0..count).all(|index| !line.begins(index)));
        assert!(some_wait_to_begin() && line.awake().is_empty());

        begin_until(at(20));
        assert_eq!(line.awake(), (0..FIRST).collect::<Vec<_>>());
        assert!(!line.begins(count), "who comes now is the last");
        assert!(line.begins(0) && line.begins(1));
        assert_eq!(line.awake(), (2..FIRST + 2).collect::<Vec<_>>());

        // The time is over: the first of all begin, others keep their places.
        line.now.set(20);
        assert!((2..FIRST).all(|index| line.begins(index)));
        assert!((FIRST..=count).all(|index| !line.begins(index)));
        begin_nothing();
        assert!((FIRST..=count).all(|index| !line.begins(index)));
        begin_until(at(30));
        assert_eq!(line.awake(), (FIRST..=count).collect::<Vec<_>>());
        assert!((FIRST..=count).all(|index| line.begins(index)));
        assert!(!some_wait_to_begin());
    }

    #[test]
    fn some_begin_though_the_time_is_over_before_anybody_looks() {
        let mut line = Line::of(FIRST + 2);
        begin_nothing();
        assert!((0..FIRST + 2).all(|index| !line.begins(index)));
        line.now.set(100);
        begin_until(at(20));
        let begun = (0..FIRST + 2).filter(|&index| line.begins(index)).count();
        assert_eq!(begun, FIRST);
    }

    #[test]
    fn who_leaves_holds_nobody_up() {
        let mut line = Line::of(FIRST + 3);
        begin_nothing();
        assert!((0..FIRST + 3).all(|index| !line.begins(index)));
        begin_until(at(20));
        // One that waits, and one that is awake.
        drop(line.all.remove(FIRST));
        drop(line.all.remove(0));
        assert!(line.begins(0));
        assert!((1..=FIRST).all(|index| line.begins(index)), "{:?}", line.awake());
        assert!(!some_wait_to_begin());
    }
}
