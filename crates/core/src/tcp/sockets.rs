//! All TCP sockets of a shard: the tables, the connections to be served, and what follows from a
//! change of one of them.
//!
//! Linux: net/ipv4/inet_hashtables.c, tcp_ipv4.c `tcp_prot`. RFCs: 6528, 6056 §3.3.3, 5961 §7.

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hasher};
use std::net::IpAddr;

use super::demux::{Demux, Ref};
use super::fastopen_active::tcp_fastopen_active_disable_ofo_check;
use super::listen::Listener;
use super::listeners;
use super::md5::Md5Sig;
use super::memory::enter_memory_pressure;
use super::request::Req;
use super::timewait::TimeWait;
use super::{Earlier, State, Tcb, Tuple, output, rfs, timer};
use crate::pkt::Pool;
use crate::rand::Rng;
use crate::rx::steer::Mesh;
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::sock::{Arena, Slab, SockKind, SocketId};
use crate::table::count::id;
use crate::time::{Instant, Wheel};

/// All TCP sockets of a shard.
pub struct Sockets {
    /// Connections, half-open ones and TIME_WAIT by their two ends.
    pub(crate) demux: Demux,
    pub(crate) conns: Arena<Tcb>,
    pub(crate) listeners: Slab<Listener>,
    pub(crate) reqs: Slab<Req>,
    pub(crate) tws: Slab<TimeWait>,
    /// The keys by which entries in TIME_WAIT sign, by their place.
    pub(super) tw_keys: BTreeMap<u32, Box<Md5Sig>>,
    pub(crate) listen: listeners::Ports,
    pub(super) fastopens: super::fastopen::FastOpens,
    pub(crate) conn_timers: Wheel,
    pub(crate) req_timers: Wheel,
    pub(crate) tw_timers: Wheel,
    /// Connections that `transmit` is to serve, in turn.
    pub(crate) dirty: VecDeque<u32>,
    /// Connections that are to change shards, as their readers did.
    pub(super) leaving: VecDeque<rfs::Leaving>,
    /// When connections that found the device's queue full are to be served at the latest.
    pub(crate) throttled_until: Instant,
    pub(super) fired: Vec<u32>,
    pub(super) secret: [u64; 4],
    /// A hash that `secret` has gone into already.
    keyed: DefaultHasher,
    /// RFC 6056 algorithm 3: moves on with each port that is chosen.
    pub(super) port_counter: u32,
    /// Challenge acknowledgements in the current second: which second, and how many are left.
    challenge: (u64, u64),
    /// Memory of all queues, in bytes.
    pub(crate) mem: usize,
    /// Since when that is too much (`tcp_mem`).
    pub(super) pressure_since: Option<Instant>,
    /// Connections that the application has closed.
    pub(crate) orphans: usize,
    /// Connections that hold memory charged: for `/proc/net/sockstat`.
    pub(crate) hashed: usize,
}

impl Sockets {
    /// No sockets; the keys of all tables and sequence numbers come from `rng`.
    pub fn new(rng: &mut Rng) -> Sockets {
        // The key of the look-up table, too: that uses the lower bits of its hashes, the choice among
        // listeners the upper ones.
        let select = rng.clone().keyed();
        let mut it = Sockets {
            demux: Demux::new(rng.keyed()),
            conns: Arena::default(),
            listeners: Slab::default(),
            reqs: Slab::default(),
            tws: Slab::default(),
            tw_keys: BTreeMap::new(),
            listen: listeners::Ports::new(rng.keyed(), rng.keyed(), select),
            fastopens: Default::default(),
            conn_timers: Wheel::default(),
            req_timers: Wheel::default(),
            tw_timers: Wheel::default(),
            dirty: VecDeque::new(),
            leaving: VecDeque::new(),
            throttled_until: Instant::NEVER,
            fired: Vec::new(),
            secret: std::array::from_fn(|_| rng.next_u64()),
            keyed: DefaultHasher::new(),
            port_counter: rng.next_u32(),
            challenge: (u64::MAX, 0),
            mem: 0,
            pressure_since: None,
            orphans: 0,
            hashed: 0,
        };
        it.set_secret(it.secret);
        it
    }
    /// The key of sequence numbers, ports, timestamps and cookies.
    fn set_secret(&mut self, secret: [u64; 4]) {
        // `DefaultHasher` is SipHash-1-3, which was made for this; its key is public, ours goes first.
        let mut keyed = DefaultHasher::new();
        secret.iter().for_each(|word| keyed.write_u64(*word));
        (self.secret, self.keyed) = (secret, keyed);
    }
    /// When [`crate::path::timers`] or `transmit` has something to do for TCP.
    pub fn next_timer(&self) -> Option<Instant> {
        let wheels = [self.conn_timers.next(), self.req_timers.next(), self.tw_timers.next()];
        let throttled = (!self.dirty.is_empty()).then_some(self.throttled_until);
        wheels.into_iter().chain([throttled]).flatten().min()
    }
    /// Whether a connection waits to be served by `transmit`.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Who has these two ends.
    pub(crate) fn find(&self, hash: u32, tuple: &Tuple) -> Option<Ref> {
        self.demux.find(hash, |what| match what {
            Ref::Conn(i) => self.conns.at(i).is_some_and(|c| c.tuple == *tuple),
            Ref::Req(i) => self.reqs.at(i).is_some_and(|r| r.tuple == *tuple),
            Ref::Tw(i) => self.tws.at(i).is_some_and(|t| t.tuple == *tuple),
        })
    }

    /// The hash of two ends, and the table's line for it on the way into the cache.
    #[inline]
    pub(crate) fn prefetch_table(
        &self,
        local: IpAddr,
        lport: u16,
        remote: IpAddr,
        rport: u16,
    ) -> u32 {
        let hash = self.demux.hash(&Tuple { local, remote, lport, rport });
        self.demux.prefetch(hash);
        hash
    }
    /// What stands there, its timer, and what it is charged with, on the way into the cache.
    #[inline]
    pub(crate) fn prefetch_conn(&self, hash: u32, pool: &Pool) {
        if let Some(Ref::Conn(at)) = self.demux.find(hash, |_| true) {
            self.conns.prefetch(at, Tcb::HOT);
            self.conn_timers.prefetch(at);
            pool.prefetch_owner(at);
        }
    }
    /// From now on numbers and clocks are those of all shards of `mesh` (Linux: `net_secret` and
    /// `ts_secret` are of the machine, not of a CPU). Between the same ends each shard continues what
    /// another began: sequence numbers go on growing (RFC 6528), and the peer's PAWS and its entry in
    /// TIME_WAIT see one clock (RFC 7323 §5, 6191), whichever shard a connection is made on.
    pub(crate) fn share_secret(&mut self, mesh: &Mesh) {
        self.set_secret(mesh.tcp_secret(self.secret));
    }
    /// A keyed hash of 64 bits that an outsider can not predict (SipHash with a secret prefix).
    fn secure_hash(&self, tuple: &Tuple, ports: bool, salt: u64) -> u64 {
        // Written at once: each write costs more than the bytes that it brings.
        let mut h = self.keyed.clone();
        let salt = salt.to_ne_bytes();
        let ends = ((tuple.lport as u32) << 16 | tuple.rport as u32).to_ne_bytes();
        let ports = if ports { ends.len() } else { 0 };
        match (tuple.local, tuple.remote) {
            (IpAddr::V4(local), IpAddr::V4(remote)) => {
                let mut all = [0; 20];
                all[..8].copy_from_slice(&salt);
                all[8..12].copy_from_slice(&local.to_bits().to_ne_bytes());
                all[12..16].copy_from_slice(&remote.to_bits().to_ne_bytes());
                all[16..].copy_from_slice(&ends);
                h.write(&all[..16 + ports]);
            }
            (local, remote) => {
                let (local, remote) = (bits6(local), bits6(remote));
                let mut all = [0; 44];
                all[..8].copy_from_slice(&salt);
                all[8..24].copy_from_slice(&local.to_ne_bytes());
                all[24..40].copy_from_slice(&remote.to_ne_bytes());
                all[40..].copy_from_slice(&ends);
                h.write(&all[..40 + ports]);
            }
        }
        h.finish()
    }
    /// The initial sequence number (RFC 6528; `secure_tcp_seq`): a clock of 64 ns ticks and a keyed hash.
    pub(crate) fn secure_seq(&self, tuple: &Tuple, now: Instant) -> Seq {
        Seq((self.secure_hash(tuple, true, 1) as u32).wrapping_add((now.ns() >> 6) as u32))
    }
    /// The two hashes of a SYN cookie: of both ends, and of both ends at a minute with the peer's number
    /// (`cookie_hash`).
    pub(super) fn cookie_hash(&self, tuple: &Tuple, at: Option<(u32, Seq)>) -> u32 {
        // Of the minutes the last 24 bits are enough: 31 years.
        let salt = |(minute, irs): (u32, Seq)| u64::from(minute) << 8 | u64::from(irs.0) << 32;
        self.secure_hash(tuple, true, at.map_or(4, |at| 5 | salt(at))) as u32
    }
    /// Where the search for a local port begins (RFC 6056 §3.3.3).
    pub(crate) fn secure_port_offset(&self, tuple: &Tuple) -> u32 {
        self.secure_hash(&Tuple { lport: 0, ..*tuple }, true, 3) as u32
    }
    /// The offset of a connection's timestamps (`secure_tcp_ts_off`): the same for all ports of a
    /// pair of addresses, so that PAWS works from one connection to the next.
    pub(crate) fn secure_ts_off(&self, tuple: &Tuple) -> u32 {
        self.secure_hash(tuple, false, 2) as u32
    }

    /// Adds a connection that begins, and lets look-ups find it.
    pub(crate) fn insert(&mut self, tcb: Tcb) -> u32 {
        debug_assert!(!tcb.orphan, "a connection begins with an owner");
        self.add(tcb, true)
    }
    /// Adds a connection; look-ups find it if `hashed`.
    pub(super) fn add(&mut self, tcb: Tcb, hashed: bool) -> u32 {
        let hash = tcb.hash;
        let (index, generation) = self.conns.insert(tcb);
        if let Some(tcb) = self.conns.at_mut(index) {
            tcb.hashed = hashed;
            tcb.id = SocketId { kind: SockKind::Tcp, index, generation };
        }
        if hashed {
            self.hashed += 1;
            self.demux.insert(hash, Ref::Conn(index));
        }
        index
    }
}

impl Shard {
    /// Serves connections that have something to send, in turn, until the way down is full.
    pub(crate) fn tcp_push_pending(&mut self) {
        self.tcp.throttled_until = Instant::NEVER;
        self.tcp_tsq_handler();
        while let Some(index) = self.tcp.dirty.pop_front() {
            let Some(tcb) = self.tcp.conns.at_mut(index) else { continue };
            if !std::mem::replace(&mut tcb.dirty, false) {
                continue;
            }
            tcb.push = false;
            let said = output::tcp_push(&mut self.net, tcb);
            if said == output::Pushed::Throttled {
                // The queue below is full: it is served again when the driver comes back, or soon.
                tcb.dirty = true;
                self.tcp.dirty.push_front(index);
                self.tcp.throttled_until = self.net.now.plus(crate::time::MS);
                self.tcp_settle(index);
                return;
            }
            self.tcp_settle(index);
        }
    }

    /// Connections whose packets have left the queues below may send more (`tcp_tsq_handler`).
    fn tcp_tsq_handler(&mut self) {
        while let Some(index) = self.net.pool.tsq.pop() {
            if let Some(tcb) = self.tcp.conns.at_mut(index) {
                tcb.push = true;
                self.tcp_settle(index);
            }
        }
    }

    /// Brings everything outside a connection up to date after something happened to it: memory,
    /// timers, the list of those to be served, its place in the tables, its end.
    pub(crate) fn tcp_settle(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(tcb) = tcp.conns.at_mut(index) else { return };
        let held = tcb.rcvq.rmem() + tcb.sndq.wmem();
        if held != tcb.charged {
            tcp.mem = (tcp.mem + held).saturating_sub(tcb.charged);
            tcb.charged = held;
            enter_memory_pressure(tcp.mem, &mut tcp.pressure_since, net);
        }
        match tcb.state {
            State::FinWait2 if tcb.orphan && tcb.keep_at <= net.now => {
                return self.tcp_time_wait(index);
            }
            State::TimeWait => return self.tcp_time_wait(index),
            State::Close => return self.tcp_closed(index),
            _ => {}
        }
        if std::mem::take(&mut tcb.challenge)
            && !super::validate::oow_rate_limited(net, tcb, id::TcpExtTCPACKSkippedChallenge)
            && allow_challenge(&mut tcp.challenge, net)
        {
            net.counts.inc(id::TcpExtTCPChallengeACK);
            output::tcp_send_ack(net, tcb);
        }
        if (tcb.push || tcb.ack_now) && !tcb.dirty {
            tcb.dirty = true;
            tcp.dirty.push_back(index);
        }
        timer::note_idle(net, tcb);
        tcb.chrono.set(tcb.held_by(), net.now);
        let mut next = tcb.rtx_at.min2(tcb.delack_at).min2(tcb.keep_at).min2(tcb.idle_at);
        if let Some(pace) = &tcb.pace {
            next = next.min2(pace.at);
        }
        if tcb.zerocopy_lingers() {
            next = next.min2(net.now.plus(crate::time::MS));
        }
        // Lazily: a timer that fires too early is armed anew, which is cheaper than moving it on
        // every segment.
        if next != Instant::NEVER && tcp.conn_timers.armed_at(index).is_none_or(|at| next < at) {
            tcp.conn_timers.arm(index, next);
        }
    }

    /// The connection is over: nobody finds it any more, and if nobody owns it, it goes.
    fn tcp_closed(&mut self, index: u32) {
        self.tcp_unhash(index);
        self.tcp.conn_timers.cancel(index);
        let Some(tcb) = self.tcp.conns.at(index) else { return };
        if tcb.orphan {
            self.tcp_destroy(index);
        } else if tcb.zerocopy_lingers() {
            self.tcp.conn_timers.arm(index, self.net.now.plus(crate::time::MS));
        }
    }

    /// Takes a connection out of the look-up table.
    pub(crate) fn tcp_unhash(&mut self, index: u32) {
        let tcp = &mut self.tcp;
        let Some(tcb) = tcp.conns.at_mut(index) else { return };
        if std::mem::take(&mut tcb.hashed) {
            tcp.hashed -= 1;
            let hash = tcb.hash;
            tcp.demux.remove(hash, Ref::Conn(index));
            self.net.flow_ends(&tcb.tuple.flow_key());
        }
    }

    /// Gives everything back that a closed connection holds (`inet_csk_destroy_sock`).
    pub(crate) fn tcp_destroy(&mut self, index: u32) {
        self.tcp_unhash(index);
        let Shard { net, tcp, .. } = self;
        tcp.conn_timers.cancel(index);
        let Some(tcb) = tcp.conns.at_mut(index) else { return };
        tcp_fastopen_active_disable_ofo_check(net, tcb);
        tcb.rcvq.purge(net);
        let end = tcb.snd_nxt;
        tcb.sndq.clear(net, end);
        if tcb.orphan {
            tcp.orphans -= 1;
        }
        tcp.mem = tcp.mem.saturating_sub(tcb.charged);
        tcp.memory_changed(net);
        tcp.conns.discard(index);
    }
}

/// The bits of an address of a pair of IPv6.
fn bits6(addr: IpAddr) -> u128 {
    match addr {
        IpAddr::V6(addr) => addr.to_bits(),
        // The ends of a connection are of one family.
        IpAddr::V4(addr) => addr.to_ipv6_mapped().to_bits(),
    }
}

/// The limit of challenge acknowledgements of all connections together (RFC 5961 §7): a budget a
/// second, with a random part so that nobody can count it from outside.
fn allow_challenge(state: &mut (u64, u64), net: &mut Net) -> bool {
    let limit = net.knobs.tcp_challenge_ack_limit;
    if limit >= i32::MAX as u64 {
        return true;
    }
    let second = net.now.ns() / crate::time::SEC;
    if state.0 != second {
        let half = limit.div_ceil(2);
        *state = (second, half + net.rng.below(limit.max(1)));
    }
    let left = state.1 > 0;
    state.1 = state.1.saturating_sub(1);
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every shard, and whoever continues what was begun before, takes the same numbers.
    #[test]
    fn a_secure_hash_is_that_of_its_words_one_by_one() {
        let tcp = Sockets::new(&mut Rng::new(5));
        let pairs = [["10.0.0.1", "10.2.3.4"], ["fd00::1", "2001:db8::7:9"]];
        for ([local, remote], ports) in pairs.into_iter().flat_map(|p| [(p, false), (p, true)]) {
            let addr = |text: &str| text.parse::<IpAddr>().expect("an address");
            let (local, remote) = (addr(local), addr(remote));
            let tuple = Tuple { local, remote, lport: 513, rport: 40_000 };
            let mut h = DefaultHasher::new();
            tcp.secret.iter().for_each(|word| h.write_u64(*word));
            h.write_u64(u64::MAX - 6);
            for addr in [local, remote] {
                match addr {
                    IpAddr::V4(a) => h.write_u32(a.to_bits()),
                    IpAddr::V6(a) => h.write_u128(a.to_bits()),
                }
            }
            if ports {
                h.write_u32(513 << 16 | 40_000);
            }
            assert_eq!(tcp.secure_hash(&tuple, ports, u64::MAX - 6), h.finish());
        }
    }
}
