//! The open-loop SSP.

mod body;
mod random;
mod schedule;

pub(crate) use random::Random;
pub use schedule::Arrivals;
