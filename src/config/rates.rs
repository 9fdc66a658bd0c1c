//! The rate file: who converts what into what. Rates stay decimal text here, because a float on the way would
//! change the money; `money` makes exact numbers of them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// Conversion rates, as Prebid's currency files list them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rates {
    /// When the rates were valid, as the file says.
    pub as_of: Option<String>,
    /// Each pair once, sorted.
    pub rates: Vec<Rate>,
}

/// One unit of `from` is `rate` units of `to`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// ISO 4217 code.
    pub from: String,
    /// ISO 4217 code.
    pub to: String,
    /// A positive JSON number, digit for digit as the file has it.
    pub rate: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RatesFile<'a> {
    data_as_of: Option<String>,
    #[serde(borrow)]
    conversions: BTreeMap<String, BTreeMap<String, &'a RawValue>>,
}

impl Rates {
    /// Reads `{"dataAsOf": "2026-11-20", "conversions": {"USD": {"EUR": 0.92}}}`. Other members are ignored:
    /// the files of others have some. The errors say where.
    pub(super) fn parse(text: &str) -> Result<Self, Vec<String>> {
        let file: RatesFile<'_> = serde_json::from_str(text).map_err(|error| vec![error.to_string()])?;
        let mut rates = Vec::new();
        let mut errors = Vec::new();
        for (from, conversions) in &file.conversions {
            for (to, rate) in conversions {
                let rate = rate.get();
                if let Some(code) = [from, to].into_iter().find(|code| !is_currency(code)) {
                    errors.push(format!(
                        "{from} to {to}: {code:?} is not three upper-case letters"
                    ));
                } else if is_positive_number(rate) {
                    rates.push(Rate {
                        from: from.clone(),
                        to: to.clone(),
                        rate: rate.to_owned(),
                    });
                } else {
                    errors.push(format!("{from} to {to}: {rate} is not a number above zero"));
                }
            }
        }
        if errors.is_empty() {
            Ok(Self {
                as_of: file.data_as_of,
                rates,
            })
        } else {
            Err(errors)
        }
    }
}

/// An ISO 4217 code by its shape.
pub(super) fn is_currency(code: &str) -> bool {
    code.len() == 3 && code.bytes().all(|byte| byte.is_ascii_uppercase())
}

/// `text` is known to be one valid JSON value.
fn is_positive_number(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
    text.starts_with(|first: char| first.is_ascii_digit())
        && mantissa.contains(|digit| ('1'..='9').contains(&digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_keep_their_digits() {
        let text = r#"{"dataAsOf": "2026-11-20", "generatedAt": 1,
            "conversions": {"USD": {"JPY": 156.10, "EUR": 0.92000000000000000001}, "GBP": {"USD": 1.3e0}}}"#;
        let rate = |from: &str, to: &str, rate: &str| Rate {
            from: from.into(),
            to: to.into(),
            rate: rate.into(),
        };
        let expected = [
            rate("GBP", "USD", "1.3e0"),
            rate("USD", "EUR", "0.92000000000000000001"),
            rate("USD", "JPY", "156.10"),
        ];
        let rates = Rates::parse(text).unwrap();
        assert_eq!(rates.as_of.as_deref(), Some("2026-11-20"));
        assert_eq!(rates.rates, expected);
    }

    #[test]
    fn refused() {
        #[track_caller]
        fn check(conversions: &str, expected: &[&str]) {
            let text = format!(r#"{{"conversions": {conversions}}}"#);
            assert_eq!(
                Rates::parse(&text),
                Err(expected.iter().map(|&error| error.to_owned()).collect())
            );
        }
        check(
            r#"{"USD": {"EUR": 0}}"#,
            &["USD to EUR: 0 is not a number above zero"],
        );
        check(
            r#"{"USD": {"EUR": 0.0e5}}"#,
            &["USD to EUR: 0.0e5 is not a number above zero"],
        );
        check(
            r#"{"USD": {"EUR": -1}}"#,
            &["USD to EUR: -1 is not a number above zero"],
        );
        check(
            r#"{"USD": {"EUR": "0.92"}}"#,
            &[r#"USD to EUR: "0.92" is not a number above zero"#],
        );
        check(
            r#"{"USD": {"EUR": null, "eur": 1}}"#,
            &[
                "USD to EUR: null is not a number above zero",
                r#"USD to eur: "eur" is not three upper-case letters"#,
            ],
        );
        check(
            "[]",
            &["invalid type: sequence, expected a map at line 1 column 16"],
        );
    }
}
