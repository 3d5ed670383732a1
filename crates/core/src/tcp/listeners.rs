//! Which listener has a port, and which of several that share it gets a SYN.
//!
//! before: [`super::input`]   after: [`super::listen`]
//! Linux:  net/ipv4/inet_hashtables.c `__inet_lookup_listener`, `inet_csk_get_port`; net/core/sock_reuseport.c

use std::net::IpAddr;

use super::Tuple;
use super::listen::Listener;
use crate::pkt::Skb;
use crate::rand::{Keyed, KeyedMap};
use crate::sock::{ReuseProg, Slab, lookup};

/// Which listener has a port.
pub(crate) struct Ports {
    by_port: KeyedMap<u16, Vec<u32>>,
    /// Listeners that take every port.
    any: Vec<u32>,
    /// How many SYNs to one destination are held.
    pub(super) held_to: KeyedMap<(IpAddr, u16), u32>,
    pub(super) held: u32,
    /// Programs of listeners that share address and port.
    pub(super) progs: KeyedMap<(Option<IpAddr>, u16), ReuseProg>,
    /// Chooses among those.
    select: Keyed,
}

impl Ports {
    pub fn new(ports: Keyed, held: Keyed, select: Keyed) -> Ports {
        Ports {
            progs: KeyedMap::with_hasher(select),
            select,
            by_port: KeyedMap::with_hasher(ports),
            any: Vec::new(),
            held_to: KeyedMap::with_hasher(held),
            held: 0,
        }
    }
    /// The listener that wants a SYN most: one bound to the address before one bound to all, both
    /// before one that takes every port.
    #[inline]
    pub fn find(&self, all: &Slab<Listener>, addr: IpAddr, port: u16) -> Option<u32> {
        let on_port = self.by_port.get(&port).map_or(&[][..], Vec::as_slice);
        best(all, on_port, addr).or_else(|| best(all, &self.any, addr))
    }
    /// The listener that gets this SYN, where `found` shares its address and port with others
    /// (`reuseport_select_sock`): the one that their program says, or, if it says none that exists or
    /// there is none, by a hash of both ends.
    pub fn choose(&mut self, all: &Slab<Listener>, found: u32, tuple: &Tuple, skb: &Skb) -> u32 {
        let Some((addr, port)) = all.at(found).filter(|l| l.reuseport).map(|l| (l.addr, l.port))
        else {
            return found;
        };
        let list = if port == 0 { Some(&self.any) } else { self.by_port.get(&port) };
        let list = list.map_or(&[][..], Vec::as_slice);
        let members =
            || list.iter().copied().filter(|i| all.at(*i).is_some_and(|l| l.addr == addr));
        let said = self.progs.get_mut(&(addr, port)).map(|prog| prog(skb));
        if let Some(at) = said.and_then(|i| members().nth(i)) {
            return at;
        }
        let ports = (tuple.lport, tuple.rport);
        let hash = lookup::hash_tuple(&self.select, tuple.local, tuple.remote, ports);
        let i = lookup::reciprocal_scale(hash, members().count());
        members().nth(i).unwrap_or(found)
    }
    /// Those that share the address and port of `at`, and it itself.
    pub fn group<'a>(&'a self, all: &'a Slab<Listener>, at: u32) -> impl Iterator<Item = u32> + 'a {
        let shared = all.at(at).filter(|l| l.reuseport).map(|l| (l.addr, l.port));
        let list = match shared {
            Some((_, 0)) => Some(&self.any),
            Some((_, port)) => self.by_port.get(&port),
            None => None,
        };
        let list = list.map_or(&[][..], Vec::as_slice);
        let member = move |i: &u32| all.at(*i).map(|l| (l.addr, l.port)) == shared;
        list.iter().copied().filter(member).chain(shared.is_none().then_some(at))
    }
    /// Whether a listener with an overlapping address has the port and does not `share` it.
    pub fn taken(
        &self,
        all: &Slab<Listener>,
        addr: Option<IpAddr>,
        port: u16,
        share: bool,
    ) -> bool {
        let same = if port == 0 { Some(&self.any) } else { self.by_port.get(&port) };
        let clash = |i: &u32| {
            all.at(*i).is_some_and(|l| {
                let overlap = addr.is_none() || l.addr.is_none() || addr == l.addr;
                overlap && !(share && l.reuseport)
            })
        };
        same.is_some_and(|list| list.iter().any(clash))
    }
    pub fn insert(&mut self, index: u32, port: u16) {
        let list = if port == 0 { &mut self.any } else { self.by_port.entry(port).or_default() };
        list.push(index);
    }
    pub fn remove(&mut self, all: &Slab<Listener>, index: u32, port: u16) {
        if let Some(addr) = all.at(index).filter(|l| l.reuseport).map(|l| l.addr) {
            let list = if port == 0 { Some(&self.any) } else { self.by_port.get(&port) };
            let same = |i: &&u32| all.at(**i).is_some_and(|l| l.addr == addr);
            if list.is_none_or(|list| list.iter().filter(same).count() <= 1) {
                self.progs.remove(&(addr, port));
            }
        }
        if port == 0 {
            self.any.retain(|i| *i != index);
        } else if let Some(list) = self.by_port.get_mut(&port) {
            list.retain(|i| *i != index);
            if list.is_empty() {
                self.by_port.remove(&port);
            }
        }
    }
    pub fn hold(&mut self, tuple: &Tuple) {
        self.held += 1;
        *self.held_to.entry((tuple.local, tuple.lport)).or_default() += 1;
    }
    pub fn release(&mut self, tuple: &Tuple) {
        self.held -= 1;
        let key = (tuple.local, tuple.lport);
        if let Some(n) = self.held_to.get_mut(&key) {
            *n -= 1;
            if *n == 0 {
                self.held_to.remove(&key);
            }
        }
    }
}

fn best(all: &Slab<Listener>, list: &[u32], addr: IpAddr) -> Option<u32> {
    let mut any = None;
    for &i in list {
        match all.at(i)?.addr {
            Some(a) if a == addr => return Some(i),
            Some(_) => {}
            None => any = Some(i),
        }
    }
    any
}
