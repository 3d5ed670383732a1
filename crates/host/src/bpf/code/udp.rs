//! Readers of UDP sockets, where the entries of functions are not to be had: which read will give which packet.

use linerate_bpf::Insn;
use linerate_bpf::asm::{Atomic, If, Op, Reg, Size};

use super::program::{AT, Program, SOCKET};
use super::{Code, FOLLOWED, Place, READS, SLOT_BITS, SOCK, SOCK_BITS, TURN};
use Reg::{R0, R1, R2, R6, R7, R8, R9, R10};

impl Code<'_> {
    /// `sk_data_ready(sk)`, where the entries of functions are not to be had: the last packet of a UDP
    /// socket's queue has just come. How many are before it says which of the reads to come will give it.
    pub fn udp_ready(&self) -> Vec<Insn> {
        const IPPROTO_UDP: i32 = 17;
        let (mut p, udp) = (Program::new(), &self.udp);
        p.argument(R7, 0);
        p.asm.load(Size::H, R1, R7, udp.protocol);
        p.asm.jump_if(If::Ne, R1, IPPROTO_UDP, p.end);
        p.asm.load(Size::DW, R6, R7, udp.last);
        p.asm.store(Size::DW, R10, SOCKET, R7);
        p.slot(&self.maps.rx);
        p.is_followed();
        self.middle(&mut p, Place::UdpQueued, true);
        p.asm.load(Size::DW, R7, R10, SOCKET);
        p.slot_of(R7, &self.maps.socks, SOCK_BITS);
        p.mov(R8, R0);
        p.asm.load(Size::DW, R1, R8, SOCK);
        let known = p.asm.label();
        p.asm.jump_if_reg(If::Eq, R1, R7, known);
        p.asm.store_imm(Size::DW, R8, READS, 0);
        p.mov(R1, R7);
        p.asm.atomic(Atomic::Xchg, Size::DW, R8, SOCK, R1);
        p.asm.bind(known);
        p.mov(R1, R7);
        p.asm.op(Op::Mov, R2, udp.udp_sock.cast_signed());
        p.asm.call_kernel(udp.cast);
        // Those before it: what the reader has put aside, and the queue without its last.
        p.asm.load(Size::W, R9, R0, udp.aside);
        p.asm.load(Size::W, R1, R7, udp.queued);
        // The reader may have taken all of them meanwhile.
        p.asm.jump_if(If::Eq, R1, 0, p.end);
        p.asm.op_reg(Op::Add, R9, R1);
        p.asm.load(Size::DW, R1, R8, READS);
        p.asm.op_reg(Op::Add, R9, R1);
        p.asm.store(Size::DW, R10, AT, R9);
        self.turn(&mut p);
        p.asm.store_imm(Size::DW, R0, SOCK, 0);
        p.asm.store(Size::DW, R0, FOLLOWED, R6);
        p.asm.store(Size::DW, R0, TURN, R9);
        p.asm.atomic(Atomic::Xchg, Size::DW, R0, SOCK, R7);
        p.finish()
    }

    /// R0 = the slot for the packet of the socket in R7 that the read whose number is at [`AT`] gives.
    fn turn(&self, p: &mut Program) {
        p.asm.load(Size::DW, R2, R10, AT);
        p.asm.op32_reg(Op::Mov, R1, R7);
        p.asm.op32_reg(Op::Add, R1, R2);
        p.slot_by(&self.maps.turns, SLOT_BITS);
    }

    /// `sock_recv_length(sk, ret, flags)`: somebody has read from a socket.
    pub fn udp_received(&self) -> Vec<Insn> {
        const MSG_PEEK: i32 = 2;
        let mut p = Program::new();
        p.argument(R7, 0);
        p.argument(R8, 1);
        p.argument(R9, 2);
        p.asm.jump_if(If::Set, R9, MSG_PEEK, p.end);
        // Less than nothing is an error.
        p.asm.op32(Op::Rsh, R8, 31);
        p.asm.jump_if(If::Ne, R8, 0, p.end);
        p.slot_of(R7, &self.maps.socks, SOCK_BITS);
        p.asm.load(Size::DW, R1, R0, SOCK);
        p.asm.jump_if_reg(If::Ne, R1, R7, p.end);
        p.asm.load(Size::DW, R1, R0, READS);
        p.asm.op(Op::Add, R1, 1);
        p.asm.store(Size::DW, R0, READS, R1);
        p.asm.store(Size::DW, R10, AT, R1);
        self.turn(&mut p);
        p.asm.load(Size::DW, R1, R0, SOCK);
        p.asm.jump_if_reg(If::Ne, R1, R7, p.end);
        p.asm.load(Size::DW, R1, R0, TURN);
        p.asm.load(Size::DW, R2, R10, AT);
        p.asm.jump_if_reg(If::Ne, R1, R2, p.end);
        p.asm.store_imm(Size::DW, R0, SOCK, 0);
        p.asm.load(Size::DW, R6, R0, FOLLOWED);
        p.slot(&self.maps.rx);
        p.is_followed();
        p.mov(R7, R0);
        self.arrived(&mut p, Place::UdpRead, Place::UdpWaited);
        p.finish()
    }
}
