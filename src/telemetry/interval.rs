//! What was counted: by one shard between two hand-overs, or by all of them in a stretch of time.

use std::array;
use std::sync::Arc;

use crossbeam::channel::Sender;

use super::distribution::{Distribution, Sparse, Values};
use super::labels::{
    BidResult, BreakerState, CodeCounts, ConnectionEnd, ConnectionState, Counts, DspFault, DspOutcome,
    HandshakeOutcome, Http, LateFound, LongerBy, PanicLayer, Placed, Rounded, ShedReason, Stage, StallCause,
    StatusCounts,
};
use super::recorder::Roster;

/// The box that travels: from a shard to the housekeeping thread full, and home again empty.
pub(super) struct Interval {
    pub(super) shard: usize,
    pub(super) roster: Arc<Roster>,
    /// Where to send it back to. Kept inside, so that the receiver need not know who is alive.
    /// Only while it travels: one that lies in the channel with a sender to it would keep both for ever.
    pub(super) home: Option<Sender<Box<Interval>>>,
    pub(super) tally: Tally,
    /// By the roster's index.
    pub(super) dsps: Vec<DspTally>,
    /// By the roster's index.
    pub(super) late_revenue: Vec<LateRevenue>,
    pub(super) clearing_price: Distribution,
    pub(super) looped: LoopTally,
    pub(super) gauges: Gauges,
}

impl Interval {
    pub(super) fn new(shard: usize, roster: &Arc<Roster>) -> Box<Self> {
        Box::new(Self {
            shard,
            roster: Arc::clone(roster),
            home: None,
            tally: Tally::default(),
            dsps: roster.dsps().map(|_| DspTally::default()).collect(),
            late_revenue: vec![LateRevenue::default(); roster.dsps().len()],
            clearing_price: Distribution::of_price(),
            looped: LoopTally::default(),
            gauges: Gauges::new(roster.dsps().len()),
        })
    }

    /// Forgets all counts, keeps the memory. The gauges stay: the shard brings them up to date itself.
    pub(super) fn clear(&mut self) {
        self.tally.clear();
        self.dsps.iter_mut().for_each(DspTally::clear);
        self.late_revenue.fill(LateRevenue::default());
        self.clearing_price.clear();
        self.looped.clear();
    }
}

/// Counts that are not about one DSP.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Tally<D = Distribution> {
    pub(super) stages: [D; Stage::ALL.len()],
    pub(super) requests: StatusCounts,
    pub(super) losses: CodeCounts,
    pub(super) shed: Counts<{ ShedReason::ALL.len() }>,
    pub(super) panics: Counts<{ PanicLayer::ALL.len() }>,
    pub(super) rounded: Counts<{ Rounded::ALL.len() }>,
    pub(super) accepted: Counts<{ Placed::ALL.len() }>,
    pub(super) aged: Counts<{ Http::ALL.len() }>,
    pub(super) ended: Counts<{ ConnectionEnd::ALL.len() }>,
    pub(super) cancelled: u64,
    pub(super) deadline_missed: u64,
    pub(super) events_dropped: u64,
}

impl Tally {
    pub(super) fn merge<D: Values>(&mut self, other: &Tally<D>) {
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
        self.ended.merge(&other.ended);
        self.cancelled += other.cancelled;
        self.deadline_missed += other.deadline_missed;
        self.events_dropped += other.events_dropped;
    }

    pub(super) fn clear(&mut self) {
        self.stages.iter_mut().for_each(Distribution::clear);
        self.requests = StatusCounts::default();
        self.losses = CodeCounts::default();
        self.shed = Counts::default();
        self.panics = Counts::default();
        self.rounded = Counts::default();
        self.accepted = Counts::default();
        self.aged = Counts::default();
        self.ended = Counts::default();
        self.cancelled = 0;
        self.deadline_missed = 0;
        self.events_dropped = 0;
    }

    pub(super) fn sparse(&self) -> Tally<Sparse> {
        Tally {
            stages: self.stages.each_ref().map(Distribution::sparse),
            requests: self.requests,
            losses: self.losses,
            shed: self.shed,
            panics: self.panics,
            rounded: self.rounded,
            accepted: self.accepted,
            aged: self.aged,
            ended: self.ended,
            cancelled: self.cancelled,
            deadline_missed: self.deadline_missed,
            events_dropped: self.events_dropped,
        }
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
            ended: Counts::default(),
            cancelled: 0,
            deadline_missed: 0,
            events_dropped: 0,
        }
    }
}

/// Counts about one DSP.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct DspTally<D = Distribution> {
    pub(super) calls: Counts<{ DspOutcome::ALL.len() }>,
    pub(super) latency: D,
    pub(super) late: D,
    /// What late answers turned out to be, and of those that would have won: how much longer that would have taken.
    pub(super) late_found: Counts<{ LateFound::ALL.len() }>,
    pub(super) late_won: Counts<{ LongerBy::ALL.len() }>,
    pub(super) bids: Counts<{ BidResult::ALL.len() }>,
    pub(super) non_bids: CodeCounts,
    pub(super) faults: Counts<{ DspFault::ALL.len() }>,
    pub(super) handshakes: Counts<{ HandshakeOutcome::ALL.len() }>,
    /// Of handshakes that came to a session.
    pub(super) handshake: D,
    /// By the state that its breakers came to.
    pub(super) breaker_changes: BreakerCounts,
}

impl DspTally {
    pub(super) fn merge<D: Values>(&mut self, other: &DspTally<D>) {
        self.calls.merge(&other.calls);
        self.latency.merge(&other.latency);
        self.late.merge(&other.late);
        self.late_found.merge(&other.late_found);
        self.late_won.merge(&other.late_won);
        self.bids.merge(&other.bids);
        self.non_bids.merge(&other.non_bids);
        self.faults.merge(&other.faults);
        self.handshakes.merge(&other.handshakes);
        self.handshake.merge(&other.handshake);
        self.breaker_changes.merge(&other.breaker_changes);
    }

    pub(super) fn clear(&mut self) {
        self.calls = Counts::default();
        self.latency.clear();
        self.late.clear();
        self.late_found = Counts::default();
        self.late_won = Counts::default();
        self.bids = Counts::default();
        self.non_bids = CodeCounts::default();
        self.faults = Counts::default();
        self.handshakes = Counts::default();
        self.handshake.clear();
        self.breaker_changes = Counts::default();
    }

    pub(super) fn sparse(&self) -> DspTally<Sparse> {
        DspTally {
            calls: self.calls,
            latency: self.latency.sparse(),
            late: self.late.sparse(),
            late_found: self.late_found,
            late_won: self.late_won,
            bids: self.bids,
            non_bids: self.non_bids,
            faults: self.faults,
            handshakes: self.handshakes,
            handshake: self.handshake.sparse(),
            breaker_changes: self.breaker_changes,
        }
    }
}

impl Default for DspTally {
    fn default() -> Self {
        Self {
            calls: Counts::default(),
            latency: Distribution::of_dsp(),
            late: Distribution::of_dsp(),
            late_found: Counts::default(),
            late_won: Counts::default(),
            bids: Counts::default(),
            non_bids: CodeCounts::default(),
            faults: Counts::default(),
            handshakes: Counts::default(),
            handshake: Distribution::of_handshake(),
            breaker_changes: Counts::default(),
        }
    }
}

/// What SSPs would have got more if a DSP had had longer: CPM in micros of one currency.
pub(super) type LateRevenue = Counts<{ LongerBy::ALL.len() }>;

/// How well one shard's loop runs.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct LoopTally<D = Distribution> {
    /// How much later than due a turn came.
    pub(super) stall: D,
    /// The worst of those by what the shard was doing.
    pub(super) stalls: Counts<{ StallCause::ALL.len() }>,
    /// How long a task that could run waited for the others.
    pub(super) queue_delay: D,
    /// How much later than due a timer rang.
    pub(super) timer_late: D,
    /// CPU time of the shard's thread, and the time in which it was used.
    pub(super) cpu_ns: u64,
    pub(super) passed_ns: u64,
}

impl LoopTally {
    pub(super) fn merge<D: Values>(&mut self, other: &LoopTally<D>) {
        self.stall.merge(&other.stall);
        self.stalls.merge(&other.stalls);
        self.queue_delay.merge(&other.queue_delay);
        self.timer_late.merge(&other.timer_late);
        self.cpu_ns += other.cpu_ns;
        self.passed_ns += other.passed_ns;
    }

    pub(super) fn clear(&mut self) {
        self.stall.clear();
        self.stalls = Counts::default();
        self.queue_delay.clear();
        self.timer_late.clear();
        self.cpu_ns = 0;
        self.passed_ns = 0;
    }

    pub(super) fn sparse(&self) -> LoopTally<Sparse> {
        LoopTally {
            stall: self.stall.sparse(),
            stalls: self.stalls,
            queue_delay: self.queue_delay.sparse(),
            timer_late: self.timer_late.sparse(),
            cpu_ns: self.cpu_ns,
            passed_ns: self.passed_ns,
        }
    }
}

impl Default for LoopTally {
    fn default() -> Self {
        Self {
            stall: Distribution::of_loop(),
            stalls: Counts::default(),
            queue_delay: Distribution::of_loop(),
            timer_late: Distribution::of_loop(),
            cpu_ns: 0,
            passed_ns: 0,
        }
    }
}

/// Connections by what they are doing.
pub(super) type ConnectionCounts = Counts<{ ConnectionState::ALL.len() }>;

/// Breakers by their state.
pub(super) type BreakerCounts = Counts<{ BreakerState::ALL.len() }>;

/// What is true of a shard now, as opposed to what has happened on it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Gauges {
    pub(super) config_generation: u64,
    pub(super) in_flight: u64,
    pub(super) memory_bytes: u64,
    pub(super) ssp_connections: ConnectionCounts,
    /// By the roster's index.
    pub(super) dsp_connections: Vec<ConnectionCounts>,
    /// By the roster's index.
    pub(super) gates: Vec<GateGauges>,
}

/// What is true of one shard's gate to a DSP.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct GateGauges {
    /// The one breaker in its state, or none.
    pub(super) breaker: BreakerCounts,
    /// Thousandths of a call per second, where there is a cap.
    pub(super) milli_qps: Option<u64>,
}

impl Gauges {
    pub(super) fn new(dsps: usize) -> Self {
        Self {
            config_generation: 0,
            in_flight: 0,
            memory_bytes: 0,
            ssp_connections: Counts::default(),
            dsp_connections: vec![Counts::default(); dsps],
            gates: vec![GateGauges::default(); dsps],
        }
    }

    /// Takes over another shard state of the same roster, without allocating.
    pub(super) fn copy_from(&mut self, other: &Self) {
        self.config_generation = other.config_generation;
        self.in_flight = other.in_flight;
        self.memory_bytes = other.memory_bytes;
        self.ssp_connections = other.ssp_connections;
        self.dsp_connections.copy_from_slice(&other.dsp_connections);
        self.gates.copy_from_slice(&other.gates);
    }

    /// The same from another roster, for the indices that both have.
    pub(super) fn go_on_from(&mut self, other: &Self) {
        let dsp_connections = std::mem::take(&mut self.dsp_connections);
        // Of the gates the shard tells anew.
        let gates = std::mem::take(&mut self.gates);
        *self = Self {
            dsp_connections,
            gates,
            ..other.clone()
        };
        for (mine, theirs) in self.dsp_connections.iter_mut().zip(&other.dsp_connections) {
            *mine = *theirs;
        }
    }
}
