//! HPACK (RFC 7541): a complete decoder, and just enough encoder for header blocks that never change. The
//! encoder uses neither the dynamic table nor Huffman, so what it writes is a constant, valid on any
//! connection.

use std::collections::VecDeque;
use std::fmt;

use super::huffman;

/// The decoding half of one connection.
#[derive(Debug)]
pub struct Decoder {
    /// Newest first, as the indexes count.
    table: VecDeque<Entry>,
    table_bytes: usize,
    table_bytes_max: usize,
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Why a header block cannot be decoded: always a connection error (RFC 9113 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

#[derive(Debug)]
struct Entry {
    name: Box<[u8]>,
    value: Box<[u8]>,
}

/// The table size of a connection that has not negotiated another (RFC 9113 §6.5.2): we never do.
pub const TABLE_BYTES_MAX: usize = 4096;
/// Of a decoded header list, with 32 bytes for each field as RFC 9113 §6.5.2 counts. Ten times a busy DSP's.
pub const LIST_BYTES_MAX: usize = 16 * 1024;
/// What an entry costs beyond its text (RFC 7541 §4.1).
const ENTRY_OVERHEAD_BYTES: usize = 32;

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Default for Decoder {
    fn default() -> Self {
        Self {
            table: VecDeque::new(),
            table_bytes: 0,
            table_bytes_max: TABLE_BYTES_MAX,
            name: Vec::new(),
            value: Vec::new(),
        }
    }
}

impl Decoder {
    /// Decodes one header block, handing over each field in order. True when the block has changed the
    /// dynamic table; if not, equal blocks mean equal fields until one does.
    ///
    /// # Errors
    /// The table may be out of step with the peer's from then on: close the connection.
    pub fn decode(&mut self, block: &[u8], mut field: impl FnMut(&[u8], &[u8])) -> Result<bool, Malformed> {
        // The scratch strings are taken out so that a field may borrow them and the table at once.
        let (mut name, mut value) = (std::mem::take(&mut self.name), std::mem::take(&mut self.value));
        let result = self.decode_with(block, &mut field, &mut name, &mut value);
        (self.name, self.value) = (name, value);
        result
    }

    fn decode_with(
        &mut self,
        mut input: &[u8],
        field: &mut impl FnMut(&[u8], &[u8]),
        name_scratch: &mut Vec<u8>,
        value_scratch: &mut Vec<u8>,
    ) -> Result<bool, Malformed> {
        let mut changed = false;
        let mut list_bytes = 0;
        let mut count = |name: &[u8], value: &[u8]| {
            list_bytes += name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
            if list_bytes > LIST_BYTES_MAX {
                Err(Malformed("header list too large"))
            } else {
                Ok(())
            }
        };
        while let Some(first) = input.first() {
            if first & 0x80 != 0 {
                let (name, value) = self.indexed(integer(&mut input, 7)?)?;
                count(name, value)?;
                field(name, value);
                continue;
            }
            if first & 0xe0 == 0x20 {
                self.resize(integer(&mut input, 5)?)?;
                changed = true;
                continue;
            }
            let keep = first & 0x40 != 0;
            let index = integer(&mut input, if keep { 6 } else { 4 })?;
            let name = if index == 0 {
                string(&mut input, name_scratch)?
            } else {
                // Copied, because keeping the entry may evict the one whose name it shares (RFC 7541 §4.4).
                name_scratch.clear();
                name_scratch.extend_from_slice(self.indexed(index)?.0);
                name_scratch.as_slice()
            };
            let value = string(&mut input, value_scratch)?;
            count(name, value)?;
            field(name, value);
            if keep {
                self.insert(name, value);
                changed = true;
            }
        }
        Ok(changed)
    }

    fn indexed(&self, index: usize) -> Result<(&[u8], &[u8]), Malformed> {
        let from_zero = index.checked_sub(1).ok_or(Malformed("index 0"))?;
        if let Some((name, value)) = STATIC_TABLE.get(from_zero) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let entry = self
            .table
            .get(from_zero - STATIC_TABLE.len())
            .ok_or(Malformed("index past the table"))?;
        Ok((&entry.name, &entry.value))
    }

    fn insert(&mut self, name: &[u8], value: &[u8]) {
        let bytes = name.len() + value.len() + ENTRY_OVERHEAD_BYTES;
        self.evict_to(self.table_bytes_max.saturating_sub(bytes));
        // An entry larger than the table empties it and is not kept: not an error.
        if bytes <= self.table_bytes_max {
            self.table_bytes += bytes;
            self.table.push_front(Entry {
                name: name.into(),
                value: value.into(),
            });
        }
    }

    fn resize(&mut self, bytes_max: usize) -> Result<(), Malformed> {
        if bytes_max > TABLE_BYTES_MAX {
            return Err(Malformed("table size above what we allow"));
        }
        self.table_bytes_max = bytes_max;
        self.evict_to(bytes_max);
        Ok(())
    }

    fn evict_to(&mut self, bytes_max: usize) {
        while self.table_bytes > bytes_max {
            let Some(oldest) = self.table.pop_back() else {
                return;
            };
            self.table_bytes -= oldest.name.len() + oldest.value.len() + ENTRY_OVERHEAD_BYTES;
        }
    }
}

/// Appends a field by its index in the static table (RFC 7541 Appendix A).
pub fn encode_indexed(static_index: u8, block: &mut Vec<u8>) {
    block.push(0x80 | static_index);
}

/// Appends a field as a literal that the peer does not keep. `name` in lower case.
pub fn encode_literal(name: &[u8], value: &[u8], block: &mut Vec<u8>) {
    block.push(0);
    for text in [name, value] {
        encode_length(text.len(), block);
        block.extend_from_slice(text);
    }
}

fn encode_length(length: usize, block: &mut Vec<u8>) {
    const PREFIX_MAX: usize = 127;
    let mut rest = length;
    if rest >= PREFIX_MAX {
        block.push(0x7f);
        rest -= PREFIX_MAX;
        while rest >= 128 {
            block.push(low_7_bits(rest) | 0x80);
            rest >>= 7;
        }
    }
    block.push(low_7_bits(rest));
}

#[expect(clippy::cast_possible_truncation)]
fn low_7_bits(n: usize) -> u8 {
    (n & 0x7f) as u8
}

/// RFC 7541 §5.1. Nothing we accept is longer than a few kilobytes, so four continuation bytes are plenty.
fn integer(input: &mut &[u8], prefix_bits: u32) -> Result<usize, Malformed> {
    const TRUNCATED: Malformed = Malformed("header block ends in an integer");
    let (first, rest) = input.split_first().ok_or(TRUNCATED)?;
    *input = rest;
    let prefix_max = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(*first) & prefix_max;
    if value < prefix_max {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let (byte, rest) = input.split_first().ok_or(TRUNCATED)?;
        *input = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("integer too large"))
}

/// RFC 7541 §5.2. Borrows the input where it can.
fn string<'text, 'block: 'text>(
    input: &mut &'block [u8],
    scratch: &'text mut Vec<u8>,
) -> Result<&'text [u8], Malformed> {
    let huffman = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(input, 7)?;
    let (text, rest) = input
        .split_at_checked(length)
        .ok_or(Malformed("header block ends in a string"))?;
    *input = rest;
    if !huffman {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch).ok_or(Malformed("bad Huffman string"))?;
    Ok(scratch)
}

#[rustfmt::skip]
const STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""),
    ("cache-control", ""), ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""),
    ("content-length", ""), ("content-location", ""), ("content-range", ""), ("content-type", ""),
    ("cookie", ""), ("date", ""), ("etag", ""), ("expect", ""), ("expires", ""), ("from", ""), ("host", ""),
    ("if-match", ""), ("if-modified-since", ""), ("if-none-match", ""), ("if-range", ""),
    ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""), ("location", ""), ("max-forwards", ""),
    ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""), ("referer", ""), ("refresh", ""),
    ("retry-after", ""), ("server", ""), ("set-cookie", ""), ("strict-transport-security", ""),
    ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""), ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .bytes()
            .filter_map(|c| u8::try_from(char::from(c).to_digit(16)?).ok())
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn fields(decoder: &mut Decoder, hex: &str) -> Result<String, Malformed> {
        let mut text = String::new();
        decoder.decode(&bytes(hex), |name, value| {
            text += &format!(
                "{}={}\n",
                String::from_utf8_lossy(name),
                String::from_utf8_lossy(value)
            );
        })?;
        Ok(text)
    }

    /// One row per block on one connection: its bytes, the fields in it and the table's size after it.
    fn check(decoder: &mut Decoder, rows: &[(&str, &[&str], usize)]) {
        for (hex, expected, table_bytes) in rows {
            let expected: String = expected.iter().map(|field| format!("{field}\n")).collect();
            assert_eq!(fields(decoder, hex).as_deref(), Ok(expected.as_str()), "{hex}");
            assert_eq!(decoder.table_bytes, *table_bytes, "table after {hex}");
        }
    }

    const REQUESTS: [&[&str]; 3] = [
        &[
            ":method=GET",
            ":scheme=http",
            ":path=/",
            ":authority=www.example.com",
        ],
        &[
            ":method=GET",
            ":scheme=http",
            ":path=/",
            ":authority=www.example.com",
            "cache-control=no-cache",
        ],
        &[
            ":method=GET",
            ":scheme=https",
            ":path=/index.html",
            ":authority=www.example.com",
            "custom-key=custom-value",
        ],
    ];
    const COOKIE: &str = "set-cookie=foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";
    const RESPONSES: [&[&str]; 3] = [
        &[
            ":status=302",
            "cache-control=private",
            "date=Mon, 21 Oct 2013 20:13:21 GMT",
            "location=https://www.example.com",
        ],
        &[
            ":status=307",
            "cache-control=private",
            "date=Mon, 21 Oct 2013 20:13:21 GMT",
            "location=https://www.example.com",
        ],
        &[
            ":status=200",
            "cache-control=private",
            "date=Mon, 21 Oct 2013 20:13:22 GMT",
            "location=https://www.example.com",
            "content-encoding=gzip",
            COOKIE,
        ],
    ];

    #[test]
    fn rfc_7541_c1_integers() {
        for (hex, prefix_bits, value) in [("0a", 5, 10), ("1f9a0a", 5, 1337), ("2a", 8, 42)] {
            assert_eq!(integer(&mut bytes(hex).as_slice(), prefix_bits), Ok(value));
        }
    }

    #[test]
    fn rfc_7541_c2_single_fields() {
        let new = Decoder::default;
        check(
            &mut new(),
            &[(
                "400a637573746f6d2d6b65790d637573746f6d2d686561646572",
                &["custom-key=custom-header"],
                55,
            )],
        );
        check(
            &mut new(),
            &[("040c2f73616d706c652f70617468", &[":path=/sample/path"], 0)],
        );
        check(
            &mut new(),
            &[("100870617373776f726406736563726574", &["password=secret"], 0)],
        );
        check(&mut new(), &[("82", &[":method=GET"], 0)]);
    }

    #[test]
    fn rfc_7541_c3_requests_without_huffman() {
        let rows = [
            ("828684410f7777772e6578616d706c652e636f6d", REQUESTS[0], 57),
            ("828684be58086e6f2d6361636865", REQUESTS[1], 110),
            (
                "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
                REQUESTS[2],
                164,
            ),
        ];
        check(&mut Decoder::default(), &rows);
    }

    #[test]
    fn rfc_7541_c4_requests_with_huffman() {
        let rows = [
            ("828684418cf1e3c2e5f23a6ba0ab90f4ff", REQUESTS[0], 57),
            ("828684be5886a8eb10649cbf", REQUESTS[1], 110),
            (
                "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
                REQUESTS[2],
                164,
            ),
        ];
        check(&mut Decoder::default(), &rows);
    }

    #[test]
    fn rfc_7541_c5_responses_without_huffman_evict() {
        let rows = [
            (
                "4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d54\
                 6e1768747470733a2f2f7777772e6578616d706c652e636f6d",
                RESPONSES[0],
                222,
            ),
            ("4803333037c1c0bf", RESPONSES[1], 222),
            (
                "88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a6970773\
                 8666f6f3d4153\
                 444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076\
                 657273696f6e\
                 3d31",
                RESPONSES[2],
                215,
            ),
        ];
        check(
            &mut Decoder {
                table_bytes_max: 256,
                ..Decoder::default()
            },
            &rows,
        );
    }

    #[test]
    fn rfc_7541_c6_responses_with_huffman_evict() {
        let rows = [
            (
                "488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171\
                 863c78f0b97c8\
                 e9ae82ae43d3",
                RESPONSES[0],
                222,
            ),
            ("4883640effc1c0bf", RESPONSES[1], 222),
            (
                "88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c\
                 7b335dfdfcd5b\
                 3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
                RESPONSES[2],
                215,
            ),
        ];
        check(
            &mut Decoder {
                table_bytes_max: 256,
                ..Decoder::default()
            },
            &rows,
        );
    }

    #[test]
    fn what_the_encoder_writes_the_decoder_reads() {
        let long = vec![b'x'; 1337];
        let mut block = Vec::new();
        encode_indexed(8, &mut block);
        encode_literal(b"content-type", b"application/json", &mut block);
        encode_literal(b"x-long", &long, &mut block);
        let mut seen = Vec::new();
        let changed =
            Decoder::default().decode(&block, |name, value| seen.push((name.to_vec(), value.to_vec())));
        assert_eq!(changed, Ok(false));
        let expected: [(&[u8], &[u8]); 3] = [
            (b":status", b"200"),
            (b"content-type", b"application/json"),
            (b"x-long", &long),
        ];
        assert!(
            seen.iter()
                .map(|(n, v)| (n.as_slice(), v.as_slice()))
                .eq(expected)
        );
    }

    #[test]
    fn malformed_blocks_are_refused() {
        let rows = [
            ("80", "index 0"),
            ("be", "index past the table"),
            ("3fe21f", "table size above what we allow"),
            ("40", "header block ends in an integer"),
            ("400361", "header block ends in a string"),
            ("ffffffffffff", "integer too large"),
            ("0084ffffffff00", "bad Huffman string"),
            ("0082ff0000", "bad Huffman string"),
            ("00811800", "bad Huffman string"),
        ];
        for (hex, why) in rows {
            assert_eq!(fields(&mut Decoder::default(), hex), Err(Malformed(why)), "{hex}");
        }
    }
}
