//! The receiver that is Open vSwitch's userspace datapath, where it is installed: one bridge, one port, and
//! one flow that rewrites the link addresses and sends back. What it is compared with is our own ring that
//! does the same, and no stack.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Receiver;
use super::generator::hex;
use super::wire::{DUT, Wire};

/// How its port takes packets from the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// AF_XDP, by a polling thread that never sleeps.
    Afxdp,
    /// AF_PACKET, by its main thread.
    System,
}

impl Port {
    fn interface_type(self) -> &'static str {
        match self {
            Port::Afxdp => "afxdp",
            Port::System => "system",
        }
    }
}

/// What makes its database; the package brings it.
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";
/// How long each of its programs may take to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// The two daemons, with a directory of their own.
pub struct Ovs {
    dir: PathBuf,
    daemons: Vec<Child>,
    /// What had left the interface before.
    before: u64,
}

/// What left the interface so far.
fn tx_packets() -> u64 {
    let sent = fs::read_to_string(format!("/sys/class/net/{DUT}/statistics/tx_packets"));
    sent.ok().and_then(|n| n.trim().parse().ok()).unwrap_or(0)
}

impl Ovs {
    /// Starts it on the receiver's processor, with the port and the flow.
    ///
    /// # Errors
    /// It is not installed, or does not take the port.
    pub fn open(wire: &Wire, port: Port) -> io::Result<Ovs> {
        let dir = std::env::temp_dir().join(format!("linerate-ovs-{}", std::process::id()));
        // What an earlier one left there is of no use.
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir)?;
        let mut ovs = Ovs { dir, daemons: Vec::new(), before: 0 };
        let (db, socket) = (ovs.path("conf.db"), ovs.path("db.sock"));
        done(ovs.command("ovsdb-tool").arg("create").arg(&db).arg(SCHEMA))?;
        let remote = format!("--remote=punix:{}", socket.display());
        ovs.start("ovsdb-server", &[&db.display().to_string(), &remote, "--unixctl=db.ctl"])?;
        appears(&socket)?;
        let at = format!("unix:{}", socket.display());
        ovs.start("ovs-vswitchd", &[&at, "--unixctl=vswitchd.ctl"])?;
        let daemon = ovs.daemons.last().map_or(0, Child::id);
        wire.pin_to_receiver(Pid::from_raw(daemon.cast_signed()))?;
        let mask = format!("other_config:pmd-cpu-mask={:#x}", 1u64 << wire.receiver_cpu());
        let kind = format!("type={}", port.interface_type());
        let words = [&["set", "Open_vSwitch", ".", &mask][..]];
        let bridge = ["add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev"];
        let interface = ["set", "interface", DUT, &kind, "ofport_request=1"];
        let rest = [&bridge[..], &["fail-mode=secure"][..]].concat();
        let all = [words[0], &["--"], &rest[..], &["--", "add-port", "br0", DUT, "--"], &interface];
        ovs.vsctl(&all.concat())?;
        let mut get = ovs.command("ovs-vsctl");
        get.arg(format!("--db={at}")).args(["get", "interface", DUT, "error"]);
        let error = done(&mut get)?;
        if error.trim() != "[]" {
            return Err(io::Error::other(format!("its port: {}", error.trim())));
        }
        let (ours, theirs) = (hex(wire.link.mac.unwrap_or_default()), hex(wire.theirs));
        let back = format!("in_port=1,actions=mod_dl_dst:{theirs},mod_dl_src:{ours},IN_PORT");
        let bridge = format!("unix:{}", ovs.path("br0.mgmt").display());
        done(ovs.command("ovs-ofctl").args(["add-flow", &bridge, &back]))?;
        ovs.before = tx_packets();
        Ok(ovs)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// One of its programs, which keeps everything in the directory.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let places = ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"];
        command.envs(places.map(|place| (place, &self.dir)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn start(&mut self, program: &str, args: &[&str]) -> io::Result<()> {
        let mut command = self.command(program);
        // Sockets are named relative to the directory.
        let child = command.args(args).current_dir(&self.dir).spawn();
        self.daemons.push(child.map_err(|e| missing(program, &e))?);
        Ok(())
    }

    fn vsctl(&self, words: &[&str]) -> io::Result<()> {
        let mut command = self.command("ovs-vsctl");
        command.arg(format!("--db=unix:{}", self.path("db.sock").display()));
        done(command.arg(format!("--timeout={}", PATIENCE.as_secs())).arg("--").args(words))?;
        Ok(())
    }
}

/// Runs it to its end; what it printed.
fn done(command: &mut Command) -> io::Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let out = command.stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let out = out.map_err(|e| missing(&program, &e))?;
    if out.status.success() {
        return Ok(String::from_utf8_lossy(&out.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&out.stderr);
    Err(io::Error::other(format!("{program}: {}", said.lines().last().unwrap_or("failed"))))
}

fn missing(program: &str, e: &io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::NotFound => io::Error::other(format!(
            "{program} is not installed (Debian: apt install openvswitch-switch)"
        )),
        _ => io::Error::other(format!("{program} can not be started: {e}")),
    }
}

/// Waits until there is such a file.
fn appears(path: &Path) -> io::Result<()> {
    let begun = Instant::now();
    while !path.exists() {
        if begun.elapsed() > PATIENCE {
            return Err(io::Error::other(format!("{} did not appear", path.display())));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

impl Receiver for Ovs {
    fn work(&mut self) -> io::Result<()> {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }
    fn count(&self) -> u64 {
        tx_packets() - self.before
    }
    fn elsewhere(&self) -> bool {
        true
    }
}

impl Drop for Ovs {
    fn drop(&mut self) {
        // With the bridge goes its program at the interface, which would stay if the daemon were killed.
        let _ = self.vsctl(&["--if-exists", "del-br", "br0"]);
        for daemon in self.daemons.iter_mut().rev() {
            let _ = kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGKILL);
            let _ = daemon.wait();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}
