//! HTTP/1.1 on the pool's connections: one call at a time on each, written at once.

use std::cell::RefCell;

use super::{Alive, Connections, Dsp, Fate, Pool, PoolLimits, Token, Wire};
use crate::clock::Instant;
use crate::fanout::dsp::DspOptions;
use crate::fanout::gatherings::{Gatherings, Ticket};
use crate::fanout::h1::{Head, RequestHead, ResponseReader};
use crate::fanout::{CallFailure, Outgoing, Reply};
use crate::net::{Progress, Socket};

pub(super) struct DspSide {
    head: RequestHead,
    /// The most recently used last, and used first: the others may grow old and be closed. May name connections
    /// that are gone; a new one is opened only when the list is empty, so it stays as short as the pool.
    idle: RefCell<Vec<Token>>,
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
    /// The connection had carried a call before this one.
    reused: bool,
    answer_begun: bool,
}

impl DspSide {
    pub(super) fn new(options: &DspOptions) -> Self {
        Self {
            head: RequestHead::new(options),
            idle: RefCell::default(),
        }
    }
}

impl Pool {
    pub(super) fn start_http1(
        &self,
        dsp: &Dsp,
        side: &DspSide,
        outgoing: Outgoing<'_>,
        ticket: Ticket,
        now: Instant,
    ) -> Result<(), CallFailure> {
        let mut head = self.head.borrow_mut();
        side.head.write(outgoing.body.len(), &mut head);
        let mut call = CallUnderWay {
            ticket,
            due_at: outgoing.due_at,
            reused: true,
            answer_begun: false,
        };
        if !outgoing.fresh && self.send_on_idle(side, call, &head, outgoing.body, now) {
            return Ok(());
        }
        call.reused = false;
        let exchange = || Exchange {
            distrusted: false,
            call: Some(call),
            reader: ResponseReader::default(),
            body: self.gatherings.buffer(),
            unsent: [&head, outgoing.body].concat(),
        };
        self.open(dsp, now, || Wire::Http1(exchange()))?;
        Ok(())
    }

    /// Sends on an idle connection; false when there is none left that works.
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
            let Wire::Http1(exchange) = &mut connection.wire else {
                continue;
            };
            exchange.call = Some(call);
            connection.since = now;
            if exchange.send(&connection.socket, head, body).is_ok() {
                return true;
            }
            exchange.call = None;
            drop(connections);
            self.close(token.index(), CallFailure::Stale, now);
        }
    }

    pub(super) fn on_http1_bytes(&self, index: usize, bytes: &[u8], now: Instant) -> Fate {
        let mut connections = self.connections.borrow_mut();
        let Some(Wire::Http1(exchange)) = connections.get_mut(index).map(|c| &mut c.wire) else {
            return Fate::Closes;
        };
        let Some(call) = &mut exchange.call else {
            // Nothing was asked: it would be taken for the answer to whatever is asked next.
            drop(connections);
            self.close(index, CallFailure::Protocol("unsolicited bytes"), now);
            return Fate::Closes;
        };
        call.answer_begun = true;
        let limit = self.limits.response_bytes_max;
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
        let dsp = &self.dsps[connection.dsp];
        let (Wire::Http1(exchange), super::Side::Http1(side)) = (&mut connection.wire, &dsp.side) else {
            return Fate::Closes;
        };
        let body = std::mem::replace(&mut exchange.body, self.gatherings.buffer());
        // An answer before the request was sent whole: what is left of the request would be read as another one.
        let out_of_step = left_over || !exchange.unsent.is_empty();
        let lives = head.keep_alive && !out_of_step && !exchange.distrusted;
        let call = exchange.call.take();
        connection.since = now;
        drop(connections);
        if lives {
            side.idle.borrow_mut().push(token);
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
        let went_stale = reason == CallFailure::Lost && call.reused && !call.answer_begun;
        let reason = if went_stale { CallFailure::Stale } else { reason };
        self.complete(dsp.id, call.ticket, call.due_at, Err(reason), now);
    }
}

impl Exchange {
    pub(super) fn too_old(&self, since: Instant, now: Instant, limits: &PoolLimits) -> Option<CallFailure> {
        let too_old = match self.call {
            Some(call) => now > call.due_at.after(limits.late_drain),
            None => now.since(since) > limits.idle_timeout,
        };
        too_old.then_some(CallFailure::Timeout)
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
    fn send(&mut self, socket: &Socket, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        let sent = match socket.send(head, body)? {
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

    pub(super) fn flush(&mut self, socket: &Socket) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match socket.send(&self.unsent, &[])? {
                Progress::Moved(count) => drop(self.unsent.drain(..count)),
                Progress::WouldBlock => return Ok(()),
            }
        }
        Ok(())
    }
}
