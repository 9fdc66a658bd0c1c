//! Writes what a DSP answers. The parts that never change are built once; an answer is a few copies between
//! them. Writes into buffers; knows no connection and no clock.

use std::sync::LazyLock;

use flate2::{Compress, Compression, Crc, FlushCompress};

use crate::net::hpack;
use crate::simulated::{self, Bid, Profile};

/// One DSP's answers.
#[derive(Debug)]
pub(super) struct Template {
    dsp: u16,
    after_request_id: Vec<u8>,
    after_price: Vec<u8>,
    /// Served instead of simulated bids.
    fixed: Option<Vec<Segment>>,
    /// Written to the socket instead of any HTTP.
    pub(super) raw: Option<Vec<u8>>,
}

/// A piece of a fixed body.
#[derive(Debug, PartialEq, Eq)]
enum Segment {
    Text(Vec<u8>),
    RequestId,
    FirstImpId,
}

/// The ids of one request, packed so that a call in waiting is a few dozen bytes without an allocation of its
/// own: 140,000 orchestrations in flight are 3.2 million of them. Each id is its length in two bytes and its
/// text.
#[derive(Debug)]
pub(super) enum PackedIds {
    Inline { length: u8, bytes: [u8; INLINE_BYTES] },
    Boxed(Box<[u8]>),
}

/// Fits a UUID and an imp id of up to 10 characters.
const INLINE_BYTES: usize = 50;

/// A long-standing advertisement: pads an answer with one bid to about 600 bytes.
const MARKUP: &str = concat!(
    r#"<a href=\"https://click.example/c?a=${AUCTION_ID}&p=${AUCTION_PRICE}\" target=\"_blank\">"#,
    r#"<img src=\"https://cdn.example/creatives/2026/300x250/spring-sale-final-7f3a9c.jpg\" "#,
    r#"width=\"300\" height=\"250\" alt=\"\"></a><script>/* viewability */"#,
    r#"(function(){var i=new Image();i.src=\"https://px.example/v?i=${AUCTION_IMP_ID}\"})()</script>"#,
);

impl Template {
    /// `fixed` is a body served as it is, but for `@@REQUEST_ID@@` and `@@IMP_ID@@`.
    pub(super) fn new(dsp: u16, fixed: Option<&[u8]>, raw: Option<Vec<u8>>) -> Self {
        let seat = simulated::seat(dsp);
        let domain = simulated::advertiser_domain(dsp);
        Self {
            dsp,
            after_request_id: format!(r#"","seatbid":[{{"seat":"{seat}","bid":["#).into_bytes(),
            after_price: format!(
                r#","adm":"{MARKUP}","adomain":["{domain}"],"crid":"cr-{}","w":300,"h":250}},"#,
                u32::from(dsp) + 1
            )
            .into_bytes(),
            fixed: fixed.map(segments),
            raw,
        }
    }

    /// Appends the response's body. False, with nothing appended, when the DSP bids on none of the imps.
    pub(super) fn write_body(
        &self,
        profile: &Profile,
        ids: &PackedIds,
        id_prefix: &str,
        body: &mut Vec<u8>,
    ) -> bool {
        let request_id = ids.request();
        if let Some(segments) = &self.fixed {
            write_fixed(segments, ids, body);
            return true;
        }
        let start = body.len();
        let mut any = false;
        for imp_id in ids.imps() {
            let Some(bid) = profile.bid(self.dsp, request_id, imp_id) else {
                continue;
            };
            if !any {
                extend(
                    body,
                    &[
                        br#"{"id":""#,
                        id_prefix.as_bytes(),
                        request_id,
                        &self.after_request_id,
                    ],
                );
            }
            any = true;
            self.write_bid(bid, imp_id, body);
        }
        if !any {
            body.truncate(start);
            return false;
        }
        body.pop();
        body.extend_from_slice(br#"]}],"cur":"USD"}"#);
        true
    }

    fn write_bid(&self, bid: Bid, imp_id: &[u8], body: &mut Vec<u8>) {
        extend(
            body,
            &[
                br#"{"id":""#,
                &hex(bid.id),
                br#"","impid":""#,
                imp_id,
                br#"","price":"#,
            ],
        );
        write_price(bid.price_micros, body);
        body.extend_from_slice(&self.after_price);
    }
}

/// Appends several pieces.
fn extend(body: &mut Vec<u8>, pieces: &[&[u8]]) {
    for piece in pieces {
        body.extend_from_slice(piece);
    }
}

fn segments(mut text: &[u8]) -> Vec<Segment> {
    const REQUEST_ID: &[u8] = b"@@REQUEST_ID@@";
    const IMP_ID: &[u8] = b"@@IMP_ID@@";
    let mut segments = Vec::new();
    while let Some(at) = memchr::memmem::find(text, b"@@") {
        let (before, rest) = text.split_at(at);
        segments.push(Segment::Text(before.to_vec()));
        if let Some(after) = rest.strip_prefix(REQUEST_ID) {
            segments.push(Segment::RequestId);
            text = after;
        } else if let Some(after) = rest.strip_prefix(IMP_ID) {
            segments.push(Segment::FirstImpId);
            text = after;
        } else {
            segments.push(Segment::Text(rest[..1].to_vec()));
            text = &rest[1..];
        }
    }
    segments.push(Segment::Text(text.to_vec()));
    segments
}

fn write_fixed(segments: &[Segment], ids: &PackedIds, body: &mut Vec<u8>) {
    for segment in segments {
        body.extend_from_slice(match segment {
            Segment::Text(text) => text,
            Segment::RequestId => ids.request(),
            Segment::FirstImpId => ids.imps().next().unwrap_or_default(),
        });
    }
}

/// CPM with exactly six decimals.
fn write_price(micros: u64, body: &mut Vec<u8>) {
    let mut digits = [b'0'; 24];
    let mut at = digits.len();
    let (mut whole, mut rest) = (micros / 1_000_000, micros % 1_000_000);
    for _ in 0..6 {
        at -= 1;
        digits[at] = digit(rest);
        rest /= 10;
    }
    at -= 1;
    digits[at] = b'.';
    loop {
        at -= 1;
        digits[at] = digit(whole);
        whole /= 10;
        if whole == 0 {
            break;
        }
    }
    body.extend_from_slice(&digits[at..]);
}

fn digit(n: u64) -> u8 {
    b'0' + (n % 10) as u8
}

fn hex(n: u64) -> [u8; 16] {
    let mut text = [0; 16];
    for (pair, byte) in text.chunks_exact_mut(2).zip(n.to_be_bytes()) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    text
}

impl PackedIds {
    /// Packs ids of up to 65,535 bytes, the longest that a body within our limits can make use of. `None` for
    /// longer ones. `scratch` is only for the work.
    pub(super) fn pack<'a>(ids: impl Iterator<Item = &'a [u8]>, scratch: &mut Vec<u8>) -> Option<Self> {
        scratch.clear();
        for id in ids {
            scratch.extend_from_slice(&u16::try_from(id.len()).ok()?.to_le_bytes());
            scratch.extend_from_slice(id);
        }
        let mut bytes = [0; INLINE_BYTES];
        match bytes.get_mut(..scratch.len()) {
            Some(inline) => {
                inline.copy_from_slice(scratch);
                Some(Self::Inline {
                    length: u8::try_from(scratch.len()).ok()?,
                    bytes,
                })
            }
            None => Some(Self::Boxed(scratch.as_slice().into())),
        }
    }

    pub(super) fn request(&self) -> &[u8] {
        self.iter().next().unwrap_or_default()
    }

    fn imps(&self) -> impl Iterator<Item = &[u8]> {
        self.iter().skip(1)
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = match self {
            Self::Inline { length, bytes } => &bytes[..usize::from(*length)],
            Self::Boxed(bytes) => bytes,
        };
        std::iter::from_fn(move || {
            let (length, after) = rest.split_first_chunk()?;
            let (id, after) = after.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            rest = after;
            Some(id)
        })
    }
}

/// What a response says besides its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) status: u16,
    pub(super) gzip: bool,
    pub(super) redirect: bool,
}

impl Message {
    pub(super) const OK: Self = Self::status(200);
    pub(super) const NO_BID: Self = Self::status(204);

    pub(super) const fn status(status: u16) -> Self {
        Self {
            status,
            gzip: false,
            redirect: false,
        }
    }

    /// Appends an HTTP/1.1 head for a body of this length.
    pub(super) fn write_h1_head(self, body_bytes: u64, close: bool, out: &mut Vec<u8>) {
        match self.status {
            200 => out.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"),
            204 => out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n"),
            status => out.extend_from_slice(format!("HTTP/1.1 {status} Simulated\r\n").as_bytes()),
        }
        if self.gzip {
            out.extend_from_slice(b"content-encoding: gzip\r\n");
        }
        if self.redirect {
            out.extend_from_slice(b"location: /bid\r\n");
        }
        if close {
            out.extend_from_slice(b"connection: close\r\n");
        }
        // RFC 9110 §8.6: a 204 has none.
        if self.status != 204 {
            out.extend_from_slice(b"content-length: ");
            write_integer(body_bytes, out);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }

    /// The HTTP/2 header block. The two that matter are constants.
    pub(super) fn h2_block(self) -> std::borrow::Cow<'static, [u8]> {
        static OK_BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| Message::OK.build_h2_block());
        const NO_BID_BLOCK: &[u8] = &[0x89];
        match self {
            Self::OK => OK_BLOCK.as_slice().into(),
            Self::NO_BID => NO_BID_BLOCK.into(),
            _ => self.build_h2_block().into(),
        }
    }

    fn build_h2_block(self) -> Vec<u8> {
        const STATUS_200: u8 = 8;
        let mut block = Vec::new();
        if self.status == 200 {
            hpack::encode_indexed(STATUS_200, &mut block);
            hpack::encode_literal(b"content-type", b"application/json", &mut block);
        } else {
            hpack::encode_literal(b":status", self.status.to_string().as_bytes(), &mut block);
        }
        if self.gzip {
            hpack::encode_literal(b"content-encoding", b"gzip", &mut block);
        }
        if self.redirect {
            hpack::encode_literal(b"location", b"/bid", &mut block);
        }
        block
    }
}

fn write_integer(mut n: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = digit(n);
        n /= 10;
        if n == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// 50 MB: far above any sensible limit on a DSP's answer, small enough to be sent in a test.
pub(super) const HUGE_BYTES: u64 = 50 << 20;

/// One gzip member that inflates to [`HUGE_BYTES`] of spaces. Made of one compressed mebibyte repeated: a
/// full flush makes it independent of what is before it, and compressing all of it would stop the loop for a
/// second.
pub(super) static GZIP_BOMB: LazyLock<Vec<u8>> = LazyLock::new(|| {
    const HEADER: &[u8] = &[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    const EMPTY_LAST_BLOCK: &[u8] = &[3, 0];
    let spaces = vec![b' '; 1 << 20];
    let mut block = Vec::with_capacity(1 << 16);
    let mut compress = Compress::new(Compression::best(), false);
    // Cannot fail on a fresh stream with room for the output; should it, the bomb would be a dud, and its
    // test red.
    let _ = compress.compress_vec(&spaces, &mut block, FlushCompress::Full);
    let (mut block_sum, mut sum) = (Crc::new(), Crc::new());
    block_sum.update(&spaces);
    let mut bomb = HEADER.to_vec();
    for _ in 0..HUGE_BYTES >> 20 {
        bomb.extend_from_slice(&block);
        sum.combine(&block_sum);
    }
    extend(
        &mut bomb,
        &[
            EMPTY_LAST_BLOCK,
            &sum.sum().to_le_bytes(),
            &sum.amount().to_le_bytes(),
        ],
    );
    bomb
});

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn packed(ids: &[&str]) -> PackedIds {
        PackedIds::pack(ids.iter().map(|id| id.as_bytes()), &mut Vec::new())
            .unwrap_or(PackedIds::Boxed(Box::default()))
    }

    #[test]
    fn an_answer_is_the_simulated_bids_in_valid_json_of_about_600_bytes() -> Result<(), serde_json::Error> {
        let profile = Profile {
            bid_share: 1.0,
            ..Profile::default()
        };
        let template = Template::new(4, None, None);
        let id = "3f2504e0-4f89-41d3-9a0c-0305e82c3301";
        for imps in [
            &["1"][..],
            &["1", "2", "a-rather-long-imp-id-that-does-not-fit-inline"],
        ] {
            let mut body = Vec::new();
            assert!(template.write_body(&profile, &packed(&[&[id], imps].concat()), "", &mut body));
            let response: serde_json::Value = serde_json::from_slice(&body)?;
            assert_eq!(response["id"], id);
            assert_eq!(response["cur"], "USD");
            assert_eq!(response["seatbid"][0]["seat"], "seat-5");
            let bids = response["seatbid"][0]["bid"]
                .as_array()
                .map(Vec::as_slice)
                .unwrap_or_default();
            assert_eq!(bids.len(), imps.len());
            for (bid, imp) in bids.iter().zip(imps) {
                let expected = profile.bid(4, id.as_bytes(), imp.as_bytes());
                let micros = expected.map_or(0, |bid| bid.price_micros);
                assert_eq!(bid["impid"], **imp);
                assert_eq!(bid["adomain"][0], "adv5.example");
                assert_eq!(bid["id"], format!("{:016x}", expected.map_or(0, |bid| bid.id)));
                let price = format!(
                    r#""impid":"{imp}","price":{}.{:06},"#,
                    micros / 1_000_000,
                    micros % 1_000_000
                );
                assert!(String::from_utf8_lossy(&body).contains(&price), "{price}");
            }
            if imps.len() == 1 {
                assert!((550..650).contains(&body.len()), "{} bytes", body.len());
            }
        }
        Ok(())
    }

    #[test]
    fn no_bid_leaves_nothing_behind() {
        let profile = Profile {
            bid_share: 0.0,
            ..Profile::default()
        };
        let mut body = b"before".to_vec();
        assert!(!Template::new(0, None, None).write_body(&profile, &packed(&["r", "1"]), "", &mut body));
        assert_eq!(body, b"before");
    }

    #[test]
    fn fixed_bodies_take_the_ids_of_the_request() {
        let check = |text: &str, expected: &str| {
            let mut body = Vec::new();
            let template = Template::new(0, Some(text.as_bytes()), None);
            assert!(template.write_body(&Profile::default(), &packed(&["r1", "i1", "i2"]), "", &mut body));
            assert_eq!(String::from_utf8_lossy(&body), expected);
        };
        check("{}", "{}");
        check("@@@IMP_ID@@@ @@X@@", "@i1@ @@X@@");
        check(
            r#"{"id":"@@REQUEST_ID@@","x":"@@IMP_ID@@@@REQUEST_ID@@"}"#,
            r#"{"id":"r1","x":"i1r1"}"#,
        );
    }

    #[test]
    fn prices_have_six_decimals() {
        for (micros, text) in [
            (0, "0.000000"),
            (1, "0.000001"),
            (1_234_567, "1.234567"),
            (120_000_000, "120.000000"),
        ] {
            let mut out = Vec::new();
            write_price(micros, &mut out);
            assert_eq!(String::from_utf8_lossy(&out), text);
        }
    }

    #[test]
    fn the_bomb_is_small_and_inflates_whole() -> std::io::Result<()> {
        let mut inflated = Vec::new();
        flate2::read::GzDecoder::new(GZIP_BOMB.as_slice()).read_to_end(&mut inflated)?;
        assert_eq!(inflated.len() as u64, HUGE_BYTES);
        assert!(GZIP_BOMB.len() < 100_000, "{} bytes", GZIP_BOMB.len());
        Ok(())
    }

    #[test]
    fn ids_that_are_too_long_are_refused() {
        let long = vec![b'x'; 65_536];
        assert!(PackedIds::pack(std::iter::once(long.as_slice()), &mut Vec::new()).is_none());
        assert!(
            PackedIds::pack(std::iter::once(&long[1..]), &mut Vec::new())
                .is_some_and(|p| p.request() == &long[1..])
        );
    }
}
