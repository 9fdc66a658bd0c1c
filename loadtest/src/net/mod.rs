//! Nonblocking sockets, timers and the HTTP codecs that the generator and the simulator share.
