//! The stack under test, and the frames that it is fed.

use std::net::{IpAddr, Ipv4Addr};

use linerate_arch::csum::{csum_add, csum_fold, csum_partial};
use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt, pseudo};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::time::Instant;
use linerate_core::tx::xmit::tx_done_all;
use linerate_core::udp::api::UdpBind;
use linerate_core::wire::{ETH_P_IP, EthHdr, IPPROTO_UDP, Ipv4Hdr, Mac, UdpHdr};

/// The stack's address.
pub const LOCAL: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
/// The peer's.
pub const PEER: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);
/// The stack's link address.
pub const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);
/// The peer's.
pub const THEIRS: Mac = Mac([2, 0, 0, 0, 0, 1]);
/// The port that packets are sent to, where there is one.
pub const PORT: u16 = 53;
/// The peer's port.
pub const FROM: u16 = 4000;

/// A stack with one Ethernet device that does nothing by itself, as a plain network card.
pub fn shard() -> Shard {
    let mut shard = Shard::new(1);
    let mut iface = Iface::new("mem0", L2::Ethernet, OWN, 1500);
    iface.features.tx_csum = false;
    let dev = shard.add_iface(iface);
    shard.add_addr(dev, IpAddr::V4(LOCAL), 24).expect("a new device takes any address");
    shard.neigh_add(dev, IpAddr::V4(PEER), THEIRS);
    shard
}

/// Opens a UDP socket whose receive buffer never fills.
pub fn bind(shard: &mut Shard, addr: Option<IpAddr>, port: u16) -> SocketId {
    let bind = UdpBind { addr, port, rcvbuf: 64 << 20, ..UdpBind::default() };
    shard.udp_bind(bind).expect("the port is free")
}

/// A UDP frame with right checksums.
pub fn frame(payload: usize) -> Vec<u8> {
    let mut frame = vec![0x5a; EthHdr::LEN + Ipv4Hdr::LEN + UdpHdr::LEN + payload];
    let len = UdpHdr::LEN + payload;
    EthHdr { dst: OWN, src: THEIRS, ethertype: ETH_P_IP }.emit(&mut frame);
    let ip = Ipv4Hdr {
        ihl_bytes: Ipv4Hdr::LEN,
        tos: 0,
        total_len: (Ipv4Hdr::LEN + len) as u16,
        id: 0,
        df: true,
        mf: false,
        frag_off_bytes: 0,
        ttl: 64,
        proto: IPPROTO_UDP,
        csum: 0,
        src: PEER,
        dst: LOCAL,
    };
    ip.emit(&mut frame[14..]);
    let udp = UdpHdr { src_port: FROM, dst_port: PORT, len: len as u16, csum: 0 };
    udp.emit(&mut frame[34..]);
    let sum = pseudo(PEER.into(), LOCAL.into(), len, IPPROTO_UDP);
    let sum = csum_fold(csum_partial(&frame[34..], sum));
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// Changes where a frame of [`frame`] goes; its checksums stay right.
pub fn redirect(frame: &mut [u8], dst: Ipv4Addr, port: u16) {
    let addr = |a: Ipv4Addr| {
        let bits = a.to_bits();
        (bits >> 16) + (bits & 0xffff)
    };
    let old = Ipv4Addr::from([frame[30], frame[31], frame[32], frame[33]]);
    let old_port = u32::from(u16::from_be_bytes([frame[36], frame[37]]));
    let moved = csum_add(addr(dst), !addr(old));
    replace(&mut frame[24..26], moved);
    replace(&mut frame[40..42], csum_add(moved, csum_add(u32::from(port), !old_port)));
    frame[30..34].copy_from_slice(&dst.octets());
    frame[36..38].copy_from_slice(&port.to_be_bytes());
}

/// Brings a checksum field up to date with what was added to the words under it (RFC 1624).
fn replace(field: &mut [u8], more: u32) {
    let sum = !u16::from_be_bytes([field[0], field[1]]);
    let new = csum_fold(csum_add(u32::from(sum), more));
    field.copy_from_slice(&new.to_be_bytes());
}

/// What a device does to receive: memory from the pool, the frame's bytes into it.
#[inline]
pub fn ring(shard: &mut Shard, batch: &mut Batch, frame: &[u8]) {
    let mut pkt = shard.net.pool.alloc().expect("every packet comes back");
    pkt.put(frame.len()).copy_from_slice(frame);
    pkt.rx_time = shard.net.now;
    pkt.dev = 0;
    batch.push(pkt);
}

/// The time of a turn: it goes on, so that nothing that waits for it does for ever.
pub fn tick(shard: &mut Shard, turn: u64) {
    shard.net.now = Instant::from_ns(1_000_000_000 + turn * 1000);
}

/// Takes what is sent out of the device's ring, as a device that is done with it.
pub fn complete(shard: &mut Shard, dev: u8) {
    path::qdisc_run(&mut shard.net, dev, 0, 1024);
    done(shard, dev);
}

/// The device looks at what is in its ring, and is done with it.
pub fn done(shard: &mut Shard, dev: u8) {
    let ring = &mut shard.net.ifaces[dev as usize].txqs[0].ring;
    if ring.len() == 1 {
        // Taking the list out and putting it back costs more than one packet.
        let pkt = ring.pop_front();
        let sent = pkt.inspect(|pkt| _ = std::hint::black_box(pkt.head().first()));
        return tx_done_all(&mut shard.net, sent.map(|pkt| (pkt, true)));
    }
    let mut ring = std::mem::take(ring);
    let sent = |pkt: Pkt| {
        std::hint::black_box(pkt.head().first());
        (pkt, true)
    };
    tx_done_all(&mut shard.net, ring.drain(..).map(sent));
    shard.net.ifaces[dev as usize].txqs[0].ring = ring;
}

/// Every packet is accounted for, and back in the pool.
pub fn check(shard: &Shard) {
    let lost = shard.net.counts.unaccounted();
    assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
    assert_eq!(shard.net.pool.small_out(), 0, "every packet came back");
}
