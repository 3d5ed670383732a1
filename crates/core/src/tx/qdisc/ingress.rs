//! Stage `Qdisc` in front of the path: a discipline between a device and all that is received by it, as
//! an `ifb` device has one to which everything is redirected.
//!
//! before: the ring   after: [`crate::rx::xdp`]
//! Linux:  drivers/net/ifb.c `ifb_xmit`, `ifb_ri_tasklet`
//! drops:  those of the disciplines
//!
//! Nothing of a packet is known here but its bytes, so that what disciplines ask for (where its headers
//! begin, what it is) is read first; the stages read it again in their turn. The packet counts as
//! received when it leaves.

use super::run::place;
use super::{Sched, Tree};
use crate::link::L2;
use crate::pkt::{Batch, Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::Stage;
use crate::wire::{ETH_P_8021AD, ETH_P_8021Q, ETH_P_IP, ETH_P_IPV6};

/// Packets that go on at a time at least.
const WEIGHT: usize = 64;

/// Takes packets into the disciplines of the devices that they came by, and leaves those that may go on
/// now.
pub(crate) fn enqueue(cx: &mut Shard, batch: &mut Batch) {
    let (ifaces, _, _, mut env) = cx.net.env();
    env.device_sums = true;
    let most = batch.len().max(WEIGHT);
    let mut through = Vec::new();
    let mut refused = Vec::new();
    for mut pkt in batch.now.drain(..) {
        let iface = ifaces.get_mut(pkt.dev as usize);
        let Some((sched, l2)) = iface.and_then(|i| Some((i.rx_qdisc.as_mut()?, i.l2))) else {
            through.push(pkt);
            continue;
        };
        look(&mut pkt, l2 == L2::Ethernet);
        env.counts.flow(Stage::Qdisc).enter(1);
        if let (Verdict::Drop(pkt, why), _) = sched.enqueue(&mut env, pkt) {
            refused.push((pkt, why));
        }
    }
    for (pkt, why) in refused {
        cx.net.kfree_skb_reason(Stage::Qdisc, pkt, why);
    }
    batch.now.append(&mut through);
    for dev in 0..cx.net.ifaces.len() {
        dequeue(&mut cx.net, dev as u8, batch, most);
    }
}

/// Moves packets of device `dev` that may go on now to the batch, so many at the most. Where more could,
/// the watchdog says so.
fn dequeue(net: &mut Net, dev: u8, batch: &mut Batch, most: usize) {
    let (ifaces, _, _, mut env) = net.env();
    let Some(sched) = ifaces.get_mut(dev as usize).and_then(|i| i.rx_qdisc.as_mut()) else {
        return;
    };
    env.device_sums = true;
    let before = batch.len();
    while batch.len() - before < most {
        let (Some(mut pkt), _) = sched.dequeue(&mut env) else { break };
        pkt.rx_time = env.now;
        batch.push(pkt);
    }
    let n = batch.len() - before;
    if n == most && sched.qdisc.len() > 0 {
        sched.again(env.now);
    }
    let flow = net.counts.flow(Stage::Qdisc);
    flow.release(n as u64);
    flow.pass(n as u64);
}

/// What may go on now of a device whose watchdog's time has come; false if there is no such device.
pub(crate) fn due(net: &mut Net, batch: &mut Batch) -> bool {
    let now = net.now;
    let due = |s: &Sched| s.watchdog() <= now;
    let dev = net.ifaces.iter().position(|i| i.rx_qdisc.as_deref().is_some_and(due));
    let Some(dev) = dev else { return false };
    dequeue(net, dev as u8, batch, WEIGHT);
    true
}

/// Reads where the headers begin.
fn look(pkt: &mut Pkt, ethernet: bool) {
    let frame = pkt.head();
    let at16 = |at: usize| {
        let two = frame.get(at..).and_then(<[u8]>::first_chunk);
        two.map_or(0, |b| u16::from_be_bytes(*b))
    };
    let (mut at, mut proto) = (0, 0);
    if ethernet {
        (at, proto) = (14, at16(12));
        for _ in 0..2 {
            if matches!(proto, ETH_P_8021Q | ETH_P_8021AD) {
                (at, proto) = (at + 4, at16(at + 2));
            }
        }
    }
    let ip = frame.get(at..).unwrap_or_default();
    let (len, tos) = match *ip {
        [vihl, tos, ..] if vihl >> 4 == 4 && (proto == ETH_P_IP || !ethernet) => {
            proto = ETH_P_IP;
            ((vihl & 0xf) as u32 * 4, tos)
        }
        [a, b, ..] if a >> 4 == 6 && (proto == ETH_P_IPV6 || !ethernet) => {
            proto = ETH_P_IPV6;
            (40, a << 4 | b >> 4)
        }
        _ => (0, 0),
    };
    pkt.network = pkt.data_offset() + at as u32;
    pkt.transport = pkt.network + len;
    (pkt.proto, pkt.tos) = (proto, tos);
}

impl Shard {
    /// Puts the discipline `tree` between device `dev` and the path, or none. What waited is dropped.
    /// Nothing happens if there is no such device.
    pub fn set_rx_qdisc(&mut self, dev: u8, tree: Option<&Tree>) {
        let (ifaces, rng, knobs, mut env) = self.net.env();
        let Some(iface) = ifaces.get_mut(dev as usize) else { return };
        if let Some(mut old) = iface.rx_qdisc.take() {
            old.reset(&mut env);
        }
        let place = place(iface, knobs);
        iface.rx_qdisc = tree.map(|tree| Box::new(Sched::new(tree.clone(), place, rng)));
        self.net.rx_qdisc_on = self.net.ifaces.iter().any(|i| i.rx_qdisc.is_some());
    }
}
