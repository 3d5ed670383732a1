//! Signed segments: each carries a digest of itself and of a key that both ends have been given (BGP's
//! protection against strangers who reset its connections).
//!
//! before: [`super::input`], [`super::output`]
//! Linux:  net/ipv4/tcp_ipv4.c `tcp_v4_md5_hash_skb`, `tcp_md5_do_add`; `tcp_v4_send_reset`; tcp.c `tcp_inbound_md5_hash`
//! RFCs:   2385
//! drops:  TcpMd5NotFound, TcpMd5Unexpected, TcpMd5Failure

use std::fmt;
use std::net::IpAddr;

use md5::{Digest, Md5};

use super::input::Segment;
use super::opts::TcpOpt;
use super::output::send_reset;
use super::sockets::Sockets;
use super::{Tcb, Tuple};
use crate::pkt::Pkt;
use crate::shard::Shard;
use crate::sock::error::TcpError;
use crate::table::Reason;
use crate::wire::IPPROTO_TCP;
use crate::wire::tcp::{TCP_HLEN, TcpHdr};
use crate::wire::tcp_md5::{self, TCPOLEN_MD5SIG_ALIGNED};

/// The longest key in bytes (`TCP_MD5SIG_MAXKEYLEN`).
pub const MD5_KEY_MAX: usize = 80;

/// A key, and the peers with which segments are signed by it (`struct tcp_md5sig`).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Md5Sig {
    peer: IpAddr,
    prefix_len: u8,
    len: u8,
    key: [u8; MD5_KEY_MAX],
}

impl fmt::Debug for Md5Sig {
    /// The key is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Md5Sig({}/{}, {} bytes)", self.peer, self.prefix_len, self.len)
    }
}

impl Md5Sig {
    /// A key for one peer, or, with the length of a prefix in bits, for many (TCP_MD5SIG_EXT). An empty key takes
    /// that which was set for the same peers away.
    ///
    /// # Errors
    /// `Invalid` (EINVAL): more than 80 bytes of key, or more bits than the address has.
    pub fn new(peer: IpAddr, prefix_len: Option<u8>, key: &[u8]) -> Result<Md5Sig, TcpError> {
        let bits = if peer.is_ipv4() { 32 } else { 128 };
        let prefix_len = prefix_len.unwrap_or(bits);
        let mut sig = Md5Sig { peer, prefix_len, len: key.len() as u8, key: [0; MD5_KEY_MAX] };
        match sig.key.get_mut(..key.len()) {
            Some(room) if prefix_len <= bits => room.copy_from_slice(key),
            _ => return Err(TcpError::Invalid),
        }
        Ok(sig)
    }
    fn key(&self) -> &[u8] {
        self.key.get(..usize::from(self.len)).unwrap_or_default()
    }
    /// Whether it is for the same peers.
    pub(super) fn same_peers(&self, other: &Md5Sig) -> bool {
        (self.peer, self.prefix_len) == (other.peer, other.prefix_len)
    }
    /// Whether it takes one away.
    pub(super) fn is_removal(&self) -> bool {
        self.len == 0
    }
    /// Whether it is for this peer.
    pub(super) fn covers(&self, peer: IpAddr) -> bool {
        let len = u32::from(self.prefix_len);
        match (self.peer, peer) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(32 - len).unwrap_or(0) == 0
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                (a.to_bits() ^ b.to_bits()).checked_shr(128 - len).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

/// The key that a listener with these options has for a peer: that of the longest prefix
/// (`__tcp_md5_do_lookup`).
pub(super) fn key_of(opts: &[TcpOpt], peer: IpAddr) -> Option<&Md5Sig> {
    let keys = opts.iter().filter_map(|opt| match opt {
        TcpOpt::Md5Sig(sig) if sig.covers(peer) => Some(sig),
        _ => None,
    });
    keys.max_by_key(|sig| sig.prefix_len)
}

impl Tcb {
    /// The key by which segments are signed, if they are.
    #[inline]
    pub(super) fn md5(&self) -> Option<&Md5Sig> {
        self.opts().and_then(|o| o.md5.as_deref())
    }
    /// Sets or takes away a key (`tcp_md5_do_add`, `tcp_md5_do_del`); those for others do not count.
    pub(super) fn set_md5(&mut self, sig: Md5Sig) -> Result<(), TcpError> {
        let held = self.md5().copied();
        if sig.is_removal() {
            let same = held.is_some_and(|h| h.same_peers(&sig));
            if same {
                self.opts_mut().md5 = None;
            }
            return if same { Ok(()) } else { Err(TcpError::NoKey) };
        }
        let better = held.is_none_or(|held| sig.prefix_len >= held.prefix_len);
        if sig.covers(self.tuple.remote) && better {
            self.opts_mut().md5 = Some(Box::new(sig));
        }
        Ok(())
    }
    /// SACK blocks for which a segment has room beside its other options.
    #[inline]
    pub(super) fn sack_room(&self) -> usize {
        match (self.ts_ok, self.md5().is_some()) {
            (false, false) => 4,
            (true, false) => 3,
            (false, true) => 2,
            (true, true) => 0,
        }
    }
    /// Whether a segment for the connection is signed as it must be (`tcp_inbound_hash`).
    #[inline]
    pub(super) fn inbound_hash(&self, signed: bool, pkt: &Pkt) -> Result<(), Reason> {
        let key = self.md5();
        if key.is_none() && !signed { Ok(()) } else { inbound_hash(key, signed, &self.tuple, pkt) }
    }
}

impl Shard {
    /// Answers a segment that belongs to no connection, its header off already, by a reset (RFC 9293
    /// §3.10.7.1; `tcp_v4_send_reset`).
    ///
    /// A signed one is answered only where its key is known, and by that: the connection of which its sender
    /// still knows was lost here, as by a restart, and began here; the key is then that of the listener at the
    /// sender's own port, since who speaks to that port is spoken to at it as well.
    #[cold]
    pub(super) fn tcp_v4_send_reset(&mut self, tuple: &Tuple, seg: &Segment, pkt: &Pkt) {
        if !seg.opts.signed {
            return send_reset(&mut self.net, tuple, seg, None);
        }
        let Sockets { listen, listeners, .. } = &self.tcp;
        let listener = listen.find(listeners, tuple.local, tuple.rport);
        let Some(key) = listener.and_then(|found| self.tcp.listener_key(found, tuple)) else {
            return;
        };
        if inbound_hash(Some(&key), true, tuple, pkt).is_ok() {
            send_reset(&mut self.net, tuple, seg, Some(&key));
        }
    }
}

/// Whether a segment, its header off already, is signed as it must be (`tcp_inbound_md5_hash`).
#[cold]
pub(super) fn inbound_hash(
    key: Option<&Md5Sig>,
    signed: bool,
    tuple: &Tuple,
    pkt: &Pkt,
) -> Result<(), Reason> {
    let key = match (key, signed) {
        (None, false) => return Ok(()),
        (None, true) => return Err(Reason::TcpMd5Unexpected),
        (Some(_), false) => return Err(Reason::TcpMd5NotFound),
        (Some(key), true) => key,
    };
    let header = pkt.from_transport();
    let (Ok(hdr), Some(fixed)) = (TcpHdr::parse(header), header.first_chunk()) else {
        return Err(Reason::TcpMd5Failure);
    };
    let told = tcp_md5::signature(hdr.options(header));
    let ends = (tuple.remote, tuple.local);
    let len = hdr.data_off_bytes + pkt.len();
    let made = digest(ends, fixed, len, pkt.slices(), key);
    if told == Some(made) { Ok(()) } else { Err(Reason::TcpMd5Failure) }
}

/// Signs a segment that is ready but for its checksum; `at`: where its options begin, after which room was left
/// (`tcp_v4_md5_hash_skb`).
pub(super) fn sign(pkt: &mut Pkt, tuple: &Tuple, hlen: usize, key: &Md5Sig) {
    let mut header = [0; TCP_HLEN];
    let copied = pkt.copy_bits(0, &mut header);
    assert_eq!(copied, TCP_HLEN, "a segment that is sent has a header");
    let mut skip = hlen;
    let data = pkt.slices().map(|slice| {
        let n = skip.min(slice.len());
        skip -= n;
        &slice[n..]
    });
    let made = digest((tuple.local, tuple.remote), &header, pkt.len(), data, key);
    let room = &mut pkt.head_mut()[TCP_HLEN..TCP_HLEN + TCPOLEN_MD5SIG_ALIGNED];
    tcp_md5::emit(&made, room);
}

/// The digest: of a pseudo-header, of the header without its options and with a checksum of 0, of the data, of the
/// key (RFC 2385 §2.0). `len` is that of header and data.
pub(super) fn digest<'a>(
    (from, to): (IpAddr, IpAddr),
    header: &[u8; TCP_HLEN],
    len: usize,
    data: impl Iterator<Item = &'a [u8]>,
    key: &Md5Sig,
) -> [u8; 16] {
    let mut md5 = Md5::new();
    for addr in [from, to] {
        match addr {
            IpAddr::V4(a) => md5.update(a.octets()),
            IpAddr::V6(a) => md5.update(a.octets()),
        }
    }
    if from.is_ipv4() {
        md5.update([0, IPPROTO_TCP]);
        md5.update((len as u16).to_be_bytes());
    } else {
        md5.update((len as u32).to_be_bytes());
        md5.update([0, 0, 0, IPPROTO_TCP]);
    }
    let mut header = *header;
    header[16..18].fill(0);
    md5.update(header);
    for slice in data {
        md5.update(slice);
    }
    md5.update(key.key());
    md5.finalize().into()
}
