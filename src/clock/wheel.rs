//! A hashed timer wheel of one-millisecond ticks: insert, remove and fire in constant time.
//!
//! Coarse on purpose. A deadline is a promise to the millisecond, and 140,000 orchestrations in flight must
//! not cost a heap of timers. An entry never fires early and at most one tick late (as seen by `advance`).

use std::time::Duration;

use slab::Slab;

use super::Instant;

/// The wheel's grain.
pub const TICK: Duration = Duration::from_millis(1);

const TICK_NANOS: u64 = 1_000_000;

/// Buckets in the wheel, one tick each. An orchestration lives about 100 ms, so with 1,024 of them its entry is
/// met once, when it is due; a far timeout (an idle connection's minute) is met and skipped once per turn of
/// the wheel, about once a second.
const BUCKETS: usize = 1024;
const WORDS: usize = BUCKETS / 64;
const NIL: u32 = u32::MAX;

/// Names an entry; dead once it fired or was removed, and never mistaken for a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    index: u32,
    generation: u32,
}

/// Timers of one shard, each carrying a `T`.
#[derive(Debug)]
pub struct Wheel<T> {
    entries: Slab<Entry<T>>,
    /// Head of each bucket's doubly linked list, by index into `entries`.
    buckets: Box<[u32; BUCKETS]>,
    /// One bit per bucket that holds anything, so that the next one is found without a walk.
    occupied: [u64; WORDS],
    /// Every entry due at a tick up to and including this one has fired.
    fired_to: u64,
    generation: u32,
}

#[derive(Debug)]
struct Entry<T> {
    tick: u64,
    generation: u32,
    previous: u32,
    next: u32,
    payload: T,
}

impl<T> Wheel<T> {
    /// An empty wheel whose first tick comes after `now`.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            entries: Slab::new(),
            buckets: Box::new([NIL; BUCKETS]),
            occupied: [0; WORDS],
            fired_to: now.as_nanos() / TICK_NANOS,
            generation: 0,
        }
    }

    /// How many entries wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry that fires at the first `advance` at or after `deadline`, rounded up to a tick.
    pub fn insert(&mut self, deadline: Instant, payload: T) -> Key {
        let tick = deadline.as_nanos().div_ceil(TICK_NANOS).max(self.fired_to + 1);
        self.generation = self.generation.wrapping_add(1);
        let bucket = bucket_of(tick);
        let head = self.buckets[bucket];
        let entry = Entry {
            tick,
            generation: self.generation,
            previous: NIL,
            next: head,
            payload,
        };
        let index = index_u32(self.entries.insert(entry));
        if let Some(old) = self.entries.get_mut(head as usize) {
            old.previous = index;
        }
        self.buckets[bucket] = index;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        Key {
            index,
            generation: self.generation,
        }
    }

    /// Takes an entry out before it fires; `None` when it already did.
    pub fn remove(&mut self, key: Key) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation).then(|| self.unlink(key.index))
    }

    /// The payload of an entry that has not fired.
    pub fn get_mut(&mut self, key: Key) -> Option<&mut T> {
        let entry = self.entries.get_mut(key.index as usize)?;
        (entry.generation == key.generation).then_some(&mut entry.payload)
    }

    /// When to call `advance` next: never later than the earliest entry is due (it may be earlier, for an entry
    /// more than one turn of the wheel away). `None` when nothing waits.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let first = self.fired_to + 1;
        let start = bucket_of(first);
        (0..=WORDS).find_map(|step| {
            let word_index = (start / 64 + step) % WORDS;
            let mut word = self.occupied[word_index];
            if step == 0 {
                word &= u64::MAX << (start % 64);
            } else if step == WORDS {
                word &= !(u64::MAX << (start % 64));
            }
            if word == 0 {
                return None;
            }
            let bucket = word_index * 64 + word.trailing_zeros() as usize;
            let ahead = (bucket + BUCKETS - start) % BUCKETS;
            Some(Instant::from_nanos((first + ahead as u64) * TICK_NANOS))
        })
    }

    /// Hands every entry that is due at `now` to `fire`, in the order of their ticks.
    pub fn advance(&mut self, now: Instant, mut fire: impl FnMut(T)) {
        let now_tick = now.as_nanos() / TICK_NANOS;
        if now_tick <= self.fired_to {
            return;
        }
        // After a long pause (a stopped process) one turn over all buckets finds everything that is due.
        let first = (self.fired_to + 1).max((now_tick + 1).saturating_sub(BUCKETS as u64));
        self.fired_to = now_tick;
        for tick in first..=now_tick {
            let bucket = bucket_of(tick);
            if self.occupied[bucket / 64] & (1 << (bucket % 64)) == 0 {
                continue;
            }
            let mut index = self.buckets[bucket];
            while index != NIL {
                let Some(entry) = self.entries.get(index as usize) else {
                    break;
                };
                let next = entry.next;
                if entry.tick <= now_tick {
                    fire(self.unlink(index));
                }
                index = next;
            }
        }
    }

    fn unlink(&mut self, index: u32) -> T {
        let entry = self.entries.remove(index as usize);
        let bucket = bucket_of(entry.tick);
        match self.entries.get_mut(entry.previous as usize) {
            Some(previous) => previous.next = entry.next,
            None => self.buckets[bucket] = entry.next,
        }
        if let Some(next) = self.entries.get_mut(entry.next as usize) {
            next.previous = entry.previous;
        }
        if self.buckets[bucket] == NIL {
            self.occupied[bucket / 64] &= !(1 << (bucket % 64));
        }
        entry.payload
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below BUCKETS")]
fn bucket_of(tick: u64) -> usize {
    (tick % BUCKETS as u64) as usize
}

/// Slab indices are below 2^32: each is a timer of one shard, and its memory would run out long before.
fn index_u32(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(NIL)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Instant {
        Instant::from_nanos(micros * 1_000)
    }

    /// Inserts the deadlines, advances to each time in turn, and says what fired at which.
    fn fired(deadlines_us: &[u64], turns_us: &[u64]) -> Vec<(u64, Vec<u64>)> {
        let mut wheel = Wheel::new(at(0));
        for &deadline in deadlines_us {
            wheel.insert(at(deadline), deadline);
        }
        let mut rows = Vec::new();
        for &turn in turns_us {
            let mut row = Vec::new();
            wheel.advance(at(turn), |deadline| row.push(deadline));
            row.sort_unstable();
            rows.push((turn, row));
        }
        rows
    }

    #[test]
    fn never_early_and_at_most_a_tick_late() {
        assert_eq!(
            fired(&[2_500], &[2_499, 2_999, 3_000]),
            [(2_499, vec![]), (2_999, vec![]), (3_000, vec![2_500])]
        );
        assert_eq!(
            fired(&[3_000], &[2_999, 3_000]),
            [(2_999, vec![]), (3_000, vec![3_000])]
        );
        assert_eq!(fired(&[0], &[999, 1_000]), [(999, vec![]), (1_000, vec![0])]);
    }

    #[test]
    fn far_entries_wait_their_turns_of_the_wheel() {
        assert_eq!(
            fired(
                &[5_000, 1_029_000, 60_000_000],
                &[5_000, 1_028_999, 1_029_000, 59_999_000, 60_000_000]
            ),
            [
                (5_000, vec![5_000]),
                (1_028_999, vec![]),
                (1_029_000, vec![1_029_000]),
                (59_999_000, vec![]),
                (60_000_000, vec![60_000_000])
            ]
        );
    }

    #[test]
    fn a_long_pause_loses_nothing() {
        let deadlines: Vec<u64> = (1..5_000).map(|ms| ms * 1_000).collect();
        assert_eq!(
            fired(&deadlines, &[10_000_000]),
            [(10_000_000, deadlines.clone())]
        );
    }

    #[test]
    fn removed_entries_do_not_fire_and_old_keys_are_dead() {
        let mut wheel = Wheel::new(at(0));
        let first = wheel.insert(at(5_000), "first");
        let second = wheel.insert(at(5_000), "second");
        let third = wheel.insert(at(5_000), "third");
        assert_eq!(wheel.remove(second), Some("second"));
        assert_eq!(wheel.remove(second), None);
        let reused = wheel.insert(at(9_000), "reused");
        assert_eq!(
            wheel.remove(second),
            None,
            "the slot's new owner is safe from the old key"
        );
        let mut seen = Vec::new();
        wheel.advance(at(5_000), |name| seen.push(name));
        seen.sort_unstable();
        assert_eq!(seen, ["first", "third"]);
        assert_eq!(wheel.remove(first), None);
        assert_eq!(wheel.remove(third), None);
        assert_eq!(wheel.remove(reused), Some("reused"));
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn next_deadline_is_never_late() {
        let mut wheel = Wheel::new(at(0));
        assert_eq!(wheel.next_deadline(), None);
        wheel.insert(at(700_000), ());
        assert_eq!(wheel.next_deadline(), Some(at(700_000)));
        wheel.insert(at(2_100), ());
        assert_eq!(wheel.next_deadline(), Some(at(3_000)));
        wheel.advance(at(3_000), |()| ());
        assert_eq!(wheel.next_deadline(), Some(at(700_000)));
        wheel.advance(at(699_000), |()| ());
        assert_eq!(wheel.next_deadline(), Some(at(700_000)));
        wheel.advance(at(700_000), |()| ());
        wheel.insert(at(5_000_000), ());
        let next = wheel.next_deadline().unwrap();
        assert!(next <= at(5_000_000) && next > at(700_000));
    }

    #[test]
    fn agrees_with_a_sorted_list() {
        // The slow twin: a Vec of (due tick, id), fired by filtering.
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = |below: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % below
        };
        let mut wheel = Wheel::new(at(0));
        let mut twin: Vec<(u64, u64, Key)> = Vec::new();
        let (mut clock_us, mut id) = (0_u64, 0_u64);
        for _ in 0..20_000 {
            match random(4) {
                0 | 1 => {
                    let deadline = clock_us + random(3_000_000);
                    let key = wheel.insert(at(deadline), id);
                    twin.push((deadline.div_ceil(1_000).max(clock_us / 1_000 + 1), id, key));
                    id += 1;
                }
                2 if !twin.is_empty() => {
                    let index = usize::try_from(random(twin.len() as u64)).unwrap();
                    let (_, id, key) = twin.swap_remove(index);
                    assert_eq!(wheel.remove(key), Some(id));
                }
                _ => {
                    clock_us += random(20_000);
                    let mut got = Vec::new();
                    wheel.advance(at(clock_us), |id| got.push(id));
                    got.sort_unstable();
                    let mut want: Vec<u64> = twin
                        .iter()
                        .filter(|(tick, ..)| *tick <= clock_us / 1_000)
                        .map(|(_, id, _)| *id)
                        .collect();
                    want.sort_unstable();
                    twin.retain(|(tick, ..)| *tick > clock_us / 1_000);
                    assert_eq!(got, want);
                }
            }
            assert_eq!(wheel.len(), twin.len());
            let earliest = twin.iter().map(|(tick, ..)| *tick * 1_000).min();
            assert_eq!(wheel.next_deadline().is_some(), earliest.is_some());
            if let (Some(next), Some(earliest)) = (wheel.next_deadline(), earliest) {
                assert!(next <= at(earliest));
                assert!(next > at(clock_us));
            }
        }
    }
}
