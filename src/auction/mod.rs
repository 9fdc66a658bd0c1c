//! Offers in, winner and clearing price out, one imp at a time.
//!
//! Pure: refuses time, I/O, configuration, JSON and randomness, and never sees a currency: whoever calls has
//! parsed the offers, converted their prices and dropped those without a known impid. The same imp, offers
//! and rules give the same sale, in whatever order the offers arrived.
#![deny(clippy::float_arithmetic, clippy::as_conversions)]
// Tests are built with overflow checks and may write `+`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

mod clearing;
mod eligibility;
mod ranking;
#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use crate::money::Cpm;
use crate::openrtb::codes::LossReason;

use ranking::Contender;
pub use ranking::tie_seed;

/// Sells one imp: who may win, who wins, what it pays, and why every other offer lost.
///
/// `offers` are all offers for this imp, of all DSPs; no two may share both `dsp` and `position`. Scratch and
/// verdicts are in `arena`. Linear in the number of offers (times the imp's deals, for offers that name one).
pub fn sell<'a>(imp: &ImpTerms<'_>, offers: &[Offer<'_>], rules: &Rules, arena: &'a Bump) -> Sale<'a> {
    let verdicts = arena.alloc_slice_fill_copy(offers.len(), Verdict::Lost(LossReason::LostToHigherBid));
    let mut contenders = ArenaVec::with_capacity_in(offers.len(), arena);
    for (index, offer) in offers.iter().enumerate() {
        match eligibility::admit(offer, imp, rules) {
            Ok(entry) => contenders.push(Contender::new(index, offer, entry, imp.tie_seed)),
            Err(reason) => verdicts[index] = Verdict::Lost(reason),
        }
    }
    let Some(winner) = ranking::winner(&contenders) else {
        return Sale {
            winner: None,
            verdicts,
        };
    };
    for contender in &contenders {
        verdicts[contender.offer] = ranking::verdict(contender, winner);
    }
    let runner_up = ranking::runner_up(&contenders, winner);
    let winner = Winner {
        offer: winner.offer,
        clearing: clearing::price(&winner.entry, runner_up, rules.increment),
    };
    Sale {
        winner: Some(winner),
        verdicts,
    }
}

/// What the SSP's request says about one imp, as far as it decides the auction.
#[derive(Clone, Copy, Debug)]
pub struct ImpTerms<'a> {
    /// `imp.bidfloor`: for every offer that has no [`Offer::floor`] of its own.
    pub floor: Floor,
    /// `at` of the request; deals may have their own.
    pub auction_type: AuctionType,
    /// `imp.pmp.private_auction`: only bids that name one of the deals.
    pub private: bool,
    /// `imp.pmp.deals`. Of two with one id the first counts.
    pub deals: &'a [DealTerms<'a>],
    /// `wseat` of the request: the only seats that may buy; empty = all.
    pub wseat: &'a [&'a str],
    /// `bseat` of the request: seats that may not buy.
    pub bseat: &'a [&'a str],
    /// What decides between equal offers; see [`tie_seed`].
    pub tie_seed: u64,
}

/// One of an imp's deals (OpenRTB 2.6 §3.2.12).
#[derive(Clone, Copy, Debug)]
pub struct DealTerms<'a> {
    /// What a bid's `dealid` must equal.
    pub id: &'a str,
    /// `deal.bidfloor`; for every offer that has no [`Offer::deal_floor`] of its own. 0, the default, means that
    /// the imp's floor applies (§7.11.2).
    pub floor: Floor,
    /// `deal.at`; absent = that of the request.
    pub auction_type: Option<AuctionType>,
    /// `deal.guar`: above other deals where deals are preferred.
    pub guaranteed: bool,
    /// Seats that may use the deal; empty = all.
    pub wseat: &'a [&'a str],
    /// Advertiser domains that may use the deal, subdomains included; empty = all.
    pub wadomain: &'a [&'a str],
}

/// A bid that was parsed, checked and converted, with what the auction looks at.
#[derive(Clone, Copy, Debug)]
pub struct Offer<'a> {
    /// Who bids.
    pub dsp: DspIndex,
    /// The bid's place among the sound bids of this DSP's answer, from 0.
    pub position: u32,
    /// `seatbid.seat`.
    pub seat: Option<&'a str>,
    /// `bid.price` in the auction's currency, rounded toward zero.
    pub price: Cpm,
    /// `bid.dealid`; `None` = an open bid. An empty string names no deal and should be `None` as well.
    pub deal: Option<&'a str>,
    /// What this bid has to meet instead of [`ImpTerms::floor`], where the imp's video or audio object states a
    /// floor that depends on the bid: on its kind of media, on its duration (§7.11.2).
    pub floor: Option<Floor>,
    /// The same instead of the [`DealTerms::floor`] of the deal it names; 0 means here too that the imp's applies.
    pub deal_floor: Option<Floor>,
    /// `bid.adomain`; of no account where the bid names no deal.
    pub adomain: &'a [&'a str],
}

impl Offer<'_> {
    /// Whether this offer loses to `other` whatever the terms of the imp and whatever else is offered for it, where the
    /// request has no seat lists and sells at no fixed price: what rules the other out rules this one out as well, and
    /// between the two the price decides. Says no where it cannot tell.
    pub fn is_surely_beaten_by(&self, other: &Self) -> bool {
        self.price < other.price && self.is_plain() && other.is_plain()
    }

    /// Nothing but its price and its seat tells it from the next.
    pub fn is_plain(&self) -> bool {
        self.deal.is_none() && self.floor.is_none() && self.deal_floor.is_none()
    }
}

/// A DSP's place in the configuration, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DspIndex(pub u16);

/// What the exchange decides where OpenRTB leaves it open.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whether a bid at the floor enters.
    pub floor_rule: FloorRule,
    /// What a second price is raised by ("second price plus", OpenRTB 2.6 §3.2.1 `at`).
    pub increment: Cpm,
    /// Deal bids rank above open bids whatever their price, guaranteed deals above other deals (§7.3).
    pub prefer_deals: bool,
}

/// Whether a bid at the floor enters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloorRule {
    /// A bid of the floor enters: `bidfloor` is the *minimum bid* (OpenRTB 2.6 §3.2.4).
    AtOrAbove,
    /// Only a bid above the floor enters. Does not touch [`AuctionType::FixedPrice`], where the floor is the
    /// agreed price and bidding it is what the deal asks for.
    Above,
}

/// A minimum CPM in the auction's currency, if it could be brought there. Of two, the greater is the one that is
/// harder to meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Floor {
    /// The floor, rounded up.
    Known(Cpm),
    /// The floor depends on what the bid does not say, such as its duration, so the bid cannot show that it meets
    /// it: whatever its price, it is below.
    Unmet,
    /// There is a floor, but no rate to compare it by. Nothing is sold against it: an offer it applies to
    /// loses with [`LossReason::InternalError`], since the fault is neither the price nor the DSP's.
    Unknown,
}

/// What a winner pays: `at` of the request or the deal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AuctionType {
    /// 1: its own bid.
    FirstPrice,
    /// 2, "second price plus": the greater of floor and runner-up, plus an increment, never above its own
    /// bid.
    SecondPrice,
    /// 3, deals only: the floor is the agreed price. A bid below it drops; a bid above it pays no more, and
    /// so is ranked as an offer of the agreed price: else a DSP could win anything by a bid that it will
    /// never pay.
    FixedPrice,
}

/// How one imp was sold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sale<'a> {
    /// `None` if no offer was eligible.
    pub winner: Option<Winner>,
    /// One per offer, in the order of the offers.
    pub verdicts: &'a [Verdict],
}

/// The winning offer and its price, in the auction's currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Winner {
    /// Index into the offers.
    pub offer: usize,
    /// What the winner pays: at least the floor, at most its bid.
    pub clearing: Cpm,
}

/// What became of one offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It won.
    Won,
    /// It did not, and why.
    Lost(LossReason),
}
