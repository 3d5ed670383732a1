//! Views as tables of text, whatever draws them.

use linerate_core::table::Stage;
use linerate_core::table::stage::Dir;
use linerate_host::finding::Severity;
use linerate_host::rules::Diagnosis;
use linerate_host::snapshot::{Dev, Snapshot};
use linerate_host::{Counters, Window};

use super::super::path::{self, Stop, View as PathView, journey};
use super::super::show::{cpus, owner};
use super::super::text::{self, rate};
use super::app::{App, View};
use crate::report::{Style, bytes, grouped};

/// How much a line wants to be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Heat {
    /// Nothing moves.
    Still,
    /// As it should be.
    Calm,
    /// Look at it.
    Warm,
    /// Something is lost.
    Hot,
}

/// A line that can be chosen.
pub struct Row {
    /// What it is about: `dev:eth0`.
    pub key: String,
    /// As many as there are heads.
    pub cells: Vec<String>,
    /// How much it wants to be seen.
    pub heat: Heat,
}

/// A table.
pub struct Grid {
    /// Above the first column.
    pub title: &'static str,
    /// Above the others.
    pub heads: &'static [&'static str],
    /// The lines.
    pub rows: Vec<Row>,
}

/// What is on the screen.
pub enum Page {
    /// Tables one below the other; their lines are chosen as one list.
    Grids(Vec<Grid>),
    /// The inside of a line.
    Text(String, Vec<String>),
    /// A sentence: why there is nothing.
    Nothing(&'static str),
}

const FIRST: &str = "the first reading is taken; rates come with the second";

/// What is to be drawn.
pub fn page(app: &App) -> Page {
    if let Some(key) = &app.inside {
        let (title, lines) = inside(app, key);
        return Page::Text(title, lines);
    }
    let full = matches!(app.view, View::Sockets | View::Findings);
    let window = if full { app.full_window() } else { app.window() };
    let Some(w) = window else { return Page::Nothing("nothing is read yet") };
    if w.from.is_none() && app.view != View::Sockets {
        return Page::Nothing(FIRST);
    }
    match app.view {
        View::Path => path_view(app, &w),
        View::Devices => Page::Grids(vec![devices(&w)]),
        View::Cpus => Page::Grids(vec![processors(&w)]),
        View::Sockets => Page::Grids(vec![sockets(&w)]),
        View::Findings => match app.diagnosis() {
            None => Page::Nothing("findings need two full readings"),
            Some(d) if d.findings.is_empty() => {
                Page::Nothing("nothing is wrong, as far as was looked")
            }
            Some(d) => Page::Grids(vec![findings(&d)]),
        },
    }
}

/// What the line is about.
pub fn key_of(app: &App, line: usize) -> Option<String> {
    match page(app) {
        Page::Grids(grids) => grids.into_iter().flat_map(|g| g.rows).nth(line).map(|row| row.key),
        _ => None,
    }
}

fn path_view(app: &App, w: &Window<'_>) -> Page {
    let stops = journey(&PathView::new(*w, app.only.as_deref()));
    let heads: &[&str] = &["in/s", "B/s", "lost/s", "why", "waiting", "also, in a second"];
    let way = |dir| -> Vec<Row> {
        stops.iter().filter(|s| s.stage.row().dir == dir).map(stop_row).collect()
    };
    Page::Grids(vec![
        Grid { title: "receive", heads, rows: way(Dir::Rx) },
        Grid { title: "transmit", heads, rows: way(Dir::Tx) },
        processors(w),
    ])
}

fn stop_row(stop: &Stop) -> Row {
    let loss = stop.loss();
    let why: Vec<&str> = stop.lost.iter().map(|l| l.what).take(2).collect();
    let waiting = stop.depth.map_or(String::new(), |d| match d.max {
        Some(max) => format!("{} of {} {}", grouped(d.now), grouped(max), d.unit),
        None => format!("{} {}", grouped(d.now), d.unit),
    });
    let full = stop.depth.is_some_and(|d| d.max.is_some_and(|max| d.now.saturating_mul(2) > max));
    let moved: Vec<String> =
        stop.moved.iter().map(|(what, n)| format!("{what} {}", rate(*n))).collect();
    let heat = match stop.pkts {
        _ if loss > 0.0 => Heat::Hot,
        _ if full || stop.moved.iter().any(|(what, _)| *what == "time_squeeze") => Heat::Warm,
        Some(n) if n > 0.0 => Heat::Calm,
        _ => Heat::Still,
    };
    Row {
        key: format!("stage:{}", stop.stage.name()),
        cells: vec![
            stop.stage.name().to_owned(),
            stop.pkts.map_or("·".into(), rate),
            stop.bytes.map_or("·".into(), |n| bytes(n as u64)),
            if loss > 0.0 { rate(loss) } else { String::new() },
            why.join(", "),
            waiting,
            moved.join(", "),
        ],
        heat,
    }
}

fn processors(w: &Window<'_>) -> Grid {
    let rows = w.to.softnet.keys().map(|cpu| {
        let share = |what| w.cpu_share(*cpu, what).map_or(0.0, |s| s * 100.0);
        let moved = |name| w.softnet(*cpu, name).map_or(0.0, |d| d.per_s);
        let softirq = w.of("NET_RX", |s| s.softirqs.get(cpu)).map_or(0.0, |d| d.per_s);
        let backlog = w.to.softnet[cpu].get("backlog_len");
        let (dropped, squeezed) = (moved("dropped"), moved("time_squeeze"));
        let busy = share("softirq");
        let heat = match () {
            () if dropped > 0.0 => Heat::Hot,
            () if squeezed > 0.0 || busy > 80.0 => Heat::Warm,
            () => Heat::Calm,
        };
        let percent = |n: f64| format!("{n:.0} %");
        Row {
            key: format!("cpu:{cpu}"),
            cells: vec![
                format!("cpu{cpu}"),
                percent(busy),
                percent(share("system") + share("user") + share("nice") + share("irq")),
                percent(share("idle")),
                rate(softirq),
                rate(moved("processed")),
                rate(dropped),
                rate(squeezed),
                rate(moved("received_rps")),
                rate(moved("flow_limit_count")),
                backlog.map_or("·".into(), grouped),
            ],
            heat,
        }
    });
    let heads: &[&str] = &[
        "softirq",
        "other",
        "idle",
        "NET_RX/s",
        "processed/s",
        "dropped/s",
        "squeeze/s",
        "rps/s",
        "flow limit/s",
        "backlog",
    ];
    Grid { title: "processor", heads, rows: rows.collect() }
}

fn devices(w: &Window<'_>) -> Grid {
    let rows = w.to.devs.values().map(|d| {
        let moved = |name| w.dev(&d.name, name).map_or(0.0, |d| d.per_s);
        let rx_lost = moved("rx_dropped") + moved("rx_missed_errors") + moved("rx_errors");
        let tx_lost = moved("tx_dropped") + moved("tx_errors");
        let root = d.qdiscs.iter().find(|q| q.parent == "root");
        let qdisc = root.map_or(String::new(), |q| {
            let of = |name| q.stats.get(name).unwrap_or(0);
            format!("{} {} waiting, {} lost", q.kind, grouped(of("qlen")), grouped(of("drops")))
        });
        let heat = match moved("rx_packets") + moved("tx_packets") {
            _ if rx_lost + tx_lost > 0.0 => Heat::Hot,
            n if n > 0.0 => Heat::Calm,
            _ => Heat::Still,
        };
        Row {
            key: format!("dev:{}", d.name),
            cells: vec![
                d.name.clone(),
                if d.kind.is_empty() { d.driver.clone() } else { d.kind.clone() },
                d.operstate.clone(),
                rate(moved("rx_packets")),
                bytes(moved("rx_bytes") as u64),
                rate(rx_lost),
                rate(moved("tx_packets")),
                bytes(moved("tx_bytes") as u64),
                rate(tx_lost),
                qdisc,
            ],
            heat,
        }
    });
    let heads: &[&str] =
        &["kind", "state", "rx/s", "rx B/s", "rx lost/s", "tx/s", "tx B/s", "tx lost/s", "qdisc"];
    Grid { title: "device", heads, rows: rows.collect() }
}

fn sockets(w: &Window<'_>) -> Grid {
    let s = &w.to.sockets;
    let mut rows: Vec<(u64, Row)> = Vec::new();
    let mut add = |inode: u64, cells: [String; 7], (waiting, room, lost): (u64, u64, f64)| {
        let heat = match waiting {
            _ if lost > 0.0 => Heat::Hot,
            n if n > 0 && n.saturating_mul(2) > room => Heat::Warm,
            0 => Heat::Still,
            _ => Heat::Calm,
        };
        let place = waiting.saturating_add((lost * 1e9) as u64);
        rows.push((place, Row { key: format!("sock:{inode}"), cells: cells.into(), heat }));
    };
    let lost_of = |inode: u64| -> f64 {
        let udp = w.udp_drops().into_iter().find(|(u, _)| u.owner.inode == inode);
        let listen = w.listen_drops().into_iter().find(|(l, _)| l.owner.inode == inode);
        udp.map(|(_, d)| d).or(listen.map(|(_, d)| d)).map_or(0.0, |d| d.per_s)
    };
    let text = |n: u64| grouped(n);
    for l in &s.listeners {
        let (waiting, room) = (u64::from(l.waiting), u64::from(l.backlog));
        let lost = if l.drops > 0 { lost_of(l.owner.inode) } else { 0.0 };
        let cells = ["listen".into(), l.local.to_string(), "-".into(), text(waiting), text(room)];
        let [a, b, c, d, e] = cells;
        add(
            l.owner.inode,
            [a, b, c, d, e, drops(l.drops, lost), owner(&l.owner)],
            (waiting, room, lost),
        );
    }
    for u in &s.udp {
        let (waiting, room) = (u64::from(u.rmem), u64::from(u.rcvbuf));
        let lost = if u.drops > 0 { lost_of(u.owner.inode) } else { 0.0 };
        let remote = u.remote.map_or("-".into(), |r| r.to_string());
        let cells = ["udp".into(), u.local.to_string(), remote, text(waiting), text(room)];
        let [a, b, c, d, e] = cells;
        add(
            u.owner.inode,
            [a, b, c, d, e, drops(u.drops, lost), owner(&u.owner)],
            (waiting, room, lost),
        );
    }
    for t in &s.tcp {
        let (waiting, room) = (u64::from(t.recv_q), t.info.get("rcvbuf").unwrap_or(0));
        let cells = [
            format!("tcp {}", t.state),
            t.local.to_string(),
            t.remote.to_string(),
            format!("{} in, {} out", text(waiting), text(t.send_q.into())),
            text(room),
            t.info.get("drops").map_or(String::new(), |n| drops(n as u32, 0.0)),
            owner(&t.owner),
        ];
        add(t.owner.inode, cells, (waiting, room, 0.0));
    }
    rows.sort_by_key(|(place, _)| std::cmp::Reverse(*place));
    let heads: &[&str] = &["local", "remote", "waiting", "room", "drops", "whose"];
    Grid { title: "socket", heads, rows: rows.into_iter().map(|(_, row)| row).collect() }
}

fn drops(all: u32, per_s: f64) -> String {
    match (all, per_s) {
        (0, _) => String::new(),
        (n, s) if s > 0.0 => format!("{} (+{}/s)", grouped(n.into()), rate(s)),
        (n, _) => grouped(n.into()),
    }
}

fn findings(d: &Diagnosis) -> Grid {
    let rows = d.findings.iter().map(|f| {
        let (word, heat) = match f.severity {
            Severity::Critical => ("critical", Heat::Hot),
            Severity::Warning => ("warning", Heat::Warm),
            Severity::Info => ("hint", Heat::Calm),
        };
        let lost = if f.loss_per_s > 0.0 { rate(f.loss_per_s) } else { String::new() };
        Row {
            key: format!("finding:{}:{}", f.id, f.subject),
            cells: vec![
                word.to_owned(),
                format!("{} {}", f.id, f.name),
                f.stage.name().to_owned(),
                lost,
                f.title.clone(),
            ],
            heat,
        }
    });
    Grid { title: "how bad", heads: &["rule", "stage", "lost/s", "what"], rows: rows.collect() }
}

/// The inside of a line.
fn inside(app: &App, key: &str) -> (String, Vec<String>) {
    let (kind, name) = key.split_once(':').unwrap_or((key, ""));
    let gone = || (name.to_owned(), vec!["it is not there any more".to_owned()]);
    let window = if kind == "sock" { app.full_window() } else { app.window() };
    let Some(w) = window else { return gone() };
    let lines = match kind {
        "stage" => Stage::by_name(name).map(|stage| stage_inside(app, &w, stage)),
        "dev" => w.to.devs.get(name).map(|d| device_inside(&w, d)),
        "cpu" => name.parse().ok().map(|cpu| cpu_inside(&w, cpu)),
        "sock" => name.parse().ok().and_then(|inode| socket_inside(w.to, inode)),
        "finding" => app.diagnosis().and_then(|d| finding_inside(&d, name)),
        _ => None,
    };
    lines.map_or_else(gone, |lines| (name.to_owned(), lines))
}

fn stage_inside(app: &App, w: &Window<'_>, stage: Stage) -> Vec<String> {
    let row = stage.row();
    let mut lines =
        vec![row.help.trim().to_owned(), format!("in Linux: {}", row.linux), String::new()];
    let stops = journey(&PathView::new(*w, app.only.as_deref()));
    let Some(stop) = stops.iter().find(|s| s.stage == stage) else { return lines };
    for l in &stop.lost {
        let harm = if l.expected { " (no harm)" } else { "" };
        let subject =
            if l.subject.is_empty() { String::new() } else { format!(" at {}", l.subject) };
        lines.push(format!(
            "{}{subject}: {} lost a second{harm}  [{}]",
            l.what,
            rate(l.per_s),
            l.counter
        ));
    }
    if stop.lost.is_empty() {
        lines.push("nothing is lost here".into());
    }
    lines.extend(stop.moved.iter().map(|(what, n)| format!("{what}: {} a second", rate(*n))));
    lines.push(String::new());
    lines.push("on devices:".into());
    for d in path::devices(w.to, app.only.as_deref()) {
        let names = match row.dir {
            Dir::Rx => ["rx_packets", "rx_dropped", "rx_missed_errors"],
            Dir::Tx => ["tx_packets", "tx_dropped", "tx_errors"],
        };
        let moved =
            names.map(|n| format!("{n} {}/s", w.dev(&d.name, n).map_or(0.0, |d| d.per_s).round()));
        lines.push(format!("  {:<16} {}", d.name, moved.join("  ")));
    }
    lines
}

/// What moved of some counters.
fn moving<'a>(
    lines: &mut Vec<String>,
    w: &Window<'a>,
    title: &str,
    of: impl Fn(&'a Snapshot) -> Option<&'a Counters>,
) {
    let Some(counters) = of(w.to) else { return };
    let mut said = false;
    for (name, value) in counters.iter() {
        let Some(delta) = w.of(name, &of).filter(|d| d.by > 0) else { continue };
        if !said {
            lines.push(format!("{title}:"));
            said = true;
        }
        lines.push(format!("  {name:<32} {:>14}  +{}/s", grouped(value), rate(delta.per_s)));
    }
}

fn device_inside(w: &Window<'_>, d: &Dev) -> Vec<String> {
    let name = d.name.as_str();
    let mut lines = vec![format!(
        "{} {} {} mtu {} qlen {}{}",
        d.name,
        if d.kind.is_empty() { &d.driver } else { &d.kind },
        d.operstate,
        d.mtu,
        d.txqueuelen,
        d.speed_mbps.map_or(String::new(), |n| format!(" {n} Mb/s"))
    )];
    moving(&mut lines, w, "link", |s| s.devs.get(name).map(|d| &d.stats));
    moving(&mut lines, w, "driver", |s| s.devs.get(name).map(|d| &d.driver_stats));
    for (i, q) in d.rx.iter().enumerate() {
        lines.push(format!("rx-{i}: rps {} flows {}", cpus(&q.rps_cpus), q.rps_flow_cnt));
        moving(&mut lines, w, "  counts", |s| s.devs.get(name)?.rx.get(i).map(|q| &q.stats));
    }
    for (i, q) in d.tx.iter().enumerate() {
        let bql = |name| q.bql.get(name).map_or("·".into(), grouped);
        let xps = q.xps_cpus.as_ref().map_or("-".into(), |c| cpus(c));
        lines.push(format!(
            "tx-{i}: xps {xps}, in flight {} of {} bytes",
            bql("inflight"),
            bql("limit")
        ));
        moving(&mut lines, w, "  counts", |s| s.devs.get(name)?.tx.get(i).map(|q| &q.stats));
    }
    for q in &d.qdiscs {
        let of = |name| q.stats.get(name).map_or("·".into(), grouped);
        lines.push(format!(
            "qdisc {} {} parent {}: {} packets ({} bytes) wait, {} lost in all",
            q.kind,
            q.handle,
            q.parent,
            of("qlen"),
            of("backlog"),
            of("drops")
        ));
    }
    for irq in d.irqs.iter().filter_map(|irq| w.to.irqs.get(irq)) {
        lines.push(format!(
            "irq {}: on cpu {} of {}",
            irq.irq,
            cpus(&irq.effective),
            cpus(&irq.affinity)
        ));
    }
    lines
}

fn cpu_inside(w: &Window<'_>, cpu: u32) -> Vec<String> {
    let shares = ["user", "system", "softirq", "irq", "steal", "iowait", "idle"]
        .map(|what| format!("{what} {:.0} %", w.cpu_share(cpu, what).map_or(0.0, |s| s * 100.0)));
    let mut lines = vec![shares.join("  ")];
    moving(&mut lines, w, "softnet", |s| s.softnet.get(&cpu));
    moving(&mut lines, w, "softirqs", |s| s.softirqs.get(&cpu));
    let column = format!("CPU{cpu}");
    let mut irqs: Vec<(f64, String)> = Vec::new();
    for irq in w.to.irqs.values() {
        let moved = w.of(&column, |s| s.irqs.get(&irq.irq).map(|i| &i.counts));
        if let Some(delta) = moved.filter(|d| d.by > 0) {
            let dev = irq.dev.as_deref().unwrap_or("-");
            let what = irq.actions.split_whitespace().last().unwrap_or("");
            irqs.push((delta.per_s, format!("  irq {:<5} {dev:<12} {what:<28}", irq.irq)));
        }
    }
    irqs.sort_by(|a, b| b.0.total_cmp(&a.0));
    if !irqs.is_empty() {
        lines.push("interrupts:".into());
    }
    lines.extend(irqs.into_iter().map(|(n, text)| format!("{text} {}/s", rate(n))));
    lines
}

fn socket_inside(s: &Snapshot, inode: u64) -> Option<Vec<String>> {
    let s = &s.sockets;
    if let Some(l) = s.listeners.iter().find(|l| l.owner.inode == inode) {
        let queue = format!("{} of {} connections wait for accept()", l.waiting, l.backlog);
        let drops = format!("{} refused since it listens", l.drops);
        return Some(vec![format!("listens at {}", l.local), owner(&l.owner), queue, drops]);
    }
    if let Some(u) = s.udp.iter().find(|u| u.owner.inode == inode) {
        let remote = u.remote.map_or("anybody".into(), |r| r.to_string());
        let queue = format!(
            "{} of {} bytes wait to be read",
            grouped(u.rmem.into()),
            grouped(u.rcvbuf.into())
        );
        let drops = format!("{} datagrams lost since it was made", grouped(u.drops.into()));
        return Some(vec![format!("UDP {} to {remote}", u.local), owner(&u.owner), queue, drops]);
    }
    let t = s.tcp.iter().find(|t| t.owner.inode == inode)?;
    let mut lines = vec![
        format!("TCP {} to {}, {}, {}", t.local, t.remote, t.state, t.cong),
        owner(&t.owner),
        format!("{} bytes wait to be read, {} to be acknowledged", t.recv_q, t.send_q),
    ];
    lines.extend(t.info.iter().map(|(name, value)| format!("  {name:<24} {:>16}", grouped(value))));
    Some(lines)
}

fn finding_inside(d: &Diagnosis, name: &str) -> Option<Vec<String>> {
    let (id, subject) = name.split_once(':')?;
    let at = d.findings.iter().position(|f| f.id == id && f.subject == subject)?;
    let said = text::one(at + 1, &d.findings[at], Style::PLAIN);
    Some(said.lines().map(str::to_owned).collect())
}
