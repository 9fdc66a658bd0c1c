//! A scenario file: one load test, described for both of its sides. `run` and `hold` read from it what to send
//! and what to expect, `dsps` how to answer. Everything in it is optional, and what the command line says wins.
//! Reads files; sends nothing and serves nobody.

mod args;
mod phase;

use std::path::Path;

use serde::Deserialize;

use crate::report::FailArgs;

pub use args::{BidRequestArgs, DspArgs, ExchangeArgs, HoldArgs, RunArgs};
pub use phase::PhaseFile;

pub(crate) use args::{BidRequests, Defaults, seconds, within};

/// A file as written: a section for each command and for what they share.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// How `run` sends.
    pub run: RunArgs,
    /// How `hold` sends.
    pub hold: HoldArgs,
    /// What both send.
    pub bid_requests: BidRequestArgs,
    /// How the simulated DSPs answer.
    pub dsps: DspArgs,
    /// The rules of the exchange between them.
    pub exchange: ExchangeArgs,
    /// When `run` and `hold` fail.
    pub fail: FailArgs,
    /// The phases of a `run` after its warm-up: `[[phase]]`.
    pub phase: Vec<PhaseFile>,
}

impl Scenario {
    /// The file at `path`; an empty scenario without one.
    ///
    /// # Errors
    /// A sentence for whoever named it.
    pub fn read(path: Option<&Path>) -> Result<Scenario, String> {
        let Some(path) = path else {
            return Ok(Scenario::default());
        };
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        Scenario::parse(&text).map_err(|problem| format!("{}: {problem}", path.display()))
    }

    fn parse(text: &str) -> Result<Scenario, String> {
        let scenario: Scenario = toml::from_str(text).map_err(|error| error.to_string())?;
        if !scenario.phase.is_empty() && scenario.run.duration.is_some() {
            return Err("run.duration: the phases already say how long the run is".to_owned());
        }
        Ok(scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sections_are_of_their_commands() {
        let scenario = Scenario::parse(
            "[run]\nrate = 500\n[hold]\nin_flight = 7\n[dsps]\nsigma = 0.3\n[exchange]\ndeadline_ms = 80\n\
             [fail]\np99_ms = 75\n\
             [[phase]]\nname = \"dead\"\nduration = 2\nfaults = [\"stall@1\"]",
        )
        .unwrap();
        assert_eq!(scenario.run.rate, Some(500.0));
        assert_eq!(scenario.hold.in_flight, Some(7));
        assert_eq!(scenario.dsps.sigma, Some(0.3));
        assert_eq!(scenario.exchange.deadline_ms, Some(80));
        assert_eq!(scenario.fail.p99_ms, Some(75.0));
        assert_eq!(scenario.phase[0].name, "dead");
    }

    #[test]
    fn what_is_not_a_scenario_is_refused() {
        let check = |text: &str, complaint: &str| {
            let error = Scenario::parse(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
        };
        check("rate = 500", "rate");
        check("[run]\nrates = 500", "rates");
        check("[[phase]]\nduration = 1", "name");
        check("[[phase]]\nname = \"x\"\nduration = 1\nfault = []", "fault");
        check(
            "[run]\nduration = 9\n[[phase]]\nname = \"x\"\nduration = 1",
            "run.duration",
        );
        assert!(Scenario::read(Some(Path::new("/nowhere.toml"))).is_err());
    }
}
