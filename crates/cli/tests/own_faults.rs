//! The fault laboratory of our own path: each fault made for real in a stack of ours that runs, with the
//! kernel's stack as its client, and judged by `linerate doctor --name`.
//!
//! Goal: the doctor names the rule that the same fault has on the kernel's path first, and none that has
//! nothing to do with it; what it advises is `linerate set ...`, and that makes the finding go away while
//! the traffic goes on. A healthy instance under load gives no finding.
//! Method: namespaces with a veth pair between them; `linerate up` or `run` at one end, at the other plain
//! sockets, or frames as no kernel would send them. The fault goes on until the doctor has seen it.

#[path = "../../dev/tests/again/mod.rs"]
mod again;
#[allow(dead_code, reason = "the laboratory of the kernel's path uses the rest")]
#[path = "../../lab/tests/faults/frames.rs"]
mod frames;
#[allow(dead_code, reason = "the laboratory of the kernel's path uses the rest")]
#[path = "../../lab/tests/faults/rig.rs"]
mod rig;
#[allow(dead_code, reason = "the laboratory of the kernel's path uses the rest")]
#[path = "../../lab/tests/faults/traffic.rs"]
mod traffic;

#[path = "own_faults/doctor.rs"]
mod doctor;
#[path = "own_faults/own.rs"]
mod own;

#[path = "own_faults/ip.rs"]
mod ip;
#[path = "own_faults/run.rs"]
mod run;
#[path = "own_faults/rx.rs"]
mod rx;
#[path = "own_faults/tcp.rs"]
mod tcp;
#[path = "own_faults/tx.rs"]
mod tx;
#[path = "own_faults/udp.rs"]
mod udp;
