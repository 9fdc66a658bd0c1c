//! The pool over real sockets: against the DSP simulator, and against servers that keep to what a row says.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::thread::JoinHandle;

use corebid_loadtest::dsps::{Dsps, Fault, Options};
use corebid_loadtest::simulated::Profile;

use super::*;
use crate::clock::{self, Timers};
use crate::fanout::{Call, Conduct, Fanout, Handshake, Leave, Protocol, Target};

/// Long enough for a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// What the pool tells.
#[derive(Default)]
pub(super) struct Told {
    pub(super) late: Cell<usize>,
    /// "full", "resumed", or why there is no session.
    pub(super) handshakes: RefCell<Vec<String>>,
}

impl Observer for Told {
    fn late(&self, _late: Late<'_>) {
        self.late.set(self.late.get() + 1);
    }

    fn handshake(&self, _dsp: DspId, handshake: Handshake<'_>) {
        self.handshakes.borrow_mut().push(match handshake {
            Handshake::Done { resumed: false, .. } => "full".to_owned(),
            Handshake::Done { resumed: true, .. } => "resumed".to_owned(),
            Handshake::Failed { failure, why } => format!("{failure:?}: {why}"),
        });
    }
}

/// A shard's fan-out without the shard: turned by the test.
pub(super) struct Bench {
    pub(super) pool: Rc<Pool>,
    pub(super) fanout: Fanout<Rc<Pool>>,
    timers: Rc<Timers>,
    pub(super) told: Rc<Told>,
    /// How far the pool's clock is ahead of everybody else's.
    ahead: Cell<Duration>,
}

pub(super) fn dsp(port: u16, protocol: Protocol) -> DspOptions {
    DspOptions {
        target: Target {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            authority: format!("127.0.0.1:{port}"),
            path: "/bid".to_owned(),
        },
        protocol,
        connections_max: 4,
        ..crate::fanout::tests::dsp(0, false)
    }
}

impl Bench {
    pub(super) fn new(dsps: &[DspOptions], limits: PoolLimits) -> Self {
        let readiness = Rc::new(Readiness::new().unwrap());
        let gatherings = Rc::new(Gatherings::default());
        let told = Rc::new(Told::default());
        let timers = Timers::new(clock::now, |_| ());
        let observer: Rc<dyn Observer> = told.clone();
        let pool = Rc::new(Pool::new(
            dsps,
            limits,
            readiness,
            Rc::clone(&gatherings),
            observer,
        ));
        let fanout = Fanout::new(dsps.into(), Rc::clone(&pool), gatherings, Rc::clone(&timers));
        Self {
            pool,
            fanout,
            timers,
            told,
            ahead: Cell::default(),
        }
    }

    pub(super) fn is_warm(&self) -> bool {
        let all: Vec<_> = self.fanout.dsps().iter().map(|(id, _)| id).collect();
        self.pool.is_warm(&all, self.now())
    }

    pub(super) fn now(&self) -> Instant {
        clock::now().after(self.ahead.get())
    }

    /// So much time passes for the pool alone.
    pub(super) fn skip(&self, time: Duration) {
        self.ahead.set(self.ahead.get() + time);
    }

    /// What a shard does for its care, once a second.
    pub(super) fn sweep(&self) {
        self.pool.sweep(self.now());
        self.pool.warm(self.now());
    }

    /// Waits until the pool is warm.
    #[track_caller]
    pub(super) fn warm_up(&self) {
        self.turn_until(|| {
            self.pool.warm(self.now());
            self.is_warm()
        });
    }

    pub(super) fn turn(&self) {
        std::thread::park_timeout(Duration::from_micros(200));
        let now = self.now();
        self.pool.turn(now).unwrap();
        self.timers.advance(clock::now());
        self.pool.flush(now);
    }

    /// Turns until `done`; panics when that takes too long.
    #[track_caller]
    pub(super) fn turn_until(&self, mut done: impl FnMut() -> bool) {
        let started = clock::now();
        while !done() {
            assert!(clock::now().since(started) < PATIENCE, "it takes too long");
            self.turn();
        }
    }

    /// One fan-out for each body, all at once, each to all DSPs: what was answered, with how often.
    #[track_caller]
    pub(super) fn ask(&self, bodies: &[Vec<u8>], timeout: Duration) -> BTreeMap<String, usize> {
        let due_at = self.now().after(timeout);
        let dsps = u16::try_from(self.fanout.dsps().count()).unwrap();
        let calls: Vec<Vec<Call<'_>>> = bodies
            .iter()
            .map(|body| {
                let call = |dsp| Call {
                    dsp: DspId(dsp),
                    body,
                    due_at,
                    leave: Leave::default(),
                };
                (0..dsps).map(call).collect()
            })
            .collect();
        let answers = RefCell::new(BTreeMap::new());
        {
            let mut gathers: Vec<_> = calls
                .iter()
                .map(|calls| {
                    Some(Box::pin(self.fanout.gather(calls, |answer| {
                        let what = match answer.result {
                            Ok(response) => response.status.to_string(),
                            Err(failure) => failure.to_string(),
                        };
                        *answers.borrow_mut().entry(what).or_insert(0) += 1;
                        Conduct::Good
                    })))
                })
                .collect();
            self.turn_until(|| {
                for gather in &mut gathers {
                    if let Some(under_way) = gather
                        && under_way
                            .as_mut()
                            .poll(&mut Context::from_waker(Waker::noop()))
                            .is_ready()
                    {
                        *gather = None;
                    }
                }
                gathers.iter().all(Option::is_none)
            });
        }
        answers.into_inner()
    }

    pub(super) fn connections(&self) -> Vec<Connections> {
        let mut counts = Vec::new();
        self.pool.count_connections(&mut counts);
        counts
    }
}

pub(super) fn bid_request(number: usize) -> Vec<u8> {
    format!(
        r#"{{"id":"r{number}","imp":[{{"id":"1","banner":{{"w":300,"h":250}}}}],"tmax":100,"ext":{{"filler":"{}"}}}}"#,
        "x".repeat(1_200)
    )
    .into_bytes()
}

pub(super) fn bid_requests(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(bid_request).collect()
}

pub(super) fn simulated(count: u16, faults: Vec<(u16, Fault)>) -> Dsps {
    let profile = Profile {
        count,
        bid_share: 1.0,
        scale_latency: 0.2,
        ..Profile::default()
    };
    Dsps::start(Options {
        profile,
        faults,
        ..Options::default()
    })
    .unwrap()
}

pub(super) fn answered(rows: &[(&str, usize)]) -> BTreeMap<String, usize> {
    rows.iter()
        .map(|(what, count)| ((*what).to_owned(), *count))
        .collect()
}

pub(super) const AMPLE: Duration = Duration::from_secs(10);

fn both(ports: &[u16]) -> [(Protocol, Vec<DspOptions>); 2] {
    [Protocol::Http1, Protocol::Http2]
        .map(|protocol| (protocol, ports.iter().map(|port| dsp(*port, protocol)).collect()))
}

#[test]
fn every_call_is_answered_over_either_protocol() {
    let dsps = simulated(5, vec![]);
    for (protocol, mut options) in both(dsps.ports()) {
        options.iter_mut().for_each(|dsp| dsp.connections_max = 50);
        let bench = Bench::new(&options, PoolLimits::default());
        for _ in 0..3 {
            assert_eq!(
                bench.ask(&bid_requests(50), AMPLE),
                answered(&[("200", 250)]),
                "{protocol:?}"
            );
        }
        let idle: Vec<_> = bench.connections().iter().map(|count| count.idle).collect();
        match protocol {
            Protocol::Http1 => assert_eq!(idle, [50; 5]),
            Protocol::Http2 | Protocol::Negotiated => assert_eq!(idle, [1; 5], "all on one connection"),
        }
    }
}

#[test]
fn a_thousand_calls_share_one_connection() {
    let dsps = simulated(1, vec![]);
    let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http2)], PoolLimits::default());
    assert_eq!(
        bench.ask(&bid_requests(1_000), AMPLE),
        answered(&[("200", 1_000)])
    );
    assert_eq!(
        bench.connections(),
        [Connections {
            idle: 1,
            ..Connections::default()
        }]
    );
}

/// What each costs over HTTP/2.
pub(super) const FAULTS: [(Fault, &str); 13] = [
    (Fault::Status(503), "503"),
    (Fault::ResetStream, LOST),
    (Fault::Reset, LOST),
    (Fault::Close, LOST),
    (Fault::Garbage, "not a valid HTTP response: frame too long"),
    (Fault::Huge, "answer too large"),
    (Fault::Redirect, "302"),
    (Fault::GzipBomb, "bad content encoding"),
    (Fault::Empty, "200"),
    (Fault::GoAway, "200"),
    (Fault::Stall, "timed out"),
    (Fault::Drip, "timed out"),
    (Fault::Refuse, "unreachable"),
];
pub(super) const LOST: &str = "connection lost";

#[test]
fn faults_cost_what_they_must_and_the_next_call_is_answered() {
    for (fault, says) in FAULTS {
        let dsps = simulated(1, vec![]);
        let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http2)], PoolLimits::default());
        check_fault(&bench, &dsps, fault, says);
    }
}

/// Three calls, one with the fault, and twenty that are answered again.
pub(super) fn check_fault(bench: &Bench, dsps: &Dsps, fault: Fault, says: &str) {
    assert_eq!(bench.ask(&bid_requests(3), AMPLE), answered(&[("200", 3)]));
    dsps.set_fault(0, fault);
    if fault == Fault::Refuse {
        // Takes effect when the simulator's loop is woken.
        bench.turn_until(|| bench.connections()[0] == Connections::default());
    }
    let timeout = if says == "timed out" {
        Duration::from_millis(300)
    } else {
        AMPLE
    };
    assert_eq!(
        bench.ask(&bid_requests(1), timeout),
        answered(&[(says, 1)]),
        "{fault}"
    );
    dsps.set_fault(0, Fault::None);
    if fault == Fault::Refuse {
        bench.turn_until(|| bench.ask(&bid_requests(1), AMPLE).contains_key("200"));
    }
    assert_eq!(
        bench.ask(&bid_requests(20), AMPLE),
        answered(&[("200", 20)]),
        "after {fault}"
    );
}

#[test]
fn a_restarted_dsp_is_asked_again_on_a_new_connection() {
    let dsps = simulated(1, vec![]);
    let port = dsps.ports()[0];
    let bench = Bench::new(&[dsp(port, Protocol::Http2)], PoolLimits::default());
    assert_eq!(bench.ask(&bid_requests(5), AMPLE), answered(&[("200", 5)]));
    dsps.stop();
    let again = Options {
        profile: Profile {
            count: 1,
            bid_share: 1.0,
            ..Profile::default()
        },
        base_port: port,
        ..Options::default()
    };
    let _dsps = Dsps::start(again).unwrap();
    // The pool has not heard of it yet: the connection looks alive.
    assert_eq!(bench.ask(&bid_requests(5), AMPLE), answered(&[("200", 5)]));
}

#[test]
fn a_stalled_dsp_times_out_and_its_connection_lives() {
    let dsps = simulated(1, vec![(0, Fault::Late(400))]);
    let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http2)], PoolLimits::default());
    let hasty = Duration::from_millis(30);
    assert_eq!(
        bench.ask(&bid_requests(10), hasty),
        answered(&[("timed out", 10)])
    );
    assert_eq!(bench.connections()[0].busy, 1);
    bench.turn_until(|| bench.told.late.get() == 10);
    assert_eq!(bench.connections()[0].idle, 1);
    dsps.set_fault(0, Fault::None);
    assert_eq!(bench.ask(&bid_requests(10), AMPLE), answered(&[("200", 10)]));
    assert_eq!(bench.connections()[0].idle, 1);
}

#[test]
fn past_the_grace_calls_are_given_up_and_a_silent_connection_is_closed() {
    let limits = PoolLimits {
        late_drain: Duration::from_millis(50),
        ..PoolLimits::default()
    };
    let hasty = Duration::from_millis(10);
    let sweep_later = |bench: &Bench, ms| bench.pool.sweep(clock::now().after(Duration::from_millis(ms)));
    // This one answers the PING.
    let dsps = simulated(1, vec![(0, Fault::Stall)]);
    let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http2)], limits.clone());
    bench.ask(&bid_requests(3), hasty);
    sweep_later(&bench, 200);
    assert_eq!(bench.connections()[0].idle, 1, "given up");
    dsps.set_fault(0, Fault::None);
    assert_eq!(bench.ask(&bid_requests(3), AMPLE), answered(&[("200", 3)]));
    // This one says nothing at all.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let bench = Bench::new(&[dsp(port, Protocol::Http2)], limits);
    bench.ask(&bid_requests(3), hasty);
    sweep_later(&bench, 200);
    bench.ask(&bid_requests(3), hasty);
    sweep_later(&bench, 400);
    assert_eq!(bench.connections()[0], Connections::default());
}

#[test]
fn an_idle_connection_is_closed_before_the_dsp_does() {
    let dsps = simulated(1, vec![]);
    let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http2)], PoolLimits::default());
    bench.ask(&bid_requests(1), AMPLE);
    bench.pool.sweep(clock::now().after(Duration::from_secs(49)));
    assert_eq!(bench.connections()[0].idle, 1);
    bench.pool.sweep(clock::now().after(Duration::from_secs(51)));
    assert_eq!(bench.connections()[0], Connections::default());
}

#[test]
fn a_wrong_answer_on_a_stream_says_nothing_about_the_connection() {
    let dsps = simulated(1, vec![]);
    let bench = Bench::new(&[dsp(dsps.ports()[0], Protocol::Http2)], PoolLimits::default());
    let bodies = [bid_request(0), bid_request(1)];
    let calls = bodies.each_ref().map(|body| Call {
        dsp: DspId(0),
        body,
        due_at: clock::now().after(AMPLE),
        leave: Leave::default(),
    });
    let seen = RefCell::new(Vec::new());
    let mut gather = pin!(bench.fanout.gather(&calls, |answer| {
        let response = answer.result.unwrap();
        bench.pool.distrust(response.connection);
        seen.borrow_mut().push(response.connection);
        Conduct::Good
    }));
    bench.turn_until(|| {
        gather
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_ready()
    });
    assert_eq!(seen.borrow().len(), 2, "the other call is answered all the same");
    assert_eq!(bench.connections()[0].idle, 1, "it stays");
    assert_eq!(bench.ask(&bid_requests(1), AMPLE), answered(&[("200", 1)]));
}

/// 5 MB of calls in one turn are more than may wait for a DSP that reads nothing; this one would read them.
#[test]
fn a_burst_in_one_turn_is_written_before_it_is_refused() {
    let dsps = simulated(1, vec![]);
    let only_one = DspOptions {
        connections_max: 1,
        ..dsp(dsps.ports()[0], Protocol::Http2)
    };
    let bench = Bench::new(&[only_one], PoolLimits::default());
    assert_eq!(bench.ask(&bid_requests(1), AMPLE), answered(&[("200", 1)]));
    assert_eq!(
        bench.ask(&bid_requests(3_800), AMPLE),
        answered(&[("200", 3_800)])
    );
}

#[test]
fn a_call_in_flight_is_small() {
    // 12 bytes of ticket, 8 of due time, 24 of body, 24 of stream, 4 of ring, and what alignment wants: 3.2 million calls
    // (140,000 orchestrations of 23) in 270 MB.
    let bytes = crate::fanout::h2::ClientConnection::<h2::Call>::BYTES_PER_CALL;
    assert!(bytes <= 84, "{bytes}");
}

/// A server that answers 204 to every request that is whole, and says what it is told to when.
#[derive(Clone, Copy)]
struct Manners {
    streams_max: u32,
    stream_window: u32,
    /// Gives windows back as it reads.
    updates_windows: bool,
    /// Answers only when this many requests are whole.
    waits_for: usize,
}

struct Served {
    port: u16,
    connections: Arc<AtomicUsize>,
    /// The most requests in progress on one connection.
    streams: Arc<AtomicUsize>,
    _thread: JoinHandle<()>,
}

fn serve(manners: Manners) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, streams) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (counts, most) = (Arc::clone(&connections), Arc::clone(&streams));
    let thread = std::thread::spawn(move || {
        for socket in listener.incoming() {
            counts.fetch_add(1, Ordering::Relaxed);
            let most = Arc::clone(&most);
            std::thread::spawn(move || converse(socket.unwrap(), manners, &most));
        }
    });
    Served {
        port,
        connections,
        streams,
        _thread: thread,
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

fn converse(mut socket: std::net::TcpStream, manners: Manners, most: &AtomicUsize) -> Option<()> {
    let mut settings = [0, 4].to_vec();
    settings.extend_from_slice(&manners.stream_window.to_be_bytes());
    settings.extend_from_slice(&[0, 3]);
    settings.extend_from_slice(&manners.streams_max.to_be_bytes());
    socket.write_all(&frame(4, 0, 0, &settings)).ok()?;
    socket.read_exact(&mut [0; 24]).ok()?;
    let (mut open, mut whole) = (Vec::new(), Vec::new());
    loop {
        let mut header = [0; 9];
        socket.read_exact(&mut header).ok()?;
        let length = usize::from(header[1]) << 8 | usize::from(header[2]);
        let (kind, flags) = (header[3], header[4]);
        let id = u32::from_be_bytes(*header[5..].first_chunk()?);
        let mut payload = vec![0; length];
        socket.read_exact(&mut payload).ok()?;
        match kind {
            4 if flags == 0 => socket.write_all(&frame(4, 1, 0, &[])).ok()?,
            1 if open.len() + whole.len() >= manners.streams_max as usize => {
                socket.write_all(&frame(3, 0, id, &7_u32.to_be_bytes())).ok()?;
            }
            1 => open.push(id),
            0 if manners.updates_windows && length > 0 => {
                let increment = u32::try_from(length).unwrap().to_be_bytes();
                let both = [frame(8, 0, 0, &increment), frame(8, 0, id, &increment)].concat();
                socket.write_all(&both).ok()?;
            }
            _ => {}
        }
        most.fetch_max(open.len() + whole.len(), Ordering::Relaxed);
        if kind <= 1 && flags & 1 != 0 && open.contains(&id) {
            open.retain(|other| *other != id);
            whole.push(id);
        }
        if whole.len() >= manners.waits_for {
            for id in whole.drain(..) {
                // `:status 204`, by index.
                socket.write_all(&frame(1, 5, id, &[0x89])).ok()?;
            }
        }
    }
}

#[test]
fn where_few_streams_are_wanted_there_are_more_connections() {
    let manners = Manners {
        streams_max: 5,
        stream_window: 65_535,
        updates_windows: true,
        waits_for: 1,
    };
    let served = serve(manners);
    let bench = Bench::new(&[dsp(served.port, Protocol::Http2)], PoolLimits::default());
    assert_eq!(bench.ask(&bid_requests(1), AMPLE), answered(&[("204", 1)]));
    assert_eq!(served.connections.load(Ordering::Relaxed), 1);
    // 5 on the first, the rest on a second that has not said yet how few it wants: all of them are answered or told.
    let answers = bench.ask(&bid_requests(8), AMPLE);
    assert_eq!(answers, answered(&[("204", 8)]));
    assert_eq!(served.connections.load(Ordering::Relaxed), 2);
    // Now that both are known: 10 at once, then two more connections, then it is enough.
    assert_eq!(bench.ask(&bid_requests(10), AMPLE), answered(&[("204", 10)]));
    assert_eq!(served.connections.load(Ordering::Relaxed), 2);
    assert!(served.streams.load(Ordering::Relaxed) <= 5);
    assert_eq!(bench.connections()[0].idle, 2);
}

#[test]
fn starved_of_windows_the_calls_wait_until_they_are_given() {
    // 200 bodies of 1.3 kB are four times the connection's window of 64 kB.
    let generous = Manners {
        streams_max: u32::MAX,
        stream_window: 65_535,
        updates_windows: true,
        waits_for: 1,
    };
    let narrow = Manners {
        stream_window: 100,
        ..generous
    };
    for manners in [generous, narrow] {
        let served = serve(manners);
        let bench = Bench::new(&[dsp(served.port, Protocol::Http2)], PoolLimits::default());
        assert_eq!(bench.ask(&bid_requests(200), AMPLE), answered(&[("204", 200)]));
        assert_eq!(served.connections.load(Ordering::Relaxed), 1);
    }
    let stingy = Manners {
        updates_windows: false,
        ..generous
    };
    let served = serve(stingy);
    let bench = Bench::new(&[dsp(served.port, Protocol::Http2)], PoolLimits::default());
    let answers = bench.ask(&bid_requests(200), Duration::from_millis(300));
    let whole = 65_535 / bid_request(100).len();
    let expected = answered(&[("204", whole), ("timed out", 200 - whole)]);
    assert_eq!(
        answers, expected,
        "what fits is answered, the rest costs its bids"
    );
}

#[test]
fn what_was_started_together_leaves_in_one_write() {
    let all_at_once = Manners {
        streams_max: u32::MAX,
        stream_window: 65_535,
        updates_windows: false,
        waits_for: 40,
    };
    let served = serve(all_at_once);
    let bench = Bench::new(&[dsp(served.port, Protocol::Http2)], PoolLimits::default());
    assert_eq!(bench.ask(&bid_requests(40), AMPLE), answered(&[("204", 40)]));
    assert!(bench.pool.unflushed.borrow().is_empty());
    let bodies = bid_requests(2);
    let calls: Vec<_> = bodies
        .iter()
        .map(|body| Call {
            dsp: DspId(0),
            body,
            due_at: clock::now().after(AMPLE),
            leave: Leave::default(),
        })
        .collect();
    let mut gather = pin!(bench.fanout.gather(&calls, |_| Conduct::Good));
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(gather.as_mut().poll(cx).is_pending());
    assert_eq!(
        bench.pool.unflushed.borrow().len(),
        1,
        "one connection, two calls"
    );
    assert!(bench.pool.flush(clock::now()));
    assert!(bench.pool.unflushed.borrow().is_empty());
    assert_eq!(
        bench
            .pool
            .connections
            .borrow()
            .iter()
            .map(|(_, c)| match &c.wire {
                Wire::Http2(conversation) => conversation.is_flushed(),
                Wire::Http1(_) => false,
            })
            .collect::<Vec<_>>(),
        [true]
    );
}
