//! Reno (RFC 5681; Linux: `tcp_reno_*` in net/ipv4/tcp_cong.c).

use super::{CongestionControl, Window, tcp_reno_cong_avoid};

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
    fn cong_avoid(&mut self, w: &mut Window, acked: u32) -> bool {
        tcp_reno_cong_avoid(w, acked);
        false
    }
}
