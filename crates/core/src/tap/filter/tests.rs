//! Goal: what is written is what is meant, and what is not understood is named.
//! Method: texts and packets by hand. That all decisions are libpcap's is shown in `linerate-dev`'s
//! `tests/filters.rs`.

use super::*;

fn wrong(text: &str) -> FilterError {
    Filter::compile(text).expect_err(text)
}

#[test]
fn an_unknown_word_is_named_with_its_place() {
    let cases = [
        ("tcp prot 80", "prot", 5),
        ("foo", "foo", 1),
        ("tcp and", "", 8),
        ("and tcp", "and", 1),
        ("(tcp or udp", "", 12),
        ("tcp or udp)", ")", 11),
        ("host 10.0.0.256", "10.0.0.256", 6),
        ("host 10.0.0.0/8", "/", 14),
        ("net 10.0.0.1/8", "10.0.0.1", 5),
        ("net 10.0.0.0/33", "33", 14),
        ("net fd00::1/8", "fd00::1", 5),
        ("port 65536", "65536", 6),
        ("port", "", 5),
        ("ip port 80", "ip", 1),
        ("tcp host 10.0.0.1", "tcp", 1),
        ("ip host ::1", "ip", 1),
        ("ip6 host 10.0.0.1", "ip6", 1),
        ("ether host 10.0.0.1", "10.0.0.1", 12),
        ("host 00:11:22:33:44:55", "00:11:22:33:44:55", 6),
        ("80", "80", 1),
        ("vlan 4096", "4096", 6),
        ("tcp[13", "", 7),
        ("tcp[13] &", "", 10),
        ("tcp[13]", "", 8),
        ("tcp[13:3] = 1", "3", 8),
        ("tcp[x] = 1", "x", 5),
        ("len / 0 > 1", "/", 5),
        ("mpls", "mpls", 1),
        ("ip broadcast", "broadcast", 4),
        ("ip proto 256", "256", 10),
        ("ether proto 5", "5", 13),
        ("tcp port 80 § 5", "§", 13),
        ("less", "", 5),
        ("portrange 1-99999", "1-99999", 11),
    ];
    for (text, word, column) in cases {
        let e = wrong(text);
        assert_eq!((e.word.as_str(), e.column), (word, column), "{text}: {e}");
        assert!(e.to_string().contains(&format!("column {column}")), "{e}");
    }
}

#[test]
fn texts_of_any_depth_and_length_have_an_end() {
    let deep = format!("{}tcp{}", "(".repeat(60), ")".repeat(60));
    assert!(Filter::compile(&deep).is_ok());
    for n in [70, 500] {
        let too_deep = format!("{}tcp{}", "(".repeat(n), ")".repeat(n));
        assert!(wrong(&too_deep).to_string().contains("deep"));
        assert!(Filter::compile(&format!("{}tcp", "not ".repeat(n))).is_err());
        assert!(Filter::compile(&format!("{}1{} = 1", "tcp[".repeat(n), "]".repeat(n))).is_err());
    }
    let long = vec!["port 1"; 300].join(" or ");
    assert!(Filter::compile(&long).is_ok());
    assert!(wrong(&vec!["port 1"; 600].join(" or ")).to_string().contains("1024 words"));
}

#[test]
fn an_empty_filter_lets_everything_through() {
    for text in ["", "  "] {
        let filter = Filter::compile(text).expect("nothing is wrong");
        let view = View { link: Link::Ip, bytes: &[], len: 0, outbound: false };
        assert!(filter.matches(&view) && filter.reach() == 0);
    }
}

#[test]
fn directions_are_told_apart() {
    let view = |outbound| View { link: Link::Ip, bytes: &[0x45], len: 1, outbound };
    let inbound = Filter::compile("inbound").expect("a filter");
    let outbound = Filter::compile("outbound and not inbound").expect("a filter");
    assert!(inbound.matches(&view(false)) && !inbound.matches(&view(true)));
    assert!(outbound.matches(&view(true)) && !outbound.matches(&view(false)));
}

/// Whatever the text and whatever the packet: an answer, never a panic.
#[test]
fn noise_is_answered() {
    const WORDS: [&str; 40] = [
        "tcp",
        "udp",
        "ip",
        "ip6",
        "arp",
        "ether",
        "icmp",
        "icmp6",
        "host",
        "net",
        "port",
        "portrange",
        "src",
        "dst",
        "and",
        "or",
        "not",
        "(",
        ")",
        "[",
        "]",
        "=",
        "!=",
        "<",
        "&",
        "len",
        "vlan",
        "less",
        "greater",
        "80",
        "0x10",
        "10.0.0.1",
        "::1",
        "/",
        "8",
        "proto",
        "multicast",
        "tcpflags",
        "+",
        ":",
    ];
    let mut rng = crate::rand::Rng::new(9);
    let mut good = 0;
    for _ in 0..20_000 {
        let n = 1 + rng.below(8);
        let text: Vec<&str> = (0..n).map(|_| WORDS[rng.below(40) as usize]).collect();
        let Ok(filter) = Filter::compile(&text.join(" ")) else { continue };
        good += 1;
        for link in [Link::Ethernet, Link::Ip] {
            let len = rng.below(90) as usize;
            let bytes: Vec<u8> = (0..len).map(|_| rng.below(256) as u8).collect();
            let _ = filter.matches(&View { link, bytes: &bytes, len, outbound: false });
        }
    }
    assert!(good > 200, "only {good} texts were filters");
}
