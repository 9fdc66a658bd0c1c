//! Start, drain, end: what an operator and systemd see.

use corebid_loadtest::simulated::Profile;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::client::{Http, post};
use crate::harness::{
    Dsp, Exchange, PATIENCE, Reaped, Setup, TempFile, corebid, eventually, kill, run_to_end,
};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// A DSP that answers when the gate is open.
fn gated() -> (Scripted, Gate) {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |asked| {
        waits.wait();
        let id = asked.id();
        Does::Answers(format!(
            r#"{{"id":"{id}","seatbid":[{{"bid":[{{"id":"b","impid":"1","price":1,"adm":"x"}}]}}]}}"#
        ))
    });
    (dsp, gate)
}

fn in_flight(server: &'static str) -> (Exchange, Http, Scripted, Gate) {
    let (dsp, gate) = gated();
    let exchange = Exchange::start(&Setup {
        server,
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let mut ssp = exchange.connect();
    ssp.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    (exchange, ssp, dsp, gate)
}

#[test]
fn sigterm_finishes_what_is_in_flight() {
    for signal in ["TERM", "INT"] {
        let (mut exchange, mut ssp, _dsp, gate) = in_flight("drain_ms = 15000");
        let mut idle = exchange.connect();
        assert_eq!(exchange.admin("/readyz").status, 200);
        idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(idle.answer().status, 200);
        exchange.signal(signal);
        assert!(eventually(|| exchange.admin("/readyz").status == 503), "{signal}");
        assert_eq!(exchange.admin("/healthz").status, 200);
        assert!(idle.is_closed(), "idle connections are closed");
        assert!(
            eventually(|| std::net::TcpStream::connect(exchange.listen).is_err()),
            "no more connections are taken"
        );
        assert_eq!(exchange.try_wait(), None);
        gate.open();
        let answer = ssp.answer();
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(ssp.is_closed());
        assert_eq!(exchange.wait().code(), Some(0), "{signal}");
    }
}

/// A client that has a connection open may be sending on it at the very moment: it is answered, and told to go.
#[test]
fn a_request_that_crosses_with_the_drain_is_answered() {
    let (mut exchange, mut in_flight, _dsp, gate) = in_flight("drain_ms = 15000");
    let mut silent = exchange.connect();
    let mut idle = exchange.connect();
    idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.answer().header("connection"), None);
    exchange.signal("TERM");
    assert!(eventually(|| {
        std::net::TcpStream::connect(exchange.listen).is_err()
    }));
    for connection in [&mut idle, &mut silent] {
        connection.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
        let answer = connection.answer();
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")));
        assert!(connection.is_closed());
    }
    gate.open();
    assert_eq!(in_flight.answer().status, 200);
    assert_eq!(exchange.wait().code(), Some(0));
}

#[test]
fn connections_are_accepted_for_as_long_as_a_load_balancer_needs_to_notice() {
    let (dsp, gate) = gated();
    gate.open();
    let mut exchange = Exchange::start(&Setup {
        server: "drain_delay_ms = 2500",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let start = Instant::now();
    exchange.signal("TERM");
    assert!(eventually(|| exchange.admin("/readyz").status == 503));
    // On a machine that is busy enough the delay may be all but over.
    if start.elapsed() < Duration::from_millis(1000) {
        let answer = exchange.bid(REQUEST);
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    assert_eq!(exchange.wait().code(), Some(0));
    assert!(start.elapsed() >= Duration::from_millis(2500));

    // And a second signal does not wait for it.
    let mut exchange = Exchange::start(&Setup {
        server: "drain_delay_ms = 60000",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    exchange.signal("TERM");
    assert!(eventually(|| exchange.admin("/readyz").status == 503));
    exchange.signal("TERM");
    assert_eq!(exchange.wait().code(), Some(1));
}

#[test]
fn draining_ends_when_its_time_is_over() {
    let (mut exchange, mut ssp, _dsp, gate) = in_flight("drain_ms = 300");
    let start = Instant::now();
    exchange.signal("TERM");
    assert_eq!(exchange.wait().code(), Some(0));
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(300) && took < Duration::from_secs(5),
        "{took:?}"
    );
    assert!(ssp.is_closed(), "cut off");
    gate.open();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let (mut exchange, mut ssp, _dsp, gate) = in_flight("drain_ms = 60000");
    exchange.signal("TERM");
    assert!(eventually(|| exchange.admin("/readyz").status == 503));
    let start = Instant::now();
    exchange.signal("TERM");
    let status = exchange.wait();
    assert!(!status.success(), "{status}");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert!(ssp.is_closed());
    gate.open();
}

#[test]
fn draining_can_be_asked_for_on_the_admin_port() {
    let (dsp, gate) = gated();
    gate.open();
    let mut exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    assert_eq!(exchange.bid(REQUEST).status, 200);
    let mut admin = Http::connect(exchange.admin);
    admin.send("POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
    assert!((200..300).contains(&admin.answer().status));
    assert_eq!(exchange.wait().code(), Some(0));
}

/// What Kubernetes does: a preStop hook that calls `/drain`, then SIGTERM.
#[test]
fn a_signal_after_the_admin_port_asked_is_the_first_signal() {
    let (mut exchange, mut ssp, _dsp, gate) = in_flight("drain_ms = 15000");
    for _ in 0..2 {
        let mut admin = Http::connect(exchange.admin);
        admin.send("POST /drain HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n");
        assert!((200..300).contains(&admin.answer().status));
    }
    assert!(eventually(|| exchange.admin("/readyz").status == 503));
    exchange.signal("TERM");
    gate.open();
    assert_eq!(ssp.answer().status, 200, "what is in flight is still finished");
    assert_eq!(exchange.wait().code(), Some(0));
}

#[test]
fn sixteen_shards_share_two_cores() {
    let (dsp, gate) = gated();
    gate.open();
    let mut exchange = Exchange::start(&Setup {
        server: "shards = 16",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    // The kernel spreads connections by hash: a hundred leave a shard out once in 40 times, two once in 1,000.
    for _ in 0..100 {
        assert_eq!(exchange.bid(REQUEST).status, 200);
    }
    exchange.wait_for("requests_total{status=\"200\"}", 100);
    let metrics = exchange.metrics();
    for shard in 0..16 {
        assert!(
            metrics
                .0
                .contains(&format!("corebid_in_flight{{shard=\"{shard}\"}}"))
        );
    }
    assert!(dsp.connections() > 8, "{} shards were asked", dsp.connections());
    exchange.signal("TERM");
    assert_eq!(exchange.wait().code(), Some(0));
}

/// Nobody is refused, and the shard does something else than try again.
#[test]
fn without_descriptors_who_connects_waits() {
    let (dsp, gate) = gated();
    gate.open();
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    let mut before = exchange.connect();
    assert_eq!(before.bid(REQUEST).status, 200);
    let limit = |descriptors: usize| {
        let status = std::process::Command::new("prlimit")
            .args(["--pid", &exchange.pid().to_string()])
            .arg(format!("--nofile={descriptors}:"))
            .status();
        assert!(status.unwrap().success());
    };
    let (open, _) = exchange.usage();
    limit(open + 2);
    let mut waiting: Vec<_> = (0..40).map(|_| exchange.connect()).collect();
    for ssp in &mut waiting {
        ssp.send(post("", REQUEST));
    }
    assert!(eventually(|| exchange.log().contains("cannot accept")));
    // Not a bid, if its DSP has to be connected to.
    let is_served = |status| [200, 204].contains(&status);
    assert!(is_served(before.bid(REQUEST).status), "who is in is served");
    std::thread::sleep(Duration::from_millis(500));
    let said = exchange.log().matches("cannot accept").count();
    assert!(said < 5, "{said} times, not fifty a second");
    limit(1024);
    for ssp in &mut waiting {
        assert!(is_served(ssp.answer().status));
    }
    assert!(eventually(|| exchange.log().contains("accepting again")));
}

#[test]
fn check_lists_every_error_at_once() {
    let good = Setup::of([Dsp::new("d", 9001)]).toml();
    let checked = run_to_end(&good, &["--check"]);
    assert_eq!(checked.status.code(), Some(0), "{checked:?}");
    assert!(String::from_utf8_lossy(&checked.stdout).contains("good; 1 DSP"));

    let bad = "[server]\nlisten = \"nowhere\"\nshard = 1\n[auction]\ncurrency = \"usd\"\n\
               [[dsp]]\nname = \"d\"\nendpoint = \"ftp://x\"\n";
    for more in [&["--check"][..], &[]] {
        let checked = run_to_end(bad, more);
        assert_eq!(checked.status.code(), Some(2), "{checked:?}");
        let errors = String::from_utf8_lossy(&checked.stderr);
        for key in [
            "server.listen",
            "server.shard: unknown key; did you mean shards?",
            "auction.currency",
            "dsp[0].endpoint",
        ] {
            assert!(errors.contains(key), "{key} in {errors}");
        }
    }
    // Well-formed, but nothing to start with: all of that at once as well.
    let bad = "[[dsp]]\nname = \"a\"\nendpoint = \"http://a.invalid/\"\n\
               [[dsp]]\nname = \"b\"\nendpoint = \"http://b.invalid/\"\n";
    let checked = run_to_end(bad, &["--check"]);
    assert_eq!(checked.status.code(), Some(2), "{checked:?}");
    let errors = String::from_utf8_lossy(&checked.stderr);
    assert!(
        errors.contains("a.invalid") && errors.contains("b.invalid"),
        "{errors}"
    );
}

#[test]
fn a_port_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (key, other) in [("listen", "admin"), ("admin", "listen")] {
        let toml = format!(
            "[server]\nshards = 1\n{key} = \"{address}\"\n{other} = \"127.0.0.1:0\"\n\
             [[dsp]]\nname = \"d\"\nendpoint = \"http://127.0.0.1:9/\"\n"
        );
        let start = Instant::now();
        let ended = run_to_end(&toml, &[]);
        assert!(start.elapsed() < PATIENCE);
        assert_eq!(ended.status.code(), Some(1), "{key}: {ended:?}");
        let errors = String::from_utf8_lossy(&ended.stderr);
        assert!(errors.contains(&address), "{key}: {address} in {errors}");
    }
}

/// With SO_REUSEPORT a second process would share the first one's traffic without a word.
#[test]
fn two_exchanges_do_not_share_a_port_by_accident() {
    let (dsp, _gate) = gated();
    let first = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    let toml = format!(
        "[server]\nshards = 1\nlisten = \"{}\"\nadmin = \"127.0.0.1:0\"\ndrain_ms = 0\n\
         [[dsp]]\nname = \"d\"\nendpoint = \"http://127.0.0.1:9/\"\n",
        first.listen
    );
    let config = TempFile::new("toml", &toml);
    let second = corebid(&["serve", "--config", config.0.to_str().unwrap()])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut second = Reaped(second);
    let ended = eventually(|| second.0.try_wait().unwrap().is_some());
    assert!(ended, "it runs beside the first");
    assert_eq!(second.0.wait().unwrap().code(), Some(1));
    let mut errors = String::new();
    second
        .0
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut errors)
        .unwrap();
    assert!(errors.contains(&first.listen.to_string()), "{errors}");
}

/// What the README tells a newcomer to do, and what the demo tells them then.
#[test]
fn the_demo_does_what_it_says() {
    let child = corebid(&["demo"])
        .env("COREBID_SERVER__LISTEN", "127.0.0.1:0")
        .env("COREBID_SERVER__ADMIN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut demo = Reaped(child);
    let mut said = String::new();
    let mut lines = BufReader::new(demo.0.stdout.take().unwrap());
    while !said.contains("curl") || !said.ends_with("ends it.\n") {
        assert_ne!(lines.read_line(&mut said).unwrap(), 0, "it ended: {said}");
    }
    let between = |from: &str, to: &str| {
        let after = said
            .split_once(from)
            .unwrap_or_else(|| panic!("{from} in {said}"))
            .1;
        after.split_once(to).unwrap().0.to_owned()
    };
    let address = between("curl -i http://", "/openrtb2/auction").parse().unwrap();
    let request = between(" -d '", "'\n");
    // The winner pays a micro more than the best bid of another DSP, all of which can be worked out. Should a DSP take too
    // long on a busy machine, the next auction will do.
    let profile = Profile::default();
    let mut prices: Vec<_> = (0..profile.count)
        .filter_map(|dsp| profile.bid(dsp, b"demo-1", b"1"))
        .map(|bid| bid.price_micros)
        .collect();
    prices.sort_unstable();
    let clearing = prices[prices.len() - 2] + 1;
    let clearing = format!("{}.{:06}", clearing / 1_000_000, clearing % 1_000_000);
    let price = format!(r#""price":{},"#, clearing.trim_end_matches('0'));
    let mut ssp = Http::connect(address);
    let sells = |ssp: &mut Http| {
        let answer = ssp.bid(&request);
        answer.status == 200 && String::from_utf8_lossy(&answer.body).contains(&price)
    };
    assert!(eventually(|| sells(&mut ssp)), "not sold for {price}: {said}");
    let mut admin = Http::connect(between("/ and http://", "/metrics").parse().unwrap());
    admin.send("GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(admin.answer().status, 200);
    kill("TERM", &demo.0);
    assert!(eventually(|| demo.0.try_wait().unwrap().is_some()));
    assert_eq!(demo.0.wait().unwrap().code(), Some(0));
}
