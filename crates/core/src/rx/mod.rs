#![doc = include_str!("README.md")]

pub mod backlog;
pub mod gro;
pub mod ingress;
pub mod queue;
pub mod steer;
pub mod xdp;
