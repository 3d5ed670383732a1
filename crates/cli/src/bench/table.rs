//! What `linerate bench run` prints.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use super::cases::{CONNECTS_PARALLEL, sndbuf_bytes};
use super::inside::{Metric, Results};
use super::peers::{Setup, Tool};
use super::run::{BenchRunArgs, Case, Mtu};
use super::stats::Spread;
use super::traffic::PING_BYTES;
use super::{http, udp_flow};

/// The name of a metric in progress lines and JSON.
pub fn label(metric: Metric) -> &'static str {
    match metric {
        Metric::Gbps(Case::Up1) => "up1",
        Metric::Gbps(Case::Up4) => "up4",
        Metric::Gbps(Case::Down1) => "down1",
        Metric::Gbps(Case::UdpUp) => "udp up",
        Metric::Gbps(Case::UdpDown) => "udp down",
        Metric::Gbps(_) => "down4",
        Metric::PingP50Us => "p50",
        Metric::PingP99Us => "p99",
        Metric::PingPerSec => "round trips",
        Metric::BusyP50Us => "busy p50",
        Metric::BusyP99Us => "busy p99",
        Metric::ConnectsPerSec => "connects",
        Metric::SockperfUdpP50Us => "sockperf udp p50",
        Metric::SockperfUdpP99Us => "sockperf udp p99",
        Metric::SockperfTcpP50Us => "sockperf tcp p50",
        Metric::SockperfTcpP99Us => "sockperf tcp p99",
        Metric::HttpPerSec => "http",
        Metric::IdleKib => "idle",
        Metric::RssMib => "rss",
    }
}

fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::Gbps(_) => "Gbit/s",
        Metric::PingP50Us | Metric::PingP99Us | Metric::BusyP50Us | Metric::BusyP99Us => "us",
        Metric::SockperfUdpP50Us | Metric::SockperfUdpP99Us => "us",
        Metric::SockperfTcpP50Us | Metric::SockperfTcpP99Us => "us",
        Metric::PingPerSec | Metric::ConnectsPerSec | Metric::HttpPerSec => "1/s",
        Metric::IdleKib => "KiB",
        Metric::RssMib => "MiB",
    }
}

fn title(metric: Metric, args: &BenchRunArgs) -> String {
    let flow = |way| {
        format!("{way}, 1 UDP flow of {} bytes, GSO and GRO, acknowledged", udp_flow::DATAGRAM)
    };
    let busy = |what| format!("TCP ping-pong of {PING_BYTES} bytes, busy polling, {what}");
    let sockperf = |what| format!("{what} ping-pong of {PING_BYTES} bytes by sockperf");
    match metric {
        Metric::Gbps(Case::Up1) => "program -> host, 1 TCP stream".into(),
        Metric::Gbps(Case::Up4) => "program -> host, 4 TCP streams".into(),
        Metric::Gbps(Case::Down1) => "host -> program, 1 TCP stream".into(),
        Metric::Gbps(Case::UdpUp) => flow("program -> host"),
        Metric::Gbps(Case::UdpDown) => flow("host -> program"),
        Metric::Gbps(_) => "host -> program, 4 TCP streams".into(),
        Metric::PingP50Us => format!("TCP ping-pong of {PING_BYTES} bytes, p50"),
        Metric::PingP99Us => format!("TCP ping-pong of {PING_BYTES} bytes, p99"),
        Metric::PingPerSec => format!("TCP ping-pong of {PING_BYTES} bytes, round trips"),
        Metric::BusyP50Us => busy("p50"),
        Metric::BusyP99Us => busy("p99"),
        Metric::SockperfUdpP50Us => sockperf("UDP") + ", p50",
        Metric::SockperfUdpP99Us => sockperf("UDP") + ", p99",
        Metric::SockperfTcpP50Us => sockperf("TCP") + ", p50",
        Metric::SockperfTcpP99Us => sockperf("TCP") + ", p99",
        Metric::HttpPerSec => {
            let connections = http::CONNECTIONS;
            format!("HTTP: wrk, {connections} connections -> published port -> nginx, requests")
        }
        Metric::RssMib => format!(
            "memory of the forwarding processes with {} idle connections (user space, PSS)",
            args.connections
        ),
        Metric::ConnectsPerSec => format!(
            "connections: connect, receive 1 byte and the end, close; {CONNECTS_PARALLEL} at a time"
        ),
        Metric::IdleKib => format!(
            "memory of the forwarding processes per connection, {} idle (user space, PSS)",
            args.connections
        ),
    }
}

/// Three significant digits.
pub fn number(value: f64) -> String {
    match value {
        v if v >= 100.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => format!("{v:.3}"),
    }
}

/// One line: a tool at an MTU in one metric, and how it stands to the others.
struct Row {
    metric: Metric,
    setup: Setup,
    spread: Spread,
    /// Median ÷ that of the best peer at the same MTU.
    of_best_peer: Option<f64>,
    /// Median ÷ that of the relay.
    of_relay: Option<f64>,
    /// Median ÷ that of the kernel alone.
    of_direct: Option<f64>,
}

fn rows(results: &Results) -> Vec<Row> {
    let median = |metric, wanted: &dyn Fn(Setup) -> bool| {
        let medians = results.samples.iter().filter(|((m, s), _)| *m == metric && wanted(*s));
        let medians = medians.filter_map(|(_, samples)| Some(Spread::of(samples)?.median));
        if metric.more_is_better() { medians.reduce(f64::max) } else { medians.reduce(f64::min) }
    };
    let row = |(&(metric, setup), samples): (&(Metric, Setup), &Vec<f64>)| {
        let spread = Spread::of(samples)?;
        let best_peer = median(metric, &|s| s.tool.is_peer() && setup.compares_with(s));
        let relay = median(metric, &|s| s.tool == Tool::Relay);
        let direct = median(metric, &|s| s.tool.is_direct());
        Some(Row {
            metric,
            setup,
            spread,
            of_best_peer: best_peer.map(|best| spread.median / best),
            of_relay: relay.map(|relay| spread.median / relay),
            of_direct: direct.map(|direct| spread.median / direct),
        })
    };
    results.samples.iter().filter_map(row).collect()
}

/// For people.
pub fn text(args: &BenchRunArgs, results: &Results) -> String {
    let mut out = String::new();
    let mut metric = None;
    for row in rows(results) {
        if metric != Some(row.metric) {
            metric = Some(row.metric);
            let better = if row.metric.more_is_better() { "more" } else { "less" };
            let _ = writeln!(
                out,
                "\n{}, {} ({better} is better)",
                title(row.metric, args),
                unit(row.metric)
            );
            let _ = writeln!(
                out,
                "  {:<12} {:>8} {:>9} {:>19} {:>12} {:>9} {:>9}",
                "tool", "MTU", "median", "min..max", "x best peer", "x relay", "x kernel"
            );
        }
        let Spread { median, min, max } = row.spread;
        let ratio = |r: Option<f64>| r.map_or_else(|| "-".into(), |r| format!("{r:.2}"));
        let _ = writeln!(
            out,
            "  {:<12} {:>8} {:>9} {:>19} {:>12} {:>9} {:>9}",
            row.setup.tool.to_string(),
            mtu(row.setup),
            number(median),
            format!("{}..{}", number(min), number(max)),
            ratio(row.of_best_peer),
            ratio(row.of_relay),
            ratio(row.of_direct),
        );
    }
    for failure in &results.failures {
        let _ = writeln!(out, "\nfailed: {failure}");
    }
    for note in &results.notes {
        let _ = writeln!(out, "\nnote: {note}");
    }
    for skipped in &results.skipped {
        let _ = writeln!(out, "\nleft out: {skipped}");
    }
    out + &method(args, results)
}

/// The MTU in bytes, marked if it is the tool's own choice.
fn mtu(setup: Setup) -> String {
    match setup.mtu {
        Mtu::Default => format!("{}*", setup.mtu_bytes()),
        Mtu::Bytes(bytes) => bytes.to_string(),
    }
}

/// How it was measured: what somebody needs to judge the numbers, or to get them again.
fn method(args: &BenchRunArgs, results: &Results) -> String {
    let mut out = String::new();
    let machine = Machine::read();
    let _ = writeln!(
        out,
        "\n{} rounds, the tools in turn; throughput {} s, the first {:.2} s left out, payload \
         counted by the receiver. * the tool's own MTU.",
        args.rounds,
        args.secs,
        args.secs / 6.0
    );
    if !results.congestion.is_empty() {
        let _ = writeln!(
            out,
            "congestion control: {} on both ends' sockets, {} on the tools' own unless they choose",
            joined(results.congestion.iter().map(String::as_str)),
            results.congestion_default
        );
    }
    let _ = writeln!(
        out,
        "pinning: {}; load average before and after: {}, {}",
        args.pin, results.load_before, results.load_after
    );
    let _ = writeln!(out, "machine: {} CPUs, {}, {}", machine.cpus, machine.model, machine.kernel);
    for (tool, version) in &results.versions {
        let _ = writeln!(out, "{tool}: {version}");
    }
    for (program, version) in &results.load {
        let _ = writeln!(out, "{program}: {version}");
    }
    let bounded = |mtu| sndbuf_bytes(Setup { mtu, tool: Tool::Pasta }, args.pasta_sndbuf);
    for (mtu, bytes) in args.mtu.iter().filter_map(|&mtu| Some((mtu, bounded(mtu)?))) {
        if results.versions.contains_key(&Tool::Pasta) {
            let _ = writeln!(
                out,
                "pasta, MTU {mtu}: SO_SNDBUF of the sending program bounded to {bytes} bytes, \
                 since this direction can collapse without"
            );
        }
    }
    out
}

fn joined<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}

/// For programs: each value with its name, all samples.
pub fn json(args: &BenchRunArgs, results: &Results) -> Value {
    let machine = Machine::read();
    let rows: Vec<Value> = rows(results)
        .into_iter()
        .map(|row| {
            json!({
                "metric": label(row.metric), "unit": unit(row.metric),
                "more_is_better": row.metric.more_is_better(),
                "tool": row.setup.tool,
                "mtu": row.setup.mtu.to_string(), "mtu_bytes": row.setup.mtu_bytes(),
                "median": row.spread.median, "min": row.spread.min, "max": row.spread.max,
                "samples": results.samples.get(&(row.metric, row.setup)),
                "of_best_peer": row.of_best_peer, "of_relay": row.of_relay,
                "of_direct": row.of_direct,
            })
        })
        .collect();
    let tools = results.versions.iter().map(|(tool, version)| (tool.to_string(), version));
    let load = results.load.iter().map(|(program, version)| ((*program).to_owned(), version));
    let versions: BTreeMap<String, &String> = tools.chain(load).collect();
    json!({
        "settings": args,
        "machine": {
            "cpus": machine.cpus, "model": machine.model, "kernel": machine.kernel,
            "load_average_before": results.load_before,
            "load_average_after": results.load_after,
        },
        "congestion_control": {
            "ends": results.congestion,
            "tools_own_sockets": results.congestion_default,
        },
        "versions": versions,
        "results": rows,
        "failures": results.failures,
        "notes": results.notes,
        "left_out": results.skipped,
    })
}

struct Machine {
    cpus: usize,
    model: String,
    kernel: String,
}

impl Machine {
    fn read() -> Self {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let version = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpus: std::thread::available_parallelism().map_or(0, Into::into),
            model: model.map_or_else(|| "unknown CPU".into(), |(_, name)| name.to_owned()),
            kernel: format!("Linux {}", version.trim()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{number, rows};
    use crate::bench::inside::{Metric, Results};
    use crate::bench::peers::{Setup, Tool};
    use crate::bench::run::{Case, Mtu};

    #[test]
    fn three_digits() {
        assert_eq!([0.1234, 1.234, 12.34, 1234.4].map(number), ["0.123", "1.23", "12.3", "1234"]);
    }

    /// The best peer is the largest for throughput and the smallest for latency, and only one at a
    /// comparable MTU.
    #[test]
    fn ratios_are_to_the_best_peer_and_the_relay() {
        let at = |tool, mtu| Setup { mtu, tool };
        let mut results = Results::default();
        let up = Metric::Gbps(Case::Up1);
        for (metric, setup, value) in [
            (up, at(Tool::Linerate, Mtu::Bytes(1500)), 6.0),
            (up, at(Tool::Pasta, Mtu::Bytes(1500)), 2.0),
            (up, at(Tool::Slirp4netns, Mtu::Bytes(1500)), 1.0),
            (up, at(Tool::Pasta, Mtu::Default), 12.0),
            (up, at(Tool::Relay, Mtu::Bytes(1500)), 12.0),
            (Metric::PingP50Us, at(Tool::Linerate, Mtu::Bytes(1500)), 50.0),
            (Metric::PingP50Us, at(Tool::Pasta, Mtu::Bytes(1500)), 100.0),
            (Metric::PingP50Us, at(Tool::Slirp4netns, Mtu::Bytes(1500)), 200.0),
        ] {
            results.samples.entry((metric, setup)).or_default().push(value);
        }
        let rows = rows(&results);
        let ours = |metric| {
            let row = rows.iter().find(|r| r.metric == metric && r.setup.tool == Tool::Linerate);
            row.map(|r| (r.of_best_peer, r.of_relay))
        };
        assert_eq!(ours(up), Some((Some(3.0), Some(0.5))));
        assert_eq!(ours(Metric::PingP50Us), Some((Some(0.5), None)));
    }
}
