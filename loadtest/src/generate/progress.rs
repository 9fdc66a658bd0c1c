//! The line of progress: one that is written anew each second, on a terminal only. Writes to stderr, so that a report
//! can be redirected.

use std::io::{IsTerminal as _, Write as _};

/// The line, or its absence.
#[derive(Debug)]
pub(crate) struct Progress {
    is_shown: bool,
}

/// To the line's start, and nothing behind what is written, on a terminal however narrow: without wrapping, a line too
/// long is cut off instead of taking a second one each time.
const BEGIN: &str = "\r\x1b[?7l";
const END: &str = "\x1b[K\x1b[?7h";

impl Progress {
    pub(crate) fn on_a_terminal() -> Progress {
        Progress {
            is_shown: std::io::stderr().is_terminal(),
        }
    }

    /// Not in a pipe.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
    }

    pub(crate) fn show(&mut self, line: &str) {
        if self.is_shown {
            // Nobody is to lose a run to a terminal that went away.
            let _ = write!(std::io::stderr(), "{BEGIN}{line}{END}");
        }
    }

    pub(crate) fn clear(&mut self) {
        self.show("");
        self.is_shown = false;
    }
}
