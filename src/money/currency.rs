//! Which currencies there are: the active alphabetic codes of ISO 4217. Refuses everything else, so that
//! whoever holds a [`Currency`] need not check it again. Knows no rates and no minor units: every amount is
//! in micros.

use std::fmt;

/// The active codes of ISO 4217 list one as of January 2026, sorted, funds and metals included.
///
/// Not in it: `XTS` (testing) and `XXX` (no currency), which name no money, and codes withdrawn since 2021
/// (ANG, BGN, CUC, HRK, SLL, ZWL): a rate for those is stale by definition.
const CODES: [&str; CURRENCIES] = [
    "AED", "AFN", "ALL", "AMD", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BHD", "BIF", "BMD",
    "BND", "BOB", "BOV", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHE", "CHF", "CHW", "CLF",
    "CLP", "CNY", "COP", "COU", "CRC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN", "ETB",
    "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HTG", "HUF",
    "IDR", "ILS", "INR", "IQD", "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW",
    "KWD", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT",
    "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MXV", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD",
    "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR", "SBD",
    "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SOS", "SRD", "SSP", "STN", "SVC", "SYP", "SZL", "THB", "TJS",
    "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "USN", "UYI", "UYU", "UYW", "UZS",
    "VED", "VES", "VND", "VUV", "WST", "XAD", "XAF", "XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XCD", "XCG",
    "XDR", "XOF", "XPD", "XPF", "XPT", "XSU", "XUA", "YER", "ZAR", "ZMW", "ZWG",
];

/// How many currencies there are; an [`ordinal`](Currency::ordinal) is below it.
pub(super) const CURRENCIES: usize = 176;

/// An active ISO 4217 currency. One byte: its place in the table of codes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Currency(u8);

impl Currency {
    /// The euro.
    pub const EUR: Self = Self::named(*b"EUR");
    /// Pound sterling.
    pub const GBP: Self = Self::named(*b"GBP");
    /// The yen.
    pub const JPY: Self = Self::named(*b"JPY");
    /// The US dollar: what OpenRTB means where a floor or a bid response names no currency (2.6 §3.2.4,
    /// §4.2.1).
    pub const USD: Self = Self::named(*b"USD");

    /// The currency with this code; `None` if it is not active or not spelled in capitals as ISO 4217 prints
    /// it.
    pub fn from_bytes(code: &[u8]) -> Option<Self> {
        let place = CODES.binary_search_by(|known| known.as_bytes().cmp(code)).ok()?;
        u8::try_from(place).ok().map(Self)
    }

    /// The three capitals of the code.
    pub const fn as_str(self) -> &'static str {
        CODES[self.ordinal()]
    }

    /// The currency's place in alphabetical order, for tables keyed by currency.
    #[expect(
        clippy::as_conversions,
        reason = "u8 to usize widens; `usize::from` is not const"
    )]
    pub(super) const fn ordinal(self) -> usize {
        self.0 as usize
    }

    /// Every currency, in alphabetical order.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=u8::MAX).take(CURRENCIES).map(Self)
    }

    /// A constant's currency. A code that is not in the table does not compile: the search runs off its end.
    #[expect(
        clippy::arithmetic_side_effects,
        reason = "evaluated by the compiler, where overflow is an error"
    )]
    const fn named(code: [u8; 3]) -> Self {
        let mut place = 0;
        loop {
            let [a, b, c] = code;
            match Self(place).as_str().as_bytes() {
                [x, y, z] if *x == a && *y == b && *z == c => return Self(place),
                _ => place += 1,
            }
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_every_code_reads_back() {
        assert!(
            CODES.is_sorted_by(|a, b| a < b),
            "binary search needs order without repeats"
        );
        for (place, code) in CODES.iter().enumerate() {
            assert!(
                code.len() == 3 && code.bytes().all(|b| b.is_ascii_uppercase()),
                "{code}"
            );
            let currency = Currency::from_bytes(code.as_bytes()).unwrap();
            assert_eq!((currency.as_str(), currency.ordinal()), (*code, place));
        }
        assert_eq!(Currency::all().map(Currency::as_str).collect::<Vec<_>>(), CODES);
        assert_eq!(
            [Currency::EUR, Currency::GBP, Currency::JPY, Currency::USD].map(Currency::as_str),
            ["EUR", "GBP", "JPY", "USD"]
        );
    }

    #[test]
    fn what_is_no_active_currency_is_refused() {
        let strange: [&[u8]; 13] = [
            b"",
            b"US",
            b"USDT",
            b"usd",
            b"Usd",
            b"US ",
            b"US\0",
            b"\xff\xff\xff",
            b"840",
            b"BTC",
            b"HRK",
            b"XXX",
            b"XTS",
        ];
        for code in strange {
            assert_eq!(Currency::from_bytes(code), None, "{code:?}");
        }
    }
}
