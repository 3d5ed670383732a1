//! Explicit congestion notification: routers mark packets instead of dropping them, the receiver
//! echoes the mark, and the sender slows down as it does after a loss, with nothing to repeat.
//!
//! What one side has agreed on and owes the other lies in [`Ecn`], a byte of the connection. Data
//! that is sent for the first time is marked as capable; SYNs, acknowledgements and what is sent
//! again are not (RFC 3168 §6.1.1, §6.1.4, §6.1.5).
//!
//! before: [`super::input`], [`super::request`]   after: [`super::output`], [`super::recovery`]
//! Linux:  include/net/tcp_ecn.h `tcp_ecn_send_syn`, `tcp_ecn_rcv_synack`, `tcp_ecn_create_request`,
//!         `tcp_ecn_send`, `tcp_ecn_accept_cwr`, `tcp_data_ecn_check`, `tcp_ecn_rcv_ecn_echo`
//! RFCs:   3168, 8311, 8257 §3.2 (the echo of DCTCP)

use super::Tcb;
use super::input::Segment;
use super::output::tcp_send_ack;
use crate::seq::Seq;
use crate::shard::Net;
use crate::table::count::id;
use crate::wire::tcp::TcpFlags;

/// The two bits in the IP header: not capable.
pub(crate) const NOT_ECT: u8 = 0;
/// Capable: what we send.
pub(crate) const ECT_0: u8 = 2;
/// Congestion experienced.
pub(crate) const CE: u8 = 3;
/// Where the bits lie in the type of service.
pub(crate) const MASK: u8 = 3;

/// What is agreed on and owed (`tcp_sock.ecn_flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ecn(u8);

impl Ecn {
    /// Both sides understand it (`TCP_ECN_OK`).
    pub const OK: Ecn = Ecn(1);
    /// The window was reduced: the next new data says so (`TCP_ECN_QUEUE_CWR`).
    pub const QUEUE_CWR: Ecn = Ecn(2);
    /// A mark came: each acknowledgement echoes it until the peer has reacted
    /// (`TCP_ECN_DEMAND_CWR`).
    pub const DEMAND_CWR: Ecn = Ecn(4);
    /// Something capable came (`TCP_ECN_SEEN`).
    pub const SEEN: Ecn = Ecn(8);
    /// DCTCP: the last data that came was marked.
    const CE_STATE: Ecn = Ecn(16);

    #[inline]
    pub fn has(self, bit: Ecn) -> bool {
        self.0 & bit.0 != 0
    }
    #[inline]
    pub fn set(&mut self, bit: Ecn, on: bool) {
        self.0 = if on { self.0 | bit.0 } else { self.0 & !bit.0 };
    }
}

impl Tcb {
    /// The window was reduced: the peer is told with the next new data (`tcp_ecn_queue_cwr`).
    pub fn ecn_queue_cwr(&mut self) {
        if self.ecn.has(Ecn::OK) {
            self.ecn.set(Ecn::QUEUE_CWR, true);
        }
    }

    /// The bits of the SYN that opens a connection; those of its repetitions ask for nothing if a
    /// middlebox may have eaten the first (`tcp_ecn_send_syn`, `tcp_ecn_clear_syn`).
    pub fn ecn_syn_flags(&mut self, net: &Net) -> TcpFlags {
        let ask = net.knobs.tcp_ecn == 1 || self.cc.needs_ecn();
        self.ecn = Ecn::default();
        self.ecn.set(Ecn::OK, ask);
        if !ask || self.retransmits > 0 && net.knobs.tcp_ecn_fallback {
            return TcpFlags::NONE;
        }
        TcpFlags::ECE | TcpFlags::CWR
    }

    /// What the SYN-ACK, or a SYN that crossed ours, says of it (`tcp_ecn_rcv_synack`,
    /// `tcp_ecn_rcv_syn`).
    pub fn ecn_rcv_syn(&mut self, flags: TcpFlags) {
        let agreed = flags.any(TcpFlags::ECE) && flags.any(TcpFlags::CWR) != flags.ack();
        if !agreed {
            self.ecn.set(Ecn::OK, false);
        }
    }
}

/// Whether a SYN asks for it and may have it: it must not be marked itself (`tcp_ecn_create_request`).
pub(crate) fn tcp_ecn_create_request(net: &Net, flags: TcpFlags, tos: u8) -> bool {
    let asked = flags.has(TcpFlags::ECE | TcpFlags::CWR);
    let ours = net.knobs.tcp_congestion_control.needs_ecn();
    asked && (ours || tos & MASK == NOT_ECT && net.knobs.tcp_ecn > 0)
}

/// The bits that a segment carries, in the TCP header and in the type of service (`tcp_ecn_send`).
#[inline]
pub(crate) fn tcp_ecn_send(tp: &mut Tcb, seq: Seq, len: u32) -> (TcpFlags, u8) {
    if !tp.ecn.has(Ecn::OK) {
        return (TcpFlags::NONE, NOT_ECT);
    }
    ecn_send(tp, seq, len)
}

fn ecn_send(tp: &mut Tcb, seq: Seq, len: u32) -> (TcpFlags, u8) {
    let (mut flags, mut ect) = (TcpFlags::NONE, NOT_ECT);
    if len > 0 && seq.ge(tp.snd_nxt) {
        ect = ECT_0;
        if tp.ecn.has(Ecn::QUEUE_CWR) {
            tp.ecn.set(Ecn::QUEUE_CWR, false);
            flags |= TcpFlags::CWR;
        }
    } else if tp.cc.needs_ecn() {
        // Where all routers mark early, what is not capable would be dropped (RFC 8257 §3.1).
        ect = ECT_0;
    }
    if tp.ecn.has(Ecn::DEMAND_CWR) {
        flags |= TcpFlags::ECE;
    }
    (flags, ect)
}

/// The peer has reduced its window: the echo ends (`tcp_ecn_accept_cwr`).
#[inline]
pub(crate) fn tcp_ecn_accept_cwr(tp: &mut Tcb, seg: &Segment) {
    if seg.flags.any(TcpFlags::CWR) {
        tp.ecn.set(Ecn::DEMAND_CWR, false);
        // Its window may be a single segment: it must not wait for a delayed acknowledgement.
        tp.ack_now |= seg.len > 0;
    }
}

/// The mark of data that arrives, before RCV.NXT moves (`tcp_data_ecn_check`).
#[inline]
pub(crate) fn tcp_data_ecn_check(net: &mut Net, tp: &mut Tcb, tos: u8) {
    if tp.ecn.has(Ecn::OK) {
        ecn_check(net, tp, tos & MASK);
    }
}

fn ecn_check(net: &mut Net, tp: &mut Tcb, ecn: u8) {
    if ecn == NOT_ECT {
        // What is not capable after others were is most likely sent again.
        if tp.ecn.has(Ecn::SEEN) {
            quickack(tp);
        }
        return;
    }
    if tp.cc.echoes_each_ce() {
        dctcp_ece_ack_update(net, tp, ecn == CE);
    }
    if ecn == CE && !tp.ecn.has(Ecn::DEMAND_CWR) {
        quickack(tp);
        tp.ecn.set(Ecn::DEMAND_CWR, true);
    }
    tp.ecn.set(Ecn::SEEN, true);
}

/// The sender's window may be very small: two acknowledgements do not wait (`tcp_enter_quickack_mode`).
fn quickack(tp: &mut Tcb) {
    tp.quick = tp.quick.max(2);
    tp.pingpong = false;
}

/// DCTCP: the sender is to learn how many bytes were marked, also where acknowledgements are delayed.
/// So one goes out at once whenever marks begin or end, and it says what was true until then (RFC 8257
/// §3.2; `dctcp_ece_ack_update`).
fn dctcp_ece_ack_update(net: &mut Net, tp: &mut Tcb, ce: bool) {
    if tp.ecn.has(Ecn::CE_STATE) != ce {
        if tp.ack_scheduled {
            tp.ecn.set(Ecn::DEMAND_CWR, !ce);
            tcp_send_ack(net, tp);
        }
        tp.ack_now = true;
    }
    tp.ecn.set(Ecn::CE_STATE, ce);
    tp.ecn.set(Ecn::DEMAND_CWR, ce);
}

/// Whether an acknowledgement echoes a mark (`tcp_ecn_rcv_ecn_echo`).
#[inline]
pub(crate) fn tcp_ecn_rcv_ecn_echo(tp: &Tcb, flags: TcpFlags) -> bool {
    flags.any(TcpFlags::ECE) && !flags.syn() && tp.ecn.has(Ecn::OK)
}

/// What an acknowledgement with an echo delivered counts as marked (`tcp_count_delivered_ce`).
pub(crate) fn tcp_count_delivered_ce(net: &Net, tp: &mut Tcb, delivered: u32) {
    tp.delivered_ce = tp.delivered_ce.wrapping_add(delivered);
    net.counts.inc_by(id::TcpExtTCPDeliveredCE, delivered as u64);
}
