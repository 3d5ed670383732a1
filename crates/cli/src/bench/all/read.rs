//! What each benchmark prints, as groups of bars and curves. A value that is missing or of another kind
//! is left out: results outlive the program that wrote them.

use serde_json::Value;

use super::part::{Part, Ran};

/// Bars of one unit, which are compared with each other.
#[derive(Debug, PartialEq)]
pub struct Group {
    /// What is measured.
    pub title: String,
    /// Of every bar.
    pub unit: String,
    /// Whether more is better; none where that is not the question.
    pub more_is_better: Option<bool>,
    /// In the order in which they were printed.
    pub bars: Vec<Bar>,
}

/// One row of a group.
#[derive(Debug, PartialEq)]
pub struct Bar {
    /// What, or who.
    pub name: String,
    /// Ours, and not a peer's or a limit.
    pub ours: bool,
    /// The middle one of the rounds.
    pub median: f64,
    /// The smallest of the rounds, and the largest.
    pub range: (f64, f64),
    /// What it is meant to be.
    pub target: Option<String>,
}

/// Values against something that grows.
#[derive(Debug, PartialEq)]
pub struct Curve {
    /// What is measured.
    pub title: String,
    /// What grows.
    pub across: String,
    /// The unit of the values.
    pub unit: String,
    /// Whether each step across is a multiple of the one before.
    pub log: bool,
    /// Name and points of each line.
    pub lines: Vec<(String, Vec<(f64, f64)>)>,
}

impl Curve {
    /// One point more of a line, which is begun if there is none of that name.
    pub(super) fn add(&mut self, line: &str, point: (f64, f64)) {
        match self.lines.iter_mut().find(|(name, _)| name == line) {
            Some((_, points)) => points.push(point),
            None => self.lines.push((line.to_owned(), vec![point])),
        }
    }
    /// All points have come: they are put in order, and a line of one is none.
    pub(super) fn settle(&mut self) {
        self.lines.retain(|(_, points)| points.len() > 1);
        self.lines.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    }
}

/// The bars and curves of one benchmark.
#[derive(Debug, Default, PartialEq)]
pub struct Figures {
    /// Tables.
    pub groups: Vec<Group>,
    /// Plots.
    pub curves: Vec<Curve>,
    /// What was left out, failed, or must be known to read the rest.
    pub notes: Vec<String>,
}

impl Figures {
    /// Of what one benchmark said.
    pub fn of(ran: &Ran) -> Figures {
        let said = &ran.said;
        match ran.part {
            Part::Run => of_run(said),
            Part::Tun => of_tun(said),
            Part::TcpScale => super::read_scale::of_tcp_scale(said),
            Part::Path => of_path(said),
            Part::Devices => of_devices(said),
            Part::Steering => of_steering(said),
            Part::Livelock => of_livelock(said),
            Part::Host => of_host(said),
            Part::Bufferbloat => of_bufferbloat(said),
        }
    }
}

pub(super) fn text(v: &Value) -> String {
    v.as_str().unwrap_or_default().to_owned()
}

pub(super) fn list(v: &Value) -> &[Value] {
    v.as_array().map_or(&[], Vec::as_slice)
}

/// The range of samples that may stand in any order.
pub(super) fn range(samples: &Value, median: f64) -> (f64, f64) {
    let samples = || list(samples).iter().filter_map(Value::as_f64);
    (samples().fold(median, f64::min), samples().fold(median, f64::max))
}

/// The group with this title, which is begun if there is none.
pub(super) fn group<'a>(
    groups: &'a mut Vec<Group>,
    title: &str,
    unit: &str,
    more: Option<bool>,
) -> &'a mut Group {
    let at = groups.iter().position(|g| g.title == title).unwrap_or_else(|| {
        let (title, unit) = (title.to_owned(), unit.to_owned());
        groups.push(Group { title, unit, more_is_better: more, bars: Vec::new() });
        groups.len() - 1
    });
    &mut groups[at]
}

/// The curve with this title, which is begun if there is none.
pub(super) fn curve<'a>(
    curves: &'a mut Vec<Curve>,
    title: &str,
    (across, unit, log): (&str, &str, bool),
) -> &'a mut Curve {
    let at = curves.iter().position(|c| c.title == title).unwrap_or_else(|| {
        let (title, across, unit) = (title.to_owned(), across.to_owned(), unit.to_owned());
        curves.push(Curve { title, across, unit, log, lines: Vec::new() });
        curves.len() - 1
    });
    &mut curves[at]
}

fn of_run(said: &Value) -> Figures {
    let mut out = Figures::default();
    for row in list(&said["results"]) {
        let Some(median) = row["median"].as_f64() else { continue };
        let (metric, unit) = (text(&row["metric"]), text(&row["unit"]));
        let title = match metric.as_str() {
            "up1" => "program to host, 1 TCP stream",
            "up4" => "program to host, 4 TCP streams",
            "down1" => "host to program, 1 TCP stream",
            "down4" => "host to program, 4 TCP streams",
            "p50" => "TCP ping-pong of 64 bytes, p50",
            "p99" => "TCP ping-pong of 64 bytes, p99",
            "round trips" => "TCP ping-pong of 64 bytes, round trips",
            "udp up" => "program to host, 1 UDP flow with GSO and GRO",
            "udp down" => "host to program, 1 UDP flow with GSO and GRO",
            "busy p50" => "TCP ping-pong of 64 bytes, busy polling, p50",
            "busy p99" => "TCP ping-pong of 64 bytes, busy polling, p99",
            "sockperf udp p50" => "UDP ping-pong of 64 bytes by sockperf, p50",
            "sockperf udp p99" => "UDP ping-pong of 64 bytes by sockperf, p99",
            "sockperf tcp p50" => "TCP ping-pong of 64 bytes by sockperf, p50",
            "sockperf tcp p99" => "TCP ping-pong of 64 bytes by sockperf, p99",
            "http" => "HTTP: wrk on the host, nginx behind a published port",
            "rss" => "memory of the forwarding process with all idle connections",
            "connects" => "connections: connect, 1 byte, close",
            "idle" => "memory of the forwarding process per idle connection",
            other => other,
        };
        let tool = text(&row["tool"]);
        let ratio = |to: &str, v: &Value| v.as_f64().map(|v| format!("{v:.2} x {to}"));
        let ratios: Vec<String> = [
            ratio("best peer", &row["of_best_peer"]).filter(|_| tool == "linerate"),
            ratio("relay", &row["of_relay"]).filter(|_| tool == "linerate"),
            ratio("kernel", &row["of_direct"]).filter(|_| tool == "linerate"),
        ]
        .into_iter()
        .flatten()
        .collect();
        let own = if row["mtu"] == "default" { ", its own" } else { "" };
        let bar = Bar {
            name: format!("{tool}, MTU {}{own}", row["mtu_bytes"]),
            ours: tool == "linerate",
            median,
            range: range(&row["samples"], median),
            target: (!ratios.is_empty()).then(|| ratios.join(", ")),
        };
        group(&mut out.groups, title, &unit, row["more_is_better"].as_bool()).bars.push(bar);
    }
    for kind in ["failures", "notes", "left_out"] {
        let said = list(&said[kind]).iter().map(text);
        out.notes.extend(said.map(|note| format!("{}: {note}", kind.replace('_', " "))));
    }
    let versions = said["versions"].as_object().into_iter().flatten();
    out.notes.extend(versions.map(|(tool, version)| format!("{tool}: {}", text(version))));
    out
}

fn of_tun(said: &Value) -> Figures {
    let mut out = Figures::default();
    for row in list(&said["rows"]) {
        let (case, name) = (text(&row["case"]), text(&row["who"]));
        if let Some(why) = row["failed"].as_str() {
            out.notes.push(format!("{case}, {name}: {why}"));
        }
        let Some(median) = row["median"].as_f64() else { continue };
        let range = range(&row["samples"], median);
        let bar = Bar { name, ours: row["ours"] == true, median, range, target: None };
        let title = format!("the library alone on a TUN, MTU 1500: {case}");
        let more = row["more_is_better"].as_bool();
        group(&mut out.groups, &title, &text(&row["unit"]), more).bars.push(bar);
    }
    out
}

/// `receive UDP, 18 B payload, batch 32` as (`receive UDP, 18 B payload`, 32).
fn batch(name: &str) -> Option<(&str, f64)> {
    let (what, n) = name.rsplit_once(", batch ")?;
    Some((what, n.parse().ok()?))
}

/// What a case of `bench path` is about.
fn kind(name: &str) -> &'static str {
    let begins = |with: &[&str]| with.iter().any(|w| name.starts_with(w));
    match () {
        _ if begins(&["xdp-vm"]) => "programs at Xdp",
        _ if begins(&["idle"]) => "stages that have nothing to do",
        _ if begins(&["qdisc"]) => "queueing disciplines",
        _ if begins(&["drop", "swap", "io ", "macswap", "testpmd"]) => "to a port and back",
        _ if name.contains("at random") => "one of many sockets",
        _ if name.contains("TCP") => "TCP",
        _ if name.contains("UDP") => "UDP",
        () => "others",
    }
}

fn of_path(said: &Value) -> Figures {
    let mut out = Figures::default();
    let cases = list(&said["cases"]);
    for case in cases {
        let Some(median) = case["ns_median"].as_f64() else {
            out.notes.push(format!("not measured: {}", text(&case["name"])));
            continue;
        };
        let bar = Bar {
            name: text(&case["name"]),
            ours: case["who"] == "linerate",
            median,
            range: range(&case["ns"], median),
            target: case["target_ns"].as_f64().map(|t| format!("<= {t}")),
        };
        let title = format!("processor time a packet, in memory: {}", kind(&bar.name));
        group(&mut out.groups, &title, "ns", Some(false)).bars.push(bar);
    }
    let point = |name: &str, find: &dyn Fn(&str) -> Option<f64>| {
        let case = cases.iter().find(|c| c["name"] == name)?;
        Some((find(name)?, case["ns_median"].as_f64()?))
    };
    let names = || cases.iter().filter_map(|c| c["name"].as_str());
    let mut batches: Vec<(String, Vec<(f64, f64)>)> = Vec::new();
    for (name, what) in names().filter_map(|n| Some((n, batch(n)?.0))) {
        let Some(at) = point(name, &|n| Some(batch(n)?.1)) else { continue };
        match batches.iter_mut().find(|(line, _)| line == what) {
            Some((_, points)) => points.push(at),
            None => batches.push((what.to_owned(), vec![at])),
        }
    }
    batches.retain(|(_, points)| points.len() > 1);
    let sockets = |peer: bool| {
        let count = |n: &str| {
            let (what, n) = n.rsplit_once(" sockets, batch ")?.0.rsplit_once(", ")?;
            (what.starts_with("smoltcp") == peer).then(|| n.parse().ok())?
        };
        names().filter_map(|n| point(n, &count)).collect::<Vec<_>>()
    };
    for (title, across, mut lines) in [
        ("batches: a packet in batches of so many", "packets in a batch", batches),
        (
            "sockets: a datagram to one of so many, at random",
            "sockets",
            vec![("linerate".to_owned(), sockets(false)), ("smoltcp".to_owned(), sockets(true))],
        ),
    ] {
        lines.retain(|(_, points)| !points.is_empty());
        lines.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
        if !lines.is_empty() {
            let (title, across) = (title.to_owned(), across.to_owned());
            out.curves.push(Curve { title, across, unit: "ns".into(), log: true, lines });
        }
    }
    out
}

fn of_devices(said: &Value) -> Figures {
    let mut out = Figures::default();
    for row in list(&said["rows"]) {
        let name = text(&row["name"]);
        let Some(median) = row["mpps_median"].as_f64() else {
            out.notes.push(format!("{name}: {}", text(&row["failed"])));
            continue;
        };
        let ours = !["kernel", "generator", "Open vSwitch"].iter().any(|n| name.starts_with(n));
        let bar = Bar { name, ours, median, range: range(&row["mpps"], median), target: None };
        let title = "datagrams of 60-byte frames over a veth pair";
        group(&mut out.groups, title, "Mpps", Some(true)).bars.push(bar);
    }
    out
}

/// How many queues a row of `bench steering` is about, and what they bring.
fn queues(name: &str) -> Option<(f64, &str)> {
    let (n, what) = name.split_once(" queue")?;
    Some((n.parse().ok()?, what.strip_prefix('s').unwrap_or(what).strip_prefix(", ")?))
}

fn of_steering(said: &Value) -> Figures {
    let mut out = Figures::default();
    for row in list(&said["rows"]) {
        let Some(median) = row["spread"]["median"].as_f64() else { continue };
        let unit = text(&row["unit"]);
        let bar = Bar {
            name: text(&row["name"]),
            ours: true,
            median,
            range: range(&row["samples"], median),
            target: row["target"].as_str().map(str::to_owned),
        };
        let (title, more) = (format!("two shards, {unit}"), Some(unit == "times"));
        let title = match queues(&bar.name) {
            Some((n, line)) => {
                let title = "queues: a datagram to a host of so many, all polled by one thread";
                let (line, kind) = (line.to_owned(), ("queues", "ns", true));
                curve(&mut out.curves, title, kind).add(&line, (n, median));
                "queues of one host, all polled by one thread, UDP".to_owned()
            }
            None => title,
        };
        group(&mut out.groups, &title, &unit, more).bars.push(bar);
    }
    out.curves.iter_mut().for_each(Curve::settle);
    out.curves.retain(|curve| !curve.lines.is_empty());
    let (order, changes) = (&said["order_violations"], &said["map_changes"]);
    out.notes.push(format!("{order} packets were overtaken in {changes} changes of the map"));
    out
}

fn of_livelock(said: &Value) -> Figures {
    let line = |curve: &Value| {
        let point = |p: &Value| {
            Some((p["offered_pps"].as_f64()? / 1e3, p["delivered_pps"].as_f64()? / 1e3))
        };
        (text(&curve["mode"]), list(&curve["points"]).iter().filter_map(point).collect())
    };
    let curve = Curve {
        title: "what reaches the application when more comes than it can work on".into(),
        across: "offered, thousands of packets a second".into(),
        unit: "thousands delivered a second".into(),
        log: false,
        lines: list(&said["curves"]).iter().map(line).collect(),
    };
    Figures { curves: vec![curve], ..Figures::default() }
}

fn of_host(said: &Value) -> Figures {
    let mut out = Figures::default();
    for of in list(&said["groups"]) {
        for row in list(&of["rows"]) {
            let name = text(&row["name"]);
            let Some(median) = row["ms"]["median"].as_f64() else {
                out.notes.push(format!("{name}: {}", text(&row["left_out"])));
                continue;
            };
            let bar = Bar {
                name,
                ours: row["ours"] == true,
                median,
                range: range(&row["samples"], median),
                target: row["target_ms"].as_f64().map(|t| format!("<= {t}")),
            };
            group(&mut out.groups, &text(&of["what"]), "ms", Some(false)).bars.push(bar);
        }
    }
    out
}

fn of_bufferbloat(said: &Value) -> Figures {
    let mut out = Figures::default();
    let at = |p: &Value| Some((p[0].as_f64()?, p[1].as_f64()?));
    let pings =
        |one: &Value| (text(&one["qdisc"]), list(&one["pings"]).iter().filter_map(at).collect());
    out.curves.push(Curve {
        title: "what a ping takes, with downloads from the second second on".into(),
        across: "seconds".into(),
        unit: "ms".into(),
        log: false,
        lines: list(&said["disciplines"]).iter().map(pings).collect(),
    });
    for one in list(&said["disciplines"]) {
        let name = text(&one["qdisc"]);
        let ping = &one["ping_ms"];
        let (Some(median), Some(worst)) = (ping["median"].as_f64(), ping["worst"].as_f64()) else {
            continue;
        };
        let best = one["ping_alone_ms"]["median"].as_f64().unwrap_or(median);
        let title = "a ping beside downloads, in virtual time: median, and from alone to worst";
        let (range, target) = ((best.min(median), worst), None);
        let bar = Bar { name, ours: true, median, range, target };
        group(&mut out.groups, title, "ms", Some(false)).bars.push(bar);
    }
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn peers_of_bench_run_stand_beside_ours_and_failures_are_told() {
        let row = |tool: &str, mtu: &str, median: f64| {
            json!({"metric": "up1", "unit": "Gbit/s", "more_is_better": true, "tool": tool, "mtu": mtu,
                "mtu_bytes": 1500, "median": median, "samples": [median + 1.0, median - 1.0],
                "of_best_peer": 3.5, "of_relay": null})
        };
        let said = json!({"results": [row("linerate", "1500", 7.0), row("pasta", "default", 2.0)],
            "failures": ["slirp4netns: gone"], "versions": {"pasta": "2023"}});
        let figures = of_run(&said);
        let [group] = &figures.groups[..] else { panic!("one metric: {figures:?}") };
        assert_eq!((group.unit.as_str(), group.more_is_better), ("Gbit/s", Some(true)));
        assert_eq!(group.bars[0].name, "linerate, MTU 1500");
        assert_eq!(group.bars[0].range, (6.0, 8.0));
        assert_eq!(group.bars[0].target.as_deref(), Some("3.50 x best peer"));
        assert_eq!(group.bars[1].name, "pasta, MTU 1500, its own");
        assert!(group.bars[0].ours && !group.bars[1].ours && group.bars[1].target.is_none());
        assert_eq!(figures.notes, ["failures: slirp4netns: gone", "pasta: 2023"]);
    }

    #[test]
    fn costs_that_grow_are_curves() {
        let case = |who: &str, name: &str, ns: f64| json!({"who": who, "name": name, "ns_median": ns, "ns": [ns]});
        let said = json!({"cases": [
            case("linerate", "receive UDP, 18 B payload, batch 256", 30.0),
            case("linerate", "receive UDP, 18 B payload, batch 1", 50.0),
            case("linerate", "receive UDP at random, 1 sockets, batch 32", 40.0),
            case("linerate", "receive UDP at random, 1000 sockets, batch 32", 60.0),
            case("smoltcp", "smoltcp: receive UDP at random, 1000 sockets, batch 32", 900.0),
            json!({"who": "smoltcp", "name": "absent", "ns_median": null, "ns": []}),
        ]});
        let figures = of_path(&said);
        let [batches, sockets] = &figures.curves[..] else { panic!("two: {figures:?}") };
        let line = |name: &str, points: &[(f64, f64)]| (name.to_owned(), points.to_vec());
        assert_eq!(
            batches.lines,
            [line("receive UDP, 18 B payload", &[(1.0, 50.0), (256.0, 30.0)])]
        );
        assert_eq!(
            sockets.lines,
            [line("linerate", &[(1.0, 40.0), (1000.0, 60.0)]), line("smoltcp", &[(1000.0, 900.0)])]
        );
        assert_eq!(figures.notes, ["not measured: absent"]);
    }

    #[test]
    fn rows_by_queues_are_a_group_and_a_curve() {
        let row = |name: &str, ns: f64| json!({"name": name, "unit": "ns/packet", "spread": {"median": ns}, "samples": [ns]});
        let said = json!({"rows": [
            row("one shard, batch 32", 40.0),
            row("4 queues, 32 packets of each in a turn", 44.0),
            row("1 queue, 32 packets of each in a turn", 42.0),
            row("1 queue, 32 packets of each in a turn, RPS", 43.0),
        ], "order_violations": 0, "map_changes": 1});
        let figures = of_steering(&said);
        let bars: Vec<usize> = figures.groups.iter().map(|g| g.bars.len()).collect();
        assert_eq!(bars, [1, 3]);
        let [curve] = &figures.curves[..] else { panic!("one: {figures:?}") };
        let name = "32 packets of each in a turn".to_owned();
        assert_eq!(curve.lines, [(name, vec![(1.0, 42.0), (4.0, 44.0)])]);
    }

    #[test]
    fn a_result_of_another_shape_is_empty_and_no_panic() {
        for said in [json!(null), json!([]), json!({"results": [1], "cases": {}, "rows": [null]})] {
            for part in Part::ALL {
                let ran = Ran {
                    part,
                    command: String::new(),
                    said: said.clone(),
                    code: None,
                    complaint: String::new(),
                    secs: 0.0,
                    ghz: (0.0, 0.0),
                    load: (0.0, 0.0),
                };
                assert!(Figures::of(&ran).groups.iter().all(|g| g.bars.is_empty()));
            }
        }
    }
}
