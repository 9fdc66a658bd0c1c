//! Counts and histograms: recorded on the shard with plain integers, handed over by the interval, merged on
//! the housekeeping thread. Reads no clock, knows no module of ours, and on the recording path neither locks
//! nor allocates.
//!
//! ```text
//! shard 0: Recorder --publish()--> \
//! shard 1: Recorder --publish()-->  bounded channel --> Merged --> prometheus::render, summaries
//! shard n: Recorder --publish()--> /                      |
//!     ^------------- cleared intervals, to record into ---+
//! ```
//!
//! An interval is a box of counters: it is swapped, sent, added up, cleared and sent home, and so a shard
//! never touches the allocator for it and never pays for the clearing either.

mod distribution;
mod interval;
mod labels;
mod merged;
pub mod prometheus;
mod recorder;

pub use distribution::Summary;
pub use labels::{
    BidResult, ConnectionState, DspOutcome, HandshakeOutcome, Http, PanicLayer, Placed, Rounded, ShedReason,
    Stage,
};
pub use merged::{DspSummary, Merged};
pub use recorder::{ProcessCounters, Recorder, Recorders, Roster, channel};
