#![doc = include_str!("README.md")]

pub mod fib;
pub mod forward;
pub mod frag;
pub mod icmp;
pub mod input;
pub mod ndisc;
pub mod output;
pub mod reasm;
pub mod route;

#[cfg(test)]
pub(crate) mod testkit;
#[cfg(test)]
mod tests;
