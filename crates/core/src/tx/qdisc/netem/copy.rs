//! A second packet with the same bytes (Linux: `skb_copy`).

use crate::pkt::{LARGE, Pkt, Pool};

/// A copy of `from` that shares no memory with it; `None` where there is no memory for one.
pub(super) fn skb_copy(pool: &mut Pool, from: &Pkt) -> Option<Pkt> {
    let mut pkt = pool.alloc()?;
    let (len, link) = (from.len(), from.data_offset());
    let head = len.min(pkt.tailroom());
    if pool.large_left() < (len - head).div_ceil(LARGE) {
        pool.free(pkt);
        return None;
    }
    let mut done = from.copy_bits(0, pkt.put(head));
    while done < len {
        let Some(mut buf) = pool.alloc_large() else { break };
        let part = LARGE.min(len - done);
        done += from.copy_bits(done, &mut buf[..part]);
        pkt.add_buf(buf, 0, part);
    }
    pkt.copy_header(from);
    (pkt.csum, pkt.gso, pkt.gso_fixed_id) = (from.csum, from.gso, from.gso_fixed_id);
    // The headers lie elsewhere in its memory.
    let moved = |at: u32| at.wrapping_sub(link).wrapping_add(pkt.data_offset());
    (pkt.network, pkt.transport) = (moved(from.network), moved(from.transport));
    Some(pkt)
}
