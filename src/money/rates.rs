//! Exchange rates as exact ratios of integers, and conversions with a stated rounding.
//!
//! Refuses floats, refuses to guess a rate, and reads no file: whoever has the rates brings them as decimal
//! text. A table never changes; new rates are a new table.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU128;

use super::currency::CURRENCIES;
use super::decimal::{SIGNIFICANT_DIGITS_MAX, Significand};
use super::{Currency, Money, Rounding};

/// Powers of ten between which a rate lies. The widest gap between two currencies in use is about 10^6 (KWD,
/// IRR), an ounce of gold adds 10^4.
const MAGNITUDES: std::ops::RangeInclusive<isize> = -12..=12;

/// Bound of both parts of a rate; it leaves [`mul_div`] two bits of headroom.
const PART_MAX: u128 = 1 << 126;

/// How many units of one currency a unit of another is worth: an exact, reduced ratio.
///
/// Bids and floors go into the auction's currency by it and nothing comes back: the answer is in the auction's
/// currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    numerator: NonZeroU128,
    denominator: NonZeroU128,
}

impl Rate {
    /// The rate of a currency to itself.
    pub const ONE: Self = Self {
        numerator: NonZeroU128::MIN,
        denominator: NonZeroU128::MIN,
    };

    /// So many micros at this rate; `None` if the result exceeds 64-bit micros. Nothing in between is
    /// rounded.
    pub fn apply(self, micros: i64, rounding: Rounding) -> Option<i64> {
        let (magnitude, exact) = mul_div(micros.unsigned_abs(), self.numerator, self.denominator)?;
        if micros < 0 {
            return 0_i64.checked_sub_unsigned(magnitude);
        }
        let rounded = if !exact && rounding == Rounding::Up {
            magnitude.checked_add(1)?
        } else {
            magnitude
        };
        i64::try_from(rounded).ok()
    }

    /// The rate in the other direction, as exact.
    #[must_use]
    const fn inverse(self) -> Self {
        Self {
            numerator: self.denominator,
            denominator: self.numerator,
        }
    }

    /// Reads a rate's decimal text.
    fn parse(text: &str) -> Result<Self, BadRate> {
        let Some(rate) = Significand::parse(text.as_bytes()).map_err(|_| BadRate::NotANumber)? else {
            return Err(BadRate::TooManyDigits);
        };
        if rate.negative || rate.digits == 0 {
            return Err(BadRate::NotPositive);
        }
        let magnitude = rate
            .exponent
            .saturating_add_unsigned(rate.digits.to_string().len());
        if !MAGNITUDES.contains(&magnitude) {
            return Err(BadRate::OutOfRange);
        }
        let shift = 10_u128.checked_pow(u32::try_from(rate.exponent.unsigned_abs()).unwrap_or(u32::MAX));
        let shift = shift.ok_or(BadRate::OutOfRange)?;
        let digits = u128::from(rate.digits);
        let ratio = if rate.exponent < 0 {
            Self::reduced(digits, shift)
        } else {
            Self::reduced(digits.saturating_mul(shift), 1)
        };
        ratio.ok_or(BadRate::OutOfRange)
    }

    /// One rate after another; `None` if the exact ratio is too fine to keep.
    fn then(self, next: Self) -> Option<Self> {
        // Reduced crosswise first: most of two decimal ratios is the same powers of ten.
        let front = Self::reduced(self.numerator.get(), next.denominator.get())?;
        let back = Self::reduced(next.numerator.get(), self.denominator.get())?;
        let numerator = front.numerator.checked_mul(back.numerator)?;
        let denominator = front.denominator.checked_mul(back.denominator)?;
        Self::reduced(numerator.get(), denominator.get())
    }

    fn reduced(numerator: u128, denominator: u128) -> Option<Self> {
        let divisor = greatest_common_divisor(numerator, denominator)?;
        let (numerator, denominator) = (numerator / divisor, denominator / divisor);
        if numerator > PART_MAX || denominator > PART_MAX {
            return None;
        }
        Some(Self {
            numerator: NonZeroU128::new(numerator)?,
            denominator: NonZeroU128::new(denominator)?,
        })
    }
}

/// The rates of one moment: every pair of currencies that can be converted, worked out beforehand.
///
/// The rate from A to B is, first found first taken: 1 if they are the same; the rate given for A to B; the
/// inverse of the one given for B to A; the product of the rates through a third currency that has one with
/// both, the alphabetically first so that the order of the input does not matter. Longer chains are not
/// followed.
#[derive(Clone, Debug)]
pub struct RateTable {
    /// By the currency's ordinal: its row and column in `pairs`, if a rate names it.
    places: [Option<u8>; CURRENCIES],
    pairs: Vec<Vec<Option<Rate>>>,
}

impl RateTable {
    /// A table of `(from, to, rate)`: one unit of `from` is worth `rate` units of `to`, in decimal text.
    ///
    /// # Errors
    /// All that is wrong with the input, not just the first.
    pub fn new<'a>(
        rates: impl IntoIterator<Item = (&'a str, &'a str, &'a str)>,
    ) -> Result<Self, Vec<RateError>> {
        let mut given = BTreeMap::new();
        let mut errors = Vec::new();
        for (from, to, text) in rates {
            match read_triple(from, to, text) {
                Ok((pair, rate)) => {
                    if given.insert(pair, rate).is_some() {
                        errors.push(RateError::Repeated {
                            from: pair.0,
                            to: pair.1,
                        });
                    }
                }
                Err(error) => errors.push(error),
            }
        }
        let table = Self::with_all_pairs(&given, &mut errors);
        if errors.is_empty() { Ok(table) } else { Err(errors) }
    }

    /// The rate from one currency to another, if there is one. Constant time.
    pub fn rate(&self, from: Currency, to: Currency) -> Option<Rate> {
        if from == to {
            return Some(Rate::ONE);
        }
        let (row, column) = (self.places[from.ordinal()]?, self.places[to.ordinal()]?);
        self.pairs[usize::from(row)][usize::from(column)]
    }

    /// An amount in another currency, in micros, and the rate used.
    ///
    /// # Errors
    /// There is no rate, or the result exceeds 64-bit micros.
    pub fn convert(
        &self,
        amount: Money,
        to: Currency,
        rounding: Rounding,
    ) -> Result<(i64, Rate), ConvertError> {
        let from = amount.currency;
        let rate = self.rate(from, to).ok_or(ConvertError::NoRate { from, to })?;
        let micros = rate
            .apply(amount.micros, rounding)
            .ok_or(ConvertError::Overflow { from, to })?;
        Ok((micros, rate))
    }

    fn with_all_pairs(given: &BTreeMap<(Currency, Currency), Rate>, errors: &mut Vec<RateError>) -> Self {
        let known: BTreeSet<Currency> = given.keys().flat_map(|&(from, to)| [from, to]).collect();
        let mut table = Self::default();
        for (place, currency) in (0..=u8::MAX).zip(&known) {
            table.places[currency.ordinal()] = Some(place);
        }
        for &from in &known {
            let row = known.iter().map(|&to| {
                pair(given, &known, from, to).unwrap_or_else(|error| {
                    errors.push(error);
                    None
                })
            });
            table.pairs.push(row.collect());
        }
        table
    }
}

impl Default for RateTable {
    /// A table without rates: a currency converts to itself only.
    fn default() -> Self {
        Self {
            places: [None; CURRENCIES],
            pairs: Vec::new(),
        }
    }
}

/// Why an amount has no counterpart in another currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConvertError {
    /// No rate is known, also not through a third currency.
    #[error("no rate from {from} to {to}")]
    NoRate {
        /// The amount's currency.
        from: Currency,
        /// The currency asked for.
        to: Currency,
    },
    /// The result exceeds 64-bit micros.
    #[error("too large for 64-bit micros when converted from {from} to {to}")]
    Overflow {
        /// The amount's currency.
        from: Currency,
        /// The currency asked for.
        to: Currency,
    },
}

/// What is wrong with one rate of the input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RateError {
    /// A code that ISO 4217 does not list as active.
    #[error("{code:?} is not an active ISO 4217 currency")]
    UnknownCurrency {
        /// The code as given.
        code: String,
    },
    /// A rate that cannot be used.
    #[error("the rate from {from} to {to}, {text:?}, {why}")]
    BadRate {
        /// One unit of this currency ...
        from: Currency,
        /// ... was to be worth units of this one.
        to: Currency,
        /// The rate as given.
        text: String,
        /// What is wrong with it.
        why: BadRate,
    },
    /// Two rates for one pair in one direction.
    #[error("more than one rate from {from} to {to}")]
    Repeated {
        /// One unit of this currency ...
        from: Currency,
        /// ... is worth units of this one.
        to: Currency,
    },
    /// The exact rate through a third currency has more digits than are kept.
    #[error("the rates from {from} and to {to} have too many digits to be combined")]
    TooFine {
        /// The first currency of the chain.
        from: Currency,
        /// The last currency of the chain.
        to: Currency,
    },
}

/// What is wrong with a rate's text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRate {
    /// Not a number as JSON writes it.
    #[error("is not a number")]
    NotANumber,
    /// Zero or below.
    #[error("is not positive")]
    NotPositive,
    /// 10^12 or above, or below 10^-13.
    #[error("is not a rate between two currencies of this world")]
    OutOfRange,
    /// More significant digits than are kept.
    #[error("has more than {SIGNIFICANT_DIGITS_MAX} significant digits")]
    TooManyDigits,
    /// A currency is worth itself.
    #[error("is not 1, though a currency is worth itself")]
    NotOne,
}

fn read_triple(from: &str, to: &str, text: &str) -> Result<((Currency, Currency), Rate), RateError> {
    let currency = |code: &str| {
        Currency::from_bytes(code.as_bytes()).ok_or_else(|| RateError::UnknownCurrency {
            code: code.to_owned(),
        })
    };
    let (from, to) = (currency(from)?, currency(to)?);
    let bad = |why| RateError::BadRate {
        from,
        to,
        text: text.to_owned(),
        why,
    };
    let rate = Rate::parse(text).map_err(bad)?;
    if from == to && rate != Rate::ONE {
        return Err(bad(BadRate::NotOne));
    }
    Ok(((from, to), rate))
}

/// The rate of a pair by the table's rule, `None` if neither currency leads to the other.
fn pair(
    given: &BTreeMap<(Currency, Currency), Rate>,
    known: &BTreeSet<Currency>,
    from: Currency,
    to: Currency,
) -> Result<Option<Rate>, RateError> {
    if from == to {
        return Ok(Some(Rate::ONE));
    }
    let given_either_way = |a, b| {
        given
            .get(&(a, b))
            .copied()
            .or_else(|| given.get(&(b, a)).copied().map(Rate::inverse))
    };
    if let Some(rate) = given_either_way(from, to) {
        return Ok(Some(rate));
    }
    let through = |base: &Currency| Some((given_either_way(from, *base)?, given_either_way(*base, to)?));
    match known.iter().find_map(through) {
        None => Ok(None),
        Some((first, second)) => first
            .then(second)
            .map(Some)
            .ok_or(RateError::TooFine { from, to }),
    }
}

/// `value * numerator / denominator` rounded down, and whether nothing was cut off; `None` above 64 bits.
fn mul_div(value: u64, numerator: NonZeroU128, denominator: NonZeroU128) -> Option<(u64, bool)> {
    let (quotient, remainder) = match u128::from(value).checked_mul(numerator.get()) {
        Some(product) => (product / denominator, product % denominator),
        None => long_mul_div(value, numerator, denominator)?,
    };
    Some((u64::try_from(quotient).ok()?, remainder == 0))
}

/// The same where the product has more than 128 bits: `value` is taken bit by bit from the top, the product
/// so far being held as `quotient * denominator + remainder`.
fn long_mul_div(value: u64, numerator: NonZeroU128, denominator: NonZeroU128) -> Option<(u128, u128)> {
    let (whole, part) = (numerator.get() / denominator, numerator.get() % denominator);
    let (mut quotient, mut remainder) = (0_u128, 0_u128);
    for bit in (0..u64::BITS).rev() {
        quotient = quotient.checked_mul(2)?;
        remainder = remainder.checked_mul(2)?; // below 2 * PART_MAX
        if value >> bit & 1 == 1 {
            quotient = quotient.checked_add(whole)?;
            remainder = remainder.checked_add(part)?; // below 3 * PART_MAX, which is below 2^128
        }
        quotient = quotient.checked_add(remainder / denominator)?;
        remainder %= denominator;
    }
    Some((quotient, remainder))
}

/// Euclid's; `None` only for two zeros.
fn greatest_common_divisor(mut a: u128, mut b: u128) -> Option<NonZeroU128> {
    while let Some(divisor) = NonZeroU128::new(b) {
        (a, b) = (b, a % divisor);
    }
    NonZeroU128::new(a)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Rounding::{TowardZero, Up};
    use super::*;
    use crate::money::decimal;

    fn currency(code: &str) -> Currency {
        Currency::from_bytes(code.as_bytes()).unwrap()
    }

    fn micros(text: &str) -> i64 {
        decimal::parse_micros(text.as_bytes(), TowardZero).unwrap().micros
    }

    /// "EUR USD 1.1, USD JPY 149.5"
    fn table(rates: &str) -> Result<RateTable, Vec<RateError>> {
        let triples = rates
            .split(',')
            .map(|rate| rate.split_whitespace().collect::<Vec<_>>());
        RateTable::new(
            triples
                .filter(|triple| !triple.is_empty())
                .map(|triple| (triple[0], triple[1], triple[2]))
                .collect::<Vec<_>>(),
        )
    }

    /// "1.50 EUR -> USD: 1.65 1.65": rounded toward zero and up; or "none".
    fn check(rates: &str, conversion: &str) {
        let (question, answer) = conversion.split_once(": ").unwrap();
        let [amount, from, _, to] = question.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{conversion}")
        };
        let amount = Money {
            micros: micros(amount),
            currency: currency(from),
        };
        let table = table(rates).unwrap();
        let convert = |rounding| {
            table
                .convert(amount, currency(to), rounding)
                .map(|(micros, _)| micros)
        };
        if answer == "none" {
            assert_eq!(
                convert(TowardZero),
                Err(ConvertError::NoRate {
                    from: amount.currency,
                    to: currency(to)
                }),
                "{conversion}"
            );
        } else if answer == "overflow" {
            assert_eq!(
                convert(TowardZero),
                Err(ConvertError::Overflow {
                    from: amount.currency,
                    to: currency(to)
                }),
                "{conversion}"
            );
        } else {
            let (down, up) = answer.split_once(' ').unwrap();
            assert_eq!(
                (convert(TowardZero), convert(Up)),
                (Ok(micros(down)), Ok(micros(up))),
                "{rates}: {conversion}"
            );
        }
    }

    #[test]
    fn rates_are_looked_up_in_order() {
        // The same currency, without any rate.
        check("", "1.5 USD -> USD: 1.5 1.5");
        check("", "1.5 USD -> EUR: none");
        // As given, and exactly: a float would say 1.6500000000000001.
        check("EUR USD 1.1", "1.5 EUR -> USD: 1.65 1.65");
        check("USD USD 1.0, USD JPY 1.495e2", "2 USD -> JPY: 299 299");
        // The inverse.
        check("EUR USD 1.1", "1.1 USD -> EUR: 1 1");
        check("EUR USD 1.1", "1 USD -> EUR: 0.909090 0.909091");
        check("EUR USD 3", "1 USD -> EUR: 0.333333 0.333334");
        // What is given comes before the inverse of the other direction.
        check("EUR USD 1.1, USD EUR 0.9", "1 USD -> EUR: 0.9 0.9");
        // Through a third currency, in each combination of directions.
        check("USD EUR 0.9, USD JPY 150", "0.9 EUR -> JPY: 150 150");
        check("EUR USD 1.1, USD JPY 150", "1 EUR -> JPY: 165 165");
        check("EUR USD 1.1, JPY USD 0.01", "1 EUR -> JPY: 110 110");
        check("USD EUR 0.5, JPY USD 0.01", "1 EUR -> JPY: 200 200");
        // Alphabetically first of two: GBP, whatever the order given.
        check("EUR USD 2, USD JPY 2, EUR GBP 3, GBP JPY 3", "1 EUR -> JPY: 9 9");
        check("EUR GBP 3, GBP JPY 3, EUR USD 2, USD JPY 2", "1 EUR -> JPY: 9 9");
        // No longer chains.
        check("EUR USD 2, USD GBP 2, GBP JPY 2", "1 EUR -> JPY: none");
        check("EUR USD 2", "1 EUR -> JPY: none");
    }

    #[test]
    fn nothing_is_rounded_on_the_way() {
        // Through USD, 0.333333... would be cut first by a table of decimals.
        check("USD EUR 3, USD JPY 3", "1 EUR -> JPY: 1 1");
        check("USD EUR 0.000007, USD JPY 0.000007", "1 EUR -> JPY: 1 1");
        // As feeds print 64-bit floats.
        check(
            "USD EUR 0.92345678901234567, USD JPY 149.12345678901234",
            "0.923456 EUR -> JPY: 149.123329 149.123330",
        );
        check(
            "EUR USD 1.0812345678901234, USD JPY 149.12345678901234",
            "1000 EUR -> JPY: 161237.436363 161237.436364",
        );
        check("USD IRR 42000", "9223372036854.775807 USD -> IRR: overflow");
        check(
            "USD IRR 42000",
            "9223372036854.775807 IRR -> USD: 219604096.115589 219604096.115590",
        );
        check("EUR USD 1.1", "-1.0000009 EUR -> USD: -1.1 -1.1");
        check("EUR USD 3", "-1 USD -> EUR: -0.333333 -0.333333");
    }

    #[test]
    fn all_that_is_wrong_is_reported() {
        let errors = table(
            "EUR usd 1, \
XXX EUR 2, \
EUR USD 0, \
EUR GBP -1, \
EUR JPY x, \
GBP GBP 1.1, \
USD CAD 1e13, \
USD CAD 1e-14, \
USD CHF 0.1234567890123456789, \
USD SEK 10, \
USD SEK 10, \
USD NOK 1e999999",
        );
        let said: Vec<String> = errors.unwrap_err().iter().map(ToString::to_string).collect();
        assert_eq!(
            said,
            [
                r#""usd" is not an active ISO 4217 currency"#,
                r#""XXX" is not an active ISO 4217 currency"#,
                r#"the rate from EUR to USD, "0", is not positive"#,
                r#"the rate from EUR to GBP, "-1", is not positive"#,
                r#"the rate from EUR to JPY, "x", is not a number"#,
                r#"the rate from GBP to GBP, "1.1", is not 1, though a currency is worth itself"#,
                r#"the rate from USD to CAD, "1e13", is not a rate between two currencies of this world"#,
                r#"the rate from USD to CAD, "1e-14", is not a rate between two currencies of this world"#,
                r#"the rate from USD to CHF, "0.1234567890123456789", has more than 18 significant digits"#,
                "more than one rate from USD to SEK",
                r#"the rate from USD to NOK, "1e999999", is not a rate between two currencies of this world"#,
            ]
        );
        let too_fine = table("EUR USD 0.000000000123456789012345679, USD JPY 0.000000000123456789012345679")
            .unwrap_err();
        assert!(
            matches!(
                too_fine[..],
                [RateError::TooFine { .. }, RateError::TooFine { .. }]
            ),
            "{too_fine:?}"
        );
    }

    /// Schoolbook multiplication and bitwise division on 32-bit limbs, lowest first.
    fn twin_mul_div(value: u64, numerator: u128, denominator: u128) -> (Option<u64>, bool) {
        let limbs = |n: u128| (0..4).map(move |i| u64::try_from(n >> (32 * i) & 0xffff_ffff).unwrap());
        let mut product = [0_u64; 8];
        for (i, a) in limbs(u128::from(value)).enumerate() {
            let mut carry = 0;
            for (j, b) in limbs(numerator).enumerate().filter(|(j, _)| i + j < 8) {
                let sum = product[i + j] + a * b + carry;
                (product[i + j], carry) = (sum & 0xffff_ffff, sum >> 32);
            }
            if i + 4 < 8 {
                product[i + 4] += carry;
            }
        }
        let (mut quotient, mut remainder) = (Some(0_u64), 0_u128);
        for bit in (0..256).rev() {
            remainder = remainder << 1 | u128::from(product[bit / 32] >> (bit % 32) & 1);
            let one = remainder >= denominator;
            remainder -= if one { denominator } else { 0 };
            quotient = quotient
                .and_then(|q| q.checked_mul(2))
                .map(|q| q + u64::from(one));
        }
        (quotient, remainder == 0)
    }

    fn any_part() -> impl Strategy<Value = NonZeroU128> {
        (1..=PART_MAX, 0_u32..126)
            .prop_map(|(part, shift)| NonZeroU128::new(part >> shift).unwrap_or(NonZeroU128::MIN))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn long_and_short_division_agree_with_the_twin(
            value: u64, shift in 0_u32..64, numerator in any_part(), denominator in any_part(),
        ) {
            let value = value >> shift;
            let (quotient, exact) = twin_mul_div(value, numerator.get(), denominator.get());
            let expected = quotient.map(|quotient| (quotient, exact));
            prop_assert_eq!(mul_div(value, numerator, denominator), expected);
            if let Some((quotient, remainder)) = long_mul_div(value, numerator, denominator) {
                let long = u64::try_from(quotient).ok().map(|quotient| (quotient, remainder == 0));
                prop_assert_eq!(long, expected);
            }
        }

        #[test]
        fn up_is_at_most_a_micro_above_toward_zero(
            amount: i64, digits in 1_u64..1_000_000_000, exponent in -12_i32..=0,
        ) {
            let rate = Rate::parse(&format!("{digits}e{exponent}"));
            prop_assume!(rate.is_ok());
            let rate = rate.unwrap();
            if let (Some(down), Some(up)) = (rate.apply(amount, TowardZero), rate.apply(amount, Up)) {
                prop_assert!(up - down == 0 || up - down == 1 && amount > 0);
            }
        }

        #[test]
        fn a_converted_bid_is_worth_no_more_and_a_converted_floor_no_less(
            amount in 0..=i64::MAX, shift in 0_u32..63, digits in 1_u64..1_000_000_000_000, exponent in -18_i32..=-3,
        ) {
            let rate = Rate::parse(&format!("{digits}e{exponent}"));
            prop_assume!(rate.is_ok());
            let (rate, amount) = (rate.unwrap(), amount >> shift);
            if let Some(bid) = rate.apply(amount, TowardZero) {
                prop_assert!(rate.inverse().apply(bid, TowardZero).is_none_or(|back| back <= amount));
            }
            if let Some(floor) = rate.apply(amount, Up) {
                prop_assert!(rate.inverse().apply(floor, Up).is_none_or(|back| back >= amount));
            }
        }
    }
}
