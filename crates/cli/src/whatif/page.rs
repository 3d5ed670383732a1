//! Answers as a page with pictures; nothing is loaded from elsewhere.

use std::fmt::Write as _;

use super::Answer;
use super::args::WhatifArgs;
use super::text::{busiest, machine, per_s, place, rate, time};

const STYLE: &str = "body{font:14px/1.5 sans-serif;margin:2em auto;max-width:56em;color:#222}\
table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}\
pre{background:#f6f6f4;padding:.8em}svg text{font:12px sans-serif;fill:#333}";

/// Width and height of a picture, and where its axes are.
const W: f64 = 720.0;
const H: f64 = 220.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 180.0;

/// What is drawn: title, values, colour.
type Plot = (&'static str, Vec<f64>, &'static str);

/// Title of the axis below, names below the columns, and the pictures.
fn plots(args: &WhatifArgs, answers: &[Answer]) -> (String, Vec<String>, Vec<Plot>) {
    let Some(sweep) = &args.sweep else {
        let busy: Vec<f64> = answers[0].outcome.busy.iter().map(|b| b * 100.0).collect();
        let names = (0..busy.len()).map(|c| c.to_string()).collect();
        return (
            "cpu".to_owned(),
            names,
            vec![("work of each processor, percent", busy, "#b7791f")],
        );
    };
    let names = answers.iter().map(|a| a.value.clone().unwrap_or_default()).collect();
    let of = |f: &dyn Fn(&Answer) -> f64| answers.iter().map(f).collect::<Vec<f64>>();
    let plots = vec![
        ("delivered, packets a second", of(&|a| per_s(&a.spec, a.outcome.delivered)), "#1e6f8e"),
        ("lost, percent", of(&|a| a.outcome.lost() * 100.0), "#c0392b"),
        (
            "latency, 99 of 100, µs",
            of(&|a| a.outcome.latency.percentile(0.99) as f64 / 1e3),
            "#7d5ba6",
        ),
        ("the busiest processor, percent", of(&|a| busiest(&a.outcome) * 100.0), "#b7791f"),
    ];
    (sweep.what.clone(), names, plots)
}

/// The pictures alone, as one SVG.
pub fn svg(args: &WhatifArgs, answers: &[Answer]) -> String {
    let (what, names, plots) = plots(args, answers);
    let height = (H + 30.0) * plots.len() as f64;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {height}\" width=\"{W}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
    );
    for (at, (title, values, colour)) in plots.iter().enumerate() {
        let top = (H + 30.0) * at as f64;
        let _ = writeln!(
            out,
            "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"14\">{}</text><g transform=\"translate(0 {:.0})\">",
            top + 20.0,
            esc(title),
            top + 28.0
        );
        columns(&mut out, &what, &names, values, colour);
        out.push_str("</g>\n");
    }
    out.push_str("</svg>\n");
    out
}

/// The page.
pub fn page(args: &WhatifArgs, answers: &[Answer]) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>linerate whatif</title>\
         <style>{STYLE}</style></head>\n<body><h1>What if</h1>\n<pre>{}</pre>\n",
        esc(&machine(&answers[0].spec))
    );
    let (what, names, plots) = plots(args, answers);
    for (title, values, colour) in plots {
        let title = esc(title);
        let _ = writeln!(
            out,
            "<h2>{title}</h2>\n<svg viewBox=\"0 0 {W} {H}\" width=\"{W}\" role=\"img\" aria-label=\"{title}\">"
        );
        columns(&mut out, &what, &names, &values, colour);
        out.push_str("</svg>\n");
    }
    match &args.sweep {
        Some(sweep) => rows(&mut out, &sweep.what, answers),
        None => {
            let _ = writeln!(out, "<pre>{}</pre>", esc(&super::text::one(&answers[0])));
        }
    }
    out.push_str("</body></html>\n");
    out
}

/// Columns, with the value over each.
fn columns(out: &mut String, what: &str, names: &[String], values: &[f64], colour: &str) {
    let most = values.iter().copied().fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.1 } else { 1.0 };
    let y = |v: f64| BOTTOM - v / top * (BOTTOM - TOP);
    let step = (RIGHT - LEFT) / names.len() as f64;
    let _ =
        writeln!(out, "<path d=\"M{LEFT} {TOP}V{BOTTOM}H{RIGHT}\" fill=\"none\" stroke=\"#444\"/>");
    for part in [0.5, 1.0] {
        let v = most * part;
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {0:.1}H{RIGHT}\" stroke=\"#ddd\"/><text x=\"{1}\" y=\"{2:.1}\" text-anchor=\"end\">{3}</text>",
            y(v),
            LEFT - 6.0,
            y(v) + 4.0,
            number(v)
        );
    }
    for (i, (name, v)) in names.iter().zip(values).enumerate() {
        let x = LEFT + step * (i as f64 + 0.15);
        let _ = writeln!(
            out,
            "<rect x=\"{x:.1}\" y=\"{0:.1}\" width=\"{1:.1}\" height=\"{2:.1}\" fill=\"{colour}\"/>\
             <text x=\"{3:.1}\" y=\"{4:.1}\" text-anchor=\"middle\">{5}</text>\
             <text x=\"{3:.1}\" y=\"{6}\" text-anchor=\"middle\">{7}</text>",
            y(*v),
            step * 0.7,
            BOTTOM - y(*v),
            x + step * 0.35,
            y(*v) - 4.0,
            if names.len() <= 12 { number(*v) } else { String::new() },
            BOTTOM + 16.0,
            esc(name)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 34.0,
        esc(what)
    );
}

fn number(v: f64) -> String {
    match v {
        _ if v >= 1e6 => format!("{:.2} M", v / 1e6),
        _ if v >= 1e4 => format!("{:.0} k", v / 1e3),
        _ if v >= 100.0 => format!("{v:.0}"),
        _ if v == 0.0 => "0".to_owned(),
        _ => format!("{v:.2}"),
    }
}

fn rows(out: &mut String, what: &str, answers: &[Answer]) {
    let _ = writeln!(
        out,
        "<table><tr><th>{}</th><th>delivered</th><th>lost</th><th>p50</th><th>p99</th><th>first lost</th></tr>",
        esc(what)
    );
    for a in answers {
        let first = a.outcome.first.map_or("–".to_owned(), |(stage, why, ..)| place(stage, why));
        let _ = writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td>{:.2} %</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            esc(a.value.as_deref().unwrap_or_default()),
            rate(per_s(&a.spec, a.outcome.delivered)),
            a.outcome.lost() * 100.0,
            time(a.outcome.latency.percentile(0.5) as f64),
            time(a.outcome.latency.percentile(0.99) as f64),
            esc(&first)
        );
    }
    out.push_str("</table>\n");
}

fn esc(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
