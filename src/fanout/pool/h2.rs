//! HTTP/2 on the pool's connections: all calls of a shard to one DSP on as few as it allows, and frames of many calls
//! in one write. A call only adds its frames; [`Pool::flush`] sends what has gathered.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};

use super::{Age, Alive, Connection, Connections, Dsp, Fate, Phase, Pool, PoolLimits, Token, Wire};
use crate::clock::Instant;
use crate::fanout::dsp::DspOptions;
use crate::fanout::gatherings::Ticket;
use crate::fanout::h2::{ClientConnection, Event, Head, Refused, RequestBlock};
use crate::fanout::{CallFailure, Outgoing, Reply};
use crate::net::{Channel, Progress, prefetch_slice};

/// Of an answer's body, so much memory is asked for when its head is there: nearly all of a common one.
const BODY_BYTES_EXPECTED: usize = 768;

/// Of 32 calls, which have two pieces each: more than start in one turn for one DSP, but for a shard with no time left.
const PIECES_IN_A_WRITE: usize = 64;

pub(super) struct DspSide {
    block: RequestBlock,
    /// Connections that take calls, the oldest first; the first with room is used, so that as few as possible are.
    pub(super) takes_calls: RefCell<Vec<Token>>,
    /// Connections that take no more calls and wait for the end of those they have. They do not count as open, so
    /// that a DSP which says GOAWAY can be asked on; but there may be no more of them than of open ones.
    retired: Cell<usize>,
}

/// The calls on one connection.
pub(super) struct Conversation {
    http: ClientConnection<Call>,
    /// It is in the pool's list of those to flush.
    is_listed: bool,
    /// When bytes last came.
    heard_at: Instant,
    /// When a PING was sent that nothing was heard after.
    pinged_at: Option<Instant>,
}

/// One call under way; 3.2 million of them are to be held at once, so a test bounds what each costs.
#[derive(Debug)]
pub(super) struct Call {
    ticket: Ticket,
    due_at: Instant,
    /// Has been refused or lost once already.
    is_retry: bool,
    /// Taken from the gatherings' pool when the answer begins.
    body: Vec<u8>,
}

/// A call's end, kept until the connection it came from is no longer borrowed.
pub(super) struct Ended {
    call: Call,
    result: Result<Head, CallFailure>,
}

impl DspSide {
    pub(super) fn new(options: &DspOptions) -> Self {
        Self {
            block: RequestBlock::new(options),
            takes_calls: RefCell::default(),
            retired: Cell::new(0),
        }
    }

    /// The connection takes no more calls. Once for each.
    pub(super) fn strike_off(&self, dsp: &Dsp, token: Token) {
        let mut takes_calls = self.takes_calls.borrow_mut();
        let before = takes_calls.len();
        takes_calls.retain(|other| *other != token);
        if takes_calls.len() < before {
            dsp.open.set(dsp.open.get() - 1);
            self.retired.set(self.retired.get() + 1);
        }
    }
}

impl Pool {
    pub(super) fn start_http2(
        &self,
        dsp: &Dsp,
        outgoing: Outgoing<'_>,
        ticket: Ticket,
        now: Instant,
    ) -> Result<(), CallFailure> {
        let side = &dsp.http2;
        let start = |token| self.start_on(token, &side.block, outgoing, ticket);
        let mut used_up = None;
        let started = side.takes_calls.borrow().iter().any(|token| {
            let started = start(*token);
            if started == Err(Refused::Retired) {
                used_up = Some(*token);
            }
            started.is_ok()
        });
        // Its stream ids are used up: nothing has come that would have said so.
        if let Some(token) = used_up {
            side.strike_off(dsp, token);
        }
        if !started {
            start(self.converse(dsp, now)?).map_err(|_| CallFailure::Throttled)?;
        }
        Ok(())
    }

    fn start_on(
        &self,
        token: Token,
        block: &RequestBlock,
        outgoing: Outgoing<'_>,
        ticket: Ticket,
    ) -> Result<(), Refused> {
        let mut connections = self.connections.borrow_mut();
        let connection = connections.alive(token).ok_or(Refused::Full)?;
        match self.start_in(connection, token, block, outgoing, ticket) {
            Err(Refused::Behind) if connection.try_writing() => {
                self.start_in(connection, token, block, outgoing, ticket)
            }
            started => started,
        }
    }

    fn start_in(
        &self,
        connection: &mut Connection,
        token: Token,
        block: &RequestBlock,
        outgoing: Outgoing<'_>,
        ticket: Ticket,
    ) -> Result<(), Refused> {
        let Wire::Http2(conversation) = &mut connection.wire else {
            return Err(Refused::Full);
        };
        let call = Call {
            ticket,
            due_at: outgoing.due_at,
            is_retry: outgoing.fresh,
            body: Vec::new(),
        };
        conversation.http.start(block, outgoing.body, call)?;
        self.wants_flush(token, conversation);
        Ok(())
    }

    /// Opens a connection; calls can be started on it at once.
    pub(super) fn converse(&self, dsp: &Dsp, now: Instant) -> Result<Token, CallFailure> {
        if dsp.http2.retired.get() > dsp.connections_max.get() {
            return Err(CallFailure::Throttled);
        }
        let token = self.open(dsp, now, || Wire::Http2(Box::new(Conversation::new(dsp, now))))?;
        dsp.http2.takes_calls.borrow_mut().push(token);
        Ok(token)
    }

    /// Has the connection's output sent with the next flush.
    pub(super) fn wants_flush(&self, token: Token, conversation: &mut Conversation) {
        if conversation.is_listed || !conversation.http.has_output() {
            return;
        }
        conversation.is_listed = true;
        self.unflushed.borrow_mut().push(token);
    }

    pub(super) fn on_http2_bytes(&self, token: Token, bytes: &[u8], now: Instant) -> Fate {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.alive(token) else {
            return Fate::Closes;
        };
        let dsp = &*self.dsp(connection.dsp);
        let Wire::Http2(conversation) = &mut connection.wire else {
            return Fate::Closes;
        };
        let mut ended = self.ended.take();
        let result = conversation.http.receive(bytes, |event| match event {
            Event::Begun { tag } => {
                tag.body = self.gatherings.buffer();
                prefetch_slice(tag.body.spare_capacity_mut(), BODY_BYTES_EXPECTED);
                self.gatherings.expect_answer(tag.ticket);
            }
            Event::Data { tag, bytes } => {
                self.gatherings.expect_completion(tag.ticket);
                tag.body.extend_from_slice(bytes);
            }
            Event::Ended { tag, head } => ended.push(Ended {
                call: tag,
                result: Ok(head),
            }),
            Event::Failed { tag, failure } => ended.push(Ended {
                call: tag,
                result: Err(failure),
            }),
        });
        (conversation.heard_at, conversation.pinged_at) = (now, None);
        connection.has_answered |= !ended.is_empty();
        self.wants_flush(token, conversation);
        let is_free = conversation.http.calls() == 0;
        if is_free && !ended.is_empty() {
            connection.since = now;
        }
        let is_retired = conversation.http.is_retired();
        drop(connections);
        if is_retired {
            dsp.http2.strike_off(dsp, token);
        }
        let failure = match result {
            Err(violation) => Some(CallFailure::Protocol(violation.why)),
            Ok(()) => (is_retired && is_free).then_some(CallFailure::Lost),
        };
        if let Some(failure) = failure {
            self.close(token.index(), failure, now);
        }
        self.complete_all(dsp, token, ended, now);
        if failure.is_some() {
            Fate::Closes
        } else {
            Fate::Lives
        }
    }

    pub(super) fn complete_all(&self, dsp: &Dsp, token: Token, mut ended: Vec<Ended>, now: Instant) {
        for Ended { call, result } in ended.drain(..) {
            let result = match result {
                Ok(head) => self.decoded(dsp, head.gzip, call.body).map(|body| Reply {
                    status: head.status,
                    body,
                    connection: token.0,
                }),
                Err(failure) => {
                    self.gatherings.recycle(call.body);
                    // There is one retry: whoever refuses twice is not asked a third time.
                    let is_final = failure == CallFailure::Stale && call.is_retry;
                    Err(if is_final { CallFailure::Lost } else { failure })
                }
            };
            self.complete(dsp.id, call.ticket, call.due_at, result, now);
        }
        *self.ended.borrow_mut() = ended;
    }

    /// The connection is closed for `reason`.
    pub(super) fn fail_http2(
        &self,
        dsp: &Dsp,
        token: Token,
        mut conversation: Conversation,
        channel: &mut Channel,
        reason: CallFailure,
        now: Instant,
    ) {
        dsp.http2.strike_off(dsp, token);
        dsp.http2.retired.set(dsp.http2.retired.get() - 1);
        if reason != CallFailure::Unreachable {
            conversation.http.say_goodbye();
            // Out of courtesy: it may be gone already, or take nothing.
            let _unheard = conversation.flush(channel);
        }
        self.fail_calls(dsp, token, conversation, reason, now);
    }

    /// Ends all calls of a conversation for `reason`.
    pub(super) fn fail_calls(
        &self,
        dsp: &Dsp,
        token: Token,
        mut conversation: Conversation,
        reason: CallFailure,
        now: Instant,
    ) {
        let mut ended = self.ended.take();
        conversation.http.fail_all(|call, unheard| {
            let went_stale = unheard && reason == CallFailure::Lost;
            let failure = if went_stale { CallFailure::Stale } else { reason };
            ended.push(Ended {
                call,
                result: Err(failure),
            });
        });
        self.complete_all(dsp, token, ended, now);
    }
}

impl Connection {
    /// When a shard comes to its turn late, it may start thousands of calls before the next flush: it is then the shard
    /// that is behind, not the DSP. False when a write has been tried already.
    fn try_writing(&mut self) -> bool {
        let untried = matches!(&self.wire, Wire::Http2(conversation) if conversation.is_listed);
        // A connection that is broken fails again when it is flushed, and is closed then.
        self.phase == Phase::Open && untried && self.flush().is_ok()
    }
}

impl Conversation {
    pub(super) fn new(dsp: &Dsp, now: Instant) -> Self {
        Self {
            http: ClientConnection::new(dsp.options.response_bytes_max),
            is_listed: false,
            heard_at: now,
            pinged_at: None,
        }
    }

    /// Gives up calls that are long over, and tells when the whole connection is to be closed.
    pub(super) fn age(
        &mut self,
        since: Instant,
        now: Instant,
        limits: &PoolLimits,
        given_up: &mut Vec<Ended>,
    ) -> Age {
        if self.http.calls() == 0 {
            return if now.since(since) > limits.idle_timeout {
                Age::Worn
            } else {
                Age::Good
            };
        }
        // Calls are started in the order of their ids and are due in nearly that order, so the oldest tell.
        let mut overdue = false;
        while let Some((id, call)) = self.http.oldest()
            && now > call.due_at.after(limits.late_drain)
        {
            overdue = true;
            given_up.extend(self.http.cancel(id).map(|call| Ended {
                call,
                result: Err(CallFailure::Timeout),
            }));
        }
        // A DSP that stalls costs its calls. One that is gone without a word would cost every call from now on.
        match self.pinged_at {
            Some(pinged_at) if now.since(pinged_at) > limits.late_drain => Age::Overdue(CallFailure::Lost),
            Some(_) => Age::Good,
            None => {
                if overdue && now.since(self.heard_at) > limits.late_drain {
                    self.http.ping();
                    self.pinged_at = Some(now);
                }
                Age::Good
            }
        }
    }

    pub(super) fn has_calls(&self) -> bool {
        self.http.calls() > 0
    }

    pub(super) fn is_retired(&self) -> bool {
        self.http.is_retired()
    }

    pub(super) fn place_in<'a>(&self, count: &'a mut Connections) -> &'a mut usize {
        match self.http.calls() {
            0 => &mut count.idle,
            _ if self.http.is_retired() => &mut count.draining,
            _ => &mut count.busy,
        }
    }

    #[cfg(test)]
    pub(super) fn is_flushed(&self) -> bool {
        !self.http.has_output()
    }

    pub(super) fn flush(&mut self, channel: &mut Channel) -> io::Result<()> {
        self.is_listed = false;
        while self.http.has_output() {
            let mut pieces = [IoSlice::new(&[]); PIECES_IN_A_WRITE];
            let mut count = 0;
            for (place, piece) in pieces.iter_mut().zip(self.http.output()) {
                *place = IoSlice::new(piece);
                count += 1;
            }
            match channel.send(&pieces[..count])? {
                Progress::Moved(count) => self.http.wrote(count),
                Progress::WouldBlock => return Ok(()),
            }
        }
        Ok(())
    }
}
