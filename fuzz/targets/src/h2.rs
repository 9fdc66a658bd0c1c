//! What a DSP sends over HTTP/2: the same frames mean the same answers however they are cut into pieces; each call ends
//! once, with no more body than allowed; what we send is well-formed and within the peer's window; memory has a bound.
//!
//! The input is what happens on a connection, an event behind its kind in one byte: see `Steps`. Frames are written
//! without most of what a fuzzer would have to guess, and raw bytes are an event too.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use corebid::fanout::h2::{ClientConnection, Event, RequestBlock};
use corebid::fanout::{Body, DspOptions, Protocol, Target};

use crate::chance::Chance;
use crate::heap;

const BODY_BYTES_MAX: usize = 1 << 10;

/// A partial frame, a header block with its CONTINUATIONs, and the two strings of a field unpacked (16 kB of Huffman code
/// are 26 kB of text), in vectors that are moved as they grow; what is kept of two header blocks; and for each byte that
/// comes or is asked for, what we send because of it: a PING of 17 bytes for at least 2 of ours.
const HEAP_BYTES_START: usize = 3 * (16 << 10) + 3 * (32 << 10) + 2 * 3 * (26 << 10) + (16 << 10);
const HEAP_BYTES_PER_BYTE: usize = 3 * 9 + 3;
/// Of a call: its stream, doubled as the slab grows, and its head of a hundred bytes in the output.
const HEAP_BYTES_PER_CALL: usize = 1 << 10;

/// See the module's description.
pub fn check(input: &[u8]) {
    let whole = play(input, |bytes, receive| receive(bytes));

    let mut chance = Chance::of(input);
    let pieces = play(input, |bytes, receive| chance.pieces(bytes, receive));
    let single = play(input, |bytes, receive| bytes.chunks(1).for_each(receive));
    for other in [&pieces, &single] {
        // When a request has to wait for a window, more of it is sent at the end of what is received, so that what the peer
        // is told depends on where that is. And an answer that comes before its request is through ends that.
        if !whole.waited {
            assert_eq!(other.said, whole.said);
            assert_eq!(other.sent, whole.sent);
        }
    }
    for played in [whole, pieces, single] {
        assert_eq!(played.ended.len(), played.calls, "each call ends");
        assert!(played.ended.values().all(|times| *times == 1), "and once");
    }
    measure(input);
}

/// What came of a connection.
#[derive(Default)]
struct Played {
    calls: usize,
    /// By call: how often it ended.
    ended: BTreeMap<u32, usize>,
    /// All events in words.
    said: Vec<String>,
    sent: Sent,
    /// Some request was not through at once.
    waited: bool,
}

fn play(input: &[u8], mut cut: impl FnMut(&[u8], &mut dyn FnMut(&[u8]))) -> Played {
    let mut connection = ClientConnection::new(BODY_BYTES_MAX);
    let mut played = Played::default();
    let mut bodies = BTreeMap::<u32, Vec<u8>>::new();
    let mut window = Window::default();
    let mut is_over = false;
    for step in steps(input) {
        match step {
            Step::Receive(bytes) => cut(&bytes, &mut |piece| {
                if is_over {
                    return;
                }
                window.receive(piece);
                let result = connection.receive(piece, |event| match event {
                    // Once, before the first of its body.
                    Event::Begun { tag } => assert!(!bodies.contains_key(tag)),
                    Event::Data { tag, bytes } => {
                        let body = bodies.entry(*tag).or_default();
                        body.extend_from_slice(bytes);
                        assert!(body.len() <= BODY_BYTES_MAX);
                    }
                    Event::Ended { tag, head } => {
                        *played.ended.entry(tag).or_default() += 1;
                        let body = bodies.remove(&tag).unwrap_or_default();
                        played
                            .said
                            .push(format!("{tag} {head:?} {}", body.escape_ascii()));
                    }
                    Event::Failed { tag, failure } => {
                        *played.ended.entry(tag).or_default() += 1;
                        played.said.push(format!("{tag} {failure:?}"));
                    }
                });
                if let Err(violation) = result {
                    played.said.push(format!("{violation:?}"));
                    is_over = true;
                }
            }),
            Step::Start(length) => {
                let call = u32::try_from(played.calls).unwrap();
                let before = output(&connection).len();
                match connection.start(&REQUEST, &zeros(length), call) {
                    Ok(id) => {
                        assert_eq!(id, played.sent.stream_of(played.calls), "ids follow each other");
                        played.calls += 1;
                        played.waited |= !is_through(&output(&connection)[before..]);
                    }
                    Err(refused) => played.said.push(format!("{refused:?}")),
                }
            }
            Step::Write(count) => {
                let output = output(&connection);
                let count = count.min(output.len());
                played.sent.take(&output[..count]);
                connection.wrote(count);
            }
            Step::Cancel(id) => {
                if let Some(call) = connection.cancel(id) {
                    *played.ended.entry(call).or_default() += 1;
                    played.said.push(format!("{call} cancelled"));
                }
            }
            Step::Ping => connection.ping(),
        }
        assert!(connection.calls() <= played.calls);
        if is_over {
            assert!(connection.is_retired());
            break;
        }
    }
    connection.fail_all(|call, _| *played.ended.entry(call).or_default() += 1);
    assert_eq!(connection.calls(), 0);
    assert_eq!(connection.oldest(), None);
    played.sent.take(&output(&connection));
    played.sent.end();
    assert!(
        played.sent.data_bytes <= window.bytes,
        "{} bytes of DATA, with a window of {}",
        played.sent.data_bytes,
        window.bytes
    );
    played
}

/// Whether the last of these frames, which are a request, ends it.
fn is_through(mut frames: &[u8]) -> bool {
    loop {
        let length = u32::from_be_bytes([0, frames[0], frames[1], frames[2]]);
        let end = 9 + usize::try_from(length).unwrap();
        if end == frames.len() {
            return frames[4] & 1 != 0;
        }
        frames = &frames[end..];
    }
}

/// The same once more, with nothing of our own that takes memory.
fn measure(input: &[u8]) {
    let steps = steps(input);
    let (mut bytes, mut calls) = (0, 0);
    for step in &steps {
        match step {
            Step::Receive(received) => bytes += received.len(),
            Step::Start(length) => (bytes, calls) = (bytes + length, calls + 1),
            _ => {}
        }
    }
    let peak = heap::peak_of(|| {
        let mut connection = ClientConnection::new(BODY_BYTES_MAX);
        for step in &steps {
            match step {
                Step::Receive(received) => {
                    if connection.receive(received, |_| ()).is_err() {
                        return;
                    }
                }
                Step::Start(length) => drop(connection.start(&REQUEST, &zeros(*length), ())),
                Step::Write(count) => {
                    let output: usize = connection.output().map(<[u8]>::len).sum();
                    connection.wrote((*count).min(output));
                }
                Step::Cancel(id) => drop(connection.cancel(*id)),
                Step::Ping => connection.ping(),
            }
        }
    });
    let most =
        HEAP_BYTES_START + HEAP_BYTES_PER_BYTE * bytes + HEAP_BYTES_PER_CALL * calls + 17 * steps.len();
    assert!(peak <= most, "{peak} bytes, {most} are allowed");
}

/// Something that happens on a connection.
#[derive(Debug)]
enum Step {
    /// The peer has sent this.
    Receive(Vec<u8>),
    /// A call with a body of so many bytes.
    Start(usize),
    /// The socket takes so many bytes.
    Write(usize),
    Cancel(u32),
    Ping,
}

/// All that happens. What comes with nothing in between comes together.
fn steps(input: &[u8]) -> Vec<Step> {
    let mut steps = Vec::new();
    for step in Steps::of(input) {
        match (steps.last_mut(), step) {
            (Some(Step::Receive(before)), Step::Receive(bytes)) => before.extend_from_slice(&bytes),
            (_, step) => steps.push(step),
        }
    }
    steps
}

/// From the fuzzer's bytes. By the kind modulo 16:
/// 0 to 9, a frame of that type: its flags, its stream in a byte, its length in a byte, its payload;
/// 10, one of an unknown type; 11, raw bytes behind their length; 12, a call and the length of its body in units of 257 bytes;
/// 13, a write of so many bytes in the same units; 14, a call given up; 15, the server's greeting or, if one was sent, a
/// ping of ours.
struct Steps<'i> {
    rest: &'i [u8],
    greeted: bool,
}

impl<'i> Steps<'i> {
    fn of(input: &'i [u8]) -> Self {
        Self {
            rest: input,
            greeted: false,
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn bytes(&mut self) -> &'i [u8] {
        let length = self.byte().unwrap_or(0).into();
        let (bytes, rest) = self.rest.split_at(self.rest.len().min(length));
        self.rest = rest;
        bytes
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let kind = self.byte()?;
        Some(match kind % 16 {
            11 => Step::Receive(self.bytes().to_vec()),
            12 => Step::Start(usize::from(self.byte()?) * UNIT_BYTES),
            13 => Step::Write(usize::from(self.byte()?) * UNIT_BYTES),
            14 => Step::Cancel(self.byte()?.into()),
            15 if self.greeted => Step::Ping,
            15 => {
                self.greeted = true;
                Step::Receive(frame(4, 0, 0, &[]))
            }
            kind => {
                let (flags, stream) = (self.byte()?, self.byte()?);
                Step::Receive(frame(kind, flags, stream, self.bytes()))
            }
        })
    }
}

/// 255 of them are what all windows are at first.
const UNIT_BYTES: usize = 257;

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    let mut frame = vec![0, 0, length, kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

fn zeros(length: usize) -> Body {
    vec![0; length].into()
}

fn output<T>(connection: &ClientConnection<T>) -> Vec<u8> {
    connection.output().collect::<Vec<_>>().concat()
}

static REQUEST: LazyLock<RequestBlock> = LazyLock::new(|| {
    RequestBlock::new(&DspOptions {
        name: "dsp".to_owned(),
        target: Target {
            address: ([127, 0, 0, 1], 1).into(),
            authority: "dsp.example".to_owned(),
            path: "/bid".to_owned(),
        },
        timeout: std::time::Duration::from_millis(60),
        protocol: Protocol::Http2,
        tls: None,
        connections_max: 1,
        connections_warm: 0,
        response_bytes_max: BODY_BYTES_MAX,
        gzip: false,
        gate: corebid::fanout::GateOptions::default(),
    })
});

/// What we have sent, read as a strict server reads it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sent {
    partial: Vec<u8>,
    is_greeted: bool,
    data_bytes: u64,
    /// By type, flags and stream, of all frames.
    frames: Vec<(u8, u8, u32)>,
    newest: u32,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl Sent {
    /// The stream of the call of this number.
    #[allow(clippy::unused_self, reason = "reads better where it is called")]
    fn stream_of(&self, call: usize) -> u32 {
        u32::try_from(2 * call + 1).unwrap()
    }

    fn take(&mut self, bytes: &[u8]) {
        self.partial.extend_from_slice(bytes);
        if !self.is_greeted && self.partial.len() >= PREFACE.len() {
            assert!(self.partial.starts_with(PREFACE));
            self.partial.drain(..PREFACE.len());
            self.is_greeted = true;
        }
        if !self.is_greeted {
            return;
        }
        let partial = std::mem::take(&mut self.partial);
        let mut rest = &partial[..];
        while let Some(header) = rest.first_chunk::<9>() {
            let [a, b, c, kind, flags, s0, s1, s2, s3] = *header;
            let length = u32::from_be_bytes([0, a, b, c]);
            let stream = u32::from_be_bytes([s0, s1, s2, s3]);
            let Some((_, behind)) = rest.split_at_checked(9 + usize::try_from(length).unwrap()) else {
                break;
            };
            self.frame(kind, flags, stream, u64::from(length));
            rest = behind;
        }
        self.partial = rest.to_vec();
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, length: u64) {
        match kind {
            0 => {
                assert!(stream % 2 == 1 && stream <= self.newest, "DATA on an idle stream");
                self.data_bytes += length;
            }
            1 => {
                assert!(
                    stream % 2 == 1 && stream > self.newest,
                    "streams are opened in order"
                );
                self.newest = stream;
            }
            3 => assert!(stream <= self.newest && length == 4),
            4 => assert!(stream == 0 && length.is_multiple_of(6)),
            6 => assert!(stream == 0 && length == 8),
            7 => assert!(stream == 0 && length >= 8),
            8 => assert!(stream <= self.newest && length == 4),
            9 => assert_eq!(stream, self.newest),
            _ => panic!("we sent a frame of type {kind}"),
        }
        self.frames.push((kind, flags, stream));
    }

    fn end(&self) {
        assert!(self.is_greeted && self.partial.is_empty(), "half a frame");
    }
}

/// How much DATA the peer has allowed on the connection so far.
struct Window {
    received: Vec<u8>,
    bytes: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            received: Vec::new(),
            bytes: 65_535,
        }
    }
}

impl Window {
    fn receive(&mut self, bytes: &[u8]) {
        self.received.extend_from_slice(bytes);
        while let Some(header) = self.received.first_chunk::<9>() {
            let length = u32::from_be_bytes([0, header[0], header[1], header[2]]);
            let (kind, stream) = (header[3], [header[5] & 0x7f, header[6], header[7], header[8]]);
            let end = 9 + usize::try_from(length).unwrap();
            let Some(frame) = self.received.get(9..end) else {
                return;
            };
            if let (8, [0, 0, 0, 0], [a, b, c, d]) = (kind, stream, frame) {
                self.bytes += u64::from(u32::from_be_bytes([a & 0x7f, *b, *c, *d]));
            }
            self.received.drain(..end);
        }
    }
}
