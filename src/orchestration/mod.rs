//! One bid request from bytes to outcome: parse, plan, ask the DSPs, read their offers, sell each imp, write the
//! response. Knows nothing of HTTP towards the SSP, and nothing of sockets.

mod arena;
mod event;
mod floors;
mod hindsight;
mod isolate;
mod offers;
mod outcome;
mod plan;
mod rehearsal;
mod sale;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::auction::Rules;
use crate::clock::{Instant, Timers};
use crate::fanout::{Fanout, Transport};
use crate::money::{Currency, RateTable};
use crate::openrtb::{BidRequest, Invalid, Limits, Parser, Validation};
use crate::telemetry::{EventLog, Recorder, Stage};

pub use arena::Arenas;
pub use hindsight::Hindsight;
pub use isolate::{Panicked, isolate};
pub use outcome::Outcome;
pub use rehearsal::Rehearsal;

use arena::Scratch;
use event::{HeldAuction, StageTimes};
use offers::Offers;
use rehearsal::rehearse;

/// Orchestration options.
#[derive(Debug, Clone)]
pub struct Options {
    /// The longest an orchestration may take from its arrival, whatever the SSP allows.
    pub deadline: Duration,
    /// Kept back from the SSP's tmax for our own work and the way back.
    pub tmax_margin: Duration,
    /// What auctions are held in where the SSP leaves it open.
    pub currency: Currency,
    /// How floors and bids come into the auction's currency.
    pub rates: Arc<RateTable>,
    /// With less than this left DSPs are not asked: hardly one could answer.
    pub fan_out_min: Duration,
    /// How an imp is sold.
    pub rules: Rules,
    /// What the exchange insists on beyond OpenRTB.
    pub validation: Validation,
    /// Whether "nothing sold" is written as a bid response with a reason instead of none.
    pub writes_no_bid: bool,
    /// Panics on purpose, if there are to be any.
    pub rehearsal: Option<Rehearsal>,
}

/// Orchestrates the bid requests of one shard by one configuration.
pub struct Orchestrator<T> {
    options: Options,
    fanout: Fanout<T>,
    /// These three, and what follows them, are the shard's: whoever comes after a reload goes on with them.
    parser: Rc<RefCell<Parser>>,
    arenas: Rc<Arenas>,
    scratch: Rc<Scratch>,
    timers: Rc<Timers>,
    recorder: Rc<Recorder>,
    hindsight: Rc<Hindsight>,
    events: Option<Rc<EventLog>>,
    /// What is read and sold now is an auction of the past: it has been counted.
    looks_back: Cell<bool>,
    /// Bid requests since a rehearsal began.
    rehearsed: Cell<u64>,
    /// How many there were before it: an auction is held again only by its own rules.
    generation: u64,
}

impl<T: Transport> Orchestrator<T> {
    /// An orchestrator over `fanout`.
    pub fn new(options: Options, fanout: Fanout<T>, timers: Rc<Timers>, recorder: Rc<Recorder>) -> Self {
        Self {
            options,
            fanout,
            parser: Rc::new(RefCell::new(Parser::new(Limits::default()))),
            arenas: Rc::default(),
            scratch: Rc::default(),
            timers,
            recorder,
            hindsight: Rc::default(),
            events: None,
            looks_back: Cell::new(false),
            rehearsed: Cell::default(),
            generation: 0,
        }
    }

    /// One that goes on by another configuration, with the same memory. What this one has begun it finishes.
    #[must_use]
    pub fn successor(&self, options: Options, fanout: Fanout<T>) -> Self {
        Self {
            options,
            fanout,
            parser: Rc::clone(&self.parser),
            arenas: Rc::clone(&self.arenas),
            scratch: Rc::clone(&self.scratch),
            timers: Rc::clone(&self.timers),
            recorder: Rc::clone(&self.recorder),
            hindsight: Rc::clone(&self.hindsight),
            events: self.events.clone(),
            looks_back: Cell::new(false),
            rehearsed: self.rehearsed.clone(),
            generation: self.generation + 1,
        }
    }

    /// The same with the place where its late answers arrive.
    #[must_use]
    pub fn with_hindsight(self, hindsight: Rc<Hindsight>) -> Self {
        Self { hindsight, ..self }
    }

    /// The same with an event log.
    #[must_use]
    pub fn with_events(self, events: Option<Rc<EventLog>>) -> Self {
        Self { events, ..self }
    }

    /// What asks the DSPs.
    pub fn fanout(&self) -> &Fanout<T> {
        &self.fanout
    }

    /// How many arenas are on loan: one for each orchestration in flight.
    #[must_use]
    pub fn arenas_lent(&self) -> usize {
        self.arenas.lent()
    }

    /// How many bytes orchestrations in flight hold: their arenas, and what DSPs have answered and nobody has read.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.arenas.lent_bytes() + self.fanout.held_bytes()
    }

    /// How many arenas are in the pool, not on loan.
    #[cfg(test)]
    pub(crate) fn arenas_idle(&self) -> usize {
        self.arenas.idle_count()
    }

    /// Takes a bid request that arrived at `arrival` to its outcome, before its deadline.
    ///
    /// # Errors
    /// [`Invalid`] when the request breaks a rule of OpenRTB or one of the exchange's own.
    pub async fn orchestrate(&self, arrival: Instant, body: &[u8]) -> Result<Outcome, Invalid> {
        let arena = self.arenas.take();
        let mut times = StageTimes::default();
        let strikes = self.options.rehearsal.and_then(|rehearsal| {
            rehearsal.strikes(self.rehearsed.replace(self.rehearsed.get().wrapping_add(1)))
        });
        let request = self.timed(Stage::Parse, &mut times.parse, || {
            rehearse(strikes, Stage::Parse);
            self.parser
                .borrow_mut()
                .parse_request(body, &arena, &self.options.validation)
        })?;
        let plan = match self.timed(Stage::Plan, &mut times.plan, || {
            rehearse(strikes, Stage::Plan);
            self.plan(&request, arrival, &arena)
        }) {
            Ok(plan) => plan,
            Err(reason) => {
                self.log_unasked(&request, times, reason, arrival);
                return Ok(self.no_bid(&request, reason));
            }
        };
        let mut offers = Offers::new(&request, &plan, &arena);
        if self.fanout.gates().learn() {
            offers.time_answers();
        }
        offers.logged = self.begin_event(&request, &plan, times, &arena);
        arena.weigh();
        let asked = self.timers.now();
        rehearse(strikes, Stage::Fanout);
        let reading = self
            .fanout
            .gather(plan.calls, |answer| {
                rehearse(strikes, Stage::Offers);
                let conduct = self.read_offers(&mut offers, answer);
                arena.weigh();
                conduct
            })
            .await;
        self.recorder.stage(Stage::Offers, nanos(reading));
        let mut times = StageTimes {
            offers: nanos(reading),
            fanout: self.record(Stage::Fanout, asked),
            ..StageTimes::default()
        };
        let sales = self.timed(Stage::Auction, &mut times.auction, || {
            rehearse(strikes, Stage::Auction);
            self.sell_each_imp(&request, &plan, &offers, &arena)
        });
        self.learn(&plan, &offers, &sales);
        let outcome = self.timed(Stage::Write, &mut times.write, || {
            rehearse(strikes, Stage::Write);
            self.outcome(&request, &plan, &offers, &sales)
        });
        let is_watched = offers
            .late_under
            .is_some_and(|ticket| self.remember(body, &request, &offers, ticket, arrival));
        self.log_auction(
            &HeldAuction {
                request: &request,
                plan: &plan,
                offers: &offers,
                sales: &sales,
                is_watched,
            },
            times,
            arrival,
        );
        self.notice_a_missed_deadline(&request, arrival);
        Ok(outcome)
    }

    fn notice_a_missed_deadline(&self, request: &BidRequest<'_>, arrival: Instant) {
        let Some(tmax_ms) = request.tmax_ms else { return };
        if self.timers.now() > arrival.after(Duration::from_millis(u64::from(tmax_ms))) {
            self.recorder.deadline_missed();
        }
    }

    fn timed<R>(&self, stage: Stage, ns: &mut u64, work: impl FnOnce() -> R) -> R {
        let start = self.timers.now();
        let result = work();
        *ns = self.record(stage, start);
        result
    }

    fn record(&self, stage: Stage, start: Instant) -> u64 {
        let ns = nanos(self.timers.now().since(start));
        self.recorder.stage(stage, ns);
        ns
    }
}

impl<T> fmt::Debug for Orchestrator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Orchestrator")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod hindsight_tests;
