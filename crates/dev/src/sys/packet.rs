//! `AF_PACKET`: raw sockets on an interface. Linux: net/packet/af_packet.c, packet(7).

use super::{check, check_len};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

/// `ETH_P_ALL`, host order.
const ETH_P_ALL: u16 = 0x0003;

/// An on/off option at `SOL_PACKET`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// A 10-byte `virtio_net_hdr` in front of every frame, both ways.
    VnetHdr,
    /// Sends straight to the driver, past the queueing discipline.
    QdiscBypass,
    /// Does not show us the frames other sockets send on this interface.
    IgnoreOutgoing,
    /// Checksum status and the stripped VLAN tag come with each frame.
    Auxdata,
}

/// Opens a non-blocking `SOCK_RAW` packet socket that receives nothing until [`bind`].
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`, `EAFNOSUPPORT` where the kernel has no packet sockets.
pub fn open() -> io::Result<OwnedFd> {
    // Protocol 0: no frame of any other interface slips in between `socket` and `bind`.
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    Ok(rustix::net::socket_with(AddressFamily::PACKET, SocketType::RAW, flags, None)?)
}

/// Sets an on/off option.
///
/// # Errors
/// `ENOPROTOOPT` on a kernel that lacks the option, `EINVAL`/`EBUSY` where it comes too late.
pub fn set_flag(fd: impl AsFd, flag: Flag, on: bool) -> io::Result<()> {
    let name = match flag {
        Flag::VnetHdr => libc::PACKET_VNET_HDR,
        Flag::QdiscBypass => libc::PACKET_QDISC_BYPASS,
        Flag::IgnoreOutgoing => libc::PACKET_IGNORE_OUTGOING,
        Flag::Auxdata => libc::PACKET_AUXDATA,
    };
    set_packet_opt(fd, name, &libc::c_int::from(on))
}

/// Binds to one interface and starts to receive every protocol on it.
///
/// # Errors
/// `ENODEV` if there is no such interface, `ENETDOWN` (reported by the first read) if it is down.
pub fn bind(fd: impl AsFd, ifindex: u32) -> io::Result<()> {
    bind_to(fd, ifindex, ETH_P_ALL)
}

/// Binds to one interface to send only: nothing is received.
///
/// # Errors
/// `ENODEV` if there is no such interface.
pub fn bind_send_only(fd: impl AsFd, ifindex: u32) -> io::Result<()> {
    bind_to(fd, ifindex, 0)
}

fn bind_to(fd: impl AsFd, ifindex: u32, protocol: u16) -> io::Result<()> {
    let ifindex =
        libc::c_int::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    // SAFETY: `sockaddr_ll` is integers and byte arrays; all-zero is a valid value.
    let mut addr: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    addr.sll_family = libc::AF_PACKET as libc::sa_family_t;
    addr.sll_protocol = protocol.to_be();
    addr.sll_ifindex = ifindex;
    // SAFETY: `addr` is a whole `sockaddr_ll` and the length says so; bind only reads it.
    check(unsafe {
        libc::bind(
            fd.as_fd().as_raw_fd(),
            (&raw const addr).cast(),
            size_of::<libc::sockaddr_ll>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Joins the promiscuous mode of an interface; it ends when the socket is closed.
///
/// # Errors
/// `ENODEV` if there is no such interface.
pub fn add_promisc(fd: impl AsFd, ifindex: u32) -> io::Result<()> {
    let ifindex =
        libc::c_int::try_from(ifindex).map_err(|_| io::Error::from_raw_os_error(libc::ENODEV))?;
    let request = libc::packet_mreq {
        mr_ifindex: ifindex,
        mr_type: libc::PACKET_MR_PROMISC as libc::c_ushort,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    set_packet_opt(fd, libc::PACKET_ADD_MEMBERSHIP, &request)
}

pub(super) fn set_packet_opt<T: Copy>(
    fd: impl AsFd,
    name: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the kernel reads `size_of::<T>()` bytes from `value`; all callers pass plain
    // integers, or `packet_mreq` or `tpacket_req3`, which have no padding.
    check(unsafe {
        libc::setsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    })?;
    Ok(())
}

/// Reads an option at `SOL_PACKET` into plain integers; what the kernel does not fill stays.
pub(super) fn get_packet_opt<T: Integers>(
    fd: impl AsFd,
    name: libc::c_int,
    value: &mut T,
) -> io::Result<()> {
    let mut len = size_of::<T>() as libc::socklen_t;
    // SAFETY: the kernel writes at most `len` bytes, the size of `value`, for which every bit
    // pattern is valid.
    check(unsafe {
        libc::getsockopt(
            fd.as_fd().as_raw_fd(),
            libc::SOL_PACKET,
            name,
            std::ptr::from_mut(value).cast(),
            &raw mut len,
        )
    })?;
    Ok(())
}

/// Types for which every bit pattern is a valid value.
pub(super) trait Integers {}
impl Integers for u32 {}
impl<const N: usize> Integers for [u32; N] {}

/// `PACKET_STATISTICS`: frames seen and frames dropped by this socket since the last call.
///
/// # Errors
/// Those of `getsockopt`; none are expected on a packet socket.
pub fn statistics(fd: impl AsFd) -> io::Result<(u32, u32)> {
    let mut stats = [0u32; 2];
    get_packet_opt(fd, libc::PACKET_STATISTICS, &mut stats)?;
    Ok((stats[0], stats[1]))
}

/// One received frame: its length and what the kernel says about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Bytes put into the slices, the `virtio_net_hdr` included.
    pub len: usize,
    /// The slices were too small (`MSG_TRUNC`): the rest of the frame is lost.
    pub truncated: bool,
    /// The VLAN tag the kernel took out of the frame: TPID and TCI, host order.
    pub vlan: Option<(u16, u16)>,
    /// We see our own or another socket's sent frame (`PACKET_OUTGOING`).
    pub outgoing: bool,
}

/// `struct tpacket_auxdata`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Auxdata {
    status: u32,
    len: u32,
    snaplen: u32,
    mac: u16,
    net: u16,
    vlan_tci: u16,
    vlan_tpid: u16,
}

const TP_STATUS_VLAN_VALID: u32 = 1 << 4;
const TP_STATUS_VLAN_TPID_VALID: u32 = 1 << 6;

/// Room for the one control message we ask for, aligned as a `cmsghdr` must be.
#[repr(C, align(8))]
struct Control([u8; 64]);

/// Receives one frame into `iov`, in order.
///
/// # Errors
/// `EAGAIN` if none waits, `ENETDOWN` once after the interface went down.
pub fn recv(fd: impl AsFd, iov: &mut [IoSliceMut<'_>]) -> io::Result<Received> {
    let mut control = Control([0; 64]);
    // SAFETY: both are plain data for which all-zero is a valid value.
    let (mut addr, mut msg): (libc::sockaddr_ll, libc::msghdr) = unsafe { std::mem::zeroed() };
    msg.msg_name = (&raw mut addr).cast();
    msg.msg_namelen = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    msg.msg_iov = iov.as_mut_ptr().cast();
    msg.msg_iovlen = iov.len() as _;
    msg.msg_control = (&raw mut control).cast();
    msg.msg_controllen = size_of::<Control>() as _;
    // SAFETY: `IoSliceMut` has the layout of `iovec` (std guarantees it), the kernel writes only
    // inside the slices, the address and the control buffer, all of which outlive the call.
    let len = check_len(unsafe { libc::recvmsg(fd.as_fd().as_raw_fd(), &raw mut msg, 0) })?;
    let aux = auxdata(&msg);
    let vlan = aux.filter(|a| a.status & TP_STATUS_VLAN_VALID != 0).map(|a| {
        let tpid = if a.status & TP_STATUS_VLAN_TPID_VALID != 0 { a.vlan_tpid } else { 0x8100 };
        (tpid, a.vlan_tci)
    });
    Ok(Received {
        len,
        truncated: msg.msg_flags & libc::MSG_TRUNC != 0,
        vlan,
        outgoing: addr.sll_pkttype == libc::PACKET_OUTGOING,
    })
}

/// The `PACKET_AUXDATA` message among the control messages of `msg`, if there is one.
fn auxdata(msg: &libc::msghdr) -> Option<Auxdata> {
    // SAFETY: `msg` came back from recvmsg: `msg_control` points at `msg_controllen` valid bytes,
    // which CMSG_FIRSTHDR and CMSG_NXTHDR never leave.
    let mut next = unsafe { libc::CMSG_FIRSTHDR(msg) };
    while !next.is_null() {
        // SAFETY: a non-null result is an aligned `cmsghdr` inside the control buffer.
        let head = unsafe { &*next };
        // SAFETY: CMSG_LEN only computes.
        let wanted = unsafe { libc::CMSG_LEN(size_of::<Auxdata>() as libc::c_uint) } as usize;
        if head.cmsg_level == libc::SOL_PACKET
            && head.cmsg_type == libc::PACKET_AUXDATA
            && head.cmsg_len as usize >= wanted
        {
            // SAFETY: the length was checked just now; the data may be unaligned, so it is copied
            // out with `read_unaligned`; every bit pattern is a valid `Auxdata`.
            return Some(unsafe { libc::CMSG_DATA(next).cast::<Auxdata>().read_unaligned() });
        }
        // SAFETY: as for CMSG_FIRSTHDR; `next` is the header it or this call returned.
        next = unsafe { libc::CMSG_NXTHDR(msg, next) };
    }
    None
}
