//! `[[phase]]`: as written, and checked.

use std::time::Duration;

use serde::Deserialize;

use super::args::{seconds, within};
use crate::simulated::{Assignment, Fault, PHASES_MAX, Phase, Phases};

/// One phase of a run, as written.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseFile {
    /// What reports call it; phases of one name are reported together.
    pub name: String,
    /// Seconds. `--duration` stretches or squeezes all phases together.
    pub duration: f64,
    /// Multiplies the rate of the run.
    #[serde(default = "one")]
    pub rate_factor: f64,
    /// What is wrong with which DSPs, as in `--fault` of `dsps`.
    #[serde(default)]
    pub faults: Vec<String>,
}

fn one() -> f64 {
    1.0
}

/// Above a tenth of this the generator is slower than any exchange worth a test.
const RATE_FACTOR_MAX: f64 = 1_000.0;

impl PhaseFile {
    /// The phases of a run that begins with `warmup` and, if `duration` is given, lasts as long after it.
    /// `None` when there are none.
    ///
    /// # Errors
    /// A sentence for whoever wrote them.
    pub(crate) fn check_all(
        files: &[PhaseFile],
        warmup: Duration,
        duration: Option<f64>,
        count: u16,
    ) -> Result<Option<Phases>, String> {
        if files.is_empty() {
            return Ok(None);
        }
        if files.len() > PHASES_MAX {
            return Err(format!("more than {PHASES_MAX} phases"));
        }
        let written: f64 = files.iter().map(|file| file.duration).sum();
        let stretch = match duration {
            Some(duration) => seconds("duration", duration, 0.1)?.as_secs_f64() / written,
            None => 1.0,
        };
        let phases: Result<Vec<Phase>, String> = files
            .iter()
            .map(|file| {
                file.check(stretch, count)
                    .map_err(|why| format!("phase {:?}: {why}", file.name))
            })
            .collect();
        Ok(Some(Phases::marked(warmup, phases?)))
    }

    fn check(&self, stretch: f64, count: u16) -> Result<Phase, String> {
        if self.name.is_empty() {
            return Err("it needs a name".to_owned());
        }
        let duration = seconds("duration", self.duration, 0.1)?;
        let mut faults = Vec::new();
        for text in &self.faults {
            let assignment: Assignment = text.parse()?;
            if assignment.fault.is_of_tls() {
                // A phase is told by its requests, and those come on connections that are open.
                return Err(format!(
                    "{} meets connections: give it to `dsps --fault`",
                    assignment.fault
                ));
            }
            faults.extend(assignment.dsps(count)?.map(|dsp| (dsp, assignment.fault)));
        }
        let refuses =
            |dsp| faults.iter().rfind(|(of, _)| *of == dsp).map(|(_, fault)| *fault) == Some(Fault::Refuse);
        if (0..count).all(refuses) {
            // It is by their requests that the simulator knows a phase to be over.
            return Err("at least one DSP must not refuse".to_owned());
        }
        Ok(Phase {
            name: self.name.clone(),
            duration: duration.mul_f64(stretch),
            rate_factor: within("rate_factor", self.rate_factor, 0.001, RATE_FACTOR_MAX)?,
            faults,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(name: &str, duration: f64, faults: &[&str]) -> PhaseFile {
        PhaseFile {
            name: name.to_owned(),
            duration,
            rate_factor: 1.0,
            faults: faults.iter().map(|&fault| fault.to_owned()).collect(),
        }
    }

    #[test]
    fn a_duration_squeezes_all_phases_alike() {
        let files = [
            phase("a", 20.0, &[]),
            phase("b", 5.0, &["stall@2"]),
            phase("a", 25.0, &[]),
        ];
        let check = |duration| {
            let phases = PhaseFile::check_all(&files, Duration::ZERO, duration, 3)
                .unwrap()
                .unwrap();
            phases
                .list()
                .iter()
                .map(|phase| phase.duration.as_millis())
                .collect::<Vec<_>>()
        };
        assert_eq!(check(None), [20_000, 5_000, 25_000]);
        assert_eq!(check(Some(5.0)), [2_000, 500, 2_500]);
        assert_eq!(PhaseFile::check_all(&[], Duration::ZERO, Some(5.0), 3), Ok(None));
    }

    #[test]
    fn nonsense_is_refused() {
        let check = |file: PhaseFile, complaint: &str| {
            let error = PhaseFile::check_all(&[file], Duration::ZERO, None, 3).unwrap_err();
            assert!(error.contains(complaint), "{error}");
        };
        check(phase("", 1.0, &[]), "name");
        check(phase("x", 0.0, &[]), "duration");
        check(phase("x", f64::NAN, &[]), "duration");
        check(phase("x", 1.0, &["stall@4"]), "3 DSPs");
        check(phase("x", 1.0, &["asleep@1"]), "asleep");
        check(phase("x", 1.0, &["refuse@all"]), "must not refuse");
        check(phase("x", 1.0, &["expired@1"]), "expired meets connections");
        check(
            PhaseFile {
                rate_factor: 0.0,
                ..phase("x", 1.0, &[])
            },
            "rate_factor",
        );
        let many = vec![phase("x", 1.0, &[]); PHASES_MAX + 1];
        assert!(PhaseFile::check_all(&many, Duration::ZERO, None, 3).is_err());
        assert!(PhaseFile::check_all(&many[1..], Duration::ZERO, None, 3).is_ok());
        assert!(PhaseFile::check_all(&[phase("x", 1.0, &["refuse@1-2"])], Duration::ZERO, None, 3).is_ok());
    }
}
