//! Latency by a tool that is not ours: sockperf at both ends, its own percentiles.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::inside::congestion_default;
use super::peers::{HOST_ADDR, SCRATCH, cpu_args};
use super::traffic::{Answer, PING_BYTES, port};

/// `sockperf server` on the host side, for one protocol. It is killed when dropped.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts it at the address of the host side that `to` leads to, and waits until it is there.
    ///
    /// # Errors
    /// That it can not be started, or what it said before it ended.
    pub fn start(to: IpAddr, tcp: bool, cpu: Option<usize>) -> io::Result<Self> {
        // Not on all addresses: it would answer on the relay's, in the relay's place.
        let at = if to == HOST_ADDR { HOST_ADDR } else { Ipv4Addr::LOCALHOST };
        let at = SocketAddrV4::new(at, port::SOCKPERF);
        let log = Path::new(SCRATCH).join("sockperf.log");
        let mut command = sockperf(cpu);
        command.args(["server", "-i", &at.ip().to_string(), "-p", &at.port().to_string()]);
        if tcp {
            // What the server before it left behind must not keep it from its port.
            command.args(["--tcp", "--uc-reuseaddr"]);
        }
        let out = fs::File::create(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let mut server = Self(command.spawn()?);
        let patience = Instant::now() + Duration::from_secs(10);
        while !bound(at, tcp)? {
            let ended = server.0.try_wait()?.is_some();
            if ended || Instant::now() > patience {
                let said = fs::read_to_string(&log).unwrap_or_default();
                return Err(io::Error::other(format!(
                    "sockperf does not serve: {}",
                    one_line(&said)
                )));
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(server)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether a socket of our network namespace has this address; one of TCP must listen.
fn bound(at: SocketAddrV4, tcp: bool) -> io::Result<bool> {
    let table = fs::read_to_string(if tcp { "/proc/net/tcp" } else { "/proc/net/udp" })?;
    Ok(has_socket(&table, at, tcp))
}

fn has_socket(table: &str, at: SocketAddrV4, tcp: bool) -> bool {
    const LISTEN: &str = "0A";
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(at.ip().octets()), at.port());
    table.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let found = fields.next() == Some(local.as_str());
        found && (!tcp || fields.nth(1) == Some(LISTEN))
    })
}

/// Sends [`PING_BYTES`] and waits for them, again and again, for whole seconds; from the program's
/// place.
///
/// # Errors
/// That it can not be started, or what it said where it has no percentiles.
pub fn ping_pong(to: IpAddr, tcp: bool, time: Duration) -> io::Result<Answer> {
    // It does not choose a congestion control, so it has its namespace's.
    congestion_default();
    let secs = time.as_secs_f64().round().max(1.0) as u64;
    let mut command = sockperf(None);
    command.args(["ping-pong", "--full-rtt", "-i", &to.to_string()]);
    command.args(["-p", &port::SOCKPERF.to_string(), "-m", &PING_BYTES.to_string()]);
    command.args(["-t", &secs.to_string()]);
    if tcp {
        command.arg("--tcp");
    }
    let output = command.stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    match round_trips(&said) {
        Some(answer) if output.status.success() => Ok(answer),
        _ => {
            let said = [said, String::from_utf8_lossy(&output.stderr)].concat();
            Err(io::Error::other(format!("sockperf: {}", one_line(&said))))
        }
    }
}

/// Median and 99th percentile of what sockperf printed; none where a datagram was lost, for which all else
/// waited.
fn round_trips(said: &str) -> Option<Answer> {
    // "sockperf: [Valid Duration] RunTime=0.550 sec; SentMessages=32074; ReceivedMessages=32074"
    let valid = said.lines().find(|line| line.contains("[Valid Duration]"))?;
    let field = |name: &str| valid.split_once(name)?.1.split([' ', ';']).next();
    let count: u64 = field("ReceivedMessages=")?.parse().ok()?;
    let secs: f64 = field("RunTime=")?.parse().ok()?;
    // "sockperf: ---> percentile 99.000 =   28.913", in microseconds
    let percentile = |name: &str| {
        let line = said.lines().find_map(|line| line.split_once(name))?.1;
        let us: f64 = line.trim_start().strip_prefix('=')?.trim().parse().ok()?;
        (us > 0.0).then_some((us * 1e3) as u32)
    };
    let (p50_ns, p99_ns) = (percentile("percentile 50.000")?, percentile("percentile 99.000")?);
    let elapsed_ns = (secs * 1e9) as u64;
    // "sockperf: # dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0"
    let none_lost = said.contains("# dropped messages = 0;");
    none_lost.then_some(Answer::RoundTrips { count, elapsed_ns, p50_ns, p99_ns })
}

/// What it said of losses, or last, without colours.
fn one_line(said: &str) -> String {
    let lost = said.lines().find(|line| line.contains("# dropped messages"));
    let last = lost.or_else(|| said.lines().rfind(|line| !line.trim().is_empty()));
    last.unwrap_or("(it printed nothing)").replace("\x1b[2;35m", "").replace("\x1b[0m", "")
}

fn sockperf(cpu: Option<usize>) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.args(["__traffic", "pinned", "--with-parent"]).args(cpu_args(cpu));
    command.args(["--", "sockperf"]);
    command
}

/// Its version, or that it is missing.
///
/// # Errors
/// A sentence naming the package.
pub fn version() -> Result<Vec<(&'static str, String)>, String> {
    let output = Command::new("sockperf").arg("--version").stdin(Stdio::null()).output();
    let output = output.map_err(|e| {
        format!("sockperf: sockperf cannot be started ({e}): install the package sockperf")
    })?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.split_once("version ").map_or("", |(_, rest)| rest);
    let version = version.lines().next().unwrap_or_default().trim().trim_end_matches("-no.git");
    Ok(vec![("sockperf", version.to_owned())])
}

#[cfg(test)]
mod tests {
    use super::{has_socket, one_line, round_trips};
    use crate::bench::traffic::Answer;

    const SAID: &str = "sockperf: \x1b[2;35m== version #3.7-no.git == \x1b[0m\n\
        sockperf: [Total Run] RunTime=1.001 sec; Warm up time=400 msec; SentMessages=55568; \
        ReceivedMessages=55567\n\
        sockperf: [Valid Duration] RunTime=0.550 sec; SentMessages=32074; ReceivedMessages=32074\n\
        sockperf: # dropped messages = 0; # duplicated messages = 0; # out-of-order messages = 0\n\
        sockperf: ---> <MAX> observation = 5422.143\n\
        sockperf: ---> percentile 99.999 = 5422.143\n\
        sockperf: ---> percentile 99.000 =   28.913\n\
        sockperf: ---> percentile 50.000 =   16.580\n";

    #[test]
    fn percentiles_are_read_in_nanoseconds() {
        let Some(Answer::RoundTrips { count, elapsed_ns, p50_ns, p99_ns }) = round_trips(SAID)
        else {
            panic!("it has percentiles");
        };
        assert_eq!((count, elapsed_ns, p50_ns, p99_ns), (32074, 550_000_000, 16_580, 28_913));
    }

    #[test]
    fn what_did_not_arrive_is_no_distribution() {
        let without = |what: &str| {
            let lines = SAID.lines().filter(|line| !line.contains(what));
            lines.collect::<Vec<_>>().join("\n")
        };
        let lost = SAID.replace("dropped messages = 0", "dropped messages = 10");
        let bad = ["[Valid Duration]", "50.000", "99.000"].map(without);
        for bad in bad.iter().chain([&lost]) {
            assert!(round_trips(bad).is_none(), "{bad}");
        }
        assert!(one_line(&lost).contains("dropped messages = 10;"));
        let none = "sockperf: Test ended\nsockperf: No messages were received from the server.\n\n";
        assert!(round_trips(none).is_none());
        assert_eq!(one_line(none), "sockperf: No messages were received from the server.");
    }

    #[test]
    fn a_server_is_there_once_it_is_bound_and_listens() {
        let at = "127.0.0.1:11111".parse().expect("an address");
        let local = if cfg!(target_endian = "little") { "0100007F" } else { "7F000001" };
        let line = |state: &str| {
            format!(
                "  sl  local_address rem_address   st\n   0: {local}:2B67 00000000:0000 {state} 0\n"
            )
        };
        assert!(has_socket(&line("07"), at, false));
        assert!(has_socket(&line("0A"), at, true));
        assert!(!has_socket(&line("06"), at, true), "TIME_WAIT of the one before");
        assert!(!has_socket(&line("0A").replace("2B67", "2B68"), at, true));
    }
}
