//! Where each connection lives: the directory that all shards share.
//!
//! Linux: none; there any CPU reaches any socket. Here a connection belongs to one shard, and a packet
//! that came to another, because the connection moved or because the steering was changed under
//! it, is sent after it.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{OnceLock, PoisonError, RwLock};

use super::hash::FlowKeys;
use crate::rand::{Keyed, KeyedMap, Rng};
use crate::wire::IPPROTO_TCP;

/// A TCP connection as its packets name it when they arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// The peer: source of what arrives.
    pub remote: SocketAddr,
    /// We: destination of what arrives.
    pub local: SocketAddr,
}

impl FlowKey {
    /// The connection between two ends. Flow label and scope of an IPv6 address do not count.
    pub fn new(local: SocketAddr, remote: SocketAddr) -> FlowKey {
        let bare = |a: SocketAddr| SocketAddr::new(a.ip(), a.port());
        FlowKey { remote: bare(remote), local: bare(local) }
    }
    pub(crate) fn of(src: IpAddr, dst: IpAddr, ports: (u16, u16)) -> FlowKey {
        FlowKey { remote: SocketAddr::new(src, ports.0), local: SocketAddr::new(dst, ports.1) }
    }
    /// The connection that a packet is of, as it stands at the ring.
    #[inline]
    pub(super) fn of_tcp(keys: &FlowKeys) -> Option<FlowKey> {
        let ports = keys.ports.filter(|_| keys.proto == IPPROTO_TCP)?;
        Some(FlowKey::of(keys.src, keys.dst, ports))
    }
    /// What its packets bear when they arrive.
    pub(super) fn tcp_keys(&self) -> FlowKeys {
        FlowKeys {
            src: self.remote.ip(),
            dst: self.local.ip(),
            ports: Some((self.remote.port(), self.local.port())),
            proto: IPPROTO_TCP,
        }
    }
    fn hash(&self, key: &Keyed) -> u32 {
        let ports = (self.local.port(), self.remote.port());
        crate::sock::lookup::hash_tuple(key, self.local.ip(), self.remote.ip(), ports)
    }
}

/// A connection's place.
#[derive(Clone, Copy)]
struct Home {
    cpu: u8,
    /// It was seen to live elsewhere than where its packets arrive.
    away: bool,
}

/// Parts of the directory, each with its lock.
const PARTS: usize = 64;

type Part = RwLock<KeyedMap<FlowKey, Home>>;

/// The directory: exact, in parts that are locked one by one. It is asked for every packet only as long
/// as there are connections that do not live where their packets arrive; how many those are costs
/// one load to know.
#[derive(Default)]
pub struct Homes {
    parts: OnceLock<(Keyed, Vec<Part>)>,
    away: AtomicUsize,
}

impl Homes {
    pub(super) fn init(&self, seed: u64) {
        self.parts.get_or_init(|| {
            let mut rng = Rng::new(seed);
            let part = || RwLock::new(KeyedMap::with_hasher(rng.keyed()));
            let parts = std::iter::repeat_with(part).take(PARTS).collect();
            (Rng::new(!seed).keyed(), parts)
        });
    }
    fn part(&self, key: &FlowKey) -> Option<&Part> {
        let (keyed, parts) = self.parts.get()?;
        // The maps use the other bits of other hashes.
        parts.get(key.hash(keyed) as usize % PARTS)
    }
    /// Connections that do not live where their packets arrive.
    #[inline]
    pub fn away(&self) -> usize {
        self.away.load(Ordering::Acquire)
    }
    /// Connections in the directory.
    pub fn len(&self) -> usize {
        let parts = self.parts.get().map_or(&[][..], |(_, parts)| parts);
        parts.iter().map(|p| p.read().unwrap_or_else(PoisonError::into_inner).len()).sum()
    }
    /// Whether no connection is in the directory.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// The shard that the connection lives on, if it is known.
    pub fn find(&self, key: &FlowKey) -> Option<u8> {
        let part = self.part(key)?.read().unwrap_or_else(PoisonError::into_inner);
        part.get(key).map(|home| home.cpu)
    }
    /// A connection began on shard `cpu`: where its packets arrive, as far as anybody knows.
    pub fn settle(&self, key: FlowKey, cpu: u8) {
        self.put(key, cpu, false);
    }
    /// A connection left shard `from` for shard `to`: the one that it leaves says so, when the
    /// connection is in the mailbox of `to` and before it takes in another packet. Who got it may
    /// have been faster, and have said so, sent it on, or seen its end: then nothing happens.
    pub fn leaves(&self, key: &FlowKey, from: u8, to: u8) {
        let Some(part) = self.part(key) else { return };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(home) = part.get_mut(key).filter(|home| home.cpu == from) {
            home.cpu = to;
            if !std::mem::replace(&mut home.away, true) {
                self.away.fetch_add(1, Ordering::AcqRel);
            }
        }
    }
    /// A connection lives on shard `cpu` now, wherever its packets arrive: said by that shard.
    pub fn moved(&self, key: FlowKey, cpu: u8) {
        self.put(key, cpu, true);
    }
    fn put(&self, key: FlowKey, cpu: u8, away: bool) {
        let Some(part) = self.part(&key) else { return };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        let home = part.entry(key).or_insert(Home { cpu, away: false });
        home.cpu = cpu;
        if away && !home.away {
            home.away = true;
            self.away.fetch_add(1, Ordering::AcqRel);
        }
    }
    /// The connection on shard `cpu` is over; if it lives on another shard, nothing happens.
    pub fn forget(&self, key: &FlowKey, cpu: u8) {
        let Some(part) = self.part(key) else { return };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        if part.get(key).is_some_and(|home| home.cpu == cpu)
            && part.remove(key).is_some_and(|home| home.away)
        {
            self.away.fetch_sub(1, Ordering::AcqRel);
        }
    }
    /// A packet came to another shard than `key`'s: from now on each is looked up before it is
    /// steered.
    pub(super) fn stray(&self, key: &FlowKey) {
        let Some(part) = self.part(key) else { return };
        let mut part = part.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(home) = part.get_mut(key)
            && !std::mem::replace(&mut home.away, true)
        {
            self.away.fetch_add(1, Ordering::AcqRel);
        }
    }
}
