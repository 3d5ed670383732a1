//! A small assembler for BPF: registers, labels, maps. What it makes is checked by the kernel's
//! verifier, so it needs no compiler at build time or run time.
//!
//! Linux: Documentation/bpf/standardization/instruction-set.rst (RFC 9669).

use crate::Insn;
use crate::sys::Map;

/// A register. R0 holds results, R1 to R5 arguments, which a call destroys; R6 to R9 survive it;
/// R10 is the frame pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "their names say all")]
#[allow(dead_code, reason = "the set is whole")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes a load or store moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// One.
    B = 0x10,
    /// Two.
    H = 0x08,
    /// Four.
    W = 0x00,
    /// Eight.
    #[cfg_attr(not(test), allow(dead_code, reason = "the set is whole"))]
    DW = 0x18,
}

/// What two operands are compared for (unsigned).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum If {
    /// Equal.
    Eq = 0x10,
    /// Greater.
    Gt = 0x20,
    /// A bit of the second is set in the first.
    Set = 0x40,
    /// Not equal.
    Ne = 0x50,
    /// Greater, or equal.
    Ge = 0x30,
    /// Less.
    Lt = 0xa0,
    /// Less, or equal.
    Le = 0xb0,
}

/// What is done to a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sum.
    Add = 0x00,
    /// Bitwise or.
    Or = 0x40,
    /// Bitwise and.
    And = 0x50,
    /// Shift to the left.
    Lsh = 0x60,
    /// Copy.
    Mov = 0xb0,
    /// Difference.
    Sub = 0x10,
    /// Product.
    Mul = 0x20,
    /// Shift to the right, zeros from the left.
    Rsh = 0x70,
    /// Bitwise exclusive or.
    Xor = 0xa0,
}

/// What is done to memory in one step that no other processor sees the middle of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Atomic {
    /// Sum; the register keeps its value.
    Add = 0x00,
    /// Sum; the register gets what was there before.
    FetchAdd = 0x01,
    /// Exchange: the register gets what was there.
    Xchg = 0xe1,
    /// If what is there equals R0, the register takes its place; R0 gets what was there.
    Cmpxchg = 0xf1,
}

/// A place in the program, known when it is bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(usize);

/// `bpf_map_lookup_elem`.
pub const MAP_LOOKUP_ELEM: i32 = 1;
/// `bpf_map_update_elem`.
pub const MAP_UPDATE_ELEM: i32 = 2;
/// `bpf_ktime_get_ns`.
pub const KTIME_GET_NS: i32 = 5;
/// `bpf_redirect_map`.
pub const REDIRECT_MAP: i32 = 51;

const CLASS_LDX: u8 = 0x01;
const CLASS_ST: u8 = 0x02;
const CLASS_STX: u8 = 0x03;
const CLASS_ALU: u8 = 0x04;
const CLASS_JMP: u8 = 0x05;
const CLASS_ALU64: u8 = 0x07;
const MODE_MEM: u8 = 0x60;
const MODE_ATOMIC: u8 = 0xc0;
const FROM_REG: u8 = 0x08;
const TO_BE: u8 = 0xd0 | FROM_REG;
const JA: u8 = 0x05;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const LD_IMM64: u8 = 0x18;
const PSEUDO_MAP_FD: Reg = Reg::R1;
const PSEUDO_KFUNC_CALL: Reg = Reg::R2;

/// A program in the making.
#[derive(Debug, Default)]
pub struct Asm {
    insns: Vec<Insn>,
    /// Where each label stands.
    labels: Vec<Option<usize>>,
    /// Jumps to be filled in, and where to.
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    /// An empty program.
    pub fn new() -> Asm {
        Asm::default()
    }
    fn emit(&mut self, code: u8, dst: Reg, src: Reg, off: i16, imm: i32) {
        let (dst, src) = (dst as u8, src as u8);
        // Two bit fields of one byte lie the other way round on big-endian machines.
        let regs = if cfg!(target_endian = "big") { dst << 4 | src } else { src << 4 | dst };
        self.insns.push(Insn { code, regs, off, imm });
    }
    /// A label for a place that is bound later.
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }
    /// The label stands here.
    ///
    /// # Panics
    /// If it stands elsewhere already.
    pub fn bind(&mut self, label: Label) {
        let place = &mut self.labels[label.0];
        assert!(place.is_none(), "a label stands in one place");
        *place = Some(self.insns.len());
    }
    /// `dst = dst OP imm`, 64 bits.
    pub fn op(&mut self, op: Op, dst: Reg, imm: i32) {
        self.emit(CLASS_ALU64 | op as u8, dst, Reg::R0, 0, imm);
    }
    /// `dst = dst OP src`, 64 bits.
    pub fn op_reg(&mut self, op: Op, dst: Reg, src: Reg) {
        self.emit(CLASS_ALU64 | FROM_REG | op as u8, dst, src, 0, 0);
    }
    /// `dst = dst OP imm`, the low 32 bits; the others become 0.
    pub fn op32(&mut self, op: Op, dst: Reg, imm: i32) {
        self.emit(CLASS_ALU | op as u8, dst, Reg::R0, 0, imm);
    }
    /// `dst = dst OP src`, likewise.
    pub fn op32_reg(&mut self, op: Op, dst: Reg, src: Reg) {
        self.emit(CLASS_ALU | FROM_REG | op as u8, dst, src, 0, 0);
    }
    /// Two bytes in `dst`, as they came from a packet, become a number.
    pub fn be16(&mut self, dst: Reg) {
        self.emit(CLASS_ALU | TO_BE, dst, Reg::R0, 0, 16);
    }
    /// `dst = *(src + off)`.
    pub fn load(&mut self, size: Size, dst: Reg, src: Reg, off: i16) {
        self.emit(CLASS_LDX | MODE_MEM | size as u8, dst, src, off, 0);
    }
    /// `*(dst + off) = src`.
    pub fn store(&mut self, size: Size, dst: Reg, off: i16, src: Reg) {
        self.emit(CLASS_STX | MODE_MEM | size as u8, dst, src, off, 0);
    }
    /// `*(dst + off) = imm`.
    pub fn store_imm(&mut self, size: Size, dst: Reg, off: i16, imm: i32) {
        self.emit(CLASS_ST | MODE_MEM | size as u8, dst, Reg::R0, off, imm);
    }
    /// `*(dst + off) OP= src` in one step; `size` is W or DW.
    pub fn atomic(&mut self, op: Atomic, size: Size, dst: Reg, off: i16, src: Reg) {
        self.emit(CLASS_STX | MODE_ATOMIC | size as u8, dst, src, off, op as i32);
    }
    /// `dst = imm`, all of its 64 bits: two instructions.
    pub fn load_imm(&mut self, dst: Reg, imm: u64) {
        self.emit(LD_IMM64, dst, Reg::R0, 0, imm as u32 as i32);
        self.emit(0, Reg::R0, Reg::R0, 0, (imm >> 32) as u32 as i32);
    }
    /// `if dst COND imm goto to`, 64 bits.
    pub fn jump_if(&mut self, cond: If, dst: Reg, imm: i32, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(CLASS_JMP | cond as u8, dst, Reg::R0, 0, imm);
    }
    /// `if dst COND src goto to`, 64 bits.
    pub fn jump_if_reg(&mut self, cond: If, dst: Reg, src: Reg, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(CLASS_JMP | FROM_REG | cond as u8, dst, src, 0, 0);
    }
    /// `goto to`.
    pub fn jump(&mut self, to: Label) {
        self.jumps.push((self.insns.len(), to));
        self.emit(JA, Reg::R0, Reg::R0, 0, 0);
    }
    /// `dst = map`: two instructions.
    pub fn load_map(&mut self, dst: Reg, map: &Map) {
        self.emit(LD_IMM64, dst, PSEUDO_MAP_FD, 0, map.number());
        self.emit(0, Reg::R0, Reg::R0, 0, 0);
    }
    /// Calls a helper.
    pub fn call(&mut self, helper: i32) {
        self.emit(CALL, Reg::R0, Reg::R0, 0, helper);
    }
    /// Calls a function of the kernel's that programs may call, by its number in the kernel's BTF.
    pub fn call_kernel(&mut self, function: u32) {
        self.emit(CALL, Reg::R0, PSEUDO_KFUNC_CALL, 0, function.cast_signed());
    }
    /// `return R0`.
    pub fn exit(&mut self) {
        self.emit(EXIT, Reg::R0, Reg::R0, 0, 0);
    }
    /// The program, with every jump filled in.
    ///
    /// # Panics
    /// If a label that is jumped to was not bound, or stands too far away.
    pub fn finish(mut self) -> Vec<Insn> {
        for (at, label) in self.jumps {
            let to = self.labels[label.0].expect("a label that is jumped to stands somewhere");
            // A jump counts from the instruction behind it.
            let off = to as i64 - at as i64 - 1;
            self.insns[at].off = i16::try_from(off).expect("the program is short");
        }
        self.insns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_rfc_9669_says() {
        let mut asm = Asm::new();
        let (end, back) = (asm.label(), asm.label());
        asm.bind(back);
        asm.op(Op::Mov, Reg::R0, 2);
        asm.op_reg(Op::Add, Reg::R6, Reg::R3);
        asm.load(Size::H, Reg::R2, Reg::R6, 12);
        asm.store(Size::DW, Reg::R10, -16, Reg::R1);
        asm.jump_if(If::Eq, Reg::R2, 8, end);
        asm.jump(back);
        asm.be16(Reg::R4);
        asm.op_reg(Op::Sub, Reg::R0, Reg::R7);
        asm.atomic(Atomic::Cmpxchg, Size::DW, Reg::R1, 8, Reg::R2);
        asm.load_imm(Reg::R3, 0x9e37_79b9_7f4a_7c15);
        asm.bind(end);
        asm.exit();
        let bytes: Vec<(u8, u8, i16, i32)> = asm
            .finish()
            .iter()
            .map(|i| {
                (
                    i.code,
                    if cfg!(target_endian = "big") { i.regs.rotate_left(4) } else { i.regs },
                    i.off,
                    i.imm,
                )
            })
            .collect();
        assert_eq!(
            bytes,
            [
                (0xb7, 0x00, 0, 2),
                (0x0f, 0x36, 0, 0),
                (0x69, 0x62, 12, 0),
                (0x7b, 0x1a, -16, 0),
                (0x15, 0x02, 6, 8),
                (0x05, 0x00, -6, 0),
                (0xdc, 0x04, 0, 16),
                (0x1f, 0x70, 0, 0),
                (0xdb, 0x21, 8, 0xf1),
                (0x18, 0x03, 0, 0x7f4a_7c15),
                (0x00, 0x00, 0, 0x9e37_79b9_u32 as i32),
                (0x95, 0x00, 0, 0),
            ]
        );
    }

    #[test]
    #[should_panic(expected = "stands somewhere")]
    fn a_jump_to_nowhere_is_found() {
        let mut asm = Asm::new();
        let label = asm.label();
        asm.jump(label);
        asm.finish();
    }
}
