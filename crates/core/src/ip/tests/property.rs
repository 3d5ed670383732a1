use proptest::prelude::*;

use crate::ip::testkit::*;
use crate::rand::Rng;
use crate::sock::SocketId;
use crate::time::{MS, SEC};
use crate::udp::api::UdpBind;
use crate::wire::*;

fn socket(kit: &mut Kit) -> SocketId {
    let bind = UdpBind { port: 9, rcvbuf: 1 << 26, ..Default::default() };
    kit.cx.udp_bind(bind).expect("bound")
}

fn drain(kit: &mut Kit, sock: SocketId) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(got) = kit.cx.udp_recv(sock) {
        all.push(got.slices().flatten().copied().collect());
        kit.cx.udp_done(got);
    }
    all
}

/// Mutates a packet that makes sense into one that may not.
fn spoil(packet: &mut Vec<u8>, rng: &mut Rng) {
    for _ in 0..rng.below(4) {
        match rng.below(5) {
            0 => {
                let keep = rng.below(packet.len() as u64 + 1) as usize;
                packet.truncate(keep);
            }
            1 => packet.extend((0..rng.below(40)).map(|i| i as u8)),
            _ if packet.is_empty() => {}
            _ => {
                let at = rng.below(packet.len().min(80) as u64) as usize;
                packet[at] = rng.next_u32() as u8;
            }
        }
    }
    // Often enough the checksum is right nevertheless, so that what lies behind it is reached.
    if rng.below(2) == 0 && packet.len() >= 20 && packet[0] >> 4 == 4 {
        let ihl = usize::from(packet[0] & 0xf) * 4;
        if (20..=packet.len()).contains(&ihl) {
            packet[10..12].fill(0);
            let csum = linerate_arch::csum::csum_partial(&packet[..ihl], 0);
            let csum = linerate_arch::csum::csum_fold(csum).to_be_bytes();
            packet[10..12].copy_from_slice(&csum);
        }
    }
}

fn some_packet(rng: &mut Rng) -> Vec<u8> {
    let data: Vec<u8> = (0..rng.below(3000)).map(|i| i as u8).collect();
    let echo = |kind| icmp4(Icmpv4Hdr::echo(kind, 1, 2), &data[..data.len().min(200)]);
    let err = |quote: &[u8]| icmp4(Icmpv4Hdr::plain(3, 3), quote);
    let id = rng.below(3) as u16;
    let pick = |mut all: Vec<Vec<u8>>, rng: &mut Rng| {
        let at = rng.below(all.len() as u64) as usize;
        all.swap_remove(at)
    };
    match rng.below(11) {
        0 => udp4(PEER, US, 1, 9, &data),
        1 => udp6(PEER6, US6, 1, 9, &data),
        2 => v4(PEER, US, 1, &echo(8)),
        3 => pick(fragment4(&udp4(PEER, US, 1, 9, &[&data[..], &[0; 20]].concat()), 512, id), rng),
        4 => pick(
            fragment6(&udp6(PEER6, US6, 1, 9, &[&data[..], &[0; 20]].concat()), 512, id as u32),
            rng,
        ),
        5 => v4(PEER, US, 1, &err(&udp4(US, PEER, 9, 1, b"quoted"))),
        6 => udp4(PEER, "10.1.0.9", 1, 9, &data),
        7 => udp6(PEER6, "fd01::9", 1, 9, &data),
        8 => v4(PEER, US, 132, &data),
        9 => {
            let mut ns = vec![0; 24];
            let msg = NdMsg::NeighbourSolicit { target: ip6(US6) };
            msg.emit(&mut ns, ip6(PEER6), ip6("ff02::1:ff00:1"));
            v6_hops(PEER6, "ff02::1:ff00:1", 58, 255, &ns)
        }
        _ => {
            let mut all = vec![17, 0, 1, 4, 0, 0, 0, 0];
            all.extend_from_slice(&udp(PEER6, US6, 1, 9, &data));
            v6(PEER6, US6, [0, 60, 43][rng.below(3) as usize], &all)
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]

    /// What is sent larger than the MTU arrives as it was, whatever the order of the fragments and
    /// however many of them come twice.
    #[test]
    fn reassembly_undoes_fragmentation(
        len in 1usize..60000, mtu in 1280u32..9000, seed: u64, over_v6: bool,
    ) {
        let mut rng = Rng::new(seed);
        let mut sender = Kit::tun();
        let mut receiver = Kit::tun();
        // The sender is the receiver's peer.
        for (own, peer, plen) in [(US, PEER, 24), (US6, PEER6, 64)] {
            sender.cx.del_addr(0, ip(own)).expect("gone");
            sender.cx.add_addr(0, ip(peer), plen).expect("added");
        }
        sender.cx.net.ifaces[0].mtu = mtu;
        receiver.knob("net.ipv4.ipfrag_max_dist", "0");
        let data: Vec<u8> = (0..len).map(|_| rng.next_u32() as u8).collect();
        let out = sender.cx.udp_bind(Default::default()).expect("bound");
        let dst = if over_v6 { ip(US6) } else { ip(US) };
        let how = crate::udp::output::SendTo::to((dst, 9).into());
        sender.cx.udp_send(out, how, &[&data]).expect("sent");
        let mut frames = sender.tx();
        sender.conserved();
        let whole = frames.len() == 1;
        prop_assert!(frames.iter().all(|f| f.len() <= mtu as usize));
        for i in 0..frames.len() {
            if rng.below(4) == 0 {
                frames.push(frames[i].clone());
            }
        }
        for i in (1..frames.len()).rev() {
            frames.swap(i, rng.below(i as u64 + 1) as usize);
        }
        if whole {
            frames.truncate(1);
        }
        let sock = socket(&mut receiver);
        for frame in &frames {
            // Checksums that the sender left to its device are vouched for by the device here.
            receiver.knob("features.rx", "1");
            receiver.rx(frame);
        }
        let got = drain(&mut receiver, sock);
        // A packet that was never split has its checksum still to be completed by its device.
        if !whole {
            prop_assert!(!got.is_empty(), "nothing came of {} fragments", frames.len());
            prop_assert!(got.iter().all(|g| *g == data));
        }
        receiver.conserved();
    }

    /// Whatever comes, nothing panics, every packet is accounted for, and memory stays bounded.
    #[test]
    fn any_bytes_are_survived(seed: u64, ethernet: bool, router: bool, any_ip: bool) {
        let mut rng = Rng::new(seed);
        let mut kit = if ethernet { Kit::eth() } else { Kit::tun() };
        kit.add_tun();
        kit.cx.net.ifaces[0].any_ip = any_ip;
        kit.cx.net.ifaces[0].proxy_arp = any_ip;
        if router {
            kit.knob("net.ipv4.ip_forward", "1");
            kit.knob("net.ipv6.conf.all.forwarding", "1");
        }
        let sock = socket(&mut kit);
        kit.cx.ping_open(1 << 16, 0);
        for _ in 0..200 {
            let mut packet = match rng.below(8) {
                0 => (0..rng.below(200)).map(|_| rng.next_u32() as u8).collect(),
                _ => some_packet(&mut rng),
            };
            spoil(&mut packet, &mut rng);
            if ethernet {
                let v6 = packet.first().is_some_and(|b| b >> 4 == 6);
                let mac = if rng.below(8) == 0 { Mac::BROADCAST } else { MAC };
                let proto = match rng.below(8) {
                    0 => ETH_P_ARP,
                    1 => ETH_P_8021Q,
                    _ if v6 => ETH_P_IPV6,
                    _ => ETH_P_IP,
                };
                packet = eth(mac, PEER_MAC, proto, &packet);
            }
            kit.rx(&packet);
            if rng.below(10) == 0 {
                kit.tx();
                kit.tx_on(1);
                kit.pass(rng.below(5) * SEC + 7 * MS);
                kit.cx.udp_take_error(sock);
                drain(&mut kit, sock);
                while let Some(ping) = kit.cx.ping_recv() {
                    kit.cx.ping_done(ping);
                }
            }
            prop_assert!(kit.cx.net.counts.unaccounted().is_empty());
        }
        kit.tx();
        kit.tx_on(1);
        kit.conserved();
    }
}
