//! The log: a line per event on standard error, for people or as JSON. Whoever says something never waits for whoever
//! reads it: lines go to a thread of their own, and when that is behind they are dropped. Nor can a flood of one line
//! hide the others or fill a disk: each place in the code may say so much in ten seconds, then how often it was silenced.
//! What was written, suppressed and dropped is counted.

mod limit;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::panic;
use std::sync::Arc;

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::clock;
use crate::telemetry::{LOG_LINES, LogLine};

use limit::Limits;
use writer::Lines;

/// Which lines, and how they look.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// The least severe that is written.
    pub level: Level,
    /// One object per line instead of text.
    pub json: bool,
}

/// The log of this process. Dropping it writes what is left, for at most a second.
#[derive(Debug)]
pub struct Log {
    lines: Lines,
}

/// Starts the log, and has panics said in it. Once in a process.
///
/// # Errors
/// When there can be no thread for it.
pub fn start(options: Options) -> io::Result<Log> {
    let limits = Arc::new(Limits::default());
    let lines = Lines::start(io::stderr(), Arc::clone(&limits))?;
    let writer = lines.clone();
    let line = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .with_writer(move || writer.clone());
    let line = if options.json {
        line.json().boxed()
    } else {
        line.boxed()
    };
    tracing_subscriber::registry()
        .with(LevelFilter::from_level(options.level))
        .with(Limited(limits))
        .with(line)
        .init();
    panic::set_hook(Box::new(say_panic));
    Ok(Log { lines })
}

impl Drop for Log {
    fn drop(&mut self) {
        self.lines.flush();
    }
}

/// Keeps each place in the code to its limit.
struct Limited(Arc<Limits>);

impl<S: Subscriber> Layer<S> for Limited {
    fn event_enabled(&self, event: &Event<'_>, _context: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        let admitted = metadata.target() == SUPPRESSED || self.0.admit(metadata, clock::now());
        if !admitted {
            LOG_LINES.add_one(LogLine::Suppressed);
        }
        admitted
    }
}

/// The target of lines that say how many were suppressed; they have no limit themselves.
const SUPPRESSED: &str = "corebid::logs::suppressed";

/// Says how many lines each place was not allowed to say.
fn say_suppressed(limits: &Limits) {
    limits.take_suppressed(clock::now(), |metadata, count| {
        let place = Place(metadata);
        tracing::warn!(target: SUPPRESSED, "suppressed {count} times: {place}");
    });
}

/// Where in the code.
struct Place(&'static tracing::Metadata<'static>);

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (file, line) = (self.0.file().unwrap_or("?"), self.0.line().unwrap_or(0));
        write!(f, "the line of {file}:{line} ({})", self.0.level())
    }
}

/// As the standard library's hook says it, but as an event like others: limited, in the log's form, and without a wait.
fn say_panic(panic: &panic::PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("a panic without a message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    // There is none unless RUST_BACKTRACE asks for it.
    let backtrace = Backtrace::capture();
    match backtrace.status() {
        BacktraceStatus::Captured => tracing::error!(thread, place, %backtrace, "panicked: {message}"),
        _ => tracing::error!(thread, place, "panicked: {message}"),
    }
}
