//! The kernel's network path, read.
//!
//! ```text
//! source (this host | a directory | a record) -> proc, netlink: bytes to -> Snapshot
//! two Snapshots -> Window (rates) -> ledger (one loss, one count) -> rules -> Findings
//! Finding -> Change -> tune: plan, apply, verify, roll back
//! ```
//!
//! Everything is read through a [`source::Source`], which maps the name of a file, or of a netlink
//! message, to bytes. So a running host, somebody's `sosreport` and a record are the same to all
//! that follows, and every parser is tested with bytes of other people's hosts.
#![deny(unsafe_code)]

pub mod bpf;
pub mod change;
pub mod collect;
pub mod counters;
pub mod finding;
pub mod ledger;
pub mod netlink;
pub mod netns;
pub mod proc;
pub mod record;
pub mod rules;
pub mod snapshot;
pub mod source;
mod sys;
pub mod tracefs;
pub mod tune;
pub mod window;

pub use counters::Counters;
pub use finding::{Advice, Evidence, Finding, Risk, Severity};
pub use snapshot::Snapshot;
pub use window::{Cx, Goal, Window};
