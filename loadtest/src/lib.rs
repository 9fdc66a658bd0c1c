//! Open-loop SSP load generator and DSP simulator for OpenRTB exchanges.
//! Never links the exchange: what it expects of an auction, it works out for itself.

pub mod certificates;
pub mod dsps;
pub mod generate;
pub mod net;
pub mod oracle;
pub mod report;
pub mod scenario;
pub mod simulated;
