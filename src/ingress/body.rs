//! A bid request's body off the wire: within its length, within its time, decompressed.

use std::rc::Rc;

use futures_lite::future;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http::{HeaderMap, Request};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};

use super::Options;
use crate::clock::Timers;
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
) -> Result<Bytes, BodyError> {
    let gzipped = is_gzip(request.headers());
    let body = request.into_body();
    let Ok(gzipped) = gzipped else {
        discard(body, options, timers).await?;
        return Err(BodyError::UnknownEncoding);
    };
    if body.size_hint().lower() > options.request_bytes_max as u64 {
        return Err(BodyError::TooLarge);
    }
    let wire = in_time(collect(body, options.request_bytes_max), options, timers).await?;
    if !gzipped {
        return Ok(wire);
    }
    let mut plain = Vec::new();
    match gunzip(&wire, &mut plain, options.request_bytes_max) {
        Ok(()) => Ok(plain.into()),
        Err(GunzipError::TooLarge(_)) => Err(BodyError::TooLarge),
        Err(GunzipError::Corrupt) => Err(BodyError::BadGzip),
    }
}

/// Reads a body that nobody wants, so that the connection stays in step; as long and as large as one that is wanted.
pub(super) async fn discard(
    mut body: Incoming,
    options: &Options,
    timers: &Rc<Timers>,
) -> Result<(), BodyError> {
    let read_all = async {
        let mut left = options.request_bytes_max;
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(|_| BodyError::CutOff)?.into_data() {
                left = left.checked_sub(bytes.len()).ok_or(BodyError::TooLarge)?;
            }
        }
        Ok(())
    };
    in_time(read_all, options, timers).await
}

async fn in_time<T>(
    reading: impl Future<Output = Result<T, BodyError>>,
    options: &Options,
    timers: &Rc<Timers>,
) -> Result<T, BodyError> {
    let deadline = timers.sleep_until(timers.now().after(options.read_timeout));
    let timed_out = async {
        deadline.await;
        Err(BodyError::TimedOut)
    };
    future::or(reading, timed_out).await
}

/// Most bodies arrive whole in one frame and are not copied.
async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Bytes, BodyError> {
    let mut first = Bytes::new();
    let mut more = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(bytes) = frame.map_err(|_| BodyError::CutOff)?.into_data() else {
            continue;
        };
        if first.len().max(more.len()) + bytes.len() > bytes_max {
            return Err(BodyError::TooLarge);
        }
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
