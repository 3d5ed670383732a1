//! Our own receive-side scaling in the kernel: a classic BPF program that computes the Toeplitz hash
//! of a packet and looks the queue up in our indirection table.
//!
//! The kernel's own ways to share packets out (`PACKET_FANOUT_HASH` and the others) hash with a
//! secret that nobody can read, so a shard could not know which replies will come to it. With this
//! program the queue of a flow is what [`Rss`] says. Classic BPF needs no right beyond that to the
//! socket, where the other kind needs `CAP_BPF`.
//!
//! Linux: net/packet/af_packet.c `fanout_demux_bpf`; net/core/filter.c `bpf_convert_filter`.
//!
//! The language has one accumulator, one index, sixteen words of memory and only jumps forward. So
//! the hash is unrolled, five instructions for each bit of input, and the table is a tree of
//! comparisons.

use crate::sys::filter::Insn;
use linerate_core::rx::steer::rss::Rss;

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
const INSNS_MAX: usize = 4096;

// Addressing: what is received lies before the program from its network header on.
const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_W_IND: u16 = 0x40;
const LDX_MSH: u16 = 0xb1;
const LD_MEM: u16 = 0x60;
const LD_IMM: u16 = 0x00;
const ST: u16 = 0x02;
const XOR_K: u16 = 0xa4;
const XOR_X: u16 = 0xac;
const OR_X: u16 = 0x4c;
const LSH_K: u16 = 0x64;
const RSH_K: u16 = 0x74;
const TAX: u16 = 0x07;
const AND_K: u16 = 0x54;
const JEQ_K: u16 = 0x15;
const JGE_K: u16 = 0x35;
const JSET_K: u16 = 0x45;
const JA: u16 = 0x05;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;

/// `SKF_AD_OFF + SKF_AD_PROTOCOL`: loads the ethertype, whatever tags the frame had.
const AD_PROTOCOL: u32 = 0xffff_f000;
const ETH_P_IP: u32 = 0x0800;
const ETH_P_IPV6: u32 = 0x86dd;
const TCP: u32 = 6;
const UDP: u32 = 17;

/// Memory word 0 holds the input word at work, word 1 the hash so far.
const HASH: u32 = 1;

fn op(code: u16, k: u32) -> Insn {
    Insn { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Insn {
    Insn { code, jt, jf, k }
}

/// A jump to a place that is not known yet, filled in by [`Code::land`].
struct Pending(usize);

#[derive(Default)]
struct Code(Vec<Insn>);

impl Code {
    fn put(&mut self, insn: Insn) {
        self.0.push(insn);
    }

    fn leave(&mut self) -> Pending {
        self.put(op(JA, 0));
        Pending(self.0.len() - 1)
    }

    fn land(&mut self, from: Pending) {
        let distance = self.0.len() - from.0 - 1;
        if let Some(insn) = self.0.get_mut(from.0) {
            insn.k = distance as u32;
        }
    }

    /// Adds the accumulator's contribution to the hash, as input bits `bit..bit + 32`.
    fn word(&mut self, key: &[u8], bit: usize) {
        self.put(op(ST, 0));
        for i in 0..32 {
            self.put(jump(JSET_K, 1 << (31 - i), 0, 4));
            self.put(op(LD_MEM, HASH));
            self.put(op(XOR_K, window(key, bit + i)));
            self.put(op(ST, HASH));
            self.put(op(LD_MEM, 0));
        }
    }
}

/// The 32 bits of the key from bit `at` on, zeros behind its end.
fn window(key: &[u8], at: usize) -> u32 {
    (at..at + 32).fold(0, |window, bit| {
        let set = key.get(bit / 8).is_some_and(|byte| byte >> (7 - bit % 8) & 1 == 1);
        window << 1 | u32::from(set)
    })
}

/// The program that returns the queue of a packet: of TCP and UDP by addresses and ports, of
/// fragments and other protocols by addresses, of what is not IP queue 0.
///
/// A symmetric [`Rss`] hashes the exclusive-or of both addresses, and of both ports, in the place
/// of each: what both directions have in common.
#[must_use]
pub fn program(rss: &Rss) -> Vec<Insn> {
    let mut code = Code::default();
    code.put(op(LD_IMM, 0));
    code.put(op(ST, HASH));
    code.put(op(LD_W_ABS, AD_PROTOCOL));
    code.put(jump(JEQ_K, ETH_P_IP, 1, 0));
    let not_v4 = code.leave();
    let done_v4 = v4(&mut code, rss);
    code.land(not_v4);
    code.put(jump(JEQ_K, ETH_P_IPV6, 1, 0));
    let not_ip = code.leave();
    let done_v6 = v6(&mut code, rss);
    done_v4.into_iter().chain(done_v6).for_each(|p| code.land(p));
    lookup(&mut code, &rss.indir);
    code.land(not_ip);
    code.put(op(RET_K, 0));
    assert!(code.0.len() <= INSNS_MAX, "288 bits of input fit the kernel's limit");
    code.0
}

fn v4(code: &mut Code, rss: &Rss) -> Vec<Pending> {
    addresses(code, rss, 12, 1);
    // More fragments, or an offset: no ports.
    code.put(op(LD_H_ABS, 6));
    code.put(jump(JSET_K, 0x3fff, 0, 1));
    let fragment = code.leave();
    code.put(op(LD_B_ABS, 9));
    code.put(jump(JEQ_K, TCP, 2, 0));
    code.put(jump(JEQ_K, UDP, 1, 0));
    let other = code.leave();
    code.put(op(LDX_MSH, 0));
    code.put(op(LD_W_IND, 0));
    ports(code, rss, 64);
    vec![fragment, other, code.leave()]
}

fn v6(code: &mut Code, rss: &Rss) -> Vec<Pending> {
    addresses(code, rss, 8, 4);
    code.put(op(LD_B_ABS, 6));
    code.put(jump(JEQ_K, TCP, 2, 0));
    code.put(jump(JEQ_K, UDP, 1, 0));
    let other = code.leave();
    code.put(op(LD_W_ABS, 40));
    ports(code, rss, 256);
    vec![other, code.leave()]
}

/// Hashes two addresses of `words` words each, which lie one behind the other from byte `at` on.
fn addresses(code: &mut Code, rss: &Rss, at: u32, words: u32) {
    let bit = |word: u32| word as usize * 32;
    if !rss.symmetric {
        for word in 0..2 * words {
            code.put(op(LD_W_ABS, at + word * 4));
            code.word(&rss.key, bit(word));
        }
        return;
    }
    for word in 0..words {
        code.put(op(LD_W_ABS, at + word * 4));
        code.put(op(TAX, 0));
        code.put(op(LD_W_ABS, at + (words + word) * 4));
        code.put(op(XOR_X, 0));
        code.word(&rss.key, bit(word));
        // The word is in the accumulator again.
        code.word(&rss.key, bit(words + word));
    }
}

/// Hashes the two ports in the accumulator.
fn ports(code: &mut Code, rss: &Rss, bit: usize) {
    if rss.symmetric {
        // The word with its halves exchanged, into the index; then both together.
        code.put(op(ST, 2));
        code.put(op(RSH_K, 16));
        code.put(op(TAX, 0));
        code.put(op(LD_MEM, 2));
        code.put(op(LSH_K, 16));
        code.put(op(OR_X, 0));
        code.put(op(TAX, 0));
        code.put(op(LD_MEM, 2));
        code.put(op(XOR_X, 0));
    }
    code.word(&rss.key, bit);
}

/// Returns the entry of the table that the hash's low bits choose.
fn lookup(code: &mut Code, table: &[u8]) {
    let period = period(table);
    let table = table.get(..period).unwrap_or(table);
    code.put(op(LD_MEM, HASH));
    code.put(op(AND_K, period as u32 - 1));
    if table.iter().enumerate().all(|(i, &q)| i == usize::from(q)) {
        code.put(op(RET_A, 0));
        return;
    }
    let tree = tree(table, 0);
    code.0.extend(tree);
}

/// The shortest power of two after which the table repeats.
fn period(table: &[u8]) -> usize {
    let mut period = table.len();
    while period > 1 && period.is_multiple_of(2) {
        let half = period / 2;
        if (0..half).any(|i| table.get(i) != table.get(i + half)) {
            break;
        }
        period = half;
    }
    period
}

/// Comparisons that end in the entry for the accumulator, which lies in `first..first + len`.
fn tree(table: &[u8], first: usize) -> Vec<Insn> {
    let queue = table.first().copied().unwrap_or(0);
    if table.iter().all(|&q| q == queue) {
        return vec![op(RET_K, u32::from(queue))];
    }
    let (low, high) = table.split_at(table.len() / 2);
    let middle = first + low.len();
    let (below, above) = (tree(low, first), tree(high, middle));
    // Of 128 entries the lower half is 64 leaves and 63 comparisons: the distance fits 8 bits.
    let skip = u8::try_from(below.len()).expect("half a table is at most 127 instructions");
    let mut all = vec![jump(JGE_K, middle as u32, skip, 0)];
    all.extend(below);
    all.extend(above);
    all
}

#[cfg(test)]
mod tests;
