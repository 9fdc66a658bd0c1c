//! What a shard stands on: sockets, readiness, hyper glue. The one place with glommio sockets.
