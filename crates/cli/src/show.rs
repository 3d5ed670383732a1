//! `linerate show`, `get`, `set`: a running instance, seen from another terminal.

use std::fmt::Write as _;
use std::io;
use std::process::ExitCode;

use linerate_core::rx::ingress;
use linerate_core::rx::steer::ntuple;
use linerate_gateway::control::snapshot::{KnobRow, TcpRow, UdpRow};
use linerate_gateway::control::{Client, ClientError, Request, Response, Snapshot, instances};
use serde_json::{Value, json};

use crate::args::{GetArgs, SetArgs, SetWord, Setting, ShowArgs, What};
use crate::procfs::ethtool;
use crate::report::{self, grouped};
use crate::{print, print_json, procfs};

/// Sockets asked for where they are what is shown; the instance has its own bound.
const ALL_SOCKETS: usize = usize::MAX;

/// `linerate show`.
pub fn main(args: ShowArgs) -> ExitCode {
    let shown = match args.what {
        What::Latency => {
            eprintln!("linerate show: latency is shown of the host alone: add --host");
            return ExitCode::from(2);
        }
        What::Instances => show_instances(args.json),
        what => snapshot(args.name.as_deref(), what).map(|s| match args.json {
            true => print_json(&as_json(what, &s)),
            false => print(&as_text(what, &s)),
        }),
    };
    finish("show", shown)
}

/// `linerate get`.
pub fn get(args: GetArgs) -> ExitCode {
    // A name that no instance knows is wrong usage, whether or not one runs.
    if linerate_core::tx::qdisc::At::parse(&args.knob).is_none()
        && crate::xdp::map_name(&args.knob).is_none()
        && crate::xdp::device_name(&args.knob).is_none()
        && ingress::place(&args.knob).is_none()
        && let Err(e) = linerate_core::table::Knobs::row(&args.knob)
    {
        eprintln!("linerate get: {e}");
        return ExitCode::from(2);
    }
    finish("get", knob(args.name.as_deref(), Request::Get(args.knob), args.json))
}

/// `linerate set`.
pub fn set(args: SetArgs) -> ExitCode {
    match request(&args.words) {
        Ok(request) => finish("set", knob(args.name.as_deref(), request, args.json)),
        Err(why) => {
            eprintln!("linerate set: {why}");
            ExitCode::from(2)
        }
    }
}

/// What is to be set: a knob, or a rule in the words of `ethtool -N`.
fn request(words: &[SetWord]) -> Result<Request, String> {
    let plain = |word: &SetWord| match word {
        SetWord::Word(word) => Ok(word.clone()),
        SetWord::Knob(knob) => Err(format!("{}= stands alone: one knob at a time", knob.path)),
        SetWord::Qdisc(path, _) | SetWord::Xdp(path, _) => {
            Err(format!("{path}= stands alone: one at a time"))
        }
    };
    if let [SetWord::Word(place), rest @ ..] = words
        && ingress::place(place).is_some()
    {
        let rule: Vec<String> = rest.iter().map(plain).collect::<Result<_, _>>()?;
        let rule = rule.join(" ");
        ingress::Command::parse(&rule).map_err(|e| format!("{place}: {e}"))?;
        return Ok(Request::Set(place.clone(), rule));
    }
    let usage = "ntuple add flow-type ... action N [loc N], or ntuple delete N";
    match words {
        [SetWord::Knob(knob)] => Ok(Request::Set(knob.path.to_owned(), knob.value.clone())),
        [SetWord::Qdisc(path, spec) | SetWord::Xdp(path, spec)] => {
            Ok(Request::Set(path.clone(), spec.clone()))
        }
        [first, rest @ ..] if *first == SetWord::Word("ntuple".to_owned()) => {
            let rest: Vec<String> = rest.iter().map(plain).collect::<Result<_, _>>()?;
            match rest.split_first() {
                Some((add, spec)) if add == "add" => {
                    let spec = spec.join(" ");
                    ntuple::parse(&spec).map_err(|e| e.to_string())?;
                    Ok(Request::AddRule(spec))
                }
                Some((delete, [at])) if delete == "delete" => {
                    let at = at.parse().map_err(|_| format!("{at:?} is no location of a rule"))?;
                    Ok(Request::DeleteRule(at))
                }
                _ => Err(format!("a rule is set by: {usage}")),
            }
        }
        [SetWord::Word(word), ..] => {
            Err(word.parse::<Setting>().err().unwrap_or_else(|| format!("what is {word:?}?")))
        }
        _ => words.iter().map(plain).collect::<Result<Vec<_>, _>>().and(Err(usage.to_owned())),
    }
}

/// Why there is nothing to show.
enum Failure {
    Client(ClientError),
    /// The instance refused, with this sentence.
    Refused(String),
    /// The instance is of another version.
    Version,
}

impl From<ClientError> for Failure {
    fn from(e: ClientError) -> Failure {
        Failure::Client(e)
    }
}

fn finish(command: &str, result: Result<(), Failure>) -> ExitCode {
    let (code, why) = match result {
        Ok(()) => return ExitCode::SUCCESS,
        // Not to say which instance is wrong usage; that none runs is not.
        Err(Failure::Client(e @ (ClientError::Several(_) | ClientError::Unknown { .. }))) => {
            (2, e.to_string())
        }
        Err(Failure::Client(e)) => (1, e.to_string()),
        Err(Failure::Refused(why)) => (1, why),
        Err(Failure::Version) => {
            (1, "the instance answers in another way: is it of another version?".to_owned())
        }
    };
    eprintln!("linerate {command}: {why}");
    ExitCode::from(code)
}

fn show_instances(as_json: bool) -> Result<(), Failure> {
    let names = instances()?;
    if as_json {
        print_json(&json!({ "instances": names }));
    } else {
        print(&names.iter().map(|n| format!("{n}\n")).collect::<String>());
    }
    Ok(())
}

fn snapshot(name: Option<&str>, what: What) -> Result<Snapshot, Failure> {
    let lists_sockets = matches!(
        what,
        What::Udp
            | What::Udp6
            | What::Tcp
            | What::Tcp6
            | What::Sockets
            | What::Flows
            | What::Sockstat
            | What::Sockstat6
    );
    let sockets = if lists_sockets { ALL_SOCKETS } else { 0 };
    match Client::connect(name)?.ask(&Request::Snapshot { sockets })? {
        Response::Snapshot(snapshot) => Ok(*snapshot),
        Response::Error(why) => Err(Failure::Refused(why)),
        Response::Value { .. } | Response::Capturing(_) => Err(Failure::Version),
    }
}

fn knob(name: Option<&str>, request: Request, as_json: bool) -> Result<(), Failure> {
    match Client::connect(name)?.ask(&request)? {
        Response::Value { knob, value, note } => {
            // Rules are lines of their own.
            if !as_json && ingress::place(&knob).is_some() {
                print(&value);
                return Ok(());
            }
            match (as_json, &note) {
                (true, None) => print_json(&json!({ "knob": knob, "value": value })),
                (true, Some(note)) => {
                    print_json(&json!({ "knob": knob, "value": value, "note": note }));
                }
                (false, _) => print(&format!("{knob} = {value}\n")),
            }
            if let Some(note) = note.filter(|_| !as_json) {
                eprintln!("linerate: {note}");
            }
            Ok(())
        }
        Response::Error(why) => Err(Failure::Refused(why)),
        Response::Snapshot(_) | Response::Capturing(_) => Err(Failure::Version),
    }
}

/// In the kernel's own format where the kernel has one.
pub fn as_text(what: What, s: &Snapshot) -> String {
    match what {
        What::Path => report::path(s, report::Style::of(&io::stdout())),
        What::Softnet => procfs::softnet_stat(s),
        What::Softirqs => procfs::softirqs(s),
        What::Snmp => procfs::snmp(s),
        What::Snmp6 => procfs::snmp6(s),
        What::Netstat => procfs::netstat(s),
        What::Dev => procfs::dev(s),
        What::Sockstat => procfs::sockstat(s),
        What::Sockstat6 => procfs::sockstat6(s),
        What::Udp => procfs::udp(s),
        What::Udp6 => procfs::udp6(s),
        What::Tcp => procfs::tcp(s),
        What::Tcp6 => procfs::tcp6(s),
        What::Sockets => sockets(s),
        What::Rings => ethtool::rings(s),
        What::Channels => ethtool::channels(s),
        What::Coalesce => ethtool::coalesce(s),
        What::Rss => ethtool::rss(s),
        What::Ntuple => ethtool::rules(s),
        What::Rps => ethtool::rps(s),
        What::Rfs => ethtool::rfs(s),
        What::Xps => ethtool::xps(s),
        What::Irqs => ethtool::irqs(s),
        What::Statistics => ethtool::statistics(s),
        What::Flows => ethtool::flows(s),
        What::Drops => drops(s),
        What::Knobs => knobs(s),
        What::Xdp => crate::xdp::text(s),
        What::Bql => bql(s),
        What::Qdisc => s.qdiscs.iter().map(|q| q.text.as_str()).collect(),
        What::Instances | What::Latency => String::new(),
        What::Filter => s.filters.iter().map(|f| f.text.as_str()).collect(),
    }
}

/// Names with values.
pub fn as_json(what: What, s: &Snapshot) -> Value {
    let groups = |names: &[&str]| -> Value {
        let of = |g: &&str| Some(((*g).to_owned(), json!(s.counters.get(*g)?)));
        Value::Object(names.iter().filter_map(of).collect())
    };
    match what {
        What::Path => json!(s),
        What::Softnet => of_shards(s, "softnet"),
        What::Softirqs => of_shards(s, "softirqs"),
        What::Snmp => groups(&["Ip", "Icmp", "Tcp", "Udp"]),
        What::Snmp6 => groups(&["Ip6", "Icmp6", "Udp6"]),
        What::Netstat => groups(&["TcpExt", "IpExt"]),
        What::Dev => json!({ "devices": s.devices }),
        What::Sockstat | What::Sockstat6 => json!({ "sockets": s.totals, "memory": s.memory }),
        What::Udp => json!({ "udp": udp_of(s, false) }),
        What::Udp6 => json!({ "udp": udp_of(s, true) }),
        What::Tcp => json!({ "tcp": tcp_of(s, false) }),
        What::Tcp6 => json!({ "tcp": tcp_of(s, true) }),
        What::Sockets => json!({ "totals": s.totals, "udp": s.udp, "tcp": s.tcp }),
        What::Rings | What::Channels | What::Coalesce => {
            let prefix = match what {
                What::Rings => "ring.",
                What::Channels => "channels.",
                _ => "coalesce.",
            };
            json!({ "queues": s.dev_queues, "knobs": knobs_of(s, &[prefix]) })
        }
        What::Rss => {
            json!({ "rss": s.rss, "knobs": knobs_of(s, &["rss.", "rx-flow-hash."]) })
        }
        What::Statistics => json!({ "queues": s.dev_queues }),
        What::Ntuple => json!({ "rules": s.rules }),
        What::Rps => json!({ "knobs": knobs_of(s, &["queues.rx.rps_cpus", "net.core.rps_"]) }),
        What::Rfs => {
            let knobs = ["net.core.rps_sock_flow_entries", "queues.rx.rps_flow_cnt"];
            json!({ "knobs": knobs_of(s, &knobs) })
        }
        What::Xps => json!({ "knobs": knobs_of(s, &["queues.tx.xps_"]) }),
        What::Irqs => of_shards(s, "linerate"),
        What::Flows => {
            let flows: Vec<&TcpRow> = s.tcp.iter().filter(|t| t.state != "LISTEN").collect();
            json!({ "flows": flows })
        }
        What::Drops => json!({ "drops": s.drops }),
        What::Knobs => json!({ "knobs": s.knobs }),
        What::Bql => json!({ "bql": s.bql }),
        What::Qdisc => json!({ "qdiscs": s.qdiscs }),
        What::Xdp => json!({ "xdp": s.xdp }),
        What::Instances | What::Latency => Value::Null,
        What::Filter => json!({ "filters": s.filters }),
    }
}

/// The knobs whose paths begin so.
fn knobs_of(s: &Snapshot, prefixes: &[&str]) -> Value {
    let wanted = |k: &&KnobRow| prefixes.iter().any(|p| k.path.starts_with(p));
    let of = |k: &KnobRow| (k.path.clone(), json!(k.value));
    Value::Object(s.knobs.iter().filter(wanted).map(of).collect())
}

/// One group of counters of each shard.
fn of_shards(s: &Snapshot, group: &str) -> Value {
    let each: Vec<Value> = s.shards.iter().map(|shard| json!(shard.counters.get(group))).collect();
    json!({ "shards": each })
}

fn udp_of(s: &Snapshot, six: bool) -> Vec<&UdpRow> {
    s.udp.iter().filter(|u| (u.local.is_ipv6() || u.any_family) == six).collect()
}

fn tcp_of(s: &Snapshot, six: bool) -> Vec<&TcpRow> {
    s.tcp.iter().filter(|t| t.local.is_ipv6() == six).collect()
}

/// Sockets as `ss -tuin` shows them, one line each.
fn sockets(s: &Snapshot) -> String {
    let mut out = format!(
        "{:<5} {:<12} {:>8} {:>8}  {:<28} {:<28}\n",
        "proto", "state", "recv-q", "send-q", "local", "peer"
    );
    for u in &s.udp {
        let state = if u.remote.is_some() { "ESTABLISHED" } else { "UNCONN" };
        let peer = u.remote.map_or("*".to_owned(), |r| r.to_string());
        let local =
            if u.any_family { format!("*:{}", u.local.port()) } else { u.local.to_string() };
        let _ = write!(out, "udp   {state:<12} {:>8} {:>8}  {local:<28} {peer:<28}", u.rx_queue, 0);
        if u.drops > 0 {
            let _ = write!(out, " drops:{}", u.drops);
        }
        trim_line(&mut out);
    }
    for t in &s.tcp {
        let peer = t.remote.map_or("*".to_owned(), |r| r.to_string());
        let _ = write!(
            out,
            "tcp   {:<12} {:>8} {:>8}  {:<28} {peer:<28}",
            t.state,
            t.rx_queue,
            t.tx_queue,
            t.local.to_string()
        );
        if let Some(i) = &t.info {
            let ms = |us: u64| us as f64 / 1000.0;
            let _ = write!(
                out,
                " {} rtt:{:.3}/{:.3} rto:{:.0} mss:{} cwnd:{} retrans:{} acked:{} received:{}",
                i.cc,
                ms(i.rtt_us),
                ms(i.rttvar_us),
                ms(i.rto_us),
                i.mss,
                i.cwnd,
                i.retrans,
                i.bytes_acked,
                i.bytes_received
            );
            if let Some(ssthresh) = i.ssthresh {
                let _ = write!(out, " ssthresh:{ssthresh}");
            }
        }
        trim_line(&mut out);
    }
    let all = s.totals.tcp + s.totals.tcp_tw + s.totals.udp;
    let listed = (s.tcp.len() + s.udp.len()) as u64;
    if listed < all {
        let _ = writeln!(out, "and {} more", grouped(all - listed));
    }
    out
}

/// Ends a line without the spaces that its last column was filled up with.
fn trim_line(out: &mut String) {
    out.truncate(out.trim_end_matches(' ').len());
    out.push('\n');
}

/// The files of `byte_queue_limits/` of each transmit queue and its `tx_timeout`, a line each.
fn bql(s: &Snapshot) -> String {
    let mut out = format!(
        "{:<15} {:>5} {:>5} {:>12} {:>12} {:>12} {:>10} {:>10} {:>10}\n",
        "device",
        "shard",
        "queue",
        "limit",
        "limit_min",
        "limit_max",
        "hold_time",
        "inflight",
        "tx_timeout"
    );
    for b in &s.bql {
        let _ = writeln!(
            out,
            "{:<15} {:>5} {:>5} {:>12} {:>12} {:>12} {:>10} {:>10} {:>10}",
            b.dev,
            b.shard,
            b.queue,
            b.limit,
            b.limit_min,
            b.limit_max,
            b.hold_time,
            b.inflight,
            b.tx_timeout
        );
    }
    out
}

fn drops(s: &Snapshot) -> String {
    if s.drops.is_empty() {
        return "nothing was dropped\n".to_owned();
    }
    let mut out = format!("{:>12}  {:<10} {:<26} {}\n", "packets", "stage", "reason", "meaning");
    for d in &s.drops {
        let _ =
            writeln!(out, "{:>12}  {:<10} {:<26} {}", grouped(d.packets), d.stage, d.label, d.help);
        if let Some(path) = &d.knob {
            let value = s.knobs.iter().find(|k| k.path == *path).map_or("?", |k| k.value.as_str());
            let _ =
                writeln!(out, "{:>12}  {:<10} knob: {path} = {}", "", "", value.replace('\t', " "));
        }
    }
    out
}

fn knobs(s: &Snapshot) -> String {
    let mut out = String::new();
    for k in &s.knobs {
        let (value, default) = (k.value.replace('\t', " "), k.default.replace('\t', " "));
        let _ = write!(out, "{} = {value}", k.path);
        if k.source != "default" {
            let _ = write!(out, "    # default {default}");
        }
        out.push('\n');
    }
    out
}
