//! Writes the bid response for the SSP (OpenRTB 2.6 §4.2). Takes amounts as text and bids as the DSP's bytes; decides
//! nothing.

use super::BidText;

/// One won imp.
#[derive(Clone, Copy, Debug)]
pub struct Win<'a> {
    /// Which DSP's bid it is: two DSPs may well have seats of one name.
    pub dsp: u16,
    /// Whose bid it is there.
    pub seat: Seat<'a>,
    /// The winner, as its DSP wrote it.
    pub bid: BidText<'a>,
    /// What it pays: a JSON number, CPM in the response's currency.
    pub price: &'a str,
}

/// A seat's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seat<'a> {
    /// As the DSP wrote it, a JSON string: [`SeatBid::seat_raw`](super::SeatBid::seat_raw).
    Raw(&'a [u8]),
    /// The name we know the DSP by, when it gave no seat.
    Name(&'a str),
}

impl Win<'_> {
    fn is_of_the_same_seat(&self, other: &Self) -> bool {
        self.dsp == other.dsp && self.seat == other.seat
    }
}

/// Appends a bid response that sells what is in `wins`, grouped by seat in the order in which seats first appear.
///
/// `id_raw` is [`BidRequest::id_raw`](super::BidRequest::id_raw). Each bid is the DSP's, byte for byte, but for its
/// price, which becomes the clearing price.
pub fn write_response(out: &mut Vec<u8>, id_raw: &[u8], cur: &str, wins: &[Win<'_>]) {
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id_raw);
    out.extend_from_slice(b",\"cur\":");
    write_string(out, cur);
    out.extend_from_slice(b",\"seatbid\":[");
    for (i, win) in wins.iter().enumerate() {
        // Wins are at most as many as imps, so looking through them beats a map.
        if wins[..i].iter().any(|earlier| earlier.is_of_the_same_seat(win)) {
            continue;
        }
        if i > 0 {
            out.push(b',');
        }
        write_seat(out, win, &wins[i..]);
    }
    out.extend_from_slice(b"]}");
}

/// Appends an answer that says no: an empty `seatbid`, and why, in a number of the list that 2.6 takes from OpenRTB 3.0.
pub fn write_no_bid(out: &mut Vec<u8>, id_raw: &[u8], nbr: Option<u16>) {
    out.extend_from_slice(b"{\"id\":");
    out.extend_from_slice(id_raw);
    out.extend_from_slice(b",\"seatbid\":[]");
    if let Some(nbr) = nbr {
        out.extend_from_slice(b",\"nbr\":");
        out.extend_from_slice(nbr.to_string().as_bytes());
    }
    out.push(b'}');
}

fn write_seat(out: &mut Vec<u8>, first: &Win<'_>, wins: &[Win<'_>]) {
    out.extend_from_slice(b"{\"seat\":");
    match first.seat {
        Seat::Raw(text) => out.extend_from_slice(text),
        Seat::Name(name) => write_string(out, name),
    }
    out.extend_from_slice(b",\"bid\":[");
    for (i, win) in wins
        .iter()
        .filter(|win| win.is_of_the_same_seat(first))
        .enumerate()
    {
        if i > 0 {
            out.push(b',');
        }
        let (raw, price) = (win.bid.raw, win.bid.price_span);
        out.extend_from_slice(&raw[..price.start]);
        out.extend_from_slice(win.price.as_bytes());
        out.extend_from_slice(&raw[price.end..]);
    }
    out.extend_from_slice(b"]}");
}

/// Appends a JSON string. What JSON does not order to be escaped stays as it is.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
            0..=0x1f => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openrtb::{Limits, Parser};
    use bumpalo::Bump;

    #[test]
    fn winners_stand_in_their_seats_with_their_price_changed() {
        let body =
            br#"{"seatbid":[{"bid":[{"id":"a","impid":"1","price" : 2.5e0 ,"adm":"x","ext":{"price":9}}]}]}"#;
        let arena = Bump::new();
        let response = Parser::new(Limits::default())
            .parse_response(body, &arena)
            .unwrap();
        let (_, bid) = response.bids().next().unwrap();
        let check = |seats: &[Seat<'_>], seatbid: &str| {
            let wins: Vec<Win<'_>> = seats
                .iter()
                .map(|seat| Win {
                    dsp: 0,
                    seat: *seat,
                    bid: bid.text(),
                    price: "1.01",
                })
                .collect();
            let mut out = b"head ".to_vec();
            write_response(&mut out, br#""r\u0031""#, "EUR", &wins);
            let wanted = format!(r#"head {{"id":"r\u0031","cur":"EUR","seatbid":[{seatbid}]}}"#);
            let bid = r#"{"id":"a","impid":"1","price" : 1.01 ,"adm":"x","ext":{"price":9}}"#;
            assert_eq!(std::str::from_utf8(&out).unwrap(), wanted.replace('@', bid));
        };
        let (s, t) = (Seat::Raw(br#""s""#), Seat::Raw(br#""\u0074""#));
        check(&[], "");
        check(&[s], r#"{"seat":"s","bid":[@]}"#);
        check(
            &[s, t, s],
            r#"{"seat":"s","bid":[@,@]},{"seat":"\u0074","bid":[@]}"#,
        );
        check(
            &[Seat::Name("d\"\\\n\u{1f}é")],
            r#"{"seat":"d\"\\\u000a\u001fé","bid":[@]}"#,
        );
    }

    #[test]
    fn a_no_bid_says_why_if_asked() {
        for (nbr, wanted) in [
            (None, r#"{"id":"1","seatbid":[]}"#),
            (Some(15), r#"{"id":"1","seatbid":[],"nbr":15}"#),
        ] {
            let mut out = Vec::new();
            write_no_bid(&mut out, br#""1""#, nbr);
            assert_eq!(out, wanted.as_bytes());
        }
    }
}
