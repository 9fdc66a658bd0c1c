//! From DSPs' answers to offers: read, told apart, converted. Nothing here decides who wins.

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::plan::Plan;
use super::{Orchestrator, nanos};
use crate::auction::{DspIndex, Offer};
use crate::fanout::{Answer, CallFailure, DspId, Response, Transport};
use crate::money::{Cpm, Currency, DecimalError, Money, Rounding};
use crate::openrtb::codes::{LossReason, NoBidReason, NonBidStatus};
use crate::openrtb::{Bid, BidFault, BidRequest, BidResponse, BidText};
use crate::telemetry::{BidResult, DspOutcome, Rounded};

/// What the DSPs offered for one bid request.
#[derive(Debug)]
pub(super) struct Offers<'a> {
    pub(super) arena: &'a Bump,
    request: BidRequest<'a>,
    currency: Currency,
    bid_currencies: &'a [(&'a str, Currency)],
    pub(super) list: ArenaVec<'a, OfferFor<'a>>,
    /// By call and imp: whether there is an offer.
    offered: &'a mut [bool],
    /// By call: why there is none, where there is none.
    pub(super) non_bids: &'a mut [NonBidStatus],
    /// Groups so far; a group's number is its place among them, from 0.
    pub(super) groups: usize,
}

/// An offer and what it was made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfferFor<'a> {
    /// The imp's position in the request.
    pub(super) imp: usize,
    /// As the auction sees it.
    pub(super) offer: Offer<'a>,
    /// As the DSP wrote it.
    pub(super) bid: BidText<'a>,
    /// The seat as the DSP wrote it.
    pub(super) seat_raw: Option<&'a [u8]>,
    /// The all-or-nothing group it belongs to (`seatbid.group`, OpenRTB 2.6 §4.2.2).
    pub(super) group: Option<usize>,
}

impl<'a> Offers<'a> {
    pub(super) fn new(request: &BidRequest<'a>, plan: &Plan<'a>, arena: &'a Bump) -> Self {
        Self {
            arena,
            request: *request,
            currency: plan.currency,
            bid_currencies: plan.bid_currencies,
            list: ArenaVec::new_in(arena),
            offered: arena.alloc_slice_fill_copy(plan.calls.len() * request.imps.len(), false),
            non_bids: arena.alloc_slice_fill_copy(plan.calls.len(), NonBidStatus::NoBid),
            groups: 0,
        }
    }

    fn add(&mut self, offer: OfferFor<'a>) {
        if self.list.is_empty() {
            // Not before: while no DSP has answered there may be 140,000 such lists.
            self.list.reserve(self.non_bids.len());
        }
        self.list.push(offer);
    }

    /// Whether the DSP of `call` made an offer for `imp`.
    pub(super) fn has_offer(&self, call: usize, imp: usize) -> bool {
        self.offered[call * self.request.imps.len() + imp]
    }
}

/// Why an answer as a whole brought no bid.
enum Unusable {
    /// The DSP's own no.
    NoBid(NonBidStatus),
    /// An HTTP status that is none of a bid response's.
    Status,
    /// Not a bid response, or not one to our request.
    Invalid,
}

impl<T: Transport> Orchestrator<T> {
    /// Takes one DSP's answer into `offers`.
    pub(super) fn read_offers(&self, offers: &mut Offers<'_>, answer: Answer<'_>) {
        let (outcome, non_bid) = match answer.result {
            Err(failure) => of_failure(failure),
            Ok(response) => match self.read_response(offers, answer.call, answer.dsp, response) {
                Ok(()) => (DspOutcome::Bid, NonBidStatus::NoBid),
                Err(Unusable::NoBid(status)) => (DspOutcome::NoBid, status),
                Err(Unusable::Status) => (DspOutcome::Error, NonBidStatus::Error),
                Err(Unusable::Invalid) => (DspOutcome::Invalid, NonBidStatus::InvalidBidResponse),
            },
        };
        offers.non_bids[answer.call] = non_bid;
        self.recorder
            .dsp_call(answer.dsp.index(), outcome, nanos(answer.elapsed));
    }

    fn read_response(
        &self,
        offers: &mut Offers<'_>,
        call: usize,
        dsp: DspId,
        response: Response<'_>,
    ) -> Result<(), Unusable> {
        match response.status {
            200 => {}
            204 => return Err(Unusable::NoBid(NonBidStatus::NoBid)),
            // Redirects are not followed: where a bid request goes is configured, not for a DSP to say.
            _ => return Err(Unusable::Status),
        }
        // What is read of an answer is of use until its offers are made: they keep what they need, a third of it.
        let scratch = self.arenas.take();
        let Ok(read) = self.parser.borrow().parse_response(response.body, &scratch) else {
            return Err(Unusable::Invalid);
        };
        let no_bid = read.seats.iter().all(|seat| seat.bids.is_empty()) && read.bad_bids.is_empty();
        if no_bid {
            let reason = read
                .nbr
                .and_then(|nbr| u16::try_from(nbr).ok())
                .and_then(NoBidReason::from_code);
            return Err(Unusable::NoBid(
                reason.map_or(NonBidStatus::NoBid, NonBidStatus::from),
            ));
        }
        if read.id != Some(offers.request.id) {
            // It answers another request: a late answer, or a DSP that mixes them up. Its price must not enter, and
            // what else comes on that connection may be as wrong.
            self.fanout.transport().distrust(response.connection);
            self.lose_all(dsp, &read, LossReason::InvalidAuctionId);
            return Err(Unusable::Invalid);
        }
        for bad in read.bad_bids {
            self.lose(dsp, of_fault(bad.fault), BidResult::Invalid);
        }
        let before = offers.list.len();
        match currency_of(&read, offers) {
            Some(currency) => self.take_bids(offers, call, dsp, &read, currency),
            None => self.lose_all(dsp, &read, LossReason::InvalidBidResponse),
        }
        if offers.list.len() > before {
            Ok(())
        } else {
            Err(Unusable::Invalid)
        }
    }

    fn take_bids(
        &self,
        offers: &mut Offers<'_>,
        call: usize,
        dsp: DspId,
        read: &BidResponse<'_>,
        currency: Currency,
    ) {
        let arena = offers.arena;
        let imps = offers.request.imps.len();
        let mut positions = 0..;
        for seat in read.seats {
            let seat_name = seat.seat.map(|seat| &*arena.alloc_str(seat));
            let seat_raw = seat.seat_raw.map(|raw| &*arena.alloc_slice_copy(raw));
            let group = (seat.group && seat.bids.len() > 1).then(|| {
                offers.groups += 1;
                offers.groups - 1
            });
            let first = offers.list.len();
            let mut whole = !seat.has_bad_bids;
            for (bid, position) in seat.bids.iter().zip(&mut positions) {
                match self.offer(offers, dsp, position, seat_name, bid, currency) {
                    Ok((imp, offer)) => {
                        let offer = OfferFor {
                            imp,
                            offer,
                            bid: BidText {
                                raw: arena.alloc_slice_copy(bid.raw),
                                ..bid.text()
                            },
                            seat_raw,
                            group,
                        };
                        offers.add(offer);
                    }
                    Err(reason) => {
                        self.lose(dsp, reason, BidResult::Invalid);
                        whole = false;
                    }
                }
            }
            if seat.group && !(whole && each_for_an_imp_of_its_own(&offers.list[first..], imps, arena)) {
                // A bid of this group can never win, so none of it may.
                for _ in offers.list.drain(first..) {
                    self.lose(dsp, LossReason::InvalidBidResponse, BidResult::Lost);
                }
            }
            for offer in &offers.list[first..] {
                offers.offered[call * imps + offer.imp] = true;
            }
        }
    }

    /// A bid as an offer in the auction's currency.
    fn offer<'a>(
        &self,
        offers: &Offers<'a>,
        dsp: DspId,
        position: u32,
        seat: Option<&'a str>,
        bid: &Bid<'_>,
        currency: Currency,
    ) -> Result<(usize, Offer<'a>), LossReason> {
        let arena = offers.arena;
        let imps = offers.request.imps;
        let imp = imps
            .iter()
            .position(|imp| imp.id == bid.impid)
            .ok_or(LossReason::InvalidBidResponse)?;
        if bid.mtype.is_some_and(|mtype| !imps[imp].media.offers(mtype)) {
            return Err(LossReason::WrongFormat);
        }
        let price = self.price(bid, currency, offers.currency)?;
        let offer = Offer {
            dsp: DspIndex(dsp.0),
            position,
            seat,
            price,
            deal: bid.dealid.map(|deal| &*arena.alloc_str(deal)),
            floor: self.imp_floor_of(bid, &imps[imp], offers.currency),
            deal_floor: self.deal_floor_of(bid, &imps[imp], offers.currency),
            adomain: arena.alloc_slice_fill_iter(bid.adomain.iter().map(|domain| &*arena.alloc_str(domain))),
        };
        Ok((imp, offer))
    }

    fn price(&self, bid: &Bid<'_>, from: Currency, to: Currency) -> Result<Cpm, LossReason> {
        let (amount, exact) = Money::parse(bid.price.as_bytes(), from, Rounding::TowardZero)
            .map_err(|_: DecimalError| LossReason::InvalidBidResponse)?;
        if !exact {
            self.recorder.rounded(Rounded::Bid);
        }
        let (micros, _rate) = self
            .options
            .rates
            .convert(amount, to, Rounding::TowardZero)
            .map_err(|_| LossReason::InvalidBidResponse)?;
        Cpm::from_micros(micros).ok_or(LossReason::InvalidBidResponse)
    }

    fn lose_all(&self, dsp: DspId, read: &BidResponse<'_>, reason: LossReason) {
        for _ in read.bids() {
            self.lose(dsp, reason, BidResult::Invalid);
        }
    }

    /// Counts a bid that will not be sold.
    pub(super) fn lose(&self, dsp: DspId, reason: LossReason, result: BidResult) {
        self.recorder.bid(dsp.index(), result);
        self.recorder.loss(reason.code());
    }
}

/// Two bids for one imp cannot both win.
fn each_for_an_imp_of_its_own(group: &[OfferFor<'_>], imps: usize, arena: &Bump) -> bool {
    let taken = arena.alloc_slice_fill_copy(imps, false);
    group
        .iter()
        .all(|offer| !std::mem::replace(&mut taken[offer.imp], true))
}

/// The currency of an answer's bids, if the SSP allows it.
fn currency_of(read: &BidResponse<'_>, offers: &Offers<'_>) -> Option<Currency> {
    let code = read.cur.unwrap_or("USD");
    let allowed = offers.bid_currencies.iter().find(|(known, _)| *known == code);
    allowed.map(|&(_, currency)| currency)
}

fn of_failure(failure: CallFailure) -> (DspOutcome, NonBidStatus) {
    match failure {
        CallFailure::Timeout => (DspOutcome::Timeout, NonBidStatus::Timeout),
        CallFailure::Unreachable => (DspOutcome::Error, NonBidStatus::Unreachable),
        CallFailure::Throttled => (DspOutcome::Throttled, NonBidStatus::RequestBlocked),
        CallFailure::Lost | CallFailure::Stale => (DspOutcome::Error, NonBidStatus::Error),
        CallFailure::Protocol(_) | CallFailure::TooLarge | CallFailure::BadEncoding => {
            (DspOutcome::Invalid, NonBidStatus::InvalidBidResponse)
        }
    }
}

fn of_fault(fault: BidFault) -> LossReason {
    match fault {
        BidFault::NoPrice => LossReason::MissingPrice,
        BidFault::NoMarkup => LossReason::MissingMarkup,
        BidFault::NotAnObject
        | BidFault::NoId
        | BidFault::NoImpId
        | BidFault::NegativePrice
        | BidFault::BadMember(_)
        | BidFault::RepeatedMember(_) => LossReason::InvalidBidResponse,
    }
}
