//! Counts and histograms, recorded on the shard without a lock, merged elsewhere.
