//! IPv4 and IPv6.
pub mod forward;
pub mod frag;
pub mod icmp;
pub mod input;
pub mod output;
pub mod reasm;
pub mod route;
