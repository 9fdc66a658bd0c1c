//! One DSP of 23 misbehaves: the others' auction is held in time, and the fault has its name in the metrics.

use std::time::{Duration, Instant};

use corebid_loadtest::dsps::{self, Dsps, Fault};
use corebid_loadtest::simulated::{Profile, seat};

use crate::harness::{Dsp, Exchange, Metrics, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted, answer};

/// The one that misbehaves.
const FAULTY: u16 = 4;
const COUNT: u16 = 23;

/// What a DSP has, and the whole auction. Long for DSPs that answer at once, for the sake of busy machines.
const DSP_TIMEOUT: &str = "timeout_ms = 700\nmax_connections = 4\n";
const DEADLINE: &str = "deadline_ms = 800\n";
/// The deadline, and what a busy machine may take to come back.
const AT_MOST: Duration = Duration::from_millis(2500);

fn profile() -> Profile {
    Profile {
        count: COUNT,
        scale_latency: 0.0,
        ..Profile::default()
    }
}

/// The DSPs that bid on imp 1 of this request, dearest first, with their prices in micros.
fn bidders(id: &str) -> Vec<(u64, u16)> {
    let profile = profile();
    let bid = |dsp| Some((profile.bid(dsp, id.as_bytes(), b"1")?.price_micros, dsp));
    let mut bidders: Vec<_> = (0..COUNT).filter_map(bid).collect();
    bidders.sort_unstable();
    bidders.reverse();
    bidders
}

/// Request ids for which the faulty one would win: nothing could miss it more.
fn ids() -> impl Iterator<Item = String> {
    (0..)
        .map(|n| format!("fault-{n}"))
        .filter(|id| bidders(id)[0].1 == FAULTY)
}

/// What an auction of this request must come to, the DSP `without` left out.
fn expected(id: &str, without: Option<u16>) -> String {
    let mut bidders = bidders(id).into_iter().filter(|(_, dsp)| Some(*dsp) != without);
    let ((_, winner), (second, _)) = (bidders.next().unwrap(), bidders.next().unwrap());
    let clearing = second + 1;
    let price = format!("{}.{:06}", clearing / 1_000_000, clearing % 1_000_000);
    format!("1 {} {}", seat(winner), price.trim_end_matches('0'))
}

struct Market {
    dsps: Dsps,
    exchange: Exchange,
}

impl Market {
    fn with(fault: Fault) -> Self {
        let dsps = Dsps::start(dsps::Options {
            profile: profile(),
            faults: vec![(FAULTY, fault)],
            ..dsps::Options::default()
        })
        .unwrap();
        let named = (1..).zip(dsps.ports()).map(|(number, port)| Dsp {
            more: DSP_TIMEOUT,
            ..Dsp::new(format!("dsp{number}"), *port)
        });
        let exchange = Exchange::start(&Setup {
            auction: DEADLINE.to_owned(),
            ..Setup::of(named)
        });
        Self { dsps, exchange }
    }

    /// One auction of this request, in time, with the winner that is to be expected.
    #[track_caller]
    fn auction(&self, id: &str, without: Option<u16>) -> Duration {
        let start = Instant::now();
        let answer = self
            .exchange
            .bid(format!(r#"{{"id":"{id}","imp":[{{"id":"1","banner":{{}}}}]}}"#));
        let took = start.elapsed();
        assert_eq!(answer.sales(), expected(id, without), "{id}");
        assert!(took < AT_MOST, "{id}: {took:?}");
        took
    }

    fn outcome(metrics: &Metrics, label: &str) -> u64 {
        metrics.sum(&format!(
            "dsp_calls_total{{dsp=\"dsp{}\",outcome=\"{label}\"}}",
            FAULTY + 1
        ))
    }
}

/// Three auctions with the fault, and one without it, which the DSP wins.
fn check(fault: Fault, label: &str) -> Market {
    let market = Market::with(fault);
    let mut ids = ids();
    for id in ids.by_ref().take(3) {
        market.auction(&id, Some(FAULTY));
    }
    market
        .exchange
        .wait_until(&format!("three times {label} for {fault}"), |metrics| {
            Market::outcome(metrics, label) == 3
        });
    market.dsps.set_fault(FAULTY, Fault::None);
    // A port that was closed is open again some time after it was told so.
    let recovers = eventually(|| {
        let id = ids.next().unwrap();
        let answer = market
            .exchange
            .bid(format!(r#"{{"id":"{id}","imp":[{{"id":"1","banner":{{}}}}]}}"#));
        answer.sales() == expected(&id, None)
    });
    assert!(recovers, "{fault}: it never wins again");
    market
        .exchange
        .wait_until("its connections stay bounded", |metrics| {
            let open = metrics.sum(&format!("connections{{side=\"dsp\",dsp=\"dsp{}\"", FAULTY + 1));
            (1..=4).contains(&open)
        });
    let metrics = market.exchange.metrics();
    let calls = metrics.sum(&format!("dsp_calls_total{{dsp=\"dsp{}\"", FAULTY + 1));
    let requests = metrics.sum("requests_total");
    assert_eq!(calls, requests, "{fault}: every call has one outcome");
    assert_eq!(metrics.sum("panics_total"), 0);
    market
}

#[test]
fn resets_the_connection() {
    check(Fault::Reset, "error");
}

#[test]
fn closes_without_an_answer() {
    check(Fault::Close, "error");
}

#[test]
fn is_not_there() {
    check(Fault::Refuse, "error");
}

#[test]
fn stalls() {
    check(Fault::Stall, "timeout");
}

#[test]
fn drips_a_byte_a_second() {
    check(Fault::Drip, "timeout");
}

#[test]
fn writes_garbage() {
    check(Fault::Garbage, "invalid");
}

#[test]
fn answers_with_what_is_not_json() {
    check(Fault::GarbageJson, "invalid");
}

#[test]
fn answers_50_megabytes() {
    check(Fault::Huge, "invalid");
}

#[test]
fn answers_a_gzip_bomb_that_nobody_asked_for() {
    check(Fault::GzipBomb, "invalid");
}

#[test]
fn answers_500() {
    check(Fault::Status(500), "error");
}

#[test]
fn redirects() {
    let market = check(Fault::Redirect, "error");
    // Nobody followed: the DSP was asked once for each auction.
    let requests = market.dsps.counts(FAULTY).requests;
    market.exchange.wait_for("requests_total", requests);
}

#[test]
fn answers_another_auction() {
    let market = check(Fault::WrongId, "invalid");
    market.exchange.wait_for("losses_total{reason=\"5\"}", 3);
}

#[test]
fn answers_200_with_nothing() {
    check(Fault::Empty, "no_bid");
}

/// Its late answers are read and dropped, their connections used again.
#[test]
fn answers_late() {
    let market = Market::with(Fault::Late(900));
    let mut ids = ids();
    for id in ids.by_ref().take(2) {
        let took = market.auction(&id, Some(FAULTY));
        assert!(took >= Duration::from_millis(700), "it was waited for: {took:?}");
    }
    market.exchange.wait_until("two timeouts, both late", |metrics| {
        Market::outcome(metrics, "timeout") == 2
            && metrics.sum("dsp_late_seconds_count{dsp=\"dsp5\"}") == 2
            && metrics.sum("connections{side=\"dsp\",dsp=\"dsp5\",state=\"parked\"}") == 0
            && metrics.sum("connections{side=\"dsp\",dsp=\"dsp5\",state=\"idle\"}") >= 1
    });
}

fn one_bid(id: &str) -> String {
    format!(r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1.00,"adm":"x"}}]}}]}}"#)
}

fn request(id: &str) -> String {
    format!(r#"{{"id":"{id}","imp":[{{"id":"1","banner":{{}}}}]}}"#)
}

#[test]
fn a_late_answer_does_not_cost_its_connection() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |asked| {
        if asked.id() == "late" {
            waits.wait();
        }
        Does::Answers(one_bid(&asked.id()))
    });
    let exchange = Exchange::start(&Setup {
        auction: "deadline_ms = 300\n".to_owned(),
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    assert_eq!(exchange.bid(request("late")).status, 204);
    gate.open();
    exchange.wait_for("connections{side=\"dsp\",dsp=\"d\",state=\"idle\"}", 1);
    // Its late bid is nobody's: the next auction has its own.
    let answer = exchange.bid(request("next"));
    assert_eq!((answer.status, answer.json()["id"].as_str()), (200, Some("next")));
    assert_eq!(dsp.connections(), 1);
    exchange.wait_for("dsp_late_seconds_count{dsp=\"d\"}", 1);
}

/// The idle connection is closed by the DSP just as the next request goes out: asked again, once, on a new one.
#[test]
fn a_connection_gone_stale_does_not_cost_a_bid() {
    let dsp = Scripted::start(|asked| match (asked.connection, asked.nth) {
        (0, 1) => Does::Closes,
        _ => Does::Answers(one_bid(&asked.id())),
    });
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    for id in ["first", "second", "third"] {
        assert_eq!(exchange.bid(request(id)).status, 200, "{id}");
    }
    let asked: Vec<_> = dsp
        .asked()
        .iter()
        .map(|asked| (asked.connection, asked.id()))
        .collect();
    let expected = [(0, "first"), (0, "second"), (1, "second"), (1, "third")];
    assert_eq!(
        asked,
        expected.map(|(connection, id)| (connection, id.to_owned()))
    );
    exchange.wait_for("dsp_calls_total{dsp=\"d\",outcome=\"bid\"}", 3);
}

#[test]
fn a_dsp_that_always_closes_is_not_asked_for_ever() {
    let dsp = Scripted::start(|asked| match asked.nth {
        0 if asked.connection == 0 => Does::Answers(one_bid(&asked.id())),
        _ => Does::Closes,
    });
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    assert_eq!(exchange.bid(request("first")).status, 200);
    assert_eq!(exchange.bid(request("second")).status, 204);
    assert_eq!(dsp.asked().len(), 3, "first, second, and second once more");
    exchange.wait_for("dsp_calls_total{dsp=\"d\",outcome=\"error\"}", 1);
}

/// What follows an answer unasked would be taken for the next auction's answer by a naive client.
#[test]
fn a_second_answer_is_never_the_next_auctions() {
    let dsp = Scripted::start(|asked| {
        let twice = [answer(&one_bid(&asked.id())), answer(&one_bid("next"))].concat();
        Does::Writes(if asked.nth == 0 && asked.connection == 0 {
            twice
        } else {
            answer(&one_bid(&asked.id()))
        })
    });
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    assert_eq!(exchange.bid(request("first")).status, 200);
    assert_eq!(exchange.bid(request("next")).status, 200);
    assert_eq!(dsp.connections(), 2, "the first one was out of step");
    assert_eq!(dsp.asked().len(), 2);
}

/// Answers at the edge of HTTP: what a strict reader takes and what it refuses. A DSP each, all in one auction.
#[test]
fn http_by_the_book() {
    type Row = (&'static str, &'static str, fn(&str) -> String);
    fn head(headers: &str) -> String {
        format!("HTTP/1.1 200 OK\r\n{headers}\r\n")
    }
    let rows: [Row; 11] = [
        ("chunks", "bid", |body| {
            let (one, two) = body.split_at(10);
            head("Transfer-Encoding: chunked\r\n")
                + &format!("a;x=y\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\nT: r\r\n\r\n", two.len())
        }),
        ("interim-first", "bid", |body| {
            let head = head(&format!("Content-Length: {}\r\n", body.len()));
            format!("HTTP/1.1 103 Early\r\n\r\n{head}{body}")
        }),
        ("no-keep-alive", "bid", |body| {
            let length = body.len();
            format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n{body}")
        }),
        ("both-framings", "invalid", |body| {
            let length = body.len();
            head(&format!(
                "Content-Length: {length}\r\nTransfer-Encoding: chunked\r\n"
            )) + &format!("{length:x}\r\n{body}\r\n0\r\n\r\n")
        }),
        ("two-lengths", "invalid", |body| {
            head(&format!(
                "Content-Length: {0}\r\nContent-Length: {0}\r\n",
                body.len()
            )) + body
        }),
        ("length-too-short", "invalid", |body| {
            head(&format!("Content-Length: {}\r\n", body.len() - 1)) + body
        }),
        ("length-too-long", "timeout", |body| {
            head(&format!("Content-Length: {}\r\n", body.len() + 1)) + body
        }),
        ("upgrade", "invalid", |_| {
            "HTTP/1.1 101 Switching\r\n\r\n".to_owned()
        }),
        ("interims-without-end", "invalid", |_| {
            "HTTP/1.1 100 Continue\r\n\r\n".repeat(200)
        }),
        ("head-without-end", "invalid", |_| {
            head(&format!("X: {}\r\n", "x".repeat(20_000)))
        }),
        ("no-text", "invalid", |_| {
            head("Content-Length: 3\r\n") + "\u{7f}\u{0}{"
        }),
    ];
    let dsp = Scripted::start(move |asked| {
        let path = asked.head.split(' ').nth(1).unwrap();
        let (.., write) = rows.iter().find(|(name, ..)| path[1..] == **name).unwrap();
        Does::Writes(write(&one_bid(&asked.id())).into_bytes())
    });
    let exchange = Exchange::start(&Setup {
        auction: "deadline_ms = 1500\n".to_owned(),
        ..Setup::of(rows.map(|(name, ..)| Dsp {
            path: format!("/{name}"),
            ..Dsp::new(name, dsp.port)
        }))
    });
    assert_eq!(exchange.bid(request("r")).status, 200);
    exchange.wait_for("dsp_calls_total", rows.len() as u64);
    let metrics = exchange.metrics();
    for (name, outcome, _) in rows {
        let sample = format!("dsp_calls_total{{dsp=\"{name}\",outcome=\"{outcome}\"}}");
        assert_eq!(metrics.sum(&sample), 1, "{sample}\n{}", metrics.calls());
    }
}

/// All 23 at once: nothing to sell, in time, and the same connection is answered afterwards.
#[test]
fn all_misbehave_at_once() {
    let market = Market::with(Fault::Reset);
    let faults = [
        Fault::Stall,
        Fault::Reset,
        Fault::Garbage,
        Fault::Close,
        Fault::Status(503),
        Fault::Huge,
    ];
    for (dsp, fault) in (0..COUNT).zip(faults.iter().cycle()) {
        market.dsps.set_fault(dsp, *fault);
    }
    let mut ssp = market.exchange.connect();
    let start = Instant::now();
    assert_eq!(ssp.bid(request("all")).status, 204);
    assert!(start.elapsed() < AT_MOST, "{:?}", start.elapsed());
    for dsp in 0..COUNT {
        market.dsps.set_fault(dsp, Fault::None);
    }
    let id = ids().next().unwrap();
    assert_eq!(ssp.bid(request(&id)).sales(), expected(&id, None));
    market.exchange.wait_for("dsp_calls_total", 2 * u64::from(COUNT));
}

/// A DSP with every connection busy is not queued for: the others' auction goes on without it.
#[test]
fn a_dsp_without_a_free_connection_is_passed_over() {
    let gate = Gate::default();
    let waits = gate.clone();
    let slow = Scripted::start(move |asked| {
        waits.wait();
        Does::Answers(one_bid(&asked.id()))
    });
    let quick = Scripted::start(|asked| Does::Answers(one_bid(&asked.id())));
    let exchange = Exchange::start(&Setup::of([
        Dsp {
            more: "timeout_ms = 8000\nmax_connections = 1\n",
            ..Dsp::new("slow", slow.port)
        },
        Dsp::new("quick", quick.port),
    ]));
    let mut first = exchange.connect();
    first.send(crate::client::post("", request("first")));
    assert!(eventually(|| slow.asked().len() == 1));
    let second = exchange.bid(request("second"));
    assert_eq!(second.sales(), "1 quick 0.000001");
    gate.open();
    assert_eq!(first.answer().status, 200);
    exchange.wait_for("dsp_calls_total{dsp=\"slow\",outcome=\"throttled\"}", 1);
    exchange.wait_for("dsp_calls_total{dsp=\"slow\",outcome=\"bid\"}", 1);
    assert_eq!(slow.connections(), 1);
}
