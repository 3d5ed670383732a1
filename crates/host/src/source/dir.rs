//! A directory tree: a `sosreport`, a copy of `proc` and `sys`, or some files of them.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

use super::Source;

/// The output of `sysctl -a` in a sosreport.
const SYSCTL: &str = "sos_commands/kernel/sysctl_-a";

/// Somebody else's host, as far as its files go.
///
/// These are understood: a directory with `proc` or `sys` in it; a `sosreport` (or the directory into
/// which one was unpacked), where much may be known only from what programs printed (`sos_commands`),
/// and `proc/net` be under a process; a copy of `proc` itself; and loose files by their last names (`interrupts`, `softirqs`).
///
/// The tree is not trusted: what leads out of it, and what is no plain file, is not read.
#[derive(Debug)]
pub struct Dir {
    root: PathBuf,
    /// There is no `proc` in it: what is there, is below the root.
    bare: bool,
    /// Where `proc/net` may be, best first.
    nets: Vec<PathBuf>,
    /// What `sysctl -a` said, by the path below `/proc/sys`: the line and the value.
    sysctls: BTreeMap<String, (usize, String)>,
}

impl Dir {
    /// The tree at `path`.
    ///
    /// # Errors
    /// If it is no directory, or cannot be read, or has nothing in it that is known.
    pub fn open(path: impl AsRef<Path>) -> io::Result<Dir> {
        let mut root = path.as_ref().canonicalize()?;
        let mut entries = super::names_in(&root)?;
        // The directory in which an archive was unpacked.
        if let [only] = &entries[..]
            && !is_known(only)
            && root.join(only).is_dir()
        {
            root = root.join(only).canonicalize()?;
            entries = super::names_in(&root)?;
        }
        if !entries.iter().any(|name| is_known(name)) {
            let why = "it has neither proc nor sys in it, nor files of them";
            return Err(io::Error::new(io::ErrorKind::NotFound, why));
        }
        let bare = !entries.iter().any(|name| matches!(&**name, "proc" | "sys" | "sos_commands"));
        let mut dir = Dir { root, bare, nets: Vec::new(), sysctls: BTreeMap::new() };
        dir.nets = dir.find_nets();
        if let Ok(bytes) = dir.plain(Path::new(SYSCTL)) {
            dir.sysctls = sysctls(&bytes);
        }
        Ok(dir)
    }

    /// `proc/net` is a link to that of the process that looks; in an archive it may be a directory, a
    /// link that leads nowhere, or only there for one process.
    fn find_nets(&self) -> Vec<PathBuf> {
        let proc = if self.bare { PathBuf::new() } else { PathBuf::from("proc") };
        let mut nets = vec![proc.join("net"), proc.join("self/net"), proc.join("thread-self/net")];
        let pids = super::names_in(&self.root.join(&proc)).unwrap_or_default();
        let mut pids: Vec<u32> = pids.iter().filter_map(|name| name.parse().ok()).collect();
        pids.sort_unstable();
        // The first process is in the host's own namespace.
        nets.extend(pids.iter().map(|pid| proc.join(pid.to_string()).join("net")));
        nets.retain(|net| self.inside(net).is_ok_and(|path| path.is_dir()));
        nets.truncate(1);
        nets
    }

    /// Where a name may lie in this tree, best first.
    fn places(&self, name: &str) -> Vec<PathBuf> {
        let mut places = Vec::new();
        if let Some(rest) = name.strip_prefix("proc/net/") {
            places.extend(self.nets.iter().map(|net| net.join(rest)));
        } else if !self.bare {
            places.push(PathBuf::from(name));
        }
        if self.bare
            && let Some(rest) = name.strip_prefix("proc/")
        {
            places.push(PathBuf::from(rest));
            // Loose files have lost their directory. A sysctl's last name says too little.
            let last = rest.strip_prefix("net/").filter(|last| !last.contains('/'));
            places.extend(last.map(PathBuf::from));
        }
        places
    }

    /// The path of something in the tree, with links followed; it must be there and inside.
    fn inside(&self, path: &Path) -> io::Result<PathBuf> {
        let path = self.root.join(path).canonicalize()?;
        if path.starts_with(&self.root) {
            return Ok(path);
        }
        Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "it is a link that leads out of the tree",
        ))
    }

    fn plain(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = self.inside(path)?;
        // A pipe would be waited for, a device might do something; a directory is none of ours. Who is
        // quick could put one there between two looks, so it is not waited for at opening either.
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "it is not a plain file");
        if !path.metadata()?.is_file() {
            return Err(odd());
        }
        let flags = (OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::NOFOLLOW).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let about = file.metadata()?;
        if !about.is_file() {
            return Err(odd());
        }
        if about.len() > super::FILE_MAX as u64 {
            return Err(super::too_large());
        }
        let mut bytes = Vec::new();
        file.take(super::FILE_MAX as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > super::FILE_MAX {
            return Err(super::too_large());
        }
        Ok(bytes)
    }
}

impl Source for Dir {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        let mut first = None;
        for place in self.places(name) {
            match self.plain(&place) {
                Ok(bytes) => return Ok(bytes),
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => first = first.or(Some(err)),
            }
        }
        let path = name.strip_prefix("proc/sys/");
        if let Some((_, value)) = path.and_then(|path| self.sysctls.get(path)) {
            return Ok(value.clone().into_bytes());
        }
        Err(first.unwrap_or_else(|| io::ErrorKind::NotFound.into()))
    }

    fn origin(&self, name: &str) -> Option<String> {
        let (line, _) = self.sysctls.get(name.strip_prefix("proc/sys/")?)?;
        // The file itself, where there is one, was read first.
        self.inside(Path::new(name)).is_err().then(|| format!("{SYSCTL}:{line}"))
    }

    fn list(&mut self, dir: &str) -> io::Result<Vec<String>> {
        for place in self.places(dir) {
            if let Ok(path) = self.inside(&place)
                && path.is_dir()
            {
                return super::names_in(&path);
            }
        }
        Err(io::ErrorKind::NotFound.into())
    }
}

/// Whether something of this name in a directory says that it is a tree of a host.
fn is_known(name: &str) -> bool {
    const KNOWN: [&str; 17] = [
        "proc",
        "sys",
        "sos_commands",
        "net",
        "stat",
        "softirqs",
        "interrupts",
        "cpuinfo",
        "uptime",
        "softnet_stat",
        "snmp",
        "netstat",
        "snmp6",
        "sockstat",
        "sockstat6",
        "dev",
        "vmstat",
    ];
    KNOWN.contains(&name)
}

/// The output of `sysctl -a`: `net.ipv4.tcp_rmem = 4096 131072 6291456`, by paths.
fn sysctls(bytes: &[u8]) -> BTreeMap<String, (usize, String)> {
    const MAX: usize = 1 << 16;
    let lines = bytes.split(|b| *b == b'\n').enumerate();
    let pairs = lines.filter_map(|(n, line)| {
        let (name, value) = std::str::from_utf8(line).ok()?.split_once('=')?;
        Some((crate::proc::sysctl::path(name.trim()), (n + 1, value.trim().to_owned())))
    });
    pairs.take(MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A directory that is removed when the test is over.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Tree {
            let at =
                std::env::temp_dir().join(format!("linerate-dir-{}-{name}", std::process::id()));
            _ = std::fs::remove_dir_all(&at);
            for (file, text) in files {
                let file = at.join(file);
                std::fs::create_dir_all(file.parent().expect("it lies in the tree")).expect("made");
                std::fs::write(file, text).expect("written");
            }
            Tree(at)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn read(dir: &mut Dir, name: &str) -> Option<String> {
        dir.read(name).ok().map(|bytes| String::from_utf8(bytes).expect("it is text"))
    }

    #[test]
    fn a_sosreport_has_sysctls_and_a_process_with_its_net() {
        let files = [
            ("sos-1/proc/77/net/snmp", "seventy-seven"),
            ("sos-1/proc/stat", "cpu"),
            ("sos-1/sos_commands/kernel/sysctl_-a", "a = 1\nnet.ipv4.conf.eth0/7.rp_filter = 2\nx"),
        ];
        let tree = Tree::new("sos", &files);
        let mut dir = Dir::open(&tree.0).expect("a tree");
        assert_eq!(read(&mut dir, "proc/net/snmp").as_deref(), Some("seventy-seven"));
        assert_eq!(read(&mut dir, "proc/stat").as_deref(), Some("cpu"));
        assert_eq!(read(&mut dir, "proc/sys/net/ipv4/conf/eth0.7/rp_filter").as_deref(), Some("2"));
        assert_eq!(
            dir.read("proc/net/netstat").expect_err("not there").kind(),
            io::ErrorKind::NotFound
        );
        assert!(dir.list("sys/class/net").is_err());
    }

    #[test]
    fn loose_files_and_a_bare_proc_are_understood() {
        let tree = Tree::new("loose", &[("interrupts", "i"), ("snmp", "s"), ("net/netstat", "n")]);
        let mut dir = Dir::open(&tree.0).expect("a tree");
        assert_eq!(read(&mut dir, "proc/interrupts").as_deref(), Some("i"));
        assert_eq!(read(&mut dir, "proc/net/snmp").as_deref(), Some("s"));
        assert_eq!(read(&mut dir, "proc/net/netstat").as_deref(), Some("n"));
        assert_eq!(dir.list("proc/net/stat").expect_err("none").kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn nothing_is_read_from_outside_or_waited_for() {
        let tree = Tree::new("out", &[("proc/stat", "cpu"), ("proc/net/snmp", "s")]);
        symlink("/etc/hostname", tree.0.join("proc/uptime")).expect("linked");
        symlink("../../../../etc", tree.0.join("sys")).expect("linked");
        symlink("net/snmp", tree.0.join("proc/version")).expect("linked");
        let mut dir = Dir::open(&tree.0).expect("a tree");
        assert_eq!(read(&mut dir, "proc/uptime"), None);
        assert_eq!(read(&mut dir, "sys/hostname"), None);
        assert_eq!(read(&mut dir, "../../etc/hostname"), None);
        assert_eq!(read(&mut dir, "proc/net"), None);
        assert!(dir.list("sys").is_err());
        assert_eq!(
            read(&mut dir, "proc/version").as_deref(),
            Some("s"),
            "links inside are followed"
        );
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let tree = Tree::new("else", &[("holiday.jpg", ""), ("b/c", "")]);
        assert_eq!(Dir::open(&tree.0).expect_err("no host").kind(), io::ErrorKind::NotFound);
        assert!(Dir::open(tree.0.join("holiday.jpg")).is_err());
    }
}
