//! HTTP/2 (RFC 9113) for both ends of the load test: frames in, events out; messages in, frames out. Never
//! touches a socket. Tuned for short messages on few connections with thousands of streams: receive windows
//! are so large that WINDOW_UPDATE is rare, and a message that fits the peer's windows, as nearly all do, is
//! written at once.
//!
//! Lenient where leniency is harmless to a load test: it does not check the order of pseudo-headers or police
//! what is sent on closed streams. Strict where it would corrupt the connection: framing, HPACK, windows,
//! CONTINUATION.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

use super::hpack;

/// What a client sends before its first frame.
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One end of one connection.
#[derive(Debug)]
pub struct Connection {
    awaits_preface: bool,
    is_server: bool,
    decoder: hpack::Decoder,
    last_block: Vec<u8>,
    /// What `last_block` means, as long as the dynamic table stays as it is.
    last_head: Option<Head>,
    /// A header block whose end has not come yet.
    unfinished: Option<Unfinished>,
    /// Bytes of DATA received since the last WINDOW_UPDATE for the connection.
    received: u32,
    /// Bytes of DATA that the peer will still take on the connection.
    send_window: i64,
    peer_stream_window: i64,
    peer_frame_bytes_max: usize,
    peer_streams_max: u32,
    /// Streams in progress, with what WINDOW_UPDATE has added to their windows before we had anything to
    /// send.
    streams: StreamMap<i64>,
    parked: VecDeque<Parked>,
    highest_peer_stream: u32,
}

/// What a connection has to say to its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// A header block. At most one per message unless there are trailers, which come with `end_stream`.
    Head {
        /// The stream.
        stream: u32,
        /// What we read of it.
        head: Head,
        /// The message has no body, or these are its trailers.
        end_stream: bool,
    },
    /// Part of a body.
    Data {
        /// The stream.
        stream: u32,
        /// The part, without padding.
        bytes: &'a [u8],
        /// It is the last.
        end_stream: bool,
    },
    /// The peer gave the stream up.
    Reset {
        /// The stream.
        stream: u32,
        /// RFC 9113 §7.
        code: u32,
    },
    /// The peer will not take streams above `last_stream`.
    GoAway {
        /// The highest stream it will still answer.
        last_stream: u32,
        /// RFC 9113 §7; 0 is a graceful end.
        code: u32,
    },
}

/// The few facts of a header block that the load test needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    /// `:status` of a response, 0 in a request.
    pub status: u16,
    /// `:method` is POST.
    pub post: bool,
    /// `content-encoding: gzip`.
    pub gzip: bool,
}

/// The peer broke the protocol. Send [`Connection::go_away`] with `code`, then close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Violation {
    /// RFC 9113 §7.
    pub code: u32,
    /// For a log.
    pub why: &'static str,
}

/// Error codes (RFC 9113 §7).
pub mod code {
    /// A graceful end.
    pub const NO_ERROR: u32 = 0;
    /// Anything against the protocol that has no code of its own.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// Our own fault.
    pub const INTERNAL_ERROR: u32 = 2;
    /// A window above 2^31-1.
    pub const FLOW_CONTROL_ERROR: u32 = 3;
    /// A frame longer than allowed, or of a wrong fixed length.
    pub const FRAME_SIZE_ERROR: u32 = 6;
    /// Not processed: safe to retry.
    pub const REFUSED_STREAM: u32 = 7;
    /// No longer needed.
    pub const CANCEL: u32 = 8;
    /// A header block that cannot be decoded.
    pub const COMPRESSION_ERROR: u32 = 9;
}

/// The rest of a body that waits for the peer's windows or for room in the outbox.
#[derive(Debug)]
struct Parked {
    stream: u32,
    window: i64,
    rest: Rest,
}

#[derive(Debug)]
enum Rest {
    Bytes { body: Vec<u8>, sent: usize },
    Filler { left: u64 },
}

#[derive(Debug)]
struct Unfinished {
    stream: u32,
    end_stream: bool,
    block: Vec<u8>,
}

struct Frame<'a> {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &'a [u8],
}

/// By stream number, without the cost of a hash that resists attack.
pub type StreamMap<V> = HashMap<u32, V, BuildHasherDefault<StreamHasher>>;

const HEADER_BYTES: usize = 9;
/// The protocol's default, which we leave as it is: larger frames would only make answers wait for each
/// other.
const FRAME_BYTES_MAX: usize = 16_384;
const WINDOW_MAX: i64 = 0x7fff_ffff;
const WINDOW_DEFAULT: u32 = 65_535;
/// Larger than any message we accept, so that no stream ever needs a WINDOW_UPDATE.
const OUR_STREAM_WINDOW: u32 = 16 << 20;
/// The connection's window is topped up once this much has come: once in some 800,000 requests of 1.3 kB.
const TOP_UP_BYTES: u32 = 1 << 30;
/// A server that let a client open only a hundred would throttle the exchange, which is not what is measured.
const OUR_STREAMS_MAX: u32 = 1 << 20;
/// Long bodies are cut off here until the outbox has been written, so that a slow reader costs no memory.
const OUTBOX_BYTES_MAX: usize = 256 * 1024;
/// RFC 9113 §10.5.1: header blocks must be bounded before they are decoded.
const BLOCK_BYTES_MAX: usize = 64 * 1024;

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
const PRIORITY: u8 = 0x20;

const HEADER_TABLE_SIZE: u16 = 1;
const ENABLE_PUSH: u16 = 2;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const MAX_FRAME_SIZE: u16 = 5;

impl Connection {
    /// The server's end. Appends its SETTINGS to `out`; expects the preface first.
    pub fn server(out: &mut Vec<u8>) -> Self {
        write_settings(
            &[
                (MAX_CONCURRENT_STREAMS, OUR_STREAMS_MAX),
                (INITIAL_WINDOW_SIZE, OUR_STREAM_WINDOW),
            ],
            out,
        );
        Self::new(true, out)
    }

    /// The client's end, with prior knowledge. Appends the preface and its SETTINGS to `out`.
    pub fn client(out: &mut Vec<u8>) -> Self {
        out.extend_from_slice(PREFACE);
        write_settings(&[(ENABLE_PUSH, 0), (INITIAL_WINDOW_SIZE, OUR_STREAM_WINDOW)], out);
        Self::new(false, out)
    }

    fn new(is_server: bool, out: &mut Vec<u8>) -> Self {
        write_window_update(0, (1 << 31) - 1 - WINDOW_DEFAULT, out);
        Self {
            awaits_preface: is_server,
            is_server,
            decoder: hpack::Decoder::default(),
            last_block: Vec::new(),
            last_head: None,
            unfinished: None,
            received: 0,
            send_window: WINDOW_DEFAULT.into(),
            peer_stream_window: WINDOW_DEFAULT.into(),
            peer_frame_bytes_max: FRAME_BYTES_MAX,
            peer_streams_max: u32::MAX,
            streams: StreamMap::default(),
            parked: VecDeque::new(),
            highest_peer_stream: 0,
        }
    }

    /// Reads from `input`, which it advances past whole frames, up to the next event. `None` means that the
    /// rest of the input is less than a frame: call again with it in front of what comes next.
    /// Acknowledgements go to `out`.
    ///
    /// # Errors
    /// The connection is over, see [`Violation`].
    pub fn next<'a>(
        &mut self,
        input: &mut &'a [u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'a>>, Violation> {
        if self.awaits_preface {
            let seen = input.len().min(PREFACE.len());
            if input[..seen] != PREFACE[..seen] {
                return Err(protocol("no HTTP/2 preface"));
            }
            if seen < PREFACE.len() {
                return Ok(None);
            }
            *input = &input[PREFACE.len()..];
            self.awaits_preface = false;
        }
        while let Some(frame) = next_frame(input)? {
            if let Some(event) = self.apply(&frame, out)? {
                return Ok(Some(event));
            }
        }
        Ok(None)
    }

    /// Sends a message: its header block (see [`hpack`]) and its body, parking what the windows do not allow
    /// yet. A message on a stream that is no longer in progress is dropped, when we are the server.
    pub fn send(&mut self, stream: u32, block: &[u8], body: &[u8], out: &mut Vec<u8>) {
        let Some(window) = self.open_for_sending(stream) else {
            return;
        };
        write_head(stream, block, body.is_empty(), out);
        if body.is_empty() {
            return self.finish_sending(stream);
        }
        let bytes = i64::try_from(body.len()).unwrap_or(i64::MAX);
        if body.len() <= self.peer_frame_bytes_max
            && bytes <= window.min(self.send_window)
            && self.parked.is_empty()
        {
            write_frame_header(body.len(), DATA, END_STREAM, stream, out);
            out.extend_from_slice(body);
            self.send_window -= bytes;
            return self.finish_sending(stream);
        }
        self.parked.push_back(Parked {
            stream,
            window,
            rest: Rest::Bytes {
                body: body.to_vec(),
                sent: 0,
            },
        });
        self.pump(out);
    }

    /// As [`Connection::send`] with a body of `bytes` spaces, which is never held in memory as a whole.
    pub fn send_filler(&mut self, stream: u32, block: &[u8], bytes: u64, out: &mut Vec<u8>) {
        let Some(window) = self.open_for_sending(stream) else {
            return;
        };
        write_head(stream, block, false, out);
        self.parked.push_back(Parked {
            stream,
            window,
            rest: Rest::Filler { left: bytes },
        });
        self.pump(out);
    }

    /// Sends one part of a message piece by piece: the header block if given, then bytes. For slow peers in
    /// slow motion: ignores the windows, so a whole message sent this way must be smaller than the smallest
    /// default, 65,535 bytes.
    pub fn send_part(
        &mut self,
        stream: u32,
        block: Option<&[u8]>,
        bytes: &[u8],
        end_stream: bool,
        out: &mut Vec<u8>,
    ) {
        if !self.is_open(stream) {
            return;
        }
        if let Some(block) = block {
            write_head(stream, block, false, out);
        }
        write_frame_header(
            bytes.len(),
            DATA,
            if end_stream { END_STREAM } else { 0 },
            stream,
            out,
        );
        out.extend_from_slice(bytes);
        self.send_window -= i64::try_from(bytes.len()).unwrap_or(0);
        if end_stream {
            self.finish_sending(stream);
        }
    }

    /// Continues parked bodies, as far as windows and a bound on `out` allow. Call when `out` has been
    /// written.
    pub fn pump(&mut self, out: &mut Vec<u8>) {
        for _ in 0..self.parked.len() {
            let Some(mut parked) = self.parked.pop_front() else {
                return;
            };
            while parked.left() > 0 && out.len() < OUTBOX_BYTES_MAX {
                let allowed = usize::try_from(parked.window.min(self.send_window)).unwrap_or(0);
                let bytes = parked.left().min(allowed).min(self.peer_frame_bytes_max);
                if bytes == 0 {
                    break;
                }
                parked.write_frame(bytes, out);
                self.send_window -= i64::try_from(bytes).unwrap_or(0);
            }
            if parked.left() == 0 {
                self.finish_sending(parked.stream);
            } else {
                self.parked.push_back(parked);
            }
        }
    }

    /// True while a body waits for windows or for room in the outbox.
    pub fn has_parked(&self) -> bool {
        !self.parked.is_empty()
    }

    /// True from the stream's first header block to its end.
    pub fn is_open(&self, stream: u32) -> bool {
        self.streams.contains_key(&stream)
    }

    /// Streams in progress.
    pub fn open_streams(&self) -> usize {
        self.streams.len()
    }

    /// How many streams the peer lets us have in progress.
    pub fn peer_streams_max(&self) -> u32 {
        self.peer_streams_max
    }

    /// Gives a stream up.
    pub fn reset(&mut self, stream: u32, code: u32, out: &mut Vec<u8>) {
        if self.forget(stream) {
            write_frame_header(4, RST_STREAM, 0, stream, out);
            out.extend_from_slice(&code.to_be_bytes());
        }
    }

    /// Tells the peer to open no more streams; those up to the last one seen will still be answered.
    pub fn go_away(&self, code: u32, out: &mut Vec<u8>) {
        write_frame_header(8, GOAWAY, 0, 0, out);
        out.extend_from_slice(&self.highest_peer_stream.to_be_bytes());
        out.extend_from_slice(&code.to_be_bytes());
    }

    fn apply<'a>(&mut self, frame: &Frame<'a>, out: &mut Vec<u8>) -> Result<Option<Event<'a>>, Violation> {
        if self.unfinished.is_some() && frame.kind != CONTINUATION {
            return Err(protocol("a header block was interrupted"));
        }
        match frame.kind {
            DATA => self.on_data(frame, out).map(Some),
            HEADERS => self.on_headers(frame),
            CONTINUATION => self.on_continuation(frame),
            RST_STREAM => self.on_reset(frame).map(Some),
            SETTINGS => self.on_settings(frame, out).map(|()| None),
            PING => on_ping(frame, out).map(|()| None),
            GOAWAY => on_go_away(frame).map(Some),
            WINDOW_UPDATE => self.on_window_update(frame, out).map(|()| None),
            PUSH_PROMISE => Err(protocol("push was not enabled")),
            // PRIORITY has no meaning any more, and unknown frames are to be ignored (RFC 9113 §4.1).
            _ => Ok(None),
        }
    }

    fn on_data<'a>(&mut self, frame: &Frame<'a>, out: &mut Vec<u8>) -> Result<Event<'a>, Violation> {
        if frame.stream == 0 {
            return Err(protocol("DATA on stream 0"));
        }
        // Padding counts too (RFC 9113 §6.9). A frame is far shorter than the room above the mark.
        self.received += u32::try_from(frame.payload.len()).unwrap_or(0);
        if self.received >= TOP_UP_BYTES {
            write_window_update(0, self.received, out);
            self.received = 0;
        }
        let end_stream = frame.has(END_STREAM);
        if end_stream && !self.is_server {
            self.forget(frame.stream);
        }
        Ok(Event::Data {
            stream: frame.stream,
            bytes: frame.without_padding()?,
            end_stream,
        })
    }

    fn on_headers<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<Event<'a>>, Violation> {
        if frame.stream == 0 || (self.is_server && frame.stream.is_multiple_of(2)) {
            return Err(protocol("HEADERS on a stream that is not the client's"));
        }
        let mut block = frame.without_padding()?;
        if frame.has(PRIORITY) {
            block = block
                .get(5..)
                .ok_or(protocol("HEADERS too short for its priority"))?;
        }
        let end_stream = frame.has(END_STREAM);
        if frame.has(END_HEADERS) {
            return self.on_block(frame.stream, end_stream, block).map(Some);
        }
        self.unfinished = Some(Unfinished {
            stream: frame.stream,
            end_stream,
            block: block.to_vec(),
        });
        Ok(None)
    }

    fn on_continuation<'a>(&mut self, frame: &Frame<'a>) -> Result<Option<Event<'a>>, Violation> {
        let Some(mut unfinished) = self
            .unfinished
            .take()
            .filter(|begun| begun.stream == frame.stream)
        else {
            return Err(protocol("CONTINUATION of nothing"));
        };
        unfinished.block.extend_from_slice(frame.payload);
        if unfinished.block.len() > BLOCK_BYTES_MAX || frame.payload.is_empty() && !frame.has(END_HEADERS) {
            return Err(protocol("endless header block"));
        }
        if frame.has(END_HEADERS) {
            return self
                .on_block(unfinished.stream, unfinished.end_stream, &unfinished.block)
                .map(Some);
        }
        self.unfinished = Some(unfinished);
        Ok(None)
    }

    fn on_block<'a>(&mut self, stream: u32, end_stream: bool, block: &[u8]) -> Result<Event<'a>, Violation> {
        let head = self.decode(block)?;
        if self.is_server {
            if stream > self.highest_peer_stream {
                self.highest_peer_stream = stream;
                self.streams.insert(stream, 0);
            }
        } else if end_stream {
            self.forget(stream);
        }
        Ok(Event::Head {
            stream,
            head,
            end_stream,
        })
    }

    /// Most blocks on a connection are equal to the one before, and mean the same while the dynamic table
    /// stands still.
    fn decode(&mut self, block: &[u8]) -> Result<Head, Violation> {
        if let Some(head) = self.last_head
            && self.last_block == block
        {
            return Ok(head);
        }
        let mut head = Head::default();
        let table_changed = self
            .decoder
            .decode(block, |name, value| match name {
                b":status" => head.status = status(value),
                b":method" => head.post = value == b"POST",
                b"content-encoding" => head.gzip = value.eq_ignore_ascii_case(b"gzip"),
                _ => {}
            })
            .map_err(|_| Violation {
                code: code::COMPRESSION_ERROR,
                why: "header block cannot be decoded",
            })?;
        self.last_head = (!table_changed).then_some(head);
        self.last_block.clear();
        self.last_block.extend_from_slice(block);
        Ok(head)
    }

    fn on_reset<'a>(&mut self, frame: &Frame<'a>) -> Result<Event<'a>, Violation> {
        let code = u32::from_be_bytes(frame.exactly()?);
        if frame.stream == 0 {
            return Err(protocol("RST_STREAM on stream 0"));
        }
        self.forget(frame.stream);
        Ok(Event::Reset {
            stream: frame.stream,
            code,
        })
    }

    fn on_settings(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Violation> {
        if frame.stream != 0 {
            return Err(protocol("SETTINGS on a stream"));
        }
        if frame.has(ACK) {
            return frame.exactly::<0>().map(drop);
        }
        let (settings, rest) = frame.payload.as_chunks::<6>();
        if !rest.is_empty() {
            return Err(Violation {
                code: code::FRAME_SIZE_ERROR,
                why: "SETTINGS of odd length",
            });
        }
        for [i0, i1, v0, v1, v2, v3] in settings {
            let value = u32::from_be_bytes([*v0, *v1, *v2, *v3]);
            match u16::from_be_bytes([*i0, *i1]) {
                INITIAL_WINDOW_SIZE => self.set_peer_stream_window(value)?,
                MAX_CONCURRENT_STREAMS => self.peer_streams_max = value,
                MAX_FRAME_SIZE if !(16_384..=16_777_215).contains(&value) => {
                    return Err(protocol("MAX_FRAME_SIZE out of range"));
                }
                MAX_FRAME_SIZE => {
                    self.peer_frame_bytes_max = usize::try_from(value).unwrap_or(FRAME_BYTES_MAX);
                }
                // HEADER_TABLE_SIZE is about a table that our encoder does not use.
                HEADER_TABLE_SIZE => {}
                _ => {}
            }
        }
        write_frame_header(0, SETTINGS, ACK, 0, out);
        self.pump(out);
        Ok(())
    }

    /// Changes the windows of streams in progress as well (RFC 9113 §6.9.2).
    fn set_peer_stream_window(&mut self, value: u32) -> Result<(), Violation> {
        let window = i64::from(value);
        if window > WINDOW_MAX {
            return Err(Violation {
                code: code::FLOW_CONTROL_ERROR,
                why: "INITIAL_WINDOW_SIZE too large",
            });
        }
        for parked in &mut self.parked {
            parked.window += window - self.peer_stream_window;
        }
        self.peer_stream_window = window;
        Ok(())
    }

    fn on_window_update(&mut self, frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Violation> {
        let increment = i64::from(u32::from_be_bytes(frame.exactly()?) & 0x7fff_ffff);
        if increment == 0 {
            return Err(protocol("WINDOW_UPDATE by 0"));
        }
        if frame.stream == 0 {
            self.send_window += increment;
            if self.send_window > WINDOW_MAX {
                return Err(Violation {
                    code: code::FLOW_CONTROL_ERROR,
                    why: "connection window too large",
                });
            }
        } else if let Some(parked) = self
            .parked
            .iter_mut()
            .find(|parked| parked.stream == frame.stream)
        {
            parked.window = (parked.window + increment).min(WINDOW_MAX);
        } else if let Some(added) = self.streams.get_mut(&frame.stream) {
            *added = (*added + increment).min(WINDOW_MAX);
        }
        self.pump(out);
        Ok(())
    }

    /// The stream's window, or `None` when there is nobody left to send to.
    fn open_for_sending(&mut self, stream: u32) -> Option<i64> {
        if self.is_server {
            return self
                .streams
                .get(&stream)
                .map(|added| self.peer_stream_window + added);
        }
        self.streams.insert(stream, 0);
        Some(self.peer_stream_window)
    }

    /// A server's answer ends the stream; a client's request leaves it waiting for the answer.
    fn finish_sending(&mut self, stream: u32) {
        if self.is_server {
            self.streams.remove(&stream);
        }
    }

    fn forget(&mut self, stream: u32) -> bool {
        if !self.parked.is_empty() {
            self.parked.retain(|parked| parked.stream != stream);
        }
        self.streams.remove(&stream).is_some()
    }
}

impl Parked {
    fn left(&self) -> usize {
        match &self.rest {
            Rest::Bytes { body, sent } => body.len() - sent,
            Rest::Filler { left } => usize::try_from(*left).unwrap_or(usize::MAX),
        }
    }

    fn write_frame(&mut self, bytes: usize, out: &mut Vec<u8>) {
        let flags = if bytes == self.left() { END_STREAM } else { 0 };
        write_frame_header(bytes, DATA, flags, self.stream, out);
        match &mut self.rest {
            Rest::Bytes { body, sent } => {
                out.extend_from_slice(&body[*sent..*sent + bytes]);
                *sent += bytes;
            }
            Rest::Filler { left } => {
                out.resize(out.len() + bytes, b' ');
                *left -= bytes as u64;
            }
        }
        self.window -= i64::try_from(bytes).unwrap_or(0);
    }
}

impl<'a> Frame<'a> {
    fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    fn without_padding(&self) -> Result<&'a [u8], Violation> {
        if !self.has(PADDED) {
            return Ok(self.payload);
        }
        let Some((padding, rest)) = self.payload.split_first() else {
            return Err(protocol("no padding length"));
        };
        let end = rest
            .len()
            .checked_sub(usize::from(*padding))
            .ok_or(protocol("more padding than frame"))?;
        Ok(&rest[..end])
    }

    fn exactly<const N: usize>(&self) -> Result<[u8; N], Violation> {
        self.payload.try_into().map_err(|_| Violation {
            code: code::FRAME_SIZE_ERROR,
            why: "a frame of the wrong length",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why)
    }
}

/// Stream numbers are sequential: one multiplication spreads them over the high bits, where the table looks
/// for its tags.
#[derive(Debug, Default)]
pub struct StreamHasher(u64);

impl Hasher for StreamHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u32(u32::from(*byte));
        }
    }

    fn write_u32(&mut self, stream: u32) {
        self.0 = (self.0 ^ u64::from(stream)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}

fn next_frame<'a>(input: &mut &'a [u8]) -> Result<Option<Frame<'a>>, Violation> {
    let Some(([l0, l1, l2, kind, flags, stream @ ..], rest)) = input.split_first_chunk::<HEADER_BYTES>()
    else {
        return Ok(None);
    };
    let length = usize::from(*l0) << 16 | usize::from(*l1) << 8 | usize::from(*l2);
    if length > FRAME_BYTES_MAX {
        return Err(Violation {
            code: code::FRAME_SIZE_ERROR,
            why: "frame above MAX_FRAME_SIZE",
        });
    }
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Ok(None);
    };
    *input = rest;
    Ok(Some(Frame {
        kind: *kind,
        flags: *flags,
        stream: u32::from_be_bytes(*stream) & 0x7fff_ffff,
        payload,
    }))
}

fn on_ping(frame: &Frame<'_>, out: &mut Vec<u8>) -> Result<(), Violation> {
    let opaque: [u8; 8] = frame.exactly()?;
    if !frame.has(ACK) {
        write_frame_header(opaque.len(), PING, ACK, 0, out);
        out.extend_from_slice(&opaque);
    }
    Ok(())
}

fn on_go_away<'a>(frame: &Frame<'a>) -> Result<Event<'a>, Violation> {
    let Some(([l0, l1, l2, l3, c0, c1, c2, c3], _)) = frame.payload.split_first_chunk() else {
        return Err(Violation {
            code: code::FRAME_SIZE_ERROR,
            why: "GOAWAY too short",
        });
    };
    let last_stream = u32::from_be_bytes([*l0, *l1, *l2, *l3]) & 0x7fff_ffff;
    Ok(Event::GoAway {
        last_stream,
        code: u32::from_be_bytes([*c0, *c1, *c2, *c3]),
    })
}

fn write_head(stream: u32, block: &[u8], end_stream: bool, out: &mut Vec<u8>) {
    let flags = END_HEADERS | if end_stream { END_STREAM } else { 0 };
    write_frame_header(block.len(), HEADERS, flags, stream, out);
    out.extend_from_slice(block);
}

fn write_settings(settings: &[(u16, u32)], out: &mut Vec<u8>) {
    write_frame_header(settings.len() * 6, SETTINGS, 0, 0, out);
    for (identifier, value) in settings {
        out.extend_from_slice(&identifier.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
}

fn write_window_update(stream: u32, increment: u32, out: &mut Vec<u8>) {
    write_frame_header(4, WINDOW_UPDATE, 0, stream, out);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// `length` is below 2^24: callers keep to the peer's MAX_FRAME_SIZE.
fn write_frame_header(length: usize, kind: u8, flags: u8, stream: u32, out: &mut Vec<u8>) {
    let [.., l0, l1, l2] = length.to_be_bytes();
    let [s0, s1, s2, s3] = stream.to_be_bytes();
    out.extend_from_slice(&[l0, l1, l2, kind, flags, s0, s1, s2, s3]);
}

fn status(value: &[u8]) -> u16 {
    str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(0)
}

fn protocol(why: &'static str) -> Violation {
    Violation {
        code: code::PROTOCOL_ERROR,
        why,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OK_BLOCK: &[u8] = &[0x88];
    const POST_BLOCK: &[u8] = &[0x83, 0x86, 0x84];

    /// Client and server joined by two buffers.
    struct Pair {
        client: Connection,
        server: Connection,
        to_server: Vec<u8>,
        to_client: Vec<u8>,
    }

    impl Pair {
        fn new() -> Self {
            let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
            let client = Connection::client(&mut to_server);
            let server = Connection::server(&mut to_client);
            Self {
                client,
                server,
                to_server,
                to_client,
            }
        }

        /// Lets the server read all there is, then describes its events.
        fn at_server(&mut self) -> Vec<String> {
            drain(&mut self.server, &mut self.to_server, &mut self.to_client)
        }

        fn at_client(&mut self) -> Vec<String> {
            drain(&mut self.client, &mut self.to_client, &mut self.to_server)
        }
    }

    fn drain(connection: &mut Connection, from: &mut Vec<u8>, to: &mut Vec<u8>) -> Vec<String> {
        let bytes = std::mem::take(from);
        let mut input = bytes.as_slice();
        let mut events = Vec::new();
        loop {
            match connection.next(&mut input, to) {
                Ok(Some(event)) => events.push(describe(event)),
                Ok(None) => break,
                Err(violation) => {
                    events.push(format!("{} {}", violation.code, violation.why));
                    return events;
                }
            }
        }
        from.extend_from_slice(input);
        events
    }

    fn describe(event: Event<'_>) -> String {
        let end = |end_stream| if end_stream { " end" } else { "" };
        match event {
            Event::Head {
                stream,
                head,
                end_stream,
            } => {
                let what = if head.status > 0 {
                    head.status.to_string()
                } else {
                    format!("post={}", head.post)
                };
                format!(
                    "{stream} {what}{}{}",
                    if head.gzip { " gzip" } else { "" },
                    end(end_stream)
                )
            }
            Event::Data {
                stream,
                bytes,
                end_stream,
            } => {
                let text = String::from_utf8_lossy(bytes);
                let text = if text.len() > 20 {
                    format!("{} bytes", text.len())
                } else {
                    text.into_owned()
                };
                format!("{stream} data {text}{}", end(end_stream))
            }
            Event::Reset { stream, code } => format!("{stream} reset {code}"),
            Event::GoAway { last_stream, code } => format!("goaway {last_stream} {code}"),
        }
    }

    /// Bytes sent by a client after its preface, and what the server makes of them.
    fn check_server(frames: &[&[u8]], expected: &[&str]) {
        let mut pair = Pair::new();
        for frame in frames {
            pair.to_server.extend_from_slice(frame);
        }
        assert_eq!(pair.at_server(), expected);
    }

    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write_frame_header(payload.len(), kind, flags, stream, &mut out);
        out.extend_from_slice(payload);
        out
    }

    #[test]
    fn a_request_and_its_answer() {
        let mut pair = Pair::new();
        pair.client.send(1, POST_BLOCK, b"hello", &mut pair.to_server);
        assert_eq!(pair.at_server(), ["1 post=true", "1 data hello end"]);
        assert!(pair.server.is_open(1));
        pair.server.send(1, OK_BLOCK, b"world", &mut pair.to_client);
        assert_eq!(pair.at_client(), ["1 200", "1 data world end"]);
        assert_eq!((pair.client.open_streams(), pair.server.open_streams()), (0, 0));
        assert_eq!(pair.client.peer_streams_max(), OUR_STREAMS_MAX);
    }

    #[test]
    fn bytes_may_come_one_by_one() {
        let mut pair = Pair::new();
        pair.client.send(1, POST_BLOCK, b"hello", &mut pair.to_server);
        let bytes = std::mem::take(&mut pair.to_server);
        let mut events = Vec::new();
        for byte in bytes {
            pair.to_server.push(byte);
            events.extend(pair.at_server());
        }
        assert_eq!(events, ["1 post=true", "1 data hello end"]);
    }

    #[test]
    fn long_bodies_wait_for_the_windows_and_arrive_whole() {
        let mut pair = Pair::new();
        pair.at_server();
        pair.client.send(1, POST_BLOCK, b"", &mut pair.to_server);
        pair.at_server();
        // Neither side has seen the other's settings yet: 65,535 bytes go out, in frames of at most 16,384.
        pair.to_client.clear();
        let mut fresh = Vec::new();
        pair.client = Connection::client(&mut fresh);
        pair.server.send_window = 65_535;
        pair.server.peer_stream_window = 65_535;
        pair.server
            .send(1, OK_BLOCK, &vec![b'x'; 200_000], &mut pair.to_client);
        assert!(pair.server.has_parked());
        let events = pair.at_client();
        assert_eq!(
            events,
            [
                "1 200",
                "1 data 16384 bytes",
                "1 data 16384 bytes",
                "1 data 16384 bytes",
                "1 data 16383 bytes"
            ]
        );
        // The stream's window opens, then the connection's.
        pair.to_server
            .extend(frame(WINDOW_UPDATE, 0, 1, &1_000_000_u32.to_be_bytes()));
        assert_eq!(pair.at_server(), [""; 0]);
        assert!(pair.at_client().is_empty());
        pair.to_server
            .extend(frame(WINDOW_UPDATE, 0, 0, &1_000_000_u32.to_be_bytes()));
        pair.at_server();
        let events = pair.at_client();
        assert_eq!(events.last().map(String::as_str), Some("1 data 3393 bytes end"));
        assert!(!pair.server.has_parked() && !pair.server.is_open(1));
    }

    #[test]
    fn a_window_opened_before_the_answer_counts() {
        let mut pair = Pair::new();
        pair.to_server.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
        pair.client.send(1, POST_BLOCK, b"", &mut pair.to_server);
        pair.to_server
            .extend(frame(WINDOW_UPDATE, 0, 1, &5_u32.to_be_bytes()));
        pair.at_server();
        pair.server.send(1, OK_BLOCK, b"12345", &mut pair.to_client);
        assert_eq!(pair.at_client(), ["1 200", "1 data 12345 end"]);
    }

    #[test]
    fn a_larger_initial_window_frees_parked_bodies() {
        let mut pair = Pair::new();
        pair.to_server.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]));
        pair.client.send(1, POST_BLOCK, b"", &mut pair.to_server);
        pair.at_server();
        pair.server.send(1, OK_BLOCK, b"12345", &mut pair.to_client);
        assert_eq!(pair.at_client(), ["1 200"]);
        pair.to_server.extend(frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 3]));
        pair.at_server();
        assert_eq!(pair.at_client(), ["1 data 123"]);
    }

    #[test]
    fn filler_is_written_as_the_outbox_empties() {
        let mut pair = Pair::new();
        pair.client.send(1, POST_BLOCK, b"", &mut pair.to_server);
        pair.at_server();
        let (mut received, mut largest) = (0, 0);
        pair.server
            .send_filler(1, OK_BLOCK, 5_000_000, &mut pair.to_client);
        while !pair.to_client.is_empty() {
            largest = largest.max(pair.to_client.len());
            for event in pair.at_client() {
                let count = event
                    .strip_prefix("1 data ")
                    .and_then(|data| data.split(' ').next());
                received += count.and_then(|count| count.parse::<usize>().ok()).unwrap_or(0);
            }
            pair.server.pump(&mut pair.to_client);
        }
        assert_eq!(received, 5_000_000);
        assert!(largest < 2 * OUTBOX_BYTES_MAX, "the outbox held {largest} bytes");
    }

    #[test]
    fn reset_streams_are_not_answered() {
        let mut pair = Pair::new();
        pair.client.send(1, POST_BLOCK, b"x", &mut pair.to_server);
        pair.client.reset(1, code::CANCEL, &mut pair.to_server);
        assert_eq!(pair.at_server(), ["1 post=true", "1 data x end", "1 reset 8"]);
        pair.to_client.clear();
        pair.server.send(1, OK_BLOCK, b"late", &mut pair.to_client);
        assert!(pair.to_client.is_empty());
    }

    #[test]
    fn ping_and_settings_are_acknowledged() {
        let mut pair = Pair::new();
        pair.at_server();
        pair.to_client.clear();
        pair.to_server.extend(frame(PING, 0, 0, b"12345678"));
        pair.to_server.extend(frame(PING, ACK, 0, b"12345678"));
        pair.to_server.extend(frame(SETTINGS, 0, 0, &[]));
        assert!(pair.at_server().is_empty());
        assert_eq!(
            pair.to_client,
            [frame(PING, ACK, 0, b"12345678"), frame(SETTINGS, ACK, 0, &[])].concat()
        );
    }

    #[test]
    fn header_blocks_may_be_padded_prioritised_and_continued() {
        let padded = [&[2, 0, 0, 0, 0, 9], POST_BLOCK, &[0, 0]].concat();
        check_server(
            &[&frame(
                HEADERS,
                END_HEADERS | END_STREAM | PADDED | PRIORITY,
                1,
                &padded,
            )],
            &["1 post=true end"],
        );
        check_server(
            &[
                &frame(HEADERS, END_STREAM, 1, &POST_BLOCK[..1]),
                &frame(CONTINUATION, 0, 1, &POST_BLOCK[1..2]),
                &frame(CONTINUATION, END_HEADERS, 1, &POST_BLOCK[2..]),
            ],
            &["1 post=true end"],
        );
        check_server(
            &[
                &frame(HEADERS, END_HEADERS, 1, POST_BLOCK),
                &frame(DATA, PADDED | END_STREAM, 1, b"\x03abc\0\0\0"),
            ],
            &["1 post=true", "1 data abc end"],
        );
    }

    #[test]
    fn a_changed_dynamic_table_changes_what_equal_blocks_mean() {
        // 0xbe is the newest entry: first content-encoding: gzip, then x: y.
        let gzip = [&[0x83, 0x5a, 4], b"gzip".as_slice()].concat();
        let other = [&[0x83, 0x40, 1], b"x".as_slice(), &[1], b"y"].concat();
        let newest = [0x83, 0xbe];
        let flags = END_HEADERS | END_STREAM;
        check_server(
            &[
                &frame(HEADERS, flags, 1, &gzip),
                &frame(HEADERS, flags, 3, &newest),
                &frame(HEADERS, flags, 5, &newest),
                &frame(HEADERS, flags, 7, &other),
                &frame(HEADERS, flags, 9, &newest),
            ],
            &[
                "1 post=true gzip end",
                "3 post=true gzip end",
                "5 post=true gzip end",
                "7 post=true end",
                "9 post=true end",
            ],
        );
    }

    #[test]
    fn violations_end_the_connection() {
        let check = |frames: &[&[u8]], expected: &str| check_server(frames, &[expected]);
        let open = frame(HEADERS, 0, 1, &POST_BLOCK[..1]);
        check(&[&frame(DATA, 0, 0, b"x")], "1 DATA on stream 0");
        check(
            &[&frame(HEADERS, END_HEADERS, 2, POST_BLOCK)],
            "1 HEADERS on a stream that is not the client's",
        );
        check(
            &[&open, &frame(PING, 0, 0, &[0; 8])],
            "1 a header block was interrupted",
        );
        check(
            &[&open, &frame(CONTINUATION, 0, 3, b"x")],
            "1 CONTINUATION of nothing",
        );
        check(
            &[&open, &frame(CONTINUATION, 0, 1, b"")],
            "1 endless header block",
        );
        check(&[&frame(PING, 0, 0, &[0; 7])], "6 a frame of the wrong length");
        check(&[&frame(SETTINGS, 0, 0, &[0; 5])], "6 SETTINGS of odd length");
        check(&[&frame(WINDOW_UPDATE, 0, 0, &[0; 4])], "1 WINDOW_UPDATE by 0");
        check(
            &[&frame(WINDOW_UPDATE, 0, 0, &[0x7f, 255, 255, 255])],
            "3 connection window too large",
        );
        check(&[&[0, 0x40, 1, 0, 0, 0, 0, 0, 1]], "6 frame above MAX_FRAME_SIZE");
        check(
            &[&frame(HEADERS, END_HEADERS, 1, &[0x80])],
            "9 header block cannot be decoded",
        );
        check(&[&frame(DATA, PADDED, 1, &[9, 0])], "1 more padding than frame");
        let mut pair = Pair::new();
        pair.to_server = b"GET / HTTP/1.1\r\n".to_vec();
        assert_eq!(pair.at_server(), ["1 no HTTP/2 preface"]);
    }

    #[test]
    fn goaway_names_the_last_stream_seen() {
        let mut pair = Pair::new();
        pair.client.send(7, POST_BLOCK, b"", &mut pair.to_server);
        pair.at_server();
        pair.server.go_away(code::NO_ERROR, &mut pair.to_client);
        assert_eq!(pair.at_client(), ["goaway 7 0"]);
    }
}
