//! The sum of several shards' readings: what an instance with a shard for each queue shows.

use std::collections::BTreeMap;

use super::snapshot::{
    DeviceRow, DropRow, FLOWS_MAX, Memory, QueueRow, Snapshot, SocketTotals, StageRow,
};

impl Snapshot {
    /// One reading of all shards of an instance: counters, stages, drops, devices, memory and sockets
    /// added up, what a shard counts of its own kept beside ([`Snapshot::shards`]). Name, knobs and
    /// notes are those of the first; nothing at all if there is none.
    pub fn merge(parts: Vec<Snapshot>) -> Snapshot {
        let mut parts = parts.into_iter();
        let Some(mut all) = parts.next() else { return Snapshot::default() };
        for part in parts {
            all.uptime_ns = all.uptime_ns.max(part.uptime_ns);
            stages(&mut all.stages, part.stages);
            counters(&mut all.counters, part.counters);
            drops(&mut all.drops, part.drops);
            devices(&mut all.devices, part.devices);
            queues(&mut all.queues, part.queues);
            memory(&mut all.memory, &part.memory);
            totals(&mut all.totals, &part.totals);
            neighbours(&mut all.neighbours, part.neighbours);
            all.udp.extend(part.udp);
            all.tcp.extend(part.tcp);
            all.flows.extend(part.flows);
            all.shards.extend(part.shards);
            all.dev_queues.extend(part.dev_queues);
            all.qdiscs.extend(part.qdiscs);
            all.bql.extend(part.bql);
            all.filters.extend(part.filters);
        }
        all.flows.sort_by_key(|f| std::cmp::Reverse(f.up_bytes.saturating_add(f.down_bytes)));
        all.flows.truncate(FLOWS_MAX);
        all
    }
}

fn stages(all: &mut [StageRow], part: Vec<StageRow>) {
    for row in part {
        let Some(sum) = all.iter_mut().find(|s| s.name == row.name) else { continue };
        sum.entered += row.entered;
        sum.made += row.made;
        sum.merged += row.merged;
        sum.out += row.out;
        sum.taken += row.taken;
        sum.held += row.held;
        // Each shard has a queue of its own: the fullest of them is what was ever in one.
        sum.held_max = sum.held_max.max(row.held_max);
        sum.batches += row.batches;
        sum.ns += row.ns;
        sum.ns_pkts += row.ns_pkts;
        sum.missing += row.missing;
        for (reason, n) in row.dropped {
            *sum.dropped.entry(reason).or_default() += n;
        }
    }
}

type Groups = BTreeMap<String, BTreeMap<String, u64>>;

fn counters(all: &mut Groups, part: Groups) {
    for (group, names) in part {
        let sum = all.entry(group).or_default();
        for (name, n) in names {
            // Gauges wrap below zero where one shard counts down what another counted up.
            let value = sum.entry(name).or_default();
            *value = value.wrapping_add(n);
        }
    }
}

/// Each shard has a table of its own, in which mostly the same neighbours stand: the fullest counts.
fn neighbours(all: &mut Groups, part: Groups) {
    for (family, states) in part {
        let fullest = all.entry(family).or_default();
        if states.values().sum::<u64>() > fullest.values().sum() {
            *fullest = states;
        }
    }
}

fn drops(all: &mut Vec<DropRow>, part: Vec<DropRow>) {
    for row in part {
        let same = |d: &&mut DropRow| (&d.stage, &d.reason) == (&row.stage, &row.reason);
        match all.iter_mut().find(same) {
            Some(sum) => sum.packets += row.packets,
            None => all.push(row),
        }
    }
}

fn devices(all: &mut Vec<DeviceRow>, part: Vec<DeviceRow>) {
    for row in part {
        let Some(sum) = all.iter_mut().find(|d| d.name == row.name) else {
            all.push(row);
            continue;
        };
        sum.rx_packets += row.rx_packets;
        sum.rx_bytes += row.rx_bytes;
        sum.rx_errors += row.rx_errors;
        sum.rx_dropped += row.rx_dropped;
        sum.rx_missed += row.rx_missed;
        sum.multicast += row.multicast;
        sum.tx_packets += row.tx_packets;
        sum.tx_bytes += row.tx_bytes;
        sum.tx_errors += row.tx_errors;
        sum.tx_dropped += row.tx_dropped;
    }
}

fn queues(all: &mut [QueueRow], part: Vec<QueueRow>) {
    for row in part {
        let Some(sum) = all.iter_mut().find(|q| q.stage == row.stage) else { continue };
        sum.now += row.now;
        // The limit is each shard's own, so the fullest one is what it is to be compared with.
        sum.max = sum.max.max(row.max);
    }
}

fn memory(all: &mut Memory, part: &Memory) {
    all.small_out += part.small_out;
    all.small_max += part.small_max;
    all.large_out += part.large_out;
    all.large_max += part.large_max;
}

fn totals(all: &mut SocketTotals, part: &SocketTotals) {
    all.udp += part.udp;
    all.udp_mem_bytes += part.udp_mem_bytes;
    all.tcp += part.tcp;
    all.tcp_orphan += part.tcp_orphan;
    all.tcp_tw += part.tcp_tw;
    all.tcp_alloc += part.tcp_alloc;
    all.tcp_mem_pages += part.tcp_mem_pages;
    all.frag += part.frag;
    all.frag_mem_bytes += part.frag_mem_bytes;
    all.frag6_mem_bytes += part.frag6_mem_bytes;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Meta;
    use linerate_core::link::{Iface, L2};
    use linerate_core::shard::Shard;
    use linerate_core::table::count::id;
    use linerate_core::table::{Reason, Stage};
    use linerate_core::wire::Mac;

    fn part(cpu: u8) -> Snapshot {
        let mut shard = Shard::new(1);
        shard.net.cpu = cpu;
        let mut iface = Iface::new("veth0", L2::Ethernet, Mac([2; 6]), 1500);
        iface.rx_packets = 10 + u64::from(cpu);
        shard.add_iface(iface);
        let counts = &shard.net.counts;
        counts.inc_by(id::SoftnetProcessed, 100 + u64::from(cpu));
        counts.flow(Stage::Ip).enter(3);
        counts.flow(Stage::Ip).pass(2);
        counts.dropped(Stage::Ip, Reason::IpCsum);
        if cpu == 1 {
            counts.flow(Stage::Link).enter(1);
            counts.dropped(Stage::Link, Reason::VlanUnknown);
        }
        Snapshot::take(&shard, Meta { name: "t".into(), ..Meta::default() })
    }

    #[test]
    fn sums_are_sums_and_each_shard_keeps_its_own() {
        let all = Snapshot::merge(vec![part(0), part(1)]);
        assert_eq!(all.counter("softnet", "processed"), 201);
        let own: Vec<u64> = all.shards.iter().map(|s| s.counter("softnet", "processed")).collect();
        assert_eq!(own, [100, 101]);
        assert_eq!(all.shards.iter().map(|s| s.shard).collect::<Vec<_>>(), [0, 1]);
        let ip = all.stages.iter().find(|s| s.name == "Ip").expect("a stage");
        assert_eq!((ip.entered, ip.out, ip.drops()), (6, 4, 2));
        assert_eq!(all.drops.iter().map(|d| d.packets).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(all.devices.len(), 1, "one device, whatever queues it has");
        assert_eq!(all.devices[0].rx_packets, 21);
        assert!(all.unaccounted().is_empty());
        assert_eq!(Snapshot::merge(Vec::new()), Snapshot::default());
    }
}
