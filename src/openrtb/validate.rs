//! When a bid request is refused, and how the refusal reads. Checks what is only forwarded; what the auction uses
//! is checked where it is read (`read_request`). Knows nothing of bid responses, which are judged bid by bid.
//!
//! Strict where a mistake could cost money or mislead the auction, lenient where it could only mislead a DSP: a
//! scalar of the wrong kind (`"w": "300"`, `"carrier": 70092`) is common in real traffic and passes in an object that
//! we forward, as IAB's own converter lets it. What cannot be read as its type at all (`"w": "ff"`, `"device": 1`) is
//! refused, and so is a size below zero. A required member that is missing deep inside (`schain`, `sua`) is the
//! DSP's to judge: the impression can still be sold.

use super::cursor::{self, Cursor, Elements, Members};
use super::fields::{self, Field, Kind, Table};
use simd_json::{Node, StaticNode};
use std::fmt;

/// What the exchange insists on beyond OpenRTB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Validation {
    /// Members of the bid request, one bit each.
    require: u64,
}

/// A name in `validation.require` that is no member of a bid request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a member of an OpenRTB bid request")]
pub struct UnknownMember(pub String);

impl Validation {
    /// Refuses bid requests without these top-level members.
    ///
    /// # Errors
    /// [`UnknownMember`] if OpenRTB has no such member: no request could ever pass.
    pub fn requiring<S: AsRef<str>>(members: &[S]) -> Result<Self, UnknownMember> {
        let mut require = 0;
        for name in members.iter().map(AsRef::as_ref) {
            let index = fields::BID_REQUEST
                .find(name)
                .ok_or_else(|| UnknownMember(name.to_owned()))?;
            require |= 1 << index;
        }
        Ok(Self { require })
    }

    pub(super) fn required(self) -> u64 {
        self.require
    }
}

/// Why a bid request is refused: the SSP's fault, to be answered with 400 (OpenRTB 2.6 §2.1).
///
/// Displayed as one line for each problem, each naming the path and the rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    problems: Vec<Problem>,
}

impl Invalid {
    /// At least one, at most [`PROBLEMS_MAX`].
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn document(rule: Rule) -> Self {
        Self {
            problems: vec![Problem {
                path: String::new(),
                rule,
            }],
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Invalid {}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where: `imp[0].video.mimes`; empty for the whole document.
    pub path: String,
    /// What.
    pub rule: Rule,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.rule, self.path.as_str()) {
            (rule @ Rule::SameImpId { .. }, _) => write!(f, "{rule}"),
            (rule, "") => write!(f, "{rule}"),
            (rule, path) => write!(f, "{path}: {rule}"),
        }
    }
}

/// A rule of OpenRTB, or of JSON, that a bid request can break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The body is not a JSON text in UTF-8.
    Json {
        /// The byte at which it stops being one, as far as the parser knows.
        at: usize,
    },
    /// Nested deeper than [`Limits::depth_max`](super::Limits::depth_max).
    Depth {
        /// The limit.
        max: usize,
    },
    /// Not there, null, or an empty string or array.
    Required,
    /// Another JSON type.
    Type {
        /// What it must be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// Below zero.
    Negative,
    /// `tmax` is 0: an auction that is over before it begins.
    Zero,
    /// `at` is none of the values that OpenRTB gives a meaning, so there is no way to make a price.
    AuctionType,
    /// The same member again; readers differ on which one counts.
    Repeated,
    /// More than one of `site`, `app` and `dooh` (§3.2.13).
    Inventory,
    /// An imp without banner, video, audio and native (§3.2.4).
    NoMedia,
    /// Two imps with one id (§3.2.4).
    SameImpId {
        /// Index of the imp that had it first.
        first: usize,
        /// Index of the imp that has it again.
        second: usize,
        /// The id, shortened.
        id: String,
    },
    /// More elements than a limit of ours.
    TooMany {
        /// The limit.
        max: usize,
    },
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Json { at } => write!(f, "not valid JSON in UTF-8, at byte {at}"),
            Self::Depth { max } => write!(f, "nested deeper than {max}"),
            Self::Required => f.write_str("required"),
            Self::Type { expected, found } => write!(f, "must be {expected}, is {found}"),
            Self::Negative => f.write_str("must not be negative"),
            Self::Zero => f.write_str("must not be 0"),
            Self::AuctionType => f.write_str("must be 1, 2, 500 or above, or in a deal 3"),
            Self::Repeated => f.write_str("is there more than once"),
            Self::Inventory => f.write_str("must contain at most one of site, app, dooh"),
            Self::NoMedia => f.write_str("must contain at least one of banner, video, audio, native"),
            Self::SameImpId { first, second, id } => {
                write!(
                    f,
                    "imp[{first}].id and imp[{second}].id are both {id:?}: imp ids must be unique"
                )
            }
            Self::TooMany { max } => write!(f, "must not have more than {max} elements"),
        }
    }
}

/// So many problems are reported of one request: enough to mend it by, and a bound on what an answer costs us.
pub const PROBLEMS_MAX: usize = 10;

/// So much of an id is shown: all of a UUID, and no flood in logs.
const ID_SHOWN_CHARS_MAX: usize = 64;

/// The problems of one request while it is read. Costs nothing until there is one.
#[derive(Default)]
pub(super) struct Problems(Vec<Found>);

/// A problem by its position; the path is made when all is read.
struct Found {
    position: usize,
    /// The member of the object at `position` that is missing.
    member: Option<&'static str>,
    rule: Rule,
}

impl Problems {
    #[cold]
    pub(super) fn at(&mut self, position: usize, rule: Rule) {
        self.push(Found {
            position,
            member: None,
            rule,
        });
    }

    #[cold]
    pub(super) fn missing(&mut self, object: usize, member: &'static str) {
        self.push(Found {
            position: object,
            member: Some(member),
            rule: Rule::Required,
        });
    }

    #[cold]
    pub(super) fn wrong_type(&mut self, position: usize, expected: &'static str, found: Node<'_>) {
        self.at(
            position,
            Rule::Type {
                expected,
                found: describe(found),
            },
        );
    }

    #[cold]
    pub(super) fn same_imp_id(&mut self, position: usize, first: usize, second: usize, id: &str) {
        let id = id.chars().take(ID_SHOWN_CHARS_MAX).collect();
        self.at(position, Rule::SameImpId { first, second, id });
    }

    /// What is common to the end of every object.
    pub(super) fn object(&mut self, position: usize, members: &Members) {
        if let Some((position, _)) = members.seen.repeated() {
            self.at(position, Rule::Repeated);
        }
        for name in members.seen.missing() {
            self.missing(position, name);
        }
    }

    pub(super) fn into_result(self, nodes: &[Node<'_>]) -> Result<(), Invalid> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(self.into_invalid(nodes))
        }
    }

    #[cold]
    fn into_invalid(self, nodes: &[Node<'_>]) -> Invalid {
        let problems = self.0.into_iter().map(|found| {
            let mut path = cursor::path(nodes, found.position);
            if let Some(member) = found.member {
                path.push_str(if path.is_empty() { "" } else { "." });
                path.push_str(member);
            }
            Problem {
                path,
                rule: found.rule,
            }
        });
        Invalid {
            problems: problems.collect(),
        }
    }

    fn push(&mut self, found: Found) {
        if self.0.len() < PROBLEMS_MAX {
            self.0.push(found);
        }
    }
}

/// Checks a member that is only forwarded and moves behind it.
pub(super) fn check(cursor: &mut Cursor<'_, '_>, field: &Field, required: bool, problems: &mut Problems) {
    let (position, value) = (cursor.position(), cursor.peek());
    match field.kind {
        Kind::Object(table) => return check_object(cursor, table, problems),
        Kind::Objects(table) => return check_objects(cursor, table, problems),
        Kind::Ints => return check_ints(cursor, problems),
        Kind::Text if required && !matches!(value, Node::String(_)) => {
            problems.wrong_type(position, "a string", value);
        }
        Kind::Text if matches!(value, Node::Object { .. }) => {
            problems.wrong_type(position, "a string", value);
        }
        Kind::TextOrObject if !matches!(value, Node::String(_) | Node::Object { .. }) => {
            problems.wrong_type(position, "a string", value);
        }
        Kind::Texts if required && !matches!(value, Node::Array { .. }) => {
            problems.wrong_type(position, "an array of strings", value);
        }
        Kind::Texts if matches!(value, Node::Object { .. }) => {
            problems.wrong_type(position, "an array of strings", value);
        }
        Kind::Int | Kind::Count => check_int(position, value, matches!(field.kind, Kind::Count), problems),
        Kind::Number if lenient_number(value).is_none() => problems.wrong_type(position, "a number", value),
        Kind::Floor => {
            floor(cursor, problems);
            return;
        }
        Kind::Text | Kind::TextOrObject | Kind::Texts | Kind::Number => {}
    }
    cursor.skip();
}

/// Reads a price: strict wherever it stands.
pub(super) fn floor<'a>(
    cursor: &mut Cursor<'_, 'a>,
    problems: &mut Problems,
) -> Option<super::NumberText<'a>> {
    let (position, value) = (cursor.position(), cursor.peek());
    match cursor.number() {
        Some((text, _)) if text.is_negative() => problems.at(position, Rule::Negative),
        Some((text, _)) => return Some(text),
        None => problems.wrong_type(position, "a number", value),
    }
    None
}

fn check_object(cursor: &mut Cursor<'_, '_>, table: &'static Table, problems: &mut Problems) {
    let (position, value) = (cursor.position(), cursor.peek());
    let Some(mut members) = Members::enter(cursor, table) else {
        problems.wrong_type(position, "an object", value);
        return cursor.skip();
    };
    while let Some(index) = members.next(cursor) {
        check(
            cursor,
            table.field(index),
            table.required() & (1 << index) != 0,
            problems,
        );
    }
    problems.object(position, &members);
}

/// A lone object passes for an array of one, as some SSPs write it.
fn check_objects(cursor: &mut Cursor<'_, '_>, table: &'static Table, problems: &mut Problems) {
    let Some(mut elements) = Elements::enter(cursor) else {
        return check_object(cursor, table, problems);
    };
    while elements.next(cursor) {
        check_object(cursor, table, problems);
    }
}

/// A lone integer passes for an array of one.
fn check_ints(cursor: &mut Cursor<'_, '_>, problems: &mut Problems) {
    if let Some(mut elements) = Elements::enter(cursor) {
        while elements.next(cursor) {
            check_int(cursor.position(), cursor.peek(), false, problems);
            cursor.skip();
        }
    } else {
        check_int(cursor.position(), cursor.peek(), false, problems);
        cursor.skip();
    }
}

fn check_int(position: usize, value: Node<'_>, is_count: bool, problems: &mut Problems) {
    match lenient_int(value) {
        Some(number) if is_count && number < 0 => problems.at(position, Rule::Negative),
        Some(_) => {}
        None => problems.wrong_type(position, "an integer", value),
    }
}

/// Also what other parsers would make an integer: a flag written as a boolean, digits in a string.
fn lenient_int(value: Node<'_>) -> Option<i64> {
    match value {
        Node::Static(StaticNode::Bool(flag)) => Some(i64::from(flag)),
        Node::String(text) => text.trim().parse().ok(),
        other => cursor::whole(other),
    }
}

fn lenient_number(value: Node<'_>) -> Option<()> {
    match value {
        Node::String(text) => text
            .trim()
            .parse::<f64>()
            .ok()
            .filter(|number| number.is_finite())
            .map(drop),
        other => cursor::is_number(other).then_some(()),
    }
}

fn describe(value: Node<'_>) -> &'static str {
    match value {
        Node::String("") => "an empty string",
        Node::String(_) => "a string",
        Node::Object { .. } => "an object",
        Node::Array { .. } => "an array",
        Node::Static(StaticNode::Null) => "null",
        Node::Static(StaticNode::Bool(_)) => "a boolean",
        Node::Static(StaticNode::F64(number)) if number.fract() != 0.0 => "a fraction",
        Node::Static(_) => "a number",
    }
}
