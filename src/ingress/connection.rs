//! One connection from an SSP, from its first byte to its close: HTTP/1.1 and HTTP/2 on the same port.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::future;
use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;

use super::Ingress;
use super::age::Age;
use super::answer::Answer;
use super::conduct::{Conduct, Patience, Witness, of_io};
use super::reply::closing;
use crate::clock::{Instant, Key, Timers};
use crate::fanout::Transport;
use crate::net::{self, Failure, HyperStream, Inlet, ShardExecutor, Signal};
use crate::telemetry::{ConnectionEnd, Http};

/// A request's head. Real ones have some 300 bytes in 8 headers; this leaves room for proxies and their tracing.
const HEAD_BYTES_MAX: usize = 16 << 10;
pub(super) const HEADERS_MAX: usize = 64;

/// hyper's read buffer, and its own floor for it: a head and what of the body came along.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;

/// Streams of one HTTP/2 connection at once. An SSP opens few connections and puts thousands of requests on each;
/// what the shard takes on in all is limited by `server.max_in_flight`.
const H2_STREAMS_MAX: u32 = 20_000;

/// Flow-control windows, wide enough that an SSP never waits for a WINDOW_UPDATE: a stream holds one body, a
/// connection what arrives within one turn.
const H2_STREAM_WINDOW_BYTES: u32 = 256 << 10;
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// The smallest there may be (RFC 9113 §6.5.2). A body has a few of them, and no frame holds up others for long.
const H2_FRAME_BYTES_MAX: u32 = 16 << 10;

/// What an answer may hold ready beyond the window: an answer is made whole, and is a few kB.
const H2_SEND_BUFFER_BYTES_MAX: usize = 256 << 10;

/// HPACK's own default: what a peer may have remembered of its heads (RFC 7541 §4.2).
const H2_HEADER_TABLE_BYTES: u32 = 4096;

/// Reads of an HTTP/2 connection before the requests that they brought are looked at, of 8 kB each: some six bid requests.
/// hyper reads until nothing is left and only then looks, so that behind a deep backlog all would be let in at once,
/// none would know when it came, and other connections would wait for this one. HTTP/1.1 brings one request at a time by
/// itself.
const H2_READS_MAX: u32 = 1;

/// Resets of streams that were never accepted, after which the peer is told to calm down (CVE-2023-44487).
const H2_PENDING_RESETS_MAX: usize = 20;

/// Streams that we had to reset for a peer's mistakes over the life of a connection (CVE-2025-8671).
const H2_MISTAKES_MAX: usize = 500;

/// The log says who behaves badly at most once in this time.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(1);

/// What is known of a connection beside what hyper knows of it.
struct Beside<'a> {
    inlet: &'a Inlet,
    conduct: &'a Conduct,
    failure: Failure,
}

impl<T: Transport + 'static> Ingress<T> {
    /// Serves one connection until either side closes it.
    pub async fn serve(self: Rc<Self>, stream: HyperStream) {
        // Who is gone already is nobody in particular.
        let peer = stream.peer().unwrap_or(Ipv4Addr::UNSPECIFIED.into());
        let end = match self.guests.admit(peer) {
            Ok(_guest) => self.serve_guest(stream).await,
            Err(full) => {
                stream.refuse();
                full
            }
        };
        self.recorder.connection_ended(end);
        self.complain(peer, end);
    }

    async fn serve_guest(self: &Rc<Self>, mut stream: HyperStream) -> ConnectionEnd {
        let made_at = self.timers.now();
        // A connection keeps the limits that it was made under.
        let (age_max, patience) = {
            let options = &self.generation.borrow().options;
            (options.connection_age_max, Patience::of(options))
        };
        let age = Age::new(made_at, age_max);
        // As long as the kernel can do it: the rest is up to `conduct`.
        let _of_tcp = stream.set_unread_max(patience.write);
        let told_apart = async {
            let heard = self.or_end(stream.hear(), made_at.after(patience.idle), ConnectionEnd::Idle);
            if !heard.await? {
                return Err(ConnectionEnd::Closed);
            }
            let due = self.timers.now().after(patience.read);
            let is_h2 = self.or_end(stream.speaks_h2(), due, ConnectionEnd::Slow).await?;
            is_h2.ok_or(ConnectionEnd::Closed)
        };
        let drained = async {
            self.last_call_is_over.raised().await;
            Err(ConnectionEnd::Closed)
        };
        match future::or(told_apart, drained).await {
            Ok(true) => self.serve_h2(stream, &age, patience).await,
            Ok(false) => self.serve_h1(stream, &age, patience).await,
            Err(end) => end,
        }
    }

    /// What comes of `reading`, if that is by `due`.
    async fn or_end<R>(
        &self,
        reading: impl Future<Output = io::Result<R>>,
        due: Instant,
        end: ConnectionEnd,
    ) -> Result<R, ConnectionEnd> {
        let due = self.timers.sleep_until(due);
        let read = async { reading.await.map_err(|error| of_io(&error)) };
        let too_late = async {
            due.await;
            Err(end)
        };
        future::or(read, too_late).await
    }

    async fn serve_h1(self: &Rc<Self>, stream: HyperStream, age: &Age, patience: Patience) -> ConnectionEnd {
        let mut builder = http1::Builder::new();
        builder
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            // An SSP that has sent its FIN still reads: it gets its answer. One that resets is heard by `failure`.
            .half_close(true)
            .keep_alive(true)
            // `conduct` is as patient, and does not set a timer for each request.
            .header_read_timeout(None)
            // Holds answers back for as long as there are unread bytes: half of a next request keeps the answer to the
            // one before it, and after bytes that are not HTTP nothing is answered at all.
            .pipeline_flush(false)
            .writev(true)
            .auto_date_header(true)
            .allow_multiple_spaces_in_request_line_delimiters(false)
            .ignore_invalid_headers(false)
            .preserve_header_case(false)
            .title_case_headers(false);
        let conduct = Conduct::new(patience);
        let (failure, inlet) = (stream.failure(), stream.inlet());
        let stream = stream.overseen_by(Witness::of_h1(&conduct, &self.timers));
        let service = service_fn(|request| {
            conduct.has_finished_a_head();
            self.serve_request(request, &conduct, age, &inlet, Http::H1)
        });
        let connection = builder.serve_connection(stream, service);
        let shutdown = http1::Connection::graceful_shutdown;
        // Draining ends it with its next answer. One that is not used cannot be closed without crossing, perhaps, with the
        // request that its client is just sending: that has to wait until hardly anybody can be.
        let stop = &self.last_call_is_over;
        let beside = Beside {
            inlet: &inlet,
            conduct: &conduct,
            failure,
        };
        self.run(connection, beside, age, stop, shutdown).await
    }

    async fn serve_h2(self: &Rc<Self>, stream: HyperStream, age: &Age, patience: Patience) -> ConnectionEnd {
        let mut builder = http2::Builder::new(ShardExecutor);
        builder
            .max_concurrent_streams(H2_STREAMS_MAX)
            .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .adaptive_window(false)
            .max_frame_size(H2_FRAME_BYTES_MAX)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .header_table_size(H2_HEADER_TABLE_BYTES)
            .max_send_buf_size(H2_SEND_BUFFER_BYTES_MAX)
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
            .max_local_error_reset_streams(H2_MISTAKES_MAX)
            // An idle connection ends by `conduct`; pings would take a lock for each frame.
            .keep_alive_interval(None)
            .auto_date_header(true);
        let conduct = Conduct::new(patience);
        let (failure, inlet) = (stream.failure(), stream.inlet());
        inlet.allow_reads(H2_READS_MAX);
        let stream = stream.overseen_by(Witness::of_h2(&conduct, &self.timers));
        let service = service_fn(|request| self.serve_request(request, &conduct, age, &inlet, Http::H2));
        let connection = builder.serve_connection(stream, service);
        let shutdown = http2::Connection::graceful_shutdown;
        let beside = Beside {
            inlet: &inlet,
            conduct: &conduct,
            failure,
        };
        self.run(connection, beside, age, &self.draining, shutdown).await
    }

    /// A request has come on a connection of this age.
    fn serve_request(
        self: &Rc<Self>,
        request: Request<Incoming>,
        conduct: &Rc<Conduct>,
        age: &Age,
        inlet: &Rc<Inlet>,
        http: Http,
    ) -> impl Future<Output = Result<http::Response<Answer>, Infallible>> + use<T> {
        // By the last bytes of its head.
        let arrival = inlet.received_at();
        let is_last = age.ends_with_request(arrival);
        if is_last {
            self.recorder.connection_aged(http);
        }
        let waiting = Waiting::new(self, conduct);
        let inlet = Rc::clone(inlet);
        async move {
            waiting.ingress.may_begin(&inlet).await;
            let mut response = waiting.ingress.answer(request, arrival).await;
            if http == Http::H1 {
                inlet.not_before(waiting.ingress.timers.now());
            }
            if http == Http::H1 && (is_last || waiting.ingress.draining.is_raised()) {
                response = closing(response);
            }
            let conduct = waiting.answered();
            Ok(response.map(|body| Answer::new(body, || conduct.owes())))
        }
    }

    /// Waits for a request's turn. It ages meanwhile, and those that came on its connection behind it stay there.
    async fn may_begin(&self, inlet: &Inlet) {
        let _waits = inlet.one_waits();
        net::may_begin(|| self.timers.now()).await;
    }

    /// Runs a connection to its end; when `stop` is raised, or a request has come that is the last, or none comes, tells
    /// it to finish what it has and stop.
    async fn run<C: Future<Output = hyper::Result<()>>>(
        &self,
        connection: C,
        beside: Beside<'_>,
        age: &Age,
        stop: &Signal,
        graceful_shutdown: impl Fn(Pin<&mut C>),
    ) -> ConnectionEnd {
        let Beside {
            inlet,
            conduct,
            failure,
        } = beside;
        let mut connection = pin!(connection);
        let mut stop = pin!(stop.raised());
        let mut alarm = Alarm::new(&self.timers);
        let mut told_to_stop = None;
        poll_fn(|cx| {
            loop {
                inlet.is_served();
                if let Poll::Ready(result) = connection.as_mut().poll(cx) {
                    let by_itself = || {
                        told_to_stop
                            .filter(|_| result.is_ok())
                            .unwrap_or(of_http(&result))
                    };
                    return Poll::Ready(conduct.end().unwrap_or_else(by_itself));
                }
                if let Some(end) = conduct.end() {
                    return Poll::Ready(end);
                }
                // hyper does not read while it holds an auction over HTTP/1.1.
                if failure.poll(cx).is_ready() {
                    return Poll::Ready(ConnectionEnd::Reset);
                }
                let is_told = told_to_stop.is_some();
                let why = match alarm.look(conduct, cx) {
                    // hyper has asked for the answer while it was polled just now.
                    Ok(()) if !is_told && age.has_retired() => ConnectionEnd::Closed,
                    Ok(()) if !is_told && stop.as_mut().poll(cx).is_ready() => ConnectionEnd::Closed,
                    Ok(()) => return Poll::Pending,
                    Err(ConnectionEnd::Idle) if !is_told => ConnectionEnd::Idle,
                    Err(end) => {
                        conduct.must_end(end);
                        // It reads, and with that says why.
                        inlet.is_served();
                        let _ends_now = connection.as_mut().poll(cx);
                        return Poll::Ready(end);
                    }
                };
                told_to_stop = Some(why);
                conduct.is_told_to_go();
                graceful_shutdown(connection.as_mut());
            }
        })
        .await
    }

    /// Says who behaves badly: a few of very many are enough to find out.
    fn complain(&self, peer: IpAddr, end: ConnectionEnd) {
        if !end.is_bad() {
            return;
        }
        let now = self.timers.now();
        if now >= self.complains_again_at.get() {
            self.complains_again_at.set(now.after(COMPLAINT_INTERVAL));
            tracing::warn!(%peer, reason = end.label(), "a connection was ended; more in the next second are only counted");
        }
    }
}

/// A request that waits for its answer.
struct Waiting<T: Transport + 'static> {
    ingress: Rc<Ingress<T>>,
    conduct: Rc<Conduct>,
    is_answered: bool,
}

impl<T: Transport + 'static> Waiting<T> {
    fn new(ingress: &Rc<Ingress<T>>, conduct: &Rc<Conduct>) -> Self {
        conduct.begins();
        Self {
            ingress: Rc::clone(ingress),
            conduct: Rc::clone(conduct),
            is_answered: false,
        }
    }

    fn answered(mut self) -> Rc<Conduct> {
        self.is_answered = true;
        Rc::clone(&self.conduct)
    }
}

impl<T: Transport + 'static> Drop for Waiting<T> {
    fn drop(&mut self) {
        if self.is_answered {
            self.conduct.ends(Some(self.ingress.timers.now()));
        } else {
            self.conduct.ends(None);
            self.ingress.recorder.request_cancelled();
        }
    }
}

/// Wakes a connection when its conduct is to be looked at. Set once for many requests: it rings too early for those
/// after the first, is set anew then, and costs them nothing.
struct Alarm<'a> {
    timers: &'a Timers,
    key: Option<Key>,
    rings_at: Instant,
}

impl<'a> Alarm<'a> {
    fn new(timers: &'a Timers) -> Self {
        Self {
            timers,
            key: None,
            rings_at: Instant::FAR_FUTURE,
        }
    }

    fn look(&mut self, conduct: &Conduct, cx: &Context<'_>) -> Result<(), ConnectionEnd> {
        let is_set = self.key.is_some_and(|key| self.timers.rewake(key, cx.waker()));
        if is_set && !conduct.wants_a_look() {
            return Ok(());
        }
        let next = conduct.look(self.timers.now())?;
        if !is_set || next < self.rings_at {
            self.rings_at = next;
            self.timers.register(&mut self.key, next, cx.waker());
        }
        Ok(())
    }
}

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        self.timers.cancel(&mut self.key);
    }
}

fn of_http(result: &hyper::Result<()>) -> ConnectionEnd {
    let Err(error) = result else {
        return ConnectionEnd::Closed;
    };
    // In the middle of a message: it has gone all the same.
    if error.is_incomplete_message() {
        ConnectionEnd::Closed
    } else {
        ConnectionEnd::Protocol
    }
}
