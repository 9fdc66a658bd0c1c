//! The shard's engine: takes what has become ready on its sockets and what has come due on the wheel, lets the
//! orchestrations run, sends what they have to say, and sleeps when there is nothing.

use std::cell::Cell;
use std::convert::Infallible;
use std::io;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use super::epoch::Epoch;
use crate::clock::{self, Timers};
use crate::fanout::Pool;
use crate::net::{self, Readiness};
use crate::telemetry::{Recorder, StallCause};

/// How long bid requests may be begun before DSP answers are taken again: two epochs. New ones that come without end must not
/// keep the answers to earlier ones from being read in their time; those that are left wait, age, and are shed when they are
/// too old. To shed takes some 5 us: 2 ms are 400 of them, however long the answers took.
const BEGINNINGS_MAX: Duration = Duration::from_millis(2);

/// Rounds of all tasks before that, in a turn in which some are left from the one before: only what was begun goes on in them.
/// In the first, auctions end for which the last answer has come or whose time is over, and in the second their connections write
/// what came of them. An HTTP/2 connection reads 8 kB in each: in three as much as the kernel puts under one stamp
/// (`net::stamped`), so no stamp is more than about a turn too late.
const ROUNDS_BEFORE: u32 = 3;

/// See the module's description.
pub(super) struct Driver {
    pub(super) readiness: Rc<Readiness>,
    pub(super) pool: Rc<Pool>,
    pub(super) timers: Rc<Timers>,
    pub(super) recorder: Rc<Recorder>,
    pub(super) epoch_max: Rc<Cell<Duration>>,
    /// Tasks were left when the time of the turn before was over.
    pub(super) is_behind: Cell<bool>,
}

impl Driver {
    /// Turns until its readiness set fails, without which a shard can do nothing. Sleeps with the whole thread, so all
    /// tasks of the shard must be [`net::spawn`]ed or run in the caller's own.
    pub(super) async fn run(&self) -> io::Result<Infallible> {
        net::sleep_precisely();
        let mut epoch = Epoch::new(self.epoch_max.get(), clock::now(), clock::thread_cpu());
        loop {
            let begun = clock::now();
            self.recorder.turn_begins();
            if self.timers.due() <= begun {
                self.recorder.timer_late(nanos(begun.since(self.timers.due())));
            }
            self.pool.turn(begun)?;
            self.timers.advance(begun);
            self.recorder
                .worked(StallCause::DspIo, nanos(clock::now().since(begun)));
            let nothing_is_left = self.let_all_run().await;

            let now = clock::now();
            // How long a DSP's answer may have lain unread because of this turn.
            self.recorder.loop_stall(nanos(now.since(begun)), || {
                nanos(epoch.used_since_measured(clock::thread_cpu()))
            });
            epoch.limit(self.epoch_max.get());
            // What comes in meanwhile is taken together: an epoch is the time from turn to turn.
            let next = begun.after(epoch.length(now, self.pool.calls_started(), clock::thread_cpu));
            if nothing_is_left && now < next {
                sleep(next.since(now));
            }
            if nothing_is_left {
                self.readiness.wait()?;
            }
        }
    }

    /// Lets every task run that can and sends what they have gathered, once for each DSP: the calls of all orchestrations
    /// that were started in this turn share a write. False if there is more to do, or may be: their time is over.
    async fn let_all_run(&self) -> bool {
        if self.is_behind.get() {
            finish_first().await;
        }
        let until = clock::now().after(BEGINNINGS_MAX);
        net::begin_until(until);
        let settled = net::settle(|| clock::now() >= until).await;
        let is_behind = !settled || net::some_wait_to_begin();
        self.is_behind.set(is_behind);
        let sent = self.pool.flush(clock::now());
        !is_behind && sent && !self.pool.has_unread()
    }
}

/// Lets only those go on whose bid request was begun.
async fn finish_first() {
    net::begin_nothing();
    let mut rounds = 0;
    net::settle(|| {
        rounds += 1;
        rounds == ROUNDS_BEFORE
    })
    .await;
}

/// Nothing on this thread could go on: what there was to do has been done.
#[allow(
    clippy::disallowed_methods,
    reason = "the shard itself sleeps here, not one of its tasks"
)]
pub(super) fn sleep(time: Duration) {
    thread::sleep(time);
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
