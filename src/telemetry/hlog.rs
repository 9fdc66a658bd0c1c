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
    text.push_str(
        "\"StartTimestamp\",\"Interval_Length\",\"Interval_Max\",\"Interval_Compressed_Histogram\"\n",
    );
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
    pub(super) fn write(
        &mut self,
        text: &mut Vec<u8>,
        tag: Option<(&str, &str)>,
        span: Span,
        values: &Distribution,
    ) {
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
        let written = writer.write_histogram(values.histogram(), span.start, span.length, tag);
        debug_assert!(written.is_ok(), "{written:?}");
    }
}

/// Values for the fixtures in `tests/readers`; `known_values` of `read.py` there are the same.
#[cfg(test)]
pub(super) fn known_values() -> Distribution {
    let mut distribution = Distribution::of_stage();
    (0..2_000).for_each(|n| distribution.record(1_000_000 + n * n * 97));
    distribution.record(900);
    distribution.record(5_000_000_000);
    distribution
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::interval_log::{IntervalLogIterator, LogEntry};
    use std::io::Read;

    use super::*;

    /// The lines of `tests/readers/known.hlog`.
    fn known_log() -> String {
        let mut lines = Lines::new();
        let span = Span {
            start: Duration::from_secs(1_800_000_000),
            length: Duration::from_millis(1_500),
        };
        let mut text = header(span.start)
            .replace(env!("CARGO_PKG_VERSION"), "0.0.0")
            .into_bytes();
        lines.write(&mut text, None, span, &known_values());
        let mut one = Distribution::of_dsp();
        one.record(12_800_000);
        lines.write(&mut text, Some(("dsp", "a,b c")), span, &one);
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
    /// reader reads it. After a change that is meant: `COREBID_WRITE_FIXTURES=1 cargo test --lib hlog`, then `read.py`.
    #[test]
    fn writes_what_other_readers_were_seen_to_read() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/readers/known.hlog");
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
