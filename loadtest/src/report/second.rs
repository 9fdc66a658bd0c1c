//! One second of a run, as the report keeps it.

use super::{HostUsage, Percentiles};
use serde::{Deserialize, Serialize};

/// A second: what became of the requests that were meant to be sent in it, and what went on while it passed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// When it began, in seconds since the start.
    pub at_s: f64,
    /// How long it was: 1, but for the last of the warm-up and of the run; more in a run of more than 6 hours.
    pub length_s: f64,
    /// It is part of the measured window.
    pub measured: bool,
    /// Requests meant to be sent in it.
    pub requests: u64,
    /// Of these, refused or without an answer.
    pub errors: u64,
    /// Of these, answered wrongly.
    pub wrong: u64,
    /// Of these.
    pub latency: Percentiles,
    /// Of these.
    pub excess: Percentiles,
    /// The latest that one of these was sent, in milliseconds.
    pub send_lateness_max_ms: f64,
    /// Sent while it passed, whenever they were meant to be.
    pub sent: u64,
    /// Answered with 200 or 204 while it passed.
    pub answered: u64,
    /// Sent and not answered at its end.
    pub in_flight: u64,
    /// The host's CPUs while it passed.
    pub host: HostUsage,
    /// This program's one thread while it passed.
    pub generator: GeneratorSecond,
    /// The server while it passed, when its pid was given.
    pub server: Option<ServerSecond>,
}

/// This program's one thread.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GeneratorSecond {
    /// Share of the second it was on a CPU.
    pub cpu_share: f64,
    /// Share of the second it was runnable but another had the CPU.
    pub run_delay_share: f64,
}

/// The server's process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServerSecond {
    /// CPUs busy on average.
    pub cpus_busy: f64,
    /// Threads that were runnable and waited for a CPU, on average.
    pub cpus_waited_for: f64,
    /// Memory that is resident, in MiB.
    pub rss_mib: f64,
}
