//! What is emitted is parsed back, arbitrary bytes never panic, and the known cases of each rule.

use std::net::{Ipv4Addr, Ipv6Addr};

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::icmpv6::Icmpv6Hdr;
use super::ipv4::Ipv4OptionsError;
use super::ipv6::{EXT_HDRS_MAX, ExtError, ParamCode, Upper, walk};
use super::*;

fn mac() -> impl Strategy<Value = Mac> {
    any::<[u8; 6]>().prop_map(Mac)
}

fn v6() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u8; 16]>().prop_map(Ipv6Addr::from)
}

fn v6_unicast() -> impl Strategy<Value = Ipv6Addr> {
    any::<[u8; 15]>().prop_map(|rest| {
        let mut octets = [0x20; 16];
        octets[1..].copy_from_slice(&rest);
        Ipv6Addr::from(octets)
    })
}

fn ipv4_hdr() -> impl Strategy<Value = Ipv4Hdr> {
    let sizes = (5usize..=15, any::<u16>());
    let frag = (any::<u16>(), any::<bool>(), any::<bool>(), 0u16..0x2000);
    let rest = (any::<u8>(), any::<u8>(), any::<u8>(), any::<Ipv4Addr>(), any::<Ipv4Addr>());
    (sizes, frag, rest).prop_map(|((ihl, len), (id, df, mf, off), (tos, ttl, proto, src, dst))| {
        let ihl_bytes = ihl * 4;
        let (total_len, frag_off_bytes) = (len.max(ihl_bytes as u16), off * 8);
        let csum = 0;
        Ipv4Hdr {
            ihl_bytes,
            tos,
            total_len,
            id,
            df,
            mf,
            frag_off_bytes,
            ttl,
            proto,
            csum,
            src,
            dst,
        }
    })
}

fn nd_msg() -> impl Strategy<Value = NdMsg> {
    let advert = (any::<[u8; 1]>(), any::<[bool; 2]>(), any::<u16>(), any::<[u32; 2]>()).prop_map(
        |([hop_limit], [managed, other], lifetime_s, [reachable_ms, retrans_ms])| {
            NdMsg::RouterAdvert { hop_limit, managed, other, lifetime_s, reachable_ms, retrans_ms }
        },
    );
    let neigh =
        (any::<[bool; 3]>(), v6_unicast()).prop_map(|([router, solicited, override_], target)| {
            NdMsg::NeighbourAdvert { router, solicited, override_, target }
        });
    prop_oneof![
        Just(NdMsg::RouterSolicit),
        advert,
        v6_unicast().prop_map(|target| NdMsg::NeighbourSolicit { target }),
        neigh,
        (v6_unicast(), v6_unicast()).prop_map(|(target, dst)| NdMsg::Redirect { target, dst }),
    ]
}

fn nd_opt() -> impl Strategy<Value = NdOpt> {
    let prefix = (0u8..=128, any::<[bool; 2]>(), any::<[u32; 2]>(), v6()).prop_map(
        |(len_bits, [on_link, autonomous], [valid_s, preferred_s], prefix)| NdOpt::Prefix {
            len_bits,
            on_link,
            autonomous,
            valid_s,
            preferred_s,
            prefix,
        },
    );
    prop_oneof![
        mac().prop_map(NdOpt::SourceLinkAddr),
        mac().prop_map(NdOpt::TargetLinkAddr),
        any::<u32>().prop_map(NdOpt::Mtu),
        prefix,
    ]
}

fn tcp_options() -> impl Strategy<Value = TcpOptions> {
    let sack = vec(any::<(u32, u32)>(), 0..=4);
    let ts = option::of(any::<(u32, u32)>());
    (option::of(1u16..), option::of(0u8..=14), any::<bool>(), ts, sack).prop_map(
        |(mss, wscale, sack_permitted, ts, sack)| TcpOptions {
            mss,
            wscale,
            sack_permitted,
            ts,
            sack: sack.into_iter().collect(),
            signed: false,
        },
    )
}

proptest! {
    #[test]
    fn ethernet_and_vlan_come_back(dst in mac(), src in mac(), ethertype: u16, tci: u16) {
        let (eth, tag) = (EthHdr { dst, src, ethertype }, VlanTag { tci, ethertype });
        let mut b = [0xa5; 18];
        eth.emit(&mut b);
        tag.emit(&mut b[14..]);
        prop_assert_eq!(EthHdr::parse(&b), Ok(eth));
        prop_assert_eq!(VlanTag::parse(&b[14..]), Ok(tag));
        let again = u16::from(tag.pcp()) << 13 | u16::from(tag.dei()) << 12 | tag.vid();
        prop_assert_eq!(again, tci);
    }

    #[test]
    fn arp_comes_back(op: u16, sha in mac(), spa: Ipv4Addr, tha in mac(), tpa: Ipv4Addr) {
        let arp = ArpHdr { op, sha, spa, tha, tpa };
        let mut b = [0xa5; 60];
        arp.emit(&mut b);
        prop_assert_eq!(ArpHdr::parse(&b), Ok(arp));
    }

    #[test]
    fn ipv4_comes_back_with_its_checksum(hdr in ipv4_hdr(), options: [u8; 40],
        flip in 0usize..160) {
        let mut b = [0u8; 60];
        b[20..].copy_from_slice(&options);
        hdr.emit(&mut b);
        let parsed = Ipv4Hdr::parse(&b).unwrap();
        prop_assert_eq!(Ipv4Hdr { csum: 0, ..parsed }, hdr);
        prop_assert_eq!(&b[20..], &options);
        prop_assert!(Ipv4Hdr::csum_ok(&b));
        prop_assert!(Ipv4Hdr::csum_ok(&b[..hdr.ihl_bytes]));
        prop_assert!(!Ipv4Hdr::csum_ok(&b[..hdr.ihl_bytes - 1]));
        // One wrong bit is always found. The length nibble is left alone: it moves the end of what
        // is summed.
        if flip >= 8 {
            b[flip / 8] ^= 1 << (flip % 8);
            prop_assert!(!Ipv4Hdr::csum_ok(&b));
        }
    }

    #[test]
    fn ipv6_comes_back(tclass: u8, flow_label in 0u32..1 << 20, payload_len: u16, next_header: u8,
        hop_limit: u8, src in v6(), dst in v6(), off in 0u16..0x2000, mf: bool, id: u32) {
        let hdr = Ipv6Hdr { tclass, flow_label, payload_len, next_header, hop_limit, src, dst };
        let mut b = [0xa5; 40];
        hdr.emit(&mut b);
        prop_assert_eq!(Ipv6Hdr::parse(&b), Ok(hdr));
        let frag = FragHdr { next_header, frag_off_bytes: off * 8, mf, id };
        frag.emit(&mut b);
        prop_assert_eq!(FragHdr::parse(&b), Ok(frag));
    }

    #[test]
    fn icmp_comes_back_with_its_checksum(kind: u8, code: u8, rest: u32,
        data in vec(any::<u8>(), 0..64), src in v6(), dst in v6()) {
        let mut b = vec![0xa5; 8];
        b.extend(&data);
        let hdr = Icmpv4Hdr { kind, code, csum: 0, rest };
        hdr.emit(&mut b);
        prop_assert!(Icmpv4Hdr::csum_ok(&b));
        prop_assert_eq!(Icmpv4Hdr { csum: 0, ..Icmpv4Hdr::parse(&b).unwrap() }, hdr);
        let hdr = Icmpv6Hdr { kind, code, csum: 0, rest };
        hdr.emit(&mut b, src, dst);
        prop_assert!(Icmpv6Hdr::csum_ok(&b, src, dst));
        prop_assert_eq!(Icmpv6Hdr { csum: 0, ..Icmpv6Hdr::parse(&b).unwrap() }, hdr);
        prop_assert_eq!(&b[8..], &data[..]);
        b[0] ^= 1;
        prop_assert!(!Icmpv6Hdr::csum_ok(&b, src, dst));
    }

    #[test]
    fn neighbour_discovery_comes_back(msg in nd_msg(), opts in vec(nd_opt(), 0..4),
        src in v6(), dst in v6()) {
        let mut b = vec![0u8; msg.len_bytes() + opts.iter().map(NdOpt::len_bytes).sum::<usize>()];
        let mut at = msg.len_bytes();
        for opt in &opts {
            at += opt.emit(&mut b[at..]);
        }
        prop_assert_eq!(at, b.len());
        msg.emit(&mut b, src, dst);
        prop_assert!(Icmpv6Hdr::csum_ok(&b, src, dst));
        let (parsed, walk) = NdMsg::parse(&b).unwrap();
        prop_assert_eq!(parsed, msg);
        prop_assert_eq!(walk.collect::<Result<Vec<_>, _>>().unwrap(), opts);
        prop_assert_eq!(NdMsg::parse(&b[..msg.len_bytes() - 1]).err(), Some(WireError::Truncated));
    }

    #[test]
    fn udp_comes_back(src_port: u16, dst_port: u16, len: u16, csum: u16) {
        let hdr = UdpHdr { src_port, dst_port, len, csum };
        let mut b = [0xa5; 8];
        hdr.emit(&mut b);
        prop_assert_eq!(UdpHdr::parse(&b), Ok(hdr));
    }

    #[test]
    fn tcp_comes_back(ports: [u16; 2], nums: [u32; 2], words in 5usize..=15, flags: u8,
        rest: [u16; 3]) {
        let ([src_port, dst_port], [seq, ack], [window, csum, urg]) = (ports, nums, rest);
        let (data_off_bytes, flags) = (words * 4, TcpFlags(flags));
        let hdr = TcpHdr { src_port, dst_port, seq, ack, data_off_bytes, flags, window, csum, urg };
        let mut b = [0x5a; 60];
        hdr.emit(&mut b);
        prop_assert_eq!(TcpHdr::parse(&b), Ok(hdr));
        prop_assert_eq!(hdr.options(&b).len(), data_off_bytes - 20);
        prop_assert_eq!(TcpHdr::parse(&b[..data_off_bytes - 1]), Err(WireError::Truncated));
    }

    #[test]
    fn tcp_options_come_back(opts in tcp_options()) {
        let mut b = [0xee; 44];
        let len = opts.emit(&mut b);
        prop_assert_eq!(len, opts.emit_len());
        prop_assert!(len <= 40 && len % 4 == 0);
        prop_assert_eq!(&b[len..], &[0xee; 44][len..]);
        let parsed = TcpOptions::parse(&b[..len]);
        // Blocks that do not fit are left out from the end; everything else is whole.
        prop_assert_eq!(TcpOptions { sack: opts.sack, ..parsed }, opts);
        prop_assert_eq!(parsed.sack.as_slice(), &opts.sack.as_slice()[..parsed.sack.len()]);
        let room = 40 - TcpOptions { sack: SackBlocks::NONE, ..opts }.emit_len();
        prop_assert_eq!(parsed.sack.len(), opts.sack.len().min((room - 4) / 8));
    }

    #[test]
    fn fast_and_full_timestamp_parse_agree(val: u32, ecr: u32) {
        let mut b = [0; 40];
        let opts = TcpOptions { ts: Some((val, ecr)), ..TcpOptions::NONE };
        prop_assert_eq!(opts.emit(&mut b), 12);
        prop_assert_eq!(TcpOptions::parse(&b[..12]), opts);
        // With an end-of-list behind it the fast path does not match.
        prop_assert_eq!(TcpOptions::parse(&b[..16]), opts);
    }

    #[test]
    fn arbitrary_bytes_never_panic(b in vec(any::<u8>(), 0..200)) {
        everything(&b);
    }

    /// Bytes that look like the start of a packet reach the deeper rules.
    #[test]
    fn lying_packets_never_panic(
        b in vec(prop_oneof![0u8..=8, Just(43), Just(44), Just(60), any::<u8>()], 44..200),
        next in prop_oneof![Just(0u8), Just(43), Just(44), Just(51), Just(60)]) {
        let mut b = b;
        b[0] = 0x60;
        b[6] = next;
        everything(&b);
        b[0] = 0x4f;
        everything(&b);
        for kind in 133..=137 {
            b[..2].copy_from_slice(&[kind, 0]);
            everything(&b);
        }
    }
}

/// Every parser on the same bytes.
fn everything(b: &[u8]) {
    let _ = (EthHdr::parse(b), VlanTag::parse(b), ArpHdr::parse(b), UdpHdr::parse(b));
    if let Ok(hdr) = Ipv4Hdr::parse(b) {
        assert!(hdr.ihl_bytes <= b.len() && hdr.ihl_bytes <= usize::from(hdr.total_len));
        if let Err(Ipv4OptionsError(pointer)) = Ipv4Options::compile(&b[20..hdr.ihl_bytes]) {
            assert!((20..hdr.ihl_bytes).contains(&usize::from(pointer)));
        }
    }
    let _ = Ipv4Options::compile(b);
    let _ = Ipv4Hdr::csum_ok(b);
    if let Ok(hdr) = Ipv6Hdr::parse(b) {
        let hdrs = ExtHdrs::new(b, hdr.next_header);
        assert!(hdrs.count() <= EXT_HDRS_MAX + 1);
        match walk(b, &hdr) {
            Ok(upper) => {
                assert!((40..=b.len()).contains(&upper.offset));
                assert_eq!(b[upper.proto_at], upper.proto);
            }
            Err(ExtError::ParamProblem { pointer, .. }) => assert!(pointer < b.len()),
            Err(_) => {}
        }
    }
    let _ = (FragHdr::parse(b), Icmpv4Hdr::parse(b), Icmpv6Hdr::parse(b));
    if let Ok((_, opts)) = NdMsg::parse(b) {
        assert!(opts.count() <= b.len() / 8 + 1);
    }
    if let Ok(hdr) = TcpHdr::parse(b) {
        let _ = TcpOptions::parse(hdr.options(b));
    }
    let opts = TcpOptions::parse(b);
    assert!(opts.mss != Some(0) && opts.wscale.is_none_or(|shift| shift <= 14));
}

/// Bytes written in hexadecimal, spaces ignored.
fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().filter_map(|c| c.to_digit(16)).map(|d| d as u8).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

#[test]
fn ipv4_checks_come_in_the_order_of_ip_rcv() {
    let good = hex("4500 0073 0000 4000 4011 b861 c0a8 0001 c0a8 00c7");
    let hdr = Ipv4Hdr::parse(&good).unwrap();
    assert_eq!((hdr.ihl_bytes, hdr.total_len, hdr.df, hdr.mf), (20, 0x73, true, false));
    assert_eq!((hdr.proto, hdr.ttl, hdr.csum), (IPPROTO_UDP, 64, 0xb861));
    assert!(Ipv4Hdr::csum_ok(&good));
    let with = |at: usize, value: u8| {
        let mut b = good.clone();
        b[at] = value;
        Ipv4Hdr::parse(&b)
    };
    assert_eq!(Ipv4Hdr::parse(&good[..19]), Err(WireError::Truncated));
    assert_eq!(with(0, 0x65), Err(WireError::BadVersion));
    assert_eq!(with(0, 0x44), Err(WireError::BadHeaderLength));
    assert_eq!(with(0, 0x46), Err(WireError::Truncated));
    assert_eq!(with(3, 19), Err(WireError::BadLength));
    let mut emitted = [0; 20];
    hdr.emit(&mut emitted);
    assert_eq!(emitted[..], good[..]);
}

#[test]
fn ipv4_options_point_at_the_faulty_byte() {
    let compile = |text: &str| Ipv4Options::compile(&hex(text));
    let fault = |n: u8| Err(Ipv4OptionsError(20 + n));
    let none = Ipv4Options::default();
    assert_eq!(compile(""), Ok(none));
    assert_eq!(compile("01 01 00 ff"), Ok(none), "what follows the end of the list is padding");
    assert_eq!(compile("94 04 00 00"), Ok(Ipv4Options { router_alert: true, ..none }));
    assert_eq!(compile("94 04 00 01"), Ok(none));
    assert_eq!(compile("94 03 00 00"), fault(1));
    let srr = Ipv4Options { srr: Some(21), ..none };
    assert_eq!(compile("01 83 07 04 0a000001"), Ok(srr));
    assert_eq!(compile("01 89 07 04 0a000001"), Ok(Ipv4Options { is_strictroute: true, ..srr }));
    assert_eq!(compile("83 03 04 89 03 04 00 00"), fault(3), "two source routes");
    assert_eq!(compile("83 07 03 0a000001 00"), fault(2));
    assert_eq!(compile("83 02 01 01"), fault(1));
    let rr = Ipv4Options { rr: Some(20), rr_needaddr: true, ..none };
    assert_eq!(compile("07 07 04 00000000 00"), Ok(rr));
    assert_eq!(compile("07 07 08 00000000 00"), Ok(Ipv4Options { rr_needaddr: false, ..rr }));
    assert_eq!(compile("07 07 05 00000000 00"), fault(2), "no room for a whole address");
    assert_eq!(
        compile("44 08 05 00 00000000"),
        Ok(Ipv4Options { ts: Some(20), ts_needtime: true, ..none })
    );
    assert_eq!(compile("44 08 05 01 00000000"), fault(2), "no room for address and time");
    assert_eq!(compile("44 08 09 f0 00000000"), fault(3), "the overflow counter is full");
    assert_eq!(compile("44 08 09 e0 00000000"), Ok(Ipv4Options { ts: Some(20), ..none }));
    assert_eq!(compile("01 07"), fault(1), "a length byte is missing");
    assert_eq!(compile("07 01 00 00"), fault(0));
    assert_eq!(compile("01 07 04 04"), fault(1), "reaches beyond the header");
    assert_eq!(compile("86 04 00 00"), Ok(none), "unknown options are passed over");
}

fn walk_of(next: u8, dst: &str, ext: &str) -> Result<Upper, ExtError> {
    let ext = hex(ext);
    let (src, dst) = (Ipv6Addr::LOCALHOST, dst.parse().unwrap());
    let payload_len = ext.len() as u16;
    let next_header = next;
    let hdr =
        Ipv6Hdr { tclass: 0, flow_label: 0, payload_len, next_header, hop_limit: 64, src, dst };
    let mut packet = vec![0; 40];
    hdr.emit(&mut packet);
    packet.extend(ext);
    walk(&packet, &hdr)
}

#[test]
fn extension_headers_are_passed_in_order() {
    let upper = Upper {
        proto: IPPROTO_UDP,
        offset: 40,
        proto_at: 6,
        frag: None,
        frag_at: None,
        router_alert: None,
    };
    assert_eq!(walk_of(IPPROTO_UDP, "::1", ""), Ok(upper));
    let alert = Upper { offset: 48, proto_at: 40, router_alert: Some(0), ..upper };
    assert_eq!(walk_of(IPPROTO_HOPOPTS, "::1", "11 00 0502 0000 0100"), Ok(alert));
    // Authentication headers count words of 4 bytes less 2.
    let ah = Upper { offset: 64, proto_at: 40, ..upper };
    assert_eq!(walk_of(IPPROTO_AH, "::1", &format!("11 04 {}", "00".repeat(22))), Ok(ah));
    let routing = Upper { offset: 48, proto_at: 40, ..upper };
    assert_eq!(walk_of(IPPROTO_ROUTING, "::1", "11 00 00 00 00000000"), Ok(routing));
    assert_eq!(
        walk_of(IPPROTO_ROUTING, "::1", "11 00 00 01 00000000"),
        Err(ExtError::ParamProblem { code: ParamCode::HdrField, pointer: 42 })
    );
    assert_eq!(
        walk_of(IPPROTO_DSTOPTS, "::1", "00 00 0104 00000000 11 00 0104 00000000"),
        Err(ExtError::ParamProblem { code: ParamCode::UnkNextHdr, pointer: 40 }),
        "hop-by-hop options only directly after the fixed header"
    );
}

#[test]
fn the_walk_stops_at_a_true_fragment() {
    let frag = FragHdr { next_header: 60, frag_off_bytes: 0, mf: true, id: 7 };
    let upper =
        walk_of(IPPROTO_FRAGMENT, "::1", "3c 00 0001 00000007 11 00 8000 00000000").unwrap();
    assert_eq!((upper.proto, upper.offset, upper.frag), (IPPROTO_DSTOPTS, 48, Some(frag)));
    assert_eq!(upper.frag_at, Some((40, 6)));
    let atomic =
        walk_of(IPPROTO_FRAGMENT, "::1", "3c 00 0000 00000007 11 00 0104 00000000").unwrap();
    assert_eq!((atomic.proto, atomic.offset), (IPPROTO_UDP, 56));
    assert_eq!(atomic.frag, Some(FragHdr { mf: false, ..frag }));
}

#[test]
fn unknown_options_do_what_their_high_bits_say() {
    let option = |kind: u8, dst: &str| {
        walk_of(IPPROTO_DSTOPTS, dst, &format!("11 00 00 {kind:02x} 03 000000"))
            .map(|upper| upper.offset)
    };
    let problem = Err(ExtError::ParamProblem { code: ParamCode::UnkOption, pointer: 43 });
    assert_eq!(option(0x3e, "::1"), Ok(48));
    assert_eq!(option(0x7e, "::1"), Err(ExtError::Drop));
    assert_eq!(option(0xbe, "::1"), problem);
    assert_eq!(option(0xbe, "ff02::1"), problem);
    assert_eq!(option(0xfe, "::1"), problem);
    assert_eq!(option(0xfe, "ff02::1"), Err(ExtError::Drop), "no answer to a group");
}

#[test]
fn dishonest_extension_headers_are_refused() {
    let dst = |ext: &str| walk_of(IPPROTO_DSTOPTS, "::1", ext).map(|upper| upper.offset);
    assert_eq!(dst("11"), Err(ExtError::Truncated));
    assert_eq!(dst("11 01 0104 00000000"), Err(ExtError::Truncated));
    assert_eq!(dst("11 00 0105 00000000"), Err(ExtError::Drop), "reaches beyond its header");
    assert_eq!(dst("11 00 0104 00000001"), Err(ExtError::Drop), "padding with data in it");
    assert_eq!(dst("11 01 010c 000000000000000000000000"), Err(ExtError::Drop), "too much padding");
    let eight = "3c 00 0104 00000000".repeat(7) + "11 00 0104 00000000";
    assert_eq!(dst(&eight), Ok(40 + 64));
    assert_eq!(dst(&("3c 00 0104 00000000".to_owned() + &eight)), Err(ExtError::TooMany));
}

#[test]
fn tcp_options_are_laid_out_as_linux_does() {
    let syn = TcpOptions {
        mss: Some(1460),
        wscale: Some(7),
        sack_permitted: true,
        ts: Some((1, 0)),
        ..TcpOptions::NONE
    };
    let mut b = [0; 40];
    let len = syn.emit(&mut b);
    assert_eq!(b[..len], hex("020405b4 0402080a 00000001 00000000 01030307"));
    let ack = TcpOptions {
        ts: Some((2, 1)),
        sack: [(10, 20), (30, 40)].into_iter().collect(),
        ..TcpOptions::NONE
    };
    let len = ack.emit(&mut b);
    let blocks = "0000000a 00000014 0000001e 00000028";
    assert_eq!(b[..len], hex(&format!("0101080a 00000002 00000001 01010512 {blocks}")));
}

#[test]
fn tcp_options_are_read_tolerantly() {
    let parse = |text: &str| TcpOptions::parse(&hex(text));
    let mss = TcpOptions { mss: Some(1460), ..TcpOptions::NONE };
    assert_eq!(parse("020405b4 00 0402"), mss, "the end of the list");
    assert_eq!(parse("020405b4 08 01"), mss, "a length below 2 ends the reading");
    assert_eq!(parse("020405b4 08 0a 00"), mss, "so does one beyond the end");
    assert_eq!(parse("020405b4 08"), mss, "and a missing one");
    assert_eq!(parse("0203 05 020405b4"), mss, "a wrong size is passed over");
    assert_eq!(parse("fd04 f989 020405b4"), mss, "and so is an unknown option");
    assert_eq!(parse("02040000"), TcpOptions::NONE, "zero is no segment size");
    assert_eq!(parse("0303ff").wscale, Some(14));
    assert_eq!(parse("0506 00000001").sack, SackBlocks::NONE);
    assert_eq!(parse("050a 00000001 00000002").sack.as_slice(), [(1, 2)]);
}

#[test]
fn tcp_flags_read_like_tcpdump() {
    let flags = TcpFlags::SYN | TcpFlags::ACK;
    assert_eq!(format!("{flags:?} {:?} {:?}", TcpFlags::NONE, TcpFlags(0xff)), "S. none FSRP.UEW");
    assert!(flags.has(TcpFlags::ACK) && !flags.has(TcpFlags::ACK | TcpFlags::FIN));
    assert!(
        flags.any(TcpFlags::ACK | TcpFlags::FIN) && flags.without(TcpFlags::ACK) == TcpFlags::SYN
    );
}

#[test]
fn arp_of_other_media_is_refused() {
    let good = hex("0001 0800 06 04 0001 020000000001 0a000001 000000000000 0a000002");
    assert_eq!(ArpHdr::parse(&good).map(|arp| arp.op), Ok(arp::ARPOP_REQUEST));
    assert_eq!(ArpHdr::parse(&good[..27]), Err(WireError::Truncated));
    for (at, value) in [(1, 7), (2, 9), (4, 8), (5, 16)] {
        let mut b = good.clone();
        b[at] = value;
        assert_eq!(ArpHdr::parse(&b), Err(WireError::BadFormat), "byte {at}");
    }
}

#[test]
fn hardware_addresses_know_their_groups() {
    assert_eq!(
        Mac::from_ipv4_multicast(Ipv4Addr::new(239, 129, 2, 3)).to_string(),
        "01:00:5e:01:02:03"
    );
    let group = "ff02::1:ff12:3456".parse().unwrap();
    assert_eq!(Mac::from_ipv6_multicast(group).to_string(), "33:33:ff:12:34:56");
    let mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);
    assert_eq!(mac.link_local(), "fe80::5054:ff:fe12:3456".parse::<Ipv6Addr>().unwrap());
    assert!(mac.is_valid() && !Mac::ZERO.is_valid() && !Mac::BROADCAST.is_valid());
}

#[test]
fn neighbour_discovery_refuses_what_must_be_discarded() {
    let target = "20010db8000000000000000000000001";
    let parse = |text: String| NdMsg::parse(&hex(&text)).map(|(msg, opts)| (msg, opts.last()));
    let solicit = NdMsg::NeighbourSolicit { target: "2001:db8::1".parse().unwrap() };
    assert_eq!(parse(format!("87000000 00000000 {target}")), Ok((solicit, None)));
    let bad = Some(Err(WireError::BadLength));
    assert_eq!(parse(format!("87000000 00000000 {target} 0100 0000")), Ok((solicit, bad)));
    assert_eq!(parse(format!("87000000 00000000 {target} 0101 0000")), Ok((solicit, bad)));
    assert_eq!(parse(format!("87010000 00000000 {target}")), Err(WireError::BadFormat));
    assert_eq!(parse(format!("87000000 00000000 ff{}", &target[2..])), Err(WireError::BadFormat));
    assert_eq!(parse("80000000 00000000".to_owned()), Err(WireError::BadFormat));
}

#[test]
fn no_icmp_error_answers_an_error() {
    let errors: Vec<u8> = (0..=255).filter(|&kind| Icmpv4Hdr::plain(kind, 0).is_error()).collect();
    for kind in [0, 8, 13, 14, 15, 16, 17, 18] {
        assert!(!errors.contains(&kind), "type {kind} asks or answers");
    }
    assert_eq!(errors.len(), 256 - 8);
    assert!(Icmpv6Hdr::error(1, 0, 0).is_error() && !Icmpv6Hdr::echo(128, 1, 1).is_error());
}
