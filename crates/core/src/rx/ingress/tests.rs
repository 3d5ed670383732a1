//! Goal: rules decide, count and print as tc's do, and no packet is lost without a count.
//! Method: a stack with devices, rules in tc's words, packets by hand.

use std::sync::Arc;

use super::*;
use crate::ip::testkit::*;
use crate::tap::{Filter, HEAD, Head, Port, Spec};
use crate::udp::api::UdpBind;

const DNS: &str = "add prio 10 protocol ip flower ip_proto udp dst_port 53";

fn kit() -> Kit {
    let mut kit = Kit::tun();
    kit.cx.udp_bind(UdpBind { port: 53, ..Default::default() }).expect("bound");
    kit
}

fn rule(kit: &mut Kit, rule: &str) {
    kit.cx.tc_filter("tun0", rule).unwrap_or_else(|e| panic!("{rule}: {e}"));
}

fn dns() -> Vec<u8> {
    udp4(PEER, US, 1, 53, b"data")
}

#[test]
fn drop_tc_ingress() {
    let mut kit = kit();
    rule(&mut kit, &format!("{DNS} action drop"));
    let before = kit.read();
    kit.rx(&dns());
    kit.rx(&dns());
    kit.moved(&before, &[("drop TcIngress", 2)]);
    let row = &kit.cx.tc_filters()[0];
    assert_eq!((row.packets, row.bytes, row.drops), (2, 2 * dns().len() as u64, 2));
    // Another port passes.
    let before = kit.read();
    kit.cx.udp_bind(UdpBind { port: 54, ..Default::default() }).expect("bound");
    kit.rx(&udp4(PEER, US, 1, 54, b"data"));
    kit.moved(&before, &[("IpInDelivers", 1), ("IpInReceives", 1)]);
    rule(&mut kit, "del prio 10");
    assert!(!kit.cx.net.ingress_on, "nothing is left to look at");
    assert_eq!(kit.cx.net.counts.flow(Stage::Ingress).read().entered, 3);
    kit.rx(&dns());
    assert_eq!(kit.cx.net.counts.flow(Stage::Ingress).read().entered, 3, "no stage any more");
}

#[test]
fn rules_are_asked_by_preference_and_one_may_leave_it_to_others() {
    let mut kit = kit();
    rule(&mut kit, "add prio 30 protocol all matchall action drop");
    rule(&mut kit, "add prio 20 protocol ip flower src_ip 10.0.0.0/24 action pass");
    rule(&mut kit, "add prio 10 protocol ip flower ip_proto udp action mark 7 action continue");
    kit.rx(&dns());
    let rows = kit.cx.tc_filters();
    let got: Vec<_> = rows.iter().map(|r| (r.prio, r.packets, r.drops)).collect();
    assert_eq!(got, [(10, 1, 0), (20, 1, 0), (30, 0, 0)]);
    kit.rx(&udp4("10.9.9.9", US, 1, 53, b"data"));
    let rows = kit.cx.tc_filters();
    let got: Vec<_> = rows.iter().map(|r| (r.prio, r.packets, r.drops)).collect();
    assert_eq!(got, [(10, 2, 0), (20, 1, 0), (30, 1, 1)]);
    kit.conserved();
}

#[test]
fn a_mark_is_on_the_packet_behind_it() {
    let mut kit = kit();
    rule(&mut kit, &format!("{DNS} action skbedit mark 0x2a pipe"));
    let port = Arc::new(Port::new(4096));
    let filter = Filter::compile("").expect("a filter");
    let points = [true, false, false, false];
    let spec = Spec { stages: Stages::of(&[Stage::Ip]), points, filter, snaplen: 0 };
    kit.cx.tap(spec, Arc::clone(&port), None).expect("there is room");
    kit.rx(&dns());
    let mut records = Vec::new();
    port.take(&mut records);
    let head = Head::decode(records.first_chunk::<HEAD>().expect("a record")).expect("sound");
    assert_eq!((head.mark, head.stage), (42, Stage::Ip));
}

#[test]
fn redirected_packets_leave_by_the_other_device() {
    let mut kit = kit();
    let other = kit.add_tun();
    rule(&mut kit, &format!("{DNS} action mirred egress redirect dev tun1"));
    kit.rx(&dns());
    assert_eq!(kit.tx_on(other), [dns()]);
    assert_eq!(kit.cx.tc_filters()[0].packets, 1);
    kit.conserved();
    // Mirrored: there and here.
    rule(
        &mut kit,
        &format!("{} action mirred egress mirror dev tun1", DNS.replace("add", "replace")),
    );
    rule(&mut kit, "del prio 10");
    rule(&mut kit, &format!("{DNS} action mirred egress mirror dev tun1"));
    let before = kit.read();
    kit.rx(&dns());
    assert_eq!(kit.tx_on(other), [dns()]);
    let flow = kit.cx.net.counts.flow(Stage::Ingress).read();
    assert_eq!((flow.made, flow.missing()), (1, 0));
    let moved = kit.read();
    assert_eq!(moved["IpInDelivers"] - before["IpInDelivers"], 1);
    kit.conserved();
}

/// From a device of frames to one of bare packets the header comes off; what is no IP can not go there.
#[test]
fn frames_lose_their_header_where_there_is_none() {
    let mut kit = Kit::eth();
    let other = kit.add_tun();
    let all = "add protocol all matchall action mirred egress redirect dev tun1";
    kit.cx.tc_filter("eth0", all).expect("a rule");
    kit.rx(&eth(MAC, PEER_MAC, 0x0800, &dns()));
    assert_eq!(kit.tx_on(other), [dns()]);
    let before = kit.read();
    kit.rx(&eth(MAC, PEER_MAC, 0x0806, &[0; 28]));
    kit.moved(&before, &[("drop TcIngress", 1)]);
    let row = &kit.cx.tc_filters()[0];
    assert!(row.text.contains("overlimits 1"), "{}", row.text);
    assert_eq!(row.bytes, dns().len() as u64 + 28, "without link headers");
    let back = "add protocol all matchall action mirred egress redirect dev eth0";
    assert!(kit.cx.tc_filter("tun1", back).is_err(), "nobody makes a header there");
}

/// One in N goes to captures that ask for samples, and all of them on.
#[test]
fn samples_go_to_captures() {
    let mut kit = kit();
    rule(&mut kit, &format!("{DNS} action sample rate 4 group 5"));
    let port = Arc::new(Port::new(1 << 20));
    let filter = Filter::compile("").expect("a filter");
    let points = [false, false, false, true];
    let spec = Spec { stages: INGRESS, points, filter, snaplen: 64 };
    kit.cx.tap(spec, Arc::clone(&port), None).expect("there is room");
    (0..4000).for_each(|_| kit.rx(&dns()));
    let (samples, lost) = port.counts();
    assert!((800..1200).contains(&samples) && lost == 0, "{samples} of 4000");
    assert_eq!(kit.cx.tc_filters()[0].packets, 4000);
    kit.conserved();
}

#[test]
fn keys_match_what_they_name() {
    let syn = |flags: u8| {
        let mut tcp = vec![0; 20];
        (tcp[0], tcp[1], tcp[2], tcp[3]) = (0x12, 0x34, 0, 80);
        (tcp[12], tcp[13]) = (0x50, flags);
        v4(PEER, US, 6, &tcp)
    };
    let cases: [(&str, Vec<u8>, bool); 22] = [
        ("protocol ip flower ip_proto udp", dns(), true),
        ("protocol ip flower ip_proto 17", dns(), true),
        ("protocol ip flower ip_proto tcp", dns(), false),
        ("protocol ipv6 flower ip_proto udp", dns(), false),
        ("protocol ipv6 flower ip_proto udp dst_port 53", udp6(PEER6, US6, 1, 53, b"x"), true),
        ("protocol ipv6 flower src_ip fd00::/16", udp6(PEER6, US6, 1, 53, b"x"), true),
        ("protocol ipv6 flower dst_ip fd01::/16", udp6(PEER6, US6, 1, 53, b"x"), false),
        ("protocol ip flower src_ip 10.0.0.2", dns(), true),
        ("protocol ip flower src_ip 10.0.0.3", dns(), false),
        ("protocol ip flower dst_ip 10.0.0.0/8", dns(), true),
        ("protocol ip flower ip_proto udp src_port 1", dns(), true),
        ("protocol ip flower ip_proto udp src_port 2-9", dns(), false),
        ("protocol ip flower ip_proto udp dst_port 50-60", dns(), true),
        ("protocol ip flower ip_ttl 64", dns(), true),
        ("protocol ip flower ip_ttl 1", dns(), false),
        ("protocol ip flower ip_tos 0/0xff", dns(), true),
        ("protocol ip flower ip_flags nofrag", dns(), true),
        ("protocol ip flower ip_flags frag", dns(), false),
        ("protocol ip flower ip_proto tcp tcp_flags 0x2/0x12", syn(2), true),
        ("protocol ip flower ip_proto tcp tcp_flags 0x2/0x12", syn(0x12), false),
        ("protocol ip flower ip_proto tcp dst_port 80", syn(2), true),
        ("protocol all matchall", syn(2), true),
    ];
    for (words, packet, want) in cases {
        let mut kit = kit();
        rule(&mut kit, &format!("add {words} action pass"));
        kit.rx(&packet);
        let got = kit.cx.tc_filters()[0].packets == 1;
        assert_eq!(got, want, "{words}");
    }
    let mut kit = Kit::eth();
    let tagged = |id: u8, frame: &[u8]| [&[0, id, 8, 0], frame].concat();
    let words = "add protocol 802.1q flower vlan_id 5 vlan_ethtype ip src_ip 10.0.0.2 action drop";
    kit.cx.tc_filter("eth0", words).expect("a rule");
    for id in [5, 6] {
        kit.rx(&eth(MAC, PEER_MAC, 0x8100, &tagged(id, &dns())));
    }
    assert_eq!(kit.cx.tc_filters()[0].drops, 1);
}

#[test]
fn rules_are_printed_as_tc_prints_them() {
    let mut kit = kit();
    rule(&mut kit, &format!("{DNS} action drop"));
    kit.rx(&dns());
    kit.pass(3_000_000_000);
    let shown = kit.cx.tc_filter_show("tun0").expect("the device exists");
    let want = "\
filter protocol ip pref 10 flower chain 0 
filter protocol ip pref 10 flower chain 0 handle 0x1 
  eth_type ipv4
  ip_proto udp
  dst_port 53
  not_in_hw
\taction order 1: gact action drop
\t random type none pass val 0
\t index 1 ref 1 bind 1 installed 3 sec used 3 sec
\tAction statistics:
\tSent 32 bytes 1 pkt (dropped 1, overlimits 0 requeues 0) 
\tbacklog 0b 0p requeues 0

";
    assert_eq!(shown, want);
}

#[test]
fn what_is_wrong_is_named() {
    let mut kit = kit();
    rule(&mut kit, &format!("{DNS} action drop"));
    let cases = [
        ("", "", "missing"),
        ("list", "list", "add, replace or del"),
        ("add prio 0 protocol ip matchall action drop", "0", "preference"),
        ("add prio 1 protocol foo matchall action drop", "foo", "protocol"),
        ("add protocol ip u32 action drop", "u32", "flower or matchall"),
        ("add protocol ip flower ip_proto udp", "", "action is missing"),
        ("add protocol ip flower colour 5 action drop", "colour", "no such key"),
        ("add protocol ip flower ip_proto udp dst_port 70000 action drop", "70000", "port"),
        ("add protocol ip flower dst_port 53 action drop", "ip_proto", "ports need"),
        ("add protocol ip flower src_ip ::1 action drop", "src_ip", "another protocol"),
        ("add protocol ip flower action fly", "fly", "actions are"),
        ("add protocol ip flower action drop now", "now", "belongs to no action"),
        ("add protocol ip flower action sample group 1", "sample", "rate"),
        ("add protocol ip flower action mirred ingress redirect dev x", "ingress", "egress"),
        ("add protocol ip flower action mirred egress redirect dev x", "x", "no device"),
        ("add prio 10 handle 1 protocol ip flower action drop", "0x1", "exists"),
        ("add prio 10 protocol ipv6 flower action drop", "10", "one protocol"),
        ("del prio 11", "del", "no such rule"),
    ];
    for (text, word, why) in cases {
        let e = kit.cx.tc_filter("tun0", text).expect_err(text);
        assert!(e.word == word && e.to_string().contains(why), "{text}: {e}");
    }
    assert!(kit.cx.tc_filter("nope", "del").is_err());
    assert_eq!(kit.cx.tc_filters().len(), 1, "nothing was changed");
    let many = "add prio 5 protocol all matchall action pass";
    (1..RULES_MAX).for_each(|_| rule(&mut kit, many));
    assert!(kit.cx.tc_filter("tun0", many).is_err(), "rules are bounded");
}

/// Whatever the words, with whatever numbers: a rule or a sentence; and whatever rules there are: packets of
/// any bytes go on or are dropped, and none is lost without a count.
#[test]
fn any_words_are_a_rule_or_refused_and_any_packet_goes_through_it() {
    const NUMBERS: [&str; 12] = [
        "0",
        "1",
        "10",
        "255",
        "256",
        "65535",
        "65536",
        "0xffffffff",
        "4294967296",
        "-1",
        "1-9",
        "1/0",
    ];
    const KEYS: [&str; 16] = [
        "ip_proto udp",
        "ip_proto tcp",
        "ip_proto icmp",
        "dst_port",
        "src_port",
        "src_ip 10.0.0.1/8",
        "dst_ip ::1",
        "dst_mac 02:00:00:00:00:01",
        "vlan_id",
        "ip_tos",
        "ip_ttl",
        "tcp_flags",
        "vlan_prio",
        "src_mac",
        "eth_type",
        "colour",
    ];
    const SOUND: [&str; 6] = [
        "",
        "ip_proto udp dst_port 53",
        "ip_proto udp src_port 1-9",
        "src_ip 10.0.0.1/8",
        "ip_ttl 64/0xf0",
        "ip_tos 0",
    ];
    const WHOLE: [&str; 7] = [
        "drop",
        "pass",
        "continue",
        "skbedit mark 7",
        "sample rate 2 group 1",
        "mirred egress redirect dev tun1",
        "mirred egress mirror dev tun1",
    ];
    const ACTIONS: [&str; 10] = [
        "drop",
        "pass",
        "continue",
        "skbedit mark",
        "sample group 1 rate",
        "sample rate",
        "mirred egress redirect dev tun1",
        "mirred egress mirror dev tun1",
        "mirred egress",
        "fly",
    ];
    let mut rng = crate::rand::Rng::new(23);
    let mut kit = kit();
    kit.add_tun();
    kit.cx.set_knob("dev.promisc", "on").expect("a knob");
    let (mut good, mut through) = (0, 0);
    for n in 0..20_000 {
        let mut pick = |list: &[&'static str]| list[rng.below(list.len() as u64) as usize];
        let mut words = vec![pick(&["add", "add", "add", "add", "replace", "list"])];
        let place = pick(&["prio", "handle", "", "", "pref"]);
        if !place.is_empty() {
            words.extend([place, pick(&NUMBERS)]);
        }
        words.extend(["protocol", pick(&["ip", "ipv6", "all", "arp", "802.1q", "0x800", "foo"])]);
        words.push(pick(&["flower", "flower", "matchall", "u32"]));
        for _ in 0..n % 3 {
            words.extend([pick(&KEYS), pick(&["", "", NUMBERS[n % 12], "udp"])]);
        }
        words.extend(["action", pick(&WHOLE)]);
        if n % 3 == 0 {
            words.extend([
                "action",
                pick(&ACTIONS),
                pick(&["", "", "1", "7", "0xffffffff", "0"]),
                pick(&["", "", "", "group 2", "rate 0", "pipe"]),
            ]);
        }
        // Every other one is a rule for sure, if there is room for it.
        let sound = ["add protocol ip flower", pick(&SOUND), "action", pick(&WHOLE)].join(" ");
        let text = if n % 2 == 0 { sound } else { words.join(" ") };
        if kit.cx.tc_filter("tun0", &text).is_ok() {
            good += 1;
        }
        if n % 64 == 63 {
            kit.cx.tc_filter("tun0", "del").expect("there may be none");
        }
        if n % 4 == 0 {
            let mut packet = dns();
            for _ in 0..rng.below(4) {
                let at = rng.below(packet.len() as u64) as usize;
                packet[at] = rng.below(256) as u8;
            }
            packet.truncate(rng.below(200) as usize);
            if !packet.is_empty() {
                kit.rx(&packet);
                through += 1;
            }
        }
        if n % 512 == 0 {
            assert!(!kit.cx.tc_filter_show("tun0").expect("it is there").contains('\0'));
            kit.tx();
            kit.tx_on(1);
        }
    }
    assert!(good > 1000 && through > 4000, "{good} rules, {through} packets");
    kit.tx();
    kit.tx_on(1);
    kit.conserved();
}
