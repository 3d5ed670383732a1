//! Why packets are dropped, without BPF: the tracepoint `skb:kfree_skb` in an instance of our own.
//!
//! An instance has buffers of its own, so nobody else's tracing is disturbed. Where the kernel has
//! histograms it counts by itself (`hist:keys=reason,location.sym`), else events are read and counted
//! here. Names of reasons are those that the running kernel prints: their numbers are no ABI.
//!
//! The instance is removed when the tap is dropped. One that a killed process left behind is removed
//! by the next tap: each holds a lock on its directory, which the kernel lets go with the process.
//! Linux: include/trace/events/skb.h, Documentation/trace/{ftrace,histogram}.rst

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, OFlags};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};

use crate::counters::Counters;
use crate::snapshot::{Drops, Snapshot};

/// The name of what it gives.
pub const NAME: &str = "tracefs/kfree_skb";

/// Instances of ours begin so.
const PREFIX: &str = "linerate-";
const EVENT: &str = "events/skb/kfree_skb";
const HIST: &str = "hist:keys=reason,location.sym:size=4096";
/// Events, for each processor, until they are read: some 3000.
const BUFFER_KB: &str = "256";
/// Different reasons and functions that are kept apart; there are some hundred.
const KEYS_MAX: usize = 4096;
/// Bytes of events that one reading takes, so that it ends even under a flood.
const READ_MAX: usize = 16 << 20;

/// A tap on `skb:kfree_skb`. It sees the drops of the whole host, all namespaces together.
#[derive(Debug)]
pub struct KfreeSkb {
    dir: PathBuf,
    // The directory, locked as long as we live; and tracefs, if nobody else has it mounted.
    _lock: File,
    _root: Option<OwnedFd>,
    how: How,
    counts: BTreeMap<String, u64>,
    partial: Vec<u8>,
}

#[derive(Debug)]
enum How {
    Hist { reasons: BTreeMap<u64, String> },
    Events(File),
}

impl KfreeSkb {
    /// Begins to count.
    ///
    /// # Errors
    /// `PermissionDenied` without `CAP_SYS_ADMIN`; `NotFound` where the kernel has no tracing.
    pub fn begin() -> io::Result<KfreeSkb> {
        let (root, mount) = root()?;
        let instances = root.join("instances");
        sweep(&instances)?;
        let (dir, lock) = make(&instances)?;
        match start(&dir) {
            Ok(how) => {
                let (counts, partial) = (BTreeMap::new(), Vec::new());
                Ok(KfreeSkb { dir, _lock: lock, _root: mount, how, counts, partial })
            }
            Err(e) => {
                let _ = fs::remove_dir(&dir);
                Err(e)
            }
        }
    }

    /// All drops since the beginning: lines `REASON@function COUNT`, and at last `lost COUNT`, the events
    /// that came faster than they were read.
    ///
    /// # Errors
    /// What the kernel says, if somebody removed the instance for instance.
    pub fn read(&mut self) -> io::Result<Vec<u8>> {
        let lost = match &mut self.how {
            How::Hist { reasons } => {
                let text = fs::read_to_string(self.dir.join(EVENT).join("hist"))?;
                let (counts, lost) = hist(&text, reasons);
                self.counts = counts;
                lost
            }
            How::Events(pipe) => {
                let mut chunk = vec![0; 64 * 1024];
                let mut taken = 0;
                while taken < READ_MAX {
                    match pipe.read(&mut chunk) {
                        Ok(0) => break,
                        Ok(n) => {
                            taken += n;
                            self.partial.extend_from_slice(&chunk[..n]);
                            count(&mut self.partial, &mut self.counts);
                        }
                        Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                        Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                        Err(e) => return Err(e),
                    }
                }
                lost(&self.dir)
            }
        };
        let mut lines = String::new();
        for (key, count) in &self.counts {
            let _ = writeln!(lines, "{key} {count}");
        }
        let _ = writeln!(lines, "lost {lost}");
        Ok(lines.into_bytes())
    }
}

impl Drop for KfreeSkb {
    fn drop(&mut self) {
        // Nothing can be done about an error; the next tap tries again.
        let _ = stop(&self.dir, &self.how);
        self.how = How::Hist { reasons: BTreeMap::new() }; // The pipe is closed before rmdir.
        let _ = fs::remove_dir(&self.dir);
    }
}

/// Where tracefs is, or one that is mounted for us alone and that no path leads to.
fn root() -> io::Result<(PathBuf, Option<OwnedFd>)> {
    for path in ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"] {
        if Path::new(path).join("instances").is_dir() {
            return Ok((path.into(), None));
        }
    }
    let fs = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&fs)?;
    let mount =
        rustix::mount::fsmount(&fs, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())?;
    let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
    Ok((path.into(), Some(mount)))
}

/// Removes what killed processes left.
fn sweep(instances: &Path) -> io::Result<()> {
    for entry in fs::read_dir(instances)?.flatten() {
        if entry.file_name().to_string_lossy().starts_with(PREFIX)
            && let Ok(Some(_lock)) = lock(&entry.path())
        {
            let dir = entry.path();
            let _ = fs::write(dir.join(EVENT).join("enable"), "0");
            let _ = fs::write(dir.join(EVENT).join("trigger"), format!("!{HIST}"));
            let _ = fs::remove_dir(&dir);
        }
    }
    Ok(())
}

/// The directory, locked; `None` if somebody else has it locked.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::DIRECTORY.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(dir)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

fn make(instances: &Path) -> io::Result<(PathBuf, File)> {
    const TRIES: u32 = 16;
    for number in 0..TRIES {
        let dir = instances.join(format!("{PREFIX}{}-{number}", std::process::id()));
        match fs::create_dir(&dir) {
            // Between these two somebody's sweep may have taken it.
            Ok(()) => {
                if let Ok(Some(lock)) = lock(&dir) {
                    return Ok((dir, lock));
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other("every name of an instance of ours is taken"))
}

fn start(dir: &Path) -> io::Result<How> {
    let format = fs::read_to_string(dir.join(EVENT).join("format"))?;
    let trigger = dir.join(EVENT).join("trigger");
    if fs::write(&trigger, HIST).is_ok() {
        return Ok(How::Hist { reasons: reasons(&format) });
    }
    fs::write(dir.join("buffer_size_kb"), BUFFER_KB)?;
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let pipe =
        OpenOptions::new().read(true).custom_flags(nonblocking).open(dir.join("trace_pipe"))?;
    fs::write(dir.join(EVENT).join("enable"), "1")?;
    Ok(How::Events(pipe))
}

fn stop(dir: &Path, how: &How) -> io::Result<()> {
    match how {
        How::Hist { .. } => fs::write(dir.join(EVENT).join("trigger"), format!("!{HIST}")),
        How::Events(_) => fs::write(dir.join(EVENT).join("enable"), "0"),
    }
}

/// Names by number, from what the event prints: `{ 2, "NOT_SPECIFIED" }, ...`
fn reasons(format: &str) -> BTreeMap<u64, String> {
    let symbols = format.split_once("REC->reason, {").map_or("", |(_, rest)| rest);
    let mut all = BTreeMap::new();
    for one in symbols.split('{') {
        let Some((number, name)) = one.split_once(',') else { continue };
        let name = name.split('"').nth(1);
        if let (Some(number), Some(name)) = (integer(number.trim()), name) {
            all.insert(number, name.to_string());
        }
    }
    all
}

fn integer(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// A histogram's lines: `{ reason: 3, location: [ffffffff81] __udp4_lib_rcv } hitcount: 5`, and what it
/// had no room for.
fn hist(text: &str, reasons: &BTreeMap<u64, String>) -> (BTreeMap<String, u64>, u64) {
    let (mut counts, mut lost) = (BTreeMap::new(), 0);
    for line in text.lines() {
        if let Some(dropped) = line.trim().strip_prefix("Dropped:") {
            lost = dropped.trim().parse().unwrap_or(0);
        }
        let Some((key, hits)) = line.split_once("hitcount:") else { continue };
        let after = |name: &str| key.split_once(name).map(|(_, rest)| rest.trim_start());
        let Some(hits) = hits.split_whitespace().next().and_then(|h| h.parse::<u64>().ok()) else {
            continue;
        };
        let number = after("reason:").and_then(|r| {
            integer(r.split(|c: char| c == ',' || c.is_whitespace()).next().unwrap_or_default())
        });
        let reason = match number {
            Some(number) => reasons.get(&number).cloned().unwrap_or_else(|| format!("{number:#x}")),
            None => "UNKNOWN".into(),
        };
        let place = after("location:").map_or("", |l| l.split_once(']').map_or(l, |(_, s)| s));
        let place = place.split_whitespace().next().unwrap_or("?");
        add(&mut counts, &reason, place.split('+').next().unwrap_or("?"), hits);
    }
    (counts, lost)
}

/// Counts the events in whole lines, and leaves the rest.
fn count(text: &mut Vec<u8>, counts: &mut BTreeMap<String, u64>) {
    let Some(end) = text.iter().rposition(|b| *b == b'\n') else {
        // No line is that long.
        if text.len() > 1 << 20 {
            text.clear();
        }
        return;
    };
    for line in String::from_utf8_lossy(&text[..end]).lines() {
        let Some((_, event)) = line.split_once(" kfree_skb: ") else { continue };
        let word = |name: &str| event.split_once(name).map(|(_, rest)| rest.trim_start());
        let first = |text: &str| text.split_whitespace().next().map(str::to_string);
        let place = word("location=").and_then(first).unwrap_or_else(|| "?".into());
        let reason = word("reason: ").and_then(first).unwrap_or_else(|| "UNKNOWN".into());
        add(counts, &reason, place.split('+').next().unwrap_or("?"), 1);
    }
    text.drain(..=end);
}

fn add(counts: &mut BTreeMap<String, u64>, reason: &str, place: &str, by: u64) {
    let key = format!("{reason}@{place}");
    if counts.len() < KEYS_MAX || counts.contains_key(&key) {
        let count = counts.entry(key).or_default();
        *count = count.saturating_add(by);
    }
}

/// Events that were overwritten before they were read.
fn lost(dir: &Path) -> u64 {
    let mut lost = 0;
    for cpu in fs::read_dir(dir.join("per_cpu")).into_iter().flatten().flatten() {
        let stats = fs::read_to_string(cpu.path().join("stats")).unwrap_or_default();
        for line in stats.lines() {
            if let Some((name, value)) = line.split_once(':')
                && ["overrun", "commit overrun", "dropped events"].contains(&name.trim())
            {
                lost += value.trim().parse().unwrap_or(0);
            }
        }
    }
    lost
}

/// Reads `tracefs/kfree_skb`.
pub fn drops(bytes: &[u8], into: &mut Snapshot) {
    let mut all = Drops { by: Counters::new(NAME), lost: 0 };
    for line in String::from_utf8_lossy(bytes).lines().take(KEYS_MAX) {
        let Some((key, Ok(count))) = line.rsplit_once(' ').map(|(k, c)| (k, c.parse())) else {
            continue;
        };
        match key {
            "lost" => all.lost = count,
            _ if key.contains('@') => all.by.set(key, count),
            _ => {}
        }
    }
    into.drops = Some(all);
}

#[cfg(test)]
#[path = "tracefs/tests.rs"]
mod tests;
