//! linerate-gateway
#![forbid(unsafe_code)]
pub mod control;
pub mod ns;
