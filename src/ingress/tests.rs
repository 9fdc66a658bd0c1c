//! The request boundary over a real socket: a panic costs its request and nothing else.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::thread;

use futures_lite::future;

use super::*;
use crate::auction::{FloorRule, Rules};
use crate::clock;
use crate::fanout::{
    CallFailure, DspOptions, DspSet, Fanout, Gatherings, Outgoing, Protocol, Target, Ticket,
};
use crate::money::{Cpm, Currency, RateTable};
use crate::net::{self, HyperStream, Listener, Readiness};
use crate::openrtb::Validation;
use crate::orchestration;
use crate::telemetry::prometheus::{self, Format};
use crate::telemetry::{self, Roster};

const REQUEST: &str = r#"{"id":"r","imp":[{"id":"1","banner":{}}]}"#;

/// DSP 0 never answers, DSP 1 makes us panic when it is asked with `"boom"` in the request, and bids otherwise.
struct Treacherous {
    gatherings: Rc<Gatherings>,
    /// The calls to DSP 0, to be answered when it is too late.
    unanswered: RefCell<Vec<Ticket>>,
}

impl Transport for Treacherous {
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure> {
        if call.dsp.index() == 0 {
            self.unanswered.borrow_mut().push(ticket);
            return Ok(());
        }
        assert!(!call.body.windows(6).any(|bytes| bytes == b"\"boom\""), "boom");
        let body = br#"{"id":"r","seatbid":[{"bid":[{"id":"b","impid":"1","price":1,"adm":"x"}]}]}"#;
        let reply = crate::fanout::Reply {
            status: 200,
            body: body.to_vec(),
            connection: 0,
        };
        self.gatherings.complete(ticket, now, Ok(reply));
        Ok(())
    }

    fn distrust(&self, _connection: u64) {}
}

#[test]
fn a_panic_costs_its_request_and_nothing_else() {
    net::run_as_shard(async {
        let readiness = Rc::new(Readiness::new().unwrap());
        let alarm = Rc::clone(&readiness);
        let timers = Timers::new(clock::now, move |at| alarm.set_alarm(at));
        let (recorders, mut merged) = telemetry::channel(1);
        let recorder =
            Rc::new(recorders.recorder(0, &Arc::new(Roster::new(vec!["a".into(), "b".into()], "USD"))));
        let gatherings = Rc::new(Gatherings::default());
        let transport = Rc::new(Treacherous {
            gatherings: Rc::clone(&gatherings),
            unanswered: RefCell::default(),
        });
        let ingress = ingress(&transport, &gatherings, &timers, &recorder);
        let waiting_before = timers.waiting();

        let ssp = thread::spawn({
            let address = listen(&ingress, &readiness);
            move || ask(address)
        });
        let served = async {
            while !ssp.is_finished() || ingress.load().connections > 0 {
                timers
                    .sleep_until(timers.now().after(Duration::from_millis(5)))
                    .await;
            }
        };
        future::or(served, drive(&readiness, &timers)).await;
        let statuses = ssp.join().unwrap();
        assert_eq!(
            statuses,
            [200, 204, 200, 204, 204, 200],
            "the panics are the 204s"
        );

        assert_eq!(
            ingress.load(),
            Load {
                in_flight: 0,
                memory_bytes: 0,
                connections: 0
            }
        );
        assert_eq!(gatherings.open_count(), 0, "fan-outs under way");
        assert_eq!(timers.waiting(), waiting_before, "timers");
        // One request at a time: one arena, taken and given back over and over.
        assert_eq!(ingress.generation().orchestrator().arenas_idle(), 1);
        // What still comes in for the fan-outs that are gone finds nobody.
        for ticket in transport.unanswered.take() {
            assert!(!gatherings.complete(ticket, clock::now(), Err(CallFailure::Lost)));
        }
        recorder.publish();
        merged.collect();
        let metrics = prometheus::render(&merged, Format::Text);
        for sample in [
            "corebid_panics_total{layer=\"request\"} 3",
            "corebid_requests_total{status=\"204\"} 3",
            "corebid_requests_total{status=\"200\"} 3",
        ] {
            assert!(metrics.contains(sample), "{sample}\n{metrics}");
        }
    });
}

/// One connection: good requests and such that make us panic, by turns. Returns the statuses.
fn ask(address: SocketAddr) -> Vec<u16> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let boom = REQUEST.replace("{}", r#"{"ext":"boom"}"#);
    let mut statuses = Vec::new();
    for body in [REQUEST, &boom, REQUEST, &boom, &boom, REQUEST] {
        let length = body.len();
        write!(
            stream,
            "POST /openrtb2/auction HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        statuses.push(status(&mut stream));
    }
    statuses
}

/// Reads one answer whole: nothing else is on the connection.
fn status(stream: &mut TcpStream) -> u16 {
    let mut bytes = Vec::new();
    loop {
        let mut some = [0; 4096];
        let count = stream.read(&mut some).unwrap();
        assert!(count > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&some[..count]);
        let text = String::from_utf8_lossy(&bytes);
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() == length.unwrap_or(0) {
            return head[9..12].parse().unwrap();
        }
    }
}

/// What a shard's driver does, but for DSPs.
async fn drive(readiness: &Readiness, timers: &Timers) {
    loop {
        readiness.take(|_, _| ()).unwrap();
        timers.advance(clock::now());
        if net::settle(|| false).await {
            readiness.wait().unwrap();
        }
    }
}

/// Takes one connection and serves it.
fn listen(ingress: &Rc<Ingress<Rc<Treacherous>>>, readiness: &Rc<Readiness>) -> SocketAddr {
    let socket = net::bind(([127, 0, 0, 1], 0).into()).unwrap();
    let address = net::local_address(&socket).unwrap();
    let ingress = Rc::clone(ingress);
    let listener = Listener::new(socket, readiness).unwrap();
    let readiness = Rc::clone(readiness);
    net::spawn(async move {
        loop {
            if let Some(socket) = listener.accept().unwrap() {
                let stream = HyperStream::new(socket, &readiness).unwrap();
                return ingress.serve(stream).await;
            }
            poll_fn(|cx| listener.poll_connects(cx)).await;
        }
    });
    address
}

fn ingress(
    transport: &Rc<Treacherous>,
    gatherings: &Rc<Gatherings>,
    timers: &Rc<Timers>,
    recorder: &Rc<Recorder>,
) -> Rc<Ingress<Rc<Treacherous>>> {
    let dsp = |name: &str| DspOptions {
        name: name.to_owned(),
        target: Target {
            address: ([127, 0, 0, 1], 1).into(),
            authority: "x".to_owned(),
            path: "/".to_owned(),
        },
        timeout: Duration::from_millis(100),
        protocol: Protocol::Http1,
        tls: None,
        connections_max: 1,
        connections_warm: 0,
        response_bytes_max: 256 << 10,
        gzip: false,
        gate: crate::fanout::GateOptions::default(),
    };
    let fanout = Fanout::new(
        DspSet::from(&[dsp("a"), dsp("b")][..]),
        Rc::clone(transport),
        Rc::clone(gatherings),
        Rc::clone(timers),
    );
    let orchestration = orchestration::Options {
        deadline: Duration::from_millis(100),
        tmax_margin: Duration::ZERO,
        fan_out_min: Duration::from_millis(1),
        currency: Currency::USD,
        rates: Arc::new(RateTable::new(std::iter::empty()).unwrap()),
        rules: Rules {
            floor_rule: FloorRule::AtOrAbove,
            increment: Cpm::ZERO,
            prefer_deals: false,
        },
        validation: Validation::default(),
        writes_no_bid: false,
        rehearsal: None,
    };
    let orchestrator = Orchestrator::new(orchestration, fanout, Rc::clone(timers), Rc::clone(recorder));
    let options = Options {
        limits: Limits {
            in_flight_max: 10,
            memory_bytes_max: 1 << 20,
            late_after: Duration::from_secs(1),
            queue: None,
        },
        sheds_as_no_bid: false,
        request_bytes_max: 10_000,
        read_timeout: Duration::from_secs(5),
        write_timeout: Duration::from_secs(10),
        connections_max: 100,
        connections_per_peer_max: 100,
        idle_timeout: Duration::from_secs(5),
        connection_age_max: None,
        error_body: true,
    };
    Ingress::new(options, orchestrator, Rc::clone(timers), Rc::clone(recorder))
}
