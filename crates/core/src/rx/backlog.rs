//! Stage `Backlog`, RX: the shard's bounded input queue.
//!
//! before: [`crate::rx::steer`] of another shard, [`crate::ip::output`] (loopback), devices without NAPI
//! after:  [`crate::path::process_backlog`], which sends them up from [`crate::link::input`] on
//! Linux:  net/core/dev.c `enqueue_to_backlog`, `netif_rx`
//! drops:  CpuBacklog

use crate::pkt::Pkt;
use crate::shard::Net;
use crate::table::{Reason, Stage};
use crate::trace::{self, Said};

/// Puts a packet into the input queue (`netif_rx`); drops it if `netdev_max_backlog` wait already.
pub fn netif_rx(net: &mut Net, pkt: Pkt) {
    net.counts.flow(Stage::Backlog).enter(1);
    if net.backlog.len() as u64 >= net.knobs.netdev_max_backlog {
        net.kfree_skb_reason(Stage::Backlog, pkt, Reason::CpuBacklog);
        return;
    }
    net.counts.flow(Stage::Backlog).hold(1);
    trace::say(&mut net.trace, Stage::Backlog, &pkt, Said::Held);
    net.backlog.push_back(pkt);
}
