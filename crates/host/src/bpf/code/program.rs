//! One program in the making, with the steps that programs have in common.

use linerate_bpf::Insn;
use linerate_bpf::asm::{Asm, Atomic, If, KTIME_GET_NS, Label, MAP_LOOKUP_ELEM, Op, Reg, Size};
use linerate_bpf::sys::Map;

use super::super::hist::BUCKETS;
use super::{COUNTS, Fields, MAX, PACKET, Place, SLOT_BITS, SUM};
use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};

/// One program in the making. It ends at `end`, with 0.
pub(super) struct Program {
    pub asm: Asm,
    pub end: Label,
}

// Places on the stack.
pub(super) const KEY: i16 = -4;
pub(super) const NAME: i16 = -32;
pub(super) const NUMBER: i16 = -40;
pub(super) const SOCKET: i16 = -48;
pub(super) const AT: i16 = -56;

impl Program {
    pub fn new() -> Program {
        let mut asm = Asm::new();
        let end = asm.label();
        Program { asm, end }
    }

    pub fn finish(mut self) -> Vec<Insn> {
        self.asm.bind(self.end);
        self.asm.op(Op::Mov, R0, 0);
        self.asm.exit();
        self.asm.finish()
    }

    pub fn mov(&mut self, to: Reg, from: Reg) {
        self.asm.op_reg(Op::Mov, to, from);
    }

    /// `to` = the argument at this place.
    pub fn argument(&mut self, to: Reg, at: i16) {
        self.asm.load(Size::DW, to, R1, 8 * at);
    }

    pub fn now(&mut self, to: Reg) {
        self.asm.call(KTIME_GET_NS);
        self.mov(to, R0);
    }

    /// R0 = the entry of `map` whose number lies at [`KEY`].
    pub fn entry(&mut self, map: &Map) {
        self.asm.load_map(R1, map);
        self.mov(R2, R10);
        self.asm.op(Op::Add, R2, KEY.into());
        self.asm.call(MAP_LOOKUP_ELEM);
        self.asm.jump_if(If::Eq, R0, 0, self.end);
    }

    /// R0 = entry `number` of `map`.
    pub fn fixed(&mut self, map: &Map, number: i32) {
        self.asm.store_imm(Size::W, R10, KEY, number);
        self.entry(map);
    }

    /// Counts the value of R8 in the histogram whose number lies at [`KEY`]. R6 to R9 stay.
    pub fn count(&mut self, hists: &Map) {
        self.entry(hists);
        let a = &mut self.asm;
        a.load(Size::DW, R1, R0, SUM);
        a.op_reg(Op::Add, R1, R8);
        a.store(Size::DW, R0, SUM, R1);
        a.load(Size::DW, R1, R0, MAX);
        let smaller = a.label();
        a.jump_if_reg(If::Ge, R1, R8, smaller);
        a.store(Size::DW, R0, MAX, R8);
        a.bind(smaller);
        // R2 = its bit length.
        a.op(Op::Mov, R2, 0);
        a.op_reg(Op::Mov, R3, R8);
        for bits in [32, 16, 8, 4, 2, 1] {
            let low = a.label();
            a.op_reg(Op::Mov, R4, R3);
            a.op(Op::Rsh, R4, bits);
            a.jump_if(If::Eq, R4, 0, low);
            a.op(Op::Add, R2, bits);
            a.op_reg(Op::Mov, R3, R4);
            a.bind(low);
        }
        a.op_reg(Op::Add, R2, R3);
        let fits = a.label();
        a.jump_if(If::Lt, R2, BUCKETS as i32, fits);
        a.op(Op::Mov, R2, BUCKETS as i32 - 1);
        a.bind(fits);
        a.op(Op::Lsh, R2, 3);
        a.op_reg(Op::Add, R0, R2);
        a.load(Size::DW, R1, R0, COUNTS);
        a.op(Op::Add, R1, 1);
        a.store(Size::DW, R0, COUNTS, R1);
    }

    /// The same, in a histogram that is known.
    pub fn count_at(&mut self, hists: &Map, place: Place) {
        self.asm.store_imm(Size::W, R10, KEY, place as i32);
        self.count(hists);
    }

    /// R8 = R9 - R8; the end if that were less than nothing, for clocks of two processors may differ.
    pub fn elapsed(&mut self) {
        self.asm.jump_if_reg(If::Gt, R8, R9, self.end);
        self.asm.op_reg(Op::Sub, R9, R8);
        self.mov(R8, R9);
    }

    /// R0 = the slot in which the packet whose address is in R6 would be.
    pub fn slot(&mut self, table: &Map) {
        self.slot_of(R6, table, SLOT_BITS);
    }

    /// R0 = the slot of `table` in which that address would be.
    pub fn slot_of(&mut self, address: Reg, table: &Map, bits: i32) {
        self.asm.op32_reg(Op::Mov, R1, address);
        self.slot_by(table, bits);
    }

    /// R0 = the slot of `table` that R1 leads to.
    pub fn slot_by(&mut self, table: &Map, bits: i32) {
        // Knuth's multiplicative hash: the upper bits of the product depend on all bits.
        self.asm.op32(Op::Mul, R1, 0x9e37_79b1_u32.cast_signed());
        self.asm.op32(Op::Rsh, R1, 32 - bits);
        self.asm.store(Size::W, R10, KEY, R1);
        self.entry(table);
    }

    /// The end unless the slot in R0 holds the packet in R6.
    pub fn is_followed(&mut self) {
        self.asm.load(Size::DW, R1, R0, PACKET);
        self.asm.jump_if_reg(If::Ne, R1, R6, self.end);
    }

    /// The end if the packet in R6 was made here: then it has the address of one that came in before.
    pub fn came_in(&mut self, fields: &Fields) {
        self.asm.load(Size::W, R1, R6, fields.skb_iif);
        self.asm.jump_if(If::Eq, R1, 0, self.end);
    }

    /// Takes the packet in R6 out of the slot in R7; the end if somebody else did.
    pub fn take(&mut self) {
        self.mov(R0, R6);
        self.asm.op(Op::Mov, R1, 0);
        self.asm.atomic(Atomic::Cmpxchg, Size::DW, R7, PACKET, R1);
        self.asm.jump_if_reg(If::Ne, R0, R6, self.end);
    }
}
