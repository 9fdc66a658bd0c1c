//! `corebid demo`: the main job with nothing else installed. 23 simulated DSPs on sockets of this process, the exchange
//! in front of them by the reference profile, and a curl command to try.

use std::process::ExitCode;

use corebid::config;
use corebid::supervisor::{self, Addresses, Prepared};
use corebid_loadtest::dsps::{self, Dsps};

use crate::{EXIT_USAGE, exit_code, start_log};

const PROFILE: &str = include_str!("../profiles/reference.toml");

/// A bid request that the reference profile accepts: device and user are there, the floor is one that some of the
/// simulated bids do not reach.
const BID_REQUEST: &str = r#"{"id":"demo-1","imp":[{"id":"1","banner":{"w":300,"h":250},"bidfloor":0.5}],"site":{"page":"https://example.com/"},"device":{"ua":"Mozilla/5.0","ip":"192.0.2.1"},"user":{"id":"u1"},"tmax":100}"#;

pub(crate) fn run() -> ExitCode {
    let quiet = config::LogOptions {
        level: config::LogLevel::Warn,
        format: config::LogFormat::Text,
    };
    let _log = match start_log(quiet) {
        Ok(log) => log,
        Err(error) => return exit_code(Err(error)),
    };
    let dsps = match Dsps::start(dsps::Options::default()) {
        Ok(dsps) => dsps,
        Err(error) => {
            eprintln!("cannot start the simulated DSPs: {error}");
            return ExitCode::FAILURE;
        }
    };
    let prepared = match prepare(&dsps) {
        Ok(prepared) => prepared,
        Err(problems) => {
            eprintln!("{problems}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    exit_code(supervisor::run(prepared, None, None, |addresses| {
        welcome(&dsps, addresses);
    }))
}

/// The reference profile with its DSPs at the ports that the simulated ones have; what the user set in the environment
/// goes before that.
fn prepare(dsps: &Dsps) -> Result<Prepared, String> {
    let endpoints = (1..).zip(dsps.ports()).map(|(number, port)| {
        (
            format!("COREBID_DSP__DSP{number}__ENDPOINT"),
            format!("http://127.0.0.1:{port}/bid"),
        )
    });
    let environment = endpoints.chain(crate::environment());
    let unread = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let config = config::check("profiles/reference.toml", PROFILE, environment, &unread)
        .map_err(|problems| problems.to_string())?;
    Prepared::new(&config).map_err(|errors| errors.to_string())
}

#[expect(clippy::print_stdout, reason = "this is what the demo is for")]
fn welcome(dsps: &Dsps, addresses: Addresses) {
    let Addresses { main, admin, shards } = addresses;
    println!(
        "corebid {version} is ready: {count} simulated DSPs, {shards} shard{s}, bid requests on {main}, admin on {admin}\n\n\
         Try it:\n\n  \
         curl -i http://{main}/openrtb2/auction -d '{BID_REQUEST}'\n\n\
         Then look at http://{admin}/ and http://{admin}/metrics. Ctrl-C ends it.",
        version = env!("CARGO_PKG_VERSION"),
        count = dsps.ports().len(),
        s = if shards == 1 { "" } else { "s" },
    );
}
