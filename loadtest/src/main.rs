//! `corebid-loadtest`: see `--help`. Exit codes: 0 done, 1 failed, 2 bad usage.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corebid_loadtest::report::compare;
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
    // What each does is said where its arguments are.
    Run(Box<generate::Args>),
    Hold(Box<generate::hold::Args>),
    Dsps(Box<dsps::command::Args>),
    Compare(compare::Args),
}

fn main() -> ExitCode {
    ExitCode::from(match CommandLine::parse().command {
        Command::Run(args) => generate::run(&args),
        Command::Hold(args) => generate::hold::run(&args),
        Command::Dsps(args) => dsps::command::run(&args),
        Command::Compare(args) => compare::run(&args),
    })
}
