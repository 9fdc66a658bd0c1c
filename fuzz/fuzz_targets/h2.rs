//! See `targets::h2`.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| targets::h2::check(input));
