//! Goal: each fault of a link, of a host and of its clock does what it is said to do, nothing vanishes
//! without being counted, and a seed repeats a run exactly. Method: numbered datagrams, or one TCP
//! stream, from one host to another over a link with that fault.

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv4Addr};
use std::rc::Rc;

use linerate_core::link::L2;
use linerate_core::sock::SocketId;
use linerate_core::tcp::{Connect, Listen};
use linerate_core::time::{Instant, MS, SEC};
use linerate_core::tx::qdisc::netem::Loss;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_sim::{Link, NodeId, Port, World};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

struct Pair {
    world: World,
    a: NodeId,
    b: NodeId,
    there: Port,
    from: SocketId,
    to: SocketId,
}

fn pair(link: Link) -> Pair {
    let mut world = World::new(3);
    let (a, b) = (world.add_node(), world.add_node());
    let back = Link { offload: link.offload, ..Link::default() };
    let (there, _) = world.join((a, A), (b, B), (L2::Ip, 1500, 24), (link, back));
    let bind = UdpBind { port: 7, rcvbuf: 1 << 20, ..UdpBind::default() };
    let from = world.node(a).udp_bind(bind).expect("a free port");
    let to = world.node(b).udp_bind(bind).expect("a free port");
    Pair { world, a, b, there, from, to }
}

impl Pair {
    /// Sends datagram `number` of `size` bytes, with a type of service.
    fn send(&mut self, number: u32, size: usize, tos: u8) {
        let mut bytes = vec![0; size];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let to = SendTo { tos, ..SendTo::to((B, 7).into()) };
        self.world.node(self.a).udp_send(self.from, to, &[&bytes]).expect("there is room");
    }
    /// The numbers of what has come.
    fn take(&mut self, seen: &mut Vec<u32>) {
        let node = self.world.node(self.b);
        while node.poll_event().is_some() {}
        while let Some(datagram) = node.udp_recv(self.to) {
            let mut number = [0; 4];
            number.copy_from_slice(&datagram.slices().next().expect("four bytes")[..4]);
            seen.push(u32::from_be_bytes(number));
            node.udp_done(datagram);
        }
    }
    /// Sends `n` datagrams, one every `gap`, and waits until nothing happens any more.
    fn all(&mut self, n: u32, size: usize, gap: u64) -> Vec<u32> {
        let mut seen = Vec::new();
        for number in 0..n {
            self.send(number, size, 0x02);
            let until = self.world.now().plus(gap);
            while self.world.now() < until {
                self.world.step_by(until);
                self.take(&mut seen);
            }
        }
        loop {
            self.world.step_by(self.world.now());
            self.take(&mut seen);
            if !self.world.under_way() || !self.world.step() {
                break;
            }
        }
        let passed = self.world.passed(self.there);
        assert_eq!(passed.under_way(), 0, "{passed:?}");
        assert_eq!(self.world.unaccounted(), []);
        seen
    }
}

/// The lengths of the runs of numbers that are missing.
fn runs(seen: &[u32]) -> Vec<u32> {
    seen.windows(2).map(|w| w[1] - w[0] - 1).filter(|n| *n > 0).collect()
}

#[test]
fn bursts_lose_packets_in_runs_and_chance_does_not() {
    let share = |p: f64| (p * f64::from(u32::MAX)) as u32;
    let bursts = Loss::GeModel { p: share(0.01), r: share(0.2), h: 0, k1: 0 };
    let mean = |link| {
        let mut pair = pair(link);
        let seen = pair.all(20_000, 100, MS / 10);
        let (lost, runs) = (20_000 - seen.len(), runs(&seen));
        let count = pair.world.lost(pair.there).loss;
        assert_eq!(count, lost as u64, "what is missing was counted");
        (lost, f64::from(runs.iter().sum::<u32>()) / runs.len() as f64)
    };
    // In the bad state for 1/r packets, so often that p/(p+r) of all are lost.
    let (lost, run) = mean(Link { bursts, ..Link::default() });
    assert!((600..1400).contains(&lost) && (4.0..6.5).contains(&run), "{lost} lost, runs of {run}");
    let (lost, run) = mean(Link { loss_ppm: 47_600, ..Link::default() });
    assert!((600..1400).contains(&lost) && run < 1.2, "{lost} lost, runs of {run}");
}

#[test]
fn a_queue_is_full_by_bytes_or_by_packets() {
    // 12 Mbit/s: 1500 bytes take a millisecond; 50 of them come at once.
    let slow = Link { rate_bps: 12_000_000, queue_bytes: 15_000, ..Link::default() };
    let mut bytes = pair(slow);
    assert_eq!(bytes.all(50, 1472, 0).len(), 10, "15000 bytes wait");
    assert_eq!(bytes.world.lost(bytes.there).queue, 40);
    assert_eq!(bytes.world.passed(bytes.there).most_waiting, 13_500, "before the last of them");
    let mut packets = pair(Link { queue_bytes: 1 << 20, queue_packets: 7, ..slow });
    assert_eq!(packets.all(50, 1472, 0).len(), 7, "7 packets wait");
    assert_eq!(packets.all(50, 1472, 2 * MS).len(), 50, "one at a time finds room");
}

#[test]
fn what_finds_a_long_queue_is_marked() {
    let slow = Link { rate_bps: 12_000_000, mark_bytes: 6_000, ..Link::default() };
    let mut pair = pair(slow);
    assert_eq!(pair.all(20, 1472, 0).len(), 20);
    // Four packets of 1500 bytes before one are not more than 6000 bytes.
    assert_eq!(pair.world.passed(pair.there).marked, 15);
    pair.all(20, 1472, 2 * MS);
    assert_eq!(pair.world.passed(pair.there).marked, 15, "a short queue marks nothing");
}

#[test]
fn a_black_hole_takes_large_frames_only_and_tells_nobody() {
    let mut pair = pair(Link { largest: 1400, ..Link::default() });
    assert_eq!(pair.all(10, 1373, MS).len(), 0, "1401 bytes with their headers");
    assert_eq!(pair.all(10, 1372, MS).len(), 10);
    assert_eq!(pair.world.lost(pair.there).size, 10);
}

#[test]
fn a_pause_holds_what_arrives_as_far_as_the_ring_has_room() {
    let mut pair = pair(Link::default());
    let until = pair.world.now().plus(SEC);
    pair.world.pause(pair.b, until);
    assert!(pair.world.is_paused(pair.b));
    for number in 0..300 {
        pair.send(number, 100, 0);
    }
    let mut seen = Vec::new();
    while pair.world.now() < until {
        pair.take(&mut seen);
        assert!(seen.is_empty(), "it is suspended");
        pair.world.step();
    }
    pair.take(&mut seen);
    assert_eq!(seen, (0..256).collect::<Vec<_>>());
    assert_eq!(pair.world.lost(pair.there).ring, 44);
    assert_eq!(pair.world.unaccounted(), []);
}

#[test]
fn reordered_duplicated_and_damaged_packets_are_what_was_asked_for() {
    let fault = Link { reorder_ppm: 100_000, reorder_ns: 5 * MS, ..Link::default() };
    let seen = pair(fault).all(2000, 100, MS);
    let late = seen.windows(2).filter(|w| w[1] < w[0]).count();
    assert!((100..300).contains(&late) && seen.len() == 2000, "{late} overtaken");
    let mut twice = pair(Link { duplicate_ppm: 100_000, ..Link::default() });
    let seen = twice.all(2000, 100, MS);
    let passed = twice.world.passed(twice.there);
    assert_eq!(seen.len() as u64, 2000 + passed.doubled);
    assert!((100..300).contains(&passed.doubled));
    // One bit in 128 bytes. In the headers it may be one that nothing covers, or nobody minds.
    let mut damaged = pair(Link { corrupt_ppm: 1_000_000, ..Link::default() });
    assert_eq!(damaged.all(2000, 100, MS), [], "a checksum catches every single bit");
    assert_eq!(damaged.world.passed(damaged.there).damaged, 2000);
}

#[test]
fn another_mtu_is_told_and_kept_to() {
    let mut pair = pair(Link::default());
    pair.world.set_mtu(pair.there, 1000);
    let to = SendTo::to((B, 7).into());
    pair.world.node(pair.a).udp_send(pair.from, to, &[&[0; 1400]]).expect("there is room");
    let mut seen = Vec::new();
    while pair.world.under_way() || seen.is_empty() {
        assert!(pair.world.step_by(pair.world.now().plus(MS)));
        pair.take(&mut seen);
    }
    assert_eq!(pair.world.passed(pair.there).sent, 2, "two fragments");
}

/// A transfer of 300 000 bytes over a path that, once the connection stands, swallows what is larger than
/// 1300 bytes. How much arrives in two minutes, and whether something was swallowed.
fn into_a_black_hole(probing: &str) -> (usize, bool) {
    let mut world = World::new(9);
    let (a, b) = (world.add_node(), world.add_node());
    world.node(a).set_knob("net.ipv4.tcp_mtu_probing", probing).expect("in range");
    let link = Link { delay_ns: 5 * MS, ..Link::default() };
    let (there, _) = world.join((a, A), (b, B), (L2::Ip, 1500, 24), (link, link));
    let listen = Listen { port: 80, backlog: 8, ..Listen::default() };
    let listener = world.node(b).tcp_listen(listen).expect("a free port");
    let to = Connect { local: None, remote: (B, 80).into(), user: 0 };
    let id = world.node(a).tcp_connect(to).expect("a route exists");
    world.set_link(there, Link { largest: 1300, ..link });
    let (mut sent, mut got, mut reader) = (0, 0, None);
    let limit = world.now().plus(120 * SEC);
    while got < 300_000 && world.now() < limit {
        if let Ok(n) = world.node(a).tcp_send(id, &[7; 5000][..5000.min(300_000 - sent)]) {
            sent += n;
        }
        reader = reader.or_else(|| world.node(b).tcp_accept(listener));
        let mut buf = [0; 9000];
        while let Some(Ok(n @ 1..)) = reader.map(|id| world.node(b).tcp_recv(id, &mut buf)) {
            got += n;
        }
        for node in [a, b] {
            while world.node(node).poll_event().is_some() {}
        }
        world.step_by(world.now().plus(SEC));
    }
    assert_eq!(world.unaccounted(), []);
    (got, world.lost(there).size > 0)
}

#[test]
fn a_connection_gets_out_of_a_black_hole_only_by_probing() {
    assert_eq!(into_a_black_hole("0"), (0, true), "nobody told that packets are too large");
    assert_eq!(
        into_a_black_hole("1"),
        (300_000, true),
        "after some timeouts it tries smaller ones"
    );
    assert_eq!(into_a_black_hole("2").0, 300_000, "it begins small");
}

/// What happened in a world: every frame, with its time and its fate, in one number.
fn stream(seed: u64, (grain, ahead): (u64, u64)) -> (u64, usize, Instant) {
    let mut world = World::new(seed);
    let (a, b) = (world.add_node(), world.add_node());
    world.set_clock(a, grain, ahead);
    world.set_clock(b, grain, ahead / 2);
    let link = Link { loss_ppm: 20_000, jitter_ns: MS, delay_ns: 5 * MS, ..Link::default() };
    world.join((a, A), (b, B), (L2::Ip, 1500, 24), (link, link));
    let hash = Rc::new(RefCell::new(DefaultHasher::new()));
    let heard = Rc::clone(&hash);
    world.listen(move |frame| {
        let hash = &mut *heard.borrow_mut();
        (frame.at, frame.from, frame.bytes, frame.arrives).hash(hash);
    });
    let listen = Listen { port: 80, backlog: 8, ..Listen::default() };
    let listener = world.node(b).tcp_listen(listen).expect("a free port");
    let to = Connect { local: None, remote: (B, 80).into(), user: 0 };
    let id = world.node(a).tcp_connect(to).expect("a route exists");
    let (mut sent, mut got, mut reader) = (0, 0, None);
    let limit = world.now().plus(600 * SEC);
    while got < 300_000 && world.now() < limit {
        if let Ok(n) = world.node(a).tcp_send(id, &[7; 5000][..5000.min(300_000 - sent)]) {
            sent += n;
        }
        reader = reader.or_else(|| world.node(b).tcp_accept(listener));
        let mut buf = [0; 9000];
        if let Some(id) = reader {
            while let Ok(n @ 1..) = world.node(b).tcp_recv(id, &mut buf) {
                got += n;
            }
        }
        for node in [a, b] {
            while world.node(node).poll_event().is_some() {}
            let shown = world.node(node).net.now.ns();
            let ahead = if node == a { ahead } else { ahead / 2 };
            assert_eq!((shown - ahead) % grain, 0, "the clock is coarse");
        }
        assert!(world.step_by(world.now().plus(SEC)));
    }
    assert_eq!(world.unaccounted(), []);
    let end = world.now();
    (hash.borrow().finish(), got, end)
}

#[test]
fn a_seed_repeats_a_run_exactly_and_another_does_not() {
    let (one, got, _) = stream(1, (1, 0));
    assert_eq!(got, 300_000);
    assert_eq!(stream(1, (1, 0)).0, one);
    assert_ne!(stream(2, (1, 0)).0, one);
}

/// Timers are due when the clock shows it: with one of 10 ms, hours ahead, everything still ends.
#[test]
fn coarse_clocks_and_clocks_that_differ_lose_no_timer() {
    for clock in [(MS, 0), (4 * MS, 3 * SEC), (10 * MS, 7200 * SEC)] {
        let (_, got, end) = stream(5, clock);
        assert_eq!(got, 300_000, "{clock:?}: {end:?}");
    }
}
