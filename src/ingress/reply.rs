//! From what came of a request to an HTTP response: the only place that chooses a status.

use http::header::{
    ACCEPT_ENCODING, ALLOW, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName, RETRY_AFTER, VARY,
};
use http::{HeaderMap, HeaderValue, StatusCode};
use hyper::body::Bytes;

use crate::net::gzip::gzip;
use crate::orchestration::Outcome;
use crate::telemetry::ShedReason;

/// A response on its way to hyper.
pub(super) type Response = http::Response<Bytes>;

const OPENRTB_VERSION: HeaderName = HeaderName::from_static("x-openrtb-version");

/// The version whose field places and codes our answers use (OpenRTB 2.6 §2.5).
const VERSION: HeaderValue = HeaderValue::from_static("2.6");

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Answers below this are not compressed even for those who accept it: the result is hardly smaller than a packet
/// and costs more time than it saves.
const GZIP_BYTES_MIN: usize = 1024;

/// What a request is answered with.
#[derive(Debug)]
pub(super) enum Reply {
    /// The auction was held.
    Outcome(Outcome),
    /// The bid request breaks a rule, or its body cannot be read: which and where, a line each.
    Invalid(String),
    /// The head can be read in two ways: what follows on the connection cannot be trusted.
    OutOfStep(&'static str),
    /// Our own failure: no bid for this one, the connection goes on.
    NothingForThisOne,
    /// One more than the shard takes on.
    Shed(ShedReason),
    TooLarge,
    UnknownEncoding,
    NotFound,
    MethodNotAllowed(&'static str),
    Alive,
    Status(StatusCode),
}

impl Reply {
    /// `error_body`: whether a refusal says why.
    pub(super) fn into_response(self, accepts_gzip: bool, error_body: bool) -> Response {
        let why = |text: &str| {
            if error_body {
                format!("{text}\n")
            } else {
                String::new()
            }
        };
        match self {
            Self::Outcome(Outcome::Response(body)) => bid_response(body, accepts_gzip),
            Self::Outcome(Outcome::NoBid) | Self::NothingForThisOne => {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response.headers_mut().insert(OPENRTB_VERSION, VERSION);
                response
            }
            Self::Invalid(reasons) => text(StatusCode::BAD_REQUEST, why(&reasons)),
            Self::OutOfStep(fault) => closing(text(StatusCode::BAD_REQUEST, why(fault))),
            Self::Shed(reason) => shed(if error_body { reason.label() } else { "" }),
            Self::TooLarge => {
                // The rest of the body is still under way, and reading it to its end is what the limit is for.
                closing(text(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    why("the body is longer than allowed"),
                ))
            }
            Self::UnknownEncoding => {
                let mut response = text(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    why("the body's encoding must be gzip or none"),
                );
                response
                    .headers_mut()
                    .insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
                response
            }
            Self::NotFound => text(
                StatusCode::NOT_FOUND,
                why("bid requests go to POST /openrtb2/auction"),
            ),
            Self::MethodNotAllowed(allowed) => {
                let mut response = text(
                    StatusCode::METHOD_NOT_ALLOWED,
                    why(&format!("allowed: {allowed}")),
                );
                response
                    .headers_mut()
                    .insert(ALLOW, HeaderValue::from_static(allowed));
                response
            }
            Self::Alive => text(StatusCode::OK, "alive\n".to_owned()),
            Self::Status(status) => text(status, why(status.canonical_reason().unwrap_or_default())),
        }
    }
}

/// Whether the SSP takes gzip (RFC 9110 §12.5.3): named, or covered by `*`, and not with a weight of zero.
pub(super) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let mut any = false;
    for value in headers.get_all(ACCEPT_ENCODING) {
        for coding in value.as_bytes().split(|&byte| byte == b',') {
            let mut parts = coding.split(|&byte| byte == b';').map(<[u8]>::trim_ascii);
            let name = parts.next().unwrap_or_default();
            let refused = parts.any(|part| {
                part.strip_prefix(b"q=")
                    .is_some_and(|q| q.iter().all(|byte| matches!(byte, b'0' | b'.')))
            });
            if name.eq_ignore_ascii_case(b"gzip") || name.eq_ignore_ascii_case(b"x-gzip") {
                return !refused;
            }
            any |= name == b"*" && !refused;
        }
    }
    any
}

fn bid_response(body: Vec<u8>, accepts_gzip: bool) -> Response {
    let compress = accepts_gzip && body.len() >= GZIP_BYTES_MIN;
    let bytes = if compress { gzip(&body) } else { body };
    let mut response = Response::new(bytes.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, JSON);
    headers.insert(OPENRTB_VERSION, VERSION);
    if compress {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    }
    response
}

/// The connection ends with this response. (HTTP/2 knows no such header, and hyper leaves it out there.)
pub(super) fn closing(mut response: Response) -> Response {
    response
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Made without allocating but for its headers: a shard that sheds has no time.
fn shed(why: &'static str) -> Response {
    let mut response = Response::new(Bytes::from_static(why.as_bytes()));
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    response
        .headers_mut()
        .insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn text(status: StatusCode, text: String) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_accepts_gzip() {
        let check = |value: &str, expected: bool| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT_ENCODING, value.parse().unwrap());
            assert_eq!(accepts_gzip(&headers), expected, "{value}");
        };
        check("gzip", true);
        check("br, GZIP;q=0.5", true);
        check("gzip;q=0", false);
        check("gzip; q=0.0, *", false);
        check("*", true);
        check("*;q=0", false);
        check("br, deflate", false);
        check("", false);
        assert!(!accepts_gzip(&HeaderMap::new()));
    }

    #[test]
    fn refusals_say_why_unless_told_not_to() {
        let status_and_length = |error_body| {
            let response = Reply::Invalid("imp: required".to_owned()).into_response(false, error_body);
            (response.status().as_u16(), response.body().len())
        };
        assert_eq!(status_and_length(true), (400, 14));
        assert_eq!(status_and_length(false), (400, 0));
    }

    #[test]
    fn only_large_answers_are_compressed() {
        let encoding = |length| {
            let outcome = Outcome::Response(vec![b' '; length]);
            let response = Reply::Outcome(outcome).into_response(true, true);
            response.headers().get(CONTENT_ENCODING).cloned()
        };
        assert_eq!(encoding(GZIP_BYTES_MIN - 1), None);
        assert_eq!(encoding(GZIP_BYTES_MIN), Some(HeaderValue::from_static("gzip")));
    }
}
