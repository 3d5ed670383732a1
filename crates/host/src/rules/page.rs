//! A page for each rule, made from its row.

use std::fmt::Write;

use linerate_core::table::Stage;

use super::found::sentence;
use super::{Limits, Rule, all, by_name};

const NOTE: &str = "<!-- Generated from the rules: LINERATE_BLESS=1 cargo test -p linerate-lab \
    --test golden -->\n";

/// The file of a rule's page, below `docs/rules/`: `R43-udp-rcvbuf.md`.
#[must_use]
pub fn file_name(rule: &Rule) -> String {
    format!("{}-{}.md", rule.id, rule.name)
}

/// The page of one rule, as Markdown.
#[must_use]
pub fn page(rule: &Rule) -> String {
    let mut out = format!("# {} {}\n\n{NOTE}\n{}.\n\n", rule.id, rule.name, sentence(rule.title));
    let stage = rule.stage.row();
    let _ = writeln!(out, "Stage: **{}** (in Linux: `{}`).\n", stage.name, stage.linux);
    let parts = [
        ("Evidence", rule.evidence),
        ("Causes", rule.causes),
        ("Advice", rule.advice),
        ("Traps", rule.traps),
    ];
    for (title, text) in parts.iter().filter(|(_, text)| !text.is_empty()) {
        let _ = writeln!(out, "## {title}\n\n{text}\n");
    }
    let limits: Vec<_> = Limits::ROWS.iter().filter(|row| mentions(rule, row.name)).collect();
    if !limits.is_empty() {
        let _ = writeln!(out, "## Limits\n\n| `--limit` | value | what it is |\n|---|---|---|");
        for row in limits {
            let _ = writeln!(out, "| {} | {} |{} |", row.name, row.default, row.help);
        }
        out.push('\n');
    }
    if !rule.suppresses.is_empty() {
        let _ = writeln!(
            out,
            "## Speaks for\n\nWhen this rule speaks, these do not: they are its consequences.\n"
        );
        for child in rule.suppresses.iter().filter_map(|id| by_name(id)) {
            let _ = writeln!(out, "- [{} {}]({})", child.id, child.name, file_name(child));
        }
        out.push('\n');
    }
    let _ = writeln!(out, "## Rests on\n");
    for cite in rule.cites {
        let _ = writeln!(out, "- {cite}");
    }
    out
}

/// Whether a rule's text names a limit as code.
fn mentions(rule: &Rule, limit: &str) -> bool {
    rule.evidence.contains(&format!("`{limit}`")) || rule.causes.contains(&format!("`{limit}`"))
}

/// The page that lists all rules, and the limits; `docs/rules/README.md`.
#[must_use]
pub fn index() -> String {
    let mut out = format!(
        "# Rules\n\n{NOTE}\nWhat `linerate doctor` looks for, in the order of the path. A finding \
        says which counters prove it, which of the causes it is, what to set, how to see that it \
        helped and how to undo it.\n\n| rule | what is wrong | stage |\n|---|---|---|\n"
    );
    for rule in all() {
        let (link, title) = (file_name(rule), sentence(rule.title));
        let stage = rule.stage.name();
        let _ = writeln!(out, "| [{} {}]({link}) | {title} | {stage} |", rule.id, rule.name);
    }
    out += "\n## Order\n\nSeverity comes first: what loses packets now, then limits that are near \
        and time that is lost, then what is worth to know. Among them, what is nearer to the wire \
        comes first: hardware, backlog, rules, sockets; and behind them losses of less than a \
        hundredth of the largest. A consequence of something that was found is not listed.\n\n## \
        Limits\n\nEach can be set: `linerate doctor --limit NAME=VALUE`.\n\n| limit | value | what \
        it is |\n|---|---|---|\n";
    for row in Limits::ROWS {
        let _ = writeln!(out, "| {} | {} |{} |", row.name, row.default, row.help);
    }
    let _ = writeln!(
        out,
        "\nStages are explained in [STAGES.md](../STAGES.md); there are {} of them.",
        Stage::ROWS.len()
    );
    out
}

/// All generated pages: the file's name below `docs/rules/`, and its text.
pub fn pages() -> impl Iterator<Item = (String, String)> {
    let index = std::iter::once_with(|| ("README.md".to_owned(), index()));
    index.chain(all().map(|rule| (file_name(rule), page(rule))))
}
