//! Reads a document in one pass over its untouched bytes: no tape, no copy. Knows JSON and which members of an object we
//! read; no rule of OpenRTB.
//!
//! What is passed is checked, also what is skipped: a document that was read to its end is JSON by RFC 8259. A number
//! may be of any size, since nothing is made of it here; half a surrogate pair is refused, though the RFC's grammar has
//! it, because no reader after us could make a character of it.

use super::fields::{HEAD_BYTES, NAME_BYTES_MAX, Table};
use super::read_response::Source;
use super::seen::{Given, Seen};
use super::strings::{self, StringText};
use super::{BadResponse, NumberText, Span};
use bumpalo::Bump;

/// Why a document cannot be read. Small, for each step may end so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Malformed {
    TooDeep,
    /// Where, in bytes.
    NotJson(u32),
}

#[cold]
pub(super) fn not_json(at: usize) -> Malformed {
    Malformed::NotJson(u32::try_from(at).unwrap_or(u32::MAX))
}

/// The fast check does not say where.
#[cold]
fn where_not_utf8(body: &[u8]) -> Malformed {
    not_json(std::str::from_utf8(body).map_or_else(|error| error.valid_up_to(), str::len))
}

impl From<Malformed> for BadResponse {
    fn from(malformed: Malformed) -> Self {
        match malformed {
            Malformed::TooDeep => Self::TooDeep,
            Malformed::NotJson(at) => Self::NotJson(at as usize),
        }
    }
}

/// A place in a document: always in front of a value, except while it moves from member to member.
#[derive(Debug)]
pub(super) struct Pull<'a> {
    text: &'a str,
    at: usize,
    /// How many more objects and arrays may be entered.
    depth_left: usize,
}

/// The members of one object, see [`Source::next_member`].
pub(super) struct Members {
    seen: Seen,
    is_first: bool,
}

/// The elements of one array.
pub(super) struct Elements {
    is_first: bool,
}

impl<'a> Pull<'a> {
    /// In front of the top-level value.
    pub(super) fn new(body: &'a [u8], depth_max: usize) -> Result<Self, Malformed> {
        let text = simdutf8::basic::from_utf8(body).map_err(|_| where_not_utf8(body))?;
        let mut pull = Self {
            text,
            at: 0,
            depth_left: depth_max,
        };
        pull.pass_space();
        Ok(pull)
    }

    /// Behind the top-level value there must be nothing.
    pub(super) fn end(&mut self) -> Result<(), Malformed> {
        match self.pass_space() {
            None => Ok(()),
            Some(_) => Err(not_json(self.at)),
        }
    }

    fn body(&self) -> &'a [u8] {
        self.text.as_bytes()
    }

    /// The byte in front.
    #[inline]
    fn first(&self) -> Option<u8> {
        self.body().get(self.at).copied()
    }

    /// Moves to the next byte that is no whitespace, and tells it.
    #[inline]
    fn pass_space(&mut self) -> Option<u8> {
        loop {
            let byte = self.first()?;
            if byte > b' ' || !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
    }

    /// Moves behind the string in front; what is between its quotes, and whether that has escapes.
    #[inline(always)]
    fn string_text(&mut self) -> Result<(&'a str, bool), Malformed> {
        let start = self.at + 1;
        let (end, is_escaped) = strings::close(self.body(), start).map_err(not_json)?;
        self.at = end + 1;
        Ok((&self.text[start..end], is_escaped))
    }

    /// Moves behind the number in front.
    #[inline]
    fn number_text(&mut self) -> Result<NumberText<'a>, Malformed> {
        let (body, start) = (self.body(), self.at);
        let mut at = start + usize::from(self.first() == Some(b'-'));
        at = match body.get(at) {
            Some(b'0') => at + 1,
            _ => digits(body, at)?,
        };
        if body.get(at) == Some(&b'.') {
            at = digits(body, at + 1)?;
        }
        if let Some(b'e' | b'E') = body.get(at) {
            at = exponent(body, at)?;
        }
        self.at = at;
        Ok(NumberText(&body[start..at]))
    }

    fn literal(&mut self, name: &[u8]) -> Result<(), Malformed> {
        if !self.body()[self.at..].starts_with(name) {
            return Err(not_json(self.at));
        }
        self.at += name.len();
        Ok(())
    }

    fn skip_object(&mut self) -> Result<(), Malformed> {
        self.enter()?;
        let mut is_first = true;
        while self.next(b'}', &mut is_first)? {
            self.key()?;
            self.skip()?;
        }
        Ok(())
    }

    fn skip_array(&mut self) -> Result<(), Malformed> {
        self.enter()?;
        let mut is_first = true;
        while self.next(b']', &mut is_first)? {
            self.skip()?;
        }
        Ok(())
    }

    /// Moves behind the opening bracket in front.
    #[inline]
    fn enter(&mut self) -> Result<(), Malformed> {
        self.depth_left = self.depth_left.checked_sub(1).ok_or(Malformed::TooDeep)?;
        self.at += 1;
        Ok(())
    }

    /// Moves behind the closing bracket in front.
    #[inline]
    fn leave(&mut self) {
        self.depth_left += 1;
        self.at += 1;
    }

    /// In front of the next member or element of the container that was entered; behind it, and false, if that was all.
    #[inline]
    fn next(&mut self, close: u8, is_first: &mut bool) -> Result<bool, Malformed> {
        let byte = self.pass_space();
        if byte == Some(close) {
            self.leave();
            return Ok(false);
        }
        if !std::mem::replace(is_first, false) {
            if byte != Some(b',') {
                return Err(not_json(self.at));
            }
            self.at += 1;
            self.pass_space();
        }
        Ok(true)
    }

    /// Moves from a member's name in front of its value; see [`Self::string_text`].
    fn key(&mut self) -> Result<(&'a str, bool), Malformed> {
        if self.first() != Some(b'"') {
            return Err(not_json(self.at));
        }
        let key = self.string_text()?;
        if self.pass_space() != Some(b':') {
            return Err(not_json(self.at));
        }
        self.at += 1;
        self.pass_space();
        Ok(key)
    }

    /// [`Source::next_member`] for the way in which nearly all members are written that are known: a short name, nothing
    /// escaped, no whitespace, a value that is not null. Moves only if it finds one.
    #[inline(always)]
    fn plain_member(&mut self, members: &mut Members) -> Option<usize> {
        let body = self.body();
        let mut at = self.at;
        if !members.is_first {
            if body.get(at) != Some(&b',') {
                return None;
            }
            at += 1;
        }
        let [b'"', name @ ..] = body.get(at..)?.first_chunk::<{ 1 + HEAD_BYTES }>()? else {
            return None;
        };
        let (index, bytes) = members.seen.table().find_quoted(name)?;
        at += bytes + 2;
        let (b':', value) = (*body.get(at)?, *body.get(at + 1)?) else {
            return None;
        };
        if value <= b' ' || value == b'n' || !members.seen.take_first(index) {
            return None;
        }
        self.at = at + 1;
        members.is_first = false;
        Some(index)
    }

    /// [`Source::next_member`] for all others.
    #[inline(never)]
    fn any_member(&mut self, members: &mut Members) -> Result<Option<usize>, Malformed> {
        while self.next(b'}', &mut members.is_first)? {
            let (name, is_escaped) = self.key()?;
            let table = members.seen.table();
            let index = match is_escaped {
                true => find_escaped(table, name),
                false => table.find(name),
            };
            let given = match self.first() {
                Some(b'n') => Given::Null,
                _ => Given::Full,
            };
            match index {
                Some(index) if members.seen.take(index, self.at, given) => return Ok(Some(index)),
                _ => self.skip()?,
            }
        }
        Ok(None)
    }
}

impl<'a> Source<'a> for Pull<'a> {
    type Error = Malformed;
    type Members = Members;
    type Elements = Elements;

    #[inline]
    fn enter_object(&mut self, table: &'static Table) -> Result<Option<Members>, Malformed> {
        // Whether a required member is empty would have to be looked at.
        debug_assert_eq!(
            table.required(),
            0,
            "an answer's members are judged by its reader"
        );
        if self.first() != Some(b'{') {
            return Ok(None);
        }
        self.enter()?;
        Ok(Some(Members {
            seen: Seen::new(table),
            is_first: true,
        }))
    }

    #[inline(always)]
    fn next_member(&mut self, members: &mut Members) -> Result<Option<usize>, Malformed> {
        if self.first() == Some(b'}') {
            self.leave();
            return Ok(None);
        }
        match self.plain_member(members) {
            Some(index) => Ok(Some(index)),
            None => self.any_member(members),
        }
    }

    fn repeated(members: &Members) -> Option<&'static str> {
        members.seen.repeated().map(|(_, name)| name)
    }

    #[inline]
    fn enter_array(&mut self) -> Result<Option<Elements>, Malformed> {
        if self.first() != Some(b'[') {
            return Ok(None);
        }
        self.enter()?;
        Ok(Some(Elements { is_first: true }))
    }

    #[inline]
    fn next_element(&mut self, elements: &mut Elements) -> Result<bool, Malformed> {
        self.next(b']', &mut elements.is_first)
    }

    #[inline]
    fn offset(&self) -> usize {
        self.at
    }

    #[inline]
    fn since(&self, start: usize) -> &'a [u8] {
        &self.body()[start..self.at]
    }

    /// Calls itself for what is nested, at most as often as the depth allows.
    fn skip(&mut self) -> Result<(), Malformed> {
        match self.first() {
            Some(b'"') => self.string_text().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number_text().map(drop),
            Some(b'{') => self.skip_object(),
            Some(b'[') => self.skip_array(),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => Err(not_json(self.at)),
        }
    }

    #[inline(always)]
    fn quoted(&mut self) -> Result<Option<StringText<'a>>, Malformed> {
        if self.first() == Some(b'"') {
            return Ok(Some(StringText::new(self.string_text()?.0)));
        }
        self.skip().map(|()| None)
    }

    #[inline(always)]
    fn string(&mut self, arena: &'a Bump) -> Result<Option<&'a str>, Malformed> {
        if self.first() != Some(b'"') {
            return self.skip().map(|()| None);
        }
        let (text, is_escaped) = self.string_text()?;
        Ok(Some(match is_escaped {
            true => StringText::new(text).unescaped(arena),
            false => text,
        }))
    }

    #[inline]
    fn number(&mut self) -> Result<Option<(NumberText<'a>, Span)>, Malformed> {
        if let Some(b'-' | b'0'..=b'9') = self.first() {
            let start = self.at;
            let text = self.number_text()?;
            let span = Span { start, end: self.at };
            return Ok(Some((text, span)));
        }
        self.skip().map(|()| None)
    }

    #[inline(always)]
    fn count(&mut self) -> Result<Option<u32>, Malformed> {
        if let Some((count, end)) = plain_count(self.body(), self.at) {
            self.at = end;
            return Ok(Some(count));
        }
        Ok(self.whole()?.and_then(|number| u32::try_from(number).ok()))
    }
}

/// `300`: what is counted by the number at `start`, and where it ends, if it is written as nearly all are.
#[inline(always)]
fn plain_count(body: &[u8], start: usize) -> Option<(u32, usize)> {
    let Some(first @ b'1'..=b'9') = body.get(start) else {
        return None;
    };
    let mut count = u32::from(first - b'0');
    let mut at = start + 1;
    loop {
        match body.get(at) {
            Some(digit @ b'0'..=b'9') if at - start < PLAIN_DIGITS => {
                count = 10 * count + u32::from(digit - b'0');
            }
            Some(b',' | b'}' | b']') => return Some((count, at)),
            _ => return None,
        }
        at += 1;
    }
}

/// As many digits as always fit 32 bits.
const PLAIN_DIGITS: usize = 9;

/// Behind one digit or more.
#[inline]
fn digits(body: &[u8], start: usize) -> Result<usize, Malformed> {
    let digits = body.get(start..).unwrap_or_default().iter();
    match digits.take_while(|byte| byte.is_ascii_digit()).count() {
        0 => Err(not_json(start)),
        count => Ok(start + count),
    }
}

#[cold]
fn exponent(body: &[u8], at: usize) -> Result<usize, Malformed> {
    let sign = matches!(body.get(at + 1), Some(b'+' | b'-'));
    digits(body, at + 1 + usize::from(sign))
}

/// `"\u0074max"` is `tmax`.
#[cold]
fn find_escaped(table: &Table, name: &str) -> Option<usize> {
    table.find(StringText::new(name).unescape_into(&mut [0; NAME_BYTES_MAX])?)
}
