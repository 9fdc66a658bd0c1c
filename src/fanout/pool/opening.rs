//! A connection until calls can be sent on it: the connect, with TLS the handshake, and what the DSP picked there.

use super::h1::Exchange;
use super::h2::Conversation;
use super::{Alive, Connection, Dsp, Phase, Pool, Speaks, Token, Wire};
use crate::clock::Instant;
use crate::fanout::{CallFailure, Handshake, Protocol};
use crate::net::tls::{Agreed, Failure};
use crate::net::{Channel, Interest, Ready};

impl Pool {
    /// Connects to a DSP; what is said on the connection is sent when that has succeeded.
    pub(super) fn open(
        &self,
        dsp: &Dsp,
        now: Instant,
        wire: impl FnOnce() -> Wire,
    ) -> Result<Token, CallFailure> {
        if dsp.open.get() >= dsp.connections_max.get() {
            return Err(CallFailure::Throttled);
        }
        let channel = Channel::connect(dsp.options.target.address, dsp.tls.as_ref())
            .map_err(|_| CallFailure::Unreachable)?;
        // The highest bit of a token is the readiness set's.
        self.generation.set((self.generation.get() + 1) & (u32::MAX >> 1));
        let generation = self.generation.get();
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        let token = Token::new(entry.key(), generation);
        channel
            .watch(&self.readiness, token.0, Interest::ReadWrite)
            .map_err(|_| CallFailure::Unreachable)?;
        entry.insert(Connection {
            generation,
            dsp: dsp.id.index(),
            channel,
            phase: Phase::Connecting,
            since: now,
            opened_at: now,
            has_answered: false,
            wire: wire(),
        });
        dsp.open.set(dsp.open.get() + 1);
        dsp.opening.set(dsp.opening.get() + 1);
        Ok(token)
    }

    /// Goes on with a connection that is not up yet.
    pub(super) fn bring_up(&self, token: Token, ready: Ready, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.alive(token) else {
            return;
        };
        if connection.phase == Phase::Connecting {
            if !ready.writable && !ready.closing {
                return;
            }
            if connection.channel.connected().is_err() {
                drop(connections);
                return self.close(token.index(), CallFailure::Unreachable, now);
            }
            connection.since = now;
            if !connection.channel.has_tls() {
                drop(connections);
                self.came_up(token, now);
                if ready.readable {
                    self.read(token, ready.closing, now);
                }
                return;
            }
            connection.phase = Phase::Handshaking;
        }
        let handshake = connection.channel.handshake();
        let (at, since) = (connection.dsp, connection.since);
        drop(connections);
        match handshake {
            Ok(None) => {}
            Ok(Some(agreed)) => {
                self.agreed(&self.dsp(at), token, agreed, since, now);
                // What came behind the handshake was read with it and makes no event any more.
                self.read(token, ready.closing, now);
            }
            Err(error) => self.fail_handshake(token, Failure::of(&error), &error, now),
        }
    }

    fn agreed(&self, dsp: &Dsp, token: Token, agreed: Agreed, since: Instant, now: Instant) {
        let picks = match (dsp.options.protocol, agreed.h2) {
            (Protocol::Http2, false) => {
                let why = &"it does not agree to HTTP/2 (ALPN)";
                return self.fail_handshake(token, Failure::Protocol, why, now);
            }
            (_, true) => Speaks::Http2,
            (_, false) => Speaks::Http1,
        };
        let handshake = Handshake::Done {
            took: now.since(since),
            resumed: agreed.resumed,
        };
        self.observer.handshake(dsp.id, handshake);
        dsp.speaks.set(picks);
        self.speak(dsp, token, picks, now);
        self.came_up(token, now);
    }

    /// Makes the connection one of the protocol that the DSP has picked. Calls that were prepared for the other one are
    /// to be asked once more: they go where what it speaks now is known.
    fn speak(&self, dsp: &Dsp, token: Token, picks: Speaks, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.alive(token) else {
            return;
        };
        let wire = match (picks, &connection.wire) {
            (Speaks::Http1, Wire::Http1(_)) | (Speaks::Http2, Wire::Http2(_)) => return,
            (Speaks::Http1, _) => Wire::Http1(Exchange::free(&self.gatherings)),
            (Speaks::Http2, _) => Wire::Http2(Box::new(Conversation::new(dsp, now))),
        };
        let prepared = std::mem::replace(&mut connection.wire, wire);
        drop(connections);
        match prepared {
            Wire::Http1(exchange) => {
                dsp.http2.takes_calls.borrow_mut().push(token);
                self.fail_http1(dsp, exchange, CallFailure::Stale, now);
            }
            Wire::Http2(conversation) => {
                dsp.http2.takes_calls.borrow_mut().retain(|other| *other != token);
                self.fail_calls(dsp, token, *conversation, CallFailure::Stale, now);
            }
        }
    }

    /// Calls can be sent.
    fn came_up(&self, token: Token, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.alive(token) else {
            return;
        };
        let dsp = &*self.dsp(connection.dsp);
        connection.phase = Phase::Open;
        connection.since = now;
        dsp.opening.set(dsp.opening.get() - 1);
        dsp.warmth.came_up();
        let is_idle = matches!(&connection.wire, Wire::Http1(exchange) if exchange.is_free());
        let sent = connection.flush();
        drop(connections);
        if sent.is_err() {
            self.close(token.index(), CallFailure::Lost, now);
        } else if is_idle {
            dsp.http1.opening.borrow_mut().retain(|other| *other != token);
            dsp.http1.idle.borrow_mut().push(token);
        }
    }

    pub(super) fn fail_handshake(
        &self,
        token: Token,
        failure: Failure,
        why: &dyn std::fmt::Display,
        now: Instant,
    ) {
        self.tell_failure(token, failure, why);
        self.close(token.index(), CallFailure::Unreachable, now);
    }

    /// The connection broke. If it is one with TLS that never brought an answer, then that is how the DSP refuses a
    /// session that we take for agreed.
    pub(super) fn broke(&self, token: Token, error: &std::io::Error, now: Instant) {
        let failure = Failure::of(error);
        let has_answered = self
            .connections
            .borrow_mut()
            .alive(token)
            .is_some_and(|connection| connection.has_answered);
        if failure != Failure::Lost && !has_answered {
            self.tell_failure(token, failure, error);
        }
        self.close(token.index(), CallFailure::Lost, now);
    }

    fn tell_failure(&self, token: Token, failure: Failure, why: &dyn std::fmt::Display) {
        let at = self.connections.borrow_mut().alive(token).map(|c| c.dsp);
        if let Some(at) = at {
            let handshake = Handshake::Failed { failure, why };
            self.observer.handshake(self.dsp(at).id, handshake);
        }
    }
}
