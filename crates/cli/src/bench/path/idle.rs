//! Cases of stages in which nothing happens: what they take from packets that pass by.
//!
//! Each is the difference of two ways that take turns in stretches of a few microseconds, of which the
//! least count: a batch that goes by with the stage's call in between, and one without it. What one
//! processor does in less than a nanosecond a packet depends on where code lies, too: the counts of
//! instructions that the tests hold are exact.

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Pkt, Verdict};
use linerate_core::rx::ingress::sch_handle_ingress;
use linerate_core::rx::xdp::{Action, Program, do_xdp};
use linerate_core::shard::Shard;
use linerate_core::sock::SocketId;
use linerate_core::table::Stage;
use linerate_core::tap::{self, Point, Stages};
use linerate_core::tx::qdisc::Tree;

use super::case::{Case, Maker, Parts, Row, timed};
use super::stack::{self, PORT, THEIRS};

/// Packets in a batch.
const SIZE: u64 = 32;
/// Batches in a stretch.
const TURNS: u64 = 64;

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let alone = |name: &str, way: Way| -> Maker {
        let row = Row::new(format!("idle {name}, batch {SIZE}")).target(1.0);
        (row, Box::new(move |row| Box::new(Alone::new(row, way))))
    };
    let elsewhere = |name: &str, set: fn(&mut Shard, bool)| -> Maker {
        let row = Row::new(format!("idle {name}, receive UDP, batch {SIZE}"));
        (row, Box::new(move |row| Box::new(Elsewhere::new(row, set))))
    };
    vec![
        alone("Xdp: the device has no program", |it| it.pass(do_xdp)),
        alone("Tap: nobody captures", |it| {
            tap::batch(&mut it.shard.net, Stage::Gro, Point::Before, &it.now);
            it.pass(by);
            tap::batch(&mut it.shard.net, Stage::Gro, Point::After, &it.now);
        }),
        alone("Ingress: the device has no rule", |it| it.pass(sch_handle_ingress)),
        alone("Qdisc: nothing waits", |it| {
            it.pass(by);
            path::qdisc_run(&mut it.shard.net, 0, 0, 1024);
        }),
        elsewhere("Xdp: another device has a program", |cx, on| {
            let pass = || -> Program { Box::new(|_| Action::Pass) };
            cx.attach_xdp(1, on.then(pass));
        }),
        elsewhere("Tap: somebody captures elsewhere", |cx, on| {
            cx.net.taps = Default::default();
            if on {
                let filter = tap::Filter::compile("").expect("a filter");
                let points = [true, true, true, true];
                let stages = Stages::of(&[Stage::Forward]);
                let spec = tap::Spec { stages, points, filter, snaplen: 64 };
                let port = std::sync::Arc::new(tap::Port::new(1 << 12));
                cx.tap(spec, port, None).expect("there is room");
            }
        }),
        elsewhere("Ingress: another device has a rule", |cx, on| {
            let rule = if on { "add prio 1 matchall action drop" } else { "del prio 1" };
            cx.tc_filter("mem1", rule).expect("a sound rule");
        }),
        elsewhere("Qdisc: another device has one on receive", |cx, on| {
            let tree = Tree::parse("fq_codel").expect("a sound specification");
            cx.set_rx_qdisc(1, on.then_some(&tree));
        }),
    ]
}

/// A stage that is not there.
#[inline(always)]
fn by(_: &mut Shard, pkt: Pkt) -> Verdict {
    Verdict::Pass(pkt)
}

type Way = fn(&mut Alone);

/// A loop over a batch as the spine has it, with the stage alone in it.
struct Alone {
    row: Row,
    shard: Shard,
    now: Vec<Pkt>,
    next: Vec<Pkt>,
    way: Way,
}

impl Alone {
    fn new(row: Row, way: Way) -> Alone {
        let mut shard = stack::shard();
        let now = (0..SIZE).map(|_| {
            let mut pkt = shard.net.pool.alloc().expect("there is memory");
            pkt.put(60).fill(0);
            pkt.dev = 0;
            pkt
        });
        let now = now.collect();
        Alone { row, shard, now, next: Vec::new(), way }
    }

    #[inline(always)]
    fn pass(&mut self, stage: impl Fn(&mut Shard, Pkt) -> Verdict) {
        for pkt in self.now.drain(..) {
            match stage(&mut self.shard, pkt) {
                Verdict::Pass(pkt) => self.next.push(pkt),
                _ => panic!("nothing happens here"),
            }
        }
        std::mem::swap(&mut self.now, &mut self.next);
    }
}

impl Case for Alone {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let way = self.way;
        Some(difference(packets, self, |it| it.pass(by), way))
    }
}

/// The whole way of a datagram, past a stage that has something to do for others.
struct Elsewhere {
    row: Row,
    shard: Shard,
    sock: SocketId,
    batch: Batch,
    frame: Vec<u8>,
    set: fn(&mut Shard, bool),
    turns: u64,
}

impl Elsewhere {
    fn new(row: Row, set: fn(&mut Shard, bool)) -> Elsewhere {
        let mut shard = stack::shard();
        shard.add_iface(Iface::new("mem1", L2::Ethernet, THEIRS, 1500));
        let sock = stack::bind(&mut shard, None, PORT);
        let (batch, frame) = (Batch::new(), stack::frame(18));
        Elsewhere { row, shard, sock, batch, frame, set, turns: 0 }
    }

    fn turn(&mut self) {
        self.turns += 1;
        stack::tick(&mut self.shard, self.turns);
        for _ in 0..SIZE {
            stack::ring(&mut self.shard, &mut self.batch, &self.frame);
        }
        path::receive(&mut self.shard, &mut self.batch);
        while self.shard.poll_event().is_some() {}
        while let Some(datagram) = self.shard.udp_recv(self.sock) {
            self.shard.udp_done(datagram);
        }
    }
}

impl Case for Elsewhere {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let set = self.set;
        let mut least = [f64::INFINITY; 2];
        for n in 0..stretches(packets) * 2 {
            let on = n % 2 == 1;
            if on {
                set(&mut self.shard, true);
            }
            let ns = stretch(self, Elsewhere::turn);
            least[n as usize % 2] = least[n as usize % 2].min(ns);
            if on {
                set(&mut self.shard, false);
            }
        }
        stack::check(&self.shard);
        Some(least[1] - least[0])
    }
    fn parts(&mut self) -> Parts {
        Parts { note: Some("beside the same way without it".to_owned()), ..Parts::default() }
    }
}

/// So many stretches of each way are so many packets of it.
fn stretches(packets: u64) -> u64 {
    packets.div_ceil(SIZE * TURNS)
}

/// Nanoseconds of a packet in one stretch.
#[inline(always)]
fn stretch<T>(it: &mut T, mut turn: impl FnMut(&mut T)) -> f64 {
    timed(SIZE * TURNS, SIZE, || turn(it)).0
}

/// How many nanoseconds more a packet takes by the second way than by the first.
#[inline(always)]
fn difference<T>(packets: u64, it: &mut T, without: fn(&mut T), with: fn(&mut T)) -> f64 {
    let mut least = [f64::INFINITY; 2];
    for _ in 0..stretches(packets) {
        for (least, way) in least.iter_mut().zip([without, with]) {
            *least = least.min(stretch(it, way));
        }
    }
    least[1] - least[0]
}
