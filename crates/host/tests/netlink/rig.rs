//! A namespace with a pair of devices, and what other programs show of it.

use std::io;
use std::process::{Command, Stdio};

use linerate_host::collect::Tier;
use linerate_host::source::Source;
use linerate_host::{Snapshot, netlink};

use crate::again::skip;

/// This host, as far as netlink tells.
#[derive(Default)]
pub struct Host(netlink::Live);

impl Source for Host {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        self.0.read(name)
    }

    fn list(&mut self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn is_live(&self) -> bool {
        true
    }
}

/// Everything, read once.
pub fn full() -> Snapshot {
    let mut s = Snapshot::default();
    netlink::collect(&mut Host::default(), Tier::Full, &mut s);
    s
}

/// Whether all these programs are here; if not, says so.
pub fn has(test: &str, programs: &[&str]) -> bool {
    let missing = programs.iter().find(|program| {
        let mut tried = Command::new(program);
        tried.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
        tried.status().is_err()
    });
    if let Some(program) = missing {
        skip(test, &format!("{program} is not installed"));
    }
    missing.is_none()
}

/// Runs a command of words without blanks in them, which must succeed.
pub fn run(command: &str) -> String {
    let mut words = command.split_whitespace();
    let out = Command::new(words.next().unwrap()).args(words).output().unwrap();
    assert!(out.status.success(), "{command}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The same for one that prints JSON.
pub fn json(command: &str) -> serde_json::Value {
    serde_json::from_str(&run(command)).unwrap()
}

/// `va` (10.77.0.1/16) and `vb`, both up, in this namespace, and a dead neighbour.
pub fn veth() {
    run("ip link set lo up");
    run("ip link add va numrxqueues 4 numtxqueues 4 type veth peer name vb");
    run("ip addr add 10.77.0.1/16 dev va");
    run("ip link set va up");
    run("ip link set vb up");
    run("ip neigh add 10.77.0.9 lladdr 02:00:00:00:00:09 dev va");
}

/// The same host, as if its kernel were older than the families of generic netlink.
#[derive(Default)]
pub struct Old(netlink::Live);

impl Source for Old {
    fn read(&mut self, name: &str) -> io::Result<Vec<u8>> {
        if ["netlink/ethtool/", "netlink/netdev/"].iter().any(|p| name.starts_with(p)) {
            return Err(io::Error::from_raw_os_error(libc::ENOENT));
        }
        self.0.read(name)
    }

    fn list(&mut self, _: &str) -> io::Result<Vec<String>> {
        Ok(Vec::new())
    }

    fn is_live(&self) -> bool {
        true
    }
}

/// The names of tracing's instances, through a tracefs that is ours alone.
pub fn instances() -> Vec<String> {
    use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags};
    use std::os::fd::AsRawFd as _;
    let fs = rustix::mount::fsopen("tracefs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    rustix::mount::fsconfig_create(&fs).unwrap();
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    let mount = rustix::mount::fsmount(&fs, flags, MountAttrFlags::empty()).unwrap();
    let dir = format!("/proc/self/fd/{}/instances", mount.as_raw_fd());
    let names = std::fs::read_dir(dir).unwrap();
    names.map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect()
}
