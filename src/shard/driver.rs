//! The shard's engine: takes what has become ready on the DSP connections and what has come due on the wheel, lets the
//! orchestrations run, and sleeps when there is nothing.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::epoch::Epoch;
use crate::clock::{self, Timers};
use crate::fanout::Pool;
use crate::net::{self, Readiness};
use crate::telemetry::{Recorder, StallCause};

/// Starts the engine. Without its readiness set a shard can do nothing: why that failed shows in what is returned, and
/// the shard then ends, so that the supervisor starts another.
pub(super) fn start(
    readiness: &Rc<Readiness>,
    pool: &Rc<Pool>,
    timers: &Rc<Timers>,
    recorder: &Rc<Recorder>,
    epoch_max: Duration,
) -> Rc<Cell<Option<io::Error>>> {
    let failure = Rc::new(Cell::new(None));
    let driver = Driver {
        readiness: Rc::clone(readiness),
        pool: Rc::clone(pool),
        timers: Rc::clone(timers),
        recorder: Rc::clone(recorder),
        epoch_max,
        pausing: Rc::default(),
    };
    net::spawn(flush_at_once(Rc::clone(pool), Rc::clone(&driver.pausing)));
    let tells = Rc::clone(&failure);
    net::spawn(async move {
        let Err(error) = driver.run().await;
        tells.set(Some(error));
    });
    failure
}

struct Driver {
    readiness: Rc<Readiness>,
    pool: Rc<Pool>,
    timers: Rc<Timers>,
    recorder: Rc<Recorder>,
    epoch_max: Duration,
    /// In an epoch's pause, at the end of which everything is flushed.
    pausing: Rc<Cell<bool>>,
}

/// Sends the calls that were started while the driver sleeps: after every task that could run has run, so that the
/// calls of all orchestrations that were started together share a write. In an epoch's pause they wait for its end.
async fn flush_at_once(pool: Rc<Pool>, pausing: Rc<Cell<bool>>) {
    loop {
        pool.has_unflushed().rung().await;
        if !pausing.get() {
            pool.flush(clock::now());
        }
    }
}

impl Driver {
    async fn run(&self) -> io::Result<Infallible> {
        let mut epoch = Epoch::new(self.epoch_max, clock::now(), clock::thread_cpu());
        loop {
            let now = clock::now();
            self.recorder.turn_begins();
            if self.timers.due() <= now {
                self.recorder.timer_late(nanos(now.since(self.timers.due())));
            }
            let moved = self.pool.turn(now)?;
            self.timers.advance(now);
            if moved == 0 {
                self.readiness.wait().await?;
                continue;
            }
            self.recorder
                .worked(StallCause::DspIo, nanos(clock::now().since(now)));
            let pause = epoch.length(now, clock::thread_cpu);
            // Everything that was woken runs now. How much later than wanted it is this task's turn again is how long
            // a DSP's answer may lie unread.
            if pause.is_zero() {
                net::yield_now().await;
            } else {
                self.pausing.set(true);
                net::pause(pause).await;
                self.pausing.set(false);
            }
            let stall = clock::now().since(now.after(pause));
            self.recorder.loop_stall(nanos(stall), || {
                nanos(epoch.used_since_measured(clock::thread_cpu()))
            });
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
