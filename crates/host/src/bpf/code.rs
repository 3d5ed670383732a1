//! The programs that the kernel runs: what each does is said beside it.
//!
//! Three maps hold what they know. `hists` has a histogram for each [`Place`], `state` what a processor
//! remembers, both with a value for each processor; `rx` and `tx` have the packets that are followed,
//! where the lower bits of a packet's address say in which slot it would be. A slot that is taken by
//! another packet is overwritten: so memory is bounded, and a look costs one comparison.

use linerate_bpf::Insn;
use linerate_bpf::asm::{
    Asm, Atomic, If, KTIME_GET_NS, Label, MAP_LOOKUP_ELEM, MAP_UPDATE_ELEM, Op, Reg, Size,
};
use linerate_bpf::sys::Map;

use super::hist::BUCKETS;
use Reg::{R0, R1, R2, R3, R4, R6, R7, R8, R9, R10};

/// Places of softirqs: a power of two.
pub const VECTORS_MAX: i32 = 16;

/// Devices that have histograms of their own; the last stands for all others.
pub const DEVICES: u32 = 64;
/// Names of devices that are known at most.
pub const NAMES_MAX: u32 = 256;
/// The name of a device, its namespace and its index.
pub const NAME_SIZE: usize = 24;

/// Slots of `rx` and `tx`.
pub const SLOTS: u32 = 1 << SLOT_BITS;
const SLOT_BITS: i32 = 13;
/// The packet, when it was first seen, when it came to the middle of its way.
pub const SLOT_SIZE: usize = 24;
const PACKET: i16 = 0;
const BEGUN: i16 = 8;
const MIDDLE: i16 = 16;

/// Slots of `socks`.
pub const SOCKS: u32 = 1 << SOCK_BITS;
const SOCK_BITS: i32 = 12;
/// The socket, and how often somebody has read from it.
pub const SOCK_SIZE: usize = 16;
const SOCK: i16 = 0;
const READS: i16 = 8;

/// Of `turns`, which has as many slots as `rx`: the socket, by which of its reads a packet will come,
/// the packet.
pub const TURN_SIZE: usize = 24;
const TURN: i16 = 8;
const FOLLOWED: i16 = 16;

/// A histogram in `hists`: sum, largest, buckets.
pub const HIST_SIZE: usize = 16 + 8 * BUCKETS;
const SUM: i16 = 0;
const MAX: i16 = 8;
const COUNTS: i16 = 16;

/// What a processor remembers: when its softirq began; when its poll began; whether it is in NET_RX;
/// packets until the next is followed; when each vector was raised.
pub const STATE_SIZE: usize = 40 + 8 * VECTORS_MAX as usize;
const ENTERED: i16 = 0;
const POLLING: i16 = 8;
const IN_RX: i16 = 16;
const SKIP_RX: i16 = 24;
const SKIP_TX: i16 = 32;
const RAISED: i16 = 40;

/// Histograms, by their number in `hists`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Time of softirqs, by vector.
    Softirq = 0,
    /// From raise to entry, by vector.
    Delay = 16,
    /// From `netif_receive_skb` to the queue of a UDP socket.
    UdpQueued = 32,
    /// From there to the reader.
    UdpWaited,
    /// From `netif_receive_skb` to the reader of a UDP socket.
    UdpRead,
    /// From `netif_receive_skb` to an established TCP connection.
    TcpQueued,
    /// From there to the reader, of what is read as it came.
    CopyWaited,
    /// From `netif_receive_skb` to the reader: TCP, raw and packet sockets.
    CopyRead,
    /// From `netif_receive_skb` to a drop.
    Dropped,
    /// From `netif_receive_skb` to the end of a packet that nobody read.
    Consumed,
    /// From `dev_queue_xmit` to the driver.
    Qdisc,
    /// In the driver.
    Driver,
    /// Two for each device: packets of a poll, and its time.
    Devices = 48,
}

/// Histograms in all.
pub const HISTS: u32 = Place::Devices as u32 + 2 * DEVICES;

/// Where fields lie, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    /// `sk_buff.dev`.
    pub skb_dev: i16,
    /// `sk_buff.skb_iif`: the device that it came in by; 0 of those that were made here.
    pub skb_iif: i16,
    /// `napi_struct.dev`.
    pub napi_dev: i16,
    /// `net_device.name`.
    pub dev_name: i16,
    /// `net_device.ifindex`.
    pub dev_ifindex: i16,
    /// `net_device.nd_net.net`.
    pub dev_net: i16,
    /// `net.ns.inum`.
    pub net_inum: i16,
}

/// What is needed to find a packet in the queue of a UDP socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpFields {
    /// `sock.sk_protocol`, two bytes.
    pub protocol: i16,
    /// `sock.sk_receive_queue.prev`: its last packet.
    pub last: i16,
    /// `sock.sk_receive_queue.qlen`.
    pub queued: i16,
    /// `udp_sock.reader_queue.qlen`: packets that the reader has put aside for itself.
    pub aside: i16,
    /// The number of `struct udp_sock`.
    pub udp_sock: u32,
    /// The number of `bpf_rdonly_cast`, which makes one of a `struct sock`.
    pub cast: u32,
}

/// The maps.
#[derive(Debug)]
pub struct Maps {
    pub hists: Map,
    pub state: Map,
    pub names: Map,
    /// How many numbers of devices were given away.
    pub given: Map,
    pub rx: Map,
    pub tx: Map,
    /// Readers of UDP sockets, and the packets that they will come to.
    pub socks: Map,
    pub turns: Map,
}

/// What the programs are made for.
pub struct Code<'a> {
    pub maps: &'a Maps,
    pub fields: Fields,
    /// If they are all known.
    pub udp: UdpFields,
    /// The number of the softirq NET_RX.
    pub net_rx: u8,
    /// One packet in so many is followed.
    pub sample: u32,
    /// Of packets, those in this namespace only.
    pub netns: Option<u32>,
}

/// One program in the making. It ends at `end`, with 0.
struct Program {
    asm: Asm,
    end: Label,
}

// Places on the stack.
const KEY: i16 = -4;
const NAME: i16 = -32;
const NUMBER: i16 = -40;
const SOCKET: i16 = -48;
const AT: i16 = -56;

impl Program {
    fn new() -> Program {
        let mut asm = Asm::new();
        let end = asm.label();
        Program { asm, end }
    }

    fn finish(mut self) -> Vec<Insn> {
        self.asm.bind(self.end);
        self.asm.op(Op::Mov, R0, 0);
        self.asm.exit();
        self.asm.finish()
    }

    fn mov(&mut self, to: Reg, from: Reg) {
        self.asm.op_reg(Op::Mov, to, from);
    }

    /// `to` = the argument at this place.
    fn argument(&mut self, to: Reg, at: i16) {
        self.asm.load(Size::DW, to, R1, 8 * at);
    }

    fn now(&mut self, to: Reg) {
        self.asm.call(KTIME_GET_NS);
        self.mov(to, R0);
    }

    /// R0 = the entry of `map` whose number lies at [`KEY`].
    fn entry(&mut self, map: &Map) {
        self.asm.load_map(R1, map);
        self.mov(R2, R10);
        self.asm.op(Op::Add, R2, KEY.into());
        self.asm.call(MAP_LOOKUP_ELEM);
        self.asm.jump_if(If::Eq, R0, 0, self.end);
    }

    /// R0 = entry `number` of `map`.
    fn fixed(&mut self, map: &Map, number: i32) {
        self.asm.store_imm(Size::W, R10, KEY, number);
        self.entry(map);
    }

    /// Counts the value of R8 in the histogram whose number lies at [`KEY`]. R6 to R9 stay.
    fn count(&mut self, hists: &Map) {
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
    fn count_at(&mut self, hists: &Map, place: Place) {
        self.asm.store_imm(Size::W, R10, KEY, place as i32);
        self.count(hists);
    }

    /// R8 = R9 - R8; the end if that were less than nothing, for clocks of two processors may differ.
    fn elapsed(&mut self) {
        self.asm.jump_if_reg(If::Gt, R8, R9, self.end);
        self.asm.op_reg(Op::Sub, R9, R8);
        self.mov(R8, R9);
    }

    /// R0 = the slot in which the packet whose address is in R6 would be.
    fn slot(&mut self, table: &Map) {
        self.slot_of(R6, table, SLOT_BITS);
    }

    /// R0 = the slot of `table` in which that address would be.
    fn slot_of(&mut self, address: Reg, table: &Map, bits: i32) {
        self.asm.op32_reg(Op::Mov, R1, address);
        self.slot_by(table, bits);
    }

    /// R0 = the slot of `table` that R1 leads to.
    fn slot_by(&mut self, table: &Map, bits: i32) {
        // Knuth's multiplicative hash: the upper bits of the product depend on all bits.
        self.asm.op32(Op::Mul, R1, 0x9e37_79b1_u32.cast_signed());
        self.asm.op32(Op::Rsh, R1, 32 - bits);
        self.asm.store(Size::W, R10, KEY, R1);
        self.entry(table);
    }

    /// The end unless the slot in R0 holds the packet in R6.
    fn is_followed(&mut self) {
        self.asm.load(Size::DW, R1, R0, PACKET);
        self.asm.jump_if_reg(If::Ne, R1, R6, self.end);
    }

    /// The end if the packet in R6 was made here: then it has the address of one that came in before.
    fn came_in(&mut self, fields: &Fields) {
        self.asm.load(Size::W, R1, R6, fields.skb_iif);
        self.asm.jump_if(If::Eq, R1, 0, self.end);
    }

    /// Takes the packet in R6 out of the slot in R7; the end if somebody else did.
    fn take(&mut self) {
        self.mov(R0, R6);
        self.asm.op(Op::Mov, R1, 0);
        self.asm.atomic(Atomic::Cmpxchg, Size::DW, R7, PACKET, R1);
        self.asm.jump_if_reg(If::Ne, R0, R6, self.end);
    }
}

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
    fn middle(&self, p: &mut Program, place: Place, up: bool) {
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
    fn arrived(&self, p: &mut Program, whole: Place, waited: Place) {
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
