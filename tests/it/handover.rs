//! Handover: a new process takes the sockets of an old one, and nobody on the other side of them notices.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use corebid::clock;
use corebid_loadtest::dsps::{self, Dsps};
use corebid_loadtest::simulated::Profile;

use crate::balance::{H2, on_runtime};
use crate::client::{Http, post};
use crate::harness::{Dsp, Exchange, NO_HURRY, PATIENCE, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// A DSP that always bids and answers at once.
pub(crate) fn dsp() -> Dsps {
    Dsps::start(dsps::Options {
        profile: Profile {
            count: 1,
            bid_share: 1.0,
            scale_latency: 0.0,
            ..Profile::default()
        },
        ..dsps::Options::default()
    })
    .unwrap()
}

pub(crate) fn setup(server: &'static str, port: u16) -> Setup {
    Setup {
        server,
        ..Setup::of([Dsp {
            more: "timeout_ms = 8000\nmax_connections = 1000\n",
            ..Dsp::new("d", port)
        }])
    }
}

/// An exchange and those that have taken over from it.
pub(crate) struct Lineage(pub(crate) Exchange);

impl Lineage {
    pub(crate) fn start(setup: &Setup) -> Self {
        let lineage = Self(Exchange::serve_as_a_group(&setup.toml(), &[]));
        // Its address is known a moment before its line is in the log.
        assert!(eventually(|| !lineage.logged("ready").is_empty()));
        lineage
    }

    /// In the order in which they began to serve.
    pub(crate) fn pids(&self) -> Vec<u32> {
        let handed_over = self.logged("handed over; finishing what is in flight");
        let heirs = handed_over.iter().map(|fields| fields["to"].to_string());
        let heirs = heirs.map(|pid| pid.trim_matches('"').parse().unwrap());
        std::iter::once(self.0.pid()).chain(heirs).collect()
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.pids().last().unwrap().to_string();
        let status = Command::new("kill").args(["-s", name, &pid]).status().unwrap();
        assert!(status.success());
    }

    /// The fields of each line with this message.
    pub(crate) fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let log = self.0.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines
            .map(|line: serde_json::Value| line["fields"].clone())
            .filter(|fields| fields["message"] == message)
            .collect()
    }

    #[track_caller]
    pub(crate) fn hand_over(&self) {
        let before = self.logged("ready").len();
        self.signal("USR2");
        assert!(eventually(|| self.logged("ready").len() > before), "no handover");
    }

    pub(crate) fn change(&self, setup: &Setup) {
        fs::write(self.0.config(), setup.toml()).unwrap();
    }
}

fn is_alive(pid: u32) -> bool {
    // One that has ended and was not waited for is a zombie, whose status says so.
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status
        .rsplit(')')
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

/// Clients of every kind, each of which must be answered each time, while `meanwhile` runs; returns how many requests.
pub(crate) fn under_load(exchange: &Exchange, expected: &'static [u16], meanwhile: impl FnOnce()) -> u64 {
    let asked = AtomicU64::new(0);
    // The tasks of a runtime own what they look at.
    let over: &'static AtomicBool = Box::leak(Box::default());
    let goes_on = || !over.load(Ordering::Relaxed);
    let listen = exchange.listen;
    let count = || asked.fetch_add(1, Ordering::Relaxed);
    thread::scope(|scope| {
        for _ in 0..3 {
            // Keeps its connection until it is told to close it.
            scope.spawn(|| {
                let mut ssp = Http::connect(listen);
                while goes_on() {
                    let answer = ssp.bid(REQUEST);
                    assert!(expected.contains(&answer.status), "{answer:?}");
                    count();
                    if answer.header("connection") == Some("close") {
                        ssp = Http::connect(listen);
                    }
                }
            });
            // Has a new one for each request, which may wait in a listener's queue at any moment.
            scope.spawn(|| {
                while goes_on() {
                    let answer = Http::connect(listen).bid(REQUEST);
                    assert!(expected.contains(&answer.status), "{answer:?}");
                    count();
                }
            });
        }
        scope.spawn(|| {
            while goes_on() {
                let since = Instant::now();
                let goes_on = move || goes_on() && since.elapsed() < PATIENCE / 4;
                on_runtime(async || {
                    H2::connect(listen)
                        .await
                        .ask_until_goaway(10, expected, goes_on)
                        .await;
                });
            }
        });
        meanwhile();
        over.store(true, Ordering::Relaxed);
    });
    asked.into_inner()
}

#[test]
fn under_load_nobody_notices() {
    let dsps = dsp();
    let mut lineage = Lineage::start(&setup("shards = 2", dsps.ports()[0]));
    let asked = under_load(&lineage.0, &[200], || {
        for _ in 0..3 {
            thread::sleep(Duration::from_millis(300));
            lineage.hand_over();
            assert_eq!(lineage.0.admin("/readyz").status, 200);
        }
        thread::sleep(Duration::from_millis(300));
    });
    assert!(asked > 50, "{asked}");
    assert_eq!(lineage.0.wait().code(), Some(0));
    let pids = lineage.pids();
    assert_eq!(pids.len(), 4);
    assert!(eventually(|| !pids[..3].iter().any(|&pid| is_alive(pid))));
    // The count goes on where the one before left it.
    assert_eq!(lineage.0.metrics().sum("handovers_total{result=\"done\"}"), 3);
    assert_eq!(lineage.0.metrics().sum("handovers_total{result=\"failed\"}"), 0);
    lineage.signal("TERM");
    assert!(eventually(|| !is_alive(pids[3])));
    assert!(
        TcpStream::connect(lineage.0.listen).is_err(),
        "nobody has the socket any more"
    );
}

/// The sockets of shards that there are no more are accepted from by those that there are.
#[test]
fn there_may_be_more_shards_or_fewer() {
    let dsps = dsp();
    let lineage = Lineage::start(&setup("shards = 3", dsps.ports()[0]));
    let mut shards = Vec::new();
    under_load(&lineage.0, &[200], || {
        for server in ["shards = 1", "shards = 2", "shards = 5"] {
            lineage.change(&setup(server, dsps.ports()[0]));
            lineage.hand_over();
            shards.push(lineage.logged("ready").last().unwrap()["shards"].clone());
            thread::sleep(Duration::from_millis(300));
        }
    });
    assert_eq!(shards, [1, 2, 5]);
}

#[test]
fn what_is_in_flight_is_finished_by_the_old_process() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |_| {
        waits.wait();
        Does::NoBid
    });
    let mut lineage = Lineage::start(&setup("drain_ms = 15000", dsp.port));
    let mut in_flight = lineage.0.connect();
    let mut idle = lineage.0.connect();
    idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    in_flight.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 1));
    lineage.hand_over();
    assert_eq!(lineage.0.try_wait(), None);
    // Whoever is connected to the old one is told so with an answer, as soon as the shard knows.
    assert!(eventually(|| {
        idle.send("GET /status HTTP/1.1\r\nHost: x\r\n\r\n");
        idle.answer().header("connection") == Some("close")
    }));
    gate.open();
    let answer = in_flight.answer();
    assert_eq!((answer.status, answer.header("connection")), (204, Some("close")));
    assert_eq!(lineage.0.wait().code(), Some(0));
    assert_eq!(lineage.0.bid(REQUEST).status, 204);
}

#[test]
fn a_handover_that_fails_changes_nothing() {
    let dsps = dsp();
    let port = dsps.ports()[0];
    let mut lineage = Lineage::start(&setup("handover_ms_max = 15000", port));
    let mut kept = lineage.0.connect();
    assert_eq!(kept.bid(REQUEST).status, 200);
    let mut failed = 0;
    let mut fails = |lineage: &Lineage, why: &str| {
        lineage.signal("USR2");
        failed += 1;
        lineage.0.wait_for("handovers_total{result=\"failed\"}", failed);
        let failures = lineage.logged("the handover has failed; this process goes on");
        let said = failures.last().unwrap()["why"].to_string();
        assert!(said.contains(why), "{why} in {said}");
    };
    // A configuration that is wrong is told whole.
    let bad = setup("shards = \"many\"\nbalance = 1", port);
    lineage.change(&bad);
    fails(&lineage, "server.shards");
    fails(&lineage, "server.balance");
    // Other addresses cannot be taken over.
    for (server, key) in [
        ("listen = \"127.0.0.2:0\"", "listens on 127.0.0.1"),
        ("admin = \"127.0.0.2:0\"", "listens on 127.0.0.1"),
    ] {
        lineage.change(&setup(server, port));
        fails(&lineage, key);
    }
    fs::remove_file(lineage.0.config()).unwrap();
    fails(&lineage, "No such file");
    assert_eq!(kept.bid(REQUEST).status, 200, "on the same connection");
    assert_eq!(kept.bid(REQUEST).header("connection"), None);
    assert_eq!(lineage.0.admin("/readyz").status, 200);
    assert_eq!(lineage.pids().len(), 1);
    // And it can still be handed over.
    lineage.change(&setup("", port));
    lineage.hand_over();
    assert_eq!(lineage.0.wait().code(), Some(0));
    assert_eq!(lineage.0.bid(REQUEST).status, 200);
}

/// A file that nobody ever has read, so that whoever begins to read a configuration that names it is never ready.
struct Endless(PathBuf);

impl Endless {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("corebid-it-endless-{}", std::process::id()));
        let _left_by_another = fs::remove_file(&path);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        Self(path)
    }

    fn in_the_way_of(&self, setup: Setup) -> Setup {
        Setup {
            auction: format!("{NO_HURRY}rates_file = {:?}\n", self.0),
            ..setup
        }
    }
}

impl Drop for Endless {
    fn drop(&mut self) {
        let _gone = fs::remove_file(&self.0);
    }
}

#[test]
fn a_new_process_that_is_slow_is_waited_for_and_then_given_up() {
    let dsps = dsp();
    let setup = |server| setup(server, dsps.ports()[0]);
    let endless = Endless::new();
    let mut lineage = Lineage::start(&setup("handover_ms_max = 3000"));
    lineage.change(&endless.in_the_way_of(setup("")));
    lineage.signal("USR2");
    assert!(eventually(|| !lineage
        .logged("handing over to a new process")
        .is_empty()));
    lineage.signal("USR2");
    assert!(eventually(|| !lineage
        .logged("a handover is under way already")
        .is_empty()));
    lineage.0.wait_for("handovers_total{result=\"failed\"}", 1);
    let failures = lineage.logged("the handover has failed; this process goes on");
    assert!(
        failures[0]["why"].to_string().contains("not ready after 3s"),
        "{failures:?}"
    );
    assert_eq!(lineage.0.bid(REQUEST).status, 200);

    // Who is told to end while handing over ends, and so does the one that is not ready.
    lineage.change(&setup("handover_ms_max = 60000"));
    lineage.hand_over();
    assert_eq!(lineage.0.wait().code(), Some(0));
    lineage.change(&endless.in_the_way_of(setup("")));
    lineage.signal("USR2");
    assert!(eventually(|| lineage
        .logged("handing over to a new process")
        .len()
        == 3));
    lineage.signal("TERM");
    let pid = *lineage.pids().last().unwrap();
    assert!(eventually(|| !is_alive(pid)));
    assert!(TcpStream::connect(lineage.0.listen).is_err());
    assert!(TcpStream::connect(lineage.0.admin).is_err());
}

/// What systemd hears of all this.
#[test]
fn systemd_follows() {
    let dsps = dsp();
    let path = std::env::temp_dir().join(format!("corebid-it-notify-{}", std::process::id()));
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut lineage = Lineage(Exchange::serve_as_a_group(
        &setup("", dsps.ports()[0]).toml(),
        &[
            ("NOTIFY_SOCKET", path.to_str().unwrap()),
            ("WATCHDOG_USEC", "1000000"),
        ],
    ));
    let mut alive = 0;
    // The next that is no sign of life.
    let mut heard = || loop {
        let mut bytes = [0; 300];
        let count = systemd.recv(&mut bytes).expect("it says something");
        match str::from_utf8(&bytes[..count]).unwrap() {
            "WATCHDOG=1" => alive += 1,
            said => return said.to_owned(),
        }
    };
    assert_eq!(heard(), "READY=1\nSTATUS=ready: 1 shards");
    thread::sleep(Duration::from_millis(1200));
    // As `systemctl reload` does, which believes no word from before it asked.
    let mut reload = |status: &str| {
        let asked_us = clock::now().as_nanos() / 1_000;
        lineage.signal("HUP");
        let said = heard();
        let began = said.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&said);
        assert!(began.parse::<u64>().unwrap() >= asked_us, "{began} {asked_us}");
        assert_eq!(heard(), format!("READY=1\nSTATUS=ready: configuration {status}"));
    };
    reload("2");
    let good = fs::read_to_string(lineage.0.config()).unwrap();
    fs::write(lineage.0.config(), "nonsense").unwrap();
    reload("2; the last reload was refused, see the log");
    fs::write(lineage.0.config(), good).unwrap();
    lineage.hand_over();
    assert_eq!(heard(), "STATUS=handing over to a new process");
    assert_eq!(heard(), format!("MAINPID={}", lineage.pids()[1]));
    assert_eq!(heard(), "READY=1\nSTATUS=ready: 1 shards");
    assert_eq!(lineage.0.wait().code(), Some(0));
    lineage.signal("TERM");
    assert_eq!(heard(), "STOPPING=1\nSTATUS=draining");
    assert!(alive >= 2, "{alive} signs of life");
    fs::remove_file(path).unwrap();
}
