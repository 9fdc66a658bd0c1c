//! corebid: an OpenRTB exchange server. One pinned executor per core; a bid request is parsed, fanned out,
//! auctioned and answered on the core that accepted it.
//!
//! The modules stand in the order in which a bid request meets them; below them is what they stand on, and
//! last what runs beside the path.

pub mod ingress;

pub mod orchestration;

pub mod openrtb;

pub mod fanout;

pub mod auction;

pub mod money;

pub mod clock;
pub mod net;

pub mod config;
pub mod control;
pub mod logs;
pub mod report;
pub mod shard;
pub mod supervisor;
pub mod telemetry;
