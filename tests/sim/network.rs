//! The network of a world: carries calls to DSPs that answer when and how they like, on the world's clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use corebid::clock::Instant;
use corebid::fanout::{CallFailure, Gatherings, Outgoing, Reply, Ticket, Transport};
use corebid::net::gzip::gunzip;

use crate::bidding::{Answered, Asked, Bid};
use crate::chance::Chance;
use crate::trace::Trace;

/// What a call says when it makes us panic.
pub(crate) const PANIC: &str = "simulated";

/// How a DSP behaves in this world.
#[derive(Debug, Clone, Copy)]
struct Temper {
    /// Half of its answers take longer.
    median: Duration,
    /// Of a thousand calls: those that fail, are not answered in time, cannot be started, and make us panic.
    fails: u64,
    stalls: u64,
    refuses: u64,
    panics: u64,
}

impl Temper {
    const WELL: Self = Self {
        median: Duration::ZERO,
        fails: 0,
        stalls: 0,
        refuses: 0,
        panics: 0,
    };

    fn is_well(self) -> bool {
        self.median.is_zero()
    }

    fn draw(chance: &mut Chance) -> Self {
        let mut share = |of_ten: u64, most: u64| {
            if chance.below(10) < of_ten {
                chance.below(most)
            } else {
                0
            }
        };
        let (fails, stalls, refuses, panics) = (share(4, 500), share(4, 500), share(3, 300), share(1, 60));
        Self {
            median: chance.micros(200, 60_000),
            fails,
            stalls,
            refuses,
            panics,
        }
    }
}

/// What the gate of a DSP has to do with, as it happens to one bid request.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Seen {
    /// A call was made, which has until then.
    Asked { dsp: usize, due_at: Instant },
    /// A call could not be made.
    Refused { dsp: usize },
    /// A call ended and was waited for: what that says of the DSP, where it is not the time it took that does.
    Ended { dsp: usize, at: Instant, how: End },
    /// A call made us panic.
    Panicked { dsp: usize },
}

impl Seen {
    /// Whose call it was that made us panic.
    pub(crate) fn panicked(&self) -> Option<usize> {
        match self {
            Self::Panicked { dsp } => Some(*dsp),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Good,
    Bad,
    /// Too late.
    Late,
    /// It is made once more if there is time.
    Stale,
}

/// Something on its way.
struct Under {
    at: Instant,
    dsp: usize,
    ticket: Ticket,
    due_at: Instant,
    request: String,
    ends: Ends,
}

enum Ends {
    Answered(Answered),
    Failed(CallFailure),
}

/// What an exchange knows of a request when it has to sell.
#[derive(Debug, Default)]
pub(crate) struct Arrived {
    /// By DSP: its bids, in their order.
    pub(crate) bids: BTreeMap<usize, Vec<Bid>>,
    /// When the fan-out began.
    pub(crate) asked_at: Option<Instant>,
    /// A call of it made us panic.
    pub(crate) panicked: bool,
    /// Calls whose end has not come, and when that of the last one came.
    pub(crate) under_way: usize,
    pub(crate) last_end_at: Option<Instant>,
    /// Not looked at yet.
    pub(crate) seen: Vec<Seen>,
}

pub(crate) struct Network {
    chance: RefCell<Chance>,
    tempers: RefCell<Vec<Temper>>,
    /// By DSP: from when until when nothing of it works.
    outages: RefCell<Vec<Option<(Instant, Instant)>>>,
    clock: Rc<Cell<Instant>>,
    gatherings: Rc<Gatherings>,
    under_way: RefCell<Vec<Under>>,
    requests: RefCell<BTreeMap<String, (Asked, Arrived)>>,
    trace: Rc<Trace>,
    /// By DSP, without retries.
    pub(crate) calls: RefCell<Vec<u64>>,
    pub(crate) distrusted: Cell<u64>,
    pub(crate) late: Cell<u64>,
    pub(crate) retried: Cell<u64>,
}

impl Network {
    pub(crate) fn new(
        mut chance: Chance,
        dsps: usize,
        clock: Rc<Cell<Instant>>,
        gatherings: Rc<Gatherings>,
        trace: Rc<Trace>,
    ) -> Self {
        Self {
            trace,
            calls: RefCell::new(vec![0; dsps]),
            tempers: (0..dsps)
                .map(|_| Temper::draw(&mut chance))
                .collect::<Vec<_>>()
                .into(),
            outages: vec![None; dsps].into(),
            chance: RefCell::new(chance),
            clock,
            gatherings,
            under_way: RefCell::default(),
            requests: RefCell::default(),
            distrusted: Cell::default(),
            late: Cell::default(),
            retried: Cell::default(),
        }
    }

    /// No DSP makes us panic.
    pub(crate) fn without_panics(&self) {
        for temper in self.tempers.borrow_mut().iter_mut() {
            temper.panics = 0;
        }
    }

    /// Nothing of this DSP works for some time.
    pub(crate) fn breaks(&self, dsp: usize, from: Instant, until: Instant) {
        self.outages.borrow_mut()[dsp] = Some((from, until));
    }

    /// All DSPs work from now on, and quickly.
    pub(crate) fn mend(&self) {
        self.outages.borrow_mut().fill(None);
        self.tempers.borrow_mut().fill(Temper::WELL);
    }

    /// Whether calls are under way, to be waited for or not.
    pub(crate) fn is_busy(&self) -> bool {
        !self.under_way.borrow().is_empty()
    }

    /// What has happened to a request's calls since this was asked last.
    pub(crate) fn take_seen(&self, request: &str) -> Vec<Seen> {
        let mut requests = self.requests.borrow_mut();
        std::mem::take(&mut requests.get_mut(request).unwrap().1.seen)
    }

    /// From now on there may be calls for this request.
    pub(crate) fn announce(&self, asked: Asked) {
        let arrived = Arrived::default();
        self.requests
            .borrow_mut()
            .insert(asked.id.clone(), (asked, arrived));
    }

    /// What had arrived for a request; what comes after this is of no interest.
    pub(crate) fn arrived(&self, request: &str) -> Arrived {
        self.requests.borrow_mut().remove(request).unwrap().1
    }

    pub(crate) fn next_at(&self) -> Option<Instant> {
        self.under_way.borrow().iter().map(|under| under.at).min()
    }

    /// Brings all that has reached us by now, in any order. Returns how much it was.
    pub(crate) fn deliver(&self) -> usize {
        let now = self.clock.get();
        let mut delivered = 0;
        loop {
            let mut under_way = self.under_way.borrow_mut();
            let ready: Vec<usize> = (0..under_way.len())
                .filter(|&index| under_way[index].at <= now)
                .collect();
            if ready.is_empty() {
                return delivered;
            }
            let picked = ready[self.chance.borrow_mut().index(ready.len())];
            let under = under_way.swap_remove(picked);
            drop(under_way);
            self.end(under, now);
            delivered += 1;
        }
    }

    /// As the pool does it: what is read after its time is late, in whatever order things are looked at.
    fn end(&self, under: Under, now: Instant) {
        let is_late = now > under.due_at;
        let how = match &under.ends {
            Ends::Failed(CallFailure::Stale) => End::Stale,
            Ends::Answered(_) if is_late => End::Late,
            Ends::Answered(answered) if answered.is_an_answer => End::Good,
            Ends::Answered(_) | Ends::Failed(_) => End::Bad,
        };
        let result = match under.ends {
            Ends::Failed(failure) => Err(failure),
            Ends::Answered(_) if is_late => {
                self.late.set(self.late.get() + 1);
                Err(CallFailure::Timeout)
            }
            Ends::Answered(answered) => {
                if let Some((_, arrived)) = self.requests.borrow_mut().get_mut(&under.request) {
                    arrived.bids.insert(under.dsp, answered.bids);
                }
                let mut body = self.gatherings.buffer();
                assert!(body.is_empty());
                body.extend_from_slice(&answered.body);
                Ok(Reply {
                    status: answered.status,
                    body,
                    connection: 7,
                })
            }
        };
        self.ended(&under.request, now);
        let said = result.as_ref().map(|reply| (reply.status, reply.body.len()));
        let (request, dsp) = (&under.request, under.dsp);
        self.trace
            .note(now, format_args!("{request} at {dsp}: {said:?}, late {is_late}"));
        if self.gatherings.complete(under.ticket, now, result) {
            let dsp = under.dsp;
            self.see(&under.request, Seen::Ended { dsp, at: now, how });
        }
    }

    fn see(&self, request: &str, seen: Seen) {
        if let Some((_, arrived)) = self.requests.borrow_mut().get_mut(request) {
            arrived.seen.push(seen);
        }
    }

    fn ended(&self, request: &str, now: Instant) {
        if let Some((_, arrived)) = self.requests.borrow_mut().get_mut(request) {
            arrived.under_way -= 1;
            arrived.last_end_at = Some(now);
        }
    }

    fn ends(&self, call: &Outgoing<'_>, asked: &Asked) -> (Duration, Ends) {
        let dsp = call.dsp.index();
        let mut temper = self.tempers.borrow()[dsp];
        let now = self.clock.get();
        if self.outages.borrow()[dsp].is_some_and(|(from, until)| from <= now && now < until) {
            temper.fails = 700;
            temper.stalls = 1000;
        }
        let mut chance = self.chance.borrow_mut();
        // A fourth of the median to eight times as long, in steps of doubling.
        let doublings = (chance.below(6) + chance.below(6)) / 2;
        let takes = temper.median / 4 * (1 << doublings) + chance.micros(0, 500);
        if chance.permille(temper.fails) {
            let failure = match chance.below(5) {
                0 if !call.fresh => CallFailure::Stale,
                1 => CallFailure::Unreachable,
                2 => CallFailure::Protocol("not HTTP"),
                3 => CallFailure::TooLarge,
                _ => CallFailure::Lost,
            };
            return (takes, Ends::Failed(failure));
        }
        let takes = if chance.permille(temper.stalls) {
            takes + Duration::from_secs(1)
        } else {
            takes
        };
        let answered = Answered::draw(&mut chance, asked, dsp, temper.is_well());
        (takes, Ends::Answered(answered))
    }
}

impl Transport for Network {
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure> {
        assert_eq!(now, self.clock.get());
        let mut unpacked = Vec::new();
        let body = if call.body.starts_with(&[0x1f, 0x8b]) {
            gunzip(call.body, &mut unpacked, 4096).unwrap();
            &unpacked[..]
        } else {
            call.body
        };
        let document: serde_json::Value = serde_json::from_slice(body).unwrap();
        let request = document["id"].as_str().unwrap().to_owned();
        let asked = {
            let mut requests = self.requests.borrow_mut();
            let (asked, arrived) = requests.get_mut(&request).unwrap();
            arrived.asked_at.get_or_insert(now);
            arrived.under_way += 1;
            let told = Duration::from_millis(document["tmax"].as_u64().unwrap());
            let left = call.due_at.since(arrived.asked_at.unwrap());
            assert!(
                told <= left && left < told + Duration::from_millis(1),
                "a DSP is told what it has, {told:?} of {left:?}"
            );
            asked.clone()
        };
        if call.fresh {
            assert!(now < call.due_at, "a call without time is retried");
            self.retried.set(self.retried.get() + 1);
        } else {
            self.calls.borrow_mut()[call.dsp.index()] += 1;
        }
        let (dsp, due_at) = (call.dsp.index(), call.due_at);
        self.see(&request, Seen::Asked { dsp, due_at });
        let temper = self.tempers.borrow()[dsp];
        if self.chance.borrow_mut().permille(temper.panics) {
            self.see(&request, Seen::Panicked { dsp });
            self.requests.borrow_mut().get_mut(&request).unwrap().1.panicked = true;
            std::panic::panic_any(PANIC);
        }
        if self.chance.borrow_mut().permille(temper.refuses) {
            self.ended(&request, now);
            self.see(&request, Seen::Refused { dsp });
            return Err(CallFailure::Throttled);
        }
        let (takes, ends) = self.ends(&call, &asked);
        self.under_way.borrow_mut().push(Under {
            at: now.after(takes),
            dsp: call.dsp.index(),
            ticket,
            due_at: call.due_at,
            request,
            ends,
        });
        Ok(())
    }

    fn distrust(&self, connection: u64) {
        assert_eq!(connection, 7);
        self.distrusted.set(self.distrusted.get() + 1);
    }
}
