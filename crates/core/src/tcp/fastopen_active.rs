//! Whether Fast Open is used for connections that we open: not for a while after something on the way
//! seems to swallow them.
//!
//! Three things tell: the first three timeouts of such a connection go unanswered, or all there are; the peer
//! closes without any data having come; or its FIN comes behind a hole.
//!
//! before: [`super::timer`], [`super::input`]   after: [`super::fastopen`]
//! Linux:  net/ipv4/tcp_fastopen.c `tcp_fastopen_active_disable`, `tcp_fastopen_active_should_disable`,
//!         `tcp_fastopen_active_detect_blackhole`, `tcp_fastopen_active_disable_ofo_check`
//! RFCs:   7413 §7.1

use super::Tcb;
use crate::link::L2;
use crate::shard::Net;
use crate::table::count::id;
use crate::time::{Instant, SEC};

/// What is known of Fast Open's way out (`tfo_active_disable_times`, `tfo_active_disable_stamp`).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ActiveFastOpen {
    /// How often in a row it seemed to be swallowed.
    times: u32,
    /// When it last did.
    since: Instant,
}

/// The pause doubles so often at the most.
const DOUBLINGS: u32 = 6;

impl Tcb {
    /// What a connection remembers that tried Fast Open.
    fn tried(&self) -> Option<&super::opts::SockOpts> {
        self.opts().filter(|o| o.fastopen_tried)
    }
}

impl Net {
    /// The knob was set: what was seen before counts no more.
    pub(crate) fn fastopen_active_reset(&mut self) {
        self.fastopen_active.times = 0;
    }

    fn tcp_fastopen_active_disable(&mut self) {
        if self.knobs.tcp_fastopen_blackhole_timeout_sec > 0 {
            self.fastopen_active.times = self.fastopen_active.times.saturating_add(1);
            self.fastopen_active.since = self.now;
            self.counts.inc(id::TcpExtTCPFastOpenBlackhole);
        }
    }
}

/// Whether a new connection goes without it; if the pause is over, the next one that works ends the matter.
pub(super) fn tcp_fastopen_active_should_disable(net: &Net, tp: &mut Tcb) -> bool {
    let timeout = net.knobs.tcp_fastopen_blackhole_timeout_sec;
    let seen = net.fastopen_active;
    if timeout == 0 || seen.times == 0 {
        return false;
    }
    let pause = (timeout << (seen.times - 1).min(DOUBLINGS)).saturating_mul(SEC);
    if net.now.since(seen.since) < pause {
        return true;
    }
    tp.opts_mut().fastopen_check = true;
    false
}

/// A timeout: the third one in a row, or the last.
pub(super) fn tcp_fastopen_active_detect_blackhole(net: &mut Net, tp: &Tcb, expired: bool) {
    let telling = tp.retransmits == 2 || tp.retransmits < 2 && expired;
    if telling && tp.tried().is_some() {
        net.tcp_fastopen_active_disable();
        net.counts.inc(id::TcpExtTCPFastOpenActiveFail);
    }
}

/// After our close a FIN came behind a hole that nobody will fill.
pub(super) fn fin_after_close(net: &mut Net, tp: &Tcb) {
    if tp.tried().is_some() {
        net.tcp_fastopen_active_disable();
    }
}

/// The connection ends: of nothing but a FIN, behind a hole, something on the way has swallowed the rest.
pub(super) fn tcp_fastopen_active_disable_ofo_check(net: &mut Net, tp: &Tcb) {
    let Some(tried) = tp.tried() else { return };
    if tp.data_segs_in == 0 {
        if tp.rcvq.fin_alone() {
            net.tcp_fastopen_active_disable();
        }
    } else if tried.fastopen_check
        && net.ifaces.get(tp.dev as usize).is_some_and(|i| i.l2 != L2::Loopback)
    {
        net.fastopen_active.times = 0;
    }
}
