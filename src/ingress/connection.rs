//! One connection from an SSP, from its first byte to its close: HTTP/1.1 and HTTP/2 on the same port.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use futures_lite::future;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;

use super::Ingress;
use super::age::Age;
use super::reply::closing;
use crate::clock::Instant;
use crate::fanout::Transport;
use crate::net::{HyperStream, ShardExecutor, Signal};
use crate::telemetry::Http;

/// A request's head. Real ones have some 300 bytes in 8 headers; this leaves room for proxies and their tracing.
const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// hyper's read buffer, and its own floor for it: a head and what of the body came along.
const READ_BUFFER_BYTES_MAX: usize = 64 << 10;

/// Streams of one HTTP/2 connection at once. An SSP opens few connections and puts thousands of requests on each;
/// what the shard takes on in all is limited by `server.max_in_flight`.
const H2_STREAMS_MAX: u32 = 20_000;

/// Flow-control windows, wide enough that an SSP never waits for a WINDOW_UPDATE: a stream holds one body, a
/// connection what arrives within one turn.
const H2_STREAM_WINDOW_BYTES: u32 = 256 << 10;
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Resets of streams that were never accepted, after which the peer is told to calm down (CVE-2023-44487).
const H2_PENDING_RESETS_MAX: usize = 20;

/// A peer that is silent is asked for a sign of life, and given this long for it.
const H2_PING_TIMEOUT: Duration = Duration::from_secs(10);

impl<T: Transport + 'static> Ingress<T> {
    /// Serves one connection until either side closes it.
    pub async fn serve(self: Rc<Self>, mut stream: HyperStream) {
        let _counted = self.admission.connection();
        let made_at = self.timers.now();
        // A connection keeps the limits that it was made under.
        let (age_max, idle_timeout) = {
            let options = &self.generation.borrow().options;
            (options.connection_age_max, options.idle_timeout)
        };
        let age = Rc::new(Age::new(made_at, age_max));
        let first_byte_due = self.timers.sleep_until(made_at.after(idle_timeout));
        let silent = async {
            first_byte_due.await;
            Ok(None)
        };
        let told_apart = future::or(stream.speaks_h2(), silent);
        let drained = async {
            self.draining.raised().await;
            Ok(None)
        };
        // A connection without a byte has nothing in flight: draining may simply close it.
        match future::or(told_apart, drained).await {
            Ok(Some(true)) => self.serve_h2(stream, age, idle_timeout).await,
            Ok(Some(false)) => self.serve_h1(stream, age, idle_timeout).await,
            // Closed without a word, reset, or silent for too long: nobody to answer.
            Ok(None) | Err(_) => {}
        }
    }

    async fn serve_h1(self: &Rc<Self>, stream: HyperStream, age: Rc<Age>, idle_timeout: Duration) {
        let mut builder = http1::Builder::new();
        builder
            .timer(self.hyper_timer)
            .header_read_timeout(idle_timeout)
            .max_header_size(HEAD_BYTES_MAX)
            .max_headers(HEADERS_MAX)
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            // An SSP that has sent its FIN still reads: it gets its answer.
            .half_close(true)
            .keep_alive(true);
        // Not `pipeline_flush`: it holds answers back for as long as there are unread bytes, so half of a next request
        // keeps the answer to the one before it, and after bytes that are not HTTP nothing is answered at all.
        let ingress = Rc::clone(self);
        let counts = Rc::clone(&age);
        let service = service_fn(move |request| {
            let ingress = Rc::clone(&ingress);
            let (arrival, is_last) = ingress.arrival(&counts, Http::H1);
            async move {
                let response = ingress.answer(request, arrival).await;
                Ok::<_, Infallible>(if is_last { closing(response) } else { response })
            }
        });
        let connection = builder.serve_connection(stream, service);
        run(
            connection,
            &self.draining,
            &age,
            http1::Connection::graceful_shutdown,
        )
        .await;
    }

    async fn serve_h2(self: &Rc<Self>, stream: HyperStream, age: Rc<Age>, idle_timeout: Duration) {
        let mut builder = http2::Builder::new(ShardExecutor);
        builder
            .timer(self.hyper_timer)
            .keep_alive_interval(idle_timeout)
            .keep_alive_timeout(H2_PING_TIMEOUT)
            .max_concurrent_streams(H2_STREAMS_MAX)
            .initial_stream_window_size(H2_STREAM_WINDOW_BYTES)
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX);
        let ingress = Rc::clone(self);
        let counts = Rc::clone(&age);
        let service = service_fn(move |request| {
            let ingress = Rc::clone(&ingress);
            let (arrival, _) = ingress.arrival(&counts, Http::H2);
            async move { Ok::<_, Infallible>(ingress.answer(request, arrival).await) }
        });
        let connection = builder.serve_connection(stream, service);
        run(
            connection,
            &self.draining,
            &age,
            http2::Connection::graceful_shutdown,
        )
        .await;
    }

    /// A request has come on a connection of this age: when, and whether it is the last.
    fn arrival(&self, age: &Age, http: Http) -> (Instant, bool) {
        let arrival = self.timers.now();
        let is_last = age.ends_with_request(arrival);
        if is_last {
            self.recorder.connection_aged(http);
        }
        (arrival, is_last)
    }
}

/// Runs a connection to its end; when draining begins, or a request has come that is the last, tells it to finish what it
/// has and stop.
async fn run<C: Future>(
    connection: C,
    draining: &Signal,
    age: &Age,
    graceful_shutdown: impl FnOnce(Pin<&mut C>),
) {
    let mut connection = pin!(connection);
    let ended = poll_fn(|cx| match connection.as_mut().poll(cx) {
        Poll::Ready(_) => Poll::Ready(true),
        // hyper has asked for the answer while it was polled just now.
        Poll::Pending if age.has_retired() => Poll::Ready(false),
        Poll::Pending => Poll::Pending,
    });
    let told_to_stop = async {
        draining.raised().await;
        false
    };
    // How it ended is of no interest: a peer may go as it likes, and what it broke was counted where it broke.
    if !future::or(ended, told_to_stop).await {
        graceful_shutdown(connection.as_mut());
        connection.await;
    }
}
