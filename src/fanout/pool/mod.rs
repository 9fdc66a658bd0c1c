//! Connections of one shard to its DSPs: opened before calls need them ([`warm`]) or as they do ([`opening`]), for
//! whichever DSPs a configuration names ([`seats`]), driven by
//! the shard's readiness set, closed when they are of no more use. What is said on them is in [`h1`] (one call at a
//! time on each) and [`h2`] (all at once).
//!
//! A call that ran out of time does not cost its connection: the late answer is read, counted and dropped. A
//! connection is closed when the rest takes too long, when anything comes that was not asked for, and whenever two
//! readers could disagree about where an answer ends.

mod h1;
mod h2;
mod opening;
mod seats;
mod warm;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::dsp::{DspId, DspOptions};
use super::gatherings::{Gatherings, Ticket};
use super::{CallFailure, Late, Observer, Outgoing, Reply, Response, Transport};
use crate::clock::Instant;
use crate::net::gzip::gunzip;
use crate::net::tls::{Failure, Scratch, TlsClient};
use crate::net::{Channel, Readiness, Ready, Received};
use warm::Warmth;

/// Read from a socket at once: most answers are below 2 kB, and the largest allowed one takes a few turns.
const READ_BYTES: usize = 64 << 10;

/// Turns of reading one connection may have before others get theirs: a DSP that sends without end must not keep
/// the shard. What is left is read in the next turn.
const READS_IN_A_ROW_MAX: usize = 8;

/// Limits of the pool that are not a DSP's own.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// A connect that takes longer has failed. Far above any deadline: the call that opened the connection is given
    /// up in its own time, the connection may still serve the next.
    pub connect_timeout: Duration,
    /// A TLS handshake that takes longer has failed: three round trips to the other side of the world, and a DSP that
    /// has a third of a second for them.
    pub handshake_timeout: Duration,
    /// How long after its time a late answer is still waited for before its connection is closed.
    pub late_drain: Duration,
    /// An unused connection is closed after this, before the DSP's own timeout (60 s is common) does it under us. One
    /// that is to be kept warm is replaced first.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(1),
            late_drain: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(50),
        }
    }
}

/// How many connections to a DSP are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Not up yet: waiting for the connect, with TLS for the handshake.
    pub connecting: usize,
    /// With calls that somebody waits for (HTTP/2: with calls).
    pub busy: usize,
    /// With a call that nobody waits for any more (HTTP/2: with calls, and taking no new ones).
    pub draining: usize,
    /// Free.
    pub idle: usize,
}

/// See the module's description.
pub struct Pool {
    /// By [`DspId`]. A place that nobody has keeps who had it last.
    dsps: RefCell<Vec<Rc<Dsp>>>,
    connections: RefCell<Slab<Connection>>,
    readiness: Rc<Readiness>,
    gatherings: Rc<Gatherings>,
    observer: Rc<dyn Observer>,
    limits: PoolLimits,
    generation: Cell<u32>,
    calls_started: Cell<u64>,
    scratch: RefCell<Vec<u8>>,
    head: RefCell<Vec<u8>>,
    /// Connections that had more to read than a turn allows.
    unread: RefCell<Vec<Token>>,
    /// Connections with frames that no write has been tried for.
    unflushed: RefCell<Vec<Token>>,
    /// Kept for its memory: what one read has brought to an end.
    ended: RefCell<Vec<h2::Ended>>,
    /// Room for the sessions of every DSP with TLS.
    tls_scratch: Rc<Scratch>,
}

struct Dsp {
    id: DspId,
    /// As it came. What its connections do not depend on may have changed since: that is in cells of its own.
    options: DspOptions,
    standing: Cell<Standing>,
    tls: Option<TlsClient>,
    connections_max: Cell<usize>,
    /// Connections that take calls or will take some again.
    open: Cell<usize>,
    /// Of these, those that are not up yet.
    opening: Cell<usize>,
    /// What calls are prepared for. Where the DSP picks, what it picked last; until it has, HTTP/2, because then all
    /// calls wait for one connection and not each for its own.
    speaks: Cell<Speaks>,
    http1: h1::DspSide,
    http2: h2::DspSide,
    warmth: Warmth,
}

/// Whether a DSP has its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is one of those that new bid requests are sent to.
    Asked,
    /// It is none of them any more; calls to it may still be under way, or be made by what is in flight.
    Leaving,
    /// It is gone, and another may have its place.
    Gone,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

struct Connection {
    generation: u32,
    dsp: usize,
    channel: Channel,
    phase: Phase,
    /// Since when it is in this phase; once open, when it was last given a call (HTTP/1.1) or became free.
    since: Instant,
    opened_at: Instant,
    has_answered: bool,
    wire: Wire,
}

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    /// TLS only.
    Handshaking,
    /// Calls can be sent.
    Open,
}

/// What a sweep finds.
enum Age {
    Good,
    /// Idle for too long.
    Worn,
    /// To be closed for this.
    Overdue(CallFailure),
}

/// What is said on a connection, by protocol.
enum Wire {
    Http1(h1::Exchange),
    Http2(Box<h2::Conversation>),
}

/// A connection by its place and generation, so that an event for one that is gone finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token(u64);

impl Token {
    fn new(index: usize, generation: u32) -> Self {
        Self((u64::from(generation) << 32) | (index as u64 & 0xffff_ffff))
    }

    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }
}

/// Whether a connection lives on after something was done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Lives,
    Closes,
}

impl Pool {
    /// A pool without connections: [`Self::warm`] opens some, calls what else they need.
    pub fn new(
        dsps: &[DspOptions],
        limits: PoolLimits,
        readiness: Rc<Readiness>,
        gatherings: Rc<Gatherings>,
        observer: Rc<dyn Observer>,
    ) -> Self {
        let pool = Self {
            dsps: RefCell::default(),
            connections: RefCell::default(),
            readiness,
            gatherings,
            observer,
            limits,
            generation: Cell::new(0),
            calls_started: Cell::new(0),
            scratch: RefCell::new(vec![0; READ_BYTES]),
            head: RefCell::default(),
            unread: RefCell::default(),
            unflushed: RefCell::default(),
            ended: RefCell::default(),
            tls_scratch: Rc::default(),
        };
        pool.seat(dsps);
        pool
    }

    /// Moves every byte that can move now, but for calls over HTTP/2: these gather until [`Self::flush`].
    ///
    /// # Errors
    /// As [`Readiness::take`]: the shard cannot go on.
    pub fn turn(&self, now: Instant) -> std::io::Result<()> {
        let unread = self.unread.take();
        for &token in &unread {
            self.on_ready(
                token,
                Ready {
                    readable: true,
                    writable: false,
                    closing: true,
                    failed: false,
                },
                now,
            );
        }
        self.readiness
            .take(|token, ready| self.on_ready(Token(token), ready, now))
    }

    /// How many calls have been started so far, retries among them.
    #[must_use]
    pub fn calls_started(&self) -> u64 {
        self.calls_started.get()
    }

    /// Whether there is more to read than the last [`Self::turn`] took.
    #[must_use]
    pub fn has_unread(&self) -> bool {
        !self.unread.borrow().is_empty()
    }

    /// Sends what calls over HTTP/2 have gathered: one write for each connection, however many calls. False if a
    /// connection turned out to be gone, of which its calls have been told.
    pub fn flush(&self, now: Instant) -> bool {
        let mut all_alive = true;
        let mut unflushed = self.unflushed.take();
        for token in unflushed.drain(..) {
            let sent = {
                let mut connections = self.connections.borrow_mut();
                match connections.alive(token) {
                    Some(connection) if connection.phase == Phase::Open => connection.flush(),
                    _ => Ok(()),
                }
            };
            if sent.is_err() {
                self.close(token.index(), CallFailure::Lost, now);
                all_alive = false;
            }
        }
        // Nothing can have been added meanwhile but by a closed connection's retries, which come later.
        let mut added = self.unflushed.borrow_mut();
        if added.is_empty() {
            *added = unflushed;
        }
        all_alive
    }

    /// Closes what has grown too old. To be called about once a second.
    pub fn sweep(&self, now: Instant) {
        let (mut old, mut given_up, mut stalled) = (Vec::new(), Vec::new(), Vec::new());
        let (mut worn, mut sound) = (Vec::new(), vec![0; self.dsps.borrow().len()]);
        for (index, connection) in self.connections.borrow_mut().iter_mut() {
            let token = Token::new(index, connection.generation);
            let age = now.since(connection.since);
            let found = match (&mut connection.wire, connection.phase) {
                (_, Phase::Connecting) if age > self.limits.connect_timeout => {
                    Age::Overdue(CallFailure::Unreachable)
                }
                (_, Phase::Handshaking) if age > self.limits.handshake_timeout => {
                    stalled.push(token);
                    continue;
                }
                (_, Phase::Connecting | Phase::Handshaking) => continue,
                (Wire::Http1(exchange), Phase::Open) => exchange.age(connection.since, now, &self.limits),
                (Wire::Http2(conversation), Phase::Open) => {
                    let mut calls = Vec::new();
                    let found = conversation.age(connection.since, now, &self.limits, &mut calls);
                    self.wants_flush(token, conversation);
                    given_up.push((connection.dsp, token, calls));
                    found
                }
            };
            match found {
                Age::Good if connection.takes_calls() => sound[connection.dsp] += 1,
                Age::Good => {}
                Age::Worn => worn.push((connection.dsp, index)),
                Age::Overdue(reason) => old.push((index, reason)),
            }
        }
        for (dsp, token, calls) in given_up {
            self.complete_all(&self.dsp(dsp), token, calls, now);
        }
        for token in stalled {
            self.fail_handshake(token, Failure::Timeout, &"it takes too long", now);
        }
        for (index, reason) in old {
            self.close(index, reason, now);
        }
        self.renew(&worn, &sound, now);
    }

    /// The state of every DSP's connections, by [`DspId`].
    pub fn count_connections(&self, counts: &mut Vec<Connections>) {
        counts.clear();
        counts.resize(self.dsps.borrow().len(), Connections::default());
        for (_, connection) in self.connections.borrow().iter() {
            let count = &mut counts[connection.dsp];
            let place = match &connection.wire {
                _ if connection.phase != Phase::Open => &mut count.connecting,
                Wire::Http1(exchange) => exchange.place_in(count, &self.gatherings),
                Wire::Http2(conversation) => conversation.place_in(count),
            };
            *place += 1;
        }
    }

    fn dsp(&self, index: usize) -> Rc<Dsp> {
        Rc::clone(&self.dsps.borrow()[index])
    }

    fn on_ready(&self, token: Token, ready: Ready, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.alive(token) else {
            return;
        };
        if connection.phase != Phase::Open {
            drop(connections);
            return self.bring_up(token, ready, now);
        }
        if ready.writable && connection.flush().is_err() {
            drop(connections);
            return self.close(token.index(), CallFailure::Lost, now);
        }
        drop(connections);
        if ready.readable {
            self.read(token, ready.closing, now);
        }
    }

    fn read(&self, token: Token, closing: bool, now: Instant) {
        let mut scratch = self.scratch.borrow_mut();
        for _ in 0..READS_IN_A_ROW_MAX {
            let (received, speaks) = {
                let mut connections = self.connections.borrow_mut();
                let Some(connection) = connections.alive(token) else {
                    return;
                };
                let speaks = match connection.wire {
                    Wire::Http1(_) => Speaks::Http1,
                    Wire::Http2(_) => Speaks::Http2,
                };
                (connection.channel.receive(&mut scratch), speaks)
            };
            match received {
                Ok(Received::WouldBlock) => return,
                Ok(Received::End) => return self.on_end(token.index(), now),
                Err(error) => return self.broke(token, &error, now),
                Ok(Received::Bytes { count, drained }) => {
                    let bytes = &scratch[..count];
                    let fate = match speaks {
                        _ if bytes.is_empty() => Fate::Lives,
                        Speaks::Http1 => self.on_http1_bytes(token.index(), bytes, now),
                        Speaks::Http2 => self.on_http2_bytes(token, bytes, now),
                    };
                    if fate == Fate::Closes {
                        return;
                    }
                    // Edge-triggered: when there were no more bytes, new ones make a new event. After the peer's end
                    // there will be no more events, so read until it shows.
                    if drained && !closing {
                        return;
                    }
                }
            }
        }
        self.unread.borrow_mut().push(token);
    }

    /// The DSP has closed its side.
    fn on_end(&self, index: usize, now: Instant) {
        if !self.ends_http1_answer(index, now) {
            self.close(index, CallFailure::Lost, now);
        }
    }

    fn decoded(&self, dsp: &Dsp, gzipped: bool, body: Vec<u8>) -> Result<Vec<u8>, CallFailure> {
        if !gzipped || body.is_empty() {
            return Ok(body);
        }
        if !dsp.options.gzip {
            return Err(CallFailure::BadEncoding);
        }
        let mut plain = self.gatherings.buffer();
        let result = gunzip(&body, &mut plain, dsp.options.response_bytes_max);
        self.gatherings.recycle(body);
        match result {
            Ok(()) => Ok(plain),
            Err(crate::net::gzip::GunzipError::TooLarge(_)) => Err(CallFailure::TooLarge),
            Err(crate::net::gzip::GunzipError::Corrupt) => Err(CallFailure::BadEncoding),
        }
    }

    /// Closes a connection; its calls, if it has any, failed for `reason`.
    fn close(&self, index: usize, reason: CallFailure, now: Instant) {
        let Some(connection) = self.connections.borrow_mut().try_remove(index) else {
            return;
        };
        let dsp = &*self.dsp(connection.dsp);
        let token = Token::new(index, connection.generation);
        if connection.phase != Phase::Open {
            dsp.opening.set(dsp.opening.get() - 1);
        }
        dsp.warmth
            .ended(connection.opened_at, connection.has_answered, now);
        let mut channel = connection.channel;
        match connection.wire {
            Wire::Http1(exchange) => {
                dsp.open.set(dsp.open.get() - 1);
                self.fail_http1(dsp, exchange, reason, now);
            }
            Wire::Http2(conversation) => {
                self.fail_http2(dsp, token, *conversation, &mut channel, reason, now);
            }
        }
        channel.goodbye();
    }

    fn complete(
        &self,
        dsp: DspId,
        ticket: Ticket,
        due_at: Instant,
        result: Result<Reply, CallFailure>,
        now: Instant,
    ) {
        // After a stall, an answer may be read before the timer that would have given it up has been looked at: what
        // counts is when it was there, not in which order we look.
        let (result, late) = match result {
            Ok(reply) if now > due_at => (Err(CallFailure::Timeout), Some(reply)),
            result => (result, None),
        };
        self.gatherings.complete(ticket, now, result);
        let Some(reply) = late else { return };
        self.observer.late(Late {
            dsp,
            ticket,
            at: now,
            by: now.since(due_at),
            is_gathering: self.gatherings.is_open(ticket),
            response: Response {
                status: reply.status,
                body: &reply.body,
                connection: reply.connection,
            },
        });
        self.gatherings.recycle(reply.body);
    }
}

impl Transport for Pool {
    fn start(&self, outgoing: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure> {
        let dsp = &*self.dsp(outgoing.dsp.index());
        self.calls_started.set(self.calls_started.get().wrapping_add(1));
        match dsp.speaks.get() {
            Speaks::Http1 => self.start_http1(dsp, outgoing, ticket, now),
            Speaks::Http2 => self.start_http2(dsp, outgoing, ticket, now),
        }
    }

    fn distrust(&self, connection: u64) {
        let token = Token(connection);
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.alive(token) else {
            return;
        };
        let is_free = match &mut connection.wire {
            Wire::Http1(exchange) => exchange.distrust(),
            // The stream says which question an answer belongs to, whatever the answer says: the next one is not in
            // doubt, and a DSP that never gets ids right would cost us a connection for each answer.
            Wire::Http2(_) => false,
        };
        let since = connection.since;
        drop(connections);
        if is_free {
            self.close(token.index(), CallFailure::Lost, since);
        }
    }
}

/// Finds a connection if it is still the one that was meant.
trait Alive {
    fn alive(&mut self, token: Token) -> Option<&mut Connection>;
}

impl Alive for Slab<Connection> {
    fn alive(&mut self, token: Token) -> Option<&mut Connection> {
        self.get_mut(token.index())
            .filter(|connection| connection.generation == token.generation())
    }
}

impl Connection {
    /// Now or some time.
    fn takes_calls(&self) -> bool {
        match &self.wire {
            Wire::Http1(_) => true,
            Wire::Http2(conversation) => !conversation.is_retired(),
        }
    }

    /// Sends what the kernel has not taken yet.
    fn flush(&mut self) -> std::io::Result<()> {
        self.channel.flush()?;
        match &mut self.wire {
            Wire::Http1(exchange) => exchange.flush(&mut self.channel),
            Wire::Http2(conversation) => conversation.flush(&mut self.channel),
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool")
            .field("connections", &self.connections.borrow().len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod seats_tests;

#[cfg(test)]
mod tests;

#[cfg(test)]
mod tls_tests;

#[cfg(test)]
mod warm_tests;
