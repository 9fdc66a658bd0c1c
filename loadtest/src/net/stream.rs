//! The server's end of a connection: plain TCP, or TLS on it. Reads and writes like a non-blocking socket either way,
//! so that codecs need not know.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustls::{ServerConfig, ServerConnection};

/// Ciphertext read at once.
const CIPHERTEXT_BYTES: usize = 16 << 10;

/// See the module's description.
#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Stream {
    /// A connection that was accepted, and set not to block.
    pub fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// The same with TLS: the handshake happens as bytes are read.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn tls(tcp: TcpStream, config: &Arc<ServerConfig>) -> io::Result<Self> {
        let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
        Ok(Self {
            tcp,
            tls: Some(Box::new(tls)),
        })
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Whether TLS has something to send that the socket did not take.
    pub fn has_unsent(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// With TLS, tells the peer that no more will come. As far as the socket takes it.
    pub fn finish(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
        }
        let _gone_already = self.flush();
    }
}

impl Read for Stream {
    /// With TLS, the buffer must have room for more than `CIPHERTEXT_BYTES`: what is not taken now is not announced
    /// again.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else {
            return (&self.tcp).read(buffer);
        };
        let mut ciphertext = [0; CIPHERTEXT_BYTES];
        let mut count = 0;
        let ends_with = loop {
            if buffer.len() - count < CIPHERTEXT_BYTES {
                break None;
            }
            let mut unread = match (&self.tcp).read(&mut ciphertext) {
                Ok(0) => break Some(Ok(0)),
                Ok(received) => &ciphertext[..received],
                Err(error) => break Some(Err(error)),
            };
            let mut failure = None;
            while failure.is_none() && !unread.is_empty() {
                failure = take_in(tls, &mut unread, buffer, &mut count).err();
            }
            if failure.is_some() {
                break failure.map(Err);
            }
        };
        // The handshake's answers, and the alert after a failure.
        let sent = self.flush();
        match ends_with {
            Some(Err(error)) if error.kind() != ErrorKind::WouldBlock => Err(error),
            _ if count > 0 => sent.map(|()| count),
            Some(end) => sent.and(end),
            None => Err(ErrorKind::WouldBlock.into()),
        }
    }
}

/// Decrypts some of `unread` and adds what comes of it to `buffer`.
fn take_in(
    tls: &mut ServerConnection,
    unread: &mut &[u8],
    buffer: &mut [u8],
    count: &mut usize,
) -> io::Result<()> {
    tls.read_tls(unread)?;
    tls.process_new_packets()
        .map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    loop {
        match tls.reader().read(&mut buffer[*count..]) {
            // The peer has said that it is done; the socket's end follows.
            Ok(0) => return Ok(()),
            Ok(plain) => *count += plain,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let Some(tls) = &mut self.tls else {
            return (&self.tcp).write(bytes);
        };
        // What is encrypted goes first, so that no more than one buffer of it waits.
        if tls.wants_write() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = tls.writer().write(bytes)?;
        self.flush()?;
        if count == 0 {
            Err(ErrorKind::WouldBlock.into())
        } else {
            Ok(count)
        }
    }

    /// Sends records as far as the socket takes them; that it is full is no error.
    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else {
            return Ok(());
        };
        while tls.wants_write() {
            match tls.write_tls(&mut &self.tcp) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
