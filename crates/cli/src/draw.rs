//! Plots as SVG: one below the other in a file of their own, or each in a page.

use std::fmt::Write as _;

/// Width and height of a plot in pixels, and where its axes are.
pub const W: f64 = 720.0;
/// Its height.
pub const H: f64 = 220.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 16.0;
const BOTTOM: f64 = 180.0;

/// A file of plots.
pub struct Svg {
    plots: String,
    n: usize,
    /// Where the first plot begins, below what stands above all of them.
    begin: f64,
}

impl Svg {
    /// Without any.
    pub fn new() -> Svg {
        Svg { plots: String::new(), n: 0, begin: 0.0 }
    }
    /// Without any, below some lines of text.
    pub fn below(text: &str) -> Svg {
        let (mut plots, mut y) = (String::new(), 20);
        for line in text.lines() {
            let _ = writeln!(plots, "<text x=\"12\" y=\"{y}\" fill=\"#555\">{}</text>", esc(line));
            y += 16;
        }
        Svg { plots, n: 0, begin: f64::from(y - 4) }
    }
    /// One more, below the others.
    pub fn plot(&mut self, title: &str, draw: impl FnOnce(&mut String)) {
        let top = self.begin + (H + 30.0) * self.n as f64;
        let _ = writeln!(
            self.plots,
            "<text x=\"{LEFT}\" y=\"{:.0}\" font-size=\"14\">{}</text><g transform=\"translate(0 {:.0})\">",
            top + 20.0,
            esc(title),
            top + 28.0
        );
        draw(&mut self.plots);
        self.plots.push_str("</g>\n");
        self.n += 1;
    }
    /// The file.
    pub fn end(self) -> String {
        let height = self.begin + (H + 30.0) * self.n as f64;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {W} {height}\" width=\"{W}\" \
             font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
             {}</svg>\n",
            self.plots
        )
    }
}

/// The axes, with half and all of `most` on the left one, which ends at `top`; what is below.
fn axes(out: &mut String, what: &str, most: f64, y: impl Fn(f64) -> f64) {
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
    let _ = writeln!(
        out,
        "<text x=\"{}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        (LEFT + RIGHT) / 2.0,
        BOTTOM + 34.0,
        esc(what)
    );
}

/// Columns, with the value over each; `what` they are of.
pub fn columns(out: &mut String, what: &str, names: &[String], values: &[f64], colour: &str) {
    let most = values.iter().copied().fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.1 } else { 1.0 };
    let y = |v: f64| BOTTOM - v / top * (BOTTOM - TOP);
    let step = (RIGHT - LEFT) / names.len() as f64;
    axes(out, what, most, y);
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
}

/// A word at the foot of each of a few columns.
pub fn notes(out: &mut String, notes: &[String]) {
    let step = (RIGHT - LEFT) / notes.len().max(1) as f64;
    for (i, note) in notes.iter().enumerate().filter(|_| notes.len() <= 6) {
        let (x, y) = (LEFT + step * (i as f64 + 0.5), BOTTOM - 8.0);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" font-size=\"11\">{}</text>",
            esc(note)
        );
    }
}

/// A line over time: points of seconds and value.
pub struct Line<'a> {
    /// What it is.
    pub name: &'a str,
    /// Its colour.
    pub colour: &'a str,
    /// Its points, by time.
    pub points: &'a [(f64, f64)],
}

/// Lines over time, from 0 to `end` seconds, their names above them.
pub fn lines(out: &mut String, what: &str, end: f64, lines: &[Line<'_>]) {
    let values = lines.iter().flat_map(|l| l.points).map(|p| p.1);
    let most = values.fold(0.0, f64::max);
    let top = if most > 0.0 { most * 1.1 } else { 1.0 };
    let y = |v: f64| BOTTOM - v / top * (BOTTOM - TOP);
    let x = |t: f64| LEFT + t / end * (RIGHT - LEFT);
    axes(out, what, most, y);
    for n in 0..=10 {
        let t = end * n as f64 / 10.0;
        let (at, below) = (x(t), BOTTOM + 16.0);
        let _ =
            writeln!(out, "<text x=\"{at:.1}\" y=\"{below}\" text-anchor=\"middle\">{t}</text>");
    }
    for (n, line) in lines.iter().enumerate() {
        let Line { name, colour, points } = line;
        let mut path = String::new();
        for (i, (t, v)) in points.iter().enumerate() {
            let pen = if i == 0 { 'M' } else { 'L' };
            let _ = write!(path, "{pen}{:.1} {:.1}", x(*t), y(*v));
        }
        let _ = writeln!(
            out,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.2\"/>\
             <text x=\"{:.0}\" y=\"{}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
            RIGHT - 100.0 * (lines.len() - 1 - n) as f64,
            TOP - 4.0,
            esc(name)
        );
    }
}

/// A value as it stands at a plot.
pub fn number(v: f64) -> String {
    match v {
        _ if v >= 1e6 => format!("{:.2} M", v / 1e6),
        _ if v >= 1e4 => format!("{:.0} k", v / 1e3),
        _ if v >= 100.0 => format!("{v:.0}"),
        _ if v == 0.0 => "0".to_owned(),
        _ => format!("{v:.2}"),
    }
}

/// Text in a page.
pub fn esc(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
