//! Sells each imp of a request, and keeps the promise of groups: all of a group's bids win, or none.

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::Orchestrator;
use super::offers::{OfferFor, Offers};
use super::plan::Plan;
use crate::auction::{self, AuctionType, DealTerms, ImpTerms, Verdict, tie_seed};
use crate::fanout::{DspId, Transport};
use crate::money::{Cpm, Currency};
use crate::openrtb::codes::LossReason;
use crate::openrtb::{self, BidRequest, Imp};

/// Rounds of selling in which groups that would win only in part are taken out; after that all groups are. Real answers
/// have none or one, and each round costs as much as a whole auction: a DSP must not have it held hundreds of times.
const GROUP_ROUNDS_MAX: usize = 8;

/// What became of every offer, and what each winner pays.
#[derive(Debug)]
pub(super) struct Sales<'a> {
    /// In the order of the imps: the winning offer's position in the list, and its clearing price.
    pub(super) won: ArenaVec<'a, (usize, Cpm)>,
    /// By offer.
    pub(super) verdicts: &'a mut [Verdict],
}

impl<T: Transport> Orchestrator<T> {
    pub(super) fn sell_each_imp<'a>(
        &self,
        request: &BidRequest<'a>,
        plan: &Plan<'a>,
        offers: &Offers<'a>,
        arena: &'a Bump,
    ) -> Sales<'a> {
        let mut terms = ArenaVec::with_capacity_in(request.imps.len(), arena);
        terms.extend(
            request
                .imps
                .iter()
                .map(|imp| self.terms(request, imp, plan.currency, arena)),
        );
        let out = arena.alloc_slice_fill_copy(offers.list.len(), false);
        let groups = arena.alloc_slice_fill_copy(offers.groups, Fared::default());
        for _ in 0..GROUP_ROUNDS_MAX {
            let sales = self.sell_all(&terms, &offers.list, out, arena);
            // A group that would win only in part leaves as a whole, and the rest is sold anew.
            if !take_out_broken_groups(&offers.list, sales.verdicts, groups, out) {
                return sales;
            }
        }
        for (offer, out) in offers.list.iter().zip(&mut *out) {
            *out |= offer.group.is_some();
        }
        self.sell_all(&terms, &offers.list, out, arena)
    }

    /// Tells the gates which answers mattered: those that won, and those that came next and so set a second price. Any
    /// other could have been left unread.
    pub(super) fn learn(&self, plan: &Plan<'_>, offers: &Offers<'_>, sales: &Sales<'_>) {
        if offers.elapsed.is_empty() {
            return;
        }
        for &(winner, _) in &sales.won {
            let won = &offers.list[winner];
            let next = offers
                .list
                .iter()
                .zip(&*sales.verdicts)
                .filter(|(offer, verdict)| {
                    offer.imp == won.imp
                        && offer.offer.dsp != won.offer.dsp
                        && **verdict == Verdict::Lost(LossReason::LostToHigherBid)
                });
            let next = next.map(|(offer, _)| offer).max_by_key(|offer| offer.offer.price);
            for offer in [Some(won), next].into_iter().flatten() {
                let dsp = DspId(offer.offer.dsp.0);
                let answers = plan.calls.iter().zip(&*offers.elapsed);
                for (call, elapsed) in answers.filter(|(call, _)| call.dsp == dsp) {
                    self.fanout.gates().mattered(dsp, call.leave, *elapsed);
                }
            }
        }
    }

    fn sell_all<'a>(
        &self,
        terms: &[ImpTerms<'a>],
        offers: &[OfferFor<'a>],
        out: &[bool],
        arena: &'a Bump,
    ) -> Sales<'a> {
        // What was taken out lost for its group's sake.
        let verdicts = arena.alloc_slice_fill_copy(offers.len(), Verdict::Lost(LossReason::LostToHigherBid));
        let mut won = ArenaVec::new_in(arena);
        for (imp, terms) in terms.iter().enumerate() {
            let mut positions = ArenaVec::with_capacity_in(offers.len(), arena);
            let here = offers
                .iter()
                .enumerate()
                .filter(|(position, offer)| offer.imp == imp && !out[*position]);
            positions.extend(here.map(|(position, _)| position));
            let mut candidates = ArenaVec::with_capacity_in(positions.len(), arena);
            candidates.extend(positions.iter().map(|&position| offers[position].offer));
            let sale = auction::sell(terms, &candidates, &self.options.rules, arena);
            for (&position, &verdict) in positions.iter().zip(sale.verdicts) {
                verdicts[position] = verdict;
            }
            won.extend(
                sale.winner
                    .map(|winner| (positions[winner.offer], winner.clearing)),
            );
        }
        Sales { won, verdicts }
    }

    fn terms<'a>(
        &self,
        request: &BidRequest<'a>,
        imp: &Imp<'a>,
        currency: Currency,
        arena: &'a Bump,
    ) -> ImpTerms<'a> {
        let mut deals = ArenaVec::with_capacity_in(imp.deals.len(), arena);
        deals.extend(imp.deals.iter().map(|deal| DealTerms {
            id: deal.id,
            floor: self.floor(deal.floor, deal.floor_cur, currency),
            auction_type: deal.at.map(auction_type),
            guaranteed: deal.guaranteed,
            wseat: deal.wseat,
            wadomain: deal.wadomain,
        }));
        ImpTerms {
            floor: self.floor(imp.floor, imp.floor_cur, currency),
            auction_type: auction_type(request.at),
            private: imp.private_auction,
            deals: deals.into_bump_slice(),
            wseat: request.wseat,
            bseat: request.bseat,
            tie_seed: tie_seed(request.id, imp.id),
        }
    }
}

/// Exchange-specific types, 500 and above, are second price: the cautious reading of what we have no agreement on.
fn auction_type(at: openrtb::AuctionType) -> AuctionType {
    match at {
        openrtb::AuctionType::FirstPrice => AuctionType::FirstPrice,
        openrtb::AuctionType::FixedPrice => AuctionType::FixedPrice,
        openrtb::AuctionType::SecondPrice | openrtb::AuctionType::Exchange(_) => AuctionType::SecondPrice,
    }
}

/// How a group fared in one round.
#[derive(Debug, Clone, Copy, Default)]
struct Fared {
    won: bool,
    lost: bool,
}

/// Takes out every group of which some but not all bids won. Returns whether there was one.
fn take_out_broken_groups(
    offers: &[OfferFor<'_>],
    verdicts: &[Verdict],
    groups: &mut [Fared],
    out: &mut [bool],
) -> bool {
    groups.fill(Fared::default());
    for ((offer, verdict), out) in offers.iter().zip(verdicts).zip(&*out) {
        if let (Some(group), false) = (offer.group, out) {
            match verdict {
                Verdict::Won => groups[group].won = true,
                Verdict::Lost(_) => groups[group].lost = true,
            }
        }
    }
    for (offer, out) in offers.iter().zip(out) {
        *out |= offer
            .group
            .is_some_and(|group| groups[group].won && groups[group].lost);
    }
    groups.iter().any(|group| group.won && group.lost)
}
