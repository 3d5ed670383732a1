//! `linerate show --host latency`: what probes have measured, as histograms.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use linerate_host::Window;
use linerate_host::bpf::NAME;
use linerate_host::bpf::hist::{Hist, range};
use linerate_host::snapshot::Note;
use serde_json::{Value, json};

use super::show::Table;
use super::text::{clean, span};

/// The longest bar.
const BAR: u64 = 40;

/// What the histograms are called for people, by their names or the begin of them, in the path's order;
/// whether they are drawn, or listed alone.
const KINDS: [(&str, &str, bool); 15] = [
    ("delay/NET_RX", "NET_RX: from raise to begin", true),
    ("softirq/NET_RX", "NET_RX: its time", true),
    ("poll/", "a poll of", true),
    ("work/", "packets in a poll of", true),
    ("rx/udp-queued", "UDP: from netif_receive_skb to the socket", true),
    ("rx/udp-waited", "UDP: in the socket, until it is read", true),
    ("rx/tcp-queued", "TCP: from netif_receive_skb to the connection", true),
    ("rx/tcp-waited", "TCP: in the socket, until it is read", true),
    ("rx/copy-read", "TCP, raw, packet: from netif_receive_skb to the reader", true),
    ("rx/dropped", "from netif_receive_skb to a drop", true),
    ("rx/consumed", "from netif_receive_skb to the end, read by nobody", true),
    ("tx/qdisc", "from dev_queue_xmit to the driver", true),
    ("tx/driver", "in the driver", true),
    ("softirq/", "time of", false),
    ("delay/", "delay of", false),
];

/// A value: packets, or nanoseconds.
fn value(name: &str, value: u64) -> String {
    match value as f64 {
        n if name.starts_with("work/") => format!("{n}"),
        n if n < 1e3 => format!("{n} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n if n < 1e9 => format!("{:.1} ms", n / 1e6),
        n => format!("{:.1} s", n / 1e9),
    }
}

/// All that was measured, each in its place.
fn all<'a>(w: &Window<'a>) -> Vec<(String, String, bool, Hist)> {
    let mut left: BTreeMap<&'a str, Hist> = w.measured_as("", None).into_iter().collect();
    let mut out = Vec::new();
    for (begin, title, drawn) in KINDS {
        let is_kind =
            |name: &&str| *name == begin || (begin.ends_with('/') && name.starts_with(begin));
        let names: Vec<&str> = left.keys().copied().filter(is_kind).collect();
        for name in names {
            let Some(hist) = left.remove(name) else { continue };
            let title = match name.strip_prefix(begin).unwrap_or_default() {
                "" => title.to_owned(),
                rest => format!("{title} {rest}"),
            };
            out.push((name.to_owned(), title, drawn, hist));
        }
    }
    out.extend(left.into_iter().map(|(name, hist)| (name.into(), name.into(), true, hist)));
    out
}

fn notes<'a>(w: &Window<'a>) -> impl Iterator<Item = &'a Note> {
    w.to.notes.iter().filter(|n| n.what.starts_with(NAME))
}

/// As tables and bars.
pub fn text(w: &Window<'_>) -> String {
    let mut out = String::new();
    let Some(measured) = &w.to.measured else {
        let why = notes(w).next().map_or("it was not asked for", |n| &n.why);
        return format!("nothing was measured: {}\n", clean(why));
    };
    let place = measured.netns.map_or("in all namespaces", |_| "in this namespace");
    let _ = writeln!(
        out,
        "in {}; of packets, {place}, 1 in {} on each processor\n",
        span(w.secs()),
        measured.sample
    );
    let all = all(w);
    let mut table = Table::new(&["what", "count", "mean", "p50", "p99", "max"]);
    for (name, title, _, hist) in &all {
        let values = [hist.mean() as u64, hist.quantile(0.5), hist.quantile(0.99), hist.max];
        let cells = [title.clone(), hist.count().to_string()];
        table.row(cells.into_iter().chain(values.map(|v| value(name, v))));
    }
    out += &if all.is_empty() { "nothing happened\n".to_owned() } else { table.text() };
    for (name, title, _, hist) in all.iter().filter(|(_, _, drawn, _)| *drawn) {
        let _ = write!(out, "\n{}\n{}", clean(title), bars(name, hist));
    }
    if measured.missed > 0 {
        let _ = writeln!(out, "\n{} calls of probes were left out by the kernel", measured.missed);
    }
    for note in notes(w) {
        let _ = writeln!(out, "\nnot measured: {}: {}", clean(&note.what), clean(&note.why));
    }
    out
}

/// A line for each bucket between the first and the last that has something.
fn bars(name: &str, hist: &Hist) -> String {
    let used = |n: &u64| *n > 0;
    let (Some(from), Some(to)) =
        (hist.buckets.iter().position(used), hist.buckets.iter().rposition(used))
    else {
        return String::new();
    };
    let most = hist.buckets.iter().copied().max().unwrap_or(0).max(1);
    let width = most.to_string().len();
    let mut out = String::new();
    for at in from..=to {
        let n = hist.buckets[at];
        let length = (u128::from(n) * u128::from(BAR)).div_ceil(u128::from(most)) as usize;
        let least = value(name, range(at).0);
        let bar = "#".repeat(length);
        let line = format!("{least:>10} {n:>width$} {bar}");
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

/// For programs: by name, over all processors and by each.
pub fn json(w: &Window<'_>) -> Value {
    let notes: Vec<&Note> = notes(w).collect();
    let Some(measured) = &w.to.measured else { return json!({ "latency": null, "notes": notes }) };
    let each = |name: &str| {
        let cpus = measured.hists.get(name).into_iter().flatten().map(|(cpu, _)| *cpu);
        let hists = cpus.filter_map(|cpu| Some((cpu.to_string(), w.measured(name, Some(cpu))?)));
        hists.collect::<BTreeMap<_, _>>()
    };
    let hists: BTreeMap<&str, Value> = w
        .measured_as("", None)
        .into_iter()
        .map(|(name, hist)| (name, json!({ "all": hist, "cpus": each(name) })))
        .collect();
    json!({
        "latency": {
            "secs": w.secs(), "sample": measured.sample, "netns": measured.netns,
            "missed": measured.missed, "hists": hists,
        },
        "notes": notes,
    })
}

#[cfg(test)]
mod tests {
    use linerate_host::snapshot::{Measured, Snapshot};

    use super::*;

    fn measured(hists: &[(&str, &[u64])]) -> Snapshot {
        let mut all = Measured { sample: 8, ..Measured::default() };
        for (name, values) in hists {
            let mut hist = Hist::default();
            values.iter().for_each(|v| hist.add(*v));
            all.hists.entry((*name).to_owned()).or_default().insert(0, hist);
        }
        Snapshot { measured: Some(all), ..Snapshot::default() }
    }

    #[test]
    fn bars_are_drawn_between_the_first_and_the_last_value() {
        let s = measured(&[("rx/udp-waited", &[1500, 1500, 9000]), ("work/eth0", &[0, 3])]);
        let text = text(&Window { from: None, to: &s });
        let drawn = "UDP: in the socket, until it is read\n    1.0 µs 2 \
            ########################################\n    2.0 µs 0\n    4.1 µs 0\n    8.2 µs 1 \
            ####################\n";
        assert!(text.contains(drawn), "{text}");
        assert!(text.contains("packets in a poll of eth0\n         0 1 "), "{text}");
        assert!(text.contains("1 in 8"), "{text}");
    }

    #[test]
    fn a_window_shows_what_came_in_it() {
        let before = measured(&[("softirq/NET_RX", &[100])]);
        let after = measured(&[("softirq/NET_RX", &[100, 5000]), ("delay/RCU", &[7])]);
        let w = Window { from: Some(&before), to: &after };
        let hists = &json(&w)["latency"]["hists"];
        assert_eq!(hists["softirq/NET_RX"]["all"]["count"], 1);
        assert_eq!(hists["softirq/NET_RX"]["cpus"]["0"]["max"], 5000);
        let text = text(&w);
        assert!(text.contains("delay of RCU") && !text.contains("\ndelay of RCU\n"), "{text}");
    }

    #[test]
    fn what_was_not_measured_says_why() {
        let mut s = Snapshot::default();
        s.note(NAME, "Operation not permitted: probes need root");
        let w = Window { from: None, to: &s };
        assert!(text(&w).contains("probes need root"));
        assert!(json(&w)["latency"].is_null());
    }
}
