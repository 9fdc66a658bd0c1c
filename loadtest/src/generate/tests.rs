//! Whole runs against a small exchange made of threads, which answers right, wrong, late or not at all.

use super::*;
use crate::net::{h1, h2, hpack};
use crate::oracle::{Asked, twin};
use crate::report::Errors;
use crate::report::{PhaseReport, Second, documented};
use crate::scenario::RunArgs;
use crate::simulated::Profile;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// What to send for the n-th request the stub sees: status and body. May sleep.
type Behaviour = Arc<dyn Fn(u64, &[u8]) -> (u16, String) + Send + Sync>;

/// DSPs that answer at once, so that only the stub decides how long anything takes.
fn prompt_dsps() -> Profile {
    Profile {
        scale_latency: 0.0,
        ..Profile::default()
    }
}

/// A right answer.
fn right(request: &[u8]) -> (u16, String) {
    answer(request, |_| true)
}

/// A right answer of an exchange that hears these DSPs.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a floor in micros"
)]
fn answer(request: &[u8], heard: impl Fn(u16) -> bool) -> (u16, String) {
    let parsed: serde_json::Value = serde_json::from_slice(request).unwrap();
    let micros = |imp: &serde_json::Value| (imp["bidfloor"].as_f64().unwrap() * 1e6).round() as u64;
    let floors: Vec<u64> = parsed["imp"].as_array().unwrap().iter().map(micros).collect();
    let asked = Asked {
        id: parsed["id"].as_str().unwrap().as_bytes(),
        since_start: Duration::ZERO,
        floors_micros: &floors,
    };
    twin::exchange(&prompt_dsps(), asked, heard).map_or((204, String::new()), |body| (200, body))
}

/// Starts a stub that serves HTTP/1.1 and, by the preface, HTTP/2. Its threads end with the test's process.
fn stub(behaviour: impl Fn(u64, &[u8]) -> (u16, String) + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (behaviour, count): (Behaviour, _) = (Arc::new(behaviour), Arc::new(AtomicU64::new(0)));
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (behaviour, count) = (Arc::clone(&behaviour), Arc::clone(&count));
            std::thread::spawn(move || {
                serve(socket, &|request| {
                    behaviour(count.fetch_add(1, Ordering::Relaxed), request)
                })
            });
        }
    });
    url
}

/// A status of 0 closes the connection instead.
fn serve(mut socket: TcpStream, answer: &dyn Fn(&[u8]) -> (u16, String)) -> Option<()> {
    socket.set_nodelay(true).ok()?;
    let mut input = Vec::new();
    let mut chunk = [0; 65_536];
    let mut decoded = Vec::new();
    loop {
        let count = socket.read(&mut chunk).ok().filter(|&count| count > 0)?;
        input.extend_from_slice(&chunk[..count]);
        if input.starts_with(b"PRI ") {
            return serve_h2(socket, input, answer);
        }
        while let Ok(h1::Progress::Complete(request)) = h1::read_request(&input, &mut decoded) {
            let (status, body) = answer(request.body);
            let consumed = request.consumed;
            input.drain(..consumed);
            if status == 0 {
                return None;
            }
            let length = body.len();
            write!(
                socket,
                "HTTP/1.1 {status} x\r\ncontent-length: {length}\r\n\r\n{body}"
            )
            .ok()?;
        }
    }
}

fn serve_h2(
    mut socket: TcpStream,
    mut input: Vec<u8>,
    answer: &dyn Fn(&[u8]) -> (u16, String),
) -> Option<()> {
    let mut out = Vec::new();
    let mut http = h2::Connection::server(&mut out);
    out.extend_from_slice(SETTINGS_20_STREAMS);
    let mut bodies = std::collections::HashMap::<u32, Vec<u8>>::new();
    let mut chunk = [0; 65_536];
    loop {
        let mut rest = &input[..];
        while let Some(event) = http.next(&mut rest, &mut out).unwrap() {
            let h2::Event::Data {
                stream,
                bytes,
                end_stream,
            } = event
            else {
                continue;
            };
            bodies.entry(stream).or_default().extend_from_slice(bytes);
            if end_stream {
                let (status, body) = answer(&bodies.remove(&stream)?);
                let mut block = Vec::new();
                hpack::encode_literal(b":status", status.to_string().as_bytes(), &mut block);
                http.send(stream, &block, body.as_bytes(), &mut out);
            }
        }
        let left = rest.len();
        input.drain(..input.len() - left);
        socket.write_all(&out).ok()?;
        out.clear();
        let count = socket.read(&mut chunk).ok().filter(|&count| count > 0)?;
        input.extend_from_slice(&chunk[..count]);
    }
}

/// A SETTINGS frame (RFC 9113 §6.5): MAX_CONCURRENT_STREAMS is 20.
const SETTINGS_20_STREAMS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x14";

fn args(target: &str) -> Args {
    let mut args = Args {
        run: RunArgs {
            target: Some(target.to_owned()),
            rate: Some(400.0),
            duration: Some(1.0),
            warmup: Some(0.2),
            timeout_ms: Some(1000),
            ..RunArgs::default()
        },
        ..Args::default()
    };
    args.dsps.scale_latency = Some(0.0);
    args
}

/// The usual arguments with a change.
fn with(target: &str, change: impl FnOnce(&mut Args)) -> Args {
    let mut args = args(target);
    change(&mut args);
    args
}

fn report(args: &Args) -> Report {
    measure(&args.check().unwrap()).unwrap()
}

#[test]
fn right_answers_are_exact_and_nothing_is_left_over() {
    let target = stub(|_, request| right(request));
    for protocol in [
        with(&target, |args| args.bid_requests.imps = Some(2)),
        with(&target, |args| args.run.h2_connections = Some(2)),
        // Far beyond the windows and frames of HTTP/2's defaults.
        with(&target, |args| {
            args.run.h2_connections = Some(2);
            args.bid_requests.body_bytes = Some(50_000);
        }),
    ] {
        let report = report(&protocol);
        let (measured, rates) = (&report.measured, report.rates);
        assert!(report.is_clean(), "{}", report.to_table());
        assert!(
            (300..500).contains(&measured.requests),
            "{} requests",
            measured.requests
        );
        assert_eq!(measured.verification.exact, measured.requests);
        assert_eq!(measured.answers(), measured.requests);
        assert!(measured.statuses[&204] > 0 && measured.statuses[&200] > 100);
        assert_eq!(report.latency.count, measured.requests);
        assert!(
            (rates.achieved - rates.offered).abs() < 0.05 * rates.offered,
            "{rates:?}"
        );
        assert!(report.warmup.requests > 40);
    }
}

#[test]
fn each_kind_of_wrong_answer_is_counted_as_what_it_is() {
    let target = stub(|n, request| {
        let (status, body) = right(request);
        if status == 204 {
            return (status, body);
        }
        match n % 8 {
            0 => (200, body.replace(r#""price":"#, r#""price":1"#)),
            1 => (200, body.replace(r#""seat":"seat-"#, r#""seat":"seat-9"#)),
            2 => (204, String::new()),
            3 => (200, body.replace(r#"{"id":"0"#, r#"{"id":"1"#)),
            4 => (503, String::new()),
            _ => (200, body),
        }
    });
    let report = report(&args(&target));
    let v = report.measured.verification;
    assert!(!report.is_clean());
    for count in [
        v.wrong_price,
        v.wrong_winner,
        v.unexpected_no_bid,
        v.malformed,
        report.measured.refused(),
    ] {
        assert!((20..90).contains(&count), "{}", report.to_table());
    }
    // A 204 is what an exchange that heard nobody answers; the others no lost bid explains.
    assert_eq!(v.bids_lost, v.unexpected_no_bid);
    assert_eq!(v.exact + v.within_grey + v.wrong(), report.measured.answers());
    assert_eq!(report.examples.len(), 5);
}

#[test]
fn closed_connections_and_garbage_are_errors_of_their_own() {
    let target = stub(|n, request| {
        if n % 10 == 0 {
            (0, String::new())
        } else {
            right(request)
        }
    });
    let closing = report(&args(&target));
    assert!(closing.measured.errors.reset > 10, "{}", closing.to_table());
    assert_eq!(closing.measured.errors.total(), closing.measured.errors.reset);

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    for protocol in [
        args(&nobody),
        with(&nobody, |args| args.run.h2_connections = Some(1)),
    ] {
        let refused = report(&protocol);
        assert_eq!(
            refused.measured.errors.connect,
            refused.measured.requests,
            "{}",
            refused.to_table()
        );
    }
}

#[test]
fn requests_without_an_answer_time_out_and_stay_in_the_percentiles() {
    let target = stub(|_, request| {
        std::thread::sleep(Duration::from_secs(3));
        right(request)
    });
    for h2_connections in [None, Some(1)] {
        let report = report(&with(&target, |args| {
            args.run.h2_connections = h2_connections;
            args.run.timeout_ms = Some(100);
            args.run.rate = Some(100.0);
        }));
        let expected = Errors {
            timeout: report.measured.requests,
            ..Errors::default()
        };
        assert_eq!(report.measured.errors, expected);
        assert!(report.latency.count == report.measured.requests && report.latency.p50_ms >= 99.0);
    }
}

/// A server that stops for half a second owes that to every request that was meant to be sent meanwhile, not
/// only to the one it had. With a single connection a closed-loop generator would report one slow request of
/// 800.
#[test]
fn a_pause_is_charged_to_every_request_meant_to_be_sent_meanwhile() {
    let pause = Duration::from_millis(500);
    let began = Mutex::new(None::<Instant>);
    let target = stub(move |n, request| {
        if n == 300 {
            *began.lock().unwrap() = Some(Instant::now());
            std::thread::sleep(pause);
        }
        right(request)
    });
    let report = report(&with(&target, |args| {
        args.run.connections = Some(1);
        args.run.duration = Some(2.0);
        args.run.arrivals = Some(Arrivals::Constant);
    }));
    assert!(report.is_clean(), "{}", report.to_table());
    // 200 of 800 requests were meant to be sent in the pause, and waited 250 ms on average: 10 % waited over
    // 300.
    assert!(report.latency.p90_ms > 200.0, "{}", report.to_table());
    assert!(report.latency.max_ms >= 500.0);
    assert!(
        report.service_time.p99_ms < 100.0,
        "one request in 800 was slow once sent"
    );
    assert!(report.connection_wait.max_ms > 400.0 && report.measured.queued > 190);
    assert!(
        report.send_lateness.p99_ms < 100.0,
        "the wait was the server's doing, not the generator's"
    );
}

#[test]
fn a_stream_limit_makes_requests_wait_not_fail() {
    // One connection of the stub answers 200/s, one after another; half the requests of a second pile up.
    let target = stub(|_, request| {
        std::thread::sleep(Duration::from_millis(5));
        right(request)
    });
    let report = report(&with(&target, |args| {
        args.run.h2_connections = Some(1);
        args.run.timeout_ms = Some(10_000);
    }));
    assert!(report.is_clean(), "{}", report.to_table());
    assert_eq!(report.measured.verification.exact, report.measured.requests);
    assert!(
        report.measured.queued > 50 && report.connection_wait.max_ms > 100.0,
        "{}",
        report.to_table()
    );
    assert_eq!(report.connections_peak, 1);
}

#[test]
fn the_report_reads_back_as_json_and_as_a_table() {
    let target = stub(|_, request| right(request));
    let report = report(&with(&target, |args| args.server_pid = Some(std::process::id())));
    documented::check("Run", &report.to_json());
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(
        json["measured"]["verification"]["exact"],
        report.measured.requests
    );
    assert_eq!(json["conditions"]["arrivals"], "poisson");
    assert!(json["server"]["rss_peak_mib"].as_f64().unwrap() > 1.0);
    let table = report.to_table();
    for line in [
        "rate ",
        "answers ",
        "latency ",
        "excess ",
        "server ",
        "generator ",
        "every answer was right",
    ] {
        assert!(table.contains(line), "{table}");
    }
}

/// DSP 1 is dead in the middle of it. The stub hears all DSPs but in the requests of that phase.
#[test]
fn phases_are_reported_apart_and_judged_by_their_faults() {
    let scenario = "[[phase]]\nname = \"alive\"\nduration = 10\n\
        [[phase]]\nname = \"dead\"\nduration = 5\nrate_factor = 4\nfaults = [\"stall@1\"]\n\
        [[phase]]\nname = \"alive\"\nduration = 10\n";
    let file = std::env::temp_dir().join(format!("corebid-phases-{}.toml", std::process::id()));
    std::fs::write(&file, scenario).unwrap();
    let heard_in_the_dead_phase = |hears: fn(u16) -> bool| {
        let target = stub(move |_, request| {
            let text = String::from_utf8_lossy(request);
            let is_dead = text.contains("-p02\"");
            answer(request, |dsp| !is_dead || hears(dsp))
        });
        let report = report(&with(&target, |args| {
            args.scenario = Some(file.clone());
            args.run.duration = Some(2.5);
            args.exchange.recovery_ms = Some(0.0);
            args.server_pid = Some(std::process::id());
        }));
        println!("{}", report.to_table());
        report
    };
    let right = heard_in_the_dead_phase(|dsp| dsp != 0);
    assert!(right.is_clean());
    documented::check("Run", &right.to_json());
    assert_eq!(right.measured.verification.exact, right.measured.requests);
    let [alive, dead] = &right.phases[..] else {
        panic!("two names of three phases")
    };
    assert_eq!((alive.name.as_str(), dead.name.as_str()), ("alive", "dead"));
    assert_eq!((alive.duration_s, dead.duration_s), (2.0, 0.5));
    // 400/s for 2 s, and four times that for half a second.
    assert!((700..900).contains(&alive.tally.requests) && (700..900).contains(&dead.tally.requests));
    assert_eq!(
        alive.tally.requests + dead.tally.requests,
        right.measured.requests
    );
    assert!(dead.rates.offered > 3.0 * alive.rates.offered && dead.server.is_some());
    assert!(right.to_table().contains("\nphase "));

    let wrong = heard_in_the_dead_phase(|_| true);
    let by_phase = |phase: &PhaseReport| phase.tally.verification.wrong_auctions();
    assert_eq!(by_phase(&wrong.phases[0]), 0);
    assert!(by_phase(&wrong.phases[1]) > 10, "a dead DSP won");
    std::fs::remove_file(&file).unwrap();
}

/// The seconds are the whole: nothing is counted twice, and nothing left out, whatever becomes of a request.
#[test]
fn the_seconds_add_up_to_the_run() {
    let target = stub(|n, request| match n % 20 {
        0 => (0, String::new()),
        1 => (503, String::new()),
        2 => {
            std::thread::sleep(Duration::from_millis(300));
            right(request)
        }
        3 => (204, String::new()),
        _ => right(request),
    });
    let report = report(&with(&target, |args| {
        args.run.duration = Some(2.0);
        args.run.warmup = Some(0.5);
        args.run.timeout_ms = Some(200);
        args.server_pid = Some(std::process::id());
    }));
    println!("{}", report.to_table());
    let sum = |measured: bool, of: fn(&Second) -> u64| -> u64 {
        let seconds = report.seconds.iter().filter(|second| second.measured == measured);
        seconds.map(of).sum()
    };
    let (measured, warmup) = (&report.measured, &report.warmup);
    for (measured, tally) in [(true, measured), (false, warmup)] {
        assert_eq!(sum(measured, |second| second.requests), tally.requests);
        assert_eq!(
            sum(measured, |second| second.errors),
            tally.errors.total() + tally.refused()
        );
        assert_eq!(sum(measured, |second| second.wrong), tally.verification.wrong());
    }
    assert!(measured.errors.timeout > 5 && measured.refused() > 5 && measured.verification.wrong() > 5);
    assert_eq!(sum(true, |second| second.latency.count), report.latency.count);
    assert_eq!(sum(true, |second| second.excess.count), report.excess.count);
    // By the clock: what was answered at all, whenever it was meant to be sent.
    let answered = sum(true, |second| second.answered) + sum(false, |second| second.answered);
    assert!(answered >= measured.answers() + warmup.answers());
    // The warm-up is one short second; then there are two whole ones, and perhaps one with the last answers.
    let starts: Vec<f64> = report.seconds.iter().map(|second| second.at_s).collect();
    assert_eq!(starts[..3], [0.0, 0.5, 1.5]);
    assert!(
        report.seconds[1]
            .server
            .is_some_and(|server| server.rss_mib > 1.0)
    );
    let slowest = report.seconds.iter().filter(|second| second.measured);
    let slowest = slowest.map(|second| second.latency.max_ms).fold(0.0, f64::max);
    assert_eq!(slowest, report.latency.max_ms);
}

/// The pause shows in the second in which it was, not in the one in which the answers came.
#[test]
fn a_pause_shows_when_it_was() {
    let target = stub(|n, request| {
        if n == 280 {
            std::thread::sleep(Duration::from_millis(600));
        }
        right(request)
    });
    let report = report(&with(&target, |args| {
        args.run.connections = Some(1);
        args.run.duration = Some(3.0);
        args.run.warmup = Some(0.0);
        args.run.arrivals = Some(Arrivals::Constant);
    }));
    // Request 280 is due after 0.7 s; those of the rest of that second wait up to 0.6 s.
    let [first, second, third] = [0, 1, 2].map(|index| report.seconds[index].latency);
    assert!(first.max_ms >= 590.0, "{}", report.to_table());
    assert!(second.max_ms < first.max_ms && third.p50_ms < 100.0);
    assert!(report.seconds[0].in_flight >= 1);
}

/// An hour is asked for, and after a second and a half somebody has seen enough.
#[test]
fn what_was_measured_until_an_interruption_is_reported() {
    let target = stub(|_, request| right(request));
    let args = with(&target, |args| args.run.duration = Some(3600.0));
    let stop = Stop::default();
    let asked = stop.clone();
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        asked.ask();
    });
    let (report, _) = measure_with(&args.check().unwrap(), None, &stop).unwrap();
    println!("{}", report.to_table());
    assert!(report.is_clean() && !report.passed);
    assert!(report.warnings[0].starts_with("INTERRUPTED after "));
    assert!(report.to_table().contains("as far as it went"));
    let (duration_s, rates) = (report.conditions.duration_s, report.rates);
    assert!((1.2..20.0).contains(&duration_s), "{duration_s} s");
    assert!(
        (rates.offered - 400.0).abs() < 100.0 && rates.achieved > 200.0,
        "{rates:?}"
    );
    assert_eq!(report.measured.answers(), report.measured.requests);

    let cold = Stop::default();
    cold.ask();
    let (report, _) = measure_with(&args.check().unwrap(), None, &cold).unwrap();
    assert_eq!((report.measured.requests, report.rates.achieved), (0, 0.0));
    serde_json::from_str::<Report>(&report.to_json()).expect("no figure is none");
}

#[test]
fn limits_decide_whether_a_run_passes() {
    let target = stub(|n, request| {
        if n % 10 == 0 {
            (503, String::new())
        } else {
            right(request)
        }
    });
    let passed = |change: fn(&mut Args)| {
        let report = report(&with(&target, change));
        println!("{}", report.to_table());
        (
            report.passed,
            report.gates.iter().filter(|gate| !gate.passed).count(),
        )
    };
    assert_eq!(passed(|_| ()), (false, 0), "errors fail without being asked");
    assert_eq!(passed(|args| args.fail.errors = Some(0.2)), (true, 0));
    assert_eq!(passed(|args| args.fail.errors = Some(0.05)), (false, 1));
    let slow = |args: &mut Args| {
        args.fail.errors = Some(0.2);
        args.fail.p99_ms = Some(0.0);
    };
    assert_eq!(passed(slow), (false, 1));
}
