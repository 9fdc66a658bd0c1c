//! Ctrl-C: what was measured until then is reported. The second one ends the program at once.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// Whether somebody has asked for an end.
#[derive(Clone, Debug, Default)]
pub(super) struct Stop {
    is_asked: Arc<AtomicBool>,
}

/// What a shell says of a program that SIGINT has ended.
const INTERRUPTED: i32 = 130;

impl Stop {
    /// By SIGINT or SIGTERM, which wake whoever waits for the kernel.
    pub(super) fn on_signals() -> io::Result<Stop> {
        let stop = Stop::default();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first sets the flag, and the second finds it set.
            flag::register_conditional_shutdown(signal, INTERRUPTED, Arc::clone(&stop.is_asked))?;
            flag::register(signal, Arc::clone(&stop.is_asked))?;
        }
        Ok(stop)
    }

    pub(super) fn is_asked(&self) -> bool {
        self.is_asked.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn ask(&self) {
        self.is_asked.store(true, Ordering::Relaxed);
    }
}
