//! Late answers after auctions of every kind: what they turn out to be, and to the micro what they would have brought.

use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use super::hindsight::{Held, Hindsight};
use super::*;
use crate::auction::FloorRule;
use crate::fanout::{
    CallFailure, DspId, DspOptions, DspSet, Gatherings, Late, Outgoing, Reply, Response, Ticket, any_dsp,
};
use crate::money::Cpm;
use crate::telemetry::prometheus::{Format, render};
use crate::telemetry::{self, Merged, Roster};

/// DSPs 0 and 1 answer in time, the last has 60 ms and does not.
const DSPS: usize = 3;
const LATE: DspId = DspId(2);

struct Calls {
    started: RefCell<Vec<Ticket>>,
    distrusted: RefCell<Vec<u64>>,
}

impl Transport for Calls {
    fn start(&self, _call: Outgoing<'_>, ticket: Ticket, _now: Instant) -> Result<(), CallFailure> {
        self.started.borrow_mut().push(ticket);
        Ok(())
    }

    fn distrust(&self, connection: u64) {
        self.distrusted.borrow_mut().push(connection);
    }
}

struct Market {
    orchestrator: Orchestrator<Rc<Calls>>,
    calls: Rc<Calls>,
    gatherings: Rc<Gatherings>,
    hindsight: Rc<Hindsight>,
    timers: Rc<Timers>,
    clock: Rc<Cell<Instant>>,
    recorder: Rc<Recorder>,
    merged: Merged,
}

impl Market {
    fn new() -> Self {
        Self::with_timeouts([60, 60, 60])
    }

    fn with_timeouts(timeouts_ms: [u64; DSPS]) -> Self {
        let clock = Rc::new(Cell::new(Instant::from_nanos(0)));
        let reads = Rc::clone(&clock);
        let timers = Timers::new(move || reads.get(), |_| ());
        let gatherings = Rc::new(Gatherings::default());
        let calls = Rc::new(Calls {
            started: RefCell::default(),
            distrusted: RefCell::default(),
        });
        let (recorders, merged) = telemetry::channel(1);
        let names = ["a", "b", "late"].map(str::to_owned).into();
        let recorder = Rc::new(recorders.recorder(0, &Arc::new(Roster::new(names, "USD"))));
        let dsps = DspSet::from(&timeouts_ms.map(dsp)[..]);
        let fanout = Fanout::new(
            dsps,
            Rc::clone(&calls),
            Rc::clone(&gatherings),
            Rc::clone(&timers),
        );
        let options = Options {
            deadline: Duration::from_millis(90),
            tmax_margin: Duration::from_millis(10),
            fan_out_min: Duration::from_millis(1),
            currency: Currency::USD,
            rates: Arc::new(RateTable::new([("EUR", "USD", "1.1")]).unwrap()),
            rules: Rules {
                floor_rule: FloorRule::AtOrAbove,
                increment: Cpm::from_micros(1).unwrap(),
                prefer_deals: false,
            },
            validation: Validation::default(),
            writes_no_bid: false,
            rehearsal: None,
        };
        let hindsight = Rc::new(Hindsight::default());
        Self {
            orchestrator: Orchestrator::new(options, fanout, Rc::clone(&timers), Rc::clone(&recorder))
                .with_hindsight(Rc::clone(&hindsight)),
            calls,
            gatherings,
            hindsight,
            timers,
            clock,
            recorder,
            merged,
        }
    }

    /// An auction to which the DSPs answer these bodies in time. Returns what the late answer will come under, and
    /// when the auction began. `meanwhile` happens after 65 ms, when the auction may be over or not.
    fn hold(
        &self,
        request: &str,
        answers: &[&str],
        meanwhile: impl FnOnce(Ticket, Instant),
    ) -> (Ticket, Instant) {
        let began = self.timers.now();
        let mut auction = pin!(self.orchestrator.orchestrate(began, request.as_bytes()));
        let mut poll = || auction.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(poll().is_pending());
        let tickets = self.calls.started.take();
        assert_eq!(tickets.len(), DSPS);
        for (ticket, body) in tickets.iter().zip(answers) {
            let reply = Reply {
                status: 200,
                body: body.as_bytes().to_vec(),
                connection: 0,
            };
            self.gatherings.complete(*ticket, self.timers.now(), Ok(reply));
        }
        let mut held = false;
        self.pass(65);
        held |= matches!(poll(), Poll::Ready(Ok(_)));
        meanwhile(tickets[usize::from(LATE.0)], began);
        if !held {
            self.pass(35);
            held |= matches!(poll(), Poll::Ready(Ok(_)));
        }
        assert!(held, "the auction is over");
        (tickets[usize::from(LATE.0)], began)
    }

    fn pass(&self, ms: u64) {
        self.clock.set(self.clock.get().after(Duration::from_millis(ms)));
        self.timers.advance(self.clock.get());
    }

    /// The late answer of an auction that began then.
    fn late<'a>(&self, ticket: Ticket, began: Instant, by_ms: u64, status: u16, body: &'a str) -> Late<'a> {
        let by = Duration::from_millis(by_ms);
        Late {
            dsp: LATE,
            ticket,
            at: began.after(Duration::from_millis(60) + by),
            by,
            is_gathering: self.gatherings.is_open(ticket),
            response: Response {
                status,
                body: body.as_bytes(),
                connection: 77,
            },
        }
    }

    /// As a shard does it.
    fn comes(&self, late: Late<'_>) {
        if let Err(found) = self.hindsight.take(late) {
            let longer = telemetry::LongerBy::of(nanos(late.by), false);
            self.recorder.dsp_late_answer(late.dsp.index(), found, longer);
        }
    }

    fn metrics(&mut self) -> Vec<String> {
        self.recorder.publish();
        self.merged.collect();
        let text = render(&self.merged, Format::Text);
        text.lines().map(str::to_owned).collect()
    }

    /// What is known of late answers so far: "won 1, 10 0.1".
    fn found(&mut self) -> String {
        let lines = self.metrics();
        let of = |prefix: &str| -> Vec<String> {
            let there = lines.iter().filter_map(|line| {
                let (label, value) = line.strip_prefix(prefix)?.split_once("\"} ")?;
                (!["0", "0.0"].contains(&value)).then(|| format!("{label} {value}"))
            });
            there.collect()
        };
        let found = of("corebid_dsp_late_answers_total{dsp=\"late\",found=\"");
        let more = of("corebid_dsp_late_revenue_cpm_total{dsp=\"late\",currency=\"USD\",longer_ms=\"");
        [found, more].concat().join(", ")
    }
}

fn dsp(timeout_ms: u64) -> DspOptions {
    DspOptions {
        timeout: Duration::from_millis(timeout_ms),
        ..any_dsp(0, false)
    }
}

const PLAIN: &str = r#"{"id":"r","imp":[{"id":"1","banner":{},"bidfloor":0.5}]}"#;
const NOTHING: &str = r#"{"id":"r"}"#;

/// A bid response with such bids, each an imp and a price and what else there is.
fn bids(bids: &[(&str, &str, &str)]) -> String {
    let bids: Vec<_> = bids
        .iter()
        .map(|(imp, price, more)| format!(r#"{{"id":"b","impid":"{imp}","price":{price},"adm":"x"{more}}}"#))
        .collect();
    format!(
        r#"{{"id":"r","seatbid":[{{"seat":"s","bid":[{}]}}]}}"#,
        bids.join(",")
    )
}

fn bid(price: &str) -> String {
    bids(&[("1", price, "")])
}

/// What comes of a late answer by 7 ms to a request that was answered by these in time.
#[track_caller]
fn check(request: &str, in_time: [&str; 2], late: &str, expected: &str) {
    let mut market = Market::new();
    let (ticket, began) = market.hold(request, &in_time, |_, _| ());
    let counted = market.metrics();
    market.comes(market.late(ticket, began, 7, 200, late));
    market.orchestrator.look_back();
    assert_eq!(market.found(), expected, "{late}");
    let of_auctions = |line: &&String| !line.contains("_dsp_late_");
    let now = market.metrics();
    assert!(
        now.iter()
            .filter(of_auctions)
            .eq(counted.iter().filter(of_auctions)),
        "the auction itself is counted once"
    );
}

#[test]
fn what_a_late_answer_would_have_brought() {
    let ask = |request, late: &str, expected| check(request, [&bid("1.00"), &bid("0.90")], late, expected);
    // 1.00 wins and pays 0.900001.
    ask(PLAIN, &bid("2.00"), "won 1, 10 0.1");
    ask(PLAIN, &bid("1.000001"), "won 1, 10 0.1");
    ask(PLAIN, &bid("0.95"), "lost 1, 10 0.05");
    ask(PLAIN, &bid("0.90"), "lost 1");
    ask(PLAIN, &bid("0.80"), "lost 1");
    ask(PLAIN, &bid("0.40"), "lost 1");
    // More decimals than there are micros: rounded as in time, but not counted as such.
    ask(PLAIN, &bid("0.9500009"), "lost 1, 10 0.05");
    ask(PLAIN, NOTHING, "no_bid 1");
    ask(PLAIN, "", "no_bid 1");
    ask(PLAIN, "{", "invalid 1");
    ask(
        PLAIN,
        r#"{"id":"another","seatbid":[{"bid":[{"id":"b","impid":"1","price":9,"adm":"x"}]}]}"#,
        "invalid 1",
    );
    ask(PLAIN, &bids(&[("no such imp", "9", "")]), "invalid 1");
}

#[test]
fn nobody_was_in_time() {
    let ask = |late: &str, expected| check(PLAIN, [NOTHING, NOTHING], late, expected);
    ask(&bid("2.00"), "won 1, 10 0.500001");
    ask(&bid("0.50"), "won 1, 10 0.5");
    ask(&bid("0.49"), "lost 1");
}

#[test]
fn other_auctions() {
    let [a, b] = [bid("1.00"), bid("0.90")];
    // First price: the winner pays its bid, who loses raises nothing.
    let first = r#"{"id":"r","at":1,"imp":[{"id":"1","banner":{}}]}"#;
    check(first, [&a, &b], &bid("1.50"), "won 1, 10 0.5");
    check(first, [&a, &b], &bid("0.95"), "lost 1");
    // In EUR at 1.1: 0.1 EUR are 0.11 USD.
    let in_eur = r#"{"id":"r","cur":["EUR"],"imp":[{"id":"1","banner":{}}]}"#;
    let eur = |price: &str| bid(price).replace(r#""seatbid""#, r#""cur":"EUR","seatbid""#);
    check(
        in_eur,
        [&eur("1.00"), &eur("0.90")],
        &eur("2.00"),
        "won 1, 10 0.11",
    );
    // Not a currency that the SSP takes.
    check(in_eur, [&eur("1.00"), &eur("0.90")], &bid("2.00"), "invalid 1");
    // Two imps: 0.1 for one, and 0.25 for the other, which was not sold.
    let two = r#"{"id":"r","imp":[{"id":"1","banner":{}},{"id":"2","banner":{},"bidfloor":0.249999}]}"#;
    let both = bids(&[("1", "2", ""), ("2", "3", "")]);
    check(two, [&a, &b], &both, "won 1, 10 0.35");
    // All or none of a group: for imp 1 it is too low, so imp 2 is not sold either.
    let group = bids(&[("1", "0.1", ""), ("2", "3", "")]).replace(r#""seat":"s""#, r#""seat":"s","group":1"#);
    check(two, [&a, &b], &group, "lost 1");
    // A deal of another floor and advertiser, for a seat that was remembered with the offers in time.
    let deals = r#"{"id":"r","imp":[{"id":"1","banner":{},"pmp":{"private_auction":1,"deals":[{"id":"d","bidfloor":2,"wseat":["s"],"wadomain":["x.example"]}]}}]}"#;
    let deal = |price| bids(&[("1", price, r#","dealid":"d","adomain":["x.example"]"#)]);
    check(deals, [&deal("3"), &a], &deal("4"), "won 1, 10 1.0");
    check(deals, [&deal("3"), &deal("2.5")], &a, "lost 1");
    // A seat that is not allowed.
    let seats = r#"{"id":"r","wseat":["t"],"imp":[{"id":"1","banner":{}}]}"#;
    let t = |price: &str| bid(price).replace(r#""seat":"s""#, r#""seat":"t""#);
    check(seats, [&t("1.00"), &t("0.90")], &bid("2.00"), "lost 1");
    check(seats, [&t("1.00"), &t("0.90")], &t("2.00"), "won 1, 10 0.1");
}

#[test]
fn by_status_and_by_how_late() {
    #[track_caller]
    fn check(by_ms: u64, status: u16, expected: &str) {
        let mut market = Market::new();
        let (ticket, began) = market.hold(PLAIN, &[&bid("1.00"), &bid("0.90")], |_, _| ());
        market.comes(market.late(ticket, began, by_ms, status, &bid("2.00")));
        market.orchestrator.look_back();
        assert_eq!(market.found(), expected, "{by_ms} ms, {status}");
    }
    check(1, 204, "no_bid 1");
    check(1, 500, "invalid 1");
    check(1, 200, "won 1, 1 0.1");
    check(2, 200, "won 1, 2 0.1");
    // The deadline is at 90 ms, 30 after the DSP's time.
    check(30, 200, "won 1, 30 0.1");
    check(31, 200, "won 1, past_deadline 0.1");
    check(900, 200, "won 1, past_deadline 0.1");
}

#[test]
fn an_answer_waits_for_an_auction_that_goes_on() {
    let mut market = Market::with_timeouts([85, 85, 60]);
    // Of three DSPs one answers in time; another may take longer than the late one.
    market.hold(PLAIN, &[&bid("1.00")], |ticket, began| {
        market.comes(market.late(ticket, began, 4, 200, &bid("2.00")));
        market.orchestrator.look_back();
        let waiting = market.hindsight.inner.borrow().waiting.len();
        assert_eq!(waiting, 1, "it is not held yet");
    });
    market.orchestrator.look_back();
    // 1.00 for the floor and 2.00 for 1.000001.
    assert_eq!(market.found(), "won 1, 5 0.5");
}

#[test]
fn one_whose_ssp_hung_up_is_not_waited_for_without_end() {
    let mut market = Market::new();
    let began = market.timers.now();
    let ticket = {
        let mut auction = pin!(market.orchestrator.orchestrate(began, PLAIN.as_bytes()));
        let polled = auction.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        assert!(polled.is_pending());
        let ticket = market.calls.started.take()[usize::from(LATE.0)];
        // Late while the others are waited for, and then all of it ends.
        market.comes(market.late(ticket, began, 1, 200, &bid("2.00")));
        ticket
    };
    market.pass(70);
    market.orchestrator.look_back();
    assert_eq!(market.found(), "");
    market.comes(market.late(ticket, began, 2, 200, &bid("2.00")));
    assert_eq!(market.found(), "unseen 1", "nobody will remember it");
    market.pass(2_100);
    market.orchestrator.look_back();
    assert_eq!(market.found(), "unseen 2");
}

#[test]
fn memory_and_work_have_bounds_and_the_rest_is_counted() {
    let mut market = Market::new();
    let [a, b, late] = [bid("1.00"), bid("0.90"), bid("2.00")];
    // Every auction with a late answer, two a second: all are remembered. More answers than may wait:
    let (ticket, began) = market.hold(PLAIN, &[&a, &b], |_, _| ());
    for _ in 0..300 {
        market.comes(market.late(ticket, began, 1, 200, &late));
    }
    assert_eq!(market.found(), "unseen 44");
    market.orchestrator.look_back();
    assert_eq!(market.found(), "won 16, unseen 44, 1 1.6", "so many in one go");
    for _ in 0..15 {
        market.orchestrator.look_back();
    }
    assert_eq!(market.found(), "won 256, unseen 44, 1 25.6");
    // Too large to be kept.
    let huge = format!("{late}{}", " ".repeat(16 << 10));
    market.comes(market.late(ticket, began, 1, 200, &huge));
    assert_eq!(market.found(), "won 256, unseen 45, 1 25.6");
    let large = format!("{PLAIN}{}", " ".repeat(32 << 10));
    let (ticket, began) = market.hold(&large, &[&a, &b], |_, _| ());
    market.comes(market.late(ticket, began, 1, 200, &late));
    assert_eq!(market.found(), "won 256, unseen 46, 1 25.6");
}

fn held(ticket: Ticket, deadline: Instant) -> Held {
    Held {
        ticket,
        deadline,
        generation: 0,
    }
}

#[test]
fn after_a_reload_an_auction_is_not_held_by_other_rules() {
    let mut market = Market::new();
    let (ticket, began) = market.hold(PLAIN, &[&bid("1.00"), &bid("0.90")], |_, _| ());
    market.comes(market.late(ticket, began, 7, 200, &bid("2.00")));
    let fanout = Fanout::new(
        DspSet::from(&[60; DSPS].map(dsp)[..]),
        Rc::clone(&market.calls),
        Rc::clone(&market.gatherings),
        Rc::clone(&market.timers),
    );
    let options = market.orchestrator.options.clone();
    market.orchestrator = market.orchestrator.successor(options, fanout);
    market.orchestrator.look_back();
    assert_eq!(market.found(), "unseen 1");
    // What comes after it is.
    let (ticket, began) = market.hold(PLAIN, &[&bid("1.00"), &bid("0.90")], |_, _| ());
    market.comes(market.late(ticket, began, 7, 200, &bid("2.00")));
    market.orchestrator.look_back();
    assert_eq!(market.found(), "won 1, unseen 1, 10 0.1");
}

#[test]
fn auctions_are_remembered_so_often_and_so_many() {
    let market = Market::new();
    let offers_of = |market: &Market, times: usize| {
        let arena = market.orchestrator.arenas.take();
        let request = market
            .orchestrator
            .parser
            .borrow_mut()
            .parse_request(PLAIN.as_bytes(), &arena, &Validation::default())
            .unwrap();
        let plan = market
            .orchestrator
            .plan(&request, market.timers.now(), &arena)
            .unwrap();
        let offers = Offers::new(&request, &plan, &arena);
        let now = market.timers.now();
        (0..times)
            .filter(|_| {
                let ticket = market.gatherings.open(1);
                market.gatherings.close(ticket);
                market
                    .hindsight
                    .remember(PLAIN.as_bytes(), &offers, held(ticket, now), now)
            })
            .count()
    };
    // In a burst, and after it one in 2 ms.
    assert_eq!(offers_of(&market, 100), 32);
    market.pass(20);
    assert_eq!(offers_of(&market, 100), 10);
    for _ in 0..1_000 {
        market.pass(2);
        assert_eq!(offers_of(&market, 2), 1);
    }
    assert_eq!(market.hindsight.inner.borrow().remembered.len(), 512);
}

#[test]
fn an_answer_to_another_request_costs_its_connection() {
    let market = Market::new();
    let (ticket, began) = market.hold(PLAIN, &[&bid("1.00")], |_, _| ());
    let mixed_up = bid("2.00").replace(r#""id":"r""#, r#""id":"q""#);
    market.comes(market.late(ticket, began, 1, 200, &mixed_up));
    market.orchestrator.look_back();
    assert_eq!(*market.calls.distrusted.borrow(), [77]);
}
