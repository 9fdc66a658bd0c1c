//! Whether to send bid requests here: what `/readyz` tells a load balancer.

use std::sync::atomic::{AtomicU8, Ordering};

/// Where the process is in its life. It only moves forward: who drains does not become ready again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Not all shards listen yet.
    Starting,
    /// Bid requests are welcome.
    Ready,
    /// What is in flight is finished, and nothing new is wanted.
    Draining,
}

/// The process's state, shared between the supervisor and the admin port. Not read on any request's path.
#[derive(Debug, Default)]
pub struct Readiness(AtomicU8);

impl Readiness {
    /// Starts as [`State::Starting`].
    pub fn new() -> Self {
        Self::default()
    }

    /// Moves on to `state`, or stays if that lies behind.
    pub fn advance(&self, state: State) {
        self.0.fetch_max(state as u8, Ordering::Relaxed);
    }

    /// The state now.
    pub fn state(&self) -> State {
        match self.0.load(Ordering::Relaxed) {
            0 => State::Starting,
            1 => State::Ready,
            _ => State::Draining,
        }
    }
}

impl State {
    /// One word for people and programs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Draining => "draining",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_only_moves_forward() {
        let readiness = Readiness::new();
        for (advance_to, expected) in [
            (State::Starting, State::Starting),
            (State::Ready, State::Ready),
            (State::Starting, State::Ready),
            (State::Draining, State::Draining),
            (State::Ready, State::Draining),
        ] {
            readiness.advance(advance_to);
            assert_eq!(readiness.state(), expected);
        }
    }
}
