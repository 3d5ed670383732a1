//! Stage `Send` of UDP, TX: makes a datagram, or a super-packet of equal datagrams.
//!
//! before: the application   after: [`crate::ip::output`]
//! Linux:  net/ipv4/udp.c `udp_sendmsg`, `udp_send_skb`
//! RFCs:   768, 8085

use std::net::{IpAddr, SocketAddr};

use linerate_arch::csum::csum_fold;

use super::api::Datagram;
use crate::pkt::{Buf, Csum, Gso, GsoKind, HEADROOM, LARGE, Pkt, SMALL, pseudo};
use crate::shard::{Net, Shard};
use crate::sock::SocketId;
use crate::sock::error::SendError;
use crate::table::{Stage, count::id};
use crate::wire::{IPPROTO_UDP, UdpHdr};

/// How a datagram is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct SendTo {
    /// Where it comes from: the socket's own address and port where this is `None`. Any address is
    /// allowed that the stack answers for, and every one on a socket that takes all ports.
    pub src: Option<SocketAddr>,
    /// Where it goes.
    pub dst: SocketAddr,
    /// Type of service, or traffic class.
    pub tos: u8,
    /// TTL or hop limit; 0 = the default.
    pub ttl: u8,
    /// May not be fragmented.
    pub df: bool,
    /// Payload bytes of each datagram but the last (`UDP_SEGMENT`); 0 = all of it is one datagram.
    pub gso_size: u16,
}

impl SendTo {
    /// To `dst`, everything else as by default.
    pub fn to(dst: SocketAddr) -> SendTo {
        SendTo { src: None, dst, tos: 0, ttl: 0, df: false, gso_size: 0 }
    }
}

impl Shard {
    /// Sends a datagram whose payload is `parts` joined. Returns the bytes taken: all of them.
    ///
    /// # Errors
    /// [`SendError`]: `Closed` (EBADF), `Invalid` (EINVAL), `MessageSize` (EMSGSIZE), `NoBuffers` (ENOBUFS).
    pub fn udp_send(
        &mut self,
        id: SocketId,
        how: SendTo,
        parts: &[&[u8]],
    ) -> Result<usize, SendError> {
        let len: usize = match parts {
            [one] => one.len(),
            _ => parts.iter().map(|p| p.len()).sum(),
        };
        self.udp_sendmsg(id, how, len, |net| fill(net, parts, len))
    }

    /// Sends the payload of a datagram that was received, as an echo, a proxy or a relay does: its
    /// memory becomes that of what is sent, and nothing is copied. Returns the bytes taken.
    ///
    /// # Errors
    /// As those of [`Shard::udp_send`], with the datagram: send it again or give it back.
    pub fn udp_send_on(
        &mut self,
        id: SocketId,
        how: SendTo,
        datagram: Datagram,
    ) -> Result<usize, (SendError, Datagram)> {
        if datagram.pkt.headroom() < HEADROOM {
            return self.udp_send_copy(id, how, datagram);
        }
        let len = datagram.len();
        let mut datagram = Some(datagram);
        let sent = self.udp_sendmsg(id, how, len, |_| {
            let mut pkt = datagram.take()?.pkt;
            pkt.forget();
            Some(pkt)
        });
        match (sent, datagram) {
            (Err(why), Some(datagram)) => Err((why, datagram)),
            _ => Ok(len),
        }
    }

    /// Sends the first `len` bytes of `buf`, a large buffer of this shard's pool
    /// ([`Pool::alloc_large`](crate::pkt::Pool::alloc_large)), as the payload: nothing is copied.
    /// Returns the bytes taken.
    ///
    /// # Errors
    /// As those of [`Shard::udp_send`], with the buffer; `Invalid` also where it is shorter than `len`.
    pub fn udp_send_buf(
        &mut self,
        id: SocketId,
        how: SendTo,
        buf: Buf,
        len: usize,
    ) -> Result<usize, (SendError, Buf)> {
        if buf.len() < len {
            return Err((SendError::Invalid, buf));
        }
        let mut buf = Some(buf);
        let sent = self.udp_sendmsg(id, how, len, |net| {
            let mut pkt = net.pool.alloc()?;
            buf.take().into_iter().for_each(|buf| pkt.add_buf(buf, 0, len));
            Some(pkt)
        });
        match (sent, buf) {
            (Err(why), Some(buf)) => Err((why, buf)),
            _ => Ok(len),
        }
    }

    /// What [`Shard::udp_send_on`] does, by a copy: a device left less room before the packet than headers may need.
    #[cold]
    fn udp_send_copy(
        &mut self,
        id: SocketId,
        how: SendTo,
        datagram: Datagram,
    ) -> Result<usize, (SendError, Datagram)> {
        let parts: Vec<&[u8]> = datagram.slices().collect();
        match self.udp_send(id, how, &parts) {
            Ok(len) => {
                self.udp_done(datagram);
                Ok(len)
            }
            Err(why) => Err((why, datagram)),
        }
    }

    /// Sends a datagram of `len` bytes of payload, which `make` makes once it is known that it may be
    /// sent.
    #[inline(always)]
    fn udp_sendmsg(
        &mut self,
        id: SocketId,
        how: SendTo,
        len: usize,
        make: impl FnOnce(&mut Net) -> Option<Pkt>,
    ) -> Result<usize, SendError> {
        let sock = self.udp.slab.get(id.index, id.generation).ok_or(SendError::Closed)?;
        let (src, sport) = match how.src {
            Some(src) => (src.ip(), src.port()),
            None => (sock.local.unwrap_or_else(|| any(how.dst)), sock.port),
        };
        if src.is_ipv4() != how.dst.is_ipv4() || sport == 0 {
            return Err(SendError::Invalid);
        }
        let max = if src.is_ipv4() { 65507 } else { 65527 };
        if len > max {
            return Err(SendError::MessageSize);
        }
        let net = &mut self.net;
        if net.ip_out.len() as u64 >= net.knobs.txqueuelen.max(64) {
            net.counts.inc(id_sndbuf(src.is_ipv4()));
            return Err(SendError::NoBuffers);
        }
        let Some(mut pkt) = make(net) else {
            net.counts.inc(id_sndbuf(src.is_ipv4()));
            return Err(SendError::NoBuffers);
        };
        pkt.src = src;
        pkt.dst = how.dst.ip();
        pkt.sport = sport;
        pkt.dport = how.dst.port();
        pkt.ip_proto = IPPROTO_UDP;
        (pkt.tos, pkt.ttl, pkt.df) = (how.tos, how.ttl, how.df);
        if how.gso_size != 0 && len > how.gso_size as usize {
            let segs = len.div_ceil(how.gso_size as usize) as u16;
            pkt.gso = Some(Gso { kind: GsoKind::Udp, size: how.gso_size, segs, ecn: false });
        }
        udp_send_skb(net, pkt);
        Ok(len)
    }
}

/// The address that stands for all of them.
#[cold]
fn any(dst: SocketAddr) -> IpAddr {
    match dst {
        SocketAddr::V4(_) => IpAddr::from([0u8; 4]),
        SocketAddr::V6(_) => IpAddr::from([0u8; 16]),
    }
}

fn id_sndbuf(v4: bool) -> crate::table::count::Id<crate::table::count::Packets> {
    if v4 { id::UdpSndbufErrors } else { id::Udp6SndbufErrors }
}

/// A packet that carries a copy of `parts`.
#[inline(always)]
fn fill(net: &mut Net, parts: &[&[u8]], len: usize) -> Option<Pkt> {
    let mut pkt = net.pool.alloc()?;
    if len <= SMALL - HEADROOM {
        match parts {
            [one] => pkt.put(len).copy_from_slice(one),
            _ => parts.iter().for_each(|part| pkt.put(part.len()).copy_from_slice(part)),
        }
        return Some(pkt);
    }
    fill_large(net, pkt, parts, len)
}

/// The same for what does not fit the head.
#[inline(never)]
fn fill_large(net: &mut Net, mut pkt: Pkt, parts: &[&[u8]], len: usize) -> Option<Pkt> {
    debug_assert!(len <= LARGE, "a datagram fits one large buffer");
    let Some(mut buf) = net.pool.alloc_large() else {
        net.pool.free(pkt);
        return None;
    };
    let mut at = 0;
    for part in parts {
        buf[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    pkt.add_buf(buf, 0, len);
    Some(pkt)
}

/// Puts the header in front and hands the datagram to IpOut; the checksum is left to the sender.
#[inline(always)]
fn udp_send_skb(net: &mut Net, mut pkt: Pkt) {
    let len = pkt.len() + UdpHdr::LEN;
    let (src_port, dst_port) = (pkt.sport, pkt.dport);
    let csum = !csum_fold(pseudo(pkt.src, pkt.dst, len, IPPROTO_UDP));
    UdpHdr { src_port, dst_port, len: len as u16, csum }.emit(pkt.push(UdpHdr::LEN));
    pkt.transport = pkt.data_offset();
    pkt.csum = Csum::Partial { start: 0, offset: 6 };
    net.counts.inc(if pkt.src.is_ipv4() { id::UdpOutDatagrams } else { id::Udp6OutDatagrams });
    net.send(pkt);
}

impl Net {
    /// A transport made this packet: its way down begins at IpOut.
    #[inline]
    pub(crate) fn send(&mut self, pkt: Pkt) {
        let flow = self.counts.flow(Stage::Send);
        flow.make(1);
        flow.pass(1);
        self.ip_out.push_back(pkt);
    }
}
