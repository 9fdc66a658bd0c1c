//! Distributions as lines of HdrHistogram's interval log, version 1.3: what its `HistogramLogReader` reads. Each line
//! holds a whole histogram (V2, compressed, base64), so that a reader can add intervals up and take percentiles of
//! the sum; percentiles themselves could not be added.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

use super::distribution::Distribution;

/// What an interval log begins with; `start` since the Unix epoch.
#[must_use]
pub fn header(start: Duration) -> String {
    let mut text = Vec::new();
    // To memory, with a serializer that is not asked for anything.
    let _written = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(concat!(
            "[corebid ",
            env!("CARGO_PKG_VERSION"),
            ": durations in ns; a line without a tag is stage total]"
        ))
        .with_start_time(UNIX_EPOCH + start)
        .begin_log_with(&mut text, &mut V2DeflateSerializer::new());
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text.push_str("\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n");
    text
}

/// Writes lines.
pub(super) struct Lines {
    serializer: V2DeflateSerializer,
    tag: String,
}

/// When an interval was, since the Unix epoch, and how long.
#[derive(Debug, Clone, Copy)]
pub(super) struct Span {
    pub(super) start: Duration,
    pub(super) length: Duration,
}

impl Lines {
    pub(super) fn new() -> Self {
        Self {
            serializer: V2DeflateSerializer::new(),
            tag: String::new(),
        }
    }

    /// Adds the line of an interval to `text`. The one without a tag is what tools show that are not asked for a tag.
    pub(super) fn write(&mut self, text: &mut Vec<u8>, tag: Option<(&str, &str)>, span: Span, values: &Distribution) {
        self.tag.clear();
        if let Some((kind, name)) = tag {
            let _ = write!(self.tag, "{kind}:");
            // A tag ends at a comma, and a line at its end.
            let fits = |character: char| {
                if character == ',' || character.is_whitespace() {
                    '_'
                } else {
                    character
                }
            };
            self.tag.extend(name.chars().map(fits));
        }
        // Times are since the epoch, so neither of the header's times is given: this writer adds none to them.
        let Ok(mut writer) = IntervalLogWriterBuilder::new().begin_log_with(text, &mut self.serializer) else {
            return;
        };
        let tag = if self.tag.is_empty() { None } else { Tag::new(&self.tag) };
        // It fails where the array is larger than the format can say: ours are of fixed size.
        let written = writer.write_histogram(values.histogram(), span.start, span.length, tag);
        debug_assert!(written.is_ok(), "{written:?}");
    }
}
