//! All instructions together: functions, jumps, calls, registers.

use super::{CheckError, FRAMES_MAX, Fault};
use crate::Insn;
use crate::helpers::Helper;
use crate::insn::code::{
    ALU, ALU64, CALL, EXIT, JMP, JMP32, LD_IMM64, LDX, PSEUDO_CALL, PSEUDO_FUNC, ST, STX, X,
};
use crate::vm::op::{Op, SECOND};

fn fail(insn: usize, fault: Fault) -> CheckError {
    CheckError { insn, fault }
}

/// The function that the instruction at `at` calls or names, if it does.
fn names(at: usize, insn: Insn) -> Option<i64> {
    let calls = insn.code == CALL && insn.src() == PSEUDO_CALL;
    let points = insn.code == LD_IMM64 && insn.src() == PSEUDO_FUNC;
    (calls || points).then(|| at as i64 + 1 + i64::from(insn.imm))
}

/// Instructions, without the second halves of constants.
fn firsts<'a>(insns: &'a [Insn], ops: &'a [Op]) -> impl Iterator<Item = (usize, Insn)> + 'a {
    insns.iter().copied().enumerate().zip(ops).filter(|(_, op)| op.code != SECOND).map(|(i, _)| i)
}

/// Where functions begin, in order, and behind the last one the end of the program.
pub(super) fn functions(
    insns: &[Insn],
    ops: &[Op],
    entries: &[usize],
) -> Result<Vec<usize>, CheckError> {
    let mut starts: Vec<usize> = entries.to_vec();
    starts.push(0);
    for (at, insn) in firsts(insns, ops) {
        let Some(to) = names(at, insn) else { continue };
        let start = usize::try_from(to).ok();
        let start = start.filter(|&s| ops.get(s).is_some_and(|op| op.code != SECOND));
        starts.push(start.ok_or(fail(at, Fault::Function(to)))?);
    }
    starts.push(ops.len());
    starts.sort_unstable();
    starts.dedup();
    Ok(starts)
}

/// The function, by its number, that holds an instruction.
fn holder(functions: &[usize], at: usize) -> usize {
    functions.partition_point(|&f| f <= at) - 1
}

fn is_jump(code: u8) -> bool {
    matches!(code & 7, JMP | JMP32) && !matches!(code, CALL | EXIT)
}

/// Jumps stay in their function, and functions end.
pub(super) fn jumps(ops: &[Op], functions: &[usize]) -> Result<(), CheckError> {
    for pair in functions.windows(2) {
        let (start, end) = (pair[0], pair[1]);
        for at in start..end {
            let op = ops[at];
            if op.code == SECOND || !is_jump(op.code) {
                continue;
            }
            let to = usize::try_from(op.off).unwrap_or(usize::MAX);
            if !(start..end).contains(&to) || ops[to].code == SECOND {
                return Err(fail(at, Fault::Jump(i64::from(op.off))));
            }
        }
        // A constant's second half is no end either.
        if !matches!(ops[end - 1].code, EXIT | 0x05) {
            return Err(fail(end - 1, Fault::FallsThrough));
        }
    }
    Ok(())
}

/// No function calls itself, and not too many call each other.
pub(super) fn calls(insns: &[Insn], ops: &[Op], functions: &[usize]) -> Result<(), CheckError> {
    let mut calls = vec![Vec::new(); functions.len()];
    for (at, insn) in firsts(insns, ops) {
        if let Some(to) = names(at, insn) {
            calls[holder(functions, at)].push((at, holder(functions, to as usize)));
        }
    }
    // How many functions are called one below the other from each on; None while it is looked at.
    let mut depth: Vec<Option<usize>> = vec![Some(0); functions.len()];
    for root in 0..functions.len() {
        let mut path = vec![(root, 0)];
        if depth[root] != Some(0) {
            continue;
        }
        depth[root] = None;
        while let Some((function, next)) = path.pop() {
            let Some(&(at, callee)) = calls[function].get(next) else {
                let below = calls[function].iter().filter_map(|(_, c)| depth[*c]).max();
                depth[function] = Some(1 + below.unwrap_or(0));
                continue;
            };
            path.push((function, next + 1));
            match depth[callee] {
                None => return Err(fail(at, Fault::Recursion)),
                Some(0) => {
                    depth[callee] = None;
                    path.push((callee, 0));
                }
                Some(_) => {}
            }
        }
        if depth[root].is_some_and(|d| d > FRAMES_MAX) {
            return Err(fail(functions[root], Fault::Depth));
        }
    }
    Ok(())
}

const fn bit(register: u8) -> u16 {
    1 << register
}
/// R1 to R5.
const ARGUMENTS: u16 = 0b11_1110;

/// What an instruction reads and writes, and destroys.
struct Uses {
    reads: u16,
    writes: u16,
    destroys: u16,
}

fn uses(insn: Insn) -> Uses {
    let (dst, src) = (bit(insn.dst()), bit(insn.src()));
    let by_reg = if insn.code & X != 0 { src } else { 0 };
    let (reads, writes, destroys) = match (insn.class(), insn.code) {
        (ALU | ALU64, code) => match code & 0xf0 {
            0xb0 => (by_reg, dst, 0),
            0xd0 => (dst, dst, 0),
            _ => (dst | by_reg, dst, 0),
        },
        (LDX, _) => (src, dst, 0),
        (ST, _) => (dst, 0, 0),
        (STX, code) if code & 0xe0 == crate::insn::code::ATOMIC => match insn.imm {
            // CMPXCHG compares with R0 and returns in it.
            0xf1 => (dst | src | bit(0), bit(0), 0),
            fetch if fetch & 1 != 0 => (dst | src, src, 0),
            _ => (dst | src, 0, 0),
        },
        (STX, _) => (dst | src, 0, 0),
        (_, CALL) => {
            // What a function reads of its arguments is seen where it reads them.
            let helper = Helper::from_number(insn.imm).filter(|_| insn.src() == 0);
            let args = helper.map_or(0, Helper::arguments);
            ((bit(args + 1) - 1) & ARGUMENTS, bit(0), ARGUMENTS)
        }
        (_, LD_IMM64) => (0, dst, 0),
        (JMP | JMP32, code) if code & 0xf0 == 0 => (0, 0, 0),
        (JMP | JMP32, EXIT) => (0, 0, 0),
        (JMP | JMP32, _) => (dst | by_reg, 0, 0),
        _ => (0, 0, 0),
    };
    Uses { reads, writes, destroys }
}

/// Registers are written before they are read, on every way that leads there.
pub(super) fn registers(
    insns: &[Insn],
    ops: &[Op],
    functions: &[usize],
    entries: &[usize],
) -> Result<(), CheckError> {
    // What is written on all ways that lead to an instruction; 0 = no way was found yet, since the
    // frame pointer always is.
    let mut known = vec![0u16; ops.len()];
    let mut entries = entries.to_vec();
    entries.sort_unstable();
    for &start in &functions[..functions.len() - 1] {
        let program = start == 0 || entries.binary_search(&start).is_ok();
        let given = bit(10) | if program { bit(1) } else { ARGUMENTS };
        let mut todo = vec![(start, given)];
        while let Some((at, have)) = todo.pop() {
            let have = if known[at] == 0 { have } else { have & known[at] };
            if have == known[at] {
                continue;
            }
            known[at] = have;
            let (insn, op) = (insns[at], ops[at]);
            let Uses { reads, writes, destroys } = uses(insn);
            // Only programs have to return something.
            let reads = reads | if op.code == EXIT && program { bit(0) } else { 0 };
            let missing = reads & !have;
            if missing != 0 {
                return Err(fail(at, Fault::Unwritten(missing.trailing_zeros() as u8)));
            }
            let then = have & !destroys | writes;
            if is_jump(op.code) {
                todo.push((op.off as usize, then));
            }
            match op.code {
                EXIT | 0x05 => {}
                LD_IMM64 => todo.push((at + 2, then)),
                _ => todo.push((at + 1, then)),
            }
        }
    }
    Ok(())
}
