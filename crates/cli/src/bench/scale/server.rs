//! The server that clients talk to: it answers every request with its own bytes, and closes when the client
//! does. Which stack it runs on is a trait, so that a peer does the same work.

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt};
use linerate_core::shard::Shard;
use linerate_core::sock::{SockKind, SocketId};
use linerate_core::tcp::{Listen, TcpError};
use linerate_core::time::Instant;
use linerate_core::tx::xmit::tx_done_all;
use linerate_core::wire::Mac;

use super::clients::{Frames, PORT, SERVER};

/// A stack with an echo server on it.
pub trait Server {
    /// One turn of its loop at `now`: frames that came in, timers if `timers`, the application, frames that go
    /// out. This is what is timed.
    fn turn(&mut self, now: Instant, frames: &Frames, timers: bool, out: &mut Frames);
    /// Connections that were accepted so far.
    fn accepted(&self) -> u64;
    /// Every packet is accounted for.
    fn check(&self);
}

/// This stack.
pub struct Ours {
    shard: Shard,
    listener: SocketId,
    batch: Batch,
    buf: Vec<u8>,
    accepted: u64,
}

/// A shard with one device in memory for bare IP packets, at `addr`, from which every address is reached.
pub fn shard(addr: std::net::Ipv4Addr, seed: u64, offload: bool) -> Shard {
    use linerate_core::ip::fib::{Route, RouteKind};
    use linerate_core::link::Features;
    let mut shard = Shard::new(seed);
    let mut iface = Iface::new("mem0", L2::Ip, Mac([0; 6]), 1500);
    let on = offload;
    iface.features = Features { tx_csum: on, tso4: on, tso6: on, uso: on };
    let dev = shard.add_iface(iface);
    shard.add_addr(dev, addr.into(), 8).expect("a new device takes any address");
    let all = Route::new([0, 0, 0, 0].into(), 0, RouteKind::Unicast, dev);
    shard.add_route(all).expect("there is no other");
    // As Linux derives it from the memory of a machine with some 24 GiB.
    let knobs = [("net.ipv4.tcp_mem", "262144 524288 1048576"), ("dev.txqueuelen", "10000")];
    let knobs = knobs.into_iter().chain([("net.ipv4.tcp_max_tw_buckets", "16777216")]);
    for (name, value) in knobs {
        shard.set_knob(name, value).expect("in range");
    }
    shard
}

impl Ours {
    /// A server with nothing but defaults.
    pub fn new() -> Ours {
        let mut shard = shard(SERVER, 1, false);
        let listen = Listen { port: PORT, backlog: 4096, ..Listen::default() };
        let listener = shard.tcp_listen(listen).expect("the port is free");
        Ours { shard, listener, batch: Batch::new(), buf: vec![0; 4096], accepted: 0 }
    }
    /// What the device's ring holds goes out, as by a device that reads the memory itself.
    fn complete(&mut self, out: &mut Frames) {
        path::qdisc_run(&mut self.shard.net, 0, 0, 4096);
        let mut ring = std::mem::take(&mut self.shard.net.ifaces[0].txqs[0].ring);
        let sent = |pkt: Pkt| {
            out.push(pkt.slices());
            (pkt, true)
        };
        tx_done_all(&mut self.shard.net, ring.drain(..).map(sent));
        self.shard.net.ifaces[0].txqs[0].ring = ring;
    }
    /// The application: it serves what something happened to.
    fn serve(&mut self) {
        while let Some(event) = self.shard.poll_event() {
            self.shard.take_ready(event.id);
            if event.id.kind == SockKind::Listen {
                while self.shard.tcp_accept(self.listener).is_some() {
                    self.accepted += 1;
                }
                continue;
            }
            self.answer(event.id);
        }
    }
    fn answer(&mut self, id: SocketId) {
        loop {
            match self.shard.tcp_recv(id, &mut self.buf) {
                Ok(0) => return self.shard.tcp_close(id),
                Ok(n) => match self.shard.tcp_send(id, &self.buf[..n]) {
                    Ok(sent) => assert_eq!(sent, n, "an answer finds room"),
                    Err(_) => return self.shard.tcp_abort(id),
                },
                Err(TcpError::WouldBlock) => return,
                Err(_) => return self.shard.tcp_close(id),
            }
        }
    }
}

impl Server for Ours {
    fn turn(&mut self, now: Instant, frames: &Frames, timers: bool, out: &mut Frames) {
        self.shard.net.now = now;
        for frame in frames.iter() {
            let mut pkt = self.shard.net.pool.alloc().expect("every packet comes back");
            pkt.put(frame.len()).copy_from_slice(frame);
            pkt.rx_time = now;
            self.batch.push(pkt);
        }
        path::receive(&mut self.shard, &mut self.batch);
        if timers {
            path::timers(&mut self.shard, now);
        }
        self.serve();
        path::transmit(&mut self.shard, &mut self.batch);
        self.complete(out);
    }
    fn accepted(&self) -> u64 {
        self.accepted
    }
    fn check(&self) {
        let lost = self.shard.net.counts.unaccounted();
        assert!(lost.is_empty(), "every packet is accounted for: {lost:?}");
    }
}
