//! Several shards of one stack, driven in one thread in random order: whatever the interleaving,
//! connections follow their readers, and every stream arrives whole and in order.
//!
//! A client, which is one shard of its own, holds many connections to a server of several shards.
//! Frames reach the server's queues by the receive hash, as with a network card; nothing is lost on
//! the way. So whatever a receiver finds out of order was put out of order by the steering.

use std::any::Any;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Csum, Pkt};
use linerate_core::rand::Rng;
use linerate_core::rx::steer::hash::{FlowHash, dissect};
use linerate_core::rx::steer::ntuple::{Rule, RuleAction};
use linerate_core::rx::steer::rss::Rss;
use linerate_core::rx::steer::{Flow, Mesh};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::count::Counter;
use linerate_core::table::value::Mask;
use linerate_core::tcp::{Connect, Listen, TcpOpt};
use linerate_core::time::{Instant, MS, SEC, US};
use linerate_core::tx::xmit::tx_done;
use linerate_core::wire::Mac;

fn addr(host: u8, v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, host as u16).into()
    } else {
        Ipv4Addr::new(10, 0, 0, host).into()
    }
}

fn shard(seed: u64, host: u8) -> Shard {
    let mut shard = Shard::new(seed);
    let dev = shard.add_iface(Iface::new("t0", L2::Ip, Mac([0; 6]), 1500));
    shard.add_addr(dev, addr(host, false), 24).expect("an IPv4 address");
    shard.add_addr(dev, addr(host, true), 64).expect("an IPv6 address");
    shard.set_knob("net.core.netdev_max_backlog", "1000000").expect("in range");
    shard
}

fn pattern(stream: u64, at: u64) -> u8 {
    ((at + 1).wrapping_mul(stream.wrapping_mul(2).wrapping_add(0x9e37_79b9_7f4a_7c15)) >> 53) as u8
}

/// One end of a stream in each direction: what was sent and read of it.
#[derive(Debug)]
struct End {
    stream: u64,
    /// Which of the two directions it sends.
    dir: u64,
    to_send: u64,
    sent: u64,
    read: u64,
    shut: bool,
    eof: bool,
}

impl End {
    fn new(stream: u64, dir: u64, to_send: u64) -> End {
        End { stream, dir, to_send, sent: 0, read: 0, shut: false, eof: false }
    }
    fn done(&self) -> bool {
        self.shut && self.eof
    }
    /// Sends and reads some, and checks each byte.
    fn turn(&mut self, shard: &mut Shard, id: SocketId, rng: &mut Rng) {
        let mut buf = [0; 4096];
        for _ in 0..1 + rng.below(6) {
            let n = (self.to_send - self.sent).min(1 + rng.below(4096)) as usize;
            for (i, b) in buf[..n].iter_mut().enumerate() {
                *b = pattern(self.stream * 2 + self.dir, self.sent + i as u64);
            }
            if n > 0 {
                self.sent += shard.tcp_send(id, &buf[..n]).unwrap_or(0) as u64;
            }
        }
        if self.sent == self.to_send && !self.shut {
            self.shut = true;
            shard.tcp_shutdown(id);
        }
        for _ in 0..rng.below(8) {
            let most = 1 + rng.below(4096) as usize;
            match shard.tcp_recv(id, &mut buf[..most]) {
                Ok(0) => {
                    assert_eq!(shard.tcp_error(id), None, "stream {} fails", self.stream);
                    self.eof = true;
                    break;
                }
                Ok(n) => {
                    for (i, b) in buf[..n].iter().enumerate() {
                        let at = self.read + i as u64;
                        let want = pattern(self.stream * 2 + 1 - self.dir, at);
                        assert_eq!(*b, want, "stream {} byte {at}", self.stream);
                    }
                    self.read += n as u64;
                }
                Err(_) => break,
            }
        }
    }
}

/// What the shards' applications and the wire between the machines hold.
struct World {
    rng: Rng,
    now: Instant,
    client: Shard,
    server: Vec<Shard>,
    mesh: Arc<Mesh>,
    rss: Rss,
    hasher: FlowHash,
    /// Frames on their way to the client.
    to_client: VecDeque<Vec<u8>>,
    /// Frames on their way to each queue of the server.
    to_server: Vec<VecDeque<Vec<u8>>>,
    /// The client's ends, and those of each shard of the server.
    ours: BTreeMap<SocketId, End>,
    theirs: Vec<BTreeMap<SocketId, End>>,
    listeners: Vec<SocketId>,
    batch: Batch,
    /// What the server's side sends in each stream.
    answer: u64,
    /// Ends that are finished on both sides.
    finished: u64,
    /// Rules of accelerated RFS, by shard and location.
    rules: BTreeMap<(usize, u32), Rule>,
    /// The queue that the card gave each flow's last frame to, by hash.
    queues: BTreeMap<u32, usize>,
    /// The most that passes between two steps: threads that others keep from running.
    pause: u64,
    /// Where shards stand still: one that there is, or none, does nothing for a while; then it is another.
    asleep: Option<usize>,
}

impl World {
    fn new(seed: u64, shards: usize) -> World {
        let mut rng = Rng::new(seed);
        let mesh = Mesh::new(shards);
        let mut server: Vec<Shard> = (0..shards).map(|_| shard(rng.next_u64(), 1)).collect();
        let mut listeners = Vec::new();
        for (i, shard) in server.iter_mut().enumerate() {
            shard.set_knob("net.core.rps_sock_flow_entries", "256").expect("in range");
            shard.set_knob("queues.rx.rps_flow_cnt", "64").expect("in range");
            shard.join(Arc::clone(&mesh), i as u8);
            let listen = Listen { port: 80, backlog: 1000, ..Listen::default() };
            listeners.push(shard.tcp_listen(listen).expect("a free port"));
        }
        let rss = server[0].net.rss(shards);
        let hasher = rss.hasher();
        World {
            client: shard(rng.next_u64(), 2),
            rng,
            now: Instant::from_ns(SEC),
            mesh,
            rss,
            hasher,
            to_client: VecDeque::new(),
            to_server: (0..shards).map(|_| VecDeque::new()).collect(),
            ours: BTreeMap::new(),
            theirs: (0..shards).map(|_| BTreeMap::new()).collect(),
            server,
            listeners,
            batch: Batch::new(),
            answer: 0,
            finished: 0,
            rules: BTreeMap::new(),
            queues: BTreeMap::new(),
            pause: 35 * US,
            asleep: None,
        }
    }

    fn connect(&mut self, stream: u64, bytes: u64) {
        self.client.net.now = self.now;
        let remote = SocketAddr::new(addr(1, stream % 2 == 1), 80);
        let connect = Connect { local: None, remote, user: stream };
        let id = self.client.tcp_connect(connect).expect("connects");
        self.ours.insert(id, End::new(stream, 0, bytes));
    }

    /// The queue that the card chooses: by its rules, else by its table. A flow changes queues when
    /// nothing of it waits in the old one.
    fn queue(&mut self, frame: &[u8]) -> usize {
        let Some(keys) = dissect(frame, false) else { return 0 };
        let hash = self.hasher.of(&keys);
        let ruled = self.rules.values().find(|rule| rule.matches(&keys));
        let wanted = match ruled.map(|rule| rule.action) {
            Some(RuleAction::Queue(queue)) => queue as usize,
            _ => self.rss.queue_of(hash) as usize,
        };
        let of_it = |frame: &Vec<u8>| dissect(frame, false).is_some_and(|k| k == keys);
        let old = self.queues.get(&hash).copied().unwrap_or(wanted);
        let queue = if self.to_server[old].iter().any(of_it) { old } else { wanted };
        self.queues.insert(hash, queue);
        queue
    }

    /// What accelerated RFS wants of the card.
    fn rules(&mut self, i: usize) {
        while let Some(wanted) = self.server[i].take_rule() {
            let at = (i, wanted.location);
            match wanted.rule.clone() {
                Some(rule) => drop(self.rules.insert(at, rule)),
                None => drop(self.rules.remove(&at)),
            }
            self.server[i].rule_done(&wanted, true);
        }
    }

    /// At most `n` frames from the wire to one shard (`None`: the client).
    fn receive(&mut self, to: Option<usize>, n: usize) {
        let (shard, wire) = match to {
            Some(i) => (&mut self.server[i], &mut self.to_server[i]),
            None => (&mut self.client, &mut self.to_client),
        };
        shard.net.now = self.now;
        for _ in 0..n {
            let Some(frame) = wire.pop_front() else { break };
            let mut pkt = shard.net.pool.alloc().expect("the pool is large enough");
            pkt.put(frame.len()).copy_from_slice(&frame);
            pkt.rx_time = self.now;
            pkt.dev = 0;
            pkt.queue = to.unwrap_or(0) as u8;
            self.batch.push(pkt);
        }
        if !self.batch.is_empty() {
            path::receive(shard, &mut self.batch);
        }
    }

    /// What one shard has to send; at most `room` packets reach the wire now.
    fn transmit(&mut self, from: Option<usize>, room: usize) {
        let shard = from.map_or(&mut self.client, |i| &mut self.server[i]);
        shard.net.now = self.now;
        path::transmit(shard, &mut self.batch);
        let mut sent: Vec<Pkt> = Vec::new();
        if let Some(ring) = path::qdisc_run(&mut shard.net, 0, 0, room.max(1)) {
            sent.extend(ring.drain(..room.min(ring.len())));
        }
        for pkt in sent {
            let frame: Vec<u8> = pkt.slices().flatten().copied().collect();
            assert!(!matches!(pkt.csum, Csum::Partial { .. }), "the device sums nothing");
            let shard = from.map_or(&mut self.client, |i| &mut self.server[i]);
            tx_done(&mut shard.net, pkt, true);
            match from {
                Some(_) => self.to_client.push_back(frame),
                None => {
                    let queue = self.queue(&frame);
                    self.to_server[queue].push_back(frame);
                }
            }
        }
    }

    fn server_app(&mut self, i: usize) {
        let shard = &mut self.server[i];
        shard.net.now = self.now;
        while shard.poll_event().is_some() {}
        while let Some(id) = shard.tcp_accept(self.listeners[i]) {
            let (_, remote) = shard.tcp_addrs(id).expect("it was accepted");
            let names = &self.ours;
            let named = names.iter().find(|(ours, _)| {
                self.client.tcp_addrs(**ours).is_some_and(|(local, _)| local == remote)
            });
            let stream = named.expect("the client opened it").1.stream;
            self.theirs[i].insert(id, End::new(stream, 1, self.answer));
        }
        let rng = &mut self.rng;
        self.theirs[i].retain(|id, end| {
            if rng.below(3) > 0 {
                end.turn(shard, *id, rng);
            }
            if end.done() {
                shard.tcp_close(*id);
                self.finished += 1;
            }
            !end.done()
        });
    }

    fn client_app(&mut self) {
        let shard = &mut self.client;
        shard.net.now = self.now;
        while shard.poll_event().is_some() {}
        let (rng, answer) = (&mut self.rng, self.answer);
        self.ours.retain(|id, end| {
            end.turn(shard, *id, rng);
            if end.done() {
                assert_eq!(end.read, answer, "stream {}", end.stream);
                shard.tcp_close(*id);
            }
            !end.done()
        });
    }

    fn arrivals(&mut self, i: usize) {
        while let Some(arrived) = self.server[i].take_arrived() {
            let end = arrived.app.expect("the application sent its state along");
            let end = end.downcast::<End>().expect("its own state");
            self.server[i].tcp_set(arrived.socket, TcpOpt::User(end.stream)).expect("it is here");
            self.theirs[i].insert(arrived.socket, *end);
        }
    }

    fn rfs(&mut self, i: usize) -> usize {
        let (shard, ends) = (&mut self.server[i], &mut self.theirs[i]);
        shard.net.now = self.now;
        shard.rfs_turn(&mut |id| {
            let end = ends.remove(&id)?;
            Some(Box::new(end) as Box<dyn Any + Send>)
        })
    }

    /// The reader of a random connection goes to a random shard.
    fn reader_moves(&mut self, i: usize) {
        let n = self.theirs[i].len() as u64;
        let at = self.rng.below(n.max(1)) as usize;
        let cpu = self.rng.below(self.server.len() as u64) as u8;
        if let Some(id) = self.theirs[i].keys().nth(at).copied() {
            self.server[i].rps_record_sock_flow(id, cpu);
        }
    }

    /// One random thing happens to a random shard.
    fn step(&mut self) {
        self.now = self.now.plus(5 * US + self.rng.below(self.pause - 5 * US));
        let mut i = self.rng.below(self.server.len() as u64) as usize;
        if let Some(asleep) = self.asleep {
            if self.rng.below(100) == 0 {
                self.asleep = Some(self.rng.below(2 * self.server.len() as u64) as usize);
            }
            if i == asleep {
                i = (i + 1) % self.server.len();
            }
        }
        let n = 1 + self.rng.below(16) as usize;
        match self.rng.below(16) {
            0..=2 => self.receive(Some(i), n),
            3..=5 => {
                self.server[i].net.now = self.now;
                path::process_backlog(&mut self.server[i], &mut self.batch, n);
            }
            6 | 7 => self.transmit(Some(i), n),
            8 | 9 => self.server_app(i),
            10 => {
                self.rfs(i);
            }
            11 => {
                self.arrivals(i);
                self.rules(i);
            }
            12 => (0..2).for_each(|_| self.reader_moves(i)),
            13 => self.receive(None, n),
            14 => {
                self.client_app();
                self.transmit(None, 16);
            }
            _ => {
                path::timers(&mut self.server[i], self.now);
                path::timers(&mut self.client, self.now);
            }
        }
    }

    fn check(&self) {
        for (i, shard) in self.server.iter().chain([&self.client]).enumerate() {
            assert_eq!(shard.net.counts.unaccounted(), [], "shard {i}");
        }
    }

    /// Nothing new is asked for: what is on its way arrives, and what is left ends by its timers.
    fn wind_down(&mut self) {
        for round in 0..3000 {
            for i in 0..self.server.len() {
                self.receive(Some(i), 64);
                self.server[i].net.now = self.now;
                path::process_backlog(&mut self.server[i], &mut self.batch, 64);
                path::timers(&mut self.server[i], self.now);
                self.arrivals(i);
                self.server_app(i);
                self.transmit(Some(i), 64);
                self.rfs(i);
            }
            self.receive(None, 64);
            path::timers(&mut self.client, self.now);
            self.client_app();
            self.transmit(None, 64);
            self.now = self.now.plus(if round < 2000 { 100 * US } else { 100 * MS });
        }
    }

    fn sum(&self, counter: Counter) -> u64 {
        self.server.iter().map(|s| s.net.counts.get(counter)).sum()
    }

    fn everything_is_given_back(&self) {
        self.check();
        assert_eq!(self.mesh.homes.len(), 0, "the directory forgets what is over");
        assert_eq!(self.mesh.homes.away(), 0);
        let out: usize = self.server.iter().map(|s| s.net.pool.small_out()).sum();
        let large: usize = self.server.iter().map(|s| s.net.pool.large_out()).sum();
        assert_eq!((out, large), (0, 0), "packets are out there");
        assert_eq!(self.client.net.pool.small_out(), 0);
        for (i, shard) in self.server.iter().enumerate() {
            let stat = shard.tcp_sockstat();
            assert_eq!((stat.inuse, stat.orphan, stat.tw, stat.mem), (1, 0, 0, 0), "shard {i}");
            assert_eq!(shard.net.counts.get(Counter::TcpCurrEstab), 0, "shard {i}");
            assert_eq!(shard.net.pool.small_out(), 0, "shard {i}");
        }
    }

    /// Nobody was ever given a segment out of order, nor was a connection reset.
    fn nothing_was_out_of_order(&self) {
        for (i, shard) in self.server.iter().chain([&self.client]).enumerate() {
            for counter in [Counter::TcpExtTCPOFOQueue, Counter::TcpEstabResets] {
                assert_eq!(shard.net.counts.get(counter), 0, "{counter:?} of shard {i}");
            }
        }
    }
}

/// The property: streams are whole and in order under any migration of their readers.
#[test]
fn flows_follow_their_readers_in_order() {
    let mut moved = 0;
    for seed in 0..30 {
        let shards = 2 + seed as usize % 3;
        let mut world = World::new(0xf10e + seed, shards);
        world.answer = 300_000;
        let streams = 12;
        (0..streams).for_each(|stream| world.connect(stream, 200_000 + 1000 * stream));
        let mut steps = 0;
        while !(world.ours.is_empty() && world.finished == streams) {
            world.step();
            steps += 1;
            if steps % 64 == 0 {
                world.check();
            }
            assert!(steps < 2_000_000, "seed {seed}: stuck: {:#?}", world.ours);
        }
        world.wind_down();
        world.nothing_was_out_of_order();
        world.everything_is_given_back();
        moved += world.sum(Counter::RfsFlowsMoved);
    }
    assert!(moved > 500, "only {moved} moves");
}

/// The same where the card follows the readers, too (accelerated RFS), and changes its table, so that
/// a flow comes by one queue after the other, and where one shard stands still while the others go
/// on, for longer than any of this takes.
#[test]
fn flows_keep_their_order_where_the_card_follows_readers_and_threads_stand_still() {
    let (mut moved, mut ruled) = (0, 0);
    for seed in 0..40 {
        let shards = 2 + seed as usize % 3;
        let mut world = World::new(0xa4f5 + seed, shards);
        world.pause = if seed % 2 == 0 { 2 * MS } else { 35 * US };
        world.asleep = Some(0);
        for shard in &mut world.server {
            shard.set_knob("features.ntuple", "1").expect("in range");
        }
        world.answer = 300_000;
        let streams = 10;
        (0..streams).for_each(|stream| world.connect(stream, 150_000 + 1000 * stream));
        let mut steps = 0;
        while !(world.ours.is_empty() && world.finished == streams) {
            world.step();
            steps += 1;
            let i = world.rng.below(shards as u64) as usize;
            match world.rng.below(40) {
                0..4 => world.reader_moves(i),
                4..14 => {
                    world.transmit(Some(i), 64);
                    world.rfs(i);
                }
                14 => {
                    let at = world.rng.below(128) as usize;
                    world.rss.indir[at] = i as u8;
                }
                _ => {}
            }
            assert!(steps < 2_000_000, "seed {seed}: stuck: {:#?}", world.ours);
        }
        world.wind_down();
        world.nothing_was_out_of_order();
        world.everything_is_given_back();
        moved += world.sum(Counter::RfsFlowsMoved);
        ruled += world.sum(Counter::ArfsFiltersAdded);
    }
    assert!(moved > 1000 && ruled > 500, "only {moved} moves and {ruled} rules");
}

/// A connection that a shard opens chooses its port so that the answers come to its own queue: none
/// ever has to be passed on. One whose port is given works, too, wherever its answers arrive.
#[test]
fn answers_to_connections_that_we_open_come_home() {
    let mut world = World::new(7, 4);
    let listen = Listen { port: 80, backlog: 1000, ..Listen::default() };
    let listener = world.client.tcp_listen(listen).expect("a free port");
    let mut given = 0;
    for i in 0..4 {
        let mut ids = Vec::new();
        for n in 0..40 {
            let port = if given == 0 { 0 } else { 2000 + n };
            let local = SocketAddr::new(addr(1, n % 2 == 1), port);
            let remote = SocketAddr::new(addr(2, n % 2 == 1), 80);
            world.server[i].net.now = world.now;
            let local = (port != 0).then_some(local);
            let connect = Connect { local, remote, user: 0 };
            ids.push(world.server[i].tcp_connect(connect).expect("connects"));
        }
        world.wind_down();
        for id in ids {
            let (local, _) = world.server[i].tcp_addrs(id).expect("it is open");
            assert!(world.client.tcp_accept(listener).is_some(), "{local} is connected");
            assert_eq!(world.server[i].tcp_send(id, b"?"), Ok(1), "{local} is established");
        }
        world.wind_down();
        let passed_on = world.sum(Counter::SoftnetReceivedRps);
        if i < 2 {
            assert_eq!(passed_on, 0, "every answer came home");
        } else {
            // From here on the ports are given, and most of them belong to others.
            assert!(given == 0 || passed_on > 0);
            given = 1;
        }
    }
    world.check();
}

impl World {
    /// Everything that can move leaves shard `i` for the others, as when its queue is removed.
    fn depart(&mut self, i: usize) {
        // What it has sent leaves first.
        self.transmit(Some(i), usize::MAX);
        let others = self.server.len() - 1;
        for conn in self.server[i].tcp_detach_all() {
            let app = conn.was().and_then(|id| self.theirs[i].remove(&id));
            let app = app.map(|end| Box::new(end) as Box<dyn Any + Send>);
            let key = conn.flow_key();
            let to = (i + 1 + self.rng.below(others as u64) as usize) % self.server.len();
            self.server[i].send_flow(to as u8, Flow { key, conn, app });
        }
    }
}

/// A shard goes while connections are in every state; its queue still gets what is on the wire.
/// None is lost, none is reset, nothing is out of order.
#[test]
fn a_shard_that_goes_loses_no_connection() {
    for seed in 0..20 {
        let mut world = World::new(0xde9a + seed, 3);
        world.answer = 30_000;
        let streams = 24;
        let mut next = 0;
        let (mut steps, mut departures) = (0, 0);
        while next < streams || !(world.ours.is_empty() && world.finished == streams) {
            // Connections keep coming, so that some are half-open or wait to be accepted.
            if next < streams && steps % 100 == 0 {
                world.connect(next, 20_000);
                next += 1;
            }
            world.step();
            steps += 1;
            if steps % 400 == 0 && departures < 12 {
                departures += 1;
                // What is in the mail belongs to the shard, too.
                let i = world.rng.below(3) as usize;
                path::process_backlog(&mut world.server[i], &mut world.batch, 64);
                world.arrivals(i);
                world.depart(i);
                world.check();
            }
            assert!(steps < 2_000_000, "seed {seed}: stuck: {:#?}", world.ours);
        }
        assert!(departures > 5, "only {departures}");
        world.wind_down();
        world.nothing_was_out_of_order();
        world.everything_is_given_back();
    }
}

/// The map that packets are spread by changes all the time, and shards that are not busy take what
/// the others' queues get: connections stay where they are, and packets find them in order.
#[test]
fn connections_stay_while_the_spreading_changes() {
    for seed in 0..12 {
        let mut world = World::new(0x5b5e + seed, 2 + seed as usize % 3);
        world.answer = 60_000;
        let streams = 10;
        (0..streams).for_each(|stream| world.connect(stream, 60_000));
        let mut steps = 0;
        while !(world.ours.is_empty() && world.finished == streams) {
            if steps % 300 == 0 {
                let i = world.rng.below(world.server.len() as u64) as usize;
                let mask = world.rng.below(1 << world.server.len());
                world.server[i].set_rps_cpus(0, Mask(mask));
            }
            world.step();
            steps += 1;
            assert!(steps < 2_000_000, "seed {seed}: stuck: {:#?}", world.ours);
        }
        world.server.iter_mut().for_each(|shard| shard.set_rps_cpus(0, Mask(0)));
        world.wind_down();
        world.nothing_was_out_of_order();
        world.everything_is_given_back();
    }
}
