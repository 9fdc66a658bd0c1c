//! One bid request from bytes to outcome. Knows nothing of HTTP.
