//! The Huffman code of RFC 7541 Appendix B, decoding only: what we send is a constant, written plain.
//!
//! The code is canonical: codes of one length are consecutive and in the order of their symbols, and each length goes
//! on where the shorter one ended. So the lengths say it all, and a code is found by comparing the next bits with
//! where each length ends; the common symbols have 5 to 8 bits and are found in at most four comparisons.

/// Appends the decoded bytes to `out`. `None` when the input is not a Huffman string: it holds the end-of-string
/// symbol, or its padding is longer than 7 bits or not the beginning of that symbol (RFC 7541 §5.2).
pub(super) fn decode(input: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let mut rest = input.iter();
    // The next bits, from the top; below `count` of them there are zeros.
    let (mut bits, mut count) = (0_u64, 0_u32);
    loop {
        while count <= 56 {
            let Some(byte) = rest.next() else { break };
            bits |= u64::from(*byte) << (56 - count);
            count += 8;
        }
        let next = bits >> 32;
        let group = GROUPS.iter().find(|group| next < group.end)?;
        if group.length > count {
            let only_ones = bits == !(u64::MAX.checked_shr(count).unwrap_or(0));
            return (count < 8 && only_ones).then_some(());
        }
        let place = group.first + ((next - group.start) >> (32 - group.length));
        let symbol = SYMBOLS[usize::try_from(place).ok()?];
        out.push(u8::try_from(symbol).ok()?);
        bits <<= group.length;
        count -= group.length;
    }
}

/// The codes of one length, as the upper bits of 32.
#[derive(Clone, Copy)]
struct Group {
    length: u32,
    start: u64,
    end: u64,
    /// The place in [`SYMBOLS`] of the symbol that `start` means.
    first: u64,
}

const LENGTH_MAX: usize = 30;

/// The end of a string, which must not occur in one.
const END_OF_STRING: usize = 256;

const GROUP_COUNT: usize = group_count();

static SYMBOLS: [u16; END_OF_STRING + 1] = symbols();

static GROUPS: [Group; GROUP_COUNT] = groups();

/// How many symbols have codes of a length.
const fn symbols_of(length: usize) -> u64 {
    let (mut symbol, mut count) = (0, 0);
    while symbol <= END_OF_STRING {
        if LENGTHS[symbol] as usize == length {
            count += 1;
        }
        symbol += 1;
    }
    count
}

const fn group_count() -> usize {
    let (mut length, mut count) = (1, 0);
    while length <= LENGTH_MAX {
        if symbols_of(length) > 0 {
            count += 1;
        }
        length += 1;
    }
    count
}

/// All symbols in the order of their codes.
#[expect(clippy::cast_possible_truncation, reason = "257 symbols fit in u16")]
const fn symbols() -> [u16; END_OF_STRING + 1] {
    let mut symbols = [0; END_OF_STRING + 1];
    let (mut length, mut place) = (1, 0);
    while length <= LENGTH_MAX {
        let mut symbol = 0;
        while symbol <= END_OF_STRING {
            if LENGTHS[symbol] as usize == length {
                symbols[place] = symbol as u16;
                place += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    symbols
}

#[expect(clippy::cast_possible_truncation, reason = "lengths are up to 30")]
const fn groups() -> [Group; GROUP_COUNT] {
    let none = Group {
        length: 0,
        start: 0,
        end: 0,
        first: 0,
    };
    let mut groups = [none; GROUP_COUNT];
    let (mut length, mut group, mut start, mut first) = (1, 0, 0, 0);
    while length <= LENGTH_MAX {
        let count = symbols_of(length);
        if count > 0 {
            let end = start + (count << (32 - length));
            groups[group] = Group {
                length: length as u32,
                start,
                end,
                first,
            };
            group += 1;
            start = end;
            first += count;
        }
        length += 1;
    }
    groups
}

/// The length in bits of each symbol's code.
#[rustfmt::skip]
const LENGTHS: [u8; END_OF_STRING + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28,
    28, 28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6,
    6, 6, 7, 8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8,
    7, 8, 13, 19, 13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7,
    7, 15, 11, 14, 13, 28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23,
    24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22,
    23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25,
    26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24,
    20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27,
    27, 27, 27, 26, 30,
];

#[cfg(test)]
mod tests {
    use super::*;

    /// The slow obvious twin: every code as text.
    fn codes() -> Vec<String> {
        let mut codes = vec![String::new(); END_OF_STRING + 1];
        let (mut code, mut last) = (0_u64, 0);
        for length in 1..=LENGTH_MAX {
            for symbol in 0..=END_OF_STRING {
                if usize::from(LENGTHS[symbol]) == length {
                    code <<= length - last;
                    last = length;
                    codes[symbol] = format!("{code:0length$b}");
                    code += 1;
                }
            }
        }
        codes
    }

    fn pack(mut bits: String) -> Vec<u8> {
        while !bits.len().is_multiple_of(8) {
            bits.push('1');
        }
        let byte = |chunk: &[u8]| u8::from_str_radix(std::str::from_utf8(chunk).unwrap(), 2).unwrap();
        bits.as_bytes().chunks(8).map(byte).collect()
    }

    fn decoded(input: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(input, &mut out).map(|()| out)
    }

    #[test]
    fn the_code_is_the_one_of_the_rfc() {
        let codes = codes();
        for (symbol, code) in [
            (b'0', "00000"),
            (b't', "01001"),
            (b' ', "010100"),
            (b'&', "11111000"),
            (b'\\', "1111111111111110000"),
            (0xf9, "1111111111111111111111111110"),
            (b'\n', "111111111111111111111111111100"),
        ] {
            assert_eq!(codes[usize::from(symbol)], code, "{symbol}");
        }
        assert_eq!(codes[END_OF_STRING], "1".repeat(30));
    }

    #[test]
    fn every_symbol_comes_back_at_every_offset() {
        let codes = codes();
        for symbol in 0..=255_u8 {
            for before in 0..8 {
                let mut text = vec![b'0'; before];
                text.push(symbol);
                let bits: String = text
                    .iter()
                    .map(|byte| codes[usize::from(*byte)].as_str())
                    .collect();
                assert_eq!(decoded(&pack(bits)), Some(text), "{symbol} after {before}");
            }
        }
    }

    #[test]
    fn padding_is_at_most_seven_ones() {
        assert_eq!(decoded(&[]), Some(vec![]));
        assert_eq!(decoded(&[0b0000_0111]), Some(b"0".to_vec()), "3 ones");
        assert_eq!(decoded(&[0b0000_0110]), None, "not ones");
        assert_eq!(decoded(&[0b0000_0111, 0xff]), None, "11 ones");
        assert_eq!(decoded(&[0xff]), None, "8 ones");
        assert_eq!(decoded(&[0b0101_0011]), Some(b" ".to_vec()), "2 ones");
        assert_eq!(decoded(&[0b0101_0001]), None, "01");
        assert_eq!(
            decoded(&[0xff, 0xff, 0xff, 0xff]),
            None,
            "the end-of-string symbol"
        );
        assert_eq!(decoded(&[0xff; 9]), None);
    }
}
