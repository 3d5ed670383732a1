//! The curves as a picture: in the terminal, and for a browser.

use std::fmt::Write;

use super::Curve;

/// Columns and rows of the picture in the terminal.
const COLS: usize = 72;
const ROWS: usize = 18;

/// The ends of both axes, in packets per second.
fn ends(curves: &[Curve]) -> (f64, f64) {
    let points = || curves.iter().flat_map(|c| &c.points);
    let x = points().map(|p| p.offered).fold(1.0, f64::max);
    let y = points().map(|p| p.delivered).fold(1.0, f64::max);
    (x, y * 1.05)
}

/// Offered load from left to right, delivered load upwards; the curves are drawn as lines between
/// the points, and the last one drawn is on top.
pub fn text(curves: &[Curve], capacity: f64) -> String {
    let (x_end, y_end) = ends(curves);
    let column = |x: f64| ((x / x_end) * (COLS - 1) as f64).round() as usize;
    let row = |y: f64| ROWS - 1 - ((y / y_end) * (ROWS - 1) as f64).round() as usize;
    let mut grid = vec![[' '; COLS]; ROWS];
    grid[row(capacity.min(y_end))] = ['·'; COLS];
    for curve in curves {
        for pair in curve.points.windows(2) {
            let (a, b) = (&pair[0], &pair[1]);
            let (from, to) = (column(a.offered), column(b.offered));
            for at in from..=to.max(from) {
                let part = if to > from { (at - from) as f64 / (to - from) as f64 } else { 0.0 };
                let y = a.delivered + (b.delivered - a.delivered) * part;
                grid[row(y)][at.min(COLS - 1)] = curve.mode.mark();
            }
        }
    }
    let mut out = String::from("delivered, thousands a second\n");
    for (at, line) in grid.iter().enumerate() {
        let y = y_end * (ROWS - 1 - at) as f64 / (ROWS - 1) as f64 / 1e3;
        let label = if at % 3 == 2 || at == ROWS - 1 { format!("{y:.0}") } else { String::new() };
        let line: String = line.iter().collect();
        let _ = writeln!(out, "{label:>8} │{}", line.trim_end());
    }
    let _ = writeln!(out, "{:>8} └{}", "", "─".repeat(COLS));
    let half = x_end / 2e3;
    let _ = writeln!(out, "{:>10}{:>36.0}{:>36.0} offered", "0", half, x_end / 1e3);
    let names: Vec<String> =
        curves.iter().map(|c| format!("{} {}", c.mode.mark(), c.mode.name())).collect();
    let _ = writeln!(out, "{:>10}{}, · what the loop can do at the most", "", names.join(", "));
    out
}

/// A page with the picture and the figures behind it; nothing is loaded from elsewhere.
pub fn html(curves: &[Curve], capacity: f64, work: u64) -> String {
    const COLOURS: [&str; 3] = ["#c0392b", "#d68910", "#1e8449"];
    let (x_end, y_end) = ends(curves);
    let x = |v: f64| 60.0 + v / x_end * 620.0;
    let y = |v: f64| 340.0 - v / y_end * 310.0;
    let mut out = String::from(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <title>Receive livelock</title>\n<style>body{font:14px sans-serif;margin:2em;max-width:60em}\
         table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right}</style></head>\n\
         <body><h1>Offered and delivered load</h1>\n",
    );
    let _ = writeln!(
        out,
        "<p>The reader works {work} ns on each datagram; thousands of packets a second.</p>\n\
         <svg viewBox=\"0 0 700 390\" width=\"700\" role=\"img\">\
         <path d=\"M60 30V340H680\" fill=\"none\" stroke=\"#444\"/>\
         <path d=\"M60 {0:.1}H680\" stroke=\"#bbb\" stroke-dasharray=\"4\"/>",
        y(capacity.min(y_end))
    );
    for part in [0.25, 0.5, 0.75, 1.0] {
        let (at_x, at_y) = (x(x_end * part), y(y_end * part));
        let _ = writeln!(
            out,
            "<text x=\"{at_x:.0}\" y=\"358\" text-anchor=\"middle\">{:.0}</text>\
             <text x=\"52\" y=\"{:.0}\" text-anchor=\"end\">{:.0}</text>",
            x_end * part / 1e3,
            at_y + 5.0,
            y_end * part / 1e3
        );
    }
    for (curve, colour) in curves.iter().zip(COLOURS) {
        let points: Vec<String> = curve
            .points
            .iter()
            .map(|p| format!("{:.1},{:.1}", x(p.offered), y(p.delivered)))
            .collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        if let Some(last) = curve.points.last() {
            let _ = writeln!(
                out,
                "<text x=\"{:.0}\" y=\"{:.0}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
                x(last.offered),
                y(last.delivered) - 6.0,
                curve.mode.name()
            );
        }
    }
    out.push_str("<text x=\"370\" y=\"380\" text-anchor=\"middle\">offered</text></svg>\n");
    table(&mut out, curves);
    out.push_str("</body></html>\n");
    out
}

fn table(out: &mut String, curves: &[Curve]) {
    out.push_str(
        "<table><tr><th>loop</th><th>offered</th><th>delivered</th><th>lost in the ring</th>\
         <th>lost at the socket</th></tr>\n",
    );
    for curve in curves {
        for p in &curve.points {
            let cells = [p.offered, p.delivered, p.lost_ring, p.lost_queue];
            let cells: String = cells.iter().map(|c| format!("<td>{:.0}</td>", c / 1e3)).collect();
            let _ = writeln!(out, "<tr><td>{}</td>{cells}</tr>", curve.mode.name());
        }
    }
    out.push_str("</table>\n");
}
