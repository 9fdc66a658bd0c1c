//! HTTP from the SSP: admits a request, reads it, has it orchestrated, answers it. Never parses JSON, never sees a
//! price.
//!
//! A request is answered whatever happens to it: a bad one with a reason, one too many at once with 503, one that
//! makes us panic with 204. Only a connection that is out of step is closed.

mod admission;
mod age;
mod answer;
mod body;
mod conduct;
mod connection;
mod frames;
mod framing;
mod guests;
mod reply;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::body::Incoming;

use crate::clock::{Instant, Timers};
use crate::fanout::Transport;
use crate::net::{ShardTimer, Signal};
use crate::openrtb::IdOf;
use crate::orchestration::{Orchestrator, Outcome, isolate};
use crate::telemetry::{ConnectionEnd, Recorder, ShedReason, Stage};

use admission::{Admission, Place};
use body::BodyError;
use guests::Guests;
use reply::Reply;

pub use admission::{Limits, QueueLimits};

/// Where SSPs post bid requests.
const AUCTION_PATH: &str = "/openrtb2/auction";

/// Whether the process is alive, for load balancers in front of the main port.
const STATUS_PATH: &str = "/status";

/// Ingress options.
#[derive(Debug, Clone)]
pub struct Options {
    /// What this shard takes on at most; what is more is shed.
    pub limits: Limits,
    /// Whether what is shed is answered 204, as if there were no bid, and not 503.
    pub sheds_as_no_bid: bool,
    /// A request's body, on the wire as well as decompressed.
    pub request_bytes_max: usize,
    /// A head must be there this long after its first byte, and a body this long after its head.
    pub read_timeout: Duration,
    /// An answer that the SSP does not take ends the connection after this, or after up to twice as long.
    pub write_timeout: Duration,
    /// A connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// Connections of this shard; one more is refused.
    pub connections_max: usize,
    /// Of these with one address.
    pub connections_per_peer_max: usize,
    /// A connection ends with the first request it brings when it is older than this, or somewhat younger.
    pub connection_age_max: Option<Duration>,
    /// Whether 400 says why.
    pub error_body: bool,
}

/// One configuration of a front door. A request keeps the one that it meets to its end, whatever is reloaded meanwhile.
pub struct Generation<T> {
    options: Options,
    orchestrator: Orchestrator<T>,
}

/// A shard's front door.
pub struct Ingress<T> {
    generation: RefCell<Rc<Generation<T>>>,
    admission: Admission,
    guests: Guests,
    timers: Rc<Timers>,
    recorder: Rc<Recorder>,
    draining: Signal,
    last_call_is_over: Signal,
    complains_again_at: Cell<Instant>,
}

impl<T: Transport + 'static> Ingress<T> {
    /// A front door for `orchestrator`.
    pub fn new(
        options: Options,
        orchestrator: Orchestrator<T>,
        timers: Rc<Timers>,
        recorder: Rc<Recorder>,
    ) -> Rc<Self> {
        // For what a connection does after hyper.
        let _of_this_thread = ShardTimer::install(&timers);
        Rc::new(Self {
            admission: Admission::new(options.limits, timers.now()),
            guests: Guests::new(options.connections_max, options.connections_per_peer_max),
            generation: RefCell::new(Rc::new(Generation {
                options,
                orchestrator,
            })),
            complains_again_at: Cell::new(timers.now()),
            timers,
            recorder,
            draining: Signal::default(),
            last_call_is_over: Signal::default(),
        })
    }

    /// Orchestrations and connections under way.
    #[must_use]
    pub fn load(&self) -> Load {
        let held_bytes = self.generation.borrow().orchestrator.held_bytes();
        Load {
            in_flight: self.admission.in_flight(),
            memory_bytes: self.admission.memory_bytes(held_bytes),
            connections: self.guests.count(),
        }
    }

    /// What new requests meet.
    #[must_use]
    pub fn generation(&self) -> Rc<Generation<T>> {
        Rc::clone(&self.generation.borrow())
    }

    /// Has new requests meet another configuration from now on, and new connections its limits. Returns the one before,
    /// which lives for as long as a request needs it.
    pub fn go_on_with(&self, options: Options, orchestrator: Orchestrator<T>) -> Rc<Generation<T>> {
        self.admission.limit(options.limits);
        self.guests
            .limit(options.connections_max, options.connections_per_peer_max);
        self.generation.replace(Rc::new(Generation {
            options,
            orchestrator,
        }))
    }

    /// Finishes what is in flight and closes every connection behind it: HTTP/2 is told so at once and in order
    /// (GOAWAY), HTTP/1.1 with its next answer.
    pub fn drain(&self) {
        self.draining.raise();
    }

    /// While draining: closes the connections, too, on which no request has come since.
    pub fn end_last_call(&self) {
        self.last_call_is_over.raise();
    }

    /// Counts a panic that cost a connection.
    pub fn connection_panicked(&self) {
        self.recorder.request_panicked();
        self.recorder.connection_ended(ConnectionEnd::Panicked);
    }

    async fn answer(&self, request: Request<Incoming>, arrival: Instant) -> reply::Response {
        let accepts_gzip = reply::accepts_gzip(request.headers());
        let generation = self.generation();
        let reply = isolate(self.reply(&generation, request, arrival))
            .await
            .unwrap_or_else(|panicked| {
                tracing::error!(message = %panicked, "a request made us panic; it is answered with 204");
                self.recorder.request_panicked();
                Reply::NothingForThisOne
            });
        let response = reply.into_response(accepts_gzip, generation.options.error_body);
        self.recorder.request(response.status().as_u16());
        response
    }

    async fn reply(&self, generation: &Generation<T>, request: Request<Incoming>, arrival: Instant) -> Reply {
        if let Some(refusal) = framing::fault(request.version(), request.uri(), request.headers()) {
            return refusal;
        }
        let reply = match (request.uri().path(), request.method()) {
            (AUCTION_PATH, &Method::POST) => match self.admit(generation, arrival) {
                Ok(place) => {
                    self.recorder.stage(Stage::Admit, self.nanos_since(arrival));
                    let reply = self.auction(generation, request, arrival, &place).await;
                    self.recorder.stage(Stage::Total, self.nanos_since(arrival));
                    return reply;
                }
                Err(reason) => self.shed(generation, reason),
            },
            (AUCTION_PATH, _) => Reply::MethodNotAllowed("POST"),
            (STATUS_PATH, &Method::GET | &Method::HEAD) => Reply::Alive,
            (STATUS_PATH, _) => Reply::MethodNotAllowed("GET, HEAD"),
            (path, method) => framing::nowhere(method, path),
        };
        // What is left unread would be taken for the next request, so hyper would have to close the connection.
        let version = request.version();
        match body::discard(request.into_body(), version, &generation.options, &self.timers).await {
            Ok(()) => reply,
            Err(error) => Reply::from(error),
        }
    }

    fn admit(&self, generation: &Generation<T>, arrival: Instant) -> Result<Place<'_>, ShedReason> {
        let held_bytes = generation.orchestrator.held_bytes();
        self.admission.enter(self.timers.now(), arrival, held_bytes)
    }

    fn shed(&self, generation: &Generation<T>, reason: ShedReason) -> Reply {
        self.recorder.shed(reason);
        match reason {
            // It is not one too many; there is just nothing left to do for it.
            ShedReason::Late => Reply::NothingForThisOne,
            _ if generation.options.sheds_as_no_bid => Reply::NothingForThisOne,
            _ => Reply::Shed(reason),
        }
    }

    async fn auction(
        &self,
        generation: &Generation<T>,
        request: Request<Incoming>,
        arrival: Instant,
        place: &Place<'_>,
    ) -> Reply {
        let reading = self.timers.now();
        let body = match body::read(request, &generation.options, &self.timers, place).await {
            Ok(body) => body,
            Err(error) => return Reply::from(error),
        };
        self.recorder.stage(Stage::Read, self.nanos_since(reading));
        let held = isolate(generation.orchestrator.orchestrate(arrival, &body)).await;
        let held = held.unwrap_or_else(|panicked| {
            tracing::error!(id = %IdOf(&body), message = %panicked, "a bid request made us panic; it is answered with 204");
            self.recorder.request_panicked();
            Ok(Outcome::NoBid)
        });
        match held {
            Ok(outcome) => Reply::Outcome(outcome),
            Err(invalid) => {
                let problems = invalid.to_string();
                tracing::info!(id = %IdOf(&body), problems, "an invalid bid request; it is answered with 400");
                Reply::Invalid(problems)
            }
        }
    }

    fn nanos_since(&self, start: Instant) -> u64 {
        u64::try_from(self.timers.now().since(start).as_nanos()).unwrap_or(u64::MAX)
    }
}

impl<T> Generation<T> {
    /// What a bid request is taken to its outcome by.
    #[must_use]
    pub fn orchestrator(&self) -> &Orchestrator<T> {
        &self.orchestrator
    }
}

impl<T> fmt::Debug for Generation<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Ingress<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ingress")
            .field("generation", &self.generation)
            .finish_non_exhaustive()
    }
}

/// What a shard is busy with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Orchestrations in flight.
    pub in_flight: usize,
    /// What they hold.
    pub memory_bytes: usize,
    /// Open connections from SSPs.
    pub connections: usize,
}

impl From<BodyError> for Reply {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge => Self::TooLarge,
            BodyError::UnknownEncoding => Self::UnknownEncoding,
            BodyError::TimedOut => Self::Status(StatusCode::REQUEST_TIMEOUT),
            BodyError::CutOff => Self::Invalid("the body ended before its length".to_owned()),
            BodyError::BadGzip => Self::Invalid("the body is not valid gzip".to_owned()),
        }
    }
}
