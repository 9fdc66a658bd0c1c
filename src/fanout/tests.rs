//! The fan-out over a transport that does just what the row says, under a clock of the test's own.

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::task::{Context, Waker};

use corebid_loadtest::certificates::Authority;

use super::*;
use crate::net::tls::{Roots, ServerName, TlsOptions};

/// What a DSP does to its calls, in order.
#[derive(Debug, Clone, Copy)]
enum Does {
    /// Answers so many ms after the call.
    Answers(u64),
    /// The call fails so many ms after it was started.
    Fails(u64, CallFailure),
    /// The call cannot be started.
    Refuses(CallFailure),
    Nothing,
}

/// When a call ends, and how.
type Pending = (Instant, Ticket, Result<u16, CallFailure>);

struct Script {
    gatherings: Rc<Gatherings>,
    does: RefCell<Vec<Vec<Does>>>,
    pending: RefCell<Vec<Pending>>,
    seen: RefCell<Vec<(u16, bool, usize)>>,
}

impl Transport for Script {
    fn start(&self, call: Outgoing<'_>, ticket: Ticket, now: Instant) -> Result<(), CallFailure> {
        self.seen
            .borrow_mut()
            .push((call.dsp.0, call.fresh, call.body.len()));
        let mut does = self.does.borrow_mut();
        let script = &mut does[call.dsp.index()];
        let next = if script.is_empty() {
            Does::Nothing
        } else {
            script.remove(0)
        };
        let (wait, result) = match next {
            Does::Answers(wait) => (wait, Ok(200)),
            Does::Fails(wait, failure) => (wait, Err(failure)),
            Does::Refuses(failure) => return Err(failure),
            Does::Nothing => return Ok(()),
        };
        self.pending
            .borrow_mut()
            .push((now.after(Duration::from_millis(wait)), ticket, result));
        Ok(())
    }

    fn distrust(&self, _connection: u64) {}
}

/// One that is as good as any.
pub(crate) fn dsp(index: usize, gzip: bool) -> DspOptions {
    DspOptions {
        name: format!("dsp{index}"),
        target: Target {
            address: ([127, 0, 0, 1], 1).into(),
            authority: "x".to_owned(),
            path: "/".to_owned(),
        },
        protocol: Protocol::Http1,
        tls: None,
        timeout: Duration::from_millis(60),
        connections_max: 1,
        connections_warm: 0,
        response_bytes_max: 256 << 10,
        gzip,
        gate: GateOptions::default(),
    }
}

/// Trusts nobody that there is.
pub(super) fn tls() -> TlsOptions {
    let root = Authority::new().unwrap().root();
    let name = ServerName::parse("dsp.example").unwrap();
    TlsOptions::new(&Roots::from_pem(&root).unwrap(), None, name, &[]).unwrap()
}

/// A fan-out whose DSPs do as their scripts say, at the time that its clock shows.
struct Scene {
    clock: Rc<Cell<Instant>>,
    timers: Rc<Timers>,
    script: Rc<Script>,
    fanout: Fanout<Rc<Script>>,
}

impl Scene {
    fn new(dsps: &[DspOptions], does: Vec<Vec<Does>>) -> Self {
        let clock = Rc::new(Cell::new(Instant::from_nanos(0)));
        let reads = Rc::clone(&clock);
        let timers = Timers::new(move || reads.get(), |_| ());
        let gatherings = Rc::new(Gatherings::default());
        let script = Rc::new(Script {
            gatherings: Rc::clone(&gatherings),
            does: RefCell::new(does),
            pending: RefCell::default(),
            seen: RefCell::default(),
        });
        let fanout = Fanout::new(
            DspSet::from(dsps),
            Rc::clone(&script),
            gatherings,
            Rc::clone(&timers),
        );
        Self {
            clock,
            timers,
            script,
            fanout,
        }
    }

    /// Fan-outs under way, and timers.
    fn open(&self) -> (usize, usize) {
        (self.script.gatherings.open_count(), self.timers.waiting())
    }
}

/// Runs one fan-out of a call per script, each due after its `due_ms`: what each answered and when, and when the
/// fan-out ended.
fn run(scripts: &[(u64, &[Does])]) -> (Vec<String>, u64, Rc<Script>) {
    let dsps: Vec<_> = (0..scripts.len()).map(|index| dsp(index, false)).collect();
    let scene = Scene::new(&dsps, scripts.iter().map(|(_, does)| does.to_vec()).collect());
    let due = |ms: u64| Instant::from_nanos(ms * 1_000_000);
    let calls: Vec<Call<'_>> = (0u16..)
        .zip(scripts)
        .map(|(index, (due_ms, _))| Call {
            dsp: DspId(index),
            body: b"body",
            due_at: due(*due_ms),
            leave: Leave::default(),
        })
        .collect();
    let mut answers = Vec::new();
    let mut ended = None;
    {
        let mut gather = pin!(scene.fanout.gather(&calls, |answer| {
            let what = match answer.result {
                Ok(response) => response.status.to_string(),
                Err(failure) => failure.to_string(),
            };
            answers.push(format!(
                "dsp{} {}ms {what}",
                answer.dsp.0,
                answer.elapsed.as_millis()
            ));
            Conduct::Good
        }));
        for ms in 0..500 {
            let now = due(ms);
            scene.clock.set(now);
            scene.timers.advance(now);
            let arrived: Vec<_> = scene
                .script
                .pending
                .borrow_mut()
                .extract_if(.., |(at, ..)| *at <= now)
                .collect();
            for (at, ticket, result) in arrived {
                let reply = result.map(|status| Reply {
                    status,
                    body: scene.script.gatherings.buffer(),
                    connection: 0,
                });
                scene.script.gatherings.complete(ticket, at, reply);
            }
            if gather
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
            {
                ended = Some(ms);
                break;
            }
        }
    }
    assert_eq!(scene.open(), (0, 0), "it is over, and its timer gone");
    answers.sort();
    (answers, ended.expect("a fan-out ends"), scene.script)
}

#[track_caller]
fn check(scripts: &[(u64, &[Does])], answers: &[&str], ended_ms: u64) {
    let (got, ended, _) = run(scripts);
    assert_eq!(got, answers);
    assert_eq!(ended, ended_ms);
}

#[test]
fn ends_when_all_have_answered_or_run_out_of_time() {
    use Does::{Answers, Fails, Nothing, Refuses};
    check(&[], &[], 0);
    check(
        &[(60, &[Answers(10)]), (60, &[Answers(30)])],
        &["dsp0 10ms 200", "dsp1 30ms 200"],
        30,
    );
    check(
        &[(60, &[Answers(10)]), (60, &[Nothing])],
        &["dsp0 10ms 200", "dsp1 60ms timed out"],
        60,
    );
    check(
        &[(20, &[Answers(25)]), (40, &[Answers(40)]), (60, &[Answers(59)])],
        &["dsp0 20ms timed out", "dsp1 40ms 200", "dsp2 59ms 200"],
        59,
    );
    check(
        &[(60, &[Refuses(CallFailure::Throttled)])],
        &["dsp0 0ms all connections busy"],
        0,
    );
    check(
        &[(60, &[Fails(5, CallFailure::Lost)])],
        &["dsp0 5ms connection lost"],
        5,
    );
}

#[test]
fn a_stale_connection_is_retried_once_on_a_fresh_one_within_the_time() {
    use Does::{Answers, Fails, Nothing, Refuses};
    let stale = |ms| Fails(ms, CallFailure::Stale);
    check(&[(60, &[stale(1), Answers(10)])], &["dsp0 11ms 200"], 11);
    check(
        &[(60, &[stale(1), Fails(3, CallFailure::Lost)])],
        &["dsp0 4ms connection lost"],
        4,
    );
    check(
        &[(60, &[stale(1), Refuses(CallFailure::Unreachable)])],
        &["dsp0 1ms unreachable"],
        1,
    );
    check(&[(60, &[stale(1), Nothing])], &["dsp0 60ms timed out"], 60);
    let (_, _, script) = run(&[(60, &[stale(1), Answers(10)])]);
    assert_eq!(*script.seen.borrow(), [(0, false, 4), (0, true, 4)]);
}

#[test]
fn what_arrives_after_its_time_is_late_for_good() {
    let gatherings = Gatherings::default();
    let ticket = gatherings.open(2);
    let reply = || {
        Ok(Reply {
            status: 200,
            body: Vec::new(),
            connection: 0,
        })
    };
    let at = Instant::from_nanos(1);
    assert!(gatherings.give_up(ticket.for_call(0)));
    assert!(!gatherings.complete(ticket.for_call(0), at, reply()), "given up");
    assert!(gatherings.complete(ticket.for_call(1), at, reply()));
    assert!(!gatherings.complete(ticket.for_call(1), at, reply()), "twice");
    gatherings.close(ticket);
    let next = gatherings.open(2);
    assert!(
        !gatherings.complete(ticket.for_call(1), at, reply()),
        "the place has another owner"
    );
    assert!(gatherings.complete(next.for_call(1), at, reply()));
}

#[test]
fn a_dropped_fan_out_leaves_nothing_behind() {
    let scene = Scene::new(&[dsp(0, false)], vec![vec![]]);
    let calls = [Call {
        dsp: DspId(0),
        body: b"",
        due_at: Instant::from_nanos(1_000_000),
        leave: Leave::default(),
    }];
    {
        let mut gather = pin!(scene.fanout.gather(&calls, |_| Conduct::Good));
        assert!(
            gather
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
        assert_eq!(scene.open(), (1, 1));
    }
    assert_eq!(scene.open(), (0, 0));
}

#[test]
fn a_body_is_compressed_once_for_all_who_want_it_so() {
    let scene = Scene::new(&[dsp(0, true), dsp(1, false), dsp(2, true)], vec![vec![]; 3]);
    let body = vec![b'x'; 10_000];
    let due_at = Instant::from_nanos(1_000_000);
    let calls: Vec<_> = (0..3)
        .map(|index| Call {
            dsp: DspId(index),
            body: &body,
            due_at,
            leave: Leave::default(),
        })
        .collect();
    let mut gather = pin!(scene.fanout.gather(&calls, |_| Conduct::Good));
    assert!(
        gather
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
            .is_pending()
    );
    let seen = scene.script.seen.borrow();
    assert!(seen[0].2 < 1_000 && seen[0].2 == seen[2].2);
    assert_eq!(seen[1].2, 10_000);
}

/// One call of 60 ms to a DSP whose breaker opens with the first failure, looked at once more so many ms later: in which
/// state that leaves it.
#[track_caller]
fn check_conduct(does: Does, of_response: Conduct, looked_at_ms: u64, expected: BreakerState) {
    let mut asked = dsp(0, false);
    asked.gate.breaker = Some(BreakerOptions {
        consecutive_failures: 1,
        ..gate::tests::breaker()
    });
    let scene = Scene::new(&[asked], vec![vec![does]]);
    let due_at = Instant::from_nanos(60_000_000);
    let (leave, due_at) = scene
        .fanout
        .gates()
        .admit(DspId(0), scene.clock.get(), due_at, false)
        .unwrap();
    let calls = [Call {
        dsp: DspId(0),
        body: b"",
        due_at,
        leave,
    }];
    let mut gather = pin!(scene.fanout.gather(&calls, |_| of_response));
    let cx = &mut Context::from_waker(Waker::noop());
    if gather.as_mut().poll(cx).is_pending() {
        let now = Instant::from_nanos(looked_at_ms * 1_000_000);
        scene.clock.set(now);
        for (at, ticket, result) in scene.script.pending.borrow_mut().drain(..) {
            let reply = result.map(|status| Reply {
                status,
                body: Vec::new(),
                connection: 0,
            });
            scene.script.gatherings.complete(ticket, at, reply);
        }
        scene.timers.advance(now);
        assert!(gather.as_mut().poll(cx).is_ready());
    }
    let (state, _) = scene.fanout.gates().breaker(DspId(0)).unwrap();
    assert_eq!(state, expected, "{does:?} {of_response:?} {looked_at_ms}");
}

#[test]
fn how_calls_went_is_told_to_the_gate() {
    use BreakerState::{Closed, Open};
    use Does::{Answers, Fails, Nothing, Refuses};
    // Of a response who can read it knows.
    check_conduct(Answers(10), Conduct::Good, 10, Closed);
    check_conduct(Answers(10), Conduct::Bad, 10, Open);
    check_conduct(Answers(10), Conduct::Unknown, 10, Closed);
    check_conduct(Fails(5, CallFailure::Lost), Conduct::Good, 5, Open);
    check_conduct(Fails(5, CallFailure::Protocol("")), Conduct::Good, 5, Open);
    check_conduct(Refuses(CallFailure::Unreachable), Conduct::Good, 5, Open);
    check_conduct(Refuses(CallFailure::Throttled), Conduct::Bad, 5, Closed);
    check_conduct(Nothing, Conduct::Good, 60, Open);
    // Our own shard stood still.
    check_conduct(Nothing, Conduct::Good, 75, Open);
    check_conduct(Nothing, Conduct::Good, 76, Closed);
}
