//! Headers, frames and captures.

use std::io::Cursor;
use std::net::Ipv6Addr;

use linerate_core::rx::steer::hash::dissect;
use linerate_core::tap::Filter;
use linerate_core::tap::filter::{Link, View};
use linerate_core::wire::{arp, eth, icmpv4, icmpv6, ipv4, ipv6, nd, tcp, tcp_options, udp};
use linerate_dev::pcap::{Reader, network};
use linerate_dev::vnet::Vnet;

/// Each header; what is emitted again says the same.
pub fn wire(b: &[u8]) {
    let (any, other) = (Ipv6Addr::UNSPECIFIED, Ipv6Addr::LOCALHOST);
    let _ = eth::EthHdr::parse(b);
    let _ = eth::VlanTag::parse(b);
    if let Ok(hdr) = arp::ArpHdr::parse(b) {
        let mut out = [0; 28];
        hdr.emit(&mut out);
        assert_eq!(arp::ArpHdr::parse(&out), Ok(hdr));
    }
    if ipv4::Ipv4Hdr::parse(b).is_ok() {
        let _ = ipv4::Ipv4Hdr::csum_ok(b);
    }
    let _ = ipv4::Ipv4Options::compile(b.get(..b.len().min(40)).unwrap_or(b));
    if let Ok(hdr) = ipv6::Ipv6Hdr::parse(b) {
        let _ = ipv6::walk(b, &hdr);
    }
    let _ = ipv6::FragHdr::parse(b);
    if let Ok(hdr) = tcp::TcpHdr::parse(b) {
        let _ = tcp_options::TcpOptions::parse(hdr.options(b));
    }
    let _ = tcp_options::TcpOptions::parse(b);
    let _ = udp::UdpHdr::parse(b);
    let _ = icmpv4::Icmpv4Hdr::parse(b);
    let _ = icmpv6::Icmpv6Hdr::parse(b);
    let _ = icmpv6::Icmpv6Hdr::csum_ok(b, any, other);
    if let Ok((_, opts)) = nd::NdMsg::parse(b) {
        assert!(opts.count() <= b.len());
    }
}

/// What reads whole frames: the hash's dissector, flower's, programs of filters, the device's header.
pub fn frames(b: &[u8]) {
    thread_local! {
        static FILTERS: Vec<Filter> = FILTERS_OF.iter().map(|text| Filter::compile(text).expect(text)).collect();
    }
    const FILTERS_OF: [&str; 8] = [
        "tcp port 80",
        "ip6 and udp",
        "host 10.0.0.1 or net fd00::/8",
        "vlan 5 and tcp[tcpflags] & tcp-syn != 0",
        "icmp or icmp6 or arp",
        "greater 100 and not portrange 1-1024",
        "ip[0] & 0xf != 5",
        "ether[12:2] = 0x86dd",
    ];
    for ethernet in [false, true] {
        let _ = dissect(b, ethernet);
    }
    FILTERS.with(|all| {
        for filter in all {
            for link in [Link::Ethernet, Link::Ip] {
                let _ = filter.matches(&View { link, bytes: b, len: b.len(), outbound: false });
            }
        }
    });
    if let Some((hdr, rest)) = b.split_first_chunk::<12>() {
        let _ = Vnet::parse(hdr, rest.len());
    }
}

/// A file of captured frames, in either format.
pub fn pcap(b: &[u8]) {
    let Ok(mut reader) = Reader::new(Cursor::new(b), "fuzz") else { return };
    let mut frames = 0;
    while let Ok(Some(frame)) = reader.next_frame() {
        let _ = network(frame.link, frame.data);
        frames += 1;
        assert!(frames <= b.len(), "each frame takes bytes of the file");
    }
}
