//! What a shard steers by: joining the mesh, devices that are added, knobs that are set.
//!
//! Linux: net/core/net-sysfs.c `store_rps_map`, `store_rps_dev_flow_table_cnt`;
//! net/core/sysctl_net_core.c `rps_sock_flow_sysctl`, `flow_limit_cpu_sysctl`

use std::sync::Arc;

use super::Mesh;
use super::limit::FlowLimit;
use super::rfs::DevFlows;
use super::rps::RpsMap;
use crate::shard::Shard;
use crate::table::value::Mask;

impl Shard {
    /// Makes this shard number `cpu` of `mesh`: it sends others mail and takes in theirs, and shares
    /// packet memory with them. Its knobs, and then its devices, are set before or after.
    pub fn join(&mut self, mesh: Arc<Mesh>, cpu: u8) {
        let net = &mut self.net;
        net.cpu = cpu;
        net.pool.share(Arc::clone(&mesh.depot));
        let seed = mesh.seed(net.steer.seed);
        net.steer.rekey(seed);
        mesh.homes.init(seed);
        self.tcp.share_secret(&mesh);
        if net.knobs.rps_sock_flow_entries > 0 {
            mesh.sock_flows.resize(net.knobs.rps_sock_flow_entries);
        }
        net.steer.online = mesh.online_mask();
        net.steer.mesh = Some(mesh);
        self.knobs_changed();
    }

    /// A device was added: it begins with `net.core.rps_default_mask`, or with what `rps_cpus` says
    /// for all.
    pub(crate) fn steer_dev_added(&mut self) {
        let knobs = &self.net.knobs;
        let mask =
            if knobs.rps_default_mask.0 != 0 { knobs.rps_default_mask } else { knobs.rps_cpus };
        let dev = self.net.ifaces.len() as u8 - 1;
        self.set_rps_cpus(dev, mask);
    }

    /// Sets the shards that the packets of one device are spread over (`rps_cpus` of its queue); the
    /// knob sets those of all devices.
    pub fn set_rps_cpus(&mut self, dev: u8, mask: Mask) {
        let net = &mut self.net;
        let mut maps = std::mem::take(&mut net.steer.maps);
        if maps.len() <= dev as usize {
            maps.resize_with(dev as usize + 1, RpsMap::default);
        }
        match net.progress() {
            Some(at) => maps[dev as usize].set(mask, &at),
            None => maps[dev as usize].ask(mask),
        }
        net.steer.maps = maps;
        self.steer_on();
    }
    /// The shards that the packets of a device are spread over.
    pub fn rps_cpus(&self, dev: u8) -> Mask {
        self.net.steer.maps.get(dev as usize).map_or(Mask(0), RpsMap::mask)
    }

    /// What follows from the knobs is made anew: after each change of one, or of the shards.
    pub(crate) fn knobs_changed(&mut self) {
        let net = &mut self.net;
        net.steer.hash.set(&net.knobs);
        let limited = net.knobs.flow_limit_cpu_bitmap.has(net.cpu as usize);
        if limited != net.steer.limit.is_some() {
            let new = || Box::new(FlowLimit::new(net.knobs.flow_limit_table_len));
            net.steer.limit = limited.then(new);
        }
        let mut devs = std::mem::take(&mut net.steer.dev_flows);
        devs.resize_with(net.ifaces.len(), DevFlows::default);
        let mut maps = std::mem::take(&mut net.steer.maps);
        if let Some(at) = net.progress() {
            at.mesh.set_limit(net.cpu, net.knobs.netdev_max_backlog);
            for (map, flows) in maps.iter_mut().zip(&mut devs) {
                map.set(map.mask(), &at);
                let followed = !flows.flows.is_empty();
                if flows.resize(net.knobs.rps_flow_cnt) && followed {
                    map.forget(&at);
                }
            }
        }
        (net.steer.maps, net.steer.dev_flows) = (maps, devs);
        if let Some(mesh) = &net.steer.mesh {
            net.steer.sock_version = mesh.sock_flows.version();
            net.steer.sock_flows = mesh.sock_flows.table();
        }
        self.steer_on();
    }
    fn steer_on(&mut self) {
        let steer = &mut self.net.steer;
        // Also where nobody's reader is known any more: flows go back in order.
        steer.follows = steer.dev_flows.iter().any(|f| !f.flows.is_empty());
        let spreads = steer.maps.iter().any(RpsMap::spreads);
        steer.on = steer.mesh.is_some() && (steer.follows || spreads);
    }
    /// A knob was set: those of the steering that mean more than their value.
    pub(crate) fn knob_set(&mut self, path: &str) {
        match path {
            "queues.rx.rps_cpus" => {
                let mask = self.net.knobs.rps_cpus;
                (0..self.net.ifaces.len() as u8).for_each(|dev| self.set_rps_cpus(dev, mask));
            }
            "net.core.rps_sock_flow_entries" => {
                if let Some(mesh) = &self.net.steer.mesh {
                    mesh.sock_flows.resize(self.net.knobs.rps_sock_flow_entries);
                }
            }
            "net.ipv4.tcp_fastopen_blackhole_timeout_sec" => self.net.fastopen_active_reset(),
            "queues.tx.xps_cpus" | "queues.tx.xps_rxqs" => self.xps_changed(),
            path if path.starts_with("rx-flow-hash.") || path == "rss.symmetric-xor" => {
                self.hash_changed();
            }
            _ => {}
        }
        self.knobs_changed();
    }

    /// Flows have other hashes from now on: nothing that was remembered by hash counts any more.
    fn hash_changed(&mut self) {
        let net = &mut self.net;
        let mut maps = std::mem::take(&mut net.steer.maps);
        if let Some(at) = net.progress() {
            let sends = |map: &&mut RpsMap| net.steer.follows || map.spreads();
            maps.iter_mut().filter(sends).for_each(|map| map.forget(&at));
        }
        net.steer.maps = maps;
        net.steer.dev_flows.iter_mut().for_each(DevFlows::clear);
    }

    /// Whether packets wait in the backlog, or mail of other shards:
    /// [`crate::path::process_backlog`] has something to do.
    #[inline]
    pub fn has_backlog(&self) -> bool {
        let net = &self.net;
        !net.backlog.is_empty() || !net.steer.parked.is_empty() || net.mail_waits()
    }
}
