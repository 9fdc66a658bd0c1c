//! The last quarter of an hour, second by second: small numbers for all of it, every distribution for the last minute,
//! and the lines of an interval log for as much of it as fits.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::counted::Counted;
use super::distribution::{HEAT_ROWS, Sparse, Summary};
use super::hlog::{self, Lines};
use super::interval::DspTally;
use super::labels::{DspOutcome, Stage, StatusCounts};

pub(super) use super::hlog::Span;

/// Seconds that are remembered: what an SRE who is woken up wants to see of what was before. Under 1 kB each with 23
/// DSPs.
pub(super) const SECONDS_MAX: usize = 900;

/// Seconds whose distributions are remembered. At 6,000 requests a second each is some 150 kB.
pub(super) const DETAILED_MAX: usize = 60;

/// Lines of the interval log that are remembered. With 23 DSPs and 6,000 requests a second a second has some 30 kB, so
/// that this is all of the quarter of an hour; with more DSPs it is less, the oldest go first.
const LOG_BYTES_MAX: usize = 32 << 20;

/// See the module's description.
pub(super) struct History {
    seconds: VecDeque<Second>,
    /// Of the next second.
    number: u64,
    /// Bytes in the seconds' `lines`.
    log_bytes: usize,
    log_bytes_max: usize,
    lines: Lines,
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
    /// Those of them that brought neither a bid nor a no.
    pub(super) failed: u64,
}

impl DspSecond {
    pub(super) fn of<D>(tally: &DspTally<D>) -> Self {
        let answered = tally.calls.get(DspOutcome::Bid) + tally.calls.get(DspOutcome::NoBid);
        let calls = tally.calls.sum();
        Self {
            calls,
            failed: calls - answered,
        }
    }
}

impl Default for History {
    fn default() -> Self {
        Self {
            seconds: VecDeque::with_capacity(SECONDS_MAX),
            number: 0,
            log_bytes: 0,
            log_bytes_max: LOG_BYTES_MAX,
            lines: Lines::new(),
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
        let mut log = hlog::header(start).into_bytes();
        log.reserve(self.log_bytes);
        kept().for_each(|second| log.extend_from_slice(&second.lines));
        log
    }

    /// Makes room for one second more, with so many bytes of lines.
    fn forget_the_oldest(&mut self, log_bytes: usize) {
        if self.seconds.len() >= SECONDS_MAX
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
                Stage::Total => self.lines.write(&mut text, None, span, durations),
                _ if durations.count() == 0 => {}
                _ => self
                    .lines
                    .write(&mut text, Some(("stage", stage.label())), span, durations),
            }
        }
        for (name, tally) in &counted.dsps {
            if tally.latency.count() > 0 {
                self.lines
                    .write(&mut text, Some(("dsp", name)), span, &tally.latency);
            }
        }
        for (shard, tally) in &counted.shards {
            if tally.total.count() > 0 {
                let name = shard.to_string();
                self.lines
                    .write(&mut text, Some(("shard", &name)), span, &tally.total);
            }
        }
        text.into()
    }
}
