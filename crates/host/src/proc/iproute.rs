//! What `ip` and `tc` printed, as a `sosreport` keeps it: only for archives, as [`super::ethtool`].

use super::{lines, netdev};
use crate::counters::Counters;
use crate::snapshot::{Dev, Qdisc, Snapshot};

/// The file with the output of `ip -s -d link`.
pub const LINK: &str = "sos_commands/networking/ip_-s_-d_link";

/// The file with the output of `tc -s qdisc show`.
pub const QDISC: &str = "sos_commands/networking/tc_-s_qdisc_show";

/// Lines of one output that are read.
const LINES_MAX: usize = 1 << 16;

/// Fills [`Snapshot::devs`] from [`LINK`]. Its statistics are not folded as those of `/proc/net/dev`.
pub fn link(bytes: &[u8], into: &mut Snapshot) {
    let rows: Vec<&str> = lines(bytes, LINK, into).take(LINES_MAX).map(|(_, line)| line).collect();
    let mut masters = Vec::new();
    let mut at: Option<String> = None;
    for (row, line) in rows.iter().enumerate() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if !line.starts_with(' ') {
            // `2: eth0@if7: <BROADCAST,UP> mtu 1500 qdisc fq_codel master br0 state UP qlen 1000`
            at = head(&words, into, &mut masters);
            continue;
        }
        let Some(dev) = at.as_ref().and_then(|name| into.devs.get_mut(name)) else { continue };
        let side = match words.first() {
            Some(&"RX:") => "rx",
            Some(&"TX:") => "tx",
            _ => {
                if let Some(number) = after(&words, "promiscuity").and_then(|w| w.parse().ok()) {
                    dev.promiscuity = number;
                }
                continue;
            }
        };
        let numbers: Option<Vec<u64>> = rows
            .get(row + 1)
            .and_then(|next| next.split_whitespace().map(|word| word.parse().ok()).collect());
        let Some(numbers) = numbers.filter(|n| n.len() == words.len() - 1) else { continue };
        if dev.stats.is_empty() {
            dev.stats = Counters::new(format!("ip -s -d link {}", dev.name));
        }
        for (word, number) in words[1..].iter().zip(numbers) {
            if let Some(name) = statistic(side, word) {
                dev.stats.set(&name, number);
            }
        }
    }
    for (dev, master) in masters {
        if let Some(dev) = into.devs.get_mut(&dev) {
            dev.master = Some(master);
        }
    }
}

/// The device of a first line; its master goes to `masters`.
fn head(
    words: &[&str],
    into: &mut Snapshot,
    masters: &mut Vec<(String, String)>,
) -> Option<String> {
    let ifindex = words.first()?.strip_suffix(':')?.parse().ok()?;
    let name = words.get(1)?.strip_suffix(':')?;
    let name = name.split_once('@').map_or(name, |(name, _)| name);
    if !netdev::is_name(name) {
        return None;
    }
    let dev = into.devs.entry(name.to_owned()).or_insert_with(|| Dev::named(name));
    dev.ifindex = ifindex;
    let flags = words.get(2)?.trim_matches(['<', '>']);
    // ip says NO-CARRIER for one that is up and not running.
    let flags = flags.split(',').filter(|flag| !flag.is_empty() && *flag != "NO-CARRIER").take(32);
    dev.flags = flags.map(str::to_owned).collect();
    let number = |name: &str| after(words, name).and_then(|word| word.parse().ok());
    dev.mtu = number("mtu").unwrap_or_default();
    dev.txqueuelen = number("qlen").unwrap_or_default();
    dev.operstate = after(words, "state").unwrap_or_default().to_lowercase();
    let master = after(words, "master").map(|master| (name.to_owned(), master.to_owned()));
    masters.extend(master);
    Some(name.to_owned())
}

/// The word behind `name`.
fn after<'a>(words: &[&'a str], name: &str) -> Option<&'a str> {
    let at = words.iter().position(|word| *word == name)?;
    words.get(at + 1).copied()
}

/// The name in `struct rtnl_link_stats64` of a column.
fn statistic(side: &str, column: &str) -> Option<String> {
    Some(match (side, column) {
        (_, "bytes" | "packets" | "errors" | "dropped") => format!("{side}_{column}"),
        ("rx", "missed") => "rx_missed_errors".to_owned(),
        ("rx", "overrun") => "rx_over_errors".to_owned(),
        ("rx", "mcast") => "multicast".to_owned(),
        ("tx", "carrier") => "tx_carrier_errors".to_owned(),
        ("tx", "collsns") => "collisions".to_owned(),
        _ => return None,
    })
}

/// Fills [`Dev::qdiscs`] from [`QDISC`], of devices that are known.
pub fn qdisc(bytes: &[u8], into: &mut Snapshot) {
    const OF_ONE_MAX: usize = 4096;
    let rows: Vec<&str> = lines(bytes, QDISC, into).take(LINES_MAX).map(|(_, line)| line).collect();
    let mut at: Option<(String, Qdisc)> = None;
    let mut done = Vec::new();
    for line in rows {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["qdisc", kind, handle, "dev", dev, rest @ ..] => {
                done.extend(at.take());
                let source = format!("tc -s qdisc show dev {dev} {handle}");
                let parent = match rest {
                    ["parent", parent, ..] => parent,
                    [word, ..] => word,
                    [] => "",
                };
                let stats = Counters::new(source.as_str()).wrapping_at(32);
                let mut qdisc = Qdisc {
                    kind: (*kind).to_owned(),
                    handle: (*handle).to_owned(),
                    parent: parent.to_owned(),
                    stats,
                    xstats: Counters::new(source.as_str()).wrapping_at(32),
                    options: Counters::new(source),
                };
                let limit =
                    after(rest, "limit").and_then(|word| word.trim_end_matches('p').parse().ok());
                if let Some(limit) = limit {
                    qdisc.options.set("limit", limit);
                }
                at = Some(((*dev).to_owned(), qdisc));
            }
            words => {
                if let Some((_, qdisc)) = &mut at {
                    counted(words, qdisc);
                }
            }
        }
    }
    done.extend(at);
    for (dev, qdisc) in done {
        if let Some(dev) = into.devs.get_mut(&dev)
            && dev.qdiscs.len() < OF_ONE_MAX
        {
            dev.qdiscs.push(qdisc);
        }
    }
}

/// The lines behind the first: `Sent`, `backlog`, and those of the qdisc itself.
fn counted(words: &[&str], of: &mut Qdisc) {
    let number = |word: &str| word.trim_matches(['(', ')', ',']).parse::<u64>().ok();
    match words {
        ["Sent", bytes, "bytes", packets, "pkt" | "pkts", rest @ ..] => {
            let rest = |name: &str| after(rest, name).and_then(number);
            for (name, value) in [
                ("bytes", number(bytes)),
                ("packets", number(packets)),
                ("drops", rest("(dropped")),
                ("overlimits", rest("overlimits")),
                ("requeues", rest("requeues")),
            ] {
                value.into_iter().for_each(|value| of.stats.set(name, value));
            }
        }
        ["backlog", bytes, packets, ..] => {
            // Larger ones are rounded to `12Kb`, which is no count.
            let bytes = bytes.strip_suffix('b').and_then(number);
            let packets = packets.strip_suffix('p').and_then(number);
            bytes.into_iter().for_each(|value| of.stats.set("backlog", value));
            packets.into_iter().for_each(|value| of.stats.set("qlen", value));
        }
        _ => {
            for pair in words.chunks_exact(2) {
                let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
                if let Some(value) = number(pair[1])
                    && pair[0].starts_with(|c: char| c.is_ascii_lowercase())
                    && pair[0].chars().all(is_name)
                    && of.xstats.len() < 64
                {
                    of.xstats.set(pair[0], value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINKS: &str = "\
1: lo: <LOOPBACK,UP,LOWER_UP> mtu 65536 qdisc noqueue state UNKNOWN mode DEFAULT qlen 1000
    link/loopback 00:00:00:00:00:00 brd 00:00:00:00:00:00 promiscuity 0
    RX:  bytes packets errors dropped  missed   mcast
          4852      45      0       0       0       0
7: eth0@if3: <NO-CARRIER,BROADCAST,UP> mtu 1400 qdisc mq master br0 state DOWN qlen 500
    link/ether 9a:e0:6b:c3:ce:e3 brd ff:ff:ff:ff:ff:ff promiscuity 2 minmtu 68
    RX:  bytes packets errors dropped  missed   mcast
            10      11     12      13      14      15
    TX:  bytes packets errors dropped carrier collsns
            20      21     22      23      24      25
";

    #[test]
    fn what_was_missed_and_what_was_dropped_are_two_things() {
        let mut into = Snapshot::default();
        link(LINKS.as_bytes(), &mut into);
        let dev = &into.devs["eth0"];
        assert_eq!((dev.ifindex, dev.mtu, dev.txqueuelen, dev.promiscuity), (7, 1400, 500, 2));
        assert_eq!((dev.master.as_deref(), dev.operstate.as_str()), (Some("br0"), "down"));
        assert_eq!(dev.flags, ["BROADCAST", "UP"]);
        for (name, want) in [
            ("rx_packets", 11),
            ("rx_dropped", 13),
            ("rx_missed_errors", 14),
            ("multicast", 15),
            ("tx_dropped", 23),
            ("tx_carrier_errors", 24),
            ("collisions", 25),
        ] {
            assert_eq!(dev.stats.get(name), Some(want), "{name}");
        }
        assert_eq!(into.devs["lo"].stats.get("tx_packets"), None);
        assert!(into.notes.is_empty());
    }

    #[test]
    fn numbers_that_do_not_fit_their_names_are_left_out() {
        let mut into = Snapshot::default();
        link(b"2: a/b: <UP> mtu 1\n    RX: bytes packets\n 1 2\n", &mut into);
        assert!(into.devs.is_empty());
        link(b"2: eth0: <UP> mtu 1\n    RX: bytes packets\n    1\n    TX: bytes\n", &mut into);
        assert!(into.devs["eth0"].stats.is_empty());
    }

    #[test]
    fn qdiscs_have_their_counts_and_their_own() {
        let text = "\
qdisc fq_codel 8001: dev eth0 root refcnt 2 limit 10240p flows 1024 target 5.0ms ecn
 Sent 30406877 bytes 171821 pkt (dropped 7, overlimits 3 requeues 2)
 backlog 1514b 1p requeues 2
  maxpacket 4325 drop_overlimit 5 new_flow_count 355 ecn_mark 0
qdisc pfifo 0: dev eth0 parent 8001:1 limit 1000p
 Sent 0 bytes 0 pkt (dropped 0, overlimits 0 requeues 0)
 backlog 12Kb 3p requeues 0
qdisc mq 0: dev gone root
";
        let mut into = Snapshot::default();
        link(LINKS.as_bytes(), &mut into);
        qdisc(text.as_bytes(), &mut into);
        let [first, second] = &into.devs["eth0"].qdiscs[..] else { panic!("there are two") };
        assert_eq!((first.kind.as_str(), first.parent.as_str()), ("fq_codel", "root"));
        assert_eq!((first.stats.get("drops"), first.stats.get("overlimits")), (Some(7), Some(3)));
        assert_eq!((first.stats.get("backlog"), first.stats.get("qlen")), (Some(1514), Some(1)));
        assert_eq!(first.xstats.get("drop_overlimit"), Some(5));
        assert_eq!(first.options.get("limit"), Some(10_240));
        assert_eq!((second.parent.as_str(), second.stats.get("backlog")), ("8001:1", None));
        assert!(!into.devs.contains_key("gone"));
    }
}
