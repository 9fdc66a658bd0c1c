//! The engine of a shard, as in `src/shard/driver.rs`, but with an epoch that does not change.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use corebid::clock::{self, Instant, Timers};
use corebid::net::{self, Bell, Readiness};

/// A client whose sockets are driven in turns.
pub(crate) trait Turns {
    /// Takes what is ready and sends what has gathered; how much there was.
    fn turn(&self, now: Instant) -> io::Result<usize>;

    /// Sends what has gathered.
    fn flush(&self, now: Instant);

    /// Rings when there is something to flush.
    fn has_unflushed(&self) -> &Bell;
}

pub(crate) fn drive<C: Turns + 'static>(
    client: &Rc<C>,
    readiness: &Rc<Readiness>,
    timers: &Rc<Timers>,
    epoch: Duration,
) {
    let pausing = Rc::new(Cell::new(false));
    net::spawn(flush_at_once(Rc::clone(client), Rc::clone(&pausing)));
    let (client, readiness, timers) = (Rc::clone(client), Rc::clone(readiness), Rc::clone(timers));
    net::spawn(async move {
        loop {
            let now = clock::now();
            let moved = client.turn(now).unwrap();
            timers.advance(now);
            if moved == 0 {
                readiness.wait().await.unwrap();
            } else if epoch.is_zero() {
                net::yield_now().await;
            } else {
                pausing.set(true);
                net::pause(epoch).await;
                pausing.set(false);
            }
        }
    });
}

async fn flush_at_once<C: Turns>(client: Rc<C>, pausing: Rc<Cell<bool>>) {
    loop {
        client.has_unflushed().rung().await;
        if !pausing.get() {
            client.flush(clock::now());
        }
    }
}
