//! DSPs that are not asked: because they fail, because they have had their calls per second; and one that is not waited
//! for. What the DSPs themselves see of it counts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corebid_loadtest::dsps::{self, Dsps, Fault};
use corebid_loadtest::simulated::{Profile, seat};

use crate::harness::{Dsp, Exchange, Metrics, Setup, eventually};
use crate::scripted::{Does, Scripted};

fn request(id: &str) -> String {
    format!(r#"{{"id":"{id}","imp":[{{"id":"1","banner":{{}}}}]}}"#)
}

fn one_bid(id: &str) -> String {
    format!(r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1.00,"adm":"x"}}]}}]}}"#)
}

fn profile(count: u16) -> Profile {
    Profile {
        count,
        scale_latency: 0.0,
        bid_share: 1.0,
        ..Profile::default()
    }
}

/// Simulated DSPs that bid on everything, at once, behind an exchange with this configuration of its breakers.
struct Market {
    dsps: Dsps,
    exchange: Exchange,
    timeout: Duration,
}

impl Market {
    fn new(faults: Vec<(u16, Fault)>, count: u16, breaker: &'static str) -> Self {
        let dsps = Dsps::start(dsps::Options {
            profile: profile(count),
            faults,
            ..dsps::Options::default()
        })
        .unwrap();
        let named = (1..).zip(dsps.ports()).map(|(number, port)| Dsp {
            more: "timeout_ms = 2000\n",
            ..Dsp::new(format!("dsp{number}"), *port)
        });
        let exchange = Exchange::start(&Setup {
            fanout: breaker,
            ..Setup::of(named)
        });
        Self {
            dsps,
            exchange,
            timeout: Duration::from_secs(2),
        }
    }

    fn auction(&self, id: &str) -> (String, Duration) {
        let start = Instant::now();
        let answer = self.exchange.bid(request(id));
        let sales = if answer.status == 204 {
            String::new()
        } else {
            answer.sales()
        };
        (sales, start.elapsed())
    }

    fn open(&self) -> u64 {
        self.exchange
            .metrics()
            .sum_where("dsp_breakers", "state=\"open\"")
    }
}

impl Metrics {
    /// The sum of a metric's samples that have this label.
    fn sum_where(&self, name: &str, label: &str) -> u64 {
        let samples = self.0.lines().filter(|line| line.contains(label));
        Self(samples.collect::<Vec<_>>().join("\n")).sum(name)
    }
}

/// They die in every way there is. Until they are known to be dead they are waited for; then no more, and from the first
/// auction to the last the one that works wins.
#[test]
fn twenty_two_of_twenty_three_are_dead_and_the_other_one_wins() {
    const COUNT: u16 = 23;
    const ALIVE: u16 = 11;
    let faults = [
        Fault::Stall,
        Fault::Reset,
        Fault::Garbage,
        Fault::Close,
        Fault::Status(503),
        Fault::Status(429),
        Fault::Refuse,
        Fault::GarbageJson,
        Fault::WrongId,
        Fault::Redirect,
        Fault::Huge,
    ];
    let dead = (0..COUNT)
        .filter(|dsp| *dsp != ALIVE)
        .zip(faults.into_iter().cycle());
    let market = Market::new(
        dead.collect(),
        COUNT,
        "[breaker]\nconsecutive_failures = 3\nopen_ms_min = 600000\nopen_ms_max = 600000\n",
    );
    let expected = format!("1 {} 0.000001", seat(ALIVE));
    for n in 0..3 {
        let (sales, took) = market.auction(&format!("dying-{n}"));
        assert_eq!(sales, expected);
        assert!(took >= market.timeout, "it waits for those that stall: {took:?}");
    }
    market.exchange.wait_until("22 are given up", |metrics| {
        metrics.sum_where("dsp_breakers", "state=\"open\"") == 22
            && metrics.sum("dsp_breakers{dsp=\"dsp12\",state=\"closed\"}") == 1
    });
    let asked_before: u64 = market.dsps.total().requests;
    let quickest = (0..20).map(|n| {
        let (sales, took) = market.auction(&format!("dead-{n}"));
        assert_eq!(sales, expected);
        took
    });
    let quickest = quickest.min().unwrap();
    assert!(
        quickest < market.timeout / 2,
        "nobody waits for the dead: {quickest:?}"
    );
    assert_eq!(
        market.dsps.total().requests,
        asked_before + 20,
        "nobody asks them"
    );
    let metrics = market.exchange.metrics();
    market.exchange.wait_for("dsp_calls_total", 23 * 23);
    market
        .exchange
        .wait_until("each call not made is told", |metrics| {
            metrics.sum_where("dsp_calls_total", "outcome=\"open_breaker\"") == 22 * 20
                && metrics.sum_where("non_bids_total", "code=\"200\"") == 22 * 20
                && metrics.sum_where("dsp_breaker_changes_total", "to=\"open\"") == 22
        });
    assert_eq!(metrics.sum("panics_total"), 0);
    let dsps = market.exchange.admin("/dsps").json();
    let of = |index: usize| dsps["dsps"][index]["breakers"].to_string();
    assert_eq!(of(0), r#"{"closed":0,"half_open":0,"open":1}"#);
    assert_eq!(of(usize::from(ALIVE)), r#"{"closed":1,"half_open":0,"open":0}"#);
    let log = market.exchange.log();
    assert_eq!(log.matches("breaker open").count(), 22, "said once for each");
}

#[test]
fn when_all_are_open_there_is_no_bid_at_once_and_probes_go_on() {
    const COUNT: u16 = 3;
    let market = Market::new(
        (0..COUNT).map(|dsp| (dsp, Fault::Stall)).collect(),
        COUNT,
        "[breaker]\nconsecutive_failures = 2\nopen_ms_min = 300\nopen_ms_max = 300\nprobes = 1\n",
    );
    let mut numbers = 0..;
    let mut auction = || market.auction(&format!("all-{}", numbers.next().unwrap()));
    assert!(eventually(|| {
        let (sales, _) = auction();
        assert_eq!(sales, "");
        market.open() == u64::from(COUNT)
    }));
    let asked: Vec<_> = (0..COUNT).map(|dsp| market.dsps.counts(dsp).requests).collect();
    let mut quickest = Duration::MAX;
    assert!(eventually(|| {
        let (sales, took) = auction();
        assert_eq!(sales, "");
        quickest = quickest.min(took);
        (0..COUNT).all(|dsp| market.dsps.counts(dsp).requests >= asked[usize::from(dsp)] + 2)
    }));
    assert!(quickest < market.timeout / 2, "{quickest:?}");
    for dsp in 0..COUNT {
        market.dsps.set_fault(dsp, Fault::None);
    }
    assert!(eventually(|| !auction().0.is_empty()), "a probe's bid wins");
    assert!(eventually(|| {
        auction();
        let metrics = market.exchange.metrics();
        metrics.sum_where("dsp_breakers", "state=\"closed\"") == u64::from(COUNT)
    }));
    assert!(market.exchange.log().contains("breaker closed"));
}

#[test]
fn a_dsp_without_a_breaker_is_always_asked() {
    let dsps = Dsps::start(dsps::Options {
        profile: profile(2),
        faults: vec![(0, Fault::Close), (1, Fault::Close)],
        ..dsps::Options::default()
    })
    .unwrap();
    let named = [
        ("exempt", "breaker = false\ntimeout_ms = 8000\n"),
        ("not", "breaker = true\ntimeout_ms = 8000\n"),
    ];
    let exchange = Exchange::start(&Setup {
        fanout: "[breaker]\nconsecutive_failures = 2\nopen_ms_min = 600000\nopen_ms_max = 600000\n",
        ..Setup::of(named.iter().zip(dsps.ports()).map(|((name, more), port)| Dsp {
            more,
            ..Dsp::new(*name, *port)
        }))
    });
    for n in 0..10 {
        assert_eq!(exchange.bid(request(&format!("r{n}"))).status, 204);
    }
    exchange.wait_for("dsp_calls_total{dsp=\"exempt\",outcome=\"error\"}", 10);
    exchange.wait_for("dsp_calls_total{dsp=\"not\",outcome=\"error\"}", 2);
    exchange.wait_for("dsp_calls_total{dsp=\"not\",outcome=\"open_breaker\"}", 8);
    let metrics = exchange.metrics().0;
    assert!(!metrics.contains("dsp_breakers{dsp=\"exempt\""), "it has none");
}

/// Two shards, of which one has all the traffic: it gets all of the cap, and the DSP counts no more than that.
#[test]
fn a_cap_of_calls_per_second_is_kept_over_shards() {
    const QPS: u64 = 10;
    const SECONDS: u64 = 4;
    let dsps = Dsps::start(dsps::Options {
        profile: profile(1),
        ..dsps::Options::default()
    })
    .unwrap();
    let port = dsps.ports()[0];
    let exchange = Exchange::start(&Setup {
        server: "shards = 2\nbalance = false\n",
        ..Setup::of([Dsp {
            more: "qps = 10\ntimeout_ms = 8000\n",
            ..Dsp::new("capped", port)
        }])
    });
    let mut ssp = exchange.connect();
    let stop = AtomicBool::new(false);
    let (asked, bids, counted) = thread::scope(|scope| {
        let sends = scope.spawn(|| {
            let (mut asked, mut bids) = (0_u64, 0_u64);
            while !stop.load(Ordering::Relaxed) {
                let answer = ssp.bid(request(&format!("r{asked}")));
                asked += 1;
                bids += u64::from(answer.status == 200);
                thread::sleep(Duration::from_millis(1));
            }
            (asked, bids)
        });
        // The shares have settled by then.
        exchange.wait_until("one shard has all of it", |metrics| {
            (0..2).any(|shard| {
                let share = metrics.sum(&format!("dsp_qps_share{{dsp=\"capped\",shard=\"{shard}\"}}"));
                share == QPS
            })
        });
        let (start, before) = (Instant::now(), dsps.counts(0).requests);
        thread::sleep(Duration::from_secs(SECONDS));
        let counted = dsps.counts(0).requests - before;
        let passed = start.elapsed();
        stop.store(true, Ordering::Relaxed);
        let (asked, bids) = sends.join().unwrap();
        (asked, bids, (counted, passed))
    });
    let (counted, passed) = counted;
    let allowed = QPS as f64 * passed.as_secs_f64();
    println!(
        "the DSP was asked {counted} times in {passed:?}: {:.3} of its cap",
        counted as f64 / allowed
    );
    assert!(counted as f64 <= allowed * 1.01 + 3.0, "{counted} in {passed:?}");
    assert!(
        counted as f64 >= allowed * 0.9 - 2.0 || asked < QPS * 3 * passed.as_secs(),
        "{counted} in {passed:?} of {asked}"
    );
    assert_eq!(dsps.counts(0).requests, bids);
    let shown = exchange.admin("/dsps").json();
    assert_eq!(shown["dsps"][0]["cap_qps"].as_f64(), Some(10.0));
    exchange.wait_for("dsp_calls_total{dsp=\"capped\",outcome=\"bid\"}", bids);
    exchange.wait_for(
        "dsp_calls_total{dsp=\"capped\",outcome=\"throttled\"}",
        asked - bids,
    );
    exchange.wait_for("non_bids_total{dsp=\"capped\",code=\"200\"}", asked - bids);
}

/// It wins, but never late.
#[test]
fn a_dsp_whose_late_answers_never_win_is_not_waited_for() {
    let dsp = Scripted::start(|asked| {
        if asked.id().starts_with("slow") {
            thread::sleep(Duration::from_millis(1_500));
            return Does::NoBid;
        }
        Does::Answers(one_bid(&asked.id()))
    });
    let exchange = Exchange::start(&Setup::of([Dsp {
        more: "timeout_ms = 4000\nadaptive_timeout = true\n",
        ..Dsp::new("late", dsp.port)
    }]));
    let tmax = |id: &str| {
        let asked = dsp.asked();
        let asked = asked.iter().find(|asked| asked.id() == id).unwrap().json();
        asked["tmax"].as_u64().unwrap()
    };
    assert_eq!(exchange.bid(request("slow-first")).status, 204);
    assert_eq!(tmax("slow-first"), 4_000);
    let mut ssp = exchange.connect();
    for n in 0..400 {
        assert_eq!(ssp.bid(request(&format!("r{n}"))).status, 200);
    }
    // One of twenty still waits in full.
    let mut number = 0;
    let cut = |metrics: &Metrics| metrics.sum("dsp_calls_total{dsp=\"late\",outcome=\"cut\"}");
    assert!(eventually(|| {
        number += 1;
        assert_eq!(exchange.bid(request(&format!("slow-{number}"))).status, 204);
        cut(&exchange.metrics()) > 0
    }));
    let told = tmax(&format!("slow-{number}"));
    assert!(told < 4_000 && told % 500 == 0, "it is told what it has: {told}");
    // Which is nobody's failure.
    let metrics = exchange.metrics();
    assert_eq!(
        metrics.sum("dsp_calls_total{dsp=\"late\",outcome=\"timeout\"}"),
        0
    );
    assert_eq!(metrics.sum("dsp_breakers{dsp=\"late\",state=\"closed\"}"), 1);
}
