//! HTTP/2: one connection carries all calls.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use h2::client::SendRequest;
use http_body_util::Full;
use hyper::StatusCode;
use hyper::client::conn::http2;
use hyper::header::CONTENT_LENGTH;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::gathered::Gathered;
use super::{Endpoint, Failure, RESPONSE_BYTES_MAX, h1};

/// So large that a window is given back once in a million answers, let alone waited for.
const CONNECTION_WINDOW_BYTES: u32 = 1 << 30;
/// The longest answer, and some padding.
const STREAM_WINDOW_BYTES: u32 = 320 * 1024;
/// Until the DSP has said how many it wants. More than are ever in flight.
const STREAMS_MAX: usize = 1 << 20;

/// The connection, once there is one.
#[derive(Debug)]
pub(super) struct Shared<S> {
    open: Mutex<Option<S>>,
    /// Locked for as long as it takes to connect.
    connecting: tokio::sync::Mutex<()>,
}

/// Who speaks HTTP/2: what sends a call on a connection. Clones share the connection.
pub(super) trait Sender: Clone + Sized {
    async fn connect(endpoint: &Endpoint) -> Result<Self, Failure>;

    /// Waits until a call can be sent; `None` when the connection is gone.
    async fn ready(self) -> Option<Self>;

    async fn send(self, endpoint: &Endpoint, body: Bytes) -> Result<Option<Bytes>, Failure>;
}

impl<S> Default for Shared<S> {
    fn default() -> Shared<S> {
        Shared {
            open: Mutex::default(),
            connecting: tokio::sync::Mutex::default(),
        }
    }
}

impl<S: Sender> Shared<S> {
    pub(super) async fn call(&self, endpoint: &Endpoint, body: Bytes) -> Result<Option<Bytes>, Failure> {
        let sender = match self.open().await {
            Some(sender) => sender,
            None => self.connect(endpoint).await?,
        };
        sender.send(endpoint, body).await
    }

    async fn open(&self) -> Option<S> {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner).clone();
        open?.ready().await
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<S, Failure> {
        let _alone = self.connecting.lock().await;
        // Somebody may have been here before.
        if let Some(sender) = self.open().await {
            return Ok(sender);
        }
        let sender = S::connect(endpoint).await?;
        *self.open.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        Ok(sender)
    }
}

/// The h2 crate.
#[derive(Clone, Debug)]
pub(super) struct Crate(SendRequest<Bytes>);

impl Sender for Crate {
    async fn connect(endpoint: &Endpoint) -> Result<Crate, Failure> {
        let (stream, writer) = Gathered::new(endpoint.connect().await?);
        let (sender, connection) = h2::client::Builder::new()
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_window_size(STREAM_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_MAX)
            .enable_push(false)
            .handshake(stream)
            .await?;
        tokio::spawn(writer.drive(connection));
        Ok(Crate(sender))
    }

    async fn ready(self) -> Option<Crate> {
        self.0.ready().await.ok().map(Crate)
    }

    async fn send(mut self, endpoint: &Endpoint, body: Bytes) -> Result<Option<Bytes>, Failure> {
        let mut request = endpoint.request(());
        request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        let (answer, mut stream) = self.0.send_request(request, false)?;
        stream.send_data(body, true)?;
        let answer = answer.await?;
        let accepted = answer.status() == StatusCode::OK;
        let mut stream = answer.into_body();
        let mut body = Bytes::new();
        while let Some(part) = stream.data().await {
            let part = part?;
            stream.flow_control().release_capacity(part.len())?;
            if body.len() + part.len() > RESPONSE_BYTES_MAX {
                return Err("the answer is too large".into());
            }
            // Most come in one piece, which is not copied.
            body = if body.is_empty() {
                part
            } else {
                [body, part].concat().into()
            };
        }
        Ok(accepted.then_some(body))
    }
}

/// hyper's client.
#[derive(Clone, Debug)]
pub(super) struct Hyper(http2::SendRequest<Full<Bytes>>);

impl Sender for Hyper {
    async fn connect(endpoint: &Endpoint) -> Result<Hyper, Failure> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_max_send_streams(STREAMS_MAX)
            .handshake(TokioIo::new(endpoint.connect().await?))
            .await?;
        tokio::spawn(connection);
        Ok(Hyper(sender))
    }

    async fn ready(mut self) -> Option<Hyper> {
        self.0.ready().await.is_ok().then_some(self)
    }

    async fn send(mut self, endpoint: &Endpoint, body: Bytes) -> Result<Option<Bytes>, Failure> {
        h1::read(self.0.send_request(endpoint.request(Full::new(body))).await?).await
    }
}
