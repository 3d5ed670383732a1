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
}

impl<T, Begin> Default for Slab<T, Begin> {
    fn default() -> Self {
        Slab { slots: Vec::new(), free: Vec::new(), len: 0 }
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
        self.slots.push(Slot { _begin: [], generation: 0, value: Some(value) });
        (self.slots.len() as u32 - 1, 0)
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
        Some(value)
    }
    /// Every entry with its index and generation, in order of the index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        let each = self.slots.iter().enumerate();
        each.filter_map(|(i, s)| Some((i as u32, s.generation, s.value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::{AtLine, Slab};

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
