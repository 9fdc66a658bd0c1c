//! Sockets to DSPs for clients that want streams: one driven in turns as those of `fanout::Pool`, one of glommio's.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};

use corebid::clock::Instant;
use corebid::net::{Bell, Interest, Progress, Readiness, Socket};
use futures_lite::{AsyncRead, AsyncWrite};
use hyper::rt::ReadBufCursor;

use crate::shard::Turns;

/// As `fanout::Pool` reads at once.
const READ_BYTES: usize = 64 << 10;

/// The sockets of one client.
#[derive(Debug)]
pub(crate) struct Sockets {
    readiness: Rc<Readiness>,
    all: RefCell<Vec<Rc<Driven>>>,
    unflushed: RefCell<Vec<usize>>,
    has_unflushed: Bell,
}

#[derive(Debug)]
struct Driven {
    socket: Socket,
    readable: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    output: RefCell<Vec<u8>>,
}

/// A stream in front of one of them: takes what is written at once, and sends it with the next flush of all.
#[derive(Debug)]
pub(crate) struct InTurns {
    sockets: Rc<Sockets>,
    index: usize,
    driven: Rc<Driven>,
    input: Box<[u8]>,
}

impl Sockets {
    pub(crate) fn new(readiness: &Rc<Readiness>) -> Rc<Self> {
        Rc::new(Self {
            readiness: Rc::clone(readiness),
            all: RefCell::default(),
            unflushed: RefCell::default(),
            has_unflushed: Bell::default(),
        })
    }

    pub(crate) fn connect(self: &Rc<Self>, address: SocketAddr) -> InTurns {
        let socket = Socket::connect(address).unwrap();
        let index = self.all.borrow().len();
        self.readiness
            .watch(socket.as_fd(), index as u64, Interest::ReadWrite)
            .unwrap();
        let driven = Rc::new(Driven {
            socket,
            readable: Cell::new(false),
            reader: RefCell::default(),
            output: RefCell::default(),
        });
        self.all.borrow_mut().push(Rc::clone(&driven));
        InTurns {
            sockets: Rc::clone(self),
            index,
            driven,
            input: vec![0; READ_BYTES].into(),
        }
    }

    fn wants_flush(&self, index: usize) {
        self.unflushed.borrow_mut().push(index);
        self.has_unflushed.ring();
    }
}

impl Turns for Rc<Sockets> {
    fn turn(&self, now: Instant) -> io::Result<usize> {
        let events = self.readiness.take(|token, ready| {
            let index = usize::try_from(token).unwrap();
            let driven = Rc::clone(&self.all.borrow()[index]);
            // A connect has ended, or the socket has room again.
            if ready.writable && !driven.output.borrow().is_empty() {
                self.wants_flush(index);
            }
            if ready.readable {
                driven.readable.set(true);
                if let Some(waker) = driven.reader.take() {
                    waker.wake();
                }
            }
        })?;
        self.flush(now);
        Ok(events)
    }

    fn flush(&self, _now: Instant) {
        for index in self.unflushed.take() {
            let driven = &self.all.borrow()[index];
            let mut output = driven.output.borrow_mut();
            while !output.is_empty() {
                match driven.socket.send(&output, &[]).unwrap() {
                    Progress::Moved(count) => drop(output.drain(..count)),
                    Progress::WouldBlock => break,
                }
            }
        }
    }

    fn has_unflushed(&self) -> &Bell {
        &self.has_unflushed
    }
}

impl InTurns {
    fn poll_receive(&mut self, cx: &mut Context<'_>, room: usize) -> Poll<io::Result<&[u8]>> {
        let driven = &self.driven;
        if !driven.readable.get() {
            *driven.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let room = room.min(READ_BYTES);
        let count = match driven.socket.receive(&mut self.input[..room])? {
            Progress::Moved(count) => count,
            Progress::WouldBlock => 0,
        };
        // Edge-triggered: fewer bytes than asked for means that there are no more.
        if count < room {
            driven.readable.set(false);
        }
        if count == 0 {
            *driven.reader.borrow_mut() = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Poll::Ready(Ok(&self.input[..count]))
    }

    fn gather(&self, bytes: &[u8]) -> usize {
        let mut output = self.driven.output.borrow_mut();
        if output.is_empty() {
            self.sockets.wants_flush(self.index);
        }
        output.extend_from_slice(bytes);
        bytes.len()
    }
}

impl hyper::rt::Read for InTurns {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.get_mut().poll_receive(cx, buf.remaining()))?;
        buf.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for InTurns {
    fn poll_write(self: Pin<&mut Self>, _cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(self.gather(buf)))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bufs.iter().map(|buf| self.gather(buf)).sum()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncRead for InTurns {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let bytes = ready!(self.get_mut().poll_receive(cx, buf.remaining()))?;
        buf.put_slice(bytes);
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for InTurns {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        hyper::rt::Write::poll_write(self, cx, buf)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        hyper::rt::Write::poll_write_vectored(self, cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// One of glommio's, behind hyper's traits.
#[derive(Debug)]
pub(crate) struct OnGlommio {
    stream: glommio::net::TcpStream,
    input: Box<[u8]>,
}

impl OnGlommio {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = glommio::net::TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            input: vec![0; READ_BYTES].into(),
        }
    }
}

impl hyper::rt::Read for OnGlommio {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let room = buf.remaining().min(READ_BYTES);
        let read = ready!(Pin::new(&mut this.stream).poll_read(cx, &mut this.input[..room]))?;
        buf.put_slice(&this.input[..read]);
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for OnGlommio {
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
