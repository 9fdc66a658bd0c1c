//! HTTP/2 with prior knowledge: a fixed number of connections, many requests on each, all frames of one turn in one
//! write. Keeps to the server's limits (concurrent streams, flow control, frame size); what does not fit waits inside the
//! generator, and says so. Header fields are sent as literals, so that the request head is the same bytes every time.

use super::body::Bodies;
use super::client::{Failure, Observer, Place};
use super::clock::Clock;
use super::link::{Link, Peer};
use super::options::Target;
use super::window::Window;
use crate::net::hpack;
use crate::net::poller::{Poller, Ready};
use slab::Slab;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The client.
#[derive(Debug)]
pub(crate) struct Http2 {
    address: SocketAddr,
    head: Vec<u8>,
    bodies: Bodies,
    clock: Clock,
    limit: usize,
    connections: Slab<Connection>,
    /// Connections that take new requests, in turn from `next` on.
    active: Vec<usize>,
    next: usize,
    waiting: VecDeque<u64>,
    /// Connections with something to send.
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
    decoder: hpack::Decoder,
    /// By ordinal: stream `2 * ordinal + 1`.
    streams: Window<Stream>,
    streams_max: usize,
    frame_bytes_max: usize,
    /// What the server lets us send on the connection, and on a new stream. A stream's own can become negative
    /// (RFC 9113 §6.9.2).
    window: i64,
    window_of_new_streams: i64,
    /// Ordinals with body bytes that no window had room for, oldest first.
    blocked: VecDeque<u64>,
    /// A header block whose END_HEADERS has not come yet.
    unfinished_block: Option<(u64, bool, Vec<u8>)>,
    /// DATA bytes received since we last gave the server room.
    consumed: u32,
    /// Requests in the outbox that no write has been tried for.
    unsent: Vec<(u64, u64)>,
    going_away: bool,
    dirty: bool,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    window: i64,
    unsent_body: Vec<u8>,
    status: u16,
    body: Vec<u8>,
}

/// The server broke the protocol, or closed: the connection is lost.
#[derive(Debug)]
struct Broken;

/// What a frame did that the whole client must know.
enum Effect {
    None,
    Answered(Stream),
    Reset(Stream),
    /// These were certainly not looked at (RFC 9113 §6.8) and may be sent elsewhere.
    Returned(Vec<u64>),
}

impl Http2 {
    pub(crate) fn new(target: &Target, limit: usize, bodies: Bodies, clock: Clock) -> Http2 {
        let mut head = Vec::new();
        hpack::encode_indexed(METHOD_POST, &mut head);
        hpack::encode_indexed(SCHEME_HTTP, &mut head);
        hpack::encode_literal(b":path", target.path.as_bytes(), &mut head);
        hpack::encode_literal(b":authority", target.authority.as_bytes(), &mut head);
        hpack::encode_literal(b"content-type", b"application/json", &mut head);
        hpack::encode_literal(b"x-openrtb-version", b"2.6", &mut head);
        Http2 {
            address: target.address,
            head,
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
        if self.waiting.is_empty() {
            match self.choose(poller) {
                Ok(Some(index)) => return self.put(index, number),
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
            if connection.link.flush(poller).is_err() {
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
        self.place_waiting(poller, observer);
    }

    /// The stream is reset, so that the server may forget it too.
    pub(crate) fn abandon(&mut self, place: Place) {
        let Some(index) = self.index(place.connection) else {
            return;
        };
        let connection = &mut self.connections[index];
        if connection.streams.take(place.stream).is_some() {
            connection.blocked.retain(|&ordinal| ordinal != place.stream);
            frame(
                connection.link.outbox.buffer(),
                RST_STREAM,
                0,
                stream_id(place.stream),
                &CANCEL.to_be_bytes(),
            );
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

    /// A connection with room for one more stream: a new one until there are `limit`, then in turn.
    fn choose(&mut self, poller: &Poller) -> std::io::Result<Option<usize>> {
        if self.active.len() < self.limit {
            return self.open(poller).map(Some);
        }
        for _ in 0..self.active.len() {
            self.next = (self.next + 1) % self.active.len();
            let index = self.active[self.next];
            let connection = &self.connections[index];
            if connection.streams.live() < connection.streams_max {
                return Ok(Some(index));
            }
        }
        Ok(None)
    }

    fn open(&mut self, poller: &Poller) -> std::io::Result<usize> {
        let entry = self.connections.vacant_entry();
        let index = entry.key();
        self.opened += 1;
        let token = self.opened << 32 | index as u64;
        let mut link = Link::open(self.address, token, poller)?;
        greet(link.outbox.buffer());
        entry.insert(Connection {
            link,
            token,
            decoder: hpack::Decoder::default(),
            streams: Window::default(),
            streams_max: STREAMS_UNTIL_TOLD,
            frame_bytes_max: 16_384,
            window: 65_535,
            window_of_new_streams: 65_535,
            blocked: VecDeque::new(),
            unfinished_block: None,
            consumed: 0,
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
        let mut block = [0; 32];
        let length = content_length(self.request.len(), &mut block);
        let connection = &mut self.connections[index];
        let ordinal = connection.streams.push(Stream {
            number,
            window: connection.window_of_new_streams,
            unsent_body: Vec::new(),
            status: 0,
            body: Vec::new(),
        });
        let out = connection.link.outbox.buffer();
        frame_head(
            out,
            self.head.len() + length.len(),
            HEADERS,
            END_HEADERS,
            stream_id(ordinal),
        );
        out.extend_from_slice(&self.head);
        out.extend_from_slice(length);
        connection.unsent.push((number, ordinal));
        connection.send_body(ordinal, &self.request);
        if ordinal >= ORDINAL_MAX {
            self.retire(index);
        }
        self.mark_dirty(index);
    }

    /// The connection finishes what it has and takes no more; another may be opened in its place.
    fn retire(&mut self, index: usize) {
        self.connections[index].going_away = true;
        self.active.retain(|&active| active != index);
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

    fn receive(&mut self, index: usize, observer: &mut impl Observer) -> Result<(), Broken> {
        let connection = &mut self.connections[index];
        let peer = connection.link.receive(&mut self.scratch).map_err(|_| Broken)?;
        let now_ns = self.clock.now_ns();
        let inbox = std::mem::take(&mut connection.link.inbox);
        let mut rest = &inbox[..];
        while let Some((frame, after)) = split_frame(rest)? {
            rest = after;
            match connection.on_frame(frame, observer)? {
                Effect::None => {}
                Effect::Answered(stream) => {
                    observer.answered(stream.number, now_ns, stream.status, &stream.body)
                }
                Effect::Reset(stream) => observer.failed(stream.number, Failure::Reset),
                Effect::Returned(numbers) => {
                    numbers.iter().for_each(|&number| observer.queued(number));
                    self.waiting.extend(numbers);
                    self.active.retain(|&active| active != index);
                }
            }
        }
        let consumed = inbox.len() - rest.len();
        connection.link.inbox = inbox;
        connection.link.inbox.drain(..consumed);
        let done = connection.going_away && connection.streams.live() == 0;
        if !connection.link.outbox.is_empty() {
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
    /// Sends as much of the body as the windows allow and keeps the rest.
    fn send_body(&mut self, ordinal: u64, body: &[u8]) {
        // Blocked ones go first, or a long body would never end.
        let room = if self.blocked.is_empty() {
            self.room(ordinal)
        } else {
            0
        };
        let (now, later) = body.split_at(room.min(body.len()));
        self.send_data(ordinal, now, later.is_empty());
        if !later.is_empty()
            && let Some(stream) = self.streams.get_mut(ordinal)
        {
            stream.unsent_body = later.to_vec();
            self.blocked.push_back(ordinal);
        }
    }

    /// Sends blocked bodies as far as the windows allow now.
    fn unblock(&mut self) {
        for _ in 0..self.blocked.len() {
            let Some(ordinal) = self.blocked.pop_front() else {
                return;
            };
            let room = self.room(ordinal);
            let Some(stream) = self.streams.get_mut(ordinal) else {
                continue;
            };
            let mut body = std::mem::take(&mut stream.unsent_body);
            let later = body.split_off(room.min(body.len()));
            self.send_data(ordinal, &body, later.is_empty());
            if let Some(stream) = self.streams.get_mut(ordinal).filter(|_| !later.is_empty()) {
                stream.unsent_body = later;
                self.blocked.push_front(ordinal);
                if self.window <= 0 {
                    return;
                }
                // Only its own stream is out of room: let the others pass.
                self.blocked.rotate_left(1);
            }
        }
    }

    fn room(&mut self, ordinal: u64) -> usize {
        let stream = self.streams.get_mut(ordinal).map_or(0, |stream| stream.window);
        usize::try_from(stream.min(self.window)).unwrap_or(0)
    }

    fn send_data(&mut self, ordinal: u64, bytes: &[u8], ends: bool) {
        let out = self.link.outbox.buffer();
        let mut chunks = bytes.chunks(self.frame_bytes_max).peekable();
        while let Some(chunk) = chunks.next() {
            let flags = if ends && chunks.peek().is_none() {
                END_STREAM
            } else {
                0
            };
            frame(out, DATA, flags, stream_id(ordinal), chunk);
        }
        let sent = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        self.window -= sent;
        if let Some(stream) = self.streams.get_mut(ordinal) {
            stream.window -= sent;
        }
    }

    fn on_frame(&mut self, frame: Frame<'_>, observer: &mut impl Observer) -> Result<Effect, Broken> {
        if self.unfinished_block.is_some() && frame.kind != CONTINUATION {
            return Err(Broken);
        }
        match frame.kind {
            DATA => self.on_data(frame, observer),
            HEADERS => {
                let mut block = frame.without_padding()?;
                if frame.flags & PRIORITY_FLAG != 0 {
                    block = block.get(5..).ok_or(Broken)?;
                }
                let ends = frame.flags & END_STREAM != 0;
                if frame.flags & END_HEADERS != 0 {
                    return self.on_block(ordinal_of(frame.stream)?, ends, block, observer);
                }
                self.unfinished_block = Some((ordinal_of(frame.stream)?, ends, block.to_vec()));
                Ok(Effect::None)
            }
            CONTINUATION => {
                let (ordinal, ends, mut block) = self.unfinished_block.take().ok_or(Broken)?;
                block.extend_from_slice(frame.payload);
                if frame.flags & END_HEADERS != 0 {
                    return self.on_block(ordinal, ends, &block, observer);
                }
                if block.len() > HEADER_BLOCK_BYTES_MAX {
                    return Err(Broken);
                }
                self.unfinished_block = Some((ordinal, ends, block));
                Ok(Effect::None)
            }
            RST_STREAM => Ok(match self.streams.take(ordinal_of(frame.stream)?) {
                Some(stream) => Effect::Reset(stream),
                None => Effect::None,
            }),
            SETTINGS => self.on_settings(frame).map(|()| Effect::None),
            PING if frame.flags & ACK == 0 => {
                frame_out(self, PING, ACK, frame.payload);
                Ok(Effect::None)
            }
            GOAWAY => self.on_goaway(frame),
            WINDOW_UPDATE => self.on_window_update(frame).map(|()| Effect::None),
            PUSH_PROMISE => Err(Broken),
            _ => Ok(Effect::None),
        }
    }

    fn on_data(&mut self, frame: Frame<'_>, observer: &mut impl Observer) -> Result<Effect, Broken> {
        let ordinal = ordinal_of(frame.stream)?;
        // Padding counts in flow control too (RFC 9113 §6.1).
        self.consumed += u32::try_from(frame.payload.len()).map_err(|_| Broken)?;
        if self.consumed >= RECEIVE_WINDOW_BYTES / 2 {
            frame_out(self, WINDOW_UPDATE, 0, &self.consumed.to_be_bytes());
            self.consumed = 0;
        }
        let data = frame.without_padding()?;
        let Some(stream) = self.streams.get_mut(ordinal) else {
            return Ok(Effect::None);
        };
        if stream.status == 0 || stream.body.len() + data.len() > STREAM_WINDOW_BYTES as usize {
            return Err(Broken);
        }
        stream.body.extend_from_slice(data);
        Ok(if frame.flags & END_STREAM != 0 {
            self.finish(ordinal, observer)
        } else {
            Effect::None
        })
    }

    fn on_block(
        &mut self,
        ordinal: u64,
        ends: bool,
        block: &[u8],
        observer: &mut impl Observer,
    ) -> Result<Effect, Broken> {
        let mut status = 0;
        let read = |name: &[u8], value: &[u8]| {
            if name == b":status" {
                status = str::from_utf8(value)
                    .ok()
                    .and_then(|text| text.parse().ok())
                    .unwrap_or(0);
            }
        };
        // Decoded even if nobody waits for the stream any more: the table must stay in step.
        self.decoder.decode(block, read).map_err(|_| Broken)?;
        let Some(stream) = self.streams.get_mut(ordinal) else {
            return Ok(Effect::None);
        };
        let trailers = stream.status != 0;
        match status {
            0 if !trailers => return Err(Broken),
            100..200 => return Ok(Effect::None),
            status if !trailers => stream.status = status,
            _ => {}
        }
        Ok(if ends {
            self.finish(ordinal, observer)
        } else {
            Effect::None
        })
    }

    /// The stream has ended on the server's side. If our half is still being sent, the server did not want it.
    fn finish(&mut self, ordinal: u64, observer: &mut impl Observer) -> Effect {
        let Some(stream) = self.streams.take(ordinal) else {
            observer.unasked();
            return Effect::None;
        };
        if !stream.unsent_body.is_empty() {
            self.blocked.retain(|&blocked| blocked != ordinal);
            frame(
                self.link.outbox.buffer(),
                RST_STREAM,
                0,
                stream_id(ordinal),
                &NO_ERROR.to_be_bytes(),
            );
        }
        Effect::Answered(stream)
    }

    fn on_settings(&mut self, frame: Frame<'_>) -> Result<(), Broken> {
        if frame.flags & ACK != 0 {
            return Ok(());
        }
        let (settings, []) = frame.payload.as_chunks::<6>() else {
            return Err(Broken);
        };
        for &[id_high, id_low, a, b, c, d] in settings {
            let value = u32::from_be_bytes([a, b, c, d]);
            match u16::from_be_bytes([id_high, id_low]) {
                SETTINGS_MAX_CONCURRENT_STREAMS => self.streams_max = value as usize,
                SETTINGS_MAX_FRAME_SIZE => self.frame_bytes_max = (value as usize).clamp(16_384, 1 << 20),
                SETTINGS_INITIAL_WINDOW_SIZE => {
                    let grown = i64::from(value) - self.window_of_new_streams;
                    self.window_of_new_streams = i64::from(value);
                    self.streams
                        .values_mut()
                        .for_each(|stream| stream.window += grown);
                }
                _ => {}
            }
        }
        // Unlimited until told (RFC 9113 §5.1.2); we were more careful, and need not be any longer.
        let told = settings
            .iter()
            .any(|s| s[..2] == SETTINGS_MAX_CONCURRENT_STREAMS.to_be_bytes());
        if !told && self.streams_max == STREAMS_UNTIL_TOLD {
            self.streams_max = usize::MAX;
        }
        frame_out(self, SETTINGS, ACK, &[]);
        self.unblock();
        Ok(())
    }

    fn on_window_update(&mut self, frame: Frame<'_>) -> Result<(), Broken> {
        let increment: [u8; 4] = frame.payload.try_into().map_err(|_| Broken)?;
        let increment = i64::from(u32::from_be_bytes(increment) & 0x7fff_ffff);
        if frame.stream == 0 {
            self.window += increment;
        } else if let Some(stream) = self.streams.get_mut(ordinal_of(frame.stream)?) {
            stream.window += increment;
        }
        self.unblock();
        Ok(())
    }

    fn on_goaway(&mut self, frame: Frame<'_>) -> Result<Effect, Broken> {
        let last: [u8; 4] = frame
            .payload
            .get(..4)
            .and_then(|last| last.try_into().ok())
            .ok_or(Broken)?;
        let last = u32::from_be_bytes(last) & 0x7fff_ffff;
        self.going_away = true;
        let unseen: Vec<u64> = self
            .streams
            .numbers()
            .filter(|&ordinal| stream_id(ordinal) > last)
            .collect();
        let returned: Vec<u64> = unseen
            .iter()
            .filter_map(|&ordinal| self.streams.take(ordinal))
            .map(|s| s.number)
            .collect();
        self.blocked.retain(|ordinal| !unseen.contains(ordinal));
        self.unsent.retain(|(_, ordinal)| !unseen.contains(ordinal));
        Ok(Effect::Returned(returned))
    }
}

/// Preface, our settings, and room for all answers on the connection.
fn greet(out: &mut Vec<u8>) {
    out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    let mut settings = Vec::new();
    for (id, value) in [
        (SETTINGS_ENABLE_PUSH, 0),
        (SETTINGS_INITIAL_WINDOW_SIZE, STREAM_WINDOW_BYTES),
    ] {
        settings.extend_from_slice(&id.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    frame(out, SETTINGS, 0, 0, &settings);
    frame(out, WINDOW_UPDATE, 0, 0, &RECEIVE_WINDOW_BYTES.to_be_bytes());
}

/// `content-length` as a header block fragment. (The field's name is number 28 of the static table.)
fn content_length(length: usize, room: &mut [u8; 32]) -> &[u8] {
    use std::io::Write as _;
    let mut block = std::io::Cursor::new(&mut room[..]);
    let digits = length.checked_ilog10().map_or(1, |log| log as u8 + 1);
    // Literal without indexing: 0000 and the index, of which 15 fit the prefix and 13 follow (RFC 7541 §6.2.2).
    let _ = block.write_all(&[0x0f, 28 - 15, digits]);
    let _ = write!(block, "{length}");
    &room[..3 + usize::from(digits)]
}

/// The first frame of `bytes` and what follows it; nothing while it is incomplete.
fn split_frame(bytes: &[u8]) -> Result<Option<(Frame<'_>, &[u8])>, Broken> {
    let Some((&[l2, l1, l0, kind, flags, s3, s2, s1, s0], rest)) = bytes.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([0, l2, l1, l0]) as usize;
    // We did not offer more than the default SETTINGS_MAX_FRAME_SIZE.
    if length > 16_384 {
        return Err(Broken);
    }
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    let stream = u32::from_be_bytes([s3, s2, s1, s0]) & 0x7fff_ffff;
    Ok(Some((
        Frame {
            kind,
            flags,
            stream,
            payload,
        },
        rest,
    )))
}

#[derive(Clone, Copy)]
struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

impl<'a> Frame<'a> {
    fn without_padding(&self) -> Result<&'a [u8], Broken> {
        if self.flags & PADDED == 0 {
            return Ok(self.payload);
        }
        let (&padding, rest) = self.payload.split_first().ok_or(Broken)?;
        rest.len()
            .checked_sub(usize::from(padding))
            .map(|length| &rest[..length])
            .ok_or(Broken)
    }
}

fn frame_out(connection: &mut Connection, kind: u8, flags: u8, payload: &[u8]) {
    frame(connection.link.outbox.buffer(), kind, flags, 0, payload);
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    frame_head(out, payload.len(), kind, flags, stream);
    out.extend_from_slice(payload);
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "no frame of ours is longer than 2^20 bytes"
)]
fn frame_head(out: &mut Vec<u8>, length: usize, kind: u8, flags: u8, stream: u32) {
    out.extend_from_slice(&(length as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a connection is retired before its ids run out"
)]
fn stream_id(ordinal: u64) -> u32 {
    (ordinal * 2 + 1) as u32
}

fn ordinal_of(stream: u32) -> Result<u64, Broken> {
    if stream % 2 == 1 {
        Ok(u64::from(stream / 2))
    } else {
        Err(Broken)
    }
}

/// Stream ids have 31 bits and are used up once: 2^30 requests on one connection.
const ORDINAL_MAX: u64 = (1 << 30) - 2;
/// A busy connection brings an answer of 0.8 kB for each of dozens of streams per read.
const READ_BYTES: usize = 256 * 1024;
/// RFC 9113 §6.5.2 recommends that no server allow fewer, so this many are safe to send before its SETTINGS come.
const STREAMS_UNTIL_TOLD: usize = 100;
/// Room for any one answer.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Room for all answers of a connection; renewed when half is used. With the initial 65,535 it stays below 2^31.
const RECEIVE_WINDOW_BYTES: u32 = 1 << 30;
/// An answer's head is below 200 bytes.
const HEADER_BLOCK_BYTES_MAX: usize = 64 * 1024;

const METHOD_POST: u8 = 3;
const SCHEME_HTTP: u8 = 6;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 0x1;
const ACK: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const PADDED: u8 = 0x8;
const PRIORITY_FLAG: u8 = 0x20;

const SETTINGS_ENABLE_PUSH: u16 = 2;
const SETTINGS_MAX_CONCURRENT_STREAMS: u16 = 3;
const SETTINGS_INITIAL_WINDOW_SIZE: u16 = 4;
const SETTINGS_MAX_FRAME_SIZE: u16 = 5;

const NO_ERROR: u32 = 0;
const CANCEL: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_what_the_decoder_reads() {
        for length in [0, 9, 10, 1300, 4_194_304] {
            let mut room = [0; 32];
            let mut got = Vec::new();
            let block = content_length(length, &mut room);
            hpack::Decoder::default()
                .decode(block, |name, value| got.push((name.to_vec(), value.to_vec())))
                .unwrap();
            assert_eq!(
                got,
                [(b"content-length".to_vec(), length.to_string().into_bytes())]
            );
        }
    }

    #[test]
    fn frames_are_split_only_when_whole() {
        let mut bytes = Vec::new();
        frame(&mut bytes, DATA, END_STREAM, 7, b"hello");
        for cut in 0..bytes.len() {
            assert!(split_frame(&bytes[..cut]).unwrap().is_none());
        }
        let (frame, rest) = split_frame(&bytes).unwrap().unwrap();
        assert_eq!(
            (frame.kind, frame.stream, frame.payload, rest),
            (DATA, 7, &b"hello"[..], &b""[..])
        );
        assert!(split_frame(&[0xff; 9]).is_err(), "longer than we allow");
    }
}
