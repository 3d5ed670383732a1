//! Datagrams with what travels beside them: type of service, TTL, segment size, and the kernel's
//! record of errors. `recvmsg` and `sendmsg` with control messages, by way of nix, which decodes
//! these; rustix does not.

use linerate_core::pkt::Buf;
use linerate_core::shard::Shard;
use nix::sys::socket::{
    self, ControlMessage, ControlMessageOwned, MsgFlags, SockaddrStorage, setsockopt, sockopt,
};
use rustix::io::Errno;
use rustix::net::{SendAncillaryBuffer, SendFlags};
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// The largest datagram, or super-datagram.
const BYTES_MAX: usize = 65536;
/// As much of a failed packet as an error about it quotes.
const QUOTE_MAX: usize = 576;
/// Room for all control messages that are switched on.
const CONTROL: usize = 512;

/// Switches on whatever a relay reads beside a datagram. Errors are reported wherever possible; an
/// option that an older kernel lacks is left out.
pub(crate) fn enable(fd: &OwnedFd, v6: bool) -> io::Result<()> {
    if v6 {
        // For IPv4 peers of a dual-stack socket; a raw one has none, and refuses.
        let _ = setsockopt(fd, sockopt::Ipv4RecvErr, &true);
        setsockopt(fd, sockopt::Ipv6RecvErr, &true)?;
        setsockopt(fd, sockopt::Ipv6RecvTClass, &true)?;
        setsockopt(fd, sockopt::Ipv6RecvHopLimit, &true)?;
    } else {
        setsockopt(fd, sockopt::Ipv4RecvErr, &true)?;
        setsockopt(fd, sockopt::IpRecvTos, &true)?;
        setsockopt(fd, sockopt::Ipv4RecvTtl, &true)?;
    }
    Ok(())
}

/// Switches on that the kernel hands over several datagrams as one; where it can not, they come one
/// by one.
pub(crate) fn enable_gro(fd: &OwnedFd) {
    let _ = setsockopt(fd, sockopt::UdpGroSegment, &true);
}

/// An empty list with the memory of another, whose pieces it does not keep.
pub(crate) fn recycle<'a>(mut pieces: Vec<IoSlice<'_>>) -> Vec<IoSlice<'a>> {
    pieces.clear();
    pieces.into_iter().map(|_| IoSlice::new(&[])).collect()
}

fn errno(err: nix::errno::Errno) -> Errno {
    Errno::from_raw_os_error(err as i32)
}

/// Sends a datagram, or several of `segment` bytes each in one call.
pub(crate) fn send(
    fd: &OwnedFd,
    to: SocketAddr,
    pieces: &[IoSlice<'_>],
    segment: Option<usize>,
) -> Result<(), Errno> {
    let Some(segment) = segment.and_then(|size| u16::try_from(size).ok()) else {
        let mut none = SendAncillaryBuffer::default();
        rustix::net::sendmsg_addr(fd, &to, pieces, &mut none, SendFlags::NOSIGNAL)?;
        return Ok(());
    };
    let control = [ControlMessage::UdpGsoSegments(&segment)];
    let to = SockaddrStorage::from(to);
    let sent = socket::sendmsg(fd.as_raw_fd(), pieces, &control, MsgFlags::MSG_NOSIGNAL, Some(&to));
    sent.map(drop).map_err(errno)
}

/// A datagram that came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arrived {
    pub from: SocketAddr,
    pub len: usize,
    pub tos: u8,
    /// TTL or hop limit; 64 if the kernel did not tell.
    pub ttl: u8,
    /// Bytes of each datagram, if these are several; 0 if it is one.
    pub segment_size: u16,
}

/// An error that the kernel recorded about something sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Failed {
    /// Where it was sent to.
    pub to: SocketAddr,
    /// Who says so; `None` for the host itself.
    pub offender: Option<IpAddr>,
    /// `SO_EE_ORIGIN_*`.
    pub origin: u8,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
    pub errno: u32,
    /// The path's MTU, if that is the matter.
    pub info: u32,
    /// Bytes of the packet that failed, from its transport payload on.
    pub len: usize,
}

/// Memory to receive into.
pub(crate) struct Receiver {
    data: Box<[u8]>,
    control: Vec<u8>,
    /// A buffer of the stack's, with what [`Receiver::receive_large`] took last.
    pub large: Option<Buf>,
}

impl Receiver {
    pub fn new() -> Receiver {
        let data = vec![0; BYTES_MAX].into_boxed_slice();
        Receiver { data, control: vec![0; CONTROL], large: None }
    }

    /// Takes the next datagram.
    pub fn receive(&mut self, fd: RawFd) -> Result<Arrived, Errno> {
        receive(fd, &mut self.data, &mut self.control)
    }

    /// Takes the next datagram into a buffer of the stack's, which can be sent as it is
    /// ([`Receiver::large`]); where the stack has none, into our own.
    pub fn receive_large(&mut self, fd: RawFd, shard: &mut Shard) -> Result<Arrived, Errno> {
        if self.large.is_none() {
            self.large = shard.net.pool.alloc_large();
        }
        receive(fd, self.large.as_deref_mut().unwrap_or(&mut self.data), &mut self.control)
    }

    /// The bytes of what was taken last: by [`Receiver::receive_large`], if it was ever used.
    pub fn bytes(&self, arrived: &Arrived) -> &[u8] {
        let data = self.large.as_deref().unwrap_or(&self.data);
        data.get(..arrived.len).unwrap_or_default()
    }

    /// Takes the next error off the queue.
    pub fn receive_error(&mut self, fd: RawFd) -> Result<Failed, Errno> {
        let data = self.data.get_mut(..QUOTE_MAX).unwrap_or_default();
        let mut pieces = [IoSliceMut::new(data)];
        let control = Some(self.control.as_mut_slice());
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let got =
            socket::recvmsg::<SockaddrStorage>(fd, &mut pieces, control, flags).map_err(errno)?;
        let to = got.address.as_ref().and_then(address);
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        for message in got.cmsgs().into_iter().flatten() {
            let (err, offender) = match message {
                ControlMessageOwned::Ipv4RecvErr(err, offender) => {
                    let addr = offender.map(|a| IpAddr::from(a.sin_addr.s_addr.to_ne_bytes()));
                    (err, addr)
                }
                ControlMessageOwned::Ipv6RecvErr(err, offender) => {
                    (err, offender.map(|a| IpAddr::from(a.sin6_addr.s6_addr)))
                }
                _ => continue,
            };
            return Ok(Failed {
                to: to.unwrap_or(nowhere),
                offender: offender.filter(|addr| !addr.is_unspecified()),
                origin: err.ee_origin,
                kind: err.ee_type,
                code: err.ee_code,
                errno: err.ee_errno,
                info: err.ee_info,
                len: got.bytes.min(QUOTE_MAX),
            });
        }
        Err(Errno::NOMSG)
    }

    /// What is left of the packet that [`Receiver::receive_error`] told of last.
    pub fn error_bytes(&self, failed: &Failed) -> &[u8] {
        self.data.get(..failed.len).unwrap_or_default()
    }
}

/// Takes the next datagram into `data`, and what is told beside it by way of `control`.
fn receive(fd: RawFd, data: &mut [u8], control: &mut [u8]) -> Result<Arrived, Errno> {
    let mut pieces = [IoSliceMut::new(data)];
    let control = Some(control);
    let got = socket::recvmsg::<SockaddrStorage>(fd, &mut pieces, control, MsgFlags::MSG_DONTWAIT)
        .map_err(errno)?;
    let from = got.address.as_ref().and_then(address).ok_or(Errno::AFNOSUPPORT)?;
    let mut arrived = Arrived { from, len: got.bytes, tos: 0, ttl: 64, segment_size: 0 };
    for message in got.cmsgs().into_iter().flatten() {
        match message {
            ControlMessageOwned::Ipv4Tos(tos) => arrived.tos = tos,
            ControlMessageOwned::Ipv6TClass(tos) => arrived.tos = tos as u8,
            ControlMessageOwned::Ipv4Ttl(ttl) => arrived.ttl = ttl as u8,
            ControlMessageOwned::Ipv6HopLimit(ttl) => arrived.ttl = ttl as u8,
            ControlMessageOwned::UdpGroSegments(size) => {
                let size = u16::try_from(size).unwrap_or(0);
                arrived.segment_size = if usize::from(size) < arrived.len { size } else { 0 };
            }
            _ => {}
        }
    }
    Ok(arrived)
}

fn address(storage: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = storage.as_sockaddr_in() {
        return Some(SocketAddr::from((v4.ip(), v4.port())));
    }
    storage.as_sockaddr_in6().map(|v6| SocketAddr::from((v6.ip(), v6.port())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_of_pieces_keeps_its_memory() {
        let data = [0u8; 8];
        let mut pieces: Vec<IoSlice<'_>> = Vec::with_capacity(100);
        pieces.push(IoSlice::new(&data));
        let recycled: Vec<IoSlice<'static>> = recycle(pieces);
        assert_eq!((recycled.len(), recycled.capacity()), (0, 100));
    }

    #[test]
    fn several_datagrams_travel_as_one_where_the_kernel_can() {
        let open = || std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (from, to) = (OwnedFd::from(open()), OwnedFd::from(open()));
        enable(&to, false).unwrap();
        enable_gro(&to);
        let addr = SocketAddr::try_from(rustix::net::getsockname(&to).unwrap()).unwrap();
        let data: Vec<u8> = (0..2500).map(|i| i as u8).collect();
        send(&from, addr, &[IoSlice::new(&data)], Some(1000)).unwrap();
        let mut receiver = Receiver::new();
        let mut got = Vec::new();
        while got.len() < data.len() {
            let arrived = receiver.receive(to.as_raw_fd()).unwrap();
            assert!(arrived.segment_size == 1000 || arrived.len <= 1000);
            assert_eq!(arrived.ttl, 64);
            got.extend_from_slice(receiver.bytes(&arrived));
        }
        assert_eq!(got, data);
    }

    #[test]
    fn an_error_names_what_failed_and_who_says_so() {
        let from = OwnedFd::from(std::net::UdpSocket::bind("127.0.0.1:0").unwrap());
        enable(&from, false).unwrap();
        let gone = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let to = gone.local_addr().unwrap();
        drop(gone);
        send(&from, to, &[IoSlice::new(b"anybody?")], None).unwrap();
        let mut receiver = Receiver::new();
        let failed = receiver.receive_error(from.as_raw_fd()).unwrap();
        assert_eq!((failed.to, failed.offender), (to, Some(to.ip())));
        assert_eq!((failed.origin, failed.kind, failed.code), (2, 3, 3));
        assert_eq!(receiver.error_bytes(&failed), b"anybody?");
        assert_eq!(receiver.receive_error(from.as_raw_fd()).unwrap_err(), Errno::AGAIN);
    }
}
