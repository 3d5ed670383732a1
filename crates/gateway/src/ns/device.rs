//! The device inside: a TUN, or a veth pair whose far end is read with a packet socket.

use super::plan::{Backend, Config, Net};
use super::refused::{Refused, Step, no_device, no_tun};
use linerate_dev::netdev::{Netdev, NetdevError, PeerNetns, Route};
use linerate_dev::sys::{packet, tun};
use nix::sched::{CloneFlags, setns, unshare};
use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

/// Name of our end of the veth pair, in a namespace that holds nothing else.
const FAR_END: &str = "far0";

/// How long to wait between two looks at the carrier, and how often.
const CARRIER_WAIT: Duration = Duration::from_millis(2);
const CARRIER_TRIES_MAX: usize = 500;

/// A device, made and configured, in the words of the `device` message.
#[derive(Debug)]
pub(super) struct Made {
    pub fd: OwnedFd,
    pub backend: Backend,
    /// Index and Ethernet address of the program's interface.
    pub near: (u32, Option<[u8; 6]>),
    /// The same of our end of the veth pair; index 0 for a TUN.
    pub far: (u32, Option<[u8; 6]>),
    pub notes: Vec<String>,
}

impl Made {
    pub fn describe(&self) -> Vec<String> {
        let backend = if self.backend == Backend::Tun { "tun" } else { "packet" };
        vec![
            backend.into(),
            self.near.0.to_string(),
            self.near.1.map_or(String::new(), encode_mac),
            self.far.0.to_string(),
            self.far.1.map_or(String::new(), encode_mac),
            self.notes.join("\n"),
        ]
    }

    /// The reverse, with the descriptor that came along.
    pub fn decode(fields: &[String], fd: OwnedFd) -> Option<Made> {
        let [backend, near, near_mac, far, far_mac, notes] = fields else { return None };
        Some(Made {
            fd,
            backend: if backend == "tun" { Backend::Tun } else { Backend::Packet },
            near: (near.parse().ok()?, decode_mac(near_mac)),
            far: (far.parse().ok()?, decode_mac(far_mac)),
            notes: notes.lines().map(str::to_owned).collect(),
        })
    }
}

fn encode_mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

fn decode_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16)).collect::<Result<_, _>>().ok()?;
    bytes.try_into().ok()
}

/// Makes the device that the plan asks for and configures the program's side of it. The socket
/// that did so comes along: it lies in the program's namespace.
pub(super) fn make(config: &Config) -> Result<(Made, Netdev), Refused> {
    let mut made = match config.backend {
        Backend::Tun => make_tun(config).map_err(|why| Refused::new(Step::Device, no_tun(&why)))?,
        Backend::Packet => make_veth(config).map_err(|why| Refused::new(Step::Device, why))?,
        Backend::Auto => match make_tun(config) {
            Ok(made) => made,
            Err(tun) => {
                let mut made = make_veth(config)
                    .map_err(|veth| Refused::new(Step::Device, no_device(&tun, &veth)))?;
                made.notes.push(format!(
                    "{tun}: a veth pair with a packet socket carries the packets instead"
                ));
                made
            }
        },
    };
    let netdev = configure(config, &mut made)?;
    Ok((made, netdev))
}

/// Opens the clone device and makes the interface; the sentence says what was missing.
fn make_tun(config: &Config) -> Result<Made, String> {
    let path = &config.tun_path;
    let why = |doing: &str, err: io::Error| format!("{doing} ({err})");
    let fd = tun::open(Path::new(path)).map_err(|err| match err.kind() {
        io::ErrorKind::NotFound => format!("there is no {path}"),
        io::ErrorKind::PermissionDenied => format!("{path} may not be opened"),
        _ => why(&format!("cannot open {path}"), err),
    })?;
    let flags = tun::IffFlags { vnet_hdr: true, ..tun::IffFlags::default() };
    tun::set_iff(&fd, &config.device, flags)
        .map_err(|err| why(&format!("cannot make a TUN interface with {path}"), err))?;
    Ok(Made { fd, backend: Backend::Tun, near: (0, None), far: (0, None), notes: Vec::new() })
}

/// Makes the pair: the program's end here, ours in a second namespace that lives as long as the
/// packet socket does. There our end has no address, so that the kernel answers nothing on it.
fn make_veth(config: &Config) -> Result<Made, String> {
    let here = File::open("/proc/self/ns/net").map_err(|err| err.to_string())?;
    unshare(CloneFlags::CLONE_NEWNET).map_err(|err| format!("a second namespace: {err}"))?;
    let made = make_far_end(config, &here);
    setns(&here, CloneFlags::CLONE_NEWNET).map_err(|err| format!("the way back: {err}"))?;
    made
}

fn make_far_end(config: &Config, near: &File) -> Result<Made, String> {
    let text = |err: NetdevError| err.to_string();
    let fd = packet::open().map_err(|err| format!("a packet socket: {err}"))?;
    let mut netdev = Netdev::open().map_err(text)?;
    netdev.add_veth(FAR_END, &config.device, PeerNetns::Fd(near.as_fd())).map_err(text)?;
    let link = netdev.link(FAR_END).map_err(text)?;
    // Either fails only where there is no IPv6, and then there is nothing to keep quiet.
    let _ = netdev.set_addr_gen_none(link.index);
    let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{FAR_END}/disable_ipv6"), "1");
    netdev.set_mtu(link.index, config.mtu).map_err(text)?;
    netdev.set_up(link.index, true).map_err(text)?;
    Ok(Made {
        fd,
        backend: Backend::Packet,
        near: (0, None),
        far: (link.index, link.mac),
        notes: Vec::new(),
    })
}

/// Gives the program's interface its MTU, addresses and routes, and brings it and `lo` up.
fn configure(config: &Config, made: &mut Made) -> Result<Netdev, Refused> {
    let refused = |err: NetdevError| Refused::new(Step::Network, err.to_string());
    let mut netdev = Netdev::open().map_err(refused)?;
    let lo = netdev.link("lo").map_err(refused)?;
    let link = netdev.link(&config.device).map_err(refused)?;
    made.near = (link.index, link.mac);
    quiet_ipv6(&config.device, config.v6.is_some());
    netdev.set_up(lo.index, true).map_err(refused)?;
    netdev.set_mtu(link.index, config.mtu).map_err(refused)?;
    if made.backend == Backend::Tun {
        netdev.set_txqueuelen(link.index, config.ring_rx).map_err(refused)?;
    }
    // Only our address, not a link-local one with its solicitations beside it. It fails only where
    // there is no IPv6.
    let _ = netdev.set_addr_gen_none(link.index);
    netdev.set_up(link.index, true).map_err(refused)?;
    wait_until_running(&mut netdev, link.index).map_err(refused)?;
    add_net(&mut netdev, link.index, &config.v4, Ipv4Addr::UNSPECIFIED).map_err(refused)?;
    if let Some(v6) = &config.v6
        && let Err(err) = add_net(&mut netdev, link.index, v6, Ipv6Addr::UNSPECIFIED)
    {
        made.notes.push(format!("no IPv6 inside: {err}"));
    }
    Ok(netdev)
}

/// The kernel notices the carrier of a new interface a little later, and until then drops what is
/// sent on it: a program that starts at once would lose its first packet. Gives up silently, because
/// nothing but that is lost.
fn wait_until_running(netdev: &mut Netdev, index: u32) -> Result<(), NetdevError> {
    for _ in 0..CARRIER_TRIES_MAX {
        if netdev.link_by_index(index)?.running {
            break;
        }
        std::thread::sleep(CARRIER_WAIT);
    }
    Ok(())
}

/// Adds the address and, where there is a gateway, the default route.
fn add_net<A: Copy + Into<IpAddr>>(
    netdev: &mut Netdev,
    index: u32,
    net: &Net<A>,
    unspecified: A,
) -> Result<(), NetdevError> {
    netdev.add_addr(index, net.address.into(), net.prefix)?;
    let Some(gateway) = net.gateway else { return Ok(()) };
    netdev.add_route(&Route {
        via: Some(gateway.into()),
        dev: Some(index),
        ..Route::to(unspecified.into(), 0)
    })
}

/// Sets what the interface may do by itself in IPv6. A kernel without IPv6, or a read-only
/// `/proc/sys`, refuses: then adding the address says so, or nothing is lost.
fn quiet_ipv6(device: &str, wanted: bool) {
    let off = if wanted { "0" } else { "1" };
    for (knob, value) in
        [("accept_ra", "0"), ("autoconf", "0"), ("accept_dad", "0"), ("disable_ipv6", off)]
    {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{device}/{knob}"), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_described_and_understood() {
        let mac = [2, 0, 0, 0xab, 0xcd, 0xef];
        let made = Made {
            fd: File::open("/dev/null").unwrap().into(),
            backend: Backend::Packet,
            near: (2, Some(mac)),
            far: (3, None),
            notes: vec!["one".into(), "two".into()],
        };
        let fd = File::open("/dev/null").unwrap().into();
        let got = Made::decode(&made.describe(), fd).unwrap();
        assert_eq!((got.backend, got.near, got.far), (Backend::Packet, (2, Some(mac)), (3, None)));
        assert_eq!(got.notes, made.notes);
    }
}
