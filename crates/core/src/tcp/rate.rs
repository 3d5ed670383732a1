//! How fast the path delivers: each acknowledgement yields a sample of the rate at which what was sent
//! with the newest delivered packet arrived.
//!
//! Only congestion controls that ask for it pay for it: what has to be remembered of each packet lies
//! beside the record of what is under way, in a queue of its own that other connections do not have.
//!
//! before: [`super::ack`], [`super::output`]   after: [`super::cc`]
//! Linux:  net/ipv4/tcp_rate.c `tcp_rate_skb_sent`, `tcp_rate_skb_delivered`, `tcp_rate_gen`,
//!         `tcp_rate_check_app_limited`
//! RFCs:   draft-ietf-ccwg-bbr §4.1 (delivery rate samples)

use std::collections::VecDeque;

use super::sndq::TxSeg;
use super::{CaState, Tcb};
use crate::seq::Seq;
use crate::time::Instant;

/// What was true when a packet was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct TxRate {
    /// When the last packet before it was delivered; the start of time: this one was delivered too.
    delivered_at: Instant,
    /// When the packet was sent that was delivered last by then.
    first_tx: Instant,
    /// Segments delivered.
    delivered: u32,
    /// Segments lost.
    pub lost: u32,
    /// Segments in flight, it included.
    pub in_flight: u32,
    /// The application did not give enough to send.
    pub app_limited: bool,
}

/// What an acknowledgement tells (`struct rate_sample`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RateSample {
    /// The packet that it is about: when what it follows was delivered; `None`: nothing was.
    prior_at: Option<Instant>,
    /// Its end.
    end: Seq,
    /// Segments that had been delivered when it was sent.
    pub prior_delivered: u32,
    /// Segments that had been lost when it was sent.
    prior_lost: u32,
    /// Segments in flight when it was sent.
    pub tx_in_flight: u32,
    /// Nanoseconds that sending took.
    send_ns: u64,
    /// It was sent while the application gave too little.
    pub is_app_limited: bool,
    /// Segments delivered since then.
    pub delivered: u32,
    /// Segments lost since then.
    pub lost: u32,
    /// Segments in a second; 0 = the sample is too short to tell.
    pub rate: f64,
    /// Segments that this acknowledgement delivered.
    pub newly_acked: u32,
    /// Segments that were marked lost by it.
    pub losses: u32,
    /// A round trip, if one was measured.
    pub rtt_us: Option<u32>,
}

impl RateSample {
    /// Whether it is about a packet.
    pub fn has_data(&self) -> bool {
        self.prior_at.is_some()
    }
}

/// State of sampling.
#[derive(Debug, Default)]
pub(crate) struct Rate {
    /// Beside each entry of the record of what is under way.
    segs: VecDeque<TxRate>,
    delivered_at: Instant,
    first_tx: Instant,
    /// The application gives too little until so many segments are delivered; 0 = it does not.
    pub app_limited: u32,
    rs: RateSample,
    /// The peer took back what it had reported: until that is over, samples would count it twice
    /// (`is_sack_reneg`).
    reneged: bool,
    /// The last good sample, for whoever asks: segments in a second, and whether the application
    /// limited it.
    pub last: (f64, bool),
}

impl Rate {
    /// Sampling begins; what is under way already tells nothing.
    pub fn new(under_way: usize) -> Rate {
        Rate { segs: vec![TxRate::default(); under_way].into(), ..Rate::default() }
    }
    /// What was true when the packet at place `i` was sent.
    pub fn at(&self, i: usize) -> Option<&TxRate> {
        self.segs.get(i).filter(|s| s.delivered_at != Instant::ZERO)
    }
    /// The packet at place `i` was cut; its second part has so many segments.
    pub fn split(&mut self, i: usize, rest: u16) {
        if let Some(first) = self.segs.get_mut(i) {
            let second = *first;
            first.in_flight = first.in_flight.saturating_sub(rest as u32);
            self.segs.insert(i + 1, second);
        }
    }
    /// The oldest packet is gone.
    pub fn pop_front(&mut self) {
        self.segs.pop_front();
    }
    /// Nothing is under way any more, and will not be again soon.
    pub fn clear(&mut self) {
        self.segs = VecDeque::new();
    }
    /// The clock began at another time.
    pub fn retime(&mut self, shift: i64) {
        self.delivered_at = self.delivered_at.shifted(shift);
        self.first_tx = self.first_tx.shifted(shift);
        for s in &mut self.segs {
            s.delivered_at = s.delivered_at.shifted(shift);
            s.first_tx = s.first_tx.shifted(shift);
        }
    }

    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.segs.len()
    }

    /// A packet, or a part of one, arrived for the first time (`tcp_rate_skb_delivered`).
    pub fn delivered(&mut self, i: usize, t: &TxSeg, whole: bool, now: Instant) {
        let Some(s) = self.segs.get_mut(i) else { return };
        if s.delivered_at == Instant::ZERO {
            return;
        }
        let newer = t.sent > self.first_tx || t.sent == self.first_tx && t.end().gt(self.rs.end);
        if self.rs.prior_at.is_none() || newer {
            self.rs.prior_at = Some(s.delivered_at);
            self.rs.prior_delivered = s.delivered;
            self.rs.prior_lost = s.lost;
            self.rs.tx_in_flight = s.in_flight;
            self.rs.is_app_limited = s.app_limited;
            self.rs.send_ns = t.sent.since(s.first_tx);
            self.rs.end = t.end();
            self.first_tx = t.sent;
        }
        self.delivered_at = now;
        if whole {
            s.delivered_at = Instant::ZERO;
        }
    }
}

/// The packet at place `i` is sent, for the first time or again; the counts know of it already
/// (`tcp_rate_skb_sent`).
#[inline]
pub(crate) fn tcp_rate_skb_sent(tp: &mut Tcb, i: usize, now: Instant) {
    if tp.sndq.rate.is_some() {
        skb_sent(tp, i, now);
    }
}

fn skb_sent(tp: &mut Tcb, i: usize, now: Instant) {
    let (delivered, lost, in_flight) = (tp.delivered, tp.lost, tp.in_flight());
    let alone = tp.sndq.rtx.len() == 1;
    let Some(rate) = &mut tp.sndq.rate else { return };
    if alone {
        (rate.first_tx, rate.delivered_at) = (now, now);
    }
    let app_limited = rate.app_limited != 0;
    let (first_tx, delivered_at) = (rate.first_tx, rate.delivered_at);
    let s = TxRate { delivered_at, first_tx, delivered, lost, in_flight, app_limited };
    match rate.segs.get_mut(i) {
        Some(old) => *old = s,
        None => rate.segs.push_back(s),
    }
}

/// The sample of this acknowledgement (`tcp_rate_gen`); the next one begins. `None` where nobody wants it.
pub(crate) fn tcp_rate_gen(tp: &mut Tcb, now: Instant) -> Option<RateSample> {
    let (delivered, lost, min_rtt_us) = (tp.delivered, tp.lost, tp.min_rtt_us);
    let in_loss = tp.ca_state == CaState::Loss;
    let rate = tp.sndq.rate.as_mut()?;
    rate.reneged &= in_loss;
    if rate.app_limited != 0 && (delivered.wrapping_sub(rate.app_limited) as i32) > 0 {
        rate.app_limited = 0;
    }
    let mut rs = std::mem::take(&mut rate.rs);
    if rate.reneged {
        return Some(RateSample::default());
    }
    let Some(prior_at) = rs.prior_at else { return Some(rs) };
    rs.delivered = delivered.wrapping_sub(rs.prior_delivered);
    rs.lost = lost.wrapping_sub(rs.prior_lost);
    // The longer of both: acknowledgements come in clusters, and sending may be slow.
    let interval = rs.send_ns.max(now.since(prior_at));
    let least = if min_rtt_us == u32::MAX { 1 } else { min_rtt_us as u64 * 1000 };
    if interval >= least.max(1) {
        rs.rate = rs.delivered as f64 * 1e9 / interval as f64;
        if !rs.is_app_limited || rs.rate >= rate.last.0 {
            rate.last = (rs.rate, rs.is_app_limited);
        }
    }
    Some(rs)
}

/// All is sent and there would be room for more: what is sent next says little about the path
/// (`tcp_rate_check_app_limited`).
pub(crate) fn tcp_rate_check_app_limited(tp: &mut Tcb) {
    if tp.sndq.rate.is_some()
        && !tp.unsent()
        && tp.in_flight() < tp.snd_cwnd
        && tp.lost_out <= tp.retrans_out
    {
        mark_app_limited(tp);
    }
}

/// The peer took back what it had reported.
pub(crate) fn tcp_sack_reneged(tp: &mut Tcb) {
    if let Some(rate) = &mut tp.sndq.rate {
        rate.reneged = true;
    }
}

/// Samples count as limited by the application until all that is under way is delivered.
pub(crate) fn mark_app_limited(tp: &mut Tcb) {
    let until = tp.delivered.wrapping_add(tp.in_flight()).max(1);
    if let Some(rate) = &mut tp.sndq.rate {
        rate.app_limited = until;
    }
}
