//! Receive-side scaling: which queue of a device a flow belongs to.
//!
//! Linux: `ethtool -x`, `-X`, `-n`; net/ethtool/rss.c, ethtool's `fill_indir_table`

use std::fmt::{self, Write};

use linerate_arch::toeplitz::{KEY_LEN, VERIFICATION_KEY};

use super::hash::{self, FlowHash};
use crate::table::Knobs;
use crate::table::value::HashFields;

/// Entries of an indirection table.
pub const INDIR_LEN: usize = 128;

/// What a device distributes its packets by (`ethtool -x`).
#[derive(Clone, PartialEq, Eq)]
pub struct Rss {
    /// The Toeplitz key. Secret: who knows it can choose the queue.
    pub key: [u8; KEY_LEN],
    /// The queue of each hash, by its low bits.
    pub indir: [u8; INDIR_LEN],
    /// Both directions of a flow have one hash.
    pub symmetric: bool,
    /// What goes into the hash: of TCP and UDP over IPv4, then over IPv6.
    pub fields: [HashFields; 4],
}

impl fmt::Debug for Rss {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rss")
            .field("indir", &self.indir)
            .field("symmetric", &self.symmetric)
            .field("fields", &self.fields)
            .finish_non_exhaustive()
    }
}

impl Default for Rss {
    fn default() -> Rss {
        Rss {
            key: VERIFICATION_KEY,
            indir: [0; INDIR_LEN],
            symmetric: false,
            fields: [HashFields::ALL; 4],
        }
    }
}

impl Rss {
    /// What the knobs `rss.*` and `rx-flow-hash.*` say, for so many queues.
    pub fn new(key: [u8; KEY_LEN], knobs: &Knobs, queues: usize) -> Rss {
        Rss {
            key,
            indir: indir_table(knobs.rss_weight.shares(), queues),
            symmetric: knobs.rss_symmetric,
            fields: hash::fields(knobs),
        }
    }
    /// What computes its hash.
    pub fn hasher(&self) -> FlowHash {
        FlowHash::new(&self.key, self.fields, self.symmetric)
    }
    /// The queue of a packet with this hash. What has no hash goes to the queue of hash 0, as on
    /// cards.
    #[inline]
    pub fn queue_of(&self, hash: u32) -> u8 {
        self.indir[hash as usize % INDIR_LEN]
    }
    /// As `ethtool -x` prints it. The key is left out: it is a secret.
    pub fn show(&self, dev: &str, queues: usize) -> String {
        let mut out =
            format!("RX flow hash indirection table for {dev} with {queues} RX ring(s):\n");
        for (row, part) in self.indir.chunks(8).enumerate() {
            let _ = write!(out, "{:5}: ", row * 8);
            part.iter().for_each(|queue| {
                let _ = write!(out, " {queue:5}");
            });
            out.push('\n');
        }
        out.push_str(
            "RSS hash key:\n(random, kept secret)\nRSS hash function:\n    toeplitz: on\n",
        );
        let on = if self.symmetric { "on" } else { "off" };
        let _ = writeln!(out, "RSS input transformation:\n    symmetric-xor: {on}");
        out
    }
}

/// The indirection table: all queues alike, or by their shares (`ethtool -X equal`, `weight`).
pub fn indir_table(shares: &[u16], queues: usize) -> [u8; INDIR_LEN] {
    let queues = queues.clamp(1, u8::MAX as usize + 1);
    // A queue that is not there gets nothing.
    let shares = &shares[..shares.len().min(queues)];
    let sum: usize = shares.iter().map(|s| *s as usize).sum();
    if sum == 0 {
        return std::array::from_fn(|i| (i % queues) as u8);
    }
    let (mut queue, mut partial) = (0, shares.first().map_or(0, |s| *s as usize));
    std::array::from_fn(|i| {
        while i >= INDIR_LEN * partial / sum {
            queue += 1;
            partial += shares.get(queue).map_or(sum, |s| *s as usize);
        }
        queue as u8
    })
}

#[cfg(test)]
mod tests;
