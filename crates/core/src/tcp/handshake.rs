//! A connection becomes established: the answer to our SYN, what both sides agree on, and what a connection begins
//! with.
//!
//! before: [`super::input`], [`super::syn_recv`]   after: [`super::rcvq`], for data that came with the SYN
//! Linux:  net/ipv4/tcp_input.c `tcp_rcv_synsent_state_process`, `tcp_finish_connect`, `tcp_init_transfer`
//! RFCs:   9293 §3.10.7.3; 7323 §2.2, §3.2 (what is agreed on)
//! drops:  TcpInvalidAck, TcpPawsActive, TcpReset, TcpFlags

use super::ack::{tcp_rtt_estimator, tcp_sndbuf_expand};
use super::cc;
use super::fastopen::{fastopen_synack, options_of};
use super::input::Segment;
use super::mtup::tcp_mtup_init;
use super::output::{send_reset, tcp_send_syn};
use super::rcvq::tcp_data_queue;
use super::rcvwin::{TCP_ATO_MIN_MS, TCP_DELACK_MAX_NS};
use super::timer::{Rtx, rearm_rto, set_rtx};
use super::{Earlier, State, Tcb};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::Net;
use crate::sock::Ready;
use crate::sock::error::TcpError;
use crate::table::Reason;
use crate::time::{Instant, MS, SEC};
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;
use crate::wire::tcp_options::TCPOLEN_TSTAMP_ALIGNED;

/// SYN_SENT (RFC 9293 §3.10.7.3; `tcp_rcv_synsent_state_process`).
pub(super) fn tcp_rcv_synsent_state_process(
    net: &mut Net,
    tp: &mut Tcb,
    seg: &Segment,
    pkt: Pkt,
) -> Verdict {
    // Data that went with the SYN may be acknowledged with it (RFC 7413 §4.2.2).
    if seg.flags.ack() && (seg.ack.le(tp.iss) || seg.ack.gt(tp.snd_nxt + tp.syn_data())) {
        // The peer holds an old connection: our reset ends it, and the SYN goes out again at once.
        if tp.retransmits == 0 {
            set_rtx(tp, Rtx::Retrans, net.now.plus(2 * MS));
        }
        if !seg.flags.rst() {
            send_reset(net, &tp.tuple, seg, tp.md5());
        }
        return Verdict::Drop(pkt, Reason::TcpInvalidAck);
    }
    if let Some((_, ecr)) = seg.opts.ts.filter(|_| tp.ts_ok && seg.flags.ack())
        && ecr != 0
        && !Seq(ecr).within(Seq(tp.ts_now(tp.lsndtime)), Seq(tp.ts_now(net.now)) + 1)
    {
        // It echoes a timestamp that this attempt never sent.
        if !seg.flags.rst() {
            send_reset(net, &tp.tuple, seg, tp.md5());
        }
        return Verdict::Drop(pkt, Reason::TcpPawsActive);
    }
    if seg.flags.rst() {
        if seg.flags.ack() {
            tp.done(net, Some(TcpError::Refused));
        }
        return Verdict::Drop(pkt, Reason::TcpReset);
    }
    if !seg.flags.syn() {
        return Verdict::Drop(pkt, Reason::TcpFlags);
    }
    take_syn(net, tp, seg);
    if seg.flags.ack() {
        tcp_ack_of_syn(net, tp, seg);
        let fast = fastopen_synack(net, tp, seg, options_of(&pkt));
        if tp.opts().is_some_and(|o| o.write_pending || o.defer_accept > 0) {
            // Data will follow in a moment, and can carry the acknowledgement.
            tp.ato_ms = TCP_ATO_MIN_MS;
            tp.ack_scheduled = true;
            tp.enter_quickack();
            tp.delack_at = tp.delack_at.min2(net.now.plus(TCP_DELACK_MAX_NS));
        } else {
            tp.ack_now = true;
        }
        if fast && seg.end_seq != seg.seq + 1 {
            // Its data, and perhaps a FIN (`tcp_fastopen_add_skb`).
            tp.opts_mut().syn_data_acked = true;
            let text =
                Segment { seq: seg.seq + 1, flags: seg.flags.without(TcpFlags::SYN), ..*seg };
            return tcp_data_queue(net, tp, &text, pkt);
        }
    } else {
        // Opened from both ends at once (RFC 9293 §3.5, figure 7).
        tp.set_state(net, State::SynRecv);
        tp.retransmits = 0;
        tp.backoff = 0;
        tcp_send_syn(net, tp);
        rearm_rto(net, tp);
    }
    net.pool.free(pkt);
    Verdict::Taken
}

/// Takes the peer's SYN over: its sequence number, what it agrees to.
fn take_syn(net: &Net, tp: &mut Tcb, seg: &Segment) {
    tp.irs = seg.seq;
    tp.rcv_nxt = seg.seq + 1;
    tp.rcv_wup = tp.rcv_nxt;
    tp.copied_seq = tp.rcv_nxt;
    tp.snd_wl1 = seg.seq;
    tp.snd_wnd = seg.window as u32;
    tp.max_window = tp.snd_wnd;
    tp.take_options(net, &seg.opts);
    tp.ecn_rcv_syn(seg.flags);
}

/// Our SYN is acknowledged: the connection is established (`tcp_finish_connect`, `tcp_init_transfer`).
pub(crate) fn tcp_ack_of_syn(net: &mut Net, tp: &mut Tcb, seg: &Segment) {
    let window = seg.window as u32;
    tp.snd_wnd = if seg.flags.syn() { window } else { window << tp.snd_wscale };
    tp.max_window = tp.max_window.max(tp.snd_wnd);
    tp.snd_wl1 = seg.seq;
    tp.snd_una = tp.iss + 1;
    // What Fast Open let us send already stays under way.
    let under_way = tp.packets_out > 0;
    if !under_way {
        tp.snd_nxt = tp.snd_una;
    }
    tp.snd_sml = tp.snd_una;
    // The SYN was delivered, if nothing else.
    tp.delivered = 1;
    (tp.lrcvtime, tp.snd_fack) = (net.now, tp.snd_una);
    tp.rack_end = tp.snd_una;
    tp.high_seq = tp.snd_una;
    tp.cwnd_usage_seq = tp.snd_una;
    if tp.retransmits == 0 && tp.srtt_us8 == 0 {
        let us = (net.now.since(tp.lsndtime) / 1000).clamp(1, 60_000_000) as u32;
        tcp_rtt_estimator(net, tp, us);
        (tp.min_rtt_us, tp.min_rtt_at) = (us, net.now);
    }
    if tp.retransmits > 1 {
        // RFC 5681 §3.1: a SYN that was lost twice says that the path is bad.
        tp.snd_cwnd = 1;
    }
    tp.retransmits = 0;
    tp.backoff = 0;
    tp.stall_at = Instant::NEVER;
    set_rtx(tp, Rtx::None, Instant::NEVER);
    if under_way {
        rearm_rto(net, tp);
    }
    tcp_init_transfer(net, tp);
    tp.raise(net, Ready::OUT);
    if tp.fin_queued {
        // It was closed before it was established (RFC 9293 §3.10.4, SYN-SENT and SYN-RECEIVED).
        tp.set_state(net, State::FinWait1);
    }
    tp.push = tp.unsent();
}

/// An established connection gets its buffers' sizes.
pub(crate) fn tcp_init_transfer(net: &mut Net, tp: &mut Tcb) {
    let active = tp.state == State::SynSent;
    tp.set_state(net, State::Established);
    if tp.ts_ok {
        // What the peer was told counts without options.
        tp.advmss = tp.advmss.saturating_sub(TCPOLEN_TSTAMP_ALIGNED as u16);
    }
    tcp_mtup_init(net, tp, active);
    cc::init(net, tp);
    tcp_init_buffers(net, tp);
}

/// (`tcp_init_buffer_space`)
pub(super) fn tcp_init_buffers(net: &mut Net, tp: &mut Tcb) {
    if !tp.sndbuf_locked {
        tcp_sndbuf_expand(net, tp);
    }
    // It is known when data comes (`tcp_initialize_rcv_mss`).
    let half = (tp.rcv_wnd / 2).min(u16::MAX.into()) as u16;
    tp.rcv_mss = tp.mss_cache.min(tp.advmss).min(half).clamp(88, super::TCP_MSS_DEFAULT);
    let mss = u32::from(tp.advmss);
    let full = tp.rcvq.win_from_space(tp.rcvbuf);
    // The window leaves room for a segment that the application takes its time with.
    tp.window_clamp = tp.window_clamp.min(full);
    if tp.window_clamp > 2 * mss && tp.window_clamp + mss > full {
        tp.window_clamp = (2 * mss).max(full - mss);
    }
    tp.rcv_ssthresh = tp.rcv_ssthresh.min(tp.window_clamp);
    let least = tp.rcv_ssthresh.min(tp.rcv_wnd);
    tp.rcvq_space = least.min(super::TCP_INIT_CWND * mss);
    tp.rcvq_seq = tp.copied_seq;
    tp.rcvq_at = net.now;
    tp.rcv_rtt_at = net.now;
    tp.rcv_rtt_seq = tp.rcv_nxt + tp.rcv_wnd;
    tp.rcv_tstamp = net.now;
    tp.lsndtime = net.now;
    if tp.keepalive {
        let time = tp.keepalive_times(net).time_s as u64 * SEC;
        tp.keep_at = tp.keep_at.min2(net.now.plus(time));
    }
}

impl Tcb {
    /// What both sides agree on, by the options of the peer's SYN.
    pub fn take_options(&mut self, net: &Net, opts: &TcpOptions) {
        match opts.ts {
            Some((val, _)) if self.ts_ok => {
                self.ts_recent = val;
                self.ts_recent_at = net.now;
            }
            _ => self.ts_ok = false,
        }
        self.sack_ok &= opts.sack_permitted;
        match opts.wscale {
            Some(shift) if self.rcv_wscale > 0 || net.knobs.tcp_window_scaling => {
                self.snd_wscale = shift;
            }
            _ => {
                self.wscale_ok = false;
                (self.snd_wscale, self.rcv_wscale) = (0, 0);
                self.window_clamp = self.window_clamp.min(65535);
            }
        }
        let mss = opts.mss.unwrap_or(super::TCP_MSS_DEFAULT);
        let most = self.opts().map_or(0, |o| o.user_mss);
        let mss = if most > 0 { mss.min(most) } else { mss };
        self.mss_clamp = mss.max(net.knobs.tcp_min_snd_mss.min(u16::MAX.into()) as u16);
    }
}
