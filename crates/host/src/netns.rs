//! Other network namespaces: a thread that lives in one, and its sysfs.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace, which does there what it is given. A process cannot have a file of
/// another namespace in any other way, for `/proc/net`, `/proc/sys/net` and sockets are those of the
/// thread that opens them; what it has opened can be read by all.
#[derive(Debug)]
pub struct Namespace {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    sys: Result<OwnedFd, i32>,
}

impl Namespace {
    /// Enters the namespace that `at` is: `/run/netns/NAME`, `/proc/PID/ns/net`.
    ///
    /// # Errors
    /// If the file cannot be opened, is no network namespace, or a right is missing (`CAP_SYS_ADMIN`).
    pub fn enter(at: &Path) -> io::Result<Namespace> {
        let file = std::fs::File::open(at)?;
        let (jobs, todo) = mpsc::channel::<Job>();
        let (entered, ready) = mpsc::channel();
        let thread = thread::Builder::new().name("netns".into()).spawn(move || {
            let there = join(&file);
            let well = there.is_ok();
            // Nobody waits for the answer any more if the caller has gone.
            _ = entered.send(there.map(|()| sysfs()));
            while let (true, Ok(job)) = (well, todo.recv()) {
                job();
            }
        })?;
        let sys = ready.recv().map_err(|_| gone())??;
        let sys = sys.map_err(|err| err.raw_os_error().unwrap_or_default());
        Ok(Namespace { jobs: Some(jobs), thread: Some(thread), sys })
    }

    /// Does `what` in the namespace and waits for it.
    ///
    /// # Errors
    /// If it panicked, or something did before.
    pub fn run<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> T + Send + 'static,
    ) -> io::Result<T> {
        let (done, result) = mpsc::channel();
        let job = Box::new(move || _ = done.send(what()));
        let jobs = self.jobs.as_ref().ok_or_else(gone)?;
        jobs.send(job).map_err(|_| gone())?;
        result.recv().map_err(|_| gone())
    }

    /// The directory that is `/sys` there: the one of this process shows the devices of the namespace
    /// in which it was mounted.
    ///
    /// # Errors
    /// If the kernel refused to mount another: a right is missing, or it is older than 5.2.
    pub fn sys(&self) -> io::Result<PathBuf> {
        match &self.sys {
            Ok(fd) => Ok(path_of(fd)),
            Err(errno) => Err(io::Error::from_raw_os_error(*errno)),
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // The thread ends with its last job.
        drop(self.jobs.take());
        _ = self.thread.take().map(JoinHandle::join);
    }
}

fn gone() -> io::Error {
    io::Error::other("the thread in the namespace has ended")
}

fn join(file: &std::fs::File) -> io::Result<()> {
    Ok(move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// A sysfs of this thread's namespace that is mounted nowhere.
pub(crate) fn sysfs() -> io::Result<OwnedFd> {
    let fs = rustix::mount::fsopen("sysfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(fs.as_fd())?;
    let attrs = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    Ok(rustix::mount::fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attrs)?)
}

/// The path of an open directory.
pub(crate) fn path_of(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

/// Whether the calling thread is in another namespace than the host's first one: settings of the whole
/// host are there only. `/sys` may then still be the one that was mounted in the first.
pub(crate) fn is_child() -> bool {
    let core = Path::new("/proc/sys/net/core");
    core.join("somaxconn").exists() && !core.join("netdev_max_backlog").exists()
}

/// The file of a namespace by what people call it: a name that `ip netns` knows, the number of a
/// process in it, or a path.
#[must_use]
pub fn path(name: &str) -> PathBuf {
    if name.contains('/') {
        PathBuf::from(name)
    } else if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) {
        PathBuf::from(format!("/proc/{name}/ns/net"))
    } else {
        Path::new("/run/netns").join(name)
    }
}

/// The inode of the namespace that the calling thread is in.
///
/// # Errors
/// If `/proc` is not there.
pub fn current() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt;
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_named_as_people_do() {
        assert_eq!(path("blue"), Path::new("/run/netns/blue"));
        assert_eq!(path("42"), Path::new("/proc/42/ns/net"));
        assert_eq!(path("/run/docker/netns/x"), Path::new("/run/docker/netns/x"));
    }

    #[test]
    fn what_is_no_namespace_is_refused() {
        assert!(Namespace::enter(Path::new("/proc/self/ns/nothing")).is_err());
        // A namespace, but not of the network; without the right to enter any, that is the error.
        assert!(Namespace::enter(Path::new("/proc/self/ns/uts")).is_err());
    }
}
