//! Keeps the kernel from receiving what is ours: a filter at the ingress hook of an interface, which
//! lies behind the packet sockets and before everything else.
//!
//! The filter is a classic BPF program in direct-action mode (`cls_bpf`), which needs no right
//! beyond `CAP_NET_ADMIN` in the user namespace that owns the network. It drops IP packets and ARP
//! for our addresses and neighbour solicitations for them; what bears a VLAN tag it leaves alone.
//!
//! Linux: net/core/dev.c `__netif_receive_skb_core` (taps, then `sch_handle_ingress`),
//! net/sched/cls_bpf.c, net/sched/sch_ingress.c.

use super::netlink::{NLM_F_DUMP, Request, attr, attr_u16, text};
use super::{NLM_F_CREATE, NLM_F_EXCL, Netdev, NetdevError};
use crate::sys::filter::Insn;
use std::net::IpAddr;

const RTM_NEWQDISC: u16 = 36;
const RTM_DELQDISC: u16 = 37;
const RTM_NEWTFILTER: u16 = 44;
const RTM_DELTFILTER: u16 = 45;
const RTM_GETTFILTER: u16 = 46;
const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_BPF_OPS_LEN: u16 = 4;
const TCA_BPF_OPS: u16 = 5;
const TCA_BPF_FLAGS: u16 = 8;
const TCA_BPF_FLAG_ACT_DIRECT: u32 = 1;
const TC_H_CLSACT: u32 = 0xffff_fff1;
const CLSACT_HANDLE: u32 = 0xffff_0000;
/// The two hooks of an interface: what comes in and what leaves.
const INGRESS: u32 = 0xffff_fff2;
const EGRESS: u32 = 0xffff_fff3;
const ETH_P_ALL: u16 = 3;
const HANDLE: u32 = 1;
/// `struct tcmsg`.
const TCMSG: usize = 20;
/// Priorities that are tried for a place of our own, the first first in the kernel's order.
const PRIORITIES: std::ops::RangeInclusive<u16> = 1..=32;

/// `BPF_MAXINSNS`.
const INSNS_MAX: usize = 4096;

const LD_W_ABS: u16 = 0x20;
const LD_B_ABS: u16 = 0x30;
const JEQ_K: u16 = 0x15;
const RET_K: u16 = 0x06;
/// `SKF_AD_OFF` plus the field: ethertype, and whether there is a VLAN tag.
const AD_PROTOCOL: u32 = 0xffff_f000;
const AD_VLAN_PRESENT: u32 = 0xffff_f000 + 48;
/// `TC_ACT_SHOT` and `TC_ACT_UNSPEC`: on to the next filter.
const SHOT: u32 = 2;
const PASS: u32 = u32::MAX;

/// A filter of ours at an interface, as it must be known to take it away again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// The interface's number.
    pub index: u32,
    /// The filter's priority (`pref`).
    pub priority: u16,
    /// The addresses that the kernel ignores, in order.
    pub addrs: Vec<IpAddr>,
    /// The hook had to be made for it, and goes with it unless others use it.
    pub made_hook: bool,
}

impl Netdev {
    /// Whether the interface has a hook for filters already (a `clsact` or `ingress` discipline).
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface.
    pub fn has_ingress_hook(&mut self, index: u32) -> Result<bool, NetdevError> {
        const RTM_GETQDISC: u16 = 38;
        let request = Request::new(RTM_GETQDISC, NLM_F_DUMP, &tcmsg(index, 0, 0, 0));
        let all = self.0.dump(request, || format!("list the disciplines of interface #{index}"))?;
        Ok(all.iter().any(|answer| {
            let kind = answer.body.get(TCMSG..).and_then(|a| attr(a, TCA_KIND)).map(text);
            is_of(&answer.body, index) && matches!(kind.as_deref(), Some("clsact" | "ingress"))
        }))
    }

    /// A priority at the ingress hook that nobody uses, the lowest number there is.
    ///
    /// # Errors
    /// `ENOSPC` if 32 are taken.
    pub fn free_ingress_priority(&mut self, index: u32) -> Result<u16, NetdevError> {
        let taken = self.filters(index, INGRESS)?;
        let free = PRIORITIES.into_iter().find(|p| taken.iter().all(|(prio, _)| prio != p));
        free.ok_or_else(|| NetdevError {
            doing: format!("find a place among the filters of interface #{index}"),
            kernel: None,
            source: std::io::Error::from_raw_os_error(libc::ENOSPC),
        })
    }

    /// From now on the kernel ignores what comes in for the addresses.
    ///
    /// # Errors
    /// `EPERM`, `ENODEV`; `EEXIST` if the priority is taken; `E2BIG` for more than some hundred
    /// addresses; `ENOENT` where the kernel has no
    /// `cls_bpf` (`CONFIG_NET_CLS_BPF`) or no ingress hook (`CONFIG_NET_SCH_INGRESS`).
    pub fn ignore(&mut self, ignored: &Ignored) -> Result<(), NetdevError> {
        let index = ignored.index;
        let program = program(&ignored.addrs);
        if program.len() > INSNS_MAX {
            return Err(NetdevError {
                doing: format!("have the kernel ignore {} addresses", ignored.addrs.len()),
                kernel: Some("a program has at most 4096 instructions".to_owned()),
                source: std::io::Error::from_raw_os_error(libc::E2BIG),
            });
        }
        if ignored.made_hook {
            let fixed = tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0);
            let request = Request::new(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, &fixed)
                .attr_str(TCA_KIND, "clsact");
            match self.set(request, || format!("make the ingress hook of interface #{index}")) {
                // Somebody else was faster.
                Err(err) if err.errno() == Some(libc::EEXIST) => {}
                other => other?,
            }
        }
        let ops = bytes(&program);
        let len = program.len() as u16;
        let fixed = tcmsg(index, HANDLE, INGRESS, info(ignored.priority));
        let request = Request::new(RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, &fixed)
            .attr_str(TCA_KIND, "bpf")
            .nest(TCA_OPTIONS, &[], |r| {
                r.attr_u16(TCA_BPF_OPS_LEN, len)
                    .attr(TCA_BPF_OPS, &ops)
                    .attr_u32(TCA_BPF_FLAGS, TCA_BPF_FLAG_ACT_DIRECT)
            });
        self.set(request, || {
            format!(
                "have the kernel ignore our addresses on interface #{index} (tc filter, which \
                 needs CONFIG_NET_CLS_BPF)"
            )
        })
    }

    /// Whether a filter stands in its place and is the one that [`Netdev::ignore`] put there.
    ///
    /// # Errors
    /// `ENODEV` if there is no such interface.
    pub fn ignores(&mut self, ignored: &Ignored) -> Result<bool, NetdevError> {
        let ops = bytes(&program(&ignored.addrs));
        let all = self.filters(ignored.index, INGRESS)?;
        Ok(all.iter().any(|(prio, found)| *prio == ignored.priority && *found == ops))
    }

    /// Takes the filter away, and the hook if it was made for it and nobody else uses it. What is
    /// not ours stays; returns whether it was.
    ///
    /// # Errors
    /// `EPERM`, `ENODEV`.
    pub fn heed(&mut self, ignored: &Ignored) -> Result<bool, NetdevError> {
        let index = ignored.index;
        let ours = self.ignores(ignored)?;
        if ours {
            let fixed = tcmsg(index, HANDLE, INGRESS, info(ignored.priority));
            let request = Request::new(RTM_DELTFILTER, 0, &fixed).attr_str(TCA_KIND, "bpf");
            self.set(request, || format!("take our filter from interface #{index}"))?;
        }
        let used = |filters: Vec<_>| !filters.is_empty();
        if ignored.made_hook
            && self.has_ingress_hook(index)?
            && !used(self.filters(index, INGRESS)?)
            && !used(self.filters(index, EGRESS)?)
        {
            let fixed = tcmsg(index, CLSACT_HANDLE, TC_H_CLSACT, 0);
            let request = Request::new(RTM_DELQDISC, 0, &fixed);
            self.set(request, || format!("take the ingress hook from interface #{index}"))?;
        }
        Ok(ours)
    }

    /// The filters at a hook: priority, and the program of those that have a classic one.
    fn filters(&mut self, index: u32, hook: u32) -> Result<Vec<(u16, Vec<u8>)>, NetdevError> {
        let request = Request::new(RTM_GETTFILTER, NLM_F_DUMP, &tcmsg(index, 0, hook, 0));
        let doing = || format!("list the filters of interface #{index}");
        let answers = match self.0.dump(request, doing) {
            Ok(answers) => answers,
            // No hook, no filters.
            Err(err) if matches!(err.errno(), Some(libc::EINVAL | libc::ENOENT)) => Vec::new(),
            Err(err) => return Err(err),
        };
        let mut found = Vec::new();
        for answer in answers.iter().filter(|a| is_of(&a.body, index)) {
            let Some(info) = answer.body.get(16..).and_then(|b| b.first_chunk()) else { continue };
            // The upper half of `tcm_info`.
            let priority = (u32::from_ne_bytes(*info) >> 16) as u16;
            let attrs = answer.body.get(TCMSG..).unwrap_or_default();
            let options = attr(attrs, TCA_OPTIONS).unwrap_or_default();
            let ops = match attr_u16(options, TCA_BPF_OPS_LEN) {
                Some(_) => attr(options, TCA_BPF_OPS).unwrap_or_default().to_vec(),
                None => Vec::new(),
            };
            found.push((priority, ops));
        }
        Ok(found)
    }
}

fn info(priority: u16) -> u32 {
    u32::from(priority) << 16 | u32::from(ETH_P_ALL.to_be())
}

fn tcmsg(index: u32, handle: u32, parent: u32, info: u32) -> [u8; TCMSG] {
    let mut out = [0; TCMSG];
    for (at, value) in [(4, index), (8, handle), (12, parent), (16, info)] {
        out[at..at + 4].copy_from_slice(&value.to_ne_bytes());
    }
    out
}

fn is_of(body: &[u8], index: u32) -> bool {
    body.get(4..8).is_some_and(|b| *b == index.to_ne_bytes())
}

/// The program. At the ingress hook a packet begins with its Ethernet header.
fn program(addrs: &[IpAddr]) -> Vec<Insn> {
    let mut code = Vec::new();
    let mut put = |code_, jt, jf, k| code.push(Insn { code: code_, jt, jf, k });
    put(LD_W_ABS, 0, 0, AD_VLAN_PRESENT);
    put(JEQ_K, 1, 0, 0);
    put(RET_K, 0, 0, PASS);
    for addr in addrs {
        match addr {
            IpAddr::V4(addr) => {
                // Destination of IPv4, target of ARP.
                for (ethertype, at) in [(0x0800, 30), (0x0806, 38)] {
                    put(LD_W_ABS, 0, 0, AD_PROTOCOL);
                    put(JEQ_K, 0, 3, ethertype);
                    put(LD_W_ABS, 0, 0, at);
                    put(JEQ_K, 0, 1, addr.to_bits());
                    put(RET_K, 0, 0, SHOT);
                }
            }
            IpAddr::V6(addr) => {
                let words = addr.to_bits().to_be_bytes();
                let (words, _) = words.as_chunks::<4>();
                // Destination of IPv6; target of a solicitation, whose destination is a group.
                put(LD_W_ABS, 0, 0, AD_PROTOCOL);
                put(JEQ_K, 0, 22, 0x86dd);
                for (i, word) in words.iter().enumerate() {
                    put(LD_W_ABS, 0, 0, 38 + 4 * i as u32);
                    put(JEQ_K, 0, 7 - 2 * i as u8, u32::from_be_bytes(*word));
                }
                put(RET_K, 0, 0, SHOT);
                put(LD_B_ABS, 0, 0, 20);
                put(JEQ_K, 0, 11, 58);
                put(LD_B_ABS, 0, 0, 54);
                put(JEQ_K, 0, 9, 135);
                for (i, word) in words.iter().enumerate() {
                    put(LD_W_ABS, 0, 0, 62 + 4 * i as u32);
                    put(JEQ_K, 0, 7 - 2 * i as u8, u32::from_be_bytes(*word));
                }
                put(RET_K, 0, 0, SHOT);
            }
        }
    }
    put(RET_K, 0, 0, PASS);
    code
}

/// As the kernel keeps it, so that one can be told from another.
fn bytes(program: &[Insn]) -> Vec<u8> {
    let mut out = Vec::with_capacity(size_of_val(program));
    for insn in program {
        out.extend(insn.code.to_ne_bytes());
        out.extend([insn.jt, insn.jf]);
        out.extend(insn.k.to_ne_bytes());
    }
    out
}
