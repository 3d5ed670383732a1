//! One queue more or one less, each with its shard, while everything runs (`ethtool -L combined`).
//!
//! A TAP or TUN gets further queues, AF_PACKET further sockets in their group. Of AF_XDP all queues of
//! the card are open from the start, and the shards share them: they change hands. Before a queue
//! goes, the table that distributes names it no more, where that is ours.

use linerate_core::shard::Shard;
use linerate_core::table::Counts;
use linerate_dev::device::Device;
use linerate_gateway::control::{Meta, Snapshot};
use std::sync::Arc;

use super::control;
use super::instance::{Up, lock};

impl Up {
    /// One shard more, with a queue of every device.
    ///
    /// # Errors
    /// A sentence; nothing has changed then.
    pub(super) fn add_shard(&mut self) -> Result<(), String> {
        let new = self.workers.shards();
        for device in 0..self.devices.len() {
            let queue = self.queue_for(device, new);
            match queue {
                Ok(queue) => self.offer(device, new, queue),
                Err(why) => {
                    self.withdraw(new);
                    return Err(why);
                }
            }
        }
        lock(&self.plan).config.queues = new + 1;
        let added = self.workers.add();
        if let Err(e) = added {
            lock(&self.plan).config.queues = new;
            self.withdraw(new);
            return Err(format!("channels.combined: no worker more: {e}"));
        }
        // Where the kernel distributes, it does so by itself.
        let _ = control::distribute(self, new + 1);
        Ok(())
    }

    /// A queue of a device for a shard that is to come.
    fn queue_for(&mut self, device: usize, shard: usize) -> Result<Box<dyn Device>, String> {
        if let Some(queue) = self.devices[device].open_queue(shard)? {
            return Ok(queue);
        }
        // From a shard that has several.
        let taken = self.workers.ask_all(move |drive, _| {
            let all: Vec<u8> =
                drive.queues().filter(|q| q.0 == device as u8).map(|q| q.1.queue()).collect();
            (all.len(), all.last().copied())
        });
        let most = taken.iter().enumerate().max_by_key(|(_, t)| t.0);
        let (giver, queue) = match most {
            Some((giver, (2.., Some(queue)))) => (giver, *queue),
            _ => {
                let opened = &self.devices[device];
                return Err(format!(
                    "channels.combined: {} has no queue more by {}: {}",
                    opened.name,
                    opened.backend.name(),
                    opened.why_no_more()
                ));
            }
        };
        let taken = self.workers.ask(giver, move |drive, _| {
            // What the device still holds is taken in before it goes.
            drive.remove_queue(device as u8, queue)
        });
        let taken = taken.map_err(|e| e.to_string())?;
        taken.ok_or_else(|| format!("{} has lost queue {queue}", self.devices[device].name))
    }

    /// Lays a queue ready for the shard that is to come.
    fn offer(&mut self, device: usize, shard: usize, queue: Box<dyn Device>) {
        let mut plan = lock(&self.plan);
        let list = &mut plan.queues[device];
        list.resize_with(shard + 1, || None);
        list[shard] = Some(queue);
    }

    /// Takes back what was laid ready, and gives it to the shards that there are.
    fn withdraw(&mut self, shard: usize) {
        for device in 0..self.devices.len() {
            let queue = lock(&self.plan).queues[device].get_mut(shard).and_then(Option::take);
            if let Some(queue) = queue.filter(|_| self.devices[device].shares_queues()) {
                // It was among the devices a moment ago: the poller takes it again.
                let _ = self.workers.ask(0, move |drive, _| drive.add_queue(device as u8, queue));
            }
        }
    }

    /// The last shard goes; its connections move to the others.
    ///
    /// # Errors
    /// A sentence.
    pub(super) fn remove_shard(&mut self) -> Result<(), String> {
        let last = self.workers.shards() - 1;
        let needs_table = self.devices.iter().any(|d| d.needs_table());
        // No packet may come to a queue that nobody reads.
        if control::distribute(self, last).is_err() && needs_table {
            return Err(
                "channels.combined: the last queue can not be taken out of the table that \
                        distributes: nothing was changed"
                    .to_owned(),
            );
        }
        let asked = self.workers.ask(last, |drive, _| {
            let queues: Vec<(u8, u8)> = drive.queues().map(|(n, dev)| (n, dev.queue())).collect();
            (Arc::clone(&drive.shard.net.counts), queues)
        });
        let (counts, queues) = asked.map_err(|e| e.to_string())?;
        lock(&self.plan).config.queues = last;
        let removed = self.workers.remove();
        self.remember(counts);
        for (device, queue) in queues {
            self.reopen(device, queue, last)?;
        }
        removed.map_err(|e| format!("channels.combined: the shard's last turns failed: {e}"))
    }

    /// A queue of a card that was a shard's which is gone is served by another one.
    fn reopen(&mut self, device: u8, queue: u8, shards: usize) -> Result<(), String> {
        let opened = &self.devices[usize::from(device)];
        if !opened.shares_queues() {
            return Ok(());
        }
        let again = opened.reopen(queue)?;
        let name = opened.name.clone();
        let heir = usize::from(queue) % shards;
        let added = self.workers.ask(heir, move |drive, _| drive.add_queue(device, again));
        let added = added.map_err(|e| e.to_string())?;
        added.map_err(|e| format!("queue {queue} of {name} is served by nobody: {e}"))
    }

    /// What a shard counted that is gone stays in the sums.
    fn remember(&mut self, counts: Arc<Counts>) {
        let mut shell = Shard::new(0);
        shell.net.counts = counts;
        let mut past = Snapshot::take(&shell, Meta::default());
        past.shards.clear();
        let all = self.past.take().into_iter().chain([past]).collect();
        self.past = Some(Snapshot::merge(all));
    }
}
