//! Asks DSPs over kept connections. Moves bytes; knows no JSON, no price and no deadline.
//!
//! On hyper's connections and not on hyper-util's pooled client: that one opens a connection whenever none is idle and
//! knows no bound, so a stall makes connections, which make the next stall.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// What is spoken with DSPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    H1,
    H2,
}

/// One DSP and the connections to it.
#[derive(Debug)]
pub(crate) struct Dsp {
    address: String,
    uri: Uri,
    headers: HeaderMap,
    connections: Connections,
}

#[derive(Debug)]
enum Connections {
    H1 {
        /// The one that was used last is used next, so that what is not needed falls idle and closes.
        idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
        /// One permit per call, so there are never more connections than permits.
        calls: Semaphore,
    },
    /// One carries all calls. Locked for as long as it takes to connect.
    H2(tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>),
}

/// As `max_connections` in profiles/reference.toml.
const H1_CONNECTIONS_MAX: usize = 256;
/// As corebid's `max_response_bytes`; an honest answer has 0.6 kB.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;
/// So large that a window is hardly ever updated, let alone waited for.
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Longer than any bid is worth waiting for.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a call has no answer does not matter here: it is no bid.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Dsp {
    pub(crate) fn new(address: String, protocol: Protocol) -> Result<Dsp, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-openrtb-version", HeaderValue::from_static("2.6"));
        let (uri, connections) = match protocol {
            Protocol::H1 => {
                headers.insert(HOST, HeaderValue::from_str(&address)?);
                let idle = Mutex::default();
                let calls = Semaphore::new(H1_CONNECTIONS_MAX);
                (Uri::from_static("/bid"), Connections::H1 { idle, calls })
            }
            Protocol::H2 => {
                let uri = format!("http://{address}/bid").parse()?;
                (uri, Connections::H2(tokio::sync::Mutex::default()))
            }
        };
        Ok(Dsp {
            address,
            uri,
            headers,
            connections,
        })
    }

    /// What the DSP answered with 200; `None` for a no-bid and for any failure.
    pub(crate) async fn call(&self, body: Bytes) -> Option<Bytes> {
        let answer = match &self.connections {
            Connections::H1 { idle, calls } => self.call_h1(idle, calls, body).await,
            Connections::H2(connection) => self.call_h2(connection, body).await,
        };
        answer.ok().flatten()
    }

    async fn call_h1(
        &self,
        idle: &Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
        calls: &Semaphore,
        body: Bytes,
    ) -> Result<Option<Bytes>, Failure> {
        let pop = || idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let _permit = calls.try_acquire()?;
        let mut connection = loop {
            let Some(mut kept) = pop() else {
                break self.connect_h1().await?;
            };
            // Otherwise the DSP has closed it.
            if kept.ready().await.is_ok() {
                break kept;
            }
        };
        let answer = read(connection.send_request(self.request(body)).await?).await?;
        idle.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok(answer)
    }

    async fn call_h2(
        &self,
        connection: &tokio::sync::Mutex<Option<http2::SendRequest<Full<Bytes>>>>,
        body: Bytes,
    ) -> Result<Option<Bytes>, Failure> {
        let mut kept = connection.lock().await;
        let mut connection = match &*kept {
            Some(open) if !open.is_closed() => open.clone(),
            _ => kept.insert(self.connect_h2().await?).clone(),
        };
        drop(kept);
        read(connection.send_request(self.request(body)).await?).await
    }

    fn request(&self, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn connect_h1(&self) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
        let (sender, connection) = http1::handshake(self.connect().await?).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect_h2(&self) -> Result<http2::SendRequest<Full<Bytes>>, Failure> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .handshake(self.connect().await?)
            .await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    async fn connect(&self) -> Result<TokioIo<TcpStream>, Failure> {
        let stream = timeout(CONNECT_TIME_MAX, TcpStream::connect(&self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(TokioIo::new(stream))
    }
}

/// To its end, also where there is nothing to read: only then is the connection free for the next call.
async fn read(response: Response<Incoming>) -> Result<Option<Bytes>, Failure> {
    let accepted = response.status() == StatusCode::OK;
    let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX)
        .collect()
        .await?;
    Ok(accepted.then(|| body.to_bytes()))
}
