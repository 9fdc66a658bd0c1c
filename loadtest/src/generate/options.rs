//! What a run is asked to do: as written (command line and scenario file, everything optional), and as
//! checked.

use super::schedule::Arrivals;
use crate::oracle::{FloorRule, Limits, Rules};
use crate::simulated::Profile;
use serde::{Deserialize, Serialize};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sends bid requests to an exchange at a fixed rate, whatever it answers, and checks every answer.
///
/// The load is open: arrivals are scheduled before the run, latency counts from the moment a request was
/// meant to be sent, and a server that stalls is charged for every request meant to be sent meanwhile.
///
/// The exchange under test must ask simulated DSPs of the same profile (`corebid-loadtest dsps` with equal
/// --seed, --count, --median-ms, --sigma, --bid-share, --scale-latency) and sell by the same rules
/// (--floor-rule, --increment-micros, --deadline-ms, --dsp-timeout-ms): the oracle works out each winner and
/// price from them.
///
/// Exits with 0 when every answer in the measured window was right, 1 when any was wrong, lost or refused, 2
/// on bad usage.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
// Of an option given twice the last counts, so that a script's own can be overruled by its caller's.
#[command(args_override_self = true)]
pub struct Args {
    /// Where to post: http://host:port or http://host:port/path [default path: /openrtb2/auction]
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Requests per second, on average. Required
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Length of the measured window in seconds [default: 30]
    #[arg(long, value_name = "S")]
    pub duration: Option<f64>,
    /// Seconds of the same load before it, checked but not measured [default: 5]
    #[arg(long, value_name = "S")]
    pub warmup: Option<f64>,
    /// Most HTTP/1.1 connections to open; each is opened only when all others are busy [default: 1000]
    #[arg(long, value_name = "N", conflicts_with = "h2_connections")]
    pub connections: Option<usize>,
    /// Use HTTP/2 (prior knowledge) with this many connections instead
    #[arg(long, value_name = "N")]
    pub h2_connections: Option<usize>,
    /// Spacing of the arrivals [default: poisson]
    #[arg(long, value_enum, value_name = "KIND")]
    pub arrivals: Option<Arrivals>,
    /// Give up on a request after this long; it counts as an error and in the latency at this value [default:
    /// 2000]
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
    /// Process to account for: CPU per orchestration, time spent waiting for a CPU, peak memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    #[serde(skip)]
    pub json: bool,
    /// TOML file with the same keys (snake_case); what the command line says wins
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub scenario: Option<PathBuf>,

    /// Size of a bid request in bytes, unless its imps alone need more [default: 1300]
    #[arg(long, value_name = "N", help_heading = "Bid requests")]
    pub body_bytes: Option<usize>,
    /// Imps per bid request, 1 to 200 [default: 1]
    #[arg(long, value_name = "N", help_heading = "Bid requests")]
    pub imps: Option<usize>,
    /// tmax of every bid request [default: 100]
    #[arg(long, value_name = "MS", help_heading = "Bid requests")]
    pub tmax: Option<u64>,

    /// Seeds the schedule, the bodies and the DSPs' behaviour [default: 1]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Simulated DSPs (equal to the simulator's)"
    )]
    pub seed: Option<u64>,
    /// Number of DSPs [default: 23]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Simulated DSPs (equal to the simulator's)"
    )]
    pub count: Option<u16>,
    /// Median latency of a DSP [default: 12.8]
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Simulated DSPs (equal to the simulator's)"
    )]
    pub median_ms: Option<f64>,
    /// Sigma of the lognormal latency [default: 0.519]
    #[arg(
        long,
        value_name = "X",
        help_heading = "Simulated DSPs (equal to the simulator's)"
    )]
    pub sigma: Option<f64>,
    /// Share of imps a DSP bids on, 0 to 1 [default: 0.7]
    #[arg(
        long,
        value_name = "X",
        help_heading = "Simulated DSPs (equal to the simulator's)"
    )]
    pub bid_share: Option<f64>,
    /// Factor on every DSP latency [default: 1]
    #[arg(
        long,
        value_name = "X",
        help_heading = "Simulated DSPs (equal to the simulator's)"
    )]
    pub scale_latency: Option<f64>,

    /// The exchange's cap on its own deadline, from arrival [default: 90]
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub deadline_ms: Option<u64>,
    /// What the exchange keeps back from tmax [default: 10]
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub tmax_margin_ms: Option<u64>,
    /// The exchange's timeout for one DSP [default: 80]
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub dsp_timeout_ms: Option<u64>,
    /// Whether a bid at the floor may win [default: at_or_above]
    #[arg(
        long,
        value_enum,
        value_name = "RULE",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub floor_rule: Option<FloorRule>,
    /// What the winner pays above the runner-up or the floor [default: 1]
    #[arg(
        long,
        value_name = "N",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub increment_micros: Option<u64>,
    /// A DSP answer due this long before the cut may be missing without the answer being wrong [default: 15]
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub grey_ms: Option<f64>,
    /// A DSP answer due up to this long after the cut may still have counted [default: 2]
    #[arg(
        long,
        value_name = "MS",
        help_heading = "Rules of the exchange (equal to its configuration)"
    )]
    pub grey_after_ms: Option<f64>,
}

/// A run that makes sense.
#[derive(Clone, Debug)]
pub struct Options {
    pub(crate) target: Target,
    pub(crate) rate: f64,
    pub(crate) duration: Duration,
    pub(crate) warmup: Duration,
    pub(crate) protocol: Protocol,
    pub(crate) arrivals: Arrivals,
    pub(crate) timeout: Duration,
    pub(crate) server_pid: Option<u32>,
    pub(crate) json: bool,
    pub(crate) body_bytes: usize,
    pub(crate) imps: usize,
    pub(crate) tmax_ms: u64,
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
        match &self.scenario {
            Some(path) => self.over(&Args::from_file(path)?).check_values(),
            None => self.check_values(),
        }
    }

    fn from_file(path: &Path) -> Result<Args, String> {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        toml::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// This, and where it says nothing, `under`. Of the two ways to connect, one given here hides both of
    /// `under`.
    fn over(&self, under: &Args) -> Args {
        let connects = self.connections.is_some() || self.h2_connections.is_some();
        let (connections, h2_connections) = if connects {
            (self.connections, self.h2_connections)
        } else {
            (under.connections, under.h2_connections)
        };
        Args {
            target: self.target.clone().or_else(|| under.target.clone()),
            rate: self.rate.or(under.rate),
            duration: self.duration.or(under.duration),
            warmup: self.warmup.or(under.warmup),
            connections,
            h2_connections,
            arrivals: self.arrivals.or(under.arrivals),
            timeout_ms: self.timeout_ms.or(under.timeout_ms),
            server_pid: self.server_pid.or(under.server_pid),
            json: self.json,
            scenario: self.scenario.clone(),
            body_bytes: self.body_bytes.or(under.body_bytes),
            imps: self.imps.or(under.imps),
            tmax: self.tmax.or(under.tmax),
            seed: self.seed.or(under.seed),
            count: self.count.or(under.count),
            median_ms: self.median_ms.or(under.median_ms),
            sigma: self.sigma.or(under.sigma),
            bid_share: self.bid_share.or(under.bid_share),
            scale_latency: self.scale_latency.or(under.scale_latency),
            deadline_ms: self.deadline_ms.or(under.deadline_ms),
            tmax_margin_ms: self.tmax_margin_ms.or(under.tmax_margin_ms),
            dsp_timeout_ms: self.dsp_timeout_ms.or(under.dsp_timeout_ms),
            floor_rule: self.floor_rule.or(under.floor_rule),
            increment_micros: self.increment_micros.or(under.increment_micros),
            grey_ms: self.grey_ms.or(under.grey_ms),
            grey_after_ms: self.grey_after_ms.or(under.grey_after_ms),
        }
    }

    fn check_values(&self) -> Result<Options, String> {
        let imps = within("imps", self.imps.unwrap_or(1), 1, IMPS_MAX)?;
        let tmax_ms = self.tmax.unwrap_or(100);
        let budget_ms = tmax_ms.saturating_sub(self.tmax_margin_ms.unwrap_or(10));
        let deadline_ms = self.deadline_ms.unwrap_or(90).min(budget_ms);
        Ok(Options {
            target: Target::parse(
                self.target
                    .as_deref()
                    .ok_or("--target is required: where to send")?,
            )?,
            rate: within(
                "rate",
                self.rate.ok_or("--rate is required: requests per second")?,
                0.001,
                RATE_MAX,
            )?,
            duration: seconds("duration", self.duration.unwrap_or(30.0), 0.1)?,
            warmup: seconds("warmup", self.warmup.unwrap_or(5.0), 0.0)?,
            protocol: self.protocol()?,
            arrivals: self.arrivals.unwrap_or(Arrivals::Poisson),
            timeout: Duration::from_millis(within(
                "timeout-ms",
                self.timeout_ms.unwrap_or(2000),
                1,
                600_000,
            )?),
            server_pid: self.server_pid,
            json: self.json,
            body_bytes: within("body-bytes", self.body_bytes.unwrap_or(1300), 0, BODY_BYTES_MAX)?,
            imps,
            tmax_ms,
            profile: self.profile()?,
            rules: Rules {
                floor_rule: self.floor_rule.unwrap_or(FloorRule::AtOrAbove),
                increment_micros: self.increment_micros.unwrap_or(1),
            },
            limits: Limits {
                dsp_timeout: Duration::from_millis(self.dsp_timeout_ms.unwrap_or(80)),
                deadline: Duration::from_millis(deadline_ms),
                grey: millis("grey-ms", self.grey_ms.unwrap_or(15.0))?,
                grey_after: millis("grey-after-ms", self.grey_after_ms.unwrap_or(2.0))?,
            },
        })
    }

    fn protocol(&self) -> Result<Protocol, String> {
        match (self.connections, self.h2_connections) {
            (Some(_), Some(_)) => Err("connections and h2_connections exclude each other".to_owned()),
            (None, Some(n)) => Ok(Protocol::H2 {
                connections: within("h2-connections", n, 1, CONNECTIONS_MAX)?,
            }),
            (h1, None) => {
                let connections = within("connections", h1.unwrap_or(1000), 1, CONNECTIONS_MAX)?;
                Ok(Protocol::H1 { connections })
            }
        }
    }

    fn profile(&self) -> Result<Profile, String> {
        let base = Profile::default();
        Ok(Profile {
            seed: self.seed.unwrap_or(base.seed),
            count: within("count", self.count.unwrap_or(base.count), 1, 10_000)?,
            median_ms: within("median-ms", self.median_ms.unwrap_or(base.median_ms), 0.0, 1e6)?,
            sigma: within("sigma", self.sigma.unwrap_or(base.sigma), 0.0, 10.0)?,
            bid_share: within("bid-share", self.bid_share.unwrap_or(base.bid_share), 0.0, 1.0)?,
            scale_latency: within(
                "scale-latency",
                self.scale_latency.unwrap_or(base.scale_latency),
                0.0,
                1e6,
            )?,
        })
    }
}

/// Draws are numbered in a byte, of which two are taken (see `Bodies::draw`); 200 is more than any SSP offers
/// at once.
const IMPS_MAX: usize = 200;
/// One thread sends a request in about 3 us and checks its answer in 6; asking for more than a million a
/// second is a typo.
const RATE_MAX: f64 = 1e6;
/// The exchange refuses bodies over 256 KiB by default; 4 MiB leaves room to test that it does.
const BODY_BYTES_MAX: usize = 4 << 20;
/// An IPv4 client address has 65,535 ports, and fewer that may be used.
const CONNECTIONS_MAX: usize = 60_000;

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

fn within<T: Copy + PartialOrd + std::fmt::Display>(
    name: &str,
    value: T,
    min: T,
    max: T,
) -> Result<T, String> {
    // Written so that a NaN is refused.
    if value >= min && value <= max {
        Ok(value)
    } else {
        Err(format!("{name} {value} is not within {min} to {max}"))
    }
}

fn seconds(name: &str, value: f64, min: f64) -> Result<Duration, String> {
    within(name, value, min, 1e6).map(Duration::from_secs_f64)
}

fn millis(name: &str, value: f64) -> Result<Duration, String> {
    within(name, value, 0.0, 1e6).map(|value| Duration::from_secs_f64(value / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Args {
        Args {
            target: Some("http://127.0.0.1:8080".to_owned()),
            rate: Some(10.0),
            ..Args::default()
        }
    }

    #[test]
    fn target_and_rate_are_required_and_the_rest_has_defaults() {
        assert!(
            Args {
                rate: None,
                ..minimal()
            }
            .check()
            .unwrap_err()
            .contains("--rate")
        );
        assert!(
            Args {
                target: None,
                ..minimal()
            }
            .check()
            .unwrap_err()
            .contains("--target")
        );
        let options = minimal().check().unwrap();
        assert_eq!(options.target.path, "/openrtb2/auction");
        assert_eq!(options.limits.deadline, Duration::from_millis(90));
        assert_eq!(options.protocol, Protocol::H1 { connections: 1000 });
    }

    #[test]
    fn the_deadline_is_the_smaller_of_cap_and_tmax_less_margin() {
        let options = Args {
            tmax: Some(60),
            ..minimal()
        }
        .check()
        .unwrap();
        assert_eq!(options.limits.deadline, Duration::from_millis(50));
    }

    #[test]
    fn the_command_line_wins_over_the_scenario() {
        let file: Args = toml::from_str("rate = 500\nsigma = 0.3\nh2_connections = 4").unwrap();
        let merged = minimal().over(&file);
        assert_eq!(
            (merged.rate, merged.sigma, merged.h2_connections),
            (Some(10.0), Some(0.3), Some(4))
        );
        let merged = Args {
            connections: Some(9),
            ..minimal()
        }
        .over(&file);
        assert_eq!(merged.protocol(), Ok(Protocol::H1 { connections: 9 }));
        assert!(
            toml::from_str::<Args>("rates = 500").is_err(),
            "unknown keys are errors"
        );
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
        for args in [
            Args {
                rate: Some(f64::NAN),
                ..minimal()
            },
            Args {
                rate: Some(0.0),
                ..minimal()
            },
            Args {
                imps: Some(0),
                ..minimal()
            },
            Args {
                bid_share: Some(1.5),
                ..minimal()
            },
            Args {
                target: Some("https://localhost".to_owned()),
                ..minimal()
            },
        ] {
            assert!(args.check().is_err(), "{args:?}");
        }
    }
}
