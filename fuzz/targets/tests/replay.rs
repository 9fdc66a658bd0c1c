//! Every committed input through its target once, without a fuzzer: what fuzzing has found stays found, and neither the
//! targets nor the corpora can rot.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test that cannot go on should stop where it is"
)]

use std::fs;
use std::path::Path;

use targets::TARGETS;

#[test]
fn every_committed_input() {
    let corpora = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus");
    for (name, target) in TARGETS {
        let mut inputs = 0;
        for entry in fs::read_dir(corpora.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let input = fs::read(&path).unwrap();
            std::panic::catch_unwind(|| target(&input)).unwrap_or_else(|_| panic!("{}", path.display()));
            inputs += 1;
        }
        assert!(inputs > 10, "the corpus of {name} is not there");
    }
}

#[test]
fn nothing_at_all() {
    for (_, target) in TARGETS {
        target(&[]);
    }
}
