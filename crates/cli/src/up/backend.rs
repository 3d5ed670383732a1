//! Opens the queues of an interface by the best way that works, and says what was lost on the way.

use std::fs;
use std::net::IpAddr;

use linerate_core::rx::steer::hash::netdev_rss_key;
use linerate_core::rx::steer::rss::Rss;
use linerate_core::table::Knobs;
use linerate_dev::device::{Device, Layer};
use linerate_dev::journal::Change;
use linerate_dev::netdev::{Exposure, Link, Losses, Netdev};
use linerate_dev::packet::ring::{self, Fanout};
use linerate_dev::tun;
use linerate_dev::xdp::{self, Filter};

use super::args::DevBackend;
use super::changes::Changes;
use super::config::{self, Config};

/// An interface with its queues, opened.
pub struct Opened {
    /// Its name: the kernel's.
    pub name: String,
    /// How frames reach us.
    pub backend: DevBackend,
    /// What a reader of the start line should know: ways that did not work, and what that costs.
    pub notes: Vec<String>,
    /// Its queues, in order, until the workers take them.
    pub queues: Vec<Box<dyn Device>>,
    /// It was made by us, and goes with us.
    pub made: bool,
    /// The largest packet that it takes, in bytes, as far as that is known.
    pub mtu: u32,
    /// The interface's own: when it was opened, which its packet memory is for, and as last heard.
    opened_mtu: u32,
    heard_mtu: u32,
    /// How it is driven on.
    more: More,
}

/// What opens further queues, and decides which packets are ours.
enum More {
    /// All queues of the card are open; one that was closed can be opened again. Those that came
    /// later have memory of their own.
    Xdp(Vec<xdp::Queues>),
    /// The group of sockets takes more.
    Packet(Box<ring::Group>),
    /// A descriptor for each queue that is not one of the interface's: the next is opened from it.
    /// None where the interface was made for one queue only.
    Tun(Vec<tun::Tun>),
}

/// What an interface is to be opened for.
struct Wanted<'a> {
    config: &'a Config,
    device: &'a config::Device,
    changes: &'a mut Changes,
    seed: u64,
}

impl Opened {
    /// Sets how many packets its receive ring holds, while it is open; false where that has its size
    /// for life. That of a TAP or TUN is the transmit queue of the kernel's end.
    ///
    /// # Errors
    /// A sentence; the ring is as before then.
    pub fn set_rx_ring(&self, pkts: u32, changes: &mut Changes) -> Result<bool, String> {
        if !matches!(self.backend, DevBackend::Tap | DevBackend::Tun) {
            return Ok(false);
        }
        if self.made {
            let mut netdev = Netdev::open().map_err(|e| e.to_string())?;
            let link = netdev.link(&self.name).map_err(|e| e.to_string())?;
            netdev.set_txqueuelen(link.index, pkts).map_err(|e| e.to_string())?;
        } else {
            changes.make(&Change::TxQueueLen { ifname: self.name.clone(), pkts })?;
        }
        Ok(true)
    }

    /// Opens the device with the queues that the configuration wants.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn open(
        config: &Config,
        device: &config::Device,
        changes: &mut Changes,
        seed: u64,
    ) -> Result<Opened, String> {
        let mut wanted = Wanted { config, device, changes, seed };
        let netdev = Netdev::open().map_err(|e| e.to_string())?;
        match device.backend {
            DevBackend::Tun | DevBackend::Tap => wanted.tun(device.backend, netdev),
            DevBackend::AfPacket => wanted.packet(netdev),
            DevBackend::AfXdp => wanted.xdp(netdev),
            DevBackend::Auto => wanted.auto(netdev),
        }
    }

    /// The addresses or services have changed: what is redirected to us, or kept from the kernel,
    /// follows.
    ///
    /// # Errors
    /// A sentence: there are too many, or the kernel has one of the addresses itself.
    pub fn set_filter(
        &self,
        config: &Config,
        device: &config::Device,
        changes: &mut Changes,
    ) -> Result<(), String> {
        let name = &self.name;
        let mut netdev = Netdev::open().map_err(|e| e.to_string())?;
        if self.backend == DevBackend::AfPacket {
            return ignore(&mut netdev, name, &addrs(device), changes).map(drop);
        }
        let Some(attached) = self.attached() else { return Ok(()) };
        let filter = filter(&mut netdev, config, device)?;
        attached.set_filter(&filter).map_err(|e| format!("{name}: what is ours: {e}"))
    }

    /// What became known about the interface since this was last asked.
    pub fn take_notes(&self) -> Vec<String> {
        self.attached().map_or(Vec::new(), |attached| attached.take_notes())
    }

    /// The XDP program, if there is one.
    fn attached(&self) -> Option<&xdp::Attached> {
        let More::Xdp(all) = &self.more else { return None };
        all.first().map(|queues| &**queues.attached())
    }

    /// Queues that the interface got since it was last asked, opened: what comes by one that nobody
    /// serves would go to the kernel.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn grown(&mut self) -> Result<Vec<Box<dyn Device>>, String> {
        let More::Xdp(all) = &mut self.more else { return Ok(Vec::new()) };
        let Some(last) = all.last() else { return Ok(Vec::new()) };
        let (begin, Ok(has)) = (last.range().end, last.has()) else { return Ok(Vec::new()) };
        let end = has.min(config::QUEUES_MAX as u32);
        if begin >= end {
            return Ok(Vec::new());
        }
        let (more, opened) = last.grow(begin..end).map_err(|e| {
            format!(
                "{} receives by {has} queues now, and {begin} of them are served: what is for us and \
                 comes by the others goes to the kernel: {e}",
                self.name
            )
        })?;
        all.push(more);
        Ok(opened.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect())
    }

    /// Somebody may have changed the interface: a sentence if its MTU is another one now.
    pub fn follow_mtu(&mut self, mtu: u32) -> Option<String> {
        if std::mem::replace(&mut self.heard_mtu, mtu) == mtu {
            return None;
        }
        let most = if self.shares_queues() { self.opened_mtu } else { 65_535 };
        self.mtu = mtu.min(most);
        let name = &self.name;
        Some(match mtu > most {
            true => format!(
                "{name} has an MTU of {mtu} now: the packet memory of AF_XDP is for {most}, which \
                 stays the largest packet; start this instance anew for larger ones"
            ),
            false => format!("{name} has an MTU of {mtu} now"),
        })
    }

    /// Queue number `queue`, where the interface can have one more; `None` where it can not.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn open_queue(&mut self, queue: usize) -> Result<Option<Box<dyn Device>>, String> {
        let twins = match &mut self.more {
            More::Xdp(_) => return Ok(None),
            More::Packet(group) => {
                let opened = group.open_queue(queue as u8).map_err(|e| e.to_string())?;
                return Ok(Some(Box::new(opened)));
            }
            More::Tun(twins) => twins,
        };
        while let Some(last) = twins.last().filter(|_| twins.len() < queue) {
            let mut twin = last.open_queue().map_err(|e| e.to_string())?;
            twin.set_attached(false).map_err(|e| e.to_string())?;
            twins.push(twin);
        }
        let Some(before) = queue.checked_sub(1).and_then(|at| twins.get(at)) else {
            return Ok(None);
        };
        let opened = before.open_queue().map_err(|e| e.to_string())?;
        Ok(Some(Box::new(opened)))
    }

    /// Why [`Opened::open_queue`] has none.
    pub fn why_no_more(&self) -> &'static str {
        match self.more {
            More::Xdp(_) => {
                "every queue of the interface has its shard; `ethtool -L` may give it more"
            }
            More::Packet(_) => "there are at most 64",
            More::Tun(_) => "it was made for one queue (`ip tuntap add ... multi_queue`)",
        }
    }

    /// Whether all queues of the interface are served, however many shards there are.
    pub fn shares_queues(&self) -> bool {
        matches!(self.more, More::Xdp(_))
    }

    /// Whether a queue that nobody reads would still get packets, unless our table leaves it out.
    pub fn needs_table(&self) -> bool {
        matches!(self.more, More::Packet(_))
    }

    /// A queue of the card that was closed.
    ///
    /// # Errors
    /// The kernel's, as a sentence.
    pub fn reopen(&self, queue: u8) -> Result<Box<dyn Device>, String> {
        let More::Xdp(all) = &self.more else {
            return Err(format!("{}: its queues are not shared", self.name));
        };
        let its = |queues: &&xdp::Queues| queues.range().contains(&queue.into());
        let lost = || format!("{} has no queue {queue}", self.name);
        let queues = all.iter().find(its).ok_or_else(lost)?;
        let opened = queues.open_queue(queue.into()).map_err(|e| e.to_string())?;
        Ok(Box::new(opened))
    }
}

impl Wanted<'_> {
    /// The best that works: af_xdp, else af_packet; an interface that does not exist is made.
    fn auto(&mut self, mut netdev: Netdev) -> Result<Opened, String> {
        let name = self.device.name.clone();
        let Ok(link) = netdev.link(&name) else {
            let mut opened = self.tun(DevBackend::Tap, netdev)?;
            opened.notes.insert(0, format!("{name} did not exist"));
            return Ok(opened);
        };
        if link.mac.is_none() {
            return self.tun(DevBackend::Tun, netdev);
        }
        let lost = match self.xdp(netdev) {
            Ok(opened) => return Ok(opened),
            Err(why) => format!("af_xdp does not work here, so packets are copied twice: {why}"),
        };
        let netdev = Netdev::open().map_err(|e| e.to_string())?;
        let mut opened = self.packet(netdev).map_err(|why| {
            format!("{name} can be had neither by af_xdp nor by af_packet: {lost}; {why}")
        })?;
        opened.notes.insert(0, lost);
        Ok(opened)
    }

    /// Brings the interface up, if it is not.
    fn set_up(&mut self, link: &Link) -> Result<Vec<String>, String> {
        let name = &link.name;
        let done = self.changes.make_if(!link.up, &Change::LinkUp { ifname: name.clone() })?;
        Ok(if done {
            vec![format!("{name} was down, and is up while this runs")]
        } else {
            Vec::new()
        })
    }

    /// Brings a TAP or TUN up with its MTU. One that we made goes with us, and needs no journal.
    fn set_up_tun(
        &mut self,
        netdev: &mut Netdev,
        name: &str,
        existed: bool,
    ) -> Result<Link, String> {
        let ifname = name.to_owned();
        let link = netdev.link(name).map_err(|e| e.to_string())?;
        let mtu = self.device.mtu.filter(|m| *m != link.mtu);
        // The receive ring of a TUN is the transmit queue of the kernel's end.
        let pkts = self.config.ring("ring.rx");
        if existed {
            if let Some(mtu) = mtu {
                self.changes.make(&Change::Mtu { ifname: ifname.clone(), mtu })?;
            }
            if let Some(pkts) = pkts {
                self.changes.make(&Change::TxQueueLen { ifname: ifname.clone(), pkts })?;
            }
            self.changes.make_if(!link.up, &Change::LinkUp { ifname })?;
        } else {
            let made = match mtu {
                Some(mtu) => netdev.set_mtu(link.index, mtu),
                None => Ok(()),
            };
            let sized = match pkts {
                Some(pkts) => made.and_then(|()| netdev.set_txqueuelen(link.index, pkts)),
                None => made,
            };
            sized.and_then(|()| netdev.set_up(link.index, true)).map_err(|e| e.to_string())?;
        }
        netdev.link(name).map_err(|e| e.to_string())
    }

    /// Rings as the knobs say; of AF_XDP they are powers of two.
    fn size_xdp(&self, config: &mut xdp::Config, notes: &mut Vec<String>) {
        let mut size = |path: &str, ring: &mut u32| {
            let Some(wanted) = self.config.ring(path) else { return };
            *ring = wanted.clamp(64, 32768).next_power_of_two();
            if *ring != wanted {
                notes.push(format!(
                    "{path} = {wanted}: a ring of AF_XDP holds a power of two from 64 to 32768 \
                     packets, and has {ring} now"
                ));
            }
        };
        size("ring.rx", &mut config.rx_ring);
        size("ring.tx", &mut config.tx_ring);
        config.frames = config.frames.max(2 * (config.rx_ring + config.tx_ring));
    }

    /// The interface, which this backend does not make.
    fn existing(&self, netdev: &mut Netdev) -> Result<Link, String> {
        let name = &self.device.name;
        netdev.link(name).map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => no_device(name),
            _ if !std::path::Path::new("/sys/class/net").join(name).exists() => no_device(name),
            _ => e.to_string(),
        })
    }

    fn xdp(&mut self, mut netdev: Netdev) -> Result<Opened, String> {
        let link = self.existing(&mut netdev)?;
        let mut notes = self.set_up(&link)?;
        let filter = filter(&mut netdev, self.config, self.device)?;
        if let (Some(_), Some((addr, _))) = (&filter.services, self.device.addrs.first()) {
            let addr = addr.addr;
            notes.push(format!(
                "the kernel has {addr}, too: it goes on to answer for it, and only the ports of the \
                 services are taken"
            ));
        }
        // All of them: what came in by a queue that nobody serves would go to the kernel.
        let has = netdev.info(&link.name).map_or(1, |info| info.rx_queues);
        if has < self.config.queues as u32 {
            return Err(format!(
                "{} has {has} receive queues, and {} were asked for: ask for as many as it has, or \
                 give it more (`ethtool -L {0} combined {1}`)",
                link.name, self.config.queues
            ));
        }
        let queues = 0..has;
        let mut config = xdp::Config { queues, filter, ..xdp::Config::new(&link.name) };
        self.size_xdp(&mut config, &mut notes);
        let mut opened = xdp::open(&config).map_err(|e| e.to_string())?;
        notes.append(&mut opened.notes);
        Ok(Opened {
            name: link.name,
            backend: DevBackend::AfXdp,
            notes,
            queues: opened.queues.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect(),
            made: false,
            mtu: link.mtu,
            opened_mtu: link.mtu,
            heard_mtu: link.mtu,
            more: More::Xdp(vec![opened.more]),
        })
    }

    /// Rings of packet sockets, one for each queue; our table distributes over them.
    fn packet(&mut self, mut netdev: Netdev) -> Result<Opened, String> {
        let link = self.existing(&mut netdev)?;
        let mut notes = self.set_up(&link)?;
        notes.extend(ignore(&mut netdev, &link.name, &addrs(self.device), self.changes)?);
        let queues = self.config.queues;
        let rss = Rss::new(netdev_rss_key(self.seed), &Knobs::default(), queues);
        let config =
            ring::Config { queues, fanout: Fanout::Rss(rss), ..ring::Config::new(&link.name) };
        let config = match self.config.ring("ring.rx") {
            // Blocks of frames of any length: as many as hold so many of the common one.
            Some(pkts) => {
                let bytes = u64::from(pkts) * 2048;
                let blocks = bytes.div_ceil(u64::from(config.block_bytes)).clamp(2, 4096) as u32;
                ring::Config { blocks, ..config }
            }
            None => config,
        };
        let mut opened = ring::open(config).map_err(|e| e.to_string())?;
        notes.append(&mut opened.notes);
        Ok(Opened {
            name: link.name,
            backend: DevBackend::AfPacket,
            notes,
            queues: opened.queues.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect(),
            made: false,
            mtu: link.mtu,
            opened_mtu: link.mtu,
            heard_mtu: link.mtu,
            more: More::Packet(Box::new(opened.group)),
        })
    }

    fn tun(&mut self, backend: DevBackend, mut netdev: Netdev) -> Result<Opened, String> {
        let layer = if backend == DevBackend::Tap { Layer::Ethernet } else { Layer::Ip };
        let wanted = &self.device.name;
        let existed = netdev.link(wanted).is_ok();
        let config = tun::Config { layer, multi_queue: true, ..tun::Config::new(wanted) };
        let several = tun::Tun::open(&config).and_then(|mut twin| {
            let detached = twin.set_attached(false);
            Ok((tun::open_queues(&config, self.config.queues)?, detached.is_ok().then_some(twin)))
        });
        let (mut queues, twin) = match several {
            // Somebody has made it, for one queue.
            Err(e)
                if e.errno() == Some(rustix::io::Errno::INVAL.raw_os_error())
                    && self.config.queues == 1 =>
            {
                let single = tun::Config { multi_queue: false, ..config };
                (tun::open_queues(&single, 1).map_err(|e| e.to_string())?, None)
            }
            several => several.map_err(|e| e.to_string())?,
        };
        let mut twins: Vec<tun::Tun> = twin.into_iter().collect();
        let name = queues.first().map_or(wanted.as_str(), |q| q.name()).to_owned();
        let link = self.set_up_tun(&mut netdev, &name, existed)?;
        let mac = (layer == Layer::Ethernet).then(|| own_mac(&name));
        queues.iter_mut().chain(&mut twins).for_each(|q| q.set_link(link.mtu, mac));
        let losses = Losses::new(netdev, link.index).map_err(|e| e.to_string())?;
        if let Some(first) = queues.first_mut() {
            first.set_losses(losses);
        }
        let mut notes = Vec::new();
        if !existed {
            notes.push(format!(
                "{name} was made and goes with this process; the kernel's end of it has no address \
                 yet: `ip addr add ADDR/LEN dev {name}`"
            ));
        }
        Ok(Opened {
            name,
            backend,
            notes,
            queues: queues.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect(),
            made: !existed,
            mtu: link.mtu,
            opened_mtu: link.mtu,
            heard_mtu: link.mtu,
            more: More::Tun(twins),
        })
    }
}

fn no_device(name: &str) -> String {
    format!("{name}: there is no such interface: make it, or use --backend tap, which makes one")
}

/// The addresses of a device.
fn addrs(device: &config::Device) -> Vec<IpAddr> {
    device.addrs.iter().map(|(a, _)| a.addr).collect()
}

/// What is ours: all that is sent to our addresses; where one is the kernel's as well, the ports of
/// the services only.
fn filter(netdev: &mut Netdev, config: &Config, device: &config::Device) -> Result<Filter, String> {
    let mut filter = Filter::addrs(addrs(device));
    let mut shared = false;
    for addr in &filter.addrs {
        shared |= netdev.is_local(*addr).map_err(|e| e.to_string())?;
    }
    if shared {
        let each = config.services.iter().flat_map(|s| {
            let (_, udp) = s.kind.transports();
            let udp = udp.then_some(xdp::Service::Udp(s.port));
            std::iter::once(xdp::Service::Tcp(s.port)).chain(udp)
        });
        filter.services = Some(each.collect());
        filter.neighbours = false;
    }
    Ok(filter)
}

/// Has the kernel ignore what is for our addresses, where it would do something with it: a packet
/// socket only taps. Of an address of its own it can not be deprived so.
fn ignore(
    netdev: &mut Netdev,
    name: &str,
    addrs: &[IpAddr],
    changes: &mut Changes,
) -> Result<Option<String>, String> {
    let mut forwarded = Vec::new();
    for addr in addrs {
        match netdev.exposure(name, *addr).map_err(|e| e.to_string())? {
            Exposure::Foreign => {}
            Exposure::Forwarded => forwarded.push(*addr),
            Exposure::Local => {
                return Err(format!(
                    "the kernel has {addr} and would answer for it as well, because a packet socket \
                     only taps: take it away (`ip addr del {addr} dev {name}`), or use --backend \
                     af_xdp"
                ));
            }
        }
    }
    let some = !forwarded.is_empty();
    let changed = changes.ignore(name, forwarded)?;
    Ok((changed && some).then(|| {
        format!(
            "the kernel forwards by {name}: a filter at its ingress keeps it from forwarding what \
             is ours"
        )
    }))
}

/// Our Ethernet address on a TAP: the kernel's end has its own. It stays the same from start to
/// start, so that neighbours need not learn it anew, and differs between machines.
fn own_mac(name: &str) -> [u8; 6] {
    let machine = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    // FNV-1a, 64 bits.
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in machine.bytes().chain(name.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    }
    let [a, b, c, d, e, ..] = hash.to_be_bytes();
    // Locally administered, unicast.
    [2, a, b, c, d, e]
}
