//! What takes long: rules over what probes have measured. Without probes they say nothing.

use linerate_core::table::Stage;

use super::look;
use super::{Check, Rule};
use crate::bpf::hist::Hist;
use crate::finding::{Finding, Severity};
use crate::window::{Cx, Goal};

/// R93, R94.
pub(super) const RULES: &[Rule] = &[
    Rule {
        id: "R93",
        name: "softirq-late",
        title: "the softirq that receives packets begins late",
        stage: Stage::Poll,
        evidence: "With probes: one in a hundred times, NET_RX begins `softirq_late_ms` or more after \
            it was raised.",
        causes: "The processor is full of softirq, and ksoftirqd shares it with programs. Another \
            softirq runs before it for long. The processor was taken away meanwhile (`steal`), or \
            something keeps softirqs off.",
        advice: "Full: spread the packets over more processors. Another softirq: find out who asks \
            for so much of it. Else: keep programs with real-time priority off this processor.",
        traps: "After a squeeze NET_RX is raised again at once, and waits for ksoftirqd: that is part \
            of it. A virtual machine without processors of its own shows it without any fault inside.",
        cites: &["kernel/softirq.c handle_softirqs, wakeup_softirqd"],
        suppresses: &[],
        check: Check::Cpu(softirq_late),
    },
    Rule {
        id: "R94",
        name: "reader-late",
        title: "packets wait long for their reader",
        stage: Stage::SockQueue,
        evidence: "With probes: one in a hundred packets needs `reader_late_ms` or more from \
            `netif_receive_skb` to its reader.",
        causes: "The program is late: the packets wait in the socket. The kernel is late: they need \
            long from the device to the socket.",
        advice: "Program late: more threads, larger batches, less work between two reads. Kernel \
            late: see what delays its softirqs.",
        traps: "A program that reads at intervals, or that leaves data in the socket on purpose, is \
            not slow. Packets that are never read are not measured.",
        cites: &["net/ipv4/udp.c udp_recvmsg", "net/ipv4/tcp.c tcp_recvmsg_locked"],
        suppresses: &[],
        check: Check::Host(reader_late),
    },
];

/// Values that say something of one in a hundred.
const FEW: u64 = 100;
const MS: f64 = 1e6;

/// A time in ns, for people.
pub(super) fn span(ns: u64) -> String {
    match ns as f64 {
        n if n < 1e3 => format!("{n} ns"),
        n if n < 1e6 => format!("{:.1} µs", n / 1e3),
        n if n < 1e9 => format!("{:.1} ms", n / 1e6),
        n => format!("{:.1} s", n / 1e9),
    }
}

fn source(name: &str) -> String {
    format!("{} {name}", crate::bpf::NAME)
}

fn softirq_late(rule: &Rule, cx: &Cx<'_>, cpu: u32) -> Option<Finding> {
    let w = cx.whole();
    let delay = w.measured("delay/NET_RX", Some(cpu))?;
    let late = delay.quantile(0.99);
    if delay.count() < FEW || (late as f64) < cx.limits.softirq_late_ms * MS {
        return None;
    }
    let place = format!("{} cpu{cpu}", source("delay/NET_RX"));
    let mut found = rule.found(cx, format!("cpu{cpu}")).warning().is(&place, "p99", span(late)).is(
        &place,
        "max",
        span(delay.max),
    );
    let longest = |(name, hist): &(&str, Hist)| (*name != "NET_RX").then_some(hist.max);
    let others = w.measured_as("softirq/", Some(cpu));
    let other = others.iter().filter(|o| longest(o).is_some()).max_by_key(|o| o.1.max);
    let steal = w.cpu_share(cpu, "steal").unwrap_or(0.0);
    if look::is_full(cx, cpu) {
        found = found
            .because("The processor is full of softirq: NET_RX waits for ksoftirqd.")
            .suggest("Spread the packets over more processors: interrupts, queues, RPS.");
    } else if let Some((name, hist)) = other.filter(|(_, hist)| hist.max >= late / 2) {
        found = found
            .is(&format!("{} cpu{cpu}", source(&format!("softirq/{name}"))), "max", span(hist.max))
            .because(format!("{name} runs before it, for up to {}.", span(hist.max)))
            .suggest(format!("Find out who asks for so much of the softirq {name}."));
    } else if steal >= cx.limits.steal {
        found = found
            .is("/proc/stat", "steal", look::percent(steal))
            .because("The hypervisor takes the processor away.")
            .suggest("Give the virtual machine processors of its own.");
    } else {
        found = found
            .because(
                "No softirq runs that long: ksoftirqd waits for programs, or softirqs are off.",
            )
            .suggest(
                "Keep programs with real-time priority, or the interrupts, off this processor.",
            );
    }
    Some(found.done())
}

/// The ways to a reader: to the socket, in the socket, together.
const WAYS: [(&str, &str, &str, &str); 2] = [
    ("UDP", "rx/udp-queued", "rx/udp-waited", "rx/udp-read"),
    ("TCP", "rx/tcp-queued", "rx/tcp-waited", "rx/copy-read"),
];

fn reader_late(rule: &Rule, cx: &Cx<'_>) -> Option<Finding> {
    let w = cx.whole();
    let least = (cx.limits.reader_late_ms * MS) as u64;
    let way = |(kind, queued, waited, read)| {
        let [queued, waited] =
            [(queued, w.measured(queued, None)?), (waited, w.measured(waited, None)?)];
        let whole = w.measured(read, None)?;
        let late = whole.count() >= FEW && whole.quantile(0.99) >= least;
        late.then_some((kind, queued, waited, whole))
    };
    let ways = WAYS.into_iter().filter_map(way);
    let (kind, queued, waited, whole) = ways.max_by_key(|(.., whole)| whole.quantile(0.99))?;
    let (to, inside) = (queued.1.quantile(0.99), waited.1.quantile(0.99));
    let severity = if cx.goal == Goal::Latency { Severity::Warning } else { Severity::Info };
    let mut found = rule.found(cx, "").at(severity);
    for (name, hist) in [&queued, &waited] {
        found = found.is(&source(name), "p50", span(hist.quantile(0.5))).is(
            &source(name),
            "p99",
            span(hist.quantile(0.99)),
        );
    }
    let mean = span(whole.mean() as u64);
    let said = format!(
        "Of {kind}, one in a hundred needs up to {} to the socket, and {} more in it; {mean} in all on \
        average.",
        span(to),
        span(inside)
    );
    found = found.because(said);
    found = if inside >= to {
        let reader = waiting(cx).map_or(String::new(), |who| format!(" Most waits for {who}."));
        found
            .because(format!("The program is late, not the kernel.{reader}"))
            .suggest("More threads or larger batches in the program, less work between two reads.")
    } else {
        found
            .titled("packets need long from the device to the socket")
            .because("The kernel is late, not the program.")
            .suggest("See what delays its softirqs: `linerate show --host latency`.")
    };
    Some(found.done())
}

/// Whose socket has most in it.
fn waiting(cx: &Cx<'_>) -> Option<String> {
    let sockets = &cx.now().sockets;
    let udp = sockets.udp.iter().map(|s| (s.rmem, s.local, &s.owner));
    let tcp = sockets.tcp.iter().map(|s| (s.recv_q, s.local, &s.owner));
    let (bytes, local, owner) = udp.chain(tcp).max_by_key(|s| s.0)?;
    let name =
        owner.process.as_ref().map_or(String::new(), |(pid, name)| format!("{name} ({pid}), "));
    (bytes > 0).then(|| format!("{name}{local}"))
}
