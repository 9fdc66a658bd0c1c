//! Where requests become calls and calls become answers, whatever the protocol: one desk per event loop. Owns
//! what all connections of a loop share (timers, templates, scratch buffers), and none of the connections.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use flate2::bufread::MultiGzDecoder;

use super::answer::{GZIP_BOMB, HUGE_BYTES, Message, PackedIds, Template};
use super::scan::Ids;
use super::{Shared, SharedDsp};
use crate::net::timers::Timers;
use crate::simulated::{Fault, phase_of};

/// A request that waits for the moment of its answer.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) connection: ConnectionId,
    /// 0 over HTTP/1.1.
    pub(super) stream: u32,
    pub(super) dsp: u16,
    ids: PackedIds,
}

/// Slots of closed connections are used again: the generation tells the connections apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ConnectionId {
    pub(super) key: u32,
    pub(super) generation: u32,
}

/// What the timers hold.
#[derive(Debug)]
pub(super) enum Due {
    Answer(Call),
    /// The next byte of an answer that drips.
    Drip(Box<Drip>),
    /// A connection is read from, from now on.
    Begin(ConnectionId),
}

/// An answer on its way out at one byte a second.
#[derive(Debug)]
pub(super) struct Drip {
    pub(super) connection: ConnectionId,
    pub(super) stream: u32,
    pub(super) bytes: Vec<u8>,
    pub(super) sent: usize,
}

/// What to do about a call whose time has come.
#[derive(Debug)]
pub(super) enum Reply<'a> {
    /// A response with this body.
    Message(Message, &'a [u8]),
    /// The same, and the connection's end announced.
    LastMessage(Message, &'a [u8]),
    /// The same, a byte a second.
    Dripping(Message, &'a [u8]),
    /// A response with that many bytes of nothing.
    Filler(Message, u64),
    /// Bytes that are no response.
    Raw(&'a [u8]),
    /// Nothing, for ever.
    Silence,
    ResetConnection,
    ResetStream,
    CloseConnection,
}

pub(super) struct Desk {
    pub(super) timers: Timers<Due>,
    /// Calls due in this turn that never saw a timer, because their latency is zero.
    pub(super) at_once: Vec<Call>,
    shared: Arc<Shared>,
    /// The run's phase as this loop last saw it, and since when.
    phase: (usize, Instant),
    templates: Vec<Template>,
    ids: Ids,
    packing: Vec<u8>,
    body: Vec<u8>,
    inflated: Vec<u8>,
}

pub(super) const DRIP_INTERVAL: Duration = Duration::from_secs(1);
/// A request of an earlier phase, this long after the phase has changed, is of a new run: exchanges do not keep
/// one so long.
const STRAGGLERS: Duration = Duration::from_secs(1);
/// Of a request, plain or inflated: four times what the exchange accepts, and so far more than it ever sends.
pub(super) const REQUEST_BYTES_MAX: usize = 1 << 20;

/// What a confused peer might send: not HTTP/1.1, and a frame header of absurd length to HTTP/2.
const GARBAGE: &[u8] = b"\xff\xfe\xfd\x00 this is not HTTP \r\n\r\n\x00\x01\x02\x03";
const BROKEN_JSON: &[u8] = br#"{"id":"broken","seatbid":[{"bid":[{"price":1.0.0,"#;

impl Desk {
    pub(super) fn new(shared: Arc<Shared>, templates: Vec<Template>, now: Instant, grid: Duration) -> Self {
        Self {
            timers: Timers::new(now, grid),
            at_once: Vec::new(),
            shared,
            phase: (0, now),
            templates,
            ids: Ids::default(),
            packing: Vec::new(),
            body: Vec::new(),
            inflated: Vec::new(),
        }
    }

    pub(super) fn dsp(&self, dsp: u16) -> &SharedDsp {
        &self.shared.dsps[usize::from(dsp)]
    }

    /// Whether nothing is to listen on the DSP's port now.
    pub(super) fn refuses(&self, dsp: u16) -> bool {
        self.fault(dsp, self.phase.0) == Fault::Refuse
    }

    /// Takes note of a phase that this loop or another has seen begin; true if it is a new one.
    pub(super) fn follow_phase(&mut self, now: Instant) -> bool {
        let phase = self.shared.phase.load(Ordering::Relaxed);
        let is_new = phase != self.phase.0;
        if is_new {
            self.phase = (phase, now);
        }
        is_new
    }

    /// Requests come in the order of their phases but for a few around each change.
    fn see_phase(&self, phase: usize, now: Instant) {
        let (current, since) = self.phase;
        let is_new_run = phase < current && now.saturating_duration_since(since) > STRAGGLERS;
        if phase > current || is_new_run {
            self.shared.phase.store(phase, Ordering::Relaxed);
        }
    }

    /// What is wrong with a DSP in a phase: the fault it was given, or else the phase's.
    fn fault(&self, dsp: u16, phase: usize) -> Fault {
        match self.dsp(dsp).fault.get() {
            Fault::None => self.shared.phases.fault(phase, dsp),
            fault => fault,
        }
    }

    pub(super) fn stopping(&self) -> bool {
        self.shared.stop.load(Ordering::Acquire)
    }

    /// Takes a request and sets the time of its answer. False when it is no bid request: the answer is then
    /// 400, now.
    pub(super) fn take(
        &mut self,
        (connection, stream, dsp): (ConnectionId, u32, u16),
        body: &[u8],
        gzip: bool,
        read_at: Instant,
    ) -> bool {
        self.dsp(dsp).requests.increment();
        let Some(ids) = self.read_ids(body, gzip) else {
            self.dsp(dsp).faults.increment();
            return false;
        };
        let phase = phase_of(ids.request());
        self.see_phase(phase, read_at);
        let latency = self
            .fault(dsp, phase)
            .latency(self.shared.profile.latency(dsp, ids.request()));
        self.dsp(dsp).begin_waiting();
        let call = Call {
            connection,
            stream,
            dsp,
            ids,
        };
        if latency.is_zero() {
            self.at_once.push(call);
        } else {
            self.timers.insert(read_at + latency, Due::Answer(call));
        }
        true
    }

    /// Decides what becomes of a call, now that its time has come.
    pub(super) fn reply(&mut self, call: &Call) -> Reply<'_> {
        let fault = self.fault(call.dsp, phase_of(call.ids.request()));
        let dsp = &self.shared.dsps[usize::from(call.dsp)];
        let template = &self.templates[usize::from(call.dsp)];
        if fault != Fault::None && !fault.is_of_tls() {
            dsp.faults.increment();
        }
        if let Some(raw) = &template.raw {
            return Reply::Raw(raw);
        }
        let id_prefix = if fault == Fault::WrongId { "not-" } else { "" };
        self.body.clear();
        let any_bid = template.write_body(&self.shared.profile, &call.ids, id_prefix, &mut self.body);
        let message = if any_bid { Message::OK } else { Message::NO_BID };
        match fault {
            Fault::None
            | Fault::Late(_)
            | Fault::Slow(_)
            | Fault::WrongId
            // Who asks was connected before the fault.
            | Fault::WrongName
            | Fault::Expired
            | Fault::HandshakeStall
            | Fault::HandshakeLate(_) => {
                if any_bid {
                    dsp.bids.increment();
                } else {
                    dsp.no_bids.increment();
                }
                Reply::Message(message, &self.body)
            }
            Fault::GoAway => Reply::LastMessage(message, &self.body),
            Fault::Drip => Reply::Dripping(message, &self.body),
            // A listener that is being closed: its connections go with it.
            Fault::Reset | Fault::Refuse => Reply::ResetConnection,
            Fault::ResetStream => Reply::ResetStream,
            Fault::Close => Reply::CloseConnection,
            Fault::Stall => Reply::Silence,
            Fault::Garbage => Reply::Raw(GARBAGE),
            Fault::GarbageJson => Reply::Message(Message::OK, BROKEN_JSON),
            Fault::Huge => Reply::Filler(Message::OK, HUGE_BYTES),
            Fault::Status(status) => Reply::Message(Message::status(status), b""),
            Fault::Redirect => Reply::Message(
                Message {
                    redirect: true,
                    ..Message::status(302)
                },
                b"",
            ),
            Fault::GzipBomb => Reply::Message(
                Message {
                    gzip: true,
                    ..Message::OK
                },
                &GZIP_BOMB,
            ),
            Fault::Empty => Reply::Message(Message::OK, b""),
        }
    }

    fn read_ids(&mut self, body: &[u8], gzip: bool) -> Option<PackedIds> {
        let mut body = body;
        if gzip {
            self.inflated.clear();
            let limit = REQUEST_BYTES_MAX as u64 + 1;
            MultiGzDecoder::new(body)
                .take(limit)
                .read_to_end(&mut self.inflated)
                .ok()?;
            body = &self.inflated;
        }
        if body.len() > REQUEST_BYTES_MAX || !self.ids.scan(body) {
            return None;
        }
        let ids = std::iter::once(&self.ids.request).chain(&self.ids.imps);
        PackedIds::pack(ids.map(|range| &body[range.clone()]), &mut self.packing)
    }
}
