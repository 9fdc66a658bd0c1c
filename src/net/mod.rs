//! What a shard stands on: sockets, readiness, timers for hyper, compression with a bound.
//!
//! With `shard` the only place where glommio appears, so that the runtime stays replaceable. Nothing here knows
//! what the bytes mean.

mod bell;
pub mod gzip;
mod listener;
mod pause;
mod readiness;
mod signal;
mod socket;
mod stream;
mod timer;

pub use bell::Bell;
pub use listener::{Listener, bind, local_address, refuse_if_taken};
pub use pause::pause;
pub use readiness::{Interest, Readiness, Ready};
pub use signal::Signal;
pub use socket::{Progress, Socket};
pub use stream::HyperStream;
pub use timer::ShardTimer;

/// Runs `future` beside the caller on this shard, until it ends.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    glommio::spawn_local(future).detach();
}

/// Runs `future` to its end on an executor of its own, on this thread: for tests of what needs a shard's sockets.
#[cfg(test)]
pub(crate) fn run_as_shard<T>(future: impl Future<Output = T>) -> T {
    glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
        .io_memory(64 << 10)
        .make()
        .map(|executor| executor.run(future))
        .unwrap_or_else(|error| panic!("no executor: {error}"))
}

/// Lets every other task of this shard that can run do so first.
pub async fn yield_now() {
    futures_lite::future::yield_now().await;
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
