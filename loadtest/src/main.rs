//! `corebid-loadtest`: see `--help`.

fn main() {}
