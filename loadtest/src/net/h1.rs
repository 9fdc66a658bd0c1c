//! HTTP/1.1 messages out of a byte buffer: requests for the simulator, responses for the generator.
//! Stateless: a message is read once all of it is there; until then the answer is "partial". That costs a
//! second look at the head when a body comes in pieces, and saves a state machine. Writes nothing.

use std::fmt;

/// A complete request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request<'a> {
    /// `POST` and so on.
    pub method: &'a str,
    /// The request target, a path.
    pub target: &'a str,
    /// The client keeps the connection open for another request.
    pub keep_alive: bool,
    /// The body is gzip.
    pub gzip: bool,
    /// Content, with chunked coding taken off.
    pub body: &'a [u8],
    /// Bytes of the input that the request took.
    pub consumed: usize,
}

/// A complete response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response<'a> {
    /// 200 to 599; interim responses (1xx) are skipped.
    pub status: u16,
    /// The server keeps the connection open for another request.
    pub keep_alive: bool,
    /// The body is gzip.
    pub gzip: bool,
    /// Content, with chunked coding taken off.
    pub body: &'a [u8],
    /// Bytes of the input that the response took, interim responses included.
    pub consumed: usize,
}

/// What was made of the bytes so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress<T> {
    /// The whole message.
    Complete(T),
    /// More bytes are needed.
    Partial {
        /// The client waits for `100 Continue` before it sends the body.
        expects_continue: bool,
    },
}

/// Bytes that are not HTTP/1.1, or a framing that we do not accept: the connection cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

const HEADERS_MAX: usize = 64;

/// Reads the request at the start of `input`. `decoded` holds the content of a chunked body.
///
/// # Errors
/// Answer 400 and close.
pub fn read_request<'a>(
    input: &'a [u8],
    decoded: &'a mut Vec<u8>,
) -> Result<Progress<Request<'a>>, Malformed> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let head_bytes = match request.parse(input) {
        Ok(httparse::Status::Complete(bytes)) => bytes,
        Ok(httparse::Status::Partial) => {
            return Ok(Progress::Partial {
                expects_continue: false,
            });
        }
        Err(_) => return Err(Malformed("not an HTTP/1.1 request")),
    };
    let head = Head::read(request.headers, request.version == Some(1))?;
    let framing = head.framing.unwrap_or(Framing::Length(0));
    let Some((body, consumed)) = read_body(input, head_bytes, framing, decoded)? else {
        return Ok(Progress::Partial {
            expects_continue: head.expects_continue,
        });
    };
    Ok(Progress::Complete(Request {
        method: request.method.unwrap_or_default(),
        target: request.path.unwrap_or_default(),
        keep_alive: head.keep_alive,
        gzip: head.gzip,
        body,
        consumed,
    }))
}

/// Reads the response to a request other than HEAD at the start of `input`. `decoded` holds the content of a
/// chunked body; `at_end` says that the server has closed, which ends a body of no stated length.
///
/// # Errors
/// Close the connection.
pub fn read_response<'a>(
    input: &'a [u8],
    at_end: bool,
    decoded: &'a mut Vec<u8>,
) -> Result<Progress<Response<'a>>, Malformed> {
    let mut skipped = 0;
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut response = httparse::Response::new(&mut headers);
        let head_bytes = match response.parse(&input[skipped..]) {
            Ok(httparse::Status::Complete(bytes)) => bytes,
            Ok(httparse::Status::Partial) => {
                return Ok(Progress::Partial {
                    expects_continue: false,
                });
            }
            Err(_) => return Err(Malformed("not an HTTP/1.1 response")),
        };
        let status = response.code.unwrap_or_default();
        if (100..200).contains(&status) {
            if status == 101 {
                return Err(Malformed("switching protocols was not asked for"));
            }
            skipped += head_bytes;
            continue;
        }
        let head = Head::read(response.headers, response.version == Some(1))?;
        let framing = match head.framing {
            _ if status == 204 || status == 304 => Framing::Length(0),
            Some(framing) => framing,
            None if at_end => Framing::Length(input.len() - skipped - head_bytes),
            None => {
                return Ok(Progress::Partial {
                    expects_continue: false,
                });
            }
        };
        let Some((body, consumed)) = read_body(input, skipped + head_bytes, framing, decoded)? else {
            return Ok(Progress::Partial {
                expects_continue: false,
            });
        };
        let keep_alive = head.keep_alive && (head.framing.is_some() || body.is_empty());
        return Ok(Progress::Complete(Response {
            status,
            keep_alive,
            gzip: head.gzip,
            body,
            consumed,
        }));
    }
}

/// The header fields that say where a message ends and what becomes of the connection.
struct Head {
    framing: Option<Framing>,
    keep_alive: bool,
    gzip: bool,
    expects_continue: bool,
}

#[derive(Clone, Copy)]
enum Framing {
    Length(usize),
    Chunked,
}

impl Head {
    fn read(headers: &[httparse::Header<'_>], version_1_1: bool) -> Result<Self, Malformed> {
        let mut head = Self {
            framing: None,
            keep_alive: version_1_1,
            gzip: false,
            expects_continue: false,
        };
        for header in headers {
            match header.name.len() {
                14 if header.name.eq_ignore_ascii_case("content-length") => {
                    head.frame(Framing::Length(content_length(header.value)?))?;
                }
                17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                    if !header.value.eq_ignore_ascii_case(b"chunked") {
                        return Err(Malformed("a transfer coding other than chunked"));
                    }
                    head.frame(Framing::Chunked)?;
                }
                16 if header.name.eq_ignore_ascii_case("content-encoding") => {
                    head.gzip = header.value.eq_ignore_ascii_case(b"gzip");
                }
                10 if header.name.eq_ignore_ascii_case("connection") => {
                    if header.value.eq_ignore_ascii_case(b"close") {
                        head.keep_alive = false;
                    } else if header.value.eq_ignore_ascii_case(b"keep-alive") {
                        head.keep_alive = true;
                    }
                }
                6 if header.name.eq_ignore_ascii_case("expect") => {
                    head.expects_continue = header.value.eq_ignore_ascii_case(b"100-continue");
                }
                _ => {}
            }
        }
        Ok(head)
    }

    /// Two statements of length are what request smuggling is made of (RFC 9112 §6.3): refused even when they
    /// agree.
    fn frame(&mut self, framing: Framing) -> Result<(), Malformed> {
        if self.framing.replace(framing).is_some() {
            return Err(Malformed("two statements of the body's length"));
        }
        Ok(())
    }
}

/// Content and the end of the message, `None` while some of it is missing.
fn read_body<'a>(
    input: &'a [u8],
    head_bytes: usize,
    framing: Framing,
    decoded: &'a mut Vec<u8>,
) -> Result<Option<(&'a [u8], usize)>, Malformed> {
    match framing {
        Framing::Length(length) => {
            let end = head_bytes.saturating_add(length);
            Ok(input.get(head_bytes..end).map(|body| (body, end)))
        }
        Framing::Chunked => {
            let Some(chunked_bytes) = read_chunks(&input[head_bytes..], decoded)? else {
                return Ok(None);
            };
            Ok(Some((decoded, head_bytes + chunked_bytes)))
        }
    }
}

/// Appends the chunks' content; returns how many bytes they took, the trailer section included.
fn read_chunks(input: &[u8], decoded: &mut Vec<u8>) -> Result<Option<usize>, Malformed> {
    const BAD_CHUNK: Malformed = Malformed("bad chunk");
    decoded.clear();
    let mut at = 0;
    loop {
        let (line_bytes, size) = match httparse::parse_chunk_size(&input[at..]) {
            Ok(httparse::Status::Complete(line)) => line,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(BAD_CHUNK),
        };
        at += line_bytes;
        if size == 0 {
            return Ok(trailer_bytes(&input[at..])?.map(|bytes| at + bytes));
        }
        let size = usize::try_from(size).map_err(|_| BAD_CHUNK)?;
        let end = at.checked_add(size).ok_or(BAD_CHUNK)?;
        let Some(line_end) = input.get(end..end.saturating_add(2)) else {
            return Ok(None);
        };
        if line_end != b"\r\n" {
            return Err(BAD_CHUNK);
        }
        decoded.extend_from_slice(&input[at..end]);
        at = end + 2;
    }
}

fn trailer_bytes(input: &[u8]) -> Result<Option<usize>, Malformed> {
    let mut trailers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    match httparse::parse_headers(input, &mut trailers) {
        Ok(httparse::Status::Complete((bytes, _))) => Ok(Some(bytes)),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(_) => Err(Malformed("bad trailers")),
    }
}

/// Digits only: `usize::from_str` would take a sign.
fn content_length(value: &[u8]) -> Result<usize, Malformed> {
    let digits = str::from_utf8(value)
        .ok()
        .filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(Malformed("bad content-length"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads one request and describes it: `METHOD target [close] [gzip] body | rest`.
    fn request(input: &str) -> String {
        let mut decoded = Vec::new();
        match read_request(input.as_bytes(), &mut decoded) {
            Ok(Progress::Complete(r)) => format!(
                "{} {}{}{} {} | {}",
                r.method,
                r.target,
                if r.keep_alive { "" } else { " close" },
                if r.gzip { " gzip" } else { "" },
                String::from_utf8_lossy(r.body),
                &input[r.consumed..],
            ),
            Ok(Progress::Partial {
                expects_continue: true,
            }) => "expects continue".to_owned(),
            Ok(Progress::Partial { .. }) => "partial".to_owned(),
            Err(malformed) => malformed.to_string(),
        }
    }

    fn response(input: &str, at_end: bool) -> String {
        let mut decoded = Vec::new();
        match read_response(input.as_bytes(), at_end, &mut decoded) {
            Ok(Progress::Complete(r)) => format!(
                "{}{} {} | {}",
                r.status,
                if r.keep_alive { "" } else { " close" },
                String::from_utf8_lossy(r.body),
                &input[r.consumed..],
            ),
            Ok(Progress::Partial { .. }) => "partial".to_owned(),
            Err(malformed) => malformed.to_string(),
        }
    }

    #[test]
    fn requests() {
        let check = |input: &str, expected: &str| assert_eq!(request(input), expected, "{input:?}");
        check(
            "POST /bid HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}POST",
            "POST /bid {} | POST",
        );
        check(
            "POST / HTTP/1.1\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
            "POST / close {} | ",
        );
        check(
            "POST / HTTP/1.0\r\ncontent-length: 2\r\n\r\n{}",
            "POST / close {} | ",
        );
        check(
            "POST / HTTP/1.1\r\ncontent-encoding: gzip\r\ncontent-length: 1\r\n\r\nz",
            "POST / gzip z | ",
        );
        check("GET / HTTP/1.1\r\n\r\n", "GET /  | ");
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\nNEXT",
            "POST / abcde | NEXT",
        );
        check(
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx: y\r\n\r\n",
            "POST / a | ",
        );
    }

    #[test]
    fn every_beginning_of_a_request_is_partial() {
        let lengths = "POST / HTTP/1.1\r\ncontent-length: 5\r\n\r\nhello";
        let chunks = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        for whole in [lengths, chunks] {
            for end in 0..whole.len() {
                assert_eq!(request(&whole[..end]), "partial", "{end} bytes of {whole:?}");
            }
        }
        let expects = "POST / HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
        assert_eq!(request(expects), "expects continue");
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let check = |headers: &str, expected: &str| {
            assert_eq!(
                request(&format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n")),
                expected,
                "{headers:?}"
            );
        };
        check(
            "content-length: 1\r\ncontent-length: 2",
            "two statements of the body's length",
        );
        check(
            "content-length: 1\r\ntransfer-encoding: chunked",
            "two statements of the body's length",
        );
        check("content-length: +1", "bad content-length");
        check("content-length: 99999999999999999999999", "bad content-length");
        check("transfer-encoding: gzip", "a transfer coding other than chunked");
        check("transfer-encoding: chunked\r\n\r\nzz", "bad chunk");
    }

    #[test]
    fn responses() {
        let check = |input: &str, at_end: bool, expected: &str| {
            assert_eq!(response(input, at_end), expected, "{input:?}");
        };
        check(
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}HTTP",
            false,
            "200 {} | HTTP",
        );
        check("HTTP/1.1 204 No Content\r\n\r\nHTTP", false, "204  | HTTP");
        check(
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            false,
            "200 {} | ",
        );
        check("HTTP/1.1 200 OK\r\n\r\n{}", false, "partial");
        check("HTTP/1.1 200 OK\r\n\r\n{}", true, "200 close {} | ");
        check(
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            false,
            "200 close  | ",
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 503 No\r\ncontent-length: 0\r\n\r\n",
            false,
            "503  | ",
        );
        check(
            "HTTP/1.1 101 Switching\r\n\r\n",
            false,
            "switching protocols was not asked for",
        );
        check("SSH-2.0-OpenSSH\r\n", false, "not an HTTP/1.1 response");
    }
}
