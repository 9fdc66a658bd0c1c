//! Gates: what makes a run fail besides wrong answers, for whoever runs it in CI.

use super::{Percentiles, Tally};
use serde::{Deserialize, Serialize};

/// When a run fails, as written.
#[derive(Clone, Copy, Debug, Default, PartialEq, clap::Args, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[command(next_help_heading = "When to fail (exit code 1)")]
pub struct FailArgs {
    /// Fail if the median latency is above this [default: no limit]
    #[arg(long = "fail-p50-ms", value_name = "MS")]
    pub p50_ms: Option<f64>,
    /// Fail if the latency's 90th percentile is above this [default: no limit]
    #[arg(long = "fail-p90-ms", value_name = "MS")]
    pub p90_ms: Option<f64>,
    /// Fail if the latency's 99th percentile is above this [default: no limit]
    #[arg(long = "fail-p99-ms", value_name = "MS")]
    pub p99_ms: Option<f64>,
    /// Fail if the latency's 99.9th percentile is above this [default: no limit]
    #[arg(long = "fail-p999-ms", value_name = "MS")]
    pub p999_ms: Option<f64>,
    /// Fail if one latency is above this [default: no limit]
    #[arg(long = "fail-max-ms", value_name = "MS")]
    pub max_ms: Option<f64>,
    /// Fail if the 99th percentile of what the exchange adds to its slowest DSP is above this [default: no limit]
    #[arg(long = "fail-excess-p99-ms", value_name = "MS")]
    pub excess_p99_ms: Option<f64>,
    /// Fail if more than this share of the requests, 0 to 1, was refused or had no answer [default: 0]
    #[arg(long = "fail-errors", value_name = "SHARE")]
    pub errors: Option<f64>,
    /// Fail if more than this share of the answers, 0 to 1, lacked a bid that was in time; an auction that was itself
    /// wrong always fails [default: 0]
    #[arg(long = "fail-lost-bids", value_name = "SHARE")]
    pub lost_bids: Option<f64>,
    /// Fail if less than this share of the scheduled rate, 0 to 1, was answered [default: no limit]
    #[arg(long = "fail-rate-share", value_name = "SHARE")]
    pub rate_share: Option<f64>,
    /// Fail if this generator was itself the limit, so that the figures are partly its own [default: only say so]
    #[arg(long = "fail-generator-limit")]
    pub generator_limit: bool,
}

/// One limit that was asked for, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// The option, without its dashes.
    pub name: String,
    /// What it was given.
    pub limit: f64,
    /// What was measured.
    pub found: f64,
    /// It holds.
    pub passed: bool,
}

/// What gates look at.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Found<'a> {
    pub(crate) tally: &'a Tally,
    pub(crate) latency: Percentiles,
    pub(crate) excess: Percentiles,
    pub(crate) rate_share: f64,
    pub(crate) generator_was_the_limit: bool,
}

impl FailArgs {
    /// This, and where it says nothing, `under`.
    pub(crate) fn over(&self, under: &Self) -> Self {
        Self {
            p50_ms: self.p50_ms.or(under.p50_ms),
            p90_ms: self.p90_ms.or(under.p90_ms),
            p99_ms: self.p99_ms.or(under.p99_ms),
            p999_ms: self.p999_ms.or(under.p999_ms),
            max_ms: self.max_ms.or(under.max_ms),
            excess_p99_ms: self.excess_p99_ms.or(under.excess_p99_ms),
            errors: self.errors.or(under.errors),
            lost_bids: self.lost_bids.or(under.lost_bids),
            rate_share: self.rate_share.or(under.rate_share),
            generator_limit: self.generator_limit || under.generator_limit,
        }
    }

    /// # Errors
    /// A sentence for whoever typed it.
    pub(crate) fn check(self) -> Result<Self, String> {
        for (name, given) in [
            ("fail-p50-ms", self.p50_ms),
            ("fail-p90-ms", self.p90_ms),
            ("fail-p99-ms", self.p99_ms),
            ("fail-p999-ms", self.p999_ms),
            ("fail-max-ms", self.max_ms),
            ("fail-excess-p99-ms", self.excess_p99_ms),
        ] {
            // An hour is where the histograms end.
            given.map_or(Ok(0.0), |ms| crate::scenario::within(name, ms, 0.0, 3_600_000.0))?;
        }
        for (name, given) in [
            ("fail-errors", self.errors),
            ("fail-lost-bids", self.lost_bids),
            ("fail-rate-share", self.rate_share),
        ] {
            given.map_or(Ok(0.0), |share| crate::scenario::within(name, share, 0.0, 1.0))?;
        }
        Ok(self)
    }

    /// Those that were given, in the order of `--help`.
    pub(crate) fn gates(&self, found: Found<'_>) -> Vec<Gate> {
        let at_most = |name: &str, limit: Option<f64>, found: f64| {
            limit.map(|limit| Gate {
                name: name.to_owned(),
                limit,
                found,
                passed: found <= limit,
            })
        };
        let (latency, excess) = (found.latency, found.excess);
        let rate = self.rate_share.map(|limit| Gate {
            name: "fail-rate-share".to_owned(),
            limit,
            found: found.rate_share,
            passed: found.rate_share >= limit,
        });
        let was_the_limit = f64::from(u8::from(found.generator_was_the_limit));
        [
            at_most("fail-p50-ms", self.p50_ms, latency.p50_ms),
            at_most("fail-p90-ms", self.p90_ms, latency.p90_ms),
            at_most("fail-p99-ms", self.p99_ms, latency.p99_ms),
            at_most("fail-p999-ms", self.p999_ms, latency.p999_ms),
            at_most("fail-max-ms", self.max_ms, latency.max_ms),
            at_most("fail-excess-p99-ms", self.excess_p99_ms, excess.p99_ms),
            at_most("fail-errors", self.errors, found.tally.error_share()),
            at_most("fail-lost-bids", self.lost_bids, found.tally.lost_bid_share()),
            rate,
            at_most(
                "fail-generator-limit",
                self.generator_limit.then_some(0.0),
                was_the_limit,
            ),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Whether errors and lost bids are within what is allowed, and no auction was wrong.
    pub(crate) fn tolerate(&self, tally: &Tally) -> bool {
        tally.verification.wrong_auctions() == 0
            && tally.error_share() <= self.errors.unwrap_or(0.0)
            && tally.lost_bid_share() <= self.lost_bids.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Errors, Verification};

    fn tally() -> Tally {
        Tally {
            requests: 1_000,
            statuses: [(200, 980), (503, 10)].into(),
            errors: Errors {
                timeout: 10,
                ..Errors::default()
            },
            verification: Verification {
                exact: 931,
                wrong_winner: 49,
                bids_lost: 49,
                ..Verification::default()
            },
            ..Tally::default()
        }
    }

    #[test]
    fn each_gate_holds_at_its_limit_and_not_past_it() {
        let latency = Percentiles {
            count: 980,
            mean_ms: 1.0,
            p50_ms: 10.0,
            p90_ms: 20.0,
            p99_ms: 30.0,
            p999_ms: 40.0,
            max_ms: 50.0,
        };
        let excess = Percentiles {
            p99_ms: 5.0,
            ..latency
        };
        let tally = tally();
        let found = Found {
            tally: &tally,
            latency,
            excess,
            rate_share: 0.98,
            generator_was_the_limit: true,
        };
        let check = |name: &str, at_limit: f64, beyond: f64| {
            let of = |limit: f64| -> FailArgs {
                let key = name.trim_start_matches("fail-").replace('-', "_");
                toml::from_str(&format!("{key} = {limit:?}")).unwrap()
            };
            for (limit, passed) in [(at_limit, true), (beyond, false)] {
                let gates = of(limit).check().unwrap().gates(found);
                assert_eq!(gates.len(), 1, "{name}");
                assert_eq!(
                    (gates[0].name.as_str(), gates[0].passed),
                    (name, passed),
                    "{limit}"
                );
            }
        };
        check("fail-p50-ms", 10.0, 9.999);
        check("fail-p90-ms", 20.0, 19.0);
        check("fail-p99-ms", 30.0, 29.0);
        check("fail-p999-ms", 40.0, 39.0);
        check("fail-max-ms", 50.0, 49.0);
        check("fail-excess-p99-ms", 5.0, 4.0);
        check("fail-errors", 0.02, 0.019);
        check("fail-lost-bids", 0.05, 0.049);
        check("fail-rate-share", 0.98, 0.981);
        let limit: FailArgs = toml::from_str("generator_limit = true").unwrap();
        assert!(!limit.gates(found)[0].passed);
        assert!(
            limit.gates(Found {
                generator_was_the_limit: false,
                ..found
            })[0]
                .passed
        );
        assert!(FailArgs::default().gates(found).is_empty());
    }

    #[test]
    fn by_default_nothing_is_tolerated_and_a_wrong_auction_never() {
        let fail = |text: &str| -> FailArgs { toml::from_str(text).unwrap() };
        let wrong_auction = Tally {
            verification: Verification {
                wrong_price: 1,
                ..tally().verification
            },
            ..tally()
        };
        assert!(!FailArgs::default().tolerate(&tally()));
        assert!(FailArgs::default().tolerate(&Tally::default()));
        assert!(!fail("errors = 0.02").tolerate(&tally()));
        assert!(fail("errors = 0.02\nlost_bids = 0.05").tolerate(&tally()));
        assert!(!fail("errors = 0.02\nlost_bids = 0.05").tolerate(&wrong_auction));
    }

    #[test]
    fn a_limit_must_make_sense() {
        let check = |text: &str| toml::from_str::<FailArgs>(text).unwrap().check().is_ok();
        assert!(check("p99_ms = 3600000\nerrors = 1"));
        assert!(!check("p99_ms = 3600001") && !check("max_ms = nan") && !check("p50_ms = -1"));
        assert!(!check("errors = 1.01") && !check("rate_share = -0.1"));
        assert!(toml::from_str::<FailArgs>("p98_ms = 1").is_err());
    }
}
