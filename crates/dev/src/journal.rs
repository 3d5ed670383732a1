//! A journal of what we changed on the host, so that it can be as it was before.
//!
//! Each change is on disk before it is made, with the old value. It is undone at the orderly end;
//! after a `SIGKILL` by [`Journal::recover`], which whoever starts next calls. What somebody else
//! has changed since is left alone: a value is put back only if it still is what we set.
//!
//! ```text
//! open ── write line, fsync ── change ── write line, fsync ── change ── undo ── remove file
//!                    └───────────┴─ killed: the file is there and nobody holds its lock ── recover
//! ```
//!
//! One file belongs to one process, which holds its lock as long as it lives. It is of lines of
//! words; a last line without its end was never followed by its change. The first line says which
//! boot and which network namespace it speaks of: after another boot nothing of it is left.
//!
//! Promiscuous mode and AF_PACKET's other settings are not in it: they end with the socket.

mod line;

use crate::netdev::tc::Ignored;
use crate::netdev::{Feature, Netdev, NetdevError, feature, set_feature};
use line::{Entry, Header};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

/// A setting of the host that is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Sets an interface up.
    LinkUp {
        /// Its name.
        ifname: String,
    },
    /// Sets the largest IP packet of an interface.
    Mtu {
        /// Its name.
        ifname: String,
        /// Bytes.
        mtu: u32,
    },
    /// Sets the length of an interface's transmit queue: the ring of a TUN.
    TxQueueLen {
        /// Its name.
        ifname: String,
        /// Packets.
        pkts: u32,
    },
    /// Switches an `ethtool -K` feature.
    Feature {
        /// The interface's name.
        ifname: String,
        /// Which.
        feature: Feature,
        /// On or off.
        on: bool,
    },
    /// Gives the kernel an address.
    Address {
        /// The interface's name.
        ifname: String,
        /// The address.
        addr: IpAddr,
        /// Bits of its network.
        prefix_len: u8,
    },
    /// Has the kernel ignore what comes in for addresses of ours (see [`crate::netdev::tc`]).
    Ignore {
        /// The interface's name.
        ifname: String,
        /// Our addresses.
        addrs: Vec<IpAddr>,
    },
}

/// Why a change was not made, or a journal not kept.
#[derive(Debug)]
#[non_exhaustive]
pub enum JournalError {
    /// The file cannot be made, read or written.
    File {
        /// Its path.
        path: PathBuf,
        /// The errno.
        source: io::Error,
    },
    /// Another process that lives holds the journal of this name.
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// A process of this name was killed and left changes: [`Journal::recover`] undoes them.
    Left {
        /// The file.
        path: PathBuf,
    },
    /// The name has a slash in it, begins with a dot or is empty.
    Name(String),
    /// The kernel refuses the change, or to say what is so now.
    Kernel(NetdevError),
    /// A feature is refused.
    Feature {
        /// The interface.
        ifname: String,
        /// The errno.
        source: io::Error,
    },
}

impl JournalError {
    /// The errno.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            JournalError::File { source, .. } | JournalError::Feature { source, .. } => {
                source.raw_os_error()
            }
            JournalError::InUse { .. } => Some(libc::EBUSY),
            JournalError::Left { .. } => Some(libc::EEXIST),
            JournalError::Name(_) => Some(libc::EINVAL),
            JournalError::Kernel(err) => err.errno(),
        }
    }
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JournalError::File { path, source } => write!(
                f,
                "cannot keep the journal {}: {source}; without it nothing of the host is changed",
                path.display()
            ),
            JournalError::InUse { path } => {
                write!(f, "{} belongs to a process that runs; choose another name", path.display())
            }
            JournalError::Left { path } => {
                write!(f, "{} is of a process that was killed; recover first", path.display())
            }
            JournalError::Name(name) => {
                write!(f, "{name:?} is no name for a journal: it has no slash and no dot in front")
            }
            JournalError::Kernel(err) => err.fmt(f),
            JournalError::Feature { ifname, source } => {
                write!(f, "cannot switch a feature of {ifname}: {source}")
            }
        }
    }
}

impl std::error::Error for JournalError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            JournalError::File { source, .. } | JournalError::Feature { source, .. } => {
                Some(source)
            }
            JournalError::Kernel(err) => Some(err),
            _ => None,
        }
    }
}

impl From<NetdevError> for JournalError {
    fn from(err: NetdevError) -> JournalError {
        JournalError::Kernel(err)
    }
}

impl From<JournalError> for io::Error {
    fn from(err: JournalError) -> io::Error {
        let errno = err.errno().unwrap_or(libc::EIO);
        io::Error::new(io::Error::from_raw_os_error(errno).kind(), err)
    }
}

/// What was found and done for a journal of a process that had been killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovered {
    /// Its name.
    pub name: String,
    /// A sentence for each change that was undone, and for each that was left and why.
    pub notes: Vec<String>,
}

const SUFFIX: &str = "journal";

/// The journal of one running process.
#[derive(Debug)]
pub struct Journal {
    file: File,
    path: PathBuf,
    netdev: Netdev,
    entries: Vec<Entry>,
}

impl Journal {
    /// Begins the journal `dir/name.journal`, for the calling thread's network namespace. The
    /// directory is made if it is not there.
    ///
    /// # Errors
    /// [`JournalError`]: `EINVAL`, `EBUSY`, `EEXIST`, and those of the file system.
    pub fn open(dir: &Path, name: &str) -> Result<Journal, JournalError> {
        if name.is_empty() || name.contains('/') || name.starts_with('.') {
            return Err(JournalError::Name(name.to_owned()));
        }
        let path = dir.join(format!("{name}.{SUFFIX}"));
        fs::create_dir_all(dir)
            .map_err(|source| JournalError::File { path: dir.to_owned(), source })?;
        let mut file = hold(&path)?.ok_or_else(|| JournalError::InUse { path: path.clone() })?;
        let mut text = String::new();
        let read = file.read_to_string(&mut text);
        read.map_err(|source| JournalError::File { path: path.clone(), source })?;
        if line::parse(&text).is_some_and(|(_, entries)| !entries.is_empty()) {
            return Err(JournalError::Left { path });
        }
        let mut journal = Journal { file, path, netdev: Netdev::open()?, entries: Vec::new() };
        let begun = journal.begin();
        begun.map_err(|source| JournalError::File { path: journal.path.clone(), source })?;
        Ok(journal)
    }

    fn begin(&mut self) -> io::Result<()> {
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.file.write_all(Header::here()?.to_string().as_bytes())?;
        self.file.sync_all()
    }

    /// Makes a change, after it is written down. Returns whether there was one to make: what is so
    /// already is not ours, and stays when we go.
    ///
    /// # Errors
    /// [`JournalError`]: the file's, or the kernel's. The host is as before then.
    pub fn change(&mut self, change: &Change) -> Result<bool, JournalError> {
        let Some(entry) = self.plan(change)? else { return Ok(false) };
        let line = entry.to_string();
        let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
        written.map_err(|source| JournalError::File { path: self.path.clone(), source })?;
        let done = apply(&mut self.netdev, &entry);
        // Also if it failed: it may have been done in part, and undoing looks first.
        self.entries.push(entry);
        done.map(|()| true)
    }

    /// What is to be written down; `None` if it is so already.
    fn plan(&mut self, change: &Change) -> Result<Option<Entry>, JournalError> {
        let (Change::LinkUp { ifname }
        | Change::Mtu { ifname, .. }
        | Change::TxQueueLen { ifname, .. }
        | Change::Feature { ifname, .. }
        | Change::Address { ifname, .. }
        | Change::Ignore { ifname, .. }) = change;
        let link = self.netdev.link(ifname)?;
        let (index, ifname) = (link.index, link.name.clone());
        let entry = match change {
            Change::LinkUp { .. } => (!link.up).then_some(Entry::LinkUp { index, ifname }),
            Change::Mtu { mtu: now, .. } => {
                let (was, now) = (link.mtu, *now);
                (was != now).then_some(Entry::Mtu { index, ifname, was, now })
            }
            Change::TxQueueLen { pkts: now, .. } => {
                let (was, now) = (link.txqueuelen, *now);
                (was != now).then_some(Entry::TxQueueLen { index, ifname, was, now })
            }
            Change::Feature { feature: which, on, .. } => {
                let was = feature(&ifname, *which)
                    .map_err(|source| JournalError::Feature { ifname: ifname.clone(), source })?;
                let (feature, on) = (*which, *on);
                (was != on).then_some(Entry::Feature { index, ifname, feature, on })
            }
            Change::Address { addr, prefix_len, .. } => {
                let (addr, prefix_len) = (*addr, *prefix_len);
                let has = self.netdev.has_addr(index, addr)?;
                (!has).then_some(Entry::Address { index, ifname, addr, prefix_len })
            }
            Change::Ignore { addrs, .. } => {
                let made_hook = !self.netdev.has_ingress_hook(index)?;
                let priority = self.netdev.free_ingress_priority(index)?;
                let addrs = addrs.clone();
                let ignored = Ignored { index, priority, addrs, made_hook };
                Some(Entry::Ignore { ifname, ignored })
            }
        };
        Ok(entry)
    }

    /// The kernel heeds again what [`Change::Ignore`] had it ignore; false if it was not made here.
    /// Other changes stay. Its line stays as well: undoing it a second time finds nothing.
    ///
    /// # Errors
    /// [`JournalError`]: the file's, or the kernel's. The kernel goes on to ignore it then.
    pub fn heed(&mut self, ifname: &str, addrs: &[IpAddr]) -> Result<bool, JournalError> {
        let is_it = |e: &Entry| {
            matches!(e, Entry::Ignore { ifname: on, ignored }
                if on == ifname && ignored.addrs == addrs)
        };
        let Some(at) = self.entries.iter().rposition(is_it) else { return Ok(false) };
        let Entry::Ignore { ignored, .. } = &self.entries[at] else { return Ok(false) };
        let mut gone = ignored.clone();
        // Another filter at the same hook needs it still, and takes it along when it goes.
        let heir = self.entries.iter().enumerate().find_map(|(i, e)| match e {
            Entry::Ignore { ignored, .. } if i != at && ignored.index == gone.index => Some(i),
            _ => None,
        });
        if let Some(heir) = heir.filter(|_| gone.made_hook) {
            gone.made_hook = false;
            if let Entry::Ignore { ignored, .. } = &mut self.entries[heir] {
                ignored.made_hook = true;
            }
            let line = self.entries[heir].to_string();
            let written = self.file.write_all(line.as_bytes()).and_then(|()| self.file.sync_data());
            written.map_err(|source| JournalError::File { path: self.path.clone(), source })?;
        }
        self.netdev.heed(&gone)?;
        self.entries.remove(at);
        Ok(true)
    }

    /// Undoes all changes, the last first, and removes the file. Returns a sentence for each that
    /// was left, and why.
    #[must_use = "what could not be undone should be said"]
    pub fn undo(mut self) -> Vec<String> {
        let mut notes = Vec::new();
        for entry in std::mem::take(&mut self.entries).iter().rev() {
            if let Err(note) = revert(&mut self.netdev, entry) {
                notes.push(note);
            }
        }
        if let Err(err) = fs::remove_file(&self.path) {
            notes.push(format!("{} cannot be removed: {err}", self.path.display()));
        }
        notes
    }

    /// Undoes what processes changed that were killed, by all journals in `dir` that nobody holds
    /// and that speak of the calling thread's network namespace. A directory that is not there
    /// holds none.
    ///
    /// # Errors
    /// [`JournalError::File`] if the directory cannot be read. A journal that cannot be read, or is
    /// of another namespace, is left and told of in its notes.
    pub fn recover(dir: &Path) -> Result<Vec<Recovered>, JournalError> {
        let mut all = Vec::new();
        let list = match fs::read_dir(dir) {
            Ok(list) => list,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(all),
            Err(source) => return Err(JournalError::File { path: dir.to_owned(), source }),
        };
        let mut paths: Vec<PathBuf> = list.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|e| e == SUFFIX));
        // Later changes of another process may lie over earlier ones: the youngest first.
        paths.sort_by_key(|path| {
            std::cmp::Reverse(fs::metadata(path).and_then(|m| m.modified()).ok())
        });
        for path in paths {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            match recover_one(&path) {
                Ok(Some(notes)) => all.push(Recovered { name, notes }),
                Ok(None) => {}
                Err(err) => all.push(Recovered { name, notes: vec![err.to_string()] }),
            }
        }
        Ok(all)
    }
}

/// Opens a journal and takes its lock; `None`: another process has it. What another process removed
/// while we waited for nothing is opened anew.
fn hold(path: &Path) -> Result<Option<File>, JournalError> {
    let fail = |err: io::Error| JournalError::File { path: path.to_owned(), source: err };
    loop {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::RUSR | Mode::WUSR;
        let fd = rustix::fs::open(path, flags, mode).map_err(|e| fail(e.into()))?;
        match flock(&fd, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(err) => return Err(fail(err.into())),
        }
        // The lock is on the file, and the name may stand for another by now.
        let ours = rustix::fs::fstat(&fd).map_err(|e| fail(e.into()))?;
        // What somebody else wrote is not undone with our rights.
        if ours.st_uid != rustix::process::geteuid().as_raw() {
            return Err(fail(io::Error::from_raw_os_error(libc::EPERM)));
        }
        match rustix::fs::stat(path) {
            Ok(there) if there.st_ino == ours.st_ino => return Ok(Some(File::from(fd))),
            _ => {}
        }
    }
}

fn recover_one(path: &Path) -> Result<Option<Vec<String>>, JournalError> {
    let fail = |source| JournalError::File { path: path.to_owned(), source };
    let Some(mut file) = hold(path)? else { return Ok(None) };
    let mut text = String::new();
    file.read_to_string(&mut text).map_err(fail)?;
    let here = Header::here().map_err(fail)?;
    let mut notes = Vec::new();
    match line::parse(&text) {
        // It was killed before it had begun.
        None => {}
        Some((header, _)) if header.boot != here.boot => {}
        Some((header, entries)) if header.netns != here.netns && !entries.is_empty() => {
            return Ok(Some(vec![format!(
                "{} speaks of another network namespace; recover there, or remove it if that is \
                 gone",
                path.display()
            )]));
        }
        Some((_, entries)) => {
            let mut netdev = Netdev::open()?;
            for entry in entries.iter().rev() {
                notes.push(match revert(&mut netdev, entry) {
                    Ok(done) => done,
                    Err(note) => note,
                });
            }
        }
    }
    fs::remove_file(path).map_err(fail)?;
    Ok(Some(notes))
}

/// Makes the change that was written down.
fn apply(netdev: &mut Netdev, entry: &Entry) -> Result<(), JournalError> {
    match entry {
        Entry::LinkUp { index, .. } => netdev.set_up(*index, true)?,
        Entry::Mtu { index, now, .. } => netdev.set_mtu(*index, *now)?,
        Entry::TxQueueLen { index, now, .. } => netdev.set_txqueuelen(*index, *now)?,
        Entry::Feature { ifname, feature, on, .. } => set_feature(ifname, *feature, *on)
            .map_err(|source| JournalError::Feature { ifname: ifname.clone(), source })?,
        Entry::Address { index, addr, prefix_len, .. } => {
            netdev.add_addr(*index, *addr, *prefix_len)?;
        }
        Entry::Ignore { ignored, .. } => netdev.ignore(ignored)?,
    }
    Ok(())
}

/// Puts the old value back if the present one is ours. Says what was done, or as an error why not.
fn revert(netdev: &mut Netdev, entry: &Entry) -> Result<String, String> {
    let (index, ifname) = entry.interface();
    // An interface of the same name and another number is another one.
    let link = netdev.link_by_index(index).ok().filter(|link| link.name == ifname);
    let Some(link) = link else { return Err(format!("{ifname} is gone, and what we set with it")) };
    let failed = |err: &dyn fmt::Display| format!("{ifname} stays changed: {err}");
    let other = |what: &str| Err(format!("{ifname}: {what} was changed since, and stays"));
    match entry {
        Entry::LinkUp { .. } => {
            if link.up {
                netdev.set_up(index, false).map_err(|e| failed(&e))?;
            }
            Ok(format!("{ifname} is down again"))
        }
        Entry::Mtu { was, now, .. } => match link.mtu {
            mtu if mtu == *was => Ok(format!("{ifname} has MTU {was}")),
            mtu if mtu != *now => other("the MTU"),
            _ => {
                netdev.set_mtu(index, *was).map_err(|e| failed(&e))?;
                Ok(format!("{ifname} has MTU {was} again"))
            }
        },
        Entry::TxQueueLen { was, now, .. } => match link.txqueuelen {
            pkts if pkts == *was => Ok(format!("{ifname} has txqueuelen {was}")),
            pkts if pkts != *now => other("txqueuelen"),
            _ => {
                netdev.set_txqueuelen(index, *was).map_err(|e| failed(&e))?;
                Ok(format!("{ifname} has txqueuelen {was} again"))
            }
        },
        Entry::Feature { feature: which, on, .. } => {
            let word = if *on { "off" } else { "on" };
            if feature(ifname, *which).map_err(|e| failed(&e))? == *on {
                set_feature(ifname, *which, !*on).map_err(|e| failed(&e))?;
            }
            Ok(format!("{} of {ifname} is {word} again", line::name_of(*which)))
        }
        Entry::Address { addr, prefix_len, .. } => {
            match netdev.del_addr(index, *addr, *prefix_len) {
                Err(err) if err.errno() != Some(libc::EADDRNOTAVAIL) => Err(failed(&err)),
                _ => Ok(format!("{ifname} has no address {addr}/{prefix_len} any more")),
            }
        }
        Entry::Ignore { ignored, .. } => {
            netdev.heed(ignored).map_err(|e| failed(&e))?;
            Ok(format!("the kernel heeds our addresses on {ifname} again"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_a_way_in_it_is_none() {
        for name in ["", "..", "a/b", ".hidden"] {
            let err = Journal::open(Path::new("/nonexistent"), name).unwrap_err();
            assert!(matches!(err, JournalError::Name(_)), "{name:?}: {err}");
        }
        assert_eq!(Journal::recover(Path::new("/nonexistent")).unwrap(), []);
    }
}
