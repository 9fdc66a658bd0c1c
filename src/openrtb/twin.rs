//! The twin of the pull reader, for tests only: simd-json's tape as a [`Source`], which is how answers were read before.
//! Whatever the document, both must read the same of it.
//!
//! They differ where RFC 8259 and simd-json do, and there the pull reader is with the RFC: a number past what a float
//! holds (`1e999`) is a number.

use super::cursor::{Cursor, Elements, Members, is_number, whole};
use super::fields::Table;
use super::pull::Malformed;
use super::read_response::{self, Source};
use super::{BadResponse, BidResponse, Limits, NumberText, Parser, Span, StringText};
use bumpalo::Bump;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use simd_json::Node;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn mangled_documents_are_read_alike(
        which in any::<Index>(),
        manglings in prop::collection::vec((any::<Index>(), 0..4_usize, piece()), 0..4),
    ) {
        let mut body = which.get(&DOCUMENTS).clone();
        for (at, cut, put) in manglings {
            let at = at.index(body.len() + 1);
            body.splice(at..(at + cut).min(body.len()), put);
        }
        check(&body);
    }

    #[test]
    fn anything_is_read_alike(pieces in prop::collection::vec(piece(), 0..30)) {
        check(&pieces.concat());
    }
}

#[test]
fn documents_with_any_byte_changed_or_cut_off_there_are_read_alike() {
    let short = DOCUMENTS.iter().filter(|body| body.len() < 400);
    for (turn, body) in short.enumerate() {
        check(body);
        let mut changed = body.clone();
        for at in 0..body.len() {
            check(&body[..at]);
            changed[at] ^= 1 << ((at + turn) % 8);
            check(&changed);
            changed[at] = body[at];
        }
    }
}

#[test]
fn strings_of_every_length_are_read_alike() {
    let pieces = [
        "a",
        "é",
        "😀",
        r#"\""#,
        r"\\",
        r"\u00e9",
        r"\ud83d\ude00",
        "\u{7f}",
    ];
    for piece in pieces {
        for length in 0..40 {
            for behind in ["", "       ", "                      "] {
                let text = format!("{}{piece}{}", "x".repeat(length), "y".repeat(length / 2));
                check(
                    format!(
                        r#"{{"id":"{text}","seatbid":[{{"seat":"{text}","bid":[{{"id":"{text}",
                    "impid":"{text}","adm":"{text}","price":1,"adomain":["{text}"]}}]}}]}}{behind}"#
                    )
                    .as_bytes(),
                );
            }
        }
    }
}

/// Both readers say the same, and read the same.
#[track_caller]
fn check(body: &[u8]) {
    let arena = Bump::new();
    // simd-json must not be asked for more than 1024; serde_json ends at 128.
    let limits = Limits {
        depth_max: 16,
        bids_max: 5,
        ..Limits::default()
    };
    let mut parser = Parser::new(limits);
    let pull = parser.parse_response(body, &arena);
    let tape = of_tape(&mut parser, body, &arena, &limits);
    let alike = match (&pull, &tape) {
        (Ok(pull), Ok(tape)) => format!("{pull:?}") == format!("{tape:?}"),
        (
            Err(BadResponse::NotJson(_) | BadResponse::TooDeep),
            Err(BadResponse::NotJson(_) | BadResponse::TooDeep),
        ) => true,
        (_, Err(BadResponse::NotJson(_))) => has_huge_number(body),
        // The tape knows how many there are before it reads them.
        (Err(_), Err(BadResponse::TooManyBids)) => true,
        (Err(pull), Err(tape)) => pull == tape,
        _ => false,
    };
    assert!(alike, "{}\n{pull:?}\n{tape:?}", String::from_utf8_lossy(body));
}

fn of_tape<'a>(
    parser: &mut Parser,
    body: &'a [u8],
    arena: &'a Bump,
    limits: &Limits,
) -> Result<BidResponse<'a>, BadResponse> {
    if body.trim_ascii().is_empty() {
        return Ok(BidResponse::default());
    }
    parser.read(body, arena, |document| {
        let (nodes, marks) = document?;
        let mut tape = Tape {
            cursor: Cursor::new(body, nodes, marks),
            arena,
        };
        read_response::read(&mut tape, arena, limits)
    })
}

/// One that simd-json makes no float of.
fn has_huge_number(body: &[u8]) -> bool {
    let words = body.split(|byte| !matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'));
    let numbers = words.filter_map(|word| std::str::from_utf8(word).ok()?.parse::<f64>().ok());
    numbers.into_iter().any(f64::is_infinite)
}

/// Small ones, so that a change is likely to hit something.
static DOCUMENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let folders = [
        "responses/valid",
        "responses/invalid",
        "responses/contested",
        "pairs",
        "json-parser/accept",
        "json-parser/reject",
        "json-parser/either",
    ];
    let files = folders
        .iter()
        .flat_map(|folder| fs::read_dir(corpus.join(folder)).unwrap());
    let mut paths: Vec<PathBuf> = files.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths.sort();
    let bodies = paths.iter().map(|path| fs::read(path).unwrap());
    bodies.filter(|body| body.len() < 1500).collect()
});

fn piece() -> impl Strategy<Value = Vec<u8>> {
    let pieces = [
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
        "\\udc00",
        "0",
        "-1",
        "1e5",
        "1e999",
        "-0.0",
        "01",
        "1.",
        "18446744073709551616",
        "null",
        "true",
        "nul",
        " ",
        "\n",
        "\u{c}",
        "\u{feff}",
        "é",
        "\0",
        "\u{1}",
        "\u{7f}",
        "\"id\"",
        "\"id\":\"1\",",
        "\"seatbid\":[",
        "\"bid\":[{",
        "\"price\":1,",
        "\"\\u0069d\":",
        "{\"a\":",
    ];
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|piece| piece.as_bytes().to_vec()).collect();
    prop_oneof![4 => select(pieces), 1 => any::<u8>().prop_map(|byte| vec![byte]), 1 => Just(Vec::new())]
}

struct Tape<'p, 'a> {
    cursor: Cursor<'p, 'a>,
    arena: &'a Bump,
}

impl<'a> Source<'a> for Tape<'_, 'a> {
    type Error = Malformed;
    type Members = Members;
    type Elements = Elements;

    fn enter_object(&mut self, table: &'static Table) -> Result<Option<Members>, Malformed> {
        Ok(Members::enter(&mut self.cursor, table))
    }

    fn next_member(&mut self, members: &mut Members) -> Result<Option<usize>, Malformed> {
        Ok(members.next(&mut self.cursor))
    }

    fn repeated(members: &Members) -> Option<&'static str> {
        members.seen.repeated().map(|(_, name)| name)
    }

    fn enter_array(&mut self) -> Result<Option<Elements>, Malformed> {
        Ok(Elements::enter(&mut self.cursor))
    }

    fn next_element(&mut self, elements: &mut Elements) -> Result<bool, Malformed> {
        Ok(elements.next(&mut self.cursor))
    }

    fn offset(&self) -> usize {
        self.cursor.offset()
    }

    fn since(&self, start: usize) -> &'a [u8] {
        self.cursor.bytes(self.cursor.span_from(start))
    }

    fn skip(&mut self) -> Result<(), Malformed> {
        self.cursor.skip();
        Ok(())
    }

    fn quoted(&mut self) -> Result<Option<StringText<'a>>, Malformed> {
        let value = self.cursor.peek();
        let span = self.cursor.skip_span();
        let Node::String(text) = value else {
            return Ok(None);
        };
        let [b'"', raw @ .., b'"'] = self.cursor.bytes(span) else {
            panic!("no string stands at {span:?}")
        };
        let quoted = StringText::new(std::str::from_utf8(raw).unwrap());
        assert_eq!(quoted.unescape(self.arena), text);
        Ok(Some(quoted))
    }

    fn number(&mut self) -> Result<Option<(NumberText<'a>, Span)>, Malformed> {
        Ok(self.cursor.number())
    }

    fn whole(&mut self) -> Result<Option<i64>, Malformed> {
        let value = self.cursor.peek();
        let span = self.cursor.skip_span();
        let whole = whole(value);
        if is_number(value) {
            assert_eq!(NumberText(self.cursor.bytes(span)).whole(), whole);
        }
        Ok(whole)
    }
}
