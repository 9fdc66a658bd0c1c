//! Decimal text to micros and back, digit by digit. Refuses floats, and whatever JSON would not call a
//! number.
//!
//! An exponent is a shift of the point, never a power that is multiplied out, so `1e999999999` costs no more
//! than `1e9`; the text's length is limited before it is read.

use std::io::Write;

use super::Rounding;

/// Longest number text that is read, in bytes. The longest a plain printer makes of a 64-bit float is the
/// smallest one, `-0.` and 324 digits, so a longer number is not one that somebody computed.
pub const NUMBER_BYTES_MAX: usize = 400;

/// Longest text [`write_micros`] makes: `-9223372036854.775808`.
pub const TEXT_BYTES_MAX: usize = 21;

/// How far the decimal point moves between units and micros.
const MICRO_DIGITS: usize = 6;
const MICROS_PER_UNIT: u64 = 1_000_000;

/// Most significant digits of a [`Significand`]: what always fits 64 bits. A 64-bit float prints 17.
pub(super) const SIGNIFICANT_DIGITS_MAX: usize = 18;

/// An amount as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedMicros {
    /// Millionths of a unit, rounded as the caller said.
    pub micros: i64,
    /// False if digits beyond the sixth decimal were rounded away.
    pub exact: bool,
}

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecimalError {
    /// Not a number as JSON writes it (RFC 8259 §6): also for `+1`, `.5`, `5.`, `007`, `NaN`, `"1"` and
    /// spaces.
    #[error("not a JSON number")]
    NotANumber,
    /// Longer than [`NUMBER_BYTES_MAX`].
    #[error("a number of more than {NUMBER_BYTES_MAX} bytes")]
    TooLong,
    /// Outside the range of 64-bit micros, about 9.2 trillion units.
    #[error("too large for 64-bit micros")]
    Overflow,
}

/// Reads a JSON number's text, such as `0.85`, `-1` or `1.5E2`, as micros.
///
/// What is finer than a micro is rounded as the caller says and reported by [`ParsedMicros::exact`]. `-0` is
/// 0.
pub fn parse_micros(text: &[u8], rounding: Rounding) -> Result<ParsedMicros, DecimalError> {
    if let Some(micros) = plain_micros(text) {
        return Ok(ParsedMicros { micros, exact: true });
    }
    let number = Number::scan(text)?;
    let digits_before_point = number
        .integer
        .len()
        .saturating_add(MICRO_DIGITS)
        .saturating_add_signed(number.exponent);
    let mut micros: i64 = 0;
    let mut exact = true;
    for (place, digit) in number.digits().enumerate() {
        if place < digits_before_point {
            micros = micros.checked_mul(10).ok_or(DecimalError::Overflow)?;
            let next = if number.negative {
                micros.checked_sub(digit)
            } else {
                micros.checked_add(digit)
            };
            micros = next.ok_or(DecimalError::Overflow)?;
        } else {
            exact &= digit == 0;
        }
    }
    for _ in number.digits().count()..digits_before_point {
        if micros == 0 {
            break; // Zeros behind a zero, perhaps a billion of them; behind any other digit 19 overflow.
        }
        micros = micros.checked_mul(10).ok_or(DecimalError::Overflow)?;
    }
    if !exact && !number.negative && rounding == Rounding::Up {
        micros = micros.checked_add(1).ok_or(DecimalError::Overflow)?;
    }
    Ok(ParsedMicros { micros, exact })
}

/// `0.85`, `12`: most amounts are so short that nothing can overflow, with no sign, no exponent and at most six decimals.
/// Leaves all others alone, also what is no number.
fn plain_micros(text: &[u8]) -> Option<i64> {
    if text.len() > PLAIN_BYTES_MAX || matches!(text, [b'0', b'0'..=b'9', ..]) {
        return None;
    }
    let mut units_and_decimals: i64 = 0;
    let mut point = None;
    for (place, byte) in text.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                units_and_decimals = units_and_decimals
                    .checked_mul(10)?
                    .checked_add(i64::from(digit_value(*byte)))?;
            }
            b'.' if place > 0 && point.is_none() => point = Some(place),
            _ => return None,
        }
    }
    let decimals = match point {
        None if text.is_empty() => return None,
        None => 0,
        // At least one.
        Some(point) => text.len().checked_sub(point)?.checked_sub(2)?.checked_add(1)?,
    };
    let scale = POWERS_OF_TEN.get(MICRO_DIGITS.checked_sub(decimals)?)?;
    units_and_decimals.checked_mul(*scale)
}

/// 12 digits and a point: micros of up to 18 digits fit 64 bits.
const PLAIN_BYTES_MAX: usize = 13;
const POWERS_OF_TEN: [i64; MICRO_DIGITS + 1] = [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000];

/// Writes micros into the caller's buffer as a plain decimal of units: exact, no exponent, no trailing zeros,
/// no point without decimals. What it writes, [`parse_micros`] reads back exactly.
#[expect(
    clippy::expect_used,
    reason = "a buffer of TEXT_BYTES_MAX holds every i64, and only ASCII goes in"
)]
pub fn write_micros(micros: i64, buffer: &mut [u8; TEXT_BYTES_MAX]) -> &str {
    let sign = if micros < 0 { "-" } else { "" };
    let units = micros.unsigned_abs() / MICROS_PER_UNIT;
    let fraction = micros.unsigned_abs() % MICROS_PER_UNIT;
    let mut free = buffer.as_mut_slice();
    write!(free, "{sign}{units}.{fraction:06}").expect("the buffer holds every amount");
    let written = TEXT_BYTES_MAX.saturating_sub(free.len());
    let text = str::from_utf8(&buffer[..written]).expect("sign, digits and a point");
    text.trim_end_matches('0').trim_end_matches('.')
}

/// A positive or negative number as an integer times a power of ten, without loss: what an exchange rate is
/// read as.
pub(super) struct Significand {
    pub(super) negative: bool,
    /// At most [`SIGNIFICANT_DIGITS_MAX`] digits, the last of them not zero; 0 only for zero.
    pub(super) digits: u64,
    /// The number is `digits` times ten to the power of this.
    pub(super) exponent: isize,
}

impl Significand {
    /// Reads a JSON number's text; `None` inside if it has more significant digits than fit.
    pub(super) fn parse(text: &[u8]) -> Result<Option<Self>, DecimalError> {
        let number = Number::scan(text)?;
        let all: String = number
            .integer
            .iter()
            .chain(number.fraction)
            .copied()
            .map(char::from)
            .collect();
        let trimmed = all.trim_end_matches('0');
        let zeros_behind = all.len().saturating_sub(trimmed.len());
        let significant = trimmed.trim_start_matches('0');
        if significant.len() > SIGNIFICANT_DIGITS_MAX {
            return Ok(None);
        }
        let digits = significant.parse().unwrap_or(0); // no digits are left of zero only
        let exponent = number
            .exponent
            .saturating_sub_unsigned(number.fraction.len())
            .saturating_add_unsigned(zeros_behind);
        Ok(Some(Self {
            negative: number.negative,
            digits,
            exponent,
        }))
    }
}

/// A JSON number taken apart, nothing computed but the exponent.
struct Number<'a> {
    negative: bool,
    /// ASCII digits before the point, at least one.
    integer: &'a [u8],
    /// ASCII digits behind the point, perhaps none.
    fraction: &'a [u8],
    /// How far the point moves to the right; absurd exponents saturate, which changes nothing: every number
    /// of [`NUMBER_BYTES_MAX`] is out of range, or zero, long before.
    exponent: isize,
}

impl<'a> Number<'a> {
    fn scan(text: &'a [u8]) -> Result<Self, DecimalError> {
        if text.len() > NUMBER_BYTES_MAX {
            return Err(DecimalError::TooLong);
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            rest => (false, rest),
        };
        let (integer, rest) = split_digits(rest)?;
        if integer.len() > 1 && integer.starts_with(b"0") {
            return Err(DecimalError::NotANumber);
        }
        let (fraction, rest) = match rest {
            [b'.', rest @ ..] => split_digits(rest)?,
            rest => (&[][..], rest),
        };
        let exponent = match rest {
            [] => 0,
            [b'e' | b'E', rest @ ..] => scan_exponent(rest)?,
            _ => return Err(DecimalError::NotANumber),
        };
        Ok(Self {
            negative,
            integer,
            fraction,
            exponent,
        })
    }

    /// The values of all digits, without the point.
    fn digits(&self) -> impl Iterator<Item = i64> + Clone {
        self.integer
            .iter()
            .chain(self.fraction)
            .map(|ascii| i64::from(digit_value(*ascii)))
    }
}

/// The digits a text begins with, at least one, and what follows them.
fn split_digits(text: &[u8]) -> Result<(&[u8], &[u8]), DecimalError> {
    let len = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if len == 0 {
        Err(DecimalError::NotANumber)
    } else {
        Ok(text.split_at(len))
    }
}

fn scan_exponent(text: &[u8]) -> Result<isize, DecimalError> {
    let (negative, rest) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        rest => (false, rest),
    };
    let (digits, []) = split_digits(rest)? else {
        return Err(DecimalError::NotANumber);
    };
    let magnitude = digits.iter().fold(0_isize, |sum, ascii| {
        sum.saturating_mul(10)
            .saturating_add(isize::from(digit_value(*ascii)))
    });
    Ok(if negative {
        magnitude.saturating_neg()
    } else {
        magnitude
    })
}

/// The value of an ASCII digit is its low half: `b'0'` is 0x30.
const fn digit_value(ascii: u8) -> u8 {
    ascii & 0x0f
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::Rounding::{TowardZero, Up};
    use super::*;

    fn check(text: &str, down: i64, up: i64) {
        let exact = down == up;
        assert_eq!(
            parse_micros(text.as_bytes(), TowardZero),
            Ok(ParsedMicros { micros: down, exact }),
            "{text} toward zero"
        );
        assert_eq!(
            parse_micros(text.as_bytes(), Up),
            Ok(ParsedMicros { micros: up, exact }),
            "{text} up"
        );
    }

    fn refuse(text: &str, error: DecimalError) {
        let shown = &text[..text.len().min(30)];
        assert_eq!(parse_micros(text.as_bytes(), TowardZero), Err(error), "{shown}");
        assert_eq!(parse_micros(text.as_bytes(), Up), Err(error), "{shown}");
    }

    #[test]
    fn reads_json_numbers() {
        check("0", 0, 0);
        check("-0", 0, 0);
        check("-0.0e5", 0, 0);
        check("1", 1_000_000, 1_000_000);
        check("0.85", 850_000, 850_000);
        check("1.10", 1_100_000, 1_100_000);
        check("0.000001", 1, 1);
        check("-2.5", -2_500_000, -2_500_000);
        check("14000", 14_000_000_000, 14_000_000_000);
        check("1e-3", 1_000, 1_000);
        check("1.5E2", 150_000_000, 150_000_000);
        check("1.5E+2", 150_000_000, 150_000_000);
        check("15e-00000000000000000000000000007", 1, 2);
        check("0.0000015e1", 15, 15);
        check("1e-6", 1, 1);
        check("123.456e-3", 123_456, 123_456);
        check("100000000000000000000e-20", 1_000_000, 1_000_000);
    }

    #[test]
    fn rounds_as_told() {
        check("0.0000001", 0, 1);
        check("0.0000009", 0, 1);
        check("1.0000001", 1_000_000, 1_000_001);
        check("1.00000010", 1_000_000, 1_000_001);
        check("1.0000000000000000000000000000000000000000", 1_000_000, 1_000_000);
        check("1.0000000000000000000000000000000000000001", 1_000_000, 1_000_001);
        check("0.30000000000000004", 300_000, 300_001);
        check("1e-7", 0, 1);
        check("1e-999999999", 0, 1);
        check("999999e-12", 0, 1);
        let negative = |rounding| parse_micros(b"-1.0000009", rounding).unwrap();
        assert_eq!(
            negative(TowardZero),
            ParsedMicros {
                micros: -1_000_000,
                exact: false
            }
        );
        assert_eq!(
            negative(Up),
            ParsedMicros {
                micros: -1_000_000,
                exact: false
            }
        );
    }

    #[test]
    fn ends_where_64_bits_end() {
        check("9223372036854.775807", i64::MAX, i64::MAX);
        check("-9223372036854.775808", i64::MIN, i64::MIN);
        check("9223372036854775807e-6", i64::MAX, i64::MAX);
        refuse("9223372036854.775808", DecimalError::Overflow);
        refuse("-9223372036854.775809", DecimalError::Overflow);
        refuse("10000000000000", DecimalError::Overflow);
        refuse("1e13", DecimalError::Overflow);
        refuse("1e300", DecimalError::Overflow);
        refuse("1e999999999", DecimalError::Overflow);
        refuse("-1e99999999999999999999999999999", DecimalError::Overflow);
        check("0e999999999", 0, 0);
        check("0.000e99999999999999999999999999999", 0, 0);
        assert_eq!(
            parse_micros(b"9223372036854.7758071", TowardZero).map(|p| p.micros),
            Ok(i64::MAX)
        );
        assert_eq!(
            parse_micros(b"9223372036854.7758071", Up),
            Err(DecimalError::Overflow)
        );
    }

    #[test]
    fn refuses_what_json_would_not_call_a_number() {
        let strange = [
            "",
            "-",
            "+1",
            ".5",
            "5.",
            "-.5",
            "1.e5",
            "007",
            "00",
            "-01",
            "1e",
            "1e+",
            "1e-",
            "e5",
            "1e5.0",
            "1e5e5",
            "1.2.3",
            "--1",
            "1-",
            " 1",
            "1 ",
            "1,5",
            "1_000",
            "0x10",
            "NaN",
            "Infinity",
            "-Infinity",
            "null",
            "\"1\"",
            "1\0",
            "١",
        ];
        for text in strange {
            refuse(text, DecimalError::NotANumber);
        }
    }

    #[test]
    fn absurd_lengths_are_refused_unread() {
        refuse(&"9".repeat(100_000), DecimalError::TooLong);
        refuse(&format!("0.{}", "0".repeat(100_000)), DecimalError::TooLong);
        refuse(&format!("1e{}", "9".repeat(100_000)), DecimalError::TooLong);
        refuse(&"9".repeat(NUMBER_BYTES_MAX), DecimalError::Overflow);
        check(&format!("0.{}", "0".repeat(NUMBER_BYTES_MAX - 2)), 0, 0);
        check(&format!("0.{}1", "0".repeat(NUMBER_BYTES_MAX - 3)), 0, 1);
    }

    #[test]
    fn writes_plain_decimals() {
        let check =
            |micros: i64, text: &str| assert_eq!(write_micros(micros, &mut [0; TEXT_BYTES_MAX]), text);
        check(0, "0");
        check(1, "0.000001");
        check(-1, "-0.000001");
        check(900_001, "0.900001");
        check(850_000, "0.85");
        check(1_000_000, "1");
        check(10_000_000, "10");
        check(-2_500_000, "-2.5");
        check(i64::MAX, "9223372036854.775807");
        check(i64::MIN, "-9223372036854.775808");
    }

    /// The twin: moves the point in the text itself, lets `str::parse` do the arithmetic.
    fn twin(negative: bool, integer: &str, fraction: &str, exponent: i32, up: bool) -> Option<i64> {
        let zeros = "0".repeat(60);
        let digits = format!("{zeros}{integer}{fraction}{zeros}");
        let point = usize::try_from(60 + i32::try_from(integer.len()).unwrap() + exponent + 6).unwrap();
        let (kept, dropped) = digits.split_at(point);
        let magnitude = kept.trim_start_matches('0').parse::<i128>().unwrap_or(0);
        let inexact = dropped.contains(|digit| digit != '0');
        let signed = if negative {
            -magnitude
        } else {
            magnitude + i128::from(up && inexact)
        };
        i64::try_from(signed).ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn agrees_with_the_twin(
            negative: bool,
            integer in "0|[1-9][0-9]{0,14}",
            fraction in "[0-9]{0,20}",
            exponent in prop::option::of(-30_i32..=12),
            e in "[eE]",
        ) {
            let sign = if negative { "-" } else { "" };
            let point = if fraction.is_empty() { "" } else { "." };
            let tail = exponent.map_or_else(String::new, |exponent| format!("{e}{exponent}"));
            let exponent = exponent.unwrap_or(0);
            let text = format!("{sign}{integer}{point}{fraction}{tail}");
            for rounding in [TowardZero, Up] {
                let parsed = parse_micros(text.as_bytes(), rounding).map(|parsed| parsed.micros).ok();
                let expected = twin(negative, &integer, &fraction, exponent, rounding == Up);
                prop_assert_eq!(parsed, expected, "{}", text);
            }
        }

        #[test]
        fn what_is_written_reads_back(micros: i64) {
            let mut buffer = [0; TEXT_BYTES_MAX];
            let text = write_micros(micros, &mut buffer);
            let read = parse_micros(text.as_bytes(), TowardZero);
            prop_assert_eq!(read, Ok(ParsedMicros { micros, exact: true }));
            prop_assert!(!text.contains('.') || !text.ends_with(['0', '.']), "{}", text);
        }

        #[test]
        fn serde_json_calls_the_same_texts_numbers(
            text in "[0-9.+eE -]{0,9}|-?[0-9]{1,3}([.][0-9]{1,3})?([eE][+-]?[0-9]{1,2})?",
        ) {
            let number = parse_micros(text.as_bytes(), TowardZero).map(drop) != Err(DecimalError::NotANumber);
            let spaced = text.contains(' '); // serde skips spaces; we are given the bare token
            let json = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
            prop_assert_eq!(number, json && !spaced, "{}", text);
        }
    }
}
