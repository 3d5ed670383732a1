//! The path as a picture: bands as wide as their rate, losses in red where they happen.

use std::fmt::Write as _;

use linerate_core::table::Stage;
use linerate_core::table::stage::Dir;

use super::super::path::Stop;
use super::super::text::rate;
use super::esc;

/// Pixels from one stop to the next.
const STEP: f64 = 120.0;
/// A stop's box.
const BOX: f64 = 74.0;
/// The widest band.
const BAND: f64 = 44.0;
/// The height of one way without losses, and of the name of one.
const LANE: f64 = 140.0;
const LOSS: f64 = 28.0;
/// Where the middle of the band lies in it.
const MIDDLE: f64 = 86.0;
/// Room for the names of losses at the first and the last stop.
const MARGIN: f64 = 40.0;
/// Losses that are named at one stop; the others are summed.
const NAMED: usize = 4;

/// Both ways.
pub fn journey(out: &mut String, stops: &[Stop]) {
    let (rx, tx): (Vec<&Stop>, Vec<&Stop>) =
        stops.iter().partition(|s| s.stage.row().dir == Dir::Rx);
    let most = stops.iter().filter_map(|s| s.pkts).fold(0.0, f64::max);
    let scale = Scale { most: most.max(1.0) };
    let width = STEP * rx.len().max(tx.len()) as f64;
    let below = lane_height(&rx);
    let _ = writeln!(
        out,
        "<svg viewBox=\"{} 0 {} {}\" role=\"img\" aria-label=\"the path from the NIC to the socket and \
         back\">",
        -MARGIN,
        width + 2.0 * MARGIN,
        below + lane_height(&tx)
    );
    lane(out, &rx, "receive: from the NIC to the socket", 0.0, &scale);
    lane(out, &tx, "transmit: from the socket to the NIC", below, &scale);
    out.push_str(
        "</svg>\n<p class=\"facts\">Packets a second. Widths grow as the square root of the rate; red is what \
         is lost, grey what is given up to nobody's harm. GRO merges packets before Ip, so that fewer pass there.</p>\n",
    );
}

fn lane_height(stops: &[&Stop]) -> f64 {
    let named = stops.iter().map(|s| s.lost.len().min(NAMED + 1)).max().unwrap_or(0);
    LANE + if named > 0 { 20.0 + LOSS * named as f64 } else { 0.0 }
}

struct Scale {
    most: f64,
}

impl Scale {
    /// How wide a band of this rate is; what is not nothing can be seen.
    fn width(&self, rate: f64) -> f64 {
        if rate > 0.0 { ((rate / self.most).min(1.0).sqrt() * BAND).max(1.5) } else { 0.0 }
    }
}

fn lane(out: &mut String, stops: &[&Stop], title: &str, top: f64, scale: &Scale) {
    let _ = writeln!(out, "<text class=\"dim\" x=\"4\" y=\"{}\">{title}</text>", top + 16.0);
    let middle = top + MIDDLE;
    let mut flow: Option<f64> = None;
    for (i, stop) in stops.iter().enumerate() {
        let x = STEP * i as f64;
        // What nothing counts is what came from the stop before; where only some turn in, the others go by.
        let here = match (stop.pkts, flow) {
            (Some(some), Some(all)) if is_aside(stop.stage) => Some(some.max(all)),
            (pkts, flow) => pkts.or(flow),
        };
        if let Some(w) = here.map(|rate| scale.width(rate)) {
            let _ = writeln!(
                out,
                "<rect class=\"flow\" x=\"{x}\" y=\"{}\" width=\"{STEP}\" height=\"{w:.1}\"/>",
                middle - w / 2.0
            );
        }
        flow = here.map(|rate| (rate - stop.loss()).max(0.0));
        self::stop(out, stop, x, middle, scale);
    }
}

/// Stops that not every packet makes.
fn is_aside(stage: Stage) -> bool {
    matches!(stage, Stage::Xdp | Stage::Reasm | Stage::Frag | Stage::Neigh | Stage::Qdisc)
}

fn stop(out: &mut String, stop: &Stop, x: f64, middle: f64, scale: &Scale) {
    let (left, high) = (x + (STEP - BOX) / 2.0, 34.0);
    let centre = x + STEP / 2.0;
    let loss = stop.loss();
    if loss > 0.0 {
        let w = scale.width(loss);
        let _ = writeln!(
            out,
            "<path class=\"drop\" d=\"M{:.1} {middle} h{w:.1} v56 l{:.1} 10 l{:.1} -10 z\"/>",
            centre - w / 2.0,
            -w / 2.0,
            -w / 2.0,
        );
    }
    let hit = if loss > 0.0 { " hit" } else { "" };
    let _ = writeln!(
        out,
        "<g><title>{}</title><rect class=\"box{hit}\" x=\"{left}\" y=\"{}\" width=\"{BOX}\" \
         height=\"{high}\" rx=\"5\"/>\
         <text x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        esc(stop.stage.row().help.trim()),
        middle - high / 2.0,
        middle - 1.0,
        label(stop.stage)
    );
    let shown = stop.pkts.map_or("·".to_owned(), rate);
    let _ = writeln!(
        out,
        "<text class=\"dim\" x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{shown}</text></g>",
        middle + 12.0
    );
    above(out, stop, left, middle - high / 2.0);
    let mut y = middle + 80.0;
    let (named, others) = stop.lost.split_at(stop.lost.len().min(NAMED));
    let rest: f64 = others.iter().map(|l| l.per_s).sum();
    let rest = (rest > 0.0).then_some(("others", "dim", rest));
    let named = named.iter().map(|l| (l.what, if l.expected { "dim" } else { "lost" }, l.per_s));
    for (what, class, per_s) in named.chain(rest) {
        let _ = writeln!(
            out,
            "<text class=\"{class}\" x=\"{centre}\" y=\"{y}\" text-anchor=\"middle\">{}</text>\
             <text class=\"{class}\" x=\"{centre}\" y=\"{}\" text-anchor=\"middle\">{}/s</text>",
            esc(what),
            y + 12.0,
            rate(per_s)
        );
        y += LOSS;
    }
}

/// What waits, and what else moved, above the box.
fn above(out: &mut String, stop: &Stop, left: f64, top: f64) {
    let mut y = top - 6.0;
    if let Some(depth) = stop.depth {
        if let Some(max) = depth.max.filter(|max| *max > 0) {
            let part = (depth.now as f64 / max as f64).min(1.0);
            let _ = writeln!(
                out,
                "<rect class=\"axis\" x=\"{left}\" y=\"{}\" width=\"{BOX}\" height=\"3\" \
                 fill=\"none\"/><rect class=\"fill\" x=\"{left}\" y=\"{}\" width=\"{:.1}\" height=\"3\"/>",
                y - 1.0,
                y - 1.0,
                part * BOX
            );
            y -= 6.0;
        }
        let _ = writeln!(
            out,
            "<text class=\"dim\" x=\"{left}\" y=\"{y}\">{} {}</text>",
            crate::report::grouped(depth.now),
            depth.unit
        );
        y -= 13.0;
    }
    for (what, per_s) in stop.moved.iter().take(2) {
        let _ = writeln!(
            out,
            "<text class=\"dim\" x=\"{left}\" y=\"{y}\">{} {}/s</text>",
            esc(what),
            rate(*per_s)
        );
        y -= 13.0;
    }
}

/// The stage's name; the first and the last are known by another one as well.
fn label(stage: Stage) -> &'static str {
    match stage {
        Stage::Ring => "NIC ring",
        Stage::SockQueue => "Socket",
        Stage::Send => "Socket",
        Stage::Xmit => "NIC",
        stage => stage.name(),
    }
}
