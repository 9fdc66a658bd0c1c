//! The OpenRTB 2.5 and 2.6 protocol: bytes in, borrowed and valid types out, and bytes again. Never touches a
//! socket, a clock or a price: amounts pass through as the text the sender wrote, and `money` reads them.
//!
//! A document is read once and never written anew. What we do not change, `ext` and unknown members above all,
//! travels byte for byte: [`Splice`] puts our `tmax` into the SSP's own bytes, [`write_response`] the clearing
//! price into the winner's.

pub mod codes;
mod cursor;
mod fields;
mod id_of;
mod marks;
mod parse;
mod pull;
mod read_request;
mod read_response;
mod request;
mod response;
mod seen;
mod splice;
mod strings;
#[cfg(test)]
mod twin;
mod validate;
mod write;

pub use id_of::IdOf;
pub use parse::{Limits, Parser};
pub use request::{AuctionType, BidRequest, Deal, DurFloor, DurationFloors, Imp, Inventory, Media};
pub use response::{BadBid, BadResponse, Bid, BidFault, BidResponse, BidText, SeatBid};
pub use splice::{Edit, Splice, splice};
pub use strings::StringText;
pub use validate::{Invalid, PROBLEMS_MAX, Problem, Rule, UnknownMember, Validation};
pub use write::{Seat, Win, write_no_bid, write_response, write_string};

use std::ops::Range;

/// The bytes `start..end` of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The first byte.
    pub start: usize,
    /// One past the last byte; equal to `start` for a place between two bytes.
    pub end: usize,
}

impl Span {
    /// For indexing.
    #[must_use]
    pub fn range(self) -> Range<usize> {
        self.start..self.end
    }

    /// The same bytes, counted from byte `origin` of the document.
    fn from(self, origin: usize) -> Self {
        Self {
            start: self.start - origin,
            end: self.end - origin,
        }
    }
}

/// A JSON number exactly as its sender wrote it: `0.5`, `1e-3`, `-0.0`. ASCII and grammatical, of any length and
/// size. Prices and floors stay in this form until `money` reads them: through a float they would change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NumberText<'a>(&'a [u8]);

impl<'a> NumberText<'a> {
    /// The digits as written.
    #[must_use]
    pub fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Below zero, judged by the text so that nothing is rounded first: `-0.0` is not, `-1e-999` is.
    #[must_use]
    pub fn is_negative(self) -> bool {
        let [b'-', rest @ ..] = self.0 else {
            return false;
        };
        let mantissa = rest.iter().take_while(|byte| !matches!(byte, b'e' | b'E'));
        mantissa.into_iter().any(|byte| matches!(byte, b'1'..=b'9'))
    }

    /// Its value if it has no fraction, at most the largest that fits: `300.0` and `3e2` are 300. No price is read this
    /// way.
    #[inline]
    fn whole(self) -> Option<i64> {
        let digit = |sum: i64, byte: &u8| {
            Some(10 * sum + i64::from(byte.checked_sub(b'0').filter(|digit| *digit < 10)?))
        };
        let short = self.0.len() <= WHOLE_DIGITS;
        let plain = short.then(|| self.0.iter().try_fold(0, digit)).flatten();
        plain.or_else(|| self.whole_at_length())
    }

    #[cold]
    fn whole_at_length(self) -> Option<i64> {
        let text = std::str::from_utf8(self.0).ok()?;
        text.parse().ok().or_else(|| whole(text.parse().ok()?))
    }
}

/// As many digits as always fit 64 bits.
const WHOLE_DIGITS: usize = 18;

/// The value of a number without a fraction. The cast saturates, which is what is wanted of integers past 64 bits.
#[allow(clippy::cast_possible_truncation)]
fn whole(number: f64) -> Option<i64> {
    (number.fract() == 0.0).then_some(number as i64)
}

#[cfg(test)]
mod tests {
    use super::NumberText;

    #[test]
    fn a_number_is_whole_without_a_fraction() {
        let rows = [
            ("0", Some(0)),
            ("-0", Some(0)),
            ("-0.0", Some(0)),
            ("300", Some(300)),
            ("300.0", Some(300)),
            ("3e2", Some(300)),
            ("3.001e3", Some(3001)),
            ("30e-1", Some(3)),
            ("-7", Some(-7)),
            ("1.5", None),
            ("1e-9", None),
            ("9223372036854775807", Some(i64::MAX)),
            ("18446744073709551616", Some(i64::MAX)),
            ("-1e30", Some(i64::MIN)),
            ("1e999", None),
        ];
        for (text, value) in rows {
            assert_eq!(NumberText(text.as_bytes()).whole(), value, "{text}");
        }
    }

    #[test]
    fn a_number_is_negative_only_if_it_is_below_zero() {
        let rows = [
            ("0", false),
            ("-0", false),
            ("-0.0", false),
            ("-0e9", false),
            ("-0.01", true),
            ("-1e-999", true),
        ];
        for (text, negative) in rows {
            assert_eq!(NumberText(text.as_bytes()).is_negative(), negative, "{text}");
        }
    }
}
