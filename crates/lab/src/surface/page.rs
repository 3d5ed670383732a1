//! The surface as tables, as a page, and as a picture.

use std::fmt::Write as _;

use super::{Cell, Line, Plan, Seen};

/// Hundredths as people write them, such as `0.5`.
fn hundredths(n: u64) -> String {
    let text = format!("{}.{:02}", n / 100, n % 100);
    let short = text.strip_suffix('0').unwrap_or(&text);
    short.to_owned()
}

/// A loss in percent.
fn percent(ppm: u32) -> String {
    match ppm {
        0 => "0".to_owned(),
        _ if ppm.is_multiple_of(10_000) => (ppm / 10_000).to_string(),
        _ => format!("{}.{:04}", ppm / 10_000, ppm % 10_000).trim_end_matches('0').to_owned(),
    }
}

/// Both tables.
pub fn tables(plan: &Plan, lines: &[Line], cases: &[(Cell, Seen)]) -> String {
    let mut out = String::from("| congestion control | round trip | buffer |");
    for loss in &plan.losses {
        let _ = write!(out, " {} % |", percent(*loss));
    }
    let _ = writeln!(out, "\n|---|---:|---:|{}", "---:|".repeat(plan.losses.len()));
    for Line { control, rtt_ms, buffer, shares } in lines {
        let _ = write!(out, "| {control} | {rtt_ms} ms | {} |", hundredths(*buffer));
        for share in shares {
            let _ = write!(out, " {share:.2} |");
        }
        out.push('\n');
    }
    out += "\n## Several at one link\n\n\
            Connections of one kind that begin at once, without loss but that of a full buffer: what they get together,\n\
            Jain's index of their shares (1.00 = all the same), and how long packets wait before the link.\n\n\
            | congestion control | connections | round trip | buffer | share | fairness | queue median, ms | 95 %, ms |\n\
            |---|---:|---:|---:|---:|---:|---:|---:|\n";
    for (cell, seen) in cases {
        let Cell { control, rtt_ms, buffer, flows, .. } = cell;
        let _ = writeln!(
            out,
            "| {control} | {flows} | {rtt_ms} ms | {} | {:.2} | {:.2} | {:.1} | {:.1} |",
            hundredths(*buffer),
            seen.share(),
            seen.fairness(),
            seen.queue(50),
            seen.queue(95),
        );
    }
    out
}

/// The page: docs/SURFACE.md.
pub fn page(plan: &Plan, lines: &[Line], cases: &[(Cell, Seen)]) -> String {
    let Plan { mbit, secs, .. } = plan;
    let mut out = format!(
        "# Throughput surface\n\n\
         <!-- Generated: LINERATE_BLESS=1 cargo test -p linerate-lab --test surface -->\n\n\
         What one connection gets of a link of {mbit} Mbit/s (1.00 = all the payload that it carries), by congestion\n\
         control, round trip, buffer before the link (in rate times round trip, two packets at least; what does not fit\n\
         is dropped), and packets lost at random on the way there (columns, in percent).\n\n\
         ![Share of the link by loss, round trip and buffer](pictures/surface.svg)\n\n\
         The stacks are real, the time is virtual: {secs} s, or {} round trips where these are longer, of which the first\n\
         quarter does not count. One seed, so that figures are the same on every machine, and a test compares each of\n\
         them: what a change to TCP does to any path shows in the change to this page. `linerate-lab surface` prints a\n\
         larger one, at any rate.\n\n",
        secs * 10
    );
    out += "- **CUBIC and Reno** take a loss for a full link: about 1.22 segments through the root of the loss rate go in a\n  \
            round trip (RFC 9438 §5), so that loss takes the more the longer the way is.\n\
            - **BBR** goes by delivery rate, and lets go where more than 2 % are lost in a round trip.\n\
            - **DCTCP** has a link that marks what finds more than a seventh of a round trip's bytes before it, and ECN at\n  \
            both ends. To a lost packet it answers as Reno does.\n\
            - **Two packets** before the link leave windows of three or four segments, of which the last one's acknowledgement\n  \
            waits, in Linux as here: Reno between two hosts with Linux 6.18 had 0.74 of such a link at 1 ms.\n\
            - A share just above 1.00 is of bytes that waited behind a lost packet when the count began.\n\n";
    out + &tables(plan, lines, cases)
}

/// Width and height of a field, and where the first panel has its first.
const W: f64 = 54.0;
const H: f64 = 19.0;
const LEFT: f64 = 130.0;
const TOP: f64 = 84.0;

/// The picture of the surface: a panel for each congestion control, two in a row, and in it a field for
/// each cell, the darker the more.
pub fn picture(plan: &Plan, lines: &[Line]) -> String {
    let rows = plan.rtts.len() * plan.buffers.len();
    let (wide, high) = (W * plan.losses.len() as f64 + 24.0, H * rows as f64 + 60.0);
    let mut out = String::new();
    let panels = lines.chunks(rows.max(1));
    let (columns, below) = (panels.len().min(2), panels.len().div_ceil(2));
    for (n, lines) in panels.enumerate() {
        let at = (LEFT + wide * (n % 2) as f64, TOP + high * (n / 2) as f64);
        panel(&mut out, plan, lines, at);
    }
    let (width, height) = (LEFT + wide * columns as f64, TOP + high * below as f64 - 36.0);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"12\" y=\"22\" fill=\"#555\">share of a link of {} Mbit/s, by packets lost (columns), round trip and buffer \
         in round trips (rows)</text>\n{out}</svg>\n",
        plan.mbit
    )
}

fn panel(out: &mut String, plan: &Plan, lines: &[Line], (left, top): (f64, f64)) {
    let control = lines.first().map_or("", |line| line.control);
    let _ =
        writeln!(out, "<text x=\"{left}\" y=\"{}\" font-size=\"14\">{control}</text>", top - 28.0);
    for (column, loss) in plan.losses.iter().enumerate() {
        let x = left + W * (column as f64 + 0.5);
        let (y, loss) = (top - 8.0, percent(*loss));
        let _ = writeln!(out, "<text x=\"{x}\" y=\"{y}\" text-anchor=\"middle\">{loss} %</text>");
    }
    for (row, line) in lines.iter().enumerate() {
        // A little air between round trips.
        let y = top + H * row as f64 + 3.0 * (row / plan.buffers.len()) as f64;
        if left == LEFT {
            let (buffer, rtt) = (hundredths(line.buffer), line.rtt_ms);
            let (x, y) = (LEFT - 8.0, y + 14.0);
            let _ = writeln!(
                out,
                "<text x=\"{x}\" y=\"{y}\" text-anchor=\"end\">{rtt} ms, buffer {buffer}</text>"
            );
        }
        for (column, share) in line.shares.iter().enumerate() {
            let x = left + W * column as f64;
            // Where a letter is read better in white than in black.
            let ink = if *share > 0.8 { "#fff" } else { "#222" };
            let _ = writeln!(
                out,
                "<rect x=\"{x}\" y=\"{y}\" width=\"{W}\" height=\"{H}\" fill=\"#1e6f8e\" fill-opacity=\"{:.2}\" stroke=\"#fff\"/>\
                 <text x=\"{}\" y=\"{}\" fill=\"{ink}\" text-anchor=\"middle\">{share:.2}</text>",
                share.min(1.0),
                x + W / 2.0,
                y + 14.0
            );
        }
    }
}
