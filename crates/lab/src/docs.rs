//! The generated pages: what the tables say, for people.

use std::fmt::Write;

use linerate_core::table::knob::{Scope, Takes};
use linerate_core::table::{Counter, Knobs, Reason, Stage};

/// A generated page: its file name in `docs/`, and how it is made.
pub type Page = (&'static str, fn() -> String);

/// All generated pages.
pub const PAGES: &[Page] = &[
    ("COUNTERS.md", counters),
    ("DROPS.md", drops),
    ("KNOBS.md", knobs),
    ("STAGES.md", stages),
    ("CONFORMANCE.md", crate::conformance::page),
];

const NOTE: &str = "<!-- Generated from the tables: LINERATE_BLESS=1 cargo test -p linerate-lab --test golden -->\n";

fn head(title: &str, text: &str) -> String {
    format!("# {title}\n\n{NOTE}\n{text}\n\n")
}

fn name_or_dash(linux: &str) -> &str {
    if linux == "none" { "–" } else { linux }
}

fn stages() -> String {
    let mut out = head("Stages", "The stops of a packet, in the order of its journey.");
    out += "| stage | way | what it does | in Linux |\n|---|---|---|---|\n";
    for row in Stage::ROWS {
        let _ = writeln!(out, "| {} | {:?} |{} | `{}` |", row.name, row.dir, row.help, row.linux);
    }
    out
}

fn counters() -> String {
    let mut out = head(
        "Counters",
        "Every counter, in the order of the journey. A drop moves the counters that its reason \
         names (DROPS.md); the packets of each stage are counted besides.",
    );
    out += "| counter | in Linux | unit | stage | what it counts |\n|---|---|---|---|---|\n";
    for row in Counter::ROWS {
        let linux = name_or_dash(row.linux);
        let stage = row.stage.name();
        let _ = writeln!(out, "| {} | {linux} | {} | {stage} |{} |", row.name, row.unit, row.help);
    }
    out
}

fn drops() -> String {
    let mut out = head(
        "Drop reasons",
        "Why a packet can be lost, where, which counters move with it, and which knob governs it.",
    );
    out += "| reason | in Linux | stage | also counts | knob | what it means |\n|---|---|---|---|---|---|\n";
    for row in Reason::ROWS {
        let also: Vec<&str> = row.also.iter().map(|c| c.row().name).collect();
        let also = if also.is_empty() { "–".to_owned() } else { also.join(", ") };
        let (linux, knob) = (name_or_dash(row.linux), name_or_dash(row.knob));
        let stage = row.stage.name();
        let _ =
            writeln!(out, "| {} | {linux} | {stage} | {also} | {knob} |{} |", row.name, row.help);
    }
    out
}

fn knobs() -> String {
    let mut out = head(
        "Knobs",
        "Every knob by its name in Linux, with the stage that reads it. `linerate set` changes it \
         while an instance runs, `--set` when it starts.",
    );
    out += "| knob | default | range | unit | scope | counts | stage | what it does |\n|---|---|---|---|---|---|---|---|\n";
    let defaults = Knobs::default();
    for row in Knobs::ROWS {
        let default = defaults.get(row.path).expect("the row exists").replace('\t', " ");
        let scope = match row.scope {
            Scope::Host => "loop",
            Scope::Net => "stack",
            Scope::Device => "device",
        };
        let takes = match row.takes {
            Takes::Now => "at once",
            Takes::NextSocket => "next socket",
            Takes::NextDevice => "next device",
            Takes::Restart => "restart",
        };
        let why = if row.why.is_empty() { String::new() } else { format!(" ({})", row.why) };
        let _ = writeln!(
            out,
            "| {} | {default}{why} | {}–{} | {} | {scope} | {takes} | {} |{} |",
            row.path,
            row.low,
            row.high,
            row.unit,
            row.stage.name(),
            row.help
        );
    }
    out
}
