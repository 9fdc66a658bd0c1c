//! HTTP/1.1 that no honest client sends: smuggling, heads and bodies out of shape, too much, too slow.

use std::io::Write as _;
use std::time::{Duration, Instant};

use flate2::Compression;
use flate2::write::GzEncoder;
use socket2::SockRef;

use crate::abuse::{REQUEST, Row, Target, row};
use crate::client::{Http, post};
use crate::harness::{Dsp, Exchange, PATIENCE, Setup, eventually};
use crate::scripted::{Does, Gate, Scripted};

const LINE: &str = "POST /openrtb2/auction HTTP/1.1\r\n";
const HOST: &str = "Host: x\r\n";

/// So that rows about time take no longer than they must.
const LIMITS: &str =
    "max_request_bytes = 4000\nread_timeout_ms = 700\nidle_timeout_ms = 30000\nwrite_timeout_ms = 700";

const MUST_REJECT: &str = "400";
const MAY: &str = "may be taken";

/// A head with these headers beside `Host`, and the request as its body.
fn with(headers: &str) -> String {
    format!("{LINE}{HOST}{headers}\r\n{REQUEST}")
}

/// As [`with`], where the body's length is given.
fn headed(headers: &str) -> String {
    with(&format!("Content-Length: {}\r\n{headers}", REQUEST.len()))
}

/// Instead of the request line.
fn lined(line: &str) -> String {
    format!("{line}\r\n{HOST}\r\n")
}

/// Instead of `Host: x`.
fn hosted(hosts: &str) -> String {
    format!("{LINE}{hosts}Content-Length: {}\r\n\r\n{REQUEST}", REQUEST.len())
}

/// In chunks, as they are given.
fn chunked(chunks: &str) -> String {
    format!("{LINE}{HOST}Transfer-Encoding: chunked\r\n\r\n{chunks}")
}

/// The request in one chunk, its size with this after it.
fn chunk(after_size: &str) -> String {
    chunked(&format!(
        "{:x}{after_size}\r\n{REQUEST}\r\n0\r\n\r\n",
        REQUEST.len()
    ))
}

fn body(json: impl AsRef<[u8]>) -> Vec<u8> {
    post("", json)
}

fn gzipped(bytes: impl AsRef<[u8]>) -> Vec<u8> {
    post("Content-Encoding: gzip\r\n", bytes)
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// The request with so many levels in all.
fn nested(levels: usize) -> String {
    let inner = levels - 2;
    format!(
        r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}}}],"ext":{{"x":{}{}}}}}"#,
        "[".repeat(inner),
        "]".repeat(inner)
    )
}

/// A request for so many imps. One has 26 bytes or more.
fn imps(count: usize) -> String {
    let imps: Vec<_> = (1..=count)
        .map(|n| format!(r#"{{"id":"{n}","banner":{{}}}}"#))
        .collect();
    format!(r#"{{"id":"r","imp":[{}]}}"#, imps.join(","))
}

/// The request, padded to so many bytes.
fn sized(bytes: usize) -> String {
    format!("{REQUEST}{}", " ".repeat(bytes - REQUEST.len()))
}

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = lengths();
    rows.extend(transfer_encodings());
    rows.extend(chunks());
    rows.extend(headers());
    rows.extend(hosts());
    rows.extend(request_lines());
    rows.extend(not_http());
    rows.extend(expectations());
    rows.extend(bodies());
    rows.extend(json());
    rows.extend(order());
    rows.extend(slow());
    rows
}

#[rustfmt::skip] // a case a line
fn lengths() -> Vec<Row> {
    let length = |value: &str| with(&format!("Content-Length: {value}\r\n"));
    let own = REQUEST.len();
    vec![
        row("two different lengths", "§6.3", MUST_REJECT, "400 end", with("Content-Length: 41\r\nContent-Length: 4\r\n")),
        row("a list of lengths", "§6.3", MUST_REJECT, "400 end", length("41, 4")),
        row("a list of equal lengths", "§6.3", "400, or as one", "400 end", length(&format!("{own}, {own}"))),
        row("the same length twice", "RFC 9110 §8.6", "400, or as one", "200 goes on", headed(&format!("Content-Length: {own}\r\n"))),
        row("length `+41`", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("+41")),
        row("length `-1`", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("-1")),
        row("length `0x29`", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("0x29")),
        row("length `4_1`", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("4_1")),
        row("length `4 1`", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("4 1")),
        row("an empty length", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("")),
        row("a length past 64 bits", "RFC 9110 §8.6", MUST_REJECT, "400 end", length("18446744073709551657")),
        row("a length with zeros before it", "RFC 9110 §8.6", MAY, "200 goes on", length(&format!("000{own}"))),
        row("white space around the length", "§5", "taken", "200 goes on", length(&format!(" \t {own} \t"))),
    ]
}

#[rustfmt::skip] // a case a line
fn transfer_encodings() -> Vec<Row> {
    let encoded = |headers: &str| {
        format!(
            "{LINE}{HOST}{headers}\r\n{:x}\r\n{REQUEST}\r\n0\r\n\r\n",
            REQUEST.len()
        )
    };
    vec![
        row("a length and then chunked", "§6.3", "400, or chunked and the end", "200 end", encoded("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n")),
        row("chunked and then a length", "§6.3", "400, or chunked and the end", "200 end", encoded("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n")),
        row("`identity`", "§6.1", "400 or 501", "400 end", encoded("Transfer-Encoding: identity\r\n")),
        row("`xchunked`", "§6.1", "400 or 501", "400 end", encoded("Transfer-Encoding: xchunked\r\n")),
        row("`chunked, chunked`", "§6.1", MUST_REJECT, "400 end", encoded("Transfer-Encoding: chunked, chunked\r\n")),
        row("chunked in two lines", "§6.1", MUST_REJECT, "400 end", encoded("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n")),
        row("`gzip, chunked`", "§6.1", "501, or decoded", "400 end", encoded("Transfer-Encoding: gzip, chunked\r\n")),
        row("`chunked, gzip`", "§6.3", MUST_REJECT, "400 end", encoded("Transfer-Encoding: chunked, gzip\r\n")),
        row("`chunked;q=1`", "§6.1", "400 or 501", "400 end", encoded("Transfer-Encoding: chunked;q=1\r\n")),
        row("a vertical tab before `chunked`", "§5", MUST_REJECT, "400 end", encoded("Transfer-Encoding: \x0bchunked\r\n")),
        row("a space before the colon", "§5.1", MUST_REJECT, "400 end", encoded("Transfer-Encoding : chunked\r\n")),
        row("a tab before `chunked`", "§5", "taken", "200 goes on", encoded("Transfer-Encoding:\tchunked\r\n")),
        row("folded before `chunked`", "§5.2", "400, or unfolded", "400 end", encoded("Transfer-Encoding:\r\n chunked\r\n")),
        row("an empty transfer encoding", "§6.1", "400 or 501", "400 end", encoded("Transfer-Encoding: \r\n")),
        row("`CHUNKED`", "§7", "taken", "200 goes on", encoded("Transfer-Encoding: CHUNKED\r\n")),
        row("chunked in HTTP/1.0", "§6.1", "the end", "400 end", encoded("Transfer-Encoding: chunked\r\n").replace("HTTP/1.1", "HTTP/1.0")),
    ]
}

#[rustfmt::skip] // a case a line
fn chunks() -> Vec<Row> {
    let bad = |size: &str| chunked(&format!("{size}\r\n{REQUEST}\r\n0\r\n\r\n"));
    let spilt = format!("10\r\n{REQUEST}\r\n0\r\n\r\n");
    vec![
        row("chunk size `0x29`", "§7.1", MUST_REJECT, "400 end", bad("0x29")),
        row("chunk size `2_9`", "§7.1", MUST_REJECT, "400 end", bad("2_9")),
        row("chunk size `+29`", "§7.1", MUST_REJECT, "400 end", bad("+29")),
        row("a space before the size", "§7.1", MUST_REJECT, "400 end", bad(" 29")),
        row("no chunk size", "§7.1", MUST_REJECT, "400 end", bad("")),
        row("a size past 64 bits", "§7.1", MUST_REJECT, "400 end", bad("10000000000000029")),
        row("a chunk longer than its size", "§7.1", MUST_REJECT, "400 end", chunked(&spilt)),
        row("a bare LF after the size", "§7.1", MUST_REJECT, "400 end", chunked(&format!("29\n{REQUEST}\r\n0\r\n\r\n"))),
        row("a bare CR after the size", "§7.1", MUST_REJECT, "400 end", chunked(&format!("29\r{REQUEST}\r\n0\r\n\r\n"))),
        row("a bare LF after the chunk", "§7.1", MUST_REJECT, "400 end", chunked(&format!("29\r\n{REQUEST}\n0\r\n\r\n"))),
        row("an extension", "§7.1.1", "ignored", "200 goes on", chunk(";name=\"value\"")),
        row("a bare `;` for an extension", "§7.1.1", "400; deviates, as nginx, HAProxy and Envoy", "200 goes on", chunk(";")),
        row("an extension that is no token", "§7.1.1", "400; deviates, as nginx, HAProxy and Envoy", "200 goes on", chunk(";a b=c\"")),
        row("a space after the size", "§7.1.1", "400; deviates, as nginx, HAProxy and Envoy", "200 goes on", chunk(" ")),
        row("a CR in an extension", "§7.1.1", MUST_REJECT, "400 end", chunk(";a\rb")),
        row("a LF in an extension", "§7.1.1", MUST_REJECT, "400 end", chunk(";a\nb")),
        row("20 kB of extensions", "§7.1.1", "a limit", "400 end", chunk(&format!(";a={}", "b".repeat(20_000)))),
        row("trailers", "§7.1.2", "ignored", "200 goes on", chunked(&format!("29\r\n{REQUEST}\r\n0\r\nContent-Length: 3\r\nHost: y\r\n\r\n"))),
        row("65 trailers", "§7.1.2", "a limit", "400 end", chunked(&format!("29\r\n{REQUEST}\r\n0\r\n{}\r\n", "X: y\r\n".repeat(65)))),
        row("20 kB of trailers", "§7.1.2", "a limit", "400 end", chunked(&format!("29\r\n{REQUEST}\r\n0\r\nX: {}\r\n\r\n", "y".repeat(20_000)))),
        row("the end in the middle of a chunk", "§8", MUST_REJECT, "400 end", chunked(&format!("29\r\n{}", &REQUEST[..9])))
        .and_finishes(),
        row("the end before the last chunk", "§8", MUST_REJECT, "400 end", chunked(&format!("29\r\n{REQUEST}\r\n")))
        .and_finishes(),
    ]
}

#[rustfmt::skip] // a case a line
fn headers() -> Vec<Row> {
    // A head with so many bytes in all.
    let long = |bytes: usize| {
        let around = headed("X: \r\n").len() - REQUEST.len();
        headed(&format!("X: {}\r\n", "y".repeat(bytes - around)))
    };
    // `Host` and the length are there already.
    let many = |count: usize| headed(&"X: y\r\n".repeat(count - 2));
    vec![
        row("no colon", "§5.1", MUST_REJECT, "400 end", headed("Nothing\r\n")),
        row("an empty name", "§5.1", MUST_REJECT, "400 end", headed(": y\r\n")),
        row("a control character in a name", "§5.1", MUST_REJECT, "400 end", headed("X\x01: y\r\n")),
        row("a name that is not ASCII", "§5.1", MUST_REJECT, "400 end", headed("X\u{e9}: y\r\n")),
        row("a space in a name", "§5.1", MUST_REJECT, "400 end", headed("X Y: z\r\n")),
        row("NUL in a value", "RFC 9110 §5.5", MUST_REJECT, "400 end", headed("X: y\0z\r\n")),
        row("a bare CR in a value", "§2.2", MUST_REJECT, "400 end", headed("X: y\rZ: z\r\n")),
        row("a folded line", "§5.2", "400, or unfolded", "400 end", headed("X: y\r\n z\r\n")),
        row("white space before the first header", "§2.2", "400, or ignored", "400 end", format!("{LINE} {HOST}Content-Length: 41\r\n\r\n{REQUEST}")),
        row("bare LF for line ends", "§2.2", MAY, "200 goes on", headed("").replace("\r\n", "\n")),
        row("an empty line before the request", "§2.2", "ignored", "200 goes on", format!("\r\n{}", headed(""))),
        row("64 headers", "§5", "a limit: at it", "200 goes on", many(64)),
        row("65 headers", "§5", "a limit: past it", "431 end", many(65)),
        row("a head of 16 kB", "§5", "a limit: at it", "200 goes on", long(16_384)),
        row("a head of 16 kB and a byte", "§5", "a limit: past it", "431 end", long(16_385)),
        row("a head of 1 MB", "§5", "a limit: past it", "431 end", long(1_000_000)),
        row("the end in the middle of the head", "§8", "the end", "end", &headed("")[..60])
        .and_finishes(),
    ]
}

#[rustfmt::skip] // a case a line
fn hosts() -> Vec<Row> {
    vec![
        row("no Host", "§3.2", MUST_REJECT, "400 end", hosted("")),
        row("no Host in HTTP/1.0", "§3.2", "taken", "200 end", hosted("").replace("HTTP/1.1", "HTTP/1.0")),
        row("two different Hosts", "§3.2", MUST_REJECT, "400 end", hosted("Host: x\r\nHost: y\r\n")),
        row("the same Host twice", "§3.2", MUST_REJECT, "400 end", hosted("Host: x\r\nHost: x\r\n")),
        row("an empty Host", "RFC 9110 §4.2.1", MUST_REJECT, "400 end", hosted("Host: \r\n")),
        row("Host `u@x`", "§3.2", MUST_REJECT, "400 end", hosted("Host: u@x\r\n")),
        row("Host `x/y`", "§3.2", MUST_REJECT, "400 end", hosted("Host: x/y\r\n")),
        row("Host `x, y`", "§3.2", MUST_REJECT, "400 end", hosted("Host: x, y\r\n")),
        row("Host `x:y`", "§3.2", MUST_REJECT, "400 end", hosted("Host: x:y\r\n")),
        row("Host `x y`", "§3.2", MUST_REJECT, "400 end", hosted("Host: x y\r\n")),
        row("Host `[::1]:80`", "§3.2", "taken", "200 goes on", hosted("Host: [::1]:80\r\n")),
        row("a whole URI of another host", "§3.2.2", "the URI's", "200 goes on", headed("").replacen("POST /", "POST http://y/", 1)),
    ]
}

#[rustfmt::skip] // a case a line
fn request_lines() -> Vec<Row> {
    let get = |target: &str| lined(&format!("GET {target} HTTP/1.1"));
    let version = |version: &str| lined(&format!("GET /status {version}"));
    vec![
        row("`GET *`", "§3.2.4", MUST_REJECT, "400 end", get("*")),
        row("`OPTIONS *`", "RFC 9110 §9.3.7", "answered", "200 goes on", lined("OPTIONS * HTTP/1.1")),
        row("`GET x:80`", "§3.2.3", MUST_REJECT, "400 end", get("x:80")),
        row("`CONNECT x:80`", "RFC 9110 §9.3.6", "405 or 501", "405 goes on", lined("CONNECT x:80 HTTP/1.1")),
        row("a fragment in the target", "§3.2", "should be refused", "200 goes on", get("/status#x")),
        row("a space in the target", "§3", MUST_REJECT, "400 end", get("/sta tus")),
        row("NUL in the target", "§3", MUST_REJECT, "400 end", get("/sta\0tus")),
        row("a target that is not ASCII", "§3.2", "400, or taken as it is", "404 goes on", get("/\u{e9}")),
        row("an empty target", "§3.2", MUST_REJECT, "400 end", lined("GET  HTTP/1.1")),
        row("a target of 20 kB", "§3", "414 or 431", "431 end", get(&format!("/{}", "x".repeat(20_000)))),
        row("two spaces in the request line", "§3", "400, or as one", "400 end", lined("GET  /status HTTP/1.1")),
        row("a space before the method", "§3", MUST_REJECT, "400 end", lined(" GET /status HTTP/1.1")),
        row("a method of our own", "RFC 9110 §9.1", "405 or 501", "405 goes on", lined("BREW /openrtb2/auction HTTP/1.1")),
        row("`TRACE`", "RFC 9110 §9.3.8", "405, never echoed", "405 goes on", lined("TRACE /openrtb2/auction HTTP/1.1")),
        row("`post`", "RFC 9110 §9.1", "another method than POST", "405 goes on", lined("post /openrtb2/auction HTTP/1.1")),
        row("a control character in the method", "RFC 9110 §9.1", MUST_REJECT, "400 end", lined("G\x01T /status HTTP/1.1")),
        row("`http/1.1`", "§2.3", MUST_REJECT, "400 end", version("http/1.1")),
        row("`HTTP/1.1x`", "§2.3", MUST_REJECT, "400 end", version("HTTP/1.1x")),
        row("`HTTP/01.01`", "§2.3", MUST_REJECT, "400 end", version("HTTP/01.01")),
        row("`HTTP/1.2`", "RFC 9110 §2.5", "as 1.1, or 505", "400 end", version("HTTP/1.2")),
        row("`HTTP/2.0` in HTTP/1.1's form", "§2.3", "400 or 505", "400 end", version("HTTP/2.0")),
        row("HTTP/0.9", "§2.3", "400 or the end", "400 end", "GET /status\r\n\r\n"),
    ]
}

#[rustfmt::skip] // a case a line
fn not_http() -> Vec<Row> {
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n";
    vec![
        row("TLS", "§3", "400 or the end", "400 end", hello),
        row("a line of the PROXY protocol", "§3", "400 or the end", "400 end", format!("PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n{}", headed(""))),
        row("1 kB of zeros", "§3", "400 or the end", "400 end", vec![0; 1024]),
        row("HTTP/2's preface, broken", "RFC 9113 §3.4", "400 or the end", "400 end", "PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"),
        row("`Upgrade: h2c`", "RFC 9113 §3.1", "ignored", "200 goes on", headed("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n")),
        row("`Upgrade: websocket`", "RFC 9110 §7.8", "ignored", "200 goes on", headed("Connection: Upgrade\r\nUpgrade: websocket\r\n")),
    ]
}

#[rustfmt::skip] // a case a line
fn expectations() -> Vec<Row> {
    vec![
        row("`Expect: 100-continue`, and the body at once", "RFC 9110 §10.1.1", "100 may be left out", "100 200 goes on", headed("Expect: 100-continue\r\n")),
        row("another expectation", "RFC 9110 §10.1.1", "417, or ignored", "200 goes on", headed("Expect: 200-ok\r\n")),
        row("`Expect` with a body past the limit", "RFC 9110 §10.1.1", "413 and no 100", "413 end", format!("{LINE}{HOST}Expect: 100-continue\r\nContent-Length: 4001\r\n\r\n")),
    ]
}

#[rustfmt::skip] // a case a line
fn bodies() -> Vec<Row> {
    let past = chunked(&format!("1000\r\n{}\r\n0\r\n\r\n", sized(0x1000)));
    let cut_off = gzip(REQUEST.as_bytes());
    vec![
        row("a body at the limit", "RFC 9110 §15.5.14", "a limit: at it", "200 goes on", body(sized(4_000))),
        row("a body past the limit", "RFC 9110 §15.5.14", "413, unread", "413 end", &body(sized(4_001))[..200]),
        row("chunks past the limit", "RFC 9110 §15.5.14", "413 when passed", "413 end", past),
        row("gzip of a body at the limit", "RFC 9110 §15.5.14", "a limit: at it", "200 goes on", gzipped(gzip(sized(4_000).as_bytes()))),
        row("gzip of a body past the limit", "RFC 9110 §15.5.14", "413", "413 end", gzipped(gzip(sized(4_001).as_bytes()))),
        row("3 kB of gzip that are 3 MB", "RFC 9110 §15.5.14", "413", "413 end", gzipped(gzip(&vec![b' '; 3_000_000]))),
        row("gzip cut off", "RFC 1952 §2.2", MUST_REJECT, "400 goes on", gzipped(&cut_off[..cut_off.len() - 9])),
        row("gzip with bytes behind it", "RFC 1952 §2.2", MUST_REJECT, "400 goes on", gzipped([&cut_off[..], b"more"].concat())),
        row("gzip with a wrong checksum", "RFC 1952 §2.3.1", MUST_REJECT, "400 goes on", gzipped([&cut_off[..cut_off.len() - 8], &[0; 8]].concat())),
        row("what is not gzip", "RFC 9110 §8.4.1.3", MUST_REJECT, "400 goes on", gzipped(REQUEST)),
        row("gzip twice", "RFC 9110 §8.4", "415, or decoded", "415 goes on", post("Content-Encoding: gzip, gzip\r\n", gzip(&gzip(REQUEST.as_bytes())))),
        row("`Content-Encoding: br`", "RFC 9110 §15.5.16", "415", "415 goes on", post("Content-Encoding: br\r\n", REQUEST)),
        row("a body cut off", "§8", MUST_REJECT, "400 end", &body(REQUEST)[..130])
        .and_finishes(),
        row("no length", "§6.3", "no body", "400 goes on", format!("{LINE}{HOST}\r\n")),
    ]
}

#[rustfmt::skip] // a case a line
fn json() -> Vec<Row> {
    let imp = |imp: &str| body(format!(r#"{{"id":"r","imp":[{imp}]}}"#));
    let ext = |ext: &str| {
        body(format!(
            r#"{{"id":"r","imp":[{{"id":"1","banner":{{}}}}],"ext":{ext}}}"#
        ))
    };
    let utf16: Vec<u8> = REQUEST.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let json = "RFC 8259";
    vec![
        row("32 levels", json, "a limit: at it", "200 goes on", body(nested(32))),
        row("33 levels", json, "a limit: past it", "400 goes on", body(nested(33))),
        row("3,000 levels", json, "a limit: past it", "400 goes on", ext(&"[".repeat(3_000))),
        row("100 imps", "OpenRTB 2.6 §3.2.1", "a limit: at it", "200 goes on", body(imps(100))),
        row("101 imps", "OpenRTB 2.6 §3.2.1", "a limit: past it", "400 goes on", body(imps(101))),
        row("NaN", json, MUST_REJECT, "400 goes on", ext("NaN")),
        row("a number past 64 bits", json, "taken", "200 goes on", ext("123456789012345678901234567890")),
        row("`1e999`", json, "may be refused", "400 goes on", ext("1e999")),
        row("zeros before a number", json, MUST_REJECT, "400 goes on", ext("01")),
        row("a comma too many", json, MUST_REJECT, "400 goes on", ext("[1,]")),
        row("a comment", json, MUST_REJECT, "400 goes on", ext("/**/1")),
        row("single quotes", json, MUST_REJECT, "400 goes on", ext("'x'")),
        row("half a surrogate pair", json, MUST_REJECT, "400 goes on", ext("\"\\ud800\"")),
        row("a control character in a string", json, MUST_REJECT, "400 goes on", ext("\"\x01\"")),
        row("a byte order mark", json, "400, or ignored", "400 goes on", body(format!("\u{feff}{REQUEST}"))),
        row("UTF-16", json, MUST_REJECT, "400 goes on", body(utf16)),
        row("bytes that are not UTF-8", json, MUST_REJECT, "400 goes on", body([&REQUEST.as_bytes()[..7], b"\xc0\xaf", &REQUEST.as_bytes()[7..]].concat())),
        row("two documents", json, MUST_REJECT, "400 goes on", body(format!("{REQUEST}{REQUEST}"))),
        row("the same member twice", "RFC 8259 §4", "400, or one of them", "400 goes on", body(REQUEST.replace("\"id\":\"r\"", "\"id\":\"r\",\"id\":\"s\""))),
        row("an id that is a number", "OpenRTB 2.6 §3.2.1", MUST_REJECT, "400 goes on", body(REQUEST.replace("\"r\"", "1"))),
        row("imps that are none", "OpenRTB 2.6 §3.2.1", MUST_REJECT, "400 goes on", imp("null")),
        row("a negative floor", "OpenRTB 2.6 §3.2.4", MUST_REJECT, "400 goes on", imp(r#"{"id":"1","banner":{},"bidfloor":-1}"#)),
        row("tmax 0", "OpenRTB 2.6 §3.2.1", "no time for anybody", "400 goes on", body(REQUEST.replace("\"imp\"", "\"tmax\":0,\"imp\""))),
        row("a negative tmax", "OpenRTB 2.6 §3.2.1", MUST_REJECT, "400 goes on", body(REQUEST.replace("\"imp\"", "\"tmax\":-1,\"imp\""))),
    ]
}

#[rustfmt::skip] // a case a line
fn order() -> Vec<Row> {
    let good = headed("");
    vec![
        row("a good request, and what is none", "§9.3.2", "the answer, 400 and the end", "200 400 end", format!("{good}no HTTP at all\r\n\r\n")),
        row("a GET with a body that is a request", "RFC 9110 §9.3.1", "the body is no request", "200 goes on", format!("GET /status HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n{good}", good.len())),
        row("a request for nobody, with a body that is a request", "§6.3", "the body is no request", "404 goes on", format!("POST /nowhere HTTP/1.1\r\n{HOST}Content-Length: {}\r\n\r\n{good}", good.len())),
        row("`Connection: close` and another request", "§9.6", "the other is ignored", "200 end", format!("{}{good}", headed("Connection: close\r\n"))),
        row("a request, and no more to say", "§9.6", "answered", "200 end", good)
        .and_finishes(),
    ]
}

#[rustfmt::skip] // a case a line
fn slow() -> Vec<Row> {
    vec![
        row("half a head, and silence", "RFC 9110 §15.5.9", "408 and the end", "408 end", &headed("")[..50]),
        row("three bytes, and silence", "RFC 9110 §15.5.9", "408 and the end", "408 end", "POS"),
        row("half of HTTP/2's preface, and silence", "RFC 9113 §3.4", "the end", "end", "PRI * HTT"),
        row("half a body, and silence", "RFC 9110 §15.5.9", "408 and the end", "408 end", &body(REQUEST)[..130]),
        row("half a chunk, and silence", "RFC 9110 §15.5.9", "408 and the end", "408 end", chunked("29\r\n{\"id\"")),
    ]
}

/// Sends a row and tells what came of it. Whether the connection goes on shows with the next request.
fn play(target: &Target, row: &Row) -> String {
    let mut ssp = target.exchange.connect();
    ssp.stream()
        .set_read_timeout(Some(Duration::from_secs(5)))
        .unwrap();
    // It may be refused, and the connection ended, before all of it is sent.
    let _may_have_ended = ssp.stream().write_all(&row.sends);
    if row.finishes {
        ssp.finish();
    }
    let mut saw = Vec::new();
    let expects_end = row.sees.ends_with("end");
    let answers = row
        .sees
        .split(' ')
        .filter(|word| word.parse::<u16>().is_ok())
        .count();
    for _ in 0..answers + usize::from(expects_end) {
        if ssp.is_silent() {
            saw.push("silence".to_owned());
            return saw.join(" ");
        }
        match ssp.try_answer() {
            Some(answer) => saw.push(answer.status.to_string()),
            None => {
                saw.push("end".to_owned());
                return saw.join(" ");
            }
        }
    }
    saw.push(goes_on(ssp).to_owned());
    saw.join(" ")
}

fn goes_on(mut ssp: Http) -> &'static str {
    let _may_have_ended = ssp
        .stream()
        .write_all(format!("GET /status HTTP/1.1\r\n{HOST}\r\n").as_bytes());
    match ssp.try_answer() {
        Some(answer) if answer.body == b"alive\n" => "goes on",
        Some(_) => "is out of step",
        None => "end",
    }
}

#[test]
fn what_no_client_sends_over_http1() {
    let target = Target::start(LIMITS, "1");
    target.plays(&rows(), play);
    target
        .exchange
        .wait_until("each is counted by its cause", |metrics| {
            let ended = |reason| metrics.sum(&format!("connections_closed_total{{reason=\"{reason}\"}}"));
            // Slow bodies are requests, and answered as such.
            ended("slow") == 3 && ended("protocol") > 40 && metrics.sum("requests_total{status=\"408\"}") == 2
        });
}

/// A byte now and then is no progress: slowloris.
#[test]
fn a_head_in_drips_has_its_time_and_no_more() {
    let target = Target::start(LIMITS, "1");
    let mut ssp = target.exchange.connect();
    let start = Instant::now();
    let is_over = || start.elapsed() >= Duration::from_millis(650);
    for byte in headed("").bytes() {
        if ssp.stream().write_all(&[byte]).is_err() || start.elapsed() > PATIENCE {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(is_over());
    // The answer may be lost to the reset that answers what is sent after it.
    if let Some(answer) = ssp.try_answer() {
        assert_eq!(answer.status, 408);
    }
    target
        .exchange
        .wait_for("connections_closed_total{reason=\"slow\"}", 1);
    target.leaves_nothing();
}

/// A client that asks and never reads. What the kernel takes for it has its limit, and so has the time after that.
#[test]
fn answers_that_nobody_reads_end_the_connection() {
    let target = Target::start(LIMITS, "60000");
    let ssp = target.exchange.connect();
    SockRef::from(ssp.stream()).set_recv_buffer_size(4096).unwrap();
    ssp.stream()
        .set_write_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    let request = post("", REQUEST);
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        // Once we are not read, we read no more either.
        match ssp.stream().write(&request) {
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                break;
            }
            _ => {}
        }
        if target
            .exchange
            .metrics()
            .sum("connections_closed_total{reason=\"unread\"}")
            == 1
        {
            break;
        }
    }
    target
        .exchange
        .wait_for("connections_closed_total{reason=\"unread\"}", 1);
    target.leaves_nothing();
    assert_eq!(target.exchange.bid(REQUEST).status, 200);
}

/// Whoever resets the connection has gone: nobody waits for its auction. One that has only said that it sends no more
/// is waited for.
#[test]
fn who_resets_ends_the_fan_out_and_who_half_closes_does_not() {
    let gate = Gate::default();
    let waits = gate.clone();
    let dsp = Scripted::start(move |_| {
        waits.wait();
        Does::NoBid
    });
    // Far longer than the test may take.
    let exchange = Exchange::start(&Setup {
        auction: "deadline_ms = 60000".to_owned(),
        ..Setup::of([Dsp {
            more: "timeout_ms = 60000\n",
            ..Dsp::new("d", dsp.port)
        }])
    });
    let mut stays = exchange.connect();
    stays.send(post("", REQUEST));
    stays.finish();
    let mut goes = exchange.connect();
    goes.send(post("", REQUEST));
    assert!(eventually(|| dsp.asked().len() == 2));
    exchange.wait_for("in_flight", 2);
    SockRef::from(goes.stream())
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(goes);
    exchange.wait_for("in_flight", 1);
    exchange.wait_for("requests_cancelled_total", 1);
    exchange.wait_for("connections_closed_total{reason=\"reset\"}", 1);
    gate.open();
    assert_eq!(stays.answer().status, 204);
    exchange.wait_for("requests_cancelled_total", 1);
}

/// One more than the limit is reset at once; with one gone there is room again.
#[test]
fn connections_have_a_limit() {
    let target = Target::start("max_connections = 3", "1");
    let mut within: Vec<_> = (0..3).map(|_| target.exchange.connect()).collect();
    for ssp in &mut within {
        assert_eq!(ssp.bid(REQUEST).status, 200);
    }
    assert!(target.exchange.connect().is_closed(), "one more");
    target
        .exchange
        .wait_for("connections_closed_total{reason=\"full\"}", 1);
    within.pop();
    target.exchange.wait_for("connections{side=\"ssp\"", 2);
    assert_eq!(target.exchange.bid(REQUEST).status, 200);
    drop(within);
    target.leaves_nothing();
}

#[test]
fn connections_of_one_address_have_a_limit() {
    let target = Target::start("max_connections_per_peer = 2", "1");
    let mut within: Vec<_> = (0..2).map(|_| target.exchange.connect()).collect();
    for ssp in &mut within {
        assert_eq!(ssp.bid(REQUEST).status, 200);
    }
    assert!(target.exchange.connect().is_closed(), "one more");
    // Another address of the loopback network is another peer.
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket
        .bind(&std::net::SocketAddr::from(([127, 0, 0, 2], 0)).into())
        .unwrap();
    socket.connect(&target.exchange.listen.into()).unwrap();
    let mut other = Http::over(socket.into());
    assert_eq!(other.bid(REQUEST).status, 200);
    target
        .exchange
        .wait_for("connections_closed_total{reason=\"peer_full\"}", 1);
    drop((within, other));
    target.leaves_nothing();
}
