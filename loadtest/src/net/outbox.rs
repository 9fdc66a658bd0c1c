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
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    self.forget_what_was_sent();
                    return Ok(false);
                }
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

    /// A peer that is always behind leaves something to send at all times. Moves the rest once what was sent is the
    /// larger part, so that a byte is moved no more than once.
    fn forget_what_was_sent(&mut self) {
        if self.sent > KEEP_BYTES && self.sent > self.len() {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
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

    #[test]
    fn a_peer_that_is_always_behind_does_not_fill_the_memory() -> io::Result<()> {
        /// Takes a chunk at a time, and is then full.
        struct Slow(bool);

        impl Write for Slow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.0 = !self.0;
                if self.0 {
                    Ok(bytes.len().min(10_000))
                } else {
                    Err(ErrorKind::WouldBlock.into())
                }
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let (mut outbox, mut socket) = (Outbox::default(), Slow(false));
        outbox.buffer().extend_from_slice(&[0; 20_000]);
        for _ in 0..1_000 {
            outbox.buffer().extend_from_slice(&[0; 10_000]);
            assert!(!outbox.flush(&mut socket)?);
            assert_eq!(outbox.len(), 20_000);
        }
        let bytes = outbox.buffer().len();
        assert!(bytes < 2 * KEEP_BYTES, "{bytes} of 10 MB kept");
        Ok(())
    }
}
