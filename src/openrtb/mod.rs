//! The OpenRTB 2.5 and 2.6 protocol: bytes in, borrowed and valid types out, and bytes again. Never touches a
//! socket, a clock or a price: amounts pass through as the text the sender wrote, and `money` reads them.
//!
//! A document is read once and never written anew. What we do not change, `ext` and unknown members above all,
//! travels byte for byte: [`Splice`] puts our `tmax` into the SSP's own bytes, [`write_response`] the clearing
//! price into the winner's.

pub mod codes;
mod cursor;
mod fields;
mod parse;
mod read_request;
mod read_response;
mod request;
mod response;
mod splice;
mod validate;
mod write;

pub use parse::{Limits, Parser};
pub use request::{AuctionType, BidRequest, Deal, DurFloor, DurationFloors, Imp, Inventory, Media};
pub use response::{BadBid, BadResponse, Bid, BidFault, BidResponse, BidText, SeatBid};
pub use splice::{Edit, Splice, splice};
pub use validate::{Invalid, PROBLEMS_MAX, Problem, Rule, UnknownMember, Validation};
pub use write::{Seat, Win, write_no_bid, write_response};

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
        let mantissa = self
            .0
            .split(|byte| matches!(byte, b'e' | b'E'))
            .next()
            .unwrap_or_default();
        mantissa.first() == Some(&b'-') && mantissa.iter().any(|byte| matches!(byte, b'1'..=b'9'))
    }
}

#[cfg(test)]
mod tests {
    use super::NumberText;

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
