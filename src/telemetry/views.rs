//! What is shown of the counts, as JSON for programs and for the latency page. Durations are in nanoseconds unless a
//! name says otherwise.

use std::collections::BTreeMap;

use serde::ser::{SerializeMap as _, SerializeSeq as _};
use serde::{Serialize, Serializer};

use super::counted::Counted;
use super::distribution::Summary;
use super::history::{DETAILED_MAX, DspSecond, Second};
use super::interval::{BreakerCounts, ConnectionCounts, DspTally};
use super::labels::{
    BidResult, BreakerState, CodeCounts, ConnectionState, DspOutcome, DspState, LateFound, LongerBy,
    PanicLayer, ShedReason, Stage, StallCause, StatusCounts,
};
use super::merged::Merged;

/// Which counts to show.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// Those of the last so many seconds, at most 60.
    Seconds(usize),
    /// All since the process started.
    Start,
}

impl Window {
    /// Reads `start` or a number of seconds from 1 to 60.
    pub fn parse(text: &str) -> Option<Self> {
        if text == "start" {
            return Some(Self::Start);
        }
        let seconds = text.parse().ok()?;
        (1..=DETAILED_MAX)
            .contains(&seconds)
            .then_some(Self::Seconds(seconds))
    }
}

/// Fewer calls than this say nothing about a DSP.
const CALLS_TO_JUDGE_MIN: u64 = 20;

/// Percentiles by stage, DSP and shard.
#[derive(Debug, Serialize)]
pub struct Latency {
    stages: Vec<StageView>,
    dsps: Vec<NamedSummary>,
    shards: Vec<ShardSummary>,
    /// How long the window was, in seconds; absent since the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    window_s: Option<f64>,
}

/// State of each DSP.
#[derive(Debug, Serialize)]
pub struct Dsps {
    window_s: Option<f64>,
    dsps: Vec<DspView>,
}

/// All that the latency page needs to bring itself up to date.
#[derive(Debug, Serialize)]
pub struct Live {
    /// How long the window was, in seconds; absent since the start.
    window_s: Option<f64>,
    stages: Vec<StageView>,
    /// Of the chosen stage in the window: `[1 / (1 - quantile), ns]`.
    curve: Vec<(f64, u64)>,
    /// Of the same since the start.
    curve_since_start: Vec<(f64, u64)>,
    dsps: Vec<DspView>,
    shards: Vec<ShardView>,
    ssp: SspView,
    config: ConfigView,
    /// The seconds that the page does not have yet.
    seconds: Vec<SecondView>,
}

#[derive(Debug, Serialize)]
struct StageView {
    stage: &'static str,
    #[serde(flatten)]
    latency: Summary,
}

#[derive(Debug, Serialize)]
struct NamedSummary {
    name: String,
    #[serde(flatten)]
    latency: Summary,
}

#[derive(Debug, Serialize)]
struct ShardSummary {
    shard: usize,
    #[serde(flatten)]
    latency: Summary,
}

#[derive(Debug, Serialize)]
struct DspView {
    name: String,
    /// Whether it is in the configuration that is in force.
    configured: bool,
    state: &'static str,
    calls: ByLabel,
    bids: ByLabel,
    non_bids: ByCode,
    late: Summary,
    late_found: ByLabel,
    /// Those that would have won, by how many ms longer the DSP's time would have had to be.
    late_won: ByLabel,
    /// What SSPs would have got more, by currency and then by those ms: CPM in micros.
    late_revenue_cpm_micros: BTreeMap<String, ByLabel>,
    /// How many shards' breakers are in each state now; absent of a DSP without.
    #[serde(skip_serializing_if = "Option::is_none")]
    breakers: Option<ByLabel>,
    /// Calls per second that it may have at most, as its shards hold it; absent without a cap.
    #[serde(skip_serializing_if = "Option::is_none")]
    cap_qps: Option<f64>,
    /// How often they came to each state in the window.
    breaker_changes: ByLabel,
    connections: ByLabel,
    #[serde(flatten)]
    latency: Summary,
}

#[derive(Debug, Serialize)]
struct ShardView {
    shard: usize,
    in_flight: u64,
    /// Of its core, in the window; absent when that is not known.
    cpu_percent: Option<f64>,
    stall: Summary,
    stalls: ByLabel,
    queue_delay: Summary,
    timer_late: Summary,
    ssp_connections: u64,
    /// What bid requests in flight hold.
    memory_bytes: u64,
    #[serde(flatten)]
    latency: Summary,
}

#[derive(Debug, Serialize)]
struct SspView {
    statuses: Statuses,
    connections: ByLabel,
    shed: ByLabel,
    panics: ByLabel,
    deadline_missed: u64,
    losses: ByCode,
    /// These since the start: too rare for a window, too bad to miss.
    panics_since_start: ByLabel,
    shard_restarts_since_start: u64,
    /// Faults on purpose are allowed.
    rehearsal: bool,
}

/// What changed last is what is asked first.
#[derive(Debug, Serialize)]
struct ConfigView {
    /// As `config_info` in the metrics.
    hash: String,
    since_unix_ms: u64,
    last_reload_failed: bool,
}

#[derive(Debug, Serialize)]
struct SecondView {
    number: u64,
    unix_ms: u64,
    length_ms: u64,
    statuses: Statuses,
    in_flight: u64,
    total: Summary,
    /// Rows that hold anything: row, count, row, count, and so on.
    heat: Vec<u32>,
    /// Calls and failed calls of each DSP, in the order of `dsps`.
    dsps: PerDsp,
}

impl Merged {
    /// Percentiles by stage, DSP and shard in a window.
    pub fn latency(&self, window: Window) -> Latency {
        self.in_window(window, |counted, window_s| Latency {
            stages: stages(counted),
            dsps: counted
                .dsps
                .iter()
                .map(|(name, tally)| NamedSummary {
                    name: name.clone(),
                    latency: tally.latency.summary(),
                })
                .collect(),
            shards: counted
                .shards
                .iter()
                .map(|(&shard, counted)| ShardSummary {
                    shard,
                    latency: counted.total.summary(),
                })
                .collect(),
            window_s,
        })
    }

    /// Each stage since the process started.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, Summary)> {
        let stages = &self.total.tally.stages;
        Stage::ALL
            .into_iter()
            .zip(stages)
            .map(|(stage, distribution)| (stage, distribution.summary()))
    }

    /// The state of each DSP in a window.
    pub fn dsps(&self, window: Window) -> Dsps {
        self.in_window(window, |counted, window_s| Dsps {
            window_s,
            dsps: self.dsp_views(counted),
        })
    }

    /// What the latency page shows: a window, the percentile curve of one stage, and the seconds from number `since`.
    pub fn live(&self, window: Window, curve: Stage, since: u64) -> Live {
        self.in_window(window, |counted, window_s| Live {
            window_s,
            stages: stages(counted),
            curve: counted.tally.stages[curve as usize].curve(),
            curve_since_start: self.total.tally.stages[curve as usize].curve(),
            dsps: self.dsp_views(counted),
            shards: self.shard_views(counted),
            ssp: self.ssp_view(counted),
            config: self.config_view(),
            seconds: self.history.since(since).map(SecondView::of).collect(),
        })
    }

    fn in_window<R>(&self, window: Window, view: impl FnOnce(&Counted, Option<f64>) -> R) -> R {
        match window {
            Window::Start => view(&self.total, None),
            Window::Seconds(seconds) => {
                let mut counted = Counted::default();
                let length = self.history.add_up(seconds, &mut counted);
                view(&counted, Some(length.as_secs_f64()))
            }
        }
    }

    /// All DSPs that were ever configured, in the order of `total`, also those that the window knows nothing of.
    fn dsp_views(&self, counted: &Counted) -> Vec<DspView> {
        let (configured, connections) = (self.configured(), self.dsp_connections());
        let breakers = self.dsp_breakers();
        let mut caps = BTreeMap::<_, u64>::new();
        for (name, _, share) in self.dsp_rates() {
            *caps.entry(name).or_default() += share;
        }
        let nothing = DspTally::default();
        let in_window: BTreeMap<&str, &DspTally> = counted
            .dsps
            .iter()
            .map(|(name, tally)| (name.as_str(), tally))
            .collect();
        self.total
            .dsps
            .iter()
            .map(|(name, _)| {
                let tally = in_window.get(name.as_str()).copied().unwrap_or(&nothing);
                let connections = connections.get(name.as_str());
                let now = DspNow {
                    configured: configured.contains(name.as_str()),
                    connections,
                    breakers: breakers.get(name.as_str()),
                    milli_qps: caps.get(name.as_str()).copied(),
                };
                DspView {
                    late_revenue_cpm_micros: late_revenue(counted, name),
                    ..DspView::of(name, tally, &now)
                }
            })
            .collect()
    }

    fn shard_views(&self, counted: &Counted) -> Vec<ShardView> {
        self.shards
            .iter()
            .map(|(&shard, (_, gauges))| {
                let counted = counted.shards.get(&shard).cloned().unwrap_or_default();
                let looped = counted.looped;
                let connections = gauges.ssp_connections.sum();
                ShardView {
                    shard,
                    in_flight: gauges.in_flight,
                    cpu_percent: percent(looped.cpu_ns, looped.passed_ns),
                    stall: looped.stall.summary(),
                    stalls: by_label(StallCause::ALL, |cause| (cause.label(), looped.stalls.get(cause))),
                    queue_delay: looped.queue_delay.summary(),
                    timer_late: looped.timer_late.summary(),
                    ssp_connections: connections,
                    memory_bytes: gauges.memory_bytes,
                    latency: counted.total.summary(),
                }
            })
            .collect()
    }

    fn ssp_view(&self, counted: &Counted) -> SspView {
        let tally = &counted.tally;
        SspView {
            statuses: Statuses(tally.requests),
            connections: of_connections(&self.ssp_connections()),
            shed: by_label(ShedReason::ALL, |reason| (reason.label(), tally.shed.get(reason))),
            panics: by_label(PanicLayer::ALL, |layer| (layer.label(), tally.panics.get(layer))),
            deadline_missed: tally.deadline_missed,
            losses: ByCode(tally.losses),
            panics_since_start: by_label(PanicLayer::ALL, |layer| (layer.label(), self.panics(layer))),
            shard_restarts_since_start: self.shard_restarts(),
            rehearsal: self.process().is_rehearsing(),
        }
    }

    fn config_view(&self) -> ConfigView {
        let process = self.process();
        ConfigView {
            hash: format!("{:016x}", process.config_hash()),
            since_unix_ms: process.config_since_ms(),
            last_reload_failed: process.last_reload_failed(),
        }
    }
}

fn stages(counted: &Counted) -> Vec<StageView> {
    let view = |(stage, durations): (Stage, &super::distribution::Distribution)| StageView {
        stage: stage.label(),
        latency: durations.summary(),
    };
    Stage::ALL
        .into_iter()
        .zip(&counted.tally.stages)
        .map(view)
        .collect()
}

/// What is true of a DSP now.
struct DspNow<'a> {
    configured: bool,
    connections: Option<&'a ConnectionCounts>,
    breakers: Option<&'a BreakerCounts>,
    milli_qps: Option<u64>,
}

impl DspView {
    fn of(name: &str, tally: &DspTally, now: &DspNow<'_>) -> Self {
        Self {
            name: name.to_owned(),
            configured: now.configured,
            state: state(tally, now.milli_qps.is_some()).label(),
            calls: by_label(DspOutcome::ALL, |outcome| {
                (outcome.label(), tally.calls.get(outcome))
            }),
            bids: by_label(BidResult::ALL, |result| (result.label(), tally.bids.get(result))),
            non_bids: ByCode(tally.non_bids),
            late: tally.late.summary(),
            late_found: by_label(LateFound::ALL, |found| {
                (found.label(), tally.late_found.get(found))
            }),
            late_won: by_label(LongerBy::ALL, |longer| {
                (longer.label(), tally.late_won.get(longer))
            }),
            late_revenue_cpm_micros: BTreeMap::new(),
            breakers: now.breakers.map(of_breakers),
            cap_qps: now.milli_qps.map(calls_per_second),
            breaker_changes: of_breakers(&tally.breaker_changes),
            connections: of_connections(&now.connections.copied().unwrap_or_default()),
            latency: tally.latency.summary(),
        }
    }
}

fn late_revenue(counted: &Counted, dsp: &str) -> BTreeMap<String, ByLabel> {
    counted
        .late_revenue_of(dsp)
        .map(|(currency, revenue)| {
            let by_ms = by_label(LongerBy::ALL, |longer| (longer.label(), revenue.get(longer)));
            (currency.to_owned(), by_ms)
        })
        .collect()
}

impl SecondView {
    fn of(second: &Second) -> Self {
        let rows = (0_u32..).zip(second.heat).filter(|&(_, count)| count > 0);
        Self {
            number: second.number,
            unix_ms: millis(second.span.start),
            length_ms: millis(second.span.length),
            statuses: Statuses(second.requests),
            in_flight: second.in_flight,
            total: second.total,
            heat: rows.flat_map(|(row, count)| [row, count]).collect(),
            dsps: PerDsp(second.dsps.clone()),
        }
    }
}

/// How a DSP does, see [`DspState`]. To leave calls unmade that are above its cap is what the cap is for.
fn state(tally: &DspTally, has_cap: bool) -> DspState {
    let DspSecond { calls, failed } = DspSecond::of(tally);
    let throttled = tally.calls.get(DspOutcome::Throttled);
    let above_cap = if has_cap { throttled } else { 0 };
    let (calls, failed) = (calls - above_cap, failed - above_cap);
    let not_asked = throttled - above_cap + tally.calls.get(DspOutcome::OpenBreaker);
    if calls < CALLS_TO_JUDGE_MIN {
        DspState::Quiet
    } else if not_asked * 2 >= calls {
        DspState::NotAsked
    } else if failed * 5 >= calls {
        DspState::Failing
    } else if failed * 20 >= calls {
        DspState::Degraded
    } else {
        DspState::Good
    }
}

fn millis(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[expect(clippy::cast_precision_loss, reason = "a percentage to look at")]
fn percent(part: u64, whole: u64) -> Option<f64> {
    // To a tenth: more digits are bytes for nobody.
    (whole > 0).then(|| (part as f64 * 1_000.0 / whole as f64).round() / 10.0)
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a cap is configured in whole calls, far below 2^52"
)]
fn calls_per_second(milli_qps: u64) -> f64 {
    milli_qps as f64 / 1000.0
}

/// A count for each of a label's values, as an object.
#[derive(Debug)]
struct ByLabel(Vec<(&'static str, u64)>);

fn by_label<L: Copy, const N: usize>(all: [L; N], count: impl Fn(L) -> (&'static str, u64)) -> ByLabel {
    ByLabel(all.into_iter().map(count).collect())
}

fn of_connections(counts: &ConnectionCounts) -> ByLabel {
    by_label(ConnectionState::ALL, |state| (state.label(), counts.get(state)))
}

fn of_breakers(counts: &BreakerCounts) -> ByLabel {
    by_label(BreakerState::ALL, |state| (state.label(), counts.get(state)))
}

impl Serialize for ByLabel {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().copied())
    }
}

/// A count for each code that was given.
#[derive(Debug)]
struct ByCode(CodeCounts);

impl Serialize for ByCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (code, count) in self.0.iter() {
            map.serialize_entry(
                &code.map_or_else(|| "other".to_owned(), |code| code.to_string()),
                &count,
            )?;
        }
        map.end()
    }
}

/// A count for each HTTP status that was answered.
#[derive(Debug)]
struct Statuses(StatusCounts);

impl Serialize for Statuses {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (status, count) in self.0.iter().filter(|&(_, count)| count > 0) {
            map.serialize_entry(
                &status.map_or_else(|| "other".to_owned(), |status| status.to_string()),
                &count,
            )?;
        }
        map.end()
    }
}

/// Two numbers for each DSP, in one list.
#[derive(Debug)]
struct PerDsp(Box<[DspSecond]>);

impl Serialize for PerDsp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.0.len() * 2))?;
        for second in &self.0 {
            list.serialize_element(&second.calls)?;
            list.serialize_element(&second.failed)?;
        }
        list.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows() {
        #[track_caller]
        fn check(text: &str, expected: Option<Window>) {
            assert_eq!(Window::parse(text), expected, "{text}");
        }
        check("start", Some(Window::Start));
        check("1", Some(Window::Seconds(1)));
        check("60", Some(Window::Seconds(60)));
        check("0", None);
        check("61", None);
        check("-1", None);
        check("1.5", None);
        check("", None);
    }

    #[test]
    fn states_of_a_dsp() {
        /// Calls that were answered, failed, and were not made.
        #[track_caller]
        fn check(answered: u64, failed: u64, not_asked: u64, expected: DspState) {
            let mut tally = DspTally::default();
            tally.calls.add(DspOutcome::NoBid, answered);
            tally.calls.add(DspOutcome::Timeout, failed);
            tally.calls.add(DspOutcome::OpenBreaker, not_asked);
            for has_cap in [false, true] {
                assert_eq!(
                    state(&tally, has_cap),
                    expected,
                    "{answered} {failed} {not_asked}"
                );
            }
        }
        let mut tally = DspTally::default();
        tally.calls.add(DspOutcome::NoBid, 20);
        tally.calls.add(DspOutcome::Throttled, 1000);
        let states = [false, true].map(|has_cap| state(&tally, has_cap));
        assert_eq!(states, [DspState::NotAsked, DspState::Good]);
        tally.calls.add(DspOutcome::Cut, 1000);
        assert_eq!(
            state(&tally, true),
            DspState::Good,
            "whoever is not waited for has not failed"
        );
        check(0, 0, 0, DspState::Quiet);
        check(0, 19, 0, DspState::Quiet);
        check(0, 20, 0, DspState::Failing);
        check(20, 0, 0, DspState::Good);
        check(96, 4, 0, DspState::Good);
        check(95, 5, 0, DspState::Degraded);
        check(81, 19, 0, DspState::Degraded);
        check(80, 20, 0, DspState::Failing);
        check(51, 0, 49, DspState::Failing);
        check(50, 0, 50, DspState::NotAsked);
        check(0, 50, 50, DspState::NotAsked);
    }
}
