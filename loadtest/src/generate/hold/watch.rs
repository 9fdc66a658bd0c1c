//! What the server says of itself meanwhile: a thread that reads `/metrics` once a second, so that the sender
//! never waits for it. Understands three lines of the Prometheus text format and no more.

use super::super::clock::Clock;
use super::super::options::Target;
use crate::net::h1;
use crate::report::Stall;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::mpsc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

/// One reading.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sample {
    pub(super) at_ns: u64,
    /// `corebid_in_flight`, over all shards.
    pub(super) in_flight: Option<u64>,
    /// `corebid_loop_stall_seconds_bucket`: upper bounds in seconds, and how many stalls were not longer, since
    /// the server started.
    stalls: Vec<(f64, u64)>,
}

/// The thread.
#[derive(Debug)]
pub(super) struct Watch {
    thread: JoinHandle<Vec<Sample>>,
    stop: mpsc::Sender<()>,
}

/// Once a second: a scrape costs the server's housekeeping a few milliseconds.
const INTERVAL: Duration = Duration::from_secs(1);
/// Of a server that is busy with something else.
const PATIENCE: Duration = Duration::from_secs(5);

impl Watch {
    pub(super) fn start(admin: Target, clock: Clock) -> io::Result<Watch> {
        let (stop, stopped) = mpsc::channel();
        let thread = Builder::new().name("watch".to_owned()).spawn(move || {
            let mut samples = Vec::new();
            loop {
                // A reading that failed leaves a gap; the report says so if it matters.
                samples.extend(scrape(&admin).map(|text| Sample::read(&text, clock.now_ns())));
                if stopped.recv_timeout(INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout) {
                    // Shards hand over their counts with a delay.
                    std::thread::sleep(INTERVAL);
                    samples.extend(scrape(&admin).map(|text| Sample::read(&text, clock.now_ns())));
                    return samples;
                }
            }
        })?;
        Ok(Watch { thread, stop })
    }

    /// Reads once more and ends.
    pub(super) fn finish(self) -> Vec<Sample> {
        // Fails only if the thread is gone, and then there is nothing to stop.
        let _ = self.stop.send(());
        self.thread.join().unwrap_or_default()
    }
}

fn scrape(admin: &Target) -> io::Result<String> {
    let mut socket = TcpStream::connect_timeout(&admin.address, PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let host = &admin.authority;
    write!(
        socket,
        "GET /metrics HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
    )?;
    let (mut bytes, mut decoded) = (Vec::new(), Vec::new());
    socket.read_to_end(&mut bytes)?;
    match h1::read_response(&bytes, true, &mut decoded) {
        Ok(h1::Progress::Complete(response)) if response.status == 200 => {
            Ok(String::from_utf8_lossy(response.body).into_owned())
        }
        _ => Err(ErrorKind::InvalidData.into()),
    }
}

impl Sample {
    fn read(text: &str, at_ns: u64) -> Sample {
        let mut sample = Sample {
            at_ns,
            ..Sample::default()
        };
        for line in text.lines() {
            let Some((name, value)) = line.rsplit_once(' ') else {
                continue;
            };
            let Ok(value) = value.parse() else { continue };
            if name.starts_with("corebid_in_flight{") {
                sample.in_flight = Some(sample.in_flight.unwrap_or(0) + value);
            } else if let Some(bound) = name.strip_prefix("corebid_loop_stall_seconds_bucket{le=\"") {
                let bound = bound.trim_end_matches("\"}");
                let bound = bound
                    .strip_prefix("+Inf")
                    .map_or_else(|| bound.parse(), |_| Ok(f64::INFINITY));
                sample.stalls.extend(bound.map(|bound| (bound, value)));
            }
        }
        sample
    }
}

/// The longest stall between two moments, as closely as the samples around them and the bounds of the
/// histogram tell.
pub(super) fn longest_stall(samples: &[Sample], from_ns: u64, to_ns: u64) -> Option<Stall> {
    let before = samples
        .iter()
        .rfind(|sample| sample.at_ns <= from_ns)
        .or(samples.first())?;
    let after = samples
        .iter()
        .find(|sample| sample.at_ns >= to_ns)
        .or(samples.last())?;
    let grown = before
        .stalls
        .iter()
        .zip(&after.stalls)
        .map(|(before, after)| (after.0, after.1 - before.1));
    let (mut longest, mut lower, mut counted) = (None, 0.0, 0);
    for (bound, count) in grown {
        if count > counted {
            longest = Some(Stall {
                over_ms: lower * 1e3,
                at_most_ms: Some(bound * 1e3).filter(|bound| bound.is_finite()),
            });
            counted = count;
        }
        lower = bound;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(at_s: u64, counts: [u64; 4]) -> Sample {
        let [a, b, c, d] = counts;
        let text = format!(
            "# HELP corebid_in_flight Orchestrations.\n# TYPE corebid_in_flight gauge\n\
             corebid_in_flight{{shard=\"0\"}} 70000\ncorebid_in_flight{{shard=\"1\"}} 69999\n\
             corebid_requests_total{{status=\"200\"}} 5\n\
             corebid_loop_stall_seconds_bucket{{le=\"0.001\"}} {a}\n\
             corebid_loop_stall_seconds_bucket{{le=\"0.025\"}} {b}\n\
             corebid_loop_stall_seconds_bucket{{le=\"1.0\"}} {c}\n\
             corebid_loop_stall_seconds_bucket{{le=\"+Inf\"}} {d}\n\
             corebid_loop_stall_seconds_sum 0.832288645\ncorebid_loop_stall_seconds_count {d}\n"
        );
        Sample::read(&text, at_s * 1_000_000_000)
    }

    #[test]
    fn reads_what_is_in_flight_over_all_shards() {
        assert_eq!(sample(0, [0; 4]).in_flight, Some(139_999));
        assert_eq!(Sample::read("up 1\n", 7).in_flight, None);
    }

    #[test]
    fn the_longest_stall_is_in_the_last_bucket_that_grew_alone() {
        let samples = [
            sample(1, [10, 10, 10, 10]),
            sample(2, [15, 16, 16, 16]),
            sample(3, [20, 21, 22, 22]),
            sample(4, [20, 21, 22, 23]),
            sample(5, [20, 21, 22, 23]),
        ];
        let check = |from_s: u64, to_s: u64, expected: Option<(f64, Option<f64>)>| {
            let stall = longest_stall(&samples, from_s * 1_000_000_000, to_s * 1_000_000_000);
            assert_eq!(
                stall.map(|s| (s.over_ms, s.at_most_ms)),
                expected,
                "{from_s} to {to_s} s"
            );
        };
        check(1, 2, Some((1.0, Some(25.0))));
        check(2, 3, Some((25.0, Some(1000.0))));
        check(1, 3, Some((25.0, Some(1000.0))));
        check(3, 4, Some((1000.0, None)));
        check(4, 5, None);
        check(0, 9, Some((1000.0, None)));
        assert_eq!(longest_stall(&[], 0, 1), None);
    }
}
