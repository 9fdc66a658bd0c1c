//! The new process's side: takes the sockets, and tells the old process when it may go.

use std::ffi::OsStr;
use std::fmt::Display;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::wire::Message;
use crate::net::Passage;

/// In the environment of a process that is to take over from the one that starts it.
pub(super) const VARIABLE: &str = "COREBID_HANDOVER";

/// For one message of the old process, which has nothing else to do.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a process is left by the one before it, and a way to tell that so.
#[derive(Debug)]
pub struct Inheritance {
    predecessor: Predecessor,
    estate: Estate,
}

/// What it is left.
#[derive(Debug)]
pub(in crate::supervisor) struct Estate {
    /// What SSPs connect to.
    pub(in crate::supervisor) listeners: Vec<OwnedFd>,
    /// What operators connect to.
    pub(in crate::supervisor) admin: OwnedFd,
    /// How many handovers there were, with this one.
    pub(in crate::supervisor) handovers: u64,
}

/// The process before this one, which serves until it hears that this one does.
#[derive(Debug)]
pub(in crate::supervisor) struct Predecessor(Passage);

impl Inheritance {
    /// What the process that started this one gives it; `None` if it was started by anybody else.
    ///
    /// # Errors
    /// When the old process does not give what it should; it goes on serving.
    pub fn from_environment() -> io::Result<Option<Self>> {
        if std::env::var_os(VARIABLE).as_deref().is_none_or(OsStr::is_empty) {
            return Ok(None);
        }
        let passage = Passage::from_stdin()?;
        match receive(&passage) {
            Ok(estate) => Ok(Some(Self {
                predecessor: Predecessor(passage),
                estate,
            })),
            Err(error) => {
                say(&passage, &Message::Failed(error.to_string()));
                Err(error)
            }
        }
    }

    /// Tells the old process that nothing will come of it.
    pub fn refuse(&self, why: &dyn Display) {
        self.predecessor.refuse(why);
    }

    pub(in crate::supervisor) fn split(self) -> (Predecessor, Estate) {
        (self.predecessor, self.estate)
    }
}

impl Predecessor {
    /// Tells it that nothing will come of it.
    pub(in crate::supervisor) fn refuse(&self, why: &dyn Display) {
        say(&self.0, &Message::Failed(why.to_string()));
    }

    /// Tells the old process that this one accepts connections, and waits until that does so no more. Then it is also
    /// true if the old one is gone.
    pub(in crate::supervisor) fn take_over(&self) {
        say(&self.0, &Message::Ready);
        match self.0.receive(PATIENCE) {
            Ok(Some(message)) if message.text.parse() == Ok(Message::Yours) => {}
            Ok(None) => tracing::warn!("the process before this one ended without a word"),
            other => tracing::error!(said = ?other, "the process before this one does not let go"),
        }
    }
}

fn say(passage: &Passage, message: &Message) {
    // It may be gone. Then the sockets are ours alone.
    let _gone = passage.send(&message.text(), None);
}

fn receive(passage: &Passage) -> io::Result<Estate> {
    let Message::Hello { listeners, handovers } = next(passage)?.0 else {
        return Err(unexpected());
    };
    let listeners = (0..listeners).map(|_| socket(passage, &Message::Listener));
    let listeners = listeners.collect::<io::Result<_>>()?;
    Ok(Estate {
        listeners,
        admin: socket(passage, &Message::Admin)?,
        handovers,
    })
}

fn socket(passage: &Passage, expected: &Message) -> io::Result<OwnedFd> {
    match next(passage)? {
        (message, Some(socket)) if message == *expected => Ok(socket),
        _ => Err(unexpected()),
    }
}

fn next(passage: &Passage) -> io::Result<(Message, Option<OwnedFd>)> {
    let message = passage
        .receive(PATIENCE)?
        .ok_or_else(|| io::Error::other("the process before this one is gone"))?;
    let said = message.text.parse().map_err(io::Error::other)?;
    Ok((said, message.descriptor))
}

fn unexpected() -> io::Error {
    io::Error::other("the process before this one says something else than it should")
}
