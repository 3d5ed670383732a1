#![doc = include_str!("README.md")]

pub mod capture;
mod client;
mod merge;
mod rows;
mod server;
pub mod snapshot;

pub use capture::{CaptureRequest, Capturing};
pub use client::{Captured, Client, ClientError, Next, instances};
pub use server::{BindError, ControlServer, Promise};
pub use snapshot::{Meta, Snapshot};

use std::fmt;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use linerate_core::shard::Shard;
use linerate_core::table::knob::SetError;
use serde::{Deserialize, Serialize};

/// What may be asked: one JSON object on one line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// Everything that reports are made of, with at most so many sockets of each kind listed.
    Snapshot {
        /// Sockets of each kind.
        #[serde(default)]
        sockets: usize,
    },
    /// The value of a knob.
    Get(String),
    /// A new value for a knob.
    Set(String, String),
    /// A rule that sends chosen flows to a queue, in the words of `ethtool -N`: `flow-type udp4
    /// dst-port 53 action 1`, with `loc N` for its place.
    AddRule(String),
    /// No rule at this location any more.
    DeleteRule(u32),
    /// Packets, as they pass: the answer's line is followed by records until one side ends.
    Capture(CaptureRequest),
}

/// What is answered: one JSON object on one line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// To [`Request::Snapshot`].
    Snapshot(Box<Snapshot>),
    /// To all others: the value as it is now. A rule is the value of a knob called `ntuple`.
    Value {
        /// The knob.
        knob: String,
        /// Its value.
        value: String,
        /// What whoever set it should know: a sentence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
    },
    /// To [`Request::Capture`].
    Capturing(Capturing),
    /// The request can not be granted: a sentence for the user.
    Error(String),
}

/// Sockets of each kind that one snapshot lists at the most, whatever is asked: a snapshot is taken
/// in the packet loop.
pub const SOCKETS_MAX: usize = 16_384;

/// Answers a request: what an owner of a shard hands to [`ControlServer::turn`]. `meta` is called
/// for snapshots only.
pub fn answer(shard: &mut Shard, request: Request, meta: impl FnOnce() -> Meta) -> Response {
    let value = |shard: &Shard, knob: String| match shard.get_knob(&knob) {
        Ok(value) => Response::Value { knob, value, note: None },
        Err(e) => Response::Error(e.to_string()),
    };
    match request {
        Request::Snapshot { sockets } => {
            let meta = Meta { sockets_max: sockets.min(SOCKETS_MAX), ..meta() };
            Response::Snapshot(Box::new(Snapshot::take(shard, meta)))
        }
        Request::Get(knob) => value(shard, full_name(knob)),
        Request::Set(knob, new) => match set(shard, &knob, &new) {
            Ok(()) => match value(shard, full_name(knob)) {
                Response::Value { knob, value, .. } => {
                    let note = without_effect(&knob, &value, 1);
                    Response::Value { knob, value, note }
                }
                refused => refused,
            },
            Err(why) => Response::Error(why),
        },
        Request::AddRule(_) | Request::DeleteRule(_) => Response::Error(ONE_QUEUE.to_owned()),
        Request::Capture(wanted) => match capture_one(shard, &wanted) {
            Ok(begun) => Response::Capturing(begun),
            Err(why) => Response::Error(why),
        },
    }
}

/// Begins a capture on the only shard.
fn capture_one(shard: &mut Shard, wanted: &CaptureRequest) -> Result<Capturing, String> {
    let spec = wanted.compile()?;
    let begun = Capturing { devices: capture::devices(shard), ..Capturing::default() };
    capture::begin(shard, spec, &begun.ports).map_err(|e| e.to_string())?;
    Ok(begun)
}

/// Why a knob that is about several shards has no effect yet, where there is only one: a sentence.
/// Nothing needs to be said of a value that is the default.
#[must_use]
pub fn without_effect(knob: &str, value: &str, shards: usize) -> Option<String> {
    const OF_SEVERAL: [&str; 5] =
        ["queues.", "net.core.rps_", "rss.", "rx-flow-hash.", "features.ntuple"];
    let row = linerate_core::table::Knobs::row(knob).ok()?;
    let default = linerate_core::table::Knobs::default().get(row.path).unwrap_or_default();
    let several = OF_SEVERAL.iter().any(|begin| row.path.starts_with(begin));
    (shards < 2 && several && value != default).then(|| {
        format!(
            "{} has no effect as long as there is one shard; `linerate up --queues 2`, or \
             `linerate set channels.combined=2` while it runs, makes two",
            row.path
        )
    })
}

/// The knob's path, where a part of it was given.
fn full_name(knob: String) -> String {
    linerate_core::table::Knobs::row(&knob).map_or(knob, |row| row.path.to_owned())
}

/// Why a single shard refuses what speaks of several queues.
const ONE_QUEUE: &str = "this instance has one queue, so that nothing is to be distributed: \
                         `linerate up --queues N` has more";

fn set(shard: &mut Shard, knob: &str, value: &str) -> Result<(), String> {
    let text = |e: SetError| e.to_string();
    if linerate_core::tx::qdisc::At::parse(knob).is_some()
        || linerate_core::rx::ingress::place(knob).is_some()
    {
        return shard.set_knob(knob, value).map_err(text);
    }
    let row = linerate_core::table::Knobs::row(knob).map_err(text)?;
    if row.takes == linerate_core::table::knob::Takes::Restart {
        return Err(text(SetError::NotNow { path: row.path }));
    }
    // What the value itself is, is judged first: a wrong one is wrong everywhere.
    let mut tried = shard.net.knobs.clone();
    tried.set(row.path, value).map_err(text)?;
    let distributes = row.path == "channels.combined" || row.path.starts_with("rss.");
    if distributes && tried.get(row.path) != shard.net.knobs.get(row.path) {
        return Err(format!("{}: {ONE_QUEUE}", row.path));
    }
    shard.set_knob(row.path, value).map_err(text)
}

/// Why a name of an instance is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NameError {
    /// It is empty or longer than [`NAME_MAX`] bytes.
    Length,
    /// It holds something other than letters, digits, `-`, `_` and `.`, or begins with a dot.
    Letters,
}

/// Bytes of a name at the most: with the directory it must fit a socket's address (107 bytes).
pub const NAME_MAX: usize = 48;

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NameError::Length => write!(f, "a name has 1 to {NAME_MAX} letters"),
            NameError::Letters => f.write_str(
                "a name is made of letters, digits, '-', '_' and '.', and begins with no dot",
            ),
        }
    }
}
impl std::error::Error for NameError {}

/// Whether an instance may be called `name`.
///
/// # Errors
/// [`NameError`] (EINVAL).
pub fn check_name(name: &str) -> Result<(), NameError> {
    if name.is_empty() || name.len() > NAME_MAX {
        return Err(NameError::Length);
    }
    let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if name.starts_with('.') || !name.bytes().all(good) {
        return Err(NameError::Letters);
    }
    Ok(())
}

/// The name of an instance that the user did not name: the program's, with our process number.
pub fn default_name(program: &str) -> String {
    let last = program.rsplit('/').next().unwrap_or_default();
    let good = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let word: String = last.chars().filter(good).take(NAME_MAX - 12).collect();
    let word = if word.is_empty() { "run" } else { &word };
    format!("{word}-{}", std::process::id())
}

/// The private directory of this user's control sockets; made if `make`, checked in any case: it is
/// no symbolic link, it is ours, and nobody else may enter it.
///
/// # Errors
/// `NotFound` if it does not exist and is not to be made; otherwise an error that says what is
/// wrong with which path and what to do.
fn directory(make: bool) -> io::Result<PathBuf> {
    private_dir(&place(), rustix::process::geteuid().as_raw(), make)
}

/// Where that directory is, or is to be.
fn place() -> PathBuf {
    let uid = rustix::process::geteuid().as_raw();
    choose(std::env::var_os("XDG_RUNTIME_DIR").as_deref(), uid)
}

fn choose(xdg: Option<&std::ffi::OsStr>, uid: u32) -> PathBuf {
    // A runtime directory of somebody else (as under `sudo -E`) is none to put our sockets in.
    let own = |path: &Path| {
        path.is_absolute() && path.metadata().is_ok_and(|m| m.is_dir() && m.uid() == uid)
    };
    let xdg = xdg.map(PathBuf::from).filter(|p| own(p) && p.as_os_str().len() < 50);
    let run = Some(PathBuf::from(format!("/run/user/{uid}"))).filter(|p| own(p));
    match xdg.or(run) {
        Some(runtime) => runtime.join("linerate"),
        None => PathBuf::from(format!("/tmp/linerate-{uid}")),
    }
}

fn private_dir(path: &Path, uid: u32, make: bool) -> io::Result<PathBuf> {
    if make {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display())));
            }
            _ => {}
        }
    }
    let found = path.symlink_metadata()?;
    let wrong = match () {
        () if !found.is_dir() => "is not a directory",
        () if found.uid() != uid => "belongs to another user",
        () if found.mode() & 0o077 != 0 => "may be entered by other users",
        () => return Ok(path.to_owned()),
    };
    Err(io::Error::other(format!(
        "{} {wrong}: remove it, or set XDG_RUNTIME_DIR to a private directory of yours",
        path.display()
    )))
}

#[cfg(test)]
mod tests;
