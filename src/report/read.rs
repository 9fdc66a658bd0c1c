//! Finds the files of an event log and takes their lines apart.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// A line that is not one of an event log, or of a version that is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// The version of the lines that is understood.
const VERSION: u32 = 1;

/// What this needs of a line; docs/events.md has the rest.
#[derive(Debug, Deserialize)]
pub(super) struct Line<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Cow<'a, str>,
    v: u32,
    pub(super) unix_ms: u64,
    #[serde(borrow, default)]
    pub(super) currency: Cow<'a, str>,
    /// Of an auction.
    #[serde(default)]
    pub(super) one_in: u64,
    #[serde(borrow, default)]
    pub(super) calls: Vec<Call<'a>>,
    #[serde(borrow, default)]
    pub(super) offers: Vec<Offer<'a>>,
    #[serde(borrow, default)]
    pub(super) refused: Vec<Refused<'a>>,
    #[serde(default)]
    pub(super) watched: bool,
    /// Of a late answer.
    #[serde(borrow, default)]
    pub(super) dsp: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) found: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) longer_ms: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) more: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Call<'a> {
    #[serde(borrow)]
    pub(super) dsp: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) outcome: Cow<'a, str>,
    pub(super) us: u64,
}

#[derive(Debug, Deserialize)]
pub(super) struct Offer<'a> {
    #[serde(borrow)]
    pub(super) dsp: Cow<'a, str>,
    pub(super) loss: Option<u16>,
    #[serde(borrow)]
    pub(super) pays: Option<Cow<'a, str>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Refused<'a> {
    #[serde(borrow)]
    pub(super) dsp: Cow<'a, str>,
    pub(super) loss: u16,
}

impl<'a> Line<'a> {
    pub(super) fn parse(text: &'a [u8]) -> Result<Self, Malformed> {
        let line: Self = serde_json::from_slice(text).map_err(|_| Malformed)?;
        if line.v == VERSION {
            Ok(line)
        } else {
            Err(Malformed)
        }
    }
}

/// Hands over every line that is not empty.
pub(super) fn each_line(path: &Path, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(1 << 20, File::open(path)?);
    let mut line = Vec::new();
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = line.trim_ascii();
        if !text.is_empty() {
            take(text);
        }
        line.clear();
    }
    Ok(())
}

/// The files that a pattern names, oldest rotation first: in the name, not in its folder, `*` is any text.
///
/// # Errors
/// When the folder cannot be read.
pub(super) fn files(pattern: &Path) -> io::Result<Vec<PathBuf>> {
    let name = pattern.file_name().unwrap_or_default().to_string_lossy();
    if !name.contains('*') {
        return Ok(vec![pattern.to_owned()]);
    }
    let folder = match pattern.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    };
    let mut found: Vec<_> = fs::read_dir(folder)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| matches(&name, &path.file_name().unwrap_or_default().to_string_lossy()))
        .collect();
    found.sort();
    Ok(found)
}

fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            // The empty rest too.
            (0..=rest.len()).any(|at| rest.is_char_boundary(at) && matches(after, &rest[at..]))
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        #[track_caller]
        fn check(pattern: &str, name: &str, expected: bool) {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
        check("events.ndjson", "events.ndjson", true);
        check("events*.ndjson", "events.ndjson", true);
        check("events*.ndjson", "events.1.ndjson", true);
        check("events*.ndjson", "events.1.ndjson.gz", false);
        check("*", "anything", true);
        check("*.*", "é.x", true);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXc", false);
    }
}
