//! The configuration: `ConfigFile` as written, [`Config`] as checked. Reports everything that is wrong with a
//! file at once, each with its place; and never guesses: an unknown key is an error.
//!
//! No module of the path imports this one. Each is given its own options by whoever starts it. This one imports none
//! but `net::tls`, to tell what is wrong with a certificate beside the line that names it.

mod changes;
mod checked;
mod endpoint;
mod file;
mod rates;
mod read;
mod tls;

use std::cell::RefCell;
use std::fmt;
use std::fs;
use std::hash::{DefaultHasher, Hash as _};
use std::io;
use std::path::Path;

pub use changes::Change;
pub use checked::{
    AdaptiveTimeoutOptions, AuctionOptions, BreakerOptions, Config, DspOptions, EventsOptions, FanoutOptions,
    FileOptions, FloorRule, LogFormat, LogLevel, LogOptions, NoBidAnswer, Protocol, QueueDelay,
    RehearsalOptions, ResponseOptions, ServerOptions, Shards, ShedStatus, TelemetryOptions,
    ValidationOptions,
};
pub use rates::{Rate, Rates};
pub use read::Problem;
pub use tls::TlsOptions;

/// Reads and checks a configuration file and what it refers to. `env` is the process's environment, of which
/// `COREBID_<SECTION>__<KEY>` override the file.
pub fn load(path: &Path, env: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    let name = path.display().to_string();
    let text = fs::read_to_string(path).map_err(|error| Problems::unreadable(&name, &error))?;
    let directory = path.parent().unwrap_or(Path::new(""));
    check(&name, &text, env, &|relative| {
        fs::read_to_string(directory.join(relative))
    })
}

/// Checks a configuration that is already in memory. `name` is what messages call it; `read_file` gives the
/// text of a file that the configuration refers to.
pub fn check(
    name: &str,
    text: &str,
    env: impl IntoIterator<Item = (String, String)>,
    read_file: &dyn Fn(&Path) -> io::Result<String>,
) -> Result<Config, Problems> {
    let mut reader = read::Reader::new(text, env);
    let file = file::ConfigFile::read(&mut reader);
    let hash = RefCell::new(DefaultHasher::new());
    let read_and_hash = |path: &Path| {
        let text = read_file(path)?;
        (path, &text).hash(&mut *hash.borrow_mut());
        Ok(text)
    };
    let mut config = Config::check(&file, &mut reader, &read_and_hash);
    config.take_hash(&file, hash.into_inner());
    let problems = reader.finish(name);
    if problems.is_empty() {
        Ok(config)
    } else {
        Err(Problems(problems))
    }
}

/// Everything that is wrong with a configuration; never empty. Displayed as one line each.
#[derive(Debug, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

impl Problems {
    /// In the order of the file, then of the environment.
    pub fn iter(&self) -> impl Iterator<Item = &Problem> {
        self.0.iter()
    }

    fn unreadable(name: &str, error: &io::Error) -> Self {
        Self(vec![Problem {
            place: name.to_owned(),
            key: String::new(),
            message: format!("cannot read it: {error}"),
        }])
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(f, "{separator}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests;
