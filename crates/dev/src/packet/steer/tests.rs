//! Goal: the program chooses the queue that the Toeplitz hash and the table say, and the kernel
//! takes it. Method: a machine for the few instructions it uses, beside the hash by its definition
//! and the stack's own.

use super::*;
use linerate_core::rx::steer::rss::INDIR_LEN;

/// The machine of Documentation/networking/filter.rst, for packets of ethertype `proto`.
fn run(program: &[Insn], proto: u32, packet: &[u8]) -> u32 {
    let (mut a, mut x, mut mem, mut pc) = (0u32, 0u32, [0u32; 16], 0);
    let load = |at: u32, n: usize| {
        let bytes = packet.get(at as usize..at as usize + n)?;
        Some(bytes.iter().fold(0, |v, &b| v << 8 | u32::from(b)))
    };
    loop {
        let Insn { code, jt, jf, k } = program[pc];
        pc += 1;
        let branch = |yes: bool| usize::from(if yes { jt } else { jf });
        let read = match code {
            LD_W_ABS if k == AD_PROTOCOL => Some(proto),
            LD_W_ABS => load(k, 4),
            LD_H_ABS => load(k, 2),
            LD_B_ABS => load(k, 1),
            LD_W_IND => load(x + k, 4),
            LD_H_IND => load(x + k, 2),
            LD_B_IND => load(x + k, 1),
            _ => Some(a),
        };
        // The kernel ends a program that reads past the packet with 0.
        let Some(value) = read else { return 0 };
        a = value;
        match code {
            LD_W_ABS | LD_H_ABS | LD_B_ABS | LD_W_IND | LD_H_IND | LD_B_IND => {}
            LDX_MSH => match packet.get(k as usize) {
                Some(b) => x = u32::from(b & 0xf) * 4,
                None => return 0,
            },
            LD_MEM => a = mem[k as usize],
            LD_IMM => a = k,
            ST => mem[k as usize] = a,
            TAX => x = a,
            XOR_K => a ^= k,
            LDX_MEM => x = mem[k as usize],
            STX => mem[k as usize] = x,
            ADD_K => a = a.wrapping_add(k),
            ADD_X => a = a.wrapping_add(x),
            JEQ_X => pc += branch(a == x),
            JGT_X => pc += branch(a > x),
            OR_X => a |= x,
            AND_K => a &= k,
            LSH_K => a <<= k,
            RSH_K => a >>= k,
            JEQ_K => pc += branch(a == k),
            JGE_K => pc += branch(a >= k),
            JSET_K => pc += branch(a & k != 0),
            JA => pc += k as usize,
            RET_K => return k,
            RET_A => return a,
            other => panic!("an instruction that the program has no use for: {other:#x}"),
        }
    }
}

/// The hash by its definition.
fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit_set = |bit: &usize| input[bit / 8] >> (7 - bit % 8) & 1 == 1;
    (0..input.len() * 8).filter(bit_set).fold(0, |hash, bit| hash ^ window(key, bit))
}

fn packet4(input: &[u8; 12], proto: u8, fragment: u16, options: usize) -> Vec<u8> {
    let mut packet = vec![0; 20];
    packet[0] = 0x45 + options as u8;
    packet[6..8].copy_from_slice(&fragment.to_be_bytes());
    packet[9] = proto;
    packet[12..20].copy_from_slice(&input[..8]);
    packet.resize(20 + options * 4, 1);
    packet.extend_from_slice(&input[8..]);
    packet
}

fn packet6(input: &[u8; 36], next: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 4, next, 64];
    packet.extend_from_slice(input);
    packet
}

/// Bytes that look random and are always the same.
fn noise<const N: usize>(seed: u64) -> [u8; N] {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    std::array::from_fn(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    })
}

fn tables() -> Vec<[u8; INDIR_LEN]> {
    vec![
        [3; INDIR_LEN],
        std::array::from_fn(|i| (i % 2) as u8),
        std::array::from_fn(|i| (i % 8) as u8),
        std::array::from_fn(|i| (i % 3) as u8),
        std::array::from_fn(|i| u8::from(i >= 96)),
        std::array::from_fn(|i| (i * 37 % 64) as u8),
        noise::<INDIR_LEN>(9).map(|b| b % 64),
    ]
}

#[test]
fn the_published_vectors_come_out() {
    let rss = Rss { indir: std::array::from_fn(|i| i as u8), ..Rss::default() };
    let program = program(&rss);
    // 66.9.149.187:2794 to 161.142.100.80:1766 has 0x51ccc178, without ports 0x323e8fc2.
    let flow = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
    assert_eq!(run(&program, ETH_P_IP, &packet4(&flow, 6, 0, 0)), 0x51cc_c178 & 127);
    assert_eq!(run(&program, ETH_P_IP, &packet4(&flow, 1, 0, 0)), 0x323e_8fc2 & 127);
}

#[test]
fn every_packet_goes_where_hash_and_table_say() {
    for (n, indir) in tables().into_iter().enumerate() {
        let rss = Rss { key: noise(n as u64 + 77), indir, symmetric: false, ..Rss::default() };
        let program = program(&rss);
        assert!(program.len() <= INSNS_MAX, "{}", program.len());
        let queue = |input: &[u8]| u32::from(indir[toeplitz(&rss.key, input) as usize % INDIR_LEN]);
        for seed in 0..200 {
            let v4: [u8; 12] = noise(seed);
            let proto = if seed % 2 == 0 { 6 } else { 17 };
            let options = (seed % 11) as usize;
            // Don't-fragment alone is no fragment.
            let packet = packet4(&v4, proto, 0x4000, options);
            assert_eq!(run(&program, ETH_P_IP, &packet), queue(&v4), "{seed}");
            for fragment in [0x2000, 0x0001, 0x3fff] {
                let packet = packet4(&v4, proto, fragment, options);
                assert_eq!(run(&program, ETH_P_IP, &packet), queue(&v4[..8]), "{seed}");
            }
            assert_eq!(run(&program, ETH_P_IP, &packet4(&v4, 47, 0, 0)), queue(&v4[..8]));
            let v6: [u8; 36] = noise(seed + 1000);
            assert_eq!(run(&program, ETH_P_IPV6, &packet6(&v6, proto)), queue(&v6), "{seed}");
            assert_eq!(run(&program, ETH_P_IPV6, &packet6(&v6, 44)), queue(&v6[..32]), "{seed}");
            assert_eq!(run(&program, 0x0806, &v4), u32::from(indir[0]));
        }
    }
}

#[test]
fn both_directions_of_a_flow_meet_if_asked() {
    let indir = std::array::from_fn(|i| (i * 37 % 64) as u8);
    let symmetric = program(&Rss { key: noise(5), indir, symmetric: true, ..Rss::default() });
    let plain = program(&Rss { key: noise(5), indir, symmetric: false, ..Rss::default() });
    let (mut seen, mut differ) = (std::collections::BTreeSet::new(), 0);
    for seed in 0..200 {
        let v4: [u8; 12] = noise(seed);
        let [a, b, c, d, e, f, g, h, i, j, k, l] = v4;
        let back = [e, f, g, h, a, b, c, d, k, l, i, j];
        let both = |p: &[Insn]| {
            [v4, back].map(|flow| run(p, ETH_P_IP, &packet4(&flow, 6, 0, (seed % 5) as usize)))
        };
        let [there, here] = both(&symmetric);
        assert_eq!(there, here);
        seen.insert(there);
        let [there, here] = both(&plain);
        differ += usize::from(there != here);
        let v6: [u8; 36] = noise(seed + 1000);
        let mut back = v6;
        back[..16].copy_from_slice(&v6[16..32]);
        back[16..32].copy_from_slice(&v6[..16]);
        back[32..].copy_from_slice(&[v6[34], v6[35], v6[32], v6[33]]);
        let [there, here] = [v6, back].map(|f| run(&symmetric, ETH_P_IPV6, &packet6(&f, 17)));
        assert_eq!(there, here);
    }
    assert!(seen.len() > 32 && differ > 150, "{} queues, {differ} differ", seen.len());
}

#[test]
fn packets_that_are_cut_off_go_somewhere() {
    let program = program(&Rss { indir: noise::<INDIR_LEN>(3).map(|b| b % 4), ..Rss::default() });
    let (v4, v6) = (packet4(&noise(1), 6, 0, 3), packet6(&noise(2), 17));
    for (proto, packet) in [(ETH_P_IP, v4), (ETH_P_IPV6, v6)] {
        for len in 0..packet.len() {
            assert!(run(&program, proto, &packet[..len]) < 4);
        }
    }
}

/// A packet of IPv6 with these extension headers before a transport header of 8 bytes.
fn extended(input: &[u8; 36], headers: &[(u8, Vec<u8>)], last: u8) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 4, headers.first().map_or(last, |h| h.0), 64];
    packet.extend_from_slice(&input[..32]);
    for (i, (_, body)) in headers.iter().enumerate() {
        packet.push(headers.get(i + 1).map_or(last, |h| h.0));
        packet.extend_from_slice(body);
    }
    packet.extend_from_slice(&input[32..]);
    packet.extend_from_slice(&[0; 4]);
    packet
}

/// Whatever is hashed and in whichever order, the kernel and the stack agree.
#[test]
fn the_stacks_own_hash_chooses_the_same_queue() {
    let fields = |bits: u64| HashFields {
        s: bits & 1 != 0,
        d: bits & 2 != 0,
        f: bits & 4 != 0,
        n: bits & 8 != 0,
    };
    let options = |eights: u8| [vec![eights], vec![1; 6 + 8 * eights as usize]].concat();
    let ah = |fours: u8| [vec![fours], vec![2; 6 + 4 * fours as usize]].concat();
    let fragment = |offset: u16| {
        let [a, b] = offset.to_be_bytes();
        vec![0, a, b, 1, 2, 3, 4]
    };
    let chains: Vec<Vec<(u8, Vec<u8>)>> = vec![
        vec![(0, options(0))],
        vec![(0, options(3)), (43, options(1)), (60, options(0))],
        vec![(51, ah(4))],
        vec![(44, fragment(0))],
        vec![(44, fragment(8))],
        vec![(44, fragment(1))],
        vec![(60, options(2)), (44, fragment(0)), (60, options(1)), (51, ah(1))],
        vec![(60, options(0)); 8],
        vec![(60, options(0)); 9],
    ];
    for seed in 0..48u64 {
        let rss = Rss {
            key: noise(seed + 5000),
            indir: noise::<INDIR_LEN>(seed + 6000).map(|b| b % 16),
            symmetric: seed % 2 == 1,
            fields: [0, 4, 8, 12].map(|shift| {
                if seed < 4 {
                    HashFields::ALL
                } else {
                    fields(u64::from(noise::<2>(seed)[1]) * 31 / (1 << shift))
                }
            }),
        };
        let (program, hasher) = (program(&rss), rss.hasher());
        assert!(program.len() <= INSNS_MAX, "{}", program.len());
        let check = |proto: u32, packet: &[u8]| {
            let queue = rss.queue_of(hasher.of_frame(packet, false));
            assert_eq!(run(&program, proto, packet), u32::from(queue), "{seed} {packet:?} {rss:?}");
        };
        for n in 0..20 {
            let mut v4: [u8; 12] = noise(seed * 100 + n);
            let mut v6: [u8; 36] = noise(seed * 100 + n);
            if n % 4 == 0 {
                // Ends that differ late, or not at all.
                v4.copy_within(0..4, 4);
                v6.copy_within(0..15, 16);
            }
            if n % 8 == 0 {
                v6[31] = v6[15];
            }
            for proto in [6, 17, 1, 132] {
                check(ETH_P_IP, &packet4(&v4, proto, 0, (n % 11) as usize));
                check(ETH_P_IPV6, &packet6(&v6, proto));
                for chain in &chains {
                    check(ETH_P_IPV6, &extended(&v6, chain, proto));
                }
            }
            check(ETH_P_IP, &packet4(&v4, 17, 0x2000, 0));
        }
    }
}

/// Goal: rules go before the table, the lowest location first, whatever of a flow they name; and a rule
/// that can not be is refused without a change.
#[test]
fn rules_go_before_the_table() {
    use linerate_core::rx::steer::ntuple;
    let rss = Rss { key: noise(3), indir: [0; INDIR_LEN], ..Rss::default() };
    let mut steering = Steering::new(rss.clone());
    let mut loaded = Vec::new();
    let set = |steering: &mut Steering, loaded: &mut Vec<Insn>, location, spec: Option<&str>| {
        let rule = spec.map(|s| ntuple::parse(s).expect("a rule").1);
        steering.set_rule(1, location, rule.as_ref(), |program| {
            *loaded = program.to_vec();
            Ok(())
        })
    };
    let flow = [10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0, 53];
    let specs = [
        (9, "flow-type udp4 dst-port 53 action 3"),
        (4, "flow-type udp4 src-ip 10.0.0.1 dst-ip 10.0.0.2 src-port 8080 dst-port 53 action 5"),
        (7, "flow-type tcp4 src-ip 10.0.0.1 action 6"),
        (8, "flow-type tcp6 dst-port 443 action 7"),
    ];
    for (location, spec) in specs {
        set(&mut steering, &mut loaded, location, Some(spec)).expect("it is taken");
    }
    let queue = |loaded: &[Insn], packet: &[u8]| run(loaded, ETH_P_IP, packet);
    assert_eq!(queue(&loaded, &packet4(&flow, 17, 0, 0)), 5, "the lowest location");
    let other = [10, 0, 0, 9, 10, 0, 0, 2, 0x1f, 0x90, 0, 53];
    assert_eq!(queue(&loaded, &packet4(&other, 17, 0, 8)), 3, "behind options, too");
    assert_eq!(queue(&loaded, &packet4(&flow, 6, 0, 0)), 6);
    assert_eq!(queue(&loaded, &packet4(&other, 6, 0, 0)), 0, "the table's");
    assert_eq!(queue(&loaded, &packet4(&flow, 17, 0x2000, 0)), 0, "a fragment shows no ports");
    let mut v6: [u8; 36] = noise(5);
    v6[34..].copy_from_slice(&443u16.to_be_bytes());
    assert_eq!(run(&loaded, ETH_P_IPV6, &packet6(&v6, 6)), 7);
    assert_eq!(run(&loaded, ETH_P_IPV6, &packet6(&v6, 17)), 0);

    set(&mut steering, &mut loaded, 4, None).expect("it is taken out");
    assert_eq!(queue(&loaded, &packet4(&flow, 17, 0, 0)), 3);
    let before = loaded.clone();
    let drop = set(&mut steering, &mut loaded, 1, Some("flow-type udp4 action -1"));
    assert!(drop.is_err_and(|e| e.to_string().contains("can not drop")));
    let mut full = None;
    for location in 100..1000 {
        let spec = format!("flow-type tcp6 dst-ip fd00::{location:x} dst-port 80 action 1");
        if let Err(e) = set(&mut steering, &mut loaded, location, Some(&spec)) {
            full = Some(e);
            break;
        }
    }
    assert_eq!(full.and_then(|e| e.raw_os_error()), Some(libc::ENOSPC));
    assert!(loaded.len() <= INSNS_MAX && loaded.len() > before.len());
    // Rules of a queue's own stand beside those of another.
    let flow_rule = ntuple::parse("flow-type udp4 action 1").expect("a rule").1;
    let mut steering = Steering::new(rss);
    for queue in [0, 1] {
        let set = steering.set_rule(queue, OWN_LOCATIONS, Some(&flow_rule), |_| Ok(()));
        set.expect("it is taken");
    }
    steering.set_rule(0, OWN_LOCATIONS, None, |_| Ok(())).expect("it is taken out");
    assert_eq!(steering.rules.len(), 1);
}
