//! Walks a TOML document and the environment key by key, and keeps account of what is wrong and what nobody
//! asked for. Knows no key by name: the names stand once, where they are read, in `file`.
//!
//! Serde would stop at the first error; whoever mends a configuration wants to see all of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use serde::{Serialize, Serializer};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `file:line:column`, or the name of an environment variable.
    pub place: String,
    /// The key's path, such as `server.listen` or `dsp[2].endpoint`; empty if it is not about a key.
    pub key: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { place, key, message } = self;
        if key.is_empty() {
            write!(f, "{place}: {message}")
        } else {
            write!(f, "{place}: {key}: {message}")
        }
    }
}

/// A value and where it came from, so that a later check can say where to mend it.
#[derive(Debug, Clone)]
pub(super) struct Written<T> {
    pub(super) value: T,
    key: String,
    origin: Origin,
}

impl<T: Serialize> Serialize for Written<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.value.serialize(serializer)
    }
}

/// Ordered as problems are listed: those of the file by position, then those of the environment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    /// Byte offset in the file. A default counts as standing at the section that lacks it.
    File(usize),
    Env(String),
}

/// What can stand behind a key.
pub(super) trait Value: Sized {
    /// With its article, as in "expected an integer".
    const EXPECTED: &'static str;
    /// The same of several, if a list of them is ever expected.
    const EXPECTED_LIST: &'static str = "a list";
    fn from_toml(value: &DeValue<'_>) -> Option<Self>;
    fn from_env(text: &str) -> Option<Self>;
}

impl Value for String {
    const EXPECTED: &'static str = "a string";
    const EXPECTED_LIST: &'static str = "a list of strings";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_str().map(str::to_owned)
    }

    fn from_env(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl Value for i64 {
    const EXPECTED: &'static str = "an integer";
    const EXPECTED_LIST: &'static str = "a list of integers";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        let integer = value.as_integer()?;
        Self::from_str_radix(integer.as_str(), integer.radix()).ok()
    }

    fn from_env(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

impl Value for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value.as_bool()
    }

    fn from_env(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// In the environment, a list is separated by commas.
impl<T: Value> Value for Vec<T> {
    const EXPECTED: &'static str = T::EXPECTED_LIST;

    fn from_toml(value: &DeValue<'_>) -> Option<Self> {
        value
            .as_array()?
            .iter()
            .map(|item| T::from_toml(item.get_ref()))
            .collect()
    }

    fn from_env(text: &str) -> Option<Self> {
        let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
        items.map(T::from_env).collect()
    }
}

/// A document being read.
pub(super) struct Reader<'t> {
    text: &'t str,
    /// Taken out when a section is opened.
    root: BTreeMap<String, (Range<usize>, Spanned<DeValue<'t>>)>,
    /// Variables that look like overrides, and whether anybody asked for them.
    env: BTreeMap<String, (String, bool)>,
    env_names: BTreeSet<String>,
    /// All keys that were asked for, as (section, key).
    known: BTreeSet<(String, String)>,
    /// Keys of the file that nobody asked for, as (section, key, offset).
    unknown: Vec<(String, String, usize)>,
    problems: Vec<(Origin, String, String)>,
    /// Part of the document could not be read. What could be may stand in the wrong place, so only values
    /// that have the right type under a known key are complained of.
    broken: bool,
}

impl<'t> Reader<'t> {
    pub(super) fn new(text: &'t str, env: impl IntoIterator<Item = (String, String)>) -> Self {
        let (document, errors) = DeTable::parse_recoverable(text);
        let is_override = |name: &str| {
            name.strip_prefix("COREBID_")
                .is_some_and(|rest| rest.contains("__"))
        };
        let root = document.into_inner().into_iter().map(|(key, value)| {
            let span = key.span();
            (key.into_inner().into_owned(), (span, value))
        });
        let problems = errors.iter().map(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            (Origin::File(offset), String::new(), error.message().to_owned())
        });
        Self {
            text,
            root: root.collect(),
            env: env
                .into_iter()
                .filter(|(name, _)| is_override(name))
                .map(|(name, value)| (name, (value, false)))
                .collect(),
            env_names: BTreeSet::new(),
            known: BTreeSet::new(),
            unknown: Vec::new(),
            problems: problems.collect(),
            broken: !errors.is_empty(),
        }
    }

    /// The table `[name]`; empty if there is none.
    pub(super) fn section(&mut self, name: &str) -> Section<'_, 't> {
        let (span, table) = match self.take(name) {
            None => (0..0, DeTable::new()),
            Some((span, value)) => match value.into_inner() {
                DeValue::Table(table) => (span, table),
                other => {
                    self.mistyped(&span, name, &format!("a table, written [{name}]"), &other);
                    (span, DeTable::new())
                }
            },
        };
        Section::new(self, name.to_owned(), span.start, table, vec![env_name(name)])
    }

    /// Reads each table `[[name]]` with `read`.
    pub(super) fn each_section<T>(
        &mut self,
        name: &str,
        mut read: impl FnMut(Section<'_, 't>) -> T,
    ) -> Vec<T> {
        let Some((span, value)) = self.take(name) else {
            return Vec::new();
        };
        let expected = format!("a list of tables, each written [[{name}]]");
        let items = match value.into_inner() {
            DeValue::Array(items) => items,
            other => {
                self.mistyped(&span, name, &expected, &other);
                return Vec::new();
            }
        };
        let mut all = Vec::new();
        for (index, item) in items.into_iter().enumerate() {
            let path = format!("{name}[{index}]");
            let span = item.span();
            let table = match item.into_inner() {
                DeValue::Table(table) => table,
                other => {
                    self.mistyped(&span, &path, &expected, &other);
                    continue;
                }
            };
            let variables = format!("{}__{index}", env_name(name));
            all.push(read(Section::new(self, path, span.start, table, vec![variables])));
        }
        all
    }

    /// A value has the right type and is wrong all the same.
    pub(super) fn wrong<T>(&mut self, written: &Written<T>, message: impl Into<String>) {
        self.problems
            .push((written.origin.clone(), written.key.clone(), message.into()));
    }

    /// Something is wrong with the configuration as a whole.
    pub(super) fn lacking(&mut self, key: &str, message: &str) {
        if !self.broken {
            self.problems
                .push((Origin::File(0), key.to_owned(), message.to_owned()));
        }
    }

    /// All problems found, in order; `file` is what to call the document.
    pub(super) fn finish(mut self, file: &str) -> Vec<Problem> {
        for (name, (span, _)) in std::mem::take(&mut self.root) {
            self.unknown.push((String::new(), name, span.start));
        }
        if self.broken {
            self.unknown.clear();
        }
        for (section, key, offset) in std::mem::take(&mut self.unknown) {
            let message = format!("unknown key{}", self.suggestion(&section, &key));
            self.problems
                .push((Origin::File(offset), path(&section, &key), message));
        }
        for (name, _) in self.env.iter().filter(|(_, (_, asked_for))| !asked_for) {
            let known = self.env_names.iter().map(String::as_str);
            let meant = nearest(name, known)
                .map(|meant| format!("; did you mean {meant}?"))
                .unwrap_or_default();
            let message = format!("names no key of the configuration{meant}");
            self.problems
                .push((Origin::Env(name.clone()), String::new(), message));
        }
        self.problems.sort();
        let text = self.text;
        let place = |origin| match origin {
            Origin::File(offset) => {
                let (line, column) = line_and_column(text, offset);
                format!("{file}:{line}:{column}")
            }
            Origin::Env(name) => name,
        };
        let problems = self.problems.into_iter();
        problems
            .map(|(origin, key, message)| Problem {
                place: place(origin),
                key,
                message,
            })
            .collect()
    }

    fn take(&mut self, name: &str) -> Option<(Range<usize>, Spanned<DeValue<'t>>)> {
        self.known.insert((String::new(), name.to_owned()));
        self.root.remove(name)
    }

    fn mistyped(&mut self, span: &Range<usize>, key: &str, expected: &str, found: &DeValue<'_>) {
        if !self.broken {
            let message = format!("expected {expected}, found {}", describe(found));
            self.problems
                .push((Origin::File(span.start), key.to_owned(), message));
        }
    }

    /// What the writer of an unknown key may have meant.
    fn suggestion(&self, section: &str, key: &str) -> String {
        let siblings = self
            .known
            .iter()
            .filter(|(at, _)| at == section)
            .map(|(_, known)| known.as_str());
        if let Some(meant) = nearest(key, siblings) {
            return format!("; did you mean {meant}?");
        }
        let elsewhere = self
            .known
            .iter()
            .find(|(at, known)| !at.is_empty() && known == key);
        elsewhere
            .map(|(at, _)| format!("; it belongs to {}", header(at)))
            .unwrap_or_default()
    }
}

/// One table of the document. What is left in it at the end is unknown.
pub(super) struct Section<'r, 't> {
    reader: &'r mut Reader<'t>,
    path: String,
    offset: usize,
    table: DeTable<'t>,
    /// What the names of this section's variables begin with.
    variables: Vec<String>,
}

impl<'r, 't> Section<'r, 't> {
    fn new(
        reader: &'r mut Reader<'t>,
        path: String,
        offset: usize,
        table: DeTable<'t>,
        variables: Vec<String>,
    ) -> Self {
        Self {
            reader,
            path,
            offset,
            table,
            variables,
        }
    }

    /// Lets the environment name this section by `name`, too.
    pub(super) fn also_called(&mut self, section: &str, name: &str) {
        self.variables
            .push(format!("{}__{}", env_name(section), env_name_part(name)));
    }

    /// The value of `key`: from the environment, else from the file, else the default. A value of the wrong
    /// type is reported and then read as the default.
    pub(super) fn get<T: Value>(&mut self, key: &'static str, default: T) -> Written<T> {
        self.get_if_written(key).unwrap_or_else(|| Written {
            value: default,
            key: path(&self.path, key),
            origin: Origin::File(self.offset),
        })
    }

    /// The value of a key that has no default; missing or of the wrong type, it is reported.
    pub(super) fn require<T: Value>(&mut self, key: &'static str) -> Option<Written<T>> {
        let before = self.reader.problems.len();
        let written = self.get_if_written(key);
        if written.is_none() && self.reader.problems.len() == before && !self.reader.broken {
            let problem = (
                Origin::File(self.offset),
                path(&self.path, key),
                "is missing".to_owned(),
            );
            self.reader.problems.push(problem);
        }
        written
    }

    /// The value of a key that may be left out.
    pub(super) fn get_if_written<T: Value>(&mut self, key: &'static str) -> Option<Written<T>> {
        self.reader.known.insert((self.path.clone(), key.to_owned()));
        let in_file = self
            .table
            .remove(key)
            .and_then(|value| self.read_toml(key, &value));
        self.read_env(key).or(in_file)
    }

    fn read_toml<T: Value>(&mut self, key: &str, value: &Spanned<DeValue<'t>>) -> Option<Written<T>> {
        let path = path(&self.path, key);
        match T::from_toml(value.get_ref()) {
            Some(read) => Some(Written {
                value: read,
                key: path,
                origin: Origin::File(value.span().start),
            }),
            None => {
                self.reader
                    .mistyped(&value.span(), &path, T::EXPECTED, value.get_ref());
                None
            }
        }
    }

    fn read_env<T: Value>(&mut self, key: &str) -> Option<Written<T>> {
        let mut found = None;
        for variables in &self.variables {
            let name = format!("{variables}__{}", env_name_part(key));
            self.reader.env_names.insert(name.clone());
            let Some((text, asked_for)) = self.reader.env.get_mut(&name) else {
                continue;
            };
            *asked_for = true;
            let path = path(&self.path, key);
            match T::from_env(text) {
                Some(value) => {
                    let origin = Origin::Env(name);
                    found = Some(Written {
                        value,
                        key: path,
                        origin,
                    });
                }
                // The text is not repeated: a variable may hold a secret.
                None => {
                    let message = format!("expected {}", T::EXPECTED);
                    self.reader.problems.push((Origin::Env(name), path, message));
                }
            }
        }
        found
    }
}

impl Drop for Section<'_, '_> {
    fn drop(&mut self) {
        for (key, _) in std::mem::take(&mut self.table) {
            let offset = key.span().start;
            self.reader
                .unknown
                .push((self.path.clone(), key.into_inner().into_owned(), offset));
        }
    }
}

/// The nearest of `known`, if it is near enough to be a slip of the hand or a forgotten unit.
pub(super) fn nearest<'k>(written: &str, known: impl Iterator<Item = &'k str>) -> Option<&'k str> {
    let distance = |candidate: &str| {
        let unit_forgotten = candidate
            .strip_prefix(written)
            .is_some_and(|rest| rest.starts_with('_'));
        if unit_forgotten {
            1
        } else {
            edit_distance(written, candidate)
        }
    };
    let nearest = known.map(|candidate| (distance(candidate), candidate)).min()?;
    let far = written.chars().count().div_ceil(3).min(2);
    (nearest.0 <= far).then_some(nearest.1)
}

/// A name as it stands in a variable: two names that are equal here cannot be told apart there.
pub(super) fn env_name_part(name: &str) -> String {
    let fits = |character: char| {
        if character.is_ascii_alphanumeric() {
            character
        } else {
            '_'
        }
    };
    name.chars().map(fits).collect::<String>().to_ascii_uppercase()
}

fn env_name(section: &str) -> String {
    format!("COREBID_{}", env_name_part(section))
}

fn path(section: &str, key: &str) -> String {
    if section.is_empty() {
        key.to_owned()
    } else {
        format!("{section}.{key}")
    }
}

/// A section as it is written: `[server]`, and `[[dsp]]` for any `dsp[2]`.
fn header(section: &str) -> String {
    match section.split_once('[') {
        Some((list, _)) => format!("[[{list}]]"),
        None => format!("[{section}]"),
    }
}

fn describe(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        // Reached for an integer where one is expected, too: then it does not fit 64 bits.
        DeValue::Integer(integer) if i64::from_str_radix(integer.as_str(), integer.radix()).is_err() => {
            "an integer too large"
        }
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a number with a fraction",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// Both from 1; columns in characters.
fn line_and_column(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (
        before.matches('\n').count() + 1,
        before[line_start..].chars().count() + 1,
    )
}

/// Insertions, deletions and substitutions between two words (Levenshtein).
fn edit_distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (above, from_char) in from.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = above + 1;
        for (index, &to_char) in to.iter().enumerate() {
            let substituted = diagonal + usize::from(from_char != to_char);
            diagonal = row[index + 1];
            row[index + 1] = substituted.min(row[index] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}
