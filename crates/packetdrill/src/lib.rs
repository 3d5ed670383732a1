#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

mod addr;
mod calls;
mod data;
mod epoll;
mod files;
mod flags;
mod opts;
mod stack;
mod stamps;
// The C interface: the only place here where pointers are followed.
#[allow(unsafe_code)]
pub mod sys;
mod wait;
mod zerocopy;

/// An error number of Linux.
type Errno = i32;
