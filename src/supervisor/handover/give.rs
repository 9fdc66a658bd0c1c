//! The old process's side: starts the new one, gives it the sockets, waits for its word. On a thread of its own, so that
//! the supervisor goes on supervising.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam::channel::{Receiver, bounded};

use super::take::VARIABLE;
use super::wire::Message;
use crate::clock;
use crate::net::Passage;

/// A process that has closed its end is given this long to end, so that its exit code can be told.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// How to start a process like this one.
#[derive(Debug, Clone)]
pub(in crate::supervisor) struct Itself {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Itself {
    /// To be asked for at the start: later, the file may be another, and the folder, too.
    ///
    /// A program that was started by a path is started again by that path, and not by what it led to then: where a
    /// symbolic link is what a deployment changes, that is what is meant.
    pub(in crate::supervisor) fn now() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let by_path = arguments
            .next()
            .map(PathBuf::from)
            .filter(|program| program.components().count() > 1);
        let program = match by_path {
            Some(program) => std::env::current_dir()?.join(program),
            None => std::env::current_exe()?,
        };
        Ok(Self {
            program,
            arguments: arguments.collect(),
        })
    }

    pub(in crate::supervisor) fn program(&self) -> &Path {
        &self.program
    }
}

/// What is to be given to whom.
#[derive(Debug)]
pub(in crate::supervisor) struct Order {
    pub(in crate::supervisor) itself: Itself,
    pub(in crate::supervisor) listeners: Vec<OwnedFd>,
    pub(in crate::supervisor) admin: OwnedFd,
    pub(in crate::supervisor) handovers: u64,
    /// How long the new process may take until it is ready.
    pub(in crate::supervisor) patience: Duration,
}

/// A handover that is being tried. Dropping it gives it up, and ends the new process if that is not ready.
#[derive(Debug)]
pub(in crate::supervisor) struct Attempt {
    passage: Arc<Passage>,
    is_cancelled: Arc<AtomicBool>,
    outcome: Receiver<Result<Taken, String>>,
    thread: Option<JoinHandle<()>>,
}

/// The new process accepts connections.
#[derive(Debug)]
pub(in crate::supervisor) struct Taken {
    /// Its id.
    pub(in crate::supervisor) pid: u32,
    passage: Arc<Passage>,
}

impl Taken {
    /// Tells it that this process accepts no more, and that its admin port is closed.
    pub(in crate::supervisor) fn yours(&self) {
        // If it is gone by now, so are we.
        let _gone = self.passage.send(&Message::Yours.text(), None);
    }
}

/// Why there is no handover.
enum Failure {
    /// The new process says why.
    Refused(String),
    /// It has closed its end, and ends.
    Silent,
    /// It is not ready in time, or says what it should not.
    Unfit(String),
}

impl Attempt {
    /// Starts the new process.
    pub(in crate::supervisor) fn begin(order: Order) -> io::Result<Self> {
        let (passage, far) = Passage::new()?;
        let passage = Arc::new(passage);
        let is_cancelled = Arc::new(AtomicBool::new(false));
        let (ours, cancelled) = (Arc::clone(&passage), Arc::clone(&is_cancelled));
        let (tells, outcome) = bounded(1);
        let thread = thread::Builder::new()
            .name("handover".to_owned())
            .spawn(move || {
                let outcome = hand_over(&order, &ours, far, &cancelled);
                let _gone = tells.send(outcome.map(|pid| Taken { pid, passage: ours }));
            })?;
        Ok(Self {
            passage,
            is_cancelled,
            outcome,
            thread: Some(thread),
        })
    }

    /// Says how it went, once.
    pub(in crate::supervisor) fn outcome(&self) -> &Receiver<Result<Taken, String>> {
        &self.outcome
    }

    /// Gives it up. If the new process is ready all the same, it has taken over.
    pub(in crate::supervisor) fn cancel(self) -> Option<Taken> {
        self.close();
        self.outcome.recv().ok()?.ok()
    }

    fn close(&self) {
        self.is_cancelled.store(true, Ordering::Relaxed);
        self.passage.close();
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.close();
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

/// Returns the id of the process that has taken over, or why none has.
fn hand_over(
    order: &Order,
    passage: &Passage,
    far: OwnedFd,
    is_cancelled: &AtomicBool,
) -> Result<u32, String> {
    // The shards do not stop for it: the standard library starts a process without copying this one's memory.
    let started = Command::new(&order.itself.program)
        .args(&order.itself.arguments)
        .env(VARIABLE, "1")
        // Of the old one only.
        .env_remove("WATCHDOG_PID")
        .stdin(Stdio::from(far))
        .spawn();
    let mut child =
        started.map_err(|error| format!("cannot start {}: {error}", order.itself.program.display()))?;
    let Err(failure) = converse(order, passage) else {
        return Ok(child.id());
    };
    let ended = match failure {
        Failure::Refused(_) | Failure::Silent if !is_cancelled.load(Ordering::Relaxed) => {
            wait(&mut child, LAST_WORDS)
        }
        _ => None,
    };
    if ended.is_none() {
        // It is our own child and was not waited for, so the id is still its.
        let _ended_meanwhile = child.kill();
        let _reaped = child.wait();
    }
    Err(match (failure, ended) {
        (Failure::Refused(why) | Failure::Unfit(why), _) => why,
        (Failure::Silent, Some(status)) => format!("it ended before it was ready: {status}"),
        (Failure::Silent, None) => "it was given up".to_owned(),
    })
}

/// Gives everything and waits until the new process is ready.
fn converse(order: &Order, passage: &Passage) -> Result<(), Failure> {
    let deadline = clock::now().after(order.patience);
    let give = |message: Message, socket: Option<&OwnedFd>| {
        let sent = passage.send(&message.text(), socket.map(AsFd::as_fd));
        sent.map_err(|_closed| Failure::Silent)
    };
    let hello = Message::Hello {
        listeners: order.listeners.len(),
        handovers: order.handovers,
    };
    give(hello, None)?;
    for listener in &order.listeners {
        give(Message::Listener, Some(listener))?;
    }
    give(Message::Admin, Some(&order.admin))?;
    let message = match passage.receive(deadline.since(clock::now())) {
        Ok(message) => message.ok_or(Failure::Silent)?,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            return Err(Failure::Unfit(format!(
                "it is not ready after {:?}",
                order.patience
            )));
        }
        Err(error) => return Err(Failure::Unfit(error.to_string())),
    };
    match message.text.parse() {
        Ok(Message::Ready) => Ok(()),
        Ok(Message::Failed(why)) => Err(Failure::Refused(why)),
        Ok(other) => Err(Failure::Unfit(format!("it said {:?}", other.text()))),
        Err(misunderstood) => Err(Failure::Unfit(misunderstood.to_string())),
    }
}

/// How `child` ended, if it does within `patience`.
fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = clock::now().after(patience);
    loop {
        let ended = child.try_wait().ok().flatten();
        if ended.is_some() || clock::now() >= deadline {
            return ended;
        }
        thread::park_timeout(Duration::from_millis(10));
    }
}
