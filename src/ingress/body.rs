//! A bid request's body off the wire: within its length, within its time, decompressed.

use std::rc::Rc;
use std::time::Duration;

use futures_lite::future;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, Request, Version};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

use super::Options;
use super::admission::Place;
use crate::clock::Timers;
use crate::net;
use crate::net::gzip::{GunzipError, gunzip};

/// Why a body was not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyError {
    /// Longer than allowed, declared or seen, compressed or not.
    TooLarge,
    /// A `Content-Encoding` other than gzip.
    UnknownEncoding,
    /// Not there in time.
    TimedOut,
    /// The connection or stream ended in the middle.
    CutOff,
    /// Said to be gzip, but is not.
    BadGzip,
}

pub(super) async fn read(
    request: Request<Incoming>,
    options: &Options,
    timers: &Rc<Timers>,
    place: &Place<'_>,
) -> Result<Bytes, BodyError> {
    let gzipped = is_gzip(request.headers());
    let version = request.version();
    let body = request.into_body();
    let Ok(gzipped) = gzipped else {
        discard(body, version, options, timers).await?;
        return Err(BodyError::UnknownEncoding);
    };
    if body.size_hint().lower() > options.request_bytes_max as u64 {
        return Err(BodyError::TooLarge);
    }
    let collecting = collect(body, options.request_bytes_max, place);
    let wire = in_time(collecting, options.read_timeout, timers).await?;
    if !gzipped {
        return Ok(wire);
    }
    let mut plain = Vec::new();
    match gunzip(&wire, &mut plain, options.request_bytes_max) {
        Ok(()) => {
            place.holds(plain.len());
            Ok(plain.into())
        }
        Err(GunzipError::TooLarge(_)) => Err(BodyError::TooLarge),
        Err(GunzipError::Corrupt) => Err(BodyError::BadGzip),
    }
}

/// Reads a body that nobody wants, so that the connection stays in step; as long and as large as one that is wanted. Over
/// HTTP/2 what has not come yet is read behind the answer: other streams do not wait for it, and a stream that is given
/// up before its end would be reset, of which h2 allows a peer so many.
pub(super) async fn discard(
    body: Incoming,
    version: Version,
    options: &Options,
    timers: &Rc<Timers>,
) -> Result<(), BodyError> {
    let mut unwanted = Unwanted {
        body,
        bytes_left: options.request_bytes_max,
    };
    if let Some(all) = future::poll_once(unwanted.read_all()).await {
        return all;
    }
    let (timeout, timers) = (options.read_timeout, Rc::clone(timers));
    let rest = async move { in_time(unwanted.read_all(), timeout, &timers).await };
    if version != Version::HTTP_2 {
        return rest.await;
    }
    net::spawn(async move {
        // Dropping the body ends the stream, whatever came of it.
        let _answered_already = rest.await;
    });
    Ok(())
}

struct Unwanted {
    body: Incoming,
    bytes_left: usize,
}

impl Unwanted {
    /// Can be given up at any point and begun again.
    async fn read_all(&mut self) -> Result<(), BodyError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame.map_err(|_| BodyError::CutOff)?.into_data() {
                let left = self.bytes_left.checked_sub(bytes.len());
                self.bytes_left = left.ok_or(BodyError::TooLarge)?;
            }
        }
        Ok(())
    }
}

async fn in_time<T>(
    reading: impl Future<Output = Result<T, BodyError>>,
    timeout: Duration,
    timers: &Rc<Timers>,
) -> Result<T, BodyError> {
    let deadline = timers.sleep_until(timers.now().after(timeout));
    let timed_out = async {
        deadline.await;
        Err(BodyError::TimedOut)
    };
    future::or(reading, timed_out).await
}

/// Most bodies arrive whole in one frame and are not copied.
async fn collect(mut body: Incoming, bytes_max: usize, place: &Place<'_>) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut more = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|_| BodyError::CutOff)?.into_data() else {
            continue;
        };
        if first.len().max(more.len()) + bytes.len() > bytes_max {
            return Err(BodyError::TooLarge);
        }
        place.holds(first.len().max(more.len()) + bytes.len());
        if first.is_empty() && more.is_empty() {
            first = bytes;
            continue;
        }
        if more.is_empty() {
            let expected = usize::try_from(body.size_hint().lower()).unwrap_or(0);
            more.reserve(first.len() + bytes.len() + expected.min(bytes_max));
            more.extend_from_slice(&first);
        }
        more.extend_from_slice(&bytes);
    }
    Ok(if more.is_empty() { first } else { more.into() })
}

fn is_gzip(headers: &HeaderMap) -> Result<bool, BodyError> {
    let mut gzipped = false;
    for value in headers.get_all(CONTENT_ENCODING) {
        let value = value.as_bytes().trim_ascii();
        if value.eq_ignore_ascii_case(b"gzip") || value.eq_ignore_ascii_case(b"x-gzip") {
            // Applied twice: allowed by the grammar, sent by nobody but an attacker.
            if std::mem::replace(&mut gzipped, true) {
                return Err(BodyError::UnknownEncoding);
            }
        } else if !value.is_empty() && !value.eq_ignore_ascii_case(b"identity") {
            return Err(BodyError::UnknownEncoding);
        }
    }
    debug_assert!(
        headers.get_all(CONTENT_LENGTH).iter().count() <= 1,
        "hyper refuses two lengths"
    );
    Ok(gzipped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings() {
        let check = |values: &[&str], expected: Result<bool, BodyError>| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(CONTENT_ENCODING, value.parse().unwrap());
            }
            assert_eq!(is_gzip(&headers), expected, "{values:?}");
        };
        check(&[], Ok(false));
        check(&["gzip"], Ok(true));
        check(&["GZip"], Ok(true));
        check(&["x-gzip"], Ok(true));
        check(&["identity"], Ok(false));
        check(&[""], Ok(false));
        check(&["br"], Err(BodyError::UnknownEncoding));
        check(&["gzip, br"], Err(BodyError::UnknownEncoding));
        check(&["gzip", "gzip"], Err(BodyError::UnknownEncoding));
    }
}
