//! What `bench tcp-scale` prints, as bars, and as curves of what grows with connections, batches, sizes and losses.

use serde_json::Value;

use super::read::{Bar, Curve, Figures, curve, group, list, range, text};

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
            "ns" | "ns/segment" | "B" | "KiB" => Some(false),
            _ => None,
        };
        let title = format!("TCP in memory, {unit}");
        group(&mut out.groups, &title, &unit, more).bars.push(bar);
    }
    out.curves.iter_mut().for_each(Curve::settle);
    out.curves.retain(|curve| !curve.lines.is_empty());
    out
}

/// Rows that differ by a number only.
struct Growing {
    /// The name's begin and end.
    name: (&'static str, &'static str),
    title: &'static str,
    across: &'static str,
    unit: &'static str,
    /// Each step across is a multiple of the one before.
    log: bool,
    /// What the line is called beside its owner, where one has several.
    line: &'static str,
}

static GROWING: [Growing; 6] = [
    Growing {
        name: ("packet, ", " at random"),
        title: "connections: a packet to one of so many, at random",
        across: "connections",
        unit: "ns",
        log: true,
        line: "",
    },
    Growing {
        name: ("packet, 256 connections, ", " at a time"),
        title: "batches: a packet in turns of so many requests",
        across: "requests in a turn",
        unit: "ns",
        log: true,
        line: "",
    },
    Growing {
        name: ("packet of ", " bytes"),
        title: "packets of so many bytes, both ends",
        across: "bytes in a packet",
        unit: "ns",
        log: true,
        line: "",
    },
    Growing { line: ", segments", ..lost(" % of segments lost, a pipe of 1000") },
    Growing { line: ", super-packets", ..lost(" % of super-packets lost, a pipe of 1000") },
    Growing {
        name: ("memory of an idle connection (RSS), ", " of them"),
        title: "memory of an idle connection, of so many",
        across: "connections",
        unit: "bytes",
        log: true,
        line: "",
    },
];

const fn lost(end: &'static str) -> Growing {
    Growing {
        name: ("", end),
        title: "loss: a segment of a stream of which so much is lost, both ends",
        across: "% lost; a thousand segments in a round trip",
        unit: "ns",
        // It begins with none.
        log: false,
        line: "",
    }
}

/// A row that is a point of a line is put there.
fn grow(curves: &mut Vec<Curve>, name: &str, who: &str, median: f64) {
    let point = |of: &'static Growing| {
        let n = name.strip_prefix(of.name.0)?.strip_suffix(of.name.1)?;
        let n = n.trim_end_matches(" connections").trim_end_matches(" connection");
        Some((n.parse::<f64>().ok()?, of))
    };
    let Some((x, of)) = GROWING.iter().find_map(point) else { return };
    curve(curves, of.title, (of.across, of.unit, of.log))
        .add(&format!("{who}{}", of.line), (x, median));
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
            row("linerate", "5 % of segments lost, a pipe of 1000", 400.0),
            row("linerate", "0.01 % of segments lost, a pipe of 1000", 200.0),
            row("linerate", "0 % of super-packets lost, a pipe of 1000", 20.0),
            row("linerate", "1 % of super-packets lost, a pipe of 1000", 30.0),
            row("smoltcp", "0 % of segments lost, a pipe of 1000", 300.0),
            row("smoltcp", "1 % of segments lost, a pipe of 1000", 9000.0),
            row("linerate", "memory of an idle connection (RSS), 1000 of them", 990.0),
            row("linerate", "memory of an idle connection (RSS), 100000 of them", 940.0),
            row("linerate", "memory", 932.0),
        ]});
        let figures = of_tcp_scale(&said);
        let lines: Vec<_> = figures.curves.iter().map(|c| c.lines.clone()).collect();
        let named = |name: &str, points: &[(f64, f64)]| (name.to_owned(), points.to_vec());
        let line = |points: &[(f64, f64)]| vec![named("linerate", points)];
        let lost = vec![
            named("linerate, segments", &[(0.01, 200.0), (5.0, 400.0)]),
            named("linerate, super-packets", &[(0.0, 20.0), (1.0, 30.0)]),
            named("smoltcp, segments", &[(0.0, 300.0), (1.0, 9000.0)]),
        ];
        // One point is no line.
        assert_eq!(
            lines,
            [
                line(&[(1.0, 160.0), (1000.0, 170.0)]),
                line(&[(1.0, 280.0), (64.0, 150.0)]),
                lost,
                line(&[(1000.0, 990.0), (100_000.0, 940.0)]),
            ]
        );
        let bars: usize = figures.groups.iter().map(|g| g.bars.len()).sum();
        assert_eq!(bars, 15);
    }
}
