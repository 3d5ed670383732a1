//! The kernel runs the program over random frames (`BPF_PROG_TEST_RUN`) and has to agree with
//! [`Filter::takes`] on each.

use super::*;
use linerate_core::rand::Rng;
use std::net::{Ipv4Addr, Ipv6Addr};

fn skip(test: &str, why: &str) {
    use std::io::Write;
    assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {test}: {why}");
    io::stderr().write_all(format!("SKIP {test}: {why}\n").as_bytes()).unwrap();
}

const OWN4: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(192, 0, 2, 77)];

fn own6() -> [Ipv6Addr; 2] {
    ["fd09::2", "2001:db8::aa:bbcc"].map(|a| a.parse().unwrap())
}

/// An address that is ours, nearly ours, or somebody's.
fn some6(rng: &mut Rng) -> Ipv6Addr {
    let own = own6()[rng.below(2) as usize];
    match rng.below(5) {
        0 | 1 => own,
        2 => solicited_node(own),
        // The kernel's, of the same group as ours.
        3 => Ipv6Addr::from(own.to_bits() ^ 1 << 100),
        _ => Ipv6Addr::from(own.to_bits() ^ 1 << rng.below(128)),
    }
}

fn some4(rng: &mut Rng) -> Ipv4Addr {
    let own = OWN4[rng.below(2) as usize];
    if rng.below(3) > 0 { own } else { Ipv4Addr::from(own.to_bits() ^ 1 << rng.below(32)) }
}

fn some_proto(rng: &mut Rng) -> u8 {
    [TCP, UDP, ICMP, ICMPV6, 132, 44, 0][rng.below(7) as usize]
}

fn some_port(rng: &mut Rng) -> u16 {
    [53, 80, 0, 54, 0x3500][rng.below(5) as usize]
}

fn push_l4(out: &mut Vec<u8>, rng: &mut Rng, proto: u8, depth: u8) {
    match proto {
        ICMP | ICMPV6 => {
            let kinds = [0, 1, 2, 3, 4, 8, 11, 12, 128, 132, 133, 135, 136, 137, 138];
            out.extend([kinds[rng.below(15) as usize], 0, 0, 0, 0, 0, 0, 0]);
            if proto == ICMPV6 && rng.below(2) == 0 {
                out.extend(some6(rng).octets());
            } else if depth == 0 {
                match proto {
                    ICMP => push_ip4(out, rng, 1),
                    _ => push_ip6(out, rng, 1),
                }
            }
        }
        _ => {
            out.extend(some_port(rng).to_be_bytes());
            out.extend(some_port(rng).to_be_bytes());
            out.extend([0; 16]);
        }
    }
}

fn push_ip4(out: &mut Vec<u8>, rng: &mut Rng, depth: u8) {
    let words = if rng.below(4) > 0 { 5 } else { rng.below(16) as u8 };
    let frag = [0u16, 0, 0, 0x4000, 0x2000, 1, 0x1fff, 0x8000][rng.below(8) as usize];
    let proto = some_proto(rng);
    out.extend([0x40 | words, 0, 0, 0, 0, 0]);
    out.extend(frag.to_be_bytes());
    out.extend([64, proto, 0, 0]);
    out.extend(some4(rng).octets());
    out.extend(some4(rng).octets());
    out.extend(std::iter::repeat_n(7, (usize::from(words) * 4).saturating_sub(20)));
    push_l4(out, rng, proto, depth);
}

fn push_ip6(out: &mut Vec<u8>, rng: &mut Rng, depth: u8) {
    let proto = some_proto(rng);
    out.extend([0x60, 0, 0, 0, 0, 0, proto, 64]);
    out.extend(some6(rng).octets());
    out.extend(some6(rng).octets());
    push_l4(out, rng, proto, depth);
}

fn some_frame(rng: &mut Rng) -> Vec<u8> {
    let mut out = vec![2; 12];
    match rng.below(8) {
        0 => {
            out.extend(ETH_P_ARP.to_be_bytes());
            out.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 2, 2, 2, 2, 2]);
            out.extend(some4(rng).octets());
            out.extend([0; 6]);
            out.extend(some4(rng).octets());
        }
        1 => {
            // Tagged: whatever is behind the tag goes to the kernel.
            out.extend([0x81, 0, 0, 7, 8, 0]);
            push_ip4(&mut out, rng, 0);
        }
        2 => {
            out.extend((rng.below(1 << 16) as u16).to_be_bytes());
            push_ip4(&mut out, rng, 0);
        }
        3 | 4 => {
            out.extend(ETH_P_IP.to_be_bytes());
            push_ip4(&mut out, rng, 0);
        }
        _ => {
            out.extend(ETH_P_IPV6.to_be_bytes());
            push_ip6(&mut out, rng, 0);
        }
    }
    if rng.below(3) == 0 {
        out.truncate(14 + rng.below(out.len() as u64 - 13) as usize);
    }
    out
}

fn filters() -> Vec<Filter> {
    let addrs = || OWN4.map(IpAddr::from).into_iter().chain(own6().map(IpAddr::from));
    let with = |services: &[Service]| Filter {
        services: Some(services.to_vec()),
        ..Filter::addrs(addrs())
    };
    vec![
        Filter::default(),
        Filter::addrs(addrs()),
        Filter { neighbours: false, ..Filter::addrs(addrs()) },
        with(&[]),
        with(&[Service::Udp(53), Service::Tcp(80)]),
        with(&[Service::Protocol(ICMP), Service::Udp(0x3500)]),
        Filter { neighbours: false, ..with(&[Service::Tcp(53), Service::Protocol(ICMPV6)]) },
        with(&[Service::Protocol(UDP), Service::Protocol(132)]),
        Filter::everything(),
        Filter::addrs([IpAddr::from(own6()[0])]),
    ]
}

#[test]
fn the_kernel_agrees_on_every_frame() {
    const TEST: &str = "the_kernel_agrees_on_every_frame";
    let maps = match Maps::new(1) {
        Ok(maps) => maps,
        Err(err) => return skip(TEST, &format!("no BPF maps here: {err}")),
    };
    // There is no socket in the map: what would go to one is told by this.
    let prog = load(&maps, XDP_DROP).unwrap_or_else(|err| panic!("{}\n{}", err.source, err.log));
    let mut rng = Rng::new(3);
    let mut old = Filter::default();
    for filter in filters() {
        maps.set(&old, &filter).unwrap();
        let mut taken = 0;
        for _ in 0..3000 {
            let frame = some_frame(&mut rng);
            let wanted = filter.takes(&frame);
            let got = prog.test_run(&frame, 1).unwrap().0;
            let says = if wanted { XDP_DROP } else { XDP_PASS };
            assert_eq!(got, says, "{filter:?}\n{frame:02x?}");
            taken += u32::from(wanted);
        }
        // The frames are such that both answers are common.
        let none = filter.addrs.is_empty() && !filter.everything;
        assert!(taken > 60 || none, "{taken} of 3000 for {filter:?}");
        assert!(taken < 2900 || filter.everything, "{taken} of 3000 for {filter:?}");
        old = filter;
    }
    maps.set(&old, &Filter::default()).unwrap();
    for (key, _) in filters().iter().flat_map(addr_entries) {
        assert_eq!(maps.addrs.lookup(&key).unwrap(), None, "nothing is left behind");
    }
}

#[test]
fn a_program_that_the_verifier_refuses_comes_back_with_its_log() {
    const TEST: &str = "a_program_that_the_verifier_refuses_comes_back_with_its_log";
    let mut asm = Asm::new();
    asm.load(Size::W, R0, R6, 0);
    asm.exit();
    match Prog::load(&asm.finish(), "bad") {
        Err(err) if err.source.raw_os_error() == Some(libc::EPERM) => {
            skip(TEST, "no program may be loaded here (CAP_BPF)");
        }
        Err(err) => assert!(err.log.contains("R6"), "{}: {}", err.source, err.log),
        Ok(_) => panic!("R6 was never set"),
    }
}
