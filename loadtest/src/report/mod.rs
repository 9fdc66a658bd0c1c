//! What came of a run: counts, percentiles and costs, as a table for people and as JSON for programs.
//! Measures nothing itself, and hides nothing: what makes a figure doubtful is said beside it.

pub mod compare;
#[cfg(test)]
pub(crate) mod documented;
mod environment;
mod gates;
mod hold;
mod latency;
mod output;
mod page;
mod second;
mod table;
mod usage;

pub use environment::{Environment, GeneratorProgram, Host, ServerProgram};
pub use gates::{FailArgs, Gate};
pub use hold::{Amount, HoldConditions, HoldReport, Memory, Seen, Stage, Stall};
pub use latency::{Curve, Percentiles, Point};
pub use output::OutputArgs;
pub use second::{GeneratorSecond, Second, ServerSecond};
pub use usage::{HostUsage, ServerUsage};

pub(crate) use gates::Found;
pub(crate) use latency::Latencies;
pub(crate) use output::{Conclusion, OutputOptions, command};
pub(crate) use usage::{HostSample, ProcessSample, ThreadSample, mib, rounded};

use crate::oracle::{Verdict, Wrong};
use crate::simulated::{Phases, Profile};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What the JSON of a report is called. `docs/load-reports.md` says what it has; a change that would mislead a reader of
/// this one gets another number, a new member does not.
pub const SCHEMA: &str = "corebid-loadtest/1";

/// Which of the two reports it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A [`Report`].
    Run,
    /// A [`HoldReport`].
    Hold,
}

/// A whole run. Its JSON is the `--json` output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: String,
    /// [`Kind::Run`].
    pub kind: Kind,
    /// What `--label` says.
    pub label: String,
    /// Where it took place.
    pub environment: Environment,
    /// What was asked for.
    pub conditions: Conditions,
    /// Requests meant to be sent in the measured window.
    pub measured: Tally,
    /// Requests meant to be sent before it. Checked, not measured.
    pub warmup: Tally,
    /// Rates over the measured window, per second.
    pub rates: Rates,
    /// From the intended send time to the complete answer: what a user of an open system sees. Requests given
    /// up count with the time they were waited for; refused and broken ones are not in here but in the
    /// counts.
    pub latency: Percentiles,
    /// Latency less the earliest moment at which this request's auction could have been complete (the slowest
    /// DSP, its timeout or the deadline): what the exchange, the kernel and this generator added.
    pub excess: Percentiles,
    /// From the moment the bytes were handed to the kernel to the complete answer. Blind to whatever delayed
    /// the sending: there for comparison with latency, not for publication.
    pub service_time: Percentiles,
    /// How late this generator was: from the intended send time to the attempt. Waiting for a free connection
    /// is not in here, that is the server's doing.
    pub send_lateness: Percentiles,
    /// How long requests that found no free connection waited for one. Part of their latency.
    pub connection_wait: Percentiles,
    /// Most connections open at once.
    pub connections_peak: usize,
    /// The server's cost, when its pid was given and it was there throughout.
    pub server: Option<ServerUsage>,
    /// The parts of the measured window, when the scenario has phases.
    pub phases: Vec<PhaseReport>,
    /// This program's own cost.
    pub generator: GeneratorUsage,
    /// The host's CPUs over the measured window.
    pub host: Option<HostUsage>,
    /// What errors and lost bids are allowed to be, and every other limit that was asked for.
    pub fail: FailArgs,
    /// What came of the limits that were asked for.
    pub gates: Vec<Gate>,
    /// Whether the run passes: the exit code in a word.
    pub passed: bool,
    /// What makes the figures doubtful, in words. Empty is good.
    pub warnings: Vec<String>,
    /// The first few wrong answers, for whoever has to find out why.
    pub examples: Vec<String>,
    /// The distributions of which percentiles are above.
    pub curves: Curves,
    /// Second by second, the warm-up too.
    pub seconds: Vec<Second>,
}

/// Distributions of the measured window.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Curves {
    /// From the intended send time.
    pub latency: Curve,
    /// Latency less the earliest that could have been.
    pub excess: Curve,
    /// From the actual send time.
    pub service_time: Curve,
    /// How late this generator was.
    pub send_lateness: Curve,
}

/// All phases of one name.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PhaseReport {
    /// As in the scenario.
    pub name: String,
    /// How long they were, in seconds.
    pub duration_s: f64,
    /// Rates over them, per second.
    pub rates: Rates,
    /// Of the requests meant to be sent in them.
    pub tally: Tally,
    /// As of the whole run.
    pub latency: Percentiles,
    /// As of the whole run, but nobody has to wait for a DSP that has a fault: what an exchange waits for it is
    /// in here.
    pub excess: Percentiles,
    /// The server's cost while they lasted.
    pub server: Option<ServerUsage>,
}

/// What was asked for, so that a saved report can be read on its own.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Conditions {
    /// Where requests went.
    pub target: String,
    /// `h1` or `h2`.
    pub protocol: String,
    /// Most connections allowed.
    pub connections_max: usize,
    /// Requests per second asked for.
    pub rate: f64,
    /// `poisson` or `constant`.
    pub arrivals: crate::generate::Arrivals,
    /// Length of the measured window, in seconds.
    pub duration_s: f64,
    /// Length of the warm-up before it, in seconds.
    pub warmup_s: f64,
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
    /// The scenario's phases, in their order.
    pub phases: Vec<PhaseConditions>,
}

/// A phase that was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PhaseConditions {
    /// As in the scenario.
    pub name: String,
    /// How long it is, in seconds.
    pub duration_s: f64,
    /// Multiplies the rate.
    pub rate_factor: f64,
    /// What is wrong with which DSPs, as `--fault` of `dsps` says it.
    pub faults: Vec<String>,
}

/// The profile of the simulated DSPs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct DspConditions {
    /// Seed of everything drawn.
    pub seed: u64,
    /// How many DSPs.
    pub count: u16,
    /// Median latency, in milliseconds.
    pub median_ms: f64,
    /// Sigma of the lognormal.
    pub sigma: f64,
    /// Share of imps bid on.
    pub bid_share: f64,
    /// Factor on latencies.
    pub scale_latency: f64,
    /// Added to latencies, in milliseconds.
    pub latency_floor_ms: f64,
}

/// Requests per second over the measured window.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Rates {
    /// What the schedule held. A Poisson schedule of rate R has R on average.
    pub offered: f64,
    /// What was sent.
    pub sent: f64,
    /// What was answered with 200 or 204, whenever it was sent.
    pub achieved: f64,
    /// Bid responses that an SSP could use: [`Tally::in_time`].
    pub in_time: f64,
}

/// Counts of what happened to a set of requests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// How many there were.
    pub requests: u64,
    /// Answers by HTTP status.
    pub statuses: BTreeMap<u16, u64>,
    /// Of the answers with status 200, those that were complete within the tmax of their request, counted from when it
    /// was meant to be sent.
    pub in_time: u64,
    /// Requests without an answer, by reason.
    pub errors: Errors,
    /// Requests that found no free connection and waited inside the generator.
    pub queued: u64,
    /// Answers that came before any exchange could have had all DSPs' answers: it asks fewer than it should,
    /// or its DSPs are not the ones of this profile.
    pub early: u64,
    /// What the oracle thinks of the answers with status 200 and 204.
    pub verification: Verification,
}

/// Requests without an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// The connection could not be opened.
    pub connect: u64,
    /// The connection or stream was closed before the answer was complete.
    pub reset: u64,
    /// No answer in time; given up.
    pub timeout: u64,
    /// Not HTTP.
    pub parse: u64,
    /// Bytes that came without a request outstanding.
    pub unasked: u64,
}

/// Verdicts of the oracle, each answer in exactly one of the first seven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// What an exchange without overhead would have answered.
    pub exact: u64,
    /// Right if some DSPs close to the deadline were heard and others not.
    pub within_grey: u64,
    /// Another bid was higher, or the seat made no such bid.
    pub wrong_winner: u64,
    /// The right winner at the wrong price.
    pub wrong_price: u64,
    /// No sale of an imp (or a 204) although a bid that was certainly in time could have won.
    pub unexpected_no_bid: u64,
    /// A sale although no bid could have won.
    pub missing_no_bid: u64,
    /// Not an answer to the question.
    pub malformed: u64,
    /// Of the wrong ones: those explained by bids that were certainly in time and were not heard. A wrong
    /// answer that is not among these is a wrong auction.
    pub bids_lost: u64,
}

/// What this program took.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct GeneratorUsage {
    /// Share of the measured window its one thread was on a CPU.
    pub cpu_share: f64,
    /// Share of the window it was runnable but another had the CPU.
    pub run_delay_share: f64,
    /// It was late or out of CPU: the figures say as much about the generator as about the server.
    pub was_the_limit: bool,
}

impl DspConditions {
    pub(crate) fn of(profile: &Profile) -> Self {
        Self {
            seed: profile.seed,
            count: profile.count,
            median_ms: profile.median_ms,
            sigma: profile.sigma,
            bid_share: profile.bid_share,
            scale_latency: profile.scale_latency,
            latency_floor_ms: profile.latency_floor_ms,
        }
    }
}

impl PhaseConditions {
    /// None, where the run has one that nobody asked for.
    pub(crate) fn of(phases: &Phases) -> Vec<PhaseConditions> {
        if !phases.are_marked() {
            return Vec::new();
        }
        let of_phase = |phase: &crate::simulated::Phase| PhaseConditions {
            name: phase.name.clone(),
            duration_s: phase.duration.as_secs_f64(),
            rate_factor: phase.rate_factor,
            faults: phase
                .faults
                .iter()
                .map(|(dsp, fault)| format!("{fault}@{}", dsp + 1))
                .collect(),
        };
        phases.list().iter().map(of_phase).collect()
    }
}

impl Report {
    /// Whether the run passes, given what it was told to tolerate and the limits it was given.
    pub(crate) fn passes(&self) -> bool {
        self.fail.tolerate(&self.measured)
            && self.warmup.verification.wrong_auctions() == 0
            && self.gates.iter().all(|gate| gate.passed)
    }

    /// Whether the exchange did everything right in the measured window, and nothing with money wrong before
    /// it. Bids lost and errors while warming up are forgiven: connections and caches were cold.
    pub fn is_clean(&self) -> bool {
        self.measured.verification.is_clean()
            && self.measured.errors == Errors::default()
            && self.measured.refused() == 0
            && self.warmup.verification.wrong_auctions() == 0
    }

    /// The `--json` output, one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The table for people, several lines.
    pub fn to_table(&self) -> String {
        table::render(self)
    }
}

impl Tally {
    /// Takes in another.
    pub(crate) fn add(&mut self, other: &Tally) {
        self.requests += other.requests;
        for (status, n) in &other.statuses {
            *self.statuses.entry(*status).or_default() += n;
        }
        self.in_time += other.in_time;
        self.errors.add(other.errors);
        self.queued += other.queued;
        self.early += other.early;
        self.verification.add(other.verification);
    }

    /// Answers of status 200 and 204.
    pub fn answers(&self) -> u64 {
        [200, 204]
            .iter()
            .filter_map(|status| self.statuses.get(status))
            .sum()
    }

    /// Share of the requests that were refused or had no answer.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit a double")]
    pub(crate) fn error_share(&self) -> f64 {
        (self.refused() + self.errors.total()) as f64 / self.requests.max(1) as f64
    }

    /// Share of the answers that lacked a bid.
    #[expect(clippy::cast_precision_loss, reason = "counts of a run fit a double")]
    pub(crate) fn lost_bid_share(&self) -> f64 {
        self.verification.bids_lost as f64 / self.answers().max(1) as f64
    }

    /// Answers of any other status.
    pub fn refused(&self) -> u64 {
        self.statuses.values().sum::<u64>() - self.answers()
    }
}

impl Errors {
    fn add(&mut self, other: Errors) {
        self.connect += other.connect;
        self.reset += other.reset;
        self.timeout += other.timeout;
        self.parse += other.parse;
        self.unasked += other.unasked;
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.connect + self.reset + self.timeout + self.parse + self.unasked
    }
}

impl Verification {
    fn add(&mut self, other: Verification) {
        self.exact += other.exact;
        self.within_grey += other.within_grey;
        self.wrong_winner += other.wrong_winner;
        self.wrong_price += other.wrong_price;
        self.unexpected_no_bid += other.unexpected_no_bid;
        self.missing_no_bid += other.missing_no_bid;
        self.malformed += other.malformed;
        self.bids_lost += other.bids_lost;
    }

    pub(crate) fn count(&mut self, verdict: &Verdict) {
        let counter = match verdict {
            Verdict::Exact => &mut self.exact,
            Verdict::WithinGrey => &mut self.within_grey,
            Verdict::Malformed(_) => &mut self.malformed,
            Verdict::Wrong {
                wrong: Wrong::Winner, ..
            } => &mut self.wrong_winner,
            Verdict::Wrong {
                wrong: Wrong::Price, ..
            } => &mut self.wrong_price,
            Verdict::Wrong {
                wrong: Wrong::UnexpectedNoBid,
                ..
            } => &mut self.unexpected_no_bid,
            Verdict::Wrong {
                wrong: Wrong::MissingNoBid,
                ..
            } => &mut self.missing_no_bid,
        };
        *counter += 1;
        self.bids_lost += u64::from(matches!(verdict, Verdict::Wrong { bids_lost: true, .. }));
    }

    /// Answers that no set of DSPs explains.
    pub fn wrong(&self) -> u64 {
        self.wrong_winner + self.wrong_price + self.unexpected_no_bid + self.missing_no_bid + self.malformed
    }

    /// Wrong answers that lost bids do not explain: the exchange broke its own rules.
    pub fn wrong_auctions(&self) -> u64 {
        self.wrong() - self.bids_lost
    }

    fn is_clean(&self) -> bool {
        self.wrong() == 0
    }
}
