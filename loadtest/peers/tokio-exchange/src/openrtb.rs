//! The part of OpenRTB 2.6 that an auction depends on, read by serde without copying, and written with the rest of each
//! message untouched. Decides nothing.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, IgnoredAny};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// CPM in millionths of a dollar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Micros(pub(crate) u64);

/// The only currency there is.
pub(crate) const CURRENCY: &str = "USD";

#[derive(Debug, Deserialize)]
pub(crate) struct BidRequest<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) imp: Vec<Imp<'a>>,
    #[serde(borrow)]
    tmax: Option<&'a RawValue>,
    // Required by the profile, read by nobody here.
    #[serde(rename = "device")]
    _device: IgnoredAny,
    #[serde(rename = "user")]
    _user: IgnoredAny,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Imp<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(default)]
    bidfloor: Micros,
    #[serde(borrow)]
    bidfloorcur: Option<Cow<'a, str>>,
    banner: Option<IgnoredAny>,
    video: Option<IgnoredAny>,
    audio: Option<IgnoredAny>,
    native: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BidResponse<'a> {
    #[serde(borrow)]
    pub(crate) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) cur: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(crate) seatbid: Vec<SeatBid<'a>>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct SeatBid<'a> {
    #[serde(borrow)]
    pub(crate) bid: Vec<Bid<'a>>,
}

/// A bid response read once more, for the winner's sake: what goes to the SSP goes as it is.
#[derive(Debug, Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    seatbid: Vec<RawSeatBid<'a>>,
}

#[derive(Debug, Deserialize)]
struct RawSeatBid<'a> {
    #[serde(borrow)]
    seat: &'a RawValue,
    #[serde(borrow)]
    bid: Vec<&'a RawValue>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Bid<'a> {
    #[serde(borrow)]
    pub(crate) impid: Cow<'a, str>,
    #[serde(borrow)]
    pub(crate) price: &'a RawValue,
}

/// What an SSP is answered.
#[derive(Debug, Serialize)]
pub(crate) struct Answer<'a> {
    pub(crate) id: &'a str,
    pub(crate) cur: &'static str,
    pub(crate) seatbid: Vec<SoldSeat<'a>>,
}

#[derive(Debug, Serialize)]
pub(crate) struct SoldSeat<'a> {
    seat: &'a RawValue,
    bid: [Box<RawValue>; 1],
}

impl<'a> SoldSeat<'a> {
    /// A bid by its places in a bid response, as it came but for its price; `None` if it is not there.
    pub(crate) fn new(answer: &'a [u8], (seat, bid): (usize, usize), clearing: Micros) -> Option<Self> {
        let response: Raw<'a> = serde_json::from_slice(answer).ok()?;
        let sold = response.seatbid.get(seat)?;
        let raw = sold.bid.get(bid)?.get();
        let bid: Bid<'_> = serde_json::from_str(raw).ok()?;
        let priced = replace(raw.as_bytes(), bid.price.get(), &clearing.to_string());
        Some(Self {
            seat: sold.seat,
            bid: [serde_json::from_slice(&priced).ok()?],
        })
    }
}

impl<'a> BidRequest<'a> {
    /// Reads and validates; the error is for the SSP.
    pub(crate) fn parse(body: &'a [u8]) -> Result<BidRequest<'a>, String> {
        let request: BidRequest<'a> = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        request.validate()?;
        Ok(request)
    }

    fn validate(&self) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("id: must not be empty".to_owned());
        }
        if self.imp.is_empty() {
            return Err("imp: must not be empty".to_owned());
        }
        if self.tmax.is_some() && self.tmax_ms().is_none() {
            return Err("tmax: must be an integer".to_owned());
        }
        for (index, imp) in self.imp.iter().enumerate() {
            let media = [&imp.banner, &imp.video, &imp.audio, &imp.native];
            if media.iter().all(|medium| medium.is_none()) {
                return Err(format!(
                    "imp[{index}]: must contain at least one of banner, video, audio, native"
                ));
            }
            if self.imp[..index].iter().any(|other| other.id == imp.id) {
                return Err(format!("imp[{index}].id: must be unique"));
            }
        }
        Ok(())
    }

    /// The SSP's limit.
    pub(crate) fn tmax_ms(&self) -> Option<u64> {
        self.tmax?.get().parse().ok()
    }

    /// The SSP's own bytes with another `tmax`. `body` is what this request was read from.
    pub(crate) fn with_tmax(&self, body: &'a [u8], tmax_ms: u128) -> Vec<u8> {
        match self.tmax {
            Some(tmax) => replace(body, tmax.get(), &tmax_ms.to_string()),
            None => {
                let brace = body.iter().position(|byte| *byte == b'{').unwrap_or(0);
                let (before, members) = body.split_at(brace + 1);
                [before, format!("\"tmax\":{tmax_ms},").as_bytes(), members].concat()
            }
        }
    }
}

impl Imp<'_> {
    /// What a bid must exceed. A floor in another currency is one that no bid exceeds.
    pub(crate) fn floor(&self) -> Micros {
        match self.bidfloorcur.as_deref() {
            None | Some(CURRENCY) => self.bidfloor,
            Some(_) => Micros(u64::MAX),
        }
    }
}

impl Micros {
    /// Reads a JSON number without an exponent, exactly. Digits after the sixth decimal are dropped; `None` for what is
    /// negative or beyond all reason.
    pub(crate) fn parse(text: &str) -> Option<Micros> {
        if text.contains(['e', 'E']) {
            return None;
        }
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let whole: u64 = whole.parse().ok()?;
        let fraction = &fraction[..fraction.len().min(6)];
        let digits = fraction.len();
        let fraction: u64 = if digits == 0 { 0 } else { fraction.parse().ok()? };
        let scale = [1_000_000, 100_000, 10_000, 1_000, 100, 10, 1][digits];
        Some(Micros(
            whole.checked_mul(1_000_000)?.checked_add(fraction * scale)?,
        ))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

impl<'de> Deserialize<'de> for Micros {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Micros, D::Error> {
        let text = <&RawValue>::deserialize(deserializer)?.get();
        Micros::parse(text).ok_or_else(|| serde::de::Error::custom(format!("not an amount: {text}")))
    }
}

/// `whole` with `part`, which must be a slice of it, replaced.
fn replace(whole: &[u8], part: &str, by: &str) -> Vec<u8> {
    let start = part.as_ptr().addr() - whole.as_ptr().addr();
    let end = start + part.len();
    [&whole[..start], by.as_bytes(), &whole[end..]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly() {
        for (text, expected) in [
            ("1.25", Some(1_250_000)),
            ("0.900001", Some(900_001)),
            ("0.9000019", Some(900_001)),
            ("12", Some(12_000_000)),
            ("-1.0", None),
            ("1e3", None),
            ("1.0000000e3", None),
            ("\"1.5\"", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(Micros::parse(text).map(|micros| micros.0), expected, "{text}");
        }
    }

    #[test]
    fn only_tmax_changes() {
        for (request, expected) in [
            (
                r#" {"id":"r","imp":IMP,"device":{},"tmax": 100,"user":{}}"#,
                r#" {"id":"r","imp":IMP,"device":{},"tmax": 80,"user":{}}"#,
            ),
            (
                r#" {"id":"r","imp":IMP,"device":{},"user":{}}"#,
                r#" {"tmax":80,"id":"r","imp":IMP,"device":{},"user":{}}"#,
            ),
        ] {
            let imp = r#"[{"id":"1","banner":{}}]"#;
            let (request, expected) = (request.replace("IMP", imp), expected.replace("IMP", imp));
            let parsed = BidRequest::parse(request.as_bytes()).unwrap();
            assert_eq!(parsed.with_tmax(request.as_bytes(), 80), expected.as_bytes());
        }
    }
}
