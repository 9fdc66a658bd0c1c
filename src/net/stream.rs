//! A connection from an SSP as hyper wants it.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper::rt::{Read, ReadBufCursor, Write};
use socket2::Socket;

use super::{Readiness, Watch};

/// What every HTTP/2 connection begins with when the client knows beforehand (RFC 9113 §3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A socket of the shard's readiness set behind hyper's traits. Bytes read while the protocol was being told apart come
/// first.
#[derive(Debug)]
pub struct HyperStream {
    // Before its socket: a watch must not outlive it.
    watch: Watch,
    socket: Socket,
    ahead: Vec<u8>,
    ahead_read: usize,
}

impl HyperStream {
    /// Takes over an accepted socket.
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached, or the peer is gone already.
    pub fn new(socket: Socket, readiness: &Rc<Readiness>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        // An answer is one write: Nagle's algorithm would only hold back the second half of a large one.
        socket.set_tcp_nodelay(true)?;
        Ok(Self {
            watch: readiness.join(socket.as_fd())?,
            socket,
            ahead: Vec::new(),
            ahead_read: 0,
        })
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
            let chunk = &mut buffer[..wanted];
            let read =
                poll_fn(|cx| self.poll_receive(cx, |mut socket| io::Read::read(&mut socket, chunk), wanted))
                    .await?;
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

    /// Has `receive` read at most `room` bytes as soon as there may be some.
    fn poll_receive(
        &self,
        cx: &mut Context<'_>,
        mut receive: impl FnMut(&Socket) -> io::Result<usize>,
        room: usize,
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watch.poll_readable(cx));
            match receive(&self.socket) {
                Ok(count) => {
                    // Fewer bytes than there was room for: no more are there, and new ones make a new event. Not so after
                    // the peer's end, of which there was an event already.
                    if count > 0 && count < room && !self.watch.is_closing() {
                        self.watch.has_been_read();
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watch.has_been_read(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    fn poll_send(&self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watch.poll_writable(cx));
            match self.socket.send_vectored_with_flags(parts, libc::MSG_NOSIGNAL) {
                Ok(count) => return Poll::Ready(Ok(count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watch.is_full(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
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
        let room = buf.remaining();
        // SAFETY: the buffer is only written to, by the kernel.
        let into = unsafe { buf.as_mut() };
        let count = ready!(this.poll_receive(cx, |socket| socket.recv(into), room))?;
        // SAFETY: so many bytes have just been written.
        unsafe { buf.advance(count) };
        Poll::Ready(Ok(()))
    }
}

impl Write for HyperStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_send(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is held back here.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(match self.socket.shutdown(std::net::Shutdown::Write) {
            // The peer was quicker.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}
