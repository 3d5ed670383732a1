//! What one core owns: a whole stack, its sockets and its counts.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::ip::{icmp, reasm, route};
use crate::link::{Iface, neigh};
use crate::pkt::{Pkt, Pool};
use crate::rand::Rng;
use crate::sock::Events;
use crate::table::knob::SetError;
use crate::table::{Counts, Knobs, Reason, Stage};
use crate::time::Instant;
use crate::trace::{self, Said, Trace};

/// Everything of a stack but its sockets (Linux: `struct net`, and this CPU's `softnet_data`).
pub struct Net {
    /// The time, as taken when the ring was dequeued.
    pub now: Instant,
    /// Counters, stages, drops: shared with whoever looks.
    pub counts: Arc<Counts>,
    /// The knobs' values.
    pub knobs: Knobs,
    /// Packet memory.
    pub pool: Pool,
    /// Randomness, seeded from outside.
    pub rng: Rng,
    /// Devices, by their number.
    pub ifaces: Vec<Iface>,
    /// Routes.
    pub fib: route::Fib,
    /// Neighbours (ARP and ND).
    pub neigh: neigh::Table,
    /// This shard's number among those that share a device (Linux: `smp_processor_id`).
    pub cpu: u8,
    /// A device learns its neighbours from what they send ([`Iface::glean`]).
    pub glean: bool,
    /// A device has an XDP program: the stage Xdp has something to do.
    pub xdp_on: bool,
    /// A device has a queueing discipline on receive.
    pub(crate) rx_qdisc_on: bool,
    /// Whether Fast Open seems to get through to peers.
    pub(crate) fastopen_active: crate::tcp::ActiveFastOpen,
    /// A device has rules at ingress ([`Shard::tc_filter`]).
    pub(crate) ingress_on: bool,
    /// What XDP programs said in this batch.
    pub(crate) xdp: crate::rx::xdp::Tally,
    /// Where packets go on, and the way to the other shards.
    pub steer: crate::rx::steer::Steer,
    /// Which transmit queues flows are sent by.
    pub(crate) xps: crate::tx::xps::Xps,
    /// What receive offload holds.
    pub gro: crate::rx::gro::Gro,
    /// Fragments that wait for the rest.
    pub reasm: reasm::Table,
    /// Rate limits and path MTUs learnt by ICMP.
    pub icmp: icmp::State,
    /// Packets of transports: the transport header is written, addresses are set. Next: IpOut.
    pub ip_out: VecDeque<Pkt>,
    /// Packets with an IP header that are routed already: forwarded ones. Next: Frag.
    pub frag_out: VecDeque<Pkt>,
    /// Fragments. Next: Neigh.
    pub neigh_out: VecDeque<Pkt>,
    /// Whole frames: ARP, and packets whose neighbour was found. Next: Qdisc.
    pub link_out: VecDeque<Pkt>,
    /// Packets for others that Route found. Next: Forward.
    pub forward_in: VecDeque<Pkt>,
    /// Fragments for us that Route found. Next: Reasm.
    pub reasm_in: VecDeque<Pkt>,
    /// The input queue: what other shards steered here, loopback, and devices without NAPI.
    pub backlog: crate::rx::backlog::Backlog,
    /// What the application is to be told.
    pub events: Events,
    /// Memory of queues of idle connections.
    pub(crate) spare: crate::tcp::Spare,
    /// A reader found nothing and wants the loop to look at the devices until then
    /// (`net.core.busy_read`, SO_BUSY_POLL).
    pub busy_read_until: Instant,
    /// Who captures packets.
    pub taps: crate::tap::Taps,
    /// Where verdicts of traced packets go.
    pub trace: Option<Trace>,
    /// A clock for measuring the stages, in nanoseconds; `None` = stages are not timed.
    pub clock: Option<fn() -> u64>,
    /// Counts batches, to time one in sixty-one.
    pub(crate) tick: u32,
}

/// One core's stack (Linux has no name for it: a `struct net` that one CPU owns).
pub struct Shard {
    /// Everything but sockets.
    pub net: Net,
    /// UDP sockets.
    pub udp: crate::udp::Sockets,
    /// TCP sockets.
    pub tcp: crate::tcp::Sockets,
    /// The socket that answers for foreign addresses' ICMP echo, if one is open.
    pub ping: crate::ip::icmp::PingSock,
}

impl Shard {
    /// An empty stack: no devices, no addresses, knobs at their defaults. `seed` decides every
    /// random choice that it will ever make.
    pub fn new(seed: u64) -> Shard {
        let mut rng = Rng::new(seed);
        let knobs = Knobs::default();
        let net = Net {
            now: Instant::ZERO,
            counts: Arc::default(),
            pool: Pool::new(knobs.pool_small as usize, knobs.pool_large as usize),
            ifaces: Vec::new(),
            fib: route::Fib::default(),
            neigh: neigh::Table::new(rng.keyed()),
            cpu: 0,
            glean: false,
            xdp_on: false,
            rx_qdisc_on: false,
            fastopen_active: Default::default(),
            ingress_on: false,
            xdp: Default::default(),
            steer: crate::rx::steer::Steer::new(seed),
            xps: crate::tx::xps::Xps::new(seed),
            gro: Default::default(),
            reasm: reasm::Table::new(rng.keyed()),
            icmp: icmp::State::new(rng.keyed()),
            ip_out: VecDeque::new(),
            frag_out: VecDeque::new(),
            neigh_out: VecDeque::new(),
            link_out: VecDeque::new(),
            forward_in: VecDeque::new(),
            reasm_in: VecDeque::new(),
            backlog: Default::default(),
            events: Events::default(),
            spare: Default::default(),
            busy_read_until: Instant::ZERO,
            taps: Default::default(),
            trace: None,
            clock: None,
            tick: 0,
            knobs,
            rng: rng.clone(),
        };
        let tcp = crate::tcp::Sockets::new(&mut rng);
        let udp = crate::udp::Sockets::new(&mut rng);
        Shard { net, udp, tcp, ping: Default::default() }
    }

    /// Adds a device; its number is what packets name it by.
    pub fn add_iface(&mut self, iface: Iface) -> u8 {
        assert!(self.net.ifaces.len() < 255, "a shard has at most 255 devices");
        self.net.glean |= iface.glean;
        self.net.ifaces.push(iface);
        self.net.fib.forget();
        self.steer_dev_added();
        let dev = self.net.ifaces.len() as u8 - 1;
        self.attach_default_qdisc(dev);
        dev
    }

    /// A device takes frames of other sizes from now on: `mtu` bytes without the link's header. What was
    /// learnt of ways over it is forgotten; connections learn by what the network tells them.
    pub fn set_mtu(&mut self, dev: u8, mtu: u32) {
        if let Some(iface) = self.net.ifaces.get_mut(dev as usize) {
            iface.mtu = mtu;
            self.net.fib.forget();
        }
    }

    /// Sets the knob at `path` while the stack runs, or the queueing discipline at a place such as
    /// `qdisc.eth0.root`; at `ingress.eth0` it changes the rules there ([`Shard::tc_filter`]).
    ///
    /// # Errors
    /// [`SetError`] (ENOENT, EINVAL, ENODEV); nothing changes then.
    pub fn set_knob(&mut self, path: &str, value: &str) -> Result<(), SetError> {
        if let Some(at) = crate::tx::qdisc::At::parse(path) {
            return self.set_qdisc_at(path, at, value);
        }
        if let Some(dev) = crate::rx::ingress::place(path) {
            let changed = self.tc_filter(dev, value).map_err(|e| e.to_string());
            return changed.map_err(|why| SetError::Qdisc { path: path.to_owned(), why });
        }
        self.net.knobs.set(path, value)?;
        self.net.pool.small_max = self.net.knobs.pool_small as usize;
        self.net.pool.large_max = self.net.knobs.pool_large as usize;
        self.knob_set(crate::table::Knobs::row(path)?.path);
        Ok(())
    }

    /// What [`Shard::set_knob`] would set, as it is now.
    ///
    /// # Errors
    /// [`SetError`] (ENOENT, ENODEV).
    pub fn get_knob(&self, path: &str) -> Result<String, SetError> {
        if let Some(dev) = crate::rx::ingress::place(path) {
            let shown = self.tc_filter_show(dev).map_err(|e| e.to_string());
            return shown.map_err(|why| SetError::Qdisc { path: path.to_owned(), why });
        }
        match crate::tx::qdisc::At::parse(path) {
            Some(at) => self.qdisc_at(path, at),
            None => self.net.knobs.get(path),
        }
    }

    /// The next socket to which something happened.
    pub fn poll_event(&mut self) -> Option<crate::sock::Event> {
        self.net.events.pop()
    }
}

impl Net {
    /// Drops a packet: counts the reason at its stage, with the counters of its row, and gives the
    /// memory back. The only way to lose a packet.
    #[inline]
    pub fn kfree_skb_reason(&mut self, stage: Stage, pkt: Pkt, reason: Reason) {
        self.tap_drop(stage, &pkt, reason);
        self.kfree_said(stage, pkt, reason);
    }

    /// The same where taps were told already.
    #[inline]
    pub(crate) fn kfree_said(&mut self, stage: Stage, pkt: Pkt, reason: Reason) {
        self.counts.dropped(stage, reason);
        trace::say(&mut self.trace, stage, &pkt, Said::Dropped(reason));
        self.pool.free(pkt);
    }

    /// Whether this batch is one of those that are timed stage by stage.
    #[inline]
    pub(crate) fn timed(&mut self) -> Option<fn() -> u64> {
        self.tick = self.tick.wrapping_add(1);
        if self.tick.is_multiple_of(61) { self.clock } else { None }
    }
}

const _: () = {
    const fn moves_between_threads<T: Send>() {}
    moves_between_threads::<Shard>();
    moves_between_threads::<Pkt>();
};
