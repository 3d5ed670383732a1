//! ICMP for IPv4 and IPv6: what is answered, what is told, what is learnt.
//!
//! * [`input`]: echo, errors for transports, path MTU;
//! * [`output`]: errors of ours, with their limits;
//! * [`ping`]: the socket of whoever answers echo requests to foreign addresses.

pub mod input;
pub mod limit;
pub mod output;
pub mod ping;

pub use input::icmp_rcv;
pub use output::{IcmpErr, icmp_error_quote, port_unreachable, proto_unreachable};
pub(crate) use output::{icmp_send, icmp_send_from_tx};
pub use output::{send_unreachable_quote, unreachable_err};
pub use ping::{PingReply, PingRequest, PingSock, ping_queue_rcv_skb};

use std::net::IpAddr;

use super::output::Idents;
use crate::rand::Keyed;
use crate::shard::Net;
use crate::time::{Instant, SEC};

/// How long a path MTU that was learnt counts (RFC 1191 §6.3; Linux: `mtu_expires`).
const MTU_EXPIRES: u64 = 600 * SEC;
/// The least path MTU that an error can make us believe over IPv4 (Linux: `min_pmtu`).
const MIN_PMTU: u32 = 552;
/// The least that every IPv6 link takes (RFC 8200 §5).
pub(crate) const IPV6_MIN_MTU: u32 = 1280;
/// Places for learnt path MTUs: a power of two.
const PMTUS: usize = 1024;

#[derive(Clone, Copy)]
struct Pmtu {
    dst: IpAddr,
    mtu: u32,
    expires: Instant,
}

/// What IP remembers of destinations: path MTUs, rate limits, identification counters. All of
/// fixed size: a newcomer takes the place of whoever hashes alike.
pub struct State {
    key: Keyed,
    pmtus: Vec<Option<Pmtu>>,
    /// How many path MTUs were learnt and may still count.
    learnt: usize,
    pub(crate) limits: limit::Limits,
    pub(crate) idents: Idents,
}

impl State {
    /// Nothing learnt yet.
    pub fn new(key: Keyed) -> State {
        State {
            key,
            pmtus: vec![None; PMTUS],
            learnt: 0,
            limits: limit::Limits::new(key),
            idents: Idents::new(key),
        }
    }
    /// Whether a path MTU was ever learnt.
    #[inline]
    pub(crate) fn knows_pmtu(&self) -> bool {
        self.learnt != 0
    }
    /// The path MTU that was learnt for `dst`, in bytes, if it was and still counts.
    #[inline]
    pub fn pmtu(&self, dst: IpAddr, now: Instant) -> Option<u32> {
        if self.learnt == 0 {
            return None;
        }
        let known = self.pmtus[place(&self.key, dst, PMTUS)]?;
        (known.dst == dst && now < known.expires).then_some(known.mtu)
    }
    fn learn(&mut self, dst: IpAddr, mtu: u32, now: Instant) {
        let slot = &mut self.pmtus[place(&self.key, dst, PMTUS)];
        self.learnt += slot.is_none() as usize;
        *slot = Some(Pmtu { dst, mtu, expires: now.plus(MTU_EXPIRES) });
    }
    /// Every path MTU that counts: destination, bytes, when it is forgotten.
    pub fn pmtus(&self, now: Instant) -> impl Iterator<Item = (IpAddr, u32, Instant)> {
        let known = self.pmtus.iter().flatten().filter(move |p| now < p.expires);
        known.map(|p| (p.dst, p.mtu, p.expires))
    }
}

/// The place of an address in a table of `size` places.
fn place(key: &Keyed, addr: IpAddr, size: usize) -> usize {
    let hash = match addr {
        IpAddr::V4(a) => key.hash2(a.to_bits() as u64, 4),
        IpAddr::V6(a) => key.hash2(a.to_bits() as u64, (a.to_bits() >> 64) as u64),
    };
    hash as usize % size
}

impl Net {
    /// The path to `dst` takes packets of `mtu` bytes, says an error that the caller has checked
    /// against what it sent (RFC 5927 §7; Linux: `ip_rt_update_pmtu`, `rt6_do_update_pmtu`). Paths
    /// only shrink by this; what was learnt is forgotten after ten minutes. Returns the path MTU
    /// that counts now.
    pub fn update_pmtu(&mut self, dst: IpAddr, mtu: u32) -> u32 {
        let least = if dst.is_ipv4() { MIN_PMTU } else { IPV6_MIN_MTU };
        let old = self.route_out(dst).map_or(u32::MAX, |r| r.mtu);
        let mtu = mtu.max(least.min(old));
        if mtu < old {
            self.icmp.learn(dst, mtu, self.now);
        }
        mtu.min(old)
    }
}

#[cfg(test)]
mod tests;
