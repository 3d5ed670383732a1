//! A ring between two threads, one that puts and one that takes, whose slots stay: each side works on
//! them where they lie and hands them over.
//!
//! Two indexes, which only grow, modulo 2^32, say who owns which slot (as `head` and `tail` of a
//! netmap ring do). A slot is the sender's from the moment at which the receiver's index, stored with
//! release, was loaded with acquire; and the other way round. Indexes are published for a batch,
//! and the other side's is read only when the copy of it says that one can not go on.

use std::cell::UnsafeCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

/// An index that both sides see.
pub trait Index {
    /// One that stands at `at`.
    fn new(at: u32) -> Self;
    /// Loads it, with acquire.
    fn acquire(&self) -> u32;
    /// Stores it, with release.
    fn release(&self, at: u32);
}

/// A slot that both sides see, and one at a time touches.
pub trait Slot<T> {
    /// One that holds `value`.
    fn new(value: T) -> Self;
    /// Gives `f` the place of the value.
    fn with<R>(&self, f: impl FnOnce(*mut T) -> R) -> R;
}

impl Index for AtomicU32 {
    fn new(at: u32) -> AtomicU32 {
        AtomicU32::new(at)
    }
    #[inline]
    fn acquire(&self) -> u32 {
        AtomicU32::load(self, Ordering::Acquire)
    }
    #[inline]
    fn release(&self, at: u32) {
        AtomicU32::store(self, at, Ordering::Release);
    }
}

impl<T> Slot<T> for UnsafeCell<T> {
    fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell::new(value)
    }
    #[inline]
    fn with<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        f(self.get())
    }
}

/// Keeps what one side writes off the cache lines of the other; two lines, because processors
/// fetch them in pairs.
#[repr(align(128))]
struct Apart<I>(I);

struct Shared<I, S> {
    /// Slots that the sender ever handed over.
    tail: Apart<I>,
    /// Slots that the receiver ever handed back.
    head: Apart<I>,
    slots: Box<[S]>,
}

impl<I: Index, S> Shared<I, S> {
    #[inline]
    fn at(&self, index: u32) -> &S {
        // The length is a power of two.
        &self.slots[index as usize & (self.slots.len() - 1)]
    }
    fn size(&self) -> u32 {
        self.slots.len() as u32
    }
}

/// The end that fills slots.
pub struct Sender<T, I = AtomicU32, S = UnsafeCell<T>> {
    ring: Arc<Shared<I, S>>,
    /// The next slot to fill.
    next: u32,
    /// What was handed over.
    published: u32,
    /// What the receiver has handed back, as last seen.
    head: u32,
    /// Slots that may be out at once, at most all of them.
    limit: u32,
    value: std::marker::PhantomData<T>,
}

/// The end that empties them.
pub struct Receiver<T, I = AtomicU32, S = UnsafeCell<T>> {
    ring: Arc<Shared<I, S>>,
    /// The next slot to take.
    next: u32,
    /// What was handed back.
    released: u32,
    /// What the sender has handed over, as last seen.
    tail: u32,
    value: std::marker::PhantomData<T>,
}

/// Looks at a ring from outside.
pub struct Gauge<I = AtomicU32, S = ()>(Arc<Shared<I, S>>);

// SAFETY: a slot is touched by one side at a time (see `Sender::fill` and `Receiver::take`), the
// indexes are atomic, and what goes through a slot may change threads.
unsafe impl<T: Send, I: Send + Sync, S> Send for Sender<T, I, S> {}
// SAFETY: as for the sender.
unsafe impl<T: Send, I: Send + Sync, S> Send for Receiver<T, I, S> {}
// SAFETY: it touches the indexes only; the slots go with the last of the three, on any thread.
unsafe impl<T: Send> Send for Gauge<AtomicU32, UnsafeCell<T>> {}
// SAFETY: as for `Send`.
unsafe impl<T: Send> Sync for Gauge<AtomicU32, UnsafeCell<T>> {}

/// A ring of the given slots.
///
/// # Panics
/// If their number is not a power of two, or is above 2^31.
pub fn ring<T>(slots: Vec<T>) -> (Sender<T>, Receiver<T>) {
    ring_at(slots, 0)
}

/// The same, with other memory and other indexes to begin with: for tests.
fn ring_at<T, I: Index, S: Slot<T>>(
    slots: Vec<T>,
    at: u32,
) -> (Sender<T, I, S>, Receiver<T, I, S>) {
    assert!(slots.len().is_power_of_two() && slots.len() <= 1 << 31, "a size that wraps evenly");
    let slots = slots.into_iter().map(S::new).collect();
    let ring = Arc::new(Shared { tail: Apart(I::new(at)), head: Apart(I::new(at)), slots });
    let value = std::marker::PhantomData;
    let limit = ring.size();
    let sender =
        Sender { ring: Arc::clone(&ring), next: at, published: at, head: at, limit, value };
    (sender, Receiver { ring, next: at, released: at, tail: at, value })
}

impl<T, I: Index, S: Slot<T>> Sender<T, I, S> {
    /// Slots of the ring.
    #[must_use]
    pub fn size(&self) -> u32 {
        self.ring.size()
    }
    /// How many of `wanted` slots can be filled.
    #[inline]
    pub fn room(&mut self, wanted: u32) -> u32 {
        if self.left() < wanted {
            self.head = self.ring.head.0.acquire();
        }
        self.left().min(wanted)
    }
    #[inline]
    fn left(&self) -> u32 {
        // More may be out than the limit allows since.
        self.limit.saturating_sub(self.next.wrapping_sub(self.head))
    }
    /// From now on at most `slots` are out at once, at least 1 and at most all.
    pub fn set_limit(&mut self, slots: u32) {
        self.limit = slots.clamp(1, self.ring.size());
    }
    /// Fills the next slot; the receiver gets it with the next [`Sender::publish`].
    ///
    /// # Panics
    /// If there is no room: [`Sender::room`] was not asked.
    #[inline]
    pub fn fill<R>(&mut self, f: impl FnOnce(&mut T) -> R) -> R {
        assert!(self.room(1) == 1, "only a free slot is filled");
        // SAFETY: the slot lies in `head..head + size`, which the receiver handed back or never
        // had, and beyond `tail`; only this end, borrowed mutably, touches it until it is published.
        let said = self.ring.at(self.next).with(|slot| f(unsafe { &mut *slot }));
        self.next = self.next.wrapping_add(1);
        said
    }
    /// Hands over what was filled; returns how many slots that were.
    #[inline]
    pub fn publish(&mut self) -> u32 {
        let n = self.next.wrapping_sub(self.published);
        if n > 0 {
            self.published = self.next;
            self.ring.tail.0.release(self.next);
        }
        n
    }
    /// Slots that were filled and not handed back yet, as of now.
    #[inline]
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.next.wrapping_sub(self.ring.head.0.acquire())
    }
}

impl<T> Sender<T> {
    /// Something to look at the ring from outside.
    #[must_use]
    pub fn gauge(&self) -> Gauge<AtomicU32, UnsafeCell<T>> {
        Gauge(Arc::clone(&self.ring))
    }
}

impl<T> Gauge<AtomicU32, UnsafeCell<T>> {
    /// Slots that were handed over and not handed back, at some moment during the call.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        // In this order: the head never overtakes a tail that is read after it.
        let head = self.0.head.0.acquire();
        self.0.tail.0.acquire().wrapping_sub(head)
    }
}

impl<T, I: Index, S: Slot<T>> Receiver<T, I, S> {
    /// How many of `wanted` slots can be taken.
    #[inline]
    pub fn ready(&mut self, wanted: u32) -> u32 {
        if self.tail.wrapping_sub(self.next) < wanted {
            self.tail = self.ring.tail.0.acquire();
        }
        self.tail.wrapping_sub(self.next).min(wanted)
    }
    /// How many slots wait now, without taking note of it.
    #[inline]
    #[must_use]
    pub fn waiting(&self) -> u32 {
        self.ring.tail.0.acquire().wrapping_sub(self.next)
    }
    /// Works on the next slot. It is taken if `f` says so; the sender gets it back with the
    /// next [`Receiver::release`].
    ///
    /// # Panics
    /// If there is none: [`Receiver::ready`] was not asked.
    #[inline]
    pub fn take<R>(&mut self, f: impl FnOnce(&mut T) -> Option<R>) -> Option<R> {
        assert!(self.ready(1) == 1, "only a slot that was handed over is taken");
        // SAFETY: the slot lies in `next..tail`, which the sender handed over, and beyond what was
        // released; only this end, borrowed mutably, touches it until it is released.
        let said = self.ring.at(self.next).with(|slot| f(unsafe { &mut *slot }));
        self.next = self.next.wrapping_add(said.is_some() as u32);
        said
    }
    /// Hands back what was taken; returns how many slots that were.
    #[inline]
    pub fn release(&mut self) -> u32 {
        let n = self.next.wrapping_sub(self.released);
        if n > 0 {
            self.released = self.next;
            self.ring.head.0.release(self.next);
        }
        n
    }
}

/// A flag that both sides see, and the fence that belongs to it.
pub trait Flag {
    /// One that is down.
    fn new() -> Self;
    /// Puts it up, or down.
    fn store(&self, up: bool);
    /// Whether it is up.
    fn load(&self) -> bool;
    /// Takes it down; whether it was up.
    fn take(&self) -> bool;
    /// A sequentially consistent fence.
    fn fence();
}

impl Flag for AtomicBool {
    fn new() -> AtomicBool {
        AtomicBool::new(false)
    }
    fn store(&self, up: bool) {
        AtomicBool::store(self, up, Ordering::Relaxed);
    }
    #[inline]
    fn load(&self) -> bool {
        AtomicBool::load(self, Ordering::Relaxed)
    }
    fn take(&self) -> bool {
        AtomicBool::swap(self, false, Ordering::Relaxed)
    }
    #[inline]
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

/// How a receiver that is about to sleep learns of what comes: it says that it waits, and looks
/// once more; who puts something in looks whether somebody waits. Either sees the other.
pub struct Bell<F = AtomicBool>(F);

impl<F: Flag> Bell<F> {
    /// A bell that nobody waits for.
    #[must_use]
    pub fn new() -> Bell<F> {
        Bell(F::new())
    }
    /// The receiver waits from now on. It has to look at its rings once more before it sleeps.
    pub fn wait(&self) {
        self.0.store(true);
        F::fence();
    }
    /// The receiver waits no more. False if it was rung for: what wakes it is under way.
    pub fn cancel(&self) -> bool {
        self.0.take()
    }
    /// Something was published: whether the receiver waited for it, and this is who has to wake it.
    #[inline]
    pub fn ring(&self) -> bool {
        F::fence();
        self.0.load() && self.0.take()
    }
}

impl<F: Flag> Default for Bell<F> {
    fn default() -> Bell<F> {
        Bell::new()
    }
}

#[cfg(test)]
mod model;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_holds_its_size_and_keeps_the_order_over_the_wrap_of_the_indexes() {
        for at in [0, u32::MAX - 5] {
            let (mut tx, mut rx) = ring_at::<u64, AtomicU32, UnsafeCell<u64>>(vec![0; 4], at);
            let (mut sent, mut got) = (0u64, 0u64);
            for round in 0..50u32 {
                let n = tx.room(1 + round % 7);
                for _ in 0..n {
                    sent += 1;
                    tx.fill(|slot| *slot = sent);
                }
                assert_eq!(rx.waiting(), (sent - got) as u32 - n, "not before it is published");
                assert_eq!(tx.publish(), n);
                let n = rx.ready(1 + round % 3);
                for _ in 0..n {
                    got += 1;
                    assert_eq!(rx.take(|slot| Some(*slot)), Some(got));
                }
                assert_eq!(rx.release(), n);
            }
            assert!(got > 40 && sent - got <= 4);
        }
    }

    #[test]
    fn a_full_ring_has_no_room_until_slots_are_handed_back() {
        let (mut tx, mut rx) = ring(vec![0u8; 2]);
        assert_eq!(tx.room(9), 2);
        tx.fill(|slot| *slot = 1);
        tx.fill(|slot| *slot = 2);
        assert_eq!((tx.room(1), tx.in_flight()), (0, 2));
        tx.publish();
        let gauge = tx.gauge();
        // A slot that was not wanted stays.
        assert_eq!(rx.take(|_| None::<u8>), None);
        assert_eq!(rx.take(|slot| Some(*slot)), Some(1));
        assert_eq!((tx.room(1), gauge.in_flight()), (0, 2));
        rx.release();
        assert_eq!((tx.room(9), gauge.in_flight()), (1, 1));
    }

    #[test]
    #[should_panic(expected = "only a free slot is filled")]
    fn a_full_ring_is_not_filled() {
        let (mut tx, _rx) = ring(vec![0u8; 1]);
        tx.fill(|_| ());
        tx.fill(|_| ());
    }

    #[test]
    #[should_panic(expected = "only a slot that was handed over is taken")]
    fn an_empty_ring_is_not_emptied() {
        let (mut tx, mut rx) = ring(vec![0u8; 1]);
        tx.fill(|_| ());
        rx.take(|slot| Some(*slot));
    }
}
