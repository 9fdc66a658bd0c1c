//! The admin port: what operators and their programs ask the process. Runs on the housekeeping thread, in a
//! runtime of its own, and never on a shard's core; it reads what shards have handed over and never asks
//! them.

mod answers;
mod events_file;
mod hlog_file;
mod page;
mod query;
mod readiness;
mod rotating;
mod server;

use std::io;
use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use serde::Serialize;
use tokio::net::TcpListener;
use tokio::runtime;
use tokio::task::LocalSet;

use self::answers::Pages;
use self::hlog_file::HlogFile;
use crate::clock;
use crate::net::Signal;
use crate::telemetry::{Merged, Moment, Rehearsed};

pub use self::events_file::EventsFile;
pub use self::readiness::{Readiness, State};
pub use self::rotating::FileOptions;

/// How often intervals are taken in: a scrape sees counts that are at most this much older than what shards
/// have handed over, and 20 wake-ups per second are not worth measuring.
const COLLECT_EVERY: Duration = Duration::from_millis(50);

/// What the admin port needs to know of its surroundings.
pub struct ControlOptions {
    /// Where to listen; port 0 takes any.
    pub listen: SocketAddr,
    /// The socket of the process before this one, which listens already. Then nobody is served until
    /// [`Control::serve`]: that process still does it.
    pub inherited: Option<OwnedFd>,
    /// What `GET /config` shows first. Secrets are not this module's to find: they must be out already.
    pub effective_toml: String,
    /// Where latencies are logged, if anywhere.
    pub hlog: Option<FileOptions>,
    /// What one visitor may take from the others.
    pub limits: Limits,
}

/// What one visitor may take from the others.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once; the next is closed unread. Two Prometheus servers, a prober, a load balancer and
    /// a few people need a dozen.
    pub connections_max: usize,
    /// For a request's head to arrive, and for an unused connection to be used again. Longer than the 15 s
    /// between two scrapes, so that those share a connection.
    pub head_timeout: Duration,
    /// How long a connection may exist, so that a reader who does not read cannot hold it for ever.
    pub connection_age_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 64,
            head_timeout: Duration::from_secs(30),
            connection_age_max: Duration::from_secs(600),
        }
    }
}

/// Many times what it takes the thread to look at what it is told.
const STOPS_WITHIN: Duration = Duration::from_secs(2);

/// What an operator wants of the supervisor.
pub enum Command {
    /// Finish what is in flight and stop.
    Drain,
    /// Bring about a fault.
    Rehearse {
        /// Where.
        shard: usize,
        /// Which.
        fault: Rehearsed,
        /// For a stall, how long.
        time: Duration,
    },
    /// Go on by what the configuration file says now, and tell what came of it.
    Reload(ReloadReply),
}

/// Takes the outcome of a reload to whoever asked for it. Does not wait.
pub type ReloadReply = Box<dyn FnOnce(Reload) + Send>;

/// What came of a reload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reload {
    /// Every shard serves the new configuration.
    Applied(Applied),
    /// Nothing has changed: what is wrong with it, a line each.
    Refused(String),
    /// Nothing has changed: why not now.
    NotNow(&'static str),
    /// It is in force, or will be, but not yet everywhere: what is missing.
    Late(String),
}

/// A configuration that came into force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Applied {
    /// See the metric `config_generation`.
    pub generation: u64,
    /// See the metric `config_info`.
    pub hash: String,
    /// What is different from the one before, key by key.
    pub changes: Vec<String>,
    /// From the request on.
    pub took_ms: u64,
}

/// Takes a command over to the supervisor; false if it could not be taken. Must not wait.
pub type Commands = Box<dyn Fn(Command) -> bool + Send>;

/// The running admin port. Dropping it closes the port and ends its thread.
pub struct Control {
    address: SocketAddr,
    /// To be given to the process after this one.
    socket: StdTcpListener,
    /// Its end tells the thread to end.
    updates: Option<Sender<Update>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread is told.
enum Update {
    ShowConfig(String),
    Serve,
    /// Ends with the last of its visitors; closes the other end when nobody is accepted any more.
    StopServing(Sender<()>),
}

impl Control {
    /// Opens the port and serves it from a thread of its own. That the port or the interval log cannot be opened is
    /// an error here and not a line in a log later.
    ///
    /// The thread inherits the caller's affinity: call it from a thread that is not pinned to a shard's core.
    pub fn spawn(
        options: ControlOptions,
        merged: Merged,
        readiness: Arc<Readiness>,
        commands: Commands,
    ) -> io::Result<Self> {
        let ControlOptions {
            listen,
            inherited,
            effective_toml,
            hlog,
            limits,
        } = options;
        let serves = inherited.is_none();
        let listener = match inherited {
            Some(socket) => StdTcpListener::from(socket),
            None => StdTcpListener::bind(listen)?,
        };
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        if !same(listen, address) {
            return Err(io::Error::other(format!(
                "what was handed over listens on {address}; another address takes a restart"
            )));
        }
        let socket = listener.try_clone()?;
        let hlog = hlog
            .map(|options| {
                let path = options.path.display().to_string();
                HlogFile::open(options, clock::since_unix_epoch())
                    .map_err(|error| io::Error::new(error.kind(), format!("interval log {path}: {error}")))
            })
            .transpose()?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let (sender, updates) = mpsc::channel();
        if serves {
            let _the_thread_is_not_there_yet = sender.send(Update::Serve);
        }
        let thread = thread::Builder::new()
            .name("corebid-control".to_owned())
            .spawn(move || {
                let pages = Pages::new(
                    merged,
                    readiness,
                    commands,
                    effective_toml,
                    clock::since_unix_epoch,
                );
                LocalSet::new().block_on(&runtime, keep(listener, limits, pages, updates, hlog));
            })?;
        Ok(Self {
            address,
            socket,
            updates: Some(sender),
            thread: Some(thread),
        })
    }

    /// Where it listens, with the port that was taken.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// After a reload: what `GET /config` shows from now on.
    pub fn show_config(&self, effective_toml: String) {
        self.tell(Update::ShowConfig(effective_toml));
    }

    /// Serves visitors from now on, where the process before this one did.
    pub fn serve(&self) {
        self.tell(Update::Serve);
    }

    /// Leaves visitors to another process that listens on the same socket: accepts no more, and ends each connection
    /// with its next answer. Counts are still taken in, and logged. Returns when nobody is accepted any more.
    pub fn stop_serving(&self) {
        let (stopped, has_stopped) = mpsc::channel();
        self.tell(Update::StopServing(stopped));
        let _at_its_end = has_stopped.recv_timeout(STOPS_WITHIN);
    }

    /// The socket it listens on, for the process after this one.
    pub fn socket(&self) -> io::Result<OwnedFd> {
        self.socket.try_clone().map(OwnedFd::from)
    }

    fn tell(&self, update: Update) {
        if let Some(sender) = &self.updates {
            // Fails only if the thread has panicked, and then nobody can be shown anything.
            let _ = sender.send(update);
        }
    }
}

/// Whether a socket that listens on `actual` is one for `wanted`: port 0 is any.
fn same(wanted: SocketAddr, actual: SocketAddr) -> bool {
    wanted == actual || (wanted.port() == 0 && wanted.ip() == actual.ip())
}

impl Drop for Control {
    fn drop(&mut self) {
        self.updates = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the admin port's thread had panicked");
        }
    }
}

/// Takes intervals in and serves visitors until the other end of `updates` is gone.
async fn keep(
    listener: StdTcpListener,
    limits: Limits,
    pages: Pages,
    updates: Receiver<Update>,
    mut hlog: Option<HlogFile>,
) {
    let mut listener = match TcpListener::from_std(listener) {
        Ok(listener) => Some(listener),
        Err(error) => return tracing::error!(%error, "the admin port cannot be served"),
    };
    let mut serving = None;
    let closing = Rc::new(Signal::default());
    let mut log = |lines: Option<Arc<[u8]>>| {
        if let (Some(lines), Some(file)) = (lines, &mut hlog) {
            file.append(lines);
        }
    };
    loop {
        log(pages.collect(moment()));
        match updates.try_recv() {
            Ok(Update::ShowConfig(effective_toml)) => pages.show_config(effective_toml),
            Ok(Update::Serve) => {
                if let Some(listener) = listener.take() {
                    let serve = server::serve(listener, limits, pages.clone(), Rc::clone(&closing));
                    serving = Some(tokio::task::spawn_local(serve));
                }
            }
            Ok(Update::StopServing(stopped)) => {
                if let Some(serving) = serving.take() {
                    serving.abort();
                    // The listener is closed when the task is gone, and not before.
                    let _aborted = serving.await;
                }
                closing.raise();
                drop(stopped);
            }
            Err(TryRecvError::Empty) => {}
            Err(TryRecvError::Disconnected) => break,
        }
        tokio::time::sleep(COLLECT_EVERY).await;
    }
    log(pages.collect_the_last(moment()));
}

fn moment() -> Moment {
    Moment {
        monotonic: Duration::from_nanos(clock::now().as_nanos()),
        unix: clock::since_unix_epoch(),
    }
}

#[cfg(test)]
mod tests;
