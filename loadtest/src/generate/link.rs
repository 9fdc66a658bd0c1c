//! One TCP connection to the target: opening, bytes out, bytes in. Knows no HTTP.

use crate::net::outbox::Outbox;
use crate::net::poller::{Interest, Poller, Ready};
use socket2::{Domain, Protocol, Socket, Type};
use std::io::{self, ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};

/// A connection that is opening or open.
#[derive(Debug)]
pub(crate) struct Link {
    socket: TcpStream,
    token: u64,
    interest: Interest,
    connecting: bool,
    /// Bytes to go; [`Link::flush`] sends them.
    pub(crate) outbox: Outbox,
    /// Bytes received and not yet consumed.
    pub(crate) inbox: Vec<u8>,
}

/// Whether the peer may still say something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Peer {
    Open,
    Finished,
}

impl Link {
    /// Starts to connect. The poller reports `token` when that is done.
    pub(crate) fn open(address: SocketAddr, token: u64, poller: &Poller) -> io::Result<Link> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(error) => return Err(error),
        }
        let socket = TcpStream::from(socket);
        let interest = Interest {
            read: true,
            write: true,
        };
        poller.add(&socket, token, interest)?;
        Ok(Link {
            socket,
            token,
            interest,
            connecting: true,
            outbox: Outbox::default(),
            inbox: Vec::new(),
        })
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.connecting
    }

    /// Takes note of an event while connecting; true when the connection is established by it.
    pub(crate) fn finish_connecting(&mut self, ready: Ready, poller: &Poller) -> io::Result<bool> {
        if !self.connecting || !(ready.write || ready.hangup) {
            return Ok(false);
        }
        if let Some(error) = self.socket.take_error()? {
            return Err(error);
        }
        self.connecting = false;
        self.want(Interest::READ, poller)?;
        Ok(true)
    }

    /// Sends what the socket takes; what it does not is sent when the poller says that it can be.
    pub(crate) fn flush(&mut self, poller: &Poller) -> io::Result<()> {
        if self.connecting || self.outbox.is_empty() {
            return Ok(());
        }
        let all = self.outbox.flush(&self.socket)?;
        self.want(
            Interest {
                read: true,
                write: !all,
            },
            poller,
        )
    }

    /// Appends to the inbox what has arrived. `scratch` lends the room for one read.
    pub(crate) fn receive(&mut self, scratch: &mut [u8]) -> io::Result<Peer> {
        loop {
            match (&self.socket).read(scratch) {
                Ok(0) => return Ok(Peer::Finished),
                Ok(count) => {
                    self.inbox.extend_from_slice(&scratch[..count]);
                    // Level-triggered: what came in meanwhile is reported again, so a second read is not
                    // owed.
                    if count < scratch.len() {
                        return Ok(Peer::Open);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Peer::Open),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn want(&mut self, interest: Interest, poller: &Poller) -> io::Result<()> {
        if interest != self.interest {
            poller.change(&self.socket, self.token, interest)?;
            self.interest = interest;
        }
        Ok(())
    }
}
