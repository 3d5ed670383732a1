//! Two stacks and a wire in memory between them: what one sends the other receives as it is, as over a pair
//! of veth devices.

use std::net::Ipv4Addr;

use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::time::Instant;
use linerate_core::tx::xmit::veth_xmit;

use super::clients::SERVER;
use super::line::Line;
use super::server::shard;

/// The end that opens connections.
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Both ends.
pub struct Pair {
    /// The end that opens connections.
    pub client: Shard,
    /// The end that accepts them.
    pub server: Shard,
    batch: Batch,
    now_ns: u64,
}

impl Pair {
    /// Two ends whose devices take super-packets and partial checksums, or do not.
    pub fn new(offload: bool) -> Pair {
        let (client, server) = (shard(CLIENT, 2, offload), shard(SERVER, 3, offload));
        Pair { client, server, batch: Batch::new(), now_ns: 1_000_000_000 }
    }
    /// Sets knobs of both ends.
    pub fn set(&mut self, name: &str, value: &str) {
        for end in [&mut self.client, &mut self.server] {
            end.set_knob(name, value).expect("in range");
        }
    }
    /// Time goes on at both ends.
    pub fn tick(&mut self, ns: u64) {
        self.now_ns += ns;
        let now = Instant::from_ns(self.now_ns);
        (self.client.net.now, self.server.net.now) = (now, now);
    }
    /// Timers that are due.
    pub fn timers(&mut self) {
        let now = Instant::from_ns(self.now_ns);
        path::timers(&mut self.client, now);
        path::timers(&mut self.server, now);
    }
    /// What the client sent goes to the server.
    pub fn forth(&mut self) {
        cross(&mut self.client, &mut self.server, &mut self.batch);
    }
    /// What the client sent goes onto the line, and what has come to its end goes to the server; whether there was
    /// any of either.
    pub fn forth_over(&mut self, line: &mut Line<Pkt>) -> bool {
        let Pair { client, server, batch, now_ns } = self;
        let mut any = false;
        path::transmit(client, batch);
        loop {
            path::qdisc_run(&mut client.net, 0, 0, 256);
            if veth_xmit(&mut client.net, (0, 0), &mut server.net, batch) == 0 {
                break;
            }
            any = true;
            for pkt in batch.now.drain(..) {
                if let Some(lost) = line.send(*now_ns, pkt.len(), pkt) {
                    server.net.pool.free(lost);
                }
            }
        }
        while let Some(mut pkt) = line.arrived(*now_ns) {
            pkt.rx_time = server.net.now;
            batch.push(pkt);
        }
        any |= !batch.is_empty();
        path::receive(server, batch);
        any
    }
    /// Nanoseconds since the beginning of time.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }
    /// What the server sent goes to the client.
    pub fn back(&mut self) {
        cross(&mut self.server, &mut self.client, &mut self.batch);
    }
    /// Every packet is accounted for.
    pub fn check(&self) {
        for end in [&self.client, &self.server] {
            let lost = end.net.counts.unaccounted();
            assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
        }
    }
}

fn cross(from: &mut Shard, to: &mut Shard, batch: &mut Batch) {
    path::transmit(from, batch);
    loop {
        path::qdisc_run(&mut from.net, 0, 0, 256);
        if veth_xmit(&mut from.net, (0, 0), &mut to.net, batch) == 0 {
            return;
        }
        path::receive(to, batch);
    }
}
