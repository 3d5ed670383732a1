//! Reno (RFC 5681; Linux: `tcp_reno_*` in net/ipv4/tcp_cong.c).

use super::{CongestionControl, Window, tcp_cong_avoid_ai, tcp_slow_start};

/// No state beyond the window itself.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reno;

impl CongestionControl for Reno {
    fn name(&self) -> &'static str {
        "reno"
    }
    fn ssthresh(&mut self, w: &Window) -> u32 {
        (w.cwnd / 2).max(2)
    }
    fn cong_avoid(&mut self, w: &mut Window, mut acked: u32) -> bool {
        if w.cwnd < w.ssthresh {
            acked = tcp_slow_start(w, acked);
        }
        if acked > 0 {
            let per = w.cwnd;
            tcp_cong_avoid_ai(w, per, acked);
        }
        false
    }
}
