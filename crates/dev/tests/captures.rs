//! Goal: capture files of strangers are read as tshark reads them, and tshark reads ours.
//! Method: the recorded captures of the laboratory, held against the packet counts in their
//! manifest row by row; a file written here, given to tshark where it is installed.

mod again;

use again::skip;
use linerate_dev::pcap::{Direction, Fault, Info, LinkType, Network, Reader, Writer, network};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/data/captures")
}

fn count(path: &Path) -> Result<u64, linerate_dev::pcap::PcapError> {
    let mut reader = Reader::open(path)?;
    let mut n = 0;
    while let Some(frame) = reader.next_frame()? {
        assert!(frame.data.len() <= linerate_dev::pcap::CAPTURED_BYTES_MAX);
        n += 1;
    }
    Ok(n)
}

#[test]
fn packet_counts_equal_the_manifest_row_by_row() {
    let manifest = std::fs::read_to_string(captures().join("MANIFEST.tsv")).unwrap();
    let mut rows = manifest.lines().filter(|l| !l.starts_with('#'));
    assert!(rows.next().unwrap().starts_with("file\t"));
    let (mut files, mut raw, mut wrong) = (0, 0, String::new());
    for row in rows {
        let column: Vec<&str> = row.split('\t').collect();
        let path = captures().join(column[0]);
        if column[8].starts_with("raw frame") {
            // A bare frame without a file header is no capture, and is told apart from one.
            let err = Reader::open(&path).unwrap_err();
            assert!(matches!(err.fault, Fault::Magic(_)), "{err}");
            raw += 1;
            continue;
        }
        files += 1;
        match count(&path) {
            Ok(n) if n.to_string() == column[7] => {}
            Ok(n) => writeln!(wrong, "{}: {n}, manifest {}", column[0], column[7]).unwrap(),
            Err(err) => writeln!(wrong, "{err}").unwrap(),
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(files > 100 && raw > 10, "the manifest has shrunk: {files} captures, {raw} frames");
}

#[test]
fn ip_versions_of_raw_link_types_equal_the_manifest() {
    // Where the link type itself says that packets are IP, tshark's counts of IPv4 and IPv6
    // packets are ours. Two files record the other version than their link type says (their names
    // say "invalid"); tunnels are counted inside by tshark, so files with both are left out.
    let manifest = std::fs::read_to_string(captures().join("MANIFEST.tsv")).unwrap();
    let mut checked = 0;
    for row in manifest.lines().filter(|l| !l.starts_with('#')).skip(1) {
        let column: Vec<&str> = row.split('\t').collect();
        if column[8].starts_with("raw frame") || column[0].contains("invalid") {
            continue;
        }
        let mut reader = Reader::open(&captures().join(column[0])).unwrap();
        let (mut v4, mut v6, mut other) = (0u64, 0u64, 0u64);
        while let Some(frame) = reader.next_frame().unwrap() {
            match network(frame.link, frame.data) {
                Ok(Network::Packet { ethertype: 0x0800, .. }) => v4 += 1,
                Ok(Network::Packet { ethertype: 0x86dd, .. }) => v6 += 1,
                _ => other += 1,
            }
        }
        if other == 0 && (v4 == 0 || v6 == 0) {
            assert_eq!(
                (v4.to_string().as_str(), v6.to_string().as_str()),
                (column[9], column[10]),
                "{}",
                column[0]
            );
            checked += 1;
        }
    }
    assert!(checked >= 8, "only {checked} files have such link types");
}

#[test]
fn every_capture_cut_anywhere_ends_with_an_answer() {
    let manifest = std::fs::read_to_string(captures().join("MANIFEST.tsv")).unwrap();
    for row in manifest.lines().filter(|l| !l.starts_with('#')).skip(1) {
        let bytes = std::fs::read(captures().join(row.split('\t').next().unwrap())).unwrap();
        for eighth in 0..8 {
            let cut = &bytes[..bytes.len() * eighth / 8];
            let Ok(mut reader) = Reader::new(cut, "cut") else { continue };
            while let Ok(Some(frame)) = reader.next_frame() {
                let _ = network(frame.link, frame.data);
            }
        }
    }
}

/// An IPv4 UDP packet with right checksums: header by hand, so that tshark judges bytes nobody of
/// us computed at run time.
const UDP4: [u8; 32] = [
    0x45, 0x00, 0x00, 0x20, 0x00, 0x01, 0x40, 0x00, 0x40, 0x11, 0x22, 0xc4, 0x0a, 0x00, 0x02, 0x64,
    0x0a, 0x00, 0x02, 0x02, 0x04, 0xd2, 0x00, 0x09, 0x00, 0x0c, 0x00, 0x00, b'a', b'b', b'c', b'd',
];

#[test]
fn tshark_reads_what_is_written() {
    if Command::new("tshark").arg("--version").output().is_err() {
        return skip("tshark_reads_what_is_written", "tshark is not installed");
    }
    let info = Info { hardware: "x86-64", os: "Linux", application: "linerate test" };
    let mut writer = Writer::new(Vec::new(), info).unwrap();
    writer.add_interface("tun0", LinkType::RAW, 0).unwrap();
    writer.add_interface("veth0", LinkType::ETHERNET, 96).unwrap();
    let ts = 1_700_000_000_123_456_789;
    writer.packet(0, ts, &[&UDP4[..20], &UDP4[20..]], Direction::Inbound, None).unwrap();
    let ether = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    let long = [0u8; 100];
    writer
        .packet(1, ts + 1, &[&ether, &UDP4, &long], Direction::Outbound, Some("drop: NO_SOCKET"))
        .unwrap();
    writer.statistics(0, ts + 2, 1, 0).unwrap();
    let path = std::env::temp_dir().join(format!("linerate-{}.pcapng", std::process::id()));
    std::fs::write(&path, writer.into_inner()).unwrap();
    let fields = [
        "frame.interface_name",
        "frame.time_epoch",
        "frame.len",
        "frame.cap_len",
        "frame.packet_flags_direction",
        "frame.comment",
        "udp.dstport",
        "_ws.malformed",
    ];
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-T", "fields", "-E", "separator=|", "-r"]).arg(&path);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let out = tshark.output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let complaints: Vec<String> = String::from_utf8_lossy(&out.stderr)
        .lines()
        .filter(|l| !l.starts_with("Running as user"))
        .map(str::to_owned)
        .collect();
    assert!(out.status.success() && complaints.is_empty(), "{complaints:?}");
    // tshark prints the direction as a number in hexadecimal, or, in other versions, decimal.
    assert_eq!(
        String::from_utf8_lossy(&out.stdout).replace("0x0000000", ""),
        "tun0|1700000000.123456789|32|32|1||9|\n\
         veth0|1700000000.123456790|146|96|2|drop: NO_SOCKET|9|\n"
    );
}
