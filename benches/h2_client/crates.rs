//! hyper's client and the h2 crate's as a [`Transport`]. Made with care, as if they were to stay: one connection to each
//! DSP, windows that are never waited for, one request body for all DSPs, one copy of each answer.

use std::cell::RefCell;
use std::rc::Rc;

use corebid::clock::{self, Instant};
use corebid::fanout::{CallFailure, DspOptions, Gatherings, Outgoing, Reply, Ticket, Transport};
use corebid::net::{self, Readiness, ShardExecutor};
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{HeaderMap, Method, Request};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body as _, Bytes};
use hyper::client::conn::http2;
use hyper_util::rt::TokioIo;

use crate::Parts;
use crate::shard::Turns;
use crate::stream::{self, Gathered, Unflushed};

/// An answer has half a kilobyte: a window that is given back once in a million answers, as ours.
const CONNECTION_WINDOW: u32 = 1 << 30;
const STREAM_WINDOW: u32 = 320 << 10;
/// More than are ever asked at once.
const STREAMS_MAX: usize = 1 << 20;

/// One connection to each DSP, and what is the same in all requests on it.
pub(crate) struct Crate<S> {
    dsps: Vec<(S, Request<()>)>,
    gatherings: Rc<Gatherings>,
    readiness: Rc<Readiness>,
    unflushed: Unflushed,
    /// Of the fan-out that is being started. The first DSP's call brings it, the others get the same.
    body: RefCell<Bytes>,
}

/// What sends one call and awaits its answer.
pub(crate) trait Sender {
    fn send(
        &self,
        request: &Request<()>,
        body: Bytes,
        gatherings: &Rc<Gatherings>,
    ) -> impl Future<Output = Result<Reply, CallFailure>> + 'static;
}

impl<S: Sender> Transport for Crate<S> {
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, _now: Instant) -> Result<(), CallFailure> {
        if call.dsp.0 == 0 {
            *self.body.borrow_mut() = Bytes::copy_from_slice(call.body);
        }
        let (sender, request) = &self.dsps[call.dsp.index()];
        let answer = sender.send(request, self.body.borrow().clone(), &self.gatherings);
        let gatherings = Rc::clone(&self.gatherings);
        net::spawn(async move {
            let result = answer.await;
            gatherings.complete(ticket, clock::now(), result);
        });
        Ok(())
    }

    fn distrust(&self, _connection: u64) {}
}

impl<S> Turns for Crate<S> {
    fn turn(&self, _now: Instant) {
        self.readiness
            .take(|_, _| unreachable!("every socket is waited for by a task"))
            .unwrap();
    }

    fn flush(&self) -> bool {
        stream::flush(&self.unflushed);
        true
    }
}

/// hyper's.
type Hyper = http2::SendRequest<Full<Bytes>>;

/// On sockets whose writes are gathered.
pub(crate) async fn hyper_gathered(parts: Parts<'_>) -> Crate<Hyper> {
    let unflushed = Unflushed::default();
    let mut connected = Vec::new();
    for dsp in parts.0.iter() {
        let stream = Gathered::new(stream::connect(dsp.target.address, parts.1), &unflushed);
        connected.push((hyper(stream).await, request(dsp)));
    }
    together(connected, parts, unflushed)
}

/// On sockets that write at once.
pub(crate) async fn hyper_at_once(parts: Parts<'_>) -> Crate<Hyper> {
    let mut connected = Vec::new();
    for dsp in parts.0.iter() {
        let stream = stream::connect(dsp.target.address, parts.1);
        connected.push((hyper(stream).await, request(dsp)));
    }
    together(connected, parts, Unflushed::default())
}

async fn hyper<T: hyper::rt::Read + hyper::rt::Write + Unpin + 'static>(stream: T) -> Hyper {
    let (sender, connection) = http2::Builder::new(ShardExecutor)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_max_send_streams(STREAMS_MAX)
        .header_table_size(0)
        .handshake(stream)
        .await
        .unwrap();
    net::spawn(async {
        // It ends with its sender.
        let _ended = connection.await;
    });
    sender
}

impl Sender for Hyper {
    fn send(
        &self,
        request: &Request<()>,
        body: Bytes,
        gatherings: &Rc<Gatherings>,
    ) -> impl Future<Output = Result<Reply, CallFailure>> + 'static {
        let answer = self
            .clone()
            .send_request(request.clone().map(|()| Full::new(body)));
        let gatherings = Rc::clone(gatherings);
        async move {
            let mut answer = answer.await.map_err(|_| CallFailure::Lost)?;
            let (status, mut body) = (answer.status().as_u16(), Vec::new());
            if !answer.body().is_end_stream() {
                body = gatherings.buffer();
                while let Some(frame) = answer.frame().await {
                    let frame = frame.map_err(|_| CallFailure::Lost)?;
                    if let Some(bytes) = frame.data_ref() {
                        body.extend_from_slice(bytes);
                    }
                }
            }
            Ok(reply(status, body))
        }
    }
}

/// The h2 crate's.
type H2 = h2::client::SendRequest<Bytes>;

pub(crate) async fn h2_gathered(parts: Parts<'_>) -> Crate<H2> {
    let unflushed = Unflushed::default();
    let mut connected = Vec::new();
    for dsp in parts.0.iter() {
        let stream = Gathered::new(stream::connect(dsp.target.address, parts.1), &unflushed);
        connected.push((h2(stream).await, request(dsp)));
    }
    together(connected, parts, unflushed)
}

async fn h2(stream: Gathered) -> H2 {
    let (sender, connection) = h2::client::Builder::new()
        .initial_connection_window_size(CONNECTION_WINDOW)
        .initial_window_size(STREAM_WINDOW)
        .initial_max_send_streams(STREAMS_MAX)
        .header_table_size(0)
        .enable_push(false)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    net::spawn(async {
        // It ends with its sender.
        let _ended = connection.await;
    });
    sender
}

impl Sender for H2 {
    fn send(
        &self,
        request: &Request<()>,
        body: Bytes,
        gatherings: &Rc<Gatherings>,
    ) -> impl Future<Output = Result<Reply, CallFailure>> + 'static {
        let mut request = request.clone();
        request.headers_mut().insert(CONTENT_LENGTH, body.len().into());
        let sent = self
            .clone()
            .send_request(request, false)
            .and_then(|(answer, mut stream)| {
                stream.send_data(body, true)?;
                Ok(answer)
            });
        let gatherings = Rc::clone(gatherings);
        async move {
            let mut answer = sent
                .map_err(|_| CallFailure::Lost)?
                .await
                .map_err(|_| CallFailure::Lost)?;
            let (status, stream) = (answer.status().as_u16(), answer.body_mut());
            let mut body = Vec::new();
            if !stream.is_end_stream() {
                body = gatherings.buffer();
                while let Some(bytes) = stream.data().await {
                    let bytes = bytes.map_err(|_| CallFailure::Lost)?;
                    body.extend_from_slice(&bytes);
                    stream
                        .flow_control()
                        .release_capacity(bytes.len())
                        .map_err(|_| CallFailure::Lost)?;
                }
            }
            Ok(reply(status, body))
        }
    }
}

fn together<S>(
    dsps: Vec<(S, Request<()>)>,
    (_, readiness, gatherings): Parts<'_>,
    unflushed: Unflushed,
) -> Crate<S> {
    Crate {
        dsps,
        gatherings: Rc::clone(gatherings),
        readiness: Rc::clone(readiness),
        unflushed,
        body: RefCell::default(),
    }
}

fn request(dsp: &DspOptions) -> Request<()> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-openrtb-version", HeaderValue::from_static("2.6"));
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = format!("http://{}{}", dsp.target.authority, dsp.target.path)
        .parse()
        .unwrap();
    *request.headers_mut() = headers;
    request
}

fn reply(status: u16, body: Vec<u8>) -> Reply {
    Reply {
        status,
        body,
        connection: 0,
    }
}
