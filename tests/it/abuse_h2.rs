//! HTTP/2 that no honest client sends: frames out of shape and out of place, heads that are none, floods, windows that
//! never open.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::abuse::{REQUEST, Row, Target, row};
use crate::harness::{Dsp, Exchange, PATIENCE, Setup};
use crate::scripted::{Does, Scripted};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;
const WITH_PRIORITY: u8 = 0x20;

/// So that rows about time take no longer than they must.
const LIMITS: &str = "read_timeout_ms = 700\nidle_timeout_ms = 30000\nwrite_timeout_ms = 700";

/// RFC 9113 §7, in its order.
const CODES: [&str; 14] = [
    "NO_ERROR",
    "PROTOCOL_ERROR",
    "INTERNAL_ERROR",
    "FLOW_CONTROL_ERROR",
    "SETTINGS_TIMEOUT",
    "STREAM_CLOSED",
    "FRAME_SIZE_ERROR",
    "REFUSED_STREAM",
    "CANCEL",
    "COMPRESSION_ERROR",
    "CONNECT_ERROR",
    "ENHANCE_YOUR_CALM",
    "INADEQUATE_SECURITY",
    "HTTP_1_1_REQUIRED",
];

fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// HPACK without its tables: each a literal that is not indexed (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            integer(&mut block, 7, 0, text.len());
            block.extend(text.as_bytes());
        }
    }
    block
}

/// RFC 7541 §5.1.
fn integer(into: &mut Vec<u8>, bits: u32, first: u8, value: usize) {
    let max = (1 << bits) - 1;
    if value < max {
        into.push(first | u8::try_from(value).unwrap());
        return;
    }
    into.push(first | u8::try_from(max).unwrap());
    let mut rest = value - max;
    while rest >= 128 {
        into.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    into.push(u8::try_from(rest).unwrap());
}

const POST: [(&str, &str); 4] = [
    (":method", "POST"),
    (":scheme", "http"),
    (":authority", "x"),
    (":path", "/openrtb2/auction"),
];

/// A head of a bid request with these fields after the others.
fn head_with(fields: &[(&str, &str)]) -> Vec<u8> {
    block(&[&POST[..], fields].concat())
}

/// The fields of a bid request, these ones in the place of the same names; an empty value leaves it out.
fn head_but(name: &str, value: Option<&str>) -> Vec<u8> {
    let fields = POST.iter().filter_map(|&(known, usual)| {
        if known == name {
            value.map(|value| (known, value))
        } else {
            Some((known, usual))
        }
    });
    block(&fields.collect::<Vec<_>>())
}

/// A stream with this head and the usual body.
fn asks(stream: u32, head: impl AsRef<[u8]>) -> Vec<u8> {
    [
        frame(HEADERS, END_HEADERS, stream, head),
        frame(DATA, END_STREAM, stream, REQUEST),
    ]
    .concat()
}

fn good(stream: u32) -> Vec<u8> {
    asks(stream, head_with(&[]))
}

/// A stream that is open: its body is still to come.
fn open(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_HEADERS, stream, head_with(&[]))
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    let payload = [&id.to_be_bytes()[..], &value.to_be_bytes()].concat();
    frame(SETTINGS, 0, 0, payload)
}

fn window_update(stream: u32, increment: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, increment.to_be_bytes())
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = frames();
    rows.extend(streams());
    rows.extend(headers());
    rows.extend(compression());
    rows.extend(heads());
    rows.extend(floods());
    rows.extend(slow());
    rows
}

const CONNECTION_ERROR: &str = "connection error";
const STREAM_ERROR: &str = "stream error";

#[rustfmt::skip] // a case a line
fn frames() -> Vec<Row> {
    let bad = |what, section, sees, sends| row(what, section, CONNECTION_ERROR, sees, sends);
    vec![
        row("a good request", "§8.1", "answered", "200, goes on", good(1)),
        row("a frame of an unknown kind", "§4.1", "ignored", "200, goes on", [frame(99, 255, 7, "what"), good(1)].concat()),
        bad("a frame past 16 kB", "§4.2", "GOAWAY FRAME_SIZE_ERROR, end", frame(DATA, 0, 1, vec![0; 16_385])),
        bad("SETTINGS on a stream", "§6.5", "GOAWAY PROTOCOL_ERROR, end", frame(SETTINGS, 0, 1, "")),
        bad("SETTINGS of 5 bytes", "§6.5", "GOAWAY PROTOCOL_ERROR, end", frame(SETTINGS, 0, 0, "12345")),
        bad("an acknowledgement of SETTINGS with something in it", "§6.5", "GOAWAY PROTOCOL_ERROR, end", frame(SETTINGS, ACK, 0, [0; 6])),
        bad("ENABLE_PUSH 2", "§6.5.2", "GOAWAY PROTOCOL_ERROR, end", setting(2, 2)),
        bad("INITIAL_WINDOW_SIZE 2^31", "§6.5.2", "GOAWAY PROTOCOL_ERROR, end", setting(4, 1 << 31)),
        bad("MAX_FRAME_SIZE 100", "§6.5.2", "GOAWAY PROTOCOL_ERROR, end", setting(5, 100)),
        row("an unknown setting", "§6.5.2", "ignored", "200, goes on", [setting(0x7777, 1), good(1)].concat()),
        bad("PING of 7 bytes", "§6.7", "GOAWAY PROTOCOL_ERROR, end", frame(PING, 0, 0, "1234567")),
        bad("PING on a stream", "§6.7", "GOAWAY PROTOCOL_ERROR, end", frame(PING, 0, 1, "12345678")),
        bad("GOAWAY on a stream", "§6.8", "GOAWAY PROTOCOL_ERROR, end", frame(GOAWAY, 0, 1, [0; 8])),
        bad("PUSH_PROMISE", "§8.4", "GOAWAY PROTOCOL_ERROR, end", frame(PUSH_PROMISE, END_HEADERS, 1, [0, 0, 0, 2])),
        bad("WINDOW_UPDATE of 3 bytes", "§6.9", "GOAWAY PROTOCOL_ERROR, end", frame(WINDOW_UPDATE, 0, 0, "123")),
        bad("WINDOW_UPDATE by 0", "§6.9", "GOAWAY PROTOCOL_ERROR, end", window_update(0, 0)),
        bad("WINDOW_UPDATE past 2^31", "§6.9.1", "GOAWAY FLOW_CONTROL_ERROR, end", window_update(0, (1 << 31) - 1)),
        bad("PRIORITY of 4 bytes", "§6.3", "GOAWAY PROTOCOL_ERROR, end", frame(PRIORITY, 0, 1, "1234")),
        bad("PRIORITY on no stream", "§6.3", "GOAWAY PROTOCOL_ERROR, end", frame(PRIORITY, 0, 0, "12345")),
        row("the first frame is not SETTINGS", "§3.4", "connection error; deviates: taken", "goes on", [PREFACE, &frame(PING, 0, 0, [0; 8])].concat()),
        bad("the preface twice", "§3.4", "GOAWAY FRAME_SIZE_ERROR, end", PREFACE.to_vec()),
    ]
}

#[rustfmt::skip] // a case a line
fn streams() -> Vec<Row> {
    let bad = |what, section, sees, sends| row(what, section, CONNECTION_ERROR, sees, sends);
    let of_stream = |what, section, sees, sends| row(what, section, STREAM_ERROR, sees, sends);
    let depends_on_itself = [&1_u32.to_be_bytes()[..], &[0], &head_with(&[])].concat();
    vec![
        bad("DATA on no stream", "§6.1", "GOAWAY PROTOCOL_ERROR, end", frame(DATA, 0, 0, "x")),
        bad("DATA on an idle stream", "§5.1", "GOAWAY PROTOCOL_ERROR, end", frame(DATA, 0, 1, "x")),
        bad("DATA, all padding and more", "§6.1", "GOAWAY PROTOCOL_ERROR, end", [open(1), frame(DATA, PADDED, 1, [9, 0, 0])].concat()),
        bad("DATA after the end of its stream", "§5.1", "GOAWAY PROTOCOL_ERROR, end", [good(1), frame(DATA, 0, 1, "x")].concat()),
        bad("HEADERS on no stream", "§6.2", "GOAWAY PROTOCOL_ERROR, end", open(0)),
        bad("HEADERS on a stream of the server's", "§5.1.1", "GOAWAY PROTOCOL_ERROR, end", open(2)),
        bad("HEADERS on a stream before the last", "§5.1.1", "GOAWAY PROTOCOL_ERROR, end", [open(5), open(3)].concat()),
        bad("HEADERS, all padding and more", "§6.2", "GOAWAY PROTOCOL_ERROR, end", frame(HEADERS, END_HEADERS | PADDED, 1, [9, 0])),
        of_stream("HEADERS that depend on their own stream", "§5.3.1", "RST PROTOCOL_ERROR, goes on", frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, 1, depends_on_itself)),
        bad("WINDOW_UPDATE on an idle stream", "§5.1", "GOAWAY PROTOCOL_ERROR, end", window_update(1, 1)),
        of_stream("WINDOW_UPDATE by 0 on a stream", "§6.9", "GOAWAY PROTOCOL_ERROR, end", [open(1), window_update(1, 0)].concat()),
        of_stream("WINDOW_UPDATE past 2^31 on a stream", "§6.9.1", "RST FLOW_CONTROL_ERROR, goes on", [open(1), window_update(1, (1 << 31) - 1)].concat()),
        bad("RST_STREAM on no stream", "§6.4", "GOAWAY PROTOCOL_ERROR, end", frame(RST_STREAM, 0, 0, [0; 4])),
        bad("RST_STREAM on an idle stream", "§6.4", "GOAWAY PROTOCOL_ERROR, end", frame(RST_STREAM, 0, 1, [0; 4])),
        bad("RST_STREAM of 3 bytes", "§6.4", "GOAWAY PROTOCOL_ERROR, end", [open(1), frame(RST_STREAM, 0, 1, [0; 3])].concat()),
        of_stream("a body past the limit", "RFC 9110 §15.5.14", "413, RST NO_ERROR, goes on", asks(1, head_with(&[("content-length", "262145")])).into_iter().take(9 + head_with(&[("content-length", "262145")]).len()).collect::<Vec<_>>()),
    ]
}

#[rustfmt::skip] // a case a line
fn headers() -> Vec<Row> {
    let bad = |what, section, sees, sends| row(what, section, CONNECTION_ERROR, sees, sends);
    let half = frame(HEADERS, END_STREAM, 1, head_with(&[]));
    let rest = |stream| frame(CONTINUATION, END_HEADERS, stream, "");
    vec![
        row("a head in two frames", "§6.10", "taken", "400, goes on", [half.clone(), rest(1)].concat()),
        bad("CONTINUATION of nothing", "§6.10", "GOAWAY PROTOCOL_ERROR, end", rest(1)),
        bad("CONTINUATION on another stream", "§6.10", "GOAWAY PROTOCOL_ERROR, end", [half.clone(), rest(3)].concat()),
        bad("PING between HEADERS and CONTINUATION", "§6.10", "GOAWAY PROTOCOL_ERROR, end", [half, frame(PING, 0, 0, [0; 8])].concat()),
    ]
}

#[rustfmt::skip] // a case a line
fn compression() -> Vec<Row> {
    let bad = |what, section, sends: &[u8]| {
        row(what, section, CONNECTION_ERROR, "GOAWAY PROTOCOL_ERROR, end", frame(HEADERS, END_HEADERS | END_STREAM, 1, sends))
    };
    let mut too_large = Vec::new();
    integer(&mut too_large, 5, 0x20, 4097);
    too_large.extend(head_with(&[]));
    let mut late = head_with(&[]);
    integer(&mut late, 5, 0x20, 0);
    vec![
        bad("index 0", "RFC 7541 §6.1", &[0x80]),
        bad("an index past the tables", "RFC 7541 §2.3.3", &[0xff, 0x80, 0x01]),
        bad("a table larger than allowed", "RFC 7541 §6.3", &too_large),
        bad("a change of the table's size after fields", "RFC 7541 §4.2", &late),
        bad("a literal cut off", "RFC 7541 §5.2", &[0, 5, b'x']),
        bad("an integer without an end", "RFC 7541 §5.1", &[0xff; 40]),
        bad("Huffman code with EOS in it", "RFC 7541 §5.2", &[0, 0x84, 0xff, 0xff, 0xff, 0xff, 1, b'x']),
        bad("Huffman code padded with more than 7 bits", "RFC 7541 §5.2", &[0, 0x83, 0x1f, 0xff, 0xff, 1, b'x']),
    ]
}

#[rustfmt::skip] // a case a line
fn heads() -> Vec<Row> {
    // Malformed: a stream error at least (§8.1.1).
    let bad = |what, section, sends: Vec<u8>| {
        row(what, section, "malformed", "RST PROTOCOL_ERROR, goes on", frame(HEADERS, END_HEADERS | END_STREAM, 1, sends))
    };
    // Which may be taken for an error of the connection (§5.4.2).
    let worse = |what, section, sends: Vec<u8>| {
        row(what, section, "malformed", "GOAWAY PROTOCOL_ERROR, end", frame(HEADERS, END_HEADERS | END_STREAM, 1, sends))
    };
    let but = |name, value| head_but(name, value);
    let with = |name, value| head_with(&[(name, value)]);
    let before = |name, value| block(&[&[(name, value)][..], &POST].concat());
    let trailers = |flags, fields| {
        [
            open(1),
            frame(DATA, 0, 1, REQUEST),
            frame(HEADERS, END_HEADERS | flags, 1, block(fields)),
        ]
        .concat()
    };
    let long = |bytes: usize| {
        // 32 more for each field (RFC 7541 §4.1).
        let around: usize = POST
            .iter()
            .chain(&[("x", "")])
            .map(|(name, value)| name.len() + value.len() + 32)
            .sum();
        asks(1, head_with(&[("x", &"y".repeat(bytes - around))]))
    };
    let many = |count: usize| asks(1, head_with(&vec![("x", "y"); count]));
    vec![
        bad("no :method", "§8.3.1", but(":method", None)),
        bad("no :scheme", "§8.3.1", but(":scheme", None)),
        bad("no :path", "§8.3.1", but(":path", None)),
        bad("an empty :path", "§8.3.1", but(":path", Some(""))),
        bad(":method twice", "§8.3", before(":method", "POST")),
        bad(":path twice", "§8.3", before(":path", "/status")),
        worse("an unknown pseudo-header", "§8.3", before(":what", "x")),
        bad("a response's pseudo-header", "§8.3", before(":status", "200")),
        bad("a pseudo-header after a header", "§8.3", block(&[&[("x", "y")][..], &POST].concat())),
        worse("a name in upper case", "§8.2.1", with("X", "y")),
        worse("an empty name", "§8.2.1", with("", "y")),
        worse("a space in a name", "§8.2.1", with("x y", "z")),
        worse("CRLF in a value", "§8.2.1", with("x", "y\r\nz: z")),
        worse("NUL in a value", "§8.2.1", with("x", "y\0")),
        bad("`connection`", "§8.2.2", with("connection", "close")),
        bad("`transfer-encoding`", "§8.2.2", with("transfer-encoding", "chunked")),
        bad("`upgrade`", "§8.2.2", with("upgrade", "h2c")),
        bad("`te: gzip`", "§8.2.2", with("te", "gzip")),
        bad("a :path with a space", "§8.3.1", but(":path", Some("/sta tus"))),
        row("a :path that is no path", "§8.3.1", "malformed", "400, goes on", asks(1, but(":path", Some("*")))),
        row("`te: trailers`", "§8.2.2", "taken", "200, goes on", asks(1, with("te", "trailers"))),
        row("no :authority", "§8.3.1", "taken", "200, goes on", asks(1, but(":authority", None))),
        row("`host` as :authority", "§8.3.1", "taken", "200, goes on", asks(1, with("host", "x"))),
        row("`host` and another :authority", "§8.3.1", "400", "400, goes on", asks(1, with("host", "y"))),
        row("an unknown method", "RFC 9110 §9.1", "405 or 501", "405, goes on", asks(1, but(":method", Some("BREW")))),
        row("CONNECT", "§8.5", "405 or a stream error", "405, RST NO_ERROR, goes on", frame(HEADERS, END_HEADERS, 1, block(&[(":method", "CONNECT"), (":authority", "x:80")]))),
        row("a body shorter than its length", "§8.1.1", "malformed", "RST PROTOCOL_ERROR, goes on", asks(1, with("content-length", "42"))),
        row("a body longer than its length", "§8.1.1", "malformed", "RST PROTOCOL_ERROR, goes on", asks(1, with("content-length", "40"))),
        row("two different lengths", "§8.1.1", "malformed", "RST PROTOCOL_ERROR, goes on", asks(1, head_with(&[("content-length", "41"), ("content-length", "42")]))),
        row("trailers", "§8.1", "ignored", "200, goes on", trailers(END_STREAM, &[("x", "y")])),
        row("trailers that end nothing", "§8.1", "malformed", "RST PROTOCOL_ERROR, goes on", trailers(0, &[("x", "y")])),
        row("a pseudo-header in trailers", "§8.1", "malformed; deviates: trailers are not looked at", "200, goes on", trailers(END_STREAM, &[(":path", "/")])),
        row("64 headers", "§10.5.1", "a limit: at it", "200, goes on", many(64)),
        row("65 headers", "§10.5.1", "a limit: past it", "431, goes on", many(65)),
        row("a head of 16 kB less a byte", "§6.5.2", "a limit: at it", "200, goes on", long((16 << 10) - 1)),
        row("a head of 16 kB", "§6.5.2", "a limit: past it", "431, RST PROTOCOL_ERROR, goes on", long(16 << 10)),
    ]
}

#[rustfmt::skip] // a case a line
fn floods() -> Vec<Row> {
    let calm = "GOAWAY ENHANCE_YOUR_CALM, end";
    let flood =
        |what, section, one: Vec<u8>| row(what, section, "may end the connection", calm, one.repeat(5_000));
    let each = |one: &dyn Fn(u32) -> Vec<u8>, count: u32| {
        (0..count).flat_map(|n| one(2 * n + 1)).collect::<Vec<u8>>()
    };
    let reset = |stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 8]);
    // One entry of the table, 15,000 times.
    let mut bomb = head_with(&[]);
    bomb.push(0x40);
    for text in ["x", &"y".repeat(3_000)] {
        integer(&mut bomb, 7, 0, text.len());
        bomb.extend(text.as_bytes());
    }
    let references = [head_with(&[]), vec![0x80 | 62; 15_000]].concat();
    let bombs = |stream| {
        frame(
            HEADERS,
            END_HEADERS | END_STREAM,
            stream,
            if stream == 1 { &bomb } else { &references },
        )
    };
    let itself = |stream: u32| {
        let head = [&stream.to_be_bytes()[..], &[0], &head_with(&[])].concat();
        frame(HEADERS, END_HEADERS | END_STREAM | WITH_PRIORITY, stream, head)
    };
    let resizes: Vec<u8> = [vec![0x20; 1_000], head_with(&[])].concat();
    let half = frame(HEADERS, 0, 1, head_with(&[]));
    vec![
        flood("5,000 PING", "§10.5", frame(PING, 0, 0, [0; 8])),
        flood("5,000 acknowledgements of PING", "§10.5", frame(PING, ACK, 0, [0; 8])),
        flood("5,000 SETTINGS", "§10.5", setting(4, 65_535)),
        flood("5,000 PRIORITY", "§10.5", frame(PRIORITY, 0, 1, [0, 0, 0, 3, 1])),
        flood("5,000 WINDOW_UPDATE", "§10.5", window_update(0, 1)),
        flood("5,000 frames of an unknown kind", "§10.5", frame(99, 0, 0, "")),
        row("5,000 empty DATA", "§10.5", "may end the connection", calm, [open(1), frame(DATA, 0, 1, "").repeat(5_000)].concat()),
        row("5,000 DATA of a byte, padded", "§10.5", "may end the connection", calm, [open(1), frame(DATA, PADDED, 1, [8; 10]).repeat(5_000)].concat()),
        row("5,000 empty CONTINUATION", "§10.5", "may end the connection", calm, [half.clone(), frame(CONTINUATION, 0, 1, "").repeat(5_000)].concat()),
        row("CONTINUATION without end", "§10.5", "may end the connection", calm, [half, frame(CONTINUATION, 0, 1, block(&[("x", &"y".repeat(1_000))])).repeat(500)].concat()),
        row("3,000 requests taken back at once", "§10.5", "may end the connection", calm, each(&|stream| [open(stream), reset(stream)].concat(), 3_000)),
        row("1,000 streams that we must reset", "§10.5", "may end the connection", calm, each(&itself, 1_000)),
        row("100 heads of 15,000 references", "§10.5.1", "may end the connection", calm, each(&bombs, 100)),
        row("a table resized 1,000 times in a head", "RFC 7541 §4.2", "twice at most; deviates: taken", "400, goes on", frame(HEADERS, END_HEADERS | END_STREAM, 1, resizes)),
    ]
}

#[rustfmt::skip] // a case a line
fn slow() -> Vec<Row> {
    let calm = "GOAWAY ENHANCE_YOUR_CALM, end";
    let half_a_frame = frame(PING, 0, 0, [0; 8])[..12].to_vec();
    vec![
        row("half a frame, and silence", "§10.5", "the end", calm, half_a_frame),
        row("half a head, and silence", "§10.5", "the end", calm, frame(HEADERS, END_STREAM, 1, head_with(&[]))),
        row("half a body, and silence", "RFC 9110 §15.5.9", "408", "408, RST NO_ERROR, goes on", [open(1), frame(DATA, 0, 1, &REQUEST[..9])].concat()),
        row("a window of 0 for the answer", "§10.5", "the end", "200, GOAWAY ENHANCE_YOUR_CALM, end", [setting(4, 0), good(1)].concat()),
        row("a window of a byte for the answer", "§10.5", "the end", "200, GOAWAY ENHANCE_YOUR_CALM, end", [setting(4, 1), good(1)].concat()),
    ]
}

/// One connection, as raw as it gets.
struct Raw {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Raw {
    fn connect(target: &Target) -> Self {
        Self::to(&target.exchange)
    }

    fn to(exchange: &Exchange) -> Self {
        let stream = TcpStream::connect(exchange.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(4))).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            read: Vec::new(),
        }
    }

    /// May be cut short by the other side.
    fn send(&mut self, bytes: &[u8]) {
        let _may_have_ended = self.stream.write_all(bytes);
    }

    /// The next frame: kind, flags, payload. `None` at the end.
    fn frame(&mut self) -> Option<(u8, u8, Vec<u8>)> {
        // Nothing for so long is an answer, too: a wrong one.
        while self.read.len() < 9 || self.read.len() < 9 + self.length() {
            let mut chunk = [0; 16_384];
            match self.stream.read(&mut chunk) {
                Ok(0) => return None,
                Ok(count) => self.read.extend(&chunk[..count]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(_) => return Some((255, 0, Vec::new())),
            }
        }
        let rest = self.read.split_off(9 + self.length());
        let frame = std::mem::replace(&mut self.read, rest);
        Some((frame[3], frame[4], frame[9..].to_vec()))
    }

    fn length(&self) -> usize {
        usize::from(self.read[0]) << 16 | usize::from(self.read[1]) << 8 | usize::from(self.read[2])
    }

    /// What a client would be told next: a status, a reset, GOAWAY, or that its PING has come back.
    fn event(&mut self) -> Option<String> {
        loop {
            let (kind, flags, payload) = self.frame()?;
            let code = |at: usize| {
                let code = payload[at..at + 4].try_into().map(u32::from_be_bytes).unwrap();
                CODES[usize::try_from(code).unwrap()]
            };
            match kind {
                HEADERS => return Some(status(&payload)),
                RST_STREAM => return Some(format!("RST {}", code(0))),
                255 => return Some("silence".to_owned()),
                GOAWAY => return Some(format!("GOAWAY {}", code(4))),
                PING if flags & ACK != 0 && payload == MARK => return Some("goes on".to_owned()),
                _ => {}
            }
        }
    }
}

const MARK: &[u8] = b"the mark";

/// How many HEADERS there are in these frames, as far as they are whole.
fn streams_opened(mut sends: &[u8]) -> usize {
    sends = sends.strip_prefix(PREFACE).unwrap_or(sends);
    let mut opened = 0;
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = sends {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        opened += usize::from(*kind == HEADERS);
        sends = rest.get(length..).unwrap_or_default();
    }
    opened
}

/// The server's first field is the status: indexed, or by the name of an indexed one (RFC 7541 §6).
fn status(block: &[u8]) -> String {
    let indexed = ["200", "204", "206", "304", "400", "404", "500"];
    match block[0] {
        index @ 0x88..=0x8e => indexed[usize::from(index - 0x88)].to_owned(),
        0x48 => {
            assert_eq!(
                block[1] & 0x80,
                0x80,
                "three digits are shorter in Huffman's code"
            );
            digits(&block[2..2 + usize::from(block[1] & 0x7f)])
        }
        other => format!("a head that begins with {other:#x}"),
    }
}

/// RFC 7541, Appendix B: 0 to 2 have five bits, 3 to 9 six.
fn digits(code: &[u8]) -> String {
    let mut bits = code
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1));
    let mut text = String::new();
    while text.len() < 3 {
        let five = (0..5).fold(0, |code, _| code * 2 + bits.next().unwrap());
        let digit = if five < 3 {
            five
        } else {
            five * 2 + bits.next().unwrap() - 0x19 + 3
        };
        write!(text, "{digit}").unwrap();
    }
    text
}

fn play(target: &Target, row: &Row) -> String {
    let mut raw = Raw::connect(target);
    if !row.sends.starts_with(PREFACE) || row.sends.len() == PREFACE.len() {
        raw.send(PREFACE);
        raw.send(&frame(SETTINGS, 0, 0, ""));
    }
    raw.send(&row.sends);
    let mut saw = Vec::new();
    let mut passed_over = 0;
    let expected = row.sees.split(", ").count();
    let goes_on = row.sees.ends_with("goes on");
    while saw.len() < expected {
        if goes_on && saw.len() == expected - 1 {
            raw.send(&frame(PING, 0, 0, MARK));
        }
        match raw.event() {
            // What it did until it had enough: how much of that depends on how the bytes come in. Only where there was a
            // stream to do it on, and no more often than there were streams: then comes the GOAWAY or the row has failed.
            Some(event)
                if row.sees.starts_with("GOAWAY")
                    && saw.is_empty()
                    && passed_over < streams_opened(&row.sends)
                    && (event.starts_with("RST") || event == "400") =>
            {
                passed_over += 1;
            }
            Some(event) => {
                saw.push(event);
                if saw.last().unwrap() == "silence" {
                    break;
                }
            }
            None => {
                saw.push("end".to_owned());
                break;
            }
        }
    }
    saw.join(", ")
}

#[test]
fn what_no_client_sends_over_http2() {
    let target = Target::start(LIMITS, "1");
    target.plays(&rows(), play);
    target
        .exchange
        .wait_until("each is counted by its cause", |metrics| {
            let ended = |reason| metrics.sum(&format!("connections_closed_total{{reason=\"{reason}\"}}"));
            ended("slow") == 2 && ended("unread") == 2 && ended("flood") >= 6 && ended("protocol") > 30
        });
}

/// Taken back when they are being served: h2 has a limit for those only that are not yet.
#[test]
fn taking_back_what_was_asked_has_a_limit() {
    let target = Target::start("", "1");
    let mut raw = Raw::connect(&target);
    raw.send(PREFACE);
    raw.send(&frame(SETTINGS, 0, 0, ""));
    let start = Instant::now();
    let mut taken = 0_u64;
    // Heads only, and a hundred at a time, so that it is quicker than what time gives on a busy machine, too.
    while start.elapsed() < PATIENCE {
        let streams = (taken..taken + 100).map(|n| u32::try_from(2 * n + 1).unwrap());
        let begun: Vec<u8> = streams.clone().flat_map(open).collect();
        raw.send(&[begun, frame(PING, 0, 0, MARK)].concat());
        while raw.event().is_some_and(|event| event != "goes on") {}
        let taken_back: Vec<u8> = streams
            .flat_map(|stream| frame(RST_STREAM, 0, stream, [0, 0, 0, 8]))
            .collect();
        if raw.stream.write_all(&taken_back).is_err() {
            break;
        }
        taken += 100;
    }
    target
        .exchange
        .wait_for("connections_closed_total{reason=\"resets\"}", 1);
    target.leaves_nothing();
    // 2,000 and what time gives.
    assert!(
        (2_000..2_000 + 250 * PATIENCE.as_secs()).contains(&taken),
        "{taken}"
    );
    assert_eq!(target.exchange.bid(REQUEST).status, 200);
}

/// At the limit and past it, with their bodies still to come; with one gone there is room again.
#[test]
fn streams_of_a_connection_have_a_limit() {
    const LIMIT: u32 = 20_000;
    let dsp = Scripted::start(|_| Does::NoBid);
    // None is given up in the time that it takes, on a busy machine either.
    let exchange = Exchange::start(&Setup {
        server: "max_in_flight = 30000\nqueue_delay_target_ms = 0\nread_timeout_ms = 60000",
        auction: "deadline_ms = 60000".to_owned(),
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let mut raw = Raw::to(&exchange);
    raw.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    raw.send(PREFACE);
    raw.send(&frame(SETTINGS, 0, 0, ""));
    let stream = |n: u32| 2 * n + 1;
    for thousand in 0..LIMIT / 1_000 {
        let heads = (0..1_000).flat_map(|n| open(stream(thousand * 1_000 + n)));
        raw.send(&heads.chain(frame(PING, 0, 0, MARK)).collect::<Vec<_>>());
        assert_eq!(raw.event().as_deref(), Some("goes on"), "all are taken");
    }
    raw.send(&open(stream(LIMIT)));
    assert_eq!(raw.event().as_deref(), Some("RST REFUSED_STREAM"), "one more");
    raw.send(&frame(DATA, END_STREAM, stream(0), REQUEST));
    assert_eq!(raw.event().as_deref(), Some("204"));
    raw.send(&good(stream(LIMIT + 1)));
    assert_eq!(raw.event().as_deref(), Some("204"));
}

/// A connection that answers nobody's call for a sign of life, as none is needed: no request for long enough is enough.
#[test]
fn an_idle_connection_is_told_to_go() {
    let target = Target::start("idle_timeout_ms = 400\nread_timeout_ms = 400", "1");
    let mut raw = Raw::connect(&target);
    raw.send(PREFACE);
    raw.send(&[frame(SETTINGS, 0, 0, ""), good(1)].concat());
    assert_eq!(raw.event().as_deref(), Some("200"));
    let since = Instant::now();
    assert_eq!(raw.event().as_deref(), Some("GOAWAY NO_ERROR"));
    assert!(
        since.elapsed() >= Duration::from_millis(350),
        "{:?}",
        since.elapsed()
    );
    // It never says that it has heard, and so is not waited for.
    while raw.event().is_some() {}
    target
        .exchange
        .wait_for("connections_closed_total{reason=\"idle\"}", 1);
    target.leaves_nothing();
}
