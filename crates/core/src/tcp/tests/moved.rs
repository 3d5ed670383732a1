//! Connections that change shards in every state, while anything may be under way.

use super::*;
use crate::rx::steer::Mesh;
use crate::sock::SockKind;
use crate::tcp::{Moved, State, TcpError, TcpOpt, Tuple};

impl Pair {
    /// A shard that is to take the place of node `i`: the same addresses, its own keys and, if
    /// asked for, its own clock.
    fn twin(&mut self, i: usize) -> Shard {
        let mut shard = Shard::new(self.rng.next_u64());
        let mut iface = Iface::new("t0", L2::Ip, Mac([0; 6]), self.fate.mtu);
        iface.features = self.shards[i].net.ifaces[0].features;
        let dev = shard.add_iface(iface);
        shard.add_addr(dev, addr(i as u8 + 1, false), 24).expect("an IPv4 address");
        shard.add_addr(dev, addr(i as u8 + 1, true), 64).expect("an IPv6 address");
        shard.net.now = self.now;
        shard
    }

    /// Everything of node `i` moves to a new shard; `listen` opens the new shard's listeners.
    /// Returns the shard that was left and the names that the application knew, old and new.
    pub(super) fn move_all(
        &mut self,
        i: usize,
        listen: impl FnOnce(&mut Shard),
    ) -> (Shard, Vec<(SocketId, SocketId)>) {
        self.tick();
        let mut twin = self.twin(i);
        listen(&mut twin);
        let before = self.shards[i].tcp_sockstat();
        let estab = self.count(i, Counter::TcpCurrEstab);
        let mut names = Vec::new();
        for moved in self.shards[i].tcp_detach_all() {
            let was = moved.was();
            let is = twin.tcp_attach(moved);
            assert_eq!(was.is_some(), is.is_some(), "an owner stays an owner");
            names.extend(was.zip(is));
        }
        let mut left = std::mem::replace(&mut self.shards[i], twin);
        empty(&mut left);
        let after = self.shards[i].tcp_sockstat();
        assert_eq!((before.orphan, before.tw, before.mem), (after.orphan, after.tw, after.mem));
        assert_eq!(self.count(i, Counter::TcpCurrEstab), estab);
        self.check();
        // What still stands in the old shard's queues leaves it first.
        path::transmit(&mut left, &mut self.batch);
        let sent: Vec<Pkt> = path::qdisc_run(&mut left.net, 0, 0, usize::MAX)
            .map(|ring| ring.drain(..).collect())
            .unwrap_or_default();
        for pkt in sent {
            let bytes: Vec<u8> = pkt.slices().flatten().copied().collect();
            let frame = Frame { bytes, csum: pkt.csum, gso: pkt.gso };
            tx_done(&mut left.net, pkt, true);
            self.fly(i, frame);
        }
        assert_eq!(left.net.pool.small_out(), 0, "no packet is left behind");
        assert_eq!(left.net.counts.unaccounted(), []);
        (left, names)
    }
}

/// Nothing of any connection is left in this shard.
fn empty(shard: &mut Shard) {
    let tcp = &shard.tcp;
    assert_eq!((tcp.conns.len(), tcp.reqs.len(), tcp.tws.len()), (0, 0, 0));
    assert_eq!((tcp.mem, tcp.orphans, tcp.hashed, tcp.demux_len()), (0, 0, 0, 0));
    let timers = [&tcp.conn_timers, &tcp.req_timers, &tcp.tw_timers].map(|w| w.len());
    assert_eq!(timers, [0, 0, 0]);
    assert!(
        tcp.listeners
            .iter()
            .all(|(_, _, l)| { l.qlen == 0 && l.accept.is_empty() && l.fastopenq.is_empty() })
    );
    assert_eq!(shard.net.counts.get(Counter::TcpCurrEstab), 0);
    assert_eq!(shard.net.counts.unaccounted(), []);
}

fn port80(shard: &mut Shard) {
    let listen = Listen { port: 80, backlog: 16, ..Listen::default() };
    shard.tcp_listen(listen).expect("a free port");
}

/// Streams in both directions arrive whole though either end changes shards over and over, with
/// data, acknowledgements and retransmissions under way.
#[test]
fn streams_survive_moves_at_any_time() {
    let mut all = 0;
    let rough = Fate { loss: 20, dup: 10, reorder: 50, ..GOOD };
    for (seed, fate) in [(1, GOOD), (2, rough), (3, Fate { offload: true, ..rough }), (4, rough)] {
        let mut p = Pair::over(seed, fate, seed % 2 == 0);
        p.watch = false;
        let mut ids = p.connected();
        let mut ends = [End::new(900_000), End::new(700_000)];
        let mut moves = 0;
        let mut choice = Rng::new(seed ^ 0xabc);
        let done = p.until(600 * SEC, |p| {
            // Sometimes the application is slow, so that data waits in the queue that moves.
            if choice.below(4) != 0 {
                ends[A].turn(&mut p.shards[A], ids.0);
                ends[B].turn(&mut p.shards[B], ids.1);
            }
            if choice.below(3) == 0 {
                let i = choice.below(2) as usize;
                let (_, names) = p.move_all(i, port80);
                let id = if i == A { &mut ids.0 } else { &mut ids.1 };
                let found = names.iter().find(|(was, _)| was == id);
                *id = found.expect("the connection has a new name").1;
                moves += 1;
            }
            ends.iter().all(|e| e.eof)
        });
        assert!(done, "seed {seed}: {ends:?} after {moves} moves");
        assert_eq!((ends[A].read, ends[B].read), (700_000, 900_000));
        all += moves;
    }
    assert!(all > 100, "only {all} moves");
}

/// The new shard's clock began at another time: retransmission, keepalive and the peer's PAWS
/// check go on as if nothing had been.
#[test]
fn a_clock_that_began_later_or_earlier_does_not_matter() {
    for ahead in [-2_000 * SEC as i64, 50_000 * SEC as i64] {
        let mut p = Pair::new(5, GOOD);
        let (a, b) = p.connected();
        p.run(2_500 * SEC);
        p.shards[A].tcp_send(a, b"unacknowledged").expect("room");
        p.lose = Some(|seen| seen.from == A);
        p.run(SEC / 2);
        let rto = p.tcb(A, a).rtx_at.since(p.now);
        let before = p.last_of(A).opts.ts.expect("timestamps").0;
        let mut twin = p.twin(A);
        twin.net.now = p.now.shifted(ahead);
        let clock = twin.net.now;
        let moved = p.shards[A].tcp_detach(a).expect("it is there");
        let a = twin.tcp_attach(moved).expect("it is the application's");
        let tp = twin.tcp.conns.get(a.index, a.generation).expect("it is here");
        assert_eq!(tp.rtx_at.since(clock), rto, "as long as before");
        let ts = tp.ts_now(clock);
        assert!(ts.wrapping_sub(before) < 1000, "the peer's view of the clock goes on: {ts}");
        // The rest runs on the old clock again: back, and it is as it was.
        let moved = twin.tcp_detach(a).expect("it is there");
        p.lose = None;
        let a = p.shards[A].tcp_attach(moved).expect("it is the application's");
        p.run(5 * SEC);
        let mut buf = [0; 64];
        assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(14));
        assert!(p.tcb(A, a).total_retrans >= 1);
    }
}

/// A connection is moved in each state it can be in; what was to follow, follows.
#[test]
fn every_state_moves() {
    let mut seen = Vec::new();
    let sizes = [(3_000, 5_000), (90_000, 50_000), (2_000, 90_000)];
    for (stop, (from_a, from_b)) in (0..60).flat_map(|stop| sizes.map(|size| (stop, size))) {
        let mut p = Pair::new(7, GOOD);
        let l = p.listen(80);
        let a = p.connect(80);
        let mut ids = (a, None);
        let mut ends = [End::new(from_a), End::new(from_b)];
        let mut n = 0;
        let mut listener = l;
        let done = p.until(200 * SEC, |p| {
            n += 1;
            if n == stop {
                for i in [A, B] {
                    let states = p.shards[i].tcp_iter().map(|row| row.state);
                    seen.extend(states.filter(|s| *s != State::Listen).map(|s| s as u8));
                    let (_, names) = p.move_all(i, |shard| {
                        if i == B {
                            port80(shard);
                        }
                    });
                    let new = |id: SocketId| {
                        names.iter().find(|(was, _)| *was == id).map_or(id, |(_, is)| *is)
                    };
                    match i {
                        A => ids.0 = new(ids.0),
                        _ => ids.1 = ids.1.map(new),
                    }
                    if i == B {
                        let (_, _, l) = p.shards[B].tcp.listeners.iter().next().expect("opened");
                        listener = l.id;
                    }
                }
            }
            ids.1 = ids.1.or_else(|| p.shards[B].tcp_accept(listener));
            ends[A].turn(&mut p.shards[A], ids.0);
            if let Some(b) = ids.1 {
                ends[B].turn(&mut p.shards[B], b);
            }
            ends.iter().all(|e| e.eof)
        });
        assert!(done, "moved at step {stop}: {ends:?}");
        assert_eq!((ends[A].read, ends[B].read), (from_b, from_a));
        p.shards[A].tcp_close(ids.0);
        p.shards[B].tcp_close(ids.1.expect("accepted"));
        p.run(100 * SEC);
        for shard in &mut p.shards {
            empty(shard);
            assert_eq!(shard.net.pool.small_out(), 0);
        }
    }
    seen.sort_unstable();
    seen.dedup();
    let names =
        [State::Established, State::SynSent, State::SynRecv, State::FinWait1, State::FinWait2];
    for state in names.into_iter().chain([State::TimeWait, State::CloseWait, State::LastAck]) {
        assert!(seen.contains(&(state as u8)), "{state:?} was never moved: {seen:?}");
    }
}

/// Both fail at once after a move in TIME_WAIT; the entry answers as before.
#[test]
fn time_wait_moves_and_still_answers() {
    let mut p = Pair::new(8, GOOD);
    let ids = p.connected();
    exchange(&mut p, ids, [10, 10], 10 * SEC);
    p.shards[A].tcp_close(ids.0);
    p.shards[B].tcp_close(ids.1);
    p.run(SEC);
    let side = (0..2).find(|i| !p.shards[*i].tcp.tws.is_empty()).expect("somebody closed first");
    p.move_all(side, |_| {});
    assert_eq!(p.shards[side].tcp.tws.len(), 1);
    p.run(70 * SEC);
    assert_eq!(p.shards[side].tcp.tws.len(), 0, "its time is over");
    assert_eq!(p.count(side, Counter::TcpExtTW), 0, "it was counted where it began");
}

/// A connection that nobody has accepted goes to the listener of the new shard; where there is
/// none, it is reset as if its listener had been closed.
#[test]
fn children_move_to_the_new_listener() {
    for there in [true, false] {
        let mut p = Pair::new(9, GOOD);
        p.listen(80);
        let a = p.connect(80);
        p.run(SEC);
        p.shards[A].tcp_send(a, b"early").expect("room");
        p.run(SEC);
        p.move_all_but_check_owner(B, there);
        p.run(SEC);
        let listener = p.shards[B].tcp.listeners.iter().next().map(|(_, _, l)| l.id);
        let child = listener.and_then(|l| p.shards[B].tcp_accept(l));
        assert_eq!(child.is_some(), there);
        if let Some(b) = child {
            let mut buf = [0; 16];
            assert_eq!(p.shards[B].tcp_recv(b, &mut buf), Ok(5));
        } else {
            assert_eq!(p.shards[A].tcp_error(a), Some(TcpError::Reset));
        }
    }
}

impl Pair {
    fn move_all_but_check_owner(&mut self, i: usize, listen: bool) {
        let mut twin = self.twin(i);
        if listen {
            port80(&mut twin);
        }
        for moved in self.shards[i].tcp_detach_all() {
            assert_eq!(moved.was(), None, "the application never had it");
            assert_eq!(twin.tcp_attach(moved), None);
        }
        empty(&mut self.shards[i]);
        self.shards[i] = twin;
        self.check();
    }
}

/// Two SYNs of which one is judged: the held one moves to a listener that holds SYNs and is
/// answered by one that does not.
#[test]
fn held_syns_move() {
    for hold_syn in [true, false] {
        let mut p = Pair::new(10, GOOD);
        p.listen_as(Listen { port: 80, backlog: 16, hold_syn: true, ..Listen::default() });
        let a = p.connect(80);
        p.run(SEC / 10);
        let mut twin = p.twin(B);
        let listen = Listen { port: 80, backlog: 16, hold_syn, ..Listen::default() };
        let l = twin.tcp_listen(listen).expect("a free port");
        for moved in p.shards[B].tcp_detach_all() {
            assert_eq!(twin.tcp_attach(moved), None);
        }
        empty(&mut p.shards[B]);
        p.shards[B] = twin;
        if let Some(syn) = p.shards[B].syn_next(l) {
            assert!(hold_syn);
            assert!(p.shards[B].syn_accept(syn.id));
        }
        p.run(SEC / 10);
        assert_eq!(p.tcb(A, a).state, State::Established);
        assert!(p.shards[B].tcp_accept(l).is_some());
    }
}

/// A held SYN can be taken out alone, by its name.
#[test]
fn a_held_syn_is_detached_by_name() {
    let mut p = Pair::new(10, GOOD);
    let l = p.listen_as(Listen { port: 80, backlog: 16, hold_syn: true, ..Listen::default() });
    p.connect(80);
    p.run(SEC / 10);
    let syn = p.shards[B].syn_next(l).expect("it waits");
    let moved = p.shards[B].tcp_detach(syn.id).expect("it is there");
    assert_eq!(moved.ends(), (syn.local, syn.remote));
    assert!(p.shards[B].tcp_detach(syn.id).is_none(), "it is not there twice");
    empty(&mut p.shards[B]);
    assert_eq!(p.shards[B].tcp_attach(moved), None);
    assert_eq!(p.shards[B].syn_next(l).map(|s| s.remote), Some(syn.remote));
}

/// A connection arrives where another one has its two ends: the one that is established stays, the
/// other learns why it failed, and the peer is not disturbed.
#[test]
fn of_two_connections_between_the_same_ends_the_established_one_stays() {
    // A connection of the twin's own, not established, gives way.
    let mut p = Pair::new(11, GOOD);
    let (a, b) = p.connected();
    let (local, remote) = p.shards[A].tcp_addrs(a).expect("it is there");
    let mut twin = p.twin(A);
    let connect = Connect { local: Some(local), remote, user: 1 };
    let other = twin.tcp_connect(connect).expect("connects");
    let moved = p.shards[A].tcp_detach(a).expect("it is there");
    let a = twin.tcp_attach(moved).expect("it is the application's");
    assert_eq!(twin.tcp_error(other), Some(TcpError::InUse));
    assert_eq!(twin.tcp_error(a), None);
    assert_eq!(twin.tcp.demux_len(), 1);

    // An established one stays, and the one that comes fails.
    let mut third = p.twin(A);
    let late = third.tcp_connect(connect).expect("connects");
    let moved = third.tcp_detach(late).expect("it is there");
    let late = twin.tcp_attach(moved).expect("it is the application's");
    assert_eq!(twin.tcp_error(late), Some(TcpError::InUse));
    twin.tcp_close(late);
    twin.tcp_close(other);
    assert_eq!(twin.tcp.conns.len(), 1);

    // And it still works. The SYN of the one that gave way was never sent.
    while let Some(pkt) = twin.net.ip_out.pop_front() {
        twin.net.pool.free(pkt);
    }
    p.shards[A] = twin;
    p.lose = Some(|seen| seen.hdr.flags.syn());
    exchange(&mut p, (a, b), [5_000, 5_000], 20 * SEC);
}

/// What is waiting to be told is told in the new shard, under the number that the socket has.
#[test]
fn readiness_moves() {
    let mut p = Pair::new(12, GOOD);
    let (a, b) = p.connected();
    p.shards[B].tcp_set(b, TcpOpt::User(99)).expect("it lives");
    p.ready(B, b);
    p.shards[A].tcp_send(a, b"data").expect("room");
    p.run(SEC);
    let (mut left, names) = p.move_all(B, port80);
    assert!(left.poll_event().is_none_or(|e| e.id.kind == SockKind::Listen));
    let [(was, is)] = names[..] else { panic!("one connection: {names:?}") };
    assert_eq!(was, b);
    let event = p.shards[B].poll_event().expect("there is something to read");
    assert_eq!((event.id, event.user), (is, 99));
    assert!(p.shards[B].take_ready(is).has(Ready::IN));
    assert!(p.shards[B].take_ready(b).0 == 0, "the old name says nothing");
}

/// A letter that is lost takes nothing with it but the connection: no memory, no count.
#[test]
fn a_moved_connection_that_is_dropped_leaves_nothing_behind() {
    let mut p = Pair::new(13, GOOD);
    let (a, b) = p.connected();
    p.shards[A].tcp_send(a, &[7; 20_000]).expect("room");
    p.run(SEC);
    let moved: Option<Moved> = p.shards[B].tcp_detach(b);
    assert!(moved.is_some());
    drop(moved);
    empty(&mut p.shards[B]);
    p.run(SEC / 100);
    assert_eq!(p.shards[B].net.pool.small_out(), 0);
    assert!(p.shards[B].tcp_detach(b).is_none());
}

/// Whichever shard of a mesh makes a connection between two ends, sequence numbers and timestamps
/// go on where another shard's were: the keys are the mesh's. Without a mesh each has its own.
#[test]
fn shards_of_a_mesh_number_as_one() {
    let tuple = Tuple { local: addr(1, false), remote: addr(2, false), lport: 80, rport: 4000 };
    let says = |shard: &Shard| {
        let tcp = &shard.tcp;
        (tcp.secure_seq(&tuple, Instant::from_ns(SEC)), tcp.secure_ts_off(&tuple))
    };
    let mesh = Mesh::new(3);
    let mut shards: Vec<Shard> = (0..3).map(|i| Shard::new(900 + i)).collect();
    let before: Vec<_> = shards.iter().map(says).collect();
    assert!(before[0] != before[1] && before[1] != before[2], "alone each has its own key");
    for (cpu, shard) in shards.iter_mut().enumerate() {
        shard.join(std::sync::Arc::clone(&mesh), cpu as u8);
    }
    assert_eq!(shards.iter().map(says).collect::<Vec<_>>(), [before[0]; 3]);
}
