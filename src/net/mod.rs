//! What a shard stands on: sockets, readiness, timers for hyper, compression with a bound.
//!
//! With `shard` the only place where glommio appears, so that the runtime stays replaceable. Nothing here knows
//! what the bytes mean.

mod bell;
pub mod gzip;
mod listener;
mod readiness;
mod signal;
mod socket;
mod stream;
mod timer;

use std::time::Duration;

pub use bell::Bell;
pub use listener::{Listener, bind, local_address};
pub use readiness::{Interest, Readiness, Ready};
pub use signal::Signal;
pub use socket::{Progress, Socket};
pub use stream::HyperStream;
pub use timer::ShardTimer;

/// Runs `future` beside the caller on this shard, until it ends.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

/// Lets every other task of this shard that can run do so first.
pub async fn yield_now() {
    futures_lite::future::yield_now().await;
}

/// Lets the shard do other things, or sleep, for so long. For pauses below the timer wheel's tick.
pub async fn pause(length: Duration) {
    glommio::timer::sleep(length).await;
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
