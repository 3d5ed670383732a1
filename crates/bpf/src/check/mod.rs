//! What is looked at before a program may run: every instruction is one that there is, jumps stay in
//! their function, registers are written before they are read, calls are of helpers that we have.
//!
//! This is less than the kernel's verifier proves. What it proves beyond, that memory is in bounds
//! and that loops end, the machine checks while it runs.
//!
//! Linux: kernel/bpf/verifier.c `check_subprogs`, `check_cfg`, `do_check`
//! RFCs:  9669

mod decode;
mod error;
mod flow;

#[cfg(test)]
mod tests;

pub use error::{CheckError, Fault};

use crate::Insn;
use crate::insn::code;
use crate::vm::op::Op;

/// Instructions of a program at the most (the kernel's `BPF_COMPLEXITY_LIMIT_INSNS`).
pub const INSNS_MAX: usize = 1_000_000;
/// Functions that may be running at a time (`MAX_CALL_FRAMES`).
pub const FRAMES_MAX: usize = 8;
/// Bytes of stack that a function has (`MAX_BPF_STACK`).
pub const STACK_MAX: usize = 512;

/// A program that may run.
#[derive(Clone, Debug)]
pub struct Code {
    pub(crate) ops: Box<[Op]>,
    /// Where each function begins, and behind the last one the end.
    pub(crate) functions: Box<[u32]>,
}

impl Code {
    /// How many instructions it has, where those of two slots count twice, as in the kernel.
    pub fn len(&self) -> usize {
        self.ops.len()
    }
    /// Never: a program has an end.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
    /// How many functions it has, with the programs themselves.
    pub fn functions(&self) -> usize {
        self.functions.len() - 1
    }
}

/// Checks a program and makes it ready to run. `entries` are the instructions that it may be entered
/// by: its own first one, and those of programs that it may tail-call. A map is named by its number,
/// below `maps`; that a constant is one says the source register ([`code::PSEUDO_MAP`],
/// [`code::PSEUDO_MAP_VALUE`]). `values` tells the size of a map's value where its address may be
/// taken.
///
/// # Errors
/// [`CheckError`]: which instruction, and what of it.
pub fn check(
    insns: &[Insn],
    entries: &[usize],
    maps: usize,
    values: impl Fn(usize) -> Option<u32>,
) -> Result<Code, CheckError> {
    if insns.is_empty() || insns.len() > INSNS_MAX {
        return Err(CheckError { insn: 0, fault: Fault::Length(insns.len()) });
    }
    let mut ops = Vec::with_capacity(insns.len());
    while let Some(insn) = insns.get(ops.len()) {
        let at = ops.len();
        let fail = |fault| CheckError { insn: at, fault };
        if insn.code == code::LD_IMM64 {
            let second = insns.get(at + 1).ok_or(fail(Fault::HalfConstant))?;
            let two = decode::constant(at, *insn, *second, maps, &values).map_err(fail)?;
            ops.extend(two);
        } else {
            ops.push(decode::one(at, *insn).map_err(fail)?);
        }
    }
    let functions = flow::functions(insns, &ops, entries)?;
    flow::jumps(&ops, &functions)?;
    flow::calls(insns, &ops, &functions)?;
    flow::registers(insns, &ops, &functions, entries)?;
    Ok(Code { ops: ops.into(), functions: functions.into_iter().map(|f| f as u32).collect() })
}
