//! This host.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::Timespec;
use rustix::io::Errno;
use rustix::process::Resource;
use rustix::time::{ClockId, clock_getres, clock_gettime};

use super::Source;
use crate::bpf::{self, Probes};
use crate::netlink;
use crate::netns::{self, Namespace};

/// The kernel that we run on. Files stay open: reading one again then costs half.
#[derive(Debug)]
pub struct Live {
    space: Option<Namespace>,
    /// `/sys` of the namespace; `None` if it could not be mounted.
    sys: Option<PathBuf>,
    /// What keeps it mounted, if it is our own.
    _own: Option<OwnedFd>,
    files: BTreeMap<Box<str>, File>,
    files_max: usize,
    buf: Vec<u8>,
    /// Shared with the thread in the namespace, in which its sockets are opened.
    netlink: Arc<Mutex<netlink::Live>>,
    /// Begun when they are first asked for; what prevented that.
    probes: Option<Result<Probes, (io::ErrorKind, String)>>,
    sample: u32,
}

impl Default for Live {
    fn default() -> Live {
        Live::new()
    }
}

impl Live {
    /// This host, as the calling thread's network namespace sees it.
    #[must_use]
    pub fn new() -> Live {
        // Half of what the process may have open is left to everybody else.
        let own = netns::is_child().then(netns::sysfs).and_then(Result::ok);
        let limit = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        Live {
            space: None,
            sys: Some(own.as_ref().map_or_else(|| PathBuf::from("/sys"), netns::path_of)),
            _own: own,
            files: BTreeMap::new(),
            files_max: usize::try_from(limit / 2).unwrap_or(usize::MAX).min(2048),
            buf: vec![0; 1 << 16],
            netlink: Arc::default(),
            probes: None,
            sample: bpf::SAMPLE,
        }
    }

    /// Of packets, probes follow one in `sample` (at least 1), if they have not begun.
    #[must_use]
    pub fn sampling(mut self, sample: u32) -> Live {
        self.sample = sample;
        self
    }

    /// The probes, if they have begun.
    #[must_use]
    pub fn probes(&self) -> Option<&Probes> {
        self.probes.as_ref()?.as_ref().ok()
    }

    /// This host, as another network namespace sees it: `path` is the file of the namespace.
    ///
    /// # Errors
    /// As [`Namespace::enter`].
    pub fn in_netns(path: &Path) -> io::Result<Live> {
        let space = Namespace::enter(path)?;
        // Without a sysfs of its own, other devices of those names would be read: better none.
        let sys = space.sys().ok();
        Ok(Live { space: Some(space), sys, _own: None, ..Live::new() })
    }

    /// Writes to a file by its name here: a sysctl, or an attribute in sysfs.
    ///
    /// # Errors
    /// As the kernel gives them.
    pub fn write(&mut self, name: &str, value: &[u8]) -> io::Result<()> {
        let (path, value) = (self.path(name)?, value.to_vec());
        self.there(move || {
            // Never creates: what is not there is not offered.
            let mut file = File::options().write(true).open(path)?;
            // One call: the kernel takes each as a whole value.
            io::Write::write_all(&mut file, &value)
        })
    }

    fn path(&self, name: &str) -> io::Result<PathBuf> {
        // `/proc/net` is that of the process's first thread.
        if let Some(rest) = name.strip_prefix("proc/net/") {
            return Ok(Path::new("/proc/thread-self/net").join(rest));
        }
        // The rest of sysfs is the same in every namespace.
        let of_devices = name.strip_prefix("sys/").filter(|rest| rest.starts_with("class/net"));
        let Some(rest) = of_devices else { return Ok(Path::new("/").join(name)) };
        Ok(self.sys()?.join(rest))
    }

    /// The directory that is `/sys` in the namespace.
    pub(crate) fn sys(&self) -> io::Result<PathBuf> {
        let why = "sysfs could not be mounted for the namespace";
        self.sys.clone().ok_or_else(|| io::Error::new(io::ErrorKind::PermissionDenied, why))
    }

    /// Does `what` in the namespace.
    pub(crate) fn there<T: Send + 'static>(
        &self,
        what: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        match &self.space {
            Some(space) => space.run(what)?,
            None => what(),
        }
    }

    /// What probes have measured, in the namespace that we look at if it is not the host's first one.
    fn measure(&mut self) -> io::Result<Vec<u8>> {
        if self.probes.is_none() {
            let here = self.there(netns::current)?;
            let alone = self.space.is_some() || netns::is_child();
            let here = u32::try_from(here).ok();
            let config = bpf::Config { sample: self.sample, netns: here.filter(|_| alone) };
            let begun = Probes::begin(config).map_err(|e| (e.kind(), e.to_string()));
            self.probes = Some(begun);
        }
        match &self.probes {
            Some(Ok(probes)) => probes.read(),
            Some(Err((kind, why))) => Err(io::Error::new(*kind, why.clone())),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&self, name: &str) -> io::Result<File> {
        let path = self.path(name)?;
        self.there(move || File::open(path))
    }

    fn file(&mut self, name: &str) -> io::Result<Vec<u8>> {
        if let Some(file) = self.files.get(name) {
            match read(file, name, &mut self.buf) {
                // What it is about has gone; there may be another of that name.
                Err(err) if !is_answer(&err) => _ = self.files.remove(name),
                answer => return answer,
            }
        }
        let file = self.open(name)?;
        let bytes = read(&file, name, &mut self.buf);
        if stays(name) && bytes.as_ref().err().is_none_or(is_answer) {
            if self.files.len() >= self.files_max {
                self.files.clear();
            }
            self.files.insert(name.into(), file);
        }
        bytes
    }
}

impl Source for Live {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        match name {
            super::CLOCK => Ok(clock().into_bytes()),
            super::NETNS => self.there(|| Ok(format!("{}\n", netns::current()?).into_bytes())),
            bpf::NAME => self.measure(),
            _ if is_message(name) => {
                let (netlink, name) = (self.netlink.clone(), name.to_owned());
                self.there(move || {
                    netlink.lock().unwrap_or_else(PoisonError::into_inner).read(&name)
                })
            }
            _ => self.file(name),
        }
    }

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        let path = self.path(&format!("{dir}/"))?;
        self.there(move || super::names_in(&path))
    }

    fn is_live(&self) -> bool {
        true
    }
}

/// Whether this is no file but a question that is put to the kernel in another way.
fn is_message(name: &str) -> bool {
    ["netlink/", "ioctl/", "tracefs/"].iter().any(|kind| name.starts_with(kind))
}

/// Whether a file is worth keeping open: processes come and go.
fn stays(name: &str) -> bool {
    let process = name.strip_prefix("proc/").and_then(|rest| rest.bytes().next());
    !process.is_some_and(|b| b.is_ascii_digit())
}

/// Whether an error is what a file that is there has to say: the speed of a link that is down.
fn is_answer(err: &io::Error) -> bool {
    let errno = err.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS))
}

/// The whole of a file, from its beginning.
fn read(file: &File, name: &str, buf: &mut [u8]) -> io::Result<Vec<u8>> {
    // A sysctl costs the kernel as much memory as it is offered, and has to be read at once.
    const FEW: usize = 1024;
    if name.starts_with("proc/sys/") {
        let n = rustix::io::pread(file, &mut buf[..FEW], 0)?;
        if n < FEW {
            return Ok(buf[..n].to_vec());
        }
    }
    // An attribute comes in one piece; a table comes in pages, until there is no more.
    let at_once = name.starts_with("sys/") || name.starts_with("proc/sys/");
    let mut bytes = Vec::new();
    loop {
        let n = rustix::io::pread(file, &mut *buf, bytes.len() as u64)?;
        bytes.extend_from_slice(&buf[..n]);
        if n == 0 || (at_once && n < buf.len()) {
            return Ok(bytes);
        }
        if bytes.len() > super::FILE_MAX {
            return Err(super::too_large());
        }
    }
}

fn clock() -> String {
    let ns = |t: Timespec| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
    let mut out = String::new();
    // The coarse clock moves with the kernel's tick.
    let tick = clock_getres(ClockId::MonotonicCoarse);
    for (name, time) in [
        ("monotonic_ns", clock_gettime(ClockId::Monotonic)),
        ("wall_ns", clock_gettime(ClockId::Realtime)),
        ("tick_ns", tick),
    ] {
        _ = writeln!(out, "{name} {}", ns(time));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_read_twice_is_read_anew() {
        let mut live = Live::new();
        let uptime = |live: &mut Live| {
            let bytes = live.read("proc/uptime").expect("each Linux has it");
            let text = String::from_utf8(bytes).expect("it is text");
            let first = text.split(' ').next().expect("it has a word").to_owned();
            first.parse::<f64>().expect("it is a number")
        };
        let first = uptime(&mut live);
        std::thread::sleep(std::time::Duration::from_millis(30));
        assert!(uptime(&mut live) > first);
        assert_eq!(live.files.len(), 1, "it stayed open");
    }

    #[test]
    fn processes_are_not_kept_open() {
        let mut live = Live::new();
        let name = format!("proc/{}/comm", std::process::id());
        assert!(live.read(&name).is_ok());
        assert!(live.files.is_empty());
    }

    #[test]
    fn more_files_than_may_be_open_are_read_all_the_same() {
        let mut live = Live { files_max: 2, ..Live::new() };
        for name in ["proc/uptime", "proc/stat", "proc/softirqs", "proc/uptime"] {
            assert!(!live.read(name).expect(name).is_empty());
            assert!(live.files.len() <= 2);
        }
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        let err = Live::new().read("proc/net/nothing").expect_err("no such file");
        assert_eq!(err.kind(), io::ErrorKind::NotFound);
        assert!(Live::new().list("sys/class/nothing").is_err());
    }

    #[test]
    fn the_clock_says_what_it_is() {
        let text = clock();
        assert_eq!(text.lines().count(), 3);
        assert!(
            text.lines().all(|l| l.split_once(' ').is_some_and(|(_, n)| n.parse::<u64>().is_ok()))
        );
    }
}
