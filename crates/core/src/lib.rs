#![doc = include_str!("README.md")]
#![forbid(unsafe_code)]

pub mod path;
pub mod shard;
pub mod table;
pub mod pkt;
pub mod wire;
pub mod rx;
pub mod link;
pub mod ip;
pub mod udp;
pub mod tcp;
pub mod sock;
pub mod tx;
pub mod tap;
pub mod trace;
pub mod time;
pub mod rand;
pub mod seq;

use pkt::{Pkt, Verdict};
use shard::Shard;
use wire::{IPPROTO_TCP, IPPROTO_UDP};

/// Stage `Transport`, RX: to the protocol's input function.
#[inline(always)]
fn transport_rcv(cx: &mut Shard, pkt: Pkt) -> Verdict {
    match pkt.ip_proto {
        IPPROTO_UDP => udp::input::udp_rcv(cx, pkt),
        IPPROTO_TCP => tcp::input::tcp_rcv(cx, pkt),
        _ => ip::icmp::icmp_rcv(cx, pkt),
    }
}
