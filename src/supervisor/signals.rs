//! What the process is asked to do, by signal or from the admin port, as messages.

use std::io;
use std::thread;

use crossbeam::channel::Sender;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ask {
    /// By SIGTERM or SIGINT: drain and end; by a second one: end at once.
    Signal,
    /// By the admin port: drain and end, as often as it is asked.
    Drain,
}

/// Turns SIGTERM and SIGINT into messages from here on.
pub(super) fn listen(sends: Sender<Ask>) -> io::Result<()> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for _signal in signals.forever() {
            if sends.send(Ask::Signal).is_err() {
                return;
            }
        }
    })?;
    Ok(())
}
