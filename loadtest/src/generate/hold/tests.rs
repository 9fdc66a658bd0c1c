//! Whole holds against a small exchange that keeps every request until its time has come, right or wrong.

use super::*;
use crate::net::{h2, hpack};
use crate::oracle::{Asked, twin};
use crate::report::documented;
use crate::simulated::Profile;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

const IN_FLIGHT: u64 = 200;

/// 0.2 s of ramp and 0.5 s of hold, and more than a second to spare for a busy machine, of DSPs that otherwise
/// answer at once.
fn args(target: &str) -> Args {
    let mut args = Args::default();
    args.hold.target = Some(target.to_owned());
    args.hold.in_flight = Some(IN_FLIGHT);
    args.hold.ramp = Some(1000.0);
    args.hold.duration = Some(0.5);
    args.hold.h2_connections = Some(2);
    args.dsps.scale_latency = Some(0.0);
    args.dsps.latency_floor_ms = Some(2000.0);
    args.server_pid = Some(std::process::id());
    args
}

fn measured(args: &Args) -> HoldReport {
    let report = measure(&args.check().unwrap()).unwrap();
    println!("{}", report.to_table());
    report
}

/// Serves HTTP/2: answers the n-th request of a connection after `held(n)`, rightly, or with nothing if `says` so.
fn stub(held: fn(u64) -> Duration, says: fn(u64, String) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || serve(socket, held, says));
        }
    });
    url
}

fn serve(mut socket: TcpStream, held: fn(u64) -> Duration, says: fn(u64, String) -> String) -> Option<()> {
    socket.set_read_timeout(Some(Duration::from_millis(2))).ok()?;
    let (mut out, mut input, mut chunk) = (Vec::new(), Vec::new(), vec![0; 65_536]);
    let mut http = h2::Connection::server(&mut out);
    let mut waiting: VecDeque<(Instant, u32, Vec<u8>)> = VecDeque::new();
    let mut bodies = h2::StreamMap::<Vec<u8>>::default();
    let mut count = 0;
    loop {
        let mut rest = &input[..];
        while let Some(event) = http.next(&mut rest, &mut out).ok()? {
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
                let body = bodies.remove(&stream)?;
                waiting.push_back((Instant::now() + held(count), stream, body));
                count += 1;
            }
        }
        let left = rest.len();
        input.drain(..input.len() - left);
        while waiting.front().is_some_and(|(due, ..)| *due <= Instant::now()) {
            let (_, stream, request) = waiting.pop_front()?;
            let body = says(u64::from(stream / 2), answer(&request));
            let mut block = Vec::new();
            let status = if body.is_empty() { "204" } else { "200" };
            hpack::encode_literal(b":status", status.as_bytes(), &mut block);
            http.send(stream, &block, body.as_bytes(), &mut out);
        }
        socket.write_all(&out).ok()?;
        out.clear();
        match socket.read(&mut chunk) {
            Ok(0) => return None,
            Ok(bytes) => input.extend_from_slice(&chunk[..bytes]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return None,
        }
    }
}

/// Empty for a 204.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a floor in micros"
)]
fn answer(request: &[u8]) -> String {
    let parsed: serde_json::Value = serde_json::from_slice(request).unwrap();
    let floor = (parsed["imp"][0]["bidfloor"].as_f64().unwrap() * 1e6).round() as u64;
    let asked = Asked {
        id: parsed["id"].as_str().unwrap().as_bytes(),
        since_start: Duration::ZERO,
        floors_micros: &[floor],
    };
    twin::exchange(&Profile::default(), asked, |_| true).unwrap_or_default()
}

fn floor(_: u64) -> Duration {
    Duration::from_millis(2000)
}

#[test]
fn all_are_held_and_then_answered() {
    let report = measured(&args(&stub(floor, |_, body| body)));
    assert!(report.is_clean() && report.was_held());
    assert_eq!(report.in_flight.reached, IN_FLIGHT);
    assert_eq!(report.in_flight.calls, IN_FLIGHT * 23);
    assert!(report.in_flight.held_s >= 0.5);
    assert_eq!(report.tally.verification.exact, IN_FLIGHT);
    assert_eq!(report.excess.count, IN_FLIGHT);
    assert!(report.memory.unwrap().held_mib > 1.0);
    for (stage, at_least_s) in [(report.ramp, 0.19), (report.hold, 0.5), (report.drain, 0.1)] {
        let stage = stage.unwrap();
        assert!(stage.duration_s >= at_least_s && stage.server.is_some());
    }
    documented::check("Hold", &report.to_json());
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["in_flight"]["reached"], IN_FLIGHT);
    assert!(
        report
            .to_table()
            .contains("all were held, every answer was right")
    );
}

#[test]
fn an_exchange_that_does_not_wait_has_not_held_them() {
    let early = |n| Duration::from_millis(if n == 0 { 100 } else { 2000 });
    let report = measured(&args(&stub(early, |_, body| body)));
    assert_eq!(
        report.tally.verification.exact, IN_FLIGHT,
        "its answers are right"
    );
    assert!(!report.was_held() && !report.is_clean());
    // The first of each connection came back before there was time for all of the hold.
    assert!(report.in_flight.held_s < 0.5);
    assert_eq!(report.tally.early, 2);
    assert!(report.warnings[0].contains("--latency-floor-ms 2000"));
    assert!(report.to_table().contains("NOT all were held"));
}

#[test]
fn a_wrong_answer_after_the_hold_is_wrong() {
    let one_is_mute = |n, body| if n == 42 { String::new() } else { body };
    let report = measured(&args(&stub(floor, one_is_mute)));
    assert!(report.was_held() && !report.is_clean());
    assert!(
        report.tally.verification.unexpected_no_bid <= 2,
        "one of each connection"
    );
    assert!(report.tally.verification.bids_lost > 0);
}

#[test]
fn what_is_never_answered_is_given_up() {
    let never = |n| Duration::from_secs(if n == 99 { 3600 } else { 2 });
    let mut args = args(&stub(never, |_, body| body));
    args.hold.timeout_ms = Some(4000);
    let report = measured(&args);
    assert_eq!(
        (report.tally.errors.timeout, report.tally.answers()),
        (2, IN_FLIGHT - 2)
    );
    assert!(report.was_held() && !report.is_clean());
}

#[test]
fn without_an_exchange_nothing_is_held() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut args = args(&nobody);
    args.admin = Some(nobody);
    let report = measured(&args);
    assert_eq!(report.tally.errors.connect, IN_FLIGHT);
    assert_eq!((report.in_flight.reached, report.in_flight.held_s), (0, 0.0));
    assert!(!report.was_held() && report.ramp.is_none() && report.seen.is_none());
    assert!(report.to_table().contains("it did not come to that"));
    assert!(report.warnings.iter().any(|warning| warning.contains("--admin")));
}
