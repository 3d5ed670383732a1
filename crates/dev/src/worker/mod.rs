#![doc = include_str!("README.md")]

mod pin;
mod resize;
mod thread;
pub mod topology;

use std::io;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::rx::steer::Mesh;
use linerate_core::rx::steer::mesh::SHARDS_MAX;
use linerate_core::table::Knobs;
use linerate_core::table::knob::SetError;

use crate::drive::{App, Drive};
use crate::poller::Waker;
use thread::Order;

/// Orders that may wait for one worker; whoever gives more waits.
const ORDERS: usize = 64;

/// How long devices of halted shards may take to give back what was sent.
const GIVE_BACK: Duration = Duration::from_millis(100);

/// The worker is not there any more: it was stopped, or it panicked (ESRCH).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Its number.
    pub shard: usize,
}

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let shard = self.shard;
        write!(f, "shard {shard} has no worker any more: see what failed, and start anew")
    }
}
impl std::error::Error for Gone {}

impl From<Gone> for io::Error {
    fn from(gone: Gone) -> io::Error {
        io::Error::new(io::ErrorKind::NotFound, gone)
    }
}

/// Why a worker stopped by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Its number.
    pub shard: usize,
    /// What the error is by kind; a panic is `Other`.
    pub kind: io::ErrorKind,
    /// The errno, if it came from the kernel.
    pub errno: Option<i32>,
    /// It panicked: its shard is lost, and the whole instance ends.
    pub panicked: bool,
    /// What happened.
    pub what: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let how = if self.panicked { "panicked" } else { "stopped" };
        write!(f, "the worker of shard {} {how}: {}", self.shard, self.what)
    }
}
impl std::error::Error for Failure {}

impl From<Failure> for io::Error {
    fn from(failure: Failure) -> io::Error {
        io::Error::new(failure.kind, failure)
    }
}

/// What all workers of an instance see.
struct Shared {
    mesh: Arc<Mesh>,
    /// Where the time of all shards begins.
    start: Instant,
    /// A worker panicked: the others take no more turns.
    ending: AtomicBool,
    failures: Mutex<Vec<Failure>>,
    /// Rung at every failure.
    watch: Mutex<Option<Waker>>,
    /// One for each worker that lives.
    wakers: Mutex<Vec<(usize, Waker)>>,
}

/// A panic elsewhere leaves the lists whole: each change of them is complete under the lock.
fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Keeps what happened, and tells whoever watches.
    fn fail(&self, failure: Failure) {
        if failure.panicked {
            self.ending.store(true, Ordering::Release);
        }
        lock(&self.failures).push(failure);
        lock(&self.wakers).iter().for_each(|(_, waker)| waker.wake());
        lock(&self.watch).iter().for_each(Waker::wake);
    }
}

type Build<A> = dyn Fn(usize, &mut Drive) -> io::Result<A> + Send + Sync;

/// The controlling end of one worker.
struct Hand<A> {
    orders: SyncSender<Order<A>>,
    waker: Waker,
    thread: JoinHandle<()>,
}

impl<A> Hand<A> {
    /// Gives an order; whether the worker is there to take it.
    fn order(&self, order: Order<A>) -> bool {
        let sent = self.orders.send(order).is_ok();
        self.waker.wake();
        sent
    }
}

/// One thread for each shard of an instance, each with its loop, its devices and its application.
pub struct Workers<A: App> {
    hands: Vec<Hand<A>>,
    shared: Arc<Shared>,
    build: Arc<Build<A>>,
    cpus: Vec<usize>,
    seed: u64,
    /// What was set since the start: a worker that is added gets it too.
    knobs: Mutex<Vec<(String, String)>>,
    app: PhantomData<fn() -> A>,
}

impl<A: App + 'static> Workers<A> {
    /// Starts `n` workers. Shard `i` runs on the processor `cpus[i % cpus.len()]`, or on any if none
    /// is given; [`topology::Topology::cpus_for`] chooses them by the device. All randomness of all
    /// shards follows from `seed`. `build` runs once for each shard, on its thread, in the order of
    /// the shards: it adds devices, addresses and sockets, and makes the application. No worker
    /// takes a turn before all are built.
    ///
    /// # Errors
    /// What `build` gave; `EINVAL` if a processor does not exist or is not allowed; `EAGAIN`,
    /// `EMFILE` without resources. No thread is left then.
    ///
    /// # Panics
    /// If `n` is 0 or above 64.
    pub fn start(
        n: usize,
        cpus: &[usize],
        seed: u64,
        build: impl Fn(usize, &mut Drive) -> io::Result<A> + Send + Sync + 'static,
    ) -> io::Result<Workers<A>> {
        assert!((1..=SHARDS_MAX).contains(&n), "an instance has 1 to {SHARDS_MAX} shards");
        let shared = Shared {
            mesh: Mesh::new(n),
            start: Instant::now(),
            ending: AtomicBool::new(false),
            failures: Mutex::default(),
            watch: Mutex::default(),
            wakers: Mutex::default(),
        };
        let mut workers = Workers {
            hands: Vec::new(),
            shared: Arc::new(shared),
            build: Arc::new(build),
            cpus: cpus.to_vec(),
            seed,
            knobs: Mutex::default(),
            app: PhantomData,
        };
        // Dropping `workers` on an error ends those that were started.
        (0..n).try_for_each(|_| workers.spawn())?;
        workers.run(true);
        Ok(workers)
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> usize {
        self.hands.len()
    }

    /// The ways between the shards.
    #[must_use]
    pub fn mesh(&self) -> &Arc<Mesh> {
        &self.shared.mesh
    }

    /// Runs `f` on a worker's thread between two turns of its loop, and waits for the answer. Not to
    /// be called on a worker's own thread.
    ///
    /// # Errors
    /// [`Gone`]: the worker ended before it answered.
    pub fn ask<R: Send + 'static>(
        &self,
        shard: usize,
        f: impl FnOnce(&mut Drive, &mut A) -> R + Send + 'static,
    ) -> Result<R, Gone> {
        self.answer(shard, self.put(shard, f))
    }

    /// Puts the question; the answer comes through the channel, whose end means [`Gone`].
    fn put<R: Send + 'static>(
        &self,
        shard: usize,
        f: impl FnOnce(&mut Drive, &mut A) -> R + Send + 'static,
    ) -> mpsc::Receiver<R> {
        let (reply, answer) = mpsc::sync_channel(1);
        let job = move |drive: &mut Drive, app: &mut A| {
            // Nobody waits any more if whoever asked has panicked.
            let _ = reply.send(f(drive, app));
        };
        if let Some(hand) = self.hands.get(shard) {
            hand.order(Order::Ask(Box::new(job)));
        }
        answer
    }

    fn answer<R>(&self, shard: usize, answer: mpsc::Receiver<R>) -> Result<R, Gone> {
        answer.recv().map_err(|_| Gone { shard })
    }

    /// Runs `f` on every worker, at the same time; the answers of those that live, in the order of
    /// the shards.
    pub fn ask_all<R: Send + 'static>(
        &self,
        f: impl Fn(&mut Drive, &mut A) -> R + Send + Sync + 'static,
    ) -> Vec<R> {
        let f = Arc::new(f);
        let put = |shard| {
            let f = Arc::clone(&f);
            self.put(shard, move |drive: &mut Drive, app: &mut A| f(drive, app))
        };
        let answers: Vec<_> = (0..self.shards()).map(put).collect();
        let each = answers.into_iter().enumerate();
        each.filter_map(|(shard, answer)| self.answer(shard, answer).ok()).collect()
    }

    /// Sets the knob at `path` in all shards, those included that are added later; in none on an
    /// error.
    ///
    /// # Errors
    /// [`SetError`] (ENOENT, EINVAL).
    pub fn set_knob(&self, path: &str, value: &str) -> Result<(), SetError> {
        // Ranges do not depend on other knobs: what one set of knobs takes, all take.
        Knobs::default().set(path, value)?;
        let name = Knobs::row(path)?.path;
        {
            let mut knobs = lock(&self.knobs);
            knobs.retain(|(have, _)| have != name);
            knobs.push((name.to_owned(), value.to_owned()));
        }
        let value = value.to_owned();
        let set = self.ask_all(move |drive, _| drive.shard.set_knob(name, &value));
        set.into_iter().collect()
    }

    /// What went wrong in workers so far, oldest first. A worker whose device is gone, or whose
    /// application gave up, takes no more turns, but still answers. A panic loses its shard and
    /// halts all others.
    #[must_use]
    pub fn failed(&self) -> Vec<Failure> {
        lock(&self.shared.failures).clone()
    }

    /// Rings `waker` at every failure, so that a thread that waits for other things learns of it.
    pub fn watch(&self, waker: Waker) {
        *lock(&self.shared.watch) = Some(waker);
    }

    /// A worker that stopped with an error takes turns again, after what was wrong has been put
    /// right by [`Workers::ask`]. Its failures are forgotten.
    ///
    /// # Errors
    /// [`Gone`].
    pub fn resume(&self, shard: usize) -> Result<(), Gone> {
        lock(&self.shared.failures).retain(|f| f.shard != shard || f.panicked);
        let hand = self.hands.get(shard).ok_or(Gone { shard })?;
        hand.order(Order::Run(true)).then_some(()).ok_or(Gone { shard })
    }

    /// Halts all loops after their turn, and works off what lies between the shards: mail and
    /// backlogs are empty afterwards, and devices have given back what they have sent. Workers still
    /// answer. What waits to be received stays in the devices.
    pub fn quiesce(&self) {
        self.run(false);
        // A packet may be sent on from one shard to the next, at most once: the third round finds
        // nothing, unless somebody breaks that rule.
        let settled = || self.ask_all(|drive, _| settle(drive)).into_iter().sum::<usize>() == 0;
        let _ = (0..8).any(|_| settled());
        // What devices still hold they may give back yet; a peer that takes nothing is not waited for.
        let begun = Instant::now();
        let holds = |drive: &mut Drive, _: &mut A| {
            // A device that is gone takes nothing any more.
            let _ = drive.flush_tx();
            drive.devices().any(|d| d.tx_pending() > 0)
        };
        while begun.elapsed() < GIVE_BACK && self.ask_all(holds).contains(&true) {
            std::thread::sleep(GIVE_BACK / 100);
        }
    }

    /// All take turns from now on, or none.
    fn run(&self, on: bool) {
        for hand in &self.hands {
            hand.order(Order::Run(on));
        }
        // Each has seen the order when it answers.
        self.ask_all(|_, _| ());
    }

    /// Stops all workers: loops halt, mail is worked off, threads end.
    ///
    /// # Errors
    /// The first [`Failure`] of a worker, if there was one.
    pub fn stop(mut self) -> io::Result<()> {
        self.quiesce();
        self.end();
        match self.failed().into_iter().next() {
            Some(failure) => Err(failure.into()),
            None => Ok(()),
        }
    }

    /// Starts the next worker, halted.
    fn spawn(&mut self) -> io::Result<()> {
        let shard = self.hands.len();
        let begin = thread::Begin {
            shard,
            cpu: (!self.cpus.is_empty()).then(|| self.cpus[shard % self.cpus.len()]),
            seed: seed_of(self.seed, shard),
            shared: Arc::clone(&self.shared),
            build: Arc::clone(&self.build),
            knobs: lock(&self.knobs).clone(),
        };
        let (orders, inbox) = mpsc::sync_channel(ORDERS);
        let (built, is_built) = mpsc::sync_channel(1);
        let name = format!("linerate-{shard}");
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || thread::main(begin, &inbox, &built))?;
        match is_built.recv() {
            Ok(Ok(waker)) => {
                self.hands.push(Hand { orders, waker, thread });
                Ok(())
            }
            Ok(Err(err)) => Err(err),
            // It panicked while it was built.
            Err(_) => {
                let failure = self.failed().pop();
                Err(failure.map_or_else(|| io::ErrorKind::Other.into(), io::Error::from))
            }
        }
    }
}

impl<A: App> Workers<A> {
    fn end(&mut self) {
        for hand in &self.hands {
            hand.order(Order::End);
        }
        for hand in self.hands.drain(..) {
            // A panic was caught on the thread and is among the failures.
            let _ = hand.thread.join();
        }
    }
}

impl<A: App> Drop for Workers<A> {
    /// Ends the threads; mail that is under way is freed with its mailbox.
    fn drop(&mut self) {
        self.end();
    }
}

/// Works off mail and backlog of a halted shard; returns how many packets that were.
fn settle(drive: &mut Drive) -> usize {
    let (mut batch, mut all) = (Batch::new(), 0);
    loop {
        let n = path::process_backlog(&mut drive.shard, &mut batch, 64);
        all += n;
        if n == 0 {
            break;
        }
    }
    all
}

/// Different shards take different random choices, all of them decided by one seed.
fn seed_of(seed: u64, shard: usize) -> u64 {
    seed ^ (shard as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
