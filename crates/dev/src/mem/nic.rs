//! A network card in memory with many queues: two ends, each with its receive rings, its
//! indirection table and its rules. What an end sends, the other end's table distributes.

use linerate_core::rx::steer::ntuple::{Rule, Rules};
use linerate_core::rx::steer::rss::{Rss, indir_table};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use super::lane::Slot;
use super::queue::MemQueue;
use crate::device::{Caps, Layer};
use crate::sys::spsc;

/// The most queues of a card.
pub const QUEUES_MAX: usize = 64;
/// The most rules of a card.
const RULES_MAX: usize = 8192;

/// What kind of card.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// What both ends are and can do. A MAC address is varied in its last byte for the second end.
    pub caps: Caps,
    /// Queues of each end to begin with, 1 to [`QUEUES_MAX`]; [`Nic::set_channels`] changes it.
    pub queues: usize,
    /// Slots between each transmit queue and each receive queue, a power of two up to 65 536. Each
    /// is 2 KiB of memory, which is taken when the first packet goes that way.
    pub slots: usize,
    /// A full ring holds the sender back (`true`), or loses the packet (`false`).
    pub flow_control: bool,
    /// The Toeplitz key of both ends, 40 bytes. Secret: who knows it can choose the queue.
    pub key: [u8; 40],
}

impl Default for Config {
    fn default() -> Config {
        let caps = Caps {
            layer: Layer::Ethernet,
            mtu: 1500,
            mac: Some([2, 0, 0, 0, 0, 0x10]),
            rx_offload: true,
            tx_csum: true,
            tso: true,
            uso: true,
            gso_bytes_max: 65536,
        };
        let key = Rss::default().key;
        Config { caps, queues: 1, slots: 512, flow_control: true, key }
    }
}

/// To which queues a packet goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// To the one that rules and indirection table say.
    #[default]
    Rss,
    /// To that one, and a copy to this one (a mirror port). A copy that finds no room is lost.
    Mirror(u8),
    /// A copy to every queue. One that finds no room is lost.
    All,
}

/// How packets to an end are distributed: read by senders as a whole, replaced as a whole.
#[derive(Clone)]
pub(super) struct Table {
    pub rss: Rss,
    /// Queues from here on get nothing.
    pub channels: usize,
    pub spread: Spread,
}

/// One queue of an end, as others see it.
pub(super) struct Door {
    /// Readable when the queue waits and something came.
    pub ready: OwnedFd,
    pub bell: spsc::Bell,
    /// Somebody receives here.
    pub open: AtomicBool,
    /// Lanes that senders made and the receiver has not yet taken over.
    pub fresh: Mutex<Vec<RxLane>>,
    pub has_fresh: AtomicBool,
    /// Every lane to here, to look at.
    gauges: Mutex<Vec<(Gauge, Arc<Cut>)>>,
    /// Packets that found no room, or nobody.
    pub lost: AtomicU64,
    /// Slots that may be filled at once (`ring.rx`).
    pub limit: AtomicU32,
    /// This queue's own transmit side is between reading the other end's table and publishing.
    pub sending: AtomicBool,
}

type Gauge = spsc::Gauge<AtomicU32, std::cell::UnsafeCell<Slot>>;

/// The receiving end of a lane, and whether the other is still there.
pub(super) struct RxLane {
    pub rx: spsc::Receiver<Slot>,
    pub cut: Arc<Cut>,
}

/// Which ends of a lane are gone.
#[derive(Default)]
pub(super) struct Cut {
    pub sender: AtomicBool,
    pub receiver: AtomicBool,
}

/// One end: what both sides know of it.
pub(super) struct End {
    pub name: &'static str,
    pub caps: Caps,
    pub slots: usize,
    pub flow_control: bool,
    pub doors: Vec<Door>,
    table: Mutex<Table>,
    /// Counts the changes of the table.
    pub version: AtomicU64,
    pub rules: RwLock<Rules>,
    /// How many rules there are: readable without the lock.
    pub ruled: AtomicUsize,
    /// Queues that are open.
    pub users: AtomicUsize,
    /// Some queue was open once.
    pub used: AtomicBool,
}

/// A panic elsewhere leaves the lists whole: each change of them is complete under the lock.
pub(super) fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    fn new(slots: usize) -> io::Result<Door> {
        Ok(Door {
            ready: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            bell: spsc::Bell::new(),
            open: AtomicBool::new(false),
            fresh: Mutex::default(),
            has_fresh: AtomicBool::new(false),
            gauges: Mutex::default(),
            lost: AtomicU64::new(0),
            limit: AtomicU32::new(slots as u32),
            sending: AtomicBool::new(false),
        })
    }

    /// Wakes the receiver if it waits.
    #[inline]
    pub(super) fn ring(&self) {
        if self.bell.ring() {
            // Cannot fail: the descriptor is open, and the count far below its limit.
            let _ = rustix::io::write(&self.ready, &1u64.to_ne_bytes());
        }
    }

    /// Hands the receiver a new lane.
    pub(super) fn connect(&self, lane: RxLane, gauge: Gauge) {
        let mut gauges = lock(&self.gauges);
        gauges.retain(|(g, cut)| !cut.sender.load(Ordering::Acquire) || g.in_flight() > 0);
        gauges.push((gauge, Arc::clone(&lane.cut)));
        lock(&self.fresh).push(lane);
        self.has_fresh.store(true, Ordering::Release);
    }

    /// The receiver is gone, and with it what its rings held.
    pub(super) fn close(&self) {
        self.open.store(false, Ordering::SeqCst);
        lock(&self.gauges).clear();
    }
}

impl End {
    fn new(
        name: &'static str,
        config: &Config,
        mac: Option<[u8; 6]>,
        seed: u64,
    ) -> io::Result<End> {
        let rss = Rss { key: config.key, indir: indir_table(&[], config.queues), ..Rss::default() };
        let doors: io::Result<Vec<Door>> =
            (0..QUEUES_MAX).map(|_| Door::new(config.slots)).collect();
        Ok(End {
            name,
            caps: Caps { mac, ..config.caps },
            slots: config.slots,
            flow_control: config.flow_control,
            doors: doors?,
            table: Mutex::new(Table { rss, channels: config.queues, spread: Spread::Rss }),
            version: AtomicU64::new(1),
            rules: RwLock::new(Rules::new(RULES_MAX, seed)),
            ruled: AtomicUsize::new(0),
            users: AtomicUsize::new(0),
            used: AtomicBool::new(false),
        })
    }

    /// The table as it is now.
    pub(super) fn table(&self) -> Table {
        lock(&self.table).clone()
    }

    fn change(&self, f: impl FnOnce(&mut Table)) {
        f(&mut lock(&self.table));
        self.version.fetch_add(1, Ordering::SeqCst);
    }

    pub(super) fn set_rss(&self, rss: &Rss) {
        self.change(|table| table.rss = rss.clone());
    }

    pub(super) fn set_rule(&self, location: u32, rule: Option<&Rule>) -> io::Result<()> {
        let mut rules = self.rules.write().unwrap_or_else(PoisonError::into_inner);
        let errno = |e: linerate_core::rx::steer::ntuple::RuleError| {
            io::Error::from_raw_os_error(e.errno())
        };
        match rule {
            Some(rule) => rules.set(Some(location), rule.clone()).map(drop).map_err(errno)?,
            None => rules.delete(location).map(drop).map_err(errno)?,
        }
        self.ruled.store(rules.len(), Ordering::Release);
        Ok(())
    }
}

/// One end of a card in memory: hands out its queues, and sets how what comes to it is distributed.
/// Cheap to clone; any thread may hold one.
#[derive(Clone)]
pub struct Nic {
    /// This end.
    pub(super) own: Arc<End>,
    /// The other.
    pub(super) far: Arc<End>,
}

/// Makes a card, or rather a cable with a card at each end; returns both.
///
/// # Errors
/// `EMFILE`/`ENFILE` without descriptors; it takes one for each of [`QUEUES_MAX`] queues and end.
///
/// # Panics
/// If [`Config::queues`] or [`Config::slots`] is out of its range.
pub fn nic(config: Config) -> io::Result<(Nic, Nic)> {
    assert!((1..=QUEUES_MAX).contains(&config.queues), "a card has 1 to {QUEUES_MAX} queues");
    assert!(
        config.slots.is_power_of_two() && config.slots <= 65_536,
        "a ring has a power of two of slots, at most 65536"
    );
    let mac = config.caps.mac;
    let other = mac.map(|[a, b, c, d, e, f]| [a, b, c, d, e, f ^ 1]);
    let seed = config.key.iter().fold(0u64, |s, b| s.rotate_left(8) ^ u64::from(*b));
    let one = Arc::new(End::new("nic0", &config, mac, seed)?);
    let two = Arc::new(End::new("nic1", &config, other, !seed)?);
    let near = Nic { own: Arc::clone(&one), far: Arc::clone(&two) };
    Ok((near, Nic { own: two, far: one }))
}

impl Nic {
    /// Opens queue `queue` of this end: what drives it receives and sends by it.
    ///
    /// # Errors
    /// `EBUSY` if it is open already, `EINVAL` if its number is [`QUEUES_MAX`] or above.
    pub fn open(&self, queue: u8) -> io::Result<MemQueue> {
        let door = self.own.doors.get(queue as usize);
        let door = door.ok_or_else(|| io::Error::from_raw_os_error(libc::EINVAL))?;
        if door.open.swap(true, Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::EBUSY));
        }
        self.own.users.fetch_add(1, Ordering::SeqCst);
        self.own.used.store(true, Ordering::SeqCst);
        Ok(MemQueue::new(self.clone(), queue))
    }

    /// How many queues get packets (`ethtool -l`).
    #[must_use]
    pub fn channels(&self) -> usize {
        self.own.table().channels
    }

    /// From now on the first `n` queues get packets, all alike (`ethtool -L combined`). A flow whose
    /// packets are still under way to a queue that gets no more is held back until they have been
    /// received: none overtakes another. [`Nic::settled`] says when that is done.
    ///
    /// # Panics
    /// If `n` is 0 or above [`QUEUES_MAX`].
    pub fn set_channels(&self, n: usize) {
        assert!((1..=QUEUES_MAX).contains(&n), "a card has 1 to {QUEUES_MAX} queues");
        self.own.change(|table| {
            table.channels = n;
            table.rss.indir = indir_table(&[], n);
        });
    }

    /// How packets are distributed (`ethtool -x`).
    #[must_use]
    pub fn rss(&self) -> Rss {
        self.own.table().rss
    }

    /// Distributes packets like this from now on (`ethtool -X`). A flow goes to its new queue when
    /// nothing of it is under way to the old one.
    pub fn set_rss(&self, rss: &Rss) {
        self.own.set_rss(rss);
    }

    /// Sets the rule at `location`, or takes it out (`ethtool -N`).
    ///
    /// # Errors
    /// `ENOSPC` without room, `ENOENT` if there is nothing to take out.
    pub fn set_rule(&self, location: u32, rule: Option<&Rule>) -> io::Result<()> {
        self.own.set_rule(location, rule)
    }

    /// How many rules there are, those of accelerated RFS among them.
    #[must_use]
    pub fn rules(&self) -> usize {
        self.own.ruled.load(Ordering::Acquire)
    }

    /// To which queues each packet goes.
    pub fn set_spread(&self, spread: Spread) {
        self.own.change(|table| table.spread = spread);
    }

    /// Whether everything that was sent to queue `queue` has been received and processed, and no
    /// sender still acts by a table older than the last change.
    #[must_use]
    pub fn settled(&self, queue: u8) -> bool {
        // In this order: a sender that is seen idle reads the table anew before it sends again.
        let idle = |door: &Door| !door.sending.load(Ordering::SeqCst);
        let all_idle = self.far.doors.iter().all(idle);
        let door = self.own.doors.get(queue as usize);
        all_idle && door.is_none_or(|d| lock(&d.gauges).iter().all(|(g, _)| g.in_flight() == 0))
    }
}
