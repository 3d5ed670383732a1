//! Between peer and stack: frames go in with a header of the device that may lie, and come out.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use linerate_core::path;
use linerate_core::pkt::{Csum, Gso, GsoKind};
use linerate_core::tx::xmit::tx_done;
use linerate_dev::netdev::Link;
use linerate_dev::packet::Packet;
use linerate_dev::vnet::{self, Vnet};
use linerate_dev::{Device, RxCx};

use super::super::draw::Draw;
use super::super::frames::{TCP, UDP, pick};
use super::{MAC, World};

/// How frames reach the stack.
pub(super) enum Port {
    /// By a packet socket's code: the header of the device is parsed by the device.
    Socket(Box<Packet>, UnixDatagram),
    /// As bare IP packets.
    Bare,
}

pub(super) fn port(rng: &mut Draw<'_>) -> Port {
    if rng.below(2) == 0 {
        return Port::Bare;
    }
    let (ours, theirs) = UnixDatagram::pair().expect("a pair of sockets");
    for end in [&ours, &theirs] {
        end.set_nonblocking(true).expect("a socket can be non-blocking");
    }
    let link = Link {
        index: 1,
        name: "fuzz0".to_owned(),
        mtu: 1500,
        mac: Some(MAC.0),
        txqueuelen: 100,
        up: true,
        running: true,
    };
    Port::Socket(Box::new(Packet::from_fd(OwnedFd::from(ours), &link, true)), theirs)
}

impl World<'_> {
    /// Gives a frame to the stack, with a header of the device that may lie.
    pub(super) fn throw(&mut self, frame: &[u8]) {
        let rng = &mut self.rng;
        let l2 = if matches!(self.port, Port::Bare) { 0 } else { 14 };
        let hdr = virtio(rng, frame, l2);
        let now = self.shard.net.now;
        match &mut self.port {
            Port::Socket(dev, peer) => {
                let mut bytes = hdr[..vnet::LEN_LEGACY].to_vec();
                bytes.extend_from_slice(frame);
                if peer.send(&bytes).is_err() {
                    return;
                }
                let mut dropped = Vec::new();
                let pool = &mut self.shard.net.pool;
                let mut cx = RxCx { pool, now, dev: 0, dropped: &mut dropped };
                dev.rx_burst(&mut cx, &mut self.batch, 64).expect("the socket is open");
                for (pkt, _) in dropped {
                    self.shard.net.pool.free(pkt);
                }
            }
            Port::Bare => self.bare(frame, &hdr),
        }
    }

    /// What was thrown is received, as one batch.
    pub(super) fn receive(&mut self) {
        if self.shard.net.ifaces[0].netif_rx {
            for pkt in self.batch.now.drain(..) {
                linerate_core::rx::backlog::netif_rx(&mut self.shard.net, pkt);
            }
        } else {
            path::receive(&mut self.shard, &mut self.batch);
        }
    }

    /// What a TUN does with its header and a packet.
    fn bare(&mut self, packet: &[u8], hdr: &[u8; vnet::LEN]) {
        let Ok(vnet) = Vnet::parse(hdr, packet.len()) else { return };
        let net = &mut self.shard.net;
        let Some(mut pkt) = net.pool.alloc() else { return };
        let head = packet.len().min(pkt.tailroom());
        pkt.put(head).copy_from_slice(&packet[..head]);
        if packet.len() > head {
            let Some(mut large) = net.pool.alloc_large() else { return net.pool.free(pkt) };
            let rest = &packet[head..];
            large[..rest.len()].copy_from_slice(rest);
            pkt.add_buf(large, 0, rest.len());
        }
        pkt.network = pkt.data_offset();
        if let Some(needs) = vnet.needs_csum {
            pkt.csum = Csum::Partial { start: needs.start, offset: needs.offset };
        } else if vnet.data_valid {
            pkt.csum = Csum::Verified;
        }
        if let Some(gso) = vnet.gso {
            let version = packet.first().map_or(0, |b| b >> 4);
            let segs = packet.len().div_ceil(usize::from(gso.size)) as u16;
            let fits = match gso.kind {
                GsoKind::Tcp4 => version == 4,
                GsoKind::Tcp6 => version == 6,
                GsoKind::Udp => true,
            };
            if !fits {
                return net.pool.free(pkt);
            }
            let gso = Gso { kind: gso.kind, size: gso.size, segs, ecn: gso.ecn };
            pkt.gso = (segs > 1).then_some(gso);
        }
        (pkt.dev, pkt.rx_time) = (0, net.now);
        self.batch.push(pkt);
    }

    /// What the stack sends is read, so that what comes next fits it.
    pub(super) fn drain(&mut self) {
        let mut done = Vec::new();
        for _ in 0..64 {
            let Some(ring) = path::qdisc_run(&mut self.shard.net, 0, 0, 64) else { break };
            if ring.is_empty() {
                break;
            }
            let mut out: Vec<Vec<u8>> = Vec::new();
            match &mut self.port {
                Port::Bare => {
                    out.extend(ring.iter().map(|pkt| pkt.slices().flatten().copied().collect()));
                    done.extend(ring.drain(..).map(|pkt| (pkt, true)));
                }
                Port::Socket(dev, peer) => {
                    dev.tx_burst(ring, &mut done).expect("the socket is open");
                    let mut buf = vec![0; 70_000];
                    while let Ok(n) = peer.recv(&mut buf) {
                        let l2 = vnet::LEN_LEGACY + 14;
                        out.extend(buf[..n].get(l2..).map(<[u8]>::to_vec));
                    }
                }
            }
            for (pkt, sent) in done.drain(..) {
                tx_done(&mut self.shard.net, pkt, sent);
            }
            out.into_iter().for_each(|packet| self.learn(packet));
        }
    }
}

/// Mostly nothing; sometimes what fits; sometimes a lie.
fn virtio(rng: &mut Draw<'_>, frame: &[u8], l2: usize) -> [u8; vnet::LEN] {
    let mut hdr = [0; vnet::LEN];
    let kind = rng.below(8);
    if kind < 4 {
        return hdr;
    }
    if kind == 4 {
        (0..vnet::LEN).for_each(|at| hdr[at] = rng.next_u32() as u8);
        return hdr;
    }
    let packet = frame.get(l2..).unwrap_or_default();
    let v4 = packet.first().is_some_and(|b| b >> 4 == 4);
    let ihl = if v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    let proto = packet.get(if v4 { 9 } else { 6 }).copied().unwrap_or(0);
    let lie = if rng.below(6) == 0 { rng.below(9) as usize } else { 0 };
    let (start, offset) = ((l2 + ihl + lie) as u16, if proto == TCP { 16u16 } else { 6 });
    hdr[0] = pick(rng, &[1, 1, 1, 2, 3]);
    if kind > 5 {
        let fit = if proto == UDP {
            5
        } else if v4 {
            1
        } else {
            4
        };
        hdr[1] = if rng.below(8) == 0 { pick(rng, &[1, 3, 4, 5, 0x81]) } else { fit };
        let size = pick(rng, &[1u16, 7, 500, 1200, 1400, 1460, 65535]);
        hdr[2..4].copy_from_slice(&(start + 20).to_ne_bytes());
        hdr[4..6].copy_from_slice(&size.to_ne_bytes());
    }
    hdr[6..8].copy_from_slice(&start.to_ne_bytes());
    hdr[8..10].copy_from_slice(&offset.to_ne_bytes());
    hdr
}
