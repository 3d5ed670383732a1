//! Stage `Send` of ICMP, TX: errors, with the rules on when none may be sent.
//!
//! before: whoever could not pass a packet on   after: [`crate::ip::output`]
//! Linux:  net/ipv4/icmp.c `icmp_send`, net/ipv6/icmp.c `icmp6_send`
//! RFCs:   792, 1122 §3.2.2, 1812 §4.3.2, 4443 §2.4

use std::net::IpAddr;

use super::limit::{icmp_global_allow, icmp_peer_allow};
use crate::ip::route::RouteKind;
use crate::pkt::{Pkt, SMALL};
use crate::shard::{Net, Shard};
use crate::table::count::{Id, Packets, id};
use crate::tcp::icmp::ErrKind;
use crate::wire::icmpv4::*;
use crate::wire::icmpv6::*;
use crate::wire::ipv6::{ParamCode, walk};
use crate::wire::{ExtHdrs, IPPROTO_ICMP, IPPROTO_ICMPV6, Ipv4Hdr, Ipv6Hdr};

/// Length of an IPv4 packet that carries an error, at most (RFC 1812 §4.3.2.3).
const QUOTE_V4_MAX: usize = 576 - Ipv4Hdr::LEN - Icmpv4Hdr::LEN;
/// Of what is quoted over IPv6: the packet fits every link (RFC 4443 §2.4(c)).
const QUOTE_V6_MAX: usize = 1280 - Ipv6Hdr::LEN - Icmpv6Hdr::LEN;

/// What an ICMP error says, in either version's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpErr {
    /// No route to the network.
    NetUnreach,
    /// The host does not answer.
    HostUnreach,
    /// The host does not speak the protocol.
    ProtoUnreach,
    /// Nobody has the port.
    PortUnreach,
    /// The packet is larger than this many bytes and may not be fragmented.
    FragNeeded(u32),
    /// A filter or a route prohibits it.
    Prohibited,
    /// The destination lies beyond the scope of the source (IPv6; over IPv4: host unreachable).
    NotNeighbour,
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// Fragments did not all arrive in time.
    FragTime,
    /// A header field makes no sense.
    ParamProblem {
        /// 0; over IPv6 a code of RFC 4443 §3.4.
        code: u8,
        /// The offending byte, from the start of the network header.
        pointer: u32,
    },
}

impl From<ErrKind> for IcmpErr {
    fn from(kind: ErrKind) -> IcmpErr {
        match kind {
            ErrKind::NetUnreach => IcmpErr::NetUnreach,
            ErrKind::HostUnreach => IcmpErr::HostUnreach,
            ErrKind::ProtoUnreach => IcmpErr::ProtoUnreach,
            ErrKind::PortUnreach => IcmpErr::PortUnreach,
            ErrKind::FragNeeded(mtu) => IcmpErr::FragNeeded(mtu),
            ErrKind::Prohibited => IcmpErr::Prohibited,
            ErrKind::TimeExceeded => IcmpErr::TimeExceeded,
            ErrKind::ParamProblem => IcmpErr::ParamProblem { code: 0, pointer: 0 },
        }
    }
}

/// The error that a code of destination-unreachable means (RFC 792, RFC 1122 §3.2.2.1, RFC 1812
/// §5.2.7.1).
pub fn unreachable_err(code: u8) -> IcmpErr {
    match code {
        ICMP_NET_UNREACH | 6 | 11 => IcmpErr::NetUnreach,
        ICMP_PROT_UNREACH => IcmpErr::ProtoUnreach,
        ICMP_PORT_UNREACH => IcmpErr::PortUnreach,
        9 | 10 | ICMP_PKT_FILTERED..=15 => IcmpErr::Prohibited,
        _ => IcmpErr::HostUnreach,
    }
}

impl IcmpErr {
    /// Type, code and second word over IPv4.
    fn v4(self) -> (u8, u8, u32) {
        match self {
            IcmpErr::NetUnreach => (ICMP_DEST_UNREACH, ICMP_NET_UNREACH, 0),
            IcmpErr::HostUnreach | IcmpErr::NotNeighbour => {
                (ICMP_DEST_UNREACH, ICMP_HOST_UNREACH, 0)
            }
            IcmpErr::ProtoUnreach => (ICMP_DEST_UNREACH, ICMP_PROT_UNREACH, 0),
            IcmpErr::PortUnreach => (ICMP_DEST_UNREACH, ICMP_PORT_UNREACH, 0),
            IcmpErr::FragNeeded(mtu) => {
                (ICMP_DEST_UNREACH, ICMP_FRAG_NEEDED, mtu.min(u16::MAX as u32))
            }
            IcmpErr::Prohibited => (ICMP_DEST_UNREACH, ICMP_PKT_FILTERED, 0),
            IcmpErr::TimeExceeded => (ICMP_TIME_EXCEEDED, ICMP_EXC_TTL, 0),
            IcmpErr::FragTime => (ICMP_TIME_EXCEEDED, ICMP_EXC_FRAGTIME, 0),
            IcmpErr::ParamProblem { code, pointer } => {
                (ICMP_PARAMETERPROB, code, pointer.min(255) << 24)
            }
        }
    }
    /// The same over IPv6.
    fn v6(self) -> (u8, u8, u32) {
        match self {
            IcmpErr::NetUnreach => (ICMPV6_DEST_UNREACH, ICMPV6_NOROUTE, 0),
            IcmpErr::HostUnreach => (ICMPV6_DEST_UNREACH, ICMPV6_ADDR_UNREACH, 0),
            IcmpErr::ProtoUnreach => (ICMPV6_PARAMPROB, ParamCode::UnkNextHdr as u8, 6),
            IcmpErr::PortUnreach => (ICMPV6_DEST_UNREACH, ICMPV6_PORT_UNREACH, 0),
            IcmpErr::FragNeeded(mtu) => (ICMPV6_PKT_TOOBIG, 0, mtu.max(super::IPV6_MIN_MTU)),
            IcmpErr::NotNeighbour => (ICMPV6_DEST_UNREACH, ICMPV6_NOT_NEIGHBOUR, 0),
            IcmpErr::Prohibited => (ICMPV6_DEST_UNREACH, ICMPV6_ADM_PROHIBITED, 0),
            IcmpErr::TimeExceeded => (ICMPV6_TIME_EXCEED, ICMPV6_EXC_HOPLIMIT, 0),
            IcmpErr::FragTime => (ICMPV6_TIME_EXCEED, ICMPV6_EXC_FRAGTIME, 0),
            IcmpErr::ParamProblem { code, pointer } => (ICMPV6_PARAMPROB, code, pointer),
        }
    }
    /// Whether the destination host itself says so, and not somebody on the way.
    fn is_by_destination(self) -> bool {
        matches!(
            self,
            IcmpErr::ProtoUnreach
                | IcmpErr::PortUnreach
                | IcmpErr::FragTime
                | IcmpErr::ParamProblem { .. }
        )
    }
}

/// A received packet was for a protocol that nobody here speaks.
pub fn proto_unreachable(cx: &mut Shard, pkt: &Pkt) {
    let mut err = IcmpErr::ProtoUnreach;
    if pkt.src.is_ipv6() {
        // RFC 4443 §3.4: the pointer names the byte that announced the header.
        let packet = pkt.from_network();
        let upper = Ipv6Hdr::parse(packet).ok().and_then(|hdr| walk(packet, &hdr).ok());
        let pointer = upper.map_or(6, |u| u.proto_at as u32);
        err = IcmpErr::ParamProblem { code: ParamCode::UnkNextHdr as u8, pointer };
    }
    icmp_send(&mut cx.net, pkt, err);
}

/// A received packet was for a port that nobody has.
pub fn port_unreachable(cx: &mut Shard, pkt: &Pkt) {
    icmp_send(&mut cx.net, pkt, IcmpErr::PortUnreach);
}

/// Tells the sender of `orig` what became of it, if the rules and the limits allow it. `orig` must
/// know where its network header is; its data may begin anywhere behind that.
#[cold]
pub(crate) fn icmp_send(net: &mut Net, orig: &Pkt, err: IcmpErr) {
    let mut quote = [0; QUOTE_V6_MAX];
    let n = quote_of(orig, &mut quote);
    let quote = &quote[..n];
    let Some(about) = About::read(quote) else { return };
    if orig.l2_multicast && !about.may_answer_group(err) {
        return;
    }
    let any_ip = net.ifaces.get(orig.dev as usize).is_some_and(|i| i.any_ip);
    let ours = net.fib.is_local(about.dst);
    let own = ours || (any_ip && err.is_by_destination() && !about.dst.is_multicast());
    let from = own.then_some(about.dst);
    if !allowed(net, &about, err) || !within_limits(net, about.src, err, true) {
        return;
    }
    send_error(net, &about, from, orig.dev, err, quote);
}

/// Tells the sender of a packet of ours that went no further, or of one that we forward: not, if
/// the packet bears an address that is neither ours nor on the way through us.
#[cold]
pub(crate) fn icmp_send_from_tx(net: &mut Net, orig: &Pkt, err: IcmpErr) {
    let v4 = orig.src.is_ipv4();
    let router = if v4 { net.knobs.ip_forward } else { net.knobs.ip6_forward };
    if router || net.fib.is_local(orig.src) {
        icmp_send(net, orig, err);
    }
}

/// Sends an error about a packet of which the application has kept the beginning (`quote`: the IP
/// header and at least 8 bytes behind it), in the name of `from`. False if the quote makes no
/// sense, or the rules or the limit of all errors together forbid it; there is no limit for one
/// destination, since all the errors that a gateway passes on go to one.
pub fn icmp_error_quote(cx: &mut Shard, quote: &[u8], from: IpAddr, err: IcmpErr) -> bool {
    let net = &mut cx.net;
    let Some(about) = About::read(quote) else { return false };
    if from.is_ipv4() != about.src.is_ipv4() || !allowed(net, &about, err) {
        return false;
    }
    if !within_limits(net, about.src, err, false) {
        return false;
    }
    let from = Some(from).filter(|a| !a.is_unspecified());
    send_error(net, &about, from, crate::ip::route::LOOPBACK_DEV, err, quote)
}

/// The same with a code of RFC 792's destination-unreachable; translated for IPv6.
pub fn send_unreachable_quote(cx: &mut Shard, quote: &[u8], from: IpAddr, code: u8) -> bool {
    icmp_error_quote(cx, quote, from, unreachable_err(code))
}

/// The packet from its network header on, as much as fits; returns how much that is.
fn quote_of(orig: &Pkt, out: &mut [u8]) -> usize {
    let data = orig.data_offset();
    // What was taken off the front is still in the head's memory.
    let taken = orig.behind(orig.network, data.saturating_sub(orig.network) as usize);
    let n = taken.len().min(out.len());
    out[..n].copy_from_slice(&taken[..n]);
    n + orig.copy_bits(0, &mut out[n..])
}

/// What the rules want to know of the packet that an error is about.
struct About {
    src: IpAddr,
    dst: IpAddr,
    tos: u8,
    first_fragment: bool,
    is_icmp_error: bool,
}

impl About {
    fn read(quote: &[u8]) -> Option<About> {
        match quote.first()? >> 4 {
            4 => About::read4(quote),
            6 => About::read6(quote),
            _ => None,
        }
    }
    fn read4(quote: &[u8]) -> Option<About> {
        // The total length may be that of a super-packet; the other fields decide here.
        let h: &[u8; Ipv4Hdr::LEN] = quote.first_chunk()?;
        let ihl = usize::from(h[0] & 0xf) * 4;
        let frag = u16::from_be_bytes([h[6], h[7]]);
        let is_icmp_error = h[9] == IPPROTO_ICMP
            && quote.get(ihl..).and_then(|b| Icmpv4Hdr::parse(b).ok()).is_none_or(|i| i.is_error());
        Some(About {
            src: IpAddr::from([h[12], h[13], h[14], h[15]]),
            dst: IpAddr::from([h[16], h[17], h[18], h[19]]),
            tos: h[1],
            first_fragment: frag & 0x1fff == 0,
            is_icmp_error,
        })
    }
    fn read6(quote: &[u8]) -> Option<About> {
        let hdr = Ipv6Hdr::parse(quote).ok()?;
        let mut exts = ExtHdrs::new(quote, hdr.next_header);
        let mut first_fragment = true;
        for ext in exts.by_ref() {
            // A chain that can not be followed may hide anything; it is answered, as the error may
            // be about just that.
            let Ok(ext) = ext else { break };
            if ext.kind == crate::wire::IPPROTO_FRAGMENT {
                let frag =
                    quote.get(ext.offset..).and_then(|b| crate::wire::FragHdr::parse(b).ok());
                first_fragment = frag.is_some_and(|f| f.frag_off_bytes == 0);
            }
        }
        let upper = quote.get(exts.offset()..).unwrap_or_default();
        let is_icmp_error =
            exts.next_header() == IPPROTO_ICMPV6 && upper.first().is_none_or(|t| *t < 128);
        Some(About {
            src: IpAddr::V6(hdr.src),
            dst: IpAddr::V6(hdr.dst),
            tos: 0,
            first_fragment,
            is_icmp_error,
        })
    }
    /// RFC 4443 §2.4(e.3): two errors are about what a sender to a group must know.
    fn may_answer_group(&self, err: IcmpErr) -> bool {
        let unknown_option = ParamCode::UnkOption as u8;
        self.dst.is_ipv6()
            && match err {
                IcmpErr::FragNeeded(_) => true,
                IcmpErr::ParamProblem { code, .. } => code == unknown_option,
                _ => false,
            }
    }
}

/// RFC 1122 §3.2.2, RFC 4443 §2.4(e): no error about an error, about a group or everybody, from
/// nobody, or about a fragment that is not the first.
fn allowed(net: &Net, about: &About, err: IcmpErr) -> bool {
    let kind = |a: IpAddr| net.fib.lookup(a).map(|r| r.kind);
    let crowd = |a: IpAddr| match a {
        IpAddr::V4(v4) => {
            v4.is_multicast() || v4.is_broadcast() || kind(a) == Some(RouteKind::Broadcast)
        }
        IpAddr::V6(v6) => v6.is_multicast(),
    };
    about.first_fragment
        && !about.is_icmp_error
        && !about.src.is_unspecified()
        && !crowd(about.src)
        && (!crowd(about.dst) || about.may_answer_group(err))
}

/// The limits, for the types that have one.
fn within_limits(net: &mut Net, to: IpAddr, err: IcmpErr, per_host: bool) -> bool {
    // Path MTU discovery is never held back.
    let limited = match err {
        IcmpErr::FragNeeded(_) => false,
        _ if to.is_ipv4() => net.knobs.icmp_ratemask & 1 << err.v4().0 != 0,
        _ => true,
    };
    !limited || ((!per_host || icmp_peer_allow(net, to)) && icmp_global_allow(net))
}

/// Builds the message and sends it. `dev` is where the answer goes if the destination has a
/// meaning on one link only.
fn send_error(
    net: &mut Net,
    about: &About,
    from: Option<IpAddr>,
    dev: u8,
    err: IcmpErr,
    quote: &[u8],
) -> bool {
    let v4 = about.src.is_ipv4();
    let link = super::super::route::is_link_scope(about.src);
    let route = if link { net.route_on(dev, about.src) } else { net.route_out(about.src) };
    let src = from.or_else(|| route.and_then(|r| r.src));
    let (Some(src), Some(route)) = (src, route) else {
        net.counts.inc(if v4 { id::IcmpOutErrors } else { id::Icmp6OutErrors });
        return false;
    };
    let n = quote.len().min(if v4 { QUOTE_V4_MAX } else { QUOTE_V6_MAX });
    debug_assert!(n + 8 <= SMALL - crate::pkt::HEADROOM, "an error fits a packet's head");
    let Some(mut pkt) = net.pool.alloc() else {
        net.counts.inc(if v4 { id::IcmpOutErrors } else { id::Icmp6OutErrors });
        return false;
    };
    let message = pkt.put(8 + n);
    message[8..].copy_from_slice(&quote[..n]);
    match (src, about.src) {
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (kind, code, rest) = err.v6();
            Icmpv6Hdr { kind, code, csum: 0, rest }.emit(message, src, dst);
            pkt.ip_proto = IPPROTO_ICMPV6;
        }
        _ => {
            let (kind, code, rest) = err.v4();
            Icmpv4Hdr { kind, code, csum: 0, rest }.emit(message);
            pkt.ip_proto = IPPROTO_ICMP;
            // RFC 1812 §4.3.2.5: precedence of internetwork control.
            pkt.tos = about.tos & 0x1e | 0xc0;
        }
    }
    count_out(net, err, v4);
    pkt.src = src;
    pkt.dst = about.src;
    if link {
        return net.send_on(pkt, &route);
    }
    net.send(pkt);
    true
}

fn count_out(net: &Net, err: IcmpErr, v4: bool) {
    net.counts.inc(if v4 { id::IcmpOutMsgs } else { id::Icmp6OutMsgs });
    let by_type: Id<Packets> = match (if v4 { err.v4().0 } else { err.v6().0 }, v4) {
        (ICMP_DEST_UNREACH, true) => id::IcmpOutDestUnreachs,
        (ICMP_TIME_EXCEEDED, true) => id::IcmpOutTimeExcds,
        (_, true) => id::IcmpOutParmProbs,
        (ICMPV6_DEST_UNREACH, false) => id::Icmp6OutDestUnreachs,
        (ICMPV6_PKT_TOOBIG, false) => id::Icmp6OutPktTooBigs,
        (ICMPV6_TIME_EXCEED, false) => id::Icmp6OutTimeExcds,
        (_, false) => id::Icmp6OutParmProblems,
    };
    net.counts.inc(by_type);
}
