//! The `corebid` command line: see `--help`.

fn main() {}
