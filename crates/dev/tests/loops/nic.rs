//! A network card for tests of the loop: packets come when the test says so, its interrupt line is
//! a descriptor, and what it sent comes back when the test says so.

use std::collections::VecDeque;
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::Counter;
use linerate_core::time::Instant;
use linerate_core::udp::api::UdpBind;
use linerate_core::wire::{IPPROTO_UDP, Ipv4Hdr, UdpHdr};
use linerate_dev::device::{Caps, Counts, Device, RxCx};
use linerate_dev::drive::{App, Drive, VirtualClock};
use linerate_dev::mem::Config;
use linerate_dev::poller::{Event, Poller};
use rustix::event::{EventfdFlags, eventfd};

/// What a test decides, and what it may look at.
#[derive(Default)]
pub struct State {
    /// Packets that wait to be received.
    pub waiting: usize,
    /// Slots of the receive ring; what comes while it is full is lost.
    pub ring: usize,
    /// Packets that were lost so.
    pub lost: u64,
    /// Packets that the loop took.
    pub taken: u64,
    /// Nanoseconds that taking one costs.
    pub rx_cost: u64,
    /// Nanoseconds between two packets that come by themselves; 0 = none do.
    pub gap: u64,
    /// Until when they have come.
    until: u64,
    /// Sent packets stay in the card until the test says `sent`.
    pub holds: bool,
    /// Packets that it has sent and not given back.
    pub in_flight: VecDeque<Pkt>,
    /// It takes nothing.
    pub jammed: bool,
    /// The interrupt line is up while packets wait.
    line: bool,
}

/// The test's end of a card.
#[derive(Clone)]
pub struct Card {
    state: Arc<Mutex<State>>,
    irq: Arc<OwnedFd>,
    clock: VirtualClock,
}

impl Card {
    pub fn new(clock: &VirtualClock) -> Card {
        let irq = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("a descriptor");
        let state = State { ring: 1024, ..State::default() };
        Card { state: Arc::new(Mutex::new(state)), irq: Arc::new(irq), clock: clock.clone() }
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic before")
    }

    /// So many packets come; the line goes up.
    pub fn arrive(&self, pkts: usize) {
        self.arrive_silently(pkts);
        let mut state = self.state();
        if state.waiting > 0 && !state.line {
            state.line = true;
            rustix::io::write(&self.irq, &1u64.to_ne_bytes()).expect("it counts");
        }
    }

    /// So many packets come, and nobody is told.
    pub fn arrive_silently(&self, pkts: usize) {
        let mut state = self.state();
        let room = state.ring - state.waiting;
        state.waiting += pkts.min(room);
        state.lost += pkts.saturating_sub(room) as u64;
    }

    /// Those packets come whose time it is.
    pub fn tick(&self) {
        let n = {
            let mut state = self.state();
            let passed = self.clock.now() - state.until;
            let n = passed.checked_div(state.gap).unwrap_or(0);
            state.until += n * state.gap;
            n
        };
        self.arrive(n as usize);
    }

    /// The loop's end.
    pub fn device(&self) -> Box<dyn Device> {
        Box::new(Nic { card: self.clone(), frame: frame(), counts: Counts::default() })
    }
}

struct Nic {
    card: Card,
    frame: Vec<u8>,
    counts: Counts,
}

impl Device for Nic {
    fn name(&self) -> &str {
        "nic0"
    }

    fn caps(&self) -> Caps {
        Config::default().caps
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        self.card.tick();
        let mut state = self.card.state();
        let n = state.waiting.min(budget);
        for _ in 0..n {
            let mut pkt = cx.pool.alloc().expect("the pool is large");
            pkt.put(self.frame.len()).copy_from_slice(&self.frame);
            pkt.network = pkt.data_offset();
            pkt.rx_time = cx.now;
            pkt.dev = cx.dev;
            out.push(pkt);
        }
        self.card.clock.advance(n as u64 * state.rx_cost);
        state.waiting -= n;
        state.taken += n as u64;
        if state.waiting == 0 && state.line {
            state.line = false;
            rustix::io::read(&self.card.irq, &mut [0u8; 8]).expect("it was up");
        }
        Ok(n)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        let mut state = self.card.state();
        if state.jammed {
            self.counts.tx_busy += 1;
            return Ok(0);
        }
        let n = ring.len();
        if state.holds {
            state.in_flight.extend(ring.drain(..));
        } else {
            done.extend(ring.drain(..).map(|pkt| (pkt, true)));
        }
        Ok(n)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.card.irq.as_fd())
    }

    fn rx_pending(&self) -> Option<usize> {
        Some(self.card.state().waiting)
    }

    fn tx_complete(&mut self, done: &mut Vec<(Pkt, bool)>) -> usize {
        let mut state = self.card.state();
        let n = state.in_flight.len();
        done.extend(state.in_flight.drain(..).map(|pkt| (pkt, true)));
        n
    }

    fn tx_pending(&self) -> usize {
        self.card.state().in_flight.len()
    }

    fn counts(&self) -> Counts {
        Counts { overflow: self.card.state().lost, ..self.counts }
    }
}

/// A UDP datagram for the socket.
fn frame() -> Vec<u8> {
    let mut frame = vec![0x5a; 46];
    let ip = Ipv4Hdr {
        ihl_bytes: 20,
        tos: 0,
        total_len: 46,
        id: 0,
        df: true,
        mf: false,
        frag_off_bytes: 0,
        ttl: 64,
        proto: IPPROTO_UDP,
        csum: 0,
        src: Ipv4Addr::new(10, 0, 0, 2),
        dst: Ipv4Addr::new(10, 0, 0, 1),
    };
    ip.emit(&mut frame);
    UdpHdr { src_port: 4000, dst_port: 9, len: 26, csum: 0 }.emit(&mut frame[20..]);
    frame
}

/// A loop on a clock of its own with so many cards, each an interface, and a UDP socket.
pub struct Lab {
    pub clock: VirtualClock,
    pub drive: Drive,
    pub cards: Vec<Card>,
    pub sock: SocketId,
}

impl Lab {
    pub fn new(cards: usize) -> Lab {
        let clock = VirtualClock::default();
        let mut drive = Drive::with_clock(Shard::new(1), clock.clone()).expect("a poller");
        let cards: Vec<_> = (0..cards).map(|_| Card::new(&clock)).collect();
        for card in &cards {
            drive.add_device(card.device(), |_| {}).expect("it is watched");
        }
        drive.shard.add_addr(0, "10.0.0.1".parse().expect("an address"), 24).expect("added");
        let bind = UdpBind { port: 9, rcvbuf: 4 << 20, ..UdpBind::default() };
        let sock = drive.shard.udp_bind(bind).expect("free");
        let mut lab = Lab { clock, drive, cards, sock };
        // Each queue is looked at once when it is added: from here on only interrupts count.
        lab.turn();
        lab
    }

    pub fn set(&mut self, knob: &str, value: &str) {
        self.drive.shard.set_knob(knob, value).expect("in range");
    }

    /// One turn with an application that takes what came.
    pub fn turn(&mut self) {
        let mut reader = Reader { sock: Some(self.sock), wake: Instant::NEVER };
        if self.drive.devices().next().is_none() {
            reader.sock = None;
        }
        self.drive.turn(&mut reader).expect("a turn");
    }

    /// One turn that lasts until `ns` at the most.
    pub fn turn_until(&mut self, ns: u64) {
        let mut reader = Reader { sock: Some(self.sock), wake: Instant::from_ns(ns) };
        self.drive.turn(&mut reader).expect("a turn");
    }

    /// A reader looks, and finds nothing.
    pub fn read(&mut self) {
        assert!(self.drive.shard.udp_recv(self.sock).is_none(), "nothing came");
    }

    pub fn get(&self, counter: Counter) -> u64 {
        self.drive.shard.net.counts.get(counter)
    }

    /// What card `at` still holds.
    pub fn waiting(&self, at: usize) -> usize {
        self.cards[at].state().waiting
    }

    /// Sends datagrams to the other end of the first card's wire.
    pub fn send(&mut self, pkts: usize) {
        use linerate_core::udp::output::SendTo;
        let to = SendTo::to("10.0.0.2:9".parse().expect("an address"));
        for _ in 0..pkts {
            self.drive.shard.udp_send(self.sock, to, &[&[7; 10]]).expect("room");
        }
    }
}

/// Reads everything, at once.
struct Reader {
    sock: Option<SocketId>,
    wake: Instant,
}

impl App for Reader {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        while shard.poll_event().is_some() {}
        if let Some(sock) = self.sock {
            while let Some(datagram) = shard.udp_recv(sock) {
                shard.udp_done(datagram);
            }
        }
        Ok(false)
    }

    fn next_timer(&self) -> Option<Instant> {
        (self.wake != Instant::NEVER).then_some(self.wake)
    }
}
