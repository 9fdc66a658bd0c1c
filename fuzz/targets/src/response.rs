//! A DSP's answer: we and serde_json agree on whether it is JSON and on every value we read; a bid that wins is sent on as
//! it came but for its price; reading takes memory in proportion to the answer.

use bumpalo::Bump;
use corebid::openrtb::{BadResponse, BidResponse, Limits, Parser, Seat, StringText, Win, write_response};
use serde_json::{Value, json};

use crate::heap;
use crate::json::{depth, is_of_a_huge_number, number, texts};

/// An arena's first chunk, and what is kept of a bid (some 300 bytes, in lists that grow by doubling) for the least that
/// is one: `{},` is a bad bid of 3 bytes, and there are at most [`Limits::bids_max`] of them.
const HEAP_BYTES_START: usize = 512 << 10;
const HEAP_BYTES_PER_BYTE: usize = 16;

/// See the module's description.
pub fn check(body: &[u8]) {
    let limits = Limits::default();
    let peak = heap::peak_of(|| {
        let arena = Bump::new();
        let _ = Parser::new(limits).parse_response(body, &arena);
    });
    assert!(
        peak <= HEAP_BYTES_START + HEAP_BYTES_PER_BYTE * body.len(),
        "{peak} bytes"
    );
    check_with(limits, body);
}

/// The same with other limits, and without regard to memory.
pub fn check_with(limits: Limits, body: &[u8]) {
    let arena = Bump::new();
    let response = Parser::new(limits).parse_response(body, &arena);
    if matches!(response, Err(BadResponse::TooDeep)) {
        assert!(depth(body) > limits.depth_max, "it is not so deep");
        return;
    }
    let is_json = !matches!(response, Err(BadResponse::NotJson(_)));
    match serde_json::from_slice::<Value>(body) {
        Ok(value) => {
            assert!(is_json, "we refuse JSON: {response:?}");
            if let Ok(response) = response {
                same_bids(&response, &value);
                sells(&response);
            }
        }
        Err(error) if is_of_a_huge_number(&error) => {}
        // Nothing at all is a no-bid, and serde_json stops at a depth of 128.
        Err(error) => assert!(
            !is_json || body.trim_ascii().is_empty() || depth(body) >= 128,
            "we read what is not JSON: {error}"
        ),
    }
}

/// What is taken of an answer's bids is what serde_json reads there. A document with a name that comes twice is left out:
/// serde_json keeps the last.
pub fn same_bids(response: &BidResponse<'_>, value: &Value) {
    let seats = value["seatbid"].as_array().map_or(&[][..], |seats| seats);
    assert_eq!(response.seats.len(), seats.len());
    assert_eq!(response.id, value["id"].as_str());
    for (seat, value) in response.seats.iter().zip(seats) {
        let named = |seat: &&str| !seat.is_empty();
        assert_eq!(seat.seat, value["seat"].as_str().filter(named));
        let bids = value["bid"].as_array().map_or(0, Vec::len);
        assert!(seat.bids.len() == bids || seat.has_bad_bids);
    }
    for (_, bid) in response.bids() {
        let arena = Bump::new();
        let value: Value = serde_json::from_slice(bid.raw).unwrap();
        assert_eq!(Some(bid.id), value["id"].as_str());
        assert_eq!(Some(bid.impid), value["impid"].as_str());
        assert_eq!(&bid.raw[bid.price_span.range()], bid.price.as_bytes());
        assert_eq!(Some(number(bid.price.as_bytes())), value["price"].as_f64());
        assert_eq!(bid.adomain.to_vec(), texts(&value["adomain"]));
        let text = |text: Option<StringText<'_>>| text.map(|text| text.unescape(&arena).to_owned());
        let given = |name: &str| {
            value[name]
                .as_str()
                .filter(|text| !text.is_empty())
                .map(str::to_owned)
        };
        assert_eq!(bid.dealid.map(str::to_owned), given("dealid"));
        assert_eq!(text(bid.adm), given("adm"));
        assert_eq!(text(bid.nurl), given("nurl"));
        assert_eq!(text(bid.burl), given("burl"));
        assert_eq!(text(bid.lurl), given("lurl"));
        let whole = |name: &str| value[name].as_f64();
        assert_eq!(bid.mtype.map(f64::from), whole("mtype"));
        assert_eq!(bid.dur_s.map(f64::from), whole("dur"));
    }
}

/// Every bid of an answer, written as if all had won: by seat, and the DSP's but for its price.
pub fn sells(response: &BidResponse<'_>) {
    const NAMELESS: &str = "d\"sp";
    let price = "0.000001";
    let wins: Vec<Win<'_>> = response
        .bids()
        .map(|(seat, bid)| Win {
            dsp: 0,
            seat: seat.seat_raw.map_or(Seat::Name(NAMELESS), Seat::Raw),
            bid: bid.text(),
            price,
        })
        .collect();
    let mut out = Vec::new();
    write_response(&mut out, br#""1""#, "USD", &wins);
    let mut wanted: Vec<(Seat<'_>, Value)> = Vec::new();
    for (win, (seat, bid)) in wins.iter().zip(response.bids()) {
        let mut bid: Value = serde_json::from_slice(bid.raw).unwrap();
        bid["price"] = json!(0.000001);
        match wanted.iter_mut().find(|(raw, _)| *raw == win.seat) {
            Some((_, wanted)) => wanted["bid"].as_array_mut().unwrap().push(bid),
            None => wanted.push((
                win.seat,
                json!({"seat": seat.seat.unwrap_or(NAMELESS), "bid": [bid]}),
            )),
        }
    }
    let wanted: Vec<Value> = wanted.into_iter().map(|(_, seat)| seat).collect();
    let written: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(written, json!({"id": "1", "cur": "USD", "seatbid": wanted}));
}
