//! The XDP program: the kernel's half of [`Filter`], and the maps that it reads.
//!
//! It is assembled here, for the kernel at hand, so neither a compiler nor an object file is
//! needed. A filter can be changed while it runs: the program reads maps.
//!
//! before: the driver, or `netif_receive_skb`   after: the socket of the queue, or the kernel

use super::filter::*;
use linerate_bpf::Insn;
use linerate_bpf::asm::{Asm, If, Label, MAP_LOOKUP_ELEM, Op, REDIRECT_MAP, Reg, Size};
use linerate_bpf::sys::{LoadError, Map, MapKind, Prog};
use std::io;
use std::net::IpAddr;

use Reg::*;

/// What a program says of a frame (`enum xdp_action`).
pub const XDP_DROP: u32 = 1;
/// Into the kernel.
pub const XDP_PASS: u32 = 2;

/// Bits of the first word of the map of flags.
const FLAG_SERVICES: i32 = 1;
const FLAG_NEIGHBOURS: i32 = 2;
const FLAG_EVERYTHING: i32 = 4;

/// Values in the map of addresses.
const OURS: i32 = 1;
const GROUP: i32 = 2;

/// Addresses and groups that fit.
const ADDRS_MAX: u32 = 4096;
/// Services that fit.
const SERVICES_MAX: u32 = 65536;

/// Family and address, as the map of addresses is looked up by.
const ADDR_KEY: usize = 20;
const V4: u32 = 4;
const V6: u32 = 6;

/// The stack of the program, from the frame pointer down: the key of an address, 20 bytes.
const KEY_ADDR: i16 = -24;
/// The key of a service, or the index of the flags.
const KEY_WORD: i16 = -28;
/// The protocol, across calls.
const PROTO: i16 = -32;

/// The program's maps.
#[derive(Debug)]
pub struct Maps {
    /// AF_XDP sockets by receive queue.
    pub sockets: Map,
    addrs: Map,
    services: Map,
    flags: Map,
}

impl Maps {
    /// Makes them, for so many receive queues.
    ///
    /// # Errors
    /// `EPERM` without `CAP_BPF`.
    pub fn new(queues: u32) -> io::Result<Maps> {
        Ok(Maps {
            sockets: Map::create(MapKind::Xskmap, "lr_sockets", 4, 4, queues)?,
            addrs: Map::create(MapKind::Hash, "lr_addrs", ADDR_KEY, 4, ADDRS_MAX)?,
            services: Map::create(MapKind::Hash, "lr_services", 4, 4, SERVICES_MAX)?,
            flags: Map::create(MapKind::Array, "lr_flags", 4, 4, 1)?,
        })
    }

    /// Goes from filter `old` to `new`: what is in both is ours without a gap.
    ///
    /// # Errors
    /// `E2BIG` if there is too much in it, `ENOMEM`; the old filter stays.
    pub fn set(&self, old: &Filter, new: &Filter) -> io::Result<()> {
        if let Err(refused) = self.admit(old, new) {
            // There is no room: what was added goes again, and what it replaced had room before.
            let _ = self.admit(new, old).and_then(|()| self.forget(new, old));
            return Err(refused);
        }
        self.forget(old, new)
    }

    /// Adds what only `new` has.
    fn admit(&self, old: &Filter, new: &Filter) -> io::Result<()> {
        let (was, is) = (addr_entries(old), addr_entries(new));
        for (key, value) in is.iter().filter(|entry| !was.contains(entry)) {
            self.addrs.update(key, &value.to_ne_bytes())?;
        }
        let (had, has) = (service_keys(old), service_keys(new));
        for key in has.iter().filter(|key| !had.contains(key)) {
            self.services.update(key, &1u32.to_ne_bytes())?;
        }
        let mut flags = 0;
        for (bit, set) in [
            (FLAG_SERVICES, new.services.is_some()),
            (FLAG_NEIGHBOURS, new.neighbours),
            (FLAG_EVERYTHING, new.everything),
        ] {
            flags |= if set { bit } else { 0 };
        }
        self.flags.update(&0u32.to_ne_bytes(), &flags.to_ne_bytes())
    }

    /// Takes away what only `old` has, so far as it is there.
    fn forget(&self, old: &Filter, new: &Filter) -> io::Result<()> {
        let gone = |deleted: io::Result<()>| match deleted {
            Err(err) if err.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            deleted => deleted,
        };
        let (had, has) = (service_keys(old), service_keys(new));
        for key in had.iter().filter(|key| !has.contains(key)) {
            gone(self.services.delete(key))?;
        }
        let (was, is) = (addr_entries(old), addr_entries(new));
        for (key, _) in was.iter().filter(|(key, _)| !is.iter().any(|(k, _)| k == key)) {
            gone(self.addrs.delete(key))?;
        }
        Ok(())
    }
}

/// Everything in the map of services.
fn service_keys(filter: &Filter) -> Vec<[u8; 4]> {
    filter.services.iter().flatten().map(|s| s.key().to_ne_bytes()).collect()
}

/// Everything in the map of addresses. An address that is also the group of another counts as an
/// address.
fn addr_entries(filter: &Filter) -> Vec<([u8; ADDR_KEY], i32)> {
    let key = |family: u32, bytes: &[u8]| {
        let mut key = [0; ADDR_KEY];
        key.iter_mut().zip(family.to_ne_bytes().iter().chain(bytes)).for_each(|(to, &b)| *to = b);
        key
    };
    let mut out = Vec::new();
    for addr in &filter.addrs {
        match addr {
            IpAddr::V4(a) => out.push((key(V4, &a.octets()), OURS)),
            IpAddr::V6(a) => out.push((key(V6, &a.octets()), OURS)),
        }
    }
    for addr in &filter.addrs {
        if let IpAddr::V6(a) = addr {
            let group = key(V6, &solicited_node(*a).octets());
            if !out.iter().any(|(k, _)| *k == group) {
                out.push((group, GROUP));
            }
        }
    }
    out
}

/// Loads the program over these maps. A frame that is ours on a queue without a socket is answered
/// with `alone`.
///
/// # Errors
/// Those of [`Prog::load`].
pub fn load(maps: &Maps, alone: u32) -> Result<Prog, LoadError> {
    Prog::load(&assemble(maps, alone), "linerate")
}

/// Two bytes of a frame as a load brings them.
fn raw16(value: u16) -> i32 {
    i32::from(u16::from_ne_bytes(value.to_be_bytes()))
}

/// What the parts of the program share.
struct Parts<'a> {
    asm: Asm,
    maps: &'a Maps,
    pass: Label,
    ours: Label,
}

/// Registers: R6 the header at hand, R7 the end of the frame, R8 the context, R9 the flags.
fn assemble(maps: &Maps, alone: u32) -> Vec<Insn> {
    /// Offsets in `struct xdp_md`.
    const DATA: i16 = 0;
    const DATA_END: i16 = 4;
    const RX_QUEUE_INDEX: i16 = 16;

    let mut asm = Asm::new();
    let (pass, ours) = (asm.label(), asm.label());
    let (arp, ip4, ip6) = (asm.label(), asm.label(), asm.label());
    asm.op_reg(Op::Mov, R8, R1);
    asm.load(Size::W, R6, R8, DATA);
    asm.load(Size::W, R7, R8, DATA_END);
    asm.store_imm(Size::W, R10, KEY_WORD, 0);
    let mut p = Parts { asm, maps, pass, ours };
    p.lookup(&maps.flags, KEY_WORD);
    p.asm.load(Size::W, R9, R0, 0);
    p.asm.jump_if(If::Set, R9, FLAG_EVERYTHING, ours);
    p.need(ETH_LEN);
    p.asm.load(Size::H, R2, R6, ETH_TYPE as i16);
    p.asm.op(Op::Add, R6, ETH_LEN as i32);
    for (kind, label) in [(ETH_P_IP, ip4), (ETH_P_IPV6, ip6), (ETH_P_ARP, arp)] {
        p.asm.jump_if(If::Eq, R2, raw16(kind), label);
    }
    p.asm.bind(pass);
    p.asm.op(Op::Mov, R0, XDP_PASS as i32);
    p.asm.exit();

    p.asm.bind(arp);
    p.arp();
    p.asm.bind(ip4);
    p.ip4();
    p.asm.bind(ip6);
    p.ip6();

    p.asm.bind(ours);
    p.asm.load_map(R1, &maps.sockets);
    p.asm.load(Size::W, R2, R8, RX_QUEUE_INDEX);
    p.asm.op(Op::Mov, R3, alone as i32);
    p.asm.call(REDIRECT_MAP);
    p.asm.exit();
    p.asm.finish()
}

impl Parts<'_> {
    /// To the kernel, unless the frame has `len` bytes from R6 on.
    fn need(&mut self, len: usize) {
        self.asm.op_reg(Op::Mov, R2, R6);
        self.asm.op(Op::Add, R2, len as i32);
        self.asm.jump_if_reg(If::Gt, R2, R7, self.pass);
    }
    /// R0 becomes a pointer to the entry of `map` whose key lies at `key`; to the kernel if there is
    /// none.
    fn lookup(&mut self, map: &Map, key: i16) {
        self.find(map, key);
        self.asm.jump_if(If::Eq, R0, 0, self.pass);
    }
    /// The same, with 0 for none.
    fn find(&mut self, map: &Map, key: i16) {
        self.asm.load_map(R1, map);
        self.asm.op_reg(Op::Mov, R2, R10);
        self.asm.op(Op::Add, R2, i32::from(key));
        self.asm.call(MAP_LOOKUP_ELEM);
    }
    /// R1 becomes what is known of the address at R6 + `at`; to the kernel if nothing is.
    fn addr(&mut self, family: u32, at: usize) {
        self.asm.store_imm(Size::W, R10, KEY_ADDR, family as i32);
        for word in 0..4 {
            let to = KEY_ADDR + 4 + word * 4;
            if family == V4 && word > 0 {
                self.asm.store_imm(Size::W, R10, to, 0);
            } else {
                self.asm.load(Size::W, R2, R6, at as i16 + word * 4);
                self.asm.store(Size::W, R10, to, R2);
            }
        }
        let maps = self.maps;
        self.lookup(&maps.addrs, KEY_ADDR);
        self.asm.load(Size::W, R1, R0, 0);
    }
    /// To the kernel unless `flag` is set.
    fn only_with(&mut self, flag: i32) {
        let set = self.asm.label();
        self.asm.jump_if(If::Set, R9, flag, set);
        self.asm.jump(self.pass);
        self.asm.bind(set);
    }

    fn arp(&mut self) {
        self.only_with(FLAG_NEIGHBOURS);
        self.need(ARP_END - ETH_LEN);
        self.addr(V4, ARP_TPA - ETH_LEN);
        self.asm.jump(self.ours);
    }

    fn ip4(&mut self) {
        let (pass, ours) = (self.pass, self.ours);
        self.need(IP4_LEN);
        self.addr(V4, IP4_DST);
        let asm = &mut self.asm;
        let some = asm.label();
        asm.jump_if(If::Set, R9, FLAG_SERVICES, some);
        asm.jump(ours);
        asm.bind(some);
        asm.load(Size::H, R2, R6, IP4_FRAG as i16);
        asm.jump_if(If::Set, R2, raw16(IP4_IS_FRAG), pass);
        asm.load(Size::B, R3, R6, IP4_PROTO as i16);
        asm.store(Size::W, R10, PROTO, R3);
        self.step_over_ip4(0);
        self.protocol();
        let icmp = self.asm.label();
        self.asm.jump_if(If::Eq, R3, ICMP.into(), icmp);
        self.port(2);
        self.asm.bind(icmp);
        self.icmp();
    }
    /// R6 moves behind the IPv4 header at R6 + `at`, of which the fixed part was checked to be there.
    fn step_over_ip4(&mut self, at: i32) {
        let asm = &mut self.asm;
        asm.load(Size::B, R2, R6, at as i16);
        asm.op(Op::And, R2, 0xf);
        asm.jump_if(If::Lt, R2, 5, self.pass);
        asm.op(Op::Lsh, R2, 2);
        asm.op(Op::Add, R2, at);
        asm.op_reg(Op::Add, R6, R2);
    }
    /// Ours, if all of the protocol at [`PROTO`] is. R3 is the protocol afterwards.
    fn protocol(&mut self) {
        let asm = &mut self.asm;
        asm.load(Size::W, R3, R10, PROTO);
        asm.op(Op::Lsh, R3, 16);
        asm.store(Size::W, R10, KEY_WORD, R3);
        let maps = self.maps;
        self.find(&maps.services, KEY_WORD);
        self.asm.jump_if(If::Ne, R0, 0, self.ours);
        self.asm.load(Size::W, R3, R10, PROTO);
    }
    /// Ours, if the service is that the protocol in R3, TCP or UDP, and the port at R6 + `at` make;
    /// else to the kernel.
    fn port(&mut self, at: i16) {
        let has_ports = self.asm.label();
        for proto in [TCP, UDP] {
            self.asm.jump_if(If::Eq, R3, proto.into(), has_ports);
        }
        self.asm.jump(self.pass);
        self.asm.bind(has_ports);
        self.need(4);
        let asm = &mut self.asm;
        asm.load(Size::H, R4, R6, at);
        asm.be16(R4);
        asm.op(Op::Lsh, R3, 16);
        asm.op_reg(Op::Or, R3, R4);
        asm.store(Size::W, R10, KEY_WORD, R3);
        let maps = self.maps;
        self.lookup(&maps.services, KEY_WORD);
        self.asm.jump(self.ours);
    }
    /// An ICMP error is ours if the packet that it quotes left by a port of ours.
    fn icmp(&mut self) {
        self.need(ICMP_QUOTE + IP4_LEN + 4);
        self.one_of(&ICMP_ERRORS);
        self.asm.load(Size::H, R2, R6, (ICMP_QUOTE + IP4_FRAG) as i16);
        self.asm.jump_if(If::Set, R2, raw16(IP4_FRAG_OFFSET), self.pass);
        self.asm.load(Size::B, R3, R6, (ICMP_QUOTE + IP4_PROTO) as i16);
        self.step_over_ip4(ICMP_QUOTE as i32);
        self.port(0);
    }
    /// To the kernel, unless the first byte at R6 is one of these.
    fn one_of(&mut self, kinds: &[u8]) {
        let found = self.asm.label();
        self.asm.load(Size::B, R2, R6, 0);
        for &kind in kinds {
            self.asm.jump_if(If::Eq, R2, kind.into(), found);
        }
        self.asm.jump(self.pass);
        self.asm.bind(found);
    }

    fn ip6(&mut self) {
        self.need(IP6_LEN);
        self.addr(V6, IP6_DST);
        let asm = &mut self.asm;
        asm.load(Size::B, R3, R6, IP6_NEXT as i16);
        asm.store(Size::W, R10, PROTO, R3);
        asm.op(Op::Add, R6, IP6_LEN as i32);
        let (group, some) = (asm.label(), asm.label());
        asm.jump_if(If::Eq, R1, GROUP, group);
        asm.jump_if(If::Set, R9, FLAG_SERVICES, some);
        asm.jump(self.ours);

        asm.bind(some);
        self.protocol();
        let icmp = self.asm.label();
        self.asm.jump_if(If::Eq, R3, ICMPV6.into(), icmp);
        self.port(2);
        self.asm.bind(icmp);
        self.icmpv6();

        // Sent to the group of an address: ours if it asks for an address of ours, and not for one
        // of the kernel's that ends alike.
        self.asm.bind(group);
        self.only_with(FLAG_NEIGHBOURS);
        self.asm.jump_if(If::Ne, R3, ICMPV6.into(), self.pass);
        self.need(ND_TARGET + 16);
        self.one_of(&[ND_SOLICIT]);
        self.addr(V6, ND_TARGET);
        self.asm.jump_if(If::Eq, R1, OURS, self.ours);
        self.asm.jump(self.pass);
    }
    fn icmpv6(&mut self) {
        let error = self.asm.label();
        self.need(1);
        self.asm.load(Size::B, R2, R6, 0);
        self.asm.jump_if(If::Lt, R2, i32::from(*ND.start()), error);
        self.asm.jump_if(If::Gt, R2, i32::from(*ND.end()), error);
        self.only_with(FLAG_NEIGHBOURS);
        self.asm.jump(self.ours);
        self.asm.bind(error);
        self.need(ICMP_QUOTE + IP6_LEN + 4);
        self.one_of(&ICMPV6_ERRORS);
        self.asm.load(Size::B, R3, R6, (ICMP_QUOTE + IP6_NEXT) as i16);
        self.asm.op(Op::Add, R6, (ICMP_QUOTE + IP6_LEN) as i32);
        self.port(0);
    }
}

#[cfg(test)]
mod tests;
