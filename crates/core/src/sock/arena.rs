//! A table of large things whose places are reused: they never move, and lie in large pages if they are many.

use super::slab::AtLine;

/// A place; it begins at a cache line, so that what lies side by side in `T` shares lines.
#[repr(C)]
struct Place<T> {
    _begin: [AtLine; 0],
    generation: u32,
    value: Option<T>,
}

/// Places of a piece: a power of two.
const PIECE: u32 = 8192;

/// As [`Slab`](super::Slab), for what is too large to be copied when the table grows.
///
/// A million things that each lie in memory of their own lie in as many pages, and each look at one needs a
/// translation that no processor has at hand; here they need one for each 2 MiB.
///
/// An entry lies as low as there is room. So what is left after a peak gathers below, and of the pieces that
/// ran empty above all but one give their memory back; one entry holds its whole piece.
pub struct Arena<T> {
    /// A piece that gave its memory back has no places.
    pieces: Vec<Vec<Place<T>>>,
    of: Vec<Piece>,
    /// No piece below has room.
    roomy: usize,
    /// The piece that is empty and keeps its memory, so that what comes and goes at its begin costs nothing.
    kept: Option<usize>,
    len: usize,
}

/// What is known of a piece beside its places.
#[derive(Default)]
struct Piece {
    /// Places that were left.
    free: Vec<u32>,
    /// Entries that are there.
    len: u32,
    /// The generation of a place that is taken for the first time: no entry of the memory before had it.
    generation: u32,
}

impl<T> Default for Arena<T> {
    fn default() -> Self {
        Arena { pieces: Vec::new(), of: Vec::new(), roomy: 0, kept: None, len: 0 }
    }
}

/// Which piece a place lies in, and where in it.
#[inline(always)]
fn split(index: u32) -> (usize, usize) {
    ((index / PIECE) as usize, (index % PIECE) as usize)
}

impl<T> Arena<T> {
    /// Bytes of a place.
    pub const PLACE: usize = size_of::<Place<T>>();

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    #[inline(always)]
    fn place(&self, index: u32) -> Option<&Place<T>> {
        let (piece, at) = split(index);
        self.pieces.get(piece)?.get(at)
    }
    #[inline(always)]
    fn place_mut(&mut self, index: u32) -> Option<&mut Place<T>> {
        let (piece, at) = split(index);
        self.pieces.get_mut(piece)?.get_mut(at)
    }
    /// Adds an entry; returns its index and generation.
    pub fn insert(&mut self, value: T) -> (u32, u32) {
        let piece = self.piece_with_room();
        let (places, of) = (&mut self.pieces[piece], &mut self.of[piece]);
        self.len += 1;
        of.len += 1;
        if self.kept == Some(piece) {
            self.kept = None;
        }
        if let Some(index) = of.free.pop()
            && let Some(place) = places.get_mut(split(index).1)
        {
            place.value = Some(value);
            return (index, place.generation);
        }
        let index = piece as u32 * PIECE + places.len() as u32;
        let generation = of.generation;
        places.push(Place { _begin: [], generation, value: Some(value) });
        (index, generation)
    }
    /// The lowest piece that has room, with its memory.
    fn piece_with_room(&mut self) -> usize {
        while self.of.get(self.roomy).is_some_and(|of| of.len == PIECE) {
            self.roomy += 1;
        }
        if self.pieces.get(self.roomy).is_none_or(|places| places.capacity() == 0) {
            self.grow(self.roomy);
        }
        self.roomy
    }
    /// Makes room for more. Memory that is not written yet is not there yet; the first piece is none of large
    /// pages, so that few entries take little.
    #[cold]
    fn grow(&mut self, at: usize) {
        let mut piece = Vec::with_capacity(PIECE as usize);
        if at > 0 {
            linerate_arch::advise_huge(piece.spare_capacity_mut());
        }
        match self.pieces.get_mut(at) {
            Some(place) => *place = piece,
            None => {
                self.pieces.push(piece);
                self.of.push(Piece::default());
            }
        }
    }
    /// An entry of a piece has gone.
    fn left(&mut self, index: u32) {
        let (piece, _) = split(index);
        self.len -= 1;
        self.roomy = self.roomy.min(piece);
        let Some(of) = self.of.get_mut(piece) else { return };
        of.free.push(index);
        of.len -= 1;
        if of.len == 0 {
            self.ran_empty(piece);
        }
    }
    /// A second piece is empty: the higher one gives its memory back. To need it again, the other one has to
    /// fill up.
    #[cold]
    fn ran_empty(&mut self, piece: usize) {
        let Some(other) = self.kept.replace(piece) else { return };
        self.kept = Some(piece.min(other));
        let last = piece.max(other);
        let (places, of) = (std::mem::take(&mut self.pieces[last]), &mut self.of[last]);
        let generations = places.iter().map(|place| place.generation);
        // A place that is left has a generation of its own already.
        let generation = generations.max().unwrap_or(of.generation);
        *of = Piece { generation, ..Piece::default() };
    }
    /// The entry at `index`, if it is still of this generation.
    #[inline]
    pub fn get(&self, index: u32, generation: u32) -> Option<&T> {
        let place = self.place(index)?;
        if place.generation == generation { place.value.as_ref() } else { None }
    }
    /// The same, writable.
    #[inline]
    pub fn get_mut(&mut self, index: u32, generation: u32) -> Option<&mut T> {
        let place = self.place_mut(index)?;
        if place.generation == generation { place.value.as_mut() } else { None }
    }
    /// The entry at `index`, whatever its generation: for tables that hold only live entries.
    #[inline]
    pub fn at(&self, index: u32) -> Option<&T> {
        self.place(index)?.value.as_ref()
    }
    /// The same, writable.
    #[inline]
    pub fn at_mut(&mut self, index: u32) -> Option<&mut T> {
        self.place_mut(index)?.value.as_mut()
    }
    /// Asks the processor for the first `bytes` of the entry at `index`, whether there is one or not.
    #[inline]
    pub(crate) fn prefetch(&self, index: u32, bytes: usize) {
        if let Some(place) = self.place(index) {
            linerate_arch::prefetch_first(place, std::mem::offset_of!(Place<T>, value) + bytes);
        }
    }
    /// Takes the entry out; its name is never valid again.
    pub fn remove(&mut self, index: u32) -> Option<T> {
        let place = self.place_mut(index)?;
        let value = place.value.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.left(index);
        Some(value)
    }
    /// The same for an entry that nobody needs: nothing is moved.
    pub fn discard(&mut self, index: u32) {
        let Some(place) = self.place_mut(index).filter(|place| place.value.is_some()) else {
            return;
        };
        place.value = None;
        place.generation = place.generation.wrapping_add(1);
        self.left(index);
    }
    /// Every entry with its index and generation, in order of the index.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32, &T)> {
        let pieces = (0..).step_by(PIECE as usize).zip(&self.pieces);
        let each = pieces.flat_map(|(first, places)| (first..).zip(places));
        each.filter_map(|(i, p)| Some((i, p.generation, p.value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::{Arena, PIECE};
    use crate::rand::Rng;

    #[test]
    fn entries_lie_at_cache_lines_and_stay_where_they_are() {
        let mut arena = Arena::<[u8; 100]>::default();
        (0..3 * PIECE).for_each(|n| assert_eq!(arena.insert([n as u8; 100]), (n, 0)));
        let at = |arena: &Arena<[u8; 100]>, n| {
            std::ptr::from_ref(arena.place(n).expect("it is there")).addr()
        };
        let places: Vec<usize> = (0..3 * PIECE).map(|n| at(&arena, n)).collect();
        assert!(places.iter().all(|place| place % 64 == 0) && Arena::<[u8; 100]>::PLACE == 128);
        (0..PIECE).for_each(|n| assert_eq!(arena.insert([1; 100]).0, 3 * PIECE + n));
        assert!((0..3 * PIECE).all(|n| at(&arena, n) == places[n as usize]));
        assert!((0..3 * PIECE).all(|n| arena.at(n) == Some(&[n as u8; 100])));
    }

    /// After a peak one empty piece is left beside those that are in use; what comes then fills the lowest first,
    /// and nobody finds it by a name of before.
    #[test]
    fn what_a_peak_took_goes_back() {
        let mut arena = Arena::<[u8; 100]>::default();
        let memory = |arena: &Arena<[u8; 100]>| {
            arena.pieces.iter().map(Vec::capacity).filter(|&n| n > 0).count()
        };
        for _ in 0..3 {
            let names: Vec<_> = (0..5 * PIECE).map(|n| arena.insert([n as u8; 100])).collect();
            assert_eq!((arena.len(), memory(&arena)), (5 * PIECE as usize, 5));
            // One stays where it is.
            for &(index, _) in names.iter().filter(|(index, _)| *index != 2 * PIECE + 7) {
                arena.discard(index);
            }
            assert_eq!((arena.len(), memory(&arena)), (1, 2));
            assert_eq!(
                arena.iter().map(|(i, _, v)| (i, *v)).next(),
                Some((2 * PIECE + 7, [7; 100]))
            );
            assert_eq!(arena.remove(2 * PIECE + 7), Some([7; 100]));
            assert_eq!((arena.len(), memory(&arena), arena.kept), (0, 1, Some(0)));
            let again: Vec<_> = (0..5 * PIECE).map(|_| arena.insert([1; 100])).collect();
            let lowest_first = again.windows(2).all(|w| w[0].0 / PIECE <= w[1].0 / PIECE);
            assert!(lowest_first && memory(&arena) == 5);
            assert!(
                names.iter().all(|&(index, generation)| arena.get(index, generation).is_none())
            );
            again.iter().for_each(|&(index, _)| arena.discard(index));
            assert_eq!((arena.len(), memory(&arena)), (0, 1));
        }
        // What comes and goes where a piece begins takes no memory each time.
        (0..PIECE).for_each(|n| assert_eq!(arena.insert([n as u8; 100]).0 / PIECE, 0));
        let (index, _) = arena.insert([0; 100]);
        let at = arena.pieces[1].as_ptr();
        for _ in 0..100 {
            arena.discard(index);
            assert_eq!(arena.insert([1; 100]).0, index);
        }
        assert_eq!(arena.pieces[1].as_ptr(), at);
    }

    #[test]
    fn finds_what_is_there_and_nothing_else_under_random_change() {
        let mut rng = Rng::new(11);
        let mut arena = Arena::<Box<u64>>::default();
        let mut model = std::collections::BTreeMap::new();
        let mut gone = Vec::new();
        for n in 0..30_000u64 {
            let any = model.keys().nth(rng.below(model.len().max(1) as u64) as usize).copied();
            match (rng.below(3), any) {
                (0, Some((index, generation))) => {
                    let had = model.remove(&(index, generation)).expect("it is in the model");
                    if n % 2 == 0 {
                        assert_eq!(arena.remove(index), Some(Box::new(had)));
                    } else {
                        arena.discard(index);
                    }
                    gone.push((index, generation));
                }
                _ if model.len() < 400 => {
                    assert_eq!(model.insert(arena.insert(Box::new(n)), n), None);
                }
                _ => {}
            }
            assert_eq!(arena.len(), model.len());
            if let Some((index, generation)) = any.filter(|name| model.contains_key(name)) {
                assert_eq!(
                    arena.get(index, generation).map(|n| **n),
                    model.get(&(index, generation)).copied()
                );
                let mut same = arena.at(index).cloned();
                assert_eq!(arena.get_mut(index, generation), same.as_mut());
            }
        }
        assert!(gone.iter().all(|(index, generation)| arena.get(*index, *generation).is_none()));
        let all: Vec<_> = arena.iter().map(|(i, g, n)| ((i, g), **n)).collect();
        assert_eq!(all, model.into_iter().collect::<Vec<_>>());
        arena.discard(u32::MAX);
        assert!(arena.remove(1 << 30).is_none() && arena.at(1 << 30).is_none());
    }
}
