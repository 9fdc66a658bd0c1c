//! The `corebid` command line: see `--help`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use corebid::config::{self, Config};
use corebid::supervisor::{self, Ended, Prepared};

/// An OpenRTB ad exchange: one pinned executor per core, second-price auctions in typed money.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the exchange.
    Serve {
        /// The configuration (TOML); any value can be overridden by COREBID_SECTION__KEY in the environment.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only check the configuration, list everything that is wrong with it, and exit: 0 good, 2 not.
        #[arg(long)]
        check: bool,
    },
}

/// Bad usage or configuration; clap uses the same for the command line.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Serve { config, check } => serve(&config, check),
    }
}

#[expect(clippy::print_stdout, reason = "a check's verdict is its output")]
fn serve(path: &Path, check: bool) -> ExitCode {
    let (config, prepared) = match load(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if check {
        println!("{}: good; {} DSPs", path.display(), config.dsps().len());
        return ExitCode::SUCCESS;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let ended = supervisor::run(&prepared, |address| {
        tracing::info!(%address, dsps = config.dsps().len(), "ready");
    });
    match ended {
        Ok(Ended::Drained) => ExitCode::SUCCESS,
        Ok(Ended::AtOnce | Ended::GivenUp) => ExitCode::FAILURE,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            ExitCode::FAILURE
        }
    }
}

fn load(path: &Path) -> Result<(Config, Prepared), String> {
    let config = config::load(path, std::env::vars()).map_err(|problems| problems.to_string())?;
    let prepared = Prepared::new(&config).map_err(|errors| errors.to_string())?;
    Ok((config, prepared))
}
