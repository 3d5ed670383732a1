//! The loop as one of several: mail from other shards, and connections that come and go.
//!
//! Linux: net/core/dev.c `net_rps_send_ipi`, `rps_trigger_softirq`

use std::io;
use std::sync::Arc;
use std::time::Instant as Wall;

use linerate_core::path;
use linerate_core::rx::steer::Mesh;
use linerate_core::time::Instant;

use super::clock::LoopClock;
use super::{App, Drive};

impl Drive {
    /// The time of this loop counts from `start` on: that of all shards of an instance does, so that
    /// a connection finds the same time wherever it goes. Before anything is done with the shard.
    pub(crate) fn count_from(&mut self, start: Wall) {
        self.clock = LoopClock::Wall(start);
        self.last_now = Instant::from_ns(self.clock.ns());
        (self.last_work, self.shard.net.now) = (self.last_now, self.last_now);
    }

    /// Makes this the loop of shard `cpu` of the mesh: what other shards send wakes it.
    pub fn join(&mut self, mesh: &Arc<Mesh>, cpu: u8) {
        let waker = self.poller.waker();
        mesh.set_wake(cpu as usize, Box::new(move || waker.wake()));
        self.shard.join(Arc::clone(mesh), cpu);
    }

    /// Whether the loop may sleep as far as the other shards are concerned. From here on they wake
    /// it when they send something.
    #[inline]
    pub(super) fn mail_lets_sleep(&self) -> bool {
        let net = &self.shard.net;
        net.steer.mesh.as_ref().is_none_or(|mesh| mesh.may_sleep(net.cpu as usize))
    }

    /// The loop works: nobody needs to wake it.
    #[inline]
    pub(super) fn set_awake(&self) {
        let net = &self.shard.net;
        if let Some(mesh) = &net.steer.mesh {
            mesh.set_awake(net.cpu as usize);
        }
    }

    /// Rules that accelerated RFS wants go to their devices.
    #[inline]
    pub(super) fn set_rules(&mut self) {
        if self.shard.net.steer.mesh.is_none() {
            return;
        }
        while let Some(wanted) = self.shard.take_rule() {
            let slot = self.slots.iter_mut().find(|s| s.number == wanted.dev);
            let set = slot.map(|s| s.dev.set_rule(wanted.location, wanted.rule.as_ref()));
            self.shard.rule_done(&wanted, matches!(set, Some(Ok(()))));
        }
    }

    /// Connections whose readers are elsewhere leave, when what they sent has left.
    #[inline]
    pub(super) fn let_leave(&mut self, app: &mut dyn App) {
        if self.shard.rfs_pending() {
            self.shard.rfs_turn(&mut |socket| app.leave(socket));
        }
    }

    /// Connections that came go to the application.
    #[inline]
    pub(crate) fn hand_over_arrived(&mut self, app: &mut dyn App) {
        if self.shard.net.steer.mesh.is_none() {
            return;
        }
        while let Some(arrived) = self.shard.take_arrived() {
            if let Some(state) = arrived.app {
                app.arrive(&mut self.shard, arrived.socket, state);
            }
        }
    }

    /// Sends what connections and queues have ready, without taking anything in. Returns whether some of
    /// it still waits for room.
    ///
    /// # Errors
    /// A device is gone.
    pub fn flush_tx(&mut self) -> io::Result<bool> {
        path::transmit(&mut self.shard, &mut self.batch);
        let now = self.shard.net.now;
        self.slots.iter_mut().for_each(|slot| slot.blocked = false);
        self.net_tx_action(now)?;
        let mut txqs = self.shard.net.ifaces.iter().flat_map(|i| &i.txqs);
        Ok(txqs.any(|q| !q.qdisc.is_empty() || !q.ring.is_empty()))
    }
}
