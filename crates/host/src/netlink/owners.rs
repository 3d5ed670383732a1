//! Whose a socket is: `/proc/PID/fd` looked through for inodes, for sockets that matter.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;

use crate::snapshot::{Owner, Snapshot};

/// Descriptors that are looked at in one go; a host with more shows some sockets without a process.
const FDS_MAX: usize = 200_000;
/// Sockets that are looked for.
const WANTED_MAX: usize = 4096;
/// A turn of rest for as many descriptors as this that were looked at: some ms of processor time.
const FDS_A_TURN: usize = 10_000;
/// As often as this is a socket that was not found looked for again; it may be the kernel's own, or
/// of a process that we may not look at.
const AGAIN: u32 = 30;

/// Where sockets were found.
#[derive(Debug, Default)]
pub(super) struct Owners {
    wanted: BTreeSet<u64>,
    found: BTreeMap<u64, Found>,
    missing: BTreeSet<u64>,
    turns: u32,
    // Turns without looking, after one that was dear.
    rest: usize,
}

#[derive(Clone, Debug)]
struct Found {
    pid: u32,
    // `/proc/PID/fd/FD`.
    path: String,
    comm: String,
}

impl Owners {
    /// Asks for these as well.
    pub(super) fn want(&mut self, inodes: impl Iterator<Item = u64>) {
        let room = WANTED_MAX.saturating_sub(self.wanted.len());
        self.wanted.extend(inodes.filter(|i| *i != 0).take(room));
    }

    /// Lines `INODE PID NAME` for what was asked for since the last time and could be found.
    pub(super) fn find(&mut self) -> Vec<u8> {
        let wanted = std::mem::take(&mut self.wanted);
        self.found
            .retain(|inode, found| wanted.contains(inode) && inode_of(&found.path) == Some(*inode));
        self.turns = self.turns.wrapping_add(1);
        if self.turns.is_multiple_of(AGAIN) {
            self.missing.clear();
        }
        let new = |inode: &u64| !self.found.contains_key(inode) && !self.missing.contains(inode);
        let mut left: BTreeSet<u64> = wanted.iter().copied().filter(new).collect();
        self.missing.retain(|inode| wanted.contains(inode));
        if self.rest > 0 {
            self.rest -= 1;
        } else {
            self.rest = self.search(&mut left) / FDS_A_TURN;
            self.missing.extend(left);
        }
        let mut lines = String::new();
        for (inode, found) in &self.found {
            let _ = writeln!(lines, "{inode} {} {}", found.pid, found.comm);
        }
        lines.into_bytes()
    }

    // How many descriptors were looked at.
    fn search(&mut self, left: &mut BTreeSet<u64>) -> usize {
        let mut looked = 0;
        if left.is_empty() {
            return looked;
        }
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(pid) = process.file_name().to_string_lossy().parse::<u32>() else { continue };
            // Other people's processes are not shown without CAP_SYS_PTRACE.
            for fd in fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten() {
                looked += 1;
                if left.is_empty() || looked > FDS_MAX {
                    return looked;
                }
                let path = fd.path().to_string_lossy().into_owned();
                let Some(inode) = inode_of(&path).filter(|inode| left.remove(inode)) else {
                    continue;
                };
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                let comm = comm.trim_end().replace(char::is_control, "?");
                self.found.insert(inode, Found { pid, path, comm });
            }
        }
        looked
    }
}

fn inode_of(fd: &str) -> Option<u64> {
    let to = fs::read_link(fd).ok()?;
    to.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// Reads `netlink/sock_diag/owners`.
pub fn owners(bytes: &[u8], into: &mut Snapshot) {
    let mut of = BTreeMap::new();
    for line in String::from_utf8_lossy(bytes).lines() {
        let mut words = line.splitn(3, ' ');
        let number = words.next().and_then(|w| w.parse::<u64>().ok());
        let pid = words.next().and_then(|w| w.parse::<u32>().ok());
        if let (Some(inode), Some(pid), Some(name)) = (number, pid, words.next()) {
            of.insert(inode, (pid, name.replace(char::is_control, "?")));
        }
    }
    let set = |owner: &mut Owner| {
        if let Some(process) = of.get(&owner.inode) {
            owner.process = Some(process.clone());
        }
    };
    let sockets = &mut into.sockets;
    sockets.listeners.iter_mut().for_each(|s| set(&mut s.owner));
    sockets.udp.iter_mut().for_each(|s| set(&mut s.owner));
    sockets.taps.iter_mut().for_each(|s| set(&mut s.owner));
    sockets.tcp.iter_mut().for_each(|s| set(&mut s.owner));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;
    use std::os::linux::fs::MetadataExt as _;

    fn inode(socket: &UdpSocket) -> u64 {
        use std::os::fd::AsRawFd as _;
        fs::metadata(format!("/proc/self/fd/{}", socket.as_raw_fd())).unwrap().st_ino()
    }

    #[test]
    fn our_own_sockets_are_ours_until_they_are_closed() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let is = inode(&socket);
        let mut owners = Owners::default();
        owners.want([is, 1, 0].into_iter());
        let text = String::from_utf8(owners.find()).unwrap();
        let line = text.lines().next().expect("it is found");
        assert!(line.starts_with(&format!("{is} {} ", std::process::id())), "{text}");
        assert_eq!(owners.missing.iter().collect::<Vec<_>>(), [&1]);
        owners.want([is].into_iter());
        assert_eq!(owners.find(), text.as_bytes(), "from where it was");
        drop(socket);
        owners.want([is].into_iter());
        assert!(owners.find().is_empty());
    }

    #[test]
    fn garbage_names_nobody() {
        let mut s = Snapshot::default();
        for bytes in [&b""[..], b"1", b"1 2", b"x y z\n\xff\xfe 3 4", b"1 99999999999 x\n"] {
            owners(bytes, &mut s);
        }
        assert_eq!(s.sockets.listeners.len(), 0);
    }
}
