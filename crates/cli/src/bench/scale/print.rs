//! What `linerate bench tcp-scale` prints.

use serde_json::{Value, json};

use super::case::Row;
use crate::bench::stats::Spread;

/// A whole run.
pub struct Run {
    /// Every row, in order.
    pub rows: Vec<Row>,
    /// The clock before and after, in GHz.
    pub ghz: (f64, f64),
    /// Load average before and after.
    pub load: (String, String),
    /// Where it ran.
    pub pinned: Option<usize>,
    /// Rounds of each case.
    pub rounds: u32,
    /// How much of the usual work, in percent.
    pub work: u32,
}

/// The load average of the last minute.
pub fn load() -> String {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().to_owned()
}

impl Run {
    /// For people, or for programs.
    pub fn print(&self, as_json: bool) {
        if as_json {
            println!("{}", self.json());
        } else {
            self.table();
        }
    }

    /// Rows whose median is not what it is meant to be, each with a sentence.
    pub fn missed(&self) -> Vec<String> {
        let missed = |row: &Row| {
            let (target, median) = (row.target?, Spread::of(&row.samples)?.median);
            let (name, unit) = (&row.name, row.unit);
            (!target.met(median)).then(|| format!("{name}: {median:.1} {unit}, meant {target}"))
        };
        self.rows.iter().filter_map(missed).collect()
    }

    fn table(&self) {
        let place = self.pinned.map_or("not pinned".into(), |c| format!("pinned to processor {c}"));
        let ((from, to), (before, after)) = (self.ghz, &self.load);
        println!(
            "{place}, {from:.2} GHz before and {to:.2} after, load {before} before and {after} after,"
        );
        println!(
            "{} rounds of {} % of the usual work, all cases in turn; processor time of one thread\n",
            self.rounds, self.work
        );
        println!(
            "{:<58} {:<9} {:>9} {:>19} {:<9} {:>9}",
            "", "", "median", "min..max", "", "target"
        );
        for row in &self.rows {
            self.line(row);
        }
    }

    fn line(&self, row: &Row) {
        let (name, who, unit) = (&row.name, row.who, row.unit);
        let target = row.target.map_or(String::new(), |t| t.to_string());
        match Spread::of(&row.samples) {
            Some(s) => {
                let digits = digits(s.median);
                let spread = format!("{:.digits$}..{:.digits$}", s.min, s.max);
                let median = format!("{:.digits$}", s.median);
                println!("{name:<58} {who:<9} {median:>9} {spread:>19} {unit:<9} {target:>9}");
            }
            None => println!("{name:<58} {who:<9} {:>9}", "-"),
        }
        if let Some(note) = &row.note {
            println!("    ({note})");
        }
    }

    fn json(&self) -> Value {
        let row = |r: &Row| {
            let spread = Spread::of(&r.samples);
            json!({
                "name": r.name, "who": r.who, "unit": r.unit, "spread": spread, "samples": r.samples,
                "target": r.target.map(|t| t.to_string()), "note": r.note,
                "met": r.target.and_then(|t| Some(t.met(spread?.median))),
            })
        };
        json!({
            "pinned": self.pinned, "ghz": self.ghz.0, "ghz_after": self.ghz.1,
            "load": self.load.0, "load_after": self.load.1, "rounds": self.rounds, "work": self.work,
            "rows": self.rows.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// Digits behind the point that say something.
fn digits(value: f64) -> usize {
    match value.abs() {
        v if v >= 1000.0 => 0,
        v if v >= 20.0 => 1,
        _ => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_misses_its_target_is_named() {
        let row = |name: &str, samples: &[f64]| Row {
            samples: samples.to_vec(),
            ..Row::new(name, "Gb/s").at_least(60.0)
        };
        let rows =
            vec![row("fast", &[70.0, 59.0, 61.0]), row("slow", &[59.0, 58.0]), row("none", &[])];
        let load = (String::new(), String::new());
        let run = Run { rows, ghz: (1.0, 1.0), load, pinned: None, rounds: 3, work: 100 };
        assert_eq!(run.missed(), ["slow: 58.5 Gb/s, meant >= 60"]);
    }
}
