//! `linerate explain NAME`: what the tables say of a counter, knob, stage or drop reason, and
//! the gateway of its counters; and what `doctor` knows of the kernel's path.
//!
//! Nothing is written here twice: the help is the doc comment of the row, relations are those that
//! the rows declare, read in both directions.

use std::process::ExitCode;

use linerate_core::table::knob::{Scope, Takes};
use linerate_core::table::{Counter, Dir, Knobs, Reason, Stage, count, knob, reason, stage};
use linerate_gateway::Count;
use serde_json::{Value, json};

use crate::args::ExplainArgs;
use crate::doctor::explain as host;

/// Explains, or suggests the nearest names (exit status 2).
pub fn main(args: ExplainArgs) -> ExitCode {
    let hits = find(&args.name);
    if hits.is_empty() {
        eprintln!("linerate explain: {}", unknown(&args.name));
        return ExitCode::from(2);
    }
    if args.json {
        let all: Vec<Value> = hits.iter().map(Hit::json).collect();
        crate::print_json(&json!({ "name": args.name, "hits": all }));
    } else {
        let all: Vec<String> = hits.iter().map(Hit::text).collect();
        crate::print(&all.join("\n"));
    }
    ExitCode::SUCCESS
}

/// A row that bears the name.
enum Hit {
    Stage(&'static stage::Row),
    Counter(&'static count::Row),
    Reason(&'static reason::Row),
    Knob(&'static knob::Row),
    /// A counter of the gateway.
    Gateway(Count),
    /// Of the kernel's path: what a stack of ours has not, a rule, a limit.
    Host(host::Hit),
}

/// Every row that bears `name`: ours, Linux's, Linux's with its group or prefix, a knob's last part.
fn find(name: &str) -> Vec<Hit> {
    let is = |candidate: &str| candidate != "none" && candidate.eq_ignore_ascii_case(name);
    let dotted = name.replace('/', ".");
    let dotted = dotted.strip_prefix(".proc.sys.").unwrap_or(&dotted);
    let bare = strip_prefix(name);
    let mut hits: Vec<Hit> = Vec::new();
    hits.extend(Stage::ROWS.iter().filter(|r| is(r.name)).map(Hit::Stage));
    let counter = |r: &&count::Row| is(r.name) || is(r.linux) || is(after_colon(r.linux));
    hits.extend(Counter::ROWS.iter().filter(counter).map(Hit::Counter));
    let by_reason =
        |r: &&reason::Row| is(r.name) || (r.linux != "none" && r.linux.eq_ignore_ascii_case(bare));
    hits.extend(Reason::ROWS.iter().filter(by_reason).map(Hit::Reason));
    let by_knob = |r: &&knob::Row| {
        r.path.eq_ignore_ascii_case(dotted) || last_part(r.path).eq_ignore_ascii_case(dotted)
    };
    hits.extend(Knobs::ROWS.iter().filter(by_knob).map(Hit::Knob));
    let gateway = |c: &Count| is(c.name()) || is(&format!("gateway:{}", c.name()));
    hits.extend(Count::ALL.iter().copied().filter(gateway).map(Hit::Gateway));
    hits.extend(host::find(name).into_iter().map(Hit::Host));
    hits
}

const REASON_PREFIX: &str = "SKB_DROP_REASON_";

fn strip_prefix(name: &str) -> &str {
    match name.get(..REASON_PREFIX.len()) {
        Some(p) if p.eq_ignore_ascii_case(REASON_PREFIX) => &name[REASON_PREFIX.len()..],
        _ => name,
    }
}

fn after_colon(linux: &str) -> &str {
    linux.split_once(':').map_or(linux, |(_, bare)| bare)
}

fn last_part(path: &str) -> &str {
    path.rsplit('.').next().unwrap_or(path)
}

impl Hit {
    fn text(&self) -> String {
        let (title, help, rows) = match self {
            Hit::Stage(r) => (format!("{} · stage", r.name), r.help, stage_rows(r)),
            Hit::Counter(r) => (format!("{} · counter", r.name), r.help, counter_rows(r)),
            Hit::Reason(r) => (format!("{} · drop reason", r.name), r.help, reason_rows(r)),
            Hit::Knob(r) => (format!("{} · knob", r.path), r.help, knob_rows(r)),
            Hit::Gateway(c) => {
                let place = "the gateway, beyond the stack's stages: `linerate run` only";
                let rows = vec![("place", vec![place.to_owned()])];
                (format!("{} · counter of the gateway", c.name()), c.help(), rows)
            }
            Hit::Host(hit) => (hit.title(), hit.help(), hit.rows()),
        };
        let mut out = format!("{title}\n  {}\n", help.trim());
        for (label, value) in rows {
            for (i, line) in value.iter().enumerate() {
                let label = if i == 0 { label } else { "" };
                out.push_str(&format!("  {label:<11} {line}\n"));
            }
        }
        out
    }

    fn json(&self) -> Value {
        match self {
            Hit::Stage(r) => {
                let (before, after) = neighbours(r.stage);
                json!({
                    "kind": "stage", "name": r.name, "help": r.help.trim(), "dir": dir(r.dir),
                    "linux": r.linux, "before": before.map(Stage::name),
                    "after": after.map(Stage::name),
                    "counters": counters_of(r.stage).map(|c| c.name).collect::<Vec<_>>(),
                    "reasons": reasons_of(r.stage).map(|c| c.name).collect::<Vec<_>>(),
                    "knobs": knobs_of(r.stage).map(|c| c.path).collect::<Vec<_>>(),
                })
            }
            Hit::Counter(r) => json!({
                "kind": "counter", "name": r.name, "help": r.help.trim(), "stage": r.stage.name(),
                "unit": r.unit, "linux": known(r.linux), "file": linux_file(r.linux),
                "moved_by": movers(r.counter).map(|x| x.name).collect::<Vec<_>>(),
                "moves_with": moves_with(r.counter),
                "knobs": knobs_behind(r.counter),
            }),
            Hit::Reason(r) => json!({
                "kind": "reason", "name": r.name, "help": r.help.trim(), "stage": r.stage.name(),
                "linux": known(r.linux).map(|l| format!("{REASON_PREFIX}{l}")),
                "moves": r.also.iter().map(|c| c.row().name).collect::<Vec<_>>(),
                "knob": known(r.knob),
            }),
            Hit::Knob(r) => json!({
                "kind": "knob", "name": r.path, "help": r.help.trim(), "stage": r.stage.name(),
                "unit": r.unit, "default": default_of(r), "min": r.low, "max": r.high,
                "scope": scope(r.scope), "takes": takes(r.takes),
                "why": (!r.why.is_empty()).then_some(r.why),
                "governs": governed(r.path).map(|x| x.name).collect::<Vec<_>>(),
            }),
            Hit::Gateway(c) => {
                json!({ "kind": "gateway counter", "name": c.name(), "help": c.help() })
            }
            Hit::Host(hit) => hit.json(),
        }
    }
}

type Rows = Vec<(&'static str, Vec<String>)>;

fn stage_rows(r: &stage::Row) -> Rows {
    let mut rows =
        vec![("direction", vec![dir(r.dir).to_owned()]), ("Linux", vec![r.linux.to_owned()])];
    rows.push(("path", vec![place(r.stage)]));
    rows.push(("knobs", wrap(knobs_of(r.stage).map(|k| k.path.to_owned()))));
    rows.push(("drops", wrap(reasons_of(r.stage).map(|x| x.reason.label().to_owned()))));
    rows.push(("counters", wrap(counters_of(r.stage).map(|c| c.name.to_owned()))));
    rows
}

fn counter_rows(r: &count::Row) -> Rows {
    let mut rows = vec![("stage", vec![place(r.stage)]), ("unit", vec![r.unit.to_owned()])];
    let linux = match (known(r.linux), linux_file(r.linux)) {
        (Some(name), Some(file)) => format!("{name}, in {file}"),
        (Some(name), None) => name.to_owned(),
        (None, _) => "has no such counter".to_owned(),
    };
    rows.push(("Linux", vec![linux]));
    let by = |x: &reason::Row| match x.reason.label() {
        label if label == x.name => format!("{label}: {}", x.help.trim()),
        label => format!("{label} ({}): {}", x.name, x.help.trim()),
    };
    rows.push(("moved by", movers(r.counter).map(by).collect()));
    rows.push(("moves with", wrap(moves_with(r.counter).into_iter().map(str::to_owned))));
    rows.push(("knob", knobs_behind(r.counter).into_iter().filter_map(knob_line).collect()));
    rows.push(("rules", wrap(known(r.linux).into_iter().flat_map(host::rules_about))));
    rows
}

fn reason_rows(r: &reason::Row) -> Rows {
    let linux =
        known(r.linux).map_or("has no such reason".to_owned(), |l| format!("{REASON_PREFIX}{l}"));
    let moves = r.also.iter().map(|c| format!("{}: {}", c.row().name, c.row().help.trim()));
    vec![
        ("stage", vec![place(r.stage)]),
        ("Linux", vec![linux]),
        ("moves", moves.collect()),
        ("knob", known(r.knob).and_then(knob_line).into_iter().collect()),
    ]
}

fn knob_rows(r: &knob::Row) -> Rows {
    let range = match r.unit {
        "switch" => "0 (off) or 1 (on)".to_owned(),
        "cubic or reno" => r.unit.to_owned(),
        unit => format!("{} to {} {unit}", r.low, r.high),
    };
    let governs =
        |x: &reason::Row| format!("{} at {}: {}", x.reason.label(), x.stage.name(), x.help.trim());
    let mut rows = vec![
        ("stage", vec![place(r.stage)]),
        ("default", vec![default_of(r)]),
        ("range", vec![range]),
        ("scope", vec![scope(r.scope).to_owned()]),
        ("takes", vec![takes(r.takes).to_owned()]),
        ("governs", governed(r.path).map(governs).collect()),
        ("rules", wrap(host::rules_about(r.path).into_iter())),
    ];
    if !r.why.is_empty() {
        rows.push(("not Linux's", vec![r.why.to_owned()]));
    }
    rows
}

fn known(name: &'static str) -> Option<&'static str> {
    (name != "none").then_some(name)
}

/// The stage with its place: `SockQueue (receive, after Transport)`.
fn place(stage: Stage) -> String {
    let (before, after) = neighbours(stage);
    let mut text = format!("{} ({}", stage.name(), dir(stage.row().dir));
    match before {
        Some(b) => text.push_str(&format!(", after {}", b.name())),
        None => text.push_str(", the first stage"),
    }
    match after {
        Some(a) => text.push_str(&format!(", before {})", a.name())),
        None => text.push_str(", the last stage)"),
    }
    text
}

/// The stages before and after it, in its direction.
fn neighbours(stage: Stage) -> (Option<Stage>, Option<Stage>) {
    let at = stage as usize;
    let same = |s: Option<&Stage>| s.copied().filter(|s| s.row().dir == stage.row().dir);
    let before = at.checked_sub(1).and_then(|i| same(Stage::ALL.get(i)));
    (before, same(Stage::ALL.get(at + 1)))
}

fn counters_of(stage: Stage) -> impl Iterator<Item = &'static count::Row> {
    Counter::ROWS.iter().filter(move |r| r.stage == stage)
}

fn reasons_of(stage: Stage) -> impl Iterator<Item = &'static reason::Row> {
    Reason::ROWS.iter().filter(move |r| r.stage == stage)
}

fn knobs_of(stage: Stage) -> impl Iterator<Item = &'static knob::Row> {
    Knobs::ROWS.iter().filter(move |r| r.stage == stage)
}

/// The reasons that move this counter.
fn movers(counter: Counter) -> impl Iterator<Item = &'static reason::Row> {
    Reason::ROWS.iter().filter(move |r| r.also.contains(&counter))
}

/// The other counters that the reasons behind this one move at the same time.
fn moves_with(counter: Counter) -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for other in movers(counter).flat_map(|r| r.also).filter(|c| **c != counter) {
        if !names.contains(&other.row().name) {
            names.push(other.row().name);
        }
    }
    names
}

/// The knobs that govern the reasons behind this counter.
fn knobs_behind(counter: Counter) -> Vec<&'static str> {
    let mut paths: Vec<&str> = movers(counter).filter_map(|r| known(r.knob)).collect();
    paths.dedup();
    paths
}

fn governed(path: &'static str) -> impl Iterator<Item = &'static reason::Row> {
    Reason::ROWS.iter().filter(move |r| r.knob == path)
}

fn knob_line(path: &'static str) -> Option<String> {
    let row = Knobs::row(path).ok()?;
    let takes = takes(row.takes);
    let unit = if row.unit == "switch" { "" } else { row.unit };
    let mut text = format!("{path}: default {} {unit}", default_of(row));
    text.truncate(text.trim_end().len());
    text.push_str(&format!(" ({} to {}), takes effect {takes}", row.low, row.high));
    Some(text)
}

fn default_of(row: &knob::Row) -> String {
    Knobs::default().get(row.path).unwrap_or_default().replace('\t', " ")
}

fn dir(dir: Dir) -> &'static str {
    match dir {
        Dir::Rx => "receive",
        Dir::Tx => "transmit",
    }
}

fn scope(scope: Scope) -> &'static str {
    match scope {
        Scope::Host => "the poll loop",
        Scope::Net => "the whole stack",
        Scope::Device => "every device",
    }
}

fn takes(takes: Takes) -> &'static str {
    match takes {
        Takes::Now => "at once",
        Takes::NextSocket => "for sockets opened from now on",
        Takes::NextDevice => "for devices opened from now on",
        Takes::Restart => "when the instance is started anew",
    }
}

/// The file in which Linux shows a counter of this group.
fn linux_file(linux: &str) -> Option<&'static str> {
    let (group, _) = linux.split_once(':')?;
    Some(match group {
        "Ip" | "Icmp" | "IcmpMsg" | "Tcp" | "Udp" | "UdpLite" => "/proc/net/snmp",
        "IpExt" | "TcpExt" | "MPTcpExt" => "/proc/net/netstat",
        "Ip6" | "Icmp6" | "Udp6" | "UdpLite6" => "/proc/net/snmp6",
        "dev" => "ip -s -s link, /sys/class/net/*/statistics",
        "softnet" => "/proc/net/softnet_stat",
        "softirqs" => "/proc/softirqs",
        "arp_cache" => "/proc/net/stat/arp_cache, ndisc_cache",
        "qdisc" => "tc -s qdisc",
        _ => return None,
    })
}

/// Words joined by commas in lines of at most 84 columns.
fn wrap(words: impl Iterator<Item = String>) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in words {
        match lines.last_mut() {
            Some(line) if line.len() + word.len() < 82 => {
                line.push_str(", ");
                line.push_str(&word);
            }
            Some(line) => {
                line.push(',');
                lines.push(word);
            }
            None => lines.push(word),
        }
    }
    lines
}

fn unknown(name: &str) -> String {
    let near = nearest(name);
    let shown: String = name.chars().take(64).collect();
    if near.is_empty() {
        return format!(
            "nothing is called {shown:?}, and no name is like it; explain knows the names of stages \
             (as in `linerate show path`), counters, drop reasons, knobs (`linerate show knobs`), \
             the gateway's counters, counters and settings of the kernel's path, and the rules of \
             `linerate doctor`"
        );
    }
    let near: Vec<String> = near.iter().map(|n| format!("{n:?}")).collect();
    format!("nothing is called {shown:?}; did you mean {}?", near.join(", "))
}

/// The names most like `name`, at most four.
fn nearest(name: &str) -> Vec<&'static str> {
    let wanted = strip_prefix(name).to_ascii_lowercase();
    let wanted: String = wanted.replace('/', ".").chars().take(64).collect();
    if wanted.len() < 2 {
        return Vec::new();
    }
    let stages = Stage::ROWS.iter().map(|r| r.name);
    let counters = Counter::ROWS.iter().flat_map(|r| [r.name, after_colon(r.linux)]);
    let reasons = Reason::ROWS.iter().flat_map(|r| [r.name, r.linux]);
    let knobs = Knobs::ROWS.iter().flat_map(|r| [r.path, last_part(r.path)]);
    let mut scored: Vec<(usize, &str)> = Vec::new();
    let gateway = Count::ALL.iter().map(|c| c.name());
    let ours = stages.chain(counters).chain(reasons).chain(knobs).chain(gateway);
    for candidate in ours.chain(host::names()) {
        let lower = candidate.to_ascii_lowercase();
        let distance = match lower.contains(&wanted) && wanted.len() >= 4 {
            true => 1,
            false => distance(&wanted, &lower),
        };
        let near = distance <= (wanted.len() / 3).max(1);
        if near && candidate != "none" && !scored.iter().any(|(_, c)| *c == candidate) {
            scored.push((distance, candidate));
        }
    }
    scored.sort_by_key(|(distance, candidate)| (*distance, candidate.len()));
    scored.into_iter().take(4).map(|(_, candidate)| candidate).collect()
}

/// How many letters must be put in, left out or changed to make `a` into `b` (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let change = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = change.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_row_of_every_table_is_explained_by_its_own_name() {
        let names = (Stage::ROWS.iter().map(|r| r.name))
            .chain(Counter::ROWS.iter().map(|r| r.name))
            .chain(Reason::ROWS.iter().map(|r| r.name))
            .chain(Knobs::ROWS.iter().map(|r| r.path))
            .chain(Count::ALL.iter().map(|c| c.name()));
        for name in names {
            let hits = find(name);
            assert!(!hits.is_empty(), "{name} is not found");
            for hit in hits {
                let (text, json) = (hit.text(), hit.json());
                assert!(text.lines().count() >= 3, "{name}: {text}");
                assert!(json["help"].as_str().is_some_and(|h| h.len() > 5), "{name}: {json}");
            }
        }
    }

    #[test]
    fn a_name_that_several_rows_bear_finds_them_all() {
        let kinds: Vec<Value> = find("SKB_DROP_REASON_UDP_CSUM").iter().map(|h| h.json()).collect();
        let names: Vec<&str> = kinds.iter().filter_map(|k| k["name"].as_str()).collect();
        assert_eq!(names, ["UdpCsum", "Udp6Csum"]);
        assert!(find("InErrors").len() >= 3, "Icmp, Icmp6, Udp, Udp6 all have an InErrors");
        assert_eq!(find("Udp:InErrors").len(), 1);
    }

    #[test]
    fn suggestions_are_near() {
        assert!(nearest("UdpRcvbufErorrs").contains(&"UdpRcvbufErrors"));
        assert!(nearest("netdev_budgt").contains(&"netdev_budget"));
        assert!(nearest("SOCKET_RCVBUF").contains(&"SOCKET_RCVBUFF"));
        assert!(nearest("zzzzzzzzzzzz").is_empty() && nearest("").is_empty());
    }

    #[test]
    fn distance_is_that_of_levenshtein() {
        for (a, b, d) in [("", "", 0), ("abc", "abc", 0), ("kitten", "sitting", 3), ("", "ab", 2)] {
            assert_eq!((distance(a, b), distance(b, a)), (d, d), "{a} {b}");
        }
    }
}
