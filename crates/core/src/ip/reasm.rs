//! Stage `Reasm`.
use crate::pkt::Batch;
use crate::rand::Keyed;
use crate::shard::Shard;
use crate::time::Instant;
/// Waiting fragments.
pub struct Table;
impl Table {
    /// Empty.
    pub fn new(_key: Keyed) -> Table {
        Table
    }
    /// When something is due.
    pub fn next_timer(&self) -> Option<Instant> {
        None
    }
}
/// Puts together.
pub fn ip_defrag(_cx: &mut Shard, _batch: &mut Batch) {}
/// Serves what is due.
pub fn timers(_cx: &mut Shard) {}
