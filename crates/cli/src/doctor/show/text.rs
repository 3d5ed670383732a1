//! What `show --host` prints for people, one function a view.

use std::fmt::Write as _;

use linerate_host::ledger::{self, Loss};
use linerate_host::snapshot::{Dev, Owner, Snapshot};
use linerate_host::{Counters, Window};

use super::super::latency;
use super::super::text::{clean, rate, span};
use super::path;
use super::table::Table;
use crate::args::What;

fn number(of: &Counters, name: &str) -> String {
    of.get(name).map_or("-".to_owned(), |n| n.to_string())
}

/// Processors as the kernel lists them: `0-3,8`.
pub fn cpus(list: &[u32]) -> String {
    let mut out = String::new();
    let mut at = 0;
    while at < list.len() {
        let begin = at;
        while at + 1 < list.len() && list[at + 1] == list[at].wrapping_add(1) {
            at += 1;
        }
        let comma = if out.is_empty() { "" } else { "," };
        let _ = match begin == at {
            true => write!(out, "{comma}{}", list[at]),
            false => write!(out, "{comma}{}-{}", list[begin], list[at]),
        };
        at += 1;
    }
    if out.is_empty() { "-".to_owned() } else { out }
}

/// Columns of processors' counters.
const SOFTNET: [&str; 7] = [
    "processed",
    "dropped",
    "time_squeeze",
    "received_rps",
    "flow_limit_count",
    "backlog_len",
    "cpu_collision",
];
const DEV: [&str; 10] = [
    "rx_packets",
    "rx_bytes",
    "rx_errors",
    "rx_dropped",
    "rx_missed_errors",
    "tx_packets",
    "tx_bytes",
    "tx_errors",
    "tx_dropped",
    "tx_carrier_errors",
];
const QDISC: [&str; 7] = ["packets", "bytes", "drops", "overlimits", "requeues", "qlen", "backlog"];

/// What is asked for, for people; nothing for what only a stack of ours has.
pub(super) fn as_text(what: What, w: &Window<'_>) -> String {
    let s = w.to;
    match what {
        What::Path => path(w),
        What::Softnet => by_key("cpu", &SOFTNET, s.softnet.iter()),
        What::Softirqs => by_key("cpu", &["NET_RX", "NET_TX", "TIMER", "SCHED"], s.softirqs.iter()),
        What::Dev => by_key("device", &DEV, s.devs.iter().map(|(name, d)| (name, &d.stats))),
        What::Rings => settings(s, |d| &d.rings),
        What::Channels => settings(s, |d| &d.channels),
        What::Coalesce => settings(s, |d| &d.coalesce),
        What::Irqs => irqs(s),
        What::Rss => rss(s),
        What::Rps => rps(s),
        What::Xps => xps(s),
        What::Qdisc => qdiscs(s),
        What::Snmp => mib(s, &["Ip", "Icmp", "IcmpMsg", "Tcp", "Udp", "UdpLite"]),
        What::Snmp6 => mib(s, &["Ip6", "Icmp6", "Udp6", "UdpLite6"]),
        What::Netstat => mib(s, &["TcpExt", "IpExt", "MPTcpExt"]),
        What::Sockstat => {
            let line = |(name, c): (&String, &Counters)| {
                let values: Vec<String> = c.iter().map(|(n, v)| format!("{n} {v}")).collect();
                format!("{name}: {}\n", values.join(" "))
            };
            clean(&s.sockstat.iter().map(line).collect::<String>())
        }
        What::Statistics => statistics(s),
        What::Sockets => sockets(s),
        What::Drops => drops(w),
        What::Latency => latency::text(w),
        What::Knobs => {
            clean(&s.sysctls.iter().map(|(k, v)| format!("{k} = {v}\n")).collect::<String>())
        }
        _ => String::new(),
    }
}

fn by_key<'a, K: ToString + 'a>(
    key: &str,
    names: &[&str],
    rows: impl Iterator<Item = (K, &'a Counters)>,
) -> String {
    let rows: Vec<(K, &Counters)> = rows.collect();
    // What this kernel has not is not shown.
    let known: Vec<&str> =
        names.iter().copied().filter(|n| rows.iter().any(|(_, c)| c.get(n).is_some())).collect();
    let mut table = Table::new(&[&[key], &known[..]].concat());
    for (key, counters) in rows {
        let cells = known.iter().map(|name| number(counters, name));
        table.row(std::iter::once(key.to_string()).chain(cells));
    }
    table.text()
}

/// What ethtool sets, a line each; what a driver refuses to say is said.
fn settings(s: &Snapshot, of: fn(&Dev) -> &Counters) -> String {
    let mut table = Table::new(&["device", "parameter", "value"]);
    for dev in s.devs.values() {
        if of(dev).is_empty() {
            table.row([dev.name.clone(), "not offered, or not readable".into(), String::new()]);
        }
        for (name, value) in of(dev).iter() {
            table.row([dev.name.clone(), name.to_owned(), value.to_string()]);
        }
    }
    table.text()
}

fn irqs(s: &Snapshot) -> String {
    let mut table = Table::new(&["irq", "device", "count", "affinity", "effective", "what"]);
    for irq in s.irqs.values() {
        let total: u64 = irq.counts.iter().map(|(_, n)| n).sum();
        table.row([
            irq.irq.to_string(),
            irq.dev.clone().unwrap_or_else(|| "-".into()),
            total.to_string(),
            cpus(&irq.affinity),
            cpus(&irq.effective),
            irq.actions.split_whitespace().collect::<Vec<_>>().join(" "),
        ]);
    }
    table.text()
}

fn rss(s: &Snapshot) -> String {
    let mut table = Table::new(&["device", "hash", "places", "queues", "fields"]);
    for dev in s.devs.values() {
        let Some(rss) = &dev.rss else {
            table.row([dev.name.clone(), "not offered, or not readable".into()]);
            continue;
        };
        let mut of_queue = std::collections::BTreeMap::<u32, usize>::new();
        rss.indir.iter().for_each(|q| *of_queue.entry(*q).or_default() += 1);
        let queues: Vec<String> = of_queue.iter().map(|(q, n)| format!("{q}:{n}")).collect();
        let fields: Vec<String> = rss.fields.iter().map(|(k, v)| format!("{k}={v}")).collect();
        table.row([
            dev.name.clone(),
            rss.hfunc.clone(),
            rss.indir.len().to_string(),
            queues.join(" "),
            fields.join(" "),
        ]);
    }
    table.text()
}

fn rps(s: &Snapshot) -> String {
    let mut table = Table::new(&["device", "queue", "rps_cpus", "rps_flow_cnt"]);
    for dev in s.devs.values() {
        for (i, q) in dev.rx.iter().enumerate() {
            let cells = [cpus(&q.rps_cpus), q.rps_flow_cnt.to_string()];
            table.row([dev.name.clone(), format!("rx-{i}")].into_iter().chain(cells));
        }
    }
    let entries = s.sysctls.get("net.core.rps_sock_flow_entries");
    let entries =
        entries.map_or(String::new(), |n| format!("net.core.rps_sock_flow_entries = {n}\n"));
    table.text() + &clean(&entries)
}

fn xps(s: &Snapshot) -> String {
    let mut table = Table::new(&["device", "queue", "xps_cpus", "xps_rxqs", "inflight", "limit"]);
    let list = |list: &Option<Vec<u32>>| list.as_ref().map_or("-".into(), |l| cpus(l));
    for dev in s.devs.values() {
        for (i, q) in dev.tx.iter().enumerate() {
            let name = [dev.name.clone(), format!("tx-{i}")];
            let bql = ["inflight", "limit"].map(|n| number(&q.bql, n));
            table.row(name.into_iter().chain([list(&q.xps_cpus), list(&q.xps_rxqs)]).chain(bql));
        }
    }
    table.text()
}

fn qdiscs(s: &Snapshot) -> String {
    let heads = ["device", "kind", "handle", "parent"];
    let mut table = Table::new(&[&heads[..], &QDISC[..], &["options"]].concat());
    for dev in s.devs.values() {
        for q in &dev.qdiscs {
            let name = [&dev.name, &q.kind, &q.handle, &q.parent].map(String::clone);
            let options: Vec<String> = q.options.iter().map(|(k, v)| format!("{k} {v}")).collect();
            let stats = QDISC.iter().map(|n| number(&q.stats, n));
            table.row(name.into_iter().chain(stats).chain([options.join(" ")]));
        }
    }
    table.text()
}

fn mib(s: &Snapshot, sections: &[&str]) -> String {
    let mut table = Table::new(&["counter", "value"]);
    for (section, counters) in sections.iter().filter_map(|n| s.mib.get_key_value(*n)) {
        for (name, value) in counters.iter() {
            table.row([format!("{section}:{name}"), value.to_string()]);
        }
    }
    table.text()
}

fn statistics(s: &Snapshot) -> String {
    let mut table = Table::new(&["device", "counter", "value"]);
    for dev in s.devs.values() {
        for of in [&dev.driver_stats, &dev.std_stats, &dev.qstats, &dev.page_pool] {
            for (name, value) in of.iter() {
                table.row([dev.name.clone(), name.to_owned(), value.to_string()]);
            }
        }
    }
    table.text()
}

/// Whose it is, as far as is known.
pub fn owner(o: &Owner) -> String {
    match &o.process {
        Some((pid, name)) => format!("{name} ({pid})"),
        None => format!("user {}", o.uid),
    }
}

fn sockets(s: &Snapshot) -> String {
    let mut table =
        Table::new(&["kind", "local", "remote", "waiting", "room", "sending", "drops", "whose"]);
    for l in &s.sockets.listeners {
        let room = [l.waiting, l.backlog].map(|n| n.to_string());
        let (local, drops) = (l.local.to_string(), l.drops.to_string());
        let [waiting, room] = room;
        let none = "-".to_owned();
        table.row([
            "listen".into(),
            local,
            none.clone(),
            waiting,
            room,
            none,
            drops,
            owner(&l.owner),
        ]);
    }
    for u in &s.sockets.udp {
        let remote = u.remote.map_or("-".into(), |r| r.to_string());
        let [rmem, rcvbuf, drops] = [u.rmem, u.rcvbuf, u.drops].map(|n| n.to_string());
        let local = u.local.to_string();
        table.row(["udp".into(), local, remote, rmem, rcvbuf, "-".into(), drops, owner(&u.owner)]);
    }
    for t in &s.sockets.tcp {
        let [recv, send] = [t.recv_q, t.send_q].map(|n| n.to_string());
        let (room, drops) = (number(&t.info, "rcvbuf"), number(&t.info, "drops"));
        let ends = [t.local.to_string(), t.remote.to_string()];
        let [local, remote] = ends;
        let state = format!("tcp {}", t.state);
        table.row([state, local, remote, recv, room, send, drops, owner(&t.owner)]);
    }
    for t in &s.sockets.taps {
        let dev = t.dev.clone().unwrap_or_else(|| "all devices".into());
        let drops = t.drops.map_or("-".into(), |n| n.to_string());
        let none = || "-".to_owned();
        table.row(["packet".into(), dev, none(), none(), none(), none(), drops, owner(&t.owner)]);
    }
    let states: Vec<String> =
        s.sockets.tcp_states.iter().map(|(state, n)| format!("{n} {state}")).collect();
    let states =
        if states.is_empty() { String::new() } else { format!("tcp: {}\n", states.join(", ")) };
    table.text() + &states
}

fn drops(w: &Window<'_>) -> String {
    let ledger = ledger::of(w);
    let mut table = Table::new(&["lost", "a second", "stage", "where", "what", "counters"]);
    for l in ledger.losses.iter().chain(&ledger.unexplained) {
        table.row(loss(l));
    }
    let mut out = match w.from {
        Some(_) => format!("in {}:\n", span(w.secs())),
        None => format!("since boot, {} ago:\n", span(w.secs())),
    };
    match table.is_empty() {
        true => out.push_str("nothing was lost\n"),
        false => out += &table.text(),
    }
    let Some(drops) = &w.to.drops else {
        let note = w.to.notes.iter().find(|n| n.what.starts_with("tracefs"));
        let why = note.map_or("they were not asked for", |n| &n.why);
        let _ = writeln!(out, "reasons: not known: {}", clean(why));
        return out;
    };
    let mut by = Table::new(&["drops", "reason and function"]);
    for (name, _) in drops.by.iter() {
        let moved = w.of(name, |s| s.drops.as_ref().map(|d| &d.by)).map_or(0, |d| d.by);
        // A reason that was not there before has come since.
        let first =
            w.from.is_some_and(|f| f.drops.as_ref().is_some_and(|d| d.by.get(name).is_none()));
        let moved = if first { drops.by.get(name).unwrap_or(0) } else { moved };
        if moved > 0 {
            by.row([moved.to_string(), name.to_owned()]);
        }
    }
    if !by.is_empty() {
        out.push_str("\nby the kernel's reasons, for the whole host:\n");
        out += &by.text();
    }
    out
}

fn loss(l: &Loss) -> [String; 6] {
    let counters: Vec<&str> = l.counters.iter().map(|c| c.name.as_str()).collect();
    let subject = if l.subject.is_empty() { "-" } else { &l.subject };
    let what = if l.expected { format!("{} (no harm)", l.what) } else { l.what.to_owned() };
    let stage = l.stage.name().to_owned();
    let count = l.count.to_string();
    [count, rate(l.per_s), stage, subject.to_owned(), what, counters.join(" = ")]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_listed_as_the_kernel_does() {
        assert_eq!(cpus(&[]), "-");
        assert_eq!(cpus(&[3]), "3");
        assert_eq!(cpus(&[0, 1, 2, 3, 8, 10, 11]), "0-3,8,10-11");
    }

    #[test]
    fn what_a_kernel_has_not_is_no_column() {
        let mut c = Counters::new("/proc/net/softnet_stat");
        c.set("processed", 5);
        let text = by_key("cpu", &SOFTNET, [(0u32, &c)].into_iter());
        assert_eq!(text, "cpu  processed\n0            5\n");
    }
}
