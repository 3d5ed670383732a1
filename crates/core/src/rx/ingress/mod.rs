//! Stage `Ingress`, RX: rules of match and action on whole frames, in the words of `tc filter`.
//!
//! before: [`crate::rx::gro`], [`crate::rx::backlog`]   after: [`crate::link::input`]
//! Linux:  net/core/dev.c `sch_handle_ingress`, net/sched/cls_flower.c `fl_classify`,
//!         net/sched/act_gact.c, act_mirred.c, act_skbedit.c, act_sample.c
//! drops:  TcIngress
//!
//! A device has a list of rules, by preference; the first that matches decides, unless it says
//! `continue`. While no device has a rule the stage is skipped whole. What `sample` chooses goes to
//! captures that look at Ingress where rules sample (`--stage Ingress --at sample`).

mod flower;
mod parse;
mod show;

pub use parse::{Command, RuleError};
pub use show::Show;

use crate::link::L2;
use crate::pkt::{NO_QUEUE, Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage};
use crate::tap::{Point, Stages};
use crate::time::Instant;
use crate::wire::{ETH_P_IP, ETH_P_IPV6};
use flower::{Keys, Match};

/// Rules of one device at the most.
pub const RULES_MAX: usize = 1024;
/// Actions of one rule at the most.
const ACTIONS_MAX: usize = 16;

/// What is done with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// `gact pass`, `gact drop`, `gact continue`.
    Gact(Control),
    /// `mirred egress redirect|mirror dev X`.
    Mirred { redirect: bool, dev: u8 },
    /// `skbedit mark N`.
    Mark(u32),
    /// `sample rate N group G`.
    Sample { rate: u32, group: u32 },
}

/// What follows an action.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Control {
    Pass,
    Drop,
    Continue,
}

/// An action and what it has counted.
#[derive(Clone, Debug)]
struct Action {
    kind: Kind,
    bytes: u64,
    packets: u64,
    drops: u64,
    overlimits: u64,
    used: Option<Instant>,
}

/// A rule.
#[derive(Clone, Debug)]
struct Rule {
    prio: u16,
    handle: u32,
    /// `flower`; else `matchall`.
    flower: bool,
    what: Match,
    actions: Vec<Action>,
    installed: Instant,
}

/// The rules of a device, by preference.
#[derive(Debug, Default)]
pub struct Chain(Vec<Rule>);

impl Chain {
    /// Whether it has no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The device whose rules a path such as `ingress.eth0` names.
#[must_use]
pub fn place(path: &str) -> Option<&str> {
    let dev = path.strip_prefix("ingress.").or_else(|| path.strip_prefix("ingress/"))?;
    (!dev.is_empty()).then_some(dev)
}

/// Looks the packet up in the rules of its device.
#[inline(always)]
pub fn sch_handle_ingress(cx: &mut Shard, pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    match net.ifaces.get(pkt.dev as usize) {
        Some(iface) if !iface.ingress.is_empty() => tcf_classify(net, pkt),
        _ => Verdict::Pass(pkt),
    }
}

/// Bytes of a frame that rules may look at: link header and tags, IPv6, TCP.
const LOOK: usize = 14 + 8 + 60 + 20;

fn tcf_classify(net: &mut Net, mut pkt: Pkt) -> Verdict {
    // Headers that lie in fragments; what is shorter has no more headers.
    let near = LOOK.min(pkt.len());
    let _ = pkt.may_pull(near);
    let dev = pkt.dev as usize;
    let ethernet = net.ifaces[dev].l2 == L2::Ethernet;
    let keys = Keys::dissect(pkt.head(), ethernet);
    let mut chain = std::mem::take(&mut net.ifaces[dev].ingress);
    let mut meant = chain.0.iter_mut().filter(|rule| rule.what.matches(&keys));
    let verdict = loop {
        let Some(rule) = meant.next() else { break Verdict::Pass(pkt) };
        match rule.act(net, pkt, &keys, ethernet) {
            Acted::Done(verdict) => break verdict,
            Acted::Continue(back) => pkt = back,
        }
    };
    net.ifaces[dev].ingress = chain;
    verdict
}

/// What a rule has said of a packet.
enum Acted {
    Done(Verdict),
    /// The rules behind it decide.
    Continue(Pkt),
}

impl Rule {
    fn act(&mut self, net: &mut Net, mut pkt: Pkt, keys: &Keys, ethernet: bool) -> Acted {
        // The kernel has taken the link header off when it counts.
        let len = pkt.len().saturating_sub(if ethernet { 14 } else { 0 }) as u64;
        for action in &mut self.actions {
            action.packets += pkt.segs();
            action.bytes += len;
            action.used = Some(net.now);
            match action.kind {
                Kind::Gact(Control::Pass) => return Acted::Done(Verdict::Pass(pkt)),
                Kind::Gact(Control::Continue) => return Acted::Continue(pkt),
                Kind::Gact(Control::Drop) => {
                    action.drops += pkt.segs();
                    return Acted::Done(Verdict::Drop(pkt, Reason::TcIngress));
                }
                Kind::Mark(mark) => pkt.mark = mark,
                Kind::Sample { rate, .. } => {
                    if net.rng.below(u64::from(rate)) == 0 && net.tapped(INGRESS) {
                        net.tap_at(Stage::Ingress, Point::Sample, &pkt, None);
                    }
                }
                Kind::Mirred { redirect: true, dev } => {
                    return Acted::Done(match send(net, pkt, keys, ethernet, dev) {
                        Ok(()) => Verdict::Queued,
                        Err(pkt) => {
                            action.overlimits += 1;
                            Verdict::Drop(pkt, Reason::TcIngress)
                        }
                    });
                }
                Kind::Mirred { redirect: false, dev } => {
                    let sent = copy(net, &pkt).is_some_and(|copy| {
                        let sent = send(net, copy, keys, ethernet, dev);
                        let flow = net.counts.flow(Stage::Ingress);
                        flow.make(1);
                        match sent {
                            Ok(()) => flow.pass(1),
                            Err(copy) => {
                                net.kfree_skb_reason(Stage::Ingress, copy, Reason::TcIngress);
                                return false;
                            }
                        }
                        true
                    });
                    action.overlimits += u64::from(!sent);
                }
            }
        }
        Acted::Done(Verdict::Pass(pkt))
    }
}

const INGRESS: Stages = Stages::of(&[Stage::Ingress]);

/// A packet of its own with the same bytes (Linux: `skb_clone`); `None` if memory is out.
fn copy(net: &mut Net, pkt: &Pkt) -> Option<Pkt> {
    let mut copy = net.pool.alloc()?;
    let len = pkt.len();
    let head = len.min(copy.tailroom());
    pkt.copy_bits(0, copy.put(head));
    let mut at = head;
    while at < len {
        let Some(mut buf) = net.pool.alloc_large() else {
            net.pool.free(copy);
            return None;
        };
        let n = buf.len().min(len - at);
        pkt.copy_bits(at, &mut buf[..n]);
        copy.add_buf(buf, 0, n);
        at += n;
    }
    copy.gso = pkt.gso;
    copy.gso_fixed_id = pkt.gso_fixed_id;
    copy.csum = pkt.csum;
    copy.mark = pkt.mark;
    copy.rx_time = pkt.rx_time;
    Some(copy)
}

/// Puts a frame before the transmit queue of another device (`tcf_mirred_act`, `dev_queue_xmit`); the
/// packet back if that device can not carry it.
fn send(net: &mut Net, mut pkt: Pkt, keys: &Keys, ethernet: bool, dev: u8) -> Result<(), Pkt> {
    let Some(to) = net.ifaces.get(dev as usize) else { return Err(pkt) };
    let to_ethernet = to.l2 == L2::Ethernet;
    if ethernet && !to_ethernet {
        // A device of bare packets carries IP only.
        if !matches!(keys.ethertype, ETH_P_IP | ETH_P_IPV6) || !pkt.pull(keys.network) {
            return Err(pkt);
        }
        pkt.network = pkt.data_offset();
    } else if to_ethernet == ethernet {
        pkt.network = pkt.data_offset() + keys.network as u32;
    } else {
        return Err(pkt);
    }
    pkt.transport = pkt.network + keys.transport as u32;
    pkt.proto = keys.ethertype;
    pkt.ip_proto = keys.ip_proto.unwrap_or(0);
    (pkt.dev, pkt.queue, pkt.tapped) = (dev, NO_QUEUE, 0);
    net.link_out.push_back(pkt);
    Ok(())
}

impl Shard {
    /// Changes the rules of the device `dev`, in the words of `tc filter`: `add prio 10 protocol ip
    /// flower ip_proto udp dst_port 53 action drop`, `del prio 10`, `del`.
    ///
    /// # Errors
    /// [`RuleError`] (EINVAL, ENODEV, ENOENT, EEXIST, ENOSPC); nothing changes then.
    pub fn tc_filter(&mut self, dev: &str, command: &str) -> Result<(), RuleError> {
        let names: Vec<&str> = self.net.ifaces.iter().map(|i| i.name.as_str()).collect();
        let Some(at) = names.iter().position(|name| *name == dev) else {
            let have = names.join(", ");
            return Err(RuleError::new(dev, format!("no device is called so; there is {have}")));
        };
        let command = Command::parse(command)?;
        let now = self.net.now;
        let rule = match &command {
            Command::Add(wanted) | Command::Replace(wanted) => Some(self.resolve(at, wanted)?),
            Command::Del { .. } => None,
        };
        let chain = &mut self.net.ifaces[at].ingress;
        chain.change(&command, rule, now)?;
        self.net.ingress_on = self.net.ifaces.iter().any(|i| !i.ingress.is_empty());
        Ok(())
    }

    /// The rule with devices instead of names.
    fn resolve(&self, from: usize, wanted: &parse::Wanted) -> Result<Vec<Action>, RuleError> {
        let ifaces = &self.net.ifaces;
        let number = |name: &str| {
            let at = ifaces.iter().position(|i| i.name == name);
            let at = at.ok_or_else(|| RuleError::new(name, "no device is called so"))?;
            match (ifaces[from].l2, ifaces[at].l2) {
                (_, L2::Loopback) => Err(RuleError::new(name, "what is sent there comes back")),
                (L2::Ip | L2::Loopback, L2::Ethernet) => {
                    Err(RuleError::new(name, "it carries frames, and these packets have no header"))
                }
                _ => Ok(at as u8),
            }
        };
        let action = |a: &parse::ActionWanted| {
            let kind = match a {
                parse::ActionWanted::Gact(control) => Kind::Gact(*control),
                parse::ActionWanted::Mark(mark) => Kind::Mark(*mark),
                parse::ActionWanted::Sample(rate, group) => {
                    Kind::Sample { rate: *rate, group: *group }
                }
                parse::ActionWanted::Mirred(redirect, name) => {
                    Kind::Mirred { redirect: *redirect, dev: number(name)? }
                }
            };
            let (bytes, packets, drops, overlimits, used) = (0, 0, 0, 0, None);
            Ok(Action { kind, bytes, packets, drops, overlimits, used })
        };
        wanted.actions.iter().map(action).collect()
    }

    /// The rules of the device `dev`, as `tc -s filter show dev DEV ingress` prints them.
    ///
    /// # Errors
    /// [`RuleError`] (ENODEV).
    pub fn tc_filter_show(&self, dev: &str) -> Result<String, RuleError> {
        let iface = self.net.ifaces.iter().find(|iface| iface.name == dev);
        let iface = iface.ok_or_else(|| RuleError::new(dev, "no device is called so"))?;
        Ok(show::show(&self.net, iface).iter().map(|s| s.text.as_str()).collect())
    }

    /// The rules of all devices.
    #[must_use]
    pub fn tc_filters(&self) -> Vec<Show> {
        self.net.ifaces.iter().flat_map(|iface| show::show(&self.net, iface)).collect()
    }
}

/// The preference of a rule that was given none, if it is the first (Linux: `tcf_auto_prio`).
const AUTO_PRIO: u16 = 0xc000;

impl Chain {
    fn change(
        &mut self,
        command: &Command,
        actions: Option<Vec<Action>>,
        now: Instant,
    ) -> Result<(), RuleError> {
        let (wanted, actions) = match (command, actions) {
            (Command::Del { prio, handle }, _) => return self.delete(*prio, *handle),
            (Command::Add(wanted) | Command::Replace(wanted), Some(actions)) => (wanted, actions),
            _ => return Err(RuleError::new("", "a rule has actions")),
        };
        let first = self.0.first().map_or(AUTO_PRIO, |rule| rule.prio.saturating_sub(1));
        let prio = wanted.prio.unwrap_or(first);
        let same = |rule: &&Rule| rule.prio == prio;
        if let Some(other) = self.0.iter().find(same)
            && (other.what.protocol != wanted.what.protocol || other.flower != wanted.flower)
        {
            let why = "rules of one preference have one protocol and kind";
            return Err(RuleError::new(&prio.to_string(), why));
        }
        let last = self.0.iter().filter(same).map(|r| r.handle).max().unwrap_or(0);
        let Some(handle) = wanted.handle.or(last.checked_add(1)) else {
            let why = "no handle is free behind 0xffffffff: name one";
            return Err(RuleError::new(&prio.to_string(), why));
        };
        let (flower, what) = (wanted.flower, wanted.what.clone());
        let rule = Rule { prio, handle, flower, what, actions, installed: now };
        if let Some(old) = self.0.iter_mut().find(|r| r.prio == prio && r.handle == handle) {
            if matches!(command, Command::Add(_)) {
                let word = format!("0x{handle:x}");
                return Err(RuleError::new(&word, "the rule exists: `replace` changes it"));
            }
            *old = rule;
            return Ok(());
        }
        if self.0.len() == RULES_MAX {
            let why = format!("a device has at most {RULES_MAX} rules");
            return Err(RuleError::new("add", why));
        }
        // Of one preference the newest goes first, as in the kernel.
        let at = self.0.iter().position(|r| r.prio >= prio).unwrap_or(self.0.len());
        self.0.insert(at, rule);
        Ok(())
    }

    fn delete(&mut self, prio: Option<u16>, handle: Option<u32>) -> Result<(), RuleError> {
        let before = self.0.len();
        let meant = |rule: &Rule| {
            prio.is_none_or(|prio| rule.prio == prio) && handle.is_none_or(|h| rule.handle == h)
        };
        self.0.retain(|rule| !meant(rule));
        if self.0.len() == before && prio.is_some() {
            return Err(RuleError::new("del", "there is no such rule"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
