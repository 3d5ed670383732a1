//! The network card of a host with several shards: which of its queues a frame comes by.

use linerate_core::rx::steer::RuleWanted;
use linerate_core::rx::steer::hash::{FlowHash, dissect};
use linerate_core::rx::steer::ntuple::{RuleAction, Rules};
use linerate_core::rx::steer::rss::{INDIR_LEN, Rss};

/// Rules that it has room for.
const RULES: usize = 256;

/// One device of a host. Queue `n` is that of shard `n`.
pub(crate) struct Card {
    rss: Rss,
    hash: FlowHash,
    rules: Rules,
    ethernet: bool,
}

impl Card {
    pub fn new(rss: Rss, ethernet: bool) -> Card {
        let hash = rss.hasher();
        Card { rss, hash, rules: Rules::new(RULES, 0), ethernet }
    }
    /// It distributes so from now on; what lies in its rings stays there.
    pub fn set_rss(&mut self, rss: Rss) {
        self.hash = rss.hasher();
        self.rss = rss;
    }
    /// The queue of each hash.
    pub fn set_indir(&mut self, indir: [u8; INDIR_LEN]) {
        self.rss.indir = indir;
    }
    /// Takes or forgets a rule of shard `cpu`; whether it did. Each shard has locations of its own.
    pub fn set_rule(&mut self, cpu: usize, wanted: &RuleWanted) -> bool {
        let location = wanted.location | (cpu as u32) << 24;
        match &wanted.rule {
            Some(rule) => self.rules.set(Some(location), rule.clone()).is_ok(),
            None => self.rules.delete(location).is_ok(),
        }
    }
    /// The queue of a frame, of so many that are open, and its hash.
    pub fn queue_of(&self, frame: &[u8], queues: usize) -> (usize, u32) {
        let keys = dissect(frame, self.ethernet);
        let hash = keys.as_ref().map_or(0, |keys| self.hash.of(keys));
        let queue = match keys.and_then(|keys| self.rules.find(&keys)) {
            Some(RuleAction::Queue(queue)) if usize::from(queue) < queues => queue,
            // A queue that is not there: as if there were no rule.
            _ => self.rss.queue_of(hash),
        };
        (usize::from(queue).min(queues - 1), hash)
    }
}
