//! Frames as no kernel would send them.

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use linerate_core::pkt::{Batch, Pool};
use linerate_dev::device::{Device, RxCx};
use linerate_dev::netdev::Netdev;
use linerate_dev::packet::{Config, Packet};

use super::rig::Ns;

/// An Ethernet frame with an IPv4 packet, all of it right until somebody makes it wrong.
#[derive(Clone)]
pub struct Frame {
    pub dst_mac: [u8; 6],
    pub src_mac: [u8; 6],
    pub ethertype: u16,
    pub src: Ipv4Addr,
    pub dst: Ipv4Addr,
    pub ttl: u8,
    pub proto: u8,
    pub id: u16,
    /// Flags and offset of the fragment, as they are in the header.
    pub frag: u16,
    pub body: Vec<u8>,
    /// Is added to the total length.
    pub tot_len_off: i32,
    /// Is added to the header's checksum.
    pub csum_off: u16,
}

impl Frame {
    /// To an end of the rig.
    pub fn to(ns: &Ns, dev: &str, src: Ipv4Addr, dst: Ipv4Addr, proto: u8, body: Vec<u8>) -> Frame {
        Frame {
            dst_mac: mac_of(ns, dev),
            src_mac: [2, 0, 0, 0, 0, 0x77],
            ethertype: 0x0800,
            src,
            dst,
            ttl: 64,
            proto,
            id: 0,
            frag: 0,
            body,
            tot_len_off: 0,
            csum_off: 0,
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut ip = vec![0x45, 0];
        let len = 20 + self.body.len() as i32 + self.tot_len_off;
        ip.extend((len as u16).to_be_bytes());
        ip.extend(self.id.to_be_bytes());
        ip.extend(self.frag.to_be_bytes());
        ip.extend([self.ttl, self.proto, 0, 0]);
        ip.extend(self.src.octets());
        ip.extend(self.dst.octets());
        let sum = checksum(&[&ip]).wrapping_add(self.csum_off);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        let mut frame = Vec::new();
        frame.extend(self.dst_mac);
        frame.extend(self.src_mac);
        frame.extend(self.ethertype.to_be_bytes());
        frame.extend(ip);
        frame.extend(&self.body);
        frame
    }
}

/// The address of a device.
pub fn mac_of(ns: &Ns, dev: &str) -> [u8; 6] {
    let link = ns.run(|| Netdev::open().unwrap().link(dev).unwrap());
    link.mac.expect("a veth has an address")
}

fn checksum(parts: &[&[u8]]) -> u16 {
    let bytes: Vec<u8> = parts.iter().flat_map(|p| p.iter().copied()).collect();
    let words =
        bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | w.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

fn pseudo(src: Ipv4Addr, dst: Ipv4Addr, proto: u8, len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    all.extend(src.octets());
    all.extend(dst.octets());
    all.extend([0, proto]);
    all.extend((len as u16).to_be_bytes());
    all
}

/// A UDP datagram; `off` is added to its checksum.
pub fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), data: &[u8], off: u16) -> Vec<u8> {
    let mut all = Vec::new();
    all.extend(src.1.to_be_bytes());
    all.extend(dst.1.to_be_bytes());
    all.extend((8 + data.len() as u16).to_be_bytes());
    all.extend([0, 0]);
    all.extend(data);
    let sum = checksum(&[&pseudo(src.0, dst.0, 17, all.len()), &all]).wrapping_add(off);
    all[6..8].copy_from_slice(&sum.to_be_bytes());
    all
}

/// A TCP segment without options; `off` is added to its checksum.
pub fn tcp(
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    (seq, ack, flags): (u32, u32, u8),
    off: u16,
) -> Vec<u8> {
    let mut all = Vec::new();
    all.extend(src.1.to_be_bytes());
    all.extend(dst.1.to_be_bytes());
    all.extend(seq.to_be_bytes());
    all.extend(ack.to_be_bytes());
    all.extend([0x50, flags]);
    all.extend(64240u16.to_be_bytes());
    all.extend([0, 0, 0, 0]);
    let sum = checksum(&[&pseudo(src.0, dst.0, 6, all.len()), &all]).wrapping_add(off);
    all[16..18].copy_from_slice(&sum.to_be_bytes());
    all
}

/// A TCP client that is no kernel's: it sends what it is told to.
pub struct RawTcp {
    device: Packet,
    pool: Pool,
    frame: Frame,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    /// The next number, and the one that the server is at.
    pub seq: u32,
    ack: u32,
}

impl RawTcp {
    /// Connects from `near` to a listener of `far`. `near` must not own `src`.
    pub fn connect(near: &Ns, far: &Ns, src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16)) -> RawTcp {
        let mut frame = Frame::to(far, "vb", src.0, dst.0, 6, Vec::new());
        frame.src_mac = mac_of(near, "va");
        let mac: Vec<String> = frame.src_mac.iter().map(|b| format!("{b:02x}")).collect();
        far.ip(&format!("neigh replace {} lladdr {} dev vb", src.0, mac.join(":")));
        let device = near.run(|| {
            let link = Netdev::open().unwrap().link("va").unwrap();
            let config = Config { vnet_hdr: false, qdisc_bypass: true, ..Config::default() };
            Packet::open(&link, config).unwrap()
        });
        let (pool, seq) = (Pool::new(256, 8), 1000);
        let mut client = RawTcp { device, pool, frame, src, dst, seq, ack: 0 };
        client.segment(0, 2, &[]);
        client.seq += 1;
        client.ack = client.syn_ack().wrapping_add(1);
        client.segment(0, 16, &[]);
        client
    }

    /// The server's first number.
    fn syn_ack(&mut self) -> u32 {
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while std::time::Instant::now() < end {
            let (mut batch, mut dropped) = (Batch::new(), Vec::new());
            let now = linerate_core::time::Instant::from_ns(1);
            let mut cx = RxCx { pool: &mut self.pool, now, dev: 0, dropped: &mut dropped };
            self.device.rx_burst(&mut cx, &mut batch, 32).unwrap();
            let mut found = None;
            for pkt in batch.now.drain(..) {
                let head = pkt.head();
                let ours = head.len() >= 54
                    && head[23] == 6
                    && head[36..38] == self.src.1.to_be_bytes()
                    && head[47] == 0x12;
                if ours {
                    found = Some(u32::from_be_bytes(head[38..42].try_into().unwrap()));
                }
                self.pool.free(pkt);
            }
            if let Some(seq) = found {
                return seq;
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        panic!("the server did not answer");
    }

    /// Sends a segment that begins `off` bytes behind the next number.
    pub fn segment(&mut self, off: u32, flags: u8, data: &[u8]) {
        let at = (self.seq.wrapping_add(off), self.ack, flags);
        let mut body = tcp(self.src, self.dst, at, 0);
        body.extend(data);
        body[16..18].copy_from_slice(&[0, 0]);
        let sum = checksum(&[&pseudo(self.src.0, self.dst.0, 6, body.len()), &body]);
        body[16..18].copy_from_slice(&sum.to_be_bytes());
        let bytes = Frame { body, ..self.frame.clone() }.bytes();
        let mut pkt = self.pool.alloc().expect("memory for a frame");
        pkt.put(bytes.len()).copy_from_slice(&bytes);
        let (mut ring, mut done) = (VecDeque::from([pkt]), Vec::new());
        while !ring.is_empty() {
            self.device.tx_burst(&mut ring, &mut done).unwrap();
        }
        self.device.tx_complete(&mut done);
        done.into_iter().for_each(|(pkt, _)| self.pool.free(pkt));
    }
}

/// Sends frames out of a device of a namespace, as they are.
pub fn send(ns: &Ns, dev: &str, frames: &[Vec<u8>]) {
    ns.run(|| {
        let link = Netdev::open().unwrap().link(dev).unwrap();
        let config = Config { vnet_hdr: false, qdisc_bypass: true, ..Config::default() };
        let mut device = Packet::open(&link, config).unwrap();
        let mut pool = Pool::new(64, 0);
        for chunk in frames.chunks(32) {
            let mut ring: VecDeque<_> = chunk
                .iter()
                .map(|frame| {
                    let mut pkt = pool.alloc().expect("memory for 32 frames");
                    pkt.put(frame.len()).copy_from_slice(frame);
                    pkt
                })
                .collect();
            let mut done = Vec::new();
            while !ring.is_empty() {
                device.tx_burst(&mut ring, &mut done).unwrap();
                device.tx_complete(&mut done);
            }
            done.into_iter().for_each(|(pkt, _)| pool.free(pkt));
        }
    });
}
