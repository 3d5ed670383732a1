//! Goal: the knobs of the loop and of its rings do what their rows say.
//! Method: two loops in one thread, joined by a wire in memory.

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex};

use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Counter, Reason};
use linerate_core::time::{Instant, MS};
use linerate_core::udp::api::UdpBind;
use linerate_core::udp::output::SendTo;
use linerate_dev::device::{Caps, Counts, Device, RxCx};
use linerate_dev::drive::{App, Drive, Tap};
use linerate_dev::mem::{self, Config};
use linerate_dev::netdev::Link;
use linerate_dev::packet::Packet;
use linerate_dev::poller::{Event, Poller};

/// An application that only counts its turns, and wants one at a certain time.
struct Idle {
    turns: u64,
    wake: Instant,
    seen: Instant,
}

impl App for Idle {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        self.turns += 1;
        self.seen = shard.net.now;
        Ok(false)
    }
    fn next_timer(&self) -> Option<Instant> {
        Some(self.wake)
    }
}

fn idle() -> Idle {
    Idle { turns: 0, wake: Instant::ZERO, seen: Instant::ZERO }
}

/// A loop with one device and one UDP socket, and the other end of its wire.
fn drive(config: Config) -> (Drive, SocketId, mem::Mem) {
    let (near, far) = mem::pair(config).expect("descriptors");
    let mut drive = Drive::new(Shard::new(1)).expect("a poller");
    let dev = drive.add_device(Box::new(near), |_| {}).expect("it is watched");
    drive.shard.add_addr(dev, "10.0.0.1".parse().expect("an address"), 24).expect("added");
    let sock = drive.shard.udp_bind(UdpBind { port: 9, ..UdpBind::default() }).expect("free");
    (drive, sock, far)
}

fn send(drive: &mut Drive, sock: SocketId, n: usize, len: usize, gso_size: u16) {
    let how = SendTo { gso_size, ..SendTo::to("10.0.0.2:9".parse().expect("an address")) };
    for _ in 0..n {
        drive.shard.udp_send(sock, how, &[&vec![7; len]]).expect("room");
    }
}

/// In a turn the ring is filled sixteen times at the most: a small one carries less.
#[test]
fn knob_ring_tx() {
    for (slots, sent) in [("1", 16), ("4", 64), ("1024", 200)] {
        let (mut drive, sock, far) = drive(Config::default());
        drive.shard.set_knob("ring.tx", slots).expect("in range");
        send(&mut drive, sock, 200, 10, 0);
        drive.turn(&mut idle()).expect("a turn");
        assert_eq!(far.backlog(), sent, "ring.tx {slots}");
    }
}

/// After work the loop looks again without sleeping, or sleeps until somebody wants a turn.
#[test]
fn knob_net_core_busy_poll() {
    let turns = ["0", "1000000"].map(|value| {
        let (mut drive, sock, _far) = drive(Config::default());
        drive.shard.set_knob("net.core.busy_poll", value).expect("in range");
        send(&mut drive, sock, 1, 10, 0);
        let mut app = idle();
        drive.turn(&mut app).expect("a turn");
        app.turns = 0;
        app.wake = app.seen.plus(300 * MS);
        while app.seen < app.wake {
            drive.turn(&mut app).expect("a turn");
        }
        app.turns
    });
    // The device may be looked at once more before the first sleep.
    assert!(turns[0] <= 4 && turns[1] > 4, "{turns:?}");
}

/// A turn takes as many super-packets as the cache holds, and the next ones the rest, in order and without a
/// squeeze; small packets it takes as the budget has it.
#[test]
fn a_turn_takes_half_a_mebibyte_at_the_most() {
    for (len, least, most) in [(60_000, 8, 10), (100, 64, 200)] {
        let (mut sender, sock, far) = drive(Config::default());
        let mut receiver = Drive::new(Shard::new(2)).expect("a poller");
        let dev = receiver.add_device(Box::new(far), |_| {}).expect("it is watched");
        receiver.shard.add_addr(dev, "10.0.0.2".parse().expect("an address"), 24).expect("added");
        let bind = UdpBind { port: 9, rcvbuf: 64 << 20, ..UdpBind::default() };
        let reader = receiver.shard.udp_bind(bind).expect("free");
        let (mut taken, mut each) = (0, Vec::new());
        // How long packets are is known from the first burst on.
        for n in [4, 200] {
            send(&mut sender, sock, n, len, 1000);
            while sender.flush_tx().expect("it is sent") {}
            loop {
                receiver.turn(&mut idle()).expect("a turn");
                let now = receiver.shard.net.counts.get(Counter::DevRxPackets);
                if n == 200 {
                    each.push(now - taken);
                }
                taken = now;
                if taken == 4 || taken == 204 {
                    break;
                }
            }
        }
        assert!(each[0] >= least && each.iter().all(|&n| n <= most), "{len} bytes: {each:?}");
        let counts = &receiver.shard.net.counts;
        assert_eq!(counts.get(Counter::SoftnetTimeSqueeze), 0);
        assert_eq!(counts.unaccounted(), []);
        let mut came = 0;
        while let Some(datagram) = receiver.shard.udp_recv(reader) {
            came += datagram.len();
            receiver.shard.udp_done(datagram);
        }
        assert_eq!(came, 204 * len);
    }
}

/// A super-packet from a wire that promised plain packets.
#[test]
fn drop_vnet_hdr() {
    let mut config = Config::default();
    config.caps.rx_offload = false;
    let (mut sender, sock, far) = drive(config);
    send(&mut sender, sock, 3, 3000, 1000);
    sender.turn(&mut idle()).expect("a turn");
    let mut receiver = Drive::new(Shard::new(2)).expect("a poller");
    receiver.add_device(Box::new(far), |_| {}).expect("it is watched");
    receiver.turn(&mut idle()).expect("a turn");
    let counts = &receiver.shard.net.counts;
    assert_eq!((counts.drops(Reason::VnetHdr), counts.get(Counter::DevRxErrors)), (3, 3));
    assert_eq!(counts.unaccounted(), []);
}

/// A frame larger than all the room there is for one. A pair of Unix sockets cuts off what does not
/// fit, and says so, as a packet socket does, and needs no rights.
#[test]
fn drop_ring_truncated() {
    let (near, far) = std::os::unix::net::UnixDatagram::pair().expect("descriptors");
    near.set_nonblocking(true).expect("it is set");
    let link = Link {
        index: 1,
        name: "eth".to_owned(),
        mtu: 1500,
        mac: Some([2, 0, 0, 0, 0, 1]),
        txqueuelen: 1000,
        up: true,
        running: true,
    };
    let packet = Packet::from_fd(near.into(), &link, false);
    let mut drive = Drive::new(Shard::new(1)).expect("a poller");
    drive.add_device(Box::new(packet), |_| {}).expect("it is watched");
    far.send(&[0xff; 80_000]).expect("it is sent");
    drive.turn(&mut idle()).expect("a turn");
    let counts = &drive.shard.net.counts;
    assert_eq!((counts.drops(Reason::RingTruncated), counts.get(Counter::DevRxErrors)), (1, 1));
    assert_eq!(counts.drops(Reason::RingNoBuf), 0);
    assert_eq!(counts.unaccounted(), []);
}

/// One queue of several, with what the loop needs of a device.
struct Queue {
    queue: u8,
    wire: mem::Mem,
}

impl Device for Queue {
    fn name(&self) -> &str {
        "multi0"
    }
    fn caps(&self) -> Caps {
        self.wire.caps()
    }
    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        self.wire.rx_burst(cx, out, budget)
    }
    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        self.wire.tx_burst(ring, done)
    }
    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        self.wire.poll_fd()
    }
    fn queue(&self) -> u8 {
        self.queue
    }
    fn counts(&self) -> Counts {
        self.wire.counts()
    }
}

/// Notes by which queue each packet came.
struct Queues(Arc<Mutex<Vec<u8>>>);

impl Tap for Queues {
    fn packet(&mut self, _: u8, pkt: &Pkt, outbound: bool, _: Instant) {
        if !outbound {
            self.0.lock().expect("no panic before").push(pkt.queue);
        }
    }
}

/// Goal: a loop drives several queues of one device; each transmit queue leaves by its own, and a
/// queue that is taken out leaves nothing behind.
#[test]
fn queues_come_and_go() {
    let mut drive = Drive::new(Shard::new(1)).expect("a poller");
    let mut fars = Vec::new();
    let mut number = 0;
    for queue in 0..3 {
        let (wire, far) = mem::pair(Config::default()).expect("descriptors");
        let dev = Box::new(Queue { queue, wire });
        if queue == 0 {
            number = drive.add_device(dev, |_| {}).expect("it is watched");
        } else {
            drive.add_queue(number, dev).expect("it is watched");
        }
        fars.push(far);
    }
    drive.shard.add_addr(number, "10.0.0.1".parse().expect("an address"), 24).expect("added");
    assert_eq!(drive.shard.net.ifaces[0].txqs.len(), 3);
    let seen = Arc::new(Mutex::new(Vec::new()));
    drive.tap = Some(Box::new(Queues(Arc::clone(&seen))));
    let mut senders: Vec<_> = fars.into_iter().map(peer).collect();
    let mut round = |drive: &mut Drive, queues: &[usize]| {
        for queue in queues {
            let (sender, sock) = &mut senders[*queue];
            send_to(sender, *sock, "10.0.0.1:9");
            sender.turn(&mut idle()).expect("a turn");
        }
        (0..2).for_each(|_| drive.turn(&mut idle()).expect("a turn"));
        std::mem::take(&mut *seen.lock().expect("no panic before"))
    };
    let mut came = round(&mut drive, &[0, 1, 2]);
    came.sort_unstable();
    assert_eq!(came, [0, 1, 2]);
    // What waits in the queue that goes is sent by another.
    drive.remove_queue(number, 1).expect("it is there");
    assert!(drive.remove_queue(number, 1).is_none());
    assert_eq!(drive.shard.net.ifaces[0].txqs.len(), 2);
    assert_eq!(round(&mut drive, &[0]), [0]);
    assert_eq!(round(&mut drive, &[2]), [2]);
    drive.remove_queue(number, 0).expect("it is there");
    drive.remove_queue(number, 2).expect("it is there");
    assert_eq!((drive.devices().count(), drive.shard.net.ifaces[0].txqs.len()), (0, 1));
    let (again, _far) = mem::pair(Config::default()).expect("descriptors");
    drive.add_queue(number, Box::new(Queue { queue: 5, wire: again })).expect("it is watched");
    assert_eq!(drive.shard.net.ifaces[0].txqs.len(), 1);
    let (wire, _far) = mem::pair(Config::default()).expect("descriptors");
    let nowhere = drive.add_queue(9, Box::new(Queue { queue: 0, wire }));
    assert_eq!(nowhere.expect_err("no such interface").raw_os_error(), Some(19));
    assert_eq!(drive.shard.net.counts.unaccounted(), []);
}

/// A loop with a device and a socket at the other end of a wire.
fn peer(end: mem::Mem) -> (Drive, SocketId) {
    let mut drive = Drive::new(Shard::new(2)).expect("a poller");
    let dev = drive.add_device(Box::new(end), |_| {}).expect("it is watched");
    drive.shard.add_addr(dev, "10.0.0.2".parse().expect("an address"), 24).expect("added");
    let sock = drive.shard.udp_bind(UdpBind { port: 9, ..UdpBind::default() }).expect("free");
    (drive, sock)
}

fn send_to(drive: &mut Drive, sock: SocketId, to: &str) {
    let to = SendTo::to(to.parse().expect("an address"));
    drive.shard.udp_send(sock, to, &[&[7; 10]]).expect("room");
}
