//! What is said of one packet at one stage: a head of fixed size, and the packet's bytes.

use super::filter::Link;
use crate::table::{Reason, Stage};
use crate::trace::Said;

/// Where at a stage a packet is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// As it comes in. What the stage then says of it is in the record, where it says so at once.
    Before,
    /// As it goes on to the next stage.
    After,
    /// As it was when the stage dropped it.
    Drop,
    /// As a rule of Ingress chose it (`action sample`).
    Sample,
}

impl Point {
    /// All of them.
    pub const ALL: [Point; 4] = [Point::Before, Point::After, Point::Drop, Point::Sample];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Point::Before => "before",
            Point::After => "after",
            Point::Drop => "drop",
            Point::Sample => "sample",
        }
    }
    /// The point of this name.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Point> {
        Point::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(name))
    }
}

/// Bytes of a record's head.
pub const HEAD: usize = 32;

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// Bytes of the packet that follow.
    pub captured: u32,
    /// Bytes that it had.
    pub len: u32,
    /// When: nanoseconds since 1970, or since the shard's begin where nobody told the time.
    pub ts_ns: u64,
    /// The firewall's mark of the packet.
    pub mark: u32,
    /// The stage.
    pub stage: Stage,
    /// Where at the stage.
    pub point: Point,
    /// What the bytes begin with.
    pub link: Link,
    /// Whether it was on its way out.
    pub outbound: bool,
    /// What the stage said of it, if it has said so.
    pub said: Option<Said>,
    /// The device that it came by, or leaves by: 255 = not known yet.
    pub dev: u8,
    /// The device's queue; 255 = none.
    pub queue: u8,
    /// The shard.
    pub shard: u8,
}

/// A record that does not say what records say: its writer is of another version (EPROTO).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadRecord;

impl std::fmt::Display for BadRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a record of a capture can not be read: is the instance of another version?")
    }
}
impl std::error::Error for BadRecord {}

const SAID: usize = 21;
const REASON: usize = 26;

impl Head {
    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEAD] {
        let mut out = [0; HEAD];
        out[0..4].copy_from_slice(&self.captured.to_le_bytes());
        out[4..8].copy_from_slice(&self.len.to_le_bytes());
        out[8..16].copy_from_slice(&self.ts_ns.to_le_bytes());
        out[16..20].copy_from_slice(&self.mark.to_le_bytes());
        out[20] = self.stage as u8;
        out[22] = self.point as u8;
        out[23] = u8::from(self.link == Link::Ethernet);
        out[24] = u8::from(self.outbound);
        out[25] = self.dev;
        out[28] = self.queue;
        out[29] = self.shard;
        say(&mut out, self.said);
        out
    }

    /// From bytes.
    ///
    /// # Errors
    /// [`BadRecord`].
    pub fn decode(bytes: &[u8; HEAD]) -> Result<Head, BadRecord> {
        let four = |at: usize| u32::from_le_bytes([0, 1, 2, 3].map(|i| bytes[at + i]));
        let reason = u16::from_le_bytes([bytes[REASON], bytes[REASON + 1]]);
        let said = match bytes[SAID] {
            0 => None,
            1 => Some(Said::Pass),
            2 => Some(Said::Taken),
            3 => Some(Said::Queued),
            4 => Some(Said::Held),
            5 => Some(Said::Merged),
            6 => Some(Said::Dropped(*Reason::ALL.get(usize::from(reason)).ok_or(BadRecord)?)),
            _ => return Err(BadRecord),
        };
        Ok(Head {
            captured: four(0),
            len: four(4),
            ts_ns: u64::from(four(8)) | u64::from(four(12)) << 32,
            mark: four(16),
            stage: *Stage::ALL.get(usize::from(bytes[20])).ok_or(BadRecord)?,
            point: *Point::ALL.get(usize::from(bytes[22])).ok_or(BadRecord)?,
            link: if bytes[23] == 1 { Link::Ethernet } else { Link::Ip },
            outbound: bytes[24] == 1,
            said,
            dev: bytes[25],
            queue: bytes[28],
            shard: bytes[29],
        })
    }
}

/// Writes into a head what the stage said.
pub(super) fn say(head: &mut [u8; HEAD], said: Option<Said>) {
    let (code, reason) = match said {
        None => (0, u16::MAX),
        Some(Said::Pass) => (1, u16::MAX),
        Some(Said::Taken) => (2, u16::MAX),
        Some(Said::Queued) => (3, u16::MAX),
        Some(Said::Held) => (4, u16::MAX),
        Some(Said::Merged) => (5, u16::MAX),
        Some(Said::Dropped(reason)) => (6, reason as u16),
    };
    head[SAID] = code;
    head[REASON..REASON + 2].copy_from_slice(&reason.to_le_bytes());
}

/// Writes into a head at which point the packet stood.
pub(super) fn point(head: &mut [u8; HEAD], point: Point) {
    head[22] = point as u8;
}
