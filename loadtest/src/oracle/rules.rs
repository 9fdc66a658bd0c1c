//! The rules of one second-price sale, as the oracle understands them. Integers only; knows no time and no
//! JSON.

use serde::{Deserialize, Serialize};

/// What a bid exactly at the floor is worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
#[value(rename_all = "snake_case")]
pub enum FloorRule {
    /// A bid must be higher than the floor.
    Above,
    /// A bid at the floor enters: `bidfloor` is a minimum bid (`OpenRTB 2.6 §3.2.4`).
    AtOrAbove,
}

/// The auction rules of the exchange under test. They must equal its configuration, or right answers count as
/// wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rules {
    /// `auction.floor_rule` of the exchange.
    pub floor_rule: FloorRule,
    /// `auction.increment_micros` of the exchange, in micros of the CPM.
    pub increment_micros: u64,
}

impl Rules {
    /// Whether a bid of `price_micros` may win an imp with this floor.
    pub(crate) fn admits(self, price_micros: u64, floor_micros: u64) -> bool {
        match self.floor_rule {
            FloorRule::Above => price_micros > floor_micros,
            FloorRule::AtOrAbove => price_micros >= floor_micros,
        }
    }

    /// What a winner at `winner_micros` pays over one rival at `rival_micros`; the floor itself counts as a
    /// rival. It never falls when the rival rises, so over many rivals the clearing price is the highest of
    /// these.
    pub(crate) fn clearing(self, winner_micros: u64, rival_micros: u64) -> u64 {
        rival_micros
            .saturating_add(self.increment_micros)
            .min(winner_micros)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_floor_is_in_or_out_by_rule() {
        let rules = |floor_rule| Rules {
            floor_rule,
            increment_micros: 1,
        };
        assert!(rules(FloorRule::AtOrAbove).admits(500_000, 500_000));
        assert!(!rules(FloorRule::Above).admits(500_000, 500_000));
        assert!(rules(FloorRule::Above).admits(500_001, 500_000));
    }

    #[test]
    fn the_winner_never_pays_more_than_it_bid() {
        let rules = Rules {
            floor_rule: FloorRule::AtOrAbove,
            increment_micros: 1,
        };
        assert_eq!(rules.clearing(1_000_000, 900_000), 900_001);
        assert_eq!(rules.clearing(1_000_000, 1_000_000), 1_000_000);
    }
}
