//! Finds the bytes at which a string may end, sixteen at a time: quotes, backslashes, control characters. Knows nothing
//! of JSON but that.

/// How many bytes are looked at together.
pub(super) const PART_BYTES: usize = 16;

/// Which bytes are what: one bit for each, from the lowest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Marks {
    pub(super) quotes: u32,
    pub(super) backslashes: u32,
    pub(super) controls: u32,
}

impl Marks {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    pub(super) fn of(part: &[u8; PART_BYTES]) -> Self {
        use std::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_set1_epi8,
        };
        // SAFETY: SSE2 is part of x86-64, and the 16 bytes that are loaded, at any alignment, are those of `part`.
        unsafe {
            let bytes = _mm_loadu_si128(part.as_ptr().cast());
            let equal_to = |byte: u8| _mm_cmpeq_epi8(bytes, _mm_set1_epi8(byte.cast_signed()));
            let controls = _mm_cmpeq_epi8(bytes, _mm_min_epu8(bytes, _mm_set1_epi8(0x1f)));
            Self {
                quotes: _mm_movemask_epi8(equal_to(b'"')).cast_unsigned(),
                backslashes: _mm_movemask_epi8(equal_to(b'\\')).cast_unsigned(),
                controls: _mm_movemask_epi8(controls).cast_unsigned(),
            }
        }
    }

    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn of(part: &[u8; PART_BYTES]) -> Self {
        Self::portable(part)
    }

    /// The same in words of eight bytes, without a carry from byte to byte.
    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn portable(part: &[u8; PART_BYTES]) -> Self {
        const EACH: u64 = 0x0101_0101_0101_0101;
        const LOW: u64 = EACH * 0x7f;
        let none = Self {
            quotes: 0,
            backslashes: 0,
            controls: 0,
        };
        part.as_chunks().0.iter().rev().fold(none, |marks, word| {
            let word = u64::from_le_bytes(*word);
            // The top bit of each byte that is not hit; then those of the eight bytes in one.
            let equal_to = |byte: u8| {
                let word = word ^ (EACH * u64::from(byte));
                ((word & LOW) + LOW) | word
            };
            let gather = |bits: u32, missed: u64| {
                let hits = (!missed & !LOW) >> 7;
                bits << 8 | u32::from(hits.wrapping_mul(0x0102_0408_1020_4080).to_be_bytes()[0])
            };
            Self {
                quotes: gather(marks.quotes, equal_to(b'"')),
                backslashes: gather(marks.backslashes, equal_to(b'\\')),
                controls: gather(marks.controls, ((word & LOW) + EACH * 0x60) | word),
            }
        })
    }

    /// All of them.
    #[inline]
    pub(super) fn any(self) -> u32 {
        self.quotes | self.backslashes | self.controls
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_marked_or_not_at_every_place() {
        for byte in 0..=u8::MAX {
            for place in 0..PART_BYTES {
                for around in [b'a', b'"', b'\\', 0x00, 0x20, 0x21, 0x7f, 0x80, 0xff] {
                    let mut part = [around; PART_BYTES];
                    part[place] = byte;
                    let bits = |is_marked: fn(u8) -> bool| {
                        (0..PART_BYTES).fold(0, |bits, at| bits | u32::from(is_marked(part[at])) << at)
                    };
                    let marks = Marks {
                        quotes: bits(|byte| byte == b'"'),
                        backslashes: bits(|byte| byte == b'\\'),
                        controls: bits(|byte| byte < 0x20),
                    };
                    assert_eq!(
                        (Marks::of(&part), Marks::portable(&part)),
                        (marks, marks),
                        "{part:x?}"
                    );
                }
            }
        }
    }
}
