//! One world: its clock, its exchange, its SSPs, and what is checked of every request.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use corebid::auction::{FloorRule, Rules};
use corebid::clock::{Instant, TICK, Timers};
use corebid::fanout::{DspId, DspOptions, DspSet, Fanout, GateOptions, Gatherings, Protocol, Target};
use corebid::money::{Cpm, Currency, RateTable};
use corebid::openrtb::{Invalid, Validation};
use corebid::orchestration::{Options, Orchestrator, Outcome, Panicked, isolate};
use corebid::telemetry::{self, Merged, Recorder, Roster, prometheus};

use crate::bidding::Asked;
use crate::chance::Chance;
use crate::network::{Arrived, Network};
use crate::trace::Trace;
use crate::twin;

/// A clock that begins at zero would hide a subtraction too many.
pub(crate) fn beginning() -> Instant {
    Instant::from_nanos(0).after(Duration::from_secs(1000))
}

const MARGIN: Duration = Duration::from_millis(3);

/// What happened in all, so that a test which tests nothing is noticed.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Tally {
    sold: u64,
    nothing_sold: u64,
    panicked: u64,
    hung_up: u64,
    late: u64,
    retried: u64,
    distrusted: u64,
    ended_by_deadline: u64,
    reloaded: u64,
    refused: u64,
    counted: u64,
    /// Of all worlds together.
    trace: u64,
}

impl Tally {
    pub(crate) fn each(self) -> [(&'static str, u64); 11] {
        [
            ("sold", self.sold),
            ("nothing sold", self.nothing_sold),
            ("a panic", self.panicked),
            ("hung up", self.hung_up),
            ("a late answer", self.late),
            ("a retry", self.retried),
            ("a wrong id", self.distrusted),
            ("a deadline", self.ended_by_deadline),
            ("a reload", self.reloaded),
            ("a refusal", self.refused),
            ("calls counted", self.counted),
        ]
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.sold += other.sold;
        self.nothing_sold += other.nothing_sold;
        self.panicked += other.panicked;
        self.hung_up += other.hung_up;
        self.late += other.late;
        self.retried += other.retried;
        self.distrusted += other.distrusted;
        self.ended_by_deadline += other.ended_by_deadline;
        self.reloaded += other.reloaded;
        self.refused += other.refused;
        self.counted += other.counted;
        self.trace = self.trace.wrapping_add(other.trace);
    }

    pub(crate) fn trace(self) -> u64 {
        self.trace
    }
}

type Exchange = Orchestrator<Rc<Network>>;
type Answer = Result<Result<Outcome, Invalid>, Panicked>;

/// A request from its arrival to its answer.
struct Request {
    asked: Asked,
    arrival: Instant,
    deadline: Instant,
    rules: Rules,
    hangs_up_at: Option<Instant>,
    woken: Arc<Flag>,
    task: Pin<Box<dyn Future<Output = Answer>>>,
}

struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

pub(crate) struct World {
    seed: u64,
    trace: Rc<Trace>,
    chance: Chance,
    clock: Rc<Cell<Instant>>,
    alarm: Rc<Cell<Instant>>,
    timers: Rc<Timers>,
    gatherings: Rc<Gatherings>,
    network: Rc<Network>,
    recorder: Rc<Recorder>,
    merged: Merged,
    /// The one that new requests meet.
    exchange: Option<(Rc<Exchange>, Rules, Duration)>,
    /// Those that have been reloaded away finish what they have.
    former: Vec<Weak<Exchange>>,
    dsps: usize,
    requests: Vec<Request>,
    /// Turns of this world may take so long.
    stall_max: Duration,
    tally: Tally,
}

impl World {
    pub(crate) fn new(seed: u64, tells: bool) -> Self {
        let mut chance = Chance::new(seed);
        let clock = Rc::new(Cell::new(beginning()));
        let trace = Rc::new(Trace::new(tells));
        let alarm = Rc::new(Cell::new(Instant::FAR_FUTURE));
        let (reads, rings) = (Rc::clone(&clock), Rc::clone(&alarm));
        let timers = Timers::new(move || reads.get(), move |at| rings.set(at));
        let gatherings = Rc::new(Gatherings::default());
        let dsps = chance.index(8) + 1;
        let network = Network::new(
            Chance::new(seed ^ 0x5eed),
            dsps,
            Rc::clone(&clock),
            Rc::clone(&gatherings),
            Rc::clone(&trace),
        );
        let roster = Roster::new((0..dsps).map(|dsp| format!("dsp{dsp}")).collect(), "USD");
        let (recorders, merged) = telemetry::channel(1);
        let mut world = Self {
            seed,
            trace,
            stall_max: match chance.below(4) {
                0 => Duration::from_millis(20),
                1 => Duration::from_millis(1),
                _ => Duration::ZERO,
            },
            chance,
            clock,
            alarm,
            timers,
            gatherings,
            network: Rc::new(network),
            recorder: Rc::new(recorders.recorder(0, &Arc::new(roster))),
            merged,
            exchange: None,
            former: Vec::new(),
            dsps,
            requests: Vec::new(),
            tally: Tally::default(),
        };
        world.reload();
        world
    }

    /// Plays until the last request is answered and the last call has ended.
    pub(crate) fn play(mut self) -> Tally {
        let mut arrivals: Vec<Instant> = (0..self.chance.between(1, 12))
            .map(|_| self.now().after(self.chance.micros(0, 100_000)))
            .collect();
        let mut arrived = 0;
        loop {
            let now = self.now();
            while let Some(due) = arrivals.iter().position(|at| *at <= now) {
                arrivals.swap_remove(due);
                if self.chance.permille(100) {
                    self.reload();
                }
                self.arrive(arrived);
                arrived += 1;
            }
            if self.run_whoever_can() {
                continue;
            }
            let hang_up = self.requests.iter().filter_map(|r| r.hangs_up_at).min();
            let alarm = Some(self.alarm.get()).filter(|at| *at != Instant::FAR_FUTURE);
            let next = [
                arrivals.iter().min().copied(),
                self.network.next_at(),
                alarm,
                hang_up,
            ];
            let Some(next) = next.into_iter().flatten().min() else {
                break;
            };
            self.turn(next.max(now));
        }
        self.check_that_nothing_is_left()
    }

    fn now(&self) -> Instant {
        self.clock.get()
    }

    /// What a shard's driver does when it wakes at `at`, or some time after.
    fn turn(&mut self, at: Instant) {
        self.clock.set(at);
        self.stall();
        self.note(format_args!(
            "a turn, of which {:?} are late",
            self.now().since(at)
        ));
        self.hang_up();
        // The shard takes its sockets first. What counts must not depend on it.
        if self.chance.permille(500) {
            self.network.deliver();
            self.timers.advance(self.now());
        } else {
            self.timers.advance(self.now());
            self.network.deliver();
        }
    }

    fn stall(&mut self) {
        let most = u64::try_from(self.stall_max.as_micros()).unwrap();
        if self.chance.permille(200) {
            let stall = self.chance.micros(0, most);
            self.clock.set(self.now().after(stall));
        }
    }

    /// A new configuration: other rules, other times, other DSPs. What is in flight finishes by the old one.
    fn reload(&mut self) {
        let rules = Rules {
            floor_rule: if self.chance.permille(500) {
                FloorRule::Above
            } else {
                FloorRule::AtOrAbove
            },
            increment: Cpm::from_micros(i64::try_from(self.chance.below(3)).unwrap()).unwrap(),
            prefer_deals: false,
        };
        let deadline = Duration::from_millis(self.chance.between(20, 120));
        let mut asked = Vec::new();
        for dsp in 0..self.dsps {
            // Whoever was taken out comes back in another reload, or never; one is always there.
            if self.chance.permille(800) || (dsp + 1 == self.dsps && asked.is_empty()) {
                let id = DspId(u16::try_from(dsp).unwrap());
                asked.insert(self.chance.index(asked.len() + 1), (id, self.dsp_options(dsp)));
            }
        }
        let dsps_count = asked.len();
        let fanout = Fanout::new(
            DspSet::new(asked),
            Rc::clone(&self.network),
            Rc::clone(&self.gatherings),
            Rc::clone(&self.timers),
        );
        let options = Options {
            deadline,
            tmax_margin: MARGIN,
            fan_out_min: Duration::from_millis(1),
            currency: Currency::USD,
            rates: Arc::new(RateTable::default()),
            rules,
            validation: Validation::default(),
            writes_no_bid: false,
            rehearsal: None,
        };
        self.note(format_args!("{rules:?}, {deadline:?}, {dsps_count} DSPs"));
        let exchange = match &self.exchange {
            None => Orchestrator::new(
                options,
                fanout,
                Rc::clone(&self.timers),
                Rc::clone(&self.recorder),
            ),
            Some((before, ..)) => before.successor(options, fanout),
        };
        if let Some((former, ..)) = self.exchange.replace((Rc::new(exchange), rules, deadline)) {
            self.former.push(Rc::downgrade(&former));
            self.tally.reloaded += 1;
        }
    }

    fn dsp_options(&mut self, dsp: usize) -> DspOptions {
        DspOptions {
            name: format!("dsp{dsp}"),
            target: Target {
                address: ([127, 0, 0, 1], 1).into(),
                authority: "x".to_owned(),
                path: "/".to_owned(),
            },
            timeout: Duration::from_millis(self.chance.between(5, 130)),
            protocol: Protocol::Http1,
            tls: None,
            connections_max: 1,
            connections_warm: 0,
            response_bytes_max: 256 << 10,
            gzip: self.chance.permille(200),
            gate: GateOptions::default(),
        }
    }

    fn arrive(&mut self, number: usize) {
        let asked = Asked::draw(&mut self.chance, number);
        let (exchange, rules, cap) = self.exchange.as_ref().unwrap();
        let (exchange, rules) = (Rc::clone(exchange), *rules);
        let allowed = asked
            .tmax
            .map_or(*cap, |tmax| tmax.saturating_sub(MARGIN).min(*cap));
        let arrival = self.now();
        self.note(format_args!("{asked:?} arrives, has {allowed:?}"));
        self.network.announce(asked.clone());
        let body = asked.body();
        let task = async move { isolate(exchange.orchestrate(arrival, &body)).await };
        let patience = self.chance.micros(0, 80_000);
        self.requests.push(Request {
            asked,
            arrival,
            deadline: arrival.after(allowed),
            rules,
            hangs_up_at: self.chance.permille(60).then(|| arrival.after(patience)),
            woken: Arc::new(Flag(AtomicBool::new(true))),
            task: Box::pin(task),
        });
    }

    /// Has one of the tasks that were woken run; false if there is none.
    fn run_whoever_can(&mut self) -> bool {
        let woken: Vec<usize> = (0..self.requests.len())
            .filter(|&index| self.requests[index].woken.0.load(Ordering::Relaxed))
            .collect();
        if woken.is_empty() {
            return false;
        }
        let picked = woken[self.chance.index(woken.len())];
        let request = &mut self.requests[picked];
        request.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(Arc::clone(&request.woken));
        if let Poll::Ready(answer) = request.task.as_mut().poll(&mut Context::from_waker(&waker)) {
            let request = self.requests.swap_remove(picked);
            self.check(request, answer);
            self.check_that_nothing_is_held_for_nobody();
        }
        true
    }

    fn hang_up(&mut self) {
        let now = self.now();
        let before = self.requests.len();
        self.requests
            .retain(|request| request.hangs_up_at.is_none_or(|at| at > now));
        self.tally.hung_up += (before - self.requests.len()) as u64;
        self.check_that_nothing_is_held_for_nobody();
    }

    fn check(&mut self, request: Request, answer: Answer) {
        let Request {
            asked,
            arrival,
            deadline,
            rules,
            ..
        } = request;
        let arrived = self.network.arrived(&asked.id);
        let took = self.now().since(arrival);
        let said = match &answer {
            Ok(Ok(Outcome::Response(response))) => std::str::from_utf8(response).unwrap(),
            Ok(Ok(Outcome::NoBid)) => "no bid",
            Ok(Err(_)) => "refused",
            Err(_) => "panicked",
        };
        self.note(format_args!("{} answered after {took:?}: {said}", asked.id));
        // One stall before the wheel is looked at.
        let latest = deadline.after(TICK + self.stall_max);
        assert!(
            self.now() <= latest,
            "{} is answered {:?} after its deadline",
            asked.id,
            self.now().since(deadline)
        );
        if self.now() >= deadline {
            self.tally.ended_by_deadline += 1;
        }
        assert_eq!(
            answer.is_err(),
            arrived.panicked,
            "a panic costs its request and no other"
        );
        let Ok(answer) = answer else {
            self.tally.panicked += 1;
            return;
        };
        assert_eq!(
            answer.is_err(),
            asked.is_invalid,
            "what breaks a rule is refused, and nothing else"
        );
        let Ok(outcome) = answer else {
            assert!(took.is_zero() && arrived.asked_at.is_none(), "nobody is asked");
            self.tally.refused += 1;
            return;
        };
        self.check_that_it_did_not_dawdle(&arrived, arrival);
        let expected = twin::sell(&asked, &arrived, &rules);
        match outcome {
            Outcome::NoBid => {
                assert!(
                    expected.is_empty(),
                    "{} sells nothing instead of {expected:?}",
                    asked.id
                );
                self.tally.nothing_sold += 1;
            }
            Outcome::Response(response) => {
                assert_eq!(twin::read(&response, &asked), expected, "{asked:?} {arrived:?}");
                self.tally.sold += 1;
            }
        }
    }

    /// Who has heard of every call it made waits for nothing more.
    fn check_that_it_did_not_dawdle(&self, arrived: &Arrived, arrival: Instant) {
        if arrived.under_way == 0 {
            let last = arrived.last_end_at.unwrap_or(arrival);
            assert_eq!(self.now(), last, "all had answered at {last:?}");
        }
    }

    fn check_that_nothing_is_held_for_nobody(&self) {
        let requests = self.requests.len();
        // Each waits on one timer, and each fan-out has one.
        assert!(self.timers.waiting() <= requests, "a timer is left behind");
        assert!(
            self.gatherings.open_count() <= requests,
            "a fan-out is left behind"
        );
        // All configurations lend from one pool.
        let lent = self
            .exchange
            .as_ref()
            .map_or(0, |(exchange, ..)| exchange.arenas_lent());
        assert!(lent <= requests, "an arena is left behind");
    }

    fn check_that_nothing_is_left(mut self) -> Tally {
        let seed = self.seed;
        assert!(
            self.requests.is_empty(),
            "seed {seed}: requests without an answer"
        );
        self.check_that_nothing_is_held_for_nobody();
        let former = self.former.iter().filter(|former| former.strong_count() > 0);
        assert_eq!(former.count(), 0, "configurations that nobody uses");
        self.tally.late = self.network.late.get();
        self.tally.retried = self.network.retried.get();
        self.tally.distrusted = self.network.distrusted.get();
        self.tally.trace = self.trace.hash();
        // Writing them all takes longer than most worlds.
        if seed.is_multiple_of(64) {
            self.check_counts();
        }
        self.tally
    }

    /// Each call has one outcome; those of a request that panicked or whose SSP hung up may have had none yet.
    fn check_counts(&mut self) {
        assert!(self.recorder.publish());
        self.merged.collect();
        let metrics = prometheus::render(&self.merged, prometheus::Format::Text);
        let exactly = self.tally.panicked + self.tally.hung_up == 0;
        for (dsp, calls) in self.network.calls.borrow().iter().enumerate() {
            let of_dsp = format!("corebid_dsp_calls_total{{dsp=\"dsp{dsp}\"");
            let counts = metrics.lines().filter(|line| line.starts_with(&of_dsp));
            let outcomes: u64 = counts
                .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
                .sum();
            assert!(
                outcomes <= *calls && (outcomes == *calls || !exactly),
                "dsp{dsp}: {outcomes} outcomes of {calls} calls"
            );
            self.tally.counted += calls;
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        self.trace.note(self.now(), what);
    }
}
