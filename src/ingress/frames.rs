//! Reads along the frames that an SSP sends over HTTP/2, their heads only, and keeps account of what they are good for:
//! hyper answers PING, SETTINGS, WINDOW_UPDATE and PRIORITY without end, and takes back as many requests as are sent.
//! Never changes or withholds a byte.

use std::time::Duration;

use crate::clock::Instant;
use crate::telemetry::ConnectionEnd;

/// Length, type, flags, stream (RFC 9113 §4.1).
const HEAD_BYTES: usize = 9;
const PREFACE_BYTES: u32 = 24;

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const RST_STREAM: u8 = 3;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ENHANCE_YOUR_CALM: u32 = 11;

/// A new request pays for this many frames that ask for nothing. A client sends two WINDOW_UPDATEs for each 16 kB of an
/// answer, and a PING now and then; 32 such frames cost us less than a tenth of the request.
const FRAMES_PER_REQUEST: i64 = 32;

/// What may have been saved up, and what is given without a request: a burst of 2,000 costs a quarter of a millisecond,
/// and 200/s is nothing.
const FRAMES_MAX: i64 = 2_000;
const FRAMES_PER_SECOND: i64 = 200;

/// A body comes in frames of 16 kB, and last what is left. Less before the end is a way to have us read many frames.
const DATA_BYTES_MIN: u32 = 64;

/// Each 64 bytes of a head cost as much as a frame. 2 kB are paid for by the request; one of 16 kB, which can hold 15,000
/// references to an entry of the table and takes a millisecond to unpack, is not, and ten of them are a flood.
const BYTES_PER_FRAME: u32 = 64;

/// In halves of a reset. Each reset request has cost 23 calls to DSPs all the same, so taking back every other one is
/// no use of an exchange: more than that is paid for out of 1,000 saved up and 100/s.
const HALVES_PER_RESET: i64 = 2;
const HALVES_PER_REQUEST: i64 = 1;
const HALVES_MAX: i64 = 2_000;
const HALVES_PER_SECOND: i64 = 200;

/// Of one connection.
#[derive(Debug)]
pub(super) struct Frames {
    head: [u8; HEAD_BYTES],
    head_read: usize,
    /// Payload still to come.
    skip: u32,
    /// Between a HEADERS frame and the end of its block nothing else may come.
    in_block: bool,
    last_stream: u32,
    idle_talk: Allowance,
    resets: Allowance,
}

impl Frames {
    /// Of a connection that is made now, from its preface on.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            head: [0; HEAD_BYTES],
            head_read: 0,
            skip: PREFACE_BYTES,
            in_block: false,
            last_stream: 0,
            idle_talk: Allowance::new(FRAMES_MAX, FRAMES_PER_SECOND, now),
            resets: Allowance::new(HALVES_MAX, HALVES_PER_SECOND, now),
        }
    }

    /// The next bytes, wherever they begin and end.
    ///
    /// # Errors
    /// What they are too much of.
    pub(super) fn read(&mut self, mut bytes: &[u8], now: impl Fn() -> Instant) -> Result<(), ConnectionEnd> {
        loop {
            let skipped = (self.skip as usize).min(bytes.len());
            // At most `skip`, which is 32 bits wide.
            self.skip -= u32::try_from(skipped).unwrap_or(u32::MAX);
            bytes = &bytes[skipped..];
            let wanted = HEAD_BYTES - self.head_read;
            let Some((rest_of_head, after)) = bytes.split_at_checked(wanted) else {
                self.head[self.head_read..][..bytes.len()].copy_from_slice(bytes);
                self.head_read += bytes.len();
                return Ok(());
            };
            self.head[self.head_read..].copy_from_slice(rest_of_head);
            self.head_read = 0;
            bytes = after;
            self.frame(&now)?;
        }
    }

    /// Whether nothing of a frame or of a block of headers is left to come.
    pub(super) fn is_whole(&self) -> bool {
        self.head_read == 0 && self.skip == 0 && !self.in_block
    }

    /// Tells the peer to calm down, and in words why. Requests up to the last one seen may have been dealt with.
    pub(super) fn goaway(&self, why: &str) -> Vec<u8> {
        let length = u8::try_from(8 + why.len()).unwrap_or(8);
        let mut frame = vec![0, 0, length, kind::GOAWAY, 0, 0, 0, 0, 0];
        frame.extend(self.last_stream.to_be_bytes());
        frame.extend(ENHANCE_YOUR_CALM.to_be_bytes());
        frame.extend(why.as_bytes());
        frame.truncate(HEAD_BYTES + usize::from(length));
        frame
    }

    fn frame(&mut self, now: &impl Fn() -> Instant) -> Result<(), ConnectionEnd> {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = self.head;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
        self.skip = length;
        let mut costs = 1;
        match kind {
            kind::DATA if length >= DATA_BYTES_MIN || flags & END_STREAM != 0 => return Ok(()),
            kind::HEADERS | kind::CONTINUATION => {
                self.in_block = flags & END_HEADERS == 0;
                costs += i64::from(length / BYTES_PER_FRAME);
                if kind == kind::HEADERS && stream > self.last_stream {
                    self.last_stream = stream;
                    self.resets.earn(HALVES_PER_REQUEST);
                    self.idle_talk.earn(FRAMES_PER_REQUEST);
                }
            }
            kind::RST_STREAM if !self.resets.spend(HALVES_PER_RESET, now) => {
                return Err(ConnectionEnd::Resets);
            }
            _ => {}
        }
        if self.idle_talk.spend(costs, now) {
            Ok(())
        } else {
            Err(ConnectionEnd::Flood)
        }
    }
}

/// What may be spent: saved up to a limit, and more with time. The clock is only asked when nothing is left.
#[derive(Debug)]
struct Allowance {
    left: i64,
    max: i64,
    per_second: i64,
    filled_at: Instant,
}

impl Allowance {
    fn new(max: i64, per_second: i64, now: Instant) -> Self {
        Self {
            left: max,
            max,
            per_second,
            filled_at: now,
        }
    }

    fn earn(&mut self, amount: i64) {
        self.left = (self.left + amount).min(self.max);
    }

    /// False when there is not that much.
    fn spend(&mut self, amount: i64, now: &impl Fn() -> Instant) -> bool {
        self.left -= amount;
        if self.left >= 0 {
            return true;
        }
        let now = now();
        let waited_ms = now.since(self.filled_at).as_millis();
        let waited_ms = i64::try_from(waited_ms).unwrap_or(i64::MAX);
        let given = self.per_second.saturating_mul(waited_ms) / 1_000;
        // Time that was not enough for one more is not lost.
        let paid_ms = u64::try_from(given * 1_000 / self.per_second).unwrap_or(0);
        self.filled_at = self.filled_at.after(Duration::from_millis(paid_ms));
        self.left = self.left.saturating_add(given).min(self.max);
        self.left >= 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RST: u8 = kind::RST_STREAM;
    const PING: u8 = 6;
    const SETTINGS: u8 = 4;
    const WINDOW_UPDATE: u8 = 8;

    fn frame(kind: u8, flags: u8, stream: u32, payload: usize) -> Vec<u8> {
        let length = u32::try_from(payload).unwrap().to_be_bytes();
        let mut frame = vec![length[1], length[2], length[3], kind, flags];
        frame.extend(stream.to_be_bytes());
        frame.resize(HEAD_BYTES + payload, 0);
        frame
    }

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    /// A connection whose preface has come, at 0.
    fn frames() -> Frames {
        let mut frames = Frames::new(at(0));
        assert_eq!(frames.read(&[0; 24], || at(0)), Ok(()));
        assert!(frames.is_whole());
        frames
    }

    /// How often `round(n)` is let through, `ms` apart from each other, up to 100,000 times.
    fn count(ms: u64, round: impl Fn(u32) -> Vec<u8>) -> (u32, Option<ConnectionEnd>) {
        let mut frames = frames();
        for n in 0..100_000 {
            let time = at(u64::from(n) * ms);
            if let Err(end) = frames.read(&round(n), || time) {
                return (n, Some(end));
            }
        }
        (100_000, None)
    }

    fn request(n: u32, head: usize) -> Vec<u8> {
        [
            frame(kind::HEADERS, END_HEADERS, 2 * n + 1, head),
            frame(kind::DATA, END_STREAM, 2 * n + 1, 500),
        ]
        .concat()
    }

    #[test]
    fn what_asks_for_nothing_is_bounded() {
        let flood = Some(ConnectionEnd::Flood);
        for kind in [PING, SETTINGS, WINDOW_UPDATE, 2, 99, kind::CONTINUATION] {
            assert_eq!(count(0, |_| frame(kind, 4, 0, 8)), (2_000, flood), "{kind}");
            assert_eq!(count(5, |_| frame(kind, 4, 0, 8)).1, None, "{kind}: 200/s");
            // 50/s more than are given: 2,000 last for 40 s.
            assert_eq!(
                count(4, |_| frame(kind, 4, 0, 8)),
                (9_996, flood),
                "{kind}: 250/s"
            );
        }
        assert_eq!(count(0, |_| frame(kind::DATA, 0, 1, 0)), (2_000, flood), "empty");
        assert_eq!(count(0, |_| frame(kind::DATA, 0, 1, 63)), (2_000, flood), "small");
        assert_eq!(count(0, |_| frame(kind::DATA, 0, 1, 64)).1, None, "not so small");
    }

    #[test]
    fn requests_pay_for_what_goes_with_them() {
        let with = |updates: usize| {
            move |n| [request(n, 300), frame(WINDOW_UPDATE, 0, 0, 4).repeat(updates)].concat()
        };
        assert_eq!(count(0, with(27)).1, None);
        assert_eq!(count(0, with(28)), (1_968, Some(ConnectionEnd::Flood)));
        // Trailers are no new request.
        let again = |_| frame(kind::HEADERS, END_HEADERS, 1, 0);
        assert_eq!(count(0, again).1, Some(ConnectionEnd::Flood));
    }

    #[test]
    fn large_heads_are_paid_for() {
        assert_eq!(count(0, |n| request(n, 2_000)).1, None);
        assert_eq!(count(0, |n| request(n, 16_384)), (8, Some(ConnectionEnd::Flood)));
    }

    #[test]
    fn taking_back_is_bounded() {
        let resets = Some(ConnectionEnd::Resets);
        let taken_back = |every: u32| {
            move |n| {
                let mut bytes = request(n, 300);
                if n % every == 0 {
                    bytes.extend(frame(RST, 0, 2 * n + 1, 4));
                }
                bytes
            }
        };
        assert_eq!(count(0, taken_back(1)), (1_999, resets));
        assert_eq!(count(0, taken_back(2)).1, None, "every other one");
        assert_eq!(count(5, taken_back(1)).1, None, "all, 200/s");
        assert_eq!(count(0, |n| frame(RST, 0, 2 * n + 1, 4)), (1_000, resets));
    }

    #[test]
    fn bytes_may_come_in_any_pieces() {
        let all: Vec<u8> = (0..50).flat_map(|n| request(n, 40 + n as usize)).collect();
        for piece in [1, 2, 7, 9, 10, 100, 5_000] {
            let mut frames = frames();
            for bytes in all.chunks(piece) {
                frames.read(bytes, || at(0)).unwrap();
            }
            assert!(frames.is_whole(), "{piece}");
            assert_eq!(frames.last_stream, 99, "{piece}");
        }
        let mut frames = frames();
        frames.read(&all[..8], || at(0)).unwrap();
        assert!(!frames.is_whole(), "half a head");
        frames.read(&all[8..20], || at(0)).unwrap();
        assert!(!frames.is_whole(), "half a payload");
        frames.read(&all[20..49], || at(0)).unwrap();
        assert!(frames.is_whole());
        frames.read(&frame(kind::HEADERS, 0, 201, 10), || at(0)).unwrap();
        assert!(!frames.is_whole(), "half a block");
        frames
            .read(&frame(kind::CONTINUATION, END_HEADERS, 201, 10), || at(0))
            .unwrap();
        assert!(frames.is_whole());
        assert_eq!(
            frames.goaway("flood"),
            b"\0\0\x0d\x07\0\0\0\0\0\0\0\0\xc9\0\0\0\x0bflood"
        );
    }
}
