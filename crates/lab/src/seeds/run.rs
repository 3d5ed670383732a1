//! A run from its begin to its end, and what it is held to on the way.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::rc::Rc;

use linerate_core::ip::route::Route;
use linerate_core::link::L2;
use linerate_core::sock::SocketId;
use linerate_core::sock::error::TcpError;
use linerate_core::table::Counter;
use linerate_core::tcp::{Connect, Listen, State};
use linerate_core::time::{Instant, SEC};
use linerate_sim::{NodeId, Passing, Port, World};

use super::ends::End;
use super::scenario::{Event, Scenario, Talk};
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
}

/// A run may take so long in virtual time: far more than the slowest that is drawn.
const LIMIT: u64 = 2 * 3600 * SEC;
/// After the end, all that holds memory is gone: TIME_WAIT, FIN_WAIT_2, orphans with all their tries.
const AFTERWARDS: u64 = 2400 * SEC;
/// No moment of virtual time has so many events.
const SAME_MOMENT: u32 = 20_000;
/// No timer is overdue for so long; the wheel's are late by an eighth of two minutes at the most.
const OVERDUE: u64 = 30 * SEC;
/// Memory that a socket may hold beyond its buffers, in bytes: a super-packet on each side, and the chunk
/// that is being filled.
const SLACK: u64 = 400_000;
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
    world: World,
    hosts: [NodeId; 2],
    addrs: [IpAddr; 2],
    /// Where the bottleneck begins in each direction, and the hosts' own devices.
    bottleneck: [Port; 2],
    listeners: [SocketId; 2],
    talks: Vec<(Talk, [End; 2], Instant)>,
    events: std::collections::VecDeque<(Instant, Event)>,
    watch: Rc<RefCell<Watch>>,
    /// One end may be denied what the other believes to have: cookies may be sent, or memory be short.
    denies: bool,
    overdue: BTreeMap<(usize, u16, u16), Instant>,
    ports: Vec<Port>,
    /// When timers were last looked at.
    looked_at: Instant,
    steps: u64,
    moment: (Instant, u32),
}

impl Run {
    pub fn new(scenario: &Scenario, mut hear: impl FnMut(&Passing<'_>) + 'static) -> Run {
        let s = scenario;
        let mut world = World::new(s.seed);
        let hosts = [world.add_node(), world.add_node()];
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
        for (host, knobs) in hosts.iter().zip(&s.knobs) {
            for (path, value) in knobs {
                // Not every knob that is drawn exists, or knows the value.
                let _ = world.node(*host).set_knob(path, value);
            }
        }
        let listen = Listen { port: PORT, backlog: s.backlog, ..Listen::default() };
        let listeners = hosts.map(|h| world.node(h).tcp_listen(listen).expect("a free port"));
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
        let events = s.events.iter().map(|(at, event)| (begin.plus(*at), *event)).collect();
        Run {
            world,
            hosts,
            addrs,
            bottleneck,
            listeners,
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

    fn fault(&self, what: impl Into<String>) -> Fault {
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

    fn unfinished(&self) -> String {
        let mut out = Vec::new();
        for (i, (_, ends, _)) in self.talks.iter().enumerate() {
            for (side, end) in ends.iter().enumerate().filter(|(_, end)| !end.closed) {
                let info = end.id.and_then(|id| self.world.stack(self.hosts[side]).tcp_info(id));
                let End { sent, read, shut, eof, .. } = end;
                let plan = end.plan.send;
                out.push(format!(
                    "connection {i} side {side}: sent {sent} of {plan}, read {read}, shut {shut}, eof {eof}, {info:?}"
                ));
            }
        }
        for host in self.hosts {
            let rows = self.world.stack(host).tcp_iter();
            let kept = rows.filter(|row| row.id.is_none() || row.state == State::Listen);
            out.extend(kept.map(|row| format!("{row:?}")));
        }
        out.join("; ")
    }

    /// When the applications, or the weather, want something next.
    fn alarm(&self) -> Instant {
        let now = self.world.now();
        let ends = self.talks.iter().flat_map(|(_, ends, _)| ends).map(|end| end.alarm(now));
        let begins = self.talks.iter().map(|(_, _, at)| *at).filter(|at| *at > now);
        let events = self.events.front().map(|(at, _)| *at);
        let alarm = ends.chain(begins).chain(events).min().unwrap_or(Instant::NEVER);
        // A host that pauses is asked again when it does not any more.
        alarm.max(now.plus(1))
    }

    fn act(&mut self) -> Result<(), Fault> {
        let now = self.world.now();
        while self.events.front().is_some_and(|(at, _)| *at <= now) {
            match self.events.pop_front() {
                Some((_, Event::Pause(host, ns))) => {
                    self.world.pause(self.hosts[host], now.plus(ns))
                }
                Some((_, Event::Link(way, link))) => {
                    self.world.set_link(self.bottleneck[way], link)
                }
                Some((_, Event::Mtu(mtu))) => self.world.set_mtu(self.bottleneck[0], mtu),
                None => {}
            }
        }
        self.open(now);
        self.accept();
        for i in 0..self.talks.len() {
            for side in 0..2 {
                if self.world.is_paused(self.hosts[side]) {
                    continue;
                }
                let (_, ends, _) = &mut self.talks[i];
                let other = (ends[1 - side].sent, ends[1 - side].shut);
                let shard = self.world.node(self.hosts[side]);
                let said = ends[side].act(shard, now, other);
                if let Err(why) = said {
                    return Err(self.fault(format!("connection {i}, side {side}: {why}")));
                }
                self.ended(i, side)?;
            }
        }
        for host in self.hosts {
            while self.world.node(host).poll_event().is_some() {}
        }
        Ok(())
    }

    /// Opens what is to begin.
    fn open(&mut self, now: Instant) {
        for (i, (talk, ends, at)) in self.talks.iter_mut().enumerate() {
            let mortal = talk.sides.iter().any(|side| side.abort.is_some()) || self.denies;
            let ports =
                [10_000 + i as u16, if talk.simultaneous { 20_000 + i as u16 } else { PORT }];
            for side in 0..2 {
                let begins = side == 0 || talk.simultaneous;
                // Who opens at once with another must not be late: its SYN would find nobody.
                let hosts =
                    if talk.simultaneous { &self.hosts[..] } else { &self.hosts[side..=side] };
                let paused = hosts.iter().any(|host| self.world.is_paused(*host));
                if *at > now || !begins || ends[side].id.is_some() || paused {
                    continue;
                }
                let local = Some((self.addrs[side], ports[side]).into());
                let remote = (self.addrs[1 - side], ports[1 - side]).into();
                let shard = self.world.node(self.hosts[side]);
                let connect = Connect { local, remote, user: 0 };
                let first = if talk.fast { ends[side].first() } else { &[] };
                let (id, n) = if first.is_empty() {
                    (shard.tcp_connect(connect).expect("a route, and ports of its own"), 0)
                } else {
                    let opened = shard.tcp_connect_fastopen(connect, &[], first);
                    opened.expect("a route, and ports of its own")
                };
                ends[side].sent = n as u64;
                ends[side].open(shard, id, mortal);
            }
        }
    }

    fn accept(&mut self) {
        for side in 0..2 {
            if self.world.is_paused(self.hosts[side]) {
                continue;
            }
            let shard = self.world.node(self.hosts[side]);
            while let Some(id) = shard.tcp_accept(self.listeners[side]) {
                let port = shard.tcp_addrs(id).map_or(0, |(_, remote)| remote.port());
                let talk = self.talks.get_mut(usize::from(port).wrapping_sub(10_000));
                match talk {
                    Some((talk, ends, _)) if side == 1 && ends[1].id.is_none() => {
                        let mortal =
                            talk.sides.iter().any(|side| side.abort.is_some()) || self.denies;
                        ends[1].open(shard, id, mortal);
                    }
                    _ => shard.tcp_abort(id),
                }
            }
        }
    }

    /// What an end that is over says of the connection: both agree.
    fn ended(&self, i: usize, side: usize) -> Result<(), Fault> {
        let (_, ends, _) = &self.talks[i];
        let (end, other) = (&ends[side], &ends[1 - side]);
        let Some(err) = end.failed else { return Ok(()) };
        let mortal = ends.iter().any(|end| end.plan.abort.is_some());
        if self.denied(err)
            || other.aborted
            || (mortal && other.failed.is_some())
            || (end.eof && end.shut)
        {
            return Ok(());
        }
        Err(self.fault(format!(
            "connection {i}, side {side} fails: {err}; {end:?}; the other: {other:?}; {}",
            self.unfinished()
        )))
    }

    /// Whether the other side may have denied a connection that it knew nothing of: a server that answers
    /// by cookies keeps nothing, and takes a segment that overtakes the first one for one of nobody. Or that
    /// a host has reset what nobody owned any more, for want of memory.
    fn denied(&self, err: TcpError) -> bool {
        matches!(err, TcpError::Reset | TcpError::Closed) && (self.by_cookies() || self.was_short())
    }
    fn was_short(&self) -> bool {
        let count =
            |host: &NodeId| self.world.stack(*host).net.counts.get(Counter::TcpExtTCPAbortOnMemory);
        self.hosts.iter().map(count).sum::<u64>() > 0
    }
    fn by_cookies(&self) -> bool {
        let counts = &self.world.stack(self.hosts[1]).net.counts;
        counts.get(Counter::TcpExtSyncookiesSent) > 0
    }

    /// What always holds.
    fn check(&mut self) -> Result<(), Fault> {
        self.steps += 1;
        let now = self.world.now();
        self.moment = if self.moment.0 == now { (now, self.moment.1 + 1) } else { (now, 0) };
        if self.moment.1 > SAME_MOMENT {
            return Err(self.fault("it spins: time does not go on"));
        }
        if let Some(what) = self.watch.borrow_mut().fault.take() {
            return Err(self.fault(what));
        }
        // What is late is looked at until it is not: between two looks it could be so twice.
        let late = !self.overdue.is_empty();
        if late || self.steps.is_multiple_of(16) || now.since(self.looked_at) > SEC {
            self.looked_at = now;
            self.check_timers(now)?;
        }
        if self.steps.is_multiple_of(64) {
            self.check_sums()?;
        }
        Ok(())
    }

    /// Nobody waits for what will not come: what is queued has a timer, and timers fire.
    fn check_timers(&mut self, now: Instant) -> Result<(), Fault> {
        for side in 0..2 {
            if self.world.is_paused(self.hosts[side]) {
                self.overdue.retain(|key, _| key.0 != side);
                continue;
            }
            let shard = self.world.stack(self.hosts[side]);
            if shard.tcp.is_dirty() {
                continue;
            }
            let mut late = None;
            for row in shard.tcp_iter() {
                let key = (side, row.local.port(), row.remote.port());
                let sends = matches!(
                    row.state,
                    State::Established
                        | State::CloseWait
                        | State::FinWait1
                        | State::Closing
                        | State::LastAck
                );
                if sends && row.tx_queue > 0 && !matches!(row.timer, 1 | 4) {
                    late = Some((key, "has data to send and no timer"));
                }
                if row.timer == 0 || row.timer_ms > 0 {
                    self.overdue.remove(&key);
                } else if now.since(*self.overdue.entry(key).or_insert(now)) > OVERDUE {
                    late = Some((key, "has a timer that does not fire"));
                }
            }
            if let Some((key, what)) = late {
                return Err(self.fault(format!("{key:?} {what}: {}", self.unfinished())));
            }
        }
        Ok(())
    }

    /// No packet is missing, and memory has its bounds.
    fn check_sums(&mut self) -> Result<(), Fault> {
        let missing = self.world.unaccounted();
        if !missing.is_empty() {
            return Err(self.fault(format!("packets are missing: {missing:?}")));
        }
        for side in 0..2 {
            let shard = self.world.stack(self.hosts[side]);
            // One that was reset and is not closed yet stands in no list, and has its buffers.
            let ours = self.talks.iter().filter_map(|(_, ends, _)| ends[side].id);
            let ids: BTreeSet<SocketId> =
                shard.tcp_iter().filter_map(|row| row.id).chain(ours).collect();
            let limits = ids.iter().filter_map(|id| shard.tcp_info(*id));
            let limits = limits.map(|info| u64::from(info.rcvbuf) + u64::from(info.sndbuf) + SLACK);
            let stat = shard.tcp_sockstat();
            let most = limits.sum::<u64>() + stat.orphan * (SLACK + (4 << 20));
            if stat.mem * 4096 > most {
                return Err(self
                    .fault(format!("host {side} holds {} pages, at most {most} bytes", stat.mem)));
            }
        }
        Ok(())
    }

    /// When all is over, nothing is left.
    fn afterwards(&mut self, until: Instant) -> Result<(), Fault> {
        while self.world.now() < until && self.world.step_by(self.alarm().min(until)) {
            self.act()?;
            self.check()?;
        }
        self.check_sums()?;
        for side in 0..2 {
            let shard = self.world.stack(self.hosts[side]);
            let rows: Vec<_> = shard.tcp_iter().filter(|row| row.state != State::Listen).collect();
            let stat = shard.tcp_sockstat();
            let pool = (shard.net.pool.small_out(), shard.net.pool.large_out());
            let left = (stat.mem, stat.orphan, stat.tw);
            if !rows.is_empty() || left != (0, 0, 0) || pool != (0, 0) {
                return Err(self.fault(format!(
                    "host {side} holds when all is over: pages, orphans, TIME_WAIT {left:?}, packets {pool:?}, {rows:?}"
                )));
            }
        }
        for port in &self.ports {
            let passed = self.world.passed(*port);
            if passed.under_way() != 0 {
                return Err(
                    self.fault(format!("{port:?} lost packets that it did not count: {passed:?}"))
                );
            }
        }
        Ok(())
    }
}

fn addrs_far(v6: bool) -> ([IpAddr; 2], u8) {
    addrs(v6, 2)
}

/// A router between two hosts, by its addresses towards each.
fn route(world: &mut World, router: NodeId, hosts: [NodeId; 2], via: [IpAddr; 2], v6: bool) {
    let any: IpAddr = if v6 { "::" } else { "0.0.0.0" }.parse().expect("an address");
    for (host, via) in hosts.into_iter().zip(via) {
        world.node(host).add_route(Route::via(any, 0, via, 0)).expect("a new route");
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
    }
}
