//! Files in memory, read once for all connections that send them ([`Shard::tcp_sendfile`]).
//!
//! A block of a file is read when it is first asked for, and never changes: what is sent again is what was sent,
//! whoever writes to the file or cuts it short meanwhile. (A mapping of the file would spare the reading; but one
//! that is cut short kills the process that touches it, and its bytes could change under a checksum.) A version of a
//! file is known by device, inode, size and its two times, so that who opens a file that has changed gets what it
//! has now. While a file is being read it may change as well: what was read then is given out, as `read` gives it,
//! but not kept; nor is a file kept whose last change is so young that the next might have the same time.
//!
//! before: an application's files   after: [`linerate_core::tcp`]'s `sendfile.rs`
//! Linux:  mm/filemap.c `filemap_read`; fs/splice.c `filemap_splice_read`
//!
//! [`Shard::tcp_sendfile`]: linerate_core::shard::Shard::tcp_sendfile

use std::collections::{HashMap, VecDeque};
use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use linerate_core::pkt::Lent;

/// Bytes of a block: about a super-packet.
pub const BLOCK: usize = 64 * 1024;
/// What a block costs beside its bytes.
const OVERHEAD: usize = 256;
/// A file is kept when its last change is this old: times of files are no finer than a tick, or two seconds
/// (FAT).
const SETTLED: Duration = Duration::from_secs(3);

/// A file as it was when it was opened.
#[derive(Debug)]
pub struct Opened {
    file: File,
    version: Version,
    settled: bool,
}

/// What two openings have in common if they show the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Version {
    dev: u64,
    ino: u64,
    size: u64,
    mtime: (i64, i64),
    ctime: (i64, i64),
}

impl Version {
    fn of(meta: &Metadata) -> Version {
        Version {
            dev: meta.dev(),
            ino: meta.ino(),
            size: meta.size(),
            mtime: (meta.mtime(), meta.mtime_nsec()),
            ctime: (meta.ctime(), meta.ctime_nsec()),
        }
    }
    /// Whether its last change is long enough ago.
    fn settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = |(secs, _): (i64, i64)| Duration::from_secs(secs.max(0) as u64);
        now.checked_sub(at(self.mtime.max(self.ctime))).is_some_and(|age| age >= SETTLED)
    }
}

impl Opened {
    /// Takes a regular file, with what `fstat` said of it.
    #[must_use]
    pub fn new(file: File, meta: &Metadata) -> Opened {
        let version = Version::of(meta);
        Opened { settled: version.settled(SystemTime::now()), file, version }
    }
    /// Bytes that it had when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.version.size
    }
    /// The file itself.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }
    /// Reads a block: shorter where the file ends.
    fn read(&self, block: u64) -> io::Result<Vec<u8>> {
        let from = block * BLOCK as u64;
        let len = self.version.size.saturating_sub(from).min(BLOCK as u64) as usize;
        let (mut bytes, mut done) = (vec![0; len], 0);
        while done < len {
            match self.file.read_at(&mut bytes[done..], from + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        // It was cut short: what was not read is not there.
        bytes.truncate(done);
        Ok(bytes)
    }
}

type Key = (Version, u64);

#[derive(Debug)]
struct Kept {
    bytes: Lent,
    used: bool,
}

#[derive(Debug, Default)]
struct Blocks {
    kept: HashMap<Key, Kept>,
    /// In the order in which they came, or were passed over because they had been used.
    order: VecDeque<Key>,
    held: usize,
}

impl Blocks {
    fn charge(bytes: &Lent) -> usize {
        bytes.len() + OVERHEAD
    }
    fn insert(&mut self, key: Key, bytes: &Lent, most: usize) {
        if self.kept.contains_key(&key) {
            return;
        }
        self.held += Self::charge(bytes);
        self.kept.insert(key, Kept { bytes: bytes.clone(), used: false });
        self.order.push_back(key);
        while self.held > most {
            let Some(oldest) = self.order.pop_front() else { return };
            match self.kept.get_mut(&oldest) {
                Some(kept) if kept.used => {
                    kept.used = false;
                    self.order.push_back(oldest);
                }
                _ => {
                    if let Some(gone) = self.kept.remove(&oldest) {
                        self.held -= Self::charge(&gone.bytes);
                    }
                }
            }
        }
    }
}

/// Blocks of files that are kept for whoever sends them next, up to a number of bytes; what connections still send
/// is held by those beside.
#[derive(Debug)]
pub struct FileCache {
    most: usize,
    blocks: Mutex<Blocks>,
}

impl FileCache {
    /// Keeps at the most so many bytes.
    #[must_use]
    pub fn new(most: usize) -> FileCache {
        FileCache { most, blocks: Mutex::default() }
    }
    /// Bytes that are kept now, with what they cost beside.
    #[must_use]
    pub fn held(&self) -> usize {
        self.lock().held
    }
    /// Whether it is worth while to send the file through here: a large one would push all others out, and is read
    /// again the next time nevertheless.
    #[must_use]
    pub fn takes(&self, file: &Opened) -> bool {
        file.settled && file.size() <= (self.most / 4) as u64
    }
    /// What the file has from byte `at` on, up to the end of the block that it lies in; nothing at the file's end,
    /// which comes early if the file was cut short.
    ///
    /// # Errors
    /// Those of `pread`.
    pub fn read(&self, file: &Opened, at: u64) -> io::Result<Lent> {
        let (block, off) = (at / BLOCK as u64, (at % BLOCK as u64) as usize);
        let key = (file.version, block);
        let known = self.lock().kept.get_mut(&key).map(|kept| {
            kept.used = true;
            kept.bytes.clone()
        });
        let bytes = match known {
            Some(bytes) => bytes,
            None => {
                let bytes = Lent::from(file.read(block)?);
                if self.takes(file) && Version::of(&file.file.metadata()?) == file.version {
                    self.lock().insert(key, &bytes, self.most);
                }
                bytes
            }
        };
        Ok(bytes.part(off.min(bytes.len())..bytes.len()))
    }
    /// A panic elsewhere leaves them whole: each change is complete under the lock.
    fn lock(&self) -> MutexGuard<'_, Blocks> {
        self.blocks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
