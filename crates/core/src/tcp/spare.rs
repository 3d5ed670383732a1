//! Memory of queues that ran empty, for those that fill next: an idle connection keeps none, and one that
//! was idle need not ask the system for any.

use std::collections::VecDeque;

use super::sndq::{Piece, TxSeg};
use crate::pkt::Pkt;

/// Lists of each kind that are kept.
const KEEP: usize = 1024;
/// Lists with room for more stay where they are: their connections are busy.
const SMALL: usize = 8;

/// Empty lists with room for a few entries.
#[derive(Default)]
pub(crate) struct Spare {
    pub(super) segs: Lists<Pkt>,
    pub(super) pieces: Lists<Piece>,
    pub(super) rtx: Lists<TxSeg>,
}

/// Empty lists of one kind.
pub(super) struct Lists<T>(Vec<VecDeque<T>>);

impl<T> Default for Lists<T> {
    fn default() -> Self {
        Lists(Vec::new())
    }
}

impl<T> Lists<T> {
    /// `list` is to be filled: it gets memory if it has none.
    #[inline]
    pub fn lend(&mut self, list: &mut VecDeque<T>) {
        if list.capacity() == 0
            && let Some(spare) = self.0.pop()
        {
            *list = spare;
        }
    }
    /// `list` gives its memory back if it is empty and small.
    #[inline]
    pub fn take_back(&mut self, list: &mut VecDeque<T>) {
        if list.is_empty() && (1..=SMALL).contains(&list.capacity()) && self.0.len() < KEEP {
            self.0.push(std::mem::take(list));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KEEP, Lists, SMALL, VecDeque};

    #[test]
    fn only_what_is_empty_and_small_is_passed_on() {
        let mut lists = Lists::<u64>::default();
        let mut full = VecDeque::from([1]);
        lists.take_back(&mut full);
        let mut large = VecDeque::<u64>::with_capacity(SMALL + 1);
        lists.take_back(&mut large);
        lists.take_back(&mut VecDeque::new());
        assert!(lists.0.is_empty() && large.capacity() > SMALL && full.len() == 1);
        full.clear();
        let had = full.capacity();
        lists.take_back(&mut full);
        assert_eq!((full.capacity(), lists.0.len()), (0, 1));
        lists.lend(&mut large);
        assert_eq!(lists.0.len(), 1, "who has memory needs none");
        lists.lend(&mut full);
        assert_eq!((full.capacity(), lists.0.len()), (had, 0));
        lists.lend(&mut VecDeque::new());
        for _ in 0..2 * KEEP {
            lists.take_back(&mut VecDeque::with_capacity(1));
        }
        assert_eq!(lists.0.len(), KEEP);
    }
}
