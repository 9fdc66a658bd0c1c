//! Wakes executors that have gone to sleep although they had tasks to run.
//!
//! glommio lets tasks run until a timer of its own is over. When that is over before the first of them has had its turn,
//! 0.9 takes it that there is nothing to run and sleeps in its ring, in which a shard has nothing that would wake it. A
//! thread that loses its core for 100 ms just there would stand still for good (`docs/decisions/0036`).

use std::future::{Future, poll_fn};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Poll, Waker};
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};

/// How often executors are woken: half of the time that a thread must have lost its core to need it. It costs a shard 20
/// polls a second of a task that does nothing.
const EVERY: Duration = Duration::from_millis(50);

/// An executor that has not answered so often, for 8 minutes, does not sleep: one of its tasks has not ended. Each call to
/// it holds a reference to its task until it is heard, of which glommio bears 32,767.
const UNHEARD_MAX: u32 = 10_000;

/// Wakes every executor that [`run`](super::run) has made with it or one of its clones, again and again, from a thread of
/// its own that ends with the last of them.
#[derive(Debug, Clone)]
pub struct Rouser {
    beds: Sender<Sleeper>,
}

/// An executor.
#[derive(Debug)]
struct Sleeper {
    waker: Waker,
    unheard: Weak<AtomicU32>,
}

impl Rouser {
    /// Starts its thread.
    ///
    /// # Errors
    /// When there can be no other thread.
    pub fn start() -> io::Result<Self> {
        let (beds, made) = unbounded();
        thread::Builder::new()
            .name("corebid-rouser".to_owned())
            .spawn(move || rouse_all(&made))?;
        Ok(Self { beds })
    }

    /// For one executor.
    pub(super) fn bed(&self) -> Bed {
        Bed {
            beds: self.beds.clone(),
            unheard: Arc::default(),
        }
    }
}

fn rouse_all(made: &Receiver<Sleeper>) {
    let mut sleepers = Vec::<Sleeper>::new();
    loop {
        match made.recv_timeout(EVERY) {
            Ok(sleeper) => sleepers.push(sleeper),
            Err(RecvTimeoutError::Timeout) => sleepers.retain(Sleeper::rouse),
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Sleeper {
    /// Glommio does this with a call to the kernel if the executor sleeps, whatever came before. False if it is gone.
    fn rouse(&self) -> bool {
        let Some(unheard) = self.unheard.upgrade() else {
            return false;
        };
        if unheard.load(Ordering::Relaxed) < UNHEARD_MAX {
            unheard.fetch_add(1, Ordering::Relaxed);
            self.waker.wake_by_ref();
        }
        true
    }
}

/// Where an executor is woken, until this is dropped.
///
/// Not a matter of its task: one whose waker is kept somewhere outlives its executor.
#[derive(Debug)]
pub(super) struct Bed {
    beds: Sender<Sleeper>,
    /// Calls since the executor ran the task that hears them.
    unheard: Arc<AtomicU32>,
}

impl Bed {
    /// What the executor is to run beside everything else. Never ends.
    pub(super) fn heard(&self) -> impl Future<Output = ()> + use<> {
        let mut beds = Some(self.beds.clone());
        let unheard = Arc::downgrade(&self.unheard);
        poll_fn(move |cx| {
            if let Some(beds) = beds.take() {
                let sleeper = Sleeper {
                    waker: cx.waker().clone(),
                    unheard: Weak::clone(&unheard),
                };
                // The other end listens for as long as there is a sender.
                let _sent = beds.send(sleeper);
            }
            if let Some(unheard) = unheard.upgrade() {
                unheard.store(0, Ordering::Relaxed);
            }
            Poll::Pending
        })
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Wake};

    use super::*;

    #[test]
    fn who_does_not_hear_is_called_no_more_until_it_does() {
        let (beds, made) = unbounded();
        let bed = Rouser { beds }.bed();
        let mut heard = Box::pin(bed.heard());
        let mut hear = || {
            assert!(
                heard
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()))
                    .is_pending()
            );
        };
        hear();
        let sleeper = made.try_recv().unwrap();
        for _ in 0..=UNHEARD_MAX {
            assert!(sleeper.rouse());
        }
        assert_eq!(bed.unheard.load(Ordering::Relaxed), UNHEARD_MAX);
        hear();
        assert!(sleeper.rouse());
        assert_eq!(bed.unheard.load(Ordering::Relaxed), 1);
        assert!(made.is_empty(), "it is known already");
        drop(bed);
        assert!(!sleeper.rouse());
    }

    #[test]
    fn its_thread_ends_with_the_last_of_them() {
        let rouser = Rouser::start().unwrap();
        let (tells, told) = unbounded();
        let unheard = Arc::default();
        let sleeper = Sleeper {
            waker: Arc::new(TellsItsEnd(tells)).into(),
            unheard: Arc::downgrade(&unheard),
        };
        rouser.beds.send(sleeper).unwrap();
        drop(rouser);
        assert_eq!(told.recv_timeout(Duration::from_secs(20)), Ok(()));
    }

    struct TellsItsEnd(Sender<()>);

    impl Wake for TellsItsEnd {
        fn wake(self: Arc<Self>) {}
    }

    impl Drop for TellsItsEnd {
        fn drop(&mut self) {
            self.0.send(()).unwrap();
        }
    }
}
