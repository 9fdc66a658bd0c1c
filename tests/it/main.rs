//! The exchange as SSPs, DSPs and operators meet it: the real binary, over real sockets, in front of DSPs that this
//! process simulates or scripts. Nothing here knows the inside; what is asked of the exchange is what `docs` promise.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should stop where it is"
)]
#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "these are the programs around the exchange: threads, locks and clocks of their own"
)]

mod abuse;
mod abuse_h1;
mod abuse_h2;
mod auctions;
mod balance;
mod client;
mod corpus;
mod events;
mod faults;
mod forwarding;
mod gates;
mod h2c;
mod handover;
mod harness;
mod http;
mod lateness;
mod lifecycle;
mod logs;
mod measures;
mod observability;
mod ours;
mod overload;
mod page;
mod readers;
mod rehearsal;
mod reload;
mod scenarios;
mod scripted;
mod scripts;
mod soak;
mod tls;
mod warm;
