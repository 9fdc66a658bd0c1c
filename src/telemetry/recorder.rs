//! The shard's end: counts into an interval of its own and hands it over. Never waits for the housekeeping
//! thread: if that one is slow, the interval grows longer and nothing is lost.

use std::cell::{Cell, RefCell};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::interval::Interval;
use super::labels::{
    BidResult, ConnectionState, DspOutcome, HandshakeOutcome, Http, PanicLayer, Placed, Rounded, ShedReason,
    Stage,
};
use super::merged::Merged;

/// Intervals a recorder owns: one to record into, one that travels.
const INTERVALS_PER_RECORDER: usize = 2;

/// How long a recorder that ends waits to hand over its last interval: a few rounds of the housekeeping
/// thread, and far below the time a shard takes to start again.
const LAST_HAND_OVER: Duration = Duration::from_millis(250);

/// Starts collecting from up to `shards` shards at once: the first goes to whoever starts shards, the second
/// to the housekeeping thread.
pub fn channel(shards: usize) -> (Recorders, Merged) {
    // One interval of each shard travels at a time; twice that, because a shard that restarts or reloads has
    // two recorders for a moment.
    let (outbox, inbox) = bounded(2 * shards.max(1));
    let process = Arc::new(ProcessCounters::default());
    let merged = Merged::new(inbox, Arc::clone(&process));
    (Recorders { outbox, process }, merged)
}

/// Makes recorders; any thread may hold one.
#[derive(Clone)]
pub struct Recorders {
    outbox: Sender<Box<Interval>>,
    process: Arc<ProcessCounters>,
}

impl Recorders {
    /// A recorder for a shard that starts, or that goes on with another set of DSPs. Allocates all that the
    /// recorder will ever need: about 5.9 MB for 23 DSPs.
    pub fn recorder(&self, shard: usize, roster: &Arc<Roster>) -> Recorder {
        let (home, recycled) = bounded(INTERVALS_PER_RECORDER);
        Recorder {
            current: RefCell::new(Interval::new(shard, roster, home.clone())),
            spare: Cell::new(Some(Interval::new(shard, roster, home))),
            recycled,
            outbox: self.outbox.clone(),
        }
    }

    /// What is counted outside any shard.
    pub fn process(&self) -> &ProcessCounters {
        &self.process
    }
}

/// The names behind the indices that a shard counts by.
#[derive(Debug, PartialEq, Eq)]
pub struct Roster {
    dsps: Vec<String>,
    currency: String,
}

impl Roster {
    /// `dsps` in the order of the indices, and the currency clearing prices are in.
    pub fn new(dsps: Vec<String>, currency: impl Into<String>) -> Self {
        Self {
            dsps,
            currency: currency.into(),
        }
    }

    /// The DSPs' names, in the order of their indices.
    pub fn dsps(&self) -> &[String] {
        &self.dsps
    }

    /// The currency that clearing prices are in.
    pub fn currency(&self) -> &str {
        &self.currency
    }
}

/// What the supervisor counts. Atomics, because it is on no request's path.
#[derive(Debug, Default)]
pub struct ProcessCounters {
    shard_panics: AtomicU64,
    shard_restarts: AtomicU64,
}

impl ProcessCounters {
    /// A shard ended by a panic. Counted here and not by its recorder, which died with it.
    pub fn shard_panicked(&self) {
        self.shard_panics.fetch_add(1, Ordering::Relaxed);
    }

    /// A shard that had ended runs again.
    pub fn shard_restarted(&self) {
        self.shard_restarts.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn shard_panics(&self) -> u64 {
        self.shard_panics.load(Ordering::Relaxed)
    }

    pub(super) fn shard_restarts(&self) -> u64 {
        self.shard_restarts.load(Ordering::Relaxed)
    }
}

/// Counts for one shard. `dsp` is always an index into the [`Roster`]; durations are in nanoseconds. No
/// method but the destructor waits, and none allocates.
pub struct Recorder {
    current: RefCell<Box<Interval>>,
    spare: Cell<Option<Box<Interval>>>,
    recycled: Receiver<Box<Interval>>,
    outbox: Sender<Box<Interval>>,
}

impl Recorder {
    /// A bid request spent `ns` in `stage`.
    pub fn stage(&self, stage: Stage, ns: u64) {
        self.current.borrow_mut().tally.stages[stage as usize].record(ns);
    }

    /// An SSP was answered with this HTTP status.
    pub fn request(&self, status: u16) {
        self.current.borrow_mut().tally.requests.add_one(status);
    }

    /// A DSP call ended. `ns` is the time it took, and is not recorded for calls that were never made.
    pub fn dsp_call(&self, dsp: usize, outcome: DspOutcome, ns: u64) {
        let interval = &mut **self.current.borrow_mut();
        let tally = &mut interval.dsps[dsp];
        tally.calls.add_one(outcome);
        if !matches!(outcome, DspOutcome::Throttled | DspOutcome::OpenBreaker) {
            tally.latency.record(ns);
        }
    }

    /// An answer came `ns` after its deadline and was dropped.
    pub fn dsp_late(&self, dsp: usize, ns: u64) {
        self.current.borrow_mut().dsps[dsp].late.record(ns);
    }

    /// A late answer held a bid that would have won.
    pub fn dsp_late_would_have_won(&self, dsp: usize) {
        self.current.borrow_mut().dsps[dsp].late_would_have_won += 1;
    }

    /// A TLS handshake with a DSP ended. `ns` is the time it took, recorded if it came to a session.
    pub fn dsp_handshake(&self, dsp: usize, outcome: HandshakeOutcome, ns: u64) {
        let tally = &mut self.current.borrow_mut().dsps[dsp];
        tally.handshakes.add_one(outcome);
        if matches!(outcome, HandshakeOutcome::Full | HandshakeOutcome::Resumed) {
            tally.handshake.record(ns);
        }
    }

    /// What became of one of the DSP's bids.
    pub fn bid(&self, dsp: usize, result: BidResult) {
        self.current.borrow_mut().dsps[dsp].bids.add_one(result);
    }

    /// An offer lost, with the loss reason code of OpenRTB 2.6.
    pub fn loss(&self, reason_code: u16) {
        self.current.borrow_mut().tally.losses.add_one(reason_code);
    }

    /// A DSP has no bid for an imp, with the non-bid status code of OpenRTB's seat non-bid extension.
    pub fn non_bid(&self, dsp: usize, code: u16) {
        self.current.borrow_mut().dsps[dsp].non_bids.add_one(code);
    }

    /// What a winner pays, in micros per mille of the roster's currency.
    pub fn clearing_price(&self, cpm_micros: u64) {
        self.current.borrow_mut().clearing_price.record(cpm_micros);
    }

    /// A bid request was refused unread.
    pub fn shed(&self, reason: ShedReason) {
        self.current.borrow_mut().tally.shed.add_one(reason);
    }

    /// An amount had more than six decimals.
    pub fn rounded(&self, amount: Rounded) {
        self.current.borrow_mut().tally.rounded.add_one(amount);
    }

    /// A connection from an SSP was accepted here.
    pub fn connection_accepted(&self, placed: Placed) {
        self.current.borrow_mut().tally.accepted.add_one(placed);
    }

    /// A connection from an SSP is old enough to end.
    pub fn connection_aged(&self, http: Http) {
        self.current.borrow_mut().tally.aged.add_one(http);
    }

    /// A panic was caught on this shard. One that ends the shard is the supervisor's to count.
    pub fn request_panicked(&self) {
        self.current
            .borrow_mut()
            .tally
            .panics
            .add_one(PanicLayer::Request);
    }

    /// An outcome was ready only when the SSP's tmax was over.
    pub fn deadline_missed(&self) {
        self.current.borrow_mut().tally.deadline_missed += 1;
    }

    /// The shard's loop came `ns` later to its turn than it should have.
    pub fn loop_stall(&self, ns: u64) {
        self.current.borrow_mut().tally.loop_stall.record(ns);
    }

    /// Orchestrations in flight now.
    pub fn in_flight(&self, now: u64) {
        self.current.borrow_mut().gauges.in_flight = now;
    }

    /// SSP connections in `state` now.
    pub fn ssp_connections(&self, state: ConnectionState, now: u64) {
        self.current.borrow_mut().gauges.ssp_connections.set(state, now);
    }

    /// Connections to a DSP in `state` now.
    pub fn dsp_connections(&self, dsp: usize, state: ConnectionState, now: u64) {
        self.current.borrow_mut().gauges.dsp_connections[dsp].set(state, now);
    }

    /// Hands over what was counted since the last time. False if the housekeeping thread is behind: then the
    /// interval goes on, and the next call hands over both.
    pub fn publish(&self) -> bool {
        let Some(mut next) = self.spare.take().or_else(|| self.recycled.try_recv().ok()) else {
            return false;
        };
        let mut current = self.current.borrow_mut();
        next.gauges.copy_from(&current.gauges);
        let full = std::mem::replace(&mut *current, next);
        match self.outbox.try_send(full) {
            Ok(()) => true,
            Err(TrySendError::Full(full) | TrySendError::Disconnected(full)) => {
                self.spare.set(Some(std::mem::replace(&mut *current, full)));
                false
            }
        }
    }
}

/// Hands over the last interval, with the gauges at zero: a shard that is gone holds nothing.
impl Drop for Recorder {
    fn drop(&mut self) {
        let Some(mut last) = self
            .spare
            .take()
            .or_else(|| self.recycled.recv_timeout(LAST_HAND_OVER).ok())
        else {
            return;
        };
        std::mem::swap(&mut last, self.current.get_mut());
        last.gauges = super::interval::Gauges::new(last.dsps.len());
        // Nobody left to tell if this fails: the process is ending, too.
        let _ = self.outbox.send_timeout(last, LAST_HAND_OVER);
    }
}
