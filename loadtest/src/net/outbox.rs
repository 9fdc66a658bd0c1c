//! Bytes on their way out of one connection: filled by many answers, written by one call.

use std::io::{self, ErrorKind, Write};

/// Append with [`Outbox::buffer`], send with [`Outbox::flush`].
#[derive(Debug, Default)]
pub struct Outbox {
    buffer: Vec<u8>,
    sent: usize,
}

/// A buffer that a burst has grown past this is given back once it is empty.
const KEEP_BYTES: usize = 256 * 1024;

impl Outbox {
    /// Where to append. What is there already must be left alone.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        &mut self.buffer
    }

    /// Bytes not yet taken by the socket.
    pub fn len(&self) -> usize {
        self.buffer.len() - self.sent
    }

    /// True when there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Writes until all is sent (true) or the socket is full (false): normally one system call.
    ///
    /// # Errors
    /// What the socket reports: the connection is lost.
    pub fn flush(&mut self, mut socket: impl Write) -> io::Result<bool> {
        while !self.is_empty() {
            match socket.write(&self.buffer[self.sent..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.buffer.clear();
        self.sent = 0;
        if self.buffer.capacity() > KEEP_BYTES {
            self.buffer = Vec::new();
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes three bytes, then says it is full once.
    #[derive(Default)]
    struct Narrow {
        taken: Vec<u8>,
        full: bool,
    }

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.full = !self.full;
            if !self.full {
                return Err(ErrorKind::WouldBlock.into());
            }
            let count = bytes.len().min(3);
            self.taken.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_socket_loses_nothing_and_later_bytes_queue_behind() -> io::Result<()> {
        let (mut outbox, mut socket) = (Outbox::default(), Narrow::default());
        outbox.buffer().extend_from_slice(b"abcd");
        assert!(!outbox.flush(&mut socket)?);
        assert_eq!(outbox.len(), 1);
        outbox.buffer().extend_from_slice(b"ef");
        assert!(outbox.flush(&mut socket)?);
        assert!(outbox.is_empty());
        assert_eq!(socket.taken, b"abcdef");
        Ok(())
    }
}
