//! Keep-alive connections of one shard to its DSPs, HTTP/1.1, one call at a time on each.
//!
//! A connection whose call ran out of time is kept and read on: the late answer is counted, dropped, and the
//! connection used again. It is closed when the rest takes too long, when anything comes that was not asked for,
//! and whenever two readers could disagree about where an answer ends.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use slab::Slab;

use super::dsp::{DspId, DspOptions};
use super::gatherings::{Gatherings, Ticket};
use super::h1::{Head, RequestHead, ResponseReader};
use super::{CallFailure, Observer, Outgoing, Reply, Transport};
use crate::clock::Instant;
use crate::net::gzip::gunzip;
use crate::net::{Interest, Progress, Readiness, Ready, Socket};

/// Read from a socket at once: most answers are below 2 kB, and the largest allowed one takes a few turns.
const READ_BYTES: usize = 64 << 10;

/// Turns of reading one connection may have before others get theirs: a DSP that sends without end must not keep
/// the shard. What is left is read in the next turn.
const READS_IN_A_ROW_MAX: usize = 8;

/// Limits of the pool that are not a DSP's own.
#[derive(Debug, Clone)]
pub struct PoolLimits {
    /// One answer, compressed as well as decompressed.
    pub response_bytes_max: usize,
    /// A connect that takes longer has failed. Far above any deadline: the call that opened the connection is given
    /// up in its own time, the connection may still serve the next.
    pub connect_timeout: Duration,
    /// How long after its time a late answer is still waited for before its connection is closed.
    pub late_drain: Duration,
    /// An unused connection is closed after this, before the DSP's own timeout (60 s is common) does it under us.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            response_bytes_max: 256 << 10,
            connect_timeout: Duration::from_secs(1),
            late_drain: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(50),
        }
    }
}

/// How many connections to a DSP are in which state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Connections {
    /// Waiting for the handshake.
    pub connecting: usize,
    /// With a call that somebody waits for.
    pub busy: usize,
    /// With a call that nobody waits for any more.
    pub draining: usize,
    /// Free.
    pub idle: usize,
}

/// See the module's description.
pub struct Http1Pool {
    dsps: Vec<Dsp>,
    connections: RefCell<Slab<Connection>>,
    readiness: Rc<Readiness>,
    gatherings: Rc<Gatherings>,
    observer: Rc<dyn Observer>,
    limits: PoolLimits,
    generation: Cell<u32>,
    scratch: RefCell<Vec<u8>>,
    head: RefCell<Vec<u8>>,
    /// Connections that had more to read than a turn allows.
    unread: RefCell<Vec<Token>>,
}

struct Dsp {
    id: DspId,
    address: SocketAddr,
    head: RequestHead,
    gzip: bool,
    connections_max: usize,
    open: Cell<usize>,
    /// The most recently used last, and used first: the others may grow old and be closed. May name connections
    /// that are gone; a new one is opened only when the list is empty, so it stays as short as the pool.
    idle: RefCell<Vec<Token>>,
}

struct Connection {
    generation: u32,
    dsp: usize,
    socket: Socket,
    connecting: bool,
    /// An answer came that was not the one asked for: close after the current call.
    distrusted: bool,
    since: Instant,
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

/// A connection by its place and generation, so that an event for one that is gone finds nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Token(u64);

impl Token {
    fn new(index: usize, generation: u32) -> Self {
        Self((u64::from(generation) << 32) | (index as u64 & 0xffff_ffff))
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves are taken apart")]
    fn index(self) -> usize {
        (self.0 & 0xffff_ffff) as usize
    }

    #[expect(clippy::cast_possible_truncation, reason = "the two halves are taken apart")]
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

impl Http1Pool {
    /// A pool without connections; they are opened as calls need them.
    pub fn new(
        dsps: &[DspOptions],
        limits: PoolLimits,
        readiness: Rc<Readiness>,
        gatherings: Rc<Gatherings>,
        observer: Rc<dyn Observer>,
    ) -> Self {
        let dsp = |(index, options): (usize, &DspOptions)| Dsp {
            id: DspId(u16::try_from(index).unwrap_or(u16::MAX)),
            address: options.target.address,
            head: RequestHead::new(options),
            gzip: options.gzip,
            connections_max: options.connections_max,
            open: Cell::new(0),
            idle: RefCell::default(),
        };
        Self {
            dsps: dsps.iter().enumerate().map(dsp).collect(),
            connections: RefCell::default(),
            readiness,
            gatherings,
            observer,
            limits,
            generation: Cell::new(0),
            scratch: RefCell::new(vec![0; READ_BYTES]),
            head: RefCell::default(),
            unread: RefCell::default(),
        }
    }

    /// Moves every byte that can move now. Returns how many sockets had something, or `Err` when the readiness set
    /// itself fails and the shard cannot go on.
    ///
    /// # Errors
    /// As [`Readiness::take`].
    pub fn turn(&self, now: Instant) -> std::io::Result<usize> {
        let unread = self.unread.take();
        for &token in &unread {
            self.on_ready(
                token,
                Ready {
                    readable: true,
                    writable: false,
                    closing: true,
                },
                now,
            );
        }
        let events = self
            .readiness
            .take(|token, ready| self.on_ready(Token(token), ready, now))?;
        Ok(events + unread.len())
    }

    /// Closes what has grown too old. To be called about once a second.
    pub fn sweep(&self, now: Instant) {
        let too_old = |connection: &Connection| {
            let age = now.since(connection.since);
            match connection.call {
                _ if connection.connecting => age > self.limits.connect_timeout,
                Some(call) => now > call.due_at.after(self.limits.late_drain),
                None => age > self.limits.idle_timeout,
            }
        };
        let reason = |c: &Connection| {
            if c.connecting {
                CallFailure::Unreachable
            } else {
                CallFailure::Timeout
            }
        };
        let connections = self.connections.borrow();
        let old: Vec<_> = connections
            .iter()
            .filter(|(_, c)| too_old(c))
            .map(|(i, c)| (i, reason(c)))
            .collect();
        drop(connections);
        for (index, reason) in old {
            self.close(index, reason, now);
        }
    }

    /// The state of every DSP's connections, by [`DspId`].
    pub fn count_connections(&self, counts: &mut Vec<Connections>) {
        counts.clear();
        counts.resize(self.dsps.len(), Connections::default());
        for (_, connection) in self.connections.borrow().iter() {
            let count = &mut counts[connection.dsp];
            match connection.call {
                _ if connection.connecting => count.connecting += 1,
                Some(call) if self.gatherings.is_waiting(call.ticket) => count.busy += 1,
                Some(_) => count.draining += 1,
                None => count.idle += 1,
            }
        }
    }

    /// Sends on an idle connection; false when there is none left that works.
    fn send_on_idle(&self, dsp: &Dsp, call: CallUnderWay, head: &[u8], body: &[u8], now: Instant) -> bool {
        loop {
            let Some(token) = dsp.idle.borrow_mut().pop() else {
                return false;
            };
            let mut connections = self.connections.borrow_mut();
            let alive = connections
                .get_mut(token.index())
                .filter(|c| c.generation == token.generation());
            let Some(connection) = alive else { continue };
            connection.call = Some(call);
            connection.since = now;
            if connection.send(head, body).is_ok() {
                return true;
            }
            connection.call = None;
            drop(connections);
            self.close(token.index(), CallFailure::Stale, now);
        }
    }

    fn open(
        &self,
        dsp: &Dsp,
        call: CallUnderWay,
        head: &[u8],
        body: &[u8],
        now: Instant,
    ) -> Result<(), CallFailure> {
        if dsp.open.get() >= dsp.connections_max {
            return Err(CallFailure::Throttled);
        }
        let socket = Socket::connect(dsp.address).map_err(|_| CallFailure::Unreachable)?;
        self.generation.set(self.generation.get().wrapping_add(1));
        let generation = self.generation.get();
        let mut connections = self.connections.borrow_mut();
        let entry = connections.vacant_entry();
        let token = Token::new(entry.key(), generation);
        self.readiness
            .watch(socket.as_fd(), token.0, Interest::ReadWrite)
            .map_err(|_| CallFailure::Unreachable)?;
        entry.insert(Connection {
            generation,
            dsp: dsp.id.index(),
            socket,
            connecting: true,
            distrusted: false,
            since: now,
            call: Some(call),
            reader: ResponseReader::default(),
            body: self.gatherings.buffer(),
            unsent: [head, body].concat(),
        });
        dsp.open.set(dsp.open.get() + 1);
        Ok(())
    }

    fn on_ready(&self, token: Token, ready: Ready, now: Instant) {
        let index = token.index();
        let mut connections = self.connections.borrow_mut();
        let alive = connections
            .get_mut(index)
            .filter(|c| c.generation == token.generation());
        let Some(connection) = alive else { return };
        if connection.connecting && (ready.writable || ready.closing) {
            if connection.socket.connected().is_err() {
                drop(connections);
                return self.close(index, CallFailure::Unreachable, now);
            }
            connection.connecting = false;
        }
        if ready.writable && connection.flush().is_err() {
            drop(connections);
            return self.close(index, CallFailure::Lost, now);
        }
        drop(connections);
        if ready.readable {
            self.read(token, ready.closing, now);
        }
    }

    fn read(&self, token: Token, closing: bool, now: Instant) {
        let mut scratch = self.scratch.borrow_mut();
        for _ in 0..READS_IN_A_ROW_MAX {
            let received = {
                let connections = self.connections.borrow();
                let alive = connections
                    .get(token.index())
                    .filter(|c| c.generation == token.generation());
                let Some(connection) = alive else { return };
                connection.socket.receive(&mut scratch)
            };
            match received {
                Ok(Progress::WouldBlock) => return,
                Ok(Progress::Moved(0)) => return self.on_end(token.index(), now),
                Err(_) => return self.close(token.index(), CallFailure::Lost, now),
                Ok(Progress::Moved(count)) => {
                    if self.on_bytes(token.index(), &scratch[..count], now) == Fate::Closes {
                        return;
                    }
                    // Edge-triggered: fewer bytes than asked for means that there are no more, and new ones make a
                    // new event. After the peer's end there will be no more events, so read until it shows.
                    if count < scratch.len() && !closing {
                        return;
                    }
                }
            }
        }
        self.unread.borrow_mut().push(token);
    }

    fn on_bytes(&self, index: usize, bytes: &[u8], now: Instant) -> Fate {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.get_mut(index) else {
            return Fate::Closes;
        };
        let Some(call) = &mut connection.call else {
            // Nothing was asked: it would be taken for the answer to whatever is asked next.
            drop(connections);
            self.close(index, CallFailure::Protocol("unsolicited bytes"), now);
            return Fate::Closes;
        };
        call.answer_begun = true;
        let limit = self.limits.response_bytes_max;
        let failure = match connection.reader.read(bytes, &mut connection.body, limit) {
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
        let body = std::mem::replace(&mut connection.body, self.gatherings.buffer());
        // An answer before the request was sent whole: what is left of the request would be read as another one.
        let out_of_step = left_over || !connection.unsent.is_empty();
        let lives = head.keep_alive && !out_of_step && !connection.distrusted;
        let call = connection.call.take();
        connection.since = now;
        drop(connections);
        if lives {
            dsp.idle.borrow_mut().push(token);
        } else {
            self.close(index, CallFailure::Lost, now);
        }
        if let Some(call) = call {
            let result = self.decoded(dsp, head, body).map(|body| Reply {
                status: head.status,
                body,
                connection: token.0,
            });
            self.complete(dsp.id, call, result, now);
        }
        if lives { Fate::Lives } else { Fate::Closes }
    }

    fn decoded(&self, dsp: &Dsp, head: Head, body: Vec<u8>) -> Result<Vec<u8>, CallFailure> {
        if !head.gzip || body.is_empty() {
            return Ok(body);
        }
        if !dsp.gzip {
            return Err(CallFailure::BadEncoding);
        }
        let mut plain = self.gatherings.buffer();
        let result = gunzip(&body, &mut plain, self.limits.response_bytes_max);
        self.gatherings.recycle(body);
        match result {
            Ok(()) => Ok(plain),
            Err(crate::net::gzip::GunzipError::TooLarge(_)) => Err(CallFailure::TooLarge),
            Err(crate::net::gzip::GunzipError::Corrupt) => Err(CallFailure::BadEncoding),
        }
    }

    /// The DSP has closed its side.
    fn on_end(&self, index: usize, now: Instant) {
        let mut connections = self.connections.borrow_mut();
        let Some(connection) = connections.get_mut(index) else {
            return;
        };
        if connection.call.is_some()
            && let Some(head) = connection.reader.end()
        {
            drop(connections);
            self.on_answer(index, head, false, now);
            return;
        }
        drop(connections);
        self.close(index, CallFailure::Lost, now);
    }

    /// Closes a connection; its call, if it has one, failed for `reason`.
    fn close(&self, index: usize, reason: CallFailure, now: Instant) {
        let Some(connection) = self.connections.borrow_mut().try_remove(index) else {
            return;
        };
        let dsp = &self.dsps[connection.dsp];
        dsp.open.set(dsp.open.get() - 1);
        self.gatherings.recycle(connection.body);
        let Some(call) = connection.call else { return };
        let went_stale = reason == CallFailure::Lost && call.reused && !call.answer_begun;
        let reason = if went_stale { CallFailure::Stale } else { reason };
        self.complete(dsp.id, call, Err(reason), now);
    }

    fn complete(&self, dsp: DspId, call: CallUnderWay, result: Result<Reply, CallFailure>, now: Instant) {
        let answered = result.is_ok();
        let wanted = self.gatherings.complete(call.ticket, now, result);
        if answered && !wanted {
            self.observer.late(dsp, now.since(call.due_at));
        }
    }
}

impl Transport for Http1Pool {
    fn start(&self, outgoing: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure> {
        let dsp = &self.dsps[outgoing.dsp.index()];
        let mut head = self.head.borrow_mut();
        dsp.head.write(outgoing.body.len(), &mut head);
        let call = CallUnderWay {
            ticket,
            due_at: outgoing.due_at,
            reused: true,
            answer_begun: false,
        };
        if !outgoing.fresh && self.send_on_idle(dsp, call, &head, outgoing.body, now) {
            return Ok(());
        }
        self.open(
            dsp,
            CallUnderWay {
                reused: false,
                ..call
            },
            &head,
            outgoing.body,
            now,
        )
    }

    fn distrust(&self, connection: u64) {
        let token = Token(connection);
        let mut connections = self.connections.borrow_mut();
        let alive = connections
            .get_mut(token.index())
            .filter(|c| c.generation == token.generation());
        let Some(connection) = alive else { return };
        connection.distrusted = true;
        if connection.call.is_none() {
            let since = connection.since;
            drop(connections);
            self.close(token.index(), CallFailure::Lost, since);
        }
    }
}

impl Connection {
    /// Sends a request, keeping what the kernel does not take for [`Self::flush`].
    fn send(&mut self, head: &[u8], body: &[u8]) -> std::io::Result<()> {
        let sent = match self.socket.send(head, body)? {
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

    fn flush(&mut self) -> std::io::Result<()> {
        while !self.unsent.is_empty() {
            match self.socket.send(&self.unsent, &[])? {
                Progress::Moved(count) => drop(self.unsent.drain(..count)),
                Progress::WouldBlock => return Ok(()),
            }
        }
        Ok(())
    }
}

impl std::fmt::Debug for Http1Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Http1Pool")
            .field("connections", &self.connections.borrow().len())
            .finish_non_exhaustive()
    }
}
