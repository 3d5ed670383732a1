//! Pacing: each packet has a time before which it does not leave, so that a window's packets are spread
//! over the round trip. The connection's timer serves it when that time comes.
//!
//! Paced are connections whose congestion control wants it (BBR), those for which the application gave a
//! limit (SO_MAX_PACING_RATE), and those whose way out is a queue of `fq`; no others.
//!
//! before: [`super::cc`]   after: [`super::output`]
//! Linux:  net/ipv4/tcp_output.c `tcp_pacing_check`, `tcp_update_skb_after_send`;
//!         tcp_input.c `tcp_update_pacing_rate`

use super::cc::Cc;
use super::{TCP_INIT_CWND, Tcb};
use crate::shard::Net;
use crate::time::{Instant, SEC};

/// What a paced connection keeps.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Bytes in a second, as the congestion control has it; 0 = it follows the window.
    pub rate: u64,
    /// Bytes in a second that the application allows; `u64::MAX` = any.
    pub max: u64,
    /// When the next packet may leave (`tcp_wstamp_ns`).
    pub next: Instant,
    /// When the timer is to serve the connection.
    pub at: Instant,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace { rate: 0, max: u64::MAX, next: Instant::ZERO, at: Instant::NEVER }
    }
}

/// What is due so soon is sent at once: a timer can not tell the difference. Its time counts all the same.
const SOON_NS: u64 = 32_000;

/// The rate that follows from window and round trip: twice what is needed in slow start, a little more
/// than that afterwards (`tcp_update_pacing_rate`). Bytes in a second.
pub(crate) fn window_rate(net: &Net, tp: &Tcb) -> u64 {
    let slow = tp.snd_cwnd < tp.snd_ssthresh / 2;
    let ratio = if slow { net.knobs.tcp_pacing_ss_ratio } else { net.knobs.tcp_pacing_ca_ratio };
    let segs = tp.snd_cwnd.max(tp.packets_out) as u64;
    let bytes = segs * tp.mss_cache as u64 * ratio / 100;
    let srtt_us = (tp.srtt_us8 >> 3).max(1) as u64;
    bytes.saturating_mul(1_000_000) / srtt_us
}

/// The rate at which the connection's packets leave, in bytes a second.
pub(crate) fn pacing_rate(net: &Net, tp: &Tcb) -> u64 {
    match tp.pace.as_deref() {
        Some(pace) if pace.rate > 0 => pace.rate.min(pace.max),
        Some(pace) => window_rate(net, tp).min(pace.max),
        None => window_rate(net, tp),
    }
}

/// Whether a packet must wait; then the timer is set (`tcp_pacing_check`).
#[inline]
pub(crate) fn tcp_pacing_check(net: &Net, tp: &mut Tcb) -> bool {
    match &mut tp.pace {
        None => false,
        Some(pace) => {
            let wait = pace.next > net.now.plus(SOON_NS);
            if wait {
                pace.at = pace.next;
            }
            wait
        }
    }
}

/// `len` bytes have left: when the next may (`tcp_update_skb_after_send`). As in Linux the first ten
/// segments of a connection are not paced.
#[inline]
pub(crate) fn tcp_update_after_send(net: &Net, tp: &mut Tcb, len: u32) {
    if tp.pace.is_some() && len > 0 {
        after_send(net, tp, len);
    }
}

fn after_send(net: &Net, tp: &mut Tcb, len: u32) {
    let rate = pacing_rate(net, tp);
    let paced = tp.bytes_sent >= (TCP_INIT_CWND * tp.mss_cache as u32) as u64;
    let Some(pace) = &mut tp.pace else { return };
    let late = net.now.since(pace.next);
    let prior = pace.next;
    pace.next = prior.max(net.now);
    if !paced || rate == 0 || rate == u64::MAX {
        return;
    }
    let ns = (len as u128 * SEC as u128 / rate as u128).min(u64::MAX as u128) as u64;
    // What it left later than it might have is not lost to it, but for more than half.
    let credit = if prior == Instant::ZERO { 0 } else { late.min(ns / 2) };
    pace.next = pace.next.plus(ns - credit);
}

/// Whether the connection is paced from now on, by what it has and where it goes.
pub(crate) fn tcp_pacing_update(net: &Net, tp: &mut Tcb) {
    let wanted = matches!(tp.cc, Cc::Bbr(_)) || out_by_fq(net, tp.dev);
    match &mut tp.pace {
        None if wanted => tp.pace = Some(Box::default()),
        Some(pace) if !wanted && pace.max == u64::MAX => tp.pace = None,
        Some(pace) if !matches!(tp.cc, Cc::Bbr(_)) => pace.rate = 0,
        _ => {}
    }
}

/// Whether packets leave by a queue of `fq`, whose work pacing is.
fn out_by_fq(net: &Net, dev: u8) -> bool {
    let iface = net.ifaces.get(dev as usize);
    iface.is_some_and(|i| i.txqs.iter().any(|q| q.qdisc.paces()))
}

/// The application's limit in bytes a second; `u64::MAX` = none (SO_MAX_PACING_RATE).
pub(crate) fn set_max_pacing_rate(net: &Net, tp: &mut Tcb, rate: u64) {
    tp.pace.get_or_insert_default().max = rate.max(1);
    tcp_pacing_update(net, tp);
}
