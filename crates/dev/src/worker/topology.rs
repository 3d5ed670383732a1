//! Which processors are near a device: what sysfs says of nodes (NUMA), cores and devices.
//!
//! Linux: Documentation/ABI/stable/sysfs-devices-node, drivers/base/topology.c

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::pin;

/// A node: processors, and the memory that is near them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its number (`nodeN`).
    pub number: usize,
    /// Its processors that may be used, in the order in which workers are put on them: the first
    /// thread of every core, then the second of every core.
    pub cpus: Vec<usize>,
    /// How far the other nodes are, by number (10 is near).
    distance: Vec<u32>,
}

/// The nodes of a machine.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The nodes, by number. A machine without any has one.
    pub nodes: Vec<Node>,
    root: PathBuf,
}

impl Topology {
    /// Reads this machine's, from `/sys`; of its processors those that the calling thread may use.
    ///
    /// # Errors
    /// sysfs can not be read.
    pub fn read() -> io::Result<Topology> {
        Topology::read_from(Path::new("/sys"), &pin::allowed())
    }

    /// Reads it from a tree like `/sys`; only processors in `allowed` count.
    ///
    /// # Errors
    /// The tree can not be read. Where there are no nodes in it, all processors are on one.
    pub fn read_from(root: &Path, allowed: &[usize]) -> io::Result<Topology> {
        let mut nodes = Vec::new();
        match fs::read_dir(root.join("devices/system/node")) {
            Ok(entries) => {
                for entry in entries {
                    let entry = entry?;
                    let name = entry.file_name();
                    let Some(number) = number_behind(&name.to_string_lossy(), "node") else {
                        continue;
                    };
                    nodes.push(node(root, number, &entry.path(), allowed)?);
                }
            }
            Err(err) if err.kind() == io::ErrorKind::NotFound => {}
            Err(err) => return Err(err),
        }
        if nodes.is_empty() {
            let cpus = cores_first(root, allowed.to_vec());
            nodes.push(Node { number: 0, cpus, distance: vec![10] });
        }
        nodes.sort_by_key(|n| n.number);
        Ok(Topology { nodes, root: root.to_owned() })
    }

    /// The node that a network device is on; `None` if it is on none (a veth, a TUN) or unknown.
    #[must_use]
    pub fn node_of(&self, dev: &str) -> Option<usize> {
        if dev.contains('/') || dev.starts_with('.') {
            return None;
        }
        let path = self.root.join("class/net").join(dev).join("device/numa_node");
        // The kernel writes -1 where it does not know.
        fs::read_to_string(path).ok()?.trim().parse().ok()
    }

    /// The processors for `n` workers of a device: those of its node first, then those of the nodes
    /// nearest to it. Without a device, or for one on no node, the nodes nearest to the first
    /// that has processors. More workers than processors share them. Empty if nothing may be used.
    #[must_use]
    pub fn cpus_for(&self, dev: Option<&str>, n: usize) -> Vec<usize> {
        let wanted = dev.and_then(|dev| self.node_of(dev));
        let first = |node: &&Node| wanted.is_none_or(|w| w == node.number) && !node.cpus.is_empty();
        let home = self
            .nodes
            .iter()
            .find(first)
            .or_else(|| self.nodes.iter().find(|n| !n.cpus.is_empty()));
        let Some(home) = home else { return Vec::new() };
        let mut order: Vec<&Node> = self.nodes.iter().collect();
        let far = |node: &&Node| {
            let at = self.nodes.iter().position(|n| n.number == node.number);
            let told = at.and_then(|at| home.distance.get(at)).copied();
            (node.number != home.number, told.unwrap_or(u32::MAX), node.number)
        };
        order.sort_by_key(far);
        let all: Vec<usize> = order.iter().flat_map(|n| n.cpus.iter().copied()).collect();
        all.iter().copied().cycle().take(n).collect()
    }
}

fn node(root: &Path, number: usize, path: &Path, allowed: &[usize]) -> io::Result<Node> {
    let cpus = list(&fs::read_to_string(path.join("cpulist"))?);
    let cpus = cores_first(root, cpus.into_iter().filter(|c| allowed.contains(c)).collect());
    let distance = fs::read_to_string(path.join("distance")).unwrap_or_default();
    let distance = distance.split_whitespace().filter_map(|d| d.parse().ok()).collect();
    Ok(Node { number, cpus, distance })
}

/// The first thread of every core, then the second, and so on; each in the order of the numbers.
fn cores_first(root: &Path, mut cpus: Vec<usize>) -> Vec<usize> {
    cpus.sort_by_cached_key(|cpu| {
        let dir = root.join(format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        let siblings = fs::read_to_string(dir).map(|text| list(&text)).unwrap_or_default();
        (siblings.iter().position(|s| s == cpu).unwrap_or(0), *cpu)
    });
    cpus
}

/// A list as sysfs writes it: `0-3,8,10-11`.
fn list(text: &str) -> Vec<usize> {
    let mut all = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (low, high) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(low), Ok(high)) = (low.parse::<usize>(), high.parse::<usize>()) {
            // A kernel has at most 8192 processors.
            all.extend(low..=high.min(low.saturating_add(8192)));
        }
    }
    all
}

fn number_behind(name: &str, prefix: &str) -> Option<usize> {
    name.strip_prefix(prefix)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree like `/sys`, written for one test; gone with the value.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str, files: &[(&str, &str)]) -> Tree {
            let root = std::env::temp_dir().join(format!("linerate-{}-{name}", std::process::id()));
            for (path, text) in files {
                let path = root.join(path);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text).unwrap();
            }
            Tree(root)
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// Two sockets of four cores with two threads each, numbered as Intel's firmware does: the
    /// second threads come after all first ones.
    fn two_nodes() -> Tree {
        let siblings: Vec<(String, String)> = (0..16)
            .map(|cpu| {
                let path = format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
                (path, format!("{},{}\n", cpu % 8, cpu % 8 + 8))
            })
            .collect();
        let mut files: Vec<(&str, &str)> =
            siblings.iter().map(|(p, t)| (p.as_str(), t.as_str())).collect();
        files.extend([
            ("devices/system/node/node0/cpulist", "0-3,8-11\n"),
            ("devices/system/node/node0/distance", "10 21\n"),
            ("devices/system/node/node1/cpulist", "4-7,12-15\n"),
            ("devices/system/node/node1/distance", "21 10\n"),
            ("devices/system/node/has_cpu", "0-1\n"),
            ("class/net/ens1f0/device/numa_node", "1\n"),
            ("class/net/eth0/device/numa_node", "-1\n"),
            ("class/net/lo/mtu", "65536\n"),
        ]);
        Tree::new("two-nodes", &files)
    }

    #[test]
    fn workers_go_to_the_devices_node_and_to_whole_cores_first() {
        let tree = two_nodes();
        let all: Vec<usize> = (0..16).collect();
        let top = Topology::read_from(&tree.0, &all).unwrap();
        assert_eq!(top.node_of("ens1f0"), Some(1));
        assert_eq!((top.node_of("eth0"), top.node_of("lo"), top.node_of("..")), (None, None, None));
        assert_eq!(top.cpus_for(Some("ens1f0"), 6), [4, 5, 6, 7, 12, 13]);
        // What the node lacks the next one gives.
        assert_eq!(top.cpus_for(Some("ens1f0"), 10)[8..], [0, 1]);
        assert_eq!(top.cpus_for(Some("eth0"), 3), [0, 1, 2]);
        assert_eq!(top.cpus_for(None, 2), [0, 1]);
    }

    #[test]
    fn only_what_is_allowed_is_chosen_and_workers_in_excess_share() {
        let tree = Tree::new(
            "allowed",
            &[
                ("devices/system/node/node0/cpulist", "0-3\n"),
                ("devices/system/node/node1/cpulist", "4-7\n"),
                ("class/net/nic/device/numa_node", "1\n"),
            ],
        );
        let top = Topology::read_from(&tree.0, &[1, 2, 6]).unwrap();
        assert_eq!(top.cpus_for(Some("nic"), 5), [6, 1, 2, 6, 1]);
        let none = Topology::read_from(&tree.0, &[]).unwrap();
        assert!(none.cpus_for(Some("nic"), 2).is_empty());
        // A device whose node has no processor that is allowed.
        let far = Topology::read_from(&tree.0, &[0]).unwrap();
        assert_eq!(far.cpus_for(Some("nic"), 2), [0, 0]);
    }

    /// Four nodes in a ring: the nearest one is not the next number.
    #[test]
    fn the_nearest_node_helps_out_first() {
        let tree = Tree::new(
            "ring",
            &[
                ("devices/system/node/node0/cpulist", "0\n"),
                ("devices/system/node/node1/cpulist", "1\n"),
                ("devices/system/node/node2/cpulist", "2\n"),
                ("devices/system/node/node2/distance", "32 32 10 21\n"),
                ("devices/system/node/node3/cpulist", "3\n"),
                ("class/net/nic/device/numa_node", "2\n"),
            ],
        );
        let top = Topology::read_from(&tree.0, &[0, 1, 2, 3]).unwrap();
        assert_eq!(top.cpus_for(Some("nic"), 4), [2, 3, 0, 1]);
    }

    #[test]
    fn a_machine_without_nodes_has_one_and_this_machine_can_be_read() {
        let tree = Tree::new("flat", &[("class/net/nic/mtu", "1500\n")]);
        let top = Topology::read_from(&tree.0, &[0, 1]).unwrap();
        assert_eq!(top.cpus_for(Some("nic"), 2), [0, 1]);
        let here = Topology::read().unwrap();
        assert_eq!(here.cpus_for(None, 3).len(), 3);
    }

    #[test]
    fn lists_are_read_as_sysfs_writes_them() {
        assert_eq!(list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert!(list("\n").is_empty());
        assert!(list("x,1-y").is_empty());
    }
}
