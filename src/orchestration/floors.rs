//! What a bid has to meet at least, in the auction's currency, in whichever form the SSP states it (OpenRTB 2.6
//! §7.11.2). Which of the deal's and the imp's floor counts is the auction's to say.
//!
//! A floor by duration is `mincpmpersec` times `bid.dur`, or that of the `durfloors` ranges which `bid.dur` is in. Never
//! below the floor is the rule where OpenRTB leaves room:
//! - Of overlapping ranges, and of two forms in one object, the highest counts.
//! - A bid that does not say its duration, or says 0, cannot show that it meets such a floor, and is below it.
//! - A bid that does not say its kind of media must meet the highest floor of the kinds that the imp offers.

use super::Orchestrator;
use crate::auction::Floor;
use crate::fanout::Transport;
use crate::money::decimal::parse_micros;
use crate::money::{Cpm, Currency, Money, Rounding};
use crate::openrtb::{Bid, DurationFloors, Imp, Media, NumberText};
use crate::telemetry::Rounded;

const NONE: Floor = Floor::Known(Cpm::ZERO);

impl<T: Transport> Orchestrator<T> {
    /// A floor in the auction's currency; one that cannot be brought there is unknown, never zero.
    pub(super) fn floor(&self, text: Option<NumberText<'_>>, cur: Option<&str>, to: Currency) -> Floor {
        self.floor_times(text, 1, cur, to)
    }

    /// The imp's floor for this bid, where the video or audio object states one that depends on the bid. A duration
    /// that none of the ranges holds leaves `imp.bidfloor`.
    pub(super) fn imp_floor_of(&self, bid: &Bid<'_>, imp: &Imp<'_>, to: Currency) -> Option<Floor> {
        if imp.video_floors.is_none() && imp.audio_floors.is_none() {
            return None;
        }
        let flat = self.floor(imp.floor, imp.floor_cur, to);
        let by_duration = |floors| {
            self.by_duration(floors, bid.dur_s, imp.floor_cur, to)
                .unwrap_or(flat)
        };
        let kinds = [
            (Media::VIDEO, by_duration(imp.video_floors)),
            (Media::AUDIO, by_duration(imp.audio_floors)),
            (Media::BANNER, flat),
            (Media::NATIVE, flat),
        ];
        let possible = kinds.into_iter().filter(|(kind, _)| could_be(bid, imp, *kind));
        possible.map(|(_, floor)| floor).max()
    }

    /// The same for the deal that the bid names. A duration that none of the ranges holds leaves `deal.bidfloor`, or
    /// without that what the imp says.
    pub(super) fn deal_floor_of(&self, bid: &Bid<'_>, imp: &Imp<'_>, to: Currency) -> Option<Floor> {
        let id = bid.dealid?;
        let deal = imp.deals.iter().find(|deal| deal.id == id)?;
        let has_duration = could_be(bid, imp, Media::VIDEO) || could_be(bid, imp, Media::AUDIO);
        if deal.duration_floors.is_none() || !has_duration {
            return None;
        }
        let by_duration = self.by_duration(deal.duration_floors, bid.dur_s, deal.floor_cur, to)?;
        let mut flat = self.floor(deal.floor, deal.floor_cur, to);
        let has_none = could_be(bid, imp, Media::BANNER) || could_be(bid, imp, Media::NATIVE);
        if flat == NONE && has_none {
            flat = self.floor(imp.floor, imp.floor_cur, to);
        }
        Some(by_duration.max(flat))
    }

    /// What the floors ask of a bid with this duration; `None` if nothing.
    fn by_duration(
        &self,
        floors: DurationFloors<'_>,
        dur_s: Option<u32>,
        cur: Option<&str>,
        to: Currency,
    ) -> Option<Floor> {
        let Some(dur_s) = dur_s.filter(|dur_s| *dur_s > 0) else {
            let mut stated = floors
                .ranges
                .iter()
                .map(|range| range.floor)
                .chain([floors.per_second]);
            return stated
                .any(|text| self.floor(text, cur, to) != NONE)
                .then_some(Floor::Unmet);
        };
        let ranges = floors.ranges.iter().filter(|range| range.holds(dur_s));
        let highest = ranges
            .map(|range| self.floor(range.floor, cur, to))
            .chain([self.floor_times(floors.per_second, dur_s, cur, to)])
            .max();
        highest.filter(|floor| *floor != NONE)
    }

    fn floor_times(
        &self,
        text: Option<NumberText<'_>>,
        times: u32,
        cur: Option<&str>,
        to: Currency,
    ) -> Floor {
        let Some(text) = text else { return NONE };
        let Ok(floor) = parse_micros(text.as_bytes(), Rounding::Up) else {
            return Floor::Unknown;
        };
        if !floor.exact {
            self.rounded(Rounded::Floor);
        }
        if floor.micros == 0 {
            // Nothing is nothing in every currency, known or not.
            return NONE;
        }
        let currency = match cur {
            None => Some(Currency::USD),
            Some(code) => Currency::from_bytes(code.as_bytes()),
        };
        currency
            .zip(floor.micros.checked_mul(i64::from(times)))
            .map(|(currency, micros)| Money { micros, currency })
            .and_then(|floor| self.options.rates.convert(floor, to, Rounding::Up).ok())
            .and_then(|(micros, _rate)| Cpm::from_micros(micros))
            .map_or(Floor::Unknown, Floor::Known)
    }
}

/// Whether the bid may be of this kind of media: it says so, or does not say.
fn could_be(bid: &Bid<'_>, imp: &Imp<'_>, kind: Media) -> bool {
    imp.media.contains(kind) && bid.mtype.is_none_or(|mtype| kind.offers(mtype))
}
