//! The spine: the whole journey of a packet on one page, one line a stage.
//!
//! A group in braces runs as one loop over the batch; a stage with nothing to do is skipped whole.
//! The verdicts of stages in braces are counted here; Gro, Reasm, Gso and Xmit, which take and give
//! different numbers of packets, count their own. Packets that a stage makes, or that leave the
//! straight way (fragments, packets for others), wait in a side queue of [`Net`] and enter where
//! they belong; on the way out every stage hands over by one.

use crate::link::TxRing;
use crate::pkt::{Batch, Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::table::{Reason, Stage, count::id};
use crate::tap::{self, Point, Stages};
use crate::time::Instant;
use crate::trace::{self, Said};
use crate::{ip, link, rx, sock, transport_rcv, tx};

/// What of a batch did not simply go on to the next stage of the group. A packet that does is not
/// counted one by one.
#[derive(Clone, Copy, Default)]
struct Tally {
    taken: u64,
    queued: u64,
    /// Held by the stage, or dropped: both are counted where they happen.
    kept: u64,
}

/// Packets that a batch loses in a row at one stage for one reason: they are counted at once.
#[derive(Default)]
struct Drops {
    why: Option<(Stage, Reason)>,
    n: u64,
}

impl Drops {
    /// [`Net::kfree_skb_reason`] where nothing is traced; what it counts is seen when the batch ends.
    #[inline]
    fn kfree_skb_reason(&mut self, net: &mut Net, stage: Stage, pkt: Pkt, reason: Reason) {
        if self.why != Some((stage, reason)) {
            self.count(net);
            *self = Drops { why: Some((stage, reason)), n: 0 };
        }
        self.n += 1;
        net.pool.free(pkt);
    }
    #[inline]
    fn count(&self, net: &Net) {
        if let Some((stage, reason)) = self.why {
            net.counts.dropped_by(stage, reason, self.n);
        }
    }
}

type Run = fn(&mut Shard, Pkt) -> Verdict;

macro_rules! path {
    ($batch:ident, $cx:ident; $( $(if $on:expr =>)? { $($stage:ident : $run:path),+ $(,)? } )+) => { $(
        if true $(&& $on)? && !$batch.is_empty() {
            if let Some(how) = $cx.net.closely(const { Stages::of(&[$(Stage::$stage),+]) }) {
                $( one_stage($cx, $batch, Stage::$stage, $run, how); )+
            } else {
                #[allow(non_snake_case)]
                let ($(mut $stage,)+) = ($({ let _ = Stage::$stage; Tally::default() },)+);
                let mut drops = Drops::default();
                let mut now = std::mem::take(&mut $batch.now);
                let mut _entered = now.len() as u64;
                'packet: for pkt in now.drain(..) {
                    $(
                        let pkt = match $run($cx, pkt) {
                            Verdict::Pass(pkt) => pkt,
                            Verdict::Taken => {
                                $stage.taken += 1;
                                continue 'packet;
                            }
                            Verdict::Queued => {
                                $stage.queued += 1;
                                continue 'packet;
                            }
                            Verdict::Held => {
                                $stage.kept += 1;
                                continue 'packet;
                            }
                            Verdict::Drop(pkt, reason) => {
                                $stage.kept += 1;
                                drops.kfree_skb_reason(&mut $cx.net, Stage::$stage, pkt, reason);
                                continue 'packet;
                            }
                        };
                    )+
                    $batch.next.push(pkt);
                }
                drops.count(&$cx.net);
                $( _entered = $cx.net.tally(Stage::$stage, _entered, $stage); )+
                $batch.now = std::mem::replace(&mut $batch.next, now);
            }
        }
    )+ };
}

/// Receive: a batch from one device's ring to the sockets' queues, or to other shards.
pub fn receive(cx: &mut Shard, batch: &mut Batch) {
    if cx.net.rx_qdisc_on {
        tx::qdisc::ingress::enqueue(cx, batch);
        without_napi(&mut cx.net, batch);
    }
    receive_now(cx, batch);
}

/// What a device without NAPI received: by its queueing discipline, if any device has one, into the input
/// queue of this shard.
pub fn receive_netif_rx(cx: &mut Shard, batch: &mut Batch) {
    if cx.net.rx_qdisc_on {
        return receive(cx, batch);
    }
    batch.now.drain(..).for_each(|pkt| rx::backlog::netif_rx(&mut cx.net, pkt));
}

/// Of what disciplines let go, packets of devices without NAPI go on by the input queue.
fn without_napi(net: &mut Net, batch: &mut Batch) {
    if !net.ifaces.iter().any(|iface| iface.netif_rx) {
        return;
    }
    for pkt in std::mem::take(&mut batch.now) {
        if net.ifaces.get(pkt.dev as usize).is_some_and(|iface| iface.netif_rx) {
            rx::backlog::netif_rx(net, pkt);
        } else {
            batch.push(pkt);
        }
    }
}

/// What no queueing discipline on receive holds back.
fn receive_now(cx: &mut Shard, batch: &mut Batch) {
    path! { batch, cx;
        if cx.net.xdp_on => { Xdp: rx::xdp::do_xdp }
    }
    if cx.net.xdp.is_some() {
        rx::xdp::count(&mut cx.net);
    }
    if cx.net.knobs.gro || !cx.net.gro.is_empty() {
        tap::batch(&mut cx.net, Stage::Gro, Point::Before, &batch.now);
        rx::gro::dev_gro_receive(cx, batch);
        tap::batch(&mut cx.net, Stage::Gro, Point::After, &batch.now);
    }
    if tx::xps::learns(&cx.net) {
        tx::xps::note_rx(cx, batch);
    }
    if rx::steer::active(&cx.net) {
        rx::steer::begin(cx);
        path! { batch, cx; { Steer: rx::steer::get_rps_cpu } }
    }
    netif_receive(cx, batch);
    if cx.net.steer.sends() {
        rx::steer::flush(cx);
    }
}

/// The way from Link on: what Gro and Steer let pass, and what the backlog held.
fn netif_receive(cx: &mut Shard, batch: &mut Batch) {
    path! { batch, cx;
        if cx.net.ingress_on => { Ingress: rx::ingress::sch_handle_ingress }
    }
    if sock::lookup::many(cx) {
        // A batch begins its look-ups together: two loops, with that between them.
        path! { batch, cx; {
            Link: link::input::netif_receive_skb, Ip: ip::input::ip_rcv, Route: ip::route::ip_route_input,
        } }
    } else {
        path! { batch, cx; {
            Link: link::input::netif_receive_skb, Ip: ip::input::ip_rcv, Route: ip::route::ip_route_input,
            Demux: sock::lookup::ip_local_deliver, Transport: transport_rcv,
            SockQueue: rx::queue::sock_queue_rcv_skb,
        } }
    }
    if !cx.net.reasm_in.is_empty() {
        let had = batch.len();
        tap::side(&mut cx.net, Stage::Reasm, Point::Before, |net| &mut net.reasm_in);
        ip::reasm::ip_defrag(cx, batch);
        tap::batch(&mut cx.net, Stage::Reasm, Point::After, &batch.now[had..]);
    }
    if !batch.is_empty() {
        sock::lookup::look_ahead(cx, &mut batch.now);
        path! { batch, cx; {
            Demux: sock::lookup::ip_local_deliver, Transport: transport_rcv,
            SockQueue: rx::queue::sock_queue_rcv_skb,
        } }
    }
    debug_assert!(batch.is_empty(), "SockQueue keeps or drops whatever reaches it");
    if !cx.net.forward_in.is_empty() {
        take_side(&mut cx.net.forward_in, batch);
        path! { batch, cx; { Forward: ip::forward::ip_forward } }
    }
}

/// The input queue of this shard: what other shards steered here, loopback, and devices without
/// NAPI; at most `weight` packets (Linux: `process_backlog`). Returns how many were taken.
pub fn process_backlog(cx: &mut Shard, batch: &mut Batch, weight: usize) -> usize {
    rx::steer::begin(cx);
    let n = weight.min(cx.net.backlog.len());
    if n == 0 {
        return 0;
    }
    let from = rx::backlog::dequeue(&mut cx.net, batch, n);
    tap::batch(&mut cx.net, Stage::Backlog, Point::After, &batch.now);
    netif_receive(cx, batch);
    if cx.net.steer.sends() {
        rx::steer::flush(cx);
    }
    rx::backlog::input_queue_head_add(&mut cx.net, from);
    n
}

/// Transmit: serves the sockets that have something to send, then takes everything that was made
/// down to the devices' queues.
pub fn transmit(cx: &mut Shard, batch: &mut Batch) {
    cx.tcp_push_pending();
    // A round may make packets for the next (a fragment, an ICMP error to ourselves): bounded, so
    // that nothing can keep us here. Where packets wait before a later stage already, the stage
    // before it lets others queue behind them: the order stays.
    for _ in 0..4 {
        if cx.net.nothing_to_send() {
            break;
        }
        take_side(&mut cx.net.ip_out, batch);
        tap::came(&mut cx.net, Stage::Send, &batch.now);
        path! { batch, cx; {
            IpOut: ip::output::ip_queue_xmit, Frag: ip::frag::ip_finish_output,
            Neigh: link::output::neigh_output, Qdisc: tx::qdisc::dev_queue_xmit,
        } }
        take_side(&mut cx.net.frag_out, batch);
        path! { batch, cx; { Frag: ip::frag::ip_finish_output } }
        take_side(&mut cx.net.neigh_out, batch);
        path! { batch, cx; { Neigh: link::output::neigh_output } }
        take_side(&mut cx.net.link_out, batch);
        path! { batch, cx; { Qdisc: tx::qdisc::dev_queue_xmit } }
    }
}

/// From a device's transmit queue to its ring: cut and summed as the device needs it, until `room` packets
/// wait in the ring (Linux: `__qdisc_run`, `dev_hard_start_xmit`).
pub fn qdisc_run(cx: &mut Net, dev: u8, queue: u8, room: usize) -> Option<&mut TxRing> {
    if cx.taps.stages.is_empty() {
        return tx::xmit::sch_direct_xmit(cx, dev, queue, room);
    }
    tx::xmit::sch_direct_xmit(cx, dev, queue, room)?;
    tap::ring(cx, dev, queue);
    cx.ifaces.get_mut(dev as usize)?.txqs.get_mut(queue as usize).map(|txq| &mut txq.ring)
}

/// Serves every timer that is due at `now`: sockets, neighbours, reassembly, receive offload.
pub fn timers(cx: &mut Shard, now: Instant) {
    cx.net.now = now;
    cx.net.counts.inc(id::SoftirqTimer);
    cx.tcp_timers();
    rx::gro::timers(cx);
    link::neigh::timers(cx);
    ip::reasm::timers(cx);
    tx::qdisc::qdisc_timers(&mut cx.net);
    if cx.net.rx_qdisc_on {
        rx_qdisc_timers(cx);
    }
}

/// What waited in queueing disciplines on receive for this time; bounded, since there is more to do.
fn rx_qdisc_timers(cx: &mut Shard) {
    let mut batch = Batch::new();
    for _ in 0..16 {
        if !tx::qdisc::ingress::due(&mut cx.net, &mut batch) {
            break;
        }
        without_napi(&mut cx.net, &mut batch);
        receive_now(cx, &mut batch);
    }
}

/// Whether connections may send more because packets of theirs have left the queues: [`transmit`] serves them
/// (Linux: `tsq_tasklet`).
pub fn tsq_pending(cx: &Shard) -> bool {
    !cx.net.pool.tsq.is_empty()
}

/// When [`timers`] or [`transmit`] has something to do next.
pub fn next_timer(cx: &Shard) -> Option<Instant> {
    let all = [
        cx.tcp.next_timer(),
        rx::gro::next_timer(&cx.net),
        cx.net.neigh.next_timer(),
        cx.net.reasm.next_timer(),
        tx::qdisc::next_watchdog(&cx.net),
        tsq_pending(cx).then_some(cx.net.now),
    ];
    all.into_iter().flatten().min()
}

/// So few packets are moved sooner than lists change places.
const FEW: usize = 4;

#[inline(always)]
fn take_side(side: &mut std::collections::VecDeque<Pkt>, batch: &mut Batch) {
    if !side.is_empty() {
        take_all(side, batch);
    }
}

fn take_all(side: &mut std::collections::VecDeque<Pkt>, batch: &mut Batch) {
    if side.len() <= FEW {
        while let Some(pkt) = side.pop_front() {
            batch.now.push(pkt);
        }
        return;
    }
    if !batch.now.is_empty() {
        return batch.now.extend(side.drain(..));
    }
    // The two lists change places: no packet is moved.
    let free = std::mem::replace(&mut batch.now, Vec::from(std::mem::take(side)));
    *side = free.into();
}

/// Why a batch goes through its stages one by one.
#[derive(Clone, Copy)]
struct Closely {
    clock: Option<fn() -> u64>,
    tracing: bool,
    tapping: bool,
}

/// One stage alone over the whole batch: timed, which every sixty-first batch is, traced, or tapped.
fn one_stage(cx: &mut Shard, batch: &mut Batch, stage: Stage, run: Run, how: Closely) {
    let Closely { clock, tracing, tapping } = how;
    let tapping = tapping && cx.net.taps.sees(stage);
    let mut tally = Tally::default();
    let mut now = std::mem::take(&mut batch.now);
    let entered = now.len() as u64;
    let begun = clock.map(|clock| clock());
    for pkt in now.drain(..) {
        let number = if tracing { trace_enter(stage, &pkt) } else { (0, None) };
        if tapping {
            cx.net.tap_enter(stage, &pkt);
        }
        let said = match run(cx, pkt) {
            Verdict::Pass(pkt) => {
                if tapping {
                    cx.net.tap_at(stage, Point::After, &pkt, None);
                }
                batch.next.push(pkt);
                Said::Pass
            }
            Verdict::Queued => {
                tally.queued += 1;
                Said::Queued
            }
            Verdict::Taken => {
                tally.taken += 1;
                Said::Taken
            }
            Verdict::Held => {
                tally.kept += 1;
                Said::Held
            }
            Verdict::Drop(pkt, reason) => {
                tally.kept += 1;
                if tapping {
                    cx.net.tap_said(Said::Dropped(reason));
                }
                cx.net.kfree_said(stage, pkt, reason);
                continue;
            }
        };
        if tapping {
            cx.net.tap_said(said);
        }
        if tracing {
            trace_say(cx, stage, number, said);
        }
    }
    if let (Some(clock), Some(begun)) = (clock, begun) {
        cx.net.counts.flow(stage).timed(clock().saturating_sub(begun), entered);
    }
    cx.net.tally(stage, entered, tally);
    batch.now = std::mem::replace(&mut batch.next, now);
}

impl Net {
    /// Whether no packet waits before any stage of the way out.
    #[inline]
    fn nothing_to_send(&self) -> bool {
        let waits = [&self.ip_out, &self.frag_out, &self.neigh_out, &self.link_out];
        waits.iter().all(|side| side.is_empty())
    }

    /// Whether this batch is looked at more closely, which the fused loop does not stop for.
    #[inline]
    fn closely(&mut self, group: Stages) -> Option<Closely> {
        let (clock, tracing, tapping) = (self.timed(), self.trace.is_some(), self.tapped(group));
        let closely = clock.is_some() || tracing || tapping;
        closely.then_some(Closely { clock, tracing, tapping })
    }

    /// Counts the batch of one stage; returns how many go straight on to the next.
    #[inline]
    fn tally(&self, stage: Stage, entered: u64, tally: Tally) -> u64 {
        let out = entered - tally.taken - tally.kept;
        if entered > 0 {
            self.counts.flow(stage).batch(entered, out, tally.taken);
        }
        out - tally.queued
    }
}

fn trace_enter(stage: Stage, pkt: &Pkt) -> (u32, Option<String>) {
    (pkt.trace, (pkt.trace != 0).then(|| trace::describe(stage, pkt)))
}

fn trace_say(cx: &mut Shard, stage: Stage, number: (u32, Option<String>), said: Said) {
    if let (Some(trace), (packet, Some(what))) = (&mut cx.net.trace, number) {
        trace.say(stage, packet, what, said);
    }
}
