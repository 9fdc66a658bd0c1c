//! Streams to DSPs whose writes wait for the end of the shard's turn, as those of `fanout::Pool` do.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::net::{SocketAddr, TcpStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use corebid::net::{HyperStream, Readiness};
use hyper::rt::{Read, ReadBufCursor, Write};

/// Those with something to send.
pub(crate) type Unflushed = Rc<RefCell<Vec<Rc<Shared>>>>;

/// One stream: hyper's end of it and the shard's.
#[derive(Debug)]
pub(crate) struct Shared {
    stream: RefCell<HyperStream>,
    output: RefCell<Vec<u8>>,
}

/// hyper's end: takes what is written at once.
#[derive(Debug)]
pub(crate) struct Gathered {
    shared: Rc<Shared>,
    unflushed: Unflushed,
}

pub(crate) fn connect(address: SocketAddr, readiness: &Rc<Readiness>) -> HyperStream {
    let socket = TcpStream::connect(address).unwrap();
    HyperStream::new(socket.into(), readiness).unwrap()
}

/// Sends what has gathered on all streams; what the kernel does not take is tried again in the next turn.
pub(crate) fn flush(unflushed: &Unflushed) {
    unflushed.borrow_mut().retain(|shared| !shared.flush());
}

impl Shared {
    /// Whether all is sent.
    fn flush(&self) -> bool {
        let (mut stream, mut output) = (self.stream.borrow_mut(), self.output.borrow_mut());
        // Room on the socket ends the shard's sleep, whoever waits for it.
        let mut cx = Context::from_waker(Waker::noop());
        while !output.is_empty() {
            match Pin::new(&mut *stream).poll_write(&mut cx, &output) {
                Poll::Ready(count) => drop(output.drain(..count.unwrap())),
                Poll::Pending => return false,
            }
        }
        true
    }
}

impl Gathered {
    pub(crate) fn new(stream: HyperStream, unflushed: &Unflushed) -> Self {
        let shared = Shared {
            stream: stream.into(),
            output: RefCell::default(),
        };
        Self {
            shared: Rc::new(shared),
            unflushed: Rc::clone(unflushed),
        }
    }
}

impl Read for Gathered {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.shared.stream.borrow_mut()).poll_read(cx, buf)
    }
}

impl Write for Gathered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut output = self.shared.output.borrow_mut();
        if output.is_empty() {
            self.unflushed.borrow_mut().push(Rc::clone(&self.shared));
        }
        let before = output.len();
        for buf in bufs {
            output.extend_from_slice(buf);
        }
        Poll::Ready(Ok(output.len() - before))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
