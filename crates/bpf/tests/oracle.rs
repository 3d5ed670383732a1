//! The kernel is the judge: what it makes of a packet by a program, our machine makes of it, too, and
//! leaves the same in the maps.
//!
//! Method: an object is linked by us, and loaded twice, into the kernel (relocations are ours there,
//! too) and into our machine. Both get the same packets, from captures and made at random; what is
//! returned, the packet afterwards and, in the end, the maps are compared. Then programs of random
//! instructions that the verifier accepts. It needs CAP_BPF and CAP_NET_ADMIN.

use std::collections::BTreeMap;
use std::sync::Arc;

use linerate_bpf::Insn;
use linerate_bpf::insn::code::{EXIT, LD_IMM64, PSEUDO_MAP, PSEUDO_MAP_VALUE};
use linerate_bpf::maps::{Kind, Map, MapDef};
use linerate_bpf::object::Object;
use linerate_bpf::prog::{MapSource, Program, Source};
use linerate_bpf::sys;
use linerate_bpf::vm::{Env, Packet, Vm};

/// Said past the capture of test output: a skip must be seen. With `LINERATE_SKIP=deny`, as in
/// `.ci/run`, the test fails.
fn skip(test: &str, why: &str) {
    assert!(std::env::var("LINERATE_SKIP").as_deref() != Ok("deny"), "SKIP {test}: {why}");
    use std::io::Write;
    let _ = writeln!(std::io::stderr(), "SKIP {test}: {why}");
}

/// Whether the kernel takes programs from us.
fn allowed(test: &str) -> bool {
    let def = array("probe", 8);
    match sys::Map::create_as(&def) {
        Ok(_) => true,
        Err(err) => {
            skip(test, &format!("bpf(2) says: {err}"));
            false
        }
    }
}

fn array(name: &str, value_size: u32) -> MapDef {
    let name = name.to_owned();
    MapDef { name, kind: Kind::Array, key_size: 4, value_size, max_entries: 1, flags: 0 }
}

/// The same numbers each time.
struct Numbers(u64);
impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695);
        let x = self.0 ^ self.0 >> 29;
        x.wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ x >> 32
    }
    fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 8) % n
    }
}

/// A program in both machines, and the maps of both by name.
struct Both {
    prog: sys::Prog,
    vm: Vm,
    theirs: Theirs,
}

type Theirs = BTreeMap<String, sys::Map>;

/// Loads a program into the kernel, with maps that are there already or are made.
fn load(source: &Source, theirs: &mut Theirs) -> sys::Prog {
    for map in &source.maps {
        if theirs.contains_key(&map.def.name) {
            continue;
        }
        let mut def = map.def.clone();
        if def.kind == Kind::PerfEventArray {
            def.max_entries = sys::possible_cpus().expect("sysfs tells") as u32;
        }
        let made = sys::Map::create_as(&def).unwrap_or_else(|err| panic!("{def:?}: {err}"));
        for (key, value) in map.entries.iter().filter(|_| def.kind != Kind::ProgArray) {
            made.update(key, value).unwrap_or_else(|err| panic!("{def:?}: {err}"));
        }
        theirs.insert(def.name.clone(), made);
    }
    // What may be tail-called lies behind; there each is a program of its own.
    let end = source.entries.iter().min().copied().unwrap_or(source.insns.len());
    let number = |map: usize| theirs[&source.maps[map].def.name].number();
    let mut insns = source.insns[..end].to_vec();
    for insn in &mut insns {
        if insn.code == LD_IMM64 && matches!(insn.src(), PSEUDO_MAP | PSEUDO_MAP_VALUE) {
            *insn = insn.with_imm(number(insn.imm as usize));
        }
    }
    let frags = source.section.starts_with("xdp.frags");
    sys::Prog::load_licensed(&insns, &source.name, &source.license, frags)
        .unwrap_or_else(|err| panic!("{}: {}: {}", source.name, err.source, err.log))
}

impl Both {
    fn new(source: Source) -> Both {
        let mut theirs = Theirs::new();
        let prog = load(&source, &mut theirs);
        let program = Program::load(source, 1).unwrap_or_else(|err| panic!("ours: {err}"));
        Both { prog, vm: Vm::new(program, 0, 1), theirs }
    }
    fn of(object: &[u8], name: &str) -> Both {
        Both::new(source(object, name))
    }
    fn map(&self, name: &str) -> &Arc<Map> {
        self.vm.program().map(name).expect("the program has this map")
    }
    /// Sets an entry of both.
    fn set(&self, map: &str, key: &[u8], value: &[u8]) {
        self.map(map).set(key, &[value], 0).expect("ours takes it");
        self.theirs[map].update(key, value).expect("theirs takes it");
    }

    /// Runs both over a frame; what they returned.
    fn run(&mut self, frame: &[u8]) -> u32 {
        let theirs = self.prog.run(frame).expect("the kernel runs it");
        let mut memory = vec![0; 4096];
        memory[256..256 + frame.len()].copy_from_slice(frame);
        // The kernel keeps 40 bytes in front for itself, and 320 behind.
        let mut packet = Packet::new(&mut memory, 256, 256 + frame.len()).within(40, 4096 - 320);
        let env = Env { now: 1_000_000_000, ifindex: 1, queue: 0, fib: None };
        let (returned, _) = self.vm.run(&mut packet, env).unwrap_or_else(|err| {
            panic!("the kernel returned {}, ours did not: {err}; {frame:02x?}", theirs.returned)
        });
        let (start, end) = (packet.meta(), packet.end());
        assert_eq!(returned, theirs.returned, "returned for {frame:02x?}");
        assert_eq!(memory[start..end], theirs.data, "made of {frame:02x?}");
        returned
    }

    /// Compares what is in the maps of both; sums over processors of percpu maps. `cut` makes of a
    /// value what is to be compared.
    fn compare(&self, cut: impl Fn(&str, Vec<u8>) -> Vec<u8>) -> usize {
        let mut compared = 0;
        for map in self.vm.program().maps() {
            let def = map.def();
            let name = def.name.as_str();
            use Kind::{Devmap, PerfEventArray, ProgArray, Ringbuf};
            if matches!(def.kind, Devmap | PerfEventArray | ProgArray | Ringbuf) {
                continue;
            }
            for (key, values) in map.entries(100_000) {
                let theirs = self.theirs[name].lookup(&key).expect("it is readable");
                let theirs = theirs.unwrap_or_else(|| panic!("{name}: theirs lacks {key:02x?}"));
                let ours = if def.kind.is_percpu() { sum(&values) } else { values[0].clone() };
                let theirs = if def.kind.is_percpu() {
                    sum(&theirs.chunks(8).map(<[u8]>::to_vec).collect::<Vec<_>>())
                } else {
                    theirs
                };
                assert_eq!(cut(name, ours), cut(name, theirs), "{name} at {key:02x?}");
                compared += 1;
            }
        }
        compared
    }
}

/// The sum of 64-bit values.
fn sum(values: &[Vec<u8>]) -> Vec<u8> {
    let number = |v: &Vec<u8>| u64::from_le_bytes(v[..8].try_into().expect("8 bytes"));
    values.iter().map(number).sum::<u64>().to_le_bytes().to_vec()
}

fn source(object: &[u8], name: &str) -> Source {
    let object = Object::parse(object).unwrap_or_else(|err| panic!("it is whole: {err}"));
    object.source(Some(name)).unwrap_or_else(|err| panic!("{name}: {err}"))
}

/// Frames of the captures: Ethernet, short enough for a page.
fn captured() -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut dirs =
        vec![std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../lab/data/captures")];
    while let Some(dir) = dirs.pop() {
        let entries = std::fs::read_dir(&dir).expect("the captures are there");
        let mut paths: Vec<_> = entries.map(|e| e.expect("readable").path()).collect();
        paths.sort();
        for path in paths {
            if path.is_dir() {
                dirs.push(path);
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            // Little-endian, in microseconds, of Ethernet.
            if !bytes.starts_with(&[0xd4, 0xc3, 0xb2, 0xa1]) || bytes.get(20) != Some(&1) {
                continue;
            }
            let mut rest = bytes.get(24..).unwrap_or_default();
            while let Some((head, after)) = rest.split_first_chunk::<16>() {
                let len = u32::from_le_bytes([head[8], head[9], head[10], head[11]]) as usize;
                let Some(frame) = after.get(..len) else { break };
                if (14..=1600).contains(&len) {
                    frames.push(frame.to_vec());
                }
                rest = &after[len..];
            }
        }
    }
    assert!(frames.len() > 500, "{} frames are enough", frames.len());
    frames.truncate(3000);
    frames
}

/// Frames of TCP and UDP over IPv4, from and to few addresses, some cut short or damaged.
fn made(numbers: &mut Numbers, count: usize) -> Vec<Vec<u8>> {
    let make = |_| {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0, 0x45, 0];
        let payload = numbers.below(100) as usize;
        let proto = [6u8, 17, 1][numbers.below(3) as usize];
        frame.extend([0, 40 + payload as u8, 0, 1, 0x40, 0, 64, proto, 0xaa, 0xbb]);
        frame.extend([10, 0, 0, numbers.below(20) as u8, 10, 0, 1, numbers.below(4) as u8]);
        frame.extend([4, numbers.below(256) as u8, 0, [53, 80][numbers.below(2) as usize]]);
        frame.extend((0..16 + payload).map(|_| numbers.next() as u8));
        match numbers.below(10) {
            0 => frame.truncate(14 + numbers.below(40) as usize),
            1 => {
                let at = numbers.below(frame.len() as u64) as usize;
                frame[at] ^= 1 << numbers.below(8);
            }
            _ => {}
        }
        frame
    };
    (0..count).map(make).collect()
}

fn frames() -> Vec<Vec<u8>> {
    let mut frames = captured();
    frames.extend(made(&mut Numbers(5), 2000));
    frames
}

const DROP: &[u8] = include_bytes!("objects/drop.o");
const RATE: &[u8] = include_bytes!("objects/rate.o");
const BALANCE: &[u8] = include_bytes!("objects/balance.o");
const REWRITE: &[u8] = include_bytes!("objects/rewrite.o");
const SAMPLE: &[u8] = include_bytes!("objects/sample.o");
const PARTS: &[u8] = include_bytes!("objects/parts.o");

fn drop_list(object: &[u8]) {
    let mut both = Both::of(object, "drop_list");
    let mut numbers = Numbers(1);
    for frame in frames().iter().step_by(3) {
        // Sources of the packets themselves, by prefixes of any length.
        let len4 = (12 + numbers.below(21) as u32).to_le_bytes();
        let len6 = (20 + numbers.below(109) as u32).to_le_bytes();
        if numbers.below(10) == 0 && frame.len() > 54 && both.map("drop4").len() < 900 {
            both.set("drop4", &[&len4[..], &frame[26..30]].concat(), &[0; 8]);
            both.set("drop6", &[&len6[..], &frame[22..38]].concat(), &[0; 8]);
        }
    }
    let said: Vec<u32> = frames().iter().map(|f| both.run(f)).collect();
    assert!([1, 2].iter().all(|v| said.iter().filter(|s| *s == v).count() > 100), "both happen");
    assert!(both.compare(|_, v| v) > 10);
    // What is taken out is gone for both; then they differ in nothing again.
    for (key, _) in both.map("drop4").entries(1000).iter().step_by(2) {
        both.map("drop4").remove(key).expect("it is there");
        both.theirs["drop4"].delete(key).expect("deleted");
    }
    frames().iter().for_each(|f| _ = both.run(f));
    both.compare(|_, v| v);
}

#[test]
fn drop_list_agrees() {
    if allowed("drop_list_agrees") {
        drop_list(DROP);
    }
}

fn balance(object: &[u8]) {
    let mut both = Both::of(object, "balance");
    for (port, proto) in [(53u8, 17u8), (80, 6), (80, 17)] {
        for last in 0..3u8 {
            let key = [10, 0, 1, last, 0, port, proto, 0];
            let (first, count) = (u32::from(port), u32::from(last) * 3);
            let value = [first.to_le_bytes(), count.to_le_bytes()].concat();
            both.set("services", &key, &value);
        }
    }
    for n in 0..256u32 {
        let value = [192, 168, 0, n as u8, 2, 0, 0, 0, 1, n as u8, 0, 0];
        both.set("backends", &n.to_le_bytes(), &value);
    }
    let said: Vec<u32> = frames().iter().map(|f| both.run(f)).collect();
    assert!([2, 3].iter().all(|v| said.iter().filter(|s| *s == v).count() > 100), "both happen");
    assert!(both.map("flows").len() > 100);
    both.compare(|_, v| v);
}

#[test]
fn load_balancer_agrees() {
    if allowed("load_balancer_agrees") {
        balance(BALANCE);
    }
}

fn rewrite(object: &[u8]) {
    for name in ["wrap", "unwrap", "mark", "cut"] {
        let mut both = Both::of(object, name);
        let mut changed = 0;
        for frame in frames() {
            both.run(&frame);
            if name == "unwrap" && frame.len() > 40 {
                // As a tunnel has it.
                let mut tunnel = frame[..34].to_vec();
                tunnel[12..14].copy_from_slice(&[8, 0]);
                tunnel[23] = 4;
                tunnel.extend(&frame[14..]);
                both.run(&tunnel);
            }
            changed += 1;
        }
        assert!(changed > 1000, "{name}");
    }
}

#[test]
fn rewriting_agrees() {
    if allowed("rewriting_agrees") {
        rewrite(REWRITE);
    }
}

/// Time is not the same in both: nothing is earned here, at a rate of zero; that it is by our clock
/// is tested beside the object.
fn rate(object: &[u8]) {
    let mut source = source(object, "rate_limit");
    let constants = source.maps.iter_mut().find(|m| m.def.name == ".rodata").expect("constants");
    let value = &mut constants.entries[0].1;
    let at = value.chunks(8).position(|v| v == 1000u64.to_le_bytes()).expect("the rate") * 8;
    value[at..at + 8].fill(0);
    let mut both = Both::new(source);
    let said: Vec<u32> = frames().iter().map(|f| both.run(f)).collect();
    assert!([1, 2].iter().all(|v| said.iter().filter(|s| *s == v).count() > 100), "both happen");
    // Of a bucket, the tokens; the rest is the time.
    both.compare(|name, mut value| {
        value.truncate(if name == "buckets" { 8 } else { 999 });
        value
    });
}

#[test]
fn rate_limiter_agrees() {
    if allowed("rate_limiter_agrees") {
        rate(RATE);
    }
}

fn sample(object: &[u8]) {
    let mut both = Both::of(object, "sample");
    let all = frames();
    // More than the ring has room for: it is full after as many in both.
    for frame in all.iter().chain(&all) {
        both.run(frame);
    }
    both.compare(|_, v| v);
    let records = both.map("samples").drain(100_000);
    // Beside those lie the ones that were discarded, for frames that are too short.
    assert!((1200..=65_535 / 48).contains(&records.len()), "{} fit", records.len());
    // The first record is of the first frame, the second of the fifth.
    for (record, frame) in records.iter().zip(all.iter().step_by(4)).take(3) {
        assert_eq!(record.data[4..8], (frame.len() as u32).to_le_bytes());
        assert_eq!(record.data[8..40], frame[..32]);
    }
    let events = both.map("events").drain(100_000);
    assert_eq!(events[0].data, [&[1, 0, 0, 0], &all[1][..20]].concat());
}

#[test]
fn sampling_agrees() {
    if allowed("sampling_agrees") {
        sample(SAMPLE);
    }
}

fn parts(object: &[u8]) {
    let mut both = Both::of(object, "whole");
    frames().iter().for_each(|f| _ = both.run(f));
    both.compare(|_, v| v);

    let mut both = Both::of(object, "forward");
    both.set("ports", &[2, 0, 0, 0], &[1, 0, 0, 0]);
    let said: Vec<u32> = frames().iter().map(|f| both.run(f)).collect();
    assert!([2, 4].iter().all(|v| said.contains(v)), "both happen");

    let mut both = Both::of(object, "first");
    // Here the kernel is given the programs one by one; they share what they have by name.
    let others = ["second", "third"].map(|name| load(&source(object, name), &mut both.theirs));
    for (index, prog) in [(1u32, &others[0]), (3, &others[1])] {
        let value = prog.number().to_le_bytes();
        both.theirs["next"].update(&index.to_le_bytes(), &value).expect("set");
    }
    let said: Vec<u32> = frames().iter().map(|f| both.run(f)).collect();
    assert!([1, 2, 3].iter().all(|v| said.contains(v)), "all happen");
    both.compare(|_, v| v);
    assert!(both.vm.program().drain_lines().len() > 10);
}

#[test]
fn parts_agree() {
    if allowed("parts_agree") {
        parts(PARTS);
    }
}

/// The sources beside the objects, compiled by the clang of this machine, behave as the objects do:
/// `cargo test -p linerate-bpf --test oracle -- --ignored`. The objects are made by
/// `clang -O2 -g -target bpf -mcpu=v3 -ffile-prefix-map=$PWD/= -c NAME.c && llvm-strip -g NAME.o`, `drop.o` with `-mcpu=v1`.
#[test]
#[ignore = "it needs clang and CAP_BPF"]
fn sources_agree_with_the_kernel() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/objects");
    let make = |name: &str, cpu: &str| {
        let out = std::env::temp_dir().join(format!("linerate-{}-{name}.o", std::process::id()));
        let mut clang = std::process::Command::new("clang");
        clang.args(["-O2", "-g", "-target", "bpf", "-Wno-address-of-packed-member"]);
        let done = clang.arg(cpu).arg("-c").arg(dir.join(format!("{name}.c"))).arg("-o").arg(&out);
        assert!(done.status().expect("clang is installed").success(), "{name}.c compiles");
        let bytes = std::fs::read(&out).expect("clang wrote it");
        std::fs::remove_file(&out).expect("it is ours");
        bytes
    };
    for cpu in ["-mcpu=v2", "-mcpu=v3"] {
        drop_list(&make("drop", cpu));
        rate(&make("rate", cpu));
        balance(&make("balance", cpu));
        rewrite(&make("rewrite", cpu));
    }
    sample(&make("sample", "-mcpu=v3"));
    parts(&make("parts", "-mcpu=v3"));
}

/// An instruction on the registers r0 to r8 that is defined for all values.
fn operation(numbers: &mut Numbers) -> Insn {
    let (dst, src) = (numbers.below(9) as u8, numbers.below(9) as u8);
    let wide = numbers.below(2) as u8;
    let class = [4, 7][wide as usize];
    let imm = match numbers.below(4) {
        0 => numbers.next() as i32,
        1 => i32::MIN >> numbers.below(32),
        2 => numbers.below(16) as i32 - 8,
        _ => 1 << numbers.below(31),
    };
    let shift = numbers.below(if wide == 1 { 64 } else { 32 }) as i32;
    // ADD, SUB, MUL, DIV, OR, AND, LSH, RSH, NEG, MOD, XOR, MOV, ARSH, END.
    let name = (numbers.below(14) as u8) << 4;
    let by_reg = numbers.below(2) == 1;
    match name {
        0x80 => Insn::new(name | class, dst, 0, 0, 0),
        0xd0 => {
            let bits = [16, 32, 64][numbers.below(3) as usize];
            let code = [0xd4, 0xdc, 0xd7][numbers.below(3) as usize];
            Insn::new(code, dst, 0, 0, bits)
        }
        0x30 | 0x90 => {
            let signed = numbers.below(2) as i16;
            match by_reg {
                true => Insn::new(name | class | 8, dst, src, signed, 0),
                false => Insn::new(name | class, dst, 0, signed, if imm == 0 { 3 } else { imm }),
            }
        }
        0xb0 if by_reg => {
            let off = [0, 8, 16, 32][numbers.below(3 + u64::from(wide)) as usize];
            Insn::new(name | class | 8, dst, src, off, 0)
        }
        0x60 | 0x70 | 0xc0 if !by_reg => Insn::new(name | class, dst, 0, 0, shift),
        _ if by_reg => Insn::new(name | class | 8, dst, src, 0, 0),
        _ => Insn::new(name | class, dst, 0, 0, imm),
    }
}

/// A conditional jump over a few instructions.
fn jump(numbers: &mut Numbers, over: i16) -> Insn {
    let names = [0x10, 0x20, 0x30, 0x40, 0x50, 0x60, 0x70, 0xa0, 0xb0, 0xc0, 0xd0];
    let name = names[numbers.below(11) as usize];
    let class = [5, 6][numbers.below(2) as usize];
    let (dst, src) = (numbers.below(9) as u8, numbers.below(9) as u8);
    match numbers.below(2) {
        0 => Insn::new(name | class | 8, dst, src, over, 0),
        _ => Insn::new(name | class, dst, 0, over, numbers.next() as i32),
    }
}

/// A load, a store or an atomic operation on the 64 bytes of stack below r10-80.
fn memory(numbers: &mut Numbers) -> Insn {
    let reg = numbers.below(9) as u8;
    let size = numbers.below(4) as usize;
    let (bits, bytes) = ([0x10, 0x08, 0x00, 0x18][size], [1i16, 2, 4, 8][size]);
    let at = |numbers: &mut Numbers, n: i16| -144 + n * numbers.below(64 / n as u64) as i16;
    match numbers.below(5) {
        0 => Insn::new(0x61 | bits, reg, 10, at(numbers, bytes), 0),
        1 if size < 3 => Insn::new(0x81 | bits, reg, 10, at(numbers, bytes), 0),
        2 => Insn::new(0x63 | bits, 10, reg, at(numbers, bytes), 0),
        3 => Insn::new(0x62 | bits, 10, 0, at(numbers, bytes), numbers.next() as i32),
        _ => {
            let wide = numbers.below(2) as usize;
            let whats = [0, 0x40, 0x50, 0xa0, 1, 0x41, 0x51, 0xa1, 0xe1, 0xf1];
            let what = whats[numbers.below(10) as usize];
            Insn::new([0xc3, 0xdb][wide], 10, reg, at(numbers, [4, 8][wide]), what)
        }
    }
}

/// A program of random instructions: it takes its numbers from the packet, and leaves all registers
/// and the stack that it used in a map.
fn random(numbers: &mut Numbers) -> Vec<Insn> {
    let mut out = vec![
        Insn::new(0x61, 9, 1, 0, 0),
        Insn::new(0x61, 2, 1, 4, 0),
        Insn::new(0xbf, 3, 9, 0, 0),
        Insn::new(0x07, 3, 0, 0, 80),
        // Shorter packets are for others.
        Insn::new(0xbd, 3, 2, 2, 0),
        Insn::new(0xb7, 0, 0, 0, 1),
        Insn::new(EXIT, 0, 0, 0, 0),
    ];
    (0..8).for_each(|i| out.push(Insn::new(0x7a, 10, 0, -144 + 8 * i, i as i32 - 3)));
    (0..9).for_each(|r| out.push(Insn::new(0x79, r, 9, i16::from(r) * 8, 0)));
    let mut left = 5 + numbers.below(60);
    while left > 0 {
        left -= 1;
        match numbers.below(8) {
            0 if left > 4 => {
                let over = 1 + numbers.below(3);
                out.push(jump(numbers, over as i16));
                (0..over).for_each(|_| out.push(operation(numbers)));
            }
            1 | 2 => out.push(memory(numbers)),
            _ => out.push(operation(numbers)),
        }
    }
    (0..9).for_each(|r| out.push(Insn::new(0x7b, 10, r, -80 + i16::from(r) * 8, 0)));
    out.push(Insn::new(LD_IMM64, 9, PSEUDO_MAP_VALUE, 0, 0));
    out.push(Insn::new(0, 0, 0, 0, 0));
    for i in 0..17 {
        // Beside the registers what the operations on memory left, without the hole between.
        out.push(Insn::new(0x79, 1, 10, -144 + 8 * i, 0));
        out.push(Insn::new(0x7b, 9, 1, 8 * i, 0));
    }
    out.extend([Insn::new(0xb7, 0, 0, 0, 2), Insn::new(EXIT, 0, 0, 0, 0)]);
    out
}

/// Goal: thousands of programs of random instructions leave the same numbers in both.
#[test]
fn random_programs_agree() {
    if !allowed("random_programs_agree") {
        return;
    }
    let mut numbers = Numbers(2026);
    let (mut ran, mut refused) = (0, 0);
    let theirs = sys::Map::create_as(&array("out", 136)).expect("an array");
    while ran < 3000 {
        let insns = random(&mut numbers);
        let map = MapSource { def: array("out", 136), entries: Vec::new() };
        let source = Source { insns: insns.clone(), maps: vec![map], ..Source::default() };
        let mut vm = Vm::new(Program::load(source, 1).unwrap_or_else(|e| panic!("{e}")), 0, 1);
        let mut linked = insns.clone();
        for insn in linked.iter_mut().filter(|i| i.code == LD_IMM64) {
            *insn = insn.with_imm(theirs.number());
        }
        let prog = match sys::Prog::load_licensed(&linked, "random", "MIT", false) {
            Ok(prog) => prog,
            // The verifier may give up on what it can not follow.
            Err(_) => {
                refused += 1;
                assert!(refused < 300, "most are accepted: {ran} of {}", ran + refused);
                continue;
            }
        };
        for _ in 0..3 {
            let mut frame: Vec<u8> = (0..80).map(|_| numbers.next() as u8).collect();
            // Small and extreme numbers among them.
            for word in frame.chunks_mut(8) {
                match numbers.below(4) {
                    0 => word.copy_from_slice(&(numbers.below(70)).to_le_bytes()),
                    1 => word.copy_from_slice(&(i64::MIN >> numbers.below(64)).to_le_bytes()),
                    _ => {}
                }
            }
            let ran = prog.run(&frame).expect("the kernel runs it");
            let mut memory = frame.clone();
            let mut packet = Packet::new(&mut memory, 0, 80);
            let ours = vm.run(&mut packet, Env::default()).unwrap_or_else(|e| panic!("{e}"));
            let out = vm.program().maps()[0].get(&[0; 4]).expect("the value").remove(0);
            let wanted = theirs.lookup(&[0; 4]).expect("readable").expect("the value");
            assert_eq!((ours.0, out), (ran.returned, wanted), "{insns:#?} on {frame:02x?}");
        }
        ran += 1;
    }
}
