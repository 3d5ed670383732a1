#![doc = include_str!("README.md")]

pub mod csum;
mod prefetch;
pub mod toeplitz;

pub use prefetch::{prefetch_all, prefetch_read};
pub use toeplitz::Toeplitz;
