//! What `bench tcp-scale` prints, as bars, and as curves of what grows with connections, batches and sizes.

use serde_json::Value;

use super::read::{Bar, Curve, Figures, group, list, range, text};

pub(super) fn of_tcp_scale(said: &Value) -> Figures {
    let mut out = Figures::default();
    for row in list(&said["rows"]) {
        let (who, unit) = (text(&row["who"]), text(&row["unit"]));
        let name = format!("{}, {who}", text(&row["name"]));
        let Some(median) = row["spread"]["median"].as_f64() else {
            out.notes.push(format!("not measured: {name}"));
            continue;
        };
        let bar = Bar {
            name,
            ours: who == "linerate",
            median,
            range: range(&row["samples"], median),
            target: row["target"].as_str().map(str::to_owned),
        };
        grow(&mut out.curves, &text(&row["name"]), &who, median);
        // Rates are the better the more there are; whether a ratio is good its target says.
        let more = match unit.as_str() {
            "Gb/s" | "1/s" | "/s" | "%" => Some(true),
            "ns" | "B" | "KiB" => Some(false),
            _ => None,
        };
        let title = format!("TCP in memory, {unit}");
        group(&mut out.groups, &title, &unit, more).bars.push(bar);
    }
    for curve in &mut out.curves {
        curve.lines.retain(|(_, points)| points.len() > 1);
        curve.lines.iter_mut().for_each(|(_, points)| points.sort_by(|a, b| a.0.total_cmp(&b.0)));
    }
    out.curves.retain(|curve| !curve.lines.is_empty());
    out
}

/// What grows in rows with such names: the name's begin and end, the title, what is across.
const GROWING: [(&str, &str, &str, &str); 3] = [
    ("packet, ", " at random", "connections: a packet to one of so many, at random", "connections"),
    (
        "packet, 256 connections, ",
        " at a time",
        "batches: a packet in turns of so many requests",
        "requests in a turn",
    ),
    ("packet of ", " bytes", "packets of so many bytes, both ends", "bytes in a packet"),
];

/// A row that is a point of a line is put there.
fn grow(curves: &mut Vec<Curve>, name: &str, who: &str, median: f64) {
    let point = |(begin, end, title, across): (&str, &str, &'static str, &'static str)| {
        let n = name.strip_prefix(begin)?.strip_suffix(end)?;
        let n = n.trim_end_matches(" connections").trim_end_matches(" connection");
        Some((n.parse::<f64>().ok()?, title, across))
    };
    let Some((x, title, across)) = GROWING.into_iter().find_map(point) else { return };
    let at = curves.iter().position(|c| c.title == title).unwrap_or_else(|| {
        let (title, across, unit) = (title.to_owned(), across.to_owned(), "ns".to_owned());
        curves.push(Curve { title, across, unit, log: true, lines: Vec::new() });
        curves.len() - 1
    });
    let lines = &mut curves[at].lines;
    match lines.iter_mut().find(|(line, _)| line == who) {
        Some((_, points)) => points.push((x, median)),
        None => lines.push((who.to_owned(), vec![(x, median)])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rows_that_differ_by_a_number_are_a_curve() {
        let row = |who: &str, name: &str, ns: f64| json!({"who": who, "name": name, "unit": "ns/packet", "spread": {"median": ns}, "samples": [ns]});
        let said = json!({"rows": [
            row("linerate", "packet, 1000 connections at random", 170.0),
            row("linerate", "packet, 1 connection at random", 160.0),
            row("smoltcp", "packet, 1 connection at random", 140.0),
            row("linerate", "packet, 256 connections, 1 at a time", 280.0),
            row("linerate", "packet, 256 connections, 64 at a time", 150.0),
            row("linerate", "packet of 64 bytes", 300.0),
            row("linerate", "memory", 932.0),
        ]});
        let figures = of_tcp_scale(&said);
        let lines: Vec<_> = figures.curves.iter().map(|c| c.lines.clone()).collect();
        let line = |points: &[(f64, f64)]| vec![("linerate".to_owned(), points.to_vec())];
        // One point is no line.
        assert_eq!(
            lines,
            [line(&[(1.0, 160.0), (1000.0, 170.0)]), line(&[(1.0, 280.0), (64.0, 150.0)])]
        );
        let bars: usize = figures.groups.iter().map(|g| g.bars.len()).sum();
        assert_eq!(bars, 7);
    }
}
