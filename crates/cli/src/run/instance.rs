//! One running instance: a program in its namespace, the stack it talks to, the gateway to the
//! host, the control socket, the recording. `run` and `demo` are made of it.

use std::cell::RefCell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use linerate_core::shard::Shard;
use linerate_core::table::Knobs;
use linerate_core::table::knob::SetError;
use linerate_core::tx::qdisc::Tree;
use linerate_dev::device::{Device, Layer};
use linerate_dev::drive::Drive;
use linerate_dev::netdev::{Link, Losses, Netdev};
use linerate_dev::poller::Interest;
use linerate_dev::{packet, tun};
use linerate_gateway::config::Config;
use linerate_gateway::control::{ControlServer, Snapshot};
use linerate_gateway::gateway::Gateway;
use linerate_gateway::ns::{self, Backend, Exit, Plan, SpawnError};

use super::host::{CONTROL, Host, NAMESPACE, RING_RX};
use super::pcap::Recorder;
use crate::args::Setting;
use crate::xdp::{self, Attached};

/// What is to run.
pub struct Setup {
    /// The program, its namespace and its device.
    pub plan: Plan,
    /// The gateway, with the same addresses and MTU as the plan.
    pub gateway: Config,
    /// Knobs, set before the first packet.
    pub settings: Vec<Setting>,
    /// The disciplines of the device: towards the program, and from it.
    pub qdiscs: (Option<Tree>, Option<Tree>),
    /// The eBPF program that sees what comes from the program.
    pub xdp: Option<String>,
    /// The instance's name.
    pub name: String,
    /// Whether the user chose the name: then it must be free.
    pub name_wanted: bool,
    /// Where to record.
    pub pcap: Option<PathBuf>,
}

/// Why an instance could not be started: a sentence, by what has to change.
#[derive(Debug)]
pub enum StartError {
    /// The kernel grants no namespaces.
    Namespaces(String),
    /// No device could be opened or made.
    Device(String),
    /// Something else.
    Other(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Namespaces(why) | Self::Device(why) | Self::Other(why)) = self;
        f.write_str(why)
    }
}

impl From<SpawnError> for StartError {
    fn from(err: SpawnError) -> StartError {
        match err {
            SpawnError::Namespaces(why) => StartError::Namespaces(why),
            SpawnError::Device(why) => StartError::Device(why),
            err => StartError::Other(err.to_string()),
        }
    }
}

fn other<E: fmt::Display>(doing: &str) -> impl FnOnce(E) -> StartError {
    let doing = doing.to_owned();
    move |err| StartError::Other(format!("{doing}: {err}"))
}

/// Why `ring.rx` is refused where a packet socket carries the packets.
const NO_RING: &str = "ring.rx cannot be set for a veth pair, whose packet socket is bounded in \
                       bytes: leave it at its default, or have a TUN (--backend tun)";

/// The program is next door, and what is under way to it lies in this process's memory until its
/// kernel has it: several times what the link needs would only push out of the caches what is worked
/// on. The default is for long paths; whoever makes this link one (`--qdisc`) may set it again.
const SEND_BUFFER: (&str, &str) = ("net.ipv4.tcp_wmem", "4096 16384 8388608");

/// A running instance.
pub struct Instance {
    drive: Drive,
    host: Host,
}

impl Instance {
    /// Makes everything, in an order in which whatever may be refused is asked for before the
    /// program is started. What was made is taken back if a later step fails.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(mut setup: Setup) -> Result<Instance, StartError> {
        let xdp = setup.xdp.as_deref().map(|spec| xdp::load(spec, 1)).transpose();
        let xdp = xdp.map_err(|why| StartError::Other(format!("--xdp {why}")))?;
        let mut shard = Shard::new(seed().map_err(other("cannot read random numbers"))?);
        let (path, value) = SEND_BUFFER;
        shard.set_knob(path, value).map_err(other("its own setting is refused"))?;
        for Setting { path, value } in &setup.settings {
            shard.set_knob(path, value).map_err(|e| StartError::Other(e.to_string()))?;
        }
        let ring_rx = shard.net.knobs.ring_rx;
        setup.plan.ring_rx = u32::try_from(ring_rx).unwrap_or(u32::MAX);
        let (spawned, device) = ns::spawn(&setup.plan)?;
        if device.backend == Backend::Packet && ring_rx != Knobs::default().ring_rx {
            return Err(StartError::Other(NO_RING.to_owned()));
        }
        let mut drive = Drive::new(shard).map_err(other("cannot wait for events"))?;
        // After the namespace, whose helper removes the socket if this process is killed.
        let bound = ControlServer::bind(&setup.name, &mut |left| spawned.remove_at_end(left));
        let (control, notes) = match bound {
            Ok(control) => (Some(control), Vec::new()),
            Err(e) if setup.name_wanted => return Err(StartError::Other(e.to_string())),
            Err(e) => (None, vec![format!("`show` and `set` will not find this instance: {e}")]),
        };
        let why_fixed = match device.backend {
            Backend::Packet => NO_RING.to_owned(),
            _ => SetError::NotNow { path: RING_RX }.to_string(),
        };
        let mut device = open(device, &setup.plan)?;
        let ring_fixed = (!device.set_rx_ring(ring_rx as usize)).then_some(why_fixed);
        let offloads = offloads(&*device);
        let number = drive
            .add_device(device, |iface| Gateway::setup_iface(&setup.gateway, iface))
            .map_err(other("cannot watch the device"))?;
        for (hook, tree) in [("root", &setup.qdiscs.0), ("ingress", &setup.qdiscs.1)] {
            if let Some(tree) = tree {
                let place = format!("qdisc.{}.{hook}", setup.plan.device);
                let set = drive.shard.set_knob(&place, &tree.text());
                set.map_err(|e| StartError::Other(e.to_string()))?;
            }
        }
        if let Some((_, program)) = &xdp {
            xdp::attach(program, &mut drive.shard, number);
        }
        let gateway = Gateway::new(setup.gateway, &mut drive.shard, number, &drive.poller)
            .map_err(|e| StartError::Other(e.to_string()))?;
        let recorder = match &setup.pcap {
            None => None,
            Some(path) => Some(record(path, &mut drive).map_err(|e| {
                let path = path.display();
                StartError::Other(format!(
                    "cannot record to {path}: {e}: name a file you may write"
                ))
            })?),
        };
        let watch = |fd, token| drive.poller.add(fd, token, Interest::READ);
        watch(spawned.ready_fd(), NAMESPACE).map_err(other("cannot watch the program"))?;
        if let Some(control) = &control {
            watch(control.poll_fd(), CONTROL).map_err(other("cannot watch the control socket"))?;
        }
        super::harden().map_err(other("cannot give up rights that are no longer needed"))?;
        spawned.go().map_err(other("cannot start the program"))?;
        notes.iter().for_each(|note| eprintln!("linerate: {note}"));
        let mut host = Host::new(gateway, spawned, control, recorder, setup.name, offloads, notes);
        host.ring_fixed = ring_fixed;
        let device = setup.plan.device;
        host.xdp.extend(xdp.map(|(file, program)| Attached { device, file, program }));
        Ok(Instance { drive, host })
    }

    /// Runs until the program has ended and what it sent has been delivered; says how it ended.
    ///
    /// # Errors
    /// The device or the poller failed while the program was running.
    pub fn run(&mut self) -> io::Result<Exit> {
        let ended = self.run_loop();
        // While the namespace is there to tell.
        self.drive.count_losses();
        ended
    }

    fn run_loop(&mut self) -> io::Result<Exit> {
        loop {
            let turned = self.drive.turn(&mut self.host);
            if let Some(exit) = self.host.finished() {
                return Ok(exit);
            }
            match (turned, self.host.exit()) {
                // The device goes with the namespace.
                (Err(_), Some(exit)) => return Ok(exit),
                (turned, _) => turned?,
            }
        }
    }

    /// What carries the packets, for people.
    pub fn device(&self) -> &'static str {
        let ethernet = self.drive.devices().any(|d| d.caps().layer == Layer::Ethernet);
        if ethernet { "veth with packet socket" } else { "TUN" }
    }

    /// A reading of everything.
    pub fn snapshot(&self) -> Snapshot {
        self.host.snapshot(&self.drive.shard, 0)
    }

    /// Ends the program and all that it started, and the recording.
    pub fn end(&mut self) {
        self.host.end();
    }
}

/// A seed that nobody outside can guess: sequence numbers, ports and hash keys come from it.
fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}

/// Begins to record what passes between the device and the stack.
fn record(path: &Path, drive: &mut Drive) -> io::Result<Rc<RefCell<Recorder>>> {
    let mut recorder = Recorder::create(path)?;
    for device in drive.devices() {
        recorder.describe(device.name(), device.caps().layer == Layer::Ethernet)?;
    }
    let recorder = Rc::new(RefCell::new(recorder));
    drive.tap = Some(Recorder::tap(&recorder));
    Ok(recorder)
}

/// Takes over the device that the helper made.
fn open(device: ns::Device, plan: &Plan) -> Result<Box<dyn Device>, StartError> {
    let losses = Losses::new(Netdev::from_fd(device.netlink), device.index)
        .map_err(|e| StartError::Device(e.to_string()))?;
    if device.backend == Backend::Tun {
        let mut tun = tun::Tun::from_fd(device.fd, &tun::Config::new(&plan.device))
            .map_err(|e| StartError::Device(e.to_string()))?;
        tun.set_link(plan.mtu, None);
        tun.set_losses(losses);
        return Ok(Box::new(tun));
    }
    let far = device.far_mac.unwrap_or([2, 0, 0, 0, 0, 2]);
    let link = Link {
        index: device.far_index,
        name: plan.device.clone(),
        mtu: plan.mtu,
        mac: Some(gateway_mac(far, device.mac)),
        txqueuelen: 1000,
        up: true,
        running: true,
    };
    let config = packet::Config::default();
    let mut packet = packet::Packet::attach(device.fd, &link, config)
        .map_err(|e| StartError::Device(e.to_string()))?;
    packet.set_losses(losses);
    Ok(Box::new(packet))
}

/// The gateway's Ethernet address: the kernel at our end of the veth pair ignores what is addressed
/// to it, so it is neither that end's nor the program's.
fn gateway_mac(far: [u8; 6], near: Option<[u8; 6]>) -> [u8; 6] {
    let vary = |by: u8| {
        let [a, b, c, d, e, f] = far;
        // Locally administered, unicast.
        [(a | 2) & !1, b, c, d, e, f ^ by]
    };
    let (one, two) = (vary(1), vary(2));
    if Some(one) == near { two } else { one }
}

/// What the device takes on itself, in ethtool's words.
fn offloads(device: &dyn Device) -> Vec<String> {
    let caps = device.caps();
    let all = [
        (caps.rx_offload, "rx-gro-hw"),
        (caps.tx_csum, "tx-checksumming"),
        (caps.tso, "tx-tcp-segmentation"),
        (caps.uso, "tx-udp-segmentation"),
    ];
    all.iter().filter(|(on, _)| *on).map(|(_, name)| (*name).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_neither_end_of_the_pair() {
        let far = [0x0a, 1, 2, 3, 4, 5];
        for near in [None, Some([0x0a, 1, 2, 3, 4, 4]), Some([0x0a, 1, 2, 3, 4, 7])] {
            let mac = gateway_mac(far, near);
            assert!(mac != far && Some(mac) != near && mac[0] & 3 == 2);
        }
    }
}
