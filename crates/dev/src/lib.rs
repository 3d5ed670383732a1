#![doc = include_str!("README.md")]
#![deny(unsafe_code)]

#[cfg(not(target_os = "linux"))]
compile_error!("linerate-dev drives Linux's devices: it builds on Linux only");

pub mod netdev;
pub mod pcap;
pub mod poller;
pub mod sys;
pub mod vnet;
