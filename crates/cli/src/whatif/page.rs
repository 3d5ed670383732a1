//! Answers as a page with pictures; nothing is loaded from elsewhere.

use std::fmt::Write as _;

use super::Answer;
use super::args::WhatifArgs;
use super::text::{busiest, common, machine, per_s, place, rate, time};
use crate::draw::{H, Svg, W, columns, esc, notes};

const STYLE: &str = "body{font:14px/1.5 sans-serif;margin:2em auto;max-width:56em;color:#222}\
table{border-collapse:collapse}td,th{padding:.25em .8em;text-align:right;border-bottom:1px solid #ddd}\
pre{background:#f6f6f4;padding:.8em}svg text{font:12px sans-serif;fill:#333}";

/// What is drawn: title, values, what is said of each beside its value, colour.
type Plot = (&'static str, Vec<f64>, Vec<String>, &'static str);

/// Title of the axis below, names below the columns, and the pictures.
fn plots(args: &WhatifArgs, answers: &[Answer]) -> (String, Vec<String>, Vec<Plot>) {
    let Some(sweep) = &args.sweep else {
        let busy: Vec<f64> = answers[0].outcome.busy.iter().map(|b| b * 100.0).collect();
        let names = (0..busy.len()).map(|c| c.to_string()).collect();
        return (
            "cpu".to_owned(),
            names,
            vec![("work of each processor, percent", busy, Vec::new(), "#b7791f")],
        );
    };
    let names = answers.iter().map(|a| a.value.clone().unwrap_or_default()).collect();
    let of = |f: &dyn Fn(&Answer) -> f64| answers.iter().map(f).collect::<Vec<f64>>();
    let first = |a: &Answer| a.outcome.first.map(|(stage, ..)| format!("at {}", stage.name()));
    let first = answers.iter().map(|a| first(a).unwrap_or_default()).collect();
    let work = |a: &Answer| {
        let all: f64 = a.outcome.busy.iter().sum();
        format!("all: {all:.1}")
    };
    let plots = vec![
        (
            "delivered, packets a second",
            of(&|a| per_s(&a.spec, a.outcome.delivered)),
            Vec::new(),
            "#8fc1d4",
        ),
        ("lost, percent, and where the first", of(&|a| a.outcome.lost() * 100.0), first, "#e3a49c"),
        (
            "latency that 99 of 100 packets do not exceed, µs",
            of(&|a| a.outcome.latency.percentile(0.99) as f64 / 1e3),
            Vec::new(),
            "#bba8d3",
        ),
        (
            "work of the busiest processor, percent; of all, in processors",
            of(&|a| busiest(&a.outcome) * 100.0),
            answers.iter().map(work).collect(),
            "#dfbd86",
        ),
    ];
    (sweep.what.clone(), names, plots)
}

/// What the machines have in common.
fn head(args: &WhatifArgs, answers: &[Answer]) -> String {
    match &args.sweep {
        Some(sweep) => common(sweep, answers),
        None => machine(&answers[0].spec),
    }
}

/// The pictures alone, as one SVG.
pub fn svg(args: &WhatifArgs, answers: &[Answer]) -> String {
    let (what, names, plots) = plots(args, answers);
    let mut file = Svg::below(&head(args, answers));
    for (title, values, said, colour) in plots {
        file.plot(title, |out| {
            columns(out, &what, &names, &values, colour);
            notes(out, &said);
        });
    }
    file.end()
}

/// The page.
pub fn page(args: &WhatifArgs, answers: &[Answer]) -> String {
    let mut out = format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>linerate whatif</title>\
         <style>{STYLE}</style></head>\n<body><h1>What if</h1>\n<pre>{}</pre>\n",
        esc(&head(args, answers))
    );
    let (what, names, plots) = plots(args, answers);
    for (title, values, said, colour) in plots {
        let title = esc(title);
        let _ = writeln!(
            out,
            "<h2>{title}</h2>\n<svg viewBox=\"0 0 {W} {H}\" width=\"{W}\" role=\"img\" aria-label=\"{title}\">"
        );
        columns(&mut out, &what, &names, &values, colour);
        notes(&mut out, &said);
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
