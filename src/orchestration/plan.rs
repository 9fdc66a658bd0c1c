//! Whom to ask, until when, with which bytes; and the currency the auction is held in.

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::Orchestrator;
use crate::clock::Instant;
use crate::fanout::{Call, DspId, NotAsked, Transport};
use crate::money::Currency;
use crate::openrtb::codes::{NoBidReason, NonBidStatus};
use crate::openrtb::{BidRequest, Splice};
use crate::telemetry::{DspOutcome, ShedReason};

/// A DSP is not asked when it would have less than this: no bidder answers over a network in a millisecond, and
/// `tmax` has no smaller unit.
const DSP_NANOS_MIN: u128 = 1_000_000;

/// What is going to be done about one bid request.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    /// A call per DSP.
    pub(super) calls: &'a [Call<'a>],
    /// What the auction is held in.
    pub(super) currency: Currency,
    /// What bids may be in, by its code: looked up once, not for each answer.
    pub(super) bid_currencies: &'a [(&'a str, Currency)],
}

impl<T: Transport> Orchestrator<T> {
    /// # Errors
    /// Why nobody is asked.
    pub(super) fn plan<'a>(
        &self,
        request: &BidRequest<'a>,
        arrival: Instant,
        arena: &'a Bump,
    ) -> Result<Plan<'a>, NoBidReason> {
        let imps = request.imps.len();
        let Some(currency) = self.auction_currency(request) else {
            self.ask_nobody(imps, NonBidStatus::UnsupportedCurrency);
            return Err(NoBidReason::TechnicalError);
        };
        let bid_currencies = bid_currencies(request, currency, arena);
        let now = self.timers.now();
        let deadline = self.deadline(request, arrival);
        if deadline.since(now) < self.options.fan_out_min {
            self.ask_nobody(imps, NonBidStatus::InsufficientTime);
            self.recorder.shed(ShedReason::Late);
            return Err(NoBidReason::InsufficientTime);
        }
        let splice = Splice::new(request);
        let mut bodies: ArenaVec<'_, (u32, &[u8])> = ArenaVec::new_in(arena);
        let mut calls = ArenaVec::with_capacity_in(self.fanout.dsps().count(), arena);
        let explores = self.fanout.gates().explores();
        // If it is nobody's time that is too short, what keeps us from asking is technical.
        let mut nobody = NoBidReason::TechnicalError;
        for (id, dsp) in self.fanout.dsps().iter() {
            let due_at = now.after(dsp.timeout).min(deadline);
            if due_at.since(now).as_nanos() < DSP_NANOS_MIN {
                self.no_call(id, imps, NonBidStatus::InsufficientTime);
                nobody = NoBidReason::InsufficientTime;
                continue;
            }
            let (leave, due_at) = match self.fanout.gates().admit(id, now, due_at, explores) {
                Ok(admitted) => admitted,
                Err(why) => {
                    self.not_asked(id, imps, why);
                    continue;
                }
            };
            let left = due_at.since(now).as_nanos();
            let tmax_ms = u32::try_from(left / 1_000_000).unwrap_or(u32::MAX);
            let known = bodies
                .iter()
                .find(|(tmax, _)| *tmax == tmax_ms)
                .map(|(_, body)| *body);
            let body = known.unwrap_or_else(|| {
                let body = splice.encode(tmax_ms, arena);
                bodies.push((tmax_ms, body));
                body
            });
            calls.push(Call {
                dsp: id,
                body,
                due_at,
                leave,
            });
        }
        if calls.is_empty() {
            return Err(nobody);
        }
        Ok(Plan {
            calls: calls.into_bump_slice(),
            currency,
            bid_currencies,
        })
    }

    fn ask_nobody(&self, imps: usize, status: NonBidStatus) {
        let dsps = self.fanout.dsps().iter();
        dsps.for_each(|(dsp, _)| self.no_call(dsp, imps, status));
    }

    /// A call that was due and is not made for its DSP's own sake, or ours.
    fn not_asked(&self, dsp: DspId, imps: usize, why: NotAsked) {
        let outcome = match why {
            NotAsked::OpenBreaker => DspOutcome::OpenBreaker,
            NotAsked::Throttled => DspOutcome::Throttled,
        };
        self.recorder.dsp_call(dsp.index(), outcome, 0);
        self.no_call(dsp, imps, NonBidStatus::RequestBlocked);
    }

    fn no_call(&self, dsp: DspId, imps: usize, status: NonBidStatus) {
        for _ in 0..imps {
            self.recorder.non_bid(dsp.index(), status.code());
        }
    }

    /// Arrival, and the smaller of what the SSP leaves us and our own cap.
    pub(super) fn deadline(&self, request: &BidRequest<'_>, arrival: Instant) -> Instant {
        let cap = self.options.deadline;
        let allowed = request.tmax_ms.map_or(cap, |tmax_ms| {
            let tmax = std::time::Duration::from_millis(u64::from(tmax_ms));
            tmax.saturating_sub(self.options.tmax_margin).min(cap)
        });
        arrival.after(allowed)
    }

    /// The exchange's own currency if the SSP takes it, else the first of the SSP's that it can be converted to: an
    /// answer in a currency that the SSP did not allow could not be sold on.
    pub(super) fn auction_currency(&self, request: &BidRequest<'_>) -> Option<Currency> {
        let own = self.options.currency;
        if request.cur.is_empty() || request.cur.contains(&own.as_str()) {
            return Some(own);
        }
        let named = request
            .cur
            .iter()
            .filter_map(|code| Currency::from_bytes(code.as_bytes()));
        named
            .into_iter()
            .find(|&currency| self.options.rates.rate(own, currency).is_some())
    }
}

/// What the SSP allows, without what is no currency; where it leaves that open, the auction's own.
pub(super) fn bid_currencies<'a>(
    request: &BidRequest<'a>,
    auction: Currency,
    arena: &'a Bump,
) -> &'a [(&'a str, Currency)] {
    if request.cur.is_empty() {
        return arena.alloc_slice_copy(&[(auction.as_str(), auction)]);
    }
    let mut known = ArenaVec::with_capacity_in(request.cur.len(), arena);
    let named = request.cur.iter();
    known.extend(named.filter_map(|code| Some((*code, Currency::from_bytes(code.as_bytes())?))));
    known.into_bump_slice()
}
