//! HTTP/2 with prior knowledge on the port that speaks HTTP/1.1 as well.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::time::Duration;

use corebid_loadtest::dsps::{self, Dsps};
use corebid_loadtest::simulated::Profile;
use h2::client::SendRequest;
use http::{Method, Request};
use hyper::body::Bytes;

use crate::harness::{Dsp, Exchange, PATIENCE, Setup};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// Simulated DSPs that answer at once and always bid.
fn eager(count: u16) -> Dsps {
    Dsps::start(dsps::Options {
        profile: Profile {
            count,
            bid_share: 1.0,
            scale_latency: 0.0,
            ..Profile::default()
        },
        ..dsps::Options::default()
    })
    .unwrap()
}

fn exchange(dsps: &Dsps) -> Exchange {
    // Over HTTP/1.1 each call has a connection of its own.
    let named = |(n, port): (usize, &u16)| Dsp {
        more: "timeout_ms = 8000\nmax_connections = 1000\n",
        ..Dsp::new(format!("d{n}"), *port)
    };
    Exchange::start(&Setup::of(dsps.ports().iter().enumerate().map(named)))
}

/// Runs a client over one connection.
pub(crate) fn with_client<F: Future<Output = ()>>(
    address: SocketAddr,
    client: impl FnOnce(SendRequest<Bytes>) -> F,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_max_send_streams(1000)
            .handshake(stream)
            .await
            .unwrap();
        tokio::task::spawn_local(async move {
            let _ended = connection.await;
        });
        tokio::time::timeout(PATIENCE, client(send))
            .await
            .expect("it answers");
    });
}

pub(crate) async fn ask(
    send: &SendRequest<Bytes>,
    method: Method,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, Vec<u8>) {
    let mut request = Request::builder()
        .method(method)
        .uri(format!("http://exchange{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let mut send = send.clone().ready().await.unwrap();
    let body = body.into();
    let (response, mut stream) = send
        .send_request(request.body(()).unwrap(), body.is_empty())
        .unwrap();
    if !body.is_empty() {
        stream.send_data(body, true).unwrap();
    }
    let response = response.await.unwrap();
    let status = response.status().as_u16();
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece.unwrap();
        let _open = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    (status, bytes)
}

async fn bid(send: &SendRequest<Bytes>, body: impl Into<Bytes>) -> (u16, Vec<u8>) {
    ask(send, Method::POST, "/openrtb2/auction", &[], body).await
}

#[test]
fn many_streams_at_once_each_get_their_own_answer() {
    let dsps = eager(3);
    let exchange = exchange(&dsps);
    with_client(exchange.listen, async |send| {
        let streams: Vec<_> = (0..300)
            .map(|n| {
                let send = send.clone();
                tokio::task::spawn_local(async move {
                    let body = REQUEST.replace("\"r\"", &format!("\"stream-{n}\""));
                    let (status, answer) = bid(&send, body).await;
                    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
                    assert_eq!((status, &answer["id"]), (200, &format!("stream-{n}").into()));
                })
            })
            .collect();
        for stream in streams {
            stream.await.unwrap();
        }
    });
    exchange.wait_for("requests_total{status=\"200\"}", 300);
    exchange.wait_for("in_flight", 0);
}

#[test]
fn both_protocols_on_one_port_with_one_meaning() {
    let dsps = eager(2);
    let exchange = exchange(&dsps);
    let mut h1 = exchange.connect();
    with_client(exchange.listen, async |send| {
        assert_eq!(bid(&send, REQUEST).await, (200, h1.bid(REQUEST).body));
        assert_eq!(bid(&send, "{").await, (400, h1.bid("{").body));
        for (method, path, status) in [
            (Method::GET, "/openrtb2/auction", 405),
            (Method::GET, "/nowhere", 404),
            (Method::GET, "/status", 200),
            (Method::POST, "/openrtb2/auction", 400),
        ] {
            let answer = ask(&send, method, path, &[], "").await;
            assert_eq!(answer.0, status, "{path}");
        }
        let encoding = [("content-encoding", "br")];
        let answer = ask(&send, Method::POST, "/openrtb2/auction", &encoding, REQUEST).await;
        assert_eq!(answer.0, 415);
        let long = format!("{{\"id\":\"{}\"}}", "x".repeat(300_000));
        let request = Request::post("http://exchange/openrtb2/auction")
            .header("content-length", long.len())
            .body(())
            .unwrap();
        let mut ready = send.clone().ready().await.unwrap();
        let (response, mut stream) = ready.send_request(request, false).unwrap();
        let _may_be_refused = stream.send_data(long.into(), true);
        assert_eq!(response.await.unwrap().status(), 413);
        assert_eq!(
            bid(&send, REQUEST).await.0,
            200,
            "a stream's fault is not the connection's"
        );
    });
}

#[test]
fn streams_that_are_reset_leave_nothing_in_flight() {
    let dsps = eager(1);
    dsps.set_fault(0, dsps::Fault::Stall);
    let exchange = exchange(&dsps);
    with_client(exchange.listen, async |send| {
        let mut streams = Vec::new();
        for _ in 0..5 {
            let request = Request::post("http://exchange/openrtb2/auction")
                .body(())
                .unwrap();
            let mut ready = send.clone().ready().await.unwrap();
            let (response, mut stream) = ready.send_request(request, false).unwrap();
            stream.send_data(REQUEST.into(), true).unwrap();
            streams.push((response, stream));
        }
        until(|| exchange.metrics().sum("in_flight") == 5).await;
        for (_, stream) in &mut streams {
            stream.send_reset(h2::Reason::CANCEL);
        }
        // Long before the deadline of 8 s: the fan-out is given up with its stream.
        until(|| exchange.metrics().sum("in_flight") == 0).await;
    });
}

/// GOAWAY: what is in flight is finished, nothing new is begun, and the process ends.
#[test]
fn draining_says_goaway() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |_| {
        waits.wait();
        Does::NoBid
    });
    let mut exchange = Exchange::start(&Setup {
        server: "drain_ms = 15000",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    with_client(exchange.listen, async |send| {
        let begun = tokio::task::spawn_local({
            let send = send.clone();
            async move { bid(&send, REQUEST).await }
        });
        until(|| !dsp.asked().is_empty()).await;
        exchange.signal("TERM");
        // The client learns of it with its next turn; from then on it can begin nothing.
        while let Ok(mut ready) = send.clone().ready().await {
            let request = Request::get("http://exchange/status").body(()).unwrap();
            if let Ok((response, _)) = ready.send_request(request, true) {
                let _answered_or_refused = response.await;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!begun.is_finished());
        gate.open();
        assert_eq!(begun.await.unwrap().0, 204);
    });
    assert_eq!(exchange.wait().code(), Some(0));
}

#[test]
fn a_slow_body_costs_its_stream_only() {
    let dsps = eager(1);
    let exchange = Exchange::start(&Setup {
        server: "read_timeout_ms = 300",
        ..Setup::of([Dsp::new("d", dsps.ports()[0])])
    });
    with_client(exchange.listen, async |send| {
        let request = Request::post("http://exchange/openrtb2/auction")
            .body(())
            .unwrap();
        let mut ready = send.clone().ready().await.unwrap();
        let (response, mut stream) = ready.send_request(request, false).unwrap();
        stream.send_data(REQUEST[..10].into(), false).unwrap();
        assert_eq!(response.await.unwrap().status(), 408);
        assert_eq!(bid(&send, REQUEST).await.0, 200);
    });
    exchange.wait_for("in_flight", 0);
}

/// Waits with the client's own task going on.
async fn until(holds: impl Fn() -> bool) {
    while !holds() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client that pauses within the preface is HTTP/2 all the same, and one that begins like it and goes on otherwise
/// is refused as HTTP/1.1.
#[test]
fn the_preface_may_come_in_pieces() {
    let dsps = eager(1);
    let exchange = exchange(&dsps);
    let mut stream = std::net::TcpStream::connect(exchange.listen).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    for piece in b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".chunks(5) {
        stream.write_all(piece).unwrap();
        std::thread::yield_now();
    }
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).unwrap();
    let mut head = [0; 9];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS: {head:?}");

    let mut odd = exchange.connect();
    odd.send("PRIX / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(odd.answer().status, 404);
}
