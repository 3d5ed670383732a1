//! First to fourth check of a segment (RFC 9293 §3.10.7.4): sequence number and PAWS, RST, SYN, and whether there is an ACK.
//!
//! before: [`super::input`]   after: [`super::ack`]
//! Linux:  net/ipv4/tcp_input.c `tcp_validate_incoming`, `tcp_sequence`, `tcp_paws_check`, `tcp_reset`
//! RFCs:   9293 §3.10.7.4, 5961 (blind attacks), 7323 §5 (PAWS)
//! drops:  TcpFlags, TcpPaws, TcpPawsAck, TcpInvalidSequence, TcpInvalidSyn, TcpReset

use super::input::Segment;
use super::{State, Tcb};
use crate::shard::Net;
use crate::sock::error::TcpError;
use crate::table::Reason;
use crate::table::count::{Id, Packets, id};
use crate::time::{Instant, MS, SEC};
use crate::wire::tcp::TcpFlags;

/// First to fourth check: sequence number, RST, (security,) SYN (`tcp_validate_incoming`).
pub(super) fn tcp_validate_incoming(
    net: &mut Net,
    tp: &mut Tcb,
    seg: &Segment,
) -> Result<(), Reason> {
    if paws_discard(net, tp, seg) && !seg.flags.rst() {
        if seg.flags.syn() {
            tp.challenge = true;
            return Err(Reason::TcpInvalidSyn);
        }
        if seg.flags.ack() && seg.seq == seg.end_seq && seg.seq.lt(tp.rcv_nxt) {
            return Err(Reason::TcpPawsAck);
        }
        tcp_send_dupack(net, tp, seg, id::TcpExtTCPACKSkippedPAWS);
        return Err(Reason::TcpPaws);
    }
    tcp_sequence(net, tp, seg)?;
    if seg.flags.rst() {
        return Err(tcp_rst(net, tp, seg));
    }
    if seg.flags.syn() {
        // Opened from both ends: the SYN-ACK repeats the SYN that we have.
        let crossed = tp.state == State::SynRecv
            && seg.flags.ack()
            && seg.seq + 1 == seg.end_seq
            && seg.end_seq == tp.rcv_nxt
            && seg.ack == tp.snd_nxt + tp.syn_data();
        if !crossed {
            tp.challenge = true;
            return Err(Reason::TcpInvalidSyn);
        }
    }
    if !seg.flags.ack() {
        return Err(Reason::TcpFlags);
    }
    Ok(())
}

/// A segment may be older than the newest by one tick of the timestamps' clock (`TCP_PAWS_WINDOW`): what was sent
/// beside a retransmission and arrives behind it is none of an older round of sequence numbers.
const TCP_PAWS_WINDOW: i32 = 1;

/// Protection against wrapped sequence numbers (RFC 7323 §5.3; `tcp_paws_check`).
#[inline]
pub(super) fn paws_discard(net: &Net, tp: &Tcb, seg: &Segment) -> bool {
    let Some((val, _)) = seg.opts.ts else { return false };
    let older = tp.ts_recent.wrapping_sub(val) as i32;
    if !tp.ts_ok || older <= TCP_PAWS_WINDOW || tp.ts_recent == 0 {
        return false;
    }
    // After 24 days the clock itself may have wrapped.
    if net.now.since(tp.ts_recent_at) > 24 * 86_400 * SEC {
        return false;
    }
    let window = u32::from(seg.window) << tp.snd_wscale;
    // An acknowledgement that reordering made a little late does no harm (`tcp_disordered_ack_check`).
    let harmless = seg.flags.ack()
        && seg.seq == tp.rcv_nxt
        && seg.len == 0
        && seg.ack == tp.snd_una
        && !seg.flags.any(TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST)
        && !(seg.seq.gt(tp.snd_wl1) || window > tp.snd_wnd || window == 0)
        && tp.ts_recent.wrapping_sub(val) as u64 <= tp.rto_us as u64 * 12 / 10_000;
    !harmless
}

/// First check: some part of the segment lies in the window (`tcp_sequence`).
fn tcp_sequence(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Result<(), Reason> {
    let old = seg.end_seq.lt(tp.rcv_wup);
    let beyond = seg.seq.gt(tp.rcv_nxt + tp.receive_window());
    if !old && !beyond {
        return Ok(());
    }
    if !seg.flags.rst() {
        if seg.flags.syn() {
            tp.challenge = true;
            return Err(Reason::TcpInvalidSyn);
        }
        tcp_send_dupack(net, tp, seg, id::TcpExtTCPACKSkipped);
    }
    Err(Reason::TcpInvalidSequence)
}

/// The peer is told what we expect (`tcp_send_dupack`); at a limited rate where both sides might
/// else answer each other for ever.
fn tcp_send_dupack(net: &mut Net, tp: &mut Tcb, seg: &Segment, skipped: Id<Packets>) {
    if seg.end_seq == seg.seq && oow_rate_limited(net, tp, skipped) {
        return;
    }
    tp.note_duplicate(net, seg);
    tp.ack_now = true;
}

/// Whether a segment out of the window is not answered, because one was lately
/// (`tcp_oow_rate_limited`); counted as `skipped`.
pub(crate) fn oow_rate_limited(net: &Net, tp: &mut Tcb, skipped: Id<Packets>) -> bool {
    let every = net.knobs.tcp_invalid_ratelimit * MS;
    let limited = tp.oow_ack_at != Instant::ZERO && net.now.since(tp.oow_ack_at) < every;
    if limited {
        net.counts.inc(skipped);
    } else {
        tp.oow_ack_at = net.now;
    }
    limited
}

/// Second check: a reset counts only if it names exactly what is expected (RFC 5961 §3.2); what
/// merely lies in the window is questioned.
fn tcp_rst(net: &mut Net, tp: &mut Tcb, seg: &Segment) -> Reason {
    let exact = seg.seq == tp.rcv_nxt || tp.rcvq.ooo_end() == Some(seg.seq);
    if !exact {
        tp.challenge = true;
        return Reason::TcpReset;
    }
    tcp_reset(net, tp);
    Reason::TcpReset
}

/// The connection is over; what the application is told depends on how far it was (`tcp_reset`).
pub(super) fn tcp_reset(net: &mut Net, tp: &mut Tcb) {
    let err = match tp.state {
        State::CloseWait => Some(TcpError::Closed),
        State::Closing | State::LastAck => None,
        _ => Some(TcpError::Reset),
    };
    tp.done(net, err);
}
