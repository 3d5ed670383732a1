//! What can be read about a connection: TCP_INFO.
//!
//! Linux: include/uapi/linux/tcp.h `struct tcp_info`; net/ipv4/tcp.c `tcp_get_info`

use super::cc::Cc;
use super::ecn::Ecn;
use super::pacing::pacing_rate;
use super::{State, Tcb, timer};
use crate::shard::Net;
use crate::sock::error::TcpError;
use crate::time::{Instant, MS};

/// What BBR believes of the path (TCP_CC_INFO; `ss`: `bbr:(bw:…,mrtt:…)`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BbrInfo {
    /// Bytes a second that the path delivers.
    pub bw: u64,
    /// Microseconds that a round trip takes when nothing waits; 0 = none measured.
    pub min_rtt_us: u32,
    /// What it is at: `Startup`, `Drain`, `ProbeBW_DOWN`, `ProbeBW_CRUISE`, `ProbeBW_REFILL`,
    /// `ProbeBW_UP`, `ProbeRTT`.
    pub state: &'static str,
}

/// A reading of one connection (Linux 6.18: `struct tcp_info`, names without `tcpi_`, in its units). What
/// stands behind `accecn_opt_seen` the kernel tells by other calls.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// State.
    pub state: State,
    /// Congestion state: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
    pub ca_state: u8,
    /// Consecutive retransmission timeouts.
    pub retransmits: u8,
    /// Unanswered probes (zero window, keepalive).
    pub probes: u8,
    /// Exponential backoff of the timer.
    pub backoff: u8,
    /// What was agreed on: [`TcpInfo::TIMESTAMPS`], [`TcpInfo::SACK`], [`TcpInfo::WSCALE`], [`TcpInfo::ECN`], …
    pub options: u8,
    /// Shift of the windows that the peer announces.
    pub snd_wscale: u8,
    /// Shift of the windows that we announce.
    pub rcv_wscale: u8,
    /// Whether the application held the delivery rate back; false where that is not measured.
    pub delivery_rate_app_limited: bool,
    /// Why Fast Open failed: 0 = it did not.
    pub fastopen_client_fail: u8,
    /// Retransmission timeout in microseconds, with its backoff.
    pub rto: u32,
    /// Delay of acknowledgements in microseconds; 0 before data came.
    pub ato: u32,
    /// Payload bytes of a full segment that we send.
    pub snd_mss: u32,
    /// Payload bytes of a full segment that the peer seems to send.
    pub rcv_mss: u32,
    /// Segments sent and not acknowledged; of a listener, connections to be accepted.
    pub unacked: u32,
    /// Of these, selectively acknowledged; of a listener, how many may wait.
    pub sacked: u32,
    /// Of these, thought to be lost.
    pub lost: u32,
    /// Of these, retransmitted and not acknowledged.
    pub retrans: u32,
    /// As in Linux since 4.15 always 0.
    pub fackets: u32,
    /// Milliseconds since data was last sent.
    pub last_data_sent: u32,
    /// As in Linux always 0.
    pub last_ack_sent: u32,
    /// Milliseconds since data was last received.
    pub last_data_recv: u32,
    /// Milliseconds since anything was last acknowledged.
    pub last_ack_recv: u32,
    /// Path MTU in bytes.
    pub pmtu: u32,
    /// Limit of the window that we announce, in bytes.
    pub rcv_ssthresh: u32,
    /// Smoothed round trip in microseconds.
    pub rtt: u32,
    /// Mean deviation of the round trip in microseconds.
    pub rttvar: u32,
    /// Slow-start threshold in segments.
    pub snd_ssthresh: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Payload bytes of a full segment that we announced.
    pub advmss: u32,
    /// Reordering that was seen, in segments.
    pub reordering: u32,
    /// Receiver's estimate of the round trip in microseconds.
    pub rcv_rtt: u32,
    /// Bytes that the application takes in a round trip.
    pub rcv_space: u32,
    /// Segments ever retransmitted.
    pub total_retrans: u32,
    /// Bytes a second at which is sent, or would be if the connection were paced;
    /// `u64::MAX` = as fast as may be.
    pub pacing_rate: u64,
    /// The limit of that which the application set; `u64::MAX` = none.
    pub max_pacing_rate: u64,
    /// Bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments received.
    pub segs_in: u32,
    /// Bytes queued and not yet sent.
    pub notsent_bytes: u32,
    /// Least round trip in microseconds; `u32::MAX` = none measured.
    pub min_rtt: u32,
    /// Segments with data received.
    pub data_segs_in: u32,
    /// Segments with data sent.
    pub data_segs_out: u32,
    /// Bytes a second that arrived lately; 0 = not measured: only BBR needs it.
    pub delivery_rate: u64,
    /// Microseconds during which something was to be sent or acknowledged.
    pub busy_time: u64,
    /// Of these, held back by the peer's window.
    pub rwnd_limited: u64,
    /// Of these, held back by the send buffer.
    pub sndbuf_limited: u64,
    /// Segments delivered to the peer.
    pub delivered: u32,
    /// Of these, with a congestion mark.
    pub delivered_ce: u32,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
    /// Segments that the peer reported as duplicates.
    pub dsack_dups: u32,
    /// How often reordering was seen.
    pub reord_seen: u32,
    /// Packets that came out of order.
    pub rcv_ooopack: u32,
    /// The window that the peer announced, in bytes.
    pub snd_wnd: u32,
    /// The window that we announced, in bytes.
    pub rcv_wnd: u32,
    /// How often another path was tried. Nothing here does: 0.
    pub rehash: u32,
    /// Retransmission timeouts, those of SYNs included.
    pub total_rto: u16,
    /// How often timeouts in a row began.
    pub total_rto_recoveries: u16,
    /// Milliseconds spent in them.
    pub total_rto_time: u32,
    /// Packets with a congestion mark that were received. AccECN: 0.
    pub received_ce: u32,
    /// AccECN, which is not spoken here: 0.
    pub delivered_e1_bytes: u32,
    /// AccECN: 0.
    pub delivered_e0_bytes: u32,
    /// AccECN: 0.
    pub delivered_ce_bytes: u32,
    /// AccECN: 0.
    pub received_e1_bytes: u32,
    /// AccECN: 0.
    pub received_e0_bytes: u32,
    /// AccECN: 0.
    pub received_ce_bytes: u32,
    /// AccECN: 0.
    pub accecn_fail_mode: u16,
    /// AccECN: 0.
    pub accecn_opt_seen: u16,
    /// BBR's model; `None` with another congestion control.
    pub bbr: Option<BbrInfo>,
    /// DCTCP's smoothed share of marked packets in 1/1024 (TCP_CC_INFO); `None` with another
    /// congestion control.
    pub dctcp_alpha: Option<u32>,
    /// Congestion control (TCP_CONGESTION).
    pub ca_name: &'static str,
    /// Bytes of receive buffer, true size (SO_RCVBUF).
    pub rcvbuf: u32,
    /// Bytes of send buffer (SO_SNDBUF).
    pub sndbuf: u32,
    /// Why it failed.
    pub error: Option<TcpError>,
}

/// Bytes of the kernel's record.
pub const TCP_INFO_LEN: usize = 280;

impl TcpInfo {
    /// Timestamps are in use (`TCPI_OPT_TIMESTAMPS`).
    pub const TIMESTAMPS: u8 = 1;
    /// SACK is in use (`TCPI_OPT_SACK`).
    pub const SACK: u8 = 2;
    /// Windows are scaled (`TCPI_OPT_WSCALE`).
    pub const WSCALE: u8 = 4;
    /// ECN was agreed on (`TCPI_OPT_ECN`).
    pub const ECN: u8 = 8;
    /// A packet with an ECN codepoint was received (`TCPI_OPT_ECN_SEEN`).
    pub const ECN_SEEN: u8 = 16;
    /// The data in our SYN was acknowledged (`TCPI_OPT_SYN_DATA`).
    pub const SYN_DATA: u8 = 32;

    /// A record of which nothing is known but the state.
    pub(crate) fn of(state: State) -> TcpInfo {
        TcpInfo {
            state,
            ca_state: 0,
            retransmits: 0,
            probes: 0,
            backoff: 0,
            options: 0,
            snd_wscale: 0,
            rcv_wscale: 0,
            delivery_rate_app_limited: false,
            fastopen_client_fail: 0,
            rto: 0,
            ato: 0,
            snd_mss: 0,
            rcv_mss: 0,
            unacked: 0,
            sacked: 0,
            lost: 0,
            retrans: 0,
            fackets: 0,
            last_data_sent: 0,
            last_ack_sent: 0,
            last_data_recv: 0,
            last_ack_recv: 0,
            pmtu: 0,
            rcv_ssthresh: 0,
            rtt: 0,
            rttvar: 0,
            snd_ssthresh: 0,
            snd_cwnd: 0,
            advmss: 0,
            reordering: 0,
            rcv_rtt: 0,
            rcv_space: 0,
            total_retrans: 0,
            pacing_rate: u64::MAX,
            max_pacing_rate: u64::MAX,
            bytes_acked: 0,
            bytes_received: 0,
            segs_out: 0,
            segs_in: 0,
            notsent_bytes: 0,
            min_rtt: 0,
            data_segs_in: 0,
            data_segs_out: 0,
            delivery_rate: 0,
            busy_time: 0,
            rwnd_limited: 0,
            sndbuf_limited: 0,
            delivered: 0,
            delivered_ce: 0,
            dctcp_alpha: None,
            bbr: None,
            bytes_sent: 0,
            bytes_retrans: 0,
            dsack_dups: 0,
            reord_seen: 0,
            rcv_ooopack: 0,
            snd_wnd: 0,
            rcv_wnd: 0,
            rehash: 0,
            total_rto: 0,
            total_rto_recoveries: 0,
            total_rto_time: 0,
            received_ce: 0,
            delivered_e1_bytes: 0,
            delivered_e0_bytes: 0,
            delivered_ce_bytes: 0,
            received_e1_bytes: 0,
            received_e0_bytes: 0,
            received_ce_bytes: 0,
            accecn_fail_mode: 0,
            accecn_opt_seen: 0,
            ca_name: "",
            rcvbuf: 0,
            sndbuf: 0,
            error: None,
        }
    }

    /// The record as the kernel lays it out (native byte order): `getsockopt(TCP_INFO)`.
    pub fn to_bytes(&self) -> [u8; TCP_INFO_LEN] {
        let mut out = Layout { bytes: [0; TCP_INFO_LEN], at: 0 };
        out.put(&[self.state as u8, self.ca_state, self.retransmits, self.probes]);
        out.put(&[self.backoff, self.options]);
        out.put(&[self.snd_wscale & 15 | self.rcv_wscale << 4]);
        let limited = u8::from(self.delivery_rate_app_limited);
        out.put(&[limited | (self.fastopen_client_fail & 3) << 1]);
        for v in [
            self.rto,
            self.ato,
            self.snd_mss,
            self.rcv_mss,
            self.unacked,
            self.sacked,
            self.lost,
            self.retrans,
            self.fackets,
            self.last_data_sent,
            self.last_ack_sent,
            self.last_data_recv,
            self.last_ack_recv,
            self.pmtu,
            self.rcv_ssthresh,
            self.rtt,
            self.rttvar,
            self.snd_ssthresh,
            self.snd_cwnd,
            self.advmss,
            self.reordering,
            self.rcv_rtt,
            self.rcv_space,
            self.total_retrans,
        ] {
            out.put(&v.to_ne_bytes());
        }
        for v in [self.pacing_rate, self.max_pacing_rate, self.bytes_acked, self.bytes_received] {
            out.put(&v.to_ne_bytes());
        }
        for v in [
            self.segs_out,
            self.segs_in,
            self.notsent_bytes,
            self.min_rtt,
            self.data_segs_in,
            self.data_segs_out,
        ] {
            out.put(&v.to_ne_bytes());
        }
        for v in [self.delivery_rate, self.busy_time, self.rwnd_limited, self.sndbuf_limited] {
            out.put(&v.to_ne_bytes());
        }
        for v in [self.delivered, self.delivered_ce] {
            out.put(&v.to_ne_bytes());
        }
        for v in [self.bytes_sent, self.bytes_retrans] {
            out.put(&v.to_ne_bytes());
        }
        for v in [
            self.dsack_dups,
            self.reord_seen,
            self.rcv_ooopack,
            self.snd_wnd,
            self.rcv_wnd,
            self.rehash,
        ] {
            out.put(&v.to_ne_bytes());
        }
        for v in [self.total_rto, self.total_rto_recoveries] {
            out.put(&v.to_ne_bytes());
        }
        for v in [
            self.total_rto_time,
            self.received_ce,
            self.delivered_e1_bytes,
            self.delivered_e0_bytes,
            self.delivered_ce_bytes,
            self.received_e1_bytes,
            self.received_e0_bytes,
            self.received_ce_bytes,
        ] {
            out.put(&v.to_ne_bytes());
        }
        for v in [self.accecn_fail_mode, self.accecn_opt_seen] {
            out.put(&v.to_ne_bytes());
        }
        assert_eq!(out.at, TCP_INFO_LEN, "the record has all of its fields");
        out.bytes
    }
}

/// Fields one behind the other; the kernel's record has no holes.
struct Layout {
    bytes: [u8; TCP_INFO_LEN],
    at: usize,
}

impl Layout {
    fn put(&mut self, field: &[u8]) {
        self.bytes[self.at..self.at + field.len()].copy_from_slice(field);
        self.at += field.len();
    }
}

impl Tcb {
    pub(crate) fn info(&self, net: &Net) -> TcpInfo {
        let now = net.now;
        let sample = self.sndq.rate.as_ref().map(|rate| rate.last);
        let ms = |at: Instant| (now.since(at) / MS).min(u32::MAX as u64) as u32;
        let on = |agreed: bool, bit: u8| if agreed { bit } else { 0 };
        let syn_data = self.opts().is_some_and(|o| o.syn_data_acked);
        let busy = self.chrono.read(now);
        TcpInfo {
            ca_state: self.ca_state as u8,
            ca_name: self.cc.name(),
            retransmits: self.retransmits,
            probes: self.probes_out,
            backoff: self.backoff,
            options: on(self.ts_ok, TcpInfo::TIMESTAMPS)
                | on(self.sack_ok, TcpInfo::SACK)
                | on(self.wscale_ok, TcpInfo::WSCALE)
                | on(self.ecn.has(Ecn::OK), TcpInfo::ECN)
                | on(self.ecn.has(Ecn::SEEN), TcpInfo::ECN_SEEN)
                | on(syn_data, TcpInfo::SYN_DATA),
            fastopen_client_fail: self.opts().map_or(0, |o| o.fastopen_client_fail),
            snd_wscale: self.snd_wscale,
            rcv_wscale: self.rcv_wscale,
            rto: (timer::rto_ns(self) / 1000) as u32,
            ato: u32::from(self.ato_ms) * 1000,
            snd_mss: self.mss_cache as u32,
            rcv_mss: self.rcv_mss as u32,
            unacked: self.packets_out,
            sacked: self.sacked_out,
            lost: self.lost_out,
            retrans: self.retrans_out,
            last_data_sent: ms(self.lsndtime),
            last_data_recv: ms(self.lrcvtime),
            last_ack_recv: ms(self.rcv_tstamp),
            pmtu: self.pmtu,
            rcv_ssthresh: self.rcv_ssthresh,
            rtt: self.srtt_us8 >> 3,
            rttvar: self.mdev_us4 >> 2,
            snd_ssthresh: self.snd_ssthresh,
            snd_cwnd: self.snd_cwnd,
            advmss: self.advmss as u32,
            reordering: self.reordering,
            rcv_rtt: self.rcv_rtt_us8 >> 3,
            rcv_space: self.rcvq_space,
            total_retrans: self.total_retrans,
            bytes_acked: self.bytes_acked,
            bytes_received: self.bytes_received,
            segs_out: self.segs_out,
            segs_in: self.segs_in,
            notsent_bytes: self.notsent(),
            min_rtt: self.min_rtt_us,
            data_segs_in: self.data_segs_in,
            data_segs_out: self.data_segs_out,
            busy_time: busy.iter().sum(),
            rwnd_limited: busy[1],
            sndbuf_limited: busy[2],
            delivered: self.delivered,
            delivered_ce: self.delivered_ce,
            pacing_rate: pacing_rate(net, self),
            max_pacing_rate: self.pace.as_ref().map_or(u64::MAX, |pace| pace.max),
            delivery_rate: sample.map_or(0, |(rate, _)| (rate * self.mss_cache as f64) as u64),
            delivery_rate_app_limited: sample.is_some_and(|(_, limited)| limited),
            bbr: match &self.cc {
                Cc::Bbr(bbr) => Some(BbrInfo {
                    bw: (bbr.bw() * self.mss_cache as f64) as u64,
                    min_rtt_us: bbr.min_rtt_us().unwrap_or(0),
                    state: bbr.mode().name(),
                }),
                _ => None,
            },
            dctcp_alpha: match &self.cc {
                Cc::Dctcp(dctcp) => Some(dctcp.alpha()),
                _ => None,
            },
            bytes_sent: self.bytes_sent,
            bytes_retrans: self.bytes_retrans,
            dsack_dups: self.dsack_dups,
            reord_seen: self.reord_seen,
            rcv_ooopack: self.rcv_ooopack,
            snd_wnd: self.snd_wnd,
            rcv_wnd: self.rcv_wnd,
            total_rto: self.total_rto,
            total_rto_recoveries: self.total_rto_recoveries,
            total_rto_time: self.total_rto_ms,
            rcvbuf: self.rcvbuf,
            sndbuf: self.sndbuf,
            error: self.err,
            ..TcpInfo::of(self.state)
        }
    }
}
