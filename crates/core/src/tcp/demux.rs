//! Where connections, half-open ones and TIME_WAIT entries are found by their two ends: one open
//! table with linear probing, keyed so that a peer can not aim at one place (Linux: `tcp_hashinfo.ehash`).

use super::Tuple;
use crate::rand::Keyed;

/// What a place in the table refers to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ref {
    /// A connection.
    Conn(u32),
    /// A half-open connection.
    Req(u32),
    /// A TIME_WAIT entry.
    Tw(u32),
}

impl Ref {
    fn pack(self) -> u32 {
        match self {
            Ref::Conn(i) => i << 2 | 1,
            Ref::Req(i) => i << 2 | 2,
            Ref::Tw(i) => i << 2 | 3,
        }
    }
    fn unpack(word: u32) -> Ref {
        match word & 3 {
            1 => Ref::Conn(word >> 2),
            2 => Ref::Req(word >> 2),
            _ => Ref::Tw(word >> 2),
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Slot {
    hash: u32,
    /// A packed [`Ref`]; 0 = empty.
    what: u32,
}

/// The table: 8 bytes a place, at most three quarters full.
pub(crate) struct Demux {
    key: Keyed,
    slots: Vec<Slot>,
    len: usize,
}

impl Demux {
    pub fn new(key: Keyed) -> Demux {
        Demux { key, slots: vec![Slot::default(); 64], len: 0 }
    }

    #[inline]
    pub fn hash(&self, t: &Tuple) -> u32 {
        crate::sock::lookup::hash_tuple(&self.key, t.local, t.remote, (t.lport, t.rport))
    }

    #[inline]
    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The entry with this hash that `same` recognises.
    #[inline]
    pub fn find(&self, hash: u32, mut same: impl FnMut(Ref) -> bool) -> Option<Ref> {
        let mut at = hash as usize & self.mask();
        loop {
            let slot = self.slots[at];
            if slot.what == 0 {
                return None;
            }
            if slot.hash == hash && same(Ref::unpack(slot.what)) {
                return Some(Ref::unpack(slot.what));
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Adds an entry that is not there yet.
    pub fn insert(&mut self, hash: u32, what: Ref) {
        if (self.len + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        self.len += 1;
        self.put(Slot { hash, what: what.pack() });
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
        let empty = vec![Slot::default(); self.slots.len() * 2];
        for slot in std::mem::replace(&mut self.slots, empty) {
            if slot.what != 0 {
                self.put(slot);
            }
        }
    }

    fn place(&self, hash: u32, what: Ref) -> Option<usize> {
        let word = what.pack();
        let mut at = hash as usize & self.mask();
        loop {
            let slot = self.slots[at];
            if slot.what == 0 {
                return None;
            }
            if slot.what == word {
                return Some(at);
            }
            at = (at + 1) & self.mask();
        }
    }

    /// Puts `new` in the place of `old`, which must be there.
    pub fn replace(&mut self, hash: u32, old: Ref, new: Ref) {
        let at = self.place(hash, old);
        let at = at.expect("what is replaced in the look-up table stands there");
        self.slots[at].what = new.pack();
    }

    /// Takes an entry out; those behind it move up, so that no gravestones are needed.
    pub fn remove(&mut self, hash: u32, what: Ref) {
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

    impl Demux {
        /// How many entries there are.
        pub fn len(&self) -> usize {
            self.len
        }
    }

    #[test]
    fn finds_what_is_there_and_nothing_else_under_random_change() {
        let mut rng = Rng::new(3);
        let mut table = Demux::new(rng.keyed());
        let mut model = std::collections::BTreeMap::new();
        for _ in 0..50_000 {
            let i = rng.below(300) as u32;
            // Few distinct hashes, so that runs of collisions form and wrap around the end.
            let hash = (i % 37).wrapping_mul(0x9e37_79b9) | 0x3f;
            if rng.below(2) == 0 {
                if model.insert(i, hash).is_none() {
                    table.insert(hash, Ref::Conn(i));
                }
            } else if model.remove(&i).is_some() {
                table.remove(hash, Ref::Conn(i));
            }
            let probe = rng.below(300) as u32;
            let hash = (probe % 37).wrapping_mul(0x9e37_79b9) | 0x3f;
            let found = table.find(hash, |r| r == Ref::Conn(probe));
            assert_eq!(found.is_some(), model.contains_key(&probe));
            assert_eq!(table.len, model.len());
        }
    }
}
