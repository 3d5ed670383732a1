//! Every rule, with snapshots made by hand: it fires with the right cause and advice, and is silent on
//! a busy host that is well, below its threshold, and where its counter is not there.

#[path = "rules/build.rs"]
mod build;
#[path = "rules/devices.rs"]
mod devices;
#[path = "rules/engine.rs"]
mod engine;
#[path = "rules/healthy.rs"]
mod healthy;
#[path = "rules/ledger.rs"]
mod ledger;
#[path = "rules/moving.rs"]
mod moving;
#[path = "rules/network.rs"]
mod network;
#[path = "rules/processors.rs"]
mod processors;
#[path = "rules/sockets.rs"]
mod sockets;
#[path = "rules/trees.rs"]
mod trees;
#[path = "rules/upper.rs"]
mod upper;
