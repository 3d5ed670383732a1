#![doc = include_str!("README.md")]

mod lane;
pub mod nic;
mod pair;
mod queue;

pub use nic::{Nic, nic};
pub use pair::{Config, Mem, pair};
pub use queue::MemQueue;
