//! CUBIC (RFC 9438; Linux: net/ipv4/tcp_cubic.c), with HyStart's delay rule to leave slow start.

use super::hystart::{CSS_GROWTH_DIVISOR, Hystart, Pace};
use super::{CongestionControl, Window, tcp_cong_avoid_ai, tcp_slow_start};
use crate::time::{Instant, SEC};

/// Multiplicative decrease (RFC 9438 §4.6).
const BETA: f32 = 0.7;
/// How fast the window grows, in segments per second cubed (RFC 9438 §5.1).
const C: f32 = 0.4;
/// Additive increase that makes it as fast as Reno: 3 (1 - beta) / (1 + beta) (RFC 9438 §4.3).
const ALPHA: f32 = 3.0 * (1.0 - BETA) / (1.0 + BETA);

/// State of CUBIC.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cubic {
    /// Window before the last reduction, in segments; less if it was below that of the one before.
    w_max: f32,
    /// Window before the last reduction, in segments, as it was.
    cwnd_prior: f32,
    /// The window that the cubic curve is flat at.
    origin: f32,
    /// Seconds until the curve reaches `origin`.
    k: f32,
    /// What Reno would have, in segments.
    w_est: f32,
    /// When this epoch of congestion avoidance began.
    epoch: Option<Instant>,
    /// How slow start finds its end.
    hystart: Hystart,
}

impl Cubic {
    /// The clock began at another time (see [`super::Cc::retime`]).
    pub fn retime(&mut self, shift: i64) {
        self.epoch = self.epoch.map(|at| at.shifted(shift));
    }
    /// After how many delivered segments the window grows by one (`bictcp_update`).
    fn update(&mut self, w: &Window, acked: u32) -> u32 {
        let cwnd = w.cwnd as f32;
        let epoch = match self.epoch {
            Some(epoch) => epoch,
            None => {
                self.epoch = Some(w.now);
                self.w_est = cwnd;
                if cwnd < self.w_max {
                    self.k = ((self.w_max - cwnd) / C).cbrt();
                    self.origin = self.w_max;
                } else {
                    self.k = 0.0;
                    self.origin = cwnd;
                }
                w.now
            }
        };
        // Where the window should be one round trip from now.
        let t = (w.now.since(epoch) as f32 + w.srtt_us as f32 * 1e3) / SEC as f32 - self.k;
        // As in Linux, the distance from the plateau counts in whole segments.
        let target = (self.origin + (C * t * t * t).trunc()).min(1.5 * cwnd);
        let mut per = if target > cwnd { cwnd / (target - cwnd) } else { 100.0 * cwnd };
        // Never slower than Reno would be: as fast as it on average up to the last maximum, then
        // with its own slope (RFC 9438 §4.3). Fast convergence does not make that begin earlier.
        let alpha = if self.w_est >= self.cwnd_prior { 1.0 } else { ALPHA };
        self.w_est += alpha * acked as f32 / cwnd;
        if self.w_est > cwnd {
            per = per.min(cwnd / (self.w_est - cwnd));
        }
        per.max(2.0) as u32
    }
}

impl CongestionControl for Cubic {
    fn name(&self) -> &'static str {
        "cubic"
    }
    fn ssthresh(&mut self, w: &Window) -> u32 {
        self.epoch = None;
        let cwnd = w.cwnd as f32;
        self.cwnd_prior = cwnd;
        // Fast convergence (RFC 9438 §4.7): below the last maximum, room is left for others.
        self.w_max = if cwnd < self.w_max { cwnd * (1.0 + BETA) / 2.0 } else { cwnd };
        ((cwnd * BETA) as u32).max(2)
    }
    fn cong_avoid(&mut self, w: &mut Window, mut acked: u32) -> bool {
        if w.cwnd < w.ssthresh {
            match self.hystart.ack(w) {
                Pace::Over => {
                    (w.ssthresh, w.cnt) = (w.cwnd, 0);
                    return true;
                }
                Pace::Conservative => {
                    tcp_cong_avoid_ai(w, CSS_GROWTH_DIVISOR, acked);
                    return false;
                }
                Pace::Double => {}
            }
            acked = tcp_slow_start(w, acked);
            if acked == 0 {
                return false;
            }
        }
        let per = self.update(w, acked);
        tcp_cong_avoid_ai(w, per, acked);
        false
    }
    fn reset(&mut self) {
        *self = Cubic::default();
    }
}

#[cfg(test)]
impl Cubic {
    pub fn w_max(&self) -> u32 {
        self.w_max as u32
    }
}
