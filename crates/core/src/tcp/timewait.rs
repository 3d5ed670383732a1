//! TIME_WAIT in compact form: what is left of a connection until its old segments are gone.
//!
//! Linux: net/ipv4/tcp_minisocks.c `tcp_time_wait`, `tcp_timewait_state_process`
//! RFCs:  9293 §3.10.7.4 (TIME-WAIT), 1337, 6191 (reuse by timestamps)
//! drops: NoSocket, TcpPaws, TcpReset, TcpInvalidSequence

use super::demux::Ref;
use super::input::Segment;
use super::output::{Bare, send_bare, tcp_send_ack};
use super::{State, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::Shard;
use crate::sock::error::TcpError;
use crate::table::{Reason, count::id};
use crate::time::{Instant, SEC};
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;

/// How long an entry stays (`TCP_TIMEWAIT_LEN`).
pub(crate) const TCP_TIMEWAIT_NS: u64 = 60 * SEC;

/// An entry (Linux: `struct tcp_timewait_sock`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWait {
    pub tuple: Tuple,
    pub hash: u32,
    pub snd_nxt: Seq,
    pub rcv_nxt: Seq,
    /// The window as it is announced, scaled down.
    pub rcv_wnd: u16,
    /// The peer's newest timestamp; `None` = the connection had none.
    pub ts_recent: Option<u32>,
    pub ts_offset: u32,
    /// When `ts_recent` was noted, in seconds.
    pub ts_recent_s: u32,
    pub tos: u8,
    pub expires: Instant,
}

// With its share of the look-up table (up to 16 bytes) and of the wheel (24).
const _: () = assert!(size_of::<Option<TimeWait>>() + 8 + 16 + 24 <= 136);

impl Shard {
    /// Turns a connection into a TIME_WAIT entry (`tcp_time_wait`). What was received can still be
    /// read until the application closes the socket.
    pub(crate) fn tcp_time_wait(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = tcp.conns.at_mut(index) else { return };
        if tp.ack_now {
            tcp_send_ack(net, tp);
        }
        if (tcp.tws.len() as u64) < net.knobs.tcp_max_tw_buckets && tp.hashed {
            let tw = TimeWait {
                tuple: tp.tuple,
                hash: tp.hash,
                snd_nxt: tp.snd_nxt,
                rcv_nxt: tp.rcv_nxt,
                rcv_wnd: (tp.rcv_wnd >> tp.rcv_wscale).min(65535) as u16,
                ts_recent: tp.ts_ok.then_some(tp.ts_recent),
                ts_offset: tp.ts_offset,
                ts_recent_s: (tp.ts_recent_at.ns() / SEC) as u32,
                tos: tp.tos,
                expires: net.now.plus(TCP_TIMEWAIT_NS),
            };
            let (at, _) = tcp.tws.insert(tw);
            tcp.demux.replace(tw.hash, Ref::Conn(index), Ref::Tw(at));
            tcp.tw_timers.arm(at, tw.expires);
            tp.hashed = false;
            tcp.hashed -= 1;
        } else if tp.hashed {
            net.counts.inc(id::TcpExtTCPTimeWaitOverflow);
        }
        tp.done(net, None);
        self.tcp_settle(index);
    }

    /// Removes an entry (`inet_twsk_kill`).
    pub(crate) fn tw_kill(&mut self, at: u32) -> Option<TimeWait> {
        let tw = self.tw_unlink(at)?;
        self.net.flow_ends(&tw.tuple.flow_key());
        Some(tw)
    }

    /// Takes an entry out of this shard's tables.
    pub(super) fn tw_unlink(&mut self, at: u32) -> Option<TimeWait> {
        let tw = self.tcp.tws.remove(at)?;
        self.tcp.demux.remove(tw.hash, Ref::Tw(at));
        self.tcp.tw_timers.cancel(at);
        Some(tw)
    }

    /// The entry's time may be over.
    pub(crate) fn tw_timer(&mut self, at: u32) {
        let Some(tw) = self.tcp.tws.at(at) else { return };
        if tw.expires > self.net.now {
            self.tcp.tw_timers.arm(at, tw.expires);
            return;
        }
        self.tw_kill(at);
        self.net.counts.inc(id::TcpExtTW);
    }

    /// A segment for an entry.
    pub(crate) fn tcp_timewait_state_process(
        &mut self,
        at: u32,
        seg: &Segment,
        pkt: Pkt,
    ) -> Verdict {
        let now = self.net.now;
        let Some(tw) = self.tcp.tws.at_mut(at) else { return Verdict::Drop(pkt, Reason::NoSocket) };
        let old_ts = match (seg.opts.ts, tw.ts_recent) {
            (Some((val, _)), Some(recent)) => Seq(val).lt(Seq(recent)),
            _ => false,
        };
        let in_window = seg.seq.within(tw.rcv_nxt, tw.rcv_nxt + tw.rcv_wnd as u32)
            || seg.end_seq == seg.seq && seg.seq == tw.rcv_nxt;
        if !old_ts && seg.flags.rst() && seg.seq == tw.rcv_nxt {
            // As Linux without tcp_rfc1337: the peer has nothing left to say.
            self.tw_kill(at);
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        if seg.flags.rst() {
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        let newer_ts = match (seg.opts.ts, tw.ts_recent) {
            (Some((val, _)), Some(recent)) => Seq(val).gt(Seq(recent)),
            _ => false,
        };
        if seg.flags.syn() && !seg.flags.ack() && !old_ts && (seg.seq.gt(tw.rcv_nxt) || newer_ts) {
            // A new connection between the same ends (RFC 6191): it begins beyond all old numbers.
            let iss = tw.snd_nxt + 65535 + 2;
            let (tuple, hash) = (tw.tuple, tw.hash);
            self.tw_kill(at);
            return self.tcp_listen_rcv(&tuple, hash, seg, pkt, Some(iss));
        }
        if !old_ts
            && in_window
            && let Some((val, _)) = seg.opts.ts
        {
            tw.ts_recent = tw.ts_recent.map(|_| val);
            tw.ts_recent_s = (now.ns() / SEC) as u32;
        }
        if !old_ts && seg.flags.fin() && seg.end_seq == tw.rcv_nxt {
            // The peer missed our last acknowledgement: it needs the full time again.
            tw.expires = now.plus(TCP_TIMEWAIT_NS);
        }
        // RFC 9293 §3.10.7.4: what is not acceptable is answered; so is data, which can only be old.
        if seg.flags.ack() && seg.end_seq == seg.seq && seg.seq == tw.rcv_nxt {
            self.net.pool.free(pkt);
            return Verdict::Taken;
        }
        self.tw_answer(at);
        let reason = if old_ts { Reason::TcpPaws } else { Reason::TcpInvalidSequence };
        Verdict::Drop(pkt, reason)
    }

    fn tw_answer(&mut self, at: u32) {
        let Some(tw) = self.tcp.tws.at(at) else { return };
        let clock = (self.net.now.ms() as u32).wrapping_add(tw.ts_offset);
        let opts = TcpOptions { ts: tw.ts_recent.map(|ts| (clock, ts)), ..TcpOptions::NONE };
        let (seq, ack, window, tos) = (tw.snd_nxt, tw.rcv_nxt, tw.rcv_wnd, tw.tos);
        let tuple = tw.tuple;
        send_bare(
            &mut self.net,
            &tuple,
            &Bare { seq, ack, flags: TcpFlags::ACK, window, tos, opts },
        );
    }

    /// Whether a connection that we open may take the place of an entry: a second after its last
    /// segment the peer's clock tells old from new (RFC 6191; `tcp_twsk_unique`). The number to begin at.
    pub(crate) fn tw_reuse(&mut self, at: u32) -> Result<Seq, TcpError> {
        let now_s = (self.net.now.ns() / SEC) as u32;
        let Some(tw) = self.tcp.tws.at(at) else { return Err(TcpError::InUse) };
        if tw.ts_recent.is_none() || now_s <= tw.ts_recent_s.saturating_add(1) {
            return Err(TcpError::InUse);
        }
        let iss = tw.snd_nxt + 65535 + 2;
        self.tw_kill(at);
        self.net.counts.inc(id::TcpExtTWRecycled);
        Ok(iss)
    }
}

impl TimeWait {
    pub(crate) fn state(&self) -> State {
        State::TimeWait
    }
}
