//! A distribution as HdrHistogram's percentile file: what its `outputPercentileDistribution` writes and its plotter
//! reads.

use std::fmt::Write as _;

use hdrhistogram::Histogram;

use super::distribution::{Distribution, TICKS_PER_HALF_DISTANCE};

/// Nanoseconds in what the file counts in.
const NS_PER_MS: f64 = 1_000_000.0;

/// The file's text: four columns, values in milliseconds.
pub(super) fn text(distribution: &Distribution) -> String {
    let histogram = distribution.histogram();
    let digits = usize::from(histogram.sigfig());
    // A line for each tick of each halving: some 60 at a thousand values, 130 at a billion.
    let mut text = String::with_capacity(8 * 1024);
    let _ = writeln!(
        text,
        "{:>12} {:>14} {:>10} {:>14}\n",
        "Value", "Percentile", "TotalCount", "1/(1-Percentile)"
    );
    let mut count = 0;
    for step in histogram.iter_quantiles(TICKS_PER_HALF_DISTANCE) {
        let (value, quantile) = (ms(step.value_iterated_to()), step.quantile_iterated_to());
        count += step.count_since_last_iteration();
        let _ = write!(text, "{value:>12.digits$} {quantile:>.12} {count:>10}");
        let _ = if quantile < 1.0 {
            writeln!(text, " {:>14.2}", 1.0 / (1.0 - quantile))
        } else {
            writeln!(text)
        };
    }
    foot(&mut text, histogram);
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
    use super::super::hlog::known_values;
    use super::*;

    /// The fixture is what HdrHistogram's own `HistogramLogProcessor` made of the same values, see
    /// `tests/readers/read.py`.
    #[test]
    fn equals_what_the_java_implementation_writes() {
        assert_eq!(
            text(&known_values()),
            include_str!("../../tests/readers/known.hgrm")
        );
    }

    #[test]
    fn an_empty_distribution_is_a_file_too() {
        let text = text(&Distribution::of_stage());
        assert!(
            text.starts_with("       Value     Percentile TotalCount 1/(1-Percentile)\n\n"),
            "{text}"
        );
        assert!(text.contains("Total count    =            0]"), "{text}");
    }
}
