//! Who wins an imp and what it pays. Pure; knows no JSON.

use crate::openrtb::Micros;

/// The rule of profiles/reference.toml: one micro more than the runner-up or the floor.
const INCREMENT_MICROS: u64 = 1;

/// Second price: the highest bid above the floor wins and pays just more than the best bid of another DSP or the floor,
/// never more than it bid. `bids` are (DSP, price); of equal bids the earlier wins. The index of the winner, and its
/// price.
pub(crate) fn sell(floor: Micros, bids: &[(usize, Micros)]) -> Option<(usize, Micros)> {
    let mut winner = None;
    for (index, &(dsp, price)) in bids.iter().enumerate() {
        if price > floor && winner.is_none_or(|(_, _, best)| price > best) {
            winner = Some((index, dsp, price));
        }
    }
    let (index, winner, price) = winner?;
    let others = bids.iter().filter(|(dsp, _)| *dsp != winner);
    let runner_up = others.map(|(_, price)| *price).fold(floor, Micros::max);
    let clearing = Micros(runner_up.0.saturating_add(INCREMENT_MICROS));
    Some((index, clearing.min(price)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(floor: u64, bids: &[(usize, u64)], expected: Option<(usize, u64)>) {
        let priced: Vec<_> = bids.iter().map(|(dsp, price)| (*dsp, Micros(*price))).collect();
        let sold = sell(Micros(floor), &priced).map(|(index, price)| (index, price.0));
        assert_eq!(sold, expected, "floor {floor}, bids {bids:?}");
    }

    #[test]
    fn second_price_and_a_micro() {
        check(0, &[], None);
        check(50, &[(0, 50)], None);
        check(50, &[(0, 51)], Some((0, 51)));
        check(50, &[(0, 90)], Some((0, 51)));
        check(50, &[(0, 90), (1, 100), (2, 70)], Some((1, 91)));
        check(50, &[(0, 40), (1, 100)], Some((1, 51)));
        check(50, &[(0, 100), (1, 100)], Some((0, 100)));
        // A DSP does not bid against itself.
        check(50, &[(0, 100), (0, 90), (1, 70)], Some((0, 71)));
    }
}
