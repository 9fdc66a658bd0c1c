//! A bell of one shard that one task listens for, as often as it is rung.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Rung any number of times before it is heard, it is heard once.
#[derive(Debug, Default)]
pub struct Bell {
    rung: Cell<bool>,
    listens: RefCell<Option<Waker>>,
}

impl Bell {
    /// Wakes the listener, now or as soon as it listens.
    pub fn ring(&self) {
        self.rung.set(true);
        if let Some(waker) = self.listens.take() {
            waker.wake();
        }
    }

    /// Waits until it has been rung since it was last heard.
    pub async fn rung(&self) {
        poll_fn(|cx| {
            if self.rung.take() {
                return Poll::Ready(());
            }
            *self.listens.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;

    #[test]
    fn is_heard_once_however_often_it_was_rung() {
        let bell = Bell::default();
        let heard = || {
            pin!(bell.rung())
                .poll(&mut Context::from_waker(Waker::noop()))
                .is_ready()
        };
        assert!(!heard());
        bell.ring();
        bell.ring();
        assert!(heard());
        assert!(!heard());
    }
}
