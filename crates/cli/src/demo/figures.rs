//! What the demo measured, and how it is printed.

use std::fmt::Write;

use linerate_gateway::control::Snapshot;
use serde::{Deserialize, Serialize};

use crate::report;

/// One stream of bytes.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stream {
    /// Bytes that arrived.
    pub bytes: u64,
    /// How long that took.
    pub seconds: f64,
    /// Whether each of them was compared with what was sent, and was the same.
    pub verified: bool,
}

impl Stream {
    /// Gigabits of payload in a second.
    fn gbps(&self) -> f64 {
        if self.seconds > 0.0 { self.bytes as f64 * 8.0 / self.seconds / 1e9 } else { 0.0 }
    }
}

/// Requests that each waited for their answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PingPong {
    /// How many.
    pub count: u64,
    /// Half of them took no longer, in microseconds.
    pub p50_us: f64,
    /// Of a hundred, one took longer, in microseconds.
    pub p99_us: f64,
    /// Whether every answer was the right one.
    pub verified: bool,
}

impl PingPong {
    /// From the time that each took, in nanoseconds.
    pub fn of(mut took_ns: Vec<u64>, verified: bool) -> PingPong {
        took_ns.sort_unstable();
        let at = |part: f64| {
            let index = (took_ns.len() as f64 * part) as usize;
            took_ns
                .get(index.min(took_ns.len().saturating_sub(1)))
                .map_or(0.0, |ns| *ns as f64 / 1e3)
        };
        PingPong { count: took_ns.len() as u64, p50_us: at(0.5), p99_us: at(0.99), verified }
    }
}

/// What the client saw.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Towards the client.
    pub download: Stream,
    /// From the client.
    pub upload: Stream,
    /// There and back.
    pub pingpong: PingPong,
}

impl Traffic {
    /// Whether every phase moved something, and all of it was right.
    fn good(&self) -> bool {
        let good = |s: &Stream| s.bytes > 0 && s.verified;
        good(&self.download)
            && good(&self.upload)
            && self.pingpong.count > 0
            && self.pingpong.verified
    }
}

/// The whole demo, as `--json` prints it.
#[derive(Serialize)]
pub struct Demo {
    /// What was joined by what.
    pub setting: String,
    /// Whether a kernel's TCP was at one end.
    pub kernel_client: bool,
    /// What was missing for the real thing, if something was.
    pub missing: Option<String>,
    /// What was measured.
    pub traffic: Traffic,
    /// The stacks at the end of it.
    pub path: Vec<Snapshot>,
    /// Bytes verified and no packet unaccounted for.
    pub ok: bool,
}

impl Demo {
    /// Judges what was measured.
    pub fn new(
        setting: String,
        missing: Option<String>,
        traffic: Traffic,
        path: Vec<Snapshot>,
    ) -> Demo {
        let whole = !path.is_empty() && path.iter().all(|s| s.unaccounted().is_empty());
        let ok = traffic.good() && whole;
        Demo { setting, kernel_client: missing.is_none(), missing, traffic, path, ok }
    }

    /// For people.
    pub fn text(&self, style: report::Style) -> String {
        let mut out = format!("{}\n\n", self.setting);
        for (name, stream) in
            [("download", &self.traffic.download), ("upload", &self.traffic.upload)]
        {
            let verified = if stream.verified { "every byte verified" } else { "BYTES ARE WRONG" };
            let _ = writeln!(
                out,
                "{name:<10}{:>8.2} Gb/s   {:.0} MB in {:.2} s, {verified}",
                stream.gbps(),
                stream.bytes as f64 / 1e6,
                stream.seconds
            );
        }
        let PingPong { count, p50_us, p99_us, verified } = self.traffic.pingpong;
        let wrong = if verified { "" } else { ", ANSWERS ARE WRONG" };
        let _ = writeln!(
            out,
            "ping-pong {p50_us:>8.0} µs     p50; p99 {p99_us:.0} µs, {count} round trips{wrong}\n"
        );
        for snapshot in &self.path {
            out.push_str(&report::path(snapshot, style));
        }
        if !self.ok {
            out.push_str("FAILED: bytes were wrong or missing, or a stage lost count of packets\n");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_list() {
        let pp = PingPong::of((1..=1000).rev().map(|us| us * 1000).collect(), true);
        assert_eq!((pp.count, pp.p50_us, pp.p99_us), (1000, 501.0, 991.0));
        assert_eq!(PingPong::of(Vec::new(), true).p99_us, 0.0);
    }

    #[test]
    fn nothing_moved_is_no_success() {
        let shard = linerate_core::shard::Shard::new(1);
        let path = || vec![Snapshot::take(&shard, Default::default())];
        let good = Stream { bytes: 1, seconds: 1.0, verified: true };
        let pingpong = PingPong::of(vec![1], true);
        let traffic = Traffic { download: good.clone(), upload: good, pingpong };
        let demo =
            |traffic: &Traffic, path| Demo::new(String::new(), None, traffic.clone(), path).ok;
        assert!(demo(&traffic, path()));
        assert!(!demo(&traffic, Vec::new()));
        let bad = Stream { verified: false, ..traffic.upload.clone() };
        assert!(!demo(&Traffic { upload: bad, ..traffic.clone() }, path()));
        assert!(!demo(&Traffic { download: Stream::default(), ..traffic }, path()));
    }
}
