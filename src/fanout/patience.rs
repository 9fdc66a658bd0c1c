//! How long a DSP is worth waiting for: learns when those of its answers came that mattered, and says after which moment
//! hardly any does. Knows no clock and no price; what mattered is for others to say.
//!
//! It learns from calls alone that had all their time. If it learnt from calls that it has cut itself, it would see ever
//! fewer late answers that matter, and cut ever earlier. So a share of all bid requests waits in full for ever.

use std::time::Duration;

/// How much may be lost by not waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PatienceOptions {
    /// Of a hundred answers that matter at most so many may come after the moment up to which it waits.
    pub lost_percent: u32,
    /// Of a hundred bid requests so many wait for every DSP in full, to learn from.
    pub explore_percent: u32,
    /// Calls after which those answers that have not mattered are known to be rare.
    pub calls_enough: u32,
}

impl PatienceOptions {
    /// By the rule of three: with 95 % certainty an answer that matters and comes later than any seen is rarer than one in
    /// 1,700 calls.
    pub const CALLS_ENOUGH: u32 = 5_000;
}

/// The DSP's time is looked at in eighths. A finer cut would save little more, and every different `tmax` costs
/// a copy of the bid request.
const STEPS: u32 = 8;

/// It waits for a quarter of the DSP's time whatever it has learnt: a DSP that never wins may begin to.
const STEPS_MIN: u32 = 2;

/// A millisecond is the least that a DSP can be told.
const WAIT_MIN: Duration = Duration::from_millis(1);

/// With so many answers that mattered a hundredth of them is 2.
const MATTERED_ENOUGH: u32 = 200;

/// All counts are halved when there are so many times enough calls: what was is forgotten over some 10,000 of them.
const TIMES_ENOUGH_MAX: u32 = 4;

/// It decides so many times until it has enough calls: an eighth more or less is not worth looking at after each.
const DECISIONS: u32 = 64;

/// One DSP's, on one shard.
#[derive(Debug)]
pub(super) struct Patience {
    options: PatienceOptions,
    step: Duration,
    calls: u32,
    /// By the eighth of the DSP's time in which they came.
    mattered: [u32; STEPS as usize],
    waits_steps: u32,
}

impl Patience {
    /// For a DSP that may take `timeout`: that is waited for until there is something to go by.
    pub(super) fn new(options: PatienceOptions, timeout: Duration) -> Self {
        Self {
            options,
            step: timeout / STEPS,
            calls: 0,
            mattered: [0; STEPS as usize],
            waits_steps: STEPS,
        }
    }

    /// How long to wait for an answer; `None`: as long as the DSP may take.
    pub(super) fn waits(&self) -> Option<Duration> {
        (self.waits_steps < STEPS).then(|| (self.step * self.waits_steps).max(WAIT_MIN))
    }

    /// A call that had all its time has ended.
    pub(super) fn called(&mut self) {
        self.calls += 1;
        if self.calls >= self.options.calls_enough.saturating_mul(TIMES_ENOUGH_MAX) {
            self.calls /= 2;
            self.mattered.iter_mut().for_each(|count| *count /= 2);
        }
        if self
            .calls
            .is_multiple_of((self.options.calls_enough / DECISIONS).max(1))
        {
            self.decide();
        }
    }

    /// An answer to a call that had all its time, which came after `elapsed`, won or set the price.
    pub(super) fn mattered(&mut self, elapsed: Duration) {
        let step = elapsed.as_nanos() / self.step.as_nanos().max(1);
        let step = usize::try_from(step)
            .unwrap_or(usize::MAX)
            .min(self.mattered.len() - 1);
        self.mattered[step] += 1;
    }

    /// The earliest end of an eighth after which few enough come.
    fn decide(&mut self) {
        let all: u32 = self.mattered.iter().sum();
        if all < MATTERED_ENOUGH && self.calls < self.options.calls_enough {
            self.waits_steps = STEPS;
            return;
        }
        let mut later = 0;
        let mut steps = STEPS;
        for count in self.mattered.iter().rev() {
            later += count;
            if later * 100 > all * self.options.lost_percent || steps == STEPS_MIN {
                break;
            }
            steps -= 1;
        }
        self.waits_steps = steps;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUT: Duration = Duration::from_millis(80);

    fn patience() -> Patience {
        let options = PatienceOptions {
            lost_percent: 1,
            explore_percent: 5,
            calls_enough: PatienceOptions::CALLS_ENOUGH,
        };
        Patience::new(options, TIMEOUT)
    }

    /// So many calls, of which so many answers each mattered and came after so many ms: how long it waits then, 80 being
    /// all.
    #[track_caller]
    fn check(calls: u32, mattered: &[(u32, u64)], waits_ms: u64) {
        let mut patience = patience();
        for &(count, ms) in mattered {
            (0..count).for_each(|_| patience.mattered(Duration::from_millis(ms)));
        }
        (0..calls).for_each(|_| patience.called());
        let waits = patience.waits().unwrap_or(TIMEOUT);
        assert_eq!(waits, Duration::from_millis(waits_ms), "{patience:?}");
    }

    #[test]
    fn waits_until_hardly_any_answer_matters() {
        // Nothing is known.
        check(0, &[], 80);
        check(4_000, &[(199, 5)], 80);
        // Enough is: all that mattered came early.
        check(4_056, &[(200, 35)], 40);
        check(4_056, &[(200, 39)], 40);
        check(4_056, &[(200, 40)], 50);
        // One of a hundred may be lost, more not.
        check(4_056, &[(198, 35), (2, 75)], 40);
        check(4_056, &[(197, 35), (3, 75)], 80);
        check(4_056, &[(197, 35), (2, 55), (1, 75)], 60);
        // It never wins: a quarter of its time it has all the same.
        check(4_992, &[], 80);
        check(5_070, &[], 20);
        check(5_070, &[(1_000, 1)], 20);
        // It hardly ever wins: where it did, it is waited for.
        check(5_070, &[(1, 62)], 70);
        check(5_070, &[(9_999, 500)], 80);
    }

    #[test]
    fn a_dsp_that_becomes_slower_is_waited_for_again() {
        let mut patience = patience();
        let mut waited = Vec::new();
        for (calls, ms) in [(40_000, 15), (2_000, 65), (100_000, 15)] {
            for call in 0..calls {
                if call % 20 == 0 {
                    patience.mattered(Duration::from_millis(ms));
                }
                patience.called();
            }
            waited.push(patience.waits().unwrap_or(TIMEOUT).as_millis());
        }
        assert_eq!(
            waited,
            [20, 70, 20],
            "2 % of what mattered was enough to be waited for"
        );
    }

    #[test]
    fn a_short_time_is_not_cut_to_nothing() {
        let options = PatienceOptions {
            lost_percent: 1,
            explore_percent: 5,
            calls_enough: PatienceOptions::CALLS_ENOUGH,
        };
        let mut patience = Patience::new(options, Duration::from_millis(1));
        (0..6_000).for_each(|_| patience.called());
        assert_eq!(patience.waits(), Some(WAIT_MIN));
        let mut patience = Patience::new(options, Duration::ZERO);
        patience.mattered(Duration::from_millis(1));
    }
}
