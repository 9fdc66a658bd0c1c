//! One core with its executor and all it owns.
