//! What travels: [`Pkt`], and what a stage says of it: [`Verdict`].

mod batch;
mod buf;
mod chunk;
mod csum;
mod frags;
mod join;
mod pool;

pub use batch::Batch;
pub use buf::{Buf, HEADROOM, Home, LARGE, SMALL};
pub(crate) use chunk::Watch;
pub use chunk::{Lent, SendChunk};
pub use csum::pseudo;
pub use frags::Frags;
pub use join::Cursor;
pub use pool::{Depot, Pool};

use std::net::{IpAddr, Ipv4Addr};
use std::ops::{Deref, DerefMut};

use crate::sock::SocketId;
use crate::table::Reason;
use crate::time::Instant;
use frags::{FRAGS, Frag};

/// A packet (Linux: `struct sk_buff *`): an owned handle of 8 bytes to a recycled box. It can not
/// be copied or forgotten: a stage consumes it into a [`Verdict`].
///
/// A packet is a head, which holds the headers and is writable, and fragments, which hold the rest.
/// What is received lies in pool buffers of its own; what is sent shares its payload with the send
/// queue, read-only.
pub struct Pkt(Box<Skb>);

/// What a stage says of a packet that it consumed.
#[must_use]
pub enum Verdict {
    /// On to the next stage.
    Pass(Pkt),
    /// The journey ends here as it should.
    Taken,
    /// Moved on by the stage itself, into the queue of a later stage.
    Queued,
    /// Waits in this stage's own queue; the stage has counted it as held.
    Held,
    /// Dropped, and why.
    Drop(Pkt, Reason),
}

/// What [`Skb::queue`] is of a packet that came by no queue, and is to leave by none yet.
pub const NO_QUEUE: u8 = u8::MAX;

/// [`Skb::tapped`]: the loop's tap has seen it (`--pcap`).
pub const TAPPED_LOOP: u8 = 1;
/// [`Skb::tapped`]: captures have seen it in its transmit ring.
pub const TAPPED_RING: u8 = 2;

/// What is known about the transport checksum (Linux: `ip_summed`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Csum {
    /// Nothing: received, it must be verified; sent, it is complete (`CHECKSUM_NONE`).
    #[default]
    None,
    /// Verified, or vouched for by the sender's kernel (`CHECKSUM_UNNECESSARY`).
    Verified,
    /// Only the pseudo header is summed: the rest, from `start` on, is to be summed and stored at
    /// `start + offset` (`CHECKSUM_PARTIAL`). `start` counts from the network header.
    Partial {
        /// Where summing begins, in bytes from the network header.
        start: u16,
        /// Where the checksum lies, in bytes from `start`.
        offset: u16,
    },
}

/// What kind of super-packet it is (Linux: `gso_type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GsoKind {
    /// TCP over IPv4 (`SKB_GSO_TCPV4`).
    Tcp4,
    /// TCP over IPv6 (`SKB_GSO_TCPV6`).
    Tcp6,
    /// UDP, each segment a datagram (`SKB_GSO_UDP_L4`).
    Udp,
}

/// A super-packet: one set of headers for many wire packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gso {
    /// What is to be cut.
    pub kind: GsoKind,
    /// Payload bytes of each segment but the last (`gso_size`).
    pub size: u16,
    /// How many segments there are (`gso_segs`).
    pub segs: u16,
    /// TCP with CWR set: only the first segment carries it (`SKB_GSO_TCP_ECN`).
    pub ecn: bool,
}

/// The inside of a [`Pkt`]. The fields that stages set for each other are public.
///
/// The order is that of memory: what every packet needs lies in the first two cache lines, and what
/// is cleared for each packet lies side by side, so that few stores do it.
#[repr(C, align(64))]
pub struct Skb {
    head: Buf,
    frags: Vec<Frag>,
    data: u32,
    tail: u32,
    frag_len: u32,
    /// Flow hash; 0 = none yet.
    pub hash: u32,
    /// Firewall mark.
    pub mark: u32,
    /// Its number in the trace, 0 = not traced.
    pub trace: u32,
    /// All segments of this super-packet carry its IPv4 identification; else they count up from it
    /// (`SKB_GSO_TCP_FIXEDID`).
    pub gso_fixed_id: bool,
    /// Type of service, or traffic class: DSCP and ECN.
    pub tos: u8,
    /// TTL or hop limit; on packets of ours 0 = the default.
    pub ttl: u8,
    /// The queue of its device that it came by, and on the way out the one that it leaves by;
    /// [`NO_QUEUE`] as long as it has none (`skb_rx_queue_recorded`).
    pub queue: u8,
    /// May not be fragmented.
    pub df: bool,
    /// It is a fragment.
    pub frag: bool,
    /// The frame was sent to everybody, or to a group (`pkt_type`).
    pub l2_multicast: bool,
    /// Which taps have seen it on its way out: [`TAPPED_LOOP`], [`TAPPED_RING`].
    pub tapped: u8,
    /// The socket that Demux found.
    pub sock: Option<SocketId>,
    /// Transport checksum.
    pub csum: Csum,
    /// Super-packet.
    pub gso: Option<Gso>,
    /// The VLAN tag that was taken off (TCI), or is to be put on.
    pub vlan: Option<u16>,
    /// Where the network header begins, in bytes from the start of the head's memory.
    pub network: u32,
    /// Where the transport header begins, likewise.
    pub transport: u32,
    /// Ethertype (`ETH_P_*`).
    pub proto: u16,
    /// IP protocol, after extension headers (`IPPROTO_*`).
    pub ip_proto: u8,
    /// The device it came in by, or is to leave by.
    pub dev: u8,
    /// Source port, once Demux has read it.
    pub sport: u16,
    /// Destination port.
    pub dport: u16,
    /// What looking ahead found in Demux's table, to be checked; 0 = nothing. Of a packet that a connection
    /// is charged with: which.
    pub(crate) hint: u32,
    /// When it was taken off the ring.
    pub rx_time: Instant,
    /// Source address, once the IP stage has read it; for packets of ours, before the header exists.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// The address of the next hop, once routed.
    pub nexthop: IpAddr,
    /// Bytes that the connection is charged with that sent it, until it leaves its queue or is freed
    /// (`sk_wmem_alloc`).
    pub(crate) charge: u32,
}

const _: () = assert!(size_of::<Verdict>() == 16 && size_of::<Pkt>() == 8);
const _: () = assert!(size_of::<Skb>() == 192 && std::mem::offset_of!(Skb, rx_time) <= 128);

impl Deref for Pkt {
    type Target = Skb;
    #[inline]
    fn deref(&self) -> &Skb {
        &self.0
    }
}
impl DerefMut for Pkt {
    #[inline]
    fn deref_mut(&mut self) -> &mut Skb {
        &mut self.0
    }
}

impl std::fmt::Debug for Pkt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pkt({} bytes, {} -> {}, proto {})",
            self.len(),
            self.src,
            self.dst,
            self.ip_proto
        )
    }
}

const NOWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

impl Skb {
    fn new(head: Buf) -> Skb {
        Skb {
            head,
            data: HEADROOM as u32,
            tail: HEADROOM as u32,
            frag_len: 0,
            frags: Vec::with_capacity(FRAGS),
            rx_time: Instant::ZERO,
            src: NOWHERE,
            dst: NOWHERE,
            sport: 0,
            dport: 0,
            hint: 0,
            charge: 0,
            network: 0,
            transport: 0,
            hash: 0,
            mark: 0,
            sock: None,
            csum: Csum::None,
            gso: None,
            gso_fixed_id: false,
            proto: 0,
            ip_proto: 0,
            tos: 0,
            ttl: 0,
            dev: 0,
            queue: NO_QUEUE,
            df: false,
            frag: false,
            l2_multicast: false,
            vlan: None,
            nexthop: NOWHERE,
            trace: 0,
            tapped: 0,
        }
    }

    /// As new, but for the memory. Addresses and offsets keep their old values: whoever reads them
    /// has set them.
    #[inline]
    fn reset(&mut self) {
        self.data = HEADROOM as u32;
        self.tail = HEADROOM as u32;
        self.frag_len = 0;
        self.forget();
    }

    /// Nothing is known of the packet any more but its bytes: what was received begins a journey of
    /// its own (Linux: `skb_scrub_packet`).
    #[inline]
    pub(crate) fn forget(&mut self) {
        self.hash = 0;
        self.mark = 0;
        self.sock = None;
        self.csum = Csum::None;
        self.gso = None;
        self.gso_fixed_id = false;
        self.tos = 0;
        self.ttl = 0;
        self.queue = NO_QUEUE;
        self.df = false;
        self.frag = false;
        self.l2_multicast = false;
        self.vlan = None;
        self.trace = 0;
        self.tapped = 0;
    }

    /// Bytes in head and fragments (`skb->len`).
    #[inline]
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        (self.tail - self.data + self.frag_len) as usize
    }
    /// Bytes in the head (`skb_headlen`).
    #[inline]
    pub fn head_len(&self) -> usize {
        (self.tail - self.data) as usize
    }
    /// The bytes in the head.
    #[inline]
    pub fn head(&self) -> &[u8] {
        &self.head[self.data as usize..self.tail as usize]
    }
    /// The bytes in the head, writable.
    #[inline]
    pub fn head_mut(&mut self) -> &mut [u8] {
        &mut self.head[self.data as usize..self.tail as usize]
    }
    /// The first `N` bytes, if the head has so many.
    #[inline(always)]
    pub fn peek<const N: usize>(&self) -> Option<&[u8; N]> {
        if self.head_len() < N {
            return None;
        }
        let at = self.data as usize;
        self.head.get(at..at + N)?.first_chunk()
    }
    /// Room before the head's bytes.
    #[inline]
    pub fn headroom(&self) -> usize {
        self.data as usize
    }
    /// Room behind the head's bytes.
    #[inline]
    pub fn tailroom(&self) -> usize {
        self.head.len() - self.tail as usize
    }
    /// Where the head's bytes begin in its memory: what `network` and `transport` are compared with.
    #[inline]
    pub fn data_offset(&self) -> u32 {
        self.data
    }
    /// The bytes from the network header on, as far as they are in the head.
    #[inline]
    pub fn from_network(&self) -> &[u8] {
        self.head.get(self.network as usize..self.tail as usize).unwrap_or_default()
    }
    /// The same, writable.
    #[inline]
    pub fn from_network_mut(&mut self) -> &mut [u8] {
        self.head.get_mut(self.network as usize..self.tail as usize).unwrap_or_default()
    }
    /// The bytes from the transport header on, as far as they are in the head.
    #[inline]
    pub fn from_transport(&self) -> &[u8] {
        self.head.get(self.transport as usize..self.tail as usize).unwrap_or_default()
    }
    /// The same, writable.
    #[inline]
    pub fn from_transport_mut(&mut self) -> &mut [u8] {
        self.head.get_mut(self.transport as usize..self.tail as usize).unwrap_or_default()
    }
    /// What lies before the head's bytes and was taken off: `n` bytes at memory offset `at`.
    pub fn behind(&self, at: u32, n: usize) -> &[u8] {
        self.head.get(at as usize..at as usize + n).unwrap_or_default()
    }

    /// Takes `n` bytes off the front (`skb_pull`); false, and nothing changes, if the head is shorter.
    #[inline]
    #[must_use]
    pub fn pull(&mut self, n: usize) -> bool {
        let fits = n <= self.head_len();
        if fits {
            self.data += n as u32;
        }
        fits
    }
    /// Takes the first `N` bytes off the front and returns them; `None`, and nothing changes, if
    /// the head is shorter.
    #[inline(always)]
    pub fn pull_chunk<const N: usize>(&mut self) -> Option<[u8; N]> {
        let chunk = *self.peek::<N>()?;
        self.data += N as u32;
        Some(chunk)
    }
    /// Puts `n` bytes, to be written, before the others (`skb_push`).
    ///
    /// # Panics
    /// If there is no headroom: headers of ours always fit [`HEADROOM`].
    #[inline]
    pub fn push(&mut self, n: usize) -> &mut [u8] {
        assert!(n <= self.data as usize, "headers fit the headroom");
        self.data -= n as u32;
        &mut self.head[self.data as usize..][..n]
    }
    /// Adds `n` bytes, to be written, to the end of the head (`skb_put`).
    ///
    /// # Panics
    /// If the head has no such room, or if fragments follow.
    #[inline(always)]
    pub fn put(&mut self, n: usize) -> &mut [u8] {
        assert!(n <= self.tailroom() && self.frags.is_empty(), "the head has room for what is put");
        let at = self.tail as usize;
        self.tail += n as u32;
        &mut self.head[at..][..n]
    }
    /// The free memory behind the head's bytes, for a device to read into; [`Skb::received`] says how much came.
    pub fn spare_mut(&mut self) -> &mut [u8] {
        let at = self.tail as usize;
        &mut self.head[at..]
    }
    /// `n` bytes were read into [`Skb::spare_mut`].
    ///
    /// # Panics
    /// If that is more than there was room for.
    pub fn received(&mut self, n: usize) {
        assert!(n <= self.tailroom(), "a device reads no more than there is room for");
        self.tail += n as u32;
    }
    /// Takes the head's memory out, if it is a chunk of `home` and the packet is nothing but it:
    /// the chunk, and where in it the packet's bytes lie. The packet is empty afterwards and goes
    /// back to the pool.
    pub fn take_chunk(&mut self, home: Home) -> Option<(Buf, usize, usize)> {
        if self.head.home() != Some(home) || !self.frags.is_empty() {
            return None;
        }
        let (data, len) = (self.data as usize, self.head_len());
        (self.data, self.tail) = (0, 0);
        Some((std::mem::replace(&mut self.head, Buf::none()), data, len))
    }
    /// Where the head's memory belongs; `None` for memory of a pool's own.
    #[inline]
    pub fn head_home(&self) -> Option<Home> {
        self.head.home()
    }
    /// The head's bytes lie here now.
    ///
    /// # Panics
    /// If that is not in the head's memory.
    #[inline]
    pub fn set_ends(&mut self, ends: std::ops::Range<usize>) {
        assert!(ends.start <= ends.end && ends.end <= self.head.len(), "a packet lies in its head");
        (self.data, self.tail) = (ends.start as u32, ends.end as u32);
    }
    /// How many wire packets it stands for.
    #[inline]
    pub fn segs(&self) -> u64 {
        match &self.gso {
            None => 1,
            Some(gso) => gso.segs.max(1) as u64,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
