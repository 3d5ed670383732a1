//! linerate-gateway
#![forbid(unsafe_code)]
