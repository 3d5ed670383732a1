//! Files laid over the host's: our `resolv.conf`, and nothing where a resolver's socket is.
//!
//! When the host replaces a file by renaming a new one over it, the kernel detaches what was
//! mounted on the old one, in every namespace, and the program would see the host's file from then
//! on. So the init watches both the mount table and the directories, and lays ours over it again.

use super::mounts::{self, Store};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The path every resolver library reads.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Sockets by which a resolver library would ask a daemon of the host, past our DNS.
const RESOLVER_SOCKETS: [&str; 3] =
    ["/run/systemd/resolve/io.systemd.Resolve", "/run/nscd/socket", "/var/run/nscd/socket"];

/// Symbolic links followed before a chain of them counts as a loop, as in the kernel.
const LINKS_MAX: usize = 40;

/// Times our file is laid over one path before giving up, if the host changes it meanwhile.
const TRIES_MAX: usize = 8;

/// One path that has to lead to one of our files.
#[derive(Debug)]
struct Cover {
    path: PathBuf,
    source: OwnedFd,
    /// Device and inode of our file.
    ours: (u64, u64),
    /// Laying it over did not help: left alone from then on.
    lost: bool,
}

/// Everything laid over the host's files, and the watches that tell when to look again.
#[derive(Debug)]
pub(super) struct Covers {
    covers: Vec<Cover>,
    mount_table: File,
    inotify: Inotify,
}

impl Covers {
    /// Lays everything over. Returns the sentences for what could not be covered as well.
    pub fn lay(store: Store, resolv_conf: &str) -> io::Result<(Covers, Vec<String>)> {
        let mut notes = Vec::new();
        let mut covers = Vec::new();
        match missing_target(Path::new(RESOLV_CONF)) {
            None => covers.push(Cover::new(RESOLV_CONF, store.resolv_conf)?),
            Some((dir, file)) => match mounts::create_over(&dir, &file, resolv_conf) {
                Ok(()) => notes.push(format!(
                    "{RESOLV_CONF} leads to no file on the host: {} is a copy inside, and new \
                     files in it end with the run",
                    dir.display()
                )),
                Err(err) => notes.push(format!("no {RESOLV_CONF} inside: {err}")),
            },
        }
        for socket in RESOLVER_SOCKETS {
            covers.push(Cover::new(socket, store.empty.try_clone()?)?);
        }
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut laid = Covers { covers, mount_table: File::open("/proc/self/mountinfo")?, inotify };
        notes.extend(laid.check());
        Ok((laid, notes))
    }

    /// Readable (`POLLPRI`) when a mount came or went.
    pub fn mount_table(&self) -> BorrowedFd<'_> {
        self.mount_table.as_fd()
    }

    /// Readable when a watched directory changed.
    pub fn directories(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Looks at every path and lays our file over it where it is not there. Returns a sentence for
    /// each that is lost.
    pub fn check(&mut self) -> Vec<String> {
        // What changed does not matter: every path is looked at. Nothing to read is no failure.
        let _ = self.inotify.read_events();
        self.watch();
        self.covers.iter_mut().filter_map(Cover::check).collect()
    }

    /// Watches the directories of the paths and of what they lead to. Repeating a watch changes
    /// nothing; a directory that is not there yet is watched when something else changes.
    fn watch(&self) {
        let events = AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        for cover in &self.covers {
            let target = fs::canonicalize(&cover.path).ok();
            for path in [Some(&cover.path), target.as_ref()].into_iter().flatten() {
                if let Some(dir) = path.parent() {
                    let _ = self.inotify.add_watch(dir, events);
                }
            }
        }
    }
}

impl Cover {
    fn new(path: &str, source: OwnedFd) -> io::Result<Cover> {
        let meta = rustix::fs::fstat(&source)?;
        Ok(Cover { path: path.into(), source, ours: (meta.st_dev, meta.st_ino), lost: false })
    }

    fn is_laid(&self) -> io::Result<bool> {
        let meta = fs::metadata(&self.path)?;
        Ok((meta.dev(), meta.ino()) == self.ours)
    }

    fn check(&mut self) -> Option<String> {
        if self.lost {
            return None;
        }
        let mut why = "it keeps changing".to_owned();
        for _ in 0..TRIES_MAX {
            match self.is_laid() {
                // Gone: between unlink and creation, or a socket whose daemon does not run.
                Err(_) | Ok(true) => return None,
                Ok(false) => {}
            }
            let bound =
                fs::canonicalize(&self.path).and_then(|target| mounts::bind(&self.source, &target));
            match bound {
                Err(err) if err.kind() != io::ErrorKind::NotFound => {
                    why = err.to_string();
                    break;
                }
                // Done or gone meanwhile: looked at once more.
                _ => {}
            }
        }
        // Laying it over again and again would fill the mount table.
        self.lost = true;
        Some(format!("{} is the host's inside: {why}", self.path.display()))
    }
}

/// Where a chain of symbolic links ends in nothing: the nearest directory that exists, and the path
/// of the file that does not. `None` if there is a file.
fn missing_target(path: &Path) -> Option<(PathBuf, PathBuf)> {
    let mut path = path.to_path_buf();
    for _ in 0..LINKS_MAX {
        if let Ok(link) = fs::read_link(&path) {
            path = path.parent().unwrap_or(Path::new("/")).join(link);
            continue;
        }
        if path.exists() {
            return None;
        }
        let dir = path.ancestors().skip(1).find(|dir| dir.is_dir())?;
        let real = fs::canonicalize(dir).ok()?;
        let rest = path.strip_prefix(dir).ok()?;
        return Some((real.clone(), real.join(rest)));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_dangling_chain_is_found() {
        let dir = std::env::temp_dir().join(format!("linerate-cover-{}", std::process::id()));
        fs::create_dir_all(dir.join("run")).unwrap();
        let dir = fs::canonicalize(dir).unwrap();
        std::os::unix::fs::symlink("b", dir.join("a")).unwrap();
        std::os::unix::fs::symlink("run/resolve/stub.conf", dir.join("b")).unwrap();
        let expect = (dir.join("run"), dir.join("run/resolve/stub.conf"));
        assert_eq!(missing_target(&dir.join("a")), Some(expect));
        assert_eq!(missing_target(&dir.join("none")), Some((dir.clone(), dir.join("none"))));
        fs::create_dir_all(dir.join("run/resolve")).unwrap();
        fs::write(dir.join("run/resolve/stub.conf"), "").unwrap();
        assert_eq!(missing_target(&dir.join("a")), None);
        std::os::unix::fs::symlink("loop", dir.join("loop")).unwrap();
        assert_eq!(missing_target(&dir.join("loop")), None);
        fs::remove_dir_all(dir).unwrap();
    }
}
