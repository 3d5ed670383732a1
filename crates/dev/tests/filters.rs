//! Goal: a filter decides what libpcap's program for the same words decides.
//! Method: the programs that libpcap made of many filters, run by a small machine of this test, beside
//! our own filters, on every packet of the recorded captures; then with all but the bytes cut off that
//! a filter says it may look at.

use linerate_core::tap::filter::{Filter, Link, View};
use linerate_dev::pcap::{Network, Reader, network};
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/data")
}

/// A packet as both see it.
struct Packet {
    link: Link,
    bytes: Vec<u8>,
    len: usize,
    file: String,
}

fn packets() -> Vec<Packet> {
    let captures = data().join("captures");
    let manifest = std::fs::read_to_string(captures.join("MANIFEST.tsv")).unwrap();
    let mut all = Vec::new();
    for row in manifest.lines().filter(|l| !l.starts_with('#')).skip(1) {
        let file = row.split('\t').next().unwrap();
        let Ok(mut reader) = Reader::open(&captures.join(file)) else { continue };
        while let Ok(Some(frame)) = reader.next_frame() {
            let (link, bytes) = match network(frame.link, frame.data) {
                Ok(Network::Ethernet(bytes)) => (Link::Ethernet, bytes),
                Ok(Network::Packet { bytes, .. }) => (Link::Ip, bytes),
                Err(_) => continue,
            };
            let len = frame.orig_len as usize - (frame.data.len() - bytes.len());
            all.push(Packet { link, bytes: bytes.to_vec(), len, file: file.to_owned() });
        }
    }
    all
}

/// The classic machine: accumulator, index register, sixteen cells. What a live capture knows of a tag
/// beside the frame (`vlanp`) a file does not.
fn run(program: &[Vec<&str>], packet: &Packet) -> bool {
    let (mut a, mut x, mut cells) = (0u32, 0u32, [0u32; 16]);
    let load = |at: u32, n: usize| -> Option<u32> {
        let part = packet.bytes.get(at as usize..)?.get(..n)?;
        Some(part.iter().fold(0, |sum, b| sum << 8 | u32::from(*b)))
    };
    let mut pc = 0;
    loop {
        let words = &program[pc];
        pc += 1;
        let rest = words[2..].join(" ");
        let number = |text: &str| -> u32 {
            match text.strip_prefix("0x") {
                Some(hex) => u32::from_str_radix(hex, 16).unwrap(),
                None => text.parse().unwrap(),
            }
        };
        let cell = |text: &str| number(&text[2..text.len() - 1]) as usize;
        let given = |x: u32| match rest.strip_prefix('#') {
            Some(n) => number(n.split(' ').next().unwrap()),
            None => x,
        };
        match words[1] {
            "ret" => return given(0) != 0,
            "ld" | "ldh" | "ldb" => {
                let n = match words[1] {
                    "ld" => 4,
                    "ldh" => 2,
                    _ => 1,
                };
                a = match rest.as_str() {
                    "#pktlen" => packet.len as u32,
                    "[vlanp]" | "[vlan_tci]" => 0,
                    text if text.starts_with('#') => given(x),
                    text if text.starts_with('M') => cells[cell(text)],
                    text => {
                        let at = text.trim_matches(['[', ']']);
                        let at = match at.strip_prefix("x + ") {
                            Some(k) => x.wrapping_add(number(k)),
                            None => number(at),
                        };
                        let Some(value) = load(at, n) else { return false };
                        value
                    }
                };
            }
            "ldx" => x = if rest.starts_with('M') { cells[cell(&rest)] } else { given(x) },
            "ldxb" => {
                let at = rest.trim_start_matches("4*([").split(']').next().unwrap();
                let Some(value) = load(number(at), 1) else { return false };
                x = 4 * (value & 0xf);
            }
            "st" => cells[cell(&rest)] = a,
            "stx" => cells[cell(&rest)] = x,
            "tax" => x = a,
            "txa" => a = x,
            "and" => a &= given(x),
            "or" => a |= given(x),
            "xor" => a ^= given(x),
            "add" => a = a.wrapping_add(given(x)),
            "sub" => a = a.wrapping_sub(given(x)),
            "mul" => a = a.wrapping_mul(given(x)),
            "lsh" => a <<= given(x),
            "rsh" => a >>= given(x),
            "div" | "mod" if given(x) == 0 => return false,
            "div" => a /= given(x),
            "mod" => a %= given(x),
            "ja" => pc = number(&rest) as usize,
            "jeq" | "jgt" | "jge" | "jset" => {
                let k = given(x);
                let yes = match words[1] {
                    "jeq" => a == k,
                    "jgt" => a > k,
                    "jge" => a >= k,
                    _ => a & k != 0,
                };
                let at = |name: &str| words.iter().position(|w| *w == name).unwrap() + 1;
                pc = number(words[at(if yes { "jt" } else { "jf" })]) as usize;
            }
            other => panic!("the machine does not know {other}"),
        }
    }
}

/// Filters with their programs.
fn programs(text: &str) -> Vec<(&str, Vec<Vec<&str>>)> {
    let mut all: Vec<(&str, Vec<Vec<&str>>)> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("# "), all.last_mut()) {
            (Some(filter), _) => all.push((filter, Vec::new())),
            (None, Some((_, program))) => program.push(line.split(' ').collect()),
            (None, None) => panic!("a program without a filter: {line}"),
        }
    }
    all
}

fn agree(file: &str, link: Link, least: usize) {
    let text = std::fs::read_to_string(data().join("filters").join(file)).unwrap();
    let packets: Vec<Packet> = packets().into_iter().filter(|p| p.link == link).collect();
    assert!(packets.len() > 100, "the captures have shrunk: {}", packets.len());
    let programs = programs(&text);
    assert!(programs.len() >= least, "only {} programs", programs.len());
    let (mut wrong, mut matched) = (Vec::new(), 0);
    for (words, program) in &programs {
        let filter = Filter::compile(words).unwrap_or_else(|e| panic!("{words}: {e}"));
        let mut some = false;
        for (n, packet) in packets.iter().enumerate() {
            let Packet { bytes, len, .. } = packet;
            let view = View { link, bytes, len: *len, outbound: false };
            let (ours, theirs) = (filter.matches(&view), run(program, packet));
            if ours != theirs {
                wrong.push(format!("{words}: {ours}, libpcap {theirs}: {} ({n})", packet.file));
            }
            // A packet that is longer than what the filter looks at may be cut there.
            let near = &bytes[..bytes.len().min(filter.reach())];
            if *len == bytes.len() && filter.matches(&View { bytes: near, ..view }) != ours {
                wrong.push(format!("{words}: looks beyond {} bytes: {n}", filter.reach()));
            }
            some |= theirs;
        }
        matched += usize::from(some);
    }
    wrong.truncate(20);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(matched * 2 > programs.len(), "only {matched} filters let anything through");
}

#[test]
fn filters_decide_as_libpcaps_programs_do_on_frames() {
    agree("ethernet.txt", Link::Ethernet, 100);
}

#[test]
fn filters_decide_as_libpcaps_programs_do_on_bare_packets() {
    agree("raw.txt", Link::Ip, 80);
}
