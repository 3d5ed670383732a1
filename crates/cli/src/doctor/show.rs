//! `linerate show --host`: one reading of the kernel's path, by name.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linerate_host::collect::{Collector, Tier};
use linerate_host::ledger::{self, Loss};
use linerate_host::snapshot::{Dev, Owner, Snapshot};
use linerate_host::{Counters, Window};
use serde_json::{Value, json};

use super::instance::Instance;
use super::path::{Stop, View, journey};
use super::reading::{Reading, Signals, collect, live};
use super::text::{clean, rate, wrap};
use super::{UNREADABLE, is_empty, latency};
use crate::args::{ShowArgs, What};
use crate::report::grouped;
use crate::{print, print_json};

/// How long drops and the path are watched.
const WATCH: Duration = Duration::from_secs(2);
/// How long times are measured.
const LATENCY: Duration = Duration::from_secs(5);

/// `linerate show --host`.
pub fn main(args: &ShowArgs) -> ExitCode {
    match show(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("linerate show: {why}");
            ExitCode::from(UNREADABLE)
        }
    }
}

fn show(args: &ShowArgs) -> Result<(), String> {
    let what = args.what;
    if let (What::Path, Some(name)) = (what, &args.name) {
        return side_by_side(args, name);
    }
    if args.name.is_some() {
        return Err("--host with --name compares paths: show path --host --name NAME".to_owned());
    }
    let snapshots = match &args.from {
        Some(path) => Reading::of_path(path)?.snapshots,
        None => now(args)?,
    };
    let s = snapshots.last().expect("a reading has a moment at least");
    if is_empty(s) {
        let why: Vec<String> =
            s.notes.iter().take(3).map(|n| format!("; {}: {}", n.what, n.why)).collect();
        return Err(clean(&format!("nothing could be read{}", why.concat())));
    }
    let from = if snapshots.len() > 1 { snapshots.first() } else { None };
    let w = Window { from, to: s };
    match (args.json, as_json(what, &w)) {
        (_, None) => Err(not_of_the_host()),
        (true, Some(value)) => {
            print_json(&value);
            Ok(())
        }
        (false, Some(_)) => {
            print(&as_text(what, &w));
            Ok(())
        }
    }
}

/// The host's path and that of an instance, stop by stop.
fn side_by_side(args: &ShowArgs, name: &str) -> Result<(), String> {
    let mut instance = Instance::connect(name)?;
    let ours = instance.read()?;
    let hosts = now(args)?;
    let (ours, hosts) = ([ours, instance.read()?], [&hosts[0], &hosts[1]]);
    let stops = |from, to| journey(&View::new(Window { from: Some(from), to }, None));
    let (host, stack) = (stops(hosts[0], hosts[1]), stops(&ours[0], &ours[1]));
    if args.json {
        let each = |stops: &[Stop]| stops.iter().map(stop_json).collect::<Vec<_>>();
        print_json(&json!({ "host": each(&host), "instance": each(&stack), "name": name }));
        return Ok(());
    }
    print(&two_paths(&host, &stack, name, width()));
    Ok(())
}

/// Columns of the terminal; of what is no terminal, as many as a report has.
fn width() -> usize {
    const REPORT: usize = 100;
    const LEAST: u16 = 40;
    let size = rustix::termios::tcgetwinsize(std::io::stdout());
    size.ok().filter(|s| s.ws_col >= LEAST).map_or(REPORT, |s| s.ws_col.into())
}

/// Two paths beside each other, and below each stop what was lost there, by whom. The columns fit into 80;
/// the lines below them are as long as the terminal is wide.
fn two_paths(host: &[Stop], stack: &[Stop], name: &str, width: usize) -> String {
    const STAGE: usize = 11;
    const RATE: usize = 10;
    const LOST: usize = 9;
    const WAIT: usize = 12;
    const HALF: usize = RATE + LOST + WAIT + 2;
    let mut out = String::new();
    // A name may be as long as a path has columns.
    let name: String = clean(name).chars().take(HALF - 2).collect();
    let _ = writeln!(out, "{:STAGE$} {:-^HALF$} {:-^HALF$}", "", " host ", format!(" {name} "));
    let heads = ["in/s", "lost/s", "waiting"].map(str::to_owned);
    let half =
        |[pkts, lost, waits]: &[String; 3]| format!(" {pkts:>RATE$} {lost:>LOST$} {waits:>WAIT$}");
    let line = |stage: &str, of: [&[String; 3]; 2]| {
        format!("{stage:<STAGE$}{}{}", half(of[0]), half(of[1])).trim_end().to_owned() + "\n"
    };
    out += &line("stage", [&heads; 2]);
    for (h, s) in host.iter().zip(stack) {
        out += &line(h.stage.name(), [&brief_cells(h), &brief_cells(s)]);
        for (who, stop) in [("host", h), (name.as_str(), s)] {
            for lost in stop.lost.iter().filter(|lost| !lost.expected) {
                let of = if lost.subject.is_empty() { "" } else { " of " };
                let text = clean(&format!(
                    "{who} loses {}/s: {}{of}{}",
                    rate(lost.per_s),
                    lost.what,
                    lost.subject
                ));
                for part in wrap(&text, width.saturating_sub(STAGE + 3)) {
                    let _ = writeln!(out, "{:STAGE$}   {part}", "");
                }
            }
        }
    }
    out
}

/// As [`stop_cells`], in as few columns as a number needs: `1.2M B`.
fn brief_cells(stop: &Stop) -> [String; 3] {
    let known = |n: Option<f64>| n.map_or("-".to_owned(), brief);
    let unit = |unit: &str| if unit == "bytes" { "B" } else { "" };
    let waiting = stop.depth.map_or("-".to_owned(), |d| {
        format!("{} {}", brief(d.now as f64), unit(d.unit)).trim_end().to_owned()
    });
    [known(stop.pkts), brief(stop.loss()), waiting]
}

/// A number in at most seven columns.
fn brief(n: f64) -> String {
    match n {
        n if n >= 1e10 => format!("{:.0}G", n / 1e9),
        n if n >= 1e7 => format!("{:.1}M", n / 1e6),
        n => rate(n),
    }
}

fn stop_cells(stop: &Stop) -> [String; 3] {
    let known = |n: Option<f64>| n.map_or("-".to_owned(), rate);
    let waiting = stop.depth.map_or("-".to_owned(), |d| format!("{} {}", grouped(d.now), d.unit));
    [known(stop.pkts), rate(stop.loss()), waiting]
}

fn stop_json(stop: &Stop) -> Value {
    let lost: Vec<Value> = (stop.lost.iter())
        .map(|l| {
            json!({
                "what": l.what, "counter": l.counter, "subject": l.subject, "per_s": l.per_s,
                "expected": l.expected,
            })
        })
        .collect();
    let moved: Vec<Value> =
        stop.moved.iter().map(|(what, per_s)| json!({ "what": what, "per_s": per_s })).collect();
    json!({
        "stage": stop.stage.name(), "packets_per_s": stop.pkts, "bytes_per_s": stop.bytes,
        "lost": lost, "moved": moved,
        "waiting": stop.depth.map(|d| json!({ "now": d.now, "max": d.max, "unit": d.unit })),
    })
}

/// The host's path alone.
fn path(w: &Window<'_>) -> String {
    let mut table =
        Table::new(&["stage", "in/s", "lost/s", "waiting", "lost by", "also, in a second"]);
    for stop in journey(&View::new(*w, None)) {
        let why: Vec<String> = (stop.lost.iter())
            .map(|l| format!("{}{}", l.what, if l.expected { " (no harm)" } else { "" }))
            .collect();
        let moved: Vec<String> =
            stop.moved.iter().map(|(what, n)| format!("{what} {}", rate(*n))).collect();
        let stage = std::iter::once(stop.stage.name().to_owned());
        table.row(stage.chain(stop_cells(&stop)).chain([why.join(", "), moved.join(", ")]));
    }
    table.text()
}

/// One reading; two of them for what is counted over a time.
fn now(args: &ShowArgs) -> Result<Vec<Snapshot>, String> {
    let mut source = live(args.netns.as_deref())?;
    let mut collector = Collector::new(Tier::Full);
    let drops = matches!(args.what, What::Drops | What::Path);
    let period = match args.what {
        What::Latency => {
            collector = collector.with_probes();
            LATENCY
        }
        _ => WATCH,
    };
    let mut snapshots = vec![collect(&mut collector, &mut source, drops)];
    if drops || args.what == What::Latency {
        Signals::take()?.wait(Instant::now() + args.period.unwrap_or(period));
        snapshots.push(collect(&mut collector, &mut source, drops));
    }
    Ok(snapshots)
}

fn not_of_the_host() -> String {
    "--host shows path, softnet, softirqs, dev, rings, channels, coalesce, irqs, rss, rps, xps, qdisc, snmp, \
     snmp6, netstat, sockstat, statistics, sockets, drops, latency and knobs"
        .to_owned()
}

/// A table: columns as wide as what is in them, numbers to the right.
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(super) fn new(heads: &[&str]) -> Table {
        Table { rows: vec![heads.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|c| clean(&c)).collect());
    }

    pub(super) fn text(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let cell = |row: &Vec<String>, i: usize| row.get(i).map_or(0, |c| c.chars().count());
        let widths: Vec<usize> =
            (0..columns).map(|i| self.rows.iter().map(|r| cell(r, i)).max().unwrap_or(0)).collect();
        let is_number = |i: usize| {
            let mut cells = self.rows[1..].iter().filter_map(|r| r.get(i)).peekable();
            cells.peek().is_some()
                && cells.all(|c| c == "-" || c.starts_with(|d: char| d.is_ascii_digit()))
        };
        let right: Vec<bool> = (0..columns).map(|i| i > 0 && is_number(i)).collect();
        let mut out = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (i, cell) in row.iter().enumerate() {
                let width = widths[i];
                let _ = match right[i] {
                    true => write!(line, "{cell:>width$}  "),
                    false => write!(line, "{cell:<width$}  "),
                };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
        out
    }
}

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

fn as_text(what: What, w: &Window<'_>) -> String {
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
        Some(_) => format!("in {}:\n", super::text::span(w.secs())),
        None => format!("since boot, {} ago:\n", super::text::span(w.secs())),
    };
    match table.rows.len() {
        1 => out.push_str("nothing was lost\n"),
        _ => out += &table.text(),
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
    if by.rows.len() > 1 {
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

/// Names with values; `None` for what only a stack of ours has.
fn as_json(what: What, w: &Window<'_>) -> Option<Value> {
    let s = w.to;
    let devs = |of: fn(&Dev) -> Value| -> Value {
        Value::Object(s.devs.iter().map(|(name, d)| (name.clone(), of(d))).collect())
    };
    Some(match what {
        What::Path => {
            json!({ "host": journey(&View::new(*w, None)).iter().map(stop_json).collect::<Vec<_>>() })
        }
        What::Softnet => json!({ "softnet": s.softnet }),
        What::Softirqs => json!({ "softirqs": s.softirqs }),
        What::Dev => json!({ "devices": devs(|d| json!({
            "kind": d.kind, "driver": d.driver, "operstate": d.operstate, "mtu": d.mtu,
            "flags": d.flags, "stats": d.stats, "carrier": d.carrier,
        })) }),
        What::Rings => json!({ "devices": devs(|d| json!(d.rings)) }),
        What::Channels => json!({ "devices": devs(|d| json!(d.channels)) }),
        What::Coalesce => json!({ "devices": devs(|d| json!(d.coalesce)) }),
        What::Irqs => json!({ "irqs": s.irqs }),
        What::Rss => json!({ "devices": devs(|d| json!(d.rss)) }),
        What::Rps => json!({
            "devices": devs(|d| json!(d.rx)),
            "rps_sock_flow_entries": s.sysctl("net.core.rps_sock_flow_entries"),
        }),
        What::Xps => json!({ "devices": devs(|d| json!(d.tx)) }),
        What::Qdisc => json!({ "devices": devs(|d| json!(d.qdiscs)) }),
        What::Snmp | What::Snmp6 | What::Netstat => json!({ "mib": s.mib }),
        What::Sockstat => json!({ "sockstat": s.sockstat }),
        What::Statistics => json!({ "devices": devs(|d| json!({
            "driver": d.driver_stats, "standard": d.std_stats, "queues": d.qstats,
            "page_pool": d.page_pool,
        })) }),
        What::Sockets => json!({ "sockets": s.sockets }),
        What::Drops => json!({
            "secs": w.secs(), "lifetime": w.is_lifetime(), "ledger": ledger::of(w), "reasons": s.drops,
        }),
        What::Latency => latency::json(w),
        What::Knobs => json!({ "sysctls": s.sysctls }),
        _ => return None,
    })
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
    fn columns_are_as_wide_as_needed_and_numbers_stand_right() {
        let mut t = Table::new(&["device", "rx", "state"]);
        t.row(["eth0", "12", "up"].map(String::from));
        t.row(["a-long-name", "1234", "down"].map(String::from));
        let lines: Vec<String> = t.text().lines().map(str::to_owned).collect();
        assert_eq!(lines[0], "device         rx  state");
        assert_eq!(lines[1], "eth0           12  up");
        assert_eq!(lines[2], "a-long-name  1234  down");
    }

    #[test]
    fn what_a_kernel_has_not_is_no_column() {
        let mut c = Counters::new("/proc/net/softnet_stat");
        c.set("processed", 5);
        let text = by_key("cpu", &SOFTNET, [(0u32, &c)].into_iter());
        assert_eq!(text, "cpu  processed\n0            5\n");
    }
}
