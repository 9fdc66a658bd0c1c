//! From DSPs' answers to offers: read, told apart, converted. Nothing here decides who wins.

use std::time::Duration;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::event::Logged;
use super::plan::Plan;
use super::{Orchestrator, nanos};
use crate::auction::{DspIndex, Offer};
use crate::fanout::{Answer, CallFailure, Conduct, DspId, Response, Ticket, Transport};
use crate::money::{Cpm, Currency, DecimalError, Money, Rounding};
use crate::openrtb::codes::{LossReason, NoBidReason, NonBidStatus};
use crate::openrtb::{AuctionType, Bid, BidFault, BidRequest, BidResponse, BidText, Span};
use crate::telemetry::{BidResult, DspFault, DspOutcome, Rounded};

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
    /// By call: when its answer came; empty where nothing is to be learnt from that.
    pub(super) elapsed: &'a mut [Duration],
    /// What late answers will come under, if any DSP ran out of time.
    pub(super) late_under: Option<Ticket>,
    /// What else the event log wants to know, if this auction is one of those it has.
    pub(super) logged: Option<&'a mut Logged<'a>>,
    /// Groups so far; a group's number is its place among them, from 0.
    pub(super) groups: usize,
    texts: ArenaVec<'a, Text<'a>>,
    /// By imp: the text of the offer that has surely beaten the others like it.
    leaders: &'a mut [Option<usize>],
    /// Between plain offers the price decides: no seat is barred, no price is fixed.
    price_decides: bool,
}

/// An offer and what it was made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct OfferFor<'a> {
    /// The imp's position in the request.
    pub(super) imp: usize,
    /// As the auction sees it.
    pub(super) offer: Offer<'a>,
    /// The all-or-nothing group it belongs to (`seatbid.group`, OpenRTB 2.6 §4.2.2).
    pub(super) group: Option<usize>,
}

/// What the DSP wrote of an offer that may win, in memory that goes to the next one when it is beaten.
#[derive(Debug)]
struct Text<'a> {
    /// The position of the offer in the list.
    offer: usize,
    /// The bid, and behind it the seat, if there is one.
    bytes: ArenaVec<'a, u8>,
    bid_bytes: usize,
    price_span: Span,
}

/// Room for a text is made in such steps, so that the next, a few bytes longer, has room in it too.
const TEXT_STEP_BYTES: usize = 128;

impl<'a> Text<'a> {
    fn new(arena: &'a Bump, offer: usize, bid: BidText<'_>, seat_raw: &[u8]) -> Self {
        let room = (bid.raw.len() + seat_raw.len()).next_multiple_of(TEXT_STEP_BYTES);
        let mut bytes = ArenaVec::with_capacity_in(room, arena);
        bytes.extend_from_slice_copy(bid.raw);
        bytes.extend_from_slice_copy(seat_raw);
        Self {
            offer,
            bytes,
            bid_bytes: bid.raw.len(),
            price_span: bid.price_span,
        }
    }

    fn replace(&mut self, arena: &'a Bump, offer: usize, bid: BidText<'_>, seat_raw: &[u8]) {
        if bid.raw.len() + seat_raw.len() > self.bytes.capacity() {
            *self = Self::new(arena, offer, bid, seat_raw);
            return;
        }
        self.bytes.clear();
        self.bytes.extend_from_slice_copy(bid.raw);
        self.bytes.extend_from_slice_copy(seat_raw);
        (self.offer, self.bid_bytes, self.price_span) = (offer, bid.raw.len(), bid.price_span);
    }
}

impl<'a> Offers<'a> {
    pub(super) fn new(request: &BidRequest<'a>, plan: &Plan<'a>, arena: &'a Bump) -> Self {
        Self {
            elapsed: &mut [],
            arena,
            request: *request,
            currency: plan.currency,
            bid_currencies: plan.bid_currencies,
            list: ArenaVec::new_in(arena),
            offered: arena.alloc_slice_fill_copy(plan.calls.len() * request.imps.len(), false),
            non_bids: arena.alloc_slice_fill_copy(plan.calls.len(), NonBidStatus::NoBid),
            late_under: None,
            logged: None,
            groups: 0,
            texts: ArenaVec::new_in(arena),
            leaders: arena.alloc_slice_fill_copy(request.imps.len(), None),
            price_decides: request.wseat.is_empty()
                && request.bseat.is_empty()
                && request.at != AuctionType::FixedPrice,
        }
    }

    /// Keeps when answers come, from now on.
    pub(super) fn time_answers(&mut self) {
        self.elapsed = self
            .arena
            .alloc_slice_fill_copy(self.non_bids.len(), Duration::ZERO);
    }

    /// Adds an offer, and keeps what the DSP wrote while it may win: one text for each imp and not one for each of 23
    /// offers, as long as the price decides between them.
    fn add(&mut self, offer: OfferFor<'a>, bid: BidText<'_>, seat_raw: &[u8], in_group: bool) {
        if self.list.is_empty() {
            // Not before: while no DSP has answered there may be 140,000 such lists.
            self.list.reserve_exact(self.non_bids.len());
        }
        let position = self.list.len();
        let is_plain = self.price_decides && !in_group && offer.offer.is_plain();
        let leader = self.leaders[offer.imp].filter(|_| is_plain);
        match leader.map(|leader| &mut self.texts[leader]) {
            Some(leader) => {
                let leading = &self.list[leader.offer].offer;
                if leading.is_surely_beaten_by(&offer.offer) {
                    leader.replace(self.arena, position, bid, seat_raw);
                } else if !offer.offer.is_surely_beaten_by(leading) {
                    self.texts.push(Text::new(self.arena, position, bid, seat_raw));
                }
            }
            None => {
                if is_plain {
                    self.leaders[offer.imp] = Some(self.texts.len());
                }
                self.texts.push(Text::new(self.arena, position, bid, seat_raw));
            }
        }
        self.list.push(offer);
    }

    /// Takes the offers from `first` on out again.
    fn take_out(&mut self, first: usize) -> usize {
        let count = self.list.len() - first;
        self.list.truncate(first);
        self.texts.retain(|text| text.offer < first);
        count
    }

    /// What the DSP wrote of the offer at this position of the list, if it may win: the bid and the seat.
    pub(super) fn text(&self, position: usize) -> Option<(BidText<'_>, Option<&[u8]>)> {
        let text = self.texts.iter().find(|text| text.offer == position)?;
        let (raw, seat_raw) = text.bytes.split_at(text.bid_bytes);
        let bid = BidText {
            raw,
            price_span: text.price_span,
        };
        Some((bid, Some(seat_raw).filter(|seat| !seat.is_empty())))
    }

    /// Whether the DSP of `call` made an offer for `imp`.
    pub(super) fn has_offer(&self, call: usize, imp: usize) -> bool {
        self.offered[call * self.request.imps.len() + imp]
    }
}

/// Why an answer as a whole brought no bid.
pub(super) enum Unusable {
    /// The DSP's own no.
    NoBid(NonBidStatus),
    /// An HTTP status that is none of a bid response's.
    Status,
    /// Not a bid response, or not one to our request.
    Invalid(DspFault),
    /// A bid response to our request, without a bid that can be compared.
    NoGoodBid,
}

impl<T: Transport> Orchestrator<T> {
    /// Takes one DSP's answer into `offers`. Says whether the DSP works: one whose bids are bad does.
    pub(super) fn read_offers(&self, offers: &mut Offers<'_>, answer: Answer<'_>) -> Conduct {
        let invalid = (DspOutcome::Invalid, NonBidStatus::InvalidBidResponse);
        let ((outcome, non_bid), conduct) = match answer.result {
            Err(failure) => {
                if matches!(failure, CallFailure::Timeout | CallFailure::Cut) {
                    offers.late_under = Some(answer.ticket);
                }
                if let Some(fault) = fault_of(failure) {
                    self.recorder.dsp_fault(answer.dsp.index(), fault);
                }
                // What a failure says of its DSP the fan-out knows itself.
                (of_failure(failure), Conduct::Unknown)
            }
            Ok(response) => match self.read_response(offers, answer.call, answer.dsp, response) {
                Ok(()) => ((DspOutcome::Bid, NonBidStatus::NoBid), Conduct::Good),
                Err(Unusable::NoBid(status)) => ((DspOutcome::NoBid, status), Conduct::Good),
                Err(Unusable::NoGoodBid) => {
                    self.recorder.dsp_fault(answer.dsp.index(), DspFault::NoUsableBid);
                    (invalid, Conduct::Good)
                }
                Err(Unusable::Status) => {
                    self.recorder.dsp_fault(answer.dsp.index(), DspFault::Status);
                    ((DspOutcome::Error, NonBidStatus::Error), Conduct::Bad)
                }
                Err(Unusable::Invalid(fault)) => {
                    self.recorder.dsp_fault(answer.dsp.index(), fault);
                    (invalid, Conduct::Bad)
                }
            },
        };
        offers.non_bids[answer.call] = non_bid;
        if let Some(elapsed) = offers.elapsed.get_mut(answer.call) {
            *elapsed = answer.elapsed;
        }
        if let Some(logged) = &mut offers.logged {
            logged.call_ended(answer.call, outcome, answer.elapsed);
        }
        self.recorder
            .dsp_call(answer.dsp.index(), outcome, nanos(answer.elapsed));
        conduct
    }

    pub(super) fn read_response(
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
        // What is read of an answer is of use until its offers are made: they keep what they need.
        self.scratch.with(
            |scratch| match self.parser.borrow().parse_response(response.body, scratch) {
                Ok(read) => self.take_response(offers, call, dsp, &read, response.connection),
                Err(_) => Err(Unusable::Invalid(DspFault::Unreadable)),
            },
        )
    }

    fn take_response(
        &self,
        offers: &mut Offers<'_>,
        call: usize,
        dsp: DspId,
        read: &BidResponse<'_>,
        connection: u64,
    ) -> Result<(), Unusable> {
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
            self.fanout.transport().distrust(connection);
            self.refuse_all(offers, dsp, read, LossReason::InvalidAuctionId);
            return Err(Unusable::Invalid(DspFault::WrongId));
        }
        for bad in read.bad_bids {
            self.refuse(offers, dsp, of_fault(bad.fault), BidResult::Invalid);
        }
        let before = offers.list.len();
        match currency_of(read, offers) {
            Some(currency) => self.take_bids(offers, call, dsp, read, currency),
            None => self.refuse_all(offers, dsp, read, LossReason::InvalidBidResponse),
        }
        if offers.list.len() > before {
            Ok(())
        } else {
            Err(Unusable::NoGoodBid)
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
            let group = (seat.group && seat.bids.len() > 1).then(|| {
                offers.groups += 1;
                offers.groups - 1
            });
            let first = offers.list.len();
            let mut whole = !seat.has_bad_bids;
            for (bid, position) in seat.bids.iter().zip(&mut positions) {
                match self.offer(offers, dsp, position, seat_name, bid, currency) {
                    Ok((imp, offer)) => {
                        let offer = OfferFor { imp, offer, group };
                        offers.add(offer, bid.text(), seat.seat_raw.unwrap_or_default(), seat.group);
                    }
                    Err(reason) => {
                        self.refuse(offers, dsp, reason, BidResult::Invalid);
                        whole = false;
                    }
                }
            }
            if seat.group && !(whole && each_for_an_imp_of_its_own(&offers.list[first..], imps, arena)) {
                // A bid of this group can never win, so none of it may.
                for _ in 0..offers.take_out(first) {
                    self.refuse(offers, dsp, LossReason::InvalidBidResponse, BidResult::Lost);
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
            adomain: match bid.dealid {
                Some(_) => {
                    arena.alloc_slice_fill_iter(bid.adomain.iter().map(|domain| &*arena.alloc_str(domain)))
                }
                None => &[],
            },
        };
        Ok((imp, offer))
    }

    fn price(&self, bid: &Bid<'_>, from: Currency, to: Currency) -> Result<Cpm, LossReason> {
        let (amount, exact) = Money::parse(bid.price.as_bytes(), from, Rounding::TowardZero)
            .map_err(|_: DecimalError| LossReason::InvalidBidResponse)?;
        if !exact {
            self.rounded(Rounded::Bid);
        }
        let (micros, _rate) = self
            .options
            .rates
            .convert(amount, to, Rounding::TowardZero)
            .map_err(|_| LossReason::InvalidBidResponse)?;
        Cpm::from_micros(micros).ok_or(LossReason::InvalidBidResponse)
    }

    fn refuse_all(&self, offers: &mut Offers<'_>, dsp: DspId, read: &BidResponse<'_>, reason: LossReason) {
        for _ in read.bids() {
            self.refuse(offers, dsp, reason, BidResult::Invalid);
        }
    }

    /// Counts a bid that is no offer.
    fn refuse(&self, offers: &mut Offers<'_>, dsp: DspId, reason: LossReason, result: BidResult) {
        self.lose(dsp, reason, result);
        if let Some(logged) = &mut offers.logged {
            logged.refused(dsp, reason, result);
        }
    }

    /// Counts a bid that will not be sold.
    pub(super) fn lose(&self, dsp: DspId, reason: LossReason, result: BidResult) {
        if self.looks_back.get() {
            return;
        }
        self.recorder.bid(dsp.index(), result);
        self.recorder.loss(reason.code());
    }

    /// Counts an amount with more than six decimals.
    pub(super) fn rounded(&self, amount: Rounded) {
        if !self.looks_back.get() {
            self.recorder.rounded(amount);
        }
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

/// What is wrong with the DSP; nothing where it had no time, or was not asked.
fn fault_of(failure: CallFailure) -> Option<DspFault> {
    match failure {
        CallFailure::Timeout | CallFailure::Cut | CallFailure::Throttled => None,
        CallFailure::Unreachable => Some(DspFault::Unreachable),
        CallFailure::Lost | CallFailure::Stale => Some(DspFault::Lost),
        CallFailure::Protocol(_) => Some(DspFault::Protocol),
        CallFailure::TooLarge => Some(DspFault::TooLarge),
        CallFailure::BadEncoding => Some(DspFault::Encoding),
    }
}

fn of_failure(failure: CallFailure) -> (DspOutcome, NonBidStatus) {
    match failure {
        CallFailure::Timeout => (DspOutcome::Timeout, NonBidStatus::Timeout),
        CallFailure::Cut => (DspOutcome::Cut, NonBidStatus::Timeout),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auction::{self, DealTerms, Floor, FloorRule, ImpTerms, Rules};
    use crate::openrtb::{Limits, Parser, Validation};
    use proptest::prelude::*;

    const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}},{"id":"2","banner":{}}]"#;

    /// A bid of some seat, as `Offers` gets it.
    #[derive(Clone, Copy, Debug)]
    struct Added {
        imp: usize,
        micros: i64,
        has_deal: bool,
        has_seat: bool,
        bytes: usize,
    }

    proptest! {
        /// Whatever the order, whatever is taken out again: who wins has kept what its DSP wrote.
        #[test]
        fn the_winner_has_its_text(
            // A list of bids, each with whether it is a group, and whether that is taken out again.
            seats in prop::collection::vec((prop::collection::vec(added(), 1..4), any::<(bool, bool)>()), 0..20),
            (has_seat_list, prefer_deals) in any::<(bool, bool)>(),
        ) {
            let arena = Bump::new();
            let list = if has_seat_list { r#","bseat":["none"]}"# } else { "}" };
            let body = format!("{REQUEST}{list}");
            let request = Parser::new(Limits::default()).parse_request(body.as_bytes(), &arena, &Validation::default());
            let plan = Plan { calls: &[], currency: Currency::USD, bid_currencies: &[] };
            let mut offers = Offers::new(&request.unwrap(), &plan, &arena);
            let mut wrote: Vec<(String, &str)> = Vec::new();
            for (bids, (is_group, goes)) in seats {
                let first = offers.list.len();
                for bid in bids {
                    let raw = format!("{:0>width$}", wrote.len(), width = bid.bytes);
                    let seat = if bid.has_seat { "\"s\"" } else { "" };
                    let text = BidText { raw: raw.as_bytes(), price_span: Span { start: 0, end: bid.bytes } };
                    offers.add(offer(bid, offers.list.len()), text, seat.as_bytes(), is_group);
                    wrote.push((raw, seat));
                }
                if is_group && goes {
                    let count = offers.take_out(first);
                    wrote.truncate(wrote.len() - count);
                }
            }
            for imp in 0..2 {
                let positions: Vec<_> = (0..wrote.len()).filter(|position| offers.list[*position].imp == imp).collect();
                let candidates: Vec<_> = positions.iter().map(|position| offers.list[*position].offer).collect();
                let Some(winner) = auction::sell(&TERMS, &candidates, &rules(prefer_deals), &arena).winner else {
                    continue;
                };
                let position = positions[winner.offer];
                let (bid, seat) = offers.text(position).unwrap();
                let (raw, seat_raw) = &wrote[position];
                prop_assert_eq!((bid.raw, seat.unwrap_or_default()), (raw.as_bytes(), seat_raw.as_bytes()));
                prop_assert_eq!(bid.price_span.end, raw.len());
            }
        }
    }

    #[test]
    fn of_plain_offers_only_the_best_keeps_its_text() {
        let arena = Bump::new();
        let body = format!("{REQUEST}}}");
        let request =
            Parser::new(Limits::default()).parse_request(body.as_bytes(), &arena, &Validation::default());
        let plan = Plan {
            calls: &[],
            currency: Currency::USD,
            bid_currencies: &[],
        };
        let mut offers = Offers::new(&request.unwrap(), &plan, &arena);
        for micros in [3, 5, 4, 7, 1, 7, 9] {
            let bid = Added {
                imp: 0,
                micros,
                has_deal: false,
                has_seat: false,
                bytes: 600,
            };
            let text = BidText {
                raw: &[b'x'; 600],
                price_span: Span { start: 0, end: 1 },
            };
            offers.add(offer(bid, offers.list.len()), text, &[], false);
        }
        let kept: Vec<_> = (0..7)
            .filter(|position| offers.text(*position).is_some())
            .collect();
        assert_eq!(
            kept,
            [5, 6],
            "the best, and one that was as good as the best before it"
        );
    }

    const TERMS: ImpTerms<'static> = ImpTerms {
        floor: Floor::Known(Cpm::ZERO),
        auction_type: auction::AuctionType::SecondPrice,
        private: false,
        deals: &[DealTerms {
            id: "d",
            floor: Floor::Known(Cpm::ZERO),
            auction_type: None,
            guaranteed: false,
            wseat: &[],
            wadomain: &[],
        }],
        wseat: &[],
        bseat: &[],
        tie_seed: 7,
    };

    fn rules(prefer_deals: bool) -> Rules {
        Rules {
            floor_rule: FloorRule::Above,
            increment: Cpm::ZERO,
            prefer_deals,
        }
    }

    fn offer(bid: Added, position: usize) -> OfferFor<'static> {
        let offer = Offer {
            dsp: DspIndex(0),
            position: u32::try_from(position).unwrap(),
            seat: None,
            price: Cpm::from_micros(bid.micros).unwrap(),
            deal: bid.has_deal.then_some("d"),
            floor: None,
            deal_floor: None,
            adomain: &[],
        };
        OfferFor {
            imp: bid.imp,
            offer,
            group: None,
        }
    }

    fn added() -> impl Strategy<Value = Added> {
        let parts = (
            0..2_usize,
            0..6_i64,
            prop::bool::weighted(0.2),
            any::<bool>(),
            3..400_usize,
        );
        parts.prop_map(|(imp, micros, has_deal, has_seat, bytes)| Added {
            imp,
            micros,
            has_deal,
            has_seat,
            bytes,
        })
    }
}
