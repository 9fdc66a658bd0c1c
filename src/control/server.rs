//! Connections to the admin port: accepts them, limits them, ends them. Knows no page.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{sleep, timeout};

use super::Limits;
use super::answers::Pages;
use crate::net::Signal;

/// After an accept that failed, which it does mostly for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// For the answer under way when a connection gets too old.
const LAST_ANSWER: Duration = Duration::from_secs(5);

/// A request's head. The smallest that hyper takes; a scraper sends a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// Serves visitors; does not return. Their connections end with the next answer when `closing` is raised.
pub(super) async fn serve(listener: TcpListener, limits: Limits, pages: Pages, closing: Rc<Signal>) {
    let open = Rc::new(Cell::new(0));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let seat = Seat::take(&open);
                // A visitor too many is sent away by closing its connection.
                if open.get() <= limits.connections_max {
                    let closing = Rc::clone(&closing);
                    tokio::task::spawn_local(converse(stream, seat, limits, pages.clone(), closing));
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot accept");
                sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// Answers one visitor until either side has enough. What goes wrong on the way is the visitor's affair.
async fn converse(stream: TcpStream, _seat: Seat, limits: Limits, pages: Pages, closing: Rc<Signal>) {
    let service = service_fn(|request| {
        let answer = pages.answer(&request);
        async move { Ok::<_, Infallible>(answer.come().await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = async {
        let _either_way = connection.as_mut().await;
        true
    };
    let told_to_end = async {
        closing.raised().await;
        false
    };
    let ended = timeout(limits.connection_age_max, future::or(ended, told_to_end)).await;
    if ended != Ok(true) {
        connection.as_mut().graceful_shutdown();
        let _ = timeout(LAST_ANSWER, connection).await;
    }
}

/// One of the connections that may be open at once.
struct Seat(Rc<Cell<usize>>);

impl Seat {
    fn take(open: &Rc<Cell<usize>>) -> Self {
        open.set(open.get() + 1);
        Self(Rc::clone(open))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
