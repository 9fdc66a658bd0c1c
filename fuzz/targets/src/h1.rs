//! What a DSP sends over HTTP/1.1: the same bytes mean the same answers however they are cut into pieces, an answer is no
//! longer than allowed, and the reader takes no more memory than a head.

use corebid::fanout::CallFailure;
use corebid::fanout::h1::{Head, ResponseReader};

use crate::chance::Chance;
use crate::heap;

const BODY_BYTES_MAX: usize = 512;

/// A head that came in pieces, in a vector that is moved as it grows; and a table of 64 header fields is on the stack.
const HEAP_BYTES_MAX: usize = 3 * (16 << 10) + 3 * BODY_BYTES_MAX + 4096;

/// The reader looks at a head again from its beginning whenever a piece of it comes, so that it must not come in too many.
const SINGLE_BYTES_MAX: usize = 300;

/// See the module's description.
pub fn check(input: &[u8]) {
    let mut whole = Reading::default();
    whole.receive(input);
    whole.close();

    let mut chance = Chance::of(input);
    let mut pieces = Reading::default();
    chance.pieces(input, |piece| pieces.receive(piece));
    pieces.close();
    assert_eq!(pieces.answers, whole.answers, "in pieces");

    if input.len() <= SINGLE_BYTES_MAX {
        let mut bytes = Reading::default();
        input.chunks(1).for_each(|byte| bytes.receive(byte));
        bytes.close();
        assert_eq!(bytes.answers, whole.answers, "byte by byte");
    }

    let peak = heap::peak_of(|| {
        let (mut reader, mut body) = (ResponseReader::default(), Vec::new());
        let mut is_over = false;
        chance.pieces(input, |piece| {
            is_over = is_over || reader.read(piece, &mut body, BODY_BYTES_MAX).is_err();
            assert!(body.len() <= BODY_BYTES_MAX);
        });
    });
    assert!(peak <= HEAP_BYTES_MAX, "{peak} bytes");
}

/// Where an answer ended, and what it was; or why the connection is to be closed.
type Answer = Result<(usize, Head, Vec<u8>), CallFailure>;

/// One connection, on which another answer is awaited as long as the last one allows it.
#[derive(Default)]
struct Reading {
    reader: ResponseReader,
    body: Vec<u8>,
    /// Bytes that belong to answers.
    used: usize,
    is_over: bool,
    answers: Vec<Answer>,
}

impl Reading {
    fn receive(&mut self, mut piece: &[u8]) {
        while !piece.is_empty() && !self.is_over {
            match self.reader.read(piece, &mut self.body, BODY_BYTES_MAX) {
                Ok((used, None)) => {
                    assert_eq!(used, piece.len(), "an unfinished answer takes all there is");
                    self.used += used;
                    return;
                }
                Ok((used, Some(head))) => {
                    self.used += used;
                    piece = &piece[used..];
                    self.end(head);
                }
                Err(failure) => {
                    self.answers.push(Err(failure));
                    self.is_over = true;
                }
            }
            assert!(self.body.len() <= BODY_BYTES_MAX);
        }
    }

    fn end(&mut self, head: Head) {
        self.is_over = !head.keep_alive;
        self.answers
            .push(Ok((self.used, head, std::mem::take(&mut self.body))));
    }

    fn close(&mut self) {
        if self.is_over {
            return;
        }
        match self.reader.end() {
            Some(head) => self.end(head),
            None if self.body.is_empty() => {}
            None => self.answers.push(Err(CallFailure::Lost)),
        }
    }
}
