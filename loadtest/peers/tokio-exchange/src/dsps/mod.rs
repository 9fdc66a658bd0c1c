//! Asks DSPs over kept connections. Moves bytes; knows no JSON, no price and no deadline.

mod gathered;
mod h1;
mod h2;

use std::time::Duration;

use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What is spoken with DSPs, and by whom. Which is the best, by how much, and what else was tried: README.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// HTTP/1.1 with keep-alive, by hyper
    H1,
    /// HTTP/2 with prior knowledge, by the h2 crate, with calls that are made together written together
    H2,
    /// HTTP/2 with prior knowledge, by hyper's client
    H2Hyper,
}

/// One DSP and the connections to it.
#[derive(Debug)]
pub(crate) struct Dsp {
    endpoint: Endpoint,
    connections: Connections,
}

#[derive(Debug)]
enum Connections {
    H1(h1::Connections),
    H2(h2::Shared<h2::Crate>),
    H2Hyper(h2::Shared<h2::Hyper>),
}

/// Where a DSP is, and what all requests to it have in common.
#[derive(Debug)]
struct Endpoint {
    address: String,
    uri: Uri,
    headers: HeaderMap,
}

/// As corebid's `max_response_bytes`; an honest answer has 0.6 kB.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;
/// Longer than any bid is worth waiting for.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(1);

/// Why a call has no answer does not matter here: it is no bid.
type Failure = Box<dyn std::error::Error + Send + Sync>;

impl Dsp {
    pub(crate) fn new(address: String, protocol: Protocol) -> Result<Dsp, Failure> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-openrtb-version", HeaderValue::from_static("2.6"));
        let uri = format!("http://{address}/bid").parse()?;
        let mut endpoint = Endpoint {
            address,
            uri,
            headers,
        };
        let connections = match protocol {
            Protocol::H1 => Connections::H1(h1::Connections::new(&mut endpoint)?),
            Protocol::H2 => Connections::H2(h2::Shared::default()),
            Protocol::H2Hyper => Connections::H2Hyper(h2::Shared::default()),
        };
        Ok(Dsp {
            endpoint,
            connections,
        })
    }

    /// What the DSP answered with 200; `None` for a no-bid and for any failure.
    pub(crate) async fn call(&self, body: Bytes) -> Option<Bytes> {
        let answer = match &self.connections {
            Connections::H1(connections) => connections.call(&self.endpoint, body).await,
            Connections::H2(connection) => connection.call(&self.endpoint, body).await,
            Connections::H2Hyper(connection) => connection.call(&self.endpoint, body).await,
        };
        answer.ok().flatten()
    }
}

impl Endpoint {
    fn request<B>(&self, body: B) -> Request<B> {
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }

    async fn connect(&self) -> Result<TcpStream, Failure> {
        let stream = timeout(CONNECT_TIME_MAX, TcpStream::connect(&self.address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}
