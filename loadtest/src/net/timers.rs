//! A timer wheel for millions of timers that all fire: no cancelling, constant cost to set and to take. Reads
//! no clock. Times are rounded to the *nearest* point of the grid, so rounding adds no bias to a latency.

use std::time::{Duration, Instant};

/// Values, each with the time when it is due.
///
/// Two levels. The near one has a slot for each of the next 4,096 grid points (205 ms of a 50 us grid). The
/// far one has slots that wide and reaches 1,024 of them (3.5 minutes); a slot is spread over the near level
/// when its time comes. Anything later waits in the farthest slot and is looked at again then.
#[derive(Debug)]
pub struct Timers<T> {
    epoch: Instant,
    grid_ns: u64,
    /// The first grid point not yet taken. Its far slot has been spread already.
    cursor: u64,
    len: usize,
    near: Box<[Vec<T>]>,
    /// One bit per near slot that is not empty.
    occupied: [u64; NEAR_WORDS],
    far: Box<[Vec<(u64, T)>]>,
}

const NEAR: u64 = 4096;
const NEAR_WORDS: usize = 64;
const FAR: u64 = 1024;

impl<T> Timers<T> {
    /// An empty wheel. `grid` is the precision: a value is taken at most half of it early and half of it
    /// late, plus however late [`Timers::take_due`] is called.
    pub fn new(now: Instant, grid: Duration) -> Self {
        Self {
            epoch: now,
            grid_ns: u64::try_from(grid.as_nanos()).unwrap_or(u64::MAX).max(1),
            cursor: 0,
            len: 0,
            near: (0..NEAR).map(|_| Vec::new()).collect(),
            occupied: [0; NEAR_WORDS],
            far: (0..FAR).map(|_| Vec::new()).collect(),
        }
    }

    /// Values waiting.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a value. One that is due already is taken at the next grid point.
    pub fn insert(&mut self, due: Instant, value: T) {
        let tick = self.ns_since_epoch(due).saturating_add(self.grid_ns / 2) / self.grid_ns;
        self.len += 1;
        self.place(tick.max(self.cursor), value);
    }

    /// When to call [`Timers::take_due`] next, `None` when nothing waits. May be early (there is then nothing
    /// to take and a later answer), never late.
    pub fn next_due(&self) -> Option<Instant> {
        if self.is_empty() {
            return None;
        }
        let block_end = (self.cursor / NEAR + 1) * NEAR;
        let tick = self.next_occupied().unwrap_or(block_end);
        Some(self.epoch + Duration::from_nanos(tick.saturating_mul(self.grid_ns)))
    }

    /// Takes one value that is due, in the order of grid points; in no particular order within one.
    pub fn take_due(&mut self, now: Instant) -> Option<T> {
        let now_tick = self.ns_since_epoch(now) / self.grid_ns;
        if self.is_empty() {
            self.cursor = self.cursor.max(now_tick + 1);
            return None;
        }
        while self.cursor <= now_tick {
            let slot = slot_of(self.cursor, NEAR);
            if let Some(value) = self.near[slot].pop() {
                if self.near[slot].is_empty() {
                    self.occupied[slot / 64] &= !(1 << (slot % 64));
                }
                self.len -= 1;
                return Some(value);
            }
            let block_end = (self.cursor / NEAR + 1) * NEAR;
            let next = self.next_occupied().unwrap_or(block_end);
            self.advance(next.min(now_tick + 1));
        }
        None
    }

    fn advance(&mut self, tick: u64) {
        self.cursor = tick;
        if tick.is_multiple_of(NEAR) {
            let slot = slot_of(tick / NEAR, FAR);
            let mut waiting = std::mem::take(&mut self.far[slot]);
            for (tick, value) in waiting.drain(..) {
                self.place(tick, value);
            }
            // The slot keeps its capacity unless what was spread came to rest in it again.
            if self.far[slot].is_empty() {
                self.far[slot] = waiting;
            }
        }
    }

    fn place(&mut self, tick: u64, value: T) {
        if tick - self.cursor < NEAR {
            let slot = slot_of(tick, NEAR);
            self.near[slot].push(value);
            self.occupied[slot / 64] |= 1 << (slot % 64);
        } else {
            let farthest = self.cursor / NEAR + FAR - 1;
            self.far[slot_of((tick / NEAR).min(farthest), FAR)].push((tick, value));
        }
    }

    /// The next occupied grid point in the cursor's block: the near level beyond it belongs to the next
    /// block.
    fn next_occupied(&self) -> Option<u64> {
        let from = slot_of(self.cursor, NEAR);
        let block = self.cursor - self.cursor % NEAR;
        let first = self.occupied[from / 64] & (u64::MAX << (from % 64));
        let words = std::iter::once(first).chain(self.occupied[from / 64 + 1..].iter().copied());
        let (offset, word) = words.enumerate().find(|(_, word)| *word != 0)?;
        Some(block + ((from / 64 + offset) * 64) as u64 + u64::from(word.trailing_zeros()))
    }

    fn ns_since_epoch(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.epoch).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Slots are far fewer than `usize::MAX` on any machine.
#[expect(clippy::cast_possible_truncation)]
fn slot_of(tick: u64, slots: u64) -> usize {
    (tick % slots) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRID: Duration = Duration::from_micros(50);

    /// Each row: when a value is due and when it may be taken at the earliest, in microseconds.
    #[test]
    fn values_are_due_at_the_nearest_grid_point() {
        let epoch = Instant::now();
        for (due_us, taken_us) in [
            (0, 0),
            (24, 0),
            (26, 50),
            (74, 50),
            (76, 100),
            (1_000_010, 1_000_000),
        ] {
            let mut timers = Timers::new(epoch, GRID);
            timers.insert(epoch + Duration::from_micros(due_us), ());
            let taken = epoch + Duration::from_micros(taken_us);
            if taken_us > 0 {
                assert_eq!(
                    timers.take_due(taken - Duration::from_nanos(1)),
                    None,
                    "{due_us} too early"
                );
            }
            assert_eq!(timers.take_due(taken), Some(()), "{due_us}");
            assert!(timers.is_empty());
        }
    }

    #[test]
    fn next_due_leads_to_every_value_and_is_never_late() {
        let epoch = Instant::now();
        let mut timers = Timers::new(epoch, GRID);
        for due_ms in [3, 204, 205, 206, 700, 209_000, 400_000, 1_000_000] {
            timers.insert(epoch + Duration::from_millis(due_ms), due_ms);
        }
        let mut taken = Vec::new();
        while let Some(now) = timers.next_due() {
            while let Some(due_ms) = timers.take_due(now) {
                assert_eq!(now, epoch + Duration::from_millis(due_ms));
                taken.push(due_ms);
            }
        }
        assert_eq!(taken, [3, 204, 205, 206, 700, 209_000, 400_000, 1_000_000]);
    }

    /// The wheel against a sorted list, with values added while time moves in jumps of all sizes.
    #[test]
    fn agrees_with_a_sorted_list() {
        let epoch = Instant::now();
        let mut timers = Timers::new(epoch, GRID);
        let mut list: Vec<(u64, u64)> = Vec::new();
        let (mut random, mut now_us) = (12345_u64, 0_u64);
        let mut draw = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        for n in 0..20_000 {
            let spread = [100, 10_000, 1_000_000, 300_000_000][usize::try_from(draw(4)).unwrap_or(0)];
            let due_us = now_us + draw(spread);
            timers.insert(epoch + Duration::from_micros(due_us), n);
            list.push(((due_us + 25) / 50 * 50, n));
            let jump = [10, 1_000, 500_000][usize::try_from(draw(3)).unwrap_or(0)];
            now_us += draw(jump);
            // Values set for a point already passed are due at the next one.
            let passed = now_us / 50 * 50;
            let mut expected: Vec<u64> = list
                .extract_if(.., |(due, _)| *due <= passed)
                .map(|(_, n)| n)
                .collect();
            let now = epoch + Duration::from_micros(now_us);
            let mut taken: Vec<u64> = std::iter::from_fn(|| timers.take_due(now)).collect();
            if expected.contains(&n) && !taken.contains(&n) {
                expected.retain(|e| *e != n);
                list.push((passed + 50, n));
            }
            expected.sort_unstable();
            taken.sort_unstable();
            assert_eq!(taken, expected, "step {n} at {now_us} us");
        }
        assert_eq!(timers.len(), list.len());
    }
}
