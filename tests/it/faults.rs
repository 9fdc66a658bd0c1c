//! One DSP of 23 misbehaves: the others' auction is held in time, and the fault has its name in the metrics.

use std::io::Write as _;
use std::time::{Duration, Instant};

use corebid_loadtest::dsps::{self, Dsps, Fault};
use corebid_loadtest::simulated::{Profile, seat};
use flate2::Compression;
use flate2::write::GzEncoder;

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

/// What a DSP does, what is expected then, and how its call is counted: cases that the simulated DSPs play. For
/// `docs/faults.md`, too.
const PLAYED: &[(&str, &str, &str)] = &[
    ("resets the connection", "at once without it", "error"),
    ("closes without an answer", "at once without it", "error"),
    ("refuses connections", "at once without it", "error"),
    ("never answers", "without it when its time is over", "timeout"),
    (
        "answers a byte a second",
        "without it when its time is over",
        "timeout",
    ),
    ("answers what is not HTTP", "its connection is closed", "invalid"),
    ("answers what is not JSON", "its answer is dropped", "invalid"),
    ("answers 50 MB", "read to the limit, then closed", "invalid"),
    (
        "answers a gzip bomb that nobody asked for",
        "its connection is closed",
        "invalid",
    ),
    ("answers 500", "its answer is dropped", "error"),
    ("redirects", "never followed", "error"),
    ("answers another auction", "its connection is closed", "invalid"),
    ("answers 200 with nothing", "no bid, and no fault", "no_bid"),
    (
        "answers late",
        "without it; its answer is read and dropped, the connection used again",
        "timeout",
    ),
];

/// Each by a script of its own.
const SCRIPTED: &[(&str, &str, &str)] = &[
    (
        "closes an idle connection just as it is asked",
        "asked again once, on a new connection",
        "bid",
    ),
    (
        "closes every connection when it is asked",
        "asked again once and no more",
        "error",
    ),
    (
        "sends a second answer after the first",
        "never another auction's; its connection is closed",
        "bid",
    ),
    (
        "sends an answer that nobody asked for, later",
        "never the next auction's; its connection is closed",
        "bid",
    ),
    ("has every connection busy", "not queued for", "throttled"),
];

/// All that is in `docs/faults.md` about DSPs.
pub(crate) fn rows() -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let written = WRITTEN
        .iter()
        .map(|&(what, expected, outcome, _)| (what, expected, outcome));
    PLAYED.iter().chain(SCRIPTED).copied().chain(written)
}

fn outcome_of(what: &str) -> &'static str {
    PLAYED.iter().find(|(known, ..)| *known == what).unwrap().2
}

/// Three auctions with the fault, and one without it, which the DSP wins.
fn check(fault: Fault, what: &str) -> Market {
    let label = outcome_of(what);
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
    check(Fault::Reset, "resets the connection");
}

#[test]
fn closes_without_an_answer() {
    check(Fault::Close, "closes without an answer");
}

#[test]
fn is_not_there() {
    check(Fault::Refuse, "refuses connections");
}

#[test]
fn stalls() {
    check(Fault::Stall, "never answers");
}

#[test]
fn drips_a_byte_a_second() {
    check(Fault::Drip, "answers a byte a second");
}

#[test]
fn writes_garbage() {
    check(Fault::Garbage, "answers what is not HTTP");
}

#[test]
fn answers_with_what_is_not_json() {
    check(Fault::GarbageJson, "answers what is not JSON");
}

#[test]
fn answers_50_megabytes() {
    check(Fault::Huge, "answers 50 MB");
}

#[test]
fn answers_a_gzip_bomb_that_nobody_asked_for() {
    check(Fault::GzipBomb, "answers a gzip bomb that nobody asked for");
}

#[test]
fn answers_500() {
    check(Fault::Status(500), "answers 500");
}

#[test]
fn redirects() {
    let market = check(Fault::Redirect, "redirects");
    // Nobody followed: the DSP was asked once for each auction.
    let requests = market.dsps.counts(FAULTY).requests;
    market.exchange.wait_for("requests_total", requests);
}

#[test]
fn answers_another_auction() {
    let market = check(Fault::WrongId, "answers another auction");
    market.exchange.wait_for("losses_total{reason=\"5\"}", 3);
}

#[test]
fn answers_200_with_nothing() {
    check(Fault::Empty, "answers 200 with nothing");
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

/// Some time after its answer a DSP sends another one. A naive client would take it for the next auction's.
#[test]
fn an_answer_that_nobody_asked_for_is_nobodys() {
    let dsp = Scripted::start(|asked| {
        let own = answer(&one_bid(&asked.id()));
        if asked.connection == 0 {
            Does::WritesLater(own, Duration::from_millis(100), answer(&one_bid("next")))
        } else {
            Does::Writes(own)
        }
    });
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    assert_eq!(exchange.bid(request("first")).status, 200);
    exchange.wait_for("connections{side=\"dsp\",dsp=\"d\"", 0);
    assert_eq!(exchange.bid(request("next")).status, 200);
    assert_eq!(dsp.connections(), 2, "the first one was out of step");
    assert_eq!(dsp.asked().len(), 2);
}

/// Answers at the edge of HTTP and of OpenRTB, for the request of this id.
type Written = (&'static str, &'static str, &'static str, fn(&str) -> Does);

const CLOSED: &str = "its connection is closed";
const DROPPED: &str = "its answer is dropped";
const BID_DROPPED: &str = "the bid is dropped, its reason told";
const NONE: &str = "no bid, and no fault";
const TAKEN: &str = "taken";

#[rustfmt::skip] // a case a line
const WRITTEN: &[Written] = &[
    ("answers in chunks, with an extension and a trailer", TAKEN, "bid", |id| {
        let body = one_bid(id);
        let (one, two) = body.split_at(10);
        head("Transfer-Encoding: chunked\r\n", &format!("a;x=y\r\n{one}\r\n{:x}\r\n{two}\r\n0\r\nT: r\r\n\r\n", two.len()))
    }),
    ("sends an interim response first", TAKEN, "bid", |id| writes([b"HTTP/1.1 103 Early\r\n\r\n", &answer(&one_bid(id))[..]].concat())),
    ("answers as much as it may, 256 kB", TAKEN, "bid", |id| json(&padded(id, LIMIT))),
    ("answers a byte more than it may", CLOSED, "invalid", |id| json(&padded(id, LIMIT + 1))),
    ("answers in gzip, as asked, what is as much as it may", TAKEN, "bid", |id| gzipped(&padded(id, LIMIT))),
    ("answers in gzip, as asked, what is a byte more", DROPPED, "invalid", |id| gzipped(&padded(id, LIMIT + 1))),
    ("answers in HTTP/1.0", TAKEN, "bid", |id| writes(whole(id).replace("HTTP/1.1", "HTTP/1.0"))),
    ("ends its lines with bare LF", TAKEN, "bid", |id| writes(whole(id).replace("\r\n", "\n"))),
    ("sends a length and chunks", CLOSED, "invalid", |id| {
        let body = one_bid(id);
        head(&format!("Content-Length: {0}\r\nTransfer-Encoding: chunked\r\n", body.len()), &format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len()))
    }),
    ("sends its length twice", CLOSED, "invalid", |id| head(&format!("Content-Length: {0}\r\nContent-Length: {0}\r\n", one_bid(id).len()), &one_bid(id))),
    ("sends two different lengths", CLOSED, "invalid", |id| head(&format!("Content-Length: {}\r\nContent-Length: 3\r\n", one_bid(id).len()), &one_bid(id))),
    ("sends a length that is too short", CLOSED, "invalid", |id| head(&format!("Content-Length: {}\r\n", one_bid(id).len() - 1), &one_bid(id))),
    ("sends a length that is too long", "without it when its time is over", "timeout", |id| head(&format!("Content-Length: {}\r\n", one_bid(id).len() + 1), &one_bid(id))),
    ("sends a negative length", CLOSED, "invalid", |id| head("Content-Length: -1\r\n", &one_bid(id))),
    ("sends chunks without a size", CLOSED, "invalid", |id| head("Transfer-Encoding: chunked\r\n", &format!("x\r\n{}\r\n0\r\n\r\n", one_bid(id)))),
    ("sends `gzip, chunked`", CLOSED, "invalid", |id| head("Transfer-Encoding: gzip, chunked\r\n", &one_bid(id))),
    ("folds a header", CLOSED, "invalid", |id| head(&format!("X: y\r\n z\r\nContent-Length: {}\r\n", one_bid(id).len()), &one_bid(id))),
    ("answers in HTTP/9.9", CLOSED, "invalid", |id| writes(whole(id).replace("HTTP/1.1", "HTTP/9.9"))),
    ("answers in TLS", CLOSED, "invalid", |_| writes(b"\x15\x03\x01\x00\x02\x02\x50")),
    ("answers 101", CLOSED, "invalid", |_| writes("HTTP/1.1 101 Switching\r\n\r\n")),
    ("sends 200 interim responses", CLOSED, "invalid", |_| writes("HTTP/1.1 100 Continue\r\n\r\n".repeat(200))),
    ("sends a head of 20 kB", CLOSED, "invalid", |_| head(&format!("X: {}\r\n", "x".repeat(20_000)), "")),
    ("sends 1,000 headers", CLOSED, "invalid", |_| head(&"X: y\r\n".repeat(1_000), "")),
    ("ends the connection in the middle of its body", DROPPED, "error", |id| Does::WritesLast(whole(id).as_bytes()[..90].to_vec())),
    ("ends the connection in the middle of its head", DROPPED, "error", |_| Does::WritesLast(b"HTTP/1.1 200 OK\r\nContent".to_vec())),
    ("ends a body without a length before its end", DROPPED, "invalid", |id| Does::WritesLast(format!("HTTP/1.1 200 OK\r\n\r\n{}", &one_bid(id)[..50]).into_bytes())),
    ("ends a whole body with the connection", TAKEN, "bid", |id| Does::WritesLast(format!("HTTP/1.1 200 OK\r\n\r\n{}", one_bid(id)).into_bytes())),
    ("sends chunks past the limit", "read to the limit, then closed", "invalid", |_| head("Transfer-Encoding: chunked\r\n", &format!("40000\r\n{}\r\n1\r\n \r\n", " ".repeat(0x40000)))),
    ("claims 1 GB", CLOSED, "invalid", |_| head("Content-Length: 1000000000\r\n", " ")),
    ("answers in an encoding that nobody asked for", CLOSED, "invalid", |_| head("Content-Encoding: br\r\nContent-Length: 3\r\n", "xxx")),
    ("answers 204 with a body", "no bid; its connection is closed", "no_bid", |_| writes("HTTP/1.1 204 No Content\r\n\r\nunasked")),
    ("answers 301", "never followed", "error", |_| writes("HTTP/1.1 301 Moved\r\nLocation: http://127.0.0.1/\r\nContent-Length: 0\r\n\r\n")),
    ("answers 404", DROPPED, "error", |_| writes("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")),
    ("answers 429", DROPPED, "error", |_| writes("HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n")),
    ("answers 503", DROPPED, "error", |_| writes("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")),
    ("answers 999", CLOSED, "invalid", |_| writes("HTTP/1.1 999 What\r\nContent-Length: 0\r\n\r\n")),
    ("answers text that is not UTF-8", DROPPED, "invalid", |_| writes([&b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n"[..], b"\xff\xfe{"].concat())),
    ("answers HTML", DROPPED, "invalid", |_| json("<html>no</html>")),
    ("answers `{}`", NONE, "no_bid", |_| json("{}")),
    ("answers `null`", DROPPED, "invalid", |_| json("null")),
    ("answers two documents", DROPPED, "invalid", |id| json(&one_bid(id).repeat(2))),
    ("answers 40 levels of JSON", DROPPED, "invalid", |id| json(&one_bid(id).replace("\"adm\":\"x\"", &format!("\"ext\":{}{}", "[".repeat(40), "]".repeat(40))))),
    ("gives its reason and no bid", NONE, "no_bid", |id| json(&format!(r#"{{"id":"{id}","nbr":2}}"#))),
    ("has no seat", NONE, "no_bid", |id| json(&format!(r#"{{"id":"{id}","seatbid":[]}}"#))),
    ("bids in another type than JSON says", TAKEN, "bid", |id| head(&format!("Content-Type: text/html\r\nContent-Length: {}\r\n", one_bid(id).len()), &one_bid(id))),
    ("bids on an unknown imp", BID_DROPPED, "invalid", |id| json(&one_bid(id).replace("\"impid\":\"1\"", "\"impid\":\"9\""))),
    ("bids without a price", BID_DROPPED, "invalid", |id| json(&one_bid(id).replace("\"price\":1.00,", ""))),
    ("bids 0", BID_DROPPED, "bid", |id| json(&one_bid(id).replace("1.00", "0"))),
    ("bids -1", BID_DROPPED, "invalid", |id| json(&one_bid(id).replace("1.00", "-1"))),
    ("bids 1e300", BID_DROPPED, "invalid", |id| json(&one_bid(id).replace("1.00", "1e300"))),
    ("bids `NaN`", DROPPED, "invalid", |id| json(&one_bid(id).replace("1.00", "NaN"))),
    ("bids in a currency without a rate", BID_DROPPED, "invalid", |id| json(&one_bid(id).replace("\"seatbid\"", "\"cur\":\"XXX\",\"seatbid\""))),
];

fn writes(bytes: impl AsRef<[u8]>) -> Does {
    Does::Writes(bytes.as_ref().to_vec())
}

fn head(headers: &str, body: &str) -> Does {
    writes(format!("HTTP/1.1 200 OK\r\n{headers}\r\n{body}"))
}

fn json(body: &str) -> Does {
    Does::Writes(answer(body))
}

/// `server.max_response_bytes`, if nobody says otherwise.
const LIMIT: usize = 256 << 10;

/// A bid, with spaces behind it up to this length.
fn padded(id: &str, length: usize) -> String {
    let bid = one_bid(id);
    let spaces = " ".repeat(length - bid.len());
    bid + &spaces
}

fn gzipped(body: &str) -> Does {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(body.as_bytes()).unwrap();
    let body = gzip.finish().unwrap();
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    Does::Writes([head.as_bytes(), &body].concat())
}

fn whole(id: &str) -> String {
    String::from_utf8(answer(&one_bid(id))).unwrap()
}

/// A DSP for each, all in one auction, which is held all the same; and then once more.
#[test]
fn what_a_dsp_can_write() {
    let dsp = Scripted::start(move |asked| {
        let path = asked.head.split(' ').nth(1).unwrap();
        let (.., write) = &WRITTEN[path[1..].parse::<usize>().unwrap()];
        // Some are asked in gzip.
        write("r")
    });
    let exchange = Exchange::start(&Setup {
        auction: "deadline_ms = 2500\n".to_owned(),
        ..Setup::of(WRITTEN.iter().enumerate().map(|(n, (what, ..))| Dsp {
            path: format!("/{n}"),
            more: if what.contains("gzip, as asked") {
                "timeout_ms = 8000\ngzip = true\n"
            } else {
                ""
            },
            ..Dsp::new(format!("d{n}"), dsp.port)
        }))
    });
    for round in 1..=2 {
        assert_eq!(exchange.bid(request("r")).status, 200);
        exchange.wait_for("dsp_calls_total", round * WRITTEN.len() as u64);
    }
    let metrics = exchange.metrics();
    let mut wrong = String::new();
    for (n, (what, _, outcome, _)) in WRITTEN.iter().enumerate() {
        let sample = format!("dsp_calls_total{{dsp=\"d{n}\",outcome=\"{outcome}\"}}");
        if metrics.sum(&sample) != 2 {
            let of_this = |line: &&str| line.contains(&format!("\"d{n}\""));
            let calls = metrics.calls();
            let calls: Vec<_> = calls.lines().filter(of_this).collect();
            wrong += &format!("{what}: not {outcome} but {calls:?}\n");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    let told = WRITTEN.iter().filter(|row| ["error", "invalid"].contains(&row.2));
    assert_eq!(
        metrics.sum("dsp_faults_total"),
        2 * told.count() as u64,
        "each has its fault"
    );
    for fault in [
        "lost",
        "status",
        "protocol",
        "too_large",
        "encoding",
        "unreadable",
        "no_usable_bid",
    ] {
        let of_all = metrics.0.lines().filter(|line| {
            line.starts_with("corebid_dsp_faults_total")
                && line.contains(&format!("\"{fault}\""))
                && !line.ends_with(" 0")
        });
        assert!(of_all.count() > 0, "{fault}");
    }
    exchange.wait_for("panics_total", 0);
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
