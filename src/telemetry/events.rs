//! A shard's end of the event log: whole lines into a buffer of its own, full buffers to the thread that writes files,
//! empty ones home. Knows nothing of what a line says. Never waits: when every buffer is away, lines are dropped and
//! counted, and the bid request goes on.

use std::cell::{Cell, RefCell};
use std::fmt;

use crossbeam::channel::{Receiver, Sender, bounded};

/// A buffer travels when it holds this much; a line of an auction with 23 DSPs has 2 to 3 kB.
const BUFFER_BYTES: usize = 128 << 10;

/// A line that makes a buffer larger than this is the last of it; the memory is freed, not kept.
const BUFFER_BYTES_KEPT: usize = 256 << 10;

/// Buffers of a shard: 16 MB, a second of a disk that stands still while every one of 6,000 auctions a second is
/// logged, and two minutes at 1 in 100. Memory is taken as it is needed.
const BUFFERS: usize = 128;

/// Lines on their way to the file.
#[derive(Debug)]
pub struct Chunk {
    /// Whole lines.
    pub bytes: Vec<u8>,
    /// How many.
    pub lines: u64,
    home: Sender<Vec<u8>>,
}

impl Chunk {
    /// Sends the memory home.
    pub fn recycle(mut self) {
        self.bytes.clear();
        // The shard is gone, or has as many as it may have: then the memory is freed.
        let _gone = self.home.try_send(self.bytes);
    }
}

/// Makes the shards' ends; any thread may hold one. When all are gone the writer has read all there is.
#[derive(Debug, Clone)]
pub struct EventSource {
    chunks: Sender<Chunk>,
    one_in: u64,
}

impl EventSource {
    /// For up to `shards` shards, of every `one_in`th bid request. The second is for the thread that writes.
    pub fn new(shards: usize, one_in: u64) -> (Self, Receiver<Chunk>) {
        // Every buffer of every shard, so that sending one never fails while the writer lives.
        let (chunks, to_write) = bounded(BUFFERS * shards.max(1));
        (Self { chunks, one_in }, to_write)
    }

    /// A shard's end. `unix_ahead_ns` is by how much the Unix epoch's clock is ahead of the monotonic one.
    pub fn event_log(&self, unix_ahead_ns: u64) -> EventLog {
        let (home, recycled) = bounded(BUFFERS);
        EventLog {
            source: self.clone(),
            home,
            recycled,
            current: RefCell::default(),
            away: Cell::new(0),
            dropped: Cell::new(0),
            unix_ahead_ns: Cell::new(unix_ahead_ns),
        }
    }
}

/// See the module's description.
pub struct EventLog {
    source: EventSource,
    home: Sender<Vec<u8>>,
    recycled: Receiver<Vec<u8>>,
    current: RefCell<Current>,
    /// Buffers that have been sent and are not back.
    away: Cell<usize>,
    dropped: Cell<u64>,
    unix_ahead_ns: Cell<u64>,
}

#[derive(Default)]
struct Current {
    bytes: Vec<u8>,
    lines: u64,
}

impl EventLog {
    /// Whether this bid request is one of those that are logged: the same everywhere, for all lines about it. `hash` is
    /// of its id.
    pub fn samples(&self, hash: u64) -> bool {
        hash.is_multiple_of(self.source.one_in)
    }

    /// One in how many bid requests is logged.
    pub fn one_in(&self) -> u64 {
        self.source.one_in
    }

    /// Nanoseconds since the Unix epoch at an instant of the monotonic clock.
    pub fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        monotonic_ns.saturating_add(self.unix_ahead_ns.get())
    }

    /// Has `write` append a line, with its end; or counts it as dropped.
    pub fn line(&self, write: impl FnOnce(&mut Vec<u8>)) {
        let mut current = self.current.borrow_mut();
        if current.bytes.len() >= BUFFER_BYTES && !self.send(&mut current) {
            self.dropped.set(self.dropped.get() + 1);
            return;
        }
        write(&mut current.bytes);
        current.lines += 1;
        if current.bytes.len() >= BUFFER_BYTES {
            self.send(&mut current);
        }
    }

    /// Sends what there is, full or not. To be called a few times a second; the clocks may have moved apart.
    pub fn hand_over(&self, unix_ahead_ns: u64) {
        self.unix_ahead_ns.set(unix_ahead_ns);
        let mut current = self.current.borrow_mut();
        if current.lines > 0 {
            self.send(&mut current);
        }
    }

    /// Lines dropped since this was asked last.
    pub fn take_dropped(&self) -> u64 {
        self.dropped.take()
    }

    /// False if no buffer is left to go on with; then the current one stays.
    fn send(&self, current: &mut Current) -> bool {
        let Some(mut next) = self.empty() else {
            return false;
        };
        if next.capacity() > BUFFER_BYTES_KEPT {
            next = Vec::new();
        }
        let chunk = Chunk {
            bytes: std::mem::replace(&mut current.bytes, next),
            lines: std::mem::take(&mut current.lines),
            home: self.home.clone(),
        };
        if let Err(unsent) = self.source.chunks.try_send(chunk) {
            // The writer is gone, or shards were started again while their buffers were still away.
            let chunk = unsent.into_inner();
            (current.bytes, current.lines) = (chunk.bytes, chunk.lines);
            return false;
        }
        self.away.set(self.away.get() + 1);
        true
    }

    fn empty(&self) -> Option<Vec<u8>> {
        if let Ok(bytes) = self.recycled.try_recv() {
            self.away.set(self.away.get() - 1);
            return Some(bytes);
        }
        // One stays here.
        (self.away.get() + 1 < BUFFERS).then(|| Vec::with_capacity(BUFFER_BYTES + BUFFER_BYTES / 8))
    }
}

/// What is there is handed over.
impl Drop for EventLog {
    fn drop(&mut self) {
        self.hand_over(self.unix_ahead_ns.get());
    }
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog")
            .field("away", &self.away)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(log: &EventLog, number: u32) {
        log.line(|out| out.extend_from_slice(format!("{number:0>999}\n").as_bytes()));
    }

    fn lines(chunks: &Receiver<Chunk>) -> Vec<u32> {
        let mut all = String::new();
        for chunk in chunks.try_iter() {
            assert!(chunk.bytes.ends_with(b"\n"));
            let text = String::from_utf8(chunk.bytes.clone()).unwrap();
            assert_eq!(text.lines().count() as u64, chunk.lines);
            all.push_str(&text);
            chunk.recycle();
        }
        all.lines().map(|line| line.parse().unwrap()).collect()
    }

    #[test]
    fn every_line_arrives_once_and_in_order() {
        let (source, chunks) = EventSource::new(1, 1);
        let log = source.event_log(0);
        let mut read = Vec::new();
        for number in 0..100_000 {
            write(&log, number);
            if number % 1_000 == 0 {
                read.extend(lines(&chunks));
            }
            if number % 7_777 == 0 {
                log.hand_over(0);
            }
        }
        drop(log);
        read.extend(lines(&chunks));
        assert_eq!(read, (0..100_000).collect::<Vec<_>>());
    }

    #[test]
    fn what_nobody_writes_is_dropped_and_counted() {
        let (source, chunks) = EventSource::new(1, 1);
        let log = source.event_log(0);
        let room = 128 * 132; // buffers, and lines of 1,000 bytes in each of 131,072
        for number in 0..room + 100 {
            write(&log, number);
        }
        assert_eq!(log.take_dropped(), 100);
        assert_eq!(log.take_dropped(), 0);
        let read = lines(&chunks);
        assert_eq!(read, (0..127 * 132).collect::<Vec<_>>());
        // And then it goes on.
        write(&log, 7);
        log.hand_over(0);
        let read = lines(&chunks);
        assert_eq!(read.len(), 133);
        assert_eq!(read.last(), Some(&7));
    }

    #[test]
    fn one_in_so_many() {
        let (source, _chunks) = EventSource::new(1, 100);
        let log = source.event_log(5);
        assert_eq!((0..10_000).filter(|&hash| log.samples(hash)).count(), 100);
        assert_eq!(log.unix_ns(7), 12);
    }
}
