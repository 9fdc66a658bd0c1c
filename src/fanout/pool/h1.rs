//! HTTP/1.1 on the pool's connections: one call at a time on each, written at once.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use super::{Age, Alive, Connections, Dsp, Fate, Pool, PoolLimits, Token, Wire};
use crate::clock::Instant;
use crate::fanout::dsp::DspOptions;
use crate::fanout::gatherings::{Gatherings, Ticket};
use crate::fanout::h1::{Head, RequestHead, ResponseReader};
use crate::fanout::{CallFailure, Outgoing, Reply};
use crate::net::{Channel, Progress};

/// So long after it came up nobody closes a connection for being idle: a call that met one that was closed is not to
/// meet another.
const NEW_FOR: Duration = Duration::from_millis(100);

pub(super) struct DspSide {
    head: RequestHead,
    /// The most recently used last, and used first: the others may grow old and be closed. May name connections
    /// that are gone, until the next sweep.
    pub(super) idle: RefCell<Vec<Token>>,
    /// Connections that no call waits for and that are not up yet, the oldest first; calls that find none idle take
    /// them. May name others, as above.
    pub(super) opening: RefCell<VecDeque<Token>>,
}

/// The call on one connection, if it has one.
pub(super) struct Exchange {
    /// An answer came that was not the one asked for: close after the current call.
    distrusted: bool,
    call: Option<CallUnderWay>,
    reader: ResponseReader,
    body: Vec<u8>,
    /// What the kernel has not taken yet.
    unsent: Vec<u8>,
}

#[derive(Clone, Copy)]
struct CallUnderWay {
    ticket: Ticket,
    due_at: Instant,
    /// The connection was up before this call.
    reused: bool,
    /// Has failed once already.
    is_retry: bool,
    answer_begun: bool,
}

impl DspSide {
    pub(super) fn new(options: &DspOptions) -> Self {
        Self {
            head: RequestHead::new(options),
            idle: RefCell::default(),
            opening: RefCell::default(),
        }
    }
}

impl Pool {
    pub(super) fn start_http1(
        &self,
        dsp: &Dsp,
        outgoing: Outgoing<'_>,
        ticket: Ticket,
        now: Instant,
    ) -> Result<(), CallFailure> {
        let mut head = self.head.borrow_mut();
        let side = &dsp.http1;
        side.head.write(outgoing.body.len(), &mut head);
        let mut call = CallUnderWay {
            ticket,
            due_at: outgoing.due_at,
            reused: true,
            is_retry: outgoing.fresh,
            answer_begun: false,
        };
        if self.send_on_idle(side, call, &head, outgoing.body, now) {
            return Ok(());
        }
        call.reused = false;
        let unsent = [&head[..], outgoing.body].concat();
        let Some(unsent) = self.wait_for_one_opening(side, call, unsent) else {
            return Ok(());
        };
        let exchange = || Exchange {
            call: Some(call),
            unsent,
            ..Exchange::free(&self.gatherings)
        };
        self.open(dsp, now, || Wire::Http1(exchange()))?;
        Ok(())
    }

    /// Gives the call to a connection that is not up yet and has none; gives the request back when there is no such.
    fn wait_for_one_opening(&self, side: &DspSide, call: CallUnderWay, unsent: Vec<u8>) -> Option<Vec<u8>> {
        let mut connections = self.connections.borrow_mut();
        while let Some(token) = side.opening.borrow_mut().pop_front() {
            let Some(Wire::Http1(exchange)) = connections.alive(token).map(|c| &mut c.wire) else {
                continue;
            };
            if exchange.is_free() {
                (exchange.call, exchange.unsent) = (Some(call), unsent);
                return None;
            }
        }
        Some(unsent)
    }

    /// Sends on an idle connection; false when there is none left that works. A retry takes only one that is as good as
    /// new.
    fn send_on_idle(
        &self,
        side: &DspSide,
        call: CallUnderWay,
        head: &[u8],
        body: &[u8],
        now: Instant,
    ) -> bool {
        loop {
            let Some(token) = side.idle.borrow_mut().pop() else {
                return false;
            };
            let mut connections = self.connections.borrow_mut();
            let Some(connection) = connections.alive(token) else {
                continue;
            };
            if call.is_retry && (connection.has_answered || now.since(connection.since) > NEW_FOR) {
                side.idle.borrow_mut().push(token);
                return false;
            }
            let Wire::Http1(exchange) = &mut connection.wire else {
                continue;
            };
            exchange.call = Some(call);
            connection.since = now;
            if exchange.send(&mut connection.channel, head, body).is_ok() {
                return true;
            }
            exchange.call = None;
            drop(connections);
            self.close(token.index(), CallFailure::Stale, now);
        }
    }

    pub(super) fn on_http1_bytes(&self, index: usize, bytes: &[u8], now: Instant) -> Fate {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.get_mut(index) else {
            return Fate::Closes;
        };
        let limit = self.dsp(connection.dsp).options.response_bytes_max;
        let Wire::Http1(exchange) = &mut connection.wire else {
            return Fate::Closes;
        };
        let Some(call) = &mut exchange.call else {
            // Nothing was asked: it would be taken for the answer to whatever is asked next.
            drop(connections);
            self.close(index, CallFailure::Protocol("unsolicited bytes"), now);
            return Fate::Closes;
        };
        call.answer_begun = true;
        let failure = match exchange.reader.read(bytes, &mut exchange.body, limit) {
            Ok((_, None)) => return Fate::Lives,
            Ok((used, Some(head))) => {
                let left_over = used < bytes.len();
                drop(connections);
                return self.on_answer(index, head, left_over, now);
            }
            Err(failure) => failure,
        };
        drop(connections);
        self.close(index, failure, now);
        Fate::Closes
    }

    /// The connection's answer is whole.
    fn on_answer(&self, index: usize, head: Head, left_over: bool, now: Instant) -> Fate {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.get_mut(index) else {
            return Fate::Closes;
        };
        let token = Token::new(index, connection.generation);
        let dsp = &*self.dsp(connection.dsp);
        let Wire::Http1(exchange) = &mut connection.wire else {
            return Fate::Closes;
        };
        let body = std::mem::replace(&mut exchange.body, self.gatherings.buffer());
        // An answer before the request was sent whole: what is left of the request would be read as another one.
        let out_of_step = left_over || !exchange.unsent.is_empty() || connection.channel.has_unsent();
        let lives = head.keep_alive && !out_of_step && !exchange.distrusted;
        let call = exchange.call.take();
        connection.since = now;
        connection.has_answered = true;
        drop(connections);
        if lives {
            dsp.http1.idle.borrow_mut().push(token);
        } else {
            self.close(index, CallFailure::Lost, now);
        }
        if let Some(call) = call {
            let result = self.decoded(dsp, head.gzip, body).map(|body| Reply {
                status: head.status,
                body,
                connection: token.0,
            });
            self.complete(dsp.id, call.ticket, call.due_at, result, now);
        }
        if lives { Fate::Lives } else { Fate::Closes }
    }

    /// Whether the end of the stream is the end of an answer.
    pub(super) fn ends_http1_answer(&self, index: usize, now: Instant) -> bool {
        let head = match self.connections.borrow_mut().get_mut(index).map(|c| &mut c.wire) {
            Some(Wire::Http1(exchange)) if exchange.call.is_some() => exchange.reader.end(),
            _ => None,
        };
        if let Some(head) = head {
            self.on_answer(index, head, false, now);
        }
        head.is_some()
    }

    /// The connection is closed for `reason`.
    pub(super) fn fail_http1(&self, dsp: &Dsp, exchange: Exchange, reason: CallFailure, now: Instant) {
        self.gatherings.recycle(exchange.body);
        let Some(call) = exchange.call else { return };
        let went_stale =
            reason == CallFailure::Stale || reason == CallFailure::Lost && call.reused && !call.answer_begun;
        // There is one retry.
        let reason = match (went_stale, call.is_retry) {
            (true, false) => CallFailure::Stale,
            (true, true) => CallFailure::Lost,
            (false, _) => reason,
        };
        self.complete(dsp.id, call.ticket, call.due_at, Err(reason), now);
    }
}

impl Exchange {
    /// Without a call.
    pub(super) fn free(gatherings: &Gatherings) -> Self {
        Self {
            distrusted: false,
            call: None,
            reader: ResponseReader::default(),
            body: gatherings.buffer(),
            unsent: Vec::new(),
        }
    }

    pub(super) fn is_free(&self) -> bool {
        self.call.is_none()
    }

    pub(super) fn age(&self, since: Instant, now: Instant, limits: &PoolLimits) -> Age {
        match self.call {
            Some(call) if now > call.due_at.after(limits.late_drain) => Age::Overdue(CallFailure::Timeout),
            None if now.since(since) > limits.idle_timeout => Age::Worn,
            _ => Age::Good,
        }
    }

    pub(super) fn place_in<'a>(&self, count: &'a mut Connections, gatherings: &Gatherings) -> &'a mut usize {
        match self.call {
            Some(call) if gatherings.is_waiting(call.ticket) => &mut count.busy,
            Some(_) => &mut count.draining,
            None => &mut count.idle,
        }
    }

    /// No call after the current one; true when there is none now.
    pub(super) fn distrust(&mut self) -> bool {
        self.distrusted = true;
        self.call.is_none()
    }

    /// Sends a request, keeping what the kernel does not take for [`Self::flush`].
    fn send(&mut self, channel: &mut Channel, head: &[u8], body: &[u8]) -> io::Result<()> {
        let sent = match channel.send(&[IoSlice::new(head), IoSlice::new(body)])? {
            Progress::Moved(count) => count,
            Progress::WouldBlock => 0,
        };
        if sent < head.len() {
            self.unsent.extend_from_slice(&head[sent..]);
        }
        self.unsent
            .extend_from_slice(&body[sent.saturating_sub(head.len())..]);
        Ok(())
    }

    pub(super) fn flush(&mut self, channel: &mut Channel) -> io::Result<()> {
        while !self.unsent.is_empty() {
            match channel.send(&[IoSlice::new(&self.unsent)])? {
                Progress::Moved(count) => drop(self.unsent.drain(..count)),
                Progress::WouldBlock => return Ok(()),
            }
        }
        Ok(())
    }
}
