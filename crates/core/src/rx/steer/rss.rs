//! Receive-side scaling: which queue of a device a flow belongs to.

use linerate_arch::toeplitz::{KEY_LEN, VERIFICATION_KEY};

/// Entries of an indirection table.
pub const INDIR_LEN: usize = 128;

/// What a device distributes its packets by (`ethtool -x`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rss {
    /// The Toeplitz key. Secret: who knows it can choose the queue.
    pub key: [u8; KEY_LEN],
    /// The queue of each hash, by its low bits.
    pub indir: [u8; INDIR_LEN],
    /// Both directions of a flow have one hash.
    pub symmetric: bool,
}

impl Default for Rss {
    fn default() -> Rss {
        Rss { key: VERIFICATION_KEY, indir: [0; INDIR_LEN], symmetric: false }
    }
}
