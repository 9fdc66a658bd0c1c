//! Writes together what calls that are made together have to say. The h2 crate writes after each frame of a kilobyte: a
//! system call for each call. Here it writes into memory, and its connection's task sends that after every task that can
//! run has run.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::Connection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Of a DSP that reads slowly; then the h2 crate has to wait.
const GATHERED_BYTES_MAX: usize = 1024 * 1024;

/// A stream whose writes wait for its [`Writer`].
#[derive(Debug)]
pub(super) struct Gathered {
    stream: OwnedReadHalf,
    output: Output,
}

/// Sends what was written to a [`Gathered`].
#[derive(Debug)]
pub(super) struct Writer {
    stream: OwnedWriteHalf,
    output: Output,
    /// Taken out of `output`, and how much of it is sent.
    sending: Vec<u8>,
    sent: usize,
    /// Others have had their turn since there was something to send.
    has_yielded: bool,
}

/// Locked by nobody but the connection's own task.
#[derive(Clone, Debug, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Output {
    fn lock(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Gathered {
    pub(super) fn new(stream: TcpStream) -> (Gathered, Writer) {
        let (read, write) = stream.into_split();
        let output = Output::default();
        let writer = Writer {
            stream: write,
            output: output.clone(),
            sending: Vec::new(),
            sent: 0,
            has_yielded: false,
        };
        (Gathered { stream: read, output }, writer)
    }
}

impl Writer {
    /// Drives the connection to its end, which concerns the next call only.
    pub(super) async fn drive(mut self, mut connection: Connection<Gathered, Bytes>) {
        poll_fn(|cx| {
            let ended = Pin::new(&mut connection).poll(cx).is_ready();
            match self.poll_send(cx) {
                Poll::Pending if !ended => Poll::Pending,
                _ => Poll::Ready(()),
            }
        })
        .await;
    }

    /// Ready when the connection is lost.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        while self.sent < self.sending.len() || self.takes_output(cx) {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.sending[self.sent..])) {
                Ok(count) => self.sent += count,
                Err(error) => return Poll::Ready(error),
            }
        }
        Poll::Pending
    }

    fn takes_output(&mut self, cx: &mut Context<'_>) -> bool {
        let mut output = self.output.lock();
        if output.is_empty() {
            return false;
        }
        // By then, whoever is about to make a call has made it.
        self.has_yielded = !self.has_yielded;
        if self.has_yielded {
            cx.waker().wake_by_ref();
            return false;
        }
        if output.len() >= GATHERED_BYTES_MAX {
            // The h2 crate waits for room.
            cx.waker().wake_by_ref();
        }
        self.sending.clear();
        self.sent = 0;
        std::mem::swap(&mut *output, &mut self.sending);
        true
    }
}

impl AsyncRead for Gathered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gathered {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut output = self.output.lock();
        if output.len() >= GATHERED_BYTES_MAX {
            // It is polled again when that has been taken.
            return Poll::Pending;
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
