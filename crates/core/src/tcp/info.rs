//! What can be read about connections: TCP_INFO, `/proc/net/tcp`, `/proc/net/sockstat`.

use std::net::SocketAddr;

use super::timer::Rtx;
use super::{Earlier, Sockets, State, Tcb};
use crate::shard::Net;
use crate::sock::SocketId;
use crate::sock::error::TcpError;
use crate::time::{Instant, MS};

/// A reading of one connection (Linux: `struct tcp_info`, names without `tcpi_`).
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// State.
    pub state: State,
    /// Congestion state: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
    pub ca_state: u8,
    /// Congestion control.
    pub ca_name: &'static str,
    /// Consecutive retransmission timeouts.
    pub retransmits: u8,
    /// Unanswered probes (zero window, keepalive).
    pub probes: u8,
    /// Exponential backoff of the timer.
    pub backoff: u8,
    /// Shift of the windows that the peer announces.
    pub snd_wscale: u8,
    /// Shift of the windows that we announce.
    pub rcv_wscale: u8,
    /// Whether timestamps are in use.
    pub opt_timestamps: bool,
    /// Whether SACK is in use.
    pub opt_sack: bool,
    /// Retransmission timeout in microseconds.
    pub rto_us: u32,
    /// Smoothed round trip in microseconds.
    pub rtt_us: u32,
    /// Mean deviation of the round trip in microseconds.
    pub rttvar_us: u32,
    /// Least round trip in microseconds; 0 = none measured.
    pub min_rtt_us: u32,
    /// Receiver's estimate of the round trip in microseconds.
    pub rcv_rtt_us: u32,
    /// Congestion window in segments.
    pub snd_cwnd: u32,
    /// Slow-start threshold in segments.
    pub snd_ssthresh: u32,
    /// Payload bytes of a full segment that we send.
    pub snd_mss: u32,
    /// Payload bytes of a full segment that the peer seems to send.
    pub rcv_mss: u32,
    /// Payload bytes of a full segment that we announced.
    pub advmss: u32,
    /// Path MTU in bytes.
    pub pmtu: u32,
    /// Segments sent and not acknowledged.
    pub unacked: u32,
    /// Of these, selectively acknowledged.
    pub sacked: u32,
    /// Of these, thought to be lost.
    pub lost: u32,
    /// Of these, retransmitted and not acknowledged.
    pub retrans: u32,
    /// Segments ever retransmitted.
    pub total_retrans: u32,
    /// Reordering that was seen, in segments.
    pub reordering: u32,
    /// Bytes acknowledged by the peer.
    pub bytes_acked: u64,
    /// Bytes received in order.
    pub bytes_received: u64,
    /// Bytes sent, retransmissions included.
    pub bytes_sent: u64,
    /// Bytes retransmitted.
    pub bytes_retrans: u64,
    /// Segments received.
    pub segs_in: u32,
    /// Segments sent.
    pub segs_out: u32,
    /// Segments delivered to the peer.
    pub delivered: u32,
    /// Bytes queued and not yet sent.
    pub notsent_bytes: u32,
    /// Bytes that the application takes in a round trip.
    pub rcv_space: u32,
    /// Limit of the window that we announce, in bytes.
    pub rcv_ssthresh: u32,
    /// The window that we announced, in bytes.
    pub rcv_wnd: u32,
    /// The window that the peer announced, in bytes.
    pub snd_wnd: u32,
    /// Bytes of receive buffer, true size.
    pub rcvbuf: u32,
    /// Bytes of send buffer.
    pub sndbuf: u32,
    /// Packets in the out-of-order queue.
    pub rcv_ooopack: u32,
    /// Why it failed.
    pub error: Option<TcpError>,
}

/// One line of `/proc/net/tcp`.
#[derive(Clone, Copy, Debug)]
pub struct SockRow {
    /// Its name; `None` for TIME_WAIT, which the application can not name.
    pub id: Option<SocketId>,
    /// State.
    pub state: State,
    /// Its address.
    pub local: SocketAddr,
    /// The peer's; unspecified for listeners.
    pub remote: SocketAddr,
    /// Bytes to be read; on listeners, connections to be accepted.
    pub rx_queue: u64,
    /// Bytes not acknowledged; on listeners, the most connections that may wait.
    pub tx_queue: u64,
    /// Which timer runs, as in `/proc/net/tcp`: 0 none, 1 retransmission, 2 keepalive, 3 TIME_WAIT, 4 zero-window probe.
    pub timer: u8,
    /// Milliseconds until it fires.
    pub timer_ms: u64,
    /// Timeouts in a row.
    pub retransmits: u8,
    /// The application's number.
    pub user: u64,
}

/// The TCP line of `/proc/net/sockstat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SockStat {
    /// Listeners and connections.
    pub inuse: u64,
    /// Connections that the application has closed already.
    pub orphan: u64,
    /// TIME_WAIT entries.
    pub tw: u64,
    /// Sockets that hold memory.
    pub alloc: u64,
    /// Memory of queues in pages of 4096 bytes.
    pub mem: u64,
}

impl Tcb {
    pub(crate) fn info(&self) -> TcpInfo {
        let measured = |us: u32| if us == u32::MAX { 0 } else { us };
        TcpInfo {
            state: self.state,
            ca_state: self.ca_state as u8,
            ca_name: self.cc.name(),
            retransmits: self.retransmits,
            probes: self.probes_out,
            backoff: self.backoff,
            snd_wscale: self.snd_wscale,
            rcv_wscale: self.rcv_wscale,
            opt_timestamps: self.ts_ok,
            opt_sack: self.sack_ok,
            rto_us: self.rto_us,
            rtt_us: self.srtt_us8 >> 3,
            rttvar_us: self.mdev_us4 >> 2,
            min_rtt_us: measured(self.min_rtt_us),
            rcv_rtt_us: self.rcv_rtt_us8 >> 3,
            snd_cwnd: self.snd_cwnd,
            snd_ssthresh: self.snd_ssthresh,
            snd_mss: self.mss_cache as u32,
            rcv_mss: self.rcv_mss as u32,
            advmss: self.advmss as u32,
            pmtu: self.pmtu,
            unacked: self.packets_out,
            sacked: self.sacked_out,
            lost: self.lost_out,
            retrans: self.retrans_out,
            total_retrans: self.total_retrans,
            reordering: self.reordering,
            bytes_acked: self.bytes_acked,
            bytes_received: self.bytes_received,
            bytes_sent: self.bytes_sent,
            bytes_retrans: self.bytes_retrans,
            segs_in: self.segs_in,
            segs_out: self.segs_out,
            delivered: self.delivered,
            notsent_bytes: if self.unsent() { self.sndq.end - self.snd_nxt } else { 0 },
            rcv_space: self.rcvq_space,
            rcv_ssthresh: self.rcv_ssthresh,
            rcv_wnd: self.rcv_wnd,
            snd_wnd: self.snd_wnd,
            rcvbuf: self.rcvbuf,
            sndbuf: self.sndbuf,
            rcv_ooopack: self.rcvq.ooo_len() as u32,
            error: self.err,
        }
    }

    fn row(&self, now: Instant) -> SockRow {
        let (timer, at) = match self.rtx_kind {
            Rtx::Probe0 => (4, self.rtx_at),
            Rtx::None if self.keep_at != Instant::NEVER => (2, self.keep_at),
            Rtx::None => (0, now),
            _ => (1, self.rtx_at),
        };
        SockRow {
            id: (!self.orphan).then_some(self.id),
            state: self.state,
            local: self.tuple.local(),
            remote: self.tuple.remote(),
            rx_queue: self.rcvq.bytes() as u64,
            tx_queue: self.queued() as u64,
            timer,
            timer_ms: at.min2(Instant::from_ns(i64::MAX as u64)).since(now) / MS,
            retransmits: self.retransmits,
            user: self.user,
        }
    }
}

impl Sockets {
    /// Listeners, half-open connections, connections, TIME_WAIT.
    pub(crate) fn rows<'a>(&'a self, net: &'a Net) -> impl Iterator<Item = SockRow> + 'a {
        let now = net.now;
        let empty = |state, local, remote| SockRow {
            id: None,
            state,
            local,
            remote,
            rx_queue: 0,
            tx_queue: 0,
            timer: 0,
            timer_ms: 0,
            retransmits: 0,
            user: 0,
        };
        let listeners = self.listeners.iter().map(move |(_, _, l)| {
            let local = l.local();
            let nobody = SocketAddr::new(local.ip(), 0);
            SockRow {
                id: Some(l.id),
                rx_queue: l.accept.len() as u64,
                tx_queue: l.limit(net),
                user: l.user,
                ..empty(State::Listen, local, SocketAddr::new([0, 0, 0, 0].into(), nobody.port()))
            }
        });
        let reqs = self.reqs.iter().map(move |(_, _, r)| SockRow {
            timer: 1,
            timer_ms: r.due.since(now) / MS,
            retransmits: r.retries,
            ..empty(State::SynRecv, r.tuple.local(), r.tuple.remote())
        });
        let conns = self.conns.iter().filter(|(_, _, c)| c.state != State::Close);
        let conns = conns.map(move |(_, _, c)| c.row(now));
        let tws = self.tws.iter().map(move |(_, _, t)| SockRow {
            timer: 3,
            timer_ms: t.expires.since(now) / MS,
            ..empty(t.state(), t.tuple.local(), t.tuple.remote())
        });
        listeners.chain(reqs).chain(conns).chain(tws)
    }
}
