//! Hands the listening sockets to a new process of the binary on disk, and takes them from an old one.
//!
//! ```text
//! old                                            new
//! starts it, with one end of a passage as its standard input
//! hello; each listener; admin's listener; ──►    reads its configuration, starts its shards,
//!                                                connects to DSPs, accepts
//!                                        ◄──     ready (or: failed, and why)
//! closes its admin port; yours           ──►     opens its own
//! stops accepting, finishes what is in
//! flight, ends with 0
//! ```
//!
//! The sockets are the same, not others on the same port: a listener that is closed resets who waits in its queue, so each
//! of them is always accepted from by somebody. Until the new process has said that it is ready the old one serves as
//! before, and goes on if that never comes.

mod give;
mod take;
mod wire;

pub(super) use give::{Attempt, Itself, Order, Taken};
pub use take::Inheritance;
pub(super) use take::{Estate, Predecessor};
