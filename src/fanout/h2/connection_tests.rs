//! Rows: what a server sends, in words, what the client makes of it.

use proptest::prelude::*;

use super::*;
use crate::fanout::tests::dsp;

const BODY_BYTES_MAX: usize = 100;

/// One frame of a server's.
fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_header(&mut out, payload.len(), kind, flags, id);
    out.extend_from_slice(payload);
    out
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_settings(&mut out, settings);
    out
}

fn window(id: u32, increment: u32) -> Vec<u8> {
    let mut out = Vec::new();
    frame::write_window_update(&mut out, id, increment);
    out
}

const END: u8 = flag::END_STREAM;

fn data(id: u32, flags: u8, bytes: &str) -> Vec<u8> {
    frame(kind::DATA, flags, id, bytes.as_bytes())
}

/// A header block with fields as literals: `:status 200, server x`.
fn block(fields: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for field in fields.split(", ").filter(|field| !field.is_empty()) {
        let (name, value) = field.split_once(' ').unwrap();
        let value = value.replace("<LF>", "\n").replace("<SP>", " ");
        out.push(0);
        for text in [name, &value] {
            assert!(text.len() < 127);
            out.push(u8::try_from(text.len()).unwrap());
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

fn head(id: u32, flags: u8, fields: &str) -> Vec<u8> {
    frame(kind::HEADERS, flag::END_HEADERS | flags, id, &block(fields))
}

fn go_away(last: u32, code: u32) -> Vec<u8> {
    let mut payload = last.to_be_bytes().to_vec();
    payload.extend_from_slice(&code.to_be_bytes());
    payload.extend_from_slice(b"debug");
    frame(kind::GOAWAY, 0, 0, &payload)
}

fn reset(id: u32, code: u32) -> Vec<u8> {
    frame(kind::RST_STREAM, 0, id, &code.to_be_bytes())
}

fn request() -> RequestBlock {
    RequestBlock::new(&dsp(0, false))
}

type Client = ClientConnection<u32>;

/// A connection on which so many calls with a body of 4 bytes were started and whose output was written.
fn client(calls: u32) -> Client {
    let mut client = Client::new(BODY_BYTES_MAX);
    for call in 0..calls {
        client.start(&request(), &Body::from(b"body"), call).unwrap();
    }
    written(&mut client);
    client
}

fn greeted(calls: u32) -> Client {
    let mut client = client(calls);
    assert_eq!(feed(&mut client, &settings(&[])), "");
    written(&mut client);
    client
}

/// What the client makes of bytes, parts of one body together.
fn feed(client: &mut Client, input: &[u8]) -> String {
    let mut said = Vec::new();
    let mut bodies = std::collections::BTreeMap::<u32, String>::new();
    let result = client.receive(input, |event| match event {
        Event::Begun { .. } => {}
        Event::Data { tag, bytes } => *bodies.entry(*tag).or_default() += &String::from_utf8_lossy(bytes),
        Event::Ended { tag, head } => {
            let gzip = if head.gzip { " gzip" } else { "" };
            said.push(format!(
                "{tag}: {}{gzip} {:?}",
                head.status,
                bodies.remove(&tag).unwrap_or_default()
            ));
        }
        Event::Failed { tag, failure } => said.push(format!("{tag}: {failure}")),
    });
    if let Err(violation) = result {
        said.push(format!("closes {}: {}", violation.code, violation.why));
    }
    said.join(" | ")
}

/// What is to be written, all of it.
fn written(client: &mut Client) -> Vec<u8> {
    let output = client.output().collect::<Vec<_>>().concat();
    client.wrote(output.len());
    assert!(!client.has_output());
    output
}

/// What the client has sent since this was last asked: kind, flags, stream and length of each frame, or the number in
/// it.
fn sent(client: &mut Client) -> String {
    let output = written(client);
    let mut rest = output.strip_prefix(frame::PREFACE).unwrap_or(&output);
    let mut said = Vec::new();
    while !rest.is_empty() {
        let length = usize::from(rest[0]) << 16 | usize::from(rest[1]) << 8 | usize::from(rest[2]);
        let (kind, flags, id) = (rest[3], rest[4], frame::number(&rest[5..]));
        let payload = &rest[9..9 + length];
        rest = &rest[9 + length..];
        let end = if flags & END != 0 { "!" } else { "" };
        said.push(match kind {
            kind::DATA => format!("data{end} {id} {length}"),
            kind::HEADERS => format!("head{end} {id}"),
            kind::RST_STREAM => format!("reset {id} {}", frame::number(payload)),
            kind::SETTINGS if flags & flag::ACK != 0 => "ack".to_owned(),
            kind::SETTINGS => "settings".to_owned(),
            kind::PING => format!("ping{end} {}", String::from_utf8_lossy(payload)),
            kind::GOAWAY => format!("goaway {}", frame::number(&payload[4..])),
            kind::WINDOW_UPDATE => format!("window {id} {}", frame::number(payload)),
            _ => format!("kind {kind} {length}"),
        });
    }
    said.join(", ")
}

/// Of a connection with two calls, 0 on stream 1 and 1 on stream 3: what it makes of frames, and what it sends then.
#[track_caller]
fn check(frames: &[Vec<u8>], events: &str, answer: &str) {
    let mut client = greeted(2);
    assert_eq!(feed(&mut client, &frames.concat()), events);
    assert_eq!(sent(&mut client), answer);
}

const OK: &str = ":status 200, content-type application/json";

#[test]
fn the_first_words() {
    let mut client = Client::new(BODY_BYTES_MAX);
    assert!(client.output().next().unwrap().starts_with(frame::PREFACE));
    client.start(&request(), &Body::from(b"body"), 0).unwrap();
    client.start(&request(), &Body::from(b""), 1).unwrap();
    assert_eq!(
        sent(&mut client),
        "settings, window 0 1073676289, head 1, data! 1 4, head! 3",
        "nothing waits for the peer's SETTINGS"
    );
    assert_eq!(feed(&mut client, &settings(&[])), "");
    assert_eq!(sent(&mut client), "ack");
    let mut client = self::client(1);
    assert_eq!(
        feed(&mut client, &head(1, END, OK)),
        "closes 1: does not begin with SETTINGS"
    );
    assert_eq!(sent(&mut client), "goaway 1");
    let mut client = self::client(1);
    assert_eq!(
        feed(&mut client, b"HTTP/1.1 400 Bad Request\r\n\r\n"),
        "closes 6: frame too long"
    );
}

#[test]
fn answers_end_in_any_order() {
    check(
        &[
            head(3, 0, OK),
            head(1, 0, ":status 200, content-length 5, content-encoding gzip"),
            data(1, 0, "he"),
            data(3, 0, "wor"),
            data(1, END, "llo"),
            data(3, END, "ld"),
        ],
        "0: 200 gzip \"hello\" | 1: 200 \"world\"",
        "",
    );
    check(&[head(1, END, ":status 204")], "0: 204 \"\"", "");
    check(
        &[head(1, 0, OK), data(1, 0, ""), data(1, END, "")],
        "0: 200 \"\"",
        "",
    );
    check(
        &[head(1, END, ":status 304, content-length 5")],
        "0: 304 \"\"",
        "",
    );
}

#[test]
fn interim_heads_and_trailers() {
    let interim = || head(1, 0, ":status 103, link x");
    let four = || vec![interim(), interim(), interim(), interim()];
    let mut frames = four();
    frames.push(head(1, END, ":status 204"));
    check(&frames, "0: 204 \"\"", "");
    let mut frames = four();
    frames.push(interim());
    let failed = |why: &str| format!("0: not a valid HTTP response: {why}");
    check(&frames, &failed("unexpected interim response"), "reset 1 1");
    check(
        &[head(1, 0, ":status 101")],
        &failed("unexpected interim response"),
        "reset 1 1",
    );
    check(
        &[head(1, END, ":status 100")],
        &failed("unexpected interim response"),
        "reset 1 1",
    );
    check(
        &[head(1, 0, OK), data(1, 0, "x"), head(1, END, "grpc-status 0")],
        "0: 200 \"x\"",
        "",
    );
    check(
        &[head(1, 0, OK), head(1, 0, "grpc-status 0")],
        &failed("malformed trailers"),
        "reset 1 1",
    );
    check(
        &[head(1, 0, OK), head(1, END, ":status 200")],
        &failed("malformed trailers"),
        "reset 1 1",
    );
}

#[test]
fn malformed_heads_cost_their_stream_only() {
    for (fields, why) in [
        ("server x", "no status"),
        (":status 99", "status out of range"),
        (":status 600", "status out of range"),
        (":status 2e2", "status out of range"),
        (":status 200, :status 200", "misplaced pseudo-header"),
        ("server x, :status 200", "misplaced pseudo-header"),
        (":path /", "misplaced pseudo-header"),
        (":status 200, Server x", "malformed field name"),
        (":status 200, a:b x", "malformed field name"),
        (":status 200, a<LF>b x<LF>y", "malformed field value"),
        (":status 200, a <SP>x", "malformed field value"),
        (
            ":status 200, transfer-encoding chunked",
            "field of another version",
        ),
        (":status 200, connection close", "field of another version"),
        (":status 200, content-length 1, content-length 1", "two lengths"),
        (":status 200, content-length -1", "malformed length"),
        (
            ":status 200, content-length 1000000000000000000",
            "malformed length",
        ),
    ] {
        check(
            &[head(1, 0, fields), head(3, END, ":status 204")],
            &format!("0: not a valid HTTP response: {why} | 1: 204 \"\""),
            "reset 1 1",
        );
    }
    check(
        &[head(1, 0, ":status 200, content-encoding br")],
        "0: bad content encoding",
        "reset 1 8",
    );
}

#[test]
fn bodies_have_the_length_they_declare_and_at_most_the_allowed() {
    let whole = "x".repeat(BODY_BYTES_MAX);
    let failed = |why: &str| format!("0: not a valid HTTP response: {why}");
    let declares = |length: usize| head(1, 0, &format!(":status 200, content-length {length}"));
    check(
        &[declares(100), data(1, END, &whole)],
        &format!("0: 200 {whole:?}"),
        "",
    );
    check(
        &[head(1, 0, OK), data(1, END, &whole)],
        &format!("0: 200 {whole:?}"),
        "",
    );
    check(&[declares(101)], "0: answer too large", "reset 1 8");
    check(
        &[
            head(1, 0, OK),
            data(1, 0, &whole),
            data(1, END, "x"),
            data(1, END, "y"),
        ],
        "0: answer too large",
        "reset 1 8",
    );
    check(
        &[declares(2), data(1, 0, "xx"), data(1, 0, "x")],
        &failed("body longer than declared"),
        "reset 1 1",
    );
    check(
        &[declares(2), data(1, END, "x")],
        &failed("body shorter than declared"),
        "reset 1 1",
    );
    check(
        &[head(1, END, ":status 200, content-length 1")],
        &failed("body shorter than declared"),
        "reset 1 1",
    );
    check(
        &[head(1, 0, ":status 204"), data(1, END, "x")],
        &failed("body longer than declared"),
        "reset 1 1",
    );
    check(&[data(1, END, "x")], &failed("body before head"), "reset 1 1");
}

#[test]
fn padding_counts_but_is_no_body() {
    let padded = |payload: &[u8]| frame(kind::DATA, flag::PADDED | END, 1, payload);
    check(&[head(1, 0, OK), padded(b"\x02hi\0\0")], "0: 200 \"hi\"", "");
    check(&[head(1, 0, OK), padded(b"\x02\0\0")], "0: 200 \"\"", "");
    check(
        &[head(1, 0, OK), padded(b"\x03\0\0")],
        "closes 1: padding longer than the frame",
        "goaway 1",
    );
    check(
        &[head(1, 0, OK), padded(b"")],
        "closes 6: padding without a length",
        "goaway 6",
    );
    let fields = [&[1, 0, 0, 0, 0, 16][..], &block(":status 204"), &[0]].concat();
    let flags = flag::PADDED | flag::PRIORITY | flag::END_HEADERS | END;
    check(&[frame(kind::HEADERS, flags, 1, &fields)], "0: 204 \"\"", "");
    check(
        &[frame(kind::HEADERS, flag::PRIORITY, 1, &[0; 4])],
        "closes 6: HEADERS without its priority",
        "goaway 6",
    );
    // 255 bytes at a time: the stream's window is given back when half of it was used.
    let mut client = greeted(1);
    feed(&mut client, &head(1, 0, OK));
    let padding = frame(
        kind::DATA,
        flag::PADDED,
        1,
        &[[255].as_slice(), &[0; 255]].concat(),
    );
    for _ in 0..129 {
        assert_eq!(feed(&mut client, &padding), "");
    }
    assert_eq!(sent(&mut client), "window 1 33024");
}

#[test]
fn frames_where_they_do_not_belong_close_the_connection() {
    for (frame, answer) in [
        (data(0, 0, "x"), "closes 1: frame without a stream"),
        (data(2, 0, "x"), "closes 1: frame on an idle stream"),
        (data(5, 0, "x"), "closes 1: frame on an idle stream"),
        (head(5, 0, OK), "closes 1: frame on an idle stream"),
        (head(0, 0, OK), "closes 1: frame without a stream"),
        (reset(5, 0), "closes 1: frame on an idle stream"),
        (window(5, 1), "closes 1: frame on an idle stream"),
        (
            frame(kind::RST_STREAM, 0, 1, b"123"),
            "closes 6: RST_STREAM of a wrong length",
        ),
        (
            frame(kind::WINDOW_UPDATE, 0, 1, b"123"),
            "closes 6: WINDOW_UPDATE of a wrong length",
        ),
        (window(0, 0), "closes 1: window increment of 0"),
        (frame(kind::SETTINGS, 0, 1, b""), "closes 1: SETTINGS on a stream"),
        (
            frame(kind::SETTINGS, 0, 0, b"12345"),
            "closes 6: SETTINGS of a wrong length",
        ),
        (
            frame(kind::SETTINGS, flag::ACK, 0, b"123456"),
            "closes 6: SETTINGS of a wrong length",
        ),
        (frame(kind::PING, 0, 1, b"12345678"), "closes 1: PING on a stream"),
        (
            frame(kind::PING, 0, 0, b"1234567"),
            "closes 6: PING of a wrong length",
        ),
        (
            frame(kind::GOAWAY, 0, 1, b"12345678"),
            "closes 1: GOAWAY on a stream",
        ),
        (
            frame(kind::GOAWAY, 0, 0, b"1234567"),
            "closes 6: GOAWAY of a wrong length",
        ),
        (
            frame(kind::PRIORITY, 0, 0, b"12345"),
            "closes 1: PRIORITY without a stream",
        ),
        (
            frame(kind::PUSH_PROMISE, 4, 1, b"1234"),
            "closes 1: push was not allowed",
        ),
        (
            frame(kind::CONTINUATION, 4, 1, b""),
            "closes 1: CONTINUATION of nothing",
        ),
        (
            frame(kind::HEADERS, 4, 1, b"\xbe"),
            "closes 9: index into an empty dynamic table",
        ),
    ] {
        let mut client = greeted(2);
        assert_eq!(feed(&mut client, &frame), answer);
        assert!(sent(&mut client).starts_with("goaway "));
        assert_eq!(client.has_room(0), Err(Refused::Retired));
        let mut left = Vec::new();
        client.fail_all(|tag, _| left.push(tag));
        assert_eq!(left, [0, 1], "after {answer}");
    }
    check(
        &[frame(kind::PRIORITY, 0, 1, b"1234")],
        "0: not a valid HTTP response: PRIORITY of a wrong length",
        "reset 1 6",
    );
    check(
        &[frame(kind::PRIORITY, 0, 7, b"12345"), frame(0x42, 0xff, 9, b"?")],
        "",
        "",
    );
}

#[test]
fn frames_have_a_longest_length() {
    let mut client = greeted(1);
    assert_eq!(
        feed(&mut client, &frame(0x42, 0, 0, &[0; frame::FRAME_BYTES_MAX])),
        ""
    );
    let long = frame(0x42, 0, 0, &[0; frame::FRAME_BYTES_MAX + 1]);
    assert_eq!(feed(&mut client, &long[..9]), "closes 6: frame too long");
}

#[test]
fn a_header_block_may_come_in_parts() {
    let whole = block(OK);
    let (first, second) = whole.split_at(5);
    let part = |kind, flags, id, part: &[u8]| frame(kind, flags, id, part);
    check(
        &[
            part(kind::HEADERS, END, 1, first),
            part(kind::CONTINUATION, 0, 1, b""),
            part(kind::CONTINUATION, flag::END_HEADERS, 1, second),
        ],
        "0: 200 \"\"",
        "",
    );
    for interruption in [
        data(1, 0, ""),
        head(3, 0, OK),
        settings(&[]),
        frame(0x42, 0, 0, b""),
    ] {
        check(
            &[part(kind::HEADERS, 0, 1, first), interruption],
            "closes 1: header block interrupted",
            "goaway 1",
        );
    }
    check(
        &[
            part(kind::HEADERS, 0, 1, first),
            part(kind::CONTINUATION, 4, 3, second),
        ],
        "closes 1: CONTINUATION of nothing",
        "goaway 1",
    );
    let empty = || part(kind::CONTINUATION, 0, 1, b"");
    let mut frames = vec![part(kind::HEADERS, END, 1, first)];
    frames.extend((0..15).map(|_| empty()));
    let mut enough = frames.clone();
    enough.push(part(kind::CONTINUATION, flag::END_HEADERS, 1, second));
    check(&enough, "0: 200 \"\"", "");
    frames.extend([empty(), empty()]);
    check(&frames, "closes 11: header block too long", "goaway 11");
    check(
        &[
            part(kind::HEADERS, 0, 1, &[0x88; BLOCK_BYTES_MAX]),
            part(kind::CONTINUATION, 0, 1, &[0x88]),
        ],
        "closes 11: header block too long",
        "goaway 11",
    );
    check(
        &[
            part(kind::HEADERS, 4, 1, &[0x88; BLOCK_BYTES_MAX]),
            head(3, END, OK),
        ],
        "0: not a valid HTTP response: head too large | 1: 200 \"\"",
        "reset 1 11",
    );
}

#[test]
fn a_stream_that_is_over_takes_no_second_answer() {
    check(
        &[head(1, END, OK), head(1, END, OK)],
        "0: 200 \"\" | closes 5: answer on a closed stream",
        "goaway 5",
    );
    check(
        &[head(1, END, OK), data(1, END, "x")],
        "0: 200 \"\" | closes 5: answer on a closed stream",
        "goaway 5",
    );
    check(
        &[reset(1, 2), data(1, 0, "x")],
        "0: connection lost | closes 5: answer on a closed stream",
        "goaway 5",
    );
    check(
        &[head(1, END, OK), reset(1, 0), window(1, 5), head(3, END, OK)],
        "0: 200 \"\" | 1: 200 \"\"",
        "",
    );
    // We gave it up; it may have been answering.
    let mut client = greeted(2);
    assert_eq!(client.oldest(), Some((1, &0)));
    assert_eq!(client.cancel(1), Some(0));
    assert_eq!(client.cancel(1), None);
    assert_eq!(sent(&mut client), "reset 1 8");
    let answer = [head(1, 0, OK), data(1, END, "x"), reset(1, 0), head(3, END, OK)];
    assert_eq!(feed(&mut client, &answer.concat()), "1: 200 \"\"");
}

#[test]
fn resets_and_go_away_say_what_may_be_asked_again() {
    let stale = "idle connection was closed";
    check(&[reset(1, code::REFUSED_STREAM)], &format!("0: {stale}"), "");
    check(&[reset(1, code::CANCEL)], "0: connection lost", "");
    check(&[go_away(3, 0), head(1, END, OK)], "0: 200 \"\"", "");
    check(
        &[go_away(1, 0), head(1, END, OK), data(3, 0, "ignored")],
        &format!("1: {stale} | 0: 200 \"\""),
        "",
    );
    check(&[go_away(0, 11)], &format!("0: {stale} | 1: {stale}"), "");
    check(
        &[go_away(0x7fff_ffff, 0), go_away(1, 0)],
        &format!("1: {stale}"),
        "",
    );
    let mut client = greeted(2);
    feed(&mut client, &go_away(3, 0));
    assert!(client.is_retired());
    assert_eq!(
        client.start(&request(), &Body::from(b""), 9),
        Err(Refused::Retired)
    );
    assert_eq!(client.calls(), 2);
}

#[test]
fn a_lost_connection_tells_which_calls_it_cannot_have_begun() {
    let lost = |client: &mut Client| {
        let mut lost = Vec::new();
        client.fail_all(|tag, unheard| lost.push((tag, unheard)));
        assert_eq!(client.calls(), 0);
        lost
    };
    let mut client = client(2);
    assert_eq!(lost(&mut client), [(0, false), (1, false)], "never heard of");
    let mut client = greeted(2);
    client.start(&request(), &Body::from(b""), 2).unwrap();
    assert_eq!(lost(&mut client), [(0, false), (1, false), (2, true)]);
}

#[test]
fn settings_are_checked_and_acknowledged() {
    for (setting, answer) in [
        ((setting::ENABLE_PUSH, 0), ""),
        (
            (setting::ENABLE_PUSH, 1),
            "closes 1: a server must not enable push",
        ),
        (
            (setting::MAX_FRAME_SIZE, 16_383),
            "closes 1: frame size out of range",
        ),
        ((setting::MAX_FRAME_SIZE, 16_384), ""),
        ((setting::MAX_FRAME_SIZE, 16_777_215), ""),
        (
            (setting::MAX_FRAME_SIZE, 16_777_216),
            "closes 1: frame size out of range",
        ),
        ((setting::INITIAL_WINDOW_SIZE, 0x7fff_ffff), ""),
        (
            (setting::INITIAL_WINDOW_SIZE, 0x8000_0000),
            "closes 3: window too large",
        ),
        ((0xff, u32::MAX), ""),
    ] {
        let mut client = greeted(1);
        assert_eq!(feed(&mut client, &settings(&[setting])), answer, "{setting:?}");
        if answer.is_empty() {
            assert_eq!(sent(&mut client), "ack");
        }
    }
    check(
        &[
            window(1, 0x7000_0004),
            settings(&[(setting::INITIAL_WINDOW_SIZE, 0x1000_0000)]),
        ],
        "closes 3: window too large",
        "goaway 3",
    );
}

#[test]
fn a_flood_of_settings_in_one_frame_counts_each() {
    let flood = vec![(setting::INITIAL_WINDOW_SIZE, 65_535); 2_700];
    assert_eq!(
        feed(&mut greeted(1), &settings(&flood)),
        "closes 11: flood",
        "2,700 walks over all streams"
    );
    assert_eq!(feed(&mut greeted(1), &settings(&flood[..100])), "");
}

#[test]
fn what_was_written_is_given_back_though_something_is_always_left() {
    let mut client = greeted(0);
    feed(&mut client, &window(0, 0x7000_0000));
    let body = Body::from(vec![b'x'; 4_000]);
    for call in 0..2_000 {
        let id = client.start(&request(), &body, call).unwrap();
        client.wrote(client.output.len() - 1);
        client.cancel(id);
    }
    let held = client.output.held_bytes();
    assert!(
        held < 2 * crate::fanout::h2::output::BYTES_KEPT,
        "{held} bytes of 8 MB are kept"
    );
}

#[test]
fn no_more_streams_than_the_peer_wants() {
    let mut client = client(3);
    feed(&mut client, &settings(&[(setting::MAX_CONCURRENT_STREAMS, 2)]));
    assert_eq!(client.start(&request(), &Body::from(b""), 9), Err(Refused::Full));
    feed(&mut client, &head(1, END, OK));
    assert_eq!(client.start(&request(), &Body::from(b""), 9), Err(Refused::Full));
    feed(&mut client, &head(3, END, OK));
    assert_eq!(client.start(&request(), &Body::from(b""), 9), Ok(7));
    feed(&mut client, &settings(&[(setting::MAX_CONCURRENT_STREAMS, 0)]));
    assert_eq!(client.has_room(0), Err(Refused::Full));
    assert!(!client.is_retired());
}

#[test]
fn stream_ids_run_out() {
    let mut client = greeted(0);
    client.next_id = frame::STREAM_ID_MAX;
    client.streams = Streams::new(frame::STREAM_ID_MAX);
    assert!(!client.is_retired());
    assert_eq!(
        client.start(&request(), &Body::from(b""), 7),
        Ok(frame::STREAM_ID_MAX)
    );
    assert!(client.is_retired());
    assert_eq!(
        client.start(&request(), &Body::from(b""), 8),
        Err(Refused::Retired)
    );
    assert_eq!(
        feed(&mut client, &head(frame::STREAM_ID_MAX, END, OK)),
        "7: 200 \"\""
    );
}

#[test]
fn bodies_wait_for_the_windows_in_their_order() {
    let body = |length: usize| Body::from(vec![b'x'; length]);
    let mut client = greeted(0);
    for call in 0..3 {
        client.start(&request(), &body(30_000), call).unwrap();
    }
    assert_eq!(
        sent(&mut client),
        "head 1, data 1 16384, data! 1 13616, head 3, data 3 16384, data! 3 13616, head 5, data 5 5535"
    );
    // The connection's window is used up: even a small one has to wait for its turn.
    client.start(&request(), &body(10), 3).unwrap();
    client.start(&request(), &body(0), 4).unwrap();
    assert_eq!(sent(&mut client), "head 7, head! 9");
    feed(&mut client, &window(0, 24_000));
    assert_eq!(sent(&mut client), "data 5 16384, data 5 7616");
    feed(&mut client, &window(5, 1_000));
    assert_eq!(sent(&mut client), "", "a stream's window alone is of no use");
    feed(&mut client, &window(0, 470));
    assert_eq!(sent(&mut client), "data! 5 465, data 7 5");
    feed(&mut client, &window(0, 1_000));
    assert_eq!(sent(&mut client), "data! 7 5");
    assert_eq!(client.waiting_bytes, 0);
}

#[test]
fn a_stream_without_window_does_not_hold_up_the_others() {
    let mut client = client(0);
    feed(&mut client, &settings(&[(setting::INITIAL_WINDOW_SIZE, 3)]));
    sent(&mut client);
    client.start(&request(), &Body::from(b"12345"), 0).unwrap();
    client.start(&request(), &Body::from(b"123"), 1).unwrap();
    assert_eq!(sent(&mut client), "head 1, data 1 3, head 3, data! 3 3");
    // 3 of the window's 1 are used: it is below zero until 2 more have come.
    feed(&mut client, &settings(&[(setting::INITIAL_WINDOW_SIZE, 1)]));
    feed(&mut client, &window(1, 2));
    assert_eq!(sent(&mut client), "ack");
    feed(&mut client, &window(1, 1));
    assert_eq!(sent(&mut client), "data 1 1");
    feed(&mut client, &settings(&[(setting::INITIAL_WINDOW_SIZE, 100)]));
    assert_eq!(sent(&mut client), "ack, data! 1 1");
    check(
        &[window(1, 0x7fff_ffff)],
        "0: not a valid HTTP response: window too large",
        "reset 1 3",
    );
    check(&[window(1, 0x7fff_0004)], "", "");
    check(
        &[window(1, 0)],
        "0: not a valid HTTP response: window increment of 0",
        "reset 1 1",
    );
    check(
        &[window(0, 0x7fff_ffff)],
        "closes 3: window too large",
        "goaway 3",
    );
}

#[test]
fn a_request_that_is_over_is_not_sent_on() {
    let started = || {
        let mut client = greeted(0);
        client
            .start(&request(), &Body::from(&[0; 65_535 + 10]), 0)
            .unwrap();
        sent(&mut client);
        assert_eq!(client.waiting_bytes, 10);
        client
    };
    let more = || [window(0, 100), window(1, 100)].concat();
    // Answered before it was read.
    let mut client = started();
    assert_eq!(feed(&mut client, &head(1, END, ":status 413")), "0: 413 \"\"");
    assert_eq!(sent(&mut client), "reset 1 8");
    feed(&mut client, &more());
    assert_eq!((sent(&mut client), client.waiting_bytes), (String::new(), 0));
    for end in [reset(1, 2), go_away(0, 0)] {
        let mut client = started();
        feed(&mut client, &end);
        feed(&mut client, &more());
        assert_eq!((sent(&mut client), client.waiting_bytes), (String::new(), 0));
    }
}

#[test]
fn who_takes_nothing_is_not_given_more() {
    let mut client = greeted(0);
    let body = Body::from(vec![0; 1 << 20]);
    for call in 0..3 {
        client.start(&request(), &body, call).unwrap();
    }
    assert_eq!(client.start(&request(), &body, 9), Err(Refused::Behind));
    assert!(client.start(&request(), &Body::from(b"small"), 9).is_ok());
}

#[test]
fn large_requests_are_cut_as_the_peer_wants() {
    let mut options = dsp(0, false);
    options.target.path = format!("/{}", "p".repeat(20_000));
    let mut client = greeted(0);
    client
        .start(&RequestBlock::new(&options), &Body::from(b""), 0)
        .unwrap();
    let said = sent(&mut client);
    assert!(said.starts_with("head! 1, kind 9 "), "{said}");
    feed(&mut client, &settings(&[(setting::MAX_FRAME_SIZE, 50_000)]));
    sent(&mut client);
    client
        .start(&RequestBlock::new(&options), &Body::from(&[0; 40_000]), 0)
        .unwrap();
    assert_eq!(sent(&mut client), "head 3, data! 3 40000");
}

#[test]
fn pings_are_answered_and_floods_are_not() {
    let ping = || frame(kind::PING, 0, 0, b"12345678");
    check(
        &[ping(), frame(kind::PING, flag::ACK, 0, b"corebid?")],
        "",
        "ping! 12345678",
    );
    let floods: [(&str, Vec<u8>); 6] = [
        ("PING", ping()),
        ("SETTINGS", settings(&[])),
        ("WINDOW_UPDATE", window(1, 1)),
        ("PRIORITY", frame(kind::PRIORITY, 0, 1, b"12345")),
        ("unknown", frame(0x42, 0, 0, b"")),
        ("empty DATA", data(1, 0, "")),
    ];
    for (name, frame) in floods {
        let mut client = greeted(1);
        feed(&mut client, &head(1, 0, OK));
        // One was the greeting, and the call has earned some.
        let allowed =
            usize::try_from(IDLE_FRAMES_START + IDLE_FRAMES_PER_CALL + IDLE_FRAMES_PER_DATA).unwrap() - 1;
        assert_eq!(feed(&mut client, &frame.repeat(allowed)), "", "{name}");
        assert_eq!(feed(&mut client, &frame), "closes 11: flood", "{name}");
    }
}

#[test]
fn the_connection_window_is_given_back_in_large_steps() {
    let mut client = greeted(1);
    client.unreported = CONNECTION_WINDOW / 2 - 10;
    feed(&mut client, &[head(1, 0, OK), data(1, 0, "0123456789")].concat());
    assert_eq!(sent(&mut client), "");
    feed(&mut client, &data(1, 0, "x"));
    assert_eq!(
        sent(&mut client),
        format!("window 0 {}", CONNECTION_WINDOW / 2 + 1)
    );
    client.unreported = CONNECTION_WINDOW;
    assert_eq!(feed(&mut client, &data(1, 0, "x")), "closes 3: window passed");
}

/// All that a server may do with a few calls, as one stream of bytes.
fn server_bytes() -> Vec<u8> {
    [
        settings(&[(setting::MAX_CONCURRENT_STREAMS, 100)]),
        frame(kind::SETTINGS, flag::ACK, 0, b""),
        head(3, 0, OK),
        frame(kind::DATA, flag::PADDED, 3, b"\x02hi\0\0"),
        window(0, 1_000),
        frame(kind::HEADERS, 0, 1, &block(OK)[..7]),
        frame(kind::CONTINUATION, flag::END_HEADERS, 1, &block(OK)[7..]),
        data(1, 0, "hello"),
        head(5, 0, ":status 103"),
        head(5, END, ":status 204"),
        frame(kind::PING, 0, 0, b"12345678"),
        data(3, END, "!"),
        reset(7, code::REFUSED_STREAM),
        data(1, 0, ""),
        head(1, END, "trailer x"),
        frame(0x42, 0, 0, b"grease"),
        go_away(9, 0),
        head(9, END, ":status 500"),
    ]
    .concat()
}

proptest! {
    #[test]
    fn however_the_bytes_are_cut_they_mean_the_same(cuts in prop::collection::vec(0_usize..400, 0..40)) {
        let bytes = server_bytes();
        let told = |parts: &[&[u8]]| {
            let mut client = client(5);
            let (mut said, mut bodies) = (Vec::new(), std::collections::BTreeMap::<u32, Vec<u8>>::new());
            for part in parts {
                client.receive(part, |event| match event {
                    Event::Begun { tag } => assert_eq!(bodies.insert(*tag, Vec::new()), None, "once, before its body"),
                    Event::Data { tag, bytes } => bodies.entry(*tag).or_default().extend_from_slice(bytes),
                    Event::Ended { tag, head } => said.push(format!("{tag}: {head:?}")),
                    Event::Failed { tag, failure } => said.push(format!("{tag}: {failure}")),
                }).unwrap();
            }
            (said, bodies, sent(&mut client))
        };
        let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut % bytes.len()).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let parts: Vec<_> = cuts.windows(2).map(|pair| &bytes[pair[0]..pair[1]]).collect();
        let whole = told(&[&bytes]);
        prop_assert_eq!(whole.0.len(), 5);
        prop_assert_eq!(told(&parts), whole);
    }

    #[test]
    fn garbage_never_panics_and_every_call_ends_once(
        frames in prop::collection::vec(
            (0_u8..12, any::<u8>(), 0_u32..14, prop::collection::vec(any::<u8>(), 0..40)), 0..60),
        tail in prop::collection::vec(any::<u8>(), 0..100),
    ) {
        let mut client = client(5);
        let mut bytes = settings(&[]);
        for (kind, flags, id, payload) in &frames {
            bytes.extend(frame(*kind, *flags, *id, payload));
        }
        bytes.extend(tail);
        let mut ended = Vec::new();
        let _ends = client.receive(&bytes, |event| match event {
            Event::Begun { .. } | Event::Data { .. } => {}
            Event::Ended { tag, .. } | Event::Failed { tag, .. } => ended.push(tag),
        });
        client.fail_all(|tag, _| ended.push(tag));
        ended.sort_unstable();
        prop_assert_eq!(ended, [0, 1, 2, 3, 4]);
        prop_assert_eq!(client.waiting_bytes, 0);
    }
}
