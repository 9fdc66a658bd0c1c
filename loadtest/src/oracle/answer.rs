//! Reads a `BidResponse` as an SSP would: only what the sale depends on, and strictly. Judges no price.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// One winning bid of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sale<'a> {
    pub(crate) impid: Cow<'a, str>,
    pub(crate) seat: Cow<'a, str>,
    pub(crate) bid_id: Cow<'a, str>,
    pub(crate) price_micros: u64,
}

/// Why an answer could not be read, for counting and for the first few to be shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not JSON, or a member is missing or of the wrong type.
    Json(String),
    /// It answers another request: the worst thing a pooled connection can do.
    OtherId(String),
    /// Not the currency we asked for.
    Currency(String),
    /// Not a plain decimal of at most six places.
    Price(String),
    /// A seat's name is missing or empty.
    Seat,
    /// The bid is for an imp that was not offered, or for one that was already sold in this answer.
    Imp(String),
}

#[derive(Deserialize)]
struct BidResponse<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    cur: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    seatbid: Vec<SeatBid<'a>>,
}

#[derive(Deserialize)]
struct SeatBid<'a> {
    #[serde(borrow, default)]
    seat: Cow<'a, str>,
    #[serde(borrow)]
    bid: Vec<Bid<'a>>,
}

#[derive(Deserialize)]
struct Bid<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow)]
    impid: Cow<'a, str>,
    #[serde(borrow)]
    price: &'a RawValue,
}

/// The sales of a 200 to the request `id`. None at all is a no-bid, as `response.no_bid = "200"` writes it.
pub(crate) fn read<'a>(body: &'a [u8], id: &[u8], currency: &str) -> Result<Vec<Sale<'a>>, Malformed> {
    let response: BidResponse<'a> =
        serde_json::from_slice(body).map_err(|error| Malformed::Json(error.to_string()))?;
    if response.id.as_bytes() != id {
        return Err(Malformed::OtherId(response.id.into_owned()));
    }
    // Absent means USD (OpenRTB 2.6 §4.3.1).
    let answered = response.cur.as_deref().unwrap_or("USD");
    if answered != currency && !response.seatbid.is_empty() {
        return Err(Malformed::Currency(answered.to_owned()));
    }
    let mut sales: Vec<Sale<'a>> = Vec::new();
    for SeatBid { seat, bid } in response.seatbid {
        if seat.is_empty() {
            return Err(Malformed::Seat);
        }
        for Bid {
            id: bid_id,
            impid,
            price,
        } in bid
        {
            let text = price.get();
            let price_micros = micros(text).ok_or_else(|| Malformed::Price(text.to_owned()))?;
            if sales.iter().any(|sale| sale.impid == impid) {
                return Err(Malformed::Imp(impid.into_owned()));
            }
            sales.push(Sale {
                impid,
                seat: seat.clone(),
                bid_id,
                price_micros,
            });
        }
    }
    Ok(sales)
}

/// Six decimals are all a price may have: a seventh could not be billed, an exponent is not decimal text.
const DECIMALS_MAX: usize = 6;

/// `1.25` is 1,250,000. No sign, no exponent, at most six decimals; never through a float.
pub(crate) fn micros(text: &str) -> Option<u64> {
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) if !fraction.is_empty() => (whole, fraction),
        Some(_) => return None,
        None => (text, ""),
    };
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || fraction.len() > DECIMALS_MAX || !digits(whole) || !digits(fraction) {
        return None;
    }
    let fraction_micros = fraction.bytes().fold(0, |sum, b| sum * 10 + u64::from(b - b'0'))
        * [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1][fraction.len()];
    whole
        .parse::<u64>()
        .ok()?
        .checked_mul(1_000_000)?
        .checked_add(fraction_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_price_is_exact_decimal_text() {
        for (text, expected) in [
            ("1.25", Some(1_250_000)),
            ("0.900001", Some(900_001)),
            ("12", Some(12_000_000)),
            ("0.0", Some(0)),
            ("0.9000010", None),
            ("1.", None),
            (".5", None),
            ("-1.0", None),
            ("1e3", None),
            ("1.5E0", None),
            ("\"1.5\"", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(micros(text), expected, "{text}");
        }
    }

    fn check(body: &str, expected: Result<&[(&'static str, &'static str, u64)], Malformed>) {
        let got = read(body.as_bytes(), b"r-1", "USD").map_err(|malformed| match malformed {
            Malformed::Json(_) => Malformed::Json(String::new()),
            other => other,
        });
        let expected = expected.map(|sales| {
            let sale = |&(impid, seat, price_micros): &(&'static str, &'static str, u64)| Sale {
                impid: Cow::Borrowed(impid),
                seat: Cow::Borrowed(seat),
                bid_id: Cow::Borrowed("x"),
                price_micros,
            };
            sales.iter().map(sale).collect::<Vec<_>>()
        });
        assert_eq!(got, expected, "{body}");
    }

    #[test]
    fn reads_what_the_sale_depends_on_and_nothing_else() {
        let bid =
            r#"{"id":"x","impid":"1","price":0.5,"adm":"<a\u0026b>","ext":{"big":99999999999999999999}}"#;
        check(
            &format!(r#"{{"id":"r-1","cur":"USD","seatbid":[{{"seat":"s","bid":[{bid}]}}]}}"#),
            Ok(&[("1", "s", 500_000)]),
        );
        check(r#"{"id":"r-1","nbr":2}"#, Ok(&[]));
        check(r#"{"id":"r-1","cur":"EUR","seatbid":[]}"#, Ok(&[]));
    }

    #[test]
    fn refuses_what_an_ssp_could_not_use() {
        let one = |seat: &str, bids: &str| {
            format!(r#"{{"id":"r-1","cur":"USD","seatbid":[{{"seat":"{seat}","bid":[{bids}]}}]}}"#)
        };
        let json = Err(Malformed::Json(String::new()));
        check("", json.clone());
        check(r#"{"id":"r-1""#, json.clone());
        check(&one("s", r#"{"id":"x","impid":"1"}"#), json.clone());
        check(&one("s", r#"{"id":"x","price":1}"#), json);
        check(r#"{"id":"r-2"}"#, Err(Malformed::OtherId("r-2".to_owned())));
        check(
            &one("", r#"{"id":"x","impid":"1","price":1}"#),
            Err(Malformed::Seat),
        );
        check(
            &one("s", r#"{"id":"x","impid":"1","price":1e0}"#),
            Err(Malformed::Price("1e0".to_owned())),
        );
        check(
            &one(
                "s",
                r#"{"id":"x","impid":"1","price":1},{"id":"x","impid":"1","price":2}"#,
            ),
            Err(Malformed::Imp("1".to_owned())),
        );
        let euros = r#"{"id":"r-1","cur":"EUR","seatbid":[{"seat":"s","bid":[]}]}"#;
        check(euros, Err(Malformed::Currency("EUR".to_owned())));
    }
}
