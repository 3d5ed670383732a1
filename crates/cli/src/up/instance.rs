//! A running `up`: its workers, its control socket, its signals.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use linerate_core::ip::route::{Route as CoreRoute, RouteKind};
use linerate_core::tap::Spec;
use linerate_dev::device::Device;
use linerate_dev::drive::Drive;
use linerate_dev::netdev::Watch;
use linerate_dev::poller::{Interest, Poller};
use linerate_dev::worker::Workers;
use linerate_dev::worker::topology::Topology;
use linerate_gateway::control::capture::Ports;
use linerate_gateway::control::{ControlServer, Snapshot, without_effect};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::backend::Opened;
use super::changes::Changes;
use super::config::{At, Config, Way};
use super::control::{self, Distribution};
use super::rights;
use super::serve::{Served, Services};
use crate::args::Setting;
use crate::xdp::{self, Attached};

/// Tokens of the main thread's poller.
const SIGNALS: u64 = 1;
const CONTROL: u64 = 2;
const LINKS: u64 = 3;

/// Notes that are kept for whoever asks later: the newest.
const NOTES_MAX: usize = 64;

/// How often devices are asked what they found out.
const ASK_NS: u64 = 1_000_000_000;

/// What a worker is built from; as it is when the worker is built.
pub(super) struct Plan {
    pub(super) config: Config,
    pub(super) served: Vec<Arc<Served>>,
    /// Queues that wait for their workers, by device.
    pub(super) queues: Vec<Vec<Option<Box<dyn Device>>>>,
    /// Knobs that a shard begins with, beside those that the workers remember.
    knobs: Vec<Setting>,
    /// Queueing disciplines by their places, as they are now.
    pub(super) qdiscs: BTreeMap<String, String>,
    /// The eBPF program of each device that has one.
    pub(super) xdp: Vec<Attached>,
    /// Changes of the rules at ingress, in their order.
    pub(super) rules: Vec<(String, String)>,
}

/// A running instance.
pub struct Up {
    pub(super) workers: Workers<Services>,
    pub(super) plan: Arc<Mutex<Plan>>,
    pub(super) devices: Vec<Opened>,
    pub(super) name: String,
    pub(super) begun: Instant,
    pub(super) notes: Vec<String>,
    pub(super) distribution: Distribution,
    pub(super) changes: Option<Changes>,
    /// What shards counted that are gone.
    pub(super) past: Option<Snapshot>,
    control: Option<ControlServer>,
    /// Captures that run, as far as is known.
    pub(super) captures: Vec<(Spec, Ports)>,
    /// Tells when somebody changes an interface, where that can be heard.
    pub(super) links: Option<Watch>,
    poller: Poller,
    signals: SignalFd,
}

/// Why it ended.
pub enum Ended {
    /// Somebody wanted it to.
    Signal,
    /// A worker can not go on.
    Failed(String),
}

pub(super) fn lock(plan: &Mutex<Plan>) -> std::sync::MutexGuard<'_, Plan> {
    // A worker that panics while it is built leaves the plan whole: it only took its queue.
    plan.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Up {
    /// Starts everything, in an order in which whatever may be refused is asked for first.
    ///
    /// # Errors
    /// A sentence that says what to do; nothing is left then.
    pub fn start(config: Config) -> Result<Up, String> {
        let name = config.name.clone();
        let name = name.unwrap_or_else(|| format!("up-{}", std::process::id()));
        let (mut changes, notes) = Changes::begin(&name);
        match Up::make(config, name, notes, &mut changes) {
            Ok(mut up) => {
                up.changes = Some(changes);
                Ok(up)
            }
            Err(why) => {
                let left = changes.undo();
                Err(std::iter::once(why).chain(left).collect::<Vec<_>>().join("; "))
            }
        }
    }

    fn make(
        config: Config,
        name: String,
        mut notes: Vec<String>,
        changes: &mut Changes,
    ) -> Result<Up, String> {
        // Before any thread is made: all of them leave signals to this one.
        let signals = signals().map_err(|e| format!("cannot receive signals: {e}"))?;
        let served = open_services(&config)?;
        let poller = Poller::new(8).map_err(|e| format!("cannot wait for events: {e}"))?;
        let watch = |fd: BorrowedFd<'_>, token| {
            let added = poller.add(fd, token, Interest::READ);
            added.map_err(|e| format!("cannot wait for events: {e}"))
        };
        watch(signals.as_fd(), SIGNALS)?;
        let control = match ControlServer::bind(&name, &mut |_| Ok(())) {
            Ok(control) => Some(control),
            Err(e) if config.name.is_some() => return Err(e.to_string()),
            Err(e) => {
                notes.push(format!("`show` and `set` will not find this instance: {e}"));
                None
            }
        };
        if let Some(control) = &control {
            watch(control.poll_fd(), CONTROL)?;
        }
        // Before the devices are looked at: nothing is missed between that and the first event.
        let links = Watch::open().ok();
        if let Some(links) = &links {
            watch(links.as_fd(), LINKS)?;
        }
        let xdp = load_xdp(&config)?;
        let seed = seed().map_err(|e| format!("cannot read random numbers: {e}"))?;
        let mut devices = Vec::new();
        for device in &config.devices {
            let mut opened = Opened::open(&config, device, changes, seed)?;
            notes.append(&mut opened.notes);
            devices.push(opened);
        }
        // Before the workers' threads are made: they take over what this one has.
        rights::drop_for(&devices)?;
        let queues = devices.iter_mut().map(|d| d.queues.drain(..).map(Some).collect()).collect();
        control::check_given(&config.knobs, &devices)?;
        let idle = |k: &(Setting, At)| without_effect(k.0.path, &k.0.value, config.queues);
        notes.extend(config.knobs.iter().filter_map(idle));
        let n = config.queues;
        let (workers, plan) = start_workers(config, served, queues, xdp, seed)?;
        workers.watch(poller.waker());
        let (begun, distribution) = (Instant::now(), Distribution::new(seed));
        let mut up = Up {
            workers,
            plan,
            devices,
            name,
            begun,
            notes,
            distribution,
            changes: None,
            past: None,
            control,
            captures: Vec::new(),
            links,
            poller,
            signals,
        };
        // Where the kernel distributes over the queues, it does so by itself.
        if n > 1 {
            let _ = control::distribute(&mut up, n);
        }
        Ok(up)
    }

    /// Runs until a signal or a failure ends it. `reload` is called at SIGHUP.
    ///
    /// # Errors
    /// The poller's.
    pub fn run(&mut self, reload: &mut dyn FnMut(&mut Up)) -> io::Result<Ended> {
        // Devices that find something out while packets come are asked for it now and then.
        let ask = self.devices.iter().any(Opened::shares_queues).then_some(ASK_NS);
        loop {
            let tokens: Vec<u64> = self.poller.wait(ask)?.map(|e| e.token).collect();
            self.follow_queues();
            self.learn_notes();
            if let Some(failure) = self.workers.failed().first() {
                return Ok(Ended::Failed(self.why(failure)));
            }
            if tokens.contains(&LINKS) {
                self.follow_links();
            }
            if tokens.contains(&SIGNALS) {
                while let Ok(Some(info)) = self.signals.read_signal() {
                    match Signal::try_from(info.ssi_signo as i32) {
                        Ok(Signal::SIGHUP) => reload(self),
                        Ok(_) => return Ok(Ended::Signal),
                        Err(_) => {}
                    }
                }
            }
            if tokens.contains(&CONTROL)
                && let Some(mut control) = self.control.take()
            {
                control.turn(&mut |request| control::answer(self, request));
                self.control = Some(control);
            }
        }
    }

    /// What runs now, for people: devices, how their frames come, addresses, services; and what was
    /// lost on the way.
    pub fn start_line(&self) -> String {
        let plan = lock(&self.plan);
        let mut out = format!("linerate up: {}", self.name);
        let shards = self.workers.shards();
        let plural = if shards == 1 { "" } else { "s" };
        out.push_str(&format!(": {shards} shard{plural}"));
        for (device, opened) in plan.config.devices.iter().zip(&self.devices) {
            let addrs: Vec<String> = device.addrs.iter().map(|(a, _)| a.to_string()).collect();
            let (name, backend, addrs) = (&opened.name, opened.backend.name(), addrs.join(" "));
            out.push_str(&format!("; {name} by {backend}, {addrs}"));
        }
        let services: Vec<String> = plan.config.services.iter().map(|s| s.to_string()).collect();
        if !services.is_empty() {
            out.push_str(&format!("; serves {}", services.join(" ")));
        }
        out.push('\n');
        for note in &self.notes {
            out.push_str(&format!("linerate up: {note}\n"));
        }
        out
    }

    /// What the devices found out since the start, for people.
    pub(super) fn learn_notes(&mut self) {
        for note in self.devices.iter().flat_map(Opened::take_notes).collect::<Vec<_>>() {
            self.say(note);
        }
    }

    /// Says something. What is true again stands in the list once, and last; so the list has an end.
    pub(super) fn say(&mut self, note: String) {
        if self.notes.last() != Some(&note) {
            eprintln!("linerate up: {note}");
        }
        self.notes.retain(|old| *old != note);
        self.notes.push(note);
        let most = self.notes.len().saturating_sub(NOTES_MAX);
        self.notes.drain(..most);
    }

    /// A reading of all shards.
    pub fn snapshot(&mut self, sockets: usize) -> Snapshot {
        control::snapshot(self, sockets)
    }

    /// Ends the workers, and puts back what was changed on the host; what failed, if anything did.
    pub fn stop(self) -> Result<(), String> {
        let Up { workers, devices, changes, control, .. } = self;
        let stopped = workers.stop().map_err(|e| e.to_string());
        drop((devices, control));
        let left = changes.map_or(Vec::new(), Changes::undo);
        match (stopped, left.is_empty()) {
            (Ok(()), false) => Err(left.join("; ")),
            (stopped, _) => stopped,
        }
    }
}

/// The programs of the devices; of each there is one, for all shards.
fn load_xdp(config: &Config) -> Result<Vec<Attached>, String> {
    let mut all = Vec::new();
    for device in &config.devices {
        let Some(spec) = &device.xdp else { continue };
        let (file, program) = xdp::load(spec, config.queues).map_err(|e| device.at.wrong(e))?;
        all.push(Attached { device: device.name.clone(), file, program });
    }
    Ok(all)
}

/// Starts a worker for each queue; what these are built from, and later ones will be.
fn start_workers(
    config: Config,
    served: Vec<Arc<Served>>,
    queues: Vec<Vec<Option<Box<dyn Device>>>>,
    xdp: Vec<Attached>,
    seed: u64,
) -> Result<(Workers<Services>, Arc<Mutex<Plan>>), String> {
    // Every knob before the first socket: sockets are sized by them.
    let knobs: Vec<Setting> = config.knobs.iter().map(|k| k.0.clone()).collect();
    let (n, cpus) = (config.queues, processors(&config));
    let qdiscs = qdiscs(&config);
    let rules = Vec::new();
    let plan = Plan { config, served, queues, knobs: knobs.clone(), qdiscs, xdp, rules };
    let plan = Arc::new(Mutex::new(plan));
    let for_build = Arc::clone(&plan);
    let workers = Workers::start(n, &cpus, seed, move |shard, drive| {
        build(&for_build, shard, drive).map_err(io::Error::other)
    });
    let workers = workers.map_err(|e| e.to_string())?;
    // From now on the workers know which knobs are set, also for shards to come.
    lock(&plan).knobs.clear();
    for Setting { path, value } in &knobs {
        workers.set_knob(path, value).map_err(|e| e.to_string())?;
    }
    Ok((workers, plan))
}

/// The disciplines that were asked for, by their places.
fn qdiscs(config: &Config) -> BTreeMap<String, String> {
    let all = config.devices.iter().flat_map(|device| device.qdiscs());
    all.filter_map(|(place, tree)| Some((place, tree?.text()))).collect()
}

/// The processors that workers are bound to: those asked for; else, for several, those nearest to
/// the first device, on its NUMA node if there are enough; a single worker goes where it may.
fn processors(config: &Config) -> Vec<usize> {
    if !config.cpus.is_empty() || config.queues == 1 {
        return config.cpus.clone();
    }
    let first = config.devices.first().map(|d| d.name.as_str());
    Topology::read().map_or_else(|_| Vec::new(), |all| all.cpus_for(first, config.queues))
}

/// Opens what the services need.
pub(super) fn open_services(config: &Config) -> Result<Vec<Arc<Served>>, String> {
    config.services.iter().cloned().map(Served::open).collect()
}

/// Builds one shard: devices, addresses, routes, services. Its thread needs no right for any of it.
fn build(plan: &Mutex<Plan>, shard: usize, drive: &mut Drive) -> Result<Services, String> {
    rights::drop_all()?;
    let mut plan = lock(plan);
    for Setting { path, value } in &plan.knobs {
        drive.shard.set_knob(path, value).map_err(|e| e.to_string())?;
    }
    let Plan { config, served, queues, qdiscs, xdp, rules, .. } = &mut *plan;
    for (device, queues) in config.devices.iter().zip(queues) {
        // A device may have more queues than there are shards: they are dealt out in turn.
        let (n, none) = (config.queues, || format!("{} has no queue {shard}", device.name));
        let dealt = queues.iter_mut().enumerate().filter(|(i, _)| i % n == shard);
        let mut mine = dealt.filter_map(|(_, queue)| queue.take());
        let first = mine.next().ok_or_else(none)?;
        let watched = |e| format!("cannot watch {}: {e}", device.name);
        let number = drive.add_device(first, |_| ()).map_err(watched)?;
        for queue in mine {
            drive.add_queue(number, queue).map_err(watched)?;
        }
        if let Some(attached) = xdp.iter().find(|a| a.device == device.name) {
            xdp::attach(&attached.program, &mut drive.shard, number);
        }
        for (addr, at) in &device.addrs {
            let added = drive.shard.add_addr(number, addr.addr, addr.len);
            added.map_err(|e| at.wrong(e))?;
        }
    }
    for (place, spec) in qdiscs.iter().chain(rules.iter().map(|(place, rule)| (place, rule))) {
        drive.shard.set_knob(place, spec).map_err(|e| e.to_string())?;
    }
    for route in &config.routes {
        drive.shard.add_route(core_route(route)).map_err(|e| route.at.wrong(e))?;
    }
    Services::new(&mut drive.shard, served)
}

/// The route as the stack has it.
pub(super) fn core_route(route: &super::config::Route) -> CoreRoute {
    let (dst, len) = route.to;
    match route.way {
        Way::Via(via, device) => CoreRoute::via(dst, len, via, device as u8),
        Way::Link(device) => CoreRoute::new(dst, len, RouteKind::Unicast, device as u8),
        Way::Refused(kind) => CoreRoute::new(dst, len, kind, 0),
    }
}

/// The signals that this program takes, as a descriptor.
fn signals() -> nix::Result<SignalFd> {
    let mut set = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|s| set.add(s));
    set.thread_block()?;
    SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// A seed that nobody outside can guess: sequence numbers, ports and hash keys come from it.
fn seed() -> io::Result<u64> {
    let mut bytes = [0; 8];
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, &mut bytes)?;
    Ok(u64::from_ne_bytes(bytes))
}
