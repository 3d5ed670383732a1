//! What `linerate bench path` prints.

use serde_json::{Map, Value, json};

use super::case::Measured;
use super::send::CLASSIC;

/// A whole run.
pub struct Run {
    /// Every case, in order.
    pub measured: Vec<Measured>,
    /// The clock before and after.
    pub ghz: (f64, f64),
    /// Where it ran.
    pub pinned: Option<usize>,
    /// Rounds of each case.
    pub rounds: u32,
    /// Packets in a round.
    pub packets: u64,
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

    /// Cases that take longer than they are meant to, each with a sentence.
    pub fn missed(&self) -> Vec<String> {
        let over = |case: &Measured| {
            let (median, target) = (case.median()?, case.row.target_ns?);
            let name = &case.row.name;
            (median > target).then(|| format!("{name}: {median:.1} ns, of {target} at the most"))
        };
        self.measured.iter().filter_map(over).collect()
    }

    fn table(&self) {
        let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split(' ').next().unwrap_or_default();
        let place = self.pinned.map_or("not pinned".into(), |c| format!("pinned to processor {c}"));
        let (before, after) = self.ghz;
        println!("{place}, {before:.2} GHz before and {after:.2} after, load {load},");
        println!("{} rounds of at most {} packets, all cases in turn", self.rounds, self.packets);
        if (before - after).abs() > before / 100.0 {
            println!("the clock moved by more than 1 %: do not compare figures of this run");
        }
        println!(
            "\n{:<62} {:>9} {:>17} {:>7} {:>7}",
            "ns of processor time per packet", "median", "min..max", "cycles", "target"
        );
        for case in &self.measured {
            self.line(case);
        }
        if self.measured.iter().any(|c| c.row.name.starts_with("send UDP")) {
            classic();
        }
    }

    fn line(&self, case: &Measured) {
        let row = &case.row;
        let target = row.target_ns.map_or(String::new(), |t| format!("<= {t:.0}"));
        match case.median() {
            Some(median) => {
                let (low, high) = (case.ns.first().unwrap_or(&0.0), case.ns.last().unwrap_or(&0.0));
                let spread = format!("{low:.1}..{high:.1}");
                let cycles = median * self.ghz.0;
                let name = &row.name;
                println!("{name:<62} {median:>9.1} {spread:>17} {cycles:>7.0} {target:>7}");
            }
            None => println!("{:<62} {:>9}", row.name, "-"),
        }
        for (part, ns) in &case.parts.ns {
            println!("    {part:<58} {ns:>9.1}");
        }
        if let Some(note) = &case.parts.note {
            println!("    ({note})");
        }
    }

    fn json(&self) -> Value {
        let row = |c: &Measured| {
            let stages: Map<String, Value> =
                c.parts.ns.iter().map(|(part, ns)| (part.clone(), (*ns).into())).collect();
            json!({
                "name": c.row.name, "who": c.row.who, "target_ns": c.row.target_ns,
                "ns_median": c.median(), "ns": c.ns, "stages_ns": stages, "note": c.parts.note,
            })
        };
        let (before, after) = self.ghz;
        json!({
            "pinned": self.pinned, "ghz": before, "ghz_after": after, "rounds": self.rounds,
            "packets": self.packets, "cases": self.measured.iter().map(row).collect::<Vec<_>>(),
        })
    }
}

/// The steps of another stack's way out.
fn classic() {
    let sum: u32 = CLASSIC.iter().map(|(_, ns)| ns).sum();
    println!("\nFreeBSD 8's sendto() at 2.93 GHz, as published with netmap (USENIX ATC 2012), ns:");
    for (step, ns) in CLASSIC {
        println!("    {step:<58} {ns:>9}");
    }
    println!("    {:<58} {sum:>9}", "these together, of 950 to the wire");
}

#[cfg(test)]
mod tests {
    use super::super::case::{Parts, Row};
    use super::*;

    #[test]
    fn what_takes_longer_than_its_target_is_named() {
        let case = |name: &str, target: Option<f64>, ns: &[f64]| {
            let row = Row { target_ns: target, ..Row::new(name) };
            Measured::new(row, ns.to_vec(), Parts::default())
        };
        let measured = vec![
            case("within", Some(10.0), &[12.0, 9.0, 9.5]),
            case("beyond", Some(10.0), &[9.0, 10.5, 11.0]),
            case("without a target", None, &[100.0]),
            case("could not run", Some(1.0), &[]),
        ];
        let run = Run { measured, ghz: (1.0, 1.0), pinned: None, rounds: 3, packets: 1 };
        assert_eq!(run.missed(), ["beyond: 10.5 ns, of 10 at the most"]);
    }
}
