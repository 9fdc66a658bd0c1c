//! What one connection has to write: frames of its own, and between them bodies that it shares with other connections.
//! Nothing shared is copied before the kernel does.

use std::collections::VecDeque;
use std::ops::Range;

use crate::fanout::Body;

/// A shorter part of a body is copied: a piece of its own would cost as much.
const SHARED_BYTES_MIN: usize = 128;

/// The buffer is kept up to this size; a burst beyond it is freed.
pub(super) const BYTES_KEPT: usize = 256 << 10;

#[derive(Debug, Default)]
pub(super) struct Output {
    /// Our own bytes, and how many of them are written.
    own: Vec<u8>,
    written: usize,
    /// In the order of their places in `own`; none is before `written`.
    shared: VecDeque<Part>,
    shared_bytes: usize,
}

/// A part of a body.
#[derive(Debug)]
struct Part {
    /// Goes before this byte of our own.
    at: usize,
    body: Body,
    range: Range<usize>,
}

impl Output {
    /// Where the next bytes of our own are to be added.
    pub(super) fn own(&mut self) -> &mut Vec<u8> {
        &mut self.own
    }

    /// Adds a part of a body.
    pub(super) fn share(&mut self, body: &Body, range: Range<usize>) {
        if range.len() < SHARED_BYTES_MIN {
            self.own.extend_from_slice(&body[range]);
            return;
        }
        self.shared_bytes += range.len();
        self.shared.push_back(Part {
            at: self.own.len(),
            body: body.clone(),
            range,
        });
    }

    /// Not written yet.
    pub(super) fn len(&self) -> usize {
        self.own.len() - self.written + self.shared_bytes
    }

    /// What is to be written, in its order; none of it is empty.
    pub(super) fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        let ends = self.shared.iter().map(|part| part.at).chain([self.own.len()]);
        let begins = [self.written]
            .into_iter()
            .chain(self.shared.iter().map(|part| part.at));
        let own = begins.zip(ends).map(|(from, to)| &self.own[from..to]);
        let shared = self.shared.iter().map(|part| &part.body[part.range.clone()]);
        own.zip(shared.chain([&[][..]]))
            .flat_map(<[_; 2]>::from)
            .filter(|piece| !piece.is_empty())
    }

    /// So many bytes of it are written.
    pub(super) fn wrote(&mut self, mut count: usize) {
        while let Some(part) = self.shared.front_mut() {
            let own = count.min(part.at - self.written);
            self.written += own;
            count -= own;
            let shared = count.min(part.range.len());
            if self.written < part.at || shared < part.range.len() {
                part.range.start += shared;
                self.shared_bytes -= shared;
                return self.tidy();
            }
            self.shared_bytes -= shared;
            count -= shared;
            self.shared.pop_front();
        }
        self.written += count;
        self.tidy();
    }

    fn tidy(&mut self) {
        if self.len() == 0 {
            self.written = 0;
            self.own.clear();
            if self.own.capacity() > BYTES_KEPT {
                self.own.shrink_to(BYTES_KEPT);
            }
        } else if self.written >= BYTES_KEPT.max(self.own.len() / 2) {
            // A peer that always leaves something unread must not make us keep all that it has read. What is moved is at
            // most what was written since the last time.
            self.own.drain(..self.written);
            for part in &mut self.shared {
                part.at -= self.written;
            }
            self.written = 0;
        }
    }

    #[cfg(test)]
    pub(super) fn held_bytes(&self) -> usize {
        self.own.len() + self.shared_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Own bytes, a shared part, own bytes, another two, own bytes; of 500 bytes in all, of which no two in a row are
    /// equal.
    fn output() -> (Output, Vec<u8>) {
        let all: Vec<u8> = (0..500).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let body = Body::from(all.clone());
        let mut output = Output::default();
        output.own().extend_from_slice(&all[..9]);
        output.share(&body, 9..150);
        output.own().extend_from_slice(&all[150..160]);
        output.share(&body, 160..300);
        output.share(&body, 300..430);
        output.own().extend_from_slice(&all[430..]);
        (output, all)
    }

    fn joined(output: &Output) -> Vec<u8> {
        output.pieces().collect::<Vec<_>>().concat()
    }

    #[test]
    fn all_of_it_in_its_order_however_it_is_written() {
        let (output, all) = output();
        assert_eq!(output.pieces().count(), 6);
        assert_eq!(joined(&output), all);
        for step in 1..=all.len() {
            let (mut output, all) = self::output();
            let mut written = 0;
            while output.len() > 0 {
                assert_eq!(output.len(), all.len() - written);
                assert_eq!(joined(&output), all[written..], "{written} by {step}");
                let count = step.min(output.len());
                output.wrote(count);
                written += count;
            }
            assert_eq!(written, all.len());
            assert!(output.shared.is_empty() && output.own.is_empty());
        }
    }

    #[test]
    fn a_short_part_is_copied() {
        let mut output = Output::default();
        let body = Body::from(vec![b'x'; 2 * SHARED_BYTES_MIN]);
        output.share(&body, 0..SHARED_BYTES_MIN - 1);
        assert!(output.shared.is_empty());
        output.share(&body, 1..1 + SHARED_BYTES_MIN);
        assert_eq!(output.shared.len(), 1);
        assert_eq!(output.len(), 2 * SHARED_BYTES_MIN - 1);
    }

    #[test]
    fn places_follow_when_what_is_written_is_freed() {
        let mut output = Output::default();
        let body = Body::from(vec![b'b'; 1_000]);
        output.own().extend(vec![b'a'; BYTES_KEPT + 10]);
        output.share(&body, 0..1_000);
        output.own().extend(b"end");
        output.wrote(BYTES_KEPT);
        assert_eq!(output.own.len(), 13);
        assert_eq!(joined(&output), [&[b'a'; 10][..], &body, b"end"].concat());
    }
}
