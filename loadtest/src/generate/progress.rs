//! One line a second while a run lasts, on a terminal only. Writes to stderr, so that a report can be
//! redirected.

use std::io::{IsTerminal as _, Write as _};

/// The line, or its absence.
#[derive(Debug)]
pub(crate) struct Progress {
    next_ns: Option<u64>,
}

const SECOND_NS: u64 = 1_000_000_000;

impl Progress {
    pub(crate) fn on_a_terminal() -> Progress {
        Progress {
            next_ns: std::io::stderr().is_terminal().then_some(SECOND_NS),
        }
    }

    /// When the line is to be written next; never, in a pipe.
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// Writes the line if it is time.
    pub(crate) fn show(&mut self, now_ns: u64, line: impl FnOnce() -> String) {
        if self.next_ns.is_none_or(|next_ns| now_ns < next_ns) {
            return;
        }
        self.next_ns = Some((now_ns / SECOND_NS + 1) * SECOND_NS);
        // Nobody is to lose a run to a terminal that went away.
        let _ = write!(
            std::io::stderr(),
            "\r\x1b[K{:>4} s {}",
            now_ns / SECOND_NS,
            line()
        );
    }

    pub(crate) fn clear(&self) {
        if self.next_ns.is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}
