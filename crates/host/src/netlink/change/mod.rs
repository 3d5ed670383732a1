//! A [`Change`] made, and read back.
//!
//! Whatever is named by others (a rule, a journal, a file of somebody's) is checked first: sysctls below
//! `net`, `vm` and `kernel`, files below `/sys` and `/proc/irq` that exist, parameters that the tables
//! know. All of it happens in the network namespace of the calling thread.

mod file;
mod ethtool;
mod link;
mod ntuple;
mod qdisc;
mod rss;

use std::io;
use std::path::Path;

use super::socket::Refused;
use crate::change::Change;
use crate::tune::SetError;

/// Makes a change, now. It does not write a journal and does not look whether it helped.
///
/// # Errors
/// What the kernel says, with its own sentence where it has one. `InvalidInput` for names and values
/// that are not what this module knows, `Unsupported` where the driver or this kernel can not.
pub fn apply(change: &Change) -> Result<(), SetError> {
    apply_in(change, Path::new("/sys"))
}

/// The same, where the sysfs of this namespace is at `sys`.
pub(crate) fn apply_in(change: &Change, sys: &Path) -> Result<(), SetError> {
    match change {
        Change::Sysctl { name, value } => file::set_sysctl(name, value),
        Change::File { path, value } => file::set(path, sys, value),
        Change::Ethtool { option, dev, set } => ethtool::set(*option, dev, set),
        Change::Link { dev, name, value } => link::set(dev, name, value),
        Change::Qdisc { dev, spec } => qdisc::set(dev, spec),
    }
    .map_err(|refused| explain(change, refused))
}

/// The same setting as it is now: the parameters that `like` names, in its order and its way of writing
/// them.
///
/// A qdisc that nobody asked for is `root default`; one of another kind than `like` is given with all
/// its parameters, so that it can be put back.
///
/// # Errors
/// As [`apply`]; `Unsupported` for a qdisc that could not be put back: one with classes, or of a kind
/// whose parameters are not known here.
pub fn read_back(like: &Change) -> Result<Change, SetError> {
    read_back_in(like, Path::new("/sys"))
}

/// The same, where the sysfs of this namespace is at `sys`.
pub(crate) fn read_back_in(like: &Change, sys: &Path) -> Result<Change, SetError> {
    let mut now = like.clone();
    match &mut now {
        Change::Sysctl { name, value } => file::get_sysctl(name).map(|v| *value = v),
        Change::File { path, value } => file::get(path, sys).map(|v| *value = v),
        Change::Ethtool { option, dev, set } => ethtool::get(*option, dev, set),
        Change::Link { dev, name, value } => link::get(dev, name).map(|v| *value = v),
        Change::Qdisc { dev, spec } => qdisc::get(dev, spec).map(|s| *spec = s),
    }
    .map_err(|refused| explain(like, refused))?;
    Ok(now)
}

fn explain(change: &Change, refused: Refused) -> SetError {
    let what = match refused.sentence {
        Some(sentence) => format!("{change} ({})", sentence.trim_end_matches('.')),
        None => change.to_string(),
    };
    SetError { what, source: refused.source }
}

fn invalid(why: impl Into<String>) -> Refused {
    io::Error::new(io::ErrorKind::InvalidInput, why.into()).into()
}

fn unsupported(why: impl Into<String>) -> Refused {
    io::Error::new(io::ErrorKind::Unsupported, why.into()).into()
}

/// The name of a device, as the kernel would take it.
fn device(name: &str) -> Result<&str, Refused> {
    let plain = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || !name.chars().all(plain) {
        return Err(invalid(format!("{name:?} is not the name of a device")));
    }
    Ok(name)
}
