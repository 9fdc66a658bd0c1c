//! A bell that any thread may ring and one shard hears, asleep or not: an eventfd in the shard's readiness set.

use std::fs::File;
use std::future::poll_fn;
use std::io::{self, Write};
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use super::{Readiness, Watch};

/// See the module's description.
///
/// Nobody reads it: in an edge-triggered set each ring is an event of its own, and its counter, which goes up by one
/// with each, never reaches its end.
#[derive(Debug)]
pub struct Doorbell(File);

impl Doorbell {
    /// A bell that nobody hears yet.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was made just now and nobody else owns it.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }.into()))
    }

    /// Wakes the shard that hears it, from whatever thread.
    pub fn ring(&self) {
        // Only a full counter could refuse, and then it has been rung often enough.
        let _rung_already = (&self.0).write(&1_u64.to_ne_bytes());
    }
}

/// A shard's ear for a bell; one task listens.
#[derive(Debug)]
pub struct Hearing(Watch);

impl Hearing {
    /// From now on the shard of this set hears `bell`, which must not go before this does.
    ///
    /// # Errors
    /// When the kernel's limit of watches is reached.
    pub fn new(bell: &Doorbell, readiness: &Rc<Readiness>) -> io::Result<Self> {
        readiness.join(bell.0.as_fd()).map(Self)
    }

    /// Waits until the bell is rung; also true at first, for what was there before.
    pub async fn rung(&self) {
        poll_fn(|cx| self.0.poll_readable(cx)).await;
        self.0.has_been_read();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::task::{Context, Waker};
    use std::time::Duration;

    use super::*;
    use crate::clock::now;

    #[test]
    fn wakes_a_sleeping_shard_each_time() {
        let readiness = Rc::new(Readiness::new().unwrap());
        let bell = Arc::new(Doorbell::new().unwrap());
        let hearing = Hearing::new(&bell, &readiness).unwrap();
        let rung = || {
            std::pin::pin!(hearing.rung())
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        };
        assert!(rung(), "at first");
        // An eventfd can be written to from the start, which is an event as well.
        readiness.take(|_, _| ()).unwrap();
        for round in 0..3 {
            assert!(!rung(), "{round}");
            let rings = Arc::clone(&bell);
            let started = now();
            let other = std::thread::spawn(move || {
                std::thread::park_timeout(Duration::from_millis(20));
                rings.ring();
                rings.ring();
            });
            readiness.wait().unwrap();
            assert!(now().since(started) >= Duration::from_millis(15), "it slept");
            other.join().unwrap();
            readiness.take(|_, _| ()).unwrap();
            assert!(rung(), "{round}");
            readiness.take(|_, _| ()).unwrap();
            // The second ring may have been an event of its own.
            let _second = rung();
        }
    }
}
