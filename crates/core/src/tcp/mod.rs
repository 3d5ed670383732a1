#![doc = include_str!("README.md")]
// The files of this folder refer to each other; only some of them are public.
#![allow(rustdoc::private_intra_doc_links)]

mod ack;
pub mod api;
mod cc;
mod demux;
pub mod icmp;
pub mod info;
pub mod input;
mod listen;
mod moved;
mod output;
mod rcvq;
mod recovery;
mod sndq;
mod sockets;
mod timer;
mod timewait;

pub use crate::sock::error::TcpError;
pub use api::{Connect, HeldSyn, KeepAlive, Listen, Refuse, RxState, TcpOpt};
pub use icmp::{ErrKind, TcpQuote};
pub use info::{SockRow, SockStat, TcpInfo};
pub use moved::Moved;
pub use sockets::Sockets;

use std::net::{IpAddr, SocketAddr};

use crate::seq::Seq;
use crate::shard::Net;
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::count::id;
use crate::time::Instant;

use cc::Cc;
use rcvq::RcvQ;
use sndq::SndQ;
use timer::Rtx;

/// The state of a connection, with Linux's numbers (`TCP_ESTABLISHED`, …).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum State {
    /// Both directions are open.
    Established = 1,
    /// Our SYN is out.
    SynSent = 2,
    /// Both SYNs are out, ours is not acknowledged.
    SynRecv = 3,
    /// Our FIN is out.
    FinWait1 = 4,
    /// Our FIN is acknowledged.
    FinWait2 = 5,
    /// Both FINs are acknowledged; old segments may still be under way.
    TimeWait = 6,
    /// No connection.
    Close = 7,
    /// The peer's FIN has come.
    CloseWait = 8,
    /// The peer's FIN has come, ours is out.
    LastAck = 9,
    /// Waiting for connections.
    Listen = 10,
    /// Both FINs crossed.
    Closing = 11,
}

impl State {
    /// Whether both SYNs are acknowledged and the connection still exists.
    pub(crate) fn synchronized(self) -> bool {
        !matches!(
            self,
            State::SynSent | State::SynRecv | State::Close | State::Listen | State::TimeWait
        )
    }
    /// What `Tcp:CurrEstab` counts.
    fn current(self) -> bool {
        matches!(self, State::Established | State::CloseWait)
    }
}

/// The two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tuple {
    pub local: IpAddr,
    pub remote: IpAddr,
    pub lport: u16,
    pub rport: u16,
}

impl Tuple {
    pub fn local(&self) -> SocketAddr {
        SocketAddr::new(self.local, self.lport)
    }
    pub fn remote(&self) -> SocketAddr {
        SocketAddr::new(self.remote, self.rport)
    }
    /// Bytes of the IP header, without options.
    pub fn ip_hlen(&self) -> u32 {
        if self.local.is_ipv4() { 20 } else { 40 }
    }
}

/// How the congestion window is steered now (Linux: `tcp_ca_state`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum CaState {
    /// Nothing is wrong.
    Open = 0,
    /// Duplicate acknowledgements or SACKs came in.
    Disorder = 1,
    /// Fast recovery.
    Recovery = 3,
    /// After a retransmission timeout.
    Loss = 4,
}

/// A connection (Linux: `struct tcp_sock`; RFC 9293 §3.3.1: the transmission control block).
///
/// The order is that of use: what every segment touches comes first.
pub(crate) struct Tcb {
    /// RCV.NXT: the next sequence number expected.
    pub rcv_nxt: Seq,
    /// RCV.NXT when the window was last announced. Invariant: `rcv_wup <= rcv_nxt`.
    pub rcv_wup: Seq,
    /// RCV.WND as announced then, in bytes. The right edge `rcv_wup + rcv_wnd` never moves left.
    pub rcv_wnd: u32,
    /// SND.UNA: the oldest sequence number not acknowledged.
    pub snd_una: Seq,
    /// SND.NXT: the next sequence number to send. Invariant: `snd_una <= snd_nxt`.
    pub snd_nxt: Seq,
    /// SND.WND: the peer's window in bytes, scaled.
    pub snd_wnd: u32,
    /// The end of the last segment sent that was not full (Minshall's variant of Nagle's algorithm).
    pub snd_sml: Seq,
    /// SND.WL1: the segment that last updated the window.
    pub snd_wl1: Seq,
    /// The largest window that the peer ever announced, in bytes.
    pub max_window: u32,
    /// State.
    pub state: State,
    /// Congestion state.
    pub ca_state: CaState,
    /// Shift of windows received.
    pub snd_wscale: u8,
    /// Shift of windows sent.
    pub rcv_wscale: u8,
    /// Timestamps were agreed on.
    pub ts_ok: bool,
    /// SACK was agreed on.
    pub sack_ok: bool,
    /// It stands in the list of connections to be served by `transmit`.
    pub dirty: bool,
    /// It wants to stand there.
    pub push: bool,
    /// An acknowledgement is owed: at once, or when the timer fires.
    pub ack_now: bool,
    /// One is owed sooner or later.
    pub ack_scheduled: bool,
    /// A challenge acknowledgement is asked for (RFC 5961); limits apply.
    pub challenge: bool,
    /// Data flows both ways in turns: acknowledgements wait for data (`pingpong`).
    pub pingpong: bool,
    /// Acknowledgements that go out at once, to help a peer in slow start (`icsk_ack.quick`).
    pub quick: u8,
    /// Nagle's algorithm is off.
    pub nodelay: bool,
    /// Only full segments are sent.
    pub cork: bool,
    /// The application waits for room to send.
    pub nospace: bool,
    /// The application has shut its sending side down: a FIN ends the queue.
    pub fin_queued: bool,
    /// The FIN was sent.
    pub fin_sent: bool,
    /// The peer's FIN was received in order.
    pub fin_rcvd: bool,
    /// The application has closed the socket.
    pub orphan: bool,
    /// Look-ups find it.
    pub hashed: bool,
    /// Timeouts in a row (`icsk_retransmits`).
    pub retransmits: u8,
    /// Exponential backoff of the timer (`icsk_backoff`).
    pub backoff: u8,
    /// Probes in a row that were not answered.
    pub probes_out: u8,
    /// Type of service of what is sent.
    pub tos: u8,
    /// The device that the path leads to.
    pub dev: u8,
    /// Payload of a full segment without SACK blocks, in bytes.
    pub mss_cache: u16,
    /// Largest payload that the peer takes, in bytes, options not subtracted.
    pub mss_clamp: u16,
    /// MSS that we announced, in bytes.
    pub advmss: u16,
    /// Payload of a full segment that the peer seems to send, in bytes.
    pub rcv_mss: u16,
    /// The path's MTU in bytes.
    pub pmtu: u32,
    /// The newest timestamp of the peer, to be echoed (TS.Recent).
    pub ts_recent: u32,
    /// When it was noted.
    pub ts_recent_at: Instant,
    /// What is added to the clock for our timestamps: random per connection.
    pub ts_offset: u32,
    /// Received data.
    pub rcvq: RcvQ,
    /// Data to send, and what of it is under way.
    pub sndq: SndQ,

    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Slow-start threshold in segments.
    pub snd_ssthresh: u32,
    /// Segments acknowledged towards the next increase of the window.
    pub snd_cwnd_cnt: u32,
    /// Segments sent and not acknowledged.
    pub packets_out: u32,
    /// Of these, selectively acknowledged (without SACK: duplicate acknowledgements).
    pub sacked_out: u32,
    /// Of these, marked lost.
    pub lost_out: u32,
    /// Of these, retransmitted, not acknowledged, not lost again.
    pub retrans_out: u32,
    /// The most segments that were in flight in this round: only a used window grows.
    pub max_packets_out: u32,
    /// The flight filled the congestion window in this round.
    pub cwnd_limited: bool,
    /// The round of `max_packets_out` ends here.
    pub cwnd_usage_seq: Seq,
    /// Which algorithm, and its state.
    pub cc: Cc,

    /// Retransmission timer: when, and what it is for.
    pub rtx_at: Instant,
    /// What the retransmission timer is for.
    pub rtx_kind: Rtx,
    /// When a delayed acknowledgement is sent at the latest.
    pub delack_at: Instant,
    /// Keepalive, FIN_WAIT_2 and the end of orphans.
    pub keep_at: Instant,
    /// When queues that are empty and large give their memory back.
    pub idle_at: Instant,

    /// Smoothed round trip in microseconds, times 8; 0 = none measured.
    pub srtt_us8: u32,
    /// Mean deviation in microseconds, times 4.
    pub mdev_us4: u32,
    /// Largest mean deviation in this round, times 4.
    pub mdev_max_us4: u32,
    /// Smoothed `mdev_max_us4`, not below the least RTO.
    pub rttvar_us4: u32,
    /// The round of `mdev_max_us4` ends here.
    pub rtt_seq: Seq,
    /// Retransmission timeout in microseconds, before backoff.
    pub rto_us: u32,
    /// Least round trip in microseconds; `u32::MAX` = none measured.
    pub min_rtt_us: u32,
    /// When that was measured.
    pub min_rtt_at: Instant,

    /// Recovery ends when this is acknowledged (`high_seq`).
    pub high_seq: Seq,
    /// Undo is possible while this is set: SND.UNA when recovery began.
    pub undo_marker: Option<Seq>,
    /// Retransmissions not yet reported as duplicates (DSACK).
    pub undo_retrans: i32,
    /// Our timestamp clock at the first retransmission (Eifel); 0 = none.
    pub retrans_stamp: u32,
    /// Congestion window before the reduction.
    pub prior_cwnd: u32,
    /// Slow-start threshold before the reduction.
    pub prior_ssthresh: u32,
    /// Segments delivered in this recovery (PRR).
    pub prr_delivered: u32,
    /// Segments sent in this recovery (PRR).
    pub prr_out: u32,
    /// Duplicate threshold, in segments.
    pub reordering: u32,
    /// Reordering was seen on this connection.
    pub reord_seen: bool,
    /// F-RTO: the first ACKs after a timeout decide whether it was spurious.
    pub frto: bool,
    /// RACK: when the latest delivered segment was sent.
    pub rack_sent: Instant,
    /// RACK: the end of that segment.
    pub rack_end: Seq,
    /// RACK: the round trip of that segment, in microseconds.
    pub rack_rtt_us: u32,
    /// Tail loss probe: SND.NXT when it was sent, while it is not answered.
    pub tlp_high_seq: Option<Seq>,
    /// Whether that probe was a retransmission.
    pub tlp_retrans: bool,
    /// Highest sequence number that was selectively acknowledged.
    pub snd_fack: Seq,

    /// The slope of the receive window while it opens, in bytes (`rcv_ssthresh`).
    pub rcv_ssthresh: u32,
    /// Upper limit of the window, in bytes.
    pub window_clamp: u32,
    /// Limit of received true size, in bytes (`sk_rcvbuf`).
    pub rcvbuf: u32,
    /// The application set `rcvbuf`: it grows no more.
    pub rcvbuf_locked: bool,
    /// Bytes that the application has read: the sequence number of the next one.
    pub copied_seq: Seq,
    /// Receive buffer tuning: bytes read in the last round trip.
    pub rcvq_space: u32,
    /// Receive buffer tuning: `copied_seq` when this round trip began.
    pub rcvq_seq: Seq,
    /// Receive buffer tuning: when this round trip began.
    pub rcvq_at: Instant,
    /// Receiver's estimate of the round trip in microseconds, times 8; 0 = none.
    pub rcv_rtt_us8: u32,
    /// The round of the receiver's estimate ends here.
    pub rcv_rtt_seq: Seq,
    /// When that round began.
    pub rcv_rtt_at: Instant,
    /// When data was last received.
    pub lrcvtime: Instant,
    /// When data was last sent.
    pub lsndtime: Instant,
    /// When anything was last received.
    pub rcv_tstamp: Instant,
    /// When the next hop was last told to be alive.
    pub confirmed_at: Instant,
    /// When an out-of-window segment was last answered.
    pub oow_ack_at: Instant,

    /// Limit of the send queue, in bytes (`sk_sndbuf`).
    pub sndbuf: u32,
    /// The application set `sndbuf`: it grows no more.
    pub sndbuf_locked: bool,
    /// All of the shard's TCP sockets together hold too much.
    pub pressure: bool,
    /// Memory that this connection is charged with in the shard's sum.
    pub charged: usize,

    /// Its name.
    pub id: SocketId,
    /// Its two ends.
    pub tuple: Tuple,
    /// Their hash.
    pub hash: u32,
    /// The application's number.
    pub user: u64,
    /// What the application was not told yet.
    pub pending: Ready,
    /// Why it failed.
    pub err: Option<TcpError>,
    /// A softer error, told if the connection times out (ICMP).
    pub err_soft: Option<TcpError>,
    /// The listener, until the connection is accepted.
    pub listener: Option<SocketId>,
    /// ISS: our first sequence number.
    pub iss: Seq,
    /// IRS: the peer's first sequence number.
    pub irs: Seq,
    /// Keepalive, if it is on.
    pub keepalive: Option<KeepAlive>,
    /// Limit of unacknowledged time in milliseconds; 0 = none.
    pub user_timeout_ms: u32,
    /// When the first of the timeouts or probes in a row happened.
    pub stall_at: Instant,
    /// Segments ever retransmitted.
    pub total_retrans: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments delivered to the peer.
    pub delivered: u32,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
    /// Bytes acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
}

const _: () = assert!(size_of::<Tcb>() <= 960, "an idle connection costs at most 1 KiB");

/// Initial congestion window in segments (RFC 6928).
pub(crate) const TCP_INIT_CWND: u32 = 10;
/// First retransmission timeout in microseconds (RFC 6298 §2.1).
pub(crate) const TCP_TIMEOUT_INIT_US: u32 = 1_000_000;
/// Largest retransmission timeout in microseconds.
pub(crate) const TCP_RTO_MAX_US: u32 = 120_000_000;
/// Duplicate acknowledgements that mean loss (RFC 5681).
pub(crate) const TCP_REORDERING: u32 = 3;
/// Slow-start threshold that does not exist yet.
pub(crate) const TCP_INFINITE_SSTHRESH: u32 = 0x7fff_ffff;
/// MSS where the peer names none (RFC 9293 §3.7.1).
pub(crate) const TCP_MSS_DEFAULT: u16 = 536;
/// The least MSS that is believed.
pub(crate) const TCP_MIN_SND_MSS: u16 = 48;

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
            ts_ok: knobs.tcp_timestamps,
            sack_ok: knobs.tcp_sack,
            dirty: false,
            push: false,
            ack_now: false,
            ack_scheduled: false,
            challenge: false,
            pingpong: false,
            quick: 16,
            nodelay: false,
            cork: false,
            nospace: false,
            fin_queued: false,
            fin_sent: false,
            fin_rcvd: false,
            orphan: false,
            hashed: false,
            retransmits: 0,
            backoff: 0,
            probes_out: 0,
            tos: 0,
            dev: 0,
            mss_cache: TCP_MSS_DEFAULT,
            mss_clamp: TCP_MSS_DEFAULT,
            advmss: TCP_MSS_DEFAULT,
            rcv_mss: TCP_MSS_DEFAULT,
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
            rto_us: TCP_TIMEOUT_INIT_US,
            min_rtt_us: u32::MAX,
            min_rtt_at: Instant::ZERO,
            high_seq: Seq(0),
            undo_marker: None,
            undo_retrans: 0,
            retrans_stamp: 0,
            prior_cwnd: 0,
            prior_ssthresh: 0,
            prr_delivered: 0,
            prr_out: 0,
            reordering: TCP_REORDERING,
            reord_seen: false,
            frto: false,
            rack_sent: Instant::ZERO,
            rack_end: Seq(0),
            rack_rtt_us: 0,
            tlp_high_seq: None,
            tlp_retrans: false,
            snd_fack: Seq(0),
            rcv_ssthresh: 0,
            window_clamp: 0,
            rcvbuf,
            rcvbuf_locked: !knobs.tcp_moderate_rcvbuf,
            copied_seq: Seq(0),
            rcvq_space: 0,
            rcvq_seq: Seq(0),
            rcvq_at: net.now,
            rcv_rtt_us8: 0,
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
            keepalive: None,
            user_timeout_ms: 0,
            stall_at: Instant::NEVER,
            total_retrans: 0,
            segs_in: 0,
            segs_out: 0,
            delivered: 0,
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
    /// Our timestamp clock at `now`, in milliseconds (RFC 7323 §5.4).
    #[inline]
    pub fn ts_now(&self, now: Instant) -> u32 {
        (now.ms() as u32).wrapping_add(self.ts_offset)
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
        self.sndq.clear(&mut net.pool, self.snd_nxt);
        (self.packets_out, self.sacked_out, self.lost_out, self.retrans_out) = (0, 0, 0, 0);
    }
}

/// The earlier of two times.
pub(crate) trait Earlier {
    /// The earlier one.
    fn min2(self, other: Self) -> Self;
}
impl Earlier for Instant {
    #[inline]
    fn min2(self, other: Instant) -> Instant {
        if other < self { other } else { self }
    }
}

#[cfg(test)]
mod tests;
