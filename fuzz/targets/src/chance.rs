//! What a target leaves to chance, from the input itself: the same bytes are always treated the same way.

/// xorshift64.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// FNV-1a of the input.
    pub(crate) fn of(input: &[u8]) -> Self {
        let hash = input.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        Self(hash | 1)
    }

    /// From 0 to below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % end
    }

    /// Cuts `input` into pieces that are mostly short, as a slow peer sends them.
    pub(crate) fn pieces<'a>(&mut self, mut input: &'a [u8], mut each: impl FnMut(&'a [u8])) {
        while !input.is_empty() {
            let most = [1, 3, 16, 200][self.below(4)];
            let (piece, rest) = input.split_at(input.len().min(1 + self.below(most)));
            each(piece);
            input = rest;
        }
    }
}
