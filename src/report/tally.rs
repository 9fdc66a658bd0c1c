//! Adds up the lines of an event log.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::read::Line;
use crate::money::Rounding;
use crate::money::decimal::parse_micros;
use crate::telemetry::LongerBy;

/// Sums by currency, in micros of CPM.
pub(super) type Sums = BTreeMap<String, i128>;

/// What an event log tells. Add lines in any order.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) auctions: u64,
    /// With at least one winner.
    pub(super) sold: u64,
    pub(super) malformed: u64,
    /// When the first and the last began.
    pub(super) from_unix_ms: Option<u64>,
    pub(super) to_unix_ms: Option<u64>,
    /// One in how many bid requests is in the log; 0 if that is not the same all over.
    pub(super) one_in: Option<u64>,
    pub(super) dsps: BTreeMap<String, Dsp>,
}

/// One DSP.
#[derive(Debug, Default)]
pub(super) struct Dsp {
    pub(super) outcomes: BTreeMap<String, u64>,
    pub(super) bids: u64,
    pub(super) won: u64,
    /// By OpenRTB's code.
    pub(super) losses: BTreeMap<u16, u64>,
    /// Of calls that were made, us.
    pub(super) latency: Latency,
    pub(super) revenue: Sums,
    /// Calls out of time, and those whose late answers are looked at.
    pub(super) timeouts: u64,
    pub(super) timeouts_watched: u64,
    /// What late answers were.
    pub(super) late: BTreeMap<String, u64>,
    /// By how much longer the DSP's time would have had to be; see [`LongerBy`].
    pub(super) lost: [Lost; LongerBy::ALL.len()],
}

/// What late answers of some lateness would have brought.
#[derive(Debug, Default)]
pub(super) struct Lost {
    pub(super) won: u64,
    pub(super) more: Sums,
}

/// Microseconds, to three digits, up to a minute.
#[derive(Debug)]
pub(super) struct Latency(Option<Histogram<u64>>);

/// As the exchange's own histograms.
const LATENCY_US_MAX: u64 = 60_000_000;

impl Default for Latency {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).ok())
    }
}

impl Latency {
    fn record(&mut self, us: u64) {
        if let Some(histogram) = &mut self.0 {
            histogram.saturating_record(us);
        }
    }

    /// In us; `None` without calls.
    pub(super) fn quantile(&self, quantile: f64) -> Option<u64> {
        let histogram = self.0.as_ref().filter(|histogram| !histogram.is_empty())?;
        Some(histogram.value_at_quantile(quantile))
    }
}

impl Report {
    /// Adds a line; one that is not understood is counted.
    pub fn add(&mut self, text: &[u8]) {
        let added = Line::parse(text).ok().and_then(|line| match &*line.kind {
            "auction" => self.add_auction(&line),
            "late" => self.add_late(&line),
            _ => None,
        });
        if added.is_none() {
            self.malformed += 1;
        }
    }

    fn add_auction(&mut self, line: &Line<'_>) -> Option<()> {
        let mut paid = Vec::with_capacity(line.offers.len());
        for offer in &line.offers {
            paid.push(match &offer.pays {
                Some(pays) => Some(micros(pays)?),
                None => None,
            });
        }
        self.auctions += 1;
        self.sold += u64::from(paid.iter().any(Option::is_some));
        self.from_unix_ms = Some(
            self.from_unix_ms
                .map_or(line.unix_ms, |from| from.min(line.unix_ms)),
        );
        self.to_unix_ms = Some(self.to_unix_ms.map_or(line.unix_ms, |to| to.max(line.unix_ms)));
        self.one_in = match self.one_in {
            Some(one_in) if one_in != line.one_in => Some(0),
            _ => Some(line.one_in),
        };
        for call in &line.calls {
            let dsp = self.dsp(&call.dsp);
            *dsp.outcomes.entry(call.outcome.clone().into_owned()).or_default() += 1;
            if !matches!(&*call.outcome, "throttled" | "open_breaker") {
                dsp.latency.record(call.us);
            }
            if call.outcome == "timeout" {
                dsp.timeouts += 1;
                dsp.timeouts_watched += u64::from(line.watched);
            }
        }
        for (offer, pays) in line.offers.iter().zip(paid) {
            let dsp = self.dsp(&offer.dsp);
            dsp.bids += 1;
            if let Some(pays) = pays {
                dsp.won += 1;
                *dsp.revenue.entry(line.currency.clone().into_owned()).or_default() += i128::from(pays);
            }
            if let Some(loss) = offer.loss {
                *dsp.losses.entry(loss).or_default() += 1;
            }
        }
        for refused in &line.refused {
            let dsp = self.dsp(&refused.dsp);
            dsp.bids += 1;
            *dsp.losses.entry(refused.loss).or_default() += 1;
        }
        Some(())
    }

    fn add_late(&mut self, line: &Line<'_>) -> Option<()> {
        let more = micros(&line.more)?;
        let place = LongerBy::ALL
            .iter()
            .position(|longer| longer.label() == line.longer_ms)?;
        let dsp = self.dsp(&line.dsp);
        *dsp.late.entry(line.found.clone().into_owned()).or_default() += 1;
        let lost = &mut dsp.lost[place];
        lost.won += u64::from(line.found == "won");
        if more > 0 {
            *lost.more.entry(line.currency.clone().into_owned()).or_default() += i128::from(more);
        }
        Some(())
    }

    fn dsp(&mut self, name: &str) -> &mut Dsp {
        self.dsps.entry(name.to_owned()).or_default()
    }
}

impl Dsp {
    pub(super) fn calls(&self) -> u64 {
        self.outcomes.values().sum()
    }

    /// Calls that ended so.
    pub(super) fn ended(&self, outcomes: &[&str]) -> u64 {
        outcomes
            .iter()
            .filter_map(|outcome| self.outcomes.get(*outcome))
            .sum()
    }

    /// All that late answers would have brought, in whatever time.
    pub(super) fn lost(&self) -> Sums {
        let mut all = Sums::new();
        for (currency, more) in self.lost.iter().flat_map(|lost| &lost.more) {
            *all.entry(currency.clone()).or_default() += more;
        }
        all
    }
}

fn micros(price: &str) -> Option<i64> {
    let parsed = parse_micros(price.as_bytes(), Rounding::TowardZero).ok()?;
    parsed.exact.then_some(parsed.micros)
}
