//! What shards know of each other: a row each, written by its shard off the request path and read by the others when
//! they accept. A row has an inbox for sockets, with a bell.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, TrySendError, bounded};
use crossbeam::utils::CachePadded;

use super::{Load, Peer, Smoothed, pass_to};
use crate::clock::Instant;
use crate::net::Doorbell;

/// Sockets under way to one shard. It takes them in its next turn: more than these mean that it is stuck, and who has
/// accepted one more serves it itself.
const INBOX_MAX: usize = 256;

/// How often a decision is taken again because a row has changed meanwhile. Each time some shard has got or lost a
/// connection, so there is no reason for more than a few; after these the connection stays where it is.
const TRIES_MAX: usize = 16;

/// [`Row::state`]: connections in the lowest 31 bits, then whether the shard takes any, then which start of it this is.
const CONNECTIONS: u64 = OPEN - 1;
const OPEN: u64 = 1 << 31;
const INCARNATION: u64 = !(OPEN | CONNECTIONS);
const NEXT_INCARNATION: u64 = OPEN << 1;

/// The table of all shards. One for the process: a shard that is started again takes its row over.
#[derive(Debug)]
pub struct Balance {
    rows: Box<[CachePadded<Row>]>,
}

#[derive(Debug)]
struct Row {
    /// All in one word: who gives a connection is certain that the row is still as it was when they decided, and what
    /// a dead shard has left uncounted is not taken off the count of the next.
    state: AtomicU64,
    in_flight: AtomicU64,
    said_at_nanos: AtomicU64,
    sends: Sender<Held>,
    receives: Receiver<Held>,
    bell: Doorbell,
}

/// A connection that a shard is to serve.
#[derive(Debug)]
pub(in crate::shard) struct Held {
    pub(in crate::shard) socket: OwnedFd,
    /// To be kept until the connection ends.
    pub(in crate::shard) counted: Counted,
}

/// One connection in the count of a row, taken off when dropped.
#[derive(Debug)]
pub(in crate::shard) struct Counted {
    balance: Arc<Balance>,
    index: usize,
    incarnation: u64,
}

impl Balance {
    /// A table for so many shards, none of which takes connections yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(shards: usize) -> io::Result<Arc<Self>> {
        let row = |_| {
            let (sends, receives) = bounded(INBOX_MAX);
            Ok(CachePadded::new(Row {
                state: AtomicU64::new(0),
                in_flight: AtomicU64::new(0),
                said_at_nanos: AtomicU64::new(0),
                sends,
                receives,
                bell: Doorbell::new()?,
            }))
        };
        let rows = (0..shards).map(row).collect::<io::Result<_>>()?;
        Ok(Arc::new(Self { rows }))
    }

    /// Shard `index` takes connections from now on, and what the one before it left in the inbox. With `passes` it
    /// also gives to others.
    pub(in crate::shard) fn join(self: &Arc<Self>, index: usize, passes: bool, now: Instant) -> Member {
        let member = Member {
            balance: Arc::clone(self),
            index,
            passes: Cell::new(passes),
            peers: RefCell::default(),
            smoothed: RefCell::default(),
        };
        member.say(now, 0);
        let state = &self.rows[index].state;
        let next = (state.load(Ordering::Relaxed) & INCARNATION).wrapping_add(NEXT_INCARNATION);
        state.store(next | OPEN, Ordering::Release);
        member
    }

    /// Shard `index` is given no more connections. What is in its inbox goes to others that take some; if there are
    /// none it stays there for whoever empties it: this shard while it drains, or the next one in its place.
    pub(in crate::shard) fn leave(self: &Arc<Self>, index: usize) {
        self.rows[index].state.fetch_and(!OPEN, Ordering::Relaxed);
        // Who gives a connection puts it into the inbox and then looks whether the row is open; here it is the other
        // way round. Between the two fences one of both sees what the other did.
        fence(Ordering::SeqCst);
        self.rescue(index);
    }

    /// A shard that takes connections and has said nothing for `limit`.
    #[must_use]
    pub fn stands_still(&self, now: Instant, limit: Duration) -> Option<usize> {
        self.rows.iter().position(|row| {
            let said_at = Instant::from_nanos(row.said_at_nanos.load(Ordering::Relaxed));
            row.is_open() && now.since(said_at) >= limit
        })
    }

    /// Puts a connection into the inbox of the shard that counts it, and wakes that. Gives it back when there is no
    /// room.
    fn deliver(self: &Arc<Self>, held: Held) -> Result<(), Held> {
        let to = held.counted.index;
        let row = &self.rows[to];
        row.sends.try_send(held).map_err(TrySendError::into_inner)?;
        row.bell.ring();
        fence(Ordering::SeqCst);
        if !row.is_open() {
            self.rescue(to);
        }
        Ok(())
    }

    /// Gives what is in the inbox of a shard that takes no more to those that do.
    fn rescue(self: &Arc<Self>, index: usize) {
        while let Some(to) = self.least_loaded() {
            let Ok(held) = self.rows[index].receives.try_recv() else {
                return;
            };
            tracing::warn!(
                shard = index,
                to,
                "a connection goes on to another shard: its own has ended"
            );
            let held = Held {
                counted: self.count(to),
                ..held
            };
            if let Err(held) = self.deliver(held) {
                // The least loaded shard is stuck. If somebody else has filled the old place meanwhile, there is none.
                if self.rows[index].sends.try_send(held).is_err() {
                    tracing::warn!("no shard has room for a connection; it is closed");
                }
                return;
            }
        }
    }

    fn least_loaded(&self) -> Option<usize> {
        let open = self.rows.iter().enumerate().filter(|(_, row)| row.is_open());
        open.min_by_key(|(_, row)| row.load().connections)
            .map(|(index, _)| index)
    }

    /// Counts a connection for shard `index`.
    fn count(self: &Arc<Self>, index: usize) -> Counted {
        let before = self.rows[index].state.fetch_add(1, Ordering::Relaxed);
        self.counted(index, before)
    }

    /// The same, if the shard takes connections and has exactly `connections` now.
    fn count_one_more_than(self: &Arc<Self>, index: usize, connections: u64) -> Option<Counted> {
        let as_seen = |state| (state & OPEN != 0 && state & CONNECTIONS == connections).then_some(state + 1);
        let state = &self.rows[index].state;
        let before = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, as_seen);
        before.ok().map(|before| self.counted(index, before))
    }

    fn counted(self: &Arc<Self>, index: usize, before: u64) -> Counted {
        Counted {
            balance: Arc::clone(self),
            index,
            incarnation: before & INCARNATION,
        }
    }
}

impl Row {
    fn is_open(&self) -> bool {
        self.state.load(Ordering::Relaxed) & OPEN != 0
    }

    fn load(&self) -> Load {
        Load {
            connections: self.state.load(Ordering::Relaxed) & CONNECTIONS,
            in_flight: self.in_flight.load(Ordering::Relaxed),
        }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let one_less = |state| (state & INCARNATION == self.incarnation).then(|| state - 1);
        let state = &self.balance.rows[self.index].state;
        // A shard that was started anew counts from zero.
        let _other_incarnation = state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less);
    }
}

/// A shard's end of the table.
#[derive(Debug)]
pub(in crate::shard) struct Member {
    balance: Arc<Balance>,
    index: usize,
    passes: Cell<bool>,
    peers: RefCell<Vec<Peer>>,
    smoothed: RefCell<Smoothed>,
}

impl Member {
    /// Decides on a connection that this shard has accepted. Returns it when it is this shard that serves it; otherwise
    /// it has been passed on.
    pub(in crate::shard) fn place(&self, now: Instant, socket: OwnedFd) -> Option<Held> {
        let counted = self.claim(now);
        let is_ours = counted.index == self.index;
        let held = Held { socket, counted };
        if is_ours {
            return Some(held);
        }
        let refused = self.balance.deliver(held).err()?;
        Some(Held {
            counted: self.balance.count(self.index),
            ..refused
        })
    }

    /// The next connection that another shard has passed to this one.
    pub(in crate::shard) fn take(&self) -> Option<Held> {
        let held = self.balance.rows[self.index].receives.try_recv().ok()?;
        let incarnation = self.balance.rows[self.index].state.load(Ordering::Relaxed) & INCARNATION;
        if held.counted.incarnation == incarnation {
            return Some(held);
        }
        // Meant for the shard before this one.
        Some(Held {
            counted: self.balance.count(self.index),
            ..held
        })
    }

    /// Rung when there may be something to take.
    pub(in crate::shard) fn bell(&self) -> &Doorbell {
        &self.balance.rows[self.index].bell
    }

    /// Tells the others how much is in flight here: every round of care.
    pub(in crate::shard) fn say(&self, now: Instant, in_flight: usize) {
        let row = &self.balance.rows[self.index];
        let smoothed = self.smoothed.borrow_mut().add(in_flight as u64);
        row.in_flight.store(smoothed, Ordering::Relaxed);
        row.said_at_nanos.store(now.as_nanos(), Ordering::Relaxed);
    }

    /// Whether this shard passes connections to others from now on.
    pub(in crate::shard) fn may_pass(&self, passes: bool) {
        self.passes.set(passes);
    }

    /// Whether others may pass connections to this shard.
    pub(in crate::shard) fn is_open(&self) -> bool {
        self.balance.rows[self.index].is_open()
    }

    /// As [`Balance::leave`]. From then on this shard serves what it accepts.
    pub(in crate::shard) fn leave(&self) {
        self.balance.leave(self.index);
    }

    /// Counts a connection for the shard that is to serve it. When shards accept at the same moment, each count is one
    /// that was decided on what is there then: a burst is spread as if its connections had come one by one.
    fn claim(&self, now: Instant) -> Counted {
        let rows = &self.balance.rows;
        let own = &rows[self.index];
        let mut peers = self.peers.borrow_mut();
        for _ in 0..TRIES_MAX {
            if !self.passes.get() || !self.is_open() {
                break;
            }
            let load = own.load();
            let others = rows.iter().enumerate().filter(|&(index, _)| index != self.index);
            peers.clear();
            peers.extend(others.filter(|(_, row)| row.is_open()).map(|(index, row)| Peer {
                index,
                load: row.load(),
                said_at: Instant::from_nanos(row.said_at_nanos.load(Ordering::Relaxed)),
            }));
            let (index, seen) = match pass_to(now, load, &peers) {
                Some(other) => (other.index, other.load.connections),
                None => (self.index, load.connections),
            };
            if let Some(counted) = self.balance.count_one_more_than(index, seen) {
                return counted;
            }
        }
        self.balance.count(self.index)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::rc::Rc;
    use std::thread;

    use super::*;
    use crate::clock;
    use crate::net::{Hearing, Readiness};

    const NOW: Instant = Instant::from_nanos(10_000_000_000);

    fn members(count: usize, passes: bool) -> (Arc<Balance>, Vec<Member>) {
        let balance = Balance::new(count).unwrap();
        let members = (0..count).map(|index| balance.join(index, passes, NOW)).collect();
        (balance, members)
    }

    /// An SSP's end of a connection and the one that was accepted.
    fn connection() -> (UnixStream, OwnedFd) {
        let (far, near) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        (far, near.into())
    }

    fn counts(balance: &Balance) -> Vec<u64> {
        balance.rows.iter().map(|row| row.load().connections).collect()
    }

    fn is_closed(mut far: &UnixStream) -> bool {
        matches!(far.read(&mut [0]), Ok(0))
    }

    #[test]
    fn a_burst_on_one_shard_is_spread_and_counted_until_its_end() {
        let (balance, members) = members(4, true);
        let mut held: Vec<_> = (0..6)
            .filter_map(|_| members[0].place(NOW, connection().1))
            .collect();
        assert_eq!(counts(&balance), [2, 2, 1, 1]);
        assert_eq!(held.len(), 2);
        for (member, expected) in members[1..].iter().zip([2, 1, 1]) {
            let taken: Vec<_> = std::iter::from_fn(|| member.take()).collect();
            assert_eq!(taken.len(), expected);
            held.extend(taken);
        }
        assert_eq!(
            counts(&balance),
            [2, 2, 1, 1],
            "taking one counts it no second time"
        );
        held.clear();
        assert_eq!(counts(&balance), [0; 4]);
    }

    #[test]
    fn who_does_not_pass_keeps_all_it_accepts() {
        let (balance, members) = members(3, false);
        let held: Vec<_> = (0..6)
            .filter_map(|_| members[1].place(NOW, connection().1))
            .collect();
        assert_eq!((held.len(), counts(&balance)), (6, vec![0, 6, 0]));
    }

    #[test]
    fn what_is_in_flight_counts_as_said() {
        let (balance, members) = members(2, true);
        let _one_each = [balance.count(0), balance.count(1)];
        assert!(members[0].place(NOW, connection().1).is_some());
        drop(balance.count(0));
        for _ in 0..20 {
            members[0].say(NOW, 5_000);
        }
        assert!(
            members[0].place(NOW, connection().1).is_none(),
            "it has all that is in flight"
        );
    }

    #[test]
    fn what_passes_through_the_inbox_is_the_connection_itself() {
        let (_balance, members) = members(2, true);
        let _first = members[0].place(NOW, connection().1);
        let (mut far, near) = connection();
        assert!(members[0].place(NOW, near).is_none());
        let held = members[1].take().unwrap();
        assert!(members[1].take().is_none());
        far.write_all(b"hello").unwrap();
        let mut bytes = [0; 5];
        UnixStream::from(held.socket).read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test]
    fn an_inbox_takes_so_many_and_no_more() {
        let (balance, members) = members(2, true);
        // The other never takes, and this one's are never served: what counts is who got it.
        let mut kept = Vec::new();
        for _ in 0..2 * INBOX_MAX + 40 {
            kept.extend(members[0].place(NOW, connection().1));
        }
        assert_eq!(balance.rows[1].receives.len(), INBOX_MAX);
        assert_eq!(counts(&balance), [kept.len() as u64, INBOX_MAX as u64]);
        assert_eq!(kept.len(), INBOX_MAX + 40);
    }

    #[test]
    fn a_shard_that_ends_leaves_its_inbox_to_others() {
        let (balance, members) = members(3, true);
        let _kept = members[0].place(NOW, connection().1).unwrap();
        let (first, near) = connection();
        assert!(members[0].place(NOW, near).is_none());
        assert_eq!(counts(&balance), [1, 1, 0]);
        balance.leave(1);
        assert!(members[1].take().is_none());
        assert_eq!(counts(&balance), [1, 0, 1]);
        let held = members[2].take().expect("the least loaded of the others has it");
        assert!(!is_closed(&first));
        drop(held);
        assert!(is_closed(&first));
        // And nobody chooses it any more.
        let kept: Vec<_> = (0..6)
            .filter_map(|_| members[0].place(NOW, connection().1))
            .collect();
        assert_eq!((kept.len(), counts(&balance)), (3, vec![4, 0, 3]));
    }

    #[test]
    fn with_nobody_else_the_inbox_waits_for_the_next_start() {
        let (balance, members) = members(2, true);
        let _kept = members[0].place(NOW, connection().1).unwrap();
        let (far, near) = connection();
        assert!(members[0].place(NOW, near).is_none());
        members[0].leave();
        balance.leave(1);
        assert!(!is_closed(&far));
        let again = balance.join(1, true, NOW);
        let held = again.take().unwrap();
        assert!(again.take().is_none());
        assert_eq!(counts(&balance), [1, 1]);
        drop(held);
        assert_eq!(counts(&balance), [1, 0]);
    }

    #[test]
    fn what_a_dead_shard_left_uncounted_is_not_taken_off_the_next() {
        let (balance, members) = members(2, true);
        let of_the_dead = members[0].place(NOW, connection().1);
        balance.leave(0);
        let again = balance.join(0, true, NOW);
        assert_eq!(counts(&balance), [0, 0]);
        let of_the_next = again.place(NOW, connection().1);
        drop(of_the_dead);
        assert_eq!(counts(&balance), [1, 0]);
        drop(of_the_next);
        assert_eq!(counts(&balance), [0, 0]);
    }

    #[test]
    fn a_shard_that_drains_serves_what_it_accepts() {
        let (balance, members) = members(2, true);
        members[0].leave();
        let kept: Vec<_> = (0..4)
            .filter_map(|_| members[0].place(NOW, connection().1))
            .collect();
        assert_eq!((kept.len(), counts(&balance)), (4, vec![4, 0]));
    }

    /// Shards accept, take, end and start again all at once: every connection is served once, none twice, none is
    /// lost, and the counts come out even.
    #[test]
    fn nothing_is_lost_whatever_happens_at_once() {
        const SHARDS: usize = 4;
        const EACH: usize = 3_000;
        let balance = Balance::new(SHARDS).unwrap();
        let serve = |index: usize| {
            let balance = Arc::clone(&balance);
            move || {
                let mut served = 0;
                let mut member = balance.join(index, true, clock::now());
                for n in 0..EACH {
                    let (_far, near) = connection();
                    served += usize::from(member.place(clock::now(), near).is_some());
                    if n % 3 == 0 {
                        served += usize::from(member.take().is_some());
                    }
                    if n % 500 == 499 {
                        member.leave();
                        member = balance.join(index, true, clock::now());
                    }
                }
                // As a shard that drains.
                member.leave();
                served + std::iter::from_fn(|| member.take()).count()
            }
        };
        let shards: Vec<_> = (0..SHARDS).map(|index| thread::spawn(serve(index))).collect();
        let served: usize = shards.into_iter().map(|shard| shard.join().unwrap()).sum();
        assert_eq!(served, SHARDS * EACH);
        assert!(balance.rows.iter().all(|row| row.receives.is_empty()));
        assert_eq!(counts(&balance), [0; SHARDS]);
    }

    #[test]
    fn two_that_accept_at_the_same_moment_do_not_both_fill_the_same_gap() {
        for _ in 0..300 {
            let (balance, members) = members(4, true);
            let held: Vec<_> = thread::scope(|scope| {
                let accepts = |member: Member| {
                    scope.spawn(move || {
                        let held: Vec<_> = (0..3).map(|_| member.place(NOW, connection().1)).collect();
                        (member, held)
                    })
                };
                let threads: Vec<_> = members.into_iter().take(2).map(accepts).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            let counts = counts(&balance);
            assert!(counts.iter().all(|count| (1..=2).contains(count)), "{counts:?}");
            drop(held);
        }
    }

    #[test]
    fn who_stands_still_is_who_is_open_and_silent() {
        let (balance, members) = members(2, true);
        let limit = Duration::from_secs(1);
        let later = NOW.after(limit);
        assert_eq!(balance.stands_still(NOW, limit), None);
        assert_eq!(balance.stands_still(later, limit), Some(0));
        members[0].say(later, 0);
        assert_eq!(balance.stands_still(later, limit), Some(1));
        members[1].leave();
        assert_eq!(
            balance.stands_still(later, limit),
            None,
            "it drains, or is being restarted"
        );
    }

    #[test]
    fn a_shard_that_is_given_a_connection_is_woken() {
        let (_balance, mut members) = members(2, true);
        let other = members.pop().unwrap();
        let sleeper = thread::spawn(move || {
            let readiness = Rc::new(Readiness::new().unwrap());
            let _hearing = Hearing::new(other.bell(), &readiness).unwrap();
            while other.take().is_none() {
                readiness.take(|_, _| ()).unwrap();
                readiness.wait().unwrap();
            }
        });
        thread::park_timeout(Duration::from_millis(50));
        let _kept = members[0].place(NOW, connection().1);
        assert!(members[0].place(NOW, connection().1).is_none());
        // Without the bell it would sleep for ever.
        sleeper.join().unwrap();
    }
}
