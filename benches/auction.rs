//! What selling imps costs: `cargo bench --bench auction`. 23 DSPs each offer for every imp.

#![allow(clippy::unwrap_used, reason = "a benchmark may stop")]

mod measure;

use std::hint::black_box;

use bumpalo::Bump;
use corebid::auction::{AuctionType, DspIndex, Floor, FloorRule, ImpTerms, Offer, Rules, sell, tie_seed};
use corebid::money::Cpm;

const DSPS: u16 = 23;

fn main() {
    let cpm = |micros: i64| Cpm::from_micros(micros).unwrap();
    let rules = Rules {
        floor_rule: FloorRule::Above,
        increment: cpm(1),
        prefer_deals: false,
    };
    let offers: Vec<Offer<'_>> = (0..DSPS)
        .map(|dsp| Offer {
            dsp: DspIndex(dsp),
            position: 0,
            seat: Some("seat"),
            price: cpm(1_000_000 + i64::from(dsp * 7 % DSPS) * 10_000),
            deal: None,
            floor: None,
            deal_floor: None,
            adomain: &["adv.example"],
        })
        .collect();
    let terms = ImpTerms {
        floor: Floor::Known(cpm(500_000)),
        auction_type: AuctionType::SecondPrice,
        private: false,
        deals: &[],
        wseat: &[],
        bseat: &[],
        tie_seed: tie_seed("80ce30c53c16e6ede735f123ef6e32361bfc7b22", "1"),
    };
    let mut arena = Bump::new();
    for imps in [1, 10] {
        measure::bench("sell", &format!("{imps} imps, {DSPS} offers each"), &mut || {
            arena.reset();
            for _ in 0..imps {
                black_box(sell(black_box(&terms), &offers, &rules, &arena));
            }
        });
    }
}
