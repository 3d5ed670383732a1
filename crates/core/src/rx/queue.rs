//! Stage `SockQueue`, RX: the datagram, or the echo request, waits for its reader. TCP has a queue of
//! its own, which Transport fills (`tcp/rcvq.rs`).
//!
//! before: [`crate::udp::input`], [`crate::ip::icmp`]   after: the application
//! Linux:  net/core/sock.c `sock_queue_rcv_skb`, net/ipv4/udp.c `__udp_enqueue_schedule_skb`
//! drops:  none here: each kind of socket has its own limits

use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
use crate::sock::SockKind;

/// Queues a datagram or a message to the socket that Demux found. TCP queues its own data.
#[inline(always)]
pub fn sock_queue_rcv_skb(cx: &mut Shard, pkt: Pkt) -> Verdict {
    match pkt.sock {
        Some(id) if id.kind == SockKind::Udp => crate::udp::input::udp_queue_rcv_skb(cx, id, pkt),
        _ => crate::ip::icmp::ping_queue_rcv_skb(cx, pkt),
    }
}
