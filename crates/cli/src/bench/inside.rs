//! The measurement itself, as PID 1 of its own namespaces: the host side is here, the program's
//! side behind each tool.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read, Write};
use std::process::{Command, ExitCode};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde::Serialize;

use super::peers::{End, HOST_ADDR, Running, SCRATCH, Setup, Tool, cpu_args, ip};
use super::run::{BenchRunArgs, Case};
use super::traffic::{CONGESTION, CONGESTION_UNRESTRICTED, Window};
use super::{http, sockperf, table};

/// What one number of the table is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// A throughput case, Gbit/s of payload, counted by the receiver.
    Gbps(Case),
    /// Median round trip, µs.
    PingP50Us,
    /// 99th percentile of the round trips, µs.
    PingP99Us,
    /// Round trips per second, one at a time.
    PingPerSec,
    /// Median round trip with busy polling, µs.
    BusyP50Us,
    /// 99th percentile of these, µs.
    BusyP99Us,
    /// Connections per second.
    ConnectsPerSec,
    /// Median round trip of UDP by sockperf, µs.
    SockperfUdpP50Us,
    /// Its 99th percentile, µs.
    SockperfUdpP99Us,
    /// Median round trip of TCP by sockperf, µs.
    SockperfTcpP50Us,
    /// Its 99th percentile, µs.
    SockperfTcpP99Us,
    /// Requests of HTTP per second.
    HttpPerSec,
    /// Memory of the forwarding processes per idle connection, KiB.
    IdleKib,
    /// Memory of the forwarding processes with all of these, MiB.
    RssMib,
}

impl Metric {
    /// Whether a larger number is the better one.
    pub fn more_is_better(self) -> bool {
        use Metric::{ConnectsPerSec, Gbps, HttpPerSec, PingPerSec};
        matches!(self, Gbps(_) | PingPerSec | ConnectsPerSec | HttpPerSec)
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Results {
    /// One sample a round.
    pub samples: BTreeMap<(Metric, Setup), Vec<f64>>,
    /// What did not work, and why; each once.
    pub failures: BTreeSet<String>,
    /// What a peer could not do, where that is its own limit.
    pub notes: Vec<String>,
    /// Tools that are not there, and why.
    pub skipped: Vec<String>,
    /// Version of each tool measured.
    pub versions: BTreeMap<Tool, String>,
    /// Versions of what makes the load of the cases `http` and `sockperf`.
    pub load: Vec<(&'static str, String)>,
    /// Congestion control found on the sockets of both ends.
    pub congestion: BTreeSet<String>,
    /// Congestion control of sockets that do not choose, in the host side's namespace.
    pub congestion_default: String,
    /// 1-minute load average before the first measurement: what else ran, unlike the one after.
    pub load_before: String,
    /// 1-minute load average after the last measurement; alone on the machine it is about 2 to 3.
    pub load_after: String,
}

/// Measures and prints.
pub fn main(settings: &str) -> ExitCode {
    end_with_parent();
    let measured = serde_json::from_str(settings).map_err(io::Error::from).and_then(|args| {
        let mut bench = Bench::start(args)?;
        bench.measure();
        bench.results.load_after = load_average();
        Ok(bench)
    });
    match measured {
        Ok(bench) => {
            let shown = match bench.args.json {
                true => format!("{:#}\n", table::json(&bench.args, &bench.results)),
                false => table::text(&bench.args, &bench.results),
            };
            // Whoever reads it may have seen enough: that is no failure of the measurement.
            let _ = io::stdout().lock().write_all(shown.as_bytes());
            ExitCode::from(u8::from(!bench.results.failures.is_empty()))
        }
        Err(e) => {
            eprintln!("linerate bench run: {e}");
            ExitCode::from(2)
        }
    }
}

/// Says on standard error how far it is; that nobody listens any more is no reason to stop.
fn progress(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Ends this process, and with it the PID namespace, when the pipe from the process outside closes.
fn end_with_parent() {
    thread::spawn(|| {
        let _ = io::stdin().lock().read(&mut [0]);
        std::process::exit(130);
    });
}

/// What answers with the versions of programs that are not ours, or says which is missing.
type Versions = fn() -> Result<Vec<(&'static str, String)>, String>;

/// The cases whose load is made by such programs.
const LOADS: [(Case, Versions); 2] =
    [(Case::Http, http::versions), (Case::Sockperf, sockperf::version)];

/// The measurement under way.
pub(super) struct Bench {
    pub(super) args: BenchRunArgs,
    pub(super) host: End,
    pub(super) results: Results,
}

impl Bench {
    fn start(args: BenchRunArgs) -> io::Result<Self> {
        let mut results = Results { load_before: load_average(), ..Results::default() };
        mounts()?;
        files_limit()?;
        network()?;
        results.congestion_default = congestion_default();
        let mut host = Command::new("/proc/self/exe");
        host.args(["__traffic", "host"]).args(cpu_args(args.pin.ends));
        let host = End::start(host, "host.log")?;
        Ok(Self { args, host, results })
    }

    fn measure(&mut self) {
        for (case, versions) in LOADS {
            if !self.args.cases.contains(&case) {
                continue;
            }
            match versions() {
                Ok(versions) => self.results.load.extend(versions),
                Err(why) => {
                    self.args.cases.retain(|&c| c != case);
                    self.left_out(why);
                }
            }
        }
        let mut tools = Vec::new();
        for tool in self.args.only.clone() {
            match tool.version() {
                Ok(version) => {
                    self.results.versions.insert(tool, version);
                    tools.push(tool);
                }
                Err(why) => self.left_out(format!("{tool}: {why}")),
            }
        }
        let mut setups = Setup::all(&tools, &self.args.mtu);
        for round in 1..=self.args.rounds {
            for &setup in &setups {
                let cases = self.cases(setup);
                if cases.is_empty() {
                    continue;
                }
                progress(&format!("round {round}/{}  {setup}:", self.args.rounds));
                if let Err(e) = self.turn(setup, &cases) {
                    self.failed(format!("{setup}: {e}"));
                }
                progress("\n");
            }
            // Nobody always follows the same one.
            if !setups.is_empty() {
                setups.rotate_left(1);
            }
        }
        if self.args.cases.contains(&Case::Idle) {
            // The relay's two threads a connection say nothing about anybody's memory; nor does the
            // MTU; and where only the kernel is, there is no process.
            let mut seen = vec![Tool::Relay, Tool::Veth, Tool::Loopback];
            setups.sort_unstable();
            for setup in setups {
                if seen.contains(&setup.tool) {
                    continue;
                }
                seen.push(setup.tool);
                progress(&format!("idle connections  {setup}:"));
                if let Err(e) = self.idle(setup) {
                    self.failed(format!("{setup} idle: {e}"));
                }
                progress("\n");
            }
        }
    }

    /// At the tools' own MTU only streams: the other cases hardly depend on it. The loopback is the
    /// ceiling for what comes from the host, the veth pair for all else.
    fn cases(&self, setup: Setup) -> Vec<Case> {
        let only_streams = self.args.mtu.iter().any(|&mtu| mtu != setup.mtu)
            && setup.mtu == super::run::Mtu::Default;
        let wanted = |c: &Case| match setup.tool {
            _ if *c == Case::Idle => false,
            Tool::Loopback => *c == Case::Http,
            Tool::Veth | Tool::TunRs if *c == Case::Http => false,
            _ => c.is_bulk() || !only_streams,
        };
        Case::ALL.into_iter().filter(|c| self.args.cases.contains(c) && wanted(c)).collect()
    }

    /// One tool's turn in a round.
    fn turn(&mut self, setup: Setup, cases: &[Case]) -> io::Result<()> {
        let pin = self.args.pin;
        let mut running = Running::start(setup, pin, false)?;
        let mut busy = false;
        for &case in cases {
            if busy != (case == Case::PingBusy) {
                busy = !busy;
                // The one before ends first: they have the same names and ports.
                drop(running);
                running = Running::start(setup, pin, busy)?;
            }
            let done = self.case(setup, case, &mut running);
            if let Err(e) = done.and_then(|()| running.check_alive(setup.tool)) {
                self.failed(format!("{setup} {case}: {e}"));
                // What is left of it must not disturb the next case.
                drop(running);
                running = Running::start(setup, pin, busy)?;
            }
        }
        Ok(())
    }

    pub(super) fn window(&self, case: Case) -> Window {
        let whole_ms = self.args.secs * 1000.0 * if case.is_throughput() { 1.0 } else { 1.0 / 3.0 };
        let warmup_ms = (whole_ms / 6.0) as u64;
        Window { warmup_ms, counted_ms: whole_ms as u64 - warmup_ms }
    }

    pub(super) fn sample(&mut self, metric: Metric, setup: Setup, value: f64) {
        progress(&format!("  {} {}", table::label(metric), table::number(value)));
        self.results.samples.entry((metric, setup)).or_default().push(value);
    }

    fn left_out(&mut self, why: String) {
        progress(&format!("left out: {why}\n"));
        self.results.skipped.push(why);
    }

    pub(super) fn failed(&mut self, why: String) {
        progress(&format!("  FAILED {why}"));
        self.results.failures.insert(why);
    }
}

fn load_average() -> String {
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    load.split(' ').next().unwrap_or_default().into()
}

/// A /proc of our PID namespace, since the tools are told process ids, and a place for logs that
/// nobody else sees.
fn mounts() -> io::Result<()> {
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none).map_err(|e| {
        io::Error::other(format!(
            "/proc cannot be mounted in a new PID namespace here ({e}): in a container, run it \
             with --privileged"
        ))
    })?;
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none)?;
    fs::create_dir_all(SCRATCH)
}

/// As many files as permitted, for us and all that we start: each idle connection takes one or two.
pub fn files_limit() -> io::Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let wanted = hard.max(131_072);
    // More than the hard limit only where we may raise it.
    setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
        .or_else(|_| setrlimit(Resource::RLIMIT_NOFILE, hard, hard))?;
    Ok(())
}

/// The host side: loopback, one interface with an address and a default route (pasta copies it), a
/// wide range of ports.
fn network() -> io::Result<()> {
    ip(&["link", "set", "lo", "up"])?;
    ip(&["link", "add", "host0", "type", "veth", "peer", "name", "host1"])?;
    ip(&["addr", "add", &format!("{HOST_ADDR}/24"), "dev", "host0"])?;
    ip(&["link", "set", "host0", "up"])?;
    ip(&["link", "set", "host1", "up"])?;
    ip(&["route", "add", "default", "via", "198.18.0.254"])?;
    // Best effort: the default range of 28 000 ports is enough unless a tool leaves TIME_WAIT
    // behind.
    let _ = fs::write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535");
    Ok(())
}

/// Sets the congestion control of the tools' own sockets, which do not choose one: cubic as
/// everywhere else, or reno where the kernel keeps cubic from new namespaces. Not left at BBR,
/// whose pacing would be measured instead of the tool.
pub fn congestion_default() -> String {
    let path = "/proc/sys/net/ipv4/tcp_congestion_control";
    let _ = fs::write(path, CONGESTION).or_else(|_| fs::write(path, CONGESTION_UNRESTRICTED));
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
