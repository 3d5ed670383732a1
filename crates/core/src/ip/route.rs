//! Stage `Route`, RX: deliver here, forward, or refuse. And the way out, for whoever sends.
//!
//! before: [`crate::ip::input`]   after: [`crate::sock::lookup`], [`crate::ip::reasm`], [`crate::ip::forward`]
//! Linux:  net/ipv4/route.c `ip_route_input_slow`, `ip_route_output_key`; net/ipv6/route.c; net/ipv4/fib_frontend.c `fib_validate_source`, `fib_add_ifaddr`
//! RFCs:   1122 §3.2.1.3, 1812 §5.3.7–5.3.8, 3704, 4291, 6724 (reduced)
//! drops:  IpMartian, IpRpFilter, IpNotForUs, Ip6NotForUs, IpInNoRoute, Ip6InNoRoute, RouteProhibit

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub use super::fib::{Fib, Route, RouteError, RouteKind, in_prefix};
use super::icmp::{self, IcmpErr};
use crate::link::{Iface, L2, neigh};
use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage, count::id};

/// The device number of packets that loop back when the stack has no loopback device.
pub const LOOPBACK_DEV: u8 = u8::MAX;
/// The MTU of the way to ourselves (Linux: `lo`).
pub const LOOPBACK_MTU: u32 = 65536;

/// Decides where a packet goes whose header was checked.
#[inline(always)]
pub fn ip_route_input(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    match (pkt.src, pkt.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            // What the long way decides by, beside both addresses: a change of routes or devices
            // makes the table forget, all else is in here.
            let way = 1 | (pkt.dev as u64) << 8 | net.knobs.rp_filter << 16;
            if net.fib.known_local(src, dst, way) {
                return local(net, pkt);
            }
            ip_route_input_slow(net, pkt, src, dst, way)
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => ip_route_input_v6(net, pkt, src, dst),
        _ => unreachable!("the IP stage read both addresses from one header"),
    }
}

#[inline(never)]
fn ip_route_input_slow(net: &mut Net, pkt: Pkt, src: Ipv4Addr, dst: Ipv4Addr, way: u64) -> Verdict {
    let iface = net.ifaces.get(pkt.dev as usize);
    let looped = iface.is_none_or(|i| i.l2 == L2::Loopback);
    let any_ip = iface.is_some_and(|i| i.any_ip);
    if martian_source4(src, dst, looped) {
        return Verdict::Drop(pkt, Reason::IpMartian);
    }
    if dst.is_multicast() {
        let wanted = iface.is_none_or(|i| i.joined(pkt.dst));
        return multicast_rcv(net, pkt, wanted, Reason::IpNotForUs);
    }
    if dst.is_broadcast() || (dst.is_unspecified() && src.is_unspecified()) {
        net.counts.inc(id::IpInBcastPkts);
        return local(net, pkt);
    }
    if !looped && (dst.is_loopback() || dst.octets()[0] == 0) {
        return Verdict::Drop(pkt, Reason::IpMartian);
    }
    if !looped && let Err(reason) = fib_validate_source(net, &pkt) {
        return Verdict::Drop(pkt, reason);
    }
    let kind = net.fib.lookup(pkt.dst).map(|r| r.kind);
    match kind {
        Some(RouteKind::Local) => {
            net.fib.learn_local(src, dst, way);
            local(net, pkt)
        }
        Some(RouteKind::Broadcast) => {
            net.counts.inc(id::IpInBcastPkts);
            local(net, pkt)
        }
        _ if any_ip => local(net, pkt),
        _ if !net.knobs.ip_forward => not_for_us(net, pkt, Reason::IpNotForUs),
        Some(RouteKind::Unicast) => forward(net, pkt),
        refused => refuse(net, pkt, refused),
    }
}

#[inline(never)]
fn ip_route_input_v6(net: &mut Net, pkt: Pkt, src: Ipv6Addr, dst: Ipv6Addr) -> Verdict {
    let iface = net.ifaces.get(pkt.dev as usize);
    let looped = iface.is_none_or(|i| i.l2 == L2::Loopback);
    let any_ip = iface.is_some_and(|i| i.any_ip);
    if dst.is_multicast() {
        let router = any_ip || net.knobs.ip6_forward;
        let wanted = iface.is_none_or(|i| i.joined(pkt.dst) || (router && i.router_group(dst)));
        return multicast_rcv(net, pkt, wanted, Reason::Ip6NotForUs);
    }
    if dst.is_unspecified() {
        return Verdict::Drop(pkt, Reason::Ip6NotForUs);
    }
    if !looped
        && !src.is_unspecified()
        && let Err(reason) = fib_validate_source(net, &pkt)
    {
        return Verdict::Drop(pkt, reason);
    }
    let kind = net.fib.lookup(pkt.dst).map(|r| r.kind);
    match kind {
        Some(RouteKind::Local) => local(net, pkt),
        _ if any_ip => local(net, pkt),
        _ if !net.knobs.ip6_forward => not_for_us(net, pkt, Reason::Ip6NotForUs),
        Some(RouteKind::Unicast) => forward(net, pkt),
        refused => refuse(net, pkt, refused),
    }
}

/// Source addresses that no packet of a wire may have (RFC 1122 §3.2.1.3).
#[inline(always)]
fn martian_source4(src: Ipv4Addr, dst: Ipv4Addr, looped: bool) -> bool {
    let first = src.octets()[0];
    // 224/4 groups, 127/8 loopback, 0/8 this network: one comparison for the usual case.
    if first < 224 && first != 127 && first != 0 {
        return false;
    }
    if src.is_multicast() || src.is_broadcast() {
        return true;
    }
    if first == 0 {
        // A host that asks for its address has none yet (RFC 2131 §4.1).
        return !(src.is_unspecified() && (dst.is_broadcast() || dst.is_unspecified()));
    }
    first == 127 && !looped
}

/// Nobody sends with our own address but we; and with `rp_filter` a packet must come from where
/// one to its source would go (RFC 3704 §2.2–2.3).
#[inline(always)]
fn fib_validate_source(net: &Net, pkt: &Pkt) -> Result<(), Reason> {
    let back = net.fib.lookup(pkt.src);
    if back.is_some_and(|r| matches!(r.kind, RouteKind::Local | RouteKind::Broadcast)) {
        return Err(Reason::IpMartian);
    }
    if net.knobs.rp_filter == 0 || !pkt.src.is_ipv4() {
        return Ok(());
    }
    match back {
        Some(r)
            if r.kind == RouteKind::Unicast && (r.dev == pkt.dev || net.knobs.rp_filter == 2) =>
        {
            Ok(())
        }
        _ => Err(Reason::IpRpFilter),
    }
}

#[inline(always)]
fn local(net: &mut Net, pkt: Pkt) -> Verdict {
    if net.glean {
        neigh::glean(net, &pkt);
    }
    if pkt.frag {
        net.reasm_in.push_back(pkt);
        return Verdict::Queued;
    }
    Verdict::Pass(pkt)
}

#[cold]
fn multicast_rcv(net: &mut Net, pkt: Pkt, wanted: bool, reason: Reason) -> Verdict {
    if wanted { local(net, pkt) } else { Verdict::Drop(pkt, reason) }
}

#[cold]
fn not_for_us(net: &mut Net, pkt: Pkt, reason: Reason) -> Verdict {
    // A route that says "unreachable" or "prohibit" answers even where nothing is forwarded.
    match net.fib.lookup(pkt.dst).map(|r| r.kind) {
        kind @ Some(RouteKind::Unreachable | RouteKind::Prohibit | RouteKind::Blackhole) => {
            refuse(net, pkt, kind)
        }
        _ => Verdict::Drop(pkt, reason),
    }
}

fn forward(net: &mut Net, pkt: Pkt) -> Verdict {
    net.forward_in.push_back(pkt);
    Verdict::Queued
}

/// No way on: the sender is told (Linux: `ip_error`, `ip6_pkt_drop`).
#[cold]
fn refuse(net: &mut Net, pkt: Pkt, kind: Option<RouteKind>) -> Verdict {
    let (err, reason) = match kind {
        Some(RouteKind::Blackhole) => (None, Reason::RouteProhibit),
        Some(RouteKind::Prohibit) => (Some(IcmpErr::Prohibited), Reason::RouteProhibit),
        Some(RouteKind::Unreachable) => (Some(IcmpErr::HostUnreach), Reason::RouteProhibit),
        _ if pkt.src.is_ipv4() => (Some(IcmpErr::NetUnreach), Reason::IpInNoRoute),
        _ => (Some(IcmpErr::NetUnreach), Reason::Ip6InNoRoute),
    };
    if let Some(err) = err {
        icmp::icmp_send(net, &pkt, err);
    }
    Verdict::Drop(pkt, reason)
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteOut {
    /// The device; [`LOOPBACK_DEV`] if the way leads to ourselves and there is no such device.
    pub dev: u8,
    /// The largest packet this way in bytes: the device's, the route's or what the path was found
    /// to take, whichever is least.
    pub mtu: u32,
    /// The source address that a packet of ours should have; `None` if we have none that fits.
    pub src: Option<IpAddr>,
    /// Whose link address the frame needs.
    pub nexthop: IpAddr,
    /// The destination is ourselves: the packet loops back.
    pub local: bool,
    /// The destination is a broadcast address.
    pub broadcast: bool,
}

impl Net {
    /// The way to `dst`, with source address and path MTU; `None` if no route leads there, or one
    /// that refuses (Linux: `ip_route_output_key`, `ip6_route_output`).
    #[inline]
    pub fn route_out(&self, dst: IpAddr) -> Option<RouteOut> {
        let mut way = self.route_out_nosrc(dst)?;
        if way.src.is_none() {
            let gateway = (way.nexthop != dst).then_some(way.nexthop);
            way.src = self.select_source(way.dev, dst, gateway);
        }
        Some(way)
    }

    /// The same for a packet that has a source address already: none is looked for.
    // Inlined by force: the answer then stays in registers, which saves a quarter of IpOut (measured).
    #[inline(always)]
    pub(crate) fn route_out_nosrc(&self, dst: IpAddr) -> Option<RouteOut> {
        let Some(route) = self.fib.lookup(dst) else { return self.route_out_link(dst) };
        match route.kind {
            RouteKind::Local => Some(self.route_local(dst)),
            RouteKind::Unicast | RouteKind::Broadcast => {
                if route.prefix_len == 0 && is_link_scope(dst) {
                    return self.route_out_link(dst);
                }
                let iface = self.ifaces.get(route.dev as usize)?;
                let mtu = route.mtu.map_or(iface.mtu, |m| m.min(iface.mtu));
                Some(RouteOut {
                    dev: route.dev,
                    mtu: self.icmp.pmtu(dst, self.now).map_or(mtu, |m| m.min(mtu)),
                    src: route.src,
                    nexthop: route.gateway.unwrap_or(dst),
                    local: false,
                    broadcast: route.kind == RouteKind::Broadcast,
                })
            }
            RouteKind::Blackhole | RouteKind::Unreachable | RouteKind::Prohibit => None,
        }
    }

    fn route_local(&self, dst: IpAddr) -> RouteOut {
        let (dev, local, broadcast) = (self.loopback_dev(), true, false);
        RouteOut { dev, mtu: LOOPBACK_MTU, src: Some(dst), nexthop: dst, local, broadcast }
    }

    /// Groups, the limited broadcast and link-local addresses are on every link: the default
    /// route's device is taken, or the first that is not loopback.
    #[cold]
    fn route_out_link(&self, dst: IpAddr) -> Option<RouteOut> {
        if !is_link_scope(dst) {
            return None;
        }
        let any = match dst {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        };
        let default = self.fib.lookup(any).filter(|r| r.kind == RouteKind::Unicast).map(|r| r.dev);
        let first = || self.ifaces.iter().position(|i| i.l2 != L2::Loopback).map(|i| i as u8);
        self.route_on(default.or_else(first)?, dst)
    }

    /// The way to an address on the link of `dev`.
    pub(crate) fn route_on(&self, dev: u8, dst: IpAddr) -> Option<RouteOut> {
        if self.fib.is_local(dst) {
            return Some(self.route_local(dst));
        }
        let iface = self.ifaces.get(dev as usize)?;
        Some(RouteOut {
            dev,
            mtu: iface.mtu,
            src: self.select_source(dev, dst, None),
            nexthop: dst,
            local: false,
            broadcast: dst == IpAddr::V4(Ipv4Addr::BROADCAST),
        })
    }

    /// The loopback device, or [`LOOPBACK_DEV`].
    pub(crate) fn loopback_dev(&self) -> u8 {
        let lo = self.ifaces.iter().position(|i| i.l2 == L2::Loopback);
        lo.map_or(LOOPBACK_DEV, |i| i as u8)
    }

    /// The source address for a packet that leaves by `dev` (Linux: `inet_select_addr`,
    /// `ipv6_dev_get_saddr`; RFC 6724 §5 rules 1, 2, 5 and 8).
    pub(crate) fn select_source(
        &self,
        dev: u8,
        dst: IpAddr,
        gateway: Option<IpAddr>,
    ) -> Option<IpAddr> {
        let own = self.ifaces.get(dev as usize)?;
        let found = match dst {
            IpAddr::V4(_) => source4(own, gateway.unwrap_or(dst)),
            IpAddr::V6(dst) => source6(own, dst),
        };
        found.or_else(|| {
            let mut others = self.ifaces.iter().filter(|i| i.l2 != L2::Loopback);
            others.find_map(|i| match dst {
                IpAddr::V4(_) => source4(i, dst),
                // A link-local address means nothing on another link.
                IpAddr::V6(dst) => source6(i, dst).filter(|a| !is_link_scope(*a)),
            })
        })
    }
}

/// The address whose subnet the next hop is in, or the first one.
fn source4(iface: &Iface, nexthop: IpAddr) -> Option<IpAddr> {
    let mut mine = iface.addrs.iter().filter(|(a, _)| a.is_ipv4());
    let first = mine.clone().next().map(|(a, _)| *a);
    mine.find(|(a, len)| in_prefix(nexthop, *a, *len)).map(|(a, _)| *a).or(first)
}

/// The address of fitting scope that has most bits in common with the destination.
fn source6(iface: &Iface, dst: Ipv6Addr) -> Option<IpAddr> {
    let want = scope6(dst);
    let mine = iface.addrs.iter().filter_map(|(a, _)| match a {
        IpAddr::V6(a) => Some(*a),
        IpAddr::V4(_) => None,
    });
    // Rule 2: the smallest scope that reaches the destination, else the largest there is.
    let rank = |a: &Ipv6Addr| {
        let scope = scope6(*a);
        let fits = if scope >= want { (1, u8::MAX - scope) } else { (0, scope) };
        (*a == dst, fits, (a.to_bits() ^ dst.to_bits()).leading_zeros())
    };
    // The first of equals wins, as it was added first.
    let best = mine.fold(None, |best: Option<Ipv6Addr>, a| match best {
        Some(b) if rank(&b) >= rank(&a) => Some(b),
        _ => Some(a),
    });
    best.map(IpAddr::V6)
}

/// RFC 4291 §2.7, RFC 6724 §3.1: the scope as a number; larger reaches further.
fn scope6(addr: Ipv6Addr) -> u8 {
    match addr.octets() {
        [0xff, scope, ..] => scope & 0xf,
        [0xfe, b, ..] if b & 0xc0 == 0x80 => 2,
        _ if addr.is_loopback() => 1,
        [0xfe, b, ..] if b & 0xc0 == 0xc0 => 5,
        _ => 14,
    }
}

/// Whether an address has a meaning on one link only: a group, a broadcast, a link-local address.
pub(crate) fn is_link_scope(addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => a.is_multicast() || a.is_broadcast(),
        IpAddr::V6(a) => a.is_multicast() || a.is_unicast_link_local(),
    }
}

impl Shard {
    /// Gives device `dev` an address: it becomes local, and its subnet reachable by the device
    /// (Linux: `fib_add_ifaddr`, `addrconf_prefix_route`).
    ///
    /// # Errors
    /// [`RouteError`]: `Invalid` (EINVAL), `Exists` (EEXIST) if a device has this address already.
    pub fn add_addr(&mut self, dev: u8, addr: IpAddr, prefix_len: u8) -> Result<(), RouteError> {
        let net = &mut self.net;
        if prefix_len > host_len(addr) || is_group(addr) || addr.is_unspecified() {
            return Err(RouteError::Invalid);
        }
        if net.ifaces.iter().any(|i| i.owns(addr)) {
            return Err(RouteError::Exists);
        }
        let iface = net.ifaces.get_mut(dev as usize).ok_or(RouteError::Invalid)?;
        iface.addrs.push((addr, prefix_len));
        for route in addr_routes(dev, addr, prefix_len) {
            // Another address of the same subnet has made this one already.
            let _exists = net.fib.add(route);
        }
        Ok(())
    }

    /// Takes an address away from device `dev`, with the routes that came with it.
    ///
    /// # Errors
    /// [`RouteError::NotFound`] (ESRCH) if the device does not have it.
    pub fn del_addr(&mut self, dev: u8, addr: IpAddr) -> Result<(), RouteError> {
        let net = &mut self.net;
        let iface = net.ifaces.get_mut(dev as usize).ok_or(RouteError::NotFound)?;
        let at = iface.addrs.iter().position(|(a, _)| *a == addr).ok_or(RouteError::NotFound)?;
        let (_, prefix_len) = iface.addrs.remove(at);
        for route in addr_routes(dev, addr, prefix_len) {
            if net.fib.list().contains(&route) {
                let _gone = net.fib.del(&route);
            }
        }
        // What other addresses need of it comes back.
        for (dev, iface) in net.ifaces.iter().enumerate() {
            for (addr, len) in &iface.addrs {
                for route in addr_routes(dev as u8, *addr, *len) {
                    let _exists = net.fib.add(route);
                }
            }
        }
        Ok(())
    }

    /// Adds a route. Bits of the prefix beyond its length are ignored.
    ///
    /// # Errors
    /// [`RouteError`]: `Invalid` (EINVAL), `Exists` (EEXIST).
    pub fn add_route(&mut self, route: Route) -> Result<(), RouteError> {
        if self.net.ifaces.get(route.dev as usize).is_none() {
            return Err(RouteError::Invalid);
        }
        let prefix = Route::new(route.dst, route.prefix_len, route.kind, route.dev);
        self.net.fib.add(Route { dst: prefix.dst, ..route })
    }

    /// Removes the route to a prefix; of `route` only prefix and kind are looked at.
    ///
    /// # Errors
    /// [`RouteError::NotFound`] (ESRCH).
    pub fn del_route(&mut self, route: &Route) -> Result<Route, RouteError> {
        self.net.fib.del(route)
    }
}

/// Whether this is a group's address.
fn is_group(addr: IpAddr) -> bool {
    addr.is_multicast() || addr == IpAddr::V4(Ipv4Addr::BROADCAST)
}

fn host_len(addr: IpAddr) -> u8 {
    if addr.is_ipv4() { 32 } else { 128 }
}

/// The routes that an address brings along.
fn addr_routes(dev: u8, addr: IpAddr, prefix_len: u8) -> Vec<Route> {
    let host = host_len(addr);
    let mut routes = vec![Route::new(addr, host, RouteKind::Local, dev)];
    if addr.is_loopback() {
        routes.push(Route::new(addr, prefix_len, RouteKind::Local, dev));
    } else if prefix_len < host {
        routes.push(Route::new(addr, prefix_len, RouteKind::Unicast, dev));
        // RFC 3021: a subnet of two addresses has no broadcast address.
        if let IpAddr::V4(a) = addr
            && prefix_len < 31
        {
            let last = a.to_bits() | (u32::MAX >> prefix_len);
            routes.push(Route::new(Ipv4Addr::from(last).into(), 32, RouteKind::Broadcast, dev));
        }
    }
    routes
}

/// Counts a packet that begins at `stage` and goes on at once.
pub(crate) fn made(net: &Net, stage: Stage) {
    let flow = net.counts.flow(stage);
    flow.make(1);
    flow.pass(1);
}
