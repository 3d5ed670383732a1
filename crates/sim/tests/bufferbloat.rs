//! Goal: behind a slow link a queueing discipline decides how long everything takes beside downloads. A
//! plain queue fills up; `codel` and `fq_codel` keep the queue short and the link busy, as long as the
//! senders answer its drops; `fq_codel` also lets others pass. Method: two hosts with a router between
//! them, whose way out is a shaper with one discipline or another; virtual time, one seed.

use std::net::{IpAddr, Ipv4Addr};

use linerate_core::ip::route::Route;
use linerate_core::link::L2;
use linerate_core::sock::SocketId;
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::tx::qdisc::show;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_sim::{Link, NodeId, Streams, World};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const RA: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 254));
const RB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 254));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
/// Payload of a full packet in what the shaper counts of it.
const GOODPUT: f64 = 1448.0 / 1500.0;

/// What is tried.
#[derive(Clone, Copy)]
struct Case<'a> {
    discipline: &'a str,
    /// The shaper's rate in Mbit/s; `None`: there is none.
    rate: Option<u64>,
    /// The round trip through empty queues, in milliseconds.
    rtt: u64,
    downloads: usize,
    /// Packets that the link behind the router loses, in a million.
    loss_ppm: u32,
    /// Whether a small datagram goes every 10 ms.
    probes: bool,
    /// Seconds that pass, and how many of them are not looked at.
    secs: (u64, u64),
    seed: u64,
}

/// One download through a shaper of 10 Mbit/s.
const ONE: Case<'static> = Case {
    discipline: "fq_codel",
    rate: Some(10),
    rtt: 20,
    downloads: 1,
    loss_ppm: 0,
    probes: false,
    secs: (25, 5),
    seed: 1,
};

/// What was seen.
struct Seen {
    /// Milliseconds that each probe took one way, sorted.
    probes: Vec<f64>,
    /// Milliseconds that what waited in the router would take at the link's rate, every millisecond; sorted.
    standing: Vec<f64>,
    /// Mbit/s of each download.
    rates: Vec<f64>,
}

impl Seen {
    fn worst_probe(&self) -> f64 {
        self.probes.last().copied().unwrap_or_default()
    }
    fn standing(&self, share: f64) -> f64 {
        let at = (self.standing.len() as f64 * share) as usize;
        self.standing.get(at).copied().expect("it was looked at")
    }
    fn rate(&self) -> f64 {
        self.rates.iter().sum()
    }
    /// Jain's index: 1 if all have the same, 1/n if one has all.
    fn fairness(&self) -> f64 {
        let squares: f64 = self.rates.iter().map(|rate| rate * rate).sum();
        self.rate() * self.rate() / (squares * self.rates.len() as f64)
    }
}

/// The hosts, and what runs on them.
struct Bench {
    world: World,
    a: NodeId,
    r: NodeId,
    b: NodeId,
    streams: Streams,
    from: SocketId,
    to: SocketId,
}

impl Bench {
    fn new(case: &Case<'_>) -> Bench {
        let mut world = World::new(case.seed);
        let (a, r, b) = (world.add_node(), world.add_node(), world.add_node());
        let near = Link { queue_bytes: 1 << 24, delay_ns: 0, ..Link::default() };
        let back = Link { delay_ns: case.rtt * MS / 2, ..near };
        let far = Link { loss_ppm: case.loss_ppm, ..back };
        world.join((a, A), (r, RA), (L2::Ip, 1500, 24), (near, near));
        world.join((r, RB), (b, B), (L2::Ip, 1500, 24), (far, back));
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for (node, via) in [(a, RA), (b, RB)] {
            world.node(node).add_route(Route::via(any, 0, via, 0)).expect("a route");
        }
        world.node(r).set_knob("net.ipv4.ip_forward", "1").expect("a switch");
        if let Some(rate) = case.rate {
            // No more than a frame at a time: what the router merged is cut before it waits.
            let shaper = format!("handle 1: tbf rate {rate}mbit burst 1600b limit 100m");
            let spec = format!("{shaper}; parent 1: {}", case.discipline);
            world.node(r).set_knob("qdisc.sim1.root", &spec).expect("a sound specification");
        }
        let mut streams = Streams::new(&mut world, (a, b), (B, 80).into());
        for _ in 0..case.downloads {
            streams.open(&mut world);
        }
        let bind = UdpBind { port: 7, ..UdpBind::default() };
        let from = world.node(a).udp_bind(bind).expect("a free port");
        let to = world.node(b).udp_bind(bind).expect("a free port");
        Bench { world, a, r, b, streams, from, to }
    }

    fn probe(&mut self) {
        let time = self.world.now().ns().to_be_bytes();
        let sent = self.world.node(self.a).udp_send(self.from, SendTo::to((B, 7).into()), &[&time]);
        sent.expect("there is room");
    }

    /// Nanoseconds that what waits in the router takes at `rate`.
    fn standing(&mut self, rate: u64) -> u64 {
        let bytes = show(&self.world.node(self.r).net.ifaces[1])[0].stats.backlog;
        bytes * 8 * SEC / (rate * 1_000_000)
    }

    /// When the next probe that arrived was sent.
    fn probed(&mut self) -> Option<Instant> {
        let node = self.world.node(self.b);
        let datagram = node.udp_recv(self.to)?;
        let mut sent = [0; 8];
        sent.copy_from_slice(datagram.slices().next().expect("eight bytes"));
        node.udp_done(datagram);
        Some(Instant::from_ns(u64::from_be_bytes(sent)))
    }
}

fn run(case: Case<'_>) -> Seen {
    let mut bench = Bench::new(&case);
    let begun = bench.world.now();
    let (warm, end) = (begun.plus(case.secs.1 * SEC), begun.plus(case.secs.0 * SEC));
    let mut bytes = vec![0; case.downloads];
    let (mut probes, mut standing) = (Vec::new(), Vec::new());
    let (mut to_probe, mut to_look) = (begun, warm);
    while bench.world.now() < end {
        let now = bench.world.now();
        while case.probes && now >= to_probe {
            to_probe = to_probe.plus(10 * MS);
            bench.probe();
        }
        if let Some(rate) = case.rate {
            while now >= to_look {
                to_look = to_look.plus(MS);
                standing.push(bench.standing(rate) as f64 / MS as f64);
            }
        }
        bench.streams.turn(&mut bench.world, |reader, n| bytes[reader] += n);
        if now < warm {
            bytes.fill(0);
        }
        while let Some(sent) = bench.probed() {
            if sent >= warm {
                probes.push(now.since(sent) as f64 / MS as f64);
            }
        }
        assert!(bench.world.step(), "something is on its way");
    }
    assert!(bench.world.unaccounted().is_empty());
    standing.sort_by(f64::total_cmp);
    probes.sort_by(f64::total_cmp);
    let secs = (case.secs.0 - case.secs.1) as f64;
    let rates = bytes.iter().map(|bytes| *bytes as f64 * 8e-6 / secs).collect();
    Seen { probes, standing, rates }
}

/// One download that has the link for itself uses all of it, with a queue of no more than twice the
/// target of 5 ms, beside the packet that is being sent; in a plain queue it stands for a second.
#[test]
fn codel_holds_the_standing_queue_of_a_download_down() {
    for discipline in ["fq_codel", "codel"] {
        for rtt in [20, 30, 40] {
            let seen = run(Case { discipline, rtt, ..ONE });
            let (median, most) = (seen.standing(0.5), seen.standing(0.95));
            assert!(median <= 10.0 && most <= 11.2, "{discipline} {rtt} ms: {median}, {most} ms");
            assert!(seen.rate() >= 9.0, "{discipline} {rtt} ms: {} Mbit/s", seen.rate());
        }
    }
    let plain = run(Case { discipline: "pfifo_fast", ..ONE });
    assert!(plain.standing(0.5) > 200.0, "{} ms in a plain queue", plain.standing(0.5));
    assert!(plain.rate() >= 9.0, "{} Mbit/s", plain.rate());
}

/// The same from a slow link, whose packets alone take longer than the target, to a fast one, and where
/// the round trip is short, or as long as CoDel's interval.
#[test]
fn codel_is_sane_at_other_rates_and_round_trips() {
    // Rate, round trip, most milliseconds of the median, least share of the link.
    for (rate, rtt, queue, share) in [
        (1, 20, 60.0, 0.95),
        (1, 100, 60.0, 0.9),
        (10, 10, 10.0, 0.95),
        // One drop more or less in 15 s is three parts in a hundred here.
        (10, 100, 10.0, 0.82),
        (100, 10, 5.0, 0.95),
        (100, 20, 5.0, 0.9),
    ] {
        let seen = run(Case { rate: Some(rate), rtt, secs: (20, 5), ..ONE });
        let (median, used) = (seen.standing(0.5), seen.rate() / rate as f64 / GOODPUT);
        assert!(median <= queue, "{rate} Mbit/s {rtt} ms: {median} ms");
        assert!(used >= share, "{rate} Mbit/s {rtt} ms: {used} of the link");
    }
}

/// Downloads share the link evenly: those that have queues of their own, and those that share one.
#[test]
fn downloads_share_the_link() {
    for discipline in ["fq_codel", "codel"] {
        for downloads in [2, 8] {
            let seen = run(Case { discipline, downloads, ..ONE });
            let fairness = seen.fairness();
            assert!(fairness >= 0.95, "{discipline}: {fairness} of {:?}", seen.rates);
            assert!(seen.rate() >= 9.0, "{discipline}: {} Mbit/s", seen.rate());
            let median = seen.standing(0.5);
            assert!(median <= 30.0, "{discipline}: {median} ms for {downloads}");
        }
    }
}

/// A ping beside eight downloads takes no more than 10 ms more than alone; behind a plain queue it takes
/// as long as the queue is.
#[test]
fn fq_codel_lets_a_ping_pass_eight_downloads() {
    let case = Case { probes: true, secs: (10, 2), ..ONE };
    let idle = run(Case { downloads: 0, ..case }).worst_probe();
    let busy = run(Case { downloads: 8, ..case });
    assert!(busy.worst_probe() <= idle + 10.0, "{} ms for {idle}", busy.worst_probe());
    assert!(busy.probes.len() >= 700, "{} probes", busy.probes.len());
    assert!(busy.fairness() >= 0.95, "fair shares: {:?}", busy.rates);
    for plain in ["pfifo_fast", "pfifo limit 1000"] {
        let worst = run(Case { downloads: 8, discipline: plain, ..case }).worst_probe();
        assert!(worst >= idle + 100.0, "{worst} ms behind {plain}");
    }
}

/// Over a path that loses packets by chance a download is no slower than CUBIC's response function has
/// it (RFC 9438 §5): where Reno's is higher, 1.22 segments through the root of the loss rate in a round
/// trip. How recovery meters what it sends must not cost any of that.
#[test]
fn a_download_over_a_lossy_path_is_as_fast_as_its_response_function() {
    for loss in [0.001, 0.01f64] {
        let expected = (1.5 / loss).sqrt() * 1448.0 * 8.0 / 0.020 / 1e6;
        let case = Case { rate: None, loss_ppm: (loss * 1e6) as u32, secs: (65, 5), ..ONE };
        let rates: f64 = (1..=4).map(|seed| run(Case { seed, ..case }).rate()).sum();
        let mean = rates / 4.0;
        assert!(mean >= expected, "{mean} Mbit/s at {loss}, {expected} by the formula");
    }
}
