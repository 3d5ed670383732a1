//! The program of a hundred instructions that is measured, here and where instructions are counted.

use linerate_bpf::Insn;
use linerate_bpf::asm::{Asm, If, Label, MAP_LOOKUP_ELEM, Op, Reg, Size};

/// A filter as people attach them: it passes UDP over IPv4 of flows that it knows, whose header is
/// sound and whose source is in no list, and counts it. A packet that passes takes 100 instructions.
pub fn filter() -> Vec<Insn> {
    use Reg::{R0, R1, R2, R3, R4, R5, R6, R7, R8, R10};
    let mut asm = Asm::new();
    let no = asm.label();
    asm.load(Size::W, R8, R1, 0);
    asm.load(Size::W, R3, R1, 4);
    asm.op_reg(Op::Mov, R4, R8);
    asm.op(Op::Add, R4, 42);
    asm.jump_if_reg(If::Gt, R4, R3, no);
    asm.load(Size::H, R5, R8, 12);
    asm.be16(R5);
    asm.jump_if(If::Ne, R5, 0x800, no);
    for (at, want) in [(14, 0x45), (23, 17)] {
        asm.load(Size::B, R5, R8, at);
        asm.jump_if(If::Ne, R5, want, no);
    }
    header_sum(&mut asm, no);
    asm.load(Size::W, R7, R8, 26);
    asm.jump_if(If::Eq, R7, 0, no);
    asm.store(Size::W, R10, -8, R7);
    asm.load(Size::W, R5, R8, 34);
    asm.jump_if(If::Eq, R5, 0, no);
    asm.store(Size::W, R10, -4, R5);
    // Fourteen prefixes of 24 bits, in the order of the packet's bytes.
    for net in 0..14 {
        asm.op_reg(Op::Mov, R5, R7);
        asm.op(Op::And, R5, 0x00ff_ffff);
        asm.jump_if(If::Eq, R5, 0x00_02_a8_c0 + (net << 16), no);
    }
    asm.op_reg(Op::Mov, R2, R10);
    asm.op(Op::Add, R2, -8);
    asm.load_imm(R1, 0);
    asm.call(MAP_LOOKUP_ELEM);
    asm.jump_if(If::Eq, R0, 0, no);
    asm.load(Size::DW, R5, R0, 0);
    asm.op(Op::Add, R5, 1);
    asm.store(Size::DW, R0, 0, R5);
    asm.op_reg(Op::Mov, R6, R5);
    asm.op(Op::And, R6, 1);
    asm.op(Op::Mov, R0, 2);
    asm.exit();
    asm.bind(no);
    asm.op(Op::Mov, R0, 1);
    asm.exit();
    let insns = asm.finish();
    // The second half of the map's address, and the other way out, are not run.
    assert_eq!(insns.len(), 100 + 3, "a packet that passes takes 100 instructions");
    insns
}

/// The sum of the IPv4 header at R8 is right; its time to live is not over.
fn header_sum(asm: &mut Asm, no: Label) {
    use Reg::{R5, R6, R8};
    asm.op(Op::Mov, R6, 0);
    for at in 0..10 {
        asm.load(Size::H, R5, R8, 14 + 2 * at);
        asm.op_reg(Op::Add, R6, R5);
    }
    asm.op_reg(Op::Mov, R5, R6);
    asm.op(Op::Rsh, R5, 16);
    asm.op(Op::And, R6, 0xffff);
    asm.op_reg(Op::Add, R6, R5);
    asm.jump_if(If::Ne, R6, 0xffff, no);
    asm.load(Size::B, R5, R8, 22);
    asm.jump_if(If::Le, R5, 1, no);
}
