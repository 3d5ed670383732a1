//! The receive window: how much the peer may send, how the buffer grows with what the application
//! reads, and when an acknowledgement is due.
//!
//! before: [`super::rcvq`]   after: [`super::output`]
//! Linux:  net/ipv4/tcp_input.c `tcp_grow_window`, `tcp_rcv_space_adjust`, `__tcp_ack_snd_check`;
//!         tcp_output.c `__tcp_select_window`
//! RFCs:   9293 §3.8.6, §3.8.6.2.2 (silly window avoidance), §3.8.6.3 (delayed acknowledgements)

use super::{Earlier, State, Tcb};
use crate::shard::Net;
use crate::time::{Instant, MS};

/// Longest delay of an acknowledgement (`TCP_DELACK_MIN`; RFC 9293 §3.8.6.3 allows 500 ms).
pub(crate) const TCP_DELACK_NS: u64 = 40 * MS;

impl Tcb {
    /// Opens the window while data is read as it comes (`tcp_grow_window`).
    pub(super) fn grow_window(&mut self, len: u32) {
        let most = self.window_clamp.min(self.rcvq.win_from_space(self.free_space()));
        if self.rcv_ssthresh < most && !self.pressure {
            let step = (2 * self.advmss as u32).max(2 * len);
            self.rcv_ssthresh += step.min(most - self.rcv_ssthresh);
        }
    }

    fn free_space(&self) -> u32 {
        self.rcvbuf.saturating_sub(self.rcvq.rmem().min(u32::MAX as usize) as u32)
    }

    /// The window to be announced, before the right edge is kept (`__tcp_select_window`).
    pub fn select_window(&mut self) -> u32 {
        let full = self.window_clamp.min(self.rcvq.win_from_space(self.rcvbuf));
        let mss = (self.rcv_mss as u32).min(full).max(1);
        let mut free = self.rcvq.win_from_space(self.free_space());
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
        free = free.min(self.rcv_ssthresh);
        if self.rcv_wscale > 0 {
            let unit = 1u32 << self.rcv_wscale;
            free.div_ceil(unit) << self.rcv_wscale
        } else {
            // Without scaling: whole segments, unless that would make the window jump.
            if self.rcv_wnd <= free.saturating_sub(mss) || self.rcv_wnd > free {
                free = free / mss * mss;
            } else if mss == full && free > self.rcv_wnd + (full >> 1) {
                return free;
            } else {
                return self.rcv_wnd;
            }
            free
        }
    }

    /// The application has read (`tcp_cleanup_rbuf`, `tcp_rcv_space_adjust`): the window may open.
    pub fn cleanup_rbuf(&mut self, net: &mut Net, copied: usize) {
        self.copied_seq += copied as u32;
        self.rcv_space_adjust(net);
        if self.state == State::Close || self.state == State::SynSent {
            return;
        }
        if self.ack_scheduled
            && (self.rcv_nxt - self.rcv_wup > self.rcv_mss as u32
                || self.rcvq.bytes() == 0 && self.quick > 0 && !self.pingpong)
        {
            self.ack_now = true;
            return;
        }
        if copied > 0 && !self.ack_now && !self.fin_rcvd {
            let now = self.receive_window();
            if now.saturating_mul(2) <= self.window_clamp {
                let new = self.select_window();
                // Told only when it is worth a packet: at least twice what the peer knows of.
                if new > 0 && new as u64 >= 2 * now as u64 {
                    self.ack_now = true;
                }
            }
        }
    }

    /// Dynamic right-sizing: the buffer follows what the application takes in a round trip
    /// (`tcp_rcv_space_adjust`).
    fn rcv_space_adjust(&mut self, net: &mut Net) {
        let rtt_ns = (self.rcv_rtt_us8 as u64 >> 3) * 1000;
        if rtt_ns == 0 || net.now.since(self.rcvq_at) < rtt_ns {
            return;
        }
        let copied = self.copied_seq - self.rcvq_seq;
        if copied > self.rcvq_space {
            if !self.rcvbuf_locked && net.knobs.tcp_moderate_rcvbuf && !self.pressure {
                let was = self.rcvq_space.max(1) as u64;
                // Room for what is in flight while the application reads, and for slow start.
                let mut win = 2 * copied as u64 + 16 * self.advmss as u64;
                win += win * (copied as u64 - self.rcvq_space as u64) / was * 2;
                let most = net.knobs.tcp_rmem[2].min(1 << 30);
                let buf = self.rcvq.space_from_win(win).min(most) as u32;
                if buf > self.rcvbuf {
                    self.rcvbuf = buf;
                    self.window_clamp = self.clamped(self.rcvq.win_from_space(buf));
                }
            }
            self.rcvq_space = copied;
        }
        self.rcvq_seq = self.copied_seq;
        self.rcvq_at = net.now;
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
            // A whole window includes the application's pauses: only the least counts.
            _ if window_dep => old.min(m << 3),
            _ => old - (old >> 3) + m,
        };
    }

    /// A few acknowledgements go out at once (`tcp_enter_quickack_mode`).
    pub fn enter_quickack(&mut self) {
        self.incr_quickack();
        self.pingpong = false;
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
            && (self.rcvq.bytes() == 0 || self.select_window() >= self.rcv_wnd);
        if two || self.quick > 0 && !self.pingpong {
            self.ack_now = true;
        } else if self.rcvq.ooo_len() > 0 {
            self.ack_now = self.ofo_snd_check(net);
        } else {
            self.delack_at = self.delack_at.min2(net.now.plus(TCP_DELACK_NS));
        }
    }
}
