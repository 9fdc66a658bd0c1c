//! Faults on purpose: what each layer of supervision promises, and all of them at once under load.

use std::os::unix::net::UnixDatagram;
use std::thread;
use std::time::Duration;

use crate::client::{Answer, Http, post};
use crate::handover::{Lineage, dsp, setup, under_load};
use crate::harness::{Dsp, Exchange, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// With these lines in `[rehearsal]`.
fn rehearsing(setup: &Setup, lines: &str) -> String {
    format!("[rehearsal]\nenabled = true\n{lines}\n{}", setup.toml())
}

fn rehearse(exchange: &Exchange, what: &str) -> Answer {
    let mut http = Http::connect(exchange.admin);
    http.send(format!(
        "POST /rehearse?{what} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"
    ));
    http.answer()
}

#[test]
fn nothing_is_rehearsed_unless_the_configuration_says_so() {
    let dsps = dsp();
    let exchange = Exchange::start(&setup("", dsps.ports()[0]));
    assert_eq!(rehearse(&exchange, "shard=0&fault=die").status, 403);
    assert_eq!(exchange.metrics().sum("rehearsal "), 0);

    let exchange = Exchange::serve(&rehearsing(&setup("", dsps.ports()[0]), ""));
    assert!(exchange.log().contains("THIS IS A REHEARSAL"));
    assert_eq!(exchange.metrics().sum("rehearsal "), 1);
    for wrong in ["", "shard=0", "shard=x&fault=die", "shard=0&fault=dye"] {
        assert_eq!(rehearse(&exchange, wrong).status, 400, "{wrong}");
    }
}

#[test]
fn a_panic_at_any_stage_costs_its_request() {
    let dsps = dsp();
    for stage in ["parse", "plan", "fanout", "offers", "auction", "write"] {
        let lines = format!("panic_stage = \"{stage}\"\npanics_per_million = 500000");
        let exchange = Exchange::serve(&rehearsing(&setup("", dsps.ports()[0]), &lines));
        let mut ssp = exchange.connect();
        let statuses: Vec<_> = (0..40).map(|_| ssp.bid(REQUEST).status).collect();
        let panicked = statuses.iter().filter(|&&status| status == 204).count();
        assert!(
            statuses.iter().all(|status| [200, 204].contains(status)),
            "{stage}: {statuses:?}"
        );
        assert!((5..=35).contains(&panicked), "{stage}: {panicked} of 40");
        exchange.wait_for("panics_total{layer=\"request\"}", panicked as u64);
        exchange.wait_for("in_flight", 0);
        assert_eq!(exchange.metrics().sum("shard_restarts_total"), 0);
    }
}

#[test]
fn a_shard_that_breaks_finishes_what_it_has_while_another_serves() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |asked| {
        if !asked.id().contains("quick") {
            waits.wait();
        }
        Does::NoBid
    });
    let exchange = Exchange::serve(&rehearsing(
        &Setup {
            server: "drain_ms = 15000",
            ..Setup::of([Dsp::new("d", dsp.port)])
        },
        "",
    ));
    let mut in_flight = exchange.connect();
    let mut idle = exchange.connect();
    idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    in_flight.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    assert_eq!(rehearse(&exchange, "shard=0&fault=break").status, 202);
    exchange.wait_for("shard_restarts_total", 1);
    exchange.wait_for("panics_total{layer=\"shard\"}", 1);
    exchange.wait_for("rehearsals_total{fault=\"break\"}", 1);
    // The next serves, the last one answers.
    assert_eq!(exchange.bid(REQUEST.replace("\"r\"", "\"quick\"")).status, 204);
    idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.answer().header("connection"), Some("close"));
    gate.open();
    let answer = in_flight.answer();
    assert_eq!((answer.status, answer.header("connection")), (204, Some("close")));
    assert_eq!(exchange.admin("/readyz").status, 200);
}

#[test]
fn a_shard_that_dies_closes_its_connections_and_leaves_no_descriptor() {
    let dsps = dsp();
    let exchange = Exchange::serve(&rehearsing(
        &setup("shards = 2\nrestarts_max = 20", dsps.ports()[0]),
        "",
    ));
    let die = |times: u64| {
        // On both shards, by the kernel's hash or ours.
        let mut ssp: Vec<_> = (0..8).map(|_| exchange.connect()).collect();
        for connection in &mut ssp {
            assert_eq!(connection.bid(REQUEST).status, 200);
        }
        assert_eq!(rehearse(&exchange, "shard=0&fault=die").status, 202);
        exchange.wait_for("shard_restarts_total", times);
        let closed = eventually(|| ssp.iter().filter(|ssp| ssp.is_closed_now()).count() >= 4);
        assert!(closed, "its connections are open, with nobody to answer");
        // Those of the other are served.
        let still = ssp
            .iter_mut()
            .filter(|ssp| !ssp.is_closed_now())
            .map(|ssp| ssp.bid(REQUEST).status);
        assert!(still.into_iter().all(|status| status == 200));
        drop(ssp);
        exchange.wait_for("ssp_connections", 0);
    };
    // Of the 40 sockets and 16 rings and sets of four more deaths none. An eventfd of each: glommio's bell for other threads,
    // which the wakers of the dead executor's tasks hold, and nobody drops those.
    let open = || {
        let (bells, others): (Vec<_>, Vec<_>) = exchange
            .descriptors()
            .into_iter()
            .partition(|what| what == "anon_inode:[eventfd]");
        (bells.len(), others.len())
    };
    die(1);
    let (bells, others) = open();
    for times in 2..6 {
        die(times);
    }
    // Each of the two shards may have a connection to the DSP that it had not then.
    let is_as_before = || open().0 <= bells + 4 && open().1 <= others + 2;
    assert!(
        eventually(is_as_before),
        "{bells} and {others}, then {:?}: {:#?}",
        open(),
        exchange.descriptors()
    );
}

#[test]
fn too_many_deaths_end_the_process() {
    let dsps = dsp();
    let mut exchange = Exchange::serve(&rehearsing(&setup("restarts_max = 2", dsps.ports()[0]), ""));
    for restarts in 1..3 {
        rehearse(&exchange, "shard=0&fault=die");
        exchange.wait_for("shard_restarts_total", restarts);
    }
    rehearse(&exchange, "shard=0&fault=die");
    assert_eq!(exchange.wait().code(), Some(1));
    assert!(exchange.log().contains("shards die too often"));
}

#[test]
fn a_shard_that_stands_still_is_told_of() {
    let dsps = dsp();
    let exchange = Exchange::serve(&rehearsing(&setup("", dsps.ports()[0]), ""));
    rehearse(&exchange, "shard=0&fault=stall&ms=2500");
    assert!(eventually(|| exchange.log().contains("the shard stands still")));
    assert_eq!(exchange.bid(REQUEST).status, 200);
}

/// Half of systemd's time; what it is told then would keep it from what it is there for.
#[test]
fn while_a_shard_stands_still_systemd_has_no_sign_of_life() {
    let dsps = dsp();
    let path = std::env::temp_dir().join(format!("corebid-it-watchdog-{}", std::process::id()));
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_nonblocking(true).unwrap();
    let environment = [
        ("NOTIFY_SOCKET", path.to_str().unwrap()),
        ("WATCHDOG_USEC", "1000000"),
    ];
    let exchange = Exchange::serve_as_a_group(
        &rehearsing(&setup("shards = 2", dsps.ports()[0]), ""),
        &environment,
    );
    let signs = || {
        let mut bytes = [0; 300];
        let heard = std::iter::from_fn(|| systemd.recv(&mut bytes).ok().map(|count| bytes[..count].to_vec()));
        heard.filter(|said| said == b"WATCHDOG=1").count()
    };
    assert!(eventually(|| signs() > 0));
    rehearse(&exchange, "shard=1&fault=stall&ms=6000");
    assert!(eventually(|| exchange.log().contains("the shard stands still")));
    signs();
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(signs(), 0);
    assert!(eventually(|| signs() > 0), "it turns again");
    std::fs::remove_file(path).unwrap();
}

/// More than a shard accepts in one turn of its loop.
#[test]
fn who_waited_to_be_accepted_when_a_shard_is_told_to_drain_is_answered() {
    let dsps = dsp();
    let mut exchange = Exchange::serve(&rehearsing(&setup("", dsps.ports()[0]), ""));
    assert_eq!(rehearse(&exchange, "shard=0&fault=stall&ms=2000").status, 202);
    // By then it has heard of it.
    thread::sleep(Duration::from_millis(300));
    let mut waiting: Vec<_> = (0..300).map(|_| exchange.connect()).collect();
    for ssp in &mut waiting {
        ssp.send(post("", REQUEST));
    }
    exchange.signal("TERM");
    for ssp in &mut waiting {
        assert_eq!(ssp.answer().status, 200);
    }
    assert_eq!(exchange.wait().code(), Some(0));
}

/// The short form of `loadtest/chaos.sh`.
#[test]
fn all_at_once_and_no_request_fails() {
    let dsps = dsp();
    let setup = setup("shards = 2\nrestarts_max = 100", dsps.ports()[0]);
    let lines = "panics_per_million = 20000";
    let lineage = Lineage(Exchange::serve_as_a_group(&rehearsing(&setup, lines), &[]));
    assert!(eventually(|| !lineage.logged("ready").is_empty()));
    let asked = under_load(&lineage.0, &[200, 204], || {
        for round in 0..6 {
            thread::sleep(Duration::from_millis(200));
            let url = format!("shard={}&fault=break", round % 2);
            assert_eq!(rehearse(&lineage.0, &url).status, 202);
            let more = format!("{lines}\nseed = {}", round + 2);
            lineage.0.configure(&rehearsing(&setup, &more));
            assert_eq!(lineage.0.reload().status, 200);
            if round % 2 == 1 {
                lineage.hand_over();
            }
        }
    });
    assert!(asked > 50, "{asked}");
    assert_eq!(lineage.pids().len(), 4);
}
