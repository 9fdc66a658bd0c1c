//! The listening socket of one shard.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, FromRawFd, IntoRawFd, OwnedFd};

use glommio::net::TcpStream;
use socket2::{Domain, Protocol, Type};

use super::{HyperStream, Interest, Readiness};

/// Connections that may wait to be accepted. A peak of new connections within one stall of the shard; the kernel
/// caps it at `net.core.somaxconn` (4,096 by default).
const BACKLOG: i32 = 4096;

/// Opens a listening socket that shares its address with those of the other shards (`SO_REUSEPORT`): the kernel
/// spreads new connections over them.
///
/// # Errors
/// When the address is taken by another program or not one of this host's.
pub fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM.nonblocking().cloexec(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Fails when somebody listens on `address` already, even with [`bind`] and as the same user. [`bind`] alone would
/// succeed there, and two exchanges started by mistake would share the traffic without a word.
///
/// # Errors
/// As [`bind`], which may be called right after this.
pub fn refuse_if_taken(address: SocketAddr) -> io::Result<()> {
    let domain = Domain::for_address(address);
    let socket = socket2::Socket::new(domain, Type::STREAM.cloexec(), Some(Protocol::TCP))?;
    // Old connections of a process before us (TIME_WAIT) are no reason; with `SO_REUSEADDR` only listeners count.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// The address a socket made by [`bind`] listens on: with its port, where that was left to the kernel.
///
/// # Errors
/// Never for such a socket.
pub fn local_address(socket: &OwnedFd) -> io::Result<SocketAddr> {
    let address = socket2::SockRef::from(socket).local_addr()?;
    address
        .as_socket()
        .ok_or_else(|| io::Error::other("not an IP socket"))
}

/// A listening socket on a shard's executor.
///
/// Waiting and taking are apart: a wait can be given up at any moment without losing a connection, which an accept
/// in the ring cannot.
#[derive(Debug)]
pub struct Listener {
    socket: socket2::Socket,
    readiness: Readiness,
}

impl Listener {
    /// Takes over a socket made by [`bind`].
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        let readiness = Readiness::new()?;
        readiness.watch(socket.as_fd(), 0, Interest::ReadWrite)?;
        Ok(Self {
            socket: socket.into(),
            readiness,
        })
    }

    /// The next connection, if one is there. Only on a shard.
    ///
    /// # Errors
    /// As `accept(2)`: `EMFILE` when the process is out of descriptors, `ECONNABORTED` when the peer gave up.
    pub fn accept(&self) -> io::Result<Option<HyperStream>> {
        let (socket, _peer) = match self.socket.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        socket.set_nonblocking(true)?;
        // An answer is one write: Nagle's algorithm would only hold back the second half of a large one.
        socket.set_tcp_nodelay(true)?;
        // SAFETY: the stream becomes the descriptor's only owner.
        let stream = unsafe { TcpStream::from_raw_fd(socket.into_raw_fd()) };
        Ok(Some(HyperStream::new(stream)))
    }

    /// Waits until there may be a connection that was not there at the last [`Self::accept`].
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub async fn wait(&self) -> io::Result<()> {
        self.readiness.wait().await?;
        self.readiness.take(|_, _| ())?;
        Ok(())
    }
}
