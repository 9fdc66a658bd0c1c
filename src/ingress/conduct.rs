//! How an SSP behaves on one connection: whether it finishes what it begins, takes its answers and, over HTTP/2, asks for
//! something with what it sends. Decides when the connection ends for that; never touches a socket or a timer.
//!
//! An orderly request costs here a few flags. The clock is only looked at when a connection has nothing more to do for
//! now and something is left unfinished.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use super::Options;
use super::frames::Frames;
use crate::clock::{Instant, Timers};
use crate::net::Overseer;
use crate::telemetry::ConnectionEnd;

/// How long an SSP may take for what.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// From the first byte of a head or a frame to its last.
    pub(super) read: Duration,
    /// From an answer to its last byte sent. It is noticed after this, or after up to twice as long.
    pub(super) write: Duration,
    /// Without a request.
    pub(super) idle: Duration,
}

impl Patience {
    pub(super) fn of(options: &Options) -> Self {
        Self {
            read: options.read_timeout,
            write: options.write_timeout,
            idle: options.idle_timeout,
        }
    }
}

/// One connection's.
#[derive(Debug)]
pub(super) struct Conduct {
    patience: Patience,
    end: Cell<Option<ConnectionEnd>>,
    /// Requests that were not answered yet.
    in_flight: Cell<u32>,
    /// Since there is no request.
    idle: Cell<Since>,
    /// It was told to finish and go.
    is_leaving: Cell<bool>,
    /// Since there is half of a head or a frame.
    half: Cell<Since>,
    /// Answers with a body that has not left us, by generation. What is left of the older one when the younger becomes
    /// it has been there for `patience.write` at least.
    unsent: [Cell<u32>; 2],
    younger: Cell<usize>,
    /// When that one began.
    generation: Cell<Since>,
}

/// A moment that is written down at the next look, as most are over before there is one.
#[derive(Debug, Clone, Copy)]
enum Since {
    Never,
    LastLook,
    At(Instant),
}

impl Since {
    fn as_of(cell: &Cell<Self>, now: Instant) -> Option<Instant> {
        match cell.get() {
            Self::Never => None,
            Self::LastLook => {
                cell.set(Self::At(now));
                Some(now)
            }
            Self::At(since) => Some(since),
        }
    }
}

impl Conduct {
    pub(super) fn new(patience: Patience) -> Rc<Self> {
        Rc::new(Self {
            patience,
            end: Cell::new(None),
            in_flight: Cell::new(0),
            idle: Cell::new(Since::LastLook),
            is_leaving: Cell::new(false),
            half: Cell::new(Since::Never),
            unsent: [Cell::new(0), Cell::new(0)],
            younger: Cell::new(0),
            generation: Cell::new(Since::Never),
        })
    }

    /// Why it must end, once it must.
    pub(super) fn end(&self) -> Option<ConnectionEnd> {
        self.end.get()
    }

    /// It must end, for this reason if there is none yet.
    pub(super) fn must_end(&self, end: ConnectionEnd) {
        self.end.set(Some(self.end.get().unwrap_or(end)));
    }

    /// It was told that it will be closed: now it has no longer for that than for a request.
    pub(super) fn is_told_to_go(&self) {
        self.is_leaving.set(true);
        self.idle.set(Since::LastLook);
    }

    /// A request has come.
    pub(super) fn begins(&self) {
        self.in_flight.set(self.in_flight.get() + 1);
    }

    /// It is answered, or needs no answer any more.
    pub(super) fn ends(&self, now: Option<Instant>) {
        self.in_flight.set(self.in_flight.get() - 1);
        self.idle.set(now.map_or(Since::LastLook, Since::At));
    }

    /// An answer with a body is on its way, until what is returned is dropped.
    pub(super) fn owes(self: &Rc<Self>) -> Owed {
        let generation = self.younger.get();
        let unsent = &self.unsent[generation];
        unsent.set(unsent.get() + 1);
        Owed {
            conduct: Rc::clone(self),
            generation,
        }
    }

    /// Of HTTP/1.1, where between requests there is nothing but the next head.
    fn has_begun_a_head(&self) {
        if self.in_flight.get() == 0 && matches!(self.half.get(), Since::Never) {
            self.half.set(Since::LastLook);
        }
    }

    /// Of HTTP/1.1: the head is whole.
    pub(super) fn has_finished_a_head(&self) {
        self.half.set(Since::Never);
    }

    /// Of HTTP/2, after each read.
    fn has_half_a_frame(&self, half: bool) {
        match (half, self.half.get()) {
            (false, _) => self.half.set(Since::Never),
            (true, Since::Never) => self.half.set(Since::LastLook),
            (true, _) => {}
        }
    }

    fn owed(&self) -> u32 {
        self.unsent[0].get() + self.unsent[1].get()
    }

    /// Whether something is unfinished that no look has seen yet.
    pub(super) fn wants_a_look(&self) -> bool {
        matches!(self.half.get(), Since::LastLook)
            || self.is_leaving.get() && matches!(self.idle.get(), Since::LastLook)
            || self.owed() > 0 && matches!(self.generation.get(), Since::Never)
    }

    /// When to look again.
    ///
    /// # Errors
    /// Why the connection is to end.
    pub(super) fn look(&self, now: Instant) -> Result<Instant, ConnectionEnd> {
        let taken = self.look_at_answers(now)?;
        let read = match Since::as_of(&self.half, now) {
            Some(since) => later(since, self.patience.read, now).ok_or(ConnectionEnd::Slow)?,
            None => Instant::FAR_FUTURE,
        };
        let wait = if self.is_leaving.get() {
            self.patience.read
        } else {
            self.patience.idle
        };
        let is_idle = self.in_flight.get() == 0 && self.owed() == 0;
        let used = match Since::as_of(&self.idle, now) {
            Some(since) if is_idle => later(since, wait, now).ok_or(ConnectionEnd::Idle)?,
            _ => now.after(wait),
        };
        Ok(read.min(taken).min(used))
    }

    fn look_at_answers(&self, now: Instant) -> Result<Instant, ConnectionEnd> {
        if self.owed() == 0 {
            self.generation.set(Since::Never);
            return Ok(Instant::FAR_FUTURE);
        }
        if matches!(self.generation.get(), Since::Never) {
            self.generation.set(Since::LastLook);
        }
        let began = Since::as_of(&self.generation, now).unwrap_or(now);
        if let Some(due) = later(began, self.patience.write, now) {
            return Ok(due);
        }
        let older = 1 - self.younger.get();
        if self.unsent[older].get() > 0 {
            return Err(ConnectionEnd::Unread);
        }
        self.younger.set(older);
        self.generation.set(Since::At(now));
        Ok(now.after(self.patience.write))
    }
}

/// `wait` after `since`, if that is later than `now`.
fn later(since: Instant, wait: Duration, now: Instant) -> Option<Instant> {
    let due = since.after(wait);
    (due > now).then_some(due)
}

/// An answer that has not left us.
#[derive(Debug)]
pub(super) struct Owed {
    conduct: Rc<Conduct>,
    generation: usize,
}

impl Drop for Owed {
    fn drop(&mut self) {
        let unsent = &self.conduct.unsent[self.generation];
        unsent.set(unsent.get() - 1);
    }
}

/// Reads along what comes in on a connection.
pub(super) struct Witness {
    conduct: Rc<Conduct>,
    /// Of HTTP/2.
    frames: Option<Frames>,
    timers: Rc<Timers>,
}

impl Witness {
    pub(super) fn of_h1(conduct: &Rc<Conduct>, timers: &Rc<Timers>) -> Self {
        Self {
            conduct: Rc::clone(conduct),
            frames: None,
            timers: Rc::clone(timers),
        }
    }

    pub(super) fn of_h2(conduct: &Rc<Conduct>, timers: &Rc<Timers>) -> Self {
        Self {
            frames: Some(Frames::new(timers.now())),
            ..Self::of_h1(conduct, timers)
        }
    }
}

impl Overseer for Witness {
    fn saw(&mut self, bytes: &[u8]) {
        let Some(frames) = &mut self.frames else {
            return self.conduct.has_begun_a_head();
        };
        let timers = &self.timers;
        if let Err(end) = frames.read(bytes, || timers.now()) {
            self.conduct.must_end(end);
        }
        self.conduct.has_half_a_frame(!frames.is_whole());
    }

    fn failed(&mut self, error: &io::Error) {
        self.conduct.must_end(of_io(error));
    }

    fn last_words(&mut self) -> Option<Vec<u8>> {
        let end = self.conduct.end()?;
        Some(match &self.frames {
            Some(frames) => frames.goaway(end.label()),
            None if end == ConnectionEnd::Slow => REQUEST_TIMEOUT.to_vec(),
            None => Vec::new(),
        })
    }
}

/// What a failed connection is counted as.
pub(super) fn of_io(error: &io::Error) -> ConnectionEnd {
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => ConnectionEnd::Reset,
        // The kernel's, see `HyperStream::set_unread_max`.
        io::ErrorKind::TimedOut => ConnectionEnd::Unread,
        _ => ConnectionEnd::Closed,
    }
}

/// What who is too slow with a head of HTTP/1.1 is told (RFC 9110 §15.5.9).
const REQUEST_TIMEOUT: &[u8] =
    b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Patience = Patience {
        read: Duration::from_millis(5_000),
        write: Duration::from_millis(10_000),
        idle: Duration::from_millis(75_000),
    };

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(1_000_000_000 + ms * 1_000_000)
    }

    /// A connection that was looked at at 0.
    fn conduct() -> Rc<Conduct> {
        let conduct = Conduct::new(PATIENCE);
        assert_eq!(conduct.look(at(0)), Ok(at(75_000)));
        conduct
    }

    #[test]
    fn who_asks_for_nothing_is_idle() {
        let conduct = conduct();
        assert_eq!(conduct.look(at(74_999)), Ok(at(75_000)));
        conduct.begins();
        assert_eq!(conduct.look(at(75_000)), Ok(at(150_000)), "it asks");
        conduct.ends(Some(at(80_000)));
        assert_eq!(conduct.look(at(150_000)), Ok(at(155_000)));
        assert_eq!(conduct.look(at(155_000)), Err(ConnectionEnd::Idle));
        // Who is told so has no more time to go than for a request.
        conduct.is_told_to_go();
        assert_eq!(conduct.look(at(155_000)), Ok(at(160_000)));
        assert_eq!(conduct.look(at(160_000)), Err(ConnectionEnd::Idle));
    }

    #[test]
    fn what_was_begun_must_be_finished() {
        let conduct = conduct();
        conduct.has_begun_a_head();
        assert!(conduct.wants_a_look());
        assert_eq!(conduct.look(at(100)), Ok(at(5_100)));
        // Another byte is no new beginning.
        conduct.has_begun_a_head();
        assert!(!conduct.wants_a_look());
        assert_eq!(conduct.look(at(5_099)), Ok(at(5_100)));
        assert_eq!(conduct.look(at(5_100)), Err(ConnectionEnd::Slow));

        conduct.has_finished_a_head();
        conduct.begins();
        // Bytes of its body, or of the next request.
        conduct.has_begun_a_head();
        assert!(!conduct.wants_a_look());

        conduct.has_half_a_frame(true);
        assert_eq!(conduct.look(at(6_000)), Ok(at(11_000)));
        conduct.has_half_a_frame(true);
        assert_eq!(conduct.look(at(11_000)), Err(ConnectionEnd::Slow));
        conduct.has_half_a_frame(false);
        assert!(conduct.look(at(11_000)).is_ok());
    }

    #[test]
    fn answers_must_be_taken() {
        let conduct = conduct();
        let first = conduct.owes();
        assert!(conduct.wants_a_look());
        assert_eq!(conduct.look(at(0)), Ok(at(10_000)));
        drop(first);
        assert!(!conduct.wants_a_look());
        // One that is made late in a generation has all its time.
        let second = conduct.owes();
        assert_eq!(conduct.look(at(10_000)), Ok(at(20_000)));
        let third = conduct.owes();
        drop(second);
        assert_eq!(conduct.look(at(20_000)), Ok(at(30_000)), "the third is younger");
        assert_eq!(conduct.look(at(29_999)), Ok(at(30_000)));
        assert_eq!(conduct.look(at(30_000)), Err(ConnectionEnd::Unread));
        drop(third);
        assert_eq!(conduct.owed(), 0);
        assert!(conduct.look(at(30_000)).is_ok());
    }

    #[test]
    fn an_answer_not_taken_is_not_idleness() {
        let conduct = conduct();
        conduct.begins();
        let answer = conduct.owes();
        conduct.ends(Some(at(1)));
        assert_eq!(conduct.look(at(74_000)), Ok(at(84_000)));
        assert_eq!(conduct.look(at(84_000)), Ok(at(94_000)), "not idle");
        drop(answer);
        assert_eq!(conduct.look(at(94_000)), Err(ConnectionEnd::Idle));
    }
}
