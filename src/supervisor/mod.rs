//! Keeps shards running and ends the process cleanly.
