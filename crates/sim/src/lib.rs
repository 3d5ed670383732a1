//! linerate-sim
#![forbid(unsafe_code)]
