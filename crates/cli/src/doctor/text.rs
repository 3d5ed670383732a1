//! The report for people.

use std::fmt::Write as _;

use linerate_host::finding::{Advice, Evidence, Finding, Severity, Value};
use linerate_host::rules::Diagnosis;
use linerate_host::snapshot::Note;

use super::Looked;
use crate::report::{Style, grouped};

/// Columns of a line.
const WIDTH: usize = 100;
/// Columns before what a label is for.
const INDENT: usize = 13;
/// Names that are listed for one reason why they could not be read.
const NAMES_MAX: usize = 6;

/// Everything that was found.
pub fn report(looked: &Looked<'_>, diagnosis: &Diagnosis, style: Style) -> String {
    let mut out = head(looked, style);
    for (i, finding) in diagnosis.findings.iter().enumerate() {
        out.push('\n');
        self::finding(&mut out, i + 1, finding, style);
    }
    out.push('\n');
    out.push_str(&verdict(&diagnosis.findings, style));
    skipped(&mut out, &diagnosis.skipped, style);
    out
}

fn head(looked: &Looked<'_>, Style { bold, dim, off, .. }: Style) -> String {
    let host = &looked.now().host;
    let name = if host.name.is_empty() { looked.origin } else { &host.name };
    let mut out = format!("{bold}{}{off}", clean(name));
    if !host.release.is_empty() {
        let _ = write!(out, " · Linux {}", clean(&host.release));
    }
    match host.cpus.len() {
        0 => {}
        1 => out.push_str(" · 1 processor"),
        n => drop(write!(out, " · {n} processors")),
    }
    if host.is_init_netns == Some(false) {
        out.push_str(" · a network namespace of its own");
    }
    let windows = looked.snapshots.len() - 1;
    if windows == 0 {
        let _ = write!(out, " · one moment, {} after boot", span(host.uptime_s));
    } else {
        let s = if windows == 1 { "" } else { "s" };
        let _ = write!(out, " · {} in {windows} window{s}", span(looked.secs()));
    }
    let _ =
        write!(out, "\n{dim}from {} · goal {}{off}\n", clean(looked.origin), looked.goal_name());
    out
}

/// A time with its unit.
pub fn span(secs: f64) -> String {
    match secs {
        s if s < 1.0 => format!("{:.0} ms", s * 1e3),
        s if s < 120.0 => format!("{s:.1} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s if s < 172_800.0 => format!("{:.1} h", s / 3600.0),
        s => format!("{:.0} days", s / 86_400.0),
    }
}

/// One finding.
pub fn one(n: usize, f: &Finding, style: Style) -> String {
    let mut out = String::new();
    finding(&mut out, n, f, style);
    out
}

fn finding(out: &mut String, n: usize, f: &Finding, style: Style) {
    let Style { bold, dim, warn, off, .. } = style;
    let (word, colour) = match f.severity {
        Severity::Critical => ("critical", style.bad),
        Severity::Warning => ("warning", warn),
        Severity::Info => ("hint", dim),
    };
    let lifetime = if f.lifetime { ", since boot" } else { "" };
    let _ = writeln!(
        out,
        "{n}. {colour}{word}{off}{lifetime} · {} · {} {}",
        f.stage.name(),
        f.id,
        f.name
    );
    for line in wrap(&clean(&f.title), WIDTH - 3) {
        let _ = writeln!(out, "   {bold}{line}{off}");
    }
    if f.loss_per_s > 0.0 {
        label(out, "lost", &format!("{} a second", rate(f.loss_per_s)));
    }
    for (i, e) in f.evidence.iter().enumerate() {
        label(out, if i == 0 { "evidence" } else { "" }, &evidence(e));
    }
    label(out, "cause", &f.cause);
    for a in &f.advice {
        advice(out, a);
    }
}

/// A counter as it moved, or a state.
pub fn evidence(e: &Evidence) -> String {
    let value = |v: &Value| match v {
        Value::Number(n) => grouped(*n),
        Value::Text(t) => t.clone(),
    };
    let mut text = format!("{} ", e.name);
    match &e.from {
        Some(from) if *from != e.to => drop(write!(text, "{} -> {}", value(from), value(&e.to))),
        _ => text.push_str(&value(&e.to)),
    }
    if let Some(per_s) = e.per_s.filter(|n| *n > 0.0) {
        let _ = write!(text, " (+{}/s)", rate(per_s));
    }
    let _ = write!(text, "  [{}]", e.source);
    text
}

fn advice(out: &mut String, a: &Advice) {
    let risk = match serde_json::to_value(a.risk) {
        Ok(serde_json::Value::String(risk)) => risk,
        _ => String::new(),
    };
    // Words alone set nothing, and risk nothing.
    match a.command.is_empty() {
        true => label(out, "do", &a.what),
        false => label(out, "do", &format!("{} (risk: {risk})", a.what)),
    }
    command(out, "  now", &a.command);
    command(out, "  for good", &a.persist);
    label(out, "  verify", &a.verify);
    command(out, "  undo", &a.rollback);
}

/// A labelled paragraph; nothing if it is empty.
fn label(out: &mut String, label: &str, text: &str) {
    let mut label = label;
    for line in wrap(&clean(text), WIDTH - 3 - INDENT) {
        let _ = writeln!(out, "   {label:<INDENT$}{line}");
        label = "";
    }
}

/// The same for what is copied: lines are not wrapped.
fn command(out: &mut String, label: &str, text: &str) {
    let mut label = label;
    for line in text.lines() {
        let _ = writeln!(out, "   {label:<INDENT$}{}", clean(line));
        label = "";
    }
}

fn verdict(findings: &[Finding], Style { good, off, .. }: Style) -> String {
    let count = |s| findings.iter().filter(|f| f.severity == s).count();
    let words = [
        (count(Severity::Critical), "critical", "critical"),
        (count(Severity::Warning), "warning", "warnings"),
        (count(Severity::Info), "hint", "hints"),
    ];
    let said: Vec<String> = words
        .iter()
        .filter(|(n, ..)| *n > 0)
        .map(|(n, one, many)| format!("{n} {}", if *n == 1 { one } else { many }))
        .collect();
    match said.len() {
        0 => format!("{good}Nothing is wrong, as far as was looked.{off}\n"),
        _ => format!("{}.\n", said.join(", ")),
    }
}

/// What could not be read, by reason.
fn skipped(out: &mut String, notes: &[Note], Style { dim, off, .. }: Style) {
    if notes.is_empty() {
        return;
    }
    let mut by: Vec<(&str, Vec<&str>)> = Vec::new();
    for note in notes {
        match by.iter_mut().find(|(why, _)| *why == note.why) {
            Some((_, whats)) => whats.push(&note.what),
            None => by.push((&note.why, vec![&note.what])),
        }
    }
    let _ = writeln!(out, "\n{dim}Not read:");
    for (why, whats) in by {
        let more = whats.len().saturating_sub(NAMES_MAX);
        let mut text = whats[..whats.len() - more].join(", ");
        if more > 0 {
            let _ = write!(text, " and {more} more");
        }
        let _ = write!(text, ": {why}");
        for (i, line) in wrap(&clean(&text), WIDTH - 4).into_iter().enumerate() {
            let _ = writeln!(out, "  {}{line}", if i == 0 { "" } else { "  " });
        }
    }
    out.push_str(off);
}

/// A rate with as many digits as say something.
pub fn rate(n: f64) -> String {
    match n {
        n if n >= 99.5 => grouped(n.round() as u64),
        n if n >= 9.95 => format!("{n:.0}"),
        n if n >= 0.095 => format!("{n:.1}"),
        n if n > 0.0 => format!("{n:.3}"),
        _ => "0".to_owned(),
    }
}

/// Without what a terminal would take for a command: names come from the host, or from a stranger's
/// files.
pub fn clean(text: &str) -> String {
    let keep = |c: char| if c.is_control() && c != '\n' { '\u{fffd}' } else { c };
    text.chars().map(keep).collect()
}

/// Lines of at most `width` columns, split at blanks and at the ends of lines.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        if !line.is_empty() {
            lines.push(line);
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_wrapped_at_blanks() {
        assert_eq!(wrap("one two three", 8), ["one two", "three"]);
        assert_eq!(wrap("averyveryverylongword b", 8), ["averyveryverylongword", "b"]);
        assert_eq!(wrap("a\n\nb", 8), ["a", "b"]);
        assert!(wrap("", 8).is_empty());
    }

    #[test]
    fn a_name_can_not_command_the_terminal() {
        assert_eq!(clean("eth0\x1b[2J\u{9b}x\r"), "eth0\u{fffd}[2J\u{fffd}x\u{fffd}");
    }

    #[test]
    fn rates_have_digits_that_say_something() {
        let texts = [12345.6, 99.6, 42.4, 3.12, 0.02, 0.0].map(rate);
        assert_eq!(texts, ["12,346", "100", "42", "3.1", "0.020", "0"]);
    }
}
