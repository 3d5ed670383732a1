//! The receive window: how much the peer may send, how the buffer grows with what the application
//! reads, and when an acknowledgement is due.
//!
//! before: [`super::rcvq`]   after: [`super::output`]
//! Linux:  net/ipv4/tcp_input.c `tcp_grow_window`, `tcp_rcv_space_adjust`, `tcp_rcvbuf_grow`,
//!         `__tcp_ack_snd_check`; tcp_output.c `__tcp_select_window`
//! RFCs:   9293 §3.8.6, §3.8.6.2.2 (silly window avoidance), §3.8.6.3 (delayed acknowledgements)

use super::{Earlier, State, Tcb};
use crate::shard::Net;
use crate::time::{Instant, MS};

/// What the delay of an acknowledgement begins with (`TCP_ATO_MIN`, `TCP_DELACK_MIN`).
pub(crate) const TCP_ATO_MIN_MS: u16 = 40;
/// The same in nanoseconds.
pub(crate) const TCP_DELACK_NS: u64 = TCP_ATO_MIN_MS as u64 * MS;
/// The longest delay (`TCP_DELACK_MAX`; RFC 9293 §3.8.6.3 allows 500 ms).
pub(crate) const TCP_DELACK_MAX_NS: u64 = 200 * MS;

impl Tcb {
    /// Opens the window while data is read as it comes (`tcp_grow_window`), and tells the peer at once. `held`:
    /// the memory that `len` bytes take.
    pub(super) fn grow_window(&mut self, net: &Net, len: u32, held: u32) {
        let most = self.window_clamp.min(self.rcvq.win_from_space(self.free_space()));
        if self.rcv_ssthresh >= most || self.pressure {
            return;
        }
        let step = match self.rcvq.win_from_space(held) <= len {
            true => 2 * self.advmss as u32,
            false => self.grow_thinly(net, len, held),
        };
        if step > 0 {
            self.rcv_ssthresh += step.max(2 * len).min(most - self.rcv_ssthresh);
            self.quick |= 1;
        }
    }

    /// Data that lies thinly in its memory opens the window as long as the largest buffer could hold as
    /// much of it (`__tcp_grow_window`).
    fn grow_thinly(&self, net: &Net, len: u32, held: u32) -> u32 {
        let most = net.knobs.tcp_rmem[2].min(1 << 30) as u32;
        let (mut window, mut worth) =
            (self.rcvq.win_from_space(most) / 2, self.rcvq.win_from_space(held) / 2);
        while self.rcv_ssthresh <= window {
            if worth <= len {
                return 2 * self.rcv_mss as u32;
            }
            (window, worth) = (window / 2, worth / 2);
        }
        0
    }

    /// The window may be as large as this from now on; what was announced already stands
    /// (`tcp_set_window_clamp`).
    pub(super) fn set_window_clamp(&mut self, clamp: u32) {
        self.window_clamp = clamp;
        self.rcv_ssthresh = match self.rcv_ssthresh > clamp {
            true => clamp,
            false => self.rcv_wnd.min(clamp).max(self.rcv_ssthresh),
        };
    }

    fn free_space(&self) -> u32 {
        self.rcvbuf.saturating_sub(self.rcvq.rmem().min(u32::MAX as usize) as u32)
    }

    /// The window to be announced, before the right edge is kept (`__tcp_select_window`).
    pub fn select_window(&mut self, net: &Net) -> u32 {
        let full = self.window_clamp.min(self.rcvq.win_from_space(self.rcvbuf));
        let mss = (self.rcv_mss as u32).min(full).max(1);
        let mut free = self.rcvq.win_from_space(self.free_space());
        let shrinks = self.window_shrinks(net);
        let unit = 1u32 << self.rcv_wscale;
        if shrinks {
            // Not one byte more than there is: what was announced does not stand.
            free = free / unit * unit;
        }
        if free < full / 2 {
            self.quick = 0;
            if self.pressure {
                self.rcv_ssthresh = self.rcv_ssthresh.min(4 * self.advmss as u32);
            }
            // Receiver's silly window avoidance (RFC 9293 §3.8.6.2.2): nothing, until it is worth it.
            if free < full >> 4 || free < mss {
                return 0;
            }
        }
        if shrinks && free <= self.rcv_ssthresh {
            return free;
        }
        free = free.min(self.rcv_ssthresh);
        if self.rcv_wscale > 0 {
            return free.next_multiple_of(unit);
        }
        // Without scaling: whole segments, unless that would make the window jump. A threshold that is less than
        // one segment must not close it for ever.
        let mss = mss.min(free).max(1);
        if i64::from(self.rcv_wnd) <= i64::from(free) - i64::from(mss) || self.rcv_wnd > free {
            free / mss * mss
        } else if mss == full && free > self.rcv_wnd + (full >> 1) {
            free
        } else {
            self.rcv_wnd
        }
    }

    /// Whether a window that was announced may be taken back (`tcp_shrink_window`).
    #[inline]
    pub(super) fn window_shrinks(&self, net: &Net) -> bool {
        net.knobs.tcp_shrink_window && self.rcv_wscale > 0
    }

    /// The application has read (`tcp_cleanup_rbuf`, `tcp_rcv_space_adjust`): the window may open.
    pub fn cleanup_rbuf(&mut self, net: &mut Net, copied: usize) {
        self.copied_seq += copied as u32;
        self.urg_read();
        self.rcv_space_adjust(net);
        if self.state == State::Close || self.state == State::SynSent {
            return;
        }
        if self.ack_scheduled
            && (self.rcv_nxt - self.rcv_wup > self.rcv_mss as u32
                || copied > 0 && self.pushed > u8::from(self.pingpong) && self.rcvq.rmem() == 0)
        {
            self.ack_now = true;
            return;
        }
        if copied > 0 && !self.ack_now && !self.fin_rcvd {
            let now = self.receive_window();
            if now.saturating_mul(2) <= self.window_clamp {
                let new = self.select_window(net);
                // Told only when it is worth a packet: at least twice what the peer knows of.
                if new > 0 && new as u64 >= 2 * now as u64 {
                    self.ack_now = true;
                }
            }
        }
    }

    /// Dynamic right-sizing: the buffer follows what the application takes in a round trip
    /// (`tcp_rcv_space_adjust`). Linux asks after each packet of a read, so that the rest of what the same read
    /// takes counts as left unread. Here a reader takes what a whole batch brought, and is not slow for that.
    fn rcv_space_adjust(&mut self, net: &mut Net) {
        let rtt_ns = (self.rcv_rtt_us8 as u64 >> 3) * 1000;
        if rtt_ns == 0 || net.now.since(self.rcvq_at) < rtt_ns {
            return;
        }
        // What it has left unread came too fast for it, and asks for no more room.
        let unread = self.rcv_nxt - self.copied_seq;
        let copied = (self.copied_seq - self.rcvq_seq).saturating_sub(unread);
        if copied > self.rcvq_space {
            self.rcvbuf_grow(net, copied);
        }
        self.rcvq_seq = self.copied_seq;
        self.rcvq_at = net.now;
    }

    /// The application takes `copied` bytes in a round trip: the buffer has room for twice that, since this is
    /// known a round trip late; for a sender that doubles its rate, if it was less before; and for what
    /// waits behind a hole, which the application will take at once (`tcp_rcvbuf_grow`).
    fn rcvbuf_grow(&mut self, net: &Net, copied: u32) {
        let was = std::mem::replace(&mut self.rcvq_space, copied).max(1) as u64;
        if self.rcvbuf_locked || !net.knobs.tcp_moderate_rcvbuf || self.pressure {
            return;
        }
        let mut win = 2 * copied as u64;
        win += win * (copied as u64).saturating_sub(was) / was * 2;
        win += self.rcvq.ooo_end().map_or(0, |end| end - self.rcv_nxt) as u64;
        let most = net.knobs.tcp_rmem[2].min(1 << 30);
        let buf = self.rcvq.space_from_win(win).min(most) as u32;
        if buf > self.rcvbuf {
            self.rcvbuf = buf;
            self.window_clamp = self.clamped(self.rcvq.win_from_space(buf));
        }
    }

    /// A segment of `len` bytes waits behind a hole. What comes behind it meanwhile needs window, and what waits
    /// memory: without, a path with losses never fills (`tcp_data_queue_ofo`). Without SACK the window stands
    /// still: its moves would hide which acknowledgements are duplicates.
    pub(super) fn grow_behind_hole(&mut self, net: &Net, len: u32, held: u32) {
        if self.sack_ok {
            self.grow_window(net, len, held);
        }
        if !self.orphan && self.listener.is_none() {
            self.rcvbuf_grow(net, self.rcvq_space);
        }
    }

    /// Without timestamps: a round trip is the time that a whole window of data takes
    /// (`tcp_rcv_rtt_measure`).
    pub(super) fn rcv_rtt_measure(&mut self, now: Instant) {
        if self.rcv_rtt_at != Instant::ZERO {
            if self.rcv_nxt.lt(self.rcv_rtt_seq) {
                return;
            }
            let us = (now.since(self.rcv_rtt_at) / 1000).max(1);
            self.rcv_rtt_update(us, true);
        }
        self.rcv_rtt_seq = self.rcv_nxt + self.rcv_wnd.max(1);
        self.rcv_rtt_at = now;
    }

    /// One measurement of the receiver's round trip (`tcp_rcv_rtt_update`).
    pub fn rcv_rtt_update(&mut self, us: u64, window_dep: bool) {
        let m = us.clamp(1, 60_000_000) as u32;
        let old = self.rcv_rtt_us8;
        self.rcv_rtt_us8 = match old {
            0 => m << 3,
            _ if m << 3 < old => m << 3,
            // A whole window includes the application's pauses: only the least counts. So does what comes
            // while it has not read all: its sender may have waited for that.
            _ if window_dep || self.rcv_nxt != self.copied_seq => old,
            _ => old - (old >> 3) + m,
        };
    }

    /// A few acknowledgements go out at once (`tcp_enter_quickack_mode`).
    pub fn enter_quickack(&mut self) {
        self.incr_quickack();
        self.pingpong = false;
    }
    /// The delay of acknowledgements follows the time between segments (`tcp_event_data_recv`).
    #[inline]
    pub(super) fn note_gap(&mut self, now: Instant) {
        let gap = now.since(self.lrcvtime);
        if self.ato_ms == 0 {
            self.ato_ms = TCP_ATO_MIN_MS;
            self.incr_quickack();
        } else if gap <= TCP_DELACK_NS / 2 {
            // The fastest case is the first.
            self.ato_ms = self.ato_ms / 2 + TCP_ATO_MIN_MS / 2;
        } else if gap < self.ato_ns() {
            self.set_ato(u64::from(self.ato_ms / 2) + gap / MS);
        } else if gap > self.rto_us as u64 * 1000 {
            // After a long pause the peer may be in slow start again.
            self.incr_quickack();
        }
    }
    /// The delay of acknowledgements in nanoseconds, before it is bounded.
    pub(super) fn ato_ns(&self) -> u64 {
        u64::from(self.ato_ms) * MS
    }
    fn set_ato(&mut self, ms: u64) {
        let most = u64::from(self.rto_us / 1000).min(u16::MAX.into());
        self.ato_ms = ms.min(most) as u16;
    }
    /// An acknowledgement waited in vain for data to ride on (`tcp_delack_timer_handler`).
    pub(super) fn ato_missed(&mut self) {
        if self.pingpong {
            // The application did not answer in time: the traffic is one-way after all.
            self.pingpong = false;
            self.ato_ms = TCP_ATO_MIN_MS;
        } else {
            self.set_ato(2 * u64::from(self.ato_ms));
        }
    }
    /// An acknowledgement waits, or goes now if the one that waits already would go soon
    /// (`tcp_send_delayed_ack`).
    fn tcp_send_delayed_ack(&mut self, now: Instant) {
        let mut ato = self.ato_ns();
        if ato > TCP_DELACK_NS {
            let round_trip = u64::from(self.srtt_us8 >> 3) * 1000;
            if round_trip > 0 {
                ato = ato.min(round_trip.max(TCP_DELACK_NS));
            }
            ato = ato.min(TCP_DELACK_MAX_NS);
        }
        if self.delack_at <= now.plus(ato / 4) {
            self.ack_now = true;
        } else {
            self.delack_at = self.delack_at.min2(now.plus(ato));
        }
    }

    pub(super) fn incr_quickack(&mut self) {
        let n = self.rcv_wnd / (2 * self.rcv_mss.max(1) as u32);
        self.quick = self.quick.max(n.clamp(2, 16) as u8);
    }

    /// Decides whether what was received is acknowledged now, or within 40 ms (`__tcp_ack_snd_check`).
    pub fn ack_snd_check(&mut self, net: &Net) {
        if self.ack_now || !self.ack_scheduled {
            return;
        }
        // RFC 9293 §3.8.6.3: at least every second full segment, as long as the window moves on.
        let two = self.rcv_nxt - self.rcv_wup > self.rcv_mss as u32
            && (self.rcvq.bytes() == 0 || self.select_window(net) >= self.rcv_wnd);
        if two || self.quick > 0 && !self.pingpong {
            self.ack_now = true;
        } else if self.rcvq.ooo_len() > 0 {
            self.ack_now = self.ofo_snd_check(net);
        } else {
            self.tcp_send_delayed_ack(net.now);
        }
    }
}
