//! A document with a few places changed and every other byte as it came. Knows where, never what: the places come
//! from the parser, and it is the caller who puts JSON there.

use super::request::TmaxPlace;
use super::{BidRequest, Span};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;

/// One change: the bytes of `span` become `text`. An empty span inserts.
#[derive(Clone, Copy, Debug)]
pub struct Edit<'e> {
    /// What goes.
    pub span: Span,
    /// What comes.
    pub text: &'e [u8],
}

/// `body` with its `edits` made, which are in order and do not overlap.
#[must_use]
pub fn splice<'b>(body: &[u8], edits: &[Edit<'_>], arena: &'b Bump) -> &'b [u8] {
    let removed: usize = edits.iter().map(|edit| edit.span.range().len()).sum();
    let added: usize = edits.iter().map(|edit| edit.text.len()).sum();
    let mut out = BumpVec::with_capacity_in(body.len() - removed + added, arena);
    let mut kept = 0;
    for edit in edits {
        out.extend_from_slice_copy(&body[kept..edit.span.start]);
        out.extend_from_slice_copy(edit.text);
        kept = edit.span.end;
    }
    out.extend_from_slice_copy(&body[kept..]);
    out.into_bump_slice()
}

/// The body that DSPs get: the SSP's bytes with a `tmax` of ours. Made once for a bid request, encoded once for each
/// different `tmax`.
#[derive(Clone, Copy, Debug)]
pub struct Splice<'a> {
    body: &'a [u8],
    place: Span,
    /// A member that is not there yet needs its name in front and a comma behind.
    is_new: bool,
}

impl<'a> Splice<'a> {
    /// For sending this request on.
    #[must_use]
    pub fn new(request: &BidRequest<'a>) -> Self {
        let (place, is_new) = match request.tmax_place {
            TmaxPlace::Value(span) => (span, false),
            TmaxPlace::NewMember(at) => (Span { start: at, end: at }, true),
        };
        Self {
            body: request.raw,
            place,
            is_new,
        }
    }

    /// The bytes for a DSP that has `tmax_ms` to answer.
    #[must_use]
    pub fn encode<'b>(&self, tmax_ms: u32, arena: &'b Bump) -> &'b [u8] {
        let tmax = Tmax::new(tmax_ms, self.is_new);
        splice(
            self.body,
            &[Edit {
                span: self.place,
                text: tmax.text(),
            }],
            arena,
        )
    }
}

/// `120` or `"tmax":120,`.
struct Tmax {
    text: [u8; TMAX_BYTES_MAX],
    start: usize,
    end: usize,
}

const NAME: &[u8] = b"\"tmax\":";
/// The name, the ten digits of the largest `u32`, a comma.
const TMAX_BYTES_MAX: usize = NAME.len() + 10 + 1;

impl Tmax {
    /// Written from the back, as digits come.
    fn new(tmax_ms: u32, is_new: bool) -> Self {
        let mut tmax = Self {
            text: [b','; TMAX_BYTES_MAX],
            start: TMAX_BYTES_MAX - 1,
            end: TMAX_BYTES_MAX - 1,
        };
        let mut rest = tmax_ms;
        loop {
            tmax.start -= 1;
            #[allow(clippy::cast_possible_truncation)] // A digit.
            {
                tmax.text[tmax.start] = b'0' + (rest % 10) as u8;
            }
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if is_new {
            let name = tmax.start - NAME.len();
            tmax.text[name..tmax.start].copy_from_slice(NAME);
            tmax.start = name;
            tmax.end += 1;
        }
        tmax
    }

    fn text(&self) -> &[u8] {
        &self.text[self.start..self.end]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edits_are_made_in_their_places_and_nowhere_else() {
        let check = |edits: &[(usize, usize, &'static str)], wanted: &str| {
            let edit = |(start, end, text): &(usize, usize, &'static str)| Edit {
                span: Span {
                    start: *start,
                    end: *end,
                },
                text: text.as_bytes(),
            };
            let edits: Vec<Edit<'_>> = edits.iter().map(edit).collect();
            assert_eq!(
                std::str::from_utf8(splice(b"0123456789", &edits, &Bump::new())).unwrap(),
                wanted
            );
        };
        check(&[], "0123456789");
        check(&[(2, 4, "abc")], "01abc456789");
        check(
            &[(0, 0, "a"), (0, 1, ""), (5, 5, "b"), (10, 10, "c")],
            "a1234b56789c",
        );
        check(&[(0, 10, "")], "");
    }

    #[test]
    fn tmax_is_written_in_full() {
        for (tmax_ms, text) in [(0, "0"), (7, "7"), (120, "120"), (u32::MAX, "4294967295")] {
            assert_eq!(Tmax::new(tmax_ms, false).text(), text.as_bytes());
            assert_eq!(
                Tmax::new(tmax_ms, true).text(),
                format!(r#""tmax":{text},"#).as_bytes()
            );
        }
    }
}
