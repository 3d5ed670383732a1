//! What moved over time, a chart each.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use linerate_core::table::Stage;
use linerate_host::Window;

use super::super::path::{Stop, View, journey};
use super::super::text::rate;
use super::esc;

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 90.0;
/// Losses that have a chart of their own.
const LOSSES_MAX: usize = 12;

/// One chart: a value for each window, where it is known.
struct Series {
    title: String,
    unit: &'static str,
    values: Vec<Option<f64>>,
    red: bool,
}

/// Charts of a run; a sentence where there is but one moment.
pub fn charts(out: &mut String, windows: &[Window<'_>]) {
    if windows.len() < 2 {
        out.push_str("<p class=\"facts\">One window only: nothing to draw over time.</p>\n");
        return;
    }
    let begin = windows[0].from.map_or(0, |s| s.monotonic_ns);
    let at = |w: &Window<'_>| w.to.monotonic_ns.saturating_sub(begin) as f64 / 1e9;
    let times: Vec<f64> = windows.iter().map(at).collect();
    out.push_str("<div class=\"charts\">\n");
    all(windows).iter().for_each(|s| chart(out, s, &times));
    out.push_str("</div>\n");
}

fn all(windows: &[Window<'_>]) -> Vec<Series> {
    let journeys: Vec<Vec<Stop>> = windows.iter().map(|w| journey(&View::new(*w, None))).collect();
    let of = |stage: Stage, value: fn(&Stop) -> Option<f64>| -> Vec<Option<f64>> {
        journeys.iter().map(|stops| value(stops.iter().find(|s| s.stage == stage)?)).collect()
    };
    let mut series: Vec<Series> = losses(&journeys)
        .into_iter()
        .map(|(title, values)| Series { title, unit: "lost/s", values, red: true })
        .collect();
    let mut add = |title: &str, unit, values: Vec<Option<f64>>| {
        if values.iter().flatten().any(|n| *n > 0.0) {
            series.push(Series { title: title.to_owned(), unit, values, red: false });
        }
    };
    add("received", "packets/s", of(Stage::Ring, |s| s.pkts));
    add("sent", "packets/s", of(Stage::Xmit, |s| s.pkts));
    add("received", "bytes/s", of(Stage::Ring, |s| s.bytes));
    add("sent", "bytes/s", of(Stage::Xmit, |s| s.bytes));
    let softirq = windows.iter().map(busiest).collect();
    add("softirq share of the busiest processor", "%", softirq);
    let moved = |s: &Stop| s.moved.first().map(|(_, n)| *n).or(Some(0.0));
    add("time_squeeze", "/s", of(Stage::Poll, moved));
    let waiting = |s: &Stop| s.depth.map(|d| d.now as f64);
    add("waiting in backlogs", "packets", of(Stage::Backlog, waiting));
    add("waiting in sockets", "bytes", of(Stage::SockQueue, waiting));
    add("waiting in qdiscs", "packets", of(Stage::Qdisc, waiting));
    let retrans = |w: &Window<'_>| w.mib("Tcp", "RetransSegs").map(|d| d.per_s);
    add("TCP segments sent again", "/s", windows.iter().map(retrans).collect());
    series
}

/// Every loss by its counter, the largest first.
fn losses(journeys: &[Vec<Stop>]) -> Vec<(String, Vec<Option<f64>>)> {
    let mut by: BTreeMap<String, Vec<Option<f64>>> = BTreeMap::new();
    for (i, stops) in journeys.iter().enumerate() {
        for (stop, lost) in stops.iter().flat_map(|s| s.lost.iter().map(move |l| (s, l))) {
            let title = format!("{}: {} {}", stop.stage.name(), lost.what, lost.subject);
            let values = by.entry(title).or_insert_with(|| vec![Some(0.0); journeys.len()]);
            values[i] = Some(values[i].unwrap_or(0.0) + lost.per_s);
        }
    }
    let total = |values: &[Option<f64>]| values.iter().flatten().sum::<f64>();
    let mut all: Vec<_> = by.into_iter().collect();
    all.sort_by(|a, b| total(&b.1).total_cmp(&total(&a.1)));
    all.truncate(LOSSES_MAX);
    all
}

fn busiest(w: &Window<'_>) -> Option<f64> {
    let shares = w.to.cpus.keys().filter_map(|cpu| w.cpu_share(*cpu, "softirq"));
    shares
        .map(|share| share * 100.0)
        .fold(None, |most: Option<f64>, n| Some(most.unwrap_or(0.0).max(n)))
}

fn chart(out: &mut String, s: &Series, times: &[f64]) {
    let most = s.values.iter().flatten().copied().fold(0.0, f64::max);
    let last = times.last().copied().unwrap_or(1.0).max(1e-3);
    let mut path = String::new();
    let mut pen = 'M';
    for (value, time) in s.values.iter().zip(times) {
        let Some(value) = value else {
            pen = 'M';
            continue;
        };
        let (x, y) = (time / last * WIDTH, HEIGHT - value / most.max(1e-9) * (HEIGHT - 8.0));
        let _ = write!(path, "{pen}{x:.1} {y:.1} ");
        pen = 'L';
    }
    let now = s.values.last().copied().flatten().map_or("unknown".to_owned(), rate);
    let (title, most, red) = (esc(&s.title), rate(most), if s.red { " red" } else { "" });
    let (base, low, unit) = (HEIGHT + 13.0, HEIGHT + 16.0, s.unit);
    let _ = writeln!(
        out,
        "<figure><figcaption>{title}: at most {most} {unit}, at the end {now}</figcaption>\
         <svg viewBox=\"0 0 {WIDTH} {low}\" role=\"img\" aria-label=\"{title}\">\
         <path class=\"axis\" d=\"M0 {HEIGHT} H{WIDTH}\"/><path class=\"curve{red}\" d=\"{path}\"/>\
         <text class=\"dim\" x=\"0\" y=\"{base}\">0</text>\
         <text class=\"dim\" x=\"{WIDTH}\" y=\"{base}\" text-anchor=\"end\">{last:.1} s</text></svg></figure>"
    );
}
