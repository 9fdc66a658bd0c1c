//! The shard's end: counts into an interval of its own and hands it over. Never waits for the housekeeping
//! thread: if that one is slow, the interval grows longer and nothing is lost.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};

use super::interval::{GateGauges, Interval};
use super::labels::{
    BidResult, BreakerState, ConnectionEnd, ConnectionState, Counts, DspFault, DspOutcome, EventFate,
    HandoverResult, HandshakeOutcome, Http, LateFound, LongerBy, PanicLayer, Placed, Rehearsed, ReloadResult,
    Rounded, ShedReason, Stage, StallCause,
};
use super::merged::Merged;

/// Intervals a recorder owns: one to record into, one that travels.
const INTERVALS_PER_RECORDER: usize = 2;

/// From here on a late turn of a shard's loop is a stall, 5 ms: a twentieth of what an SSP waits, and ten times the
/// longest epoch.
pub const STALL_NS_MIN: u64 = 5_000_000;

/// What is counted of DSPs is noted down and added up this many at a time, or when an interval ends: the counts of one DSP
/// fill some kilobytes, those of all more than a core's own caches have room for, and an orchestration goes through all of
/// them. In one go, memory that is not there is waited for once and not each time. 16 kB; half the answers and bids of a
/// busy shard in ten milliseconds, added up in some tens of microseconds.
const NOTES_MAX: usize = 1024;

/// Both ends of the channel in which a recorder's intervals come back.
type Home = (Sender<Box<Interval>>, Receiver<Box<Interval>>);

const NOTHING_LONG: (StallCause, u64) = (StallCause::Other, 0);

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
        Recorder {
            current: RefCell::new(Interval::new(shard, roster)),
            longest: Cell::new(NOTHING_LONG),
            notes: RefCell::new(Vec::with_capacity(NOTES_MAX)),
            spare: Cell::new(Some(Interval::new(shard, roster))),
            home: RefCell::new(bounded(INTERVALS_PER_RECORDER)),
            of_old_rosters: RefCell::default(),
            outbox: self.outbox.clone(),
        }
    }

    /// What is counted outside any shard.
    pub fn process(&self) -> &ProcessCounters {
        &self.process
    }

    /// The same to be held by another thread.
    pub fn process_counters(&self) -> Arc<ProcessCounters> {
        Arc::clone(&self.process)
    }
}

/// The names behind the indices that a shard counts by.
#[derive(Debug, PartialEq, Eq)]
pub struct Roster {
    dsps: Vec<Seat>,
    currency: String,
}

/// What an index of a [`Roster`] stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seat {
    /// A DSP in the configuration that is in force.
    Asked(String),
    /// A DSP that a reload has taken out; what was in flight then may still count for it.
    Leaving(String),
    /// Nobody any more.
    Empty,
}

impl Seat {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Asked(name) | Self::Leaving(name) => Some(name),
            Self::Empty => None,
        }
    }
}

impl Roster {
    /// `dsps` in the order of the indices, and the currency clearing prices are in.
    pub fn new(dsps: Vec<String>, currency: impl Into<String>) -> Self {
        Self::of(dsps.into_iter().map(Seat::Asked).collect(), currency)
    }

    /// After a reload. A name may be there twice: the DSP is reached in another way than before, and both count for it.
    pub fn of(seats: Vec<Seat>, currency: impl Into<String>) -> Self {
        Self {
            dsps: seats,
            currency: currency.into(),
        }
    }

    /// By index: how a DSP is called, if there is one.
    pub(super) fn dsps(&self) -> impl ExactSizeIterator<Item = Option<&str>> {
        self.dsps.iter().map(Seat::name)
    }

    /// The DSPs of the configuration that is in force.
    pub(super) fn asked(&self) -> impl Iterator<Item = &str> {
        self.dsps.iter().filter_map(|seat| match seat {
            Seat::Asked(name) => Some(name.as_str()),
            Seat::Leaving(_) | Seat::Empty => None,
        })
    }

    /// The same, each with what stands at its index of a list.
    pub(super) fn asked_with<'a, T>(&'a self, list: &'a [T]) -> impl Iterator<Item = (&'a str, &'a T)> {
        self.dsps.iter().zip(list).filter_map(|(seat, item)| match seat {
            Seat::Asked(name) => Some((name.as_str(), item)),
            Seat::Leaving(_) | Seat::Empty => None,
        })
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
    reloads: [AtomicU64; ReloadResult::ALL.len()],
    last_reload_failed: AtomicBool,
    config_hash: AtomicU64,
    /// When that one came into force, ms since the Unix epoch.
    config_since_ms: AtomicU64,
    events: [AtomicU64; EventFate::ALL.len()],
    handovers: [AtomicU64; HandoverResult::ALL.len()],
    rehearsed: [AtomicU64; Rehearsed::ALL.len()],
    rehearses: AtomicBool,
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

    /// This configuration is in force, `since_epoch` by the wall clock: at the start, and after a reload.
    pub fn config_in_force(&self, hash: u64, since_epoch: Duration) {
        let since_ms = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX);
        self.config_hash.store(hash, Ordering::Relaxed);
        self.config_since_ms.store(since_ms, Ordering::Relaxed);
    }

    /// A reload has ended so.
    pub fn reloaded(&self, result: ReloadResult) {
        self.reloads[result as usize].fetch_add(1, Ordering::Relaxed);
        self.last_reload_failed
            .store(result != ReloadResult::Applied, Ordering::Relaxed);
    }

    /// So many lines of the event log have come to this.
    pub fn events(&self, fate: EventFate, lines: u64) {
        self.events[fate as usize].fetch_add(lines, Ordering::Relaxed);
    }

    pub(super) fn events_of(&self, fate: EventFate) -> u64 {
        self.events[fate as usize].load(Ordering::Relaxed)
    }

    pub(super) fn reloads(&self, result: ReloadResult) -> u64 {
        self.reloads[result as usize].load(Ordering::Relaxed)
    }

    pub(super) fn last_reload_failed(&self) -> bool {
        self.last_reload_failed.load(Ordering::Relaxed)
    }

    pub(super) fn config_hash(&self) -> u64 {
        self.config_hash.load(Ordering::Relaxed)
    }

    pub(super) fn config_since_ms(&self) -> u64 {
        self.config_since_ms.load(Ordering::Relaxed)
    }

    pub(super) fn shard_panics(&self) -> u64 {
        self.shard_panics.load(Ordering::Relaxed)
    }

    /// Whether faults on purpose are allowed.
    pub fn rehearses(&self, does: bool) {
        self.rehearses.store(does, Ordering::Relaxed);
    }

    /// Whether faults on purpose are allowed.
    pub fn is_rehearsing(&self) -> bool {
        self.rehearses.load(Ordering::Relaxed)
    }

    /// A fault was brought about on purpose.
    pub fn rehearsed(&self, fault: Rehearsed) {
        self.rehearsed[fault as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn rehearsals(&self, fault: Rehearsed) -> u64 {
        self.rehearsed[fault as usize].load(Ordering::Relaxed)
    }

    /// A handover has ended so.
    pub fn handover(&self, result: HandoverResult) {
        self.handovers[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// So many handovers were done before this process.
    pub fn handovers_before(&self, count: u64) {
        self.handovers[HandoverResult::Done as usize].store(count, Ordering::Relaxed);
    }

    /// How many handovers have ended so.
    pub fn handovers(&self, result: HandoverResult) -> u64 {
        self.handovers[result as usize].load(Ordering::Relaxed)
    }

    pub(super) fn shard_restarts(&self) -> u64 {
        self.shard_restarts.load(Ordering::Relaxed)
    }
}

/// Counts for one shard. `dsp` is always an index into the [`Roster`]; durations are in nanoseconds. No
/// method but the destructor waits, and none allocates.
pub struct Recorder {
    current: RefCell<Box<Interval>>,
    /// The longest piece of work since the loop's turn began: what it was and how long, ns.
    longest: Cell<(StallCause, u64)>,
    notes: RefCell<Vec<Note>>,
    spare: Cell<Option<Box<Interval>>>,
    /// Where intervals come back to.
    home: RefCell<Home>,
    /// Full ones that found the outbox full when the roster changed; they go before `current`.
    of_old_rosters: RefCell<VecDeque<Box<Interval>>>,
    outbox: Sender<Box<Interval>>,
}

/// Something about a DSP that is still to be counted.
#[derive(Debug, Clone, Copy)]
struct Note {
    dsp: u32,
    noted: Noted,
}

#[derive(Debug, Clone, Copy)]
enum Noted {
    Call(DspOutcome, u64),
    Bid(BidResult),
}

impl Recorder {
    /// Counts by another roster from here on: a reload names other DSPs. An index that stands for the same DSP in both
    /// goes on. Allocates; not while [`Self::is_behind`], or what waits for the housekeeping thread grows without bound.
    pub fn go_on_with(&self, roster: &Arc<Roster>) {
        let mut current = self.current.borrow_mut();
        let mut next = Interval::new(current.shard, roster);
        next.gauges.go_on_from(&current.gauges);
        // By the indices of the roster that they were noted down by.
        add_up(&mut self.notes.borrow_mut(), &mut current);
        let full = std::mem::replace(&mut *current, next);
        let spare = Interval::new(current.shard, roster);
        self.spare.set(Some(spare));
        // What still travels is of the old roster, and is dropped where it finds nobody at home.
        self.home.replace(bounded(INTERVALS_PER_RECORDER));
        drop(current);
        self.of_old_rosters.borrow_mut().push_back(full);
        self.hand_over_old_rosters();
    }

    /// Whether what was counted by an earlier roster still waits to be handed over.
    pub fn is_behind(&self) -> bool {
        !self.hand_over_old_rosters()
    }

    /// In their order, as far as there is room; true if none is left.
    fn hand_over_old_rosters(&self) -> bool {
        let mut waiting = self.of_old_rosters.borrow_mut();
        while let Some(full) = waiting.pop_front() {
            if let Err(TrySendError::Full(full)) = self.outbox.try_send(full) {
                waiting.push_front(full);
                return false;
            }
        }
        true
    }

    /// A bid request spent `ns` in `stage`.
    pub fn stage(&self, stage: Stage, ns: u64) {
        self.current.borrow_mut().tally.stages[stage as usize].record(ns);
        if let Some(cause) = StallCause::of_stage(stage) {
            self.worked(cause, ns);
        }
    }

    /// An SSP was answered with this HTTP status.
    pub fn request(&self, status: u16) {
        self.current.borrow_mut().tally.requests.add_one(status);
    }

    /// A DSP call ended. `ns` is the time it took, and is not recorded for calls that were never made.
    pub fn dsp_call(&self, dsp: usize, outcome: DspOutcome, ns: u64) {
        self.note(dsp, Noted::Call(outcome, ns));
    }

    /// An answer came `ns` after its deadline and was dropped.
    pub fn dsp_late(&self, dsp: usize, ns: u64) {
        self.current.borrow_mut().dsps[dsp].late.record(ns);
    }

    /// What a late answer turned out to be.
    pub fn dsp_late_answer(&self, dsp: usize, found: LateFound, longer: LongerBy) {
        let tally = &mut self.current.borrow_mut().dsps[dsp];
        tally.late_found.add_one(found);
        if found == LateFound::Won {
            tally.late_won.add_one(longer);
        }
    }

    /// What the SSP would have got more with a late answer, in micros per mille of this currency. Not counted if that is
    /// not the roster's, see [`Self::clearing_price`].
    pub fn dsp_late_revenue(&self, dsp: usize, longer: LongerBy, currency: &str, cpm_micros: u64) {
        let interval = &mut **self.current.borrow_mut();
        if interval.roster.currency() == currency {
            interval.late_revenue[dsp].add(longer, cpm_micros);
        }
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
        self.note(dsp, Noted::Bid(result));
    }

    fn note(&self, dsp: usize, noted: Noted) {
        let mut notes = self.notes.borrow_mut();
        let dsp = u32::try_from(dsp).unwrap_or(u32::MAX);
        notes.push(Note { dsp, noted });
        if notes.len() == NOTES_MAX {
            add_up(&mut notes, &mut self.current.borrow_mut());
        }
    }

    /// An offer lost, with the loss reason code of OpenRTB 2.6.
    pub fn loss(&self, reason_code: u16) {
        self.current.borrow_mut().tally.losses.add_one(reason_code);
    }

    /// What was wrong with a call that ended in `error` or `invalid`.
    pub fn dsp_fault(&self, dsp: usize, fault: DspFault) {
        self.current.borrow_mut().dsps[dsp].faults.add_one(fault);
    }

    /// A DSP has no bid for an imp, with the non-bid status code of OpenRTB's seat non-bid extension.
    pub fn non_bid(&self, dsp: usize, code: u16) {
        self.current.borrow_mut().dsps[dsp].non_bids.add_one(code);
    }

    /// What a winner pays, in micros per mille of this currency. Not counted if that is not the roster's: a reload has
    /// changed it, the bid request was in flight, and a sum of two currencies would mean nothing.
    pub fn clearing_price(&self, currency: &str, cpm_micros: u64) {
        let interval = &mut **self.current.borrow_mut();
        if interval.roster.currency() == currency {
            interval.clearing_price.record(cpm_micros);
        }
    }

    /// No auction is held for a bid request.
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

    /// A connection from an SSP has ended, or was refused.
    pub fn connection_ended(&self, end: ConnectionEnd) {
        self.current.borrow_mut().tally.ended.add_one(end);
    }

    /// An SSP went away from a request before it had its answer.
    pub fn request_cancelled(&self) {
        self.current.borrow_mut().tally.cancelled += 1;
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

    /// A turn of the shard's loop begins: what was worked on before is not what makes it late.
    pub fn turn_begins(&self) {
        self.longest.set(NOTHING_LONG);
    }

    /// The shard spent `ns` on `cause` without a pause: if the loop stalls, that may be why.
    pub fn worked(&self, cause: StallCause, ns: u64) {
        if ns > self.longest.get().1 {
            self.longest.set((cause, ns));
        }
    }

    /// The shard's loop came `ns` later to its turn than it should have. From [`STALL_NS_MIN`] on it is a stall, with
    /// a cause: the longest piece of work recorded since the turn began, if that was half of it. `ran_ns` tells how
    /// much of the time the thread had the core, and is asked only then.
    pub fn loop_stall(&self, ns: u64, ran_ns: impl FnOnce() -> u64) {
        let (cause, longest_ns) = self.longest.get();
        let mut current = self.current.borrow_mut();
        current.looped.stall.record(ns);
        if ns < STALL_NS_MIN {
            return;
        }
        let half = ns / 2;
        let cause = if ns.saturating_sub(ran_ns()) >= half {
            StallCause::NotRunning
        } else if longest_ns >= half {
            cause
        } else {
            StallCause::Other
        };
        current.looped.stalls.add_one(cause);
    }

    /// A task that could run waited `ns` for the others on its shard.
    pub fn queue_delay(&self, ns: u64) {
        self.current.borrow_mut().looped.queue_delay.record(ns);
    }

    /// The shard's timers were looked at `ns` after the first of them was due.
    pub fn timer_late(&self, ns: u64) {
        self.current.borrow_mut().looped.timer_late.record(ns);
    }

    /// The shard's thread used `cpu_ns` of its core in the last `passed_ns`.
    pub fn cpu(&self, cpu_ns: u64, passed_ns: u64) {
        let looped = &mut self.current.borrow_mut().looped;
        looped.cpu_ns += cpu_ns;
        looped.passed_ns += passed_ns;
    }

    /// Which configuration new bid requests meet, counted from 1.
    pub fn config_generation(&self, now: u64) {
        self.current.borrow_mut().gauges.config_generation = now;
    }

    /// So many lines of the event log had no room.
    pub fn events_dropped(&self, lines: u64) {
        self.current.borrow_mut().tally.events_dropped += lines;
    }

    /// Orchestrations in flight now.
    pub fn in_flight(&self, now: u64) {
        self.current.borrow_mut().gauges.in_flight = now;
    }

    /// Bytes that orchestrations in flight hold now.
    pub fn memory(&self, bytes: u64) {
        self.current.borrow_mut().gauges.memory_bytes = bytes;
    }

    /// SSP connections in `state` now.
    pub fn ssp_connections(&self, state: ConnectionState, now: u64) {
        self.current.borrow_mut().gauges.ssp_connections.set(state, now);
    }

    /// Connections to a DSP in `state` now.
    pub fn dsp_connections(&self, dsp: usize, state: ConnectionState, now: u64) {
        self.current.borrow_mut().gauges.dsp_connections[dsp].set(state, now);
    }

    /// What is true of the gate to a DSP now: the state of its breaker, if it has one, and this shard's share of its calls
    /// per second, in thousandths of a call, if there is a cap.
    pub fn gate(&self, dsp: usize, breaker: Option<BreakerState>, milli_qps: Option<u64>) {
        let gate = &mut self.current.borrow_mut().gauges.gates[dsp];
        *gate = GateGauges {
            breaker: Counts::default(),
            milli_qps,
        };
        if let Some(state) = breaker {
            gate.breaker.add_one(state);
        }
    }

    /// A DSP's breaker has come to a state so many times.
    pub fn breaker_changed(&self, dsp: usize, to: BreakerState, times: u64) {
        self.current.borrow_mut().dsps[dsp].breaker_changes.add(to, times);
    }

    /// Hands over what was counted since the last time. False if the housekeeping thread is behind: then the
    /// interval goes on, and the next call hands over both.
    pub fn publish(&self) -> bool {
        if self.is_behind() {
            return false;
        }
        let Some(mut next) = self.spare.take().or_else(|| self.home.borrow().1.try_recv().ok()) else {
            return false;
        };
        let mut current = self.current.borrow_mut();
        add_up(&mut self.notes.borrow_mut(), &mut current);
        next.gauges.copy_from(&current.gauges);
        let mut full = std::mem::replace(&mut *current, next);
        full.home = Some(self.home.borrow().0.clone());
        match self.outbox.try_send(full) {
            Ok(()) => true,
            Err(TrySendError::Full(full) | TrySendError::Disconnected(full)) => {
                self.spare.set(Some(std::mem::replace(&mut *current, full)));
                false
            }
        }
    }
}

/// Counts what was noted down.
fn add_up(notes: &mut Vec<Note>, interval: &mut Interval) {
    for Note { dsp, noted } in notes.drain(..) {
        let tally = &mut interval.dsps[dsp as usize];
        match noted {
            Noted::Call(outcome, ns) => {
                tally.calls.add_one(outcome);
                if !matches!(outcome, DspOutcome::Throttled | DspOutcome::OpenBreaker) {
                    tally.latency.record(ns);
                }
            }
            Noted::Bid(result) => tally.bids.add_one(result),
        }
    }
}

/// Hands over the last interval, with the gauges at zero: a shard that is gone holds nothing.
impl Drop for Recorder {
    fn drop(&mut self) {
        for full in self.of_old_rosters.get_mut().drain(..) {
            // As below.
            let _ = self.outbox.send_timeout(full, LAST_HAND_OVER);
        }
        let Some(mut last) = self
            .spare
            .take()
            .or_else(|| self.home.get_mut().1.recv_timeout(LAST_HAND_OVER).ok())
        else {
            return;
        };
        add_up(self.notes.get_mut(), self.current.get_mut());
        std::mem::swap(&mut last, self.current.get_mut());
        last.gauges = super::interval::Gauges::new(last.dsps.len());
        // Nobody left to tell if this fails: the process is ending, too.
        let _ = self.outbox.send_timeout(last, LAST_HAND_OVER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// The cause of a turn that came so late, after this work and with so much time on the core; `None` if it is no
    /// stall.
    #[track_caller]
    fn check(late_ms: u64, worked: &[(Stage, u64)], ran_ms: u64, expected: Option<StallCause>) {
        let (recorders, mut merged) = channel(1);
        let recorder = recorders.recorder(0, &Arc::new(Roster::new(Vec::new(), "USD")));
        recorder.stage(Stage::Plan, 1_000 * MS);
        recorder.turn_begins();
        worked
            .iter()
            .for_each(|&(stage, ms)| recorder.stage(stage, ms * MS));
        recorder.loop_stall(late_ms * MS, || ran_ms * MS);
        assert!(recorder.publish());
        merged.collect();
        let stalls = merged.total.loops().stalls;
        let causes: Vec<_> = StallCause::ALL
            .into_iter()
            .filter(|&cause| stalls.get(cause) > 0)
            .collect();
        assert_eq!(causes, Vec::from_iter(expected));
        assert_eq!(merged.total.loops().stall.count(), 1);
    }

    #[test]
    fn a_stall_has_the_cause_that_took_half_of_it() {
        check(4, &[(Stage::Parse, 4)], 4, None);
        check(5, &[(Stage::Parse, 4)], 5, Some(StallCause::Parse));
        check(
            10,
            &[(Stage::Parse, 4), (Stage::Auction, 5), (Stage::Write, 1)],
            10,
            Some(StallCause::Auction),
        );
        check(
            10,
            &[(Stage::Parse, 4), (Stage::Write, 4)],
            10,
            Some(StallCause::Other),
        );
        check(10, &[], 10, Some(StallCause::Other));
        // Waiting for DSPs is not work.
        check(
            10,
            &[(Stage::Fanout, 90), (Stage::Total, 90)],
            10,
            Some(StallCause::Other),
        );
        // It had the core for less than half of it.
        check(10, &[(Stage::Parse, 9)], 5, Some(StallCause::NotRunning));
        check(10, &[(Stage::Parse, 9)], 6, Some(StallCause::Parse));
    }
}
