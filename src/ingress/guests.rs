//! How many connections a shard has from whom, and which is one too many.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use crate::telemetry::ConnectionEnd;

/// The connections of one shard.
#[derive(Debug)]
pub(super) struct Guests {
    max: Cell<usize>,
    per_peer_max: Cell<usize>,
    count: Cell<usize>,
    by_peer: RefCell<HashMap<IpAddr, usize>>,
}

impl Guests {
    pub(super) fn new(max: usize, per_peer_max: usize) -> Self {
        Self {
            max: Cell::new(max),
            per_peer_max: Cell::new(per_peer_max),
            count: Cell::new(0),
            by_peer: RefCell::default(),
        }
    }

    /// Other limits from now on. Who is above a lower one stays.
    pub(super) fn limit(&self, max: usize, per_peer_max: usize) {
        self.max.set(max);
        self.per_peer_max.set(per_peer_max);
    }

    pub(super) fn count(&self) -> usize {
        self.count.get()
    }

    /// Lets one more in from `peer`, until what is returned is dropped.
    ///
    /// # Errors
    /// Which limit it would pass.
    pub(super) fn admit(&self, peer: IpAddr) -> Result<Guest<'_>, ConnectionEnd> {
        if self.count.get() >= self.max.get() {
            return Err(ConnectionEnd::Full);
        }
        let peer = as_one(peer);
        let mut by_peer = self.by_peer.borrow_mut();
        let of_peer = by_peer.entry(peer).or_insert(0);
        if *of_peer >= self.per_peer_max.get() {
            return Err(ConnectionEnd::PeerFull);
        }
        *of_peer += 1;
        self.count.set(self.count.get() + 1);
        Ok(Guest { guests: self, peer })
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Guest<'a> {
    guests: &'a Guests,
    peer: IpAddr,
}

impl Drop for Guest<'_> {
    fn drop(&mut self) {
        self.guests.count.set(self.guests.count.get() - 1);
        let mut by_peer = self.guests.by_peer.borrow_mut();
        if let Some(of_peer) = by_peer.get_mut(&self.peer) {
            *of_peer -= 1;
            if *of_peer == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

/// Who has an IPv6 address has 2^64 of them (RFC 4291 §2.5.1).
fn as_one(peer: IpAddr) -> IpAddr {
    match peer {
        IpAddr::V4(_) => peer,
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn lets_in_up_to_each_limit_and_again_when_one_has_gone() {
        let guests = Guests::new(3, 2);
        let first = guests.admit(ip("10.0.0.1")).unwrap();
        let _second = guests.admit(ip("10.0.0.1")).unwrap();
        let refused = |address| guests.admit(ip(address)).unwrap_err();
        assert_eq!(refused("10.0.0.1"), ConnectionEnd::PeerFull);
        let third = guests.admit(ip("10.0.0.2")).unwrap();
        assert_eq!(refused("10.0.0.3"), ConnectionEnd::Full);
        drop(first);
        drop(guests.admit(ip("10.0.0.1")).unwrap());
        drop(third);
        guests.limit(1, 1);
        assert_eq!(refused("10.0.0.2"), ConnectionEnd::Full);
        guests.limit(2, 1);
        assert_eq!(refused("10.0.0.1"), ConnectionEnd::PeerFull);
        drop(guests.admit(ip("10.0.0.2")).unwrap());
        assert_eq!(guests.count(), 1);
        assert_eq!(
            guests.by_peer.borrow().len(),
            1,
            "nothing is kept of who has gone"
        );
    }

    #[test]
    fn a_network_of_ipv6_is_one_peer() {
        let guests = Guests::new(9, 1);
        let _first = guests.admit(ip("2001:db8::1")).unwrap();
        assert!(guests.admit(ip("2001:db8::ffff:1")).is_err());
        assert!(guests.admit(ip("2001:db8:0:1::1")).is_ok());
    }
}
