#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

mod card;
mod link;
pub mod machine;
mod node;
mod shards;
mod streams;
mod world;

pub use link::{Link, Lost, Passed};
pub use shards::{Move, Place};
pub use streams::Streams;
pub use world::{NodeId, Passing, Port, World};
