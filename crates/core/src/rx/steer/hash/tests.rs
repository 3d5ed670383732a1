use proptest::prelude::*;

use super::*;
use crate::wire::{EthHdr, Mac};

fn addr(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn keys(src: &str, sport: u16, dst: &str, dport: u16) -> FlowKeys {
    let proto = IPPROTO_TCP;
    FlowKeys { src: addr(src), dst: addr(dst), ports: Some((sport, dport)), proto }
}

/// The table of the RSS verification suite: ends, the hash of the addresses alone, that of all.
const VECTORS: [(&str, u16, &str, u16, u32, u32); 8] = [
    ("66.9.149.187", 2794, "161.142.100.80", 1766, 0x323e_8fc2, 0x51cc_c178),
    ("199.92.111.2", 14230, "65.69.140.83", 4739, 0xd718_262a, 0xc626_b0ea),
    ("24.19.198.95", 12898, "12.22.207.184", 38024, 0xd2d0_a5de, 0x5c2b_394a),
    ("38.27.205.30", 48228, "209.142.163.6", 2217, 0x8298_9176, 0xafc7_327f),
    ("153.39.163.191", 44251, "202.188.127.2", 1303, 0x5d18_09c5, 0x10e8_28a2),
    ("3ffe:2501:200:1fff::7", 2794, "3ffe:2501:200:3::1", 1766, 0x2cc1_8cd5, 0x4020_7d3d),
    ("3ffe:501:8::260:97ff:fe40:efab", 14230, "ff02::1", 4739, 0x0f0c_461c, 0xdde5_1bbf),
    (
        "3ffe:1900:4545:3:200:f8ff:fe21:67cf",
        44251,
        "fe80::200:f8ff:fe21:67cf",
        38024,
        0x4b61_e985,
        0x02d1_feef,
    ),
];

#[test]
fn the_verification_suite() {
    let hash = FlowHash::default();
    for (src, sport, dst, dport, l3, l4) in VECTORS {
        let keys = keys(src, sport, dst, dport);
        assert_eq!(hash.of(&keys), l4, "{src}");
        assert_eq!(hash.of(&FlowKeys { ports: None, ..keys }), l3, "{src}");
    }
}

/// An IPv4 packet with the header fields that matter here.
fn v4(proto: u8, frag: u16, options: usize, payload: &[u8]) -> Vec<u8> {
    let ihl = 5 + options;
    let mut ip = vec![0; ihl * 4];
    ip[0] = 0x40 | ihl as u8;
    ip[6..8].copy_from_slice(&frag.to_be_bytes());
    ip[9] = proto;
    ip[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    ip.extend_from_slice(payload);
    ip
}

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut ip = vec![0; 40];
    (ip[0], ip[6]) = (0x60, next);
    ip[23] = 1;
    ip[39] = 2;
    ip.extend_from_slice(payload);
    ip
}

const PORTS: [u8; 8] = [0x12, 0x34, 0x56, 0x78, 0, 0, 0, 0];

fn eth(tags: &[u16], ethertype: u16, ip: &[u8]) -> Vec<u8> {
    let mut frame = vec![0; EthHdr::LEN];
    let hdr = EthHdr { dst: Mac([2; 6]), src: Mac([4; 6]), ethertype };
    hdr.emit(&mut frame);
    frame.truncate(12);
    for tag in tags {
        frame.extend_from_slice(&tag.to_be_bytes());
        frame.extend_from_slice(&[0, 5]);
    }
    frame.extend_from_slice(&ethertype.to_be_bytes());
    frame.extend_from_slice(ip);
    frame
}

#[test]
fn finds_the_flow_behind_tags_options_and_extension_headers() {
    let want = Some((0x1234, 0x5678));
    let udp = v4(IPPROTO_UDP, 0x4000, 0, &PORTS);
    let ports = |frame: &[u8], ethernet| dissect(frame, ethernet).expect("IP").ports;
    assert_eq!(ports(&udp, false), want);
    assert_eq!(ports(&v4(IPPROTO_TCP, 0, 3, &PORTS), false), want);
    for tags in [&[][..], &[ETH_P_8021Q], &[ETH_P_8021AD, ETH_P_8021Q]] {
        assert_eq!(ports(&eth(tags, ETH_P_IP, &udp), true), want, "{tags:x?}");
    }
    assert_eq!(dissect(&eth(&[ETH_P_8021Q; 3], ETH_P_IP, &udp), true), None, "three tags");
    assert_eq!(dissect(&eth(&[], 0x0806, &[0; 28]), true), None, "ARP");
    // Hop-by-hop, authentication, destination options, an atomic fragment.
    let chain = [
        &[IPPROTO_AH, 0, 0, 0, 0, 0, 0, 0][..],
        &[IPPROTO_DSTOPTS, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        &[IPPROTO_FRAGMENT, 0, 0, 0, 0, 0, 0, 0],
        &[IPPROTO_UDP, 0, 0, 0, 0, 0, 0, 9],
        &PORTS,
    ];
    assert_eq!(ports(&v6(IPPROTO_HOPOPTS, &chain.concat()), false), want);
    // A loop of headers ends.
    let endless = [IPPROTO_HOPOPTS, 0, 0, 0, 0, 0, 0, 0].repeat(64);
    assert_eq!(ports(&v6(IPPROTO_HOPOPTS, &endless), false), None);
}

/// All fragments of a packet, the first with its ports too, have the hash of the addresses.
#[test]
fn fragments_have_no_ports() {
    let first = v4(IPPROTO_UDP, 0x2000, 0, &PORTS);
    let last = v4(IPPROTO_UDP, 0x0010, 0, &[0xff; 8]);
    let hash = FlowHash::default();
    assert_eq!(dissect(&first, false).expect("IP").ports, None);
    assert_eq!(hash.of_frame(&first, false), hash.of_frame(&last, false));
    let frag = |field: u16| {
        let [hi, lo] = field.to_be_bytes();
        v6(IPPROTO_FRAGMENT, &[&[IPPROTO_UDP, 0, hi, lo, 0, 0, 0, 1][..], &PORTS].concat())
    };
    assert_eq!(dissect(&frag(0x0001), false).expect("IP").ports, None);
    assert_eq!(hash.of_frame(&frag(0x0001), false), hash.of_frame(&frag(0x0100), false));
    assert_ne!(hash.of_frame(&frag(0), false), hash.of_frame(&frag(1), false));
}

fn knobs(path: &str, value: &str) -> FlowHash {
    let mut knobs = Knobs::default();
    knobs.set(path, value).expect("in range");
    let mut hash = FlowHash::default();
    hash.set(&knobs);
    hash
}

#[test]
fn the_hash_of_no_flow_is_never_that_of_one() {
    assert_eq!(FlowHash::default().of_frame(&[], true), 0);
    // With no bit set Toeplitz gives 0.
    let zeros = keys("0.0.0.0", 0, "0.0.0.0", 0);
    assert_eq!(FlowHash::default().of(&zeros), 1);
}

/// Both directions alike, and neither half of the hash follows from the other.
#[test]
fn symmetric_hashes_keep_all_their_bits() {
    let hash = knobs("rss.symmetric-xor", "1");
    let mut halves_alike = 0;
    for (src, sport, dst, dport, ..) in VECTORS {
        let there = hash.of(&keys(src, sport, dst, dport));
        let back = hash.of(&keys(dst, dport, src, sport));
        assert_eq!(there, back, "{src}");
        halves_alike += u32::from(there >> 16 == there & 0xffff);
        let l3 = |a, b| hash.of(&FlowKeys { ports: None, ..keys(a, 0, b, 0) });
        assert_eq!(l3(src, dst), l3(dst, src), "{src}");
        let plain = FlowHash::default();
        let (there, back) = (keys(src, sport, dst, dport), keys(dst, dport, src, sport));
        assert_ne!(plain.of(&there), plain.of(&back), "{src}");
    }
    assert_eq!(halves_alike, 0);
    // Flows that differ in two fields by the same bits: an XOR of the ends would lose the difference.
    let a = hash.of(&keys("10.0.0.1", 1000, "10.0.1.1", 2000));
    let b = hash.of(&keys("10.0.0.3", 1000, "10.0.1.3", 2000));
    assert_ne!(a, b);
}

/// How many hashes there are when one field takes a hundred values.
fn distinct(hash: &FlowHash, key: impl Fn(u16) -> FlowKeys) -> usize {
    let all: std::collections::BTreeSet<u32> = (0..100).map(|i| hash.of(&key(i))).collect();
    all.len()
}

/// Each letter switches its own field, of its own type alone.
fn knob_of_type(path: &str, proto: u8, v6: bool) {
    let ip = |n: u16| -> IpAddr {
        if v6 { Ipv6Addr::from(n as u128).into() } else { Ipv4Addr::from(n as u32).into() }
    };
    let flow = |s: u16, d: u16, f: u16, n: u16| FlowKeys {
        src: ip(1 + s),
        dst: ip(1000 + d),
        ports: Some((f, n)),
        proto,
    };
    type Vary = fn(u16) -> [u16; 4];
    let by_field: [(&str, Vary); 4] = [
        ("s", |i| [i, 0, 0, 0]),
        ("d", |i| [0, i, 0, 0]),
        ("f", |i| [0, 0, i, 0]),
        ("n", |i| [0, 0, 0, i]),
    ];
    for value in ["sdfn", "sd", "s", "d", "f", "n", "fn"] {
        let hash = knobs(path, value);
        for (letter, field) in by_field {
            let n = distinct(&hash, |i| {
                let [s, d, f, n] = field(i);
                flow(s, d, f, n)
            });
            let want = if value.contains(letter) { 100 } else { 1 };
            assert_eq!(n, want, "{path}={value}, {letter} varied");
        }
        let other = if proto == IPPROTO_TCP { IPPROTO_UDP } else { IPPROTO_TCP };
        let n = distinct(&hash, |i| FlowKeys { proto: other, ..flow(0, 0, i, 0) });
        assert_eq!(n, 100, "{path}={value} is not about the other protocol");
    }
}

#[test]
fn knob_rx_flow_hash_tcp4() {
    knob_of_type("rx-flow-hash.tcp4", IPPROTO_TCP, false);
}
#[test]
fn knob_rx_flow_hash_udp4() {
    knob_of_type("rx-flow-hash.udp4", IPPROTO_UDP, false);
}
#[test]
fn knob_rx_flow_hash_tcp6() {
    knob_of_type("rx-flow-hash.tcp6", IPPROTO_TCP, true);
}
#[test]
fn knob_rx_flow_hash_udp6() {
    knob_of_type("rx-flow-hash.udp6", IPPROTO_UDP, true);
}

#[test]
fn knob_rss_symmetric_xor() {
    let (there, back) = (keys("10.0.0.1", 1, "10.0.0.2", 2), keys("10.0.0.2", 2, "10.0.0.1", 1));
    for (value, alike) in [("0", false), ("1", true)] {
        let hash = knobs("rss.symmetric-xor", value);
        assert_eq!(hash.of(&there) == hash.of(&back), alike, "{value}");
    }
}

#[test]
fn keys_differ_from_boot_to_boot() {
    let keys: std::collections::BTreeSet<_> = (0..100).map(netdev_rss_key).collect();
    assert_eq!(keys.len(), 100);
    assert_eq!(netdev_rss_key(7), netdev_rss_key(7));
}

proptest! {
    /// Whatever comes, cut wherever: an answer, and the same again.
    #[test]
    fn any_bytes_are_answered(mut bytes in proptest::collection::vec(any::<u8>(), 0..200),
        ethernet: bool, kind in 0..5u8, cut in 0..200usize) {
        // Often enough something that looks like IP.
        let at = if ethernet { 14 } else { 0 };
        if kind > 0 && bytes.len() > at + 7 {
            let (ethertype, first) = [(ETH_P_IP, 0x45), (ETH_P_IPV6, 0x60)][kind as usize % 2];
            if ethernet {
                bytes[12..14].copy_from_slice(&ethertype.to_be_bytes());
            }
            bytes[at] = first;
            if first == 0x60 {
                bytes[at + 6] = [0, 43, 44, 51, 60, 6, 17][bytes[at + 6] as usize % 7];
            }
        }
        bytes.truncate(cut);
        let hash = FlowHash::default();
        prop_assert_eq!(hash.of_frame(&bytes, ethernet), hash.of_frame(&bytes, ethernet));
        // The short way and the long one agree.
        let long = dissect(&bytes, ethernet).map_or(0, |keys| hash.of(&keys));
        prop_assert_eq!(hash.of_frame(&bytes, ethernet), long);
        prop_assert_eq!(long == 0, dissect(&bytes, ethernet).is_none());
    }
}
