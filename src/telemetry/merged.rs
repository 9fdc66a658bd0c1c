//! The housekeeping thread's end: the sum of all intervals of all shards, and what the last quarter of an hour was like.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::Receiver;
use histogram_files::percentile_file;

use super::counted::Counted;
use super::history::{History, Span};
use super::interval::{BreakerCounts, ConnectionCounts, Gauges, Interval};
use super::labels::{ConnectionState, PanicLayer, Stage};
use super::recorder::{ProcessCounters, Roster};

/// How long an interval of the history is: what people and HdrHistogram's tools are used to.
const SECOND: Duration = Duration::from_secs(1);

/// DSPs that are in no configuration any more and are still told of: their counters go on to be there, so that the last
/// of them are not lost to who scrapes. Each is some 100 kB here and 7 kB in a scrape; beyond so many, those that were
/// taken out first are forgotten.
const REMOVED_KEPT: usize = 64;

/// Everything counted since the process started, over all shards, and second by second for the last ones.
pub struct Merged {
    inbox: Receiver<Box<Interval>>,
    process: Arc<ProcessCounters>,
    pub(super) total: Counted,
    /// The second that is not over yet.
    second: Counted,
    second_began: Option<Moment>,
    /// When it is over, on the monotonic clock.
    second_ends: Duration,
    pub(super) history: History,
    /// By shard: what it last said of itself.
    pub(super) shards: BTreeMap<usize, (Arc<Roster>, Gauges)>,
    /// Of `total.dsps`, those that no shard's roster has any more, in the order in which that was so.
    removed: Vec<String>,
}

/// A moment on both clocks: the one to measure by, and the one to tell people.
#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Since any instant, never going back.
    pub monotonic: Duration,
    /// Since the Unix epoch.
    pub unix: Duration,
}

impl Merged {
    pub(super) fn new(inbox: Receiver<Box<Interval>>, process: Arc<ProcessCounters>) -> Self {
        Self {
            inbox,
            process,
            total: Counted::default(),
            second: Counted::default(),
            second_began: None,
            second_ends: Duration::ZERO,
            history: History::default(),
            shards: BTreeMap::new(),
            removed: Vec::new(),
        }
    }

    /// Adds up all intervals that have arrived and sends them home. Does not wait; returns how many there
    /// were.
    pub fn collect(&mut self) -> usize {
        let mut collected = 0;
        while let Ok(mut interval) = self.inbox.try_recv() {
            self.add(&interval);
            interval.clear();
            let home = interval.home.take();
            // A shard that has ended takes nothing back: then the interval is dropped here.
            let _ = home.map(|home| home.try_send(interval));
            collected += 1;
        }
        collected
    }

    /// Ends the second if it is over, and returns its lines for an interval log. What a shard hands over counts in the
    /// second in which it arrives, up to a quarter of a second late.
    pub fn tick(&mut self, now: Moment) -> Option<Arc<[u8]>> {
        if self.second_began.is_none() {
            self.begin_second(now, now.monotonic);
            return None;
        }
        (now.monotonic >= self.second_ends)
            .then(|| self.end_second(now))
            .flatten()
    }

    /// Ends the second, over or not; `None` if none was begun.
    pub fn end_second(&mut self, now: Moment) -> Option<Arc<[u8]>> {
        let began = self.second_began?;
        let span = Span {
            start: began.unix,
            length: now.monotonic.saturating_sub(began.monotonic),
        };
        let in_flight = self.in_flight().map(|(_, n)| n).sum();
        let lines = self.history.add(&self.second, in_flight, span);
        self.second.clear();
        self.begin_second(now, self.second_ends);
        Some(lines)
    }

    fn begin_second(&mut self, now: Moment, due: Duration) {
        self.second_began = Some(now);
        // A second after it was due, so that 900 of them are a quarter of an hour; who slept through several has one
        // long one, and begins anew.
        let after = if due + SECOND > now.monotonic {
            due
        } else {
            now.monotonic
        };
        self.second_ends = after + SECOND;
    }

    /// The interval log of the seconds that are kept, see `history`.
    pub fn interval_log(&self) -> Vec<u8> {
        self.history.interval_log()
    }

    /// HdrHistogram's percentile file of a stage, since the process started.
    pub fn percentiles_of_stage(&self, stage: Stage) -> String {
        percentile_file(self.total.tally.stages[stage as usize].histogram())
    }

    /// HdrHistogram's percentile file of a DSP's calls, since the process started; `None` if it was never configured.
    pub fn percentiles_of_dsp(&self, name: &str) -> Option<String> {
        let (_, tally) = self.total.dsps.iter().find(|(known, _)| known == name)?;
        Some(percentile_file(tally.latency.histogram()))
    }

    /// Answers to SSPs by HTTP status; `None` is any status without a count of its own.
    pub fn requests(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        self.total.tally.requests.iter()
    }

    /// Orchestrations in flight by shard, as each shard said last.
    pub fn in_flight(&self) -> impl Iterator<Item = (usize, u64)> {
        self.shards
            .iter()
            .map(|(&shard, (_, gauges))| (shard, gauges.in_flight))
    }

    /// What orchestrations in flight hold, in bytes by shard, as each shard said last.
    pub(super) fn memory(&self) -> impl Iterator<Item = (usize, u64)> {
        self.shards
            .iter()
            .map(|(&shard, (_, gauges))| (shard, gauges.memory_bytes))
    }

    pub(super) fn panics(&self, layer: PanicLayer) -> u64 {
        let of_process = match layer {
            PanicLayer::Request => 0,
            PanicLayer::Shard => self.process.shard_panics(),
        };
        self.total.tally.panics.get(layer) + of_process
    }

    pub(super) fn shard_restarts(&self) -> u64 {
        self.process.shard_restarts()
    }

    /// Connections from SSPs by shard, as each shard said last.
    pub(super) fn ssp_connections_by_shard(&self) -> impl Iterator<Item = (usize, u64)> {
        self.shards.iter().map(|(&shard, (_, gauges))| {
            let count = |state| gauges.ssp_connections.get(state);
            (shard, ConnectionState::ALL.into_iter().map(count).sum())
        })
    }

    pub(super) fn ssp_connections(&self) -> ConnectionCounts {
        let mut sum = ConnectionCounts::default();
        self.shards
            .values()
            .for_each(|(_, gauges)| sum.merge(&gauges.ssp_connections));
        sum
    }

    /// The DSPs of the configuration that is in force; while a reload is under way, of both.
    pub(super) fn configured(&self) -> BTreeSet<&str> {
        self.shards
            .values()
            .flat_map(|(roster, _)| roster.asked())
            .collect()
    }

    /// Over all shards, by DSP name: of DSPs that are configured, and of others as long as they have any.
    pub(super) fn dsp_connections(&self) -> BTreeMap<&str, ConnectionCounts> {
        let mut sums: BTreeMap<_, ConnectionCounts> = self
            .configured()
            .into_iter()
            .map(|name| (name, ConnectionCounts::default()))
            .collect();
        for (roster, gauges) in self.shards.values() {
            for (name, counts) in roster.dsps().zip(&gauges.dsp_connections) {
                if let Some(name) = name.filter(|name| counts.sum() > 0 || sums.contains_key(name)) {
                    sums.entry(name).or_default().merge(counts);
                }
            }
        }
        sums
    }

    /// Which configuration new bid requests meet, by shard; 0 of a shard that is gone.
    pub(super) fn config_generations(&self) -> impl Iterator<Item = (usize, u64)> {
        self.shards
            .iter()
            .map(|(&shard, (_, gauges))| (shard, gauges.config_generation))
    }

    /// What is counted outside any shard.
    pub fn process(&self) -> &ProcessCounters {
        &self.process
    }

    /// How many shards' breakers are in each state, by the name of a DSP that is configured and has any.
    pub(super) fn dsp_breakers(&self) -> BTreeMap<&str, BreakerCounts> {
        let mut sums = BTreeMap::<_, BreakerCounts>::new();
        for (roster, gauges) in self.shards.values() {
            for (name, gate) in roster.asked_with(&gauges.gates) {
                if gate.breaker.sum() > 0 {
                    sums.entry(name).or_default().merge(&gate.breaker);
                }
            }
        }
        sums
    }

    /// Each shard's share of each cap of calls per second, in thousandths of a call.
    pub(super) fn dsp_rates(&self) -> impl Iterator<Item = (&str, usize, u64)> {
        self.shards.iter().flat_map(|(&shard, (roster, gauges))| {
            let gates = roster.asked_with(&gauges.gates);
            gates.filter_map(move |(name, gate)| Some((name, shard, gate.milli_qps?)))
        })
    }

    fn add(&mut self, interval: &Interval) {
        self.total.add(interval);
        self.second.add(interval);
        let said = (Arc::clone(&interval.roster), interval.gauges.clone());
        let before = self.shards.insert(interval.shard, said);
        let is_known = before.is_some_and(|(roster, _)| Arc::ptr_eq(&roster, &interval.roster));
        if !is_known {
            self.forget_who_left_first();
        }
    }

    fn forget_who_left_first(&mut self) {
        let there: BTreeSet<_> = self
            .shards
            .values()
            .flat_map(|(roster, _)| roster.dsps().flatten())
            .collect();
        self.removed.retain(|name| !there.contains(name.as_str()));
        for (name, _) in &self.total.dsps {
            if !there.contains(name.as_str()) && !self.removed.contains(name) {
                self.removed.push(name.clone());
            }
        }
        let too_many = self.removed.len().saturating_sub(REMOVED_KEPT);
        for name in self.removed.drain(..too_many) {
            self.second.forget_dsp(&name);
            if let Some(index) = self.total.forget_dsp(&name) {
                self.history.forget_dsp(index);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::distribution::Distribution;
    use super::super::labels::{
        BidResult, BreakerState, ConnectionEnd, ConnectionState, DspFault, DspOutcome, HandshakeOutcome,
        Http, LateFound, LongerBy, Placed, ShedReason,
    };
    use super::super::recorder::{Recorder, Recorders, Seat, channel};
    use super::*;

    const SHARDS: u64 = 4;

    fn roster(dsps: &[&str]) -> Arc<Roster> {
        Arc::new(Roster::new(
            dsps.iter().map(|&name| name.to_owned()).collect(),
            "USD",
        ))
    }

    /// Request number `n`, as one shard would count it: values that differ in every field.
    fn record(recorder: &Recorder, n: u64) {
        let dsp = usize::from(n.is_multiple_of(3));
        for (index, stage) in (1..).zip(Stage::ALL) {
            recorder.stage(stage, n * 977 * index);
        }
        recorder.request(if n.is_multiple_of(5) { 200 } else { 204 });
        recorder.dsp_call(dsp, DspOutcome::ALL[usize::try_from(n % 8).unwrap()], n * 10_007);
        recorder.dsp_late(dsp, n * 501);
        let longer = LongerBy::of(n * 501_000, n.is_multiple_of(11));
        recorder.dsp_late_answer(dsp, LateFound::ALL[usize::try_from(n % 5).unwrap()], longer);
        recorder.dsp_late_revenue(dsp, longer, "USD", n * 31);
        recorder.bid(dsp, BidResult::Lost);
        recorder.loss(u16::try_from(100 + n % 4).unwrap());
        recorder.non_bid(dsp, 101);
        recorder.dsp_fault(dsp, DspFault::Status);
        recorder.dsp_handshake(
            dsp,
            HandshakeOutcome::ALL[usize::try_from(n % 7).unwrap()],
            n * 20_011,
        );
        recorder.breaker_changed(dsp, BreakerState::Open, n % 2);
        recorder.clearing_price("USD", n * 1_003);
        recorder.shed(ShedReason::InFlight);
        recorder.connection_accepted(Placed::Passed);
        recorder.connection_aged(Http::H2);
        recorder.connection_ended(ConnectionEnd::Flood);
        recorder.request_cancelled();
        recorder.request_panicked();
        recorder.deadline_missed();
        recorder.events_dropped(n % 3);
        recorder.loop_stall(n * 977, || n * 500);
        recorder.queue_delay(n * 5);
        recorder.timer_late(n * 7);
        recorder.cpu(n, n * 2);
    }

    /// The slow obvious way: all in one recorder, handed over once.
    fn recorded_at_once(requests: impl Iterator<Item = u64>) -> Merged {
        let (recorders, mut merged) = channel(1);
        let recorder = recorders.recorder(0, &roster(&["a", "b"]));
        requests.for_each(|n| record(&recorder, n));
        assert!(recorder.publish());
        assert_eq!(merged.collect(), 1);
        merged
    }

    #[test]
    fn what_shards_recorded_equals_one_recorder_of_the_same() {
        let (recorders, mut merged) = channel(1); // fewer places than shards: the channel is often full
        let shards: Vec<_> = (0..SHARDS)
            .map(|shard| {
                let recorders: Recorders = recorders.clone();
                thread::spawn(move || {
                    let recorder = recorders.recorder(usize::try_from(shard).unwrap(), &roster(&["a", "b"]));
                    for n in (0..20_000).filter(|n| n % SHARDS == shard) {
                        record(&recorder, n);
                        if n % 50 < SHARDS {
                            recorder.publish();
                        }
                    }
                    // Not left to the recorder's end, which waits a quarter of a second and no longer.
                    while !recorder.publish() {
                        thread::yield_now();
                    }
                })
            })
            .collect();
        while !shards.iter().all(thread::JoinHandle::is_finished) {
            merged.collect();
        }
        shards.into_iter().for_each(|shard| shard.join().unwrap());
        merged.collect();

        let expected = recorded_at_once(0..20_000);
        let of_codes = |merged: &Merged| {
            let mut codes: Vec<_> = merged.total.tally.losses.iter().collect();
            codes.sort_unstable();
            codes
        };
        assert_eq!(of_codes(&merged), of_codes(&expected));
        merged.total.tally.losses = expected.total.tally.losses; // in another order
        assert_eq!(merged.total.tally, expected.total.tally);
        assert_eq!(merged.total.dsps, expected.total.dsps);
        assert_eq!(merged.total.clearing_prices, expected.total.clearing_prices);
        assert_eq!(merged.total.late_revenue, expected.total.late_revenue);
        assert_eq!(merged.total.loops(), expected.total.loops());
        let mut of_shards = Distribution::of_stage();
        merged
            .total
            .shards
            .values()
            .for_each(|shard| of_shards.merge(&shard.total));
        assert_eq!(of_shards, expected.total.tally.stages[Stage::Total as usize]);
    }

    #[test]
    fn nothing_is_lost_while_nobody_collects() {
        let (recorders, mut merged) = channel(1);
        let recorder = recorders.recorder(0, &roster(&["a", "b"]));
        for n in 0..1_000 {
            record(&recorder, n);
            assert_eq!(
                recorder.publish(),
                n == 0,
                "one interval travels, the other is recorded into"
            );
        }
        assert_eq!(merged.collect(), 1);
        assert!(recorder.publish());
        assert_eq!(merged.collect(), 1);
        assert_eq!(merged.total.tally, recorded_at_once(0..1_000).total.tally);
    }

    #[test]
    fn a_full_channel_keeps_the_interval() {
        let (recorders, mut merged) = channel(1);
        let [first, second, third] = [0, 1, 2].map(|shard| recorders.recorder(shard, &roster(&["a", "b"])));
        assert!(first.publish() && second.publish());
        record(&third, 1);
        assert!(!third.publish(), "the channel holds two");
        record(&third, 2);
        assert_eq!(merged.collect(), 2);
        assert!(third.publish());
        assert_eq!(merged.collect(), 1);
        assert_eq!(merged.total.tally, recorded_at_once(1..3).total.tally);
    }

    #[test]
    fn a_recorder_that_ends_hands_over_its_last_interval() {
        let (recorders, mut merged) = channel(1);
        let recorder = recorders.recorder(0, &roster(&["a", "b"]));
        recorder.in_flight(7);
        recorder.memory(70_000);
        recorder.publish();
        merged.collect();
        assert_eq!(merged.in_flight().collect::<Vec<_>>(), [(0, 7)]);
        assert_eq!(merged.memory().collect::<Vec<_>>(), [(0, 70_000)]);
        record(&recorder, 1);
        drop(recorder);
        merged.collect();
        assert_eq!(merged.total.tally, recorded_at_once(1..2).total.tally);
        assert_eq!(
            merged.in_flight().collect::<Vec<_>>(),
            [(0, 0)],
            "a shard that is gone holds nothing"
        );
    }

    #[test]
    fn gauges_are_kept_until_set_again() {
        let (recorders, mut merged) = channel(2);
        let [first, second] = [0, 1].map(|shard| recorders.recorder(shard, &roster(&["a", "b"])));
        first.in_flight(3);
        second.in_flight(4);
        first.dsp_connections(1, ConnectionState::Idle, 5);
        second.dsp_connections(1, ConnectionState::Idle, 6);
        first.ssp_connections(ConnectionState::Active, 2);
        first.ssp_connections(ConnectionState::Idle, 1);
        for _ in 0..3 {
            assert!(first.publish() && second.publish());
            merged.collect();
            assert_eq!(merged.in_flight().collect::<Vec<_>>(), [(0, 3), (1, 4)]);
            assert_eq!(merged.dsp_connections()["b"].get(ConnectionState::Idle), 11);
            assert_eq!(merged.ssp_connections().get(ConnectionState::Active), 2);
            assert_eq!(
                merged.ssp_connections_by_shard().collect::<Vec<_>>(),
                [(0, 3), (1, 0)]
            );
        }
    }

    #[test]
    fn a_reload_with_other_dsps_keeps_each_dsps_counts() {
        let (recorders, mut merged) = channel(1);
        for (dsps, index) in [(["a", "b"], 1), (["b", "c"], 0)] {
            let recorder = recorders.recorder(0, &roster(&dsps));
            recorder.dsp_call(index, DspOutcome::Bid, 1_000_000);
            recorder.dsp_late_revenue(index, LongerBy::Ms5, "USD", 7);
            drop(recorder);
            merged.collect();
        }
        let bids: Vec<_> = merged
            .total
            .dsps
            .iter()
            .map(|(name, tally)| (name.clone(), tally.calls.get(DspOutcome::Bid)))
            .collect();
        assert_eq!(
            bids,
            [("a".to_owned(), 0), ("b".to_owned(), 2), ("c".to_owned(), 0)]
        );
        let lost: Vec<_> = merged.total.late_revenue["USD"]
            .iter()
            .map(|revenue| revenue.get(LongerBy::Ms5))
            .collect();
        assert_eq!(lost, [0, 14, 0]);
    }

    #[test]
    fn a_recorder_that_goes_on_with_another_roster_loses_nothing() {
        let (recorders, mut merged) = channel(1); // two places
        let recorder = recorders.recorder(0, &roster(&["a", "b"]));
        let seats = |seats: &[Seat]| Arc::new(Roster::of(seats.to_vec(), "USD"));
        let [a, b, c] = ["a", "b", "c"].map(str::to_owned);
        let calls = |merged: &Merged| -> Vec<(String, u64)> {
            let dsps = merged.total.dsps.iter();
            dsps.map(|(name, tally)| (name.clone(), tally.calls.sum()))
                .collect()
        };
        let call = |dsp| recorder.dsp_call(dsp, DspOutcome::Bid, 1);
        recorder.in_flight(7);
        recorder.dsp_connections(1, ConnectionState::Idle, 5);
        (0..2).for_each(call);
        recorder.clearing_price("USD", 1);
        // `a` leaves and is still called by what is in flight, `b` is reached anew, `c` is new.
        recorder.go_on_with(&seats(&[
            Seat::Leaving(a.clone()),
            Seat::Leaving(b.clone()),
            Seat::Asked(b.clone()),
            Seat::Asked(c.clone()),
        ]));
        (0..4).for_each(call);
        recorder.dsp_connections(2, ConnectionState::Idle, 1);
        assert!(!recorder.is_behind());
        // Nobody collects: the channel is full, what is counted waits.
        assert!(recorder.publish());
        recorder.go_on_with(&Arc::new(Roster::of(
            vec![Seat::Asked(c.clone()), Seat::Empty, Seat::Asked(b.clone())],
            "EUR",
        )));
        assert!(recorder.is_behind() && !recorder.publish());
        recorder.clearing_price("USD", 1);
        recorder.clearing_price("EUR", 1);
        call(0);
        merged.collect();
        assert_eq!(calls(&merged), [(a.clone(), 2), (b.clone(), 3), (c.clone(), 1)]);
        assert_eq!(merged.configured(), BTreeSet::from(["b", "c"]));
        let idle = |merged: &Merged| -> Vec<(String, u64)> {
            let dsps = merged.dsp_connections().into_iter();
            dsps.map(|(name, counts)| (name.to_owned(), counts.get(ConnectionState::Idle)))
                .collect()
        };
        assert_eq!(idle(&merged), [(b.clone(), 6), (c.clone(), 0)]);
        for _ in 0..2 {
            assert!(recorder.publish(), "there are two intervals of the new roster");
            merged.collect();
        }
        assert_eq!(calls(&merged), [(a, 2), (b, 3), (c, 2)]);
        assert_eq!(merged.in_flight().collect::<Vec<_>>(), [(0, 7)], "gauges go on");
        let prices: Vec<_> = merged
            .total
            .clearing_prices
            .iter()
            .map(|(currency, prices)| (currency.as_str(), prices.count()))
            .collect();
        assert_eq!(prices, [("EUR", 1), ("USD", 1)], "never one as the other");
    }

    /// An interval that waits at home must not keep its home.
    #[test]
    fn intervals_of_old_rosters_and_of_ended_recorders_are_freed() {
        let (recorders, mut merged) = channel(1);
        let rosters = ["a", "b", "c", "d"].map(|dsp| roster(&[dsp]));
        let recorder = recorders.recorder(0, &rosters[0]);
        for next in &rosters[1..] {
            for _ in 0..3 {
                assert!(recorder.publish());
                merged.collect();
            }
            recorder.go_on_with(next);
            merged.collect();
        }
        drop(recorder);
        merged.collect();
        let left: Vec<_> = rosters.iter().map(Arc::strong_count).collect();
        // The last word of the shard is kept.
        assert_eq!(left, [1, 1, 1, 2]);
    }

    #[test]
    fn dsps_that_left_are_forgotten_beyond_a_number() {
        let (recorders, mut merged) = channel(1);
        let at = |second: u64| Moment {
            monotonic: Duration::from_secs(second),
            unix: Duration::from_secs(second),
        };
        let recorder = recorders.recorder(0, &roster(&["stays", "first"]));
        merged.tick(at(0));
        let reloads = REMOVED_KEPT as u64 + 2;
        for n in 0..reloads {
            recorder.dsp_call(0, DspOutcome::Bid, 1);
            recorder.dsp_call(1, DspOutcome::NoBid, 1);
            recorder.dsp_late_revenue(1, LongerBy::Ms5, "USD", n + 1);
            recorder.publish();
            merged.collect();
            merged.tick(at(n + 1));
            recorder.go_on_with(&roster(&["stays", &format!("dsp{n}")]));
            merged.collect();
        }
        recorder.publish();
        merged.collect();
        let names: Vec<_> = merged.total.dsps.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names.len(), 2 + REMOVED_KEPT);
        assert_eq!(
            names[..3],
            ["stays", "dsp1", "dsp2"],
            "those that left first are gone"
        );
        assert_eq!(
            merged.total.dsps[0].1.calls.sum(),
            reloads,
            "who stays does not jump"
        );
        assert_eq!(
            merged
                .second
                .dsps
                .iter()
                .map(|(name, _)| name.as_str())
                .collect::<Vec<_>>(),
            names,
            "the same order in both"
        );
        let revenue = |name: &str| -> u64 {
            let of_dsp = merged.total.late_revenue_of(name);
            of_dsp.map(|(_, revenue)| revenue.sum()).sum()
        };
        assert_eq!((revenue("dsp1"), revenue("dsp2")), (3, 4));
        // What is remembered of a second stands where the DSPs stand now.
        for second in merged.history.since(0) {
            assert_eq!(second.dsps[0].calls, 1);
            let called: u64 = second.dsps.iter().skip(1).map(|dsp| dsp.calls).sum();
            assert_eq!(called, u64::from(second.number >= 2), "{}", second.number);
        }
        assert_eq!(merged.history.since(5).next().unwrap().dsps[4].calls, 1, "dsp4");
    }

    #[test]
    fn calls_that_were_not_made_have_no_latency() {
        let (recorders, mut merged) = channel(1);
        let recorder = recorders.recorder(0, &roster(&["a"]));
        for outcome in DspOutcome::ALL {
            recorder.dsp_call(0, outcome, 0);
        }
        recorder.publish();
        merged.collect();
        assert_eq!(merged.total.dsps[0].1.latency.count(), 6);
    }

    #[test]
    fn seconds_keep_their_beat() {
        let (_recorders, mut merged) = channel(1);
        let at = |ms: u64| Moment {
            monotonic: Duration::from_millis(ms),
            unix: Duration::from_millis(1_000_000 + ms),
        };
        // Late by a little each time; then by several seconds; then with a wall clock that jumps back.
        let ticks = [500, 600, 1_520, 2_490, 2_560, 3_540, 9_000, 9_990, 10_000];
        ticks.into_iter().for_each(|ms| {
            merged.tick(at(ms));
        });
        merged.end_second(Moment {
            unix: Duration::from_millis(5),
            ..at(10_100)
        });
        let seconds = merged.history.since(0).map(|second| second.span);
        let spans: Vec<_> = seconds
            .map(|span| (span.start.as_millis() - 1_000_000, span.length.as_millis()))
            .collect();
        assert_eq!(
            spans,
            [
                (500, 1_020),
                (1_520, 1_040),
                (2_560, 980),
                (3_540, 5_460),
                (9_000, 1_000),
                (10_000, 100)
            ]
        );
    }
}
