#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod link;
pub mod machine;
mod node;
mod streams;
mod world;

pub use link::{Link, Lost, Passed};
pub use streams::Streams;
pub use world::{NodeId, Passing, Port, World};
