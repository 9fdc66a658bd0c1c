//! Panics on purpose, so that operators can see what one costs: at a stage of their choice, in a share of the bid requests.
//! Which ones is decided by a seed. Off, it is a look at a `None` in each stage.

use crate::telemetry::Stage;

/// What is rehearsed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rehearsal {
    /// Where.
    pub stage: Stage,
    /// In so many of a million bid requests.
    pub per_million: u32,
    /// Another seed strikes others.
    pub seed: u64,
}

impl Rehearsal {
    /// Where the bid request of this number, counted on its shard, is to panic.
    pub(super) fn strikes(&self, number: u64) -> Option<Stage> {
        (draw(self.seed, number) % 1_000_000 < u64::from(self.per_million)).then_some(self.stage)
    }
}

/// SplitMix64: every number of every seed is as good as random.
fn draw(seed: u64, number: u64) -> u64 {
    let mut bits = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Panics if `stage` is the one.
#[expect(clippy::panic, reason = "this is what it is for")]
pub(super) fn rehearse(strikes: Option<Stage>, stage: Stage) {
    if strikes == Some(stage) {
        panic!("a rehearsal: a panic in {}", stage.label());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strikes_its_share_and_the_same_ones_again() {
        let struck = |per_million, seed| -> Vec<u64> {
            let rehearsal = Rehearsal {
                stage: Stage::Plan,
                per_million,
                seed,
            };
            (0..100_000)
                .filter(|&n| rehearsal.strikes(n) == Some(Stage::Plan))
                .collect()
        };
        assert!(struck(0, 1).is_empty());
        assert_eq!(struck(1_000_000, 1).len(), 100_000);
        // Of 100,000 at 1 %, five standard deviations are 157.
        let some = struck(10_000, 1);
        assert!((843..=1_157).contains(&some.len()), "{}", some.len());
        assert_eq!(some, struck(10_000, 1));
        assert_ne!(some, struck(10_000, 2));
    }

    #[test]
    fn panics_there_and_nowhere_else() {
        rehearse(None, Stage::Parse);
        rehearse(Some(Stage::Plan), Stage::Parse);
        let struck = std::panic::catch_unwind(|| rehearse(Some(Stage::Parse), Stage::Parse));
        assert!(struck.is_err());
    }
}
