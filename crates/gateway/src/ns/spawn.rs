//! The parent's side until the program can start: starts the helper and receives the device.

use super::device::Made;
use super::helper;
use super::ids::{id_map, write_id_maps};
use super::message;
use super::plan::{Backend, Config, IdMap, Plan};
use super::refused::{Refused, Step};
use super::spawned::{Spawned, foreground_terminal};
use nix::sys::prctl;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

/// Smallest MTU of an interface with IPv6, in bytes (RFC 8200 section 5).
const MTU_V6_MIN: u32 = 1280;

/// Why the program could not be started. Each is one sentence that says what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SpawnError {
    /// The plan asks for something impossible.
    Plan(String),
    /// The kernel grants no namespaces.
    Namespaces(String),
    /// No device could be opened or made.
    Device(String),
    /// The device could not be configured.
    Network(String),
    /// Something else failed, with the system's own error.
    Other(String),
}

impl fmt::Display for SpawnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Plan(why)
        | Self::Namespaces(why)
        | Self::Device(why)
        | Self::Network(why)
        | Self::Other(why)) = self;
        f.write_str(why)
    }
}

impl std::error::Error for SpawnError {}

impl From<Refused> for SpawnError {
    fn from(Refused { step, why }: Refused) -> SpawnError {
        match step {
            Step::Namespaces => SpawnError::Namespaces(why),
            Step::Device => SpawnError::Device(why),
            Step::Network => SpawnError::Network(why),
            Step::Proc | Step::Other => SpawnError::Other(why),
        }
    }
}

/// The device whose other side is the program's network interface.
#[derive(Debug)]
pub struct Device {
    /// A TUN descriptor with `IFF_VNET_HDR`, or an `AF_PACKET` socket that is not bound yet. Both
    /// are non-blocking.
    pub fd: OwnedFd,
    /// Which of the two: never [`Backend::Auto`].
    pub backend: Backend,
    /// Index of the program's interface in its namespace.
    pub index: u32,
    /// Ethernet address of the program's interface; none for a TUN.
    pub mac: Option<[u8; 6]>,
    /// Index to bind the packet socket to, in the socket's own namespace; 0 for a TUN.
    pub far_index: u32,
    /// Ethernet address of our end of the veth pair. Use another one for the gateway: frames that
    /// are not addressed to our end are dropped by the kernel before it looks at them.
    pub far_mac: Option<[u8; 6]>,
    /// An rtnetlink socket in the program's namespace, to read what its interface counts. It
    /// keeps that namespace, as the descriptor of a TUN does.
    pub netlink: OwnedFd,
}

/// Makes the namespaces and the device, and readies the program, which starts at
/// [`Spawned::go`]. Call it from a thread that lives as long as the program should, before other
/// threads are started: the signals that are for the program are blocked in this thread and read
/// from a descriptor. Makes this process undumpable.
///
/// # Errors
/// [`SpawnError`], with a sentence for the user.
pub fn spawn(plan: &Plan) -> Result<(Spawned, Device), SpawnError> {
    check(plan)?;
    prctl::set_dumpable(false).map_err(|err| other("cannot make linerate undumpable", err))?;
    let ids = id_map(plan.user)?;
    match attempt(plan, ids, plan.pid_namespace) {
        Err(Refused { step: Step::Proc, why }) if plan.pid_namespace => {
            let (mut spawned, device) = attempt(plan, ids, false)?;
            spawned.note_first(format!(
                "{why}: there is no PID namespace, linerate kills the program's processes itself"
            ));
            Ok((spawned, device))
        }
        outcome => Ok(outcome?),
    }
}

pub(super) fn other(doing: &str, err: impl fmt::Display) -> SpawnError {
    SpawnError::Other(format!("{doing}: {err}"))
}

/// Refuses what the helpers could only fail at.
fn check(plan: &Plan) -> Result<(), SpawnError> {
    let refuse = |why: String| Err(SpawnError::Plan(why));
    let name = &plan.device;
    if plan.program.first().is_none_or(|name| name.is_empty()) {
        return refuse("there is no program to run: name one after `--`".into());
    }
    if name.is_empty()
        || name.len() > 15
        || name == "lo"
        || name.contains(['/', ' ', ':', '\0', '.'])
    {
        return refuse(format!("`{name}` cannot name an interface: 1 to 15 letters and digits"));
    }
    let min = if plan.v6.is_some() { MTU_V6_MIN } else { 68 };
    if !(min..=65535).contains(&plan.mtu) {
        return refuse(format!("MTU {} is out of range: {min} to 65535 bytes", plan.mtu));
    }
    if !(1..=65536).contains(&plan.ring_rx) {
        return refuse(format!("a ring of {} packets is out of range: 1 to 65536", plan.ring_rx));
    }
    if plan.v4.prefix > 32 || plan.v6.is_some_and(|v6| v6.prefix > 128) {
        return refuse("a prefix is longer than its address".into());
    }
    if plan.hostname.as_ref().is_some_and(|name| name.is_empty() || name.len() > 64) {
        return refuse("a host name has 1 to 64 bytes".into());
    }
    Ok(())
}

/// Starts the helper and talks with it until the program could start.
fn attempt(plan: &Plan, ids: IdMap, pid_namespace: bool) -> Result<(Spawned, Device), Refused> {
    let tun_path =
        plan.tun_path.to_str().map(str::to_owned).ok_or_else(|| {
            Refused::new(Step::Other, "the path of the clone device is not UTF-8")
        })?;
    let config = Config {
        ids,
        pid_namespace,
        backend: plan.backend,
        tun_path,
        device: plan.device.clone(),
        mtu: plan.mtu,
        ring_rx: plan.ring_rx,
        v4: plan.v4,
        v6: plan.v6,
        resolv_conf: plan.resolv_conf.clone(),
        hostname: plan.hostname.clone(),
        inherited: plan.inherited.clone(),
    };
    let failed = |doing| Refused::at::<io::Error>(Step::Other, doing);
    let pair = || {
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .map_err(Refused::at(Step::Other, "cannot make a socket pair"))
    };
    let (control, theirs) = pair()?;
    let (leftovers, removes) = pair()?;
    let terminal = foreground_terminal();
    let mut helper = start_helper(plan, theirs).map_err(failed("cannot start the helper"))?;
    let talked = talk(&config, control.as_fd(), removes, &helper);
    let (device, notes) = match talked {
        Ok(talked) => talked,
        Err(refused) => {
            drop((control, leftovers));
            let _ = helper.wait();
            return Err(refused);
        }
    };
    let mut spawned = Spawned::new(control, leftovers, helper, terminal)
        .map_err(failed("cannot watch the helper"))?;
    notes.into_iter().for_each(|note| spawned.note(note));
    Ok((spawned, device))
}

fn start_helper(plan: &Plan, socket: OwnedFd) -> io::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("linerate").arg(helper::ARGUMENT).arg("--").args(&plan.program);
    if let Some(env) = &plan.env {
        command.env_clear().envs(env.iter().map(|(name, value)| (name, value)));
    }
    command.stdin(Stdio::from(socket)).spawn()
}

/// The conversation before the start.
fn talk(
    config: &Config,
    control: BorrowedFd<'_>,
    removes: OwnedFd,
    helper: &Child,
) -> Result<(Device, Vec<String>), Refused> {
    let fields = config.encode();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    let failed = || Refused::at::<io::Error>(Step::Other, "cannot talk to the helper");
    message::send(control, "config", &fields, Some(removes.as_fd())).map_err(failed())?;
    drop(removes);
    let (mut device, mut netlink) = (None, None);
    let mut notes = Vec::new();
    loop {
        let Some(message) = message::recv(control, true).map_err(failed())? else {
            return Err(Refused::new(Step::Other, "the helper died before the program's start"));
        };
        match message.name.as_str() {
            "map-ids" => {
                write_id_maps(helper.id())?;
                message::send(control, "ids-mapped", &[], None).map_err(failed())?;
            }
            "device" => {
                let made = message.fd.and_then(|fd| Made::decode(&message.fields, fd));
                let made = made.ok_or_else(|| Refused::new(Step::Device, "no device came"))?;
                notes.extend(made.notes.iter().cloned());
                device = Some(made);
            }
            "netlink" => netlink = message.fd,
            "init" => {
                let stdin = io::stdin();
                message::send(control, "config", &fields, Some(stdin.as_fd())).map_err(failed())?;
            }
            "note" => notes.push(message.field(0).to_owned()),
            "ready" => {
                let both = device.zip(netlink);
                let (made, netlink) =
                    both.ok_or_else(|| Refused::new(Step::Device, "no device came"))?;
                let device = Device {
                    fd: made.fd,
                    backend: made.backend,
                    index: made.near.0,
                    mac: made.near.1,
                    far_index: made.far.0,
                    far_mac: made.far.1,
                    netlink,
                };
                return Ok((device, notes));
            }
            "failed" => {
                return Err(Refused::new(Step::from_name(message.field(0)), message.field(1)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Inherited;
    use super::*;

    #[test]
    fn impossible_plans_are_refused_before_anything_is_made() {
        let good = Plan::new(vec!["true".into()], Inherited::capture().unwrap());
        assert_eq!(check(&good), Ok(()));
        let bad = [
            Plan { program: Vec::new(), ..good.clone() },
            Plan { program: vec!["".into()], ..good.clone() },
            Plan { device: "a/b".into(), ..good.clone() },
            Plan { device: "sixteen-letters-".into(), ..good.clone() },
            Plan { mtu: 1279, ..good.clone() },
            Plan { mtu: 65536, ..good.clone() },
            Plan { ring_rx: 0, ..good.clone() },
            Plan { hostname: Some(String::new()), ..good.clone() },
        ];
        for plan in bad {
            assert!(matches!(check(&plan), Err(SpawnError::Plan(_))), "{plan:?}");
        }
        assert_eq!(check(&Plan { mtu: 68, v6: None, ..good }), Ok(()));
    }
}
