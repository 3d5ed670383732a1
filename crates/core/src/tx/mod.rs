#![doc = include_str!("README.md")]

pub mod dql;
pub mod gso;
pub mod qdisc;
pub mod xmit;
pub mod xps;
