//! Offers in, winner and clearing price out. Pure: no time, no I/O, no configuration, no JSON.
