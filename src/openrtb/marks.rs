//! Finds the bytes at which a string may end, sixteen at a time: quotes, backslashes, control characters. Knows nothing
//! of JSON but that.

/// How many bytes are looked at together.
pub(super) const PART_BYTES: usize = 16;

/// One bit for each byte, from the lowest, set where it is a quote, a backslash or a control character.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) fn marks(part: &[u8; PART_BYTES]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_loadu_si128, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
    };
    // SAFETY: SSE2 is part of x86-64, and the 16 bytes that are loaded, at any alignment, are those of `part`.
    let bits = unsafe {
        let bytes = _mm_loadu_si128(part.as_ptr().cast());
        let quote = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'"'.cast_signed()));
        let backslash = _mm_cmpeq_epi8(bytes, _mm_set1_epi8(b'\\'.cast_signed()));
        let control = _mm_cmpeq_epi8(bytes, _mm_min_epu8(bytes, _mm_set1_epi8(0x1f)));
        _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control))
    };
    bits.cast_unsigned()
}

#[cfg(not(target_arch = "x86_64"))]
pub(super) use portable as marks;

/// The same in words of eight bytes, without a carry from byte to byte.
#[cfg(any(test, not(target_arch = "x86_64")))]
pub(super) fn portable(part: &[u8; PART_BYTES]) -> u32 {
    const EACH: u64 = 0x0101_0101_0101_0101;
    const LOW: u64 = EACH * 0x7f;
    let any_bit = |word: u64| ((word & LOW) + LOW) | word;
    let bits = part.as_chunks().0.iter().rev().fold(0, |bits, word| {
        let word = u64::from_le_bytes(*word);
        let quote = !any_bit(word ^ (EACH * u64::from(b'"')));
        let backslash = !any_bit(word ^ (EACH * u64::from(b'\\')));
        let control = !(((word & LOW) + EACH * 0x60) | word);
        let hits = (quote | backslash | control) & !LOW;
        // Gathers the top bits of eight bytes in one.
        bits << 8 | (hits >> 7).wrapping_mul(0x0102_0408_1020_4080) >> 56
    });
    bits as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_marked_or_not_at_every_place() {
        let is_marked = |byte: u8| matches!(byte, b'"' | b'\\' | ..0x20);
        for byte in 0..=u8::MAX {
            for place in 0..PART_BYTES {
                for around in [b'a', b'"', 0x00, 0x20, 0x21, 0x7f, 0x80, 0xff] {
                    let mut part = [around; PART_BYTES];
                    part[place] = byte;
                    let bits =
                        (0..PART_BYTES).fold(0, |bits, at| bits | u32::from(is_marked(part[at])) << at);
                    assert_eq!(
                        (marks(&part), portable(&part)),
                        (bits, bits),
                        "{byte:#x} at {place} in {around:#x}"
                    );
                }
            }
        }
    }
}
