//! Cases at the XDP hook: drop, swap, and from one port to another.

use linerate_core::link::{Iface, L2};
use linerate_core::path;
use linerate_core::pkt::{Batch, Skb};
use linerate_core::rx::xdp::{Action, Program};
use linerate_core::shard::Shard;

use super::case::{Case, Maker, Parts, Row, stages, timed};
use super::stack::{self, THEIRS};

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    let case = |row: Row, batch, what| -> Maker {
        (row, Box::new(move |row| Box::new(Hook::new(row, batch, what))))
    };
    vec![
        case(Row::new("drop at Xdp, 60 B, batch 32").target(15.0), 32, What::Drop),
        case(Row::new("drop at Xdp, 60 B, batch 1"), 1, What::Drop),
        case(Row::new("swap addresses and send back, 60 B, batch 32").target(25.0), 32, What::Swap),
        case(Row::new("swap addresses and send back, 60 B, batch 1"), 1, What::Swap),
        case(Row::new("io between two null ports, 60 B, batch 32"), 32, What::Io),
        case(Row::new("macswap between two null ports, 60 B, batch 32"), 32, What::MacSwap),
    ]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Drop,
    Swap,
    /// From port to port, untouched; the frame's bytes are in memory already, as with testpmd's
    /// `net_null`.
    Io,
    MacSwap,
}

struct Hook {
    row: Row,
    shard: Shard,
    batch: Batch,
    frame: Vec<u8>,
    size: u64,
    what: What,
    turns: u64,
}

/// Exchanges the link addresses.
pub fn swap(pkt: &mut Skb) {
    if let Some((dst, rest)) = pkt.head_mut().split_first_chunk_mut::<6>()
        && let Some(src) = rest.first_chunk_mut::<6>()
    {
        std::mem::swap(dst, src);
    }
}

impl Hook {
    fn new(row: Row, size: u64, what: What) -> Hook {
        let mut shard = stack::shard();
        let mut other = Iface::new("mem1", L2::Ethernet, THEIRS, 1500);
        other.features.tx_csum = false;
        shard.add_iface(other);
        let program: fn(u8) -> Program = match what {
            What::Drop => |_| Box::new(|_| Action::Drop),
            What::Swap => |_| {
                Box::new(|pkt| {
                    swap(pkt);
                    Action::Tx
                })
            },
            What::Io => |to| Box::new(move |_| Action::RedirectDev(to)),
            What::MacSwap => |to| {
                Box::new(move |pkt| {
                    swap(pkt);
                    Action::RedirectDev(to)
                })
            },
        };
        shard.attach_xdp(0, Some(program(1)));
        shard.attach_xdp(1, Some(program(0)));
        Hook { row, shard, batch: Batch::new(), frame: stack::frame(18), size, what, turns: 0 }
    }

    fn turn(&mut self) {
        self.turns += 1;
        stack::tick(&mut self.shard, self.turns);
        let dev = match self.what {
            What::Drop | What::Swap => 0,
            What::Io | What::MacSwap => (self.turns & 1) as u8,
        };
        for _ in 0..self.size {
            match self.what {
                What::Drop | What::Swap => {
                    stack::ring(&mut self.shard, &mut self.batch, &self.frame);
                }
                What::Io | What::MacSwap => {
                    let mut pkt = self.shard.net.pool.alloc().expect("every packet comes back");
                    let _ = pkt.put(self.frame.len());
                    pkt.dev = dev;
                    self.batch.push(pkt);
                }
            }
        }
        path::receive(&mut self.shard, &mut self.batch);
        match self.what {
            What::Drop => {}
            What::Swap => stack::complete(&mut self.shard, 0),
            What::Io | What::MacSwap => stack::complete(&mut self.shard, 1 - dev),
        }
    }
}

impl Case for Hook {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, packets: u64) -> Option<f64> {
        let (ns, _) = timed(packets, self.size, || self.turn());
        stack::check(&self.shard);
        Some(ns)
    }
    fn parts(&mut self) -> Parts {
        let size = self.size;
        let ns = stages(self, size, |it| &mut it.shard, |it, _| it.turn());
        let both = matches!(self.what, What::Io | What::MacSwap);
        let note = both.then(|| "what testpmd calls io and macswap, over both ports".to_owned());
        Parts { ns, note }
    }
}
