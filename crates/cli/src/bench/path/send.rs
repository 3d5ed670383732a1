//! The way out, step by step: what the classic break-down of `sendto()` shows, for this stack.
//!
//! FreeBSD 8's figures, as published with netmap (Rizzo, "netmap: a novel framework for fast packet
//! I/O", USENIX ATC 2012, table 2: one core at 2.93 GHz), stand beside: not for the comparison of
//! two machines, but for what the steps are.

use std::net::{IpAddr, SocketAddr};

use linerate_core::path;
use linerate_core::pkt::Batch;
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::udp::output::SendTo;

use super::case::{Case, Maker, Parts, Row, clock_cost, stages, timed};
use super::stack::{self, FROM, LOCAL, PEER, PORT};

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let send = |payload: usize, size: u64| -> Maker {
        let row = Row::new(format!("send UDP, {payload} B payload, batch {size}"));
        (row, Box::new(move |row| Box::new(Send::new(row, payload, size))))
    };
    vec![send(18, 32), send(18, 1), send(1472, 32)]
}

/// The steps of FreeBSD's `sendto()` in nanoseconds.
pub const CLASSIC: [(&str, u32); 6] = [
    ("system call", 96),
    ("sosend_dgram: buffer, copy", 137),
    ("udp_output: header", 57),
    ("ip_output: route, header", 198),
    ("ether_output: link address, header", 162),
    ("ixgbe_xmit: device", 220),
];

struct Send {
    row: Row,
    shard: Shard,
    sock: SocketId,
    batch: Batch,
    data: Vec<u8>,
    to: SendTo,
    size: u64,
    turns: u64,
}

impl Send {
    fn new(row: Row, payload: usize, size: u64) -> Send {
        let mut shard = stack::shard();
        let sock = stack::bind(&mut shard, None, PORT);
        let to = SendTo::to(SocketAddr::new(IpAddr::V4(PEER), FROM));
        let to = SendTo { src: Some(SocketAddr::new(IpAddr::V4(LOCAL), PORT)), ..to };
        let (batch, data, turns) = (Batch::new(), vec![0x5a; payload], 0);
        Send { row, shard, sock, batch, data, to, size, turns }
    }
    #[inline]
    fn submit(&mut self) {
        for _ in 0..self.size {
            let sent = self.shard.udp_send(self.sock, self.to, &[&self.data]);
            sent.expect("the queue is emptied every turn");
        }
    }
    fn turn(&mut self) {
        self.turns += 1;
        stack::tick(&mut self.shard, self.turns);
        self.submit();
        path::transmit(&mut self.shard, &mut self.batch);
        stack::complete(&mut self.shard, 0);
    }

    /// The steps that no stage's clock covers: before IpOut, and behind Qdisc.
    fn steps(&mut self) -> [f64; 3] {
        const TURNS: usize = 2001;
        let clock = linerate_dev::drive::clock_ns;
        let cost = clock_cost();
        let mut ns = [const { Vec::new() }; 3];
        for _ in 0..TURNS {
            self.turns += 1;
            stack::tick(&mut self.shard, self.turns);
            let begun = clock();
            self.submit();
            let submitted = clock();
            path::transmit(&mut self.shard, &mut self.batch);
            let queued = clock();
            path::qdisc_run(&mut self.shard.net, 0, 0, 1024);
            let in_ring = clock();
            stack::done(&mut self.shard, 0);
            let done = clock();
            for (ns, (from, to)) in
                ns.iter_mut().zip([(begun, submitted), (queued, in_ring), (in_ring, done)])
            {
                ns.push(((to - from) as f64 - cost).max(0.0) / self.size as f64);
            }
        }
        ns.map(|mut ns| {
            ns.sort_by(f64::total_cmp);
            ns[TURNS / 2]
        })
    }
}

impl Case for Send {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let (ns, _) = timed(packets, self.size, || self.turn());
        stack::check(&self.shard);
        Some(ns)
    }
    fn parts(&mut self) -> Parts {
        let [send, xmit, done] = self.steps();
        let size = self.size;
        let stages = stages(self, size, |it| &mut it.shard, |it, _| it.turn());
        let mut ns = vec![("udp_send: buffer, copy, header".to_owned(), send)];
        ns.extend(stages);
        ns.push(("Gso and Xmit: checksum, ring".to_owned(), xmit));
        ns.push(("device done: count, memory back".to_owned(), done));
        Parts { ns, note: None }
    }
}
