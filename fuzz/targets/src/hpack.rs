//! Header blocks of one HTTP/2 connection, one after the other: each is read as a slow twin reads it, whatever was read
//! before, and no list of fields is longer than allowed.
//!
//! The input is blocks, each behind its length in one byte.

use std::sync::LazyLock;

use corebid::fanout::h2::hpack::{self, BlockError, Known, LIST_BYTES_MAX, Scratch};
use httlib_huffman::DecoderSpeed;

/// See the module's description.
pub fn check(mut input: &[u8]) {
    let mut decoder = Decoder::default();
    while let Some((length, rest)) = input.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        input = rest;
        assert_eq!(decoder.decode(block), twin(block), "{}", block.escape_ascii());
    }
}

type Field = (Vec<u8>, Vec<u8>);

#[derive(Debug, PartialEq, Eq)]
enum Fault {
    Malformed,
    TooLarge,
}

/// Ours, with what it keeps from block to block.
#[derive(Default)]
struct Decoder {
    known: Known<usize>,
    scratch: Scratch,
    /// What fields mean is kept by their decoder, and has to be small: where their text stands in here.
    texts: Vec<Field>,
}

impl Decoder {
    fn decode(&mut self, block: &[u8]) -> Result<Vec<Field>, Fault> {
        let mut fields = Vec::new();
        let texts = &mut self.texts;
        let read = |name: &[u8], value: &[u8]| {
            texts.push((name.to_vec(), value.to_vec()));
            texts.len() - 1
        };
        let result = hpack::decode(block, &mut self.scratch, &mut self.known, read, |field| {
            fields.push(field);
        });
        match result {
            Ok(()) => Ok(fields
                .into_iter()
                .map(|field| self.texts[field].clone())
                .collect()),
            Err(BlockError::Malformed(_)) => Err(Fault::Malformed),
            Err(BlockError::TooLarge) => Err(Fault::TooLarge),
        }
    }
}

/// RFC 7541 §6 read aloud, for a table of 0 bytes.
fn twin(block: &[u8]) -> Result<Vec<Field>, Fault> {
    let (mut rest, mut fields, mut list_bytes) = (block, Vec::new(), 0);
    while let Some(first) = rest.first() {
        // §6.3: only before the first field (§4.2), and only to what we allow.
        if first & 0b1110_0000 == 0b0010_0000 {
            if !fields.is_empty() || integer(&mut rest, 5)? != 0 {
                return Err(Fault::Malformed);
            }
            continue;
        }
        let field = if first & 0b1000_0000 != 0 {
            indexed(integer(&mut rest, 7)?)?
        } else {
            // §6.2.1, then §6.2.2 and §6.2.3.
            let index = integer(&mut rest, if first & 0b0100_0000 != 0 { 6 } else { 4 })?;
            let name = if index == 0 {
                string(&mut rest)?
            } else {
                indexed(index)?.0
            };
            (name, string(&mut rest)?)
        };
        list_bytes += field.0.len() + field.1.len() + 32;
        if list_bytes > LIST_BYTES_MAX {
            return Err(Fault::TooLarge);
        }
        fields.push(field);
    }
    Ok(fields)
}

/// The static table, which the RFC prints and tests of `hpack` compare with it. There is nothing behind it.
fn indexed(index: u64) -> Result<Field, Fault> {
    static TABLE: LazyLock<Vec<Field>> = LazyLock::new(|| {
        let block: Vec<u8> = (1..=61).map(|index| 0x80 | index).collect();
        Decoder::default().decode(&block).unwrap()
    });
    let place = index.checked_sub(1).and_then(|place| usize::try_from(place).ok());
    place
        .and_then(|place| TABLE.get(place).cloned())
        .ok_or(Fault::Malformed)
}

/// §5.1. Of more than three bytes behind the first one nobody makes use.
fn integer(rest: &mut &[u8], prefix_bits: u32) -> Result<u64, Fault> {
    let mut next = || -> Result<u64, Fault> {
        let (byte, behind) = rest.split_first().ok_or(Fault::Malformed)?;
        *rest = behind;
        Ok(u64::from(*byte))
    };
    let prefix_max = 2_u64.pow(prefix_bits) - 1;
    let mut value = next()? % 2_u64.pow(prefix_bits);
    if value < prefix_max {
        return Ok(value);
    }
    for place in 0..3 {
        let byte = next()?;
        value += byte % 128 * 128_u64.pow(place);
        if byte < 128 {
            return Ok(value);
        }
    }
    Err(Fault::Malformed)
}

/// §5.2.
fn string(rest: &mut &[u8]) -> Result<Vec<u8>, Fault> {
    let is_huffman = rest.first().is_some_and(|first| *first >= 128);
    let length = usize::try_from(integer(rest, 7)?).unwrap();
    let (text, behind) = rest.split_at_checked(length).ok_or(Fault::Malformed)?;
    *rest = behind;
    if is_huffman {
        huffman(text)
    } else {
        Ok(text.to_vec())
    }
}

/// By somebody else. A text has one code and one padding, so what encodes to the same again was right.
fn huffman(code: &[u8]) -> Result<Vec<u8>, Fault> {
    let (mut text, mut again) = (Vec::new(), Vec::new());
    let decoded = httlib_huffman::decode(code, &mut text, DecoderSpeed::OneBit);
    let same = decoded.is_ok() && httlib_huffman::encode(&text, &mut again).is_ok() && again == code;
    if same { Ok(text) } else { Err(Fault::Malformed) }
}
