//! Processes and kernel threads: the time of those that carry packets, and who may own settings.
//!
//! Linux: fs/proc/array.c `do_task_stat`

use crate::counters::Counters;
use crate::snapshot::Snapshot;

/// Who sets what we look at, by the name of the process (the kernel keeps 15 characters of it).
const OWNERS: [(&str, &str); 24] = [
    ("NetworkManager", "NetworkManager"),
    ("antrea-agent", "antrea-agent"),
    ("bgpd", "bgpd"),
    ("bird", "bird"),
    ("bird6", "bird"),
    ("bpftune", "bpftune"),
    ("calico-felix", "calico-felix"),
    ("calico-node", "calico-node"),
    ("cilium-agent", "cilium-agent"),
    ("connmand", "connman"),
    ("dockerd", "dockerd"),
    ("firewalld", "firewalld"),
    ("flanneld", "flanneld"),
    ("ifplugd", "ifplugd"),
    ("irqbalance", "irqbalance"),
    ("kubelet", "kubelet"),
    ("libvirtd", "libvirtd"),
    ("ovs-vswitchd", "ovs-vswitchd"),
    ("systemd-network", "systemd-networkd"),
    ("tuned", "tuned"),
    ("vpp_main", "vpp"),
    ("watchfrr", "frr"),
    ("wickedd", "wicked"),
    ("zebra", "zebra"),
];

/// The owner of settings that a process of this name (`comm`) is, if it is one.
#[must_use]
pub fn owner(comm: &str) -> Option<&'static str> {
    OWNERS.iter().find(|(name, _)| *name == comm).map(|(_, owner)| *owner)
}

/// Whether a kernel thread of this name handles packets: `ksoftirqd/0`, `napi/eth0-8193`.
#[must_use]
pub fn is_kthread(comm: &str) -> bool {
    comm.starts_with("ksoftirqd/") || comm.starts_with("napi/")
}

/// `/proc/PID/stat` of a kernel thread: fills [`Snapshot::kthreads`] and gives its name.
///
/// # Errors
/// None; what is not such a line is noted. `None` if it is no thread of the path.
pub fn stat(pid: u32, bytes: &[u8], into: &mut Snapshot) -> Option<String> {
    let what = format!("/proc/{pid}/stat");
    // The name stands in parentheses, and may have some itself.
    let read = || {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, rest) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        // From the state on, which is the third number of proc(5): utime is the 14th, stime the 15th.
        let mut rest = rest.split_whitespace().skip(11);
        let utime = rest.next()?.parse::<u64>().ok()?;
        let stime = rest.next()?.parse::<u64>().ok()?;
        // One more, so that the number before is whole.
        rest.next().map(|_| (name.to_owned(), utime, stime))
    };
    let Some((name, utime, stime)) = read() else {
        into.note(what, "it is not the state of a process");
        return None;
    };
    if !is_kthread(&name) {
        return None;
    }
    let mut time = Counters::new(format!("{what} {name}"));
    time.extend([("utime", utime), ("stime", stime)]);
    into.kthreads.insert(name.clone(), time);
    Some(name)
}
