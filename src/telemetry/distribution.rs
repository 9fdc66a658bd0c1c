//! How often each value occurred, to a stated precision. The one file that knows hdrhistogram.

use hdrhistogram::Histogram;

/// The largest duration told apart, 60 s: six hundred times what an SSP waits. More is counted as this.
const DURATION_NS_MAX: u64 = 60_000_000_000;

/// The largest price told apart, 10,000 CPM; real ones end two orders of magnitude below.
const PRICE_MICROS_MAX: u64 = 10_000_000_000;

/// A histogram of fixed size, and the exact sum of what went into it.
#[derive(Debug, Clone)]
pub(super) struct Distribution {
    histogram: Histogram<u64>,
    /// 128 bits, because 64 would not do: a million orchestrations per second of 36 ms each add 3.6e13 ns per
    /// second, which overflows after six days.
    sum: u128,
}

/// A distribution in a few numbers, in nanoseconds. All zero while nothing was recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Summary {
    /// Values recorded since the process started.
    pub count: u64,
    /// Half of the values are at or below this, ns.
    pub p50_ns: u64,
    /// 90 % of the values are at or below this, ns.
    pub p90_ns: u64,
    /// 99 % of the values are at or below this, ns.
    pub p99_ns: u64,
    /// 99.9 % of the values are at or below this, ns.
    pub p99_9_ns: u64,
    /// The largest value, ns.
    pub max_ns: u64,
}

impl Distribution {
    /// Durations of our own work: steps of 16 ns up to 32 us, and three significant digits from there on, so
    /// that a stage of one microsecond can be read as well as a total of 72 ms. 188 kB.
    pub(super) fn of_stage() -> Self {
        Self::new(16, DURATION_NS_MAX, 3)
    }

    /// Durations of DSP calls: two significant digits, in steps of no less than half a microsecond. At 22 kB
    /// for each of 23 DSPs the whole set fits a core's L2 cache; with three digits it would be 3.2 MB, and
    /// most calls a cache miss.
    pub(super) fn of_dsp() -> Self {
        Self::new(1_000, DURATION_NS_MAX, 2)
    }

    /// Durations of handshakes with a DSP: they are rare and take from a fraction of a millisecond to some hundreds, so
    /// one significant digit (a step of at most 6 %) will do. 2.5 kB.
    pub(super) fn of_handshake() -> Self {
        Self::new(10_000, DURATION_NS_MAX, 1)
    }

    /// Prices per mille in micros of a currency, two significant digits.
    pub(super) fn of_price() -> Self {
        Self::new(100, PRICE_MICROS_MAX, 2)
    }

    #[expect(
        clippy::expect_used,
        reason = "called with the constants above only; every test would fail"
    )]
    fn new(lowest: u64, highest: u64, digits: u8) -> Self {
        let histogram = Histogram::new_with_bounds(lowest, highest, digits).expect("valid constant bounds");
        Self { histogram, sum: 0 }
    }

    /// Counts a value. No allocation; a value past the range counts as the largest.
    pub(super) fn record(&mut self, value: u64) {
        self.histogram.saturating_record(value);
        self.sum += u128::from(value);
    }

    /// Adds another distribution of the same kind.
    pub(super) fn merge(&mut self, other: &Self) {
        // Same bounds on both sides, so there is nothing that could not be added.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "{added:?}");
        self.sum += other.sum;
    }

    /// Forgets everything, keeps the memory.
    pub(super) fn clear(&mut self) {
        // Clearing writes the whole array; most DSPs are never late, and most intervals see no stall.
        if !self.histogram.is_empty() {
            self.histogram.reset();
        }
        self.sum = 0;
    }

    pub(super) fn count(&self) -> u64 {
        self.histogram.len()
    }

    pub(super) fn sum(&self) -> u128 {
        self.sum
    }

    /// How many values are at or below each of the ascending `edges`. A value counts by the lower end of its
    /// step, so one that lies exactly on an edge is below it, as Prometheus wants, and one at most a step
    /// (0.1 % or 1 %) above it may be, too.
    pub(super) fn cumulative<const N: usize>(&self, edges: &[u64; N]) -> [u64; N] {
        let mut counts = [0; N];
        for step in self.histogram.iter_recorded() {
            let lowest = self.histogram.lowest_equivalent(step.value_iterated_to());
            let edge = edges.partition_point(|&edge| edge < lowest);
            if let Some(count) = counts.get_mut(edge) {
                *count += step.count_at_value();
            }
        }
        let mut below = 0;
        for count in &mut counts {
            below += *count;
            *count = below;
        }
        counts
    }

    pub(super) fn summary(&self) -> Summary {
        if self.histogram.is_empty() {
            return Summary::default();
        }
        // The upper end of the last value's step is not a value that occurred.
        let max_ns = self.histogram.max().min(DURATION_NS_MAX);
        let at = |quantile| self.histogram.value_at_quantile(quantile).min(max_ns);
        Summary {
            count: self.histogram.len(),
            p50_ns: at(0.5),
            p90_ns: at(0.9),
            p99_ns: at(0.99),
            p99_9_ns: at(0.999),
            max_ns,
        }
    }
}

impl PartialEq for Distribution {
    fn eq(&self, other: &Self) -> bool {
        self.histogram == other.histogram && self.sum == other.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn precision() {
        #[track_caller]
        fn check(mut distribution: Distribution, value: u64, error_max: u64) {
            distribution.record(value);
            let read = distribution.summary().p50_ns;
            assert!(read.abs_diff(value) <= error_max, "{value} was read as {read}");
            assert_eq!(distribution.sum(), u128::from(value));
        }
        check(Distribution::of_stage(), 0, 15);
        check(Distribution::of_stage(), 1_000, 15);
        check(Distribution::of_stage(), 30_000, 15);
        check(Distribution::of_stage(), 72_000_000, 72_000);
        check(Distribution::of_dsp(), 100_000, 1_000);
        check(Distribution::of_dsp(), 72_000_000, 720_000);
        check(Distribution::of_dsp(), 59_000_000_000, 590_000_000);
        check(Distribution::of_handshake(), 300_000, 18_000);
        check(Distribution::of_handshake(), 250_000_000, 15_000_000);
    }

    #[test]
    fn past_the_range_is_the_largest() {
        let mut distribution = Distribution::of_stage();
        distribution.record(u64::MAX);
        assert_eq!(distribution.count(), 1);
        assert_eq!(distribution.summary().max_ns, DURATION_NS_MAX);
    }

    #[test]
    fn a_value_on_an_edge_is_below_it() {
        let edges = [50_000, 72_000_000, 100_000_000];
        #[track_caller]
        fn check(edges: &[u64; 3], value: u64, expected: [u64; 3]) {
            let mut distribution = Distribution::of_stage();
            distribution.record(value);
            assert_eq!(distribution.cumulative(edges), expected, "{value}");
        }
        check(&edges, 0, [1, 1, 1]);
        check(&edges, 50_000, [1, 1, 1]);
        check(&edges, 50_100, [0, 1, 1]);
        check(&edges, 72_000_000, [0, 1, 1]);
        check(&edges, 72_100_000, [0, 0, 1]);
        check(&edges, 100_000_000, [0, 0, 1]);
        check(&edges, 100_200_000, [0, 0, 0]);
    }
}
