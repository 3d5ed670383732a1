//! Shards that take turns in one thread: maps that change while packets come, and connections that
//! move. Here a reader reads what its shard has processed before the other shard's turn, so that the
//! order which readers see is that of the stack.

use std::net::SocketAddr;
use std::sync::Arc;

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::rx::steer::{Flow, FlowKey, Mesh};
use linerate_core::shard::Shard;
use linerate_core::tcp::api::{Connect, Listen};

use super::end::{End, unseen};
use crate::bench::path::case::cpu_ns;
use crate::bench::path::stack::{self, LOCAL, PEER};

/// What happened while maps changed.
pub struct Changes {
    /// How often `rps_cpus` was set.
    pub changes: u64,
    /// Packets that were read.
    pub read: u64,
    /// Of them, those that came after a later one of their flow.
    pub disorder: u64,
}

/// The first shard receives `packets`; every few batches its map becomes another, and the second one
/// gets its turn later and later.
pub fn changing_maps(packets: u64) -> Changes {
    let mesh = Mesh::new(2);
    let seen = unseen(2);
    let mut ends = [0, 1].map(|cpu| End::new(&mesh, cpu, Arc::clone(&seen)));
    let mut changes = 0;
    for turn in 0..packets / 32 {
        if turn % 7 == 0 {
            // Here, there, both.
            let mask = ["1", "2", "3"][(turn / 7 % 3) as usize];
            ends[0].shard.set_knob("queues.rx.rps_cpus", mask).expect("a mask");
            changes += 1;
        }
        ends[0].receive(32);
        ends[0].backlog(64);
        if turn % (1 + turn / 97 % 5) == 0 {
            while ends[1].backlog(64) > 0 {}
        }
    }
    for _ in 0..64 {
        ends.iter_mut().for_each(|end| while end.backlog(64) > 0 {});
    }
    ends.iter().for_each(End::check);
    let read = ends.iter().map(|e| e.read).sum();
    assert_eq!(read, packets / 32 * 32, "every packet was read");
    Changes { changes, read, disorder: ends.iter().map(|e| e.disorder).sum() }
}

/// Moves each of `n` connections from one shard to the other and back; nanoseconds of processor time
/// for each move: taken out, mailed, found, put in.
pub fn migration(n: u16) -> f64 {
    let mesh = Mesh::new(2);
    let mut shards = [0, 1].map(|cpu| {
        let mut shard = stack::shard();
        shard.join(Arc::clone(&mesh), cpu);
        let listen = Listen { port: 80, backlog: 4096, ..Listen::default() };
        shard.tcp_listen(listen).expect("the port is free");
        shard
    });
    let mut batch = Batch::new();
    let mut socks: Vec<_> = (0..n)
        .map(|port| {
            let local = SocketAddr::new(LOCAL.into(), 10_000 + port);
            let remote = SocketAddr::new(PEER.into(), 80);
            let connect = Connect { local: Some(local), remote, user: u64::from(port) };
            shards[0].tcp_connect(connect).expect("the ends are free")
        })
        .collect();
    path::transmit(&mut shards[0], &mut batch);
    stack::complete(&mut shards[0], 0);
    let begun = cpu_ns();
    for round in 0..8usize {
        let (from, to) = (round % 2, 1 - round % 2);
        for sock in socks.drain(..) {
            send(&mut shards[from], to as u8, sock);
        }
        path::process_backlog(&mut shards[to], &mut batch, 64);
        while let Some(arrived) = shards[to].take_arrived() {
            socks.push(arrived.socket);
        }
        assert_eq!(socks.len(), usize::from(n), "no connection is lost");
    }
    (cpu_ns() - begun) as f64 / (8.0 * f64::from(n))
}

fn send(shard: &mut Shard, to: u8, sock: linerate_core::sock::SocketId) {
    let (local, remote) = shard.tcp_addrs(sock).expect("it is there");
    let conn = shard.tcp_detach(sock).expect("it can move");
    shard.send_flow(to, Flow { key: FlowKey::new(local, remote), conn, app: None });
}
