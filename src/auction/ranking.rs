//! Who is first and whom the first had to outbid. Compares eligible offers; refuses to price them.
//!
//! Order: class, then worth, then the tie rank, which no two offers of an imp share. Arrival plays no part:
//! the earliest answer winning would favour whoever is nearest.

use super::eligibility::Entry;
use super::{DealTerms, DspIndex, Offer, Rules, Verdict};
use crate::money::Cpm;
use crate::openrtb::codes::LossReason;

/// The seed that decides between equal offers of one imp: repeatable, and reproducible by an outsider who
/// knows the request. Arithmetic is modulo 2^64; ids are what the JSON strings stand for, escapes resolved.
///
/// - The hash is FNV-1a, 64 bits, over the bytes of `request_id`, one byte `0xFF` (UTF-8 contains none) and
///   the bytes of `imp_id`: from `0xcbf29ce484222325`, xor in each byte, then multiply by `0x100000001b3`.
/// - `mix` is the finaliser of splitmix64: `z ^= z >> 30; z *= 0xbf58476d1ce4e5b9; z ^= z >> 27;
///   z *= 0x94d049bb133111eb; z ^= z >> 31`. The seed is `mix(hash)`.
/// - The tie rank of an offer is `mix(seed ^ (dsp << 32 | position))`; of equal offers the greatest wins.
///   `dsp` is the DSP's index in the configuration, `position` the bid's place among the sound bids of its
///   answer (those that can be read; [`Offer::position`]), both from 0.
///   `mix` is a bijection, so no two offers share a rank.
pub fn tie_seed(request_id: &str, imp_id: &str) -> u64 {
    const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
    const PRIME: u64 = 0x0100_0000_01b3;
    let bytes = request_id.bytes().chain([0xff]).chain(imp_id.bytes());
    mix(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
}

/// An eligible offer with all that it is ranked by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contender {
    /// Index into the offers.
    pub(super) offer: usize,
    pub(super) entry: Entry,
    dsp: DspIndex,
    tie_rank: u64,
}

impl Contender {
    pub(super) fn new(index: usize, offer: &Offer<'_>, entry: Entry, tie_seed: u64) -> Self {
        let place = u64::from(offer.dsp.0) << 32 | u64::from(offer.position);
        Self {
            offer: index,
            entry,
            dsp: offer.dsp,
            tie_rank: mix(tie_seed ^ place),
        }
    }

    fn rank(&self) -> (Class, Cpm, u64) {
        (self.entry.class, self.entry.worth, self.tie_rank)
    }
}

/// What comes before price where deals are preferred; otherwise all bids are of one class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Class {
    /// An open bid; any bid where deals are not preferred.
    ByPrice,
    Deal,
    GuaranteedDeal,
}

impl Class {
    pub(super) fn of(deal: Option<&DealTerms<'_>>, rules: &Rules) -> Self {
        match deal {
            Some(deal) if rules.prefer_deals && deal.guaranteed => Self::GuaranteedDeal,
            Some(_) if rules.prefer_deals => Self::Deal,
            _ => Self::ByPrice,
        }
    }
}

/// The first of the ranking.
pub(super) fn winner(contenders: &[Contender]) -> Option<&Contender> {
    contenders.iter().max_by_key(|contender| contender.rank())
}

/// The worth of the best offer that the winner had to outbid, which is what sets a second price.
///
/// Of another DSP: nobody is to raise its own price by a second bid. Of the winner's class: where a class
/// comes before price, the winner is first whatever a lower class bids, so a lower bid would have won as
/// well. Where deals are not preferred all are of one class, and an open bid sets a deal's price.
pub(super) fn runner_up(contenders: &[Contender], winner: &Contender) -> Option<Cpm> {
    let outbid = contenders
        .iter()
        .filter(|other| other.dsp != winner.dsp && other.entry.class == winner.entry.class);
    outbid.map(|other| other.entry.worth).max()
}

/// What became of an eligible offer. 103 only where the winner's class decided, and so no open bid could have
/// won; who lost on price lost to a higher bid, also to a deal's, also in a tie.
pub(super) fn verdict(contender: &Contender, winner: &Contender) -> Verdict {
    if contender.offer == winner.offer {
        Verdict::Won
    } else if contender.entry.class < winner.entry.class {
        Verdict::Lost(LossReason::LostToDeal)
    } else {
        Verdict::Lost(LossReason::LostToHigherBid)
    }
}

/// The finaliser of splitmix64 (Steele, Lea, Flood 2014): every bit of the input moves every bit of the
/// output.
const fn mix(z: u64) -> u64 {
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed outside, by the description of [`tie_seed`]: an oracle in another language depends on these.
    #[test]
    fn ties_are_as_documented() {
        let check = |request: &str, imp: &str, seed: u64| {
            assert_eq!(tie_seed(request, imp), seed, "{request:?} {imp:?}");
        };
        check("", "", 0x4f2d_b50f_1240_40cd);
        check("req-1", "1", 0x2740_a4e1_9547_ecc1);
        check(
            "80ce30c53c16e6ede735f123ef6e32361bfc7b22",
            "1",
            0x5f67_94c8_7a8d_fd8f,
        );
        check("é", "\u{0}", 0x2051_6448_4d3e_ac4e);
        assert_eq!(mix(0x2740_a4e1_9547_ecc1 ^ (22 << 32 | 3)), 0x5581_e9b7_854c_4f35);
    }
}
