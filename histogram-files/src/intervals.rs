//! Histograms as lines of HdrHistogram's interval log, version 1.3: what its `HistogramLogReader` reads. Each line
//! holds a whole histogram (V2, compressed, base64), so that a reader can add intervals up and take percentiles of
//! the sum; percentiles themselves could not be added.

use std::fmt::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};

/// What an interval log begins with; `start` since the Unix epoch, `remark` for whoever opens the file.
#[must_use]
pub fn log_header(start: Duration, remark: &str) -> String {
    let mut text = Vec::new();
    // To memory, with a serializer that is not asked for anything.
    let _written = IntervalLogWriterBuilder::new()
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&format!("[{remark}]"))
        .with_start_time(UNIX_EPOCH + start)
        .begin_log_with(&mut text, &mut V2DeflateSerializer::new());
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text.push_str(
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
    );
    text
}

/// Writes lines.
pub struct LogLines {
    serializer: V2DeflateSerializer,
    tag: String,
}

/// When an interval was, since the Unix epoch, and how long.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Since the Unix epoch.
    pub start: Duration,
    /// From its start to its end.
    pub length: Duration,
}

impl Default for LogLines {
    fn default() -> Self {
        Self {
            serializer: V2DeflateSerializer::new(),
            tag: String::new(),
        }
    }
}

impl fmt::Debug for LogLines {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("LogLines").finish_non_exhaustive()
    }
}

/// A tag as it is being written: it ends at a comma, and a line at its end, so neither can be in it.
struct TagText<'a>(&'a mut String);

impl fmt::Write for TagText<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let fits = |character: char| {
            if character == ',' || character.is_whitespace() {
                '_'
            } else {
                character
            }
        };
        self.0.extend(text.chars().map(fits));
        Ok(())
    }
}

impl LogLines {
    /// Adds the line of an interval to `text`. The one without a tag is what tools show that are not asked for a tag.
    pub fn write(
        &mut self,
        text: &mut Vec<u8>,
        tag: Option<fmt::Arguments<'_>>,
        span: Span,
        durations_ns: &Histogram<u64>,
    ) {
        self.tag.clear();
        if let Some(tag) = tag {
            let _ = TagText(&mut self.tag).write_fmt(tag);
        }
        // Times are since the epoch, so neither of the header's times is given: this writer adds none to them.
        let Ok(mut writer) = IntervalLogWriterBuilder::new().begin_log_with(text, &mut self.serializer)
        else {
            return;
        };
        let tag = if self.tag.is_empty() {
            None
        } else {
            Tag::new(&self.tag)
        };
        // It fails where the array is larger than the format can say: ours are of fixed size.
        let written = writer.write_histogram(durations_ns, span.start, span.length, tag);
        debug_assert!(written.is_ok(), "{written:?}");
    }
}

/// Values for the fixtures in `tests/readers`; `known_values` of `read.py` there are the same.
#[cfg(test)]
pub(crate) fn known_values() -> Histogram<u64> {
    let mut histogram = Histogram::new_with_bounds(16, 60_000_000_000, 3).unwrap();
    (0..2_000).for_each(|n| histogram.saturating_record(1_000_000 + n * n * 97));
    histogram.saturating_record(900);
    histogram.saturating_record(5_000_000_000);
    histogram
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::io::Read;

    use super::*;

    /// The lines of `tests/readers/known.hlog`.
    fn known_log() -> String {
        let mut lines = LogLines::default();
        let span = Span {
            start: Duration::from_secs(1_800_000_000),
            length: Duration::from_millis(1_500),
        };
        let remark = "corebid 0.0.0: durations in ns; a line without a tag is stage total";
        let mut text = log_header(span.start, remark).into_bytes();
        lines.write(&mut text, None, span, &known_values());
        let mut one = Histogram::new_with_bounds(1_000, 60_000_000_000, 2).unwrap();
        one.saturating_record(12_800_000);
        lines.write(&mut text, Some(format_args!("dsp:{}", "a,b c")), span, &one);
        String::from_utf8(text).unwrap()
    }

    /// Everything but the compression, which is zlib's affair and may change with it.
    fn uncompressed(log: &str) -> Vec<(String, Vec<u8>)> {
        log.lines()
            .map(|line| match line.rsplit_once(',') {
                Some((before, encoded)) if encoded.starts_with("HIST") => {
                    let bytes = base64_decode(encoded);
                    let mut payload = Vec::new();
                    // Cookie and length come before the zlib stream.
                    flate2::read::ZlibDecoder::new(&bytes[8..])
                        .read_to_end(&mut payload)
                        .unwrap();
                    (before.to_owned(), payload)
                }
                _ => (line.to_owned(), Vec::new()),
            })
            .collect()
    }

    fn base64_decode(text: &str) -> Vec<u8> {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let digits = text
            .bytes()
            .filter_map(|byte| DIGITS.iter().position(|&digit| digit == byte));
        let (mut bits, mut held, mut bytes) = (0_usize, 0, Vec::new());
        for digit in digits {
            (bits, held) = (bits << 6 | digit, held + 6);
            if held >= 8 {
                held -= 8;
                bytes.push(u8::try_from(bits >> held & 0xff).unwrap());
            }
        }
        bytes
    }

    /// `tests/readers/read.py known` has read the fixture with the Python reader: as long as we write the same, that
    /// reader reads it. After a change that is meant: `COREBID_WRITE_FIXTURES=1 cargo test -p histogram-files`, then `read.py`.
    #[test]
    fn writes_what_other_readers_were_seen_to_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/readers/known.hlog");
        if std::env::var_os("COREBID_WRITE_FIXTURES").is_some() {
            std::fs::write(path, known_log()).unwrap();
        }
        let fixture = std::fs::read_to_string(path).unwrap();
        assert_eq!(uncompressed(&known_log()), uncompressed(&fixture));
    }

    #[test]
    fn every_line_is_an_interval_with_its_time_and_tag() {
        let log = known_log();
        let read: Vec<_> = IntervalLogIterator::new(log.as_bytes())
            .map(Result::unwrap)
            .filter_map(|entry| match entry {
                LogEntry::Interval(interval) => Some((
                    interval.tag().map(|tag| tag.as_str().to_owned()),
                    interval.start_timestamp(),
                    interval.duration(),
                )),
                LogEntry::StartTime(_) | LogEntry::BaseTime(_) => None,
            })
            .collect();
        let (start, length) = (Duration::from_secs(1_800_000_000), Duration::from_millis(1_500));
        assert_eq!(
            read,
            [
                (None, start, length),
                (Some("dsp:a_b_c".to_owned()), start, length)
            ]
        );
    }
}
