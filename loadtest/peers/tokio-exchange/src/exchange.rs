//! One bid request from HTTP to HTTP: read, ask all DSPs, sell, answer.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use tokio::time::{Instant, timeout, timeout_at};

use crate::auction;
use crate::dsps::Dsp;
use crate::openrtb::{Answer, BidRequest, BidResponse, CURRENCY, Micros, SoldSeat};

#[derive(Debug)]
pub(crate) struct Exchange {
    dsps: Vec<Arc<Dsp>>,
    limits: Limits,
}

/// How long is waited.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// For one DSP.
    pub(crate) dsp_timeout: Duration,
    /// For all, from arrival.
    pub(crate) deadline: Duration,
    /// Kept back from the SSP's tmax.
    pub(crate) tmax_margin: Duration,
}

/// A bid on an imp of the request.
#[derive(Debug)]
struct Offer {
    dsp: usize,
    imp: usize,
    price: Micros,
    answer: Bytes,
    /// Of its seat in the answer, and of the bid in that.
    places: (usize, usize),
}

/// As corebid's `max_request_bytes`.
const REQUEST_BYTES_MAX: usize = 128 * 1024;
/// How long a late answer is waited for before its connection is given up, as in corebid.
const LATE_TIME_MAX: Duration = Duration::from_secs(1);

impl Exchange {
    pub(crate) fn new(dsps: Vec<Dsp>, limits: Limits) -> Exchange {
        let dsps = dsps.into_iter().map(Arc::new).collect();
        Exchange { dsps, limits }
    }

    /// Answers whatever an SSP sends.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let arrival = Instant::now();
        if request.uri().path() != "/openrtb2/auction" {
            return text(StatusCode::NOT_FOUND, "");
        }
        if request.method() != Method::POST {
            return text(StatusCode::METHOD_NOT_ALLOWED, "");
        }
        let body = match Limited::new(request.into_body(), REQUEST_BYTES_MAX)
            .collect()
            .await
        {
            Ok(body) => body.to_bytes(),
            Err(error) => return text(StatusCode::BAD_REQUEST, error.to_string()),
        };
        match self.orchestrate(arrival, &body).await {
            Ok(Some(answer)) => json(answer),
            Ok(None) => text(StatusCode::NO_CONTENT, ""),
            Err(why) => text(StatusCode::BAD_REQUEST, why),
        }
    }

    /// The bid response, `None` when nothing is sold, or what is wrong with the request.
    async fn orchestrate(&self, arrival: Instant, body: &[u8]) -> Result<Option<Vec<u8>>, String> {
        let request = BidRequest::parse(body)?;
        let offers = self.gather(&request, arrival, body).await;
        Ok(sell_each_imp(&request, &offers))
    }

    /// Asks every DSP and reads the answers as they come, until all are there or the time is up.
    async fn gather(&self, request: &BidRequest<'_>, arrival: Instant, body: &[u8]) -> Vec<Offer> {
        let now = Instant::now();
        let until = self.deadline(request, arrival).min(now + self.limits.dsp_timeout);
        let left_ms = until.saturating_duration_since(now).as_millis();
        let mut offers = Vec::with_capacity(self.dsps.len() * request.imp.len());
        if left_ms == 0 {
            return offers;
        }
        // One body for all: to clone it is to count a reference.
        let body = Bytes::from(request.with_tmax(body, left_ms));
        let call = |(number, dsp): (usize, &Arc<Dsp>)| {
            let (dsp, body) = (Arc::clone(dsp), body.clone());
            async move { (number, dsp.call(body).await) }
        };
        let mut calls: FuturesUnordered<_> = self.dsps.iter().enumerate().map(call).collect();
        // All DSPs have the same timeout, so that one timer does.
        let in_time = timeout_at(until, async {
            while let Some((dsp, answer)) = calls.next().await {
                if let Some(answer) = answer {
                    // An answer that cannot be read is no bid.
                    let _ = read_offers(request, dsp, &answer, &mut offers);
                }
            }
        });
        if in_time.await.is_err() {
            // A call that is dropped costs its connection (HTTP/1.1), so those still out are read to their end.
            tokio::spawn(timeout(LATE_TIME_MAX, calls.for_each(|_| std::future::ready(()))));
        }
        offers
    }

    fn deadline(&self, request: &BidRequest<'_>, arrival: Instant) -> Instant {
        let tmax = request.tmax_ms().map_or(Duration::MAX, Duration::from_millis);
        arrival
            + tmax
                .saturating_sub(self.limits.tmax_margin)
                .min(self.limits.deadline)
    }
}

fn read_offers(
    request: &BidRequest<'_>,
    dsp: usize,
    answer: &Bytes,
    offers: &mut Vec<Offer>,
) -> Result<(), serde_json::Error> {
    let response: BidResponse<'_> = serde_json::from_slice(answer)?;
    if response.id != request.id || response.cur.is_some_and(|cur| cur != CURRENCY) {
        return Ok(());
    }
    for (seat, seat_bid) in response.seatbid.iter().enumerate() {
        for (place, bid) in seat_bid.bid.iter().enumerate() {
            let imp = request.imp.iter().position(|imp| imp.id == bid.impid);
            if let (Some(imp), Some(price)) = (imp, Micros::parse(bid.price.get())) {
                offers.push(Offer {
                    dsp,
                    imp,
                    price,
                    answer: answer.clone(),
                    places: (seat, place),
                });
            }
        }
    }
    Ok(())
}

fn sell_each_imp(request: &BidRequest<'_>, offers: &[Offer]) -> Option<Vec<u8>> {
    let sold = request.imp.iter().enumerate().filter_map(|(index, imp)| {
        let offers: Vec<&Offer> = offers.iter().filter(|offer| offer.imp == index).collect();
        let bids: Vec<_> = offers.iter().map(|offer| (offer.dsp, offer.price)).collect();
        let (winner, clearing) = auction::sell(imp.floor(), &bids)?;
        SoldSeat::new(&offers[winner].answer, offers[winner].places, clearing)
    });
    let answer = Answer {
        id: &request.id,
        cur: CURRENCY,
        seatbid: sold.collect(),
    };
    if answer.seatbid.is_empty() {
        return None;
    }
    serde_json::to_vec(&answer).ok()
}

fn json(body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert("x-openrtb-version", HeaderValue::from_static("2.6"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
}
