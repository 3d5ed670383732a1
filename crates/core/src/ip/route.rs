//! Stage `Route`, RX.
use crate::pkt::{Pkt, Verdict};
use crate::shard::Shard;
/// Routes.
#[derive(Default)]
pub struct Fib;
/// Local or not.
#[inline]
pub fn ip_route_input(_cx: &mut Shard, pkt: Pkt) -> Verdict {
    Verdict::Pass(pkt)
}
