//! Connections that are open before a call needs them: a handshake, with TLS two or three round trips, is more than
//! a DSP far away has left of its time. [`Warmth`] decides when to open some; the pool opens them, and replaces those
//! that are idle for too long before it closes them.

use std::cell::Cell;
use std::time::Duration;

use super::h1::Exchange;
use super::{Alive, Dsp, Phase, Pool, Speaks, Wire};
use crate::clock::Instant;
use crate::fanout::{CallFailure, DspId};

/// After the first connection that came to nothing; after each that follows twice as long.
const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// So rarely is a DSP tried that is gone; one that comes back is warm again after this at the latest.
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// A connection that was up for so long without an answer was good for something: nobody called. One that ends
/// earlier was not, and to open the next at once would go on like that without end.
const SETTLED_AFTER: Duration = Duration::from_secs(5);

/// Connections opened in one go, over all DSPs. Each is about 0.1 ms of work with TLS, during which answers lie unread;
/// at twenty times a second 23 DSPs have four each after half a second.
const OPENED_AT_ONCE_MAX: usize = 8;

/// When connections are to be opened that no call has asked for.
#[derive(Debug)]
pub(super) struct Warmth {
    pub(super) wanted: Cell<usize>,
    /// In a row.
    failures: Cell<u32>,
    not_before: Cell<Instant>,
    /// Connections that are idle for too long and wait for the others in their place.
    pub(super) worn: Cell<usize>,
}

impl Warmth {
    pub(super) fn new(wanted: usize) -> Self {
        Self {
            wanted: Cell::new(wanted),
            failures: Cell::new(0),
            not_before: Cell::new(Instant::from_nanos(0)),
            worn: Cell::new(0),
        }
    }

    pub(super) fn is_backing_off(&self, now: Instant) -> bool {
        now < self.not_before.get()
    }

    /// A connection is up: whatever was wrong before, others are worth a try.
    pub(super) fn came_up(&self) {
        self.not_before.set(Instant::from_nanos(0));
    }

    /// A connection has ended that was opened at `opened_at` and has brought an answer, or not.
    pub(super) fn ended(&self, opened_at: Instant, answered: bool, now: Instant) {
        if answered || now.since(opened_at) >= SETTLED_AFTER {
            self.failures.set(0);
        } else {
            self.came_to_nothing(now);
        }
    }

    /// A connection could not be opened, or was of no use. Of several that were opened together the first counts.
    pub(super) fn came_to_nothing(&self, now: Instant) {
        if self.is_backing_off(now) {
            return;
        }
        let doubled = 1_u32.checked_shl(self.failures.get()).unwrap_or(u32::MAX);
        let pause = BACKOFF_MIN.saturating_mul(doubled).min(BACKOFF_MAX);
        self.failures.set(self.failures.get().saturating_add(1));
        self.not_before.set(now.after(pause));
    }
}

impl Dsp {
    /// Connections to have, with what it speaks as far as that is known.
    fn wanted(&self) -> usize {
        let useful = match self.speaks.get() {
            Speaks::Http1 => self.connections_max.get(),
            Speaks::Http2 => 1,
        };
        self.warmth.wanted.get().min(useful)
    }

    fn missing(&self, now: Instant) -> usize {
        if self.warmth.is_backing_off(now) {
            return 0;
        }
        self.wanted()
            .saturating_sub(self.open.get().saturating_sub(self.warmth.worn.get()))
    }
}

impl Pool {
    /// Opens connections that DSPs should have and do not, as many as may be at once. To be called some twenty times a
    /// second, at the start more often.
    pub fn warm(&self, now: Instant) {
        let mut left = OPENED_AT_ONCE_MAX;
        for dsp in &*self.dsps.borrow() {
            for _ in 0..dsp.missing(now).min(left) {
                left -= 1;
                match self.open_warm(dsp, now) {
                    Ok(()) => {}
                    Err(CallFailure::Throttled) => break,
                    Err(_) => {
                        dsp.warmth.came_to_nothing(now);
                        break;
                    }
                }
            }
        }
    }

    /// Whether each of these DSPs has the connections it should have, or could not be reached just now.
    #[must_use]
    pub fn is_warm(&self, dsps: &[DspId], now: Instant) -> bool {
        dsps.iter().all(|id| {
            let dsp = self.dsp(id.index());
            let up = dsp.open.get().saturating_sub(dsp.opening.get());
            up >= dsp.wanted() || dsp.warmth.is_backing_off(now)
        })
    }

    fn open_warm(&self, dsp: &Dsp, now: Instant) -> Result<(), CallFailure> {
        match dsp.speaks.get() {
            Speaks::Http1 => {
                let token = self.open(dsp, now, || Wire::Http1(Exchange::free(&self.gatherings)))?;
                dsp.http1.opening.borrow_mut().push_back(token);
            }
            Speaks::Http2 => drop(self.converse(dsp, now)?),
        }
        Ok(())
    }

    /// Closes connections that are idle for too long, unless they are needed until there are others in their place.
    /// `worn` are those by the position of their DSP; `sound` says for each DSP how many others are up.
    pub(super) fn renew(&self, worn: &[(usize, usize)], sound: &[usize], now: Instant) {
        let dsps = self.dsps.borrow();
        for dsp in &*dsps {
            dsp.warmth.worn.set(0);
        }
        for &(at, index) in worn {
            let dsp = &dsps[at];
            let kept = dsp.warmth.worn.get();
            let is_needed = sound[at] + kept < dsp.wanted();
            // Where no more may be open, one has to go before another can come.
            let can_wait = dsp.open.get() < dsp.connections_max.get();
            if is_needed && can_wait {
                dsp.warmth.worn.set(kept + 1);
            } else {
                self.close(index, CallFailure::Timeout, now);
            }
        }
        // Those that have ended are still named where nobody looks while there are younger ones.
        let mut connections = self.connections.borrow_mut();
        for dsp in &*dsps {
            let mut is_up = |token: &_| connections.alive(*token).is_some();
            dsp.http1.idle.borrow_mut().retain(&mut is_up);
            let mut is_opening =
                |token: &_| connections.alive(*token).is_some_and(|c| c.phase != Phase::Open);
            dsp.http1.opening.borrow_mut().retain(&mut is_opening);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// When connections are tried that come to nothing at once, in ms, until `end`.
    fn tries(warmth: &Warmth, end: u64) -> Vec<u64> {
        let mut tries = Vec::new();
        for ms in (0..end).step_by(50) {
            if !warmth.is_backing_off(at(ms)) {
                tries.push(ms);
                // Four together are one failure.
                (0..4).for_each(|_| warmth.came_to_nothing(at(ms)));
            }
        }
        tries
    }

    #[test]
    fn a_dead_dsp_is_not_hammered() {
        let tried = tries(&Warmth::new(4), 200_000);
        assert_eq!(tried[..6], [0, 100, 300, 700, 1_500, 3_100]);
        let pauses: Vec<_> = tried.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(pauses[8..], [25_600, 30_000, 30_000, 30_000, 30_000]);
    }

    #[test]
    fn what_failed_for_ever_is_still_tried() {
        let warmth = Warmth::new(4);
        warmth.failures.set(u32::MAX);
        warmth.came_to_nothing(at(0));
        assert!(warmth.is_backing_off(at(29_999)));
        assert!(!warmth.is_backing_off(at(30_000)));
    }

    #[test]
    fn only_a_connection_that_was_of_use_ends_the_backoff() {
        let check = |opened_ms, ended_ms, answered, pause_ms: u64| {
            let warmth = Warmth::new(1);
            warmth.failures.set(3);
            warmth.came_up();
            warmth.ended(at(opened_ms), answered, at(ended_ms));
            let until = ended_ms + pause_ms;
            assert!(
                pause_ms == 0 || warmth.is_backing_off(at(until - 1)),
                "{pause_ms}"
            );
            assert!(!warmth.is_backing_off(at(until)), "{pause_ms}");
        };
        check(1_000, 1_001, false, 800);
        check(1_000, 5_999, false, 800);
        check(1_000, 6_000, false, 0);
        check(1_000, 1_001, true, 0);
    }
}
