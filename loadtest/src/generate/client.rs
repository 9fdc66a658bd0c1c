//! What the two HTTP clients have in common: what they tell the run, and where a request is on its way.

use super::body::Bodies;
use super::clock::Clock;
use super::options::{Protocol, Target};
use super::{http1::Http1, http2::Http2};
use crate::net::poller::{Poller, Ready};
use serde::Serialize;

/// Hears what becomes of each request. `place` is the client's own note of where it is, for
/// [`Client::abandon`].
pub(crate) trait Observer {
    /// No connection is free and no more may be opened, or one is being opened: the request waits inside the
    /// generator.
    fn queued(&mut self, number: u64);
    /// Whether anybody still waits for it. A request that timed out in the queue is not sent.
    fn is_wanted(&mut self, number: u64) -> bool;
    /// Its bytes were handed to the kernel.
    fn sent(&mut self, number: u64, now_ns: u64, place: Place);
    /// Its answer is complete.
    fn answered(&mut self, number: u64, now_ns: u64, status: u16, body: &[u8]);
    /// There will be no answer.
    fn failed(&mut self, number: u64, failure: Failure);
    /// The server said something nobody had asked for.
    fn unasked(&mut self);
}

/// Which connection, and which stream of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) connection: u64,
    pub(crate) stream: u64,
}

/// Why a request has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) enum Failure {
    /// The connection could not be opened.
    Connect,
    /// The connection or stream was closed or reset before the answer was complete.
    Reset,
    /// What came back is not HTTP, or not of the kind that can be an answer.
    Parse,
}

/// One of the two.
#[derive(Debug)]
pub(crate) enum Client {
    H1(Http1),
    H2(Http2),
}

impl Client {
    pub(crate) fn new(target: &Target, protocol: Protocol, bodies: Bodies, clock: Clock) -> Client {
        match protocol {
            Protocol::H1 { connections } => Client::H1(Http1::new(target, connections, bodies, clock)),
            Protocol::H2 { connections } => Client::H2(Http2::new(target, connections, bodies, clock)),
        }
    }

    /// Takes a request to send. It may be sent now, by [`Client::flush`], or when a connection is free.
    pub(crate) fn submit(&mut self, number: u64, poller: &Poller, observer: &mut impl Observer) {
        match self {
            Client::H1(client) => client.submit(number, poller, observer),
            Client::H2(client) => client.submit(number, poller, observer),
        }
    }

    /// Sends what `submit` and `ready` have gathered.
    pub(crate) fn flush(&mut self, poller: &Poller, observer: &mut impl Observer) {
        if let Client::H2(client) = self {
            client.flush(poller, observer);
        }
    }

    /// Handles one event of the poller.
    pub(crate) fn ready(&mut self, ready: Ready, poller: &Poller, observer: &mut impl Observer) {
        match self {
            Client::H1(client) => client.ready(ready, poller, observer),
            Client::H2(client) => client.ready(ready, poller, observer),
        }
    }

    /// Nobody waits for the request at this place any more.
    pub(crate) fn abandon(&mut self, place: Place, poller: &Poller, observer: &mut impl Observer) {
        match self {
            Client::H1(client) => client.abandon(place, poller, observer),
            Client::H2(client) => client.abandon(place),
        }
    }

    /// Most connections open at once so far.
    pub(crate) fn connections_peak(&self) -> usize {
        match self {
            Client::H1(client) => client.connections_peak(),
            Client::H2(client) => client.connections_peak(),
        }
    }
}
