//! Opens the queues of an interface by the best way that works, and says what was lost on the way.

use std::fs;
use std::io;

use linerate_dev::device::{Device, Layer};
use linerate_dev::netdev::{Link, Losses, Netdev};
use linerate_dev::packet::ring;
use linerate_dev::tun;

use super::config;
use crate::args::DevBackend;

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
    /// Opens more of them.
    more: More,
}

/// What opens further queues.
enum More {
    Tun(Box<tun::Tun>, Option<[u8; 6]>, u32),
    None(&'static str),
}

impl Opened {
    /// Opens the device with so many queues.
    ///
    /// # Errors
    /// A sentence that says what to do.
    pub fn open(device: &config::Device, queues: usize) -> Result<Opened, String> {
        let mut netdev = Netdev::open().map_err(|e| e.to_string())?;
        let link = netdev.link(&device.name).ok();
        match device.backend {
            DevBackend::Tun | DevBackend::Tap => open_tun(device, device.backend, queues, netdev),
            DevBackend::AfPacket => open_packet(existing(device, link)?, queues, netdev),
            DevBackend::AfXdp => Err("af_xdp is not there yet".to_owned()),
            DevBackend::Auto => match link {
                None => {
                    let mut opened = open_tun(device, DevBackend::Tap, queues, netdev)?;
                    let note = format!("{} did not exist: made as a tap", device.name);
                    opened.notes.insert(0, note);
                    Ok(opened)
                }
                Some(link) => open_packet(link, queues, netdev),
            },
        }
    }

    /// Opens one queue more.
    ///
    /// # Errors
    /// Those of the kernel; `Unsupported` where the number of queues is fixed.
    pub fn open_more(&mut self) -> io::Result<Box<dyn Device>> {
        match &self.more {
            More::Tun(first, mac, mtu) => {
                let mut queue = first.open_queue().map_err(io::Error::other)?;
                queue.set_link(*mtu, *mac);
                Ok(Box::new(queue))
            }
            More::None(why) => Err(io::Error::new(io::ErrorKind::Unsupported, *why)),
        }
    }
}

/// The interface, which the backend does not make.
fn existing(device: &config::Device, link: Option<Link>) -> Result<Link, String> {
    link.ok_or_else(|| {
        format!(
            "{}: there is no such interface: make it, or use --backend tap, which makes one",
            device.name
        )
    })
}

/// Rings of packet sockets, one for each queue; the kernel distributes by its hash over them.
fn open_packet(link: Link, queues: usize, mut netdev: Netdev) -> Result<Opened, String> {
    let mut notes = set_up(&mut netdev, &link)?;
    let config = ring::Config { queues, ..ring::Config::new(&link.name) };
    let mut opened = ring::open(config).map_err(|e| e.to_string())?;
    notes.append(&mut opened.notes);
    let losses = Losses::new(netdev, link.index).map_err(|e| e.to_string())?;
    if let Some(first) = opened.queues.first_mut() {
        first.set_losses(losses);
    }
    Ok(Opened {
        name: link.name,
        backend: DevBackend::AfPacket,
        notes,
        queues: opened.queues.into_iter().map(|q| Box::new(q) as Box<dyn Device>).collect(),
        more: More::None("the sockets of a packet ring share the interface from the start"),
    })
}

/// Brings the interface up, if it is not.
fn set_up(netdev: &mut Netdev, link: &Link) -> Result<Vec<String>, String> {
    if link.up {
        return Ok(Vec::new());
    }
    netdev.set_up(link.index, true).map_err(|e| e.to_string())?;
    Ok(vec![format!("{} was down and was set up", link.name)])
}

fn open_tun(
    device: &config::Device,
    backend: DevBackend,
    queues: usize,
    mut netdev: Netdev,
) -> Result<Opened, String> {
    let layer = if backend == DevBackend::Tap { Layer::Ethernet } else { Layer::Ip };
    let existed = netdev.link(&device.name).is_ok();
    let config = tun::Config { layer, multi_queue: queues > 1, ..tun::Config::new(&device.name) };
    let mut first = tun::Tun::open(&config).map_err(|e| e.to_string())?;
    let name = first.name().to_owned();
    let set_up = |netdev: &mut Netdev| {
        let link = netdev.link(&name)?;
        if let Some(mtu) = device.mtu.filter(|m| *m != link.mtu) {
            netdev.set_mtu(link.index, mtu)?;
        }
        netdev.set_up(link.index, true)?;
        netdev.link(&name)
    };
    let link = set_up(&mut netdev).map_err(|e| e.to_string())?;
    let mac = (layer == Layer::Ethernet).then(|| own_mac(&name));
    first.set_link(link.mtu, mac);
    let mut all: Vec<Box<dyn Device>> = Vec::new();
    for _ in 1..queues {
        let mut queue = first.open_queue().map_err(|e| e.to_string())?;
        queue.set_link(link.mtu, mac);
        all.push(Box::new(queue));
    }
    let losses = Losses::new(netdev, link.index).map_err(|e| e.to_string())?;
    first.set_losses(losses);
    let mut notes = Vec::new();
    if !existed {
        notes.push(format!("{name} was made, and goes with this process"));
    }
    all.insert(0, Box::new(first));
    Ok(Opened {
        name,
        backend,
        notes,
        queues: all,
        more: More::None("its number of queues was decided when it was made"),
    })
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
