//! The oracle.
mod answer;
mod consistency;
mod rules;
pub use rules::{FloorRule, Rules};
