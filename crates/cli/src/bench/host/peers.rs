//! The tools beside us.
//!
//! A process that ends is measured whole, user and system time together, and so is the same program
//! that only says its version: the difference is what it did. A node_exporter stays, and its processor
//! time is looked at before and after it was asked.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;
use nix::time::ClockId;
use nix::unistd::Pid;

use super::table::Row;

/// Debian's node_exporter.
const EXPORTER: &str = "prometheus-node-exporter";
/// Its collectors that read what our basic sweep reads too.
pub const NETWORK: &[&str] =
    &["conntrack", "netclass", "netdev", "netstat", "qdisc", "sockstat", "softnet"];

/// The version of each peer that is there.
pub fn versions() -> BTreeMap<&'static str, String> {
    let asked = [("nstat", "-V"), ("ss", "-V"), (EXPORTER, "--version")];
    let version = |(program, flag): (&'static str, &str)| {
        let out = Command::new(program).arg(flag).stdin(Stdio::null()).output().ok()?;
        let said = if out.stdout.is_empty() { out.stderr } else { out.stdout };
        let said = String::from_utf8_lossy(&said);
        Some((program, said.lines().next()?.trim().to_owned()))
    };
    asked.into_iter().filter_map(version).collect()
}

/// Processor time of all children that have ended, in milliseconds.
pub fn children_ms() -> io::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    Ok((usage.user_time().num_microseconds() + usage.system_time().num_microseconds()) as f64 / 1e3)
}

/// Processor time of a child that runs, of all its threads, in milliseconds.
///
/// # Errors
/// It has gone.
pub fn process_ms(child: &Child) -> io::Result<f64> {
    let pid = Pid::from_raw(child.id().cast_signed());
    let time = ClockId::pid_cpu_clock_id(pid)?.now()?;
    Ok(time.tv_sec() as f64 * 1e3 + time.tv_nsec() as f64 / 1e6)
}

/// A program that ends with the thread that starts it, should that thread end first.
pub fn with_us(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program).stdin(Stdio::null());
    command
}

/// A program that reads, prints and ends.
pub struct Process {
    program: &'static str,
    args: &'static [&'static str],
    /// With these it ends at once.
    empty: &'static [&'static str],
}

impl Process {
    /// One of these arguments.
    pub fn new(
        program: &'static str,
        args: &'static [&'static str],
        empty: &'static [&'static str],
    ) -> Process {
        Process { program, args, empty }
    }

    /// Its row; `n` runs a turn, and as many that only say the version.
    pub fn row(self, n: u32) -> Row {
        let name = format!("{} {}", self.program, self.args.join(" "));
        if let Err(e) = self.cost(self.empty) {
            return Row::left_out(name, absent(self.program, &e));
        }
        let read = move || {
            let mut sum = 0.0;
            for _ in 0..n {
                sum += self.cost(self.args)? - self.cost(self.empty)?;
            }
            Ok(sum / f64::from(n))
        };
        Row::peer(name, Box::new(read))
    }

    fn cost(&self, args: &[&str]) -> io::Result<f64> {
        let before = children_ms()?;
        let mut command = Command::new(self.program);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.status()?;
        if !status.success() {
            return Err(io::Error::other(format!("{} {}: {status}", self.program, args.join(" "))));
        }
        Ok(children_ms()? - before)
    }
}

fn absent(program: &str, e: &io::Error) -> String {
    match e.kind() {
        io::ErrorKind::NotFound => format!("{program} is not installed"),
        _ => format!("{program}: {e}"),
    }
}

/// A node_exporter on loopback.
pub struct Exporter {
    child: Child,
    at: SocketAddr,
}

impl Exporter {
    /// The row of one with these collectors alone, or with its default ones; `n` scrapes a turn.
    pub fn row(name: &str, collectors: &[&str], n: u32) -> Row {
        let mut exporter = match Exporter::start(collectors) {
            Ok(exporter) => exporter,
            Err(e) => return Row::left_out(name, absent(EXPORTER, &e)),
        };
        Row::peer(
            name,
            Box::new(move || {
                let before = process_ms(&exporter.child)?;
                for _ in 0..n {
                    exporter.scrape()?;
                }
                Ok((process_ms(&exporter.child)? - before) / f64::from(n))
            }),
        )
    }

    fn start(collectors: &[&str]) -> io::Result<Exporter> {
        Command::new(EXPORTER).arg("--version").stdin(Stdio::null()).output()?;
        // In this namespace nobody else takes the port in between.
        let at = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let mut command = with_us(EXPORTER);
        command.arg(format!("--web.listen-address={at}")).arg("--log.level=error");
        if !collectors.is_empty() {
            command.arg("--collector.disable-defaults");
            command.args(collectors.iter().map(|name| format!("--collector.{name}")));
        }
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
        let mut exporter = Exporter { child, at };
        exporter.listens()?;
        // The first scrape makes what later ones find.
        exporter.scrape()?;
        Ok(exporter)
    }

    fn listens(&mut self) -> io::Result<()> {
        let end = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect(self.at).is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(io::Error::other(format!("it ended: {status}")));
            }
            if Instant::now() > end {
                return Err(io::Error::other("it does not listen"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Asks for all it has, uncompressed.
    fn scrape(&mut self) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.at)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let ok = answer.lines().next().is_some_and(|status| status.contains(" 200 "));
        if !ok || !answer.contains("node_scrape_collector_success") {
            return Err(io::Error::other("it answers without metrics"));
        }
        Ok(())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        // It has nothing that outlives it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
