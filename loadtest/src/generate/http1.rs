//! HTTP/1.1 with keep-alive: one request at a time per connection, a connection more whenever all are busy,
//! up to a limit. Never waits for anything: a request that finds no connection is queued, and says so.

use super::body::Bodies;
use super::client::{Failure, Observer, Place};
use super::clock::Clock;
use super::link::{Link, Peer};
use super::options::Target;
use crate::net::h1::{self, Progress};
use crate::net::poller::{Poller, Ready};
use slab::Slab;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The client.
#[derive(Debug)]
pub(crate) struct Http1 {
    address: SocketAddr,
    head: Vec<u8>,
    bodies: Bodies,
    clock: Clock,
    limit: usize,
    connections: Slab<Connection>,
    /// Free connections; the last used is used next, so that the pool does not grow beyond what the load
    /// needs.
    idle: Vec<usize>,
    waiting: VecDeque<u64>,
    connecting: usize,
    peak: usize,
    opened: u64,
    scratch: Box<[u8]>,
    decoded: Vec<u8>,
}

#[derive(Debug)]
struct Connection {
    link: Link,
    /// Distinguishes this connection from an earlier one in the same slot of the slab.
    token: u64,
    asked: Option<u64>,
}

impl Http1 {
    pub(crate) fn new(target: &Target, limit: usize, bodies: Bodies, clock: Clock) -> Http1 {
        let head = format!(
            "POST {} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nx-openrtb-version: 2.6\r\n\
             Content-Length: ",
            target.path, target.authority
        );
        Http1 {
            address: target.address,
            head: head.into_bytes(),
            bodies,
            clock,
            limit,
            connections: Slab::new(),
            idle: Vec::new(),
            waiting: VecDeque::new(),
            connecting: 0,
            peak: 0,
            opened: 0,
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            decoded: Vec::new(),
        }
    }

    pub(crate) fn submit(&mut self, number: u64, poller: &Poller, observer: &mut impl Observer) {
        if let Some(index) = self.idle.pop() {
            self.send(index, number, poller, observer);
            return;
        }
        observer.queued(number);
        self.waiting.push_back(number);
        self.grow(poller, observer);
    }

    pub(crate) fn ready(&mut self, ready: Ready, poller: &Poller, observer: &mut impl Observer) {
        let Some(index) = self.index(ready.token) else {
            return;
        };
        let connection = &mut self.connections[index];
        let connected = if connection.link.is_connecting() {
            match connection.link.finish_connecting(ready, poller) {
                Ok(connected) => connected,
                Err(_) => return self.connect_failed(index, poller, observer),
            }
        } else {
            false
        };
        if connected {
            self.connecting -= 1;
            self.free(index, poller, observer);
        } else if !self.connections[index].link.is_connecting() {
            if ready.write && self.connections[index].link.flush(poller).is_err() {
                return self.lost(index, Failure::Reset, poller, observer);
            }
            if ready.read {
                self.receive(index, poller, observer);
            }
        }
    }

    /// The connection cannot be used again: the answer may still come, and would be taken for the next one's.
    pub(crate) fn abandon(&mut self, place: Place, poller: &Poller, observer: &mut impl Observer) {
        if let Some(index) = self.index(place.connection) {
            self.connections.remove(index);
            self.grow(poller, observer);
        }
    }

    pub(crate) fn connections_peak(&self) -> usize {
        self.peak
    }

    fn index(&self, token: u64) -> Option<usize> {
        let index = usize::try_from(token & u64::from(u32::MAX)).ok()?;
        self.connections
            .get(index)
            .filter(|connection| connection.token == token)?;
        Some(index)
    }

    /// Opens connections while more requests wait than connections are on their way.
    fn grow(&mut self, poller: &Poller, observer: &mut impl Observer) {
        while self.connecting < self.waiting.len() && self.connections.len() < self.limit {
            let entry = self.connections.vacant_entry();
            self.opened += 1;
            let token = self.opened << 32 | entry.key() as u64;
            match Link::open(self.address, token, poller) {
                Ok(link) => {
                    entry.insert(Connection {
                        link,
                        token,
                        asked: None,
                    });
                    self.connecting += 1;
                    self.peak = self.peak.max(self.connections.len());
                }
                Err(_) => return self.fail_oldest(observer),
            }
        }
    }

    fn connect_failed(&mut self, index: usize, poller: &Poller, observer: &mut impl Observer) {
        self.connections.remove(index);
        self.connecting -= 1;
        self.fail_oldest(observer);
        self.grow(poller, observer);
    }

    /// One failed connection costs one request, so a target that is gone fails requests at the rate they
    /// come.
    fn fail_oldest(&mut self, observer: &mut impl Observer) {
        if let Some(number) = self.waiting.pop_front() {
            observer.failed(number, Failure::Connect);
        }
    }

    /// Gives a connection the longest waiting request, or rest.
    fn free(&mut self, index: usize, poller: &Poller, observer: &mut impl Observer) {
        while let Some(number) = self.waiting.pop_front() {
            if observer.is_wanted(number) {
                return self.send(index, number, poller, observer);
            }
        }
        self.idle.push(index);
    }

    fn send(&mut self, index: usize, number: u64, poller: &Poller, observer: &mut impl Observer) {
        let connection = &mut self.connections[index];
        connection.asked = Some(number);
        let out = connection.link.outbox.buffer();
        out.extend_from_slice(&self.head);
        out.extend_from_slice(self.bodies.len(number).to_string().as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        self.bodies.append(number, out);
        let now_ns = self.clock.now_ns();
        observer.sent(
            number,
            now_ns,
            Place {
                connection: connection.token,
                stream: 0,
            },
        );
        if connection.link.flush(poller).is_err() {
            self.lost(index, Failure::Reset, poller, observer);
        }
    }

    fn receive(&mut self, index: usize, poller: &Poller, observer: &mut impl Observer) {
        let connection = &mut self.connections[index];
        let Ok(peer) = connection.link.receive(&mut self.scratch) else {
            return self.lost(index, Failure::Reset, poller, observer);
        };
        let now_ns = self.clock.now_ns();
        if connection.link.inbox.is_empty() {
            if peer == Peer::Finished {
                self.lost(index, Failure::Reset, poller, observer);
            }
            return;
        }
        let Some(number) = connection.asked else {
            observer.unasked();
            return self.lost(index, Failure::Parse, poller, observer);
        };
        if connection.link.inbox.len() > RESPONSE_BYTES_MAX {
            return self.lost(index, Failure::Parse, poller, observer);
        }
        let finished = peer == Peer::Finished;
        match h1::read_response(&connection.link.inbox, finished, &mut self.decoded) {
            Err(_) => self.lost(index, Failure::Parse, poller, observer),
            Ok(Progress::Partial { .. }) if finished => self.lost(index, Failure::Reset, poller, observer),
            Ok(Progress::Partial { .. }) => {}
            Ok(Progress::Complete(response)) => {
                observer.answered(number, now_ns, response.status, response.body);
                let more = response.consumed < connection.link.inbox.len();
                let reusable = response.keep_alive && !finished && !more;
                connection.asked = None;
                connection.link.inbox.clear();
                if more {
                    observer.unasked();
                }
                if reusable {
                    self.free(index, poller, observer);
                } else {
                    self.lost(index, Failure::Reset, poller, observer);
                }
            }
        }
    }

    /// Drops a connection, and with it the request it was asked, if any.
    fn lost(&mut self, index: usize, failure: Failure, poller: &Poller, observer: &mut impl Observer) {
        let connection = self.connections.remove(index);
        match connection.asked {
            Some(number) => observer.failed(number, failure),
            // The server may close an idle connection whenever it likes. Rare, so the search does not matter.
            None => self.idle.retain(|&idle| idle != index),
        }
        self.grow(poller, observer);
    }
}

/// A bid response is below 2 kB; one read takes dozens of them.
const READ_BYTES: usize = 64 * 1024;
/// No BidResponse is this long, and a server that never ends its answer must not fill our memory.
const RESPONSE_BYTES_MAX: usize = 16 << 20;
