//! The table of a hash map: which slot a key's value lies in.
//!
//! As in a preallocated map of the kernel's, slots are of a fixed number, a new value for a key that
//! is there takes another slot, and a slot that was freed may be taken again while a program still
//! reads it.
//!
//! Linux: kernel/bpf/hashtab.c, kernel/bpf/bpf_lru_list.c

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use super::seq::{Seq, Writing};
use super::words::Words;
use super::{ANY, EXIST, Errno, NOEXIST, errno};

/// No slot: the end of a chain.
const NONE: u32 = u32::MAX;
/// Parts of a table that may be written at the same time.
const PARTS_MAX: usize = 64;
/// How often an insertion into a full LRU map makes room before it gives up.
const EVICTIONS: u32 = 16;

#[derive(Debug)]
pub(crate) struct Hash {
    key: Keyed,
    heads: Box<[AtomicU32]>,
    next: Box<[AtomicU32]>,
    /// The hash of what is in each slot.
    hashes: Box<[AtomicU32]>,
    keys: Words,
    key_words: usize,
    parts: Box<[Seq]>,
    free: Mutex<Vec<u32>>,
    count: AtomicU32,
    entries: u32,
    /// Slots that were used since the hand passed them; of LRU maps only.
    used: Option<Box<[AtomicU8]>>,
    hand: AtomicU32,
}

/// What is to be done with the value of a slot that [`Hash::insert`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// The key was there, in this slot.
    Old(u32),
    /// The key is new, or its value moves here.
    New(u32),
}

/// Peers choose keys: what they hash to is not theirs to know. Two words that nobody else knows, and a
/// multiplication of 64 by 64 bits for each word of a key.
#[derive(Debug)]
struct Keyed([u64; 2]);

impl Keyed {
    fn new() -> Keyed {
        let random = RandomState::new();
        // A factor of zero would make all keys equal.
        Keyed([random.hash_one(0) | 1, random.hash_one(1) | 1])
    }
    #[inline]
    fn fold(a: u64, b: u64) -> u64 {
        let wide = u128::from(a) * u128::from(b);
        wide as u64 ^ (wide >> 64) as u64
    }
    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        let [first, factor] = self.0;
        // All keys of a map have the same length.
        let (words, rest) = key.as_chunks::<8>();
        let mut state = first;
        for word in words {
            state = Keyed::fold(state ^ u64::from_le_bytes(*word), factor).wrapping_add(first);
        }
        if !rest.is_empty() {
            let mut word = [0; 8];
            word[..rest.len()].copy_from_slice(rest);
            state = Keyed::fold(state ^ u64::from_le_bytes(word), factor).wrapping_add(first);
        }
        let hash = Keyed::fold(state, factor ^ 0x9fb2_1c65_1e98_df25);
        (hash ^ hash >> 32) as u32
    }
}

fn atomics(n: usize, value: u32) -> Box<[AtomicU32]> {
    (0..n).map(|_| AtomicU32::new(value)).collect()
}

impl Hash {
    /// How many slots a table of so many entries has: one more for each part, so that a value may
    /// be replaced when all entries are taken. An LRU map makes room instead.
    pub fn slots(entries: u32, lru: bool) -> usize {
        let entries = entries as usize;
        if lru { entries } else { entries + entries.next_power_of_two().min(PARTS_MAX) }
    }

    pub fn new(entries: u32, key_size: usize, lru: bool) -> Hash {
        let slots = Hash::slots(entries, lru);
        let buckets = (entries as usize).next_power_of_two();
        let key_words = key_size.div_ceil(8);
        Hash {
            key: Keyed::new(),
            heads: atomics(buckets, NONE),
            next: atomics(slots, NONE),
            hashes: atomics(slots, 0),
            keys: Words::new(slots * key_words, false),
            key_words,
            parts: (0..buckets.min(PARTS_MAX)).map(|_| Seq::default()).collect(),
            free: Mutex::new((0..slots as u32).rev().collect()),
            count: AtomicU32::new(0),
            entries,
            used: lru.then(|| (0..slots).map(|_| AtomicU8::new(0)).collect()),
            hand: AtomicU32::new(0),
        }
    }

    pub fn len(&self) -> u32 {
        self.count.load(Relaxed)
    }

    #[inline]
    fn hash(&self, key: &[u8]) -> u32 {
        self.key.hash(key)
    }
    #[inline]
    fn bucket(&self, hash: u32) -> &AtomicU32 {
        &self.heads[hash as usize & (self.heads.len() - 1)]
    }
    #[inline]
    fn part(&self, hash: u32) -> &Seq {
        &self.parts[hash as usize & (self.parts.len() - 1)]
    }

    #[inline]
    fn is(&self, slot: u32, key: &[u8]) -> bool {
        let at = slot as usize * self.key_words;
        if let Some(word) = key.first_chunk::<8>().filter(|_| key.len() == 8) {
            return self.keys.word(at) == u64::from_le_bytes(*word);
        }
        key.chunks(8).enumerate().all(|(i, part)| {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.keys.word(at + i) == u64::from_le_bytes(word)
        })
    }

    /// The slot of `key` in its chain, and the link that leads to it. A reader may see a chain that
    /// is being changed: it walks no further than there are slots.
    #[inline]
    fn find(&self, hash: u32, key: &[u8]) -> Option<(u32, &AtomicU32)> {
        let mut link = self.bucket(hash);
        for _ in 0..self.next.len() {
            let slot = link.load(Relaxed);
            let next = self.next.get(slot as usize)?;
            if self.hashes[slot as usize].load(Relaxed) == hash && self.is(slot, key) {
                return Some((slot, link));
            }
            link = next;
        }
        None
    }

    /// The slot that holds the value of `key`.
    #[inline]
    pub fn lookup(&self, key: &[u8]) -> Option<u32> {
        let hash = self.hash(key);
        let (slot, _) = self.part(hash).read(|| self.find(hash, key))?;
        if let Some(used) = self.used.as_ref().and_then(|u| u.get(slot as usize))
            && used.load(Relaxed) == 0
        {
            used.store(1, Relaxed);
        }
        Some(slot)
    }

    /// Finds a slot for the value of `key` by the flags of `bpf_map_update_elem`; `fill` puts the
    /// value there before anybody can find it. With `in_place` a value that is there stays where it is.
    pub fn insert(
        &self,
        key: &[u8],
        flags: u64,
        in_place: bool,
        fill: impl Fn(Slot),
    ) -> Result<(), Errno> {
        if flags > EXIST {
            return errno(libc::EINVAL);
        }
        let hash = self.hash(key);
        for _ in 0..EVICTIONS {
            let mut part = self.part(hash).lock();
            let old = self.find(hash, key);
            match (&old, flags) {
                (Some(_), NOEXIST) => return errno(libc::EEXIST),
                (None, EXIST) => return errno(libc::ENOENT),
                (Some((slot, _)), ANY | EXIST) if in_place => {
                    fill(Slot::Old(*slot));
                    return Ok(());
                }
                _ => {}
            }
            let new = old.is_none() && self.used.is_none();
            if new && self.count.fetch_add(1, Relaxed) >= self.entries {
                self.count.fetch_sub(1, Relaxed);
                return errno(libc::E2BIG);
            }
            let Some(slot) = self.take() else {
                drop(part);
                self.evict();
                continue;
            };
            if old.is_none() && !new {
                self.count.fetch_add(1, Relaxed);
            }
            self.put_key(slot, key, hash);
            fill(Slot::New(slot));
            part.write(|| {
                let bucket = self.bucket(hash);
                self.next[slot as usize].store(bucket.load(Relaxed), Relaxed);
                bucket.store(slot, Relaxed);
            });
            // The link that led to the old one may be the bucket's, which now leads to the new one.
            if let Some((old, _)) = old {
                self.unlink(&mut part, hash, old);
            }
            return Ok(());
        }
        errno(libc::ENOMEM)
    }

    fn take(&self) -> Option<u32> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn put_key(&self, slot: u32, key: &[u8], hash: u32) {
        let at = slot as usize * self.key_words;
        for (i, part) in key.chunks(8).enumerate() {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.keys.set_word(at + i, u64::from_le_bytes(word));
        }
        self.hashes[slot as usize].store(hash, Relaxed);
        if let Some(used) = &self.used {
            used[slot as usize].store(0, Relaxed);
        }
    }

    /// Takes `slot` out of its chain, if it is there, and frees it.
    fn unlink(&self, part: &mut Writing<'_>, hash: u32, slot: u32) -> bool {
        let mut link = self.bucket(hash);
        for _ in 0..self.next.len() {
            let at = link.load(Relaxed);
            let Some(next) = self.next.get(at as usize) else { return false };
            if at == slot {
                part.write(|| link.store(next.load(Relaxed), Relaxed));
                self.free.lock().unwrap_or_else(PoisonError::into_inner).push(slot);
                return true;
            }
            link = next;
        }
        false
    }

    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        let hash = self.hash(key);
        let mut part = self.part(hash).lock();
        match self.find(hash, key) {
            Some((slot, _)) => {
                self.unlink(&mut part, hash, slot);
                self.count.fetch_sub(1, Relaxed);
                Ok(())
            }
            None => errno(libc::ENOENT),
        }
    }

    /// Frees a slot that was not used since the hand passed it last; the first one if all were.
    fn evict(&self) {
        let Some(used) = &self.used else { return };
        let slots = used.len() as u32;
        for _ in 0..2 * slots {
            let slot = self.hand.fetch_add(1, Relaxed) % slots;
            if used[slot as usize].swap(0, Relaxed) != 0 {
                continue;
            }
            let hash = self.hashes[slot as usize].load(Relaxed);
            let mut part = self.part(hash).lock();
            if self.unlink(&mut part, hash, slot) {
                self.count.fetch_sub(1, Relaxed);
                return;
            }
        }
    }

    /// Calls `f` with the key and slot of each entry, until it says no.
    pub fn each(&self, key_size: usize, mut f: impl FnMut(&[u8], u32) -> bool) {
        let mut key = vec![0; key_size];
        for (i, head) in self.heads.iter().enumerate() {
            let _part = self.part(i as u32).lock();
            let mut slot = head.load(Relaxed);
            while let Some(next) = self.next.get(slot as usize) {
                self.keys.read(slot as usize * self.key_words * 8, &mut key);
                if !f(&key, slot) {
                    return;
                }
                slot = next.load(Relaxed);
            }
        }
    }
}
