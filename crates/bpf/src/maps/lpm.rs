//! The table of an LPM trie: the longest prefix that a key begins with.
//!
//! A node is a prefix; its children begin with it and differ in the next bit. A node of two children
//! may be there for the fork only, without a value.
//!
//! Linux: kernel/bpf/lpm_trie.c

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::seq::Seq;
use super::{EXIST, Errno, NOEXIST, errno};

const NONE: u32 = u32::MAX;

#[derive(Debug)]
struct Node {
    /// Bits of the prefix.
    len: AtomicU32,
    /// The slot of its value; none if it is a fork.
    slot: AtomicU32,
    child: [AtomicU32; 2],
}

#[derive(Debug)]
pub(crate) struct Lpm {
    root: AtomicU32,
    nodes: Box<[Node]>,
    /// The bits of each node's prefix, first bit highest.
    bits: Box<[AtomicU64]>,
    /// Words of a prefix.
    words: usize,
    /// Bits that a prefix has at the most.
    max: u32,
    entries: u32,
    count: AtomicU32,
    seq: Seq,
    free: Mutex<Free>,
}

#[derive(Debug)]
struct Free {
    nodes: Vec<u32>,
    slots: Vec<u32>,
}

/// A key: its length in bits, and the words of its data.
struct Key {
    len: u32,
    words: [u64; 32],
}

impl Key {
    fn bit(&self, at: u32) -> usize {
        let word = self.words.get(at as usize / 64).copied().unwrap_or(0);
        (word >> (63 - at % 64) & 1) as usize
    }
}

impl Lpm {
    /// How many slots for values a trie of so many entries has: one more, to replace a value by.
    pub fn slots(entries: u32) -> usize {
        entries as usize + 1
    }

    pub fn new(entries: u32, key_size: usize) -> Lpm {
        let nodes = 2 * entries as usize + 2;
        let words = (key_size - 4).div_ceil(8);
        let node = |_| Node {
            len: AtomicU32::new(0),
            slot: AtomicU32::new(NONE),
            child: [AtomicU32::new(NONE), AtomicU32::new(NONE)],
        };
        Lpm {
            root: AtomicU32::new(NONE),
            nodes: (0..nodes).map(node).collect(),
            bits: (0..nodes * words).map(|_| AtomicU64::new(0)).collect(),
            words,
            max: 8 * (key_size as u32 - 4),
            entries,
            count: AtomicU32::new(0),
            seq: Seq::default(),
            free: Mutex::new(Free {
                nodes: (0..nodes as u32).rev().collect(),
                slots: (0..Lpm::slots(entries) as u32).rev().collect(),
            }),
        }
    }

    pub fn len(&self) -> u32 {
        self.count.load(Relaxed)
    }

    fn key(&self, key: &[u8]) -> Option<Key> {
        let (len, data) = key.split_first_chunk()?;
        let len = u32::from_le_bytes(*len);
        let mut words = [0; 32];
        for (word, part) in words.iter_mut().zip(data.chunks(8)) {
            let mut bytes = [0; 8];
            bytes.get_mut(..part.len())?.copy_from_slice(part);
            *word = u64::from_be_bytes(bytes);
        }
        (len <= self.max).then_some(Key { len, words })
    }

    /// How many bits the node's prefix and the key have in common.
    #[inline]
    fn common(&self, node: u32, len: u32, key: &Key) -> u32 {
        let limit = len.min(key.len);
        let at = node as usize * self.words;
        let words = self.bits.get(at..at + self.words).unwrap_or_default();
        let mut bits = 0;
        for (word, want) in words.iter().zip(&key.words) {
            let differ = (word.load(Relaxed) ^ want).leading_zeros();
            bits += differ;
            if differ < 64 || bits >= limit {
                break;
            }
        }
        bits.min(limit)
    }

    /// The slot of the longest prefix of `key`.
    pub fn lookup(&self, key: &[u8]) -> Option<u32> {
        let key = self.key(key)?;
        self.seq.read(|| {
            let mut found = None;
            let mut at = self.root.load(Relaxed);
            // Prefixes become longer on the way; one that does not is being changed under us.
            for _ in 0..=self.max {
                let Some(node) = self.nodes.get(at as usize) else { break };
                let len = node.len.load(Relaxed);
                if self.common(at, len, &key) < len {
                    break;
                }
                let slot = node.slot.load(Relaxed);
                if slot != NONE {
                    found = Some(slot);
                }
                if len >= self.max {
                    break;
                }
                at = node.child[key.bit(len)].load(Relaxed);
            }
            found
        })
    }

    /// The link to the node where `key` would be, that node's number, and the bits they share.
    fn walk(&self, key: &Key) -> (Vec<&AtomicU32>, u32, u32) {
        let mut links = vec![&self.root];
        loop {
            let at = links[links.len() - 1].load(Relaxed);
            let Some(node) = self.nodes.get(at as usize) else { return (links, NONE, 0) };
            let len = node.len.load(Relaxed);
            let common = self.common(at, len, key);
            if common < len || len == key.len {
                return (links, at, common);
            }
            links.push(&node.child[key.bit(len)]);
        }
    }

    fn make(&self, free: &mut Free, key: &Key, len: u32, slot: u32) -> u32 {
        let at = free.nodes.pop().expect("a trie has two nodes for each entry");
        let node = &self.nodes[at as usize];
        node.len.store(len, Relaxed);
        node.slot.store(slot, Relaxed);
        node.child.iter().for_each(|c| c.store(NONE, Relaxed));
        let bits = &self.bits[at as usize * self.words..][..self.words];
        bits.iter().zip(key.words).for_each(|(bits, word)| bits.store(word, Relaxed));
        at
    }

    /// Finds a slot for the value of `key` by the flags of `bpf_map_update_elem`; `fill` puts the
    /// value there before anybody can find it.
    pub fn insert(&self, key: &[u8], flags: u64, fill: impl Fn(u32)) -> Result<(), Errno> {
        let Some(key) = self.key(key).filter(|_| flags <= EXIST) else {
            return errno(libc::EINVAL);
        };
        let mut writing = self.seq.lock();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (links, at, common) = self.walk(&key);
        let link = links[links.len() - 1];
        let node = self.nodes.get(at as usize);
        let len = node.map_or(0, |n| n.len.load(Relaxed));
        let same = node.filter(|_| common == len && len == key.len);
        let old = same.map_or(NONE, |n| n.slot.load(Relaxed));
        match (old == NONE, flags) {
            (false, NOEXIST) => return errno(libc::EEXIST),
            (true, EXIST) => return errno(libc::ENOENT),
            (true, _) if self.len() >= self.entries => return errno(libc::ENOSPC),
            _ => {}
        }
        let slot = free.slots.pop().expect("a trie has one slot more than entries");
        fill(slot);
        if old == NONE {
            self.count.fetch_add(1, Relaxed);
        } else {
            free.slots.push(old);
        }
        writing.write(|| {
            if let Some(same) = same {
                return same.slot.store(slot, Relaxed);
            }
            let new = self.make(&mut free, &key, key.len, slot);
            match node {
                None => link.store(new, Relaxed),
                // The new prefix goes before the node.
                Some(node) if common == key.len => {
                    let bit = self.bit(at, node, common);
                    self.nodes[new as usize].child[bit].store(at, Relaxed);
                    link.store(new, Relaxed);
                }
                // They part: a fork of what they share.
                Some(node) => {
                    let fork = self.make(&mut free, &key, common, NONE);
                    let bit = self.bit(at, node, common);
                    self.nodes[fork as usize].child[bit].store(at, Relaxed);
                    self.nodes[fork as usize].child[1 - bit].store(new, Relaxed);
                    link.store(fork, Relaxed);
                }
            }
        });
        Ok(())
    }

    /// Bit `bit` of a node's prefix.
    fn bit(&self, at: u32, node: &Node, bit: u32) -> usize {
        debug_assert!(bit < node.len.load(Relaxed));
        let word = self.bits[at as usize * self.words + bit as usize / 64].load(Relaxed);
        (word >> (63 - bit % 64) & 1) as usize
    }

    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let Some(key) = self.key(key) else { return errno(libc::EINVAL) };
        let mut writing = self.seq.lock();
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let (links, at, common) = self.walk(&key);
        let node = self.nodes.get(at as usize);
        let node = node.filter(|n| common == key.len && n.len.load(Relaxed) == key.len);
        let Some(node) = node.filter(|n| n.slot.load(Relaxed) != NONE) else {
            return errno(libc::ENOENT);
        };
        free.slots.push(node.slot.load(Relaxed));
        self.count.fetch_sub(1, Relaxed);
        writing.write(|| {
            node.slot.store(NONE, Relaxed);
            // Up from here, each node without a value that is no fork goes away: at most two.
            for link in links.iter().rev().take(2) {
                let at = link.load(Relaxed);
                let Some(node) = self.nodes.get(at as usize) else { return };
                let [zero, one] = [0, 1].map(|c| node.child[c].load(Relaxed));
                if node.slot.load(Relaxed) != NONE || (zero != NONE && one != NONE) {
                    return;
                }
                link.store(if zero == NONE { one } else { zero }, Relaxed);
                free.nodes.push(at);
            }
        });
        Ok(())
    }

    /// Calls `f` with the key and slot of each entry, until it says no.
    pub fn each(&self, key_size: usize, mut f: impl FnMut(&[u8], u32) -> bool) {
        let _writing = self.seq.lock();
        let mut stack = vec![self.root.load(Relaxed)];
        while let Some(at) = stack.pop() {
            let Some(node) = self.nodes.get(at as usize) else { continue };
            let slot = node.slot.load(Relaxed);
            if slot != NONE {
                let mut key = node.len.load(Relaxed).to_le_bytes().to_vec();
                let bits = &self.bits[at as usize * self.words..][..self.words];
                bits.iter().for_each(|b| key.extend(b.load(Relaxed).to_be_bytes()));
                key.truncate(key_size);
                if !f(&key, slot) {
                    return;
                }
            }
            stack.extend(node.child.iter().rev().map(|c| c.load(Relaxed)));
        }
    }
}
