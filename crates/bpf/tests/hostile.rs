//! Goal: an object that was made to do harm is refused, or is a program that runs within bounds: no
//! panic, memory in proportion to the file, and time in proportion to the file.
//! Method: objects of clang's, damaged in many ways by numbers from a fixed seed; and objects of up to
//! 16 MiB of which each is made against one way to read them (a list searched for each entry of another,
//! a name copied for each symbol). Read in a way that the file's size enters squared, one of them takes
//! hours, or more memory than machines have. One test alone is in this program, so that the memory it took
//! is that of these objects.

use linerate_bpf::object::Object;
use linerate_bpf::prog::{MapSource, Program};
use linerate_bpf::vm::{Env, Packet, Vm};

const OBJECTS: [&[u8]; 6] = [
    include_bytes!("objects/drop.o"),
    include_bytes!("objects/balance.o"),
    include_bytes!("objects/parts.o"),
    include_bytes!("objects/rate.o"),
    include_bytes!("objects/rewrite.o"),
    include_bytes!("objects/sample.o"),
];

/// Objects that are damaged.
const DAMAGED: usize = 15_000;
/// Bytes of a file at the most.
const FILE: usize = 16 << 20;

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Damages a file: words of it, blocks that are moved, another's pieces, its end.
fn damage(bytes: &mut Vec<u8>, numbers: &mut Numbers) {
    for _ in 0..=numbers.below(4) {
        let len = bytes.len();
        let at = numbers.below(len);
        match numbers.below(7) {
            // A field, as fields are wrong: nothing, all ones, about the file's length, a little off.
            0..=2 => {
                let size = [1, 2, 4, 8][numbers.below(4)];
                let at = at / size * size;
                let Some(field) = bytes.get_mut(at..at + size) else { continue };
                let mut word = [0; 8];
                word[..size].copy_from_slice(field);
                let old = u64::from_le_bytes(word);
                let values = [
                    0,
                    u64::MAX,
                    u64::MAX / 2,
                    len as u64,
                    len as u64 - 1,
                    old.wrapping_add(1),
                    old.wrapping_sub(1),
                    old << 8,
                    numbers.next(),
                ];
                let new = values[numbers.below(values.len())].to_le_bytes();
                field.copy_from_slice(&new[..size]);
            }
            // In the section headers, which lie at the end.
            3 => {
                let at = len - 1 - numbers.below(len.min(64 * 24));
                bytes[at] = numbers.next() as u8;
            }
            4 => {
                let n = numbers.below(65).min(len - at);
                let to = numbers.below(len - n);
                bytes.copy_within(at..at + n, to);
            }
            5 => {
                let other = OBJECTS[numbers.below(OBJECTS.len())];
                let n = numbers.below(257).min(len - at).min(other.len());
                let from = numbers.below(other.len() - n);
                bytes[at..at + n].copy_from_slice(&other[from..from + n]);
            }
            _ if numbers.below(8) == 0 => bytes.truncate(at.max(1)),
            _ => {
                let bit = 1 << numbers.below(8);
                bytes[at] ^= bit;
            }
        }
    }
}

/// Reads a damaged object, and runs what of it may run; how many did.
fn read(bytes: &[u8]) -> usize {
    let Ok(object) = Object::parse(bytes) else { return 0 };
    let mut loaded = 0;
    for (_, name) in object.names() {
        let Ok(source) = object.source(Some(&name)) else { continue };
        // Maps may be large, by a lie, within what programs may have: those are not made here.
        let memory = |m: &MapSource| m.def.memory(1);
        if source.maps.iter().map(memory).fold(0, u64::saturating_add) > 4 << 20 {
            continue;
        }
        let Ok(program) = Program::load(source, 1) else { continue };
        loaded += 1;
        let mut vm = Vm::new(program, 0, 1).limit(10_000);
        let mut memory = [3; 400];
        for len in [0, 14, 80] {
            let env = Env { now: 1_000, ifindex: 3, queue: 0, fib: None };
            vm.xdp(&mut Packet::new(&mut memory, 256, 256 + len), env);
        }
    }
    loaded
}

/// An object that is written field by field.
#[derive(Default)]
struct Elf {
    body: Vec<u8>,
    /// Name, type, offset, size, link, info, size of an entry.
    sections: Vec<(u32, u32, u64, u64, u32, u32, u64)>,
}

const PROGBITS: u32 = 1;
const SYMTAB: u32 = 2;
const STRTAB: u32 = 3;
const REL: u32 = 9;
/// Where the body begins.
const BODY: u64 = 64;
/// Sections that each object has: none, its names, its symbols, its program.
const NAMES: &[u8] = b"\0xdp\0.maps\0.BTF\0license\0f\0";
const XDP: u32 = 1;
const MAPS: u32 = 5;
const BTF: u32 = 11;
const F: u32 = 24;

impl Elf {
    /// The bytes lie in the file; where.
    fn put(&mut self, bytes: &[u8]) -> (u64, u64) {
        let at = BODY + self.body.len() as u64;
        self.body.extend_from_slice(bytes);
        self.body.resize(self.body.len().next_multiple_of(8), 0);
        (at, bytes.len() as u64)
    }
    fn section(&mut self, name: u32, kind: u32, (at, len): (u64, u64), link: u32, info: u32) {
        let entry = match kind {
            SYMTAB => 24,
            REL => 16,
            _ => 0,
        };
        self.sections.push((name, kind, at, len, link, info, entry));
    }
    /// An object with these names (behind [`NAMES`]), symbols and instructions. Sections: 1 names,
    /// 2 symbols, 3 program.
    fn new(names: &[u8], symbols: &[u8], code: &[u8]) -> Elf {
        let mut elf = Elf::default();
        elf.section(0, 0, (0, 0), 0, 0);
        let names = elf.put(&[NAMES, names].concat());
        elf.section(0, STRTAB, names, 0, 0);
        let symbols = elf.put(symbols);
        elf.section(0, SYMTAB, symbols, 1, 1);
        let code = elf.put(code);
        elf.section(XDP, PROGBITS, code, 0, 0);
        elf
    }
    fn bytes(mut self) -> Vec<u8> {
        let n = self.sections.len();
        if n >= 0xff00 {
            self.sections[0].3 = n as u64;
        }
        let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1];
        out.resize(16, 0);
        out.extend([1, 0, 247, 0, 1, 0, 0, 0]);
        out.extend([0; 16]);
        out.extend((BODY + self.body.len() as u64).to_le_bytes());
        out.extend([0; 4]);
        let count = if n >= 0xff00 { 0 } else { n as u16 };
        for half in [64u16, 0, 0, 64, count, 1] {
            out.extend(half.to_le_bytes());
        }
        assert_eq!(out.len() as u64, BODY);
        out.extend(self.body);
        for (name, kind, at, len, link, info, entry) in self.sections {
            out.extend(name.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend([0; 16]);
            out.extend(at.to_le_bytes());
            out.extend(len.to_le_bytes());
            out.extend(link.to_le_bytes());
            out.extend(info.to_le_bytes());
            out.extend(8u64.to_le_bytes());
            out.extend(entry.to_le_bytes());
        }
        assert!(out.len() <= FILE, "{} bytes", out.len());
        out
    }
}

/// A symbol; of kind 1 (data) or 2 (function), global.
fn symbol(name: u32, kind: u8, section: u16, at: u64, len: u64) -> Vec<u8> {
    let mut out = name.to_le_bytes().to_vec();
    out.extend([1 << 4 | kind, 0]);
    out.extend(section.to_le_bytes());
    out.extend(at.to_le_bytes());
    out.extend(len.to_le_bytes());
    out
}

fn insn(code: u8, registers: u8, off: i16, imm: i32) -> Vec<u8> {
    let mut out = vec![code, registers];
    out.extend(off.to_le_bytes());
    out.extend(imm.to_le_bytes());
    out
}

/// `r0 = 2; exit`.
fn pass() -> Vec<u8> {
    [insn(0xb7, 0, 0, 2), insn(0x95, 0, 0, 0)].concat()
}

fn said(bytes: &[u8]) -> String {
    match Object::parse(bytes).and_then(|object| object.load(Some("f"), 1)) {
        Ok(_) => "fine".to_owned(),
        Err(err) => err.to_string(),
    }
}

const FUNCTION: u8 = 2;

/// Every symbol has a name of megabytes, which is in the file once.
fn long_names(len: usize, symbols: usize) -> Vec<u8> {
    let mut names = vec![b'a'; len];
    names.push(0);
    let mut all = symbol(0, 0, 0, 0, 0);
    all.extend(symbol(F, FUNCTION, 3, 0, 16));
    for n in 0..symbols {
        let at = NAMES.len() + n.min(len);
        all.extend(symbol(at as u32, FUNCTION, 3, 0, 16));
    }
    Elf::new(&names, &all, &pass()).bytes()
}

/// So many functions, and one that calls each.
fn many_functions(n: usize) -> Vec<u8> {
    let mut code = Vec::new();
    for at in 0..n {
        // The next instruction is `at + 1`; the functions lie behind this one, two instructions each.
        code.extend(insn(0x85, 0x10, 0, (n + 2 + 2 * at) as i32 - (at as i32 + 1)));
    }
    code.extend(pass());
    let len = code.len() as u64;
    let mut symbols = [symbol(0, 0, 0, 0, 0), symbol(F, FUNCTION, 3, 0, len)].concat();
    for at in 0..n as u64 {
        code.extend(pass());
        symbols.extend(symbol(F, FUNCTION, 3, len + 16 * at, 16));
    }
    Elf::new(&[], &symbols, &code).bytes()
}

/// So many sections say that the same references are theirs.
fn shared_references(references: usize, sections: usize) -> Vec<u8> {
    let symbols = [symbol(0, 0, 0, 0, 0), symbol(F, FUNCTION, 3, 0, 16)].concat();
    let mut elf = Elf::new(&[], &symbols, &pass());
    let mut table = Vec::new();
    for at in 0..references as u64 {
        table.extend((at * 8).to_le_bytes());
        table.extend((1u64 << 32 | 1).to_le_bytes());
    }
    let table = elf.put(&table);
    let code = elf.put(&pass());
    for n in 0..sections as u32 {
        elf.section(XDP, PROGBITS, code, 0, 0);
        elf.section(0, REL, table, 2, 4 + 2 * n);
    }
    elf.bytes()
}

/// So many tables of types, each of the same types, which all have the same name of megabytes.
fn shared_types(types: usize, sections: usize) -> Vec<u8> {
    let map = [insn(0x18, 1, 0, 0), insn(0, 0, 0, 0), pass()].concat();
    let mut symbols = [symbol(0, 0, 0, 0, 0), symbol(F, FUNCTION, 3, 0, 32)].concat();
    symbols.extend(symbol(F, 1, 4, 0, 8));
    let mut elf = Elf::new(&[], &symbols, &map);
    let maps = elf.put(&[0; 8]);
    elf.section(MAPS, PROGBITS, maps, 0, 0);
    let mut reference = 0u64.to_le_bytes().to_vec();
    reference.extend((2u64 << 32 | 1).to_le_bytes());
    let reference = elf.put(&reference);
    elf.section(0, REL, reference, 2, 3);
    let strings = 4 << 20;
    let mut btf = vec![0x9f, 0xeb, 1, 0];
    for word in [24, 0, 12 * types as u32, 12 * types as u32, strings] {
        btf.extend(word.to_le_bytes());
    }
    for n in 0..types as u32 {
        // A section of variables, without any.
        for word in [n % 1000, 15 << 24, 0] {
            btf.extend(word.to_le_bytes());
        }
    }
    btf.resize(btf.len() + strings as usize, b'a');
    let btf = elf.put(&btf);
    for _ in 0..sections {
        elf.section(BTF, PROGBITS, btf, 0, 0);
    }
    elf.bytes()
}

/// A program that refers to so many sections of variables.
fn many_maps(n: usize) -> Vec<u8> {
    let mut code = Vec::new();
    let mut symbols = [symbol(0, 0, 0, 0, 0), symbol(F, FUNCTION, 3, 0, 0)].concat();
    let mut table = Vec::new();
    for at in 0..n {
        code.extend([insn(0x18, 1, 0, 0), insn(0, 0, 0, 0)].concat());
        symbols.extend(symbol(F, 1, 5 + at as u16, 0, 8));
        table.extend((16 * at as u64).to_le_bytes());
        table.extend(((2 + at as u64) << 32 | 1).to_le_bytes());
    }
    code.extend(pass());
    symbols[24..48].copy_from_slice(&symbol(F, FUNCTION, 3, 0, code.len() as u64));
    let data = NAMES.len() as u32;
    let mut elf = Elf::new(b".data\0", &symbols, &code);
    let table = elf.put(&table);
    elf.section(0, REL, table, 2, 3);
    // Each of four megabytes, which are in the file once.
    let bytes = elf.put(&vec![7; 4 << 20]);
    (0..n).for_each(|_| elf.section(data, PROGBITS, bytes, 0, 0));
    elf.bytes()
}

/// KiB of memory that this process has had at the most.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[test]
fn objects_that_lie_do_no_harm() {
    let mut numbers = Numbers(0x0b7e_c700);
    let mut loaded = 0;
    for n in 0..DAMAGED {
        let mut bytes = OBJECTS[n % OBJECTS.len()].to_vec();
        damage(&mut bytes, &mut numbers);
        loaded += read(&bytes);
    }
    assert!(loaded > DAMAGED / 10, "only {loaded} were whole enough to run");

    // Each of these shapes is read rightly where it is small.
    assert_eq!(said(&many_functions(100)), "fine");
    assert_eq!(said(&long_names(4000, 10)), "fine");
    assert_eq!(said(&many_maps(60)), "fine");

    let cases = [
        (long_names(8 << 20, 300_000), "it is no whole ELF file: a name has 8388608 bytes"),
        (long_names(4000, 600_000), "fine"),
        (many_functions(250_000), "fine"),
        (shared_references(500_000, 50_000), "section xdp: more than 1048576 relocations"),
        (shared_types(500_000, 60_000), "the type of map f is not known"),
        (many_maps(50_000), "the program has more than 64 maps"),
    ];
    for (bytes, want) in cases {
        let said = said(&bytes);
        assert!(said.contains(want), "{want}: {said}");
        assert!(said.len() < 8192, "a sentence of {} bytes", said.len());
    }
    let peak = peak_kib();
    assert!(peak < 1 << 20, "{} MiB for objects of 16", peak >> 10);
}
