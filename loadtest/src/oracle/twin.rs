//! An exchange as slow and obvious as can be, for tests: hears the DSPs it is told to and holds the auction.

use super::Asked;
use crate::simulated::{Profile, seat};

/// The body of a 200, or nothing for a 204. At the floor is enough, the increment is one micro.
pub(crate) fn exchange(profile: &Profile, asked: Asked<'_>, heard: impl Fn(u16) -> bool) -> Option<String> {
    let mut seatbids = Vec::new();
    for (imp, &floor) in asked.floors_micros.iter().enumerate() {
        let imp_id = (imp + 1).to_string();
        let mut offers: Vec<_> = (0..profile.count)
            .filter(|&dsp| heard(dsp))
            .filter_map(|dsp| {
                profile
                    .bid(dsp, asked.id, imp_id.as_bytes())
                    .map(|bid| (bid, dsp))
            })
            .filter(|(bid, _)| bid.price_micros >= floor)
            .collect();
        offers.sort_by_key(|(bid, _)| std::cmp::Reverse(bid.price_micros));
        let Some((bid, dsp)) = offers.first() else {
            continue;
        };
        let rival = offers.get(1).map_or(floor, |(bid, _)| bid.price_micros);
        let price = (rival + 1).min(bid.price_micros);
        let (whole, fraction) = (price / 1_000_000, price % 1_000_000);
        let (seat, id) = (seat(*dsp), bid.id);
        seatbids.push(format!(
            r#"{{"seat":"{seat}","bid":[{{"id":"{id:016x}","impid":"{imp_id}","price":{whole}.{fraction:06}}}]}}"#
        ));
    }
    let id = str::from_utf8(asked.id).unwrap();
    let seatbids = (!seatbids.is_empty()).then(|| seatbids.join(","))?;
    Some(format!(r#"{{"id":"{id}","cur":"USD","seatbid":[{seatbids}]}}"#))
}
