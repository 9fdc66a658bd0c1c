//! Latencies as HDR histograms and the few numbers of them that are printed. Knows no units but nanoseconds.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Durations in nanoseconds, up to an hour, to three significant digits (0.1 %).
#[derive(Clone, Debug)]
pub(crate) struct Latencies {
    histogram: Histogram<u64>,
}

/// What is printed of a histogram, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// How many values there are.
    pub count: u64,
    /// Arithmetic mean.
    pub mean_ms: f64,
    /// Half are not above this.
    pub p50_ms: f64,
    /// 90 % are not above this.
    pub p90_ms: f64,
    /// 99 % are not above this.
    pub p99_ms: f64,
    /// 99.9 % are not above this.
    pub p999_ms: f64,
    /// None is above this.
    pub max_ms: f64,
}

/// A distribution from its median to its last value: the line that HdrHistogram plots. What has most values is never
/// more than some 130 points.
pub type Curve = Vec<Point>;

/// A percentile, in per cent; no value of it is above so many milliseconds; so many values that is.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Point(pub f64, pub f64, pub u64);

/// Points per halving of the distance to 100 %, as in HdrHistogram's own files.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

const HOUR_NS: u64 = 3_600_000_000_000;

impl Default for Latencies {
    #[expect(
        clippy::expect_used,
        reason = "constant bounds that the library accepts, as every test shows"
    )]
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1_000, HOUR_NS, 3);
        Latencies {
            histogram: histogram.expect("bounds within the library's limits"),
        }
    }
}

impl Latencies {
    pub(crate) fn record_ns(&mut self, value_ns: u64) {
        self.histogram.saturating_record(value_ns);
    }

    /// For the files of HdrHistogram's tools.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.histogram
    }

    /// Forgets all values and keeps the memory.
    pub(crate) fn clear(&mut self) {
        // That writes 200 kB, for nothing where nothing was recorded.
        if !self.histogram.is_empty() {
            self.histogram.reset();
        }
    }

    /// Empty if nothing was recorded.
    pub(crate) fn curve(&self) -> Curve {
        let mut count = 0;
        let mut curve = Curve::new();
        for step in self.histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
            count += step.count_since_last_iteration();
            let percentile = (step.quantile_iterated_to() * 1e8).round() / 1e6;
            let point = Point(percentile, millis(step.value_iterated_to()), count);
            // Many values alike are many steps of one height: its ends are all of it.
            if let [.., before, last] = &mut curve[..]
                && before.1 == point.1
                && last.1 == point.1
            {
                *last = point;
            } else {
                curve.push(point);
            }
        }
        curve
    }

    /// Takes in the values of another.
    pub(crate) fn add(&mut self, other: &Latencies) {
        // Of the same bounds, so there is nothing that could not be added.
        let added = self.histogram.add(&other.histogram);
        debug_assert!(added.is_ok(), "{added:?}");
    }

    pub(crate) fn percentiles(&self) -> Percentiles {
        if self.histogram.is_empty() {
            return Percentiles::default();
        }
        let at = |quantile| millis(self.histogram.value_at_quantile(quantile));
        Percentiles {
            count: self.histogram.len(),
            mean_ms: rounded(self.histogram.mean() / 1e6),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: millis(self.histogram.max()),
        }
    }
}

#[expect(
    clippy::cast_precision_loss,
    reason = "an hour of nanoseconds fits a double exactly"
)]
fn millis(ns: u64) -> f64 {
    rounded(ns as f64 / 1e6)
}

/// To whole microseconds: more would be noise in a committed report.
fn rounded(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_the_values_recorded() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|ms| latencies.record_ns(ms * 1_000_000));
        let p = latencies.percentiles();
        let near =
            |got: f64, expected: f64| assert!((got - expected).abs() <= expected * 2e-3, "{got} {expected}");
        assert_eq!(p.count, 1000);
        [
            (p.p50_ms, 500.0),
            (p.p90_ms, 900.0),
            (p.p99_ms, 990.0),
            (p.p999_ms, 999.0),
            (p.max_ms, 1000.0),
        ]
        .iter()
        .for_each(|&(got, expected)| near(got, expected));
    }

    #[test]
    fn nothing_recorded_is_all_zeros() {
        assert_eq!(Latencies::default().percentiles(), Percentiles::default());
        assert!(Latencies::default().curve().is_empty());
    }

    #[test]
    fn a_curve_rises_to_the_last_value_and_says_how_many_are_below() {
        let mut latencies = Latencies::default();
        (1..=1000).for_each(|ms| latencies.record_ns(ms * 1_000_000));
        let curve = latencies.curve();
        assert!(
            curve
                .windows(2)
                .all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
        );
        let at_90 = curve.iter().find(|point| point.0 >= 90.0).unwrap();
        assert!(
            (at_90.1 - 900.0).abs() < 10.0 && at_90.2.abs_diff(900) < 10,
            "{at_90:?}"
        );
        let last = curve.last().unwrap();
        assert_eq!((last.0, last.2), (100.0, 1000));

        latencies.clear();
        (0..1000).for_each(|_| latencies.record_ns(5_000_000));
        let level = latencies.curve();
        assert_eq!(level.len(), 2, "{level:?}");
    }
}
