//! Goal: a packet that the kernel never takes holds up the others for a bounded number of tries only, and
//! no packet is lost that the kernel would have taken later.
//! Method: a device that answers what the test wrote down.

use super::*;
use linerate_core::pkt::Pool;

/// Answers the writes of a packet by its first byte.
struct Fake {
    counts: Counts,
    tries: Tries,
    answer: fn(u8, u32) -> i32,
    writes: u32,
}

impl OneByOne for Fake {
    fn read(&mut self, _: &mut RxCx<'_>) -> io::Result<Option<(Pkt, Option<Reason>)>> {
        Ok(None)
    }
    fn write(&mut self, pkt: &Pkt) -> io::Result<usize> {
        self.writes += 1;
        match (self.answer)(pkt.head()[0], self.writes) {
            0 => Ok(1),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
    fn is_gone(err: &io::Error) -> bool {
        err.raw_os_error() == Some(libc::ENODEV)
    }
    fn counts_mut(&mut self) -> &mut Counts {
        &mut self.counts
    }
    fn tries_mut(&mut self) -> &mut Tries {
        &mut self.tries
    }
}

/// Sends packets of these first bytes until all are done or `calls` are over; what came of each, in order,
/// and how many calls it took.
fn send(dev: &mut Fake, packets: &[u8], calls: u32) -> (Vec<(u8, bool)>, u32) {
    let mut pool = Pool::new(64, 0);
    let mut ring = VecDeque::new();
    for first in packets {
        let mut pkt = pool.alloc().expect("memory");
        pkt.put(1)[0] = *first;
        ring.push_back(pkt);
    }
    let (mut all, mut done, mut called) = (Vec::new(), Vec::new(), 0);
    while !ring.is_empty() && called < calls {
        called += 1;
        let left = tx_burst(dev, &mut ring, &mut done).expect("it is there");
        assert_eq!(left, done.len());
        for (pkt, sent) in done.drain(..) {
            all.push((pkt.head()[0], sent));
            pool.free(pkt);
        }
    }
    ring.into_iter().for_each(|pkt| pool.free(pkt));
    (all, called)
}

fn fake(answer: fn(u8, u32) -> i32) -> Fake {
    Fake { counts: Counts::default(), tries: Tries::default(), answer, writes: 0 }
}

#[test]
fn a_packet_that_is_never_taken_is_lost_after_some_tries_and_the_others_go() {
    for errno in [libc::ENOBUFS, libc::ENOMEM] {
        let answer = match errno {
            libc::ENOBUFS => |first, _| if first == 2 { libc::ENOBUFS } else { 0 },
            _ => |first, _| if first == 2 { libc::ENOMEM } else { 0 },
        };
        let mut dev = fake(answer);
        let (all, calls) = send(&mut dev, &[1, 2, 3], 100);
        assert_eq!(all, [(1, true), (2, false), (3, true)]);
        assert_eq!((calls, dev.writes), (TRIES_MAX, TRIES_MAX + 2));
        let counts = Counts {
            tx_busy: u64::from(TRIES_MAX) - 1,
            tx_refused: 1,
            tx_errno: errno,
            ..Counts::default()
        };
        assert_eq!(dev.counts, counts);
    }
}

/// A peer that is down takes nothing: the first packet finds that out, the others do not wait for it
/// again; when it is up, packets have all their tries.
#[test]
fn while_nothing_goes_each_packet_is_tried_once() {
    let mut dev = fake(|_, writes| if writes <= TRIES_MAX + 5 { libc::ENOBUFS } else { 0 });
    let (all, calls) = send(&mut dev, &[1, 2, 3, 4, 5, 6, 7, 8], 100);
    let lost = all.iter().filter(|(_, sent)| !sent).count();
    assert_eq!((all.len(), lost, calls), (8, 6, TRIES_MAX));
    dev.answer = |_, _| libc::ENOBUFS;
    assert_eq!(send(&mut dev, &[9], 100), (vec![(9, false)], TRIES_MAX));
}

#[test]
fn a_device_that_is_full_loses_nothing() {
    let mut dev = fake(|_, writes| if writes % 50 == 0 { 0 } else { libc::EAGAIN });
    let (all, calls) = send(&mut dev, &[1, 2, 3], 1000);
    assert_eq!((all, calls), (vec![(1, true), (2, true), (3, true)], 148));
    assert_eq!((dev.counts.tx_refused, dev.counts.tx_busy), (0, 147));
    // Memory that comes back in time loses nothing either.
    let mut dev = fake(|_, writes| if writes % TRIES_MAX == 0 { 0 } else { libc::ENOBUFS });
    let (all, _) = send(&mut dev, &[1, 2, 3], 1000);
    assert!(all.len() == 3 && all.iter().all(|(_, sent)| *sent), "{all:?}");
}

#[test]
fn other_errors_lose_the_packet_at_once() {
    let mut dev = fake(|first, _| if first == 1 { libc::EINVAL } else { 0 });
    assert_eq!(send(&mut dev, &[1, 2], 100), (vec![(1, false), (2, true)], 1));
    assert_eq!((dev.counts.tx_refused, dev.counts.tx_errno), (1, libc::EINVAL));
}
