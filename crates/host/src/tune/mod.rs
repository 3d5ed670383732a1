//! Changes of settings that can be undone: plan, apply, verify, roll back.
//!
//! ```text
//! Findings -> Plan (what is, what shall be, risk, owner) -> apply: journal, write, read back
//!          -> verify: the finding is gone and nothing else got worse -> keep, or roll back
//! ```
//!
//! The journal is on disk before a setting is touched. A change is claimed only when it reads back,
//! and undone only while the value is still the one that we set; otherwise it has drifted, and that is
//! said instead.

mod apply;
mod journal;
mod live;
mod owners;
mod persist;
mod plan;
mod until;
mod verify;

use std::fmt;
use std::io;

pub use apply::{Outcome, Undone, apply, roll_back};
pub use journal::{Before, Entry, Journal, JournalError, State, since_boot_ms};
pub use owners::{Manager, Owner};
pub use persist::{Files, Other, PersistError, Persisted};
pub use plan::{BY_HAND, Plan, Refused, Step};
pub use until::{Grown, Growth, grow};
pub use verify::{Verdict, packets_per_s, verify};

use crate::change::Change;

/// What settings are read from and written to: this host, or a model of one in tests.
pub trait Settings {
    /// The same setting as it is now.
    ///
    /// # Errors
    /// What the kernel says; `Unsupported` if there is no such setting here.
    fn get(&mut self, like: &Change) -> Result<Change, SetError>;

    /// Makes a change.
    ///
    /// # Errors
    /// What the kernel says.
    fn set(&mut self, change: &Change) -> Result<(), SetError>;
}

/// Why a setting was not read or not changed.
#[derive(Debug)]
pub struct SetError {
    /// What was asked for.
    pub what: String,
    /// What the kernel said.
    pub source: io::Error,
}

impl SetError {
    /// The errno, if the kernel gave one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.source)?;
        f.write_str(match self.source.kind() {
            io::ErrorKind::PermissionDenied => {
                "; it needs root (CAP_NET_ADMIN) in the namespace that owns it, which is the host's \
                 first one for settings of the whole host"
            }
            io::ErrorKind::NotFound => {
                "; this kernel, device or namespace has no such setting (many exist only in the host's \
                 first namespace)"
            }
            io::ErrorKind::Unsupported => "; the driver can not do it",
            _ => "",
        })
    }
}

impl std::error::Error for SetError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
pub(crate) mod model;
