//! What became of the log's lines. One for the process, as the log is; atomics, because it is on no request's path.

use std::sync::atomic::{AtomicU64, Ordering};

use super::labels::{Labelled as _, LogLine};

/// Of this process.
pub static LOG_LINES: LogLines = LogLines([const { AtomicU64::new(0) }; LogLine::ALL.len()]);

/// Counts by what became of a line.
#[derive(Debug)]
pub struct LogLines([AtomicU64; LogLine::ALL.len()]);

impl LogLines {
    /// Counts a line.
    pub fn add_one(&self, line: LogLine) {
        self.0[line.index()].fetch_add(1, Ordering::Relaxed);
    }

    /// How many there were.
    pub fn get(&self, line: LogLine) -> u64 {
        self.0[line.index()].load(Ordering::Relaxed)
    }
}
