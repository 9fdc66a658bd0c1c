//! Turns what the pool tells into counts, a DSP's first failed handshake of a kind into a line of the log, and has late
//! answers looked at.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use crate::fanout::{DspId, DspOptions, Handshake, Late, Observer};
use crate::net::tls::Failure;
use crate::orchestration::Hindsight;
use crate::telemetry::{HandshakeOutcome, LongerBy, Recorder};

/// One shard's.
pub(super) struct PoolObserver {
    recorder: Rc<Recorder>,
    hindsight: Rc<Hindsight>,
    /// By place.
    dsps: RefCell<Vec<Told>>,
}

/// What the log was last told of a DSP.
struct Told {
    name: String,
    failed_by: Cell<Option<Failure>>,
}

impl PoolObserver {
    pub(super) fn new(dsps: &[DspOptions], recorder: &Rc<Recorder>, hindsight: &Rc<Hindsight>) -> Self {
        Self {
            recorder: Rc::clone(recorder),
            hindsight: Rc::clone(hindsight),
            dsps: RefCell::new(dsps.iter().map(|dsp| Told::nothing(&dsp.name)).collect()),
        }
    }

    /// After a reload: what is known of whoever has kept its place stays known.
    pub(super) fn meet(&self, names: impl IntoIterator<Item = String>) {
        let mut dsps = self.dsps.borrow_mut();
        for (place, name) in names.into_iter().enumerate() {
            match dsps.get_mut(place) {
                None => dsps.push(Told::nothing(&name)),
                Some(told) if told.name != name => *told = Told::nothing(&name),
                Some(_) => {}
            }
        }
    }
}

impl Told {
    fn nothing(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            failed_by: Cell::new(None),
        }
    }
}

impl Observer for PoolObserver {
    fn late(&self, late: Late<'_>) {
        let (dsp, by) = (late.dsp.index(), nanos(late.by));
        self.recorder.dsp_late(dsp, by);
        // What has nothing to tell about money is told apart here.
        if let Err(found) = self.hindsight.take(late) {
            self.recorder.dsp_late_answer(dsp, found, LongerBy::of(by, false));
        }
    }

    fn handshake(&self, dsp: DspId, handshake: Handshake<'_>) {
        let dsps = self.dsps.borrow();
        let told = &dsps[dsp.index()];
        let (outcome, took) = match handshake {
            Handshake::Done { took, resumed: false } => (HandshakeOutcome::Full, took),
            Handshake::Done { took, resumed: true } => (HandshakeOutcome::Resumed, took),
            Handshake::Failed { failure, .. } => (counted_as(failure), Duration::ZERO),
        };
        self.recorder.dsp_handshake(dsp.index(), outcome, nanos(took));
        match handshake {
            // Once for each kind, not for each call: the counter says how often.
            Handshake::Failed { failure, why } if told.failed_by.replace(Some(failure)) != Some(failure) => {
                tracing::warn!(dsp = told.name, outcome = outcome.label(), %why, "TLS handshake failed");
            }
            // One that is refused afterwards looks done each time.
            Handshake::Done { .. } if told.failed_by.get() != Some(Failure::Refused) => {
                told.failed_by.set(None);
            }
            _ => {}
        }
    }
}

fn counted_as(failure: Failure) -> HandshakeOutcome {
    match failure {
        Failure::Certificate => HandshakeOutcome::Certificate,
        Failure::Refused => HandshakeOutcome::Refused,
        Failure::Protocol => HandshakeOutcome::Protocol,
        Failure::Lost => HandshakeOutcome::Lost,
        Failure::Timeout => HandshakeOutcome::Timeout,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
