//! Echo, discard, chargen and DNS over UDP.
//!
//! RFCs: 862, 863, 864, 1035 §4.2.1
//!
//! Two such services must not keep each other busy for ever (CERT CA-1996-01), nor be used against
//! somebody whose address was forged: nothing is answered that comes from the port of such a service
//! or was sent to many, and no answer but a name server's is longer than what it answers.

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::udp::api::Datagram;
use linerate_core::udp::output::SendTo;

use super::{Served, dns, stream};
use crate::up::config::Kind;

/// Datagrams served in a turn, each socket.
pub(super) const PER_TURN: usize = 512;
/// Pieces that a datagram may be in without costing an allocation: its head and some fragments.
const PIECES: usize = 24;
/// Characters that chargen sends at the most (RFC 864).
const CHARGEN_MAX: usize = 512;

/// Serves what waits, at most `most` datagrams; true if more may wait.
pub(super) fn serve(
    shard: &mut Shard,
    id: SocketId,
    served: &Served,
    text: &mut Vec<u8>,
    most: usize,
) -> bool {
    for _ in 0..most {
        let Some(datagram) = shard.udp_recv(id) else { return false };
        match &served.service.kind {
            Kind::Echo if may_answer(shard, &datagram) => echo(shard, id, &datagram),
            Kind::Chargen if may_answer(shard, &datagram) => chargen(shard, id, &datagram, text),
            Kind::Dns(zone) if shard.net.fib.is_local(datagram.dst().ip()) => {
                name_server(shard, id, &datagram, zone, text);
            }
            _ => {}
        }
        shard.udp_done(datagram);
    }
    true
}

fn may_answer(shard: &Shard, datagram: &Datagram) -> bool {
    // Echo, daytime, quote of the day, chargen, time: whatever answers everything.
    let talks = [7, 13, 17, 19, 37].contains(&datagram.src().port());
    !talks && datagram.src() != datagram.dst() && shard.net.fib.is_local(datagram.dst().ip())
}

fn back(datagram: &Datagram) -> SendTo {
    SendTo { src: Some(datagram.dst()), ..SendTo::to(datagram.src()) }
}

// A full queue loses the answer, as UDP may; it is counted there.

fn echo(shard: &mut Shard, id: SocketId, datagram: &Datagram) {
    let gso_size = datagram.segment_size().map_or(0, |s| s as u16);
    let to = SendTo { gso_size, ..back(datagram) };
    let mut parts: [&[u8]; PIECES] = [&[]; PIECES];
    let mut n = 0;
    for slice in datagram.slices() {
        let Some(part) = parts.get_mut(n) else {
            let all: Vec<&[u8]> = datagram.slices().collect();
            let _ = shard.udp_send(id, to, &all);
            return;
        };
        *part = slice;
        n += 1;
    }
    let _ = shard.udp_send(id, to, &parts[..n]);
}

fn chargen(shard: &mut Shard, id: SocketId, datagram: &Datagram, text: &mut Vec<u8>) {
    let begin = shard.net.rng.below(stream::PATTERN as u64) as usize;
    text.clear();
    text.extend((begin..begin + datagram.len().min(CHARGEN_MAX)).map(stream::pattern));
    let _ = shard.udp_send(id, back(datagram), &[text]);
}

fn name_server(
    shard: &mut Shard,
    id: SocketId,
    datagram: &Datagram,
    zone: &dns::Zone,
    text: &mut Vec<u8>,
) {
    // Received super-packets are several queries; they come whole from few peers, so each is cut
    // out of a copy.
    let mut all = [0; dns::QUERY_MAX];
    let size = datagram.segment_size().unwrap_or(datagram.len());
    if datagram.len() > all.len() {
        return;
    }
    let mut len = 0;
    for slice in datagram.slices() {
        all[len..len + slice.len()].copy_from_slice(slice);
        len += slice.len();
    }
    for query in all[..len].chunks(size.max(1)) {
        text.clear();
        if zone.answer(query, dns::Via::Udp, text) {
            let _ = shard.udp_send(id, back(datagram), &[text]);
        }
    }
}
