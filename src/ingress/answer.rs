//! An answer's body on its way through hyper: one piece, of which the connection's conduct knows until its last byte was
//! written.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Body, Frame, SizeHint};
use hyper::body::{Buf, Bytes};

use super::conduct::Owed;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Answer(Option<Piece>);

/// Its bytes as hyper holds them.
#[derive(Debug)]
pub(super) struct Piece {
    bytes: Bytes,
    _owed: Owed,
}

impl Answer {
    /// `owe` is called for a body that is not empty: heads alone no window holds back.
    pub(super) fn new(bytes: Bytes, owe: impl FnOnce() -> Owed) -> Self {
        Self((!bytes.is_empty()).then(|| Piece { bytes, _owed: owe() }))
    }
}

impl Body for Answer {
    type Data = Piece;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Piece>, Infallible>>> {
        Poll::Ready(self.0.take().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |piece| piece.bytes.len() as u64))
    }
}

impl Buf for Piece {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        &self.bytes
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
    }
}
