//! The ring protocol in every order that two threads can take it, checked by loom, with the orderings
//! that [`super::Mapped`] has.

use crate::xdp::ring::{Consumer, Memory, Producer};
use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering, fence};

/// A ring in loom's memory: loom tells when a slot is written while it can be read.
struct Shared {
    producer: AtomicU32,
    consumer: AtomicU32,
    sleeps: AtomicBool,
    slots: Vec<UnsafeCell<u64>>,
}

// SAFETY: loom checks every access to the cells; that is what it is here for.
unsafe impl Sync for Shared {}
// SAFETY: as for `Sync`.
unsafe impl Send for Shared {}

#[derive(Clone)]
struct End(Arc<Shared>);

impl End {
    fn new(size: usize, start: u32) -> End {
        let (producer, consumer) = (AtomicU32::new(start), AtomicU32::new(start));
        let slots = (0..size).map(|_| UnsafeCell::new(0)).collect();
        End(Arc::new(Shared { producer, consumer, sleeps: AtomicBool::new(false), slots }))
    }
    fn slot(&self, index: u32) -> &UnsafeCell<u64> {
        &self.0.slots[index as usize & (self.0.slots.len() - 1)]
    }
}

impl Memory for End {
    type Item = u64;
    fn size(&self) -> u32 {
        self.0.slots.len() as u32
    }
    fn load_producer(&self) -> u32 {
        self.0.producer.load(Ordering::Acquire)
    }
    fn store_producer(&self, index: u32) {
        self.0.producer.store(index, Ordering::Release);
    }
    fn load_consumer(&self) -> u32 {
        self.0.consumer.load(Ordering::Acquire)
    }
    fn store_consumer(&self, index: u32) {
        self.0.consumer.store(index, Ordering::Release);
    }
    fn read(&self, index: u32) -> u64 {
        // SAFETY: the pointer is loom's, which checks the access against all others.
        self.slot(index).with(|slot| unsafe { *slot })
    }
    fn write(&self, index: u32, item: u64) {
        // SAFETY: as in `read`.
        self.slot(index).with_mut(|slot| unsafe { *slot = item });
    }
    fn need_wakeup(&self) -> bool {
        fence(Ordering::SeqCst);
        self.0.sleeps.load(Ordering::Relaxed)
    }
}

#[test]
fn no_slot_is_written_while_it_is_read() {
    for start in [0, u32::MAX] {
        loom::model(move || {
            let end = End::new(2, start);
            let theirs = end.clone();
            let other = loom::thread::spawn(move || {
                let mut tx = Producer::new(theirs);
                let mut sent = 0;
                while sent < 3 {
                    let n = tx.free(2).min(3 - sent);
                    if n == 0 {
                        loom::thread::yield_now();
                    }
                    for _ in 0..n {
                        sent += 1;
                        tx.put(u64::from(sent));
                    }
                    tx.publish();
                }
            });
            let mut rx = Consumer::new(end);
            let mut got = 0;
            while got < 3 {
                let n = rx.ready(2);
                if n == 0 {
                    loom::thread::yield_now();
                }
                for ahead in 0..n {
                    got += 1;
                    assert_eq!(rx.peek(ahead), got);
                }
                rx.skip(n);
                rx.release();
            }
            other.join().expect("it ends");
        });
    }
}

/// A consumer that goes to sleep says so, and looks once more. Whatever the order, either it
/// sees what was published or the producer sees that it sleeps: nothing waits for ever.
#[test]
fn a_sleeping_consumer_is_woken() {
    loom::model(|| {
        let end = End::new(2, u32::MAX);
        let theirs = end.clone();
        let other = loom::thread::spawn(move || {
            theirs.0.sleeps.store(true, Ordering::Relaxed);
            fence(Ordering::SeqCst);
            Consumer::new(theirs).ready(1)
        });
        let mut tx = Producer::new(end);
        tx.put(7);
        tx.publish();
        let wake = tx.need_wakeup();
        let seen = other.join().expect("it ends");
        assert!(wake || seen == 1, "published, not seen, and nobody is woken");
    });
}
