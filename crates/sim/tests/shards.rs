//! Goal: a host of several shards is one host to whoever talks to it, however its connections and packets
//! wander between the shards. Method: two hosts in virtual time; readers, tables, maps and the number of
//! shards change all the time while packets are lost, doubled, reordered and delayed.

use std::net::{IpAddr, Ipv4Addr};

use linerate_core::link::L2;
use linerate_core::rx::steer::FlowKey;
use linerate_core::sock::error::TcpError;
use linerate_core::sock::{Ready, SocketId};
use linerate_core::table::Counter;
use linerate_core::tcp::{Connect, Listen, State};
use linerate_core::time::{MS, SEC, US};
use linerate_sim::{Link, Move, NodeId, Place, World};

const A: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
const B: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

const BAD: Link = Link {
    rate_bps: 50_000_000,
    queue_bytes: 100_000,
    queue_packets: 0,
    mark_bytes: 0,
    delay_ns: 2_000_000,
    jitter_ns: 500_000,
    loss_ppm: 5_000,
    bursts: linerate_core::tx::qdisc::netem::Loss::None,
    duplicate_ppm: 5_000,
    reorder_ppm: 10_000,
    reorder_ns: 3_000_000,
    corrupt_ppm: 0,
    largest: 0,
    offload: false,
};

/// Host A, of one stack, and host B, of several shards, with a listener on each.
struct Pair {
    world: World,
    a: NodeId,
    b: NodeId,
    listeners: Vec<SocketId>,
}

fn pair(seed: u64, shards: usize, link: Link, backlog: u32) -> Pair {
    let mut world = World::new(seed);
    let (a, b) = (world.add_node(), world.add_host(shards, (20 * US, 20 * US)));
    world.join((a, A), (b, B), (L2::Ethernet, 1500, 24), (link, link));
    for (knob, value) in
        [("net.core.rps_sock_flow_entries", "256"), ("queues.rx.rps_flow_cnt", "64")]
    {
        world.set_knob(b, knob, value).expect("in range");
    }
    let listen = Listen { port: 80, backlog, ..Listen::default() };
    let listeners = (0..shards)
        .map(|cpu| world.shard(b, cpu).tcp_listen(listen).expect("a free port"))
        .collect();
    Pair { world, a, b, listeners }
}

impl Pair {
    fn connect(&mut self, port: u16) -> SocketId {
        let connect = Connect { local: Some((A, port).into()), remote: (B, 80).into(), user: 0 };
        self.world.node(self.a).tcp_connect(connect).expect("a route")
    }
    /// What is to be accepted, by the peer's port.
    fn accept(&mut self) -> Vec<(u16, Place)> {
        let mut out = Vec::new();
        for (cpu, listener) in self.listeners.iter().enumerate() {
            let shard = self.world.shard(self.b, cpu);
            while let Some(id) = shard.tcp_accept(*listener) {
                let port = shard.tcp_addrs(id).map_or(0, |(_, remote)| remote.port());
                out.push((port, Place { cpu, id }));
            }
        }
        out
    }
    fn sum(&self, counter: Counter) -> u64 {
        let each = (0..self.world.shards(self.b)).map(|cpu| self.world.look(self.b, cpu));
        each.map(|shard| shard.net.counts.get(counter)).sum()
    }
    /// Those that moved have other names. One that is in the mail keeps its old one, which nobody knows.
    fn follow(&mut self, places: &mut [Place]) {
        while let Some(moved) = self.world.poll_move(self.b) {
            if let Move::Came { was, is } = moved
                && let Some(place) = places.iter_mut().find(|place| **place == was)
            {
                *place = is;
            }
        }
    }
    /// The server answers what it is asked and closes first: TIME_WAIT is its.
    fn serve(&mut self, places: &mut Vec<Place>) {
        let (world, b) = (&mut self.world, self.b);
        places.retain(|Place { cpu, id }| {
            if world.is_busy(b, *cpu) {
                return true;
            }
            let (shard, mut buf) = (world.shard(b, *cpu), [0; 16]);
            while shard.poll_event().is_some() {}
            match shard.tcp_recv(*id, &mut buf) {
                Ok(_) => assert_eq!(shard.tcp_send(*id, b"served"), Ok(6)),
                Err(TcpError::WouldBlock | TcpError::NotConnected) => return true,
                Err(_) => {}
            }
            shard.tcp_close(*id);
            false
        });
    }
    /// Nothing of a connection is left anywhere.
    fn over(&mut self) {
        let later = self.world.now().plus(400 * SEC);
        self.world.run_until(later, |_| {});
        assert_eq!(self.world.unaccounted(), []);
        for cpu in 0..self.world.shards(self.b) {
            let shard = self.world.look(self.b, cpu);
            let pool = (shard.net.pool.small_out(), shard.net.pool.large_out());
            let rows = shard.tcp_iter().filter(|row| row.state != State::Listen).count();
            assert_eq!((pool, rows, shard.tcp_sockstat().mem), ((0, 0), 0, 0), "shard {cpu}");
        }
        let mesh = self.world.mesh(self.b).expect("it has several shards");
        assert_eq!((mesh.homes.len(), mesh.homes.away()), (0, 0));
    }
    /// One of the things that move connections or packets, by chance.
    fn shuffle(&mut self, reader: Option<Place>) {
        let (n, b) = (self.world.shards(self.b) as u64, self.b);
        let draw = self.world.rng().next_u64();
        let to = (draw >> 8) % n;
        match draw % 8 {
            0 => {
                let mask = format!("{:x}", (draw >> 8) % (1 << n));
                self.world.set_knob(b, "queues.rx.rps_cpus", &mask).expect("a mask");
            }
            1 => {
                let online = self.world.online(b) as u64;
                let indir = std::array::from_fn(|i| {
                    ((draw >> 8).wrapping_add(i as u64 * 7) % online) as u8
                });
                self.world.set_indir(b, indir);
            }
            2 => self.world.set_channels(b, 1 + to as usize),
            _ => {
                if let Some(Place { cpu, id }) = reader {
                    self.world.shard(b, cpu).rps_record_sock_flow(id, to as u8);
                }
            }
        }
    }
}

fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8
}

/// A stream goes on, byte for byte, over hundreds of moves of its reader, in both directions at once.
#[test]
fn a_transfer_survives_hundreds_of_moves() {
    const BYTES: u64 = 8_000_000;
    let mut moves = 0;
    for seed in 1..=3 {
        let mut pair = pair(seed, 2 + seed as usize % 3, BAD, 8);
        let ours = pair.connect(1000);
        let (mut at, mut left): (Option<Place>, Option<Place>) = (None, None);
        let (mut there, mut back) = ((0, 0), (0, 0));
        let mut next = pair.world.now();
        let limit = next.plus(3600 * SEC);
        let mut buf = [0; 16_384];
        let fill = |from: u64, buf: &mut [u8]| -> usize {
            let n = (BYTES - from).min(buf.len() as u64) as usize;
            buf[..n].iter_mut().enumerate().for_each(|(i, b)| *b = byte(from + i as u64));
            n
        };
        while there.1 < BYTES || back.1 < BYTES {
            assert!(pair.world.now() < limit, "stuck: {there:?} {back:?} at {at:?} left {left:?}");
            assert!(pair.world.step_by(next.max(pair.world.now())));
            while let Some(moved) = pair.world.poll_move(pair.b) {
                match moved {
                    Move::Left(place) => {
                        assert_eq!(at.take(), Some(place));
                        left = Some(place);
                    }
                    Move::Came { was, is } => {
                        assert_eq!(left.take(), Some(was));
                        at = Some(is);
                        moves += u64::from(was.cpu != is.cpu);
                    }
                }
            }
            for (_, place) in pair.accept() {
                assert_eq!((at.replace(place), left), (None, None), "it is accepted once");
            }
            let a = pair.world.node(pair.a);
            while a.poll_event().is_some() {}
            while let n @ 1.. = fill(there.0, &mut buf)
                && let Ok(sent @ 1..) = a.tcp_send(ours, &buf[..n])
            {
                there.0 += sent as u64;
            }
            while let Ok(n @ 1..) = a.tcp_recv(ours, &mut buf) {
                assert!((back.1..).zip(&buf[..n]).all(|(i, b)| *b == byte(i)));
                back.1 += n as u64;
            }
            assert_eq!(a.tcp_error(ours), None);
            if let Some(Place { cpu, id }) = at.filter(|at| !pair.world.is_busy(pair.b, at.cpu)) {
                let b = pair.world.shard(pair.b, cpu);
                while b.poll_event().is_some() {}
                while let n @ 1.. = fill(back.0, &mut buf)
                    && let Ok(sent @ 1..) = b.tcp_send(id, &buf[..n])
                {
                    back.0 += sent as u64;
                }
                while let Ok(n @ 1..) = b.tcp_recv(id, &mut buf) {
                    assert!((there.1..).zip(&buf[..n]).all(|(i, b)| *b == byte(i)));
                    there.1 += n as u64;
                }
                assert_eq!(b.tcp_error(id), None);
            }
            if pair.world.now() >= next {
                next = pair.world.now().plus(3 * MS);
                pair.shuffle(at);
            }
        }
        // Where it is no more than two sockets and a directory of one entry are left.
        let b = at.expect("the transfer is over, and nothing is in the mail");
        pair.world.node(pair.a).tcp_close(ours);
        pair.world.shard(pair.b, b.cpu).tcp_close(b.id);
        pair.over();
    }
    assert!(moves > 300, "only {moves} moves");
}

/// Half-open connections, cookies, listeners' queues and TIME_WAIT, while shards go and come and tables
/// change: who connects is served once, whichever shard each of its packets comes to.
#[test]
fn short_connections_find_their_shard() {
    for (cookies, seed) in [("0", 11), ("1", 12), ("2", 13)] {
        let mut pair = pair(seed, 4, BAD, 4);
        pair.world.set_knob(pair.b, "net.ipv4.tcp_syncookies", cookies).expect("in range");
        for retries in ["net.ipv4.tcp_synack_retries", "net.ipv4.tcp_retries2"] {
            pair.world.set_knob(pair.b, retries, "20").expect("in range");
        }
        pair.world.node(pair.a).set_knob("net.ipv4.tcp_syn_retries", "20").expect("in range");
        let (mut done, mut port, mut steps, mut failed) = (0, 1000, 0_u64, 0);
        let mut open: Vec<SocketId> = Vec::new();
        let mut theirs: Vec<Place> = Vec::new();
        while done + failed < 300 {
            steps += 1;
            assert!(steps < 2_000_000, "stuck with {done} of 300");
            while open.len() < 20 && port < 1300 {
                open.push(pair.connect(port));
                port += 1;
            }
            assert!(pair.world.step_by(pair.world.now().plus(MS)));
            pair.follow(&mut theirs);
            theirs.extend(pair.accept().into_iter().map(|(_, place)| place));
            pair.serve(&mut theirs);
            let a = pair.world.node(pair.a);
            while a.poll_event().is_some() {}
            open.retain(|id| {
                let mut buf = [0; 16];
                if a.take_ready(*id).has(Ready::OUT) {
                    // Once: a request is one byte.
                    let _ = a.tcp_send(*id, b"?");
                }
                match a.tcp_recv(*id, &mut buf) {
                    Ok(0) => done += 1,
                    Ok(n) => {
                        assert_eq!(&buf[..n], b"served");
                        return true;
                    }
                    Err(TcpError::WouldBlock) => return true,
                    // Who answers by cookies forgets, and may deny what it said.
                    Err(err) => {
                        assert_ne!(cookies, "0", "{err}");
                        failed += 1;
                    }
                }
                a.tcp_close(*id);
                false
            });
            if steps % 16 == 0 {
                pair.shuffle(theirs.first().copied());
            }
        }
        assert!(failed < 15, "{failed} of 300 failed");
        let waits: u64 = (0..4).map(|cpu| pair.world.look(pair.b, cpu).tcp_sockstat().tw).sum();
        assert!(waits > 50, "only {waits} wait");
        // Each is known to the directory, and the directory knows nobody else but those.
        let mesh = std::sync::Arc::clone(pair.world.mesh(pair.b).expect("it has several shards"));
        for cpu in 0..4 {
            for row in pair.world.look(pair.b, cpu).tcp_iter().filter(|r| r.state != State::Listen)
            {
                let key = FlowKey::new(row.local, row.remote);
                assert_eq!(mesh.homes.find(&key), Some(cpu as u8), "{row:?}");
            }
        }
        if cookies == "2" {
            assert!(pair.sum(Counter::TcpExtSyncookiesRecv) > 100);
        }
        // They are found from every shard: the same ports again, of a peer whose clock goes on.
        let again: Vec<SocketId> = (1000..1040).map(|port| pair.connect(port)).collect();
        let mut accepted = 0;
        let limit = pair.world.now().plus(60 * SEC);
        while accepted < 40 && pair.world.now() < limit {
            assert!(pair.world.step_by(pair.world.now().plus(MS)));
            pair.follow(&mut theirs);
            steps += 1;
            if steps % 16 == 0 {
                pair.shuffle(None);
            }
            for (_, Place { cpu, id }) in pair.accept() {
                pair.world.shard(pair.b, cpu).tcp_close(id);
                accepted += 1;
            }
        }
        assert!(accepted >= 38, "{accepted} of 40 came again");
        for id in again {
            pair.world.node(pair.a).tcp_close(id);
        }
        pair.over();
    }
}
