//! A non-blocking TCP socket to a DSP: connect, send, receive. No buffering, no protocol.

use std::io::{self, IoSlice};
use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockRef, Type};

use super::shard_fd::ShardFd;
use super::{Interest, Readiness};

/// How far an operation came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// So many bytes were moved; zero when reading means the peer has closed.
    Moved(usize),
    /// Nothing now; the readiness set will tell when to try again.
    WouldBlock,
}

/// See the module's description.
#[derive(Debug)]
pub struct Socket(ShardFd);

impl Socket {
    /// Begins to connect; the socket becomes writable when that has ended, see [`Self::connected`].
    ///
    /// # Errors
    /// When no socket can be had (`EMFILE`) or the connection is refused at once.
    pub fn connect(address: SocketAddr) -> io::Result<Self> {
        let socket = socket2::Socket::new(
            Domain::for_address(address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        // A call is one write and waits for its answer: Nagle's algorithm would only delay the second half of one
        // that did not fit.
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error),
            _ => Ok(Self(ShardFd::new(socket.into()))),
        }
    }

    /// How a connect that has become writable ended.
    ///
    /// # Errors
    /// The reason why it failed: refused, unreachable, timed out.
    pub fn connected(&self) -> io::Result<()> {
        match self.0.with(|fd| SockRef::from(&fd).take_error())? {
            None => Ok(()),
            Some(error) => Err(error),
        }
    }

    /// Sends as much of `pieces`, one after another, as the kernel takes, in one system call.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&self, pieces: &[IoSlice<'_>]) -> io::Result<Progress> {
        progress(
            self.0
                .with(|fd| SockRef::from(&fd).send_vectored_with_flags(pieces, libc::MSG_NOSIGNAL)),
        )
    }

    /// Receives into `buffer`.
    ///
    /// # Errors
    /// When the connection was reset.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<Progress> {
        progress(
            self.0
                .with(|fd| io::Read::read(&mut &*SockRef::from(&fd), buffer)),
        )
    }

    /// Has `readiness` watch it, as [`Readiness::watch`].
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached.
    pub fn watch(&self, readiness: &Readiness, token: u64, interest: Interest) -> io::Result<()> {
        self.0.with(|fd| readiness.watch(fd, token, interest))
    }
}

fn progress(result: io::Result<usize>) -> io::Result<Progress> {
    match result {
        Ok(moved) => Ok(Progress::Moved(moved)),
        Err(error) => match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(Progress::WouldBlock),
            _ => Err(error),
        },
    }
}
