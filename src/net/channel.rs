//! Bytes to a DSP and back, with TLS on them or without.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use super::tls::{Agreed, Session, TlsClient};
use super::{Interest, Progress, Readiness, Socket};

/// What has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes, at the beginning of the buffer.
    Bytes {
        /// How many; none if what came was TLS's own.
        count: usize,
        /// There were no more.
        drained: bool,
    },
    /// Nothing now; the readiness set will tell when to try again.
    WouldBlock,
    /// The peer will send no more and, with TLS, has said so: what came before is whole.
    End,
}

/// See the module's description.
#[derive(Debug)]
pub struct Channel {
    socket: Socket,
    /// A channel without TLS pays for this with the one look whether it is there.
    tls: Option<Box<Session>>,
}

impl Channel {
    /// Begins to connect; the socket becomes writable when that has ended, see [`Self::connected`]. With `tls`, a
    /// handshake follows, see [`Self::handshake`].
    ///
    /// # Errors
    /// As [`Socket::connect`].
    pub fn connect(address: SocketAddr, tls: Option<&TlsClient>) -> io::Result<Self> {
        Ok(Self {
            socket: Socket::connect(address)?,
            tls: tls.map(Session::new).transpose()?.map(Box::new),
        })
    }

    /// Has `readiness` watch the socket, as [`Readiness::watch`].
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached.
    pub fn watch(&self, readiness: &Readiness, token: u64, interest: Interest) -> io::Result<()> {
        self.socket.watch(readiness, token, interest)
    }

    /// How a connect that has become writable ended.
    ///
    /// # Errors
    /// As [`Socket::connected`].
    pub fn connected(&self) -> io::Result<()> {
        self.socket.connected()
    }

    /// Whether a handshake is to follow the connect.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// Goes on with the handshake, whenever the socket has become ready. `None` while it is not done.
    ///
    /// # Errors
    /// Why there will be no session; [`Failure::of`](super::tls::Failure::of) sorts it.
    pub fn handshake(&mut self) -> io::Result<Option<Agreed>> {
        match &mut self.tls {
            Some(session) => session.handshake(&self.socket),
            None => Ok(None),
        }
    }

    /// Sends as much of `pieces`, one after another, as the kernel takes, in one system call. With TLS, bytes count as
    /// sent once they are encrypted: [`Self::flush`] sends the rest.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, pieces: &[IoSlice<'_>]) -> io::Result<Progress> {
        match &mut self.tls {
            None => self.socket.send(pieces),
            Some(session) => session.send(&self.socket, pieces),
        }
    }

    /// Sends what is encrypted and was not taken by the kernel.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(session) => session.flush(&self.socket),
        }
    }

    /// Whether there is something for [`Self::flush`] to send.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|session| session.has_unsent())
    }

    /// Receives into `buffer`.
    ///
    /// # Errors
    /// When the connection was reset, or, with TLS, cut off or broken.
    pub fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        match &mut self.tls {
            None => Ok(match self.socket.receive(buffer)? {
                Progress::Moved(0) => Received::End,
                // Fewer bytes than asked for means that there are no more.
                Progress::Moved(count) => Received::Bytes {
                    count,
                    drained: count < buffer.len(),
                },
                Progress::WouldBlock => Received::WouldBlock,
            }),
            Some(session) => session.receive(&self.socket, buffer),
        }
    }

    /// Before the connection is closed: with TLS, tells the peer that this was not somebody on the way.
    pub fn goodbye(&mut self) {
        if let Some(session) = &mut self.tls {
            session.goodbye(&self.socket);
        }
    }
}
