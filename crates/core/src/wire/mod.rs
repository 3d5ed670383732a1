//! Headers: parse and emit; no state, no counters, no panics.
