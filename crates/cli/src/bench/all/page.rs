//! The page for a browser: every group as bars with their spread, every curve as a plot, and the figures
//! behind them. It loads nothing and runs nothing.

use std::fmt::Write as _;

use super::Outcome;
use super::markdown::{better, moved, whole};
use super::read::{Bar, Curve, Figures, Group};
use crate::bench::table::number;
use crate::draw::esc;

const STYLE: &str = ":root{color-scheme:light dark;--fg:#1b1f24;--dim:#66707a;--line:#d5dae0;--bg:#fff;\
    --ours:#1a7f37;--peer:#8c959f}\
    @media (prefers-color-scheme:dark){:root{--fg:#e6edf3;--dim:#9aa4ae;--line:#30363d;--bg:#0d1117;\
    --ours:#3fb950;--peer:#6e7681}}\
    body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif}\
    main{max-width:1000px;margin:0 auto;padding:24px}h2{border-top:1px solid var(--line);padding-top:1em}\
    h3{margin-bottom:.2em}.dim{color:var(--dim)}svg{max-width:100%;height:auto}svg text{fill:var(--fg)}\
    svg .dim{fill:var(--dim)}nav a{margin-right:1em}code{font-size:.95em}";

const COLOURS: [&str; 8] =
    ["#1a7f37", "#8c959f", "#4a90d9", "#b7791f", "#8250df", "#d1242f", "#0b7285", "#bc4c00"];

/// The whole page.
pub fn html(outcome: &Outcome) -> String {
    let machine = &outcome.machine;
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <title>linerate: benchmarks</title>\n<style>{STYLE}</style></head>\n<body><main>\n\
         <h1>linerate: benchmarks</h1>\n<p>{} UTC, linerate {}, <code>{}</code><br>\n{} processors, {}, \
         {:.0} GiB, {}</p>\n<p class=\"dim\">A bar is the median of the rounds, its whisker reaches from the \
         smallest to the largest. Green is linerate.</p>\n<nav>",
        crate::doctor::html::date(outcome.begun),
        esc(&outcome.version),
        esc(&outcome.command),
        machine.cpus,
        esc(&machine.model),
        machine.memory_kib as f64 / f64::from(1 << 20),
        esc(&machine.kernel),
    );
    for ran in &outcome.parts {
        let _ = write!(out, "<a href=\"#{0}\">{0}</a>", ran.part.name());
    }
    out.push_str("</nav>\n");
    for ran in &outcome.parts {
        let _ = writeln!(
            out,
            "<h2 id=\"{}\"><code>{}</code></h2>\n<p class=\"dim\">{:.0} s; load average {:.1} before, {:.1} \
             after; clock {:.2} GHz before, {:.2} after{}</p>",
            ran.part.name(),
            esc(&ran.command),
            ran.secs,
            ran.load.0,
            ran.load.1,
            ran.ghz.0,
            ran.ghz.1,
            if moved(ran.ghz) { ": it moved, differences of that size say nothing" } else { "" },
        );
        if ran.said.is_null() {
            let _ = writeln!(
                out,
                "<p>It did not run to its end.</p><pre>{}</pre>",
                esc(&ran.complaint)
            );
            continue;
        }
        let figures = Figures::of(ran);
        figures.groups.iter().for_each(|g| bars(&mut out, g));
        figures.curves.iter().for_each(|c| plot(&mut out, c));
        if !figures.notes.is_empty() {
            out.push_str("<ul class=\"dim\">");
            figures.notes.iter().for_each(|n| {
                let _ = write!(out, "<li>{}</li>", esc(n));
            });
            out.push_str("</ul>\n");
        }
    }
    out.push_str("</main></body></html>\n");
    out
}

/// Where bars begin and end, and how high a row is.
const BARS: (f64, f64, f64) = (450.0, 760.0, 24.0);

fn bars(out: &mut String, group: &Group) {
    let (left, right, row) = BARS;
    let top = group.bars.iter().map(|b| b.range.1.max(b.median)).fold(0.0, f64::max);
    // Bars of which one is a hundred times another are drawn by their logarithm.
    let least = group.bars.iter().map(|b| b.range.0).filter(|v| *v > 0.0).fold(top, f64::min);
    let log = least > 0.0 && top / least > 100.0;
    let x = |v: f64| {
        let part = match log {
            true => (v.max(least / 2.0) / (least / 2.0)).ln() / (top / (least / 2.0)).ln(),
            false => v / top.max(f64::MIN_POSITIVE),
        };
        left + part * (right - left)
    };
    let height = row * group.bars.len() as f64 + 4.0;
    let _ = writeln!(
        out,
        "<h3>{}</h3><p class=\"dim\">{}{}{}</p>\n<svg viewBox=\"0 0 960 {height}\" width=\"960\" \
         role=\"img\" font-size=\"13\">",
        esc(&group.title),
        esc(&group.unit),
        better(group.more_is_better),
        if log { "; logarithmic" } else { "" },
    );
    for (n, bar) in group.bars.iter().enumerate() {
        one_bar(out, bar, row * n as f64, x);
    }
    out.push_str("</svg>\n");
}

fn one_bar(out: &mut String, bar: &Bar, top: f64, x: impl Fn(f64) -> f64) {
    let (left, right, row) = BARS;
    let colour = if bar.ours { "var(--ours)" } else { "var(--peer)" };
    let (middle, low, high) = (top + row / 2.0, x(bar.range.0), x(bar.range.1));
    let target = bar.target.as_deref().unwrap_or_default();
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{:.0}\" text-anchor=\"end\">{}</text>\
         <rect x=\"{left}\" y=\"{:.0}\" width=\"{:.1}\" height=\"{}\" fill=\"{colour}\"/>\
         <path d=\"M{low:.1} {middle}H{high:.1}M{low:.1} {1:.0}v8M{high:.1} {1:.0}v8\" stroke=\"var(--fg)\"/>\
         <text x=\"{}\" y=\"{1:.0}\" dy=\"8\">{} <tspan class=\"dim\">{}</tspan></text>",
        left - 8.0,
        middle + 5.0,
        esc(&bar.name),
        top + 4.0,
        (x(bar.median) - left).max(1.0),
        row - 8.0,
        right + 12.0,
        number(bar.median),
        esc(target),
    );
}

fn plot(out: &mut String, curve: &Curve) {
    const L: f64 = 70.0;
    const R: f64 = 700.0;
    const T: f64 = 14.0;
    const B: f64 = 280.0;
    let all = || curve.lines.iter().flat_map(|(_, points)| points);
    let (mut low, mut high) = ((f64::MAX, f64::MAX), (0.0f64, 0.0f64));
    for (x, y) in all() {
        (low, high) = ((low.0.min(*x), low.1.min(*y)), (high.0.max(*x), high.1.max(*y)));
    }
    if !(high.0 > 0.0 && high.1 > 0.0) {
        return;
    }
    // Values far from each other need a logarithm as well.
    let tall = low.1 > 0.0 && high.1 / low.1 > 30.0;
    let scale = |v: f64, low: f64, high: f64, log: bool| match log {
        true if high > low => (v.max(low) / low).ln() / (high / low).ln(),
        true => 0.5,
        false => v / high,
    };
    let x = |v: f64| L + scale(v, low.0, high.0, curve.log && low.0 > 0.0) * (R - L);
    let y = |v: f64| B - scale(v, low.1, high.1, tall) * (B - T);
    let _ = writeln!(
        out,
        "<h3>{}</h3><p class=\"dim\">{}{}</p>\n<svg viewBox=\"0 0 960 330\" width=\"960\" role=\"img\" \
         font-size=\"13\"><path d=\"M{L} {T}V{B}H{R}\" fill=\"none\" stroke=\"var(--dim)\"/>\
         <text x=\"{:.0}\" y=\"320\" text-anchor=\"middle\" class=\"dim\">{}</text>",
        esc(&curve.title),
        esc(&curve.unit),
        if tall { "; logarithmic" } else { "" },
        (L + R) / 2.0,
        esc(&curve.across),
    );
    let mut marks: Vec<f64> = all().map(|p| p.0).collect();
    marks.sort_by(f64::total_cmp);
    marks.dedup();
    let mut last = f64::MIN;
    for mark in marks.into_iter().filter(|m| {
        let free = x(*m) - last > 50.0;
        last = if free { x(*m) } else { last };
        free
    }) {
        let name = if mark >= 1e4 { crate::draw::number(mark) } else { whole(mark.round()) };
        let _ = write!(
            out,
            "<text x=\"{:.0}\" y=\"298\" text-anchor=\"middle\">{name}</text>",
            x(mark)
        );
    }
    for mark in [if tall { low.1 } else { high.1 / 2.0 }, high.1] {
        let at = y(mark);
        let _ = write!(
            out,
            "<path d=\"M{L} {at:.1}H{R}\" stroke=\"var(--line)\"/><text x=\"62\" y=\"{:.0}\" \
             text-anchor=\"end\">{}</text>",
            at + 4.0,
            number(mark)
        );
    }
    for (n, (name, points)) in curve.lines.iter().enumerate() {
        let colour = COLOURS[n % COLOURS.len()];
        let path: Vec<String> =
            points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = write!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"716\" y=\"{:.0}\" style=\"fill:{colour}\">{}</text>",
            path.join(" "),
            T + 14.0 + 18.0 * n as f64,
            esc(name)
        );
    }
    out.push_str("</svg>\n");
}
