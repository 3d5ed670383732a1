//! Two network namespaces, a veth pair between them, and the kernel's settings of its ends.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr};

use linerate_dev::netdev::{Link, Netdev, PeerNetns};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, CpuSet, sched_setaffinity, unshare};
use nix::unistd::Pid;

use super::BenchDevicesArgs;
use super::generator::Generator;

/// The receiver's end of the pair.
pub const DUT: &str = "dut0";
/// The generator's end.
pub const GEN: &str = "gen0";
/// The generator's address.
pub const FROM: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
/// The address that the kernel has at the receiver's end.
pub const KERNEL: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Our stack's, with the interface's own link address (AF_XDP).
pub const XDP: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 3);
/// Our stack's, with a link address of its own (AF_PACKET): the kernel does not take it for its own.
pub const PACKET: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 4);
/// That link address.
pub const PACKET_MAC: [u8; 6] = [2, 0, 0, 0, 77, 4];
/// The address that nobody has, and whose packets the ingress hook drops.
pub const NOBODY: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 5);
/// The port that packets are sent to.
pub const PORT: u16 = 7007;

/// What takes the kernel's receive work to the receiver's processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Steering {
    /// Nothing: the sender's processor does it.
    None,
    /// Receive packet steering.
    Rps,
    /// A NAPI thread, which a veth has while an XDP program is attached.
    Napi,
}

impl Steering {
    /// For a row's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Steering::None => "",
            Steering::Rps => ", RPS",
            Steering::Napi => ", NAPI thread",
        }
    }
}

/// The pair, and the generator behind it. All of it ends with this process.
pub struct Wire {
    /// The receiver's end.
    pub link: Link,
    /// The link address of the generator's end.
    pub theirs: [u8; 6],
    /// The child that sends.
    pub generator: Generator,
    receiver_cpu: usize,
    threaded: bool,
}

impl Wire {
    /// Enters a new network namespace and makes the pair.
    ///
    /// # Errors
    /// Without root, or where the kernel has no veth.
    pub fn new(args: &BenchDevicesArgs) -> io::Result<Wire> {
        let none = None::<&str>;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(|e| {
            io::Error::other(format!("no new network namespace ({e}): run it as root"))
        })?;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        // What /sys/class/net shows is the namespace in which it was mounted.
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)?;
        let mut generator = Generator::start(args.generator, args.payload, !args.udp_segment)?;
        let mut netdev = Netdev::open().map_err(io::Error::other)?;
        netdev.add_veth(DUT, GEN, PeerNetns::Pid(generator.pid())).map_err(io::Error::other)?;
        let link = netdev.link(DUT).map_err(io::Error::other)?;
        netdev.add_addr(link.index, IpAddr::V4(KERNEL), 24).map_err(io::Error::other)?;
        netdev.set_up(link.index, true).map_err(io::Error::other)?;
        let theirs = generator.set_up(link.mac.unwrap_or_default())?;
        netdev.add_neigh(link.index, IpAddr::V4(FROM), theirs).map_err(io::Error::other)?;
        let link = netdev.link(DUT).map_err(io::Error::other)?;
        Ok(Wire { link, theirs, generator, receiver_cpu: args.receiver, threaded: false })
    }

    /// The receiver's processor.
    pub fn receiver_cpu(&self) -> usize {
        self.receiver_cpu
    }

    /// Sets who does the kernel's receive work.
    ///
    /// # Errors
    /// The kernel does not let it be set.
    pub fn steer(&mut self, steering: Steering) -> io::Result<()> {
        let path = |file: &str| format!("/sys/class/net/{DUT}/{file}");
        let mask = if steering == Steering::Rps { 1u64 << self.receiver_cpu } else { 0 };
        fs::write(path("queues/rx-0/rps_cpus"), format!("{mask:x}"))
            .map_err(|e| io::Error::other(format!("rps_cpus: {e}")))?;
        if self.threaded {
            // A veth that has no NAPI any more refuses, and has no thread either.
            let _ = fs::write(path("threaded"), "0");
            self.threaded = false;
        }
        if steering == Steering::Napi {
            fs::write(path("threaded"), "1")
                .map_err(|e| io::Error::other(format!("threaded NAPI: {e}")))?;
            self.threaded = true;
            let thread = napi_thread().ok_or_else(|| io::Error::other("no NAPI thread came"))?;
            self.pin_to_receiver(thread)?;
        }
        Ok(())
    }

    /// Puts a process or thread of somebody else on the receiver's processor; what it starts inherits that.
    ///
    /// # Errors
    /// It has ended, or is not ours to move.
    pub fn pin_to_receiver(&self, pid: Pid) -> io::Result<()> {
        let mut cpus = CpuSet::new();
        cpus.set(self.receiver_cpu)?;
        Ok(sched_setaffinity(pid, &cpus)?)
    }
}

/// The kernel's thread for the receiver's end; there is one of that name while it polls.
fn napi_thread() -> Option<Pid> {
    let name = format!("napi/{DUT}-");
    let tasks = fs::read_dir("/proc").ok()?;
    let pids = tasks.flatten().filter_map(|t| t.file_name().to_str()?.parse::<i32>().ok());
    let ours = pids.filter(|pid| {
        let comm = fs::read_to_string(format!("/proc/{pid}/comm"));
        comm.is_ok_and(|comm| comm.starts_with(&name))
    });
    // The youngest, if one of another run is about to go.
    ours.max().map(Pid::from_raw)
}
