//! What came of a hold: how much was in flight for how long, what it cost, and whether every answer was right.

use super::usage::{mib, rounded};
use super::{
    Curves, DspConditions, Environment, FailArgs, Gate, GeneratorUsage, HostUsage, Kind, Percentiles, Second,
    ServerUsage, Tally,
};
use serde::{Deserialize, Serialize};

/// A whole hold. Its JSON is the `--json` output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldReport {
    /// [`SCHEMA`](super::SCHEMA).
    pub schema: String,
    /// [`Kind::Hold`].
    pub kind: Kind,
    /// What `--label` says.
    pub label: String,
    /// Where it took place.
    pub environment: Environment,
    /// What was asked for.
    pub conditions: HoldConditions,
    /// What was in flight.
    pub in_flight: Amount,
    /// Until all were in flight. `None` of this and the next two: it did not come to that.
    pub ramp: Option<Stage>,
    /// From then to the first answer.
    pub hold: Option<Stage>,
    /// From then to the last.
    pub drain: Option<Stage>,
    /// What happened to all requests.
    pub tally: Tally,
    /// From the intended send time to the complete answer, which holds the latency floor and so most of the hold.
    pub latency: Percentiles,
    /// From the moment at which the request's last DSP answered to the complete answer, more or less: latency less
    /// the latency of the slowest DSP.
    pub excess: Percentiles,
    /// How late this generator was.
    pub send_lateness: Percentiles,
    /// The server's memory, when its pid was given and it was there throughout.
    pub memory: Option<Memory>,
    /// What the server said it had in flight, when its admin port was given and answered.
    pub seen: Option<Seen>,
    /// This program's own cost.
    pub generator: GeneratorUsage,
    /// The host's CPUs, from the first request to the last that was sent.
    pub host: Option<HostUsage>,
    /// What errors and lost bids are allowed to be, and every other limit that was asked for.
    pub fail: FailArgs,
    /// What came of the limits that were asked for.
    pub gates: Vec<Gate>,
    /// Whether the hold passes: the exit code in a word.
    pub passed: bool,
    /// What makes the figures doubtful, in words. Empty is good.
    pub warnings: Vec<String>,
    /// The first few wrong answers, for whoever has to find out why.
    pub examples: Vec<String>,
    /// The distributions of which percentiles are above.
    pub curves: Curves,
    /// Second by second.
    pub seconds: Vec<Second>,
}

/// What was asked for, so that a saved report can be read on its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct HoldConditions {
    /// Where requests went.
    pub target: String,
    /// HTTP/2 connections allowed.
    pub connections: usize,
    /// Requests to have in flight.
    pub in_flight: u64,
    /// Requests per second until then.
    pub ramp: f64,
    /// How long to hold them, in seconds.
    pub duration_s: f64,
    /// The longest request body, in bytes.
    pub body_bytes: usize,
    /// Imps per request.
    pub imps: usize,
    /// The simulated DSPs.
    pub dsps: DspConditions,
    /// The auction rules expected.
    pub rules: crate::oracle::Rules,
    /// The exchange's deadline from arrival, in milliseconds.
    pub deadline_ms: f64,
    /// The exchange's timeout per DSP, in milliseconds.
    pub dsp_timeout_ms: f64,
    /// When a request was given up, in milliseconds after its intended time.
    pub timeout_ms: f64,
    /// The scenario's file; empty without one.
    pub scenario: String,
}

/// What was in flight, as the sender saw it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Amount {
    /// The most requests that were sent and not answered at once.
    pub reached: u64,
    /// The DSP calls that makes.
    pub calls: u64,
    /// From the moment the last request was sent to the first answer, in seconds; 0 if an answer came first.
    pub held_s: f64,
}

/// Ramp, hold or drain.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Stage {
    /// How long it was, in seconds.
    pub duration_s: f64,
    /// The server's cost in it; for each orchestration that began (ramp) or ended (drain) in it, of which there are
    /// none in the hold.
    pub server: Option<ServerUsage>,
    /// The longest that the server's event loop did not come to its turn, give or take a second at both ends.
    /// `None` if it did not say, or did not stall.
    pub longest_stall: Option<Stall>,
}

/// A duration between two bounds of a histogram.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stall {
    /// It was longer than this.
    pub over_ms: f64,
    /// And not longer than this; `None` past the last bound.
    pub at_most_ms: Option<f64>,
}

/// The server's resident memory.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Before the first request.
    pub before_mib: f64,
    /// With all of them in flight, just before the first is answered.
    pub held_mib: f64,
    /// The most it ever had (`VmHWM`).
    pub peak_mib: f64,
    /// What each in flight has added, held and at the peak.
    pub held_kib_each: f64,
    /// As above.
    pub peak_kib_each: f64,
}

/// What the server said of itself during the hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// So many times.
    pub samples: usize,
    /// The fewest in flight.
    pub in_flight_min: u64,
    /// The most in flight.
    pub in_flight_max: u64,
}

impl Memory {
    #[expect(clippy::cast_precision_loss, reason = "memory of a machine fits a double")]
    pub(crate) fn of(before: u64, held: u64, peak: u64, in_flight: u64) -> Memory {
        let kib_each = |bytes: u64| {
            let added = bytes.saturating_sub(before) as f64;
            rounded(added / 1024.0 / in_flight.max(1) as f64)
        };
        Memory {
            before_mib: mib(before),
            held_mib: mib(held),
            peak_mib: mib(peak),
            held_kib_each: kib_each(held),
            peak_kib_each: kib_each(peak),
        }
    }
}

impl HoldReport {
    /// Whether the hold passes, given what it was told to tolerate and the limits it was given.
    pub(crate) fn passes(&self) -> bool {
        self.was_held() && self.fail.tolerate(&self.tally) && self.gates.iter().all(|gate| gate.passed)
    }

    /// Whether all were in flight for as long as was asked, and answered, and rightly.
    pub fn is_clean(&self) -> bool {
        self.was_held()
            && self.tally.answers() == self.tally.requests
            && self.tally.errors.total() == 0
            && self.tally.verification.wrong() == 0
    }

    /// Whether all were in flight for as long as was asked, also by what the server said.
    pub fn was_held(&self) -> bool {
        let asked = &self.conditions;
        self.in_flight.reached == asked.in_flight
            && self.in_flight.held_s >= asked.duration_s
            && self.seen.is_none_or(|seen| seen.in_flight_min >= asked.in_flight)
    }

    /// The `--json` output, one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The table for people, several lines.
    pub fn to_table(&self) -> String {
        super::table::render_hold(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_for_each_in_flight() {
        let memory = Memory::of(10 << 20, 110 << 20, 210 << 20, 10_240);
        assert_eq!((memory.held_kib_each, memory.peak_kib_each), (10.0, 20.0));
        assert_eq!(
            (memory.before_mib, memory.held_mib, memory.peak_mib),
            (10.0, 110.0, 210.0)
        );
        assert_eq!(Memory::of(10, 5, 5, 0).held_kib_each, 0.0, "it may have shrunk");
    }
}
