//! The child that sends: `linerate __traffic generator`, in a network namespace of its own. It takes
//! one command a line on standard input and answers each with a line.

use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use linerate_dev::netdev::{Feature, Netdev, set_feature};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::sockopt::UdpGsoSegment;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrIn, sendmmsg, setsockopt};

use super::Kind;
use super::wire::{FROM, GEN, KERNEL, NOBODY, PACKET, PACKET_MAC, PORT, XDP};

/// Datagrams of one system call.
const BATCH: usize = 64;
/// The largest payload of a datagram over IPv4.
const DATAGRAM_MAX: usize = 65_507;

/// The child, seen from the receiver.
pub struct Generator {
    child: Child,
    commands: ChildStdin,
    answers: Receiver<String>,
    /// It sends with `sendmmsg`.
    sendmmsg: bool,
}

impl Generator {
    /// Starts it on a processor; its interface comes later.
    ///
    /// # Errors
    /// It does not start, or may not have a namespace of its own.
    pub fn start(cpu: usize, payload: u16, sendmmsg: bool) -> io::Result<Generator> {
        let mut command = Command::new("/proc/self/exe");
        command.args(["__traffic", "generator", "--cpu", &cpu.to_string()]);
        command.args(["--payload", &payload.to_string()]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let (commands, output) = (child.stdin.take(), child.stdout.take());
        let (commands, output) = commands.zip(output).expect("both are pipes");
        let (says, answers) = channel();
        std::thread::spawn(move || {
            let lines = BufReader::new(output).lines();
            lines.map_while(Result::ok).try_for_each(|line| says.send(line))
        });
        let generator = Generator { child, commands, answers, sendmmsg };
        generator.answer()?;
        Ok(generator)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// It has its end of the pair now: `mac` is the link address of the other. Returns its own.
    ///
    /// # Errors
    /// What went wrong there.
    pub fn set_up(&mut self, mac: [u8; 6]) -> io::Result<[u8; 6]> {
        writeln!(self.commands, "up {}", hex(mac))?;
        let answer = self.answer()?;
        unhex(&answer).ok_or_else(|| io::Error::other(format!("the generator says {answer}")))
    }

    /// It sends to that receiver from now on, for so long.
    ///
    /// # Errors
    /// It is gone.
    pub fn send(&mut self, kind: Kind, time: Duration) -> io::Result<()> {
        let to = match kind {
            Kind::Nobody => NOBODY,
            Kind::Xdp | Kind::XdpBare | Kind::XdpSwap | Kind::Ovs(_) => XDP,
            Kind::Packet => PACKET,
            Kind::Socket => KERNEL,
        };
        let how = if self.sendmmsg { "sendmmsg" } else { "segment" };
        writeln!(self.commands, "{how} {to} {}", time.as_millis())
    }

    /// How much it sent, in millions a second, once it has ended.
    ///
    /// # Errors
    /// What went wrong there.
    pub fn sent(&mut self) -> io::Result<Option<f64>> {
        use std::sync::mpsc::TryRecvError;
        match self.answers.try_recv() {
            Ok(line) => line.parse().map(Some).map_err(|_| io::Error::other(line)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => Err(io::Error::other("the generator is gone")),
        }
    }

    fn answer(&self) -> io::Result<String> {
        let line = self.answers.recv();
        line.map_err(|_| io::Error::other("the generator is gone: it needs root as well"))
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        // It has nothing that outlives it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A link address as it is written.
pub fn hex(mac: [u8; 6]) -> String {
    mac.map(|b| format!("{b:02x}")).join(":")
}

fn unhex(text: &str) -> Option<[u8; 6]> {
    let bytes: Option<Vec<u8>> =
        text.trim().split(':').map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes?.try_into().ok()
}

/// Plays the part, until the receiver is gone.
///
/// # Errors
/// It may not have a namespace of its own, or its output is gone.
pub fn serve(payload: u16) -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET)?;
    let mut out = io::stdout().lock();
    writeln!(out, "here")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let mut words = line.split_whitespace();
        let answer = match (words.next(), words.next(), words.next()) {
            (Some("up"), Some(mac), _) => unhex(mac)
                .ok_or_else(|| io::Error::other("no link address"))
                .and_then(set_up)
                .map(hex),
            (Some(how @ ("segment" | "sendmmsg")), Some(to), Some(ms)) => {
                let blast = if how == "segment" { blast_segments } else { blast };
                match (to.parse(), ms.parse()) {
                    (Ok(to), Ok(ms)) => {
                        blast(to, Duration::from_millis(ms), payload).map(|m| m.to_string())
                    }
                    _ => Err(io::Error::other("no address or time")),
                }
            }
            _ => Err(io::Error::other("no such command")),
        };
        match answer {
            Ok(answer) => writeln!(out, "{answer}")?,
            Err(e) => writeln!(out, "failed: {e}")?,
        }
        out.flush()?;
    }
    Ok(())
}

fn set_up(theirs: [u8; 6]) -> io::Result<[u8; 6]> {
    let mut netdev = Netdev::open().map_err(io::Error::other)?;
    let link = netdev.link(GEN).map_err(io::Error::other)?;
    // A veth gives partial checksums to AF_XDP, which can not say that they are.
    set_feature(GEN, Feature::Tx, false)?;
    netdev.add_addr(link.index, FROM.into(), 24).map_err(io::Error::other)?;
    netdev.set_up(link.index, true).map_err(io::Error::other)?;
    for (addr, mac) in [(KERNEL, theirs), (XDP, theirs), (PACKET, PACKET_MAC), (NOBODY, theirs)] {
        netdev.add_neigh(link.index, addr.into(), mac).map_err(io::Error::other)?;
    }
    link.mac.ok_or_else(|| io::Error::other("the interface has no link address"))
}

/// Sends as fast as it goes; millions a second. What comes back is taken in and forgotten.
fn blast(to: Ipv4Addr, time: Duration, payload: u16) -> io::Result<f64> {
    let socket = UdpSocket::bind((FROM, 0))?;
    socket.set_nonblocking(false)?;
    let data = vec![0x5a; usize::from(payload)];
    let slices: Vec<[IoSlice<'_>; 1]> = (0..BATCH).map(|_| [IoSlice::new(&data)]).collect();
    let to = SockaddrIn::from(SocketAddrV4::new(to, PORT));
    let addrs = [Some(to); BATCH];
    let mut headers = MultiHeaders::preallocate(BATCH, None);
    let (begun, mut sent) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        match sendmmsg(socket.as_raw_fd(), &mut headers, &slices, addrs, [], MsgFlags::empty()) {
            Ok(done) => sent += done.count() as u64,
            Err(Errno::ENOBUFS | Errno::ECONNREFUSED) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Ok(sent as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

/// The same with datagrams that the kernel cuts out of one (UDP GSO): they go through its sockets and
/// its IP once for all of a batch, and one by one only from its device on. It cuts them itself,
/// because the interface may not leave checksums to others.
fn blast_segments(to: Ipv4Addr, time: Duration, payload: u16) -> io::Result<f64> {
    let socket = UdpSocket::bind((FROM, 0))?;
    setsockopt(&socket, UdpGsoSegment, &i32::from(payload))?;
    socket.connect((to, PORT))?;
    let batch = BATCH.min(DATAGRAM_MAX / usize::from(payload));
    let data = vec![0x5a; batch * usize::from(payload)];
    let (begun, mut sent) = (Instant::now(), 0u64);
    while begun.elapsed() < time {
        match socket.send(&data) {
            Ok(_) => sent += batch as u64,
            Err(e) => match e.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ENOBUFS | Errno::ECONNREFUSED) => {}
                _ => return Err(e),
            },
        }
    }
    Ok(sent as f64 / begun.elapsed().as_secs_f64() / 1e6)
}

#[cfg(test)]
mod tests {
    use super::{hex, unhex};

    #[test]
    fn a_link_address_comes_back() {
        let mac = [2, 0, 0xab, 0xff, 0, 9];
        assert_eq!(unhex(&hex(mac)), Some(mac));
        assert_eq!(unhex("2:0:0"), None);
        assert_eq!(unhex("failed: no"), None);
    }
}
