//! Where connections go when there are several shards, and when they are old.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use corebid_loadtest::dsps::{self, Dsps};
use corebid_loadtest::simulated::Profile;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use hyper::body::Bytes;

use crate::client::{Http, post};
use crate::harness::{Dsp, Exchange, PATIENCE, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;
const SHARDS: usize = 4;

/// As many connections as an SSP may have: no multiple of the shards.
const CONNECTIONS: usize = 6;

/// A DSP that always bids and answers at once, or never.
fn dsp(answers: bool) -> Dsps {
    let dsps = Dsps::start(dsps::Options {
        profile: Profile {
            count: 1,
            bid_share: 1.0,
            scale_latency: 0.0,
            ..Profile::default()
        },
        ..dsps::Options::default()
    })
    .unwrap();
    if !answers {
        dsps.set_fault(0, dsps::Fault::Stall);
    }
    dsps
}

fn exchange(server: &'static str, dsps: &Dsps) -> Exchange {
    Exchange::start(&Setup {
        server,
        ..Setup::of([Dsp {
            // Over HTTP/1.1 each call has a connection of its own.
            more: "timeout_ms = 8000\nmax_connections = 1000\n",
            ..Dsp::new("d", dsps.ports()[0])
        }])
    })
}

/// What each shard says of itself, once it comes to so many in all.
#[track_caller]
fn by_shard(exchange: &Exchange, gauge: &str, sum: usize) -> Vec<u64> {
    exchange.wait_for(gauge, sum as u64);
    let metrics = exchange.metrics();
    let of = |shard| metrics.sum(&format!("{gauge}{{shard=\"{shard}\"}}"));
    (0..SHARDS).map(of).collect()
}

#[track_caller]
fn check_spread(by_shard: &[u64], on_each: u64) {
    for in_flight in by_shard {
        assert!(
            [on_each, 2 * on_each].contains(in_flight),
            "{CONNECTIONS} connections with {on_each} each: {by_shard:?}"
        );
    }
}

#[test]
fn six_h1_connections_are_one_or_two_to_a_shard() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |_| {
        waits.wait();
        Does::NoBid
    });
    let exchange = Exchange::start(&Setup {
        server: "shards = 4",
        ..Setup::of([Dsp::new("d", dsp.port)])
    });
    let mut ssp: Vec<_> = (0..CONNECTIONS).map(|_| exchange.connect()).collect();
    check_spread(&by_shard(&exchange, "ssp_connections", CONNECTIONS), 1);
    for connection in &mut ssp {
        connection.send(post("", REQUEST));
    }
    check_spread(&by_shard(&exchange, "in_flight", CONNECTIONS), 1);
    exchange.wait_for("connections_accepted_total", 6);
    // All are answered, on whichever shard: who was passed is served as well as who was kept.
    gate.open();
    for connection in &mut ssp {
        assert_eq!(connection.answer().status, 204);
        assert_eq!(connection.bid(REQUEST).status, 204);
    }
}

#[test]
fn six_h2_connections_share_what_is_in_flight_evenly() {
    const STREAMS: usize = 40;
    let dsps = dsp(false);
    let exchange = exchange("shards = 4", &dsps);
    on_runtime(async || {
        let mut ssp = Vec::new();
        for _ in 0..CONNECTIONS {
            ssp.push(H2::connect(exchange.listen).await);
        }
        let mut answers = Vec::new();
        for connection in &ssp {
            for _ in 0..STREAMS {
                answers.push(connection.send().await.expect("it is open"));
            }
        }
        // The connections' own tasks send while this waits.
        let sum = (CONNECTIONS * STREAMS) as u64;
        while exchange.metrics().sum("in_flight") != sum {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        check_spread(
            &by_shard(&exchange, "in_flight", CONNECTIONS * STREAMS),
            STREAMS as u64,
        );
        drop(answers);
    });
}

/// A shard whose connections have gone gets the next ones.
#[test]
fn gaps_are_filled_again() {
    let dsps = dsp(true);
    let exchange = exchange("shards = 4", &dsps);
    let mut ssp: Vec<_> = (0..2 * SHARDS).map(|_| exchange.connect()).collect();
    assert_eq!(by_shard(&exchange, "ssp_connections", 2 * SHARDS), [2; SHARDS]);
    for _ in 0..3 {
        // Whichever shards these are on.
        ssp.truncate(SHARDS + 1);
        by_shard(&exchange, "ssp_connections", SHARDS + 1);
        while ssp.len() < 2 * SHARDS {
            ssp.push(exchange.connect());
        }
        assert_eq!(by_shard(&exchange, "ssp_connections", 2 * SHARDS), [2; SHARDS]);
        ssp.reverse();
    }
}

/// What the others are for: six connections are spread evenly in one of four cases only.
#[test]
fn without_balance_the_kernels_hash_decides() {
    let dsps = dsp(true);
    let exchange = exchange("shards = 4\nbalance = false", &dsps);
    let mut seen = Vec::new();
    let uneven = eventually(|| {
        let ssp: Vec<_> = (0..CONNECTIONS).map(|_| exchange.connect()).collect();
        let spread = by_shard(&exchange, "ssp_connections", CONNECTIONS);
        drop(ssp);
        by_shard(&exchange, "ssp_connections", 0);
        seen.push(spread.clone());
        spread.iter().any(|count| ![1, 2].contains(count))
    });
    assert!(uneven, "{seen:?}");
    let metrics = exchange.metrics();
    assert_eq!(metrics.sum("connections_accepted_total{placed=\"passed\"}"), 0);
}

/// Draining finds connections on every shard, whichever accepted them.
#[test]
fn passed_connections_are_drained_like_others() {
    let dsps = dsp(true);
    let mut exchange = exchange("shards = 4", &dsps);
    let mut ssp: Vec<_> = (0..2 * SHARDS).map(|_| exchange.connect()).collect();
    for connection in &mut ssp {
        assert_eq!(connection.bid(REQUEST).status, 200);
    }
    exchange.signal("TERM");
    for connection in &mut ssp {
        assert!(connection.is_closed());
    }
    assert_eq!(exchange.wait().code(), Some(0));
}

#[test]
fn an_old_h1_connection_ends_with_an_answer() {
    let dsps = dsp(true);
    let exchange = exchange("max_connection_age_ms = 1000", &dsps);
    let started = Instant::now();
    let mut young = exchange.connect();
    let mut idle = exchange.connect();
    let answer = young.bid(REQUEST);
    if started.elapsed() < Duration::from_millis(750) {
        assert_eq!((answer.status, answer.header("connection")), (200, None));
    }
    std::thread::sleep(Duration::from_millis(1000));
    // Not closed by itself: its next request may be on its way. That one is answered, a 204 or 404 like a 200.
    for (connection, path, status) in [(&mut young, "openrtb2/auction", 200), (&mut idle, "nowhere", 404)] {
        let request = String::from_utf8(post("", REQUEST)).unwrap();
        connection.send(request.replace("openrtb2/auction", path));
        let answer = connection.answer();
        assert_eq!(
            (answer.status, answer.header("connection")),
            (status, Some("close"))
        );
        assert!(connection.is_closed());
    }
    exchange.wait_for("connections_aged_total{protocol=\"h1\"}", 2);
    assert_eq!(exchange.bid(REQUEST).status, 200);
}

#[test]
fn without_an_age_limit_connections_stay() {
    let dsps = dsp(true);
    let exchange = exchange("max_connection_age_ms = 0", &dsps);
    let mut ssp = exchange.connect();
    for _ in 0..3 {
        assert_eq!(ssp.bid(REQUEST).header("connection"), None);
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Connections end every 100 ms and not one request is lost: what a client has sent is answered, and before it sends
/// the next it knows that it has to connect again.
#[test]
fn h1_clients_reconnect_under_load_without_an_error() {
    let dsps = dsp(true);
    let exchange = exchange("shards = 2\nmax_connection_age_ms = 100", &dsps);
    let until = Instant::now() + Duration::from_secs(2);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut ssp = Http::connect(exchange.listen);
                while Instant::now() < until {
                    let answer = ssp.bid(REQUEST);
                    assert_eq!(answer.status, 200);
                    if answer.header("connection") == Some("close") {
                        ssp = Http::connect(exchange.listen);
                    }
                }
            });
        }
    });
    exchange.wait_until("each client has connected several times", |metrics| {
        metrics.sum("connections_aged_total{protocol=\"h1\"}") >= 20
    });
}

#[test]
fn h2_clients_reconnect_under_load_without_an_error() {
    const AT_ONCE: usize = 20;
    let dsps = dsp(true);
    let exchange = exchange("shards = 2\nmax_connection_age_ms = 100", &dsps);
    let mut connected = 0;
    on_runtime(async || {
        let until = Instant::now() + Duration::from_secs(2);
        while Instant::now() < until {
            let ssp = H2::connect(exchange.listen).await;
            connected += 1;
            ssp.ask_until_goaway(AT_ONCE, &[200], || true).await;
        }
    });
    assert!(connected >= 5, "{connected}");
    exchange.wait_for("connections_aged_total{protocol=\"h2\"}", connected);
    exchange.wait_for("in_flight", 0);
    exchange.wait_for("ssp_connections", 0);
}

/// A connection with prior knowledge.
#[derive(Clone)]
pub(crate) struct H2(SendRequest<Bytes>);

impl H2 {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (send, connection) = h2::client::Builder::new()
            .initial_max_send_streams(1000)
            .handshake(stream)
            .await
            .unwrap();
        tokio::task::spawn_local(async move {
            let _ended = connection.await;
        });
        Self(send)
    }

    /// Sends a bid request; `None` when the connection takes no more.
    pub(crate) async fn send(&self) -> Option<ResponseFuture> {
        let mut ready = self.0.clone().ready().await.ok()?;
        let request = Request::post("http://exchange/openrtb2/auction").body(());
        let (response, mut body) = ready.send_request(request.unwrap(), false).ok()?;
        body.send_data(REQUEST.into(), true).expect("its stream is open");
        Some(response)
    }
}

impl H2 {
    /// Keeps so many requests in flight, each of which must be answered with one of these statuses, until the other side wants no more or
    /// `goes_on` says so.
    pub(crate) async fn ask_until_goaway(
        &self,
        at_once: usize,
        expected: &'static [u16],
        goes_on: impl Fn() -> bool + Clone + 'static,
    ) {
        let streams: Vec<_> = (0..at_once)
            .map(|_| {
                let (ssp, goes_on) = (self.clone(), goes_on.clone());
                tokio::task::spawn_local(async move {
                    while goes_on() {
                        // GOAWAY has come, and nothing was sent.
                        let Some(answer) = ssp.send().await else { return };
                        let answer = answer.await.expect("what was sent is answered");
                        assert!(expected.contains(&answer.status().as_u16()), "{answer:?}");
                        let mut body = answer.into_body();
                        while let Some(piece) = body.data().await {
                            let piece = piece.expect("the answer is whole");
                            let _open = body.flow_control().release_capacity(piece.len());
                        }
                    }
                })
            })
            .collect();
        for stream in streams {
            stream.await.unwrap();
        }
    }
}

pub(crate) fn on_runtime(client: impl AsyncFnOnce()) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(PATIENCE, client())
            .await
            .expect("it answers");
    });
}
