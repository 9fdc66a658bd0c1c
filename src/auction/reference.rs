//! The same auction written once more, slowly and plainly: the oracle of the real one. Shares its types and
//! no function: one pass per rule over everything, sorted lists instead of a maximum, wide numbers, domains
//! as labels.

use std::cmp::Reverse;

use super::{AuctionType, DealTerms, Floor, FloorRule, ImpTerms, Offer, Rules};

/// Winner's index and what it pays, in micros; and `${AUCTION_LOSS}` of every offer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) winner: Option<(usize, i128)>,
    pub(super) codes: Vec<u16>,
}

struct Candidate<'a> {
    index: usize,
    offer: &'a Offer<'a>,
    deal: Option<&'a DealTerms<'a>>,
    at: AuctionType,
    floor: i128,
    worth: i128,
    class: u8,
    tie: u128,
}

pub(super) fn sell(imp: &ImpTerms<'_>, offers: &[Offer<'_>], rules: &Rules) -> Outcome {
    let mut codes: Vec<u16> = offers.iter().map(|offer| objection(imp, offer, rules)).collect();
    let mut ranking: Vec<Candidate<'_>> = (0..offers.len())
        .filter(|index| codes[*index] == 0)
        .map(|index| candidate(imp, index, &offers[index], rules))
        .collect();
    ranking.sort_by_key(|candidate| Reverse((candidate.class, candidate.worth, candidate.tie)));

    let Some(first) = ranking.first() else {
        return Outcome { winner: None, codes };
    };
    for other in &ranking[1..] {
        codes[other.index] = if other.class == first.class { 102 } else { 103 };
    }
    let second = ranking
        .iter()
        .find(|other| other.offer.dsp != first.offer.dsp && other.class == first.class);
    let needed = second.map_or(0, |second| second.worth).max(first.floor);
    let raised = needed + i128::from(rules.increment.micros());
    let pays = match first.at {
        AuctionType::FirstPrice => first.worth,
        AuctionType::FixedPrice => first.floor,
        AuctionType::SecondPrice if raised > first.worth => first.worth,
        AuctionType::SecondPrice => raised,
    };
    Outcome {
        winner: Some((first.index, pays)),
        codes,
    }
}

/// The first thing that speaks against an offer, 0 if nothing does.
fn objection(imp: &ImpTerms<'_>, offer: &Offer<'_>, rules: &Rules) -> u16 {
    let price = i128::from(offer.price.micros());
    let deal = deal_of(imp, offer);
    if !imp.wseat.is_empty() && !imp.wseat.iter().any(|seat| offer.seat == Some(*seat)) {
        return 104;
    }
    if imp.bseat.iter().any(|seat| offer.seat == Some(*seat)) {
        return 104;
    }
    if deal.is_none() && (offer.deal.is_some() || imp.private) {
        return 4;
    }
    if let Some(deal) = deal {
        if !deal.wseat.is_empty() && !deal.wseat.iter().any(|seat| offer.seat == Some(*seat)) {
            return 4;
        }
        let strangers = offer
            .adomain
            .iter()
            .filter(|domain| !deal.wadomain.iter().any(|listed| under(domain, listed)));
        if !deal.wadomain.is_empty() && (offer.adomain.is_empty() || strangers.count() > 0) {
            return 213;
        }
    }
    let below = if deal.is_some() { 101 } else { 100 };
    let floor = match floor_of(imp, offer, deal) {
        Floor::Known(floor) => i128::from(floor.micros()),
        Floor::Unmet => return below,
        Floor::Unknown => return 1,
    };
    if price < floor || (price == 0 && deal.is_none()) {
        return below;
    }
    let strict = rules.floor_rule == FloorRule::Above && type_of(imp, deal) != AuctionType::FixedPrice;
    if strict && price == floor { below } else { 0 }
}

fn candidate<'a>(imp: &'a ImpTerms<'a>, index: usize, offer: &'a Offer<'a>, rules: &Rules) -> Candidate<'a> {
    let deal = deal_of(imp, offer);
    let at = type_of(imp, deal);
    let Floor::Known(floor) = floor_of(imp, offer, deal) else {
        panic!("any other floor is an objection")
    };
    let floor = i128::from(floor.micros());
    let price = i128::from(offer.price.micros());
    Candidate {
        index,
        offer,
        deal,
        at,
        floor,
        worth: if at == AuctionType::FixedPrice {
            floor
        } else {
            price
        },
        class: 0,
        tie: scramble(imp.tie_seed, offer),
    }
    .classified(rules)
}

impl Candidate<'_> {
    fn classified(self, rules: &Rules) -> Self {
        let class = match self.deal {
            None => 0,
            Some(deal) => 1 + u8::from(deal.guaranteed),
        };
        Self {
            class: if rules.prefer_deals { class } else { 0 },
            ..self
        }
    }
}

fn deal_of<'a>(imp: &ImpTerms<'a>, offer: &Offer<'_>) -> Option<&'a DealTerms<'a>> {
    imp.deals.iter().find(|deal| Some(deal.id) == offer.deal)
}

fn type_of(imp: &ImpTerms<'_>, deal: Option<&DealTerms<'_>>) -> AuctionType {
    deal.map_or(imp.auction_type, |deal| {
        deal.auction_type.unwrap_or(imp.auction_type)
    })
}

/// The first that says something of: the deal for this bid or for all, the imp for this bid, the imp for all.
fn floor_of(imp: &ImpTerms<'_>, offer: &Offer<'_>, deal: Option<&DealTerms<'_>>) -> Floor {
    let says_something = |floor: &Floor| !matches!(floor, Floor::Known(cpm) if cpm.micros() == 0);
    if let Some(deal) = deal {
        let stated = match offer.deal_floor {
            Some(for_this_bid) => for_this_bid,
            None => deal.floor,
        };
        if says_something(&stated) {
            return stated;
        }
    }
    match offer.floor {
        Some(for_this_bid) => for_this_bid,
        None => imp.floor,
    }
}

/// Whether a domain ends in the labels of another.
fn under(domain: &str, listed: &str) -> bool {
    let labels = |name: &str| {
        name.to_ascii_lowercase()
            .rsplit('.')
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    labels(domain).starts_with(&labels(listed))
}

/// The tie rank as `tie_seed` documents it, in numbers too wide to overflow.
fn scramble(seed: u64, offer: &Offer<'_>) -> u128 {
    let modulus = 1_u128 << 64;
    let mut z = u128::from(seed) ^ (u128::from(offer.dsp.0) * (1 << 32) + u128::from(offer.position));
    z ^= z >> 30;
    z = z * 0xbf58_476d_1ce4_e5b9 % modulus;
    z ^= z >> 27;
    z = z * 0x94d0_49bb_1331_11eb % modulus;
    z ^ (z >> 31)
}
