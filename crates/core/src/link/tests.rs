use super::neigh::Nud;
use crate::ip::testkit::*;
use crate::sock::SocketId;
use crate::tcp::icmp::ErrKind;
use crate::time::{MS, SEC};
use crate::udp::output::SendTo;
use crate::wire::arp::{ARPOP_REPLY, ARPOP_REQUEST};
use crate::wire::*;

fn arp(op: u16, sha: Mac, spa: &str, tpa: &str, to: Mac) -> Vec<u8> {
    let mut body = vec![0; 28];
    let tha = if op == ARPOP_REPLY { to } else { Mac::ZERO };
    ArpHdr { op, sha, spa: ip4(spa), tha, tpa: ip4(tpa) }.emit(&mut body);
    eth(to, sha, ETH_P_ARP, &body)
}

fn ask(spa: &str, tpa: &str) -> Vec<u8> {
    arp(ARPOP_REQUEST, PEER_MAC, spa, tpa, Mac::BROADCAST)
}

fn answer(spa: &str) -> Vec<u8> {
    arp(ARPOP_REPLY, PEER_MAC, spa, US, MAC)
}

/// The ARP packets among frames.
fn arps(frames: &[Vec<u8>]) -> Vec<(EthHdr, ArpHdr)> {
    let read = |f: &Vec<u8>| {
        let eth = EthHdr::parse(f).ok().filter(|e| e.ethertype == ETH_P_ARP)?;
        Some((eth, ArpHdr::parse(&f[14..]).ok()?))
    };
    frames.iter().filter_map(read).collect()
}

fn send(kit: &mut Kit, dst: &str, n: usize) -> SocketId {
    let sock = kit.cx.udp_bind(Default::default()).expect("bound");
    for _ in 0..n {
        kit.cx.udp_send(sock, SendTo::to((ip(dst), 9).into()), &[b"data"]).expect("sent");
    }
    sock
}

fn state(kit: &Kit, addr: &str) -> Option<Nud> {
    kit.cx.net.neigh.get(0, ip(addr)).map(|n| n.state())
}

#[test]
fn drop_link_truncated() {
    for (mut kit, bytes) in [(Kit::eth(), &[0; 13][..]), (Kit::tun(), &[])] {
        let before = kit.read();
        kit.rx(bytes);
        let want = [("DevRxLengthErrors", 1), ("DevRxErrors", 1), ("drop LinkTruncated", 1)];
        kit.moved(&before, &want);
    }
}

fn for_another() -> Vec<u8> {
    eth(Mac([2, 9, 9, 9, 9, 9]), PEER_MAC, ETH_P_IP, &udp4(PEER, US, 1, 2, b""))
}

#[test]
fn drop_other_host() {
    let mut kit = Kit::eth();
    let before = kit.read();
    kit.rx(&for_another());
    kit.moved(&before, &[("DevRxOtherhostDropped", 1), ("drop OtherHost", 1)]);
}

#[test]
fn knob_dev_promisc() {
    let mut kit = Kit::eth();
    for (value, taken) in [("0", 0), ("1", 1), ("0", 1)] {
        kit.knob("dev.promisc", value);
        kit.rx(&for_another());
        assert_eq!(kit.read()["IpInReceives"], taken, "{value}");
    }
    assert_eq!(kit.read()["drop OtherHost"], 2);
    kit.conserved();
}

#[test]
fn drop_unhandled_proto() {
    let mut kit = Kit::eth();
    let before = kit.read();
    kit.rx(&eth(MAC, PEER_MAC, ETH_P_LLDP, &[0; 46]));
    kit.moved(&before, &[("DevRxNohandler", 1), ("drop UnhandledProto", 1)]);
    let mut kit = Kit::tun();
    let before = kit.read();
    kit.rx(&[0x50; 40]);
    kit.moved(&before, &[("DevRxNohandler", 1), ("drop UnhandledProto", 1)]);
}

#[test]
fn drop_vlan_unknown() {
    let mut kit = Kit::eth();
    let tagged = |outer: u16, tci: u16, inner: &[u8]| {
        let mut body = tci.to_be_bytes().to_vec();
        body.extend_from_slice(inner);
        eth(MAC, PEER_MAC, outer, &body)
    };
    let ip_in = |bytes: Vec<u8>| [&ETH_P_IP.to_be_bytes()[..], &bytes].concat();
    let packet = ip_in(udp4(PEER, US, 1, 2, b""));
    let before = kit.read();
    kit.rx(&tagged(ETH_P_8021Q, 5, &packet));
    kit.moved(&before, &[("DevRxDropped", 1), ("drop VlanUnknown", 1)]);
    // A priority tag, a VLAN that exists, and one behind a service tag.
    kit.rx(&tagged(ETH_P_8021Q, 0xe000, &packet));
    kit.cx.net.ifaces[0].vlans.push(5);
    kit.rx(&tagged(ETH_P_8021Q, 5, &packet));
    kit.cx.net.ifaces[0].vlans.push(7);
    let double = [&ETH_P_8021Q.to_be_bytes()[..], &5u16.to_be_bytes(), &packet].concat();
    kit.rx(&tagged(ETH_P_8021AD, 7, &double));
    assert_eq!(kit.read()["IpInReceives"], 3);
    // An answer to ARP of a VLAN goes to that VLAN.
    let request = &ask(PEER, US)[14..];
    let mut body = 5u16.to_be_bytes().to_vec();
    body.extend_from_slice(&ETH_P_ARP.to_be_bytes());
    body.extend_from_slice(request);
    kit.rx(&eth(Mac::BROADCAST, PEER_MAC, ETH_P_8021Q, &body));
    let sent = kit.tx();
    let tag = sent.iter().find(|f| f[12..14] == ETH_P_8021Q.to_be_bytes()).expect("tagged");
    assert_eq!(VlanTag::parse(&tag[14..]), Ok(VlanTag { tci: 5, ethertype: ETH_P_ARP }));
    kit.conserved();
}

#[test]
fn drop_arp_invalid() {
    let mut kit = Kit::eth();
    let frames = [
        eth(MAC, PEER_MAC, ETH_P_ARP, &[0; 27]),
        eth(MAC, PEER_MAC, ETH_P_ARP, &[0; 28]),
        arp(9, PEER_MAC, PEER, US, MAC),
        arp(ARPOP_REQUEST, Mac::BROADCAST, PEER, US, MAC),
        ask(PEER, "224.0.0.1"),
    ];
    for frame in frames {
        let before = kit.read();
        kit.rx(&frame);
        kit.moved(&before, &[("drop ArpInvalid", 1)]);
    }
}

#[test]
fn arp_is_answered_and_teaches() {
    let mut kit = Kit::eth();
    kit.rx(&ask(PEER, US));
    let sent = arps(&kit.tx());
    assert_eq!(sent.len(), 1);
    let (eth, arp) = sent[0];
    assert_eq!((eth.dst, eth.src, arp.op), (PEER_MAC, MAC, ARPOP_REPLY));
    assert_eq!((arp.sha, arp.spa, arp.tha, arp.tpa), (MAC, ip4(US), PEER_MAC, ip4(PEER)));
    assert_eq!(state(&kit, PEER), Some(Nud::Stale));
    // Whoever has no address yet hears that ours is taken.
    kit.rx(&ask("0.0.0.0", US));
    assert_eq!(arps(&kit.tx()).len(), 1);
    // Others' addresses are none of our business, and others' questions teach nothing new.
    kit.rx(&ask("10.0.0.5", "10.0.0.6"));
    assert!(kit.tx().is_empty());
    assert_eq!(state(&kit, "10.0.0.5"), None);
    // Nobody can take our address.
    kit.rx(&ask(US, US));
    assert!(kit.tx().is_empty());
    assert_eq!(state(&kit, US), None);
    kit.conserved();
}

#[test]
fn a_gateway_answers_for_every_address_but_the_askers() {
    for any_ip in [false, true] {
        let mut kit = Kit::eth();
        let iface = &mut kit.cx.net.ifaces[0];
        (iface.any_ip, iface.proxy_arp) = (any_ip, !any_ip);
        kit.rx(&ask(PEER, "10.0.0.77"));
        kit.rx(&ask(PEER, "192.0.2.1"));
        assert_eq!(arps(&kit.tx()).len(), 2);
        // The asker tests whether it may have its address, and announces it.
        kit.rx(&ask("0.0.0.0", PEER));
        kit.rx(&ask(PEER, PEER));
        assert!(kit.tx().is_empty());
    }
}

#[test]
fn packets_wait_until_the_neighbour_answers() {
    let mut kit = Kit::eth();
    let before = kit.read();
    send(&mut kit, PEER, 3);
    let sent = kit.tx();
    assert_eq!(arps(&sent).len(), 1, "one question for all");
    assert_eq!(sent.len(), 1);
    let (eth, arp) = arps(&sent)[0];
    assert_eq!((eth.dst, arp.op, arp.spa, arp.tpa), (Mac::BROADCAST, 1, ip4(US), ip4(PEER)));
    kit.conserved();
    kit.rx(&answer(PEER));
    let sent = kit.tx();
    assert_eq!(sent.len(), 3);
    assert!(sent.iter().all(|f| EthHdr::parse(f).is_ok_and(|e| e.dst == PEER_MAC)));
    assert_eq!(state(&kit, PEER), Some(Nud::Reachable));
    send(&mut kit, PEER, 1);
    assert_eq!(kit.tx().len(), 1);
    let now = kit.read();
    assert_eq!(now["NeighLookups"] - before["NeighLookups"], 4);
    assert_eq!(now["NeighHits"] - before["NeighHits"], 3);
    kit.conserved();
}

#[test]
fn drop_neigh_failed() {
    for v6 in [false, true] {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.neigh.default.mcast_solicit", "2");
        kit.knob("net.ipv4.neigh.default.retrans_time_ms", "200");
        let dst = if v6 { PEER6 } else { PEER };
        let sock = send(&mut kit, dst, 2);
        assert_eq!(kit.tx().len(), 1);
        kit.pass(150 * MS);
        assert_eq!(kit.tx().len(), 0);
        kit.pass(100 * MS);
        assert_eq!(kit.tx().len(), 1, "the second question");
        let before = kit.read();
        kit.pass(300 * MS);
        let now = kit.read();
        assert_eq!(now["drop NeighFailed"] - before["drop NeighFailed"], 2);
        assert_eq!(now["NeighResFailed"] - before["NeighResFailed"], 1);
        assert_eq!(kit.cx.net.neigh.get(0, ip(dst)).map(|n| n.state()), Some(Nud::Failed));
        assert!(kit.tx().is_empty());
        let heard = kit.cx.udp_take_error(sock);
        assert_eq!(heard, Some(((ip(dst), 9).into(), ErrKind::HostUnreach)));
        kit.conserved();
        // The next packet asks anew.
        send(&mut kit, dst, 1);
        assert_eq!(kit.tx().len(), 1);
        kit.conserved();
    }
}

#[test]
fn drop_neigh_queue_full() {
    let mut kit = Kit::eth();
    kit.knob("net.ipv4.neigh.default.unres_qlen_bytes", "10000");
    send(&mut kit, PEER, 20);
    kit.tx();
    let waiting = kit.cx.net.neigh.get(0, ip(PEER)).expect("asked for").waiting() as i64;
    assert!((2..8).contains(&waiting), "{waiting}");
    let now = kit.read();
    assert_eq!(now["drop NeighQueueFull"], 20 - waiting);
    assert_eq!(now["NeighUnresDiscards"], 20 - waiting);
    kit.conserved();
    assert!(kit.cx.neigh_del(0, ip(PEER)));
    kit.conserved();
}

#[test]
fn drop_neigh_table_full() {
    let mut kit = Kit::eth();
    kit.knob("net.ipv4.neigh.default.gc_thresh1", "4");
    kit.knob("net.ipv4.neigh.default.gc_thresh3", "8");
    for i in 0..10 {
        send(&mut kit, &format!("10.0.0.{}", 100 + i), 1);
    }
    kit.tx();
    assert_eq!(kit.cx.net.neigh.len(), 8);
    let now = kit.read();
    assert_eq!((now["drop NeighTableFull"], now["NeighTableFulls"]), (2, 2));
    kit.conserved();
    // Those that did not answer make room, the oldest first; a permanent one never does.
    assert!(kit.cx.neigh_add(0, ip("10.0.0.100"), PEER_MAC));
    for _ in 0..4 {
        kit.pass(2 * SEC);
    }
    kit.tx();
    for i in 0..6 {
        send(&mut kit, &format!("10.0.0.{}", 200 + i), 1);
    }
    kit.tx();
    assert_eq!(kit.read()["drop NeighTableFull"], 2);
    assert_eq!(state(&kit, "10.0.0.100"), Some(Nud::Permanent));
    assert_eq!(state(&kit, "10.0.0.101"), None);
    assert!(kit.cx.net.neigh.len() <= 8);
    kit.conserved();
}

/// How often somebody who does not answer is asked in ten seconds, and when the first two
/// questions go out, in milliseconds.
fn asked(knob: &str, value: &str) -> (usize, Vec<u64>) {
    let mut kit = Kit::eth();
    kit.knob(knob, value);
    send(&mut kit, PEER, 1);
    let mut at = Vec::new();
    for ms in 0..10_000 {
        at.extend(std::iter::repeat_n(ms, arps(&kit.tx()).len()));
        kit.pass(MS);
    }
    (at.len(), at)
}

#[test]
fn knob_net_ipv4_neigh_default_mcast_solicit() {
    for tries in [1, 3, 5] {
        let (n, _) = asked("net.ipv4.neigh.default.mcast_solicit", &tries.to_string());
        assert_eq!(n, tries);
    }
}

#[test]
fn knob_net_ipv4_neigh_default_retrans_time_ms() {
    for ms in [100, 1000, 3000] {
        let (_, at) = asked("net.ipv4.neigh.default.retrans_time_ms", &ms.to_string());
        let gap = at[1] - at[0];
        assert!((ms..=ms + ms / 8 + 2).contains(&gap), "{gap} ms for {ms}");
    }
}

#[test]
fn knob_net_ipv4_neigh_default_unres_qlen_bytes() {
    let lost = ["0", "10000", "20000", "212992"].map(|bytes| {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.neigh.default.unres_qlen_bytes", bytes);
        send(&mut kit, PEER, 20);
        kit.tx();
        kit.conserved();
        kit.read()["NeighUnresDiscards"]
    });
    assert!(lost[0] == 20 && lost[3] == 0 && lost.is_sorted_by(|a, b| a > b), "{lost:?}");
}

#[test]
fn knob_net_ipv4_neigh_default_gc_thresh3() {
    for (most, refused) in [("4", 6), ("8", 2), ("10", 0), ("1024", 0)] {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.neigh.default.gc_thresh3", most);
        for i in 0..10 {
            send(&mut kit, &format!("10.0.0.{}", 100 + i), 1);
        }
        kit.tx();
        assert_eq!(kit.read()["NeighTableFulls"], refused, "{most}");
    }
}

/// From so many entries on, those that failed make room for new ones.
#[test]
fn knob_net_ipv4_neigh_default_gc_thresh1() {
    for (keep, left) in [("128", 12), ("4", 10)] {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.neigh.default.gc_thresh1", keep);
        for i in 0..10 {
            send(&mut kit, &format!("10.0.0.{}", 100 + i), 1);
        }
        for _ in 0..4 {
            kit.tx();
            kit.pass(2 * SEC);
        }
        for i in 0..2 {
            kit.pass(10 * SEC);
            send(&mut kit, &format!("10.0.0.{}", 200 + i), 1);
            kit.tx();
        }
        assert_eq!(kit.cx.net.neigh.len(), left, "gc_thresh1 {keep}");
    }
}

/// A neighbour that was known and is silent is asked itself so often, then given up.
#[test]
fn knob_net_ipv4_neigh_default_ucast_solicit() {
    for tries in [1, 2, 5] {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.neigh.default.ucast_solicit", &tries.to_string());
        send(&mut kit, PEER, 1);
        kit.tx();
        kit.rx(&answer(PEER));
        kit.pass(60 * SEC);
        kit.tx();
        assert_eq!(state(&kit, PEER), Some(Nud::Stale));
        send(&mut kit, PEER, 1);
        let mut asked = 0;
        for _ in 0..200 {
            asked += arps(&kit.tx()).len();
            kit.pass(100 * MS);
        }
        assert_eq!((asked, state(&kit, PEER)), (tries, Some(Nud::Failed)));
    }
}

/// Between half and one and a half times as long, and what the wheel adds.
#[test]
fn knob_net_ipv4_neigh_default_base_reachable_time_ms() {
    for ms in [2000, 30_000, 300_000] {
        let mut kit = Kit::eth();
        kit.knob("net.ipv4.neigh.default.base_reachable_time_ms", &ms.to_string());
        send(&mut kit, PEER, 1);
        kit.tx();
        kit.rx(&answer(PEER));
        kit.tx();
        // Within five seconds of its last use it would be asked instead of being let go.
        kit.pass(ms / 2 * MS - MS);
        assert_eq!(state(&kit, PEER), Some(Nud::Reachable), "{ms}");
        kit.pass((ms + ms / 2) * MS);
        assert!(matches!(state(&kit, PEER), Some(Nud::Stale | Nud::Delay)), "{ms}");
    }
}

/// TCP's word that data arrived keeps the neighbour from being asked (`sk_dst_confirm`).
#[test]
fn tcp_progress_confirms_the_neighbour() {
    for talk in [true, false] {
        let mut kit = Kit::eth();
        let l = kit.cx.tcp_listen(crate::tcp::Listen { port: 80, ..Default::default() });
        let l = l.expect("a free port");
        kit.rx(&ask(PEER, US));
        kit.tx();
        let syn = tcp(1000, 0, TcpFlags::SYN);
        kit.rx(&eth(MAC, PEER_MAC, ETH_P_IP, &syn));
        let frames = kit.tx();
        let syn_ack = TcpHdr::parse(&frames[0][34..]).expect("a SYN-ACK");
        kit.rx(&eth(MAC, PEER_MAC, ETH_P_IP, &tcp(1001, syn_ack.seq + 1, TcpFlags::ACK)));
        let id = kit.cx.tcp_accept(l).expect("established");
        let mut acked = syn_ack.seq.wrapping_add(1);
        let mut asked = 0;
        for _ in 0..30 {
            kit.pass(SEC);
            // Data goes out each second; without its acknowledgement nothing is confirmed.
            if talk {
                kit.cx.tcp_send(id, b"data").expect("room");
                acked = acked.wrapping_add(4);
            } else {
                send(&mut kit, PEER, 1);
            }
            asked += arps(&kit.tx()).len();
            if talk {
                kit.rx(&eth(MAC, PEER_MAC, ETH_P_IP, &tcp(1001, acked, TcpFlags::ACK)));
            }
        }
        assert_eq!(asked > 0, !talk, "asked {asked} times");
        assert_eq!(state(&kit, PEER) == Some(Nud::Reachable), talk);
    }
}

fn tcp(seq: u32, ack: u32, flags: TcpFlags) -> Vec<u8> {
    let mut out = vec![0; 20];
    let (src_port, dst_port, data_off_bytes, window) = (5, 80, 20, 1000);
    TcpHdr { src_port, dst_port, seq, ack, data_off_bytes, flags, window, csum: 0, urg: 0 }
        .emit(&mut out);
    let sum = crate::pkt::pseudo(ip(PEER), ip(US), out.len(), 6);
    let sum = linerate_arch::csum::csum_partial(&out, sum);
    out[16..18].copy_from_slice(&linerate_arch::csum::csum_fold(sum).to_be_bytes());
    v4(PEER, US, 6, &out)
}

#[test]
fn a_neighbour_ages_is_asked_and_may_be_lost() {
    let mut kit = Kit::eth();
    kit.knob("net.ipv4.neigh.default.base_reachable_time_ms", "10000");
    kit.knob("net.ipv4.neigh.default.ucast_solicit", "2");
    send(&mut kit, PEER, 1);
    kit.tx();
    kit.rx(&answer(PEER));
    kit.tx();
    assert_eq!(state(&kit, PEER), Some(Nud::Reachable));
    // Not used for longer than it counts as reachable: stale.
    kit.pass(20 * SEC);
    assert_eq!(state(&kit, PEER), Some(Nud::Stale));
    // Used: it is trusted a little longer, then asked itself, not everybody.
    send(&mut kit, PEER, 1);
    assert_eq!(kit.tx().len(), 1);
    assert_eq!(state(&kit, PEER), Some(Nud::Delay));
    kit.pass(6 * SEC);
    assert_eq!(state(&kit, PEER), Some(Nud::Probe));
    let sent = kit.tx();
    assert_eq!(arps(&sent)[0].0.dst, PEER_MAC);
    kit.rx(&answer(PEER));
    assert_eq!(state(&kit, PEER), Some(Nud::Reachable));
    // Word from above spares the question.
    kit.pass(20 * SEC);
    send(&mut kit, PEER, 1);
    kit.tx();
    kit.pass(2 * SEC);
    kit.cx.net.neigh_confirm(0, ip(PEER));
    kit.pass(4 * SEC);
    assert_eq!(state(&kit, PEER), Some(Nud::Reachable));
    // Silence: after so many questions it is given up.
    kit.pass(20 * SEC);
    send(&mut kit, PEER, 1);
    kit.tx();
    for _ in 0..10 {
        kit.pass(6 * SEC);
        kit.tx();
    }
    assert_eq!(state(&kit, PEER), Some(Nud::Failed));
    kit.conserved();
}

#[test]
fn a_contradiction_within_a_second_is_not_believed() {
    let mut kit = Kit::eth();
    send(&mut kit, PEER, 1);
    kit.tx();
    kit.rx(&answer(PEER));
    let other = Mac([2, 6, 6, 6, 6, 6]);
    let mac = |kit: &Kit| kit.cx.net.neigh.get(0, ip(PEER)).expect("known").mac();
    kit.rx(&arp(ARPOP_REPLY, other, PEER, US, MAC));
    assert_eq!(mac(&kit), PEER_MAC);
    kit.pass(2 * SEC);
    kit.rx(&arp(ARPOP_REPLY, other, PEER, US, MAC));
    assert_eq!(mac(&kit), other);
}

#[test]
fn neighbour_discovery_finds_a_neighbour() {
    let mut kit = Kit::eth();
    send(&mut kit, PEER6, 2);
    let sent = kit.tx();
    assert_eq!(sent.len(), 1);
    let eth_hdr = EthHdr::parse(&sent[0]).expect("a header");
    assert_eq!(eth_hdr.dst, Mac::from_ipv6_multicast(ip6("ff02::1:ff00:2")));
    let (msg, options) = NdMsg::parse(&sent[0][54..]).expect("a solicitation");
    assert_eq!(msg, NdMsg::NeighbourSolicit { target: ip6(PEER6) });
    assert_eq!(options.collect::<Vec<_>>(), [Ok(NdOpt::SourceLinkAddr(MAC))]);
    let advert = |override_, mac| {
        let (router, solicited, target) = (false, true, ip6(PEER6));
        let msg = NdMsg::NeighbourAdvert { router, solicited, override_, target };
        let mut body = vec![0; 32];
        NdOpt::TargetLinkAddr(mac).emit(&mut body[24..]);
        msg.emit(&mut body, ip6(PEER6), ip6(US6));
        eth(MAC, PEER_MAC, ETH_P_IPV6, &v6_hops(PEER6, US6, 58, 255, &body))
    };
    kit.rx(&advert(true, PEER_MAC));
    assert_eq!(kit.tx().len(), 2);
    assert_eq!(state(&kit, PEER6), Some(Nud::Reachable));
    // RFC 4861 §7.2.5: another address without the override flag only raises doubt.
    kit.rx(&advert(false, Mac([2, 6, 6, 6, 6, 6])));
    let known = kit.cx.net.neigh.get(0, ip(PEER6)).expect("known");
    assert_eq!((known.state(), known.mac()), (Nud::Stale, PEER_MAC));
    kit.conserved();
}

#[test]
fn groups_and_broadcasts_need_no_neighbour() {
    let mut kit = Kit::eth();
    for (dst, mac) in [
        ("255.255.255.255", Mac::BROADCAST),
        ("10.0.0.255", Mac::BROADCAST),
        ("224.1.2.3", Mac([1, 0, 0x5e, 1, 2, 3])),
        ("ff02::1:3", Mac([0x33, 0x33, 0, 1, 0, 3])),
    ] {
        send(&mut kit, dst, 1);
        let sent = kit.tx();
        assert_eq!(sent.len(), 1, "{dst}");
        assert_eq!(EthHdr::parse(&sent[0]).expect("a header").dst, mac);
    }
    let now = kit.read();
    assert_eq!((now["IpOutBcastPkts"], now["IpOutMcastPkts"], now["Ip6OutMcastPkts"]), (2, 1, 1));
    assert!(kit.cx.net.neigh.is_empty());
}

/// Goal: where answers of neighbours go to somebody else, they are learnt from what they send, their
/// router from what comes by it; one that is reachable is not taken over, and what anybody may have
/// sent makes room for others.
#[test]
fn neighbours_are_learnt_from_frames_where_nobody_else_tells() {
    const OTHER_MAC: Mac = Mac([2, 0, 0, 0, 0, 9]);
    let from = |mac: Mac, src: &str| eth(MAC, mac, ETH_P_IP, &udp4(src, US, 1, 2, b"x"));
    let mut kit = Kit::eth();
    kit.rx(&from(PEER_MAC, PEER));
    assert_eq!(state(&kit, PEER), None, "only where it is asked for");
    kit.cx.net.ifaces[0].glean = true;
    kit.cx.net.glean = true;
    kit.rx(&from(PEER_MAC, PEER));
    assert_eq!(state(&kit, PEER), Some(Nud::Reachable));
    kit.rx(&from(OTHER_MAC, PEER));
    let mac = |kit: &Kit, addr: &str| kit.cx.net.neigh.get(0, ip(addr)).map(|n| n.mac());
    assert_eq!(mac(&kit, PEER), Some(PEER_MAC), "it is not taken over");
    // A frame for somebody else teaches nothing.
    kit.cx.set_knob("dev.promisc", "1").expect("a switch");
    kit.cx.neigh_del(0, ip(PEER));
    kit.rx(&for_another());
    assert_eq!(state(&kit, PEER), None);
    // More of them than there is room for: the last is learnt all the same.
    kit.cx.set_knob("net.ipv4.neigh.default.gc_thresh3", "8").expect("in range");
    kit.cx.set_knob("net.ipv4.neigh.default.gc_thresh1", "4").expect("in range");
    let base = PEER.rsplit_once('.').expect("an address").0;
    for n in 100..140 {
        kit.rx(&from(OTHER_MAC, &format!("{base}.{n}")));
    }
    assert!(kit.cx.net.neigh.len() <= 8);
    assert_eq!(mac(&kit, &format!("{base}.139")), Some(OTHER_MAC));
}
