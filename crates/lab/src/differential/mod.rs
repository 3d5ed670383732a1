//! Our TCP beside the kernel's, over the same bad path: kernel to kernel, then with us at one end.
//!
//! ```text
//! kernel TCP -- TUN --+                    +-- TUN -- kernel TCP
//!                     +-- path (path.rs) --+
//!  our stack ---------+                    +-------- our stack
//! ```
//!
//! One thread moves packets between two ends in real time: it delays, loses, overtakes and queues them as
//! a [`Path`] says. Which packet is lost is a function of the seed and the packet's number, so that the
//! two runs of a pair meet the same losses, as far as they send the same packets. No end has offloads; both
//! use the same congestion control, and have the same buffers: those that the kernel has if nobody asks for others.

mod command;
mod ends;
mod path;
mod table;

use std::fmt;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

pub use command::{USAGE, command};
use ends::{End, Kernel, Stack};
pub use path::Path;
use path::Way;
pub use table::{Cell, HEAD, Row, measure};

/// What is at the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The kernel at both.
    Kernel,
    /// We send to the kernel.
    Sender,
    /// The kernel sends to us.
    Receiver,
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Pair::Kernel => "kernel to kernel",
            Pair::Sender => "linerate to kernel",
            Pair::Receiver => "kernel to linerate",
        })
    }
}

/// How one run went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Run {
    /// Bytes that the receiving application took.
    pub bytes: u64,
    /// Bits per second from the first byte on.
    pub goodput_bps: f64,
    /// Packets that the path lost by chance, and for lack of room.
    pub lost: (u64, u64),
    /// What the sender counted, in the order of [`COUNTERS`].
    pub counts: [u64; COUNTERS.len()],
}

/// What a sender's run is compared by, beside its goodput.
pub const COUNTERS: [&str; 8] = [
    "TcpRetransSegs",
    "TcpExtTCPTimeouts",
    "TcpExtTCPLossProbes",
    "TcpExtTCPLossProbeRecovery",
    "TcpExtTCPSpuriousRTOs",
    "TcpExtTCPSackRecovery",
    "TcpExtTCPSlowStartRetrans",
    "TcpExtTCPLostRetransmit",
];

/// Sends from the first end to the second for so long.
///
/// # Errors
/// What the kernel refused, as a sentence: it needs CAP_SYS_ADMIN and /dev/net/tun.
pub fn run(pair: Pair, path: &Path, cc: &str, seed: u64, time: Duration) -> Result<Run, String> {
    type Made = Result<Box<dyn End>, String>;
    let kernel = |sends| -> Made { Ok(Box::new(Kernel::start(sends, cc, path.wmem)?)) };
    let stack = |sends| -> Made { Ok(Box::new(Stack::start(sends, cc, path.wmem, seed)?)) };
    // Who receives is there first.
    let mut ends: [Box<dyn End>; 2] = match pair {
        Pair::Kernel => {
            let to = kernel(false)?;
            [kernel(true)?, to]
        }
        Pair::Sender => {
            let to = kernel(false)?;
            [stack(true)?, to]
        }
        Pair::Receiver => {
            let to = stack(false)?;
            [kernel(true)?, to]
        }
    };
    relay(&mut ends, path, seed, time)
}

fn relay(
    ends: &mut [Box<dyn End>; 2],
    path: &Path,
    seed: u64,
    time: Duration,
) -> Result<Run, String> {
    let begin = Instant::now();
    let mut ways = [Way::new(*path, seed), Way::new(*path, seed ^ 0x5eed)];
    let mut first: Option<Instant> = None;
    let mut out = Vec::new();
    loop {
        let now = begin.elapsed().as_nanos() as u64;
        let mut next = now + 100_000_000;
        for at in 0..2 {
            while let Some(packet) = ways[1 - at].arrived(now) {
                ends[at].give(&packet)?;
            }
            let turn = ends[at].turn(now, &mut out)?;
            out.drain(..).for_each(|packet| ways[at].send(now, packet));
            next = next.min(turn.unwrap_or(next)).min(ways[at].next().unwrap_or(next));
        }
        next = next.min(ways[1].next().unwrap_or(next));
        let bytes = ends[1].received();
        if bytes > 0 {
            let since = *first.get_or_insert_with(Instant::now);
            if since.elapsed() >= time {
                let goodput_bps = bytes as f64 * 8.0 / since.elapsed().as_secs_f64();
                let lost = (ways[0].lost_by_chance, ways[0].lost_in_queue);
                let counts = COUNTERS.map(|name| ends[0].counter(name).unwrap_or(0));
                return Ok(Run { bytes, goodput_bps, lost, counts });
            }
        } else if begin.elapsed() > Duration::from_secs(60) {
            return Err("nothing arrived within a minute".to_owned());
        }
        wait(ends, next.saturating_sub(begin.elapsed().as_nanos() as u64))?;
    }
}

/// Waits until a TUN has packets, or for so long.
fn wait(ends: &[Box<dyn End>; 2], ns: u64) -> Result<(), String> {
    let mut fds: Vec<PollFd<'_>> =
        ends.iter().filter_map(|e| e.fd()).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let time = TimeSpec::from_duration(Duration::from_nanos(ns));
    match ppoll(&mut fds, Some(time), None) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(e) => Err(format!("ppoll: {e}")),
    }
}
