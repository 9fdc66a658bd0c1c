//! The tasks of a shard: how its driver learns that none of them can go on, and its supervisor that one has panicked.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use futures_lite::future::yield_now;
use glommio::{LocalExecutorBuilder, Placement};
use pin_project_lite::pin_project;

use super::{Rouser, Signal};

thread_local! {
    /// How often tasks of this thread were polled.
    static POLLS: Cell<u64> = const { Cell::new(0) };
    /// See [`panicked`].
    static PANICKED: Rc<Signal> = Rc::default();
}

/// Rounds after which [`settle`] gives up: tasks that wake each other without end must not keep a shard from its
/// sockets. One round lets every task run that could when it began, and few requests take more than five.
const ROUNDS_MAX: u32 = 64;

/// glommio registers this much memory for storage I/O, which a shard does not do; it counts against
/// RLIMIT_MEMLOCK, so 16 shards must fit in 8 MiB.
const IO_MEMORY_BYTES: usize = 64 << 10;

/// Runs `main` to its end on an executor of its own, on this thread; pinned to `core` if there is one.
///
/// # Errors
/// When there can be no executor: io_uring is not available, or a limit is too low.
pub fn run<T>(core: Option<usize>, rouser: &Rouser, main: impl Future<Output = T>) -> io::Result<T> {
    let bed = rouser.bed();
    let executor = LocalExecutorBuilder::new(core.map_or(Placement::Unbound, Placement::Fixed))
        .io_memory(IO_MEMORY_BYTES)
        .make()
        .map_err(|error| io::Error::other(error.to_string()))?;
    Ok(executor.run(async {
        // Goes when it is dropped.
        let _wakes = glommio::spawn_local(bed.heard());
        main.await
    }))
}

/// Runs `future` beside the caller on this shard, until it ends. A panic costs this task and raises [`panicked`]:
/// uncaught it would take glommio's executor down, and with it all that is in flight.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(Counted { future }).detach();
}

/// Raised when a task of this thread has panicked. What tasks share is left by short calls only, but nobody can vouch for
/// it any more: it is good for finishing what is in flight, and for no more.
pub fn panicked() -> Rc<Signal> {
    PANICKED.with(Rc::clone)
}

/// Lets the other tasks of this shard run until none can; false if they could go on for ever, or `is_over` when one
/// round of them has ended.
///
/// What runs in the caller's own task beside it is seen too: after two rounds in which no other task ran, nothing that
/// it did can have woken one.
pub async fn settle(mut is_over: impl FnMut() -> bool) -> bool {
    let mut quiet = 0;
    for _ in 0..ROUNDS_MAX {
        let before = POLLS.get();
        yield_now().await;
        quiet = if POLLS.get() == before { quiet + 1 } else { 0 };
        if quiet == 2 {
            return true;
        }
        if is_over() {
            return false;
        }
    }
    false
}

pin_project! {
    struct Counted<F> {
        #[pin]
        future: F,
    }
}

impl<F: Future<Output = ()>> Future for Counted<F> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        POLLS.set(POLLS.get().wrapping_add(1));
        let future = self.project().future;
        catch_unwind(AssertUnwindSafe(|| future.poll(cx))).unwrap_or_else(|_said_by_the_panic_hook| {
            panicked().raise();
            Poll::Ready(())
        })
    }
}

/// What hyper spawns its HTTP/2 streams with.
#[derive(Debug, Clone, Copy, Default)]
pub struct ShardExecutor;

impl<F> hyper::rt::Executor<F> for ShardExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn(future);
    }
}

/// [`run`] for tests of what needs a shard.
#[cfg(test)]
pub(crate) fn run_as_shard<T>(future: impl Future<Output = T>) -> T {
    let ran = Rouser::start().and_then(|rouser| run(None, &rouser, future));
    ran.unwrap_or_else(|error| panic!("no executor: {error}"))
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;
    use crate::net::Signal;

    #[test]
    fn an_executor_that_sleeps_is_roused() {
        run_as_shard(async {
            let runs = || glommio::executor().executor_stats().scheduler_runs();
            let before = runs();
            // With nothing else to wake it, tasks would run once after this.
            glommio::timer::sleep(Duration::from_millis(500)).await;
            let roused = runs() - before;
            assert!(roused > 2, "{roused} times");
        });
    }

    #[test]
    fn nothing_is_left_to_run_when_it_has_settled() {
        run_as_shard(async {
            let signals: Rc<[Signal]> = (0..20).map(|_| Signal::default()).collect();
            let reached = Rc::new(Cell::new(0));
            // Each wakes the one before it, so that each needs a round of its own.
            for index in (1..signals.len()).rev() {
                let (signals, reached) = (Rc::clone(&signals), Rc::clone(&reached));
                spawn(async move {
                    signals[index].raised().await;
                    reached.set(reached.get() + 1);
                    signals[index - 1].raise();
                });
            }
            assert!(settle(|| false).await);
            assert_eq!(reached.get(), 0);
            signals[signals.len() - 1].raise();
            assert!(settle(|| false).await);
            assert_eq!(reached.get(), signals.len() - 1);
        });
    }

    #[test]
    fn a_driver_whose_time_is_over_gets_its_turn() {
        run_as_shard(async {
            let ran = Rc::new(Cell::new(0));
            let runs = Rc::clone(&ran);
            spawn(async move {
                loop {
                    runs.set(runs.get() + 1);
                    yield_now().await;
                }
            });
            assert!(!settle(|| ran.get() == 3).await);
            assert_eq!(ran.get(), 3);
        });
    }

    #[test]
    fn a_panic_costs_its_task_and_is_told() {
        run_as_shard(async {
            let reached = Rc::new(Cell::new(false));
            let reaches = Rc::clone(&reached);
            spawn(async { panic!("as a bug would") });
            spawn(async move {
                yield_now().await;
                reaches.set(true);
            });
            assert!(settle(|| false).await);
            assert!(panicked().is_raised() && reached.get());
        });
    }

    #[test]
    fn tasks_that_never_rest_do_not_hold_the_driver() {
        run_as_shard(async {
            let done = Rc::new(Cell::new(false));
            let stop = Rc::clone(&done);
            spawn(async move {
                while !stop.get() {
                    yield_now().await;
                }
            });
            assert!(!settle(|| false).await);
            done.set(true);
            assert!(settle(|| false).await);
        });
    }
}
