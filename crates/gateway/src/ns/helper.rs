//! The helper: a single-threaded process that makes the namespaces and the device in them, starts
//! the init, reaps it, and removes what the parent must not leave behind.

use super::device;
use super::leftover::Leftovers;
use super::message::{self, Message};
use super::plan::{Config, IdMap};
use super::refused::{Refused, Settings, Step};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::sethostname;
use rustix::thread::{CapabilitySet, CapabilitySets};
use std::ffi::OsString;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitCode, Stdio};

/// First argument that makes our binary the helper.
pub(super) const ARGUMENT: &str = "__ns-helper";

/// Runs the helper to its end. `program` is what the init is to run.
pub(super) fn main(program: &[OsString]) -> ExitCode {
    let Ok(control) = std::io::stdin().as_fd().try_clone_to_owned() else {
        return ExitCode::from(2);
    };
    // Signals from the terminal are for the program: the helper has to outlive it to reap the init.
    let quiet = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), None);
    if quiet.and(prctl::set_name(c"linerate-ns")).is_err() {
        return ExitCode::from(2);
    }
    let config = match message::recv(control.as_fd(), true) {
        Ok(Some(Message { name, fields, fd: Some(leftovers) })) if name == "config" => {
            Config::decode(&fields).map(|config| (config, Leftovers::new(leftovers)))
        }
        // The parent is gone already.
        Ok(None) => return ExitCode::FAILURE,
        _ => None,
    };
    let Some((config, mut leftovers)) = config else {
        eprintln!("linerate: {ARGUMENT} is for linerate's own use");
        return ExitCode::from(2);
    };
    let started = prepare(&config, &control).and_then(|()| start_init(&config, &control, program));
    let code = match started {
        Ok(mut init) => {
            // Nobody is left to tell if this fails; the parent sees the socket close.
            let _ = attend(&mut init, &mut leftovers, config.pid_namespace);
            let _ = init.wait();
            ExitCode::SUCCESS
        }
        Err(Refused { step, why }) => {
            let _ = message::send(control.as_fd(), "failed", &[step.name(), &why], None);
            ExitCode::FAILURE
        }
    };
    leftovers.remove();
    code
}

/// Waits until the init or the parent is gone. A death signal from the parent would be simpler, and
/// would leave nobody to remove what the parent left.
fn attend(init: &mut Child, leftovers: &mut Leftovers, pid_namespace: bool) -> nix::Result<()> {
    let child = SigSet::from(Signal::SIGCHLD);
    let signals = SignalFd::with_flags(&child, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    while !matches!(init.try_wait(), Ok(Some(_))) {
        let mut fds = [
            PollFd::new(leftovers.socket(), PollFlags::POLLIN),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(err) => return Err(err),
        }
        while signals.read_signal()?.is_some() {}
        if !leftovers.receive() {
            if pid_namespace {
                // It ends by itself, unless something holds it up; without a PID namespace it has
                // to live to kill the others.
                let _ = init.kill();
            }
            break;
        }
    }
    Ok(())
}

/// Namespaces, then the device, which is sent to the parent.
fn prepare(config: &Config, control: &OwnedFd) -> Result<(), Refused> {
    let host_net = net_namespace()?;
    if config.ids != IdMap::Host {
        enter_user_namespace(config.ids, control)?;
    }
    let refused =
        |err| Refused::new(Step::Namespaces, Settings::read().other_namespaces(config.ids, err));
    let mut flags = CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS;
    flags.set(CloneFlags::CLONE_NEWUTS, config.hostname.is_some());
    unshare(flags).map_err(refused)?;
    // What follows changes links, addresses and routes: never those of the host.
    assert_ne!(net_namespace()?, host_net, "unshare(CLONE_NEWNET) left us in the host's network");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .map_err(refused)?;
    if let Some(name) = &config.hostname {
        sethostname(name).map_err(Refused::at(Step::Other, "cannot set the host name"))?;
    }
    let (made, netdev) = device::make(config)?;
    let fields = made.describe();
    let fields: Vec<&str> = fields.iter().map(String::as_str).collect();
    message::send(control.as_fd(), "device", &fields, Some(made.fd.as_fd()))
        .and_then(|()| message::send(control.as_fd(), "netlink", &[], Some(netdev.as_fd())))
        .map_err(Refused::at(Step::Other, "cannot pass the device on"))
}

/// Which network namespace this process is in.
fn net_namespace() -> Result<(u64, u64), Refused> {
    let meta = fs::metadata("/proc/self/ns/net")
        .map_err(Refused::at(Step::Namespaces, "cannot read /proc/self/ns/net"))?;
    Ok((meta.dev(), meta.ino()))
}

/// Makes the user namespace and its id maps.
fn enter_user_namespace(ids: IdMap, control: &OwnedFd) -> Result<(), Refused> {
    let refused = |err| Refused::new(Step::Namespaces, Settings::read().user_namespace(err));
    unshare(CloneFlags::CLONE_NEWUSER).map_err(refused)?;
    let write = |file: &str, text: String| {
        fs::write(format!("/proc/self/{file}"), text)
            .map_err(|err| refused(err.raw_os_error().map_or(Errno::EPERM, Errno::from_raw)))
    };
    match ids {
        IdMap::Host => {}
        IdMap::Own { uid, gid } => {
            write("setgroups", "deny".into())?;
            write("uid_map", format!("{uid} {uid} 1"))?;
            write("gid_map", format!("{gid} {gid} 1"))?;
        }
        IdMap::Sub { .. } => {
            // Only the setuid newuidmap and newgidmap may write ranges, from outside.
            let sent = message::send(control.as_fd(), "map-ids", &[], None);
            let answer = sent.and_then(|()| message::recv(control.as_fd(), true));
            match answer {
                Ok(Some(answer)) if answer.name == "ids-mapped" => {}
                _ => return Err(Refused::new(Step::Namespaces, "the id maps were not written")),
            }
        }
    }
    Ok(())
}

/// Starts the init, as PID 1 of a PID namespace if there is to be one.
fn start_init(
    config: &Config,
    control: &OwnedFd,
    program: &[OsString],
) -> Result<std::process::Child, Refused> {
    if config.pid_namespace {
        unshare(CloneFlags::CLONE_NEWPID).map_err(|err| {
            Refused::new(Step::Namespaces, Settings::read().other_namespaces(config.ids, err))
        })?;
    }
    if matches!(config.ids, IdMap::Own { .. }) {
        keep_capabilities()
            .map_err(Refused::at(Step::Namespaces, "cannot keep capabilities for the init"))?;
    }
    let socket = control
        .try_clone()
        .map_err(Refused::at(Step::Other, "cannot duplicate the control socket"))?;
    let init = Command::new("/proc/self/exe")
        .arg0("linerate")
        .arg(super::init::ARGUMENT)
        .arg("--")
        .args(program)
        .stdin(Stdio::from(socket))
        .spawn()
        .map_err(Refused::at(Step::Other, "cannot start the init"))?;
    message::send(control.as_fd(), "init", &[&init.id().to_string()], None)
        .map_err(Refused::at(Step::Other, "cannot report the init"))?;
    Ok(init)
}

/// Makes the capabilities of the user namespace survive the exec of the init, which does not run
/// as uid 0: they have to be inheritable and ambient.
fn keep_capabilities() -> rustix::io::Result<()> {
    let now = rustix::thread::capabilities(None)?;
    let all = now.permitted;
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: all, permitted: all, inheritable: all },
    )?;
    for capability in all.iter().filter(|one| one.bits().is_power_of_two()) {
        rustix::thread::configure_capability_in_ambient_set(capability, true)?;
    }
    Ok(())
}

/// Takes away what [`keep_capabilities`] kept, so that nothing of it reaches the program.
pub(super) fn drop_capabilities() -> rustix::io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    rustix::thread::set_capabilities(
        None,
        CapabilitySets { effective: none, permitted: none, inheritable: none },
    )
}
