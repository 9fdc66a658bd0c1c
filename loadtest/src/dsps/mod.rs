//! The DSP simulator: real HTTP servers on sockets that answer as `simulated` says.
