//! Fast Open: data in the SYN, for peers that show the cookie that they were given before.
//!
//! before: [`super::request`], [`super::handshake`], [`super::api`]   after: [`super::rcvq`], [`super::output`]
//! Linux:  net/ipv4/tcp_fastopen.c `tcp_try_fastopen`, `tcp_fastopen_create_child`, `tcp_fastopen_cookie_check`, `tcp_rcv_fastopen_synack`
//! RFCs:   7413
//! drops:  NoSocket
//!
//! ```text
//! client: SYN, wish ──> SYN-ACK, cookie: kept for the next time
//!         SYN, cookie, data ──> SYN-ACK: what of the data it acknowledges need not be sent again
//! server: SYN, cookie, data ──> connection in SYN_RECV that can be accepted, read and written at once
//! ```

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use super::fastopen_active::tcp_fastopen_active_should_disable;
use super::input::Segment;
use super::output::{advmss, tcp_send_syn, tcp_sync_mss};
use super::rate::tcp_rate_skb_sent;
use super::rcvq::tcp_data_queue;
use super::request::Req;
use super::sndq::{LOST, PSH, TxSeg};
use super::timer::rearm_rto;
use super::{CaState, Connect, State, Tcb, TcpOpt, Tuple};
use crate::pkt::{Pkt, Verdict};
use crate::shard::{Net, Shard};
use crate::sock::error::TcpError;
use crate::sock::{Ready, SockKind, SocketId};
use crate::table::value::FastOpenKeys;
use crate::table::{Reason, count::id};
use crate::wire::tcp::{TcpFlags, TcpHdr};
use crate::wire::tcp_fastopen::FastOpen;
use crate::wire::tcp_options::TCP_OPTIONS_MAX;

/// Bits of `tcp_fastopen`: clients may use it.
const TFO_CLIENT_ENABLE: u64 = 1;
/// Listeners that ask for it may use it.
const TFO_SERVER_ENABLE: u64 = 2;
/// Clients send data with the SYN without having a cookie.
const TFO_CLIENT_NO_COOKIE: u64 = 4;
/// Listeners take data with the SYN without a cookie.
const TFO_SERVER_COOKIE_NOT_REQD: u64 = 0x200;
/// All listeners use it, whether they ask for it or not.
const TFO_SERVER_WO_SOCKOPT1: u64 = 0x400;

/// What TCP_INFO says of why a client's Fast Open failed (`enum tcp_fastopen_client_fail`): there is no
/// cookie.
const TFO_COOKIE_UNAVAILABLE: u8 = 1;
/// The SYN-ACK did not take all of the data.
const TFO_DATA_NOT_ACKED: u8 = 2;
/// The same, after the SYN had to be sent again.
const TFO_SYN_RETRANSMITTED: u8 = 3;

/// Hosts whose cookies are kept: those that we opened connections to last.
const HOSTS_MAX: usize = 1024;

/// What Fast Open knows beside the connections.
#[derive(Default)]
pub(crate) struct FastOpens {
    /// What hosts gave us (Linux keeps it in `tcp_metrics`).
    hosts: BTreeMap<IpAddr, Host>,
    /// Counts what is noted of hosts: the oldest goes first.
    noted: u64,
}

struct Host {
    noted: u64,
    mss: u16,
    cookie: Option<FastOpen>,
    /// Next time the experimental option is tried, since the other one was not understood.
    try_exp: bool,
}

/// What a client of Fast Open remembers until its SYN is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SynFastOpen {
    /// The option of the SYN; `None` = data without a cookie.
    pub option: Option<FastOpen>,
    /// Bytes of data in the SYN.
    pub data: u16,
}

/// What is done with a SYN where Fast Open is on.
pub(super) enum Try {
    /// Nothing: the ordinary handshake.
    Ordinary,
    /// The ordinary handshake, and the SYN-ACK carries a cookie.
    Give(FastOpen),
    /// The connection exists at once.
    Open,
}

impl Tcb {
    /// It exists by the cookie in its SYN; the handshake is not over yet (`tp->fastopen_rsk`).
    pub(crate) fn fastopen_child(&self) -> bool {
        self.state == State::SynRecv && self.opts().is_some_and(|o| o.fastopen_child)
    }
    /// Bytes of data that went with its SYN, until that is answered.
    pub(super) fn syn_data(&self) -> u32 {
        self.opts().and_then(|o| o.syn_fastopen).map_or(0, |syn| u32::from(syn.data))
    }
    /// What its SYN asks for by Fast Open, the first time that it is sent.
    pub(super) fn syn_fastopen(&self) -> Option<SynFastOpen> {
        let first = self.state == State::SynSent && self.total_retrans == 0;
        self.opts().filter(|_| first).and_then(|o| o.syn_fastopen)
    }
}

impl Shard {
    /// Opens a connection whose SYN may carry the first of `data` (MSG_FASTOPEN; RFC 7413 §4.2.2).
    /// Returns how many bytes of it are queued: 0 if there is no cookie of that host yet, which is
    /// asked for, or if `net.ipv4.tcp_fastopen` does not allow it.
    ///
    /// # Errors
    /// As [`Shard::tcp_connect_with`].
    pub fn tcp_connect_fastopen(
        &mut self,
        connect: Connect,
        opts: &[TcpOpt],
        data: &[u8],
    ) -> Result<(SocketId, usize), TcpError> {
        self.tcp_begin(connect, opts, Some(data))
    }
    /// Whether a SYN to that host may carry data: there is a cookie of it, or none is needed.
    pub fn tcp_fastopen_ready(&self, remote: SocketAddr) -> bool {
        let cookie = self.tcp.fastopens.hosts.get(&remote.ip()).is_some_and(|h| h.cookie.is_some());
        let knob = self.net.knobs.tcp_fastopen;
        knob & TFO_CLIENT_ENABLE != 0 && (cookie || knob & TFO_CLIENT_NO_COOKIE != 0)
    }
    /// Whether somebody waits for the connection to be established and will then write at once: the last
    /// acknowledgement of the handshake waits for that data (`sk_write_pending`).
    pub fn tcp_write_pending(&mut self, id: SocketId, pending: bool) {
        if let Some(tp) = super::api::owned(&mut self.tcp.conns, id)
            && tp.opts().is_some_and(|o| o.write_pending) != pending
        {
            tp.opts_mut().write_pending = pending;
        }
    }
    /// Forgets the cookies of all hosts (`ip tcp_metrics flush all`).
    pub fn tcp_fastopen_forget(&mut self) {
        self.tcp.fastopens.hosts.clear();
    }
}

/// What the SYN of a new connection asks for, and how many bytes of `data` go with it
/// (`tcp_fastopen_cookie_check`, `tcp_send_syn_data`).
pub(super) fn fastopen_syn(net: &mut Net, fo: &FastOpens, tp: &mut Tcb, data: &[u8]) -> usize {
    let knob = net.knobs.tcp_fastopen;
    if knob & TFO_CLIENT_ENABLE == 0 {
        return 0;
    }
    if tcp_fastopen_active_should_disable(net, tp) {
        return 0;
    }
    let host = fo.hosts.get(&tp.tuple.remote);
    let cookie = host.and_then(|h| h.cookie).filter(|_| knob & TFO_CLIENT_NO_COOKIE == 0);
    let mut syn = SynFastOpen { option: cookie, data: 0 };
    let pmtu = tp.pmtu;
    if cookie.is_some() || knob & TFO_CLIENT_NO_COOKIE != 0 {
        let user = tp.opts().map_or(0, |o| o.user_mss);
        let mss = host.map_or(tp.advmss, |h| h.mss).min(tp.advmss);
        tp.mss_clamp = if user > 0 { mss.min(user) } else { mss };
        let (ts, window) = (std::mem::take(&mut tp.ts_ok), std::mem::take(&mut tp.max_window));
        tcp_sync_mss(tp, pmtu);
        (tp.ts_ok, tp.max_window) = (ts, window);
        // Options that middleboxes add find room as well.
        let space = usize::from(tp.mss_cache).saturating_sub(TCP_OPTIONS_MAX);
        let n = space.min(data.len());
        tp.sndq.push_copy(net, &data[..n]);
        syn.data = n as u16;
    } else {
        syn.option = Some(FastOpen::request(host.is_some_and(|h| h.try_exp)));
        tp.opts_mut().fastopen_client_fail = TFO_COOKIE_UNAVAILABLE;
    }
    let o = tp.opts_mut();
    (o.syn_fastopen, o.fastopen_tried) = (Some(syn), true);
    usize::from(syn.data)
}

/// The path takes no SYN with so much data: it goes out again at once, without, and asks for segments that
/// fit (`tcp_simple_retransmit`).
pub(super) fn fastopen_syn_too_large(net: &mut Net, tp: &mut Tcb) {
    let fits = advmss(tp, tp.pmtu);
    if tp.state != State::SynSent || tp.syn_data() == 0 || tp.advmss <= fits {
        return;
    }
    tp.advmss = fits;
    tp.total_retrans += 1;
    net.counts.inc(id::TcpRetransSegs);
    net.counts.inc(id::TcpExtTCPSynRetrans);
    tcp_send_syn(net, tp);
}

/// What the SYN-ACK did not take of the SYN's data counts as lost, which says nothing of congestion, and is
/// sent again at once (`tcp_non_congestion_loss_retransmit`).
fn syn_data_lost(net: &mut Net, tp: &mut Tcb, len: u32) {
    let (seq, mss) = (tp.snd_una, tp.mss_cache.max(1));
    let segs = len.div_ceil(mss.into());
    let (sent, flags) = (net.now, LOST | PSH);
    tp.sndq.push_back(net, TxSeg { seq, len, sent, segs: segs as u16, mss, retrans: 0, flags });
    tp.sndq.note_lost(seq, true);
    tcp_rate_skb_sent(tp, 0, net.now);
    (tp.packets_out, tp.lost_out) = (segs, segs);
    tp.bytes_sent += u64::from(len);
    tp.snd_nxt = seq + len;
    (tp.high_seq, tp.ca_state, tp.undo_marker) = (tp.snd_nxt, CaState::Loss, None);
    rearm_rto(net, tp);
    tp.push = true;
}

/// The SYN of a client of Fast Open was answered: notes what the host gave, and how much of the data it
/// took (`tcp_rcv_fastopen_synack`). Whether the answer may bring data itself: it is Fast Open's, and
/// took all of ours.
pub(super) fn fastopen_synack(net: &mut Net, tp: &mut Tcb, seg: &Segment, options: &[u8]) -> bool {
    let Some(o) = tp.opts.as_deref_mut() else { return false };
    let Some(syn) = o.syn_fastopen.take() else { return false };
    let cookie = FastOpen::parse(options).filter(|c| !c.bytes().is_empty());
    let acked = (seg.ack - (tp.iss + 1)).min(u32::from(syn.data));
    let again = tp.total_retrans > 0;
    let asked = syn.option.filter(|c| c.bytes().is_empty());
    o.fastopen_told = Some(Told {
        mss: seg.opts.mss.unwrap_or(super::TCP_MSS_DEFAULT),
        cookie,
        // It may be that the option was not understood: the other one is tried next, and then this.
        try_exp: match asked {
            Some(request) if cookie.is_none() && !again => Some(!request.exp),
            _ => None,
        },
        // Something on the way may not let data in a SYN through.
        dropped: again && cookie.is_none() && syn.data > 0 && acked == 0,
    });
    let whole = acked == u32::from(syn.data);
    o.syn_data_acked = syn.data > 0 && whole;
    if !whole {
        o.fastopen_client_fail = if again { TFO_SYN_RETRANSMITTED } else { TFO_DATA_NOT_ACKED };
    }
    if !whole {
        net.counts.inc(id::TcpExtTCPFastOpenActiveFail);
    } else if syn.data > 0 {
        net.counts.inc(id::TcpExtTCPFastOpenActive);
    }
    if acked > 0 {
        let una = tp.iss + 1 + acked;
        tp.sndq.ack_to(net, una);
        (tp.snd_una, tp.snd_nxt) = (una, una);
        tp.bytes_acked += u64::from(acked);
        tp.bytes_sent += u64::from(acked);
        (tp.snd_sml, tp.snd_fack, tp.rack_end) = (una, una, una);
        (tp.high_seq, tp.cwnd_usage_seq) = (una, una);
    }
    tp.push = tp.unsent();
    if !whole {
        syn_data_lost(net, tp, u32::from(syn.data) - acked);
    }
    whole
}

/// What a SYN-ACK said about Fast Open, until the table of hosts has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    mss: u16,
    cookie: Option<FastOpen>,
    try_exp: Option<bool>,
    dropped: bool,
}

impl FastOpens {
    /// Notes what a host said (`tcp_fastopen_cache_set`).
    pub(super) fn note(&mut self, tp: &mut Tcb) {
        let Some(told) = tp.opts.as_deref_mut().and_then(|o| o.fastopen_told.take()) else {
            return;
        };
        let remote = tp.tuple.remote;
        if self.hosts.len() >= HOSTS_MAX && !self.hosts.contains_key(&remote) {
            let oldest = self.hosts.iter().min_by_key(|(_, h)| h.noted).map(|(addr, _)| *addr);
            if let Some(oldest) = oldest {
                self.hosts.remove(&oldest);
            }
        }
        self.noted += 1;
        let none = Host { noted: 0, mss: told.mss, cookie: None, try_exp: false };
        let host = self.hosts.entry(remote).or_insert(none);
        (host.noted, host.mss) = (self.noted, told.mss);
        if told.dropped {
            host.cookie = None;
        }
        host.cookie = told.cookie.or(host.cookie);
        host.try_exp = told.try_exp.unwrap_or(false);
    }
}

/// The key of cookies where `tcp_fastopen_key` does not say one.
fn own_key(secret: [u64; 4]) -> [u64; 2] {
    let [a, b, c, d] = secret;
    [siphash([a, b], b"fastopen"), siphash([c, d], b"fastopen")]
}

/// The cookies of a client, by each key: the first one is given, all are taken
/// (`__tcp_fastopen_cookie_gen_cipher`).
fn cookies(keys: &FastOpenKeys, secret: [u64; 2], tuple: &Tuple) -> Vec<FastOpen> {
    let mut ends = Vec::with_capacity(32);
    for ip in [tuple.remote, tuple.local] {
        match ip {
            IpAddr::V4(ip) => ends.extend(ip.octets()),
            IpAddr::V6(ip) => ends.extend(ip.octets()),
        }
    }
    let made = if keys.0.is_empty() { vec![secret] } else { keys.0.clone() };
    let cookie = |key: &[u64; 2]| FastOpen::cookie(&siphash(*key, &ends).to_le_bytes(), false);
    made.iter().filter_map(cookie).collect()
}

/// SipHash-2-4 of whole words.
fn siphash(key: [u64; 2], words: &[u8]) -> u64 {
    let mut v = [
        key[0] ^ 0x736f_6d65_7073_6575,
        key[1] ^ 0x646f_7261_6e64_6f6d,
        key[0] ^ 0x6c79_6765_6e65_7261,
        key[1] ^ 0x7465_6462_7974_6573,
    ];
    let round = |v: &mut [u64; 4]| {
        v[0] = v[0].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(13) ^ v[0];
        v[0] = v[0].rotate_left(32);
        v[2] = v[2].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(16) ^ v[2];
        v[0] = v[0].wrapping_add(v[3]);
        v[3] = v[3].rotate_left(21) ^ v[0];
        v[2] = v[2].wrapping_add(v[1]);
        v[1] = v[1].rotate_left(17) ^ v[2];
        v[2] = v[2].rotate_left(32);
    };
    let last = (words.len() as u64) << 56;
    let words = words.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word));
    for word in words.chain([last]) {
        v[3] ^= word;
        round(&mut v);
        round(&mut v);
        v[0] ^= word;
    }
    v[2] ^= 0xff;
    for _ in 0..4 {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

/// The options of a segment whose header has been pulled already.
pub(super) fn options_of(pkt: &Pkt) -> &[u8] {
    let header = pkt.from_transport();
    TcpHdr::parse(header).map_or(&[], |hdr| hdr.options(header))
}

impl Shard {
    /// Whether a SYN opens its connection at once (`tcp_try_fastopen`).
    pub(super) fn tcp_try_fastopen(
        &mut self,
        listener: u32,
        tuple: &Tuple,
        seg: &Segment,
        pkt: &Pkt,
    ) -> Try {
        let knob = self.net.knobs.tcp_fastopen;
        if knob & TFO_SERVER_ENABLE == 0 {
            return Try::Ordinary;
        }
        let option = FastOpen::parse(options_of(pkt));
        if option.is_none() && seg.len == 0 || !self.fastopen_queue_check(listener) {
            return Try::Ordinary;
        }
        let net = &self.net;
        if knob & TFO_SERVER_COOKIE_NOT_REQD != 0 {
            return Try::Open;
        }
        let Some(shown) = option else { return Try::Ordinary };
        let keys = self.tcp.listeners.at(listener).and_then(|l| l.fastopen_keys.as_ref());
        let keys = keys.unwrap_or(&net.knobs.tcp_fastopen_key);
        let ours = cookies(keys, own_key(self.tcp.secret), tuple);
        let give = |mut cookie: FastOpen| {
            cookie.exp = shown.exp;
            Try::Give(cookie)
        };
        if shown.bytes().is_empty() {
            net.counts.inc(id::TcpExtTCPFastOpenCookieReqd);
        } else if let Some(at) = ours.iter().position(|c| c.bytes() == shown.bytes()) {
            if at > 0 {
                net.counts.inc(id::TcpExtTCPFastOpenPassiveAltKey);
            }
            return Try::Open;
        } else {
            net.counts.inc(id::TcpExtTCPFastOpenPassiveFail);
        }
        ours.first().copied().map_or(Try::Ordinary, give)
    }

    /// Whether the listener may have one more connection whose handshake is not over
    /// (`tcp_fastopen_queue_check`).
    fn fastopen_queue_check(&mut self, listener: u32) -> bool {
        let Shard { net, tcp, .. } = self;
        let Some(l) = tcp.listeners.at_mut(listener) else { return false };
        let all = net.knobs.tcp_fastopen & TFO_SERVER_WO_SOCKOPT1 != 0;
        let most = match l.fastopen_max {
            Some(most) => u64::from(most).min(net.knobs.somaxconn),
            None if all => l.limit(net),
            None => 0,
        };
        if most == 0 {
            return false;
        }
        if l.fastopenq.len() as u64 >= most {
            // Those whose handshake is over meanwhile count no more.
            let open = |id: &SocketId| {
                tcp.conns.get(id.index, id.generation).is_some_and(|tp| tp.fastopen_child())
            };
            l.fastopenq.retain(open);
        }
        let room = (l.fastopenq.len() as u64) < most;
        if !room {
            net.counts.inc(id::TcpExtTCPFastOpenListenOverflow);
        }
        room
    }

    /// The connection that a SYN opens at once: it waits to be accepted, with the data of the SYN
    /// (`tcp_fastopen_create_child`).
    pub(super) fn tcp_fastopen_create_child(
        &mut self,
        listener: u32,
        req: &Req,
        seg: &Segment,
        mut pkt: Pkt,
    ) -> Verdict {
        let Shard { net, tcp, .. } = self;
        let Some(l) = tcp.listeners.at_mut(listener) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        let mut tp = Tcb::new(net, req.tuple, req.hash);
        super::syn_recv::child(net, &mut tp, req, l);
        net.counts.inc(id::TcpPassiveOpens);
        net.counts.inc(id::TcpExtTCPFastOpenPassive);
        tp.state = State::SynRecv;
        (tp.listener, tp.user) = (Some(l.id), l.user);
        tp.opts_mut().fastopen_child = true;
        (tp.snd_wnd, tp.max_window) = (seg.window.into(), seg.window.into());
        tp.snd_wl1 = seg.seq;
        let pmtu = tp.pmtu;
        tcp_sync_mss(&mut tp, pmtu);
        super::handshake::tcp_init_buffers(net, &mut tp);
        net.flow_begins(req.tuple.flow_key());
        let index = tcp.insert(tp);
        let (Some(tp), Some(l)) = (tcp.conns.at_mut(index), tcp.listeners.at_mut(listener)) else {
            return Verdict::Drop(pkt, Reason::NoSocket);
        };
        l.fastopenq.push(tp.id);
        l.accept.push_back(tp.id);
        net.events.raise(l.id, l.user, &mut l.pending, Ready::IN);
        tp.segs_in = 1;
        tp.opts_mut().syn_data_acked = seg.len > 0;
        let verdict = if seg.len > 0 {
            let text = Segment {
                seq: seg.seq + 1,
                end_seq: seg.seq + 1 + seg.len,
                flags: TcpFlags::ACK,
                ..*seg
            };
            pkt.sock = Some(tp.id);
            tcp_data_queue(net, tp, &text, pkt)
        } else {
            net.pool.free(pkt);
            Verdict::Taken
        };
        // The SYN-ACK acknowledges the data, and what came with a SYN tells nothing of the time between segments
        // (`tcp_fastopen_add_skb`): what comes next is acknowledged at once.
        (tp.ack_now, tp.ack_scheduled) = (false, false);
        (tp.ato_ms, tp.quick) = (0, 0);
        tp.delack_at = crate::time::Instant::NEVER;
        tcp_send_syn(net, tp);
        rearm_rto(net, tp);
        self.tcp_settle(index);
        verdict
    }

    /// Lets a listener take data with SYNs from peers that show a cookie, from so many at a time whose
    /// handshake is not over; 0 = from none (TCP_FASTOPEN). False if it is no listener.
    pub fn tcp_listen_fastopen(&mut self, id: SocketId, most: u32) -> bool {
        debug_assert!(id.kind == SockKind::Listen || most == 0 || self.tcp.listener(id).is_none());
        let listener = self.tcp.listener(id);
        listener.map(|l| l.fastopen_max = Some(most)).is_some()
    }

    /// Gives a listener cookies of its own: one key or two, of which the first one makes them and both are
    /// taken; none = those of `net.ipv4.tcp_fastopen_key` (TCP_FASTOPEN_KEY). False if it is no listener, or
    /// there are more keys.
    pub fn tcp_listen_fastopen_keys(&mut self, id: SocketId, keys: &[[u8; 16]]) -> bool {
        let half = |key: &[u8], at: usize| {
            key.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
        };
        let made: Vec<[u64; 2]> = keys.iter().map(|key| [half(key, 0), half(key, 8)]).collect();
        let Some(l) = self.tcp.listener(id).filter(|_| made.len() <= 2) else { return false };
        l.fastopen_keys = (!made.is_empty()).then_some(FastOpenKeys(made));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::value::KnobValue;

    #[test]
    fn cookies_are_those_that_linux_gives_for_the_same_key() {
        let keys = "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4";
        let keys = FastOpenKeys::parse(keys).expect("a key");
        let ip = |text: &str| text.parse().expect("an address");
        let (local, remote) = (ip("192.168.0.1"), ip("192.0.2.1"));
        let tuple = Tuple { local, remote, lport: 8080, rport: 1 };
        let cookie = cookies(&keys, [0; 2], &tuple);
        // Asked of Linux 6.18 with this key.
        assert_eq!(cookie[0].bytes(), 0x3021_b9d8_8901_7eeb_u64.to_be_bytes());
        assert_eq!(cookies(&FastOpenKeys::default(), [1, 2], &tuple).len(), 1);
    }
}
