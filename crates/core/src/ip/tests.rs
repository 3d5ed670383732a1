//! The stages of IP, from bytes in to bytes out.

mod forward;
mod input;
mod output;
mod property;
mod reasm;
mod route;
