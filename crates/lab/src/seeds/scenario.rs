//! What happens in a run: drawn from its seed, and from nothing else.

use linerate_core::link::L2;
use linerate_core::rand::Rng;
use linerate_core::tcp::TcpOpt;
use linerate_core::time::{MS, SEC, US};
use linerate_core::tx::qdisc::netem::Loss;
use linerate_sim::Link;

use super::shards::{self, Shards};

/// A run: two hosts, what is between them, what is set, what goes wrong when, and who talks.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// What all of it follows from.
    pub seed: u64,
    /// IPv6 instead of IPv4.
    pub v6: bool,
    /// What the links are.
    pub l2: L2,
    /// MTU of all devices at the beginning, in bytes.
    pub mtu: u32,
    /// A router between the hosts: the discipline of its device towards each of them.
    pub router: Option<[&'static str; 2]>,
    /// The bottleneck: towards the second host, and back.
    pub links: [Link; 2],
    /// What is set at each host. Knobs that do not exist are not set.
    pub knobs: [Vec<(&'static str, &'static str)>; 2],
    /// Grain and advance of each host's clock, in nanoseconds.
    pub clocks: [(u64, u64); 2],
    /// What happens when, in nanoseconds from the beginning; in order.
    pub events: Vec<(u64, Event)>,
    /// Connections that may wait at the listener.
    pub backlog: u32,
    /// Who talks.
    pub talks: Vec<Talk>,
    /// Which of the hosts have several shards.
    pub shards: [Option<Shards>; 2],
}

/// Something that happens besides.
#[derive(Clone, Debug)]
pub enum Event {
    /// A host pauses for so many nanoseconds.
    Pause(usize, u64),
    /// The bottleneck in one direction is another from now on.
    Link(usize, Link),
    /// The bottleneck's MTU changes, at both ends.
    Mtu(u32),
    /// A knob is set in all shards of a host.
    Knob(usize, &'static str, String),
    /// The devices of a host choose queues by another table from now on, drawn from this.
    Indir(usize, u64),
    /// The reader of one of a host's connections is on this shard from now on.
    Reader(usize, usize, usize),
    /// A host has so many shards from now on.
    Channels(usize, usize),
    /// One of a host's processors does nothing for so many nanoseconds.
    Stall(usize, usize, u64),
}

/// A connection.
#[derive(Clone, Debug)]
pub struct Talk {
    /// When it is opened, in nanoseconds from the beginning.
    pub begin: u64,
    /// Both ends open it at once.
    pub simultaneous: bool,
    /// The first data goes with the SYN, where the host may do that.
    pub fast: bool,
    /// What the ends do; the first one opens.
    pub sides: [Side; 2],
}

/// What one end of a connection does.
#[derive(Clone, Debug)]
pub struct Side {
    /// Bytes to send.
    pub send: u64,
    /// Bytes of one write at the most.
    pub write: u64,
    /// Nanoseconds between two writes.
    pub write_gap: u64,
    /// It may send so many bytes (first) for so many that it has read (second), beside `credit`.
    pub turn: Option<(u64, u64)>,
    /// Bytes that it may send before it has read anything.
    pub credit: u64,
    /// It sends after the other end has finished.
    pub after_eof: bool,
    /// Bytes of one read at the most.
    pub read: u64,
    /// Nanoseconds between two reads.
    pub read_gap: u64,
    /// After so many bytes it reads nothing for so many nanoseconds.
    pub deaf: Option<(u64, u64)>,
    /// It resets the connection after so many bytes, read and sent.
    pub abort: Option<u64>,
    /// It closes when it has sent all, without waiting for the other end.
    pub early_close: bool,
    /// What is set at its socket.
    pub opts: Vec<TcpOpt>,
}

impl Side {
    fn plain(rng: &mut Rng, send: u64) -> Side {
        Side {
            send,
            write: pick(rng, &[100, 1000, 4000, 16_384, 65_536]),
            write_gap: 0,
            turn: None,
            credit: 0,
            after_eof: false,
            read: pick(rng, &[500, 4096, 65_536, 65_536]),
            read_gap: 0,
            deaf: None,
            abort: None,
            early_close: false,
            opts: opts(rng),
        }
    }
}

pub(super) fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.below(from.len() as u64) as usize]
}

pub(super) fn one_in(rng: &mut Rng, n: u64) -> bool {
    rng.below(n) == 0
}

fn opts(rng: &mut Rng) -> Vec<TcpOpt> {
    let mut opts = Vec::new();
    if one_in(rng, 4) {
        opts.push(TcpOpt::NoDelay(true));
    }
    if one_in(rng, 6) {
        opts.push(TcpOpt::RcvBufForce(pick(rng, &[2304, 8192, 40_000, 200_000])));
    }
    if one_in(rng, 6) {
        opts.push(TcpOpt::SndBufForce(pick(rng, &[4608, 16_384, 100_000])));
    }
    if one_in(rng, 12) {
        opts.push(TcpOpt::QuickAck(one_in(rng, 2)));
    }
    opts
}

/// A share of 2^32 - 1, from parts in ten thousand.
fn share(parts: u64) -> u32 {
    (parts * u64::from(u32::MAX) / 10_000) as u32
}

fn bursts(rng: &mut Rng) -> Loss {
    let (p, r) = (share(1 + rng.below(100)), share(5000 + rng.below(4000)));
    match rng.below(4) {
        0 => Loss::GeModel { p, r, h: share(rng.below(7000)), k1: share(rng.below(50)) },
        1 => {
            let p14 = share(rng.below(100));
            Loss::State { p13: p, p31: r, p32: share(1000), p23: share(5000), p14 }
        }
        _ => Loss::None,
    }
}

fn link(rng: &mut Rng) -> Link {
    let mut chance = |one, most| {
        let on = one_in(rng, one);
        if on { rng.below(most) as u32 } else { 0 }
    };
    let mut faults = Link {
        loss_ppm: chance(2, 30_000),
        duplicate_ppm: chance(4, 20_000),
        reorder_ppm: chance(4, 30_000),
        corrupt_ppm: chance(5, 5_000),
        ..Link::default()
    };
    // Now and then one that nobody would call a link.
    let (mut slowest, mut longest) = (500_000, 80 * MS);
    if one_in(rng, 10) {
        let mut wide = |most| rng.below(most) as u32;
        faults.loss_ppm = wide(150_000);
        faults.duplicate_ppm = wide(300_000);
        faults.reorder_ppm = wide(300_000);
        faults.corrupt_ppm = wide(30_000);
        (slowest, longest) = (100_000, 600 * MS);
    }
    Link {
        rate_bps: if one_in(rng, 3) { 0 } else { slowest << rng.below(10) },
        queue_bytes: 10_000 << rng.below(7),
        queue_packets: if one_in(rng, 4) { 5 + rng.below(100) as u32 } else { 0 },
        mark_bytes: if one_in(rng, 4) { 3000 << rng.below(5) } else { 0 },
        delay_ns: if one_in(rng, 4) { rng.below(200 * US) } else { rng.below(longest) },
        jitter_ns: if one_in(rng, 3) { rng.below(10 * MS) } else { 0 },
        reorder_ns: rng.below(20 * MS),
        bursts: bursts(rng),
        ..faults
    }
}

/// What may be set at a host. One in four is.
const KNOBS: &[(&str, &[&str])] = &[
    ("net.ipv4.tcp_sack", &["0"]),
    ("net.ipv4.tcp_timestamps", &["0"]),
    ("net.ipv4.tcp_window_scaling", &["0"]),
    ("net.ipv4.tcp_dsack", &["0"]),
    ("net.ipv4.tcp_congestion_control", &["reno", "cubic", "dctcp", "bbr"]),
    ("net.ipv4.tcp_slow_start_after_idle", &["0"]),
    ("net.ipv4.tcp_rmem", &["4096 8192 16384", "4096 30000 60000", "8192 500000 6000000"]),
    ("net.ipv4.tcp_wmem", &["4096 8192 16384", "4096 60000 600000"]),
    // Above the third value connections that nobody owns are reset, as Linux does it.
    ("net.ipv4.tcp_mem", &["8 16 8000", "64 96 8000", "300 400 8000", "8 16 64", "64 96 300"]),
    ("net.ipv4.tcp_fastopen", &["0", "3", "1539", "1543"]),
    ("net.ipv4.tcp_moderate_rcvbuf", &["0"]),
    ("net.ipv4.tcp_syncookies", &["0", "2"]),
    ("net.ipv4.tcp_rto_min_us", &["5000", "50000"]),
    ("net.ipv4.tcp_ecn", &["0", "1", "2"]),
    ("net.ipv4.tcp_mtu_probing", &["0", "1", "2"]),
    ("net.ipv4.tcp_limit_output_bytes", &["30000", "200000"]),
    ("net.ipv4.tcp_notsent_lowat", &["10000", "60000"]),
    ("net.ipv4.tcp_recovery", &["0", "1"]),
    ("net.ipv4.tcp_early_retrans", &["0", "3"]),
    ("net.ipv4.tcp_frto", &["0"]),
    ("net.ipv4.tcp_autocorking", &["0"]),
    ("net.ipv4.tcp_thin_linear_timeouts", &["1"]),
    ("net.ipv4.tcp_no_metrics_save", &["0"]),
    ("features.gro", &["0"]),
];

fn knobs(rng: &mut Rng) -> Vec<(&'static str, &'static str)> {
    // Whatever the weather, a connection that is not meant to end does not.
    let mut set = vec![
        // Bursts of loss are long for who sends one packet at a time.
        ("net.ipv4.tcp_syn_retries", "20"),
        ("net.ipv4.tcp_synack_retries", "20"),
        ("net.ipv4.tcp_retries2", "40"),
        ("net.ipv4.tcp_orphan_retries", "20"),
        ("net.ipv4.neigh.default.mcast_solicit", "100"),
        ("net.ipv6.neigh.default.mcast_solicit", "100"),
    ];
    for (path, values) in KNOBS {
        if one_in(rng, 4) {
            set.push((path, pick(rng, values)));
        }
    }
    set
}

/// Disciplines of the router's device. The rates are those of the slower links above.
const QDISCS: &[&str] = &[
    "pfifo limit 50",
    "codel",
    "codel ecn",
    "fq_codel",
    "handle 1: tbf rate 4mbit burst 3000b limit 60k",
    "handle 1: tbf rate 8mbit burst 3000b limit 100m; parent 1: codel ecn",
    "handle 1: tbf rate 8mbit burst 3000b limit 100m; parent 1: fq_codel",
    "netem delay 10ms 5ms loss gemodel 1% 30%",
    "netem delay 5ms 5ms reorder 95% 25% duplicate 1%",
    "sfq",
];

/// The two sides of one connection, by what programs do.
fn talk(rng: &mut Rng, short: bool) -> Talk {
    let most = if short { 12_000 } else { 400_000 };
    let size = |rng: &mut Rng| {
        let magnitude = rng.below(20);
        rng.below(1 << magnitude).min(most)
    };
    let (there, back) = (size(rng), size(rng));
    let mut sides = [Side::plain(rng, there), Side::plain(rng, back)];
    match rng.below(if short { 4 } else { 9 }) {
        // Requests, and an answer to each.
        0 | 4 => {
            let (ask, answer) = (1 + rng.below(3000), 1 + rng.below(20_000));
            let rounds = 1 + rng.below(if short { 3 } else { 30 });
            (sides[0].send, sides[1].send) = (ask * rounds, answer * rounds);
            (sides[0].credit, sides[0].turn) = (ask, Some((ask, answer)));
            sides[1].turn = Some((answer, ask));
        }
        // Half closed: the answer comes after the end of the question.
        1 => sides[1].after_eof = true,
        // Nothing comes back, and nobody waits for it.
        2 => (sides[1].send, sides[0].early_close) = (0, one_in(rng, 2)),
        // A slow reader, or a slow writer.
        5 => {
            let end = rng.below(2) as usize;
            sides[end].read_gap = rng.below(300 * MS);
            sides[end].read = 4000 + rng.below(60_000);
            sides[1 - end].write_gap = rng.below(2) * rng.below(30 * MS);
            sides[1 - end].write = 8000 + rng.below(60_000);
        }
        // A window that stays closed for a while.
        6 => {
            let side = &mut sides[rng.below(2) as usize];
            side.deaf = Some((rng.below(100_000), rng.below(60 * SEC)));
        }
        // Somebody gives up.
        7 => {
            let bytes = there + back;
            sides[rng.below(2) as usize].abort = Some(rng.below(bytes.max(1)));
        }
        _ => {}
    }
    let simultaneous = !short && one_in(rng, 8);
    let fast = !simultaneous && one_in(rng, 3);
    Talk { begin: rng.below(3 * SEC), simultaneous, fast, sides }
}

fn talks(rng: &mut Rng) -> Vec<Talk> {
    let short = one_in(rng, 5);
    let n = if short { 10 + rng.below(50) } else { 1 + rng.below(4) };
    (0..n).map(|_| talk(rng, short)).collect()
}

fn events(rng: &mut Rng, links: &[Link; 2], routed: bool) -> Vec<(u64, Event)> {
    let mut events = Vec::new();
    if one_in(rng, 3) {
        for _ in 0..1 + rng.below(3) {
            let pause = Event::Pause(rng.below(2) as usize, rng.below(2 * SEC));
            events.push((rng.below(6 * SEC), pause));
        }
    }
    if one_in(rng, 3) {
        // Nothing, or nothing large, comes through for a while; or the way is another.
        let way = rng.below(2) as usize;
        let (from, long) = (rng.below(5 * SEC), rng.below(15 * SEC));
        let was = links[way];
        let then = match rng.below(4) {
            0 => Link { loss_ppm: 1_000_000, ..was },
            1 => Link { largest: 600 + rng.below(700) as u32, ..was },
            2 => Link { delay_ns: was.delay_ns * 3 + rng.below(50 * MS), ..was },
            _ => Link { rate_bps: 500_000 << rng.below(6), ..was },
        };
        events.push((from, Event::Link(way, then)));
        events.push((from + long, Event::Link(way, was)));
    }
    if routed && one_in(rng, 3) {
        let mtu = 1280 + rng.below(220) as u32;
        events.push((rng.below(4 * SEC), Event::Mtu(mtu)));
    }
    events.sort_by_key(|(at, _)| *at);
    events
}

impl Scenario {
    /// What the seed says.
    pub fn new(seed: u64) -> Scenario {
        let mut rng = Rng::new(seed ^ 0x6c61_626f_7261_746f);
        let rng = &mut rng;
        let mut links = [link(rng), link(rng)];
        let offload = one_in(rng, 2);
        for link in &mut links {
            link.offload = offload;
            if offload {
                // A damaged super-packet whose checksum nobody completes can not be told from a good one.
                link.corrupt_ppm = 0;
            }
        }
        let router = one_in(rng, 3).then(|| [pick(rng, QDISCS), pick(rng, QDISCS)]);
        let clock = |rng: &mut Rng| {
            let grain = if one_in(rng, 3) { pick(rng, &[MS, 4 * MS, 10 * MS]) } else { 1 };
            (grain, rng.below(2) * rng.below(10_000 * SEC))
        };
        let (knobs, talks) = ([knobs(rng), knobs(rng)], talks(rng));
        // Without cookies those who are turned away come again all at once, and are turned away again.
        let crowd = talks.len() > 8 && knobs[1].contains(&("net.ipv4.tcp_syncookies", "0"));
        let backlog = if crowd { 128 } else { pick(rng, &[1, 4, 64, 64]) };
        let mut scenario = Scenario {
            seed,
            v6: one_in(rng, 2),
            l2: if one_in(rng, 2) { L2::Ip } else { L2::Ethernet },
            mtu: if router.is_some() { 1500 } else { pick(rng, &[1280, 1500, 1500, 9000]) },
            events: events(rng, &links, router.is_some()),
            router,
            links,
            knobs,
            clocks: [clock(rng), clock(rng)],
            backlog,
            talks,
            shards: [None, None],
        };
        // Last, so that all other runs are what they were before there was this.
        let (shards, events) = shards::draw(rng);
        scenario.shards = shards;
        scenario.events.extend(events);
        scenario.events.sort_by_key(|(at, _)| *at);
        scenario
    }
}
