//! What `linerate explain` says of the kernel's path: its counters and settings, the rules, their limits.

use std::fs;

use linerate_host::rules::{self, LimitRow, Limits, Rule};
use serde_json::{Value, json};

use super::names::{self, NAMES, Name};

/// Something of the kernel's path that bears a name.
pub enum Hit {
    /// A counter or a setting.
    Name(&'static Name),
    /// A rule.
    Rule(&'static Rule),
    /// A threshold of the rules.
    Limit(&'static LimitRow),
}

/// All that is called so; every limit for `limits`.
pub fn find(name: &str) -> Vec<Hit> {
    let mut hits: Vec<Hit> = names::find(name).map(Hit::Name).collect();
    hits.extend(rules::by_name(name).map(Hit::Rule));
    let all = name.eq_ignore_ascii_case("limits");
    let limits = Limits::ROWS.iter().filter(|row| all || row.name.eq_ignore_ascii_case(name));
    hits.extend(limits.map(Hit::Limit));
    hits
}

/// Names to suggest.
pub fn names() -> impl Iterator<Item = &'static str> {
    let rules = rules::all().flat_map(|rule| [rule.id, rule.name]);
    NAMES.iter().map(|row| row.name).chain(rules).chain(Limits::ROWS.iter().map(|row| row.name))
}

/// The rules whose text speaks of it.
pub fn rules_about(name: &str) -> Vec<String> {
    let word = name.rsplit([':', '.']).next().unwrap_or(name);
    let part = |c: char| !(c.is_alphanumeric() || c == '_' || c == '-');
    let speaks = |text: &str| text.split(part).any(|w| w == word);
    let about = |rule: &&Rule| {
        [rule.evidence, rule.causes, rule.advice, rule.traps].iter().any(|text| speaks(text))
    };
    rules::all().filter(about).map(|rule| format!("{} {}", rule.id, rule.name)).collect()
}

/// What a sysctl is on this host now.
fn now(row: &Name) -> Option<String> {
    if !row.knob || !row.name.contains('.') {
        return None;
    }
    let text = fs::read_to_string(format!("/proc/sys/{}", row.name.replace('.', "/"))).ok()?;
    Some(text.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl Hit {
    /// What it is called, and what kind of thing it is.
    pub fn title(&self) -> String {
        match self {
            Hit::Name(row) if row.knob => format!("{} · setting of the kernel", row.name),
            Hit::Name(row) => format!("{} · counter of the kernel", row.name),
            Hit::Rule(rule) => format!("{} {} · rule of linerate doctor", rule.id, rule.name),
            Hit::Limit(row) => format!("{} · limit of the rules", row.name),
        }
    }

    /// What it is.
    pub fn help(&self) -> &'static str {
        match self {
            Hit::Name(row) => row.help,
            Hit::Rule(rule) => rule.title,
            Hit::Limit(row) => row.help,
        }
    }

    /// What else there is to say, by label.
    pub fn rows(&self) -> Vec<(&'static str, Vec<String>)> {
        match self {
            Hit::Name(row) => vec![
                ("stage", vec![row.stage.name().to_owned()]),
                (if row.knob { "set" } else { "read" }, vec![row.place.to_owned()]),
                ("here now", now(row).into_iter().collect()),
                ("rules", joined(rules_about(row.name))),
            ],
            Hit::Rule(rule) => vec![
                ("stage", vec![rule.stage.name().to_owned()]),
                ("evidence", lines(rule.evidence)),
                ("causes", lines(rule.causes)),
                ("advice", lines(rule.advice)),
                ("traps", lines(rule.traps)),
                ("speaks for", joined(rule.suppresses.iter().map(|id| (*id).to_owned()).collect())),
                ("rests on", rule.cites.iter().map(|c| (*c).to_owned()).collect()),
            ],
            Hit::Limit(row) => vec![
                ("value", vec![row.default.to_string()]),
                ("set", vec![format!("linerate doctor --limit {}=VALUE", row.name)]),
            ],
        }
    }

    /// The same for programs.
    pub fn json(&self) -> Value {
        match self {
            Hit::Name(row) => json!({
                "kind": if row.knob { "host knob" } else { "host counter" },
                "name": row.name, "help": row.help, "stage": row.stage.name(), "place": row.place,
                "now": now(row), "rules": rules_about(row.name),
            }),
            Hit::Rule(rule) => json!({
                "kind": "rule", "id": rule.id, "name": rule.name, "help": rule.title,
                "stage": rule.stage.name(), "evidence": rule.evidence, "causes": rule.causes,
                "advice": rule.advice, "traps": rule.traps, "cites": rule.cites,
                "suppresses": rule.suppresses,
            }),
            Hit::Limit(row) => json!({
                "kind": "limit", "name": row.name, "help": row.help.trim(), "value": row.default,
            }),
        }
    }
}

fn joined(words: Vec<String>) -> Vec<String> {
    super::text::wrap(&words.join(", "), 84)
}

/// A paragraph as lines.
fn lines(text: &str) -> Vec<String> {
    super::text::wrap(text, 84)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_and_limit_is_explained_by_its_name() {
        for rule in rules::all() {
            assert!(find(rule.id).iter().any(|h| h.title().contains(rule.name)), "{}", rule.id);
            assert!(find(rule.name).iter().any(|h| h.title().contains(rule.id)), "{}", rule.name);
        }
        for row in Limits::ROWS {
            assert!(find(row.name).iter().any(|h| h.title().starts_with(row.name)), "{}", row.name);
        }
        assert_eq!(find("limits").len(), Limits::ROWS.len());
    }

    #[test]
    fn a_counter_knows_the_rules_that_look_at_it() {
        assert!(rules_about("RcvbufErrors").iter().any(|r| r.starts_with("R43 ")));
        assert!(rules_about("no_such_counter").is_empty());
    }
}
