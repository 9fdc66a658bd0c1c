//! Reloads of the pool, against the DSP simulator.

use std::cell::RefCell;
use std::pin::pin;
use std::task::{Context, Waker};

use corebid_loadtest::dsps::Fault;

use super::tests::{AMPLE, Bench, answered, bid_request, bid_requests, dsp, simulated};
use super::*;
use crate::fanout::{Call, Conduct, Leave, Protocol};

fn named(name: &str, port: u16, protocol: Protocol) -> DspOptions {
    DspOptions {
        name: name.to_owned(),
        ..dsp(port, protocol)
    }
}

#[track_caller]
fn check_seats(pool: &Pool, expected: &[(&str, Standing)]) {
    let seats = pool.seats();
    let seats: Vec<_> = seats
        .iter()
        .map(|(name, standing)| (name.as_str(), *standing))
        .collect();
    assert_eq!(seats, expected);
}

#[test]
fn who_is_reached_as_before_keeps_place_and_connections() {
    use Standing::{Asked, Gone, Leaving};
    let dsps = simulated(2, vec![]);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let a = named("a", dsps.ports()[0], protocol);
        let b = named("b", dsps.ports()[1], protocol);
        let bench = Bench::new(&[a.clone(), b.clone()], PoolLimits::default());
        assert_eq!(bench.ask(&bid_requests(3), AMPLE), answered(&[("200", 6)]));
        let before = bench.connections();
        let more = DspOptions {
            timeout: AMPLE,
            connections_max: 9,
            connections_warm: 9,
            ..b.clone()
        };
        let elsewhere = DspOptions {
            gzip: true,
            ..a.clone()
        };
        assert_eq!(
            bench.pool.seat(&[more.clone(), elsewhere.clone()]),
            [DspId(1), DspId(2)]
        );
        check_seats(&bench.pool, &[("a", Leaving), ("b", Asked), ("a", Asked)]);
        // A request in flight may still call it.
        bench.pool.let_go(|id| id == DspId(0), bench.now());
        assert_eq!(bench.connections()[..2], before[..2], "{protocol:?}");
        bench.pool.let_go(|_| false, bench.now());
        check_seats(&bench.pool, &[("a", Gone), ("b", Asked), ("a", Asked)]);
        assert_eq!(bench.connections()[0], Connections::default());
        assert_eq!(bench.connections()[1], before[1], "{protocol:?}");
        // Its place is free; who comes back before he is gone has his own.
        let c = named("c", dsps.ports()[0], protocol);
        assert_eq!(bench.pool.seat(&[c.clone(), more.clone()]), [DspId(0), DspId(1)]);
        check_seats(&bench.pool, &[("c", Asked), ("b", Asked), ("a", Leaving)]);
        assert_eq!(bench.pool.seat(&[elsewhere, more]), [DspId(2), DspId(1)]);
        check_seats(&bench.pool, &[("c", Leaving), ("b", Asked), ("a", Asked)]);
        // What is told of the numbers of connections holds at once.
        let useful = if protocol == Protocol::Http1 { 9 } else { 1 };
        bench.turn_until(|| {
            bench.pool.warm(bench.now());
            bench.connections()[1].idle == useful
        });
    }
}

/// A call under way keeps its connection until its answer has come, wanted by then or not.
#[test]
fn a_dsp_that_is_leaving_finishes_its_calls() {
    let dsps = simulated(1, vec![(0, Fault::Late(300))]);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let bench = Bench::new(&[dsp(dsps.ports()[0], protocol)], PoolLimits::default());
        let body = bid_request(0);
        let calls = [Call {
            dsp: DspId(0),
            body: &body,
            due_at: bench.now().after(Duration::from_millis(100)),
            leave: Leave::default(),
        }];
        let failures = RefCell::new(Vec::new());
        {
            let mut gather = pin!(bench.fanout.gather(&calls, |answer| {
                failures.borrow_mut().push(answer.result.err());
                Conduct::Unknown
            }));
            let mut poll = || {
                let cx = &mut Context::from_waker(Waker::noop());
                gather.as_mut().poll(cx).is_ready()
            };
            assert!(!poll());
            bench.pool.seat(&[]);
            bench.turn_until(|| {
                bench.pool.let_go(|_| false, bench.now());
                poll()
            });
        }
        assert_eq!(failures.take(), [Some(CallFailure::Timeout)]);
        check_seats(&bench.pool, &[("dsp0", Standing::Leaving)]);
        bench.turn_until(|| {
            bench.pool.let_go(|_| false, bench.now());
            bench.pool.seats()[0].1 == Standing::Gone
        });
        assert_eq!(bench.told.late.get(), 1, "{protocol:?}: the answer was awaited");
        assert_eq!(bench.connections(), [Connections::default()]);
    }
}

/// One that never answers is given up like any other.
#[test]
fn a_dsp_that_is_leaving_and_says_nothing_is_not_waited_for_long() {
    let dsps = simulated(1, vec![(0, Fault::Stall)]);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let bench = Bench::new(&[dsp(dsps.ports()[0], protocol)], PoolLimits::default());
        assert_eq!(
            bench.ask(&bid_requests(1), Duration::from_millis(50)),
            answered(&[("timed out", 1)])
        );
        bench.pool.seat(&[]);
        bench.pool.let_go(|_| false, bench.now());
        check_seats(&bench.pool, &[("dsp0", Standing::Leaving)]);
        bench.skip(Duration::from_secs(2));
        bench.sweep();
        bench.pool.let_go(|_| false, bench.now());
        check_seats(&bench.pool, &[("dsp0", Standing::Gone)]);
        assert_eq!(bench.connections(), [Connections::default()]);
    }
}
