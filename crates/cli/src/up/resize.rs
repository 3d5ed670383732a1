//! One queue more or one less, each with its shard, while everything runs (`ethtool -L combined`).
//!
//! A TAP or TUN gets further queues, AF_PACKET further sockets in their group. Of AF_XDP all queues of
//! the card are open from the start, and the shards share them: they change hands. Before a queue
//! goes, the table that distributes names it no more, where that is ours.

use linerate_core::shard::Shard;
use linerate_core::table::Counts;
use linerate_dev::device::Device;
use linerate_gateway::control::snapshot::DeviceRow;
use linerate_gateway::control::{Meta, Snapshot};
use std::sync::Arc;

use super::control;
use super::instance::{Up, lock};

/// A queue that a shard gave for one that is to come.
struct Lent {
    device: usize,
    queue: u8,
    giver: usize,
}

impl Up {
    /// One shard more, with a queue of every device.
    ///
    /// # Errors
    /// A sentence; every queue is where it was then, or the sentence says which is not.
    pub(super) fn add_shard(&mut self) -> Result<(), String> {
        // It may have queues by now that nobody has asked about yet.
        self.follow_queues();
        let new = self.workers.shards();
        let mut lent = Vec::new();
        let added = self.offer_all(new, &mut lent).and_then(|()| self.add_worker(new));
        if let Err(why) = added {
            let left = self.take_back(new, lent);
            return Err(std::iter::once(why).chain(left).collect::<Vec<_>>().join("; "));
        }
        // Where the kernel distributes, it does so by itself.
        let _ = control::distribute(self, new + 1);
        control::follow_captures(self, new);
        Ok(())
    }

    /// Lays a queue of every device ready for the shard that is to come.
    fn offer_all(&mut self, shard: usize, lent: &mut Vec<Lent>) -> Result<(), String> {
        for device in 0..self.devices.len() {
            let queue = self.queue_for(device, shard, lent)?;
            let mut plan = lock(&self.plan);
            let list = &mut plan.queues[device];
            list.resize_with(shard + 1, || None);
            list[shard] = Some(queue);
        }
        Ok(())
    }

    fn add_worker(&mut self, shard: usize) -> Result<(), String> {
        lock(&self.plan).config.queues = shard + 1;
        let added = self.workers.add();
        self.tell_mtus();
        added.map(drop).map_err(|e| {
            lock(&self.plan).config.queues = shard;
            format!("channels.combined: no worker more: {e}")
        })
    }

    /// A queue of a device for a shard that is to come.
    fn queue_for(
        &mut self,
        device: usize,
        shard: usize,
        lent: &mut Vec<Lent>,
    ) -> Result<Box<dyn Device>, String> {
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
        let taken =
            taken.ok_or_else(|| format!("{} has lost queue {queue}", self.devices[device].name))?;
        lent.push(Lent { device, queue, giver });
        Ok(taken)
    }

    /// There will be no such shard: what was laid ready for it goes back to whoever gave it, and what
    /// it took along is opened anew. What that does not bring back is told.
    fn take_back(&mut self, shard: usize, lent: Vec<Lent>) -> Vec<String> {
        let taken = |list: &mut Vec<Option<Box<dyn Device>>>| list.get_mut(shard)?.take();
        let mut laid: Vec<_> = lock(&self.plan).queues.iter_mut().map(taken).collect();
        let mut left = Vec::new();
        for Lent { device, queue, giver } in lent {
            let back = match laid.get_mut(device).and_then(Option::take) {
                Some(back) => Ok(back),
                None => self.devices[device].reopen(queue),
            };
            let served = back.and_then(|back| self.serve(giver, device as u8, back));
            let name = &self.devices[device].name;
            left.extend(
                served.err().map(|e| format!("queue {queue} of {name} is served by nobody: {e}")),
            );
        }
        left
    }

    /// Has a shard drive a queue.
    pub(super) fn serve(
        &self,
        shard: usize,
        device: u8,
        queue: Box<dyn Device>,
    ) -> Result<(), String> {
        let added = self.workers.ask(shard, move |drive, _| drive.add_queue(device, queue));
        added.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
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
        // What it received and sent up to its end, device by device.
        let (removed, devices) = self
            .workers
            .remove_with(|drive, _| Snapshot::take(&drive.shard, Meta::default()).devices);
        self.remember(counts, devices.unwrap_or_default());
        let removed = removed.map_err(|e| format!("the shard's last turns failed: {e}"));
        let mut wrong: Vec<String> = removed.err().into_iter().collect();
        for (device, queue) in queues {
            wrong.extend(self.reopen(device, queue, last).err());
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(format!("channels.combined: {}", wrong.join("; ")))
        }
    }

    /// A queue of a card that was a shard's which is gone is served by another one.
    fn reopen(&mut self, device: u8, queue: u8, shards: usize) -> Result<(), String> {
        let opened = &self.devices[usize::from(device)];
        if !opened.shares_queues() {
            return Ok(());
        }
        let again = opened.reopen(queue);
        let served = again.and_then(|q| self.serve(usize::from(queue) % shards, device, q));
        served.map_err(|e| format!("queue {queue} of {} is served by nobody: {e}", opened.name))
    }

    /// What a shard counted that is gone stays in the sums.
    fn remember(&mut self, counts: Arc<Counts>, devices: Vec<DeviceRow>) {
        let mut shell = Shard::new(0);
        shell.net.counts = counts;
        let mut past = Snapshot::take(&shell, Meta::default());
        past.shards.clear();
        past.devices = devices;
        let all = self.past.take().into_iter().chain([past]).collect();
        self.past = Some(Snapshot::merge(all));
    }
}
