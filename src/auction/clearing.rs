//! What the winner pays. Refuses to look at anything but the winner's terms
//! and the one price it had to outbid.

use super::AuctionType;
use super::eligibility::Entry;
use crate::money::Cpm;

/// The clearing price: at least the floor, at most the winner's bid.
pub(super) fn price(winner: &Entry, runner_up: Option<Cpm>, increment: Cpm) -> Cpm {
    match winner.auction_type {
        AuctionType::FirstPrice => winner.worth,
        AuctionType::FixedPrice => winner.floor,
        AuctionType::SecondPrice => min_to_win(winner, runner_up)
            .saturating_add(increment)
            .min(winner.worth),
    }
}

/// The price that ties with the runner-up, or the floor where that is higher or nobody else is there.
fn min_to_win(winner: &Entry, runner_up: Option<Cpm>) -> Cpm {
    runner_up.map_or(winner.floor, |runner_up| runner_up.max(winner.floor))
}
