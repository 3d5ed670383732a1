//! The report as one file for a browser: pictures, findings, what moved over time.
//!
//! It loads nothing and runs nothing; its own policy forbids scripts, pictures, fonts and connections.
//! Everything that comes from the host goes through [`esc`].

mod draw;
mod series;

use std::fmt::Write as _;

use linerate_host::finding::{Finding, Severity};
use linerate_host::rules::Diagnosis;

use super::Looked;
use super::path::{View, journey};
use super::text::{clean, evidence, rate, span};

/// The page.
pub fn page(looked: &Looked<'_>, diagnosis: &Diagnosis) -> String {
    let name = match looked.now().host.name.as_str() {
        "" => looked.origin,
        name => name,
    };
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"{POLICY}\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{0}: network path</title>\n<style>{STYLE}</style></head>\n<body><main>\n<h1>{0}</h1>\n",
        esc(name)
    );
    head(&mut out, looked, diagnosis);
    out.push_str("<section><h2>The path</h2>\n");
    draw::journey(&mut out, &journey(&View::new(looked.whole(), None)));
    out.push_str("</section>\n<section><h2>Findings</h2>\n");
    if diagnosis.findings.is_empty() {
        out.push_str("<p class=\"good\">Nothing is wrong, as far as was looked.</p>\n");
    }
    diagnosis.findings.iter().for_each(|f| finding(&mut out, f));
    out.push_str("</section>\n<section><h2>Over time</h2>\n");
    series::charts(&mut out, &looked.close_windows());
    out.push_str("</section>\n");
    devices(&mut out, looked);
    skipped(&mut out, diagnosis);
    out.push_str("</main></body></html>\n");
    out
}

/// Text as it is shown, whatever is in it.
fn esc(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn head(out: &mut String, looked: &Looked<'_>, diagnosis: &Diagnosis) {
    let host = &looked.now().host;
    let mut facts = vec![format!("from {}", esc(looked.origin))];
    if !host.release.is_empty() {
        facts.push(format!("Linux {}", esc(&host.release)));
    }
    if !host.cpus.is_empty() {
        facts.push(format!("{} processors", host.cpus.len()));
    }
    facts.push(match looked.snapshots.len() {
        1 => format!("one moment, {} after boot", span(host.uptime_s)),
        n => format!("{} in {} windows", span(looked.secs()), n - 1),
    });
    facts.push(format!("goal {}", looked.goal_name()));
    let wall = looked.now().wall_ns / 1_000_000_000;
    if wall > 0 {
        facts.push(format!("ended {} UTC", date(wall)));
    }
    let _ = writeln!(out, "<p class=\"facts\">{}</p>", facts.join(" · "));
    let count = |s| diagnosis.findings.iter().filter(|f| f.severity == s).count();
    let _ = writeln!(
        out,
        "<p class=\"counts\"><b class=\"critical\">{}</b> critical <b class=\"warning\">{}</b> warnings \
         <b class=\"hint\">{}</b> hints</p>",
        count(Severity::Critical),
        count(Severity::Warning),
        count(Severity::Info)
    );
}

/// A time as people write it, from seconds since 1970 (UTC, proleptic Gregorian calendar).
pub(crate) fn date(unix: u64) -> String {
    let (days, secs) = (unix / 86_400, unix % 86_400);
    // Years begin in March, so that the day that is put in is the last one.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02} {:02}:{:02}:{:02}", secs / 3600, secs / 60 % 60, secs % 60)
}

fn finding(out: &mut String, f: &Finding) {
    let word = match f.severity {
        Severity::Critical => "critical",
        Severity::Warning => "warning",
        Severity::Info => "hint",
    };
    let lifetime = if f.lifetime { ", since boot" } else { "" };
    let _ = writeln!(
        out,
        "<article class=\"{word}\"><p class=\"tag\"><b>{word}</b>{lifetime} · {} · {} {}</p>\n<h3>{}</h3>",
        f.stage.name(),
        esc(f.id),
        esc(f.name),
        esc(&f.title)
    );
    if f.loss_per_s > 0.0 {
        let _ = writeln!(out, "<p class=\"loss\">{} lost a second</p>", rate(f.loss_per_s));
    }
    out.push_str("<dl>");
    if !f.evidence.is_empty() {
        let all: Vec<String> = f.evidence.iter().map(|e| esc(&evidence(e))).collect();
        let _ = writeln!(out, "<dt>evidence</dt><dd class=\"mono\">{}</dd>", all.join("<br>"));
    }
    entry(out, "cause", &f.cause, false);
    for a in &f.advice {
        let risk = serde_json::to_value(a.risk).unwrap_or_default();
        entry(out, "do", &format!("{} (risk: {})", a.what, risk.as_str().unwrap_or("?")), false);
        entry(out, "now", &a.command, true);
        entry(out, "for good", &a.persist, true);
        entry(out, "verify", &a.verify, false);
        entry(out, "undo", &a.rollback, true);
    }
    out.push_str("</dl></article>\n");
}

fn entry(out: &mut String, label: &str, text: &str, code: bool) {
    if text.is_empty() {
        return;
    }
    let text = match code {
        true => format!("<pre>{}</pre>", esc(text)),
        false => esc(text),
    };
    let _ = writeln!(out, "<dt>{label}</dt><dd>{text}</dd>");
}

fn devices(out: &mut String, looked: &Looked<'_>) {
    let w = looked.whole();
    if w.to.devs.is_empty() {
        return;
    }
    out.push_str(
        "<section><h2>Devices</h2><table><tr><th>device<th>kind<th>mtu<th>rx/s<th>rx B/s\
         <th>rx lost/s<th>tx/s<th>tx B/s<th>tx lost/s</tr>\n",
    );
    for d in w.to.devs.values() {
        let moved = |name: &str| w.dev(&d.name, name).map_or(0.0, |d| d.per_s);
        let lost = |names: [&str; 3]| names.iter().map(|n| moved(n)).sum::<f64>();
        let (rx_lost, tx_lost) = (
            lost(["rx_dropped", "rx_missed_errors", "rx_errors"]),
            lost(["tx_dropped", "tx_errors", "tx_carrier_errors"]),
        );
        let class = |n: f64| if n > 0.0 { " class=\"bad\"" } else { "" };
        let kind = if d.kind.is_empty() { &d.driver } else { &d.kind };
        let _ = writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}<td>{}<td{}>{}<td>{}<td>{}<td{}>{}</tr>",
            esc(&d.name),
            esc(kind),
            d.mtu,
            rate(moved("rx_packets")),
            rate(moved("rx_bytes")),
            class(rx_lost),
            rate(rx_lost),
            rate(moved("tx_packets")),
            rate(moved("tx_bytes")),
            class(tx_lost),
            rate(tx_lost),
        );
    }
    out.push_str("</table></section>\n");
}

fn skipped(out: &mut String, diagnosis: &Diagnosis) {
    if diagnosis.skipped.is_empty() {
        return;
    }
    let _ = writeln!(
        out,
        "<section><details><summary>Not read: {}</summary><table><tr><th>what<th>why</tr>",
        diagnosis.skipped.len()
    );
    for note in &diagnosis.skipped {
        let _ =
            writeln!(out, "<tr><td class=\"mono\">{}<td>{}</tr>", esc(&note.what), esc(&note.why));
    }
    out.push_str("</table></details></section>\n");
}

/// What a browser may not do with the page, whatever got into it.
const POLICY: &str = "script-src 'none'; img-src 'none'; connect-src 'none'; font-src 'none'; \
                      frame-src 'none'; object-src 'none'; media-src 'none'; worker-src 'none'; \
                      base-uri 'none'; form-action 'none'";

/// Both colour schemes; numbers in columns; paper.
const STYLE: &str = "
:root{color-scheme:light dark;--fg:#1b1f24;--dim:#66707a;--line:#d5dae0;--bg:#fff;--card:#f6f8fa;
--flow:#4a90d9;--bad:#d1242f;--warn:#b7791f;--good:#1a7f37}
@media (prefers-color-scheme:dark){:root{--fg:#e6edf3;--dim:#9aa4ae;--line:#30363d;--bg:#0d1117;
--card:#161b22;--flow:#3f7fc4;--bad:#f85149;--warn:#d29922;--good:#3fb950}}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px}
h1{margin:0;font-size:26px}h2{font-size:19px;margin:28px 0 10px}h3{margin:2px 0 8px;font-size:16px}
.facts,.tag{color:var(--dim);margin:2px 0}.counts b{font-size:20px;margin-left:10px}
.critical b,b.critical,.loss,.bad{color:var(--bad)}.warning .tag b,b.warning{color:var(--warn)}
.good{color:var(--good)}
article{border:1px solid var(--line);border-left:5px solid var(--dim);border-radius:6px;
padding:10px 16px;margin:12px 0;background:var(--card);break-inside:avoid}
article.critical{border-left-color:var(--bad)}article.warning{border-left-color:var(--warn)}
.loss{font-weight:600;margin:0 0 6px}
dl{display:grid;grid-template-columns:90px 1fr;gap:4px 12px;margin:0}dt{color:var(--dim)}dd{margin:0;
overflow-wrap:anywhere}
pre,.mono{font:13px/1.5 ui-monospace,monospace}pre{margin:0;white-space:pre-wrap}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
td,th{text-align:left;padding:3px 12px 3px 0;border-bottom:1px solid var(--line);vertical-align:top}
svg{width:100%;height:auto;display:block}svg text{fill:var(--fg);font:12px system-ui,sans-serif}
svg .dim{fill:var(--dim);font-size:11px}svg .lost{fill:var(--bad);font-size:11px}
.flow{fill:var(--flow);opacity:.55}.drop{fill:var(--bad);opacity:.75}
.box{fill:var(--card);stroke:var(--line)}.box.hit{stroke:var(--bad);stroke-width:2}
.axis{stroke:var(--line)}.curve{fill:none;stroke:var(--flow);stroke-width:1.5}
.curve.red{stroke:var(--bad)}.fill{fill:var(--warn)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(360px,1fr));gap:14px}
.charts figure{margin:0;border:1px solid var(--line);border-radius:6px;padding:8px;background:var(--card)}
figcaption{font-size:13px;color:var(--dim)}
";

#[cfg(test)]
mod tests;
