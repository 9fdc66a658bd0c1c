//! What the process is asked to do, by signal or from the admin port, as messages.

use std::io;
use std::thread;

use crossbeam::channel::Sender;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR2};
use signal_hook::iterator::Signals;

use super::reload::AskReload;
use crate::shard::Fault;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// By SIGTERM or SIGINT: drain and end; by a second one: end at once.
    Signal,
    /// By SIGUSR2: hand over to a new process.
    HandOver,
    /// By the admin port: bring about this fault on this shard.
    Rehearse(usize, Fault),
    /// By the admin port: drain and end, as often as it is asked.
    Drain,
}

/// Turns SIGTERM, SIGINT and SIGUSR2 into messages from here on, and SIGHUP into one for who reloads.
pub(super) fn listen(sends: Sender<Ask>, reloads: Sender<AskReload>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGUSR2, SIGHUP])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let sent = match signal {
                SIGHUP => reloads.send(None).is_ok(),
                SIGUSR2 => sends.send(Ask::HandOver).is_ok(),
                _ => sends.send(Ask::Signal).is_ok(),
            };
            if !sent {
                return;
            }
        }
    })?;
    Ok(())
}
