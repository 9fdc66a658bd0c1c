//! The listening sockets of shards.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use socket2::{Domain, Protocol, SockRef, Type};

use super::shard_fd::ShardFd;
use super::{Readiness, Watch};

/// Connections that may wait to be accepted by a shard, and one more. A peak of new connections within one stall of the shard; the kernel
/// caps it at `net.core.somaxconn` (4,096 by default).
pub const BACKLOG: u16 = 4096;

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
    socket.listen(BACKLOG.into())?;
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
    let address = SockRef::from(socket).local_addr()?;
    address
        .as_socket()
        .ok_or_else(|| io::Error::other("not an IP socket"))
}

/// A listening socket in a shard's readiness set.
///
/// Waiting and taking are apart, so that a wait can be given up at any moment without losing a connection.
#[derive(Debug)]
pub struct Listener {
    socket: ShardFd,
    watch: Watch,
    readiness: Rc<Readiness>,
}

impl Listener {
    /// Takes over a socket made by [`bind`].
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached.
    pub fn new(socket: OwnedFd, readiness: &Rc<Readiness>) -> io::Result<Self> {
        let socket = ShardFd::new(socket);
        Ok(Self {
            watch: socket.with(|fd| readiness.join(fd))?,
            socket,
            readiness: Rc::clone(readiness),
        })
    }

    /// The next connection, if one is there: a socket that any shard can serve.
    ///
    /// # Errors
    /// As `accept(2)`: `EMFILE` when the process is out of descriptors, `ECONNABORTED` when the peer gave up.
    pub fn accept(&self) -> io::Result<Option<OwnedFd>> {
        match self.socket.with(|fd| SockRef::from(&fd).accept()) {
            Ok((socket, _peer)) => Ok(Some(socket.into())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.watch.has_been_read();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Ready when there may be a connection that was not there at the last [`Self::accept`].
    pub fn poll_connects(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.watch.poll_readable(cx)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // Closing it ends no watch: others have copies of it, the supervisor and perhaps the next process, and the set
        // would go on telling of what they are to accept.
        let _gone = self.socket.with(|fd| self.readiness.leave(fd));
    }
}
