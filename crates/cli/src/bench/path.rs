//! `linerate bench path`: what each stage costs a packet, in nanoseconds, with nothing but memory
//! below it.
//!
//! One thread, pinned, moves UDP datagrams through the real receive and transmit path: a copy into
//! a pool buffer stands for the ring, the application reads every datagram. The whole path is timed
//! as it runs in production (stages of a group fused); the rows per stage come from those batches
//! that the spine times stage by stage, which costs a few nanoseconds each.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::Stage;
use linerate_core::time::Instant;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_core::wire::{ETH_P_IP, EthHdr, IPPROTO_UDP, Ipv4Hdr, Mac, UdpHdr};

/// Options of `linerate bench path`.
#[derive(clap::Args, Debug, Clone)]
pub struct BenchPathArgs {
    /// Rounds of each case; the median is printed with the smallest and the largest
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub rounds: u32,
    /// Packets in a round
    #[arg(long, default_value_t = 2_000_000)]
    pub packets: u64,
    /// The processor to run on; `none` = do not pin
    #[arg(long, default_value = "1")]
    pub pin: String,
    /// Only the cases whose name contains this
    #[arg(long, default_value = "")]
    pub only: String,
    /// Print values with names for programs
    #[arg(long)]
    pub json: bool,
}

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);

/// One measured case.
struct Case {
    name: String,
    /// ns per packet of each round, sorted.
    ns: Vec<f64>,
    /// ns per packet of each stage.
    stages: Vec<(Stage, f64)>,
}

impl Case {
    fn median(&self) -> f64 {
        self.ns.get(self.ns.len() / 2).copied().unwrap_or(f64::NAN)
    }
}

/// Measures and prints.
pub fn main(args: &BenchPathArgs) -> ExitCode {
    let pinned = pin(&args.pin);
    let ghz = calibrate();
    let mut cases = Vec::new();
    for (payload, batch) in [(18, 64), (18, 32), (18, 1), (1472, 64)] {
        let name = format!("receive UDP, {payload} B payload, batch {batch}");
        cases.extend(name.contains(&args.only).then(|| receive_case(args, name, payload, batch)));
    }
    for payload in [18, 1472] {
        let name = format!("send UDP, {payload} B payload, batch 64");
        cases.extend(name.contains(&args.only).then(|| transmit_case(args, name, payload)));
    }
    if args.json {
        print_json(&cases, ghz, pinned);
    } else {
        print_table(&cases, ghz, pinned, args);
    }
    ExitCode::SUCCESS
}

fn pin(cpu: &str) -> Option<usize> {
    let cpu = cpu.parse().ok()?;
    let mut set = rustix::thread::CpuSet::new();
    set.set(cpu);
    rustix::thread::sched_setaffinity(None, &set).ok().map(|()| cpu)
}

/// Nanoseconds of processor time of this thread: what others on the machine take is not counted.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The clock that this core really runs at, in GHz: a chain of dependent multiplications, of which
/// each takes three cycles on every x86-64 of the last fifteen years, and one for the `or`.
fn calibrate() -> f64 {
    const N: u64 = 5_000_000;
    let mut best = 0f64;
    for _ in 0..5 {
        let begun = cpu_ns();
        let mut x = std::hint::black_box(0x9e37_79b9_7f4a_7c15u64);
        for _ in 0..N {
            x = x.wrapping_mul(x | 1);
        }
        std::hint::black_box(x);
        best = best.max((N * 4) as f64 / (cpu_ns() - begun) as f64);
    }
    best
}

fn shard_with_socket() -> (Shard, SocketId) {
    let mut shard = Shard::new(1);
    let mut iface = Iface::new("mem0", L2::Ethernet, OWN, 1500);
    iface.features.tx_csum = false;
    let dev = shard.add_iface(iface);
    shard.add_addr(dev, IpAddr::V4(LOCAL), 24).expect("a new device takes any address");
    shard.neigh_add(dev, IpAddr::V4(PEER), Mac([2, 0, 0, 0, 0, 1]));
    let bind = UdpBind { port: 53, rcvbuf: 64 << 20, ..UdpBind::default() };
    let sock = shard.udp_bind(bind).expect("the port is free");
    shard.net.clock = Some(linerate_dev::drive::clock_ns);
    (shard, sock)
}

fn frame(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; 14 + 20 + 8 + payload];
    let len = 8 + payload;
    EthHdr { dst: OWN, src: Mac([2, 0, 0, 0, 0, 1]), ethertype: ETH_P_IP }.emit(&mut frame);
    let ip = Ipv4Hdr {
        ihl_bytes: 20,
        tos: 0,
        total_len: 20 + len as u16,
        id: 0,
        df: true,
        mf: false,
        frag_off_bytes: 0,
        ttl: 64,
        proto: IPPROTO_UDP,
        csum: 0,
        src: PEER,
        dst: LOCAL,
    };
    ip.emit(&mut frame[14..]);
    let udp = UdpHdr { src_port: 4000, dst_port: 53, len: len as u16, csum: 0 };
    udp.emit(&mut frame[34..]);
    let pseudo = linerate_core::pkt::pseudo(PEER.into(), LOCAL.into(), len, IPPROTO_UDP);
    let sum =
        linerate_arch::csum::csum_fold(linerate_arch::csum::csum_partial(&frame[34..], pseudo));
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

fn receive_case(args: &BenchPathArgs, name: String, payload: usize, size: usize) -> Case {
    let frame = frame(payload);
    let (mut shard, sock) = shard_with_socket();
    let mut batch = Batch::new();
    let mut ns = Vec::new();
    for _ in 0..args.rounds {
        let begun = cpu_ns();
        for turn in 0..args.packets / size as u64 {
            shard.net.now = Instant::from_ns(turn);
            for _ in 0..size {
                let mut pkt = shard.net.pool.alloc().expect("every packet comes back");
                pkt.put(frame.len()).copy_from_slice(&frame);
                pkt.rx_time = shard.net.now;
                pkt.dev = 0;
                batch.push(pkt);
            }
            path::receive(&mut shard, &mut batch);
            while shard.poll_event().is_some() {}
            while let Some(datagram) = shard.udp_recv(sock) {
                std::hint::black_box(datagram.slices().next().and_then(|s| s.first()));
                shard.udp_done(datagram);
            }
        }
        ns.push((cpu_ns() - begun) as f64 / args.packets as f64);
    }
    finish(name, ns, &shard)
}

fn transmit_case(args: &BenchPathArgs, name: String, payload: usize) -> Case {
    let (mut shard, sock) = shard_with_socket();
    let data = vec![0x5a; payload];
    let to = SendTo::to(SocketAddr::new(IpAddr::V4(PEER), 4000));
    let to = SendTo { src: Some(SocketAddr::new(IpAddr::V4(LOCAL), 53)), ..to };
    let mut batch = Batch::new();
    let mut ns = Vec::new();
    for _ in 0..args.rounds {
        let begun = cpu_ns();
        for turn in 0..args.packets / 64 {
            shard.net.now = Instant::from_ns(turn);
            for _ in 0..64 {
                shard.udp_send(sock, to, &[&data]).expect("the queue is emptied every turn");
            }
            path::transmit(&mut shard, &mut batch);
            path::qdisc_run(&mut shard.net, 0, 0, 1024);
            while let Some(pkt) = shard.net.ifaces[0].txqs[0].ring.pop_front() {
                std::hint::black_box(pkt.head().first());
                linerate_core::tx::xmit::tx_done(&mut shard.net, pkt, true);
            }
        }
        ns.push((cpu_ns() - begun) as f64 / args.packets as f64);
    }
    finish(name, ns, &shard)
}

fn finish(name: String, mut ns: Vec<f64>, shard: &Shard) -> Case {
    ns.sort_by(f64::total_cmp);
    assert!(shard.net.counts.unaccounted().is_empty(), "every packet is accounted for");
    let each = Stage::ALL.iter().filter_map(|s| {
        let read = shard.net.counts.flow(*s).read();
        (read.ns_pkts > 0).then(|| (*s, read.ns as f64 / read.ns_pkts as f64))
    });
    Case { name, stages: each.collect(), ns }
}

fn print_table(cases: &[Case], ghz: f64, pinned: Option<usize>, args: &BenchPathArgs) {
    let place = pinned.map_or("not pinned".to_owned(), |c| format!("pinned to processor {c}"));
    println!("{place}, {ghz:.2} GHz, {} rounds of {} packets", args.rounds, args.packets);
    println!(
        "{:<46} {:>8} {:>18} {:>8}",
        "ns of processor time per packet", "median", "min..max", "cycles"
    );
    for case in cases {
        let (low, high) = (case.ns.first().unwrap_or(&0.0), case.ns.last().unwrap_or(&0.0));
        let (median, spread) = (case.median(), format!("{low:.1}..{high:.1}"));
        println!("{:<46} {median:>8.1} {spread:>18} {:>8.0}", case.name, median * ghz);
        for (stage, ns) in &case.stages {
            println!("    {:<42} {ns:>8.1}", stage.name());
        }
    }
}

fn print_json(cases: &[Case], ghz: f64, pinned: Option<usize>) {
    let row = |c: &Case| {
        let stages: serde_json::Map<String, serde_json::Value> =
            c.stages.iter().map(|(s, ns)| (s.name().to_owned(), (*ns).into())).collect();
        serde_json::json!({ "name": c.name, "ns_median": c.median(), "ns": c.ns, "stages_ns": stages })
    };
    let all: Vec<_> = cases.iter().map(row).collect();
    println!("{}", serde_json::json!({ "pinned": pinned, "ghz": ghz, "cases": all }));
}
