//! Keeps shards running and ends the process cleanly: starts a shard per core, starts one again that died, and gives
//! up, with an exit code for systemd, when they die too often.

mod blueprint;
mod fleet;
mod handover;
mod intensity;
mod notify;
mod reload;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, never, select, unbounded};

use crate::clock;
use crate::config::Config;
use crate::control::{self, Control, ControlOptions, EventsFile, Readiness, State};
use crate::net::{self, Rouser};
use crate::shard::{self, Balance, Blueprint, Command, Event, Fault, Opens, Post, Seat};
use crate::telemetry::{self, EventSource, HandoverResult, Merged, Recorders, Rehearsed};

pub use blueprint::{StartError, StartErrors};
use fleet::{Fleet, Verdict};
pub use handover::Inheritance;
use handover::{Attempt, Estate, Itself, Order, Predecessor, Taken};
use intensity::Intensity;
use notify::Notifier;
pub use reload::Again;
use reload::{AskReload, Reloads};
use signals::Ask;

/// Past `server.drain_ms` a shard has this long to close its sockets before it is left behind.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How often the supervisor looks whether anything takes too long, and whether all shards are alive: several times within
/// the shortest time that makes sense for systemd's watchdog, a second.
const PULSE: Duration = Duration::from_millis(250);

/// A shard that has said nothing for this long, twenty rounds of care, stands still.
const SILENCE: Duration = Duration::from_secs(1);

/// Commands that a shard may have before it: it looks 20 times a second.
const COMMANDS_MAX: usize = 4;

/// How long a shard may take from its start until it is ready, beyond `fanout.warm_up_ms_max`: many hundred times what making an
/// executor and its sockets takes. With the second that warming up has by default less than `server.handover_ms_max` and
/// `TimeoutStartSec` of `tuning/systemd`: so it is told which shard it was, before others lose patience.
const STARTS_WITHIN: Duration = Duration::from_secs(20);

/// How long shards may take to open their doors when they are told to: many times what they do take.
const OPENS_WITHIN: Duration = Duration::from_secs(2);

/// Everything that is needed to start, worked out and found good: what `serve --check` checks.
#[derive(Debug)]
pub struct Prepared {
    blueprint: Arc<Blueprint>,
    cores: Vec<usize>,
    listen: SocketAddr,
    admin: SocketAddr,
    config: Config,
    hlog: Option<control::FileOptions>,
    events: Option<EventsOptions>,
    /// How often shards may be restarted, within which time.
    restarts: (usize, Duration),
    /// For how long connections are still accepted after `/readyz` says that no more are wanted.
    drain_delay: Duration,
    /// How long a process that takes over may take until it is ready.
    handover_max: Duration,
}

/// The event log.
#[derive(Debug)]
struct EventsOptions {
    file: control::FileOptions,
    /// One in how many bid requests is in it.
    one_in: u64,
}

/// Where a running exchange can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// By SSPs.
    pub main: SocketAddr,
    /// By operators.
    pub admin: SocketAddr,
    /// On so many shards.
    pub shards: usize,
}

impl Prepared {
    /// Works out of a checked configuration what shards are made of; resolves the DSPs' names.
    ///
    /// # Errors
    /// Everything that stands in the way.
    pub fn new(config: &Config) -> Result<Self, StartErrors> {
        blueprint::prepare(config, None)
    }
}

/// How the process is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// As asked.
    Drained,
    /// Another process has the sockets.
    HandedOver,
    /// A second signal came while draining.
    AtOnce,
    /// Shards died more often than restarting them makes sense.
    GivenUp,
}

/// Runs the exchange until a signal ends it, or a handover: from another process, if there is an `inheritance`, and to
/// another. SIGHUP has it read its configuration `again`. `on_ready` is called once, when every shard accepts connections.
///
/// # Errors
/// When it cannot be started: an address in use, no io_uring.
pub fn run(
    prepared: Prepared,
    again: Option<Again>,
    inheritance: Option<Inheritance>,
    on_ready: impl FnOnce(Addresses),
) -> io::Result<Ended> {
    let (predecessor, estate) = inheritance.map(Inheritance::split).unzip();
    let (asks, asked) = unbounded();
    let readiness = Arc::new(Readiness::new());
    let started = start(prepared, again, estate, Arc::clone(&readiness), asks);
    // The events' file is dropped after the shards: they have the last word.
    let (_events_file, control, mut supervisor) = started.inspect_err(|error| {
        if let Some(predecessor) = &predecessor {
            predecessor.refuse(error);
        }
    })?;
    let mut signals_seen = 0;
    let is_ready = supervisor.wait_until_ready(&asked, &mut signals_seen);
    if is_ready.is_ok() {
        if let Some(predecessor) = predecessor {
            supervisor.take_over(&predecessor);
        }
        readiness.advance(State::Ready);
        control.serve();
        let shards = supervisor.shards.len();
        supervisor.notifier.ready(&format!("ready: {shards} shards"));
        on_ready(Addresses {
            main: supervisor.address,
            admin: control.address(),
            shards,
        });
        match supervisor.watch(&asked, &control) {
            Left::Asked(ask) => signals_seen += usize::from(ask == Ask::Signal),
            Left::GivenUp => {}
            // `/readyz` does not say so: until it is closed, those who ask it mean whoever has the port.
            Left::HandedOver(taken) => return Ok(supervisor.hand_over(&taken, &control, &asked)),
        }
    } else if let (Err(why), Some(predecessor)) = (is_ready, predecessor) {
        predecessor.refuse(&why);
    }
    readiness.advance(State::Draining);
    supervisor.notifier.stopping("draining");
    if !supervisor.keep_accepting(&asked, &mut signals_seen) {
        return Ok(Ended::AtOnce);
    }
    Ok(supervisor.end(&asked, signals_seen, &Command::Drain))
}

fn start(
    prepared: Prepared,
    again: Option<Again>,
    estate: Option<Estate>,
    readiness: Arc<Readiness>,
    asks: Sender<Ask>,
) -> io::Result<(Option<EventsFile>, Control, Supervisor)> {
    let (reloads, reloads_asked) = unbounded();
    signals::listen(asks.clone(), reloads.clone())?;
    let (recorders, merged) = telemetry::channel(prepared.cores.len());
    let (listeners, admin) = match estate {
        Some(estate) => {
            recorders.process().handovers_before(estate.handovers);
            (Some(estate.listeners), Some(estate.admin))
        }
        None => (None, None),
    };
    let (event_log, events_file) = open_event_log(&prepared, &recorders)?.unzip();
    let control = open_admin_port(&prepared, admin, merged, readiness, asks, reloads)?;
    let reloads = Reloads::new(prepared, again, reloads_asked);
    let supervisor = Supervisor::start(reloads, listeners, recorders, event_log)?;
    Ok((events_file, control, supervisor))
}

/// Where shards write events, and the thread that brings them to disk.
fn open_event_log(
    prepared: &Prepared,
    recorders: &Recorders,
) -> io::Result<Option<(EventSource, EventsFile)>> {
    let Some(options) = &prepared.events else {
        return Ok(None);
    };
    let (source, chunks) = EventSource::new(prepared.cores.len(), options.one_in);
    let file = EventsFile::open(options.file.clone(), chunks, recorders.process_counters())?;
    Ok(Some((source, file)))
}

fn open_admin_port(
    prepared: &Prepared,
    inherited: Option<OwnedFd>,
    merged: Merged,
    readiness: Arc<Readiness>,
    asks: Sender<Ask>,
    reloads: Sender<AskReload>,
) -> io::Result<Control> {
    let options = ControlOptions {
        listen: prepared.admin,
        inherited,
        effective_toml: prepared.config.effective_toml().to_owned(),
        hlog: prepared.hlog.clone(),
        limits: control::Limits::default(),
    };
    let state = Arc::clone(&readiness);
    let commands = move |command| match (command, state.state()) {
        (control::Command::Drain, _) => asks.send(Ask::Drain).is_ok(),
        (control::Command::Rehearse { shard, fault, time }, _) => {
            let fault = match fault {
                Rehearsed::Break => Fault::Break,
                Rehearsed::Die => Fault::Die,
                Rehearsed::Stall => Fault::Stall(time),
            };
            asks.send(Ask::Rehearse(shard, fault)).is_ok()
        }
        (control::Command::Reload(reply), State::Ready) => reloads.send(Some(reply)).is_ok(),
        (control::Command::Reload(reply), State::Starting) => {
            reply(control::Reload::NotNow("starting; try again"));
            true
        }
        (control::Command::Reload(reply), State::Draining) => {
            reply(control::Reload::NotNow("draining; nothing has changed"));
            true
        }
    };
    Control::spawn(options, merged, readiness, Box::new(commands))
        .map_err(|error| in_context(&format!("admin port {}", prepared.admin), &error))
}

fn in_context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// The sockets that SSPs connect to, dealt out to so many shards: those of the process before this one, each of which
/// must be accepted from by somebody, and new ones for shards without.
fn listeners(
    inherited: Option<Vec<OwnedFd>>,
    listen: SocketAddr,
    shards: usize,
) -> io::Result<(SocketAddr, Vec<Vec<OwnedFd>>)> {
    let mut address = listen;
    if let Some(first) = inherited.iter().flatten().next() {
        address = net::local_address(first)?;
        if address.ip() != listen.ip() || (address.port() != listen.port() && listen.port() != 0) {
            return Err(io::Error::other(format!(
                "what was handed over listens on {address}; another address takes a restart"
            )));
        }
    } else {
        net::refuse_if_taken(address)?;
    }
    let mut dealt = deal(inherited.unwrap_or_default(), shards);
    for listeners in dealt.iter_mut().filter(|listeners| listeners.is_empty()) {
        let listener = net::bind(address)?;
        address = net::local_address(&listener)?;
        listeners.push(listener);
    }
    Ok((address, dealt))
}

fn deal<T>(things: Vec<T>, hands: usize) -> Vec<Vec<T>> {
    let mut dealt: Vec<_> = std::iter::repeat_with(Vec::new).take(hands).collect();
    for (index, thing) in things.into_iter().enumerate() {
        dealt[index % hands].push(thing);
    }
    dealt
}

/// Why the supervisor stops watching.
enum Left {
    /// Somebody asked for the end.
    Asked(Ask),
    /// Another process has taken over.
    HandedOver(Taken),
    GivenUp,
}

struct Supervisor {
    /// Of the configuration that is in force: a shard that is started again begins with it.
    blueprint: Arc<Blueprint>,
    reloads: Reloads,
    recorders: Recorders,
    event_log: Option<EventSource>,
    rouser: Rouser,
    balance: Arc<Balance>,
    address: SocketAddr,
    fleet: Fleet,
    /// Whether shards accept at once: not before the process before this one may be told so.
    opens: Opens,
    shards: Vec<Shard>,
    events: Receiver<Event>,
    reports_to: Sender<Event>,
    /// How to start the next process.
    itself: Itself,
    attempt: Option<Attempt>,
    notifier: Notifier,
    /// The shard that stood still when it was looked at last.
    stands_still: Option<usize>,
    /// How long a shard may take until it is ready.
    starts_within: Duration,
    /// Why, if it is.
    given_up: Option<String>,
}

struct Shard {
    core: usize,
    /// Kept open here, so that connections made while a shard is being restarted wait instead of being refused. None
    /// once draining: nobody would take them.
    listeners: Vec<OwnedFd>,
    commands: Sender<Command>,
    /// Of all starts of it that have not been joined: the one that serves, and those that finish what they had in flight.
    running: Vec<(Seat, shard::Handle)>,
}

/// How long a shard that is made of this may take until it is ready.
fn starts_within(blueprint: &Blueprint) -> Duration {
    blueprint.warm_up_max + STARTS_WITHIN
}

impl Supervisor {
    fn start(
        reloads: Reloads,
        inherited: Option<Vec<OwnedFd>>,
        recorders: Recorders,
        event_log: Option<EventSource>,
    ) -> io::Result<Self> {
        let prepared = Arc::clone(reloads.current());
        recorders
            .process()
            .config_in_force(prepared.config.hash(), clock::since_unix_epoch());
        let (reports_to, events) = unbounded();
        let shards = prepared.cores.len();
        let (restarts_max, period) = prepared.restarts;
        let opens = match inherited {
            Some(_) => Opens::WhenTold,
            None => Opens::AtOnce,
        };
        let (address, dealt) = listeners(inherited, prepared.listen, shards)
            .map_err(|error| in_context(&format!("port {}", prepared.listen), &error))?;
        let mut supervisor = Self {
            blueprint: Arc::clone(&prepared.blueprint),
            reloads,
            recorders,
            event_log,
            rouser: Rouser::start()?,
            balance: Balance::new(shards)?,
            address,
            opens,
            fleet: Fleet::new(shards, Intensity::new(restarts_max, period), clock::now()),
            shards: Vec::new(),
            events,
            reports_to,
            itself: Itself::now()?,
            attempt: None,
            notifier: Notifier::from_environment(),
            stands_still: None,
            starts_within: starts_within(&prepared.blueprint),
            given_up: None,
        };
        for (&core, listeners) in prepared.cores.iter().zip(dealt) {
            let (commands, _) = bounded(COMMANDS_MAX);
            supervisor.shards.push(Shard {
                core,
                listeners,
                commands,
                running: Vec::new(),
            });
        }
        supervisor.tell_of_rehearsal();
        for index in 0..shards {
            supervisor.start_shard(index)?;
        }
        Ok(supervisor)
    }

    fn start_shard(&mut self, index: usize) -> io::Result<()> {
        let shard = &mut self.shards[index];
        let (commands, receives) = bounded(COMMANDS_MAX);
        let seat = self.fleet.seat(index);
        let post = Post {
            seat,
            core: shard.core,
            listeners: shard
                .listeners
                .iter()
                .map(OwnedFd::try_clone)
                .collect::<io::Result<_>>()?,
            opens: self.opens,
            commands: receives,
            events: self.reports_to.clone(),
            rouser: self.rouser.clone(),
            balance: Arc::clone(&self.balance),
            event_log: self.event_log.clone(),
        };
        let blueprint = Arc::clone(&self.blueprint);
        let handle = shard::spawn(blueprint, post, &self.recorders)?;
        shard.running.push((seat, handle));
        shard.commands = commands;
        Ok(())
    }

    /// Why it is to end before that, if it is: a shard cannot even start, and trying again would not help; or a signal came.
    fn wait_until_ready(&mut self, asked: &Receiver<Ask>, signals_seen: &mut usize) -> Result<(), String> {
        let events = self.events.clone();
        while !self.fleet.is_ready() && self.given_up.is_none() {
            select! {
                recv(asked) -> ask => {
                    *signals_seen += usize::from(ask == Ok(Ask::Signal));
                    return Err("it was told to end before it was ready".to_owned());
                },
                recv(events) -> event => self.hear(event.ok()),
                default(PULSE.min(self.starts_within)) => {}
            }
            self.look_after_starts();
        }
        self.given_up.clone().map_or(Ok(()), Err)
    }

    /// A shard that does not become ready cannot be ended and replaced, as its thread may be anywhere in the kernel: the
    /// process ends, and systemd starts another.
    fn look_after_starts(&mut self) {
        let limit = self.starts_within;
        if let Some(shard) = self.fleet.overdue(clock::now(), limit) {
            self.give_up(format!("shard {shard} is not ready {limit:?} after its start"));
        }
    }

    fn give_up(&mut self, why: String) {
        tracing::error!("{why}; giving up");
        self.given_up.get_or_insert(why);
    }

    /// Has the shards accept, beside those of the process before this one, and tells that it may go.
    fn take_over(&mut self, predecessor: &Predecessor) {
        self.opens = Opens::AtOnce;
        for shard in &self.shards {
            // One that has died meanwhile is started again, and then opens at once.
            let _gone = shard.commands.try_send(Command::Open);
        }
        let events = self.events.clone();
        let deadline = clock::now().after(OPENS_WITHIN);
        let mut open = 0;
        while open < self.shards.len() && clock::now() < deadline {
            select! {
                recv(events) -> event => {
                    open += usize::from(matches!(event, Ok(Event::Open(_))));
                    self.hear(event.ok());
                },
                default(PULSE) => {}
            }
            self.look_after_reloads();
        }
        predecessor.take_over();
    }

    /// Restarts shards that die and hands over when asked to, until it is time to end.
    fn watch(&mut self, asked: &Receiver<Ask>, control: &Control) -> Left {
        let events = self.events.clone();
        let (reload_asked, loaded) = (self.reloads.asked.clone(), self.reloads.loaded.clone());
        let mut left = Left::GivenUp;
        while self.given_up.is_none() {
            let attempt = self.attempt.as_ref();
            let outcome = attempt.map_or_else(never, |attempt| attempt.outcome().clone());
            select! {
                recv(asked) -> ask => match ask {
                    Ok(Ask::HandOver) => self.begin_handover(control),
                    Ok(Ask::Rehearse(shard, fault)) => self.rehearse(shard, fault),
                    // This process itself has the other end.
                    Ok(ask) => {
                        left = Left::Asked(ask);
                        break;
                    }
                    Err(_) => break,
                },
                recv(events) -> event => self.hear(event.ok()),
                // This process itself has the other ends.
                recv(reload_asked) -> ask => self.reload_is_asked_for(ask.ok().flatten()),
                recv(loaded) -> loaded => if let Ok(loaded) = loaded {
                    self.take_on(loaded, control);
                },
                recv(outcome) -> outcome => match outcome {
                    Ok(Ok(taken)) => return Left::HandedOver(taken),
                    Ok(Err(why)) => self.handover_failed(&why),
                    Err(_) => self.handover_failed("the thread for it has panicked"),
                },
                default(PULSE) => {}
            }
            self.look_after_reloads();
            self.look_after_starts();
            self.pulse();
        }
        // Who is to end while handing over ends the new process, too, if that is not ready yet.
        let taken = self.attempt.take().and_then(Attempt::cancel);
        taken.map_or(left, Left::HandedOver)
    }

    /// Tells systemd that all is alive, if it is.
    fn pulse(&mut self) {
        let now = clock::now();
        let silent = self.balance.stands_still(now, SILENCE);
        if let Some(shard) = silent
            && self.stands_still != silent
        {
            tracing::error!(
                shard,
                "the shard stands still: its loop has not turned for {SILENCE:?}"
            );
        }
        self.stands_still = silent;
        let limit = self.notifier.silence_max();
        if limit.is_none_or(|limit| self.balance.stands_still(now, limit).is_none()) {
            self.notifier.alive(now);
        }
    }

    fn rehearse(&self, shard: usize, fault: Fault) {
        tracing::warn!(shard, ?fault, "a rehearsal: a fault on purpose");
        let Some(shard) = self.shards.get(shard) else {
            return;
        };
        if shard.commands.try_send(Command::Rehearse(fault)).is_ok() {
            self.recorders.process().rehearsed(match fault {
                Fault::Break => Rehearsed::Break,
                Fault::Die => Rehearsed::Die,
                Fault::Stall(_) => Rehearsed::Stall,
            });
        }
    }

    /// Says what is rehearsed, at the start and after a reload.
    fn tell_of_rehearsal(&self) {
        let rehearsal = self.reloads.current().config.rehearsal();
        self.recorders.process().rehearses(rehearsal.is_some());
        if let Some(rehearsal) = rehearsal {
            tracing::warn!(
                panic_stage = rehearsal.panic_stage,
                panics_per_million = rehearsal.panics_per_million,
                "THIS IS A REHEARSAL: faults may be brought about on purpose (rehearsal.enabled)"
            );
        }
    }

    fn begin_handover(&mut self, control: &Control) {
        if self.attempt.is_some() {
            tracing::warn!("a handover is under way already");
            return;
        }
        tracing::info!(program = %self.itself.program().display(), "handing over to a new process");
        self.notifier.status("handing over to a new process");
        let begun = self.order(control).and_then(Attempt::begin);
        match begun {
            Ok(attempt) => self.attempt = Some(attempt),
            Err(error) => self.handover_failed(&error.to_string()),
        }
    }

    fn order(&self, control: &Control) -> io::Result<Order> {
        let listeners = self.shards.iter().flat_map(|shard| &shard.listeners);
        Ok(Order {
            itself: self.itself.clone(),
            listeners: listeners.map(OwnedFd::try_clone).collect::<io::Result<_>>()?,
            admin: control.socket()?,
            // The next process counts this one.
            handovers: self.recorders.process().handovers(HandoverResult::Done) + 1,
            patience: self.reloads.current().handover_max,
        })
    }

    fn handover_failed(&mut self, why: &str) {
        self.attempt = None;
        tracing::error!(why, "the handover has failed; this process goes on");
        self.notifier.status("ready; the last handover has failed");
        self.recorders.process().handover(HandoverResult::Failed);
    }

    /// Lets the process that has taken over have it, and ends.
    fn hand_over(self, taken: &Taken, control: &Control, asked: &Receiver<Ask>) -> Ended {
        self.notifier.main_pid(taken.pid);
        control.stop_serving();
        taken.yours();
        tracing::info!(to = taken.pid, "handed over; finishing what is in flight");
        match self.end(asked, 0, &Command::HandOver) {
            Ended::Drained => Ended::HandedOver,
            ended => ended,
        }
    }

    /// Takes in what a shard says, and does what has to be done about it.
    fn hear(&mut self, event: Option<Event>) {
        // The supervisor itself has the other end.
        let Some(event) = event else { return };
        match event {
            Event::Ended(seat) => self.bury(seat),
            Event::Broken(_) => self.recorders.process().shard_panicked(),
            Event::Serves { seat, generation } if seat == self.fleet.seat(seat.index) => {
                self.serves(seat.index, generation);
            }
            Event::Ready(_) | Event::Open(_) | Event::Serves { .. } => {}
        }
        match self.fleet.hear(event, clock::now()) {
            Verdict::Fine => {}
            Verdict::Replace => self.replace(event.seat().index),
            Verdict::GiveUp(why) => self.give_up(why.to_owned()),
        }
    }

    fn replace(&mut self, index: usize) {
        match self.start_shard(index) {
            Ok(()) => self.recorders.process().shard_restarted(),
            Err(error) => self.give_up(format!("cannot start shard {index} again: {error}")),
        }
    }

    /// Joins a shard that is gone and says how it went.
    fn bury(&mut self, seat: Seat) {
        let running = &mut self.shards[seat.index].running;
        let Some(place) = running.iter().position(|(of, _)| *of == seat) else {
            return;
        };
        let shard = seat.index;
        match running.remove(place).1.join() {
            Ok(Ok(())) => tracing::debug!(shard, "shard drained"),
            Ok(Err(error)) => tracing::error!(shard, %error, "shard failed"),
            // What it said is in the log already: the panic hook's line.
            Err(_panic) => {
                tracing::error!(shard, "shard died");
                self.recorders.process().shard_panicked();
            }
        }
    }

    /// After `/readyz` has begun to say that no more connections are wanted: goes on accepting them for as
    /// long as a load balancer takes to notice. A second signal does not wait: then, false.
    fn keep_accepting(&mut self, asked: &Receiver<Ask>, signals_seen: &mut usize) -> bool {
        self.reloads.close();
        let deadline = clock::now().after(self.reloads.current().drain_delay);
        let events = self.events.clone();
        loop {
            let left = deadline.since(clock::now());
            if left.is_zero() || self.given_up.is_some() {
                return true;
            }
            select! {
                recv(asked) -> ask => {
                    *signals_seen += usize::from(ask == Ok(Ask::Signal));
                    if *signals_seen > 1 {
                        return false;
                    }
                },
                recv(events) -> event => self.hear(event.ok()),
                default(left) => return true,
            }
        }
    }

    /// Has every shard drain, and waits for them. A second signal does not wait; `signals_seen` came before.
    fn end(mut self, asked: &Receiver<Ask>, mut signals_seen: usize, command: &Command) -> Ended {
        self.fleet.end();
        self.reloads.close();
        for shard in &mut self.shards {
            // The shard closes its own after taking what has been accepted on its behalf. With these open, who
            // connects from now on would wait for nobody instead of being refused.
            shard.listeners.clear();
            // A shard that is gone already has nothing to drain.
            let _gone = shard.commands.send_timeout(command.clone(), DRAIN_GRACE);
        }
        let deadline = clock::now().after(self.blueprint.drain + DRAIN_GRACE);
        let events = self.events.clone();
        while self.shards.iter().any(|shard| !shard.running.is_empty()) {
            let left = deadline.since(clock::now());
            select! {
                recv(asked) -> ask => {
                    signals_seen += usize::from(ask == Ok(Ask::Signal));
                    if signals_seen > 1 {
                        return Ended::AtOnce;
                    }
                },
                recv(events) -> event => self.hear(event.ok()),
                default(left.min(PULSE)) => {}
            }
            if clock::now() >= deadline {
                tracing::error!("a shard does not end; leaving it behind");
                break;
            }
            self.notifier.alive(clock::now());
        }
        if self.given_up.is_some() {
            Ended::GivenUp
        } else {
            Ended::Drained
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    #[test]
    fn every_socket_has_a_shard() {
        let check = |sockets: u32, shards, expected: &[&[u32]]| {
            assert_eq!(
                deal((0..sockets).collect(), shards),
                expected,
                "{sockets} {shards}"
            );
        };
        check(0, 2, &[&[], &[]]);
        check(2, 2, &[&[0], &[1]]);
        check(1, 3, &[&[0], &[], &[]]);
        check(5, 2, &[&[0, 2, 4], &[1, 3]]);
    }

    #[test]
    fn sockets_that_are_taken_over_are_those_that_are_configured() {
        let (address, first) = listeners(None, "127.0.0.1:0".parse().unwrap(), 2).unwrap();
        assert_eq!(first.iter().map(Vec::len).collect::<Vec<_>>(), [1, 1]);
        let again = || -> Option<Vec<OwnedFd>> {
            Some(first.iter().flatten().map(|fd| fd.try_clone().unwrap()).collect())
        };
        // More shards than there were, fewer, and a port left to the kernel.
        for (listen, shards, expected) in [
            (address, 3, &[1, 1, 1][..]),
            (address, 1, &[2]),
            ("127.0.0.1:0".parse().unwrap(), 2, &[1, 1]),
        ] {
            let (same, dealt) = listeners(again(), listen, shards).unwrap();
            assert_eq!(same, address);
            assert_eq!(dealt.iter().map(Vec::len).collect::<Vec<_>>(), expected);
        }
        for other in ["127.0.0.1:1", "127.0.0.2:0"] {
            let error = listeners(again(), other.parse().unwrap(), 2).unwrap_err();
            assert!(error.to_string().contains(&address.to_string()), "{error}");
        }
        // Somebody listens there.
        assert!(listeners(None, address, 2).is_err());
    }

    /// Accepts by its queue and says nothing, so that a TLS handshake with it does not end.
    fn silent() -> std::net::TcpListener {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn a_shard_that_does_not_get_ready_is_not_waited_for() {
        let dsp = silent();
        let toml = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\nshards = 1\n\
             [fanout]\nwarm_up_ms_max = 60000\n[[dsp]]\nname = \"d\"\nendpoint = \"https://{}/\"\nwarm_connections = 1\n",
            dsp.local_addr().unwrap()
        );
        let config = config::check("c.toml", &toml, [], &|_| Err(io::ErrorKind::NotFound.into())).unwrap();
        let prepared = Prepared::new(&config).unwrap();
        let (_reloads, reloads_asked) = unbounded();
        let (recorders, _merged) = telemetry::channel(1);
        let reloads = Reloads::new(prepared, None, reloads_asked);
        let mut supervisor = Supervisor::start(reloads, None, recorders, None).unwrap();
        assert_eq!(supervisor.starts_within, Duration::from_secs(80));
        supervisor.starts_within = Duration::from_millis(50);
        let (_asks, asked) = unbounded();
        let mut signals_seen = 0;
        let why = supervisor
            .wait_until_ready(&asked, &mut signals_seen)
            .unwrap_err();
        assert_eq!(why, "shard 0 is not ready 50ms after its start");
        assert_eq!(supervisor.end(&asked, 0, &Command::Drain), Ended::GivenUp);
    }
}
