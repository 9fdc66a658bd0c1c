//! The engine of a shard, as in `src/shard/driver.rs`, but with an epoch that does not change.

use std::rc::Rc;
use std::thread;
use std::time::Duration;

use corebid::clock::{self, Instant, Timers};
use corebid::net::{self, Readiness};

/// A client whose sockets are in the shard's readiness set.
pub(crate) trait Turns {
    /// Takes what is ready.
    fn turn(&self, now: Instant);

    /// Sends what has gathered; false if there is more to do.
    fn flush(&self) -> bool;
}

/// Turns for ever. All tasks must be spawned by [`net::spawn`] or run in the caller's own.
#[allow(
    clippy::disallowed_methods,
    reason = "the shard itself sleeps here, not one of its tasks"
)]
pub(crate) async fn drive<C: Turns, T>(
    client: &Rc<C>,
    readiness: &Rc<Readiness>,
    timers: &Rc<Timers>,
    epoch: Duration,
) -> T {
    net::sleep_precisely();
    loop {
        let begun = clock::now();
        client.turn(begun);
        timers.advance(begun);
        let settled = net::settle(|| false).await;
        if !client.flush() || !settled {
            continue;
        }
        let (now, next) = (clock::now(), begun.after(epoch));
        if now < next {
            thread::sleep(next.since(now));
        }
        readiness.wait().unwrap();
    }
}
