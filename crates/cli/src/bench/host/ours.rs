//! What is ours: in this thread, from a source that is kept open, after a first reading.

use std::io;
use std::sync::{Mutex, PoisonError};

use linerate_host::Snapshot;
use linerate_host::collect::{Collector, Tier};
use linerate_host::netlink;
use linerate_host::proc::mib;
use linerate_host::source::{Live, Source};

use super::table::Read;
use crate::bench::path::case::cpu_ns;

/// Milliseconds of processor time of this thread that each of `n` readings takes, the drop of what was
/// read included.
fn cost(n: u32, mut read: impl FnMut() -> io::Result<Snapshot>) -> io::Result<f64> {
    let begun = cpu_ns();
    for _ in 0..n {
        read()?;
    }
    Ok((cpu_ns() - begun) as f64 / 1e6 / f64::from(n))
}

/// A sweep of one tier, in the namespace of the thread that made it.
pub struct Sweep(Mutex<(Collector, Live)>);

impl Sweep {
    /// Has read once.
    pub fn new(tier: Tier) -> Sweep {
        let (mut collector, mut live) = (Collector::new(tier), Live::new());
        drop(collector.collect(&mut live));
        Sweep(Mutex::new((collector, live)))
    }

    /// Reads so often.
    ///
    /// # Errors
    /// If nothing was read.
    pub fn cost(&self, n: u32) -> io::Result<f64> {
        let mut at = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (collector, live) = &mut *at;
        cost(n, || {
            let snapshot = collector.collect(live);
            if snapshot.mib.is_empty() || snapshot.devs.is_empty() {
                return Err(io::Error::other("the sweep read nothing"));
            }
            Ok(snapshot)
        })
    }
}

/// Sweeps of this thread's namespace.
pub fn sweep(tier: Tier, n: u32) -> Read {
    let sweep = Sweep::new(tier);
    Box::new(move || sweep.cost(n))
}

/// What `nstat` reads, and no more.
pub fn counters(n: u32) -> Read {
    let mut live = Live::new();
    Box::new(move || {
        cost(n, || {
            let mut into = Snapshot::default();
            mib::snmp(&live.read("proc/net/snmp")?, &mut into);
            mib::netstat(&live.read("proc/net/netstat")?, &mut into);
            // Not there without IPv6.
            if let Ok(bytes) = live.read("proc/net/snmp6") {
                mib::snmp6(&bytes, &mut into);
            }
            Ok(into)
        })
    })
}

/// The TCP sockets, at least `sockets` of them.
pub fn sockets(n: u32, sockets: u32) -> Read {
    let mut live = Live::new();
    Box::new(move || {
        cost(n, || {
            let mut into = Snapshot::default();
            netlink::tcp(&mut live, &mut into);
            let seen = into.sockets.tcp_states.get("ESTABLISHED").unwrap_or(0);
            if seen < u64::from(sockets / 2 * 2) {
                return Err(io::Error::other(format!("only {seen} sockets were read")));
            }
            Ok(into)
        })
    })
}
