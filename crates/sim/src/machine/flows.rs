//! Who sends: the flows, which queue each of them comes by, and their frames.

use std::net::Ipv4Addr;

use linerate_core::rx::steer::rss::{Rss, indir_table};
use linerate_core::wire::{ETH_P_IP, EthHdr, IPPROTO_UDP, Ipv4Hdr, Mac, UdpHdr};

use super::{ADDR, PORT, Spec};

pub(super) const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);
const PEER: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// Bytes of all headers of a frame.
pub(super) const HEADERS: usize = EthHdr::LEN + Ipv4Hdr::LEN + UdpHdr::LEN;
/// Where the time of a packet's arrival stands in its datagram.
pub(super) const STAMP: std::ops::Range<usize> = 0..8;

/// The flows, and which queue each of them comes by.
pub(super) struct Flows {
    /// For each queue: source address, port and hash of its flows.
    pub by_queue: Vec<Vec<(u32, u16, u32)>>,
    pub all: usize,
}

impl Flows {
    pub fn new(spec: &Spec) -> Flows {
        let rss = Rss { indir: indir_table(&[], spec.queues), ..Rss::default() };
        let hasher = rss.hasher();
        let mut by_queue = vec![Vec::new(); spec.queues];
        let mut frame = frame(spec.frame);
        for n in 0..spec.flows {
            // Other hosts of a /16, and ports: no two flows alike.
            let addr = u32::from(Ipv4Addr::new(10, 9, 1, 0)) + (n % 60_000) as u32;
            let port = 1024 + (n / 60_000) as u16;
            address(&mut frame, addr, port);
            let hash = hasher.of_frame(&frame, true);
            by_queue[rss.queue_of(hash) as usize].push((addr, port, hash));
        }
        Flows { by_queue, all: spec.flows }
    }
}

/// A datagram for the readers, from nobody yet; UDP without a checksum, as IPv4 allows.
pub(super) fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; len];
    EthHdr { dst: OWN, src: PEER, ethertype: ETH_P_IP }.emit(&mut frame);
    let udp = UdpHdr {
        src_port: 0,
        dst_port: PORT,
        len: (len - EthHdr::LEN - Ipv4Hdr::LEN) as u16,
        csum: 0,
    };
    udp.emit(&mut frame[EthHdr::LEN + Ipv4Hdr::LEN..]);
    frame
}

/// Says from whom a frame is.
pub(super) fn address(frame: &mut [u8], src: u32, port: u16) {
    let ip = Ipv4Hdr {
        ihl_bytes: Ipv4Hdr::LEN,
        tos: 0,
        total_len: (frame.len() - EthHdr::LEN) as u16,
        id: 0,
        df: true,
        mf: false,
        frag_off_bytes: 0,
        ttl: 64,
        proto: IPPROTO_UDP,
        csum: 0,
        src: Ipv4Addr::from(src),
        dst: ADDR,
    };
    ip.emit(&mut frame[EthHdr::LEN..]);
    let at = EthHdr::LEN + Ipv4Hdr::LEN;
    frame[at..at + 2].copy_from_slice(&port.to_be_bytes());
}
