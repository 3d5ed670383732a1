//! How much the application may queue: by the memory that it would hold in Linux, so that a write takes as much
//! here as there.
//!
//! Linux asks for room only where a new packet begins in the send queue, and then fills that packet: a write may
//! exceed the buffer by what one holds. Each packet counts with its head beside its bytes. Here data lies in
//! chunks, and where Linux's packets would begin is a number: the last one ([`SndQ::tail`](super::sndq::SndQ)); those
//! before it were filled.
//!
//! before: the application   after: [`super::send`]
//! Linux:  net/core/stream.c `sk_stream_memory_free`, `sk_stream_is_writeable`; net/ipv4/tcp.c `tcp_xmit_size_goal`,
//!         `tcp_stream_memory_free`

use super::Tcb;
use super::quota::tcp_bound_to_half_wnd;
use crate::shard::Net;

/// What a packet in the send queue counts beside its bytes (`SKB_TRUESIZE` of its head in Linux 6.18).
const HEAD: usize = 832;
/// Headers that a device's longest super-packet has room for beside its data (`MAX_TCP_HEADER` and one).
const HEADERS_MAX: u32 = 321;

impl Tcb {
    /// Bytes of a packet in the send queue that is full (`tcp_xmit_size_goal`).
    #[inline]
    pub(super) fn size_goal(&self, net: &Net) -> u32 {
        let mss = u32::from(self.mss_cache.max(1));
        if !net.knobs.gso || self.md5().is_some() {
            return mss;
        }
        let most = net.ifaces.get(self.dev as usize).map_or(65536, |i| i.gso_max_size);
        let most = most.min(65536).saturating_sub(HEADERS_MAX);
        (tcp_bound_to_half_wnd(self, most) / mss).max(1) * mss
    }
    /// Bytes in the last packet of the send queue; 0 if nothing more goes into it.
    #[inline]
    pub(super) fn tail_len(&self) -> u32 {
        match self.notsent() {
            0 => 0,
            _ if self.ends_record(self.sndq.end) => 0,
            unsent => unsent.min(self.sndq.end - self.sndq.tail),
        }
    }
    /// Memory that what is queued and not acknowledged would hold in Linux (`sk_wmem_queued`). `goal`: bytes of
    /// a packet that is full, which few need to know.
    #[inline]
    fn wmem_queued(&self, goal: impl FnOnce() -> u32) -> usize {
        let unsent = self.notsent();
        let skbs = match unsent.checked_sub(self.sndq.end - self.sndq.tail) {
            _ if unsent == 0 => 0,
            // The last packet is the first as well.
            None | Some(0) => 1,
            Some(before) => 1 + before.div_ceil(goal()) as usize,
        };
        self.queued() as usize + HEAD * (self.sndq.rtx.len() + skbs)
    }
    /// Bytes that may be queued now (`sk_stream_memory_free`, asked for packet after packet).
    pub(crate) fn send_space(&self, net: &Net) -> usize {
        let sndbuf = self.sndbuf as usize;
        let goal = self.size_goal(net);
        let tail = self.tail_len();
        let room = if tail == 0 { 0 } else { goal.saturating_sub(tail) };
        // New packets begin as long as what there is holds less than the buffer, and what of it waits unsent has
        // its own limit.
        let wmem = self.wmem_queued(|| goal) + room as usize;
        let by_wmem = sndbuf.saturating_sub(wmem).div_ceil(goal as usize + HEAD);
        let by_unsent = match self.notsent_lowat(net) {
            u32::MAX => usize::MAX,
            most => (most.saturating_sub(self.notsent() + room)).div_ceil(goal) as usize,
        };
        let packets = by_wmem.min(by_unsent);
        // Small writes may lie thinly in large chunks: the memory bounds those. When all connections
        // together have too much, each may still have its least (`tcp_wmem[0]`).
        let held = self.sndq.wmem();
        let by_memory = (4 * sndbuf.max(goal as usize)).saturating_sub(held);
        let floor = match self.short && self.queued() > 0 {
            true => (self.wmem_min as usize).saturating_sub(held),
            false => usize::MAX,
        };
        (room as usize + packets * goal as usize).min(by_memory).min(floor)
    }
    /// How many of `len` bytes may be queued now.
    #[inline]
    pub(super) fn send_room(&self, net: &Net, len: usize) -> usize {
        // Nearly always: little, where all that came before has been sent. A packet that may begin has room for
        // a segment.
        let plenty = len <= usize::from(self.mss_cache)
            && self.notsent() == 0
            && !self.short
            && self.notsent_lowat(net) == u32::MAX
            && self.wmem_queued(|| 1) < self.sndbuf as usize
            && self.sndq.wmem() + len <= 4 * self.sndbuf as usize;
        if plenty { len } else { len.min(self.send_space(net)) }
    }
    /// `len` bytes were queued: where the last packet begins.
    #[inline]
    pub(super) fn skb_entail(&mut self, net: &Net, len: usize, tail: u32) {
        if tail == 0 && len <= usize::from(self.mss_cache) {
            // A packet that is full has at least a segment.
            if len > 0 {
                self.sndq.tail = self.sndq.end - len as u32;
            }
            return;
        }
        let goal = self.size_goal(net);
        let room = if tail == 0 { 0 } else { goal.saturating_sub(tail) };
        let more = (len as u32).saturating_sub(room);
        if more > 0 {
            let last = (more - 1) % goal + 1;
            self.sndq.tail = self.sndq.end - last;
        }
    }
    /// Bytes that the first packet of the send queue has room for, if `len` is more than may be queued now: what of
    /// it can go then goes, and there is room behind the rest (`tcp_push_one`).
    #[inline]
    pub(super) fn first_room(&self, net: &Net, len: usize) -> Option<usize> {
        if self.notsent() as usize + len <= usize::from(self.mss_cache) {
            return None;
        }
        let room = self.size_goal(net).saturating_sub(self.notsent()) as usize;
        let first = self.tail_len() == self.notsent() && room > 0;
        (first && room < len && len > self.send_space(net)).then_some(room)
    }
    /// Whether the application is told that there is room: a third of the buffer, and half of what may
    /// wait unsent (`sk_stream_is_writeable`).
    pub(super) fn writeable(&self, net: &Net) -> bool {
        let lowat = self.notsent_lowat(net);
        let few = lowat == u32::MAX || u64::from(self.notsent()) * 2 < u64::from(lowat);
        let wmem = self.wmem_queued(|| self.size_goal(net));
        few && wmem + wmem / 2 <= self.sndbuf as usize
    }
}
