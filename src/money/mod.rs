//! Money that cannot be mixed up: integer micros with a currency, read from decimal text and written back to
//! it.
//!
//! Refuses floats, refuses to compare or add two currencies, and refuses to round silently: whoever may lose
//! a fraction says in which direction. Knows nothing of bids and auctions.
#![deny(clippy::float_arithmetic, clippy::as_conversions)]
// Tests are built with overflow checks and may write `+`.
#![cfg_attr(not(test), deny(clippy::arithmetic_side_effects))]

pub mod currency;
pub mod decimal;
pub mod rates;

use std::fmt;

pub use currency::Currency;
pub use decimal::{DecimalError, ParsedMicros};
pub use rates::{ConvertError, Rate, RateTable};

/// Which neighbour an amount between two micros becomes. There is no "nearest": a nearest price is one that
/// somebody did not agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// For bids: nobody pays more than offered.
    TowardZero,
    /// For floors, toward positive infinity: nobody sells below the floor.
    Up,
}

/// An amount as the wire names it: CPM (the price of 1,000 impressions) in millionths of a currency unit.
///
/// Has no order and no `+`: amounts of two currencies do not compare, so neither operator can exist without a
/// panic or a wrong answer. To compare, convert to a [`Cpm`] with a [`RateTable`].
///
/// ```compile_fail
/// use corebid::money::{Currency, Money};
/// let floor = Money { micros: 850_000, currency: Currency::USD };
/// let bid = Money { micros: 900_000, currency: Currency::EUR };
/// assert!(bid >= floor);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Money {
    /// Millionths of one unit of `currency`.
    pub micros: i64,
    /// What the micros are millionths of.
    pub currency: Currency,
}

impl Money {
    /// Reads a JSON number's text as an amount of `currency`; see [`decimal::parse_micros`] for what it
    /// accepts. The flag tells whether the text was exact to the micro.
    pub fn parse(text: &[u8], currency: Currency, rounding: Rounding) -> Result<(Self, bool), DecimalError> {
        let ParsedMicros { micros, exact } = decimal::parse_micros(text, rounding)?;
        Ok((Self { micros, currency }, exact))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; decimal::TEXT_BYTES_MAX];
        write!(
            f,
            "{} {}",
            decimal::write_micros(self.micros, &mut buffer),
            self.currency
        )
    }
}

/// A price inside one auction: CPM in micros of the auction's currency, never negative.
///
/// It carries no currency because inside an auction there is only one; it is made where an amount enters the
/// auction, by [`RateTable::convert`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cpm(i64);

impl Cpm {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// The largest price there is: about 9.2 trillion units.
    pub const MAX: Self = Self(i64::MAX);

    /// A price of so many micros; `None` if negative.
    pub const fn from_micros(micros: i64) -> Option<Self> {
        if micros < 0 { None } else { Some(Self(micros)) }
    }

    /// Micros of the auction's currency, never negative.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The sum, or [`Cpm::MAX`] where the sum is greater: for bounds that are capped anyway.
    #[must_use]
    pub const fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Cpm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; decimal::TEXT_BYTES_MAX];
        f.pad(decimal::write_micros(self.0, &mut buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usd(micros: i64) -> Money {
        Money {
            micros,
            currency: Currency::USD,
        }
    }

    #[test]
    fn a_price_is_never_negative_and_stops_at_the_end() {
        assert_eq!(Cpm::from_micros(-1), None);
        assert_eq!(Cpm::from_micros(i64::MIN), None);
        assert_eq!(Cpm::from_micros(0), Some(Cpm::ZERO));
        assert_eq!(Cpm::from_micros(i64::MAX), Some(Cpm::MAX));
        assert_eq!(Cpm::MAX.saturating_add(Cpm::MAX), Cpm::MAX);
    }

    #[test]
    fn amounts_show_as_plain_decimals() {
        assert_eq!(usd(850_000).to_string(), "0.85 USD");
        assert_eq!(format!("{:>8}", Cpm(900_001)), "0.900001");
        assert_eq!(Cpm::MAX.to_string(), "9223372036854.775807");
    }
}
