//! The peer DPDK at forwarding between two ports of nothing but memory: its `testpmd` with two
//! `net_null` devices, where it is installed. What it is compared with is io and macswap of
//! [`super::xdp`]: the packets of both are counted on both ports.

use std::fs;
use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::case::{Case, Maker, Parts, Row};

/// The cases of this file.
pub fn makers() -> Vec<Maker> {
    ["io", "macswap"]
        .map(|mode| -> Maker {
            let name = format!("testpmd: {mode} between two null ports, 60 B, batch 32");
            let row = Row::new(name).of("DPDK testpmd");
            (row, Box::new(move |row| Box::new(Testpmd { row, mode, failed: None })))
        })
        .into()
}

/// How long it forwards in each round.
const ROUND: Duration = Duration::from_millis(700);

struct Testpmd {
    row: Row,
    mode: &'static str,
    failed: Option<String>,
}

impl Testpmd {
    /// One run: packets forwarded, and nanoseconds of processor time of the thread that did it.
    fn run(&self) -> Result<(u64, u64), String> {
        let pinned = rustix::thread::sched_getaffinity(None).map_err(|err| err.to_string())?;
        let cpu = last_cpu(&pinned);
        let lcores = format!("0@0,1@{cpu}");
        let mut command = Command::new("dpdk-testpmd");
        command.args(["--lcores", &lcores, "--no-huge", "-m", "256", "--no-pci", "--no-telemetry"]);
        command.args(["--file-prefix", &format!("linerate{}", std::process::id())]);
        command.args(["--vdev=net_null0,size=60", "--vdev=net_null1,size=60", "--"]);
        command.args([&format!("--forward-mode={}", self.mode), "--nb-cores=1", "--burst=32"]);
        command.args(["--total-num-mbufs=4096", "--no-flush-rx"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // It wants to choose its processors itself: what a child may run on is what we may.
        let mut all = rustix::thread::CpuSet::new();
        (0..rustix::thread::CpuSet::MAX_CPU).for_each(|cpu| all.set(cpu));
        let _ = rustix::thread::sched_setaffinity(None, &all);
        let child = command.spawn();
        let _ = rustix::thread::sched_setaffinity(None, &pinned);
        let mut child = child.map_err(|err| match err.kind() {
            std::io::ErrorKind::NotFound => "not installed (Debian: apt install dpdk-dev)".into(),
            _ => format!("can not be started: {err}"),
        })?;
        let cpu_ns = forwarded_for(&mut child, ROUND);
        if let Some(mut stdin) = child.stdin.take() {
            // It ends at a newline; if it is gone already its output says why.
            let _ = stdin.write_all(b"\n");
        }
        let out = child.wait_with_output().map_err(|err| format!("did not end: {err}"))?;
        let text = String::from_utf8_lossy(&out.stdout);
        let packets = total(&text).ok_or_else(|| {
            format!("said no figures: {}", text.lines().last().unwrap_or_default())
        })?;
        Ok((packets, cpu_ns.ok_or("its forwarding thread was not found")?))
    }
}

/// The processor that this thread is pinned to; the last that it may run on, if it is not.
fn last_cpu(set: &rustix::thread::CpuSet) -> usize {
    (0..rustix::thread::CpuSet::MAX_CPU).rev().find(|cpu| set.is_set(*cpu)).unwrap_or(0)
}

/// Lets it forward for so long once it has begun; processor time of the thread that forwards.
fn forwarded_for(child: &mut Child, time: Duration) -> Option<u64> {
    let busy = || worker_ns(child.id());
    // It begins when its worker begins to take time.
    for _ in 0..1000 {
        if busy().is_some_and(|ns| ns > 5_000_000) {
            break;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    std::thread::sleep(time);
    busy()
}

/// Nanoseconds of processor time of its forwarding thread.
fn worker_ns(pid: u32) -> Option<u64> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    tasks.flatten().find_map(|task| {
        let name = fs::read_to_string(task.path().join("comm")).ok()?;
        let worker = name.starts_with("lcore-worker") || name.starts_with("rte-worker");
        let stat = fs::read_to_string(task.path().join("schedstat")).ok().filter(|_| worker)?;
        stat.split_whitespace().next()?.parse().ok()
    })
}

/// Packets received by all ports, out of its last words.
fn total(text: &str) -> Option<u64> {
    let (_, sums) = text.split_once("Accumulated forward statistics")?;
    let (_, after) = sums.split_once("RX-packets:")?;
    after.split_whitespace().next()?.parse().ok()
}

impl Case for Testpmd {
    fn row(&self) -> &Row {
        &self.row
    }
    fn round(&mut self, _packets: u64) -> Option<f64> {
        if self.failed.is_some() {
            return None;
        }
        match self.run() {
            Ok((packets, ns)) if packets > 0 => Some(ns as f64 / packets as f64),
            Ok(_) => None,
            Err(why) => {
                self.failed = Some(why);
                None
            }
        }
    }
    fn parts(&mut self) -> Parts {
        Parts { ns: Vec::new(), note: self.failed.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::total;

    #[test]
    fn its_total_is_read() {
        let text = "RX-packets: 5 RX-dropped: 0\n  +++ Accumulated forward statistics for all \
                    ports+++\n  RX-packets: 51536384       RX-dropped: 0   RX-total: 51536384\n";
        assert_eq!(total(text), Some(51_536_384));
        assert_eq!(total("EAL: no"), None);
    }
}
