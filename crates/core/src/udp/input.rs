//! Stages `Demux`, `Transport` and `SockQueue` of UDP, RX: finds the socket, verifies the checksum,
//! queues the datagram.
//!
//! before: [`crate::sock::lookup`]   after: [`crate::udp::api`]
//! Linux:  net/ipv4/udp.c `__udp4_lib_rcv`, `__udp4_lib_lookup`, `udp_queue_rcv_skb`
//! RFCs:   768, 1122 §4.1, 8200 §8.1
//! drops:  UdpHdr, Udp6Hdr, UdpNoPort, Udp6NoPort, UdpCsum, Udp6Csum, SocketRcvbuff, Socket6Rcvbuff,
//!         ProtoMem, SocketClosed

use crate::pkt::{Csum, Pkt, Verdict};
use crate::shard::Shard;
use crate::sock::{Ready, SocketId, lookup};
use crate::table::{Reason, Stage};
use crate::wire::UdpHdr;

/// Reads the UDP header and finds the socket.
#[inline(always)]
pub(crate) fn udp_lookup(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let v4 = pkt.src.is_ipv4();
    let bad = if v4 { Reason::UdpHdr } else { Reason::Udp6Hdr };
    if !pkt.may_pull(UdpHdr::LEN) {
        return Verdict::Drop(pkt, bad);
    }
    let hdr = pkt.peek::<{ UdpHdr::LEN }>().and_then(|h| UdpHdr::parse(h).ok());
    let Some(hdr) = hdr else { return Verdict::Drop(pkt, bad) };
    // A super-packet's length field is that of the whole; a jumbogram (0) is not supported.
    let len = hdr.len as usize;
    if len < UdpHdr::LEN || len > pkt.len() {
        return Verdict::Drop(pkt, bad);
    }
    if len < pkt.len() {
        pkt.trim(len);
    }
    pkt.sport = hdr.src_port;
    pkt.dport = hdr.dst_port;
    let found = match lookup::many(cx) {
        true => cx.udp.lookup_ahead(&pkt),
        false => None,
    };
    let found =
        found.or_else(|| cx.udp.lookup(&pkt.dst, hdr.dst_port, &pkt.src, hdr.src_port, Some(&pkt)));
    match found {
        Some(sock) => {
            pkt.sock = Some(sock);
            if v4 && hdr.csum == 0 && pkt.csum == Csum::None {
                // RFC 768: over IPv4 the sender may leave the checksum out.
                pkt.csum = Csum::Verified;
            }
            Verdict::Pass(pkt)
        }
        None => no_port(cx, pkt, v4, hdr.csum == 0),
    }
}

#[cold]
fn no_port(cx: &mut Shard, mut pkt: Pkt, v4: bool, no_csum: bool) -> Verdict {
    // Nobody is told of a datagram that is damaged.
    let unsummed = v4 && no_csum;
    if !unsummed && !pkt.csum_verify(cx.net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, if v4 { Reason::UdpCsum } else { Reason::Udp6Csum });
    }
    crate::ip::icmp::port_unreachable(cx, &pkt);
    Verdict::Drop(pkt, if v4 { Reason::UdpNoPort } else { Reason::Udp6NoPort })
}

/// Verifies the checksum and takes the header off.
#[inline(always)]
pub(crate) fn udp_rcv(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let v4 = pkt.src.is_ipv4();
    let zero_v6 = !v4 && pkt.csum == Csum::None && pkt.head().get(6..8) == Some(&[0, 0]);
    if zero_v6 || !pkt.csum_verify(cx.net.knobs.rx_checksum) {
        return Verdict::Drop(pkt, if v4 { Reason::UdpCsum } else { Reason::Udp6Csum });
    }
    let stripped = pkt.pull(UdpHdr::LEN);
    debug_assert!(stripped, "udp_lookup made the header lie in the head");
    Verdict::Pass(pkt)
}

/// Queues the datagram to its socket if the socket has room for its true size.
#[inline(always)]
pub(crate) fn udp_queue_rcv_skb(cx: &mut Shard, id: SocketId, pkt: Pkt) -> Verdict {
    let Some(sock) = cx.udp.slab.get_mut(id.index, id.generation) else {
        return Verdict::Drop(pkt, Reason::SocketClosed);
    };
    let size = pkt.truesize();
    if !sock.has_room(size) {
        sock.rare().drops += 1;
        let v4 = pkt.src.is_ipv4();
        return Verdict::Drop(pkt, if v4 { Reason::SocketRcvbuff } else { Reason::Socket6Rcvbuff });
    }
    if (cx.udp.mem + size) as u64 > cx.net.knobs.udp_mem[2].saturating_mul(4096) {
        sock.rare().drops += 1;
        return Verdict::Drop(pkt, Reason::ProtoMem);
    }
    cx.udp.mem += size;
    sock.push(pkt, size);
    cx.net.events.raise_kind(id, sock.user, &mut sock.pending, Ready::IN);
    cx.net.counts.flow(Stage::SockQueue).hold(1);
    Verdict::Held
}
