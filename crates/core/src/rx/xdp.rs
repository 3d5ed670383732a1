//! Stage `Xdp`, RX: the early hook, before any header work.
//!
//! before: the device's ring   after: [`crate::rx::gro`]
//! Linux:  include/net/xdp.h `bpf_prog_run_xdp`, net/core/dev.c `do_xdp_generic`
//! drops:  Xdp, XdpAborted

use crate::link::Iface;
use crate::pkt::{Pkt, Skb, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::id};

/// What a program says of a packet (`enum xdp_action`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It failed (`XDP_ABORTED`).
    Aborted,
    /// Away with it (`XDP_DROP`).
    Drop,
    /// On to the stack (`XDP_PASS`).
    Pass,
    /// Out again by the device and queue that it came in by (`XDP_TX`).
    Tx,
    /// Out by another device (`bpf_redirect_map` of a devmap), if it exists.
    RedirectDev(u8),
    /// Into the backlog of another shard (`bpf_redirect_map` of a cpumap), if it exists.
    RedirectCpu(u8),
}

/// A program: it may change the packet's bytes, and pull and push at its front.
pub type Program = Box<dyn FnMut(&mut Skb) -> Action + Send>;

/// One that may also ask the stack: for its routes, its neighbours, its devices.
pub type Asking = Box<dyn FnMut(&mut Skb, &Net) -> Action + Send>;

/// The program of a device.
pub enum Attached {
    /// One that needs the packet alone.
    Plain(Program),
    /// One that asks; it is away while it runs.
    Asking(Option<Asking>),
}

/// What programs said in one batch: it is counted when the batch is through.
#[derive(Default)]
pub(crate) struct Tally {
    pass: u64,
    tx: u64,
    redirect: u64,
}

impl Tally {
    /// Whether there is anything to count.
    #[inline]
    pub fn is_some(&self) -> bool {
        self.pass | self.tx | self.redirect != 0
    }
}

/// Counts what the programs said of a batch.
pub(crate) fn count(net: &mut Net) {
    let Tally { pass, tx, redirect } = std::mem::take(&mut net.xdp);
    net.counts.inc_by(id::XdpPass, pass);
    net.counts.inc_by(id::XdpTx, tx);
    net.counts.inc_by(id::XdpRedirect, redirect);
    crate::tx::xmit::xmitted(net, tx + redirect);
}

/// Runs the device's program, if it has one.
#[inline(always)]
pub fn do_xdp(cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    let net = &mut cx.net;
    let Some(prog) = net.ifaces.get_mut(pkt.dev as usize).and_then(|i| i.xdp.as_mut()) else {
        return Verdict::Pass(pkt);
    };
    let action = match prog {
        Attached::Plain(prog) => prog(&mut pkt),
        Attached::Asking(_) => ask(net, &mut pkt),
    };
    match action {
        Action::Pass => {
            net.xdp.pass += 1;
            Verdict::Pass(pkt)
        }
        Action::Drop => Verdict::Drop(pkt, Reason::Xdp),
        Action::Tx => {
            let sent = crate::tx::xmit::xdp_xmit(net, pkt.dev, pkt);
            net.xdp.tx += u64::from(matches!(sent, Verdict::Queued));
            sent
        }
        Action::RedirectDev(dev) if (dev as usize) < net.ifaces.len() => {
            pkt.dev = dev;
            let sent = crate::tx::xmit::xdp_xmit(net, dev, pkt);
            net.xdp.redirect += u64::from(matches!(sent, Verdict::Queued));
            sent
        }
        // The other verdicts are rare: not in the way of these.
        action => redirect(cx, pkt, action),
    }
}

/// Runs a program that asks the stack, which it is a part of: it is taken out meanwhile.
#[inline(never)]
fn ask(net: &mut Net, pkt: &mut Pkt) -> Action {
    let place = |net: &mut Net, dev: u8, new: Option<Asking>| match net.ifaces.get_mut(dev as usize)
    {
        Some(Iface { xdp: Some(Attached::Asking(place)), .. }) => std::mem::replace(place, new),
        _ => None,
    };
    let dev = pkt.dev;
    let Some(mut prog) = place(net, dev, None) else { return Action::Aborted };
    let action = prog(pkt, net);
    place(net, dev, Some(prog));
    action
}

#[cold]
fn redirect(cx: &mut Shard, pkt: Pkt, action: Action) -> Verdict {
    match action {
        Action::RedirectCpu(cpu) if crate::rx::steer::exists(&cx.net, cpu) => {
            cx.net.counts.inc(id::XdpRedirect);
            crate::rx::steer::send_to(&mut cx.net, cpu, pkt);
            Verdict::Queued
        }
        _ => Verdict::Drop(pkt, Reason::XdpAborted),
    }
}

impl Shard {
    /// Gives a device an XDP program, or takes it away (`ip link set DEV xdp`).
    pub fn attach_xdp(&mut self, dev: u8, prog: Option<Program>) {
        self.set_xdp(dev, prog.map(Attached::Plain));
    }

    /// Gives a device a program that asks the stack for routes and neighbours.
    pub fn attach_xdp_asking(&mut self, dev: u8, prog: Asking) {
        self.set_xdp(dev, Some(Attached::Asking(Some(prog))));
    }

    fn set_xdp(&mut self, dev: u8, prog: Option<Attached>) {
        if let Some(iface) = self.net.ifaces.get_mut(dev as usize) {
            iface.xdp = prog;
        }
        self.net.xdp_on = self.net.ifaces.iter().any(|i| i.xdp.is_some());
    }
}

#[cfg(test)]
mod tests;
