//! The loop that drives a shard.
//!
//! One turn is: wait, poll the devices within the budget, serve timers, let the application run,
//! transmit. Each part is bounded, so that no load on one starves another: at any overload the
//! loop still delivers what it accepts.
//!
//! | file | what |
//! |---|---|
//! | `irq.rs` | Stage `Irq`: when a queue is polled; coalescing, deferred and suspended interrupts |
//! | `poll.rs` | Stages `Ring` and `Poll`: one pass over all queues and the backlog |
//! | `feedback.rs` | what a pass may take while readers can not keep up |
//! | `xmit.rs` | transmit, and what comes back from it |
//! | `shards.rs` | mail from other shards, and connections that come and go |
//! | `dim.rs` | moderation, fixed or following the load |
//! | `clock.rs` | the loop's clock: the machine's, or a test's |

mod clock;
mod dim;
mod feedback;
mod irq;
mod poll;
mod shards;
mod xmit;

pub use clock::{VirtualClock, clock_ns};

use std::any::Any;
use std::io;
use std::time::Instant as Wall;

use linerate_core::link::{Features, Iface, L2, TxQueue};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::{Knobs, Reason, Stage};
use linerate_core::time::{Instant, US};
use linerate_core::wire::Mac;

use crate::device::{Caps, Device, Layer};
use crate::poller::{Event, Interest, Poller};
use clock::LoopClock;
use dim::Moder;
use feedback::Feedback;
use irq::Napi;

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

/// One queue of a device, and where it stands (Linux: `struct napi_struct`, `struct netdev_queue`).
struct Slot {
    dev: Box<dyn Device>,
    /// The interface.
    number: u8,
    /// Which of the device's queues it is.
    queue: u8,
    /// Which of the interface's transmit queues in this shard it empties.
    txq: u8,
    napi: Napi,
    /// The poll under way was started by an interrupt or a timer, not by busy polling.
    by_irq: bool,
    /// Empty polls that are left until the interrupt goes on (`defer_hard_irqs_count`).
    defer_left: u64,
    /// What the poller was last told to report.
    interest: Interest,
    rx_moder: Moder,
    tx_moder: Moder,
    /// It could take no more: the poller watches for room.
    blocked: bool,
    /// It left something in its ring the last time.
    full: bool,
    /// Since when it has taken nothing of what waits.
    stuck: Option<Instant>,
    /// Times that lasted too long.
    tx_timeouts: u64,
    /// Packets that it sent, whose memory was not taken back yet.
    done: Vec<(Pkt, bool)>,
    /// Since when there are such.
    unclean: Option<Instant>,
    /// Losses that were counted already.
    overflow_seen: u64,
    /// Packets came since the device was asked for its losses, at `asked`.
    unasked: bool,
    asked: Instant,
    /// `ring.rx` and `ring.tx` as the device was last told them; at first the defaults, so that a
    /// device keeps the size that it was made with until somebody sets the knob.
    rings: (u64, u64),
}

/// The moderation of a queue as it is now (`ethtool -c`): where it is adaptive, what the
/// controller decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesce {
    /// `adaptive-rx`.
    pub adaptive_rx: bool,
    /// `adaptive-tx`.
    pub adaptive_tx: bool,
    /// Microseconds that a receive interrupt waits for more packets.
    pub rx_usecs: u64,
    /// Packets that end that wait; 0 = only the time does.
    pub rx_frames: u64,
    /// Microseconds that packets which were sent wait to be taken back.
    pub tx_usecs: u64,
    /// Packets that end that wait; 0 = only the time does.
    pub tx_frames: u64,
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
    clock: LoopClock,
    last_work: Instant,
    /// Nanoseconds that the next wait looks before it sleeps.
    halt_poll: u64,
    /// Which queue is polled first; the backlog is the one behind the last.
    first: usize,
    /// Packets that it has had of its turn already, in the pass before.
    spent: usize,
    feedback: Feedback,
    /// This turn polls every queue, interrupt or not.
    polling: bool,
    app_busy: bool,
    /// Nanoseconds by which the clock jumped (suspend, SIGSTOP) and which the stack does not see.
    paused: u64,
    last_now: Instant,
}

/// A gap between two turns that is longer than any wait asked for, by this much, is a pause of the
/// whole process or machine, not a storm of time-outs.
const PAUSE: u64 = 2_000_000_000;

/// The shortest look before a sleep, in nanoseconds.
const HALT_POLL_MIN: u64 = 10_000;

impl Drive {
    /// A loop around `shard`, with no devices yet. Stages are timed.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn new(mut shard: Shard) -> io::Result<Drive> {
        shard.net.clock = Some(clock_ns);
        Drive::on(shard, LoopClock::Wall(Wall::now()))
    }

    /// A loop whose time is `clock`. It never sleeps: a wait moves the clock. For tests.
    ///
    /// # Errors
    /// `EMFILE`, `ENFILE`.
    pub fn with_clock(shard: Shard, clock: VirtualClock) -> io::Result<Drive> {
        Drive::on(shard, LoopClock::Virtual(clock))
    }

    fn on(shard: Shard, clock: LoopClock) -> io::Result<Drive> {
        Ok(Drive {
            shard,
            poller: Poller::new(256)?,
            tap: None,
            slots: Vec::new(),
            batch: Batch::new(),
            ready: Vec::new(),
            dropped: Vec::new(),
            clock,
            last_work: Instant::ZERO,
            halt_poll: 0,
            first: 0,
            spent: 0,
            feedback: Feedback::new(),
            polling: false,
            app_busy: false,
            paused: 0,
            last_now: Instant::ZERO,
        })
    }

    /// Adds a device, or the queue of one that this shard has none of yet. `setup` completes the
    /// [`Iface`] (addresses, `any_ip`) before the first packet. Returns the interface's number.
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
        self.push_slot(dev, number, 0)?;
        Ok(number)
    }

    /// Adds a further queue of interface `number`, with a transmit queue of its own.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface; `EPERM`, `EEXIST` from the poller.
    pub fn add_queue(&mut self, number: u8, dev: Box<dyn Device>) -> io::Result<()> {
        let taken = self.slots.iter().any(|s| s.number == number);
        let Some(iface) = self.shard.net.ifaces.get_mut(number as usize) else {
            return Err(io::Error::from_raw_os_error(libc::ENODEV));
        };
        if taken {
            iface.txqs.push(TxQueue::default());
        }
        let txq = iface.txqs.len() as u8 - 1;
        let added = self.push_slot(dev, number, txq);
        if added.is_err() && taken {
            self.shard.net.ifaces[number as usize].txqs.pop();
        }
        added
    }

    fn push_slot(&mut self, dev: Box<dyn Device>, number: u8, txq: u8) -> io::Result<()> {
        if let Some(fd) = dev.poll_fd() {
            self.poller.add(fd, DEVICE_TOKENS + self.slots.len() as u64, Interest::READ)?;
        }
        let defaults = Knobs::default();
        self.slots.push(Slot {
            number,
            queue: dev.queue(),
            txq,
            napi: Napi::Scheduled,
            by_irq: true,
            defer_left: 0,
            interest: Interest::READ,
            rx_moder: Moder::new(&dim::RX),
            tx_moder: Moder::new(&dim::TX),
            blocked: false,
            full: false,
            stuck: None,
            tx_timeouts: 0,
            done: Vec::new(),
            unclean: None,
            overflow_seen: 0,
            unasked: false,
            asked: Instant::ZERO,
            rings: (defaults.ring_rx, defaults.ring_tx),
            dev,
        });
        Ok(())
    }

    /// Takes queue `queue` of interface `number` out of the loop and gives its device back. What
    /// waited to be sent by it goes by another queue of the interface here; without one it stays,
    /// until a queue is added again. `None`: there is no such queue here.
    pub fn remove_queue(&mut self, number: u8, queue: u8) -> Option<Box<dyn Device>> {
        let at = self.slots.iter().position(|s| (s.number, s.queue) == (number, queue))?;
        self.ask_device(at);
        let mut slot = self.slots.remove(at);
        slot.tx_flush(&mut self.shard.net);
        if let Some(fd) = slot.dev.poll_fd() {
            // It is watched, and open: neither this nor what follows can fail.
            let _ = self.poller.delete(fd);
        }
        for (i, later) in self.slots.iter().enumerate().skip(at) {
            if let Some(fd) = later.dev.poll_fd() {
                let _ = self.poller.modify(fd, DEVICE_TOKENS + i as u64, later.interest);
            }
        }
        let txqs = &mut self.shard.net.ifaces[number as usize].txqs;
        if txqs.len() > 1 {
            let mut gone = txqs.remove(slot.txq as usize);
            let heir = &mut txqs[0];
            heir.bytes += gone.bytes;
            heir.qdisc.append(&mut gone.qdisc);
            heir.ring.append(&mut gone.ring);
            (heir.sent, heir.sent_bytes) =
                (heir.sent + gone.sent, heir.sent_bytes + gone.sent_bytes);
            heir.drops += gone.drops;
            let above = |s: &&mut Slot| s.number == number && s.txq > slot.txq;
            self.slots.iter_mut().filter(above).for_each(|s| s.txq -= 1);
        }
        (self.first, self.spent) = (0, 0);
        Some(slot.dev)
    }

    /// The devices, one for each queue, in the order in which they were added.
    pub fn devices(&self) -> impl Iterator<Item = &dyn Device> {
        self.slots.iter().map(|s| &*s.dev)
    }

    /// The queues with the numbers of their interfaces, in the order in which they were added.
    pub fn queues(&mut self) -> impl Iterator<Item = (u8, &mut (dyn Device + 'static))> {
        self.slots.iter_mut().map(|s| (s.number, &mut *s.dev))
    }

    /// The moderation of queue `queue` of interface `number` as it is now.
    pub fn coalesce(&self, number: u8, queue: u8) -> Option<Coalesce> {
        let knobs = &self.shard.net.knobs;
        let slot = self.slots.iter().find(|s| (s.number, s.queue) == (number, queue))?;
        Some(Coalesce {
            adaptive_rx: knobs.adaptive_rx,
            adaptive_tx: knobs.adaptive_tx,
            rx_usecs: slot.rx_moder.usecs,
            rx_frames: slot.rx_moder.frames,
            tx_usecs: slot.tx_moder.usecs,
            tx_frames: slot.tx_moder.frames,
        })
    }

    /// Times the devices of interface `number` took nothing for five seconds while packets waited
    /// (`tx_timeout`).
    pub fn tx_timeouts(&self, number: u8) -> u64 {
        self.slots.iter().filter(|s| s.number == number).map(|s| s.tx_timeouts).sum()
    }

    /// Whether a pass takes less while the application can not keep up and packets are lost at
    /// full socket queues: on, unless somebody measures what that is good for.
    pub fn set_feedback(&mut self, on: bool) {
        self.feedback.on = on;
    }

    /// The time of the loop, pauses left out.
    fn now(&mut self, slept: u64) -> Instant {
        let raw = self.clock.ns();
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
        let mut timeout = self.timeout(app);
        if timeout != Some(0) && !self.mail_lets_sleep() {
            timeout = Some(0);
        }
        for (at, slot) in self.slots.iter_mut().enumerate() {
            slot.mask(at, &self.poller, timeout != Some(0))?;
        }
        self.ready.clear();
        self.wait(timeout)?;
        self.set_awake();
        let now = self.now(timeout.unwrap_or(u64::MAX));
        self.shard.net.now = now;
        self.polling = self.busy(now);
        self.follow_knobs(now);
        self.note_devices(now);
        let mut work = self.net_rx_action(now)?;
        self.ask_devices(now);
        path::timers(&mut self.shard, now);
        self.hand_over_arrived(app);
        self.app_busy = app.turn(&mut self.shard, &self.poller, &self.ready)?;
        let net = &self.shard.net;
        let dropped = net.counts.flow(Stage::SockQueue).read().dropped;
        self.feedback.learn(self.app_busy, dropped, net.knobs.netdev_budget as usize);
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
        if let LoopClock::Virtual(clock) = &self.clock {
            self.ready.extend(self.poller.wait(Some(0))?);
            if self.ready.is_empty() {
                clock.advance(timeout.unwrap_or(0));
            }
            return Ok(());
        }
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
        let scheduled = self.slots.iter().any(|s| s.napi == Napi::Scheduled);
        let waiting = self.shard.has_backlog() || !net.events.is_empty();
        if scheduled || self.app_busy || waiting || self.busy(self.last_now) {
            return Some(0);
        }
        let now = self.last_now;
        let looks = self.slots.iter().flat_map(|s| [s.next_look(now), s.next_clean(now)]).flatten();
        let asks = self.slots.iter().filter(|s| s.unasked).map(|s| s.asked.plus(poll::ASK_NS));
        let next = [path::next_timer(&self.shard), app.next_timer()].into_iter().flatten();
        Some(next.chain(looks).chain(asks).min()?.since(now))
    }

    /// Whether the loop looks at its queues without waiting for their interrupts.
    fn busy(&self, now: Instant) -> bool {
        let busy_poll = self.shard.net.knobs.busy_poll;
        busy_poll != 0 && now.since(self.last_work) < busy_poll * US
    }

    /// Passes on what knobs say that belong to devices.
    fn follow_knobs(&mut self, now: Instant) {
        let k = &self.shard.net.knobs;
        for slot in &mut self.slots {
            slot.rx_moder.follow(k.adaptive_rx, k.rx_usecs, k.rx_frames, now);
            slot.tx_moder.follow(k.adaptive_tx, k.tx_usecs, k.tx_frames, now);
            if slot.rings.0 != k.ring_rx {
                slot.rings.0 = k.ring_rx;
                slot.dev.set_rx_ring(k.ring_rx as usize);
            }
            if slot.rings.1 != k.ring_tx {
                slot.rings.1 = k.ring_tx;
                slot.dev.set_tx_ring(k.ring_tx as usize);
            }
        }
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
