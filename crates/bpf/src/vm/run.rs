//! The loop over instructions.
//!
//! The loop itself, [`straight`], has only what most instructions need: registers, the packet and the stack,
//! in a frame so small that it stays in the processor's registers. Calls, and memory elsewhere, are done
//! outside of it, after which it goes on.
//!
//! RFCs: 9669 §4, §5

use super::call::Called;
use super::fault::{Bad, RunFault};
use super::mem::{Mem, Near};
use super::op::*;
use crate::check::{FRAMES_MAX, STACK_MAX};
use crate::helpers::Helper;

/// Registers R0 to R10; there are sixteen so that four bits name one.
pub(super) type Regs = [u64; 16];

/// What a call saves, and its end puts back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Saved {
    pc: usize,
    regs: [u64; 4],
    /// The function is called again (`bpf_loop`).
    again: Option<Again>,
}

/// What the functions that are running have saved; what a run leaves here the next one writes over.
pub(super) type Frames = [Saved; FRAMES_MAX];

/// A loop of `bpf_loop`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Again {
    pub function: usize,
    pub done: u64,
    pub times: u64,
    pub context: u64,
}

/// One run of a program.
pub(super) struct Run<'a, 'p, 'h> {
    pub ops: &'a [Op],
    pub functions: &'a [u32],
    pub mem: Mem<'a, 'p>,
    pub host: super::call::Host<'a, 'h>,
    pub frames: &'a mut Frames,
    /// Instructions that may still be run; jumps back and calls take from it.
    pub fuel: u64,
}

fn error(insn: usize, (bad, value, size): Wrong, mem: &Mem<'_, '_>) -> RunFault {
    let packet = (mem.packet.len() as u32, mem.packet.data() as u32);
    RunFault { insn: insn as u32, bad, value, size: size as u8, packet }
}

/// What was wrong, with which value, about how many bytes.
type Wrong = (Bad, u64, usize);

fn fuel(bad: Bad) -> Wrong {
    (bad, 0, 0)
}

/// Why [`straight`] went no further: the instruction before its place is not one of its own.
enum Why {
    /// It reads or writes memory that is neither the packet's nor the stack's.
    Far,
    Atomic,
    Call,
    CallFn,
    Exit,
    /// It was a jump back for which there is no fuel.
    Fuel,
    /// There is no such instruction.
    Unknown,
}

/// What the run goes on with.
enum Next {
    At(usize),
    Returned(u64),
}

impl Run<'_, '_, '_> {
    /// Takes what a function costs that is run once more from its beginning.
    fn charge(&mut self, function: usize) -> Result<(), Bad> {
        let at = self.functions.partition_point(|&f| f as usize <= function);
        let end = self.functions.get(at).map_or(self.ops.len(), |&f| f as usize);
        self.fuel = self.fuel.checked_sub((end - function) as u64).ok_or(Bad::Fuel)?;
        Ok(())
    }

    /// Runs the function at `entry` to its end; what it returned.
    pub fn run(&mut self, entry: usize) -> Result<u64, RunFault> {
        let ops = self.ops;
        let mut r: Regs = [0; 16];
        let mut depth = 0;
        let mut pc = entry;
        r[1] = TAG_CTX << TAG;
        r[10] = STACK_BASE + STACK_MAX as u64;
        self.mem.top = STACK_MAX;
        loop {
            let why = straight(ops, &mut r, &mut pc, self.mem.near(), &mut self.fuel);
            let op = &ops[pc - 1];
            let next = match why {
                Why::Far => far(&mut self.mem, &mut r, op).map(|()| Next::At(pc)),
                Why::Atomic => atomic(&mut self.mem, &mut r, op).map(|()| Next::At(pc)),
                Why::Call => self.helper(&mut r, op, pc, &mut depth).map(Next::At),
                Why::CallFn => {
                    let function = op.off as usize;
                    self.enter(&mut r, (pc, function), None, &mut depth).map(Next::At)
                }
                Why::Exit => self.exit(&mut r, &mut depth),
                Why::Fuel => Err(fuel(Bad::Fuel)),
                Why::Unknown => unreachable!("opcode {:#x} was checked", op.code),
            };
            match next {
                Ok(Next::At(to)) => pc = to,
                Ok(Next::Returned(value)) => return Ok(value),
                Err(wrong) => return Err(error(pc - 1, wrong, &self.mem)),
            }
        }
    }

    /// Calls a helper; where the program goes on.
    #[inline]
    fn helper(
        &mut self,
        r: &mut Regs,
        op: &Op,
        pc: usize,
        depth: &mut usize,
    ) -> Result<usize, Wrong> {
        match self.call(op.imm as u8, [r[1], r[2], r[3], r[4], r[5]]) {
            Ok(Called::Value(value)) => {
                r[0] = value;
                Ok(pc)
            }
            Ok(Called::Tail(to)) => {
                self.charge(to).map_err(fuel)?;
                r[1] = TAG_CTX << TAG;
                Ok(to)
            }
            Ok(Called::Loop(again)) => {
                let to = self.enter(r, (pc, again.function), Some(again), depth)?;
                (r[1], r[2]) = (0, again.context);
                Ok(to)
            }
            Err((bad, value)) => Err((bad, value, 0)),
        }
    }

    /// Enters a function, which returns to `from`.
    fn enter(
        &mut self,
        r: &mut Regs,
        (from, function): (usize, usize),
        again: Option<Again>,
        depth: &mut usize,
    ) -> Result<usize, Wrong> {
        if *depth + 1 >= FRAMES_MAX {
            return Err((Bad::Depth, 0, 0));
        }
        self.charge(function).map_err(fuel)?;
        self.frames[*depth] = Saved { pc: from, regs: [r[6], r[7], r[8], r[9]], again };
        *depth += 1;
        r[10] += STACK_MAX as u64;
        self.mem.top += STACK_MAX;
        Ok(function)
    }

    /// The end of a function, or of the program.
    #[inline]
    fn exit(&mut self, r: &mut Regs, depth: &mut usize) -> Result<Next, Wrong> {
        if *depth == 0 {
            let left = self.mem.making.iter().any(|m| m.live);
            return if left { Err((Bad::RecordLeft, 0, 0)) } else { Ok(Next::Returned(r[0])) };
        }
        let saved = &mut self.frames[*depth - 1];
        [r[6], r[7], r[8], r[9]] = saved.regs;
        if let Some(again) = &mut saved.again {
            again.done += 1;
            if r[0] == 0 && again.done < again.times {
                (r[1], r[2]) = (again.done, again.context);
                let function = again.function;
                self.charge(function).map_err(fuel)?;
                return Ok(Next::At(function));
            }
            r[0] = again.done;
        }
        let pc = saved.pc;
        *depth -= 1;
        r[10] -= STACK_MAX as u64;
        self.mem.top -= STACK_MAX;
        Ok(Next::At(pc))
    }
}

/// Runs instructions from `place` on, up to one that is not done here; `place` is behind it then.
///
/// One match over all instructions: it is as long as there are instructions.
#[inline(never)]
fn straight(
    ops: &[Op],
    r: &mut Regs,
    place: &mut usize,
    mut near: Near<'_>,
    fuel: &mut u64,
) -> Why {
    let mut pc = *place;
    loop {
        // Checked: a program does not run beyond its end.
        let op = &ops[pc];
        pc += 1;
        let (d, s) = (op.dst as usize & 15, op.src as usize & 15);
        macro_rules! stop {
            ($why:expr) => {{
                *place = pc;
                return $why;
            }};
        }
        macro_rules! alu {
            ($b:expr, $f:expr) => {
                r[d] = both::<u64>(r[d], $b, $f)
            };
        }
        macro_rules! alu32 {
            ($b:expr, $f:expr) => {
                r[d] = u64::from(both::<u32>(r[d] as u32, $b as u32, $f))
            };
        }
        macro_rules! jump {
            ($cond:expr) => {
                if $cond {
                    let to = op.off as usize;
                    if to < pc {
                        match fuel.checked_sub((pc - to) as u64) {
                            Some(left) => *fuel = left,
                            None => stop!(Why::Fuel),
                        }
                    }
                    pc = to;
                }
            };
        }
        macro_rules! load {
            ($n:literal, $kind:ty) => {{
                match near.load::<$n>(r[s].wrapping_add_signed(i64::from(op.off))) {
                    Some(value) => r[d] = value as $kind as u64,
                    None => stop!(Why::Far),
                }
            }};
        }
        macro_rules! store {
            ($n:literal, $value:expr) => {{
                let at = r[d].wrapping_add_signed(i64::from(op.off));
                if !near.store::<$n>(at, $value) {
                    stop!(Why::Far);
                }
            }};
        }
        let k = op.imm as u64;
        match op.code {
            0x07 => alu!(k, |a, b| a.wrapping_add(b)),
            0x0f => alu!(r[s], |a, b| a.wrapping_add(b)),
            0x17 => alu!(k, |a, b| a.wrapping_sub(b)),
            0x1f => alu!(r[s], |a, b| a.wrapping_sub(b)),
            0x27 => alu!(k, |a, b| a.wrapping_mul(b)),
            0x2f => alu!(r[s], |a, b| a.wrapping_mul(b)),
            0x37 => alu!(k, |a, b| a.checked_div(b).unwrap_or(0)),
            0x3f => alu!(r[s], |a, b| a.checked_div(b).unwrap_or(0)),
            0x47 => alu!(k, |a, b| a | b),
            0x4f => alu!(r[s], |a, b| a | b),
            0x57 => alu!(k, |a, b| a & b),
            0x5f => alu!(r[s], |a, b| a & b),
            0x67 => alu!(k, |a, b| a << (b & 63)),
            0x6f => alu!(r[s], |a, b| a << (b & 63)),
            0x77 => alu!(k, |a, b| a >> (b & 63)),
            0x7f => alu!(r[s], |a, b| a >> (b & 63)),
            0x87 => r[d] = r[d].wrapping_neg(),
            0x97 => alu!(k, |a, b| a.checked_rem(b).unwrap_or(a)),
            0x9f => alu!(r[s], |a, b| a.checked_rem(b).unwrap_or(a)),
            0xa7 => alu!(k, |a, b| a ^ b),
            0xaf => alu!(r[s], |a, b| a ^ b),
            0xb7 => r[d] = k,
            0xbf => r[d] = r[s],
            0xc7 => alu!(k, |a, b| ((a as i64) >> (b & 63)) as u64),
            0xcf => alu!(r[s], |a, b| ((a as i64) >> (b & 63)) as u64),
            SDIV64_K => alu!(k, sdiv64),
            SDIV64_X => alu!(r[s], sdiv64),
            SMOD64_K => alu!(k, smod64),
            SMOD64_X => alu!(r[s], smod64),

            0x04 => alu32!(k, |a, b| a.wrapping_add(b)),
            0x0c => alu32!(r[s], |a, b| a.wrapping_add(b)),
            0x14 => alu32!(k, |a, b| a.wrapping_sub(b)),
            0x1c => alu32!(r[s], |a, b| a.wrapping_sub(b)),
            0x24 => alu32!(k, |a, b| a.wrapping_mul(b)),
            0x2c => alu32!(r[s], |a, b| a.wrapping_mul(b)),
            0x34 => alu32!(k, |a, b| a.checked_div(b).unwrap_or(0)),
            0x3c => alu32!(r[s], |a, b| a.checked_div(b).unwrap_or(0)),
            0x44 => alu32!(k, |a, b| a | b),
            0x4c => alu32!(r[s], |a, b| a | b),
            0x54 => alu32!(k, |a, b| a & b),
            0x5c => alu32!(r[s], |a, b| a & b),
            0x64 => alu32!(k, |a, b| a << (b & 31)),
            0x6c => alu32!(r[s], |a, b| a << (b & 31)),
            0x74 => alu32!(k, |a, b| a >> (b & 31)),
            0x7c => alu32!(r[s], |a, b| a >> (b & 31)),
            0x84 => r[d] = u64::from((r[d] as u32).wrapping_neg()),
            0x94 => alu32!(k, |a, b| a.checked_rem(b).unwrap_or(a)),
            0x9c => alu32!(r[s], |a, b| a.checked_rem(b).unwrap_or(a)),
            0xa4 => alu32!(k, |a, b| a ^ b),
            0xac => alu32!(r[s], |a, b| a ^ b),
            0xb4 => r[d] = u64::from(k as u32),
            0xbc => r[d] = u64::from(r[s] as u32),
            0xc4 => alu32!(k, |a, b| ((a as i32) >> (b & 31)) as u32),
            0xcc => alu32!(r[s], |a, b| ((a as i32) >> (b & 31)) as u32),
            SDIV32_K => alu32!(k, sdiv32),
            SDIV32_X => alu32!(r[s], sdiv32),
            SMOD32_K => alu32!(k, smod32),
            SMOD32_X => alu32!(r[s], smod32),

            SX8_64 => r[d] = r[s] as i8 as u64,
            SX16_64 => r[d] = r[s] as i16 as u64,
            SX32_64 => r[d] = r[s] as i32 as u64,
            SX8_32 => r[d] = u64::from(r[s] as i8 as u32),
            SX16_32 => r[d] = u64::from(r[s] as i16 as u32),
            ZX16 => r[d] = u64::from(r[d] as u16),
            ZX32 => r[d] = u64::from(r[d] as u32),
            NOP => {}
            SWAP16 => r[d] = u64::from((r[d] as u16).swap_bytes()),
            SWAP32 => r[d] = u64::from((r[d] as u32).swap_bytes()),
            SWAP64 => r[d] = r[d].swap_bytes(),

            0x05 => jump!(true),
            0x15 => jump!(r[d] == k),
            0x1d => jump!(r[d] == r[s]),
            0x25 => jump!(r[d] > k),
            0x2d => jump!(r[d] > r[s]),
            0x35 => jump!(r[d] >= k),
            0x3d => jump!(r[d] >= r[s]),
            0x45 => jump!(r[d] & k != 0),
            0x4d => jump!(r[d] & r[s] != 0),
            0x55 => jump!(r[d] != k),
            0x5d => jump!(r[d] != r[s]),
            0x65 => jump!(r[d] as i64 > k as i64),
            0x6d => jump!(r[d] as i64 > r[s] as i64),
            0x75 => jump!(r[d] as i64 >= k as i64),
            0x7d => jump!(r[d] as i64 >= r[s] as i64),
            0xa5 => jump!(r[d] < k),
            0xad => jump!(r[d] < r[s]),
            0xb5 => jump!(r[d] <= k),
            0xbd => jump!(r[d] <= r[s]),
            0xc5 => jump!((r[d] as i64) < k as i64),
            0xcd => jump!((r[d] as i64) < r[s] as i64),
            0xd5 => jump!(r[d] as i64 <= k as i64),
            0xdd => jump!(r[d] as i64 <= r[s] as i64),
            0x16 => jump!(r[d] as u32 == k as u32),
            0x1e => jump!(r[d] as u32 == r[s] as u32),
            0x26 => jump!(r[d] as u32 > k as u32),
            0x2e => jump!(r[d] as u32 > r[s] as u32),
            0x36 => jump!(r[d] as u32 >= k as u32),
            0x3e => jump!(r[d] as u32 >= r[s] as u32),
            0x46 => jump!(r[d] as u32 & k as u32 != 0),
            0x4e => jump!(r[d] as u32 & r[s] as u32 != 0),
            0x56 => jump!(r[d] as u32 != k as u32),
            0x5e => jump!(r[d] as u32 != r[s] as u32),
            0x66 => jump!(r[d] as i32 > k as i32),
            0x6e => jump!(r[d] as i32 > r[s] as i32),
            0x76 => jump!(r[d] as i32 >= k as i32),
            0x7e => jump!(r[d] as i32 >= r[s] as i32),
            0xa6 => jump!((r[d] as u32) < k as u32),
            0xae => jump!((r[d] as u32) < r[s] as u32),
            0xb6 => jump!(r[d] as u32 <= k as u32),
            0xbe => jump!(r[d] as u32 <= r[s] as u32),
            0xc6 => jump!((r[d] as i32) < k as i32),
            0xce => jump!((r[d] as i32) < r[s] as i32),
            0xd6 => jump!(r[d] as i32 <= k as i32),
            0xde => jump!(r[d] as i32 <= r[s] as i32),

            0x61 => {
                let at = r[s].wrapping_add_signed(i64::from(op.off));
                match near.load::<4>(at).or_else(|| near.end(at)) {
                    Some(value) => r[d] = value,
                    None => stop!(Why::Far),
                }
            }
            0x69 => load!(2, u16),
            0x71 => load!(1, u8),
            0x79 => load!(8, u64),
            0x81 => load!(4, i32),
            0x89 => load!(2, i16),
            0x91 => load!(1, i8),
            0x62 => store!(4, k),
            0x6a => store!(2, k),
            0x72 => store!(1, k),
            0x7a => store!(8, k),
            0x63 => store!(4, r[s]),
            0x6b => store!(2, r[s]),
            0x73 => store!(1, r[s]),
            0x7b => store!(8, r[s]),
            LD_IMM64 => {
                r[d] = k;
                pc += 1;
            }
            0xc3 | 0xdb => stop!(Why::Atomic),
            CALL => stop!(Why::Call),
            CALL_FN => stop!(Why::CallFn),
            EXIT => stop!(Why::Exit),
            _ => stop!(Why::Unknown),
        }
    }
}

/// A load or store of memory that lies elsewhere than packet and stack.
#[inline]
fn far(mem: &mut Mem<'_, '_>, r: &mut Regs, op: &Op) -> Result<(), Wrong> {
    let (d, s) = (op.dst as usize & 15, op.src as usize & 15);
    let size = [4, 2, 1, 8][usize::from(op.code >> 3 & 3)];
    let base = if op.code & 7 == LDX { r[s] } else { r[d] };
    let at = base.wrapping_add_signed(i64::from(op.off));
    let wrong = |bad| (bad, at, size);
    match op.code & 0xe7 {
        // Loads, plain and with the sign; stores of a constant and of a register.
        0x61 => r[d] = mem.load_far(at, size).map_err(wrong)?,
        0x81 => {
            let unused = 64 - size as u32 * 8;
            let value = mem.load_far(at, size).map_err(wrong)?;
            r[d] = ((value << unused) as i64 >> unused) as u64;
        }
        0x62 => mem.store_far(at, size, op.imm as u64).map_err(wrong)?,
        _ => mem.store_far(at, size, r[s]).map_err(wrong)?,
    }
    Ok(())
}

const LDX: u8 = crate::insn::code::LDX;
const LD_IMM64: u8 = crate::insn::code::LD_IMM64;
const CALL: u8 = crate::insn::code::CALL;
const EXIT: u8 = crate::insn::code::EXIT;

#[inline(always)]
fn both<T>(a: T, b: T, f: impl Fn(T, T) -> T) -> T {
    f(a, b)
}

fn sdiv64(a: u64, b: u64) -> u64 {
    if b == 0 { 0 } else { (a as i64).wrapping_div(b as i64) as u64 }
}
fn smod64(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { (a as i64).wrapping_rem(b as i64) as u64 }
}
fn sdiv32(a: u32, b: u32) -> u32 {
    if b == 0 { 0 } else { (a as i32).wrapping_div(b as i32) as u32 }
}
fn smod32(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { (a as i32).wrapping_rem(b as i32) as u32 }
}

/// An atomic operation: which one says the instruction's constant.
#[inline(never)]
fn atomic(mem: &mut Mem<'_, '_>, r: &mut Regs, op: &Op) -> Result<(), Wrong> {
    let (dst, src, what) = (op.dst as usize & 15, op.src as usize & 15, op.imm);
    let size = if op.code == 0xc3 { 4 } else { 8 };
    let at = r[dst].wrapping_add_signed(i64::from(op.off));
    let cut = |v: u64| if size == 4 { u64::from(v as u32) } else { v };
    let (value, expected) = (cut(r[src]), cut(r[0]));
    let old = mem.atomic(at, size, |old| match what & 0xf0 {
        0x00 => old.wrapping_add(value),
        0x40 => old | value,
        0x50 => old & value,
        0xa0 => old ^ value,
        0xf0 if old != expected => old,
        // XCHG, and CMPXCHG of what was expected.
        _ => value,
    });
    let old = old.map_err(|bad| (bad, at, size))?;
    match what {
        0xf1 => r[0] = old,
        fetch if fetch & 1 != 0 => r[src] = old,
        _ => {}
    }
    Ok(())
}

const _: () = assert!(Helper::Loop as u8 == 181);
