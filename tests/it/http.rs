//! HTTP/1.1 towards the SSP: every status of the contract, and what becomes of the connection.

use std::io::Write;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use socket2::SockRef;

use crate::client::post;
use crate::harness::{Dsp, Exchange, PATIENCE, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// A DSP that bids 1.00 on imp 1 of anything.
fn bidder() -> Scripted {
    Scripted::start(|asked| Does::Answers(bid(&asked.id(), "")))
}

fn bid(id: &str, adm: &str) -> String {
    format!(r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1.00,"adm":"x{adm}"}}]}}]}}"#)
}

fn exchange(server: &'static str, dsp: &Scripted) -> Exchange {
    Exchange::start(&Setup {
        server,
        ..Setup::of([Dsp::new("d", dsp.port)])
    })
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn statuses_and_the_connection_after_them() {
    let dsp = bidder();
    let exchange = exchange("max_request_bytes = 2000", &dsp);
    let mut ssp = exchange.connect();
    let big = format!(
        r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}}}],"x":"{}"}}"#,
        "x".repeat(2000)
    );
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").into_bytes();
    let rows: [(&str, Vec<u8>, u16); 14] = [
        ("a winner", post("", REQUEST), 200),
        (
            "no imp to sell",
            post("", r#"{"id":"r","imp":[{"id":"2","banner":{}}]}"#),
            204,
        ),
        ("not JSON", post("", "{"), 400),
        ("no body", post("", ""), 400),
        ("a rule broken", post("", r#"{"id":"r","imp":[]}"#), 400),
        ("GET", get("/openrtb2/auction"), 405),
        ("PUT", get("/openrtb2/auction").replace_prefix("GET", "PUT"), 405),
        ("another path", get("/"), 404),
        ("the path with a slash", get("/openrtb2/auction/"), 404),
        ("alive", get("/status"), 200),
        ("POST /status", get("/status").replace_prefix("GET", "POST"), 405),
        ("unknown encoding", post("Content-Encoding: br\r\n", REQUEST), 415),
        (
            "gzip",
            post("Content-Encoding: gzip\r\n", gzip(REQUEST.as_bytes())),
            200,
        ),
        ("broken gzip", post("Content-Encoding: gzip\r\n", "no gzip"), 400),
    ];
    for (what, request, status) in rows {
        ssp.send(request);
        let answer = ssp.answer();
        assert_eq!(answer.status, status, "{what}: {answer:?}");
        assert_eq!(answer.header("connection"), None, "{what}: {answer:?}");
        assert_eq!(ssp.bid(REQUEST).status, 200, "after {what}");
    }
    // Nobody reads on to the end of a body that is too long.
    for (what, request) in [
        ("declared", post("", &big)[..120].to_vec()),
        (
            "unzipped",
            post("Content-Encoding: gzip\r\n", gzip(big.as_bytes())),
        ),
    ] {
        let mut ssp = exchange.connect();
        ssp.send(request);
        let answer = ssp.answer();
        assert_eq!(answer.status, 413, "{what}: {answer:?}");
        assert_eq!(answer.header("connection"), Some("close"), "{what}");
        assert!(ssp.is_closed(), "{what}");
    }
    let mut ssp = exchange.connect();
    ssp.send("POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..5 {
        ssp.send(format!("200\r\n{}\r\n", " ".repeat(512)));
    }
    assert_eq!(ssp.answer().status, 413, "in chunks");
    assert!(ssp.is_closed(), "in chunks");
}

trait ReplacePrefix {
    fn replace_prefix(self, from: &str, to: &str) -> Vec<u8>;
}

impl ReplacePrefix for Vec<u8> {
    fn replace_prefix(self, from: &str, to: &str) -> Vec<u8> {
        [to.as_bytes(), self.strip_prefix(from.as_bytes()).unwrap()].concat()
    }
}

#[test]
fn refusals_say_where_and_why() {
    let dsp = bidder();
    let exchange = exchange("", &dsp);
    let mut ssp = exchange.connect();
    let answer =
        ssp.bid(r#"{"id":"r","imp":[{"id":"1","banner":{}},{"id":"1","video":{}}],"site":{},"app":{}}"#);
    assert_eq!(answer.status, 400);
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let text = answer.text();
    for path in ["imp[1].id", "imp[1].video.mimes", "app"] {
        assert!(text.contains(path), "{path} in {text:?}");
    }
    ssp.send("DELETE /openrtb2/auction HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(ssp.answer().header("allow"), Some("POST"));
    ssp.send(post("Content-Encoding: br\r\n", REQUEST));
    assert_eq!(ssp.answer().header("accept-encoding"), Some("gzip"));

    let silent = Exchange::start(&Setup {
        response: "error_body = false",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let answer = silent.bid("{}");
    assert_eq!((answer.status, answer.body.len()), (400, 0));
}

#[test]
fn members_can_be_required() {
    let dsp = bidder();
    let exchange = Exchange::start(&Setup {
        validation: "require = [\"device\", \"user\"]",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let answer = exchange.bid(REQUEST);
    assert_eq!(answer.status, 400);
    assert!(
        answer.text().contains("device") && answer.text().contains("user"),
        "{answer:?}"
    );
    let with = r#"{"id":"r","imp":[{"id":"1","banner":{}}],"device":{},"user":{}}"#;
    assert_eq!(exchange.bid(with).status, 200);
}

#[test]
fn chunked_and_gzip_bodies_are_bodies() {
    let dsp = bidder();
    let exchange = exchange("", &dsp);
    let mut ssp = exchange.connect();
    ssp.send("POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in REQUEST.as_bytes().chunks(7) {
        ssp.send(format!(
            "{:x}\r\n{}\r\n",
            piece.len(),
            String::from_utf8_lossy(piece)
        ));
    }
    ssp.send("0\r\n\r\n");
    assert_eq!(ssp.answer().status, 200);
}

/// Who asks before sending gets a yes, or at once the answer that makes sending pointless.
#[test]
fn expecting_to_continue() {
    let dsp = bidder();
    let exchange = exchange("max_request_bytes = 1000", &dsp);
    let head = |length: usize| {
        format!(
            "POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    let mut ssp = exchange.connect();
    ssp.send(head(REQUEST.len()));
    assert_eq!(ssp.answer().status, 100);
    ssp.send(REQUEST);
    assert_eq!(ssp.answer().status, 200);
    ssp.send(head(1001));
    assert_eq!(ssp.answer().status, 413);
    assert!(ssp.is_closed());
}

#[test]
fn answers_are_compressed_for_those_who_take_it() {
    let dsp = Scripted::start(|asked| Does::Answers(bid(&asked.id(), &"y".repeat(3000))));
    let exchange = exchange("", &dsp);
    let mut ssp = exchange.connect();
    let plain = ssp.bid(REQUEST);
    assert_eq!(plain.header("content-encoding"), None);
    ssp.send(post("Accept-Encoding: br, gzip;q=0.5\r\n", REQUEST));
    let small = ssp.answer();
    assert!(small.body.len() < 1000);
    assert_eq!(small.gunzipped(), plain.body);
    ssp.send(post("Accept-Encoding: gzip;q=0\r\n", REQUEST));
    assert_eq!(ssp.answer().body, plain.body);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let dsp = bidder();
    let exchange = exchange("", &dsp);
    let mut ssp = exchange.connect();
    let numbered = |n: u32| post("", REQUEST.replace("\"r\"", &format!("\"r{n}\"")));
    let bytes: Vec<u8> = (0..10).flat_map(numbered).collect();
    ssp.send(bytes);
    for n in 0..10 {
        assert_eq!(ssp.answer().json()["id"], format!("r{n}"));
    }
    // Nobody has to finish the next request to get the answer to this one.
    let next = numbered(21);
    ssp.send([&numbered(20), &next[..40]].concat());
    assert_eq!(ssp.answer().json()["id"], "r20");
    ssp.send(&next[40..]);
    assert_eq!(ssp.answer().json()["id"], "r21");
    // What is not HTTP ends the connection, but not before the answer that is owed.
    ssp.send([numbered(10), b"no HTTP at all\r\n\r\n".to_vec()].concat());
    assert_eq!(ssp.answer().json()["id"], "r10");
    assert_eq!(ssp.answer().status, 400);
    assert!(ssp.is_closed());
}

/// Two readers must never see two different messages (RFC 9112 §6.3, §7.1, §5).
#[test]
fn what_could_be_read_in_two_ways_is_refused() {
    let dsp = bidder();
    let exchange = exchange("", &dsp);
    for (what, headers) in [
        ("two lengths", "Content-Length: 3\r\nContent-Length: 4\r\n"),
        ("a list of lengths", "Content-Length: 3, 4\r\n"),
        ("a signed length", "Content-Length: +3\r\n"),
        ("a space before the colon", "Content-Length : 3\r\n"),
        ("a folded header", "X: a\r\n b\r\nContent-Length: 3\r\n"),
        ("a control character", "X: a\x01b\r\nContent-Length: 3\r\n"),
        ("chunked is not last", "Transfer-Encoding: chunked, gzip\r\n"),
        ("a header without a colon", "Host\r\nContent-Length: 3\r\n"),
        (
            "chunked twice",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        ),
        ("chunked and more", "Transfer-Encoding: gzip, chunked\r\n"),
        ("two hosts", "Host: y\r\nContent-Length: 3\r\n"),
    ] {
        let mut ssp = exchange.connect();
        ssp.send(format!(
            "POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\n{headers}\r\n{{}}\n"
        ));
        assert_eq!(ssp.answer().status, 400, "{what}");
        assert!(ssp.is_closed(), "{what}");
    }
    let mut ssp = exchange.connect();
    ssp.send(format!(
        "POST /openrtb2/auction HTTP/1.1\r\nContent-Length: {}\r\n\r\n{REQUEST}",
        REQUEST.len()
    ));
    assert_eq!(ssp.answer().status, 400, "no host");
    assert!(ssp.is_closed(), "no host");
    // With both framings the length is ignored, and the connection ends (RFC 9112 §6.3).
    let mut ssp = exchange.connect();
    ssp.send(format!(
        "POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
         {:x}\r\n{REQUEST}\r\n0\r\n\r\n{}",
        REQUEST.len(),
        String::from_utf8(post("", REQUEST)).unwrap()
    ));
    assert_eq!(ssp.answer().status, 200, "both framings");
    assert!(ssp.is_closed(), "both framings");
    let too_long = format!("X: {}\r\n", "x".repeat(70_000));
    for (what, headers) in [("too long", too_long), ("too many", "X: y\r\n".repeat(200))] {
        let mut ssp = exchange.connect();
        ssp.send(format!(
            "POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\n{headers}Content-Length: 0\r\n\r\n"
        ));
        assert_eq!(ssp.answer().status, 431, "{what}");
    }
    assert_eq!(exchange.bid(REQUEST).status, 200, "it still serves");
}

#[test]
fn one_more_than_the_limit_is_shed_at_once() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |asked| {
        waits.wait();
        Does::Answers(bid(&asked.id(), ""))
    });
    let exchange = exchange("max_in_flight = 1", &dsp);
    let mut first = exchange.connect();
    first.send(post("", REQUEST));
    // It is in flight once its DSP has been asked.
    assert!(eventually(|| dsp.asked().len() == 1));
    let mut second = exchange.connect();
    let shed = second.bid(REQUEST);
    assert_eq!(shed.status, 503);
    assert_eq!(shed.header("retry-after"), Some("1"));
    gate.open();
    assert_eq!(first.answer().status, 200, "who was in is served");
    assert_eq!(
        second.bid(REQUEST).status,
        200,
        "and so is the next on the connection that was shed"
    );
    exchange.wait_for("shed_total{reason=\"in_flight\"}", 1);
    exchange.wait_for("requests_total{status=\"503\"}", 1);
    exchange.wait_for("requests_total{status=\"200\"}", 2);
}

#[test]
fn who_has_said_all_still_gets_the_answer() {
    let dsp = bidder();
    let exchange = exchange("", &dsp);
    let mut ssp = exchange.connect();
    ssp.send(post("", REQUEST));
    ssp.finish();
    assert_eq!(ssp.answer().status, 200);
    assert!(ssp.is_closed());
}

#[test]
fn slow_bodies_and_idle_connections_are_ended() {
    let dsp = bidder();
    let exchange = exchange("read_timeout_ms = 300\nidle_timeout_ms = 600", &dsp);
    let within = |what: &str, least_ms: u64, since: Instant| {
        let took = since.elapsed();
        assert!(
            took >= Duration::from_millis(least_ms) && took < PATIENCE / 2,
            "{what}: {took:?}"
        );
    };
    let mut slow = exchange.connect();
    let mut idle = exchange.connect();
    let mut silent = exchange.connect();
    let mut half_a_head = exchange.connect();
    let start = Instant::now();
    slow.send(&post("", REQUEST)[..120]);
    half_a_head.send("POST /openrtb2/auction HTTP/1.1\r\nHo");
    assert_eq!(slow.answer().status, 408);
    assert!(slow.is_closed());
    within("a slow body", 300, start);

    assert_eq!(idle.bid(REQUEST).status, 200);
    let since = Instant::now();
    assert!(idle.is_closed());
    // The time begins when the answer leaves, a little before it is read here.
    within("an idle connection", 500, since);
    assert!(silent.is_closed());
    within("a silent connection", 600, start);
    // A peer that has begun to speak may be told why.
    if let Some(answer) = half_a_head.try_answer() {
        assert_eq!(answer.status, 408);
    }
    assert!(half_a_head.is_closed());
    within("half a head", 600, start);
    exchange.wait_for("connections{side=\"ssp\"", 0);
    exchange.wait_for("in_flight", 0);
}

#[test]
fn who_leaves_leaves_nothing_behind() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |_| {
        waits.wait();
        Does::NoBid
    });
    let exchange = Exchange::start(&Setup {
        server: "read_timeout_ms = 60000",
        auction: "deadline_ms = 1500".to_owned(),
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let mut in_the_middle = exchange.connect();
    in_the_middle.send(&post("", REQUEST)[..120]);
    exchange.wait_for("in_flight", 1);
    drop(in_the_middle);
    exchange.wait_for("in_flight", 0);

    let mut asked = exchange.connect();
    asked.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    // Closing resets the connection.
    SockRef::from(asked.stream())
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(asked);
    exchange.wait_for("in_flight", 0);
    exchange.wait_for("connections{side=\"ssp\"", 0);
    gate.open();
    assert_eq!(exchange.bid(REQUEST).status, 204, "and the exchange goes on");
    exchange.wait_for("panics_total", 0);
}
