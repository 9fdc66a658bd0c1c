//! Time as an argument: instants and the deadline wheel.
