//! HTTP/2 with prior knowledge: a fixed number of connections, many requests on each, all frames of one turn
//! in one write. Keeps to the server's limits (concurrent streams, flow control, frame size); what does not
//! fit waits inside the generator, and says so. Header fields are sent as literals, so that the request head
//! is the same bytes every time.

use super::body::Bodies;
use super::client::{Failure, Observer, Place};
use super::clock::Clock;
use super::link::{Link, Peer};
use super::options::Target;
use super::window::Window;
use crate::net::h2::{self, Event};
use crate::net::hpack;
use crate::net::poller::{Poller, Ready};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;

/// The client.
#[derive(Debug)]
pub(crate) struct Http2 {
    address: SocketAddr,
    /// The header block: `head_bytes` that never change, and behind them the length of the request at hand.
    block: Vec<u8>,
    head_bytes: usize,
    bodies: Bodies,
    clock: Clock,
    limit: usize,
    connections: Slab<Connection>,
    /// Connections that take new requests, in turn from `next` on.
    active: Vec<usize>,
    next: usize,
    waiting: VecDeque<u64>,
    /// Tokens of connections with something to send.
    dirty: Vec<u64>,
    peak: usize,
    opened: u64,
    scratch: Box<[u8]>,
    request: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    link: Link,
    token: u64,
    http: h2::Connection,
    /// By ordinal: stream `2 * ordinal + 1`.
    streams: Window<Stream>,
    /// The server has spoken, so its SETTINGS are known.
    heard: bool,
    /// Requests in the outbox that no write has been tried for, with their ordinals.
    unsent: Vec<(u64, u64)>,
    going_away: bool,
    dirty: bool,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    status: u16,
    body: Vec<u8>,
}

/// The server broke the protocol, or closed: the connection is lost.
#[derive(Debug)]
struct Broken;

impl Http2 {
    pub(crate) fn new(target: &Target, limit: usize, bodies: Bodies, clock: Clock) -> Http2 {
        let mut block = Vec::new();
        hpack::encode_indexed(METHOD_POST, &mut block);
        hpack::encode_indexed(SCHEME_HTTP, &mut block);
        hpack::encode_literal(b":path", target.path.as_bytes(), &mut block);
        hpack::encode_literal(b":authority", target.authority.as_bytes(), &mut block);
        hpack::encode_literal(b"content-type", b"application/json", &mut block);
        hpack::encode_literal(b"x-openrtb-version", b"2.6", &mut block);
        Http2 {
            address: target.address,
            head_bytes: block.len(),
            block,
            bodies,
            clock,
            limit,
            connections: Slab::new(),
            active: Vec::new(),
            next: 0,
            waiting: VecDeque::new(),
            dirty: Vec::new(),
            peak: 0,
            opened: 0,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            request: Vec::new(),
        }
    }

    pub(crate) fn submit(&mut self, number: u64, poller: &Poller, observer: &mut impl Observer) {
        // Whoever waits already goes first.
        if self.waiting.is_empty() {
            match self.choose(poller) {
                Ok(Some(index)) => {
                    if self.connections[index].link.is_connecting() {
                        observer.queued(number);
                    }
                    return self.put(index, number);
                }
                Ok(None) => {}
                Err(_) => return observer.failed(number, Failure::Connect),
            }
        }
        observer.queued(number);
        self.waiting.push_back(number);
    }

    pub(crate) fn flush(&mut self, poller: &Poller, observer: &mut impl Observer) {
        self.place_waiting(poller, observer);
        while let Some(token) = self.dirty.pop() {
            let Some(index) = self.index(token) else { continue };
            let connection = &mut self.connections[index];
            connection.dirty = false;
            if connection.link.is_connecting() {
                continue;
            }
            let now_ns = self.clock.now_ns();
            for (number, stream) in connection.unsent.drain(..) {
                observer.sent(
                    number,
                    now_ns,
                    Place {
                        connection: token,
                        stream,
                    },
                );
            }
            if connection.flush(poller).is_err() {
                self.lost(index, Failure::Reset, observer);
            }
        }
    }

    pub(crate) fn ready(&mut self, ready: Ready, poller: &Poller, observer: &mut impl Observer) {
        let Some(index) = self.index(ready.token) else {
            return;
        };
        let link = &mut self.connections[index].link;
        if link.is_connecting() {
            match link.finish_connecting(ready, poller) {
                Ok(true) => self.mark_dirty(index),
                Ok(false) => {}
                Err(_) => self.lost(index, Failure::Connect, observer),
            }
            return;
        }
        if ready.write {
            self.mark_dirty(index);
        }
        if ready.read && self.receive(index, observer).is_err() {
            self.lost(index, Failure::Reset, observer);
        }
    }

    /// The stream is reset, so that the server may forget it too.
    pub(crate) fn abandon(&mut self, place: Place) {
        let Some(index) = self.index(place.connection) else {
            return;
        };
        let connection = &mut self.connections[index];
        if connection.streams.take(place.stream).is_some() {
            let out = connection.link.outbox.buffer();
            connection
                .http
                .reset(stream_id(place.stream), h2::code::CANCEL, out);
            self.mark_dirty(index);
        }
    }

    pub(crate) fn connections_peak(&self) -> usize {
        self.peak
    }

    fn index(&self, token: u64) -> Option<usize> {
        let index = usize::try_from(token & u64::from(u32::MAX)).ok()?;
        self.connections
            .get(index)
            .filter(|connection| connection.token == token)?;
        Some(index)
    }

    fn mark_dirty(&mut self, index: usize) {
        let connection = &mut self.connections[index];
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(connection.token);
        }
    }

    fn place_waiting(&mut self, poller: &Poller, observer: &mut impl Observer) {
        while let Some(&number) = self.waiting.front() {
            if observer.is_wanted(number) {
                match self.choose(poller) {
                    Ok(Some(index)) => self.put(index, number),
                    Ok(None) => return,
                    Err(_) => observer.failed(number, Failure::Connect),
                }
            }
            self.waiting.pop_front();
        }
    }

    /// A connection with room for one more stream: a new one until there are `limit`, then in turn.
    fn choose(&mut self, poller: &Poller) -> io::Result<Option<usize>> {
        if self.active.len() < self.limit {
            return self.open(poller).map(Some);
        }
        for _ in 0..self.active.len() {
            self.next = (self.next + 1) % self.active.len();
            let index = self.active[self.next];
            if self.connections[index].has_room() {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn open(&mut self, poller: &Poller) -> io::Result<usize> {
        let entry = self.connections.vacant_entry();
        let index = entry.key();
        self.opened += 1;
        let token = self.opened << 32 | index as u64;
        let mut link = Link::open(self.address, token, poller)?;
        let http = h2::Connection::client(link.outbox.buffer());
        entry.insert(Connection {
            link,
            token,
            http,
            streams: Window::default(),
            heard: false,
            unsent: Vec::new(),
            going_away: false,
            dirty: false,
        });
        self.active.push(index);
        self.peak = self.peak.max(self.connections.len());
        Ok(index)
    }

    /// Writes a request's frames into the connection's outbox.
    fn put(&mut self, index: usize, number: u64) {
        self.request.clear();
        self.bodies.append(number, &mut self.request);
        self.block.truncate(self.head_bytes);
        let length = self.request.len().to_string();
        hpack::encode_literal(b"content-length", length.as_bytes(), &mut self.block);
        let connection = &mut self.connections[index];
        let ordinal = connection.streams.push(Stream {
            number,
            status: 0,
            body: Vec::new(),
        });
        let out = connection.link.outbox.buffer();
        connection
            .http
            .send(stream_id(ordinal), &self.block, &self.request, out);
        connection.unsent.push((number, ordinal));
        if ordinal >= ORDINAL_MAX {
            connection.going_away = true;
            self.active.retain(|&active| active != index);
        }
        self.mark_dirty(index);
    }

    fn receive(&mut self, index: usize, observer: &mut impl Observer) -> Result<(), Broken> {
        let connection = &mut self.connections[index];
        let peer = connection.link.receive(&mut self.scratch).map_err(|_| Broken)?;
        let now_ns = self.clock.now_ns();
        connection.heard |= !connection.link.inbox.is_empty();
        let inbox = std::mem::take(&mut connection.link.inbox);
        let mut rest = &inbox[..];
        while let Some(event) = connection.next_event(&mut rest)? {
            if let Event::GoAway { last_stream, .. } = event {
                connection.going_away = true;
                self.active.retain(|&active| active != index);
                for number in connection.take_unseen(last_stream) {
                    observer.queued(number);
                    self.waiting.push_back(number);
                }
            } else {
                connection.on_event(event, now_ns, observer)?;
            }
        }
        let consumed = inbox.len() - rest.len();
        connection.link.inbox = inbox;
        connection.link.inbox.drain(..consumed);
        let done = connection.going_away && connection.streams.live() == 0;
        // Acknowledgements, or room for a parked body.
        if !connection.link.outbox.is_empty() || connection.http.has_parked() {
            self.mark_dirty(index);
        }
        if peer == Peer::Finished || done {
            Err(Broken)
        } else {
            Ok(())
        }
    }

    fn lost(&mut self, index: usize, failure: Failure, observer: &mut impl Observer) {
        let mut connection = self.connections.remove(index);
        self.active.retain(|&active| active != index);
        for stream in connection.streams.drain() {
            observer.failed(stream.number, failure);
        }
    }
}

impl Connection {
    fn has_room(&self) -> bool {
        if self.link.outbox.len() > OUTBOX_BYTES_MAX {
            return false;
        }
        let told = usize::try_from(self.http.peer_streams_max()).unwrap_or(usize::MAX);
        self.http.open_streams()
            < if self.heard {
                told
            } else {
                told.min(STREAMS_UNTIL_TOLD)
            }
    }

    /// Writes what there is, and goes on with long bodies where that has made room.
    fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        self.link.flush(poller)?;
        while self.http.has_parked() && self.link.outbox.is_empty() {
            self.http.pump(self.link.outbox.buffer());
            if self.link.outbox.is_empty() {
                // The windows are shut; the frame that opens them brings us back here.
                return Ok(());
            }
            self.link.flush(poller)?;
        }
        Ok(())
    }

    fn next_event<'a>(&mut self, input: &mut &'a [u8]) -> Result<Option<Event<'a>>, Broken> {
        self.http
            .next(input, self.link.outbox.buffer())
            .map_err(|_| Broken)
    }

    fn on_event(
        &mut self,
        event: Event<'_>,
        now_ns: u64,
        observer: &mut impl Observer,
    ) -> Result<(), Broken> {
        match event {
            Event::Head {
                stream,
                head,
                end_stream,
            } => {
                let ordinal = ordinal_of(stream)?;
                let awaited = self.streams.get_mut(ordinal).filter(|stream| stream.status == 0);
                // Interim responses and trailers say nothing that counts.
                if let Some(stream) = awaited.filter(|_| head.status >= 200) {
                    stream.status = head.status;
                }
                if end_stream {
                    self.finish(ordinal, now_ns, observer);
                }
            }
            Event::Data {
                stream,
                bytes,
                end_stream,
            } => {
                let ordinal = ordinal_of(stream)?;
                if let Some(stream) = self.streams.get_mut(ordinal) {
                    if stream.body.len() + bytes.len() > ANSWER_BYTES_MAX {
                        return Err(Broken);
                    }
                    stream.body.extend_from_slice(bytes);
                }
                if end_stream {
                    self.finish(ordinal, now_ns, observer);
                }
            }
            Event::Reset { stream, .. } => {
                if let Some(stream) = self.streams.take(ordinal_of(stream)?) {
                    observer.failed(stream.number, Failure::Reset);
                }
            }
            // Concerns more than this connection: see `receive`.
            Event::GoAway { .. } => {}
        }
        Ok(())
    }

    /// Nothing is there if the stream was given up in the meantime.
    fn finish(&mut self, ordinal: u64, now_ns: u64, observer: &mut impl Observer) {
        match self.streams.take(ordinal) {
            Some(Stream {
                number, status: 0, ..
            }) => observer.failed(number, Failure::Parse),
            Some(Stream { number, status, body }) => observer.answered(number, now_ns, status, &body),
            None => {}
        }
    }

    /// Takes back the requests on streams above `last_stream`: the server has certainly not looked at them,
    /// and they may be sent elsewhere (RFC 9113 §6.8).
    fn take_unseen(&mut self, last_stream: u32) -> Vec<u64> {
        let unseen = |ordinal: u64| stream_id(ordinal) > last_stream;
        let ordinals: Vec<u64> = self
            .streams
            .numbers()
            .filter(|&ordinal| unseen(ordinal))
            .collect();
        self.unsent.retain(|&(_, ordinal)| !unseen(ordinal));
        ordinals
            .into_iter()
            .filter_map(|ordinal| self.streams.take(ordinal))
            .map(|stream| stream.number)
            .collect()
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "ORDINAL_MAX keeps it within 31 bits"
)]
fn stream_id(ordinal: u64) -> u32 {
    (ordinal * 2 + 1) as u32
}

/// A server has no streams of its own here.
fn ordinal_of(stream: u32) -> Result<u64, Broken> {
    if stream % 2 == 1 {
        Ok(u64::from(stream / 2))
    } else {
        Err(Broken)
    }
}

/// Stream ids have 31 bits and are used once: after 2^30 requests the connection takes no more.
const ORDINAL_MAX: u64 = (1 << 30) - 2;
/// A busy connection brings an answer of 0.8 kB for each of dozens of streams per read.
const READ_BYTES: usize = 256 * 1024;
/// RFC 9113 §6.5.2 recommends that no server allow fewer, so this many are safe to send before its SETTINGS
/// come.
const STREAMS_UNTIL_TOLD: usize = 100;
/// Of a server that is so far behind with reading nothing more is asked on this connection: 6,000 requests are more than
/// it can answer in time, and would be in our memory.
const OUTBOX_BYTES_MAX: usize = 8 << 20;
/// No BidResponse is this long.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// `:method: POST` and `:scheme: http` in the static table (RFC 7541 Appendix A).
const METHOD_POST: u8 = 3;
const SCHEME_HTTP: u8 = 6;
