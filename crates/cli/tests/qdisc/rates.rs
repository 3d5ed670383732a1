//! Goal: rates hold within 2 % and delays within a millisecond for TCP and UDP of real programs, at 1, 10
//! and 100 Mbit/s. Method: what a discipline has sent between two readings, by its own clock. A busy
//! machine can only make it less, so that readings are repeated until one holds; more than the rate
//! allows is a failure at once.

use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{able, http, iperf3_server, linerate, output, serve, text};

/// Readings until one has to hold: minutes of them.
const PATIENCE: usize = 60;

/// A program behind a discipline.
struct Shaped {
    child: Child,
    name: String,
    place: &'static str,
}

impl Drop for Shaped {
    fn drop(&mut self) {
        // It ends its program by itself, and takes its namespaces away.
        let pid = nix::unistd::Pid::from_raw(self.child.id() as i32);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// What a discipline had sent at a time by its own clock.
#[derive(Clone, Copy, Debug, Default)]
struct Reading {
    at_ns: u64,
    bytes: u64,
    packets: u64,
}

impl Shaped {
    fn start(place: &'static str, spec: &str, program: &[&str]) -> Shaped {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("rates-{}-{n}", std::process::id());
        let option = if place == "root" { "--qdisc" } else { "--qdisc-in" };
        let run = ["run", "--host-loopback", "--name", &name, option, spec, "--"];
        let mut command = linerate(&[&run[..], program].concat());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        Shaped { child: child.expect("linerate starts"), name, place }
    }

    /// What it has sent; nothing as long as it is not there.
    fn read(&self) -> Reading {
        let out = output(&["show", "qdisc", "--json", "--name", &self.name]);
        let Ok(said) = serde_json::from_slice::<serde_json::Value>(&out.stdout) else {
            return Reading::default();
        };
        let all = said["qdiscs"].as_array().expect("disciplines");
        let ours = all.iter().find(|q| q["place"] == self.place).expect("ours");
        let number = |name: &str| ours[name].as_u64().expect("a count");
        Reading { at_ns: number("at_ns"), bytes: number("bytes"), packets: number("packets") }
    }

    /// A reading after `packets` more than there were before.
    fn later(&self, than: Reading, packets: u64) -> Reading {
        loop {
            let now = self.read();
            if now.packets >= than.packets + packets {
                return now;
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// A rate is held: `payload` is what the receiver has got of it, without headers of `header` bytes.
fn holds(shaped: &Shaped, mbit: u64, burst: u64, header: u64, payload: impl Fn() -> Option<u64>) {
    let rate = mbit as f64 * 1e6 / 8.0;
    let first = shaped.later(Reading::default(), 20);
    let mut tried = Vec::new();
    for _ in 0..PATIENCE {
        let (from, got) = (shaped.read(), payload());
        // Some two seconds; a packet more or less is nothing then.
        let (to, have) = (shaped.later(from, 200 * mbit), payload());
        let part = |from: Reading| {
            let secs = (to.at_ns - from.at_ns) as f64 / 1e9;
            ((to.bytes - from.bytes) as f64, secs * rate)
        };
        // What was late before the first reading and came right after it is burst, too.
        let (bytes, most) = part(first);
        let late = rate * 0.05;
        assert!(
            bytes <= most * 1.02 + burst as f64 + late,
            "{bytes} bytes of {most}: {first:?} {to:?}"
        );
        let (bytes, want) = part(from);
        let near = (bytes / want - 1.0).abs() < 0.02;
        // The rest of what was sent is headers.
        let wire = bytes - ((to.packets - from.packets) * header) as f64;
        let arrives = match (got, have) {
            (Some(got), Some(have)) => ((have - got) as f64 / wire - 1.0).abs() < 0.05,
            _ => true,
        };
        if near && arrives {
            return;
        }
        tried.push((bytes / want, got.zip(have).map(|(got, have)| (have - got) as f64 / wire)));
    }
    panic!("{mbit} Mbit/s were never held: {tried:?}");
}

/// The disciplines that have a rate, with their burst and a queue of some 50 ms.
fn shapers(mbit: u64) -> [(String, u64); 2] {
    let queue = (mbit * 1_000_000 / 8 / 20).max(30_000);
    let burst = (mbit * 1_000_000 / 8 / 100).max(5_000);
    let limit = queue + burst;
    [
        (format!("tbf rate {mbit}mbit burst {burst}b limit {limit}b"), burst),
        (format!("netem rate {mbit}mbit limit {}", queue / 1400), 0),
    ]
}

/// Sends to everybody who comes, without end.
fn pour() -> u16 {
    http(|stream| {
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\n")?;
        loop {
            stream.write_all(&[7; 65536])?;
        }
    })
}

#[test]
fn rates_hold_for_tcp() {
    if !able("rates_hold_for_tcp", &["curl"]) {
        return;
    }
    let url = format!("http://10.0.2.2:{}/", pour());
    for mbit in [1, 10, 100] {
        for (spec, burst) in shapers(mbit) {
            let mut shaped = Shaped::start("root", &spec, &["curl", "-sN", &url]);
            let mut stdout = shaped.child.stdout.take().expect("a pipe");
            let got = Arc::new(AtomicU64::new(0));
            let counted = Arc::clone(&got);
            thread::spawn(move || {
                let mut buf = vec![0; 1 << 16];
                while let Ok(n @ 1..) = stdout.read(&mut buf) {
                    counted.fetch_add(n as u64, Ordering::Relaxed);
                }
            });
            // IPv4 and TCP with timestamps.
            holds(&shaped, mbit, burst, 52, || Some(got.load(Ordering::Relaxed)));
        }
    }
}

#[test]
fn rates_hold_for_udp() {
    if !able("rates_hold_for_udp", &["iperf3"]) {
        return;
    }
    for mbit in [1, 10, 100] {
        for (spec, burst) in shapers(mbit) {
            let (_server, port) = iperf3_server();
            let more = format!("{}k", mbit * 1300);
            let client = ["iperf3", "-c", "10.0.2.2", "-p", &port, "-u", "-b", &more];
            let endless = [&client[..], &["-l", "1400", "-t", "3600"]].concat();
            let shaped = Shaped::start("ingress", &spec, &endless);
            holds(&shaped, mbit, burst, 28, || None);
        }
    }
}

/// The smallest of several measurements in milliseconds, each with these disciplines.
fn least(delay: &[&str], program: &[&str], read: impl Fn(&str) -> Vec<f64>) -> f64 {
    let out = output(&[&["run", "--host-loopback"], delay, &["--"], program].concat());
    let said = text(&out.stdout);
    assert!(out.status.success(), "{said} {}", text(&out.stderr));
    read(&said).into_iter().fold(f64::INFINITY, f64::min)
}

/// `netem delay` is in a ping and in TCP's handshake: none is earlier, and the best is late by less than
/// a millisecond more than without it.
#[test]
fn delays_hold_for_ping_and_tcp() {
    if !able("delays_hold_for_ping_and_tcp", &["ping", "curl"]) {
        return;
    }
    let ping = ["ping", "-n", "-c", "20", "-i", "0.1", "-W", "60", "10.0.2.2"];
    let pings = |said: &str| {
        let times = said.lines().filter_map(|l| l.split_once("time=")?.1.split(' ').next());
        times.map(|t| t.parse().expect("milliseconds")).collect()
    };
    let url = format!("http://10.0.2.2:{}/", serve());
    let script = format!(
        "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS -o /dev/null -w '%{{time_connect}}\\n' {url}; done"
    );
    let connects = ["sh", "-c", &script];
    let seconds = |said: &str| {
        let times = said.lines().map(|l| l.replace(',', "."));
        times.map(|t| t.parse::<f64>().expect("seconds") * 1e3).collect()
    };
    for delay in [["--qdisc", "netem delay 40ms"], ["--qdisc-in", "netem delay 25ms rate 100mbit"]]
    {
        let want: f64 = if delay[0] == "--qdisc" { 40.0 } else { 25.0 };
        let mut tried = Vec::new();
        let near = (0..PATIENCE).any(|_| {
            let (bare, with) = (least(&[], &ping, pings), least(&delay, &ping, pings));
            let (bare_tcp, with_tcp) =
                (least(&[], &connects, seconds), least(&delay, &connects, seconds));
            // Both programs round to less than these hundredths.
            assert!(with >= want - 0.05 && with_tcp >= want - 0.05, "{with} and {with_tcp} ms");
            tried.push((bare, with, bare_tcp, with_tcp));
            with - bare < want + 1.0 && with_tcp - bare_tcp < want + 1.0
        });
        assert!(near, "{delay:?} was never within a millisecond: {tried:?}");
    }
}
