//! Questions, knobs, failures and the end of workers that carry no traffic.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use linerate_core::shard::Shard;
use linerate_core::table::knob::SetError;
use linerate_dev::drive::{App, Drive};
use linerate_dev::poller::{Event, Interest, Poller};
use linerate_dev::worker::{Gone, Workers};

use crate::wait_until;

/// An application that does what it is told once.
#[derive(Default)]
struct Odd {
    turns: u64,
    panics: bool,
    fails: bool,
}

impl App for Odd {
    fn turn(&mut self, _: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        self.turns += 1;
        assert!(!self.panics, "told to panic");
        if std::mem::take(&mut self.fails) {
            return Err(io::Error::from_raw_os_error(19));
        }
        Ok(false)
    }
}

fn odd(n: usize) -> Workers<Odd> {
    Workers::start(n, &[], 7, |_, _| Ok(Odd::default())).expect("they start")
}

#[test]
fn questions_run_on_the_workers_own_thread_between_turns() {
    let workers = odd(3);
    let names = workers.ask_all(|_, _| std::thread::current().name().map(str::to_owned));
    let names: Vec<_> = names.into_iter().flatten().collect();
    assert_eq!(names, ["linerate-0", "linerate-1", "linerate-2"]);
    let number = |i| workers.ask(i, |drive, _| drive.shard.net.cpu);
    assert_eq!((number(0), number(2)), (Ok(0), Ok(2)));
    assert_eq!(number(3), Err(Gone { shard: 3 }));
    // Far more than may wait, from two sides at once.
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..500).for_each(|_| assert_eq!(number(1), Ok(1))));
        }
    });
    workers.stop().expect("nothing failed");
}

#[test]
fn shards_differ_in_their_randomness_and_the_seed_decides_it() {
    let draw = || {
        let workers = odd(2);
        workers.ask_all(|drive, _| drive.shard.net.rng.next_u64())
    };
    let (one, two) = (draw(), draw());
    assert_eq!(one, two);
    assert_ne!(one[0], one[1]);
}

#[test]
fn a_worker_is_bound_to_its_processor() {
    let allowed = |_: &mut Drive, _: &mut Odd| {
        let set = rustix::thread::sched_getaffinity(None).expect("it can be asked");
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect::<Vec<_>>()
    };
    let set = rustix::thread::sched_getaffinity(None).expect("it can be asked");
    let mine: Vec<_> = (0..rustix::thread::CpuSet::MAX_CPU).filter(|c| set.is_set(*c)).collect();
    let last = *mine.last().expect("this test runs on one");
    let workers = Workers::start(2, &[last], 7, |_, _| Ok(Odd::default())).expect("they start");
    assert_eq!(workers.ask_all(allowed), [vec![last], vec![last]]);
    drop(workers);
    assert_eq!(odd(1).ask(0, allowed), Ok(mine));
    let err = Workers::start(2, &[1023], 7, |_, _| Ok(Odd::default())).err().expect("none such");
    assert!(err.to_string().contains("processor 1023"), "{err}");
}

#[test]
fn a_knob_is_set_in_all_shards_or_in_none() {
    let workers = odd(3);
    workers.set_knob("netdev_max_backlog", "77").expect("in range");
    let get = |drive: &mut Drive, _: &mut Odd| drive.shard.net.knobs.netdev_max_backlog;
    assert_eq!(workers.ask_all(get), [77, 77, 77]);
    let before = workers.ask_all(get);
    let err = workers.set_knob("netdev_max_backlog", "-1");
    assert!(matches!(err, Err(SetError::Invalid { .. })), "{err:?}");
    assert!(matches!(workers.set_knob("no.such", "1"), Err(SetError::Unknown { .. })));
    assert_eq!(workers.ask_all(get), before);
}

#[test]
fn what_can_not_be_built_starts_nothing() {
    let built = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&built);
    let err = Workers::<Odd>::start(3, &[], 7, move |i, _| {
        seen.store(true, Ordering::Relaxed);
        if i == 1 { Err(io::Error::from_raw_os_error(1)) } else { Ok(Odd::default()) }
    });
    assert_eq!(err.err().and_then(|e| e.raw_os_error()), Some(1));
    assert!(built.load(Ordering::Relaxed));
    let err = Workers::<Odd>::start(1, &[], 7, |_, _| panic!("can not be built"));
    assert!(err.err().expect("it panicked").to_string().contains("can not be built"));
}

#[test]
fn a_worker_that_stops_with_an_error_still_answers_and_can_go_on() {
    let workers = odd(2);
    let mut watcher = Poller::new(1).expect("descriptors");
    workers.watch(watcher.waker());
    workers.ask(1, |_, app| app.fails = true).expect("it lives");
    assert_eq!(watcher.wait(None).expect("a wait").len(), 1);
    let failed = workers.failed();
    assert_eq!((failed[0].shard, failed[0].errno, failed[0].panicked), (1, Some(19), false));
    // It answers, but takes no turns.
    let turns = |shard| workers.ask(shard, |_, app| app.turns).expect("it lives");
    let before = turns(1);
    assert_eq!(turns(1), before);
    let other = turns(0);
    wait_until("the other goes on", || turns(0) > other);
    workers.resume(1).expect("it lives");
    wait_until("it goes on", || turns(1) > before);
    assert_eq!(workers.failed(), []);
    workers.stop().expect("nothing is wrong any more");
}

#[test]
fn a_panic_is_caught_told_and_halts_the_others() {
    let workers = odd(3);
    let mut watcher = Poller::new(1).expect("descriptors");
    workers.watch(watcher.waker());
    workers.ask(2, |_, app| app.panics = true).expect("it lives");
    assert_eq!(watcher.wait(None).expect("a wait").len(), 1);
    wait_until("it is gone", || workers.ask(2, |_, _| ()) == Err(Gone { shard: 2 }));
    // The others can still be asked, for the report, and take no more turns.
    let halted = || workers.ask_all(|_, app| app.turns);
    let before = halted();
    assert_eq!((before.len(), halted()), (2, before));
    let failed = workers.failed();
    assert_eq!((failed.len(), failed[0].panicked, failed[0].shard), (1, true, 2));
    assert!(failed[0].what.contains("told to panic"), "{failed:?}");
    let err = workers.stop().expect_err("a worker panicked");
    assert!(err.to_string().contains("shard 2 panicked: told to panic"), "{err}");
}

#[test]
fn a_panic_in_a_question_is_the_workers() {
    let workers = odd(1);
    let answer = workers.ask(0, |_, _| -> u32 { panic!("asked too much") });
    assert_eq!(answer, Err(Gone { shard: 0 }));
    wait_until("it is told", || !workers.failed().is_empty());
}

/// Nothing wakes a worker that sleeps for ever but a question; the end comes all the same.
#[test]
fn an_idle_instance_stops_at_once_and_dropping_it_ends_its_threads() {
    let (near, far) = std::os::unix::net::UnixStream::pair().expect("descriptors");
    let near = Arc::new(near);
    let kept = Arc::clone(&near);
    let workers = Workers::start(2, &[], 7, move |_, drive| {
        drive.poller.add(&*kept, 1, Interest::READ)?;
        Ok(Odd::default())
    });
    let workers = workers.expect("they start");
    workers.ask_all(|_, _| ());
    drop(workers);
    // The threads are gone, and what they held with them.
    assert_eq!(Arc::strong_count(&near), 1);
    drop(far);
}
