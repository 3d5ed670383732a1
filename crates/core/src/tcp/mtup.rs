//! Path MTU discovery by probes: segments that are larger than what the path is known to carry, so that no
//! router has to tell; and the detection of black holes, which swallow what is too large and say nothing.
//!
//! before: [`super::output`], [`super::ack`], [`super::timer`]   after: [`super::output`]
//! Linux:  net/ipv4/tcp_output.c `tcp_mtu_probe`, `tcp_mtup_init`; tcp_input.c `tcp_mtup_probe_success`,
//!         `tcp_mtup_probe_failed`, `tcp_simple_retransmit`; tcp_timer.c `tcp_mtu_probing`
//! RFCs:   4821 §5, §7

use super::cc;
use super::output::{
    mtu_to_mss, send_new, tcp_current_mss, tcp_established_options_len, tcp_sync_mss, way_is_full,
};
use super::recovery::tcp_mark_skb_lost;
use super::{CaState, TCP_MIN_SND_MSS, Tcb};
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::count::id;
use crate::time::{Instant, SEC};
use crate::wire::tcp::{TCP_HLEN, TcpFlags};

/// What is known of the path's MTU, in bytes of an IP packet (`icsk_mtup`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mtup {
    /// No packet is larger than this.
    pub high: u32,
    /// Packets of this size arrive.
    pub low: u32,
    /// The probe that is under way.
    pub probe: Option<Probe>,
    /// When the search began.
    pub since: Instant,
}

/// A probe that is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Probe {
    /// Its size as an IP packet, in bytes.
    pub size: u32,
    /// Its first byte.
    pub seq: Seq,
    /// The byte behind it.
    pub end: Seq,
}

/// What became of the chance to probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Probed {
    /// There was none: data goes as always.
    No,
    /// A probe has left.
    Sent,
    /// There will be one as soon as something is acknowledged: until then nothing goes.
    Wait,
}

/// The least congestion window with which a connection probes, in segments.
const PROBE_CWND: u32 = 11;

impl Tcb {
    /// What is known of the path's MTU by probing, if the connection probes.
    #[inline]
    pub fn mtup(&self) -> Option<&Mtup> {
        self.opts().and_then(|o| o.mtup.as_ref())
    }
    #[inline]
    fn mtup_mut(&mut self) -> Option<&mut Mtup> {
        self.opts.as_deref_mut().and_then(|o| o.mtup.as_mut())
    }
    /// The size of the IP packet that carries so much payload (`tcp_mss_to_mtu`).
    fn mss_to_mtu(&self, mss: u32) -> u32 {
        mss + tcp_established_options_len(self) + TCP_HLEN as u32 + self.tuple.ip_hlen()
    }
    /// The largest packet that path and peer can take.
    fn mtup_high(&self) -> u32 {
        let peer = u32::from(self.mss_clamp) + TCP_HLEN as u32 + self.tuple.ip_hlen();
        peer.min(self.pmtu)
    }
}

/// A connection is established, by us (`active`) or by the peer: if it searches at once, its segments get the
/// size to begin with (`tcp_mtup_init`, `tcp_sync_mss`).
///
/// As in Linux, what others open begins with what the path seems to take; and what we open with the size that was
/// reckoned when the SYN left, with timestamps if they were asked for.
pub(super) fn tcp_mtup_init(net: &Net, tp: &mut Tcb, active: bool) {
    let (pmtu, searches) = (tp.pmtu, net.knobs.tcp_mtu_probing > 1);
    if active && searches {
        mtup_enable(net, tp);
        let asked = net.knobs.tcp_timestamps && !tp.ts_ok;
        if let Some(mtup) = tp.mtup_mut() {
            mtup.low += if asked { 12 } else { 0 };
        }
    }
    tcp_sync_mss(tp, pmtu);
    if searches {
        mtup_enable(net, tp);
    }
}

fn mtup_enable(net: &Net, tp: &mut Tcb) {
    let base = net.knobs.tcp_base_mss.min(65_535) as u32;
    let (high, low) = (tp.mtup_high(), tp.mss_to_mtu(base));
    tp.opts_mut().mtup = Some(Mtup { high, low, probe: None, since: net.now });
}

/// The timer has fired for so long that the path may swallow what is large: segments shrink
/// (`tcp_mtu_probing`; RFC 4821 §7.7).
pub(crate) fn tcp_mtu_probing(net: &Net, tp: &mut Tcb) {
    if net.knobs.tcp_mtu_probing == 0 {
        return;
    }
    match tp.mtup().copied() {
        None => mtup_enable(net, tp),
        Some(Mtup { low, .. }) => {
            let base = net.knobs.tcp_base_mss.min(65_535) as u32;
            let floor = net.knobs.tcp_mtu_probe_floor.min(65_535) as u32;
            let mss = (mtu_to_mss(tp, low) >> 1).min(base).max(floor).max(TCP_MIN_SND_MSS.into());
            let low = tp.mss_to_mtu(mss);
            if let Some(mtup) = tp.mtup_mut() {
                mtup.low = low;
            }
        }
    }
    let pmtu = tp.pmtu;
    tcp_sync_mss(tp, pmtu);
}

/// The payload that a segment may have by what probing knows, where the path takes packets of `pmtu` bytes.
pub(super) fn mtup_limit(tp: &mut Tcb, pmtu: u32) -> Option<u32> {
    let mtup = tp.mtup_mut()?;
    mtup.high = mtup.high.min(pmtu);
    let low = mtup.low;
    Some(mtu_to_mss(tp, low))
}

/// Sends a probe if it is time for one: halfway between what arrives and what can not (`tcp_mtu_probe`).
pub(super) fn tcp_mtu_probe(net: &mut Net, tp: &mut Tcb) -> Probed {
    let Some(Mtup { high, low, probe: None, .. }) = tp.mtup().copied() else { return Probed::No };
    // SACK blocks make headers vary.
    if tp.ca_state != CaState::Open || tp.snd_cwnd < PROBE_CWND || !tp.sack_blocks().is_empty() {
        return Probed::No;
    }
    let size = mtu_to_mss(tp, (high + low) / 2);
    let threshold = net.knobs.tcp_probe_threshold.clamp(1, u64::from(u32::MAX)) as u32;
    if size > mtu_to_mss(tp, high) || high < low.saturating_add(threshold) {
        tcp_mtu_check_reprobe(net, tp);
        return Probed::No;
    }
    // If it is lost, what follows it must tell of it.
    let needed = size + (tp.reordering + 1) * u32::from(tp.mss_cache);
    if tp.notsent() < needed || tp.snd_wnd < needed {
        return Probed::No;
    }
    if (tp.snd_nxt + needed).gt(tp.wnd_end()) {
        return Probed::Wait;
    }
    let flight = tp.in_flight();
    if flight + 2 > tp.snd_cwnd {
        return if flight == 0 { Probed::No } else { Probed::Wait };
    }
    let whole = tp.record_left(size) >= size
        && tp.sndq.loadable(tp.snd_nxt, size as usize) == size as usize;
    let seq = tp.snd_nxt;
    if !whole || way_is_full(net, tp.dev) || !send_new(net, tp, size, TcpFlags::NONE, size) {
        return Probed::No;
    }
    // It takes the room of two.
    tp.snd_cwnd -= 1;
    let probe = Probe { size: tp.mss_to_mtu(size), seq, end: seq + size };
    if let Some(mtup) = tp.mtup_mut() {
        mtup.probe = Some(probe);
    }
    Probed::Sent
}

/// The search has come to its end: after a while it begins anew, for paths change
/// (`tcp_mtu_check_reprobe`).
fn tcp_mtu_check_reprobe(net: &Net, tp: &mut Tcb) {
    let (high, low) = (tp.mtup_high(), tp.mss_to_mtu(tcp_current_mss(tp)));
    let interval = net.knobs.tcp_probe_interval.saturating_mul(SEC);
    if let Some(mtup) = tp.mtup_mut()
        && net.now.since(mtup.since) >= interval
    {
        *mtup = Mtup { high, low, probe: None, since: net.now };
    }
}

/// Something was acknowledged: a probe, too? Then segments may be as large as it was
/// (`tcp_mtup_probe_success`).
pub(super) fn tcp_mtup_acked(net: &Net, tp: &mut Tcb) {
    let Some(Probe { size, end, .. }) = tp.mtup().and_then(|m| m.probe) else { return };
    if end.gt(tp.snd_una) {
        return;
    }
    tp.prior_ssthresh = cc::current_ssthresh(tp);
    // The window counts segments, and these grow.
    let bytes = u64::from(tp.snd_cwnd) * u64::from(tp.mss_to_mtu(tp.mss_cache.into()));
    tp.snd_cwnd = (bytes / u64::from(size.max(1))).clamp(1, u64::from(u32::MAX)) as u32;
    tp.snd_cwnd_cnt = 0;
    tp.snd_ssthresh = cc::current_ssthresh(tp);
    if let Some(mtup) = tp.mtup_mut() {
        (mtup.low, mtup.probe) = (size, None);
    }
    let pmtu = tp.pmtu;
    tcp_sync_mss(tp, pmtu);
    net.counts.inc(id::TcpExtTCPMTUPSuccess);
}

/// Whether what is lost is the probe alone: that says nothing of congestion. The search goes on below it
/// (`tcp_mtup_probe_failed`).
pub(super) fn tcp_mtup_lost(net: &Net, tp: &mut Tcb) -> bool {
    let una = tp.snd_una;
    let open = tp.ca_state < CaState::Cwr;
    let Some(mtup) = tp.mtup_mut() else { return false };
    let Some(Probe { size, .. }) = mtup.probe.filter(|p| open && p.seq == una) else {
        return false;
    };
    (mtup.high, mtup.probe) = (size - 1, None);
    net.counts.inc(id::TcpExtTCPMTUPFail);
    // What the probe took from the window.
    tp.snd_cwnd += 1;
    tcp_simple_retransmit(net, tp);
    true
}

/// Something is sent again: whether the probe would have arrived shows no more.
pub(super) fn tcp_mtup_inconclusive(tp: &mut Tcb) {
    if let Some(mtup) = tp.mtup_mut() {
        mtup.probe = None;
    }
}

/// What is under way and larger than segments may be is lost, and is sent again; the congestion window stays
/// (`tcp_simple_retransmit`).
pub(super) fn tcp_simple_retransmit(net: &Net, tp: &mut Tcb) {
    let mss = tcp_current_mss(tp);
    for i in 0..tp.sndq.rtx.len() {
        if tp.sndq.rtx.get(i).is_some_and(|t| u32::from(t.mss) > mss && t.len > mss) {
            tcp_mark_skb_lost(net, tp, i);
        }
    }
    if tp.lost_out == 0 {
        return;
    }
    if !tp.sack_ok {
        // `tcp_limit_reno_sacked`
        tp.sacked_out = tp.sacked_out.min(tp.packets_out.saturating_sub(tp.lost_out.max(1)));
    }
    if tp.ca_state != CaState::Loss {
        tp.high_seq = tp.snd_nxt;
        tp.snd_ssthresh = cc::current_ssthresh(tp);
        (tp.prior_ssthresh, tp.undo_marker) = (0, None);
        tp.ca_state = CaState::Loss;
        (tp.frto, tp.frto_new) = (false, false);
    }
    tp.push = true;
}
