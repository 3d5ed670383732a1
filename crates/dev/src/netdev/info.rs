//! What has to be known of an interface before it is driven: its queues, its driver, where it is.

use super::netlink::{Request, attr, attr_u32, text};
use super::{IFINFOMSG, IFLA_IFNAME, Link, Netdev, NetdevError, RTM_GETLINK, ifinfo, parse_link};
use std::fs;
use std::io;

const IFLA_NUM_TX_QUEUES: u16 = 31;
const IFLA_NUM_RX_QUEUES: u16 = 32;

/// An interface, its driver, its queues and its place in the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// What [`Netdev::link`] says.
    pub link: Link,
    /// Receive queues it was made with; those in use may be fewer (`ethtool -l`).
    pub rx_queues: u32,
    /// Transmit queues, likewise.
    pub tx_queues: u32,
    /// Its driver; the kind of a virtual one (`veth`, `tun`). None where nobody says.
    pub driver: Option<String>,
    /// The NUMA node of its device; none where it has no device or the machine one node.
    pub numa_node: Option<u32>,
    /// The processors near its device; empty where nobody says.
    pub local_cpus: Vec<usize>,
}

impl Netdev {
    /// What has to be known of an interface of the calling thread's network namespace.
    ///
    /// # Errors
    /// `ENODEV` if there is none of this name.
    pub fn info(&mut self, name: &str) -> Result<Info, NetdevError> {
        let doing = || format!("look up interface {name}");
        let request = Request::new(RTM_GETLINK, 0, &ifinfo(0, 0, 0)).attr_str(IFLA_IFNAME, name);
        let wrong = || NetdevError {
            doing: doing(),
            kernel: None,
            source: io::ErrorKind::InvalidData.into(),
        };
        let body = self.0.run(request, doing)?.ok_or_else(wrong)?.body;
        let link = parse_link(&body).ok_or_else(wrong)?;
        let attrs = body.get(IFINFOMSG..).unwrap_or_default();
        let kind = attr(attrs, super::IFLA_LINKINFO).and_then(|a| attr(a, super::IFLA_INFO_KIND));
        let driver = crate::sys::ethtool::driver(name).ok().or_else(|| kind.map(text));
        let channels = crate::sys::ethtool::channels(name).ok();
        let queues = |now: Option<u32>, kind| {
            let made = attr_u32(attrs, kind).unwrap_or(1);
            now.filter(|&n| n > 0).unwrap_or(made)
        };
        let (numa_node, local_cpus) = place(&link);
        Ok(Info {
            rx_queues: queues(channels.map(|c| c.rx), IFLA_NUM_RX_QUEUES),
            tx_queues: queues(channels.map(|c| c.tx), IFLA_NUM_TX_QUEUES),
            driver,
            numa_node,
            local_cpus,
            link,
        })
    }
}

/// Where the device of an interface is. The files of `/sys` are those of the namespace it was
/// mounted in: a number that differs says that they speak of another interface.
fn place(link: &Link) -> (Option<u32>, Vec<usize>) {
    let read = |file: &str| fs::read_to_string(format!("/sys/class/net/{}/{file}", link.name)).ok();
    let index = read("ifindex").and_then(|i| i.trim().parse::<u32>().ok());
    if index != Some(link.index) {
        return (None, Vec::new());
    }
    // -1 stands for no node.
    let node = read("device/numa_node").and_then(|n| n.trim().parse().ok());
    let cpus = read("device/local_cpulist").map(|l| cpu_list(&l)).unwrap_or_default();
    (node, cpus)
}

/// A list like `0-3,8,10-11`.
fn cpu_list(text: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for part in text.trim().split(',').filter(|p| !p.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) else {
            continue;
        };
        // No machine has more; a longer range is no list.
        if last < 1 << 16 {
            cpus.extend(first..=last);
        }
    }
    cpus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(cpu_list("0-3,8,10-11\n"), [0, 1, 2, 3, 8, 10, 11]);
        assert_eq!(cpu_list("\n"), [0; 0]);
        assert_eq!(cpu_list("5"), [5]);
        assert_eq!(cpu_list("x,1-,2,0-99999999999,7-6"), [2]);
    }
}
