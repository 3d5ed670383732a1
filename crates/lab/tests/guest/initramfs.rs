//! A root file system for the guest, in the form that the kernel unpacks from memory.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A cpio archive of the kind `newc` (Documentation/driver-api/early-userspace/buffer-format.rst).
#[derive(Default)]
pub struct Archive {
    bytes: Vec<u8>,
    dirs: BTreeSet<String>,
    inode: u32,
}

impl Archive {
    /// A directory, with those above it.
    pub fn dir(&mut self, name: &str) {
        if let Some((above, _)) = name.rsplit_once('/') {
            self.dir(above);
        }
        if self.dirs.insert(name.to_owned()) {
            self.entry(name, 0o040_755, &[]);
        }
    }

    /// A file.
    pub fn file(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        if let Some((dir, _)) = name.rsplit_once('/') {
            self.dir(dir);
        }
        self.entry(name, 0o100_000 | mode, bytes);
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &str, to: &str) {
        self.entry(name, 0o120_777, to.as_bytes());
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) {
        self.inode += 1;
        let (len, name_len) = (bytes.len() as u32, name.len() as u32 + 1);
        let fields = [self.inode, mode, 0, 0, 1, 0, len, 0, 0, 0, 0, name_len, 0];
        self.bytes.extend(b"070701");
        fields.iter().for_each(|f| self.bytes.extend(format!("{f:08x}").bytes()));
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// The whole of it.
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }
}

/// The files of these modules and of those that they need, in the order in which they are loaded.
pub fn modules(tree: &Path, names: &[&str]) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    files(tree, &mut all)?;
    let mut order = Vec::new();
    for name in names {
        load(&all, name, &mut order)?;
    }
    Ok(order)
}

fn files(dir: &Path, all: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.is_dir() {
            true => files(&path, all)?,
            false if path.extension().is_some_and(|e| e == "ko") => all.push(path),
            false => {}
        }
    }
    Ok(())
}

/// Whether the file is that of the module: `-` and `_` are the same in their names.
fn is_module(path: &Path, name: &str) -> bool {
    path.file_stem().and_then(|s| s.to_str()).is_some_and(|s| s.replace('-', "_") == name)
}

fn load(all: &[PathBuf], name: &str, order: &mut Vec<PathBuf>) -> io::Result<()> {
    // What is not there as a file is in the kernel itself.
    let Some(path) = all.iter().find(|p| is_module(p, &name.replace('-', "_"))) else {
        return Ok(());
    };
    if order.contains(path) {
        return Ok(());
    }
    let bytes = fs::read(path)?;
    let needle = b"\0depends=";
    let at = bytes.windows(needle.len()).position(|w| w == needle);
    if let Some(at) = at {
        let rest = &bytes[at + needle.len()..];
        let end = rest.iter().position(|b| *b == 0).unwrap_or(0);
        let depends = String::from_utf8_lossy(&rest[..end]).into_owned();
        for needed in depends.split(',').filter(|n| !n.is_empty()) {
            load(all, needed, order)?;
        }
    }
    order.push(path.clone());
    Ok(())
}
