//! The packet memory of one device: a region of chunks, shared by its queues, and the regions that
//! devices of the past left behind.

use crate::sys::umem::{Owner, Region};
use linerate_core::pkt::{Buf, Home};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A region that was mapped once, and whether a device has it.
struct Slot {
    region: &'static Region,
    taken: bool,
    /// Zero-copy: the hardware may write for a while after the socket is closed.
    spoiled: bool,
}

/// Every region there is; a [`Home`] is its place in this list.
static REGIONS: Mutex<Vec<Slot>> = Mutex::new(Vec::new());

/// A panic elsewhere leaves the list whole: each change of it is complete under the lock.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The memory that the queues of one device share.
#[derive(Debug)]
pub(super) struct Umem {
    pub region: &'static Region,
    pub home: Home,
    /// Free chunks that no queue has, by their number: what one has too many, another may need.
    spare: Mutex<Vec<u32>>,
}

/// Chunks that move between a queue and the others at once.
pub(super) const SPARE_BATCH: usize = 256;

impl Umem {
    /// A region of the past whose chunks are nearly all at home, or a new one. A packet that still
    /// holds a chunk of an old one keeps it, and brings it home to the new device later.
    pub fn new(chunks: usize, chunk_size: usize) -> io::Result<Arc<Umem>> {
        let mut regions = lock(&REGIONS);
        let fits = |slot: &Slot| {
            let (region, idle) = (slot.region, !slot.taken && !slot.spoiled);
            let lent = || (0..region.chunks()).filter(|&i| region.is_lent(i)).count();
            idle && (region.chunks(), region.chunk_size()) == (chunks, chunk_size)
                && lent() <= chunks / 8
        };
        let at = match regions.iter().position(fits) {
            Some(at) => at,
            None => {
                let region = Region::map(chunks, chunk_size)?;
                regions.push(Slot { region, taken: false, spoiled: false });
                regions.len() - 1
            }
        };
        let home = u16::try_from(at).map_err(|_| io::Error::from_raw_os_error(libc::ENOMEM))?;
        let slot = regions.get_mut(at).ok_or(io::ErrorKind::NotFound)?;
        slot.taken = true;
        let region = slot.region;
        let free = (0..region.chunks()).rev().filter(|&i| !region.is_lent(i)).map(|i| i as u32);
        Ok(Arc::new(Umem { region, home: Home(home), spare: Mutex::new(free.collect()) }))
    }

    /// At most `max` chunks that no queue has.
    pub fn take_spare(&self, max: usize, out: &mut Vec<u32>) -> usize {
        let mut spare = lock(&self.spare);
        let from = spare.len().saturating_sub(max);
        let n = spare.len() - from;
        out.extend(spare.drain(from..));
        n
    }
    /// Free chunks for whichever queue needs them.
    pub fn give_spare(&self, chunks: impl IntoIterator<Item = u32>) {
        lock(&self.spare).extend(chunks);
    }
    /// Lends chunk `index` to a packet.
    #[inline]
    pub fn lend(&self, index: usize, from: Owner) -> Option<Buf> {
        self.region.lend(index, from).map(|chunk| Buf::mapped(chunk, self.home))
    }
    /// Takes a chunk back from a packet: its number.
    ///
    /// # Panics
    /// If it is not a chunk of this memory: whoever has this home's chunks got them from here.
    #[inline]
    pub fn take_back(&self, buf: Buf) -> u32 {
        let chunk = buf.into_mapped().ok().and_then(|chunk| self.region.take_back(chunk));
        chunk.expect("a chunk comes home to the memory that it is of") as u32
    }
    /// The hardware may still write it: no device gets this region again.
    pub fn spoil(&self) {
        if let Some(slot) = lock(&REGIONS).get_mut(usize::from(self.home.0)) {
            slot.spoiled = true;
        }
    }
}

impl Drop for Umem {
    /// The sockets are closed: their queues have a hold on this.
    fn drop(&mut self) {
        if let Some(slot) = lock(&REGIONS).get_mut(usize::from(self.home.0)) {
            slot.taken = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use linerate_core::pkt::Pool;

    #[test]
    fn a_region_is_used_again_when_its_chunks_are_home() {
        // Sizes that no other test uses.
        let first = Umem::new(48, 4096).expect("memory");
        let (home, addr) = (first.home, first.region.addr());
        let other = Umem::new(48, 4096).expect("memory");
        assert_ne!(other.home, home, "the first is in use");
        let mut chunks = Vec::new();
        assert_eq!(first.take_spare(100, &mut chunks), 48);
        chunks.sort_unstable();
        assert_eq!(chunks, (0..48).collect::<Vec<_>>());
        let mut pool = Pool::new(64, 1);
        let mut out: Vec<_> = (0..7)
            .map(|i| {
                let buf = first.lend(i, Owner::Free).expect("free");
                pool.alloc_around(buf, 256, 100).unwrap_or_else(|_| panic!("there is room"))
            })
            .collect();
        drop(first);
        // Seven of 48 are out: too many. Six: few enough.
        let third = Umem::new(48, 4096).expect("memory");
        assert_ne!(third.home, home);
        pool.free(out.pop().expect("seven"));
        let mut back = Vec::new();
        pool.take_home(home, 9, &mut back);
        let region = lock(&REGIONS)[usize::from(home.0)].region;
        for buf in back.drain(..) {
            region.take_back(buf.into_mapped().unwrap_or_else(|_| panic!("it is mapped")));
        }
        let again = Umem::new(48, 4096).expect("memory");
        assert_eq!((again.home, again.region.addr()), (home, addr));
        let mut free = Vec::new();
        assert_eq!(again.take_spare(100, &mut free), 42);
        out.into_iter().for_each(|pkt| pool.free(pkt));
        pool.take_home(home, 100, &mut back);
        assert_eq!(back.len(), 6);
        for buf in back {
            free.push(again.take_back(buf));
        }
        free.sort_unstable();
        assert_eq!(free, (0..48).collect::<Vec<_>>());
        again.give_spare(free.drain(..5));
        assert_eq!(again.take_spare(9, &mut free), 5);
    }
}
