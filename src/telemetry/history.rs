//! The last quarter of an hour, second by second: small numbers for all of it, every distribution for the last minute,
//! and the lines of an interval log for as much of it as fits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use histogram_files::{LogLines, log_header};

use super::counted::Counted;
use super::distribution::{HEAT_ROWS, Sparse, Summary};
use super::interval::DspTally;
use super::labels::{DspOutcome, Stage, StatusCounts};

pub(super) use histogram_files::Span;

/// Seconds that are remembered: what an SRE who is woken up wants to see of what was before. Under 1 kB each with 23
/// DSPs.
pub(super) const SECONDS_MAX: usize = 900;

/// What an interval log of this process begins with; `start` since the Unix epoch.
#[must_use]
pub fn interval_log_header(start: Duration) -> String {
    let version = env!("CARGO_PKG_VERSION");
    log_header(
        start,
        &format!("corebid {version}: durations in ns; a line without a tag is stage total"),
    )
}

/// Seconds whose distributions are remembered. At 6,000 requests a second each is some 150 kB.
pub(super) const DETAILED_MAX: usize = 60;

/// Lines of the interval log that are remembered. With 23 DSPs and 6,000 requests a second a second has some 30 kB, so
/// that this is all of the quarter of an hour; with more DSPs it is less, the oldest go first. One second is kept,
/// however much it is.
const LOG_BYTES_MAX: usize = 32 << 20;

/// See the module's description.
pub(super) struct History {
    seconds: VecDeque<Second>,
    /// Of the next second.
    number: u64,
    /// Bytes in the seconds' `lines`.
    log_bytes: usize,
    /// [`SECONDS_MAX`] and [`LOG_BYTES_MAX`], but in tests.
    seconds_max: usize,
    log_bytes_max: usize,
    lines: LogLines,
}

/// One second, over all shards.
pub(super) struct Second {
    /// How many were before it since the process started.
    pub(super) number: u64,
    pub(super) span: Span,
    pub(super) requests: StatusCounts,
    /// When it ended.
    pub(super) in_flight: u64,
    pub(super) total: Summary,
    pub(super) heat: [u32; HEAT_ROWS],
    /// In the order of [`Counted::dsps`] since the start.
    pub(super) dsps: Box<[DspSecond]>,
    pub(super) counted: Option<Box<Counted<Sparse>>>,
    lines: Arc<[u8]>,
}

/// One DSP in one second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DspSecond {
    /// Calls that ended, those that were not made among them.
    pub(super) calls: u64,
    /// Those of them that brought neither a bid nor a no, but for those that were not waited for.
    pub(super) failed: u64,
}

impl DspSecond {
    pub(super) fn of<D>(tally: &DspTally<D>) -> Self {
        let fine = [DspOutcome::Bid, DspOutcome::NoBid, DspOutcome::Cut];
        let calls = tally.calls.sum();
        Self {
            calls,
            failed: calls - fine.map(|outcome| tally.calls.get(outcome)).iter().sum::<u64>(),
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            seconds: VecDeque::with_capacity(SECONDS_MAX),
            number: 0,
            log_bytes: 0,
            seconds_max: SECONDS_MAX,
            log_bytes_max: LOG_BYTES_MAX,
            lines: LogLines::default(),
        }
    }
}

impl History {
    /// Remembers what was counted in `span`, the second after the last one; returns its lines for the interval log.
    pub(super) fn add(&mut self, counted: &Counted, in_flight: u64, span: Span) -> Arc<[u8]> {
        let lines = self.lines_of(counted, span);
        let total = &counted.tally.stages[Stage::Total as usize];
        self.forget_the_oldest(lines.len());
        self.seconds.push_back(Second {
            number: self.number,
            span,
            requests: counted.tally.requests,
            in_flight,
            total: total.summary(),
            heat: total.heat(),
            dsps: counted
                .dsps
                .iter()
                .map(|(_, tally)| DspSecond::of(tally))
                .collect(),
            counted: Some(Box::new(counted.sparse())),
            lines: Arc::clone(&lines),
        });
        self.number += 1;
        self.log_bytes += lines.len();
        lines
    }

    /// The DSP that was at `index` is no longer in [`Counted::dsps`].
    pub(super) fn forget_dsp(&mut self, index: usize) {
        for second in &mut self.seconds {
            if index < second.dsps.len() {
                let mut dsps = std::mem::take(&mut second.dsps).into_vec();
                dsps.remove(index);
                second.dsps = dsps.into();
            }
        }
    }

    /// The seconds from number `since` on.
    pub(super) fn since(&self, since: u64) -> impl Iterator<Item = &Second> {
        self.seconds.iter().filter(move |second| second.number >= since)
    }

    /// Adds up the last `seconds`, at most [`DETAILED_MAX`], in `sum`; returns how long they were.
    pub(super) fn add_up(&self, seconds: usize, sum: &mut Counted) -> Duration {
        let mut length = Duration::ZERO;
        for second in self.seconds.iter().rev().take(seconds) {
            let Some(counted) = &second.counted else { break };
            sum.merge(counted);
            length += second.span.length;
        }
        length
    }

    pub(super) fn interval_log(&self) -> Vec<u8> {
        let kept = || self.seconds.iter().filter(|second| !second.lines.is_empty());
        let start = kept().next().map_or(Duration::ZERO, |second| second.span.start);
        let mut log = interval_log_header(start).into_bytes();
        log.reserve(self.log_bytes);
        kept().for_each(|second| log.extend_from_slice(&second.lines));
        log
    }

    /// Makes room for one second more, with so many bytes of lines.
    fn forget_the_oldest(&mut self, log_bytes: usize) {
        if self.seconds.len() >= self.seconds_max
            && let Some(oldest) = self.seconds.pop_front()
        {
            self.log_bytes -= oldest.lines.len();
        }
        let detailed = self.seconds.len().saturating_sub(DETAILED_MAX - 1);
        if let Some(oldest) = detailed
            .checked_sub(1)
            .and_then(|index| self.seconds.get_mut(index))
        {
            oldest.counted = None;
        }
        let mut with_lines = self.seconds.iter_mut().filter(|second| !second.lines.is_empty());
        while self.log_bytes + log_bytes > self.log_bytes_max {
            let Some(oldest) = with_lines.next() else { break };
            self.log_bytes -= oldest.lines.len();
            oldest.lines = Arc::default();
        }
    }

    /// Without a tag stage total, also when there was nothing: a reader sees that the process lived. By tag the other
    /// stages, DSPs and shards where there was something.
    fn lines_of(&mut self, counted: &Counted, span: Span) -> Arc<[u8]> {
        let mut text = Vec::new();
        for (stage, durations) in Stage::ALL.iter().zip(&counted.tally.stages) {
            match stage {
                Stage::Total => self.lines.write(&mut text, None, span, durations.histogram()),
                _ if durations.count() == 0 => {}
                _ => self.lines.write(
                    &mut text,
                    Some(format_args!("stage:{}", stage.label())),
                    span,
                    durations.histogram(),
                ),
            }
        }
        for (name, tally) in &counted.dsps {
            if tally.latency.count() > 0 {
                self.lines.write(
                    &mut text,
                    Some(format_args!("dsp:{name}")),
                    span,
                    tally.latency.histogram(),
                );
            }
        }
        for (shard, tally) in &counted.shards {
            if tally.total.count() > 0 {
                self.lines.write(
                    &mut text,
                    Some(format_args!("shard:{shard}")),
                    span,
                    tally.total.histogram(),
                );
            }
        }
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::super::labels::DspOutcome;
    use super::*;

    fn counted(requests: u64) -> Counted {
        let mut counted = Counted::default();
        let mut dsp = DspTally::default();
        for n in 0..requests {
            counted.tally.stages[Stage::Total as usize].record(30_000_000 + n * 1_000_000);
            counted.tally.requests.add_one(200);
            dsp.calls.add_one(if n == 0 {
                DspOutcome::Timeout
            } else {
                DspOutcome::Bid
            });
            dsp.latency.record(12_000_000);
        }
        counted.dsps.push(("dsp1".to_owned(), dsp));
        counted
    }

    fn span(second: u64) -> Span {
        Span {
            start: Duration::from_secs(second),
            length: Duration::from_secs(1),
        }
    }

    /// That keeps ten seconds, after so many.
    fn history(seconds: u64) -> History {
        let mut history = History {
            seconds_max: 10,
            ..History::default()
        };
        let counted = counted(1);
        for second in 0..seconds {
            history.add(&counted, 3, span(second));
        }
        history
    }

    #[test]
    fn so_many_seconds_and_no_more() {
        assert_eq!(History::default().seconds_max, 15 * 60);
        for (seconds, oldest) in [(10, 0), (11, 1), (25, 15)] {
            let history = history(seconds);
            let kept: Vec<_> = history.since(0).map(|second| second.number).collect();
            assert_eq!(kept, (oldest..seconds).collect::<Vec<_>>());
            assert_eq!(history.since(seconds - 2).count(), 2);
            assert_eq!(history.since(seconds).count(), 0);
        }
    }

    #[test]
    fn distributions_of_the_last_minute_and_no_more() {
        let mut history = History::default();
        let counted = counted(1);
        for second in 0..DETAILED_MAX as u64 + 3 {
            history.add(&counted, 0, span(second));
        }
        assert_eq!(
            history
                .seconds
                .iter()
                .filter(|second| second.counted.is_some())
                .count(),
            DETAILED_MAX
        );
        for (asked, got) in [
            (1, 1),
            (10, 10),
            (DETAILED_MAX, DETAILED_MAX),
            (DETAILED_MAX + 1, DETAILED_MAX),
        ] {
            let mut sum = Counted::default();
            let length = history.add_up(asked, &mut sum);
            assert_eq!(length, Duration::from_secs(got as u64));
            assert_eq!(sum.tally.stages[Stage::Total as usize].count(), got as u64);
        }
    }

    #[test]
    fn adding_up_seconds_loses_nothing() {
        let mut history = History::default();
        let mut expected = Counted::default();
        for second in 0..10 {
            let counted = counted(second * 3);
            expected.merge(&counted);
            history.add(&counted, 0, span(second));
        }
        let mut sum = Counted::default();
        history.add_up(10, &mut sum);
        assert_eq!(sum, expected);
    }

    #[test]
    fn the_log_keeps_to_its_bytes_and_loses_the_oldest_lines() {
        let counted = counted(1);
        let lines = History::default().add(&counted, 0, span(10)).len();
        for (room, kept) in [(10 * lines, 10), (10 * lines - 1, 9), (lines, 1), (lines - 1, 1)] {
            let mut history = History {
                log_bytes_max: room,
                ..History::default()
            };
            for second in 0..20 {
                // Two digits each, so that they are equally long.
                history.add(&counted, 0, span(second + 10));
            }
            let log = String::from_utf8(history.interval_log()).unwrap();
            let starts: Vec<_> = log
                .lines()
                .filter(|line| line.starts_with(char::is_numeric))
                .collect();
            assert_eq!(starts.len(), kept, "{room} bytes");
            assert_eq!(history.since(0).count(), 20, "what is not the log stays");
            if let Some(last) = starts.last() {
                assert!(last.starts_with("29.000,1.000,"), "{last}");
            }
        }
    }

    #[test]
    fn a_second_without_requests_has_a_line() {
        let mut history = History::default();
        let lines = history.add(&Counted::default(), 0, span(5));
        let lines = std::str::from_utf8(&lines).unwrap();
        assert!(lines.starts_with("5.000,1.000,0.000,HIST"), "{lines}");
        assert_eq!(lines.lines().count(), 1);
    }

    #[test]
    fn a_second_in_small_numbers() {
        let mut history = History::default();
        history.add(&counted(4), 7, span(5));
        let second = history.since(0).next().unwrap();
        assert_eq!(second.in_flight, 7);
        assert_eq!(second.total.count, 4);
        assert_eq!(second.heat.iter().sum::<u32>(), 4);
        assert_eq!(*second.dsps, [DspSecond { calls: 4, failed: 1 }]);
    }
}
