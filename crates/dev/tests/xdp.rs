//! Goal: AF_XDP moves real traffic of a real kernel, whole, and takes nothing that is not ours.
//! Method: a veth pair between two network namespaces. On one end a shard with AF_XDP queues in a
//! loop; on the other a kernel with clients. What the stack counted has to balance afterwards.
//!
//! Where namespaces or BPF are not to be had, tests say SKIP and why.

mod again;
#[path = "xdp/host.rs"]
mod host;
#[path = "xdp/net.rs"]
mod net;

use again::skip;
use host::shows_xdp;
use linerate_core::pkt::{Batch, Pkt, Pool};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Counter, Reason};
use linerate_core::time::Instant;
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_core::wire::Mac;
use linerate_dev::drive::{App, Drive};
use linerate_dev::poller::{Event, Poller};
use linerate_dev::xdp::{self, Config, CopyMode, Filter, Mode, OpenError, Opened, Service, Xsk};
use linerate_dev::{Device, RxCx};
use net::{OWN4, OWN6, Wire, in_netns, pattern, wire};
use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;

const ECHO: u16 = 7;
const DISCARD: u16 = 9;

/// Echoes on one port, reads and forgets on another.
struct Echo {
    echo: SocketId,
    discard: SocketId,
    discarded: u64,
    /// Reads nothing, so that packets keep the memory they lie in.
    asleep: bool,
}

impl App for Echo {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        if self.asleep {
            return Ok(false);
        }
        while let Some(datagram) = shard.udp_recv(self.echo) {
            let how = SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) };
            let slices: Vec<&[u8]> = datagram.slices().collect();
            // Nobody waits for what the queues have no room for: it is sent again.
            let _ = shard.udp_send(self.echo, how, &slices);
            shard.udp_done(datagram);
        }
        while let Some(datagram) = shard.udp_recv(self.discard) {
            assert!(datagram.slices().collect::<Vec<_>>().concat() == pattern(datagram.len()));
            self.discarded += 1;
            shard.udp_done(datagram);
        }
        Ok(false)
    }
}

fn addrs() -> [IpAddr; 2] {
    [OWN4, OWN6].map(|a| a.parse().unwrap())
}

fn config(queues: u32, mode: Mode) -> Config {
    Config { queues: 0..queues, mode, filter: Filter::addrs(addrs()), ..Config::new("xa") }
}

/// Opens, or says why the test can not be made here.
fn open(test: &str, config: &Config) -> Option<Opened> {
    match xdp::open(config) {
        Ok(opened) => Some(opened),
        Err(err @ OpenError::Privilege { .. }) => {
            skip(test, &err.to_string());
            None
        }
        Err(err) => panic!("{err}"),
    }
}

/// A shard with our addresses and sockets over these queues.
fn serve(queues: Vec<Xsk>) -> (Drive, Echo) {
    let mut drive = Drive::new(Shard::new(1)).unwrap();
    let mut dev = None;
    for queue in queues {
        match dev {
            None => dev = Some(drive.add_device(Box::new(queue), |_| {}).unwrap()),
            Some(number) => drive.add_queue(number, Box::new(queue)).unwrap(),
        }
    }
    let dev = dev.unwrap();
    for (addr, len) in addrs().into_iter().zip([24, 64]) {
        drive.shard.add_addr(dev, addr, len).unwrap();
    }
    let mut bind = |port| {
        drive.shard.udp_bind(UdpBind { port, rcvbuf: 8 << 20, ..UdpBind::default() }).unwrap()
    };
    let (echo, discard) = (bind(ECHO), bind(DISCARD));
    (drive, Echo { echo, discard, discarded: 0, asleep: false })
}

/// Tells the peer something and serves until it is done.
fn while_peer(wire: &mut Wire, drive: &mut Drive, app: &mut Echo, line: &str, done: &str) {
    wire.peer.set_waker(drive.poller.waker());
    wire.peer.tell(line);
    while !wire.peer.has_said(done) {
        drive.turn(app).unwrap();
    }
}

fn stat(dev: &dyn Device, name: &str) -> u64 {
    let all = dev.statistics();
    all.iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no {name} in {all:?}")).1
}

/// Nothing is unaccounted for, and nothing is left in any queue.
fn check_balance(drive: &mut Drive) {
    drive.count_losses();
    let net = &drive.shard.net;
    assert_eq!(net.counts.unaccounted(), []);
}

fn echo_over(test: &str, queues: u32, mode: Mode, frame_size: u32) {
    const MTU: u32 = 9000;
    let Some(mut wire) = wire(test, queues as usize, MTU, false) else { return };
    let config = Config { frame_size, ..config(queues, mode) };
    let Some(opened) = open(test, &config) else { return };
    assert_eq!(opened.attached.is_native(), mode != Mode::Generic);
    let (mut drive, mut app) = serve(opened.queues);
    for (addr, most) in [(OWN4, MTU - 28), (OWN6, MTU - 48)] {
        // Every length: in one piece, in two, in as many as there are.
        let line = format!("echo {addr} {ECHO} 0 {most} 1");
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        while_peer(&mut wire, &mut drive, &mut app, &format!("flows {addr} {ECHO} 16"), "echoed");
    }
    check_balance(&mut drive);
    for dev in drive.devices() {
        for (name, value) in dev.statistics() {
            // One in 65536 whole checksums looks like a partial one, and is as good.
            let good = ["tx_ring_empty_descs", "tx_in_place", "rx_partial_csum"];
            assert!(value == 0 || good.contains(&name), "{name}: {value}");
        }
        assert_eq!((dev.counts().tx_refused, dev.counts().overflow), (0, 0));
    }
    let counts = &drive.shard.net.counts;
    assert_eq!(counts.get(Counter::UdpInErrors) + counts.get(Counter::UdpNoPorts), 0);
    assert_eq!(drive.devices().count(), queues as usize);
    let got = counts.get(Counter::UdpInDatagrams) + counts.get(Counter::Udp6InDatagrams);
    assert!(got >= u64::from(2 * MTU - 76), "{got}");
}

#[test]
fn native_one_queue_echoes_every_length() {
    const TEST: &str = "native_one_queue_echoes_every_length";
    if in_netns(TEST) {
        echo_over(TEST, 1, Mode::Native, 4096);
    }
}

#[test]
fn native_two_queues_of_small_chunks_echo_every_length() {
    const TEST: &str = "native_two_queues_of_small_chunks_echo_every_length";
    if in_netns(TEST) {
        echo_over(TEST, 2, Mode::Native, 2048);
    }
}

#[test]
fn generic_one_queue_of_small_chunks_echoes_every_length() {
    const TEST: &str = "generic_one_queue_of_small_chunks_echoes_every_length";
    if in_netns(TEST) {
        echo_over(TEST, 1, Mode::Generic, 2048);
    }
}

#[test]
fn generic_two_queues_echo_every_length() {
    const TEST: &str = "generic_two_queues_echo_every_length";
    if in_netns(TEST) {
        echo_over(TEST, 2, Mode::Generic, 4096);
    }
}

/// The largest packets there are, in chunks of either size.
#[test]
fn frames_of_64_kib_are_echoed() {
    const TEST: &str = "frames_of_64_kib_are_echoed";
    if !in_netns(TEST) {
        return;
    }
    for (mode, frame_size) in [(Mode::Native, 4096), (Mode::Generic, 4096), (Mode::Native, 2048)] {
        let Some(mut wire) = wire(TEST, 1, 65535, false) else { return };
        let config = Config { frame_size, ..config(1, mode) };
        let Some(opened) = open(TEST, &config) else { return };
        let (mut drive, mut app) = serve(opened.queues);
        // What is sent has at most 18 pieces.
        let most = (18 * frame_size as usize - 62).min(65535 - 48);
        for addr in [OWN4, OWN6] {
            let line = format!("echo {addr} {ECHO} 0 {most} 499");
            while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
            let line = format!("echo {addr} {ECHO} {} {most} 1", most - 40);
            while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        }
        // One at a time: a frame is taken whole, however many descriptors it has.
        drive.shard.set_knob("net.core.dev_weight", "1").unwrap();
        let line = format!("flood {OWN4} {DISCARD} 20 65507");
        while_peer(&mut wire, &mut drive, &mut app, &line, "flooded");
        while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 1 1 1"), "echoed");
        check_balance(&mut drive);
        let lost = drive.shard.net.counts.drops(Reason::RingFull);
        assert!(app.discarded + lost == 20 && app.discarded > 0, "{} {lost}", app.discarded);
        wire.netdev.del_link(wire.link.index).unwrap();
    }
}

/// Receives from one queue and forgets.
fn poll(dev: &mut Xsk, pool: &mut Pool, each: impl FnMut(Pkt, &mut Pool)) -> io::Result<usize> {
    let (mut batch, mut dropped) = (Batch::new(), Vec::new());
    let mut cx = RxCx { pool, now: Instant::from_ns(1), dev: 0, dropped: &mut dropped };
    let got = dev.rx_burst(&mut cx, &mut batch, 64)?;
    assert!(dropped.is_empty());
    let mut each = each;
    batch.now.into_iter().for_each(|pkt| each(pkt, pool));
    Ok(got)
}

/// Both queues receive, each by its own socket.
#[test]
fn each_queue_has_its_own_flows() {
    const TEST: &str = "each_queue_has_its_own_flows";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 2, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(2, Mode::Auto)) else { return };
    assert!(opened.attached.is_native());
    let numbers: Vec<u8> = opened.queues.iter().map(Xsk::queue).collect();
    assert_eq!(numbers, [0, 1]);
    let (mut drive, mut app) = serve(opened.queues);
    // The far kernel spreads its flows over its queues, and each leads to one of ours.
    while_peer(&mut wire, &mut drive, &mut app, &format!("flows {OWN4} {ECHO} 64"), "echoed");
    while_peer(&mut wire, &mut drive, &mut app, &format!("flows {OWN6} {ECHO} 64"), "echoed");
    // What came by a queue was counted by nobody else's ring.
    let slots: Vec<_> = drive.devices().map(|d| (d.queue(), d.rings().rx)).collect();
    assert_eq!(slots, [(0, 1024), (1, 1024)]);
    check_balance(&mut drive);
}

/// Turns a UDP packet round where it lies. Its checksums stay right.
fn reflect(pkt: &mut Pkt) -> bool {
    let head = pkt.head_mut();
    if head[12..14] != [8, 0] || head[23] != 17 {
        return false;
    }
    let (ours, theirs) = head.split_at_mut(6);
    ours.swap_with_slice(&mut theirs[..6]);
    let (src, dst) = head.split_at_mut(30);
    src[26..30].swap_with_slice(&mut dst[..4]);
    let (sport, dport) = head.split_at_mut(36);
    sport[34..36].swap_with_slice(&mut dport[..2]);
    true
}

/// A packet that is sent from where it was received is not copied; one in several pieces is, once.
#[test]
fn packets_are_sent_from_the_memory_they_came_in() {
    const TEST: &str = "packets_are_sent_from_the_memory_they_came_in";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 9000, false) else { return };
    let config =
        Config { frame_size: 2048, frames: 256, rx_ring: 64, tx_ring: 64, ..config(1, Mode::Auto) };
    let Some(opened) = open(TEST, &config) else { return };
    let mac = wire.link.mac.unwrap().map(|b| format!("{b:02x}")).join(":");
    // Nobody answers ARP here.
    let mut queue = opened.queues.into_iter().next().unwrap();
    let netns = format!("--net=/proc/{}/ns/net", wire.peer.id());
    let ip = ["ip", "neigh", "replace", OWN4, "lladdr", &mac, "dev", "xb"];
    assert!(Command::new("nsenter").arg(netns).args(ip).status().unwrap().success());
    let mut pool = Pool::new(1024, 64);
    let (mut ring, mut done) = (VecDeque::new(), Vec::new());
    let (mut small, mut large) = (0u64, 0u64);
    wire.peer.tell(&format!("echo {OWN4} {ECHO} 0 8972 3"));
    while !wire.peer.has_said("echoed") {
        poll(&mut queue, &mut pool, |mut pkt, pool| {
            if reflect(&mut pkt) {
                if pkt.nr_frags() == 0 {
                    small += 1
                } else {
                    large += 1
                }
                ring.push_back(pkt);
            } else {
                pool.free(pkt);
            }
        })
        .unwrap();
        queue.tx_burst(&mut ring, &mut done).unwrap();
        queue.tx_complete(&mut done);
        for (pkt, sent) in done.drain(..) {
            assert!(sent);
            pool.free(pkt);
        }
    }
    assert!(small >= 580 && large >= 2400, "{small} small, {large} large");
    while queue.tx_pending() > 0 {
        queue.tx_complete(&mut done);
    }
    done.into_iter().chain(ring.into_iter().map(|p| (p, true))).for_each(|(p, _)| pool.free(p));
    assert_eq!(stat(&queue, "tx_in_place"), small);
    assert_eq!((pool.small_out(), pool.large_out()), (0, 0));
    assert_eq!((stat(&queue, "rx_bad_descs"), stat(&queue, "tx_invalid_descs")), (0, 0));
}

/// Packets that wait in a socket queue keep their chunks; when few are left, packets are copied
/// out of theirs, and the kernel keeps getting chunks.
#[test]
fn a_full_socket_queue_does_not_starve_the_ring() {
    const TEST: &str = "a_full_socket_queue_does_not_starve_the_ring";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
    let config = Config { frames: 128, rx_ring: 64, tx_ring: 64, ..config(1, Mode::Auto) };
    let Some(opened) = open(TEST, &config) else { return };
    let (mut drive, mut app) = serve(opened.queues);
    // The neighbours know each other before anything is counted.
    while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 0 10 5"), "echoed");
    app.asleep = true;
    // A few at a time, so that none is lost.
    let mut sent = 0;
    while sent < 600 {
        let line = format!("flood {OWN4} {DISCARD} 10 1000");
        wire.peer.run(&line, "flooded");
        while drive.devices().any(|dev| dev.rx_pending() != Some(0)) {
            drive.turn(&mut app).unwrap();
        }
        sent += 10;
    }
    let dev = drive.devices().next().unwrap();
    let copied = stat(dev, "rx_copied");
    assert!(copied > 300, "{:?} {:?}", dev.statistics(), dev.counts());
    app.asleep = false;
    while_peer(
        &mut wire,
        &mut drive,
        &mut app,
        &format!("echo {OWN4} {ECHO} 0 1472 100"),
        "echoed",
    );
    check_balance(&mut drive);
    let lost = drive.shard.net.counts.drops(Reason::RingFull);
    assert_eq!(app.discarded + lost, sent);
    assert!(app.discarded > 500, "{lost} were lost");
    assert_eq!(drive.shard.net.pool.small_out(), drive.devices().map(Device::tx_pending).sum());
}

/// A veth peer leaves checksums to a device that is not there: such packets are taken.
#[test]
fn partial_checksums_of_a_veth_are_taken() {
    const TEST: &str = "partial_checksums_of_a_veth_are_taken";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, true) else { return };
    let Some(opened) = open(TEST, &config(1, Mode::Auto)) else { return };
    let (mut drive, mut app) = serve(opened.queues);
    while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 0 1400 7"), "echoed");
    assert!(stat(drive.devices().next().unwrap(), "rx_partial_csum") >= 200);
    assert_eq!(drive.shard.net.counts.get(Counter::UdpInCsumErrors), 0);
    check_balance(&mut drive);
}

/// More than can be taken: every packet is received, or counted as lost.
#[test]
fn a_flood_is_accounted_for_to_the_last_packet() {
    const TEST: &str = "a_flood_is_accounted_for_to_the_last_packet";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
    let config = Config { frames: 128, rx_ring: 64, tx_ring: 64, ..config(1, Mode::Auto) };
    let Some(opened) = open(TEST, &config) else { return };
    let (mut drive, mut app) = serve(opened.queues);
    while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 0 10 5"), "echoed");
    drive.count_losses();
    const SENT: u64 = 20_000;
    // First nobody looks at the ring, then all is taken that comes.
    wire.peer.run(&format!("flood {OWN4} {DISCARD} {SENT} 100"), "flooded");
    let line = format!("flood {OWN4} {DISCARD} {SENT} 100");
    while_peer(&mut wire, &mut drive, &mut app, &line, "flooded");
    // Behind the flood in the same queues.
    while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 0 10 5"), "echoed");
    check_balance(&mut drive);
    let counts = &drive.shard.net.counts;
    let lost = counts.drops(Reason::RingFull);
    assert!(lost > 0);
    // What did not come as far as the program, because the far end's turn came too late.
    let before = wire.peer.ask("dropped");
    let here = app.discarded + lost + counts.drops(Reason::SocketRcvbuff);
    assert_eq!(here + before.parse::<u64>().unwrap(), 2 * SENT);
}

/// A queue is closed and opened again while the others go on; its chunks come back with it.
#[test]
fn a_queue_is_closed_and_opened_again_at_run_time() {
    const TEST: &str = "a_queue_is_closed_and_opened_again_at_run_time";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 2, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(2, Mode::Auto)) else { return };
    let more = opened.more;
    let err = more.open_queue(1).expect_err("it is open");
    assert!(matches!(err, OpenError::QueueBusy { queue: 1, .. }), "{err}");
    assert_eq!(err.errno(), Some(libc::EBUSY));
    let err = more.open_queue(2).expect_err("there is none");
    assert!(matches!(err, OpenError::NoQueue { queue: 2, has: 2, .. }), "{err}");
    let (mut drive, mut app) = serve(opened.queues);
    let line = format!("flows {OWN4} {ECHO} 32");
    // The first one as well, whose socket the memory was registered with; then both.
    for closed in [&[1][..], &[0], &[0, 1], &[1, 0]] {
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
        for &queue in closed {
            drop(drive.remove_queue(0, queue).expect("it is there"));
        }
        for &queue in closed {
            let again = more.open_queue(queue.into()).unwrap();
            assert_eq!(again.queue(), queue);
            drive.add_queue(0, Box::new(again)).unwrap();
        }
        while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    }
    check_balance(&mut drive);
    for dev in drive.devices() {
        assert_eq!(stat(dev, "rx_copied") + stat(dev, "rx_bad_descs"), 0);
    }
    drop(drive);
    assert!(shows_xdp(), "the handle keeps the program attached");
    drop((more, opened.attached));
    assert!(!shows_xdp());
}

/// The kernel does not take a queue away that a socket is bound to; a closed one it does, and gives
/// it back, while the other goes on.
#[test]
fn the_number_of_queues_changes_under_load() {
    const TEST: &str = "the_number_of_queues_changes_under_load";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 2, 1500, false) else { return };
    let Some(opened) = open(TEST, &config(2, Mode::Auto)) else { return };
    let more = opened.more;
    let (mut drive, mut app) = serve(opened.queues);
    let (line, far) = (format!("flows {OWN4} {ECHO} 32"), wire.peer.id().to_string());
    let ethtool = |netns: &str, name: &str, way: &str, n: &str| {
        let mut set = Command::new("nsenter");
        set.arg(format!("--net=/proc/{netns}/ns/net")).args(["ethtool", "-L", name, way, n]);
        set.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    };
    while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    // With XDP attached an end needs as many queues as the other sends by.
    if !ethtool(&far, "xb", "tx", "1") {
        return skip(TEST, "`ethtool -L` does not work here");
    }
    assert!(!ethtool("self", "xa", "rx", "1"), "queue 1 is in use");
    while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    drop(drive.remove_queue(0, 1).expect("it is there"));
    // The kernel takes the socket off its queue a moment after it was closed.
    while !ethtool("self", "xa", "rx", "1") {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    assert!(matches!(more.open_queue(1), Err(OpenError::NoQueue { queue: 1, has: 1, .. })));
    assert!(ethtool("self", "xa", "rx", "2") && ethtool(&far, "xb", "tx", "2"));
    drive.add_queue(0, Box::new(more.open_queue(1).unwrap())).unwrap();
    while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    check_balance(&mut drive);
}

/// Without buffers of several pieces, what does not fit a chunk is dropped and counted.
#[test]
fn long_frames_without_multi_buffer_are_counted_as_lost() {
    const TEST: &str = "long_frames_without_multi_buffer_are_counted_as_lost";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 9000, false) else { return };
    let config = Config { multi_buffer: false, frame_size: 2048, ..config(1, Mode::Auto) };
    let Some(opened) = open(TEST, &config) else { return };
    let (mut drive, mut app) = serve(opened.queues);
    // A chunk without the room that the kernel keeps, without the headers.
    const FITS: usize = 2048 - 256 - 42;
    let line = format!("echo {OWN4} {ECHO} {} {FITS} 1", FITS - 20);
    while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    drive.count_losses();
    assert_eq!(drive.shard.net.counts.drops(Reason::RingFull), 0);
    let line = format!("flood {OWN4} {DISCARD} 30 {}", FITS + 1);
    while_peer(&mut wire, &mut drive, &mut app, &line, "flooded");
    // Ours are as long as the MTU allows, and longer than a chunk: refused, and counted as such.
    let to = SendTo::to("10.78.0.2:9".parse().unwrap());
    drive.shard.udp_send(app.echo, to, &[&[7; 5000]]).unwrap();
    while_peer(&mut wire, &mut drive, &mut app, &format!("echo {OWN4} {ECHO} 0 9 3"), "echoed");
    check_balance(&mut drive);
    let counts = &drive.shard.net.counts;
    assert_eq!((counts.drops(Reason::RingFull), counts.drops(Reason::DevTxError)), (30, 1));
    assert_eq!(app.discarded, 0);
    let dev = drive.devices().next().unwrap();
    assert_eq!((dev.counts().tx_refused, dev.counts().tx_errno), (1, libc::EMSGSIZE));
}

#[test]
fn busy_polling_echoes_as_well() {
    const TEST: &str = "busy_polling_echoes_as_well";
    if !in_netns(TEST) {
        return;
    }
    let Some(mut wire) = wire(TEST, 1, 1500, false) else { return };
    let busy_poll = Some(xdp::BusyPoll { usecs: 20, budget: 64 });
    let Some(opened) = open(TEST, &Config { busy_poll, ..config(1, Mode::Auto) }) else { return };
    let (mut drive, mut app) = serve(opened.queues);
    drive.shard.set_knob("net.core.busy_poll", "1000").unwrap();
    let line = format!("echo {OWN6} {ECHO} 0 1400 7");
    while_peer(&mut wire, &mut drive, &mut app, &line, "echoed");
    check_balance(&mut drive);
}
