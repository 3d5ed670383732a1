//! The application: one reader on each processor, all of the same address and port.

use std::io;

use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::time::Instant;
use linerate_core::udp::api::{Datagram, UdpBind};
use linerate_dev::drive::App;
use linerate_dev::poller::{Event, Poller};

use super::flows::STAMP;
use super::latency::Latency;
use super::time::Clock;

/// Datagrams that are read in a turn.
const TURN: usize = 64;

/// Reads datagrams and works on them.
pub(super) struct Reader {
    sock: SocketId,
    time: Clock,
    /// Steps of real work on each datagram, where the time is real.
    steps: u64,
    /// It leaves everything in the socket.
    pub holds: bool,
    /// When it has a turn, whatever happens.
    pub wake: u64,
    pub delivered: u64,
    pub latency: Latency,
}

impl Reader {
    /// `work`: nanoseconds of work on each datagram.
    pub fn new(shard: &mut Shard, port: u16, time: Clock, work: f64) -> Reader {
        let bind = UdpBind { port, ..UdpBind::default() };
        let sock = shard.udp_bind(bind).expect("a new shard has every port");
        let steps = match time {
            Clock::Virtual(..) => 0,
            Clock::Thread(_) => super::real::steps(work),
        };
        let latency = Latency::default();
        Reader { sock, time, steps, holds: false, wake: u64::MAX, delivered: 0, latency }
    }

    fn read(&mut self, datagram: &Datagram) {
        let came = datagram.slices().next().and_then(|s| s.get(STAMP));
        let came = came.and_then(|b| b.first_chunk::<8>()).map_or(0, |b| u64::from_ne_bytes(*b));
        match &self.time {
            Clock::Virtual(_, meter) => meter.charge_app(1),
            Clock::Thread(_) => super::real::chain(self.steps),
        }
        self.delivered += 1;
        self.latency.note(self.time.now().saturating_sub(came));
    }
}

impl App for Reader {
    fn turn(&mut self, shard: &mut Shard, _: &Poller, _: &[Event]) -> io::Result<bool> {
        if let Clock::Virtual(_, meter) = &self.time {
            meter.charge();
        }
        while shard.poll_event().is_some() {}
        if self.holds {
            return Ok(false);
        }
        for _ in 0..TURN {
            let Some(datagram) = shard.udp_recv(self.sock) else { return Ok(false) };
            self.read(&datagram);
            shard.udp_done(datagram);
        }
        Ok(true)
    }

    fn next_timer(&self) -> Option<Instant> {
        Some(Instant::from_ns(self.wake))
    }
}
