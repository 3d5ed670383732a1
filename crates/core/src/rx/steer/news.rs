//! What one shard hears that concerns all: neighbours, path MTUs, ICMP errors about others' sockets.
//!
//! Linux: none; there one table serves all CPUs. Here each shard has its own, and an answer to one
//! shard's question may come by another's queue.

use std::net::{IpAddr, SocketAddr};

use super::homes::FlowKey;
use super::mesh::Letter;
use super::post::{NO_NOTE, Outgoing, post};
use crate::link::neigh::{self, Advert};
use crate::shard::{Net, Shard};
use crate::tcp::icmp::{ErrKind, TcpQuote, tcp_v4_err};

/// What was heard.
#[derive(Clone, Copy, Debug)]
pub enum News {
    /// A neighbour said something of itself.
    Neighbour {
        /// The device.
        dev: u8,
        /// Who.
        addr: IpAddr,
        /// With a question to us, so that it is worth an entry.
        asked: bool,
        /// What it said.
        said: Advert,
    },
    /// An error about a segment of a connection that may live there.
    TcpErr {
        /// The segment.
        quote: TcpQuote,
        /// The error.
        kind: ErrKind,
    },
    /// An error about a datagram that a socket there may have sent.
    UdpErr {
        /// Our end.
        local: SocketAddr,
        /// The other.
        remote: SocketAddr,
        /// The error.
        kind: ErrKind,
    },
}

impl Net {
    /// Tells all other shards. It is lost to one whose mailbox overflows with news: neighbours are
    /// asked again, and errors may be lost on any path.
    #[cold]
    pub(crate) fn tell_all(&mut self, news: News) {
        let Some(mesh) = &self.steer.mesh else { return };
        let others = mesh.online_mask() & !(1 << (self.cpu % 64));
        for cpu in (0..64).filter(|cpu| others >> cpu & 1 == 1) {
            let letter = Letter::News(Box::new(news));
            post(self, cpu, Outgoing { letter, note: NO_NOTE });
        }
    }
    /// An error about a connection that is not here: its shard hears of it, if it is known.
    pub(crate) fn tell_home(&mut self, quote: TcpQuote, kind: ErrKind) {
        let Some(mesh) = &self.steer.mesh else { return };
        let local = SocketAddr::new(quote.src, quote.sport);
        let key = FlowKey::new(local, SocketAddr::new(quote.dst, quote.dport));
        let home = mesh.homes.find(&key).filter(|cpu| *cpu != self.cpu && mesh.online(*cpu));
        if let Some(cpu) = home {
            let letter = Letter::News(Box::new(News::TcpErr { quote, kind }));
            post(self, cpu, Outgoing { letter, note: NO_NOTE });
        }
    }
}

/// Takes in what another shard heard. It is not told on.
#[cold]
pub(super) fn hear(cx: &mut Shard, news: News) {
    match news {
        News::Neighbour { dev, addr, asked, said } => {
            neigh::heard(&mut cx.net, dev, addr, asked, said);
        }
        News::TcpErr { quote, kind } => tcp_v4_err(cx, &quote, kind, true),
        News::UdpErr { local, remote, kind } => {
            let known = crate::udp::err::udp_err(cx, local, remote, kind);
            if let (true, ErrKind::FragNeeded(mtu)) = (known, kind) {
                cx.net.update_pmtu(remote.ip(), mtu);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::{Iface, L2};
    use crate::path;
    use crate::pkt::Batch;
    use crate::rx::steer::Mesh;
    use crate::table::Counter;
    use crate::udp::api::UdpBind;
    use crate::udp::output::SendTo;
    use crate::wire::arp::ARPOP_REPLY;
    use crate::wire::{ArpHdr, ETH_P_ARP, EthHdr, Mac};
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    const OWN: Mac = Mac([2, 0, 0, 0, 0, 2]);
    const PEER: Mac = Mac([2, 0, 0, 0, 0, 1]);
    const OWN_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 2);
    const PEER_IP: Ipv4Addr = Ipv4Addr::new(10, 9, 0, 1);

    fn shards() -> [Shard; 2] {
        let mesh = Mesh::new(2);
        [0, 1].map(|cpu| {
            let mut shard = Shard::new(7 + cpu as u64);
            shard.join(Arc::clone(&mesh), cpu);
            let dev = shard.add_iface(Iface::new("mem0", L2::Ethernet, OWN, 1500));
            shard.add_addr(dev, IpAddr::V4(OWN_IP), 24).expect("a new device takes any address");
            shard
        })
    }

    fn sent(shard: &mut Shard) -> Vec<Vec<u8>> {
        let mut batch = Batch::new();
        path::process_backlog(shard, &mut batch, 64);
        path::transmit(shard, &mut batch);
        path::qdisc_run(&mut shard.net, 0, 0, 64);
        let ring = std::mem::take(&mut shard.net.ifaces[0].txqs[0].ring);
        let out = ring.iter().map(|p| p.slices().flatten().copied().collect()).collect();
        ring.into_iter().for_each(|p| crate::tx::xmit::tx_done(&mut shard.net, p, true));
        out
    }

    #[test]
    fn an_answer_that_another_shard_hears_sends_on_what_waited_for_it() {
        let [mut hears, mut asks] = shards();
        let sock = asks.udp_bind(UdpBind { port: 53, ..UdpBind::default() }).expect("it is free");
        let to = SendTo::to(SocketAddr::new(IpAddr::V4(PEER_IP), 4000));
        asks.udp_send(sock, to, &[b"hello"]).expect("it can be sent");
        let asked = sent(&mut asks);
        assert_eq!((asked.len(), asked[0][12..14] == ETH_P_ARP.to_be_bytes()), (1, true));
        // The card gives the answer to the other queue.
        let mut pkt = hears.net.pool.alloc().expect("there is room");
        let frame = pkt.put(EthHdr::LEN + ArpHdr::LEN);
        EthHdr { dst: OWN, src: PEER, ethertype: ETH_P_ARP }.emit(frame);
        let reply = ArpHdr { op: ARPOP_REPLY, sha: PEER, spa: PEER_IP, tha: OWN, tpa: OWN_IP };
        reply.emit(&mut frame[EthHdr::LEN..]);
        let mut batch = Batch::new();
        batch.push(pkt);
        path::receive(&mut hears, &mut batch);
        let out = sent(&mut asks);
        assert_eq!((out.len(), &out[0][..6], &out[0][42..]), (1, &PEER.0[..], &b"hello"[..]));
        for shard in [&hears, &asks] {
            assert_eq!(shard.net.counts.unaccounted(), []);
        }
        assert!(hears.net.neigh.is_empty(), "who did not ask need not know");
    }

    #[test]
    fn an_error_finds_the_shard_whose_socket_sent() {
        let [mut hears, mut sends] = shards();
        let sock = sends.udp_bind(UdpBind { port: 53, ..UdpBind::default() }).expect("it is free");
        let remote = SocketAddr::new(IpAddr::V4(PEER_IP), 4000);
        let local = SocketAddr::new(IpAddr::V4(OWN_IP), 53);
        let kind = ErrKind::PortUnreach;
        hears.net.tell_all(News::UdpErr { local, remote, kind });
        super::super::flush(&mut hears);
        sent(&mut sends);
        assert_eq!(sends.udp_take_error(sock), Some((remote, kind)));
        assert_eq!(sends.udp_take_error(sock), None);
    }

    /// A mailbox takes so much news and no more. What is lost is counted, and what is heard is charged.
    #[test]
    fn news_is_bounded_counted_and_charged() {
        let [mut tells, mut hears] = shards();
        let local = SocketAddr::new(IpAddr::V4(OWN_IP), 53);
        let remote = SocketAddr::new(IpAddr::V4(PEER_IP), 4000);
        for _ in 0..9000 {
            tells.net.tell_all(News::UdpErr { local, remote, kind: ErrKind::PortUnreach });
        }
        super::super::flush(&mut tells);
        assert_eq!(tells.net.counts.get(Counter::SteerNewsLost), 9000 - 8192);
        sent(&mut hears);
        assert_eq!((hears.take_heard(), hears.take_heard()), (8192, 0));
    }
}
