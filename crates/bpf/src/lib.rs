#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("linerate-bpf speaks to Linux's bpf(2): it builds on Linux only");

pub mod asm;
pub mod check;
pub mod helpers;
pub mod insn;
pub mod maps;
pub mod object;
pub mod prog;
pub mod sys;
pub mod vm;

pub use insn::Insn;
