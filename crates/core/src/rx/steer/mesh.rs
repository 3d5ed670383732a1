//! The way between shards: bounded mailboxes, one for each pair of them, and what all of them share.
//!
//! Linux: the per-CPU `softnet_data.input_pkt_queue` of another CPU, and the inter-processor
//! interrupt (`net_rps_send_ipi`).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::pkt::{Depot, Pkt};

/// What one shard sends another. Letters of one shard to another arrive in the order in which
/// they were sent: a flow that moves goes before the packets that follow it.
pub enum Letter {
    /// A packet for the backlog.
    Pkt(Pkt),
}

/// The mail of one shard for one other.
#[derive(Default)]
struct Box1 {
    letters: Mutex<VecDeque<Letter>>,
    /// Packets among them: readable without the lock.
    packets: AtomicUsize,
}

/// What a shard shows the others.
struct Door {
    boxes: Vec<Box1>,
    /// Letters lie in one of the boxes.
    mail: AtomicBool,
    /// Packets that others dropped because the backlog was full: the owner counts them.
    dropped: AtomicU64,
    /// Wakes the shard's loop (Linux: the inter-processor interrupt).
    wake: Mutex<Option<Box<dyn Fn() + Send>>>,
}

/// The shards of one instance, and the ways between them.
pub struct Mesh {
    doors: Vec<Door>,
    /// Packet memory that wanders between shards.
    pub depot: Arc<Depot>,
}

impl Mesh {
    /// A mesh of so many shards.
    pub fn new(shards: usize) -> Arc<Mesh> {
        let door = || Door {
            boxes: std::iter::repeat_with(Box1::default).take(shards).collect(),
            mail: AtomicBool::new(false),
            dropped: AtomicU64::new(0),
            wake: Mutex::new(None),
        };
        let doors = std::iter::repeat_with(door).take(shards).collect();
        Arc::new(Mesh { doors, depot: Arc::default() })
    }
    /// How many shards there are.
    pub fn shards(&self) -> usize {
        self.doors.len()
    }
    /// How shard `to` is woken when mail came for it.
    pub fn set_wake(&self, to: usize, wake: Box<dyn Fn() + Send>) {
        if let Some(door) = self.doors.get(to) {
            *lock(&door.wake) = Some(wake);
        }
    }
    /// Whether mail lies here for shard `at`: its loop must not sleep then.
    pub fn has_mail(&self, at: usize) -> bool {
        self.doors.get(at).is_some_and(|d| d.mail.load(Ordering::Acquire))
    }
}

/// A panic elsewhere leaves the lists whole: each change of them is complete under the lock.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}
