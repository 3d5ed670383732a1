//! `linerate show --host`: one reading of the kernel's path, by name.

mod table;
mod text;

use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use linerate_host::Window;
use linerate_host::collect::{Collector, Tier};
use linerate_host::ledger;
use linerate_host::snapshot::{Dev, Snapshot};
use serde_json::{Value, json};

use super::instance::Instance;
use super::path::{Stop, View, journey};
use super::reading::{Reading, Signals, collect, live};
use super::text::{clean, rate, wrap};
use super::{UNREADABLE, is_empty, latency};
use crate::args::{ShowArgs, What};
use crate::report::grouped;
use crate::{print, print_json};

pub(super) use table::Table;
use text::as_text;
pub(super) use text::{cpus, owner};

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
