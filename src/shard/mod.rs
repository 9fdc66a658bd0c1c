//! One core with its executor and all it owns: a listener, DSP connections, arenas, timers, a recorder.
//!
//! Built here, on the shard's own thread, and torn down with it. Shards share nothing on a request's path; what
//! crosses a thread is a command in, an event out, and an interval of counts now and then.

mod accept;
mod balance;
mod cores;
mod driver;
mod epoch;
mod gates;
mod observer;
mod quota;
mod reload;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TryRecvError};
use futures_lite::future;

use crate::clock::{self, Instant, Timers};
use crate::fanout::{Connections, DspId, DspOptions, DspSet, Fanout, Gates, Gatherings, Pool, PoolLimits};
use crate::ingress::{self, Generation, Ingress};
use crate::net::{self, Hearing, Listener, Readiness, Rouser};
use crate::orchestration::{self, Hindsight, Orchestrator, isolate};
use crate::telemetry::{ConnectionState, EventLog, EventSource, Recorder, Recorders, Roster};

use accept::{Door, Queue};
use balance::Member;
use driver::Driver;
use observer::PoolObserver;

pub use balance::Balance;
pub use cores::{CoreError, choose_cores};
pub use gates::GateKeeper;
pub use quota::Quotas;

/// How often a shard looks after itself: commands, gauges, counts for the housekeeping thread.
const CARE_INTERVAL: Duration = Duration::from_millis(50);

/// How often a shard that warms up looks whether it is warm, and after how many times that it looks after itself.
const WARM_UP_INTERVAL: Duration = Duration::from_millis(5);
const LOOKS_PER_CARE_ROUND: u32 = 10;

/// Rounds of care between two sweeps of the DSP connections: a second.
const CARE_ROUNDS_PER_SWEEP: u32 = 20;

/// Rounds of care between two intervals of counts: a quarter of a second.
const CARE_ROUNDS_PER_INTERVAL: u32 = 5;

/// How long a process that is to end keeps HTTP/1.1 connections that are not used, for the request that their client may
/// just be sending: several round trips round the globe, and a client that asks once a second.
const LAST_CALL: Duration = Duration::from_secs(1);

/// All that a shard is made of, checked and resolved beforehand.
#[derive(Debug, Clone)]
pub struct Blueprint {
    /// Which configuration this is of: 1 at the start, one more with each reload.
    pub generation: u64,
    /// The front door.
    pub ingress: ingress::Options,
    /// The auction and its time.
    pub orchestration: orchestration::Options,
    /// Whom to ask.
    pub dsps: Vec<DspOptions>,
    /// Who may use how much of the DSPs' caps of calls per second.
    pub quotas: Arc<Quotas>,
    /// How long answers may be left to gather when the shard is busy.
    pub epoch_max: Duration,
    /// How long to wait at the start for DSPs that are not there yet.
    pub warm_up_max: Duration,
    /// How long what is in flight may take to finish when draining.
    pub drain: Duration,
    /// Whether a shard passes connections to others that have clearly less to do.
    pub balance: bool,
}

/// Where one shard runs and whom it reports to.
#[derive(Debug)]
pub struct Post {
    /// Which shard, and which start of it.
    pub seat: Seat,
    /// The core it is pinned to.
    pub core: usize,
    /// Its own listening sockets, see [`crate::net::bind`]: one, or more in a process that has taken over those of one
    /// with more shards.
    pub listeners: Vec<OwnedFd>,
    /// Whether it accepts connections before it is ready, or only when it is told to.
    pub opens: Opens,
    /// Commands to it.
    pub commands: Receiver<Command>,
    /// Events from it.
    pub events: Sender<Event>,
    /// Wakes its executor.
    pub rouser: Rouser,
    /// What it has to do with the other shards: connections.
    pub balance: Arc<Balance>,
    /// Where its event log goes, if there is one.
    pub event_log: Option<EventSource>,
}

/// Which shard, and which start of it: one that was started again is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// From 0.
    pub index: usize,
    /// From 0, by one more each time that it is started again.
    pub start: u32,
}

/// When a shard begins to accept connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opens {
    /// At once: whoever finds the port by himself is served while the shard warms up.
    AtOnce,
    /// When it is told [`Command::Open`], because until then somebody else accepts from the same sockets.
    WhenTold,
}

/// What a shard can be told.
#[derive(Debug, Clone)]
pub enum Command {
    /// Accept connections from now on.
    Open,
    /// Go on by another configuration; what is in flight finishes by the one that it met.
    Reload(Arc<Blueprint>),
    /// A fault on purpose.
    Rehearse(Fault),
    /// Stop accepting, finish what is in flight, end.
    Drain,
    /// The same; who waits to be accepted is another process's, which has the same sockets.
    HandOver,
}

/// What can be rehearsed on a shard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A panic outside any request, as a bug would: it is caught, and the shard evacuated.
    Break,
    /// A panic that nobody catches.
    Die,
    /// The loop stands still for this long.
    Stall(Duration),
}

impl Fault {
    fn happen(self) {
        match self {
            Self::Break => net::spawn(async { rehearsed_panic() }),
            Self::Die => drop(glommio::spawn_local(async { rehearsed_panic() }).detach()),
            Self::Stall(time) => driver::sleep(time),
        }
    }
}

#[expect(clippy::panic, reason = "this is what it is for")]
fn rehearsed_panic() {
    panic!("a rehearsal: a panic outside any request");
}

/// What a shard has to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Connections to DSPs are there, as far as DSPs are, and it accepts those of SSPs, or waits to be told to.
    Ready(Seat),
    /// It accepts connections, as [`Command::Open`] told it.
    Open(Seat),
    /// New bid requests meet the configuration of this generation: since it is ready, or after a reload.
    Serves {
        /// Which shard.
        seat: Seat,
        /// See [`Blueprint::generation`].
        generation: u64,
    },
    /// Something outside any request has panicked. It accepts no more and finishes what is in flight: another may be
    /// started in its place.
    Broken(Seat),
    /// It is gone: drained, failed or panicked. Its thread can be joined.
    Ended(Seat),
}

impl Event {
    /// Whose word it is.
    #[must_use]
    pub fn seat(self) -> Seat {
        match self {
            Self::Ready(seat) | Self::Open(seat) | Self::Broken(seat) | Self::Ended(seat) => seat,
            Self::Serves { seat, .. } => seat,
        }
    }
}

/// A running shard; joining it tells how it ended. It may be that its executor could not be made: io_uring is not
/// available, or a limit is too low.
pub type Handle = JoinHandle<io::Result<()>>;

/// Starts a shard on a thread of its own.
///
/// # Errors
/// When there can be no other thread.
pub fn spawn(blueprint: Arc<Blueprint>, post: Post, recorders: &Recorders) -> io::Result<Handle> {
    let recorders = recorders.clone();
    let last_word = LastWord {
        seat: post.seat,
        events: post.events.clone(),
        balance: Arc::clone(&post.balance),
    };
    on_thread(
        post.core,
        post.rouser.clone(),
        last_word,
        move |has_left| async move { run(&blueprint, post, &recorders, &has_left).await },
    )
}

/// Whether a shard has left the table of [`Balance`] already: then its row is another's.
type HasLeft = Rc<Cell<bool>>;

/// Runs `main` on an executor of its own. The last word is the thread's and not one of its tasks': when the executor
/// panics it is gone, but its tasks are not, as each holds the timers that hold its waker.
fn on_thread<F>(
    core: usize,
    rouser: Rouser,
    last_word: LastWord,
    main: impl FnOnce(HasLeft) -> F + Send + 'static,
) -> io::Result<Handle>
where
    F: Future<Output = io::Result<()>>,
{
    thread::Builder::new()
        .name(format!("shard-{}", last_word.seat.index))
        .spawn(move || {
            let has_left = HasLeft::default();
            let _said_at_the_end = Said {
                word: last_word,
                has_left: Rc::clone(&has_left),
            };
            net::run(Some(core), &rouser, main(has_left))?
        })
}

/// What is said when a shard's thread ends, however it went.
struct LastWord {
    seat: Seat,
    events: Sender<Event>,
    balance: Arc<Balance>,
}

/// Says it, after closing what tasks have left open: nobody is there to answer.
struct Said {
    word: LastWord,
    has_left: HasLeft,
}

impl Drop for Said {
    fn drop(&mut self) {
        let LastWord {
            seat,
            events,
            balance,
        } = &self.word;
        let left_open = net::close_all();
        if thread::panicking() {
            tracing::error!(
                shard = seat.index,
                sockets = left_open,
                "the shard is gone; its connections are closed"
            );
        }
        if !self.has_left.get() {
            balance.leave(seat.index);
        }
        // Nobody listens any more when the process is ending anyway.
        let _gone = events.send(Event::Ended(*seat));
    }
}

/// Why a shard comes to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Drain,
    HandOver,
    /// Something outside any request has panicked.
    Broken,
}

async fn run(blueprint: &Blueprint, post: Post, recorders: &Recorders, has_left: &HasLeft) -> io::Result<()> {
    let seat = post.seat;
    let broken = net::panicked();
    let names = blueprint.dsps.iter().map(|dsp| dsp.name.clone()).collect();
    let roster = Arc::new(Roster::new(names, blueprint.orchestration.currency.as_str()));
    let recorder = Rc::new(recorders.recorder(seat.index, &roster));
    recorder.config_generation(blueprint.generation);
    let readiness = Rc::new(Readiness::new()?);
    let alarm = Rc::clone(&readiness);
    let timers = Timers::new(clock::now, move |at| alarm.set_alarm(at));
    let event_log = post
        .event_log
        .map(|source| Rc::new(source.event_log(unix_ahead_ns())));
    let pool = pool(blueprint, &readiness, &recorder);
    let keeper = GateKeeper::new(
        post.seat.index,
        &DspSet::from(&*blueprint.dsps),
        &blueprint.quotas,
        &recorder,
        timers.now(),
    );
    let gates = keeper.gates();
    let ingress = ingress(blueprint, &pool, gates, &timers, &recorder, event_log.clone());

    let epoch_max = Rc::new(Cell::new(blueprint.epoch_max));
    let driver = Driver {
        readiness: Rc::clone(&readiness),
        pool: Rc::clone(&pool.pool),
        timers: Rc::clone(&timers),
        recorder: Rc::clone(&recorder),
        epoch_max: Rc::clone(&epoch_max),
        is_behind: Cell::new(false),
    };
    let member = Rc::new(post.balance.join(seat.index, blueprint.balance, timers.now()));
    let listeners = post.listeners.into_iter();
    let door = Door {
        listeners: listeners
            .map(|listener| Listener::new(listener, &readiness))
            .collect::<io::Result<_>>()?,
        hearing: Hearing::new(member.bell(), &readiness)?,
        member: Rc::clone(&member),
        ingress: Rc::clone(&ingress),
        readiness,
        timers: Rc::clone(&timers),
        recorder: Rc::clone(&recorder),
    };
    let care = Care {
        ingress,
        pool: pool.pool,
        gatherings: pool.gatherings,
        observer: pool.observer,
        event_log,
        keeper,
        member,
        epoch_max,
        drain: Cell::new(blueprint.drain),
        roster: RefCell::new(roster),
        past: RefCell::default(),
        timers,
        recorder,
        is_draining: Cell::new(false),
        rounds: Cell::new(0),
        cpu: Cell::new((clock::now(), clock::thread_cpu())),
        counts: RefCell::default(),
    };
    let serving = async {
        let mut closed = Some(door);
        let mut entrance = None;
        let mut open = || {
            if let Some(door) = closed.take() {
                entrance = Some(accept::open(door));
            }
        };
        if post.opens == Opens::AtOnce {
            open();
        }
        let say = |event| {
            // Nobody listens any more when the process is ending anyway.
            let _unheard = post.events.send(event);
        };
        let serves = |generation| Event::Serves { seat, generation };
        let told = isolate(async {
            let all: Vec<_> = care.current_dsps().iter().map(|(id, _)| id).collect();
            care.warm_up(&all, blueprint.warm_up_max, &post.commands).await;
            say(Event::Ready(seat));
            say(serves(blueprint.generation));
            loop {
                match post.commands.try_recv() {
                    Ok(Command::Open) => {
                        open();
                        say(Event::Open(seat));
                    }
                    Ok(Command::Reload(blueprint)) => {
                        if care.reload(&blueprint, &post.commands).await {
                            say(serves(blueprint.generation));
                        }
                    }
                    Ok(Command::Rehearse(fault)) => fault.happen(),
                    Ok(Command::HandOver) => return End::HandOver,
                    // Without a supervisor there is no point in going on.
                    Ok(Command::Drain) | Err(TryRecvError::Disconnected) => return End::Drain,
                    Err(TryRecvError::Empty) => care.round().await,
                }
            }
        });
        let breaks = async {
            broken.raised().await;
            Ok(End::Broken)
        };
        let end = future::or(told, breaks).await.unwrap_or(End::Broken);
        if let Some(entrance) = entrance {
            let queue = match end {
                End::Drain => Queue::Ours,
                End::HandOver | End::Broken => Queue::TheirsToo,
            };
            entrance.close(queue).await;
        }
        // Closing the door does it, if that was open and has not broken.
        care.member.leave();
        has_left.set(true);
        if end == End::Broken {
            broken.raise();
            tracing::error!(
                shard = seat.index,
                "something outside a request has panicked: the shard finishes what is in flight and ends"
            );
            say(Event::Broken(seat));
        }
        care.finish(end).await;
        Ok(())
    };
    let driving = async {
        loop {
            match isolate(driver.run()).await {
                Ok(failed) => return failed.map(|never| match never {}),
                Err(panicked) if broken.is_raised() => {
                    return Err(io::Error::other(format!("while ending: {panicked}")));
                }
                // What was wrong may not be met again, and there is what is in flight to finish.
                Err(_said_by_the_panic_hook) => broken.raise(),
            }
        }
    };
    future::or(serving, driving).await
}

struct Connected {
    pool: Rc<Pool>,
    gatherings: Rc<Gatherings>,
    observer: Rc<PoolObserver>,
    hindsight: Rc<Hindsight>,
}

fn pool(blueprint: &Blueprint, readiness: &Rc<Readiness>, recorder: &Rc<Recorder>) -> Connected {
    let gatherings = Rc::new(Gatherings::default());
    let hindsight = Rc::new(Hindsight::default());
    let observer = Rc::new(PoolObserver::new(&blueprint.dsps, recorder, &hindsight));
    let tells = Rc::clone(&observer);
    let pool = Pool::new(
        &blueprint.dsps,
        PoolLimits::default(),
        Rc::clone(readiness),
        Rc::clone(&gatherings),
        tells,
    );
    Connected {
        pool: Rc::new(pool),
        gatherings,
        observer,
        hindsight,
    }
}

fn ingress(
    blueprint: &Blueprint,
    pool: &Connected,
    gates: &Rc<Gates>,
    timers: &Rc<Timers>,
    recorder: &Rc<Recorder>,
    event_log: Option<Rc<EventLog>>,
) -> Rc<Ingress<Rc<Pool>>> {
    let fanout = Fanout::new(
        DspSet::from(&*blueprint.dsps),
        Rc::clone(&pool.pool),
        Rc::clone(&pool.gatherings),
        Rc::clone(timers),
    )
    .behind(Rc::clone(gates));
    let options = blueprint.orchestration.clone();
    let orchestrator = Orchestrator::new(options, fanout, Rc::clone(timers), Rc::clone(recorder))
        .with_hindsight(Rc::clone(&pool.hindsight))
        .with_events(event_log);
    Ingress::new(
        blueprint.ingress.clone(),
        orchestrator,
        Rc::clone(timers),
        Rc::clone(recorder),
    )
}

/// By how much the wall clock is ahead of the monotonic one.
fn unix_ahead_ns() -> u64 {
    nanos(clock::since_unix_epoch()).saturating_sub(clock::now().as_nanos())
}

/// For how long of the time for draining a connection without a request is kept. A shard or a process that another has
/// taken the place of keeps nobody waiting.
fn last_call(limit: Duration, end: End) -> Duration {
    match end {
        End::Drain => LAST_CALL.min(limit / 2),
        End::HandOver | End::Broken => limit * 9 / 10,
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A shard's care for itself, off every request's path.
struct Care {
    ingress: Rc<Ingress<Rc<Pool>>>,
    pool: Rc<Pool>,
    gatherings: Rc<Gatherings>,
    observer: Rc<PoolObserver>,
    event_log: Option<Rc<EventLog>>,
    keeper: GateKeeper,
    member: Rc<Member>,
    epoch_max: Rc<Cell<Duration>>,
    /// How long what is in flight may take to finish when draining.
    drain: Cell<Duration>,
    /// What the recorder counts by.
    roster: RefCell<Arc<Roster>>,
    /// Configurations that were reloaded away, as long as requests need them.
    past: RefCell<Vec<Rc<Generation<Rc<Pool>>>>>,
    timers: Rc<Timers>,
    recorder: Rc<Recorder>,
    is_draining: Cell<bool>,
    rounds: Cell<u32>,
    /// When the thread's CPU time was last read, and what it was.
    cpu: Cell<(Instant, Duration)>,
    counts: RefCell<Vec<Connections>>,
}

impl Care {
    /// Waits until the connections that these DSPs should have before anybody calls are there, or the DSPs cannot be
    /// reached; for at most `limit`, and not when there is a command to obey.
    async fn warm_up(&self, dsps: &[DspId], limit: Duration, commands: &Receiver<Command>) {
        let deadline = self.timers.now().after(limit);
        for look in 1_u32.. {
            let now = self.timers.now();
            self.pool.warm(now);
            if self.pool.is_warm(dsps, now) || now >= deadline || !commands.is_empty() {
                return;
            }
            self.timers.sleep_until(now.after(WARM_UP_INTERVAL)).await;
            if look.is_multiple_of(LOOKS_PER_CARE_ROUND) {
                self.look_after_what_is_due();
            }
        }
    }

    /// Waits a little, then looks after what is due.
    async fn round(&self) {
        self.timers
            .sleep_until(self.timers.now().after(CARE_INTERVAL))
            .await;
        self.probe().await;
        self.look_after_what_is_due();
    }

    /// One round of care, without the wait.
    fn look_after_what_is_due(&self) {
        if !self.is_draining.get() {
            self.pool.warm(self.timers.now());
            self.member.say(self.timers.now(), self.ingress.load().in_flight);
        }
        self.let_go();
        let round = self.rounds.get().wrapping_add(1);
        self.rounds.set(round);
        self.ingress.generation().orchestrator().look_back();
        self.keeper.settle(self.timers.now());
        if round.is_multiple_of(CARE_ROUNDS_PER_SWEEP) {
            self.pool.sweep(self.timers.now());
        }
        if round.is_multiple_of(CARE_ROUNDS_PER_INTERVAL) {
            self.gauges();
            self.cpu();
            self.hand_over_events();
            // When the housekeeping thread is behind, the interval grows and goes with the next round.
            self.recorder.publish();
        }
    }

    /// Lets what is in flight finish, for as long as it may take.
    async fn finish(&self, end: End) {
        self.is_draining.set(true);
        self.ingress.drain();
        let (began, limit) = (self.timers.now(), self.drain.get());
        let deadline = began.after(limit);
        let last_call = began.after(last_call(limit, end));
        while self.ingress.load().connections > 0 && self.timers.now() < deadline {
            if self.timers.now() >= last_call {
                self.ingress.end_last_call();
            }
            self.round().await;
        }
        let left = self.ingress.load();
        if left.in_flight > 0 {
            tracing::warn!(
                in_flight = left.in_flight,
                "drained for as long as allowed; these are cut off"
            );
        }
        self.gauges();
        self.hand_over_events();
        self.recorder.publish();
    }

    fn hand_over_events(&self) {
        if let Some(log) = &self.event_log {
            log.hand_over(unix_ahead_ns());
            self.recorder.events_dropped(log.take_dropped());
        }
    }

    /// Goes to the end of the queue of tasks that can run: how long that takes, any of them waits.
    async fn probe(&self) {
        let asked = self.timers.now();
        future::yield_now().await;
        self.recorder.queue_delay(nanos(self.timers.now().since(asked)));
    }

    fn cpu(&self) {
        let (now, cpu) = (self.timers.now(), clock::thread_cpu());
        let (read_at, cpu_then) = self.cpu.replace((now, cpu));
        self.recorder
            .cpu(nanos(cpu.saturating_sub(cpu_then)), nanos(now.since(read_at)));
    }

    fn gauges(&self) {
        self.keeper.tell();
        let load = self.ingress.load();
        self.recorder.in_flight(load.in_flight as u64);
        self.recorder.memory(load.memory_bytes as u64);
        let active = load.connections.min(load.in_flight);
        self.recorder
            .ssp_connections(ConnectionState::Active, active as u64);
        self.recorder
            .ssp_connections(ConnectionState::Idle, (load.connections - active) as u64);
        let mut counts = self.counts.borrow_mut();
        self.pool.count_connections(&mut counts);
        for (dsp, count) in counts.iter().enumerate() {
            self.recorder.dsp_connections(
                dsp,
                ConnectionState::Active,
                (count.busy + count.connecting) as u64,
            );
            self.recorder
                .dsp_connections(dsp, ConnectionState::Parked, count.draining as u64);
            self.recorder
                .dsp_connections(dsp, ConnectionState::Idle, count.idle as u64);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::{TcpListener, TcpStream};

    use crossbeam::channel::unbounded;

    use super::*;
    use crate::net::HyperStream;

    const SEAT: Seat = Seat { index: 0, start: 0 };

    fn last_word() -> (LastWord, Receiver<Event>, Member) {
        let (events, said) = unbounded();
        let balance = Balance::new(1).unwrap();
        let member = balance.join(0, true, clock::now());
        let word = LastWord {
            seat: SEAT,
            events,
            balance,
        };
        (word, said, member)
    }

    /// As a shard does, and holding what its own waker is in.
    async fn sleep_for_ever(timers: Rc<Timers>) {
        loop {
            timers
                .sleep_until(timers.now().after(Duration::from_secs(1)))
                .await;
        }
    }

    #[test]
    fn a_panic_that_nobody_catches_ends_the_shard_closes_what_it_had_and_is_told() {
        let (last_word, said, member) = last_word();
        let core = choose_cores(None, &[]).unwrap()[0];
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ssp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let near = listener.accept().unwrap().0;
        let handle = on_thread(
            core,
            Rouser::start().unwrap(),
            last_word,
            move |_has_left| async {
                let readiness = Rc::new(Readiness::new()?);
                let alarm = Rc::clone(&readiness);
                let timers = Timers::new(clock::now, move |at| alarm.set_alarm(at));
                // Never dropped: it holds the timers, which hold its waker.
                let (sleeps, stream) = (Rc::clone(&timers), HyperStream::new(near.into(), &readiness)?);
                net::spawn(async move {
                    let _held = stream;
                    sleep_for_ever(sleeps).await;
                });
                glommio::spawn_local(async { panic!("as a bug in what catches them would") }).detach();
                sleep_for_ever(timers).await;
                Ok(())
            },
        );
        let ended = said.recv_timeout(Duration::from_secs(20));
        assert_eq!(ended, Ok(Event::Ended(SEAT)));
        assert!(handle.unwrap().join().is_err());
        assert!(!member.is_open(), "nobody passes it anything any more");
        ssp.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert!(matches!(ssp.read(&mut [0]), Ok(0)), "its SSP is told");
    }

    #[test]
    fn so_is_that_a_shard_cannot_start() {
        let (last_word, said, _member) = last_word();
        let handle = on_thread(1 << 20, Rouser::start().unwrap(), last_word, |_has_left| async {
            Ok(())
        });
        assert_eq!(said.recv_timeout(Duration::from_secs(20)), Ok(Event::Ended(SEAT)));
        assert!(handle.unwrap().join().unwrap().is_err());
    }

    #[test]
    fn one_that_has_left_leaves_the_row_to_the_next() {
        let (last_word, said, _member) = last_word();
        let balance = Arc::clone(&last_word.balance);
        let core = choose_cores(None, &[]).unwrap()[0];
        let handle = on_thread(core, Rouser::start().unwrap(), last_word, |has_left| async move {
            has_left.set(true);
            Ok(())
        });
        let next = balance.join(0, true, clock::now());
        assert!(said.recv_timeout(Duration::from_secs(20)).is_ok());
        assert!(handle.unwrap().join().unwrap().is_ok());
        assert!(next.is_open());
    }

    #[test]
    fn last_call() {
        let check = |limit_ms, end, expected_ms| {
            let call = super::last_call(Duration::from_millis(limit_ms), end);
            assert_eq!(call, Duration::from_millis(expected_ms), "{limit_ms} {end:?}");
        };
        check(5_000, End::Drain, 1_000);
        check(300, End::Drain, 150);
        check(0, End::Drain, 0);
        check(5_000, End::HandOver, 4_500);
        check(5_000, End::Broken, 4_500);
    }
}
