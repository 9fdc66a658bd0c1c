//! HPACK (RFC 7541): header blocks of responses in, one constant block per DSP out.
//!
//! We advertise a table of 0 bytes, so the peer's dynamic table is always empty and a block means the same whenever
//! it is read: nothing has to be kept between blocks, and a block that nobody waits for need not be decoded.

use super::huffman;
use crate::fanout::digits::decimal;
use crate::fanout::dsp::DspOptions;

/// Of a decoded header list, with 32 bytes for each field as RFC 9113 §6.5.2 counts: what HTTP/1.1 heads are allowed.
pub const LIST_BYTES_MAX: usize = 16 << 10;

/// What a field costs beyond its text (RFC 7541 §4.1).
const FIELD_OVERHEAD_BYTES: usize = 32;

/// Why a header block was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockError {
    /// It cannot be decoded: the connection is at fault (RFC 9113 §4.3).
    Malformed(&'static str),
    /// It is longer than allowed: this stream is at fault.
    TooLarge,
}

use BlockError::Malformed;

/// The strings of one block that do not stand in it plainly; kept by the connection for their memory.
#[derive(Debug, Default)]
pub struct Scratch {
    name: Vec<u8>,
    value: Vec<u8>,
}

/// Decodes one header block: `read` says what a field means by its name and value, `each` is told so, field by field.
/// What `read` says must depend on name and value alone: fields of the last block are not read again, see [`Known`].
///
/// # Errors
/// [`BlockError`]. Fields before the fault have been told then.
pub fn decode<M: Copy>(
    mut input: &[u8],
    scratch: &mut Scratch,
    known: &mut Known<M>,
    mut read: impl FnMut(&[u8], &[u8]) -> M,
    mut each: impl FnMut(M),
) -> Result<(), BlockError> {
    // Only at the beginning (RFC 7541 §4.2), and only to what we allow.
    while input.first().is_some_and(|first| is_resize(*first)) {
        if integer(&mut input, 5)? > 0 {
            return Err(RESIZED);
        }
    }
    let (mut list_bytes, mut place) = (0, 0);
    while !input.is_empty() {
        let field = match known.at(place, input) {
            Some(field) => field,
            None => {
                let field = Field::read(input, scratch, &mut read)?;
                known.keep(place, input, &field);
                field
            }
        };
        list_bytes += field.list_bytes;
        if list_bytes > LIST_BYTES_MAX {
            return Err(BlockError::TooLarge);
        }
        each(field.meaning);
        input = &input[field.bytes..];
        place += 1;
    }
    Ok(())
}

const RESIZED: BlockError = Malformed("dynamic table resized");

fn is_resize(first: u8) -> bool {
    first & 0xe0 == 0x20
}

/// One field.
#[derive(Debug, Clone, Copy)]
struct Field<M> {
    meaning: M,
    /// In the block.
    bytes: usize,
    /// Of its share in the header list.
    list_bytes: usize,
}

impl<M> Field<M> {
    /// The field that `input` begins with.
    fn read(
        input: &[u8],
        scratch: &mut Scratch,
        read: impl FnOnce(&[u8], &[u8]) -> M,
    ) -> Result<Self, BlockError> {
        let mut rest = input;
        let first = input.first().copied().unwrap_or(0);
        if is_resize(first) {
            return Err(RESIZED);
        }
        let (name, value): (&[u8], &[u8]) = if first & 0x80 != 0 {
            let (name, value) = from_static_table(integer(&mut rest, 7)?)?;
            (name.as_bytes(), value.as_bytes())
        } else {
            // A literal that is to be kept (RFC 7541 §6.2.1) is none the less too large for an empty table (§4.4).
            let index = integer(&mut rest, if first & 0x40 != 0 { 6 } else { 4 })?;
            let name = match index {
                0 => string(&mut rest, &mut scratch.name)?,
                _ => from_static_table(index)?.0.as_bytes(),
            };
            (name, string(&mut rest, &mut scratch.value)?)
        };
        Ok(Self {
            meaning: read(name, value),
            bytes: input.len() - rest.len(),
            list_bytes: name.len() + value.len() + FIELD_OVERHEAD_BYTES,
        })
    }
}

/// The fields of the last block, by their places in it.
///
/// Answers to one kind of question have heads of one kind: a server writes the same fields in the same order, and from one
/// answer to the next most of them are the same to the byte: all of a no-bid's within a second. The table being empty, the same
/// bytes mean the same field, so a field that stands where it stood in the last block is not read again.
#[derive(Debug)]
pub struct Known<M> {
    fields: Vec<KnownField<M>>,
}

/// One cache line.
#[derive(Debug)]
struct KnownField<M> {
    bytes: [u8; KNOWN_BYTES_MAX],
    /// 0 if it was too long.
    length: u8,
    list_bytes: u8,
    meaning: M,
}

/// Fields of a block that are kept; so the memory of a connection's two kinds of heads is 2 kB.
const KNOWN_FIELDS_MAX: usize = 16;

/// Of a field that is kept. A date has 25 bytes; longer ones, cookies and policies, are of no use to us and rare.
const KNOWN_BYTES_MAX: usize = 32;

impl<M> Default for Known<M> {
    fn default() -> Self {
        Self { fields: Vec::new() }
    }
}

impl<M: Copy> Known<M> {
    /// The field at this place, if it is the one that `input` begins with.
    fn at(&self, place: usize, input: &[u8]) -> Option<Field<M>> {
        let known = self.fields.get(place)?;
        let bytes = usize::from(known.length);
        // No field is the beginning of another one, so what begins with its bytes is this field.
        (bytes > 0 && input.starts_with(&known.bytes[..bytes])).then_some(Field {
            meaning: known.meaning,
            bytes,
            list_bytes: known.list_bytes.into(),
        })
    }

    /// Keeps the field at this place, which `input` begins with. All places before it have been kept.
    fn keep(&mut self, place: usize, input: &[u8], field: &Field<M>) {
        if place >= KNOWN_FIELDS_MAX {
            return;
        }
        let mut known = KnownField {
            bytes: [0; KNOWN_BYTES_MAX],
            length: 0,
            list_bytes: u8::try_from(field.list_bytes).unwrap_or(0),
            meaning: field.meaning,
        };
        // Were it not to fit in `list_bytes`, it would be far too long for `bytes`.
        if known.list_bytes > 0
            && let Some(bytes) = known.bytes.get_mut(..field.bytes)
        {
            bytes.copy_from_slice(&input[..field.bytes]);
            known.length = u8::try_from(field.bytes).unwrap_or(0);
        }
        match self.fields.get_mut(place) {
            Some(place) => *place = known,
            None => self.fields.push(known),
        }
    }
}

fn from_static_table(index: usize) -> Result<(&'static str, &'static str), BlockError> {
    let from_zero = index.checked_sub(1).ok_or(Malformed("index 0"))?;
    STATIC_TABLE
        .get(from_zero)
        .copied()
        .ok_or(Malformed("index into an empty dynamic table"))
}

/// RFC 7541 §5.1. Three more bytes reach two million, far past anything a block of ours can hold.
fn integer(input: &mut &[u8], prefix_bits: u32) -> Result<usize, BlockError> {
    const CUT_OFF: BlockError = Malformed("block ends in an integer");
    let (first, rest) = input.split_first().ok_or(CUT_OFF)?;
    *input = rest;
    let prefix_max = (1_usize << prefix_bits) - 1;
    let mut value = usize::from(*first) & prefix_max;
    if value < prefix_max {
        return Ok(value);
    }
    for shift in [0, 7, 14] {
        let (byte, rest) = input.split_first().ok_or(CUT_OFF)?;
        *input = rest;
        value += usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Malformed("integer too large"))
}

/// RFC 7541 §5.2. Borrows the input where it stands there plainly.
fn string<'text, 'block: 'text>(
    input: &mut &'block [u8],
    scratch: &'text mut Vec<u8>,
) -> Result<&'text [u8], BlockError> {
    let huffman = input.first().is_some_and(|first| first & 0x80 != 0);
    let length = integer(input, 7)?;
    let (text, rest) = input
        .split_at_checked(length)
        .ok_or(Malformed("block ends in a string"))?;
    *input = rest;
    if !huffman {
        return Ok(text);
    }
    scratch.clear();
    huffman::decode(text, scratch).ok_or(Malformed("bad Huffman string"))?;
    Ok(scratch)
}

/// The header block of every request to one DSP, up to the length of its body. Uses nothing that a connection would
/// have to remember, so it is valid on every connection at any time.
#[derive(Debug)]
pub struct RequestBlock(Vec<u8>);

impl RequestBlock {
    /// The block for `dsp`.
    #[must_use]
    pub fn new(dsp: &DspOptions) -> Self {
        let scheme = if dsp.tls.is_some() {
            SCHEME_HTTPS
        } else {
            SCHEME_HTTP
        };
        let mut block = vec![0x80 | METHOD_POST, 0x80 | scheme];
        let agent = concat!("corebid/", env!("CARGO_PKG_VERSION"));
        literal(&mut block, PATH, dsp.target.path.as_bytes());
        literal(&mut block, AUTHORITY, dsp.target.authority.as_bytes());
        literal(&mut block, USER_AGENT, agent.as_bytes());
        literal(&mut block, CONTENT_TYPE, b"application/json");
        block.push(0);
        push_string(&mut block, b"x-openrtb-version");
        push_string(&mut block, b"2.6");
        if dsp.gzip {
            literal(&mut block, ACCEPT_ENCODING, b"gzip");
            literal(&mut block, CONTENT_ENCODING, b"gzip");
        }
        Self(block)
    }

    /// The constant part.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What completes the block for a body of `length` bytes.
    pub(super) fn end(length: usize, room: &mut [u8; 23]) -> &[u8] {
        let mut digits = [0; 20];
        let digits = decimal(length, &mut digits);
        // Below 31, so that the whole index takes two bytes, and 20 digits need one byte of length.
        room[..3].copy_from_slice(&[15, CONTENT_LENGTH - 15, u8::try_from(digits.len()).unwrap_or(0)]);
        room[3..3 + digits.len()].copy_from_slice(digits);
        &room[..3 + digits.len()]
    }
}

/// Appends a field with a name from the static table, as a literal that the peer does not keep (RFC 7541 §6.2.2).
fn literal(block: &mut Vec<u8>, name: u8, value: &[u8]) {
    push_integer(block, 15, usize::from(name));
    push_string(block, value);
}

fn push_string(block: &mut Vec<u8>, text: &[u8]) {
    push_integer(block, 127, text.len());
    block.extend_from_slice(text);
}

fn push_integer(block: &mut Vec<u8>, prefix_max: u8, value: usize) {
    let Some(mut rest) = value.checked_sub(usize::from(prefix_max)) else {
        return block.push(u8::try_from(value).unwrap_or(prefix_max));
    };
    block.push(prefix_max);
    while rest >= 128 {
        block.push(0x80 | u8::try_from(rest & 0x7f).unwrap_or(0));
        rest >>= 7;
    }
    block.push(u8::try_from(rest).unwrap_or(0));
}

const AUTHORITY: u8 = 1;
const METHOD_POST: u8 = 3;
const PATH: u8 = 4;
const SCHEME_HTTP: u8 = 6;
const SCHEME_HTTPS: u8 = 7;
const ACCEPT_ENCODING: u8 = 16;
const CONTENT_ENCODING: u8 = 26;
const CONTENT_LENGTH: u8 = 28;
const CONTENT_TYPE: u8 = 31;
const USER_AGENT: u8 = 58;

/// RFC 7541 Appendix A.
#[rustfmt::skip]
static STATIC_TABLE: [(&str, &str); 61] = [
    (":authority", ""), (":method", "GET"), (":method", "POST"), (":path", "/"), (":path", "/index.html"),
    (":scheme", "http"), (":scheme", "https"), (":status", "200"), (":status", "204"), (":status", "206"),
    (":status", "304"), (":status", "400"), (":status", "404"), (":status", "500"), ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"), ("accept-language", ""), ("accept-ranges", ""), ("accept", ""),
    ("access-control-allow-origin", ""), ("age", ""), ("allow", ""), ("authorization", ""), ("cache-control", ""),
    ("content-disposition", ""), ("content-encoding", ""), ("content-language", ""), ("content-length", ""),
    ("content-location", ""), ("content-range", ""), ("content-type", ""), ("cookie", ""), ("date", ""), ("etag", ""),
    ("expect", ""), ("expires", ""), ("from", ""), ("host", ""), ("if-match", ""), ("if-modified-since", ""),
    ("if-none-match", ""), ("if-range", ""), ("if-unmodified-since", ""), ("last-modified", ""), ("link", ""),
    ("location", ""), ("max-forwards", ""), ("proxy-authenticate", ""), ("proxy-authorization", ""), ("range", ""),
    ("referer", ""), ("refresh", ""), ("retry-after", ""), ("server", ""), ("set-cookie", ""),
    ("strict-transport-security", ""), ("transfer-encoding", ""), ("user-agent", ""), ("vary", ""), ("via", ""),
    ("www-authenticate", ""),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fanout::Target;

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex
            .bytes()
            .filter_map(|c| u8::try_from(char::from(c).to_digit(16)?).ok())
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    fn fields(block: &[u8]) -> Result<Vec<String>, BlockError> {
        let mut fields = Vec::new();
        let read = |name: &[u8], value: &[u8]| {
            fields.push(format!("{}={}", name.escape_ascii(), value.escape_ascii()));
        };
        decode(
            block,
            &mut Scratch::default(),
            &mut Known::default(),
            read,
            |()| (),
        )?;
        Ok(fields)
    }

    #[track_caller]
    fn check(hex: &str, expected: &[&str]) {
        assert_eq!(fields(&bytes(hex)).unwrap(), expected, "{hex}");
    }

    #[track_caller]
    fn refuses(hex: &str, why: &'static str) {
        assert_eq!(fields(&bytes(hex)), Err(Malformed(why)), "{hex}");
    }

    #[test]
    fn the_examples_of_rfc_7541_that_need_no_dynamic_table() {
        // C.2.1 to C.2.4.
        check(
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            &["custom-key=custom-header"],
        );
        check("040c 2f73 616d 706c 652f 7061 7468", &[":path=/sample/path"]);
        check("1008 7061 7373 776f 7264 0673 6563 7265 74", &["password=secret"]);
        check("82", &[":method=GET"]);
        // C.3.1, C.4.1.
        let request = [
            ":method=GET",
            ":scheme=http",
            ":path=/",
            ":authority=www.example.com",
        ];
        check("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", &request);
        check("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", &request);
        // C.5.1, C.6.1: told to keep four fields, we keep none.
        let response = [
            ":status=302",
            "cache-control=private",
            "date=Mon, 21 Oct 2013 20:13:21 GMT",
            "location=https://www.example.com",
        ];
        check(
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133
             2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            &response,
        );
        check(
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6
             2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            &response,
        );
        // C.6.2 then counts on them.
        refuses("4883 640e ffc1 c0bf", "index into an empty dynamic table");
    }

    #[test]
    fn the_dynamic_table_stays_empty() {
        check("20 88", &[":status=200"]);
        check("20 20 89", &[":status=204"]);
        refuses("21 88", "dynamic table resized");
        refuses("3f e1 1f 88", "dynamic table resized");
        refuses("88 20", "dynamic table resized");
        check("bd", &["www-authenticate="]);
        refuses("be", "index into an empty dynamic table");
        refuses("7e 01 61", "index into an empty dynamic table");
        refuses("80", "index 0");
    }

    #[test]
    fn integers_end_and_are_bounded() {
        refuses("ff", "block ends in an integer");
        refuses("ff 80", "block ends in an integer");
        refuses("ff ff ff ff 01", "integer too large");
        refuses("ff ff ff ff ff ff ff ff ff ff ff 01", "integer too large");
        refuses("ff ff ff 7f", "index into an empty dynamic table");
        refuses("00 05 61", "block ends in a string");
        refuses("00 01 61", "block ends in an integer");
        refuses("00 7f ff ff 7f 61", "block ends in a string");
        check("00 01 61 00", &["a="]);
        refuses("00 01 61 81 ff", "bad Huffman string");
    }

    #[test]
    fn a_header_list_is_bounded_as_decoded() {
        let block = |length: usize| {
            let mut block = vec![0];
            push_string(&mut block, b"a");
            push_string(&mut block, &vec![b'x'; length]);
            block
        };
        let most = LIST_BYTES_MAX - FIELD_OVERHEAD_BYTES - 1;
        assert!(fields(&block(most)).is_ok());
        assert_eq!(fields(&block(most + 1)), Err(BlockError::TooLarge));
        let many = LIST_BYTES_MAX / (FIELD_OVERHEAD_BYTES + 10);
        assert!(fields(&vec![0x88; many]).is_ok());
        assert_eq!(fields(&vec![0x88; many + 1]), Err(BlockError::TooLarge), "a bomb");
    }

    /// What a reader that has read other blocks before makes of one.
    fn fields_after(known: &mut Known<&'static str>, block: &[u8]) -> Result<Vec<String>, BlockError> {
        let mut fields = Vec::new();
        // Leaked, because what is kept is copied.
        let read = |name: &[u8], value: &[u8]| -> &'static str {
            format!("{}={}", name.escape_ascii(), value.escape_ascii()).leak()
        };
        decode(block, &mut Scratch::default(), known, read, |field| {
            fields.push(field.to_owned());
        })?;
        Ok(fields)
    }

    #[test]
    fn only_what_has_changed_is_read_again() {
        let block = |length: &str, long: usize| {
            let mut block = vec![0x88];
            literal(&mut block, CONTENT_TYPE, b"application/json");
            literal(&mut block, CONTENT_LENGTH, length.as_bytes());
            literal(&mut block, USER_AGENT, &vec![b'x'; long]);
            block
        };
        let (mut known, mut scratch) = (Known::default(), Scratch::default());
        let mut read = |block: &[u8]| {
            let (mut read, mut all) = (Vec::new(), 0);
            let reads = |name: &[u8], _: &[u8]| read.push(String::from_utf8(name.to_vec()).unwrap());
            decode(block, &mut scratch, &mut known, reads, |()| all += 1).unwrap();
            assert_eq!(all, 4);
            read.join(" ")
        };
        let fits = KNOWN_BYTES_MAX - 3;
        let all = ":status content-type content-length user-agent";
        assert_eq!(read(&block("600", fits)), all);
        assert_eq!(read(&block("600", fits)), "");
        assert_eq!(read(&block("601", fits)), "content-length");
        assert_eq!(
            read(&block("60", fits)),
            "content-length",
            "the beginning of another"
        );
        assert_eq!(read(&block("60", fits + 1)), "user-agent");
        assert_eq!(read(&block("60", fits + 1)), "user-agent", "too long to be kept");
        let many = vec![0x88; KNOWN_FIELDS_MAX + 4];
        let mut read = 0;
        for _ in 0..2 {
            decode(&many, &mut scratch, &mut known, |_, _| read += 1, |()| ()).unwrap();
        }
        assert_eq!(
            read,
            many.len() - 1 + 4,
            "the first was known, then all that are kept"
        );
    }

    proptest::proptest! {
        /// Whatever came before, a block means what it means by itself. Blocks are made of a few pieces, whole fields and
        /// broken ones, so that they often begin alike.
        #[test]
        fn what_is_kept_changes_nothing(
            blocks in proptest::collection::vec(proptest::collection::vec(0..PIECES.len(), 0..8), 1..8)
        ) {
            let mut known = Known::default();
            for pieces in blocks {
                let block: Vec<u8> = pieces.iter().flat_map(|piece| PIECES[*piece]).copied().collect();
                proptest::prop_assert_eq!(fields_after(&mut known, &block), fields(&block));
            }
        }
    }

    const PIECES: &[&[u8]] = &[
        b"\x88",
        b"\x89",
        b"\x20",
        b"\x21",
        b"\xbe",
        b"\x0f\x0d\x03600",
        b"\x0f\x0d\x03601",
        b"\x0f\x0d\x0260",
        b"\x0f\x0d\x82\x70\x00",
        b"\x0f\x0d\x82\x70\x0e",
        b"\x00\x01a\x01b",
        b"\x00\x01a",
        b"\x40\x01a\x01b",
        b"\x10\x01a\x00",
        b"\x00\x01n\x21ccccccccccccccccccccccccccccccccc",
    ];

    #[test]
    fn our_own_block_says_what_the_request_is() {
        let dsp = DspOptions {
            target: Target {
                address: ([127, 0, 0, 1], 1).into(),
                authority: "dsp.example:8080".to_owned(),
                path: format!("/{}", "p".repeat(300)),
            },
            gzip: true,
            ..crate::fanout::tests::dsp(0, true)
        };
        let block = RequestBlock::new(&dsp);
        let whole = [block.bytes(), RequestBlock::end(1_300, &mut [0; 23])].concat();
        assert_eq!(
            fields(&whole).unwrap(),
            [
                ":method=POST",
                ":scheme=http",
                &format!(":path={}", dsp.target.path),
                ":authority=dsp.example:8080",
                concat!("user-agent=corebid/", env!("CARGO_PKG_VERSION")),
                "content-type=application/json",
                "x-openrtb-version=2.6",
                "accept-encoding=gzip",
                "content-encoding=gzip",
                "content-length=1300",
            ]
        );
        let secure = DspOptions {
            tls: Some(crate::fanout::tests::tls()),
            ..dsp
        };
        let block = RequestBlock::new(&secure);
        assert_eq!(fields(block.bytes()).unwrap()[1], ":scheme=https");
        let longest = RequestBlock::end(usize::MAX, &mut [0; 23]).to_vec();
        assert_eq!(
            fields(&longest).unwrap(),
            [format!("content-length={}", usize::MAX)]
        );
    }
}
