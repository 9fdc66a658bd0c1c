//! A connection from an SSP as hyper wants it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures_lite::{AsyncRead, AsyncWrite};
use glommio::net::TcpStream;
use hyper::rt::{Read, ReadBufCursor, Write};

/// What every HTTP/2 connection begins with when the client knows beforehand (RFC 9113 §3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Read from the socket at once. A bid request of 1.3 kB with its head fits many times over; larger bodies take
/// more turns.
const READ_BYTES: usize = 16 << 10;

/// A glommio stream behind hyper's traits. Bytes read while the protocol was being told apart come first.
#[derive(Debug)]
pub struct HyperStream {
    stream: TcpStream,
    ahead: Vec<u8>,
    ahead_read: usize,
}

impl HyperStream {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            ahead: Vec::new(),
            ahead_read: 0,
        }
    }

    /// Reads until it is certain whether the client speaks HTTP/2 with prior knowledge. `None` when it closed
    /// without a word.
    ///
    /// # Errors
    /// When the connection was reset.
    pub async fn speaks_h2(&mut self) -> io::Result<Option<bool>> {
        let mut buffer = [0; H2_PREFACE.len()];
        loop {
            let wanted = H2_PREFACE.len() - self.ahead.len();
            let stream = &mut self.stream;
            let chunk = &mut buffer[..wanted];
            let read = std::future::poll_fn(|cx| Pin::new(&mut *stream).poll_read(cx, chunk)).await?;
            if read == 0 {
                return Ok((!self.ahead.is_empty()).then_some(false));
            }
            self.ahead.extend_from_slice(&buffer[..read]);
            if !H2_PREFACE.starts_with(&self.ahead) {
                return Ok(Some(false));
            }
            if self.ahead.len() == H2_PREFACE.len() {
                return Ok(Some(true));
            }
        }
    }
}

impl Read for HyperStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead_read < this.ahead.len() {
            let rest = &this.ahead[this.ahead_read..];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            this.ahead_read += count;
            return Poll::Ready(Ok(()));
        }
        // hyper's buffer is uninitialised and glommio wants initialised bytes: a copy of a kilobyte is cheaper
        // than an argument about soundness.
        let mut bytes = [0; READ_BYTES];
        let room = buf.remaining().min(READ_BYTES);
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut bytes[..room]))?;
        buf.put_slice(&bytes[..read]);
        Poll::Ready(Ok(()))
    }
}

impl Write for HyperStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_close(cx)
    }
}
