//! TIME_WAIT in compact form: what is left of a connection until its old segments are gone.
//!
//! Linux: net/ipv4/tcp_minisocks.c `tcp_time_wait`, `tcp_timewait_state_process`
//! RFCs:  9293 §3.10.7.4 (TIME-WAIT), 1337, 6191 (reuse by timestamps)
//! drops: NoSocket, TcpTwPaws, TcpReset, TcpInvalidSequence, TcpClose

use super::demux::Ref;
use super::input::{Segment, tcp_fin_time};
use super::md5::Md5Sig;
use super::output::{Bare, send_bare, send_reset, tcp_send_ack};
use super::{State, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::Shard;
use crate::sock::error::TcpError;
use crate::table::Reason;
use crate::table::count::{Id, Packets, id};
use crate::time::{Instant, SEC};
use crate::wire::TcpOptions;
use crate::wire::tcp::TcpFlags;

/// How long an entry stays (`TCP_TIMEWAIT_LEN`).
pub(crate) const TCP_TIMEWAIT_NS: u64 = 60 * SEC;

/// An entry that stays no longer counts as killed.
const TW_KILLED_NS: u64 = 4 * SEC;

/// An entry (Linux: `struct tcp_timewait_sock`).
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimeWait {
    pub tuple: Tuple,
    pub hash: u32,
    pub snd_nxt: Seq,
    pub rcv_nxt: Seq,
    /// The window as it is announced, scaled down.
    pub rcv_wnd: u16,
    /// The peer's newest timestamp, if `ts_ok`.
    pub ts_recent: u32,
    /// The connection had timestamps.
    pub ts_ok: bool,
    pub ts_offset: u32,
    /// When a segment last came, in milliseconds of a clock that wraps.
    pub last_ms: u32,
    /// When a segment out of the window was last answered, the same; 0 = never.
    pub oow_ms: u32,
    /// The peer has not closed its side yet (`tw_substate`).
    pub fin_wait2: bool,
    pub tos: u8,
    pub expires: Instant,
}

// With its share of the look-up table (up to 16 bytes) and of the wheel (24).
const _: () = assert!(size_of::<Option<TimeWait>>() + 8 + 16 + 24 <= 128);

impl Shard {
    /// Turns a connection into a TIME_WAIT entry (`tcp_time_wait`). What was received can still be
    /// read until the application closes the socket.
    pub(crate) fn tcp_time_wait(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = tcp.conns.at_mut(index) else { return };
        let fin_wait2 = tp.state == State::FinWait2;
        let stays =
            if fin_wait2 { tcp_fin_time(net, tp).min(TCP_TIMEWAIT_NS) } else { TCP_TIMEWAIT_NS };
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
                ts_recent: tp.ts_recent,
                ts_ok: tp.ts_ok,
                ts_offset: tp.ts_offset,
                last_ms: tp.ts_recent_at.ms() as u32,
                oow_ms: 0,
                fin_wait2,
                tos: tp.tos,
                expires: net.now.plus(stays),
            };
            let (at, _) = tcp.tws.insert(tw);
            let short = stays <= TW_KILLED_NS;
            net.counts.inc(if short { id::TcpExtTWKilled } else { id::TcpExtTW });
            if let Some(key) = tp.md5() {
                tcp.tw_keys.insert(at, Box::new(*key));
            }
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
        let (tw, _) = self.tw_unlink(at)?;
        self.net.flow_ends(&tw.tuple.flow_key());
        Some(tw)
    }

    /// Takes an entry out of this shard's tables, and the key that it signs by.
    pub(super) fn tw_unlink(&mut self, at: u32) -> Option<(TimeWait, Option<Box<Md5Sig>>)> {
        let tw = self.tcp.tws.remove(at)?;
        let keys = &mut self.tcp.tw_keys;
        let key = if keys.is_empty() { None } else { keys.remove(&at) };
        self.tcp.demux.remove(tw.hash, Ref::Tw(at));
        self.tcp.tw_timers.cancel(at);
        Some((tw, key))
    }

    /// Entries whose timers fired. None of them was looked at for a minute: their memory, and then their places
    /// in the look-up table, are on the way into the cache while others go.
    pub(super) fn tw_fired(&mut self, fired: &[u32]) {
        const AHEAD: usize = 8;
        for (n, at) in fired.iter().enumerate() {
            let tcp = &self.tcp;
            if let Some(far) = fired.get(n + 2 * AHEAD) {
                tcp.tws.prefetch(*far, true);
            }
            if let Some(tw) = fired.get(n + AHEAD).and_then(|near| tcp.tws.at(*near)) {
                tcp.demux.prefetch(tw.hash);
            }
            self.tw_timer(*at);
        }
    }

    /// The entry's time may be over.
    fn tw_timer(&mut self, at: u32) {
        let Some(tw) = self.tcp.tws.at(at) else { return };
        if tw.expires > self.net.now {
            self.tcp.tw_timers.arm(at, tw.expires);
            return;
        }
        self.tw_kill(at);
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
        let old_ts = match (seg.opts.ts, tw.ts_recent()) {
            (Some((val, _)), Some(recent)) => Seq(val).lt(Seq(recent)),
            _ => false,
        };
        let in_window = seg.seq.within(tw.rcv_nxt, tw.rcv_nxt + tw.rcv_wnd as u32)
            || seg.end_seq == seg.seq && seg.seq == tw.rcv_nxt;
        let rfc1337 = self.net.knobs.tcp_rfc1337;
        if !old_ts && seg.flags.rst() && seg.seq == tw.rcv_nxt && (tw.fin_wait2 || !rfc1337) {
            // The peer has nothing left to say (RFC 1337 calls it the assassination of TIME_WAIT).
            self.tw_kill(at);
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        if tw.fin_wait2 {
            return self.tw_fin_wait2(at, seg, pkt, old_ts);
        }
        if seg.flags.rst() {
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        let newer_ts = match (seg.opts.ts, tw.ts_recent()) {
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
            tw.ts_recent = val;
            tw.last_ms = now.ms() as u32;
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
        self.tw_answer_limited(at, id::TcpExtTCPACKSkippedTimeWait);
        let reason = if old_ts { Reason::TcpTwPaws } else { Reason::TcpInvalidSequence };
        Verdict::Drop(pkt, reason)
    }

    /// A segment while the peer has not closed its side: nobody here reads any more, but its FIN is
    /// waited for (`tcp_timewait_state_process` in FIN_WAIT_2).
    fn tw_fin_wait2(&mut self, at: u32, seg: &Segment, pkt: Pkt, old_ts: bool) -> Verdict {
        let Some(tw) = self.tcp.tws.at_mut(at) else { return Verdict::Drop(pkt, Reason::NoSocket) };
        let (left, right) = (tw.rcv_nxt, tw.rcv_nxt + tw.rcv_wnd as u32);
        let inside = seg.end_seq.gt(left) && seg.seq.lt(right) || seg.seq == left;
        if old_ts || !inside {
            self.tw_answer_limited(at, id::TcpExtTCPACKSkippedFinWait2);
            let reason = if old_ts { Reason::TcpTwPaws } else { Reason::TcpInvalidSequence };
            return Verdict::Drop(pkt, reason);
        }
        if seg.flags.rst() {
            self.tw_kill(at);
            return Verdict::Drop(pkt, Reason::TcpReset);
        }
        let newly = seg.flags.ack() && seg.end_seq.gt(left) && seg.end_seq != seg.seq;
        if !(newly || seg.flags.syn() && seg.seq.ge(left)) {
            self.net.pool.free(pkt);
            return Verdict::Taken;
        }
        if seg.flags.syn() || !seg.flags.fin() || seg.end_seq != left + 1 {
            // RFC 9293 §3.6.1: nobody will ever read this.
            let tuple = tw.tuple;
            let key = self.tcp.tw_keys.get(&at).map(|key| &**key);
            send_reset(&mut self.net, &tuple, seg, key);
            self.tw_kill(at);
            return Verdict::Drop(pkt, Reason::TcpClose);
        }
        let now = self.net.now;
        (tw.fin_wait2, tw.rcv_nxt) = (false, seg.end_seq);
        if let Some((val, _)) = seg.opts.ts {
            tw.ts_recent = val;
            tw.last_ms = now.ms() as u32;
        }
        tw.expires = now.plus(TCP_TIMEWAIT_NS);
        let expires = tw.expires;
        self.tcp.tw_timers.arm(at, expires);
        self.tw_answer(at);
        self.net.pool.free(pkt);
        Verdict::Taken
    }

    /// An answer to a segment out of the window, at a limited rate
    /// (`tcp_timewait_check_oow_rate_limit`).
    fn tw_answer_limited(&mut self, at: u32, skipped: Id<Packets>) {
        let Shard { net, tcp, .. } = self;
        let Some(tw) = tcp.tws.at_mut(at) else { return };
        let now_ms = net.now.ms() as u32;
        let every = net.knobs.tcp_invalid_ratelimit;
        if tw.oow_ms != 0 && u64::from(now_ms.wrapping_sub(tw.oow_ms)) < every {
            net.counts.inc(skipped);
            return;
        }
        tw.oow_ms = now_ms.max(1);
        self.tw_answer(at);
    }

    fn tw_answer(&mut self, at: u32) {
        let Some(tw) = self.tcp.tws.at(at) else { return };
        let clock = (self.net.now.ms() as u32).wrapping_add(tw.ts_offset);
        let opts = TcpOptions { ts: tw.ts_recent().map(|ts| (clock, ts)), ..TcpOptions::NONE };
        let (seq, ack, window, tos) = (tw.snd_nxt, tw.rcv_nxt, tw.rcv_wnd, tw.tos);
        let tuple = tw.tuple;
        let Shard { net, tcp, .. } = self;
        let key = tcp.tw_keys.get(&at).map(|key| &**key);
        send_bare(net, &tuple, &Bare { seq, ack, flags: TcpFlags::ACK, window, tos, opts, key });
    }

    /// Whether a connection that we open may take the place of an entry: a second after its last
    /// segment the peer's clock tells old from new (RFC 6191; `tcp_twsk_unique`). The number to begin at.
    pub(crate) fn tw_reuse(&mut self, at: u32) -> Result<Seq, TcpError> {
        let knobs = &self.net.knobs;
        let Some(tw) = self.tcp.tws.at(at) else { return Err(TcpError::InUse) };
        let silent_ms = (self.net.now.ms() as u32).wrapping_sub(tw.last_ms);
        let may = match knobs.tcp_tw_reuse {
            0 => false,
            2 => tw.tuple.local.is_loopback() || tw.tuple.remote.is_loopback(),
            _ => true,
        };
        if !may || !tw.ts_ok || u64::from(silent_ms) <= knobs.tcp_tw_reuse_delay {
            return Err(TcpError::InUse);
        }
        let iss = tw.snd_nxt + 65535 + 2;
        self.tw_kill(at);
        self.net.counts.inc(id::TcpExtTWRecycled);
        Ok(iss)
    }
}

impl TimeWait {
    fn ts_recent(&self) -> Option<u32> {
        self.ts_ok.then_some(self.ts_recent)
    }
    pub(crate) fn state(&self) -> State {
        if self.fin_wait2 { State::FinWait2 } else { State::TimeWait }
    }
}
