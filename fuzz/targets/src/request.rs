//! A bid request: we and serde_json agree on whether it is JSON and on every value we read; what is sent on is the same
//! document but for `tmax`, and the same bytes around it; a refusal can be echoed.

use bumpalo::Bump;
use corebid::openrtb::{BidRequest, Inventory, Limits, Parser, Rule, Splice, Validation, write_no_bid};
use serde_json::{Map, Value};

use crate::chance::Chance;
use crate::json::{depth, number, texts};

/// See the module's description.
pub fn check(body: &[u8]) {
    let limits = Limits::default();
    check_with(
        limits,
        body,
        u32::try_from(Chance::of(body).below(1 << 31)).unwrap(),
    );
}

/// The same with other limits, told what to write as `tmax`.
pub fn check_with(limits: Limits, body: &[u8], tmax_ms: u32) {
    let arena = Bump::new();
    let value = serde_json::from_slice::<Value>(body);
    match Parser::new(limits).parse_request(body, &arena, &Validation::default()) {
        Ok(request) => {
            let value = value.unwrap_or_else(|error| panic!("we read what is not JSON: {error}"));
            assert!(depth(body) <= limits.depth_max);
            same_values(&request, &value);
            is_valid(&value, &limits);
            splices(&request, tmax_ms);
            echoes(&request);
        }
        Err(invalid) => match (&invalid.problems()[0].rule, value) {
            (Rule::Json { .. }, value) => assert!(value.is_err(), "we refuse JSON: {invalid}"),
            (Rule::Depth { max }, _) => assert!(depth(body) > *max, "it is not so deep"),
            (_, value) => {
                let value = value.unwrap_or_else(|error| panic!("not JSON is called {invalid}: {error}"));
                assert!(
                    !invalid.to_string().is_empty() && (!value.is_object() || !invalid.problems().is_empty())
                );
            }
        },
    }
}

/// What the auction reads is what serde_json reads.
pub fn same_values(request: &BidRequest<'_>, value: &Value) {
    assert_eq!(Some(request.id), value["id"].as_str());
    assert_eq!(
        serde_json::from_slice::<String>(request.id_raw).unwrap(),
        request.id
    );
    let tmax_ms = value["tmax"].as_f64().map(|tmax| tmax.min(f64::from(u32::MAX)));
    assert_eq!(request.tmax_ms.map(f64::from), tmax_ms);
    assert_eq!(request.cur.to_vec(), texts(&value["cur"]));
    assert_eq!(request.wseat.to_vec(), texts(&value["wseat"]));
    assert_eq!(request.bseat.to_vec(), texts(&value["bseat"]));
    assert_eq!(request.has_device, !value["device"].is_null());
    assert_eq!(request.has_user, !value["user"].is_null());
    let inventory = match request.inventory {
        Some(Inventory::Site) => "site",
        Some(Inventory::App) => "app",
        Some(Inventory::Dooh) => "dooh",
        None => "",
    };
    for name in ["site", "app", "dooh"] {
        assert_eq!(name == inventory, !value[name].is_null(), "{name}");
    }
    let imps = value["imp"].as_array().unwrap();
    assert_eq!(request.imps.len(), imps.len());
    for (imp, value) in request.imps.iter().zip(imps) {
        assert_eq!(Some(imp.id), value["id"].as_str());
        assert_eq!(
            imp.floor.map(|floor| number(floor.as_bytes())),
            value["bidfloor"].as_f64()
        );
        assert_eq!(
            imp.floor_cur,
            value["bidfloorcur"]
                .as_str()
                .filter(|currency| !currency.is_empty())
        );
        let deals = value["pmp"]["deals"].as_array().map_or(&[][..], |deals| deals);
        assert_eq!(imp.deals.len(), deals.len());
        for (deal, value) in imp.deals.iter().zip(deals) {
            assert_eq!(Some(deal.id), value["id"].as_str());
            assert_eq!(
                deal.floor.map(|floor| number(floor.as_bytes())),
                value["bidfloor"].as_f64()
            );
        }
    }
}

/// What an auction counts on (OpenRTB 2.6 §3.2.1, §3.2.4), looked up once more.
fn is_valid(value: &Value, limits: &Limits) {
    let imps = value["imp"].as_array().unwrap();
    assert!((1..=limits.imps_max).contains(&imps.len()));
    let mut ids: Vec<_> = imps.iter().map(|imp| imp["id"].as_str().unwrap()).collect();
    assert!(ids.iter().all(|id| !id.is_empty()) && value["id"] != "");
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), imps.len(), "each imp has an id of its own");
    for imp in imps {
        assert!(imp["bidfloor"].as_f64().is_none_or(|floor| floor >= 0.0));
    }
    assert!(value["tmax"].as_f64().is_none_or(|tmax| tmax >= 1.0));
}

/// The body for a DSP is the same document but for `tmax`, and the same bytes around it.
pub fn splices(request: &BidRequest<'_>, tmax_ms: u32) {
    let arena = Bump::new();
    let sent = Splice::new(request).encode(tmax_ms, &arena);
    let before: Map<String, Value> = serde_json::from_slice(request.raw).unwrap();
    let after: Map<String, Value> = serde_json::from_slice(sent).unwrap();
    let mut wanted = before;
    wanted.insert("tmax".to_owned(), tmax_ms.into());
    assert_eq!(after, wanted);
    let same = |(a, b): &(&u8, &u8)| a == b;
    let head = request.raw.iter().zip(sent).take_while(same).count();
    let tail = request
        .raw
        .iter()
        .rev()
        .zip(sent.iter().rev())
        .take_while(same)
        .count();
    let changed = sent.len().saturating_sub(head + tail);
    assert!(
        changed <= r#""tmax":4294967295,"#.len(),
        "{changed} bytes changed"
    );
}

/// A refusal in words is JSON and names the request as its SSP did.
fn echoes(request: &BidRequest<'_>) {
    let mut out = Vec::new();
    write_no_bid(&mut out, request.id_raw, Some(2));
    let written: Value = serde_json::from_slice(&out).unwrap();
    assert_eq!(written["id"].as_str(), Some(request.id));
}
