//! `linerate record` on this host, for a while.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use linerate_host::collect::{Collector, Tier};
use linerate_host::record::KEY_EVERY;
use linerate_host::source::Live;
use serde::Serialize;

use super::peers::{children_ms, process_ms, with_us};
use super::place::Place;

/// What it took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Recorded {
    /// How long it was looked at, from its first moment on.
    pub secs: f64,
    /// Processor time of that, in percent of one core.
    pub cpu_percent: f64,
    /// Bytes a second. The first moment, which stands alone, counts as far as it comes again in each
    /// 600 moments.
    pub bytes_per_s: f64,
    /// Devices of the host.
    pub devices: usize,
    /// Processors that are online.
    pub cpus: usize,
}

impl Recorded {
    /// Bytes a second of each device and of each processor.
    pub fn bytes_each(&self) -> f64 {
        self.bytes_per_s / (self.devices + self.cpus).max(1) as f64
    }
}

/// Records this host's namespace, a moment a second.
///
/// # Errors
/// It does not run, or records nothing.
pub fn record(place: &Place, period: Duration) -> io::Result<Recorded> {
    let path = std::env::temp_dir().join(format!("linerate-bench-{}.lrec", std::process::id()));
    let file = path.clone();
    let recorded = place.host().run(move || {
        let snapshot = Collector::new(Tier::Basic).collect(&mut Live::new());
        measure(&file, period).map(|(secs, cpu_percent, bytes_per_s)| Recorded {
            secs,
            cpu_percent,
            bytes_per_s,
            devices: snapshot.devs.len(),
            cpus: snapshot.host.cpus.len(),
        })
    });
    // Whether it was made or not, nothing stays.
    let _ = fs::remove_file(&path);
    recorded?.map_err(|e| io::Error::new(e.kind(), format!("linerate record: {e}")))
}

/// Seconds, percent of a core, bytes a second.
fn measure(file: &Path, period: Duration) -> io::Result<(f64, f64, f64)> {
    let len = || fs::metadata(file).map_or(0, |m| m.len());
    let before = children_ms()?;
    let mut command = with_us(&std::env::current_exe()?);
    command.args(["record", "--every", "1s", "--for"]).arg(format!("{}ms", period.as_millis()));
    command.arg("-o").arg(file).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn()?;
    // The head of the file is shorter than any moment, and each moment is written at once.
    const HEAD: u64 = 64;
    while len() < HEAD {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!("it recorded nothing: {status}")));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    let (begun, started, first) = (Instant::now(), process_ms(&child)?, len());
    let status = child.wait()?;
    let secs = begun.elapsed().as_secs_f64();
    if !status.success() {
        return Err(io::Error::other(format!("it failed: {status}")));
    }
    let busy = children_ms()? - before - started;
    let bytes = (len() - first) as f64 / secs + first as f64 / f64::from(KEY_EVERY);
    Ok((secs, busy / secs / 10.0, bytes))
}
