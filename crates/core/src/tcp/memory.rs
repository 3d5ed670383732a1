//! Memory of all connections of a shard together, and the connections that nobody owns any more.
//!
//! Linux: net/core/sock.c `__sk_mem_raise_allocated`; net/ipv4/tcp.c `tcp_enter_memory_pressure`,
//!        `tcp_check_oom`; tcp_timer.c `tcp_out_of_resources`

use super::output::tcp_send_active_reset;
use super::timewait::TCP_TIMEWAIT_NS;
use super::{Sockets, State, TCP_RTO_MAX_US, Tcb};
use crate::shard::{Net, Shard};
use crate::table::count::id;
use crate::time::{Instant, MS};

/// Bytes of a page.
const PAGE: u64 = 4096;
/// Send queues of so many bytes do no harm (`SOCK_MIN_SNDBUF`).
const SMALL_SNDQ: usize = 4608;

/// What all connections hold together, as one of them sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// None may grow (`tcp_under_memory_pressure`).
    pressure: bool,
    /// Each may have its least only.
    short: bool,
    /// Under pressure each may have this many bytes.
    share: u64,
}

impl Sockets {
    /// The state of the shard's memory.
    #[inline]
    pub(crate) fn memory(&self, net: &Net) -> Memory {
        // What lies in receive queues is not to be all packet memory that there is: acknowledgements could
        // not be received then, nor could anything be cut and sent.
        let low = net.pool.low();
        let most = net.knobs.tcp_mem[2].saturating_mul(PAGE);
        let pressure = self.pressure_since.is_some();
        let share = if pressure { most / self.conns.len().max(1) as u64 } else { u64::MAX };
        Memory { pressure: pressure || low, short: low || self.mem as u64 > most, share }
    }

    /// Queues became longer or shorter: whether there is pressure follows from all of them
    /// (`tcp_enter_memory_pressure`, `tcp_leave_memory_pressure`).
    #[inline]
    pub(super) fn memory_changed(&mut self, net: &Net) {
        enter_memory_pressure(self.mem, &mut self.pressure_since, net);
    }

    /// Whether a connection that nobody owns can not be afforded (`tcp_check_oom`). `shift`: it counts
    /// as so many powers of two.
    fn check_oom(&self, net: &Net, wmem: usize, shift: u32) -> bool {
        let most = net.knobs.tcp_mem[2].saturating_mul(PAGE);
        (self.orphans as u64) << shift > net.knobs.tcp_max_orphans
            || wmem > SMALL_SNDQ && self.mem as u64 > most
    }
}

/// (`tcp_enter_memory_pressure`, `tcp_leave_memory_pressure`)
#[inline]
pub(super) fn enter_memory_pressure(mem: usize, pressure_since: &mut Option<Instant>, net: &Net) {
    let mem = mem as u64;
    let over = |level: usize| mem > net.knobs.tcp_mem[level].saturating_mul(PAGE);
    match *pressure_since {
        None if over(1) => {
            *pressure_since = Some(net.now);
            net.counts.inc(id::TcpExtTCPMemoryPressures);
        }
        Some(since) if !over(0) => {
            *pressure_since = None;
            let ms = (net.now.since(since) / MS).max(1);
            net.counts.inc_by(id::TcpExtTCPMemoryPressuresChrono, ms);
        }
        _ => {}
    }
}

impl Tcb {
    /// Notes what the memory of all allows this one.
    #[inline]
    pub(super) fn note_memory(&mut self, memory: &Memory, net: &Net) {
        self.pressure = memory.pressure;
        self.short = memory.short || self.charged as u64 >= memory.share;
        if self.short {
            self.wmem_min = net.knobs.tcp_wmem[0].min(1 << 30) as u32;
        }
    }
}

impl Shard {
    /// A connection was closed by its owner: there may be too many such (`__tcp_close`).
    pub(super) fn orphan_check(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = tcp.conns.at(index) else { return };
        if tp.state != State::Close && tcp.check_oom(net, tp.sndq.wmem(), 0) {
            self.abort_on_memory(index, true);
        }
    }

    /// The same when a timer of it fires: a slow one costs more (`tcp_out_of_resources`).
    pub(super) fn tcp_out_of_resources(&mut self, index: u32) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = tcp.conns.at(index) else { return };
        if !tp.orphan || tp.rtx_at > net.now || tp.state == State::Close {
            return;
        }
        let silent = net.now.since(tp.lsndtime);
        let slow = silent > 2 * TCP_RTO_MAX_US as u64 * 1000;
        let shift = u32::from(slow) + u32::from(tp.err_soft.is_some());
        if tcp.check_oom(net, tp.sndq.wmem(), shift) {
            let heard = silent <= TCP_TIMEWAIT_NS || tp.snd_wnd == 0 && tp.packets_out == 0;
            self.abort_on_memory(index, heard);
        }
    }

    fn abort_on_memory(&mut self, index: u32, reset: bool) {
        let Shard { net, tcp, .. } = self;
        let Some(tp) = tcp.conns.at_mut(index) else { return };
        if reset {
            tcp_send_active_reset(net, tp);
        }
        net.counts.inc(id::TcpExtTCPAbortOnMemory);
        tp.done(net, None);
    }
}
