//! The way between shards: one bounded mailbox for each of them, and what all of them share.
//!
//! Linux: `softnet_data.input_pkt_queue` of another CPU with its lock, head and tail counters, and
//! the inter-processor interrupt (`net_rps_send_ipi`).
//!
//! There is one mailbox for each receiver, not one for each pair: what a shard puts in before it
//! says that it is through with a packet ([`Mesh::head`]) then lies before whatever anybody else
//! puts in after having read that. On this the order within a flow rests when the flow moves. The
//! lock is taken once for each batch and receiver, and held only while letters are moved.

use std::any::Any;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::pkt::{Depot, Pkt};

use super::homes::{FlowKey, Homes};
use super::news::News;
use super::post::Outgoing;
use super::rfs::SockFlows;

/// Shards that a mesh has room for: as many as a mask of processors has bits.
pub const SHARDS_MAX: usize = 64;

/// What one shard sends another. Letters arrive in the order in which they were sent: a flow that
/// moves goes before the packets that follow it.
pub enum Letter {
    /// A packet for the backlog.
    Pkt(Pkt),
    /// A connection for the sockets, and what its application knew of it.
    Flow(Box<Flow>),
    /// What the sender heard that concerns others.
    News(Box<News>),
}

/// Letters that may lie in a mailbox before news is lost.
const NEWS_MAX: usize = 8192;

/// A connection on its way to another shard.
pub struct Flow {
    /// Its two ends.
    pub key: FlowKey,
    /// What the stack took out of its tables.
    pub conn: crate::tcp::Moved,
    /// What the application handed over, for its part of the other shard.
    pub app: Option<Box<dyn Any + Send>>,
}

/// A mailbox.
#[derive(Default)]
struct Inbox {
    letters: VecDeque<Letter>,
    /// Packets that were ever put in (`input_queue_tail`).
    tail: u32,
    /// The owner is gone: nothing is put in any more.
    closed: bool,
}

/// What a shard shows the others.
struct Door {
    inbox: Mutex<Inbox>,
    /// Letters lie in the mailbox.
    mail: AtomicBool,
    /// The owner looks at its mail before it next sleeps: it need not be woken.
    awake: AtomicBool,
    /// Packets out of the mailbox that the owner is through with (`input_queue_head`).
    head: AtomicU32,
    /// Packets in the mailbox; changed under its lock.
    packets: AtomicUsize,
    /// Packets in the owner's own queue.
    own: AtomicUsize,
    /// The owner's `netdev_max_backlog`.
    limit: AtomicUsize,
    /// Packets that others dropped because the backlog was full: the owner counts them.
    full: AtomicU64,
    /// Packets that others dropped by the flow limit: the owner counts them too.
    limited: AtomicU64,
    /// Wakes the shard's loop (Linux: the inter-processor interrupt).
    wake: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// The shards of one instance, and the ways between them.
pub struct Mesh {
    doors: Vec<Door>,
    /// The shards that are there, one bit each (`cpu_online_mask`).
    online: AtomicU64,
    /// What the flow hash of all of them is made with.
    seed: OnceLock<u64>,
    /// What all of them make sequence numbers and timestamp offsets with.
    tcp_secret: OnceLock<[u64; 4]>,
    /// Packet memory that wanders between shards.
    pub depot: Arc<Depot>,
    /// The shard of each flow's reader, by the flow's hash (`rps_sock_flow_table`).
    pub sock_flows: SockFlows,
    /// Where each connection lives.
    pub homes: Homes,
}

impl Mesh {
    /// A mesh of so many shards, numbered from 0.
    ///
    /// # Panics
    /// If they are more than [`SHARDS_MAX`].
    pub fn new(shards: usize) -> Arc<Mesh> {
        assert!(shards <= SHARDS_MAX, "a mesh has at most {SHARDS_MAX} shards");
        let door = || Door {
            inbox: Mutex::default(),
            mail: AtomicBool::new(false),
            awake: AtomicBool::new(false),
            head: AtomicU32::new(0),
            packets: AtomicUsize::new(0),
            own: AtomicUsize::new(0),
            limit: AtomicUsize::new(1000),
            full: AtomicU64::new(0),
            limited: AtomicU64::new(0),
            wake: Mutex::new(None),
        };
        Arc::new(Mesh {
            doors: std::iter::repeat_with(door).take(SHARDS_MAX).collect(),
            online: AtomicU64::new(u64::MAX.checked_shr(64 - shards as u32).unwrap_or(0)),
            seed: OnceLock::new(),
            tcp_secret: OnceLock::new(),
            depot: Arc::default(),
            sock_flows: SockFlows::default(),
            homes: Homes::default(),
        })
    }
    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.online.load(Ordering::Relaxed).count_ones() as usize
    }
    /// Whether shard `cpu` is there (`cpu_online`).
    #[inline]
    pub fn online(&self, cpu: u8) -> bool {
        self.online.load(Ordering::Acquire).checked_shr(cpu as u32).unwrap_or(0) & 1 == 1
    }
    /// A shard comes into being, empty: others may steer to it from now on.
    ///
    /// # Panics
    /// If there is no room for it ([`SHARDS_MAX`]).
    pub fn bring_up(&self, cpu: u8) {
        let door = &self.doors[cpu as usize];
        let mut inbox = lock(&door.inbox);
        inbox.closed = false;
        // Whoever had this number before is through with all that it was sent, also with what was
        // taken out of its mailbox in the end: nobody waits for places of that time.
        door.head.store(inbox.tail, Ordering::Release);
        door.own.store(0, Ordering::Relaxed);
        drop(inbox);
        self.online.fetch_or(1 << cpu, Ordering::AcqRel);
    }
    /// A shard goes: first nobody chooses it any more, then its mailbox is shut. The letters that lay
    /// in it are returned: who takes the shard down sees that flows among them arrive elsewhere.
    pub fn take_down(&self, cpu: u8) -> Vec<Letter> {
        let Some(door) = self.doors.get(cpu as usize) else { return Vec::new() };
        self.online.fetch_and(!(1 << cpu), Ordering::AcqRel);
        let mut inbox = lock(&door.inbox);
        inbox.closed = true;
        door.packets.store(0, Ordering::Relaxed);
        let left = inbox.letters.drain(..).collect();
        *lock(&door.wake) = None;
        if door.full.load(Ordering::Relaxed) + door.limited.load(Ordering::Relaxed) > 0 {
            // Who dropped that may not have come to say so: the owner takes note of it with its mail.
            door.mail.store(true, Ordering::SeqCst);
        }
        left
    }
    /// How shard `to` is woken when mail came for it. Called by other shards' threads, once for a
    /// batch at the most.
    pub fn set_wake(&self, to: usize, wake: Box<dyn Fn() + Send>) {
        if let Some(door) = self.doors.get(to) {
            *lock(&door.wake) = Some(wake);
        }
    }
    /// Whether mail lies here for shard `at`: its loop must not sleep then.
    #[inline]
    pub fn has_mail(&self, at: usize) -> bool {
        self.doors.get(at).is_some_and(|d| d.mail.load(Ordering::SeqCst))
    }
    /// The loop of shard `at` works: as long as it does, it need not be woken, which saves each
    /// sender a system call.
    pub fn set_awake(&self, at: usize) {
        if let Some(door) = self.doors.get(at) {
            door.awake.store(true, Ordering::SeqCst);
        }
    }
    /// The loop of shard `at` is about to sleep. It may if this returns true; else mail lies there.
    #[must_use]
    pub fn may_sleep(&self, at: usize) -> bool {
        let Some(door) = self.doors.get(at) else { return true };
        // Either this sees the mail, or who puts it in sees that we sleep: both are sequentially
        // consistent.
        door.awake.store(false, Ordering::SeqCst);
        !door.mail.load(Ordering::SeqCst)
    }
    /// Packets out of its mailbox that shard `cpu` is through with, for good: it processed them, and
    /// handed on those that were not its own (`input_queue_head`).
    #[inline]
    pub fn head(&self, cpu: u8) -> u32 {
        self.doors.get(cpu as usize).map_or(0, |d| d.head.load(Ordering::Acquire))
    }
    /// Packets that wait in the backlog of shard `cpu`: in its mailbox and in its own queue.
    pub fn backlog_len(&self, cpu: u8) -> usize {
        let door = self.doors.get(cpu as usize);
        door.map_or(0, |d| d.packets.load(Ordering::Relaxed) + d.own.load(Ordering::Relaxed))
    }
    /// Packets in the mailbox of shard `at` alone.
    #[inline]
    pub(crate) fn mailed(&self, at: u8) -> usize {
        self.doors.get(at as usize).map_or(0, |d| d.packets.load(Ordering::Relaxed))
    }
    /// Packets that others dropped for shard `at` and that it has not counted yet.
    pub fn refused(&self, at: u8) -> u64 {
        let door = self.doors.get(at as usize);
        door.map_or(0, |d| d.full.load(Ordering::Relaxed) + d.limited.load(Ordering::Relaxed))
    }
    /// The secret of all shards' sequence numbers, ports and timestamp offsets, which nothing else
    /// is made of: the first that joins gives it.
    pub(crate) fn tcp_secret(&self, own: [u64; 4]) -> [u64; 4] {
        *self.tcp_secret.get_or_init(|| own)
    }
    /// The seed of what all shards hash with: the first that joins gives it.
    pub(crate) fn seed(&self, seed: u64) -> u64 {
        *self.seed.get_or_init(|| seed)
    }
    /// The shards that are there, one bit each.
    #[inline]
    pub(crate) fn online_mask(&self) -> u64 {
        self.online.load(Ordering::Acquire)
    }
    pub(crate) fn set_limit(&self, cpu: u8, max_backlog: u64) {
        if let Some(door) = self.doors.get(cpu as usize) {
            door.limit.store(max_backlog.min(usize::MAX as u64) as usize, Ordering::Relaxed);
        }
    }

    /// Puts letters into the mailbox of shard `to`, in order. `admit` is asked about each packet,
    /// with the packets that wait already and `netdev_max_backlog`; what it refuses, and what finds
    /// the backlog full, goes to `refused`. `stand` is told the place of each packet that went in.
    /// Returns the place of the last packet in the mailbox.
    pub(super) fn send(
        &self,
        to: u8,
        letters: &mut Vec<Outgoing>,
        refused: &mut Vec<(Letter, Refusal)>,
        mut admit: impl FnMut(&Pkt, usize, usize) -> bool,
        mut stand: impl FnMut(u32, u32),
    ) -> u32 {
        let closed = |o: Outgoing| (o.letter, Refusal::Closed);
        let Some(door) = self.doors.get(to as usize) else {
            refused.extend(letters.drain(..).map(closed));
            return 0;
        };
        let mut inbox = lock(&door.inbox);
        if inbox.closed {
            refused.extend(letters.drain(..).map(closed));
            return inbox.tail;
        }
        let limit = door.limit.load(Ordering::Relaxed);
        let before = door.packets.load(Ordering::Relaxed) + door.own.load(Ordering::Relaxed);
        let (mut put, mut full, mut limited) = (0, 0, 0);
        for Outgoing { letter, note } in letters.drain(..) {
            let Letter::Pkt(pkt) = letter else {
                if matches!(letter, Letter::News(_)) && inbox.letters.len() >= NEWS_MAX {
                    refused.push((letter, Refusal::Full));
                } else {
                    inbox.letters.push_back(letter);
                }
                continue;
            };
            if before + put >= limit {
                full += 1;
                refused.push((Letter::Pkt(pkt), Refusal::Full));
            } else if !admit(&pkt, before + put, limit) {
                limited += 1;
                refused.push((Letter::Pkt(pkt), Refusal::FlowLimit));
            } else {
                put += 1;
                stand(note, inbox.tail.wrapping_add(put as u32));
                inbox.letters.push_back(Letter::Pkt(pkt));
            }
        }
        inbox.tail = inbox.tail.wrapping_add(put as u32);
        door.packets.fetch_add(put, Ordering::Relaxed);
        if full + limited > 0 {
            // Under the lock: what was dropped before the mailbox was shut, its owner counts.
            door.full.fetch_add(full, Ordering::Relaxed);
            door.limited.fetch_add(limited, Ordering::Relaxed);
        }
        let (tail, any) = (inbox.tail, !inbox.letters.is_empty() || full + limited > 0);
        drop(inbox);
        if any {
            door.ring();
        }
        tail
    }

    /// The owner takes all letters out, into `letters`, which is empty; its own queue holds `own`
    /// packets. Returns how many others dropped since the last time, for a full backlog and by the
    /// flow limit; `None`: there is no mail.
    #[inline]
    pub(crate) fn take(
        &self,
        at: u8,
        own: usize,
        letters: &mut VecDeque<Letter>,
    ) -> Option<[u64; 2]> {
        let door = self.doors.get(at as usize)?;
        if !door.mail.load(Ordering::Acquire) {
            return None;
        }
        let mut inbox = lock(&door.inbox);
        // Before the letters are looked at: what comes later sets it again.
        door.mail.store(false, Ordering::SeqCst);
        std::mem::swap(&mut inbox.letters, letters);
        let came = door.packets.swap(0, Ordering::Relaxed);
        door.own.store(own + came, Ordering::Relaxed);
        drop(inbox);
        Some([&door.full, &door.limited].map(|n| n.swap(0, Ordering::Relaxed)))
    }
    /// The owner's own queue holds `own` packets.
    #[inline]
    pub(crate) fn set_own(&self, at: u8, own: usize) {
        if let Some(door) = self.doors.get(at as usize) {
            door.own.store(own, Ordering::Relaxed);
        }
    }
    /// The owner is through with `n` packets that came by mail. What it sent on because of them is
    /// in the mailboxes already.
    pub(crate) fn through_with(&self, at: u8, n: u32) {
        if let Some(door) = self.doors.get(at as usize) {
            let head = door.head.load(Ordering::Relaxed);
            door.head.store(head.wrapping_add(n), Ordering::Release);
        }
    }
}

impl Door {
    /// Says that there is mail. One interrupt at a time: who has mail already was woken for it.
    fn ring(&self) {
        if !self.mail.swap(true, Ordering::SeqCst)
            && !self.awake.load(Ordering::SeqCst)
            && let Some(wake) = &*lock(&self.wake)
        {
            wake();
        }
    }
}

/// Why a letter was not put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// `netdev_max_backlog` packets wait, or too many letters for one more with news.
    Full,
    /// Its flow has more than its share of them.
    FlowLimit,
    /// The shard is gone.
    Closed,
}

/// A panic elsewhere leaves the lists whole: each change of them is complete under the lock.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::post::NO_NOTE;
    use super::*;
    use crate::pkt::Pool;
    use std::thread::{spawn, yield_now};

    /// What one of several senders did: packets that went in, that found the mailbox full, that found
    /// it shut.
    fn send(mesh: Arc<Mesh>, seed: usize) -> [u64; 3] {
        let mut pool = Pool::new(1 << 20, 0);
        let (mut letters, mut refused, mut did) = (Vec::new(), Vec::new(), [0; 3]);
        for n in 0..4000 {
            let size = 1 + (n * 7 + seed) % 9;
            for _ in 0..size {
                let letter = Letter::Pkt(pool.alloc().expect("there is room"));
                letters.push(Outgoing { letter, note: NO_NOTE });
            }
            mesh.send(0, &mut letters, &mut refused, |_, _, _| true, |_, _| ());
            did[0] += (size - refused.len()) as u64;
            for (_, why) in refused.drain(..) {
                did[if why == Refusal::Full { 1 } else { 2 }] += 1;
            }
            if n % 64 == 0 {
                yield_now();
            }
        }
        did
    }

    /// Several threads send while the receiver works, goes and comes back: each packet is received, or
    /// its loss is counted, before the receiver is gone and not after.
    #[test]
    fn what_is_lost_is_counted_by_the_shard_that_goes() {
        let mesh = Mesh::new(4);
        mesh.set_limit(0, 24);
        let senders: Vec<_> = (0..3).map(|i| (Arc::clone(&mesh), i)).collect();
        let senders: Vec<_> = senders.into_iter().map(|(m, i)| spawn(move || send(m, i))).collect();
        let (mut got, mut lost, mut turns) = (0, 0, 0);
        let mut mail = VecDeque::new();
        let mut take = |mesh: &Mesh, got: &mut u64| {
            lost += mesh.take(0, 0, &mut mail).map_or(0, |[full, limited]| full + limited);
            *got += mail.drain(..).count() as u64;
            mesh.set_own(0, 0);
            lost
        };
        while !senders.iter().all(std::thread::JoinHandle::is_finished) {
            take(&mesh, &mut got);
            turns += 1;
            if turns % 16 == 0 {
                got += mesh.take_down(0).len() as u64;
                take(&mesh, &mut got);
                (0..8).for_each(|_| {
                    yield_now();
                    assert_eq!(mesh.refused(0), 0, "nobody drops for one that is gone");
                });
                mesh.bring_up(0);
            }
        }
        let did = senders.into_iter().map(|s| s.join().expect("it ends"));
        let did = did.reduce(|a, b| [0, 1, 2].map(|i| a[i] + b[i])).expect("there are three");
        let lost = take(&mesh, &mut got);
        assert_eq!((got, lost), (did[0], did[1]), "{did:?} in {turns} turns");
        assert_eq!(mesh.backlog_len(0), 0);
    }
}
