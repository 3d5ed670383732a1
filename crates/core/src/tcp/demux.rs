//! Where connections, half-open ones and TIME_WAIT entries are found by their two ends
//! (Linux: `tcp_hashinfo.ehash`).

use super::Tuple;
use crate::rand::Keyed;
use crate::sock::Ehash;

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

/// The table: at most three quarters full, since an entry of TIME_WAIT is to cost little memory.
pub(crate) struct Demux {
    key: Keyed,
    table: Ehash,
}

impl Demux {
    pub fn new(key: Keyed) -> Demux {
        Demux { key, table: Ehash::new(6) }
    }

    #[inline]
    pub fn hash(&self, t: &Tuple) -> u32 {
        crate::sock::lookup::hash_tuple(&self.key, t.local, t.remote, (t.lport, t.rport))
    }

    /// The entry with this hash that `same` recognises.
    #[inline]
    pub fn find(&self, hash: u32, mut same: impl FnMut(Ref) -> bool) -> Option<Ref> {
        self.table.find(hash, |word| same(Ref::unpack(word))).map(Ref::unpack)
    }

    /// Asks the processor for the place where the search for `hash` begins.
    #[inline]
    pub fn prefetch(&self, hash: u32) {
        self.table.prefetch(hash);
    }

    /// Adds an entry that is not there yet.
    pub fn insert(&mut self, hash: u32, what: Ref) {
        self.table.insert(hash, what.pack());
    }

    /// Puts `new` in the place of `old`, which must be there.
    pub fn replace(&mut self, hash: u32, old: Ref, new: Ref) {
        self.table.replace(hash, old.pack(), new.pack());
    }

    /// Takes an entry out.
    pub fn remove(&mut self, hash: u32, what: Ref) {
        self.table.remove(hash, what.pack());
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.table.len()
    }
}
