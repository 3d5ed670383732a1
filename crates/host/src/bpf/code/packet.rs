//! Packets on their way up and down: followed from where it begins, by their address.

use linerate_bpf::Insn;
use linerate_bpf::asm::{Atomic, If, Op, Reg, Size};
use linerate_bpf::sys::Map;

use super::program::{NAME, NUMBER, Program};
use super::{BEGUN, Code, MIDDLE, PACKET, Place, SKIP_RX, SKIP_TX};
use Reg::{R0, R1, R6, R7, R8, R9, R10};

impl Code<'_> {
    /// `netif_receive_skb(skb)`: a packet begins its way up.
    pub fn receive(&self) -> Vec<Insn> {
        self.begin(&self.maps.rx, SKIP_RX)
    }

    /// `net_dev_queue(skb)`: a packet begins its way down.
    pub fn queue(&self) -> Vec<Insn> {
        self.begin(&self.maps.tx, SKIP_TX)
    }

    /// Follows the packet, if it is the one in `sample`; else it is certainly none that is followed:
    /// it has got the address of one whose end was not seen.
    fn begin(&self, table: &Map, skip: i16) -> Vec<Insn> {
        let mut p = Program::new();
        let (follow, stale) = (p.asm.label(), p.asm.label());
        p.argument(R6, 0);
        p.slot(table);
        p.mov(R7, R0);
        if let Some(inum) = self.netns {
            p.asm.load(Size::DW, R1, R6, self.fields.skb_dev);
            p.asm.load(Size::DW, R1, R1, self.fields.dev_net);
            p.asm.load(Size::W, R1, R1, self.fields.net_inum);
            // Shifted, so that the sign of the constant is none.
            p.asm.op32(Op::Xor, R1, inum.cast_signed());
            p.asm.jump_if(If::Ne, R1, 0, stale);
        }
        p.fixed(&self.maps.state, 0);
        p.asm.load(Size::DW, R1, R0, skip);
        let reload = p.asm.label();
        p.asm.jump_if(If::Eq, R1, 0, reload);
        p.asm.op(Op::Sub, R1, 1);
        p.asm.store(Size::DW, R0, skip, R1);
        p.asm.jump(stale);
        p.asm.bind(reload);
        p.asm.store_imm(Size::DW, R0, skip, self.sample.clamp(1, 1 << 30) as i32 - 1);
        p.asm.jump(follow);
        p.asm.bind(stale);
        p.asm.load(Size::DW, R1, R7, PACKET);
        p.asm.jump_if_reg(If::Ne, R1, R6, p.end);
        p.asm.store_imm(Size::DW, R7, PACKET, 0);
        p.asm.jump(p.end);
        p.asm.bind(follow);
        p.asm.store_imm(Size::DW, R7, PACKET, 0);
        p.now(R1);
        p.asm.store(Size::DW, R7, BEGUN, R1);
        p.asm.store_imm(Size::DW, R7, MIDDLE, 0);
        // The exchange is a barrier: who sees the packet sees its times.
        p.mov(R1, R6);
        p.asm.atomic(Atomic::Xchg, Size::DW, R7, PACKET, R1);
        p.finish()
    }

    /// `__udp_enqueue_schedule_skb(sk, skb)`, `tcp_probe(sk, skb)`: it reached a socket.
    pub fn queued(&self, place: Place) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, 1);
        p.slot(&self.maps.rx);
        p.is_followed();
        self.middle(&mut p, place, true);
        p.finish()
    }

    /// `net_dev_start_xmit(skb, dev)`: the driver gets it.
    pub fn start_xmit(&self) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, 0);
        p.slot(&self.maps.tx);
        p.is_followed();
        self.middle(&mut p, Place::Qdisc, false);
        p.finish()
    }

    /// The packet in R6, followed in the slot in R0, is in the middle of its way, once.
    pub(super) fn middle(&self, p: &mut Program, place: Place, up: bool) {
        p.mov(R7, R0);
        p.asm.load(Size::DW, R1, R7, MIDDLE);
        p.asm.jump_if(If::Ne, R1, 0, p.end);
        if up {
            p.came_in(&self.fields);
        }
        p.asm.load(Size::DW, R8, R7, BEGUN);
        p.now(R9);
        p.asm.store(Size::DW, R7, MIDDLE, R9);
        p.elapsed();
        p.count_at(&self.maps.hists, place);
    }

    /// `skb_consume_udp(sk, skb, len)`, `skb_copy_datagram_iovec(skb, len)`: it was read. The argument
    /// that is the packet, and where the whole way and the wait are counted.
    pub fn read(&self, argument: i16, whole: Place, waited: Place) -> Vec<Insn> {
        let mut p = Program::new();
        p.argument(R6, argument);
        p.slot(&self.maps.rx);
        p.is_followed();
        p.mov(R7, R0);
        p.came_in(&self.fields);
        self.arrived(&mut p, whole, waited);
        p.finish()
    }

    /// The packet in R6, followed in the slot in R7, is with its reader.
    pub(super) fn arrived(&self, p: &mut Program, whole: Place, waited: Place) {
        p.asm.load(Size::DW, R8, R7, BEGUN);
        p.asm.load(Size::DW, R9, R7, MIDDLE);
        p.asm.store(Size::DW, R10, NAME, R9);
        p.take();
        p.now(R9);
        p.asm.store(Size::DW, R10, NUMBER, R9);
        p.elapsed();
        p.count_at(&self.maps.hists, whole);
        p.asm.load(Size::DW, R8, R10, NAME);
        p.asm.load(Size::DW, R9, R10, NUMBER);
        p.asm.jump_if(If::Eq, R8, 0, p.end);
        p.elapsed();
        p.count_at(&self.maps.hists, waited);
    }

    /// `kfree_skb(skb, ...)`, `consume_skb(skb, ...)`: it is gone, whichever way it was on.
    pub fn gone(&self, place: Place) -> Vec<Insn> {
        let mut p = Program::new();
        let not_sent = p.asm.label();
        p.argument(R6, 0);
        p.slot(&self.maps.tx);
        p.asm.load(Size::DW, R1, R0, PACKET);
        p.asm.jump_if_reg(If::Ne, R1, R6, not_sent);
        p.asm.store_imm(Size::DW, R0, PACKET, 0);
        p.asm.bind(not_sent);
        p.slot(&self.maps.rx);
        p.is_followed();
        p.mov(R7, R0);
        p.came_in(&self.fields);
        p.asm.load(Size::DW, R8, R7, BEGUN);
        p.take();
        p.now(R9);
        p.elapsed();
        p.count_at(&self.maps.hists, place);
        p.finish()
    }

    /// `net_dev_xmit(skb, rc, dev, len)`: the driver took it. It may be gone, and only its address is
    /// used.
    pub fn xmit(&self) -> Vec<Insn> {
        const NETDEV_TX_BUSY: i32 = 0x10;
        let mut p = Program::new();
        p.argument(R6, 0);
        p.argument(R1, 1);
        p.asm.op32_reg(Op::Mov, R1, R1);
        p.asm.jump_if(If::Eq, R1, NETDEV_TX_BUSY, p.end);
        p.slot(&self.maps.tx);
        p.is_followed();
        p.mov(R7, R0);
        p.asm.load(Size::DW, R8, R7, MIDDLE);
        p.take();
        p.asm.jump_if(If::Eq, R8, 0, p.end);
        p.now(R9);
        p.elapsed();
        p.count_at(&self.maps.hists, Place::Driver);
        p.finish()
    }
}
