//! Files that must not outlive the parent, however it ends: the helper removes them.
//!
//! The parent tells the helper of each before it exists, over a socket of their own, because what
//! was sent before a SIGKILL is still read after it. The end of that socket is the parent's.

use super::message;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// How long to wait for whoever holds the lock of a directory, and how often to look: it is held
/// for a few system calls, and who stopped in the middle of them must not stop everybody.
const LOCK_WAIT: Duration = Duration::from_millis(5);
const LOCK_TRIES_MAX: usize = 100;

/// Something that is to go when the program's namespace or the parent ends.
#[derive(Clone, Copy, Debug)]
pub enum Leftover<'a> {
    /// Whatever has this path.
    Path(&'a Path),
    /// What has this path, as long as it is this file (a descriptor of it, `O_PATH` does).
    File(&'a Path, BorrowedFd<'a>),
    /// This directory, if it is empty.
    Directory(&'a Path),
}

impl Leftover<'_> {
    /// Sends it to the helper. `InvalidInput` for a path that is not UTF-8.
    pub(super) fn send(self, to: BorrowedFd<'_>) -> io::Result<()> {
        let (name, path, fd) = match self {
            Leftover::Path(path) => ("path", path, None),
            Leftover::File(path, fd) => ("file", path, Some(fd)),
            Leftover::Directory(path) => ("directory", path, None),
        };
        let path = path
            .to_str()
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a path is not UTF-8"))?;
        message::send(to, name, &[path], fd)
    }
}

/// One of them, as the helper keeps it: by the directory it is in, which stays the right one
/// whatever root mounts over the path inside.
#[derive(Debug)]
struct Kept {
    dir: OwnedFd,
    name: String,
    file: Option<OwnedFd>,
    flags: AtFlags,
}

/// All of them, and the socket they come from.
#[derive(Debug)]
pub(super) struct Leftovers {
    socket: OwnedFd,
    kept: Vec<Kept>,
}

impl Leftovers {
    pub fn new(socket: OwnedFd) -> Leftovers {
        Leftovers { socket, kept: Vec::new() }
    }

    /// Readable when [`Leftovers::receive`] has something to do.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Takes in what the parent has sent; false if there is no parent any more.
    pub fn receive(&mut self) -> bool {
        loop {
            match message::recv(self.socket.as_fd(), false) {
                Ok(Some(message)) => {
                    let path = Path::new(message.field(0));
                    let flags = match message.name.as_str() {
                        "directory" => AtFlags::REMOVEDIR,
                        _ => AtFlags::empty(),
                    };
                    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                        continue;
                    };
                    // Without the directory there is nothing to remove from it.
                    if let Ok(dir) = open_dir(parent) {
                        let name = name.to_string_lossy().into_owned();
                        self.kept.push(Kept { dir, name, file: message.fd, flags });
                    }
                }
                Ok(None) => return false,
                Err(err) => return err.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Removes them, the newest first: a directory after what was put into it.
    pub fn remove(mut self) {
        self.receive();
        while let Some(kept) = self.kept.pop() {
            // What cannot be removed is swept by the next instance.
            let _ = kept.remove();
        }
    }
}

impl Kept {
    fn remove(&self) -> io::Result<()> {
        let Some(file) = &self.file else {
            return Ok(rustix::fs::unlinkat(&self.dir, &self.name, self.flags)?);
        };
        let _lock = lock(&self.dir)?;
        remove_same(&self.dir, &self.name, file.as_fd())
    }
}

fn open_dir(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}

/// Removes `name` if it is the file behind `file`, which keeps its inode number from being given
/// away. Between the look and the removal only the holder of the directory's [`lock`] may change
/// what the name means.
pub(crate) fn remove_same(
    dir: impl AsFd,
    name: impl rustix::path::Arg,
    file: BorrowedFd<'_>,
) -> io::Result<()> {
    let name = name.into_c_str()?;
    let there = rustix::fs::statat(&dir, &*name, AtFlags::SYMLINK_NOFOLLOW)?;
    let ours = rustix::fs::fstat(file)?;
    if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino) {
        rustix::fs::unlinkat(&dir, &*name, AtFlags::empty())?;
    }
    Ok(())
}

/// Holds the lock of a directory in which several processes remove each other's dead files, until
/// what is returned is dropped.
///
/// # Errors
/// `WouldBlock` if another process holds it for longer than half a second.
pub(crate) fn lock(dir: impl AsFd) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    // Opened anew: a lock belongs to the open file, and so goes with it alone.
    let file = File::from(rustix::fs::openat(dir, ".", flags, Mode::empty())?);
    for _ in 0..LOCK_TRIES_MAX {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Err(rustix::io::Errno::WOULDBLOCK) => std::thread::sleep(LOCK_WAIT),
            locked => return locked.map(|()| file).map_err(io::Error::from),
        }
    }
    Err(io::Error::new(io::ErrorKind::WouldBlock, "another process holds its lock"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use std::fs;

    #[test]
    fn only_what_was_named_goes_and_a_successor_stays() {
        let dir = std::env::temp_dir().join(format!("lr-leftover-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let inner = dir.join("inner");
        fs::create_dir(&inner).unwrap();
        let [one, two, three, other] = ["one", "two", "three", "other"].map(|n| inner.join(n));
        for file in [&one, &two, &three, &other] {
            fs::write(file, "").unwrap();
        }
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .unwrap();
        let (second, third) = (File::open(&two).unwrap(), File::open(&three).unwrap());
        Leftover::Directory(&inner).send(ours.as_fd()).unwrap();
        Leftover::Path(&one).send(ours.as_fd()).unwrap();
        Leftover::File(&two, second.as_fd()).send(ours.as_fd()).unwrap();
        Leftover::File(&three, third.as_fd()).send(ours.as_fd()).unwrap();
        // A successor under the same name.
        fs::remove_file(&three).unwrap();
        fs::write(&three, "").unwrap();
        drop(ours);
        Leftovers::new(theirs).remove();
        let there = [&one, &two, &three, &other, &inner].map(|path| path.exists());
        assert_eq!(there, [false, false, true, true, true]);
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn a_lock_excludes_and_goes_with_its_holder() {
        let dir = std::env::temp_dir().join(format!("lr-lock-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let open = File::open(&dir).unwrap();
        let held = lock(&open).unwrap();
        assert_eq!(lock(&open).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        lock(&open).unwrap();
        fs::remove_dir(dir).unwrap();
    }
}
