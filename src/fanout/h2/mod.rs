//! HTTP/2 as a client speaks it (RFC 9113): calls in, frames out; bytes in, answers out. Never touches a socket, never
//! reads a clock. Made for thousands of short calls on one connection: a request's header block is a constant made
//! once per DSP, a call costs a place in a ring and a slot, and nothing is allocated for it here.
//!
//! Strict where a mistake could give one auction another's answer or let a DSP use up the shard; lenient where two
//! sides may honestly have crossed on the wire.

mod connection;
mod frame;
pub mod hpack;
mod huffman;
mod output;
mod streams;

pub use connection::{ClientConnection, Event, Head, Refused};
pub use frame::Violation;
pub use hpack::RequestBlock;
