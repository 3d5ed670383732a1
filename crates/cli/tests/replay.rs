//! Goal: recorded captures of other projects go through the real path as tshark counted them.
//! Method: the real binary over every capture of the laboratory's manifest, whose counts are
//! tshark's; each difference is listed here with the rule that makes it. Then the errors, the trace,
//! and the clock.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn captures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/data/captures")
}

fn replay(file: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_linerate"));
    command.arg("replay").arg(file).args(args).output().expect("linerate starts")
}

fn json_of(file: &Path, args: &[&str]) -> Value {
    let out = replay(file, &[args, &["--json"]].concat());
    assert!(out.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&out.stderr));
    serde_json::from_slice(&out.stdout).expect("it prints JSON")
}

fn capture(name: &str, args: &[&str]) -> Value {
    json_of(&captures().join(name), args)
}

/// A row of the manifest: file, then the columns behind it.
fn manifest() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(captures().join("MANIFEST.tsv")).expect("it is there");
    let rows = text.lines().filter(|l| !l.starts_with('#')).skip(1);
    rows.map(|l| l.split('\t').map(str::to_owned).collect()).collect()
}

fn counter(v: &Value, group: &str, name: &str) -> u64 {
    v["counters"][group][name].as_u64().unwrap_or_else(|| panic!("{group}:{name} in {v}"))
}

fn stage<'a>(v: &'a Value, name: &str) -> &'a Value {
    let stages = v["stages"].as_array().expect("a list");
    stages.iter().find(|s| s["name"] == name).unwrap_or_else(|| panic!("no stage {name}"))
}

/// The law for each stage: in + made = out + taken + merged + dropped + held.
fn assert_conserved(file: &str, v: &Value) {
    for s in v["stages"].as_array().expect("a list") {
        let n = |key: &str| s[key].as_u64().unwrap_or_else(|| panic!("{key} in {s}"));
        let drops = s["dropped"].as_object().expect("reasons");
        let dropped: u64 = drops.values().filter_map(Value::as_u64).sum();
        assert_eq!(
            n("in") + n("made"),
            n("out") + n("taken") + n("merged") + n("held") + dropped,
            "{file}: {s}"
        );
    }
}

const COLUMNS: [&str; 9] = ["pkts", "ipv4", "ipv6", "frag", "ip", "tcp", "udp", "icmp", "icmp6"];

fn ours(v: &Value) -> [u64; 9] {
    let n = |group, name| counter(v, group, name);
    [
        stage(v, "Ring")["in"].as_u64().expect("a count"),
        n("Ip", "InReceives"),
        n("Ip6", "InReceives"),
        n("Ip", "ReasmReqds") + n("Ip6", "ReasmReqds"),
        n("IpExt", "InCsumErrors"),
        n("Tcp", "InCsumErrors"),
        n("Udp", "InCsumErrors") + n("Udp6", "InCsumErrors"),
        n("Icmp", "InCsumErrors"),
        n("Icmp6", "InCsumErrors"),
    ]
}

fn tsharks(row: &[String]) -> [u64; 9] {
    let n = |i: usize| row[i].parse().unwrap_or_else(|_| panic!("column {i} of {row:?}"));
    let bad: Vec<u64> = row[15].split('/').map(|b| b.parse().expect("a count")).collect();
    [n(7), n(9), n(10), n(13), bad[0], bad[1], bad[2], bad[3], bad[4]]
}

/// Where the rule of counting differs: file, column, ours, why.
const DIFFERENT: &[(&str, &str, u64, &str)] = &[
    ("tcpdump/LINKTYPE_IPV6_invalid.pcap", "ipv4", 1, NIBBLE),
    ("zeek/trunc__ip4-trunc.pcap", "ipv4", 1, RECEIVED),
    ("zeek/mixed-vlan-mpls.pcap", "ipv4", 36, INNER),
    ("zeek/tunnels__6in4.pcap", "ipv6", 0, INNER),
    ("tcpdump/gso-ipv4-vxlan-ipv4.pcap", "tcp", 0, INNER),
    ("tcpdump/gso-ipv6-geneve-ipv6.pcap", "tcp", 0, INNER),
    ("zeek/mixed-vlan-mpls.pcap", "tcp", 0, EARLIER),
    ("zeek/tcp__retransmit-fast009.pcap", "tcp", 0, EARLIER),
    ("tcpdump/ipv4_tcp_http_xml_tso.pcap", "tcp", 0, EARLIER),
    ("tcpdump/bigtcp-ipv4.pcap", "tcp", 0, EARLIER),
    ("tcpdump/bigtcp-ipv6-hbh.pcap", "tcp", 0, EARLIER),
    ("zeek/tcp__reassembly.pcap", "tcp", 10, EARLIER),
    ("zeek/chksums__ip4-tcp-bad-chksum.pcap", "tcp", 0, BROADCAST),
    ("zeek/chksums__ip4-udp-bad-chksum.pcap", "udp", 0, BROADCAST),
    ("zeek/chksums__ip6-tcp-bad-chksum.pcap", "tcp", 0, TO_MANY),
];
const NIBBLE: &str = "a bare packet is of the version that its first four bits say, as on a TUN";
const RECEIVED: &str = "InReceives counts before any check, tshark what it could decode";
const INNER: &str = "tshark counts the headers inside of tunnels and behind MPLS labels as well";
const EARLIER: &str =
    "dropped before the transport: bad IPv4 checksum, longer than recorded, jumbo";
const BROADCAST: &str = "an Ethernet broadcast that carries a unicast packet is dropped before";
const TO_MANY: &str = "tcp_v4_rcv looks at no segment that came in a broadcast or multicast frame";

#[test]
fn counters_equal_tsharks_row_by_row() {
    let (mut files, mut wrong, mut rules) = (0, String::new(), 0);
    for row in manifest() {
        let file = &row[0];
        if row[8].starts_with("raw frame") || file == "tcpdump/ppp_ip_udp_dns.pcap" {
            continue;
        }
        files += 1;
        let v = capture(file, &[]);
        assert_conserved(file, &v);
        for ((column, ours), tshark) in COLUMNS.iter().zip(ours(&v)).zip(tsharks(&row)) {
            let rule = DIFFERENT.iter().find(|d| d.0 == file && d.1 == *column);
            rules += usize::from(rule.is_some());
            let wanted = rule.map_or(tshark, |d| d.2);
            if ours != wanted {
                wrong.push_str(&format!("{file}: {column}: {ours}, wanted {wanted}\n"));
            }
            if rule.is_some_and(|d| d.2 == tshark) {
                wrong.push_str(&format!("{file}: {column}: tshark agrees, the rule is idle\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(rules, DIFFERENT.len(), "every rule names a file of the manifest");
    assert!(files > 100, "the manifest has shrunk: {files} captures");
}

#[test]
fn what_tshark_calls_malformed_below_the_application_is_dropped_as_such() {
    // In the other files that tshark calls malformed it is the application's data, or an option
    // that does not matter to a stack which listens to nobody.
    for (file, at, reason) in [
        ("suricata-verify/ipv4-truncated__truncated.pcap", "Ip", "PKT_TOO_SMALL"),
        ("tcpdump/ipv6_frag6_negative_len.pcap", "Ip", "IP_INHDR"),
        ("tcpdump/ipv6_invalid_length.pcap", "Ip", "IP_INHDR"),
        ("tcpdump/ipv6_39_byte_header.pcap", "Ip", "IP_INHDR"),
        ("tcpdump/ipv6_jumbogram_1.pcap", "Ip", "IP_INHDR"),
        ("tcpdump/heapoverflow-tcp_print.pcap", "Ip", "IP_CSUM"),
        ("tcpdump/tcp_rst_data-trunc.pcap", "Ip", "PKT_TOO_SMALL"),
        ("zeek/trunc__ipv4-internally-truncated-header.pcap", "Ip", "IP_INHDR"),
        ("zeek/trunc__icmp-header-trunc.pcap", "Ip", "PKT_TOO_SMALL"),
        ("zeek/trunc__ip6-trunc.pcap", "Ip", "IP_INHDR"),
    ] {
        let v = capture(file, &[]);
        let dropped = stage(&v, at)["dropped"][reason].as_u64();
        assert!(dropped.is_some_and(|n| n > 0), "{file}: {v}");
    }
}

#[test]
fn receive_offload_merges_if_asked_and_loses_nothing() {
    let merged = capture("zeek/http__bro.org.pcap", &["--set", "features.gro=1"]);
    assert_conserved("http__bro.org with gro", &merged);
    let gro = stage(&merged, "Gro");
    assert_eq!(gro["in"], 751, "every packet passes it: {gro}");
    let plain = capture("zeek/http__bro.org.pcap", &[]);
    assert_eq!(stage(&plain, "Gro")["in"], 0, "a recording is not merged a second time");
}

#[test]
fn fragments_without_their_rest_time_out_by_the_captures_clock() {
    let v = capture("zeek/ipv4__fragmented-2.pcap", &[]);
    assert_eq!(counter(&v, "Ip", "ReasmReqds"), 3);
    assert_eq!(stage(&v, "Reasm")["held"], 0, "nothing waits at the end: {v}");
}

#[test]
fn local_narrows_what_is_ours() {
    let all = capture("zeek/icmp__5-pings.pcap", &[]);
    assert_eq!(counter(&all, "Icmp", "InMsgs"), 10);
    let none = capture("zeek/icmp__5-pings.pcap", &["--local", "192.0.2.0/24"]);
    assert_eq!(counter(&none, "Ip", "InReceives"), 10);
    assert_eq!(counter(&none, "Icmp", "InMsgs"), 0);
    assert_eq!(stage(&none, "Route")["out"], 0, "{none}");
    let bad = replay(&captures().join("zeek/icmp__5-pings.pcap"), &["--local", "10.0.0.0/33"]);
    assert_eq!(bad.status.code(), Some(2));
}

#[test]
fn json_has_the_documented_names_and_no_others() {
    let v = capture("zeek/dns-edns-ecs.pcap", &[]);
    let keys =
        |v: &Value| -> Vec<String> { v.as_object().expect("an object").keys().cloned().collect() };
    assert_eq!(keys(&v), ["counters", "stages"]);
    let wanted = ["dropped", "held", "in", "made", "merged", "name", "out", "taken"];
    for s in v["stages"].as_array().expect("a list") {
        assert_eq!(keys(s), wanted);
    }
    for group in ["Ip", "IpExt", "Ip6", "Udp", "Tcp", "Icmp"] {
        assert!(v["counters"][group].is_object(), "{group}");
    }
}

#[test]
fn a_trace_walks_to_the_verdict() {
    let file = captures().join("zeek/dns-edns-ecs.pcap");
    let out = replay(&file, &["--trace", "5"]);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{out:?}");
    let first: Vec<&str> = text.lines().filter_map(|l| l.split_whitespace().next()).collect();
    assert_eq!(first[..4], ["packet", "Link", "Ip", "Route"], "{text}");
    assert!(
        text.contains("dropped: UDP_CSUM") && text.contains("moves Udp:InCsumErrors"),
        "{text}"
    );
    assert!(text.starts_with("packet 5: 862 bytes, EN10MB(1), at byte offset 1368"), "{text}");
    let v = json_of(&file, &["--trace", "5"]);
    let walk = v["trace"].as_array().expect("a list");
    assert_eq!(walk.last().map(|l| &l["reason"]), Some(&"UDP_CSUM".into()), "{v}");
    let beyond = replay(&file, &["--trace", "90"]);
    assert_eq!(beyond.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&beyond.stderr).contains("89 packets"), "{beyond:?}");
}

/// What each stage said of packet `n` of a raw capture, as `Stage said`, and the whole text.
fn walk(name: &str, packets: &[Vec<u8>], n: u32, args: &[&str]) -> (Vec<String>, String) {
    let path = std::env::temp_dir().join(format!("linerate-{}-{name}-{n}", std::process::id()));
    std::fs::write(&path, raw_capture(packets)).expect("it is written");
    let trace = n.to_string();
    let args = [args, &["--trace", &trace]].concat();
    let v = json_of(&path, &args);
    let text = String::from_utf8(replay(&path, &args).stdout).expect("it prints UTF-8");
    std::fs::remove_file(&path).expect("it is removed");
    let word = |l: &Value, key: &str| l[key].as_str().unwrap_or_default().to_owned();
    let lines = v["trace"].as_array().expect("a list").iter();
    (lines.map(|l| format!("{} {}", word(l, "stage"), word(l, "said"))).collect(), text)
}

/// Two fragments of one datagram to nobody: whichever is followed, its walk ends where the
/// datagram's does.
#[test]
fn a_trace_of_a_fragment_walks_to_the_verdict_of_its_packet() {
    let mut datagram = vec![0x0f, 0xa0, 0, 53, 0, 32, 0, 0];
    datagram.extend([7; 24]);
    let fragments = [ipv4(0x2000, &datagram[..16]), ipv4(2, &datagram[16..])];
    let (first, text) = walk("first", &fragments, 1, &[]);
    let begin = ["Link pass", "Ip pass", "Route queued"];
    assert_eq!(first[..3], begin, "{text}");
    assert_eq!(first[3..], ["Reasm held", "Reasm pass", "Demux dropped"], "{text}");
    assert!(text.contains("IPv4 192.0.2.1 → 198.51.100.2 UDP fragment, 16 bytes"), "{text}");
    assert!(text.contains("IPv4 192.0.2.1:4000 → 198.51.100.2:53 UDP, 32 bytes"), "{text}");
    assert!(text.contains("dropped: NO_SOCKET"), "{text}");
    let (second, text) = walk("second", &fragments, 2, &[]);
    assert_eq!(second[..3], begin, "{text}");
    assert_eq!(second[3..], ["Reasm merged", "Reasm pass", "Demux dropped"], "{text}");
    assert!(text.contains("merged: it is part of another packet now"), "{text}");
    let (alone, text) = walk("alone", &fragments[..1], 1, &[]);
    assert_eq!(alone[3..], ["Reasm held", "Reasm dropped"], "{text}");
}

#[test]
fn a_trace_of_a_forwarded_packet_walks_to_the_device() {
    let mut datagram = vec![0x0f, 0xa0, 0, 53, 0, 32, 0, 0];
    datagram.extend([7; 24]);
    let args = ["--local", "203.0.113.0/24", "--set", "net.ipv4.ip_forward=1"];
    let (said, text) = walk("forward", &[ipv4(0, &datagram)], 1, &args);
    let rx = ["Link pass", "Ip pass", "Route queued", "Forward queued"];
    assert_eq!(said[..4], rx, "{text}");
    assert_eq!(said.last().map(String::as_str), Some("Xmit pass"), "{text}");
    for stage in ["Frag", "Neigh", "Qdisc", "Gso"] {
        assert!(said.iter().any(|l| l.starts_with(stage)), "{stage}: {text}");
    }
    assert!(text.contains("52 bytes on the wire"), "{text}");
    let last = text.lines().last().unwrap_or_default();
    assert!(last.contains("192.0.2.1:4000 → 198.51.100.2:53 UDP, 52 bytes"), "{text}");
    assert!(last.contains("sent: the device took it"), "{text}");
}

/// The second of two segments that receive offload joins, and that are cut again on the way out.
#[test]
fn a_trace_of_a_merged_segment_walks_on_with_the_super_packet() {
    let file = captures().join("zeek/http__bro.org.pcap");
    let args = ["--set", "features.gro=1", "--set", "net.ipv4.ip_forward=1"];
    let args = [&args[..], &["--local", "192.0.2.0/24", "--trace", "8"]].concat();
    let v = json_of(&file, &args);
    let lines = v["trace"].as_array().expect("a list");
    let said = |stage: &str| -> Vec<&str> {
        let of = lines.iter().filter(|l| l["stage"] == stage);
        of.filter_map(|l| l["said"].as_str()).collect()
    };
    assert_eq!(said("Gro"), ["merged", "pass"]);
    assert_eq!(said("Gso"), ["taken"]);
    assert_eq!(said("Xmit"), ["held", "held", "pass", "pass"]);
}

/// Runs over a file of these bytes.
fn replay_bytes(name: &str, bytes: &[u8]) -> Output {
    let path = std::env::temp_dir().join(format!("linerate-{}-{name}", std::process::id()));
    std::fs::write(&path, bytes).expect("it is written");
    let out = replay(&path, &[]);
    std::fs::remove_file(&path).expect("it is removed");
    out
}

fn refused(out: &Output) -> String {
    assert_eq!(out.status.code(), Some(2), "{out:?}");
    assert!(out.stdout.is_empty(), "no half report: {out:?}");
    String::from_utf8_lossy(&out.stderr).into_owned()
}

/// A capture of packets that begin with the IP header, all of the same moment.
fn raw_capture(packets: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65535, 101] {
        out.extend(word.to_le_bytes());
    }
    for packet in packets {
        for word in [1, 0, packet.len() as u32, packet.len() as u32] {
            out.extend(u32::to_le_bytes(word));
        }
        out.extend(packet);
    }
    out
}

/// An IPv4 packet with UDP in it. `frag` is the word with the offset and the flags.
fn ipv4(frag: u16, payload: &[u8]) -> Vec<u8> {
    ipv4_with_id(0, frag, payload)
}

fn ipv4_with_id(id: u16, frag: u16, payload: &[u8]) -> Vec<u8> {
    let [[l0, l1], [i0, i1], [f0, f1]] =
        [20 + payload.len() as u16, id, frag].map(u16::to_be_bytes);
    let mut packet = vec![0x45, 0, l0, l1, i0, i1, f0, f1, 64, 17, 0, 0];
    packet.extend([192, 0, 2, 1, 198, 51, 100, 2]);
    let words = packet.chunks(2).map(|w| u32::from(u16::from_be_bytes([w[0], w[1]])));
    let sum: u32 = words.sum();
    packet[10..12].copy_from_slice(&(!((sum >> 16) + (sum & 0xffff)) as u16).to_be_bytes());
    packet.extend(payload);
    packet
}

/// A raw capture of `n` first fragments of different packets, all of the same moment.
fn first_fragments(n: u16) -> Vec<u8> {
    raw_capture(&(0..n).map(|id| ipv4_with_id(id, 0x2000, &[0; 16])).collect::<Vec<_>>())
}

/// Fragments that wait for their rest hold all of the packet memory there is.
#[test]
fn drop_ring_no_buf() {
    let path = std::env::temp_dir().join(format!("linerate-{}-pool", std::process::id()));
    std::fs::write(&path, first_fragments(200)).expect("it is written");
    for (buffers, lost) in [("64", 136), ("150", 50), ("16384", 0)] {
        let v = json_of(&path, &["--set", &format!("pool.small={buffers}")]);
        assert_conserved("fragments without memory", &v);
        let said = stage(&v, "Ring")["dropped"]["NOMEM"].as_u64().unwrap_or(0);
        assert_eq!((said, counter(&v, "dev", "rx_missed_errors")), (lost, lost), "{buffers}");
    }
    std::fs::remove_file(&path).expect("it is removed");
}

#[test]
fn what_is_no_capture_is_refused_with_its_byte_offset() {
    let good = std::fs::read(captures().join("zeek/icmp__5-pings.pcap")).expect("it is there");
    let cut = refused(&replay_bytes("cut", &good[..good.len() - 7]));
    let last = good.len() - 16 - 98;
    assert!(cut.contains(&format!("at byte offset {last}: the file is cut off")), "{cut}");
    let mut long = good.clone();
    // The captured length of the first record.
    long[24 + 8..24 + 12].copy_from_slice(&[0xff; 4]);
    let long = refused(&replay_bytes("long", &long));
    assert!(long.contains("at byte offset 24: the file is corrupt"), "{long}");
    let text = refused(&replay_bytes("text", b"#!/bin/sh\necho no capture\n"));
    assert!(text.contains("at byte offset 0: not a pcap or pcapng file"), "{text}");
    refused(&replay_bytes("empty", b""));
    let ppp = refused(&replay(&captures().join("tcpdump/ppp_ip_udp_dns.pcap"), &[]));
    assert!(ppp.contains("at byte offset 24: link type 50 is not supported"), "{ppp}");
    let none = refused(&replay(Path::new("/nonexistent.pcap"), &[]));
    assert!(none.contains("/nonexistent.pcap"), "{none}");
    for row in manifest().iter().filter(|r| r[8].starts_with("raw frame")) {
        refused(&replay(&captures().join(&row[0]), &[]));
    }
}

#[test]
fn no_byte_of_a_capture_can_make_it_panic() {
    // Every capture of up to 8 KiB, with bytes changed by a fixed rule: an answer, never a crash.
    let mut runs = 0;
    for row in manifest().iter().step_by(3) {
        let bytes = std::fs::read(captures().join(&row[0])).expect("it is there");
        if bytes.len() > 8192 || bytes.len() < 60 {
            continue;
        }
        for round in 0..3usize {
            let mut broken = bytes.clone();
            // The headers of records stay whole, so that packets reach the path.
            for at in (54 + round..broken.len()).step_by(11 + 6 * round) {
                broken[at] = broken[at].wrapping_mul(31).wrapping_add(round as u8 + 1);
            }
            let out = replay_bytes(&format!("fuzz-{round}"), &broken);
            let said = String::from_utf8_lossy(&out.stderr).into_owned();
            assert!(matches!(out.status.code(), Some(0 | 2)), "{} {round}: {said}", row[0]);
            runs += 1;
        }
    }
    let _ = writeln!(std::io::stderr(), "{runs} broken captures answered");
    assert!(runs > 30, "the manifest has shrunk: {runs}");
}
