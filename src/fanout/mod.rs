//! Asks DSPs under a deadline. Moves bytes; never reads JSON, never knows about prices.
