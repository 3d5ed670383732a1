//! Goal: at any overload the loop delivers as much as it ever did, the application runs, and no
//! queue starves.
//! Method: cards whose packets cost time to receive and an application whose work costs more, on
//! virtual time: what is measured is what the loop decides, not what the machine does meanwhile.

use std::io;

use crate::nic::Card;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Counter, Reason};
use linerate_core::time::{Instant, MS, US};
use linerate_core::udp::api::UdpBind;
use linerate_dev::drive::{App, Drive, VirtualClock};
use linerate_dev::poller::{Event, Poller};

/// Receiving a packet costs a fifth of what is done with it.
const RX_COST: u64 = 400;
const APP_COST: u64 = 2_000;

/// Which loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    /// Receiving has priority: the application runs when the ring is empty.
    Naive,
    /// Budgets, and nothing else.
    Quota,
    /// As the loop is.
    Full,
}

/// Works on each datagram for a while, and on a bounded number in a turn.
struct Worker {
    clock: VirtualClock,
    sock: SocketId,
    delivered: u64,
    most: usize,
}

impl App for Worker {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        for _ in 0..self.most {
            let Some(datagram) = shard.udp_recv(self.sock) else { return Ok(false) };
            shard.udp_done(datagram);
            self.clock.advance(APP_COST);
            self.delivered += 1;
        }
        Ok(true)
    }
}

/// A loop with cards, at which packets arrive at a rate.
struct Load {
    clock: VirtualClock,
    drive: Drive,
    cards: Vec<Card>,
    worker: Worker,
}

impl Load {
    /// At each card a packet comes every `gap` nanoseconds.
    fn new(mode: Mode, cards: usize, gap: u64) -> Load {
        let clock = VirtualClock::default();
        let mut drive = Drive::with_clock(Shard::new(1), clock.clone()).expect("a poller");
        let cards: Vec<_> = (0..cards).map(|_| Card::new(&clock)).collect();
        for card in &cards {
            card.state().rx_cost = RX_COST;
            card.state().gap = gap;
            drive.add_device(card.device(), |_| {}).expect("it is watched");
        }
        drive.shard.add_addr(0, "10.0.0.1".parse().expect("an address"), 24).expect("added");
        let sock = drive.shard.udp_bind(UdpBind { port: 9, ..UdpBind::default() }).expect("free");
        let most = if mode == Mode::Naive { usize::MAX } else { 64 };
        let worker = Worker { clock: clock.clone(), sock, delivered: 0, most };
        drive.set_feedback(mode == Mode::Full);
        if mode == Mode::Naive {
            for (knob, value) in [
                ("net.core.netdev_budget", "1000000"),
                ("net.core.netdev_budget_usecs", "10000000"),
            ] {
                drive.shard.set_knob(knob, value).expect("in range");
            }
        }
        Load { clock, drive, cards, worker }
    }

    fn run(&mut self, ns: u64) {
        let end = self.clock.now() + ns;
        while self.clock.now() < end {
            self.cards.iter().for_each(Card::tick);
            self.drive.turn(&mut self.worker).expect("a turn");
            self.clock.advance(US);
        }
    }
}

/// Packets a second that reach the application, with so many offered.
fn delivered(mode: Mode, offered: u64) -> u64 {
    let mut load = Load::new(mode, 1, 1_000_000_000 / offered);
    load.run(20 * MS);
    let before = (load.worker.delivered, load.clock.now());
    load.run(100 * MS);
    assert_eq!(load.drive.shard.net.counts.unaccounted(), []);
    (load.worker.delivered - before.0) * 1_000_000_000 / (load.clock.now() - before.1)
}

/// What one core can at the most: receiving a packet and working on it.
const CAN: u64 = 1_000_000_000 / (RX_COST + APP_COST);

/// Offered up to six times of what it can, the loop delivers nearly as much as at its best.
#[test]
fn throughput_stays_flat_at_any_overload() {
    let loads = [CAN / 2, CAN * 9 / 10, CAN, CAN * 3 / 2, CAN * 2, CAN * 3, CAN * 4, CAN * 6];
    let curve = |mode| loads.map(|offered| delivered(mode, offered));
    let full = curve(Mode::Full);
    let best = *full.iter().max().expect("some");
    assert!(best > CAN * 85 / 100, "{full:?} of {CAN}");
    for (offered, delivered) in loads.iter().zip(full).skip(2) {
        assert!(delivered > best * 85 / 100, "{delivered} of {best} at {offered}: {full:?}");
    }
    // Without the feedback it is flat too, but the time for what is dropped is lost.
    let quota = curve(Mode::Quota);
    assert!(quota[7] > CAN * 45 / 100 && quota[7] < full[7], "{quota:?} beside {full:?}");
    // What both are for: a loop that receives as long as something comes does nothing else.
    let naive = curve(Mode::Naive);
    assert!(naive[7] < CAN / 20, "{naive:?}");
}

/// Goal: a pass that is cut off goes on where it stopped. Nine cards, of which a pass can serve
/// less than five, are served alike, and the application runs.
#[test]
fn no_device_starves() {
    let mut load = Load::new(Mode::Full, 9, US);
    load.run(200 * MS);
    let taken: Vec<u64> = load.cards.iter().map(|c| c.state().taken).collect();
    let (least, most) = (taken.iter().min().expect("some"), taken.iter().max().expect("some"));
    assert!(*least > 0 && most - least <= most / 10 + 128, "{taken:?}");
    let can = 200 * MS / (RX_COST + APP_COST);
    assert!(load.worker.delivered > can * 3 / 4, "{} of {can}", load.worker.delivered);
}

/// Goal: what arrives through the backlog is served beside rings that never run empty.
#[test]
fn the_backlog_does_not_starve() {
    let mut load = Load::new(Mode::Full, 6, US);
    load.run(10 * MS);
    // One more that hands its packets to the backlog.
    let card = Card::new(&load.clock);
    card.state().gap = US;
    load.drive.add_device(card.device(), |iface| iface.netif_rx = true).expect("watched");
    load.cards.push(card);
    load.run(100 * MS);
    let counts = &load.drive.shard.net.counts;
    let backlog = counts.flow(linerate_core::table::Stage::Backlog).read();
    let others = load.cards[0].state().taken;
    assert!(backlog.out > others / 4, "{} beside {others}", backlog.out);
}

/// Goal: the two causes of a squeeze are told apart.
#[test]
fn squeezes_are_counted_by_cause() {
    let squeezed = |budget: &str, usecs: &str| {
        let mut load = Load::new(Mode::Quota, 1, 100);
        load.drive.shard.set_knob("net.core.netdev_budget", budget).expect("in range");
        load.drive.shard.set_knob("net.core.netdev_budget_usecs", usecs).expect("in range");
        load.run(10 * MS);
        let counts = &load.drive.shard.net.counts;
        [Counter::SoftnetSqueezeBudget, Counter::SoftnetSqueezeTime].map(|c| counts.get(c) > 0)
    };
    assert_eq!(squeezed("100", "10000000"), [true, false]);
    assert_eq!(squeezed("1000000", "100"), [false, true]);
}

/// Goal: what can not be delivered is lost in the ring, before it costs; little of it later.
#[test]
fn losses_are_in_the_ring() {
    let lost = |mode| {
        let mut load = Load::new(mode, 1, 1_000_000_000 / (CAN * 4));
        load.run(100 * MS);
        let counts = &load.drive.shard.net.counts;
        let late = counts.drops(Reason::SocketRcvbuff);
        (counts.drops(Reason::RingFull), late, load.worker.delivered)
    };
    let (ring, late, delivered) = lost(Mode::Full);
    assert!(ring > delivered * 2 && late < delivered / 5, "{ring} {late} {delivered}");
    let (_, late, delivered) = lost(Mode::Quota);
    assert!(late > delivered * 2, "{late} {delivered}");
}

/// An application that never has anything to do is still asked once a turn.
#[test]
fn the_application_runs_beside_a_flood() {
    struct Turns(u64);
    impl App for Turns {
        fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
            while shard.poll_event().is_some() {}
            self.0 += 1;
            Ok(false)
        }
        fn next_timer(&self) -> Option<Instant> {
            None
        }
    }
    let mut load = Load::new(Mode::Full, 3, US);
    let mut app = Turns(0);
    while load.clock.now() < 100 * MS {
        load.cards.iter().for_each(Card::tick);
        load.drive.turn(&mut app).expect("a turn");
        load.clock.advance(US);
    }
    // A turn never lasts longer than a pass may: 300 packets, here 120 µs.
    assert!(app.0 >= 100 * MS / (300 * RX_COST), "{}", app.0);
}
