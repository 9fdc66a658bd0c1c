//! HTTP/1.1 as a client speaks it (RFC 9112): request heads out, responses in. Bytes in, decisions out; no socket.
//!
//! Stricter than most: what could make two readers see two different messages (both framings at once, two lengths,
//! folded headers, bare line feeds between chunks) ends the connection, because what follows on it would be taken
//! for the next auction's answer.

use super::CallFailure;
use super::digits::decimal;
use super::dsp::DspOptions;

/// A response's head; DSPs send a few hundred bytes.
const HEAD_BYTES_MAX: usize = 16 << 10;

/// Headers of a response.
const HEADERS_MAX: usize = 64;

/// Interim responses (1xx) before the real one. We never ask for any.
const INTERIM_MAX: u8 = 4;

/// The line before a chunk, with its extensions, and the trailers: nothing in them is of use.
const CHUNK_LINE_BYTES_MAX: usize = 256;
const TRAILER_BYTES_MAX: usize = 4 << 10;

/// The head of every request to one DSP, up to the length of its body.
#[derive(Debug)]
pub struct RequestHead {
    text: Vec<u8>,
}

impl RequestHead {
    /// The head for `dsp`.
    #[must_use]
    pub fn new(dsp: &DspOptions) -> Self {
        let encodings = if dsp.gzip {
            "Accept-Encoding: gzip\r\nContent-Encoding: gzip\r\n"
        } else {
            ""
        };
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: corebid/{version}\r\n\
             Content-Type: application/json\r\nx-openrtb-version: 2.6\r\n{encodings}Content-Length: ",
            path = dsp.target.path,
            host = dsp.target.authority,
            version = env!("CARGO_PKG_VERSION"),
        );
        Self {
            text: text.into_bytes(),
        }
    }

    /// Writes the head of a request with a body of `length` bytes into `out`, which it clears first.
    pub fn write(&self, length: usize, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.text);
        out.extend_from_slice(decimal(length, &mut [0; 20]));
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// What is known of a response once it is whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// As it came, 100 to 599.
    pub status: u16,
    /// The connection may carry another request.
    pub keep_alive: bool,
    /// The body is compressed with gzip.
    pub gzip: bool,
}

/// Reads one response from bytes as they come.
#[derive(Debug, Default)]
pub struct ResponseReader {
    /// A head that came in pieces.
    partial: Vec<u8>,
    interim: u8,
    state: State,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Length(Head, usize),
    Chunks(Head, Chunk),
    UntilClose(Head),
}

#[derive(Debug, Clone, Copy)]
enum Chunk {
    /// In the size line: size so far, bytes of the line, past the digits, carriage return seen.
    Size {
        size: usize,
        line_bytes: usize,
        in_extension: bool,
        cr: bool,
    },
    Bytes(usize),
    /// The line end after a chunk's bytes.
    End {
        cr: bool,
    },
    /// Bytes of trailers, bytes of the current line, carriage return seen.
    Trailers {
        bytes: usize,
        line_bytes: usize,
        cr: bool,
    },
}

const FIRST_CHUNK: Chunk = Chunk::Size {
    size: 0,
    line_bytes: 0,
    in_extension: false,
    cr: false,
};

impl ResponseReader {
    /// Reads on. Body bytes are added to `body`, at most `body_bytes_max`. Returns how many bytes of `input` belong
    /// to this response, and its head when it is whole; the reader is then ready for the next.
    ///
    /// # Errors
    /// What the connection must be closed for.
    pub fn read(
        &mut self,
        input: &[u8],
        body: &mut Vec<u8>,
        body_bytes_max: usize,
    ) -> Result<(usize, Option<Head>), CallFailure> {
        let mut used = 0;
        loop {
            let rest = &input[used..];
            let whole = match &mut self.state {
                State::Head => {
                    let (head_bytes, done) = self.read_head(rest, body_bytes_max)?;
                    used += head_bytes;
                    match done {
                        Some(head) => Some(head),
                        // An interim response was skipped, or the framing is known: there may be more to read.
                        None if used < input.len() => continue,
                        None => None,
                    }
                }
                State::Length(head, missing) => {
                    let take = rest.len().min(*missing);
                    body.extend_from_slice(&rest[..take]);
                    used += take;
                    *missing -= take;
                    (*missing == 0).then_some(*head)
                }
                State::Chunks(head, chunk) => {
                    let (chunk_bytes, last) = read_chunks(chunk, rest, body, body_bytes_max)?;
                    used += chunk_bytes;
                    last.then_some(*head)
                }
                State::UntilClose(_) => {
                    if body.len() + rest.len() > body_bytes_max {
                        return Err(CallFailure::TooLarge);
                    }
                    body.extend_from_slice(rest);
                    used = input.len();
                    None
                }
            };
            if whole.is_some() {
                self.state = State::Head;
                self.interim = 0;
            }
            return Ok((used, whole));
        }
    }

    /// The peer has closed: the response's head when that completes it.
    pub fn end(&mut self) -> Option<Head> {
        match std::mem::take(&mut self.state) {
            State::UntilClose(head) => Some(head),
            _ => None,
        }
    }

    /// Reads a head and decides the framing. Returns the bytes of `input` it took, and the head if the response
    /// ends with it.
    fn read_head(
        &mut self,
        input: &[u8],
        body_bytes_max: usize,
    ) -> Result<(usize, Option<Head>), CallFailure> {
        let before = self.partial.len();
        let parsed = if before == 0 {
            parse_head(input)?
        } else {
            self.partial.extend_from_slice(input);
            parse_head(&self.partial)?
        };
        let Some((head_bytes, head, framing)) = parsed else {
            if before == 0 {
                self.partial.extend_from_slice(input);
            }
            if self.partial.len() > HEAD_BYTES_MAX {
                return Err(CallFailure::Protocol("head too large"));
            }
            return Ok((input.len(), None));
        };
        self.partial.clear();
        let used = head_bytes - before;
        if head.status < 200 {
            self.interim += 1;
            if head.status == 101 || self.interim > INTERIM_MAX {
                return Err(CallFailure::Protocol("unexpected interim response"));
            }
            return Ok((used, None));
        }
        self.state = match framing {
            Framing::Length(0) => return Ok((used, Some(head))),
            Framing::Length(length) if length > body_bytes_max => return Err(CallFailure::TooLarge),
            Framing::Length(length) => State::Length(head, length),
            Framing::Chunked => State::Chunks(head, FIRST_CHUNK),
            Framing::UntilClose => State::UntilClose(Head {
                keep_alive: false,
                ..head
            }),
        };
        Ok((used, None))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// `None`: not all there yet.
fn parse_head(bytes: &[u8]) -> Result<Option<(usize, Head, Framing)>, CallFailure> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let head_bytes = match response.parse(bytes) {
        Ok(httparse::Status::Complete(head_bytes)) => head_bytes,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(CallFailure::Protocol("too many headers")),
        Err(_) => return Err(CallFailure::Protocol("malformed head")),
    };
    if head_bytes > HEAD_BYTES_MAX {
        return Err(CallFailure::Protocol("head too large"));
    }
    let status = response.code.unwrap_or(0);
    if !(100..=599).contains(&status) {
        return Err(CallFailure::Protocol("status out of range"));
    }
    let mut head = Head {
        status,
        keep_alive: response.version == Some(1),
        gzip: false,
    };
    let (mut length, mut chunked) = (None, false);
    for header in response.headers {
        let name = header.name;
        if name.eq_ignore_ascii_case("content-length") {
            if length.is_some() {
                return Err(CallFailure::Protocol("two lengths"));
            }
            length = Some(parse_length(header.value)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if chunked || !header.value.eq_ignore_ascii_case(b"chunked") {
                return Err(CallFailure::Protocol("unknown transfer encoding"));
            }
            chunked = true;
        } else if name.eq_ignore_ascii_case("connection") {
            for token in header.value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                if token.eq_ignore_ascii_case(b"close") {
                    head.keep_alive = false;
                } else if token.eq_ignore_ascii_case(b"keep-alive") && response.version == Some(0) {
                    head.keep_alive = true;
                }
            }
        } else if name.eq_ignore_ascii_case("content-encoding") {
            let value = header.value;
            head.gzip = value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip");
            if !head.gzip && !value.eq_ignore_ascii_case(b"identity") && !value.is_empty() {
                return Err(CallFailure::BadEncoding);
            }
        }
    }
    let framing = match (chunked, length) {
        (true, Some(_)) => return Err(CallFailure::Protocol("both a length and a transfer encoding")),
        _ if status < 200 || status == 204 || status == 304 => Framing::Length(0),
        (true, None) => Framing::Chunked,
        (false, Some(length)) => Framing::Length(length),
        (false, None) => Framing::UntilClose,
    };
    Ok(Some((head_bytes, head, framing)))
}

fn parse_length(value: &[u8]) -> Result<usize, CallFailure> {
    let bad = CallFailure::Protocol("malformed length");
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return Err(bad);
    }
    let digit = |length: usize, &digit: &u8| length * 10 + usize::from(digit - b'0');
    Ok(value.iter().fold(0, digit))
}

/// Decodes chunks (RFC 9112 §7.1). Returns the bytes of `input` it took and whether the last chunk and its trailers
/// are through.
fn read_chunks(
    chunk: &mut Chunk,
    input: &[u8],
    body: &mut Vec<u8>,
    body_bytes_max: usize,
) -> Result<(usize, bool), CallFailure> {
    let bad = CallFailure::Protocol("malformed chunk");
    let mut at = 0;
    while at < input.len() {
        if let Chunk::Bytes(missing) = chunk {
            let take = (*missing).min(input.len() - at);
            body.extend_from_slice(&input[at..at + take]);
            at += take;
            *missing -= take;
            if *missing == 0 {
                *chunk = Chunk::End { cr: false };
            }
            continue;
        }
        let byte = input[at];
        at += 1;
        *chunk = match *chunk {
            Chunk::Size {
                size,
                line_bytes,
                cr: true,
                ..
            } => match (byte, size) {
                (b'\n', _) if line_bytes == 0 => return Err(bad),
                (b'\n', 0) => Chunk::Trailers {
                    bytes: 0,
                    line_bytes: 0,
                    cr: false,
                },
                (b'\n', size) => Chunk::Bytes(size),
                _ => return Err(bad),
            },
            Chunk::Size {
                size,
                line_bytes,
                in_extension,
                cr: false,
            } => {
                let line_bytes_now = line_bytes + 1;
                match byte {
                    b'\r' => Chunk::Size {
                        size,
                        line_bytes,
                        in_extension,
                        cr: true,
                    },
                    b'\n' => return Err(bad),
                    _ if line_bytes_now > CHUNK_LINE_BYTES_MAX => return Err(bad),
                    b';' if line_bytes > 0 => Chunk::Size {
                        size,
                        line_bytes: line_bytes_now,
                        in_extension: true,
                        cr: false,
                    },
                    _ if in_extension => Chunk::Size {
                        size,
                        line_bytes: line_bytes_now,
                        in_extension,
                        cr: false,
                    },
                    _ => {
                        let digit = char::from(byte).to_digit(16).ok_or(bad)?;
                        let size = size * 16 + digit as usize;
                        if body.len() + size > body_bytes_max {
                            return Err(CallFailure::TooLarge);
                        }
                        Chunk::Size {
                            size,
                            line_bytes: line_bytes_now,
                            in_extension,
                            cr: false,
                        }
                    }
                }
            }
            Chunk::End { cr } => match (cr, byte) {
                (false, b'\r') => Chunk::End { cr: true },
                (true, b'\n') => FIRST_CHUNK,
                _ => return Err(bad),
            },
            Chunk::Trailers {
                bytes,
                line_bytes,
                cr,
            } => match (cr, byte) {
                _ if bytes >= TRAILER_BYTES_MAX => return Err(bad),
                (true, b'\n') if line_bytes == 0 => return Ok((at, true)),
                (true, b'\n') => Chunk::Trailers {
                    bytes: bytes + 1,
                    line_bytes: 0,
                    cr: false,
                },
                (true, _) | (false, b'\n') => return Err(bad),
                (false, b'\r') => Chunk::Trailers {
                    bytes: bytes + 1,
                    line_bytes,
                    cr: true,
                },
                (false, _) => Chunk::Trailers {
                    bytes: bytes + 1,
                    line_bytes: line_bytes + 1,
                    cr: false,
                },
            },
            Chunk::Bytes(_) => return Err(bad),
        };
    }
    Ok((at, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BODY_BYTES_MAX: usize = 64;

    /// Reads `input` in pieces of `step` bytes: what came of it, as one line.
    fn outcome(input: &[u8], step: usize) -> String {
        let (mut reader, mut body, mut used) = (ResponseReader::default(), Vec::new(), 0);
        while used < input.len() {
            let piece = &input[used..input.len().min(used + step)];
            match reader.read(piece, &mut body, BODY_BYTES_MAX) {
                Ok((count, None)) => {
                    assert_eq!(count, piece.len(), "an unfinished response takes all there is");
                    used += count;
                }
                Ok((count, Some(head))) => {
                    used += count;
                    return line(head, &body, input.len() - used);
                }
                Err(failure) => return failure.to_string(),
            }
        }
        match reader.end() {
            Some(head) => line(head, &body, 0),
            None => "cut off".to_owned(),
        }
    }

    fn line(head: Head, body: &[u8], left: usize) -> String {
        let keep = if head.keep_alive { "keep" } else { "close" };
        let gzip = if head.gzip { " gzip" } else { "" };
        let left = if left == 0 {
            String::new()
        } else {
            format!(" +{left}")
        };
        format!(
            "{} {keep}{gzip} {:?}{left}",
            head.status,
            String::from_utf8_lossy(body)
        )
    }

    /// The same response whole, byte by byte and in threes must read the same.
    #[track_caller]
    fn check(input: &str, expected: &str) {
        let input = input
            .replace('\n', "\r\n")
            .replace("<LF>", "\n")
            .replace("<CR>", "\r");
        for step in [input.len().max(1), 1, 3] {
            let got = outcome(input.as_bytes(), step);
            // Bytes after the response are seen only when they come in the same piece.
            let same = got == expected
                || (step < input.len() && expected.starts_with(&got) && expected.contains('+'));
            assert!(same, "in steps of {step}: {got}, expected {expected}\n{input}");
        }
    }

    #[test]
    fn framings() {
        check(
            "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
            r#"200 keep "hello""#,
        );
        check("HTTP/1.1 204 No Content\n\n", r#"204 keep """#);
        check("HTTP/1.1 204 No Content\nContent-Length: 0\n\n", r#"204 keep """#);
        check(
            "HTTP/1.1 304 Not Modified\nContent-Length: 9\n\n",
            r#"304 keep """#,
        );
        check("HTTP/1.1 200 OK\nContent-Length: 0\n\n", r#"200 keep """#);
        check("HTTP/1.1 200 OK\n\nuntil the end", r#"200 close "until the end""#);
        check(
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n5\nhello\n6;x=y\n world\n0\n\n",
            r#"200 keep "hello world""#,
        );
        check(
            "HTTP/1.1 200 OK\nTransfer-Encoding: Chunked\n\n0\nTrailer: x\n\n",
            r#"200 keep """#,
        );
        check(
            "HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n00a\n0123456789\n0\n\n",
            r#"200 keep "0123456789""#,
        );
        check(
            "HTTP/1.1 503 Busy\nContent-Length: 2\nConnection: close\n\nno",
            r#"503 close "no""#,
        );
        check("HTTP/1.0 200 OK\nContent-Length: 2\n\nok", r#"200 close "ok""#);
        check(
            "HTTP/1.0 200 OK\nContent-Length: 2\nConnection: Keep-Alive\n\nok",
            r#"200 keep "ok""#,
        );
        check(
            "HTTP/1.1 200 OK\nContent-Length: 2\nConnection: x, Close\n\nok",
            r#"200 close "ok""#,
        );
        check(
            "HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\nContent-Length: 2\n\nok",
            r#"200 keep "ok""#,
        );
        check(
            "HTTP/1.1 200 OK\nContent-Encoding: gzip\nContent-Length: 2\n\nok",
            r#"200 keep gzip "ok""#,
        );
    }

    #[test]
    fn bytes_after_the_response_are_left() {
        check(
            "HTTP/1.1 200 OK\nContent-Length: 2\n\nokHTTP/1.1",
            r#"200 keep "ok" +8"#,
        );
        check("HTTP/1.1 204 No Content\n\nbody", r#"204 keep "" +4"#);
        check(
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n1\nx\n0\n\nmore",
            r#"200 keep "x" +4"#,
        );
    }

    #[test]
    fn refused() {
        let protocol = |reason: &str| format!("not a valid HTTP response: {reason}");
        check("not http at all\n\n", &protocol("malformed head"));
        check("HTTP/2.0 200 OK\n\n", &protocol("malformed head"));
        check("HTTP/1.1 999 Odd\n\n", &protocol("status out of range"));
        check(
            "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 2\n\nok",
            &protocol("two lengths"),
        );
        check(
            "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n",
            &protocol("both a length and a transfer encoding"),
        );
        check(
            "HTTP/1.1 200 OK\nContent-Length: +2\n\nok",
            &protocol("malformed length"),
        );
        check(
            "HTTP/1.1 200 OK\nContent-Length: 2, 2\n\nok",
            &protocol("malformed length"),
        );
        check(
            "HTTP/1.1 200 OK\nContent-Length: \n\n",
            &protocol("malformed length"),
        );
        check(
            "HTTP/1.1 200 OK\nContent-Length: 99999999999999999999\n\n",
            &protocol("malformed length"),
        );
        check(
            "HTTP/1.1 200 OK\nTransfer-Encoding: gzip, chunked\n\n",
            &protocol("unknown transfer encoding"),
        );
        check("HTTP/1.1 200 OK\nX: a\n folded\n\n", &protocol("malformed head"));
        check(
            "HTTP/1.1 101 Switching\n\n",
            &protocol("unexpected interim response"),
        );
        check(
            &"HTTP/1.1 100 Continue\n\n".repeat(5),
            &protocol("unexpected interim response"),
        );
        check(
            "HTTP/1.1 200 OK\nContent-Encoding: br\nContent-Length: 1\n\nx",
            "bad content encoding",
        );
    }

    #[test]
    fn refused_chunks() {
        for chunks in [
            "x\n",
            "\n",
            "0x5\nhello\n",
            "5\nhello<LF>",
            "5<LF>hello\n",
            "5\nhelloX\n",
            "-1\n",
            " 5\nhello\n",
            ";x\n",
            "5<CR>hello",
        ] {
            let input = format!("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n{chunks}");
            check(&input, "not a valid HTTP response: malformed chunk");
        }
    }

    #[test]
    fn limits_at_and_past() {
        let body = "x".repeat(BODY_BYTES_MAX);
        let whole = format!("200 keep {body:?}");
        check(
            &format!("HTTP/1.1 200 OK\nContent-Length: {BODY_BYTES_MAX}\n\n{body}"),
            &whole,
        );
        check(
            &format!("HTTP/1.1 200 OK\nContent-Length: {}\n\n", BODY_BYTES_MAX + 1),
            "answer too large",
        );
        check(
            &format!("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n40\n{body}\n0\n\n"),
            &whole,
        );
        check(
            &format!("HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n40\n{body}\n1\n"),
            "answer too large",
        );
        check(
            "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\nffffffffffffffffff\n",
            "answer too large",
        );
        check(
            &format!("HTTP/1.1 200 OK\n\n{body}"),
            &format!("200 close {body:?}"),
        );
        check(&format!("HTTP/1.1 200 OK\n\n{body}x"), "answer too large");
        let fill = |bytes: usize| format!("HTTP/1.1 204 OK\nX: {}\n\n", "y".repeat(bytes - 24));
        check(&fill(HEAD_BYTES_MAX), r#"204 keep """#);
        let too_large = outcome(
            fill(HEAD_BYTES_MAX + 1).replace('\n', "\r\n").as_bytes(),
            usize::MAX / 2,
        );
        assert_eq!(too_large, "not a valid HTTP response: head too large");
        let endless = format!("HTTP/1.1 200 OK\r\nX: {}", "y".repeat(HEAD_BYTES_MAX));
        assert_eq!(
            outcome(endless.as_bytes(), 100),
            "not a valid HTTP response: head too large"
        );
        let headers = |count: usize| format!("HTTP/1.1 204 OK\n{}\n", "A: b\n".repeat(count));
        check(&headers(HEADERS_MAX), r#"204 keep """#);
        check(
            &headers(HEADERS_MAX + 1),
            "not a valid HTTP response: too many headers",
        );
        let extension = |bytes: usize| {
            format!(
                "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0;{}\n\n",
                "e".repeat(bytes)
            )
        };
        check(&extension(CHUNK_LINE_BYTES_MAX - 2), r#"200 keep """#);
        check(
            &extension(CHUNK_LINE_BYTES_MAX - 1),
            "not a valid HTTP response: malformed chunk",
        );
        let trailer = |bytes: usize| {
            format!(
                "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n0\n{}\n\n",
                "t".repeat(bytes)
            )
        };
        check(&trailer(TRAILER_BYTES_MAX - 5), r#"200 keep """#);
        check(
            &trailer(TRAILER_BYTES_MAX + 1),
            "not a valid HTTP response: malformed chunk",
        );
    }

    #[test]
    fn a_response_cut_off_anywhere_is_not_whole() {
        let whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
        for cut in 1..whole.len() {
            assert_eq!(outcome(&whole[..cut], usize::MAX / 2), "cut off", "at {cut}");
        }
    }

    #[test]
    fn request_heads() {
        use crate::fanout::Target;
        let mut dsp = DspOptions {
            target: Target {
                address: "127.0.0.1:9001".parse().unwrap(),
                authority: "dsp.example:9001".to_owned(),
                path: "/bid?x=1".to_owned(),
            },
            ..crate::fanout::tests::dsp(1, false)
        };
        let mut out = b"left over".to_vec();
        RequestHead::new(&dsp).write(1307, &mut out);
        let text = String::from_utf8(out.clone()).unwrap();
        assert!(
            text.starts_with("POST /bid?x=1 HTTP/1.1\r\nHost: dsp.example:9001\r\n"),
            "{text}"
        );
        assert!(text.ends_with("Content-Length: 1307\r\n\r\n"), "{text}");
        assert!(!text.contains("gzip"));
        dsp.gzip = true;
        RequestHead::new(&dsp).write(0, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.contains("Accept-Encoding: gzip\r\nContent-Encoding: gzip\r\n"),
            "{text}"
        );
        assert!(text.ends_with("Content-Length: 0\r\n\r\n"), "{text}");
    }
}
