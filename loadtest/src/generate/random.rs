//! Repeatable randomness for schedules and bodies. Not for anything an adversary should not guess.

/// `SplitMix64`: the state is a counter, so a number of the sequence can also be had directly by
/// [`Random::at`].
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random { state: seed }
    }

    /// A number that depends on `seed` and `index` only, for what must be the same in whatever order it is
    /// asked for.
    pub(crate) fn at(seed: u64, index: u64) -> u64 {
        let mixed = mix(seed.wrapping_add(GOLDEN_GAMMA));
        mix(mixed.wrapping_add(index.wrapping_mul(GOLDEN_GAMMA)))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN_GAMMA);
        mix(self.state)
    }

    /// Uniform in the half-open interval (0, 1]: its logarithm is finite.
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
    pub(crate) fn unit(&mut self) -> f64 {
        ((self.next() >> 11) + 1) as f64 * (1.0 / 9_007_199_254_740_992.0)
    }

    /// Uniform below `limit`; `limit` is small, so the bias of the multiplication (`limit` / 2^64) is
    /// nothing.
    #[cfg(test)]
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        scale(self.next(), limit)
    }
}

/// Maps a uniform 64-bit number to `0..limit`.
pub(crate) fn scale(number: u64, limit: u64) -> u64 {
    ((u128::from(number) * u128::from(limit)) >> 64) as u64
}

/// The odd constant nearest 2^64 / golden ratio (Steele, Lea, Flood 2014).
const GOLDEN_GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
