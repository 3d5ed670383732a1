//! Objects, whole and damaged.

use super::*;
use crate::vm::{Action, Env, Packet, Redirect, Vm};

const DROP: &[u8] = include_bytes!("../../tests/objects/drop.o");
const BALANCE: &[u8] = include_bytes!("../../tests/objects/balance.o");
const PARTS: &[u8] = include_bytes!("../../tests/objects/parts.o");
const RATE: &[u8] = include_bytes!("../../tests/objects/rate.o");
const REWRITE: &[u8] = include_bytes!("../../tests/objects/rewrite.o");
const SAMPLE: &[u8] = include_bytes!("../../tests/objects/sample.o");
const ALL: [&[u8]; 6] = [DROP, BALANCE, PARTS, RATE, REWRITE, SAMPLE];

fn load(bytes: &[u8], name: Option<&str>) -> Vm {
    let object = Object::parse(bytes).unwrap_or_else(|err| panic!("it is whole: {err}"));
    let program = object.load(name, 2).unwrap_or_else(|err| panic!("{name:?} is fine: {err}"));
    Vm::new(program, 0, 1)
}

fn refused(bytes: &[u8], name: Option<&str>) -> String {
    match Object::parse(bytes).and_then(|object| object.load(name, 2)) {
        Ok(_) => "fine".to_owned(),
        Err(err) => err.to_string(),
    }
}

/// Runs it over a frame of 80 bytes that begins like this.
fn run(vm: &mut Vm, begin: &[u8]) -> Action {
    let mut memory = [0; 400];
    memory[256..256 + begin.len()].copy_from_slice(begin);
    let env = Env { now: 1_000, ifindex: 3, queue: 0, fib: None };
    vm.xdp(&mut Packet::new(&mut memory, 256, 336), env)
}

#[test]
fn programs_are_found_by_section_and_function() {
    let names: Vec<_> = Object::parse(PARTS).expect("whole").names();
    let names: Vec<_> = names.iter().map(|(s, n)| (s.as_str(), n.as_str())).collect();
    assert_eq!(
        (names.len(), names[0], names[1]),
        (7, ("xdp/whole", "whole"), ("xdp/loop", "looping"))
    );
    for name in [None, Some("xdp"), Some("drop_list")] {
        let vm = load(DROP, name);
        assert_eq!((vm.program().name(), vm.program().section()), ("drop_list", "xdp"));
        assert_eq!(vm.program().license(), "MIT");
    }
    assert_eq!(load(PARTS, Some("xdp/whole")).program().name(), "whole");
    assert_eq!(
        refused(PARTS, None),
        "it has several programs; name one of them: whole, looping, second, third, first, \
         forward, lacking"
    );
    let other = refused(REWRITE, Some("xdp/other"));
    assert_eq!(
        other,
        "it has no section or program xdp/other; it has: xdp/wrap (wrap), xdp/unwrap (unwrap), \
         xdp/mark (mark), xdp.frags/cut (cut)"
    );
    assert_eq!(
        refused(PARTS, Some("lacking")),
        "program lacking: instruction 0: helper 35 (bpf_get_current_task) is not provided here"
    );
}

#[test]
fn maps_are_as_they_were_declared() {
    let vm = load(DROP, None);
    let say = |m: &std::sync::Arc<crate::maps::Map>| {
        let def = m.def();
        format!("{} {} {} {} {}", def.name, def.kind, def.key_size, def.value_size, def.max_entries)
    };
    let mut maps: Vec<String> = vm.program().maps().iter().map(say).collect();
    maps.sort();
    assert_eq!(
        maps,
        ["drop4 lpm_trie 8 8 1000", "drop6 lpm_trie 20 8 1000", "seen percpu_array 4 8 3"]
    );
    let vm = load(SAMPLE, None);
    let mut maps: Vec<String> = vm.program().maps().iter().map(say).collect();
    maps.sort();
    let want = [".bss array 4 8 1", "events perf_event_array 4 4 2", "samples ringbuf 0 0 65536"];
    assert_eq!(maps, want);
}

/// Goal: variables, constants, functions of other sections, callbacks: all are where they belong.
#[test]
fn parts_come_together() {
    let mut vm = load(PARTS, Some("whole"));
    let bytes = [5, 1, 2, 3, 4, 5, 6, 7];
    assert_eq!(run(&mut vm, &bytes), Action::Tx, "5 is clamped to 3");
    assert_eq!(run(&mut vm, &[2; 8]), Action::Pass);
    let value =
        |vm: &Vm, name: &str| vm.program().map(name).expect(name).get(&[0; 4]).expect("one");
    assert_eq!(value(&vm, ".data"), [43u32.to_le_bytes()]);
    let weigh = |bytes: &[u8]| -> u64 {
        bytes.iter().zip([3, 5, 7, 11].iter().cycle()).map(|(b, w)| u64::from(*b) * w).sum()
    };
    let total = weigh(&bytes) + weigh(&[2; 8]);
    let bss = value(&vm, ".bss").remove(0);
    assert!(bss.windows(8).any(|w| w == total.to_le_bytes()), "{bss:?} has {total}");
    assert_eq!(vm.program().faults(), (0, None));

    // The loop stops in its tenth call, with the sum of the squares to 9.
    let mut vm = load(PARTS, Some("looping"));
    assert_eq!(run(&mut vm, &[]), Action::Pass);
    let bss = value(&vm, ".bss").remove(0);
    assert!(bss.windows(8).any(|w| w == 295u64.to_le_bytes()), "{bss:?}");
}

#[test]
fn tail_calls_go_where_the_object_says() {
    let mut vm = load(PARTS, Some("first"));
    assert_eq!(run(&mut vm, &[0]), Action::Drop, "none is at 0");
    assert_eq!(run(&mut vm, &[1]), Action::Pass);
    assert_eq!(run(&mut vm, &[3]), Action::Tx);
    assert_eq!(vm.program().drain_lines(), ["second: 80 bytes"]);
    assert_eq!(
        vm.program().map(".data").expect("data").get(&[0; 4]),
        Some(vec![vec![141, 0, 0, 0]])
    );
}

#[test]
fn forwarding_follows_the_map() {
    let mut vm = load(PARTS, Some("forward"));
    assert_eq!(run(&mut vm, &[2]), Action::Pass);
    vm.program().map("ports").expect("ports").set(&[2, 0, 0, 0], &[&[7, 0, 0, 0]], 0).expect("set");
    assert_eq!(run(&mut vm, &[2]), Action::Redirect(Redirect::Dev(7)));
}

/// Goal: the rate limiter lets a burst pass, and then its rate, by the clock that it is given.
#[test]
fn a_rate_is_kept_by_the_clock() {
    let mut vm = load(RATE, None);
    let mut frame = [0; 400];
    (frame[268], frame[269], frame[285]) = (8, 0, 77);
    let mut at = |now| {
        let env = Env { now, ifindex: 1, queue: 0, fib: None };
        vm.xdp(&mut Packet::new(&mut frame, 256, 336), env) == Action::Pass
    };
    assert_eq!((0..20).filter(|_| at(1_000_000)).count(), 8, "the burst");
    // One packet a millisecond; asked ten times in each.
    let passed = (0..1000u64).filter(|n| at(1_000_000 + n * 100_000)).count();
    assert!((98..=101).contains(&passed), "{passed} in 100 ms at 1000 a second");
}

#[test]
fn what_is_no_object_is_told() {
    assert!(refused(b"", None).starts_with("it is no ELF file; an object for eBPF is made by"));
    assert!(refused(b"#!/bin/sh\n", None).contains("no ELF file"));
    let other = |at: usize, byte: u8| {
        let mut bytes = DROP.to_vec();
        bytes[at] = byte;
        refused(&bytes, None)
    };
    assert!(other(18, 62).contains("an object of another machine"));
    assert!(other(16, 2).contains("no relocatable object"));
    assert!(other(5, 2).contains("big-endian"));
    assert!(other(4, 1).contains("no 64-bit object"));
    // This test is an ELF file too.
    let own = std::fs::read(std::env::current_exe().expect("a path")).expect("readable");
    let own = refused(&own, None);
    assert!(own.contains("another machine") || own.contains("MiB; objects have 16"), "{own}");
    let mut none = DROP.to_vec();
    let at = none.windows(8).position(|w| w == b".relxdp\0").expect("the section's name");
    none[at + 4] = b'q';
    let said = refused(&none, None);
    assert!(said.starts_with("it has no XDP program") && said.contains(".maps"), "{said}");
}

/// Goal: a file cut short at any byte is an error or a program, and never a panic.
#[test]
fn files_may_be_cut_short() {
    for bytes in ALL {
        for len in 0..bytes.len() {
            if let Ok(object) = Object::parse(&bytes[..len]) {
                for (_, name) in object.names() {
                    let _ = object.load(Some(&name), 1);
                }
            }
        }
    }
}

/// Goal: a file that lies in a byte, or in several, is an error or a program that runs within bounds.
#[test]
fn files_may_lie() {
    let mut numbers = crate::maps::tests::Numbers(11);
    let mut loaded = 0;
    for bytes in ALL {
        for at in 0..bytes.len() {
            let mut bytes = bytes.to_vec();
            for _ in 0..=numbers.below(3) {
                let byte =
                    if at < bytes.len() { at } else { numbers.below(bytes.len() as u64) as usize };
                bytes[byte] = [0, 0xff, 0x80, numbers.next() as u8][numbers.below(4) as usize];
            }
            let Ok(object) = Object::parse(&bytes) else { continue };
            for (_, name) in object.names() {
                // Maps may be huge, by a lie, within what programs may have: not made here.
                let Ok(source) = object.source(Some(&name)) else { continue };
                let memory = |m: &crate::prog::MapSource| m.def.memory(1);
                if source.maps.iter().map(memory).fold(0, u64::saturating_add) > 4 << 20 {
                    continue;
                }
                if let Ok(program) = Program::load(source, 1) {
                    loaded += 1;
                    run(&mut Vm::new(program, 0, 1).limit(10_000), &[3; 60]);
                }
            }
        }
    }
    assert!(loaded > 1000, "{loaded} were whole enough to run");
}
