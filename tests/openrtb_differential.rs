//! Compares the parser with serde_json, which is slow, obvious and not ours: on documents made up from the grammar and
//! on real ones with bytes changed. Both must agree on what is JSON, on every value we read, and on where it stands.

#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on should stop where it is"
)]

use bumpalo::Bump;
use corebid::openrtb::{Limits, Parser, Validation};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::sync::LazyLock;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Members in any order, any whitespace, escaped names, anything in `ext` and in members nobody knows.
    #[test]
    fn a_made_up_request_is_read_and_spliced(text in request_text(), tmax_ms in any::<u32>()) {
        let arena = Bump::new();
        let request = Parser::new(Limits::default()).parse_request(text.as_bytes(), &arena, &Validation::default());
        prop_assert!(request.is_ok(), "{}", request.unwrap_err());
        targets::request::check_with(Limits::default(), text.as_bytes(), tmax_ms);
    }

    #[test]
    fn a_made_up_response_is_read_and_written(text in response_text()) {
        let arena = Bump::new();
        let response = Parser::new(Limits::default()).parse_response(text.as_bytes(), &arena).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        let bids = value["seatbid"][0]["bid"].as_array().unwrap();
        prop_assert_eq!(response.bids().count(), bids.len());
        prop_assert!(response.bad_bids.is_empty());
        targets::response::check_with(Limits::default(), text.as_bytes());
    }

    /// Bytes changed, cut out and put in: neither reads what the other refuses.
    #[test]
    fn a_mangled_document_is_json_to_both_or_to_none(which in any::<Index>(), mangling in mangling()) {
        let mut body = which.get(&DOCUMENTS).clone();
        for (at, cut, put) in mangling {
            let at = at.index(body.len() + 1);
            body.splice(at..(at + cut).min(body.len()), put);
        }
        targets::request::check_with(limits(), &body, 1);
    }

    /// The same for answers, whose reader is our own.
    #[test]
    fn a_mangled_answer_is_json_to_both_or_to_none(which in any::<Index>(), mangling in mangling()) {
        let mut body = which.get(&DOCUMENTS).clone();
        for (at, cut, put) in mangling {
            let at = at.index(body.len() + 1);
            body.splice(at..(at + cut).min(body.len()), put);
        }
        targets::response::check_with(limits(), &body);
    }
}

/// serde_json ends at a depth of 128.
fn limits() -> Limits {
    Limits {
        depth_max: 100,
        ..Limits::default()
    }
}

/// Small ones, so that a change is likely to hit something.
static DOCUMENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let folders = [
        "requests/valid",
        "requests/contested",
        "responses/valid",
        "responses/invalid",
        "json-parser/accept",
    ];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(corpus.join(folder)).unwrap());
    let mut paths: Vec<_> = files.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    let bodies = paths.iter().map(|path| fs::read(path).unwrap());
    bodies.filter(|body| body.len() < 1200).collect()
});

fn mangling() -> impl Strategy<Value = Vec<(Index, usize, Vec<u8>)>> {
    let bits = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\\",
        "\\u0041",
        "\\ud83d\\ude00",
        "\\ud83d",
        "0",
        "-1",
        "1e5",
    ];
    let more = [
        "1e999",
        "-0.0",
        "18446744073709551616",
        "null",
        "true",
        " ",
        "\n",
        "\u{feff}",
        "é",
        "\0",
        "\u{1}",
    ];
    let bits: Vec<Vec<u8>> = bits
        .iter()
        .chain(&more)
        .map(|bit| bit.as_bytes().to_vec())
        .collect();
    let put = prop_oneof![
        select(bits),
        any::<u8>().prop_map(|byte| vec![byte]),
        Just(Vec::new())
    ];
    prop::collection::vec((any::<Index>(), 0..4_usize, put), 0..4)
}

/// A valid request as text.
fn request_text() -> impl Strategy<Value = String> {
    let imp = |id: usize| {
        object(vec![
            required("id", format!("\"{id}\"")),
            required("banner", "{}"),
            optional("bidfloor", price_text()),
            optional("bidfloorcur", currency_text()),
            optional("pmp", deals_text()),
            optional("ext", json_text()),
            optional("unknown", json_text()),
        ])
    };
    object(vec![
        (true, "id", string_text()),
        (
            true,
            "imp",
            (imp(1), imp(2), space())
                .prop_map(|(a, b, space)| format!("[{a},{space}{b}]"))
                .boxed(),
        ),
        optional(
            "tmax",
            prop_oneof![
                "[1-9][0-9]{0,12}",
                Just("null".to_owned()),
                Just("86.0".to_owned())
            ],
        ),
        optional(
            "cur",
            prop::collection::vec(currency_text(), 0..3).prop_map(|list| format!("[{}]", list.join(" , "))),
        ),
        optional(
            "wseat",
            prop::collection::vec(string_text(), 0..3).prop_map(|list| format!("[{}]", list.join(","))),
        ),
        optional(
            "at",
            select(vec![
                "1".to_owned(),
                "2".to_owned(),
                "501".to_owned(),
                "2.0".to_owned(),
            ]),
        ),
        optional("ext", json_text()),
        optional("unknown", json_text()),
    ])
}

fn response_text() -> impl Strategy<Value = String> {
    let bid = object(vec![
        (true, "id", string_text()),
        (true, "impid", string_text()),
        (true, "price", price_text().boxed()),
        (true, "adm", string_text()),
        optional(
            "adomain",
            prop::collection::vec(string_text(), 0..3).prop_map(|list| format!("[{}]", list.join(","))),
        ),
        optional("ext", json_text()),
        optional("unknown", json_text()),
    ]);
    let seats = object(vec![
        (true, "seat", string_text()),
        (
            true,
            "bid",
            prop::collection::vec(bid, 1..4)
                .prop_map(|bids| format!("[{}]", bids.join(" ,")))
                .boxed(),
        ),
        optional("ext", json_text()),
    ]);
    object(vec![
        optional("id", string_text()),
        (
            true,
            "seatbid",
            (space(), seats, space())
                .prop_map(|(a, seat, b)| format!("[{a}{seat}{b}]"))
                .boxed(),
        ),
        optional("cur", currency_text()),
        optional("ext", json_text()),
    ])
}

type Member = (bool, &'static str, BoxedStrategy<String>);

fn required(name: &'static str, text: impl Into<String>) -> Member {
    (true, name, Just(text.into()).boxed())
}

fn optional(name: &'static str, text: impl Strategy<Value = String> + 'static) -> Member {
    (false, name, text.boxed())
}

/// An object with its members in any order, some left out, some names partly escaped, whitespace where JSON has it.
fn object(members: Vec<Member>) -> BoxedStrategy<String> {
    let member = |(required, name, text): Member| {
        (
            prop_oneof![Just(true), Just(required)],
            key_text(name),
            space(),
            space(),
            text,
            space(),
        )
    };
    let members: Vec<_> = members.into_iter().map(member).collect();
    let text = |members: Vec<(bool, String, String, String, String, String)>, end: String| {
        let given = members.into_iter().filter(|member| member.0);
        let texts = given.map(|(_, key, a, b, text, c)| format!("{b}{key}{a}:{b}{text}{c}"));
        format!("{{{}{end}}}", texts.collect::<Vec<_>>().join(","))
    };
    (members.prop_shuffle(), space())
        .prop_map(move |(members, end)| text(members, end))
        .boxed()
}

/// `"tmax"` or `"t\u006dax"`.
fn key_text(name: &'static str) -> impl Strategy<Value = String> {
    prop::option::weighted(0.2, 0..name.len()).prop_map(move |escaped| match escaped {
        None => format!("\"{name}\""),
        Some(at) => format!(
            "\"{}\\u{:04x}{}\"",
            &name[..at],
            name.as_bytes()[at],
            &name[at + 1..]
        ),
    })
}

fn deals_text() -> impl Strategy<Value = String> {
    let deal = object(vec![
        (true, "id", string_text()),
        optional("bidfloor", price_text()),
        optional("ext", json_text()),
    ]);
    let deals = prop::collection::vec(deal, 0..3).prop_map(|deals| format!("[{}]", deals.join(", ")));
    object(vec![
        (true, "deals", deals.boxed()),
        optional("unknown", json_text()),
    ])
}

fn price_text() -> impl Strategy<Value = String> {
    "(0|[1-9][0-9]{0,3})(\\.[0-9]{1,12})?([eE][+-]?[0-9])?|-0|-0\\.0"
}

fn currency_text() -> impl Strategy<Value = String> {
    "\"[A-Z]{3}\""
}

/// A JSON string that is not empty, with quotes, escapes, brackets and other alphabets in it.
fn string_text() -> BoxedStrategy<String> {
    let piece = prop_oneof![
        4 => "[a-z0-9 {}\\[\\]:,/]",
        1 => select(vec!["\\\"", "\\\\", "\\n", "\\u0000", "\\u00e9", "\\ud83d\\ude00", "é", "語", "😀"]).prop_map(str::to_owned),
    ];
    prop::collection::vec(piece, 1..24)
        .prop_map(|pieces| format!("\"{}\"", pieces.concat()))
        .boxed()
}

/// Any JSON value.
fn json_text() -> BoxedStrategy<String> {
    let scalar = prop_oneof![
        string_text(),
        price_text(),
        select(vec![
            "null",
            "true",
            "false",
            "\"\"",
            "{}",
            "[]",
            "[ ]",
            "123456789012345678901234567890"
        ])
        .prop_map(str::to_owned),
    ];
    let nested = scalar.prop_recursive(5, 40, 5, |inner| {
        let array = (prop::collection::vec(inner.clone(), 0..5), space())
            .prop_map(|(values, space)| format!("[{space}{}{space}]", values.join(&format!("{space},"))));
        // Two members of one name are nobody's business in here.
        let members = prop::collection::vec((string_text(), inner), 0..5);
        let object = (members, space()).prop_map(|(members, space)| {
            let members = members
                .iter()
                .map(|(key, value)| format!("{key}{space}:{value}{space}"));
            format!("{{{space}{}}}", members.collect::<Vec<_>>().join(","))
        });
        prop_oneof![array, object]
    });
    nested.boxed()
}

fn space() -> BoxedStrategy<String> {
    prop_oneof![4 => Just(String::new()), 1 => "[ \n\r\t]{1,3}"].boxed()
}
