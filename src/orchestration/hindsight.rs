//! What late answers would have brought: would the bid have won, and what would the SSP have got more? Keeps the auctions
//! that a late answer may still come for, and when one comes holds that auction again with it, by the same code.
//!
//! Off the requests' path: an auction is remembered only if a DSP ran out of time, as a copy in memory that is used
//! again; late answers are looked at when the shard looks after itself. Everything here has a bound, and what is not
//! looked at is counted. Refuses to change anything: no count of the auction itself moves.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bumpalo::Bump;
use bumpalo::collections::Vec as ArenaVec;

use super::event::LateEvent;
use super::offers::{OfferFor, Offers, Unusable};
use super::plan::{Plan, bid_currencies};
use super::{Orchestrator, nanos};
use crate::auction::{DspIndex, Floor, Offer};
use crate::clock::Instant;
use crate::fanout::{Call, DspId, Late, Leave, Response, Ticket, Transport};
use crate::money::{Cpm, Money};
use crate::openrtb::BidRequest;
use crate::telemetry::{LateFound, LongerBy};

/// Auctions that are remembered. A late answer may come for a second after its time (`PoolLimits::late_drain`), so this and
/// [`REMEMBERED_EVERY`] are a second. With a request of 1.4 kB and 23 offers each has 4 kB: 2 MB.
const REMEMBERED_MAX: usize = 512;

/// One auction is remembered so often at most. At 6,000 auctions a second, with the latencies of the reference profile
/// (1 call in 700 past its 60 ms), 1 in 30 has a late answer: 200 a second, all of which are remembered. When a DSP
/// stalls that all auctions wait for, this is a sample.
const REMEMBERED_EVERY: Duration = Duration::from_millis(2);

/// So many of them may come at once.
const REMEMBERED_AT_ONCE: u32 = 32;

/// A larger request is not remembered: the largest of the corpus has 17 kB, and 512 of these may be kept.
const REQUEST_BYTES_MAX: usize = 32 << 10;

/// Late answers that wait to be looked at: those of a second at the most that [`Orchestrator::look_back`] does.
const WAITING_MAX: usize = 256;

/// A larger late answer is not looked at: most are below 2 kB, and 256 of these may wait.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Late answers looked at in one go. To read a request and an answer and hold two auctions takes some 20 us: a third of a
/// millisecond, 20 times a second, 0.6 % of a core.
const LOOKS_MAX: usize = 16;

/// How long an answer waits for its auction to be held: longer, and it is nobody's. As long as an answer may be late, and
/// the longest auction of usual configurations.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Buffers are kept up to this size.
const BUFFER_BYTES_KEPT: usize = 8 << 10;

/// One shard's memory of its last auctions. See the module's description.
#[derive(Default)]
pub struct Hindsight {
    pub(super) inner: RefCell<Inner>,
}

#[derive(Default)]
pub(super) struct Inner {
    /// A ring; the oldest is overwritten.
    pub(super) remembered: Vec<Remembered>,
    next: usize,
    /// When as many will have been remembered as may be until then.
    used_up_to: Option<Instant>,
    pub(super) waiting: VecDeque<Waiting>,
    buffers: Vec<Vec<u8>>,
}

/// An auction that a late answer may still come for.
#[derive(Default)]
pub(super) struct Remembered {
    held: Option<Held>,
    /// The bid request as it came.
    request: Vec<u8>,
    offers: Vec<KeptOffer>,
    groups: usize,
    /// What the offers' strings are parts of.
    text: String,
    /// The advertiser domains of all offers.
    domains: Vec<Part>,
}

/// Which auction it was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// What one of its calls was made under.
    pub(super) ticket: Ticket,
    pub(super) deadline: Instant,
    /// Of the orchestrator that held it.
    pub(super) generation: u64,
}

/// An [`Offer`] whose strings are elsewhere.
struct KeptOffer {
    imp: usize,
    group: Option<usize>,
    dsp: DspIndex,
    position: u32,
    price: Cpm,
    floor: Option<Floor>,
    deal_floor: Option<Floor>,
    seat: Option<Part>,
    deal: Option<Part>,
    /// In [`Remembered::domains`].
    adomain: Part,
}

/// From, to.
type Part = (usize, usize);

/// A late answer that nobody has looked at yet.
pub(super) struct Waiting {
    dsp: DspId,
    ticket: Ticket,
    at: Instant,
    by: Duration,
    connection: u64,
    body: Vec<u8>,
    /// The auction's place in the ring; not known while it is not held.
    remembered: Option<usize>,
}

/// What a late answer turned out to be.
struct Verdict {
    found: LateFound,
    longer: LongerBy,
    /// What the SSP would have got more, in micros per mille of the exchange's own currency.
    more_micros: u64,
}

impl Hindsight {
    /// Takes a late answer to be looked at.
    ///
    /// # Errors
    /// What it is if that is known at once.
    pub fn take(&self, late: Late<'_>) -> Result<(), LateFound> {
        match late.response.status {
            200 => self.inner.borrow_mut().take(&late),
            204 => Err(LateFound::NoBid),
            _ => Err(LateFound::Invalid),
        }
    }

    /// Remembers an auction that has been held, unless there are too many of them.
    pub(super) fn remember(&self, request: &[u8], offers: &Offers<'_>, held: Held, now: Instant) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        if request.len() > REQUEST_BYTES_MAX || !inner.has_room(now) {
            return false;
        }
        let index = inner.next;
        inner.next = (index + 1) % REMEMBERED_MAX;
        if index == inner.remembered.len() {
            inner.remembered.push(Remembered::default());
        }
        inner.remembered[index].fill(request, offers, held);
        for waiting in &mut inner.waiting {
            if waiting.ticket.is_of_the_fan_out_of(held.ticket) {
                waiting.remembered = Some(index);
            }
        }
        true
    }
}

impl Inner {
    fn has_room(&mut self, now: Instant) -> bool {
        let used_up_to = self.used_up_to.unwrap_or(now).max(now);
        let has_room = used_up_to.since(now) < REMEMBERED_EVERY * REMEMBERED_AT_ONCE;
        if has_room {
            self.used_up_to = Some(used_up_to.after(REMEMBERED_EVERY));
        }
        has_room
    }

    fn take(&mut self, late: &Late<'_>) -> Result<(), LateFound> {
        let its = |auction: &Remembered| auction.held_for(late.ticket).is_some();
        let remembered = self.remembered.iter().position(its);
        let body = late.response.body;
        let comes_to_nothing = remembered.is_none() && !late.is_gathering;
        if comes_to_nothing || self.waiting.len() >= WAITING_MAX || body.len() > ANSWER_BYTES_MAX {
            return Err(LateFound::Unseen);
        }
        let mut kept = self.buffers.pop().unwrap_or_default();
        kept.extend_from_slice(body);
        self.waiting.push_back(Waiting {
            dsp: late.dsp,
            ticket: late.ticket,
            at: late.at,
            by: late.by,
            connection: late.response.connection,
            body: kept,
            remembered,
        });
        Ok(())
    }

    /// The next answer whose auction was held, or will not be.
    fn next(&mut self, now: Instant) -> Option<Waiting> {
        let is_ready = |waiting: &Waiting| waiting.remembered.is_some() || now.since(waiting.at) > WAIT_MAX;
        let index = self.waiting.iter().position(is_ready)?;
        self.waiting.remove(index)
    }

    fn recycle(&mut self, mut buffer: Vec<u8>) {
        if self.buffers.len() < LOOKS_MAX && buffer.capacity() <= BUFFER_BYTES_KEPT {
            buffer.clear();
            self.buffers.push(buffer);
        }
    }
}

impl Remembered {
    fn fill(&mut self, request: &[u8], offers: &Offers<'_>, held: Held) {
        if self.request.capacity() > BUFFER_BYTES_KEPT || self.text.capacity() > BUFFER_BYTES_KEPT {
            *self = Self::default();
        }
        (self.held, self.groups) = (Some(held), offers.groups);
        self.request.clear();
        self.request.extend_from_slice(request);
        self.text.clear();
        self.offers.clear();
        self.domains.clear();
        for offer in &offers.list {
            let kept = self.keep(offer);
            self.offers.push(kept);
        }
    }

    /// Which auction it is, if it is that of this call.
    fn held_for(&self, call: Ticket) -> Option<Held> {
        self.held.filter(|held| held.ticket.is_of_the_fan_out_of(call))
    }

    fn keep(&mut self, OfferFor { imp, offer, group }: &OfferFor<'_>) -> KeptOffer {
        let first = self.domains.len();
        for domain in offer.adomain {
            let part = self.write(domain);
            self.domains.push(part);
        }
        KeptOffer {
            imp: *imp,
            group: *group,
            dsp: offer.dsp,
            position: offer.position,
            price: offer.price,
            floor: offer.floor,
            deal_floor: offer.deal_floor,
            seat: offer.seat.map(|seat| self.write(seat)),
            deal: offer.deal.map(|deal| self.write(deal)),
            adomain: (first, self.domains.len()),
        }
    }

    fn write(&mut self, text: &str) -> Part {
        let start = self.text.len();
        self.text.push_str(text);
        (start, self.text.len())
    }

    fn part(&self, (from, to): Part) -> &str {
        &self.text[from..to]
    }

    /// Puts the offers back as they were.
    fn restore<'a>(&'a self, offers: &mut Offers<'a>) {
        offers.groups = self.groups;
        for kept in &self.offers {
            let domains = &self.domains[kept.adomain.0..kept.adomain.1];
            let mut adomain = ArenaVec::with_capacity_in(domains.len(), offers.arena);
            adomain.extend(domains.iter().map(|&domain| self.part(domain)));
            offers.list.push(OfferFor {
                imp: kept.imp,
                group: kept.group,
                offer: Offer {
                    dsp: kept.dsp,
                    position: kept.position,
                    seat: kept.seat.map(|seat| self.part(seat)),
                    price: kept.price,
                    deal: kept.deal.map(|deal| self.part(deal)),
                    floor: kept.floor,
                    deal_floor: kept.deal_floor,
                    adomain: adomain.into_bump_slice(),
                },
            });
        }
    }
}

impl<T: Transport> Orchestrator<T> {
    /// Keeps an auction for its late answers; false if it is not.
    pub(super) fn remember(
        &self,
        body: &[u8],
        request: &BidRequest<'_>,
        offers: &Offers<'_>,
        ticket: Ticket,
        arrival: Instant,
    ) -> bool {
        let held = Held {
            ticket,
            deadline: self.deadline(request, arrival),
            generation: self.generation,
        };
        self.hindsight.remember(body, offers, held, self.timers.now())
    }

    /// Looks at some of the late answers that have come, and counts what they would have brought. To be called some 20
    /// times a second.
    pub fn look_back(&self) {
        for _ in 0..LOOKS_MAX {
            let next = self.hindsight.inner.borrow_mut().next(self.timers.now());
            let Some(waiting) = next else { return };
            let verdict = self.judge_isolated(&waiting);
            let Verdict {
                found,
                longer,
                more_micros,
            } = verdict;
            let (dsp, currency) = (waiting.dsp.index(), self.options.currency.as_str());
            self.recorder.dsp_late_answer(dsp, found, longer);
            self.recorder.dsp_late_revenue(dsp, longer, currency, more_micros);
            self.hindsight.inner.borrow_mut().recycle(waiting.body);
        }
    }

    /// Outside of a request a panic would cost the shard: here it costs this look.
    fn judge_isolated(&self, waiting: &Waiting) -> Verdict {
        self.looks_back.set(true);
        let judged = catch_unwind(AssertUnwindSafe(|| self.judge(waiting)));
        self.looks_back.set(false);
        judged.unwrap_or_else(|_panic| {
            tracing::error!("a late answer made us panic; it is not looked at");
            self.recorder.request_panicked();
            waiting.unseen()
        })
    }

    fn judge(&self, waiting: &Waiting) -> Verdict {
        let memory = self.hindsight.inner.borrow();
        let auction = waiting.remembered.map(|index| &memory.remembered[index]);
        // It may have been overwritten since, or there are other rules after a reload.
        let held = auction.and_then(|auction| auction.held_for(waiting.ticket));
        let (Some(auction), Some(held)) = (auction, held.filter(|held| held.generation == self.generation))
        else {
            return waiting.unseen();
        };
        let longer = LongerBy::of(nanos(waiting.by), waiting.at > held.deadline);
        self.hold_again(auction, waiting, longer)
    }

    /// Holds the auction without the late answer and with it.
    fn hold_again(&self, auction: &Remembered, waiting: &Waiting, longer: LongerBy) -> Verdict {
        let arena = &*self.arenas.take();
        let parsed =
            self.parser
                .borrow_mut()
                .parse_request(&auction.request, arena, &self.options.validation);
        let Ok(request) = parsed else {
            return waiting.unseen();
        };
        let (found, more_micros) = self.compare(&request, auction, waiting, arena);
        self.log_late(&LateEvent {
            request: &request,
            dsp: waiting.dsp,
            at: waiting.at,
            late_ns: nanos(waiting.by),
            found,
            longer,
            more_micros,
        });
        Verdict {
            found,
            longer,
            more_micros,
        }
    }

    fn compare(
        &self,
        request: &BidRequest<'_>,
        auction: &Remembered,
        waiting: &Waiting,
        arena: &Bump,
    ) -> (LateFound, u64) {
        let Some(currency) = self.auction_currency(request) else {
            return (LateFound::Unseen, 0);
        };
        let call = Call {
            dsp: waiting.dsp,
            body: &[],
            due_at: waiting.at,
            leave: Leave::default(),
        };
        let plan = Plan {
            calls: arena.alloc_slice_copy(&[call]),
            currency,
            bid_currencies: bid_currencies(request, currency, arena),
        };
        let mut offers = Offers::new(request, &plan, arena);
        auction.restore(&mut offers);
        let in_time = offers.list.len();
        let before = self.sell_each_imp(request, &plan, &offers, arena);
        let response = Response {
            status: 200,
            body: &waiting.body,
            connection: waiting.connection,
        };
        match self.read_response(&mut offers, 0, waiting.dsp, response) {
            Ok(()) => {}
            Err(Unusable::NoBid(_)) => return (LateFound::NoBid, 0),
            Err(Unusable::Status | Unusable::Invalid(_) | Unusable::NoGoodBid) => {
                return (LateFound::Invalid, 0);
            }
        }
        let after = self.sell_each_imp(request, &plan, &offers, arena);
        let wins = after.won.iter().any(|&(offer, _)| offer >= in_time);
        let found = if wins { LateFound::Won } else { LateFound::Lost };
        // Less than before is possible where a deal goes before a higher price. Nothing was lost then.
        let micros = revenue(&after.won).saturating_sub(revenue(&before.won)).max(0);
        let more = self.in_own_currency(Money { micros, currency });
        (found, more.unwrap_or_default())
    }
}

impl Waiting {
    fn unseen(&self) -> Verdict {
        Verdict {
            found: LateFound::Unseen,
            longer: LongerBy::of(nanos(self.by), false),
            more_micros: 0,
        }
    }
}

fn revenue(won: &[(usize, Cpm)]) -> i64 {
    won.iter()
        .fold(0, |sum: i64, (_, clearing)| sum.saturating_add(clearing.micros()))
}

impl fmt::Debug for Hindsight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.borrow();
        f.debug_struct("Hindsight")
            .field("remembered", &inner.remembered.len())
            .field("waiting", &inner.waiting.len())
            .finish_non_exhaustive()
    }
}
