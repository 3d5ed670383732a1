//! Where UDP sockets are found: connected ones by both ends, bound ones by address and port, the
//! others by port, and last those that take every port.
//!
//! Linux: net/ipv4/udp.c `__udp4_lib_lookup` (`udp4_lib_lookup4` for connected sockets, `hash2` for
//! bound ones, then the port), `udp_lib_lport_inuse`; net/core/sock_reuseport.c
//!
//! One look-up costs one probe of a table for each of these kinds that exists at all, whatever the
//! number of sockets. Only sockets that share address and port by SO_REUSEPORT stand together, in
//! a [`Group`]; nothing else is ever searched one by one but sockets that take every port.

use std::net::IpAddr;

use super::UdpSock;
use crate::pkt::Skb;
use crate::rand::{Keyed, Rng};
use crate::sock::lookup::{hash_tuple, reciprocal_scale};
use crate::sock::{AtLine, Ehash, ReuseProg, Slab, SockKind, SocketId};

/// What stands in the tables: a socket by `index + 1`, or, with this bit, a group by its index.
const GROUP: u32 = 1 << 31;

/// Sockets that are bound to the same address and port (Linux: `struct sock_reuseport`).
struct Group {
    members: Vec<u32>,
    prog: Option<ReuseProg>,
}

/// What is bound to a port.
#[derive(Clone, Copy, Default)]
struct Port {
    /// Who hears it on all addresses, not connected; 0 = nobody.
    any: u32,
    /// Entries that hear it on one address each, not connected.
    addr: u32,
    /// Those of them that nobody may share an address with.
    plain: u32,
}

/// All UDP sockets of a shard.
pub struct Sockets {
    pub(crate) slab: Slab<UdpSock, AtLine>,
    ports: Vec<Port>,
    /// Connected ones, and those bound to an address.
    table: Ehash,
    key: Keyed,
    /// Chooses within groups: its own key, so that who knows nothing of it can not aim.
    select: Keyed,
    /// How many are connected and bound to an address; connected without; bound and not connected.
    conn: usize,
    conn_any: usize,
    bound: usize,
    /// Those that take every port, the latest first.
    every: Vec<u32>,
    groups: Slab<Group>,
    /// Memory of all queues together, against `udp_mem`.
    pub(crate) mem: usize,
}

/// The address that stands for "all" beside another.
fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::from([0; 4]),
        IpAddr::V6(_) => IpAddr::from([0; 16]),
    }
}

impl Sockets {
    pub(crate) fn new(rng: &mut Rng) -> Sockets {
        Sockets {
            slab: Slab::default(),
            ports: vec![Port::default(); 65536],
            // Half empty: one probe is nearly always enough.
            table: Ehash::new(4),
            key: rng.keyed(),
            select: rng.keyed(),
            conn: 0,
            conn_any: 0,
            bound: 0,
            every: Vec::new(),
            groups: Slab::default(),
            mem: 0,
        }
    }
    /// Every socket, in order of its index.
    pub fn iter(&self) -> impl Iterator<Item = &UdpSock> {
        self.slab.iter().map(|(_, _, s)| s)
    }
    /// How many sockets there are.
    pub fn len(&self) -> usize {
        self.slab.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.slab.is_empty()
    }
    /// Bytes of memory that all queues hold.
    pub fn mem(&self) -> usize {
        self.mem
    }

    #[inline]
    fn hash4(&self, local: IpAddr, remote: IpAddr, ports: (u16, u16)) -> u32 {
        hash_tuple(&self.key, local, remote, ports)
    }
    #[inline]
    fn hash2(&self, local: IpAddr, port: u16) -> u32 {
        hash_tuple(&self.key, local, unspecified(local), (port, 0))
    }

    /// The socket that wants a datagram most: a connected one before one bound to the address,
    /// before one bound to all addresses, before one that takes every port (`compute_score`).
    /// Within a group `skb` decides, by the group's program or by its flow.
    #[inline(always)]
    pub(crate) fn lookup(
        &mut self,
        local: &IpAddr,
        port: u16,
        remote: &IpAddr,
        rport: u16,
        skb: Option<&Skb>,
    ) -> Option<SocketId> {
        let mut word = self.ports[port as usize].any;
        if self.table.len() != 0 || word == 0 {
            word = self.lookup_hashed(*local, port, *remote, rport)?;
        }
        if word & GROUP != 0 {
            word = self.reuseport_select(word & !GROUP, *local, *remote, (port, rport), skb)?;
        }
        self.name(word.wrapping_sub(1))
    }

    /// What `lookup` finds, if looking ahead found it already: then neither the table nor what is
    /// bound to the port is looked at again.
    #[inline(always)]
    pub(crate) fn lookup_ahead(&self, skb: &Skb) -> Option<SocketId> {
        let sock = self.slab.at(skb.hint.wrapping_sub(1))?;
        // A group chooses anew; one that is not connected gives way to those that are.
        let fits = sock.port == skb.dport
            && sock.local == Some(skb.dst)
            && match sock.connected {
                true => sock.remote == Some((skb.src, skb.sport)),
                false => self.conn | self.conn_any == 0 && !sock.reuseport,
            };
        if fits { self.name(skb.hint.wrapping_sub(1)) } else { None }
    }

    /// The name of the socket at an index, if there is one.
    #[inline]
    fn name(&self, index: u32) -> Option<SocketId> {
        self.slab.at(index)?;
        Some(SocketId { kind: SockKind::Udp, index, generation: self.slab.generation(index) })
    }

    #[inline(never)]
    fn lookup_hashed(&self, local: IpAddr, port: u16, remote: IpAddr, rport: u16) -> Option<u32> {
        let sock = |word: u32| self.slab.at(word.wrapping_sub(1));
        let peer = Some((remote, rport));
        if self.conn != 0 {
            let hash = self.hash4(local, remote, (port, rport));
            let same = |s: &UdpSock| s.port == port && s.remote == peer && s.local == Some(local);
            let found = self.table.find(hash, |w| w & GROUP == 0 && sock(w).is_some_and(same));
            if found.is_some() {
                return found;
            }
        }
        if self.conn_any != 0 {
            let hash = self.hash4(unspecified(remote), remote, (port, rport));
            let same = |s: &UdpSock| s.port == port && s.remote == peer && s.local.is_none();
            let found = self.table.find(hash, |w| w & GROUP == 0 && sock(w).is_some_and(same));
            if found.is_some() {
                return found;
            }
        }
        let on = self.ports[port as usize];
        if on.addr != 0 {
            let found = self.find_bound(local, port);
            if found.is_some() {
                return found;
            }
        }
        if on.any != 0 {
            return Some(on.any);
        }
        let wants = self.every.iter().filter_map(|at| Some((*at, self.slab.at(*at)?)));
        let scored = wants.filter_map(|(at, s)| Some((score(s, local, peer)?, at)));
        // The latest of the best, as where they are bound to a port.
        scored.max_by_key(|(score, _)| *score).map(|(_, at)| at + 1)
    }

    /// The socket or the group that is bound to this address and port and not connected.
    fn find_bound(&self, local: IpAddr, port: u16) -> Option<u32> {
        self.table.find(self.hash2(local, port), |word| {
            let at = if word & GROUP != 0 {
                self.groups.at(word & !GROUP).and_then(|g| g.members.first().copied())
            } else {
                Some(word - 1)
            };
            at.and_then(|at| self.slab.at(at))
                .is_some_and(|s| s.port == port && s.local == Some(local) && !s.connected)
        })
    }

    /// Which member of the group (`reuseport_select_sock`): the one that the program says, or, if it
    /// says none that exists or there is none, by a hash of both ends.
    fn reuseport_select(
        &mut self,
        group: u32,
        local: IpAddr,
        remote: IpAddr,
        ports: (u16, u16),
        skb: Option<&Skb>,
    ) -> Option<u32> {
        let group = self.groups.at_mut(group)?;
        let said = skb.and_then(|skb| group.prog.as_mut().map(|prog| prog(skb)));
        if let Some(at) = said.and_then(|i| group.members.get(i)) {
            return Some(at + 1);
        }
        let hash = hash_tuple(&self.select, local, remote, ports);
        let i = reciprocal_scale(hash, group.members.len());
        group.members.get(i).map(|at| at + 1)
    }

    /// Lets look-ups find the socket.
    pub(super) fn hash(&mut self, index: u32) {
        let Some(sock) = self.slab.at(index) else { return };
        let (local, port, remote, share) = (sock.local, sock.port, sock.remote, sock.reuseport);
        match (port, remote, local) {
            (0, ..) => self.every.push(index),
            (_, Some((peer, rport)), _) => {
                let hash = self.hash4(local.unwrap_or(unspecified(peer)), peer, (port, rport));
                *if local.is_some() { &mut self.conn } else { &mut self.conn_any } += 1;
                self.table.insert(hash, index + 1);
            }
            (_, None, Some(addr)) => {
                let hash = self.hash2(addr, port);
                match self.find_bound(addr, port).filter(|_| share) {
                    Some(word) => self.join(word, index),
                    None => {
                        let word = if share { self.form(index) } else { index + 1 };
                        self.table.insert(hash, word);
                        self.bound += 1;
                        let on = &mut self.ports[port as usize];
                        on.addr += 1;
                        on.plain += u32::from(!share);
                    }
                }
            }
            (_, None, None) => match self.ports[port as usize].any {
                0 => {
                    let word = if share { self.form(index) } else { index + 1 };
                    self.ports[port as usize].any = word;
                }
                word => self.join(word, index),
            },
        }
    }

    /// A group of one.
    fn form(&mut self, index: u32) -> u32 {
        self.groups.insert(Group { members: vec![index], prog: None }).0 | GROUP
    }
    fn join(&mut self, word: u32, index: u32) {
        let group = (word & GROUP != 0).then(|| self.groups.at_mut(word & !GROUP)).flatten();
        let group = group.expect("only a socket that shares its port is joined by another");
        group.members.push(index);
    }
    /// Takes a socket out of what stands in a table; true if nothing is left of that.
    fn part(&mut self, word: u32, index: u32) -> bool {
        if word & GROUP == 0 {
            return true;
        }
        let Some(group) = self.groups.at_mut(word & !GROUP) else { return true };
        if let Some(at) = group.members.iter().position(|m| *m == index) {
            group.members.remove(at);
        }
        let empty = group.members.is_empty();
        if empty {
            self.groups.remove(word & !GROUP);
        }
        empty
    }

    /// What stands for a socket that is not connected in the tables.
    fn word_of(&self, sock: &UdpSock) -> Option<u32> {
        match (sock.port, sock.remote, sock.local) {
            (0, ..) | (_, Some(_), _) => None,
            (port, None, Some(addr)) => self.find_bound(addr, port),
            (port, None, None) => Some(self.ports[port as usize].any).filter(|word| *word != 0),
        }
    }

    /// Look-ups do not find the socket any more.
    pub(super) fn unhash(&mut self, index: u32) {
        let Some(sock) = self.slab.at(index) else { return };
        let (local, port, remote, share) = (sock.local, sock.port, sock.remote, sock.reuseport);
        let word = self.word_of(sock);
        match (port, remote, local) {
            (0, ..) => self.every.retain(|at| *at != index),
            (_, Some((peer, rport)), _) => {
                let hash = self.hash4(local.unwrap_or(unspecified(peer)), peer, (port, rport));
                *if local.is_some() { &mut self.conn } else { &mut self.conn_any } -= 1;
                self.table.remove(hash, index + 1);
            }
            (_, None, Some(addr)) => {
                let Some(word) = word else { return };
                // The hash while the group still has a member to compare with.
                let hash = self.hash2(addr, port);
                if self.part(word, index) {
                    self.table.remove(hash, word);
                    self.bound -= 1;
                    let on = &mut self.ports[port as usize];
                    on.addr -= 1;
                    on.plain -= u32::from(!share);
                }
            }
            (_, None, None) => {
                let Some(word) = word else { return };
                if self.part(word, index) {
                    self.ports[port as usize].any = 0;
                }
            }
        }
    }

    /// Whether a socket that is not connected has this port on an address that includes `local`, or
    /// lies in it, and does not share it (`inet_rcv_saddr_equal`, `sk->sk_reuseport`).
    pub(super) fn taken(&self, local: Option<IpAddr>, port: u16, share: bool) -> bool {
        let overlap = |s: &UdpSock| s.local.is_none() || local.is_none() || s.local == local;
        if port == 0 {
            let mut others = self.every.iter().filter_map(|at| self.slab.at(*at));
            return others.any(|s| s.remote.is_none() && overlap(s));
        }
        let on = self.ports[port as usize];
        let alone = |word: u32| word != 0 && !(share && word & GROUP != 0);
        let there = match local {
            None if share => on.plain != 0,
            None => on.addr != 0,
            Some(addr) => on.addr != 0 && self.find_bound(addr, port).is_some_and(alone),
        };
        there || alone(on.any)
    }

    /// Gives the socket's group a program; false if it shares its port with nobody.
    pub(crate) fn attach(&mut self, index: u32, prog: Option<ReuseProg>) -> bool {
        let word = self.slab.at(index).and_then(|sock| self.word_of(sock));
        let group = word.filter(|w| w & GROUP != 0).and_then(|w| self.groups.at_mut(w & !GROUP));
        group.map(|group| group.prog = prog).is_some()
    }

    /// The word that a datagram's look-up will begin with, and the table's line for it on the way
    /// into the cache. 0 = nothing to look ahead for.
    #[inline]
    pub(crate) fn prefetch_table(
        &self,
        local: IpAddr,
        port: u16,
        remote: IpAddr,
        rport: u16,
    ) -> u32 {
        let hash = if self.conn != 0 {
            self.hash4(local, remote, (port, rport))
        } else if self.conn_any != 0 {
            self.hash4(unspecified(remote), remote, (port, rport))
        } else if self.bound != 0 {
            self.hash2(local, port)
        } else {
            linerate_arch::prefetch_read(&self.ports[port as usize]);
            return 1;
        };
        self.table.prefetch(hash);
        hash
    }
    /// The socket that stands there, on the way into the cache; what [`Skb::hint`] is to be.
    #[inline]
    pub(crate) fn prefetch_sock(&self, hash: u32, port: u16) -> u32 {
        let hint = if self.table.len() == 0 {
            self.ports[port as usize].any
        } else {
            self.table.find(hash, |_| true).unwrap_or(0)
        };
        if hint == 0 || hint & GROUP != 0 {
            return 0;
        }
        self.slab.prefetch(hint - 1, self.conn | self.conn_any != 0);
        hint
    }
}

/// How well a socket that takes every port fits.
fn score(sock: &UdpSock, local: IpAddr, peer: Option<(IpAddr, u16)>) -> Option<u8> {
    let addr = match sock.local {
        Some(a) if a == local => 1,
        Some(_) => return None,
        None => 0,
    };
    match sock.remote {
        None => Some(addr),
        remote if remote == peer => Some(addr + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
