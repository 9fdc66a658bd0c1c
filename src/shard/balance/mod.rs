//! Which shard serves a connection that was just accepted: the one that accepted it, unless another has clearly less
//! to do.
//!
//! The kernel spreads connections over the shards' listeners by a hash, and an SSP has few: six over four shards leave
//! one of them without any more often than not, and what is on a connection stays on its shard. Decided once for each
//! connection, when it is accepted; one that is served is never moved.

mod table;

use std::ops::Add;
use std::time::Duration;

use crate::clock::Instant;

pub use table::Balance;
pub(super) use table::{Counted, Held, Member};

/// A shard that has said nothing for this long, twenty rounds of care, is not given anything: it is stuck, and an SSP
/// would wait with it.
const SILENT_MAX: Duration = Duration::from_secs(1);

/// What a shard carries.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Load {
    /// Connections from SSPs, those under way to it included.
    connections: u64,
    /// Orchestrations in flight, smoothed.
    in_flight: u64,
}

impl Add for Load {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            connections: self.connections + other.connections,
            in_flight: self.in_flight + other.in_flight,
        }
    }
}

/// Another shard that takes connections.
#[derive(Debug, Clone, Copy)]
struct Peer {
    index: usize,
    load: Load,
    /// When it last said so.
    said_at: Instant,
}

/// Who is to serve a connection accepted by the shard that carries `own`: one of the others, or else it does itself.
///
/// A shard's weight is what is in flight on it, plus, for each of its connections, what a connection has in flight on
/// average, at least one. What is in flight tells a connection with thousands of streams from one that waits for its
/// next request; the connections stand for what they will carry, of which nothing shows when six come at once or
/// nobody is asking. Clearly less to do is less by one such connection, or by an eighth of the own weight where that is
/// more: few connections are spread to the last one, and where thousands come and go, chance differences between
/// shards are left alone.
///
/// Less by one connection also means that nothing is ever passed back: with it, the other is no heavier than this one
/// is without.
fn pass_to(now: Instant, own: Load, others: &[Peer]) -> Option<&Peer> {
    let speaking = || others.iter().filter(|peer| now.since(peer.said_at) < SILENT_MAX);
    let total = speaking().fold(own, |sum, peer| sum + peer.load);
    // Weights are multiplied by the number of connections, so that their average needs no fraction.
    let connections = u128::from(total.connections.max(1));
    let average = u128::from(total.in_flight).max(connections);
    let weight =
        |load: Load| u128::from(load.in_flight) * connections + u128::from(load.connections) * average;
    let clearly = average.max(weight(own) / 8);
    speaking()
        .min_by_key(|peer| weight(peer.load))
        .filter(|least| weight(own) >= weight(least.load) + clearly)
}

/// What is in flight on a shard, over some 200 ms: a momentary number is mostly noise.
#[derive(Debug, Default)]
struct Smoothed {
    /// In 1/256, so that a small number can be approached.
    scaled: u64,
}

impl Smoothed {
    /// Takes one more measurement, one for each round of care; returns the whole number nearest to the average.
    fn add(&mut self, in_flight: u64) -> u64 {
        // A quarter of the way each time.
        self.scaled = (3 * self.scaled + in_flight * 256) / 4;
        (self.scaled + 128) / 256
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    const NOW: Instant = Instant::from_nanos(10_000_000_000);

    fn load(connections: u64, in_flight: u64) -> Load {
        Load {
            connections,
            in_flight,
        }
    }

    /// Who serves what shard `own` of these has accepted.
    fn serves(own: usize, loads: &[Load]) -> usize {
        let others: Vec<_> = loads
            .iter()
            .enumerate()
            .filter(|&(index, _)| index != own)
            .map(|(index, &load)| Peer {
                index,
                load,
                said_at: NOW,
            })
            .collect();
        pass_to(NOW, loads[own], &others).map_or(own, |other| other.index)
    }

    #[test]
    fn who_keeps_and_who_passes() {
        // Each shard as connections/in flight. The first has accepted; `expected` serves.
        #[track_caller]
        fn check(shards: &str, expected: usize) {
            let loads: Vec<_> = shards
                .split(' ')
                .map(|shard| {
                    let (connections, in_flight) = shard.split_once('/').unwrap();
                    load(connections.parse().unwrap(), in_flight.parse().unwrap())
                })
                .collect();
            assert_eq!(serves(0, &loads), expected, "{shards}");
        }
        // Alone, or nobody has anything.
        check("5/900", 0);
        check("0/0 0/0 0/0", 0);
        // Nothing in flight: connections are spread to the last one.
        check("1/0 0/0", 1);
        check("1/0 1/0 0/0", 2);
        check("1/0 1/0", 0);
        check("2/0 1/0 2/0", 1);
        check("0/0 5/0", 0);
        // ... up to eight, then to an eighth.
        check("8/0 7/0", 1);
        check("80/0 71/0", 0);
        check("80/0 70/0", 1);
        // Over HTTP/2 one connection has it all.
        check("1/5000 3/2", 1);
        check("3/2 1/5000", 0);
        check("1/5000 3/2 2/1", 2);
        // As many connections, as much in flight but for chance.
        check("1/1090 1/920", 0);
        check("2/2100 2/1910 2/2000", 0);
        // Idle connections count, too: they may be asked on at any moment.
        check("3/0 1/1 1/1", 1);
        // HTTP/1.1: a connection has one request in flight or none.
        check("4/4 4/0", 1);
        check("4/3 4/3", 0);
    }

    #[test]
    fn a_silent_shard_is_given_nothing() {
        let peer = |silent: Duration| Peer {
            index: 1,
            load: load(0, 0),
            said_at: Instant::from_nanos(NOW.as_nanos() - u64::try_from(silent.as_nanos()).unwrap()),
        };
        let just = SILENT_MAX - Duration::from_nanos(1);
        let passes = |peer: Peer| pass_to(NOW, load(9, 9), &[peer]).is_some();
        assert!(passes(peer(just)));
        assert!(!passes(peer(SILENT_MAX)));
        // Its clock was read on another core, a moment after ours.
        assert!(passes(Peer {
            said_at: NOW.after(Duration::from_micros(1)),
            ..peer(just)
        }));
    }

    #[test]
    fn the_average_follows_and_comes_to_rest() {
        let mut smoothed = Smoothed::default();
        let said: Vec<_> = (0..4).map(|_| smoothed.add(1000)).collect();
        assert_eq!(said, [250, 438, 578, 684]);
        for _ in 0..40 {
            smoothed.add(1000);
        }
        assert_eq!(smoothed.add(1000), 1000);
        for _ in 0..40 {
            smoothed.add(0);
        }
        assert_eq!(smoothed.add(0), 0);
        let half: Vec<_> = (0..40).map(|n| smoothed.add(n % 2)).collect();
        assert!(half[20..].iter().all(|&said| said <= 1), "{half:?}");
    }

    fn loads() -> impl Strategy<Value = Vec<Load>> {
        let load = (0..200_u64, 0..20_000_u64).prop_map(|(connections, in_flight)| {
            // What is in flight came on some connection.
            load(connections, if connections == 0 { 0 } else { in_flight })
        });
        vec(load, 1..20)
    }

    proptest! {
        /// Six connections or sixty, whichever shards the kernel's hash sends them to.
        #[test]
        fn connections_that_carry_nothing_yet_are_spread_to_the_last_one(
            shards in 1..17_usize, arrivals in vec(0..1000_usize, 1..100),
        ) {
            let mut loads = vec![Load::default(); shards];
            for (n, arrival) in arrivals.iter().enumerate() {
                let own = arrival % shards;
                let served_by = serves(own, &loads);
                loads[served_by].connections += 1;
                if n < 8 * shards {
                    let counts = loads.iter().map(|load| load.connections);
                    prop_assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1, "{loads:?}");
                }
            }
        }

        /// Once the kernel's hash has sent each shard a connection, gaps that others left are filled again.
        #[test]
        fn a_shard_that_lost_its_connections_gets_new_ones(
            shards in 2..9_usize, left in vec(0..4_u64, 9), in_flight in 1..500_u64,
        ) {
            // All connections carry the same.
            let mut loads: Vec<_> = left[..shards].iter().map(|&c| load(c, c * in_flight)).collect();
            for own in (0..shards).cycle().take(shards * 5) {
                let served_by = serves(own, &loads);
                loads[served_by] = loads[served_by] + load(1, in_flight);
            }
            let counts = loads.iter().map(|load| load.connections);
            prop_assert!(counts.clone().max().unwrap() - counts.min().unwrap() <= 1, "{loads:?}");
        }

        #[test]
        fn what_is_passed_goes_to_the_least_and_never_back(loads in loads(), own in 0..1000_usize) {
            let own = own % loads.len();
            let other = serves(own, &loads);
            if other != own {
                let mut after = loads.clone();
                after[other].connections += 1;
                prop_assert_ne!(serves(other, &after), own);
                // Who has less of both is never passed over for one who has more.
                let passed_over = loads.iter().any(|load| {
                    load.connections < loads[other].connections && load.in_flight < loads[other].in_flight
                });
                prop_assert!(!passed_over);
            }
        }

        /// The measure holds at any size.
        #[test]
        fn nothing_overflows(connections in any::<u32>(), in_flight in any::<u32>()) {
            let heavy = load(connections.into(), in_flight.into());
            let shards = vec![heavy; 1024];
            prop_assert_eq!(serves(0, &shards), 0);
        }
    }
}
