//! SYN cookies: a listener that has as many half-open connections as it may keep answers a SYN and forgets
//! it; what it would have to know comes back in the number that the peer acknowledges, and in its timestamp.
//!
//! before: [`super::request`], [`super::listen`]   after: [`super::syn_recv`], the accept queue
//! Linux:  net/ipv4/syncookies.c `cookie_v4_init_sequence`, `cookie_init_timestamp`, `cookie_v4_check`,
//!         `cookie_timestamp_decode`; net/ipv6/syncookies.c
//! RFCs:   4987 §3.6
//! drops:  NoSocket
//!
//! ```text
//! sequence number   (keyed hash of both ends) + the peer's number + (minutes << 24)
//!                   + (keyed hash of both ends, minutes and the peer's number
//!                      + which maximum segment size, 24 bits)
//! timestamp         milliseconds, of which the last six bits are   ECN, SACK, window scale (15: none)
//! ```
//!
//! The second hash does not have the peer's number on Linux. There a segment that comes before the one that
//! completes the handshake, and begins up to three bytes later, is taken for that one with another maximum
//! segment size: those bytes are lost, and nobody is told.

use std::net::IpAddr;

use super::ecn::tcp_ecn_create_request;
use super::input::Segment;
use super::request::{Req, tcp_v4_send_synack};
use super::{Sockets, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::seq::Seq;
use crate::shard::{Net, Shard};
use crate::table::{Reason, count::id};
use crate::time::{Instant, SEC};
use crate::wire::TcpOptions;

/// Maximum segment sizes that a cookie can tell (`msstab`): what IPv4's peers mostly have, and IPv6's.
const MSSTAB_V4: [u16; 4] = [536, 1300, 1440, 1460];
const MSSTAB_V6: [u16; 4] = [1280 - 60, 1480 - 60, 1500 - 60, 9000 - 60];
/// Minutes that a cookie is good for (`MAX_SYNCOOKIE_AGE`).
const MAX_SYNCOOKIE_AGE: u32 = 2;
/// Nanoseconds after the last cookie in which one may come back (`TCP_SYNCOOKIE_VALID`).
const TCP_SYNCOOKIE_VALID: u64 = MAX_SYNCOOKIE_AGE as u64 * 60 * SEC;
const COOKIE_MASK: u32 = 0x00ff_ffff;
/// Bits of the timestamp: the window scale with [`TS_OPT_WSCALE_MASK`] for none, SACK, ECN.
const TSMASK: u32 = 0x3f;
const TS_OPT_WSCALE_MASK: u32 = 0xf;
const TS_OPT_SACK: u32 = 1 << 4;
const TS_OPT_ECN: u32 = 1 << 5;

impl Shard {
    /// Answers a SYN by a cookie; nothing of it stays (`cookie_v4_init_sequence`).
    pub(super) fn cookie_send(
        &mut self,
        listener: u32,
        tuple: &Tuple,
        hash: u32,
        seg: &Segment,
        pkt: Pkt,
    ) -> Verdict {
        let Shard { net, tcp, .. } = self;
        let Some(l) = tcp.listeners.at_mut(listener) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        l.synq_overflow = Some(net.now);
        let lid = l.id;
        let (at, mss) = mss_of(tuple, seg.opts.mss.unwrap_or(super::TCP_MSS_DEFAULT));
        let mut opts = seg.opts;
        opts.mss = Some(mss);
        if opts.ts.is_none() || !net.knobs.tcp_timestamps {
            // There is nowhere to keep them.
            opts = TcpOptions { mss: opts.mss, ..TcpOptions::NONE };
        }
        // What is switched off here is not told: it would come back as what can not be ours.
        opts.sack_permitted &= net.knobs.tcp_sack;
        opts.wscale = opts.wscale.filter(|_| net.knobs.tcp_window_scaling);
        let ecn_ok = opts.ts.is_some() && tcp_ecn_create_request(net, seg.flags, pkt.tos);
        let ts_offset = tcp.secure_ts_off(tuple);
        let tsval = init_timestamp(net, &opts, ecn_ok).wrapping_add(ts_offset);
        let req = Req {
            tuple: *tuple,
            hash,
            listener: lid,
            irs: seg.seq,
            iss: tcp.cookie(tuple, seg.seq, minutes(net.now), at),
            opts,
            tos: pkt.tos,
            ecn_ok,
            said: None,
            retries: 0,
            acked: false,
            oow_at: Instant::ZERO,
            held: None,
            ts_offset,
            ts_recent: opts.ts.map_or(0, |(val, _)| val),
            sent_at: net.now,
            due: Instant::NEVER,
        };
        net.counts.inc(id::TcpExtTCPReqQFullDoCookies);
        net.counts.inc(id::TcpExtSyncookiesSent);
        if let Some(l) = tcp.listeners.at(listener) {
            tcp_v4_send_synack(net, &req, l, Some(tsval), None);
        }
        net.pool.free(pkt);
        Verdict::Taken
    }

    /// The half-open connection that an acknowledgement brings back, if it has a cookie of ours
    /// (`cookie_v4_check`). `found` is the listener of its port, or one of several.
    pub(super) fn cookie_check(
        &mut self,
        found: u32,
        tuple: &Tuple,
        hash: u32,
        seg: &Segment,
        pkt: &Pkt,
    ) -> Option<Req> {
        let Shard { net, tcp, .. } = self;
        if net.knobs.tcp_syncookies == 0 {
            return None;
        }
        let Sockets { listen, listeners, .. } = &mut *tcp;
        let listener = listen.choose(listeners, found, tuple, pkt);
        let lid = listeners.at(listener)?.id;
        // Another one of its group may have sent it.
        let sent =
            listen.group(listeners, listener).filter_map(|i| listeners.at(i)?.synq_overflow).max();
        if net.now.since(sent?) > TCP_SYNCOOKIE_VALID {
            return None;
        }
        let (irs, iss) = (Seq(seg.seq.0.wrapping_sub(1)), Seq(seg.ack.0.wrapping_sub(1)));
        let mss = tcp.cookie_mss(tuple, irs, iss, minutes(net.now));
        let Some(mss) = mss else {
            net.counts.inc(id::TcpExtSyncookiesFailed);
            return None;
        };
        net.counts.inc(id::TcpExtSyncookiesRecv);
        let ts_offset = tcp.secure_ts_off(tuple);
        let opts = decode_timestamp(net, seg, ts_offset, mss)?;
        Some(Req {
            tuple: *tuple,
            hash,
            listener: lid,
            irs,
            iss,
            opts,
            tos: pkt.tos,
            ecn_ok: cookie_ecn_ok(net, seg, ts_offset),
            said: None,
            // When it was sent is not known, as if it had been sent twice (Karn).
            retries: 1,
            acked: false,
            oow_at: Instant::ZERO,
            held: None,
            ts_offset,
            ts_recent: opts.ts.map_or(0, |(val, _)| val),
            sent_at: net.now,
            due: Instant::NEVER,
        })
    }
}

impl Sockets {
    /// The number to begin with (`secure_tcp_syn_cookie`).
    fn cookie(&self, tuple: &Tuple, irs: Seq, minute: u32, data: u32) -> Seq {
        let of_time = self.cookie_hash(tuple, Some((minute, irs))).wrapping_add(data) & COOKIE_MASK;
        let of_ends = self.cookie_hash(tuple, None).wrapping_add(irs.0);
        Seq(of_ends.wrapping_add(minute << 24).wrapping_add(of_time))
    }

    /// The maximum segment size that `iss` says if it is a cookie of the last minutes
    /// (`check_tcp_syn_cookie`).
    fn cookie_mss(&self, tuple: &Tuple, irs: Seq, iss: Seq, minute: u32) -> Option<u16> {
        let of_ends = self.cookie_hash(tuple, None).wrapping_add(irs.0);
        let cookie = iss.0.wrapping_sub(of_ends);
        let age = minute.wrapping_sub(cookie >> 24) & 0xff;
        if age >= MAX_SYNCOOKIE_AGE {
            return None;
        }
        let of_time = self.cookie_hash(tuple, Some((minute.wrapping_sub(age), irs)));
        let at = cookie.wrapping_sub(of_time) & COOKIE_MASK;
        msstab(tuple).get(at as usize).copied()
    }
}

fn msstab(tuple: &Tuple) -> &'static [u16; 4] {
    match tuple.local {
        IpAddr::V4(_) => &MSSTAB_V4,
        IpAddr::V6(_) => &MSSTAB_V6,
    }
}

/// The largest of the table that is not above `mss`, or the smallest, and its place.
fn mss_of(tuple: &Tuple, mss: u16) -> (u32, u16) {
    let table = msstab(tuple);
    let at = table.iter().rposition(|m| *m <= mss).unwrap_or(0);
    (at as u32, table[at])
}

/// The clock of cookies (`tcp_cookie_time`).
fn minutes(now: Instant) -> u32 {
    (now.ns() / (60 * SEC)) as u32
}

/// The latest time not after now whose last bits are the options (`cookie_init_timestamp`).
fn init_timestamp(net: &Net, opts: &TcpOptions, ecn_ok: bool) -> u32 {
    let mut bits = opts.wscale.map_or(TS_OPT_WSCALE_MASK, u32::from);
    if opts.sack_permitted {
        bits |= TS_OPT_SACK;
    }
    if ecn_ok {
        bits |= TS_OPT_ECN;
    }
    let now = net.now.ms() as u32;
    let ts = now & !TSMASK | bits;
    if ts > now { ts.wrapping_sub(TSMASK + 1) } else { ts }
}

/// Whether the peer's echo of our timestamp says that ECN was agreed on (`cookie_ecn_ok`).
fn cookie_ecn_ok(net: &Net, seg: &Segment, offset: u32) -> bool {
    let bits = seg.opts.ts.map_or(0, |(_, echo)| echo.wrapping_sub(offset) & TSMASK);
    let ours = net.knobs.tcp_ecn > 0 || net.knobs.tcp_congestion_control.needs_ecn();
    bits & TS_OPT_ECN != 0 && ours
}

/// The options that the peer's echo of our timestamp says (`cookie_timestamp_decode`). `None`: it can not be
/// ours, because it has what is switched off here.
fn decode_timestamp(net: &Net, seg: &Segment, offset: u32, mss: u16) -> Option<TcpOptions> {
    let none = TcpOptions { mss: Some(mss), ..TcpOptions::NONE };
    let Some((val, echo)) = seg.opts.ts else { return Some(none) };
    if !net.knobs.tcp_timestamps {
        return None;
    }
    let bits = echo.wrapping_sub(offset) & TSMASK;
    let sack_permitted = bits & TS_OPT_SACK != 0;
    let scale = bits & TS_OPT_WSCALE_MASK;
    let wscale = (scale != TS_OPT_WSCALE_MASK).then_some(scale as u8);
    if sack_permitted && !net.knobs.tcp_sack || wscale.is_some() && !net.knobs.tcp_window_scaling {
        return None;
    }
    Some(TcpOptions { wscale, sack_permitted, ts: Some((val, echo)), ..none })
}
