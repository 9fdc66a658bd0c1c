//! The options that a scenario file and a command line share: as written (each optional), and checked.

use std::time::Duration;

use serde::Deserialize;

use crate::generate::Arrivals;
use crate::oracle::{FloorRule, Limits, Rules};
use crate::simulated::Profile;

/// How `run` sends.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunArgs {
    /// Where to post: http://host:port or http://host:port/path [default path: /openrtb2/auction]
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Requests per second, on average. Required
    #[arg(long, value_name = "R")]
    pub rate: Option<f64>,
    /// Length of the measured window in seconds; the phases of a scenario are stretched or squeezed to it
    /// [default: 30, or what the phases add up to]
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
}

/// How `hold` sends.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HoldArgs {
    /// Where to post: http://host:port or http://host:port/path [default path: /openrtb2/auction]
    #[arg(long, value_name = "URL")]
    pub target: Option<String>,
    /// Bid requests to have in flight at once. Required
    #[arg(long, value_name = "N")]
    pub in_flight: Option<u64>,
    /// Requests per second, until all are in flight; they are answered at the same rate [default: 4000]
    #[arg(long, value_name = "R")]
    pub ramp: Option<f64>,
    /// Seconds to hold them all [default: 30]
    #[arg(long, value_name = "S")]
    pub duration: Option<f64>,
    /// HTTP/2 connections (prior knowledge); servers allow so many streams on each [default: one for each 10,000
    /// in flight]
    #[arg(long, value_name = "N")]
    pub h2_connections: Option<usize>,
    /// Give up on a request after this long; it counts as an error [default: 10 s after the exchange's deadline]
    #[arg(long, value_name = "MS")]
    pub timeout_ms: Option<u64>,
}

/// What is sent.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Bid requests")]
pub struct BidRequestArgs {
    /// Size of a bid request in bytes, unless its imps alone need more [default: 1300]
    #[arg(long, value_name = "N")]
    pub body_bytes: Option<usize>,
    /// Imps per bid request, 1 to 200 [default: 1]
    #[arg(long, value_name = "N")]
    pub imps: Option<usize>,
    /// tmax of every bid request [default: 100; of hold: 310000]
    #[arg(long, value_name = "MS")]
    pub tmax: Option<u64>,
}

/// How the simulated DSPs answer.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Simulated DSPs (equal on both sides)")]
pub struct DspArgs {
    /// Seeds every latency and bid, and what is sent [default: 1]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Number of DSPs [default: 23]
    #[arg(long, value_name = "N")]
    pub count: Option<u16>,
    /// Median latency of a DSP, in milliseconds [default: 12.8]
    #[arg(long, value_name = "MS")]
    pub median_ms: Option<f64>,
    /// Sigma of the lognormal latency [default: 0.519]
    #[arg(long, value_name = "X")]
    pub sigma: Option<f64>,
    /// Share of imps a DSP bids on, 0 to 1 [default: 0.7]
    #[arg(long, value_name = "X")]
    pub bid_share: Option<f64>,
    /// Factor on every DSP latency; 0 answers at once [default: 1]
    #[arg(long, value_name = "X")]
    pub scale_latency: Option<f64>,
    /// Added to every latency after that, in milliseconds [default: 0; of hold: time for the ramp, the hold and a
    /// second]
    #[arg(long, value_name = "MS")]
    pub latency_floor_ms: Option<f64>,
}

/// The rules of the exchange.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "Rules of the exchange (equal to its configuration)")]
pub struct ExchangeArgs {
    /// The exchange's cap on its own deadline, from arrival [default: 90; of hold: 300000]
    #[arg(long, value_name = "MS")]
    pub deadline_ms: Option<u64>,
    /// What the exchange keeps back from tmax [default: 10]
    #[arg(long, value_name = "MS")]
    pub tmax_margin_ms: Option<u64>,
    /// The exchange's timeout for one DSP [default: 80; of hold: 300000]
    #[arg(long, value_name = "MS")]
    pub dsp_timeout_ms: Option<u64>,
    /// Whether a bid at the floor may win [default: at_or_above]
    #[arg(long, value_enum, value_name = "RULE")]
    pub floor_rule: Option<FloorRule>,
    /// What the winner pays above the runner-up or the floor [default: 1]
    #[arg(long, value_name = "N")]
    pub increment_micros: Option<u64>,
    /// A DSP answer due this long before the cut may be missing without the answer being wrong [default: 15]
    #[arg(long, value_name = "MS")]
    pub grey_ms: Option<f64>,
    /// A DSP answer due up to this long after the cut may still have counted [default: 2]
    #[arg(long, value_name = "MS")]
    pub grey_after_ms: Option<f64>,
    /// A DSP's bids may be missing for this long after a fault of a phase has ended: breakers close late
    /// [default: 2000]
    #[arg(long, value_name = "MS")]
    pub recovery_ms: Option<f64>,
}

/// What is sent, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BidRequests {
    pub(crate) body_bytes: usize,
    pub(crate) imps: usize,
    pub(crate) tmax_ms: u64,
}

/// Defaults that differ between the commands, in milliseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Defaults {
    pub(crate) tmax_ms: u64,
    pub(crate) deadline_ms: u64,
    pub(crate) dsp_timeout_ms: u64,
}

impl Defaults {
    /// An SSP in a hurry: `profiles/reference.toml`.
    pub(crate) const RUN: Self = Self {
        tmax_ms: 100,
        deadline_ms: 90,
        dsp_timeout_ms: 80,
    };
    /// All the time it takes: `profiles/hold.toml`.
    pub(crate) const HOLD: Self = Self {
        tmax_ms: 310_000,
        deadline_ms: 300_000,
        dsp_timeout_ms: 300_000,
    };
}

/// Draws are numbered in a byte, of which two are taken (see `Bodies::draw`); 200 is more than any SSP offers
/// at once.
const IMPS_MAX: usize = 200;
/// The exchange refuses bodies over 256 KiB by default; 4 MiB leaves room to test that it does.
const BODY_BYTES_MAX: usize = 4 << 20;

impl RunArgs {
    /// This, and where it says nothing, `under`. Of the two ways to connect, one given here hides both of
    /// `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        let connects = self.connections.is_some() || self.h2_connections.is_some();
        let (connections, h2_connections) = if connects {
            (self.connections, self.h2_connections)
        } else {
            (under.connections, under.h2_connections)
        };
        Self {
            target: self.target.clone().or_else(|| under.target.clone()),
            rate: self.rate.or(under.rate),
            duration: self.duration.or(under.duration),
            warmup: self.warmup.or(under.warmup),
            connections,
            h2_connections,
            arrivals: self.arrivals.or(under.arrivals),
            timeout_ms: self.timeout_ms.or(under.timeout_ms),
        }
    }
}

impl HoldArgs {
    /// This, and where it says nothing, `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        Self {
            target: self.target.clone().or_else(|| under.target.clone()),
            in_flight: self.in_flight.or(under.in_flight),
            ramp: self.ramp.or(under.ramp),
            duration: self.duration.or(under.duration),
            h2_connections: self.h2_connections.or(under.h2_connections),
            timeout_ms: self.timeout_ms.or(under.timeout_ms),
        }
    }
}

impl BidRequestArgs {
    /// This, and where it says nothing, `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        Self {
            body_bytes: self.body_bytes.or(under.body_bytes),
            imps: self.imps.or(under.imps),
            tmax: self.tmax.or(under.tmax),
        }
    }

    pub(crate) fn check(&self, defaults: Defaults) -> Result<BidRequests, String> {
        Ok(BidRequests {
            body_bytes: within("body-bytes", self.body_bytes.unwrap_or(1300), 0, BODY_BYTES_MAX)?,
            imps: within("imps", self.imps.unwrap_or(1), 1, IMPS_MAX)?,
            tmax_ms: self.tmax.unwrap_or(defaults.tmax_ms),
        })
    }
}

impl DspArgs {
    /// This, and where it says nothing, `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        Self {
            seed: self.seed.or(under.seed),
            count: self.count.or(under.count),
            median_ms: self.median_ms.or(under.median_ms),
            sigma: self.sigma.or(under.sigma),
            bid_share: self.bid_share.or(under.bid_share),
            scale_latency: self.scale_latency.or(under.scale_latency),
            latency_floor_ms: self.latency_floor_ms.or(under.latency_floor_ms),
        }
    }

    pub(crate) fn check(&self) -> Result<Profile, String> {
        let base = Profile::default();
        let of = |name, given: Option<f64>, default, max| within(name, given.unwrap_or(default), 0.0, max);
        Ok(Profile {
            seed: self.seed.unwrap_or(base.seed),
            count: within("count", self.count.unwrap_or(base.count), 1, 10_000)?,
            median_ms: of("median-ms", self.median_ms, base.median_ms, 1e6)?,
            sigma: of("sigma", self.sigma, base.sigma, 10.0)?,
            bid_share: of("bid-share", self.bid_share, base.bid_share, 1.0)?,
            scale_latency: of("scale-latency", self.scale_latency, base.scale_latency, 1e6)?,
            latency_floor_ms: of(
                "latency-floor-ms",
                self.latency_floor_ms,
                base.latency_floor_ms,
                1e6,
            )?,
        })
    }
}

impl ExchangeArgs {
    /// This, and where it says nothing, `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        Self {
            deadline_ms: self.deadline_ms.or(under.deadline_ms),
            tmax_margin_ms: self.tmax_margin_ms.or(under.tmax_margin_ms),
            dsp_timeout_ms: self.dsp_timeout_ms.or(under.dsp_timeout_ms),
            floor_rule: self.floor_rule.or(under.floor_rule),
            increment_micros: self.increment_micros.or(under.increment_micros),
            grey_ms: self.grey_ms.or(under.grey_ms),
            grey_after_ms: self.grey_after_ms.or(under.grey_after_ms),
            recovery_ms: self.recovery_ms.or(under.recovery_ms),
        }
    }

    pub(crate) fn rules(&self) -> Rules {
        Rules {
            floor_rule: self.floor_rule.unwrap_or(FloorRule::AtOrAbove),
            increment_micros: self.increment_micros.unwrap_or(1),
        }
    }

    /// `tmax_ms` is what every bid request says.
    pub(crate) fn limits(&self, tmax_ms: u64, defaults: Defaults) -> Result<Limits, String> {
        let budget_ms = tmax_ms.saturating_sub(self.tmax_margin_ms.unwrap_or(10));
        let deadline_ms = self.deadline_ms.unwrap_or(defaults.deadline_ms).min(budget_ms);
        Ok(Limits {
            dsp_timeout: Duration::from_millis(self.dsp_timeout_ms.unwrap_or(defaults.dsp_timeout_ms)),
            deadline: Duration::from_millis(deadline_ms),
            grey: millis("grey-ms", self.grey_ms.unwrap_or(15.0))?,
            grey_after: millis("grey-after-ms", self.grey_after_ms.unwrap_or(2.0))?,
            recovery: millis("recovery-ms", self.recovery_ms.unwrap_or(2000.0))?,
        })
    }
}

pub(crate) fn within<T: Copy + PartialOrd + std::fmt::Display>(
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

pub(crate) fn seconds(name: &str, value: f64, min: f64) -> Result<Duration, String> {
    within(name, value, min, 1e6).map(Duration::from_secs_f64)
}

fn millis(name: &str, value: f64) -> Result<Duration, String> {
    within(name, value, 0.0, 1e6).map(|value| Duration::from_secs_f64(value / 1e3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadline_is_the_smaller_of_cap_and_tmax_less_margin() {
        let check = |tmax_ms, expected_ms| {
            let limits = ExchangeArgs::default().limits(tmax_ms, Defaults::RUN).unwrap();
            assert_eq!(
                limits.deadline,
                Duration::from_millis(expected_ms),
                "tmax {tmax_ms}"
            );
        };
        check(100, 90);
        check(60, 50);
        check(1000, 90);
        check(5, 0);
    }

    #[test]
    fn the_command_line_wins_over_the_file() {
        let file: RunArgs = toml::from_str("rate = 500\nwarmup = 1\nh2_connections = 4").unwrap();
        let typed = RunArgs {
            rate: Some(10.0),
            ..RunArgs::default()
        };
        let merged = typed.over(&file);
        assert_eq!(
            (merged.rate, merged.warmup, merged.h2_connections),
            (Some(10.0), Some(1.0), Some(4))
        );
        let merged = RunArgs {
            connections: Some(9),
            ..RunArgs::default()
        }
        .over(&file);
        assert_eq!((merged.connections, merged.h2_connections), (Some(9), None));
    }

    #[test]
    fn each_value_has_its_range() {
        let dsps = |text: &str| toml::from_str::<DspArgs>(text).unwrap().check().is_ok();
        for (good, bad) in [
            ("bid_share = 1", "bid_share = 1.01"),
            ("sigma = 10", "sigma = 11"),
            ("count = 10000", "count = 0"),
            ("median_ms = 0", "median_ms = -1"),
            ("scale_latency = 0", "scale_latency = nan"),
            ("latency_floor_ms = 1e6", "latency_floor_ms = 1.1e6"),
        ] {
            assert!(dsps(good), "{good}");
            assert!(!dsps(bad), "{bad}");
        }
        let requests = |imps| {
            BidRequestArgs {
                imps: Some(imps),
                ..BidRequestArgs::default()
            }
            .check(Defaults::RUN)
        };
        assert!(requests(1).is_ok() && requests(IMPS_MAX).is_ok());
        assert!(requests(0).is_err() && requests(IMPS_MAX + 1).is_err());
    }
}
