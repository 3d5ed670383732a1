//! The reader against files built here byte by byte, the writer against the reader. Recorded
//! files and tshark are in `tests/captures.rs`.

use super::*;

type Read = (LinkType, Option<u64>, u32, Vec<u8>, Direction);

fn read_all(bytes: &[u8]) -> Result<Vec<Read>, PcapError> {
    let mut reader = Reader::new(bytes, "test.pcap")?;
    let mut out = Vec::new();
    while let Some(f) = reader.next_frame()? {
        out.push((f.link, f.ts_ns, f.orig_len, f.data.to_vec(), f.direction));
    }
    Ok(out)
}

/// Builds files in either byte order.
#[derive(Default)]
struct File {
    bytes: Vec<u8>,
    big: bool,
}

impl File {
    fn new(big: bool) -> File {
        File { bytes: Vec::new(), big }
    }

    fn u16(mut self, v: u16) -> File {
        self.bytes.extend(if self.big { v.to_be_bytes() } else { v.to_le_bytes() });
        self
    }

    fn u32(mut self, v: u32) -> File {
        self.bytes.extend(if self.big { v.to_be_bytes() } else { v.to_le_bytes() });
        self
    }

    fn raw(mut self, v: &[u8]) -> File {
        self.bytes.extend(v);
        self
    }

    fn pcap(big: bool, magic: u32, link: u32) -> File {
        File::new(big).u32(magic).u16(2).u16(4).u32(0).u32(0).u32(65535).u32(link)
    }

    fn record(self, sec: u32, frac: u32, data: &[u8], orig: u32) -> File {
        let len = u32::try_from(data.len()).unwrap();
        self.u32(sec).u32(frac).u32(len).u32(orig).raw(data)
    }

    fn block(self, kind: u32, body: File) -> File {
        let body = body.bytes;
        assert_eq!(body.len() % 4, 0);
        let len = u32::try_from(body.len()).unwrap() + 12;
        self.u32(kind).u32(len).raw(&body).u32(len)
    }

    fn section(self) -> File {
        let body = File::new(self.big).u32(0x1a2b_3c4d).u16(1).u16(0).u32(u32::MAX).u32(u32::MAX);
        self.block(0x0a0d_0d0a, body)
    }

    fn interface(self, link: u16, snaplen: u32, options: &[u8]) -> File {
        let body = File::new(self.big).u16(link).u16(0).u32(snaplen).raw(options);
        self.block(1, body)
    }
}

#[test]
fn the_four_pcap_magics() {
    for (big, magic, unit) in [
        (false, 0xa1b2_c3d4, 1000),
        (true, 0xa1b2_c3d4, 1000),
        (false, 0xa1b2_3c4d, 1),
        (true, 0xa1b2_3c4d, 1),
    ] {
        let file = File::pcap(big, magic, 101).record(7, 5, b"abc", 60).record(8, 0, b"", 0);
        let frames = read_all(&file.bytes).unwrap();
        assert_eq!(
            frames,
            [
                (
                    LinkType::RAW,
                    Some(7_000_000_000 + 5 * unit),
                    60,
                    b"abc".to_vec(),
                    Direction::Unknown
                ),
                (LinkType::RAW, Some(8_000_000_000), 0, Vec::new(), Direction::Unknown),
            ]
        );
    }
}

#[test]
fn the_upper_half_of_the_link_type_is_not_part_of_it() {
    let file = File::pcap(false, 0xa1b2_c3d4, 0x3000_0001).record(0, 0, b"abc", 3);
    assert_eq!(read_all(&file.bytes).unwrap()[0].0, LinkType::ETHERNET);
}

#[test]
fn files_that_are_no_captures_are_named_so() {
    let fault = |bytes: &[u8]| read_all(bytes).unwrap_err();
    assert!(matches!(fault(b"\x7fELF....").fault, Fault::Magic([0x7f, b'E', b'L', b'F'])));
    assert!(matches!(fault(b"ab").fault, Fault::Truncated { wanted: 4, found: 2, .. }));
    assert!(matches!(fault(b"").fault, Fault::Truncated { wanted: 4, found: 0, .. }));
    for big in [false, true] {
        let err = fault(&File::pcap(big, 0xa1b2_cd34, 1).bytes);
        assert!(matches!(err.fault, Fault::ModifiedPcap));
    }
    let old = File::new(false).u32(0xa1b2_c3d4).u16(1).u16(9).raw(&[0; 16]);
    assert!(matches!(fault(&old.bytes).fault, Fault::Version { major: 1, minor: 9 }));
}

#[test]
fn a_cut_or_corrupt_pcap_names_the_byte_and_ends() {
    let whole =
        File::pcap(false, 0xa1b2_c3d4, 1).record(0, 0, &[9; 10], 10).record(0, 0, &[8; 4], 4);
    for cut in 25..whole.bytes.len() {
        let mut reader = Reader::new(&whole.bytes[..cut], "x.pcap").unwrap();
        let first_whole = cut >= 50;
        assert_eq!(reader.next_frame().is_ok(), first_whole, "cut at {cut}");
        if first_whole && cut > 50 {
            let err = reader.next_frame().unwrap_err();
            assert_eq!(err.offset, 50);
            assert!(err.to_string().starts_with("x.pcap: at byte offset 50: the file is cut off"));
        }
        assert!(reader.next_frame().unwrap().is_none());
    }
    let huge = File::pcap(false, 0xa1b2_c3d4, 1).u32(0).u32(0).u32(u32::MAX).u32(u32::MAX);
    let err = read_all(&huge.bytes).unwrap_err();
    assert!(matches!(err.fault, Fault::Length { value: 0xffff_ffff, .. }));
    assert_eq!(err.offset, 24);
}

#[test]
fn pcapng_blocks_of_every_kind_in_both_orders() {
    for big in [false, true] {
        let body = || File::new(big);
        let options = body().u16(2).u16(4).u32(2).u32(0).bytes;
        let file = File::new(big)
            .section()
            .interface(1, 6, &body().u16(9).u16(1).raw(&[9, 0, 0, 0]).u32(0).bytes)
            .interface(101, 0, &[])
            .block(0xbad, body().raw(&[0; 400]))
            .block(6, body().u32(0).u32(1).u32(2).u32(3).u32(99).raw(b"abc\0").raw(&options))
            .block(6, body().u32(1).u32(0).u32(3).u32(4).u32(4).raw(b"wxyz"))
            .block(2, body().u16(1).u16(7).u32(0).u32(5).u32(2).u32(2).raw(b"op\0\0"))
            .block(3, body().u32(60).raw(b"simple\0\0"));
        let frames = read_all(&file.bytes).unwrap();
        let expected = [
            (LinkType::ETHERNET, Some((1 << 32) + 2), 99, b"abc".to_vec(), Direction::Outbound),
            (LinkType::RAW, Some(3000), 4, b"wxyz".to_vec(), Direction::Unknown),
            (LinkType::RAW, Some(5000), 2, b"op".to_vec(), Direction::Unknown),
            (LinkType::ETHERNET, None, 60, b"simple".to_vec(), Direction::Unknown),
        ];
        assert_eq!(frames, expected);
    }
}

#[test]
fn a_new_section_forgets_interfaces_and_may_change_the_byte_order() {
    let packet = |big| File::new(big).u32(0).u32(0).u32(1).u32(1).u32(1).raw(b"p\0\0\0");
    let mut file = File::new(false).section().interface(1, 0, &[]).block(6, packet(false));
    file.big = true;
    let file = file.section().interface(228, 0, &[]).block(6, packet(true)).section();
    let offset = file.bytes.len() as u64;
    let file = file.block(6, packet(true));
    let mut reader = Reader::new(&file.bytes[..], "x").unwrap();
    assert_eq!(reader.next_frame().unwrap().unwrap().link, LinkType::ETHERNET);
    assert_eq!(reader.next_frame().unwrap().unwrap().link, LinkType::IPV4);
    let err = reader.next_frame().unwrap_err();
    assert!(matches!(err.fault, Fault::Interface(0)));
    assert_eq!(err.offset, offset);
}

#[test]
fn clocks_of_other_resolutions() {
    // 2^-20 s, one hour before; and milliseconds.
    let file = File::new(false)
        .section()
        .interface(
            1,
            0,
            &File::new(false)
                .u16(9)
                .u16(1)
                .raw(&[0x94, 0, 0, 0])
                .u16(14)
                .u16(8)
                .raw(&3600u64.to_le_bytes())
                .bytes,
        )
        .interface(1, 0, &File::new(false).u16(9).u16(1).raw(&[3, 0, 0, 0]).bytes)
        .block(6, File::new(false).u32(0).u32(0).u32(1 << 19).u32(0).u32(0))
        .block(6, File::new(false).u32(1).u32(0).u32(1500).u32(0).u32(0));
    let times: Vec<_> = read_all(&file.bytes).unwrap().iter().map(|f| f.1).collect();
    assert_eq!(times, [Some(3_600_500_000_000), Some(1_500_000_000)]);
    for bad in [20u8, 0xff] {
        let options = File::new(false).u16(9).u16(1).raw(&[bad, 0, 0, 0]).bytes;
        let file = File::new(false).section().interface(1, 0, &options);
        let err = read_all(&file.bytes).unwrap_err();
        assert!(matches!(err.fault, Fault::Resolution(r) if r == bad));
    }
}

#[test]
fn corrupt_pcapng_is_refused_at_its_block() {
    let start = || File::new(false).section().interface(1, 0, &[]);
    let at = start().bytes.len() as u64;
    let faults = [
        start().u32(6).u32(31).raw(&[0; 40]),
        start().u32(6).u32(4).raw(&[0; 40]),
        start().u32(6).u32(0x7fff_fff0).raw(&[0; 40]),
        start().u32(0xbad).u32(0).raw(&[0; 40]),
        start().block(6, File::new(false).u32(0).u32(0).u32(0).u32(5).u32(5).raw(b"abcd")),
        start().block(6, File::new(false).u32(0).u32(0)),
        start().block(3, File::new(false)),
        start().block(1, File::new(false).u16(1).u16(0)),
        start().u32(6).u32(32).raw(&[0; 20]).u32(33),
        start().u32(0xbad).u32(16).raw(&[0; 4]).u32(17),
        start().raw(&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 1, 2, 3, 4]),
        start().u32(0xbad).u32(0xffff_fffc).raw(&[0; 40]),
    ];
    for (i, file) in faults.into_iter().enumerate() {
        let err = read_all(&file.bytes).unwrap_err();
        assert_eq!(err.offset, at, "case {i}: {err}");
    }
}

#[test]
fn every_prefix_and_every_flipped_byte_gives_an_answer() {
    let file = File::new(false)
        .section()
        .interface(1, 6, &File::new(false).u16(9).u16(1).raw(&[9, 0, 0, 0]).u32(0).bytes)
        .block(6, File::new(false).u32(0).u32(1).u32(2).u32(3).u32(99).raw(b"abc\0"))
        .block(3, File::new(false).u32(60).raw(b"simple\0\0"))
        .bytes;
    for cut in 0..file.len() {
        let _ = read_all(&file[..cut]);
    }
    for at in 0..file.len() {
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut bad = file.clone();
            bad[at] = value;
            let frames = read_all(&bad).map_or(0, |f| f.len());
            assert!(frames <= 2);
        }
    }
}

#[test]
fn what_is_written_is_read() {
    let info = Info { hardware: "test", os: "none", application: "linerate" };
    let mut writer = Writer::new(Vec::new(), info).unwrap();
    assert_eq!(writer.add_interface("tun0", LinkType::RAW, 0).unwrap(), 0);
    assert_eq!(writer.add_interface("veth0", LinkType::ETHERNET, 5).unwrap(), 1);
    let ts = 1_700_000_000_123_456_789;
    writer.packet(0, ts, &[b"head", b"", b"fragment"], Direction::Inbound, None).unwrap();
    writer.packet(1, ts + 1, &[b"abc", b"defg"], Direction::Outbound, Some("IP_CSUM")).unwrap();
    writer.packet(1, 0, &[], Direction::Unknown, None).unwrap();
    assert!(writer.packet(2, 0, &[], Direction::Unknown, None).is_err());
    writer.statistics(0, ts, 1, 0).unwrap();
    let frames = read_all(&writer.into_inner()).unwrap();
    let expected = [
        (LinkType::RAW, Some(ts), 12, b"headfragment".to_vec(), Direction::Inbound),
        (LinkType::ETHERNET, Some(ts + 1), 7, b"abcde".to_vec(), Direction::Outbound),
        (LinkType::ETHERNET, Some(0), 0, Vec::new(), Direction::Unknown),
    ];
    assert_eq!(frames, expected);
}

#[test]
fn link_headers_come_off() {
    let packet = |ethertype, bytes| Ok(Network::Packet { ethertype, bytes });
    let v4: &[u8] = &[0x45, 1, 2];
    assert_eq!(network(LinkType::ETHERNET, v4), Ok(Network::Ethernet(v4)));
    for raw in [12, 14, 101] {
        assert_eq!(network(LinkType(raw), v4), packet(0x0800, v4));
        assert_eq!(network(LinkType(raw), &[0x60]), packet(0x86dd, &[0x60]));
        assert_eq!(network(LinkType(raw), &[0x10]), packet(0, &[0x10]));
        assert_eq!(network(LinkType(raw), &[]), packet(0, &[]));
    }
    assert_eq!(network(LinkType::IPV4, &[0x60]), packet(0x0800, &[0x60]));
    assert_eq!(network(LinkType::IPV6, v4), packet(0x86dd, v4));
    for family in [[2, 0, 0, 0], [0, 0, 0, 2]] {
        let bytes = [&family[..], v4].concat();
        assert_eq!(network(LinkType::NULL, &bytes), packet(0x0800, v4));
    }
    for (family, be) in [(10u32, false), (24, true), (28, false), (30, true)] {
        let word = if be { family.to_be_bytes() } else { family.to_le_bytes() };
        let bytes = [&word[..], &[0x60]].concat();
        assert_eq!(network(LinkType::NULL, &bytes), packet(0x86dd, &[0x60]));
    }
    assert_eq!(network(LinkType::LOOP, &[0, 0, 0, 2, 0x45]), packet(0x0800, &[0x45]));
    assert_eq!(network(LinkType::LOOP, &[2, 0, 0, 0]), Err(LinkError::Family(0x0200_0000)));
    let mut sll = [0u8; 17];
    sll[14..].copy_from_slice(&[0x08, 0x06, 0xaa]);
    assert_eq!(network(LinkType::LINUX_SLL, &sll), packet(0x0806, &[0xaa]));
    let mut sll2 = [0u8; 21];
    sll2[..2].copy_from_slice(&[0x86, 0xdd]);
    sll2[20] = 0x60;
    assert_eq!(network(LinkType::LINUX_SLL2, &sll2), packet(0x86dd, &[0x60]));
    for (link, len) in [(LinkType::NULL, 3), (LinkType::LINUX_SLL, 15), (LinkType::LINUX_SLL2, 19)]
    {
        assert_eq!(network(link, &vec![0; len]), Err(LinkError::Short { link, bytes: len }));
    }
    assert!(matches!(network(LinkType(50), v4), Err(LinkError::Unsupported(_))));
}
