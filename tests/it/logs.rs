//! The log under a flood: bounded lines, the flood told as a number, and requests that are answered all the same, also
//! when nobody reads the log.

use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use crate::client::Http;
use crate::harness::{Dsp, Exchange, Reaped, Setup, TempFile, corebid, eventually};
use crate::scripted::{Does, Scripted};

const BAD: &str = r#"{"id":"bad-1","imp":[]}"#;
const GOOD: &str = r#"{"id":"good","imp":[{"id":"1","banner":{}}]}"#;
const FLOOD: usize = 3_000;

fn dsp() -> Scripted {
    Scripted::start(|asked| Does::Answers(format!(r#"{{"id":"{}"}}"#, asked.id())))
}

#[test]
fn a_flood_of_bad_requests_is_a_few_lines_and_a_number() {
    let dsp = dsp();
    let exchange = Exchange::start(&Setup::of([Dsp::new("d", dsp.port)]));
    let mut http = exchange.connect();
    for _ in 0..FLOOD {
        assert_eq!(http.bid(BAD).status, 400);
    }
    assert_eq!(http.bid(GOOD).status, 204);
    let of_requests = |log: &str| log.matches("an invalid bid request").count();
    // Two windows of ten seconds, if one ended meanwhile; on a slow machine more.
    let lines = of_requests(&exchange.log());
    assert!((30..=FLOOD / 10).contains(&lines), "{lines} lines");
    assert!(exchange.log().contains(r#""id":"bad-1""#), "they say whose");
    let log_lines = |outcome: &str| {
        let lines = exchange
            .metrics()
            .sum(&format!("log_lines_total{{outcome=\"{outcome}\"}}"));
        usize::try_from(lines).unwrap()
    };
    assert!(eventually(|| log_lines("suppressed")
        + of_requests(&exchange.log())
        == FLOOD));
    assert_eq!(log_lines("dropped"), 0);
    let said = |log: &str| -> usize {
        let counts = log.lines().filter_map(|line| {
            let (_, rest) = line.split_once("suppressed ")?;
            rest.split_once(" times: the line of src/ingress/mod.rs")?
                .0
                .parse::<usize>()
                .ok()
        });
        counts.sum()
    };
    assert!(
        eventually(|| said(&exchange.log()) + of_requests(&exchange.log()) == FLOOD),
        "the log says how many it does not show"
    );
}

/// Standard error is a pipe that is never read: it is full after 64 kB.
#[test]
fn a_log_that_nobody_reads_stops_nothing() {
    let dsp = dsp();
    let toml = Setup::of([Dsp::new("d", dsp.port)]).toml();
    let listen = free_port();
    let toml = toml
        .replacen(
            "listen = \"127.0.0.1:0\"",
            &format!("listen = \"127.0.0.1:{listen}\""),
            1,
        )
        // Each connection says something, and so does each call: far more than 64 kB.
        .replacen("level = \"info\"", "level = \"trace\"", 1);
    let config = TempFile::new("toml", &toml);
    let mut child = Reaped(
        corebid(&["serve", "--config", config.0.to_str().unwrap()])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let _never_read = child.0.stderr.take().unwrap();
    let address = ([127, 0, 0, 1], listen).into();
    assert!(eventually(|| std::net::TcpStream::connect(address).is_ok()));
    let began = Instant::now();
    let long = format!(r#"{{"id":"{}","imp":[{{}}]}}"#, "x".repeat(2_000));
    let mut http = Http::connect(address);
    for number in 0..2_000 {
        if number % 100 == 0 {
            http = Http::connect(address);
        }
        assert_eq!(http.bid(&long).status, 400);
        assert_eq!(http.bid(GOOD).status, 204);
    }
    assert!(began.elapsed() < Duration::from_secs(60));
    // Nor does it hold up the end.
    crate::harness::kill("TERM", &child.0);
    assert!(eventually(|| {
        thread::sleep(Duration::from_millis(20));
        child.0.try_wait().unwrap().is_some_and(|status| status.success())
    }));
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
