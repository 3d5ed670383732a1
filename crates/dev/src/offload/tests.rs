//! Super-packets and partial checksums through both conversions, and what lies is refused.

use super::*;
use linerate_core::pkt::Pool;

/// An IPv4 or IPv6 packet of `payload` bytes behind a TCP header (or UDP), not checksummed.
fn packet(pool: &mut Pool, l2: usize, v6: bool, tcp: bool, payload: usize) -> Pkt {
    let mut pkt = pool.alloc().unwrap();
    let ip = if v6 { 40 } else { 20 };
    let transport = if tcp { 20 } else { 8 };
    let bytes = pkt.put(l2 + ip + transport + payload);
    bytes.fill(0);
    bytes[l2] = if v6 { 0x60 } else { 0x45 };
    if tcp {
        bytes[l2 + ip + 12] = 0x50;
    }
    pkt.network = pkt.data_offset() + u32::try_from(l2).unwrap();
    pkt
}

fn tso(start: u16, size: u16) -> Vnet {
    let gso = VnetGso { kind: GsoKind::Tcp4, size, hdr_len: 40, ecn: false };
    Vnet { needs_csum: Some(NeedsCsum { start, offset: 16 }), data_valid: false, gso: Some(gso) }
}

#[test]
fn a_super_packet_is_understood_and_described_again_the_same() {
    let mut pool = Pool::new(8, 8);
    for l2 in [0u16, 14, 18] {
        let mut pkt = packet(&mut pool, l2.into(), false, true, 1000);
        let vnet = tso(20 + l2, 300);
        receive(&mut pkt, vnet, l2.into()).unwrap();
        assert_eq!(pkt.csum, Csum::Partial { start: 20, offset: 16 });
        assert_eq!(pkt.gso, Some(Gso { kind: GsoKind::Tcp4, size: 300, segs: 4, ecn: false }));
        let back = transmit(&pkt, 0).unwrap();
        assert_eq!(back.needs_csum, vnet.needs_csum);
        assert_eq!(
            back.gso.map(|g| (g.kind, g.size, g.hdr_len)),
            Some((GsoKind::Tcp4, 300, 40 + l2))
        );
        // With a VLAN tag put in, everything behind it moves.
        let tagged = transmit(&pkt, 4).unwrap();
        assert_eq!(tagged.needs_csum, Some(NeedsCsum { start: 24 + l2, offset: 16 }));
        pool.free(pkt);
    }
}

#[test]
fn one_segment_is_no_super_packet() {
    let mut pool = Pool::new(8, 8);
    let mut pkt = packet(&mut pool, 0, false, true, 300);
    receive(&mut pkt, tso(20, 300), 0).unwrap();
    assert_eq!(pkt.gso, None);
    assert_eq!(pkt.csum, Csum::Partial { start: 20, offset: 16 });
}

#[test]
fn headers_that_are_not_those_of_the_kind_are_refused() {
    let mut pool = Pool::new(8, 8);
    let refused = |mut pkt: Pkt, vnet, l2| receive(&mut pkt, vnet, l2).unwrap_err();
    let v6 = packet(&mut pool, 0, true, true, 100);
    assert_eq!(refused(v6, tso(20, 10), 0), VnetError::GsoHeaders);
    let inside_ip = packet(&mut pool, 0, false, true, 100);
    assert_eq!(refused(inside_ip, tso(10, 10), 0), VnetError::GsoHeaders);
    let cut = packet(&mut pool, 0, false, false, 0);
    assert_eq!(refused(cut, tso(20, 10), 0), VnetError::GsoHeaders);
    let short_doff = {
        let mut pkt = packet(&mut pool, 0, false, true, 100);
        pkt.head_mut()[32] = 0x40;
        pkt
    };
    assert_eq!(refused(short_doff, tso(20, 10), 0), VnetError::GsoHeaders);
    let in_link = packet(&mut pool, 14, false, true, 100);
    assert_eq!(refused(in_link, tso(10, 10), 14), VnetError::CsumRange);
}

#[test]
fn what_no_header_can_say_is_not_sent() {
    let mut pool = Pool::new(8, 8);
    let mut pkt = packet(&mut pool, 0, false, true, 1000);
    assert_eq!(transmit(&pkt, 0), Some(Vnet::default()));
    pkt.gso = Some(Gso { kind: GsoKind::Tcp4, size: 300, segs: 4, ecn: false });
    assert_eq!(transmit(&pkt, 0), None);
    pkt.csum = Csum::Partial { start: 20, offset: 16 };
    assert!(transmit(&pkt, 0).is_some());
    pkt.csum = Csum::Partial { start: 1040, offset: 16 };
    assert_eq!(transmit(&pkt, 0), None);
}

#[test]
fn gathering_keeps_every_byte_in_order() {
    let mut pool = Pool::new(200, 200);
    for frags in [0usize, 1, 4, 5, 70, 71, 100] {
        let mut pkt = packet(&mut pool, 0, false, true, 60);
        pkt.head_mut().iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        for i in 0..frags {
            let mut buf = pool.alloc_large().unwrap();
            buf[1] = i as u8;
            pkt.add_buf(buf, 1, 1);
        }
        let flat =
            |parts: &[IoSlice<'_>]| Ok(parts.iter().flat_map(|p| p.to_vec()).collect::<Vec<u8>>());
        let got = gather(&[b"pre", b"fix"], &pkt, 12, flat).unwrap();
        let expected: Vec<u8> =
            b"prefix".iter().copied().chain(12..100).chain((0..frags).map(|i| i as u8)).collect();
        assert_eq!(got, expected, "{frags} fragments");
        pool.free(pkt);
    }
}

#[test]
fn link_headers_are_measured() {
    let mut frame = [0u8; 30];
    assert_eq!(ether_len(&frame), 14);
    frame[12..14].copy_from_slice(&[0x88, 0xa8]);
    assert_eq!(ether_len(&frame), 18);
    frame[16..18].copy_from_slice(&[0x81, 0x00]);
    assert_eq!(ether_len(&frame), 22);
    frame[20..22].copy_from_slice(&[0x81, 0x00]);
    assert_eq!(ether_len(&frame), 22);
    assert_eq!(ether_len(&[]), 14);
}

#[test]
fn any_header_before_any_packet_is_answered_and_what_is_taken_can_be_sent() {
    let mut pool = Pool::new(2, 2);
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut taken = 0;
    for _ in 0..200_000 {
        let l2 = [0, 14, 18][(random() % 3) as usize];
        let (v6, tcp) = (random() & 1 == 0, random() & 1 == 0);
        let mut pkt = packet(&mut pool, l2, v6, tcp, (random() % 90) as usize);
        let len = pkt.len();
        pkt.trim((random() % (len as u64 + 1)) as usize);
        if let Some(byte) = pkt.head_mut().get_mut((random() % 64) as usize) {
            *byte = random() as u8;
        }
        // Mostly plausible values, so that every check is reached.
        let mut hdr = [0u8; 12];
        hdr[0] = (random() % 4) as u8;
        hdr[1] = [0, 1, 3, 4, 5, 0x81, random() as u8][(random() % 7) as usize];
        for at in [2, 4, 6, 8] {
            let value = [16, 20, 34, 40, 54, 6, random() % 100, random()][(random() % 8) as usize];
            hdr[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
        }
        let len = pkt.len();
        if let Ok(vnet) = Vnet::parse(&hdr, len)
            && receive(&mut pkt, vnet, l2).is_ok()
        {
            let back = transmit(&pkt, 0).expect("what was taken can be said");
            assert_eq!(Vnet::parse(&back.emit(), len), Ok(back));
            if let Some(gso) = pkt.gso {
                assert!(usize::from(gso.segs - 1) * usize::from(gso.size) < len);
                taken += 1;
            }
        }
        pool.free(pkt);
    }
    assert!(taken > 100, "only {taken} super-packets: the values are not plausible");
}
