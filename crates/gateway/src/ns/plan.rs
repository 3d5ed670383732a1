//! What the caller wants: program, user, device, addresses; and how the helpers are told of it.

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use std::ffi::OsString;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::str::FromStr;

/// What this process was started with, to be given back to the program: take it first thing in
/// `main`, before anything changes the signal mask or a limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inherited {
    /// Bit `n - 1` is signal `n`, for the standard signals 1 to 31.
    pub(super) mask: u32,
    /// `RLIMIT_NOFILE`, soft and hard.
    pub(super) nofile: (u64, u64),
}

impl Inherited {
    /// Reads the signal mask and `RLIMIT_NOFILE` of the calling thread.
    ///
    /// # Errors
    /// Those of `sigprocmask` and `getrlimit`; none are expected.
    pub fn capture() -> std::io::Result<Inherited> {
        let mut set = SigSet::empty();
        sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut set))?;
        let mask = Signal::iterator()
            .filter(|&signal| set.contains(signal))
            .fold(0, |mask, signal| mask | 1 << (signal as u32 - 1));
        Ok(Inherited { mask, nofile: getrlimit(Resource::RLIMIT_NOFILE)? })
    }

    /// The mask as a set.
    pub(super) fn sigset(&self) -> SigSet {
        Signal::iterator().filter(|&s| self.mask & (1 << (s as u32 - 1)) != 0).collect()
    }
}

/// Which device carries the packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Backend {
    /// A TUN where `/dev/net/tun` can be opened, otherwise [`Backend::Packet`].
    #[default]
    Auto,
    /// A TUN with `IFF_VNET_HDR`.
    Tun,
    /// A veth pair with an `AF_PACKET` socket on our end.
    Packet,
}

/// Which user the program is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserMode {
    /// Root stays root without a user namespace. Anyone else gets a user namespace in which their
    /// own uid and gid are the only ones, so that changing user fails inside.
    #[default]
    Own,
    /// A user namespace with uid 0 inside for the caller's uid, and 1 and up for the ranges that
    /// `/etc/subuid` and `/etc/subgid` grant: for programs that drop privileges.
    SubIds,
}

/// One address family's part of the plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Net<A> {
    /// The program's address.
    pub address: A,
    /// Length of the on-link prefix, in bits.
    pub prefix: u8,
    /// Next hop of the default route; `None` for no default route.
    pub gateway: Option<A>,
}

/// Everything [`spawn`](super::spawn) needs to know.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The program and its arguments; the program is looked up in `PATH`.
    pub program: Vec<OsString>,
    /// The program's whole environment; `None` for ours.
    pub env: Option<Vec<(OsString, OsString)>>,
    /// Which user the program is.
    pub user: UserMode,
    /// Which device carries the packets.
    pub backend: Backend,
    /// The clone device to open.
    pub tun_path: PathBuf,
    /// Name of the interface inside, 1 to 15 bytes.
    pub device: String,
    /// MTU of the interface, in bytes.
    pub mtu: u32,
    /// Packets that the receive ring of a TUN holds, 1 to 65536: the interface's transmit queue
    /// length, which cannot be changed later. Without effect on a veth pair.
    pub ring_rx: u32,
    /// IPv4: by default 10.0.2.100/24 with gateway 10.0.2.2.
    pub v4: Net<Ipv4Addr>,
    /// IPv6: by default fd00::100/64 with gateway fd00::2. `None` turns IPv6 off inside.
    pub v6: Option<Net<Ipv6Addr>>,
    /// Contents of `/etc/resolv.conf` inside.
    pub resolv_conf: String,
    /// Host name inside, in a UTS namespace of its own; `None` keeps the host's.
    pub hostname: Option<String>,
    /// Put the program into a PID namespace. `spawn` falls back to a subreaper by itself where the
    /// kernel refuses the mount of `/proc` that goes with it.
    pub pid_namespace: bool,
    /// What to give back to the program.
    pub inherited: Inherited,
}

impl Plan {
    /// A plan with the defaults: the addresses of `slirp4netns`, MTU 1500, device `lr0`.
    #[must_use]
    pub fn new(program: Vec<OsString>, inherited: Inherited) -> Plan {
        Plan {
            program,
            env: None,
            user: UserMode::default(),
            backend: Backend::default(),
            tun_path: PathBuf::from("/dev/net/tun"),
            device: "lr0".into(),
            mtu: 1500,
            ring_rx: 1024,
            v4: Net {
                address: Ipv4Addr::new(10, 0, 2, 100),
                prefix: 24,
                gateway: Some(Ipv4Addr::new(10, 0, 2, 2)),
            },
            v6: Some(Net {
                address: Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100),
                prefix: 64,
                gateway: Some(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 2)),
            }),
            resolv_conf: "nameserver 10.0.2.3\n".into(),
            hostname: None,
            pid_namespace: true,
            inherited,
        }
    }
}

/// How the ids inside relate to those outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum IdMap {
    /// No user namespace.
    Host,
    /// Own id to own id, nothing else.
    Own { uid: u32, gid: u32 },
    /// The parent writes the maps with `newuidmap`; this many ids from 0 are mapped.
    Sub { ids: u32 },
}

/// The plan as the helpers get it: without the program, which travels in their arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Config {
    pub ids: IdMap,
    pub pid_namespace: bool,
    pub backend: Backend,
    pub tun_path: String,
    pub device: String,
    pub mtu: u32,
    pub ring_rx: u32,
    pub v4: Net<Ipv4Addr>,
    pub v6: Option<Net<Ipv6Addr>>,
    pub resolv_conf: String,
    pub hostname: Option<String>,
    pub inherited: Inherited,
}

impl Config {
    /// The fields of the `config` message.
    pub fn encode(&self) -> Vec<String> {
        let ids = match self.ids {
            IdMap::Host => "host".into(),
            IdMap::Own { uid, gid } => format!("own {uid} {gid}"),
            IdMap::Sub { ids } => format!("sub {ids}"),
        };
        let backend = match self.backend {
            Backend::Auto => "auto",
            Backend::Tun => "tun",
            Backend::Packet => "packet",
        };
        let Inherited { mask, nofile: (soft, hard) } = self.inherited;
        vec![
            ids,
            self.pid_namespace.to_string(),
            backend.into(),
            self.tun_path.clone(),
            self.device.clone(),
            self.mtu.to_string(),
            self.ring_rx.to_string(),
            encode_net(&self.v4),
            self.v6.as_ref().map_or(String::new(), encode_net),
            self.resolv_conf.clone(),
            self.hostname.clone().unwrap_or_default(),
            format!("{mask} {soft} {hard}"),
        ]
    }

    /// The reverse of [`Config::encode`]; `None` if a field does not fit.
    pub fn decode(fields: &[String]) -> Option<Config> {
        let [ids, pid, backend, tun_path, device, mtu, ring_rx, v4, v6, rest @ ..] = fields else {
            return None;
        };
        let [resolv, hostname, inherited] = rest else { return None };
        let words: Vec<&str> = ids.split(' ').collect();
        let ids = match words[..] {
            ["host"] => IdMap::Host,
            ["own", uid, gid] => IdMap::Own { uid: uid.parse().ok()?, gid: gid.parse().ok()? },
            ["sub", ids] => IdMap::Sub { ids: ids.parse().ok()? },
            _ => return None,
        };
        let backend = match backend.as_str() {
            "auto" => Backend::Auto,
            "tun" => Backend::Tun,
            "packet" => Backend::Packet,
            _ => return None,
        };
        let words: Vec<&str> = inherited.split(' ').collect();
        let [mask, soft, hard] = words[..] else { return None };
        Some(Config {
            ids,
            pid_namespace: pid.parse().ok()?,
            backend,
            tun_path: tun_path.clone(),
            device: device.clone(),
            mtu: mtu.parse().ok()?,
            ring_rx: ring_rx.parse().ok()?,
            v4: decode_net(v4)?,
            v6: if v6.is_empty() { None } else { Some(decode_net(v6)?) },
            resolv_conf: resolv.clone(),
            hostname: (!hostname.is_empty()).then(|| hostname.clone()),
            inherited: Inherited {
                mask: mask.parse().ok()?,
                nofile: (soft.parse().ok()?, hard.parse().ok()?),
            },
        })
    }
}

fn encode_net<A: ToString>(net: &Net<A>) -> String {
    let gateway = net.gateway.as_ref().map_or(String::from("-"), A::to_string);
    format!("{} {} {gateway}", net.address.to_string(), net.prefix)
}

fn decode_net<A: FromStr>(text: &str) -> Option<Net<A>> {
    let words: Vec<&str> = text.split(' ').collect();
    let [address, prefix, gateway] = words[..] else { return None };
    Some(Net {
        address: address.parse().ok()?,
        prefix: prefix.parse().ok()?,
        gateway: if gateway == "-" { None } else { Some(gateway.parse().ok()?) },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_config_survives_its_journey() {
        let plan = Plan::new(vec!["true".into()], Inherited::capture().unwrap());
        for ids in [IdMap::Host, IdMap::Own { uid: 7, gid: 8 }, IdMap::Sub { ids: 65537 }] {
            for (v6, hostname) in [(plan.v6, None), (None, Some("box".to_string()))] {
                let config = Config {
                    ids,
                    pid_namespace: false,
                    backend: Backend::Packet,
                    tun_path: "/dev/net/tun".into(),
                    device: plan.device.clone(),
                    mtu: 1500,
                    ring_rx: 77,
                    v4: Net { gateway: None, ..plan.v4 },
                    v6,
                    resolv_conf: plan.resolv_conf.clone(),
                    hostname,
                    inherited: Inherited { mask: 5, nofile: (1024, u64::MAX) },
                };
                assert_eq!(Config::decode(&config.encode()), Some(config.clone()));
                let mut short = config.encode();
                short.pop();
                assert_eq!(Config::decode(&short), None);
            }
        }
    }
}
