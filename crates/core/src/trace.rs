//! What happened to chosen packets, stage by stage.

use crate::pkt::Pkt;
use crate::table::{Reason, Stage};

/// One line of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The packet's number.
    pub packet: u32,
    /// The stage that spoke.
    pub stage: Stage,
    /// What it said.
    pub said: Said,
    /// The packet as it was then.
    pub what: String,
}

/// What a stage said of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Said {
    /// It goes on.
    Pass,
    /// Its journey ended as it should.
    Taken,
    /// It went on into the queue of a later stage.
    Queued,
    /// It waits in this stage.
    Held,
    /// It was dropped.
    Dropped(Reason),
}

/// Collects the lines of the packets that carry a trace number; at most [`Trace::MAX`] lines.
#[derive(Default)]
pub struct Trace {
    /// The lines so far, in the order in which they happened.
    pub lines: Vec<Line>,
}

impl Trace {
    /// More lines than this are not kept.
    pub const MAX: usize = 4096;

    pub(crate) fn say(&mut self, stage: Stage, packet: u32, what: String, said: Said) {
        if self.lines.len() < Trace::MAX {
            self.lines.push(Line { packet, stage, said, what });
        }
    }
    pub(crate) fn dropped(&mut self, stage: Stage, pkt: &Pkt, reason: Reason) {
        self.say(stage, pkt.trace, describe(pkt), Said::Dropped(reason));
    }
}

/// The packet in one line.
pub(crate) fn describe(pkt: &Pkt) -> String {
    let super_packet =
        pkt.gso.map_or(String::new(), |g| format!(", {} segments of {}", g.segs, g.size));
    format!("{} bytes{super_packet}, ethertype {:#06x}", pkt.len(), pkt.proto)
}
