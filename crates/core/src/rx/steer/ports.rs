//! Which ports bring the answers home: a connection that we open may choose its port so that what
//! its peer sends arrives at the queue of this shard, and no packet of it ever has to be passed on.
//!
//! Linux: none; predictable RSS of DPDK (`rte_thash_get_complement`) is the same thought

use std::net::SocketAddr;

use super::hash::FlowKeys;
use super::rss::Rss;
use crate::shard::Net;

/// Ports that are tried for each shard there is: that all of them miss has a chance of e^-16.
const TRIES: usize = 16;

/// Chooses among ports by where the answers arrive.
pub struct Homeward {
    rss: Rss,
    dev: u8,
    proto: u8,
    tries: usize,
}

impl Net {
    /// How to choose a port of a flow that leaves by device `dev`; `None` where there is but one
    /// shard, and any port will do.
    pub(crate) fn homeward(&self, dev: u8, proto: u8) -> Option<Homeward> {
        let queues = self.steer.mesh.as_ref()?.shards();
        let tries = queues * TRIES;
        (queues > 1).then(|| Homeward { rss: self.rss(queues), dev, proto, tries })
    }
}

impl Homeward {
    /// Whether answers from `remote` to `local` arrive here, as far as the receive hash and the RPS
    /// map say; true as well when enough ports have been tried.
    pub(crate) fn suits(&mut self, net: &Net, local: SocketAddr, remote: SocketAddr) -> bool {
        if self.tries == 0 {
            return true;
        }
        self.tries -= 1;
        self.home_of(net, local, remote) == net.cpu
    }
    /// The shard at which they arrive.
    fn home_of(&self, net: &Net, local: SocketAddr, remote: SocketAddr) -> u8 {
        let keys = FlowKeys {
            src: remote.ip(),
            dst: local.ip(),
            ports: Some((remote.port(), local.port())),
            proto: self.proto,
        };
        let hash = net.steer.hash.of(&keys);
        let queue = self.rss.queue_of(hash);
        let map = net.steer.maps.get(self.dev as usize);
        map.and_then(|map| map.cpu(hash, queue)).unwrap_or(queue)
    }
}
