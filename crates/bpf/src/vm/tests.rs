//! What programs compute, reach and may not reach.

use super::*;
use crate::Insn;
use crate::insn::code::*;
use crate::maps::{Kind, MapDef, NO_PREALLOC, RDONLY_PROG};
use crate::prog::{MapSource, Source};

pub(crate) fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn::new(code, dst, src, off, imm)
}
pub(crate) fn mov(dst: u8, imm: i32) -> Insn {
    insn(0xb7, dst, 0, 0, imm)
}
fn copy(dst: u8, src: u8) -> Insn {
    insn(0xbf, dst, src, 0, 0)
}
fn call(helper: i32) -> Insn {
    insn(CALL, 0, 0, 0, helper)
}
pub(crate) fn exit() -> Insn {
    insn(EXIT, 0, 0, 0, 0)
}
fn constant(dst: u8, value: u64) -> [Insn; 2] {
    [insn(LD_IMM64, dst, 0, 0, value as i32), insn(0, 0, 0, 0, (value >> 32) as i32)]
}
fn map(dst: u8, number: i32) -> [Insn; 2] {
    [insn(LD_IMM64, dst, PSEUDO_MAP, 0, number), insn(0, 0, 0, 0, 0)]
}

fn def(kind: Kind, key_size: u32, value_size: u32, max_entries: u32) -> MapSource {
    let flags = if kind == Kind::LpmTrie { NO_PREALLOC } else { 0 };
    let name = kind.name().to_owned();
    let def = MapDef { name, kind, key_size, value_size, max_entries, flags };
    MapSource { def, entries: Vec::new() }
}

pub(crate) fn vm(insns: &[&[Insn]], maps: Vec<MapSource>) -> Vm {
    let insns = insns.concat();
    let source = Source { name: "test".to_owned(), insns, maps, ..Source::default() };
    let program = Program::load(source, 2).unwrap_or_else(|err| panic!("it is fine: {err}"));
    Vm::new(program, 1, 7)
}

/// Runs over a packet of 20 bytes, 1 to 20, with room of 32 before and 64 behind.
fn run(vm: &mut Vm) -> Result<u32, String> {
    let mut memory = [0; 116];
    (32..52).for_each(|i| memory[i] = i as u8 - 31);
    let env = Env { now: 5_000_000_001, ifindex: 3, queue: 2, fib: None };
    let done = vm.run(&mut Packet::new(&mut memory, 32, 52), env);
    done.map(|(value, _)| value).map_err(|err| err.to_string())
}

fn value(insns: &[&[Insn]]) -> Result<u32, String> {
    run(&mut vm(insns, Vec::new()))
}

/// What one operation on 64-bit registers makes of two numbers: all 64 bits of it.
fn alu(code: u8, off: i16, a: u64, b: u64) -> u64 {
    let op = if code & X != 0 || code & 0xf0 == 0x80 {
        let src = if code & 0xf0 == 0x80 { 0 } else { 2 };
        insn(code, 1, src, off, 0)
    } else {
        insn(code, 1, 0, off, b as i32)
    };
    let program = |high: i32| {
        let half = [copy(0, 1), insn(0x77, 0, 0, 0, high), exit()];
        let all = [&constant(1, a)[..], &constant(2, b), &[op], &half].concat();
        u64::from(value(&[&all]).expect("it runs"))
    };
    program(0) | program(32) << 32
}

#[test]
fn arithmetic_is_that_of_rfc_9669() {
    let (min, minus) = (i64::MIN as u64, u64::MAX);
    let (min32, m32) = (0x8000_0000u64, 0xffff_ffffu64);
    for (code, off, a, b, want) in [
        (0x0f, 0, minus, 2, 1),
        (0x1f, 0, 1, 2, minus),
        (0x2f, 0, minus, 3, (-3i64) as u64),
        // Division by zero is zero; the rest of it is the dividend.
        (0x3f, 0, 7, 0, 0),
        (0x9f, 0, 7, 0, 7),
        (0x3c, 0, m32 << 32 | 7, 0, 0),
        (0x9c, 0, m32 << 32 | 7, 0, 7),
        (0x3f, 1, 7, 0, 0),
        (0x9f, 1, minus, 0, minus),
        (0x9c, 1, minus, 0, m32),
        // The one quotient that does not fit.
        (0x3f, 1, min, minus, min),
        (0x9f, 1, min, minus, 0),
        (0x3c, 1, min32, m32, min32),
        (0x9c, 1, min32, m32, 0),
        (0x3f, 1, (-7i64) as u64, 2, (-3i64) as u64),
        (0x9f, 1, (-7i64) as u64, 2, minus),
        (0x3f, 0, minus, 2, minus / 2),
        (0x37, 0, 100, 7, 14),
        (0x97, 0, 100, 7, 2),
        // A 64-bit division by a negative constant is by the number it extends to.
        (0x37, 0, minus, minus, 1),
        (0x34, 0, minus, minus, 1),
        // Shifts by registers are taken modulo the width.
        (0x6f, 0, 1, 65, 2),
        (0x6c, 0, 1, 33, 2),
        (0x7f, 0, min, 127, 1),
        (0xcf, 0, min, 63, minus),
        (0xcc, 0, min32, 31, m32),
        (0xc4, 0, min32, 4, 0xf800_0000),
        (0xc7, 0, min, 4, 0xf800_0000_0000_0000),
        // 32-bit operations clear the upper half.
        (0x0c, 0, minus, 1, 0),
        (0x04, 0, minus, minus, 0xffff_fffe),
        (0xbc, 0, minus, minus, m32),
        (0xb4, 0, 0, minus, m32),
        (0xb7, 0, 0, minus, minus),
        (0x87, 0, 1, 0, minus),
        (0x84, 0, 1, 0, m32),
        (0xa7, 0, 0, minus, minus),
        (0xa4, 0, 0, minus, m32),
        (0x57, 0, minus, (-16i64) as u64, (-16i64) as u64),
        // Copies with extension of the sign.
        (0xbf, 8, 0, 0x80, (-128i64) as u64),
        (0xbf, 16, 0, 0x8000, (-32768i64) as u64),
        (0xbf, 32, 0, min32, 0xffff_ffff_8000_0000),
        (0xbc, 8, minus, 0x80, 0xffff_ff80),
        (0xbc, 16, minus, 0x7fff, 0x7fff),
    ] {
        assert_eq!(alu(code, off, a, b), want, "{code:#x}, off {off}, {a:#x}, {b:#x}");
    }
}

#[test]
fn byte_order_is_turned() {
    let number = 0x1122_3344_5566_7788u64;
    for (code, bits, want) in [
        (0xd4, 16, 0x7788),
        (0xd4, 32, 0x5566_7788),
        (0xd4, 64, number),
        (0xdc, 16, 0x8877),
        (0xdc, 32, 0x8877_6655),
        (0xdc, 64, 0x8877_6655_4433_2211),
        (0xd7, 16, 0x8877),
        (0xd7, 32, 0x8877_6655),
        (0xd7, 64, 0x8877_6655_4433_2211),
    ] {
        let got = |shift| {
            let turn = [insn(code, 0, 0, 0, bits), insn(0x77, 0, 0, 0, shift), exit()];
            u64::from(value(&[&constant(0, number), &turn]).expect("it runs"))
        };
        assert_eq!(got(0) | got(32) << 32, want, "{code:#x} {bits}");
    }
}

#[test]
fn jumps_compare_as_they_say() {
    let (minus, wide) = (u64::MAX, 1u64 << 32);
    for (name, a, b, want64, want32) in [
        (0x10, 5, 5, true, true),
        (0x10, wide, 0, false, true),
        (0x20, minus, 1, true, true),
        (0x20, wide, 1, true, false),
        (0x30, 1, 1, true, true),
        (0x40, 6, 4, true, true),
        (0x40, wide, wide, true, false),
        (0x50, wide, 0, true, false),
        (0x60, minus, 1, false, false),
        (0x60, 0x8000_0000, 1, true, false),
        (0x70, 1, 1, true, true),
        (0xa0, 1, minus, true, true),
        (0xb0, 1, 1, true, true),
        (0xc0, minus, 1, true, true),
        (0xc0, 0x8000_0000, 1, false, true),
        (0xd0, 1, 1, true, true),
    ] {
        for (class, want) in [(JMP, want64), (JMP32, want32)] {
            let jump = insn(name | class | X, 1, 2, 1, 0);
            let end = [mov(0, 1), jump, mov(0, 0), exit()];
            let got = value(&[&constant(1, a), &constant(2, b), &end]);
            assert_eq!(got, Ok(u32::from(want)), "{name:#x}, class {class}: {a:#x}, {b:#x}");
            if b as i32 as u64 == b {
                let jump = insn(name | class, 1, 0, 1, b as i32);
                let got = value(&[&constant(1, a), &[mov(0, 1), jump, mov(0, 0), exit()]]);
                assert_eq!(got, Ok(u32::from(want)), "{name:#x}, {class}: {a:#x}, constant {b}");
            }
        }
    }
}

#[test]
fn the_context_is_struct_xdp_md() {
    let field = |off| value(&[&[insn(0x61, 0, 1, off, 0), exit()]]);
    assert_eq!((field(12), field(16)), (Ok(3), Ok(2)));
    let len = [insn(0x61, 0, 1, 4, 0), insn(0x61, 2, 1, 0, 0), insn(0x1f, 0, 2, 0, 0), exit()];
    assert_eq!(value(&[&len]), Ok(20));
    assert!(field(20).unwrap_err().contains("offset 20 of the context: struct xdp_md"));
    assert!(field(2).unwrap_err().contains("offset 2 of the context"));
    let write = [mov(0, 0), insn(0x62, 1, 0, 16, 1), exit()];
    assert_eq!(
        value(&[&write]).unwrap_err(),
        "instruction 1: writes to the context, which is only read"
    );
}

#[test]
fn memory_ends_where_it_ends() {
    let load = |code, off| {
        let read = [insn(0x61, 2, 1, 0, 0), insn(code, 0, 2, off, 0), exit()];
        value(&[&read])
    };
    assert_eq!(load(0x71, 19), Ok(20));
    assert_eq!(load(0x69, 18), Ok(20 << 8 | 19));
    assert_eq!(load(0x61, 0), Ok(0x0403_0201));
    assert_eq!(
        load(0x61, 17).unwrap_err(),
        "instruction 1: reads 4 bytes at offset 17 of a packet of 20 bytes"
    );
    assert!(load(0x71, -1).unwrap_err().contains("reads 1 bytes at offset -1 of a packet"));
    assert!(load(0x71, 20).unwrap_err().contains("offset 20"));
    assert!(load(0x79, i16::MAX).unwrap_err().contains("offset 32767"));
    let store = [mov(0, 0), insn(0x61, 2, 1, 0, 0), insn(0x6a, 2, 0, 19, 0), exit()];
    assert!(value(&[&store]).unwrap_err().contains("writes 2 bytes at offset 19"));
    let null = [mov(2, 0), insn(0x61, 0, 2, 8, 0), exit()];
    assert_eq!(value(&[&null]).unwrap_err(), "instruction 1: reads 4 bytes at null (0x8)");
    let wild = [insn(0x61, 0, 3, 0, 0), exit()];
    let got = value(&[&constant(3, 0xdead_beef_0000_0000), &wild]);
    assert!(got.unwrap_err().contains("which is no address"));
    // The stack: above it, below it, and that of a function that is not running.
    let stack = |by| {
        let far = [copy(2, 10), insn(0x07, 2, 0, 0, by), insn(0x61, 0, 2, 0, 0), exit()];
        value(&[&far])
    };
    assert!(stack(-4).is_ok() && stack(-512).is_ok());
    assert!(stack(-513).unwrap_err().contains("the stack"));
    assert!(stack(-2).unwrap_err().contains("the stack"));
    assert!(stack(512).unwrap_err().contains("the stack"));
}

#[test]
fn endless_programs_end() {
    let endless = [mov(0, 0), insn(0x05, 0, 0, -1, 0), exit()];
    let err = value(&[&endless]).unwrap_err();
    assert_eq!(err, "instruction 1: ran for more instructions than a packet may take");
    // So does a loop whose end is far away, but not one whose end is near.
    let down = |from| {
        let count = [mov(0, 2), insn(0x17, 1, 0, 0, 1), insn(0x55, 1, 0, -2, 0), exit()];
        value(&[&constant(1, from), &count])
    };
    assert_eq!(down(400_000), Ok(2));
    assert!(down(600_000).unwrap_err().contains("ran for more"));
    // Calls cost something too: 2^23 of a function that is called for each.
    let callback = [insn(LD_IMM64, 2, PSEUDO_FUNC, 0, 6), insn(0, 0, 0, 0, 0)];
    let looping = [mov(1, 1 << 23), mov(3, 0), mov(4, 0), call(181), exit(), mov(0, 0), exit()];
    assert!(value(&[&callback, &looping]).unwrap_err().contains("ran for more"));
}

#[test]
fn functions_call_functions() {
    // Each has a stack and registers of its own, and may be given an address in its caller's.
    let main = [
        mov(6, 5),
        insn(0x7a, 10, 0, -8, 40),
        copy(1, 10),
        insn(0x07, 1, 0, 0, -8),
        insn(CALL, 0, 1, 0, 3),
        insn(0x79, 1, 10, -8, 0),
        insn(0x0f, 0, 1, 0, 0),
        exit(),
    ];
    let function = [
        mov(6, 99),
        insn(0x7a, 10, 0, -8, 7),
        insn(0x79, 0, 1, 0, 0),
        insn(0x07, 0, 0, 0, 1),
        insn(0x7b, 1, 0, 0, 0),
        insn(0x79, 0, 10, -8, 0),
        exit(),
    ];
    assert_eq!(value(&[&main, &function]), Ok(48));
    let saved = [mov(6, 5), insn(CALL, 0, 1, 0, 2), copy(0, 6), exit(), mov(6, 9), exit()];
    assert_eq!(value(&[&saved]), Ok(5));
}

#[test]
fn bpf_loop_calls_until_told_otherwise() {
    // The callback adds its index to what the context points to, and stops at index r.
    let program = |times, stop, flags| {
        let main = [
            insn(0x7a, 10, 0, -8, 0),
            copy(3, 10),
            insn(0x07, 3, 0, 0, -8),
            mov(1, times),
            mov(4, flags),
        ];
        let callback = [insn(LD_IMM64, 2, PSEUDO_FUNC, 0, 6), insn(0, 0, 0, 0, 0)];
        let then = [
            call(181),
            insn(0x79, 1, 10, -8, 0),
            insn(0x67, 0, 0, 0, 8),
            insn(0x4f, 0, 1, 0, 0),
            exit(),
        ];
        let function = [
            insn(0x79, 3, 2, 0, 0),
            insn(0x0f, 3, 1, 0, 0),
            insn(0x7b, 2, 3, 0, 0),
            mov(0, 0),
            insn(0x55, 1, 0, 1, stop),
            mov(0, 1),
            exit(),
        ];
        value(&[&main, &callback, &then, &function])
    };
    assert_eq!(program(5, 99, 0), Ok(5 << 8 | 10));
    assert_eq!(program(5, 2, 0), Ok(3 << 8 | 3), "it was told to stop in its third call");
    assert_eq!(program(0, 0, 0), Ok(0));
    assert_eq!(program(5, 99, 1), Ok((-libc::EINVAL << 8) as u32));
    assert_eq!(program((1 << 23) + 1, 99, 0), Ok((-libc::E2BIG << 8) as u32));
}

#[test]
fn atomic_operations_work_on_stack_and_values() {
    for on_stack in [true, false] {
        for (what, imm, before, want, left) in [
            ("add", 0x00, 5u64, 12u64, 7u64),
            ("fetch add", 0x01, 5, 12, 5),
            ("or", 0x41, 5, 7, 5),
            ("and", 0x51, 5, 5, 5),
            ("xor", 0xa1, 5, 2, 5),
            ("xchg", 0xe1, 5, 7, 5),
            ("cmpxchg, as expected", 0xf1, 3, 7, 7),
            ("cmpxchg, not as expected", 0xf1, 4, 4, 7),
        ] {
            let memory = if on_stack {
                [copy(0, 10), insn(0x07, 0, 0, 0, -16), mov(1, 0)].to_vec()
            } else {
                let key = [copy(2, 10), insn(0x07, 2, 0, 0, -4), insn(0x62, 10, 0, -4, 0)];
                [&key[..], &map(1, 0), &[call(1)]].concat()
            };
            // r6 is the memory, r7 = 7; r0 = 3 is what a cmpxchg expects.
            let operate = |code: u8, size: u8, right: i32| {
                let then = [
                    copy(6, 0),
                    mov(7, 7),
                    insn(0x60 | ST | size, 6, 0, 0, before as i32),
                    mov(0, 3),
                    insn(code, 6, 7, 0, imm),
                    insn(0x60 | LDX | size, 8, 6, 0, 0),
                    insn(0x67, 8, 0, 0, 8),
                    insn(0x4f, 8, 7, 0, 0),
                    copy(0, 8),
                    insn(0x77, 0, 0, 0, right),
                    exit(),
                ];
                let maps = vec![def(Kind::Array, 4, 8, 1)];
                run(&mut vm(&[&memory, &then], maps))
            };
            let want = Ok((want << 8 | left) as u32);
            assert_eq!(operate(0xdb, 0x18, 0), want, "{what} of 8, stack: {on_stack}");
            assert_eq!(operate(0xc3, 0x00, 0), want, "{what} of 4, stack: {on_stack}");
        }
    }
    let packet = [mov(0, 0), insn(0x61, 2, 1, 0, 0), insn(0xdb, 2, 0, 0, 0), exit()];
    assert!(value(&[&packet]).unwrap_err().contains("an atomic operation on 8 bytes at offset 0"));
    let half = [mov(0, 0), insn(0x7a, 10, 0, -8, 0), insn(0xdb, 10, 0, -8, 1), exit()];
    assert_eq!(value(&[&half]), Ok(0));
}

#[test]
fn values_of_maps_end_too() {
    let lookup = |then: &[Insn], def: MapSource| {
        let key = [insn(0x62, 10, 0, -4, 1), copy(2, 10), insn(0x07, 2, 0, 0, -4)];
        run(&mut vm(&[&key, &map(1, 0), &[call(1)], then], vec![def]))
    };
    let array = || def(Kind::Array, 4, 6, 3);
    let at = |code, off| lookup(&[insn(code, 0, 0, off, 0), exit()], array());
    assert_eq!(at(0x69, 4), Ok(0));
    assert!(at(0x61, 4).unwrap_err().contains("reads 4 bytes at a value of map 0"));
    assert!(at(0x71, -1).unwrap_err().contains("a value of map 0"));
    let far = [insn(0x07, 0, 0, 0, 1 << 24), insn(0x71, 0, 0, 0, 0), exit()];
    assert!(lookup(&far, array()).unwrap_err().contains("a value of map"));
    // Not found is null, and to read it is no luck.
    let none = lookup(&[insn(0x71, 0, 0, 0, 0), exit()], def(Kind::Array, 4, 6, 1));
    assert!(none.unwrap_err().contains("null"));
    let mut constant = array();
    constant.def.flags = RDONLY_PROG;
    let write = lookup(&[insn(0x72, 0, 0, 0, 1), exit()], constant);
    assert!(write.unwrap_err().contains("writes memory that programs only read"));
    // A map is no memory, and memory is no map.
    let itself = [insn(0x71, 0, 1, 0, 0), exit()];
    let got = run(&mut vm(&[&map(1, 0), &itself], vec![array()]));
    assert!(got.unwrap_err().contains("map 0 itself"));
    let none = [copy(2, 10), insn(0x07, 2, 0, 0, -8), call(1), exit()];
    assert!(value(&[&none]).unwrap_err().contains("was not given a map"));
}

#[test]
fn helpers_say_what_surrounds_them() {
    assert_eq!(value(&[&[call(8), exit()]]), Ok(1), "the shard");
    assert_eq!(value(&[&[call(5), insn(0x77, 0, 0, 0, 3), exit()]]), Ok(625_000_000));
    let mut random = vm(&[&[call(7), exit()]], Vec::new());
    let drawn: Vec<_> = (0..100).map(|_| run(&mut random).expect("a number")).collect();
    let distinct: std::collections::BTreeSet<_> = drawn.iter().collect();
    assert!(distinct.len() > 98 && drawn.iter().any(|n| *n > 1 << 31));
    let text = b"seen %d\0";
    let text = constant(2, u64::from_le_bytes(*text));
    let print = [
        insn(0x7b, 10, 2, -8, 0),
        copy(1, 10),
        insn(0x07, 1, 0, 0, -8),
        mov(2, 8),
        mov(3, -4),
        mov(4, 0),
        mov(5, 0),
        call(6),
        exit(),
    ];
    let mut printing = vm(&[&text, &print], Vec::new());
    assert_eq!(run(&mut printing), Ok(7));
    assert_eq!(printing.program().drain_lines(), ["seen -4"]);
}

fn adjust(
    helper: i32,
    by: i32,
    memory: &mut [u8],
    at: (usize, usize),
) -> (i32, usize, usize, usize) {
    let program = [mov(2, by), call(helper), exit()];
    let mut vm = vm(&[&program], Vec::new());
    let mut packet = Packet::new(memory, at.0, at.1).within(8, 90);
    packet.meta = at.0 - 4;
    let (got, _) = vm.run(&mut packet, Env::default()).expect("it runs");
    (got as i32, packet.meta(), packet.data(), packet.end())
}

#[test]
fn packets_grow_and_shrink_within_their_memory() {
    let (einval, eacces) = (-libc::EINVAL, -libc::EACCES);
    let mut memory = [9; 100];
    memory[36..40].copy_from_slice(b"meta");
    let (head, meta, tail) = (44, 54, 65);
    let m = &mut memory;
    assert_eq!(adjust(head, 10, m, (40, 80)), (0, 46, 50, 80));
    assert_eq!(m[46..50], *b"meta", "metadata go with the beginning");
    m[36..40].copy_from_slice(b"meta");
    assert_eq!(adjust(head, -28, m, (40, 80)), (0, 8, 12, 80));
    assert_eq!(m[8..12], *b"meta");
    assert_eq!(adjust(head, -29, m, (40, 80)), (einval, 36, 40, 80));
    assert_eq!(adjust(head, 26, m, (40, 80)), (0, 62, 66, 80));
    assert_eq!(adjust(head, 27, m, (40, 80)), (einval, 36, 40, 80), "no Ethernet header left");
    assert_eq!(adjust(head, i32::MIN, m, (40, 80)).0, einval);
    assert_eq!(adjust(head, i32::MAX, m, (40, 80)).0, einval);
    assert_eq!(adjust(tail, -26, m, (40, 80)), (0, 36, 40, 54));
    assert_eq!(adjust(tail, -27, m, (40, 80)).0, einval);
    m.fill(9);
    assert_eq!(adjust(tail, 10, m, (40, 80)), (0, 36, 40, 90));
    assert_eq!(m[80..90], [0; 10], "what is new is zero");
    assert_eq!(m[90], 9);
    assert_eq!(adjust(tail, 11, m, (40, 80)).0, einval);
    assert_eq!(adjust(meta, -8, m, (40, 80)), (0, 28, 40, 80));
    assert_eq!(adjust(meta, 4, m, (40, 80)), (0, 40, 40, 80));
    assert_eq!(adjust(meta, -6, m, (40, 80)).0, eacces);
    assert_eq!(adjust(meta, 8, m, (40, 80)).0, einval);
    assert_eq!(adjust(meta, -36, m, (40, 80)).0, einval);
}

struct More(Vec<u8>);
impl Rest for More {
    fn len(&self) -> usize {
        self.0.len()
    }
    fn copy(&self, off: usize, out: &mut [u8]) {
        out.copy_from_slice(&self.0[off..off + out.len()]);
    }
}

#[test]
fn a_packet_may_go_on_elsewhere() {
    let load = |off, len| {
        let program = [
            mov(2, off),
            copy(3, 10),
            insn(0x07, 3, 0, 0, -8),
            mov(4, len),
            call(189),
            insn(0x55, 0, 0, 1, 0),
            insn(0x61, 0, 10, -8, 0),
            exit(),
        ];
        let mut vm = vm(&[&program], Vec::new());
        let more = More(vec![7, 8, 9]);
        let mut memory: Vec<u8> = (1..=20).collect();
        let mut packet = Packet::new(&mut memory, 0, 20).followed_by(&more);
        vm.run(&mut packet, Env::default()).expect("it runs").0
    };
    assert_eq!(load(18, 4), u32::from_le_bytes([19, 20, 7, 8]));
    assert_eq!(load(0, 4), u32::from_le_bytes([1, 2, 3, 4]));
    assert_eq!(load(19, 4), u32::from_le_bytes([20, 7, 8, 9]));
    assert_eq!(load(20, 4) as i32, -libc::EINVAL);
    let mut vm = vm(&[&[call(188), exit()]], Vec::new());
    let mut memory = [0; 20];
    let more = More(vec![1; 100]);
    let mut packet = Packet::new(&mut memory, 2, 18).followed_by(&more);
    assert_eq!(vm.run(&mut packet, Env::default()).expect("it runs").0, 116);
}

#[test]
fn records_are_submitted_or_the_run_fails() {
    let ring = || vec![def(Kind::Ringbuf, 0, 0, 4096)];
    let reserve = [mov(2, 16), mov(3, 0), call(131), copy(6, 0)];
    let write = [insn(0x7a, 6, 0, 8, 77), copy(1, 6), mov(2, 0)];
    let submit = [call(132), mov(0, 2), exit()];
    let mut whole = vm(&[&map(1, 0), &reserve, &write, &submit], ring());
    assert_eq!(run(&mut whole), Ok(2));
    let records = whole.program().maps()[0].drain(10);
    assert_eq!((records.len(), records[0].cpu, records[0].data[8]), (1, 1, 77));
    let discard = [call(133), mov(0, 2), exit()];
    let mut gone = vm(&[&map(1, 0), &reserve, &write, &discard], ring());
    assert_eq!((run(&mut gone), gone.program().maps()[0].len()), (Ok(2), 0));
    let mut left = vm(&[&map(1, 0), &reserve, &[mov(0, 2), exit()]], ring());
    for _ in 0..1000 {
        assert!(run(&mut left).unwrap_err().contains("neither submitted nor discarded"));
    }
    assert_eq!(left.program().maps()[0].lost(), 0, "its room is given back");
    let mut beyond = vm(&[&map(1, 0), &reserve, &[insn(0x7a, 6, 0, 9, 1), exit()]], ring());
    assert!(run(&mut beyond).unwrap_err().contains("offset 9 of a ring buffer's record"));
    let twice = [call(132), copy(1, 6), mov(2, 0), call(132), exit()];
    let mut twice = vm(&[&map(1, 0), &reserve, &write, &twice], ring());
    assert!(run(&mut twice).unwrap_err().contains("something else than a ring buffer's record"));
}

#[test]
fn redirects_go_where_the_map_says() {
    let source = |kind| {
        let mut source = def(kind, 4, 4, 4);
        source.entries = vec![(vec![2, 0, 0, 0], vec![9, 0, 0, 0])];
        source
    };
    let to = |kind, key, flags| {
        let program = [mov(2, key), mov(3, flags), call(51), exit()];
        let mut vm = vm(&[&map(1, 0), &program], vec![source(kind)]);
        let mut memory = [0; 20];
        vm.run(&mut Packet::new(&mut memory, 0, 20), Env::default()).expect("it runs")
    };
    assert_eq!(to(Kind::Devmap, 2, 0), (4, Some(Redirect::Dev(9))));
    assert_eq!(to(Kind::DevmapHash, 2, 2), (4, Some(Redirect::Dev(9))));
    assert_eq!(to(Kind::Cpumap, 2, 0), (4, Some(Redirect::Cpu(2))));
    assert_eq!(to(Kind::Devmap, 1, 2), (2, None), "what the flags say");
    assert_eq!(to(Kind::Xskmap, 2, 1), (1, None));
    assert_eq!(to(Kind::Devmap, 2, 64), (0, None), "flags that there are not");
    let mut vm = vm(&[&[mov(1, 3), mov(2, 0), call(23), exit()]], Vec::new());
    let mut memory = [0; 20];
    let mut packet = Packet::new(&mut memory, 0, 20);
    assert_eq!(vm.xdp(&mut packet, Env::default()), Action::Redirect(Redirect::Dev(3)));
}

#[test]
fn a_tail_call_does_not_come_back() {
    let first = [mov(3, 0), call(12), mov(0, 1), exit()];
    let second = [insn(0x61, 0, 1, 12, 0), exit()];
    let second_of = |number: u8| {
        let save = [copy(6, 1)];
        let mut array = def(Kind::ProgArray, 4, 4, 2);
        array.entries = vec![(vec![0; 4], vec![number, 0, 0, 0])];
        let insns = [&save[..], &map(2, 0), &first, &second].concat();
        let source = Source { insns, entries: vec![7], maps: vec![array], ..Source::default() };
        let mut vm = Vm::new(Program::load(source, 1).expect("it is fine"), 0, 1);
        run(&mut vm)
    };
    assert_eq!(second_of(1), Ok(3), "the second program read its context");
    assert_eq!(second_of(2), Ok(1), "there is none: it goes on");
    // One that calls itself does so 33 times.
    let mut array = def(Kind::ProgArray, 4, 4, 1);
    array.entries = vec![(vec![0; 4], vec![1, 0, 0, 0])];
    let counter = def(Kind::Array, 4, 8, 1);
    let count = [insn(LD_IMM64, 6, PSEUDO_MAP_VALUE, 0, 1), insn(0, 0, 0, 0, 0)];
    let add = [mov(7, 1), insn(0xdb, 6, 7, 0, 0)];
    let end = [mov(3, 0), call(12), insn(0x79, 0, 6, 0, 0), exit()];
    let insns = [&count[..], &add, &map(2, 0), &end].concat();
    let maps = vec![array, counter];
    let source = Source { insns, entries: vec![0], maps, ..Source::default() };
    let mut vm = Vm::new(Program::load(source, 1).expect("it is fine"), 0, 1);
    assert_eq!(run(&mut vm), Ok(34));
}

#[test]
fn what_runs_is_counted() {
    let mut vm = vm(&[&[insn(0x61, 0, 1, 16, 0), exit()]], Vec::new());
    let mut memory = [0; 20];
    for (queue, times) in [(0, 1), (1, 2), (2, 3), (3, 4), (7, 5), (4, 6)] {
        for _ in 0..times {
            let env = Env { queue, ..Env::default() };
            vm.xdp(&mut Packet::new(&mut memory, 0, 20), env);
        }
    }
    let runs = vm.program().runs(None);
    // What is no action, and a redirect without a target, are aborted.
    assert_eq!((runs.aborted, runs.drop, runs.pass, runs.tx, runs.redirect), (12, 2, 3, 4, 0));
    assert_eq!((runs.total(), vm.program().runs(Some(0)).total()), (21, 0));
    let (faults, last) = vm.program().faults();
    let last = last.expect("there were some").to_string();
    assert_eq!((faults, last.as_str()), (11, "instruction 1: returned 4, which is no XDP action"));
}

#[test]
fn csum_diff_is_that_of_the_kernel() {
    // The sum of 1, 2, 3, 4 in place of 5, 6, 7, 8, with a seed; in one's complement.
    let diff = |from: Option<u32>, to: Option<u32>, seed: i32| {
        let store = |off: i16, v: u32| insn(0x62, 10, 0, off, v as i32);
        let arg = |reg: u8, off: i32, there: bool| {
            [copy(reg, 10), insn(0x07, reg, 0, 0, off), mov(reg + 1, if there { 4 } else { 0 })]
        };
        let set = [store(-4, from.unwrap_or(0)), store(-8, to.unwrap_or(0))];
        let args = [arg(1, -4, from.is_some()), arg(3, -8, to.is_some())].concat();
        value(&[&set, &args, &[mov(5, seed), call(28), exit()]])
    };
    assert_eq!(diff(None, Some(0x0004_0003), 0), Ok(7));
    assert_eq!(diff(None, Some(0xffff_ffff), 1), Ok(1));
    assert_eq!(diff(Some(0x0000_0005), Some(0x0000_0009), 0), Ok(4));
    assert_eq!(diff(Some(0x0000_0009), Some(0x0000_0005), 0), Ok(0xfffb));
    let odd = [mov(2, 3), mov(1, 0), mov(3, 0), mov(4, 0), mov(5, 0), call(28), exit()];
    assert_eq!(value(&[&odd]), Ok(-libc::EINVAL as u32));
}
