//! What the generator and the simulator stand on: readiness, timers, and HTTP as bytes in and bytes out.
//! Single-threaded by design: nothing here locks, spawns or logs, and the codecs never touch a socket.

pub mod h1;
pub mod h2;
pub mod hpack;
mod huffman;
pub mod outbox;
pub mod poller;
pub mod stream;
pub mod thread;
pub mod timers;
