//! Signals, as messages.

use std::io;
use std::thread;

use crossbeam::channel::{Receiver, unbounded};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// Drain and end; once more: end at once.
    End,
}

/// Turns SIGTERM and SIGINT into messages from here on.
pub(super) fn listen() -> io::Result<Receiver<Ask>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let (sends, receives) = unbounded();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _signal in signals.forever() {
            if sends.send(Ask::End).is_err() {
                return;
            }
        }
    })?;
    Ok(receives)
}
