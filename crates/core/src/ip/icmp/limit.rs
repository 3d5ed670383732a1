//! How many ICMP errors may be sent: to all together, and to one destination.
//!
//! Linux: net/ipv4/icmp.c `icmp_global_allow`, `icmpv4_xrlim_allow`; net/ipv4/inetpeer.c
//! `inet_peer_xrlim_allow`. RFCs: 1812 §4.3.2.8, 4443 §2.4(f).

use std::net::IpAddr;

use super::place;
use crate::rand::Keyed;
use crate::shard::Net;
use crate::table::count::id;
use crate::time::{Instant, MS, SEC};

/// Errors that a destination may get at once after a long silence (Linux: `XRLIM_BURST_FACTOR`).
const BURST: u64 = 6;
/// Places for destinations: a power of two.
const PEERS: usize = 1024;

#[derive(Clone, Copy)]
struct Peer {
    addr: IpAddr,
    /// Nanoseconds of silence saved up.
    tokens: u64,
    last: Instant,
}

/// The state of both limits.
pub(crate) struct Limits {
    key: Keyed,
    /// Messages that may be sent now.
    credit: u64,
    /// When the credit was last filled up.
    stamp: Instant,
    peers: Vec<Option<Peer>>,
}

impl Limits {
    pub(super) fn new(key: Keyed) -> Limits {
        Limits { key, credit: u64::MAX, stamp: Instant::ZERO, peers: vec![None; PEERS] }
    }

    /// `inet_peer_xrlim_allow`: one message each `every` nanoseconds, six at once.
    fn peer_allow(&mut self, addr: IpAddr, every: u64, now: Instant) -> bool {
        let slot = &mut self.peers[place(&self.key, addr, PEERS)];
        let full = every.saturating_mul(BURST);
        let peer = match slot {
            Some(peer) if peer.addr == addr => peer,
            _ => slot.insert(Peer { addr, tokens: full, last: now }),
        };
        peer.tokens = peer.tokens.saturating_add(now.since(peer.last)).min(full);
        peer.last = now;
        let allowed = peer.tokens >= every;
        if allowed {
            peer.tokens -= every;
        }
        allowed
    }
}

/// Whether another message may be sent at all.
pub(super) fn icmp_global_allow(net: &mut Net) -> bool {
    let (rate, burst) = (net.knobs.icmp_msgs_per_sec, net.knobs.icmp_msgs_burst);
    let limits = &mut net.icmp.limits;
    let elapsed = net.now.since(limits.stamp);
    let more = (elapsed as u128 * rate as u128 / SEC as u128) as u64;
    if more > 0 {
        // The time that was worth no whole message yet is kept for the next.
        limits.stamp = limits.stamp.plus((more as u128 * SEC as u128 / rate as u128) as u64);
        limits.credit = limits.credit.saturating_add(more);
    }
    limits.credit = limits.credit.min(burst);
    if limits.credit == 0 {
        net.counts.inc(id::IcmpOutRateLimitGlobal);
        return false;
    }
    // One on average, at random: a peer must not be able to count what others caused.
    let cost = net.rng.below(3);
    limits.credit = limits.credit.saturating_sub(cost);
    true
}

/// Whether `addr` may be told anything now.
pub(super) fn icmp_peer_allow(net: &mut Net, addr: IpAddr) -> bool {
    let v4 = addr.is_ipv4();
    let every = if v4 { net.knobs.icmp_ratelimit } else { net.knobs.icmp6_ratelimit };
    if every == 0 || addr.is_loopback() || net.fib.is_local(addr) {
        return true;
    }
    let allowed = net.icmp.limits.peer_allow(addr, every * MS, net.now);
    if !allowed {
        net.counts.inc(if v4 { id::IcmpOutRateLimitHost } else { id::Icmp6OutRateLimitHost });
    }
    allowed
}
