//! Asks DSPs under a deadline. Moves bytes; never reads JSON, never knows about prices.
//!
//! No task and no timer per call: an orchestration's calls share one place in [`Gatherings`], where the transport
//! drops each answer as it is read, and one entry in the shard's timer wheel, set to whichever call has to give
//! up first. It is woken once, when the last call has ended or has run out of time. A call that outlives its time costs its bid, not its connection: the late answer is read and dropped.

mod body;
mod breaker;
mod digits;
mod dsp;
mod gate;
mod gatherings;
/// The two codecs are public as the parser and the wheel are: without I/O, so that programs of their own can time and
/// fuzz them. Within this one only the pool speaks them.
pub mod h1;
pub mod h2;
mod pace;
mod pages;
mod patience;
mod pool;
mod transport;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use crate::clock::{Instant, Key, Timers};
use crate::net::gzip::gzip;

use body::Bodies;
pub use body::Body;
pub use breaker::{BreakerChanges, BreakerOptions, BreakerState, Conduct};
pub use dsp::{DspId, DspOptions, DspSet, EndpointError, Protocol, Target};
pub use gate::{GateOptions, Gates, Leave, NotAsked};
pub use gatherings::{Completion, Gatherings, Ticket};
pub use pace::MilliQps;
pub use patience::PatienceOptions;
pub use pool::{Connections, Pool, PoolLimits, Standing};
pub use transport::{Handshake, Late, Observer, Outgoing, Reply, Transport};

/// Why a call brought no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallFailure {
    /// No complete answer in the DSP's time.
    #[error("timed out")]
    Timeout,
    /// No complete answer up to when one is likely to matter, although the DSP may take longer.
    #[error("not waited for")]
    Cut,
    /// No connection could be made: refused, unreachable, no TLS agreed on, or this process is out of descriptors.
    #[error("unreachable")]
    Unreachable,
    /// Every allowed connection is busy; nothing is queued.
    #[error("all connections busy")]
    Throttled,
    /// The connection was lost before the answer was whole.
    #[error("connection lost")]
    Lost,
    /// The DSP had closed the connection before the call reached it, or says that it has not begun with the call:
    /// worth asking once more.
    #[error("idle connection was closed")]
    Stale,
    /// What came is not HTTP, or HTTP that must be refused.
    #[error("not a valid HTTP response: {0}")]
    Protocol(&'static str),
    /// The answer is longer than allowed.
    #[error("answer too large")]
    TooLarge,
    /// The answer's encoding was not asked for or is damaged.
    #[error("bad content encoding")]
    BadEncoding,
}

/// One DSP to ask.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Whom.
    pub dsp: DspId,
    /// The request body; DSPs that need the same bytes share them.
    pub body: &'a [u8],
    /// When this DSP's time is over; never after the orchestration's deadline.
    pub due_at: Instant,
    /// What its gate gave.
    pub leave: Leave,
}

/// What became of one call.
#[derive(Debug, Clone, Copy)]
pub struct Answer<'a> {
    /// The position of the call in the slice given to [`Fanout::gather`].
    pub call: usize,
    /// Who answered, or did not.
    pub dsp: DspId,
    /// What an answer would still come under that did not come in time.
    pub ticket: Ticket,
    /// From the start of the fan-out to the last byte of the answer.
    pub elapsed: Duration,
    /// The response, with its status as it came, or why there is none.
    pub result: Result<Response<'a>, CallFailure>,
}

/// A DSP's HTTP response.
#[derive(Debug, Clone, Copy)]
pub struct Response<'a> {
    /// The HTTP status.
    pub status: u16,
    /// The body, decompressed.
    pub body: &'a [u8],
    /// Names the connection, for [`Transport::distrust`].
    pub connection: u64,
}

/// Asks the DSPs of one shard, those of one configuration.
#[derive(Debug)]
pub struct Fanout<T> {
    dsps: DspSet,
    transport: T,
    gates: Rc<Gates>,
    gatherings: Rc<Gatherings>,
    timers: Rc<Timers>,
    bodies: Bodies,
    /// Kept for its memory: what was made of the bodies of one orchestration.
    made: RefCell<Vec<Made>>,
}

/// A body as DSPs want it.
#[derive(Debug)]
struct Made {
    plain: *const [u8],
    gzipped: bool,
    body: Body,
}

impl<T: Transport> Fanout<T> {
    /// A fan-out over `transport`, which completes its calls into `gatherings`.
    pub fn new(dsps: DspSet, transport: T, gatherings: Rc<Gatherings>, timers: Rc<Timers>) -> Self {
        Self {
            gates: Rc::new(Gates::new(&dsps, 0)),
            dsps,
            transport,
            gatherings,
            timers,
            bodies: Bodies::default(),
            made: RefCell::default(),
        }
    }

    /// The same behind gates that go on from one configuration to the next.
    #[must_use]
    pub fn behind(self, gates: Rc<Gates>) -> Self {
        Self { gates, ..self }
    }

    /// Who may be asked, and is told by this how each call went.
    #[must_use]
    pub fn gates(&self) -> &Gates {
        &self.gates
    }

    /// Whom it can ask.
    #[must_use]
    pub fn dsps(&self) -> &DspSet {
        &self.dsps
    }

    /// What carries the calls.
    #[must_use]
    pub fn transport(&self) -> &T {
        &self.transport
    }

    /// How many bytes have been answered and not been read yet.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        self.gatherings.held_bytes()
    }

    /// As its DSP wants it.
    fn body_of(&self, call: &Call<'_>) -> Body {
        if self.dsps.get(call.dsp).gzip {
            gzip(call.body).into()
        } else {
            self.bodies.copy(call.body)
        }
    }

    /// Starts every call at once and hands each answer to `on_answer`, exactly one per call, as soon as there is no other to
    /// wait for; of a response that says what to think of its DSP. Ends when all have answered or run out of time, and says
    /// how long taking the answers was in all: the clock is read for all that have arrived together, not for each.
    pub async fn gather(
        &self,
        calls: &[Call<'_>],
        mut on_answer: impl FnMut(Answer<'_>) -> Conduct,
    ) -> Duration {
        let started = self.timers.now();
        let mut gathering = Open::new(self, calls, started);
        gathering.start_all(&mut on_answer);
        let mut taking = Duration::ZERO;
        poll_fn(|cx| {
            let woken = self.timers.now();
            gathering.take_answers(&mut on_answer);
            let now = self.timers.now();
            taking += now.since(woken);
            gathering.give_up_on_the_overdue(now, &mut on_answer);
            if gathering.outstanding == 0 {
                return Poll::Ready(());
            }
            gathering.wait(cx.waker());
            Poll::Pending
        })
        .await;
        taking
    }
}

/// One fan-out under way. Dropping it (the SSP hung up, the request panicked) leaves its calls to end as late ones.
struct Open<'a, T: Transport> {
    fanout: &'a Fanout<T>,
    calls: &'a [Call<'a>],
    started: Instant,
    ticket: Ticket,
    outstanding: usize,
    next_due: Instant,
    timer: Option<Key>,
    timer_at: Instant,
}

impl<'a, T: Transport> Open<'a, T> {
    fn new(fanout: &'a Fanout<T>, calls: &'a [Call<'a>], started: Instant) -> Self {
        let ticket = fanout.gatherings.open(calls.len());
        Self {
            fanout,
            calls,
            started,
            ticket,
            outstanding: calls.len(),
            next_due: Instant::FAR_FUTURE,
            timer: None,
            timer_at: Instant::FAR_FUTURE,
        }
    }

    fn start_all(&mut self, on_answer: &mut impl FnMut(Answer<'_>) -> Conduct) {
        let mut made = self.fanout.made.take();
        for (index, call) in self.calls.iter().enumerate() {
            let gzipped = self.fanout.dsps.get(call.dsp).gzip;
            let is_it = |made: &Made| std::ptr::eq(made.plain, call.body) && made.gzipped == gzipped;
            let place = made.iter().position(is_it).unwrap_or_else(|| {
                made.push(Made {
                    plain: call.body,
                    gzipped,
                    body: self.fanout.body_of(call),
                });
                made.len() - 1
            });
            let outgoing = Outgoing {
                dsp: call.dsp,
                body: &made[place].body,
                due_at: call.due_at,
                fresh: false,
            };
            self.start(index, outgoing, self.started, on_answer);
        }
        made.clear();
        *self.fanout.made.borrow_mut() = made;
        self.next_due = self.earliest_due();
    }

    fn start(
        &mut self,
        index: usize,
        outgoing: Outgoing<'_>,
        now: Instant,
        on_answer: &mut impl FnMut(Answer<'_>) -> Conduct,
    ) {
        let ticket = self.ticket.for_call(index);
        if let Err(failure) = self.fanout.transport.start(outgoing, ticket, now) {
            self.fanout.gatherings.give_up(ticket);
            self.finish(index, Err(failure), now, on_answer);
        }
    }

    fn take_answers(&mut self, on_answer: &mut impl FnMut(Answer<'_>) -> Conduct) {
        while let Some(Completion {
            call: index,
            at,
            result,
        }) = self.fanout.gatherings.next(self.ticket)
        {
            match result {
                Ok(reply) => {
                    let response = Response {
                        status: reply.status,
                        body: &reply.body,
                        connection: reply.connection,
                    };
                    self.finish(index, Ok(response), at, on_answer);
                    self.fanout.gatherings.recycle(reply.body);
                }
                Err(CallFailure::Stale) => self.retry(index, on_answer),
                Err(failure) => self.finish(index, Err(failure), at, on_answer),
            }
        }
    }

    /// The one retry there is: on a connection of its own, so that it cannot be stale again.
    fn retry(&mut self, index: usize, on_answer: &mut impl FnMut(Answer<'_>) -> Conduct) {
        let call = &self.calls[index];
        let now = self.fanout.timers.now();
        if now >= call.due_at {
            return self.finish(index, Err(CallFailure::Timeout), now, on_answer);
        }
        let body = self.fanout.body_of(call);
        self.fanout.gatherings.wait_again(self.ticket.for_call(index));
        let outgoing = Outgoing {
            dsp: call.dsp,
            body: &body,
            due_at: call.due_at,
            fresh: true,
        };
        self.start(index, outgoing, now, on_answer);
    }

    fn give_up_on_the_overdue(&mut self, now: Instant, on_answer: &mut impl FnMut(Answer<'_>) -> Conduct) {
        if now < self.next_due {
            return;
        }
        for index in 0..self.calls.len() {
            let ticket = self.ticket.for_call(index);
            if self.calls[index].due_at <= now && self.fanout.gatherings.give_up(ticket) {
                self.finish(index, Err(CallFailure::Timeout), now, on_answer);
            }
        }
        self.next_due = self.earliest_due();
    }

    fn finish(
        &mut self,
        index: usize,
        result: Result<Response<'_>, CallFailure>,
        at: Instant,
        on_answer: &mut impl FnMut(Answer<'_>) -> Conduct,
    ) {
        self.outstanding -= 1;
        let call = &self.calls[index];
        let result = match result {
            Err(CallFailure::Timeout) if call.leave.is_cut() => Err(CallFailure::Cut),
            result => result,
        };
        let of_response = on_answer(Answer {
            call: index,
            dsp: call.dsp,
            ticket: self.ticket.for_call(index),
            elapsed: at.since(self.started),
            result,
        });
        let conduct = match result {
            Ok(_) => of_response,
            Err(failure) => conduct_in(failure, call, call.due_at.since(self.started), at),
        };
        self.fanout.gates.heard(call.dsp, call.leave, conduct, at);
    }

    fn earliest_due(&self) -> Instant {
        let waits = |index: &usize| self.fanout.gatherings.is_waiting(self.ticket.for_call(*index));
        (0..self.calls.len())
            .filter(waits)
            .map(|index| self.calls[index].due_at)
            .min()
            .unwrap_or(Instant::FAR_FUTURE)
    }

    fn wait(&mut self, waker: &std::task::Waker) {
        self.fanout.gatherings.set_waker(self.ticket, waker);
        let still_set = self.timer_at == self.next_due
            && self
                .timer
                .is_some_and(|key| self.fanout.timers.rewake(key, waker));
        if !still_set {
            self.fanout.timers.register(&mut self.timer, self.next_due, waker);
            self.timer_at = self.next_due;
        }
    }
}

/// Whose fault a failure is: the DSP's, unless it was not asked or had too little time; or unless we looked later than it
/// was due by a quarter of the time it `had`, because then it may have answered while our own shard stood still.
fn conduct_in(failure: CallFailure, call: &Call<'_>, had: Duration, at: Instant) -> Conduct {
    match failure {
        CallFailure::Throttled | CallFailure::Cut => Conduct::Unknown,
        CallFailure::Timeout if !call.leave.is_fair() || at.since(call.due_at) > had / 4 => Conduct::Unknown,
        _ => Conduct::Bad,
    }
}

impl<T: Transport> Drop for Open<'_, T> {
    fn drop(&mut self) {
        self.fanout.timers.cancel(&mut self.timer);
        self.fanout.gatherings.close(self.ticket);
    }
}

#[cfg(test)]
pub(crate) use tests::dsp as any_dsp;

#[cfg(test)]
mod tests;
