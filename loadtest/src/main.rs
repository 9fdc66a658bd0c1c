//! `corebid-loadtest`: see `--help`. Exit codes: 0 done, 1 failed, 2 bad usage.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corebid_loadtest::{dsps, generate};

/// Load tests an OpenRTB exchange: an open-loop SSP on one side, simulated DSPs on the other.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Send bid requests to an exchange and check what comes back
    Run(Box<generate::Args>),
    /// Be the DSPs
    Dsps(dsps::command::Args),
}

fn main() -> ExitCode {
    ExitCode::from(match CommandLine::parse().command {
        Command::Run(args) => generate::run(&args),
        Command::Dsps(args) => dsps::command::run(&args),
    })
}
