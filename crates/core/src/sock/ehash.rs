//! The table in which sockets are found by their ends (Linux: `inet_hashinfo.ehash`,
//! `udp_table.hash4`): open, with linear probing.
//!
//! It holds hashes and what they stand for, not the ends themselves: a place is eight bytes, and who
//! asks compares the ends. The hashes are keyed, so that a peer can not aim at one place; how full
//! the table may become is the owner's choice between memory and probes.

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// What is here; 0 = nothing.
    what: u32,
}

/// So many places with nothing there, in large pages if that is much.
fn empty(places: usize) -> Vec<Slot> {
    let mut slots = Vec::with_capacity(places);
    linerate_arch::advise_huge(slots.spare_capacity_mut());
    slots.resize(places, Slot::default());
    slots
}

/// The table. A word stands for each entry, which its owner gives a meaning to and which is not 0.
pub(crate) struct Ehash {
    slots: Vec<Slot>,
    len: usize,
    /// Eighths of the places that may be taken.
    fill: usize,
}

impl Ehash {
    /// An empty table of which at most `fill` eighths are ever taken.
    pub fn new(fill: usize) -> Ehash {
        assert!((1..8).contains(&fill), "a search ends at an empty place: some stay so");
        Ehash { slots: empty(64), len: 0, fill }
    }
    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }
    #[inline]
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }
    /// Asks the processor for the place where the search for `hash` begins.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        linerate_arch::prefetch_read(&self.slots[hash as usize & self.mask()]);
    }

    /// The entry with this hash that `same` recognises.
    #[inline]
    pub fn find(&self, hash: u32, mut same: impl FnMut(u32) -> bool) -> Option<u32> {
        let mut at = hash as usize & self.mask();
        loop {
            let slot = self.slots[at];
            if slot.what == 0 {
                return None;
            }
            if slot.hash == hash && same(slot.what) {
                return Some(slot.what);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Adds an entry that is not there yet.
    pub fn insert(&mut self, hash: u32, what: u32) {
        debug_assert_ne!(what, 0, "0 means that nothing is there");
        if (self.len + 1) * 8 > self.slots.len() * self.fill {
            self.grow();
        }
        self.len += 1;
        self.put(Slot { hash, what });
    }

    fn put(&mut self, slot: Slot) {
        let mut at = slot.hash as usize & self.mask();
        while self.slots[at].what != 0 {
            at = (at + 1) & self.mask();
        }
        self.slots[at] = slot;
    }

    /// Doubles the table. The hashes are stored, so that nothing but the table is touched.
    #[cold]
    fn grow(&mut self) {
        let empty = empty(self.slots.len() * 2);
        for slot in std::mem::replace(&mut self.slots, empty) {
            if slot.what != 0 {
                self.put(slot);
            }
        }
    }

    fn place(&self, hash: u32, what: u32) -> Option<usize> {
        let mut at = hash as usize & self.mask();
        loop {
            let slot = self.slots[at];
            if slot.what == 0 {
                return None;
            }
            if slot.what == what && slot.hash == hash {
                return Some(at);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Puts `new` in the place of `old`, which must be there.
    pub fn replace(&mut self, hash: u32, old: u32, new: u32) {
        let at = self.place(hash, old);
        let at = at.expect("what is replaced in a look-up table stands there");
        self.slots[at].what = new;
    }

    /// Takes an entry out; those behind it move up, so that no gravestones are needed.
    pub fn remove(&mut self, hash: u32, what: u32) {
        let Some(mut hole) = self.place(hash, what) else { return };
        self.len -= 1;
        let mask = self.mask();
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = self.slots[at];
            if slot.what == 0 {
                break;
            }
            let home = slot.hash as usize & mask;
            // It may move into the hole unless its home lies behind the hole.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(hole) & mask) {
                self.slots[hole] = slot;
                hole = at;
            }
        }
        self.slots[hole] = Slot::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rand::Rng;

    #[test]
    fn finds_what_is_there_and_nothing_else_under_random_change() {
        for fill in [4, 6] {
            let mut rng = Rng::new(3);
            let mut table = Ehash::new(fill);
            let mut model = std::collections::BTreeMap::new();
            for _ in 0..50_000 {
                let i = 1 + rng.below(300) as u32;
                // Few distinct hashes, so that runs of collisions form and wrap around the end.
                let hash = (i % 37).wrapping_mul(0x9e37_79b9) | 0x3f;
                if rng.below(2) == 0 {
                    if model.insert(i, hash).is_none() {
                        table.insert(hash, i);
                    }
                } else if model.remove(&i).is_some() {
                    table.remove(hash, i);
                }
                let probe = 1 + rng.below(300) as u32;
                let hash = (probe % 37).wrapping_mul(0x9e37_79b9) | 0x3f;
                let found = table.find(hash, |what| what == probe);
                assert_eq!(found.is_some(), model.contains_key(&probe));
                assert_eq!(table.len(), model.len());
            }
        }
    }
}
