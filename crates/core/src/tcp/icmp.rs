//! What ICMP errors do to connections.
//!
//! before: [`crate::ip::icmp`]
//! Linux:  net/ipv4/tcp_ipv4.c `tcp_v4_err`; net/ipv6/tcp_ipv6.c `tcp_v6_err`
//! RFCs:   1122 §4.2.3.9, 1191, 8201, 5461, 5927

use std::net::IpAddr;

use super::demux::Ref;
use super::fastopen::fastopen_syn_too_large;
use super::mtup::tcp_simple_retransmit;
use super::output::tcp_sync_mss;
use super::{State, Tuple};
use crate::seq::Seq;
use crate::shard::Shard;
use crate::sock::error::TcpError;
use crate::table::count::id;

/// The kind of an ICMP error, whichever version it came by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrKind {
    /// No route to the network.
    NetUnreach,
    /// The host does not answer.
    HostUnreach,
    /// The host does not speak the protocol.
    ProtoUnreach,
    /// Nobody has the port.
    PortUnreach,
    /// The packet was larger than this MTU, in bytes, and may not be fragmented.
    FragNeeded(u32),
    /// A filter prohibits it.
    Prohibited,
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// A header field makes no sense.
    ParamProblem,
}

impl ErrKind {
    fn error(self) -> Option<TcpError> {
        match self {
            ErrKind::NetUnreach => Some(TcpError::NetUnreachable),
            ErrKind::HostUnreach | ErrKind::TimeExceeded => Some(TcpError::HostUnreachable),
            ErrKind::ProtoUnreach | ErrKind::PortUnreach => Some(TcpError::PortUnreachable),
            ErrKind::Prohibited => Some(TcpError::Prohibited),
            ErrKind::FragNeeded(_) | ErrKind::ParamProblem => None,
        }
    }
}

/// What an ICMP error quotes of a TCP segment of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpQuote {
    /// Our address.
    pub src: IpAddr,
    /// The peer's.
    pub dst: IpAddr,
    /// Our port.
    pub sport: u16,
    /// The peer's.
    pub dport: u16,
    /// Its sequence number.
    pub seq: Seq,
}

/// An ICMP error about a segment of ours arrived (`tcp_v4_err`, `tcp_v6_err`); `told`: on another
/// shard, which found nobody.
pub fn tcp_v4_err(cx: &mut Shard, quote: &TcpQuote, kind: ErrKind, told: bool) {
    let tuple =
        Tuple { local: quote.src, remote: quote.dst, lport: quote.sport, rport: quote.dport };
    let hash = cx.tcp.demux.hash(&tuple);
    match cx.tcp.find(hash, &tuple) {
        Some(Ref::Conn(index)) => conn_err(cx, index, quote, kind),
        Some(Ref::Req(index)) => cx.reqsk_err(index, quote.seq),
        None if !told => cx.net.tell_home(*quote, kind),
        _ => {}
    }
}

fn conn_err(cx: &mut Shard, index: u32, quote: &TcpQuote, kind: ErrKind) {
    let Shard { net, tcp, .. } = cx;
    let Some(tp) = tcp.conns.at_mut(index) else { return };
    // RFC 5927 §4.1: about nothing that is under way, so it is a guess, or late.
    if !quote.seq.within(tp.snd_una, tp.snd_nxt) {
        net.counts.inc(id::TcpExtOutOfWindowIcmps);
        return;
    }
    if let ErrKind::FragNeeded(mtu) = kind {
        mtu_reduced(cx, index, mtu);
        if let Some(tp) = cx.tcp.conns.at_mut(index) {
            fastopen_syn_too_large(&mut cx.net, tp);
        }
        return;
    }
    let Some(err) = kind.error() else { return };
    if matches!(tp.state, State::SynSent | State::SynRecv) {
        // Nothing is established yet: the attempt fails at once.
        tp.done(net, Some(err));
    } else {
        // RFC 1122 §4.2.3.9: a soft error, told only if the connection times out.
        tp.err_soft = Some(err);
    }
    cx.tcp_settle(index);
}

/// The path takes less than was thought: segments shrink, and what is too large is sent again
/// (`tcp_v4_mtu_reduced`, `tcp_simple_retransmit`).
fn mtu_reduced(cx: &mut Shard, index: u32, mtu: u32) {
    let Shard { net, tcp, .. } = cx;
    let Some(tp) = tcp.conns.at_mut(index) else { return };
    let mtu = net.update_pmtu(tp.tuple.remote, mtu);
    if mtu >= tp.pmtu {
        return;
    }
    tcp_sync_mss(tp, mtu);
    tcp_simple_retransmit(net, tp);
    cx.tcp_settle(index);
}
