//! More than the exchange takes on: each limit at and past it, what is answered then, and that what it does take on it
//! does. `loadtest/overload.sh` measures how well; this is that it works at all, on whatever machine.

use std::cell::RefCell;
use std::io::Write as _;
use std::rc::Rc;
use std::thread;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use h2::client::SendRequest;
use hyper::body::Bytes;

use crate::client::post;
use crate::h2c::{ask, with_client};
use crate::harness::{Dsp, Exchange, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

fn bidder() -> Scripted {
    Scripted::start(|asked| {
        Does::Answers(format!(
            r#"{{"id":"{}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1,"adm":"x"}}]}}]}}"#,
            asked.id()
        ))
    })
}

/// One that answers only once the gate is open.
fn waiting(gate: &Gate) -> Scripted {
    let waits = gate.clone();
    Scripted::start(move |_| {
        waits.wait();
        Does::NoBid
    })
}

fn exchange(server: &'static str, dsp: &Scripted) -> Exchange {
    Exchange::start(&Setup {
        server,
        ..Setup::of([Dsp::new("d", dsp.port)])
    })
}

#[test]
fn memory_has_a_limit_that_large_bodies_reach_before_the_number_in_flight() {
    let gate = Gate::default();
    let dsp = waiting(&gate);
    // A MiB. Each of these holds its body of 200 kB and a copy for the DSP, so that some two or three fit.
    let exchange = exchange("max_memory_bytes = 1048576", &dsp);
    let large = REQUEST.replace("{}", &format!(r#"{{"ext":"{}"}}"#, "x".repeat(200_000)));
    let mut admitted = Vec::new();
    let shed = loop {
        let mut ssp = exchange.connect();
        ssp.send(post("", &large));
        // It is in flight once its DSP has been asked; or it has an answer.
        assert!(eventually(|| {
            dsp.asked().len() > admitted.len() || exchange.metrics().sum("shed_total") > 0
        }));
        if dsp.asked().len() == admitted.len() {
            break ssp.answer();
        }
        admitted.push(ssp);
        assert!(admitted.len() < 6, "more than a MiB is held");
    };
    assert_eq!(shed.status, 503);
    assert!(admitted.len() >= 2, "{}", admitted.len());
    exchange.wait_for("shed_total{reason=\"memory\"}", 1);
    exchange.wait_until("what they hold is told", |metrics| {
        metrics.sum("memory_bytes") >= 1 << 20
    });
    gate.open();
    for ssp in &mut admitted {
        assert_eq!(ssp.answer().status, 204, "who was in is served");
    }
    assert_eq!(exchange.bid(&large).status, 204, "and there is room again");
    exchange.wait_for("memory_bytes", 0);
}

#[test]
fn what_is_shed_can_be_a_no_bid() {
    let gate = Gate::default();
    let dsp = waiting(&gate);
    let exchange = exchange("max_in_flight = 1\nshed_status = \"204\"", &dsp);
    let mut first = exchange.connect();
    first.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    assert_eq!(exchange.bid(REQUEST).status, 204);
    exchange.wait_for("shed_total{reason=\"in_flight\"}", 1);
    gate.open();
    assert_eq!(first.answer().status, 204);
}

/// Over HTTP/2 the answer does not wait for a body that nobody wants, which comes all the same. More often than h2 lets a
/// peer send to streams that are gone, after which it would end the connection.
#[test]
fn over_h2_what_is_shed_is_answered_before_its_body_has_come() {
    const TIMES: u64 = 1_100;
    let gate = Gate::default();
    let dsp = waiting(&gate);
    let exchange = Exchange::start(&Setup {
        server: "max_in_flight = 1",
        auction: "deadline_ms = 60000".to_owned(),
        ..Setup::of([Dsp {
            more: "timeout_ms = 60000\n",
            ..Dsp::new("d", dsp.port)
        }])
    });
    let mut first = exchange.connect();
    first.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    with_client(exchange.listen, async |send| {
        let mut open = Vec::new();
        for _ in 0..TIMES {
            let mut ready = send.clone().ready().await.unwrap();
            let request = http::Request::post("http://exchange/openrtb2/auction");
            open.push(ready.send_request(request.body(()).unwrap(), false).unwrap());
        }
        for (response, body) in &mut open {
            assert_eq!(response.await.unwrap().status(), 503);
            body.send_data(Bytes::from_static(REQUEST.as_bytes()), true)
                .unwrap();
        }
        gate.open();
        assert_eq!(first.answer().status, 204);
        let last = ask(&send, http::Method::POST, "/openrtb2/auction", &[], REQUEST).await;
        assert_eq!(last.0, 204, "on the same connection");
    });
    exchange.wait_for("shed_total{reason=\"in_flight\"}", TIMES);
}

#[test]
fn without_time_for_a_fan_out_there_is_none() {
    let dsp = bidder();
    let exchange = Exchange::start(&Setup {
        auction: "deadline_ms = 8000\ntmax_margin_ms = 10\nfan_out_ms_min = 2000\n".to_owned(),
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let with_tmax = |tmax: u32| REQUEST.replace("\"imp\"", &format!("\"tmax\":{tmax},\"imp\""));
    assert_eq!(
        exchange.bid(with_tmax(2_009)).status,
        204,
        "a millisecond too few"
    );
    exchange.wait_for("shed_total{reason=\"late\"}", 1);
    exchange.wait_for("non_bids_total{dsp=\"d\",code=\"15\"}", 1);
    assert!(dsp.asked().is_empty());
    // Enough, and some for the machine that this runs on.
    assert_eq!(exchange.bid(with_tmax(7_000)).status, 200);
    assert_eq!(dsp.asked().len(), 1);
}

/// A bid request that costs the exchange much and its sender nothing: 20 kB compressed to almost nothing, to be parsed and
/// compressed again.
fn costly() -> Bytes {
    let body = REQUEST.replace("{}", &format!(r#"{{"ext":"{}"}}"#, "xy\\\"z".repeat(4_000)));
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(body.as_bytes()).unwrap();
    gzip.finish().unwrap().into()
}

async fn bid_costly(send: &SendRequest<Bytes>, body: Bytes) -> Answered {
    let headers = [("content-encoding", "gzip")];
    let sent = Instant::now();
    let (status, _) = ask(send, http::Method::POST, "/openrtb2/auction", &headers, body).await;
    Answered {
        status,
        sent,
        after: sent.elapsed(),
    }
}

#[derive(Debug, Clone, Copy)]
struct Answered {
    status: u16,
    sent: Instant,
    after: Duration,
}

/// One with the target at four times what a costly bid request takes, and the interval at four times that.
fn exchange_that_sheds(dsp: &Scripted, cost: Duration) -> Exchange {
    let target_ms = (cost * 4).as_millis().clamp(5, 1_000);
    Exchange::start_with(
        &Setup::of([Dsp {
            more: "timeout_ms = 8000\nmax_connections = 1000\ngzip = true\n",
            ..Dsp::new("d", dsp.port)
        }]),
        &[
            ("COREBID_SERVER__QUEUE_DELAY_TARGET_MS", &target_ms.to_string()),
            (
                "COREBID_SERVER__QUEUE_DELAY_INTERVAL_MS",
                &(target_ms * 4).to_string(),
            ),
        ],
    )
}

/// What one takes on this machine, at the best of times.
fn cost(dsp: &Scripted) -> Duration {
    let exchange = exchange_that_sheds(dsp, Duration::from_secs(1));
    let mut least = Duration::MAX;
    with_client(exchange.listen, async |send| {
        for _ in 0..8 {
            let answered = bid_costly(&send, costly()).await;
            assert_eq!(answered.status, 204);
            least = least.min(answered.after);
        }
    });
    least
}

/// For eight intervals.
#[test]
fn under_four_times_what_it_can_do_it_does_what_it_can() {
    let dsp = Scripted::start(|_| Does::NoBid);
    let cost = cost(&dsp);
    let exchange = exchange_that_sheds(&dsp, cost);
    let (interval, lasts) = (cost * 16, cost * 16 * 8);
    let answers = Rc::new(RefCell::new(Vec::new()));
    let began = Instant::now();
    with_client(exchange.listen, async |send| {
        let costly = costly();
        let mut waiting = Vec::new();
        for number in 0..8 * 16 * 4 {
            tokio::time::sleep_until((began + cost / 4 * number).into()).await;
            let (send, costly, answers) = (send.clone(), costly.clone(), Rc::clone(&answers));
            waiting.push(tokio::task::spawn_local(async move {
                let answered = bid_costly(&send, costly).await;
                answers.borrow_mut().push(answered);
            }));
            if number % 128 == 0 {
                for path in ["/healthz", "/readyz", "/metrics"] {
                    assert_eq!(exchange.admin(path).status, 200, "{path}");
                }
            }
        }
        let alive = ask(&send, http::Method::GET, "/status", &[], Bytes::new()).await;
        assert_eq!(alive.0, 200);
        for one in waiting {
            one.await.unwrap();
        }
    });

    let answers = answers.take();
    let with_status = |status| answers.iter().filter(move |answer| answer.status == status);
    let (served, shed) = (with_status(204).count(), with_status(503).count());
    let told = format!(
        "{} asked, {served} served, {shed} shed, each takes {cost:?}",
        answers.len()
    );
    assert_eq!(served + shed, answers.len(), "{told}");
    assert!(shed > answers.len() / 4, "{told}");
    exchange.wait_for("shed_total{reason=\"queue_delay\"}", shed as u64);
    // Were none shed, those of the second half would wait for three quarters of all the time since the beginning.
    let late = with_status(204).filter(|answer| answer.sent > began + lasts / 2);
    let mut waits: Vec<_> = late.map(|answer| answer.after).collect();
    waits.sort_unstable();
    assert!(!waits.is_empty(), "none of the second half was served: {told}");
    // The median: a busy machine may keep some of them from being answered, or this test from hearing it.
    let usual = waits[waits.len() / 2];
    assert!(usual < lasts / 2 * 3 / 4, "{usual:?} {told}");

    // It is over within an interval.
    thread::sleep(interval * 2);
    for _ in 0..5 {
        assert_eq!(exchange.bid(REQUEST).status, 204);
    }
}
