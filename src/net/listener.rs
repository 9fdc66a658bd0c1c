//! The listening socket of one shard.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use socket2::{Domain, Protocol, Type};

use super::HyperStream;

/// Connections that may wait to be accepted. A peak of new connections within one stall of the shard; the kernel
/// caps it at `net.core.somaxconn` (4,096 by default).
const BACKLOG: i32 = 4096;

/// Opens a listening socket that shares its address with those of the other shards (`SO_REUSEPORT`): the kernel
/// spreads new connections over them.
///
/// # Errors
/// When the address is taken by another program or not one of this host's.
pub fn bind(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = socket2::Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking().cloexec(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A listening socket on a shard's executor.
#[derive(Debug)]
pub struct Listener(glommio::net::TcpListener);

impl Listener {
    /// Takes over a socket made by [`bind`]. Only on a shard.
    #[must_use]
    pub fn on_this_shard(socket: OwnedFd) -> Self {
        // SAFETY: the listener becomes the descriptor's only owner.
        Self(unsafe { glommio::net::TcpListener::from_raw_fd(socket.into_raw_fd()) })
    }

    /// The next connection.
    ///
    /// # Errors
    /// As `accept(2)`: `EMFILE` when the process is out of descriptors, `ECONNABORTED` when the peer gave up.
    pub async fn accept(&self) -> io::Result<HyperStream> {
        let stream = self.0.accept().await.map_err(into_io)?;
        stream.set_nodelay(true).map_err(into_io)?;
        Ok(HyperStream::new(stream))
    }
}

fn into_io(error: glommio::GlommioError<()>) -> io::Error {
    match error {
        glommio::GlommioError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
