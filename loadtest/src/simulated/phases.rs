//! A run in phases: how much is sent in each, and what is wrong with which DSP. One scenario file tells both
//! sides. They share no clock: the generator writes the phase into the id of each bid request, and what the
//! DSPs do about that request follows from its id, as everything else does.

use std::time::Duration;

use super::Fault;

/// The phases of a run, after its warm-up. Phases are numbered from 1; 0 is the warm-up, in which nothing is
/// wrong.
#[derive(Debug, Clone, PartialEq)]
pub struct Phases {
    warmup: Duration,
    list: Vec<Phase>,
    are_marked: bool,
}

/// One phase.
#[derive(Debug, Clone, PartialEq)]
pub struct Phase {
    /// What reports call it. Phases of one name are reported together.
    pub name: String,
    /// How long it lasts.
    pub duration: Duration,
    /// Multiplies the rate of the run.
    pub rate_factor: f64,
    /// DSPs (counted from 0) with their faults; of several for one DSP the last counts.
    pub faults: Vec<(u16, Fault)>,
}

/// A stretch of a run in which a DSP's answers may be missing though the DSP sends them in time. Both ends are
/// times since the start of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disturbance {
    pub(crate) dsp: u16,
    pub(crate) from: Duration,
    pub(crate) to: Duration,
}

/// A request's id ends with this mark and the phase in two digits, if its run has phases.
const MARK: &[u8; 2] = b"-p";

/// Length of the mark with the phase.
pub(crate) const MARK_BYTES: usize = 4;

/// Two digits tell phases apart.
pub(crate) const PHASES_MAX: usize = 99;

impl Default for Phases {
    /// Nothing is ever wrong.
    fn default() -> Self {
        Self::single(Duration::ZERO, Duration::ZERO)
    }
}

impl Phases {
    /// One phase in which nothing is wrong, and which is not written into ids.
    pub fn single(warmup: Duration, duration: Duration) -> Self {
        let whole = Phase {
            name: String::new(),
            duration,
            rate_factor: 1.0,
            faults: Vec::new(),
        };
        Self {
            warmup,
            list: vec![whole],
            are_marked: false,
        }
    }

    /// These phases, at most 99.
    pub fn marked(warmup: Duration, list: Vec<Phase>) -> Self {
        debug_assert!((1..=PHASES_MAX).contains(&list.len()));
        Self {
            warmup,
            list,
            are_marked: true,
        }
    }

    /// The same up to a moment, and nothing after it.
    pub(crate) fn cut(&self, at: Duration) -> Self {
        let mut start = self.warmup;
        let list = self.list.iter().map(|phase| {
            let duration = phase.duration.min(at.saturating_sub(start));
            start += phase.duration;
            Phase {
                duration,
                ..phase.clone()
            }
        });
        Self {
            list: list.collect(),
            warmup: self.warmup.min(at),
            are_marked: self.are_marked,
        }
    }

    /// Whether ids say which phase their request is of.
    pub(crate) fn are_marked(&self) -> bool {
        self.are_marked
    }

    /// In their order.
    pub(crate) fn list(&self) -> &[Phase] {
        &self.list
    }

    /// Length of the warm-up.
    pub(crate) fn warmup(&self) -> Duration {
        self.warmup
    }

    /// From the start of the run to the end of the last phase.
    pub(crate) fn end(&self) -> Duration {
        self.warmup + self.list.iter().map(|phase| phase.duration).sum::<Duration>()
    }

    /// The phase of this moment, counted from the start of the run; the last one from its start on.
    pub(crate) fn at(&self, since_start: Duration) -> usize {
        let mut start = self.warmup;
        let mut begun = 0;
        for phase in &self.list {
            if since_start < start {
                break;
            }
            begun += 1;
            start += phase.duration;
        }
        begun
    }

    /// What is wrong with a DSP in a phase; nothing in one that there is not.
    pub(crate) fn fault(&self, phase: usize, dsp: u16) -> Fault {
        let phase = phase.checked_sub(1).and_then(|index| self.list.get(index));
        let faults = phase.map(|phase| phase.faults.as_slice()).unwrap_or_default();
        faults
            .iter()
            .rfind(|(of, _)| *of == dsp)
            .map_or(Fault::None, |(_, fault)| *fault)
    }

    /// When which DSPs may be missed though they answer: while they have a fault, for `recovery` after it
    /// (exchanges have breakers), and, where the fault breaks connections, for `lead` before it: answers that
    /// are on their way then are lost with their connection.
    pub(crate) fn disturbances(&self, lead: Duration, recovery: Duration) -> Vec<Disturbance> {
        let mut disturbances = Vec::new();
        let mut start = self.warmup;
        for phase in &self.list {
            let end = start + phase.duration;
            for &(dsp, fault) in &phase.faults {
                let lead = if fault.breaks_connections() {
                    lead
                } else {
                    Duration::ZERO
                };
                disturbances.push(Disturbance {
                    dsp,
                    from: start.saturating_sub(lead),
                    to: end + recovery,
                });
            }
            start = end;
        }
        disturbances
    }
}

/// What an id ends with in this phase.
pub(crate) fn mark(phase: usize) -> [u8; MARK_BYTES] {
    let digit = |n: usize| b'0' + u8::try_from(n % 10).unwrap_or(0);
    [MARK[0], MARK[1], digit(phase / 10), digit(phase)]
}

/// The phase that an id names; 0 for one that names none.
pub(crate) fn phase_of(request_id: &[u8]) -> usize {
    let Some([m0, m1, tens @ b'0'..=b'9', ones @ b'0'..=b'9']) = request_id.last_chunk::<MARK_BYTES>() else {
        return 0;
    };
    if [*m0, *m1] == *MARK {
        usize::from(tens - b'0') * 10 + usize::from(ones - b'0')
    } else {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn phase(duration: u64, faults: &[(u16, Fault)]) -> Phase {
        Phase {
            name: String::new(),
            duration: seconds(duration),
            rate_factor: 1.0,
            faults: faults.to_vec(),
        }
    }

    #[test]
    fn ids_say_their_phase() {
        for n in 0..=PHASES_MAX {
            assert_eq!(phase_of(&[b"0001-0000000042", &mark(n)[..]].concat()), n);
        }
        for id in ["", "-p1", "0000000000000001-0000000042", "a-q12", "a-p1x", "ap12"] {
            assert_eq!(phase_of(id.as_bytes()), 0, "{id}");
        }
    }

    #[test]
    fn cut_phases_end_where_they_are_cut() {
        let seconds = Duration::from_secs;
        let phase = |duration_s| Phase {
            name: String::new(),
            duration: seconds(duration_s),
            rate_factor: 1.0,
            faults: Vec::new(),
        };
        let phases = Phases::marked(seconds(5), vec![phase(10), phase(20)]);
        let check = |at_s, expected: [u64; 3]| {
            let cut = phases.cut(seconds(at_s));
            let durations = cut.list().iter().map(|phase| phase.duration.as_secs());
            let found: Vec<u64> = std::iter::once(cut.warmup().as_secs()).chain(durations).collect();
            assert_eq!(found, expected, "{at_s} s");
            assert_eq!(cut.end(), seconds(at_s.min(35)));
        };
        check(3, [3, 0, 0]);
        check(5, [5, 0, 0]);
        check(15, [5, 10, 0]);
        check(16, [5, 10, 1]);
        check(99, [5, 10, 20]);
    }

    #[test]
    fn moments_belong_to_phases() {
        let phases = Phases::marked(seconds(5), vec![phase(10, &[]), phase(2, &[]), phase(10, &[])]);
        for (at, expected) in [
            (0, 0),
            (4, 0),
            (5, 1),
            (14, 1),
            (15, 2),
            (16, 2),
            (17, 3),
            (26, 3),
            (99, 3),
        ] {
            assert_eq!(phases.at(seconds(at)), expected, "{at} s");
        }
        assert_eq!(phases.end(), seconds(27));
        assert_eq!(Phases::single(Duration::ZERO, seconds(1)).at(Duration::ZERO), 1);
    }

    #[test]
    fn faults_are_of_their_phase_and_disturb_around_it() {
        let dead = [(0, Fault::Stall), (3, Fault::Stall), (3, Fault::Refuse)];
        let phases = Phases::marked(seconds(5), vec![phase(10, &[]), phase(2, &dead), phase(10, &[])]);
        for (phase, dsp, expected) in [
            (0, 3, Fault::None),
            (1, 3, Fault::None),
            (2, 0, Fault::Stall),
            (2, 1, Fault::None),
            (2, 3, Fault::Refuse),
            (3, 3, Fault::None),
            (42, 3, Fault::None),
        ] {
            assert_eq!(phases.fault(phase, dsp), expected, "DSP {dsp} in phase {phase}");
        }
        let disturbances = phases.disturbances(seconds(1), seconds(2));
        let of = |dsp| {
            let mut of_dsp = disturbances.iter().filter(move |d| d.dsp == dsp);
            of_dsp.next_back().map(|d| (d.from.as_secs(), d.to.as_secs()))
        };
        assert_eq!(of(0), Some((15, 19)), "a stall leaves connections alone");
        assert_eq!(of(3), Some((14, 19)), "a refusal resets them");
        assert_eq!(of(1), None);
    }
}
