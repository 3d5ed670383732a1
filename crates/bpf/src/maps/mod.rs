//! Maps: what programs remember, and share with each other and with their host.
//!
//! A map belongs to one instance and is shared by its shards; of the `percpu` kinds each shard has
//! values of its own. Semantics, flags and errno are the kernel's.
//!
//! Linux: kernel/bpf/{arraymap,hashtab,lpm_trie,devmap,cpumap,ringbuf}.c

mod def;
mod hash;
mod lpm;
mod ring;
mod seq;
mod words;

#[cfg(test)]
pub(crate) mod tests;

pub use def::{
    DefError, Kind, MEMORY_MAX, MMAPABLE, MapDef, NO_COMMON_LRU, NO_PREALLOC, RDONLY_PROG,
    VALUE_MAX, WRONLY_PROG,
};
pub use ring::Record;

use hash::{Hash, Slot};
use lpm::Lpm;
pub(crate) use ring::Ring;
use words::Words;

/// An error number of the kernel's, as a call returns it (positive).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl std::fmt::Display for Errno {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::io::Error::from_raw_os_error(self.0).fmt(f)
    }
}
impl std::error::Error for Errno {}

fn errno<T>(number: i32) -> Result<T, Errno> {
    Err(Errno(number))
}

/// `BPF_ANY`: make the entry or replace it.
pub const ANY: u64 = 0;
/// `BPF_NOEXIST`: only make it.
pub const NOEXIST: u64 = 1;
/// `BPF_EXIST`: only replace it.
pub const EXIST: u64 = 2;

/// A map.
#[derive(Debug)]
pub struct Map {
    def: MapDef,
    cpus: u32,
    /// Values, `stride` bytes apart; of percpu maps all of the first processor, then of the next.
    values: Words,
    stride: usize,
    /// Slots of one processor.
    slots: usize,
    /// The distance of two values' addresses as programs see them, as a power of two: so large that
    /// no step beyond a value ends in another one.
    pub(crate) shift: u32,
    table: Table,
}

#[derive(Debug)]
enum Table {
    /// The key is the slot. With `sparse`, zero is no value (devmap, cpumap, prog_array).
    Array {
        sparse: bool,
    },
    Hash(Hash),
    Lpm(Lpm),
    Ring(Ring),
}

/// The value of a map at one key, for each processor that has one.
pub type Values = Vec<Vec<u8>>;

impl Map {
    /// Makes a map for so many processors (shards).
    ///
    /// # Errors
    /// What the kernel refuses, and more memory than [`MEMORY_MAX`].
    pub fn new(mut def: MapDef, cpus: u32) -> Result<Map, DefError> {
        let cpus = cpus.max(1);
        if def.kind == Kind::PerfEventArray && (def.max_entries == 0 || def.max_entries > cpus) {
            // As libbpf does: one for each processor.
            def.max_entries = cpus;
        }
        def.check()?;
        let memory = def.memory(cpus);
        if memory > MEMORY_MAX {
            return Err(DefError::Memory(memory));
        }
        let (entries, key) = (def.max_entries, def.key_size as usize);
        let lru = matches!(def.kind, Kind::LruHash | Kind::LruPercpuHash);
        let (table, slots) = match def.kind {
            Kind::Ringbuf => (Table::Ring(Ring::new(u64::from(entries))), 0),
            Kind::PerfEventArray => (Table::Ring(Ring::new(def.memory(cpus))), 0),
            Kind::LpmTrie => (Table::Lpm(Lpm::new(entries, key)), Lpm::slots(entries)),
            kind if kind.is_hash() => {
                (Table::Hash(Hash::new(entries, key, lru)), Hash::slots(entries, lru))
            }
            kind => {
                let sparse = !matches!(kind, Kind::Array | Kind::PercpuArray);
                (Table::Array { sparse }, entries as usize)
            }
        };
        let stride = (def.value_size as usize).next_multiple_of(8);
        let percpu = if def.kind.is_percpu() { cpus as usize } else { 1 };
        let values = Words::new(slots * percpu * stride / 8, def.kind.is_percpu());
        let shift = (def.value_size.next_power_of_two().trailing_zeros() + 1).max(17);
        Ok(Map { def, cpus, values, stride, slots, shift, table })
    }

    /// What it is.
    pub fn def(&self) -> &MapDef {
        &self.def
    }
    /// How many entries it has; records of rings.
    pub fn len(&self) -> u64 {
        match &self.table {
            Table::Array { sparse: false } => u64::from(self.def.max_entries),
            Table::Array { sparse: true } => {
                (0..self.slots).filter(|&s| self.present(s)).count() as u64
            }
            Table::Hash(hash) => u64::from(hash.len()),
            Table::Lpm(lpm) => u64::from(lpm.len()),
            Table::Ring(ring) => ring.len() as u64,
        }
    }
    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// For how many processors it was made.
    pub(crate) fn cpus(&self) -> u32 {
        self.cpus
    }
    /// Puts an entry there that the map begins with, for all processors; what the map has no room
    /// for is left out.
    pub(crate) fn fill(&self, key: &[u8], value: &[u8]) {
        if (key.len(), value.len()) == (self.def.key_size as usize, self.def.value_size as usize) {
            let every = |slot: usize, _| {
                (0..self.shares()).for_each(|cpu| {
                    self.values.write((self.share(cpu) + slot) * self.stride, value);
                });
            };
            let _ = self.put(key, ANY, 0, every);
        }
    }
    /// How many processors have values of their own.
    fn shares(&self) -> u32 {
        if self.def.kind.is_percpu() { self.cpus } else { 1 }
    }
    fn share(&self, cpu: u32) -> usize {
        if self.def.kind.is_percpu() { (cpu % self.cpus) as usize * self.slots } else { 0 }
    }
    fn present(&self, slot: usize) -> bool {
        self.values.load(slot * self.stride, 4).is_some_and(|v| v != 0)
    }

    /// The slot of a key's value, for a program on `cpu`.
    #[inline]
    pub(crate) fn find(&self, key: &[u8], cpu: u32) -> Option<usize> {
        let slot = match &self.table {
            Table::Array { sparse } => {
                let slot = u32::from_le_bytes(*key.first_chunk()?) as usize;
                if slot >= self.slots || (*sparse && !self.present(slot)) {
                    return None;
                }
                slot
            }
            Table::Hash(hash) => hash.lookup(key)? as usize,
            Table::Lpm(lpm) => lpm.lookup(key)? as usize,
            Table::Ring(_) => return None,
        };
        Some(self.share(cpu) + slot)
    }

    /// Sets an entry as a program on `cpu` does (`bpf_map_update_elem`).
    pub(crate) fn update(
        &self,
        key: &[u8],
        value: &[u8],
        flags: u64,
        cpu: u32,
    ) -> Result<(), Errno> {
        self.put(key, flags, cpu, |slot, _| self.values.write(slot * self.stride, value))
    }

    /// Sets an entry; `write` gets each slot that is to have a value, and whose it is. A slot that
    /// was somebody else's is zero for the processors that get none.
    fn put(
        &self,
        key: &[u8],
        flags: u64,
        cpu: u32,
        write: impl Fn(usize, u32),
    ) -> Result<(), Errno> {
        match &self.table {
            Table::Array { .. } => {
                let Some(index) = key.first_chunk() else { return errno(libc::EINVAL) };
                let slot = u32::from_le_bytes(*index) as usize;
                match flags {
                    f if f > EXIST => errno(libc::EINVAL),
                    _ if slot >= self.slots => errno(libc::E2BIG),
                    NOEXIST => errno(libc::EEXIST),
                    _ => {
                        write(self.share(cpu) + slot, cpu);
                        Ok(())
                    }
                }
            }
            Table::Hash(hash) => {
                let percpu = self.def.kind.is_percpu();
                hash.insert(key, flags, percpu, |slot| {
                    let (Slot::Old(at) | Slot::New(at)) = slot;
                    if percpu && matches!(slot, Slot::New(_)) {
                        (0..self.cpus).for_each(|c| self.clear(self.share(c) + at as usize));
                    }
                    write(self.share(cpu) + at as usize, cpu);
                })
            }
            Table::Lpm(lpm) => lpm.insert(key, flags, |slot| write(slot as usize, cpu)),
            Table::Ring(_) => errno(libc::EOPNOTSUPP),
        }
    }

    fn clear(&self, slot: usize) {
        self.values.clear(slot * self.stride / 8, self.stride / 8);
    }

    /// Takes an entry out (`bpf_map_delete_elem`).
    ///
    /// # Errors
    /// `ENOENT`; `EINVAL` for an array.
    pub fn remove(&self, key: &[u8]) -> Result<(), Errno> {
        if key.len() != self.def.key_size as usize {
            return errno(libc::EINVAL);
        }
        match &self.table {
            Table::Array { sparse: false } => errno(libc::EINVAL),
            Table::Array { sparse: true } => {
                let slot =
                    key.first_chunk().map_or(usize::MAX, |k| u32::from_le_bytes(*k) as usize);
                if slot >= self.slots {
                    return errno(libc::EINVAL);
                }
                self.clear(slot);
                Ok(())
            }
            Table::Hash(hash) => hash.remove(key),
            Table::Lpm(lpm) => lpm.remove(key),
            Table::Ring(_) => errno(libc::EOPNOTSUPP),
        }
    }

    /// The value of a key; for percpu maps, of each processor.
    pub fn get(&self, key: &[u8]) -> Option<Values> {
        if key.len() != self.def.key_size as usize {
            return None;
        }
        let slot = self.find(key, 0)?;
        Some(self.values_at(slot))
    }

    fn values_at(&self, slot: usize) -> Values {
        let read = |cpu| {
            let mut out = vec![0; self.def.value_size as usize];
            self.values.read((self.share(cpu) + slot) * self.stride, &mut out);
            out
        };
        (0..self.shares()).map(read).collect()
    }

    /// Sets the value of a key as user space does: of percpu maps with one value for all processors,
    /// or one for each.
    ///
    /// # Errors
    /// `EINVAL` for other sizes than the map's, unknown flags, or a prefix longer than its key;
    /// `E2BIG`, `ENOSPC` if the map is full; `EEXIST`, `ENOENT` by the flags; `EOPNOTSUPP` for what
    /// programs alone write, and for maps of sockets.
    pub fn set(&self, key: &[u8], values: &[&[u8]], flags: u64) -> Result<(), Errno> {
        let (key_size, size) = (self.def.key_size as usize, self.def.value_size as usize);
        let shares = self.shares() as usize;
        if matches!(self.def.kind, Kind::Xskmap | Kind::PerfEventArray) {
            return errno(libc::EOPNOTSUPP);
        }
        let fits = key.len() == key_size
            && values.iter().all(|v| v.len() == size)
            && (values.len() == 1 || values.len() == shares);
        if !fits {
            return errno(libc::EINVAL);
        }
        self.put(key, flags, 0, |slot, _| {
            for (cpu, value) in (0..shares).zip(values.iter().cycle()) {
                self.values.write((self.share(cpu as u32) + slot) * self.stride, value);
            }
        })
    }

    /// Entries in no particular order, at most `max`.
    pub fn entries(&self, max: usize) -> Vec<(Vec<u8>, Values)> {
        let mut out = Vec::new();
        let mut add = |key: &[u8], slot: usize| {
            if out.len() < max {
                out.push((key.to_vec(), self.values_at(slot)));
            }
            out.len() < max
        };
        let key = self.def.key_size as usize;
        match &self.table {
            Table::Array { sparse } => {
                for slot in (0..self.slots).filter(|&s| !sparse || self.present(s)) {
                    if !add(&(slot as u32).to_le_bytes(), slot) {
                        break;
                    }
                }
            }
            Table::Hash(hash) => hash.each(key, |key, slot| add(key, slot as usize)),
            Table::Lpm(lpm) => lpm.each(key, |key, slot| add(key, slot as usize)),
            Table::Ring(_) => {}
        }
        out
    }

    /// Takes out at most `max` records of a ring buffer or a perf event array, oldest first.
    pub fn drain(&self, max: usize) -> Vec<Record> {
        self.ring().map_or_else(Vec::new, |ring| ring.drain(max))
    }
    /// Records of a ring buffer or a perf event array that found no room.
    pub fn lost(&self) -> u64 {
        self.ring().map_or(0, Ring::lost)
    }

    pub(crate) fn ring(&self) -> Option<&Ring> {
        match &self.table {
            Table::Ring(ring) => Some(ring),
            _ => None,
        }
    }

    /// Where in the map's memory `size` bytes at a program's offset lie, if they lie in one value.
    #[inline]
    pub(crate) fn place(&self, offset: u64, size: usize) -> Option<usize> {
        let slot = (offset >> self.shift) as usize;
        let within = (offset & ((1 << self.shift) - 1)) as usize;
        (within + size <= self.def.value_size as usize).then_some(slot * self.stride + within)
    }
    #[inline]
    pub(crate) fn load(&self, offset: u64, size: usize) -> Option<u64> {
        self.values.load(self.place(offset, size)?, size)
    }
    #[inline]
    pub(crate) fn store(&self, offset: u64, size: usize, value: u64) -> Option<()> {
        self.values.store(self.place(offset, size)?, size, value)
    }
    #[inline]
    pub(crate) fn atomic(&self, offset: u64, size: usize, f: impl Fn(u64) -> u64) -> Option<u64> {
        let at = self.place(offset, size)?;
        // Values are multiples of eight apart, so what is aligned in the value is so in memory.
        if at.is_multiple_of(size) { self.values.update(at, size, f) } else { None }
    }
    /// Copies bytes of a value out; `None` if they are not all in one value.
    pub(crate) fn read(&self, offset: u64, out: &mut [u8]) -> Option<()> {
        self.values.read(self.place(offset, out.len())?, out);
        Some(())
    }
    /// Copies bytes into a value.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> Option<()> {
        self.values.write(self.place(offset, bytes.len())?, bytes);
        Some(())
    }
    /// The first 32 bits of a slot: an interface, a program.
    pub(crate) fn number(&self, slot: usize) -> u32 {
        self.values.load(slot * self.stride, 4).unwrap_or(0) as u32
    }
}
