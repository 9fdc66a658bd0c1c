//! The configuration is changed while the exchange serves: what follows it, what stays, and that nobody on either side
//! notices a seam.

#![allow(
    clippy::print_stdout,
    reason = "figures for who runs it for longer, with --nocapture"
)]

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corebid_loadtest::dsps::{self, Dsps, Fault, TlsOptions};
use corebid_loadtest::generate;
use corebid_loadtest::simulated::Profile;
use serde_json::Value;

use crate::client::{Http, post};
use crate::harness::{Dsp, Exchange, Metrics, NO_HURRY, Setup, TempFile, eventually};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

fn bid(id: &str, price: &str) -> Does {
    Does::Answers(format!(
        r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":{price},"adm":"x"}}]}}]}}"#
    ))
}

/// A DSP that bids this much at once.
fn bidding(price: &'static str) -> Scripted {
    Scripted::start(move |asked| bid(&asked.id(), price))
}

impl Exchange {
    /// Has it reload this; it must not have anything against it. Returns what the answer says has changed.
    #[track_caller]
    fn reloads(&self, setup: &Setup) -> Vec<String> {
        self.configure(&setup.toml());
        let answer = self.reload();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        let changes = answer["changes"].as_array().unwrap();
        changes
            .iter()
            .map(|change| change.as_str().unwrap().to_owned())
            .collect()
    }

    /// Seat and price of the winner.
    #[track_caller]
    fn sells(&self) -> (String, String) {
        let answer = self.bid(REQUEST);
        assert_eq!(answer.status, 200);
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        let seat = &answer["seatbid"][0];
        (
            seat["seat"].as_str().unwrap().to_owned(),
            seat["bid"][0]["price"].to_string(),
        )
    }
}

#[test]
fn dsps_come_go_and_change_and_nobody_else_notices() {
    let [stays, goes, comes] = [bidding("1"), bidding("3"), bidding("5")];
    let dsp = |name: &str, dsp: &Scripted| Dsp::new(name, dsp.port);
    let exchange = Exchange::start(&Setup::of([dsp("stays", &stays), dsp("goes", &goes)]));
    for _ in 0..3 {
        assert_eq!(exchange.sells(), ("goes".to_owned(), "1.000001".to_owned()));
    }
    let slower = Dsp {
        more: "timeout_ms = 7000\nmax_connections = 7\n",
        ..dsp("stays", &stays)
    };
    let changes = exchange.reloads(&Setup::of([dsp("comes", &comes), slower]));
    assert_eq!(
        changes,
        [
            "dsp.comes: added",
            "dsp.stays.max_connections: 64 -> 7",
            "dsp.stays.timeout_ms: 8000 -> 7000",
            "dsp.goes: removed"
        ]
    );
    for _ in 0..3 {
        assert_eq!(exchange.sells(), ("comes".to_owned(), "1.000001".to_owned()));
    }
    assert_eq!(stays.connections(), 1, "it was not connected to anew");
    assert_eq!(
        (stays.asked().len(), goes.asked().len(), comes.asked().len()),
        (6, 3, 3)
    );
    // Its connections are closed, and its counters stay.
    exchange.wait_until("the connections are closed", |metrics| {
        !metrics
            .0
            .contains("corebid_connections{side=\"dsp\",dsp=\"goes\"")
    });
    exchange.wait_for("dsp_calls_total{dsp=\"stays\",outcome=\"bid\"}", 6);
    exchange.wait_for("dsp_calls_total{dsp=\"goes\",outcome=\"bid\"}", 3);
    exchange.wait_for("dsp_calls_total{dsp=\"comes\",outcome=\"bid\"}", 3);
    let dsps: Value = serde_json::from_slice(&exchange.admin("/dsps").body).unwrap();
    let configured: Vec<_> = dsps["dsps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|dsp| {
            (
                dsp["name"].as_str().unwrap(),
                dsp["configured"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(configured, [("stays", true), ("goes", false), ("comes", true)]);
    let config = exchange.admin("/config").text();
    assert!(
        config.contains("timeout_ms = 7000") && !config.contains("goes"),
        "{config}"
    );
    // The same DSP by another path is asked there, and counts on.
    let elsewhere = Dsp {
        path: "/other".to_owned(),
        ..dsp("stays", &stays)
    };
    let changes = exchange.reloads(&Setup::of([elsewhere]));
    assert!(
        changes
            .iter()
            .any(|change| change.starts_with("dsp.stays.endpoint: ")),
        "{changes:?}"
    );
    assert_eq!(exchange.sells().0, "stays");
    assert!(stays.asked()[6].head.starts_with("POST /other "));
    assert_eq!(stays.connections(), 2);
    exchange.wait_for("dsp_calls_total{dsp=\"stays\",outcome=\"bid\"}", 7);
    exchange.wait_for("config_generation{shard=\"0\"}", 3);
    exchange.wait_for("config_reloads_total{result=\"applied\"}", 2);
}

#[test]
fn auction_validation_response_and_limits_follow() {
    let [low, high] = [bidding("1"), bidding("3")];
    let dsps = [Dsp::new("low", low.port), Dsp::new("high", high.port)];
    let exchange = Exchange::start(&Setup::of(dsps.clone()));
    // This connection is there before any reload: options are the requests', not the connections'.
    let mut ssp = exchange.connect();
    assert_eq!(ssp.bid(REQUEST).status, 200);
    let with = |setup: Setup| Setup {
        dsps: Setup::of(dsps.clone()).dsps,
        ..setup
    };
    let price = |ssp: &mut Http| {
        let answer: Value = serde_json::from_slice(&ssp.bid(REQUEST).body).unwrap();
        answer["seatbid"][0]["bid"][0]["price"].to_string()
    };
    let auction = |more: &str| {
        with(Setup {
            auction: format!("{NO_HURRY}{more}"),
            ..Setup::default()
        })
    };
    exchange.reloads(&auction("increment_micros = 500000"));
    assert_eq!(price(&mut ssp), "1.5");
    exchange.reloads(&with(Setup {
        auction: NO_HURRY.to_owned(),
        validation: "require = [\"device\"]",
        ..Setup::default()
    }));
    let refused = ssp.bid(REQUEST);
    assert_eq!(refused.status, 400);
    assert!(refused.text().contains("device"), "{}", refused.text());
    exchange.reloads(&with(Setup {
        auction: NO_HURRY.to_owned(),
        validation: "require = [\"device\"]",
        response: "error_body = false",
        ..Setup::default()
    }));
    let refused = ssp.bid(REQUEST);
    assert_eq!((refused.status, refused.body.len()), (400, 0));
    exchange.reloads(&with(Setup {
        auction: NO_HURRY.to_owned(),
        server: "max_request_bytes = 20",
        ..Setup::default()
    }));
    assert_eq!(ssp.bid(REQUEST).status, 413);
    exchange.reloads(&with(Setup {
        auction: "deadline_ms = 1\nfan_out_ms_min = 1".to_owned(),
        ..Setup::default()
    }));
    assert_eq!(exchange.bid(REQUEST).status, 204, "no time to ask anybody");
    exchange.reloads(&with(Setup {
        auction: NO_HURRY.to_owned(),
        response: "no_bid = \"200\"",
        ..Setup::default()
    }));
    let dear = exchange.bid(REQUEST.replace(r#""banner""#, r#""bidfloor":1000,"banner""#));
    assert!(dear.status == 200 && dear.text().contains("nbr"));
    // Back to where it began: nothing of it stuck.
    exchange.reloads(&auction(""));
    assert_eq!(exchange.sells(), ("high".to_owned(), "1.000001".to_owned()));
}

#[test]
fn new_rates_are_in_the_next_price() {
    let dsp = bidding("1");
    let rates = TempFile::new("json", r#"{"conversions": {"USD": {"EUR": 0.9}}}"#);
    let setup = Setup {
        auction: format!("{NO_HURRY}rates_file = \"{}\"\n", rates.0.display()),
        ..Setup::of([Dsp::new("d", dsp.port)])
    };
    let exchange = Exchange::start(&setup);
    // The only bid pays the floor, which is in euros, and a micro.
    let request = r#"{"id":"r","imp":[{"id":"1","banner":{},"bidfloor":0.09,"bidfloorcur":"EUR"}]}"#;
    let price = || {
        let answer: Value = serde_json::from_slice(&exchange.bid(request).body).unwrap();
        answer["seatbid"][0]["bid"][0]["price"].to_string()
    };
    assert_eq!(price(), "0.100001");
    std::fs::write(&rates.0, r#"{"conversions": {"USD": {"EUR": 0.45}}}"#).unwrap();
    assert_eq!(price(), "0.100001", "not before it is told");
    let changes = exchange.reloads(&setup);
    assert_eq!(
        changes,
        ["auction.rates_file: a secret, or what is in a file that it names"]
    );
    assert_eq!(price(), "0.200001");
}

#[test]
fn the_environment_overrides_a_reload_as_it_does_the_start() {
    let [low, high] = [bidding("1"), bidding("3")];
    let setup = |increment: u32| Setup {
        auction: format!("{NO_HURRY}increment_micros = {increment}\n"),
        ..Setup::of([Dsp::new("low", low.port), Dsp::new("high", high.port)])
    };
    let exchange = Exchange::start_with(&setup(1), &[("COREBID_AUCTION__INCREMENT_MICROS", "500000")]);
    assert_eq!(exchange.sells().1, "1.5");
    assert_eq!(exchange.reloads(&setup(2)), Vec::<String>::new());
    assert_eq!(exchange.sells().1, "1.5");
}

#[test]
fn the_log_follows() {
    let dsp = bidding("1");
    let toml = Setup::of([Dsp::new("d", dsp.port)]).toml();
    let exchange = Exchange::serve(&toml);
    let goes_by = |level: &str, format: &str| {
        let toml = toml.replace("level = \"info\"", &format!("level = \"{level}\""));
        exchange.configure(&toml.replace("format = \"json\"", &format!("format = \"{format}\"")));
        assert_eq!(exchange.reload().status, 200);
    };
    let lines = |text: &str| exchange.log().lines().filter(|line| line.contains(text)).count();
    goes_by("info", "json");
    assert!(eventually(|| lines("\"message\":\"reloaded\"") == 1));
    goes_by("error", "json");
    goes_by("info", "text");
    assert!(eventually(|| lines("reloaded") == 2), "{}", exchange.log());
    assert!(
        exchange.log().contains("error"),
        "what changed is told: {}",
        exchange.log()
    );
    assert_eq!(
        lines("\"message\":\"reloaded\""),
        1,
        "nothing was said at level error"
    );
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_whole() {
    let dsp = bidding("1");
    let good = Setup::of([Dsp::new("d", dsp.port)]).toml();
    let exchange = Exchange::serve(&good);
    exchange.wait_for("config_last_reload_successful", 1);
    let hash = |exchange: &Exchange| {
        let metrics = exchange.metrics().0;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("corebid_config_info{"));
        line.unwrap().to_owned()
    };
    let before = (hash(&exchange), exchange.admin("/config").text());
    let taken = format!(
        "[server]\nlisten = \"127.0.0.1:1\"\nadmin = \"127.0.0.1:0\"\nshards = 2\ndrain_ms = 7\n\
         [log]\nformat = \"json\"\n[telemetry]\nhlog_file = \"x.hlog\"\n\
         [[dsp]]\nname = \"d\"\nendpoint = \"http://127.0.0.1:{}/bid\"\n\
         [[dsp]]\nname = \"e\"\nendpoint = \"http://nowhere.invalid/\"\n",
        dsp.port
    );
    let rows: [(&str, &[&str]); 4] = [
        (
            "[server]\nlisten = \"nowhere\"\nshard = 1\n[auction]\ncurrency = \"usd\"\n\
             [[dsp]]\nname = \"d\"\nendpoint = \"ftp://x\"\n",
            &[
                "server.listen",
                "server.shard: unknown key; did you mean shards?",
                "auction.currency",
                "dsp[0].endpoint",
            ],
        ),
        ("[server\n", &[":1:8: "]),
        ("", &["at least one [[dsp]]"]),
        // Well-formed, but nothing that a running process could take on: all of that at once as well.
        (
            &taken,
            &[
                "server.listen: \"127.0.0.1:0\" -> \"127.0.0.1:1\": takes a restart or a handover",
                "server.shards: 1 -> 2: takes a restart",
                "telemetry.hlog_file: none -> \"x.hlog\": takes a restart",
                "nowhere.invalid",
            ],
        ),
    ];
    for (index, (toml, expected)) in (1..).zip(rows) {
        exchange.configure(toml);
        let answer = exchange.reload();
        assert_eq!(answer.status, 400, "{toml}");
        for text in expected {
            assert!(answer.text().contains(text), "{text} in {}", answer.text());
        }
        assert!(!answer.text().contains("drain_ms"), "{}", answer.text());
        // The log has the same, also for who has sent a signal.
        exchange.signal("HUP");
        exchange.wait_for("config_reloads_total{result=\"refused\"}", 2 * index);
        for text in expected {
            let escaped = text.replace('"', "\\\"");
            assert!(
                eventually(|| exchange.log().matches(&escaped).count() >= 2),
                "{text} in {}",
                exchange.log()
            );
        }
        assert_eq!(exchange.metrics().sum("config_last_reload_successful"), 0);
        assert_eq!(exchange.sells().0, "d");
        assert_eq!(
            (hash(&exchange), exchange.admin("/config").text()),
            before,
            "{toml}"
        );
    }
    exchange.wait_for("config_generation{shard=\"0\"}", 1);
    // Mended, it is taken on.
    exchange.configure(&good.replace("[auction]\n", "[auction]\nincrement_micros = 7\n"));
    assert_eq!(exchange.reload().status, 200);
    exchange.wait_for("config_last_reload_successful", 1);
    exchange.wait_for("config_generation{shard=\"0\"}", 2);
    assert_ne!(hash(&exchange), before.0);
}

#[test]
fn a_process_that_drains_takes_nothing_on() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |asked| {
        waits.wait();
        bid(&asked.id(), "1")
    });
    let setup = Setup {
        server: "drain_ms = 15000",
        ..Setup::of([Dsp::new("d", dsp.port)])
    };
    let mut exchange = Exchange::start(&setup);
    let mut ssp = exchange.connect();
    ssp.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    exchange.signal("TERM");
    assert!(eventually(|| exchange.admin("/readyz").status == 503));
    let answer = exchange.reload();
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (409, "draining; nothing has changed\n")
    );
    // Nor does a signal disturb it, which would end a process that does not know it.
    exchange.signal("HUP");
    gate.open();
    assert_eq!(ssp.answer().status, 200);
    assert_eq!(exchange.wait().code(), Some(0));
}

/// What is in flight has its DSPs to the end, however many reloads come between.
#[test]
fn a_request_in_flight_finishes_by_the_configuration_it_met() {
    let gate = Gate::default();
    let waits = gate.clone();
    let old = Scripted::start(move |asked| {
        waits.wait();
        bid(&asked.id(), "2")
    });
    let new = bidding("1");
    let exchange = Exchange::start(&Setup {
        auction: format!("{NO_HURRY}increment_micros = 0\n"),
        ..Setup::of([Dsp::new("old", old.port)])
    });
    let mut in_flight = exchange.connect();
    in_flight.send(post("", REQUEST));
    assert!(eventually(|| old.asked().len() == 1));
    // One that has been accepted, and of whose body only a part is there.
    let mut half = exchange.connect();
    let whole = post("", REQUEST);
    half.send(&whole[..whole.len() - 5]);
    exchange.wait_for("in_flight", 2);
    for n in 1..=3 {
        exchange.reloads(&Setup {
            auction: format!("{NO_HURRY}increment_micros = {n}\nfloor_rule = \"above\"\n"),
            ..Setup::of([Dsp::new("new", new.port)])
        });
        assert_eq!(exchange.sells().0, "new");
    }
    half.send(&whole[whole.len() - 5..]);
    assert!(
        eventually(|| old.asked().len() == 2),
        "it met the first configuration"
    );
    exchange.wait_for("connections{side=\"dsp\",dsp=\"old\",state=\"active\"}", 2);
    gate.open();
    for ssp in [&mut in_flight, &mut half] {
        let answer: Value = serde_json::from_slice(&ssp.answer().body).unwrap();
        assert_eq!(answer["seatbid"][0]["seat"], "old");
        assert_eq!(answer["seatbid"][0]["bid"][0]["price"].to_string(), "0");
    }
    // Then nobody needs its connections any more.
    exchange.wait_until("the connections are closed", |metrics| {
        !metrics.0.contains("corebid_connections{side=\"dsp\",dsp=\"old\"")
    });
    exchange.wait_for("dsp_calls_total{dsp=\"old\",outcome=\"bid\"}", 2);
    // What had been on these connections is served on.
    assert_eq!(in_flight.bid(REQUEST).status, 200);
}

/// A handshake takes longer than a call may: without connections from before, the first calls would be lost.
#[test]
fn dsps_that_come_are_warm_before_they_are_asked() {
    for alpn in ["http/1.1", "h2"] {
        let profile = Profile {
            count: 2,
            scale_latency: 0.0,
            bid_share: 1.0,
            ..Profile::default()
        };
        let dsps = Dsps::start(dsps::Options {
            profile,
            faults: vec![(0, Fault::HandshakeLate(700)), (1, Fault::HandshakeLate(700))],
            tls: Some(TlsOptions {
                alpn: vec![alpn.to_owned()],
                ..TlsOptions::default()
            }),
            ..dsps::Options::default()
        })
        .unwrap();
        let root = TempFile::new("pem", dsps.root().unwrap());
        let setup = |count: usize| Setup {
            tls: format!("roots = \"{}\"\n", root.0.display()),
            fanout: "warm_up_ms_max = 10000",
            ..Setup::of((1..).zip(&dsps.ports()[..count]).map(|(number, port)| Dsp {
                scheme: "https",
                more: "timeout_ms = 550\nwarm_connections = 4\n",
                ..Dsp::new(format!("dsp{number}"), *port)
            }))
        };
        let exchange = Exchange::start(&setup(1));
        let handshakes = |metrics: &Metrics| {
            let of = |outcome| {
                metrics.sum(&format!(
                    "dsp_handshakes_total{{dsp=\"dsp1\",outcome=\"{outcome}\"}}"
                ))
            };
            of("full") + of("resumed")
        };
        let open = if alpn == "h2" { 1 } else { 4 };
        exchange.wait_until("it is warm", |metrics| handshakes(metrics) == open);
        exchange.reloads(&setup(2));
        for _ in 0..4 {
            assert_eq!(exchange.bid(REQUEST).status, 200);
        }
        exchange.wait_for("dsp_calls_total{dsp=\"dsp2\"", 4);
        let metrics = exchange.metrics();
        for dsp in 1..=2 {
            let bids = format!("dsp_calls_total{{dsp=\"dsp{dsp}\",outcome=\"bid\"}}");
            assert_eq!(metrics.sum(&bids), 4, "{alpn}: {}", metrics.calls());
        }
        assert_eq!(
            handshakes(&metrics),
            open,
            "{alpn}: the certificates are the same"
        );
    }
}

/// Reloads as fast as they go, one asked for before the other has ended.
#[test]
fn reloads_at_once_share_rounds() {
    let dsp = bidding("1");
    let exchange = Exchange::start(&Setup {
        server: "shards = 2",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let generations = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let answer = exchange.reload();
                assert_eq!(answer.status, 200, "{}", answer.text());
                let answer: Value = serde_json::from_slice(&answer.body).unwrap();
                generations
                    .lock()
                    .unwrap()
                    .push(answer["generation"].as_u64().unwrap());
            });
        }
        for _ in 0..100 {
            exchange.signal("HUP");
        }
    });
    let generations = generations.into_inner().unwrap();
    let newest = *generations.iter().max().unwrap();
    assert!(newest < 16, "they share: {generations:?}");
    exchange.wait_until("both shards serve the newest", |metrics| {
        let on = |shard| metrics.sum(&format!("config_generation{{shard=\"{shard}\"}}"));
        on(0) >= newest && on(0) == on(1)
    });
}

const DSPS: u16 = 8;

/// These are asked or not, as reloads have it: the oracle knows that their bids may be missing.
const COME_AND_GO: &str = "slow:1@7-8";

/// The `n`th configuration under load: other DSPs, in another order, by other ways and times; what an SSP gets must be
/// right by all of them.
fn under_load(ports: &[u16], n: usize) -> Setup {
    let dsp = |(number, port): (usize, &u16)| {
        // Half of them speak HTTP/2, two change their minds, one its encoding, all of them their time.
        let h2 = number % 2 == 0 || ((3..=4).contains(&number) && (n / 2).is_multiple_of(2));
        let gzip = number == 5 && n.is_multiple_of(2);
        Dsp {
            more: "warm_connections = 4\n",
            tls: format!(
                "protocol = \"{}\"\ngzip = {gzip}\ntimeout_ms = {}\nmax_connections = {}\n",
                if h2 { "h2" } else { "h1" },
                // More than a busy machine needs: only what a reload does may cost a bid.
                6_000 + n % 5,
                500 + n % 3,
            ),
            ..Dsp::new(format!("dsp{number}"), *port)
        }
    };
    let asked = if n.is_multiple_of(3) {
        ports.len() - 2
    } else {
        ports.len()
    };
    let mut dsps: Vec<_> = (1..).zip(&ports[..asked]).map(dsp).collect();
    if n % 2 == 1 {
        dsps.reverse();
    }
    Setup {
        server: match n % 7 {
            0 => "shards = 2\nmax_response_bytes = 200000\nbalance = false",
            1 => "shards = 2\nmax_in_flight = 10000",
            _ => "shards = 2",
        },
        auction: "deadline_ms = 7000\nfloor_rule = \"above\"\n".to_owned(),
        fanout: if n.is_multiple_of(2) {
            "epoch_us_max = 0"
        } else {
            ""
        },
        dsps,
        ..Setup::default()
    }
}

fn reload_under_load(over_h2: bool, length: Duration) {
    let profile = Profile {
        count: DSPS,
        scale_latency: 0.5,
        ..Profile::default()
    };
    let dsps = Dsps::start(dsps::Options {
        profile,
        ..dsps::Options::default()
    })
    .unwrap();
    let exchange = Exchange::start(&under_load(dsps.ports(), 1));
    let seconds = length.as_secs_f64();
    let scenario = TempFile::new(
        "toml",
        &format!(
            "[run]\nrate = 100\nwarmup = 0.3\narrivals = \"poisson\"\n\
             [dsps]\ncount = {DSPS}\nscale_latency = 0.5\n\
             [bid_requests]\nbody_bytes = 1300\nimps = 1\ntmax = 7200\n\
             [exchange]\ndeadline_ms = 7000\ndsp_timeout_ms = 6000\nfloor_rule = \"above\"\n\
             [[phase]]\nname = \"reloads\"\nduration = {seconds}\nfaults = [\"{COME_AND_GO}\"]\n"
        ),
    );
    let mut args = generate::Args {
        scenario: Some(scenario.0.clone()),
        ..generate::Args::default()
    };
    args.run.target = Some(format!("http://{}", exchange.listen));
    args.run.timeout_ms = Some(60_000);
    args.run.h2_connections = over_h2.then_some(2);
    let ended = AtomicBool::new(false);
    let mut reloads = 0;
    let mut usage = Vec::new();
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let report = generate::measure(&args.check().unwrap()).unwrap();
            ended.store(true, Ordering::Relaxed);
            report
        });
        // Behind the warm-up, of which the oracle thinks that all are asked.
        thread::sleep(Duration::from_secs(1));
        while !ended.load(Ordering::Relaxed) {
            reloads += 1;
            exchange.configure(&under_load(dsps.ports(), reloads).toml());
            if reloads % 4 == 0 {
                exchange.configure("[server]\nlisten = 7\n");
                assert_eq!(exchange.reload().status, 400);
            } else if reloads % 10 == 5 {
                exchange.signal("HUP");
            } else {
                let answer = exchange.reload();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            usage.push(exchange.usage());
            thread::sleep(Duration::from_millis(50));
        }
        load.join().unwrap()
    });
    assert!(report.is_clean(), "{}\n{:?}", report.to_table(), report.examples);
    assert!(
        report.measured.requests as f64 > 50.0 * seconds,
        "{}",
        report.to_table()
    );
    let metrics = exchange.metrics();
    // Nothing was lost on the way to the DSPs that were always asked: no connection was missing, none broke.
    for dsp in 1..=6 {
        for outcome in ["error", "throttled", "invalid", "timeout"] {
            let calls = format!("dsp_calls_total{{dsp=\"dsp{dsp}\",outcome=\"{outcome}\"}}");
            assert_eq!(metrics.sum(&calls), 0, "{calls}\n{}", metrics.calls());
        }
    }
    let calls = metrics.sum("dsp_calls_total{dsp=\"dsp1\"");
    assert!(calls >= report.measured.requests, "its counter goes on");
    let applied = metrics.sum("config_reloads_total{result=\"applied\"}");
    // A dozen and more, but on a machine that is too busy for it.
    assert!(applied >= 2, "{applied} reloads in {seconds} s");
    println!(
        "over {}: {} requests, {applied} reloads, {} refused; files and kB resident: {:?} .. {:?}",
        if over_h2 { "h2" } else { "h1" },
        report.measured.requests,
        metrics.sum("config_reloads_total{result=\"refused\"}"),
        usage[usage.len() / 3],
        usage[usage.len() - 1],
    );
    // What DSPs that left had is given back.
    exchange.reloads(&under_load(dsps.ports(), 3));
    exchange.wait_until("the connections of who left are closed", |metrics| {
        !metrics
            .0
            .contains("corebid_connections{side=\"dsp\",dsp=\"dsp7\"")
    });
}

/// Length of the runs below, in seconds: `COREBID_RELOAD_SECONDS=60 cargo test --release --test it reload::`.
fn seconds() -> Duration {
    let seconds = std::env::var("COREBID_RELOAD_SECONDS");
    Duration::from_secs(seconds.map_or(6, |seconds| seconds.parse().unwrap()))
}

#[test]
fn reloads_under_load_lose_nothing_over_h1() {
    reload_under_load(false, seconds());
}

#[test]
fn reloads_under_load_lose_nothing_over_h2() {
    reload_under_load(true, seconds());
}

/// `COREBID_RELOADS=1000` for as many; each takes a twentieth of a second, in which shards look for commands.
#[test]
fn many_reloads_leave_nothing_behind() {
    let count: usize = std::env::var("COREBID_RELOADS").map_or(60, |count| count.parse().unwrap());
    let gate = Gate::default();
    gate.open();
    let (stays, comes) = (bidding("1"), bidding("2"));
    let setup = |n: usize| {
        let other = Dsp {
            path: format!("/{n}"),
            more: "timeout_ms = 8000\nwarm_connections = 2\n",
            // Of a name of its own each time: that must not grow anything without bound either.
            ..Dsp::new(format!("dsp{n}"), comes.port)
        };
        Setup::of([Dsp::new("stays", stays.port), other])
    };
    let exchange = Exchange::start(&setup(0));
    let mut settled = Vec::new();
    let began = Instant::now();
    for n in 1..=count {
        exchange.reloads(&setup(n));
        assert_eq!(exchange.sells().0, format!("dsp{n}"));
        // By then as many DSPs as are ever remembered have come and gone, or half of them all.
        if n >= 80.min(count / 2) {
            settled.push(exchange.usage());
        }
        if n.is_multiple_of(100) {
            println!("after {n}: {:?}", exchange.usage());
        }
    }
    let took = began.elapsed();
    let files_before = settled[0].0;
    let mut after = exchange.usage();
    assert!(
        eventually(|| {
            after = exchange.usage();
            after.0 <= files_before + 4
        }),
        "files: {files_before}, then {after:?}"
    );
    // An allocator returns pages when it likes: one look differs from the next by megabytes, a third of all looks does not.
    let kb_of = |looks: &[(usize, usize)]| {
        let mut kb: Vec<_> = looks.iter().map(|(_, kb)| *kb).collect();
        kb.sort_unstable();
        kb[kb.len() / 2]
    };
    let third = settled.len() / 3;
    let (kb_before, kb_after) = (kb_of(&settled[..third]), kb_of(&settled[settled.len() - third..]));
    println!(
        "{count} reloads in {took:?}: {files_before} files, then {}; in the first third {kb_before} kB, in the last {kb_after} kB",
        after.0
    );
    if count > 200 {
        assert!(kb_after < kb_before + 8_192, "kB: {kb_before}, then {kb_after}");
    }
    assert_eq!(stays.connections(), 1);
    let metrics = exchange.metrics();
    let names = metrics
        .0
        .matches("corebid_dsp_late_would_have_won_total{")
        .count();
    assert!(names <= 2 + 64 + 1, "{names} DSPs are told of");
    exchange.wait_for("dsp_calls_total{dsp=\"stays\",outcome=\"bid\"}", count as u64);
}
