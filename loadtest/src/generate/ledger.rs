//! Who was asked what and when, and what came of it. Takes times as arguments and does no I/O.
//!
//! An answer is only noted when it arrives; it is judged and counted when the loop has nothing more urgent to
//! do ([`Ledger::check_one`]), so that checking never delays a send that is due.

use super::body::Bodies;
use super::client::{Failure, Observer, Place};
use super::clock::nanos;
use super::options::Load;
use super::seconds::{Fate, Grid, Seconds};
use super::window::Window;
use crate::oracle::{Answer, Asked, Oracle, Verdict};
use crate::report::{Latencies, Tally};
use crate::simulated::Phases;
use std::collections::VecDeque;
use std::time::Duration;

/// The books of one run.
#[derive(Debug)]
pub(crate) struct Ledger {
    phases: Phases,
    /// The warm-up's, and one for each name of a phase.
    books: Vec<Book>,
    /// The book of each phase, the warm-up being 0. A request belongs to a phase by its intended time.
    book_of: Vec<usize>,
    end_ns: u64,
    timeout_ns: u64,
    tmax_ns: u64,
    in_flight: Window<Request>,
    unchecked: VecDeque<Answered>,
    spare: Vec<Vec<u8>>,
    oracle: Oracle,
    bodies: Bodies,
    pub(crate) service_time: Latencies,
    pub(crate) send_lateness: Latencies,
    pub(crate) connection_wait: Latencies,
    pub(crate) flight: Flight,
    pub(crate) seconds: Seconds,
    pub(crate) by_the_clock: ByTheClock,
    pub(crate) examples: Vec<String>,
}

/// What becomes of the requests of one part of a run.
#[derive(Debug, Default)]
pub(crate) struct Book {
    pub(crate) name: String,
    pub(crate) tally: Tally,
    pub(crate) latency: Latencies,
    pub(crate) excess: Latencies,
    /// Sent, and answered with 200 or 204, while the clock was in this part.
    pub(crate) sent: u64,
    pub(crate) answered: u64,
}

/// Since the start, whenever it was meant to be.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByTheClock {
    pub(crate) sent: u64,
    /// With 200 or 204.
    pub(crate) answered: u64,
    /// Refused, or without an answer.
    pub(crate) errors: u64,
    pub(crate) wrong: u64,
}

/// What has been sent and not been answered.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flight {
    /// Handed to the kernel, and neither answered nor given up.
    pub(crate) now: u64,
    /// The most there were at once.
    pub(crate) peak: u64,
    /// When the last was sent.
    pub(crate) last_sent_ns: u64,
    /// When the first and the last of them were answered, or given up.
    pub(crate) landed_ns: Option<(u64, u64)>,
}

impl Flight {
    fn take_off(&mut self, now_ns: u64) {
        self.now += 1;
        self.peak = self.peak.max(self.now);
        self.last_sent_ns = now_ns;
    }

    fn land(&mut self, now_ns: u64) {
        self.now -= 1;
        let first_ns = self.landed_ns.map_or(now_ns, |(first_ns, _)| first_ns);
        self.landed_ns = Some((first_ns, now_ns));
    }
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
    pub(crate) fn new(load: &Load, bodies: Bodies) -> Ledger {
        let phases = load.phases.clone();
        let mut books = vec![Book::default()];
        let mut book_of = vec![0];
        for phase in phases.list() {
            let known = (1..books.len()).find(|&book| books[book].name == phase.name);
            book_of.push(known.unwrap_or(books.len()));
            if known.is_none() {
                books.push(Book {
                    name: phase.name.clone(),
                    ..Book::default()
                });
            }
        }
        Ledger {
            oracle: Oracle::new(
                load.profile.clone(),
                phases.clone(),
                load.rules,
                load.limits,
                load.bid_requests.imps,
            ),
            end_ns: nanos(phases.end()),
            seconds: Seconds::new(Grid::of(&phases)),
            by_the_clock: ByTheClock::default(),
            phases,
            books,
            book_of,
            timeout_ns: nanos(load.timeout),
            tmax_ns: load.bid_requests.tmax_ms.saturating_mul(1_000_000),
            in_flight: Window::default(),
            unchecked: VecDeque::new(),
            spare: Vec::new(),
            bodies,
            service_time: Latencies::default(),
            send_lateness: Latencies::default(),
            connection_wait: Latencies::default(),
            flight: Flight::default(),
            examples: Vec::new(),
        }
    }

    /// The warm-up.
    pub(crate) fn warmup(&self) -> &Book {
        &self.books[0]
    }

    /// One for each name of a phase, in the order in which they began.
    pub(crate) fn books(&self) -> &[Book] {
        &self.books[1..]
    }

    /// Which of [`Ledger::books`] each phase is in.
    pub(crate) fn book_of_each_phase(&self) -> impl Iterator<Item = usize> {
        self.book_of[1..].iter().map(|book| book - 1)
    }

    /// All of them together.
    pub(crate) fn measured(&self) -> Book {
        let mut sum = Book::default();
        for book in self.books() {
            sum.tally.add(&book.tally);
            sum.latency.add(&book.latency);
            sum.excess.add(&book.excess);
            sum.sent += book.sent;
            sum.answered += book.answered;
        }
        sum
    }

    /// Answered with 200 or 204 so far, by the clock, in all phases.
    pub(crate) fn answered(&self) -> u64 {
        self.books().iter().map(|book| book.answered).sum()
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
        self.book(intended_ns).tally.requests += 1;
        self.seconds.take_up(intended_ns);
    }

    /// Gives up the oldest request if it has waited too long. `Some(Some(place))`: the client has to forget
    /// it there.
    pub(crate) fn expire_one(&mut self, now_ns: u64) -> Option<Option<Place>> {
        let (number, oldest) = self.in_flight.oldest()?;
        if oldest.intended_ns + self.timeout_ns > now_ns {
            return None;
        }
        let request = self.in_flight.take(number)?;
        if request.place.is_some() {
            self.flight.land(now_ns);
        }
        self.book(request.intended_ns).tally.errors.timeout += 1;
        // Left out, the slowest requests of all would make the percentiles better.
        let id = self.bodies.id(number);
        self.record_latency(&id, request.intended_ns, now_ns - request.intended_ns);
        if self.is_measured(request.intended_ns) {
            self.service_time.record_ns(now_ns - request.sent_ns);
        }
        self.decide(request.intended_ns, Fate::Error);
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
        let is_in_time = answer.status == 200 && answer.answered_ns - answer.intended_ns <= self.tmax_ns;
        let tally = &mut self.book(answer.intended_ns).tally;
        *tally.statuses.entry(answer.status).or_default() += 1;
        tally.in_time += u64::from(is_in_time);
        let judged = match answer.status {
            200 => Some(Answer::Response(&answer.body)),
            204 => Some(Answer::NoBid),
            _ => None,
        };
        let fate = judged.map_or(Fate::Error, |judged| self.judge(&answer, judged));
        self.decide(answer.intended_ns, fate);
        if self.spare.len() < SPARE_BODIES_MAX {
            self.spare.push(answer.body);
        }
    }

    fn judge(&mut self, answer: &Answered, judged: Answer<'_>) -> Fate {
        let id = self.bodies.id(answer.number);
        let asked = Asked {
            id: &id,
            since_start: Duration::from_nanos(answer.intended_ns),
            floors_micros: self.bodies.floors_micros(answer.number),
        };
        let verdict = self.oracle.judge(asked, judged);
        let book = self.book(answer.intended_ns);
        book.tally.verification.count(&verdict);
        let fate = if matches!(verdict, Verdict::Exact | Verdict::WithinGrey) {
            Fate::Right
        } else {
            Fate::Wrong
        };
        if fate == Fate::Wrong && self.examples.len() < EXAMPLES_MAX {
            self.examples.push(describe(&id, &verdict, answer));
        }
        self.record_latency(&id, answer.intended_ns, answer.answered_ns - answer.intended_ns);
        if self.is_measured(answer.intended_ns) {
            self.service_time.record_ns(answer.answered_ns - answer.sent_ns);
        }
        fate
    }

    fn record_latency(&mut self, id: &[u8], intended_ns: u64, latency_ns: u64) {
        let earliest_ns = nanos(self.oracle.earliest(id, Duration::from_nanos(intended_ns)));
        let excess_ns = latency_ns.saturating_sub(earliest_ns);
        self.seconds.measured(intended_ns, latency_ns, excess_ns);
        if !self.is_measured(intended_ns) {
            return;
        }
        let book = self.book(intended_ns);
        book.latency.record_ns(latency_ns);
        book.excess.record_ns(excess_ns);
        // The simulator rounds to the nearest point of its timer grid, so half a grid of it is not
        // suspicious.
        book.tally.early += u64::from(latency_ns + EARLY_SLACK_NS < earliest_ns);
    }

    /// Nothing more will be heard of a request.
    fn decide(&mut self, intended_ns: u64, fate: Fate) {
        self.seconds.decided(intended_ns, fate);
        self.by_the_clock.errors += u64::from(fate == Fate::Error);
        self.by_the_clock.wrong += u64::from(fate == Fate::Wrong);
    }

    /// The book of this moment.
    fn book(&mut self, at_ns: u64) -> &mut Book {
        let phase = self.phases.at(Duration::from_nanos(at_ns));
        &mut self.books[self.book_of[phase]]
    }

    fn is_measured(&self, intended_ns: u64) -> bool {
        self.phases.at(Duration::from_nanos(intended_ns)) > 0
    }

    /// The book of this moment, while the run lasts.
    fn book_by_the_clock(&mut self, now_ns: u64) -> Option<&mut Book> {
        (now_ns < self.end_ns).then(|| self.book(now_ns))
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
        self.book(intended_ns).tally.queued += 1;
    }

    fn is_wanted(&mut self, number: u64) -> bool {
        self.in_flight.get_mut(number).is_some()
    }

    fn sent(&mut self, number: u64, now_ns: u64, place: Place) {
        if let Some(book) = self.book_by_the_clock(now_ns) {
            book.sent += 1;
        }
        let Some(request) = self.in_flight.get_mut(number) else {
            return;
        };
        if request.place.is_none() {
            self.flight.take_off(now_ns);
            self.by_the_clock.sent += 1;
        }
        (request.sent_ns, request.place) = (now_ns, Some(place));
        let &mut Request {
            intended_ns,
            taken_ns,
            queued,
            ..
        } = request;
        let ready_ns = if queued { taken_ns } else { now_ns };
        self.seconds.sent(intended_ns, ready_ns - intended_ns);
        if self.is_measured(intended_ns) {
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
        self.flight.land(now_ns);
        if let 200 | 204 = status {
            self.by_the_clock.answered += 1;
            if let Some(book) = self.book_by_the_clock(now_ns) {
                book.answered += 1;
            }
        }
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
        self.flight.now -= u64::from(request.place.is_some());
        let errors = &mut self.book(request.intended_ns).tally.errors;
        *match failure {
            Failure::Connect => &mut errors.connect,
            Failure::Reset => &mut errors.reset,
            Failure::Parse => &mut errors.parse,
        } += 1;
        self.decide(request.intended_ns, Fate::Error);
    }

    fn unasked(&mut self) {
        if let Some(book) = self.books.last_mut() {
            book.tally.errors.unasked += 1;
        }
    }
}
