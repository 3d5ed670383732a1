//! `linerate run`: a program whose whole network is linerate.

mod host;
mod instance;
mod pcap;

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;

use linerate_gateway::config::{Config, Family, Forward, Transport};
use linerate_gateway::control::default_name;
use linerate_gateway::ns::{self, Inherited, Plan, UserMode};
use linerate_gateway::policy::KernelRoutes;
use rustix::thread::{CapabilitySet, CapabilitySets};

pub use instance::{Instance, Setup, StartError};

use crate::args::{Backend, Cidr, Publish, Report, RunArgs};
use crate::report;

/// Exit status when linerate itself failed, as `env` and `docker run` have it; 126 and 127 come from
/// the namespace, whose last step is to execute the program.
const FAILED: u8 = 125;

/// Runs the program and exits with its status.
pub fn main(args: RunArgs) -> ExitCode {
    let said = args.report;
    match run(args) {
        Ok((mut instance, exit)) => {
            instance.end();
            match said {
                Report::None => {}
                Report::Text => {
                    let style = report::Style::of(&io::stderr());
                    eprint!("{}", report::path(&instance.snapshot(), style));
                }
                Report::Json => match serde_json::to_string(&instance.snapshot()) {
                    Ok(text) => eprintln!("{text}"),
                    Err(e) => eprintln!("linerate: the report cannot be written: {e}"),
                },
            }
            ExitCode::from(exit.code())
        }
        Err(why) => {
            eprintln!("linerate: {why}");
            ExitCode::from(FAILED)
        }
    }
}

fn run(args: RunArgs) -> Result<(Instance, ns::Exit), String> {
    let inherited =
        Inherited::capture().map_err(|e| format!("cannot read the signal mask: {e}"))?;
    let setup = setup(args, inherited)?;
    let mut instance = Instance::start(setup).map_err(|e| e.to_string())?;
    match instance.run() {
        Ok(exit) => Ok((instance, exit)),
        Err(e) => {
            instance.end();
            Err(format!("the device or the loop failed, and the program was ended: {e}"))
        }
    }
}

/// What the options ask for.
fn setup(args: RunArgs, inherited: Inherited) -> Result<Setup, String> {
    let v4 = family4(args.net4)?;
    let v6 = if args.no_ipv6 { None } else { Some(family6(args.net6)?) };
    let program = args.program.first().map(|p| p.to_string_lossy().into_owned());
    let shaped = args.qdisc.is_some() || args.qdisc_in.is_some();
    let gateway = Config {
        v4,
        v6,
        mtu: args.mtu.unwrap_or(if shaped { 1500 } else { 65520 }),
        host_loopback: args.host_loopback,
        forwards: args.publish.iter().map(forward).collect(),
        resolvers: args.dns,
        ..Config::default()
    };
    let plan = Plan {
        user: if args.subuid { UserMode::SubIds } else { UserMode::Own },
        backend: match args.backend {
            Backend::Auto => ns::Backend::Auto,
            Backend::Tun => ns::Backend::Tun,
            Backend::Packet => ns::Backend::Packet,
        },
        ..plan(args.program, inherited, &gateway)
    };
    Ok(Setup {
        plan,
        gateway,
        settings: args.set,
        qdiscs: (args.qdisc, args.qdisc_in),
        xdp: args.xdp,
        name_wanted: args.name.is_some(),
        name: args.name.unwrap_or_else(|| default_name(program.as_deref().unwrap_or_default())),
        pcap: args.pcap,
    })
}

/// A namespace whose addresses are those of the gateway.
pub fn plan(program: Vec<OsString>, inherited: Inherited, gateway: &Config) -> Plan {
    let Family { program: address, gateway: via, prefix, dns } = gateway.v4;
    let mut resolv_conf = format!("nameserver {dns}\n");
    // Names without a dot mean inside what they mean outside.
    for line in fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines() {
        if line.starts_with("search ") || line.starts_with("options ") {
            resolv_conf.push_str(line);
            resolv_conf.push('\n');
        }
    }
    let v6 = gateway.v6.map(|v6| ns::Net {
        address: v6.program,
        prefix: v6.prefix,
        gateway: has_ipv6(gateway).then_some(v6.gateway),
    });
    Plan {
        mtu: gateway.mtu,
        v4: ns::Net { address, prefix, gateway: Some(via) },
        v6,
        resolv_conf,
        ..Plan::new(program, inherited)
    }
}

/// Whether a way out exists for IPv6. Without one the program gets no default route either, so that
/// it learns at once what it would otherwise wait for.
fn has_ipv6(gateway: &Config) -> bool {
    // Any global address will do: 2000::/3 is where they all are (RFC 4291 §2.4).
    let global = Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1);
    let routed = |mut routes: KernelRoutes| routes.reachable(global.into());
    gateway.host_loopback || KernelRoutes::open().and_then(routed).unwrap_or(true)
}

fn family4(net: Cidr) -> Result<Family<Ipv4Addr>, String> {
    let IpAddr::V4(base) = net.addr else { return Err(format!("{net} is no IPv4 network")) };
    let at = |n: u32| Ipv4Addr::from_bits(base.to_bits() | n);
    Ok(Family { program: at(100), gateway: at(2), dns: at(3), prefix: net.len })
}

fn family6(net: Cidr) -> Result<Family<Ipv6Addr>, String> {
    let IpAddr::V6(base) = net.addr else { return Err(format!("{net} is no IPv6 network")) };
    let at = |n: u128| Ipv6Addr::from_bits(base.to_bits() | n);
    Ok(Family { program: at(0x100), gateway: at(2), dns: at(3), prefix: net.len })
}

/// Without an address a port is opened on 127.0.0.1: whoever wants to be reached from elsewhere
/// says so.
fn forward(publish: &Publish) -> Forward {
    let addr = publish.addr.unwrap_or(Ipv4Addr::LOCALHOST.into());
    Forward {
        listen: SocketAddr::new(addr, publish.host_port),
        port: publish.port,
        transport: if publish.udp { Transport::Udp } else { Transport::Tcp },
    }
}

/// Gives up what the loop does not need: it executes nothing any more, and what takes root's
/// capabilities is open by now, raw sockets and low ports included.
fn harden() -> io::Result<()> {
    rustix::thread::set_no_new_privs(true)?;
    let held = rustix::thread::capabilities(None)?;
    if held.effective.contains(CapabilitySet::SETPCAP) {
        // One bit at a time; those that this kernel does not know are of no use to anybody.
        for bit in 0..u64::BITS {
            let one = CapabilitySet::from_bits_retain(1 << bit);
            if rustix::thread::capability_is_in_bounding_set(one).unwrap_or(false) {
                rustix::thread::remove_capability_from_bounding_set(one)?;
            }
        }
    }
    rustix::thread::clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    Ok(rustix::thread::set_capabilities(None, sets)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_addresses_are_those_that_the_help_names() {
        let v4 = family4("10.0.2.0/24".parse().expect("a network")).expect("IPv4");
        assert_eq!(v4, Family::<Ipv4Addr>::DEFAULT);
        let v6 = family6("fd00::/64".parse().expect("a network")).expect("IPv6");
        assert_eq!(v6, Family::<Ipv6Addr>::DEFAULT);
        assert!(family4("fd00::/64".parse().expect("a network")).is_err());
    }

    #[test]
    fn a_port_is_not_opened_to_the_world_by_itself() {
        let publish: Publish = "8080:80/udp".parse().expect("a forward");
        let forward = forward(&publish);
        assert_eq!(forward.listen, ([127, 0, 0, 1], 8080).into());
        assert_eq!((forward.port, forward.transport), (80, Transport::Udp));
    }
}
