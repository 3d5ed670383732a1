//! The path report: what happened to the packets, stage by stage, for people.
//!
//! Stages stand in the order of the journey. Below a stage stand its drops by reason, with the knob
//! that governs each. Stages through which nothing went are folded into one line. At the end: whether
//! every packet is accounted for.

use std::fmt::Write as _;
use std::io::IsTerminal;

use linerate_gateway::control::Snapshot;
use linerate_gateway::control::snapshot::{FlowRow, StageRow};

/// Escape sequences, or nothing where the output is no terminal.
#[derive(Clone, Copy)]
pub struct Style {
    /// What is read first.
    pub bold: &'static str,
    /// What is read last.
    pub dim: &'static str,
    /// Drops and other warnings.
    pub warn: &'static str,
    /// Harm.
    pub bad: &'static str,
    /// All is well.
    pub good: &'static str,
    /// Back to plain.
    pub off: &'static str,
}

impl Style {
    /// No colour.
    pub const PLAIN: Style = Style { bold: "", dim: "", warn: "", bad: "", good: "", off: "" };
    const COLOUR: Style = Style {
        bold: "\x1b[1m",
        dim: "\x1b[2m",
        warn: "\x1b[33m",
        bad: "\x1b[31m",
        good: "\x1b[32m",
        off: "\x1b[0m",
    };

    /// Colour if `out` is a terminal and NO_COLOR (no-color.org) is not set.
    pub fn of(out: &impl IsTerminal) -> Style {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        let capable = std::env::var_os("TERM").is_none_or(|t| t != "dumb");
        if wanted && capable && out.is_terminal() { Style::COLOUR } else { Style::PLAIN }
    }
}

/// The whole report.
pub fn path(s: &Snapshot, style: Style) -> String {
    let mut out = String::new();
    title(&mut out, s, style);
    for dir in ["rx", "tx"] {
        journey(&mut out, s, dir, style);
    }
    queues(&mut out, s, style);
    flows(&mut out, &s.flows, style);
    verdict(&mut out, s, style);
    for note in &s.notes {
        let _ = writeln!(out, "note: {note}");
    }
    out
}

fn title(out: &mut String, s: &Snapshot, style: Style) {
    let Style { bold, off, .. } = style;
    let _ = write!(out, "{bold}{}{off}", if s.name.is_empty() { "linerate" } else { &s.name });
    if s.uptime_ns > 0 {
        let _ = write!(out, " · {} s", decimal(s.uptime_ns as f64 / 1e9));
    }
    let used: Vec<_> = s.devices.iter().filter(|d| d.rx_packets + d.tx_packets > 0).collect();
    for d in &used {
        let _ = write!(
            out,
            "{}{} (mtu {}): rx {} packets, {}; tx {} packets, {}",
            if used.len() == 1 { " · " } else { "\n  " },
            d.name,
            d.mtu,
            grouped(d.rx_packets),
            bytes(d.rx_bytes),
            grouped(d.tx_packets),
            bytes(d.tx_bytes)
        );
    }
    if !s.offloads.is_empty() {
        let _ = write!(out, "\noffloads: {}", s.offloads.join(", "));
    }
    out.push('\n');
}

/// Columns of numbers: header and width.
const COLUMNS: [(&str, usize); 9] = [
    ("in", 11),
    ("made", 9),
    ("merged", 9),
    ("out", 11),
    ("taken", 11),
    ("dropped", 8),
    ("held/max", 12),
    ("batch", 6),
    ("ns/pkt", 7),
];

fn journey(out: &mut String, s: &Snapshot, dir: &str, style: Style) {
    let Style { bold, dim, off, .. } = style;
    let way = if dir == "rx" { "receive" } else { "transmit" };
    let stages: Vec<&StageRow> = s.stages.iter().filter(|r| r.dir == dir).collect();
    let idle: Vec<&str> = stages.iter().filter(|r| r.idle()).map(|r| r.name.as_str()).collect();
    let busy: Vec<&&StageRow> = stages.iter().filter(|r| !r.idle()).collect();
    if !busy.is_empty() {
        let mut head = format!("\n{bold}{way:<10}{off}{dim}");
        for (name, width) in COLUMNS {
            let _ = write!(head, "{name:>width$}");
        }
        let _ = writeln!(out, "{head}{off}");
        for row in busy {
            stage(out, s, row, style);
        }
    }
    if !idle.is_empty() {
        let gap = if stages.len() == idle.len() { "\n" } else { "" };
        let _ = writeln!(out, "{gap}{dim}{way} idle: {}{off}", idle.join(", "));
    }
}

fn stage(out: &mut String, s: &Snapshot, row: &StageRow, style: Style) {
    let Style { warn, off, .. } = style;
    let nothing = |n: u64| if n == 0 { "·".to_owned() } else { grouped(n) };
    let held = match (row.held, row.held_max) {
        (0, 0) => "·".to_owned(),
        (held, max) => format!("{}/{}", grouped(held), grouped(max)),
    };
    let ratio =
        |a: u64, b: u64| if b == 0 { "·".to_owned() } else { decimal(a as f64 / b as f64) };
    let cells = [
        nothing(row.entered),
        nothing(row.made),
        nothing(row.merged),
        nothing(row.out),
        nothing(row.taken),
        nothing(row.drops()),
        held,
        ratio(row.entered, row.batches),
        ratio(row.ns, row.ns_pkts),
    ];
    let _ = write!(out, "{:<10}", row.name);
    for ((name, width), cell) in COLUMNS.iter().zip(cells) {
        let coloured = *name == "dropped" && row.drops() > 0;
        let (on, off) = if coloured { (warn, off) } else { ("", "") };
        let _ = write!(out, "{on}{cell:>width$}{off}");
    }
    out.push('\n');
    for (label, n) in &row.dropped {
        let drop = s.drops.iter().find(|d| d.label == *label && d.stage == row.name);
        let knob = drop.and_then(|d| d.knob.as_ref());
        let help = drop.map_or("", |d| d.help.as_str());
        let _ = writeln!(out, "  {warn}- {} {label}{off}: {help}", grouped(*n));
        if let Some(path) = knob {
            let value = s.knobs.iter().find(|k| k.path == *path).map_or("?", |k| k.value.as_str());
            let _ = writeln!(out, "      knob: {path} = {}", value.replace('\t', " "));
        }
    }
}

fn queues(out: &mut String, s: &Snapshot, style: Style) {
    let used: Vec<String> = s
        .queues
        .iter()
        .filter(|q| q.max > 0)
        .map(|q| match q.limit {
            Some(limit) => format!("{} {} of {}", q.stage, grouped(q.max), grouped(limit)),
            None => format!("{} {}", q.stage, grouped(q.max)),
        })
        .collect();
    if !used.is_empty() {
        let _ =
            writeln!(out, "\n{}queues, at the most:{} {}", style.bold, style.off, used.join(" · "));
    }
    squeezes(out, s);
}

/// Why polls ended early, if they did.
fn squeezes(out: &mut String, s: &Snapshot) {
    let total = s.counter("softnet", "time_squeeze");
    if total > 0 {
        let of = |name| grouped(s.counter("linerate", name));
        let _ = writeln!(
            out,
            "squeezed polls: {} ({} by net.core.netdev_budget, {} by net.core.netdev_budget_usecs)",
            grouped(total),
            of("SoftnetSqueezeBudget"),
            of("SoftnetSqueezeTime")
        );
    }
}

fn flows(out: &mut String, flows: &[FlowRow], style: Style) {
    if flows.is_empty() {
        return;
    }
    let Style { bold, dim, off, .. } = style;
    let _ = writeln!(
        out,
        "\n{bold}{:<46}{off}{dim}{:>10}{:>10}{:>10}{:>6}{:>9}{off}",
        "top flows (program → peer)", "up", "down", "rtt ms", "cwnd", "retrans"
    );
    for f in flows {
        let ends = format!("{} {} → {}", f.proto, f.program, f.peer);
        let rtt = match f.rtt_us {
            0 => "·".to_owned(),
            us => format!("{:.3}", us as f64 / 1000.0),
        };
        let _ = writeln!(
            out,
            "{ends:<46}{:>10}{:>10}{rtt:>10}{:>6}{:>9}{}",
            bytes(f.up_bytes),
            bytes(f.down_bytes),
            f.cwnd,
            grouped(f.retrans),
            if f.state == "open" { " open" } else { "" }
        );
    }
}

fn verdict(out: &mut String, s: &Snapshot, style: Style) {
    let Style { warn, good, off, .. } = style;
    let missing = s.unaccounted();
    out.push('\n');
    if missing.is_empty() {
        let drops: u64 = s.stages.iter().map(StageRow::drops).sum();
        let held: u64 = s.stages.iter().map(|r| r.held).sum();
        let _ = writeln!(
            out,
            "{good}every packet accounted for{off}: {} dropped, {} held now",
            grouped(drops),
            grouped(held)
        );
        return;
    }
    for (stage, n) in missing {
        let what = if n > 0 { "went in and never came out" } else { "came out and never went in" };
        let _ = writeln!(out, "{warn}{stage}: {} packets {what}{off}", grouped(n.unsigned_abs()));
    }
}

/// A number with commas between thousands.
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest binary unit that leaves at least one.
pub fn bytes(n: u64) -> String {
    let units = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{} {}", decimal(value), units[unit])
}

/// One digit behind the point below 100, none above.
fn decimal(value: f64) -> String {
    if value < 99.95 { format!("{value:.1}") } else { grouped(value.round() as u64) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linerate_core::link::{Iface, L2};
    use linerate_core::shard::Shard;
    use linerate_core::table::{Reason, Stage};
    use linerate_core::wire::Mac;
    use linerate_gateway::control::Meta;

    fn report(shard: &Shard) -> String {
        let meta = Meta { name: "test-1".into(), ..Meta::default() };
        path(&Snapshot::take(shard, meta), Style::PLAIN)
    }

    #[test]
    fn a_drop_stands_below_its_stage_with_reason_and_knob() {
        let shard = Shard::new(1);
        let counts = &shard.net.counts;
        let flow = counts.flow(Stage::SockQueue);
        flow.batch(1_234_567, 1_234_564, 0);
        (0..3).for_each(|_| counts.dropped(Stage::SockQueue, Reason::SocketRcvbuff));
        let text = report(&shard);
        let lines: Vec<&str> = text.lines().collect();
        let at = lines.iter().position(|l| l.starts_with("SockQueue")).expect("the stage is there");
        assert!(lines[at].contains("1,234,567") && lines[at].contains("1,234,564"), "{text}");
        assert!(
            lines[at + 1].contains("- 3 SOCKET_RCVBUFF: The socket's receive buffer"),
            "{text}"
        );
        assert!(lines[at + 2].contains("knob: net.core.rmem_default = 212992"), "{text}");
        assert!(text.contains("receive idle: Ring, Irq, Poll, Xdp, Gro"), "{text}");
        assert!(text.contains("transmit idle: Send, "), "{text}");
        assert!(text.contains("every packet accounted for: 3 dropped, 0 held now"), "{text}");
    }

    #[test]
    fn what_is_missing_is_said_for_each_stage() {
        let shard = Shard::new(1);
        shard.net.counts.flow(Stage::Ip).batch(10, 8, 0);
        let text = report(&shard);
        assert!(text.contains("Ip: 2 packets went in and never came out"), "{text}");
        assert!(!text.contains("every packet accounted for"), "{text}");
    }

    #[test]
    fn lines_fit_a_hundred_columns() {
        let mut shard = Shard::new(1);
        for name in ["tun0", "ethernet0"] {
            let mut iface = Iface::new(name, L2::Ip, Mac([0; 6]), 65520);
            (iface.rx_packets, iface.rx_bytes) = (123_456_789, 1 << 40);
            (iface.tx_packets, iface.tx_bytes) = (123_456_789, 1 << 40);
            shard.add_iface(iface);
        }
        for stage in Stage::ALL {
            shard.net.counts.flow(*stage).batch(999_999_999, 999_999_999, 0);
            shard.net.counts.flow(*stage).timed(1_000_000, 1000);
        }
        for line in report(&shard).lines() {
            assert!(line.chars().count() <= 100, "{} columns: {line}", line.chars().count());
        }
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(grouped(0), "0");
        assert_eq!(grouped(999), "999");
        assert_eq!(grouped(1000), "1,000");
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(
            (bytes(0), bytes(1023), bytes(1536)),
            ("0 B".into(), "1023 B".into(), "1.5 KiB".into())
        );
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
    }
}
