#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("linerate-bpf speaks to Linux's bpf(2): it builds on Linux only");

pub mod asm;
mod insn;
pub mod sys;

pub use insn::Insn;
