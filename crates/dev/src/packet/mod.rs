//! AF_PACKET: Ethernet frames of an interface, through a raw socket.
//!
//! [`Packet`] moves a frame with each system call; [`ring`] shares rings with the kernel and may
//! have several queues.
//!
//! The way to a veth where `/dev/net/tun` may not be opened. `PACKET_VNET_HDR` brings and takes
//! super-packets and partial checksums as on a TUN. The kernel takes one VLAN tag out of each
//! frame it shows us and tells it aside: it goes into the packet's metadata, or back into the
//! frame if it is not 802.1Q.
//!
//! before: the interface   after: [`crate::drive`]; on the way out the other way round
//! Linux:  net/packet/af_packet.c `packet_rcv`, `packet_snd`
//! drops:  VnetHdr, RingTruncated; what the socket's buffer had no room for is counted as RingFull

pub mod ring;
pub mod steer;

use crate::burst::{self, OneByOne, Tries};
use crate::device::{Caps, Counts, Device, Layer, RxCx};
use crate::netdev::{Link, Losses};
use crate::offload;
use crate::sys::packet::{self as sys, Flag, Received};
use crate::vnet::{self, Vnet};
use linerate_core::pkt::{Batch, Buf, Csum, LARGE, Pkt};
use linerate_core::table::Reason;
use rustix::net::sockopt;
use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// How to open a packet socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Super-packets and partial checksums both ways.
    pub vnet_hdr: bool,
    /// Send past the queueing discipline.
    pub qdisc_bypass: bool,
    /// Take frames for other Ethernet addresses as well.
    pub promisc: bool,
    /// Bytes of kernel memory for what waits to be received; 0: the system's default.
    pub rcvbuf_bytes: usize,
    /// Bytes of kernel memory for what waits to be sent; 0: the system's default.
    pub sndbuf_bytes: usize,
}

impl Default for Config {
    fn default() -> Config {
        // A super-packet costs its 64 KiB and bookkeeping: the default of 208 KiB holds three.
        let (rcvbuf_bytes, sndbuf_bytes) = (8 << 20, 4 << 20);
        let vnet_hdr = true;
        Config { vnet_hdr, qdisc_bypass: false, promisc: false, rcvbuf_bytes, sndbuf_bytes }
    }
}

/// Why there is no packet socket. The sentence says what to do.
#[derive(Debug)]
pub struct PacketError {
    name: String,
    what: &'static str,
    source: io::Error,
}

impl PacketError {
    /// The errno.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        self.source.raw_os_error()
    }
}

impl fmt::Display for PacketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PacketError { name, what, source } = self;
        write!(f, "cannot {what} a packet socket on {name}: {source}")?;
        if self.errno() == Some(libc::EPERM) {
            f.write_str("; this needs CAP_NET_RAW in the user namespace that owns the network")?;
        }
        Ok(())
    }
}

impl std::error::Error for PacketError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

impl From<PacketError> for io::Error {
    fn from(err: PacketError) -> io::Error {
        io::Error::new(err.source.kind(), err)
    }
}

const ETH_P_8021Q: u16 = 0x8100;
const VLAN_HLEN: usize = 4;
const MACS: usize = 12;
/// Largest super-packet Linux makes by default (`GSO_LEGACY_MAX_SIZE`).
const GSO_BYTES_MAX: u32 = 65536;

/// A raw packet socket on one interface.
pub struct Packet {
    fd: OwnedFd,
    name: String,
    caps: Caps,
    large: Option<Buf>,
    counts: Counts,
    tries: Tries,
    /// Frames that the socket lost, as far as it was asked.
    socket_lost: u64,
    losses: Option<Losses>,
}

impl fmt::Debug for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packet").field("name", &self.name).field("caps", &self.caps).finish()
    }
}

impl Packet {
    /// Opens a socket on `link`, in the network namespace of the calling thread.
    ///
    /// # Errors
    /// [`PacketError`]: `EPERM`, `ENODEV`.
    pub fn open(link: &Link, config: Config) -> Result<Packet, PacketError> {
        let name = link.name.clone();
        let fd = sys::open().map_err(|source| PacketError { name, what: "open", source })?;
        Packet::attach(fd, link, config)
    }

    /// Sets up and binds a socket that [`sys::open`] made, possibly in another process and
    /// namespace, where `link` is.
    ///
    /// # Errors
    /// [`PacketError`]: `EPERM`, `ENODEV`.
    pub fn attach(fd: OwnedFd, link: &Link, config: Config) -> Result<Packet, PacketError> {
        let fail = |what| {
            let name = link.name.clone();
            move |source| PacketError { name, what, source }
        };
        if config.vnet_hdr {
            sys::set_flag(&fd, Flag::VnetHdr, true).map_err(fail("set PACKET_VNET_HDR on"))?;
        }
        sys::set_flag(&fd, Flag::Auxdata, true).map_err(fail("set PACKET_AUXDATA on"))?;
        if config.qdisc_bypass {
            sys::set_flag(&fd, Flag::QdiscBypass, true)
                .map_err(fail("set PACKET_QDISC_BYPASS on"))?;
        }
        // Linux 4.20; before, frames sent by others are told apart by their type below.
        let _ = sys::set_flag(&fd, Flag::IgnoreOutgoing, true);
        set_buffers(&fd, config).map_err(fail("set the buffers of"))?;
        if config.promisc {
            sys::add_promisc(&fd, link.index).map_err(fail("set promiscuous mode on"))?;
        }
        sys::bind(&fd, link.index).map_err(fail("bind"))?;
        Ok(Packet::from_fd(fd, link, config.vnet_hdr))
    }

    /// Takes over a socket that [`Packet::open`] made, possibly in another process and namespace:
    /// what is known of the interface comes along as `link`.
    #[must_use]
    pub fn from_fd(fd: OwnedFd, link: &Link, vnet_hdr: bool) -> Packet {
        let caps = Caps {
            layer: Layer::Ethernet,
            mtu: link.mtu,
            mac: link.mac,
            rx_offload: vnet_hdr,
            tx_csum: vnet_hdr,
            tso: vnet_hdr,
            uso: vnet_hdr,
            gso_bytes_max: if vnet_hdr { GSO_BYTES_MAX } else { 0 },
        };
        let (name, counts) = (link.name.clone(), Counts::default());
        let (large, tries, losses) = (None, Tries::default(), None);
        Packet { fd, name, caps, large, counts, tries, socket_lost: 0, losses }
    }

    /// Gives the socket away, to be handed to another process.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Where to read what the other end of the wire dropped on the way to this one (a veth pair's,
    /// whose backlog here was full). What the socket itself loses is counted without it.
    pub fn set_losses(&mut self, losses: Losses) {
        self.losses = Some(losses);
    }

    /// Receives one frame; `None` if none waits or there is no memory for it.
    fn packet_recvmsg(&mut self, cx: &mut RxCx<'_>) -> io::Result<Option<(Pkt, Option<Reason>)>> {
        let Some(mut pkt) = cx.pool.alloc() else {
            self.counts.rx_no_buffer += 1;
            return Ok(None);
        };
        if self.large.is_none() {
            self.large = cx.pool.alloc_large();
        }
        let Some(large) = &mut self.large else {
            self.counts.rx_no_buffer += 1;
            cx.pool.free(pkt);
            return Ok(None);
        };
        let mut hdr = [0u8; vnet::LEN_LEGACY];
        let hdr_len = if self.caps.rx_offload { vnet::LEN_LEGACY } else { 0 };
        let room = pkt.tailroom();
        let mut iov = [
            IoSliceMut::new(hdr.get_mut(..hdr_len).unwrap_or_default()),
            IoSliceMut::new(pkt.spare_mut()),
            IoSliceMut::new(large),
        ];
        let iov = if hdr_len == 0 { &mut iov[1..] } else { &mut iov[..] };
        let got = loop {
            match sys::recv(&self.fd, iov) {
                Ok(got) if got.outgoing => {}
                Ok(got) => break got,
                Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
                Err(err) => {
                    cx.pool.free(pkt);
                    let none = err.kind() == io::ErrorKind::WouldBlock;
                    return if none { Ok(None) } else { Err(err) };
                }
            }
        };
        let len = got.len.saturating_sub(hdr_len);
        pkt.received(len.min(room));
        if let Some(rest) = len.checked_sub(room).filter(|&rest| rest > 0)
            && let Some(large) = self.large.take()
        {
            pkt.add_buf(large, 0, rest.min(LARGE));
        }
        pkt.rx_time = cx.now;
        pkt.dev = cx.dev;
        let hdr = self.caps.rx_offload.then_some(&hdr[..]);
        let refused = describe(&mut pkt, hdr, got, &mut self.counts).err();
        Ok(Some((pkt, refused)))
    }

    fn packet_snd(&mut self, pkt: &Pkt) -> io::Result<usize> {
        send(&self.fd, pkt, self.caps.tx_csum)
    }
}

/// Fills in what the kernel said of a frame: in `hdr`, if the socket has such, and in `got`.
fn describe(
    pkt: &mut Pkt,
    hdr: Option<&[u8]>,
    got: Received,
    counts: &mut Counts,
) -> Result<(), Reason> {
    if got.truncated {
        counts.rx_truncated += 1;
        return Err(Reason::RingTruncated);
    }
    // The header counts from the frame as we got it, so it is read before a tag goes back in.
    if let Some(hdr) = hdr {
        let l2 = offload::ether_len(pkt.head());
        Vnet::parse(hdr, pkt.len()).and_then(|vnet| offload::receive(pkt, vnet, l2)).map_err(
            |err| {
                counts.rx_vnet[err.index()] += 1;
                Reason::VnetHdr
            },
        )?;
    }
    match got.vlan {
        Some((ETH_P_8021Q, tci)) => pkt.vlan = Some(tci),
        Some((tpid, tci)) => insert_tag(pkt, tpid, tci),
        None => {}
    }
    Ok(())
}

/// The checksum of a frame whose sender left it unfinished, where the kernel says no more than that:
/// found by the headers. What has others than TCP's or UDP's stays as it is.
fn partial_csum(pkt: &mut Pkt) {
    let l2 = offload::ether_len(pkt.head());
    let Some(ip) = pkt.head().get(l2..) else { return };
    let (start, proto) = match (ip.first().map(|b| b >> 4), ip.get(9), ip.get(6)) {
        (Some(4), Some(&proto), _) => (u16::from(ip[0] & 0xf) * 4, proto),
        (Some(6), _, Some(&next)) => (40, next),
        _ => return,
    };
    let offset = match libc::c_int::from(proto) {
        libc::IPPROTO_TCP => 16,
        libc::IPPROTO_UDP => 6,
        _ => return,
    };
    if start >= 20 && usize::from(start + offset) + 2 <= ip.len() {
        pkt.csum = Csum::Partial { start, offset };
    }
}

/// Sends one frame by one system call, from where its parts lie.
fn send(fd: &OwnedFd, pkt: &Pkt, vnet_hdr: bool) -> io::Result<usize> {
    framed(pkt, vnet_hdr, |prefix, skip| {
        offload::gather(prefix, pkt, skip, |parts| {
            Ok(rustix::io::retry_on_intr(|| rustix::io::writev(fd, parts))?)
        })
    })
}

/// Calls `put` with what a frame to be sent begins with, a `virtio_net_hdr` and the part of its head
/// that a VLAN tag goes behind, and with how many bytes of its head that part replaces.
///
/// # Errors
/// Those of `put`; `EINVAL` if the packet says of itself what no header can express.
fn framed<T>(
    pkt: &Pkt,
    vnet_hdr: bool,
    put: impl FnOnce(&[&[u8]], usize) -> io::Result<T>,
) -> io::Result<T> {
    let refused = || io::Error::from_raw_os_error(libc::EINVAL);
    let tag = pkt.vlan.map(|tci| {
        let ([a, b], [c, d]) = (ETH_P_8021Q.to_be_bytes(), tci.to_be_bytes());
        [a, b, c, d]
    });
    let mut hdr = [0u8; vnet::LEN];
    let mut hdr_len = 0;
    if vnet_hdr {
        let inserted = if tag.is_some() { VLAN_HLEN } else { 0 };
        hdr = offload::transmit(pkt, inserted).ok_or_else(refused)?.emit();
        hdr_len = vnet::LEN_LEGACY;
    }
    let hdr = hdr.get(..hdr_len).unwrap_or_default();
    match &tag {
        None => put(&[hdr], 0),
        Some(tag) => {
            let macs = pkt.head().get(..MACS).ok_or_else(refused)?;
            put(&[hdr, macs, tag], MACS)
        }
    }
}

fn set_buffers(fd: &OwnedFd, config: Config) -> io::Result<()> {
    if config.rcvbuf_bytes > 0
        && sockopt::set_socket_recv_buffer_size_force(fd, config.rcvbuf_bytes).is_err()
    {
        // Without the right to force it, as much as net.core.rmem_max allows.
        sockopt::set_socket_recv_buffer_size(fd, config.rcvbuf_bytes)?;
    }
    if config.sndbuf_bytes > 0 {
        sockopt::set_socket_send_buffer_size(fd, config.sndbuf_bytes)?;
    }
    Ok(())
}

/// Puts a VLAN tag between the addresses and the ethertype.
fn insert_tag(pkt: &mut Pkt, tpid: u16, tci: u16) {
    if pkt.head_len() < MACS || pkt.headroom() < VLAN_HLEN {
        return;
    }
    pkt.push(VLAN_HLEN);
    let head = pkt.head_mut();
    head.copy_within(VLAN_HLEN..VLAN_HLEN + MACS, 0);
    if let Some(tag) = head.get_mut(MACS..MACS + VLAN_HLEN) {
        let ([a, b], [c, d]) = (tpid.to_be_bytes(), tci.to_be_bytes());
        tag.copy_from_slice(&[a, b, c, d]);
    }
}

impl OneByOne for Packet {
    fn read(&mut self, cx: &mut RxCx<'_>) -> io::Result<Option<(Pkt, Option<Reason>)>> {
        self.packet_recvmsg(cx)
    }

    fn write(&mut self, pkt: &Pkt) -> io::Result<usize> {
        self.packet_snd(pkt)
    }

    fn is_gone(_: &io::Error) -> bool {
        false
    }

    fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }

    fn tries_mut(&mut self) -> &mut Tries {
        &mut self.tries
    }
}

impl Device for Packet {
    fn name(&self) -> &str {
        &self.name
    }

    fn caps(&self) -> Caps {
        self.caps
    }

    fn rx_burst(&mut self, cx: &mut RxCx<'_>, out: &mut Batch, budget: usize) -> io::Result<usize> {
        burst::rx_burst(self, cx, out, budget)
    }

    fn tx_burst(
        &mut self,
        ring: &mut VecDeque<Pkt>,
        done: &mut Vec<(Pkt, bool)>,
    ) -> io::Result<usize> {
        burst::tx_burst(self, ring, done)
    }

    fn poll_fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.fd.as_fd())
    }

    fn counts(&self) -> Counts {
        self.counts
    }

    /// Frames that met a full socket, and those that did not come as far as the socket.
    fn count_overflow(&mut self) {
        // The kernel's count starts anew with each answer. It has no reason to fail; if it did,
        // the next answer would carry the frames of this one.
        if let Ok((_, drops)) = sys::statistics(&self.fd) {
            self.socket_lost += u64::from(drops);
        }
        let before = self.losses.as_mut().map_or(0, Losses::read);
        self.counts.overflow = self.socket_lost + before;
    }
}
