//! A price's text: read as a slow twin reads it, which moves the point in the text itself; and what is written reads back.

use corebid::money::decimal::{NUMBER_BYTES_MAX, TEXT_BYTES_MAX, parse_micros, write_micros};
use corebid::money::{DecimalError, ParsedMicros, Rounding};
use serde::de::IgnoredAny;

/// See the module's description.
pub fn check(text: &[u8]) {
    for rounding in [Rounding::TowardZero, Rounding::Up] {
        let parsed = parse_micros(text, rounding);
        assert_eq!(parsed, twin(text, rounding), "{rounding:?}");
        let Ok(ParsedMicros { micros, .. }) = parsed else {
            continue;
        };
        let mut buffer = [0; TEXT_BYTES_MAX];
        let written = write_micros(micros, &mut buffer).as_bytes();
        let exact = true;
        assert_eq!(
            parse_micros(written, rounding),
            Ok(ParsedMicros { micros, exact })
        );
    }
}

/// The digits as text, the point moved by text, the comparison with 64 bits by text: nothing can overflow.
fn twin(text: &[u8], rounding: Rounding) -> Result<ParsedMicros, DecimalError> {
    if text.len() > NUMBER_BYTES_MAX {
        return Err(DecimalError::TooLong);
    }
    let starts = matches!(text.first(), Some(b'-' | b'0'..=b'9'));
    let ends = text.last().is_some_and(u8::is_ascii_digit);
    if !starts || !ends || serde_json::from_slice::<IgnoredAny>(text).is_err() {
        return Err(DecimalError::NotANumber);
    }
    let text = std::str::from_utf8(text).unwrap();
    let (negative, text) = match text.strip_prefix('-') {
        Some(text) => (true, text),
        None => (false, text),
    };
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let shift = places(exponent) + 6;
    // More zeros than the point can move over.
    let zeros = "0".repeat(PLACES_MAX + 6);
    let digits = format!("{zeros}{integer}{fraction}{zeros}");
    let point = (zeros.len() + integer.len()).checked_add_signed(shift).unwrap();
    let (kept, dropped) = digits.split_at(point);
    let exact = dropped.bytes().all(|digit| digit == b'0');
    let mut kept = kept.trim_start_matches('0').to_owned();
    if !exact && !negative && rounding == Rounding::Up {
        kept = incremented(&kept);
    }
    let least_too_large = if negative {
        "9223372036854775809"
    } else {
        "9223372036854775808"
    };
    if (kept.len(), kept.as_str()) >= (least_too_large.len(), least_too_large) {
        return Err(DecimalError::Overflow);
    }
    let signed = format!("{}{kept:0>1}", if negative { "-" } else { "" });
    Ok(ParsedMicros {
        micros: signed.parse().unwrap(),
        exact,
    })
}

/// A point moved further than this has nothing but zeros on one side of it.
const PLACES_MAX: usize = 2 * NUMBER_BYTES_MAX;

/// How far an exponent moves the point.
fn places(exponent: &str) -> isize {
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, exponent.strip_prefix('+').unwrap_or(exponent)),
    };
    let digits = digits.trim_start_matches('0');
    let most = isize::try_from(PLACES_MAX).unwrap();
    let magnitude = match digits.len() {
        0 => 0,
        1..=6 => digits.parse().unwrap(),
        _ => most,
    };
    sign * magnitude.min(most)
}

/// One more, by hand.
fn incremented(digits: &str) -> String {
    let mut digits: Vec<u8> = format!("0{digits}").into_bytes();
    for digit in digits.iter_mut().rev() {
        if *digit < b'9' {
            *digit += 1;
            break;
        }
        *digit = b'0';
    }
    String::from_utf8(digits)
        .unwrap()
        .trim_start_matches('0')
        .to_owned()
}
