//! The ring in every order that two threads can take it, checked by loom.

use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

use super::{Bell, Flag, Index, Receiver, Sender, Slot, ring_at};

impl Index for AtomicU32 {
    fn new(at: u32) -> AtomicU32 {
        AtomicU32::new(at)
    }
    fn acquire(&self) -> u32 {
        AtomicU32::load(self, Ordering::Acquire)
    }
    fn release(&self, at: u32) {
        AtomicU32::store(self, at, Ordering::Release);
    }
}

/// Loom tells when both sides are in one slot.
impl<T> Slot<T> for UnsafeCell<T> {
    fn new(value: T) -> UnsafeCell<T> {
        UnsafeCell::new(value)
    }
    fn with<R>(&self, f: impl FnOnce(*mut T) -> R) -> R {
        self.with_mut(f)
    }
}

impl Flag for AtomicBool {
    fn new() -> AtomicBool {
        AtomicBool::new(false)
    }
    fn store(&self, up: bool) {
        AtomicBool::store(self, up, Ordering::Relaxed);
    }
    fn load(&self) -> bool {
        AtomicBool::load(self, Ordering::Relaxed)
    }
    fn take(&self) -> bool {
        AtomicBool::swap(self, false, Ordering::Relaxed)
    }
    fn fence() {
        fence(Ordering::SeqCst);
    }
}

type Tx = Sender<u64, AtomicU32, UnsafeCell<u64>>;
type Rx = Receiver<u64, AtomicU32, UnsafeCell<u64>>;

/// Both sides swap what is in the slots for something of their own, in batches of one and two,
/// across the wrap of the indexes: nothing is lost, doubled or seen half.
#[test]
fn no_slot_is_touched_by_both() {
    for at in [0, u32::MAX] {
        loom::model(move || {
            let (mut tx, mut rx): (Tx, Rx) = ring_at(vec![0; 2], at);
            let other = loom::thread::spawn(move || {
                let mut sent = 0;
                while sent < 3 {
                    let n = tx.room(2).min(3 - sent);
                    if n == 0 {
                        loom::thread::yield_now();
                    }
                    for _ in 0..n {
                        sent += 1;
                        let old = tx.fill(|slot| std::mem::replace(slot, u64::from(sent)));
                        assert!(old == 0 || old == 100, "the receiver left its own here: {old}");
                    }
                    tx.publish();
                }
            });
            let mut got = 0;
            while got < 3 {
                let n = rx.ready(2);
                if n == 0 {
                    loom::thread::yield_now();
                }
                for _ in 0..n {
                    got += 1;
                    let new = rx.take(|slot| Some(std::mem::replace(slot, 100)));
                    assert_eq!(new, Some(got));
                }
                rx.release();
            }
            other.join().expect("it ends");
        });
    }
}

/// A receiver says that it waits and looks once more. Whatever the order, it sees what was
/// published, or the sender is told to wake it; and of two senders only one is.
#[test]
fn nobody_sleeps_on_a_full_ring() {
    loom::model(|| {
        let (mut tx, rx): (Tx, Rx) = ring_at(vec![0; 2], 0);
        let bell = loom::sync::Arc::new(Bell::<AtomicBool>::new());
        let theirs = loom::sync::Arc::clone(&bell);
        let other = loom::thread::spawn(move || {
            theirs.wait();
            rx.waiting()
        });
        tx.fill(|slot| *slot = 7);
        tx.publish();
        let rung = bell.ring();
        assert!(!(rung && bell.ring()), "rung for twice");
        let seen = other.join().expect("it ends");
        assert!(rung || seen == 1, "published, not seen, and nobody is woken");
        assert_eq!(bell.cancel(), !rung);
    });
}
