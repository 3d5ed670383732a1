//! What somebody else does to the interfaces while they are ours: more queues, another MTU, their end.

use linerate_dev::device::Device;
use linerate_dev::netdev::{Event, Netdev};
use linerate_dev::worker::Failure;

use super::instance::Up;

impl Up {
    /// Serves the queues that an interface has got (`ethtool -L`): each goes to a shard that there is.
    pub(super) fn follow_queues(&mut self) {
        for device in 0..self.devices.len() {
            match self.devices[device].grown() {
                Ok(new) if new.is_empty() => {}
                Ok(new) => self.serve_more(device, new),
                Err(why) => self.say(why),
            }
        }
    }

    fn serve_more(&mut self, device: usize, new: Vec<Box<dyn Device>>) {
        let (shards, name) = (self.workers.shards(), self.devices[device].name.clone());
        for queue in new {
            let number = queue.queue();
            let said = match self.serve(usize::from(number) % shards, device as u8, queue) {
                Ok(()) => format!("{name} has got queue {number}, which is served, too"),
                Err(why) => format!("queue {number} of {name} is served by nobody: {why}"),
            };
            self.say(said);
        }
    }

    /// Takes in what was heard of the interfaces.
    pub(super) fn follow_links(&mut self) {
        let mut events = Vec::new();
        let heard = self.links.as_mut().map(|links| links.take(&mut events));
        if heard.is_some_and(|heard| heard.is_err()) || events.contains(&Event::Missed) {
            // What was missed is looked up.
            let names = self.devices.iter().map(|d| d.name.clone());
            if let Ok(mut netdev) = Netdev::open() {
                events.extend(names.filter_map(|n| netdev.link(&n).ok()).map(Event::Link));
            }
        }
        for event in events {
            let Event::Link(link) = event else { continue };
            let Some(device) = self.devices.iter_mut().find(|d| d.name == link.name) else {
                continue;
            };
            if let Some(note) = device.follow_mtu(link.mtu) {
                self.tell_mtus();
                self.say(note);
            }
        }
    }

    /// Every shard sends no larger packets by a device than it takes: connections adapt, datagrams
    /// are cut.
    pub(super) fn tell_mtus(&self) {
        let mtus: Vec<u32> = self.devices.iter().map(|d| d.mtu).collect();
        self.workers.ask_all(move |drive, _| {
            for (iface, mtu) in drive.shard.net.ifaces.iter_mut().zip(&mtus) {
                iface.mtu = *mtu;
            }
        });
    }

    /// Why a worker stopped, in the words of whoever looks after the interfaces.
    pub(super) fn why(&self, failure: &Failure) -> String {
        let mut netdev = Netdev::open().ok();
        let mut gone = |name: &str| netdev.as_mut().is_some_and(|n| n.link(name).is_err());
        let names: Vec<&str> =
            self.devices.iter().map(|d| d.name.as_str()).filter(|name| gone(name)).collect();
        match names.is_empty() {
            true => failure.to_string(),
            false => format!(
                "{failure}: {} is gone, deleted or moved to another network namespace: start this \
                 instance anew when it is back",
                names.join(", ")
            ),
        }
    }
}
