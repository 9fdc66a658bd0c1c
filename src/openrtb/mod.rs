//! The OpenRTB protocol: parse, validate, splice, write. Never touches a socket or a clock.

pub mod codes;
