//! DCTCP (RFC 8257; Linux: net/ipv4/tcp_dctcp.c): routers mark packets as soon as a short queue stands,
//! and the window shrinks by as much as packets were marked, not by half for a single one.
//!
//! It is for networks whose routers all mark so (a data centre): elsewhere it takes more than its
//! share. A peer that does not know ECN gets Reno.

use super::{CongestionControl, Window, tcp_reno_cong_avoid};
use crate::seq::Seq;

/// Alpha where everything is marked (`DCTCP_MAX_ALPHA`).
const MAX_ALPHA: u32 = 1024;

/// State of DCTCP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Dctcp {
    /// The share of packets that were marked, smoothed, in 1/1024.
    alpha: u32,
    /// The window before the last reduction, in segments.
    loss_cwnd: u32,
    /// The round in which marks are counted ends when this is acknowledged.
    next_seq: Seq,
    /// Segments delivered before this round.
    old_delivered: u32,
    /// Of these, marked.
    old_delivered_ce: u32,
}

/// What an acknowledgement tells DCTCP.
pub(crate) struct Delivery {
    pub una: Seq,
    pub nxt: Seq,
    pub delivered: u32,
    pub delivered_ce: u32,
}

impl Dctcp {
    /// At the beginning all counts as marked, as `dctcp_alpha_on_init` says: a first mark halves the
    /// window (RFC 8257 §4.2).
    pub fn new(alpha_on_init: u64, d: &Delivery) -> Dctcp {
        Dctcp {
            alpha: alpha_on_init.min(MAX_ALPHA as u64) as u32,
            loss_cwnd: 0,
            next_seq: d.nxt,
            old_delivered: d.delivered,
            old_delivered_ce: d.delivered_ce,
        }
    }
    /// Once a round trip: alpha moves by 1/2^g of the way to the share of this round (RFC 8257 §3.3;
    /// `dctcp_update_alpha`).
    pub fn update_alpha(&mut self, d: &Delivery, shift_g: u64) {
        if d.una.lt(self.next_seq) {
            return;
        }
        let delivered = d.delivered.wrapping_sub(self.old_delivered);
        let marked = d.delivered_ce.wrapping_sub(self.old_delivered_ce);
        if delivered > 0 {
            let g = shift_g.min(10) as u32;
            let down = self.alpha >> g;
            self.alpha -= if down == 0 { self.alpha } else { down };
            let up = ((marked as u64) << (10 - g)) / delivered as u64;
            self.alpha = self.alpha.saturating_add(up.min(u32::MAX as u64) as u32).min(MAX_ALPHA);
        }
        self.next_seq = d.nxt;
        self.old_delivered = d.delivered;
        self.old_delivered_ce = d.delivered_ce;
    }
    /// The share of packets that were marked, in 1/1024.
    pub fn alpha(&self) -> u32 {
        self.alpha
    }
}

impl CongestionControl for Dctcp {
    fn name(&self) -> &'static str {
        "dctcp"
    }
    fn ssthresh(&mut self, w: &Window) -> u32 {
        self.loss_cwnd = w.cwnd;
        let less = (w.cwnd as u64 * self.alpha as u64) >> 11;
        w.cwnd.saturating_sub(less as u32).max(2)
    }
    /// Whatever was marked: a loss halves the window (RFC 8257 §3.5; `dctcp_react_to_loss`).
    fn ssthresh_of_loss(&mut self, w: &Window) -> u32 {
        self.loss_cwnd = w.cwnd;
        (w.cwnd / 2).max(2)
    }
    fn cong_avoid(&mut self, w: &mut Window, acked: u32) -> bool {
        tcp_reno_cong_avoid(w, acked);
        false
    }
    fn undo_cwnd(&mut self, w: &Window) -> u32 {
        w.cwnd.max(self.loss_cwnd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(una: u32, delivered: u32, delivered_ce: u32) -> Delivery {
        Delivery { una: Seq(una), nxt: Seq(una + 1000), delivered, delivered_ce }
    }

    /// RFC 8257 §3.3: alpha is an average with gain 1/16 that is taken once a round trip.
    #[test]
    fn alpha_follows_the_share_of_marks() {
        let mut d = Dctcp::new(0, &at(0, 0, 0));
        d.update_alpha(&at(999, 50, 50), 4);
        assert_eq!(d.alpha(), 0, "the round is not over");
        d.update_alpha(&at(1000, 100, 100), 4);
        assert_eq!(d.alpha(), 64, "1/16 of all");
        for round in 2..200 {
            d.update_alpha(&at(round * 1000, round * 100, 100 + (round - 1) * 50), 4);
        }
        assert!((480..=544).contains(&d.alpha()), "{} of 1024 for a half", d.alpha());
        for round in 200..400 {
            d.update_alpha(&at(round * 1000, round * 100, 100 + 199 * 50), 4);
        }
        assert_eq!(d.alpha(), 0, "it comes down to nothing");
    }

    /// RFC 8257 §3.3, step 9: the window shrinks by alpha / 2.
    #[test]
    fn the_window_shrinks_by_half_of_alpha() {
        let w = Window::of(100, 1000);
        for (alpha, want) in [(0, 100), (128, 94), (512, 75), (1024, 50)] {
            let mut d = Dctcp::new(alpha, &at(0, 0, 0));
            assert_eq!(d.ssthresh(&w), want, "alpha {alpha}");
        }
    }
}
