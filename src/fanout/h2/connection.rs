//! One connection's state: which calls are under way on it, what may be sent, what has been understood so far.

use std::collections::VecDeque;

use super::frame::{self, Frame, Violation, code, flag, kind, setting};
use super::hpack::{self, BlockError, Known, RequestBlock, Scratch};
use super::output::Output;
use super::streams::Streams;
use crate::fanout::{Body, CallFailure};

/// Of DATA on the whole connection. What arrives is taken at once and each answer has its own bound, so this only
/// says how rare WINDOW_UPDATEs are: one in a million answers of half a kilobyte.
const CONNECTION_WINDOW: u32 = 1 << 30;

/// A stream may have this much of padding beside the longest answer.
const STREAM_WINDOW_SPARE: u32 = 64 << 10;

/// A header block as it is on the wire. Not larger than what it may be when decoded: nobody sends codes that make it so.
const BLOCK_BYTES_MAX: usize = hpack::LIST_BYTES_MAX;

/// Frames of one header block after the first; empty ones cost the peer next to nothing.
const CONTINUATIONS_MAX: u32 = 16;

/// Interim responses (1xx) before the real one. We never ask for any.
const INTERIM_MAX: u8 = 4;

/// Written, parked or waiting for the socket. A DSP that takes nothing is then not asked any more: at 1.4 kB a call
/// this is a second of 3,000 calls/s, ten times longer than any of them is waited for.
const BACKLOG_BYTES_MAX: usize = 4 << 20;

/// Frames that bring no answer further (PING, SETTINGS, WINDOW_UPDATE, unknown ones, empty DATA) a peer may send.
/// Each call gives it some more, and so does each frame of a body, for which it may widen two windows.
const IDLE_FRAMES_START: u32 = 1_000;
const IDLE_FRAMES_PER_CALL: u32 = 8;
const IDLE_FRAMES_PER_DATA: u32 = 2;
/// Half a megabyte of them; more cannot be saved up.
const IDLE_FRAMES_MAX: u32 = 64 << 10;

/// No length was declared.
const NO_LENGTH: u32 = u32::MAX;

/// The client's end of one connection; `T` is what the owner keeps for each call.
#[derive(Debug)]
pub struct ClientConnection<T> {
    output: Output,
    /// The beginning of a frame whose rest has not come.
    partial: Vec<u8>,
    streams: Streams<Stream<T>>,
    next_id: u32,
    /// The newest stream when bytes last came.
    heard_up_to: u32,
    /// Streams up to this one may have been given up by us while the peer was still writing.
    given_up_to: u32,
    greeted: bool,
    retired: bool,
    peer: PeerSettings,
    send_window: i64,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    window_grew: bool,
    /// DATA received and not yet given back to the peer's window.
    unreported: u32,
    block: Option<Block>,
    /// Of the last header block with a body behind it, and of the last without.
    known: [Known<Field>; 2],
    scratch: Scratch,
    idle_frames: u32,
    body_bytes_max: u32,
}

#[derive(Debug)]
struct PeerSettings {
    streams_max: u32,
    stream_window: u32,
    frame_bytes_max: usize,
}

#[derive(Debug)]
struct Stream<T> {
    tag: T,
    /// What the peer has added to the stream's window less what we have sent.
    window_change: i32,
    /// DATA with its padding not yet given back.
    unreported: u32,
    body_bytes: u32,
    /// As declared, [`NO_LENGTH`] if it was not.
    length: u32,
    head: Option<Head>,
    interim: u8,
    /// Part of the request waits for a window.
    is_sending: bool,
}

/// The rest of a request's body, for which there was no window.
#[derive(Debug)]
struct Waiting {
    id: u32,
    body: Body,
    sent: usize,
}

/// A header block whose end has not come.
#[derive(Debug)]
struct Block {
    id: u32,
    end_stream: bool,
    bytes: Vec<u8>,
    continuations: u32,
}

/// What a response says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// As it came, 200 to 599.
    pub status: u16,
    /// The body is compressed with gzip.
    pub gzip: bool,
}

/// What became of a call. Each ends exactly once, with `Ended` or `Failed`.
#[derive(Debug)]
pub enum Event<'a, T> {
    /// The head is there and was good; a body follows.
    Begun {
        /// The call's.
        tag: &'a mut T,
    },
    /// A part of the body; never more than allowed in all.
    Data {
        /// The call's.
        tag: &'a mut T,
        /// The part.
        bytes: &'a [u8],
    },
    /// The answer is whole.
    Ended {
        /// The call's.
        tag: T,
        /// Of the answer.
        head: Head,
    },
    /// There is none.
    Failed {
        /// The call's.
        tag: T,
        /// Why.
        failure: CallFailure,
    },
}

/// Why a connection takes no call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It will take none ever again.
    Retired,
    /// The peer wants no more at once.
    Full,
    /// The peer takes nothing, or too slowly.
    Behind,
}

impl<T> ClientConnection<T> {
    /// What one call costs while it is under way: its slot, that slot's place among the free ones, and its place in the
    /// ring.
    #[cfg(test)]
    pub const BYTES_PER_CALL: usize = size_of::<Option<Stream<T>>>() + 2 * size_of::<u32>();

    /// A connection with prior knowledge: what goes out first is already in its output, and calls may be started at
    /// once (RFC 9113 §3.4). An answer has at most `body_bytes_max` bytes.
    #[must_use]
    pub fn new(body_bytes_max: usize) -> Self {
        let body_bytes_max = u32::try_from(body_bytes_max)
            .unwrap_or(u32::MAX)
            .min(frame::WINDOW_MAX - STREAM_WINDOW_SPARE);
        let mut output = Output::default();
        output.own().extend_from_slice(frame::PREFACE);
        frame::write_settings(
            output.own(),
            &[
                (setting::HEADER_TABLE_SIZE, 0),
                (setting::ENABLE_PUSH, 0),
                (setting::INITIAL_WINDOW_SIZE, body_bytes_max + STREAM_WINDOW_SPARE),
                (
                    setting::MAX_HEADER_LIST_SIZE,
                    u32::try_from(hpack::LIST_BYTES_MAX).unwrap_or(u32::MAX),
                ),
            ],
        );
        frame::write_window_update(output.own(), 0, CONNECTION_WINDOW - frame::WINDOW_DEFAULT);
        Self {
            output,
            partial: Vec::new(),
            streams: Streams::new(1),
            next_id: 1,
            heard_up_to: 0,
            given_up_to: 0,
            greeted: false,
            retired: false,
            peer: PeerSettings {
                streams_max: u32::MAX,
                stream_window: frame::WINDOW_DEFAULT,
                frame_bytes_max: frame::FRAME_BYTES_MAX,
            },
            send_window: frame::WINDOW_DEFAULT.into(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            window_grew: false,
            unreported: 0,
            block: None,
            known: Default::default(),
            scratch: Scratch::default(),
            idle_frames: IDLE_FRAMES_START,
            body_bytes_max,
        }
    }

    /// Whether a call with a body of so many bytes can be started.
    ///
    /// # Errors
    /// Why not.
    pub fn has_room(&self, body_bytes: usize) -> Result<(), Refused> {
        if self.retired || self.next_id > frame::STREAM_ID_MAX {
            Err(Refused::Retired)
        } else if self.streams.len() >= self.peer.streams_max as usize {
            Err(Refused::Full)
        } else if self.backlog_bytes() + body_bytes > BACKLOG_BYTES_MAX {
            Err(Refused::Behind)
        } else {
            Ok(())
        }
    }

    /// Starts a call: its frames are added to the output, as far as the peer's windows allow, and what they do not
    /// follows by itself. Returns the stream's id.
    ///
    /// # Errors
    /// As [`Self::has_room`].
    pub fn start(&mut self, block: &RequestBlock, body: &Body, tag: T) -> Result<u32, Refused> {
        self.has_room(body.len())?;
        let id = self.next_id;
        self.next_id += 2;
        self.earn_idle_frames(IDLE_FRAMES_PER_CALL);
        self.write_head(id, block, body.len());
        let sent = self.write_body(id, body, 0, self.peer.stream_window.into());
        let unsent = body.len() - sent;
        self.streams.push(Stream {
            tag,
            window_change: -i32::try_from(sent).unwrap_or(i32::MAX),
            unreported: 0,
            body_bytes: 0,
            length: NO_LENGTH,
            head: None,
            interim: 0,
            is_sending: unsent > 0,
        });
        if unsent > 0 {
            self.waiting_bytes += unsent;
            self.waiting.push_back(Waiting {
                id,
                body: body.clone(),
                sent,
            });
        }
        Ok(id)
    }

    /// Reads what has come.
    ///
    /// # Errors
    /// What ends the connection: its reason is in the output, and what is still under way is to be taken with
    /// [`Self::fail_all`].
    pub fn receive(&mut self, input: &[u8], mut on: impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        self.heard_up_to = self.next_id.saturating_sub(2);
        let result = self.read_frames(input, &mut on);
        match result {
            Ok(()) if self.window_grew => self.send_waiting(),
            Ok(()) => {}
            Err(violation) => {
                self.retired = true;
                frame::write_go_away(self.output.own(), violation.code);
            }
        }
        result
    }

    /// Whether there is anything to be written.
    pub fn has_output(&self) -> bool {
        self.output.len() > 0
    }

    /// What is to be written, piece after piece; none of them is empty.
    pub fn output(&self) -> impl Iterator<Item = &[u8]> {
        self.output.pieces()
    }

    /// The socket has taken so many bytes of it.
    pub fn wrote(&mut self, count: usize) {
        self.output.wrote(count);
    }

    /// Calls under way.
    pub fn calls(&self) -> usize {
        self.streams.len()
    }

    /// The call that was started first of those under way.
    pub fn oldest(&self) -> Option<(u32, &T)> {
        self.streams.oldest().map(|(id, stream)| (id, &stream.tag))
    }

    /// Gives a call up and tells the peer.
    pub fn cancel(&mut self, id: u32) -> Option<T> {
        self.give_up(id, code::CANCEL)
    }

    /// Whether it takes no more calls, by our wish, the peer's, or because its ids are used up.
    pub fn is_retired(&self) -> bool {
        self.has_room(0) == Err(Refused::Retired)
    }

    /// Asks the peer for a sign of life.
    pub fn ping(&mut self) {
        frame::write_ping(self.output.own(), 0, b"corebid?");
    }

    /// Tells the peer that the connection ends in good order.
    pub fn say_goodbye(&mut self) {
        frame::write_go_away(self.output.own(), code::NO_ERROR);
    }

    /// The connection is gone: takes out all calls. `true` with those that the peer cannot have begun to answer,
    /// though it had been heard of before: it was closing as they were sent.
    pub fn fail_all(&mut self, mut each: impl FnMut(T, bool)) {
        self.retired = true;
        let (greeted, heard_up_to) = (self.greeted, self.heard_up_to);
        self.take_above(0, |id, tag| each(tag, greeted && id > heard_up_to));
    }

    fn backlog_bytes(&self) -> usize {
        self.output.len() + self.waiting_bytes
    }

    fn write_head(&mut self, id: u32, block: &RequestBlock, body_bytes: usize) {
        let mut room = [0; 23];
        let (constant, end) = (block.bytes(), RequestBlock::end(body_bytes, &mut room));
        let end_stream = if body_bytes == 0 { flag::END_STREAM } else { 0 };
        let length = constant.len() + end.len();
        let out = self.output.own();
        if length <= self.peer.frame_bytes_max {
            frame::write_header(out, length, kind::HEADERS, end_stream | flag::END_HEADERS, id);
            out.extend_from_slice(constant);
            out.extend_from_slice(end);
            return;
        }
        // Only with an endpoint of 16 kB.
        let whole = [constant, end].concat();
        let parts = whole.chunks(self.peer.frame_bytes_max);
        let last = parts.len() - 1;
        for (index, part) in parts.enumerate() {
            let end_headers = if index == last { flag::END_HEADERS } else { 0 };
            let (kind, flags) = match index {
                0 => (kind::HEADERS, end_stream | end_headers),
                _ => (kind::CONTINUATION, end_headers),
            };
            frame::write_header(out, part.len(), kind, flags, id);
            out.extend_from_slice(part);
        }
    }

    /// Writes as much of a body from `from` on as the windows allow. Returns how much that was.
    fn write_body(&mut self, id: u32, body: &Body, from: usize, stream_window: i64) -> usize {
        let window = usize::try_from(self.send_window.min(stream_window)).unwrap_or(0);
        let to = body.len().min(from + window);
        for begin in (from..to).step_by(self.peer.frame_bytes_max) {
            let end = to.min(begin + self.peer.frame_bytes_max);
            let flags = if end == body.len() { flag::END_STREAM } else { 0 };
            frame::write_header(self.output.own(), end - begin, kind::DATA, flags, id);
            self.output.share(body, begin..end);
            self.earn_idle_frames(IDLE_FRAMES_PER_DATA);
        }
        let sent = to - from;
        self.send_window -= i64::try_from(sent).unwrap_or(i64::MAX);
        sent
    }

    /// Sends what has waited, the longest first, as far as the windows allow now.
    fn send_waiting(&mut self) {
        self.window_grew = false;
        let mut waiting = std::mem::take(&mut self.waiting);
        waiting.retain_mut(|rest| {
            let Some(stream) = self.streams.get_mut(rest.id) else {
                return false;
            };
            let window = i64::from(self.peer.stream_window) + i64::from(stream.window_change);
            if self.send_window <= 0 || window <= 0 {
                return true;
            }
            let sent = self.write_body(rest.id, &rest.body, rest.sent, window);
            rest.sent += sent;
            self.waiting_bytes -= sent;
            let done = rest.sent == rest.body.len();
            if let Some(stream) = self.streams.get_mut(rest.id) {
                stream.window_change -= i32::try_from(sent).unwrap_or(i32::MAX);
                stream.is_sending = !done;
            }
            !done
        });
        self.waiting = waiting;
    }

    fn read_frames(&mut self, mut input: &[u8], on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        if !self.partial.is_empty() {
            let mut partial = std::mem::take(&mut self.partial);
            input = complete(&mut partial, input)?;
            match Frame::split(&partial)? {
                Some((frame, _)) => self.on_frame(frame, on)?,
                None => {
                    self.partial = partial;
                    return Ok(());
                }
            }
            partial.clear();
            self.partial = partial;
        }
        while let Some((frame, rest)) = Frame::split(input)? {
            if frame.kind == kind::HEADERS {
                self.look_ahead(rest);
            }
            self.on_frame(frame, on)?;
            input = rest;
        }
        self.partial.extend_from_slice(input);
        Ok(())
    }

    /// Behind the head of an answer come, as a rule, its body in one frame and the next answer's head: asks for the memory
    /// of that one's stream. If something else comes, nothing is lost but that.
    fn look_ahead(&self, behind_head: &[u8]) {
        if let Some(id) = frame::stream_of_the_next_but_one(behind_head) {
            self.streams.expect(id);
        }
    }

    fn on_frame(&mut self, frame: Frame<'_>, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        if !self.greeted && (frame.kind != kind::SETTINGS || frame.has(flag::ACK)) {
            return Err(Violation::protocol("does not begin with SETTINGS"));
        }
        if self.block.is_some() && frame.kind != kind::CONTINUATION {
            return Err(Violation::protocol("header block interrupted"));
        }
        match frame.kind {
            kind::DATA => self.on_data(frame, on),
            kind::HEADERS => self.on_headers(frame, on),
            kind::CONTINUATION => self.on_continuation(frame, on),
            kind::RST_STREAM => self.on_reset(frame, on),
            kind::SETTINGS => self.on_settings(frame),
            kind::PING => self.on_ping(frame),
            kind::GOAWAY => self.on_go_away(frame, on),
            kind::WINDOW_UPDATE => self.on_window_update(frame, on),
            kind::PRIORITY => self.on_priority(frame, on),
            kind::PUSH_PROMISE => Err(Violation::protocol("push was not allowed")),
            _ => self.spend_idle_frame(),
        }
    }

    fn on_data(&mut self, frame: Frame<'_>, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        let id = self.known(frame.stream)?;
        let bytes = without_padding(frame)?;
        // Padding counts (RFC 9113 §6.9.1), and so does what nobody wants any more.
        let flow = u32::try_from(frame.payload.len()).unwrap_or(u32::MAX);
        self.take_from_window(flow)?;
        let end_stream = frame.has(flag::END_STREAM);
        if bytes.is_empty() && !end_stream {
            self.spend_idle_frame()?;
        }
        let (body_bytes_max, stream_window) =
            (self.body_bytes_max, self.body_bytes_max + STREAM_WINDOW_SPARE);
        let Some(stream) = self.streams.get_mut(id) else {
            return self.on_closed(id);
        };
        let Some(head) = stream.head else {
            return self.malformed(id, "body before head", on);
        };
        stream.unreported += flow;
        if stream.unreported > stream_window {
            let failure = CallFailure::Protocol("window passed");
            return self.refuse(id, code::FLOW_CONTROL_ERROR, failure, on);
        }
        stream.body_bytes += u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if stream.length != NO_LENGTH && stream.body_bytes > stream.length {
            return self.malformed(id, "body longer than declared", on);
        }
        if stream.body_bytes > body_bytes_max {
            return self.refuse(id, code::CANCEL, CallFailure::TooLarge, on);
        }
        if !bytes.is_empty() {
            on(Event::Data {
                tag: &mut stream.tag,
                bytes,
            });
        }
        if end_stream {
            return self.end(id, head, on);
        }
        if stream.unreported > stream_window / 2 {
            let increment = std::mem::take(&mut stream.unreported);
            frame::write_window_update(self.output.own(), id, increment);
        }
        Ok(())
    }

    fn take_from_window(&mut self, flow: u32) -> Result<(), Violation> {
        self.unreported += flow;
        if self.unreported > CONNECTION_WINDOW {
            return Err(Violation::new(code::FLOW_CONTROL_ERROR, "window passed"));
        }
        if self.unreported > CONNECTION_WINDOW / 2 {
            frame::write_window_update(self.output.own(), 0, self.unreported);
            self.unreported = 0;
        }
        Ok(())
    }

    fn on_headers(&mut self, frame: Frame<'_>, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        let id = self.known(frame.stream)?;
        let mut fragment = without_padding(frame)?;
        if frame.has(flag::PRIORITY) {
            fragment = fragment
                .get(5..)
                .ok_or(Violation::size("HEADERS without its priority"))?;
        }
        let end_stream = frame.has(flag::END_STREAM);
        if frame.has(flag::END_HEADERS) {
            return self.on_block(id, end_stream, fragment, on);
        }
        self.block = Some(Block {
            id,
            end_stream,
            bytes: fragment.to_vec(),
            continuations: 0,
        });
        Ok(())
    }

    fn on_continuation(
        &mut self,
        frame: Frame<'_>,
        on: &mut impl FnMut(Event<'_, T>),
    ) -> Result<(), Violation> {
        let unasked = Violation::protocol("CONTINUATION of nothing");
        let block = self.block.as_mut().ok_or(unasked)?;
        if block.id != frame.stream {
            return Err(unasked);
        }
        block.continuations += 1;
        block.bytes.extend_from_slice(frame.payload);
        if block.continuations > CONTINUATIONS_MAX || block.bytes.len() > BLOCK_BYTES_MAX {
            return Err(Violation::new(code::ENHANCE_YOUR_CALM, "header block too long"));
        }
        if !frame.has(flag::END_HEADERS) {
            return Ok(());
        }
        match self.block.take() {
            Some(block) => self.on_block(block.id, block.end_stream, &block.bytes, on),
            None => Ok(()),
        }
    }

    /// A whole header block: interim response, response or trailers.
    fn on_block(
        &mut self,
        id: u32,
        end_stream: bool,
        block: &[u8],
        on: &mut impl FnMut(Event<'_, T>),
    ) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            return self.on_closed(id);
        };
        let (mut fields, known) = (Fields::default(), &mut self.known[usize::from(end_stream)]);
        match hpack::decode(block, &mut self.scratch, known, Field::read, |field| {
            fields.add(field);
        }) {
            Ok(()) => {}
            Err(BlockError::Malformed(why)) => return Err(Violation::new(code::COMPRESSION_ERROR, why)),
            Err(BlockError::TooLarge) => {
                let failure = CallFailure::Protocol("head too large");
                return self.refuse(id, code::ENHANCE_YOUR_CALM, failure, on);
            }
        }
        if let Some(why) = fields.wrong {
            return self.malformed(id, why, on);
        }
        if let Some(head) = stream.head {
            return match (fields.status, end_stream) {
                (None, true) => self.end(id, head, on),
                _ => self.malformed(id, "malformed trailers", on),
            };
        }
        let Some(status) = fields.status else {
            return self.malformed(id, "no status", on);
        };
        if status < 200 {
            stream.interim += 1;
            if status == 101 || end_stream || stream.interim > INTERIM_MAX {
                return self.malformed(id, "unexpected interim response", on);
            }
            return Ok(());
        }
        if fields.encoding == Encoding::Unknown {
            return self.refuse(id, code::CANCEL, CallFailure::BadEncoding, on);
        }
        let head = Head {
            status,
            gzip: fields.encoding == Encoding::Gzip,
        };
        stream.head = Some(head);
        stream.length = match (status, fields.length) {
            // What they declare is what another status would have had (RFC 9110 §8.6).
            (204 | 304, _) => 0,
            (_, Some(length)) => u32::try_from(length).unwrap_or(NO_LENGTH - 1),
            (_, None) => NO_LENGTH,
        };
        if end_stream {
            return self.end(id, head, on);
        }
        if stream.length != NO_LENGTH && stream.length > self.body_bytes_max {
            return self.refuse(id, code::CANCEL, CallFailure::TooLarge, on);
        }
        on(Event::Begun { tag: &mut stream.tag });
        Ok(())
    }

    fn on_reset(&mut self, frame: Frame<'_>, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        let id = self.known(frame.stream)?;
        if frame.payload.len() != 4 {
            return Err(Violation::size("RST_STREAM of a wrong length"));
        }
        let Some(tag) = self.forget(id) else {
            return self.spend_idle_frame();
        };
        let failure = match frame::number(frame.payload) {
            code::REFUSED_STREAM => CallFailure::Stale,
            _ => CallFailure::Lost,
        };
        on(Event::Failed { tag, failure });
        Ok(())
    }

    fn on_settings(&mut self, frame: Frame<'_>) -> Result<(), Violation> {
        if frame.stream != 0 {
            return Err(Violation::protocol("SETTINGS on a stream"));
        }
        let is_ack = frame.has(flag::ACK);
        let (settings, rest) = frame.payload.as_chunks::<6>();
        if !rest.is_empty() || (is_ack && !settings.is_empty()) {
            return Err(Violation::size("SETTINGS of a wrong length"));
        }
        self.spend_idle_frame()?;
        if is_ack {
            return Ok(());
        }
        self.greeted = true;
        for [id_high, id_low, value @ ..] in settings {
            let id = u16::from_be_bytes([*id_high, *id_low]);
            // Each, not each frame: a change of the window walks over all streams, and a frame holds 2,730 of them.
            self.spend_idle_frame()?;
            self.on_setting(id, u32::from_be_bytes(*value))?;
        }
        frame::write_header(self.output.own(), 0, kind::SETTINGS, flag::ACK, 0);
        Ok(())
    }

    fn on_setting(&mut self, id: u16, value: u32) -> Result<(), Violation> {
        match id {
            setting::ENABLE_PUSH if value != 0 => {
                return Err(Violation::protocol("a server must not enable push"));
            }
            setting::MAX_CONCURRENT_STREAMS => self.peer.streams_max = value,
            setting::INITIAL_WINDOW_SIZE => {
                // Changes the windows of streams under way as well, below zero if need be (RFC 9113 §6.9.2).
                let room = i64::from(frame::WINDOW_MAX) - i64::from(value);
                let grown = |stream: &Stream<T>| i64::from(stream.window_change) > room;
                if room < 0 || self.streams.iter().any(grown) {
                    return Err(Violation::new(code::FLOW_CONTROL_ERROR, "window too large"));
                }
                self.peer.stream_window = value;
                self.window_grew = true;
            }
            setting::MAX_FRAME_SIZE => {
                let bytes = usize::try_from(value).unwrap_or(usize::MAX);
                if !(frame::FRAME_BYTES_MAX..1 << 24).contains(&bytes) {
                    return Err(Violation::protocol("frame size out of range"));
                }
                self.peer.frame_bytes_max = bytes;
            }
            // Our header blocks use no table, and are far below any limit of lists. Unknown ones are to be ignored.
            _ => {}
        }
        Ok(())
    }

    fn on_ping(&mut self, frame: Frame<'_>) -> Result<(), Violation> {
        if frame.stream != 0 {
            return Err(Violation::protocol("PING on a stream"));
        }
        if frame.payload.len() != 8 {
            return Err(Violation::size("PING of a wrong length"));
        }
        self.spend_idle_frame()?;
        if !frame.has(flag::ACK) {
            frame::write_ping(self.output.own(), flag::ACK, frame.payload);
        }
        Ok(())
    }

    fn on_go_away(&mut self, frame: Frame<'_>, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        if frame.stream != 0 {
            return Err(Violation::protocol("GOAWAY on a stream"));
        }
        if frame.payload.len() < 8 {
            return Err(Violation::size("GOAWAY of a wrong length"));
        }
        self.spend_idle_frame()?;
        self.retired = true;
        let last = frame::number(frame.payload) & frame::STREAM_ID_MAX;
        self.take_above(last, |_, tag| {
            let failure = CallFailure::Stale;
            on(Event::Failed { tag, failure });
        });
        Ok(())
    }

    fn on_window_update(
        &mut self,
        frame: Frame<'_>,
        on: &mut impl FnMut(Event<'_, T>),
    ) -> Result<(), Violation> {
        if frame.payload.len() != 4 {
            return Err(Violation::size("WINDOW_UPDATE of a wrong length"));
        }
        self.spend_idle_frame()?;
        let increment = frame::number(frame.payload) & frame::WINDOW_MAX;
        if frame.stream == 0 {
            self.send_window += i64::from(increment);
            if increment == 0 {
                return Err(Violation::protocol("window increment of 0"));
            }
            if self.send_window > frame::WINDOW_MAX.into() {
                return Err(Violation::new(code::FLOW_CONTROL_ERROR, "window too large"));
            }
            self.window_grew = true;
            return Ok(());
        }
        let id = self.known(frame.stream)?;
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        if increment == 0 {
            return self.malformed(id, "window increment of 0", on);
        }
        let change = i64::from(stream.window_change) + i64::from(increment);
        match i32::try_from(change) {
            Ok(change)
                if i64::from(change) + i64::from(self.peer.stream_window) <= frame::WINDOW_MAX.into() =>
            {
                stream.window_change = change;
                self.window_grew |= stream.is_sending;
                Ok(())
            }
            _ => {
                let failure = CallFailure::Protocol("window too large");
                self.refuse(id, code::FLOW_CONTROL_ERROR, failure, on)
            }
        }
    }

    /// Deprecated, and of no use to a client; only its form is looked at (RFC 9113 §5.3.2, §6.3).
    fn on_priority(&mut self, frame: Frame<'_>, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        if frame.stream == 0 {
            return Err(Violation::protocol("PRIORITY without a stream"));
        }
        self.spend_idle_frame()?;
        if frame.payload.len() != 5 && self.streams.get_mut(frame.stream).is_some() {
            let failure = CallFailure::Protocol("PRIORITY of a wrong length");
            return self.refuse(frame.stream, code::FRAME_SIZE_ERROR, failure, on);
        }
        Ok(())
    }

    /// A stream that was started by us at some time.
    fn known(&self, id: u32) -> Result<u32, Violation> {
        match id {
            0 => Err(Violation::protocol("frame without a stream")),
            _ if id.is_multiple_of(2) || id >= self.next_id => {
                Err(Violation::protocol("frame on an idle stream"))
            }
            _ => Ok(id),
        }
    }

    /// An answer on a stream that is over. It crossed our RST_STREAM on the wire, or the peer answers twice.
    fn on_closed(&mut self, id: u32) -> Result<(), Violation> {
        if id > self.given_up_to {
            return Err(Violation::new(code::STREAM_CLOSED, "answer on a closed stream"));
        }
        Ok(())
    }

    fn earn_idle_frames(&mut self, count: u32) {
        self.idle_frames = (self.idle_frames + count).min(IDLE_FRAMES_MAX);
    }

    fn spend_idle_frame(&mut self) -> Result<(), Violation> {
        let left = self.idle_frames.checked_sub(1);
        self.idle_frames = left.ok_or(Violation::new(code::ENHANCE_YOUR_CALM, "flood"))?;
        Ok(())
    }

    fn end(&mut self, id: u32, head: Head, on: &mut impl FnMut(Event<'_, T>)) -> Result<(), Violation> {
        let Some(stream) = self.streams.get_mut(id) else {
            return Ok(());
        };
        // A 304 to nothing we asked, and HEAD, have lengths without bodies; a POST's answer has what it declares.
        if stream.length != NO_LENGTH && stream.body_bytes < stream.length {
            return self.malformed(id, "body shorter than declared", on);
        }
        // It answered before it had read the request: what is left of that has no use.
        let tag = if stream.is_sending {
            self.give_up(id, code::CANCEL)
        } else {
            self.forget(id)
        };
        if let Some(tag) = tag {
            on(Event::Ended { tag, head });
        }
        Ok(())
    }

    /// RFC 9113 §8.1.1: a malformed message is an error of its stream.
    fn malformed(
        &mut self,
        id: u32,
        why: &'static str,
        on: &mut impl FnMut(Event<'_, T>),
    ) -> Result<(), Violation> {
        self.refuse(id, code::PROTOCOL_ERROR, CallFailure::Protocol(why), on)
    }

    /// Ends one stream with an error; the connection goes on.
    fn refuse(
        &mut self,
        id: u32,
        code: u32,
        failure: CallFailure,
        on: &mut impl FnMut(Event<'_, T>),
    ) -> Result<(), Violation> {
        if let Some(tag) = self.give_up(id, code) {
            on(Event::Failed { tag, failure });
        }
        Ok(())
    }

    fn give_up(&mut self, id: u32, code: u32) -> Option<T> {
        let tag = self.forget(id)?;
        frame::write_reset(self.output.own(), id, code);
        self.given_up_to = self.given_up_to.max(id);
        Some(tag)
    }

    fn forget(&mut self, id: u32) -> Option<T> {
        let stream = self.streams.remove(id)?;
        if stream.is_sending {
            self.drop_waiting(|waiting| waiting.id == id);
        }
        Some(stream.tag)
    }

    /// Takes out every call above `last`.
    fn take_above(&mut self, last: u32, mut each: impl FnMut(u32, T)) {
        self.drop_waiting(|waiting| waiting.id > last);
        self.given_up_to = self.given_up_to.max(self.next_id);
        let first = self
            .streams
            .oldest()
            .map_or(self.next_id, |(id, _)| id.max((last + 1) | 1));
        for id in (first..self.next_id).step_by(2) {
            if let Some(stream) = self.streams.remove(id) {
                each(id, stream.tag);
            }
        }
    }

    fn drop_waiting(&mut self, dropped: impl Fn(&Waiting) -> bool) {
        let bytes = &mut self.waiting_bytes;
        self.waiting.retain(|waiting| {
            let drops = dropped(waiting);
            if drops {
                *bytes -= waiting.body.len() - waiting.sent;
            }
            !drops
        });
    }
}

/// Adds to `partial` what completes its frame. Returns what is left of `input`.
fn complete<'a>(partial: &mut Vec<u8>, mut input: &'a [u8]) -> Result<&'a [u8], Violation> {
    for _header_then_payload in 0..2 {
        let wanted = frame::length(partial)?.unwrap_or(frame::HEADER_BYTES);
        let (taken, rest) = input.split_at(input.len().min(wanted.saturating_sub(partial.len())));
        partial.extend_from_slice(taken);
        input = rest;
    }
    Ok(input)
}

/// The payload of DATA or HEADERS without its padding (RFC 9113 §6.1).
fn without_padding(frame: Frame<'_>) -> Result<&[u8], Violation> {
    if !frame.has(flag::PADDED) {
        return Ok(frame.payload);
    }
    let (padding, rest) = frame
        .payload
        .split_first()
        .ok_or(Violation::size("padding without a length"))?;
    rest.len()
        .checked_sub(usize::from(*padding))
        .map(|length| &rest[..length])
        .ok_or(Violation::protocol("padding longer than the frame"))
}

/// What one field says.
#[derive(Debug, Clone, Copy)]
enum Field {
    Status(u16),
    Length(u64),
    Encoding(Encoding),
    /// Nothing that concerns us.
    Other,
    Wrong(&'static str),
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Encoding {
    #[default]
    Identity,
    Gzip,
    Unknown,
}

impl Field {
    fn read(name: &[u8], value: &[u8]) -> Self {
        if !is_value(value) {
            return Self::Wrong("malformed field value");
        }
        match name {
            b":status" => parse_status(value).map_or(Self::Wrong("status out of range"), Self::Status),
            [b':', ..] => Self::Wrong("misplaced pseudo-header"),
            b"content-length" => parse_length(value).map_or(Self::Wrong("malformed length"), Self::Length),
            b"content-encoding" => Self::Encoding(Encoding::of(value)),
            b"connection" | b"proxy-connection" | b"keep-alive" | b"transfer-encoding" | b"upgrade" => {
                Self::Wrong("field of another version")
            }
            _ if !is_name(name) => Self::Wrong("malformed field name"),
            _ => Self::Other,
        }
    }
}

impl Encoding {
    fn of(value: &[u8]) -> Self {
        if value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip") {
            Self::Gzip
        } else if value.eq_ignore_ascii_case(b"identity") || value.is_empty() {
            Self::Identity
        } else {
            Self::Unknown
        }
    }
}

/// What a header block says.
#[derive(Debug, Default)]
struct Fields {
    status: Option<u16>,
    length: Option<u64>,
    encoding: Encoding,
    has_regular: bool,
    /// What is wrong with it first of all.
    wrong: Option<&'static str>,
}

impl Fields {
    fn add(&mut self, field: Field) {
        let wrong = match field {
            Field::Status(status) => {
                let misplaced = self.has_regular || self.status.replace(status).is_some();
                misplaced.then_some("misplaced pseudo-header")
            }
            Field::Length(length) => self.length.replace(length).map(|_| "two lengths"),
            Field::Encoding(encoding) => {
                self.encoding = encoding;
                None
            }
            Field::Other => None,
            Field::Wrong(why) => Some(why),
        };
        self.has_regular |= !matches!(field, Field::Status(_));
        self.wrong = self.wrong.or(wrong);
    }
}

/// RFC 9113 §8.2.1.
fn is_name(name: &[u8]) -> bool {
    let fits = |byte: &u8| matches!(byte, 0x21..=0x7e) && !byte.is_ascii_uppercase() && *byte != b':';
    !name.is_empty() && name.iter().all(fits)
}

/// RFC 9113 §8.2.1.
fn is_value(value: &[u8]) -> bool {
    let blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    !blank(value.first())
        && !blank(value.last())
        && !value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n'))
}

fn parse_status(value: &[u8]) -> Option<u16> {
    let digits: &[u8; 3] = value.try_into().ok()?;
    let all = digits.iter().all(u8::is_ascii_digit);
    let status = digits
        .iter()
        .fold(0, |sum, digit| sum * 10 + u16::from(digit & 0xf));
    (all && (100..=599).contains(&status)).then_some(status)
}

fn parse_length(value: &[u8]) -> Option<u64> {
    let fits = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
    fits.then(|| {
        value
            .iter()
            .fold(0, |sum, digit| sum * 10 + u64::from(digit & 0xf))
    })
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;
