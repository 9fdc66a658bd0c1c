//! When each request is due. Decided before the run by rate and seed alone: nothing the server does can move
//! an arrival, which is what makes the load open. Reads no clock.

use super::clock::nanos;
use super::random::Random;
use crate::simulated::Phases;
use serde::{Deserialize, Serialize};

/// The spacing of arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum Arrivals {
    /// Exponential gaps: many independent users. Bursts are part of it, and of what the server must stand.
    Poisson,
    /// Equal gaps: a metronome. Easier on the server than anything real.
    Constant,
}

/// A sequence of intended send times, in nanoseconds from the start of the run.
#[derive(Clone, Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    random: Random,
    /// Where the rate changes.
    stretches: Vec<Stretch>,
    /// The stretch of the next arrival.
    stretch: usize,
    count: u64,
    count_max: u64,
    end_ns: u64,
    /// The next arrival is due when so many are expected, on average, since the start. Drawn at a rate of one,
    /// so that a change of rate needs no draw of its own.
    expected: f64,
    next_ns: f64,
}

/// A time of constant rate.
#[derive(Clone, Copy, Debug)]
struct Stretch {
    start_ns: f64,
    /// Arrivals expected before it.
    expected: f64,
    gap_ns: f64,
}

impl Schedule {
    /// `rate` is in requests per second and positive; it is the warm-up's, and each phase has its multiple of
    /// it. Ends with the last phase.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, seed: u64, phases: &Phases) -> Schedule {
        let mut schedule = Schedule {
            arrivals,
            random: Random::new(seed ^ 0x5ced_01e5),
            stretches: stretches(rate, phases),
            stretch: 0,
            count: 0,
            count_max: u64::MAX,
            end_ns: nanos(phases.end()),
            expected: 0.0,
            next_ns: 0.0,
        };
        schedule.advance();
        schedule
    }

    /// So many arrivals, however long that takes.
    pub(crate) fn exactly(mut self, count: u64) -> Schedule {
        (self.count_max, self.end_ns) = (count, u64::MAX);
        self
    }

    /// There are no more arrivals.
    pub(crate) fn end_here(&mut self) {
        self.end_ns = 0;
    }

    /// The next arrival, not yet taken; `None` after the last.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive time"
    )]
    pub(crate) fn peek_ns(&self) -> Option<u64> {
        let due_ns = self.next_ns as u64;
        (due_ns < self.end_ns && self.count <= self.count_max).then_some(due_ns)
    }

    /// Takes the next arrival if it is due: its sequence number and its intended time.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due_ns = self.peek_ns().filter(|&due_ns| due_ns <= now_ns)?;
        let number = self.count - 1;
        self.advance();
        Some((number, due_ns))
    }

    /// The number of the first arrival of each phase. Takes some nanoseconds for each arrival.
    pub(crate) fn first_numbers(&self, phases: &Phases) -> Vec<u64> {
        let mut ahead = self.clone();
        let mut start = phases.warmup();
        let starts = phases.list().iter().map(|phase| {
            let this = start;
            start += phase.duration;
            nanos(this)
        });
        starts
            .map(|start_ns| {
                while ahead.take_due(start_ns.saturating_sub(1)).is_some() {}
                ahead.count - 1
            })
            .collect()
    }

    /// A double holds nanoseconds exactly for 104 days (2^53), so sums of gaps do not drift.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn advance(&mut self) {
        self.count += 1;
        match self.arrivals {
            Arrivals::Poisson => self.expected -= self.random.unit().ln(),
            Arrivals::Constant => self.expected = self.count as f64,
        }
        while let Some(next) = self.stretches.get(self.stretch + 1)
            && self.expected > next.expected
        {
            self.stretch += 1;
        }
        let of = self.stretches[self.stretch];
        self.next_ns = of.start_ns + (self.expected - of.expected) * of.gap_ns;
    }
}

/// The warm-up and each phase.
#[expect(clippy::cast_precision_loss, reason = "nanoseconds of a run fit a double")]
fn stretches(rate: f64, phases: &Phases) -> Vec<Stretch> {
    let warmup = (phases.warmup(), 1.0);
    let rest = phases
        .list()
        .iter()
        .map(|phase| (phase.duration, phase.rate_factor));
    let mut next = Stretch {
        start_ns: 0.0,
        expected: 0.0,
        gap_ns: 0.0,
    };
    std::iter::once(warmup)
        .chain(rest)
        .map(|(duration, factor)| {
            let this = Stretch {
                gap_ns: 1e9 / (rate * factor),
                ..next
            };
            let duration_ns = nanos(duration) as f64;
            next.start_ns += duration_ns;
            next.expected += duration_ns / this.gap_ns;
            this
        })
        .collect()
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "statistics of small counts")]
mod tests {
    use super::*;
    use crate::simulated::Phase;
    use std::time::Duration;

    fn endless() -> Phases {
        Phases::single(Duration::ZERO, Duration::from_secs(1_000_000))
    }

    fn times_ns(arrivals: Arrivals, rate: f64, seed: u64, n: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(arrivals, rate, seed, &endless());
        (0..n)
            .filter_map(|_| schedule.take_due(u64::MAX).map(|(_, at)| at))
            .collect()
    }

    #[test]
    fn poisson_has_the_mean_the_spread_and_the_shape_of_exponential_gaps() {
        let times = times_ns(Arrivals::Poisson, 1000.0, 1, 200_000);
        let gaps: Vec<f64> = times.windows(2).map(|w| (w[1] - w[0]) as f64 / 1e6).collect();
        let n = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / n;
        let deviation = (gaps.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / n).sqrt();
        assert!((mean - 1.0).abs() < 0.01, "mean gap {mean} ms");
        assert!(
            (deviation - 1.0).abs() < 0.02,
            "standard deviation {deviation} ms"
        );
        for k in [0.1_f64, 1.0, 3.0] {
            let longer = gaps.iter().filter(|&&g| g > k).count() as f64 / n;
            assert!(
                (longer - (-k).exp()).abs() < 0.01,
                "share of gaps over {k} ms: {longer}"
            );
        }
    }

    #[test]
    fn constant_is_exact_and_does_not_drift() {
        let times = times_ns(Arrivals::Constant, 3000.0, 1, 300_001);
        assert_eq!(times[2999], 1_000_000_000);
        assert_eq!(times[299_999], 100_000_000_000);
    }

    #[test]
    fn same_seed_same_times_and_nothing_early() {
        assert_eq!(
            times_ns(Arrivals::Poisson, 500.0, 9, 1000),
            times_ns(Arrivals::Poisson, 500.0, 9, 1000)
        );
        assert_ne!(
            times_ns(Arrivals::Poisson, 500.0, 9, 1000),
            times_ns(Arrivals::Poisson, 500.0, 8, 1000)
        );
        let mut schedule = Schedule::new(Arrivals::Constant, 1000.0, 0, &endless());
        assert_eq!(schedule.take_due(999_999), None);
        assert_eq!(schedule.take_due(1_000_000), Some((0, 1_000_000)));
        assert_eq!(schedule.take_due(1_000_000), None);
    }

    /// 2 s of warm-up, 3 s, 1 s at ten times the rate, 2 s at half of it.
    fn spike() -> Phases {
        let phase = |duration, rate_factor| Phase {
            name: String::new(),
            duration: Duration::from_secs(duration),
            rate_factor,
            faults: Vec::new(),
        };
        Phases::marked(
            Duration::from_secs(2),
            vec![phase(3, 1.0), phase(1, 10.0), phase(2, 0.5)],
        )
    }

    fn all(schedule: &Schedule) -> Vec<u64> {
        let mut schedule = schedule.clone();
        std::iter::from_fn(|| schedule.take_due(u64::MAX).map(|(_, at)| at)).collect()
    }

    #[test]
    fn each_phase_has_its_rate_and_its_first_arrival() {
        for arrivals in [Arrivals::Constant, Arrivals::Poisson] {
            let schedule = Schedule::new(arrivals, 1000.0, 3, &spike());
            let times = all(&schedule);
            assert!(times.is_sorted());
            let first = schedule.first_numbers(&spike());
            let mut last = 0;
            for ((from_s, to_s, expected), first) in [(2, 5, 3000), (5, 6, 10_000), (6, 8, 1000)]
                .into_iter()
                .zip(first)
            {
                let within = times
                    .iter()
                    .filter(|&&at| (from_s..to_s).contains(&(at / 1_000_000_000)))
                    .count();
                // 4 sigma of a Poisson count; a constant schedule is off by the ends.
                assert!(
                    (within as f64 - f64::from(expected)).abs() < 4.0 * f64::from(expected).sqrt(),
                    "{within}"
                );
                let number = usize::try_from(first).unwrap();
                assert!(
                    times[number] >= from_s * 1_000_000_000 && times[number - 1] < from_s * 1_000_000_000
                );
                last = number + within;
            }
            assert_eq!(last, times.len(), "nothing after the last phase");
        }
    }

    #[test]
    fn so_many_and_no_more() {
        let phases = Phases::single(Duration::ZERO, Duration::from_millis(1));
        let schedule = Schedule::new(Arrivals::Constant, 1000.0, 0, &phases).exactly(2000);
        assert_eq!(all(&schedule).len(), 2000);
        assert_eq!(all(&schedule).last(), Some(&2_000_000_000));
    }
}
