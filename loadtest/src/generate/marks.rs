//! What server and generator have used up at each boundary of a load, and what that makes in between.

use super::ledger::Ledger;
use crate::report::{GeneratorUsage, ProcessSample, ServerUsage, ThreadSample};

/// Samples at boundaries: the start of each phase and the end of the last.
#[derive(Debug)]
pub(super) struct Marks {
    boundaries_ns: Vec<u64>,
    server_pid: Option<u32>,
    samples: Vec<Mark>,
}

/// One boundary, at the moment when the loop came to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) at_ns: u64,
    answered: u64,
    pub(super) server: Option<ProcessSample>,
    generator: ThreadSample,
}

impl Mark {
    pub(super) fn take(at_ns: u64, server_pid: Option<u32>, answered: u64) -> Mark {
        Mark {
            at_ns,
            answered,
            server: server_pid.and_then(ProcessSample::take),
            generator: ThreadSample::take(),
        }
    }

    /// The server's cost from here to `end`, in which so many orchestrations were dealt with.
    pub(super) fn server_until(&self, end: &Mark, orchestrations: u64) -> Option<ServerUsage> {
        ServerUsage::over(
            &[(self.server, end.server)],
            end.at_ns.saturating_sub(self.at_ns),
            orchestrations,
        )
    }

    /// This program's own cost from here to `end`.
    #[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run fit a double")]
    pub(super) fn generator_until(&self, end: &Mark) -> GeneratorUsage {
        let window_ns = end.at_ns.saturating_sub(self.at_ns).max(1) as f64;
        let share = |from_ns: u64, to_ns: u64| to_ns.saturating_sub(from_ns) as f64 / window_ns;
        GeneratorUsage {
            cpu_share: share(self.generator.cpu_ns, end.generator.cpu_ns),
            run_delay_share: share(self.generator.run_delay_ns, end.generator.run_delay_ns),
            was_the_limit: false,
        }
    }
}

impl Marks {
    pub(super) fn new(boundaries_ns: Vec<u64>, server_pid: Option<u32>) -> Marks {
        Marks {
            boundaries_ns,
            server_pid,
            samples: Vec::new(),
        }
    }

    /// When [`Marks::take_if_due`] has something to do next; never, after the last.
    pub(super) fn next_ns(&self) -> u64 {
        let next = self.boundaries_ns.get(self.samples.len());
        next.copied().unwrap_or(u64::MAX)
    }

    /// What is still to come comes now.
    pub(super) fn end_at(&mut self, now_ns: u64) {
        for boundary_ns in &mut self.boundaries_ns {
            *boundary_ns = now_ns.min(*boundary_ns);
        }
    }

    pub(super) fn are_complete(&self) -> bool {
        self.samples.len() == self.boundaries_ns.len()
    }

    pub(super) fn take_if_due(&mut self, now_ns: u64, ledger: &Ledger) {
        while self.next_ns() <= now_ns {
            self.samples
                .push(Mark::take(now_ns, self.server_pid, ledger.answered()));
        }
    }

    /// The server's cost in the phases (counted from 0) that `wanted` names.
    pub(super) fn server(&self, wanted: impl Fn(usize) -> bool) -> Option<ServerUsage> {
        let phases = self.samples.iter().zip(self.samples.iter().skip(1)).enumerate();
        let (mut stretches, mut window_ns, mut answered) = (Vec::new(), 0, 0);
        for (_, (from, to)) in phases.filter(|(phase, _)| wanted(*phase)) {
            stretches.push((from.server, to.server));
            window_ns += to.at_ns - from.at_ns;
            answered += to.answered - from.answered;
        }
        ServerUsage::over(&stretches, window_ns, answered)
    }

    /// This program's own cost over all of them.
    pub(super) fn generator(&self) -> GeneratorUsage {
        match (self.samples.first(), self.samples.last()) {
            (Some(first), Some(last)) => first.generator_until(last),
            _ => GeneratorUsage::default(),
        }
    }
}
