//! A connection as it begins and ends, and what is read off its state everywhere.

use super::cc::Cc;
use super::chrono::{Chrono, Held};
use super::ecn::Ecn;
use super::rcvq::RcvQ;
use super::sndq::SndQ;
use super::timer::Rtx;
use super::{
    CaState, State, TCP_INFINITE_SSTHRESH, TCP_INIT_CWND, TCP_MSS_DEFAULT, TCP_TIMEOUT_INIT_US,
    Tcb, TcpError, Tuple,
};
use crate::seq::Seq;
use crate::shard::Net;
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::count::id;
use crate::time::Instant;

impl Tcb {
    /// A connection without a history. `knobs` decide what new sockets get.
    pub fn new(net: &Net, tuple: Tuple, hash: u32) -> Tcb {
        let knobs = &net.knobs;
        let clamp = |v: u64| v.min(1 << 30) as u32;
        let (rcvbuf, sndbuf) = (clamp(knobs.tcp_rmem[1]), clamp(knobs.tcp_wmem[1]));
        let none = SocketId { kind: SockKind::Tcp, index: 0, generation: 0 };
        Tcb {
            rcv_nxt: Seq(0),
            rcv_wup: Seq(0),
            rcv_wnd: 0,
            snd_una: Seq(0),
            snd_nxt: Seq(0),
            snd_wnd: 0,
            snd_sml: Seq(0),
            snd_wl1: Seq(0),
            max_window: 0,
            state: State::Close,
            ca_state: CaState::Open,
            snd_wscale: 0,
            rcv_wscale: 0,
            wscale_ok: knobs.tcp_window_scaling,
            ts_ok: knobs.tcp_timestamps,
            sack_ok: knobs.tcp_sack,
            dirty: false,
            push: false,
            ack_now: false,
            ack_scheduled: false,
            pushed: 0,
            challenge: false,
            pingpong: false,
            pingpong_cnt: 0,
            ato_ms: 0,
            quick: 0,
            nodelay: false,
            cork: false,
            more: false,
            nagle_push: false,
            nospace: false,
            fin_queued: false,
            fin_sent: false,
            fin_rcvd: false,
            orphan: false,
            hashed: false,
            arrived_at: Instant::ZERO,
            leaving: false,
            retransmits: 0,
            backoff: 0,
            probes_out: 0,
            ecn: Ecn::default(),
            tos: 0,
            dev: 0,
            mss_cache: TCP_MSS_DEFAULT,
            mss_clamp: TCP_MSS_DEFAULT,
            advmss: TCP_MSS_DEFAULT,
            rcv_mss: TCP_MSS_DEFAULT,
            last_seg_size: 0,
            pmtu: 1500,
            ts_recent: 0,
            ts_recent_at: Instant::ZERO,
            ts_offset: 0,
            rcvq: RcvQ::default(),
            sndq: SndQ::default(),
            snd_cwnd: TCP_INIT_CWND,
            snd_ssthresh: TCP_INFINITE_SSTHRESH,
            snd_cwnd_cnt: 0,
            packets_out: 0,
            sacked_out: 0,
            lost_out: 0,
            retrans_out: 0,
            max_packets_out: 0,
            cwnd_limited: false,
            cwnd_usage_seq: Seq(0),
            cc: Cc::new(knobs.tcp_congestion_control),
            pace: None,
            rtx_at: Instant::NEVER,
            rtx_kind: Rtx::None,
            delack_at: Instant::NEVER,
            keep_at: Instant::NEVER,
            idle_at: Instant::NEVER,
            srtt_us8: 0,
            mdev_us4: TCP_TIMEOUT_INIT_US,
            mdev_max_us4: 0,
            rttvar_us4: 0,
            rtt_seq: Seq(0),
            rto_max_ms: net.knobs.tcp_rto_max_ms as u32,
            rto_us: TCP_TIMEOUT_INIT_US,
            min_rtt_us: u32::MAX,
            min_rtt_at: Instant::ZERO,
            high_seq: Seq(0),
            undo_marker: None,
            undo_retrans: 0,
            dsack_dups: 0,
            retrans_stamp: 0,
            prior_cwnd: 0,
            prior_ssthresh: 0,
            prr_delivered: 0,
            prr_out: 0,
            reordering: net.knobs.tcp_reordering as u32,
            reord_seen: 0,
            frto: false,
            frto_new: false,
            lost: 0,
            rack_sent: Instant::ZERO,
            rack_end: Seq(0),
            rack_rtt_us: 0,
            rack_advanced: false,
            rack_reo_mult: 1,
            rack_persist: 0,
            rack_dsack_round: None,
            tlp_high_seq: None,
            tlp_retrans: false,
            snd_fack: Seq(0),
            rcv_ssthresh: 0,
            window_clamp: 0,
            rcvbuf,
            rcvbuf_locked: false,
            copied_seq: Seq(0),
            rcvq_space: 0,
            rcvq_seq: Seq(0),
            rcvq_at: net.now,
            rcv_rtt_us8: 0,
            rcv_rtt_tsecr: 0,
            rcv_rtt_seq: Seq(0),
            rcv_rtt_at: net.now,
            lrcvtime: Instant::ZERO,
            lsndtime: net.now,
            rcv_tstamp: net.now,
            confirmed_at: Instant::ZERO,
            oow_ack_at: Instant::ZERO,
            sndbuf,
            sndbuf_locked: false,
            pressure: false,
            short: false,
            wmem_min: 0,
            charged: 0,
            id: none,
            tuple,
            hash,
            user: 0,
            pending: Ready::default(),
            err: None,
            err_soft: None,
            listener: None,
            iss: Seq(0),
            irs: Seq(0),
            keepalive: false,
            opts: None,
            busy_poll: None,
            user_timeout_ms: 0,
            stall_at: Instant::NEVER,
            total_retrans: 0,
            chrono: Chrono::default(),
            total_rto: 0,
            total_rto_recoveries: 0,
            total_rto_ms: 0,
            segs_in: 0,
            data_segs_in: 0,
            data_segs_out: 0,
            rcv_ooopack: 0,
            segs_out: 0,
            delivered: 0,
            delivered_ce: 0,
            bytes_sent: 0,
            bytes_retrans: 0,
            bytes_acked: 0,
            bytes_received: 0,
        }
    }

    /// Segments that are thought to be in the network (`tcp_packets_in_flight`).
    #[inline]
    pub fn in_flight(&self) -> u32 {
        (self.packets_out + self.retrans_out).saturating_sub(self.sacked_out + self.lost_out)
    }
    /// The window shrinks step by step (`tcp_in_cwnd_reduction`).
    #[inline]
    pub fn in_cwnd_reduction(&self) -> bool {
        matches!(self.ca_state, CaState::Recovery | CaState::Cwr)
    }
    /// What is left of the window that we announced (`tcp_receive_window`).
    #[inline]
    pub fn receive_window(&self) -> u32 {
        let left = (self.rcv_wup + self.rcv_wnd) - self.rcv_nxt;
        if left as i32 <= 0 { 0 } else { left }
    }
    /// The end of the peer's window (`tcp_wnd_end`).
    #[inline]
    pub fn wnd_end(&self) -> Seq {
        self.snd_una + self.snd_wnd
    }
    /// The longest retransmission timeout, in microseconds (`tcp_rto_max`).
    #[inline]
    pub fn rto_max_us(&self) -> u32 {
        self.rto_max_ms.saturating_mul(1000)
    }
    /// Bytes that the peer takes beyond what was sent.
    #[inline]
    pub fn window_left(&self) -> u32 {
        let left = self.wnd_end() - self.snd_nxt;
        if left as i32 <= 0 { 0 } else { left }
    }
    /// Our timestamp clock at `now`, in milliseconds (RFC 7323 §5.4).
    #[inline]
    pub fn ts_now(&self, now: Instant) -> u32 {
        (now.ms() as u32).wrapping_add(self.ts_offset)
    }
    /// Bytes queued that were never sent.
    #[inline]
    pub fn notsent(&self) -> u32 {
        let bytes = self.sndq.end - self.snd_nxt;
        if bytes as i32 <= 0 || self.state == State::Close { 0 } else { bytes }
    }
    /// What holds sending back now.
    pub fn held_by(&self) -> Held {
        if self.notsent() > 0 {
            let window = (self.wnd_end() - self.snd_nxt) as i32;
            let short = window <= 0 || (window as u32) < self.notsent().min(self.mss_cache.into());
            let free = self.in_flight() < self.snd_cwnd;
            return if short && free { Held::Rwnd } else { Held::Busy };
        }
        match self.packets_out {
            0 => Held::Idle,
            _ if self.nospace && self.in_flight() < self.snd_cwnd => Held::Sndbuf,
            _ => Held::Busy,
        }
    }
    /// Whether something is queued that was never sent.
    #[inline]
    pub fn unsent(&self) -> bool {
        self.snd_nxt.lt(self.sndq.end) || self.fin_queued && !self.fin_sent
    }
    /// Tells the application what the connection is ready for; before it was accepted, that is
    /// only noted.
    #[inline]
    pub fn raise(&mut self, net: &mut Net, ready: Ready) {
        if self.orphan {
            return;
        }
        if self.listener.is_some() {
            self.pending |= ready;
            return;
        }
        net.events.raise(self.id, self.user, &mut self.pending, ready);
    }
    /// Changes the state, with the counters that go with it (`tcp_set_state`).
    pub fn set_state(&mut self, net: &Net, state: State) {
        let old = std::mem::replace(&mut self.state, state);
        if !old.current() && state.current() {
            net.counts.inc(id::TcpCurrEstab);
        } else if old.current() && !state.current() {
            net.counts.dec(id::TcpCurrEstab);
            if state == State::Close {
                net.counts.inc(id::TcpEstabResets);
            }
        }
        if matches!(old, State::SynSent | State::SynRecv) && state == State::Close {
            net.counts.inc(id::TcpAttemptFails);
        }
    }
    /// Ends the connection for both sides (`tcp_done`); the error is kept for the application.
    pub fn done(&mut self, net: &mut Net, err: Option<TcpError>) {
        self.set_state(net, State::Close);
        self.rtx_at = Instant::NEVER;
        self.rtx_kind = Rtx::None;
        self.delack_at = Instant::NEVER;
        self.keep_at = Instant::NEVER;
        self.ack_now = false;
        self.ack_scheduled = false;
        self.challenge = false;
        if let Some(err) = err {
            self.err = Some(err);
            self.raise(net, Ready::ERR | Ready::HUP | Ready::IN | Ready::OUT);
        } else {
            self.raise(net, Ready::HUP | Ready::IN | Ready::OUT);
        }
        self.sndq.clear(net, self.snd_nxt);
        self.zerocopy_check(net);
        (self.packets_out, self.sacked_out, self.lost_out, self.retrans_out) = (0, 0, 0, 0);
    }
}
