//! See `targets::hpack`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::hpack::check(input));
