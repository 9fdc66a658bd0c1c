//! What a visitor of the admin port sees, over a real socket.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use super::*;
use crate::telemetry::{self, DspOutcome, Recorder, Roster, Stage};

/// Far longer than anything here takes, far shorter than a build's patience.
const PATIENCE: Duration = Duration::from_secs(10);

struct Visited {
    control: Control,
    recorder: Recorder,
    readiness: Arc<Readiness>,
    commands: Receiver<Command>,
}

fn visited(limits: Limits) -> Visited {
    visited_with(limits, None)
}

fn visited_with(limits: Limits, hlog: Option<FileOptions>) -> Visited {
    let (recorders, merged) = telemetry::channel(1);
    let roster = Arc::new(Roster::new(vec!["dsp1".to_owned(), "<b>&".to_owned()], "USD"));
    let readiness = Arc::new(Readiness::new());
    let (sender, commands) = mpsc::sync_channel(1);
    let options = ControlOptions {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        inherited: None,
        effective_toml: "[server]\n".to_owned(),
        hlog,
        limits,
    };
    let take: Commands = Box::new(move |command| sender.try_send(command).is_ok());
    let control = Control::spawn(options, merged, Arc::clone(&readiness), take).unwrap();
    Visited {
        control,
        recorder: recorders.recorder(0, &roster),
        readiness,
        commands,
    }
}

impl Visited {
    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.control.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Status line, headers and body of the answer to a request on a connection of its own.
    fn ask(&self, method_and_path: &str, headers: &str) -> String {
        let mut stream = self.connect();
        write!(
            stream,
            "{method_and_path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n"
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    #[track_caller]
    fn check(&self, method_and_path: &str, status: u16, contains: &str) {
        let answer = self.ask(method_and_path, "");
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{method_and_path}: {answer}"
        );
        assert!(answer.contains(contains), "{method_and_path}: {answer}");
    }

    /// Asks until the answer has `text` in it: what shards hand over takes a moment to arrive.
    #[track_caller]
    fn wait_for(&self, path: &str, text: &str) -> String {
        for _ in 0..500 {
            let answer = self.ask(&format!("GET {path}"), "");
            if answer.contains(text) {
                return answer;
            }
            thread::park_timeout(Duration::from_millis(10));
        }
        panic!(
            "{path} never had {text} in it: {}",
            self.ask(&format!("GET {path}"), "")
        );
    }
}

#[test]
fn pages() {
    let visited = visited(Limits::default());
    visited.check("GET /", 200, "[\"/metrics\",\"Prometheus text");
    visited.check("GET /", 200, "content-security-policy: default-src 'none'");
    visited.check("GET /favicon.ico", 204, "");
    visited.check("GET /metrics", 200, "corebid_deadline_missed_total 0\n");
    visited.check("GET /metrics?x=1", 200, "content-type: text/plain; version=0.0.4");
    visited.check("GET /healthz", 200, "\r\n\r\nok\n");
    visited.check("GET /config", 200, "\r\n\r\n[server]\n");
    visited.check(
        "GET /latency.json",
        200,
        r#"{"stages":[{"stage":"admit","count":0,"p50_ns":0,"#,
    );
    visited.check("HEAD /healthz", 200, "content-length: 3");
    visited.check("GET /nothing", 404, "no such page");
    visited.check("POST /metrics", 405, "allow: GET, HEAD");
    visited.check("GET /drain", 405, "allow: POST");
    assert!(!visited.ask("HEAD /healthz", "").contains("ok\n"));
}

#[test]
fn open_metrics_for_who_asks() {
    let answer = visited(Limits::default()).ask("GET /metrics", "Accept: application/openmetrics-text\r\n");
    assert!(
        answer.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{answer}"
    );
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}

#[test]
fn what_a_shard_hands_over_is_shown() {
    let visited = visited(Limits::default());
    visited.recorder.stage(Stage::Parse, 4_000);
    visited.recorder.request(204);
    visited.recorder.dsp_call(0, DspOutcome::Timeout, 80_000_000);
    visited.recorder.in_flight(3);
    visited.recorder.publish();
    visited.wait_for("/metrics", "corebid_requests_total{status=\"204\"} 1\n");
    visited.check("GET /metrics", 200, "corebid_in_flight{shard=\"0\"} 3\n");
    visited.check(
        "GET /latency.json",
        200,
        r#"{"stage":"parse","count":1,"p50_ns":4015,"#,
    );
    visited.check("GET /latency.json", 200, r#"{"name":"dsp1","count":1,"#);
}

#[test]
fn histograms_for_their_tools() {
    let visited = visited(Limits::default());
    visited.recorder.stage(Stage::Total, 34_000_000);
    visited.recorder.dsp_call(0, DspOutcome::Bid, 12_000_000);
    visited.recorder.publish();
    visited.wait_for("/latency.hgrm", "Total count    =            1]");
    visited.check("GET /latency.hgrm?stage=total", 200, "      34.0");
    visited.check(
        "GET /latency.hgrm?stage=parse",
        200,
        "Total count    =            0]",
    );
    visited.check(
        "GET /latency.hgrm?stage=sleep",
        400,
        "no such stage; there are admit, read,",
    );
    visited.check("GET /latency.hgrm?dsp=dsp1", 200, "      12.0");
    visited.check("GET /latency.hgrm?dsp=dsp9", 404, "/dsps lists them");
    let log = visited.wait_for("/latency.hlog", "Tag=dsp:dsp1,");
    assert!(
        log.contains("\r\n\r\n#[Histogram log format version 1.3]\n"),
        "{log}"
    );
    assert!(log.contains("Tag=shard:0,"), "{log}");
}

#[test]
fn windows_and_what_is_new() {
    let visited = visited(Limits::default());
    for _ in 0..30 {
        visited.recorder.dsp_call(1, DspOutcome::Timeout, 60_000_000);
    }
    visited.recorder.stage(Stage::Total, 34_000_000);
    visited.recorder.publish();
    visited.wait_for("/dsps", r#""name":"<b>&","configured":true,"state":"failing""#);
    visited.check("GET /dsps?window=start", 200, r#""window_s":null"#);
    visited.check("GET /dsps?window=61", 400, "window must be start or");
    visited.check("GET /latency.json?window=0", 400, "window must be start or");
    visited.check("GET /live.json", 200, r#"{"version":""#);
    visited.check("GET /live.json", 200, r#""state":"starting""#);
    visited.check("GET /live.json", 200, r#""config":{"hash":""#);
    visited.check("GET /live.json?since=0", 200, r#""seconds":[{"number":0,"#);
    visited.check("GET /live.json?since=1000000", 200, r#""seconds":[]"#);
    visited.check("GET /live.json?since=now", 400, "since must be");
    visited.check("GET /live.json?stage=none", 400, "no such stage");
}

#[test]
fn the_interval_log_on_disk_has_the_last_seconds_too() {
    let path = std::env::temp_dir().join(format!("corebid-control-{}.hlog", std::process::id()));
    let hlog = FileOptions {
        path: path.clone(),
        file_bytes_max: 1 << 20,
        files_max: 1,
    };
    let visited = visited_with(Limits::default(), Some(hlog));
    visited.recorder.stage(Stage::Parse, 4_000);
    drop(visited.recorder);
    drop(visited.control);
    let log = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(log.contains("\nTag=stage:parse,"), "{log}");
}

#[test]
fn ready_only_between_start_and_drain() {
    let visited = visited(Limits::default());
    visited.check("GET /readyz", 503, "\r\n\r\nstarting\n");
    visited.readiness.advance(State::Ready);
    visited.check("GET /readyz", 200, "\r\n\r\nready\n");
    visited.readiness.advance(State::Draining);
    visited.check("GET /readyz", 503, "\r\n\r\ndraining\n");
    visited.check("GET /healthz", 200, "ok");
}

#[test]
fn drain_is_handed_on() {
    let visited = visited(Limits::default());
    let from_a_page = visited.ask("POST /drain", "Origin: http://evil.example\r\n");
    assert!(from_a_page.starts_with("HTTP/1.1 403 "), "{from_a_page}");
    visited.check("POST /drain", 202, "draining");
    assert!(matches!(
        visited.commands.recv_timeout(PATIENCE),
        Ok(Command::Drain)
    ));
    assert!(
        visited.commands.try_recv().is_err(),
        "the web page's was not handed on"
    );

    visited.check("POST /drain", 202, "draining");
    visited.check("POST /drain", 503, "does not listen"); // the supervisor has not taken the last one
}

#[test]
fn a_reload_is_answered_when_it_has_ended() {
    let visited = visited(Limits::default());
    let from_a_page = visited.ask("POST /reload", "Origin: http://evil.example\r\n");
    assert!(from_a_page.starts_with("HTTP/1.1 403 "), "{from_a_page}");
    visited.check("GET /reload", 405, "only POST");
    assert!(visited.commands.try_recv().is_err(), "neither was handed on");

    let applied = Applied {
        generation: 2,
        hash: "00ff".to_owned(),
        changes: vec!["dsp.a: added".to_owned()],
        took_ms: 7,
    };
    let ask = || {
        let mut stream = visited.connect();
        write!(
            stream,
            "POST /reload HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
        .unwrap();
        let Ok(Command::Reload(reply)) = visited.commands.recv_timeout(PATIENCE) else {
            panic!("nobody asked")
        };
        (stream, reply)
    };
    let rest = |mut stream: TcpStream| {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    };
    #[track_caller]
    fn check(answer: &str, status: u16, body: &str) {
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
    }
    for (outcome, status, body) in [
        (
            Reload::Applied(applied),
            200,
            r#"{"generation":2,"hash":"00ff","changes":["dsp.a: added"],"took_ms":7}"#,
        ),
        (Reload::Refused("one\ntwo".to_owned()), 400, "one\ntwo\n"),
        (Reload::NotNow("draining"), 409, "draining\n"),
        (Reload::Late("shard 1".to_owned()), 504, "shard 1\n"),
    ] {
        let (stream, reply) = ask();
        // Others are served meanwhile.
        visited.check("GET /healthz", 200, "ok");
        reply(outcome);
        check(&rest(stream), status, body);
    }
    // Whoever was to answer may go, and whoever asked.
    let (stream, reply) = ask();
    drop(reply);
    check(&rest(stream), 503, "the supervisor does not listen\n");
    let (stream, reply) = ask();
    drop(stream);
    reply(Reload::NotNow("nobody hears it"));
    visited.check("GET /healthz", 200, "ok");
}

#[test]
fn config_after_a_reload() {
    let visited = visited(Limits::default());
    visited.control.show_config("[auction]\n".to_owned());
    visited.wait_for("/config", "\r\n\r\n[auction]\n");
}

#[test]
fn connections_are_kept() {
    let visited = visited(Limits::default());
    let mut stream = visited.connect();
    for _ in 0..3 {
        stream
            .write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"ok\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            answer.extend(byte);
        }
    }
}

#[test]
fn a_connection_too_many_is_closed_and_its_seat_free_again() {
    let visited = visited(Limits {
        connections_max: 1,
        ..Limits::default()
    });
    let first = visited.connect();
    let mut second = visited.connect();
    assert_eq!(second.read(&mut [0]).unwrap(), 0);
    drop(first);
    for _ in 0..500 {
        let mut stream = visited.connect();
        let _ = stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let mut answer = String::new();
        if stream.read_to_string(&mut answer).is_ok() && answer.ends_with("ok\n") {
            return;
        }
    }
    panic!("the seat was never free again");
}

#[test]
fn a_visitor_who_dawdles_is_sent_away() {
    let limits = Limits {
        head_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let visited = visited(limits);
    for sent in ["", "GET /healthz HTTP/1.1\r\nHost:"] {
        let mut stream = visited.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(!answer.contains("200"), "{answer}");
    }
    let old = Limits {
        connection_age_max: Duration::from_millis(50),
        ..Limits::default()
    };
    let visited = self::visited(old);
    assert_eq!(visited.connect().read(&mut [0]).unwrap(), 0);
}

#[test]
fn a_port_in_use_is_an_error_at_the_start() {
    let visited = visited(Limits::default());
    let options = ControlOptions {
        listen: visited.control.address(),
        inherited: None,
        effective_toml: String::new(),
        hlog: None,
        limits: Limits::default(),
    };
    let (_, merged) = telemetry::channel(1);
    let second = Control::spawn(options, merged, Arc::default(), Box::new(|_| true));
    assert_eq!(
        second.err().map(|error| error.kind()),
        Some(io::ErrorKind::AddrInUse)
    );
}

#[test]
fn dropping_it_closes_the_port() {
    let Visited { control, .. } = visited(Limits::default());
    let address = control.address();
    drop(control);
    assert!(TcpStream::connect(address).is_err());
}
