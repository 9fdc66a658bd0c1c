//! What hyper leaves to us of a request's head (RFC 9110, 9112, 9113): no two readers may see two different messages, and
//! no two may think that it was meant for different hosts.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, Version};

use super::connection::HEADERS_MAX;
use super::reply::Reply;

/// What a request is refused with before its target or method are looked at, if it is. hyper has seen to lengths, and to
/// a length beside a transfer encoding; to HTTP/2's own framing, and to how long a head is.
pub(super) fn fault(version: Version, uri: &Uri, headers: &HeaderMap) -> Option<Reply> {
    if version == Version::HTTP_2 {
        // Of HTTP/1.1 hyper has counted them.
        if headers.len() > HEADERS_MAX {
            return Some(Reply::Status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
        }
        let names_another = |host: &HeaderValue| {
            let authority = uri.authority().map(|authority| authority.as_str().as_bytes());
            authority.is_some_and(|authority| authority != host.as_bytes())
        };
        let another = headers.get(HOST).is_some_and(names_another);
        return another.then_some(Reply::OutOfStep("Host must be as :authority"));
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    // Chunked twice is forbidden (RFC 9112 §6.1), and hyper takes off one layer of whatever else is there.
    if encodings.next().is_some_and(|first| !is_chunked(first)) || encodings.next().is_some() {
        return Some(Reply::OutOfStep("the transfer encoding must be chunked, once"));
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host.as_bytes()) => None,
        (None, None) if version < Version::HTTP_11 => None,
        _ => Some(Reply::OutOfStep("there must be one valid Host")),
    }
}

/// The answer to a request for something that is not here (RFC 9112 §3.2).
pub(super) fn nowhere(method: &Method, path: &str) -> Reply {
    match *method {
        // Asks for nothing but whether we are there (RFC 9110 §9.3.7).
        Method::OPTIONS if path == "*" => Reply::Alive,
        Method::CONNECT => Reply::MethodNotAllowed("GET, HEAD, POST"),
        _ if path.starts_with('/') => Reply::NotFound,
        _ => Reply::OutOfStep("the target must be a path"),
    }
}

fn is_chunked(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// `uri-host [ ":" port ]` (RFC 9110 §7.2), as far as it keeps hosts apart: nothing that a URI would end or begin its
/// authority with, and of the port only digits.
fn is_host(value: &[u8]) -> bool {
    let name_bytes = match value {
        // An IPv6 address has colons of its own; without its end, and with none of it left, it is no name.
        [b'[', ..] => value
            .iter()
            .position(|&byte| byte == b']')
            .map_or(0, |end| end + 1),
        _ => value.iter().position(|&byte| byte == b':').unwrap_or(value.len()),
    };
    let (name, port) = value.split_at(name_bytes);
    let separates = |byte: &u8| b" \t,/?#@\\\"<>".contains(byte);
    let is_port = match port {
        [] => true,
        [colon, digits @ ..] => *colon == b':' && digits.iter().all(u8::is_ascii_digit),
    };
    !name.is_empty() && !name.iter().any(separates) && is_port
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_that_could_be_read_in_two_ways() {
        let check = |version, headers: &[(&str, &str)], good: bool| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(
                    http::HeaderName::from_bytes(name.as_bytes()).unwrap(),
                    value.parse().unwrap(),
                );
            }
            let uri = Uri::from_static("http://a.example/");
            assert_eq!(
                fault(version, &uri, &map).is_none(),
                good,
                "{version:?} {headers:?}"
            );
        };
        let h1 = Version::HTTP_11;
        check(h1, &[("host", "a.example:80")], true);
        check(h1, &[("host", "[::1]:80")], true);
        check(h1, &[("host", "a.example:")], true);
        check(h1, &[("host", "")], false);
        check(h1, &[("host", ":80")], false);
        check(h1, &[("host", "a:b")], false);
        check(h1, &[("host", "[::1")], false);
        check(h1, &[("host", "[::1]x")], false);
        check(h1, &[], false);
        check(h1, &[("host", "a"), ("host", "a")], false);
        check(h1, &[("host", "a, b")], false);
        check(h1, &[("host", "a/b")], false);
        check(h1, &[("host", "u@a")], false);
        check(Version::HTTP_10, &[], true);
        check(Version::HTTP_2, &[], true);
        check(Version::HTTP_2, &[("host", "a.example")], true);
        check(Version::HTTP_2, &[("host", "b.example")], false);
        check(Version::HTTP_2, &[("x", "y"); HEADERS_MAX], true);
        check(Version::HTTP_2, &[("x", "y"); HEADERS_MAX + 1], false);
        check(h1, &[("host", "a"), ("transfer-encoding", "Chunked")], true);
        check(
            h1,
            &[("host", "a"), ("transfer-encoding", "chunked, chunked")],
            false,
        );
        check(
            h1,
            &[("host", "a"), ("transfer-encoding", "gzip, chunked")],
            false,
        );
        let twice = [
            ("host", "a"),
            ("transfer-encoding", "chunked"),
            ("transfer-encoding", "chunked"),
        ];
        check(h1, &twice, false);
    }
}
