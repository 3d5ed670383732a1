//! Cases of queueing disciplines alone: packets of many flows go in and come out.

use linerate_core::pkt::{Pkt, Pool, Verdict};
use linerate_core::rand::Rng;
use linerate_core::table::{Counts, Stage};
use linerate_core::time::{Instant, US};
use linerate_core::tx::qdisc::{Env, Place, Sched, Tree};
use linerate_core::wire::ETH_P_IP;

use super::case::{Case, Maker, Row, timed};
use super::stack;

/// Packets that go in before any comes out.
const SIZE: u64 = 32;
/// Flows that they belong to.
const FLOWS: u64 = 64;

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let case = |name: &str, target: Option<f64>, spec: &'static str| -> Maker {
        let row = Row::new(format!("qdisc {name}, in and out, {FLOWS} flows, batch {SIZE}"));
        let row = Row { target_ns: target, ..row };
        (row, Box::new(move |row| Box::new(Queue::new(row, spec))))
    };
    vec![
        case("pfifo_fast", Some(15.0), "pfifo_fast"),
        case("fq_codel", Some(60.0), "fq_codel"),
        case("codel", None, "codel"),
        case("fq", None, "fq"),
        case("sfq", None, "sfq"),
        case("prio", None, "prio"),
        case("tbf", None, "tbf rate 100gbit burst 1g limit 1g"),
        case("netem", None, "netem delay 1us"),
    ]
}

struct Queue {
    row: Row,
    sched: Sched,
    pool: Pool,
    counts: Counts,
    pkts: Vec<Pkt>,
    now: u64,
}

impl Queue {
    fn new(row: Row, spec: &str) -> Queue {
        let mut pool = Pool::new(1024, 16);
        let mut frame = stack::frame(18);
        let pkts = (0..SIZE * 8).map(|n| {
            let mut pkt = pool.alloc().expect("there is memory");
            let port = 1000 + (n % FLOWS) as u16;
            stack::redirect(&mut frame, stack::LOCAL, port);
            pkt.put(frame.len()).copy_from_slice(&frame);
            pkt.network = pkt.data_offset() + 14;
            pkt.transport = pkt.network + 20;
            pkt.proto = ETH_P_IP;
            pkt
        });
        let pkts = pkts.collect();
        let tree = Tree::parse(spec).expect("a sound specification");
        let place = Place { mtu: 1514, txqueuelen: 1000 };
        let sched = Sched::new(tree, place, &mut Rng::new(1));
        Queue { row, sched, pool, counts: Counts::default(), pkts, now: 1 }
    }

    fn turn(&mut self) {
        self.now += 100 * US;
        let mut env = Env {
            now: Instant::from_ns(self.now),
            pool: &mut self.pool,
            counts: &self.counts,
            trace: &mut None,
            device_sums: true,
        };
        let flow = self.counts.flow(Stage::Qdisc);
        flow.enter(SIZE);
        let at = self.pkts.len() - SIZE as usize;
        for pkt in self.pkts.drain(at..) {
            match self.sched.enqueue(&mut env, pkt).0 {
                Verdict::Held => {}
                _ => panic!("{}: there is room", self.row.name),
            }
        }
        env.now = Instant::from_ns(self.now + 10 * US);
        for _ in 0..SIZE {
            let pkt = self.sched.dequeue(&mut env).0.expect("nothing has to wait any longer");
            // In front of the others, so that all flows have their turn.
            self.pkts.push(pkt);
        }
        self.pkts.rotate_right(SIZE as usize);
        flow.release(SIZE);
        flow.pass(SIZE);
    }
}

impl Case for Queue {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        Some(timed(packets, SIZE, || self.turn()).0)
    }
}
