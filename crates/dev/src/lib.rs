#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("linerate-dev drives Linux's devices: it builds on Linux only");

mod burst;
pub mod device;
pub mod drive;
pub mod ebpf;
pub mod file;
pub mod journal;
pub mod mem;
pub mod netdev;
pub mod null;
mod offload;
pub mod packet;
pub mod pcap;
pub mod poller;
pub mod sys;
pub mod tun;
pub mod vnet;
pub mod xdp;
pub mod worker;

pub use device::{Caps, Counts, Device, Layer, RxCx};
