//! Which offers may win: seat, deal, floor, in this order, the first objection counts (OpenRTB 2.6 §3.2.1,
//! §3.2.11, §3.2.12, §7.11). Judges each offer alone; refuses to compare two.

use super::ranking::Class;
use super::{AuctionType, DealTerms, Floor, FloorRule, ImpTerms, Offer, Rules};
use crate::money::Cpm;
use crate::openrtb::codes::LossReason;

/// The terms on which an eligible offer competes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    pub(super) class: Class,
    pub(super) auction_type: AuctionType,
    /// The floor that applies: the deal's or the imp's.
    pub(super) floor: Cpm,
    /// What the seller gets for it at most; at least `floor`.
    pub(super) worth: Cpm,
}

/// The terms on which an offer may win this imp, or why it may not.
pub(super) fn admit(offer: &Offer<'_>, imp: &ImpTerms<'_>, rules: &Rules) -> Result<Entry, LossReason> {
    check_seat(offer, imp)?;
    let deal = find_deal(offer, imp)?;
    let auction_type = deal
        .and_then(|deal| deal.auction_type)
        .unwrap_or(imp.auction_type);
    let below = if deal.is_some() {
        LossReason::BelowDealFloor
    } else {
        LossReason::BelowFloor
    };
    let floor = match applicable_floor(offer, imp, deal) {
        Floor::Known(floor) => floor,
        Floor::Unmet => return Err(below),
        Floor::Unknown => return Err(LossReason::InternalError),
    };
    if !meets_floor(offer, floor, auction_type, rules.floor_rule) {
        return Err(below);
    }
    let worth = if auction_type == AuctionType::FixedPrice {
        floor
    } else {
        offer.price
    };
    Ok(Entry {
        class: Class::of(deal, rules),
        auction_type,
        floor,
        worth,
    })
}

/// The request's seat lists. A bid that names no seat cannot show that it is on a `wseat`.
fn check_seat(offer: &Offer<'_>, imp: &ImpTerms<'_>) -> Result<(), LossReason> {
    let allowed = is_listed_or_unlimited(offer.seat, imp.wseat);
    let blocked = offer.seat.is_some_and(|seat| imp.bseat.contains(&seat));
    if allowed && !blocked {
        Ok(())
    } else {
        Err(LossReason::SeatBlocked)
    }
}

/// The deal that a bid names, if the bid may use it. Naming none in a private auction, naming one that this
/// imp does not offer and naming one that is not for this seat are the same fault: no valid deal id for this
/// bidder. (104 would tell the seat that it is blocked, though its other bids are welcome.)
fn find_deal<'a>(offer: &Offer<'_>, imp: &ImpTerms<'a>) -> Result<Option<&'a DealTerms<'a>>, LossReason> {
    let Some(id) = offer.deal else {
        return if imp.private {
            Err(LossReason::InvalidDealId)
        } else {
            Ok(None)
        };
    };
    let deal = imp
        .deals
        .iter()
        .find(|deal| deal.id == id)
        .ok_or(LossReason::InvalidDealId)?;
    if !is_listed_or_unlimited(offer.seat, deal.wseat) {
        return Err(LossReason::InvalidDealId);
    }
    if !may_advertise(offer.adomain, deal.wadomain) {
        return Err(LossReason::NotAllowedInDeal);
    }
    Ok(Some(deal))
}

fn is_listed_or_unlimited(seat: Option<&str>, wseat: &[&str]) -> bool {
    wseat.is_empty() || seat.is_some_and(|seat| wseat.contains(&seat))
}

/// Whether every advertiser of the bid is in the deal's list. A bid that names none cannot show that it is.
fn may_advertise(adomain: &[&str], wadomain: &[&str]) -> bool {
    let is_listed = |domain: &&str| wadomain.iter().any(|listed| is_same_or_subdomain(domain, listed));
    wadomain.is_empty() || (!adomain.is_empty() && adomain.iter().all(is_listed))
}

/// `ads.ford.com` is of `ford.com`, `clifford.com` is not. Domain names have no case (RFC 4343).
fn is_same_or_subdomain(domain: &str, listed: &str) -> bool {
    let (domain, listed) = (domain.as_bytes(), listed.as_bytes());
    let Some((front, tail)) = domain
        .len()
        .checked_sub(listed.len())
        .and_then(|at| domain.split_at_checked(at))
    else {
        return false;
    };
    tail.eq_ignore_ascii_case(listed) && (front.is_empty() || front.ends_with(b"."))
}

/// The deal's floor; the imp's where the deal has none, or 0, or there is no deal. Each of them as it is for this
/// bid, where it depends on the bid.
fn applicable_floor(offer: &Offer<'_>, imp: &ImpTerms<'_>, deal: Option<&DealTerms<'_>>) -> Floor {
    let of_deal = deal
        .map(|deal| offer.deal_floor.unwrap_or(deal.floor))
        .filter(|floor| *floor != Floor::Known(Cpm::ZERO));
    of_deal.unwrap_or_else(|| offer.floor.unwrap_or(imp.floor))
}

/// An open bid of 0 is below any floor, also that of 0: it offers nothing. With a deal 0 may be the agreed
/// price.
fn meets_floor(offer: &Offer<'_>, floor: Cpm, auction_type: AuctionType, rule: FloorRule) -> bool {
    let high_enough = match (auction_type, rule) {
        (AuctionType::FixedPrice, _) | (_, FloorRule::AtOrAbove) => offer.price >= floor,
        (_, FloorRule::Above) => offer.price > floor,
    };
    high_enough && (offer.deal.is_some() || offer.price > Cpm::ZERO)
}

#[cfg(test)]
mod tests {
    use super::is_same_or_subdomain;

    #[test]
    fn domains_match_by_whole_labels() {
        let check = |domain, listed, expected| {
            assert_eq!(
                is_same_or_subdomain(domain, listed),
                expected,
                "{domain} {listed}"
            );
        };
        check("ford.com", "ford.com", true);
        check("FORD.com", "ford.COM", true);
        check("ads.ford.com", "ford.com", true);
        check("a.b.ford.com", "ford.com", true);
        check("clifford.com", "ford.com", false);
        check("ford.com", "ads.ford.com", false);
        check("ford.com.evil.example", "ford.com", false);
        check("com", "ford.com", false);
        check("", "ford.com", false);
        check("bücher.example", "ücher.example", false);
    }
}
