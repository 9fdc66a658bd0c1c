//! One connection from the exchange to a DSP: bytes in, calls to the desk; replies in, bytes out. Speaks
//! HTTP/1.1 or HTTP/2 as the first bytes say. Sets no timer of its own and decides nothing about answers.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use socket2::SockRef;

use super::answer::Message;
use super::desk::{Call, ConnectionId, Desk, Drip, REQUEST_BYTES_MAX, Reply};
use crate::net::outbox::Outbox;
use crate::net::poller::Interest;
use crate::net::stream::Stream;
use crate::net::{h1, h2};

pub(super) struct Connection {
    pub(super) id: ConnectionId,
    pub(super) dsp: u16,
    pub(super) socket: Stream,
    /// Nothing is read, not even a handshake.
    pub(super) is_deaf: bool,
    pub(super) interest: Interest,
    /// Listed for a flush at the end of the turn.
    pub(super) is_dirty: bool,
    /// Bytes read of a message that is not complete yet.
    unread: Vec<u8>,
    outbox: Outbox,
    socket_is_full: bool,
    close_when_sent: bool,
    /// The peer has sent FIN while an answer was outstanding.
    is_half_closed: bool,
    protocol: Protocol,
}

enum Protocol {
    /// Too few bytes yet to tell a request line from the preface of HTTP/2.
    Unknown,
    H1(H1),
    H2(Box<H2>),
}

/// One request at a time: what is pipelined behind it waits in `unread`.
#[derive(Default)]
struct H1 {
    /// A request was taken and its answer has not been written whole.
    is_busy: bool,
    /// The answer will never come.
    is_stalled: bool,
    keep_alive: bool,
    sent_continue: bool,
    filler_left: u64,
    chunks: Vec<u8>,
}

struct H2 {
    codec: h2::Connection,
    /// Bodies that did not come whole in the same read as their HEADERS.
    bodies: h2::StreamMap<Body>,
}

#[derive(Default)]
struct Body {
    gzip: bool,
    bytes: Vec<u8>,
}

/// Whether the connection lives on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Keep,
    Close,
}

/// Some 200 requests: more in one go would make the answers of other connections wait.
pub(super) const READ_BYTES_MAX: usize = 256 * 1024;
/// What one connection may send ahead while its answer is outstanding; then TCP holds it back.
const PIPELINED_BYTES_MAX: usize = 64 * 1024;
/// A long body is written in pieces of this size, as the socket takes them.
const FILLER_BYTES: usize = 256 * 1024;
/// Pieces in one turn, so that a reader as fast as we are cannot keep the others waiting.
const FILLS_PER_TURN_MAX: usize = 4;

impl Connection {
    /// `interest` is what the poller was told.
    pub(super) fn new(id: ConnectionId, dsp: u16, socket: Stream, interest: Interest) -> Self {
        Self {
            id,
            dsp,
            socket,
            is_deaf: !interest.read,
            interest,
            is_dirty: false,
            unread: Vec::new(),
            outbox: Outbox::default(),
            socket_is_full: false,
            close_when_sent: false,
            is_half_closed: false,
            protocol: Protocol::Unknown,
        }
    }

    /// Reads once and takes the requests that are complete. `buffer` must be longer than the longest request;
    /// nothing stays in it.
    pub(super) fn read(&mut self, buffer: &mut [u8], desk: &mut Desk) -> Fate {
        let kept = self.unread.len();
        let room = kept + READ_BYTES_MAX.min(buffer.len() - kept);
        let count = match self.socket.read(&mut buffer[kept..room]) {
            Ok(0) => return self.on_end_of_input(),
            Ok(count) => count,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Fate::Keep;
            }
            Err(_) => return Fate::Close,
        };
        // Latency counts from here: what is done with the bytes is the DSP's own time.
        let now = Instant::now();
        buffer[..kept].copy_from_slice(&self.unread);
        self.unread.clear();
        self.take_requests(&buffer[..kept + count], now, desk)
    }

    /// Takes what was pipelined behind a request that has been answered.
    pub(super) fn take_pipelined(&mut self, desk: &mut Desk) -> Fate {
        let is_waiting = matches!(&self.protocol, Protocol::H1(h1) if !h1.is_busy) && !self.unread.is_empty();
        if !is_waiting || self.close_when_sent {
            return Fate::Keep;
        }
        let input = std::mem::take(&mut self.unread);
        self.take_requests(&input, Instant::now(), desk)
    }

    /// Writes what is due for a call. The bytes leave with [`Connection::flush`].
    pub(super) fn reply(&mut self, call: &Call, reply: Reply<'_>) -> (Fate, Option<Drip>) {
        let out = self.outbox.buffer();
        match (reply, &mut self.protocol) {
            (Reply::Message(message, body), protocol) => protocol.send(call.stream, message, body, out),
            (Reply::LastMessage(message, body), protocol) => {
                if let Protocol::H1(h1) = protocol {
                    h1.keep_alive = false;
                }
                protocol.send(call.stream, message, body, out);
                if let Protocol::H2(h2) = protocol {
                    h2.codec.go_away(h2::code::NO_ERROR, out);
                }
            }
            (Reply::Filler(message, bytes), Protocol::H1(h1)) => {
                message.write_h1_head(bytes, !h1.keep_alive, out);
                h1.filler_left = bytes;
            }
            (Reply::Filler(message, bytes), Protocol::H2(h2)) => {
                h2.codec.send_filler(call.stream, &message.h2_block(), bytes, out);
            }
            (Reply::Dripping(message, body), protocol) => {
                let bytes = match protocol {
                    Protocol::H1(h1) => {
                        let mut bytes = Vec::new();
                        message.write_h1_head(body.len() as u64, !h1.keep_alive, &mut bytes);
                        bytes.extend_from_slice(body);
                        bytes
                    }
                    Protocol::H2(_) | Protocol::Unknown => body.to_vec(),
                };
                let mut drip = Drip {
                    connection: self.id,
                    stream: call.stream,
                    bytes,
                    sent: 0,
                };
                let is_done = self.drip(&mut drip);
                return (Fate::Keep, (!is_done).then_some(drip));
            }
            (Reply::Raw(bytes), Protocol::H1(h1)) => {
                out.extend_from_slice(bytes);
                h1.is_busy = false;
            }
            (Reply::Raw(bytes), _) => out.extend_from_slice(bytes),
            (Reply::Silence, Protocol::H1(h1)) => h1.is_stalled = true,
            (Reply::ResetStream, Protocol::H2(h2)) => {
                h2.codec.reset(call.stream, h2::code::INTERNAL_ERROR, out);
            }
            (Reply::ResetConnection | Reply::ResetStream, _) => return (self.reset(), None),
            (Reply::CloseConnection, _) => self.close_when_sent = true,
            (Reply::Silence | Reply::Filler(..), _) => {}
        }
        (self.after_h1_answer(), None)
    }

    /// Writes the next byte of a drip. True when it was the last, or nobody is there to read it.
    pub(super) fn drip(&mut self, drip: &mut Drip) -> bool {
        let out = self.outbox.buffer();
        let byte = drip.bytes.get(drip.sent..=drip.sent).unwrap_or_default();
        let is_first = drip.sent == 0;
        drip.sent += 1;
        let is_last = drip.sent >= drip.bytes.len();
        match &mut self.protocol {
            Protocol::H1(h1) => {
                out.extend_from_slice(byte);
                h1.is_busy &= !is_last;
                self.after_h1_answer();
            }
            Protocol::H2(h2) => {
                let message = if drip.bytes.is_empty() {
                    Message::NO_BID
                } else {
                    Message::OK
                };
                let block = is_first.then(|| message.h2_block());
                h2.codec
                    .send_part(drip.stream, block.as_deref(), byte, is_last, out);
            }
            Protocol::Unknown => {}
        }
        is_last
    }

    /// Resets the connection when it is dropped.
    pub(super) fn reset(&self) -> Fate {
        // Fails only on a socket that is gone already.
        let _ = SockRef::from(self.socket.tcp()).set_linger(Some(std::time::Duration::ZERO));
        Fate::Close
    }

    /// Writes what there is, refilled from long bodies as they fit.
    pub(super) fn flush(&mut self) -> Fate {
        for _ in 0..FILLS_PER_TURN_MAX {
            match self.outbox.flush(&mut self.socket) {
                Ok(all_sent) => self.socket_is_full = !all_sent,
                Err(_) => return Fate::Close,
            }
            if self.socket_is_full || !self.refill() {
                break;
            }
        }
        if self.socket.flush().is_err() {
            return Fate::Close;
        }
        // More may be waiting than this turn allows: being told that there is room brings us back.
        self.socket_is_full |= !self.outbox.is_empty() || self.socket.has_unsent();
        if self.close_when_sent && !self.socket_is_full {
            self.socket.finish();
            Fate::Close
        } else {
            Fate::Keep
        }
    }

    pub(super) fn wanted_interest(&self) -> Interest {
        let is_held_back = match &self.protocol {
            Protocol::H1(h1) => h1.is_busy && self.unread.len() > PIPELINED_BYTES_MAX,
            Protocol::H2(_) | Protocol::Unknown => false,
        };
        Interest {
            read: !is_held_back && !self.is_half_closed && !self.is_deaf,
            write: self.socket_is_full,
        }
    }

    fn on_end_of_input(&mut self) -> Fate {
        let is_owed_an_answer = matches!(&self.protocol, Protocol::H1(h1) if h1.is_busy && !h1.is_stalled);
        self.is_half_closed = true;
        if is_owed_an_answer {
            Fate::Keep
        } else {
            Fate::Close
        }
    }

    fn take_requests(&mut self, input: &[u8], now: Instant, desk: &mut Desk) -> Fate {
        if matches!(self.protocol, Protocol::Unknown) && !self.detect(input) {
            self.unread.extend_from_slice(input);
            return Fate::Keep;
        }
        match self.protocol {
            Protocol::H2(_) => self.take_h2(input, now, desk),
            Protocol::H1(_) | Protocol::Unknown => self.take_h1(input, now, desk),
        }
    }

    /// False while the bytes could still become either protocol.
    fn detect(&mut self, input: &[u8]) -> bool {
        let seen = input.len().min(h2::PREFACE.len());
        if input[..seen] != h2::PREFACE[..seen] {
            self.protocol = Protocol::H1(H1::default());
        } else if seen == h2::PREFACE.len() {
            let codec = h2::Connection::server(self.outbox.buffer());
            self.protocol = Protocol::H2(Box::new(H2 {
                codec,
                bodies: h2::StreamMap::default(),
            }));
        }
        !matches!(self.protocol, Protocol::Unknown)
    }

    fn take_h1(&mut self, mut input: &[u8], now: Instant, desk: &mut Desk) -> Fate {
        let Protocol::H1(h1) = &mut self.protocol else {
            return Fate::Close;
        };
        let out = self.outbox.buffer();
        while !h1.is_busy && !input.is_empty() {
            let request = match h1::read_request(input, &mut h1.chunks) {
                Ok(h1::Progress::Complete(request)) => request,
                Ok(h1::Progress::Partial { .. }) if input.len() > REQUEST_BYTES_MAX => {
                    Message::status(413).write_h1_head(0, true, out);
                    self.close_when_sent = true;
                    return Fate::Keep;
                }
                Ok(h1::Progress::Partial { expects_continue }) => {
                    if expects_continue && !h1.sent_continue {
                        h1.sent_continue = true;
                        out.extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                    }
                    break;
                }
                Err(_) => {
                    Message::status(400).write_h1_head(0, true, out);
                    self.close_when_sent = true;
                    return Fate::Keep;
                }
            };
            h1.sent_continue = false;
            h1.keep_alive = request.keep_alive;
            input = &input[request.consumed..];
            if desk.take((self.id, 0, self.dsp), request.body, request.gzip, now) {
                h1.is_busy = true;
            } else {
                Message::status(400).write_h1_head(0, !h1.keep_alive, out);
                self.close_when_sent |= !h1.keep_alive;
            }
        }
        self.unread.extend_from_slice(input);
        Fate::Keep
    }

    fn take_h2(&mut self, mut input: &[u8], now: Instant, desk: &mut Desk) -> Fate {
        let (id, dsp) = (self.id, self.dsp);
        let Protocol::H2(h2) = &mut self.protocol else {
            return Fate::Close;
        };
        let H2 { codec, bodies } = &mut **h2;
        let out = self.outbox.buffer();
        // Nearly every request is HEADERS directly followed by all its DATA: it never touches the map.
        let mut last_head: Option<(u32, bool)> = None;
        loop {
            let event = match codec.next(&mut input, out) {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(violation) => {
                    codec.go_away(violation.code, out);
                    self.close_when_sent = true;
                    return Fate::Keep;
                }
            };
            let (stream, body, gzip) = match event {
                h2::Event::Head {
                    stream,
                    head,
                    end_stream: false,
                } => {
                    park_head(&mut last_head, bodies);
                    last_head = Some((stream, head.gzip));
                    continue;
                }
                h2::Event::Data {
                    stream,
                    bytes,
                    end_stream: true,
                } if last_head.is_some_and(|(of, _)| of == stream) => (
                    stream,
                    std::borrow::Cow::Borrowed(bytes),
                    last_head.take().is_some_and(|(_, gzip)| gzip),
                ),
                h2::Event::Data {
                    stream,
                    bytes,
                    end_stream,
                } => {
                    park_head(&mut last_head, bodies);
                    let Some(body) = bodies.get_mut(&stream) else {
                        continue;
                    };
                    body.bytes.extend_from_slice(bytes);
                    if body.bytes.len() > REQUEST_BYTES_MAX {
                        bodies.remove(&stream);
                        codec.reset(stream, h2::code::CANCEL, out);
                        continue;
                    }
                    if !end_stream {
                        continue;
                    }
                    let body = bodies.remove(&stream).unwrap_or_default();
                    (stream, std::borrow::Cow::Owned(body.bytes), body.gzip)
                }
                // Without a body, or trailers after one.
                h2::Event::Head {
                    stream,
                    head,
                    end_stream: true,
                } => {
                    park_head(&mut last_head, bodies);
                    let body = bodies.remove(&stream).unwrap_or(Body {
                        gzip: head.gzip,
                        bytes: Vec::new(),
                    });
                    (stream, std::borrow::Cow::Owned(body.bytes), body.gzip)
                }
                h2::Event::Reset { stream, .. } => {
                    park_head(&mut last_head, bodies);
                    bodies.remove(&stream);
                    continue;
                }
                h2::Event::GoAway { .. } => continue,
            };
            if !desk.take((id, stream, dsp), &body, gzip, now) {
                codec.send(stream, &Message::status(400).h2_block(), b"", out);
            }
        }
        park_head(&mut last_head, bodies);
        self.unread.extend_from_slice(input);
        Fate::Keep
    }

    /// An HTTP/1.1 connection is free for the next request, or over, once its answer is in the outbox.
    fn after_h1_answer(&mut self) -> Fate {
        if let Protocol::H1(h1) = &self.protocol {
            let is_answered = !h1.is_busy;
            self.close_when_sent |= is_answered && (!h1.keep_alive || self.is_half_closed);
            if h1.is_stalled && self.is_half_closed {
                return Fate::Close;
            }
        }
        Fate::Keep
    }

    /// Moves more of a long body to the outbox. False when there is none.
    fn refill(&mut self) -> bool {
        let out = self.outbox.buffer();
        match &mut self.protocol {
            Protocol::H1(h1) if h1.filler_left > 0 => {
                let bytes = FILLER_BYTES.min(usize::try_from(h1.filler_left).unwrap_or(FILLER_BYTES));
                out.resize(out.len() + bytes, b' ');
                h1.filler_left -= bytes as u64;
                h1.is_busy = h1.filler_left > 0;
                self.after_h1_answer();
                true
            }
            Protocol::H2(h2) if h2.codec.has_parked() => {
                h2.codec.pump(out);
                !out.is_empty()
            }
            _ => false,
        }
    }
}

impl Protocol {
    fn send(&mut self, stream: u32, message: Message, body: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::H1(h1) => {
                message.write_h1_head(body.len() as u64, !h1.keep_alive, out);
                out.extend_from_slice(body);
                h1.is_busy = false;
            }
            Self::H2(h2) => h2.codec.send(stream, &message.h2_block(), body, out),
            Self::Unknown => {}
        }
    }
}

/// A head that was not directly followed by its whole body: the body is collected in the map.
fn park_head(last_head: &mut Option<(u32, bool)>, bodies: &mut h2::StreamMap<Body>) {
    if let Some((stream, gzip)) = last_head.take() {
        bodies.insert(
            stream,
            Body {
                gzip,
                bytes: Vec::new(),
            },
        );
    }
}

/// Accepts until there is nobody left in the queue.
pub(super) fn accept(listener: &std::net::TcpListener) -> io::Result<Option<TcpStream>> {
    match listener.accept() {
        Ok((socket, _)) => {
            socket.set_nonblocking(true)?;
            socket.set_nodelay(true)?;
            Ok(Some(socket))
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
