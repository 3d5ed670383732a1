//! Stage `Link`, RX.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
use crate::wire::{ETH_P_IP, ETH_P_IPV6};

/// Chooses the protocol.
pub fn netif_receive_skb(_cx: &mut Shard, mut pkt: Pkt) -> Verdict {
    pkt.network = pkt.data_offset();
    pkt.proto = if pkt.head().first().is_some_and(|b| b >> 4 == 6) { ETH_P_IPV6 } else { ETH_P_IP };
    Verdict::Pass(pkt)
}
