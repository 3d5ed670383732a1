//! Stages that exist on the transmit path only.

pub mod gso;
pub mod qdisc;
pub mod xmit;
