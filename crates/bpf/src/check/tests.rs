//! What is refused, and what is said of it.

use super::*;
use crate::insn::code::*;

fn insn(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> Insn {
    Insn::new(code, dst, src, off, imm)
}
fn mov(dst: u8, imm: i32) -> Insn {
    insn(0xb7, dst, 0, 0, imm)
}
fn exit() -> Insn {
    insn(EXIT, 0, 0, 0, 0)
}

fn says(insns: &[Insn]) -> String {
    match check(insns, &[], 1, |_| Some(8)) {
        Ok(_) => "fine".to_owned(),
        Err(err) => err.to_string(),
    }
}

#[test]
fn what_is_no_program_is_refused() {
    assert_eq!(says(&[]), "instruction 0: the program is empty");
    assert_eq!(says(&[mov(0, 0), exit()]), "fine");
    let refused = |bad: Insn, want: &str| {
        let got = says(&[mov(0, 1), mov(1, 1), bad, exit()]);
        assert!(got.starts_with("instruction 2: ") && got.contains(want), "{bad:?}: {got}");
    };
    refused(insn(0xff, 0, 0, 0, 0), "no opcode 0xff");
    refused(insn(0x00, 0, 0, 0, 0), "no opcode 0x00");
    refused(insn(0x8f, 0, 0, 0, 0), "no opcode");
    refused(insn(0x30, 0, 0, 0, 0), "classic BPF");
    refused(insn(0x07, 11, 0, 0, 0), "no register r11");
    refused(insn(0x0f, 0, 12, 0, 0), "no register r12");
    refused(insn(0x07, 10, 0, 0, 0), "r10, the frame pointer");
    refused(insn(0x79, 10, 1, 0, 0), "r10, the frame pointer");
    refused(insn(0x07, 0, 1, 0, 0), "field src");
    refused(insn(0x0f, 0, 1, 0, 5), "field imm");
    refused(insn(0x0f, 0, 1, 5, 0), "field off");
    refused(insn(0x67, 0, 0, 0, 64), "shift by 64");
    refused(insn(0x64, 0, 0, 0, 32), "shift by 32");
    refused(insn(0x37, 0, 0, 0, 0), "constant zero");
    refused(insn(0x94, 0, 0, 0, 0), "constant zero");
    refused(insn(0xdc, 0, 0, 0, 24), "no opcode 0xdc");
    refused(insn(0x05, 0, 0, 7, 0), "jump to 10");
    refused(insn(0x05, 0, 0, -9, 0), "jump to -6");
    refused(insn(0x06, 0, 0, 0, i32::MAX), "jump");
    refused(insn(0xe5, 0, 0, 0, 0), "may_goto");
    refused(insn(CALL, 0, 0, 0, 35), "helper 35 (bpf_get_current_task) is not provided");
    refused(insn(CALL, 0, 0, 0, 9999), "no helper 9999");
    refused(insn(CALL, 0, 2, 0, 1), "kfuncs");
    refused(insn(CALL, 0, 1, 0, 99), "no function at 102");
    refused(insn(0x63, 10, 0, -2, 0), "r10-2 lies outside");
    refused(insn(0x61, 0, 10, -516, 0), "r10-516 lies outside");
    refused(insn(0x61, 0, 10, 0, 0), "r10+0 lies outside");
    refused(insn(0xc3, 1, 0, 0, 0x33), "field imm");
    refused(insn(0xd3, 1, 0, 0, 0), "no opcode 0xd3");
    refused(insn(0x99, 0, 1, 0, 0), "no opcode 0x99");
    refused(insn(0x0f, 0, 3, 0, 0), "r3 is read before");
}

#[test]
fn constants_have_two_halves() {
    let wide = |src, imm| insn(LD_IMM64, 1, src, 0, imm);
    let second = |imm| insn(0, 0, 0, 0, imm);
    let with = |first, then| says(&[mov(0, 0), first, then, exit()]);
    assert_eq!(with(wide(0, 1), second(2)), "fine");
    assert_eq!(with(wide(PSEUDO_MAP, 0), second(0)), "fine");
    assert_eq!(with(wide(PSEUDO_MAP_VALUE, 0), second(7)), "fine");
    assert!(with(wide(PSEUDO_MAP_VALUE, 0), second(8)).contains("outside the value of map 0"));
    assert!(with(wide(PSEUDO_MAP, 1), second(0)).contains("no map 1"));
    assert!(with(wide(PSEUDO_MAP, -1), second(0)).contains("no map -1"));
    assert!(with(wide(PSEUDO_FUNC, 55), second(0)).contains("no function"));
    assert!(with(wide(9, 0), second(0)).contains("not provided"));
    assert!(with(wide(0, 1), mov(0, 0)).contains("second half"));
    assert!(says(&[mov(0, 0), wide(0, 1)]).contains("second half"));
    // A jump into the second half.
    let into = [mov(0, 0), insn(0x05, 0, 0, 1, 0), wide(0, 1), second(0), exit()];
    assert!(says(&into).contains("inside a constant"));
}

#[test]
fn functions_end_and_do_not_call_themselves() {
    let call = |off| insn(CALL, 0, 1, 0, off);
    assert_eq!(says(&[call(1), exit(), mov(0, 1), exit()]), "fine");
    assert!(says(&[mov(0, 0)]).contains("without exit or jump"));
    assert!(says(&[call(1), exit(), mov(0, 1)]).contains("without exit or jump"));
    assert_eq!(
        says(&[call(0), exit()]),
        "instruction 0: a function ends without exit or jump, \
        and would run into what follows"
    );
    assert!(says(&[call(1), exit(), call(-1), exit()]).contains("calls itself"));
    assert!(says(&[call(1), exit(), call(1), exit(), call(-3), exit()]).contains("calls itself"));
    // A jump into another function.
    let into = [insn(CALL, 0, 1, 0, 2), insn(0x05, 0, 0, 2, 0), exit(), mov(0, 1), exit()];
    assert!(says(&into).contains("leaves its function"));
    // Each function calls the next: eight may.
    let chain = |n: usize| {
        let mut insns = Vec::new();
        (1..n).for_each(|_| insns.extend([call(1), exit()]));
        insns.extend([mov(0, 0), exit()]);
        says(&insns)
    };
    assert_eq!(chain(8), "fine");
    assert!(chain(9).contains("more than 8 functions"));
    // Callbacks are functions too.
    let callback = [insn(LD_IMM64, 1, PSEUDO_FUNC, 0, -1), insn(0, 0, 0, 0, 0), mov(0, 0), exit()];
    assert!(says(&callback).contains("calls itself"));
}

#[test]
fn registers_are_written_on_every_way() {
    let jeq = |dst, off| insn(0x15, dst, 0, off, 0);
    assert!(says(&[exit()]).contains("r0 is read before"));
    assert!(says(&[insn(0xbf, 0, 2, 0, 0), exit()]).contains("r2 is read before"));
    // One way leaves r2 unwritten.
    let half = [mov(0, 0), jeq(1, 1), mov(2, 0), insn(0xbf, 0, 2, 0, 0), exit()];
    assert_eq!(says(&half), "instruction 3: r2 is read before anything is written to it");
    let both = [mov(0, 0), mov(2, 1), jeq(1, 1), mov(2, 0), insn(0xbf, 0, 2, 0, 0), exit()];
    assert_eq!(says(&both), "fine");
    // A call destroys its arguments, and keeps the rest.
    let ktime = insn(CALL, 0, 0, 0, 5);
    assert!(says(&[ktime, insn(0xbf, 0, 1, 0, 0), exit()]).contains("r1 is read before"));
    assert_eq!(says(&[insn(0xbf, 6, 1, 0, 0), ktime, insn(0xbf, 0, 6, 0, 0), exit()]), "fine");
    // A helper reads as many as it takes.
    assert!(says(&[insn(CALL, 0, 0, 0, 1), exit()]).contains("r2 is read before"));
    // In a function the arguments are there; without a result it returns nothing to read.
    let function = [insn(CALL, 0, 1, 0, 2), mov(0, 0), exit(), insn(0xbf, 2, 5, 0, 0), exit()];
    assert_eq!(says(&function), "fine");
    // A compare-and-exchange reads r0.
    let cmpxchg = [mov(2, 0), insn(0x7b, 10, 2, -8, 0), insn(0xdb, 10, 2, -8, 0xf1), exit()];
    assert!(says(&cmpxchg).contains("r0 is read before"));
}

/// Goal: whatever bytes come in, an answer comes out, and what is accepted runs without a panic.
#[test]
fn noise_is_answered() {
    use crate::prog::{Program, Source};
    use crate::vm::{Env, Packet, Vm};
    let mut numbers = crate::maps::tests::Numbers(3);
    let mut accepted = 0;
    for _ in 0..60_000 {
        let mut insns = vec![mov(0, 0), mov(2, 3), mov(3, 7), insn(0xbf, 4, 10, 0, 0)];
        for _ in 0..numbers.below(6) {
            let (a, b) = (numbers.next(), numbers.next());
            let reg = |n: u64| (n % 12) as u8;
            let off = [0, 1, -1, -8, 2, (b >> 8) as i16][(b % 6) as usize];
            let imm = [0, 1, -1, 8, 16, 5, b as i32][(a >> 40) as usize % 7];
            insns.push(insn(a as u8, reg(a >> 8), reg(a >> 16), off, imm));
        }
        insns.extend([mov(0, 2), exit()]);
        let source = Source { name: "noise".to_owned(), insns, ..Source::default() };
        let Ok(program) = Program::load(source, 1) else { continue };
        accepted += 1;
        let mut vm = Vm::new(program, 0, 1).limit(10_000);
        let mut memory = [1; 64];
        let _ = vm.run(&mut Packet::new(&mut memory, 20, 60), Env::default());
    }
    assert!(accepted > 1000, "{accepted} were accepted: enough to say something");
}
