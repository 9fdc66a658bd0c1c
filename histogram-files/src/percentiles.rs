//! A histogram as HdrHistogram's percentile file: what its `outputPercentileDistribution` writes and its plotter
//! reads.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

/// Nanoseconds in what the file counts in.
const NS_PER_MS: f64 = 1_000_000.0;

/// Lines per halving of the distance to 100 %, as HdrHistogram's own tools write them.
const TICKS_PER_HALF_DISTANCE: u32 = 5;

/// The file's text: four columns, values in milliseconds.
#[must_use]
pub fn percentile_file(durations_ns: &Histogram<u64>) -> String {
    let digits = usize::from(durations_ns.sigfig());
    // A line for each tick of each halving: some 60 at a thousand values, 130 at a billion.
    let mut text = String::with_capacity(8 * 1024);
    let _ = writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in durations_ns.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        let (value, quantile) = (ms(step.value_iterated_to()), step.quantile_iterated_to());
        count += step.count_since_last_iteration();
        let _ = write!(text, "{value:>12.digits$} {quantile:>.12} {count:>10}");
        let _ = if quantile < 1.0 {
            writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    foot(&mut text, durations_ns);
    text
}

fn foot(text: &mut String, histogram: &Histogram<u64>) {
    let digits = usize::from(histogram.sigfig());
    let _ = writeln!(
        text,
        "#[Mean    = {:>12.digits$}, StdDeviation   = {:>12.digits$}]",
        histogram.mean() / NS_PER_MS,
        histogram.stdev() / NS_PER_MS
    );
    let _ = writeln!(
        text,
        "#[Max     = {:>12.digits$}, Total count    = {:>12}]",
        ms(histogram.max()),
        histogram.len()
    );
    // Twice ten to the digits, and from there the next power of two: how the array is divided.
    let sub_buckets = (2 * 10_u32.pow(u32::from(histogram.sigfig()))).next_power_of_two();
    let _ = writeln!(
        text,
        "#[Buckets = {:>12}, SubBuckets     = {sub_buckets:>12}]",
        histogram.buckets()
    );
}

#[expect(clippy::cast_precision_loss, reason = "a duration to be read by people")]
fn ms(ns: u64) -> f64 {
    ns as f64 / NS_PER_MS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intervals::known_values;

    /// The fixture is what HdrHistogram's own `HistogramLogProcessor` made of the same values, see
    /// `tests/readers/read.py`.
    #[test]
    fn equals_what_the_java_implementation_writes() {
        assert_eq!(
            percentile_file(&known_values()),
            include_str!("../../tests/readers/known.hgrm")
        );
    }

    #[test]
    fn an_empty_histogram_is_a_file_too() {
        let empty = Histogram::new_with_bounds(16, 60_000_000_000, 3).unwrap();
        let text = percentile_file(&empty);
        assert!(
            text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"),
            "{text}"
        );
        assert!(text.contains("Total count    =            0]"), "{text}");
    }
}
