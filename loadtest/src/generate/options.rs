//! What a run is asked to do: as written (command line and scenario file, everything optional), and as
//! checked.

use super::schedule::Arrivals;
use crate::oracle::{Limits, Rules};
use crate::report::{FailArgs, OutputArgs, OutputOptions};
use crate::scenario::{
    BidRequestArgs, BidRequests, Defaults, DspArgs, ExchangeArgs, PhaseFile, RunArgs, Scenario, seconds,
    within,
};
use crate::simulated::{Phases, Profile};
use serde::Serialize;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

/// Sends bid requests to an exchange at a fixed rate, whatever it answers, and checks every answer.
///
/// The load is open: arrivals are scheduled before the run, latency counts from the moment a request was
/// meant to be sent, and a server that stalls is charged for every request meant to be sent meanwhile.
///
/// The exchange under test must ask simulated DSPs of the same profile (`corebid-loadtest dsps` with equal
/// --seed, --count, --median-ms, --sigma, --bid-share, --scale-latency, or with the same --scenario) and sell by
/// the same rules (--floor-rule, --increment-micros, --deadline-ms, --dsp-timeout-ms): the oracle works out each
/// winner and price from them.
///
/// Latency is reported beside service time (from the actual sending, which forgives a server that stalls), and
/// beside how late this generator itself was: a generator that was the limit says so.
///
/// Exits with 0 when every answer in the measured window was right and every --fail-... limit was kept, 1 when any
/// was wrong, lost or refused or a limit was passed, 2 on bad usage.
#[derive(Clone, Debug, Default, PartialEq, clap::Args)]
// Of an option given twice the last counts, so that a script's own can be overruled by its caller's.
#[command(args_override_self = true)]
pub struct Args {
    /// How to send.
    #[command(flatten)]
    pub run: RunArgs,
    /// Process to account for: CPU per orchestration, time spent waiting for a CPU, peak memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// TOML file: sections run, bid_requests, dsps, exchange and fail with the same keys (snake_case), and a list of
    /// phases; what the command line says wins
    #[arg(long, value_name = "FILE")]
    pub scenario: Option<PathBuf>,
    /// What to send.
    #[command(flatten)]
    pub bid_requests: BidRequestArgs,
    /// What the DSPs answer.
    #[command(flatten)]
    pub dsps: DspArgs,
    /// What the exchange makes of it.
    #[command(flatten)]
    pub exchange: ExchangeArgs,
    /// Where the report goes.
    #[command(flatten)]
    pub output: OutputArgs,
    /// When it fails.
    #[command(flatten)]
    pub fail: FailArgs,
}

/// A run that makes sense.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) load: Load,
    pub(crate) server_pid: Option<u32>,
    pub(crate) output: OutputOptions,
}

/// What is sent where, and what is expected of it.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) target: Target,
    pub(crate) rate: f64,
    pub(crate) phases: Phases,
    pub(crate) protocol: Protocol,
    pub(crate) arrivals: Arrivals,
    pub(crate) timeout: Duration,
    pub(crate) bid_requests: BidRequests,
    pub(crate) profile: Profile,
    pub(crate) rules: Rules,
    pub(crate) limits: Limits,
}

/// An HTTP endpoint without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    pub(crate) authority: String,
    pub(crate) path: String,
}

/// How to talk to it, and over how many connections at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Protocol {
    H1 { connections: usize },
    H2 { connections: usize },
}

impl Args {
    /// Reads the scenario file if one is named, fills the gaps with defaults and checks the whole.
    ///
    /// # Errors
    /// A sentence for whoever typed it.
    pub fn check(&self) -> Result<Options, String> {
        let file = Scenario::read(self.scenario.as_deref())?;
        let run = self.run.over(&file.run);
        let exchange = self.exchange.over(&file.exchange);
        let bid_requests = self.bid_requests.over(&file.bid_requests).check(Defaults::RUN)?;
        let profile = self.dsps.over(&file.dsps).check()?;
        Ok(Options {
            load: Load {
                target: target(run.target.as_deref())?,
                rate: rate("rate", run.rate.ok_or("--rate is required: requests per second")?)?,
                phases: phases(&run, &file.phase, profile.count)?,
                protocol: protocol(&run)?,
                arrivals: run.arrivals.unwrap_or(Arrivals::Poisson),
                timeout: timeout(run.timeout_ms.unwrap_or(2000))?,
                limits: exchange.limits(bid_requests.tmax_ms, Defaults::RUN)?,
                rules: exchange.rules(),
                bid_requests,
                profile,
            },
            server_pid: self.server_pid,
            output: self
                .output
                .check(self.fail.over(&file.fail), self.scenario.as_deref())?,
        })
    }
}

fn phases(run: &RunArgs, files: &[PhaseFile], count: u16) -> Result<Phases, String> {
    let warmup = seconds("warmup", run.warmup.unwrap_or(5.0), 0.0)?;
    let marked = PhaseFile::check_all(files, warmup, run.duration, count)?;
    let single = || seconds("duration", run.duration.unwrap_or(30.0), 0.1).map(|s| Phases::single(warmup, s));
    marked.map_or_else(single, Ok)
}

fn protocol(run: &RunArgs) -> Result<Protocol, String> {
    match (run.connections, run.h2_connections) {
        (Some(_), Some(_)) => Err("connections and h2_connections exclude each other".to_owned()),
        (None, Some(n)) => h2(n),
        (h1, None) => {
            let connections = within("connections", h1.unwrap_or(1000), 1, CONNECTIONS_MAX)?;
            Ok(Protocol::H1 { connections })
        }
    }
}

pub(super) fn h2(connections: usize) -> Result<Protocol, String> {
    Ok(Protocol::H2 {
        connections: within("h2-connections", connections, 1, CONNECTIONS_MAX)?,
    })
}

pub(super) fn target(url: Option<&str>) -> Result<Target, String> {
    Target::parse(url.ok_or("--target is required: where to send")?)
}

pub(super) fn rate(name: &str, rate: f64) -> Result<f64, String> {
    within(name, rate, 0.001, RATE_MAX)
}

pub(super) fn timeout(ms: u64) -> Result<Duration, String> {
    within("timeout-ms", ms, 1, TIMEOUT_MS_MAX).map(Duration::from_millis)
}

/// One thread sends a request in about 3 us and checks its answer in 6; asking for more than a million a
/// second is a typo.
const RATE_MAX: f64 = 1e6;
/// An IPv4 client address has 65,535 ports, and fewer that may be used.
const CONNECTIONS_MAX: usize = 60_000;
/// Half an hour: the histograms of latency end at an hour.
const TIMEOUT_MS_MAX: u64 = 1_800_000;

impl Target {
    pub(crate) fn parse(url: &str) -> Result<Target, String> {
        let rest = url
            .strip_prefix("http://")
            .ok_or_else(|| format!("{url}: only http:// is spoken here"))?;
        let (authority, path) = match rest.find('/') {
            Some(slash) => rest.split_at(slash),
            None => (rest, "/"),
        };
        let path = if path == "/" { "/openrtb2/auction" } else { path };
        let resolvable = if authority
            .rsplit(']')
            .next()
            .is_some_and(|rest| rest.contains(':'))
        {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let mut addresses = resolvable
            .to_socket_addrs()
            .map_err(|error| format!("{url}: {error}"))?;
        let address = addresses.next().ok_or_else(|| format!("{url}: no address"))?;
        Ok(Target {
            address,
            authority: authority.to_owned(),
            path: path.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oracle::FloorRule;

    fn check(run: RunArgs) -> Result<Load, String> {
        let args = Args {
            run,
            ..Args::default()
        };
        args.check().map(|options| options.load)
    }

    fn minimal() -> RunArgs {
        RunArgs {
            target: Some("http://127.0.0.1:8080".to_owned()),
            rate: Some(10.0),
            ..RunArgs::default()
        }
    }

    #[test]
    fn target_and_rate_are_required_and_the_rest_has_defaults() {
        let without = |change: fn(&mut RunArgs)| {
            let mut run = minimal();
            change(&mut run);
            check(run).unwrap_err()
        };
        assert!(without(|run| run.rate = None).contains("--rate"));
        assert!(without(|run| run.target = None).contains("--target"));
        let load = check(minimal()).unwrap();
        assert_eq!(load.target.path, "/openrtb2/auction");
        assert_eq!(load.limits.deadline, Duration::from_millis(90));
        assert_eq!(load.protocol, Protocol::H1 { connections: 1000 });
        assert_eq!(load.phases.warmup(), Duration::from_secs(5));
        assert_eq!(load.phases.end(), Duration::from_secs(35));
    }

    #[test]
    fn of_an_option_given_twice_the_last_counts() {
        use clap::Args as _;
        let command = Args::augment_args(clap::Command::new("run"));
        let typed = ["run", "--floor-rule", "above", "--floor-rule", "at_or_above"];
        let matches = command.try_get_matches_from(typed).unwrap();
        assert_eq!(
            matches.get_one::<FloorRule>("floor_rule"),
            Some(&FloorRule::AtOrAbove)
        );
    }

    #[test]
    fn nonsense_is_refused() {
        let refused = |change: fn(&mut RunArgs)| {
            let mut run = minimal();
            change(&mut run);
            assert!(check(run.clone()).is_err(), "{run:?}");
        };
        refused(|run| run.rate = Some(f64::NAN));
        refused(|run| run.rate = Some(0.0));
        refused(|run| run.duration = Some(0.05));
        refused(|run| run.connections = Some(0));
        refused(|run| run.timeout_ms = Some(TIMEOUT_MS_MAX + 1));
        refused(|run| run.target = Some("https://localhost".to_owned()));
        refused(|run| (run.connections, run.h2_connections) = (Some(1), Some(1)));
    }
}
