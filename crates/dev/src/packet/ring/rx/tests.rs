//! Goal: the walk hands out every packet once and in order, whatever the ring's size, and no block
//! can make it leave its memory. Method: blocks as the kernel writes them, in plain memory; and the
//! status word's protocol under every interleaving that loom finds.

use super::*;
use crate::sys::packet_ring::{Word, is_ours, release};

/// A ring in plain memory, and the kernel's side of it.
struct Model {
    blocks: Vec<(bool, Vec<u8>)>,
    /// The block the kernel fills next.
    kernel: usize,
}

const BLOCK: usize = 4096;

impl Blocks for Model {
    fn count(&self) -> u32 {
        self.blocks.len() as u32
    }
    fn block(&self, block: u32) -> Option<&[u8]> {
        let (ours, bytes) = &self.blocks[block as usize];
        ours.then_some(bytes)
    }
    fn give_back(&mut self, block: u32) {
        let block = &mut self.blocks[block as usize];
        assert!(block.0, "only what is ours is given back");
        block.0 = false;
    }
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

impl Model {
    fn new(blocks: usize) -> Model {
        Model { blocks: vec![(false, vec![0; BLOCK]); blocks], kernel: 0 }
    }

    /// Writes a block with these frames, as `prb_open_block` and `prb_fill_curr_block` do; false if
    /// none is free.
    fn fill(&mut self, frames: &[Vec<u8>]) -> bool {
        let n = self.blocks.len();
        let (ours, bytes) = &mut self.blocks[self.kernel];
        if *ours {
            return false;
        }
        bytes.fill(0xee);
        put(bytes, 12, frames.len() as u32);
        put(bytes, 16, 48);
        let mut at = 48;
        for (i, frame) in frames.iter().enumerate() {
            let mac = 82;
            let next = (mac + frame.len()).next_multiple_of(16);
            bytes[at..at + 48].fill(0);
            put(bytes, at, if i + 1 == frames.len() { 0 } else { next as u32 });
            put(bytes, at + 12, frame.len() as u32);
            put(bytes, at + 16, frame.len() as u32);
            put(bytes, at + 24, mac as u32);
            put(bytes, at + 28, 0xabcd_0000 + i as u32);
            bytes[at + PKTTYPE] = 0;
            bytes[at + mac..at + mac + frame.len()].copy_from_slice(frame);
            at += next;
        }
        *ours = true;
        self.kernel = (self.kernel + 1) % n;
        true
    }
}

#[test]
fn every_packet_comes_once_and_in_order_over_many_rounds() {
    for blocks in [2, 3, 7] {
        let (mut ring, mut walk) = (Model::new(blocks), Walk::default());
        let (mut written, mut read, mut state) = (0u32, 0u32, 99u32);
        while written < 20_000 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let frames: Vec<Vec<u8>> = (0..1 + (state >> 20) % 9)
                .map(|i| (written + i).to_be_bytes().repeat(1 + (state >> 8 & 7) as usize))
                .collect();
            if ring.fill(&frames) {
                written += frames.len() as u32;
            }
            assert_eq!(walk.pending(&ring), (written - read) as usize);
            for _ in 0..(state >> 12) % 12 {
                let Ok(frame) = walk.peek(&ring) else {
                    assert_eq!(read, written);
                    break;
                };
                assert_eq!(frame.bytes[..4], read.to_be_bytes());
                assert_eq!(frame.hash & 0xffff_0000, 0xabcd_0000);
                assert_eq!((frame.len, frame.vnet.len()), (frame.bytes.len(), VNET));
                // Looking does not take.
                assert_eq!(walk.peek(&ring).map(|f| f.bytes[3]), Ok(read.to_be_bytes()[3]));
                walk.pop(&mut ring);
                read += 1;
            }
        }
        while walk.peek(&ring).is_ok() {
            walk.pop(&mut ring);
            read += 1;
        }
        assert_eq!((read, walk.pending(&ring)), (written, 0));
        assert!(ring.blocks.iter().all(|b| !b.0), "all blocks are the kernel's again");
    }
}

#[test]
fn a_block_that_lies_ends_with_itself() {
    let places = [12, 16, 48, 48 + 12, 48 + 24];
    let values = [0, 1, 47, 4000, 4095, 4096, 65535, 0x7fff_ffff, u32::MAX];
    for place in places {
        for value in values {
            let (mut ring, mut walk) = (Model::new(2), Walk::default());
            assert!(ring.fill(&[vec![1; 60], vec![2; 60], vec![3; 60]]));
            assert!(ring.fill(&[vec![9; 60]]));
            put(&mut ring.blocks[0].1, place, value);
            let mut steps = 0;
            loop {
                match walk.peek(&ring) {
                    Ok(frame) if frame.bytes.first() == Some(&9) => break,
                    Ok(_) => walk.pop(&mut ring),
                    Err(Stop::Broken) => drop(walk.skip(&mut ring)),
                    Err(Stop::Empty) => panic!("{place} {value}: the good block was lost"),
                }
                steps += 1;
                assert!(steps < 10_000, "{place} {value}");
            }
        }
    }
}

#[test]
fn what_the_kernel_says_aside_is_understood() {
    let (mut ring, mut walk) = (Model::new(2), Walk::default());
    assert!(ring.fill(&[vec![7; 60]]));
    let block = &mut ring.blocks[0].1;
    let tagged = libc::TP_STATUS_VLAN_VALID | libc::TP_STATUS_CSUM_VALID;
    put(block, 48 + 20, tagged);
    put(block, 48 + 32, 100);
    put(block, 48 + 16, 9000);
    let frame = walk.peek(&ring).unwrap();
    assert_eq!((frame.status, frame.vlan, frame.len), (tagged, Some((0x8100, 100)), 9000));
    put(&mut ring.blocks[0].1, 48 + 20, tagged | libc::TP_STATUS_VLAN_TPID_VALID);
    put(&mut ring.blocks[0].1, 48 + 36, 0x88a8);
    assert_eq!(walk.peek(&ring).unwrap().vlan, Some((0x88a8, 100)));
}

impl Word for loom::sync::atomic::AtomicU32 {
    fn load_acquire(&self) -> u32 {
        self.load(loom::sync::atomic::Ordering::Acquire)
    }
    fn store_release(&self, value: u32) {
        self.store(value, loom::sync::atomic::Ordering::Release);
    }
}

/// Two blocks, each a status word and one word of payload; the kernel writes three, we read three.
/// A read that is not ordered behind the status, or a write before it, shows another's payload.
#[test]
fn the_status_word_orders_the_payload() {
    use loom::sync::Arc;
    use loom::sync::atomic::{AtomicU32, Ordering::Relaxed};
    loom::model(|| {
        let new = || Arc::new([0, 1].map(|_| (AtomicU32::new(0), AtomicU32::new(0))));
        let ring = new();
        let theirs = Arc::clone(&ring);
        let kernel = loom::thread::spawn(move || {
            for n in 0..3u32 {
                let (status, payload) = &theirs[n as usize % 2];
                while is_ours(status) {
                    loom::thread::yield_now();
                }
                payload.store(n + 1, Relaxed);
                status.store_release(libc::TP_STATUS_USER);
            }
        });
        for n in 0..3u32 {
            let (status, payload) = &ring[n as usize % 2];
            while !is_ours(status) {
                loom::thread::yield_now();
            }
            assert_eq!(payload.load(Relaxed), n + 1);
            release(status);
        }
        kernel.join().unwrap();
    });
}

/// Packets that others send by the interface are passed over one at a time: whoever counts steps
/// keeps its budget whatever their number is.
#[test]
fn packets_that_went_out_are_passed_over_one_in_a_step() {
    let mut ring = Model::new(2);
    let frames: Vec<Vec<u8>> = (0..20).map(|i| vec![i; 64]).collect();
    assert!(ring.fill(&frames));
    // All but the last went out.
    let mut at = 48;
    for _ in 0..19 {
        let bytes = &mut ring.blocks[0].1;
        bytes[at + PKTTYPE] = libc::PACKET_OUTGOING;
        at += word(bytes, at).unwrap() as usize;
    }
    let mut walk = Walk::default();
    for left in (1..20).rev() {
        assert_eq!(walk.step(&mut ring), Ok(Step::Out));
        assert_eq!(walk.pending(&ring), left, "one step, one packet");
    }
    let Ok(Step::In(frame)) = walk.step(&mut ring) else { panic!("the last one came in") };
    assert_eq!(frame.bytes, frames[19]);
    walk.pop(&mut ring);
    assert_eq!(walk.step(&mut ring), Err(Stop::Empty));
    assert!(!ring.blocks[0].0, "the block went back");
}
