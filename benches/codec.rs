//! What HTTP towards DSPs costs, sockets left out: `cargo bench --bench codec`.
//!
//! Over HTTP/2 one connection's turn: 22 calls go out, their 22 answers come in with one read. Over HTTP/1.1 one call:
//! its head goes out, its answer comes in. An answer has 600 B as in the load tests, under two heads: the least that a
//! DSP can send, which is the simulator's, and what servers send unasked: a date and the length, Huffman-coded over HTTP/2.
//! `--turns N` runs N turns of each and times nothing, `--head usual` under that head only: for `benches/callgrind.sh`.

#![allow(clippy::unwrap_used, reason = "a benchmark may stop")]

mod measure;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::Duration;

use corebid::fanout::h1::{RequestHead, ResponseReader};
use corebid::fanout::h2::{ClientConnection, Event, RequestBlock};
use corebid::fanout::{Body, DspOptions, Protocol, Target};

/// So many answers of 600 B fit in one read of 16 kB.
const CALLS: u32 = 22;
const REQUEST_BYTES: u32 = 1_300;
const ANSWER_BYTES: usize = 600;
const ANSWER_BYTES_MAX: usize = 256 << 10;

/// `:status 200`, and a literal with a literal name.
const H2_LEAST: &[u8] = b"\x88\x00\x0ccontent-type\x10application/json";
/// `:status 200`, content-type, date, and before its three digits content-length: names from the static table, values
/// Huffman-coded.
const H2_USUAL: &[u8] = b"\x88\
    \x0f\x10\x8b\x1d\x75\xd0\x62\x0d\x26\x3d\x4c\x74\x41\xea\
    \x0f\x12\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff\
    \x0f\x0d\x03";
const H1_LEAST: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";
const H1_USUAL: &str = "HTTP/1.1 200 OK\r\nServer: dsp\r\nDate: Mon, 21 Oct 2013 20:13:21 GMT\r\n\
    Content-Type: application/json\r\nConnection: keep-alive\r\n";

fn main() {
    let turns = measure::argument("--turns").map(|turns| turns.parse().unwrap());
    let only = measure::argument("--head");
    let heads = [
        ("least", H2_LEAST, false, H1_LEAST),
        ("usual", H2_USUAL, true, H1_USUAL),
    ];
    for (name, block, has_length, lines) in heads {
        if only.as_ref().is_some_and(|only| only != name) {
            continue;
        }
        let http2 = RefCell::new(Http2::new(block, has_length));
        let (mut by_length, mut chunked) = (Http1::new(by_length(lines)), Http1::new(chunked(lines)));
        if let Some(turns) = turns {
            counted(turns, &mut http2.borrow_mut(), &mut by_length, &mut chunked);
            continue;
        }
        let (what, call) = (format!("{CALLS}, {name} head"), format!("1, {name} head"));
        measure::bench_in_turn([
            ("h2: calls out", &what, &mut || http2.borrow_mut().send()),
            ("h2: answers in", &what, &mut || http2.borrow_mut().receive()),
        ]);
        measure::bench("h1: answer in, by length", &call, &mut || by_length.receive());
        measure::bench("h1: answer in, chunked", &call, &mut || chunked.receive());
        measure::bench("h1: head out", &call, &mut || by_length.send());
    }
}

/// Never inlined, as what it calls: by their names `benches/callgrind.sh` knows what to count.
#[inline(never)]
fn counted(turns: usize, http2: &mut Http2, by_length: &mut Http1, chunked: &mut Http1) {
    for _ in 0..turns {
        http2.turn();
        by_length.send();
        receive_by_length(by_length);
        receive_chunked(chunked);
    }
}

#[inline(never)]
fn receive_by_length(http1: &mut Http1) {
    // Of two functions that do the same the optimizer makes one.
    black_box("by length");
    http1.receive();
}

#[inline(never)]
fn receive_chunked(http1: &mut Http1) {
    black_box("chunked");
    http1.receive();
}

/// One connection and what comes on it.
struct Http2 {
    connection: ClientConnection<u32>,
    block: RequestBlock,
    body: Body,
    answers: Vec<u8>,
    /// Where in `answers` stream ids stand, of each call's two frames.
    ids: Vec<[usize; 2]>,
}

impl Http2 {
    fn new(head: &[u8], has_length: bool) -> Self {
        let (mut answers, mut ids) = (Vec::new(), Vec::new());
        for call in 0..CALLS as usize {
            // No two answers under way have one length, as no two bids have one price.
            let body = vec![b'x'; ANSWER_BYTES + call];
            let mut block = head.to_vec();
            if has_length {
                block.extend_from_slice(body.len().to_string().as_bytes());
            }
            let head_at = push_frame(&mut answers, 1, 4, &block);
            ids.push([head_at, push_frame(&mut answers, 0, 1, &body)]);
        }
        // The peer has read the calls: what they took of the connection's window is given back.
        push_frame(&mut answers, 8, 0, &(CALLS * REQUEST_BYTES).to_be_bytes());
        let mut connection = ClientConnection::new(ANSWER_BYTES_MAX);
        let mut greeting = Vec::new();
        push_frame(&mut greeting, 4, 0, &[]);
        connection.receive(&greeting, |_| ()).unwrap();
        let mut this = Self {
            connection,
            block: RequestBlock::new(&dsp()),
            body: Body::from(vec![b'x'; REQUEST_BYTES as usize]),
            answers,
            ids,
        };
        this.turn();
        this
    }

    fn turn(&mut self) {
        self.send();
        self.receive();
    }

    #[inline(never)]
    fn send(&mut self) {
        for (call, places) in (0..CALLS).zip(&self.ids) {
            let id = self.connection.start(&self.block, &self.body, call).unwrap();
            for place in places {
                self.answers[*place..*place + 4].copy_from_slice(&id.to_be_bytes());
            }
        }
        let sent: usize = self.connection.output().map(|piece| black_box(piece).len()).sum();
        assert!(sent > (CALLS * REQUEST_BYTES) as usize, "the windows have room");
        self.connection.wrote(sent);
    }

    #[inline(never)]
    fn receive(&mut self) {
        let mut ended = 0;
        self.connection
            .receive(&self.answers, |event| match event {
                Event::Data { bytes, .. } => {
                    black_box(bytes);
                }
                Event::Ended { head, .. } => {
                    black_box(head);
                    ended += 1;
                }
                Event::Begun { .. } | Event::Failed { .. } => {}
            })
            .unwrap();
        assert_eq!(ended, CALLS);
    }
}

/// Appends a frame; returns where its stream id, which is 0, stands.
fn push_frame(out: &mut Vec<u8>, kind: u8, flags: u8, payload: &[u8]) -> usize {
    let [_, length @ ..] = u32::try_from(payload.len()).unwrap().to_be_bytes();
    out.extend_from_slice(&length);
    out.extend_from_slice(&[kind, flags, 0, 0, 0, 0]);
    out.extend_from_slice(payload);
    out.len() - payload.len() - 4
}

/// One connection's head, and an answer.
struct Http1 {
    head: RequestHead,
    out: Vec<u8>,
    reader: ResponseReader,
    answer: Vec<u8>,
    body: Vec<u8>,
}

impl Http1 {
    fn new(answer: Vec<u8>) -> Self {
        Self {
            head: RequestHead::new(&dsp()),
            out: Vec::new(),
            reader: ResponseReader::default(),
            answer,
            body: Vec::new(),
        }
    }

    #[inline(never)]
    fn send(&mut self) {
        self.head.write(black_box(REQUEST_BYTES as usize), &mut self.out);
        black_box(&self.out);
    }

    #[inline(never)]
    fn receive(&mut self) {
        self.body.clear();
        let read = self.reader.read(&self.answer, &mut self.body, ANSWER_BYTES_MAX);
        assert!(matches!(read, Ok((_, Some(_)))));
        assert_eq!(self.body.len(), ANSWER_BYTES);
    }
}

fn by_length(head: &str) -> Vec<u8> {
    let body = "x".repeat(ANSWER_BYTES);
    format!("{head}content-length: {ANSWER_BYTES}\r\n\r\n{body}").into_bytes()
}

/// In two chunks, as a server does that begins to send before it knows the whole.
fn chunked(head: &str) -> Vec<u8> {
    let (first, rest) = (512, ANSWER_BYTES - 512);
    let (begins, ends) = ("x".repeat(first), "x".repeat(rest));
    format!(
        "{head}transfer-encoding: chunked\r\n\r\n{first:x}\r\n{begins}\r\n{rest:x}\r\n{ends}\r\n0\r\n\r\n"
    )
    .into_bytes()
}

fn dsp() -> DspOptions {
    DspOptions {
        name: "dsp1".to_owned(),
        target: Target {
            address: ([127, 0, 0, 1], 9001).into(),
            authority: "127.0.0.1:9001".to_owned(),
            path: "/bid".to_owned(),
        },
        protocol: Protocol::Http2,
        tls: None,
        timeout: Duration::from_millis(80),
        connections_max: 1,
        connections_warm: 0,
        response_bytes_max: 256 << 10,
        gzip: false,
        gate: corebid::fanout::GateOptions::default(),
    }
}
