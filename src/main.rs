//! The `corebid` command line: see `--help`.

mod capacity;
mod demo;
mod doctor;

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};
use corebid::config::{self, Config, LogFormat, LogLevel, LogOptions};
use corebid::logs::{self, Log};
use corebid::report;
use corebid::supervisor::{self, Again, Ended, Inheritance, Prepared};

use doctor::{Host, Needs};

/// Instead of the system's: less work for each allocation, and memory that was freed is kept for the next burst
/// (`docs/decisions/0034`).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// An OpenRTB ad exchange: one pinned executor per core, second-price auctions in typed money.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 110)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the exchange in front of 23 simulated DSPs, and print a request to try.
    ///
    /// Listens on 127.0.0.1:8080 for bid requests and on 127.0.0.1:9090 for operators; COREBID_SERVER__LISTEN and
    /// COREBID_SERVER__ADMIN in the environment change that.
    Demo,
    /// Run the exchange.
    ///
    /// SIGTERM and SIGINT drain it: /readyz answers 503, no more connections are taken, what is in flight is finished
    /// within server.drain_ms. A second one ends it at once. SIGHUP, or POST /reload on the admin port, has it read its
    /// configuration again and go on by it, without losing a request; one that is wrong changes nothing. SIGUSR2 hands over
    /// to a new process of the same command line: it reads its configuration and takes over the sockets, this one finishes
    /// what is in flight and ends.
    Serve {
        /// The configuration (TOML); any value can be overridden by COREBID_SECTION__KEY in the environment.
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
        /// Only check the configuration, list everything that is wrong with it, and exit: 0 good, 2 not.
        #[arg(long)]
        check: bool,
    },
    /// Say what of this host falls short of what a configuration needs, and the command that would mend it.
    ///
    /// Looks and changes nothing. Exits with 1 if anything falls short. The host is tuned by tuning/tune.
    Doctor {
        /// The configuration that is to run here; without one, what the demo would need.
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
    },
    /// Work out how many cores, how much memory, how many files and how much bandwidth a rate needs.
    Capacity(capacity::Load),
    /// What an event log tells, by DSP: calls, bids, wins, latency, revenue, and what its timeout costs.
    ///
    /// The log is what `serve` writes with events.file in its configuration.
    Report {
        /// The log's files; in a file's name `*` is any text.
        #[arg(long, value_name = "GLOB", num_args = 1.., default_value = EVENTS)]
        events: Vec<PathBuf>,
        /// For programs: all decimals, and lateness not added up.
        #[arg(long)]
        json: bool,
    },
}

/// What `events.file` and its rotations are called, if it is called as in the documentation.
const EVENTS: &str = "events*.ndjson";

/// Bad usage or configuration; clap uses the same for the command line.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo => demo::run(),
        Command::Serve { config, check } => serve(&config, check),
        Command::Doctor { config } => doctor(config.as_deref()),
        Command::Capacity(load) => capacity(&load),
        Command::Report { events, json } => report(&events, json),
    }
}

#[expect(clippy::print_stdout, reason = "a check's verdict is its output")]
fn serve(path: &Path, check: bool) -> ExitCode {
    let inheritance = match Inheritance::from_environment() {
        Ok(inheritance) => inheritance,
        Err(error) => {
            eprintln!("cannot take over: {error}");
            return ExitCode::FAILURE;
        }
    };
    let (config, prepared) = match load(path) {
        Ok(loaded) => loaded,
        Err(problems) => {
            eprintln!("{problems}");
            if let Some(inheritance) = inheritance {
                inheritance.refuse(&problems);
            }
            return ExitCode::from(EXIT_USAGE);
        }
    };
    if check {
        println!("{}: good; {} DSPs", path.display(), config.dsps().len());
        return ExitCode::SUCCESS;
    }
    let log = match start_log(config.log()) {
        Ok(log) => log,
        Err(error) => return exit_code(Err(error)),
    };
    let switch = log.switch();
    let again = Again {
        read: Arc::new({
            let path = path.to_owned();
            move || read(&path)
        }),
        follow_log: Box::new(move |options| switch.to(log_options(options))),
    };
    exit_code(supervisor::run(prepared, Some(again), inheritance, |addresses| {
        tracing::info!(
            listen = %addresses.main,
            admin = %addresses.admin,
            shards = addresses.shards,
            dsps = config.dsps().len(),
            "ready"
        );
    }))
}

#[expect(clippy::print_stdout, reason = "what was found is its output")]
fn doctor(config: Option<&Path>) -> ExitCode {
    let host = Host::this();
    let needs = match config.map(read) {
        None => Needs::of_the_demo(host.cores()),
        Some(Ok(config)) => Needs::of(&config, host.cores()),
        Some(Err(problems)) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let findings = doctor::examine(&host, &needs);
    findings.iter().for_each(|finding| println!("{finding}"));
    match findings.iter().filter(|finding| finding.is_short()).count() {
        0 => ExitCode::SUCCESS,
        count => {
            println!("\n{count} of {} fall short", findings.len());
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "the calculation is its output")]
fn capacity(load: &capacity::Load) -> ExitCode {
    match capacity::report(load) {
        Ok(text) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            eprintln!("{problem}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

#[expect(clippy::print_stdout, reason = "a report is its output")]
fn report(patterns: &[PathBuf], json: bool) -> ExitCode {
    let text = report::of_files(patterns).and_then(|report| {
        if json {
            report.to_json().map_err(io::Error::other)
        } else {
            Ok(report.to_string())
        }
    });
    match text {
        Ok(text) => {
            println!("{}", text.trim_end());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn load(path: &Path) -> Result<(Config, Prepared), String> {
    let config = read(path)?;
    let prepared = Prepared::new(&config).map_err(|errors| errors.to_string())?;
    Ok((config, prepared))
}

fn read(path: &Path) -> Result<Config, String> {
    config::load(path, environment()).map_err(|problems| problems.to_string())
}

/// The environment's variables that are text; ours are.
fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Logs go to standard error: standard output belongs to what a command prints.
fn start_log(options: LogOptions) -> io::Result<Log> {
    logs::start(log_options(options))
}

fn log_options(LogOptions { level, format }: LogOptions) -> logs::Options {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    logs::Options {
        level,
        json: format == LogFormat::Json,
    }
}

fn exit_code(ended: io::Result<Ended>) -> ExitCode {
    match ended {
        Ok(Ended::Drained | Ended::HandedOver) => ExitCode::SUCCESS,
        Ok(Ended::AtOnce | Ended::GivenUp) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("cannot start: {error}");
            ExitCode::FAILURE
        }
    }
}
