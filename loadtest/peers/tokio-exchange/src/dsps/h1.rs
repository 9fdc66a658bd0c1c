//! HTTP/1.1: one call at a time on each connection, and as many connections as there are calls.
//!
//! On hyper's connections and not on hyper-util's pooled client: that one opens a connection whenever none is idle and
//! knows no bound, so a stall makes connections, which make the next stall.

use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;

use super::{Endpoint, Failure, RESPONSE_BYTES_MAX};

#[derive(Debug)]
pub(super) struct Connections {
    /// The one that was used last is used next, so that what is not needed falls idle and closes.
    idle: Mutex<Vec<http1::SendRequest<Full<Bytes>>>>,
    /// One permit per call, so there are never more connections than permits.
    calls: Semaphore,
}

/// As `max_connections` in profiles/reference.toml.
const CONNECTIONS_MAX: usize = 256;

impl Connections {
    /// Makes the endpoint's requests those of HTTP/1.1: a path, and the host in a header.
    pub(super) fn new(endpoint: &mut Endpoint) -> Result<Connections, Failure> {
        let host = HeaderValue::from_str(&endpoint.address)?;
        endpoint.headers.insert(HOST, host);
        endpoint.uri = Uri::from_static("/bid");
        Ok(Connections {
            idle: Mutex::default(),
            calls: Semaphore::new(CONNECTIONS_MAX),
        })
    }

    pub(super) async fn call(&self, endpoint: &Endpoint, body: Bytes) -> Result<Option<Bytes>, Failure> {
        let pop = || self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let _permit = self.calls.try_acquire()?;
        let mut connection = loop {
            let Some(mut kept) = pop() else {
                break connect(endpoint).await?;
            };
            // Otherwise the DSP has closed it.
            if kept.ready().await.is_ok() {
                break kept;
            }
        };
        let answer = read(connection.send_request(endpoint.request(Full::new(body))).await?).await?;
        self.idle
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(connection);
        Ok(answer)
    }
}

async fn connect(endpoint: &Endpoint) -> Result<http1::SendRequest<Full<Bytes>>, Failure> {
    let (sender, connection) = http1::handshake(TokioIo::new(endpoint.connect().await?)).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// To its end, also where there is nothing to read: only then is the connection free for the next call.
pub(super) async fn read(response: Response<Incoming>) -> Result<Option<Bytes>, Failure> {
    let accepted = response.status() == StatusCode::OK;
    let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX)
        .collect()
        .await?;
    Ok(accepted.then(|| body.to_bytes()))
}
