//! From bytes to valid borrowed types, with memory that is used again. Everything that knows simd-json as a parser is
//! here; what the document means is read in `read_request` and `read_response`.

use super::pull::{Malformed, Pull, not_json};
use super::read_response::Source;
use super::validate::{Invalid, Rule, Validation};
use super::{BadResponse, BidRequest, BidResponse, read_request, read_response};
use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, Tape};

/// Bounds on what one document may cost. The size of the body is bounded by who receives it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Objects and arrays within each other. OpenRTB's own deepest place is the ninth level
    /// (`imp[].video.companionad[].format[].ext`); the rest is room inside `ext`. It also bounds the recursion of
    /// the checks.
    pub depth_max: usize,
    /// Imps in a request. A page has 1 to 20. Ids are compared each with each, 4,950 times for 100 imps.
    pub imps_max: usize,
    /// Deals on an imp. Each bid looks for its own among them.
    pub deals_max: usize,
    /// Bids in a response: 5 for each of 100 imps, for a bidder should send one for each matching deal and two open
    /// ones (7.3). A longer list is no answer, and all else on the shard waits while it is read (`benches/openrtb`).
    pub bids_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth_max: 32,
            imps_max: 100,
            deals_max: 100,
            bids_max: 512,
        }
    }
}

/// Reads bid requests and bid responses. Holds memory that grows to the largest document seen, so that once warm
/// a call allocates from the arena only, unless it ends in an error.
///
/// A shard has one. What is returned borrows the body and the arena, not the parser.
pub struct Parser {
    limits: Limits,
    buffers: Buffers,
    /// Empty between calls.
    tape: Tape<'static>,
}

/// Documents of this size are read without growing the parser's memory. The corpus has its p99 at 7.5 kB.
const BODY_WARM_BYTES: usize = 16 * 1024;

impl Parser {
    /// A parser with room for common documents.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            buffers: Buffers::with_max_depth(BODY_WARM_BYTES, limits.depth_max),
            tape: Tape(Vec::with_capacity(BODY_WARM_BYTES / 8)),
        }
    }

    /// Reads a bid request and checks it by OpenRTB's rules (2.6 §3.2) and `validation`.
    ///
    /// # Errors
    /// [`Invalid`] with every problem found, up to a limit, if the request must not be auctioned.
    pub fn parse_request<'a>(
        &mut self,
        body: &'a [u8],
        arena: &'a Bump,
        validation: &Validation,
    ) -> Result<BidRequest<'a>, Invalid> {
        let limits = self.limits;
        self.read(body, arena, |document| match document {
            Ok((nodes, marks)) => read_request::read(body, nodes, marks, arena, &limits, validation),
            Err(Malformed::TooDeep) => Err(Invalid::document(Rule::Depth {
                max: limits.depth_max,
            })),
            Err(Malformed::NotJson(at)) => Err(Invalid::document(Rule::Json { at: at as usize })),
        })
    }

    /// Reads a DSP's answer. A no-bid in any form is an answer without bids; an empty body is one (§4.2, 7.1).
    ///
    /// # Errors
    /// [`BadResponse`] if no part of the answer can be used. A bad bid does not make a bad response.
    pub fn parse_response<'a>(
        &self,
        body: &'a [u8],
        arena: &'a Bump,
    ) -> Result<BidResponse<'a>, BadResponse> {
        if body.trim_ascii().is_empty() {
            return Ok(BidResponse::default());
        }
        read_document(body, arena, &self.limits).map_err(|bad| match check(body, self.limits.depth_max) {
            Ok(()) => bad,
            Err(malformed) => malformed.into(),
        })
    }

    /// Parses a copy of `body`, for simd-json unescapes strings in place and we want the bytes as they came. The
    /// strings of the tape point into that copy, which lives in the arena.
    pub(super) fn read<'a, T>(
        &mut self,
        body: &[u8],
        arena: &'a Bump,
        use_it: impl FnOnce(Document<'_, 'a>) -> T,
    ) -> T {
        let mut copy = BumpVec::with_capacity_in(body.len() + INPUT_PADDING, arena);
        copy.extend_from_slice_copy(body);
        copy.extend_from_slice_copy(&[b' '; INPUT_PADDING]);

        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(
            copy.into_bump_slice_mut(),
            body.len(),
            &mut self.buffers,
            &mut tape,
        );
        let result = use_it(match parsed {
            Ok(()) => Ok((&tape.0, self.buffers.structural_indexes())),
            Err(error) => Err(match error.error() {
                ErrorType::DepthLimitExceeded => Malformed::TooDeep,
                _ => not_json(error.index()),
            }),
        });
        self.tape = tape.reset();
        result
    }
}

/// Reads an answer to its end, or to the first thing wrong with it.
fn read_document<'a>(
    body: &'a [u8],
    arena: &'a Bump,
    limits: &Limits,
) -> Result<BidResponse<'a>, BadResponse> {
    let mut pull = Pull::new(body, limits.depth_max)?;
    let response = read_response::read(&mut pull, arena, limits)?;
    pull.end()?;
    Ok(response)
}

/// Whether a document is JSON. What is not, is not called anything else, wherever it goes wrong: for an answer that was
/// refused half-way.
#[cold]
fn check(body: &[u8], depth_max: usize) -> Result<(), Malformed> {
    let mut pull = Pull::new(body, depth_max)?;
    pull.skip()?;
    pull.end()
}

/// The tape and the offsets of the structural characters, in step.
pub(super) type Document<'p, 'a> = Result<(&'p [simd_json::Node<'a>], &'p [u32]), Malformed>;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openrtb::{
        AuctionType, BidFault, DurationFloors, Inventory, Media, NumberText, Splice, StringText,
    };

    fn parser() -> Parser {
        Parser::new(Limits {
            imps_max: 3,
            deals_max: 2,
            bids_max: 3,
            ..Limits::default()
        })
    }

    /// What is said about a request with this in the top level, next to `id` and a sound imp.
    #[track_caller]
    fn check(members: &str, verdict: &str) {
        check_body(
            &format!(r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}}}]{members}}}"#),
            verdict,
        );
    }

    /// The same for an imp with this next to its `id` and `banner`.
    #[track_caller]
    fn check_imp(members: &str, verdict: &str) {
        check_body(
            &format!(r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}{members}}}]}}"#),
            verdict,
        );
    }

    #[track_caller]
    fn check_body(body: &str, verdict: &str) {
        let arena = Bump::new();
        let found = match parser().parse_request(body.as_bytes(), &arena, &Validation::default()) {
            Ok(_) => "ok".to_owned(),
            Err(invalid) => invalid.to_string(),
        };
        assert_eq!(found, verdict, "{body}");
    }

    #[test]
    fn requests_are_refused_by_path_and_rule() {
        check("", "ok");
        check_body("", "not valid JSON in UTF-8, at byte 0");
        check_body("[]", "must be an object, is an array");
        check_body("null", "must be an object, is null");
        check_body("{}", "id: required\nimp: required");
        check_body(r#"{"id":"","imp":[]}"#, "id: required\nimp: required");
        check_body(r#"{"id":null,"imp":null}"#, "id: required\nimp: required");
        check_body(
            r#"{"id":7,"imp":{}}"#,
            "id: must be a string, is a number\nimp: must be an array of objects, is an object",
        );
        check_body(
            r#"{"id":"r","imp":[null,7]}"#,
            "imp[0]: must be an object, is null\nimp[1]: must be an object, is a number",
        );

        check(
            r#","site":{},"app":{}"#,
            "must contain at most one of site, app, dooh",
        );
        check(r#","site":{},"app":null"#, "ok");
        check(r#","device":"x""#, "device: must be an object, is a string");
        check(
            r#","device":{"w":"ff"}"#,
            "device.w: must be an integer, is a string",
        );
        check(r#","device":{"w":-1}"#, "device.w: must not be negative");
        check(
            r#","device":{"w":1.5}"#,
            "device.w: must be an integer, is a fraction",
        );
        check(
            r#","device":{"w":"728","h":90.0,"dnt":true,"carrier":70092,"geo":{"lat":"50.5"}}"#,
            "ok",
        );
        check(
            r#","user":{"geo":{"lat":"ff"}}"#,
            "user.geo.lat: must be a number, is a string",
        );
        check(
            r#","user":{"geo":{"lat":"NaN"}}"#,
            "user.geo.lat: must be a number, is a string",
        );
        check(
            r#","site":{"cat":"IAB1","content":{"data":{"segment":[{"id":1}]}}}"#,
            "ok",
        );
        check(r#","source":{"schain":{"nodes":[{}]}}"#, "ok");
        check(
            r#","source":{"fd":"1"}"#,
            "source.fd: must be an integer, is a string",
        );
        check(r#","bcat":[26,"IAB1"]"#, "ok");
        check(r#","bcat":[{}]"#, "bcat[0]: must be a string, is an object");
        check(r#","cur":"USD""#, "cur: must be an array of strings, is a string");
        check(r#","cur":["USD",1]"#, "cur[1]: must be a string, is a number");
    }

    #[test]
    fn the_time_and_the_kind_of_auction_must_be_clear() {
        check(r#","tmax":"120""#, "tmax: must be an integer, is a string");
        check(r#","tmax":1.5"#, "tmax: must be an integer, is a fraction");
        check(r#","tmax":0"#, "tmax: must not be 0");
        check(r#","tmax":-1"#, "tmax: must not be negative");
        check(r#","tmax":86.0"#, "ok");
        check(r#","tmax":1e30"#, "ok");
        check(r#","tmax":null"#, "ok");
        check(r#","tmax":120,"tmax":120"#, "tmax: is there more than once");
        check(r#","tmax":null,"tmax":120"#, "tmax: is there more than once");
        check(r#","tmax":120,"\u0074max":1"#, "tmax: is there more than once");
        check(r#","at":500"#, "ok");
        check(r#","at":0"#, "at: must be 1, 2, 500 or above, or in a deal 3");
        check(r#","at":3"#, "at: must be 1, 2, 500 or above, or in a deal 3");
        check(r#","at":true"#, "at: must be an integer, is a boolean");
    }

    #[test]
    fn imps_are_told_apart_and_have_something_to_sell() {
        let imps = |imps: &str| format!(r#"{{"id":"r","imp":[{imps}]}}"#);
        check_body(
            &imps(
                r#"{"id":"1","banner":{}},{"id":"2","video":{"mimes":["a"]}},{"id":"1","audio":{"mimes":["a"]}}"#,
            ),
            r#"imp[0].id and imp[2].id are both "1": imp ids must be unique"#,
        );
        check_body(
            &imps(r#"{"id":"1"},{"id":"2","banner":null},{}"#),
            "imp[0]: must contain at least one of banner, video, audio, native\n\
             imp[1]: must contain at least one of banner, video, audio, native\n\
             imp[2]: must contain at least one of banner, video, audio, native\n\
             imp[2].id: required",
        );
        check_body(
            &imps(&[r#"{"id":"1","banner":{}}"#; 4].join(",")),
            "imp: must not have more than 3 elements",
        );
        check_imp(r#","video":{"mimes":[]}"#, "imp[0].video.mimes: required");
        check_imp(r#","audio":{"mimes":null}"#, "imp[0].audio.mimes: required");
        check_imp(r#","native":{"request":""}"#, "imp[0].native.request: required");
        check_imp(r#","native":{"request":{"assets":[]}}"#, "ok");
        check_imp(
            r#","native":{"request":7}"#,
            "imp[0].native.request: must be a string, is a number",
        );
        check_imp(r#","video":7"#, "imp[0].video: must be an object, is a number");
        check_imp(
            r#","metric":[{"type":"v","value":0.5},{"type":"v"}]"#,
            "imp[0].metric[1].value: required",
        );
        check_imp(
            r#","qty":{"sourcetype":1,"multiplier":2}"#,
            "imp[0].qty.vendor: required",
        );
        check_imp(r#","qty":{}"#, "imp[0].qty.multiplier: required");
        check_imp(r#","ext":"odd""#, "ok");
        check_imp(
            r#","ext":{"big":123456789012345678901234567890,"a":1,"a":2}"#,
            "ok",
        );
        check_imp(&format!(r#","ext":{}{}"#, "[".repeat(29), "]".repeat(29)), "ok");
        check_imp(
            &format!(r#","ext":{}{}"#, "[".repeat(30), "]".repeat(30)),
            "nested deeper than 32",
        );
    }

    #[test]
    fn floors_are_numbers_from_zero() {
        check_imp(r#","bidfloor":0.5,"bidfloorcur":"EUR""#, "ok");
        check_imp(r#","bidfloor":-0.0"#, "ok");
        check_imp(r#","bidfloor":-0.01"#, "imp[0].bidfloor: must not be negative");
        check_imp(
            r#","bidfloor":"0.5""#,
            "imp[0].bidfloor: must be a number, is a string",
        );
        check_imp(
            r#","bidfloor":1,"bidfloor":2"#,
            "imp[0].bidfloor: is there more than once",
        );
        check_imp(
            r#","bidfloorcur":1"#,
            "imp[0].bidfloorcur: must be a string, is a number",
        );
        check_imp(
            r#","pmp":{"deals":[{"id":"d","bidfloor":-1}]}"#,
            "imp[0].pmp.deals[0].bidfloor: must not be negative",
        );
        check_imp(
            r#","pmp":{"deals":[{"at":3}]}"#,
            "imp[0].pmp.deals[0].id: required",
        );
        check_imp(
            r#","pmp":{"deals":[{"id":"d","at":4}]}"#,
            "imp[0].pmp.deals[0].at: must be 1, 2, 500 or above, or in a deal 3",
        );
        check_imp(
            r#","pmp":{"private_auction":true}"#,
            "imp[0].pmp.private_auction: must be an integer, is a boolean",
        );
        check_imp(
            r#","pmp":{"deals":[{"id":"a"},{"id":"b"},{"id":"c"}]}"#,
            "imp[0].pmp.deals: must not have more than 2 elements",
        );
        check_imp(
            r#","video":{"mimes":["a"],"mincpmpersec":"1"}"#,
            "imp[0].video.mincpmpersec: must be a number, is a string",
        );
        check_imp(
            r#","audio":{"mimes":["a"],"mincpmpersec":-0.1}"#,
            "imp[0].audio.mincpmpersec: must not be negative",
        );
        check_imp(
            r#","pmp":{"deals":[{"id":"d","mincpmpersec":-1}]}"#,
            "imp[0].pmp.deals[0].mincpmpersec: must not be negative",
        );
    }

    #[test]
    fn floors_by_duration_are_ranges_of_whole_seconds() {
        let durfloors = |floors: &str, verdict: &str| {
            let said = |at: &str| verdict.replace("durfloors", &format!("imp[0].{at}.durfloors"));
            for media in ["video", "audio"] {
                let member = format!(r#","{media}":{{"mimes":["a"],"durfloors":{floors}}}"#);
                check_imp(&member, &said(media));
            }
            let deal = format!(r#","pmp":{{"deals":[{{"id":"d","durfloors":{floors}}}]}}"#);
            check_imp(&deal, &said("pmp.deals[0]"));
        };
        durfloors("[]", "ok");
        durfloors(r#"[{"mindur":15,"maxdur":30,"bidfloor":1},{"mindur":31}]"#, "ok");
        durfloors(r#"{"mindur":15,"bidfloor":1,"ext":{}}"#, "ok");
        durfloors("7", "durfloors: must be an array of objects, is a number");
        durfloors("[7]", "durfloors[0]: must be an object, is a number");
        durfloors(
            r#"[{},{"mindur":-1}]"#,
            "durfloors[1].mindur: must not be negative",
        );
        durfloors(
            r#"[{"maxdur":"30"}]"#,
            "durfloors[0].maxdur: must be an integer, is a string",
        );
        durfloors(
            r#"[{"bidfloor":-1}]"#,
            "durfloors[0].bidfloor: must not be negative",
        );
        durfloors(
            r#"[{"bidfloor":1,"bidfloor":2}]"#,
            "durfloors[0].bidfloor: is there more than once",
        );
        let many = |count| format!("[{}]", vec!["{}"; count].join(","));
        durfloors(&many(100), "ok");
        durfloors(&many(101), "durfloors: must not have more than 100 elements");
    }

    #[test]
    fn no_more_problems_are_told_than_help() {
        let arena = Bump::new();
        let body = format!(r#"{{"id":"r","imp":[{}]}}"#, vec!["{}"; 50].join(","));
        let invalid = Parser::new(Limits::default())
            .parse_request(body.as_bytes(), &arena, &Validation::default())
            .unwrap_err();
        assert_eq!(invalid.problems().len(), crate::openrtb::PROBLEMS_MAX);
    }

    #[test]
    fn more_can_be_required() {
        let body = br#"{"id":"r","imp":[{"id":"1","banner":{}}],"device":{},"user":null}"#;
        let arena = Bump::new();
        let check = |members: &[&str], verdict: &str| {
            let validation = Validation::requiring(members).unwrap();
            let found = parser()
                .parse_request(body, &arena, &validation)
                .map(drop)
                .map_err(|invalid| invalid.to_string());
            assert_eq!(found.err().unwrap_or_default(), verdict, "{members:?}");
        };
        check(&["device"], "");
        check(&["id", "imp", "device", "user"], "user: required");
        check(&["site", "user"], "site: required\nuser: required");
        assert_eq!(
            Validation::requiring(&["devise"]).unwrap_err().to_string(),
            r#""devise" is not a member of an OpenRTB bid request"#
        );
    }

    #[test]
    fn a_request_is_read_whole() {
        let body = r#" {"tmax" : 120, "id":"a\u0062", "at":1, "cur":["EUR","USD"], "app":{}, "device":{}, "test":1,
            "wseat":["s"], "bcat":["IAB1",26], "badv":["b.com"], "source":{"fd":1}, "imp":[{"id":"1","banner":{},
            "native":{"request":"{}"}, "bidfloor" : 0.50 , "bidfloorcur":"EUR", "secure":1, "exp":60, "pmp":{
            "private_auction":1,"deals":[{"id":"d","bidfloor":1e0,"at":3,"wseat":["x"],"wadomain":["a.com"],"guar":1}]}}]} "#;
        let arena = Bump::new();
        let request = parser()
            .parse_request(body.as_bytes(), &arena, &Validation::default())
            .unwrap();
        assert_eq!((request.id, request.id_raw), ("ab", br#""a\u0062""#.as_slice()));
        assert_eq!(
            (request.tmax_ms, request.at),
            (Some(120), AuctionType::FirstPrice)
        );
        assert_eq!(
            (request.cur, request.wseat),
            (["EUR", "USD"].as_slice(), ["s"].as_slice())
        );
        assert_eq!(
            (request.bcat, request.badv),
            (["IAB1", "26"].as_slice(), ["b.com"].as_slice())
        );
        assert_eq!(request.inventory, Some(Inventory::App));
        assert!(request.test && request.upstream_decides && request.has_device && !request.has_user);

        let imp = request.imps[0];
        assert!(
            imp.media.contains(Media::BANNER)
                && imp.media.offers(4)
                && !imp.media.offers(2)
                && !imp.media.offers(64)
        );
        assert_eq!(imp.floor.map(NumberText::as_bytes), Some(b"0.50".as_slice()));
        assert_eq!((imp.floor_cur, imp.exp_s), (Some("EUR"), Some(60)));
        assert!(imp.private_auction && imp.secure);
        let deal = imp.deals[0];
        assert_eq!(
            (deal.id, deal.floor.map(NumberText::as_bytes)),
            ("d", Some(b"1e0".as_slice()))
        );
        assert_eq!((deal.floor_cur, deal.at), (None, Some(AuctionType::FixedPrice)));
        assert!(deal.guaranteed && deal.wseat == ["x"] && deal.wadomain == ["a.com"]);
    }

    #[test]
    fn floors_by_duration_are_read() {
        let body = r#"{"id":"r","imp":[{"id":"1","video":{"mimes":["a"],"mincpmpersec":0.5,"w":1},"audio":{
            "durfloors":[{"mindur":15,"maxdur":30,"bidfloor":1.50},{"maxdur":14}],"mimes":["a"]},"pmp":{"deals":[
            {"id":"d","mincpmpersec":2e0,"durfloors":{"mindur":31}}]}}]}"#;
        let arena = Bump::new();
        let request = parser()
            .parse_request(body.as_bytes(), &arena, &Validation::default())
            .unwrap();
        let imp = request.imps[0];
        let text = |number: Option<NumberText<'_>>| {
            number.map(|number| String::from_utf8(number.as_bytes().to_vec()).unwrap())
        };
        let read = |floors: DurationFloors<'_>| {
            let ranges = floors.ranges.iter();
            let ranges: Vec<_> = ranges
                .map(|range| (range.mindur_s, range.maxdur_s, text(range.floor)))
                .collect();
            (text(floors.per_second), ranges)
        };
        assert_eq!(read(imp.video_floors), (Some("0.5".to_owned()), vec![]));
        assert_eq!(
            read(imp.audio_floors),
            (
                None,
                vec![
                    (Some(15), Some(30), Some("1.50".to_owned())),
                    (None, Some(14), None)
                ]
            )
        );
        assert_eq!(
            read(imp.deals[0].duration_floors),
            (Some("2e0".to_owned()), vec![(Some(31), None, None)])
        );
    }

    #[test]
    fn only_tmax_is_changed_for_a_dsp() {
        let check = |tmax: &str, sent: &str| {
            let request = |tmax: &str| {
                format!(
                    r#"{{{tmax}"id":"r","imp":[{{"id":"1","banner":{{}},"tmax":7}}],"ext":{{"tmax":9}}}}"#
                )
            };
            let (body, arena) = (request(tmax), Bump::new());
            let request_read = parser()
                .parse_request(body.as_bytes(), &arena, &Validation::default())
                .unwrap();
            let encoded = Splice::new(&request_read).encode(87, &arena);
            assert_eq!(std::str::from_utf8(encoded).unwrap(), request(sent));
        };
        check("", r#""tmax":87,"#);
        check(r#""tmax":120,"#, r#""tmax":87,"#);
        check(r#""tmax" : 1.2e2 ,"#, r#""tmax" : 87 ,"#);
        check(r#""tmax": null ,"#, r#""tmax": 87 ,"#);
        check(r#""t\u006dax":120,"#, r#""t\u006dax":87,"#);
    }

    #[track_caller]
    fn check_response(body: &str, verdict: Result<(usize, &[BidFault]), BadResponse>) {
        let arena = Bump::new();
        let response = parser().parse_response(body.as_bytes(), &arena);
        let faults: Vec<BidFault> = response
            .iter()
            .flat_map(|response| response.bad_bids)
            .map(|bad| bad.fault)
            .collect();
        let found = response.map(|response| (response.bids().count(), faults.as_slice()));
        assert_eq!(found, verdict, "{body}");
    }

    #[test]
    fn a_no_bid_has_many_forms_and_a_broken_answer_is_told_from_it() {
        let no_bids = [
            "",
            " \n",
            "{}",
            r#"{"nbr":2}"#,
            r#"{"seatbid":[]}"#,
            r#"{"seatbid":null}"#,
            r#"{"seatbid":[{"bid":[]}]}"#,
        ];
        for body in no_bids {
            check_response(body, Ok((0, &[])));
        }
        check_response(r#"{"seatbid":[{}]}"#, Ok((0, &[])));
        check_response("no", Err(BadResponse::NotJson(0)));
        check_response("[]", Err(BadResponse::NotAnObject));
        check_response(r#""no bid""#, Err(BadResponse::NotAnObject));
        check_response(r#"{"seatbid":{}}"#, Err(BadResponse::BadMember("seatbid")));
        check_response(r#"{"seatbid":[[]]}"#, Err(BadResponse::BadMember("seatbid")));
        check_response(r#"{"seatbid":[{"bid":{}}]}"#, Err(BadResponse::BadMember("bid")));
        check_response(r#"{"id":1}"#, Err(BadResponse::BadMember("id")));
        check_response(
            r#"{"cur":"USD","cur":"EUR"}"#,
            Err(BadResponse::RepeatedMember("cur")),
        );
        check_response(
            r#"{"seatbid":[{"bid":[0,0]},{"bid":[0,0]}]}"#,
            Err(BadResponse::TooManyBids),
        );
        check_response(r#"{"seatbid":[{},{},{},{}]}"#, Err(BadResponse::TooManyBids));
        check_response(
            &format!("{}{}", "[".repeat(33), "]".repeat(33)),
            Err(BadResponse::TooDeep),
        );
    }

    #[test]
    fn a_bad_bid_leaves_the_sound_ones_alone() {
        use BidFault::{
            BadMember, NegativePrice, NoId, NoImpId, NoMarkup, NoPrice, NotAnObject, RepeatedMember,
        };
        let sound = r#"{"id":"1","impid":"1","price":1,"adm":"x"}"#;
        let check = |bid: &str, fault: BidFault| {
            check_response(
                &format!(r#"{{"seatbid":[{{"bid":[{sound},{bid},{sound}]}}]}}"#),
                Ok((2, &[fault])),
            );
        };
        check("7", NotAnObject);
        check(r#"{"impid":"1","price":1,"adm":"x"}"#, NoId);
        check(r#"{"id":"1","impid":"","price":1,"adm":"x"}"#, NoImpId);
        check(r#"{"id":"1","impid":"1","price":null,"adm":"x"}"#, NoPrice);
        check(r#"{"id":"1","impid":"1","price":-0.1,"adm":"x"}"#, NegativePrice);
        check(
            r#"{"id":"1","impid":"1","price":"1","adm":"x"}"#,
            BadMember("price"),
        );
        check(r#"{"id":1,"impid":"1","price":1,"adm":"x"}"#, BadMember("id"));
        check(r#"{"id":"1","impid":"1","price":1,"adm":{}}"#, BadMember("adm"));
        check(r#"{"id":"1","impid":"1","price":1,"adm":""}"#, NoMarkup);
        check(
            r#"{"id":"1","impid":"1","price":1,"adm":"x","mtype":"video"}"#,
            BadMember("mtype"),
        );
        check(
            r#"{"id":"1","impid":"1","price":1,"adm":"x","adomain":["a",1]}"#,
            BadMember("adomain"),
        );
        check(
            r#"{"id":"1","impid":"1","price":1,"price":2,"adm":"x"}"#,
            RepeatedMember("price"),
        );
        check(
            r#"{"id":"1","impid":"1","price":1,"\u0070rice":2,"adm":"x"}"#,
            RepeatedMember("price"),
        );
    }

    #[test]
    fn a_response_is_read_whole() {
        let body = r#"{"id":"r","bidid":"b","cur":"","nbr":8,"seatbid":[{"bid":[ {"id":"1", "impid":"\u0032","price" : 1.50 ,
            "nurl":"a\/n","burl":"b","lurl":"","adid":"i","adomain":["a.com","\u0062.com"],"dealid":"d","dur":3e1,"cat":["IAB1"],
            "attr":[1,2],"w":300.0,"h":250,"mtype":1,"ext":{"price":9}} ,{"id":"x"}],"group":1,"seat":"s\u0031"}]}"#;
        let arena = Bump::new();
        let response = parser().parse_response(body.as_bytes(), &arena).unwrap();
        assert_eq!(
            (response.id, response.bidid, response.cur, response.nbr),
            (Some("r"), Some("b"), None, Some(8))
        );
        let (seat, bid) = response.bids().next().unwrap();
        assert_eq!(
            (seat.seat, seat.seat_raw),
            (Some("s1"), Some(br#""s\u0031""#.as_slice()))
        );
        assert!(seat.group);
        assert_eq!((bid.id, bid.impid, bid.dealid), ("1", "2", Some("d")));
        assert_eq!(bid.nurl.map(StringText::raw), Some(r"a\/n"));
        assert_eq!(bid.nurl.map(|nurl| nurl.unescape(&arena)), Some("a/n"));
        let texts = [bid.adm, bid.burl, bid.lurl, bid.adid].map(|text| text.map(StringText::raw));
        assert_eq!(texts, [None, Some("b"), None, Some("i")]);
        assert_eq!((bid.mtype, bid.dur_s), (Some(1), Some(30)));
        assert_eq!(bid.adomain, ["a.com", "b.com"]);
        assert_eq!(bid.price.as_bytes(), b"1.50");
        assert_eq!(&bid.raw[bid.price_span.range()], b"1.50");
        assert!(bid.raw.starts_with(b"{") && bid.raw.ends_with(br#""ext":{"price":9}}"#));
        let bad = response.bad_bids[0];
        assert_eq!(
            (bad.seat, bad.id, bad.raw),
            (Some("s1"), Some("x"), br#"{"id":"x"}"#.as_slice())
        );
    }
}
