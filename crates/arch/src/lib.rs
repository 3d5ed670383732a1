#![doc = include_str!("README.md")]

mod counted;
pub mod csum;
pub mod huge;
mod prefetch;
pub mod toeplitz;

pub use counted::Counted;
pub use huge::advise_huge;
pub use prefetch::{prefetch_all, prefetch_first, prefetch_read};
pub use toeplitz::Toeplitz;
