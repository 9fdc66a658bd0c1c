//! JSON strings in bytes that nobody unescaped: where one ends, whether its escapes are right, what it stands for.
//! Refuses what RFC 8259 §7 refuses, and half a surrogate pair, which stands for nothing.

use super::marks::{Marks, PART_BYTES};
use bumpalo::Bump;
use bumpalo::collections::String as ArenaString;

/// A JSON string as its sender wrote it: what stands between the quotes, escapes and all. Its escapes are sound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StringText<'a>(&'a str);

impl<'a> StringText<'a> {
    /// Between the quotes, escapes as written.
    #[must_use]
    pub fn raw(self) -> &'a str {
        self.0
    }

    /// Nothing between the quotes.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// What it stands for: the same bytes if it has no escapes, else a string in `arena`.
    #[must_use]
    pub fn unescape(self, arena: &'a Bump) -> &'a str {
        if self.0.contains('\\') {
            self.unescaped(arena)
        } else {
            self.0
        }
    }

    /// `raw` must be what [`close`] found the end of.
    pub(super) fn new(raw: &'a str) -> Self {
        Self(raw)
    }

    /// The same as [`unescape`](Self::unescape) for one that is known to have escapes.
    #[cold]
    pub(super) fn unescaped(self, arena: &'a Bump) -> &'a str {
        // Every escape is longer than what it stands for.
        let mut text = ArenaString::with_capacity_in(self.0.len(), arena);
        text.extend(self.characters());
        text.into_bump_str()
    }

    /// What it stands for, if that fits the buffer.
    #[cold]
    pub(super) fn unescape_into(self, buffer: &mut [u8]) -> Option<&str> {
        let mut length = 0;
        for character in self.characters() {
            let place = buffer.get_mut(length..length + character.len_utf8())?;
            length += character.encode_utf8(place).len();
        }
        std::str::from_utf8(&buffer[..length]).ok()
    }

    fn characters(self) -> impl Iterator<Item = char> {
        let mut at = 0;
        std::iter::from_fn(move || {
            let first = self.0[at..].chars().next()?;
            let (character, end) = match first {
                // Never an error: it was checked when the string was read.
                '\\' => escape(self.0.as_bytes(), at).ok()?,
                plain => (plain, at + plain.len_utf8()),
            };
            at = end;
            Some(character)
        })
    }
}

/// Where the string is closed whose first byte behind the opening quote is at `start`, and whether it has escapes.
///
/// # Errors
/// Where the first byte stands that no string may have there; the body's length if it ends in the string.
#[inline(always)]
pub(super) fn close(body: &[u8], start: usize) -> Result<(usize, bool), usize> {
    // Most strings are short.
    if let Some(part) = body.get(start..).and_then(|rest| rest.first_chunk()) {
        let bits = Marks::of(part).any();
        if bits == 0 {
            return close_anywhere(body, start + PART_BYTES);
        }
        let marked = bits.trailing_zeros() as usize;
        if part.get(marked) == Some(&b'"') {
            return Ok((start + marked, false));
        }
    }
    close_anywhere(body, start)
}

#[inline(never)]
fn close_anywhere(body: &[u8], start: usize) -> Result<(usize, bool), usize> {
    let (mut at, mut is_escaped) = (start, false);
    while let Some(part) = body.get(at..).and_then(|rest| rest.first_chunk()) {
        let marks = Marks::of(part);
        let escaped = marks.backslashes << 1;
        if escaped & !marks.quotes & PART_BITS != 0 {
            // Something else than a quote is escaped here: up to there, one mark after the other.
            let marked = at + marks.any().trailing_zeros() as usize;
            match body.get(marked) {
                Some(b'"') => return Ok((marked, is_escaped)),
                Some(b'\\') => (at, is_escaped) = (escape_end(body, marked)?, true),
                _ => return Err(marked),
            }
            continue;
        }
        // Markup is full of escaped quotes: all of them at once.
        let ends = marks.quotes & !escaped | marks.controls;
        if ends != 0 {
            let end = ends.trailing_zeros();
            is_escaped |= marks.backslashes & !(u32::MAX << end) != 0;
            let place = at + end as usize;
            return match marks.controls >> end & 1 {
                0 => Ok((place, is_escaped)),
                _ => Err(place),
            };
        }
        is_escaped |= marks.backslashes != 0;
        // A backslash in the last place is looked at again, together with what it escapes.
        at += PART_BYTES - (marks.backslashes >> (PART_BYTES - 1)) as usize;
    }
    close_at_the_end(body, at, is_escaped)
}

/// A bit for each byte of a part.
const PART_BITS: u32 = (1 << PART_BYTES) - 1;

/// The same byte by byte, for the last few.
fn close_at_the_end(body: &[u8], mut at: usize, mut is_escaped: bool) -> Result<(usize, bool), usize> {
    loop {
        match body.get(at) {
            Some(b'"') => return Ok((at, is_escaped)),
            Some(b'\\') => {
                at = escape_end(body, at)?;
                is_escaped = true;
            }
            Some(0x20..) => at += 1,
            _ => return Err(at.min(body.len())),
        }
    }
}

/// Where the escape ends whose backslash is at `at`.
#[inline]
fn escape_end(body: &[u8], at: usize) -> Result<usize, usize> {
    match body.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        _ => escape(body, at).map(|(_, end)| end),
    }
}

/// What the escape stands for whose backslash is at `at`, and where it ends.
///
/// # Errors
/// Where it goes wrong.
#[cold]
fn escape(body: &[u8], at: usize) -> Result<(char, usize), usize> {
    let character = match body.get(at + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'n') => '\n',
        Some(b'r') => '\r',
        Some(b't') => '\t',
        Some(b'u') => return unicode_escape(body, at),
        _ => return Err(at + 1),
    };
    Ok((character, at + 2))
}

/// `\u0041`, or a pair: `\ud83d\ude00`.
fn unicode_escape(body: &[u8], at: usize) -> Result<(char, usize), usize> {
    let first = code_unit(body, at).ok_or(at)?;
    if let Some(character) = char::from_u32(first) {
        return Ok((character, at + ESCAPE_BYTES));
    }
    let second = code_unit(body, at + ESCAPE_BYTES).ok_or(at)?;
    let pair = (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(&second);
    let code = 0x1_0000 + ((first & 0x3ff) << 10 | second & 0x3ff);
    char::from_u32(code)
        .filter(|_| pair)
        .map(|character| (character, at + 2 * ESCAPE_BYTES))
        .ok_or(at)
}

const ESCAPE_BYTES: usize = r"\u0041".len();

fn code_unit(body: &[u8], at: usize) -> Option<u32> {
    let digits = body.get(at..at + ESCAPE_BYTES)?.strip_prefix(br"\u")?;
    digits.iter().try_fold(0, |code, digit| {
        Some(code << 4 | char::from(*digit).to_digit(16)?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close_in(body: &str, start: usize) -> Result<(usize, bool), usize> {
        close(body.as_bytes(), start)
    }

    #[test]
    fn strings_end_where_they_are_closed() {
        let check = |text: &str, verdict: Result<(usize, bool), usize>| {
            // At every place in a word, and with and without a word behind it.
            for before in 0..9 {
                for after in ["", "behind it\\\u{1}"] {
                    let body = format!("{}{text}{after}", "\"".repeat(before));
                    let moved = verdict
                        .map(|(end, is_escaped)| (end + before, is_escaped))
                        .map_err(|at| at + before);
                    assert_eq!(close_in(&body, before), moved, "{body:?} from {before}");
                }
            }
        };
        check("\"", Ok((0, false)));
        check("a\"", Ok((1, false)));
        check("1234567\"", Ok((7, false)));
        check("12345678\"", Ok((8, false)));
        check("a long text, of more than two words\"", Ok((35, false)));
        check("é語😀\u{7f}\u{80} !#[]\"", Ok((17, false)));
        check(r#"\"\\\/\b\f\n\r\t""#, Ok((16, true)));
        check(r#"\u0041\ud83d\ude00\uD83D\uDE00""#, Ok((30, true)));
        check("a\nb\"", Err(1));
        check("12345678\u{0}\"", Err(8));
        check("12345\u{1f}\"", Err(5));
        check(r#"\x""#, Err(1));
        check(r#"12\u004""#, Err(2));
        check(r#"\u00g1""#, Err(0));
        check(r#"\u+041""#, Err(0));
        check(r#"\ud83d""#, Err(0));
        check(r#"\ude00""#, Err(0));
        check(r#"\ud83d\u0041""#, Err(0));
        check(r#"\ud83d\ud83d\ude00""#, Err(0));
        check(r#"\ud83dxude00""#, Err(0));
    }

    #[test]
    fn a_string_that_is_not_closed_ends_with_the_body() {
        for body in ["", "a", "1234567890", r#"\""#, "é"] {
            assert_eq!(close_in(body, 0), Err(body.len()), "{body:?}");
        }
        assert_eq!(close_in(r"a\", 0), Err(2));
    }

    #[test]
    fn escapes_are_resolved() {
        let arena = Bump::new();
        let check = |raw: &str, text: &str| {
            assert_eq!(StringText::new(raw).unescape(&arena), text, "{raw}");
        };
        check("", "");
        check("é", "é");
        check(r#"a\"\\\/\b\f\n\r\tz"#, "a\"\\/\u{8}\u{c}\n\r\tz");
        check(r"\u0041\u0000\ud83d\ude00\uFFFF", "A\0😀\u{ffff}");
    }
}
