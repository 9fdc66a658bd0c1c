//! Counts and histograms: recorded on the shard with plain integers, handed over by the interval, merged on
//! the housekeeping thread. Reads no clock, knows no module of ours, and on the recording path neither locks
//! nor allocates.
//!
//! ```text
//! shard 0: Recorder --publish()--> \
//! shard 1: Recorder --publish()-->  bounded channel --> Merged --> prometheus::render, views, files
//! shard n: Recorder --publish()--> /                      |   \
//!     ^------------- cleared intervals, to record into ---+    +--tick(), each second--> history, files
//! ```
//!
//! An interval is a box of counters: it is swapped, sent, added up, cleared and sent home, and so a shard
//! never touches the allocator for it and never pays for the clearing either.

mod counted;
mod distribution;
mod events;
mod history;
mod interval;
mod labels;
mod log_lines;
mod merged;
pub mod prometheus;
mod recorder;
mod views;

pub use distribution::Summary;
pub use events::{Chunk, EventLog, EventSource};
pub use history::interval_log_header;
pub use labels::{
    BidResult, BreakerState, ConnectionEnd, ConnectionState, DspFault, DspOutcome, DspState, EventFate,
    HandoverResult, HandshakeOutcome, Http, LateFound, LogLine, LongerBy, PanicLayer, Placed, Rehearsed,
    ReloadResult, Rounded, ShedReason, Stage, StallCause,
};
pub use log_lines::{LOG_LINES, LogLines};
pub use merged::{Merged, Moment};
pub use recorder::{ProcessCounters, Recorder, Recorders, Roster, STALL_NS_MIN, Seat, channel};
pub use views::{Dsps, Latency, Live, Window};
