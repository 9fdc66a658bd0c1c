//! The log: a line per event on standard error, for people or as JSON. Whoever says something never waits for whoever
//! reads it: lines go to a thread of their own, and when that is behind they are dropped. Nor can a flood of one line
//! hide the others or fill a disk: each place in the code may say so much in ten seconds, then how often it was silenced.
//! What was written, suppressed and dropped is counted.

mod form;
mod limit;
mod writer;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::io::{self, IsTerminal as _};
use std::panic;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry, reload};

use crate::clock;
use crate::telemetry::{LOG_LINES, LogLine};

use form::Form;
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
    switch: Switch,
}

/// Has a log that runs go by other options.
#[derive(Debug, Clone)]
pub struct Switch {
    level: reload::Handle<LevelFilter, Registry>,
    json: Arc<AtomicBool>,
}

/// Starts the log, and has panics said in it. Once in a process.
///
/// # Errors
/// When there can be no thread for it.
pub fn start(options: Options) -> io::Result<Log> {
    let limits = Arc::new(Limits::default());
    let lines = Lines::start(io::stderr(), Arc::clone(&limits))?;
    let writer = lines.clone();
    let json = Arc::new(AtomicBool::new(options.json));
    let line = tracing_subscriber::fmt::layer()
        .with_ansi(io::stderr().is_terminal())
        .event_format(Form::new(Arc::clone(&json)))
        .with_writer(move || writer.clone());
    let (level, handle) = reload::Layer::new(LevelFilter::from_level(options.level));
    tracing_subscriber::registry()
        .with(level)
        .with(Limited(limits))
        .with(line)
        .init();
    panic::set_hook(Box::new(say_panic));
    let switch = Switch { level: handle, json };
    Ok(Log { lines, switch })
}

impl Log {
    /// What to change its options by.
    #[must_use]
    pub fn switch(&self) -> Switch {
        self.switch.clone()
    }
}

impl Switch {
    /// Goes by these options from the next line on.
    pub fn to(&self, options: Options) {
        self.json.store(options.json, Ordering::Relaxed);
        // Fails when there is no log any more, and then nothing is said.
        let _no_log = self.level.reload(LevelFilter::from_level(options.level));
    }
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
