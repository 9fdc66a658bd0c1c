//! A connection from an SSP as hyper wants it.

use std::fmt;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Sleep, Write};
use socket2::SockRef;

use super::shard_fd::ShardFd;
use super::stamped::{receive, stamp_arrivals};
use super::{Failure, Inlet, Readiness, ShardTimer, Watch};
use crate::clock;

/// What every HTTP/2 connection begins with when the client knows beforehand (RFC 9113 §3.4).
const H2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long the end of an HTTP/2 connection waits for the peer's: several round trips round the globe.
const LINGER_MAX: Duration = Duration::from_secs(1);

/// Read and dropped meanwhile. All streams have ended, so there can be acknowledgements and window updates of a few
/// bytes; who sends more does not listen.
const LINGER_BYTES_MAX: usize = 64 << 10;
const LINGER_READ_BYTES: usize = 4 << 10;

/// Is shown what a peer sends before hyper is, and may have the connection ended.
pub trait Overseer {
    /// These bytes came in, after those before.
    fn saw(&mut self, bytes: &[u8]);

    /// The connection failed, which hyper may take for its end.
    fn failed(&mut self, error: &io::Error);

    /// What the peer is told with the last bytes it gets, once its connection is to end: nothing more is read then.
    fn last_words(&mut self) -> Option<Vec<u8>>;
}

/// Nobody looks.
#[derive(Debug, Clone, Copy)]
pub struct Unseen;

impl Overseer for Unseen {
    fn saw(&mut self, _bytes: &[u8]) {}

    fn failed(&mut self, _error: &io::Error) {}

    fn last_words(&mut self) -> Option<Vec<u8>> {
        None
    }
}

/// A socket of the shard's readiness set behind hyper's traits. Bytes read while the protocol was being told apart come
/// first.
pub struct HyperStream<O = Unseen> {
    // Before its socket: a watch must not outlive it.
    watch: Watch,
    socket: ShardFd,
    inlet: Rc<Inlet>,
    ahead: Vec<u8>,
    ahead_read: usize,
    /// It is HTTP/2, and so the peer sends on its own account.
    lingers: bool,
    lingering: Option<Lingering>,
    /// The last write was cut short: what comes next is the rest of it.
    writes_on: bool,
    overseer: O,
}

/// The end of a connection whose own side is closed.
struct Lingering {
    until: Pin<Box<dyn Sleep>>,
    bytes: usize,
}

impl HyperStream {
    /// Takes over a socket that [`super::Listener::accept`] gave, on this shard or another.
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached, or the peer is gone already.
    pub fn new(socket: OwnedFd, readiness: &Rc<Readiness>) -> io::Result<Self> {
        SockRef::from(&socket).set_nonblocking(true)?;
        // An answer is one write: Nagle's algorithm would only hold back the second half of a large one.
        SockRef::from(&socket).set_tcp_nodelay(true)?;
        stamp_arrivals(&socket)?;
        let socket = ShardFd::new(socket);
        Ok(Self {
            watch: socket.with(|fd| readiness.join(fd))?,
            socket,
            inlet: Rc::default(),
            ahead: Vec::new(),
            ahead_read: 0,
            lingers: false,
            lingering: None,
            writes_on: false,
            overseer: Unseen,
        })
    }

    /// Waits for the first bytes; false when the peer closed without a word.
    ///
    /// # Errors
    /// When the connection was reset.
    pub async fn hear(&mut self) -> io::Result<bool> {
        self.read_ahead().await
    }

    /// Reads until it is certain whether the client speaks HTTP/2 with prior knowledge. `None` when it closed
    /// without a word.
    ///
    /// # Errors
    /// When the connection was reset.
    pub async fn speaks_h2(&mut self) -> io::Result<Option<bool>> {
        loop {
            if !H2_PREFACE.starts_with(&self.ahead) {
                return Ok(Some(false));
            }
            if self.ahead.len() == H2_PREFACE.len() {
                self.lingers = true;
                return Ok(Some(true));
            }
            if !self.read_ahead().await? {
                return Ok((!self.ahead.is_empty()).then_some(false));
            }
        }
    }

    /// Reads some of what would be the preface; false at the end of the stream.
    async fn read_ahead(&mut self) -> io::Result<bool> {
        let mut buffer = [0; H2_PREFACE.len()];
        let wanted = H2_PREFACE.len() - self.ahead.len();
        let chunk = &mut buffer[..wanted];
        let read = poll_fn(|cx| self.poll_receive(cx, writable(chunk))).await?;
        self.ahead.extend_from_slice(&buffer[..read]);
        Ok(read > 0)
    }

    /// Shows `overseer` what comes in from now on, beginning with what was read ahead.
    pub fn overseen_by<O: Overseer>(self, overseer: O) -> HyperStream<O> {
        HyperStream {
            watch: self.watch,
            socket: self.socket,
            inlet: self.inlet,
            ahead: self.ahead,
            ahead_read: self.ahead_read,
            lingers: self.lingers,
            lingering: self.lingering,
            writes_on: self.writes_on,
            overseer,
        }
    }

    /// The address at the other end; `None` when it is gone already.
    #[must_use]
    pub fn peer(&self) -> Option<IpAddr> {
        let address = self.socket.with(|fd| SockRef::from(&fd).peer_addr()).ok()?;
        Some(address.as_socket()?.ip().to_canonical())
    }

    /// Has the kernel fail the connection when the peer takes nothing of what was sent to it for this long, be it that
    /// it is gone or that it does not read.
    ///
    /// # Errors
    /// Never on a TCP socket.
    pub fn set_unread_max(&self, time: Duration) -> io::Result<()> {
        self.socket
            .with(|fd| SockRef::from(&fd).set_tcp_user_timeout(Some(time)))
    }

    /// Whether the connection has failed, to know it while hyper is busy with something else.
    #[must_use]
    pub fn failure(&self) -> Failure {
        self.watch.failure()
    }

    /// Ends it without a goodbye: the peer is told that it was refused, and the kernel keeps nothing of it.
    pub fn refuse(self) {
        // Closing is all that is left to do either way.
        let _closed_politely = self
            .socket
            .with(|fd| SockRef::from(&fd).set_linger(Some(Duration::ZERO)));
    }
}

impl<O> HyperStream<O> {
    /// What is known of the bytes that are read.
    #[must_use]
    pub fn inlet(&self) -> Rc<Inlet> {
        Rc::clone(&self.inlet)
    }

    /// Reads as soon as there may be some bytes, at most as many as there is room for, and notes when they came.
    fn poll_receive(&self, cx: &mut Context<'_>, into: &mut [MaybeUninit<u8>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watch.poll_readable(cx));
            let now = clock::now();
            match self.socket.with(|fd| receive(fd, into)) {
                Ok((count, received)) => {
                    // Before it is noted that none are left: these came before that.
                    let waited = received.map_or(Duration::ZERO, |received| {
                        clock::since_unix_epoch().saturating_sub(received)
                    });
                    self.inlet.has_read(now, waited);
                    // Fewer bytes than there was room for: no more are there, and new ones make a new event. Not so after
                    // the peer's end, of which there was an event already.
                    if count > 0 && count < into.len() && !self.watch.is_closing() {
                        self.watch.has_been_read();
                        self.inlet.is_empty(now);
                    }
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.watch.has_been_read();
                    self.inlet.is_empty(now);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Reads what the peer still sends until it closes its side, too. A socket closed while bytes are under way to it
    /// answers with a reset, upon which the peer's kernel may fail its next write, and its client then throws away what
    /// it has not read yet: the last answers (RFC 9112 §9.6 describes the same of HTTP/1.1).
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut lingering = self.lingering.take().unwrap_or_else(|| Lingering {
            until: ShardTimer::sleep_for(LINGER_MAX),
            bytes: 0,
        });
        let mut scratch = [0; LINGER_READ_BYTES];
        while lingering.bytes < LINGER_BYTES_MAX && lingering.until.as_mut().poll(cx).is_pending() {
            match self.poll_receive(cx, writable(&mut scratch)) {
                Poll::Ready(Ok(0) | Err(_)) => break,
                Poll::Ready(Ok(count)) => lingering.bytes += count,
                Poll::Pending => {
                    self.lingering = Some(lingering);
                    return Poll::Pending;
                }
            }
        }
        Poll::Ready(())
    }
}

impl<O: Overseer> HyperStream<O> {
    fn poll_send(&mut self, cx: &mut Context<'_>, parts: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.watch.poll_writable(cx));
            let sent = self
                .socket
                .with(|fd| SockRef::from(&fd).send_vectored_with_flags(parts, libc::MSG_NOSIGNAL));
            match sent {
                Ok(count) => {
                    self.writes_on = count < parts.iter().map(|part| part.len()).sum();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.watch.is_full(),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    self.overseer.failed(&error);
                    return Poll::Ready(Err(error));
                }
            }
        }
    }

    /// The peer's last bytes, if they can be sent: not in the middle of others, and without waiting.
    fn say(&self, last_words: &[u8]) -> io::Error {
        if !self.writes_on {
            let _as_far_as_possible = self
                .socket
                .with(|fd| SockRef::from(&fd).send_with_flags(last_words, libc::MSG_NOSIGNAL));
        }
        io::Error::from(io::ErrorKind::ConnectionAborted)
    }
}

impl<O> fmt::Debug for HyperStream<O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HyperStream")
            .field("socket", &self.socket)
            .field("watch", &self.watch)
            .finish_non_exhaustive()
    }
}

impl<O: Overseer + Unpin> Read for HyperStream<O> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(last_words) = this.overseer.last_words() {
            return Poll::Ready(Err(this.say(&last_words)));
        }
        if this.ahead_read < this.ahead.len() {
            let rest = &this.ahead[this.ahead_read..];
            let count = rest.len().min(buf.remaining());
            this.overseer.saw(&rest[..count]);
            buf.put_slice(&rest[..count]);
            this.ahead_read += count;
            return Poll::Ready(Ok(()));
        }
        ready!(this.watch.poll_readable(cx));
        ready!(this.inlet.poll_may_read(cx));
        // SAFETY: the buffer is only written to, by the kernel.
        let into = unsafe { buf.as_mut() };
        let received = ready!(this.poll_receive(cx, into));
        let count = received.inspect_err(|error| this.overseer.failed(error))?;
        // SAFETY: so many bytes have just been written, and nothing but the overseer looks at them meanwhile.
        let read = unsafe { std::slice::from_raw_parts(into.as_ptr().cast::<u8>(), count) };
        this.overseer.saw(read);
        // SAFETY: as above.
        unsafe { buf.advance(count) };
        Poll::Ready(Ok(()))
    }
}

impl<O: Overseer + Unpin> Write for HyperStream<O> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().poll_send(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Nothing is held back here.
    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.lingering.is_none() {
            let shut_down = this
                .socket
                .with(|fd| SockRef::from(&fd).shutdown(std::net::Shutdown::Write));
            match shut_down {
                // The peer was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotConnected => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(()) if !this.lingers => return Poll::Ready(Ok(())),
                Ok(()) => {}
            }
        }
        this.poll_linger(cx).map(Ok)
    }
}

/// A buffer to be written to and not read from.
fn writable(bytes: &mut [u8]) -> &mut [MaybeUninit<u8>] {
    // SAFETY: of the same layout, and `receive` writes nothing that is not initialised.
    unsafe { &mut *(std::ptr::from_mut(bytes) as *mut [MaybeUninit<u8>]) }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream};
    use std::task::Waker;

    use super::*;
    use crate::clock::{Instant, Timers};

    /// A client's end and ours, of which it is known by then whether it speaks HTTP/2.
    fn connection(readiness: &Rc<Readiness>, first_bytes: &[u8]) -> (TcpStream, HyperStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        far.write_all(first_bytes).unwrap();
        let near = listener.accept().unwrap().0;
        let mut near = HyperStream::new(near.into(), readiness).unwrap();
        crate::net::run_as_shard(near.speaks_h2()).unwrap();
        (far, near)
    }

    fn is_shut_down(near: &mut HyperStream) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(near).poll_shutdown(&mut cx).is_ready()
    }

    fn hears_the_end(far: &mut TcpStream) -> bool {
        matches!(far.read(&mut [0]), Ok(0))
    }

    #[test]
    fn an_h2_connection_ends_when_the_peer_has_heard_so() {
        let readiness = Rc::new(Readiness::new().unwrap());
        let now = Rc::new(Cell::new(0));
        let clock = Rc::clone(&now);
        let timers = Timers::new(move || Instant::from_nanos(clock.get()), |_| ());
        let _for_hyper = ShardTimer::install(&timers);
        let is_shut_down = |near: &mut HyperStream| {
            readiness.take(|_, _| ()).unwrap();
            is_shut_down(near)
        };

        let (mut far, mut near) = connection(&readiness, b"GET / HTTP/1.1\r\n\r\n\r\n\r\n");
        assert!(is_shut_down(&mut near), "HTTP/1.1: at once");
        assert!(hears_the_end(&mut far));

        // What it still sends is read, until it ends.
        let (mut far, mut near) = connection(&readiness, H2_PREFACE);
        assert!(!is_shut_down(&mut near));
        assert!(hears_the_end(&mut far));
        far.write_all(&[0; 13]).unwrap();
        assert!(!is_shut_down(&mut near));
        drop(far);
        assert!(is_shut_down(&mut near));

        // Or sends too much.
        let (mut far, mut near) = connection(&readiness, H2_PREFACE);
        far.write_all(&[0; LINGER_BYTES_MAX - 1]).unwrap();
        assert!(!is_shut_down(&mut near));
        far.write_all(&[0]).unwrap();
        assert!(is_shut_down(&mut near));

        // Or too long.
        let (_far, mut near) = connection(&readiness, H2_PREFACE);
        assert!(!is_shut_down(&mut near));
        let limit = u64::try_from(LINGER_MAX.as_nanos()).unwrap();
        now.set(limit - 1);
        assert!(!is_shut_down(&mut near));
        now.set(limit);
        assert!(is_shut_down(&mut near));
        drop(near);
        assert_eq!(timers.waiting(), 0);
    }
}
