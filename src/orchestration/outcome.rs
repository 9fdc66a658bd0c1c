//! What an orchestration ends in: a bid response, or none; and the reasons for all that did not win.

use bumpalo::collections::Vec as ArenaVec;

use super::Orchestrator;
use super::offers::Offers;
use super::plan::Plan;
use super::sale::Sales;
use crate::auction::Verdict;
use crate::fanout::{DspId, Transport};
use crate::money::decimal::{TEXT_BYTES_MAX, write_micros};
use crate::money::{Cpm, Currency, Money, Rounding};
use crate::openrtb::codes::NoBidReason;
use crate::openrtb::{BidRequest, Seat, Win, write_no_bid, write_response};
use crate::telemetry::BidResult;

/// What a valid bid request ends in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// A bid response to send: bids, or the reason why there are none.
    Response(Vec<u8>),
    /// Nothing was sold, and nothing is to be said about it.
    NoBid,
}

impl<T: Transport> Orchestrator<T> {
    pub(super) fn outcome(
        &self,
        request: &BidRequest<'_>,
        plan: &Plan<'_>,
        offers: &Offers<'_>,
        sales: &Sales<'_>,
    ) -> Outcome {
        self.count(request, plan, offers, sales);
        if sales.won.is_empty() {
            return self.no_bid(request, NoBidReason::UnknownError);
        }
        let mut wins = ArenaVec::with_capacity_in(sales.won.len(), offers.arena);
        wins.extend(sales.won.iter().map(|&(position, clearing)| {
            let Some((bid, seat_raw)) = offers.text(position) else {
                unreachable!("an offer that is surely beaten does not win")
            };
            let dsp = offers.list[position].offer.dsp.0;
            let seat = match seat_raw {
                Some(raw) => Seat::Raw(raw),
                None => Seat::Name(&self.fanout.dsps().get(DspId(dsp)).name),
            };
            let mut text = [0; TEXT_BYTES_MAX];
            let price = &*offers.arena.alloc_str(write_micros(clearing.micros(), &mut text));
            Win {
                dsp,
                seat,
                bid,
                price,
            }
        }));
        let bytes = wins.iter().map(|win| win.bid.raw.len() + 64).sum::<usize>() + 128;
        let mut out = Vec::with_capacity(bytes);
        write_response(&mut out, request.id_raw, plan.currency.as_str(), &wins);
        Outcome::Response(out)
    }

    pub(super) fn no_bid(&self, request: &BidRequest<'_>, reason: NoBidReason) -> Outcome {
        if !self.options.writes_no_bid {
            return Outcome::NoBid;
        }
        let mut out = Vec::with_capacity(request.id_raw.len() + 64);
        write_no_bid(&mut out, request.id_raw, Some(reason.code()));
        Outcome::Response(out)
    }

    fn count(&self, request: &BidRequest<'_>, plan: &Plan<'_>, offers: &Offers<'_>, sales: &Sales<'_>) {
        for (offer, verdict) in offers.list.iter().zip(sales.verdicts.iter()) {
            let dsp = DspId(offer.offer.dsp.0);
            match verdict {
                Verdict::Won => self.recorder.bid(dsp.index(), BidResult::Won),
                Verdict::Lost(reason) => self.lose(dsp, *reason, BidResult::Lost),
            }
        }
        for &(_, clearing) in &sales.won {
            self.count_clearing_price(clearing, plan.currency);
        }
        for (index, call) in plan.calls.iter().enumerate() {
            let without = (0..request.imps.len())
                .filter(|&imp| !offers.has_offer(index, imp))
                .count();
            for _ in 0..without {
                self.recorder
                    .non_bid(call.dsp.index(), offers.non_bids[index].code());
            }
        }
    }

    fn count_clearing_price(&self, clearing: Cpm, currency: Currency) {
        let amount = Money {
            micros: clearing.micros(),
            currency,
        };
        if let Some(micros) = self.in_own_currency(amount) {
            self.recorder
                .clearing_price(self.options.currency.as_str(), micros);
        }
    }

    /// The size of an amount in micros of the exchange's own currency: a sum of several would mean nothing.
    pub(super) fn in_own_currency(&self, amount: Money) -> Option<u64> {
        let own = self.options.currency;
        let (micros, _rate) = self
            .options
            .rates
            .convert(amount, own, Rounding::TowardZero)
            .ok()?;
        Some(micros.unsigned_abs())
    }
}
