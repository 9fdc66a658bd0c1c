//! Who was asked what and when, and what came of it. Takes times as arguments and does no I/O.
//!
//! An answer is only noted when it arrives; it is judged and counted when the loop has nothing more urgent to
//! do ([`Ledger::check_one`]), so that checking never delays a send that is due.

use super::body::Bodies;
use super::client::{Failure, Observer, Place};
use super::clock::nanos;
use super::options::Options;
use super::window::Window;
use crate::oracle::{Answer, Asked, Oracle, Verdict};
use crate::report::{Latencies, Tally};
use std::collections::VecDeque;

/// The books of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    /// The measured window, in nanoseconds from the start. A request belongs to it by its intended time.
    window_start_ns: u64,
    window_end_ns: u64,
    timeout_ns: u64,
    in_flight: Window<Request>,
    unchecked: VecDeque<Answered>,
    spare: Vec<Vec<u8>>,
    oracle: Oracle,
    bodies: Bodies,
    pub(crate) measured: Tally,
    pub(crate) warmup: Tally,
    pub(crate) latency: Latencies,
    pub(crate) excess: Latencies,
    pub(crate) service_time: Latencies,
    pub(crate) send_lateness: Latencies,
    pub(crate) connection_wait: Latencies,
    /// Sent, and answered with 200 or 204, while the clock was inside the measured window.
    pub(crate) sent_in_window: u64,
    pub(crate) answered_in_window: u64,
    pub(crate) examples: Vec<String>,
}

#[derive(Debug)]
struct Request {
    intended_ns: u64,
    taken_ns: u64,
    sent_ns: u64,
    queued: bool,
    place: Option<Place>,
}

#[derive(Debug)]
struct Answered {
    number: u64,
    intended_ns: u64,
    sent_ns: u64,
    answered_ns: u64,
    status: u16,
    body: Vec<u8>,
}

/// So many wrong answers are shown; the rest are counted.
const EXAMPLES_MAX: usize = 5;
/// And so much of each.
const EXAMPLE_BYTES_MAX: usize = 160;

impl Ledger {
    pub(crate) fn new(options: &Options, bodies: Bodies) -> Ledger {
        Ledger {
            window_start_ns: nanos(options.warmup),
            window_end_ns: nanos(options.warmup + options.duration),
            timeout_ns: nanos(options.timeout),
            in_flight: Window::default(),
            unchecked: VecDeque::new(),
            spare: Vec::new(),
            oracle: Oracle::new(
                options.profile.clone(),
                options.rules,
                options.limits,
                options.imps,
            ),
            bodies,
            measured: Tally::default(),
            warmup: Tally::default(),
            latency: Latencies::default(),
            excess: Latencies::default(),
            service_time: Latencies::default(),
            send_lateness: Latencies::default(),
            connection_wait: Latencies::default(),
            sent_in_window: 0,
            answered_in_window: 0,
            examples: Vec::new(),
        }
    }

    /// Notes a request that is about to be submitted. Requests come in the order of their numbers, from 0 on.
    pub(crate) fn take_up(&mut self, number: u64, intended_ns: u64, now_ns: u64) {
        let request = Request {
            intended_ns,
            taken_ns: now_ns,
            sent_ns: now_ns,
            queued: false,
            place: None,
        };
        let noted = self.in_flight.push(request);
        debug_assert_eq!(noted, number, "the schedule numbers arrivals without gaps");
        self.tally(intended_ns).requests += 1;
    }

    /// Gives up the oldest request if it has waited too long. `Some(Some(place))`: the client has to forget
    /// it there.
    pub(crate) fn expire_one(&mut self, now_ns: u64) -> Option<Option<Place>> {
        let (number, oldest) = self.in_flight.oldest()?;
        if oldest.intended_ns + self.timeout_ns > now_ns {
            return None;
        }
        let request = self.in_flight.take(number)?;
        self.tally(request.intended_ns).errors.timeout += 1;
        if self.is_measured(request.intended_ns) {
            // Left out, the slowest requests of all would make the percentiles better.
            let id = self.bodies.id(number);
            self.record_latency(&id, now_ns - request.intended_ns);
            self.service_time.record_ns(now_ns - request.sent_ns);
        }
        Some(request.place)
    }

    /// When [`Ledger::expire_one`] has something to do next.
    pub(crate) fn next_expiry_ns(&self) -> Option<u64> {
        self.in_flight
            .oldest()
            .map(|(_, request)| request.intended_ns + self.timeout_ns)
    }

    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.live()
    }

    /// Answers that wait to be judged.
    pub(crate) fn unchecked(&self) -> usize {
        self.unchecked.len()
    }

    /// Judges and counts one answer.
    pub(crate) fn check_one(&mut self) {
        let Some(answer) = self.unchecked.pop_front() else {
            return;
        };
        *self
            .tally(answer.intended_ns)
            .statuses
            .entry(answer.status)
            .or_default() += 1;
        let judged = match answer.status {
            200 => Some(Answer::Response(&answer.body)),
            204 => Some(Answer::NoBid),
            _ => None,
        };
        if let Some(judged) = judged {
            self.judge(&answer, judged);
        }
        if self.spare.len() < SPARE_BODIES_MAX {
            self.spare.push(answer.body);
        }
    }

    fn judge(&mut self, answer: &Answered, judged: Answer<'_>) {
        let id = self.bodies.id(answer.number);
        let asked = Asked {
            id: &id,
            floors_micros: self.bodies.floors_micros(answer.number),
        };
        let verdict = self.oracle.judge(asked, judged);
        self.tally(answer.intended_ns).verification.count(&verdict);
        if !matches!(verdict, Verdict::Exact | Verdict::WithinGrey) && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(describe(&id, &verdict, answer));
        }
        if self.is_measured(answer.intended_ns) {
            self.record_latency(&id, answer.answered_ns - answer.intended_ns);
            self.service_time.record_ns(answer.answered_ns - answer.sent_ns);
        }
    }

    fn record_latency(&mut self, id: &[u8], latency_ns: u64) {
        let earliest_ns = nanos(self.oracle.earliest(id));
        self.latency.record_ns(latency_ns);
        self.excess.record_ns(latency_ns.saturating_sub(earliest_ns));
        // The simulator rounds to the nearest point of its timer grid, so half a grid of it is not
        // suspicious.
        self.measured.early += u64::from(latency_ns + EARLY_SLACK_NS < earliest_ns);
    }

    fn tally(&mut self, intended_ns: u64) -> &mut Tally {
        if self.is_measured(intended_ns) {
            &mut self.measured
        } else {
            &mut self.warmup
        }
    }

    fn is_measured(&self, intended_ns: u64) -> bool {
        intended_ns >= self.window_start_ns
    }

    fn is_in_window(&self, now_ns: u64) -> bool {
        (self.window_start_ns..self.window_end_ns).contains(&now_ns)
    }
}

/// A few are enough: they are handed back as fast as they are taken.
const SPARE_BODIES_MAX: usize = 1024;
const EARLY_SLACK_NS: u64 = 500_000;

fn describe(id: &[u8], verdict: &Verdict, answer: &Answered) -> String {
    let id = String::from_utf8_lossy(id);
    let shown = &answer.body[..answer.body.len().min(EXAMPLE_BYTES_MAX)];
    let latency_ms = (answer.answered_ns - answer.intended_ns) / 1_000_000;
    format!(
        "{id} after {latency_ms} ms, {}: {verdict:?} {}",
        answer.status,
        String::from_utf8_lossy(shown)
    )
}

impl Observer for Ledger {
    fn queued(&mut self, number: u64) {
        let Some(request) = self.in_flight.get_mut(number) else {
            return;
        };
        request.queued = true;
        let intended_ns = request.intended_ns;
        self.tally(intended_ns).queued += 1;
    }

    fn is_wanted(&mut self, number: u64) -> bool {
        self.in_flight.get_mut(number).is_some()
    }

    fn sent(&mut self, number: u64, now_ns: u64, place: Place) {
        self.sent_in_window += u64::from(self.is_in_window(now_ns));
        let Some(request) = self.in_flight.get_mut(number) else {
            return;
        };
        (request.sent_ns, request.place) = (now_ns, Some(place));
        let &mut Request {
            intended_ns,
            taken_ns,
            queued,
            ..
        } = request;
        if self.is_measured(intended_ns) {
            let ready_ns = if queued { taken_ns } else { now_ns };
            self.send_lateness.record_ns(ready_ns - intended_ns);
            if queued {
                self.connection_wait.record_ns(now_ns - taken_ns);
            }
        }
    }

    fn answered(&mut self, number: u64, now_ns: u64, status: u16, body: &[u8]) {
        let Some(request) = self.in_flight.take(number) else {
            return;
        };
        self.answered_in_window += u64::from(self.is_in_window(now_ns) && matches!(status, 200 | 204));
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        copy.extend_from_slice(body);
        self.unchecked.push_back(Answered {
            number,
            intended_ns: request.intended_ns,
            sent_ns: request.sent_ns,
            answered_ns: now_ns,
            status,
            body: copy,
        });
    }

    fn failed(&mut self, number: u64, failure: Failure) {
        let Some(request) = self.in_flight.take(number) else {
            return;
        };
        let errors = &mut self.tally(request.intended_ns).errors;
        *match failure {
            Failure::Connect => &mut errors.connect,
            Failure::Reset => &mut errors.reset,
            Failure::Parse => &mut errors.parse,
        } += 1;
    }

    fn unasked(&mut self) {
        self.measured.errors.unasked += 1;
    }
}
