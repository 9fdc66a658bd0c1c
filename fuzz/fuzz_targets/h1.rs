//! See `targets::h1`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::h1::check(input));
