//! `linerate bench bufferbloat`: what a ping takes beside downloads through a slow link, by the discipline
//! of the queue before that link.
//!
//! Three stacks in virtual time: a server, a router and a client. The router's way to the client is a
//! shaper (`tbf`) with the discipline below it; nothing else is slow. The client asks the server for an
//! echo every few milliseconds; the downloads begin after some seconds in which nothing else moves.
//! The same arguments give the same answer on every machine.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::ExitCode;

use linerate_core::ip::route::Route;
use linerate_core::link::L2;
use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen};
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::tx::qdisc;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_sim::{Link, NodeId, World};
use serde_json::json;

use crate::draw::{Line, Svg, lines};

/// Options of `linerate bench bufferbloat`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchBufferbloatArgs {
    /// Downloads beside the ping
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u8).range(1..=64))]
    pub downloads: u8,
    /// The link, in Mbit/s
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub mbit: u32,
    /// The round trip without a queue, in milliseconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(2..=2000))]
    pub rtt: u32,
    /// Seconds that the downloads last; the ping is alone for two seconds before them
    #[arg(long, default_value_t = 13, value_parser = clap::value_parser!(u32).range(4..=600))]
    pub secs: u32,
    /// A discipline in tc's words; may be given several times
    #[arg(long = "qdisc", value_name = "SPEC", default_values = ["pfifo_fast", "codel", "fq_codel"])]
    pub qdiscs: Vec<String>,
    /// Decides what is random
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the picture to this file
    #[arg(long, value_name = "FILE")]
    pub svg: Option<PathBuf>,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

/// Seconds before the downloads.
const ALONE: u64 = 2;
/// Between two pings, and two looks at the queue.
const EVERY: u64 = 20 * MS;
/// The first part of the downloads, in seconds, is how they begin: figures are of what is behind it.
const BEGIN: u64 = 3;

const SERVER: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 1));
const NEAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 1, 254));
const FAR: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 254));
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 1));
const COLOURS: [&str; 6] = ["#c0392b", "#b7791f", "#1e6f8e", "#7d5ba6", "#1e8449", "#444"];

/// Runs and prints.
pub fn main(args: &BenchBufferbloatArgs) -> ExitCode {
    match run(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("linerate bench bufferbloat: {why}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &BenchBufferbloatArgs) -> Result<(), String> {
    let seen: Result<Vec<Seen>, String> = args.qdiscs.iter().map(|q| beside(args, q)).collect();
    let seen = seen?;
    if let Some(path) = &args.svg {
        std::fs::write(path, picture(args, &seen))
            .map_err(|e| format!("{}: {e}", path.display()))?;
    }
    if args.json {
        crate::print_json(&as_json(args, &seen));
    } else {
        crate::print(&text(args, &seen));
    }
    Ok(())
}

/// What was seen with one discipline. Times are seconds from the begin, delays milliseconds.
struct Seen {
    qdisc: String,
    /// When each ping left, and how long its echo took.
    pings: Vec<(f64, f64)>,
    /// When the router was looked at, and how long what waited in it needed to the wire.
    queue: Vec<(f64, f64)>,
    /// Bytes of each download behind its begin.
    bytes: Vec<u64>,
    drops: u64,
    lost_pings: u64,
}

/// The stacks and what runs on them.
struct Scene {
    world: World,
    server: NodeId,
    router: NodeId,
    client: NodeId,
    /// Sockets of the ping and of its echo.
    ping: SocketId,
    echo: SocketId,
    listener: SocketId,
    senders: Vec<SocketId>,
    readers: Vec<SocketId>,
}

impl Scene {
    fn new(args: &BenchBufferbloatArgs, qdisc: &str) -> Result<Scene, String> {
        let mut world = World::new(args.seed);
        let (server, router, client) = (world.add_node(), world.add_node(), world.add_node());
        let near = Link { queue_bytes: 1 << 24, delay_ns: 0, ..Link::default() };
        let far = Link { delay_ns: u64::from(args.rtt) * MS / 2, ..near };
        world.join((server, SERVER), (router, NEAR), (L2::Ip, 1500, 24), (near, near));
        world.join((router, FAR), (client, CLIENT), (L2::Ip, 1500, 24), (far, far));
        let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        for (node, via) in [(server, NEAR), (client, FAR)] {
            world.node(node).add_route(Route::via(any, 0, via, 0)).expect("a new route");
        }
        world.node(router).set_knob("net.ipv4.ip_forward", "1").expect("a switch");
        // The shaper itself holds no more than a frame at a time, cuts what is larger, and never drops.
        let rate = args.mbit;
        let spec =
            format!("handle 1: tbf rate {rate}mbit burst 1600b limit 1000m; parent 1: {qdisc}");
        let set = world.node(router).set_knob("qdisc.sim1.root", &spec);
        set.map_err(|err| format!("--qdisc '{qdisc}': {err}"))?;
        let bind = |port| UdpBind { port, ..UdpBind::default() };
        let ping = world.node(client).udp_bind(bind(7)).expect("a free port");
        let echo = world.node(server).udp_bind(bind(7)).expect("a free port");
        let listen = Listen { port: 80, backlog: 128, ..Listen::default() };
        let listener = world.node(client).tcp_listen(listen).expect("a free port");
        let (senders, readers) = (Vec::new(), Vec::new());
        Ok(Scene { world, server, router, client, ping, echo, listener, senders, readers })
    }

    fn begin_downloads(&mut self, n: u8) {
        for _ in 0..n {
            let to = Connect { local: None, remote: (CLIENT, 80).into(), user: 0 };
            self.senders.push(self.world.node(self.server).tcp_connect(to).expect("a route"));
        }
    }

    fn send_ping(&mut self) {
        let time = self.world.now().ns().to_be_bytes();
        let to = SendTo::to((SERVER, 7).into());
        self.world.node(self.client).udp_send(self.ping, to, &[&time]).expect("there is room");
    }

    /// What the programs on the server and the client do. `pong` is called with the time at which a ping
    /// left whose echo is here, `got` with bytes of a download.
    fn act(&mut self, mut pong: impl FnMut(Instant), mut got: impl FnMut(usize, u64)) {
        let server = self.world.node(self.server);
        while server.poll_event().is_some() {}
        let block = [0x5a; 16_384];
        for id in &self.senders {
            while server.tcp_send(*id, &block).is_ok_and(|n| n > 0) {}
        }
        while let Some(datagram) = server.udp_recv(self.echo) {
            let time: Vec<u8> = datagram.slices().flatten().copied().collect();
            let from = datagram.src();
            server.udp_done(datagram);
            server.udp_send(self.echo, SendTo::to(from), &[&time]).expect("there is room");
        }
        let client = self.world.node(self.client);
        while client.poll_event().is_some() {}
        while let Some(id) = client.tcp_accept(self.listener) {
            self.readers.push(id);
        }
        let mut buf = [0; 65_536];
        for (at, id) in self.readers.iter().enumerate() {
            while let Ok(n @ 1..) = client.tcp_recv(*id, &mut buf) {
                got(at, n as u64);
            }
        }
        while let Some(datagram) = client.udp_recv(self.ping) {
            let sent = datagram.slices().next().and_then(<[u8]>::first_chunk::<8>);
            pong(Instant::from_ns(u64::from_be_bytes(*sent.expect("eight bytes went out"))));
            client.udp_done(datagram);
        }
    }

    /// Bytes that wait in the router, and packets that it has dropped.
    fn queue(&mut self) -> (u64, u64) {
        let shows = qdisc::show(&self.world.node(self.router).net.ifaces[1]);
        let waits = shows.first().map_or(0, |root| root.stats.backlog);
        (waits, shows.iter().map(|show| show.stats.drops).max().unwrap_or(0))
    }
}

/// The ping and the downloads, with one discipline.
fn beside(args: &BenchBufferbloatArgs, qdisc: &str) -> Result<Seen, String> {
    let mut scene = Scene::new(args, qdisc)?;
    let begun = scene.world.now();
    let at = |t: Instant| t.since(begun) as f64 / SEC as f64;
    let downloads = begun.plus(ALONE * SEC);
    let steady = downloads.plus(BEGIN * SEC);
    let end = downloads.plus(u64::from(args.secs) * SEC);
    let mut seen = Seen {
        qdisc: qdisc.to_owned(),
        pings: Vec::new(),
        queue: Vec::new(),
        bytes: vec![0; args.downloads.into()],
        drops: 0,
        lost_pings: 0,
    };
    let (mut tick, mut sent) = (begun, Vec::new());
    while scene.world.now() < end {
        let now = scene.world.now();
        if now >= tick {
            tick = tick.plus(EVERY);
            scene.send_ping();
            sent.push(at(now));
            let waits = scene.queue().0 * 8;
            seen.queue.push((at(now), waits as f64 / f64::from(args.mbit) / 1e3));
        }
        if now >= downloads && scene.senders.is_empty() {
            scene.begin_downloads(args.downloads);
        }
        let (pings, bytes) = (&mut seen.pings, &mut seen.bytes);
        scene.act(
            |left| pings.push((at(left), now.since(left) as f64 / MS as f64)),
            |of, n| bytes[of] += if now >= steady { n } else { 0 },
        );
        assert!(scene.world.step(), "a ping is on its way");
    }
    let lost = scene.world.unaccounted();
    assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
    seen.drops = scene.queue().1;
    seen.pings.sort_by(|a, b| a.0.total_cmp(&b.0));
    // What left behind the last one that is here may still come.
    let last = seen.pings.last().map_or(0.0, |p| p.0);
    let due = sent.iter().filter(|t| **t <= last).count();
    seen.lost_pings = (due - seen.pings.len()) as u64;
    Ok(seen)
}

/// What a series came to while the downloads were at it, or before them.
struct Sums {
    median: f64,
    p95: f64,
    worst: f64,
}

fn sums(series: &[(f64, f64)], alone: bool) -> Sums {
    let (alone_end, begin) = (ALONE as f64, (ALONE + BEGIN) as f64);
    let of = |t: f64| if alone { t < alone_end - 0.5 } else { t >= begin };
    let mut values: Vec<f64> = series.iter().filter(|p| of(p.0)).map(|p| p.1).collect();
    values.sort_by(f64::total_cmp);
    let part = |p: f64| {
        values.get(((values.len() as f64 * p) as usize).min(values.len().saturating_sub(1)))
    };
    let part = |p: f64| part(p).copied().unwrap_or(0.0);
    Sums { median: part(0.5), p95: part(0.95), worst: part(1.0) }
}

impl Seen {
    /// All downloads together, in Mbit/s.
    fn mbit(&self, args: &BenchBufferbloatArgs) -> f64 {
        let secs = f64::from(args.secs) - BEGIN as f64;
        self.bytes.iter().sum::<u64>() as f64 * 8.0 / secs / 1e6
    }
    /// Jain's index: 1 = all downloads got the same, 1/n = one got everything.
    fn fairness(&self) -> f64 {
        let all: f64 = self.bytes.iter().map(|b| *b as f64).sum();
        let squares: f64 = self.bytes.iter().map(|b| (*b as f64).powi(2)).sum();
        if squares == 0.0 { 0.0 } else { all * all / (self.bytes.len() as f64 * squares) }
    }
}

fn text(args: &BenchBufferbloatArgs, seen: &[Seen]) -> String {
    let BenchBufferbloatArgs { downloads, mbit, rtt, secs, seed, .. } = args;
    let mut out = format!(
        "A ping beside {downloads} downloads through {mbit} Mbit/s, {rtt} ms there and back without a queue.\n\
         Virtual time, seed {seed}: {ALONE} s of ping alone, {secs} s of downloads, whose first {BEGIN} do not count.\n\n"
    );
    let heads = ["ping, ms", "beside downloads", "queue, ms", "downloads", "packets", "pings"];
    let [a, b, c, d, e, f] = heads;
    let _ = writeln!(out, "{:<16}{a:>9}  {b:>24}  {c:>16}  {d:>18}{e:>9}{f:>7}", "");
    let _ = writeln!(
        out,
        "{:<16}{:>9}  {:>8}{:>8}{:>8}  {:>8}{:>8}  {:>9}{:>9}{:>9}{:>7}",
        "discipline",
        "alone",
        "median",
        "95 %",
        "worst",
        "median",
        "worst",
        "Mbit/s",
        "fairness",
        "dropped",
        "lost"
    );
    for s in seen {
        let (alone, ping, queue) =
            (sums(&s.pings, true), sums(&s.pings, false), sums(&s.queue, false));
        let _ = writeln!(
            out,
            "{:<16}{:>9.1}  {:>8.1}{:>8.1}{:>8.1}  {:>8.1}{:>8.1}  {:>9.2}{:>9.3}{:>9}{:>7}",
            s.qdisc,
            alone.median,
            ping.median,
            ping.p95,
            ping.worst,
            queue.median,
            queue.worst,
            s.mbit(args),
            s.fairness(),
            s.drops,
            s.lost_pings
        );
    }
    out
}

fn as_json(args: &BenchBufferbloatArgs, seen: &[Seen]) -> serde_json::Value {
    let sums = |s: Sums| json!({"median": s.median, "p95": s.p95, "worst": s.worst});
    let one = |s: &Seen| {
        json!({
            "qdisc": s.qdisc,
            "ping_alone_ms": sums(self::sums(&s.pings, true)),
            "ping_ms": sums(self::sums(&s.pings, false)),
            "queue_ms": sums(self::sums(&s.queue, false)),
            "mbit": s.mbit(args), "fairness": s.fairness(), "bytes": s.bytes,
            "dropped": s.drops, "lost_pings": s.lost_pings,
            "pings": s.pings, "queue": s.queue,
        })
    };
    json!({
        "downloads": args.downloads, "mbit": args.mbit, "rtt_ms": args.rtt, "secs": args.secs,
        "seed": args.seed, "disciplines": seen.iter().map(one).collect::<Vec<_>>(),
    })
}

/// The ping and the queue over time.
fn picture(args: &BenchBufferbloatArgs, seen: &[Seen]) -> String {
    let end = (ALONE + u64::from(args.secs)) as f64;
    let what = format!(
        "seconds; {} downloads from second {ALONE} on, {} Mbit/s, {} ms there and back",
        args.downloads, args.mbit, args.rtt
    );
    let mut file = Svg::new();
    let mut plot = |title: &str, of: fn(&Seen) -> &[(f64, f64)]| {
        let each = seen.iter().zip(COLOURS.into_iter().cycle());
        let all: Vec<Line<'_>> =
            each.map(|(s, colour)| Line { name: &s.qdisc, colour, points: of(s) }).collect();
        file.plot(title, |out| lines(out, &what, end, &all));
    };
    plot("what a ping takes, ms", |s| &s.pings);
    plot("what waits before the link, ms", |s| &s.queue);
    file.end()
}
