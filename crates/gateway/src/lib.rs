#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod config;
pub mod control;
pub mod count;
mod dns;
mod forward;
pub mod gateway;
mod host;
mod icmp;
mod message;
pub mod ns;
pub mod policy;
mod tcp;
mod udp;

pub use config::{Config, Family, Filtering, Forward, Limits, Transport};
pub use count::{Count, Counts};
pub use gateway::{GATEWAY_TOKENS, Gateway};
pub use policy::Denied;
pub use tcp::FlowRow;
