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
use linerate_core::rx::steer::ntuple::{FlowType, Rule, RuleAction};
use linerate_core::rx::steer::rss::Rss;
use linerate_core::table::value::HashFields;
use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The most instructions the kernel takes (`BPF_MAXINSNS`).
const INSNS_MAX: usize = 4096;

// Addressing: what is received lies before the program from its network header on.
const LD_W_ABS: u16 = 0x20;
const LD_H_ABS: u16 = 0x28;
const LD_B_ABS: u16 = 0x30;
const LD_W_IND: u16 = 0x40;
const LD_H_IND: u16 = 0x48;
const LD_B_IND: u16 = 0x50;
const LDX_MSH: u16 = 0xb1;
const LD_MEM: u16 = 0x60;
const LD_IMM: u16 = 0x00;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const ADD_K: u16 = 0x04;
const ADD_X: u16 = 0x0c;
const XOR_K: u16 = 0xa4;
const OR_X: u16 = 0x4c;
const LSH_K: u16 = 0x64;
const RSH_K: u16 = 0x74;
const TAX: u16 = 0x07;
const AND_K: u16 = 0x54;
const JEQ_K: u16 = 0x15;
const JEQ_X: u16 = 0x1d;
const JGT_X: u16 = 0x2d;
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

// The words of memory.
const WORK: u32 = 0;
const HASH: u32 = 1;
/// The transport protocol, if the packet shows its ports; else 0.
const PROTO: u32 = 2;
/// Where the header lies that is looked at.
const AT: u32 = 3;
/// Addresses of up to four words each, and the two ports in one.
const SRC: u32 = 4;
const DST: u32 = 8;
const PORTS: u32 = 12;

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

    /// Goes to the returned place if the accumulator is `k`.
    fn leave_if(&mut self, k: u32) -> Pending {
        self.put(jump(JEQ_K, k, 0, 1));
        self.leave()
    }

    fn land_all(&mut self, from: Vec<Pending>) {
        from.into_iter().for_each(|p| self.land(p));
    }

    /// Adds memory word `from` to the hash, as input bits `bit..bit + 32`.
    fn word(&mut self, key: &[u8], from: u32, bit: usize) {
        self.put(op(LD_MEM, from));
        self.put(op(ST, WORK));
        // Zeros change nothing: past 32 times five instructions.
        self.put(jump(JEQ_K, 0, 160, 0));
        for i in 0..32 {
            self.put(jump(JSET_K, 1 << (31 - i), 0, 4));
            self.put(op(LD_MEM, HASH));
            self.put(op(XOR_K, window(key, bit + i)));
            self.put(op(ST, HASH));
            self.put(op(LD_MEM, WORK));
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

/// What the program of a group of sockets is made of: the table, and the rules that go before it.
/// All sockets of the group share it.
#[derive(Debug)]
pub struct Steering {
    rss: Rss,
    /// By location, and by the queue that set it where a location is the queue's own affair.
    rules: BTreeMap<(u32, u8), Rule>,
}

/// Locations from here on belong to the queue that sets them (accelerated RFS).
const OWN_LOCATIONS: u32 = 1 << 31;

/// A panic elsewhere leaves it whole: each change of it is complete under the lock.
pub(super) fn lock(steering: &Mutex<Steering>) -> MutexGuard<'_, Steering> {
    steering.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Steering {
    /// The table, no rules.
    #[must_use]
    pub fn new(rss: Rss) -> Steering {
        Steering { rss, rules: BTreeMap::new() }
    }
    /// Another table. `load` gives the kernel the program.
    ///
    /// # Errors
    /// Those of `load`; the table is as before then.
    pub fn set_rss(
        &mut self,
        rss: &Rss,
        load: impl FnOnce(&[Insn]) -> io::Result<()>,
    ) -> io::Result<()> {
        load(&with_rules(rss, self.rules.values())?)?;
        self.rss = rss.clone();
        Ok(())
    }
    /// Sets or takes out the rule that `queue` gives for `location`.
    ///
    /// # Errors
    /// `EINVAL` for a rule that drops, `ENOSPC` where the program has no room, and those of `load`;
    /// the rules are as before then.
    pub fn set_rule(
        &mut self,
        queue: u8,
        location: u32,
        rule: Option<&Rule>,
        load: impl FnOnce(&[Insn]) -> io::Result<()>,
    ) -> io::Result<()> {
        let key = (location, if location < OWN_LOCATIONS { 0 } else { queue });
        let mut rules = self.rules.clone();
        let before = match rule {
            Some(rule) => rules.insert(key, rule.clone()),
            None => rules.remove(&key),
        };
        // Every queue of the group is told of a rule that is for all.
        if before.as_ref() == rule {
            return Ok(());
        }
        load(&with_rules(&self.rss, rules.values())?)?;
        self.rules = rules;
        Ok(())
    }
}

/// The program that returns the queue of a packet, as [`Rss`] has it: of TCP and UDP by the fields
/// that count, of fragments and other protocols by addresses. What is no IP goes to the queue of
/// hash 0.
#[must_use]
pub fn program(rss: &Rss) -> Vec<Insn> {
    assemble(rss, &[])
}

/// The same, with rules that are asked before: the first that speaks of a packet decides.
fn with_rules<'a>(rss: &Rss, rules: impl Iterator<Item = &'a Rule>) -> io::Result<Vec<Insn>> {
    let rules: Vec<&Rule> = rules.collect();
    if rules.iter().any(|rule| rule.action == RuleAction::Drop) {
        let why = "a packet socket only chooses queues: a rule of it can not drop (action -1)";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let code = assemble(rss, &rules);
    if code.len() > INSNS_MAX {
        return Err(io::Error::from_raw_os_error(libc::ENOSPC));
    }
    Ok(code)
}

fn assemble(rss: &Rss, rules: &[&Rule]) -> Vec<Insn> {
    let mut code = Code::default();
    let first = u32::from(rss.indir.first().copied().unwrap_or(0));
    if rules.is_empty() && rss.indir.iter().all(|&queue| u32::from(queue) == first) {
        // One queue has all: no hash is needed to tell.
        code.put(op(RET_K, first));
        return code.0;
    }
    for word in [HASH, PROTO, PORTS] {
        code.put(op(LD_IMM, 0));
        code.put(op(ST, word));
    }
    code.put(op(LD_W_ABS, AD_PROTOCOL));
    code.put(jump(JEQ_K, ETH_P_IP, 1, 0));
    let not_v4 = code.leave();
    v4(&mut code);
    ask(&mut code, rules, false);
    hash(&mut code, rss, 1);
    let done = code.leave();
    code.land(not_v4);
    code.put(jump(JEQ_K, ETH_P_IPV6, 1, 0));
    let not_ip = code.leave();
    v6(&mut code);
    ask(&mut code, rules, true);
    hash(&mut code, rss, 4);
    code.land(done);
    // A flow's hash is never 0.
    code.put(op(LD_MEM, HASH));
    code.put(jump(JEQ_K, 0, 0, 1));
    code.put(op(LD_IMM, 1));
    lookup(&mut code, &rss.indir);
    code.land(not_ip);
    code.put(op(RET_K, first));
    let bare = rules.is_empty() && code.0.len() > INSNS_MAX;
    assert!(!bare, "384 bits of input fit the kernel's limit");
    code.0
}

/// Returns the queue of the first rule that speaks of the packet; goes on if there is none.
fn ask(code: &mut Code, rules: &[&Rule], v6: bool) {
    for rule in rules.iter().filter(|rule| rule.flow_type.v6() == v6) {
        let RuleAction::Queue(queue) = rule.action else { continue };
        let proto = match rule.flow_type {
            FlowType::Tcp4 | FlowType::Tcp6 => TCP,
            FlowType::Udp4 | FlowType::Udp6 => UDP,
        };
        let mut others = Vec::new();
        let mut want = |code: &mut Code, word: u32, part: Option<Insn>, value: u32| {
            code.put(op(LD_MEM, word));
            part.into_iter().for_each(|insn| code.put(insn));
            code.put(jump(JEQ_K, value, 1, 0));
            others.push(code.leave());
        };
        want(code, PROTO, None, proto);
        for (addr, from) in [(rule.src, SRC), (rule.dst, DST)] {
            for (word, value) in (from..).zip(addr.into_iter().flat_map(words)) {
                want(code, word, None, value);
            }
        }
        if let Some(port) = rule.sport {
            want(code, PORTS, Some(op(RSH_K, 16)), port.into());
        }
        if let Some(port) = rule.dport {
            want(code, PORTS, Some(op(AND_K, 0xffff)), port.into());
        }
        code.put(op(RET_K, queue.into()));
        code.land_all(others);
    }
}

/// The words of an address, as they are loaded.
fn words(addr: IpAddr) -> Vec<u32> {
    match addr {
        IpAddr::V4(a) => vec![a.to_bits()],
        IpAddr::V6(a) => (0..4).map(|i| (a.to_bits() >> (96 - 32 * i)) as u32).collect(),
    }
}

/// Reads addresses and ports of an IPv4 packet.
fn v4(code: &mut Code) {
    for (at, word) in [(12, SRC), (16, DST)] {
        code.put(op(LD_W_ABS, at));
        code.put(op(ST, word));
    }
    // More fragments, or an offset: no ports.
    code.put(op(LD_H_ABS, 6));
    code.put(jump(JSET_K, 0x3fff, 0, 1));
    let fragment = code.leave();
    code.put(op(LD_B_ABS, 9));
    code.put(jump(JEQ_K, TCP, 2, 0));
    code.put(jump(JEQ_K, UDP, 1, 0));
    let other = code.leave();
    code.put(op(ST, PROTO));
    code.put(op(LDX_MSH, 0));
    code.put(op(LD_W_IND, 0));
    code.put(op(ST, PORTS));
    code.land_all(vec![fragment, other]);
}

/// Extension headers that are followed: as many as the stack follows.
const EXT_HDRS_MAX: usize = 8;

/// Reads addresses and ports of an IPv6 packet, behind its extension headers.
fn v6(code: &mut Code) {
    for word in 0..8 {
        code.put(op(LD_W_ABS, 8 + word * 4));
        code.put(op(ST, SRC + word));
    }
    code.put(op(LD_IMM, 40));
    code.put(op(ST, AT));
    code.put(op(LD_B_ABS, 6));
    code.put(op(ST, PROTO));
    let (mut ports, mut none) = (Vec::new(), Vec::new());
    for left in (0..=EXT_HDRS_MAX).rev() {
        code.put(op(LD_MEM, PROTO));
        ports.extend([code.leave_if(TCP), code.leave_if(UDP)]);
        if left > 0 {
            none.extend(ext_hdr(code));
        }
    }
    code.land_all(none);
    code.put(op(LD_IMM, 0));
    code.put(op(ST, PROTO));
    let done = code.leave();
    code.land_all(ports);
    code.put(op(LDX_MEM, AT));
    code.put(op(LD_W_IND, 0));
    code.put(op(ST, PORTS));
    code.land(done);
}

/// Steps over the extension header in the accumulator. Returns where it leads that is none, or that
/// hides the ports.
fn ext_hdr(code: &mut Code) -> Vec<Pending> {
    const FRAGMENT: u32 = 44;
    const AH: u32 = 51;
    let options = [0, 43, 60].map(|kind| code.leave_if(kind));
    let (ah, fragment) = (code.leave_if(AH), code.leave_if(FRAGMENT));
    let mut none = vec![code.leave()];
    let mut done = Vec::new();
    let next = |code: &mut Code| {
        code.put(op(LDX_MEM, AT));
        code.put(op(LD_B_IND, 0));
        code.put(op(ST, PROTO));
    };
    // Options count eights after the first, the authentication header fours after two.
    for (from, plus, shift) in [(Vec::from(options), 1, 3), (vec![ah], 2, 2)] {
        code.land_all(from);
        next(code);
        code.put(op(LD_B_IND, 1));
        code.put(op(ADD_K, plus));
        code.put(op(LSH_K, shift));
        code.put(op(ADD_X, 0));
        code.put(op(ST, AT));
        done.push(code.leave());
    }
    code.land(fragment);
    code.put(op(LDX_MEM, AT));
    code.put(op(LD_H_IND, 2));
    code.put(jump(JSET_K, 0xfff9, 0, 1));
    none.push(code.leave());
    next(code);
    code.put(op(LD_MEM, AT));
    code.put(op(ADD_K, 8));
    code.put(op(ST, AT));
    code.land_all(done);
    none
}

/// Hashes addresses of `words` words each, and ports.
fn hash(code: &mut Code, rss: &Rss, words: u32) {
    if rss.symmetric {
        sort(code, words);
    }
    let [tcp4, udp4, tcp6, udp6] = rss.fields;
    let of = if words == 1 { [(TCP, tcp4), (UDP, udp4)] } else { [(TCP, tcp6), (UDP, udp6)] };
    for (proto, fields) in of {
        let both = |a: bool, b: bool| if rss.symmetric { (a || b, a || b) } else { (a, b) };
        let ((s, d), (f, n)) = (both(fields.s, fields.d), both(fields.f, fields.n));
        let fields = HashFields { s, d, f, n };
        if fields != HashFields::ALL {
            code.put(op(LD_MEM, PROTO));
            code.put(jump(JEQ_K, proto, 1, 0));
            let other = code.leave();
            clear(code, fields, words);
            code.land(other);
        }
    }
    for word in 0..words {
        code.word(&rss.key, SRC + word, word as usize * 32);
        code.word(&rss.key, DST + word, (words + word) as usize * 32);
    }
    code.word(&rss.key, PORTS, words as usize * 64);
}

/// Makes zeros of what does not count.
fn clear(code: &mut Code, fields: HashFields, words: u32) {
    code.put(op(LD_IMM, 0));
    for (counts, from) in [(fields.s, SRC), (fields.d, DST)] {
        if !counts {
            (from..from + words).for_each(|word| code.put(op(ST, word)));
        }
    }
    let half = |counts: bool| if counts { 0xffff } else { 0 };
    code.put(op(LD_MEM, PORTS));
    code.put(op(AND_K, half(fields.f) << 16 | half(fields.n)));
    code.put(op(ST, PORTS));
}

/// Exchanges both ends, address and port, if the first is the greater: both directions of a flow
/// have the same order then.
fn sort(code: &mut Code, words: u32) {
    let (mut greater, mut less) = (Vec::new(), Vec::new());
    for word in 0..words {
        code.put(op(LDX_MEM, DST + word));
        code.put(op(LD_MEM, SRC + word));
        code.put(jump(JGT_X, 0, 0, 1));
        greater.push(code.leave());
        code.put(jump(JEQ_X, 0, 1, 0));
        less.push(code.leave());
    }
    code.put(op(LD_MEM, PORTS));
    code.put(op(AND_K, 0xffff));
    code.put(op(TAX, 0));
    code.put(op(LD_MEM, PORTS));
    code.put(op(RSH_K, 16));
    code.put(jump(JGT_X, 0, 1, 0));
    less.push(code.leave());
    code.land_all(greater);
    for word in 0..words {
        code.put(op(LD_MEM, SRC + word));
        code.put(op(LDX_MEM, DST + word));
        code.put(op(ST, DST + word));
        code.put(op(STX, SRC + word));
    }
    code.put(op(LD_MEM, PORTS));
    code.put(op(LSH_K, 16));
    code.put(op(TAX, 0));
    code.put(op(LD_MEM, PORTS));
    code.put(op(RSH_K, 16));
    code.put(op(OR_X, 0));
    code.put(op(ST, PORTS));
    code.land_all(less);
}

/// Returns the entry of the table that the low bits of the hash, in the accumulator, choose.
fn lookup(code: &mut Code, table: &[u8]) {
    let period = period(table);
    let table = table.get(..period).unwrap_or(table);
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
