use std::net::Ipv4Addr;

use linerate_core::pkt::{Gso, GsoKind, Pool};
use linerate_core::rx::steer::ntuple::FlowType;
use linerate_core::rx::steer::rss::indir_table;
use linerate_core::time::Instant;

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use super::*;
use crate::mem::nic::{Config, nic};
use crate::poller::{Interest, Poller};

/// One end of a card: some queues, and the pool of whoever drives them.
struct Host {
    queues: Vec<MemQueue>,
    pool: Pool,
}

impl Host {
    fn new(nic: &Nic, queues: u8) -> Host {
        let queues = (0..queues).map(|q| nic.open(q).unwrap()).collect();
        Host { queues, pool: Pool::new(4096, 8) }
    }

    /// A UDP frame of a flow, with a number in its payload.
    fn frame(&mut self, sport: u16, number: u32) -> Pkt {
        let mut pkt = self.pool.alloc().expect("memory");
        let frame = pkt.put(60);
        frame.fill(0);
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[16..18].copy_from_slice(&46u16.to_be_bytes());
        frame[23] = 17;
        frame[26..30].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 1).octets());
        frame[30..34].copy_from_slice(&Ipv4Addr::new(10, 0, 0, 2).octets());
        frame[34..36].copy_from_slice(&sport.to_be_bytes());
        frame[36..38].copy_from_slice(&53u16.to_be_bytes());
        frame[42..46].copy_from_slice(&number.to_be_bytes());
        pkt.network = pkt.data_offset() + 14;
        pkt
    }

    /// Sends; returns how many left and how many stayed. The memory goes back as the loop does it.
    fn send(&mut self, queue: usize, pkts: Vec<Pkt>) -> (usize, usize) {
        let (mut ring, mut done) = (VecDeque::from(pkts), Vec::new());
        let left = self.queues[queue].tx_burst(&mut ring, &mut done).unwrap();
        let said = (left, ring.len());
        self.queues[queue].tx_complete(&mut done);
        done.into_iter().for_each(|(p, _)| self.pool.free(p));
        ring.into_iter().for_each(|p| self.pool.free(p));
        said
    }

    /// Takes back what the other end is through with; returns how many packets are still out.
    fn complete(&mut self) -> usize {
        let mut done = Vec::new();
        for queue in &mut self.queues {
            queue.tx_complete(&mut done);
        }
        done.into_iter().for_each(|(p, _)| self.pool.free(p));
        assert_eq!(self.pool.small_out(), self.queues.iter().map(Device::tx_pending).sum());
        self.pool.small_out()
    }

    fn flow(&mut self, queue: usize, sport: u16, numbers: std::ops::Range<u32>) -> (usize, usize) {
        let pkts = numbers.map(|n| self.frame(sport, n)).collect();
        self.send(queue, pkts)
    }

    fn receive(&mut self, queue: usize, budget: usize) -> io::Result<Vec<Pkt>> {
        let (mut out, mut dropped) = (Batch::new(), Vec::new());
        let now = Instant::from_ns(9);
        let mut cx = RxCx { pool: &mut self.pool, now, dev: 3, dropped: &mut dropped };
        let got = self.queues[queue].rx_burst(&mut cx, &mut out, budget)?;
        assert_eq!(got, out.len() + dropped.len());
        dropped.into_iter().for_each(|(p, _)| self.pool.free(p));
        Ok(std::mem::take(&mut out.now))
    }

    /// Receives; the numbers of what came.
    fn numbers(&mut self, queue: usize, budget: usize) -> Vec<u32> {
        let pkts = self.receive(queue, budget).unwrap();
        let number = |p: &Pkt| u32::from_be_bytes(p.head()[42..46].try_into().unwrap());
        let numbers = pkts.iter().map(number).collect();
        pkts.into_iter().for_each(|p| self.pool.free(p));
        numbers
    }

    fn statistic(&self, queue: usize, name: &str) -> u64 {
        let all = self.queues[queue].statistics();
        all.into_iter().find(|(n, _)| *n == name).unwrap().1
    }
}

fn card(config: Config) -> (Nic, Nic, Host, Host) {
    let (near, far) = nic(config).unwrap();
    let (a, b) = (Host::new(&near, config.queues as u8), Host::new(&far, config.queues as u8));
    (near, far, a, b)
}

#[test]
fn packets_cross_in_order_without_a_copy_and_both_pools_keep_their_memory() {
    let (_near, _far, mut a, mut b) = card(Config { slots: 8, ..Config::default() });
    for round in 0..20u32 {
        let pkts: Vec<Pkt> = (0..5).map(|n| a.frame(1, round * 5 + n)).collect();
        let places: Vec<_> = pkts.iter().map(|p| p.head().as_ptr()).collect();
        assert_eq!(a.send(0, pkts), (5, 0));
        let got = b.receive(0, 64).unwrap();
        let here: Vec<_> = got.iter().map(|p| p.head().as_ptr()).collect();
        assert_eq!(here, places, "the memory itself went over");
        for (i, pkt) in got.into_iter().enumerate() {
            assert_eq!(pkt.head()[42..46], (round * 5 + i as u32).to_be_bytes());
            assert_eq!((pkt.dev, pkt.queue, pkt.rx_time), (3, 0, Instant::from_ns(9)));
            assert_eq!(pkt.network, pkt.data_offset() + 14);
            b.pool.free(pkt);
        }
        b.queues[0].rx_done();
    }
    assert_eq!((a.complete(), b.pool.small_out()), (0, 0));
    assert_eq!((a.statistic(0, "tx_packets"), b.statistic(0, "rx_packets")), (100, 100));
}

#[test]
fn what_the_sender_noted_on_a_packet_does_not_cross() {
    let (_near, _far, mut a, mut b) = card(Config::default());
    let mut pkt = a.frame(1, 0);
    (pkt.mark, pkt.trace, pkt.tapped, pkt.tos, pkt.ttl) = (7, 8, 1, 9, 10);
    (pkt.df, pkt.frag, pkt.vlan) = (true, true, Some(5));
    pkt.csum = Csum::Partial { start: 20, offset: 6 };
    let mut ring = VecDeque::from([pkt]);
    let mut done = Vec::new();
    a.queues[0].tx_burst(&mut ring, &mut done).unwrap();
    let got = b.receive(0, 1).unwrap().pop().unwrap();
    assert_eq!((got.mark, got.trace, got.tapped, got.tos, got.ttl), (0, 0, 0, 0, 0));
    assert_eq!((got.df, got.frag, got.vlan), (false, false, Some(5)));
    assert_eq!(got.csum, Csum::Partial { start: 20, offset: 6 });
    b.pool.free(got);
    // It is sent when the other end is through with it.
    assert_eq!((a.queues[0].tx_complete(&mut done), a.queues[0].tx_pending()), (0, 1));
    b.queues[0].rx_done();
    assert_eq!((a.queues[0].tx_complete(&mut done), a.queues[0].tx_pending()), (1, 0));
    // What comes back is counted by its length, and traced by its number.
    let back = done.pop().unwrap().0;
    assert_eq!((back.len(), back.trace), (60, 8));
    a.pool.free(back);
}

#[test]
fn packets_in_pieces_and_super_packets_cross_whole() {
    let (_near, _far, mut a, mut b) = card(Config::default());
    for (head, rest) in [(54, 1448), (54, 60_000), (1700, 10), (1700, 0), (54, 1994)] {
        let mut pkt = a.pool.alloc().unwrap();
        pkt.put(head).iter_mut().enumerate().for_each(|(i, b)| *b = i as u8);
        pkt.network = pkt.data_offset() + 14;
        pkt.gso = Some(Gso { kind: GsoKind::Tcp4, size: 1448, segs: 42, ecn: false });
        if rest > 0 {
            let mut chunk = a.pool.alloc_chunk(rest);
            chunk.spare_mut().unwrap()[..rest]
                .iter_mut()
                .enumerate()
                .for_each(|(i, b)| *b = (i / 7) as u8);
            chunk.fill(rest);
            pkt.add_shared(&chunk, 0, rest);
            a.pool.free_chunk(chunk);
        }
        let mut sent = vec![0; head + rest];
        pkt.copy_bits(0, &mut sent);
        assert_eq!(a.send(0, vec![pkt]), (1, 0));
        let got = b.receive(0, 9).unwrap().pop().unwrap();
        let mut came = vec![0; got.len()];
        got.copy_bits(0, &mut came);
        assert!(sent == came, "{head} and {rest} bytes");
        assert_eq!(got.gso.map(|g| g.segs), Some(42));
        b.pool.free(got);
    }
    b.queues[0].rx_done();
    assert_eq!((a.complete(), b.pool.small_out(), b.pool.large_out()), (0, 0, 0));
}

#[test]
fn without_memory_a_packet_waits() {
    let (_near, _far, mut a, mut b) = card(Config::default());
    b.pool = Pool::new(1, 0);
    a.flow(0, 1, 0..2);
    let first = b.receive(0, 9).unwrap().pop().unwrap();
    assert_eq!((b.queues[0].counts().rx_no_buffer, b.queues[0].rx_pending()), (1, Some(1)));
    b.pool.free(first);
    assert_eq!(b.numbers(0, 9), [1]);
}

#[test]
fn a_full_ring_holds_back_or_loses_and_says_so() {
    for flow_control in [true, false] {
        let (_near, _far, mut a, mut b) =
            card(Config { slots: 4, flow_control, ..Config::default() });
        let (left, stayed) = a.flow(0, 1, 0..6);
        assert_eq!((left, stayed), if flow_control { (4, 2) } else { (6, 0) });
        assert_eq!(a.queues[0].counts().tx_busy, u64::from(flow_control));
        assert_eq!(b.queues[0].counts().overflow, if flow_control { 0 } else { 2 });
        assert_eq!(b.numbers(0, 64), [0, 1, 2, 3]);
        // The slots are free again when what they gave has been processed.
        b.queues[0].rx_done();
        assert_eq!(a.flow(0, 1, 6..8).0, 2);
        assert_eq!(b.numbers(0, 64), [6, 7]);
        b.queues[0].rx_done();
        assert_eq!((a.complete(), b.pool.small_out()), (0, 0));
    }
}

#[test]
fn the_ring_knob_bounds_what_waits() {
    let config = Config { slots: 64, flow_control: false, ..Config::default() };
    let (_near, _far, mut a, mut b) = card(config);
    assert!(b.queues[0].set_rx_ring(3));
    a.flow(0, 1, 0..5);
    assert_eq!((b.queues[0].rx_pending(), b.queues[0].counts().overflow), (Some(3), 2));
}

/// Each flow has one queue, all queues have flows, and the weights of the table decide how many.
#[test]
fn flows_are_spread_by_the_table() {
    let (_near, far, mut a, mut b) = card(Config { queues: 4, slots: 1024, ..Config::default() });
    for (shares, low) in [(&[][..], 0.15), (&[6, 2][..], 0.15)] {
        let mut rss = far.rss();
        rss.indir = indir_table(shares, 4);
        far.set_rss(&rss);
        for flow in 0..400u16 {
            a.flow(usize::from(flow % 4), 1000 + flow, 0..2);
        }
        let counts: Vec<usize> = (0..4).map(|q| b.numbers(q, 1 << 12).len()).collect();
        assert_eq!(counts.iter().sum::<usize>(), 800);
        assert!(counts.iter().all(|n| n % 2 == 0), "a flow has one queue: {counts:?}");
        if shares.is_empty() {
            assert!(counts.iter().all(|n| *n as f64 > 800.0 * low), "{counts:?}");
        } else {
            assert!(counts[0] > 2 * counts[1] && counts[2..] == [0, 0], "{counts:?}");
        }
        (0..4).for_each(|q| b.queues[q].rx_done());
    }
}

#[test]
fn rules_go_before_the_table_and_the_hash_comes_along() {
    let (_near, far, mut a, mut b) = card(Config { queues: 2, ..Config::default() });
    let rule = |sport, action| Rule {
        flow_type: FlowType::Udp4,
        src: None,
        dst: None,
        sport: Some(sport),
        dport: None,
        action,
    };
    let home = |a: &mut Host, b: &mut Host| {
        a.flow(0, 77, 0..1);
        let at = (0..2).find(|q| !b.numbers(*q, 9).is_empty());
        b.queues.iter_mut().for_each(MemQueue::rx_done);
        at
    };
    let before = home(&mut a, &mut b).unwrap();
    far.set_rule(3, Some(&rule(77, RuleAction::Queue(1 - before as u8)))).unwrap();
    assert_eq!(home(&mut a, &mut b), Some(1 - before));
    far.set_rule(3, Some(&rule(77, RuleAction::Drop))).unwrap();
    assert_eq!(home(&mut a, &mut b), None);
    assert_eq!(a.statistic(0, "tx_rule_drops"), 1);
    far.set_rule(3, None).unwrap();
    assert_eq!(home(&mut a, &mut b), Some(before));
    assert_eq!(far.set_rule(3, None).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    a.flow(0, 77, 0..1);
    let pkt = b.receive(before, 1).unwrap().pop().unwrap();
    assert_ne!(pkt.hash, 0);
    assert_eq!(pkt.hash, far.rss().hasher().of_frame(pkt.head(), true));
    b.pool.free(pkt);
}

/// The table changes while packets of a flow are under way: the next ones go the old way until the
/// old queue is through with them, processing included.
#[test]
fn a_flow_changes_its_queue_only_when_nothing_of_it_is_under_way() {
    let (_near, far, mut a, mut b) = card(Config { queues: 2, ..Config::default() });
    let mut rss = far.rss();
    rss.indir = [0; 128];
    far.set_rss(&rss);
    a.flow(0, 1, 0..3);
    rss.indir = [1; 128];
    far.set_rss(&rss);
    a.flow(0, 1, 3..5);
    // Another flow has no reason to stay.
    a.flow(0, 2, 90..91);
    assert_eq!((b.numbers(0, 64), b.numbers(1, 64)), (vec![0, 1, 2, 3, 4], vec![90]));
    // They were taken, but nobody said that they were processed.
    a.flow(0, 1, 5..6);
    b.queues[0].rx_done();
    assert_eq!((b.numbers(1, 64), b.numbers(0, 64)), (vec![], vec![5]));
    b.queues[0].rx_done();
    a.flow(0, 1, 6..8);
    assert_eq!((b.numbers(0, 64), b.numbers(1, 64)), (vec![], vec![6, 7]));
}

/// A queue that gets no packets any more is left at once by flows of which nothing is under way; the
/// others wait.
#[test]
fn a_queue_is_taken_away_without_loss_or_disorder() {
    let (_near, far, mut a, mut b) = card(Config { queues: 2, ..Config::default() });
    let mut rss = far.rss();
    rss.indir = [1; 128];
    far.set_rss(&rss);
    a.flow(0, 1, 0..3);
    far.set_channels(1);
    assert_eq!((far.channels(), far.settled(1)), (1, false));
    assert_eq!(a.flow(0, 1, 3..5), (0, 2), "they wait");
    assert_eq!(a.flow(0, 2, 90..91), (1, 0));
    assert_eq!(b.numbers(1, 64), [0, 1, 2]);
    assert!(!far.settled(1));
    b.queues[1].rx_done();
    assert!(far.settled(1));
    assert_eq!(a.flow(0, 1, 3..5), (2, 0));
    drop(b.queues.pop());
    assert_eq!(b.numbers(0, 64), [90, 3, 4]);
    assert_eq!(b.queues[0].counts().overflow, 0);
    // It can come back.
    b.queues.push(far.open(1).unwrap());
    assert_eq!(far.open(1).err().and_then(|e| e.raw_os_error()), Some(libc::EBUSY));
    b.queues[0].rx_done();
    far.set_channels(2);
    rss.indir = [1; 128];
    far.set_rss(&rss);
    a.flow(0, 1, 5..7);
    assert_eq!((b.numbers(0, 64), b.numbers(1, 64)), (vec![], vec![5, 6]));
}

/// What was in the rings of a queue that was dropped, or comes for one that nobody opened, is lost and
/// counted.
#[test]
fn a_queue_without_a_receiver_loses_what_comes() {
    let (near, far) = nic(Config { queues: 2, ..Config::default() }).unwrap();
    let (mut a, mut b) = (Host::new(&near, 1), Host::new(&far, 2));
    let mut rss = far.rss();
    rss.indir = [1; 128];
    far.set_rss(&rss);
    a.flow(0, 1, 0..3);
    assert_eq!(b.numbers(1, 1), [0]);
    drop(b.queues.pop());
    assert_eq!(a.flow(0, 1, 3..5), (2, 0));
    b.queues.push(far.open(1).unwrap());
    assert_eq!(b.queues[1].counts().overflow, 4);
    a.flow(0, 1, 5..6);
    assert_eq!(b.numbers(1, 9), [5]);
}

#[test]
fn a_mirror_sees_all_and_a_packet_may_go_to_every_queue() {
    let (_near, far, mut a, mut b) = card(Config { queues: 3, ..Config::default() });
    let mut rss = far.rss();
    rss.indir = [0; 128];
    far.set_rss(&rss);
    far.set_spread(Spread::Mirror(2));
    a.flow(0, 1, 0..2);
    let all = |b: &mut Host| {
        let got = (0..3).map(|q| b.numbers(q, 64)).collect::<Vec<_>>();
        b.queues.iter_mut().for_each(MemQueue::rx_done);
        got
    };
    assert_eq!(all(&mut b), [vec![0, 1], vec![], vec![0, 1]]);
    far.set_spread(Spread::All);
    a.flow(0, 1, 2..4);
    assert_eq!(all(&mut b), [[2, 3], [2, 3], [2, 3]]);
    assert_eq!(a.statistic(0, "tx_copies"), 6);
    // A copy without room is lost; what it is a copy of is not.
    b.queues[2].set_rx_ring(1);
    a.flow(0, 1, 4..5);
    all(&mut b);
    a.flow(0, 1, 5..8);
    let got = all(&mut b);
    assert_eq!((&got[0], got[2].len()), (&vec![5, 6, 7], 1));
    assert_eq!(a.statistic(0, "tx_copies_lost"), 2);
    assert_eq!((a.complete(), b.pool.small_out()), (0, 0));
}

/// The descriptor is readable when the receiver waits and something came; a receiver that looks by
/// itself costs the sender no system call, which shows as a descriptor that stays quiet.
#[test]
fn the_descriptor_wakes_who_waits_and_nobody_else() {
    let (_near, _far, mut a, mut b) = card(Config::default());
    let mut poller = Poller::new(4).unwrap();
    poller.add(b.queues[0].poll_fd().unwrap(), 5, Interest::READ).unwrap();
    let mut ready = || poller.wait(Some(0)).unwrap().len() == 1;
    // It has not looked yet, so it does not wait.
    a.flow(0, 1, 0..3);
    assert!(!ready());
    assert_eq!(b.numbers(0, 1), [0]);
    a.flow(0, 1, 3..4);
    assert!(!ready());
    assert_eq!(b.numbers(0, 64), [1, 2, 3]);
    assert!(!ready());
    a.flow(0, 1, 4..5);
    assert!(ready());
    a.flow(0, 1, 5..6);
    assert_eq!(b.numbers(0, 64), [4, 5]);
    assert!(!ready());
}

#[test]
fn an_end_that_left_is_an_error_when_nothing_is_left_of_it() {
    let (_near, _far, mut a, mut b) = card(Config { queues: 2, ..Config::default() });
    assert!(b.numbers(0, 9).is_empty());
    a.flow(0, 1, 0..1);
    let at = (0..2).find(|q| b.queues[*q].rx_pending() > Some(0)).unwrap();
    a.queues.pop();
    assert!(b.receive(1 - at, 9).unwrap().is_empty(), "one queue is still there");
    a.queues.pop();
    assert_eq!(b.receive(1 - at, 9).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    let mut poller = Poller::new(4).unwrap();
    poller.add(b.queues[at].poll_fd().unwrap(), 5, Interest::READ).unwrap();
    assert_eq!(b.numbers(at, 9), [0]);
    assert_eq!(poller.wait(Some(0)).unwrap().len(), 1, "the end is still to be told");
    assert_eq!(b.receive(at, 9).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

/// Four threads, two queues at each end, small rings, and a table that changes all the time: nothing
/// is lost or doubled, and every flow stays in order.
#[test]
fn order_and_number_survive_a_table_that_changes_under_load() {
    const FLOWS: u16 = 16;
    const EACH: u32 = 4000;
    let config = Config { queues: 2, slots: 16, ..Config::default() };
    let (near, far) = nic(config).unwrap();
    // What has been processed, by flow: the number that comes next.
    let next: Vec<Mutex<u32>> = (0..FLOWS).map(|_| Mutex::new(0)).collect();
    let total = AtomicU64::new(0);
    let goal = u64::from(FLOWS) * u64::from(EACH);
    let open =
        |nic: &Nic, queue| Host { queues: vec![nic.open(queue).unwrap()], pool: Pool::new(64, 0) };
    // All are there before the first packet: what is sent to a queue that nobody has opened is lost.
    let halves: Vec<_> =
        (0..2u16).map(|h| (h, open(&near, h as u8), open(&far, h as u8))).collect();
    std::thread::scope(|scope| {
        for (half, mut sender, mut receiver) in halves {
            let (next, total) = (&next, &total);
            scope.spawn(move || {
                let _end = End(total);
                let mine = |f: &u16| f % 2 == half;
                for (number, flow) in
                    (0..EACH).flat_map(|n| (0..FLOWS).filter(mine).map(move |f| (n, f)))
                {
                    while sender.flow(0, 1000 + flow, number..number + 1).0 == 0 {
                        if total.load(Ordering::Relaxed) >= goal {
                            return;
                        }
                        std::thread::yield_now();
                    }
                }
                while sender.complete() > 0 && total.load(Ordering::Relaxed) < 2 * goal {
                    std::thread::yield_now();
                }
                // Dropping the queue would be the end of it for the receivers.
                while total.load(Ordering::Relaxed) < goal {
                    std::thread::yield_now();
                }
            });
            scope.spawn(move || {
                let _end = End(total);
                while total.load(Ordering::Relaxed) < goal {
                    let got = receiver.receive(0, 8).unwrap();
                    if got.is_empty() {
                        std::thread::yield_now();
                    }
                    for pkt in got {
                        let flow =
                            u16::from_be_bytes(pkt.head()[34..36].try_into().unwrap()) - 1000;
                        let number = u32::from_be_bytes(pkt.head()[42..46].try_into().unwrap());
                        let mut next = next[usize::from(flow)].lock().unwrap();
                        assert_eq!(number, *next, "flow {flow}");
                        *next += 1;
                        receiver.pool.free(pkt);
                        total.fetch_add(1, Ordering::Relaxed);
                    }
                    receiver.queues[0].rx_done();
                }
            });
        }
        let mut turn = 0u32;
        while total.load(Ordering::Relaxed) < goal {
            turn = turn.wrapping_add(1);
            match turn % 4 {
                0 => far.set_channels(1),
                2 => far.set_channels(2),
                n => {
                    let mut rss = far.rss();
                    rss.indir.rotate_left(n as usize);
                    far.set_rss(&rss);
                }
            }
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
    });
    assert!(next.iter().all(|n| *n.lock().unwrap() == EACH));
}

/// A thread that panics ends the test for all.
struct End<'a>(&'a AtomicU64);

impl Drop for End<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(u64::MAX / 2, Ordering::Relaxed);
        }
    }
}
