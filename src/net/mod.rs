//! What a shard stands on: sockets, TLS, readiness, timers for hyper, compression with a bound.
//!
//! With `shard` the only place where glommio appears, so that the runtime stays replaceable. Nothing here knows
//! what the bytes mean.

mod beginnings;
mod channel;
mod doorbell;
pub mod gzip;
mod inlet;
mod listener;
mod passage;
mod prefetch;
mod readiness;
mod rouser;
mod shard_fd;
mod signal;
mod socket;
mod stamped;
mod stream;
mod tasks;
mod timer;
pub mod tls;

pub use beginnings::{MayBegin, begin_nothing, begin_until, may_begin, some_wait_to_begin};
pub use channel::{Channel, Received};
pub use doorbell::{Doorbell, Hearing};
pub use inlet::Inlet;
pub use listener::{BACKLOG, Listener, bind, local_address, refuse_if_taken};
pub use passage::{Message, Passage};
pub use prefetch::{prefetch, prefetch_slice};
pub use readiness::{Failure, Interest, Readiness, Ready, Watch, sleep_precisely};
pub use rouser::Rouser;
pub use shard_fd::close_all;
pub use signal::Signal;
pub use socket::{Progress, Socket};
pub use stream::{HyperStream, Overseer, Unseen};
#[cfg(test)]
pub(crate) use tasks::run_as_shard;
pub use tasks::{ShardExecutor, panicked, run, settle, spawn};
pub use timer::ShardTimer;
