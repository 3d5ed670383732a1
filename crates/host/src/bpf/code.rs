//! The programs that the kernel runs, what they are made for, and where they keep what they know: of softirqs and
//! polls ([`softirq`]), of packets ([`packet`]), of readers of UDP sockets ([`udp`]). What each does is said beside it.
//!
//! Three maps hold what they know. `hists` has a histogram for each [`Place`], `state` what a processor
//! remembers, both with a value for each processor; `rx` and `tx` have the packets that are followed,
//! where the lower bits of a packet's address say in which slot it would be. A slot that is taken by
//! another packet is overwritten: so memory is bounded, and a look costs one comparison.

mod packet;
mod program;
mod softirq;
mod udp;

use linerate_bpf::sys::Map;

use super::hist::BUCKETS;

/// Places of softirqs: a power of two.
pub const VECTORS_MAX: i32 = 16;

/// Devices that have histograms of their own; the last stands for all others.
pub const DEVICES: u32 = 64;
/// Names of devices that are known at most.
pub const NAMES_MAX: u32 = 256;
/// The name of a device, its namespace and its index.
pub const NAME_SIZE: usize = 24;

/// Slots of `rx` and `tx`.
pub const SLOTS: u32 = 1 << SLOT_BITS;
const SLOT_BITS: i32 = 13;
/// The packet, when it was first seen, when it came to the middle of its way.
pub const SLOT_SIZE: usize = 24;
const PACKET: i16 = 0;
const BEGUN: i16 = 8;
const MIDDLE: i16 = 16;

/// Slots of `socks`.
pub const SOCKS: u32 = 1 << SOCK_BITS;
const SOCK_BITS: i32 = 12;
/// The socket, and how often somebody has read from it.
pub const SOCK_SIZE: usize = 16;
const SOCK: i16 = 0;
const READS: i16 = 8;

/// Of `turns`, which has as many slots as `rx`: the socket, by which of its reads a packet will come,
/// the packet.
pub const TURN_SIZE: usize = 24;
const TURN: i16 = 8;
const FOLLOWED: i16 = 16;

/// A histogram in `hists`: sum, largest, buckets.
pub const HIST_SIZE: usize = 16 + 8 * BUCKETS;
const SUM: i16 = 0;
const MAX: i16 = 8;
const COUNTS: i16 = 16;

/// What a processor remembers: when its softirq began; when its poll began; whether it is in NET_RX;
/// packets until the next is followed; when each vector was raised.
pub const STATE_SIZE: usize = 40 + 8 * VECTORS_MAX as usize;
const ENTERED: i16 = 0;
const POLLING: i16 = 8;
const IN_RX: i16 = 16;
const SKIP_RX: i16 = 24;
const SKIP_TX: i16 = 32;
const RAISED: i16 = 40;

/// Histograms, by their number in `hists`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Time of softirqs, by vector.
    Softirq = 0,
    /// From raise to entry, by vector.
    Delay = 16,
    /// From `netif_receive_skb` to the queue of a UDP socket.
    UdpQueued = 32,
    /// From there to the reader.
    UdpWaited,
    /// From `netif_receive_skb` to the reader of a UDP socket.
    UdpRead,
    /// From `netif_receive_skb` to an established TCP connection.
    TcpQueued,
    /// From there to the reader, of what is read as it came.
    CopyWaited,
    /// From `netif_receive_skb` to the reader: TCP, raw and packet sockets.
    CopyRead,
    /// From `netif_receive_skb` to a drop.
    Dropped,
    /// From `netif_receive_skb` to the end of a packet that nobody read.
    Consumed,
    /// From `dev_queue_xmit` to the driver.
    Qdisc,
    /// In the driver.
    Driver,
    /// Two for each device: packets of a poll, and its time.
    Devices = 48,
}

/// Histograms in all.
pub const HISTS: u32 = Place::Devices as u32 + 2 * DEVICES;

/// Where fields lie, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `sk_buff.dev`.
    pub skb_dev: i16,
    /// `sk_buff.skb_iif`: the device that it came in by; 0 of those that were made here.
    pub skb_iif: i16,
    /// `napi_struct.dev`.
    pub napi_dev: i16,
    /// `net_device.name`.
    pub dev_name: i16,
    /// `net_device.ifindex`.
    pub dev_ifindex: i16,
    /// `net_device.nd_net.net`.
    pub dev_net: i16,
    /// `net.ns.inum`.
    pub net_inum: i16,
}

/// What is needed to find a packet in the queue of a UDP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFields {
    /// `sock.sk_protocol`, two bytes.
    pub protocol: i16,
    /// `sock.sk_receive_queue.prev`: its last packet.
    pub last: i16,
    /// `sock.sk_receive_queue.qlen`.
    pub queued: i16,
    /// `udp_sock.reader_queue.qlen`: packets that the reader has put aside for itself.
    pub aside: i16,
    /// The number of `struct udp_sock`.
    pub udp_sock: u32,
    /// The number of `bpf_rdonly_cast`, which makes one of a `struct sock`.
    pub cast: u32,
}

/// The maps.
#[derive(Debug)]
pub struct Maps {
    pub hists: Map,
    pub state: Map,
    pub names: Map,
    /// How many numbers of devices were given away.
    pub given: Map,
    pub rx: Map,
    pub tx: Map,
    /// Readers of UDP sockets, and the packets that they will come to.
    pub socks: Map,
    pub turns: Map,
}

/// What the programs are made for.
pub struct Code<'a> {
    pub maps: &'a Maps,
    pub fields: Fields,
    /// If they are all known.
    pub udp: UdpFields,
    /// The number of the softirq NET_RX.
    pub net_rx: u8,
    /// One packet in so many is followed.
    pub sample: u32,
    /// Of packets, those in this namespace only.
    pub netns: Option<u32>,
}
