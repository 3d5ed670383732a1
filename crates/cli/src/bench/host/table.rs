//! Rows, the targets that they are held to, and what is printed.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io;

use serde::Serialize;
use serde_json::{Value, json};

use super::BenchHostArgs;
use super::recorded::Recorded;
use crate::bench::stats::Spread;

/// What `record` may take: percent of a core, and bytes a second of each device and processor.
const RECORD_PERCENT: f64 = 0.5;
const RECORD_BYTES: f64 = 200.0;

/// Reads several times; milliseconds of processor time that each reading took.
pub type Read = Box<dyn FnMut() -> io::Result<f64>>;

/// One way to read.
pub struct Row {
    name: String,
    ours: bool,
    /// It reads something else than the others of its group, and is not compared with them.
    aside: bool,
    target_ms: Option<f64>,
    samples: Vec<f64>,
    left_out: Option<String>,
    read: Option<Read>,
}

impl Row {
    fn new(name: impl Into<String>, ours: bool, read: Option<Read>) -> Row {
        let name = name.into();
        let samples = Vec::new();
        Row { name, ours, aside: false, target_ms: None, samples, left_out: None, read }
    }

    /// One of ours.
    pub fn ours(name: &str, read: Read) -> Row {
        Row::new(name, true, Some(read))
    }

    /// A peer.
    pub fn peer(name: impl Into<String>, read: Read) -> Row {
        Row::new(name, false, Some(read))
    }

    /// A peer that is not there.
    pub fn left_out(name: impl Into<String>, why: String) -> Row {
        Row { left_out: Some(why), ..Row::new(name, false, None) }
    }

    /// It is meant to take less than this.
    #[must_use]
    pub fn target(self, ms: f64) -> Row {
        Row { target_ms: Some(ms), ..self }
    }

    /// It reads something else.
    #[must_use]
    pub fn aside(self) -> Row {
        Row { aside: true, ..self }
    }

    /// Takes its turn.
    pub fn turn(&mut self) {
        match self.read.as_mut().map(|read| read()) {
            Some(Ok(ms)) => self.samples.push(ms),
            Some(Err(e)) => {
                self.left_out = Some(e.to_string());
                self.samples.clear();
                self.read = None;
            }
            None => {}
        }
    }

    fn median(&self) -> Option<f64> {
        Spread::of(&self.samples).map(|s| s.median)
    }
}

/// Ways to read the same; one of ours is the first.
pub struct Group {
    /// What is read.
    pub title: String,
    /// In order.
    pub rows: Vec<Row>,
}

impl Group {
    fn ours(&self) -> Option<f64> {
        self.rows.iter().find(|r| r.ours && !r.aside).and_then(Row::median)
    }
}

/// Something that is to hold.
#[derive(Serialize)]
struct Check {
    what: String,
    value: f64,
    /// It is to be below this.
    limit: f64,
    unit: &'static str,
    met: bool,
}

impl Check {
    fn new(what: String, value: f64, limit: f64, unit: &'static str) -> Check {
        Check { what, value, limit, unit, met: value < limit }
    }
}

/// All that was measured.
pub struct Report {
    /// What was read, by whom.
    pub groups: Vec<Group>,
    /// `linerate record`.
    pub recorded: Option<Recorded>,
    /// Of the peers.
    pub versions: BTreeMap<&'static str, String>,
    /// `/proc/loadavg` before and after.
    pub load: [String; 2],
    /// The clock of the processor before and after.
    pub ghz: [f64; 2],
    /// How.
    pub args: BenchHostArgs,
}

impl Report {
    /// Whether every target is met, ours was cheaper than each peer that was there, and none of ours
    /// failed.
    pub fn holds(&self) -> bool {
        let failed = self.rows().any(|r| r.ours && r.left_out.is_some());
        !failed && self.checks().iter().all(|check| check.met)
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.groups.iter().flat_map(|group| &group.rows)
    }

    fn checks(&self) -> Vec<Check> {
        let mut checks = Vec::new();
        for group in &self.groups {
            for row in &group.rows {
                let about = group.title.split(" (").next().unwrap_or_default();
                if let (Some(ms), Some(limit)) = (row.median(), row.target_ms) {
                    checks.push(Check::new(format!("{about}: {}", row.name), ms, limit, "ms"));
                }
                if let (false, Some(ours), Some(theirs)) = (row.ours, group.ours(), row.median()) {
                    let what = format!("{about}: less than {}", row.name);
                    checks.push(Check::new(what, ours, theirs, "ms"));
                }
            }
        }
        if let Some(recorded) = &self.recorded {
            let what = "record --every 1s: processor time".to_owned();
            checks.push(Check::new(what, recorded.cpu_percent, RECORD_PERCENT, "% of a core"));
            let what = "record --every 1s: each device and processor".to_owned();
            checks.push(Check::new(what, recorded.bytes_each(), RECORD_BYTES, "bytes/s"));
        }
        checks
    }

    /// For people.
    pub fn text(&self) -> String {
        let mut out = self.method();
        let _ = writeln!(
            out,
            "\n{:<44} {:>9} {:>17} {:>7} {:>7}",
            "ms of processor time a reading", "median", "min..max", "x ours", "target"
        );
        for group in &self.groups {
            let _ = writeln!(out, "{}", group.title);
            group.rows.iter().for_each(|row| line(&mut out, row, group.ours()));
        }
        if let Some(r) = &self.recorded {
            let _ = writeln!(
                out,
                "\nrecord --every 1s on this host for {:.0} s: {:.2} % of a core, {:.0} bytes/s: {:.0} \
                 each of {} devices and {} processors",
                r.secs,
                r.cpu_percent,
                r.bytes_per_s,
                r.bytes_each(),
                r.devices,
                r.cpus
            );
        }
        out.push('\n');
        for check in self.checks() {
            let (met, unit) = (if check.met { "met   " } else { "MISSED" }, check.unit);
            let _ = writeln!(
                out,
                "{met} {}: {:.3} < {:.3} {unit}",
                check.what, check.value, check.limit
            );
        }
        out
    }

    /// How it was measured: what somebody needs to judge the numbers, or to get them again.
    fn method(&self) -> String {
        let mut out = String::new();
        let load = self.load.each_ref().map(|l| l.split_whitespace().next().unwrap_or_default());
        let [before, after] = self.ghz;
        let args = &self.args;
        let _ = writeln!(
            out,
            "all on processor {}, in turn, {} rounds of up to {} readings each\n\
             {before:.2} GHz before and {after:.2} after; load average before {} and after {}\n\
             linerate: time of its thread; sources open, one reading before\n\
             processes: user and system time of the process, less that of the same program that says \
             its version\n\
             node_exporter: time of all its threads from scrape to scrape, uncompressed, over loopback\n\
             read: a network namespace with loopback and a veth pair, where nothing moves\n\
             sockets: linerate reads all, and tcp_info of those in which something waits (one \
             connection in twenty); ss -tin reads that of all",
            args.pin, args.rounds, args.readings, load[0], load[1]
        );
        for (peer, version) in &self.versions {
            let _ = writeln!(out, "{peer}: {version}");
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let row = |r: &Row| {
            json!({
                "name": r.name, "ours": r.ours, "compared": !r.aside, "target_ms": r.target_ms,
                "ms": Spread::of(&r.samples), "samples": r.samples, "left_out": r.left_out,
            })
        };
        let group = |g: &Group| {
            let rows: Vec<Value> = g.rows.iter().map(row).collect();
            json!({ "what": g.title, "rows": rows })
        };
        let args = &self.args;
        json!({
            "pinned": args.pin, "rounds": args.rounds, "readings": args.readings,
            "sockets": args.sockets, "ghz": self.ghz, "load": self.load.each_ref().map(|l| l.trim()),
            "versions": self.versions,
            "groups": self.groups.iter().map(group).collect::<Vec<_>>(),
            "record": self.recorded.map(|r| json!({
                "secs": r.secs, "cpu_percent": r.cpu_percent, "bytes_per_s": r.bytes_per_s,
                "bytes_per_s_each": r.bytes_each(), "devices": r.devices, "cpus": r.cpus,
            })),
            "checks": self.checks(),
            "holds": self.holds(),
        })
    }
}

fn line(out: &mut String, row: &Row, ours: Option<f64>) {
    let name = &row.name;
    let Some(s) = Spread::of(&row.samples) else {
        let why = row.left_out.as_deref().unwrap_or("not measured");
        let _ = writeln!(out, "  {name:<42} {:>9} left out: {why}", "-");
        return;
    };
    let spread = format!("{:.3}..{:.3}", s.min, s.max);
    let times = ours.filter(|_| !row.ours).map(|ours| format!("{:.1}", s.median / ours));
    let target = row.target_ms.map(|ms| format!("< {ms:.0}"));
    let _ = writeln!(
        out,
        "  {name:<42} {:>9.3} {spread:>17} {:>7} {:>7}",
        s.median,
        times.unwrap_or_default(),
        target.unwrap_or_default()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: BenchHostArgs,
    }

    fn report(rows: Vec<Row>, percent: f64) -> Report {
        let mut groups = vec![Group { title: "all of it (in full)".into(), rows }];
        for row in &mut groups[0].rows {
            (0..3).for_each(|_| row.turn());
        }
        let recorded =
            Recorded { secs: 20.0, cpu_percent: percent, bytes_per_s: 900.0, devices: 4, cpus: 2 };
        Report {
            groups,
            recorded: Some(recorded),
            versions: BTreeMap::new(),
            load: [String::new(), String::new()],
            ghz: [3.0, 3.0],
            args: Line::parse_from(["host"]).args,
        }
    }

    fn ms(ms: f64) -> Read {
        Box::new(move || Ok(ms))
    }

    #[test]
    fn targets_and_peers_are_held_against_ours() {
        let rows = || {
            vec![
                Row::ours("linerate", ms(0.5)).target(1.0),
                Row::ours("linerate, this host", ms(0.9)).target(1.0).aside(),
                Row::peer("nstat -as", ms(0.6)),
                Row::left_out("ss -tn", "ss is not installed".into()),
            ]
        };
        let good = report(rows(), 0.4);
        assert!(good.holds(), "{}", good.text());
        assert_eq!(good.checks().len(), 5);
        let text = good.text();
        assert!(text.contains("left out: ss is not installed"), "{text}");
        assert!(text.contains("met    all of it: less than nstat -as: 0.500 < 0.600 ms"), "{text}");
        assert!(text.contains("150 each of 4 devices and 2 processors"), "{text}");
        assert!(!report(rows(), 0.6).holds(), "record takes too much");
        let mut slower = rows();
        slower.push(Row::peer("quick", ms(0.4)));
        assert!(!report(slower, 0.4).holds(), "a peer does it for less");
        let dear = vec![Row::ours("linerate", ms(1.0)).target(1.0)];
        assert!(!report(dear, 0.4).holds(), "a target is to be undercut");
    }

    #[test]
    fn what_fails_is_left_out_and_ours_may_not() {
        let failing = || -> Read { Box::new(|| Err(io::Error::other("gone"))) };
        let peer = vec![Row::ours("linerate", ms(0.5)), Row::peer("nstat", failing())];
        assert!(report(peer, 0.4).holds());
        assert!(!report(vec![Row::ours("linerate", failing())], 0.4).holds());
    }
}
