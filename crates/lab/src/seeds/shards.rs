//! Hosts of several shards: what is drawn of them, and what holds for their directory of connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use linerate_core::rand::Rng;
use linerate_core::rx::steer::FlowKey;
use linerate_core::rx::steer::rss::INDIR_LEN;
use linerate_core::table::Counter;
use linerate_core::tcp::State;
use linerate_core::time::{MS, SEC, US};
use linerate_sim::{NodeId, World};

use super::scenario::{Event, one_in, pick};

/// A host of several shards.
#[derive(Clone, Debug)]
pub struct Shards {
    /// How many, at the beginning and at the most.
    pub n: usize,
    /// What a turn takes, and a wake-up, at the most, in nanoseconds.
    pub pace: (u64, u64),
    /// What is set from the beginning.
    pub knobs: Vec<(&'static str, String)>,
}

/// A map of RPS: any shards, those that are not there too, or none.
fn mask(rng: &mut Rng, n: usize) -> String {
    format!("{:x}", rng.below(1 << n))
}

impl Shards {
    fn new(rng: &mut Rng) -> Shards {
        let n = 2 + rng.below(3) as usize;
        let turn = pick(rng, &[US, 5 * US, 30 * US, 200 * US]);
        let wake = pick(rng, &[US, 10 * US, 60 * US]);
        let mut knobs: Vec<(&'static str, String)> = Vec::new();
        if one_in(rng, 2) {
            knobs.push(("queues.rx.rps_cpus", mask(rng, n)));
        }
        // Readers are followed, or nothing moves but by channels.
        if !one_in(rng, 4) {
            let (readers, flows) = (pick(rng, &["16", "256", "4096"]), pick(rng, &["4", "64"]));
            knobs.push(("net.core.rps_sock_flow_entries", readers.to_owned()));
            knobs.push(("queues.rx.rps_flow_cnt", flows.to_owned()));
        }
        let seldom = [
            ("features.ntuple", "1"),
            ("rss.weight", "1,3"),
            ("rss.symmetric-xor", "1"),
            ("rx-flow-hash.tcp4", "sd"),
            ("net.core.netdev_tstamp_prequeue", "0"),
            ("net.core.flow_limit_cpu_bitmap", "f"),
        ];
        for (path, value) in seldom {
            if one_in(rng, 5) {
                knobs.push((path, value.to_owned()));
            }
        }
        if one_in(rng, 6) {
            let most = pick(rng, &["4", "20", "60"]);
            knobs.push(("net.core.netdev_max_backlog", most.to_owned()));
        }
        Shards { n, pace: (turn, wake), knobs }
    }

    /// Something that changes where packets go or where connections live.
    fn event(&self, rng: &mut Rng, host: usize) -> Event {
        let n = self.n;
        let knob = |path, value: String| Event::Knob(host, path, value);
        match rng.below(20) {
            0..9 => Event::Reader(host, rng.below(64) as usize, rng.below(n as u64) as usize),
            9 | 10 => Event::Indir(host, rng.next_u64()),
            11..14 => knob("queues.rx.rps_cpus", mask(rng, n)),
            14 => {
                let entries = pick(rng, &["0", "16", "512", "512"]);
                knob("net.core.rps_sock_flow_entries", entries.to_owned())
            }
            15 => knob("queues.rx.rps_flow_cnt", pick(rng, &["0", "4", "128", "128"]).to_owned()),
            16 => match rng.below(4) {
                0 => knob("features.ntuple", rng.below(2).to_string()),
                1 => knob("rss.symmetric-xor", rng.below(2).to_string()),
                2 => knob("rx-flow-hash.tcp4", pick(rng, &["sd", "sdfn"]).to_owned()),
                _ => knob("rss.weight", pick(rng, &["equal", "1,3", "0,1", "5,1,1,1"]).to_owned()),
            },
            17 | 18 => Event::Channels(host, 1 + rng.below(n as u64) as usize),
            _ => {
                let long = pick(rng, &[100 * US, 2 * MS, 30 * MS]);
                Event::Stall(host, rng.below(n as u64) as usize, rng.below(long))
            }
        }
    }
}

/// Which of the hosts have several shards, and what happens to them when. One run in three has such a host.
pub(super) fn draw(rng: &mut Rng) -> ([Option<Shards>; 2], Vec<(u64, Event)>) {
    if !one_in(rng, 3) {
        return ([None, None], Vec::new());
    }
    let which = pick(rng, &[[true, false], [false, true], [true, true]]);
    let shards = which.map(|several| several.then(|| Shards::new(rng)));
    let mut events = Vec::new();
    for (host, shards) in shards.iter().enumerate() {
        let Some(shards) = shards else { continue };
        for _ in 0..1 + rng.below(2) {
            // All at the beginning, or over all of the run.
            let span = pick(rng, &[300 * MS, 4 * SEC, 20 * SEC, 100 * SEC]);
            for _ in 0..rng.below(100) {
                events.push((rng.below(span), shards.event(rng, host)));
            }
        }
    }
    (shards, events)
}

/// A host as it is drawn.
pub(super) fn add_host(world: &mut World, shards: Option<&Shards>) -> NodeId {
    match shards {
        Some(shards) => world.add_host(shards.n, shards.pace),
        None => world.add_node(),
    }
}

/// A table by chance.
pub(super) fn indir(seed: u64, queues: usize) -> [u8; INDIR_LEN] {
    let mut rng = Rng::new(seed);
    std::array::from_fn(|_| rng.below(queues as u64) as u8)
}

/// What all shards of a host count.
pub(super) fn count(world: &World, host: NodeId, counter: Counter) -> u64 {
    (0..world.shards(host)).map(|cpu| world.look(host, cpu).net.counts.get(counter)).sum()
}

/// No connection is known to two shards, and the directory says of each where it lives.
pub(super) fn check_homes(world: &World, host: NodeId) -> Result<(), String> {
    let Some(mesh) = world.mesh(host) else { return Ok(()) };
    let mut homes: BTreeMap<(SocketAddr, SocketAddr), usize> = BTreeMap::new();
    for cpu in 0..world.shards(host) {
        let rows = world.look(host, cpu).tcp_iter();
        for row in rows.filter(|row| row.state != State::Listen) {
            let key = FlowKey::new(row.local, row.remote);
            if let Some(other) = homes.insert((key.local, key.remote), cpu) {
                return Err(format!("is known to shards {other} and {cpu}: {row:?}"));
            }
            let home = mesh.homes.find(&key);
            if home != Some(cpu as u8) {
                return Err(format!("is on shard {cpu}, the directory says {home:?}: {row:?}"));
            }
        }
    }
    // What is in the mail is in the directory, too.
    if mesh.homes.len() < homes.len() {
        return Err(format!("{} connections, {} in the directory", homes.len(), mesh.homes.len()));
    }
    Ok(())
}

/// When all is over nobody is in the directory, and nothing in the mail.
pub(super) fn check_empty(world: &World, host: NodeId) -> Result<(), String> {
    let Some(mesh) = world.mesh(host) else { return Ok(()) };
    let (homes, away) = (mesh.homes.len(), mesh.homes.away());
    let waits = (0..world.shards(host)).filter(|cpu| world.look(host, *cpu).has_backlog()).count();
    if (homes, away, waits) != (0, 0, 0) {
        let what = format!("{homes} connections in the directory, {away} of them away");
        return Err(format!("{what}; {waits} shards have packets in their backlogs"));
    }
    Ok(())
}
