//! The protocol against a queue, over the edge of 2^32. In every order that two threads can take it
//! is checked where the memory is, in `sys/ring/model.rs`.

use super::*;
use std::collections::VecDeque;

/// A ring in plain memory, seen from both ends in one thread, with its indexes set at will.
struct Plain {
    producer: std::cell::Cell<u32>,
    consumer: std::cell::Cell<u32>,
    slots: Vec<std::cell::Cell<u64>>,
}

impl Plain {
    fn new(size: usize, start: u32) -> Plain {
        let (producer, consumer) = (std::cell::Cell::new(start), std::cell::Cell::new(start));
        Plain { producer, consumer, slots: vec![std::cell::Cell::new(0); size] }
    }
    fn slot(&self, index: u32) -> &std::cell::Cell<u64> {
        &self.slots[index as usize & (self.slots.len() - 1)]
    }
}

impl Memory for &Plain {
    type Item = u64;
    fn size(&self) -> u32 {
        self.slots.len() as u32
    }
    fn load_producer(&self) -> u32 {
        self.producer.get()
    }
    fn store_producer(&self, index: u32) {
        self.producer.set(index);
    }
    fn load_consumer(&self) -> u32 {
        self.consumer.get()
    }
    fn store_consumer(&self, index: u32) {
        self.consumer.set(index);
    }
    fn read(&self, index: u32) -> u64 {
        self.slot(index).get()
    }
    fn write(&self, index: u32, item: u64) {
        self.slot(index).set(item);
    }
    fn need_wakeup(&self) -> bool {
        false
    }
}

/// Random puts, takes, publications and releases against a queue, from an index just before 2^32
/// on: nothing is lost, doubled or overtaken, and the ring is never taken to hold more than it can.
#[test]
fn a_ring_is_a_bounded_queue_across_the_wrap() {
    let mut rng = linerate_core::rand::Rng::new(11);
    for size in [1usize, 2, 8, 64] {
        for start in [0, u32::MAX - 70, u32::MAX] {
            let mem = Plain::new(size, start);
            let (mut tx, mut rx) = (Producer::new(&mem), Consumer::new(&mem));
            let (mut unseen, mut queue) = (VecDeque::new(), VecDeque::new());
            let mut unreleased = 0;
            for i in 0..4000u64 {
                match rng.below(4) {
                    0 => {
                        let most = (size - queue.len() - unseen.len() - unreleased) as u32;
                        let free = tx.free(1 + rng.below(size as u64) as u32);
                        assert!(free <= most);
                        assert!(free > 0 || most == 0);
                        for k in 0..free.into() {
                            tx.put(i * 1000 + k);
                            unseen.push_back(i * 1000 + k);
                        }
                    }
                    1 => {
                        assert_eq!(tx.publish() as usize, unseen.len());
                        queue.append(&mut unseen);
                        assert_eq!(tx.pending() as usize, queue.len() + unreleased);
                    }
                    2 => {
                        assert_eq!(rx.waiting() as usize, queue.len());
                        let ready = rx.ready(size as u32);
                        assert_eq!(ready as usize, queue.len());
                        let n = rng.below(u64::from(ready) + 1) as u32;
                        for ahead in 0..n {
                            assert_eq!(Some(rx.peek(ahead)), queue.pop_front());
                        }
                        rx.skip(n);
                        unreleased += n as usize;
                    }
                    _ => {
                        assert_eq!(rx.release() as usize, unreleased);
                        unreleased = 0;
                    }
                }
            }
            assert!(mem.producer.get() != start);
        }
    }
}

#[test]
fn what_was_put_can_be_taken_back_before_it_is_seen() {
    let mem = Plain::new(4, u32::MAX);
    let mut tx = Producer::new(&mem);
    assert_eq!(tx.free(9), 4);
    tx.put(1);
    tx.publish();
    tx.put(2);
    tx.put(3);
    tx.unput();
    assert_eq!((tx.publish(), tx.pending(), tx.free(9)), (0, 1, 3));
    tx.put(4);
    tx.publish();
    let mut rx = Consumer::new(&mem);
    assert_eq!((rx.ready(9), rx.peek(0), rx.peek(1)), (2, 1, 4));
}

#[test]
#[should_panic(expected = "only a free slot is written")]
fn a_full_ring_is_not_written() {
    let mem = Plain::new(1, 0);
    let mut tx = Producer::new(&mem);
    tx.put(1);
    tx.put(2);
}

#[test]
#[should_panic(expected = "only what is ready is read")]
fn an_empty_ring_is_not_read() {
    Consumer::new(&Plain::new(1, 0)).peek(0);
}
