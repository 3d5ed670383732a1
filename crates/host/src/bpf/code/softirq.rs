//! Softirqs and polls: how long each took, and what a poll worked on.

use linerate_bpf::Insn;
use linerate_bpf::asm::{Atomic, If, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, Op, Reg, Size};

use super::program::{KEY, NAME, NUMBER, Program};
use super::{Code, DEVICES, ENTERED, IN_RX, POLLING, Place, RAISED, VECTORS_MAX};
use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};

impl Code<'_> {
    /// `softirq_raise(vector)`: when it was raised, unless it was already.
    pub fn softirq_raise(&self) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, 0);
        p.asm.op(Op::And, R6, VECTORS_MAX - 1);
        p.asm.op(Op::Lsh, R6, 3);
        p.fixed(&self.maps.state, 0);
        p.mov(R7, R0);
        p.asm.op_reg(Op::Add, R7, R6);
        p.asm.load(Size::DW, R1, R7, RAISED);
        p.asm.jump_if(If::Ne, R1, 0, p.end);
        p.now(R1);
        p.asm.store(Size::DW, R7, RAISED, R1);
        p.finish()
    }

    /// `softirq_entry(vector)`: the delay since it was raised.
    pub fn softirq_entry(&self) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, 0);
        p.asm.op(Op::And, R6, VECTORS_MAX - 1);
        p.fixed(&self.maps.state, 0);
        p.mov(R7, R0);
        p.now(R9);
        p.asm.store(Size::DW, R7, ENTERED, R9);
        let other = p.asm.label();
        p.asm.jump_if(If::Ne, R6, self.net_rx.into(), other);
        p.asm.store(Size::DW, R7, POLLING, R9);
        p.asm.store_imm(Size::DW, R7, IN_RX, 1);
        p.asm.bind(other);
        p.mov(R1, R6);
        p.asm.op(Op::Lsh, R1, 3);
        p.asm.op_reg(Op::Add, R7, R1);
        p.asm.load(Size::DW, R8, R7, RAISED);
        p.asm.store_imm(Size::DW, R7, RAISED, 0);
        p.asm.jump_if(If::Eq, R8, 0, p.end);
        p.elapsed();
        p.asm.op(Op::Add, R6, Place::Delay as i32);
        p.asm.store(Size::W, R10, KEY, R6);
        p.count(&self.maps.hists);
        p.finish()
    }

    /// `softirq_exit(vector)`: how long it took.
    pub fn softirq_exit(&self) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, 0);
        p.asm.op(Op::And, R6, VECTORS_MAX - 1);
        p.fixed(&self.maps.state, 0);
        p.asm.load(Size::DW, R8, R0, ENTERED);
        for what in [ENTERED, POLLING, IN_RX] {
            p.asm.store_imm(Size::DW, R0, what, 0);
        }
        p.asm.jump_if(If::Eq, R8, 0, p.end);
        p.now(R9);
        p.elapsed();
        p.asm.store(Size::W, R10, KEY, R6);
        p.count(&self.maps.hists);
        p.finish()
    }

    /// The entry of `__napi_poll`: a poll begins.
    pub fn poll_entry(&self) -> Vec<Insn> {
        let mut p = Program::new();
        p.fixed(&self.maps.state, 0);
        p.mov(R7, R0);
        p.now(R1);
        p.asm.store(Size::DW, R7, POLLING, R1);
        p.finish()
    }

    /// `napi_poll(napi, work, budget)`, at the end of a poll: its packets and its time. In NET_RX the next
    /// poll begins now, unless its entry says when.
    pub fn napi_poll(&self) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, 0);
        p.argument(R8, 1);
        p.asm.op32_reg(Op::Mov, R8, R8);
        self.device(&mut p);
        // R9 = its number; it lies at NUMBER too.
        p.asm.load(Size::W, R9, R10, NUMBER);
        p.asm.op(Op::Lsh, R9, 1);
        p.asm.op(Op::Add, R9, Place::Devices as i32);
        p.asm.store(Size::W, R10, KEY, R9);
        p.count(&self.maps.hists);
        p.mov(R6, R9);
        p.fixed(&self.maps.state, 0);
        p.mov(R7, R0);
        p.now(R9);
        p.asm.load(Size::DW, R8, R7, POLLING);
        p.asm.store_imm(Size::DW, R7, POLLING, 0);
        p.asm.load(Size::DW, R1, R7, IN_RX);
        let alone = p.asm.label();
        p.asm.jump_if(If::Eq, R1, 0, alone);
        p.asm.store(Size::DW, R7, POLLING, R9);
        p.asm.bind(alone);
        p.asm.jump_if(If::Eq, R8, 0, p.end);
        p.elapsed();
        p.asm.op(Op::Add, R6, 1);
        p.asm.store(Size::W, R10, KEY, R6);
        p.count(&self.maps.hists);
        p.finish()
    }

    /// The number of the device of the NAPI in R6, at [`NUMBER`]. It is given one when it is first seen.
    /// R8 stays.
    fn device(&self, p: &mut Program) {
        let (f, last) = (&self.fields, DEVICES as i32 - 1);
        let (known, other, done) = (p.asm.label(), p.asm.label(), p.asm.label());
        p.asm.load(Size::DW, R7, R6, f.napi_dev);
        for part in [0, 8] {
            p.asm.load(Size::DW, R1, R7, f.dev_name + part);
            p.asm.store(Size::DW, R10, NAME + part, R1);
        }
        p.asm.load(Size::W, R1, R7, f.dev_ifindex);
        p.asm.store(Size::W, R10, NAME + 20, R1);
        p.asm.load(Size::DW, R1, R7, f.dev_net);
        p.asm.load(Size::W, R1, R1, f.net_inum);
        p.asm.store(Size::W, R10, NAME + 16, R1);
        let look = |p: &mut Program| {
            p.asm.load_map(R1, &self.maps.names);
            p.mov(R2, R10);
            p.asm.op(Op::Add, R2, NAME.into());
            p.asm.call(MAP_LOOKUP_ELEM);
        };
        look(p);
        p.asm.jump_if(If::Ne, R0, 0, known);
        p.fixed(&self.maps.given, 0);
        p.asm.op(Op::Mov, R1, 1);
        p.asm.atomic(Atomic::FetchAdd, Size::W, R0, 0, R1);
        let fits = p.asm.label();
        p.asm.jump_if(If::Lt, R1, last, fits);
        p.asm.op(Op::Mov, R1, last);
        p.asm.bind(fits);
        p.asm.store(Size::W, R10, NUMBER, R1);
        p.asm.load_map(R1, &self.maps.names);
        p.mov(R2, R10);
        p.asm.op(Op::Add, R2, NAME.into());
        p.mov(R3, R10);
        p.asm.op(Op::Add, R3, NUMBER.into());
        // BPF_NOEXIST: another processor may be first, and then its number counts.
        p.asm.op(Op::Mov, R4, 1);
        p.asm.call(MAP_UPDATE_ELEM);
        look(p);
        p.asm.jump_if(If::Eq, R0, 0, other);
        p.asm.bind(known);
        p.asm.load(Size::W, R1, R0, 0);
        p.asm.jump_if(If::Gt, R1, last, other);
        p.asm.store(Size::W, R10, NUMBER, R1);
        p.asm.jump(done);
        p.asm.bind(other);
        p.asm.store_imm(Size::W, R10, NUMBER, last);
        p.asm.bind(done);
    }
}
