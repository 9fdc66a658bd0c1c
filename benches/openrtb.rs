//! What reading, splicing and writing one document costs: `cargo bench --bench openrtb`.
//!
//! Takes real documents of the corpus in the sizes that matter and prints nanoseconds per call, the best of several
//! rounds: the code's own cost, without what else the machine did. `cargo test --benches` runs each once.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a benchmark reports to a terminal and may stop"
)]
#![allow(clippy::disallowed_methods, reason = "it measures time")]

use bumpalo::Bump;
use corebid::openrtb::{Limits, Parser, Seat, Splice, Validation, Win, write_response};
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Many short rounds: one of 200 calls fits between two interruptions even on a busy machine.
const ROUNDS: u32 = 200;
const CALLS_PER_ROUND: u32 = 200;

fn main() {
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let bench = |name: &str, bytes: usize, call: &mut dyn FnMut()| {
        let (rounds, calls) = if is_bench {
            (ROUNDS, CALLS_PER_ROUND)
        } else {
            (1, 1)
        };
        let ns = (0..rounds).map(|_| time(calls, call)).min().unwrap_or_default();
        println!("{name:28} {bytes:7} bytes {ns:8} ns");
    };
    let (mut parser, mut arena) = (Parser::new(Limits::default()), Bump::new());

    for bytes in [600, 1300, 2400, 7500] {
        let body = nearest("requests/valid", bytes);
        bench("parse_request", body.len(), &mut || {
            arena.reset();
            black_box(parser.parse_request(&body, &arena, &Validation::default())).unwrap();
        });
    }
    let body = nearest("requests/valid", 1300);
    let request_arena = Bump::new();
    let request = parser
        .parse_request(&body, &request_arena, &Validation::default())
        .unwrap();
    bench("splice", body.len(), &mut || {
        arena.reset();
        black_box(Splice::new(&request).encode(black_box(87), &arena));
    });

    for bytes in [300, 600, 2000] {
        let body = nearest("responses/valid", bytes);
        bench("parse_response", body.len(), &mut || {
            arena.reset();
            black_box(parser.parse_response(&body, &arena)).unwrap();
        });
    }
    // The longest that a document within the limits can hold a shard.
    let limits = Limits::default();
    let imps =
        (0..limits.imps_max).map(|id| format!(r#"{{"id":"{id:0>1000}","banner":{{"w":300,"h":250}}}}"#));
    let body = format!(r#"{{"id":"r","imp":[{}]}}"#, imps.collect::<Vec<_>>().join(",")).into_bytes();
    bench("parse_request, most imps", body.len(), &mut || {
        arena.reset();
        black_box(parser.parse_request(&body, &arena, &Validation::default())).unwrap();
    });
    let bid = format!(
        r#"{{"id":"1","impid":"1","price":1.25,"adm":"{}","adomain":["a.com"]}}"#,
        "x".repeat(200)
    );
    let bids = vec![bid; limits.bids_max].join(",");
    let body = format!(r#"{{"id":"r","seatbid":[{{"bid":[{bids}]}}]}}"#).into_bytes();
    bench("parse_response, most bids", body.len(), &mut || {
        arena.reset();
        black_box(parser.parse_response(&body, &arena)).unwrap();
    });

    let body = nearest("responses/valid", 600);
    let response = parser.parse_response(&body, &request_arena).unwrap();
    let (_, bid) = response.bids().next().unwrap();
    let win = Win {
        seat: Seat::Name("dsp"),
        bid,
        price: "1.000001",
    };
    let mut out = Vec::new();
    bench("write_response", bid.raw.len(), &mut || {
        out.clear();
        write_response(&mut out, request.id_raw, "USD", black_box(&[win]));
    });
}

fn time(calls: u32, call: &mut dyn FnMut()) -> u128 {
    let start = Instant::now();
    for _ in 0..calls {
        call();
    }
    start.elapsed().as_nanos() / u128::from(calls)
}

/// The document of the corpus whose size is nearest.
fn nearest(folder: &str, bytes: u64) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(folder);
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let distance = |path: &PathBuf| fs::metadata(path).unwrap().len().abs_diff(bytes);
    let best = paths.min_by_key(|path| (distance(path), path.clone())).unwrap();
    fs::read(best).unwrap()
}
