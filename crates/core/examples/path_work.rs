//! A fixed amount of work on the path, in memory: the same instructions in every run, so that a
//! tool which counts them shows what a change costs where a clock only shows the weather.
//!
//! ```text
//! cargo build --release -p linerate-core --example path_work
//! valgrind --tool=callgrind target/release/examples/path_work receive 100000 32
//! ```
//!
//! The first argument says what each packet does: `drop` and `swap` at the XDP hook, `receive` to a
//! UDP socket, `echo` back out, `send` from a UDP socket, `idle-xdp` nothing at a stage; or it is a queueing discipline's name, into
//! which packets of 64 flows go and out of which they come. Then how many packets, and how many in a batch.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt, Pool, Skb, Verdict, pseudo};
use linerate_core::rand::Rng;
use linerate_core::rx::xdp::Action;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Counts, Stage};
use linerate_core::time::Instant;
use linerate_core::tx::qdisc::{Env, Place, Sched, Tree};
use linerate_core::tx::xmit::tx_done_all;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_core::wire::{ETH_P_IP, EthHdr, IPPROTO_UDP, Ipv4Hdr, Mac, UdpHdr};
use linerate_core::{rx, tap};

const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);
const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const PAYLOAD: usize = 18;

fn main() {
    let mut args = std::env::args().skip(1);
    let what = args.next().unwrap_or_else(|| "receive".to_owned());
    let mut number = |default: u64| args.next().map_or(default, |a| a.parse().expect("a number"));
    let (packets, size) = (number(100_000), number(32).max(1));
    work(&what, packets, size);
}

/// Does `what` to so many packets, of which `size` are in a batch.
pub fn work(what: &str, packets: u64, size: u64) {
    if let Ok(tree) = Tree::parse(what) {
        return queue(tree, packets / size, size as usize);
    }
    if let Some(stage) = what.strip_prefix("idle-") {
        return idle(stage, packets / size, size);
    }
    let (mut shard, sock) = stack();
    match what {
        "drop" => shard.attach_xdp(0, Some(Box::new(|_| Action::Drop))),
        "swap" => shard.attach_xdp(0, Some(Box::new(swap))),
        "receive" | "echo" | "send" => {}
        other => panic!("{other}: drop, swap, receive, echo, send, idle-STAGE, or a discipline"),
    }
    let frame = frame();
    let mut batch = Batch::new();
    for turn in 0..packets / size {
        shard.net.now = Instant::from_ns(turn);
        if what == "send" {
            (0..size).for_each(|_| send(&mut shard, sock));
        } else {
            ring(&mut shard, &mut batch, &frame, size);
            path::receive(&mut shard, &mut batch);
            while shard.poll_event().is_some() {}
            read(&mut shard, sock, what == "echo");
        }
        path::transmit(&mut shard, &mut batch);
        complete(&mut shard);
    }
    let lost = shard.net.counts.unaccounted();
    assert!(lost.is_empty() && shard.net.pool.small_out() == 0, "every packet is accounted for");
}

/// A discipline alone: batches go in and come out.
fn queue(tree: Tree, turns: u64, size: usize) {
    let place = Place { mtu: 1514, txqueuelen: 1000 };
    let mut sched = Sched::new(tree, place, &mut Rng::new(1));
    let (mut pool, counts) = (Pool::new(1024, 16), Counts::default());
    let mut frame = frame();
    let mut pkts = VecDeque::new();
    for port in 1000..1256_u16 {
        let mut pkt = pool.alloc().expect("there is memory");
        frame[36..38].copy_from_slice(&(port & !0xc0).to_be_bytes());
        pkt.put(frame.len()).copy_from_slice(&frame);
        pkt.network = pkt.data_offset() + EthHdr::LEN as u32;
        pkt.transport = pkt.network + Ipv4Hdr::LEN as u32;
        pkt.proto = ETH_P_IP;
        pkts.push_back(pkt);
    }
    let flow = counts.flow(Stage::Qdisc);
    for turn in 1..=turns {
        let (mut trace, device_sums) = (None, true);
        let now = Instant::from_ns(turn * 100_000);
        let (pool, counts, trace) = (&mut pool, &counts, &mut trace);
        let mut env = Env { now, pool, counts, trace, device_sums };
        flow.enter(size as u64);
        for _ in 0..size {
            let pkt = pkts.pop_front().expect("they come back");
            assert!(matches!(sched.enqueue(&mut env, pkt).0, Verdict::Held), "there is room");
        }
        env.now = now.plus(10_000);
        pkts.extend((0..size).map(|_| sched.dequeue(&mut env).0.expect("none has to wait")));
        flow.release(size as u64);
        flow.pass(size as u64);
    }
}

/// A loop over a batch as the spine has it, with a stage alone in it that has nothing to do.
fn idle(stage: &str, turns: u64, size: u64) {
    let (mut shard, _) = stack();
    let (mut now, mut batch) = (Vec::new(), Batch::new());
    ring(&mut shard, &mut batch, &frame(), size);
    now.append(&mut batch.now);
    let mut next = Vec::new();
    let none = |_: &mut Shard, pkt| Verdict::Pass(pkt);
    let mut pass = |cx: &mut Shard, run: fn(&mut Shard, Pkt) -> Verdict| {
        for pkt in now.drain(..) {
            match run(cx, pkt) {
                Verdict::Pass(pkt) => next.push(pkt),
                _ => panic!("nothing happens here"),
            }
        }
        std::mem::swap(&mut now, &mut next);
    };
    for _ in 0..turns {
        match stage {
            "none" => pass(&mut shard, none),
            "xdp" => pass(&mut shard, rx::xdp::do_xdp),
            "ingress" => pass(&mut shard, rx::ingress::sch_handle_ingress),
            "tap" => {
                pass(&mut shard, none);
                tap::batch(&mut shard.net, Stage::Gro, tap::Point::Before, &[]);
                tap::batch(&mut shard.net, Stage::Gro, tap::Point::After, &[]);
            }
            "qdisc" => {
                pass(&mut shard, none);
                path::qdisc_run(&mut shard.net, 0, 0, 1024);
            }
            other => panic!("{other}: none, xdp, ingress, tap or qdisc"),
        }
    }
}

fn stack() -> (Shard, SocketId) {
    let mut shard = Shard::new(1);
    let mut iface = Iface::new("mem0", L2::Ethernet, OWN, 1500);
    iface.features.tx_csum = false;
    let dev = shard.add_iface(iface);
    shard.add_addr(dev, IpAddr::V4(LOCAL), 24).expect("a new device takes any address");
    shard.neigh_add(dev, IpAddr::V4(PEER), THEIRS);
    let bind = UdpBind { port: 53, rcvbuf: 64 << 20, ..UdpBind::default() };
    let sock = shard.udp_bind(bind).expect("the port is free");
    (shard, sock)
}

fn swap(pkt: &mut Skb) -> Action {
    if let Some((dst, rest)) = pkt.head_mut().split_first_chunk_mut::<6>()
        && let Some(src) = rest.first_chunk_mut::<6>()
    {
        std::mem::swap(dst, src);
    }
    Action::Tx
}

fn frame() -> Vec<u8> {
    let mut frame = vec![0x5a; EthHdr::LEN + Ipv4Hdr::LEN + UdpHdr::LEN + PAYLOAD];
    let len = UdpHdr::LEN + PAYLOAD;
    EthHdr { dst: OWN, src: THEIRS, ethertype: ETH_P_IP }.emit(&mut frame);
    let (ihl_bytes, total_len) = (Ipv4Hdr::LEN, (Ipv4Hdr::LEN + len) as u16);
    let (proto, src, dst) = (IPPROTO_UDP, PEER, LOCAL);
    let (tos, id, df, mf, frag_off_bytes, ttl, csum) = (0, 0, true, false, 0, 64, 0);
    Ipv4Hdr { ihl_bytes, tos, total_len, id, df, mf, frag_off_bytes, ttl, proto, csum, src, dst }
        .emit(&mut frame[14..]);
    UdpHdr { src_port: 4000, dst_port: 53, len: len as u16, csum: 0 }.emit(&mut frame[34..]);
    let sum = pseudo(PEER.into(), LOCAL.into(), len, IPPROTO_UDP);
    let sum = linerate_arch::csum::csum_partial(&frame[34..], sum);
    frame[40..42].copy_from_slice(&linerate_arch::csum::csum_fold(sum).to_be_bytes());
    frame
}

/// What a device does: memory from the pool, the frame's bytes into it.
fn ring(shard: &mut Shard, batch: &mut Batch, frame: &[u8], size: u64) {
    for _ in 0..size {
        let mut pkt = shard.net.pool.alloc().expect("every packet comes back");
        pkt.put(frame.len()).copy_from_slice(frame);
        pkt.rx_time = shard.net.now;
        pkt.dev = 0;
        batch.push(pkt);
    }
}

/// The application: reads all, and sends it back.
fn read(shard: &mut Shard, sock: SocketId, echo: bool) {
    while let Some(datagram) = shard.udp_recv(sock) {
        if echo {
            let mut data = [0; PAYLOAD];
            let from = datagram.slices().next().expect("the payload is not empty");
            data.copy_from_slice(from);
            let back = SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) };
            shard.udp_send(sock, back, &[&data]).expect("the queue is emptied every turn");
        }
        shard.udp_done(datagram);
    }
}

fn send(shard: &mut Shard, sock: SocketId) {
    let to = SendTo::to(SocketAddr::new(IpAddr::V4(PEER), 4000));
    let to = SendTo { src: Some(SocketAddr::new(IpAddr::V4(LOCAL), 53)), ..to };
    shard.udp_send(sock, to, &[&[0x5a; PAYLOAD]]).expect("the queue is emptied every turn");
}

/// What a device does with what is sent.
fn complete(shard: &mut Shard) {
    path::qdisc_run(&mut shard.net, 0, 0, 1024);
    let mut ring = std::mem::take(&mut shard.net.ifaces[0].txqs[0].ring);
    let sent = |pkt: Pkt| {
        std::hint::black_box(pkt.head().first());
        (pkt, true)
    };
    tx_done_all(&mut shard.net, ring.drain(..).map(sent));
    shard.net.ifaces[0].txqs[0].ring = ring;
}
