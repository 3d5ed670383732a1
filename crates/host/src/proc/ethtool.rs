//! What `ethtool` printed of a device, as a `sosreport` keeps it. Only for archives, where there is
//! nothing else: the text is for people and changes; of a host that runs, netlink and ioctls tell.

use super::lines;
use crate::counters::Counters;
use crate::snapshot::{Dev, Feature, Rss, Snapshot};

/// Options whose output is read.
pub const OPTIONS: [char; 8] = ['i', 'g', 'l', 'c', 'a', 'k', 'S', 'x'];

/// Lines of one output that are read; a large driver has a few thousand statistics.
const LINES_MAX: usize = 1 << 14;

/// The file of a `sosreport` with what `ethtool -OPTION DEV` printed.
#[must_use]
pub fn file(option: char, dev: &str) -> String {
    format!("sos_commands/networking/ethtool_-{option}_{dev}")
}

/// Fills what the option of ethtool shows of `dev`, in the words that netlink's answers have.
pub fn printed(option: char, dev: &str, bytes: &[u8], into: &mut Snapshot) {
    let what = file(option, dev);
    let rows: Vec<_> = lines(bytes, &what, into).take(LINES_MAX).collect();
    if option == 'x' {
        return spread(dev, &rows, into);
    }
    let Some(of) = into.devs.get_mut(dev) else { return };
    let mut read = Counters::new(format!("ethtool -{option} {dev}"));
    let mut most = false;
    for (_, line) in rows {
        most |= line.starts_with("Pre-set maximums");
        most &= !line.starts_with("Current");
        let Some((name, value)) = line.rsplit_once(':') else { continue };
        let (name, value) = (name.trim(), value.trim());
        match option {
            'i' if name == "driver" && of.driver.is_empty() => value.clone_into(&mut of.driver),
            'k' => feature(of, name, value),
            'S' => numbered(&mut read, name, value),
            'g' | 'l' => {
                let name = name.to_lowercase().replace(' ', "-");
                let name = if most { format!("{name}-max") } else { name };
                numbered(&mut read, &name, value);
            }
            'a' => {
                let name = name.to_lowercase().replace("autonegotiate", "autoneg");
                switched(&mut read, &name, value);
            }
            // `Adaptive RX: off  TX: on` is two in one line.
            'c' if name.starts_with("Adaptive RX:") => {
                let rx = name.trim_start_matches("Adaptive RX:").trim().trim_end_matches("TX");
                switched(&mut read, "adaptive-rx", rx.trim());
                switched(&mut read, "adaptive-tx", value);
            }
            // Old versions wrote `rx-frame-low`.
            'c' => numbered(&mut read, &name.replace("-frame-", "-frames-"), value),
            _ => {}
        }
    }
    let to = match option {
        'g' => &mut of.rings,
        'l' => &mut of.channels,
        'c' => &mut of.coalesce,
        'a' => &mut of.pause,
        'S' => &mut of.driver_stats,
        _ => return,
    };
    // What netlink told is better.
    if to.is_empty() && !read.is_empty() {
        *to = read;
    }
}

/// The table that spreads flows: rows of queues, `    8:      0     1 ...`, and the function that is on
/// (`    toeplitz: on`). The key between them is a secret, and left out.
fn spread(dev: &str, rows: &[(usize, &str)], into: &mut Snapshot) {
    /// Places of a table; no driver has a quarter of them.
    const PLACES_MAX: usize = 1 << 14;
    let Some(of) = into.devs.get_mut(dev).filter(|of| of.rss.is_none()) else { return };
    let mut rss = Rss::default();
    for (_, line) in rows.iter().filter(|(_, line)| line.starts_with([' ', '\t'])) {
        let Some((name, rest)) = line.trim().split_once(':') else { continue };
        let place: Option<usize> = name.parse().ok();
        let queues: Option<Vec<u32>> = rest.split_whitespace().map(|q| q.parse().ok()).collect();
        match (place, queues) {
            // Rows come one behind the other: a gap would put queues into wrong places.
            (Some(place), Some(queues)) if place == rss.indir.len() && place < PLACES_MAX => {
                rss.indir.extend(queues.into_iter().take(64));
            }
            (Some(_), _) => return,
            (None, _) if rest.trim() == "on" && name.len() < 16 => name.clone_into(&mut rss.hfunc),
            _ => {}
        }
    }
    if !rss.indir.is_empty() {
        of.rss = Some(rss);
    }
}

/// `n/a`, and what is no number, was not offered.
fn numbered(read: &mut Counters, name: &str, value: &str) {
    if let Ok(value) = value.parse()
        && read.len() < LINES_MAX
        && name.len() < 64
    {
        read.set(name, value);
    }
}

fn switched(read: &mut Counters, name: &str, value: &str) {
    match value {
        "on" => read.set(name, 1),
        "off" => read.set(name, 0),
        _ => {}
    }
}

/// `tx-checksum-ipv4: off [fixed]`. Some have a name in this output that the kernel does not know.
fn feature(of: &mut Dev, name: &str, value: &str) {
    const KERNEL: [(&str, &str); 8] = [
        ("generic-receive-offload", "rx-gro"),
        ("generic-segmentation-offload", "tx-generic-segmentation"),
        ("large-receive-offload", "rx-lro"),
        ("ntuple-filters", "rx-ntuple-filter"),
        ("receive-hashing", "rx-hashing"),
        ("rx-checksumming", "rx-checksum"),
        ("rx-vlan-offload", "rx-vlan-hw-parse"),
        ("tx-vlan-offload", "tx-vlan-hw-insert"),
    ];
    /// Names for several of the kernel's at once, which follow one by one.
    const GROUPS: [&str; 3] = ["tx-checksumming", "scatter-gather", "tcp-segmentation-offload"];
    let on = match value.split(' ').next() {
        Some("on") => true,
        Some("off") => false,
        _ => return,
    };
    if GROUPS.contains(&name) || of.features.len() >= 256 || name.len() >= 64 {
        return;
    }
    let name = KERNEL.iter().find(|(theirs, _)| *theirs == name).map_or(name, |(_, kernel)| kernel);
    let feature = Feature { on, fixed: value.ends_with("[fixed]") };
    if value.contains("[requested ") {
        of.refused.insert((*name).to_owned(), !on);
    }
    of.features.entry(name.to_owned()).or_insert(feature);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dev(outputs: &[(char, &str)]) -> Dev {
        let mut into = Snapshot::default();
        into.devs.insert("ens3".into(), Dev::named("ens3"));
        for (option, text) in outputs {
            printed(*option, "ens3", text.as_bytes(), &mut into);
        }
        into.devs.remove("ens3").expect("it was put there")
    }

    #[test]
    fn now_and_at_most_are_told_apart() {
        let rings = "Ring parameters for ens3:\nPre-set maximums:\nRX:\t\t4096\nRX Mini:\tn/a\nTX:\t\t4096\n\
                     Current hardware settings:\nRX:\t\t512\nRX Mini:\tn/a\nTX:\t\t256\n";
        let channels = "Channel parameters for ens3:\nPre-set maximums:\nCombined:\t8\n\
                        Current hardware settings:\nCombined:\t1\n";
        let dev = dev(&[('g', rings), ('l', channels)]);
        let all: Vec<_> = dev.rings.iter().collect();
        assert_eq!(all, [("rx", 512), ("rx-max", 4096), ("tx", 256), ("tx-max", 4096)]);
        assert_eq!(dev.rings.source(), "ethtool -g ens3");
        let all: Vec<_> = dev.channels.iter().collect();
        assert_eq!(all, [("combined", 1), ("combined-max", 8)]);
    }

    #[test]
    fn words_are_those_of_the_kernel() {
        let coalesce = "Coalesce parameters for ens3:\nAdaptive RX: on  TX: off\n\nrx-usecs: 25\nrx-frame-low: 3\n";
        let pause = "Pause parameters for ens3:\nAutonegotiate:\ton\nRX:\t\toff\nTX:\t\ton\n";
        let features = "Features for ens3:\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\nrx-gro-hw: off [requested on]\n\
                        generic-receive-offload: on\ntcp-segmentation-offload: off\n\ttx-tcp-segmentation: off\n";
        let stats = "NIC statistics:\n     rx_queue_0_drops: 7\n     [0]: rx_ucast_packets: 5\n     odd: n/a\n";
        let driver = "driver: virtio_net\nversion: 1.0.0\n";
        let dev =
            dev(&[('c', coalesce), ('a', pause), ('k', features), ('S', stats), ('i', driver)]);
        let all: Vec<_> = dev.coalesce.iter().collect();
        assert_eq!(
            all,
            [("adaptive-rx", 1), ("adaptive-tx", 0), ("rx-frames-low", 3), ("rx-usecs", 25)]
        );
        let all: Vec<_> = dev.pause.iter().collect();
        assert_eq!(all, [("autoneg", 1), ("rx", 0), ("tx", 1)]);
        assert_eq!(dev.features["rx-gro"], Feature { on: true, fixed: false });
        assert_eq!(dev.features["tx-checksum-ipv4"], Feature { on: false, fixed: true });
        assert_eq!(
            dev.features.keys().collect::<Vec<_>>(),
            ["rx-gro", "rx-gro-hw", "tx-checksum-ipv4", "tx-tcp-segmentation"]
        );
        assert_eq!(dev.refused.iter().collect::<Vec<_>>(), [(&"rx-gro-hw".to_owned(), &true)]);
        assert_eq!(dev.driver_stats.get("[0]: rx_ucast_packets"), Some(5));
        assert_eq!((dev.driver_stats.len(), dev.driver.as_str()), (2, "virtio_net"));
    }

    #[test]
    fn the_table_that_spreads_flows_is_read_without_its_key() {
        let text = "RX flow hash indirection table for ens3 with 2 RX ring(s):\n    0:      0     1     0     1\n\
                    \x20   4:      1     1     1     1\nRSS hash key:\nbe:ac:01:fa\nRSS hash function:\n    \
                    toeplitz: on\n    xor: off\n    crc32: off\n";
        let rss = dev(&[('x', text)]).rss.expect("it has a table");
        assert_eq!((rss.indir, rss.hfunc.as_str()), (vec![0, 1, 0, 1, 1, 1, 1, 1], "toeplitz"));
        let gap = text.replace("    4:", "    8:");
        for odd in ["Cannot get RX ring count: Operation not supported\n", &gap, ""] {
            assert_eq!(dev(&[('x', odd)]).rss, None, "{odd}");
        }
    }

    #[test]
    fn a_refusal_is_no_setting() {
        let refused =
            "Cannot get device ring settings: Operation not supported\nRing parameters for ens3:\n";
        let dev =
            dev(&[('g', refused), ('c', refused), ('a', refused), ('k', refused), ('S', refused)]);
        assert!(dev.rings.is_empty() && dev.coalesce.is_empty() && dev.pause.is_empty());
        assert!(dev.features.is_empty() && dev.driver_stats.is_empty());
    }
}
