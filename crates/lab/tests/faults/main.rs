//! The fault laboratory: each fault of the network path made for real, on the kernel that runs here.
//!
//! For each: the doctor names the right finding first and none that has nothing to do with it, and
//! what it advises makes it go away. A healthy host under load gives no finding.
#![forbid(unsafe_code)]

#[path = "../../../dev/tests/again/mod.rs"]
mod again;
mod backlog;
mod devices;
mod doctor;
mod filters;
mod frames;
mod ip;
mod knobs;
mod layers;
mod paths;
mod qdisc;
mod rig;
mod tcp;
mod traffic;
mod udp;
