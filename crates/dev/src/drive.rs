//! Stages `Ring` and `Poll`: the loop that drives a shard.
//!
//! before: the devices   after: [`linerate_core::path`]
//! Linux:  net/core/dev.c `net_rx_action`, `napi_poll`, `process_backlog`, `net_tx_action`
//! drops:  RingFull, and what a device gives
//!
//! One turn is: wait, poll the devices within the budget, serve timers, let the application run,
//! transmit. Each part is bounded, so that no load on one starves another: at any overload the
//! loop still delivers what it accepts.

use std::any::Any;
use std::collections::VecDeque;
use std::io;
use std::time::Instant as Clock;

use linerate_core::link::{Features, Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Knobs, Reason, Stage, count::id};
use linerate_core::time::{Instant, MS, US};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;

use crate::device::{Caps, Device, Layer, RxCx};
use crate::poller::{Event, Interest, Poller};

/// Tokens from here on belong to the loop: its devices. An application uses those below.
pub const DEVICE_TOKENS: u64 = 1 << 63;

/// What runs on top of a shard, in the same thread.
pub trait App {
    /// Its part of a turn: host descriptors that are ready, and the shard's events. It must not
    /// wait, and should bound its work. Returns whether it has more to do at once.
    ///
    /// # Errors
    /// What it can not go on after; the loop ends with it.
    fn turn(&mut self, shard: &mut Shard, poller: &Poller, ready: &[Event]) -> io::Result<bool>;

    /// A connection of its moves to another shard: what the application knows of it, to be handed
    /// to [`App::arrive`] there. `None`: the application knows nothing of it, or it may not move.
    fn leave(&mut self, _socket: SocketId) -> Option<Box<dyn Any + Send>> {
        None
    }

    /// A connection came from another shard, with what the application there knew of it.
    fn arrive(&mut self, _shard: &mut Shard, _socket: SocketId, _state: Box<dyn Any + Send>) {}

    /// When it wants a turn even if nothing happens.
    fn next_timer(&self) -> Option<Instant> {
        None
    }
}

/// Sees every packet as it passes between device and stack (`--pcap`).
pub trait Tap {
    /// A packet came in by device `dev`, or is about to leave by it (`outbound`).
    fn packet(&mut self, dev: u8, pkt: &Pkt, outbound: bool, now: Instant);
}

struct Slot {
    dev: Box<dyn Device>,
    number: u8,
    /// It had more than one poll took: it has its turn again without a wait.
    scheduled: bool,
    /// It could take no more: the poller watches for room.
    blocked: bool,
    /// Losses that were counted already.
    overflow_seen: u64,
    /// Packets came since the device was asked for its losses, at `asked`.
    unasked: bool,
    asked: Instant,
    /// `ring.rx` as the device was last told it; at first the default, so that a device keeps the
    /// size that it was made with until somebody sets the knob.
    ring_rx: u64,
}

/// Drives one shard from its devices.
pub struct Drive {
    /// The stack.
    pub shard: Shard,
    /// What the loop waits on; an application adds its descriptors here.
    pub poller: Poller,
    /// Sees all packets, if set.
    pub tap: Option<Box<dyn Tap>>,
    slots: Vec<Slot>,
    batch: Batch,
    ready: Vec<Event>,
    dropped: Vec<(Pkt, Reason)>,
    done: Vec<(Pkt, bool)>,
    clock: Clock,
    last_work: Instant,
    /// Nanoseconds that the next wait looks before it sleeps.
    halt_poll: u64,
    /// Which device is polled first: it moves on, so that all are treated alike.
    first: usize,
    app_busy: bool,
    /// Nanoseconds by which the clock jumped (suspend, SIGSTOP) and which the stack does not see.
    paused: u64,
    last_now: Instant,
}

/// A gap between two turns that is longer than any wait asked for, by this much, is a pause of the
/// whole process or machine, not a storm of time-outs.
const PAUSE: u64 = 2_000_000_000;

/// How often a device is asked what was lost before its ring: a system call, so not for each burst.
const ASK_NS: u64 = 100 * MS;

/// The shortest look before a sleep, in nanoseconds.
const HALT_POLL_MIN: u64 = 10_000;

/// Nanoseconds of a monotonic clock, for timing stages.
pub fn clock_ns() -> u64 {
    use std::sync::OnceLock;
    static START: OnceLock<Clock> = OnceLock::new();
    START.get_or_init(Clock::now).elapsed().as_nanos() as u64
}

impl Drive {
    /// A loop around `shard`, with no devices yet. Stages are timed.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new(mut shard: Shard) -> io::Result<Drive> {
        shard.net.clock = Some(clock_ns);
        Ok(Drive {
            shard,
            poller: Poller::new(256)?,
            tap: None,
            slots: Vec::new(),
            batch: Batch::new(),
            ready: Vec::new(),
            dropped: Vec::new(),
            done: Vec::new(),
            clock: Clock::now(),
            last_work: Instant::ZERO,
            halt_poll: 0,
            first: 0,
            app_busy: false,
            paused: 0,
            last_now: Instant::ZERO,
        })
    }

    /// Adds a device. `setup` completes the [`Iface`] (addresses, `any_ip`) before the first packet.
    /// Returns its number.
    ///
    /// # Errors
    /// `EPERM`, `EEXIST` from the poller.
    pub fn add_device(
        &mut self,
        dev: Box<dyn Device>,
        setup: impl FnOnce(&mut Iface),
    ) -> io::Result<u8> {
        let mut iface = iface_of(dev.name(), dev.caps());
        setup(&mut iface);
        let number = self.shard.add_iface(iface);
        if let Some(fd) = dev.poll_fd() {
            self.poller.add(fd, DEVICE_TOKENS + self.slots.len() as u64, Interest::READ)?;
        }
        let ring_rx = Knobs::default().ring_rx;
        self.slots.push(Slot {
            dev,
            number,
            scheduled: true,
            blocked: false,
            overflow_seen: 0,
            unasked: false,
            asked: Instant::ZERO,
            ring_rx,
        });
        Ok(number)
    }

    /// The devices, in the order in which they were added.
    pub fn devices(&self) -> impl Iterator<Item = &dyn Device> {
        self.slots.iter().map(|s| &*s.dev)
    }

    /// The time of the loop, pauses left out.
    fn now(&mut self, slept: u64) -> Instant {
        let raw = self.clock.elapsed().as_nanos() as u64;
        let mut now = Instant::from_ns(raw - self.paused.min(raw));
        let gap = now.since(self.last_now);
        if gap > slept.saturating_add(PAUSE) && slept != u64::MAX {
            self.paused += gap - slept;
            now = self.last_now.plus(slept);
        }
        self.last_now = now.max(self.last_now);
        self.last_now
    }

    /// One turn of the loop.
    ///
    /// # Errors
    /// A device is gone, or the application gave up.
    pub fn turn(&mut self, app: &mut dyn App) -> io::Result<()> {
        let timeout = self.timeout(app);
        self.ready.clear();
        self.wait(timeout)?;
        let now = self.now(timeout.unwrap_or(u64::MAX));
        self.shard.net.now = now;
        self.note_devices();
        self.size_rings();
        let mut work = self.net_rx_action(now)?;
        self.ask_devices(now);
        path::timers(&mut self.shard, now);
        self.app_busy = app.turn(&mut self.shard, &self.poller, &self.ready)?;
        path::transmit(&mut self.shard, &mut self.batch);
        work |= self.net_tx_action(now)?;
        if work || self.app_busy {
            self.last_work = now;
        }
        Ok(())
    }

    /// Waits for something to do. Where the last waits were short, it looks for a moment before it
    /// sleeps: a wake-up across cores costs more than the wait itself (as the haltpoll governor of
    /// `drivers/cpuidle/governors/haltpoll.c` does for idle guests).
    fn wait(&mut self, timeout: Option<u64>) -> io::Result<()> {
        let most = self.shard.net.knobs.guest_halt_poll_ns.min(timeout.unwrap_or(u64::MAX));
        if most == 0 {
            self.ready.extend(self.poller.wait(timeout)?);
            return Ok(());
        }
        let begun = clock_ns();
        let spin = self.halt_poll.min(most);
        let mut waited = 0;
        while waited < spin && self.ready.is_empty() {
            self.ready.extend(self.poller.wait(Some(0))?);
            waited = clock_ns() - begun;
        }
        if !self.ready.is_empty() {
            return Ok(());
        }
        let rest = timeout.map(|t| t.saturating_sub(waited));
        self.ready.extend(self.poller.wait(rest)?);
        // The wait was longer than the spin. Had a longer spin met it, spin longer; else give up soon.
        let waited = clock_ns() - begun;
        self.halt_poll = if waited <= self.shard.net.knobs.guest_halt_poll_ns {
            (self.halt_poll * 2).max(HALT_POLL_MIN)
        } else if self.halt_poll <= HALT_POLL_MIN {
            0
        } else {
            self.halt_poll / 2
        };
        Ok(())
    }

    /// How long the next wait may last: not at all while anything is left to do.
    fn timeout(&self, app: &dyn App) -> Option<u64> {
        let net = &self.shard.net;
        let scheduled = self.slots.iter().any(|s| s.scheduled);
        if scheduled || self.app_busy || !net.backlog.is_empty() || !net.events.is_empty() {
            return Some(0);
        }
        let idle = self.last_now.since(self.last_work);
        if net.knobs.busy_poll != 0 && idle < net.knobs.busy_poll * US {
            return Some(0);
        }
        let next = [path::next_timer(&self.shard), app.next_timer()].into_iter().flatten();
        let asks = self.slots.iter().filter(|s| s.unasked).map(|s| s.asked.plus(ASK_NS));
        let next = next.chain(asks).min()?;
        Some(next.since(self.last_now))
    }

    /// Which devices are readable, or have room again; what is left in `ready` is the application's.
    fn note_devices(&mut self) {
        let (slots, poller) = (&mut self.slots, &self.poller);
        self.ready.retain(|event| {
            if event.token < DEVICE_TOKENS || event.token == crate::poller::WAKER {
                return true;
            }
            let at = event.token - DEVICE_TOKENS;
            if let Some(slot) = slots.get_mut(at as usize) {
                slot.scheduled |= event.readable || event.error || event.hangup;
                if event.writable && slot.blocked {
                    slot.blocked = false;
                    if let Some(fd) = slot.dev.poll_fd() {
                        // It is watched, so changing what for can not fail.
                        let _ = poller.modify(fd, event.token, Interest::READ);
                    }
                }
            }
            false
        });
    }

    /// Passes a new value of `ring.rx` on to the devices.
    fn size_rings(&mut self) {
        let wanted = self.shard.net.knobs.ring_rx;
        for slot in self.slots.iter_mut().filter(|s| s.ring_rx != wanted) {
            slot.ring_rx = wanted;
            slot.dev.set_rx_ring(wanted as usize);
        }
    }

    /// One pass over all devices and the backlog, within the budget of packets and time
    /// (`net_rx_action`). A pass that ends with work left is a squeeze, counted by its cause.
    fn net_rx_action(&mut self, now: Instant) -> io::Result<bool> {
        let knobs = &self.shard.net.knobs;
        let (weight, budget) = (knobs.dev_weight as usize, knobs.netdev_budget as usize);
        let limit = knobs.netdev_budget_usecs * US;
        let (mut left, mut any) = (budget, false);
        let begun = clock_ns();
        let n = self.slots.len();
        'pass: loop {
            let mut more = false;
            for i in 0..n {
                let at = (self.first + i) % n;
                if !self.slots[at].scheduled {
                    continue;
                }
                let got = self.napi_poll(at, weight.min(left), now)?;
                any |= got > 0;
                left -= got.min(left);
                more |= self.slots[at].scheduled;
                if left == 0 || clock_ns().saturating_sub(begun) >= limit {
                    break 'pass;
                }
            }
            if !self.shard.net.backlog.is_empty() {
                let quota = weight.min(left);
                let got = path::process_backlog(&mut self.shard, &mut self.batch, quota);
                self.shard.net.counts.inc_by(id::SoftnetProcessed, got as u64);
                any = true;
                left -= got.min(left);
                more |= !self.shard.net.backlog.is_empty();
            }
            if !more {
                break;
            }
            if left == 0 || clock_ns().saturating_sub(begun) >= limit {
                break;
            }
        }
        self.first = if n == 0 { 0 } else { (self.first + 1) % n };
        if any {
            self.count_pass(left);
        }
        Ok(any)
    }

    fn count_pass(&mut self, left: usize) {
        let counts = &self.shard.net.counts;
        counts.inc(id::SoftirqNetRx);
        let unfinished =
            self.slots.iter().any(|s| s.scheduled) || !self.shard.net.backlog.is_empty();
        if unfinished {
            counts.inc(id::SoftnetTimeSqueeze);
            let why = if left == 0 { id::SoftnetSqueezeBudget } else { id::SoftnetSqueezeTime };
            counts.inc(why);
        }
    }

    /// Takes at most `weight` packets off one device's ring and sends them up (`napi_poll`).
    fn napi_poll(&mut self, at: usize, weight: usize, now: Instant) -> io::Result<usize> {
        let slot = &mut self.slots[at];
        let shard = &mut self.shard;
        let mut cx =
            RxCx { pool: &mut shard.net.pool, now, dev: slot.number, dropped: &mut self.dropped };
        let starved = slot.dev.counts().rx_no_buffer;
        let got = slot.dev.rx_burst(&mut cx, &mut self.batch, weight)?;
        let after = slot.dev.counts();
        // A device that could have more stays on the list; one without memory waits for the next
        // turn, in which readers may have given some back.
        slot.scheduled = got >= weight || after.rx_no_buffer != starved;
        slot.unasked |= got > 0;
        let lost = after.overflow - slot.overflow_seen;
        slot.overflow_seen = after.overflow;
        let number = slot.number;
        self.count_ring(number, lost);
        if self.batch.is_empty() {
            return Ok(got);
        }
        if let Some(tap) = &mut self.tap {
            for pkt in &self.batch.now {
                tap.packet(number, pkt, false, now);
            }
        }
        let shard = &mut self.shard;
        if shard.net.ifaces[number as usize].netif_rx {
            for pkt in self.batch.now.drain(..) {
                linerate_core::rx::backlog::netif_rx(&mut shard.net, pkt);
            }
        } else {
            path::receive(shard, &mut self.batch);
        }
        Ok(got)
    }

    /// Asks those devices for their losses from which packets came and that were not asked lately.
    fn ask_devices(&mut self, now: Instant) {
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.unasked && now.since(slot.asked) >= ASK_NS {
                slot.asked = now;
                self.ask_device(at);
            }
        }
    }

    fn ask_device(&mut self, at: usize) {
        let slot = &mut self.slots[at];
        slot.unasked = false;
        slot.dev.count_overflow();
        let after = slot.dev.counts().overflow;
        let lost = after - slot.overflow_seen;
        slot.overflow_seen = after;
        self.shard.net.counts.flow(Stage::Ring).enter(lost);
        self.count_lost(lost);
    }

    /// Asks every device what was lost before its ring, so that a report made now leaves nothing
    /// out.
    pub fn count_losses(&mut self) {
        (0..self.slots.len()).for_each(|at| self.ask_device(at));
    }

    fn count_lost(&mut self, lost: u64) {
        for _ in 0..lost {
            self.shard.net.counts.dropped(Stage::Ring, Reason::RingFull);
        }
    }

    /// Counts what the ring gave and what it lost.
    fn count_ring(&mut self, dev: u8, lost: u64) {
        self.count_lost(lost);
        let net = &mut self.shard.net;
        let good = self.batch.len() as u64;
        let bad = self.dropped.len() as u64;
        let bytes: u64 = self.batch.now.iter().map(|p| p.len() as u64).sum();
        let ring = net.counts.flow(Stage::Ring);
        ring.enter(bad + lost);
        for (pkt, why) in self.dropped.drain(..) {
            net.kfree_skb_reason(Stage::Ring, pkt, why);
        }
        if good == 0 {
            return;
        }
        net.counts.flow(Stage::Ring).batch(good, good, 0);
        net.counts.flow(Stage::Poll).batch(good, good, 0);
        net.counts.inc_by(id::SoftnetProcessed, good);
        net.counts.inc_by(id::DevRxPackets, good);
        net.counts.add_bytes(id::DevRxBytes, bytes);
        let iface = &mut net.ifaces[dev as usize];
        iface.rx_packets += good;
        iface.rx_bytes += bytes;
    }

    /// Empties the devices' queues into their rings and the rings into the devices.
    fn net_tx_action(&mut self, now: Instant) -> io::Result<bool> {
        let mut any = false;
        for (at, slot) in self.slots.iter_mut().enumerate() {
            if slot.blocked {
                continue;
            }
            // Bounded: as much as the queue held when the turn came, a ring at a time.
            let room = self.shard.net.knobs.ring_tx as usize;
            for _ in 0..16 {
                let Some(ring) = path::qdisc_run(&mut self.shard.net, slot.number, 0, room) else {
                    break;
                };
                if ring.is_empty() {
                    break;
                }
                if let Some(tap) = &mut self.tap {
                    tap_ring(tap.as_mut(), slot.number, ring, now);
                }
                let taken = slot.dev.tx_burst(ring, &mut self.done)?;
                let full = !ring.is_empty();
                any |= taken > 0;
                for (pkt, sent) in self.done.drain(..) {
                    tx_done(&mut self.shard.net, pkt, sent);
                }
                if full {
                    self.shard.net.counts.inc(id::QdiscRequeues);
                    slot.blocked = true;
                    if let Some(fd) = slot.dev.poll_fd() {
                        self.poller.modify(fd, DEVICE_TOKENS + at as u64, Interest::READ_WRITE)?;
                    } else {
                        // Nobody wakes us when there is room: try again in the next turn.
                        slot.blocked = false;
                    }
                    break;
                }
            }
        }
        Ok(any)
    }
}

/// Shows the tap what stands in the ring and was not shown before.
fn tap_ring(tap: &mut dyn Tap, dev: u8, ring: &mut VecDeque<Pkt>, now: Instant) {
    for pkt in ring.iter_mut().filter(|p| !p.tapped) {
        pkt.tapped = true;
        tap.packet(dev, pkt, true, now);
    }
}

/// What the stack needs to know of a device.
fn iface_of(name: &str, caps: Caps) -> Iface {
    let l2 = match caps.layer {
        Layer::Ethernet => L2::Ethernet,
        Layer::Ip => L2::Ip,
    };
    let mut iface = Iface::new(name, l2, Mac(caps.mac.unwrap_or_default()), caps.mtu);
    iface.features =
        Features { tx_csum: caps.tx_csum, tso4: caps.tso, tso6: caps.tso, uso: caps.uso };
    if caps.gso_bytes_max > 0 {
        iface.gso_max_size = caps.gso_bytes_max;
    }
    iface
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A loop that looks before it sleeps comes to do so when its waits are short; one that may
    /// not, never does.
    #[test]
    fn knob_haltpoll_guest_halt_poll_ns() {
        for (value, looks) in [("0", false), ("10000000", true)] {
            let mut drive = Drive::new(Shard::new(1)).expect("a poller");
            drive.shard.set_knob("haltpoll.guest_halt_poll_ns", value).expect("in range");
            // A busy machine may make a short wait long, but not each of so many.
            let came = (0..1000).any(|_| {
                drive.wait(Some(1000)).expect("a wait");
                drive.halt_poll > 0
            });
            assert_eq!(came, looks, "{value}");
        }
    }
}
