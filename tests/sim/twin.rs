//! What has to be sold, by the slow twin of the auction.

// The twin's own file: it names the auction's types by `super`.
#[path = "../../src/auction/reference.rs"]
mod reference;

use std::collections::BTreeMap;

use corebid::auction::{
    AuctionType, DealTerms, DspIndex, Floor, FloorRule, ImpTerms, Offer, Rules, tie_seed,
};
use corebid::money::Cpm;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::bidding::Asked;
use crate::network::Arrived;

/// By imp: the winning bid's id and what it pays, in micros.
pub(crate) type Sold = BTreeMap<String, (String, i128)>;

/// What the slow twin sells on what has arrived.
pub(crate) fn sell(asked: &Asked, arrived: &Arrived, rules: &Rules) -> Sold {
    let mut sold = Sold::new();
    for (imp, floor) in asked.floors.iter().enumerate() {
        let mut offers = Vec::new();
        let mut ids = Vec::new();
        for (&dsp, bids) in &arrived.bids {
            for (position, bid) in bids.iter().enumerate().filter(|(_, bid)| bid.imp == imp) {
                ids.push(format!("{dsp}-{position}"));
                offers.push(Offer {
                    dsp: DspIndex(u16::try_from(dsp).unwrap()),
                    position: u32::try_from(position).unwrap(),
                    seat: None,
                    price: Cpm::from_micros(bid.micros).unwrap(),
                    deal: None,
                    floor: None,
                    deal_floor: None,
                    adomain: &[],
                });
            }
        }
        let id = imp.to_string();
        let terms = ImpTerms {
            floor: Floor::Known(Cpm::from_micros(*floor).unwrap()),
            auction_type: match asked.at {
                Some(1) => AuctionType::FirstPrice,
                _ => AuctionType::SecondPrice,
            },
            private: false,
            deals: &[],
            wseat: &[],
            bseat: &[],
            tie_seed: tie_seed(&asked.id, &id),
        };
        let outcome = reference::sell(&terms, &offers, rules);
        assert_eq!(outcome.codes.len(), offers.len());
        if let Some((winner, micros)) = outcome.winner {
            sold.insert(id, (ids[winner].clone(), micros));
        }
    }
    sold
}

/// What a bid response sells.
pub(crate) fn read(response: &[u8], asked: &Asked) -> Sold {
    #[derive(Deserialize)]
    struct Response<'a> {
        id: &'a str,
        cur: &'a str,
        #[serde(borrow)]
        seatbid: Vec<Seat<'a>>,
    }
    #[derive(Deserialize)]
    struct Seat<'a> {
        #[serde(borrow)]
        bid: Vec<Won<'a>>,
        seat: &'a str,
    }
    #[derive(Deserialize)]
    struct Won<'a> {
        id: &'a str,
        impid: &'a str,
        #[serde(borrow)]
        price: &'a RawValue,
    }
    let response: Response<'_> = serde_json::from_slice(response).unwrap();
    assert_eq!((response.id, response.cur), (asked.id.as_str(), "USD"));
    let mut sold = Sold::new();
    for seat in &response.seatbid {
        for won in &seat.bid {
            assert_eq!(
                Some(seat.seat.strip_prefix("dsp").unwrap()),
                won.id.split('-').next(),
                "a bid without a seat has its DSP's name"
            );
            let twice = sold.insert(won.impid.to_owned(), (won.id.to_owned(), micros(won.price.get())));
            assert!(twice.is_none(), "imp {} is sold once", won.impid);
        }
    }
    sold
}

fn micros(text: &str) -> i128 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction: i128 = format!("{fraction:0<6}").parse().unwrap();
    whole.parse::<i128>().unwrap() * 1_000_000 + fraction
}
