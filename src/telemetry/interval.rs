//! What one shard counted between two hand-overs.

use std::array;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::distribution::Distribution;
use super::labels::{
    BidResult, CodeCounts, ConnectionState, Counts, DspOutcome, HandshakeOutcome, Http, PanicLayer, Placed,
    Rounded, ShedReason, Stage, StatusCounts,
};
use super::recorder::Roster;

/// The box that travels: from a shard to the housekeeping thread full, and home again empty.
pub(super) struct Interval {
    pub(super) shard: usize,
    pub(super) roster: Arc<Roster>,
    /// Where to send it back to. Kept inside, so that the receiver need not know who is alive.
    pub(super) home: Sender<Box<Interval>>,
    pub(super) tally: Tally,
    /// By the roster's index.
    pub(super) dsps: Vec<DspTally>,
    pub(super) clearing_price: Distribution,
    pub(super) gauges: Gauges,
}

impl Interval {
    pub(super) fn new(shard: usize, roster: &Arc<Roster>, home: Sender<Box<Interval>>) -> Box<Self> {
        Box::new(Self {
            shard,
            roster: Arc::clone(roster),
            home,
            tally: Tally::default(),
            dsps: roster.dsps().iter().map(|_| DspTally::default()).collect(),
            clearing_price: Distribution::of_price(),
            gauges: Gauges::new(roster.dsps().len()),
        })
    }

    /// Forgets all counts, keeps the memory. The gauges stay: the shard brings them up to date itself.
    pub(super) fn clear(&mut self) {
        self.tally.clear();
        self.dsps.iter_mut().for_each(DspTally::clear);
        self.clearing_price.clear();
    }
}

/// Counts that are not about one DSP.
#[derive(Debug, PartialEq)]
pub(super) struct Tally {
    pub(super) stages: [Distribution; Stage::ALL.len()],
    pub(super) requests: StatusCounts,
    pub(super) losses: CodeCounts,
    pub(super) shed: Counts<{ ShedReason::ALL.len() }>,
    pub(super) panics: Counts<{ PanicLayer::ALL.len() }>,
    pub(super) rounded: Counts<{ Rounded::ALL.len() }>,
    pub(super) accepted: Counts<{ Placed::ALL.len() }>,
    pub(super) aged: Counts<{ Http::ALL.len() }>,
    pub(super) deadline_missed: u64,
    pub(super) loop_stall: Distribution,
}

impl Tally {
    pub(super) fn merge(&mut self, other: &Self) {
        for (mine, theirs) in self.stages.iter_mut().zip(&other.stages) {
            mine.merge(theirs);
        }
        self.requests.merge(&other.requests);
        self.losses.merge(&other.losses);
        self.shed.merge(&other.shed);
        self.panics.merge(&other.panics);
        self.rounded.merge(&other.rounded);
        self.accepted.merge(&other.accepted);
        self.aged.merge(&other.aged);
        self.deadline_missed += other.deadline_missed;
        self.loop_stall.merge(&other.loop_stall);
    }

    fn clear(&mut self) {
        self.stages.iter_mut().for_each(Distribution::clear);
        self.requests = StatusCounts::default();
        self.losses = CodeCounts::default();
        self.shed = Counts::default();
        self.panics = Counts::default();
        self.rounded = Counts::default();
        self.accepted = Counts::default();
        self.aged = Counts::default();
        self.deadline_missed = 0;
        self.loop_stall.clear();
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            stages: array::from_fn(|_| Distribution::of_stage()),
            requests: StatusCounts::default(),
            losses: CodeCounts::default(),
            shed: Counts::default(),
            panics: Counts::default(),
            rounded: Counts::default(),
            accepted: Counts::default(),
            aged: Counts::default(),
            deadline_missed: 0,
            loop_stall: Distribution::of_stage(),
        }
    }
}

/// Counts about one DSP.
#[derive(Debug, PartialEq)]
pub(super) struct DspTally {
    pub(super) calls: Counts<{ DspOutcome::ALL.len() }>,
    pub(super) latency: Distribution,
    pub(super) late: Distribution,
    pub(super) late_would_have_won: u64,
    pub(super) bids: Counts<{ BidResult::ALL.len() }>,
    pub(super) non_bids: CodeCounts,
    pub(super) handshakes: Counts<{ HandshakeOutcome::ALL.len() }>,
    /// Of handshakes that came to a session.
    pub(super) handshake: Distribution,
}

impl DspTally {
    pub(super) fn merge(&mut self, other: &Self) {
        self.calls.merge(&other.calls);
        self.latency.merge(&other.latency);
        self.late.merge(&other.late);
        self.late_would_have_won += other.late_would_have_won;
        self.bids.merge(&other.bids);
        self.non_bids.merge(&other.non_bids);
        self.handshakes.merge(&other.handshakes);
        self.handshake.merge(&other.handshake);
    }

    fn clear(&mut self) {
        self.calls = Counts::default();
        self.latency.clear();
        self.late.clear();
        self.late_would_have_won = 0;
        self.bids = Counts::default();
        self.non_bids = CodeCounts::default();
        self.handshakes = Counts::default();
        self.handshake.clear();
    }
}

impl Default for DspTally {
    fn default() -> Self {
        Self {
            calls: Counts::default(),
            latency: Distribution::of_dsp(),
            late: Distribution::of_dsp(),
            late_would_have_won: 0,
            bids: Counts::default(),
            non_bids: CodeCounts::default(),
            handshakes: Counts::default(),
            handshake: Distribution::of_handshake(),
        }
    }
}

/// Connections by what they are doing.
pub(super) type ConnectionCounts = Counts<{ ConnectionState::ALL.len() }>;

/// What is true of a shard now, as opposed to what has happened on it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gauges {
    pub(super) in_flight: u64,
    pub(super) ssp_connections: ConnectionCounts,
    /// By the roster's index.
    pub(super) dsp_connections: Vec<ConnectionCounts>,
}

impl Gauges {
    pub(super) fn new(dsps: usize) -> Self {
        Self {
            in_flight: 0,
            ssp_connections: Counts::default(),
            dsp_connections: vec![Counts::default(); dsps],
        }
    }

    /// Takes over another shard state of the same roster, without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.in_flight = other.in_flight;
        self.ssp_connections = other.ssp_connections;
        self.dsp_connections.copy_from_slice(&other.dsp_connections);
    }
}
