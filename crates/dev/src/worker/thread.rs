//! What runs on a worker's thread: its loop, between two turns of which it takes orders.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, SyncSender};

use linerate_core::shard::Shard;

use super::{Build, Failure, ORDERS, Shared, lock, pin};
use crate::drive::{App, Drive};
use crate::poller::Waker;

/// What runs on a worker's thread between two of its turns.
pub(super) type Job<A> = Box<dyn FnOnce(&mut Drive, &mut A) + Send>;

/// What a worker is told.
pub(super) enum Order<A> {
    /// Run this between two turns.
    Ask(Job<A>),
    /// Take turns from now on, or none.
    Run(bool),
    /// End.
    End,
}

/// What a worker is made of.
pub(super) struct Begin<A> {
    pub shard: usize,
    pub cpu: Option<usize>,
    pub seed: u64,
    pub shared: Arc<Shared>,
    pub build: Arc<Build<A>>,
    /// What was set before it was there.
    pub knobs: Vec<(String, String)>,
}

/// The thread: builds, tells that it is built, runs until it is told to end. A panic is kept as a
/// failure; the memory of the shard is given up with the thread's stack.
pub(super) fn main<A: App>(
    begin: Begin<A>,
    orders: &Receiver<Order<A>>,
    built: &SyncSender<io::Result<Waker>>,
) {
    let (shard, shared) = (begin.shard, Arc::clone(&begin.shared));
    // Whatever was half done when it panicked is dropped and not looked at again.
    let ran = catch_unwind(AssertUnwindSafe(|| match make(&begin) {
        Ok((mut drive, mut app)) => {
            let waker = drive.poller.waker();
            lock(&shared.wakers).push((shard, waker.clone()));
            if built.send(Ok(waker)).is_ok() {
                run(shard, &mut drive, &mut app, orders, &shared);
            }
        }
        Err(err) => {
            // Whoever starts us waits for this.
            let _ = built.send(Err(err));
        }
    }));
    if let Err(payload) = ran {
        let text = payload.downcast_ref::<&str>().map(|s| (*s).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned());
        let what = text.unwrap_or_else(|| "it did not say why".to_owned());
        let kind = io::ErrorKind::Other;
        shared.fail(Failure { shard, kind, errno: None, panicked: true, what });
    }
}

/// Goes to its processor before it touches any memory: what it then writes first lies on that
/// processor's node.
fn make<A: App>(begin: &Begin<A>) -> io::Result<(Drive, A)> {
    if let Some(cpu) = begin.cpu {
        pin::to_cpu(cpu)?;
    }
    let mut drive = Drive::new(Shard::new(begin.seed))?;
    drive.count_from(begin.shared.start);
    for (path, value) in &begin.knobs {
        drive.shard.set_knob(path, value).expect("it was taken by all other shards");
    }
    drive.join(&begin.shared.mesh, begin.shard as u8);
    let app = (begin.build)(begin.shard, &mut drive)?;
    Ok((drive, app))
}

/// Takes turns and orders until told to end.
fn run<A: App>(
    shard: usize,
    drive: &mut Drive,
    app: &mut A,
    orders: &Receiver<Order<A>>,
    shared: &Shared,
) {
    let (mut running, mut begun, waker) = (false, false, drive.poller.waker());
    loop {
        for _ in 0..ORDERS {
            let halted = !running || shared.ending.load(Ordering::Acquire);
            // A halted worker sleeps until it is told something.
            let order = if halted { orders.recv().ok() } else { orders.try_recv().ok() };
            match order {
                Some(Order::Ask(job)) => job(drive, app),
                Some(Order::Run(on)) => {
                    if on && !std::mem::replace(&mut begun, true) {
                        // What passed while the others were built is no pause.
                        drive.count_from(shared.start);
                    }
                    running = on;
                }
                Some(Order::End) => return,
                // Whoever gave the orders is gone.
                None if halted => return,
                None => break,
            }
            // What was done may have left work, and more orders may wait: the turn must not sleep.
            waker.wake();
        }
        if !running || shared.ending.load(Ordering::Acquire) {
            continue;
        }
        if let Err(err) = drive.turn(app) {
            running = false;
            let (kind, errno, what) = (err.kind(), err.raw_os_error(), err.to_string());
            shared.fail(Failure { shard, kind, errno, panicked: false, what });
        }
    }
}
