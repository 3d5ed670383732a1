//! What runs on top of the stack while a program runs: the gateway, the program's fate, the control
//! socket and the recording, all in the one loop.

use std::cell::RefCell;
use std::io;
use std::rc::Rc;

use linerate_core::shard::Shard;
use linerate_core::table::Knobs;
use linerate_core::time::{Instant, SEC};
use linerate_dev::drive::App;
use linerate_dev::poller::{Event, Poller};
use linerate_gateway::control::snapshot::{FLOWS_MAX, FlowRow};
use linerate_gateway::control::{self, ControlServer, Meta, Request, Response, Snapshot};
use linerate_gateway::gateway::Gateway;
use linerate_gateway::ns::{self, Exit, Spawned};

use super::pcap::Recorder;
use crate::xdp::{self, Attached};

/// The program's events.
pub const NAMESPACE: u64 = 1;
/// The control socket.
pub const CONTROL: u64 = 2;

/// How long the relays may take to deliver what the program sent before it ended, in nanoseconds.
const DELIVER_NS: u64 = SEC;
/// How long the kernel inside may take to hand over what the program sent before it ended.
const DRAIN_NS: u64 = 10 * SEC;

/// The application above the stack.
pub struct Host {
    gateway: Gateway,
    spawned: Spawned,
    control: Option<ControlServer>,
    recorder: Option<Rc<RefCell<Recorder>>>,
    name: String,
    offloads: Vec<String>,
    notes: Vec<String>,
    /// Why the receive ring of the device stays as it was made, if it does.
    pub ring_fixed: Option<String>,
    /// The eBPF programs of the device.
    pub xdp: Vec<Attached>,
    begun: Option<Instant>,
    exit: Option<Exit>,
    /// When waiting for deliveries ends, once the program has ended.
    deadline: Option<Instant>,
    /// Nothing more can come from inside.
    silent: bool,
    finished: bool,
}

impl Host {
    pub fn new(
        gateway: Gateway,
        spawned: Spawned,
        control: Option<ControlServer>,
        recorder: Option<Rc<RefCell<Recorder>>>,
        name: String,
        offloads: Vec<String>,
        notes: Vec<String>,
    ) -> Host {
        Host {
            gateway,
            spawned,
            control,
            recorder,
            name,
            offloads,
            notes,
            ring_fixed: None,
            xdp: Vec::new(),
            begun: None,
            exit: None,
            deadline: None,
            silent: false,
            finished: false,
        }
    }

    /// How the program ended, once that is so and what it sent was delivered.
    pub fn finished(&self) -> Option<Exit> {
        self.exit.filter(|_| self.finished)
    }

    /// How the program ended, once it has.
    pub fn exit(&self) -> Option<Exit> {
        self.exit
    }

    /// Ends the program and the recording.
    pub fn end(&mut self) {
        self.spawned.kill();
        if let Some(recorder) = &self.recorder {
            let lost = recorder.borrow_mut().finish();
            if lost > 0 {
                eprintln!("linerate: {lost} packets were not recorded");
            }
        }
    }

    /// A reading of the stack and of the gateway, with at most `sockets` sockets of each kind.
    pub fn snapshot(&self, shard: &Shard, sockets: usize) -> Snapshot {
        let mut snapshot = Snapshot::take(shard, self.meta(shard, sockets));
        self.complete(&mut snapshot);
        snapshot
    }

    fn meta(&self, shard: &Shard, sockets_max: usize) -> Meta {
        let ended = self.gateway.flows(shard).into_iter().filter(|f| f.closed.is_some());
        let row = |f: linerate_gateway::FlowRow| FlowRow {
            proto: "tcp".to_owned(),
            program: f.program,
            peer: f.remote,
            state: "ended".to_owned(),
            up_bytes: f.up_bytes,
            down_bytes: f.down_bytes,
            rtt_us: f.info.as_ref().map_or(0, |i| i.rtt.into()),
            cwnd: f.info.as_ref().map_or(0, |i| i.snd_cwnd.into()),
            retrans: f.info.as_ref().map_or(0, |i| i.total_retrans.into()),
        };
        Meta {
            name: self.name.clone(),
            pid: std::process::id(),
            uptime_ns: shard.net.now.since(self.begun.unwrap_or(shard.net.now)),
            offloads: self.offloads.clone(),
            notes: self.notes.clone(),
            flows: ended.map(row).take(FLOWS_MAX).collect(),
            sockets_max,
        }
    }

    /// Adds what the gateway counted: it lies beyond the stack's stages.
    fn complete(&self, snapshot: &mut Snapshot) {
        snapshot.xdp = xdp::rows(&self.xdp);
        let counts = self.gateway.counts();
        let gateway = snapshot.counters.entry("gateway".to_owned()).or_default();
        gateway.extend(counts.iter().map(|(count, n)| (count.name().to_owned(), n)));
        for denied in linerate_gateway::policy::Denied::ALL {
            let n = counts.denied(*denied);
            if n > 0 {
                gateway.insert(format!("denied: {}", denied.label()), n);
            }
        }
    }

    fn note(&mut self, text: String) {
        eprintln!("linerate: {text}");
        self.notes.push(text);
    }

    /// What happened to the program.
    fn handle_namespace(&mut self, now: Instant, poller: &Poller) -> io::Result<()> {
        while let Some(event) = self.spawned.next_event()? {
            match event {
                ns::Event::Note(text) => self.note(text),
                ns::Event::Exited(exit) => {
                    self.exit = Some(exit);
                    self.deadline = Some(now.plus(DRAIN_NS));
                }
                ns::Event::Drained => self.fall_silent(now),
                ns::Event::Interrupted(_) => self.finished = true,
                ns::Event::Gone => {
                    self.fall_silent(now);
                    // It is readable for ever now.
                    poller.delete(self.spawned.ready_fd())?;
                }
                // Started; or resumed, which the loop's clock takes care of.
                _ => {}
            }
        }
        Ok(())
    }

    fn fall_silent(&mut self, now: Instant) {
        if !self.silent {
            self.silent = true;
            self.deadline = Some(now.plus(DELIVER_NS));
        }
    }

    /// Answers `get` and `set` of the device's program.
    fn answer_program(&mut self, shard: &mut Shard, knob: &str, spec: Option<&str>) -> Response {
        let device = xdp::device_name(knob).unwrap_or_default();
        let names: Vec<&str> = shard.net.ifaces.iter().map(|i| i.name.as_str()).collect();
        if !names.contains(&device) {
            return Response::Error(xdp::no_device(device, &names));
        }
        let value = match spec.map(|spec| xdp::load_wanted(spec, 1)) {
            None => xdp::now(&self.xdp, device),
            Some(Err(why)) => return Response::Error(why),
            Some(Ok(loaded)) => {
                xdp::change(loaded.as_ref().map(|(_, program)| program), shard, device);
                xdp::note(&mut self.xdp, device, loaded)
            }
        };
        Response::Value { knob: knob.to_owned(), value, note: None }
    }

    fn serve_control(&mut self, shard: &mut Shard) {
        // Out of its place meanwhile, because the answers read the rest of us.
        let Some(mut control) = self.control.take() else { return };
        control.turn(&mut |request| match request {
            Request::Snapshot { sockets } => {
                let sockets = sockets.min(control::SOCKETS_MAX);
                Response::Snapshot(Box::new(self.snapshot(shard, sockets)))
            }
            Request::Set(knob, value) => match &self.ring_fixed {
                Some(why) if is_ring_rx(&knob) => Response::Error(why.clone()),
                _ if xdp::device_name(&knob).is_some() => {
                    self.answer_program(shard, &knob, Some(&value))
                }
                _ => xdp::answer(&self.xdp, &knob, Some(&value)).unwrap_or_else(|| {
                    control::answer(shard, Request::Set(knob, value), Meta::default)
                }),
            },
            Request::Get(knob) if xdp::device_name(&knob).is_some() => {
                self.answer_program(shard, &knob, None)
            }
            Request::Get(knob) => xdp::answer(&self.xdp, &knob, None)
                .unwrap_or_else(|| control::answer(shard, Request::Get(knob), Meta::default)),
            request => control::answer(shard, request, Meta::default),
        });
        self.control = Some(control);
    }
}

/// The knob that sizes receive rings.
pub const RING_RX: &str = "ring.rx";

/// Whether this is a name of that knob.
fn is_ring_rx(knob: &str) -> bool {
    Knobs::row(knob).is_ok_and(|row| row.path == RING_RX)
}

impl App for Host {
    fn turn(&mut self, shard: &mut Shard, poller: &Poller, ready: &[Event]) -> io::Result<bool> {
        let now = shard.net.now;
        self.begun.get_or_insert(now);
        for event in ready {
            match event.token {
                NAMESPACE => self.handle_namespace(now, poller)?,
                CONTROL => self.serve_control(shard),
                _ => {}
            }
        }
        let more = self.gateway.turn(shard, poller, ready)?;
        for note in self.gateway.take_notes() {
            self.note(note);
        }
        if let Some(recorder) = &self.recorder {
            recorder.borrow_mut().turn(now);
        }
        if self.exit.is_some() {
            let delivered = self.silent && self.gateway.tcp_flows() == 0;
            self.finished |= delivered || self.deadline.is_some_and(|at| now >= at);
        }
        Ok(more)
    }

    fn next_timer(&self) -> Option<Instant> {
        let recorder = self.recorder.as_ref().and_then(|r| r.borrow().next_timer());
        [self.gateway.next_timer(), recorder, self.deadline].into_iter().flatten().min()
    }
}
