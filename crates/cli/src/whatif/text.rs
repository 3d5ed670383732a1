//! Answers as text and JSON.

use std::fmt::Write as _;

use linerate_core::table::{Reason, Stage};
use linerate_sim::machine::{Arrivals, Costs, Latency, Outcome, Spec};
use serde_json::{Value, json};

use super::Answer;
use super::args::{Sweep, WhatifArgs};

/// Packets a second, as people write them.
pub fn rate(pps: f64) -> String {
    match pps {
        _ if pps >= 1e6 => format!("{:.3} Mpps", pps / 1e6),
        _ if pps >= 1e3 => format!("{:.1} kpps", pps / 1e3),
        _ => format!("{pps:.0} pps"),
    }
}

/// A time, as people write it.
pub fn time(ns: f64) -> String {
    match ns {
        _ if ns >= 1e9 => format!("{:.2} s", ns / 1e9),
        _ if ns >= 1e6 => format!("{:.2} ms", ns / 1e6),
        _ if ns >= 1e3 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{ns:.0} ns"),
    }
}

fn come(arrivals: Arrivals) -> String {
    match arrivals {
        Arrivals::Even => "evenly".to_owned(),
        Arrivals::Random => "at random".to_owned(),
        Arrivals::Bursts(n) => format!("{n} at once"),
    }
}

/// Packets a second of a number of packets.
pub fn per_s(spec: &Spec, packets: u64) -> f64 {
    packets as f64 * 1e9 / spec.time as f64
}

fn reason(why: Reason) -> &'static str {
    why.row().linux
}

/// The machine in a line or two.
pub fn machine(spec: &Spec) -> String {
    let mut out = format!(
        "{} queue{} of {}, {} processor{}; {} of {} bytes in {} flow{}, {}\n",
        spec.queues,
        plural(spec.queues),
        spec.ring,
        spec.cpus,
        plural(spec.cpus),
        rate(spec.pps),
        spec.frame + 4,
        spec.flows,
        plural(spec.flows),
        come(spec.arrivals)
    );
    let costs = &spec.costs;
    let _ = writeln!(
        out,
        "a packet costs {} from ring to reader, {} of them the application's;\na turn {}, a look at a ring {}, an interrupt {}",
        time(costs.packet(spec.frame)),
        time(costs.app),
        time(costs.turn),
        time(costs.poll),
        time(costs.irq)
    );
    for (path, value) in &spec.knobs {
        let _ = writeln!(out, "{path} = {value}");
    }
    out
}

/// What everything costs, each part with its unit.
pub fn costs(costs: &Costs) -> String {
    let path: f64 = costs.stage.iter().sum::<f64>()
        - costs.stage[Stage::Steer as usize]
        - costs.stage[Stage::Backlog as usize];
    let mut out = String::new();
    for (name, ns, unit) in [
        ("turn of the loop", costs.turn, "a turn"),
        ("look at a ring", costs.poll, "a look"),
        ("ring to socket", path, "a packet"),
        ("out of the socket", costs.read, "a packet"),
        ("application", costs.app, "a packet"),
        ("flow not seen lately", costs.miss, "a packet of one"),
        ("frame", costs.byte, "a byte"),
        ("interrupt", costs.irq, "an interrupt"),
    ] {
        let digits = if ns < 10.0 { 3 } else { 1 };
        let _ = writeln!(out, "  {name:<20} {ns:>9.digits$} ns {unit}");
    }
    let stages = Stage::ALL.iter().map(|s| (s.name(), costs.stage[*s as usize]));
    let stages: Vec<String> =
        stages.filter(|(_, ns)| *ns > 0.0).map(|(name, ns)| format!("{name} {ns:.1}")).collect();
    let _ = writeln!(out, "  stages, ns a packet: {}", stages.join(", "));
    out
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// One machine.
pub fn one(answer: &Answer) -> String {
    let (spec, outcome) = (&answer.spec, &answer.outcome);
    let mut out = machine(spec);
    let _ = writeln!(
        out,
        "\ndelivered   {} of {} ({:.3} % lost)",
        rate(per_s(spec, outcome.delivered)),
        rate(per_s(spec, outcome.offered)),
        outcome.lost() * 100.0
    );
    if let Some((stage, why, cpu, at)) = outcome.first {
        let _ = writeln!(
            out,
            "first lost  {} {} on cpu {cpu}, after {}",
            stage.name(),
            reason(why),
            time(at as f64)
        );
    }
    for (stage, why, n) in &outcome.drops {
        let _ =
            writeln!(out, "  {:>12}  {:<10} {}", rate(per_s(spec, *n)), stage.name(), reason(*why));
    }
    let _ = writeln!(out, "latency     {}", percentiles(&outcome.latency));
    let _ = writeln!(
        out,
        "interrupts  {:.0} a second; polls cut off: {} by packets, {} by time",
        per_s(spec, outcome.irqs),
        outcome.squeezed.0,
        outcome.squeezed.1
    );
    out.push_str("processors\n");
    for (cpu, busy) in outcome.busy.iter().enumerate() {
        let filled = (busy * 40.0).round() as usize;
        let _ = writeln!(
            out,
            "  cpu {cpu:<3} {:5.1} % {}{}",
            busy * 100.0,
            "█".repeat(filled),
            "·".repeat(40 - filled.min(40))
        );
    }
    out
}

fn percentiles(latency: &Latency) -> String {
    let at = |p: f64| time(latency.percentile(p) as f64);
    format!(
        "p50 {} · p99 {} · p99.9 {} · max {}",
        at(0.5),
        at(0.99),
        at(0.999),
        time(latency.max() as f64)
    )
}

/// The busiest processor's share.
pub fn busiest(outcome: &Outcome) -> f64 {
    outcome.busy.iter().copied().fold(0.0, f64::max)
}

/// What several machines have in common, and what varies.
pub fn common(sweep: &Sweep, answers: &[Answer]) -> String {
    let mut spec = answers[0].spec.clone();
    spec.knobs.retain(|knob| answers.iter().all(|a| a.spec.knobs.contains(knob)));
    format!("{}varied: {} = {}\n", machine(&spec), sweep.what, sweep.values.join(", "))
}

/// Several machines.
pub fn table(sweep: &Sweep, answers: &[Answer]) -> String {
    let mut out = common(sweep, answers);
    let width = answers.iter().filter_map(|a| a.value.as_ref()).map(String::len).max();
    let width = width.unwrap_or(0).max(sweep.what.len());
    let _ = writeln!(
        out,
        "\n{:>width$}  {:>12}  {:>8}  {:>6}  {:>9}  {:>9}  {:>9}  first lost",
        sweep.what, "delivered", "lost", "busy", "p50", "p99", "irqs/s"
    );
    for answer in answers {
        let (spec, outcome) = (&answer.spec, &answer.outcome);
        let first = outcome.first.map_or("–".to_owned(), |(stage, why, ..)| place(stage, why));
        let _ = writeln!(
            out,
            "{:>width$}  {:>12}  {:>6.2} %  {:>4.0} %  {:>9}  {:>9}  {:>9.0}  {first}",
            answer.value.as_deref().unwrap_or_default(),
            rate(per_s(spec, outcome.delivered)),
            outcome.lost() * 100.0,
            busiest(outcome) * 100.0,
            time(outcome.latency.percentile(0.5) as f64),
            time(outcome.latency.percentile(0.99) as f64),
            per_s(spec, outcome.irqs),
        );
    }
    out.push_str("busy: the processor that works most\n");
    out
}

/// Stage and reason.
pub fn place(stage: Stage, why: Reason) -> String {
    format!("{} {}", stage.name(), reason(why))
}

/// Everything, for programs: rates in packets a second, times in nanoseconds.
pub fn json(args: &WhatifArgs, answers: &[Answer]) -> Value {
    let each: Vec<Value> = answers.iter().map(answer).collect();
    json!({ "sweep": args.sweep.as_ref().map(|s| &s.what), "answers": each })
}

fn answer(answer: &Answer) -> Value {
    let (spec, out) = (&answer.spec, &answer.outcome);
    let drops: Vec<Value> = out
        .drops
        .iter()
        .map(|(stage, why, n)| {
            json!({ "stage": stage.name(), "reason": reason(*why), "per_s": per_s(spec, *n) })
        })
        .collect();
    let first = out.first.map(|(stage, why, cpu, at)| {
        json!({ "stage": stage.name(), "reason": reason(why), "cpu": cpu, "at_ns": at })
    });
    let stages: serde_json::Map<String, Value> = Stage::ALL
        .iter()
        .map(|s| (s.name().to_owned(), json!(spec.costs.stage[*s as usize])))
        .filter(|(_, ns)| *ns != json!(0.0))
        .collect();
    json!({
        "value": answer.value,
        "machine": {
            "queues": spec.queues, "ring": spec.ring, "cpus": spec.cpus, "pps": spec.pps,
            "size": spec.frame + 4, "flows": spec.flows, "arrivals": come(spec.arrivals),
            "seed": spec.seed, "time_ns": spec.time,
            "knobs": spec.knobs.iter().map(|(k, v)| (k.clone(), json!(v))).collect::<serde_json::Map<_, _>>(),
            "cost_ns": { "stage": stages, "turn": spec.costs.turn, "poll": spec.costs.poll,
                "read": spec.costs.read, "miss": spec.costs.miss, "byte": spec.costs.byte, "irq": spec.costs.irq, "app": spec.costs.app },
        },
        "offered_per_s": per_s(spec, out.offered),
        "delivered_per_s": per_s(spec, out.delivered),
        "lost": out.lost(),
        "first_lost": first,
        "drops": drops,
        "busy": out.busy,
        "latency_ns": {
            "p50": out.latency.percentile(0.5), "p99": out.latency.percentile(0.99),
            "p999": out.latency.percentile(0.999), "max": out.latency.max(),
        },
        "irqs_per_s": per_s(spec, out.irqs),
        "squeezed": { "packets": out.squeezed.0, "time": out.squeezed.1 },
    })
}
