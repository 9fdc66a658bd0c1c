//! When each request is due. Decided before the run by rate and seed alone: nothing the server does can move
//! an arrival, which is what makes the load open. Reads no clock.

use super::random::Random;
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

/// An endless sequence of intended send times, in nanoseconds from the start of the run.
#[derive(Debug)]
pub(crate) struct Schedule {
    arrivals: Arrivals,
    gap_ns: f64,
    random: Random,
    count: u64,
    next_ns: f64,
}

impl Schedule {
    /// `rate` is in requests per second and positive.
    pub(crate) fn new(arrivals: Arrivals, rate: f64, seed: u64) -> Schedule {
        let mut schedule = Schedule {
            arrivals,
            gap_ns: 1e9 / rate,
            random: Random::new(seed ^ 0x5ced_01e5),
            count: 0,
            next_ns: 0.0,
        };
        schedule.advance();
        schedule
    }

    /// The next arrival, not yet taken.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive time"
    )]
    pub(crate) fn peek_ns(&self) -> u64 {
        self.next_ns as u64
    }

    /// Takes the next arrival if it is due: its sequence number and its intended time.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<(u64, u64)> {
        let due_ns = self.peek_ns();
        if due_ns > now_ns {
            return None;
        }
        let number = self.count - 1;
        self.advance();
        Some((number, due_ns))
    }

    /// A double holds nanoseconds exactly for 104 days (2^53), so sums of gaps do not drift.
    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^53")]
    fn advance(&mut self) {
        self.count += 1;
        match self.arrivals {
            Arrivals::Poisson => self.next_ns -= self.random.unit().ln() * self.gap_ns,
            Arrivals::Constant => self.next_ns = self.count as f64 * self.gap_ns,
        }
    }
}

#[cfg(test)]
#[expect(clippy::cast_precision_loss, reason = "statistics of small counts")]
mod tests {
    use super::*;

    fn times_ns(arrivals: Arrivals, rate: f64, seed: u64, n: usize) -> Vec<u64> {
        let mut schedule = Schedule::new(arrivals, rate, seed);
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
        let mut schedule = Schedule::new(Arrivals::Constant, 1000.0, 0);
        assert_eq!(schedule.take_due(999_999), None);
        assert_eq!(schedule.take_due(1_000_000), Some((0, 1_000_000)));
        assert_eq!(schedule.take_due(1_000_000), None);
    }
}
