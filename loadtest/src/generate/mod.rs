//! The generator (`corebid-loadtest run`). A stand-in so that this branch compiles; the generator's own
//! branch replaces it.

/// Command line of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the load and returns the process's exit code: 0 done, 1 failed, 2 bad usage.
pub fn run(_args: &Args) -> u8 {
    2
}
