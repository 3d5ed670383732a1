//! A table whose places are reused, with generations so that old names do not hit new entries.

/// Its size is nothing; a place that holds it begins at a cache line.
#[repr(align(64))]
pub struct AtLine;

/// The generation lies before the value, so that both share the first cache line.
#[repr(C)]
struct Slot<T, Begin> {
    _begin: [Begin; 0],
    generation: u32,
    value: Option<T>,
}

/// A table of sockets: O(1) insert, look-up and removal, bounded only by its caller.
///
/// Where so many are looked at in random order that each cache line counts, `Begin` is [`AtLine`]:
/// every place begins at a line then, and touches no more of them than it must.
pub struct Slab<T, Begin = ()> {
    slots: Vec<Slot<T, Begin>>,
    free: Vec<u32>,
    len: usize,
    /// The generation of a place that is taken for the first time: no entry of memory that was given back had it.
    generation: u32,
}

/// Places that stay when the last entry has gone; more give their memory back then.
const KEEP: usize = 8192;

impl<T, Begin> Default for Slab<T, Begin> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0, generation: 0 }
    }
}

impl<T, Begin> Slab<T, Begin> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// Adds an entry; returns its index and generation.
    pub fn insert(&mut self, value: T) -> (u32, u32) {
        self.len += 1;
        if let Some(index) = self.free.pop() {
            let slot = &mut self.slots[index as usize];
            slot.value = Some(value);
            return (index, slot.generation);
        }
        if self.slots.len() == self.slots.capacity() {
            self.grow();
        }
        let generation = self.generation;
        self.slots.push(Slot { _begin: [], generation, value: Some(value) });
        (self.slots.len() as u32 - 1, generation)
    }
    /// Makes room for as many again, in large pages if that is much.
    #[cold]
    fn grow(&mut self) {
        let mut slots = Vec::with_capacity((self.slots.len() * 2).max(8));
        linerate_arch::advise_huge(slots.spare_capacity_mut());
        slots.append(&mut self.slots);
        self.slots = slots;
    }
    /// The entry at `index`, if it is still of this generation.
    #[inline]
    pub fn get(&self, index: u32, generation: u32) -> Option<&T> {
        let slot = self.slots.get(index as usize)?;
        if slot.generation == generation { slot.value.as_ref() } else { None }
    }
    /// The same, writable.
    #[inline]
    pub fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation == generation { slot.value.as_mut() } else { None }
    }
    /// The entry at `index`, whatever its generation: for tables that hold only live entries.
    #[inline]
    pub fn at(&self, index: u32) -> Option<&T> {
        self.slots.get(index as usize)?.value.as_ref()
    }
    /// The same, writable.
    #[inline]
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.slots.get_mut(index as usize)?.value.as_mut()
    }
    /// The generation of the entry at `index` (0 if there is none).
    pub fn generation(&self, index: u32) -> u32 {
        self.slots.get(index as usize).map_or(0, |s| s.generation)
    }
    /// Asks the processor for the entry at `index`: its first cache line, or all of them.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32, whole: bool) {
        match self.slots.get(index as usize) {
            Some(slot) if whole => linerate_arch::prefetch_all(slot),
            Some(slot) => linerate_arch::prefetch_read(slot),
            None => {}
        }
    }
    /// Takes the entry out; its name is never valid again.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(index);
        self.len -= 1;
        if self.len == 0 && self.slots.len() > KEEP {
            self.ran_empty();
        }
        Some(value)
    }
    /// The last entry of many has gone.
    #[cold]
    fn ran_empty(&mut self) {
        // A place that was left has a generation of its own already.
        let generations = self.slots.iter().map(|slot| slot.generation);
        let generation = generations.max().unwrap_or(self.generation);
        *self = Slab { generation, ..Slab::default() };
    }
    /// Every entry with its index and generation, in order of the index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        let each = self.slots.iter().enumerate();
        each.filter_map(|(i, s)| Some((i as u32, s.generation, s.value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::{AtLine, KEEP, Slab};

    #[test]
    fn what_a_peak_took_goes_back_when_the_last_has_gone() {
        let mut slab = Slab::<u64>::default();
        let peak: Vec<_> = (0..KEEP as u64 + 1).map(|n| slab.insert(n)).collect();
        assert_eq!(slab.remove(0), Some(0));
        assert_eq!(slab.insert(0), (0, 1));
        for (index, _) in peak.iter().rev() {
            assert!(slab.slots.capacity() > KEEP);
            slab.remove(*index).expect("it is there");
        }
        assert_eq!((slab.slots.capacity(), slab.free.capacity(), slab.len()), (0, 0, 0));
        for &(index, generation) in &peak {
            assert!(slab.insert(1).1 > generation && slab.get(index, generation).is_none());
        }
        // Few places stay.
        let mut slab = Slab::<u64>::default();
        assert_eq!((slab.insert(1), slab.remove(0)), ((0, 0), Some(1)));
        assert!(slab.slots.capacity() > 0);
    }

    #[test]
    fn a_place_begins_at_a_cache_line_where_that_is_asked_for() {
        let mut slab = Slab::<[u8; 104], AtLine>::default();
        (0..100).for_each(|_| assert_eq!(slab.insert([7; 104]).1, 0));
        for slot in &slab.slots {
            assert_eq!(std::ptr::from_ref(slot).addr() % 64, 0);
            assert_eq!(size_of_val(slot), 128);
        }
    }
}
