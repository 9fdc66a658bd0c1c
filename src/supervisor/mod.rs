//! Keeps shards running and ends the process cleanly: starts a shard per core, starts one again that died, and gives
//! up, with an exit code for systemd, when they die too often.

mod blueprint;
mod intensity;
mod reload;
mod signals;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded, select, unbounded};

use crate::clock::{self, Instant};
use crate::config::Config;
use crate::control::{self, Control, ControlOptions, EventsFile, Readiness, State};
use crate::net;
use crate::shard::{self, Balance, Blueprint, Command, Event, Post};
use crate::telemetry::{self, EventSource, Merged, Recorders};

pub use blueprint::{StartError, StartErrors};
use intensity::Intensity;
pub use reload::Again;
use reload::{AskReload, Reloads};
use signals::Ask;

/// Past `server.drain_ms` a shard has this long to close its sockets before it is left behind.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

/// How often the supervisor looks whether anything takes too long.
const PULSE: Duration = Duration::from_millis(250);

/// Commands that a shard may have before it: it looks 20 times a second.
const COMMANDS_MAX: usize = 4;

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
    /// A second signal came while draining.
    AtOnce,
    /// Shards died more often than restarting them makes sense.
    GivenUp,
}

/// Runs the exchange until a signal ends it. SIGHUP has it read its configuration `again`. `on_ready` is called once, when
/// every shard accepts connections.
///
/// # Errors
/// When it cannot be started: an address in use, no io_uring.
pub fn run(prepared: Prepared, again: Option<Again>, on_ready: impl FnOnce(Addresses)) -> io::Result<Ended> {
    let (asks, asked) = unbounded();
    let (reloads, reloads_asked) = unbounded();
    signals::listen(asks.clone(), reloads.clone())?;
    let (recorders, merged) = telemetry::channel(prepared.cores.len());
    let readiness = Arc::new(Readiness::new());
    // Dropped after the shards: they have the last word.
    let (event_log, _events_file) = open_event_log(&prepared, &recorders)?.unzip();
    let control = open_admin_port(&prepared, merged, Arc::clone(&readiness), asks, reloads)?;
    let reloads = Reloads::new(prepared, again, reloads_asked);
    let mut supervisor = Supervisor::start(reloads, recorders, event_log)?;
    let mut signals_seen = 0;
    if supervisor.wait_until_ready(&asked, &mut signals_seen) {
        readiness.advance(State::Ready);
        let shards = supervisor.shards.len();
        on_ready(Addresses {
            main: supervisor.address,
            admin: control.address(),
            shards,
        });
        signals_seen += usize::from(supervisor.watch(&asked, &control) == Some(Ask::Signal));
    }
    readiness.advance(State::Draining);
    supervisor.reloads.close();
    Ok(supervisor.end(&asked, signals_seen))
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
    merged: Merged,
    readiness: Arc<Readiness>,
    asks: Sender<Ask>,
    reloads: Sender<AskReload>,
) -> io::Result<Control> {
    let options = ControlOptions {
        listen: prepared.admin,
        effective_toml: prepared.config.effective_toml().to_owned(),
        hlog: prepared.hlog.clone(),
        limits: control::Limits::default(),
    };
    let state = Arc::clone(&readiness);
    let commands = move |command| match (command, state.state()) {
        (control::Command::Drain, _) => asks.send(Ask::Drain).is_ok(),
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

struct Supervisor {
    /// Of the configuration that is in force: a shard that is started again begins with it.
    blueprint: Arc<Blueprint>,
    reloads: Reloads,
    recorders: Recorders,
    event_log: Option<EventSource>,
    balance: Arc<Balance>,
    address: SocketAddr,
    shards: Vec<Shard>,
    events: Receiver<Event>,
    reports_to: Sender<Event>,
    intensity: Intensity,
    given_up: bool,
}

struct Shard {
    core: usize,
    /// Kept open here, so that connections made while a shard is being restarted wait instead of being refused.
    /// `None` once draining: nobody would take them.
    listener: Option<OwnedFd>,
    commands: Sender<Command>,
    handle: Option<shard::Handle>,
}

impl Supervisor {
    fn start(reloads: Reloads, recorders: Recorders, event_log: Option<EventSource>) -> io::Result<Self> {
        let prepared = Arc::clone(reloads.current());
        recorders
            .process()
            .config_in_force(prepared.config.hash(), clock::since_unix_epoch());
        let (reports_to, events) = unbounded();
        let mut supervisor = Self {
            blueprint: Arc::clone(&prepared.blueprint),
            reloads,
            recorders,
            event_log,
            balance: Balance::new(prepared.cores.len())?,
            address: prepared.listen,
            shards: Vec::new(),
            events,
            reports_to,
            intensity: Intensity::default(),
            given_up: false,
        };
        net::refuse_if_taken(supervisor.address)
            .map_err(|error| in_context(&format!("port {}", supervisor.address), &error))?;
        for &core in &prepared.cores {
            let listener = net::bind(supervisor.address)
                .map_err(|error| in_context(&format!("port {}", supervisor.address), &error))?;
            supervisor.address = net::local_address(&listener)?;
            let (commands, _) = bounded(COMMANDS_MAX);
            supervisor.shards.push(Shard {
                core,
                listener: Some(listener),
                commands,
                handle: None,
            });
        }
        for index in 0..supervisor.shards.len() {
            supervisor.start_shard(index)?;
        }
        Ok(supervisor)
    }

    fn start_shard(&mut self, index: usize) -> io::Result<()> {
        let shard = &mut self.shards[index];
        let Some(listener) = &shard.listener else {
            return Err(io::Error::other("draining"));
        };
        let (commands, receives) = bounded(COMMANDS_MAX);
        let post = Post {
            index,
            core: shard.core,
            listener: listener.try_clone()?,
            commands: receives,
            events: self.reports_to.clone(),
            balance: Arc::clone(&self.balance),
            event_log: self.event_log.clone(),
        };
        let blueprint = Arc::clone(&self.blueprint);
        shard.handle = Some(shard::spawn(blueprint, post, &self.recorders)?);
        shard.commands = commands;
        Ok(())
    }

    /// False when it is to end before that: a shard cannot even start, and trying again would not help; or a signal came.
    fn wait_until_ready(&mut self, asked: &Receiver<Ask>, signals_seen: &mut usize) -> bool {
        let events = self.events.clone();
        let mut starting = self.shards.len();
        while starting > 0 {
            select! {
                recv(asked) -> ask => {
                    *signals_seen += usize::from(ask == Ok(Ask::Signal));
                    return false;
                },
                recv(events) -> event => match event {
                    Ok(Event::Ready(_)) => starting -= 1,
                    Ok(Event::Serves { .. }) => {}
                    Ok(Event::Ended(index)) => {
                        self.bury(index);
                        self.given_up = true;
                        return false;
                    }
                    Err(_) => return false,
                },
            }
        }
        true
    }

    /// Restarts shards that die, until it is time to end. Returns who asked for that, if anybody did.
    fn watch(&mut self, asked: &Receiver<Ask>, control: &Control) -> Option<Ask> {
        let events = self.events.clone();
        let (reload_asked, loaded) = (self.reloads.asked.clone(), self.reloads.loaded.clone());
        while !self.given_up {
            select! {
                recv(asked) -> ask => return ask.ok(),
                recv(events) -> event => match event {
                    Ok(Event::Ended(index)) => self.replace(index, clock::now()),
                    Ok(Event::Serves { shard, generation }) => self.serves(shard, generation),
                    Ok(Event::Ready(_)) | Err(_) => {}
                },
                // This process itself has the other ends.
                recv(reload_asked) -> ask => self.reload_is_asked_for(ask.ok().flatten()),
                recv(loaded) -> loaded => if let Ok(loaded) = loaded {
                    self.take_on(loaded, control);
                },
                default(PULSE) => {}
            }
            self.look_after_reloads();
        }
        None
    }

    fn replace(&mut self, index: usize, now: Instant) {
        self.bury(index);
        if !self.intensity.allows(now) {
            tracing::error!("shards die too often; giving up");
            self.given_up = true;
            return;
        }
        match self.start_shard(index) {
            Ok(()) => self.recorders.process().shard_restarted(),
            Err(error) => {
                tracing::error!(shard = index, %error, "cannot start the shard again; giving up");
                self.given_up = true;
            }
        }
    }

    /// Joins a shard that is gone and says how it went.
    fn bury(&mut self, index: usize) {
        let Some(handle) = self.shards[index].handle.take() else {
            return;
        };
        match handle.join() {
            Ok(Ok(())) => tracing::debug!(shard = index, "shard drained"),
            Ok(Err(error)) => tracing::error!(shard = index, %error, "shard failed"),
            // What it said is in the log already: the panic hook's line.
            Err(_panic) => {
                tracing::error!(shard = index, "shard died");
                self.recorders.process().shard_panicked();
            }
        }
    }

    /// Has every shard drain, and waits for them. A second signal does not wait; `signals_seen` came before.
    fn end(mut self, asked: &Receiver<Ask>, mut signals_seen: usize) -> Ended {
        for shard in &mut self.shards {
            // The shard closes its own after taking what has been accepted on its behalf. With this one open, who
            // connects from now on would wait for nobody instead of being refused.
            shard.listener = None;
            // A shard that is gone already has nothing to drain.
            let _gone = shard.commands.send_timeout(Command::Drain, DRAIN_GRACE);
        }
        let deadline = clock::now().after(self.blueprint.drain + DRAIN_GRACE);
        let events = self.events.clone();
        while self.shards.iter().any(|shard| shard.handle.is_some()) {
            let left = deadline.since(clock::now());
            select! {
                recv(asked) -> ask => {
                    signals_seen += usize::from(ask == Ok(Ask::Signal));
                    if signals_seen > 1 {
                        return Ended::AtOnce;
                    }
                },
                recv(events) -> event => if let Ok(Event::Ended(index)) = event {
                    self.bury(index);
                },
                default(left) => {
                    tracing::error!("a shard does not end; leaving it behind");
                    break;
                }
            }
        }
        if self.given_up {
            Ended::GivenUp
        } else {
            Ended::Drained
        }
    }
}
