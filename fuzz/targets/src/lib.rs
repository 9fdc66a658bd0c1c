//! What the fuzzers run: for each reader of bytes that others send, one function that feeds it any bytes and panics when
//! it is wrong. Wrong is to panic, to disagree with a slow twin, to read the same bytes in two ways, or to take more
//! memory than its bound.
//!
//! Three callers share them: libFuzzer (`fuzz/fuzz_targets`), a replay of the committed corpora on every `cargo test`
//! (`tests/replay.rs`), and property tests whose documents are made up (`tests/openrtb_differential.rs` of the exchange).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a panic is how a target says that something is wrong"
)]

mod chance;
pub mod config;
pub mod decimal;
pub mod h1;
pub mod h2;
mod heap;
pub mod hpack;
pub mod json;
pub mod request;
pub mod response;

/// A target.
pub type Target = fn(&[u8]);

/// All of them, by the names of their fuzzers and corpora.
pub const TARGETS: [(&str, Target); 7] = [
    ("config", config::check),
    ("decimal", decimal::check),
    ("h1", h1::check),
    ("h2", h2::check),
    ("hpack", hpack::check),
    ("request", request::check),
    ("response", response::check),
];
