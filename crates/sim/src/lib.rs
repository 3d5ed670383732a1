#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod link;
pub mod machine;
mod world;

pub use link::{Link, Lost};
pub use world::{NodeId, Port, World};
