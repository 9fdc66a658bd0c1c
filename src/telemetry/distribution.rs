//! How often each value occurred, to a stated precision. This is the file that knows hdrhistogram; the formats
//! of its tools are written by the crate `histogram-files`.

use hdrhistogram::Histogram;
use hdrhistogram::iterators::IterationValue;

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
    /// How many values were recorded.
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

    /// How late a shard's loop is: as [`Self::of_dsp`], because a shard should never be so late that more digits
    /// would say more.
    pub(super) fn of_loop() -> Self {
        Self::of_dsp()
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

    /// Adds values of the same kind.
    pub(super) fn merge(&mut self, other: &impl Values) {
        other.add_to(self);
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

    /// For the formats of HdrHistogram's tools.
    pub(super) fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// What occurred and nothing of what did not: for keeping many.
    pub(super) fn sparse(&self) -> Sparse {
        let step = |step: IterationValue<u64>| {
            let count = u32::try_from(step.count_at_value()).unwrap_or(u32::MAX);
            (step.value_iterated_to(), count)
        };
        Sparse {
            steps: self.histogram.iter_recorded().map(step).collect(),
            sum: self.sum,
        }
    }

    /// The value at each percentile of HdrHistogram's percentile plot, as `(1 / (1 - quantile), value)`, from the
    /// smallest value to the one before the largest: that one's abscissa is infinite.
    pub(super) fn curve(&self) -> Vec<(f64, u64)> {
        self.histogram
            .iter_quantiles(TICKS_PER_HALF_DISTANCE)
            .filter(|step| step.quantile_iterated_to() < 1.0)
            .map(|step| {
                (
                    1.0 / (1.0 - step.quantile_iterated_to()),
                    step.value_iterated_to(),
                )
            })
            .collect()
    }

    /// How many values lie in each row of a heat map, see [`heat_row`].
    pub(super) fn heat(&self) -> [u32; HEAT_ROWS] {
        let mut rows = [0_u32; HEAT_ROWS];
        for step in self.histogram.iter_recorded() {
            let row = heat_row(self.histogram.lowest_equivalent(step.value_iterated_to()));
            let count = u32::try_from(step.count_at_value()).unwrap_or(u32::MAX);
            rows[row] = rows[row].saturating_add(count);
        }
        rows
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

/// The values that occurred, each with how often, and their sum.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sparse {
    steps: Box<[(u64, u32)]>,
    sum: u128,
}

/// What can be added to a distribution.
pub(super) trait Values {
    /// Adds these values to others of the same kind.
    fn add_to(&self, others: &mut Distribution);
}

impl Values for Distribution {
    fn add_to(&self, others: &mut Distribution) {
        // Same bounds on both sides, so there is nothing that could not be added. And nothing to add where nothing
        // occurred: that saves reading the whole array.
        if !self.histogram.is_empty() {
            let added = others.histogram.add(&self.histogram);
            debug_assert!(added.is_ok(), "{added:?}");
        }
        others.sum += self.sum;
    }
}

impl Values for Sparse {
    fn add_to(&self, others: &mut Distribution) {
        for &(value, count) in &self.steps {
            others.histogram.saturating_record_n(value, u64::from(count));
        }
        others.sum += self.sum;
    }
}

/// Points of a percentile curve between one half of what is left and the next, as HdrHistogram's tools have it.
pub(super) const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// Rows of a heat map: 16 in each of the four decades from 0.1 ms to 1 s, each 15 % above the one below.
pub(super) const HEAT_ROWS: usize = 64;
const HEAT_ROWS_PER_DECADE: f64 = 16.0;
const HEAT_NS_MIN: f64 = 100_000.0;

/// Where a duration lies in a heat map, from 0: row `n` begins at 0.1 ms times 10 to the power of `n / 16`. What is
/// shorter than the first or longer than the last counts there.
fn heat_row(ns: u64) -> usize {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a cast of a float saturates, and the rows are coarse"
    )]
    let row = (((ns.max(1) as f64) / HEAT_NS_MIN).log10() * HEAT_ROWS_PER_DECADE).floor() as usize;
    row.min(HEAT_ROWS - 1)
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

    #[test]
    fn rows_of_a_heat_map() {
        #[track_caller]
        fn check(ns: u64, row: usize) {
            assert_eq!(heat_row(ns), row, "{ns} ns");
        }
        check(0, 0);
        check(100_000, 0);
        check(115_000, 0);
        check(116_000, 1);
        check(999_000, 15);
        check(1_000_000, 16);
        check(10_000_000, 32);
        check(72_000_000, 45);
        check(100_000_000, 48);
        check(999_000_000, 63);
        check(u64::MAX, 63);
    }

    #[test]
    fn a_sparse_distribution_has_all_that_the_dense_one_has() {
        let mut dense = Distribution::of_stage();
        (0..5_000).for_each(|n| dense.record(n * n * 313));
        let mut again = Distribution::of_stage();
        again.merge(&dense.sparse());
        assert_eq!(again, dense);
        again.merge(&Distribution::of_stage().sparse());
        assert_eq!(again, dense);
    }

    #[test]
    fn a_curve_rises_and_ends_before_the_largest() {
        let mut distribution = Distribution::of_stage();
        assert_eq!(distribution.curve(), []);
        (1..=1_000).for_each(|n| distribution.record(n * 1_000_000));
        let curve = distribution.curve();
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{curve:?}");
        let (half, median) = curve.iter().copied().find(|&(x, _)| x >= 2.0).unwrap();
        assert!(
            (2.0..2.001).contains(&half) && median.abs_diff(500_000_000) < 1_000_000,
            "{half} {median}"
        );
        assert!(curve.iter().all(|(x, _)| x.is_finite()));
    }
}
