//! Connections before there are calls, against the DSP simulator.

use std::time::Duration;

use corebid_loadtest::dsps::{self, Dsps, Fault, Options};
use corebid_loadtest::simulated::Profile;

use super::tests::{AMPLE, Bench, answered, bid_requests, dsp};
use super::tls_tests::{simulated, trusting};
use super::{Connections, PoolLimits};
use crate::fanout::{DspOptions, Protocol};

const WARM: usize = 3;

fn plain() -> Dsps {
    let profile = Profile {
        count: 1,
        scale_latency: 0.0,
        ..Profile::default()
    };
    Dsps::start(Options {
        profile,
        ..Options::default()
    })
    .unwrap()
}

fn agreeing_to(alpn: &str) -> Dsps {
    simulated(dsps::TlsOptions {
        alpn: vec![alpn.to_owned()],
        ..dsps::TlsOptions::default()
    })
}

fn bench(dsps: &Dsps, protocol: Protocol, connections_max: usize) -> Bench {
    let port = dsps.ports()[0];
    let options = match dsps.root() {
        Some(root) => trusting(root, None, port, protocol),
        None => dsp(port, protocol),
    };
    let options = DspOptions {
        connections_warm: WARM,
        connections_max,
        ..options
    };
    Bench::new(&[options], PoolLimits::default())
}

fn idle(count: usize) -> [Connections; 1] {
    [Connections {
        idle: count,
        ..Connections::default()
    }]
}

#[test]
fn connections_are_there_before_the_first_call() {
    let (plain, h1, h2) = (plain(), agreeing_to("http/1.1"), agreeing_to("h2"));
    for (dsps, protocol, max, open) in [
        (&plain, Protocol::Http1, 64, WARM),
        (&plain, Protocol::Http1, WARM - 1, WARM - 1),
        (&plain, Protocol::Http2, 64, 1),
        (&h1, Protocol::Http1, 64, WARM),
        (&h1, Protocol::Negotiated, 64, WARM),
        (&h2, Protocol::Http2, 64, 1),
        (&h2, Protocol::Negotiated, 64, 1),
    ] {
        let bench = bench(dsps, protocol, max);
        assert!(!bench.is_warm());
        bench.warm_up();
        assert_eq!(bench.connections(), idle(open), "{protocol:?} of {max}");
        let handshakes = bench.told.handshakes.borrow().len();
        assert_eq!(handshakes, if dsps.root().is_some() { open } else { 0 });
        // As many calls as there are connections open none.
        bench.ask(&bid_requests(open), AMPLE);
        assert_eq!(bench.connections(), idle(open), "{protocol:?} of {max}");
    }
}

/// A shard has answers to read meanwhile.
#[test]
fn so_many_are_opened_at_once() {
    let dsps = plain();
    let options = [5, 5, 5].map(|warm| DspOptions {
        connections_warm: warm,
        connections_max: 64,
        ..dsp(dsps.ports()[0], Protocol::Http1)
    });
    let bench = Bench::new(&options, PoolLimits::default());
    for expected in [[5, 3, 0], [5, 5, 5]] {
        bench.pool.warm(bench.now());
        let connecting: Vec<_> = bench.connections().iter().map(|count| count.connecting).collect();
        assert_eq!(connecting, expected);
    }
    bench.warm_up();
}

#[test]
fn who_wants_none_has_none_and_is_warm() {
    let dsps = plain();
    let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http1)], PoolLimits::default());
    bench.pool.warm(bench.now());
    assert!(bench.is_warm());
    assert_eq!(bench.connections(), [Connections::default()]);
}

/// What warming is for: a handshake takes longer than a call may.
#[test]
fn slow_handshakes_cost_no_call_once_warm() {
    let hasty = Duration::from_millis(700);
    for alpn in ["h2", "http/1.1"] {
        let dsps = agreeing_to(alpn);
        dsps.set_fault(0, Fault::HandshakeLate(900));
        let bench = bench(&dsps, Protocol::Negotiated, 64);
        bench.warm_up();
        let answers = bench.ask(&bid_requests(WARM), hasty);
        assert_eq!(answers, answered(&[("200", WARM)]), "{alpn}");
    }
}

/// Calls that come while warm connections are being opened wait for those and open none of their own.
#[test]
fn early_calls_take_the_connections_that_are_opening() {
    let dsps = agreeing_to("http/1.1");
    dsps.set_fault(0, Fault::HandshakeLate(100));
    let bench = bench(&dsps, Protocol::Http1, 64);
    bench.pool.warm(bench.now());
    let answers = bench.ask(&bid_requests(WARM), AMPLE);
    assert_eq!(answers, answered(&[("200", WARM)]));
    assert_eq!(bench.connections(), idle(WARM));
    bench.ask(&bid_requests(WARM + 1), AMPLE);
    assert_eq!(bench.connections(), idle(WARM + 1));
}

#[test]
fn a_dead_dsp_is_not_waited_for() {
    let dsps = plain();
    let port = dsps.ports()[0];
    dsps.stop();
    let gone = DspOptions {
        connections_warm: WARM,
        ..dsp(port, Protocol::Http1)
    };
    let bench = Bench::new(&[gone], PoolLimits::default());
    bench.warm_up();
    assert_eq!(bench.connections(), [Connections::default()]);
    bench.pool.warm(bench.now());
    assert_eq!(bench.connections(), [Connections::default()], "not again at once");
    bench.skip(Duration::from_millis(100));
    bench.pool.warm(bench.now());
    assert_eq!(bench.connections()[0].connecting, WARM, "but soon");
}

#[test]
fn what_the_dsp_closes_is_opened_again() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let dsps = plain();
        let bench = bench(&dsps, protocol, 64);
        let open = if protocol == Protocol::Http1 { WARM } else { 1 };
        bench.warm_up();
        // Not at once after it was opened: that would look like a DSP that wants nobody.
        bench.skip(Duration::from_secs(5));
        // The listener goes, and the connections with it.
        dsps.set_fault(0, Fault::Refuse);
        bench.turn_until(|| bench.connections() == [Connections::default()]);
        dsps.set_fault(0, Fault::None);
        bench.turn_until(|| {
            bench.pool.warm(bench.now());
            bench.skip(Duration::from_millis(50));
            bench.connections() == idle(open)
        });
    }
}

/// Idle for longer than the DSP may like: another one comes before it goes, so that there is never one too few.
#[test]
fn idle_connections_are_replaced_before_they_are_closed() {
    for (protocol, open) in [(Protocol::Http1, WARM), (Protocol::Http2, 1)] {
        let dsps = plain();
        let bench = bench(&dsps, protocol, 64);
        bench.warm_up();
        for _ in 0..20 {
            bench.skip(Duration::from_secs(51));
            bench.sweep();
            let count = bench.connections()[0];
            assert_eq!((count.idle, count.connecting), (open, open), "{protocol:?}");
            bench.turn_until(|| bench.connections() == idle(2 * open));
            bench.skip(Duration::from_secs(1));
            bench.sweep();
            assert_eq!(bench.connections(), idle(open), "{protocol:?}");
        }
        assert!(bench.pool.dsp(0).http1.idle.borrow().len() <= WARM, "it forgets");
        assert!(
            bench.pool.dsp(0).http2.takes_calls.borrow().len() <= 1,
            "it forgets"
        );
        assert_eq!(
            bench.ask(&bid_requests(open), AMPLE).values().sum::<usize>(),
            open
        );
        assert_eq!(bench.connections(), idle(open), "{protocol:?}");
    }
}

/// Where no more may be open there is one too few for a moment, and not all at once.
#[test]
fn at_the_limit_one_goes_before_another_comes() {
    let dsps = plain();
    let bench = bench(&dsps, Protocol::Http1, WARM);
    bench.warm_up();
    bench.skip(Duration::from_secs(51));
    for _ in 0..WARM {
        bench.sweep();
        let count = bench.connections()[0];
        assert_eq!((count.idle, count.connecting), (WARM - 1, 1));
        bench.turn_until(|| bench.connections() == idle(WARM));
        bench.skip(Duration::from_secs(1));
    }
    bench.sweep();
    assert_eq!(bench.connections(), idle(WARM), "all are new");
}

/// A DSP that takes connections and drops them, for all that it can be reached.
#[test]
fn a_dsp_that_closes_at_once_is_not_hammered() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (counts, counted) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for tcp in listener.incoming() {
            drop(tcp);
            counts.send(()).unwrap();
        }
    });
    let bench = Bench::new(
        &[DspOptions {
            connections_warm: 1,
            ..dsp(port, Protocol::Http1)
        }],
        PoolLimits::default(),
    );
    // A minute of care, twenty times a second.
    for _ in 0..20 * 60 {
        bench.pool.warm(bench.now());
        if bench.connections()[0] != Connections::default() {
            bench.turn_until(|| bench.connections()[0] == Connections::default());
        }
        bench.skip(Duration::from_millis(50));
    }
    let tries = counted.try_iter().count();
    assert!((8..=11).contains(&tries), "{tries}");
}
