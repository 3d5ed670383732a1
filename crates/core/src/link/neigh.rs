//! Neighbours.
use crate::rand::Keyed;
use crate::shard::Shard;
use crate::time::Instant;
/// The neighbour table.
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
/// Serves what is due.
pub fn timers(_cx: &mut Shard) {}
