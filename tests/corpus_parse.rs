//! Runs every document of `tests/corpus` (its README says what they are) through the parser and compares the verdict
//! with the one in the document's `.why`. All mismatches are printed at once.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it is"
)]

use bumpalo::Bump;
use corebid::openrtb::Seat;
use corebid::openrtb::{BidResponse, Invalid, Limits, Parser, Rule, Splice, Validation, Win, write_response};
use serde_json::Value;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

#[test]
fn valid_requests_are_read_and_sent_on_unchanged_but_for_tmax() {
    check_all("requests/valid", |document| {
        let arena = Bump::new();
        let request = parser()
            .parse_request(&document.body, &arena, &Validation::default())
            .map_err(|invalid| format!("refused: {invalid}"))?;
        let value = document.json();
        expect("id", Some(request.id), value["id"].as_str())?;
        expect(
            "imps",
            request.imps.len(),
            value["imp"].as_array().map_or(0, Vec::len),
        )?;
        expect("tmax", request.tmax_ms.map(f64::from), value["tmax"].as_f64())?;
        for (imp, value) in request
            .imps
            .iter()
            .zip(value["imp"].as_array().into_iter().flatten())
        {
            expect("imp.id", Some(imp.id), value["id"].as_str())?;
            expect("floor", imp.floor.map(number), value["bidfloor"].as_f64())?;
            let deals = value["pmp"]["deals"].as_array();
            expect("deals", imp.deals.len(), deals.map_or(0, Vec::len))?;
            for (deal, value) in imp.deals.iter().zip(deals.into_iter().flatten()) {
                expect("deal floor", deal.floor.map(number), value["bidfloor"].as_f64())?;
            }
        }
        let sent: Value = serde_json::from_slice(Splice::new(&request).encode(87, &arena))
            .map_err(|error| format!("spliced: {error}"))?;
        let mut wanted = value;
        wanted["tmax"] = 87.into();
        expect("spliced", sent, wanted)
    });
}

#[test]
fn invalid_requests_are_refused() {
    check_all("requests/invalid", |document| match document.request() {
        Ok(()) => Err("accepted".to_owned()),
        Err(_) => Ok(()),
    });
}

#[test]
fn contested_requests_are_given_the_benefit_of_the_doubt() {
    check_all("requests/contested", |document| {
        document.request().map_err(|invalid| invalid.to_string())
    });
}

#[test]
fn captured_traffic_gets_an_answer() {
    // Ad exchange requests of 2016 in a dialect older than OpenRTB 2.5.
    let traffic = fs::read(corpus("traffic/rtb4free-adx-2016.ndjson")).unwrap();
    let (mut parser, arena) = (parser(), Bump::new());
    let mut refused = Vec::new();
    for line in traffic
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let verdict = parser.parse_request(line, &arena, &Validation::default());
        refused.extend(verdict.err().map(|invalid| invalid.to_string()));
    }
    assert_eq!(refused, ["imp[0].video.mimes: required"; 2], "of 500");
}

#[test]
fn valid_responses_lose_no_bid() {
    check_all("responses/valid", |document| {
        let arena = Bump::new();
        let response = document.response(&arena)?;
        expect("bad bids", response.bad_bids.len(), 0)?;
        let value = document.json_or_null();
        let bids: Vec<&Value> = bids_of(&value).map(|(_, bid)| bid).collect();
        expect("bids", response.bids().count(), bids.len())?;
        for ((_, bid), value) in response.bids().zip(bids) {
            expect(
                "raw",
                &serde_json::from_slice::<Value>(bid.raw).map_err(|error| error.to_string())?,
                value,
            )?;
            expect("price", Some(number(bid.price)), value["price"].as_f64())?;
            expect(
                "price span",
                &bid.raw[bid.price_span.range()],
                bid.price.as_bytes(),
            )?;
            expect("impid", Some(bid.impid), value["impid"].as_str())?;
        }
        Ok(())
    });
}

#[test]
fn winners_are_written_with_only_the_price_changed() {
    check_all("responses/valid", |document| {
        let arena = Bump::new();
        let response = document.response(&arena)?;
        let wins: Vec<Win> = response
            .bids()
            .map(|(seat, bid)| Win {
                dsp: 0,
                seat: seat.seat_raw.map_or(Seat::Name("d\"sp"), Seat::Raw),
                bid: bid.text(),
                price: "0.123456",
            })
            .collect();
        let mut out = Vec::new();
        write_response(&mut out, br#""re\u0071""#, "EUR", &wins);
        let written: Value = serde_json::from_slice(&out).map_err(|error| error.to_string())?;
        expect("id", written["id"].as_str(), Some("req"))?;
        expect("cur", written["cur"].as_str(), Some("EUR"))?;
        expect("bids", bids_of(&written).count(), wins.len())?;
        for (seat, bid) in bids_of(&written) {
            let before = wins
                .iter()
                .map(|win| serde_json::from_slice::<Value>(win.bid.raw).unwrap());
            let same = |mut before: Value| {
                before["price"] = bid["price"].clone();
                before == *bid
            };
            expect("a bid of the DSP's", before.into_iter().any(same), true)?;
            expect("price", bid["price"].as_f64(), Some(0.123456))?;
            expect("seat", seat.is_string(), true)?;
        }
        Ok(())
    });
}

#[test]
fn invalid_responses_lose_what_is_faulty_and_no_more() {
    check_all("responses/invalid", |document| {
        let arena = Bump::new();
        let value = document.json_or_null();
        // A `.why` names each fault once, however many bids have it, so the sound bids are counted here.
        let sound = bids_of(&value).filter(|(_, bid)| is_sound(bid)).count();
        match document.response(&arena) {
            Ok(response) => {
                expect("bids", response.bids().count(), sound)?;
                expect(
                    "bad bids",
                    response.bad_bids.len(),
                    bids_of(&value).count() - sound,
                )
            }
            Err(_) if sound == 0 => Ok(()),
            Err(error) => Err(format!("a faulty bid spoiled the rest: {error}")),
        }
    });
}

#[test]
fn contested_responses_get_an_answer() {
    check_all("responses/contested", |document| {
        let arena = Bump::new();
        drop(document.response(&arena));
        Ok(())
    });
}

#[test]
fn pairs_are_read() {
    check_all("pairs", |document| {
        if document.name.ends_with(".request.json") {
            return document.request().map_err(|invalid| invalid.to_string());
        }
        let arena = Bump::new();
        document.response(&arena).map(drop)
    });
}

#[test]
fn json_is_told_from_what_is_none() {
    let is_json = |document: &Document| match document.request() {
        Ok(()) => true,
        Err(invalid) => !invalid
            .problems()
            .iter()
            .any(|problem| matches!(problem.rule, Rule::Json { .. } | Rule::Depth { .. })),
    };
    check_all("json-parser/accept", |document| {
        expect("is JSON", is_json(document), true)
    });
    check_all("json-parser/reject", |document| {
        expect("is JSON", is_json(document), false)
    });
    check_all("json-parser/either", |document| {
        is_json(document);
        Ok(())
    });
    check_all("json-parser/reject", |document| {
        let arena = Bump::new();
        let refused = document.response(&arena).is_err();
        // Nothing at all is a no-bid.
        expect("refused as a response", refused, !document.body.is_empty())
    });
}

struct Document {
    name: String,
    body: Vec<u8>,
    why: String,
}

impl Document {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn json_or_null(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    fn request(&self) -> Result<(), Invalid> {
        parser()
            .parse_request(&self.body, &Bump::new(), &Validation::default())
            .map(drop)
    }

    fn response<'a>(&'a self, arena: &'a Bump) -> Result<BidResponse<'a>, String> {
        parser()
            .parse_response(&self.body, arena)
            .map_err(|error| error.to_string())
    }
}

fn parser() -> Parser {
    Parser::new(Limits::default())
}

fn corpus(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/corpus")
        .join(path)
}

fn check_all(folder: &str, check: impl Fn(&Document) -> Result<(), String>) {
    let mut paths: Vec<PathBuf> = fs::read_dir(corpus(folder))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    assert!(paths.len() > 10, "{folder} is not there");
    let mut mismatches = String::new();
    for path in paths {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let why = fs::read_to_string(path.with_extension("why")).unwrap_or_default();
        let document = Document {
            name,
            body: fs::read(&path).unwrap(),
            why,
        };
        if let Err(mismatch) = check(&document) {
            writeln!(
                mismatches,
                "{folder}/{}: {mismatch}\n{}",
                document.name, document.why
            )
            .unwrap();
        }
    }
    assert!(mismatches.is_empty(), "\n{mismatches}");
}

fn bids_of(response: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let seats = response["seatbid"].as_array().into_iter().flatten();
    seats.flat_map(|seat| {
        seat["bid"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|bid| (&seat["seat"], bid))
    })
}

/// Has what OpenRTB 2.6 §4.2.3 and §4.3 require of a bid.
fn is_sound(bid: &Value) -> bool {
    let given = |name: &str| bid[name].as_str().is_some_and(|text| !text.is_empty());
    let has_markup = !bid["adm"].is_object() && (given("adm") || given("nurl") || given("adid"));
    given("id") && given("impid") && bid["price"].as_f64().is_some_and(|price| price >= 0.0) && has_markup
}

fn number(text: corebid::openrtb::NumberText<'_>) -> f64 {
    std::str::from_utf8(text.as_bytes()).unwrap().parse().unwrap()
}

#[allow(clippy::needless_pass_by_value, reason = "reads better where it is called")]
fn expect<T: PartialEq<U> + std::fmt::Debug, U: std::fmt::Debug>(
    what: &str,
    found: T,
    wanted: U,
) -> Result<(), String> {
    if found == wanted {
        Ok(())
    } else {
        Err(format!("{what} is {found:?}, not {wanted:?}"))
    }
}
