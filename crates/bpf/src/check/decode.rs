//! One instruction: is it one that there is, and what does it come to?

use super::{Fault, STACK_MAX};
use crate::Insn;
use crate::helpers::Helper;
use crate::insn::code::*;
use crate::vm::op::*;

const R10: u8 = 10;

/// What the instruction at `at` is.
pub(super) fn one(at: usize, insn: Insn) -> Result<Op, Fault> {
    if insn.dst() > R10 || insn.src() > R10 {
        return Err(Fault::Register(insn.dst().max(insn.src())));
    }
    match insn.class() {
        ALU | ALU64 => alu(insn),
        JMP | JMP32 => jump(at, insn),
        LDX | ST | STX => memory(insn),
        _ => match insn.code & 0xe0 {
            0x20 | 0x40 => Err(Fault::Refused(
                "loads of classic BPF (BPF_ABS, BPF_IND) are for socket filters, not for XDP",
            )),
            _ => Err(Fault::Opcode(insn.code)),
        },
    }
}

fn op(insn: Insn, code: u8, imm: i64) -> Op {
    Op { code, dst: insn.dst(), src: insn.src(), off: i32::from(insn.off), imm }
}

fn zero(insn: Insn, src: bool, off: bool, imm: bool) -> Result<(), Fault> {
    match insn {
        i if src && i.src() != 0 => Err(Fault::Reserved(i.code, "src")),
        i if off && i.off != 0 => Err(Fault::Reserved(i.code, "off")),
        i if imm && i.imm != 0 => Err(Fault::Reserved(i.code, "imm")),
        _ => Ok(()),
    }
}

fn alu(insn: Insn) -> Result<Op, Fault> {
    let wide = insn.class() == ALU64;
    let by_reg = insn.code & X != 0;
    let name = insn.code & 0xf0;
    if insn.dst() == R10 {
        return Err(Fault::FramePointer);
    }
    match name {
        // END
        0xd0 => return end(insn, wide, by_reg),
        // NEG
        0x80 => {
            zero(insn, true, true, true)?;
            return if by_reg { Err(Fault::Opcode(insn.code)) } else { Ok(op(insn, insn.code, 0)) };
        }
        0xe0 | 0xf0 => return Err(Fault::Opcode(insn.code)),
        _ => zero(insn, !by_reg, false, by_reg)?,
    }
    let imm = if wide { i64::from(insn.imm) } else { i64::from(insn.imm as u32) };
    let code = match (name, insn.off) {
        (_, 0) => insn.code,
        // DIV and MOD, signed
        (0x30, 1) => insn.code - 0x30 + 0xe0,
        (0x90, 1) => insn.code - 0x90 + 0xf0,
        // MOV, with extension of the sign
        (0xb0, 8) if by_reg => [SX8_32, SX8_64][usize::from(wide)],
        (0xb0, 16) if by_reg => [SX16_32, SX16_64][usize::from(wide)],
        (0xb0, 32) if by_reg && wide => SX32_64,
        (0xb0, 1) if by_reg && wide => {
            return Err(Fault::Refused(
                "casts of address spaces are for arenas, which are not here",
            ));
        }
        _ => return Err(Fault::Reserved(insn.code, "off")),
    };
    if !by_reg {
        let width = if wide { 64 } else { 32 };
        match name {
            0x30 | 0x90 if insn.imm == 0 => return Err(Fault::DivisionByZero),
            0x60 | 0x70 | 0xc0 if !(0..width).contains(&insn.imm) => {
                return Err(Fault::Shift(insn.imm));
            }
            _ => {}
        }
    }
    Ok(op(insn, code, imm))
}

/// Byte order: our memory is little-endian, so that to little-endian is to cut off.
fn end(insn: Insn, wide: bool, big: bool) -> Result<Op, Fault> {
    zero(insn, true, true, false)?;
    if wide && big {
        return Err(Fault::Opcode(insn.code));
    }
    let code = match (wide || big, insn.imm) {
        (false, 16) => ZX16,
        (false, 32) => ZX32,
        (false, 64) => NOP,
        (true, 16) => SWAP16,
        (true, 32) => SWAP32,
        (true, 64) => SWAP64,
        _ => return Err(Fault::Opcode(insn.code)),
    };
    Ok(op(insn, code, 0))
}

fn jump(at: usize, insn: Insn) -> Result<Op, Fault> {
    let name = insn.code & 0xf0;
    let (by_reg, wide) = (insn.code & X != 0, insn.class() == JMP);
    let target = |off: i64| at as i64 + 1 + off;
    // Where it leads is checked when all functions are known.
    let to = |off: i64| i32::try_from(target(off)).map_err(|_| Fault::Jump(target(off)));
    match (name, wide, by_reg) {
        // JA counts by 16 bits, or, as a 32-bit one, by 32.
        (0x00, true, false) => {
            zero(insn, true, false, true)?;
            Ok(Op { off: to(i64::from(insn.off))?, ..op(insn, 0x05, 0) })
        }
        (0x00, false, false) => {
            zero(insn, true, true, false)?;
            Ok(Op { off: to(i64::from(insn.imm))?, ..op(insn, 0x05, 0) })
        }
        (0x80, true, false) => call(insn, to(i64::from(insn.imm))),
        (0x90, true, false) => {
            zero(insn, true, true, true)?;
            Ok(op(insn, EXIT, 0))
        }
        (0xe0, true, false) => Err(Fault::Refused("may_goto is not provided: bound the loop")),
        (0x00 | 0x80 | 0x90 | 0xe0 | 0xf0, ..) => Err(Fault::Opcode(insn.code)),
        _ => {
            zero(insn, !by_reg, false, by_reg)?;
            let imm = if wide { i64::from(insn.imm) } else { i64::from(insn.imm as u32) };
            Ok(Op { off: to(i64::from(insn.off))?, ..op(insn, insn.code, imm) })
        }
    }
}

fn call(insn: Insn, function: Result<i32, Fault>) -> Result<Op, Fault> {
    if insn.off != 0 && insn.src() != PSEUDO_KFUNC_CALL {
        return Err(Fault::Reserved(insn.code, "off"));
    }
    match insn.src() {
        0 => match Helper::from_number(insn.imm) {
            Some(helper) => Ok(op(insn, CALL, i64::from(helper as u8))),
            None => Err(Fault::Helper(insn.imm)),
        },
        PSEUDO_CALL => Ok(Op { off: function?, ..op(insn, CALL_FN, 0) }),
        PSEUDO_KFUNC_CALL => {
            Err(Fault::Refused("functions of the kernel's own (kfuncs) are not provided here"))
        }
        _ => Err(Fault::Reserved(insn.code, "src")),
    }
}

fn memory(insn: Insn) -> Result<Op, Fault> {
    let (class, mode, wide) = (insn.class(), insn.code & 0xe0, insn.code & 0x18 == 0x18);
    let base = if class == LDX { insn.src() } else { insn.dst() };
    if class == LDX && insn.dst() == R10 {
        return Err(Fault::FramePointer);
    }
    let size = [4, 2, 1, 8][usize::from(insn.code >> 3 & 3)];
    let off = i32::from(insn.off);
    if base == R10 && !(-(STACK_MAX as i32)..=-size).contains(&off) {
        return Err(Fault::Stack(off));
    }
    match (class, mode) {
        (LDX, MEM) => zero(insn, false, false, true)?,
        (LDX, MEMSX) if !wide => zero(insn, false, false, true)?,
        (ST, MEM) => zero(insn, true, false, false)?,
        (STX, MEM) => zero(insn, false, false, true)?,
        (STX, ATOMIC) if size >= 4 => match insn.imm {
            // ADD, OR, AND, XOR, each with or without FETCH; XCHG, CMPXCHG.
            0x00 | 0x40 | 0x50 | 0xa0 | 0x01 | 0x41 | 0x51 | 0xa1 | 0xe1 | 0xf1 => {}
            0x100 | 0x110 => {
                return Err(Fault::Refused(
                    "atomic loads and stores with order (load_acquire, store_release) are not \
                     provided: use an atomic exchange",
                ));
            }
            _ => return Err(Fault::Reserved(insn.code, "imm")),
        },
        _ => return Err(Fault::Opcode(insn.code)),
    }
    Ok(op(insn, insn.code, i64::from(insn.imm)))
}

/// The two slots of a 64-bit constant.
pub(super) fn constant(
    at: usize,
    first: Insn,
    second: Insn,
    maps: usize,
    values: &impl Fn(usize) -> Option<u32>,
) -> Result<[Op; 2], Fault> {
    if first.dst() >= R10 {
        let fault = if first.dst() == R10 { Fault::FramePointer } else { Fault::Register(15) };
        return Err(fault);
    }
    if second.code != 0 || second.regs != 0 || second.off != 0 {
        return Err(Fault::HalfConstant);
    }
    zero(first, false, true, false)?;
    let map = usize::try_from(first.imm).ok().filter(|&m| m < maps).ok_or(Fault::Map(first.imm));
    let imm = match first.src() {
        0 => u64::from(first.imm as u32) | u64::from(second.imm as u32) << 32,
        PSEUDO_MAP => {
            zero(second, false, false, true)?;
            map_address(map?)
        }
        PSEUDO_MAP_VALUE => {
            let (map, offset) = (map?, second.imm as u32);
            if values(map).is_none_or(|size| offset >= size) {
                return Err(Fault::MapValue(first.imm, offset));
            }
            value_address(map, u64::from(offset))
        }
        PSEUDO_FUNC => {
            zero(second, false, false, true)?;
            let to = at as i64 + 1 + i64::from(first.imm);
            let to = u32::try_from(to).map_err(|_| Fault::Function(to))?;
            TAG_FUNC << TAG | u64::from(to)
        }
        _ => return Err(Fault::Refused("this kind of constant (by its source) is not provided")),
    };
    let op = Op { src: 0, off: 0, imm: imm as i64, ..op(first, LD_IMM64, 0) };
    Ok([op, Op { code: SECOND, dst: 0, src: 0, off: 0, imm: 0 }])
}
