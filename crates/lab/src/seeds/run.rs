//! A run from its begin to its end, and what it is held to on the way.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

use linerate_core::ip::route::Route;
use linerate_core::link::L2;
use linerate_core::sock::SocketId;
use linerate_core::table::Counter;
use linerate_core::tcp::{Connect, Listen, State};
use linerate_core::time::{Instant, SEC};
use linerate_sim::{Move, NodeId, Passing, Place, Port, World};

use super::ends::End;
use super::scenario::{Event, Scenario, Talk};
use super::shards;
use super::wire::Watch;

/// What is wrong, and when it was seen.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Nanoseconds of the world.
    pub at: u64,
    /// In words.
    pub what: String,
}

/// What a run was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Bytes that were read.
    pub bytes: u64,
    /// Segments that the hosts sent.
    pub segments: u64,
    /// Connections that ended as planned.
    pub whole: u64,
    /// Connections that somebody ended early, as planned.
    pub aborted: u64,
    /// Nanoseconds of virtual time.
    pub ns: u64,
    /// Events of the world.
    pub steps: u64,
    /// Runs with a host of several shards.
    pub sharded: u64,
    /// Connections that moved from one shard to another.
    pub moves: u64,
}

/// A run may take so long in virtual time: far more than the slowest that is drawn.
const LIMIT: u64 = 8 * 3600 * SEC;
/// After the end, all that holds memory is gone: TIME_WAIT, FIN_WAIT_2, orphans with all their tries.
const AFTERWARDS: u64 = 2400 * SEC;
const PORT: u16 = 80;

fn addrs(v6: bool, subnet: u8) -> ([IpAddr; 2], u8) {
    let text = |host| match v6 {
        true => format!("fd00:{subnet}::{host}"),
        false => format!("10.0.{subnet}.{host}"),
    };
    ([1, 2].map(|host| text(host).parse().expect("an address")), if v6 { 64 } else { 24 })
}

/// The hosts, what is between them, and who talks.
pub(super) struct Run {
    pub(super) world: World,
    pub(super) hosts: [NodeId; 2],
    pub(super) addrs: [IpAddr; 2],
    /// Where the bottleneck begins in each direction, and the hosts' own devices.
    pub(super) bottleneck: [Port; 2],
    /// One on each shard.
    pub(super) listeners: [Vec<SocketId>; 2],
    /// Whether a host has several shards.
    sharded: bool,
    pub(super) talks: Vec<(Talk, [End; 2], Instant)>,
    pub(super) events: std::collections::VecDeque<(Instant, Event)>,
    pub(super) watch: Rc<RefCell<Watch>>,
    /// One end may be denied what the other believes to have: cookies may be sent, or memory be short.
    pub(super) denies: bool,
    pub(super) overdue: BTreeMap<(usize, usize, u16, u16), Instant>,
    pub(super) ports: Vec<Port>,
    /// When timers were last looked at.
    pub(super) looked_at: Instant,
    pub(super) steps: u64,
    pub(super) moment: (Instant, u32),
}

impl Run {
    pub fn new(scenario: &Scenario, mut hear: impl FnMut(&Passing<'_>) + 'static) -> Run {
        let s = scenario;
        let mut world = World::new(s.seed);
        let hosts = [0, 1].map(|side: usize| shards::add_host(&mut world, s.shards[side].as_ref()));
        for (host, (grain, ahead)) in hosts.into_iter().zip(s.clocks) {
            world.set_clock(host, grain, ahead);
        }
        let ([a, b], prefix) = addrs(s.v6, 1);
        let shape = (s.l2, s.mtu, prefix);
        let (addrs, bottleneck, ports) = match s.router {
            None => {
                let (pa, pb) =
                    world.join((hosts[0], a), (hosts[1], b), shape, (s.links[0], s.links[1]));
                ([a, b], [pa, pb], vec![pa, pb])
            }
            Some(qdiscs) => {
                let router = world.add_node();
                let ([c, d], _) = addrs_far(s.v6);
                let near = linerate_sim::Link { offload: s.links[0].offload, ..Default::default() };
                let (pa, pra) = world.join((hosts[0], a), (router, b), shape, (near, near));
                let far = (s.links[0], s.links[1]);
                let (prb, pb) = world.join((router, c), (hosts[1], d), shape, far);
                route(&mut world, router, hosts, [b, c], s.v6);
                for (port, spec) in [(prb, qdiscs[0]), (pra, qdiscs[1])] {
                    let path = format!("qdisc.sim{}.root", port.dev);
                    world.node(router).set_knob(&path, spec).expect("a sound specification");
                }
                ([a, d], [prb, pb], vec![pa, pra, prb, pb])
            }
        };
        for (side, host) in hosts.into_iter().enumerate() {
            for (path, value) in &s.knobs[side] {
                // Not every knob that is drawn exists, or knows the value.
                let _ = world.set_knob(host, path, value);
            }
            for (path, value) in s.shards[side].iter().flat_map(|shards| &shards.knobs) {
                world.set_knob(host, path, value).expect("a knob of the steering");
            }
        }
        let listen = Listen { port: PORT, backlog: s.backlog, ..Listen::default() };
        let listeners = hosts.map(|host| {
            let all = 0..world.shards(host);
            all.map(|cpu| world.shard(host, cpu).tcp_listen(listen).expect("a free port")).collect()
        });
        let cookies = s.backlog < 60 || s.knobs[1].contains(&("net.ipv4.tcp_syncookies", "2"));
        let short = s
            .knobs
            .iter()
            .flatten()
            .any(|(path, value)| *path == "net.ipv4.tcp_mem" && !value.ends_with("8000"));
        let watch = Rc::new(RefCell::new(Watch::default()));
        watch.borrow_mut().forgets = cookies;
        let (eyes, ip) = (Rc::clone(&watch), if s.l2 == L2::Ethernet { 14 } else { 0 });
        world.listen(move |frame| {
            if hosts.contains(&frame.from.node) {
                eyes.borrow_mut().look(frame, ip);
            }
            hear(frame);
        });
        let begin = world.now();
        let ends = |i: usize, talk: &Talk| {
            let [one, other] = &talk.sides;
            [End::new(one.clone(), 2 * i as u64), End::new(other.clone(), 2 * i as u64 + 1)]
        };
        let talks = s.talks.iter().enumerate();
        let talks = talks.map(|(i, t)| (t.clone(), ends(i, t), begin.plus(t.begin))).collect();
        let events = s.events.iter().map(|(at, event)| (begin.plus(*at), event.clone())).collect();
        Run {
            world,
            hosts,
            addrs,
            bottleneck,
            listeners,
            sharded: s.shards.iter().any(Option::is_some),
            talks,
            events,
            watch,
            denies: cookies || short,
            overdue: BTreeMap::new(),
            ports,
            looked_at: begin,
            steps: 0,
            moment: (begin, 0),
        }
    }

    pub(super) fn fault(&self, what: impl Into<String>) -> Fault {
        Fault { at: self.world.now().ns(), what: what.into() }
    }

    /// Runs to the end.
    ///
    /// # Errors
    /// What was found to be wrong.
    pub fn run(mut self) -> Result<Figures, Fault> {
        let limit = self.world.now().plus(LIMIT);
        loop {
            self.act()?;
            if self.over() {
                break;
            }
            if self.world.now() >= limit {
                return Err(self.fault(format!("it does not end: {}", self.unfinished())));
            }
            let alarm = self.alarm();
            if !self.world.step_by(alarm) {
                return Err(self.fault(format!("nothing will ever happen: {}", self.unfinished())));
            }
            self.check()?;
        }
        let ended = self.world.now();
        self.afterwards(ended.plus(AFTERWARDS))?;
        let ends = || self.talks.iter().flat_map(|(_, ends, _)| ends);
        let aborted = self.talks.iter().filter(|(_, ends, _)| ends.iter().any(|e| e.aborted));
        let aborted = aborted.count() as u64;
        Ok(Figures {
            bytes: ends().map(|end| end.read).sum(),
            segments: self.watch.borrow().segments,
            whole: self.talks.len() as u64 - aborted,
            aborted,
            ns: ended.ns(),
            steps: self.steps,
            sharded: self.sharded.into(),
            moves: self
                .hosts
                .map(|h| shards::count(&self.world, h, Counter::RfsFlowsMoved))
                .iter()
                .sum(),
        })
    }

    /// Whether all have done what they wanted.
    fn over(&self) -> bool {
        self.talks.iter().all(|(_, ends, _)| {
            // One that was given up may never have come to the other side.
            let gone = |i: usize| {
                let other = &ends[1 - i];
                let denies = self.by_cookies() || self.was_short();
                let early = other.closed && other.plan.early_close && denies;
                let never =
                    ends[i].id.is_none() && (other.aborted || other.failed.is_some() || early);
                ends[i].closed || never
            };
            gone(0) && gone(1)
        })
    }

    pub(super) fn unfinished(&self) -> String {
        let mut out = Vec::new();
        for (i, (_, ends, _)) in self.talks.iter().enumerate() {
            for (side, end) in ends.iter().enumerate().filter(|(_, end)| !end.closed) {
                let at = end.cpu.map(|cpu| self.world.look(self.hosts[side], cpu));
                let info = at.zip(end.id).and_then(|(shard, id)| shard.tcp_info(id));
                let End { cpu, sent, read, shut, eof, .. } = end;
                let plan = end.plan.send;
                out.push(format!(
                    "connection {i} side {side} on {cpu:?}: sent {sent} of {plan}, read {read}, shut {shut}, eof {eof}, {info:?}"
                ));
            }
        }
        for host in self.hosts {
            for cpu in 0..self.world.shards(host) {
                let rows = self.world.look(host, cpu).tcp_iter();
                let kept = rows.filter(|row| row.id.is_none() || row.state == State::Listen);
                out.extend(kept.map(|row| format!("{row:?}")));
            }
        }
        out.join("; ")
    }

    /// When the applications, or the weather, want something next.
    pub(super) fn alarm(&self) -> Instant {
        let now = self.world.now();
        let ends = self.talks.iter().flat_map(|(_, ends, _)| ends).map(|end| end.alarm(now));
        let begins = self.talks.iter().map(|(_, _, at)| *at).filter(|at| *at > now);
        let events = self.events.front().map(|(at, _)| *at);
        let alarm = ends.chain(begins).chain(events).min().unwrap_or(Instant::NEVER);
        // A host that pauses is asked again when it does not any more.
        alarm.max(now.plus(1))
    }

    pub(super) fn act(&mut self) -> Result<(), Fault> {
        let now = self.world.now();
        self.follow();
        while self.events.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, event)) = self.events.pop_front() {
                self.happens(now, event);
            }
        }
        self.open(now);
        self.accept();
        for i in 0..self.talks.len() {
            for side in 0..2 {
                let (_, ends, _) = &mut self.talks[i];
                let host = self.hosts[side];
                let Some(cpu) = ends[side].cpu.filter(|cpu| !self.world.is_busy(host, *cpu)) else {
                    continue;
                };
                let other = (ends[1 - side].sent, ends[1 - side].shut);
                let said = ends[side].act(self.world.shard(host, cpu), now, other);
                if let Err(why) = said {
                    return Err(self.fault(format!("connection {i}, side {side}: {why}")));
                }
                self.ended(i, side)?;
            }
        }
        for host in self.hosts {
            for cpu in 0..self.world.shards(host) {
                while self.world.shard(host, cpu).poll_event().is_some() {}
            }
        }
        Ok(())
    }

    /// Connections that moved have other names now, or none for a while.
    pub(super) fn follow(&mut self) {
        for side in 0..2 {
            while let Some(moved) = self.world.poll_move(self.hosts[side]) {
                let (Move::Left(was) | Move::Came { was, .. }) = moved;
                let mut ends = self.talks.iter_mut().map(|(_, ends, _)| &mut ends[side]);
                // In the mail it keeps the name that it had.
                let mine = |end: &&mut End| match moved {
                    Move::Left(Place { cpu, id }) => end.cpu == Some(cpu) && end.id == Some(id),
                    Move::Came { .. } => end.cpu.is_none() && end.left == Some(was),
                };
                let Some(end) = ends.find(mine) else { continue };
                match moved {
                    Move::Left(place) => (end.cpu, end.left) = (None, Some(place)),
                    Move::Came { is, .. } => {
                        (end.cpu, end.id, end.left) = (Some(is.cpu), Some(is.id), None);
                    }
                }
            }
        }
    }

    /// The weather, or who sets something.
    fn happens(&mut self, now: Instant, event: Event) {
        let world = &mut self.world;
        match event {
            Event::Pause(host, ns) => world.pause(self.hosts[host], now.plus(ns)),
            Event::Link(way, link) => world.set_link(self.bottleneck[way], link),
            Event::Mtu(mtu) => world.set_mtu(self.bottleneck[0], mtu),
            Event::Knob(host, path, value) => {
                world.set_knob(self.hosts[host], path, &value).expect("a knob of the steering");
            }
            Event::Indir(host, seed) => {
                let host = self.hosts[host];
                world.set_indir(host, shards::indir(seed, world.online(host)));
            }
            Event::Channels(host, n) => world.set_channels(self.hosts[host], n),
            Event::Stall(host, cpu, ns) => {
                world.pause_cpu(self.hosts[host], cpu, now.plus(ns));
            }
            Event::Reader(side, which, to) => {
                let ends = self.talks.iter().map(|(_, ends, _)| &ends[side]);
                let open: Vec<(usize, SocketId)> =
                    ends.filter(|end| !end.closed).filter_map(|end| end.cpu.zip(end.id)).collect();
                if let Some((cpu, id)) = open.get(which % open.len().max(1)) {
                    world.shard(self.hosts[side], *cpu).rps_record_sock_flow(*id, to as u8);
                }
            }
        }
    }

    /// Opens what is to begin.
    fn open(&mut self, now: Instant) {
        for (i, (talk, ends, at)) in self.talks.iter_mut().enumerate() {
            let mortal = talk.sides.iter().any(|side| side.abort.is_some()) || self.denies;
            let ports =
                [10_000 + i as u16, if talk.simultaneous { 20_000 + i as u16 } else { PORT }];
            for side in 0..2 {
                let begins = side == 0 || talk.simultaneous;
                // Any shard opens connections.
                let cpu = |host| i % self.world.online(host);
                // Who opens at once with another must not be late: its SYN would find nobody.
                let hosts =
                    if talk.simultaneous { &self.hosts[..] } else { &self.hosts[side..=side] };
                let paused = hosts.iter().any(|host| self.world.is_busy(*host, cpu(*host)));
                if *at > now || !begins || ends[side].id.is_some() || paused {
                    continue;
                }
                let local = Some((self.addrs[side], ports[side]).into());
                let remote = (self.addrs[1 - side], ports[1 - side]).into();
                let cpu = cpu(self.hosts[side]);
                let shard = self.world.shard(self.hosts[side], cpu);
                let connect = Connect { local, remote, user: 0 };
                let first = if talk.fast { ends[side].first() } else { &[] };
                let (id, n) = if first.is_empty() {
                    (shard.tcp_connect(connect).expect("a route, and ports of its own"), 0)
                } else {
                    let opened = shard.tcp_connect_fastopen(connect, &[], first);
                    opened.expect("a route, and ports of its own")
                };
                ends[side].sent = n as u64;
                ends[side].open(shard, (cpu, id), mortal);
            }
        }
    }

    fn accept(&mut self) {
        for side in 0..2 {
            for cpu in 0..self.listeners[side].len() {
                if !self.world.is_busy(self.hosts[side], cpu) {
                    self.accept_on(side, cpu);
                }
            }
        }
    }

    /// An accepted connection lives where it was accepted.
    fn accept_on(&mut self, side: usize, cpu: usize) {
        let shard = self.world.shard(self.hosts[side], cpu);
        while let Some(id) = shard.tcp_accept(self.listeners[side][cpu]) {
            let port = shard.tcp_addrs(id).map_or(0, |(_, remote)| remote.port());
            let talk = self.talks.get_mut(usize::from(port).wrapping_sub(10_000));
            match talk {
                Some((talk, ends, _)) if side == 1 && ends[1].id.is_none() => {
                    let mortal = talk.sides.iter().any(|side| side.abort.is_some()) || self.denies;
                    ends[1].open(shard, (cpu, id), mortal);
                }
                _ => shard.tcp_abort(id),
            }
        }
    }
}

fn addrs_far(v6: bool) -> ([IpAddr; 2], u8) {
    addrs(v6, 2)
}

/// A router between two hosts, by its addresses towards each.
fn route(world: &mut World, router: NodeId, hosts: [NodeId; 2], via: [IpAddr; 2], v6: bool) {
    let any: IpAddr = if v6 { "::" } else { "0.0.0.0" }.parse().expect("an address");
    for (host, via) in hosts.into_iter().zip(via) {
        for cpu in 0..world.shards(host) {
            world.shard(host, cpu).add_route(Route::via(any, 0, via, 0)).expect("a new route");
        }
    }
    for knob in ["net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"] {
        world.node(router).set_knob(knob, "1").expect("a switch");
    }
    for knob in ["net.ipv4.neigh.default.mcast_solicit", "net.ipv6.neigh.default.mcast_solicit"] {
        // Where one knob is for both families, the other is not there.
        let _ = world.node(router).set_knob(knob, "100");
    }
}

impl Figures {
    /// Those of another run besides.
    pub fn add(&mut self, other: &Figures) {
        self.bytes += other.bytes;
        self.segments += other.segments;
        self.whole += other.whole;
        self.aborted += other.aborted;
        self.ns += other.ns;
        self.steps += other.steps;
        self.sharded += other.sharded;
        self.moves += other.moves;
    }
}
