//! The housekeeping thread's end: the sum of all intervals of all shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use crossbeam::channel::Receiver;

use super::distribution::{Distribution, Summary};
use super::interval::{ConnectionCounts, DspTally, Gauges, Interval, Tally};
use super::labels::{ConnectionState, DspOutcome, PanicLayer, Stage};
use super::recorder::{ProcessCounters, Roster};

/// Everything counted since the process started, over all shards. DSPs are kept by name, not by index: a
/// reload may bring another list, and a counter must not change its meaning.
pub struct Merged {
    inbox: Receiver<Box<Interval>>,
    process: Arc<ProcessCounters>,
    pub(super) tally: Tally,
    /// In the order of the configuration that named them first.
    pub(super) dsps: Vec<(String, DspTally)>,
    /// By currency.
    pub(super) clearing_prices: BTreeMap<String, Distribution>,
    /// By shard: what it last said of itself.
    shards: BTreeMap<usize, (Arc<Roster>, Gauges)>,
}

/// One DSP in a few numbers.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct DspSummary {
    /// The configured name.
    pub name: String,
    /// Calls by how they ended, in the order of [`DspOutcome::ALL`].
    #[serde(skip)]
    pub calls: [u64; DspOutcome::ALL.len()],
    /// Time from the call to its answer, or to its deadline.
    #[serde(flatten)]
    pub latency: Summary,
}

impl Merged {
    pub(super) fn new(inbox: Receiver<Box<Interval>>, process: Arc<ProcessCounters>) -> Self {
        Self {
            inbox,
            process,
            tally: Tally::default(),
            dsps: Vec::new(),
            clearing_prices: BTreeMap::new(),
            shards: BTreeMap::new(),
        }
    }

    /// Adds up all intervals that have arrived and sends them home. Does not wait; returns how many there
    /// were.
    pub fn collect(&mut self) -> usize {
        let mut collected = 0;
        while let Ok(mut interval) = self.inbox.try_recv() {
            self.add(&interval);
            interval.clear();
            let home = interval.home.clone();
            // A shard that has ended takes nothing back: then the interval is dropped here.
            let _ = home.try_send(interval);
            collected += 1;
        }
        collected
    }

    /// Time per stage, in the order of a bid request's life.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, Summary)> {
        Stage::ALL
            .into_iter()
            .zip(self.tally.stages.iter().map(Distribution::summary))
    }

    /// Each DSP that was ever configured.
    pub fn dsps(&self) -> impl Iterator<Item = DspSummary> {
        self.dsps.iter().map(|(name, tally)| DspSummary {
            name: name.clone(),
            calls: DspOutcome::ALL.map(|outcome| tally.calls.get(outcome)),
            latency: tally.latency.summary(),
        })
    }

    /// Answers to SSPs by HTTP status; `None` is any status without a count of its own.
    pub fn requests(&self) -> impl Iterator<Item = (Option<u16>, u64)> {
        self.tally.requests.iter()
    }

    /// Orchestrations in flight by shard, as each shard said last.
    pub fn in_flight(&self) -> impl Iterator<Item = (usize, u64)> {
        self.shards
            .iter()
            .map(|(&shard, (_, gauges))| (shard, gauges.in_flight))
    }

    pub(super) fn panics(&self, layer: PanicLayer) -> u64 {
        let of_process = match layer {
            PanicLayer::Request => 0,
            PanicLayer::Shard => self.process.shard_panics(),
        };
        self.tally.panics.get(layer) + of_process
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

    /// Over all shards, by DSP name.
    pub(super) fn dsp_connections(&self) -> BTreeMap<&str, ConnectionCounts> {
        let mut sums = BTreeMap::<_, ConnectionCounts>::new();
        for (roster, gauges) in self.shards.values() {
            for (name, counts) in roster.dsps().iter().zip(&gauges.dsp_connections) {
                sums.entry(name.as_str()).or_default().merge(counts);
            }
        }
        sums
    }

    fn add(&mut self, interval: &Interval) {
        self.tally.merge(&interval.tally);
        for (name, counted) in interval.roster.dsps().iter().zip(&interval.dsps) {
            self.dsp_mut(name).merge(counted);
        }
        self.clearing_prices
            .entry(interval.roster.currency().to_owned())
            .or_insert_with(Distribution::of_price)
            .merge(&interval.clearing_price);
        self.shards.insert(
            interval.shard,
            (Arc::clone(&interval.roster), interval.gauges.clone()),
        );
    }

    fn dsp_mut(&mut self, name: &str) -> &mut DspTally {
        let index = self
            .dsps
            .iter()
            .position(|(known, _)| known == name)
            .unwrap_or_else(|| {
                self.dsps.push((name.to_owned(), DspTally::default()));
                self.dsps.len() - 1
            });
        &mut self.dsps[index].1
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::labels::{BidResult, HandshakeOutcome, Http, Placed, ShedReason};
    use super::super::recorder::{Recorder, Recorders, channel};
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
        recorder.dsp_call(dsp, DspOutcome::ALL[usize::try_from(n % 7).unwrap()], n * 10_007);
        recorder.dsp_late(dsp, n * 501);
        recorder.dsp_late_would_have_won(dsp);
        recorder.bid(dsp, BidResult::Lost);
        recorder.loss(u16::try_from(100 + n % 4).unwrap());
        recorder.non_bid(dsp, 101);
        recorder.dsp_handshake(
            dsp,
            HandshakeOutcome::ALL[usize::try_from(n % 7).unwrap()],
            n * 20_011,
        );
        recorder.clearing_price(n * 1_003);
        recorder.shed(ShedReason::InFlight);
        recorder.connection_accepted(Placed::Passed);
        recorder.connection_aged(Http::H2);
        recorder.request_panicked();
        recorder.deadline_missed();
        recorder.loop_stall(n * 3);
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
            let mut codes: Vec<_> = merged.tally.losses.iter().collect();
            codes.sort_unstable();
            codes
        };
        assert_eq!(of_codes(&merged), of_codes(&expected));
        merged.tally.losses = expected.tally.losses; // in another order
        assert_eq!(merged.tally, expected.tally);
        assert_eq!(merged.dsps, expected.dsps);
        assert_eq!(merged.clearing_prices, expected.clearing_prices);
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
        assert_eq!(merged.tally, recorded_at_once(0..1_000).tally);
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
        assert_eq!(merged.tally, recorded_at_once(1..3).tally);
    }

    #[test]
    fn a_recorder_that_ends_hands_over_its_last_interval() {
        let (recorders, mut merged) = channel(1);
        let recorder = recorders.recorder(0, &roster(&["a", "b"]));
        recorder.in_flight(7);
        recorder.publish();
        merged.collect();
        assert_eq!(merged.in_flight().collect::<Vec<_>>(), [(0, 7)]);
        record(&recorder, 1);
        drop(recorder);
        merged.collect();
        assert_eq!(merged.tally, recorded_at_once(1..2).tally);
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
            drop(recorder);
            merged.collect();
        }
        let bids: Vec<_> = merged
            .dsps()
            .map(|dsp| (dsp.name, dsp.calls[DspOutcome::Bid as usize]))
            .collect();
        assert_eq!(
            bids,
            [("a".to_owned(), 0), ("b".to_owned(), 2), ("c".to_owned(), 0)]
        );
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
        assert_eq!(merged.dsps().next().unwrap().latency.count, 5);
    }
}
