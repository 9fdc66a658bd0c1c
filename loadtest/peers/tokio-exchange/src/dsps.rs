//! Asks DSPs over kept connections. Moves bytes; knows no JSON, no price and no deadline: whoever drops a call ends it.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};

/// What is spoken with DSPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Protocol {
    H1,
    H2,
}

/// Every DSP, by its number.
#[derive(Debug)]
pub(crate) struct Dsps(Vec<Dsp>);

#[derive(Debug)]
struct Dsp {
    /// One for each DSP: a pool's lock is then only ever contended by calls to the same DSP.
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    headers: HeaderMap,
}

/// As `max_connections` in profiles/reference.toml.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// As corebid's `max_response_bytes`; an honest answer has 0.6 kB.
const RESPONSE_BYTES_MAX: usize = 256 * 1024;
/// So large that a window is hardly ever updated, let alone waited for.
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

impl Dsps {
    pub(crate) fn new(endpoints: &[String], protocol: Protocol) -> Result<Dsps, hyper::http::Error> {
        endpoints
            .iter()
            .map(|endpoint| Dsp::new(endpoint, protocol))
            .collect::<Result<_, _>>()
            .map(Dsps)
    }

    /// How many there are: their numbers are below that.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// What the DSP answered with 200; `None` for a no-bid and for any failure.
    pub(crate) async fn call(&self, dsp: usize, body: Bytes) -> Option<Bytes> {
        let dsp = &self.0[dsp];
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = dsp.uri.clone();
        *request.headers_mut() = dsp.headers.clone();
        let response = dsp.client.request(request).await.ok()?;
        let accepted = response.status() == StatusCode::OK;
        // A 204 is read to its end too: only then is the connection free for the next call.
        let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX)
            .collect()
            .await
            .ok()?;
        accepted.then(|| body.to_bytes())
    }
}

impl Dsp {
    fn new(endpoint: &str, protocol: Protocol) -> Result<Dsp, hyper::http::Error> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .http2_only(protocol == Protocol::H2)
            .http2_initial_connection_window_size(H2_CONNECTION_WINDOW_BYTES)
            .build(connector);
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert("x-openrtb-version", HeaderValue::from_static("2.6"));
        if protocol == Protocol::H1 {
            // Else hyper writes it anew for every call. Over HTTP/2 it is `:authority`.
            headers.insert(HOST, HeaderValue::from_str(endpoint)?);
        }
        Ok(Dsp {
            client,
            uri: format!("http://{endpoint}/bid").parse()?,
            headers,
        })
    }
}
