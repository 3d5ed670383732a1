//! Why a program may not run.

use std::fmt;

use super::{FRAMES_MAX, INSNS_MAX, STACK_MAX};
use crate::helpers::NAMES;

/// Why a program may not run: which instruction, counted from 0 as bpftool and the verifier do, and
/// what of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckError {
    /// The instruction.
    pub insn: usize,
    /// What is wrong with it.
    pub fault: Fault,
}

/// What is wrong with an instruction.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The program has no instruction, or too many.
    Length(usize),
    /// RFC 9669 knows no such opcode, or not with these fields.
    Opcode(u8),
    /// The instruction exists, but XDP programs may not have it, or we lack it; which.
    Refused(&'static str),
    /// A field that has to be zero is not.
    Reserved(u8, &'static str),
    /// There is no such register.
    Register(u8),
    /// The frame pointer is only read.
    FramePointer,
    /// The second half of a 64-bit constant is missing, or is none.
    HalfConstant,
    /// There is no such map.
    Map(i32),
    /// The address lies outside the map's value, or this kind of map has no address.
    MapValue(i32, u32),
    /// A constant shift of more than the register's width.
    Shift(i32),
    /// A constant division by zero.
    DivisionByZero,
    /// A jump leads out of its function, or into a constant.
    Jump(i64),
    /// A call, or the address of a function, leads nowhere.
    Function(i64),
    /// The last instruction of a function lets the next function run.
    FallsThrough,
    /// A function calls itself, in one or several steps.
    Recursion,
    /// Too many functions call each other.
    Depth,
    /// A memory access beyond the function's stack.
    Stack(i32),
    /// A register is read that nothing wrote.
    Unwritten(u8),
    /// A helper that programs here do not have.
    Helper(i32),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instruction {}: {}", self.insn, self.fault)
    }
}
impl std::error::Error for CheckError {}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Fault::Length(0) => f.write_str("the program is empty"),
            Fault::Length(n) => write!(f, "the program has {n} instructions, of {INSNS_MAX}"),
            Fault::Opcode(code) => write!(f, "there is no opcode {code:#04x}"),
            Fault::Refused(what) => f.write_str(what),
            Fault::Reserved(code, field) => {
                write!(f, "of opcode {code:#04x} the field {field} has to be zero")
            }
            Fault::Register(r) => write!(f, "there is no register r{r}"),
            Fault::FramePointer => f.write_str("r10, the frame pointer, is only read"),
            Fault::HalfConstant => f.write_str("a 64-bit constant lacks its second half"),
            Fault::Map(n) => write!(f, "the program has no map {n}"),
            Fault::MapValue(map, offset) => write!(
                f,
                "offset {offset} has no address: it lies outside the value of map {map}, or the \
                 map is no array"
            ),
            Fault::Shift(n) => write!(f, "a shift by {n} is wider than the register"),
            Fault::DivisionByZero => f.write_str("a division by the constant zero"),
            Fault::Jump(to) => {
                write!(f, "a jump to {to} leaves its function, or ends inside a constant")
            }
            Fault::Function(to) => write!(f, "there is no function at {to}"),
            Fault::FallsThrough => {
                f.write_str("a function ends without exit or jump, and would run into what follows")
            }
            Fault::Recursion => f.write_str("a function calls itself"),
            Fault::Depth => write!(f, "more than {FRAMES_MAX} functions call each other"),
            Fault::Stack(off) => {
                write!(f, "r10{off:+} lies outside the stack of {STACK_MAX} bytes")
            }
            Fault::Unwritten(r) => write!(f, "r{r} is read before anything is written to it"),
            Fault::Helper(n) => {
                let name = usize::try_from(n).ok().and_then(|n| NAMES.get(n));
                match name {
                    Some(name) => write!(f, "helper {n} (bpf_{name}) is not provided here"),
                    None => write!(f, "there is no helper {n}"),
                }
            }
        }
    }
}
