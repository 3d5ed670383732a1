#![doc = include_str!("README.md")]
// The files of this folder refer to each other; only some of them are public.
#![allow(rustdoc::private_intra_doc_links)]

mod ack;
pub mod api;
mod cc;
mod chrono;
mod demux;
mod ecn;
mod fastopen;
mod fastopen_active;
mod handshake;
mod held;
mod hints;
pub mod icmp;
pub mod info;
pub mod input;
mod listen;
mod listeners;
mod md5;
mod memory;
mod moved;
mod mtup;
mod opts;
mod ofo;
mod output;
mod pacing;
mod ports;
mod prune;
mod push;
mod quota;
mod rack;
mod rate;
mod rcvq;
mod rcvwin;
mod recovery;
mod request;
mod rfs;
pub mod rows;
mod send;
mod sendfile;
mod sndq;
mod sockets;
mod spare;
mod syn_recv;
mod syncookies;
mod tcb;
mod timer;
mod timewait;
mod undo;
mod urg;
mod validate;
mod wmem;
mod zerocopy;

pub use crate::sock::error::TcpError;
pub use api::{Connect, HeldSyn, Listen, Refuse, RxState};
pub(crate) use fastopen_active::ActiveFastOpen;
pub use icmp::{ErrKind, TcpQuote};
pub use info::{BbrInfo, TCP_INFO_LEN, TcpInfo};
pub use md5::{MD5_KEY_MAX, Md5Sig};
pub use moved::Moved;
pub use opts::{KeepAlive, OptName, TcpOpt};
pub use rows::{SockRow, SockStat};
pub use send::SendMsg;
pub use sockets::Sockets;
pub(crate) use spare::Spare;
pub use zerocopy::ZerocopyDone;

use std::mem::offset_of;
use std::net::{IpAddr, SocketAddr};

use crate::rx::steer::FlowKey;
use crate::seq::Seq;
use crate::sock::{Arena, Ready, SocketId};
use crate::time::Instant;

use cc::Cc;
use chrono::Chrono;
use ecn::Ecn;
use opts::SockOpts;
use pacing::Pace;
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
    /// As other shards know the connection.
    pub fn flow_key(&self) -> FlowKey {
        FlowKey::new(self.local(), self.remote())
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
    /// The window shrinks because the path marks packets (ECN): nothing is lost.
    Cwr = 2,
    /// Fast recovery.
    Recovery = 3,
    /// After a retransmission timeout.
    Loss = 4,
}

/// A connection (Linux: `struct tcp_sock`; RFC 9293 §3.3.1: the transmission control block).
///
/// The order is that of memory: what is looked at together lies in the same cache lines, and what few look at comes
/// last.
#[repr(C)]
pub(crate) struct Tcb {
    // What a timer looks at, and whoever settles a connection ([`Shard::tcp_settle`](crate::shard::Shard)).
    /// Retransmission timer: when, and what it is for.
    pub rtx_at: Instant,
    /// When an acknowledgement that is delayed or held back is sent at the latest.
    pub delack_at: Instant,
    /// Keepalive, FIN_WAIT_2 and the end of orphans.
    pub keep_at: Instant,
    /// When queues that are empty and large give their memory back.
    pub idle_at: Instant,
    /// When packets may leave, if it is paced.
    pub pace: Option<Box<Pace>>,
    /// Memory that this connection is charged with in the shard's sum.
    pub charged: usize,
    /// What few connections have set.
    pub opts: Option<Box<SockOpts>>,
    /// Received data.
    pub rcvq: RcvQ,
    /// Data to send, and what of it is under way.
    pub sndq: SndQ,
    /// What its time goes by while there is something to send.
    pub chrono: Chrono,
    /// State.
    pub state: State,
    /// Congestion state.
    pub ca_state: CaState,
    /// What the retransmission timer is for.
    pub rtx_kind: Rtx,
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
    /// The application has closed the socket.
    pub orphan: bool,
    /// The application waits for room to send.
    pub nospace: bool,
    /// Since the last one the peer has pushed what it had: once, or several times (2). Then the one that is owed
    /// goes when all has been read (`ICSK_ACK_PUSHED`, `ICSK_ACK_PUSHED2`).
    pub pushed: u8,
    /// The application has shut its sending side down: a FIN ends the queue.
    pub fin_queued: bool,

    // Sequence numbers, windows, and what is under way.
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
    /// Segments sent and not acknowledged.
    pub packets_out: u32,
    /// Of these, selectively acknowledged (without SACK: duplicate acknowledgements).
    pub sacked_out: u32,
    /// Of these, marked lost.
    pub lost_out: u32,
    /// Of these, retransmitted, not acknowledged, not lost again.
    pub retrans_out: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Payload of a full segment without SACK blocks, in bytes.
    pub mss_cache: u16,
    /// Payload of a full segment that the peer seems to send, in bytes.
    pub rcv_mss: u16,
    /// Payload of the last segment in bytes, if it was none of those and may be of a new size; or 0
    /// (`last_seg_size`).
    pub last_seg_size: u16,
    /// For how many milliseconds an acknowledgement waits, which follows how data comes; 0 = none has
    /// come yet (`icsk_ack.ato`).
    pub ato_ms: u16,

    // Times of both directions, and round trips.
    /// When data was last sent.
    pub lsndtime: Instant,
    /// When data was last received.
    pub lrcvtime: Instant,
    /// When anything was last received.
    pub rcv_tstamp: Instant,
    /// When the next hop was last told to be alive.
    pub confirmed_at: Instant,
    /// When it was noted.
    pub ts_recent_at: Instant,
    /// RACK: when the latest delivered segment was sent.
    pub rack_sent: Instant,
    /// The newest timestamp of the peer, to be echoed (TS.Recent).
    pub ts_recent: u32,
    /// What is added to the clock for our timestamps: random per connection.
    pub ts_offset: u32,

    // Where it is found, and whom it tells.
    /// The application's number.
    pub user: u64,
    /// Its name.
    pub id: SocketId,
    /// Its two ends.
    pub tuple: Tuple,
    /// MSS that we announced, in bytes.
    pub advmss: u16,
    /// Their hash.
    pub hash: u32,
    /// What the application was not told yet.
    pub pending: Ready,
    /// Look-ups find it.
    pub hashed: bool,
    /// Why it failed.
    pub err: Option<TcpError>,
    /// A softer error, told if the connection times out (ICMP).
    pub err_soft: Option<TcpError>,
    /// The FIN was sent.
    pub fin_sent: bool,
    /// The peer's FIN was received in order.
    pub fin_rcvd: bool,
    /// It is about to change shards: nothing new is sent until what it sent has left this one.
    pub leaving: bool,

    // What else a segment or an acknowledgement looks at.
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
    /// The longest retransmission timeout, in milliseconds.
    pub rto_max_ms: u32,
    /// Least round trip in microseconds; `u32::MAX` = none measured.
    pub min_rtt_us: u32,
    /// When that was measured.
    pub min_rtt_at: Instant,
    /// RACK: the end of that segment.
    pub rack_end: Seq,
    /// RACK: the round trip of that segment, in microseconds.
    pub rack_rtt_us: u32,
    /// Highest sequence number that was selectively acknowledged.
    pub snd_fack: Seq,
    /// Recovery ends when this is acknowledged (`high_seq`).
    pub high_seq: Seq,
    /// Segments delivered to the peer.
    pub delivered: u32,
    /// Segments ever thought to be lost.
    pub lost: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Of these, segments with data.
    pub data_segs_in: u32,
    /// Segments with data sent.
    pub data_segs_out: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Shift of windows received.
    pub snd_wscale: u8,
    /// Shift of windows sent.
    pub rcv_wscale: u8,
    /// Windows are scaled: asked for, or agreed on, perhaps by 0 (`wscale_ok`).
    pub wscale_ok: bool,
    /// Timestamps were agreed on.
    pub ts_ok: bool,
    /// SACK was agreed on.
    pub sack_ok: bool,
    /// Explicit congestion notification: what is agreed on and owed.
    pub ecn: Ecn,
    /// Type of service of what is sent.
    pub tos: u8,
    /// The device that the path leads to.
    pub dev: u8,
    /// Acknowledgements that go out at once, to help a peer in slow start (`icsk_ack.quick`).
    pub quick: u8,
    /// Data flows both ways in turns: acknowledgements wait for data (`pingpong`).
    pub pingpong: bool,
    /// Answers that make it so, as far as they have been given.
    pub pingpong_cnt: u8,
    /// Nagle's algorithm is off.
    pub nodelay: bool,
    /// Only full segments are sent.
    pub cork: bool,
    /// More was announced to come at once (MSG_MORE), and nothing gave occasion to send since.
    pub more: bool,
    /// What waits is to go now, once, whatever Nagle's algorithm says (`TCP_NAGLE_PUSH`).
    pub nagle_push: bool,
    /// Timeouts in a row (`icsk_retransmits`).
    pub retransmits: u8,
    /// Exponential backoff of the timer (`icsk_backoff`).
    pub backoff: u8,
    /// Probes in a row that were not answered.
    pub probes_out: u8,
    /// The flight filled the congestion window in this round.
    pub cwnd_limited: bool,
    /// F-RTO: the first ACKs after a timeout decide whether it was spurious.
    pub frto: bool,
    /// F-RTO: new data goes first (RFC 5682 §3.1, step 2b).
    pub frto_new: bool,
    /// All of the shard's TCP sockets together hold so much that none may grow.
    pub pressure: bool,
    /// They hold too much: this one may have its least, and no more.
    pub short: bool,
    /// The application set `sndbuf`: it grows no more.
    pub sndbuf_locked: bool,
    /// The application set `rcvbuf`: it grows no more.
    pub rcvbuf_locked: bool,
    /// Whether that probe was a retransmission.
    pub tlp_retrans: bool,
    /// RACK: the reordering window is so many quarters of the least round trip.
    pub rack_reo_mult: u8,
    /// RACK: after so many more recoveries it is one again.
    pub rack_persist: u8,
    /// RACK: something arrived since losses were looked for.
    pub rack_advanced: bool,
    /// Whether the peer is probed when it is silent.
    pub keepalive: bool,
    /// Tail loss probe: SND.NXT when it was sent, while it is not answered.
    pub tlp_high_seq: Option<Seq>,
    /// RACK: reports of duplicates count again when this is acknowledged.
    pub rack_dsack_round: Option<Seq>,
    /// Undo is possible while this is set: SND.UNA when recovery began.
    pub undo_marker: Option<Seq>,
    /// Slow-start threshold in segments.
    pub snd_ssthresh: u32,
    /// Segments acknowledged towards the next increase of the window.
    pub snd_cwnd_cnt: u32,
    /// The most segments that were in flight in this round: only a used window grows.
    pub max_packets_out: u32,
    /// The round of `max_packets_out` ends here.
    pub cwnd_usage_seq: Seq,
    /// Duplicate threshold, in segments.
    pub reordering: u32,
    /// How often reordering was seen on this connection.
    pub reord_seen: u32,
    /// The slope of the receive window while it opens, in bytes (`rcv_ssthresh`).
    pub rcv_ssthresh: u32,
    /// Upper limit of the window, in bytes.
    pub window_clamp: u32,
    /// Limit of received true size, in bytes (`sk_rcvbuf`).
    pub rcvbuf: u32,
    /// Bytes that the application has read: the sequence number of the next one.
    pub copied_seq: Seq,
    /// Limit of the send queue, in bytes (`sk_sndbuf`).
    pub sndbuf: u32,
    /// Receive buffer tuning: bytes read in the last round trip.
    pub rcvq_space: u32,
    /// Receive buffer tuning: `copied_seq` when this round trip began.
    pub rcvq_seq: Seq,
    /// Receive buffer tuning: when this round trip began.
    pub rcvq_at: Instant,
    /// Receiver's estimate of the round trip in microseconds, times 8; 0 = none.
    pub rcv_rtt_us8: u32,
    /// The echoed timestamp that it was last measured by.
    pub rcv_rtt_tsecr: u32,
    /// The round of the receiver's estimate ends here.
    pub rcv_rtt_seq: Seq,
    /// Our timestamp clock at the first retransmission (Eifel); 0 = none.
    pub retrans_stamp: u32,
    /// When that round began.
    pub rcv_rtt_at: Instant,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes acknowledged.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// When the first of the timeouts or probes in a row happened.
    pub stall_at: Instant,
    /// Which algorithm, and its state.
    pub cc: Cc,

    // What is seldom looked at.
    /// When it came from another shard.
    pub arrived_at: Instant,
    /// Largest payload that the peer takes, in bytes, options not subtracted.
    pub mss_clamp: u16,
    /// The path's MTU in bytes.
    pub pmtu: u32,
    /// Retransmissions not yet reported as duplicates (DSACK).
    pub undo_retrans: i32,
    /// Segments ever reported as duplicates.
    pub dsack_dups: u32,
    /// Congestion window before the reduction.
    pub prior_cwnd: u32,
    /// Slow-start threshold before the reduction.
    pub prior_ssthresh: u32,
    /// Segments delivered in this recovery (PRR).
    pub prr_delivered: u32,
    /// Segments sent in this recovery (PRR).
    pub prr_out: u32,
    /// When an out-of-window segment was last answered.
    pub oow_ack_at: Instant,
    /// What the least is for the send queue (`tcp_wmem[0]`), in bytes; noted when `short` is.
    pub wmem_min: u32,
    /// The listener, until the connection is accepted.
    pub listener: Option<SocketId>,
    /// ISS: our first sequence number.
    pub iss: Seq,
    /// IRS: the peer's first sequence number.
    pub irs: Seq,
    /// Microseconds that a reader that found nothing looks at the devices; `None` = as the knob says.
    pub busy_poll: Option<u32>,
    /// Limit of unacknowledged time in milliseconds; 0 = none.
    pub user_timeout_ms: u32,
    /// Segments ever retransmitted.
    pub total_retrans: u32,
    /// Retransmission timeouts, those of SYNs included.
    pub total_rto: u16,
    /// How often timeouts in a row began.
    pub total_rto_recoveries: u16,
    /// Milliseconds spent in them.
    pub total_rto_ms: u32,
    /// Packets that came out of order.
    pub rcv_ooopack: u32,
    /// Of these, those whose acknowledgements echoed a mark of congestion.
    pub delivered_ce: u32,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
}

impl Tcb {
    /// Bytes of what a timer looks at, from the beginning.
    pub const TIMERS: usize = offset_of!(Tcb, rcv_tstamp);
    /// Bytes of what segments and acknowledgements look at, from the beginning.
    pub const HOT: usize = offset_of!(Tcb, arrived_at);
}

const _: () = assert!(Tcb::TIMERS <= 384 - 8 && Tcb::HOT <= 832 - 8, "it lies in few cache lines");
const _: () = assert!(Arena::<Tcb>::PLACE <= 960, "an idle connection costs at most 1 KiB");

/// Initial congestion window in segments (RFC 6928).
pub(crate) const TCP_INIT_CWND: u32 = 10;
/// First retransmission timeout in microseconds (RFC 6298 §2.1).
pub(crate) const TCP_TIMEOUT_INIT_US: u32 = 1_000_000;
/// What the first of several timeouts counts as, in microseconds, where a time stands for a number of
/// tries (`TCP_RTO_MIN`).
pub(crate) const TCP_RTO_MIN_US: u32 = 200_000;
/// Largest retransmission timeout in microseconds.
pub(crate) const TCP_RTO_MAX_US: u32 = 120_000_000;
/// Slow-start threshold that does not exist yet.
pub(crate) const TCP_INFINITE_SSTHRESH: u32 = 0x7fff_ffff;
/// MSS where the peer names none (RFC 9293 §3.7.1).
pub(crate) const TCP_MSS_DEFAULT: u16 = 536;
/// The least MSS that is believed.
pub(crate) const TCP_MIN_SND_MSS: u16 = 48;

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
