//! The cases of `linerate bench run`: what is asked of both ends, and what becomes of the answers.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::thread;
use std::time::Duration;

use super::inside::{Bench, Metric};
use super::memory::memory_bytes;
use super::peers::{Running, Setup, Tool};
use super::run::Case;
use super::traffic::{Answer, Ask, CONGESTION, Window};
use super::{http, sockperf};

/// Connections opened at a time in the case `connects`.
pub const CONNECTS_PARALLEL: usize = 4;
/// How much longer than a case its answer may take.
pub const GRACE: Duration = Duration::from_secs(20);

impl Bench {
    /// Measures one case of a tool that runs.
    pub(super) fn case(
        &mut self,
        setup: Setup,
        case: Case,
        running: &mut Running,
    ) -> io::Result<()> {
        let window = self.window(case);
        match case {
            Case::Up1 | Case::Up4 => {
                let streams = if case == Case::Up1 { 1 } else { 4 };
                let answer = self.up(setup, running, streams, window)?;
                self.throughput(setup, case, answer)
            }
            Case::Down1 | Case::Down4 => {
                let streams = if case == Case::Down1 { 1 } else { 4 };
                let ask = Ask::Receive { to: running.to, streams, window };
                let answer = running.program.ask(&ask, window.whole() + GRACE)?;
                self.throughput(setup, case, answer)
            }
            Case::UdpUp | Case::UdpDown => {
                let to = running.to;
                let ask = match case {
                    Case::UdpUp => Ask::SendDatagrams { to, window },
                    _ => Ask::ReceiveDatagrams { to, window },
                };
                let answer = running.program.ask(&ask, window.whole() + GRACE)?;
                self.throughput(setup, case, answer)
            }
            Case::Ping | Case::PingBusy => self.ping(setup, case, running, window),
            Case::Connects => self.connects(setup, running, window),
            Case::Sockperf => self.sockperf(setup, running, window),
            Case::Http => {
                running.program.ask(&Ask::ServeHttp, GRACE)?;
                let host = Ipv4Addr::LOCALHOST.into();
                let (port, cpu) = (running.published, self.args.pin.ends);
                let rate = http::wrk(host, port, window.whole(), cpu)?;
                self.sample(Metric::HttpPerSec, setup, rate);
                running.program.ask(&Ask::Release, GRACE).map(drop)
            }
            Case::Idle => Ok(()),
        }
    }

    fn ping(
        &mut self,
        setup: Setup,
        case: Case,
        running: &mut Running,
        window: Window,
    ) -> io::Result<()> {
        let busy = case == Case::PingBusy;
        let ask = Ask::PingPong { to: running.to, busy, window };
        match running.program.ask(&ask, window.whole() + GRACE)? {
            Answer::RoundTrips { count, elapsed_ns, p50_ns, p99_ns } => {
                let (p50, p99) = match busy {
                    true => (Metric::BusyP50Us, Metric::BusyP99Us),
                    false => (Metric::PingP50Us, Metric::PingP99Us),
                };
                self.sample(p50, setup, f64::from(p50_ns) / 1e3);
                self.sample(p99, setup, f64::from(p99_ns) / 1e3);
                if !busy {
                    self.sample(Metric::PingPerSec, setup, per_sec(count, elapsed_ns));
                }
                Ok(())
            }
            other => Err(running.program.unexpected(&other)),
        }
    }

    fn sockperf(&mut self, setup: Setup, running: &mut Running, window: Window) -> io::Result<()> {
        let (to, cpu) = (running.to, self.args.pin.ends);
        let of_udp = (false, Metric::SockperfUdpP50Us, Metric::SockperfUdpP99Us);
        let of_tcp = (true, Metric::SockperfTcpP50Us, Metric::SockperfTcpP99Us);
        for (tcp, p50, p99) in [of_udp, of_tcp] {
            let server = sockperf::Server::start(to, tcp, cpu)?;
            let ask = Ask::Sockperf { to, tcp, window };
            match running.program.ask(&ask, window.whole() + GRACE)? {
                Answer::RoundTrips { p50_ns, p99_ns, .. } => {
                    self.sample(p50, setup, f64::from(p50_ns) / 1e3);
                    self.sample(p99, setup, f64::from(p99_ns) / 1e3);
                }
                other => return Err(running.program.unexpected(&other)),
            }
            drop(server);
        }
        Ok(())
    }

    fn connects(&mut self, setup: Setup, running: &mut Running, window: Window) -> io::Result<()> {
        let ask = Ask::Connects { to: running.to, parallel: CONNECTS_PARALLEL, window };
        match running.program.ask(&ask, window.whole() + GRACE)? {
            Answer::Count { count, failed, elapsed_ns } => {
                if failed > 0 {
                    let all = count + failed;
                    self.failed(format!("{setup} connects: {failed} of {all} failed"));
                }
                self.sample(Metric::ConnectsPerSec, setup, per_sec(count, elapsed_ns));
                Ok(())
            }
            other => Err(running.program.unexpected(&other)),
        }
    }

    fn up(
        &mut self,
        setup: Setup,
        running: &mut Running,
        streams: usize,
        window: Window,
    ) -> io::Result<Answer> {
        self.host.ask(&Ask::Arm, GRACE)?;
        let sndbuf_bytes = sndbuf_bytes(setup, self.args.pasta_sndbuf);
        running.program.request(&Ask::Send { to: running.to, streams, sndbuf_bytes, window })?;
        let counted = self.host.ask(&Ask::Count(window), window.whole() + GRACE);
        let sent = running.program.answer(window.whole() + GRACE);
        // The program's error, if there is one, explains why nothing was counted.
        if let Answer::Sent { congestion } = sent? {
            self.found("program", setup, congestion);
        }
        counted
    }

    fn throughput(&mut self, setup: Setup, case: Case, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Bytes { bytes, elapsed_ns, congestion } => {
                if case.is_bulk() {
                    let up = matches!(case, Case::Up1 | Case::Up4);
                    self.found(if up { "host" } else { "program" }, setup, congestion);
                }
                let gbps = bytes as f64 * 8.0 / elapsed_ns as f64;
                self.sample(Metric::Gbps(case), setup, gbps);
                Ok(())
            }
            other => Err(self.host.unexpected(&other)),
        }
    }

    /// Notes the congestion control an end found in force; whose it is, where it is not the one
    /// asked for.
    fn found(&mut self, end: &str, setup: Setup, congestion: String) {
        let whose = format!("{congestion} ({end} of {})", setup.tool);
        let as_asked = congestion == CONGESTION;
        self.results.congestion.insert(if as_asked { congestion } else { whose });
    }

    /// Opens the connections, lets everything settle, and compares the memory with that before.
    pub(super) fn idle(&mut self, setup: Setup) -> io::Result<()> {
        let mut running = Running::start(setup, self.args.pin, false)?;
        let to: IpAddr = running.to;
        let before = memory_bytes(running.forwarder)?;
        let ask = Ask::Hold { to, connections: self.args.connections as usize };
        match running.program.ask(&ask, Duration::from_secs(120))? {
            Answer::Count { count, failed, .. } if count > 0 => {
                thread::sleep(Duration::from_millis(500));
                let after = memory_bytes(running.forwarder)?;
                let each = after.saturating_sub(before) as f64 / 1024.0 / count as f64;
                self.sample(Metric::IdleKib, setup, each);
                self.sample(Metric::RssMib, setup, after as f64 / f64::from(1 << 20));
                if failed > 0 {
                    let wanted = self.args.connections;
                    let note =
                        format!("{setup}: no more than {count} of {wanted} idle connections");
                    if setup.tool == Tool::Linerate {
                        self.failed(note);
                    } else {
                        self.results.notes.push(note);
                    }
                }
            }
            other => return Err(running.program.unexpected(&other)),
        }
        drop(running);
        self.host.ask(&Ask::Release, GRACE).map(drop)
    }
}

/// `SO_SNDBUF` of a program that sends, where it is to be bounded: through pasta only.
pub fn sndbuf_bytes(setup: Setup, asked: Option<usize>) -> Option<usize> {
    let small = setup.mtu_bytes() <= 9000;
    let best = if small { 128 * 1024 } else { 512 * 1024 };
    Some(asked.unwrap_or(best)).filter(|&bytes| setup.tool == Tool::Pasta && bytes > 0)
}

fn per_sec(count: u64, elapsed_ns: u64) -> f64 {
    count as f64 * 1e9 / elapsed_ns as f64
}
