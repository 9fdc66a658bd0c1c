//! What hyper leaves to us of a request's head (RFC 9112): no two readers may see two different messages, and no two
//! may think that it was meant for different hosts.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderValue, Version};

/// What is wrong with the head of an HTTP/1 request, if anything is. hyper has seen to lengths, and to a length beside
/// a transfer encoding; HTTP/2 has its own framing.
pub(super) fn fault(version: Version, headers: &HeaderMap) -> Option<&'static str> {
    if version == Version::HTTP_2 {
        return None;
    }
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    // Chunked twice is forbidden (RFC 9112 §6.1), and hyper takes off one layer of whatever else is there.
    if encodings.next().is_some_and(|first| !is_chunked(first)) || encodings.next().is_some() {
        return Some("the transfer encoding must be chunked, once");
    }
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) if is_host(host) => None,
        (None, None) if version < Version::HTTP_11 => None,
        _ => Some("there must be one valid Host"),
    }
}

fn is_chunked(value: &HeaderValue) -> bool {
    value.as_bytes().eq_ignore_ascii_case(b"chunked")
}

/// `uri-host [ ":" port ]` (RFC 9112 §3.2), as far as it keeps hosts apart: nothing that a URI would end or begin its
/// authority with.
fn is_host(value: &HeaderValue) -> bool {
    let separates = |byte: &u8| b" \t,/?#@\\\"<>".contains(byte);
    !value.as_bytes().iter().any(separates)
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
            assert_eq!(fault(version, &map).is_none(), good, "{version:?} {headers:?}");
        };
        let h1 = Version::HTTP_11;
        check(h1, &[("host", "a.example:80")], true);
        check(h1, &[("host", "[::1]:80")], true);
        check(h1, &[("host", "")], true);
        check(h1, &[], false);
        check(h1, &[("host", "a"), ("host", "a")], false);
        check(h1, &[("host", "a, b")], false);
        check(h1, &[("host", "a/b")], false);
        check(h1, &[("host", "u@a")], false);
        check(Version::HTTP_10, &[], true);
        check(Version::HTTP_2, &[], true);
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
