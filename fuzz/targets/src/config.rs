//! A configuration: any text is either a configuration or is told what is wrong with it and where; what is not TOML is no
//! configuration; what we say is in force means the same when it is read again, and shows no secret.
//!
//! The input is the file. What stands behind a line `# rates` is the file of exchange rates, what stands behind a line
//! `# env` is the environment, a variable on each line.

use std::io;
use std::path::Path;

use corebid::config::{self, Config, Problems};

/// See the module's description.
pub fn check(input: &[u8]) {
    // A file that is not UTF-8 cannot be read as text at all.
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    let (text, env) = text.split_once("\n# env\n").unwrap_or((text, ""));
    let (text, rates) = text.split_once("\n# rates\n").unwrap_or((text, "{}"));
    match read(text, rates, env) {
        Ok(config) => {
            assert!(is_toml(text), "not TOML is read");
            let in_force = config.effective_toml();
            let again = read(in_force, rates, "").unwrap_or_else(|problems| panic!("{problems}\n{in_force}"));
            assert_eq!(again.effective_toml(), in_force);
            in_force.lines().for_each(shows_no_secret);
        }
        Err(problems) => {
            assert!(problems.iter().next().is_some());
            for problem in problems.iter() {
                stands_somewhere(&problem.place, text, env);
                assert!(!problem.message.is_empty());
            }
        }
    }
}

/// Of an endpoint's query only names are shown.
fn shows_no_secret(line: &str) {
    let Some(endpoint) = line.strip_prefix("endpoint = ") else {
        return;
    };
    let query = endpoint
        .trim_matches('"')
        .split_once('?')
        .map_or("***", |(_, query)| query);
    for pair in query.split('&') {
        assert!(pair == "***" || pair.ends_with("=***"), "{line}");
    }
}

fn read(text: &str, rates: &str, env: &str) -> Result<Config, Problems> {
    let env = env.lines().filter_map(|line| line.split_once('='));
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    config::check(NAME, text, env, &|path: &Path| match path.to_str() {
        Some("rates.json") => Ok(rates.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

const NAME: &str = "c.toml";

fn is_toml(text: &str) -> bool {
    text.parse::<toml::Table>().is_ok()
}

/// A line and column of the file, a variable of the environment, or another file by its name.
fn stands_somewhere(place: &str, text: &str, env: &str) {
    let Some(position) = place.strip_prefix(NAME) else {
        let is_variable = env.lines().any(|line| line.split('=').next() == Some(place));
        assert!(is_variable || place.contains('.'), "{place}");
        return;
    };
    let numbers: Vec<usize> = position
        .split(':')
        .skip(1)
        .map(|number| number.parse().unwrap())
        .collect();
    let [line, column] = numbers[..] else {
        panic!("{place} is no line and column")
    };
    let lines: Vec<&str> = text.split('\n').collect();
    assert!(
        (1..=lines.len()).contains(&line),
        "{place} of {} lines",
        lines.len()
    );
    assert!(
        (1..=lines[line - 1].chars().count() + 1).contains(&column),
        "{place} of {:?}",
        lines[line - 1]
    );
}
