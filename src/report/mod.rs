//! `corebid report`: what an event log tells an operator, by DSP: calls, bids, wins, latency, revenue, and what its
//! timeout costs. Reads files only; sums are exact, because prices are added as integers.

mod read;
mod table;
mod tally;

use std::io;
use std::path::PathBuf;

pub use tally::Report;

/// Reads the files of these patterns, in whose names `*` is any text, in any order.
///
/// # Errors
/// When there is no such file, or one cannot be read. Lines that cannot be understood are counted in the report.
pub fn of_files(patterns: &[PathBuf]) -> io::Result<Report> {
    let mut report = Report::default();
    for pattern in patterns {
        let in_context =
            |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", pattern.display()));
        let files = read::files(pattern).map_err(in_context)?;
        if files.is_empty() {
            return Err(in_context(io::ErrorKind::NotFound.into()));
        }
        for file in files {
            read::each_line(&file, |line| report.add(line)).map_err(in_context)?;
        }
    }
    Ok(report)
}
