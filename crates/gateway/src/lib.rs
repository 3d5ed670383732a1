//! linerate-gateway
#![forbid(unsafe_code)]
pub mod ns;
