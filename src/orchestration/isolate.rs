//! The request boundary: a panic inside costs that request and nothing else.
//!
//! glommio takes a whole executor down with one uncaught panic, and with it every request on that core.

use std::any::Any;
use std::fmt;
use std::panic::AssertUnwindSafe;

use futures_lite::FutureExt;

/// A request made us panic: our own bug, with what the panic said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Panicked(String);

impl fmt::Display for Panicked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Runs one request's future.
///
/// What the future shares with others is behind `Cell` and `RefCell`, is left by short calls only, and each of them
/// leaves it whole: that is why going on after an unwind is sound.
///
/// # Errors
/// [`Panicked`] if it panicked; the future is gone then, and all it held was given back.
pub async fn isolate<T>(request: impl Future<Output = T>) -> Result<T, Panicked> {
    AssertUnwindSafe(request)
        .catch_unwind()
        .await
        .map_err(|payload| Panicked(message(&*payload)))
}

fn message(payload: &(dyn Any + Send)) -> String {
    payload
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "a panic without a message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_lite::future::{block_on, yield_now};

    #[test]
    fn a_panic_is_an_answer() {
        assert_eq!(block_on(isolate(async { 7 })), Ok(7));
        let early = isolate(async { panic!("at the {}", "start") });
        assert_eq!(block_on(early), Err::<(), _>(Panicked("at the start".to_owned())));
        let late = isolate(async {
            yield_now().await;
            panic!("later")
        });
        assert_eq!(block_on(late), Err::<(), _>(Panicked("later".to_owned())));
    }
}
