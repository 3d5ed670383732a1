//! Goal: each congestion control does over a path what it is for. Method: a sender and a receiver with a
//! router between them whose way out is slow, long, lossy or marks packets; virtual time, fixed seeds.

mod bbr;

use std::net::{IpAddr, Ipv4Addr};

use linerate_core::ip::route::Route;
use linerate_core::link::L2;
use linerate_core::table::count::Counter;
use linerate_core::table::knob::{CcName, KnobValue};
use linerate_core::tcp::TcpOpt;
use linerate_core::time::{MS, SEC};
use linerate_core::tx::qdisc::show;
use linerate_sim::{Link, NodeId, Streams, World};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const RA: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 254));
const RB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 254));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
/// Payload of a full packet in all of it.
const GOODPUT: f64 = 1448.0 / 1500.0;

/// What is tried.
#[derive(Clone, Copy)]
struct Case<'a> {
    /// The router's way out: Mbit/s, and how many milliseconds of them may wait there.
    rate: u64,
    buffer_ms: u64,
    /// The router's discipline, in which packets wait then instead of at the wire.
    discipline: Option<&'a str>,
    /// The round trip through empty queues, in milliseconds.
    rtt: u64,
    /// Packets lost behind the router, in a million.
    loss_ppm: u32,
    /// Each flow's congestion control.
    flows: &'a [&'a str],
    /// Knobs of both hosts.
    knobs: &'a [(&'a str, &'a str)],
    /// Seconds that pass, and how many of them are not looked at.
    secs: (u64, u64),
    seed: u64,
}

const ONE: Case<'static> = Case {
    rate: 10,
    buffer_ms: 100,
    discipline: None,
    rtt: 20,
    loss_ppm: 0,
    flows: &["cubic"],
    knobs: &[],
    secs: (25, 5),
    seed: 1,
};

/// What was seen.
struct Seen {
    /// Mbit/s of each flow.
    rates: Vec<f64>,
    /// Milliseconds by which the first flow's smoothed round trips were above the least, every 10 ms; sorted.
    queue_ms: Vec<f64>,
    /// Packets that arrived marked, and segments that were sent again.
    marked: u64,
    again: u64,
    /// What the router's discipline counted, and what it dropped.
    router: Vec<(&'static str, u64)>,
    dropped: u64,
}

impl Seen {
    /// Share of the link that all flows together used.
    fn used(&self, case: &Case<'_>) -> f64 {
        self.rates.iter().sum::<f64>() / (case.rate as f64 * GOODPUT)
    }
    /// Jain's index: 1 if all have the same, 1/n if one has all.
    fn fairness(&self) -> f64 {
        let (sum, squares) =
            self.rates.iter().fold((0.0, 0.0), |(sum, sq), r| (sum + r, sq + r * r));
        sum * sum / (squares * self.rates.len() as f64)
    }
    fn queue(&self, share: f64) -> f64 {
        self.queue_ms[(self.queue_ms.len() as f64 * share) as usize]
    }
    fn counted(&self, name: &str) -> u64 {
        self.router.iter().filter(|(n, _)| *n == name).map(|(_, v)| *v).sum()
    }
}

struct Bench {
    world: World,
    a: NodeId,
    r: NodeId,
    b: NodeId,
    streams: Streams,
}

fn set(world: &mut World, node: NodeId, path: &str, value: &str) {
    world.node(node).set_knob(path, value).expect("a knob and its value");
}

impl Bench {
    fn new(case: &Case<'_>) -> Bench {
        let mut world = World::new(case.seed);
        let (a, r, b) = (world.add_node(), world.add_node(), world.add_node());
        let near = Link { queue_bytes: 1 << 26, delay_ns: 0, ..Link::default() };
        let back = Link { delay_ns: case.rtt * MS / 2, ..near };
        let far = Link { loss_ppm: case.loss_ppm, ..back };
        let wire = match case.discipline {
            Some(_) => far,
            None => Link {
                rate_bps: case.rate * 1_000_000,
                queue_bytes: case.rate * 125 * case.buffer_ms,
                ..far
            },
        };
        world.join((a, A), (r, RA), (L2::Ip, 1500, 24), (near, near));
        world.join((r, RB), (b, B), (L2::Ip, 1500, 24), (wire, back));
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for (node, via) in [(a, RA), (b, RB)] {
            world.node(node).add_route(Route::via(any, 0, via, 0)).expect("a route");
            for (path, value) in case.knobs {
                set(&mut world, node, path, value);
            }
            set(&mut world, node, "net.ipv4.tcp_allowed_congestion_control", &all_names());
        }
        set(&mut world, r, "net.ipv4.ip_forward", "1");
        if let Some(discipline) = case.discipline {
            let rate = case.rate;
            let shaper = format!("handle 1: tbf rate {rate}mbit burst 3000b limit 100m");
            let spec = format!("{shaper}; parent 1: {discipline}");
            set(&mut world, r, "qdisc.sim1.root", &spec);
        }
        let mut streams = Streams::new(&mut world, (a, b), (B, 80).into());
        for cc in case.flows {
            let id = streams.open(&mut world);
            let cc = CcName::parse(cc).expect("an algorithm");
            world.node(a).tcp_set(id, TcpOpt::Congestion(cc)).expect("it may be chosen");
        }
        Bench { world, a, r, b, streams }
    }
}

fn all_names() -> String {
    CcName::ALL.map(CcName::name).join(" ")
}

fn run(case: Case<'_>) -> Seen {
    let mut bench = Bench::new(&case);
    let begun = bench.world.now();
    let (warm, end) = (begun.plus(case.secs.1 * SEC), begun.plus(case.secs.0 * SEC));
    let mut bytes = vec![0; case.flows.len()];
    let (mut queue_ms, mut to_look) = (Vec::new(), warm);
    while bench.world.now() < end {
        let now = bench.world.now();
        bench.streams.turn(&mut bench.world, |reader, n| bytes[reader] += n);
        if now < warm {
            bytes.fill(0);
        }
        if now >= to_look {
            to_look = now.plus(10 * MS);
            let info =
                bench.world.node(bench.a).tcp_info(bench.streams.senders[0]).expect("it lives");
            queue_ms.push(info.rtt as f64 / 1000.0 - case.rtt as f64);
        }
        assert!(bench.world.step(), "something is on its way");
    }
    assert!(bench.world.unaccounted().is_empty());
    queue_ms.sort_by(f64::total_cmp);
    let secs = (case.secs.0 - case.secs.1) as f64;
    let rates = bytes.iter().map(|bytes| *bytes as f64 * 8e-6 / secs).collect();
    let shown = show(&bench.world.node(bench.r).net.ifaces[1]);
    let last = shown.last().expect("it has a discipline");
    let (router, dropped) = (last.xstats.clone(), last.stats.drops);
    let marked = bench.world.node(bench.b).net.counts.get(Counter::IpInCEPkts);
    let again = bench.world.node(bench.a).net.counts.get(Counter::TcpRetransSegs);
    Seen { rates, queue_ms, marked, again, router, dropped }
}

const ECN: (&str, &str) = ("net.ipv4.tcp_ecn", "1");

/// RFC 3168: where the router's discipline marks, a download behind it loses nothing, uses the link, and
/// keeps the queue as short as with drops.
#[test]
fn disciplines_mark_instead_of_dropping() {
    for discipline in ["fq_codel ecn", "codel ecn"] {
        for (rate, rtt) in [(10, 20), (50, 40)] {
            let case = Case { discipline: Some(discipline), rate, rtt, knobs: &[ECN], ..ONE };
            let seen = run(case);
            let what = format!("{discipline} {rate} Mbit/s {rtt} ms");
            assert!(seen.counted("ecn_mark") > 5, "{what}: {:?}", seen.router);
            // What the router holds as a super-packet is marked as a whole.
            assert!(seen.marked >= seen.counted("ecn_mark"), "{what}: each mark arrives");
            assert_eq!((seen.dropped, seen.again), (0, 0), "{what}: nothing is lost");
            assert!(seen.used(&case) >= 0.93, "{what}: {}", seen.used(&case));
            assert!(seen.queue(0.5) <= 12.0, "{what}: {} ms", seen.queue(0.5));
        }
    }
}

/// The same downloads without ECN lose packets there, and `noecn` drops whatever hosts agree on.
#[test]
fn what_is_not_capable_is_dropped() {
    for (discipline, knobs) in [("fq_codel ecn", &[][..]), ("fq_codel noecn", &[ECN][..])] {
        let seen = run(Case { discipline: Some(discipline), knobs, ..ONE });
        assert_eq!(seen.marked, 0, "{discipline}");
        assert!(seen.dropped > 5 && seen.again > 5, "{discipline}: {}", seen.dropped);
    }
}

/// RFC 8257: behind a router that marks whatever waits for longer than a millisecond DCTCP keeps the link
/// busy with so short a queue, where CUBIC, which halves at each mark, does not use it all. How many packets
/// are marked for that depends on how large the bursts are in which they come: one in a few round trips is enough.
#[test]
fn dctcp_keeps_the_queue_at_the_threshold() {
    let step = "codel ce_threshold 1ms target 1s interval 10s ecn limit 10000";
    let knobs = &[ECN][..];
    let case = Case { rate: 100, rtt: 10, discipline: Some(step), knobs, secs: (10, 2), ..ONE };
    let dctcp = run(Case { flows: &["dctcp"], ..case });
    assert!(dctcp.marked > 200 && dctcp.again == 0, "{} marks", dctcp.marked);
    assert!(dctcp.used(&case) >= 0.95, "{}", dctcp.used(&case));
    let (median, most) = (dctcp.queue(0.5), dctcp.queue(0.95));
    assert!(median <= 1.0 && most <= 2.0, "{median} ms, {most} ms at the most");
    let cubic = run(case);
    assert!(cubic.used(&case) < dctcp.used(&case), "{}", cubic.used(&case));
}
