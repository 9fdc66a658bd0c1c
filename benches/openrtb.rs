//! What reading, splicing and writing one document costs: `cargo bench --bench openrtb`.
//!
//! Takes real documents of the corpus in the sizes that matter.

#![allow(clippy::unwrap_used, reason = "a benchmark may stop")]

mod measure;

use bumpalo::Bump;
use corebid::openrtb::{Limits, Parser, Seat, Splice, Validation, Win, write_response};
use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};

fn main() {
    let bench = |name: &str, bytes: usize, call: &mut dyn FnMut()| {
        measure::bench(name, &format!("{bytes} bytes"), call);
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
        dsp: 0,
        seat: Seat::Name("dsp"),
        bid: bid.text(),
        price: "1.000001",
    };
    let mut out = Vec::new();
    bench("write_response", bid.raw.len(), &mut || {
        out.clear();
        write_response(&mut out, request.id_raw, "USD", black_box(&[win]));
    });
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
