//! linerate-lab
#![forbid(unsafe_code)]
