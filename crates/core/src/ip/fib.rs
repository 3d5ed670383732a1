//! The forwarding table: longest-prefix match over routes that come and go while packets flow.
//!
//! One hash table per prefix length in use, longest first. A stack like this one has a handful of
//! lengths (a host route, a subnet or two, the default), so a look-up is two or three probes; adding
//! and deleting are O(1), which a compressed trie does not offer. A small direct-mapped cache in
//! front answers for the addresses that are in use now.
//!
//! As in Linux there are two tables: `local` (own addresses and broadcasts) is asked before `main`.

use std::cell::Cell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::{IpAddr, Ipv4Addr};

/// What a route says of the packets that match it (Linux: `RTN_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// The address is ours (`RTN_LOCAL`).
    Local,
    /// Send it by the route's device, to the gateway or to the destination itself (`RTN_UNICAST`).
    Unicast,
    /// A link's broadcast address (`RTN_BROADCAST`).
    Broadcast,
    /// Drop silently (`RTN_BLACKHOLE`).
    Blackhole,
    /// Drop and answer: host unreachable (`RTN_UNREACHABLE`).
    Unreachable,
    /// Drop and answer: prohibited (`RTN_PROHIBIT`).
    Prohibit,
}

/// One route (Linux: `struct fib_info` with its prefix).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// The prefix; bits beyond `prefix_len` are zero.
    pub dst: IpAddr,
    /// How many bits of the destination must match: 0..=32 or 0..=128.
    pub prefix_len: u8,
    /// What is done with packets that match.
    pub kind: RouteKind,
    /// The device.
    pub dev: u8,
    /// The next hop; `None` = the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that packets of ours get (`src` of `ip route`).
    pub src: Option<IpAddr>,
    /// The largest packet this way, in bytes, if less than the device's.
    pub mtu: Option<u32>,
}

impl Route {
    /// A route to a prefix on the link of `dev`. Bits of `dst` beyond the prefix are cleared.
    pub fn new(dst: IpAddr, prefix_len: u8, kind: RouteKind, dev: u8) -> Route {
        let dst = match dst {
            IpAddr::V4(a) => IpAddr::V4((a.to_bits() & u32::mask(prefix_len)).into()),
            IpAddr::V6(a) => IpAddr::V6((a.to_bits() & u128::mask(prefix_len)).into()),
        };
        Route { dst, prefix_len, kind, dev, gateway: None, src: None, mtu: None }
    }
    /// A route to a prefix by a gateway on the link of `dev`.
    pub fn via(dst: IpAddr, prefix_len: u8, gateway: IpAddr, dev: u8) -> Route {
        Route { gateway: Some(gateway), ..Route::new(dst, prefix_len, RouteKind::Unicast, dev) }
    }
    /// Whether `addr` lies in this route's prefix.
    pub fn matches(&self, addr: IpAddr) -> bool {
        in_prefix(addr, self.dst, self.prefix_len)
    }
    fn table(&self) -> usize {
        match self.kind {
            RouteKind::Local | RouteKind::Broadcast => LOCAL,
            _ => MAIN,
        }
    }
}

/// Whether `addr` agrees with `prefix` in its first `len` bits; never across families.
pub fn in_prefix(addr: IpAddr, prefix: IpAddr, len: u8) -> bool {
    match (addr, prefix) {
        (IpAddr::V4(a), IpAddr::V4(p)) => (a.to_bits() ^ p.to_bits()) & u32::mask(len) == 0,
        (IpAddr::V6(a), IpAddr::V6(p)) => (a.to_bits() ^ p.to_bits()) & u128::mask(len) == 0,
        _ => false,
    }
}

const LOCAL: usize = 0;
const MAIN: usize = 1;
const NONE: u32 = u32::MAX;
/// Slots of the look-up cache of each family: a power of two.
const CACHE: usize = 16;
/// Slots for address pairs of packets that came: more, as peers are many where routes are few.
const KNOWN: usize = 64;

/// The address bits of one family.
trait Bits: Copy + Eq + std::hash::Hash + std::ops::BitAnd<Output = Self> {
    fn mask(len: u8) -> Self;
    /// Where the look-up cache keeps this address.
    fn slot(self) -> usize;
}
impl Bits for u32 {
    fn mask(len: u8) -> u32 {
        u32::MAX.checked_shl(32u32.saturating_sub(len as u32)).unwrap_or(0)
    }
    #[inline]
    fn slot(self) -> usize {
        (self.wrapping_mul(0x9e37_79b1) >> 28) as usize % CACHE
    }
}
impl Bits for u128 {
    fn mask(len: u8) -> u128 {
        u128::MAX.checked_shl(128u32.saturating_sub(len as u32)).unwrap_or(0)
    }
    #[inline]
    fn slot(self) -> usize {
        slot64((self as u64) ^ (self >> 64) as u64)
    }
}

/// Routes are set by the owner of the stack, not by peers: a fixed hash is enough.
#[derive(Default)]
struct PrefixHasher(u64);
impl Hasher for PrefixHasher {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }
    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.write_u64(*b as u64);
        }
    }
    fn write_u32(&mut self, word: u32) {
        self.write_u64(word as u64);
    }
    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(29) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    fn write_u128(&mut self, word: u128) {
        self.write_u64(word as u64);
        self.write_u64((word >> 64) as u64);
    }
}
type PrefixMap<K> = HashMap<K, u32, BuildHasherDefault<PrefixHasher>>;

/// Prefixes of one family and table.
struct Lpm<K> {
    /// Prefix length, its mask, and the routes of this length; longest first.
    lengths: Vec<(u8, K, PrefixMap<K>)>,
}
impl<K> Default for Lpm<K> {
    fn default() -> Self {
        Lpm { lengths: Vec::new() }
    }
}
impl<K: Bits> Lpm<K> {
    #[inline]
    fn lookup(&self, addr: K) -> Option<u32> {
        self.lengths.iter().find_map(|(_, mask, map)| map.get(&(addr & *mask)).copied())
    }
    fn get(&self, prefix: K, len: u8) -> Option<u32> {
        let (_, mask, map) = self.lengths.iter().find(|(l, ..)| *l == len)?;
        map.get(&(prefix & *mask)).copied()
    }
    fn insert(&mut self, prefix: K, len: u8, route: u32) {
        let at = match self.lengths.binary_search_by(|(l, ..)| len.cmp(l)) {
            Ok(at) => at,
            Err(at) => {
                self.lengths.insert(at, (len, K::mask(len), PrefixMap::default()));
                at
            }
        };
        self.lengths[at].2.insert(prefix & K::mask(len), route);
    }
    fn remove(&mut self, prefix: K, len: u8) -> Option<u32> {
        let at = self.lengths.iter().position(|(l, ..)| *l == len)?;
        let route = self.lengths[at].2.remove(&(prefix & K::mask(len)));
        if self.lengths[at].2.is_empty() {
            self.lengths.remove(at);
        }
        route
    }
}

/// Why a route or an address was not added or removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// A route to this prefix, or this address, exists (EEXIST).
    Exists,
    /// There is no such route or address (ESRCH).
    NotFound,
    /// The prefix is too long, the families differ, or the device does not exist (EINVAL).
    Invalid,
}
impl RouteError {
    /// The errno that Linux gives for this.
    pub fn errno(self) -> i32 {
        match self {
            RouteError::Exists => 17,
            RouteError::NotFound => 3,
            RouteError::Invalid => 22,
        }
    }
}
impl std::fmt::Display for RouteError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            RouteError::Exists => "a route to this prefix exists already: delete it first",
            RouteError::NotFound => "no such route or address: list them to see what is there",
            RouteError::Invalid => {
                "the prefix length, the gateway's family or the device number is wrong"
            }
        })
    }
}
impl std::error::Error for RouteError {}

/// All routes of a stack.
pub struct Fib {
    v4: [Lpm<u32>; 2],
    v6: [Lpm<u128>; 2],
    routes: Vec<Option<Route>>,
    free: Vec<u32>,
    cache4: [Cell<(u32, Option<u32>)>; CACHE],
    cache6: [Cell<(u128, Option<u32>)>; CACHE],
    /// Where packets to other hosts went lately: destination, next hop and device; see
    /// [`Fib::known_way`].
    ways: [Cell<(u32, u32, Option<u8>)>; CACHE],
    /// How often the routes have changed.
    generation: u32,
    /// What the input side found out lately: both addresses, and from where; see [`Fib::known_local`].
    known: [Cell<(u64, u64)>; KNOWN],
    /// How many routes carry an MTU of their own.
    with_mtu: usize,
}

impl Default for Fib {
    fn default() -> Fib {
        Fib {
            v4: Default::default(),
            v6: Default::default(),
            routes: Vec::new(),
            free: Vec::new(),
            cache4: Default::default(),
            cache6: Default::default(),
            ways: Default::default(),
            generation: 0,
            known: nothing_known(),
            with_mtu: 0,
        }
    }
}

impl Fib {
    /// The route for `dst`: the longest prefix of the local table, or of the main one
    /// (Linux: `fib_lookup`).
    #[inline]
    pub fn lookup(&self, dst: IpAddr) -> Option<&Route> {
        let route = match dst {
            IpAddr::V4(a) => cached(&self.cache4, &self.v4, a.to_bits())?,
            IpAddr::V6(a) => cached(&self.cache6, &self.v6, a.to_bits())?,
        };
        self.routes.get(route as usize)?.as_ref()
    }
    /// Whether `addr` is one of our own.
    #[inline]
    pub fn is_local(&self, addr: IpAddr) -> bool {
        self.lookup(addr).is_some_and(|r| r.kind == RouteKind::Local)
    }
    /// Whether a packet of these addresses was found to be for us, and its source valid, since the
    /// routes last changed. `way` is what else that depended on: device and knobs, never 0.
    #[inline(always)]
    pub(crate) fn known_local(&self, src: Ipv4Addr, dst: Ipv4Addr, way: u64) -> bool {
        let pair = pair(src, dst);
        self.known[pair_slot(pair)].get() == (pair, way)
    }
    /// Notes that it was.
    #[inline]
    pub(crate) fn learn_local(&self, src: Ipv4Addr, dst: Ipv4Addr, way: u64) {
        let pair = pair(src, dst);
        self.known[pair_slot(pair)].set((pair, way));
    }
    /// The device and the next hop by which packets to this other host went since the routes last
    /// changed.
    #[inline(always)]
    pub(crate) fn known_way(&self, dst: Ipv4Addr) -> Option<(u8, Ipv4Addr)> {
        let bits = dst.to_bits();
        match self.ways[bits.slot()].get() {
            (to, nexthop, Some(dev)) if to == bits => Some((dev, Ipv4Addr::from_bits(nexthop))),
            _ => None,
        }
    }
    /// Notes where they went.
    #[inline]
    pub(crate) fn learn_way(&self, dst: Ipv4Addr, dev: u8, nexthop: Ipv4Addr) {
        let bits = dst.to_bits();
        self.ways[bits.slot()].set((bits, nexthop.to_bits(), Some(dev)));
    }
    /// Changes whenever a route does.
    #[inline]
    pub(crate) fn generation(&self) -> u32 {
        self.generation
    }
    /// Whether some route has an MTU of its own.
    #[inline]
    pub(crate) fn has_mtu(&self) -> bool {
        self.with_mtu > 0
    }
    /// How many routes there are.
    pub fn len(&self) -> usize {
        self.routes.len() - self.free.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Every route: IPv4 before IPv6, by prefix, longer ones after shorter ones.
    pub fn list(&self) -> Vec<Route> {
        let mut all: Vec<Route> = self.routes.iter().flatten().copied().collect();
        all.sort_by_key(|r| (r.dst, r.prefix_len, r.table()));
        all
    }
    /// Adds a route. Device and gateway are the caller's to check: see
    /// [`Shard::add_route`](crate::shard::Shard::add_route).
    ///
    /// # Errors
    /// [`RouteError::Exists`] (EEXIST), [`RouteError::Invalid`] (EINVAL).
    pub fn add(&mut self, route: Route) -> Result<(), RouteError> {
        let gateway_fits = route.gateway.is_none_or(|g| g.is_ipv4() == route.dst.is_ipv4());
        if route.prefix_len > if route.dst.is_ipv4() { 32 } else { 128 } || !gateway_fits {
            return Err(RouteError::Invalid);
        }
        if self.find(route.table(), route.dst, route.prefix_len).is_some() {
            return Err(RouteError::Exists);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.routes.push(None);
            self.routes.len() as u32 - 1
        });
        match route.dst {
            IpAddr::V4(a) => self.v4[route.table()].insert(a.to_bits(), route.prefix_len, index),
            IpAddr::V6(a) => self.v6[route.table()].insert(a.to_bits(), route.prefix_len, index),
        }
        self.with_mtu += route.mtu.is_some() as usize;
        self.routes[index as usize] = Some(route);
        self.forget();
        Ok(())
    }
    /// Removes the route of this kind's table to the prefix, and returns it.
    ///
    /// # Errors
    /// [`RouteError::NotFound`] (ESRCH).
    pub fn del(&mut self, route: &Route) -> Result<Route, RouteError> {
        let removed = match route.dst {
            IpAddr::V4(a) => self.v4[route.table()].remove(a.to_bits(), route.prefix_len),
            IpAddr::V6(a) => self.v6[route.table()].remove(a.to_bits(), route.prefix_len),
        };
        let index = removed.ok_or(RouteError::NotFound)?;
        self.forget();
        self.free.push(index);
        let route = self.routes[index as usize].take();
        let route = route.expect("a prefix leads to a route that exists");
        self.with_mtu -= route.mtu.is_some() as usize;
        Ok(route)
    }
    /// Removes every route for which `keep` does not hold.
    pub fn retain(&mut self, mut keep: impl FnMut(&Route) -> bool) {
        for route in self.list() {
            if !keep(&route) {
                let gone = self.del(&route);
                debug_assert!(gone.is_ok(), "a listed route can be deleted");
            }
        }
    }
    fn find(&self, table: usize, dst: IpAddr, len: u8) -> Option<u32> {
        match dst {
            IpAddr::V4(a) => self.v4[table].get(a.to_bits(), len),
            IpAddr::V6(a) => self.v6[table].get(a.to_bits(), len),
        }
    }
    /// Empties the caches: the routes, or the devices that they lead to, are about to change.
    pub(crate) fn forget(&mut self) {
        self.cache4 = Default::default();
        self.cache6 = Default::default();
        self.known = nothing_known();
        self.ways = Default::default();
        self.generation = self.generation.wrapping_add(1);
    }
}

#[inline(always)]
fn pair(src: Ipv4Addr, dst: Ipv4Addr) -> u64 {
    (u32::from_ne_bytes(src.octets()) as u64) << 32 | u32::from_ne_bytes(dst.octets()) as u64
}

fn nothing_known() -> [Cell<(u64, u64)>; KNOWN] {
    std::array::from_fn(|_| Cell::default())
}

#[inline(always)]
fn pair_slot(bits: u64) -> usize {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as usize % KNOWN
}

#[inline(always)]
fn slot64(bits: u64) -> usize {
    (bits.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) as usize % CACHE
}

/// The look-up through the cache. An empty slot holds `None`; `NONE` means: there is no route.
#[inline]
fn cached<K: Bits>(
    cache: &[Cell<(K, Option<u32>)>; CACHE],
    tables: &[Lpm<K>; 2],
    addr: K,
) -> Option<u32> {
    let slot = &cache[addr.slot()];
    if let (key, Some(route)) = slot.get()
        && key == addr
    {
        return (route != NONE).then_some(route);
    }
    let found = tables[LOCAL].lookup(addr).or_else(|| tables[MAIN].lookup(addr));
    slot.set((addr, Some(found.unwrap_or(NONE))));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rand::Rng;

    fn net(text: &str) -> (IpAddr, u8) {
        let (addr, len) = text.split_once('/').expect("a prefix");
        (addr.parse().expect("an address"), len.parse().expect("a length"))
    }

    fn route(text: &str, dev: u8) -> Route {
        let (dst, len) = net(text);
        Route::new(dst, len, RouteKind::Unicast, dev)
    }

    #[test]
    fn the_longest_prefix_wins_and_deletion_uncovers_the_next() {
        let mut fib = Fib::default();
        for (i, text) in
            ["0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32"].iter().enumerate()
        {
            fib.add(route(text, i as u8)).expect("added");
        }
        let dev = |fib: &Fib, a: &str| fib.lookup(a.parse().expect("addr")).map(|r| r.dev);
        assert_eq!(dev(&fib, "10.1.2.3"), Some(3));
        assert_eq!(dev(&fib, "10.1.2.4"), Some(2));
        assert_eq!(dev(&fib, "10.2.0.1"), Some(1));
        assert_eq!(dev(&fib, "192.0.2.1"), Some(0));
        assert_eq!(fib.del(&route("10.1.2.3/32", 0)).expect("there").dev, 3);
        assert_eq!(dev(&fib, "10.1.2.3"), Some(2));
        assert_eq!(fib.del(&route("10.1.2.3/32", 0)), Err(RouteError::NotFound));
        fib.del(&route("0.0.0.0/0", 0)).expect("there");
        assert_eq!(dev(&fib, "192.0.2.1"), None);
        assert_eq!(fib.add(route("10.0.0.0/8", 9)), Err(RouteError::Exists));
        assert_eq!(fib.len(), 2);
    }

    #[test]
    fn the_local_table_is_asked_first() {
        let mut fib = Fib::default();
        fib.add(route("127.0.0.1/32", 1)).expect("added");
        let (dst, len) = net("127.0.0.0/8");
        fib.add(Route::new(dst, len, RouteKind::Local, 0)).expect("added");
        assert!(fib.is_local("127.0.0.1".parse().expect("addr")));
    }

    #[test]
    fn wrong_routes_are_refused() {
        let mut fib = Fib::default();
        let mut bad = route("10.0.0.0/8", 0);
        bad.prefix_len = 33;
        assert_eq!(fib.add(bad), Err(RouteError::Invalid));
        let v6_gateway = Some("fe80::1".parse().expect("addr"));
        assert_eq!(
            fib.add(Route { gateway: v6_gateway, ..route("10.0.0.0/8", 0) }),
            Err(RouteError::Invalid)
        );
    }

    /// Look-ups agree with a scan over all routes, while routes come and go.
    #[test]
    fn agrees_with_a_linear_scan() {
        let mut rng = Rng::new(11);
        let mut fib = Fib::default();
        let mut all: Vec<Route> = Vec::new();
        for step in 0..20_000 {
            let v6 = rng.below(2) == 1;
            // Few distinct bits, so that prefixes nest.
            let bits = rng.below(256) as u128;
            let addr: IpAddr = if v6 {
                std::net::Ipv6Addr::from(bits << 120 | bits << 60 | bits).into()
            } else {
                std::net::Ipv4Addr::from((bits << 24 | bits << 12 | bits) as u32).into()
            };
            match rng.below(6) {
                0 => {
                    let len = rng.below(if v6 { 129 } else { 33 }) as u8;
                    let new = Route::new(addr, len, RouteKind::Unicast, (step % 200) as u8);
                    let known = all.iter().any(|r| (r.dst, r.prefix_len) == (new.dst, len));
                    assert_eq!(fib.add(new).is_err(), known);
                    if !known {
                        all.push(new);
                    }
                }
                1 if !all.is_empty() && all.len() > 40 => {
                    let gone = all.swap_remove(rng.below(all.len() as u64) as usize);
                    assert_eq!(fib.del(&gone), Ok(gone));
                }
                _ => {
                    let want = all.iter().filter(|r| r.matches(addr)).max_by_key(|r| r.prefix_len);
                    assert_eq!(fib.lookup(addr), want);
                }
            }
        }
        assert_eq!(fib.len(), all.len());
    }
}
